"""Putting aside: what a repair finds in the place of our files goes to `damaged/`, by a rename, and is never followed.

At the names that we give there may lie a link, a folder, a pipe. No command can work with these, and none of them is
ours, so nothing of them is read or deleted.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from clipsearch.config import CURRENT_LINE, MARKER, marker_of, read_plain
from clipsearch.errors import ClipsearchError
from clipsearch.indexer.verify import relative
from clipsearch.store.files import sync_folder
from clipsearch.store.lock import COMMIT, HELD_SUFFIX, LOCK, FileLock
from clipsearch.store.manifest import MANIFEST_NAME, load_manifest
from clipsearch.store.writer import FOLDERS, LOCK_WAIT_S, SUFFIXES, is_named_by_its_content, is_own_name

DAMAGED = "damaged"
MOST_BYTES = 1 << 28  # of a file that a link leads to


class Aside:
    """`damaged/<date>` of an index. What was done is in `actions`, where things are now in `put_aside`."""

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = index_dir
        self.actions: list[str] = []
        self.put_aside: list[str] = []  # relative to the index
        self._folder: Path | None = None

    def name_for(self, path: Path) -> Path:
        """A free name in `damaged/<date>` for what is at `path`, noted as put aside."""
        folder = self._made()
        target, number = folder / path.name, 1
        while os.path.lexists(target):
            number += 1
            target = folder / f"{number}-{path.name}"
        self.put_aside.append(relative(self.index_dir, target))
        return target

    def sync(self) -> None:
        """Make what was put aside durable, where the file system can."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                sync_folder(self._folder)

    def clear_the_way(self) -> None:
        """Put aside what keeps an index from being locked: what is no plain file or folder at names of the first level.

        Raises: IndexLocked, OSError.
        """
        index_dir = self.index_dir
        for name in (LOCK, COMMIT, LOCK + HELD_SUFFIX, COMMIT + HELD_SUFFIX):
            self._move_unless_plain(index_dir / name)
        folders = [name for name in sorted({*FOLDERS, *SUFFIXES}) if not self._is_own(index_dir / name)]
        if not folders and not _is_odd(index_dir / MARKER):
            return
        with FileLock(index_dir, LOCK, wait_s=LOCK_WAIT_S):
            self._move_unless_plain(index_dir / MARKER, lambda _: marker_of(index_dir) is not None)
            for name in folders:
                self._move(index_dir / name, "folder")

    def clear_generations(self) -> None:
        """Put aside what is no plain file at the names that generations use. The index is locked. Raises: OSError."""
        index_dir = self.index_dir
        self._move_unless_plain(index_dir / "CURRENT", lambda raw: CURRENT_LINE.fullmatch(raw) is not None)
        for path in sorted((index_dir / "manifests").iterdir()):
            if MANIFEST_NAME.fullmatch(path.name):
                self._move_unless_plain(path, lambda raw, path=path: self._is_manifest(path, raw))  # type: ignore[misc]
        for folder in SUFFIXES:
            for path in sorted((index_dir / folder).iterdir()) if (index_dir / folder).is_dir() else ():
                if is_own_name(folder, path.name) and _is_odd(path) and not _leads_to_its_content(path):
                    self._move(path, "file")

    def _is_own(self, place: Path) -> bool:
        """Whether a folder can be used: one that is there, none, or a link to one of ours on another drive."""
        if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink()):
            return True
        if not place.is_dir() or place.name == "staging":
            return False
        return any(
            is_own_name(place.name, path.name) or (place.name == "manifests" and MANIFEST_NAME.fullmatch(path.name))
            for path in place.iterdir()
        )

    def _is_manifest(self, path: Path, raw: bytes) -> bool:
        try:
            return load_manifest(path, raw, self.index_dir).generation == int(path.stem)
        except ClipsearchError:
            return False

    def _move_unless_plain(self, path: Path, is_ours: Callable[[bytes], bool] | None = None) -> None:
        """Put aside what is at `path` unless it is a plain file or nothing. What a link leads to, if it is ours, is
        copied to its place."""
        if not _is_odd(path):
            return
        raw = b""
        if is_ours is not None and path.is_symlink():
            with contextlib.suppress(OSError):
                raw = read_plain(path, MOST_BYTES)
        is_kept = is_ours is not None and raw != b"" and is_ours(raw)
        self._move(path, "file")
        if is_kept:
            with path.open("xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())

    def _move(self, path: Path, expected: str) -> None:
        kind = _kind(path.lstat().st_mode)
        path.rename(self.name_for(path))
        self.actions.append(f"{relative(self.index_dir, path)}: {kind}, not a {expected}")

    def _made(self) -> Path:
        if self._folder is None:
            place = self.index_dir / DAMAGED
            date = datetime.now().strftime("%Y-%m-%d-%H%M%S")
            self._folder = place / date
            if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
                waiting = self.index_dir / f"{DAMAGED}-{date}"
                place.rename(waiting)
                self._folder.mkdir(parents=True)
                waiting.rename(self._folder / DAMAGED)
                self.put_aside.append(f"{DAMAGED}/{date}/{DAMAGED}")
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder


def _is_odd(path: Path) -> bool:
    """Whether something is at `path` that is no plain file."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _leads_to_its_content(path: Path) -> bool:
    """Whether a link leads to a plain file with the content that its name says, as where files are kept in a store."""
    try:
        return path.is_symlink() and path.is_file() and is_named_by_its_content(path)
    except OSError:
        return False


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a plain file" if stat.S_ISREG(mode) else "a special file"
