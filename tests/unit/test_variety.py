"""Which hits are versions of one picture, in collections where everything looks alike."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch.records import FloatArray
from clipsearch.search.variety import DUPLICATE_COSINE, LEAST_SAMPLE, Nearness, fold_duplicates

DIM = 32


def unit(vectors: FloatArray) -> FloatArray:
    result: FloatArray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return result


def catalogue(count: int) -> FloatArray:
    """Products on white ground: one large part that all share, and a small one of their own."""
    generator = np.random.default_rng(1)
    shared = np.zeros(DIM, np.float32)
    shared[0] = 6.0
    return unit(shared + generator.standard_normal((count, DIM)).astype(np.float32) * 0.12)


def test_different_products_stay_apart_and_versions_of_one_are_folded() -> None:
    products = catalogue(LEAST_SAMPLE)
    few = products[:20]
    noise = np.random.default_rng(2).standard_normal((20, DIM)).astype(np.float32)
    versions = unit(few + 0.005 * noise)
    assert (few @ few.T).min() > DUPLICATE_COSINE  # for the cosine alone, all of them are one
    groups = fold_duplicates(range(40), np.concatenate([few, versions]), Nearness(products))
    assert groups == [[n, n + 20] for n in range(20)]


def test_a_small_collection_is_judged_by_the_cosine() -> None:
    nearness = Nearness(catalogue(LEAST_SAMPLE - 1))
    vectors = catalogue(5)
    assert nearness.threshold == DUPLICATE_COSINE
    assert np.array_equal(nearness.project(vectors), vectors)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [0, 1, LEAST_SAMPLE, 5000])
def test_collections_without_any_variety_are_no_problem(count: int) -> None:
    same = np.repeat(unit(np.ones((1, DIM), np.float32)), count, axis=0)
    projected = Nearness(same).project(np.concatenate([same[:3], unit(np.eye(2, DIM, dtype=np.float32))]))
    assert np.isfinite(projected).all()
    assert (np.linalg.norm(projected, axis=1) <= 1 + 1e-5).all()


def test_nearness_is_a_cosine_and_a_vector_is_nearest_to_itself() -> None:
    products = catalogue(2 * LEAST_SAMPLE)
    projected = Nearness(products).project(products[:50])
    assert projected.dtype == np.float32
    near = projected @ projected.T
    assert np.diag(near) == pytest.approx(1, abs=1e-4)
    assert (near.argmax(axis=1) == np.arange(50)).all()
