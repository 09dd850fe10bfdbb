"""How well pictures and captions find each other: ranks, what is computed from them, and how sure it is.

Pure NumPy on vectors; where they come from is `encoding`'s business. The full score matrix is never held: 500,000
captions against 100,000 pictures need a few hundred megabytes.

Scores are exact. Components are rounded to multiples of 2^-26, which for components above 1/4 is float32's own
precision; products are then multiples of 2^-52, and since vectors have length 1, every partial sum of a dot product
fits the 53 bits of a float64. So a score depends neither on the order of summation nor on the BLAS, equal pictures
have equal scores wherever they stand, and a tie is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.records import FloatArray, IntArray

DoubleArray = npt.NDArray[np.float64]

RECALL_AT = (1, 5, 10)
MEASURES = (*(f"recall@{k}" for k in RECALL_AT), "median_rank", "map")
DIRECTIONS = ("text_to_image", "image_to_text")
_GRID = 2.0**26
_UNIT_TOLERANCE = 1e-3
_TEXT_BLOCK = 1024
_IMAGE_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How queries of one kind found what belongs to them. Shapes: all (Q,), one entry a query.

    `ranks`: place of the first right answer, from 1. `average_precision`: mean of the precision at each right
    answer. `pictures`: which picture each query belongs to.
    """

    ranks: IntArray
    average_precision: DoubleArray
    pictures: IntArray

    def recall(self, k: int) -> float:
        """Share of the queries with a right answer among the first k."""
        return float(np.mean(self.ranks <= k))

    @property
    def median_rank(self) -> float:
        """Median place of the first right answer."""
        return float(np.median(self.ranks))

    @property
    def mean_average_precision(self) -> float:
        """Mean over the queries of the average precision; with one right answer a query, the mean of 1 / rank."""
        return float(np.mean(self.average_precision))

    def values(self) -> dict[str, float]:
        """All MEASURES by name; recall and map are shares, not percentages."""
        found = (*(self.recall(k) for k in RECALL_AT), self.median_rank, self.mean_average_precision)
        return dict(zip(MEASURES, found, strict=True))


@dataclass(frozen=True, slots=True)
class Metrics:
    """Retrieval in both directions, among `pictures` pictures (each of equal ones counted) and `texts` captions."""

    text_to_image: Retrieval
    image_to_text: Retrieval
    pictures: int
    texts: int

    def values(self) -> dict[str, float]:
        """All measures, named as `text_to_image_recall@1`."""
        return {
            f"{direction}_{name}": value
            for direction in DIRECTIONS
            for name, value in getattr(self, direction).values().items()
        }


def evaluate(images: FloatArray, texts: FloatArray, owner: IntArray, same: IntArray | None = None) -> Metrics:
    """Rank all pictures for each text, and all texts for each picture that has one.

    Shapes: images (N, D) and texts (T, D), unit L2; owner (T,): the picture that each text belongs to. Several texts
    of a picture count as the literature has it: each is a query with one right picture; a picture has several right
    texts, the best placed of which counts for rank and recall. Pictures without texts only stand in the way.

    `same` (N,): a number for each picture, equal for those with the same content. These count as one picture, the first
    of them, which has the texts of all.

    A tie counts against: whatever scores the same as a right answer, and is not one, comes before it. So a model that
    gives everything one vector finds nothing, and the order of the pairs does not matter.
    Raises: ValueError for empty or ill-matched arrays, and for vectors that are not of length 1.
    """
    _check(images, texts, owner)
    if same is None:
        return _evaluated(images, texts, owner)
    _, first, number = np.unique(same, return_index=True, return_inverse=True)
    different, place = np.unique(first[number], return_inverse=True)
    found = _evaluated(images[different], texts, place[owner])
    forth, back = (replace(one, pictures=different[one.pictures]) for one in (found.text_to_image, found.image_to_text))
    return Metrics(forth, back, len(images), len(texts))


def _evaluated(images: FloatArray, texts: FloatArray, owner: IntArray) -> Metrics:
    pictures, captions = len(images), len(texts)
    own = np.concatenate(
        [
            np.einsum("td,td->t", _exact(texts[part]), _exact(images[owner[part]]))
            for part in _blocks(captions, _TEXT_BLOCK)
        ]
    )
    # Each picture's own texts, best first: `place` is 0 for its best one, 1 for the next.
    order = np.lexsort((-own, owner))
    count = np.bincount(owner, minlength=pictures)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    place = np.empty(captions, np.int64)
    place[order] = np.arange(captions) - first[owner[order]]

    image_rank = np.zeros(captions, np.int64)  # of each text's picture
    above = np.zeros(captions, np.int64)  # texts of any picture that score at least as high with the text's picture
    for columns in _blocks(pictures, _IMAGE_BLOCK):
        block = _exact(images[columns]).T
        counts = count[columns]
        for rows in _blocks(captions, _TEXT_BLOCK):
            scores = _exact(texts[rows]) @ block
            image_rank[rows] += np.count_nonzero(scores >= own[rows, None], axis=1)
            for number in range(int(counts.max())):
                having = np.flatnonzero(counts > number)
                theirs = order[first[columns][having] + number]
                part = scores if len(having) == len(counts) else scores[:, having]
                above[theirs] += np.count_nonzero(part >= own[theirs], axis=0)

    # Of a picture's own texts, those before it and those that tie with it are no strangers.
    own_above = _own_at_least(own[order], owner[order])
    strangers = np.empty(captions, np.int64)
    strangers[order] = above[order] - own_above
    precision = (place + 1) / (strangers + place + 1)
    asked = np.flatnonzero(count)
    best = order[first[asked]]
    return Metrics(
        Retrieval(image_rank, 1 / image_rank, owner.astype(np.int64)),
        Retrieval(
            strangers[best] + 1,
            np.bincount(owner, weights=precision, minlength=pictures)[asked] / count[asked],
            asked.astype(np.int64),
        ),
        pictures,
        captions,
    )


