"""Files that are there whole or not at all, outside of an index, which has rules of its own (`store.writer`)."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, synced: bool = False) -> Iterator[IO[bytes]]:
    """Yield a file to write, which takes the place of `path` when the block has ended, unless by an error.

    `synced` waits until the drive has it. Raises: OSError.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    with part.open("xb") as file:
        try:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
            file.close()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    if synced:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def creating(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write, which is at `path` when the block has ended, unless by an error. Nothing is replaced.

    What is no file and no folder (a pipe, /dev/stdout) is written to. Raises: FileExistsError, OSError.
    """
    refuse_existing(path)
    if os.path.lexists(path):
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name[:50]}.{os.getpid()}.{time.monotonic_ns()}")
    with part.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _name_anew(part, path)
        finally:
            part.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raise FileExistsError if `creating` would: if a file, a folder or a link to nowhere has the name."""
    if not os.path.lexists(path):
        return
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = stat.S_IFLNK
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _name_anew(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: an empty file of our own takes the name first
        path.open("xb").close()
        part.replace(path)
