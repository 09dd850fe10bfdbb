"""What holds for every route there is, found by looking at the application: a new route cannot be forgotten here.

`clipsearch ui` with its page is what is asked, and the tools of `clipsearch mcp`, whose parameters are enumerated too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from mcp import Client
from mcp_types import Tool
from starlette.routing import Route
from starlette.testclient import TestClient

import clipsearch
from clipsearch.search.confidence import drawing_vectors
from clipsearch.search.where import CROPS
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.mcp import assistant_server
from clipsearch.ui.page import add_page
from clipsearch.ui.programs import ROUTES
from tests.support import breadth
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

LOCAL = "http://127.0.0.1:7860"
TOKEN = "s3cret-" + "x" * 20
SECRET = "nobody must ever see this"
OPEN = {"/healthz", "/login"}
FILLING: dict[str, Any] = {"query": "red", "ids": [0], "like": [0], "texts": ["x"], "form": "csv", "name": "a"}
"""What required fields of requests hold while another one is tried; others hold 0."""
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
BOTH = ("/v1/status", "/v1/skipped", "/healthz", "/metrics", "/docs", "/openapi.json", "/login")
"""Documented below the routes of the page alone."""
CROPS_OF_ONE = sum((round(2 / share) - 1) ** 2 for share in CROPS)
"""As many pictures are encoded to show where in one something is."""
PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routes") / "photos"
    folder.mkdir()
    for name in ("red", "blue"):
        plain(COLOURS[name]).save(folder / f"{name}.png")
    (folder / "secret.txt").write_text(SECRET)
    clipsearch.index(folder, encoder=FakeEncoder())
    return folder


@pytest.fixture
def collection(indexed: Path, photos: Path) -> Path:
    shutil.copytree(indexed, photos, dirs_exist_ok=True)
    return photos


def served(collection: Path, **options: Any) -> FastAPI:
    chosen = ServerOptions(warm_pictures_after_s=None, **options)
    return create_app([collection / ".clipsearch"], encoder=FakeEncoder(), options=chosen, interface=add_page)


@pytest.fixture
def client(collection: Path) -> Iterator[TestClient]:
    with TestClient(served(collection), base_url=LOCAL) as client:
        yield client


@pytest.fixture
def guarded(collection: Path) -> Iterator[TestClient]:
    app = served(collection, token=TOKEN, local=False, host_names=("photos.example",))
    with TestClient(app, base_url="http://photos.example", follow_redirects=False) as client:
        yield client


def application(client: TestClient) -> FastAPI:
    assert isinstance(client.app, FastAPI)
    return client.app


def every_route(client: TestClient) -> list[tuple[str, str]]:
    """Method and path of every route; parameters as they are declared. The page's own files, too."""
    found: list[tuple[str, str]] = [("GET", "/login"), ("POST", "/login"), ("GET", "/nowhere")]
    for route in application(client).routes:
        assert isinstance(route, Route | APIRoute), f"{route} is of a kind that must be looked at here"
        found += [(method, route.path) for method in sorted(route.methods or VERBS)]
    return found


def filled(path: str, value: str = "0") -> str:
    return PARAMETER.sub(value, path)


def names_of_files(collection: Path) -> list[str]:
    """Ways to name files of this machine, and an address."""
    names = [str(collection / "secret.txt"), str(collection / "red.png"), str(collection / ".clipsearch" / "CURRENT")]
    names += ["/etc/passwd", "../secret.txt", "../../../../../../etc/passwd", "..\\..\\secret.txt", "secret.txt"]
    return [*names, *(f"file://{name}" for name in names if name.startswith("/")), "http://127.0.0.1:9/secret"]


SHARE = 1 if breadth.ALL else 3
"""Each place is tried with one in so many names, the next one with the next of them."""


def some_names(collection: Path, turn: int) -> list[str]:
    return names_of_files(collection)[turn % SHARE :: SHARE]


def assert_gives_nothing_away(body: bytes, collection: Path, asked: object) -> None:
    assert SECRET.encode() not in body, asked
    assert b"root:" not in body, asked
    assert (collection / "red.png").read_bytes() not in body, asked
    assert (collection / ".clipsearch" / "CURRENT").read_bytes().strip() not in body, asked


def test_the_routes_are_those_that_people_know_of(client: TestClient) -> None:
    paths = {path for _, path in every_route(client)}
    documented = set(client.get("/openapi.json").json()["paths"])
    assert documented <= paths
    assert {"/docs", "/openapi.json", "/healthz", "/metrics", "/v1/gallery", "/v1/gallery/earth", "/v1/export"} <= paths
    assert {path for path in paths - documented if not path.startswith("/ui/")} == {
        *ROUTES,
        "/",
        "/docs",
        "/login",
        "/nowhere",
        "/openapi.json",
    }
    assert client.get("/redoc").status_code == 404