def _own_at_least(scores: DoubleArray, owner: IntArray) -> IntArray:
    """For each text how many of its picture's score at least as high. Both sorted: by owner, then score, best first."""
    starts_run = np.ones(len(scores), bool)
    starts_run[1:] = (owner[1:] != owner[:-1]) | (scores[1:] != scores[:-1])
    run = np.cumsum(starts_run) - 1
    run_end = np.append(np.flatnonzero(starts_run)[1:], len(scores))
    starts_owner = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    owner_start = np.repeat(starts_owner, np.diff(np.append(starts_owner, len(scores))))
    found: IntArray = run_end[run] - owner_start
    return found


def _check(images: FloatArray, texts: FloatArray, owner: IntArray) -> None:
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1] or owner.shape != (len(texts),):
        raise ValueError(f"images {images.shape}, texts {texts.shape} and owner {owner.shape} do not match")
    if not len(images) or not len(texts):
        raise ValueError("there is nothing to evaluate")
    if owner.min() < 0 or owner.max() >= len(images):
        raise ValueError("owner names a picture that does not exist")
    for name, vectors in (("images", images), ("texts", texts)):
        for part in _blocks(len(vectors), 65_536):
            off = np.abs(np.linalg.norm(vectors[part], axis=1) - 1)
            if not bool((off <= _UNIT_TOLERANCE).all()):  # also for NaN
                raise ValueError(f"{name} must be vectors of length 1")


def _exact(vectors: FloatArray) -> DoubleArray:
    """The vectors on the grid on which their products and sums are exact in float64."""
    scaled: DoubleArray = np.rint(vectors.astype(np.float64) * _GRID)
    return scaled


def _blocks(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


# How sure


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the bounds that hold it with the confidence asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measures of one or several models on the same pairs, with intervals.

    Keys as in Metrics.values(). `differences`: of each model to the first, from the same resamples, so that what is
    hard for both does not blur it; an interval that does not hold 0 is a difference that is there.
    """

    measures: list[dict[str, Interval]]
    differences: list[dict[str, Interval]]
    confidence: float
    resamples: int
    seed: int


def compare(
    metrics: Sequence[Metrics], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Bootstrap intervals (percentiles) of each model's measures, and of their differences to the first.

    Pictures are drawn with replacement, each with all its captions, since captions of one picture are not independent;
    what is searched stays the same. Raises: ValueError if the metrics are not of the same pairs.
    """
    first = metrics[0]
    asked = first.image_to_text.pictures
    for other in metrics[1:]:
        same = np.array_equal(other.text_to_image.pictures, first.text_to_image.pictures)
        if not same or not np.array_equal(other.image_to_text.pictures, asked):
            raise ValueError("only metrics of the same pairs can be compared")
    position = np.full(first.pictures, -1, np.int64)
    position[asked] = np.arange(len(asked))
    queries = [
        [_Resampled(getattr(one, direction), position) for direction in DIRECTIONS] for one in metrics
    ]  # models x directions
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(metrics), len(DIRECTIONS) * len(MEASURES)))
    for row in drawn:
        weights = np.bincount(generator.integers(0, len(asked), len(asked)), minlength=len(asked))
        for model, directions in zip(row, queries, strict=True):
            model[:] = np.concatenate([direction.measures(weights) for direction in directions])
    values = np.array([list(one.values().values()) for one in metrics])
    names = list(first.values())
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def intervals(value: DoubleArray, samples: DoubleArray) -> dict[str, Interval]:
        low, high = np.quantile(samples, tails, axis=0)
        triples = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
        return {name: Interval(*triple) for name, triple in zip(names, triples, strict=True)}

    return Comparison(
        [intervals(values[model], drawn[:, model]) for model in range(len(metrics))],
        [intervals(values[model] - values[0], drawn[:, model] - drawn[:, 0]) for model in range(1, len(metrics))],
        confidence,
        resamples,
        seed,
    )


class _Resampled:
    """The measures of one direction under weights of the pictures."""

    def __init__(self, retrieval: Retrieval, position: IntArray) -> None:
        order = np.argsort(retrieval.ranks, kind="stable")
        self._pictures = position[retrieval.pictures[order]]
        self._ranks = retrieval.ranks[order]
        self._precision = retrieval.average_precision[order]
        self._within = [int(np.searchsorted(self._ranks, k, side="right")) for k in RECALL_AT]

    def measures(self, weights: npt.NDArray[Any]) -> DoubleArray:
        """MEASURES, in their order. Shape: weights (pictures with texts,) counts."""
        own = weights[self._pictures]
        total = np.cumsum(own)
        size = int(total[-1])
        middle = np.searchsorted(total, [(size - 1) // 2, size // 2], side="right")
        recalls = [float(total[end - 1]) / size if end else 0.0 for end in self._within]
        return np.array([*recalls, float(self._ranks[middle].mean()), float(own @ self._precision) / size])
