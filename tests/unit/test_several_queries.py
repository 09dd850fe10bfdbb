"""A list of queries: the hits of each alone, for one call of the encoder and shared passes over the vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import clipsearch
from benchmarks.common import random_blocks, write_index
from clipsearch.records import FloatArray, Hit
from clipsearch.search.collection import Collection
from tests.support.breadth import tries
from tests.support.collections import varied_index
from tests.support.fake_encoder import FakeEncoder

EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 4, 12)
QUERIES = [
    "red",
    "a dog on a beach",
    "blue - red",
    "like:5",
    "folder:trips",
    "green folder:trips",
    "tag:seen cyan",
    "white",
]
QUERIES += ["nothing folder:nowhere", "", "2 blue + yellow folder:trips"]
TIE = 1e-5  # products of one vector and of several differ in their last bits: what is so near changes places


class Watched(Collection):
    """A collection that notes how many vectors were looked for in each pass."""

    passes: list[int]

    def nearest(self, queries: FloatArray, *arguments: Any, **options: Any) -> Any:
        self.passes.append(len(queries))
        return super().nearest(queries, *arguments, **options)


class Counting(FakeEncoder):
    """An encoder that notes how many texts each call had."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        self.calls.append(len(texts))
        return super().encode_texts(texts)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    encoder = FakeEncoder()
    with Collection(varied_index(tmp_path_factory.mktemp("several"), encoder), encoder=encoder) as photos:
        yield photos


def assert_same(found: Sequence[list[Hit]], alone: Sequence[list[Hit]], *, by_score: bool = True) -> None:
    assert len(found) == len(alone)
    for hits, others in zip(found, alone, strict=True):
        assert [hit.rank for hit in hits] == [hit.rank for hit in others]
        ids, other_ids = ({hit.record.row_id for hit in some} for some in (hits, others))
        assert len(ids) == len(hits)
        edges = [others[0].score, others[-1].score] if others else []
        for hit, other in zip(hits, others, strict=True):
            near = pytest.approx(other.score, abs=TIE, nan_ok=True)
            assert hit.score == near
            assert hit.confidence == pytest.approx(other.confidence, abs=1e-3)
            assert hit.band == other.band
            assert len(hit.others) == len(other.others)
            if hit.record != other.record:
                assert abs(hit.score - other.score) < TIE
            if hit.record.row_id not in other_ids and by_score:  # else what is equal may change places anywhere
                assert any(abs(hit.score - edge) < TIE for edge in edges)


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(
    queries=st.lists(st.sampled_from(QUERIES), max_size=8),
    k=st.integers(1, 400),
    offset=st.integers(0, 60),
    options=st.fixed_dictionaries(
        {},
        optional={
            "sort": st.sampled_from(["score", "date", "path"]),
            "unique": st.booleans(),
            "diverse": st.sampled_from([False, True, 0.9]),
            "all": st.booleans(),
            "like": st.just([7]),
        },
    ),
)
@example(queries=["red"] * 3 + ["a dog on a beach"], k=3, offset=42, options={"diverse": 0.9, "all": True, "like": [7]})
@example(queries=["red", "white"], k=3, offset=16, options={"diverse": 0.9})
@example(queries=["red", "like:5"], k=10, offset=60, options={"diverse": 0.9, "all": True, "like": [7]})
def test_each_of_several_has_the_hits_that_it_has_alone(
    small: Collection, queries: list[str], k: int, offset: int, options: dict[str, Any]
) -> None:
    found = small.search(queries, k, offset=offset, **options)
    alone = [small.search(query, k, offset=offset, **options) for query in queries]
    assert_same(found, alone, by_score=not options.get("diverse"))


@pytest.mark.slow
def test_so_it_is_in_approximate_search(tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 2500
    monkeypatch.setattr("clipsearch.indexer.segments.IVF_FROM_ROWS", rows // 2)
    index = write_index(tmp_path / "large", encoder, lambda: random_blocks(rows, encoder.dim))
    with clipsearch.open(index, encoder=encoder) as photos:
        assert not photos.is_exact
        queries = ["red", "a long story", "blue folder:2003", "green", "pink folder:2003"]
        for k in (1, 20, 300):
            for options in ({"all": True}, {"all": True, "unique": True}, {"sort": "path"}):
                found = photos.search(queries, k, **options)
                assert_same(found, [photos.search(query, k, **options) for query in queries])


@pytest.mark.slow
def test_texts_are_encoded_in_one_call_and_vectors_read_in_one_pass(tmp_path: Path) -> None:
    encoder = Counting()
    index = varied_index(tmp_path / "photos", encoder)
    colours = ["red", "blue", "green", "a red door", "red"]
    with Watched(index, encoder=encoder) as photos:
        photos.passes = []
        photos.search("pink")  # the background of confidence
        encoder.calls, photos.passes = [], []
        photos.search(colours, 20, all=True)
        assert encoder.calls == [4 + 3]  # each text once, three words in a sentence, too
        assert photos.passes == [5]
        photos.passes = []
        photos.search([f"{colour} folder:trips" for colour in colours], 20, all=True)
        assert photos.passes == [5]
        photos.passes = []
        photos.search(["red"] * 130, 20, all=True)
        assert photos.passes == [64, 64, 2]


def test_a_list_is_whatever_can_be_looped_over(small: Collection) -> None:
    queries = ["red", "blue"]
    lists = small.search(queries, 3)
    for given_as in (tuple(queries), iter(queries), np.array(queries), dict.fromkeys(queries)):
        assert small.search(given_as, 3) == lists
    assert small.search([]) == []
    assert small.search(["red"], 3) == [small.search("red", 3)]