@pytest.mark.slow
def test_hosts_and_origins_of_others_are_refused_by_every_route(client: TestClient) -> None:
    for declared, path in every_route(client):
        for method in {declared, "HEAD", "OPTIONS"}:
            where = filled(path)

            def status(headers: dict[str, str], method: str = method, where: str = where) -> int:
                return client.request(method, where, headers=headers).status_code

            for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.7", ""):
                assert status({"host": host}) == 421, (method, path, host)
            for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", ""):
                assert status({"origin": origin}) == 403, (method, path, origin)
            foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            assert status(foreign) == 403, (method, path)


@pytest.mark.slow
def test_without_the_token_every_route_but_two_is_refused(guarded: TestClient) -> None:
    for method, path in every_route(guarded):
        where = filled(path)
        if path in OPEN:
            assert TOKEN not in guarded.request(method, where).text
            continue
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "clipsearch_session=wrong"}):
            assert guarded.request(method, where, headers=headers).status_code == 401, (method, path)
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert guarded.request(method, where, headers=right).status_code not in (401, 403, 421), (method, path)
        for variant in (f"/{where}", f"{where}/", f"/.{where}", f"/healthz/..{where}", where.upper(), f"{where}%2f"):
            answer = guarded.request(method, variant, headers={"Accept": "*/*"})
            assert answer.status_code == 401, (method, variant)


@pytest.mark.slow
def test_every_error_of_every_route_is_json(client: TestClient, guarded: TestClient) -> None:
    for each, headers in ((client, {}), (guarded, {}), (client, {"host": "evil.example"}), (client, {"origin": "x"})):
        paths = {path for _, path in every_route(each)}
        for path in paths:
            allowed = {method for method, one in every_route(each) if one == path} | {"HEAD"}
            for method in VERBS:
                answer = each.request(method, filled(path), headers=headers, content=b"{" if method == "POST" else None)
                if answer.status_code < 400 or method == "HEAD":
                    continue
                assert answer.headers["content-type"].startswith("application/json"), (method, path, answer.text)
                assert {"error", "message", "fields"} <= set(answer.json()), (method, path)
                if each is client and not headers and method not in allowed and path != "/nowhere":
                    assert answer.status_code == 405, (method, path, answer.status_code)
                    assert answer.headers["allow"], (method, path)


def test_head_is_answered_as_get_without_a_body(client: TestClient) -> None:
    for path in sorted({path for method, path in every_route(client) if method == "GET"} | {"/nowhere"}):
        if path in ROUTES:
            continue  # Gradio's, which answers another way while it is being loaded
        whole, head = (client.request(method, filled(path), follow_redirects=False) for method in ("GET", "HEAD"))
        assert head.status_code == whole.status_code, path
        assert head.content == b"", path
        assert head.headers.get("content-type") == whole.headers.get("content-type"), path
        if path != "/metrics":  # grows with each request
            assert head.headers.get("content-length") == whole.headers.get("content-length"), path


