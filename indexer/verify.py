"""Check every byte of an index, and mend what can be mended.

Parquet is the truth: what is derived from it is built again. A damaged fragment is recovered from what was
derived from it; only if that is damaged too are its pictures encoded again by the next `clipsearch index`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from clipsearch.errors import ClipsearchError, CorruptIndex, DimensionMismatch, IndexNotFound
from clipsearch.folding import fold
from clipsearch.indexer.compact import with_tombstones, without_rows
from clipsearch.indexer.segments import add_inverted_file, add_segment
from clipsearch.records import EmbeddingBatch, FileRef, Fragment, ImageRecord, IntArray, Manifest, ModelRef, Segment
from clipsearch.store import (
    COLLECTED_FOLDERS,
    RowsFile,
    Snapshot,
    Writer,
    find_newest_manifest,
    open_snapshot,
    read_fragment,
    read_orphan,
    read_records,
    read_tombstones,
    verify_file,
)
from clipsearch.store.columns import ColumnsBuilder, open_columns
from clipsearch.store.tags import read_tag, recover_tags, with_tags
from clipsearch.vectors import VectorSegment, VectorsFile, check_vectors

RECOVERED_ROWS = 65_536  # read at once


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `file` is relative to the index folder."""

    file: str
    message: str


@dataclass(slots=True)
class VerifyReport:
    """What was checked, and what was wrong with it."""

    index: Path
    generation: int | None = None
    files: int = 0
    bytes_read: int = 0
    pictures: int = 0
    skipped: int = 0
    problems: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)  # files of no generation: left by a crash, harmless
    orphan_bytes: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class RepairReport:
    """What a repair did. Lost rows are files that the next `clipsearch index` reads again."""

    index: Path
    generation: int
    actions: list[str] = field(default_factory=list)
    lost_rows: int = 0
    pictures: int = 0


def verify(index_dir: Path) -> VerifyReport:
    """Read and cross-check all of the current generation. Changes nothing. Raises: IndexNotFound, UnsupportedIndex."""
    report = VerifyReport(index_dir)
    try:
        snapshot = open_snapshot(index_dir)
    except CorruptIndex as error:
        report.problems.append(Problem(_relative(index_dir, error.file), error.problem))
        return report
    with snapshot:
        manifest = snapshot.manifest
        report.generation = manifest.generation
        bad = _check_files(snapshot, report)
        dead: IntArray = np.empty(0, np.int64)
        if manifest.tombstones is not None and manifest.tombstones.path not in bad:
            dead = snapshot.tombstones()
        live = Counter[bool]()
        paths: Counter[str] = Counter()
        last = -1
        for fragment in manifest.fragments:
            if fragment.first_row_id <= last or fragment.last_row_id >= manifest.next_row_id:
                report.problems.append(Problem(fragment.data.path, "its row ids overlap with others"))
            last = fragment.last_row_id
            if fragment.data.path in bad:
                continue
            try:
                for record in _check_fragment(index_dir, manifest.model.dim, fragment, bad, dead):
                    live[record.status == "ok"] += 1
                    paths[record.path] += 1
            except CorruptIndex as error:
                report.problems.append(Problem(_relative(index_dir, error.file), error.problem))
            except (ValueError, ClipsearchError) as error:
                report.problems.append(Problem(fragment.data.path, str(error)))
        report.pictures, report.skipped = live[True], live[False]
        if report.ok:
            _check_counts(manifest, dead, live, paths, report)
        _check_tags(index_dir, manifest, bad, report)
        _list_orphans(index_dir, manifest, report)
    return report


def _relative(index_dir: Path, path: Path) -> str:
    return path.relative_to(index_dir).as_posix() if path.is_relative_to(index_dir) else str(path)


def _check_files(snapshot: Snapshot, report: VerifyReport) -> set[str]:
    bad: set[str] = set()
    for ref in snapshot.manifest.files():
        report.files += 1
        report.bytes_read += ref.size_bytes
        try:
            snapshot.file(ref, afresh=True)
        except CorruptIndex as error:
            bad.add(ref.path)
            report.problems.append(Problem(ref.path, error.problem))
    return bad


