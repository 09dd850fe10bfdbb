"""Temporary files with names, of which nothing stays: what a killed process left, the next one takes away.

They lie in a folder for each process, `clipsearch-MACHINE-RANDOM` among temporary files, locked (flock) for as long as
the process lives. So a folder of this machine and user that nobody holds is left over. `MACHINE` tells apart machines
that share a folder, where the lock of one may say nothing to the other.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

from clipsearch.removing import remove_made

_RANDOM = r"[a-z0-9_]{8}"
_ATTEMPTS = 3

_guard = threading.Lock()
_own: _Held | None = None


class _Held:
    """A new folder and the lock on it, both for this process: one that is forked from it makes its own."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.pid = os.getpid()

    @property
    def serves(self) -> bool:
        return self.pid == os.getpid() and self.path.is_dir()

    def forget(self) -> None:
        """Remove the folder, unless something in it is still used."""
        if self.pid == os.getpid():
            with contextlib.suppress(OSError):
                self.path.rmdir()


def process_folder() -> str | None:
    """The folder for temporary files of this process; None, which is that of the system, where it cannot be locked.

    Takes away what killed processes left. Raises: OSError.
    """
    global _own
    with _guard:
        if _own is None or not _own.serves:
            _own = _made()
            if _own is not None:
                atexit.register(_own.forget)
                _take_away_left_over(_own.path.parent, but=_own.path.name)
        return None if _own is None else str(_own.path)


def temporary_folder() -> Any:
    """A folder that is there as long as a `with` lasts, which gives its path. Raises: OSError."""
    import tempfile

    return tempfile.TemporaryDirectory(prefix="clipsearch-", dir=process_folder())


def _machine() -> str:
    import hashlib

    return hashlib.sha256(os.uname().nodename.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _made() -> _Held | None:
    import tempfile

    for _ in range(_ATTEMPTS):
        path = Path(tempfile.mkdtemp(prefix=f"clipsearch-{_machine()}-"))
        fd = _lock(path)
        if fd is not None:
            if path.is_dir():  # or another process took the new folder for left over, before it was locked
                return _Held(path, fd)
            os.close(fd)
        with contextlib.suppress(OSError):
            path.rmdir()
    return None


def _lock(folder: Path) -> int | None:
    """A descriptor of a folder that nobody else holds; None if somebody does, or if that cannot be known."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _take_away_left_over(place: Path, but: str) -> None:
    ours = re.compile(f"clipsearch-{_machine()}-{_RANDOM}")
    with contextlib.suppress(OSError):
        for folder in [path for path in place.iterdir() if ours.fullmatch(path.name) and path.name != but]:
            with contextlib.suppress(OSError):
                found = folder.lstat()
                private = found.st_uid == os.getuid() and not found.st_mode & 0o077
                if not (stat.S_ISDIR(found.st_mode) and private):
                    continue
                fd = _lock(folder)
                if fd is not None:
                    remove_made(folder)
                    os.close(fd)
