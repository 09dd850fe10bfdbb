"""Folders of the person who runs clipsearch, also where there is no such person: no HOME, no entry in passwd."""

from __future__ import annotations

import contextlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Literal

NOWHERE = Path("/nonexistent/clipsearch")
"""A folder that cannot be made: what is kept there is not kept, which is no error."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with `~` as the user's home. Where there is none, `~` is a name like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises RuntimeError


def own_folder(kind: Literal["cache", "state"]) -> Path:
    """Where clipsearch keeps things of its own: in the user's home, else in a private folder among temporary files."""
    import platformdirs

    name = "user_cache_dir" if kind == "cache" else "user_state_dir"
    if os.environ.get("HOME") != "" or os.environ.get(f"XDG_{kind.upper()}_HOME"):
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
