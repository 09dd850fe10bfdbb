"""Content hashes (xxh3-128) as numbers, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.filenames import to_bytes
from clipsearch.records import ImageRecord, IntArray


def hash_texts(keys: IntArray) -> list[str]:
    """Content hashes (hexadecimal) of keys. Shape: (N, 2) int64."""
    digits = np.ascontiguousarray(keys, "<i8").tobytes().hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def vector_key(record: ImageRecord) -> str | None:
    """What the vector of a row is known by: the content of its file, and what of it is seen. Hexadecimal."""
    if record.content_hash is None or not record.view:
        return record.content_hash
    return xxhash.xxh3_128_hexdigest(to_bytes(f"{record.content_hash}#{record.view}"))


def part_key(content_hash: str, view: str) -> str:
    """What the words of a part of a file are known by, in hexadecimal: as `Columns.part_hashes` has it of its row."""
    low, high = hash_keys([content_hash])[0].tolist()
    return hash_texts(np.array([[low, high ^ name_key(view)]], np.int64))[0]


def name_key(name: str) -> int:
    """What a member or view is known by in the columns of rows: 0 where there is none."""
    if not name:
        return 0
    key: int = struct.unpack("<q", xxhash.xxh3_64_digest(to_bytes(name)))[0]
    return key or 1


def hash_keys(content_hashes: Iterable[str | None]) -> IntArray:
    """Keys of content hashes (hexadecimal), zeros for None. Shape: (N, 2) int64. Raises: ValueError."""
    texts = [text or "0" * 32 for text in content_hashes]
    raw = bytes.fromhex("".join(texts))
    if len(raw) != 16 * len(texts):
        raise ValueError("a content hash has 32 hexadecimal digits")
    return np.frombuffer(raw, "<i8").reshape(-1, 2)


def among(keys: IntArray, wanted: IntArray) -> npt.NDArray[np.bool_]:
    """Which keys are among some others. Shapes: (N, 2) int64, (M, 2) int64; result (N,)."""
    found: npt.NDArray[np.bool_] = np.isin(keys[:, 0], wanted[:, 0])
    at = np.flatnonzero(found)
    if len(at):  # two hashes may agree in their first half
        known = {key.tobytes() for key in np.ascontiguousarray(wanted, "<i8")}
        found[at] = [key.tobytes() in known for key in np.ascontiguousarray(keys[at], "<i8")]
    return found
