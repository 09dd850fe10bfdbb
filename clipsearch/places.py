"""Folders of the person who runs clipsearch, also where there is no such person: no HOME, no entry in passwd."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import Literal

NOWHERE = Path("/nonexistent/clipsearch")
"""A folder that cannot be made: what is kept there is not kept, which is no error."""


_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])(.*)", re.S)


class Address(PosixPath):
    """The address of a folder or file in object storage, as s3://bucket/photos: a path that no system call takes."""

    def __str__(self) -> str:
        """With the two slashes that a path would make one."""
        match = _ADDRESS.fullmatch(super().__str__())
        return super().__str__() if match is None else f"{match[1]}://{match[2]}"

    def absolute(self) -> Address:
        """An address is."""
        return self

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Nobody here can say that it does not."""
        return True

    def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """Whether the other is the same address."""
        return str(self) == os.fspath(other_path)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of object storage."""
    return isinstance(path, Address) or (isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]+://", path) is not None)


def as_address(path: str | os.PathLike[str]) -> Path:
    """A path as an Address if it is one, and no folder here has that name: else as it is."""
    text = os.fspath(path)
    if isinstance(path, Address) or _ADDRESS.fullmatch(text) is None or os.path.lexists(text):
        return Path(path) if not isinstance(path, Path) else path
    return Address(text)


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with `~` as the user's home. Where there is none, `~` is a name like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises RuntimeError


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether `path`, with `~` as the user's home, is a file. Any text may be asked about."""
    try:
        return expanded(path).is_file()
    except (OSError, ValueError, RuntimeError):  # a sentence may be longer than a name can be, or hold a NUL
        return False


def absolute(path: str | os.PathLike[str]) -> str:
    """`path` as an index knows it: absolute, without `~`, `.` and `..`; links are not followed."""
    return os.path.abspath(expanded(path))  # noqa: PTH100


def is_unchanged(path: str | os.PathLike[str], size_bytes: int, mtime_ns: int) -> bool:
    """Whether the file at `path` has that size and time, as a row of an index says, or is away."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return True
    return (found.st_size, found.st_mtime_ns) == (size_bytes, mtime_ns)


def leads_out(root: str | os.PathLike[str], relative: str) -> bool:
    """Whether a path in the folder `root` leads out of it, by links. Any text may be asked about."""
    try:
        inside = os.path.realpath(root)
        real = os.path.realpath(os.path.join(inside, relative))  # noqa: PTH118
    except (OSError, ValueError):
        return True
    return real != inside and not real.startswith(inside.rstrip(os.sep) + os.sep)


def own_folder(kind: Literal["cache", "state"]) -> Path:
    """Where clipsearch keeps things of its own: in the user's home, else in a private folder among temporary files."""
    import platformdirs

    name = "user_cache_dir" if kind == "cache" else "user_state_dir"
    home = os.environ.get("HOME")  # if it is no place, platformdirs takes that of the user's entry in passwd
    if home is None or os.path.isabs(home) or os.environ.get(f"XDG_{kind.upper()}_HOME"):  # noqa: PTH117
        with contextlib.suppress(RuntimeError):  # platformdirs from 4.14 on; older ones leave the ~
            found = Path(getattr(platformdirs, name)("clipsearch", appauthor=False))
            if found.is_absolute():
                return found
    return _among_temporary_files() / kind


@lru_cache
def _among_temporary_files() -> Path:
    """A folder that only this user can reach; NOWHERE without a place for one, and if somebody else was there first."""
    import tempfile  # with random and all it needs: 4 ms that a query need not wait for

    try:
        place = Path(tempfile.gettempdir()) / f"clipsearch-{os.getuid()}"
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError:
        return NOWHERE
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return place if private else NOWHERE
