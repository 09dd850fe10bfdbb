"""Check every byte of an index, and repair what can be repaired. A repair deletes nothing: see `repair`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.config import MARKER, marker_of, read_plain
from clipsearch.errors import ClipsearchError, CorruptIndex
from clipsearch.records import FileRef, Fragment, ImageRecord, IntArray, Manifest, Segment, TagRef, WordsRef
from clipsearch.store import Snapshot, open_snapshot
from clipsearch.store.columns import SEQUENCES, ColumnsBuilder
from clipsearch.store.files import storage_errors
from clipsearch.store.fragments import BATCH_ROWS, read_fragment_records, read_vector_blocks
from clipsearch.store.manifest import is_of_format_1, load_manifest, manifests_of
from clipsearch.store.marks import dead_rows, marked, missing_rows, read_marks
from clipsearch.store.rows import RowsFile, open_rows
from clipsearch.store.tags import read_tag_file
from clipsearch.store.words import WordsFile
from clipsearch.store.writer import copies_of_manifests, own_files, staged_files
from clipsearch.vectors import VectorSegment, VectorsFile, check_vectors


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
    more_views: int = 0
    skipped: int = 0
    missing: int = 0
    problems: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)  # files of no generation: left by a crash, harmless
    orphan_bytes: int = 0
    notes: list[str] = field(default_factory=list)  # what is kept although the current generation does not need it

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(index_dir: Path) -> VerifyReport:
    """Read and cross-check all of the current generation. Changes nothing.

    Raises: IndexNotFound, UnsupportedIndex, StorageError.
    """
    with storage_errors(index_dir):
        return _verified(index_dir)


def _verified(index_dir: Path) -> VerifyReport:
    report = VerifyReport(index_dir)
    try:
        snapshot = open_snapshot(index_dir)
    except CorruptIndex as error:
        report.problems.append(Problem(relative(index_dir, error.file), error.problem))
        return report
    with snapshot:
        manifest = snapshot.manifest
        report.generation = manifest.generation
        if marker_of(index_dir) is None and not any(is_of_format_1(f) for f in manifest.fragments):
            report.problems.append(Problem(MARKER, "it does not mark this folder as an index"))
        bad = _check_files(snapshot, report)
        _check_rows_and_vectors(index_dir, manifest, bad, report)
        if manifest.rebuild is not None and not bad:
            for fragment in manifest.rebuild.fragments:
                _noted(index_dir, report, lambda f=fragment: check_fragment(index_dir, f))
            for segment in manifest.rebuild.segments:
                _noted(index_dir, report, lambda s=segment: check_segment(index_dir, s, manifest.rebuild.model.dim))
        _check_tags(index_dir, manifest, bad, report)
        for words in (*manifest.words, *manifest.captions):
            message = None if words.file.path in bad else words_problem(index_dir, words)
            if message is not None:
                report.problems.append(Problem(words.file.path, message))
        _check_other_manifests(index_dir, manifest, snapshot.ref, report)
        _list_orphans(index_dir, manifest, report)
    return report


def _check_other_manifests(index_dir: Path, manifest: Manifest, ref: FileRef, report: VerifyReport) -> None:
    """While an older generation cannot be read, nobody knows what it needs, and nothing is deleted."""
    for number, path in manifests_of(index_dir).items():
        if number != manifest.generation:
            try:
                raw = read_plain(path)
                other = load_manifest(path, raw, index_dir)
                own = FileRef(f"manifests/{path.name}", len(raw), xxhash.xxh3_128_hexdigest(raw))
                if ref in (other.ancestors or ()):
                    report.notes.append(f"generation {number} was cut short; the next command that writes completes it")
                elif number > manifest.generation:
                    problem = f"it is newer than generation {manifest.generation}, which CURRENT names"
                    report.problems.append(Problem(relative(index_dir, path), problem))
                elif manifest.ancestors is not None and own not in manifest.ancestors:
                    report.notes.append(
                        f"generation {number} is not an ancestor of {manifest.generation}, and is kept: {path}"
                    )
            except FileNotFoundError:
                continue  # a writer has moved on
            except (CorruptIndex, OSError) as error:
                problem = error.problem if isinstance(error, CorruptIndex) else str(error.strerror)
                report.problems.append(Problem(relative(index_dir, path), problem))


def relative(index_dir: Path, path: Path) -> str:
    """A file as a report names it."""
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


def _noted(index_dir: Path, report: VerifyReport, check: object) -> bool:
    """Run a check and write down what it finds. True if it found nothing."""
    assert callable(check)
    try:
        check()
    except CorruptIndex as error:
        report.problems.append(Problem(relative(index_dir, error.file), error.problem))
    except (ValueError, ClipsearchError) as error:
        report.problems.append(Problem("", str(error)))
    else:
        return True
    return False


def _check_rows_and_vectors(index_dir: Path, manifest: Manifest, bad: set[str], report: VerifyReport) -> None:
    whole = True
    for fragment in manifest.fragments:
        if not bad & {ref.path for ref in fragment.files()}:
            whole &= _noted(index_dir, report, lambda f=fragment: check_fragment(index_dir, f))
    for segment in manifest.segments:
        if not bad & {ref.path for ref in segment.files()}:
            whole &= _noted(index_dir, report, lambda s=segment: check_segment(index_dir, s, manifest.model.dim))
    if whole and not bad:
        _check_together(index_dir, manifest, report)


def check_fragment(index_dir: Path, fragment: Fragment) -> None:
    """Hold a fragment's rows file, and its marks, against its records. Raises: CorruptIndex."""
    data = index_dir / fragment.data.path
    rows = None if fragment.rows_file is None else open_rows(index_dir, fragment)
    legacy = is_of_format_1(fragment)
    check = None if rows is None or legacy else _RowsCheck(rows)
    pictures = others = 0
    last = -1
    for record in read_fragment_records(index_dir, fragment):
        if record.row_id <= last:
            raise CorruptIndex(data, "its row ids are not ascending")
        last = record.row_id
        if record.status != "ok":
            others += 1
            continue
        pictures += 1
        if check is not None:
            check.take(record)
        elif rows is not None and rows.find(record.row_id) != record:
            raise _is_another(rows, record)
    if (pictures, pictures + others) != (fragment.pictures, fragment.rows):
        raise CorruptIndex(data, f"it has {pictures} pictures, but the manifest says {fragment.pictures}")
    if rows is None or check is None:
        return
    for record in read_fragment_records(index_dir, fragment) if others else ():
        if record.status != "ok":
            check.take(record)
    check.finish(fragment)
    vector_ids = rows.number("vector_id")[: rows.pictures]
    if not np.array_equal(rows.by_vector, np.argsort(vector_ids, kind="stable")):
        raise CorruptIndex(rows.path, "its vectors are in the wrong order")
    for ref, copy, count in (
        (fragment.dead, fragment.dead_copy, fragment.dead_count),
        (fragment.missing, fragment.missing_copy, fragment.missing_count),
    ):
        ids = marked(read_marks(index_dir, ref, copy))
        if len(ids) != count or not np.isin(ids, rows.number("row_id")).all():
            name = index_dir / (ref.path if ref is not None else fragment.data.path)
            raise CorruptIndex(name, "its marks name rows that are not in the fragment")


