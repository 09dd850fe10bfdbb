"""Checksums of files (xxh3-128), remembered for large files that have not changed since."""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from pathlib import Path

import xxhash

from clipsearch.config import cache_dir, open_plain, write_small

SETTLED_AFTER_NS = 2_000_000_000
REMEMBERED_FILES = 1000
BLOCK_BYTES = 4 << 20


def file_checksum(path: Path, *, remember_from_bytes: int, afresh: bool = False) -> str:
    """xxh3-128 of a file's bytes, hexadecimal. Raises: OSError.

    Files of at least `remember_from_bytes` are known again by device, inode, size, modification and change time
    and not read, unless `afresh`. Every write moves the change time; a file that changed less than two seconds
    ago is not remembered, since a later change could fall on the same clock tick.
    """
    status = path.stat()
    identity = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    if status.st_size < remember_from_bytes:
        return _read(path)
    memory = cache_dir() / "checksums.json"
    if not afresh and (known := _remembered(memory).get(identity)) is not None:
        return known
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_AFTER_NS
    digest = _read(path)
    if settled:
        newest = list(_remembered(memory).items())[1 - REMEMBERED_FILES :]
        write_small(memory, json.dumps({**dict(newest), identity: digest}, indent=0))
    return digest


def _read(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open_plain(path) as file:  # not mapped, so that a large file does not count as memory in use
        block = memoryview(bytearray(min(BLOCK_BYTES, max(1, os.fstat(file.fileno()).st_size))))
        while length := os.readv(file.fileno(), [block]):
            digest.update(block[:length])
    return digest.hexdigest()


def _remembered(memory: Path) -> dict[str, str]:
    try:
        status = memory.stat()
    except OSError:
        return {}
    return _parsed(memory, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _parsed(memory: Path, _identity: tuple[int, ...]) -> dict[str, str]:
    """What the memory held when it was that file; it is replaced as a whole, so another one has another inode."""
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in entries.items() if isinstance(v, str)} if isinstance(entries, dict) else {}
