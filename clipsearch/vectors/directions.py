"""The direction of a vector that somebody gives, of any length that a number can have."""

from __future__ import annotations

import numpy as np

from clipsearch.errors import DimensionMismatch, InvalidQuery
from clipsearch.records import FloatArray

SHORTEST_SUM = 1e-3


def directed(dim: int, given: FloatArray, terms: FloatArray | None = None) -> FloatArray:
    """The direction of a vector that was given, and of the query's terms. Shape: (dim,) float32, unit L2.

    Zeros add nothing to terms. Raises: DimensionMismatch, InvalidQuery.
    """
    vector = np.asarray(given, np.float64)
    if vector.shape != (dim,):
        raise DimensionMismatch(dim, vector.shape[-1] if vector.ndim else 0)
    largest = float(np.max(np.abs(vector), initial=0.0))
    if not np.isfinite(largest):
        raise InvalidQuery("vector has numbers that are not finite")
    if largest > 0:
        vector = vector / largest  # or its length would overflow
        vector = vector / np.linalg.norm(vector)
    elif terms is None:
        raise InvalidQuery("vector has no direction: all its numbers are 0")
    total = vector if terms is None else vector + terms
    length = float(np.linalg.norm(total))
    if length < SHORTEST_SUM:
        raise InvalidQuery("the vector and the terms of the query cancel each other out")
    unit: FloatArray = (total / length).astype(np.float32)
    return unit
