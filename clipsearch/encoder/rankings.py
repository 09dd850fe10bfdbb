"""How well two arithmetics of an image tower rank alike, on the pictures at hand.

A cosine does not tell what an arithmetic changes for people: it depends on how far apart a model's vectors lie. So
what counts is what would be found: for each picture, how many of its `NEAREST` among the others are the same in
both, and for each of some texts, how many of the first pictures. Both are means, from 0 to 1; chance would give
10/63 among 64 pictures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.records import FloatArray

NEAREST = 10
LEAST_PICTURES = 64  # among fewer, most pictures are among the nearest anyway
TEXTS = (
    "a photo of a dog",
    "a group of people",
    "food on a table",
    "a street in a city",
    "a beach and the sea",
    "mountains and a forest",
    "a building",
    "a car or a bus on a road",
    "a child who plays",
    "a flower",
    "a room with furniture",
    "a person who does sport",
    "the night sky",
    "a page of text",
    "a drawing",
    "water",
)


def agreement(exact: FloatArray, other: FloatArray, texts: FloatArray | None) -> float:
    """The lesser of both means, for the vectors of the same pictures; without texts, that of the pictures.

    Shapes: exact and other (B, D), texts (T, D), all unit L2, B > NEAREST.
    """
    means = [_same(_neighbours(exact), _neighbours(other))]
    if texts is not None:
        means.append(_same(_first(texts @ exact.T), _first(texts @ other.T)))
    return min(means)


def _neighbours(vectors: FloatArray) -> npt.NDArray[np.intp]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return _first(scores)


def _first(scores: FloatArray) -> npt.NDArray[np.intp]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def _same(left: npt.NDArray[np.intp], right: npt.NDArray[np.intp]) -> float:
    shared = [len(np.intersect1d(a, b)) for a, b in zip(left, right, strict=True)]
    return float(np.mean(shared)) / NEAREST
