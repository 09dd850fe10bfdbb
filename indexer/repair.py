"""Repair an index from what is whole. Nothing is deleted: what is damaged is put into `damaged/` first, and what no
longer belongs to the index is left to the runs that follow, which delete only what no kept generation refers to.

Rows are in two files, records and what is derived from them, and so are vectors: either is made again from the other.
Only where both are damaged are rows lost; the next `clipsearch index` reads those pictures again. What a person made
(tags, concepts) is written twice, and kept once more from before its last change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.config import INDEX_DIR_NAME, MARKER, format_of, is_index, marker_of, read_plain
from clipsearch.errors import (
    ClipsearchError,
    CorruptIndex,
    DimensionMismatch,
    IndexNotFound,
    StorageError,
    UnsupportedIndex,
)
from clipsearch.indexer.aside import Aside
from clipsearch.indexer.changes import block_of
from clipsearch.indexer.compact import counted
from clipsearch.indexer.ignore import Ignore
from clipsearch.indexer.patience import IndexClock
from clipsearch.indexer.scan import Scan, walk
from clipsearch.indexer.segments import (
    derive_inverted_file,
    derive_segment,
    write_fragment,
    write_rows_file,
    write_segment,
)
from clipsearch.indexer.verify import check_fragment, check_segment, relative, row_states, tag_problem, words_problem
from clipsearch.places import is_address, is_file
from clipsearch.records import FileRef, Fragment, ImageRecord, IntArray, Manifest, ModelRef, Segment, TagRef
from clipsearch.store import RowsFile, Writer, open_rows, root_path, verify_file
from clipsearch.store.files import READ_AGAIN_S, READ_ATTEMPTS, storage_errors, unlink_own
from clipsearch.store.fragments import (
    BATCH_ROWS,
    VectorBlock,
    read_fragment_records,
    read_orphan_records,
    read_orphan_vectors,
    read_vector_blocks,
)
from clipsearch.store.hashes import hash_keys
from clipsearch.store.lock import committed_root, committed_source
from clipsearch.store.manifest import FORMAT_VERSION, is_of_format_1, key_of, load_manifest, manifests_of
from clipsearch.store.marks import dead_rows, marked, missing_rows, read_marks
from clipsearch.store.snapshot import unknown_root
from clipsearch.store.tags import (
    Tag,
    add_tag_file,
    find_tag,
    joined,
    read_tag,
    read_tag_file,
    recover_tags,
    whole_tags,
    with_tags,
    written_twice,
)
from clipsearch.store.words import KINDS, Kind, with_recovered_words, with_words, words_of
from clipsearch.store.writer import is_named_by_its_content, own_files
from clipsearch.vectors import VectorsFile, check_vectors

Records = Callable[[], Iterator[list[ImageRecord]]]
Blocks = Callable[[], Iterator[VectorBlock]]


@dataclass(slots=True)
class RepairReport:
    """What a repair did. Lost rows are files that the next `clipsearch index` reads again."""

    index: Path
    generation: int
    actions: list[str] = field(default_factory=list)
    lost_rows: int = 0
    pictures: int = 0
    put_aside: list[str] = field(default_factory=list)  # damaged files, where they are now, relative to the index


def repair(index_dir: Path) -> RepairReport:
    """Repair the index from what is whole, and commit the result.

    Raises: IndexNotFound, IndexLocked, UnsupportedIndex, OutOfSpace, StorageError (then nothing was changed).
    """
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    with storage_errors(index_dir):
        return _repair(index_dir)


def _repair(index_dir: Path) -> RepairReport:
    if format_of(index_dir) > FORMAT_VERSION:
        raise UnsupportedIndex(index_dir, f"index format {format_of(index_dir)}")
    aside = Aside(index_dir)
    aside.clear_the_way()
    unmarked = marker_of(index_dir) is None
    damaged_marker = _kept_copy(index_dir / MARKER) if unmarked else b""
    with Writer(index_dir) as writer:  # writes the marker again if it has to
        aside.clear_generations()
        return _Repair(writer, aside).run(damaged_marker if unmarked else None)


def _kept_copy(path: Path) -> bytes:
    try:
        return read_plain(path)
    except OSError:
        return b""


class _Repair:
    """One repair."""

    def __init__(self, writer: Writer, aside: Aside) -> None:
        self.writer = writer
        self.index_dir = writer.index_dir
        self.report = RepairReport(writer.index_dir, 0, aside.actions, put_aside=aside.put_aside)
        self.before: list[Manifest] = []  # generations that can be read, the newest first
        self._files: dict[int, FileRef] = {}  # their manifests, by number
        self._aside = aside
        self._put: set[Path] = set()
        self._to_unlink: list[Path] = []
        self._in_folder: _Seen | None = None
        self._unseen: list[int] = []  # rows that are missing now as far as this repair knows

    def run(self, damaged_marker: bytes | None) -> RepairReport:
        report = self.report
        self._read_older()
        if damaged_marker is not None:
            self._say(f"{MARKER}: rewritten")
            if damaged_marker:
                self._aside.name_for(self.index_dir / MARKER).write_bytes(damaged_marker)
        try:
            manifest = self.writer.current()
            if manifest is None:
                raise IndexNotFound([self.index_dir])
            manifest = self._instead_of(self._newer_than(manifest))
        except CorruptIndex as error:
            _stop_if_unreadable(error)
            self._say(f"{relative(self.index_dir, error.file)}: {error.problem}")
            manifest = self._find_manifest()
        self._set_manifests_aside()
        repaired = self._with_other_tags(self._repaired(manifest))
        if report.actions:
            repaired = self.writer.commit(repaired, repaired=True)
            self._unlink_manifests()
        report.generation, report.pictures = repaired.generation, repaired.pictures
        return report

    @property
    def _now_s(self) -> int:
        """Since when something is missing that was not before: by the clock of the index, as a run would say."""
        if not self.before or not self.before[0].clock_s:
            return int(time.time())
        newest = self.before[0]
        return IndexClock(newest.clock_s, newest.clock_read_s, newest.clock_waiting_s).at(int(time.time())).latest

    def _say(self, action: str) -> None:
        self.report.actions.append(action)

    # -- putting damaged files aside

    def _put_aside(self, path: Path, *, move: bool = False) -> None:
        """Give a damaged file a second name in damaged/<date>/, or copy it there where there are no hard links.

        The first name stays: what is rebuilt may get the same, as names are hashes; else it goes when nothing refers to
        it any more. Raises: OSError.
        """
        if not os.path.lexists(path) or path in self._put:
            return
        target = self._aside.name_for(path)
        try:
            os.link(path, target)
        except OSError:
            _copy_new(path, target)
        self._put.add(path)
        if move:
            self._to_unlink.append(path)

    def _unlink_manifests(self) -> None:
        """Take what is unreadable away from where it would keep old generations from being collected."""
        for path in self._to_unlink:
            unlink_own(path)  # its other name is in damaged/
        self._aside.sync()

    # -- manifests

    def _read_older(self) -> None:
        for path in reversed(manifests_of(self.index_dir).values()):
            with contextlib.suppress(CorruptIndex):
                raw = _bytes_of(path)
                manifest = load_manifest(path, raw, self.index_dir)
                self.before.append(manifest)
                name = f"manifests/{path.name}"
                self._files[manifest.generation] = FileRef(name, len(raw), xxhash.xxh3_128_hexdigest(raw))

    def _find_manifest(self) -> Manifest:
        """The newest whole manifest whose files are all there; else one made from the files themselves."""
        self._put_aside(self.index_dir / "CURRENT")
        for path in sorted(own_files(self.index_dir, set())):  # a tag that is written again may get its name
            if path.parent.name == "tags" and not is_named_by_its_content(path):
                self._say(f"{relative(self.index_dir, path)}: damaged")
                self._put_aside(path)
        for manifest in self.before:
            if not self._lacks_for_good(manifest):
                self._say(f"restored generation {manifest.generation}, the newest intact one")
                return self._with_newer_tags(self._with_newer_files(manifest))
        return self._manifest_from_files()

    def _instead_of(self, manifest: Manifest) -> Manifest:
        """`manifest`; or, where it lacks what none of its files can replace, the newest other that has all of its own.

        A manifest of another index can get here, by a file synchroniser, say. Its files then are elsewhere.
        """
        if not self._lacks_for_good(manifest):
            return manifest
        others = (m for m in self.before if m != manifest)
        other = next((m for m in others if all(self._is_whole(ref) for ref in m.files())), None)
        if other is None:
            return manifest
        self._say(
            f"generation {manifest.generation} lacks files; restored generation {other.generation}, which is whole"
        )
        shared = {ref.path for ref in manifest.files()} & {ref.path for ref in other.files()}
        return self._with_newer_tags(self._with_newer_files(other) if shared else other)

    def _lacks_for_good(self, manifest: Manifest) -> bool:
        gone = self._are_gone
        tags_before = {
            key_of(tag.name, tag.kind)
            for m in self.before
            for tag in (*m.tags_before, *m.tags)
            if not gone(*tag.files())
        }
        return (
            any(gone(f.data, f.rows_file) for f in manifest.fragments)
            or any(gone(s.data, s.mapped) for s in manifest.segments)
            or any(gone(*t.files()) and key_of(t.name, t.kind) not in tags_before for t in manifest.tags)
        )

    def _are_gone(self, *refs: FileRef | None) -> bool:
        """Whether none of these files is there. What cannot be read now may be there."""
        return not any(ref is not None and _may_be_there(self.index_dir / ref.path) for ref in refs)

    def _newer_than(self, manifest: Manifest) -> Manifest:
        """The newest generation that is whole, where CURRENT names an older one: somebody put that back."""
        newer = (m for m in self.before if m.generation > manifest.generation)
        other = next((m for m in newer if all(self._is_whole(ref) for ref in m.files())), None)
        if other is None:
            return manifest
        self._say(f"CURRENT named generation {manifest.generation}; restored generation {other.generation}, the newest")
        return other

    def _with_other_tags(self, manifest: Manifest) -> Manifest:
        """`manifest` with the tags that only generations have that it does not come from, or none."""
        known = {file.path for tag in (*manifest.tags, *manifest.tags_before) for file in tag.files()}
        others = set[str]()
        for other in self.before:
            its = {file.path for tag in (*other.tags, *other.tags_before) for file in tag.files()}
            if manifest.ancestors is None or self._files[other.generation] in manifest.ancestors:
                known |= its
            else:
                others |= its
        found = [
            (tag, ref)
            for tag, ref in whole_tags(self.index_dir, known)
            if ref.file.path not in others or not self._has_all_of(manifest, tag)
        ]
        manifest, said = joined(self.index_dir, manifest, found)
        for action in said:
            self._say(action)
        return manifest

    def _has_all_of(self, manifest: Manifest, tag: Tag) -> bool:
        held = find_tag(manifest, tag.name)
        if held is None or held.kind != "tag" or tag.kind != "tag":
            return False
        return tag.as_dict().keys() <= read_tag(self.index_dir, held).as_dict().keys()

    def _set_manifests_aside(self) -> None:
        """While one cannot be read, nobody knows what it needs, and old files are never deleted."""
        for path in manifests_of(self.index_dir).values():
            try:
                load_manifest(path, _bytes_of(path), self.index_dir)
            except CorruptIndex as error:
                self._say(f"{relative(self.index_dir, path)}: {error.problem}")
                self._put_aside(path, move=True)

    def _with_newer_files(self, manifest: Manifest) -> Manifest:
        """`manifest` with what the lost generations after it had added, as far as their files are there."""
        models, vectors, rows = self._stored(manifest.next_row_id, manifest.next_vector_id)
        model = next((model for model in models if model.makes_vectors_of(manifest.model)), None)
        return manifest if model is None else self._with_stored(manifest, model, vectors, rows)

    def _with_newer_tags(self, manifest: Manifest) -> Manifest:
        """`manifest` with the tags that were saved after it: what a person made is in whole files of its own."""
        kept = {key_of(ref.name, ref.kind): ref for ref in manifest.tags}
        newer = {
            key: ref
            for key, ref in recover_tags(self.index_dir).items()
            if read_tag_file(self.index_dir, ref.file).written_at > manifest.created_at
        }
        if newer:
            self._say(f"kept the tags saved since then: {', '.join(sorted(ref.name for ref in newer.values()))}")
        return with_tags(manifest, kept | newer) if newer else manifest

    def _manifest_from_files(self) -> Manifest:
        models, vectors, rows = self._stored(0, 0)
        if not (models or self.before):
            raise IndexNotFound([self.index_dir])
        known = [m.model for m in self.before]  # which of several models an index is of is in its manifests
        model = next((m for m in known if any(m.makes_vectors_of(model) for model in models)), None)
        if model is None:
            model = max(models, key=lambda model: models[model]) if models else known[0]
        why = "every generation lacks files that nothing replaces" if self.before else "no manifest is intact"
        self._say(f"{why}: rebuilt a manifest from the other files")
        empty = Manifest(0, "", self._root(rows), model, 0)
        if self.before:
            last = self.before[0]
            empty = dataclasses.replace(
                empty,
                links=last.links,
                archives=last.archives,
                listed=last.listed,
                devices=last.devices,
                clock_s=last.clock_s,
                clock_read_s=last.clock_read_s,
                clock_waiting_s=last.clock_waiting_s,
            )
        else:
            source = self._source(empty.root, rows)
            empty = dataclasses.replace(
                empty, archives=source["archives"], links=source["links"], listed=source["listed"]
            )
        if not self.before and not empty.root:
            self._say(unknown_root(self.index_dir))
        made = self._with_stored(empty, model, vectors, rows)
        return with_tags(with_recovered_words(self.index_dir, made), recover_tags(self.index_dir))

    def _source(self, root: str, rows: dict[int, ImageRecord]) -> dict[str, str]:
        """What of the root the index is of, by COMMIT; else by where the index is, and its rows."""
        if (known := committed_source(self.index_dir)) is not None:
            return known
        listed, name = "", self.index_dir.absolute().name
        of_archives = {record.path for record in rows.values() if record.member}
        if name != INDEX_DIR_NAME:  # that one is in the folder that it is of
            beside, place = name.removesuffix(INDEX_DIR_NAME), root_path(self.index_dir, root)
            if beside != name and not is_address(place) and is_file(place / beside):  # photos.tar.clipsearch
                listed = beside
            elif len(of_archives) == 1 and all(record.member for record in rows.values()):
                (only,) = of_archives
                listed = "" if "/" in only else only
        return {"archives": "read" if of_archives or listed else "", "links": "", "listed": listed}

    def _root(self, rows: dict[int, ImageRecord]) -> str:
        """The root of an index, by a manifest or by COMMIT; else the folder that it lies in if that has any picture of
        it; else "": unknown."""
        if self.before:
            return self.before[0].root
        root = committed_root(self.index_dir)
        if root is not None:
            return root
        beside = root_path(self.index_dir, "..")
        is_beside = self.index_dir.name.endswith(INDEX_DIR_NAME) and any(
            os.path.lexists(beside / record.path) for record in rows.values()
        )
        return ".." if is_beside else ""

    def _stored(
        self, first_row_id: int, first_vector_id: int
    ) -> tuple[Counter[ModelRef], dict[int, tuple[ModelRef, VectorBlock, int]], dict[int, ImageRecord]]:
        """All rows and vectors that are in whole files, from some ids on: in Parquet whatever manifests say, else in
        what was derived from it.

        A search file does not name its model: only those count that a manifest names, which does, or all where nothing
        names another model.
        """
        vectors: dict[int, tuple[ModelRef, VectorBlock, int]] = {}
        models: Counter[ModelRef] = Counter()
        rows: dict[int, ImageRecord] = {}
        for path in self._whole_files("vectors", "data"):
            with contextlib.suppress(ValueError):
                model, block = read_orphan_vectors(path)
                models[model] += len(block.ids)
                for at, vector_id in enumerate(block.ids.tolist()):
                    if vector_id >= first_vector_id:
                        vectors[vector_id] = (model, block, at)
        for path in self._whole_files("records", "data"):
            with contextlib.suppress(ValueError):
                rows |= {r.row_id: r for r in read_orphan_records(path) if r.row_id >= first_row_id}
        for path in self._whole_files("rows"):
            with contextlib.suppress(CorruptIndex):  # one of format 1 has no vector ids of its own
                file = RowsFile(path, self.index_dir)
                row_ids = file.number("row_id").tolist()
                wanted = [at for at, i in enumerate(row_ids) if i >= first_row_id and i not in rows]
                rows |= {record.row_id: record for record in file.records(wanted)}
        looked_at = set[str]()
        for manifest in self.before:
            for segment in manifest.segments:
                if segment.mapped.path not in looked_at and segment.last_vector_id >= first_vector_id:
                    looked_at.add(segment.mapped.path)
                    if not self._is_whole(segment.mapped):
                        continue
                    path = self.index_dir / segment.mapped.path
                    if found := self._add_mapped(manifest.model, path, first_vector_id, vectors):
                        models[manifest.model] += found
        named = {model.fingerprint: model for model in (*models, *(manifest.model for manifest in self.before))}
        if len(named) == 1:
            model = next(iter(named.values()))
            for path in self._whole_files("search"):
                if f"search/{path.name}" not in looked_at:
                    with contextlib.suppress(CorruptIndex, DimensionMismatch):
                        models[model] += self._add_mapped(model, path, first_vector_id, vectors)
        return models, vectors, rows

    def _add_mapped(
        self, model: ModelRef, path: Path, first_id: int, vectors: dict[int, tuple[ModelRef, VectorBlock, int]]
    ) -> int:
        """Add the vectors of a search file that are in no Parquet file; returns how many."""
        file = VectorsFile(path, model.dim)
        wanted = np.array(
            [at for at, i in enumerate(file.ids.tolist()) if i >= first_id and i not in vectors], np.int64
        )
        if not len(wanted) or file.keys is None:
            return 0
        block = VectorBlock(file.ids[wanted], file.keys[wanted], file.take(wanted))
        vectors |= {i: (model, block, at) for at, i in enumerate(block.ids.tolist())}
        return len(wanted)

    def _with_stored(
        self,
        manifest: Manifest,
        model: ModelRef,
        vectors: dict[int, tuple[ModelRef, VectorBlock, int]],
        rows: dict[int, ImageRecord],
    ) -> Manifest:
        """`manifest` with these vectors, as far as they are of a model, and the rows that have them."""
        ids = sorted(i for i, (own, _, _) in vectors.items() if own.makes_vectors_of(model))
        known = set(ids)
        records = [
            record
            for row_id in sorted(rows)
            for record in [rows[row_id]]
            if record.status != "ok" or record.vector_id in known or record.vector_id < manifest.next_vector_id
        ]
        taken = {record.row_id for record in records}
        parts = [record for record in rows.values() if record.view or record.member]
        divided = {record.place for record in parts if record.row_id not in taken}
        records = [record for record in records if record.place not in divided]  # these files are read again
        segments, fragments = manifest.segments, manifest.fragments
        if ids:
            stack = np.stack([vectors[i][1].vectors[vectors[i][2]] for i in ids])
            keys = np.stack([vectors[i][1].keys[vectors[i][2]] for i in ids])
            block = VectorBlock(np.array(ids, np.int64), keys, stack)
            segment = write_segment(self.writer, lambda: [block], model)
            segments = (*segments, *([] if segment is None else [segment]))
        if records:
            fragment = write_fragment(self.writer, lambda: [records])
            if fragment is not None:
                seen = self._seen(manifest) if manifest.root else None
                fragments = (*fragments, self._with_marks(fragment, np.empty(0, np.int64), {}, seen))
            self._say(f"{len(records)} rows and {len(ids)} vectors recovered from files that no intact manifest lists")
        return dataclasses.replace(
            manifest,
            fragments=fragments,
            segments=segments,
            next_row_id=max([manifest.next_row_id - 1, *rows]) + 1,
            next_vector_id=max([manifest.next_vector_id - 1, *vectors]) + 1,
        )

    def _whole_files(self, *folders: str) -> Iterator[Path]:
        """Files of some folders, each of one kind, that are as they were written."""
        suffixes = (".npy",) if folders == ("search",) else (".parquet", ".rows")
        for folder in folders:
            for path in sorted(own_files(self.index_dir, set())):
                if path.parent.name != folder or path.suffix not in suffixes:
                    continue
                if xxhash.xxh3_128_hexdigest(_bytes_of(path)) == path.stem:
                    yield path

    # -- everything of a generation

    def _repaired(self, manifest: Manifest) -> Manifest:
        manifest = self._repaired_tags(manifest)
        for kind in KINDS:
            manifest = self._repaired_words(manifest, kind)
        manifest = self._without_damaged_rebuild(manifest)
        fragments = [self._repaired_fragment(manifest, fragment) for fragment in manifest.fragments]
        manifest = dataclasses.replace(manifest, fragments=tuple(f for f in fragments if f is not None))
        segments = [self._repaired_segment(segment, manifest) for segment in manifest.segments]
        manifest = dataclasses.replace(manifest, segments=tuple(s for s in segments if s is not None))
        manifest = self._agreed(manifest)
        recounted = counted(self.index_dir, manifest)
        counts = (recounted.pictures, recounted.skipped, recounted.missing, recounted.more_views)
        if counts != (manifest.pictures, manifest.skipped, manifest.missing, manifest.more_views):
            self._say(f"recounted: {counts[0]} pictures, {counts[1]} skipped and {counts[2]} missing files")
        return recounted

    def _without_damaged_rebuild(self, manifest: Manifest) -> Manifest:
        if manifest.rebuild is None:
            return manifest
        bad = [ref for ref in manifest.rebuild.files() if not self._is_whole(ref)]
        if not bad:
            return manifest
        for ref in bad:
            self._put_aside(self.index_dir / ref.path)
        self._say("the unfinished --reindex is damaged: it starts again")
        return dataclasses.replace(manifest, rebuild=None)

    def _is_whole(self, ref: FileRef | None) -> bool:
        """Whether a file is as it was written, after several attempts to read it. Raises: StorageError."""
        if ref is None:
            return False
        try:
            verify_file(self.index_dir, ref, afresh=True)
        except CorruptIndex as error:
            _stop_if_unreadable(error)
            return False
        return True

    def _set_aside_damaged(self, refs: list[FileRef]) -> list[str]:
        """Put those of some files aside that are damaged. Returns their names."""
        bad = [ref for ref in refs if not self._is_whole(ref)]
        for ref in bad:
            self._put_aside(self.index_dir / ref.path)
        return [ref.path for ref in bad]

    # -- rows

    def _repaired_fragment(self, manifest: Manifest, fragment: Fragment) -> Fragment | None:
        index_dir = self.index_dir
        bad = self._set_aside_damaged(fragment.files())
        records: Records | None = None
        if fragment.data.path not in bad and self._records_are_whole(fragment):
            old = is_of_format_1(fragment)  # which has rows of files that are no pictures by their names
            records = lambda: _in_batches(  # noqa: E731
                r for r in read_fragment_records(index_dir, fragment) if not (old and r.status == "not_a_picture")
            )
        elif fragment.rows_file is not None and not {fragment.rows_file.path} & set(bad):
            rows = open_rows(index_dir, fragment, verified=fragment.columns_file is None)
            order = np.argsort(rows.number("row_id"), kind="stable").tolist()
            records = lambda: _in_batches(rows.record(at) for at in order)  # noqa: E731
            lost = fragment.rows - len(order)
            self.report.lost_rows += lost
            self._say(f"{fragment.data.path}: damaged; {len(order)} rows recovered from {fragment.rows_file.path}")
        if records is None:
            self.report.lost_rows += fragment.rows
            self._say(f"{', '.join(bad)}: damaged beyond recovery; {fragment.rows} rows are lost")
            return None
        marks = self._recovered_marks(manifest, fragment, bad)
        if is_of_format_1(fragment):
            written = write_fragment(self.writer, records)
            if not self.report.actions:
                self._say(f"{fragment.data.path}: rewritten in format 2")
            return None if written is None else self._with_marks(written, *marks)
        if fragment.data.path in bad or not self._records_are_whole(fragment):
            written = write_fragment(self.writer, records)
            return None if written is None else self._with_marks(written, *marks)
        if fragment.rows_file is None or fragment.rows_file.path in bad or not self._agrees(fragment):
            self._say(f"{fragment.rows_file.path if fragment.rows_file else ''}: rebuilt from {fragment.data.path}")
            fragment = dataclasses.replace(fragment, rows_file=write_rows_file(self.writer, records))
        if {ref.path for ref in _marks_of(fragment) if ref is not None} & set(bad):
            fragment = self._with_marks(fragment, *marks)
        return fragment

    def _records_are_whole(self, fragment: Fragment) -> bool:
        try:
            for _ in read_fragment_records(self.index_dir, fragment):
                pass
        except CorruptIndex as error:
            _stop_if_unreadable(error)
            return False
        return True

    def _agrees(self, fragment: Fragment) -> bool:
        try:
            unmarked = dataclasses.replace(fragment, **_UNMARKED)  # type: ignore[arg-type]
            check_fragment(self.index_dir, unmarked)
        except CorruptIndex:
            return False
        return True

    def _recovered_marks(
        self, manifest: Manifest, fragment: Fragment, bad: list[str]
    ) -> tuple[IntArray, dict[int, IntArray], _Seen | None]:
        """Which rows are dead and missing. Where that is damaged in both files, as far as an older generation knows it,
        with the pictures that can be seen now: all others are then missing."""
        seen: _Seen | None = None
        dead: IntArray = np.empty(0, np.int64)
        missing: dict[int, IntArray] = {}
        for name in ("dead", "missing"):
            ref: FileRef | None = getattr(fragment, name)
            copy: FileRef | None = getattr(fragment, f"{name}_copy")
            if ref is not None and copy is not None and (ref.path in bad) != (copy.path in bad):
                ref = copy if ref.path in bad else ref
                self._say(f"{name} rows of {fragment.data.path}: damaged; intact in the other file")
            if ref is not None and ref.path in bad:
                older = (
                    getattr(f, name) for m in self.before for f in m.fragments if f.data.path == fragment.data.path
                )
                ref = next((r for r in older if r is not None and r.path not in bad and self._is_whole(r)), None)
                from_when = "those of an older generation stay, and" if ref is not None else "instead,"
                self._say(
                    f"{name} rows of {fragment.data.path}: damaged; {from_when} pictures that are not in the folder "
                    "now count as missing. The next run checks again, and applies its --exclude"
                )
                seen = self._seen(manifest)
            sets = read_marks(self.index_dir, ref)
            if name == "dead":
                dead = marked(sets)
            else:
                missing = sets
        return dead, missing, seen

    def _with_marks(
        self, fragment: Fragment, dead: IntArray, missing: dict[int, IntArray], seen: _Seen | None = None
    ) -> Fragment:
        """`fragment` with those of the marks that are of its rows; rows of what is not `seen` are missing too."""
        rows = open_rows(self.index_dir, dataclasses.replace(fragment, **_UNMARKED))  # type: ignore[arg-type]
        row_ids = rows.number("row_id")
        dead = dead[np.isin(dead, row_ids)]
        missing = {since: ids[np.isin(ids, row_ids)] for since, ids in missing.items()}
        if seen is not None:
            known = np.union1d(dead, marked(missing))
            unseen = np.setdiff1d(row_ids[~seen.has(rows.number("path"))], known)
            self._unseen += unseen.tolist()
            now_s = self._now_s
            missing[now_s] = np.union1d(missing.get(now_s, np.empty(0, np.int64)), unseen)
        return self.writer.mark_rows(fragment, dead, missing)

    def _seen(self, manifest: Manifest) -> _Seen:
        """The pictures that are in the folder now and that it does not leave out."""
        if self._in_folder is None:
            self._in_folder = _Seen(root_path(self.index_dir, manifest.root), self.index_dir)
        return self._in_folder

    # -- vectors

    def _repaired_segment(self, segment: Segment, manifest: Manifest) -> Segment | None:
        index_dir, dim = self.index_dir, manifest.model.dim
        bad = self._set_aside_damaged(segment.files())
        blocks: Blocks | None = None
        recovered = False
        if segment.data.path not in bad and self._vectors_are_whole(segment, dim):
            blocks = lambda: read_vector_blocks(index_dir, segment, dim)  # noqa: E731
        elif segment.mapped.path not in bad:
            recovered = True
            blocks = lambda: self._mapped_blocks(segment, manifest)  # noqa: E731
        if blocks is None:
            self._say(f"{', '.join(bad)}: damaged beyond recovery; {segment.vectors} vectors are lost")
            return None
        options = {"collection_rows": manifest.answered, "recall": manifest.recall_target}
        if recovered or segment.data.path.startswith("data/"):
            if recovered:
                half = VectorsFile(index_dir / segment.mapped.path, dim).half
                rounded = ", rounded to float16" if half else ""
                self._say(f"{segment.data.path}: damaged; its vectors recovered from {segment.mapped.path}{rounded}")
            return write_segment(self.writer, blocks, manifest.model, **options)  # type: ignore[arg-type]
        if segment.mapped.path in bad or not self._is_searchable(dataclasses.replace(segment, faiss=None), dim):
            self._say(f"{segment.mapped.path}: rebuilt from {segment.data.path}")
            return derive_segment(self.writer, segment, blocks, dim, **options)  # type: ignore[arg-type]
        if segment.faiss is not None and (segment.faiss.path in bad or not self._is_searchable(segment, dim)):
            self._say(f"{segment.faiss.path}: rebuilt")
            plain = dataclasses.replace(segment, faiss=None, ivf=None)
            return derive_inverted_file(self.writer, plain, dim, **options)  # type: ignore[arg-type]
        return segment

    def _vectors_are_whole(self, segment: Segment, dim: int) -> bool:
        try:
            for block in read_vector_blocks(self.index_dir, segment, dim):
                check_vectors(block.ids, block.vectors, dim)
        except CorruptIndex as error:
            _stop_if_unreadable(error)
            return False
        except ValueError:
            return False
        return True

    def _is_searchable(self, segment: Segment, dim: int) -> bool:
        try:
            check_segment(self.index_dir, segment, dim)
        except (ClipsearchError, ValueError):
            return False
        return True

    def _mapped_blocks(self, segment: Segment, manifest: Manifest) -> Iterator[VectorBlock]:
        file = VectorsFile(self.index_dir / segment.mapped.path, manifest.model.dim)
        keys = file.keys
        if keys is None:  # format 1: the contents are those of the rows
            hashes = {
                record.vector_id: record.content_hash
                for fragment in manifest.fragments
                for record in read_fragment_records(self.index_dir, fragment)
            }
            keys = hash_keys(hashes.get(vector_id) for vector_id in file.ids.tolist())
        start = 0
        for ids, vectors in file.blocks(BATCH_ROWS):
            yield VectorBlock(ids, np.asarray(keys[start : start + len(ids)]), vectors)
            start += len(ids)

    # -- rows and vectors together

    def _agreed(self, manifest: Manifest) -> Manifest:
        """Rows whose vector is lost, and rows whose path has a newer one, are dead; vectors that no picture in answer
        has are hidden. Missing rows stay without their lost vectors: they are encoded when they are back."""
        index_dir = self.index_dir
        states = row_states(index_dir, manifest.fragments)
        files = [VectorsFile(index_dir / s.mapped.path, manifest.model.dim) for s in manifest.segments]
        stored = np.unique(np.concatenate([np.empty(0, np.int64), *(file.ids for file in files)]))
        live = ~states.dead
        answered = ~states.missing | (np.isin(states.row_ids, self._unseen) & (states.vector_ids >= 0))
        lost = live & (states.statuses == 0) & ~np.isin(states.vector_ids, stored)
        away = lost & ~answered & (states.vector_ids >= 0)
        lost &= answered
        if lost.any():
            self.report.lost_rows += int(lost.sum())
            self._say(f"{int(lost.sum())} rows lost their vectors: the next run encodes these pictures again")
        has_parts = bool(states.parts.any())
        whole = np.concatenate([states.paths, states.parts], axis=1)
        pictures = whole[:, :3]  # without the view
        if has_parts:  # a file is answered with all of its rows, or read again
            lost = live & _of_same_paths(pictures, lost | states.divided)
            away = live & ~answered & (states.vector_ids >= 0) & _of_same_paths(pictures, away)
        fragments = manifest.fragments
        if away.any():
            self._say(
                f"{int(away.sum())} missing pictures lost their vectors: they are encoded again when they are back"
            )
            fragments = tuple(self._without_vectors(fragment, states.row_ids[away]) for fragment in fragments)
        older = np.zeros(len(live), bool)
        order = np.lexsort((states.row_ids, *whole.T[::-1]))
        order = order[(live & ~lost)[order]]
        rows = whole[order]
        older[order[:-1][(rows[:-1] == rows[1:]).all(axis=1)]] = True
        if has_parts:  # rows of one file were written together: those of other fragments are older
            order = np.lexsort((states.row_ids, *pictures.T[::-1]))
            order = order[(live & ~lost & ~older)[order]]
            paths = pictures[order]
            ends = np.append(np.flatnonzero((paths[:-1] != paths[1:]).any(axis=1)), len(order) - 1)[: len(order)]
            last = ends[np.searchsorted(ends, np.arange(len(order)))]
            older[order[states.fragments[order] != states.fragments[order[last]]]] = True
        if older.any():
            self._say(f"{int(older.sum())} rows deleted because their paths have newer rows")
        newly_dead = states.row_ids[lost | older]
        if len(newly_dead):
            fragments = tuple(self._killed(fragment, newly_dead) for fragment in fragments)
        answered = states.answered & ~lost & ~older
        used = np.unique(states.vector_ids[answered])
        segments = []
        for segment, file in zip(manifest.segments, files, strict=True):
            hidden = np.setdiff1d(file.ids, used, assume_unique=True)
            known: IntArray | None = None
            if segment.hidden is None or self._is_whole(segment.hidden):
                known = marked(read_marks(index_dir, segment.hidden))
            if known is None or not np.array_equal(known, hidden):
                if known is None or (segment in manifest.segments and segment.hidden is not None):
                    self._say(f"hidden vectors of {segment.data.path}: determined again")
                elif len(hidden):
                    self._say(f"{len(hidden)} vectors of {segment.data.path} hidden: no picture uses them")
                segment = dataclasses.replace(
                    segment, hidden=self.writer.add_marks({0: hidden}), hidden_count=len(hidden)
                )
            segments.append(segment)
        kept = tuple(f for f in fragments if f.rows > f.dead_count)
        return dataclasses.replace(manifest, fragments=kept, segments=tuple(segments))

    def _killed(self, fragment: Fragment, row_ids: IntArray) -> Fragment:
        dead, missing = dead_rows(self.index_dir, fragment), missing_rows(self.index_dir, fragment)
        return self._with_marks(fragment, np.union1d(dead, row_ids), missing)

    def _without_vectors(self, fragment: Fragment, row_ids: IntArray) -> Fragment:
        """`fragment`, written anew, with those of the rows that it has naming no vector."""
        index_dir = self.index_dir
        own = set(row_ids[(row_ids >= fragment.first_row_id) & (row_ids <= fragment.last_row_id)].tolist())
        if not own:
            return fragment
        records = lambda: _in_batches(  # noqa: E731
            dataclasses.replace(record, vector_id=-1) if record.row_id in own else record
            for record in read_fragment_records(index_dir, fragment)
        )
        written = write_fragment(self.writer, records)
        assert written is not None
        return self._with_marks(written, dead_rows(index_dir, fragment), missing_rows(index_dir, fragment))

    # -- tags

    def _repaired_tags(self, manifest: Manifest) -> Manifest:
        kept: dict[str, TagRef] = {}
        changed = False
        for ref in manifest.tags:
            bad = [file for file in ref.files() if self._tag_problem(ref, file) is not None]
            if not bad:
                kept[key_of(ref.name, ref.kind)] = written_twice(self.index_dir, ref)
                if ref.copy is None:
                    changed = True
                    self._say(f"the {ref.kind} {ref.name!r}: written a second time")
                continue
            changed = True
            for file in bad:
                self._put_aside(self.index_dir / file.path)
            whole = next((file for file in ref.files() if file not in bad), None)
            names = ", ".join(file.path for file in bad)
            if whole is not None:
                kept[key_of(ref.name, ref.kind)] = add_tag_file(self.index_dir, read_tag_file(self.index_dir, whole))
                self._say(f"{names}: damaged; the {ref.kind} {ref.name!r} is intact in its other file")
                continue
            older = self._older_tag(ref)
            if older is not None:
                kept[key_of(ref.name, ref.kind)] = older
                self._say(f"{names}: damaged; the {ref.kind} {ref.name!r} is as it was before its last change")
            else:
                self._say(f"{names}: damaged; the {ref.kind} {ref.name!r} is lost: {LOST[ref.kind]}")
        before = self._repaired_tags_before(manifest)
        if before != manifest.tags_before:
            manifest = dataclasses.replace(manifest, tags_before=before)
        return with_tags(manifest, kept) if changed else manifest

    def _repaired_tags_before(self, manifest: Manifest) -> tuple[TagRef, ...]:
        """The tags before their last change, without those of which nothing is whole: they can replace nothing."""
        kept: list[TagRef] = []
        for ref in manifest.tags_before:
            bad = [file for file in ref.files() if self._tag_problem(ref, file) is not None]
            if not bad:
                kept.append(ref)
                continue
            for file in bad:
                self._put_aside(self.index_dir / file.path)
            names = ", ".join(file.path for file in bad)
            whole = next((file for file in ref.files() if file not in bad), None)
            if whole is not None:
                kept.append(add_tag_file(self.index_dir, read_tag_file(self.index_dir, whole)))
                self._say(f"{names}: damaged; an older {ref.kind} {ref.name!r} is intact in its other file")
            else:
                self._say(f"{names}: damaged; an older {ref.kind} {ref.name!r} is no longer kept")
        return tuple(kept)

    def _repaired_words(self, manifest: Manifest, kind: Kind) -> Manifest:
        kept = []
        again = "read the words of" if kind == "words" else "caption"
        command = "read" if kind == "words" else "caption"
        for ref in words_of(manifest, kind):
            message = words_problem(self.index_dir, ref) if self._is_whole(ref.file) else "damaged"
            if message is None:
                kept.append(ref)
                continue
            self._put_aside(self.index_dir / ref.file.path)
            pictures = f"{ref.pictures:,} pictures" if ref.pictures > 1 else "one picture"
            self._say(f"{ref.file.path}: {message}; to {again} {pictures} again, run: clipsearch {command}")
        return manifest if len(kept) == len(words_of(manifest, kind)) else with_words(manifest, tuple(kept), kind)

    def _tag_problem(self, ref: TagRef, file: FileRef) -> str | None:
        """What is wrong with one of a tag's files. Raises: StorageError if it cannot be read."""
        self._is_whole(file)
        return tag_problem(self.index_dir, ref, file)

    def _older_tag(self, ref: TagRef) -> TagRef | None:
        """A tag before its last change, of this or an older generation."""
        older = [
            tag
            for m in self.before
            for tag in (*m.tags_before, *m.tags)
            if key_of(tag.name, tag.kind) == key_of(ref.name, ref.kind)
        ]
        for tag in older:
            for file in tag.files():
                if tag_problem(self.index_dir, tag, file) is None:
                    return add_tag_file(self.index_dir, read_tag_file(self.index_dir, file))
        return None


