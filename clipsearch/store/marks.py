"""Marks: sets of ids, each with a number, as one small compressed file. Which rows are dead or missing, which vectors
are hidden.

Layout, little-endian: 8 bytes magic; int64 length of a JSON text; that text: for each set its number, the first id, how
many ids it spans and how many bytes follow; then for each set a bit per id, compressed with zlib. A million ids of
which few are set take some hundred bytes.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipsearch.config import reading
from clipsearch.errors import CorruptIndex
from clipsearch.npy import read_array
from clipsearch.records import FileRef, Fragment, IntArray
from clipsearch.store.files import HashingFile, verify_file

MAGIC = b"CLIPMARK"
HEADER = struct.Struct("<q")
LARGEST_SPAN = 1 << 34


def write_marks(file: HashingFile, sets: Mapping[int, IntArray], *, copy: bool = False) -> None:
    """Write sets of ids by their number. Shapes: (N,) int64, ascending without repeating.

    `copy`: differently, so that two files of the same marks have different names.
    """
    parts: list[bytes] = []
    about: list[list[int]] = []
    for number in sorted(sets):
        ids = sets[number]
        if not len(ids):
            continue
        first, span = int(ids[0]), int(ids[-1] - ids[0]) + 1
        bits = np.zeros(span, bool)
        bits[ids - first] = True
        parts.append(zlib.compress(np.packbits(bits).tobytes(), 1))
        about.append([number, first, span, len(parts[-1])])
    text = json.dumps(about).encode("ascii") + b" " * copy
    file.write(MAGIC + HEADER.pack(len(text)) + text)
    for part in parts:
        file.write(part)


def parse_marks(raw: bytes) -> dict[int, IntArray]:
    """Sets of ids by their number. Raises: ValueError."""
    start = len(MAGIC) + HEADER.size
    if len(raw) < start or not raw.startswith(MAGIC):
        raise ValueError("not a file of marks")
    (length,) = HEADER.unpack_from(raw, len(MAGIC))
    if not 0 <= length <= len(raw) - start:
        raise ValueError("its header is damaged")
    at = start + length
    sets: dict[int, IntArray] = {}
    for number, first, span, size in json.loads(raw[start:at]):
        if not 0 < span <= LARGEST_SPAN:
            raise ValueError("its header is damaged")
        try:
            packed = zlib.decompress(raw[at : at + size])
        except zlib.error as error:
            raise ValueError(str(error)) from None
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=span)
        sets[int(number)] = np.flatnonzero(bits) + first
        at += size
    return sets


def read_marks(index_dir: Path, ref: FileRef | None, copy: FileRef | None = None) -> dict[int, IntArray]:
    """The sets of a file of marks by their number, from its copy where it is damaged; none for None.

    Raises: CorruptIndex, StorageError.
    """
    if ref is None:
        return {}
    try:
        return _read_file(index_dir, ref)
    except CorruptIndex:
        if copy is not None:
            with contextlib.suppress(CorruptIndex):  # both are damaged: the first is the one to be told of
                return _read_file(index_dir, copy)
        raise


def dead_rows(index_dir: Path, fragment: Fragment) -> IntArray:
    """The ids of a fragment's dead rows. Shape: (N,) int64, ascending. Raises: CorruptIndex, StorageError."""
    return marked(read_marks(index_dir, fragment.dead, fragment.dead_copy))


def missing_rows(index_dir: Path, fragment: Fragment) -> dict[int, IntArray]:
    """The ids of a fragment's missing rows, by when they were first missed. Raises: CorruptIndex, StorageError."""
    return read_marks(index_dir, fragment.missing, fragment.missing_copy)


def _read_file(index_dir: Path, ref: FileRef) -> dict[int, IntArray]:
    path = verify_file(index_dir, ref)
    try:
        with reading(path), path.open("rb") as file:
            if path.suffix == ".npy":  # format 1: the dead rows of all fragments
                ids: IntArray = read_array(file)
                if ids.dtype != np.int64 or ids.ndim != 1:
                    raise ValueError(f"it holds {ids.dtype} of shape {ids.shape}")
                return {0: ids} if len(ids) else {}
            return parse_marks(file.read())
    except (ValueError, TypeError, struct.error) as error:
        raise CorruptIndex(path, f"not a file of marks ({error})", index=index_dir) from error


def marked(sets: Mapping[int, IntArray]) -> IntArray:
    """All ids of some sets. Shape: (N,) int64, ascending."""
    if len(sets) == 1:
        return next(iter(sets.values()))
    return np.unique(np.concatenate([np.empty(0, np.int64), *sets.values()]))