def _is_another(rows: RowsFile, record: ImageRecord) -> CorruptIndex:
    return CorruptIndex(rows.path, f"row {record.row_id} does not match its fragment")


class _RowsCheck:
    """Holds a rows file against records that come in its order, some thousand at a time: pictures, then skipped files.

    Raises: CorruptIndex.
    """

    def __init__(self, rows: RowsFile) -> None:
        self._rows = rows
        self._builder = ColumnsBuilder()
        self._taken = 0
        self._compared = 0
        self._bytes_compared = dict.fromkeys(SEQUENCES, 0)

    def take(self, record: ImageRecord) -> None:
        """The next record."""
        if not self._rows.says(self._taken, record):
            raise _is_another(self._rows, record)
        self._builder.add(record)
        self._taken += 1
        if self._taken - self._compared == BATCH_ROWS:
            self._compare()

    def _compare(self) -> None:
        numbers, texts = self._builder.take().blobs()
        own, own_texts = self._rows.all_columns.blobs()
        part = slice(self._compared, self._taken)
        same = all(own[name][part].tobytes() == column.tobytes() for name, column in numbers.items())
        for name, start in self._bytes_compared.items():
            end = start + len(texts[name])
            same = same and own_texts[name][start:end] == texts[name]
            self._bytes_compared[name] = end
        if not same:
            raise self._differs()
        self._compared = self._taken
        self._rows.release()

    def finish(self, fragment: Fragment) -> None:
        """That was all."""
        self._compare()
        _, own_texts = self._rows.all_columns.blobs()
        _, texts = self._builder.columns().blobs()
        to_their_ends = all(end == len(own_texts[name]) for name, end in self._bytes_compared.items())
        same_texts = all(own_texts[name] == text for name, text in texts.items() if name not in SEQUENCES)
        counts = (len(self._rows), self._rows.pictures) == (fragment.rows, fragment.pictures)
        if not (to_their_ends and same_texts and counts and self._taken == len(self._rows)):
            raise self._differs()

    def _differs(self) -> CorruptIndex:
        return CorruptIndex(self._rows.path, "its columns do not match its fragment")


