"""Walk a folder of pictures. Knows file names and inodes, not what is in the files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clipsearch.config import INDEX_DIR_NAME
from clipsearch.indexer.ignore import HIDDEN, Ignore
from clipsearch.records import SkippedImage


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as the scan saw it. `path` is relative to the root, `/` between its parts (see ImageRecord)."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(slots=True)
class Scan:
    """Everything below a root: `files` sorted by path within each folder; what could not be looked at."""

    files: list[FoundFile] = field(default_factory=list)
    unreadable_files: list[SkippedImage] = field(default_factory=list)
    unreadable_folders: list[SkippedImage] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # files and folders that `ignore` names, and why; no hidden
    indexed: list[str] = field(default_factory=list)  # folders below the root that have an index of their own

    def hides(self, path: str) -> bool:
        """Whether `path` lies in a folder that could not be read: its absence then says nothing."""
        return any(f.path == "" or path.startswith(f.path + "/") for f in self.unreadable_folders)

    def leaves_out(self, path: str) -> str | None:
        """Why `path` was left out, by itself or with a folder that it is in; None where it was not."""
        while path:
            if (reason := self.left_out.get(path)) is not None:
                return reason
            path = path.rpartition("/")[0]
        return None


def scan(root: Path, *, exclude: Path | None = None, ignore: Ignore | None = None) -> Scan:
    """Find every file below `root`, following symbolic links but no folder twice.

    What `ignore` names (see there; by default, what it always names) and the folder `exclude` are left out. Folders
    that cannot be read are reported, not raised.
    """
    result = Scan()
    ignore = ignore or Ignore(root)
    visited: set[tuple[int, int]] = set()
    if exclude is not None and exclude.is_dir():
        info = exclude.stat()
        visited.add((info.st_dev, info.st_ino))
    linked: list[str] = []  # folders behind links come last, so that a folder is known by its own name first
    for folder in _folders(os.fspath(root), "", visited, linked, ignore, result):
        result.files += folder
    while linked:
        relative = linked.pop(0)
        for folder in _folders(os.fspath(root), relative, visited, linked, ignore, result):
            result.files += folder
    return result


def _folders(
    root: str, start: str, visited: set[tuple[int, int]], linked: list[str], ignore: Ignore, result: Scan
) -> Iterator[list[FoundFile]]:
    pending = [start]
    while pending:
        relative = pending.pop()
        place = os.path.join(root, relative) if relative else root
        try:
            info = os.stat(place)
            if (info.st_dev, info.st_ino) in visited:
                continue
            visited.add((info.st_dev, info.st_ino))
            with os.scandir(place) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder cannot be read ({error.strerror or error})"
            result.unreadable_folders.append(SkippedImage(relative, "unreadable", reason))
            continue
        rules = ignore.enter_folder(relative, {entry.name for entry in names})
        if rules.whole is not None:
            result.left_out[relative] = rules.whole
            continue
        files: list[FoundFile] = []
        subfolders: list[str] = []
        for entry in names:
            path = f"{relative}/{entry.name}" if relative else entry.name
            try:
                why = rules.skips(path, entry.name, entry.is_dir())
                if why is not None:
                    if why != HIDDEN:
                        result.left_out[path] = why
                    elif relative and entry.name == INDEX_DIR_NAME:
                        result.indexed.append(relative)
                    continue
                is_link = entry.is_symlink()
                info = entry.stat()
            except OSError as error:
                reason = "a link to nowhere" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
                result.unreadable_files.append(SkippedImage(path, "unreadable", reason))
                continue
            if stat.S_ISDIR(info.st_mode):
                (linked if is_link else subfolders).append(path)
            elif stat.S_ISREG(info.st_mode):
                files.append(FoundFile(path, info.st_size, info.st_mtime_ns, info.st_ino))
            else:
                result.unreadable_files.append(SkippedImage(path, "not_a_picture", "neither a file nor a folder"))
        pending += reversed(subfolders)
        yield files
