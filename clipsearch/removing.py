"""Deleting what clipsearch wrote, outside of an index, which has rules of its own (`store.writer`).

A folder of ours (a cache, a run) is no proof that what lies in it is ours: people name folders, and put files there.
What is deleted has exactly a name that we give, and says of itself that it is ours. Anything else stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path


def remove_own(path: Path, is_ours: Callable[[Path], bool] = lambda path: True) -> int:
    """Delete a plain file whose name the caller has matched, if `is_ours` (asked of its content) says so.

    Returns the bytes freed; 0 where it stays.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or not is_ours(path):
            return 0
        path.unlink()
    except (OSError, ValueError):
        return 0
    return status.st_size


def foreign_in(folder: Path, names: Collection[str]) -> list[str]:
    """What is in a folder beside plain files with these names, sorted. Raises: OSError."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name not in names or not e.is_file(follow_symlinks=False))


def remove_folder_of(folder: Path, names: Collection[str]) -> bool:
    """Delete a folder with plain files of these names in it, and nothing else; if there is more, all stays.

    Returns whether it is gone.
    """
    try:
        if folder.is_symlink() or foreign_in(folder, names):
            return False
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_oldest(held: Mapping[Path, int], most_bytes: int, used: str, remove: Callable[[Path], object]) -> None:
    """Of folders that hold so many bytes each, remove those that were used longest ago, until all hold `most_bytes`.

    When one was used is the time of the file `used` in it, or its own. Raises: OSError.
    """
    by_age = sorted(held, key=lambda folder: (folder / used if (folder / used).exists() else folder).stat().st_mtime)
    left = sum(held.values())
    for folder in by_age:
        if left <= most_bytes:
            return
        remove(folder)
        left -= held[folder]


def free_name(path: Path) -> Path:
    """A name beside `path` that nothing has, for what is put aside."""
    numbers = iter(range(1, 10_000))
    return next(
        other
        for n in numbers
        if not os.path.lexists(other := path.with_name(f"{path.name}.before{'' if n == 1 else n}"))
    )


def replace_tree(made: Path, target: Path) -> Path | None:
    """Let the folder `made` take the place of `target`, an earlier one of its kind.

    Of the old one only files are deleted that `made` has too, at the same paths; if there are more, they stay in a
    folder beside it, which is returned. Raises: OSError; the old one is then where it was.
    """
    if not os.path.lexists(target):
        made.rename(target)
        return None
    own = {os.path.relpath(f"{at}/{name}", made) for at, _, names in os.walk(made) for name in names}
    old = free_name(target)
    target.rename(old)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
    if old.is_symlink() or not old.is_dir():
        return old
    for relative in own:
        remove_own(old / relative)
    for at, folders, _ in os.walk(old, topdown=False):
        for name in folders:
            _remove_empty(Path(at, name))
    _remove_empty(old)
    return old if old.exists() else None


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_made(folder: Path) -> None:
    """Delete a folder that this very process made under a name of its own, with what it put there.

    Or one that an earlier process of ours made so and that nobody holds any more (see `temporary`).
    """
    shutil.rmtree(folder, ignore_errors=True)
