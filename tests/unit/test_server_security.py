"""What a server must refuse, and with which status. Through the whole application, with real files beside the index."""

from __future__ import annotations

import http.server
import json
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import clipsearch
from clipsearch.remote import RemoteCollection
from clipsearch.search.confidence import drawing_vectors
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

LOCAL = "http://127.0.0.1:7860"
TOKEN = "s3cret-" + "x" * 20
SECRET = "nobody must ever see this"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    photos = tmp_path_factory.mktemp("security") / "photos"
    photos.mkdir()
    for name in ("red", "blue"):
        plain(COLOURS[name]).save(photos / f"{name}.png")
    (photos / "secret.txt").write_text(SECRET)
    return clipsearch.index(photos, encoder=FakeEncoder()).index


@pytest.fixture
def client(index: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    options = ServerOptions(warm_pictures_after_s=None)  # some tests count what is encoded
    with TestClient(create_app([index], encoder=encoder, options=options), base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="module")
def with_page(index: Path) -> Iterator[TestClient]:
    with TestClient(create_app([index], encoder=FakeEncoder(), interface=add_page), base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="module")
def guarded_server(index: Path) -> Iterator[TestClient]:
    options = ServerOptions(token=TOKEN, local=False, host_names=("photos.example",))
    with TestClient(
        create_app([index], encoder=FakeEncoder(), options=options, interface=add_page),
        base_url="http://photos.example",
        follow_redirects=False,
    ) as client:
        yield client


@pytest.fixture
def guarded(guarded_server: TestClient) -> TestClient:
    """A browser that has never been there."""
    guarded_server.cookies.clear()
    return guarded_server


EVERY_ROUTE = [
    ("POST", "/v1/search"),
    ("POST", "/v1/similar"),
    ("POST", "/v1/similar/upload"),
    ("POST", "/v1/embed"),
    ("POST", "/v1/embed/upload"),
    ("GET", "/v1/images/0"),
    ("GET", "/v1/images/0/vector"),
    ("GET", "/v1/images/0/thumbnail"),
    ("GET", "/v1/images/0/original"),
    ("GET", "/v1/images/0/clip"),
    ("GET", "/v1/images/0/views"),
    ("GET", "/v1/images/0/words"),
    ("POST", "/v1/where"),
    ("POST", "/v1/vectors"),
    ("POST", "/v1/picture"),
    ("POST", "/v1/notices"),
    ("GET", "/v1/status"),
    ("GET", "/v1/skipped"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/queue/join"),
    ("GET", "/gradio_api/queue/data"),
    ("GET", "/nowhere"),
]


def test_every_route_of_the_api_is_in_the_list_above(client: TestClient) -> None:
    documented = client.get("/openapi.json").json()["paths"]
    listed = {path.replace("/0", "/{id}") for _, path in EVERY_ROUTE}
    assert set(documented) - listed == {"/healthz"}


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
def test_hosts_and_origins_of_others_are_refused_everywhere(with_page: TestClient, method: str, path: str) -> None:
    def status(**headers: str) -> int:
        return with_page.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}).status_code

    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "192.168.1.7", "a b", ""):
        assert status(host=host) == 421, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860", "file://", ""):
        assert status(origin=origin) == 403, origin
    assert status(sec_fetch_site="cross-site", sec_fetch_mode="no-cors", sec_fetch_dest="image") == 403
    assert status(sec_fetch_site="same-site", sec_fetch_mode="cors") == 403
    assert status(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe") == 403


def test_own_names_and_origins_are_served(client: TestClient) -> None:
    for host in ("127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1"):
        answer = client.get("/v1/status", headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status_code == 200, host
    follows_a_link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/v1/status", headers=follows_a_link).status_code == 200
    assert client.get("/v1/status", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_two_host_headers_are_refused(client: TestClient) -> None:
    answer = client.get("/v1/status", headers=[("Host", "127.0.0.1"), ("Host", "127.0.0.1")])
    assert answer.status_code == 421


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_websockets_of_others_are_refused(with_page: TestClient, headers: dict[str, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        with_page.websocket_connect("/gradio_api/queue/join", headers=headers),
    ):
        pass
    assert refused.value.code == 1008


def test_no_other_page_may_frame_or_read_an_answer(client: TestClient) -> None:
    headers = client.get("/v1/status").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


# --- the token


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
def test_without_the_token_everything_is_refused(guarded: TestClient, method: str, path: str) -> None:
    assert guarded.request(method, path).status_code == 401
    for wrong in ("", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"):
        headers = [(b"Authorization", wrong.encode("latin-1"))]
        assert guarded.request(method, path, headers=headers).status_code == 401, wrong
    assert guarded.request(method, path, headers={"Cookie": "clipsearch_session=wrong"}).status_code == 401
    assert guarded.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code != 401


def test_health_needs_no_token_and_says_nothing(guarded: TestClient) -> None:
    assert (guarded.get("/healthz").status_code, guarded.get("/healthz").text) == (200, "ok\n")
    assert guarded.get("/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_addresses_are_own_names_of_a_server_that_others_can_reach(guarded: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/v1/status", headers={**headers, "Host": "192.168.1.7:7860"}).status_code == 200
    assert guarded.get("/v1/status", headers={**headers, "Host": "evil.example"}).status_code == 421


def test_a_browser_logs_in_once(guarded: TestClient) -> None:
    sent_on = guarded.get("/?q=dog", headers={"Accept": "text/html"})
    assert (sent_on.status_code, sent_on.headers["location"]) == (303, "/login?next=%2F%3Fq%3Ddog")
    form = guarded.get(sent_on.headers["location"])
    assert 'action="/login?next=%2F%3Fq%3Ddog"' in form.text
    assert guarded.post("/login?next=%2F", data={"token": "wrong"}).status_code == 401
    done = guarded.post("/login?next=%2F%3Fq%3Ddog", data={"token": TOKEN})
    assert (done.status_code, done.headers["location"]) == (303, "/?q=dog")
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert TOKEN not in cookie and re.fullmatch(r"clipsearch_session=[0-9a-f]{48};.*", cookie)
    assert "samesite=strict" in cookie.lower()
    assert guarded.get("/v1/status").status_code == 200  # with the cookie
    assert guarded.get("/v1/status", headers={"Origin": "http://evil.example"}).status_code == 403


def test_the_address_that_is_printed_logs_in_and_hides_the_token(guarded: TestClient) -> None:
    done = guarded.get("/login", params={"token": TOKEN})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert guarded.get("/v1/status").status_code == 200


def test_a_ticket_logs_a_browser_in_once(guarded: TestClient) -> None:
    tickets = guarded.app.state.tickets  # type: ignore[attr-defined]
    ticket = tickets.new()
    assert guarded.get("/login", params={"ticket": f"{ticket}x"}).status_code == 200  # the form
    done = guarded.get("/login", params={"ticket": ticket})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert guarded.get("/v1/status").status_code == 200
    guarded.cookies.clear()
    for used in (ticket, "", "\xe9"):
        assert guarded.get("/login", params={"ticket": used}).status_code == 200
        assert guarded.get("/v1/status").status_code == 401
    for _ in range(100):
        ticket = tickets.new()
    assert len(tickets._until) <= 16
    tickets._until[ticket] = 0
    assert guarded.get("/login", params={"ticket": ticket}).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("token", ["pässwörd-ключ-鍵", "with spaces & signs=%?#"])
def test_a_token_may_have_any_letters(index: Path, token: str) -> None:
    app = create_app([index], encoder=FakeEncoder(), options=ServerOptions(token=token))
    sent = token.encode("utf-8", "surrogateescape")
    with TestClient(app, base_url=LOCAL, follow_redirects=False) as client:
        assert client.get("/v1/status", headers=[(b"authorization", b"Bearer " + sent)]).status_code == 200
        assert client.get("/v1/status", headers=[(b"authorization", b"Bearer x" + sent)]).status_code == 401
        assert client.get(f"/login?token={quote(sent)}").status_code == 303
        assert client.get("/v1/status").status_code == 200
        client.cookies.clear()
        assert client.post("/login", content=b"token=" + quote(sent).encode()).status_code == 303
        carried = httpx.MockTransport(
            lambda asked: httpx.Response(
                200, content=client.get(asked.url.path, headers=list(asked.headers.raw)).content
            )
        )
        client.cookies.clear()
        with RemoteCollection(LOCAL, token=token, transport=carried) as remote:
            assert remote.status()["version"]


@pytest.mark.parametrize("target", ["//evil.example", "http://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_logging_in_leads_nowhere_else(guarded: TestClient, target: str) -> None:
    answer = guarded.get("/login", params={"token": TOKEN, "next": target})
    assert answer.headers["location"] == "/"


def test_the_login_page_escapes_what_it_is_given(guarded: TestClient) -> None:
    answer = guarded.get("/login", params={"next": '/"><script>alert(1)</script>'})
    assert "<script>" not in answer.text
    assert guarded.post("/login", content=b"token=" + b"x" * 100_000).status_code == 413


# --- paths


def outside(photos: Path) -> list[str]:
    """Ways to name the secret file and others of this machine."""
    names = [str(photos / "secret.txt"), str(photos / "red.png"), str(photos / ".clipsearch" / "CURRENT")]
    names += ["/etc/passwd", "../secret.txt", "../../../../../../etc/passwd", "..\\..\\secret.txt"]
    return names + [f"file://{name}" for name in names if name.startswith("/")]


@pytest.mark.slow
def test_no_route_gives_a_file_by_its_path(with_page: TestClient, index: Path) -> None:
    own = (index.parent / "red.png").read_bytes()
    for name in outside(index.parent):
        for written in {name, quote(name, safe=""), quote(quote(name, safe=""), safe=""), name.replace("..", "%2e%2e")}:
            for route in (
                "/v1/images/{}",
                "/v1/images/{}/thumbnail",
                "/v1/images/0/thumbnail/{}",
                "/v1/images/0/thumbnail?index={}",
                "/v1/images/0/thumbnail?size={}",
                "/v1/skipped?index={}",
                "/{}",
                "/static/{}",
                "/assets/{}",
                "/theme.css/{}",
                "/gradio_api/file={}",
                "/gradio_api/file/{}",
                "/file={}",
                "/gradio_api/custom_component/{}/x/y/z",
                "/gradio_api/stream/{}",
                "/gradio_api/proxy={}",
            ):
                answer = with_page.get(route.format(written))
                body = answer.content
                assert SECRET.encode() not in body, (route, written)
                assert b"root:" not in body, (route, written)
                assert own not in body, (route, written)
                assert not body.startswith(b"clipsearch 1 "), (route, written)
                if route.startswith(("/v1", "/gradio_api/file", "/file", "/gradio_api/proxy")):
                    assert 400 <= answer.status_code < 500, (route, written, answer.status_code)


def test_a_query_that_names_a_file_of_this_machine_does_not_read_it(
    client: TestClient, index: Path, encoder: FakeEncoder
) -> None:
    client.app.state.service.engine.wait_until_warm()  # type: ignore[attr-defined]
    drawing_vectors(encoder)  # what the first search would encode
    before = encoder.images_encoded
    for name in outside(index.parent):
        answer = client.post("/v1/search", json={"query": name})
        assert answer.status_code in (200, 400), answer.text
    assert encoder.images_encoded == before


@pytest.mark.slow
def test_no_endpoint_takes_a_path_of_this_machine_for_a_picture(with_page: TestClient, index: Path) -> None:
    for name in (str(index.parent / "red.png"), str(index.parent / "secret.txt"), "/etc/passwd"):
        file = {"path": name, "meta": {"_type": "gradio.FileData"}}
        for picture in (file, [file], [[file]], name, f"data:image/png;base64,{name}"):
            said = called(with_page, picture)
            assert "error" in said
            assert SECRET not in said


# --- addresses


class Listener:
    """A web server that counts who comes."""

    def __init__(self) -> None:
        outer = self
        self.asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"you should not be here")

            do_HEAD = do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()


def called(client: TestClient, picture: Any) -> str:
    """What an endpoint of Gradio says to a picture that is named, not sent."""
    data = [None, None, picture, 20, 0, None]
    joined = client.post("/gradio_api/call/similar", json={"data": data})
    if joined.status_code != 200:
        return f"error {joined.status_code} {joined.text}"
    return client.get(f"/gradio_api/call/similar/{joined.json()['event_id']}").text


def test_no_field_makes_the_server_fetch_an_address(with_page: TestClient, listener: Listener) -> None:
    at = listener.address
    for body in (
        {"query": at},
        {"query": f"like:{at}"},
        {"query": f"./{at} + dog"},
        {"query": "dog", "index": at},
    ):
        assert with_page.post("/v1/search", json=body).status_code in (200, 400, 404)
    with_page.post("/v1/similar", json={"id": at})
    with_page.post("/v1/similar/upload", data={"image": at})
    with_page.post("/v1/embed", json={"texts": [at]})
    with_page.get("/v1/images/0/thumbnail", params={"index": at})
    with_page.get(f"/v1/images/{quote(at, safe='')}")
    for route in ("proxy=", "file=", "file/", "stream/"):
        with_page.get(f"/gradio_api/{route}{at}")
        with_page.get(f"/gradio_api/{route}{quote(at, safe='')}")
    for picture in ({"path": at}, {"path": "x", "url": at}, {"path": None, "url": at}, {"url": at}):
        for sent in ({**picture, "meta": {"_type": "gradio.FileData"}}, at, [at]):
            assert "error" in called(with_page, sent)
    assert listener.asked == []
    public = {"path": "http://example.com/cat.jpg", "meta": {"_type": "gradio.FileData"}}
    assert called(with_page, public).startswith("error 422")


def test_the_page_sends_nobody_to_another_address(with_page: TestClient) -> None:
    for route in ("file=", "file/", "proxy="):
        answer = with_page.get(f"/gradio_api/{route}http://evil.example/", follow_redirects=False)
        assert answer.status_code in (400, 403, 404), (route, answer.status_code, answer.headers.get("location"))


# --- too much


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("route", ["/v1/similar/upload", "/v1/embed/upload"])
def test_pictures_that_are_bombs_broken_or_none_are_refused(client: TestClient, route: str) -> None:
    bomb = png(60_000, 60_000, zlib.compress(bytes(1_000_000)))
    for name, content, reason in (
        ("bomb.png", bomb, "megapixels, over the limit"),
        ("cut.png", png(100, 100, b"")[:40], "the PNG"),
        ("page.html", b"<html><script>alert(1)</script></html>", ""),
        ("empty.jpg", b"", "empty"),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>', ""),
    ):
        answer = client.post(route, files={"image": (name, content)})
        assert answer.status_code == 422, (name, answer.text)
        assert answer.json()["error"] == "UnreadablePicture"
        assert reason in answer.json()["message"]
        assert "upload" not in answer.json()["message"]  # nor where it was kept
    assert client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_a_picture_that_takes_too_long_is_refused(index: Path, encoder: FakeEncoder) -> None:
    slow = png(9000, 9000, zlib.compress(bytes(9000 * 27_001), 1))
    options = ServerOptions(decode_timeout_s=0.05)
    with TestClient(create_app([index], encoder=encoder, options=options), base_url=LOCAL) as client:
        answer = client.post("/v1/similar/upload", files={"image": ("slow.png", slow)})
        assert answer.status_code == 422
        assert "took longer than 0.05 s" in answer.json()["message"]


@pytest.mark.slow
def test_bodies_that_are_too_large_are_refused_before_they_are_read(index: Path, encoder: FakeEncoder) -> None:
    options = ServerOptions(most_upload_bytes=100_000)
    with TestClient(
        create_app([index], encoder=encoder, options=options, interface=add_page), base_url=LOCAL
    ) as client:
        for route in ("/v1/search", "/v1/similar/upload", "/v1/embed/upload", "/gradio_api/queue/join"):
            sent = client.post(route, files={"image": ("a.png", bytes(200_000))})
            assert sent.status_code == 413, route
            assert client.post(route, headers={"Content-Length": "9" * 30}, content=b"").status_code == 413, route
            assert client.post(route, headers={"Content-Length": "-1"}, content=b"").status_code == 400, route

            def endless() -> Iterator[bytes]:
                for _ in range(50):
                    yield bytes(10_000)

            kind = "multipart/form-data; boundary=x" if "upload" in route else "application/json"
            unannounced = client.post(route, headers={"Content-Type": kind}, content=endless())
            assert unannounced.status_code == 413, route


def test_texts_that_are_too_long_are_refused(client: TestClient) -> None:
    assert client.post("/v1/search", json={"query": "x" * 10_001}).status_code == 400
    assert client.post("/v1/embed", json={"texts": ["x"] * 257}).status_code == 422
    assert client.post("/v1/embed", json={"texts": []}).status_code == 422
    deep = "[" * 100_000 + "]" * 100_000
    assert client.post("/v1/search", content=deep).status_code == 422
    assert client.post("/v1/search", content=json.dumps({"query": "x", "k": 10**40})).status_code == 422
