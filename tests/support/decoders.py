"""Decoder processes that start in milliseconds: `clipsearch.pictures.worker` in processes forked from one that has it.

A run of the indexer starts at least one, and starting Python takes far longer than reading the few pictures of a test.
What such a process does, and how it is talked to, ended and waited for, is the same. Run as a module, this is the
process that forks.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from tests.support.forking import Forker

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = ["-P", "-m", "clipsearch.pictures.worker"]
_FAR = 1000  # above every descriptor that a worker is told of
_MOST_FDS = 16


class Forks:
    """A process that forks decoders for this process and for those that it forks; begun with the first decoder."""

    def __init__(self, inherited: int | None = None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = None if inherited is None else socket.socket(fileno=inherited)
        self._lock = threading.Lock()  # each decoder is started by a thread of its own

    def begin(self) -> socket.socket:
        with self._lock:
            if self._socket is None:
                self._socket = self._begin()
            return self._socket

    def fileno(self) -> int:
        return self.begin().fileno()

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.decoders", str(theirs.fileno())],
                cwd=REPOSITORY,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        return ours

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes] | Forked:
        """`subprocess.Popen`, of a decoder in little time."""
        if list(command[:-1]) != [sys.executable, *WORKER]:
            return subprocess.Popen(command, **options)
        return Forked(self._ask, command[-1], **options)

    def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        socket.send_fds(self.begin(), [json.dumps(request).encode("ascii")], list(fds))


@cache
def shared() -> Forks:
    """The one of this process and of those that are forked from it. It ends with this process."""
    forks = Forks()
    atexit.register(forks.close)
    return forks


class Forked:
    """The part of `subprocess.Popen` that the pool uses."""

    def __init__(
        self,
        ask: Callable[[dict[str, Any], Sequence[int]], None],
        settings: str,
        *,
        stdin: int,
        stdout: int,
        stderr: IO[bytes],
        env: Mapping[str, str],
        start_new_session: bool,
        pass_fds: Sequence[int],
    ) -> None:
        assert stdin == stdout == subprocess.PIPE and start_new_session
        self._answers, theirs = socket.socketpair()
        task_reader, task_writer = os.pipe()
        result_reader, result_writer = os.pipe()
        given = [theirs.fileno(), task_reader, result_writer, stderr.fileno(), *pass_fds]
        request = {"settings": settings, "env": dict(env), "cwd": str(Path.cwd()), "fds": [0, 1, 2, *pass_fds]}
        try:
            ask(request, given)
        finally:
            for fd in (task_reader, result_writer):
                os.close(fd)
            theirs.close()
        self.stdin: IO[bytes] = os.fdopen(task_writer, "wb")
        self.stdout: IO[bytes] = os.fdopen(result_reader, "rb")
        self.returncode: int | None = None
        self._asking = threading.Lock()  # a pool that is closed asks while one of its threads waits
        self._said = b""
        self.pid = int(self._line(wait=True) or 0)
        assert self.pid, "no decoder was forked"

    def _line(self, *, wait: bool) -> str | None:
        """The next line from whoever forked the process: its number, and then how it ended."""
        while b"\n" not in self._said:
            try:
                more = self._answers.recv(64, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not more:
                return str(-signal.SIGKILL)
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode("ascii")

    def poll(self) -> int | None:
        return self._ended(wait=False)

    def wait(self) -> int | None:
        return self._ended(wait=True)

    def _ended(self, *, wait: bool) -> int | None:
        if not self._asking.acquire(blocking=wait):
            return None  # whoever waits for it notes how it ended
        try:
            if self.returncode is None and (line := self._line(wait=wait)) is not None:
                self.returncode = int(line)
                self._answers.close()
            return self.returncode
        finally:
            self._asking.release()

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def as_subprocess(forks: Forks) -> SimpleNamespace:
    """What stands for the module `subprocess` in `clipsearch.pictures.pool`."""
    return SimpleNamespace(PIPE=subprocess.PIPE, Popen=forks.start)


# -- the process that forks


def _serve(requests: socket.socket) -> None:
    import numpy as np  # noqa: F401
    from PIL import ImageFile  # noqa: F401

    from clipsearch.pictures import images, worker  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # no decoder is to look through it, and so to copy it
    forker = Forker(requests)

    def begin(body: bytes, fds: list[int]) -> None:
        answers, *given = fds
        request = json.loads(body)

        def ended(status: int, _: bool) -> None:
            os.write(answers, b"%d\n" % status)

        pid = forker.fork(lambda: _decode(request, given), ended, keeps=[answers], gives=given)
        with contextlib.suppress(OSError):  # nobody asks any more
            os.write(answers, b"%d\n" % pid)

    forker.serve(begin, size_bytes=2**18, most_fds=_MOST_FDS)


def _decode(request: dict[str, Any], given: list[int]) -> NoReturn:
    from clipsearch.pictures import worker

    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        far = [_moved(fd) for fd in given]
        for fd, number in zip(far, request["fds"], strict=True):
            os.dup2(fd, number)
            os.close(fd)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        sys.argv = ["worker", request["settings"]]
        worker.main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _moved(fd: int) -> int:
    """The descriptor at a number that is none of those which are given out."""
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FAR)
    os.close(fd)
    return moved


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
