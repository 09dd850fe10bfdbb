"""The ranking: what it looks for, and what it does not."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipsearch
from benchmarks.common import random_blocks, write_index
from clipsearch.errors import InvalidQuery
from clipsearch.query import Query, parse_query
from clipsearch.records import FloatArray, Hits
from clipsearch.search import confidence
from clipsearch.search.collection import Collection
from clipsearch.search.order import DEEPEST, FIRST, NEAREST, STEPS, Order, Wish, listed
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

ROWS = 6000
FEWER = 2500


class Watched(Collection):
    """A collection that notes how deep it was searched."""

    depths: list[int]

    def nearest(self, *arguments: Any, **options: Any) -> Any:
        self.depths.append(arguments[1])
        return super().nearest(*arguments, **options)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    encoder = FakeEncoder()
    return write_index(tmp_path_factory.mktemp("order") / "photos", encoder, lambda: random_blocks(ROWS, encoder.dim))


@pytest.fixture
def approximate(encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("clipsearch.indexer.segments.IVF_FROM_ROWS", FEWER // 2)
    return write_index(tmp_path / "large", encoder, lambda: random_blocks(FEWER, encoder.dim))


def depths_of(index: Path, encoder: FakeEncoder, query: str, k: int, **options: Any) -> list[int]:
    with Watched(index, encoder=encoder) as photos:
        photos.depths = []
        photos.search(query, k, **options)
        return photos.depths


@pytest.mark.slow
def test_no_more_is_looked_for_than_is_asked_for(index: Path, encoder: FakeEncoder) -> None:
    assert depths_of(index, encoder, "red", 5) == [FIRST]
    assert depths_of(index, encoder, "red", FIRST, all=True) == [FIRST]
    assert depths_of(index, encoder, "red", FIRST + 1, all=True) == [STEPS[1]]
    assert depths_of(index, encoder, "red", 400, all=True) == [500]
    assert depths_of(index, encoder, "red", 3000, all=True) == [ROWS]
    assert depths_of(index, encoder, "folder:2003", 20) == []
    assert depths_of(index, encoder, "red", 20, all=True, sort="date") == [FIRST]  # the best, for the confidence
    assert depths_of(index, encoder, "red", 20, all=True, unique=True) == [1000]


@pytest.mark.slow
def test_the_first_hits_of_approximate_search_are_the_same_for_any_number(
    approximate: Path, encoder: FakeEncoder
) -> None:
    with clipsearch.open(approximate, encoder=encoder) as photos:
        assert not photos.is_exact
        for query in ("red", "a long story", "blue folder:2003"):
            for options in ({}, {"unique": True}, {"diverse": 0.5}, {"sort": "path"}):
                whole = [hit.record.row_id for hit in photos.search(query, FEWER, all=True, **options)]
                assert len(whole) == len(set(whole))
                for k in (1, 20, 21, 300, 2000):
                    found = photos.search(query, k, all=True, **options)
                    assert [hit.record.row_id for hit in found] == whole[:k], (query, options, k)
        hits = photos.search("red", FEWER)
        assert len(hits) == NEAREST if not hits.are_certain else all(hit.band != "unlikely" for hit in hits)


def test_confidence_does_not_depend_on_the_window(index: Path, encoder: FakeEncoder) -> None:
    with clipsearch.open(index, encoder=encoder) as photos:
        whole = photos.search("red", 300, all=True)
        alone = [photos.search("red", 1, offset=n, all=True)[0] for n in range(0, 300, 23)]
        assert [hit.confidence for hit in alone] == pytest.approx([hit.confidence for hit in whole[::23]])
        assert [hit.rank for hit in alone] == [hit.rank for hit in whole[::23]]


def test_lists_end_ties_by_row_id(index: Path, encoder: FakeEncoder) -> None:
    with clipsearch.open(index, encoder=encoder) as photos:
        rows = photos.row_ids()
        for by_path in (False, True):
            whole = listed(photos, rows, by_path=by_path)
            assert sorted(whole.tolist()) == rows.tolist()
            for first in (1, 20, 2000):
                np.testing.assert_array_equal(listed(photos, rows, by_path=by_path, first=first), whole[:first])
        dates = np.concatenate([columns.dates_us for columns in photos.columns()])
        newest = listed(photos, rows, by_path=False)
        assert [(-dates[row], row) for row in newest] == sorted((-dates[row], row) for row in newest)
        assert len(set(dates.tolist())) < len(rows)  # there are ties


@pytest.mark.slow
def test_hidden_and_shown_are_all_that_pass_the_filter(index: Path, encoder: FakeEncoder) -> None:
    with clipsearch.open(index, encoder=encoder) as photos:
        for query in ("red", "red folder:2003", "like:5", "folder:2003"):
            order = photos.order(query)
            total, hidden = order.count(photos)
            assert total == len(photos.search(query, ROWS))
            everything, none = photos.order(query, all=True).count(photos)
            assert (total + hidden, 0) == (everything, none)
            assert everything == len(photos.search(query, ROWS, all=True))


def test_what_words_ask_for_is_judged_as_words() -> None:
    vector = np.ones(4, np.float32)
    for query, kind in (
        ("a dog", "text"),
        ("dog - ./cat.jpg", "text"),
        ("dog + like:3", "picture"),
        ("like:3", "picture"),
    ):
        assert Wish(parse_query(query)).kind == kind, query
    for options in ({"vector": vector}, {"like": (3,)}):
        assert Wish(parse_query("a dog"), **options).kind == "picture"
        assert Wish(Query("", ()), **options).cuts
    assert Wish(parse_query("a dog"), unlike=(3,)).kind == "text" and not Wish(Query("", ()), unlike=(3,)).cuts
    assert not Wish(parse_query("a dog"), all=True).cuts
    assert not Wish(parse_query("ext:png")).cuts


# -- what is taken away

SPOTS = ("red", "green", "blue", "yellow", "black", "white", "orange", "pink", "purple")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures of one colour each. No test writes to it."""
    folder = tmp_path_factory.mktemp("colours")
    for name in SPOTS:
        plain(COLOURS[name]).save(folder / f"{name}.png")
    clipsearch.index(folder, encoder=FakeEncoder())
    return folder


