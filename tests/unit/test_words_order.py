"""Plain queries whose words stand in pictures: these are among the first, and every other query is as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.records import Hits
from clipsearch.search.collection import Collection
from clipsearch.search.words import FEW
from clipsearch.store import open_snapshot, read_records
from tests.support.collections import varied_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.words import write_words

QUERIES = ("red", "yellow", "blue", "not there", "brown folder:trips", "a total amount", "green after:2023-06")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    return varied_index(tmp_path_factory.mktemp("plain") / "photos", FakeEncoder())


@pytest.fixture(scope="module")
def written(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with words in it; no test writes to it."""
    photos = tmp_path_factory.mktemp("written") / "photos"
    shutil.copytree(plain.parent, photos)
    index = photos / plain.name
    names = names_of(index)
    words = {
        names[12]: ["Yellow pages"],
        names[42]: ["a large total", "amount"],
        names[47]: ["Invoice", "Total amount due", "a"],
        names[63]: ["amount total", "and a lot of words", "that say nothing"],
        names[102]: ["totals amounts a"],
    }
    write_words(index, words | {names[n]: ["common words", "blue"] for n in range(192, 192 + 5 * (FEW + 1), 5)})
    return index


def names_of(index: Path) -> list[str]:
    with open_snapshot(index) as snapshot:
        return [record.path for record in read_records(index, snapshot.manifest)]


def opened(index: Path) -> Collection:
    return Collection(index, encoder=FakeEncoder())


def told(hits: Hits) -> list[tuple[str, str | None, Any, Any]]:
    """Hits, to be compared: sums differ in their last digits with what they are taken over."""
    approx = pytest.approx
    return [(hit.record.path, hit.band, approx(hit.score, abs=1e-5), approx(hit.confidence, abs=1e-4)) for hit in hits]


def plainly(hits: Hits) -> list[tuple[str, str | None, float, float | None]]:
    return [(hit.record.path, hit.band, hit.score, hit.confidence) for hit in hits]


@pytest.mark.few(each="query options")
@pytest.mark.many
@pytest.mark.parametrize("query", ["red", "blue", "not there", "brown folder:trips", "green after:2023-06", "like:3"])
@pytest.mark.parametrize("options", [{}, {"all": True}, {"sort": "path"}, {"unique": True}, {"min_confidence": 0.1}])
def test_queries_without_such_words_are_as_they_were(
    plain: Path, written: Path, query: str, options: dict[str, object]
) -> None:
    with opened(plain) as before, opened(written) as after:
        assert told(before.search(query, 60, **options)) == plainly(after.search(query, 60, **options))  # type: ignore[call-overload]
        assert before.notices(query) == after.notices(query)


def test_pictures_with_all_of_the_words_come_first_the_more_alike_before_others(written: Path) -> None:
    names = names_of(written)
    with opened(written) as photos:
        hits = photos.search("total amount", 60)
        shown = [hit for hit in hits if hit.words]
        assert [hit.record.path for hit in shown] == [names[47], names[42], names[63]]
        assert [[line.text for line in hit.words] for hit in shown[:2]] == [
            ["Total amount due"], ["a large total", "amount"]
        ]  # fmt: skip
        assert hits.are_certain
        (line,) = [line for line in photos.notices("total amount") if "these words were read in 3 pictures" in line]
        assert line.endswith('text:"total amount"')
        assert photos.search('text:"total amount"')


def test_a_strong_hit_stays_the_first(written: Path) -> None:
    name = names_of(written)[12]
    with opened(written) as photos:
        hits = photos.search("yellow", 10)
        assert hits[0].band == "strong"
        assert not hits[0].words
        assert hits[1].record.path == name
        assert [hit.record.path for hit in hits].count(name) == 1
        assert name not in [hit.record.path for hit in photos.search("yellow", 10, min_confidence=0.9)]
        assert name not in [hit.record.path for hit in photos.search("yellow like:10", 10) if hit.words]


@pytest.mark.few(each="query options")
@pytest.mark.many
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"all": True},
        {"unique": True, "all": True},
        {"diverse": 0.5, "all": True},
        {"sort": "date"},
        {"unlike": (3,)},
    ],
)
def test_windows_are_of_one_order(written: Path, query: str, options: dict[str, object]) -> None:
    with opened(written) as photos:
        whole = told(photos.search(query, 300, **options))  # type: ignore[call-overload]
        for k in (1, 2, 7, 23, 60):
            assert plainly(photos.search(query, k, **options)) == whole[:k]  # type: ignore[call-overload]
        order = photos.order(query, **options)  # type: ignore[arg-type]
        step = [plainly(Hits(order.window(photos, at, 9))) for at in range(0, 63, 9)]
        assert [hit for hits in step for hit in hits] == whole[:63]
        found, hidden = order.count(photos)
        assert found == len(whole)
        if "unique" not in options:
            assert found + hidden == order.everything
        members = order.members(photos)
        assert len(members) == found
        ids = order.row_ids(photos, 0, 300)
        assert np.array_equal(np.sort(ids), members)
        assert all(order.place_of(photos, int(row_id)) == place for place, row_id in enumerate(ids[:30]))


def test_filters_hold_for_pictures_with_the_words_too(written: Path) -> None:
    name = names_of(written)[12]
    folder = name.rpartition("/")[0]
    with opened(written) as photos:
        assert [hit.record.path for hit in photos.search(f"yellow pages folder:{folder}", 5) if hit.words] == [name]
        assert not any(hit.words for hit in photos.search(f"yellow pages not folder:{folder}", 300))
        assert photos.search("yellow pages folder:nowhere", 5) == []
