"""Towers as OpenVINO compiled them, kept in the cache folder, so that later processes load them several times sooner.

Measured on two AMD EPYC cores, processor time: ViT-B-32 in bf16 0.26 s instead of 0.7 to 1.0, in int8 0.14 instead of
0.55. OpenVINO writes such a file and says itself which version, processor and source it is of, but takes one in which
a bit has changed for whole, and then makes other vectors of pictures. So each has a checksum beside it that was taken
when it was written, is made in a folder of its own and moved into its place as a whole, and what does not fit, or
cannot be written, costs speed only. A tower is kept when it is loaded for the second time: one that is used once is not
worth its file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.config import cache_dir, write_small
from clipsearch.encoder.fingerprints import REMEMBER_FROM_BYTES
from clipsearch.removing import remove_oldest, remove_own

FOLDER = "compiled-towers"
WANTED, RECEIPT = "wanted", "checksum"
MOST_BYTES = 1_500_000_000  # of all together
STALE_S = 24 * 3600  # what a process that was killed has left
_BLOB = re.compile(r"[0-9]+\.blob")
_FOLDER = re.compile(r"[0-9a-f]{32}|\.part-\w+")


def compile_kept(core: Any, file: str, settings: dict[str, Any], told: str) -> Any:
    """The compiled model of a file: loaded as it is kept, or compiled, and kept from the second time on.

    `told` says what it is of: equal means the same tower in the same arithmetic. Raises: what OpenVINO raises.
    """
    folder = cache_dir() / FOLDER / xxhash.xxh3_128_hexdigest(told.encode())
    if _is_whole(folder):
        with contextlib.suppress(Exception):  # openvino's errors share no base class but this
            compiled = core.compile_model(file, "CPU", {**settings, "CACHE_DIR": str(folder)})
            if not compiled.get_property("LOADED_FROM_CACHE"):
                _remove(folder)
            else:
                with contextlib.suppress(OSError):
                    os.utime(folder / RECEIPT)  # by which the least used one is found
            return compiled
    _remove(folder, but=WANTED)
    if not (folder / WANTED).exists():
        write_small(folder / WANTED, "")
        return core.compile_model(file, "CPU", settings)
    return _compile_and_keep(core, file, settings, folder)


def _compile_and_keep(core: Any, file: str, settings: dict[str, Any], folder: Path) -> Any:
    part = _part_for(folder.parent, sum(path.stat().st_size for path in Path(file).parent.iterdir() if path.is_file()))
    if part is None:
        return core.compile_model(file, "CPU", settings)
    try:
        compiled = core.compile_model(file, "CPU", {**settings, "CACHE_DIR": str(part)})
    except Exception:  # the disk is full, say: if it is something else, it comes again
        _remove(part)
        return core.compile_model(file, "CPU", settings)
    try:
        (blob,) = _blobs(part)
        digest = file_checksum(blob, remember_from_bytes=REMEMBER_FROM_BYTES, afresh=True)
        write_small(part / RECEIPT, f"{blob.name} {digest}")
        _remove(folder)
        part.rename(folder)
    except (OSError, ValueError):  # no blob, or another process was first
        _remove(part)
    return compiled


def _part_for(place: Path, size: int) -> Path | None:
    """A folder to write so many bytes into, after what is used least has made room. None: there is no room."""
    try:
        now = time.time()
        held: dict[Path, int] = {}
        for folder in place.iterdir():
            if _FOLDER.fullmatch(folder.name) is None or folder.is_symlink():
                continue
            if folder.name.startswith("."):
                if now - folder.stat().st_mtime > STALE_S:
                    _remove(folder)
            elif blobs := _blobs(folder):
                held[folder] = sum(blob.stat().st_size for blob in blobs)
        remove_oldest(held, MOST_BYTES - size, RECEIPT, _remove)
        if size > MOST_BYTES or shutil.disk_usage(place).free < 4 * size:
            return None
        return Path(tempfile.mkdtemp(dir=place, prefix=".part-"))
    except OSError:
        return None


def _is_whole(folder: Path) -> bool:
    """Whether a tower is there as it was written."""
    with contextlib.suppress(OSError, ValueError):
        name, digest = (folder / RECEIPT).read_text(encoding="utf-8").split()
        is_alone = [blob.name for blob in _blobs(folder)] == [name]
        return is_alone and file_checksum(folder / name, remember_from_bytes=REMEMBER_FROM_BYTES) == digest
    return False


def _blobs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _BLOB.fullmatch(path.name))


def _remove(folder: Path, but: str = "") -> None:
    """Delete what we and OpenVINO write into such a folder, and the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        if folder.is_symlink():
            return
        for path in folder.iterdir():
            if (path.name in (WANTED, RECEIPT) and path.name != but) or _BLOB.fullmatch(path.name):
                remove_own(path)
        folder.rmdir()
