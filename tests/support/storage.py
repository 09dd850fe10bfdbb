"""The wire between clipsearch and an S3 server. It counts the pages of listings, and may refuse them."""

from __future__ import annotations

import http.client
import importlib
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "photos"
REFUSALS = {403: "AccessDenied", 503: "SlowDown"}
PIECE_BYTES = 2**14
_OF_ONE_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


def _backend() -> Any:
    """That of moto's server, which is in this process."""
    backends: Any = importlib.import_module("moto.s3.models").s3_backends
    return backends[importlib.import_module("moto.core").DEFAULT_ACCOUNT_ID]["aws"]


def set_times(when: datetime) -> None:
    """Let all objects in the bucket be written at one time."""
    for key in _backend().buckets[BUCKET].keys.values():
        key.last_modified = when


def put(objects: Mapping[str, bytes]) -> None:
    """Put objects into the bucket without a request for each, which takes 5 ms."""
    for key, content in objects.items():
        _backend().put_object(BUCKET, key, content)


class Wire:
    """Passes requests on. `before`: called with the number of a page of a listing (from 1) before it is asked for; what
    it returns, if anything, is the status that the page is refused with. `change`: called with what the server says.
    `asked`: as `before`, of an object, with its key. `sent`: called with its key and how much of it was sent, after
    each piece."""

    def __init__(self, endpoint: str) -> None:
        self.pages = 0
        self.before: Callable[[int], int | None] = lambda number: None
        self.change: Callable[[bytes], bytes] = lambda page: page
        self.asked: Callable[[str], int | None] = lambda key: None
        self.sent: Callable[[str, int], None] = lambda key, size_bytes: None
        wire, target = self, urlsplit(endpoint).netloc
        counting = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def _pass_on(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_page = "list-type" in parse_qs(urlsplit(self.path).query)
                key = "" if is_page else unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
                refused = None
                if is_page:
                    with counting:
                        wire.pages += 1
                        refused = wire.before(wire.pages)
                elif self.command == "GET":
                    refused = wire.asked(key)
                if refused is not None:
                    body = f"<Error><Code>{REFUSALS[refused]}</Code><Message>no</Message></Error>".encode()
                    self._answer(refused, [("Content-Type", "application/xml")], body)
                    return
                server = http.client.HTTPConnection(target)
                server.request(self.command, self.path, content, dict(self.headers))
                answer = server.getresponse()
                told = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_ONE_HOP]
                length = answer.getheader("Content-Length")
                body = answer.read()
                body = wire.change(body) if is_page else body
                self._answer(answer.status, told, body, length if self.command == "HEAD" else None, key)
                server.close()

            def _answer(
                self, status: int, told: list[tuple[str, str]], body: bytes, length: str | None = None, key: str = ""
            ) -> None:
                self.send_response_only(status)
                for name, value in told:
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                for start in range(0, len(body), PIECE_BYTES):
                    piece = body[start : start + PIECE_BYTES]
                    try:
                        self.wfile.write(piece)
                    except OSError:  # who asked is gone
                        self.close_connection = True
                        return
                    if key:
                        wire.sent(key, start + len(piece))

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
