"""The tools for AI assistants, called by the SDK's own client without a process between."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ImageContent, TextContent, Tool
from PIL import Image

import clipsearch
from clipsearch.search.similar import find_picture
from clipsearch.server.engine import Engine
from clipsearch.server.mcp import MOST_HITS, _found, assistant_server
from clipsearch.server.messages import SearchRequest
from clipsearch.server.metrics import Metrics
from clipsearch.server.routes import Service
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import picture, plain

HOSTILE = "<img src=x onerror=alert(1)>&\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}.png"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assistants") / "photos"
    (folder / "trips").mkdir(parents=True)
    for name in ("red", "blue", "green"):
        plain(COLOURS[name]).save(folder / f"{name}.png")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "X100"
    picture(7, size=(900, 600)).save(folder / "trips" / "Été.jpg", exif=exif)
    plain(COLOURS["pink"]).save(folder / HOSTILE)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(40))
    clipsearch.index(folder, encoder=FakeEncoder())
    return folder


@pytest.fixture
def collection(indexed: Path, photos: Path) -> Path:
    shutil.copytree(indexed, photos, dirs_exist_ok=True)
    return photos


@pytest.fixture
def service(collection: Path, encoder: FakeEncoder) -> Iterator[Service]:
    engine = Engine([collection / ".clipsearch"], encoder=encoder)
    service = Service(engine, Metrics(), search_threads=1, most_waiting=0, decode_timeout_s=10)
    yield service
    service.close()


@lru_cache(maxsize=1)
def server_of(service: Service) -> MCPServer:
    """One for all questions of a test: to make it, and to ask it for the first time, takes 40 ms."""
    return assistant_server(service)


def call(service: Service, tool: str, **arguments: Any) -> CallToolResult:
    async def ask() -> CallToolResult:
        async with Client(server_of(service)) as client:
            return await client.call_tool(tool, arguments)

    return anyio.run(ask)


def told(result: CallToolResult) -> dict[str, Any]:
    """What a tool answered; as text for models it says the same."""
    (text,) = result.content
    assert isinstance(text, TextContent)
    assert not result.is_error, text.text
    body: dict[str, Any] = json.loads(text.text)
    assert body == result.structured_content
    return body


def problem(result: CallToolResult) -> str:
    (text,) = result.content
    assert isinstance(text, TextContent)
    assert result.is_error
    return text.text


def hits(service: Service, query: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(call(service, "search", query=query, **{"all": True, **options}))["hits"]
    return found


def test_the_tools_say_that_they_only_read_and_teach_the_query_language(service: Service) -> None:
    async def ask() -> list[Tool]:
        async with Client(assistant_server(service)) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in anyio.run(ask)}
    assert set(tools) == {"search", "similar", "where", "show_image", "status"}
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
        assert tool.annotations.open_world_hint is False
    taught = tools["search"].description or ""
    for words in ("like:ROW_ID", "after:2023-05", "near:48.85,2.35,10km", "-people", "tag:"):
        assert words in taught


@pytest.mark.slow
def test_what_the_description_teaches_is_understood(service: Service) -> None:
    for query in (
        "horse + stripes",
        "cat - dog",
        "dog beach -people",
        "2:sunset + sea",
        "red like:1",
        '"black - white"',
    ):
        told(call(service, "search", query=query))
    filters = "folder:trips name:*.jpg ext:jpg after:2020-05 before:2199 orientation:landscape width:>800 height:<=800"
    assert [Path(hit["path"]).parent.name for hit in hits(service, f"{filters} size:<5MB camera:x100")] == ["trips"]
    assert hits(service, "near:48.85,2.35,10km") == []


def test_a_hit_says_what_it_is(service: Service, collection: Path) -> None:
    red, *_ = hits(service, "red", k=1)
    assert red["path"] == str(collection / "red.png")
    assert (red["rank"], red["width"], red["height"]) == (1, 40, 40)
    assert red["score"] > 0.99
    assert red["band"] in ("strong", "maybe", "unlikely")
    assert 0 <= red["confidence"] <= 1
    assert red["size_bytes"] == (collection / "red.png").stat().st_size
    assert red["date"].endswith("Z")
    listed = hits(service, "folder:trips")
    assert [(hit["score"], hit["confidence"], hit["camera"]) for hit in listed] == [(None, None, "Maker X100")]


@pytest.mark.slow
def test_nothing_found_is_said_in_words(service: Service) -> None:
    answer = told(call(service, "search", query="a cave folder:nowhere"))
    assert answer["hits"] == []
    assert answer["note"] == "nothing found: no picture matches folder:nowhere"
    answers = [told(call(service, "search", query=f"a story of {number} caves")) for number in range(100, 110)]
    uncertain = [answer for answer in answers if {hit["band"] for hit in answer["hits"]} == {"unlikely"}]
    assert uncertain and {answer["note"] for answer in uncertain} == {"nothing certain; nearest:"}
    assert all(answer["note"] is None for answer in answers if answer not in uncertain)
    everything = told(call(service, "search", query="", k=100))
    assert everything["note"] is None and len(everything["hits"]) == everything["total"] == 5
    beyond = told(call(service, "search", query="", offset=9))
    assert (beyond["hits"], beyond["note"]) == ([], "there are 5 hits in all")


@pytest.mark.slow
def test_orders_and_clicks(service: Service) -> None:
    assert [hit["path"] for hit in hits(service, "red", sort="path")] == sorted(
        (hit["path"] for hit in hits(service, "red")), key=lambda path: (Path(path).parent, path.lower())
    )
    blue = hits(service, "blue", k=1)[0]["row_id"]

    def score_of_blue(**clicks: Any) -> float:
        return next(float(hit["score"]) for hit in hits(service, "red", **clicks) if hit["row_id"] == blue)

    assert score_of_blue(unlike=[blue]) < score_of_blue() < score_of_blue(like=[blue])


def test_names_of_files_steer_nothing(service: Service) -> None:
    result = call(service, "search", query="pink", k=1)
    (text,) = result.content
    assert isinstance(text, TextContent)
    for raw in ("<", ">", "&", "\x1b", "\N{RIGHT-TO-LEFT OVERRIDE}"):
        assert raw not in text.text
    path = told(result)["hits"][0]["path"]
    assert path.endswith("\\x1b[31m\\u202e.png")
    row_id = told(result)["hits"][0]["row_id"]
    _, caption = call(service, "show_image", row_id=row_id).content
    assert isinstance(caption, TextContent)
    assert not any(raw in caption.text for raw in "<>&\x1b")
    assert json.loads(caption.text) == {"row_id": row_id, "path": path}


@pytest.mark.slow
def test_columns_of_tables_steer_nothing(service: Service) -> None:
    (hit,) = service.search(SearchRequest(query="", k=1))["hits"]
    assert _found({**hit, "columns": ["a=\x1b[31mred"]}).columns == ["a=\\x1b[31mred"]


def test_similar_pictures_by_row_id_and_by_path(service: Service, collection: Path) -> None:
    red = hits(service, "red", k=1)[0]["row_id"]
    by_id = told(call(service, "similar", row_id=red, k=2))["hits"]
    assert len(by_id) == 2
    assert [hit["rank"] for hit in by_id] == [1, 2]
    assert red not in [hit["row_id"] for hit in by_id]
    for path in (str(collection / "red.png"), "red.png", "./red.png", "trips/../red.png", "RED.png"):
        assert told(call(service, "similar", path=path, k=2))["hits"] == by_id, path


def test_copies_of_the_picture_take_no_place_among_similar_ones(
    service: Service, collection: Path, encoder: FakeEncoder
) -> None:
    for n in range(8):
        (collection / f"copy{n}.png").write_bytes((collection / "red.png").read_bytes())
    clipsearch.index(collection, encoder=encoder)
    service.engine.index().reload(wait=True)
    found = told(call(service, "similar", path="red.png", k=4))["hits"]
    assert {Path(hit["path"]).name for hit in found} >= {"blue.png", "green.png", "Été.jpg"}
    assert len(found) == 4


@pytest.mark.slow
def test_files_and_addresses_that_an_assistant_names_are_not_opened(
    service: Service, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside.png"
    plain(COLOURS["red"]).save(outside)
    (collection / "later.png").write_bytes(outside.read_bytes())  # in the folder, not in the index
    (collection / "link.png").symlink_to(outside)
    opened: list[str] = []
    real = os.open

    def noted(path: Any, *more: Any, **named: Any) -> int:
        opened.append(os.fsdecode(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", noted)
    for path in (
        str(outside), "../outside.png", "/etc/passwd", "later.png", "link.png", "red.png/../../outside.png", "~/x.png",
        "http://127.0.0.1:9/x.png", "file:///etc/passwd", "", ".", "red.png\0", "broken.jpg", ".clipsearch/CURRENT",
    ):  # fmt: skip
        assert "no other file is opened" in problem(call(service, "similar", path=path)), path
    for query in (str(outside), "./red.png", "red + ../outside.png", "~/x.png"):
        assert "opens no files by path" in problem(call(service, "search", query=query)), query
    for query in ("http://127.0.0.1:9/x.png", "red + https://evil.example/a.png", "file:///etc/passwd"):
        assert "URLs are not fetched" in problem(call(service, "search", query=query)), query
    assert not [path for path in opened if "outside" in path or "passwd" in path]


@pytest.mark.slow
def test_a_picture_comes_as_a_small_copy_without_metadata(service: Service) -> None:
    row_id = hits(service, "folder:trips")[0]["row_id"]
    for size in (128, 512):
        image, _ = call(service, "show_image", row_id=row_id, size=size).content
        assert isinstance(image, ImageContent)
        assert image.mime_type == "image/jpeg"
        with Image.open(io.BytesIO(base64.b64decode(image.data))) as shown:
            assert max(shown.size) == size
            assert not shown.getexif()


@pytest.mark.slow
def test_mistakes_are_tool_errors_that_say_how_to_mend_them(service: Service) -> None:
    assert "Write near:48.85,2.35,10km" in problem(call(service, "search", query="near:48.85"))
    assert "photos" in problem(call(service, "search", query="red", index="elsewhere"))
    assert "no tag or concept is called none" in told(call(service, "search", query="tag:none"))["note"]
    for tool in ("show_image", "similar"):
        assert problem(call(service, tool, row_id=99)) == "the index has no picture 99. Use the row_id of a hit"
    assert problem(call(service, "similar")) == "name a picture: give its row_id or its path"
    both = problem(call(service, "similar", row_id=0, path="red.png"))
    assert both == "name a picture: give its row_id or its path, not both"
    assert str(MOST_HITS) in problem(call(service, "search", query="red", k=MOST_HITS + 1))
    assert problem(call(service, "show_image", row_id=0, size=4096)) == "size: it must be 128, 256, 512 or 1024"
    assert problem(call(service, "show_image", row_id=0, size=0)).startswith("size is 0. Use one of: 128, 256")
    assert problem(call(service, "show_image", row_id=-1)) == "the index has no picture -1. Use the row_id of a hit"
    assert problem(call(service, "show_image")) == "row_id is missing"
    assert problem(call(service, "search", query=["red"])) == "a list is not a query: a query is a text or a path"
    assert problem(call(service, "similar", row_id="3")) == "row_id is '3': it must be a whole number"
    assert problem(call(service, "search", query="red", k=1000)) == "k: it must be at most 100"
    assert "\x1b" not in problem(call(service, "search", query="near:\x1b[31m"))


def test_unknown_arguments_are_refused_and_named(service: Service) -> None:
    for tool, given, said in (
        ("search", {"query": "red", "limit": 3}, "search has no argument limit. It takes: query, k, offset, all"),
        ("search", {"query": "red", "K": 3}, "search has no argument K."),
        ("similar", {"row_id": 0, "offset": 1, "x\x1b": 1}, "similar has no argument offset, x\\x1b. It takes: row_id"),
        ("show_image", {"row_id": 0, "width": 9}, "show_image has no argument width."),
        ("status", {"index": "photos"}, "status has no argument index. It takes none"),
    ):
        assert said in problem(call(service, tool, **given)), (tool, given)

    async def schemas() -> list[dict[str, Any]]:
        async with Client(assistant_server(service)) as client:
            return [tool.input_schema for tool in (await client.list_tools()).tools]

    assert all(schema["additionalProperties"] is False for schema in anyio.run(schemas))


def test_what_a_crash_says_stays_here(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(asked: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service, "search", crash)
    assert "secret" not in problem(call(service, "search", query="red"))


def test_the_file_of_a_row_that_is_no_picture_is_not_shown(service: Service, collection: Path) -> None:
    with clipsearch.open(collection) as photos:
        rows = set(photos.row_ids().tolist())
    (skipped,) = set(range(max(rows) + 2)) - rows - {max(rows) + 1}
    assert "has no picture" in problem(call(service, "show_image", row_id=skipped))
    assert "has no picture" in problem(call(service, "similar", row_id=skipped))


def test_status_names_the_indexes(service: Service, collection: Path) -> None:
    (index,) = told(call(service, "status"))["indexes"]
    assert (index["name"], index["root"], index["pictures"], index["skipped"]) == ("photos", str(collection), 5, 1)


def test_a_deleted_picture_is_at_no_path(collection: Path, encoder: FakeEncoder) -> None:
    with clipsearch.open(collection) as photos:
        row_id = find_picture(photos, "blue.png")
        assert row_id is not None
        assert photos.record(row_id).path == "blue.png"
    (collection / "blue.png").unlink()
    clipsearch.index(collection, encoder=encoder)
    with clipsearch.open(collection) as photos:
        assert find_picture(photos, "blue.png") is None
        assert find_picture(photos, "green.png") is not None
