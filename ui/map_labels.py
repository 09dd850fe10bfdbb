"""What groups of pictures on a map show, in a word: the thing of the bank of everyday texts that sets them apart.

A group is compared with the mean of all pictures on the map, and a word with the mean of all words: what all share says
nothing of one. No word is used twice at one level of detail.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipsearch.records import FloatArray, IntArray
from clipsearch.search.collection import Collection
from clipsearch.search.confidence import bank_things, bank_vectors

LEVELS = (9, 40)  # groups to label: on the whole map, and from nearer
LEAST_PICTURES = 4  # of a group that is labelled
LEAST_LIFT = 2.0  # spreads of all words by which a group's word must stand out
_ROUNDS = 25


class Label(NamedTuple):
    """A word at a place of the map (0..1), at a level of detail."""

    text: str
    x: float
    y: float
    level: int
    pictures: int


def label_places(photos: Collection, vectors: FloatArray, places: FloatArray) -> list[Label]:
    """Words for the groups that lie together. Shapes: vectors (N, D), places (N, 2)."""
    labels: list[Label] = []
    if len(places) < 2 * LEAST_PICTURES:
        return labels
    for level, most in enumerate(LEVELS):
        groups = cluster(places, min(most, len(places) // (2 * LEAST_PICTURES)))
        words = say_groups(photos, vectors, groups)
        for group, word in words.items():
            own = places[groups == group]
            x, y = np.median(own, axis=0).tolist()
            labels.append(Label(word, round(x, 4), round(y, 4), level, len(own)))
    return labels


def say_groups(photos: Collection, vectors: FloatArray, groups: IntArray) -> dict[int, str]:
    """The word of each group that has one. Shapes: vectors (N, D); groups (N,), -1 for none."""
    things = bank_things()
    words = bank_vectors(photos.encoder)[: len(things)]
    words = words - words.mean(axis=0)
    everything = vectors.mean(axis=0)
    numbers, counts = np.unique(groups[groups >= 0], return_counts=True)
    found: list[tuple[float, int, int]] = []
    for group, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        if count < LEAST_PICTURES:
            continue
        own = vectors[groups == group].mean(axis=0)
        apart = own - everything if len(numbers) > 1 else own
        scores = words @ apart
        spread = float(scores.std())
        if spread > 0:
            lifts = (scores - scores.mean()) / spread
            found += [(float(lifts[word]), group, int(word)) for word in np.argsort(-lifts)[:5]]
    said: dict[int, str] = {}
    used: set[int] = set()
    for lift, group, word in sorted(found, reverse=True):
        if lift >= LEAST_LIFT and group not in said and word not in used:
            said[group] = things[word]
            used.add(word)
    return said


def cluster(places: FloatArray, count: int) -> IntArray:
    """The number of the group that each place belongs to: k-means, the same each time. Shapes: (N, 2), (N,)."""
    middles = places[:1].astype(np.float64)
    nearest = np.full(len(places), np.inf)
    while len(middles) < count:  # the farthest of all is the next to begin with
        nearest = np.minimum(nearest, ((places - middles[-1]) ** 2).sum(axis=1))
        middles = np.concatenate([middles, places[int(nearest.argmax())][None]])
    groups = np.zeros(len(places), np.int64)
    for _ in range(_ROUNDS):
        distances = (middles**2).sum(axis=1) - 2 * places @ middles.T
        groups = distances.argmin(axis=1)
        sizes = np.bincount(groups, minlength=len(middles))
        sums = np.stack([np.bincount(groups, places[:, axis], len(middles)) for axis in (0, 1)], axis=1)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], middles)
        if np.allclose(moved, middles):
            break
        middles = moved
    return groups
