"""Connections that ask for nothing cannot keep others out: limits of time and number below HTTP.

A connection is *waiting* until its request has arrived whole, and again after its answer. One that waits too long for
its header or body, or whose client does not read its answer, is closed. Where one client, or all together, have too
many waiting connections, those that have waited longest are closed: who asks is never refused for those who do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 512  # connections that the system keeps until they are accepted
LOOK_EVERY_S = 0.5
MOST = 1500
GRACE_S = 0.5
LINES_PER_MINUTE = 20
TURN_S = 0.02  # between requests of one client that it sent before it had the answers to earlier ones


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a connection may take for what, and how many there may be."""

    header_s: float = 10.0
    body_s: float = 20.0  # and a second more for each body_bytes_per_s that were announced
    body_bytes_per_s: int = 16_384
    idle_s: float = 20.0  # without anything of a body that is owed
    write_s: float = 30.0  # without the client taking anything of its answer
    waiting_per_client: int = 128
    answered_per_client: int = 512
    most: int = MOST


@dataclass(slots=True)
class _All:
    """The connections of one server. Used by its event loop only."""

    limits: Limits
    waiting: OrderedDict[Connection, None] = field(default_factory=OrderedDict)  # the longest first
    by_client: defaultdict[str, OrderedDict[Connection, None]] = field(default_factory=lambda: defaultdict(OrderedDict))
    answered: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    open: set[Connection] = field(default_factory=set)
    turns: dict[str, deque[Connection]] = field(default_factory=dict)  # clients with requests sent too early
    sweeping: asyncio.TimerHandle | None = None

    def thin_out(self, client: str) -> None:
        """Close the connections of a client that have waited longest, if it has too many of them.

        Those that came a moment ago may have sent a request that was not looked at yet.
        """
        mine: OrderedDict[Connection, None] = self.by_client.get(client, OrderedDict())
        before = time.monotonic() - GRACE_S
        while len(mine) > self.limits.waiting_per_client and next(iter(mine)).waiting_since < before:
            next(iter(mine)).make_room()

    def queue(self, connection: Connection, client: str) -> None:
        """Let a connection go on when it is its turn among those of its client."""
        if client not in self.turns:
            self.turns[client] = deque()
            connection.loop.call_later(TURN_S, self._next_turn, client)
        self.turns[client].append(connection)

    def _next_turn(self, client: str) -> None:
        mine = self.turns[client]
        while mine:
            connection = mine.popleft()
            if not connection.transport.is_closing():
                connection.go_on()
                break
        if mine:
            asyncio.get_running_loop().call_later(TURN_S, self._next_turn, client)
        else:
            del self.turns[client]

    def sweep(self) -> None:
        """Close what has taken too long, and what is too many."""
        now = time.monotonic()
        for client in list(self.by_client):
            self.thin_out(client)
        for connection in list(self.open):
            if connection.is_late(now):
                connection.transport.abort()
        self.sweeping = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.sweep) if self.open else None


