"""Facets count what their filters keep, and the timeline has every hit in its month."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.common import photo_record, random_blocks, synthetic_record, write_index
from clipsearch.folding import fold_name
from clipsearch.query import parse_query
from clipsearch.records import ImageRecord, PictureMetadata
from clipsearch.search.collection import Collection
from clipsearch.search.facets import count_facets, timeline
from clipsearch.search.suggest import Vocabulary, suggest
from clipsearch.store.columns import Columns
from clipsearch.store.tags import make_tag, write_tags
from tests.support.fake_encoder import FakeEncoder

EXAMPLES = max(20, int(os.environ.get("CLIPSEARCH_EXAMPLES", "300")) // 10)
MANY = 15_000
FOLDERS = max(8, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 10)
HOSTILE = [
    "a",
    "A",
    "b c",
    "ab",
    "Café",
    'qu"ote',
    "*ist",
    "x\\y",
    " edge ",
    "ß",
    "a?b",
    "tab\there",
    "(p)",
    "“q”",
    "ｗ",
]
names = st.sampled_from(HOSTILE)
records: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    path=st.builds(
        lambda folders, ext: "/".join([*folders, f"n{ext}"]),
        st.lists(names, max_size=3),
        names.map("".join) | st.sampled_from([".jpg", ".JPEG", ".png", "", ".a b"]),
    ),
    camera=st.none() | names,
    taken_at=st.none() | st.datetimes(datetime(1950, 1, 1), datetime(2030, 1, 1)).map(datetime.isoformat),
    size=st.none() | st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
)


def build(folder: Path, told: list[dict[str, Any]]) -> Collection:
    encoder = FakeEncoder()

    def record(number: int) -> ImageRecord:
        one = told[number]
        width, height = one["size"] or (None, None)
        keywords = tuple(
            dict.fromkeys(filter(fold_name, (one["camera"] or "", one["path"], "Places|Rome"[: number + 6])))
        )
        people = (one["camera"],) if one["camera"] else ()
        metadata = PictureMetadata("JPEG", one["taken_at"], one["camera"], keywords=keywords, people=people)
        path = f"{number}/{one['path']}" if number % 2 else f"top/{number % 4}/{one['path']}"
        stem, dot, ext = path.rpartition(".")
        path = f"{stem}{number}{dot}{ext}" if dot else f"{path}{number}"
        plain = synthetic_record(number)
        return dataclasses.replace(plain, path=path, width=width, height=height, metadata=metadata)

    index = write_index(folder, encoder, lambda: random_blocks(len(told), encoder.dim), record=record)
    return Collection(index, encoder=encoder)


def kept_by(photos: Collection, filters: tuple[tuple[str, str], ...], within: set[int]) -> int:
    asked = parse_query(" ".join(f'{field}:"{value}"' for field, value in filters)).filter
    assert asked is not None
    return len(within & set(photos.select(asked).tolist()))


@given(told=st.lists(records, min_size=1, max_size=25), half=st.booleans())
@settings(max_examples=FOLDERS, deadline=None)
@example(told=[{"path": name, "camera": name, "taken_at": None, "size": None} for name in ("a", "ab", "b")], half=False)
def test_each_value_counts_what_its_filters_keep(told: list[dict[str, Any]], half: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, build(Path(folder) / "photos", told) as photos:
        ids = photos.row_ids()[:: 2 if half else 1]
        found = count_facets(photos, ids, most=100)
        within = set(ids.tolist())
        for values in found.values():
            for value in values:
                assert value.count == kept_by(photos, value.filters, within), value
        assert sum(value.count for value in found["year"]) == len(ids)
        cameras = Counter(photos.record(row_id).metadata.camera for row_id in ids.tolist())
        unsaid = sum(count for camera, count in cameras.items() if camera is None or len(fold_name(camera)) == 1)
        assert 0 <= len(ids) - sum(value.count for value in found["camera"]) - cameras[None] <= unsaid


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    encoder = FakeEncoder()
    folder = tmp_path_factory.mktemp("facets") / "photos"
    index = write_index(folder, encoder, lambda: random_blocks(3000, encoder.dim), record=photo_record)
    write_tags(index, [make_tag("holiday", {f"{n:032x}": 1.0 for n in range(0, 3000, 7)})])
    return Collection(index, encoder=encoder)


def test_facets_of_a_question(photos: Collection) -> None:
    order = photos.order("camera:canon after:2020", unique=False)
    found = count_facets(photos, order.members(photos))
    assert [value.label for value in found["camera"]] in (
        ["Canon EOS R5", "Canon EOS R"],
        ["Canon EOS R", "Canon EOS R5"],
    )
    assert [int(value.label) for value in found["year"]] == [2023, 2022, 2021, 2020]
    assert {value.label for value in found["folder"]} == {"2020", "2021", "2022", "2023"}
    assert found["type"][0].label == "jpg"
    assert found["tag"][0].label == "holiday"
    total, _ = order.count(photos)
    for field in ("camera", "year", "folder", "type"):
        assert sum(value.count for value in found[field]) == total
    (within,) = [value for value in found["folder"] if value.label == "2021"]
    deeper = count_facets(photos, photos.order(f"folder:{within.filters[0][1]}").members(photos))
    assert {value.label.split("/")[0] for value in deeper["folder"]} == {"2021"}
    assert all(len(value.label.split("/")) == 2 for value in deeper["folder"])


def test_members_are_all_hits_of_each_kind_of_question(photos: Collection) -> None:
    vector = photos.vector(5)
    questions: list[dict[str, Any]] = [
        {},
        {"vector": vector},
        {"vector": vector, "all": True},
        {"query": "camera:canon", "unique": True},
    ]
    for asked in questions:
        order = photos.order(**asked)
        total, _ = order.count(photos)
        assert order.members(photos).tolist() == sorted(order.row_ids(photos, 0, 10_000).tolist())
        assert len(order.members(photos)) == total


@pytest.mark.many
@pytest.mark.parametrize("query", ["", "camera:canon", "after:3000"])
def test_the_timeline_has_every_hit_in_its_month(photos: Collection, query: str) -> None:
    order = photos.order(query, sort="date")
    ids = order.row_ids(photos, 0, 10_000)
    told = timeline(photos, ids)
    at = 0
    for month, count in told.months:
        for row_id in ids[at : at + count].tolist():
            assert str(photos.record(row_id).metadata.taken_at)[:7] == month
        at += count
    assert at == len(ids) == len(told.shapes)
    assert [month for month, _ in told.months] == sorted({month for month, _ in told.months}, reverse=True)
    for row_id, code in zip(ids.tolist(), told.shapes.tolist(), strict=True):
        record = photos.record(row_id)
        assert record.width is not None
        assert record.height is not None
        assert 2 ** ((code - 1) / 254 * 4 - 2) == pytest.approx(min(4, record.width / record.height), rel=0.01)


def test_a_list_is_by_date_unless_it_is_sorted_otherwise(photos: Collection) -> None:
    assert photos.order("").is_by_date
    assert photos.order("camera:canon").is_by_date
    assert photos.order("red", sort="date").is_by_date
    assert not photos.order("red").is_by_date
    assert not photos.order("", sort="path").is_by_date


@given(st.sets(st.integers(-5, 40)), st.sets(st.integers(0, 40)))
@settings(max_examples=EXAMPLES)
def test_positions_are_those_of_a_search(ids: set[int], own: set[int]) -> None:
    columns = Columns({"row_id": np.array(sorted(own), np.int64)}, {})
    found = columns.positions(np.array(sorted(ids), np.int64))
    assert columns.row_ids[found].tolist() == sorted(ids & own)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    encoder = FakeEncoder(8)
    folder = tmp_path_factory.mktemp("many") / "photos"
    index = write_index(folder, encoder, lambda: random_blocks(MANY, 8), record=photo_record)
    with Collection(index, encoder=encoder) as photos:
        yield photos


@pytest.mark.slow
def test_facets_of_many_pictures_take_a_fraction_of_a_second(many: Collection) -> None:
    ids = many.row_ids()
    count_facets(many, ids)
    began = time.process_time()
    count_facets(many, ids)
    timeline(many, ids[::-1])
    assert time.process_time() - began < 0.3 * MANY / 100_000  # a tenth of that by itself


@pytest.mark.slow
def test_a_keystroke_over_many_pictures_costs_milliseconds(many: Collection) -> None:
    began = time.process_time()
    known = Vocabulary(many)
    assert time.process_time() - began < 0.2  # once for a generation; 0.004 by itself
    began = time.process_time()
    for word in ("c", "ca", "can", "folder:2", "camera:c", "tag:x", "20"):
        suggest(many, known, word)
    assert (time.process_time() - began) / 7 < 0.02  # 0.0003 by itself
