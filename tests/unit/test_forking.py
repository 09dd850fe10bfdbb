"""The process that forks others on request (tests/support/forking.py), as commands and decoders of tests are."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.support.forking import Forker


@pytest.fixture
def requests() -> Iterator[socket.socket]:
    """What it takes: for how many seconds a process is to sleep, before it ends with 7. A second is too long."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        forker = Forker(theirs)

        def begin(body: bytes, fds: list[int]) -> None:
            if body == b"cut":
                raise ValueError(body)

            def sleep() -> NoReturn:
                time.sleep(float(body))
                os._exit(7)

            def ended(status: int, timed_out: bool) -> None:
                os.write(fds[0], b"%d %d" % (status, timed_out))

            forker.fork(sleep, ended, keeps=fds, gives=[], timeout_s=1)

        forker.serve(begin, size_bytes=64, most_fds=1)
        os._exit(0)
    theirs.close()
    yield ours
    ours.close()
    assert os.waitpid(pid, 0)[1] == 0  # with nobody left who could ask, it ends


def ask(requests: socket.socket, sleep_s: float) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(requests, [str(sleep_s).encode()], [theirs.fileno()])
    return ours


def said(answer: socket.socket) -> bytes:
    """All that is said of a process, until nobody is left who could say more of it."""
    with answer:
        return b"".join(iter(lambda: answer.recv(64), b""))


def test_who_asks_hears_of_its_own_process_at_once_and_what_takes_too_long_is_killed(requests: socket.socket) -> None:
    began = time.monotonic()
    other, long, short = (ask(requests, sleep_s) for sleep_s in (0.05, 60, 0))
    assert (said(short), said(other)) == (b"7 0", b"7 0")
    assert time.monotonic() - began < 0.9  # also with the long one there, which has no descriptor of theirs
    assert said(long) == b"-9 1"
    assert 0.9 < time.monotonic() - began < 10


def test_who_does_not_wait_for_the_answer_disturbs_nobody(requests: socket.socket) -> None:
    ask(requests, 0.05).close()
    time.sleep(0.1)
    assert said(ask(requests, 0)) == b"7 0"


def test_a_request_that_cannot_be_read_ends_nobody(requests: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(requests, [b"cut"], [theirs.fileno()])
    assert said(ours) == b""
    assert said(ask(requests, 0)) == b"7 0"