def check_segment(index_dir: Path, segment: Segment, dim: int) -> None:
    """Hold what is searched of a segment against its vectors. Raises: CorruptIndex, DimensionMismatch, ValueError."""
    mapped = VectorsFile(index_dir / segment.mapped.path, dim)
    if segment.faiss is not None:
        faiss_file = index_dir / segment.faiss.path
        VectorSegment(mapped.path, dim, faiss_file=faiss_file, ivf=segment.ivf).load()
    seen = 0
    last = -1
    for block in read_vector_blocks(index_dir, segment, dim):
        check_vectors(block.ids, block.vectors, dim, after=last)
        last = int(block.ids[-1]) if len(block.ids) else last
        if not mapped.holds(seen, block.ids, block.vectors):
            raise CorruptIndex(mapped.path, "its vectors do not match its segment")
        if mapped.keys is not None and not np.array_equal(mapped.keys[seen : seen + len(block.ids)], block.keys):
            raise CorruptIndex(mapped.path, "its contents do not match its segment")
        seen += len(block.ids)
    if seen != segment.vectors or len(mapped) != seen:
        raise CorruptIndex(index_dir / segment.data.path, f"it has {seen} vectors, not {segment.vectors}")


@dataclass(slots=True)
class RowStates:
    """All rows of a generation, what they refer to and how they are marked. Shapes: (N,)."""

    row_ids: IntArray
    vector_ids: IntArray
    statuses: npt.NDArray[np.uint8]
    dead: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]
    paths: IntArray  # (N, 2): what each row's path is known by
    parts: IntArray  # (N, 2): and its member and view; 0: none
    starts: npt.NDArray[np.bool_]  # the first rows of pictures: others are views of the same
    fragments: IntArray  # the number of the fragment that each is in

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Rows of pictures that are neither dead nor missing."""
        found: npt.NDArray[np.bool_] = ~self.dead & ~self.missing & (self.statuses == 0)
        return found

    @property
    def divided(self) -> npt.NDArray[np.bool_]:
        """Rows that are dead or missing, other than the first row of their file, or the other way round."""
        first = np.flatnonzero(self.starts)[np.cumsum(self.starts) - 1]
        found: npt.NDArray[np.bool_] = (self.dead != self.dead[first]) | (self.missing != self.missing[first])
        return found


def row_states(index_dir: Path, fragments: tuple[Fragment, ...]) -> RowStates:
    """The state of every row. Raises: CorruptIndex."""
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    for number, fragment in enumerate(fragments):
        rows = open_rows(index_dir, fragment, verified=True)
        row_ids = rows.number("row_id")
        parts.append(
            (
                row_ids,
                rows.number("vector_id"),
                rows.number("status"),
                np.isin(row_ids, dead_rows(index_dir, fragment)),
                np.isin(row_ids, marked(missing_rows(index_dir, fragment))),
                rows.number("path"),
                np.stack([rows.number("member"), rows.number("view")], axis=1),
                rows.all_columns.starts if fragment.views else np.ones(len(row_ids), bool),
                np.full(len(row_ids), number, np.int64),
            )
        )
    empty = (
        np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8),
        np.empty(0, bool), np.empty(0, bool), np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), np.empty(0, bool),
        np.empty(0, np.int64),
    )  # fmt: skip
    joined = [np.concatenate(columns) for columns in zip(empty, *parts, strict=True)]
    return RowStates(*joined)


def _check_together(index_dir: Path, manifest: Manifest, report: VerifyReport) -> None:
    """That rows and vectors agree with each other and with the manifest's counts."""
    name = f"manifests/{manifest.generation:08d}.json"

    def problem(message: str) -> None:
        report.problems.append(Problem(name, message))

    if any(is_of_format_1(fragment) for fragment in manifest.fragments):
        report.pictures, report.skipped = manifest.pictures, manifest.skipped  # checked when it is written anew
        return
    states = row_states(index_dir, manifest.fragments)
    ids = [VectorsFile(index_dir / s.mapped.path, manifest.model.dim).ids for s in manifest.segments]
    stored = np.sort(np.concatenate([np.empty(0, np.int64), *ids]))
    if len(np.unique(states.row_ids)) != len(states.row_ids):
        problem("row ids are used twice")
    if (np.diff(stored) == 0).any():
        problem("vector ids are used twice")
    if (len(states.row_ids) and states.row_ids.max() >= manifest.next_row_id) or (
        len(stored) and stored[-1] >= manifest.next_vector_id
    ):
        problem("ids are used that were never assigned")
    answered = states.answered
    without = answered & ~np.isin(states.vector_ids, stored)
    if without.any():
        problem(f"{int(without.sum())} pictures have no vector, the first is row {states.row_ids[without][0]} first")
    hidden = [marked(read_marks(index_dir, s.hidden)) for s in manifest.segments]
    expected = np.setdiff1d(stored, states.vector_ids[answered])
    if not np.array_equal(np.sort(np.concatenate([np.empty(0, np.int64), *hidden])), expected):
        problem("the hidden vectors are not the ones without a picture")
    live = ~states.dead
    paths = states.paths[live]
    if len(np.unique(paths, axis=0)) != len(paths):  # files with views
        rows = np.concatenate([paths, states.parts[live]], axis=1)
        pictures = np.unique(rows[:, :3][states.starts[live]], axis=0)
        if len(np.unique(rows, axis=0)) != len(rows) or len(pictures) != int(states.starts[live].sum()):
            problem("paths have more than one row")
        elif states.divided.any():
            problem("files have some of their rows only")
    report.pictures = int((answered & states.starts).sum())
    report.more_views = int((answered & ~states.starts).sum())
    report.skipped = int((live & ~states.missing & (states.statuses != 0)).sum())
    report.missing = int((live & states.missing & states.starts).sum())
    counts = (report.pictures, report.skipped, report.missing)
    if counts != (manifest.pictures, manifest.skipped, manifest.missing):
        problem(
            f"it counts {manifest.pictures} pictures, {manifest.skipped} skipped and {manifest.missing} missing files; "
            f"there are {counts[0]}, {counts[1]} and {counts[2]}"
        )
    elif report.more_views != manifest.more_views:
        problem(f"it counts {manifest.more_views} more views of its pictures; there are {report.more_views}")


