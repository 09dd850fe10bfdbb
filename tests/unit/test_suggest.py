"""What is suggested for a word of a query: it occurs in the index, and a query that takes it finds pictures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from benchmarks.common import photo_record, random_blocks, write_index
from clipsearch.query import parse_query
from clipsearch.query.fields import FIELDS
from clipsearch.search.collection import Collection
from clipsearch.search.suggest import MOST_SUGGESTED, Suggestion, Vocabulary, suggest
from clipsearch.server.app import create_app
from clipsearch.store.tags import make_tag, write_tags
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import FakeEncoder
from tests.unit.test_facets import HOSTILE, build, records

FOLDERS = max(8, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 10)
LOCAL = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = FakeEncoder()
    folder = tmp_path_factory.mktemp("suggest") / "photos"
    index = write_index(folder, encoder, lambda: random_blocks(600, encoder.dim), record=photo_record)
    write_tags(index, [make_tag("my holiday", {f"{n:032x}": 1.0 for n in range(0, 600, 7)}), make_tag("cat", {})])
    return index


@pytest.fixture(scope="module")
def photos(index: Path) -> Collection:
    return Collection(index, encoder=FakeEncoder())


def said(photos: Collection, word: str, **more: Any) -> list[Suggestion]:
    return suggest(photos, Vocabulary(photos), word, **more)


@pytest.mark.slow
@given(told=st.lists(records, min_size=1, max_size=20), word=st.sampled_from(HOSTILE) | st.text(max_size=3))
@settings(max_examples=FOLDERS, deadline=None)
def test_a_value_that_is_suggested_finds_what_was_counted(told: list[dict[str, Any]], word: str) -> None:
    with tempfile.TemporaryDirectory() as folder, build(Path(folder) / "photos", told) as photos:
        for typed in ("folder:", "camera:", "ext:", f"folder:{word}", f"camera:{word}", f"ext:{word}", word):
            for one in said(photos, typed, most=50):
                if not one.value or one.field not in ("folder", "camera", "ext"):
                    continue
                asked = parse_query(f'{one.field}:"{one.value}"').filter
                assert asked is not None
                assert len(photos.select(asked)) >= (one.count or 0) > 0, (typed, one)


@pytest.mark.slow
@given(st.text() | st.sampled_from([f"{name}:" for name in FIELDS]))
@settings(max_examples=100, deadline=None)
def test_any_word_is_answered(photos: Collection, word: str) -> None:
    for one in said(photos, word):
        assert one.field in FIELDS
    assert len(said(photos, word, most=3)) <= 3


def test_a_word_may_be_a_field_a_tag_a_folder_or_a_camera(photos: Collection) -> None:
    assert said(photos, "cam")[0] == Suggestion("camera", "", "camera:")
    assert Suggestion("camera", "", "camera:") in said(photos, "phone")  # what other programs call it
    assert said(photos, "holi")[0] == Suggestion("tag", "my holiday", "my holiday", 86)
    assert {one.field for one in said(photos, "20")} == {"folder"}
    canon = said(photos, "canon")
    assert {one.field for one in canon} == {"camera"}
    assert [one.count for one in canon] == sorted((one.count or 0 for one in canon), reverse=True)
    assert said(photos, "") == said(photos, "qqq") == []


def test_values_of_a_field(photos: Collection) -> None:
    assert [one.label for one in said(photos, "tag:")] == ["cat", "my holiday"]
    assert said(photos, "like:") == []  # a tag is no concept
    assert [one.value for one in said(photos, "orientation:por")] == ["portrait"]
    assert [one.value for one in said(photos, "is:screen")] == ["screenshot"]
    years = said(photos, "after:20", most=50)
    assert sum(one.count or 0 for one in years) == len(photos)
    assert [int(one.value) - 1 for one in said(photos, "before:20", most=50)] == [int(one.value) for one in years]
    top = said(photos, "folder:")
    assert len(top) == MOST_SUGGESTED
    assert all(one.value == f"/{one.label}" for one in top)
    assert said(photos, f"-folder:/{top[0].label}")[0] == top[0]
    assert said(photos, f'folder:"{top[0].label.upper()}')[0] == top[0]


@pytest.mark.slow
def test_the_page_is_told_over_http(index: Path) -> None:
    encoder = FakeEncoder()
    with TestClient(create_app([index], encoder=encoder, interface=add_page), base_url=LOCAL) as client:
        answer = client.post("/v1/suggest", json={"word": "tag:holi"}).json()
        assert answer["suggestions"] == [{"field": "tag", "value": "my holiday", "label": "my holiday", "count": 86}]
        write_tags(index, [make_tag("holiday home", {})])
        client.post("/v1/search", json={"at_least_generation": 10**6})  # which waits for the newest
        assert len(client.post("/v1/suggest", json={"word": "tag:holi"}).json()["suggestions"]) == 2
        assert client.post("/v1/suggest", json={"word": "x", "index": "other"}).status_code == 404
        assert client.post("/v1/suggest", json={"word": "x" * 2000}).status_code == 422
        cross = client.post("/v1/suggest", json={"word": "x"}, headers={"origin": "http://evil.example"})
        assert cross.status_code == 403