class Connection(H11Protocol):
    """One connection of a client."""

    everything: _All  # set by `settings`
    deadline: float | None = None  # for what the client is to send
    write_deadline: float | None = None  # for its taking some of what is sent
    unsent_bytes = 0
    waiting_since = 0.0
    _name = ""
    _is_answered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        every = self.everything
        self._name = self.client[0] if self.client else ""
        if len(every.open) >= every.limits.most and every.waiting:
            next(iter(every.waiting)).make_room()
        every.thin_out(self._name)
        too_many = every.answered.get(self._name, 0) >= every.limits.answered_per_client
        if too_many or len(every.open) - len(every.waiting) >= every.limits.most:
            transport.abort()
        every.open.add(self)
        self._wait(every.limits.header_s)
        if every.sweeping is None:
            every.sweeping = self.loop.call_later(LOOK_EVERY_S, every.sweep)

    def make_room(self) -> None:
        """Close, for another that comes now."""
        self._leave()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.everything.open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_answered and self.deadline is None:  # the first of another request
            self.deadline = time.monotonic() + self.everything.limits.header_s
        super().data_received(data)
        self._note()
        self.idle_deadline = time.monotonic() + self.everything.limits.idle_s if self._owes_body else None

    def on_response_complete(self) -> None:
        self._is_between = True
        super().on_response_complete()
        self._is_between = False
        self._note()

    def handle_events(self) -> None:
        """Look at what has arrived. A request that came before the last answer was sent waits for its turn."""
        if self._is_between and self.conn.trailing_data[0] and not self._is_queued:
            self._is_queued = True
            self.flow.pause_reading()
            self.everything.queue(self, self._name)
        if not self._is_queued:
            super().handle_events()

    def go_on(self) -> None:
        """Look at the request that waited."""
        self._is_queued = False
        self.flow.resume_reading()
        self.handle_events()
        self._note()

    _is_between = False  # the end of an answer and what comes after it
    _is_queued = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._give_time_to_take()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_deadline = None

    def _give_time_to_take(self) -> None:
        self.unsent_bytes = self.transport.get_write_buffer_size()
        self.write_deadline = time.monotonic() + self.everything.limits.write_s

    def is_late(self, now: float) -> bool:
        """Whether the client has sent, or taken, nothing for too long."""
        if self.write_deadline is not None and self.transport.get_write_buffer_size() != self.unsent_bytes:
            self._give_time_to_take()
        if self._owes_body and self.flow.read_paused:  # it is not the client who is slow
            self.idle_deadline = now + self.everything.limits.idle_s
        ends = (self.deadline, self.idle_deadline, self.write_deadline)
        return any(end is not None and end < now for end in ends)

    def _note(self) -> None:
        """What the client owes now: nothing, a body, or a request."""
        owes = self.conn.their_state
        if self.transport.is_closing():
            return
        if owes is h11.SEND_BODY:
            if not self._owes_body:
                self._owes_body = True
                limits = self.everything.limits
                self.deadline = time.monotonic() + limits.body_s + self._announced() / limits.body_bytes_per_s
            return
        self._owes_body, self.idle_deadline = False, None
        if owes is h11.IDLE:
            if self._is_answered:
                self._wait(None)  # uvicorn's own limit for connections that are kept
        elif not self._is_answered:
            self._leave()
            self._is_answered = True
            self.everything.answered[self._name] += 1
            self.deadline = None

    _owes_body = False
    idle_deadline: float | None = None  # for the next part of a body

    def _announced(self) -> int:
        lengths = [value for name, value in self.headers if name == b"content-length"]
        with contextlib.suppress(ValueError):
            return int(lengths[0]) if lengths else 0
        return 0

    def _wait(self, seconds: float | None) -> None:
        """Be among those that wait, for so long at most."""
        self._leave()
        self.waiting_since = time.monotonic()
        self.deadline = None if seconds is None else self.waiting_since + seconds
        self.everything.waiting[self] = None
        self.everything.by_client[self._name][self] = None

    def _leave(self) -> None:
        """Be neither waiting nor answered."""
        every = self.everything
        every.waiting.pop(self, None)
        mine = every.by_client.get(self._name)
        if mine is not None:
            mine.pop(self, None)
            if not mine:
                del every.by_client[self._name]
        if self._is_answered:
            self._is_answered = False
            every.answered[self._name] -= 1
            if not every.answered[self._name]:
                del every.answered[self._name]


class Sparingly(logging.Filter):
    """Lets through so many lines a minute that a log cannot fill a disk, and says how many were left out.

    Of the tracebacks of a minute the first is written whole, of others the last line.
    """

    def __init__(self, lines_per_minute: int = LINES_PER_MINUTE) -> None:
        super().__init__()
        self._most = lines_per_minute
        self._minute = -1
        self._lines = 0
        self._traced = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            left_out, self._minute, self._lines, self._traced = self._lines - self._most, minute, 0, False
            if left_out > 0:
                _reword(record, f"({left_out:,} lines were left out) {record.getMessage()}")
        if record.exc_info and self._traced:
            kind, error, _ = record.exc_info
            _reword(record, f"{record.getMessage().strip()}: {kind.__name__ if kind else ''}: {error}")
            record.exc_info = record.exc_text = None
        said = record.getMessage().splitlines()
        if len(said) > self._most:  # of a program's own, such as a traceback that is the message
            _reword(record, "\n".join([*said[: self._most // 2], "...", *said[-self._most // 2 + 1 :]]))
        self._traced = self._traced or bool(record.exc_info)
        self._lines += max(1, min(len(said), self._most))
        return self._lines <= self._most


def _reword(record: logging.LogRecord, message: str) -> None:
    record.msg, record.args = message, ()


def settings(app: Any, limits: Limits | None = None, **more: Any) -> uvicorn.Config:
    """How a server is run that nobody can keep from answering others."""
    chosen = limits or Limits(most=_fitting(MOST))
    mine: type[Connection] = type("Connection", (Connection,), {"everything": _All(chosen)})
    return uvicorn.Config(
        app,
        http=mine,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
        **more,
    )


def _fitting(most: int) -> int:
    """As many connections as there may be files open, and some left for files. Raises the process's own limit."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(soft, min(4 * most, hard if hard != resource.RLIM_INFINITY else 4 * most))
        if soft != resource.RLIM_INFINITY and wanted > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        return most if soft == resource.RLIM_INFINITY else min(most, max(64, soft // 2))
    return most
