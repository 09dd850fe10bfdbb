"""Learning from clicks: a query vector moved towards what was liked and away from what was not.

Rocchio's formula (SMART, 1971) on stored vectors, whose result is a vector like any other: it searches an index of any
size, with filters. Chosen by `benchmarks/feedback.py` over ridge and logistic probes, which forget the query: three
pictures of each kind are too few to learn 512 numbers from.
"""

from __future__ import annotations

import numpy as np

from clipsearch.errors import InvalidQuery
from clipsearch.records import FloatArray
from clipsearch.sentences import sentence

UP_WEIGHT = 1.0
DOWN_WEIGHT = 0.25


def refine(query: FloatArray | None, up: FloatArray, down: FloatArray, centre: FloatArray) -> FloatArray:
    """A vector to search with, from a query (if any) and pictures that were liked and not.

    `centre` is the mean of the collection: what all its pictures share says nothing about these. Shapes: query and
    centre (D,), up (U, D), down (W, D), result (D,) float32, unit L2. Raises: InvalidQuery if nothing is left.
    """
    direction = np.zeros(len(centre), np.float32) if query is None else query.astype(np.float32)
    if len(up):
        direction = direction + UP_WEIGHT * (up.mean(axis=0) - centre)
    if len(down):
        direction = direction - DOWN_WEIGHT * (down.mean(axis=0) - centre)
    length = float(np.linalg.norm(direction))
    if length < 1e-6:
        raise InvalidQuery(
            sentence(
                "examples_cancelled",
                "the relevant and irrelevant examples cancel each other out: choose different ones",
            )
        )
    refined: FloatArray = (direction / length).astype(np.float32)
    return refined


def threshold_for(vector: FloatArray, up: FloatArray, down: FloatArray, background: FloatArray) -> float:
    """The cosine from which a picture belongs to a concept that was learned from examples.

    Half-way between the collection's nearest hundredth and the middle of the examples, and above the counterexamples.
    Shapes: vector (D,), up (U, D), down (W, D), background (B, D): a sample of the collection.
    """
    common = float(np.quantile(background @ vector, 0.99)) if len(background) else 0.0
    typical = float(np.median(up @ vector))
    threshold = (min(common, typical) + typical) / 2
    return max([threshold, *(float(score) for score in down @ vector if score < typical)])
