"""Columns: what filters and later runs ask of rows, column by column, so that a million rows are looked through in one
go.

Derived from a fragment's records. Names are kept folded (see folding.fold_name): they are for comparing, not showing.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.filenames import to_bytes
from clipsearch.folding import fold_name
from clipsearch.records import SKIP_STATUSES, ImageRecord, IntArray, Status

_EPOCH = datetime(1970, 1, 1)
SEPARATOR = "\0"
STATUSES: tuple[Status, ...] = ("ok", *SKIP_STATUSES)
"""Stored by their number: new ones go to the end."""

# name: dtype and how many numbers a row has
FILTER_NUMBERS: dict[str, tuple[str, int]] = {
    "row_id": ("<i8", 1),
    "hash": ("<i8", 2),  # xxh3-128 of the content; 0, 0 where it is not known
    "date_us": ("<i8", 1),  # see date_of
    "size_bytes": ("<i8", 1),
    "latitude": ("<f8", 1),  # degrees, NaN where it is not known
    "longitude": ("<f8", 1),
    "width": ("<i4", 1),  # 0 where it is not known
    "height": ("<i4", 1),
    "folder": ("<i4", 1),  # number of the text, -1 where there is none
    "ext": ("<i4", 1),
    "camera": ("<i4", 1),
}
RUN_NUMBERS: dict[str, tuple[str, int]] = {
    "vector_id": ("<i8", 1),  # -1: none
    "path": ("<i8", 2),  # xxh3-128 of the path's bytes
    "mtime_ns": ("<i8", 1),
    "inode": ("<u8", 1),
    "status": ("<u1", 1),  # number of its status
    "attempts": ("<u1", 1),
    "sidecars": ("<i4", 1),
    "metadata_version": ("<u1", 1),
}
LATER = ("sidecars", "metadata_version")
"""Columns that older files of this format lack: they are zero there."""
NUMBERS = FILTER_NUMBERS | RUN_NUMBERS
TEXTS = ("folder", "ext", "camera", "name")
_TYPECODES = {"<i8": "q", "<u8": "Q", "<f8": "d", "<i4": "i", "<u1": "B"}


def path_key(path: str) -> bytes:
    """What a path is known by among the rows of an index: 16 bytes."""
    return xxhash.xxh3_128_digest(to_bytes(path))


def date_of(record: ImageRecord) -> int:
    """When a picture was taken by its camera's clock, else when its file last changed, UTC. Microseconds since 1970."""
    if record.metadata.taken_at is not None:
        try:
            taken = datetime.fromisoformat(record.metadata.taken_at)
        except ValueError:
            pass
        else:
            if taken.tzinfo is not None:
                taken = taken.astimezone(UTC).replace(tzinfo=None)
            passed = taken - _EPOCH
            return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
    return record.mtime_ns // 1000


def split_path(path: str) -> tuple[str, str, str]:
    """Folder (empty for the collection's own), name and extension (without its dot) of a record's path, folded."""
    folder, _, name = fold_name(path).rpartition("/")
    stem, dot, ext = name.rpartition(".")
    return folder, name, ext if dot and stem else ""


class Columns:
    """The columns of a fragment's pictures, by row, in the order of their row ids."""

    def __init__(self, numbers: dict[str, npt.NDArray[Any]], texts: dict[str, bytes]) -> None:
        self._numbers = numbers
        self._texts = texts

    def __len__(self) -> int:
        return len(self._numbers["row_id"])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Columns)
            and self._texts == other._texts
            and all(array.tobytes() == other._numbers[name].tobytes() for name, array in self._numbers.items())
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def row_ids(self) -> IntArray:
        """Shape: (N,) int64, ascending."""
        return self._numbers["row_id"]

    @property
    def hashes(self) -> IntArray:
        """Shape: (N, 2) int64."""
        return self._numbers["hash"]

    @property
    def dates_us(self) -> IntArray:
        """Shape: (N,) int64."""
        return self._numbers["date_us"]

    def whole(self, name: str) -> IntArray:
        """A column of whole numbers: size_bytes, width, height or date_us. Shape: (N,)."""
        return self._numbers[name]

    def degrees(self, name: str) -> npt.NDArray[np.float64]:
        """latitude or longitude. Shape: (N,) float64."""
        return self._numbers[name]

    def codes(self, name: str) -> IntArray:
        """Of each row's folder, ext or camera, the number in `texts(name)`, or -1. Shape: (N,)."""
        return self._numbers[name]

    def texts(self, name: str) -> list[str]:
        """The different folders, exts or cameras."""
        blob = self._texts[name]
        return blob.decode("utf-8", "surrogatepass").split(SEPARATOR)[1:]

    @cached_property
    def names(self) -> list[str]:
        """The file name of each row."""
        return self.texts("name")[: len(self)]

    def first(self, rows: int) -> Columns:
        """The first rows only."""
        return Columns({name: column[:rows] for name, column in self._numbers.items()}, self._texts)

    def blobs(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, bytes]]:
        """What is written: columns of numbers, and texts joined."""
        return self._numbers, self._texts


class ColumnsBuilder:
    """Collects the columns of records."""

    def __init__(self) -> None:
        self._columns = {name: array(_TYPECODES[kind]) for name, (kind, _) in NUMBERS.items()}
        self._codes: dict[str, dict[str, int]] = {name: {} for name in ("folder", "ext", "camera")}
        self._names = bytearray()

    def add(self, record: ImageRecord) -> None:
        """Take the next record."""
        columns: dict[str, Any] = self._columns
        meta = record.metadata
        folder, name, ext = split_path(record.path)
        columns["row_id"].append(record.row_id)
        raw = bytes.fromhex(record.content_hash) if record.content_hash is not None else bytes(16)
        columns["hash"].extend(struct.unpack("<2q", raw))
        columns["date_us"].append(date_of(record))
        columns["size_bytes"].append(record.size_bytes)
        columns["latitude"].append(math.nan if meta.latitude is None else meta.latitude)
        columns["longitude"].append(math.nan if meta.longitude is None else meta.longitude)
        columns["width"].append(record.width or 0)
        columns["height"].append(record.height or 0)
        columns["vector_id"].append(record.vector_id)
        columns["path"].extend(struct.unpack("<2q", path_key(record.path)))
        columns["mtime_ns"].append(record.mtime_ns)
        columns["inode"].append(record.inode)
        columns["status"].append(STATUSES.index(record.status))
        columns["attempts"].append(min(record.attempts, 255))
        columns["sidecars"].append(record.sidecars)
        columns["metadata_version"].append(record.metadata_version)
        for column, text in (
            ("folder", folder),
            ("ext", ext),
            ("camera", fold_name(meta.camera) if meta.camera else None),
        ):
            codes = self._codes[column]
            columns[column].append(-1 if text is None else codes.setdefault(text, len(codes)))
        self._names += (SEPARATOR + name).encode("utf-8", "surrogatepass")

    def columns(self) -> Columns:
        """What was collected, with the columns that runs ask beside those of filters."""
        numbers: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, width) in NUMBERS.items():
            flat = np.array(self._columns[name], dtype)
            numbers[name] = flat.reshape(-1, width) if width > 1 else flat
        texts = {
            name: "".join(SEPARATOR + text for text in codes).encode("utf-8", "surrogatepass")
            for name, codes in self._codes.items()
        }
        return Columns(numbers, {**texts, "name": bytes(self._names)})


def build_columns(records: Iterable[ImageRecord]) -> Columns:
    """The columns of records, which come in the order of their row ids."""
    builder = ColumnsBuilder()
    for record in records:
        builder.add(record)
    return builder.columns()
