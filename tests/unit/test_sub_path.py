"""A server behind a real reverse proxy at a sub-path, which strips it or not."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import uvicorn

import clipsearch
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.security import session_of
from clipsearch.server.sub_path import checked_root
from clipsearch.ui.page import add_page
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill

TOKEN = "a-token-of-tests"


def proxy(port: int, root: str, strips: bool) -> ThreadingHTTPServer:
    """A proxy that knows nothing but `root`, at which it shows the server on `port`."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            if not (self.path == root or self.path.startswith(f"{root}/")):
                self.send_error(404, "nothing of the proxy's")
                return
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            behind = http.client.HTTPConnection("127.0.0.1", port)
            path = self.path.removeprefix(root) or "/" if strips else self.path
            behind.request(self.command, path, body, dict(self.headers.items()))
            answer = behind.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = pass_on

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Proxy)


SHOWN = [("/photos", True), ("/photos", False), ("/a/b.c", False), ("/my-photos_2~x", True), ("", False)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    photos = tmp_path_factory.mktemp("proxied") / "photos"
    fill(photos, 5)
    return clipsearch.index(photos, encoder=FakeEncoder()).index


@pytest.fixture(params=thinned([(shown,) for shown in SHOWN], 3))
def address(request: pytest.FixtureRequest, index: Path, encoder: FakeEncoder) -> Iterator[str]:
    """The address of the page at the proxy."""
    root, strips = request.param
    options = ServerOptions(root_path=root, token=TOKEN, warm_pictures_after_s=None)
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app([index], encoder=encoder, interface=add_page, options=options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    threads = [threading.Thread(target=server.run, args=([listening],), daemon=True)]
    front = proxy(listening.getsockname()[1], root, strips)
    threads.append(threading.Thread(target=front.serve_forever, daemon=True))
    for thread in threads:
        thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{front.server_port}{root}/"
    front.shutdown()
    front.server_close()
    server.should_exit = True
    threads[0].join(120)
    listening.close()


@pytest.mark.slow
@pytest.mark.many
def test_the_whole_of_it_works_at_a_sub_path(address: str) -> None:
    """As a browser goes through it: to the page, to the form for the token, back, to its files, to the API."""
    with httpx.Client(follow_redirects=True) as browser:
        as_page = {"accept": "text/html"}
        if address.count("/") > 3:
            without_slash = browser.get(address.rstrip("/"), headers=as_page)
            assert str(without_slash.url).startswith(address)
        form = browser.get(address + "?q=dog", headers=as_page)
        assert str(form.url).startswith(address + "login?next=")
        action = re.search(r'action="([^"]*)"', form.text)
        assert action is not None
        sent = {"origin": address[: address.index("/", 8)], "content-type": "application/x-www-form-urlencoded"}
        page = browser.post(urljoin(str(form.url), action[1]), content=f"token={TOKEN}", headers={**sent, **as_page})
        assert str(page.url) == address + "?q=dog"
        assert [(cookie.path, cookie.value) for cookie in browser.cookies.jar] == [
            (address[address.index("/", 8) :], session_of(TOKEN.encode()))
        ]

        links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert len(links) > 5
        for link in links:
            file = browser.get(urljoin(str(page.url), link))
            assert file.status_code == 200
            assert str(file.url).startswith(address)
        script = next(link for link in links if link.endswith("api.js"))
        base = urljoin(urljoin(str(page.url), script), "../../")  # what api.js takes for the start of the paths
        assert base == address
        found = browser.post(urljoin(base, "v1/gallery"), json={"all": True}).json()
        assert found["total"] == 5
        small = browser.get(urljoin(base, f"v1/images/{found['hits'][0]['row_id']}/thumbnail"))
        assert small.headers["content-type"] == "image/jpeg"
        hit = browser.post(urljoin(base, "v1/search"), json={"query": "waves", "all": True}).json()["hits"][0]
        told = urljoin(base, hit["thumbnail"])  # as programs read it
        assert told.startswith(address)
        assert browser.get(told).headers["content-type"] == "image/jpeg"

        docs = browser.get(urljoin(base, "docs"))
        described = browser.get(urljoin(str(docs.url), re.findall(r'href="([^"]+)"', docs.text)[0]))
        root = address[address.index("/", 8) :].rstrip("/")
        assert described.json().get("servers", [{"url": ""}])[0]["url"] == root

    with clipsearch.connect(address, token=TOKEN) as photos:
        assert len(photos.search("waves", k=3, all=True)) == 3


@pytest.mark.many
@pytest.mark.parametrize(
    "elsewhere", ["//evil.example/", "https://evil.example/", "/other/", "/photos-evil/", "\\\\evil", "/"]
)
def test_the_form_leads_nowhere_else(elsewhere: str, index: Path, encoder: FakeEncoder) -> None:
    from starlette.testclient import TestClient

    options = ServerOptions(root_path="/photos", token=TOKEN, warm_pictures_after_s=None)
    with TestClient(create_app([index], encoder=encoder, options=options), base_url="http://127.0.0.1:7860") as client:
        answer = client.get("/login", params={"next": elsewhere, "token": TOKEN}, follow_redirects=False)
        assert answer.headers["location"] == "/photos/"


@pytest.mark.parametrize(
    ("given", "root"),
    [("", ""), ("/", ""), ("photos", "/photos"), ("/photos/", "/photos"), ("/a/b.c_d~e-f", "/a/b.c_d~e-f")],
)
def test_a_root_path_as_people_write_it(given: str, root: str) -> None:
    assert checked_root(given) == root


REFUSED = ["/a/../b", "/x//y", "/a b", '/"><script>', "/é", "/a?b", "/.hidden", "http://x/y", "/v1", "/ui/x", "docs"]


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"not a sub-path|clipsearch itself"):
        checked_root(given)
