"""Join fragments and segments: in tiers while an index grows, all into one on demand.

Size-tiered: eight of one tier (a power of eight in rows) make one of the next, so a row is rewritten log8(n) times, the
number of files grows with log(n), and a merge writes no more than what caused it. One of which a third is dead is
written anew by itself. Rows and vectors are joined apart: what happens to rows (new dates, renames, deletions) rewrites
no vector.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from clipsearch.config import is_index
from clipsearch.errors import IndexNotFound
from clipsearch.indexer.segments import MERGE_FAN, write_fragment, write_segment
from clipsearch.indexer.tune import retuned
from clipsearch.records import Fragment, IntArray, Manifest, Segment
from clipsearch.store import Writer
from clipsearch.store.files import storage_errors
from clipsearch.store.fragments import VectorBlock, merge_records, read_vector_blocks
from clipsearch.store.manifest import is_of_format_1
from clipsearch.store.marks import dead_rows, marked, missing_rows, read_marks
from clipsearch.store.rows import open_rows
from clipsearch.store.words import compacted

DEAD_WORTH_DROPPING = 16
"""Fewer dead rows are left to the next merge of their tier."""

Part = TypeVar("Part", Fragment, Segment)


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
    """Join all fragments into one without the deleted rows, and all segments into one without unused vectors.

    Missing pictures stay. Inverted files are tuned anew, for `recall` (0..1) at 10, which is kept, or for what was kept
    before. Raises: IndexNotFound, IndexLocked, CorruptIndex, OutOfSpace.
    """
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    with storage_errors(index_dir), Writer(index_dir) as writer:
        return _compacted(writer, recall)


def _compacted(writer: Writer, recall: float | None) -> CompactReport:
    from clipsearch.indexer.upgrade import upgraded

    index_dir = writer.index_dir
    before = writer.current()
    if before is None:
        raise IndexNotFound([index_dir])
    after = upgraded(writer, before)
    recall = before.recall_target if recall is None else recall
    target = dataclasses.replace(after, recall_target=recall)
    dead = sum(fragment.dead_count for fragment in after.fragments)
    unused = unused_vectors(index_dir, after)
    if len(after.fragments) > 1 or dead:
        target = merge_fragments(writer, target, range(len(target.fragments)))
    if len(after.segments) > 1 or any(len(ids) for ids in unused):
        target = merge_segments(writer, target, range(len(target.segments)), unused)
    elif recall != before.recall_target:
        target = retuned(index_dir, target, recall)
    if target.words or target.captions:
        target = compacted(writer, target, _known_contents(index_dir, target))
    if target != before:
        after = writer.commit(target)
    else:
        writer.collect()
    return CompactReport(
        generation=after.generation,
        fragments_before=len(before.fragments),
        fragments_after=len(after.fragments),
        deleted_rows_dropped=dead,
        bytes_before=sum(ref.size_bytes for ref in before.files()),
        bytes_after=sum(ref.size_bytes for ref in after.files()),
    )


def _known_contents(index_dir: Path, manifest: Manifest) -> IntArray:
    """The content hashes of all rows that are not dead. Shape: (N, 2) int64."""
    found = [np.empty((0, 2), np.int64)]
    for fragment in manifest.fragments:
        rows = open_rows(index_dir, fragment)
        alive = ~np.isin(rows.number("row_id"), dead_rows(index_dir, fragment))
        columns = rows.all_columns
        found.append(columns.hashes[alive])
        if columns.part_hashes is not columns.hashes:
            found.append(columns.part_hashes[alive])
    return np.concatenate(found)


def tier_of(rows: int) -> int:
    """Which tier a part of so many rows is in: floor(log8(rows))."""
    tier = 0
    while rows >= MERGE_FAN:
        rows //= MERGE_FAN
        tier += 1
    return tier


def due(sizes: Sequence[int], dead: Sequence[int]) -> list[int] | None:
    """Which parts should be joined next, or None. `sizes` are their rows, `dead` how many of these are of no use."""
    tiers: dict[int, list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        tiers[tier_of(size)].append(number)
    for tier in sorted(tiers):
        if len(tiers[tier]) >= MERGE_FAN:
            return tiers[tier]
    for number, (size, gone) in enumerate(zip(sizes, dead, strict=True)):
        if gone == size or (gone >= DEAD_WORTH_DROPPING and 2 * gone >= size - gone):
            return [number]
    return None


def merge_due(
    writer: Writer, manifest: Manifest, notify: Callable[[], None] = lambda: None, *, drop_unused: bool = True
) -> Manifest:
    """`manifest`, not yet committed, after all merges that are due, of its rows and vectors.

    `drop_unused`: leave out vectors that no row refers to.
    """
    while True:
        rows = due([f.rows for f in manifest.fragments], [f.dead_count for f in manifest.fragments])
        if rows is None:
            break
        notify()
        manifest = merge_fragments(writer, manifest, rows)
    while True:
        # what is hidden is unused, or its picture is missing: only where much is hidden is it worth to look which
        sizes = [segment.vectors for segment in manifest.segments]
        none = [np.empty(0, np.int64)] * len(sizes)
        chosen = due(sizes, [segment.hidden_count if drop_unused else 0 for segment in manifest.segments])
        if chosen is None:
            return manifest
        unused = unused_vectors(writer.index_dir, manifest) if drop_unused else none
        chosen = due(sizes, [len(ids) for ids in unused])
        if chosen is None:
            return manifest
        notify()
        manifest = merge_segments(writer, manifest, chosen, unused)


def merge_fragments(writer: Writer, manifest: Manifest, chosen: Sequence[int]) -> Manifest:
    """`manifest`, not yet committed, in which some fragments are one, without their dead rows."""
    parts = [manifest.fragments[number] for number in chosen]
    index_dir = writer.index_dir
    joined: list[Fragment] = []
    if any(part.rows > part.dead_count for part in parts):
        fragment = write_fragment(writer, lambda: merge_records(index_dir, parts))
        if fragment is not None:
            missing = _joined(missing_rows(index_dir, part) for part in parts)
            joined = [writer.mark_rows(fragment, np.empty(0, np.int64), missing)]
    return dataclasses.replace(manifest, fragments=_replaced(manifest.fragments, chosen, joined))


def merge_segments(
    writer: Writer, manifest: Manifest, chosen: Sequence[int], unused: Sequence[IntArray] | None = None
) -> Manifest:
    """`manifest`, not yet committed, in which some segments are one, without the vectors that no row refers to."""
    index_dir, dim = writer.index_dir, manifest.model.dim
    unused = unused_vectors(index_dir, manifest) if unused is None else unused
    parts = [manifest.segments[number] for number in chosen]
    dropped = [unused[number] for number in chosen]
    joined: list[Segment] = []
    if any(part.vectors > len(ids) for part, ids in zip(parts, dropped, strict=True)):
        segment = write_segment(
            writer,
            lambda: merged_blocks([_without(index_dir, p, dim, ids) for p, ids in zip(parts, dropped, strict=True)]),
            manifest.model,
            collection_rows=manifest.answered,
            recall=manifest.recall_target,
        )
        if segment is not None:
            hidden = marked(_joined(read_marks(index_dir, part.hidden) for part in parts))
            hidden = np.setdiff1d(hidden, np.concatenate(dropped))
            joined = [dataclasses.replace(segment, hidden=writer.add_marks({0: hidden}), hidden_count=len(hidden))]
    return dataclasses.replace(manifest, segments=_replaced(manifest.segments, chosen, joined))


def _replaced(parts: tuple[Part, ...], chosen: Sequence[int], joined: list[Part]) -> tuple[Part, ...]:
    """`parts` with the joined one in the place of the last chosen."""
    gone = set(chosen)
    kept: list[Part] = []
    for number, part in enumerate(parts):
        if number not in gone:
            kept.append(part)
        elif number == max(gone):
            kept += joined
    return tuple(kept)


def _joined(marks: Iterable[dict[int, IntArray]]) -> dict[int, IntArray]:
    joined: dict[int, list[IntArray]] = defaultdict(list)
    for sets in marks:
        for number, ids in sets.items():
            joined[number].append(ids)
    return {number: np.unique(np.concatenate(ids)) for number, ids in joined.items()}


def unused_vectors(index_dir: Path, manifest: Manifest) -> list[IntArray]:
    """Of each segment, the ids of its hidden vectors that no row, answered or missing, refers to. Ascending."""
    hidden = [marked(read_marks(index_dir, segment.hidden)) for segment in manifest.segments]
    if not any(len(ids) for ids in hidden):
        return hidden
    used = np.zeros(0, np.int64)
    for fragment in manifest.fragments:
        if fragment.missing_count:
            rows = open_rows(index_dir, fragment)
            missing = marked(missing_rows(index_dir, fragment))
            row_ids, vector_ids = rows.number("row_id"), rows.number("vector_id")
            used = np.union1d(used, vector_ids[np.isin(row_ids, missing)])
    return [np.setdiff1d(ids, used, assume_unique=True) for ids in hidden]


def _without(index_dir: Path, segment: Segment, dim: int, dropped: IntArray) -> Iterator[VectorBlock]:
    for block in read_vector_blocks(index_dir, segment, dim):
        kept = ~np.isin(block.ids, dropped)
        yield block if kept.all() else VectorBlock(block.ids[kept], block.keys[kept], block.vectors[kept])


def merged_blocks(sources: Sequence[Iterator[VectorBlock]]) -> Iterator[VectorBlock]:
    """The blocks of several sources, each of ascending ids, in the order of their ids; a bounded number in memory."""
    heads = [_next_block(source) for source in sources]
    while True:
        waiting = [n for n, head in enumerate(heads) if head is not None]
        if not waiting:
            return
        first = min(waiting, key=lambda n: int(_head(heads[n]).ids[0]))
        block = _head(heads[first])
        limits = [int(_head(heads[n]).ids[0]) for n in waiting if n != first]
        stop = len(block.ids) if not limits else int(np.searchsorted(block.ids, min(limits)))
        yield VectorBlock(block.ids[:stop], block.keys[:stop], block.vectors[:stop])
        if stop == len(block.ids):
            heads[first] = _next_block(sources[first])
        else:
            heads[first] = VectorBlock(block.ids[stop:], block.keys[stop:], block.vectors[stop:])


def _head(block: VectorBlock | None) -> VectorBlock:
    assert block is not None
    return block


def _next_block(source: Iterator[VectorBlock]) -> VectorBlock | None:
    return next((block for block in source if len(block.ids)), None)


def counted(index_dir: Path, manifest: Manifest) -> Manifest:
    """`manifest` with its files counted anew: answered, skipped, missing; and its other views."""
    pictures = skipped = missing = more = 0
    for fragment in manifest.fragments:
        rows = open_rows(index_dir, fragment)
        row_ids, status = rows.number("row_id"), rows.number("status")
        starts = rows.all_columns.starts if fragment.views else np.ones(len(row_ids), bool)
        dead = np.isin(row_ids, dead_rows(index_dir, fragment))
        away = np.isin(row_ids, marked(missing_rows(index_dir, fragment))) & ~dead
        missing += int((away & starts).sum())
        answered = ~dead & ~away & (status == 0)
        pictures += int((answered & starts).sum())
        more += int((answered & ~starts).sum())
        skipped += int((~dead & ~away & (status != 0)).sum())
    return dataclasses.replace(manifest, pictures=pictures, skipped=skipped, missing=missing, more_views=more)


def needs_upgrade(manifest: Manifest) -> bool:
    """Whether some of it was written in format 1."""
    return any(is_of_format_1(fragment) for fragment in manifest.fragments)
