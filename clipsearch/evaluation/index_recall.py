"""What an index's quick search finds of what exact search finds, asked what people ask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.pairs.encoding import encode_captions
from clipsearch.records import FloatArray, IntArray
from clipsearch.search.collection import Collection

MOST_QUERIES = 1000
HITS = 10
_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class IndexRecall:
    """`recall`: share of the exact ten nearest that the index's own search returns, over all queries.

    `low` and `high` hold it with 95 % confidence (bootstrap over the queries). Times are of one query at a time.
    """

    index: Path
    model: str
    pictures: int
    queries: int
    recall: float
    low: float
    high: float
    query_ms: float
    exact_ms: float


def measure_index(collection: Collection, captions: Sequence[str], *, seed: int = 0) -> IndexRecall:
    """Compare both searches on up to 1,000 of the captions, encoded by the index's model.

    Raises: ModelNotFound, EncoderMismatch; ValueError without a caption.
    """
    if not captions:
        raise ValueError("there are no captions to query with")
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(captions))[:MOST_QUERIES])
    vectors = encode_captions(collection.encoder, [captions[int(number)] for number in chosen])
    found = np.concatenate([collection.nearest(part, HITS)[1] for part in _parts(vectors)])
    exact = np.concatenate([collection.nearest(part, HITS, exact=True)[1] for part in _parts(vectors)])
    shares = np.array([_share(*pair) for pair in zip(found, exact, strict=True)])
    drawn = shares[generator.integers(0, len(shares), (1000, len(shares)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    timed = vectors[:20]
    return IndexRecall(
        collection.index,
        collection.encoder.name,
        len(collection),
        len(vectors),
        float(shares.mean()),
        low,
        high,
        _milliseconds(collection, timed, exact=False),
        _milliseconds(collection, timed, exact=True),
    )


def _parts(vectors: FloatArray) -> list[FloatArray]:
    return [vectors[start : start + _TOGETHER] for start in range(0, len(vectors), _TOGETHER)]


def _share(found: IntArray, exact: IntArray) -> float:
    wanted = exact[exact >= 0]
    return float(np.isin(wanted, found).mean()) if len(wanted) else 1.0


def _milliseconds(collection: Collection, vectors: FloatArray, *, exact: bool) -> float:
    times = []
    for vector in vectors:
        began = time.perf_counter()
        collection.nearest(vector[None], HITS, exact=exact)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))
