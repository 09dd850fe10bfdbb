"""What lies in a folder, compared before and after: files that are not ours are never changed."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import xxhash

OURS = re.compile(
    r"INDEX(\.[0-9a-f]{32}\.part)?|CURRENT|NEW|(LOCK|COMMIT)(\.held)?"
    r"|manifests/\d{8,}\.json"
    r"|[a-z_]+/[0-9a-f]{32}(-\d+)?\.[a-z0-9]+"
    r"|staging/[^/]+"
    r"|damaged/.+"
)
"""Names, relative to an index folder, that clipsearch gives to files."""

OUR_FOLDER = re.compile(r"[a-z_]+|damaged/.+|staging/[^/]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link as it lies on the disk."""

    mode: int
    size: int
    mtime_ns: int
    inode: int
    content: str  # a hash, or where a link leads


def look(path: Path, *, times_of_folders: bool = False) -> Entry:
    """How `path` lies there now. What our own writing changes of a folder (its times) is left out, unless asked."""
    info = path.lstat()
    content = ""
    size, mtime_ns = info.st_size, info.st_mtime_ns
    if stat.S_ISLNK(info.st_mode):
        content = os.fspath(path.readlink())
    elif stat.S_ISREG(info.st_mode):
        content = xxhash.xxh3_128_hexdigest(path.read_bytes())
    elif not times_of_folders:
        size = mtime_ns = 0
    return Entry(info.st_mode, size, mtime_ns, info.st_ino, content)


def tree(root: Path, *, but: Path | None = None, times_of_folders: bool = False) -> dict[str, Entry]:
    """Everything below `root`, by its path relative to it, except what is below `but`."""
    found: dict[str, Entry] = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if here / name != but]
        for name in (*folders, *files):
            path = here / name
            found[path.relative_to(root).as_posix()] = look(path, times_of_folders=times_of_folders)
    return found


def differences(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """What became of everything that was there before, in words; nothing where it is all as it was."""
    said = []
    for path, entry in before.items():
        now = after.get(path)
        if now is None:
            said.append(f"{path!r} is gone")
        elif now != entry:
            changed = [name for name in Entry.__slots__ if getattr(now, name) != getattr(entry, name)]
            said.append(f"{path!r} has another {', '.join(changed)}")
    return said


def not_ours(index: Path) -> list[str]:
    """Names below an index folder that are none of ours; the caller knows which others were put there."""
    found = []
    for folder, folders, files in os.walk(index):
        here = Path(folder).relative_to(index)
        for name in folders:
            if not OUR_FOLDER.fullmatch((here / name).as_posix()):
                found.append((here / name).as_posix())
        for name in files:
            if not OURS.fullmatch((here / name).as_posix()):
                found.append((here / name).as_posix())
    return sorted(found)