def _of_same_paths(paths: IntArray, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """`chosen` and all other rows of the same paths. Shapes: (N, K) int64, (N,) bool."""
    _, number = np.unique(paths, axis=0, return_inverse=True)
    found: npt.NDArray[np.bool_] = np.isin(number.ravel(), number.ravel()[chosen])
    return found


LOST = {
    "tag": "tag its pictures again",
    "concept": "learn it again from pictures",
    "search": "save it again",
}
"""What to do when no file of a tag is left."""
_UNMARKED = dict.fromkeys(("dead", "dead_copy", "missing", "missing_copy")) | {"dead_count": 0, "missing_count": 0}


def _marks_of(fragment: Fragment) -> tuple[FileRef | None, ...]:
    return fragment.dead, fragment.dead_copy, fragment.missing, fragment.missing_copy


class _Seen:
    """The files of a folder that may be pictures and are not left out, by what their paths are known by."""

    def __init__(self, root: Path, index_dir: Path) -> None:
        ignore, found = Ignore(root), Scan()
        ignore.archives = True
        blocks = [block.paths for block in walk(root, found, exclude=index_dir, ignore=ignore)]
        blocks += [block_of(archive).paths for archive in found.archives]
        self._paths = {key for paths in blocks for key in map(tuple, paths.tolist())}

    def has(self, paths: IntArray) -> npt.NDArray[np.bool_]:
        """Whether each path is one of theirs. Shapes: (N, 2) int64; (N,)."""
        return np.fromiter((key in self._paths for key in map(tuple, paths.tolist())), bool, len(paths))


def _stop_if_unreadable(error: CorruptIndex) -> None:
    """What a drive does not give is not therefore lost: nothing is called so, and nothing is changed."""
    if error.unreadable:
        raise StorageError(
            error.file,
            error.problem,
            "Nothing was changed. The drive may be failing: copy the folder and its index to another one, then repair "
            "the index there.",
        ) from error


def _bytes_of(path: Path) -> bytes:
    """A file's bytes, after some attempts. Raises: StorageError."""
    for attempt in range(READ_ATTEMPTS):
        try:
            return read_plain(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            if attempt + 1 == READ_ATTEMPTS:
                problem = f"it cannot be read ({error.strerror})"
                _stop_if_unreadable(CorruptIndex(path, problem, unreadable=True))
            time.sleep(READ_AGAIN_S)
    raise AssertionError


def _copy_new(path: Path, target: Path) -> None:
    """Copy a plain file to a name that is free, durably; nothing stays of a copy that fails. Raises: OSError."""
    with path.open("rb") as source, target.open("xb") as copy:
        try:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        except BaseException:
            target.unlink()
            raise


def _may_be_there(path: Path) -> bool:
    """Whether the system does not say that nothing is at `path`."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _in_batches(records: Iterator[ImageRecord]) -> Iterator[list[ImageRecord]]:
    batch: list[ImageRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