def _check_fragment(
    index_dir: Path, dim: int, fragment: Fragment, bad: set[str], dead: IntArray
) -> Iterator[ImageRecord]:
    """Hold a fragment against what is derived from it; yield its live records."""
    segment = fragment.segment
    vectors = rows = None
    if segment is not None and segment.vectors.path not in bad:
        faiss_ref = segment.faiss if segment.faiss is not None and segment.faiss.path not in bad else None
        vectors = VectorSegment(
            index_dir / segment.vectors.path,
            dim,
            faiss_file=None if faiss_ref is None else index_dir / faiss_ref.path,
            ivf=segment.ivf,
        )
        vectors.load()
    if segment is not None and segment.rows.path not in bad:
        rows = RowsFile(index_dir / segment.rows.path, index_dir)
    columns = None
    if segment is not None and segment.columns is not None and segment.columns.path not in bad:
        columns = open_columns(index_dir / segment.columns.path, index_dir)
    expected = ColumnsBuilder()
    seen = 0
    last = -1
    for batch in read_fragment(index_dir, fragment, dim=dim):
        answerable = [record for record in batch.records if record.status == "ok"]
        row_ids = np.array([record.row_id for record in answerable], np.int64)
        check_vectors(row_ids, batch.vectors, dim, after=last)
        last = int(row_ids[-1]) if len(row_ids) else last
        if vectors is not None and not vectors.file.holds(seen, row_ids, batch.vectors):
            raise CorruptIndex(vectors.file.path, "its vectors are not those of its fragment")
        if rows is not None:
            for record in answerable:
                shown = rows.find(record.row_id)
                if shown != record:
                    raise CorruptIndex(rows.path, f"row {record.row_id} is not that of its fragment")
        if columns is not None:
            for record in answerable:
                expected.add(record)
        seen += len(row_ids)
        yield from without_rows(batch, dead).records
    if seen != fragment.vectors or (vectors is not None and len(vectors) != seen):
        raise CorruptIndex(index_dir / fragment.data.path, f"it has {seen} vectors, not {fragment.vectors}")
    if columns is not None and segment is not None and segment.columns is not None and columns != expected.columns():
        raise CorruptIndex(index_dir / segment.columns.path, "its columns are not those of its fragment")


def _check_counts(
    manifest: Manifest, dead: IntArray, live: Counter[bool], paths: Counter[str], report: VerifyReport
) -> None:
    name = f"manifests/{manifest.generation:08d}.json"
    if (live[True], live[False]) != (manifest.pictures, manifest.skipped):
        report.problems.append(
            Problem(
                name,
                f"it counts {manifest.pictures} pictures and {manifest.skipped} skipped files; "
                f"there are {live[True]} and {live[False]}",
            )
        )
    if len(dead) != manifest.tombstone_count:
        report.problems.append(Problem(name, f"it counts {manifest.tombstone_count} deleted rows, not {len(dead)}"))
    twice = [path for path, times in paths.items() if times > 1]
    if twice:
        report.problems.append(Problem(name, f"{len(twice)} paths have more than one row, {twice[0]!r} first"))


def _check_tags(index_dir: Path, manifest: Manifest, bad: set[str], report: VerifyReport) -> None:
    for ref in manifest.tags:
        if ref.file.path in bad:
            continue
        try:
            tag = read_tag(index_dir, ref.file)
        except CorruptIndex as error:
            report.problems.append(Problem(ref.file.path, error.problem))
            continue
        if (tag.name, tag.kind, len(tag.hashes)) != (ref.name, ref.kind, ref.pictures):
            report.problems.append(Problem(ref.file.path, f"it is not the {ref.kind} {ref.name!r}"))


def _list_orphans(index_dir: Path, manifest: Manifest, report: VerifyReport) -> None:
    kept = {ref.path for ref in manifest.files()}
    for folder in (*COLLECTED_FOLDERS, "staging"):
        for path in sorted((index_dir / folder).glob("*")):
            if f"{folder}/{path.name}" not in kept:
                report.orphans.append(f"{folder}/{path.name}")
                report.orphan_bytes += path.stat().st_size


# --- repair --------------------------------------------------------------------------------------------


def repair(index_dir: Path) -> RepairReport:
    """Mend the index from what is whole, and commit the result. Raises: IndexNotFound, IndexLocked, OutOfSpace."""
    with Writer(index_dir) as writer:
        report = RepairReport(index_dir, 0)
        try:
            manifest = writer.current()
            if manifest is None:
                raise IndexNotFound([index_dir])
        except CorruptIndex as error:
            report.actions.append(f"{_relative(index_dir, error.file)}: {error.problem}")
            manifest = _find_manifest(writer, report)
        manifest = _repair_tombstones(writer, manifest, report)
        manifest = _repair_tags(writer, manifest, report)
        fragments = [_repair_fragment(writer, fragment, manifest, report) for fragment in manifest.fragments]
        manifest = dataclasses.replace(manifest, fragments=tuple(f for f in fragments if f is not None and f.rows))
        manifest = _recount(writer, manifest, report)
        if report.actions:
            manifest = writer.commit(manifest)
        else:
            writer.collect()
        report.generation, report.pictures = manifest.generation, manifest.pictures
        return report


