"""Hits that differ: near-duplicates folded into their best picture, and maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from clipsearch.records import FloatArray

DUPLICATE_COSINE = 0.96
"""In collections smaller than LEAST_SAMPLE, pictures at least this near to each other are taken for versions of one."""
DUPLICATE_NEARNESS = 0.8
SHRINKAGE = 0.3
LEAST_SAMPLE = 500
MOST_SAMPLE = 2048
"""In others, those at least DUPLICATE_NEARNESS near in `Nearness`'s measure. Chosen on 1,000 products and 1,000 photos
(fashion and Flickr8k, development splits, built-in model); docs/query.md has the figures."""
LEAST_VARIANCE = 1e-8  # less is rounding


class Nearness:
    """How near pictures are to each other, of what the pictures of a collection do not all share.

    Products on white ground are all near each other: the direction that they share says nothing. So vectors are centred
    and whitened with the covariance of a sample, shrunk towards a multiple of the identity (Ledoit and Wolf 2004; here
    with a fixed weight), and made unit length again: a Mahalanobis cosine.
    """

    def __init__(self, sample: FloatArray) -> None:
        """`sample`: vectors of the collection's pictures. Shape: (N, D) float32."""
        self.threshold = DUPLICATE_COSINE
        self._mean: FloatArray | None = None
        if len(sample) >= LEAST_SAMPLE:
            sample = sample[:: -(-len(sample) // MOST_SAMPLE)]
            mean = sample.mean(axis=0)
            centred = sample - mean
            covariance = centred.T @ centred / len(sample)
            variance = float(np.trace(covariance)) / len(covariance)
            if variance > LEAST_VARIANCE:
                covariance[np.diag_indices(len(covariance))] += SHRINKAGE * variance
                self._mean = mean
                self._whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
                self.threshold = DUPLICATE_NEARNESS

    def project(self, vectors: FloatArray) -> FloatArray:
        """Vectors whose products are how near pictures are; of versions of one, `threshold` at least. Shape: (N, D)."""
        if self._mean is None:
            return vectors
        white: FloatArray = ((vectors - self._mean) @ self._whitening).astype(np.float32, copy=False)
        lengths = np.linalg.norm(white, axis=1, keepdims=True)
        white /= np.maximum(lengths, 1e-6)
        return white


def fold_duplicates(contents: Sequence[Hashable], vectors: FloatArray, nearness: Nearness) -> list[list[int]]:
    """Numbers of pictures, near-duplicates and those of one content together, in the order of the first of each group.

    Shape: vectors (N, D).
    """
    vectors = nearness.project(vectors)
    near = vectors @ vectors.T  # all at once: a product for each hit reads the vectors a thousand times
    np.fill_diagonal(near, -np.inf)
    has_near = np.max(near, axis=1, initial=-np.inf) >= nearness.threshold
    groups: list[list[int]] = []
    firsts: list[int] = []
    by_content: dict[Hashable, int] = {}
    for n, content in enumerate(contents):
        home = by_content.get(content)
        if home is None and groups and has_near[n]:
            to_firsts = near[n, firsts]
            nearest = int(np.argmax(to_firsts))
            home = nearest if to_firsts[nearest] >= nearness.threshold else None
        if home is None:
            home = len(groups)
            firsts.append(n)
            groups.append([])
        groups[home].append(n)
        by_content[content] = home
    return groups


def diversify(scores: FloatArray, vectors: FloatArray, k: int, diversity: float) -> list[int]:
    """Numbers of k rows in the order of maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    Each is the one with the highest (1 - diversity) * relevance - diversity * nearness to those before it. Relevance is
    the score, stretched to 0..1 over all rows: cosines of texts and pictures lie closer together than those of
    pictures. Shapes: scores (N,), vectors (N, D).
    """
    if not len(scores):
        return []
    span = float(scores.max() - scores.min())
    relevance = (scores - scores.min()) / span if span else np.ones(len(scores))
    nearness = np.full(len(scores), -1.0)
    chosen: list[int] = []
    for _ in range(min(k, len(scores))):
        penalty = diversity * nearness if chosen else 0.0
        gain = (1 - diversity) * relevance - penalty
        gain[chosen] = -np.inf
        chosen.append(int(np.argmax(gain)))
        nearness = np.maximum(nearness, vectors @ vectors[chosen[-1]])
    return chosen
