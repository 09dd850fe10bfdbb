"""Rows files: all that queries and later runs ask of a fragment's records, without Parquet.

Layout, little-endian: 8 bytes magic; a JSON text for each row, padded to 8 bytes; the columns (see store.columns), each
padded to 8 bytes; a JSON text that says where each column is, and how long; int64 its length; 8 bytes magic. Pictures
come first, by ascending row id, then the rows of skipped files, so that what is searched is a stretch of every column.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import struct
from array import array
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clipsearch.config import reading
from clipsearch.errors import CorruptIndex
from clipsearch.records import Fragment, ImageRecord, IntArray, PictureMetadata
from clipsearch.store.columns import FILTER_NUMBERS, Columns, ColumnsBuilder, build_columns, is_written, read_columns
from clipsearch.store.files import HashingFile, verify_file
from clipsearch.store.marks import dead_rows, marked, missing_rows

MAGIC = b"CLIPROW2"
LEGACY_MAGIC = b"CLIPROWS"
LEGACY_COLUMNS_MAGIC = b"CLIPCOLS"
FOOTER = struct.Struct("<q8s")
BoolArray = npt.NDArray[np.bool_]

Batches = Callable[[], Iterable[list[ImageRecord]]]

_RECORD_FIELDS = {field.name: field for field in dataclasses.fields(ImageRecord)}


class RowsFile:
    """A rows file, mapped. It must have been verified before it is opened here. Raises: CorruptIndex."""

    def __init__(self, path: Path, index_dir: Path) -> None:
        self.path = path
        try:
            self._map = _mapped(path)
            footer = _footer(self._map, MAGIC)
            rows, self.pictures, places = footer["rows"], footer["pictures"], footer["columns"]
            self._all = read_columns(rows, *_columns_in(self._map, places))
            self._offsets = np.frombuffer(self._map, "<i8", rows + 1, places["offsets"][0])
            self.by_vector: npt.NDArray[np.int32] = np.frombuffer(
                self._map, "<i4", self.pictures, places["by_vector"][0]
            )
            self.in_order: bool = footer["in_order"]  # the pictures' vector ids ascend as their row ids do
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise CorruptIndex(path, f"not a rows file ({error})", index=index_dir) from error
        self._places = places

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def all_columns(self) -> Columns:
        """The columns of all rows: pictures first, then skipped files."""
        return self._all

    @cached_property
    def columns(self) -> Columns:
        """The columns of the pictures, by ascending row id."""
        return self._all.first(self.pictures)

    def number(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers over all rows (see store.columns.NUMBERS)."""
        return self._all.blobs()[0][name]

    def load(self, name: str, out: npt.NDArray[Any]) -> None:
        """Read a column of numbers into `out`, of its shape and type, without a page of the file being mapped.

        Raises: CorruptIndex, StorageError.
        """
        if name not in self._places:  # a file from before there was the column
            out[:] = self.number(name)
            return
        at, size = self._places[name]
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            file.seek(at)
            whole = out.reshape(-1).view(np.uint8)
            done = 0
            while done < size:
                length = file.readinto(cast(Any, whole[done:size]))
                if not length:
                    raise CorruptIndex(self.path, "it is cut short")
                done += length

    def position(self, row_id: int) -> int | None:
        """Where a row is, or None."""
        row_ids = self._all.row_ids
        for start, stop in ((0, self.pictures), (self.pictures, len(self))):
            at = start + int(np.searchsorted(row_ids[start:stop], row_id))
            if at < stop and row_ids[at] == row_id:
                return at
        return None

    def record(self, position: int) -> ImageRecord:
        """The record at a position."""
        at = int(position)
        body = json.loads(self._map[int(self._offsets[at]) : int(self._offsets[at + 1])])
        version = self._all.blobs()[0].get("metadata_version")
        return _record(body, int(self._all.row_ids[at]), 0 if version is None else int(version[at]))

    def says(self, position: int, record: ImageRecord) -> bool:
        """Whether `record` is what is at a position, but for its row id."""
        if not 0 <= position < len(self):
            return False
        text = self._map[int(self._offsets[position]) : int(self._offsets[position + 1])]
        return text == _text(record) or self.record(position) == record

    def release(self) -> None:
        """Let go of the pages that were read: of a mapped file they count as memory in use."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def records(self, positions: Iterable[int]) -> list[ImageRecord]:
        """The records at some positions."""
        return [self.record(at) for at in positions]

    def find(self, row_id: int) -> ImageRecord | None:
        """The record with `row_id`, or None if it is not in this file."""
        at = self.position(row_id)
        return None if at is None else self.record(at)


class LegacyRowsFile(RowsFile):
    """A rows file and a columns file of format 1, read as if they were one of format 2. It holds pictures only."""

    def __init__(self, path: Path, index_dir: Path, columns: Path | None) -> None:
        self.path = path
        try:
            self._map = _mapped(path)
            size = len(self._map)
            n, magic = FOOTER.unpack_from(self._map, size - FOOTER.size)
            tables_at = size - FOOTER.size - 8 * (2 * n + 1)
            if magic != LEGACY_MAGIC or self._map[:8] != LEGACY_MAGIC or n < 0 or tables_at < 8:
                raise ValueError("its header or size is wrong")
            row_ids = np.frombuffer(self._map, "<i8", n, tables_at)
            self._offsets = np.frombuffer(self._map, "<i8", n + 1, tables_at + 8 * n)
            self.pictures = n
            self.by_vector = np.arange(n, dtype=np.int32)
            self.in_order = True
            if columns is None:  # made before there were filters
                self._all = Columns({"row_id": row_ids}, {})
                self._all = build_columns(self.records(range(n)))
            else:
                self._all = _legacy_columns(columns)
            self._all.blobs()[0].setdefault("vector_id", row_ids)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise CorruptIndex(path, f"not a rows file ({error})", index=index_dir) from error

    def load(self, name: str, out: npt.NDArray[Any]) -> None:
        out[:] = self.number(name)

    def record(self, position: int) -> ImageRecord:
        record = super().record(position)
        return dataclasses.replace(record, vector_id=record.row_id)


def open_rows(index_dir: Path, fragment: Fragment, *, verified: bool = False) -> RowsFile:
    """Open the rows of a fragment, of either format. Raises: CorruptIndex, StorageError."""
    ref = fragment.rows_file
    assert ref is not None
    path = index_dir / ref.path if verified else verify_file(index_dir, ref)
    with reading(path), path.open("rb") as file:
        legacy = file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC
    if not legacy:
        return RowsFile(path, index_dir)
    columns = fragment.columns_file
    return LegacyRowsFile(path, index_dir, None if columns is None else verify_file(index_dir, columns))


class LiveRows:
    """The rows of a fragment, and which of its pictures are answered."""

    def __init__(self, file: RowsFile, gone: IntArray, *, has_views: bool = False, has_regions: bool = False) -> None:
        """`gone`: row ids that are dead or missing. Shape: (G,) int64, ascending.

        `has_views`: some files have several rows. `has_regions`: what follows the row of a whole picture is a part of
        it, which is found with it and is no picture.
        """
        self.file = file
        self._gone = gone
        self.has_views = has_views
        self._has_regions = has_views and has_regions

    @cached_property
    def are_regions(self) -> BoolArray:
        """Which rows are regions of pictures. Shape: (N,) bool."""
        columns = self.file.columns
        return columns.are_behind_wholes if self._has_regions else np.zeros(len(columns), bool)

    @cached_property
    def _regions_behind(self) -> IntArray:
        """How many regions follow each row. Shape: (N,) int64."""
        columns = self.file.columns
        counts: IntArray = np.bincount(columns.firsts[self.are_regions], minlength=len(columns)).astype(np.int64)
        return counts

    @cached_property
    def alive(self) -> BoolArray:
        """Of each row, whether it is answered, and no region of a picture. Shape: (N,) bool, in the order of the
        columns."""
        return self.there & ~self.are_regions if self._has_regions else self.there

    @cached_property
    def there(self) -> BoolArray:
        """As `alive`, with the regions of pictures."""
        row_ids = self.file.columns.row_ids
        if not len(self._gone):
            return np.ones(len(row_ids), bool)
        return ~np.isin(row_ids, self._gone, assume_unique=True)

    def row_ids(self) -> IntArray:
        """Of the pictures that are answered. Shape: (N,) int64, ascending."""
        row_ids = self.file.columns.row_ids
        return row_ids[self.alive] if len(self._gone) or self._has_regions else row_ids

    def files_of(self, positions: IntArray) -> IntArray:
        """What the files of some pictures are known by: the row id of the first row of each. Shapes: (N,) int64."""
        row_ids = self.file.columns.row_ids
        found: IntArray = row_ids[self.file.columns.firsts[positions]] if self.has_views else row_ids[positions]
        return found

    def wholes_of(self, positions: IntArray) -> IntArray:
        """The row ids of some rows; of a region, that of its picture. Shapes: (N,) int64."""
        columns = self.file.columns
        if not self._has_regions:
            return columns.row_ids[positions]
        return columns.row_ids[np.where(self.are_regions[positions], columns.firsts[positions], positions)]

    def regions_of(self, row_ids: IntArray) -> tuple[IntArray, IntArray]:
        """The regions of some pictures: which of these each is of, and its row id. Shapes: row_ids (N,) int64; both
        results (R,)."""
        own = self.file.columns.row_ids
        if not self._has_regions or not len(own):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(own, row_ids), len(own) - 1)
        which = np.flatnonzero(own[at] == row_ids)
        at = at[which]
        lengths = self._regions_behind[at]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        which, found = np.repeat(which, lengths), own[np.repeat(at, lengths) + 1 + within]
        kept = ~np.isin(found, self._gone)
        return which[kept], found[kept]

    @cached_property
    def starts(self) -> BoolArray:
        """Of each picture, whether it is answered, and the first row of its file. Shape: (N,) bool."""
        starts: BoolArray = self.alive & self.file.columns.starts if self.has_views else self.alive
        return starts

    def is_gone(self, row_id: int) -> bool:
        """Whether a row is dead or missing."""
        at = int(np.searchsorted(self._gone, row_id))
        return at < len(self._gone) and bool(self._gone[at] == row_id)

    @cached_property
    def _by_vector(self) -> IntArray:
        """Vector ids of the pictures, ascending; the same order as `file.by_vector`."""
        found: IntArray = self.file.number("vector_id")[: self.file.pictures][self.file.by_vector]
        return found

    def of_vectors(self, vector_ids: IntArray) -> tuple[IntArray, IntArray]:
        """The answered pictures that have some vectors: which of `vector_ids` (by number), and their positions.

        Shapes: vector_ids (V,) int64; both results (R,). A vector may have none, or several.
        """
        count = self.file.pictures
        if not count:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        vectors, order = self.file.number("vector_id")[:count], self.file.by_vector
        if self.file.in_order:
            first, last = np.searchsorted(vectors, vector_ids, "left"), np.searchsorted(vectors, vector_ids, "right")
        elif len(vector_ids) <= _FEW < count:  # do not touch all pages of a large file for a few hits
            view = _Sorted(vectors, order)
            first = np.array([view.left(int(v)) for v in vector_ids], np.int64)
            last = np.array([view.right(int(v), int(at)) for v, at in zip(vector_ids, first, strict=True)], np.int64)
        else:
            first = np.searchsorted(self._by_vector, vector_ids, "left")
            last = np.searchsorted(self._by_vector, vector_ids, "right")
        lengths = last - first
        which = np.repeat(np.arange(len(vector_ids)), lengths)
        within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        positions = order[np.repeat(first, lengths) + within].astype(np.int64)
        if len(self._gone) and len(positions):
            row_ids = self.file.columns.row_ids[positions]
            kept = ~np.isin(row_ids, self._gone)
            which, positions = which[kept], positions[kept]
        return which, positions


_FEW = 512


class _Sorted:
    """Binary search in vectors[order], which is not made."""

    def __init__(self, vectors: IntArray, order: npt.NDArray[np.int32]) -> None:
        self._vectors = vectors
        self._order = order

    def left(self, wanted: int) -> int:
        low, high = 0, len(self._order)
        while low < high:
            middle = (low + high) // 2
            if self._vectors[self._order[middle]] < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def right(self, wanted: int, start: int) -> int:
        at = start
        while at < len(self._order) and self._vectors[self._order[at]] == wanted:
            at += 1
        return at


def open_live_rows(
    index_dir: Path, fragment: Fragment, *, verified: bool = False, missing: bool = False, has_regions: bool = False
) -> LiveRows:
    """Open the rows of a fragment with its marks. With `missing`, rows whose files cannot be seen are answered, too.
    `has_regions`: whether the index has any (ModelRef.regions).

    Raises: CorruptIndex, StorageError.
    """
    gone = dead_rows(index_dir, fragment)
    if not missing:
        gone = np.union1d(gone, marked(missing_rows(index_dir, fragment)))
    rows = open_rows(index_dir, fragment, verified=verified)
    return LiveRows(rows, gone, has_views=fragment.views > 0, has_regions=has_regions)


# -- writing


def write_rows(file: HashingFile, batches: Batches) -> bool:
    """Write the rows of records, which `batches` yields by ascending row id, again at each call. Whether any is a part
    of a Live Photo."""
    file.write(MAGIC)
    builder = ColumnsBuilder()
    offsets = array("q", [file.size_bytes])
    pictures = 0
    for wanted in (True, False):
        for records in batches():
            for record in records:
                if (record.status == "ok") is wanted:
                    file.write(_text(record))
                    offsets.append(file.size_bytes)
                    builder.add(record)
                    pictures += wanted
    file.write(b" " * (-file.size_bytes % 8))
    columns = builder.columns()
    numbers, texts = columns.blobs()
    places: dict[str, tuple[int, int]] = {}
    by_vector = np.argsort(numbers["vector_id"][:pictures], kind="stable").astype("<i4")
    parts: list[tuple[str, bytes | memoryview]] = [
        (name, column.tobytes()) for name, column in numbers.items() if is_written(name, column)
    ]
    parts += [(f"{name}.texts", blob) for name, blob in texts.items()]
    parts += [("offsets", np.array(offsets, "<i8").tobytes()), ("by_vector", by_vector.tobytes())]
    for name, raw in parts:
        places[name] = (file.size_bytes, len(raw))
        file.write(raw)
        file.write(b"\0" * (-len(raw) % 8))
    in_order = bool((np.diff(numbers["vector_id"][:pictures]) >= 0).all())
    about = {"rows": len(offsets) - 1, "pictures": pictures, "in_order": in_order, "columns": places}
    footer = json.dumps(about).encode("ascii")
    file.write(footer)
    file.write(FOOTER.pack(len(footer), MAGIC))
    return "live" in places


def _text(record: ImageRecord) -> bytes:
    """A record as JSON without what has its default; its row id and version are among the columns."""
    body = {
        name: value
        for name, field in _RECORD_FIELDS.items()
        if name not in ("row_id", "metadata", "metadata_version") and (value := getattr(record, name)) != field.default
    }
    about = {
        name: value
        for field in dataclasses.fields(PictureMetadata)
        for name in [field.name]
        if (value := getattr(record.metadata, name)) != field.default
    }
    if about:
        body["metadata"] = about
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def _record(body: dict[str, Any], row_id: int, metadata_version: int) -> ImageRecord:
    """The reverse of `_text`. Fields of later versions are passed over."""
    metadata = PictureMetadata.from_dict(body.pop("metadata", {}))
    known = {name: value for name, value in body.items() if name in _RECORD_FIELDS}
    own = {"row_id": row_id, "metadata_version": metadata_version, "metadata": metadata}
    return ImageRecord(**{**known, **own})


# -- reading


def _mapped(path: Path) -> mmap.mmap:
    with reading(path), path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _footer(mapped: mmap.mmap, magic: bytes) -> dict[str, Any]:
    length, last = FOOTER.unpack_from(mapped, len(mapped) - FOOTER.size)
    if last != magic or mapped[: len(magic)] != magic or not 0 < length <= len(mapped):
        raise ValueError("its header is wrong")
    return cast(dict[str, Any], json.loads(mapped[-FOOTER.size - length : -FOOTER.size]))


def _legacy_columns(path: Path) -> Columns:
    mapped = _mapped(path)
    footer = _footer(mapped, LEGACY_COLUMNS_MAGIC)
    return read_columns(footer["rows"], *_columns_in(mapped, footer["columns"]), wanted=FILTER_NUMBERS)


def _columns_in(
    mapped: mmap.mmap, places: dict[str, list[int]]
) -> tuple[Callable[[str, str, int], npt.NDArray[Any] | None], Callable[[str], memoryview | None]]:
    """What reads the columns of a file, for `read_columns`."""

    def number(name: str, dtype: str, count: int) -> npt.NDArray[Any] | None:
        return np.frombuffer(mapped, dtype, count, places[name][0]) if name in places else None

    whole = memoryview(mapped)  # texts are not copied before somebody asks for them

    def text(name: str) -> memoryview | None:
        place = places.get(f"{name}.texts")
        return None if place is None else whole[place[0] : place[0] + place[1]]

    return number, text
