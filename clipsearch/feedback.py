"""Learning from clicks: a query vector moved towards what was liked and away from what was not."""

from __future__ import annotations

import numpy as np

from clipsearch.records import FloatArray

UP_WEIGHT = 1.0
DOWN_WEIGHT = 0.5


def refine(query: FloatArray | None, up: FloatArray, down: FloatArray) -> FloatArray:
    """A vector to search with, from a query (if any) and pictures that were liked and not.

    Shapes: query (D,), up (U, D), down (W, D), result (D,) float32, unit L2.
    """
    direction = np.zeros(up.shape[1], np.float32) if query is None else query.copy()
    if len(up):
        direction += UP_WEIGHT * up.mean(axis=0)
    if len(down):
        direction -= DOWN_WEIGHT * down.mean(axis=0)
    length = float(np.linalg.norm(direction))
    return direction / max(length, 1e-12)
