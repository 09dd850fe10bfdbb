"""Saved searches are kept as tags are: twice, while a run goes on, through every repair."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import clipsearch
from clipsearch.errors import InvalidTag, SearchExists, UnknownSearch, UnknownTag
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.records import SavedSearch
from clipsearch.server.app import create_app
from clipsearch.store import Writer, open_snapshot
from clipsearch.store.files import HashingFile
from clipsearch.store.searches import (
    as_tag,
    find_search,
    make_search,
    read_searches,
    remove_search,
    rename_search,
    save_search,
)
from clipsearch.store.tags import make_tag, parse_tag, remove_tag, write_tag, write_tags
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

LOCAL = "http://127.0.0.1:7860"
BEACH = SavedSearch("Beach", "dog on a beach -people", sort="date", unique=True)


@pytest.fixture
def index(tmp_path: Path, encoder: FakeEncoder) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        picture(number).save(photos / f"{number}.png")
    return clipsearch.index(photos, encoder=encoder).index


def searches(index: Path) -> list[SavedSearch]:
    with open_snapshot(index) as snapshot:
        return read_searches(index, snapshot.manifest)


def test_a_search_is_saved_renamed_and_removed_and_the_removed_one_can_be_saved_again(index: Path) -> None:
    save_search(index, BEACH)
    save_search(index, BEACH)  # the same again is no error
    with pytest.raises(SearchExists, match="Beach"):
        save_search(index, make_search("BEACH", "other"))
    save_search(index, make_search("beach", "other"), replace=True)
    assert [one.query for one in searches(index)] == ["other"]
    save_search(index, BEACH, replace=True)
    save_search(index, make_search("snow", "snow", all=True))
    with pytest.raises(SearchExists):
        rename_search(index, "snow", "beach")
    assert rename_search(index, "BEACH", "beach!").name == "beach!"
    assert rename_search(index, "beach!", "Beach!").name == "Beach!"  # other capitals only
    assert [one.name for one in searches(index)] == ["Beach!", "snow"]
    gone = remove_search(index, "beach!")
    assert gone == SavedSearch("Beach!", "dog on a beach -people", sort="date", unique=True)
    with pytest.raises(UnknownSearch, match="There are: snow"):
        remove_search(index, "beach!")
    save_search(index, gone)
    assert len(searches(index)) == 2
    for name in ("", " x", 'a"b', "a\nb", "x" * 101):
        with pytest.raises(InvalidTag):
            save_search(index, make_search(name, "x"))
        with pytest.raises(InvalidTag):
            rename_search(index, "snow", name)


def test_searches_and_tags_have_names_of_their_own(index: Path, encoder: FakeEncoder) -> None:
    write_tags(index, [make_tag("beach", {f"{1:032x}": 1.0})])
    save_search(index, BEACH)
    with clipsearch.open(index, encoder=encoder) as photos:
        assert [tag.name for tag in photos.tags] == ["beach"]
        assert photos.tag("beach").kind == "tag"
    remove_tag(index, "beach")
    with pytest.raises(UnknownTag):
        remove_tag(index, "beach")
    assert searches(index) == [BEACH]
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.writer_features == ("tags", "searches")
        assert find_search(index, snapshot.manifest, "bEACH") == BEACH


def test_a_run_that_goes_on_keeps_what_is_saved_meanwhile(index: Path) -> None:
    save_search(index, make_search("old", "old"))
    with Writer(index) as writer:
        current = writer.current()
        assert current is not None
        save_search(index, BEACH)
        remove_search(index, "old")
        writer.commit(current)
    assert searches(index) == [BEACH]


def test_either_of_two_files_is_enough_and_repair_writes_the_other(index: Path, encoder: FakeEncoder) -> None:
    save_search(index, BEACH)
    files = sorted((index / "tags").iterdir())
    assert len(files) == 2
    for file in files:
        before = file.read_bytes()
        file.write_bytes(before[:20] + b"!" + before[21:])
        assert searches(index) == [BEACH]
        assert not verify(index).ok
        repair(index)
        assert verify(index).ok
        assert searches(index) == [BEACH]
    for manifest in (index / "manifests").iterdir():
        manifest.write_bytes(b"gone")
    repair(index)
    assert searches(index) == [BEACH]


def written(search: SavedSearch) -> bytes:
    folder = Path(tempfile.mkdtemp())
    with (folder / "a.tag").open("wb") as file:
        write_tag(HashingFile(file), as_tag(search))
    raw = (folder / "a.tag").read_bytes()
    shutil.rmtree(folder)
    return raw


@given(
    st.builds(
        SavedSearch,
        name=st.just("a"),
        query=st.text() | st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)),
        sort=st.sampled_from(["score", "date", "path"]),
        unique=st.booleans(),
        diverse=st.booleans(),
        all=st.booleans(),
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_read_is_what_was_saved(search: SavedSearch) -> None:
    assert parse_tag(written(search)).search == search


@pytest.mark.parametrize("damage", [b'"sort": "size"', b'"sort": 12345 ', b'"sort": null  '])
def test_a_file_with_other_values_is_damaged(damage: bytes) -> None:
    raw = written(SavedSearch("a", "q", sort="date"))
    assert raw.replace(b'"sort": "date"', damage) != raw
    with pytest.raises(ValueError, match="not a tag file"):
        parse_tag(raw.replace(b'"sort": "date"', damage))


@pytest.mark.slow
def test_the_page_saves_lists_renames_and_removes(index: Path, encoder: FakeEncoder) -> None:
    body = {"name": "Beach", "query": "dog", "sort": "date", "unique": True}
    with TestClient(create_app([index], encoder=encoder, interface=add_page), base_url=LOCAL) as client:

        def names() -> list[str]:
            return [one["name"] for one in client.get("/v1/searches").json()["searches"]]

        assert names() == []
        kept = client.post("/v1/searches", json=body).json()
        assert kept == {**body, "diverse": False, "all": False}
        assert names() == ["Beach"]
        again = client.post("/v1/searches", json={**body, "name": "beach", "query": "cat"})
        assert (again.status_code, again.json()["error"]) == (409, "SearchExists")
        assert client.post("/v1/searches/rename", json={"name": "Beach", "new_name": "Sea"}).status_code == 200
        assert client.post("/v1/searches/rename", json={"name": "Beach", "new_name": "x"}).status_code == 400
        assert names() == ["Sea"]
        status = client.get("/v1/status").json()["indexes"][0]
        assert status["tags"] == []
        other = {"name": "Sea", "index_id": "0" * 32}
        assert client.post("/v1/searches/remove", json=other).status_code == 409
        gone = client.post("/v1/searches/remove", json={"name": "sea"}).json()
        assert names() == []
        assert client.post("/v1/searches", json=gone).status_code == 200
        assert names() == ["Sea"]
        for wrong in ({**body, "name": "a\nb"}, {**body, "query": "x" * 10_001}, {**body, "sort": "size"}):
            assert client.post("/v1/searches", json=wrong).status_code in (400, 422)
        cross = client.post("/v1/searches", json=body, headers={"origin": "http://evil.example"})
        assert cross.status_code == 403
