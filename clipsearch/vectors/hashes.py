"""Near 64-bit hashes among many, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipsearch.records import IntArray
from clipsearch.vectors.segments import import_faiss

_BLOCKS, _BLOCK_BITS, _FLIPS = 4, 16, 1
MOST_BITS = _BLOCKS * (_FLIPS + 1) - 1
"""Of two hashes that differ in so many bits, one block differs in _FLIPS at most: no pair is overlooked."""
_QUERIES = 16_384


def near_hashes(hashes: IntArray, bits: int, neighbours: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Pairs of numbers of hashes, the smaller first, that differ in at most `bits` (MOST_BITS or fewer) of 64.

    Where many are near to one, the `neighbours` nearest; where many are equal, each with as many after it. A pair may
    come twice. Shape: hashes (N,) int64.
    """
    if not 0 <= bits <= MOST_BITS:
        raise ValueError(f"bits must be 0 to {MOST_BITS}, not {bits}")
    distinct, number, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    for step in range(1, min(neighbours, int(counts.max(initial=0)) - 1) + 1):
        same = number[order[step:]] == number[order[:-step]]
        yield _ordered(order[:-step][same], order[step:][same])
    if len(distinct) < 2 or not bits:
        return
    faiss = import_faiss()
    codes = distinct.view(np.uint8).reshape(len(distinct), 8)
    index = faiss.IndexBinaryMultiHash(64, _BLOCKS, _BLOCK_BITS)
    index.nflip = _FLIPS
    index.add(codes)
    starts, counts = np.cumsum(counts) - counts, np.minimum(counts, neighbours)
    for first in range(0, len(distinct), _QUERIES):
        block = codes[first : first + _QUERIES]
        limits, distances, found = index.range_search(block, bits + 1)
        asked = np.repeat(np.arange(first, first + len(block)), np.diff(limits.astype(np.int64)))
        other = asked != found
        asked, found, distances = asked[other], found[other], distances[other]
        nearest = np.lexsort((found, distances, asked))
        asked, found = asked[nearest], found[nearest]
        few = np.arange(len(asked)) - np.searchsorted(asked, asked) < neighbours
        asked, found = asked[few], found[few]
        # Each of the rows that have the one hash, with each that has the other.
        many = counts[asked] * counts[found]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        across = np.repeat(counts[found], many)
        one = order[np.repeat(starts[asked], many) + within // across]
        two = order[np.repeat(starts[found], many) + within % across]
        yield _ordered(one, two)


def _ordered(one: IntArray, two: IntArray) -> tuple[IntArray, IntArray]:
    return np.minimum(one, two), np.maximum(one, two)