def _find_manifest(writer: Writer, report: RepairReport) -> Manifest:
    """The newest whole manifest whose fragments are all there; else one made from the fragments themselves."""
    manifest = find_newest_manifest(writer.index_dir)
    if manifest is not None and all((writer.index_dir / f.data.path).exists() for f in manifest.fragments):
        report.actions.append(f"took up generation {manifest.generation}, the newest that is whole")
        return manifest
    root = ".." if manifest is None else manifest.root
    return _manifest_from_fragments(writer, root, report)


def _manifest_from_fragments(writer: Writer, root: str, report: RepairReport) -> Manifest:
    rows: dict[int, tuple[ImageRecord, np.ndarray[tuple[int], np.dtype[np.float32]] | None]] = {}
    models: Counter[ModelRef] = Counter()
    contents: list[tuple[ModelRef, EmbeddingBatch]] = []
    for path in sorted((writer.index_dir / "data").glob("*.parquet")):
        if xxhash.xxh3_128_hexdigest(path.read_bytes()) == path.stem:
            model, batch = read_orphan(path)
            contents.append((model, batch))
            models[model] += len(batch.records)
    if not contents:
        raise IndexNotFound([writer.index_dir])
    model = models.most_common(1)[0][0]
    for other, batch in contents:
        if other.fingerprint == model.fingerprint:
            vectors = iter(batch.vectors)
            for record in batch.records:
                rows[record.row_id] = (record, next(vectors) if record.status == "ok" else None)
    records = [rows[row_id][0] for row_id in sorted(rows)]
    kept = [vector for _, vector in (rows[row_id] for row_id in sorted(rows)) if vector is not None]
    batch = EmbeddingBatch(records, np.stack(kept) if kept else np.empty((0, model.dim), np.float32))
    fragment = add_segment(writer, writer.add_fragment([batch], model), model.dim, lambda: [batch])
    report.actions.append(f"no manifest is whole: made one from {len(contents)} fragments with {len(records)} rows")
    manifest = Manifest(0, "", root, model, fragment.last_row_id + 1, (fragment,))
    return with_tags(manifest, recover_tags(writer.index_dir))


def _repair_tombstones(writer: Writer, manifest: Manifest, report: RepairReport) -> Manifest:
    try:
        read_tombstones(writer.index_dir, manifest)
    except CorruptIndex as error:
        report.actions.append(
            f"{_relative(writer.index_dir, error.file)}: {error.problem}; deleted rows are found again by their paths"
        )
        return with_tombstones(writer, manifest, np.empty(0, np.int64))
    return manifest


def _repair_tags(writer: Writer, manifest: Manifest, report: RepairReport) -> Manifest:
    whole = {}
    for ref in manifest.tags:
        try:
            read_tag(writer.index_dir, ref.file, afresh=True)
        except CorruptIndex as error:
            report.actions.append(
                f"{ref.file.path}: {error.problem}; the {ref.kind} {ref.name!r} is lost: give it to its pictures again"
            )
        else:
            whole[fold(ref.name)] = ref
    return manifest if len(whole) == len(manifest.tags) else with_tags(manifest, whole)


def _is_whole(index_dir: Path, manifest: Manifest, fragment: Fragment) -> bool:
    """Whether the data of a fragment can be read and every row of it makes sense."""
    try:
        verify_file(index_dir, fragment.data, afresh=True)
        for batch in read_fragment(index_dir, fragment, dim=manifest.model.dim):
            row_ids = np.array([r.row_id for r in batch.records if r.status == "ok"], np.int64)
            check_vectors(row_ids, batch.vectors, manifest.model.dim)
    except (CorruptIndex, ValueError):
        return False
    return True


