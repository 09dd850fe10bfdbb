"""Hits that differ: near-duplicates folded into their best picture, and maximal marginal relevance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from clipsearch.records import FloatArray, Hit, IntArray

DUPLICATE_COSINE = 0.96
"""Pictures at least this near to each other are taken for versions of one."""

POOL_PER_HIT = 5
LEAST_POOL = 100


def varied(
    fetch: Callable[[int], list[Hit]],
    vectors_of: Callable[[IntArray], FloatArray],
    k: int,
    *,
    unique: bool,
    diversity: float,
) -> list[Hit]:
    """Choose k of the hits that `fetch` returns the n nearest of, best first.

    `unique` folds near-duplicates; `diversity` is 0 (as near to the query as can be) to 1 (as far from each other).
    `vectors_of` returns the vectors of rows, shape (N, D) float32, unit L2.
    """
    pool = max(POOL_PER_HIT * k, LEAST_POOL)
    while True:
        hits = fetch(pool)
        vectors = vectors_of(np.array([hit.record.row_id for hit in hits], np.int64))
        groups = fold_duplicates(hits, vectors) if unique else [[n] for n in range(len(hits))]
        if len(groups) >= (pool // 2 if diversity else k) or len(hits) < pool:
            break
        pool *= 4
    chosen = list(range(min(k, len(groups))))
    if diversity:
        firsts = [group[0] for group in groups[:pool]]
        chosen = diversify(np.array([hits[n].score for n in firsts]), vectors[firsts], k, diversity)
    return [_folded([hits[n] for n in groups[at]], rank) for rank, at in enumerate(chosen, 1)]


def fold_duplicates(hits: list[Hit], vectors: FloatArray) -> list[list[int]]:
    """Numbers of hits, near-duplicates together, in the order of the first of each group. Shape: vectors (N, D)."""
    groups: list[list[int]] = []
    firsts = np.empty((len(hits), vectors.shape[1]), np.float32)
    by_content: dict[str, int] = {}
    for n, hit in enumerate(hits):
        content = hit.record.content_hash or f"row {hit.record.row_id}"
        home = by_content.get(content)
        if home is None and groups:
            nearness = firsts[: len(groups)] @ vectors[n]
            nearest = int(np.argmax(nearness))
            home = nearest if nearness[nearest] >= DUPLICATE_COSINE else None
        if home is None:
            home = len(groups)
            firsts[home] = vectors[n]
            groups.append([])
        groups[home].append(n)
        by_content[content] = home
    return groups


def _folded(group: list[Hit], rank: int) -> Hit:
    best = max(group, key=quality)
    others = tuple(dataclasses.replace(hit, rank=rank) for hit in group if hit is not best)
    return dataclasses.replace(best, rank=rank, others=others)


def quality(hit: Hit) -> tuple[int, int, float]:
    """What makes the better of two versions: more pixels, then more bytes, then the higher score."""
    record = hit.record
    return (record.width or 0) * (record.height or 0), record.size_bytes, hit.score


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