def _check_tags(index_dir: Path, manifest: Manifest, bad: set[str], report: VerifyReport) -> None:
    for ref in manifest.tags:
        for file in ref.files():
            if file.path in bad:
                continue
            message = tag_problem(index_dir, ref, file)
            if message is not None:
                report.problems.append(Problem(file.path, message))


def tag_problem(index_dir: Path, ref: TagRef, file: FileRef) -> str | None:
    """What is wrong with one of a tag's files, or None. Raises: StorageError."""
    try:
        tag = read_tag_file(index_dir, file, afresh=True)
    except CorruptIndex as error:
        return error.problem
    if (tag.name, tag.kind, len(tag.hashes)) != (ref.name, ref.kind, ref.pictures):
        return f"it does not contain the {ref.kind} {ref.name!r}"
    return None


def words_problem(index_dir: Path, ref: WordsRef) -> str | None:
    """What is wrong with a file of words, or None. Raises: StorageError."""
    try:
        with WordsFile(index_dir, ref, afresh=True) as file:
            file.check()
    except CorruptIndex as error:
        return error.problem
    return None


def _list_orphans(index_dir: Path, manifest: Manifest, report: VerifyReport) -> None:
    """Our files that no generation refers to. Not listed where a manifest cannot be read: then nobody knows."""
    kept = {ref.path for ref in manifest.files()}
    try:
        others = [path for number, path in manifests_of(index_dir).items() if number != manifest.generation]
        for path in (*others, *copies_of_manifests(index_dir)):
            kept |= {ref.path for ref in load_manifest(path, read_plain(path), index_dir).files()}
        tags = 0
        for path in _sorted(own_files(index_dir, kept), staged_files(index_dir)):
            if path.parent.name == "tags":
                tags += 1
                continue
            report.orphans.append(relative(index_dir, path))
            report.orphan_bytes += path.stat().st_size
        if tags:
            report.notes.append(
                f"{tags} tag files belong to no generation, and are kept. verify --repair restores their tags, but "
                "not older versions of concepts"
            )
    except (OSError, ClipsearchError):
        return


def _sorted(*sources: Iterator[Path]) -> list[Path]:
    return sorted(path for source in sources for path in source)
