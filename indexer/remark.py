"""Write the marks that a run has changed: which rows are dead or missing, where these rows are by now; which vectors no
answered row refers to."""

from __future__ import annotations

import dataclasses

import numpy as np

from clipsearch.indexer.catalog import Catalog, References
from clipsearch.records import Fragment, IntArray, Segment
from clipsearch.store import Writer, open_rows
from clipsearch.store.marks import dead_rows, marked, missing_rows, read_marks
from clipsearch.vectors import VectorsFile


def remarked(
    writer: Writer, catalog: Catalog, fragments: tuple[Fragment, ...], touched: set[int]
) -> tuple[Fragment, ...]:
    """`fragments` with the marks of the catalog's fragments `touched`, also where these were merged meanwhile."""
    if not touched:
        return fragments
    own = {catalog.names[number]: number for number in touched}
    made = []
    for fragment in fragments:
        number = own.pop(fragment.data.path, None)
        if number is not None:
            marks = catalog.marks[number]
            fragment = writer.mark_rows(fragment, marks.dead, marks.missing)
        made.append(fragment)
    return _RowMarks(writer, catalog, set(own.values())).put(tuple(made)) if own else tuple(made)


def with_hidden(writer: Writer, references: References, segments: tuple[Segment, ...], dim: int) -> tuple[Segment, ...]:
    """`segments` with the vectors hidden that no answered row refers to any more."""
    changed = np.array(sorted(references.changed), np.int64)
    references.changed.clear()
    made: list[Segment] = []
    for segment in segments:
        own = changed[(changed >= segment.first_vector_id) & (changed <= segment.last_vector_id)]
        if len(own):
            before = marked(read_marks(writer.index_dir, segment.hidden))
            after = np.union1d(np.setdiff1d(before, own), references.unreferenced(own))
            after = _only_stored(writer, segment, after, dim)
            if not np.array_equal(before, after):
                ref = writer.add_marks({0: after})
                segment = dataclasses.replace(segment, hidden=ref, hidden_count=len(after))
        made.append(segment)
    return tuple(made)


def _only_stored(writer: Writer, segment: Segment, ids: IntArray, dim: int) -> IntArray:
    """Those of `ids` that are in a segment: merged ones have gaps."""
    if segment.last_vector_id - segment.first_vector_id + 1 == segment.vectors or not len(ids):
        return ids
    stored = VectorsFile(writer.index_dir / segment.mapped.path, dim).ids
    return ids[np.isin(ids, stored)]


class _RowMarks:
    """Puts marks where the rows are now."""

    def __init__(self, writer: Writer, catalog: Catalog, touched: set[int]) -> None:
        self._writer = writer
        chosen = [catalog.marks[number] for number in touched]
        self._dead = np.unique(np.concatenate([np.empty(0, np.int64), *(marks.dead for marks in chosen)]))
        self._missing: dict[int, IntArray] = {}
        for marks in chosen:
            for since, ids in marks.missing.items():
                self._missing[since] = np.union1d(self._missing.get(since, np.empty(0, np.int64)), ids)
        self._own = np.unique(
            np.concatenate([np.empty(0, np.int64), *(catalog.files[number].number("row_id") for number in touched)])
        )

    def put(self, fragments: tuple[Fragment, ...]) -> tuple[Fragment, ...]:
        made = []
        for fragment in fragments:
            own = self._own[slice(*np.searchsorted(self._own, (fragment.first_row_id, fragment.last_row_id + 1)))]
            made.append(self._put(fragment) if len(own) else fragment)
        return tuple(made)

    def _put(self, fragment: Fragment) -> Fragment:
        index_dir = self._writer.index_dir
        row_ids = open_rows(index_dir, fragment, verified=True).number("row_id")
        others = ~np.isin(row_ids, self._own)
        dead_before = dead_rows(index_dir, fragment)
        missing_before = missing_rows(index_dir, fragment)
        keep = row_ids[others]
        dead = np.union1d(dead_before[np.isin(dead_before, keep)], self._dead[np.isin(self._dead, row_ids)])
        missing: dict[int, IntArray] = {}
        for since in {*missing_before, *self._missing}:
            old = missing_before.get(since, np.empty(0, np.int64))
            new = self._missing.get(since, np.empty(0, np.int64))
            ids = np.union1d(old[np.isin(old, keep)], new[np.isin(new, row_ids)])
            if len(ids):
                missing[since] = ids
        if np.array_equal(dead, dead_before) and _same_sets(missing, missing_before):
            return fragment
        return self._writer.mark_rows(fragment, dead, missing)


def _same_sets(one: dict[int, IntArray], other: dict[int, IntArray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(ids, other[number]) for number, ids in one.items())
