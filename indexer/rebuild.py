"""What stays of an index that is encoded again (`--reindex`): pictures that nobody can see at present, or that could be
read before and not now, are not lost with the rows and vectors that are replaced. What is made anew lies beside
the old (`Manifest.rebuild`), and takes its place in the last commit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from clipsearch.indexer.absence import archives_emptied, split_vanished
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.ignore import EXCLUDED
from clipsearch.indexer.scan import Scan
from clipsearch.indexer.segments import write_fragment, write_segment
from clipsearch.records import FloatArray, ImageRecord, Manifest
from clipsearch.store import Writer, verify_file
from clipsearch.store.fragments import VectorBlock
from clipsearch.store.hashes import hash_keys, vector_key
from clipsearch.vectors import open_segments


def carried_over(
    writer: Writer, old: Manifest, new: Manifest, scan: Scan, *, not_read: set[str], prune: bool, now_s: int
) -> tuple[Manifest, int]:
    """`new`, not yet committed, with the rows of `old` whose pictures nobody can see now, or could not read this time;
    with their vectors too if these are of the same model. And how many pictures were deleted.

    `not_read`: places of files, or members of archives, that could be read before. `prune`: forget what nobody can see
    instead, but not what only this run leaves out.
    """
    index_dir = writer.index_dir
    before, made = Catalog(index_dir, old.fragments), Catalog(index_dir, new.fragments)
    if not len(before) or (prune and not not_read and not scan.left_out):
        return new, 0
    absent = np.flatnonzero(made.match(before.paths_by_number()) < 0)
    unread = {row for row in absent.tolist() if before.path(row) in not_read} if not_read else set()
    absent = np.array([row for row in absent.tolist() if row not in unread], np.int64)
    if not_read and before.has_members:
        places = {made.record(row).place for row in range(len(made)) if made.is_member(row) and made.statuses[row] == 0}
        members = (row for row in range(len(before)) if before.is_member(row))
        unread |= {row for row in members if (place := before.record(row).place) in not_read and place not in places}
    emptied = [] if prune else _missing_from_archives(before, made, unread)
    if prune:
        deleted: list[int] = []
        missing = [row for row in absent.tolist() if scan.leaves_out(before.path(row)) == EXCLUDED]
    else:
        deleted, missing = split_vanished(before, scan, old.devices, absent)
    rows = [row for row in (*missing, *emptied, *sorted(unread)) if before.statuses[row] == 0]
    if not rows:
        return new, int(before.starts[np.array(deleted, np.int64)].sum())
    since: dict[int, list[int]] = {}
    same_model = old.model.makes_vectors_of(new.model)
    records: list[ImageRecord] = []
    vectors: list[FloatArray] = []
    stored = _Stored(index_dir, old) if same_model else None
    for row in rows:
        record = before.record(row)
        vector_id = -1
        if stored is not None and (vector := stored.vector(record.vector_id)) is not None:
            vector_id = new.next_vector_id + len(vectors)
            vectors.append(vector)
        row_id = new.next_row_id + len(records)
        records.append(dataclasses.replace(record, row_id=row_id, vector_id=vector_id))
        first_s = int(before.missed_since_s[row]) if before.away[row] else now_s
        since.setdefault(first_s, []).append(row_id)
    fragment = write_fragment(writer, lambda: [records])
    assert fragment is not None
    marks = {s: np.array(ids, np.int64) for s, ids in since.items()}
    fragment = writer.mark_rows(fragment, np.empty(0, np.int64), marks)
    segments = new.segments
    if vectors:
        ids = np.arange(len(vectors), dtype=np.int64) + new.next_vector_id
        hashes = [vector_key(record) for record in records if record.vector_id >= 0]
        block = VectorBlock(ids, hash_keys(hashes), np.stack(vectors))
        segment = write_segment(writer, lambda: [block], new.model)
        assert segment is not None
        hidden = writer.add_marks({0: ids})
        segments = (*segments, dataclasses.replace(segment, hidden=hidden, hidden_count=len(ids)))
    manifest = dataclasses.replace(
        new,
        fragments=(*new.fragments, fragment),
        segments=segments,
        next_row_id=new.next_row_id + len(records),
        next_vector_id=new.next_vector_id + len(vectors),
    )
    return manifest, int(before.starts[np.array(deleted, np.int64)].sum())


def _missing_from_archives(before: Catalog, made: Catalog, unread: set[int]) -> list[int]:
    """The rows of pictures that archives, read to their ends, have no more: those that were missing already, and what
    vanished in bulk."""
    if not before.has_members:
        return []
    members = [made.record(row) for row in range(len(made)) if made.is_member(row) and made.statuses[row] == 0]
    places, contents = {record.place for record in members}, {(record.path, record.content_hash) for record in members}
    there = made.match(before.paths_by_number()) >= 0
    missing: list[int] = []
    lost: dict[str, list[int]] = {}
    for row in np.flatnonzero(there & (before.statuses == 0)).tolist():
        if not before.is_member(row) or row in unread:
            continue
        record = before.record(row)
        if record.place in places or (record.path, record.content_hash) in contents:
            continue
        if before.away[row]:
            missing.append(row)
        else:
            lost.setdefault(record.path, []).append(row)
    emptied = archives_emptied(before, lost)
    return missing + [row for path in sorted(emptied) for row in lost[path]]


class _Stored:
    """Vectors of a generation by their ids."""

    def __init__(self, index_dir: Path, manifest: Manifest) -> None:
        self._segments = open_segments(
            manifest, lambda ref: verify_file(index_dir, ref), lambda _: np.empty(0, np.int64)
        )

    def vector(self, vector_id: int) -> FloatArray | None:
        """Shape: (D,) float32."""
        return next((v for segment in self._segments if (v := segment.find(vector_id)) is not None), None)
