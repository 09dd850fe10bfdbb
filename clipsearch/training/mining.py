"""Batches of pairs that are hard to tell apart: the nearest ones, by the vectors that they have by now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipsearch.records import FloatArray, IntArray

GROUP = 8  # pairs that stand together, each far from the others of its batch: a batch of one neighbourhood is too much
POOL = 4096  # pairs among which the nearest are looked for, others in each epoch: the work grows with their number


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Where pairs are. Shapes: vectors (N, D) unit; pictures and captions (N,): numbers, equal for the same."""

    vectors: FloatArray
    pictures: IntArray
    captions: IntArray


def mined_places(
    vectors: FloatArray,
    pictures: IntArray,
    captions: IntArray,
    random: np.random.Generator,
    group: int = GROUP,
    pool: int = POOL,
) -> IntArray:
    """Return an order of the rows in which groups of near ones stand behind each other, groups in random order.

    Rows with the same picture or the same caption are no reason to stand together: they teach each other nothing.
    Shapes: as `Neighbourhood`; result (N,), all rows once.
    """
    shuffled = random.permutation(len(vectors))
    pools = max(1, round(len(shuffled) / pool))
    groups: list[IntArray] = []
    for rows in np.array_split(shuffled, pools):
        groups += [rows[own] for own in _groups(vectors[rows], pictures[rows], captions[rows], group)]
    return np.concatenate([groups[number] for number in random.permutation(len(groups))])


def _groups(vectors: FloatArray, pictures: IntArray, captions: IntArray, group: int) -> list[IntArray]:
    """The first row that is left, and those nearest to it, until none is left."""
    count = len(vectors)
    near = vectors @ vectors.T
    near[(pictures[:, None] == pictures) | (captions[:, None] == captions)] = -2.0
    is_left = np.ones(count, dtype=bool)
    found = []
    for row in range(count):
        if not is_left[row]:
            continue
        is_left[row] = False
        others = np.flatnonzero(is_left)
        if len(others) > group - 1:
            others = others[np.argpartition(-near[row, others], group - 2)[: group - 1]]
        is_left[others] = False
        found.append(np.concatenate([[row], others]))
    return found
