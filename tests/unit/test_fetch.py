"""What the command line fetches from an address, and what it does not."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from clipsearch.cli import fetch
from tests.support.pictures import picture


def jpeg() -> bytes:
    file = io.BytesIO()
    picture(1).save(file, "JPEG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/dripping":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return
        pictures = ("/cat.jpg", "/K%C3%B6ln/%E7%8C%AB.jpg?size=gro%C3%9F", "/a%20b%2Fc.jpg")
        body = {"/page": b"<html>", "/large": jpeg() + bytes(200_000)}.get(self.path)
        body = jpeg() if self.path in pictures else body
        if self.path.startswith("/to?"):
            self.send_response(302)
            goes_to = {"/Köln/": "/Köln/猫.jpg?size=groß".encode().decode("latin-1")}
            self.send_header("Location", goes_to.get(unquote(self.path[4:]), self.path[4:]))
            self.end_headers()
            return
        self.send_response(200 if body is not None else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes 127.0.0.1, where the test's server is, for public."""
    real = fetch.is_public
    monkeypatch.setattr(fetch, "is_public", lambda place: place == "127.0.0.1" or real(place))


@pytest.mark.parametrize(
    "place",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1",
     "ff02::1", "255.255.255.255"],
)  # fmt: skip
def test_private_addresses_are_not_public(place: str) -> None:
    assert not fetch.is_public(place)


def test_public_addresses_are() -> None:
    assert fetch.is_public("93.184.215.14")
    assert fetch.is_public("2606:2800:220:1:248:1893:25c8:1946")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1"])
def test_this_machine_and_its_network_are_refused(host: str) -> None:
    with pytest.raises(fetch.CannotFetch), fetch.fetched(f"http://{host}:9/cat.jpg"):
        pass


@pytest.mark.usefixtures("reachable")
def test_a_picture_is_fetched_and_gone_afterwards(site: str) -> None:
    with fetch.fetched(f"{site}/to?/cat.jpg") as path:
        assert path.read_bytes() == jpeg()
    assert not path.parent.exists()


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/page", "not a picture"),
        ("/none", "404"),
        ("/large", "larger than"),
        ("/to?/to?/to?/to?/to?/to?/to?/cat.jpg", "redirects"),
        ("/to?http://10.0.0.1/cat.jpg", "not a public address"),
        ("/to?file:///etc/passwd", "only http and https"),
    ],
)
def test_what_is_refused(site: str, path: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MOST_BYTES", 100_000)
    with pytest.raises(fetch.CannotFetch, match=why), fetch.fetched(f"{site}{path}"):
        pass


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize(
    "path", ["/Köln/猫.jpg?size=groß", "/K%C3%B6ln/猫.jpg?size=groß#part", "/a%20b%2Fc.jpg", "/to?/Köln/"]
)
def test_an_address_as_browsers_show_it_is_fetched(site: str, path: str) -> None:
    with fetch.fetched(f"{site}{path}") as file:
        assert file.read_bytes() == jpeg()


@pytest.mark.usefixtures("reachable")
def test_a_server_that_sends_byte_after_byte_is_left_when_time_is_over(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MOST_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(fetch.CannotFetch, match="it takes longer than"), fetch.fetched(f"{site}/dripping"):
        pass
    assert time.monotonic() - began < 5  # it would go on for ten seconds


def test_an_address_without_a_server_says_so() -> None:
    with pytest.raises(fetch.CannotFetch, match="it names no server"), fetch.fetched("https:///cat.jpg"):
        pass