def _repair_fragment(writer: Writer, fragment: Fragment, manifest: Manifest, report: RepairReport) -> Fragment | None:
    index_dir, dim, segment = writer.index_dir, manifest.model.dim, fragment.segment
    refs = [] if segment is None else segment.files()
    bad = {ref.path for ref in refs if not _is_intact(index_dir, ref)}
    if not _is_whole(index_dir, manifest, fragment):
        if segment is None or segment.vectors.path in bad or segment.rows.path in bad:
            report.lost_rows += fragment.rows
            report.actions.append(f"{fragment.data.path}: damaged beyond recovery; {fragment.rows} rows are lost")
            return None
        return _recover_fragment(writer, fragment, segment, manifest, report)
    if segment is not None and segment.faiss is not None and bad == {segment.faiss.path}:
        report.actions.append(f"{segment.faiss.path}: damaged; built again")
        return dataclasses.replace(
            fragment, segment=add_inverted_file(writer, segment, dim, recall=manifest.recall_target)
        )
    if segment is not None and segment.columns is not None and bad == {segment.columns.path}:
        report.actions.append(f"{segment.columns.path}: damaged; built again")
        columns = ColumnsBuilder()
        for batch in read_fragment(index_dir, fragment, dim=dim):
            for record in batch.records:
                if record.status == "ok":
                    columns.add(record)
        segment = dataclasses.replace(segment, columns=writer.add_columns(columns.columns()))
        return dataclasses.replace(fragment, segment=segment)
    try:
        for _ in _check_fragment(index_dir, dim, fragment, bad, np.empty(0, np.int64)):
            pass
    except CorruptIndex as error:
        report.actions.append(f"{_relative(index_dir, error.file)}: {error.problem}")
    except DimensionMismatch as error:
        report.actions.append(str(error))
    else:
        if not bad:
            return fragment
    report.actions.append(f"{', '.join(sorted(bad)) or fragment.data.path}: search files built again from Parquet")
    return add_segment(
        writer,
        fragment,
        dim,
        lambda: read_fragment(index_dir, fragment, dim=dim),
        collection_rows=manifest.pictures,
        recall=manifest.recall_target,
    )


def _recover_fragment(
    writer: Writer, fragment: Fragment, segment: Segment, manifest: Manifest, report: RepairReport
) -> Fragment:
    """Make a damaged fragment again from its segment, which has everything but the rows of skipped files."""
    vectors = VectorsFile(writer.index_dir / segment.vectors.path, manifest.model.dim)
    rows = RowsFile(writer.index_dir / segment.rows.path, writer.index_dir)
    records = [record for record in (rows.find(int(row_id)) for row_id in vectors.row_ids) if record is not None]
    stored = [block for _, block in vectors.blocks(RECOVERED_ROWS)]
    batch = EmbeddingBatch(records, np.concatenate([np.empty((0, vectors.dim), np.float32), *stored]))
    report.lost_rows += fragment.rows - len(records)
    precision = ", their vectors rounded to float16" if vectors.half else ""
    report.actions.append(
        f"{fragment.data.path}: damaged; {len(records)} rows recovered from its search files{precision}"
    )
    return add_segment(
        writer,
        writer.add_fragment([batch], manifest.model),
        vectors.dim,
        lambda: [batch],
        collection_rows=manifest.pictures,
        recall=manifest.recall_target,
    )


def _is_intact(index_dir: Path, ref: FileRef) -> bool:
    try:
        verify_file(index_dir, ref, afresh=True)
    except CorruptIndex:
        return False
    return True


def _recount(writer: Writer, manifest: Manifest, report: RepairReport) -> Manifest:
    """Count the live rows anew. Where a path has several, the newest stays: the others were deleted once."""
    newest: dict[str, ImageRecord] = {}
    dead = read_tombstones(writer.index_dir, manifest)
    doubled: list[int] = []
    for record in sorted(read_records(writer.index_dir, manifest), key=lambda record: record.row_id):
        older = newest.get(record.path)
        if older is not None:
            doubled.append(older.row_id)
        newest[record.path] = record
    if doubled:
        report.actions.append(f"{len(doubled)} rows deleted whose paths have newer ones")
        manifest = with_tombstones(writer, manifest, np.union1d(dead, np.array(doubled, np.int64)))
    pictures = sum(record.status == "ok" for record in newest.values())
    skipped = len(newest) - pictures
    if (pictures, skipped) != (manifest.pictures, manifest.skipped):
        report.actions.append(f"counted anew: {pictures} pictures, {skipped} skipped files")
    return dataclasses.replace(manifest, pictures=pictures, skipped=skipped)
