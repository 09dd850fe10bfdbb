"""Which pairs of pictures are looked at, in collections too large to compare each with each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clipsearch
from benchmarks.common import write_index
from clipsearch.errors import InvalidQuery
from clipsearch.records import FloatArray
from clipsearch.search import dedupe
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import FakeEncoder

ROWS = 2000


def unit(vectors: FloatArray) -> FloatArray:
    result: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result


@pytest.fixture
def vectors() -> FloatArray:
    """Pictures of 40 kinds, which have about 0.6 in common; the last hundred are near one of the first."""
    generator = np.random.default_rng(0)
    kinds = generator.standard_normal((40, 64)).astype(np.float32)
    own = generator.standard_normal((ROWS, 64)).astype(np.float32)
    made = unit(unit(kinds)[np.arange(ROWS) % 40] + 0.8 * unit(own))
    made[-100:] = unit(made[:100] + 0.3 * unit(generator.standard_normal((100, 64)).astype(np.float32)))
    return made


@pytest.fixture
def collection(tmp_path: Path, vectors: FloatArray, encoder: FakeEncoder) -> Path:
    return write_index(tmp_path / "photos", encoder, lambda: iter([vectors]))


def candidates(photos: Collection) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    done = 0
    for one, two, finished in dedupe._candidates(photos, photos.row_ids()):
        assert (one < two).all()
        pairs.update(zip(one.tolist(), two.tolist(), strict=True))
        done += finished
    assert done == len(photos)
    return pairs


def test_cells_hold_nearly_every_pair_that_comparing_all_finds(
    collection: Path, vectors: FloatArray, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = vectors @ vectors.T
    near = np.argwhere(np.triu(scores, 1) >= dedupe.CANDIDATE_COSINE + 0.002)
    assert len(near) > 90
    with clipsearch.open(collection, encoder=encoder) as photos:
        every = candidates(photos)
        monkeypatch.setattr(dedupe, "EXHAUSTIVE_ROWS", 100)
        in_cells = candidates(photos)
    assert {(int(a), int(b)) for a, b in near} <= every
    assert len(every & in_cells) >= 0.97 * len(every)
    assert all(scores[one, two] >= dedupe.CANDIDATE_COSINE - 0.002 for one, two in every | in_cells)


def test_a_row_has_no_more_than_so_many_neighbours(
    collection: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "CANDIDATE_COSINE", -1.0)
    with clipsearch.open(collection, encoder=encoder) as photos:
        pairs = candidates(photos)
    assert ROWS * dedupe.NEIGHBOURS / 2 <= len(pairs) <= ROWS * dedupe.NEIGHBOURS


def test_vectors_of_many_rows_at_once(collection: Path, vectors: FloatArray, encoder: FakeEncoder) -> None:
    with clipsearch.open(collection, encoder=encoder) as photos:
        wanted = [5, 1999, 5, 0, 1234]
        assert np.array_equal(photos.vectors(wanted), vectors[wanted])
        assert photos.vectors([]).shape == (0, 64)
        for unknown in (ROWS, -1, 2**70):
            with pytest.raises(InvalidQuery, match=str(unknown)):
                photos.vectors([0, unknown])
