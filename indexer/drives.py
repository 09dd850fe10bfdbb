"""Which drive a folder is on. Device numbers alone do not tell: the next drive to be plugged in gets the same one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import xxhash

from clipsearch.indexer.watch import mounts

OF_ONE_SIZE = frozenset(
    {"exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfs", "hfsplus", "iso9660", "msdos", "ntfs", "ntfs3", "udf"}
    | {"vfat", "xfs"}
)
"""File systems whose size stays as it is. Of some, the system knows no other id than the number of their device."""
LEAST = 1 << 62
"""Identities are no less than this, device numbers are less."""
_BY_UUID = Path("/dev/disk/by-uuid")


def drive_identity(folder: int, place: str, device: int) -> int:
    """A number for the drive of an open folder, at `place`: the same while it is the same drive in the same socket.

    From its device number, the id and the size that the file system has, where it comes from, and its UUID, as far as
    the system tells; and from the folder of the file system that is mounted there, if that is not all of it.
    """
    parts = [f"device {device}"]
    kind, source, part = _mounted_at(place)
    with contextlib.suppress(OSError):
        told = os.fstatvfs(folder)
        parts.append(f"id {told.f_fsid}")
        if kind in OF_ONE_SIZE:
            parts.append(f"size {told.f_blocks * told.f_frsize}")
    parts += [f"kind {kind}", f"source {source}", f"uuid {_uuid(device, source)}"]
    if part not in ("", "/"):
        parts.append(f"part {part}")
    return LEAST | (xxhash.xxh3_64_intdigest("\n".join(parts).encode("utf-8", "surrogateescape")) >> 2)


class MountPoints:
    """Where something is mounted, also a folder of the same drive, when a walk of `root` begins."""

    def __init__(self, root: str) -> None:
        self._points = [point for point, _, _ in mounts()]
        self._of_root = self._holding(os.path.realpath(root))

    def met_at(self, place: str, relative: str) -> set[str]:
        """The folders that have something mounted on them, of what is known as `relative`: the root, or a folder that a
        link leads to. That counts itself where it is on another mount than the root."""
        real = os.path.realpath(place)
        inside, prefix = real.rstrip("/") + "/", f"{relative}/" if relative else ""
        found = {prefix + point.removeprefix(inside) for point in self._points if point.startswith(inside)}
        found.discard(prefix)
        if relative and self._holding(real) != self._of_root:
            found.add(relative)
        return found

    def _holding(self, real: str) -> str:
        """The mount point that a place is on."""
        inside = (point for point in self._points if point == "/" or f"{real}/".startswith(f"{point}/"))
        return max(inside, key=len, default="")


def _mounted_at(place: str) -> tuple[str, str, str]:
    """The type of the file system at a place, where it comes from, and which folder of it that is; "" where the system
    does not say."""
    real = os.path.realpath(place)
    found, longest = ("", "", ""), -1
    for point, kind, told in mounts():
        inside = point in ("/", real) or real.startswith(point + "/")
        if inside and len(point) >= longest:
            _, _, part, *_, source = told.split(" ")
            found, longest = (kind, source, part), len(point)
    return found


def _uuid(device: int, source: str) -> str:
    """The UUID, or serial number, of the file system of a block device."""
    numbers = {device}
    with contextlib.suppress(OSError):
        if source.startswith("/"):
            numbers.add(os.stat(source).st_rdev)  # noqa: PTH116
    with contextlib.suppress(OSError):
        for link in _BY_UUID.iterdir():
            with contextlib.suppress(OSError):
                if link.stat().st_rdev in numbers:
                    return link.name
    return ""
