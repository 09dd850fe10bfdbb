"""The score of a picture of which regions are compared, too: its own, or more where one of them is nearer.

Where a region is nearer than the whole, the score is .3 of the whole's and .7 of the region's. So it lies between the
two, the picture that was asked with keeps its 1, and what is nearer by its row is nearer by its score: a search that
has seen all rows above a cosine knows the order of all pictures above it. The weights are measured in docs/views.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.records import FloatArray, Hit, IntArray

if TYPE_CHECKING:
    from clipsearch.search.collection import Collection

REGION_COUNTS = 0.7  # the rest is the whole's
AT_ONCE = 8192  # vectors in memory
CLOSE = 1e-5  # cosines of one pair, multiplied in other company, differ by less


def joined(scores: FloatArray, which: IntArray, region_scores: FloatArray) -> FloatArray:
    """The scores of pictures. Shapes: scores (N,) or (N, Q), of each as a whole; which (R,), the picture that a region
    is of; region_scores (R,) or (R, Q); result as `scores`."""
    best = scores.copy()
    np.maximum.at(best, which, region_scores)
    found: FloatArray = scores + REGION_COUNTS * (best - scores)
    return found


def scores_of(photos: Collection, row_ids: IntArray, vector: FloatArray) -> FloatArray:
    """What pictures score, each with its regions. Shapes: row_ids (N,) int64, vector (D,) or (D, Q); (N,) or (N, Q)
    float32."""
    scores: FloatArray = photos.vectors(row_ids) @ vector
    which, region_ids = photos.regions_of(row_ids)
    return joined(scores, which, photos.vectors(region_ids) @ vector) if len(region_ids) else scores


def pictures_of(
    photos: Collection, vector: FloatArray, scores: FloatArray, row_ids: IntArray, *, are_all: bool
) -> tuple[FloatArray, IntArray]:
    """The pictures that the nearest rows are of, best first: all those that score as much as the last row does, which
    no picture that has none of the rows does. `are_all`: there are no more rows.

    Shapes: scores, row_ids (K,), -1 for none; results (P,) float32, (P,) int64.
    """
    there = row_ids >= 0
    scores, row_ids = scores[there], row_ids[there]
    wholes = photos.wholes_of(row_ids)
    pictures, at = np.unique(wholes, return_inverse=True)
    are_whole = wholes == row_ids
    own = np.full(len(pictures), np.nan, np.float32)
    own[at[are_whole]] = scores[are_whole]
    farther = np.flatnonzero(np.isnan(own))  # than the last row
    for start in range(0, len(farther), AT_ONCE):
        some = farther[start : start + AT_ONCE]
        own[some] = photos.vectors(pictures[some]) @ vector
    own = joined(own, at[~are_whole], scores[~are_whole])  # a region that is farther is not the nearest
    order = np.lexsort((pictures, -own))
    if not are_all and len(scores):
        order = order[own[order] >= float(scores[-1]) + CLOSE]
    return own[order], pictures[order]


def with_places(photos: Collection, vector: FloatArray, hits: list[Hit]) -> list[Hit]:
    """Hits, each of which says which region it was found by, if one is nearer than the whole picture."""
    row_ids = np.array([hit.record.row_id for hit in hits], np.int64)
    which, region_ids = photos.regions_of(row_ids)
    if not len(region_ids):
        return hits
    scores, region_scores = photos.vectors(row_ids) @ vector, photos.vectors(region_ids) @ vector
    placed = list(hits)
    for n in np.unique(which).tolist():
        own = np.flatnonzero(which == n)
        best = own[int(np.argmax(region_scores[own]))]
        if region_scores[best] > scores[n]:
            view = photos.record(int(region_ids[best])).view
            placed[n] = replace(hits[n], record=replace(hits[n].record, view=view))
    return placed
