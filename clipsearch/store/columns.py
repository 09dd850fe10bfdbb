"""Columns files: what filters ask of pictures, column by column, so that a million rows are filtered in one go.

Derived from a fragment's records. Names are kept folded (see folding.fold_name): they are for comparing, not showing.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import CorruptIndex
from clipsearch.folding import fold_name
from clipsearch.records import ImageRecord, IntArray
from clipsearch.store.files import HashingFile

MAGIC = b"CLIPCOLS"
FOOTER = struct.Struct("<q8s")
_EPOCH = datetime(1970, 1, 1)
_SEPARATOR = "\0"

# name: dtype and how many numbers a row has
_NUMBERS: dict[str, tuple[str, int]] = {
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
_TYPECODES = {"<i8": "q", "<f8": "d", "<i4": "i"}
_TEXTS = ("folder", "ext", "camera", "name")


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
        return blob.decode("utf-8", "surrogatepass").split(_SEPARATOR)[1:]

    @cached_property
    def names(self) -> list[str]:
        """The file name of each row."""
        return self.texts("name")

    def blobs(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, bytes]]:
        """What is written: columns of numbers, and texts joined."""
        return self._numbers, self._texts


class ColumnsBuilder:
    """Collects the columns of records, which come in the order of their row ids."""

    def __init__(self) -> None:
        self._columns = {
            name: array({"<i8": "q", "<f8": "d", "<i4": "i"}[kind]) for name, (kind, _) in _NUMBERS.items()
        }
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
        for column, text in (
            ("folder", folder),
            ("ext", ext),
            ("camera", fold_name(meta.camera) if meta.camera else None),
        ):
            codes = self._codes[column]
            columns[column].append(-1 if text is None else codes.setdefault(text, len(codes)))
        self._names += (_SEPARATOR + name).encode("utf-8", "surrogatepass")

    def columns(self) -> Columns:
        """What was collected."""
        numbers: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, width) in _NUMBERS.items():
            flat = np.array(self._columns[name], dtype)
            numbers[name] = flat.reshape(-1, width) if width > 1 else flat
        texts = {
            name: "".join(_SEPARATOR + text for text in codes).encode("utf-8", "surrogatepass")
            for name, codes in self._codes.items()
        }
        return Columns(numbers, {**texts, "name": bytes(self._names)})


def build_columns(records: Iterable[ImageRecord]) -> Columns:
    """The columns of records, which come in the order of their row ids."""
    builder = ColumnsBuilder()
    for record in records:
        builder.add(record)
    return builder.columns()


def write_columns(file: HashingFile, columns: Columns) -> None:
    """Layout, little-endian: 8 bytes magic; each column, padded to 8 bytes; a JSON text that says where each is and
    how long; int64 its length; 8 bytes magic. A column of texts is UTF-8, a NUL before each."""
    file.write(MAGIC)
    places: dict[str, tuple[int, int]] = {}
    numbers, texts = columns.blobs()
    parts = [(name, array.tobytes()) for name, array in numbers.items()]
    parts += [(f"{name}.texts", texts[name]) for name in _TEXTS]
    for name, raw in parts:
        places[name] = (file.size_bytes, len(raw))
        file.write(raw)
        file.write(b"\0" * (-len(raw) % 8))
    footer = json.dumps({"rows": len(columns), "columns": places}).encode("ascii")
    file.write(footer)
    file.write(FOOTER.pack(len(footer), MAGIC))


def open_columns(path: Path, index_dir: Path) -> Columns:
    """Map a columns file, which must have been verified. Raises: CorruptIndex."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length, magic = FOOTER.unpack_from(mapped, len(mapped) - FOOTER.size)
        if magic != MAGIC or mapped[:8] != MAGIC or not 0 < length <= len(mapped):
            raise ValueError("it is no columns file")
        footer = json.loads(mapped[-FOOTER.size - length : -FOOTER.size])
        rows, places = footer["rows"], footer["columns"]
        numbers: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, width) in _NUMBERS.items():
            flat = np.frombuffer(mapped, dtype, rows * width, places[name][0])
            numbers[name] = flat.reshape(rows, width) if width > 1 else flat
        texts = {name: mapped[at : at + size] for name in _TEXTS for at, size in [places[f"{name}.texts"]]}
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CorruptIndex(path, f"it is no columns file ({error})", index=index_dir) from error
    return Columns(numbers, texts)
