"""What a query of several words is about, and that it is offered where nothing is certain for all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipsearch
from clipsearch.query import parse_query
from clipsearch.query.heads import head_of
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import picture, plain


@pytest.mark.parametrize(
    ("query", "word", "written"),
    [
        ("men watch", "watch", "watch"),
        ("a men watch on a table", "watch", "watch"),
        ("a photo of a red car", "car", "car"),
        ("two pictures of the old building at night", "building", "building"),
        ("a brown dog running along the beach", "dog", "dog"),
        ("white cat sleeping", "cat", "cat"),
        ("wedding dress in a shop", "dress", "dress"),
        ("woman wearing a green hat", "woman", "woman"),
        ("glass, broken", "glass", "glass"),
        ("red car after:2020", "car", "car after:2020"),
        ("find all photos with a bus", "bus", "bus"),
        ("food no meat", "food", "food"),
        ("black dog without a leash", "dog", "dog"),
        ("paris 2019", "paris", "paris"),
    ],
)
def test_the_head_of_a_query(query: str, word: str, written: str) -> None:
    assert head_of(parse_query(query)) == (word, written)


@pytest.mark.parametrize(
    "query",
    [
        "dog",
        "like:4",
        "after:2020",
        "red car + blue car",
        "a of b",
        "in on",
        "photo with red background",
        "all photos",
        "all photos taken in 2019",
    ],
)
def test_queries_without_a_head(query: str) -> None:
    assert head_of(parse_query(query)) is None


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_it_is_offered_where_nothing_is_certain_and_it_alone_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        picture(number).save(tmp_path / f"{number:03}.png")
    for number in range(3):
        plain(COLOURS["red"]).resize((40 + number, 40)).save(tmp_path / f"red-{number}.png")
    encoder = FakeEncoder()
    clipsearch.index(tmp_path, encoder=encoder)
    with clipsearch.open(tmp_path, encoder=encoder) as photos:
        assert photos.search("red").are_certain
        assert not photos.search("green red").are_certain
        told = [line for line in photos.notices("green red") if "red alone" in line]
        assert len(told) == 1
        written = told[0].partition(", write: ")[2]
        assert photos.search(written).are_certain
        found = photos.order(written).count(photos)[0]
        assert f"{found:,} pictures are likely" in told[0]
        for query in ("red", "green cyan"):
            assert not any("alone. To see" in line for line in photos.notices(query))
        with monkeypatch.context() as patched:  # where it is known, nothing is searched for once more
            patched.setattr(Collection, "order", lambda *_, **__: pytest.fail("searched again"))
            assert not any("red alone" in line for line in photos.notices("green red", uncertain=False))
        assert photos.notices("green red", uncertain=True) == photos.notices("green red")
