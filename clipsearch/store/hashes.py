"""Content hashes (xxh3-128) as numbers, and back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
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


def hash_keys(content_hashes: Iterable[str | None]) -> IntArray:
    """Keys of content hashes (hexadecimal), zeros for None. Shape: (N, 2) int64. Raises: ValueError."""
    texts = [text or "0" * 32 for text in content_hashes]
    raw = bytes.fromhex("".join(texts))
    if len(raw) != 16 * len(texts):
        raise ValueError("a content hash has 32 hexadecimal digits")
    return np.frombuffer(raw, "<i8").reshape(-1, 2)
