"""Join fragments: in tiers while an index grows, all into one on demand. Deleted rows are left out on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.errors import IndexNotFound
from clipsearch.indexer.segments import MERGE_FAN, add_segment
from clipsearch.indexer.tune import retuned
from clipsearch.records import EmbeddingBatch, FileRef, Fragment, IntArray, Manifest
from clipsearch.store import Writer, read_fragment, read_tombstones

TIER_BASE_ROWS = 256


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What compaction did."""

    generation: int
    fragments_before: int
    fragments_after: int
    deleted_rows_dropped: int
    bytes_before: int
    bytes_after: int


def compact(index_dir: Path, *, recall: float | None = None) -> CompactReport:
    """Join all fragments into one without the deleted rows.

    Inverted files are tuned anew, for `recall` (0..1) at 10, which is kept, or for what was kept before.
    Raises: IndexNotFound, IndexLocked, CorruptIndex, OutOfSpace.
    """
    with Writer(index_dir) as writer:
        before = writer.current()
        if before is None:
            raise IndexNotFound([index_dir])
        after = before
        recall = before.recall_target if recall is None else recall
        if len(before.fragments) > 1 or before.tombstone_count:
            target = dataclasses.replace(before, recall_target=recall)
            after = writer.commit(merge_fragments(writer, target, 0, len(before.fragments)))
        elif recall != before.recall_target:
            after = writer.commit(retuned(index_dir, before, recall))
        else:
            writer.collect()
        return CompactReport(
            generation=after.generation,
            fragments_before=len(before.fragments),
            fragments_after=len(after.fragments),
            deleted_rows_dropped=before.tombstone_count - after.tombstone_count,
            bytes_before=sum(ref.size_bytes for ref in before.files()),
            bytes_after=sum(ref.size_bytes for ref in after.files()),
        )


def due_merge(fragments: Sequence[Fragment]) -> int | None:
    """Where the newest fragments that should be joined begin, or None.

    Size-tiered: eight neighbours of one tier make one of the next, so a row is rewritten log8(n) times and
    the number of fragments grows with log(n).
    """
    for tier in range(1 + max((_tier(f) for f in fragments), default=0)):
        start = len(fragments)
        while start and _tier(fragments[start - 1]) <= tier:
            start -= 1
        if len(fragments) - start >= MERGE_FAN:
            return start
    return None


def _tier(fragment: Fragment) -> int:
    return max(0, math.floor(math.log(max(fragment.rows, 1) / TIER_BASE_ROWS, MERGE_FAN)))


def merge_fragments(writer: Writer, manifest: Manifest, start: int, stop: int) -> Manifest:
    """A manifest, not yet committed, in which fragments start..stop-1 are one without their deleted rows."""
    dead = read_tombstones(writer.index_dir, manifest)
    merged = manifest.fragments[start:stop]

    def batches() -> Iterator[EmbeddingBatch]:
        for fragment in merged:
            for batch in read_fragment(writer.index_dir, fragment, dim=manifest.model.dim):
                yield without_rows(batch, dead)

    fragment = writer.add_fragment(batches(), manifest.model)
    joined: tuple[Fragment, ...] = ()
    if fragment.rows:
        segmented = add_segment(
            writer,
            fragment,
            manifest.model.dim,
            batches,
            collection_rows=manifest.pictures,
            recall=manifest.recall_target,
        )
        joined = (segmented,)
    spans = [(f.first_row_id, f.last_row_id) for f in merged if f.rows]
    gone = np.zeros(len(dead), bool)
    for first, last in spans:
        gone |= (dead >= first) & (dead <= last)
    return dataclasses.replace(
        with_tombstones(writer, manifest, dead[~gone]),
        fragments=(*manifest.fragments[:start], *joined, *manifest.fragments[stop:]),
    )


def with_tombstones(writer: Writer, manifest: Manifest, row_ids: IntArray) -> Manifest:
    """`manifest` with exactly these rows deleted. Shape: (T,) int64, sorted."""
    ref: FileRef | None = writer.add_tombstones(row_ids) if len(row_ids) else None
    return dataclasses.replace(manifest, tombstones=ref, tombstone_count=len(row_ids))


def without_rows(batch: EmbeddingBatch, dead: IntArray) -> EmbeddingBatch:
    """`batch` without the rows whose ids are in `dead` (sorted)."""
    row_ids = np.array([record.row_id for record in batch.records], np.int64)
    keep = ~np.isin(row_ids, dead)
    if keep.all():
        return batch
    has_vector = np.array([record.status == "ok" for record in batch.records], bool)
    records = [record for record, kept in zip(batch.records, keep, strict=True) if kept]
    return EmbeddingBatch(records, batch.vectors[keep[has_vector]])
