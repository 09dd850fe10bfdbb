"""Rows files: what a hit shows, found by row id without reading Parquet."""

from __future__ import annotations

import dataclasses
import json
import mmap
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clipsearch.errors import CorruptIndex
from clipsearch.records import ImageRecord, IntArray, PictureMetadata
from clipsearch.store.files import HashingFile

MAGIC = b"CLIPROWS"
FOOTER = struct.Struct("<q8s")


class RowsFile:
    """What a hit shows, by row id: one JSON text per row, then a sorted table of row ids and one of offsets.

    Layout, little-endian: 8 bytes magic, the texts, padding to 8 bytes, int64 row_ids[n] ascending,
    int64 offsets[n + 1], int64 n, 8 bytes magic. The tables come last so that a file of any size is written
    in one pass.
    """

    def __init__(self, path: Path, index_dir: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = len(self._map)
        n, magic = FOOTER.unpack_from(self._map, size - FOOTER.size) if size >= FOOTER.size + 8 else (-1, b"")
        tables_at = size - FOOTER.size - 8 * (2 * n + 1)
        if magic != MAGIC or self._map[:8] != MAGIC or n < 0 or tables_at < 8:
            raise CorruptIndex(path, "it is no rows file", index=index_dir)
        self.row_ids: IntArray = np.frombuffer(self._map, "<i8", n, tables_at)
        self._offsets: IntArray = np.frombuffer(self._map, "<i8", n + 1, tables_at + 8 * n)

    def find(self, row_id: int) -> ImageRecord | None:
        """The record with `row_id`, or None if it is not in this file."""
        at = int(np.searchsorted(self.row_ids, row_id))
        if at == len(self.row_ids) or self.row_ids[at] != row_id:
            return None
        body = json.loads(self._map[int(self._offsets[at]) : int(self._offsets[at + 1])])
        return ImageRecord(**{**body, "row_id": row_id, "metadata": PictureMetadata(**body["metadata"])})


def write_rows(file: HashingFile, records: Iterable[ImageRecord]) -> None:
    """Write what hits show of `records`, which come in the order of their row ids."""
    file.write(MAGIC)
    row_ids, offsets = array("q"), array("q", [file.size_bytes])
    for record in records:
        file.write(_row_text(record))
        row_ids.append(record.row_id)
        offsets.append(file.size_bytes)
    file.write(b" " * (-file.size_bytes % 8))
    file.write(np.array(row_ids, "<i8"))
    file.write(np.array(offsets, "<i8"))
    file.write(FOOTER.pack(len(row_ids), MAGIC))


def _row_text(record: ImageRecord) -> bytes:
    body = {
        "path": record.path,
        "size_bytes": record.size_bytes,
        "mtime_ns": record.mtime_ns,
        "inode": record.inode,
        "content_hash": record.content_hash,
        "width": record.width,
        "height": record.height,
        "metadata": {k: v for k, v in dataclasses.asdict(record.metadata).items() if v is not None},
    }
    return json.dumps(body, separators=(",", ":")).encode("ascii")