def sure_of(hits: Hits) -> dict[str, tuple[Any, str | None]]:
    return {hit.record.path.removesuffix(".png"): (hit.confidence, hit.band) for hit in hits}


def test_what_takes_nothing_away_from_a_hit_leaves_its_confidence(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:
        plainly, without = photos.search("red"), photos.search("red -blue")
        assert plainly.are_certain and without.are_certain
        alone, beside = sure_of(plainly), sure_of(without)
        assert alone.keys() == beside.keys() == {"red", "orange"}
        for name, (sure, band) in beside.items():
            assert sure == pytest.approx(alone[name][0], abs=0.02) and band == alone[name][1]
        vector = photos.encode_query("red -blue")  # the order is that of the difference
        scores = [float(photos.vector(hit.record.row_id) @ vector) for hit in without]
        assert [hit.score for hit in without] == pytest.approx(scores, abs=1e-5)
        assert scores == sorted(scores, reverse=True)


def test_what_is_taken_away_is_left_out_however_right_it_is_otherwise(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:
        hits = photos.search("red - 0.1:orange")
        assert hits.are_certain and sure_of(hits).keys() == {"red"}  # "red" alone shows the orange one, too
        everything = sure_of(photos.search("red - 0.1:orange", all=True))
        assert everything["orange"] == (pytest.approx(0.473, abs=0.02), "unlikely")
        assert everything["orange"][0] < sure_of(photos.search("red", all=True))["orange"][0]
        nothing = photos.search("red -orange")  # the red one is too like an orange one here
        assert not nothing.are_certain and len(nothing) == len(SPOTS)
        said = (
            "nothing is certain for the whole query, but 2 pictures are likely for red alone. To see them, write: red"
        )
        assert said in photos.notices("red -orange") and said not in photos.notices("red -blue")


def test_weights_say_how_much_what_is_taken_away_counts_beside_the_rest(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:

        def sure(query: str) -> float:
            return float(sure_of(photos.search(query, all=True))["orange"][0])

        assert sure("2:red - 2:orange") == pytest.approx(sure("red - orange"))
        assert sure("red") > sure("red - 0.1:orange") > sure("red - 0.5:orange") > sure("red - orange")
        assert sure("red - orange") == pytest.approx(sure("red - 3:orange"))
        assert sure("red -orange -blue") < sure("red -orange") + 1e-6


def test_what_is_taken_away_from_everything_leaves_the_rest(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:
        for query in ("-red", "ext:png -red"):
            hits = photos.search(query)
            assert hits.are_certain and sure_of(hits).keys() == {*SPOTS} - {"red", "orange"}
            assert sure_of(hits)["blue"] == (pytest.approx(0.995, abs=0.005), "strong")
            assert photos.order(query).count(photos) == (7, 2)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        shown = {hit.record.path for hit in photos.search("red")}
        assert shown.isdisjoint(hit.record.path for hit in photos.search("-red"))
        everything = sure_of(photos.search("-red", all=True))
        assert everything["red"] == (pytest.approx(0.087, abs=0.02), "unlikely")
        blue = next(hit.record.row_id for hit in photos.search("blue", 1))
        assert sure_of(photos.search(f"-like:{blue}")).keys() == {*SPOTS} - {"blue"}


def test_a_minus_alone_leaves_out_what_the_thing_alone_shows(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:
        for thing in ("red", "orange", "blue", "gray"):
            shown = photos.search(thing)
            assert shown.are_certain
            rest = sure_of(photos.search(f"-{thing}")).keys()
            assert rest == sure_of(photos.search("")).keys() - sure_of(shown).keys()


def test_a_least_confidence_is_of_both(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:
        for query in ("red - 0.1:orange", "-red", "red -blue"):
            everything = sure_of(photos.search(query, all=True))
            for least in (0.1, 0.5, 0.9):
                found = photos.search(query, min_confidence=least)
                expected = {name for name, (sure, _) in everything.items() if sure >= least}
                assert sure_of(found).keys() == expected and found.are_certain == bool(expected)


def test_thumbs_move_what_is_taken_away_and_hide_none_of_it(colours: Path) -> None:
    with clipsearch.open(colours, encoder=FakeEncoder()) as photos:
        rows = {hit.record.path: hit.record.row_id for hit in photos.search("")}
        before = sure_of(photos.search("red -blue"))
        down = sure_of(photos.search("red -blue", unlike=[rows["yellow.png"]]))
        assert down.keys() == before.keys()
        assert [sure for sure, _ in down.values()] == pytest.approx([before[name][0] for name in down])
        up = sure_of(photos.search("red -blue", like=[rows["pink.png"]]))
        assert up.keys() >= before.keys()


def test_an_empty_collection_has_an_order(tmp_path: Path, encoder: FakeEncoder) -> None:
    index = write_index(tmp_path / "empty", encoder, lambda: iter([np.empty((0, encoder.dim), np.float32)]))
    with clipsearch.open(index, encoder=encoder) as photos:
        for query in ("red", "", "ext:png", "red ext:png", "red -blue", "-blue"):
            for options in ({}, {"all": True}, {"sort": "path"}, {"unique": True}, {"diverse": True}):
                order: Order = photos.order(query, **options)
                assert order.window(photos, 0, 20) == []
                assert order.count(photos) == (0, 0)
    assert DEEPEST >= ROWS


@pytest.mark.slow
def test_every_door_can_say_where_the_time_goes(index: Path) -> None:
    code = (
        "import clipsearch; from clipsearch.timing import print_laps\n"
        "from tests.support.fake_encoder import FakeEncoder\n"
        f"with clipsearch.open({str(index)!r}, encoder=FakeEncoder()) as photos: photos.search('red')\n"
        "print_laps()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "CLIPSEARCH_TIMING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for step in ("open and verify the index", "encode the query", "find the nearest", "judge", "look up the rows"):
        assert step in done.stderr


def near_red(folder: Path, encoder: FakeEncoder, *, groups: int, copies: int, spread: float = 0.8) -> Path:
    """Groups of pictures near "red", each of the same vector several times, before many others."""

    def blocks() -> Iterator[FloatArray]:
        rng = np.random.default_rng(5)
        noise = rng.standard_normal((groups + 2500, encoder.dim)).astype(np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        near = np.repeat(encoder.encode_texts(["red"])[0] + spread * noise[:groups], copies, axis=0)
        both = np.concatenate([near, noise[groups:]])
        yield (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32)

    return write_index(folder, encoder, blocks)


@pytest.mark.slow
@pytest.mark.parametrize("query", thinned(["red", ""], 2))
def test_a_window_is_full_though_much_was_folded(query: str, tmp_path: Path, encoder: FakeEncoder) -> None:
    """900 of the first 1,000 are copies of others: what comes after them fills the window."""
    folder = near_red(tmp_path / "copies", encoder, groups=90, copies=10)
    with clipsearch.open(folder, encoder=encoder) as photos:
        total, _ = photos.order(query, all=True, unique=True).count(photos)
        assert query != "red" or total == 2590
        every = [hit.record.row_id for hit in photos.search(query, 4000, all=True, unique=True)]
        assert len(every) == len(set(every)) == total
        for k in (50, 500, 1001, 2000):
            hits = photos.search(query, k, all=True, unique=True)
            assert [hit.record.row_id for hit in hits] == every[:k]
        pages = [photos.search(query, 300, offset=n, all=True, unique=True) for n in range(0, total, 300)]
        assert [hit.record.row_id for page in pages for hit in page] == every


def test_where_nothing_passes_the_nearest_are_shown_and_are_not_certain(index: Path, encoder: FakeEncoder) -> None:
    with clipsearch.open(index, encoder=encoder) as photos:
        everything = photos.search("blue", 40, all=True)
        assert everything[0].band == "unlikely"
        hits = photos.search("blue", 40)
        assert not hits.are_certain and len(hits) == NEAREST
        later = photos.search("blue", 40, offset=3)
        assert len(later) == NEAREST - 3
        # the arithmetic of more rows may round differently
        for hit, same in [*zip(hits, everything, strict=False), *zip(hits[3:], later, strict=True)]:
            assert hit == dataclasses.replace(same, confidence=hit.confidence)
            assert hit.confidence == pytest.approx(same.confidence)
        order = photos.order("blue")
        assert order.count(photos) == (NEAREST, len(photos) - NEAREST) and order.is_uncertain
        by_date = photos.search("blue", 40, sort="date")
        assert {hit.record.row_id for hit in by_date} == {hit.record.row_id for hit in hits}
        assert photos.search("").are_certain and photos.search("blue name:nowhere") == []


@pytest.mark.slow
def test_a_least_confidence_takes_the_place_of_the_cut(index: Path, encoder: FakeEncoder) -> None:
    with clipsearch.open(index, encoder=encoder) as photos:
        for options in ({}, {"sort": "path"}, {"like": [3]}, {"vector": np.ones(encoder.dim)}):
            everything = photos.search("red", 10_000, all=True, **options)
            sure = [hit.confidence or 0.0 for hit in everything]
            shown = [hit.to_dict()["confidence"] or 0.0 for hit in everything]
            some = shown[: tries("CLIPSEARCH_EXAMPLES", 4, 20)]
            for least in (0.0, min(sure), float(np.median(sure)), max(sure), 1.0, *some):
                hits = photos.search("red", 10_000, min_confidence=least, **options)
                assert hits.are_certain == bool(hits)
                assert [hit.record.row_id for hit in hits] == [
                    hit.record.row_id
                    for hit, one, told in zip(everything, sure, shown, strict=True)
                    if max(one, told) >= least
                ], (options, least)
        with pytest.raises(InvalidQuery, match="not both"):
            photos.search("red", all=True, min_confidence=0.5)
        for wrong in (-0.1, 1.1, float("nan"), "0.5", True):
            with pytest.raises(InvalidQuery, match="between 0 and 1"):
                photos.search("red", min_confidence=wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize(("like", "unlike"), [((), (2,)), ((0,), ()), ((0, 1), (5,))])
def test_thumbs_move_what_words_find_and_hide_none_of_it(
    tmp_path: Path,
    encoder: FakeEncoder,
    monkeypatch: pytest.MonkeyPatch,
    like: tuple[int, ...],
    unlike: tuple[int, ...],
) -> None:
    easily = confidence.Bands(maybe=0.02, certain=0.02, strong=0.8)
    shipped = confidence.shipped_calibration()
    lenient = dataclasses.replace(shipped, text_bands=easily, picture_bands=easily)
    monkeypatch.setattr(confidence, "shipped_calibration", lambda: lenient)
    with clipsearch.open(
        near_red(tmp_path / "photos", encoder, groups=40, copies=1, spread=0.6), encoder=encoder
    ) as photos:
        plain = {hit.record.row_id: hit for hit in photos.search("red", ROWS)}
        assert 10 < len(plain) < 100
        shown = photos.search("red", ROWS, like=like, unlike=unlike)
        moved = {hit.record.row_id: hit for hit in shown}
        assert plain.keys() <= moved.keys()
        assert list(plain) != list(moved)
        for row_id, hit in plain.items():
            assert (moved[row_id].confidence or 0) >= (hit.confidence or 0) - 1e-6
        assert [hit.score for hit in shown] == sorted((hit.score for hit in shown), reverse=True)
        everything = photos.search("red", ROWS, all=True, like=like, unlike=unlike)
        assert [hit.record.row_id for hit in everything if hit.band != "unlikely"] == list(moved)
        order = photos.order("red", like=like, unlike=unlike)
        assert order.count(photos) == (len(moved), len(photos) - len(moved))
        assert [hit.record.row_id for hit in order.window(photos, 1, 3)] == list(moved)[1:4]
