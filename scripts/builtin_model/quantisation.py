"""Product quantisation of tables: each row in pieces, each piece one of 256, one byte for its number."""

from __future__ import annotations

from dataclasses import dataclass

import faiss  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import numpy.typing as npt

from .graph import Array

CENTROIDS = 256
ITERATIONS = 10
POINTS_PER_CENTROID = 80  # to learn from


@dataclass(frozen=True, slots=True)
class ProductCodes:
    """A table in codes. Shapes: codes (N, pieces) uint8, centroids (pieces, 256, width / pieces), exact in float16."""

    codes: npt.NDArray[np.uint8]
    centroids: Array

    def decode(self) -> Array:
        """Return the table, (N, width)."""
        pieces = self.centroids[np.arange(len(self.centroids)), self.codes]
        table: Array = pieces.reshape(len(self.codes), -1)
        return table


def quantise(table: Array, pieces: int) -> ProductCodes:
    """Return codes of a table, the centroids of each piece by k-means. Shape: (N, width), a multiple of `pieces`."""
    quantiser = faiss.ProductQuantizer(table.shape[1], pieces, 8)
    quantiser.cp.niter = ITERATIONS
    quantiser.cp.max_points_per_centroid = POINTS_PER_CENTROID
    quantiser.cp.min_points_per_centroid = 1
    rows = np.ascontiguousarray(table, np.float32)
    quantiser.train(rows)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(pieces, CENTROIDS, -1)
    return ProductCodes(quantiser.compute_codes(rows), centroids.astype(np.float16).astype(np.float32))
