"""Processes forked on request from one that has imported what they need, with no other process between it and them.

Such a fork takes five milliseconds, most of them for the table of its memory. So the process that forks also waits for
what it has forked, and tells whoever asked how that ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

NEVER = float("inf")


@dataclass(slots=True)
class Child:
    pid: int
    ended: Callable[[int, bool], None]
    keeps: Sequence[int]
    deadline: float
    timed_out: bool = False


class Forker:
    """Forks in the process that it is in, whose only other work is to take `requests`."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._waits = select.poll()
        self._waits.register(requests, select.POLLIN)
        self._children: dict[int, Child] = {}
        """By the descriptors that tell of their ends."""

    def serve(self, begin: Callable[[bytes, list[int]], None], *, size_bytes: int, most_fds: int) -> None:
        """Let `begin` answer each request with a `fork`, until nobody is left who could ask."""
        while True:
            first = min((child.deadline for child in self._children.values()), default=NEVER)
            patience_ms = None if first == NEVER else 1 + int(max(0.0, first - time.monotonic()) * 1000)
            for fd, _ in self._waits.poll(patience_ms):
                if fd != self._requests.fileno():
                    self._bury(fd)
                    continue
                body, fds, _, _ = socket.recv_fds(self._requests, size_bytes, most_fds)
                if not body:
                    return
                pid = os.getpid()
                try:
                    begin(body, list(fds))
                except Exception:  # of one that was killed while it asked, say: others will ask
                    traceback.print_exc()
                    if os.getpid() != pid:
                        os._exit(70)
                    for fd in fds:
                        with contextlib.suppress(OSError):
                            os.close(fd)
            for child in self._children.values():
                if child.deadline <= time.monotonic():
                    child.timed_out, child.deadline = True, NEVER
                    os.kill(child.pid, signal.SIGKILL)

    def fork(
        self,
        run: Callable[[], NoReturn],
        ended: Callable[[int, bool], None],
        *,
        keeps: Sequence[int],
        gives: Sequence[int],
        timeout_s: float = NEVER,
    ) -> int:
        """Fork a process that does `run`, and call `ended` with its exit code and whether it took too long.

        Of the descriptors that came for it, this process keeps `keeps` until then, and that one has `gives`.
        """
        pid = os.fork()
        if pid == 0:
            self._requests.close()
            for other, child in self._children.items():
                for fd in (other, *child.keeps):
                    os.close(fd)
            for fd in set(keeps) - set(gives):
                os.close(fd)
            run()
        for fd in set(gives) - set(keeps):
            os.close(fd)
        told = os.pidfd_open(pid)
        self._children[told] = Child(pid, ended, keeps, time.monotonic() + timeout_s)
        self._waits.register(told, select.POLLIN)
        return pid

    def _bury(self, told: int) -> None:
        self._waits.unregister(told)
        child = self._children.pop(told)
        os.close(told)
        _, status = os.waitpid(child.pid, 0)
        with contextlib.suppress(OSError):  # nobody wants to know any more
            child.ended(os.waitstatus_to_exitcode(status), child.timed_out)
        for fd in child.keeps:
            os.close(fd)
