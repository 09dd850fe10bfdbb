"""Clients that ask for nothing keep nobody from being answered: half requests, slow ones, idle ones, and very many."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from clipsearch.server.connections import Connection, Limits, Sparingly, settings

FLOOD = 1100
HALF_HEADER = b"POST /length HTTP/1.1\r\nHost: x\r\nX-Slow: "
HALF_BODY = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this"


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def length(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def busy(request: Request) -> Response:
    time.sleep(0.004)
    return PlainTextResponse("done")


async def large(request: Request) -> Response:
    return PlainTextResponse("x" * 20_000_000)


@dataclass
class Serving:
    port: int
    kind: type[Connection]
    sockets: list[socket.socket] = field(default_factory=list)

    def connect(self, sent: bytes) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.sockets.append(one)
        with contextlib.suppress(OSError):  # closed already
            one.sendall(sent)
        return one

    def open(self) -> int:
        return len(self.kind.everything.open)

    def until_closed(self, one: socket.socket, within_s: float) -> float:
        """How long it took until the server closed a connection."""
        began = time.monotonic()
        one.settimeout(within_s)
        with contextlib.suppress(ConnectionError):
            while one.recv(65_536):
                pass
        return time.monotonic() - began


@contextlib.contextmanager
def serving(limits: Limits | None = None) -> Iterator[Serving]:
    app = Starlette(
        routes=[
            Route("/", hello),
            Route("/length", length, methods=["POST"]),
            Route("/large", large),
            Route("/busy", busy),
        ]
    )
    config = settings(app, limits)
    for handler in logging.getLogger("uvicorn").handlers:  # as the command does: each half body ends in a traceback
        handler.addFilter(Sparingly())
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    kind = config.http_protocol_class
    assert issubclass(kind, Connection)
    found = Serving(listening.getsockname()[1], kind)
    try:
        yield found
    finally:
        for one in found.sockets:
            one.close()
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.mark.slow
@pytest.mark.parametrize("half", [b"", HALF_HEADER, HALF_BODY], ids=["nothing", "half a header", "half a body"])
def test_a_flood_of_requests_that_never_end_keeps_nobody_waiting(half: bytes) -> None:
    with serving() as server:
        answered: list[float] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                began = time.monotonic()
                with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, verify=False) as http:
                    assert http.get("/").text == "hello"
                    assert http.post("/length", content=b"x" * 100_000).text == "100000"
                answered.append(time.monotonic() - began)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(1)
        before = max(answered)  # other tests may run at the same time
        for _ in range(FLOOD):
            server.connect(half)
            time.sleep(0.001)
        time.sleep(1.5)
        stop.set()
        asking.join(30)
        assert len(answered) > 2
        assert max(answered) < 2 + 2 * before
        assert server.open() <= Limits().waiting_per_client + 4


@pytest.mark.slow
def test_requests_sent_before_their_turn_keep_nobody_waiting() -> None:
    early = b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving() as server:
        for _ in range(100):
            server.connect(early * 30)  # 12 seconds of work
        time.sleep(0.7)  # the first of each
        slowest = 0.0
        for _ in range(10):
            began = time.monotonic()
            one = server.connect(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 200")
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        assert server.kind.everything.turns
        for one in server.sockets:
            one.close()
        end = time.monotonic() + 10
        while server.kind.everything.turns:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_requests_sent_together_are_answered_in_order() -> None:
    with serving() as server:
        body = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        sent = b"".join(body % n + b"y" * n for n in range(1, 9))
        one = server.connect(
            sent + body % 70_000 + b"z" * 70_000 + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        got = b""
        while part := one.recv(65_536):
            got += part
    answers = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200")[1:]]
    assert answers == [*(str(n).encode() for n in range(1, 9)), b"70000", b"hello"]


def test_half_requests_are_closed_after_a_while_and_whole_ones_are_not() -> None:
    limits = Limits(header_s=0.6, body_s=0.9, body_bytes_per_s=10_000)
    with serving(limits) as server:
        nothing, header, body = (server.connect(sent) for sent in (b"", HALF_HEADER, HALF_BODY))
        dripping = server.connect(HALF_HEADER)

        def drip() -> None:
            with contextlib.suppress(OSError):
                for _ in range(50):
                    dripping.sendall(b"x")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        slow = server.connect(HALF_BODY.replace(b"1000", b"20000"))  # may take two seconds longer
        assert server.until_closed(nothing, 5) < 3
        assert server.until_closed(header, 5) < 3
        assert server.until_closed(dripping, 5) < 3
        assert server.until_closed(body, 5) < 3
        slow.sendall(b"x" * (20_000 - len(b"only this")))
        slow.settimeout(5)
        said = b""
        while not said.endswith(b"\r\n\r\n20000"):
            said += slow.recv(1000)
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as http:
            for _ in range(3):
                assert http.get("/").text == "hello"
                time.sleep(0.8)  # longer than a header may take


@pytest.mark.parametrize("sent", [b"", b"x", b"x" * 100_000], ids=len)
def test_an_upload_that_stops_is_closed_however_much_was_announced(sent: bytes) -> None:
    """The time for a whole body grows with what is announced: here to two hours."""
    head = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    with serving(Limits(idle_s=0.7)) as server:
        stopped = server.connect(head + sent)
        assert 0.4 < server.until_closed(stopped, 8) < 5


def test_an_upload_that_goes_on_is_not_closed() -> None:
    with serving(Limits(idle_s=1.0)) as server:
        steady = server.connect(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.3)
            steady.sendall(b"x")
        steady.settimeout(8)
        assert steady.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_is_let_go() -> None:
    with serving(Limits(write_s=0.5)) as server:
        one = server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        end = time.monotonic() + 10
        for is_there in (True, False):
            while bool(server.open()) is not is_there:
                assert time.monotonic() < end
                time.sleep(0.01)
        server.until_closed(one, 30)


@pytest.mark.slow
def test_a_client_that_reads_slowly_gets_all() -> None:
    with serving(Limits(write_s=1.2)) as server:
        one = server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got, began = 0, time.monotonic()
        while time.monotonic() - began < 3:
            got += len(one.recv(1_000_000))
            time.sleep(0.2)
        while part := one.recv(1_000_000):
            got += len(part)
        assert got > 20_000_000


def test_the_numbers_of_connections_are_kept() -> None:
    with serving(Limits(waiting_per_client=10)) as server:
        for _ in range(3):
            with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as http:
                for _ in range(3):
                    assert http.get("/").text == "hello"
        for _ in range(30):
            server.connect(HALF_HEADER)
        for one in server.sockets:
            one.close()
        end = time.monotonic() + 10
        every = server.kind.everything
        while every.open or every.waiting or every.by_client or every.answered:
            assert time.monotonic() < end, every
            time.sleep(0.05)


def test_a_log_has_so_many_lines_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    sparingly = Sparingly(5)
    written = []
    for second in range(180):
        now = float(second)
        for _ in range(100):
            record = logging.LogRecord("x", logging.WARNING, "", 0, "line %d", (second,), None)
            if sparingly.filter(record):
                written.append(record.getMessage())
    assert len(written) == 15
    assert written[0] == "line 0"
    assert written[5] == "(5,995 lines were left out) line 60"


def test_a_log_has_one_traceback_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    said: list[str] = []
    handler = logging.Handler()
    handler.addFilter(Sparingly(5))
    monkeypatch.setattr(handler, "emit", lambda record: said.append(handler.format(record)))
    for second in range(0, 90, 10):
        now = float(second)
        try:
            raise ValueError(f"bad {second}")
        except ValueError:
            handler.handle(logging.LogRecord("x", logging.ERROR, "", 0, "it failed\n", (), sys.exc_info()))
    assert [entry.count("Traceback") for entry in said] == [1, 0, 0, 0, 0, 1, 0, 0]
    assert said[1] == "it failed: ValueError: bad 10"
    assert "(1 lines were left out)" in said[5]


def test_a_long_message_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "\n".join(map(str, range(100))), (), None)
    assert Sparingly(6).filter(record)
    assert record.getMessage().splitlines() == ["0", "1", "2", "...", "98", "99"]