def test_openapi_says_what_errors_and_tokens_look_like(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["components"]["securitySchemes"]["token"] == {
        "type": "http",
        "scheme": "bearer",
        "description": "Unless the server needs no token.",
    }
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert {"token": []} in operation["security"] or path == "/healthz", path
            errors = {code: answer for code, answer in operation["responses"].items() if int(code) >= 400}
            for code, answer in errors.items():
                assert answer["content"] == problem, (path, code)
            if operation.get("parameters") or operation.get("requestBody"):
                assert "422" in errors, path


def test_the_documented_routes_are_those_that_exist(client: TestClient, collection: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    table = text[text.index("| Route | |") :].split("\n\n")[0].splitlines()[2:]
    listed: set[tuple[str, str, bool]] = set()
    page_only = False
    for line in table:
        route, _, _ = line.strip("| ").partition(" | ")
        page_only = page_only or "`clipsearch ui` only" in route
        method = ""
        for name in re.findall(r"`([^`]+)`", route):
            if name == "clipsearch ui":
                continue
            method, _, path = name.rpartition(" ") if " " in name else (method, "", name)
            listed.add((method, path, page_only and name != "GET /v1/status" and not path.startswith(BOTH)))
    exists = {(method, path) for method, path in every_route(client) if not path.startswith("/ui/")} - {
        ("GET", "/nowhere"), ("HEAD", "/"), ("HEAD", "/openapi.json"), ("HEAD", "/docs"),
    }  # fmt: skip
    exists = {(method, path) for method, path in exists if method != "HEAD"}
    assert {(method, path) for method, path, _ in listed} == exists
    api = create_app([collection / ".clipsearch"], encoder=FakeEncoder())
    with TestClient(api, base_url=LOCAL) as without_page:
        for method, path, only in listed:
            status = without_page.request(method, filled(path), follow_redirects=False).status_code
            known = any(getattr(route, "path", None) == path for route in api.routes) or path == "/login"
            assert known is not only, (method, path, status)


@pytest.mark.slow
def test_no_parameter_of_any_route_names_a_file(client: TestClient, collection: Path) -> None:
    asked = 0
    for turn, (method, path) in enumerate(every_route(client)):
        for name in some_names(collection, turn):
            for written in {name, quote(name, safe=""), quote(quote(name, safe=""), safe="")}:
                targets = [f"{filled(path).rstrip('/')}/{written}"]
                if PARAMETER.search(path):
                    targets.append(filled(path, written.replace("\\", "\\\\")))
                for target in targets:
                    answer = client.request(method, target)
                    assert 400 <= answer.status_code < 500, (method, target, answer.status_code)
                    assert_gives_nothing_away(answer.content, collection, (method, target))
                    asked += 1
    assert asked > 500 / SHARE


@pytest.mark.slow
def test_no_query_or_body_field_of_any_route_reads_a_file(client: TestClient, collection: Path) -> None:
    description = client.get("/openapi.json").json()
    engine = application(client).state.service.engine
    encoder = engine._given.encoder
    engine.wait_until_warm()
    drawing_vectors(encoder)  # what the first search would encode
    before, asked, turn = encoder.images_encoded, 0, 0
    for path, operations in description["paths"].items():
        for verb, operation in operations.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "query":
                    for name in some_names(collection, turn := turn + 1):
                        answer = client.request(verb.upper(), filled(path), params={parameter["name"]: name})
                        assert 400 <= answer.status_code < 500, (path, parameter["name"], name)
                        assert_gives_nothing_away(answer.content, collection, (path, parameter["name"], name))
                        asked += 1
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                schema = content["schema"]
                fields = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                for field in fields["properties"]:
                    for name in some_names(collection, turn := turn + 1):
                        for value in (name, [name]):
                            body = {other: FILLING.get(other, 0) for other in fields.get("required", [])}
                            sent: Any = {"json": body | {field: value}}
                            if kind != "application/json":
                                sent = {"data": {**body, field: value}}
                            answer = client.request(verb.upper(), filled(path), **sent)
                            assert answer.status_code < 500, (path, field, value, answer.text)
                            before += CROPS_OF_ONE * (path == "/v1/where" and answer.status_code == 200)
                            assert_gives_nothing_away(answer.content, collection, (path, field, value))
                            asked += 1
    assert asked > 300 / SHARE
    assert encoder.images_encoded == before


def all_of(routes: Iterable[Any]) -> Iterator[Any]:
    """Every route, also of what was included."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from all_of(router.routes)
        else:
            yield route


@pytest.mark.slow
def test_of_gradio_only_what_its_clients_need_is_reachable(client: TestClient, collection: Path) -> None:
    assert client.get("/config").status_code == 200
    server = application(client).state.page.programs._server
    known = set(every_route(client))
    tried = 0
    for route in all_of(server.router.routes):
        for method in route.methods - {"HEAD"}:
            if (method, route.path) in known:
                continue
            for name in ("0", *names_of_files(collection)):
                where = filled(route.path, quote(name, safe="/").replace("\\", "\\\\"))
                answer = client.request(method, where, json={} if method == "POST" else None)
                assert answer.status_code in (401, 404, 405), (method, where, answer.status_code)
                assert_gives_nothing_away(answer.content, collection, (method, where))
                tried += 1
    assert tried > 300
    assert server.calls.mcp_server_obj is None
    for method, path in (
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/run/search"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/heartbeat/x"),
        ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/monitoring"),
    ):
        assert client.request(method, path).status_code == 404, path


@pytest.mark.slow
def test_no_parameter_of_an_assistants_tool_names_a_file(client: TestClient, collection: Path) -> None:
    service = application(client).state.service
    service.engine.wait_until_warm()
    drawing_vectors(service.engine._given.encoder)
    before = service.engine._given.encoder.images_encoded

    async def ask() -> int:
        nonlocal before
        asked = 0
        async with Client(assistant_server(service)) as assistant:
            tools: list[Tool] = (await assistant.list_tools()).tools
            for tool in tools:
                required = {name: "red" if name == "query" else 0 for name in tool.input_schema.get("required", [])}
                for parameter in tool.input_schema["properties"]:
                    for name in names_of_files(collection):
                        result = await assistant.call_tool(tool.name, {**required, parameter: name})
                        said = result.model_dump_json().encode()
                        before += CROPS_OF_ONE * (tool.name == "where" and not result.is_error)
                        if (tool.name, parameter, name) != ("similar", "path", str(collection / "red.png")):
                            assert result.is_error or parameter == "query", (tool.name, parameter, name)
                        assert_gives_nothing_away(said, collection, (tool.name, parameter, name))
                        asked += 1
        return asked

    assert anyio.run(ask) > 100
    assert service.engine._given.encoder.images_encoded == before
