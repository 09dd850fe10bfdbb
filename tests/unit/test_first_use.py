"""First use: nothing is written before somebody asks, and only folders and indexes that were named are served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.testclient import TestClient

import clipsearch
import clipsearch.ui.first_use
from clipsearch import config
from clipsearch.cli.ui import _places
from clipsearch.errors import IndexNotFound
from clipsearch.indexer.build import IndexOptions, Progress
from clipsearch.indexer.plan import PlanStopped, plan_index
from clipsearch.server.app import create_app
from clipsearch.ui.first_use import is_unfinished, note_unfinished
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

LOCAL = "http://127.0.0.1:7860"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        picture(number).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(encoder: FakeEncoder) -> Iterator[Serve]:
    opened: list[TestClient] = []

    def begin(*indexes: Path, **page: Any) -> TestClient:
        app = create_app(list(indexes), encoder=encoder, interface=partial(add_page, encoder=encoder, **page))
        opened.append(TestClient(app, base_url=LOCAL, client=("127.0.0.1", 50000)).__enter__())
        return opened[-1]

    yield begin
    for client in opened:
        client.__exit__(None, None, None)


def until(client: TestClient, *states: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told: dict[str, Any] = client.get("/v1/start").json()["set_up"]
        if told["state"] in states:
            return told
        time.sleep(0.02)
    raise AssertionError(told)


def test_a_folder_is_planned_and_indexed_only_when_somebody_asks(photos: Path, serve: Serve) -> None:
    client = serve(folder=photos)
    told = until(client, "ready")
    assert told["plan"]["to_read"] == 5
    assert told["plan"]["bytes_to_read"] == sum(file.stat().st_size for file in photos.glob("*.png"))
    assert not (photos / ".clipsearch").exists()
    assert client.get("/v1/status").json()["indexes"] == []
    nothing = client.post("/v1/gallery", json={})
    assert (nothing.status_code, nothing.json()["error"]) == (404, "NothingIndexed")
    assert client.get("/metrics").status_code == 200
    cross = client.post("/v1/start/index", json={}, headers={"origin": "http://evil.example"})
    assert cross.status_code == 403
    assert not (photos / ".clipsearch").exists()
    assert client.post("/v1/start/index", json={}).status_code == 200
    assert until(client, "done")["index"] == "photos"
    assert client.post("/v1/gallery", json={}).json()["total"] == 5
    assert client.post("/v1/start/index", json={}).json()["state"] == "done"


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_is_done_and_goes_on(
    photos: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5, 60):
        picture(number, size=(32, 24)).save(photos / f"{number}.png")
    seen = threading.Event()
    go_on = threading.Event()
    real = clipsearch.ui.first_use.SetUp._note

    def note(self: Any, progress: Progress) -> None:
        real(self, progress)
        if progress.stage == "read" and progress.done:
            seen.set()
            go_on.wait(60)

    monkeypatch.setattr("clipsearch.ui.first_use.SetUp._note", note)
    client = serve(folder=photos)
    until(client, "ready")
    client.post("/v1/start/index", json={})
    assert seen.wait(60)
    assert client.post("/v1/start/stop", json={}).json()["state"] == "stopping"
    go_on.set()
    assert until(client, "stopped")["problem"] is None
    done = client.post("/v1/gallery", json={"unique": False}).json()["total"]
    assert done > 0
    assert client.get("/v1/start").json()["set_up"]["plan"]["to_read"] == 60 - done
    client.post("/v1/start/index", json={})
    until(client, "done")
    assert client.post("/v1/gallery", json={"k": 1, "unique": False}).json()["total"] == 60
    assert not is_unfinished(photos / ".clipsearch")


def test_a_server_that_ends_while_it_indexes_leaves_a_whole_index(photos: Path, encoder: FakeEncoder) -> None:
    before = threading.active_count()  # of other tests in this process
    app = create_app([], encoder=encoder, interface=partial(add_page, encoder=encoder, folder=photos))
    with TestClient(app, base_url=LOCAL) as client:
        until(client, "ready")
        client.post("/v1/start/index", json={})
    assert threading.active_count() < before + 50
    report = clipsearch.index(photos, encoder=encoder)
    assert report.pictures == 5


@pytest.mark.slow
def test_what_was_stopped_is_offered_the_next_time(photos: Path, serve: Serve, encoder: FakeEncoder) -> None:
    place = clipsearch.index(photos, encoder=encoder).index
    assert not is_unfinished(place)
    picture(99).save(photos / "more.png")
    note_unfinished(place, unfinished=True)
    note_unfinished(photos.parent / "gone" / ".clipsearch", unfinished=True)
    assert is_unfinished(place)
    assert not is_unfinished(photos.parent / "gone" / ".clipsearch")
    client = serve(place, folder=photos)
    told = until(client, "ready")
    assert (told["index"], told["plan"]["to_read"]) == ("photos", 1)
    assert [one["name"] for one in client.get("/v1/status").json()["indexes"]] == ["photos"]
    client.post("/v1/start/index", json={})
    until(client, "done")
    assert not is_unfinished(place)
    note_unfinished(place, unfinished=True)  # finished in a terminal since
    assert until(serve(place, folder=photos), "done")["index"] == "photos"
    assert not is_unfinished(place)
    (config.state_dir() / "unfinished.json").write_text("7")
    assert not is_unfinished(place)


def test_a_plan_is_given_up_when_the_server_ends(photos: Path, encoder: FakeEncoder) -> None:
    for depth in ("a", "b", "c"):
        (photos / depth).mkdir()
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(PlanStopped):
        plan_index(photos, encoder, stop=stop)
    assert len(asked) == 3
    assert plan_index(photos, encoder).to_read == 5


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, serve: Serve) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    client = serve(folder=empty)
    told = until(client, "ready")
    assert told["plan"]["to_read"] == 0 if told["plan"] else "no pictures" in told["problem"]
    client.post("/v1/start/index", json={})
    assert "no pictures" in until(client, "stopped")["problem"].lower()
    assert not (empty / ".clipsearch").exists()


def test_a_folder_without_pictures_is_looked_at_again(tmp_path: Path, serve: Serve) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    client = serve(folder=empty)
    problem = until(client, "ready")["problem"]
    assert "no pictures" in problem
    assert client.post("/v1/start/look", json={}).json()["problem"] == problem  # until it is known to be settled
    until(client, "ready")
    picture(1).save(empty / "a.png")
    client.post("/v1/start/look", json={})
    told = until(client, "ready")
    assert (told["problem"], told["plan"]["to_read"]) == (None, 1)
    client.post("/v1/start/index", json={})
    assert until(client, "done")["index"] == "empty"
    assert client.post("/v1/start/look", json={}).json()["state"] == "done"


def test_another_folder_is_named_only_where_the_server_may_use_it(tmp_path: Path, photos: Path, serve: Serve) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = {"folder": str(photos)}
    assert serve(folder=empty).post("/v1/start/folder", json=asked).status_code == 404
    assert serve(other_folders=True).post("/v1/start/folder", json=asked).status_code == 404
    client = serve(folder=empty, other_folders=True)
    until(client, "ready")
    for header in ({"x-forwarded-for": "127.0.0.1"}, {"forwarded": "for=127.0.0.1"}):
        assert client.post("/v1/start/folder", json=asked, headers=header).status_code == 404
    evil = client.post("/v1/start/folder", json=asked, headers={"origin": "http://evil.example"})
    assert evil.status_code == 403
    for wrong in ("", "a\0b", 7, None, "x" * 5000):
        assert client.post("/v1/start/folder", json={"folder": wrong}).status_code == 422
    client.post("/v1/start/folder", json={"folder": str(tmp_path / "missing")})
    assert "missing" in until(client, "ready")["problem"]
    client.post("/v1/start/folder", json=asked)
    told = until(client, "ready")
    assert (told["folder"], told["plan"]["to_read"], told["problem"]) == (str(photos), 5, None)
    assert not (photos / ".clipsearch").exists()
    client.post("/v1/start/index", json={})
    assert until(client, "done")["index"] == "photos"
    assert client.post("/v1/start/folder", json={"folder": str(empty)}).json()["folder"] == str(photos)


@pytest.mark.slow
def test_only_indexes_that_were_used_before_can_be_opened(
    tmp_path: Path, photos: Path, serve: Serve, encoder: FakeEncoder
) -> None:
    index = clipsearch.index(photos, encoder=encoder).index
    others = []
    for name in ("scans", "secret"):
        folder = tmp_path / name
        folder.mkdir()
        picture(9).save(folder / "a.png")
        others.append(clipsearch.index(folder, encoder=encoder).index)
    registry = config.state_dir() / "indexes.json"
    entries = [line for line in config.known_indexes() if "secret" not in str(line)]
    registry.unlink()
    for path in reversed(entries):
        config.remember_index(path)
    scans, secret = (config.marker_of(other) for other in others)
    client = serve(index, open_known=True)
    known = client.get("/v1/start").json()
    assert known == {"set_up": None, "known": [{"id": scans, "folder": str(tmp_path / "scans")}]}
    assert client.post("/v1/start/open", json={"id": secret}).status_code == 404
    for wrong in (str(others[1]), "../secret", "", 7, None):
        assert client.post("/v1/start/open", json={"id": wrong}).status_code == 422
    assert client.post("/v1/start/open", json={"id": scans}).json() == {"index": "scans"}
    assert client.post("/v1/start/open", json={"id": scans}).status_code == 404  # it is served now
    assert [one["name"] for one in client.get("/v1/status").json()["indexes"]] == ["photos", "scans"]
    assert client.post("/v1/gallery", json={"index": "scans"}).json()["total"] == 1
    assert client.get("/v1/start").json()["known"] == []


def test_without_permission_nothing_else_is_told_or_opened(photos: Path, serve: Serve, encoder: FakeEncoder) -> None:
    index = clipsearch.index(photos, encoder=encoder).index
    client = serve(index)
    assert client.get("/v1/start").json() == {"set_up": None, "known": []}
    for route in ("open", "index", "stop"):
        assert client.post(f"/v1/start/{route}", json={"id": "0" * 32}).status_code == 404


def test_which_folders_are_shown(
    tmp_path: Path, photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert _places([]) == ([], photos)  # nothing was indexed on this machine
    assert _places([photos]) == ([], photos)
    with pytest.raises(IndexNotFound):
        _places([tmp_path / "missing"])
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(typer.BadParameter, match="one such folder at a time"):
        _places([photos, other])
    index = clipsearch.index(photos, encoder=encoder, options=IndexOptions()).index
    assert _places([]) == ([index], None)
    assert _places([photos, other]) == ([index], other)
    monkeypatch.chdir(other)
    assert _places([]) == ([index], None)  # the one that was used last
    monkeypatch.setenv("CLIPSEARCH_INDEX", str(other))
    with pytest.raises(IndexNotFound):
        _places([])
