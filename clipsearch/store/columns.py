"""Columns: what filters and later runs ask of rows, column by column, so that a million rows are looked through in one
go.

Derived from a fragment's records. Names are kept folded (see folding.fold_name): they are for comparing, not showing.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.filenames import to_bytes
from clipsearch.folding import fold_name
from clipsearch.records import SKIP_STATUSES, ImageRecord, IntArray, PictureMetadata, Status
from clipsearch.store.hashes import name_key

_EPOCH = datetime(1970, 1, 1)
SEPARATOR = "\0"
CODES = "<i4"  # the dtype of the numbers of texts
STATUSES: tuple[Status, ...] = ("ok", *SKIP_STATUSES)
"""Stored by their number: new ones go to the end."""
_STATUS_NUMBERS = {status: number for number, status in enumerate(STATUSES)}


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


def split_path(path: str) -> NameParts:
    """Folder (empty for the collection's own), name and extension (without its dot) of a record's place, folded."""
    folder, _, name = fold_name(path).rpartition("/")
    stem, dot, ext = name.rpartition(".")
    return NameParts(folder, name, ext if dot and stem else "")


class NumberColumn(NamedTuple):
    """A column of numbers. `unknown` stands for what is not known, also in files that were written before there was
    the column; None where it is always known. One that is `sparse` is written only where a row has something else."""

    dtype: str
    of: Callable[[ImageRecord], Any]  # what a record has in it
    width: int = 1  # how many numbers a row has
    unknown: float | None = None
    sparse: bool = False


class TextColumn(NamedTuple):
    """A column of texts, of which each is kept once, folded: a row has its number, or -1 where there is none."""

    of: Callable[[ImageRecord, NameParts], str | None]


class ListColumn(NamedTuple):
    """A column of any number of texts a row, each of which is kept once, folded: a row has how many it has, and the
    numbers of all rows' texts stand one behind the other."""

    of: Callable[[ImageRecord], Collection[str]]


class NameParts(NamedTuple):
    """What `split_path` gives."""

    folder: str
    name: str
    ext: str


TEXT_COLUMNS: dict[str, TextColumn] = {
    "folder": TextColumn(lambda record, parts: parts.folder),
    "ext": TextColumn(lambda record, parts: parts.ext),
    "camera": TextColumn(lambda record, parts: _folded(record.metadata.camera)),
}
LIST_COLUMNS: dict[str, ListColumn] = {
    "keyword": ListColumn(lambda record: record.metadata.keywords),
    "person": ListColumn(lambda record: record.metadata.people),
    "caption": ListColumn(lambda record: _written(record.metadata)),
    "column": ListColumn(lambda record: record.metadata.columns),
}
COUNTS = "<u2"  # the dtype of how many texts rows have in these
FILTER_NUMBERS: dict[str, NumberColumn] = {
    "row_id": NumberColumn("<i8", attrgetter("row_id")),
    "hash": NumberColumn("<i8", lambda record: _halves(record.content_hash), width=2),  # of the content; 0, 0: unknown
    "date_us": NumberColumn("<i8", date_of),
    "size_bytes": NumberColumn("<i8", attrgetter("size_bytes")),
    "latitude": NumberColumn("<f8", lambda record: _degrees(record.metadata.latitude), unknown=math.nan),
    "longitude": NumberColumn("<f8", lambda record: _degrees(record.metadata.longitude), unknown=math.nan),
    "width": NumberColumn("<i4", lambda record: record.width or 0, unknown=0),
    "height": NumberColumn("<i4", lambda record: record.height or 0, unknown=0),
    "traits": NumberColumn("<i4", attrgetter("traits"), unknown=0),
    "colors": NumberColumn("<i4", attrgetter("colors"), unknown=0),
    "perceptual_hash": NumberColumn("<i8", attrgetter("perceptual_hash"), unknown=0),
    "rating": NumberColumn("<i1", lambda record: record.metadata.rating or 0, unknown=0),
}
RUN_NUMBERS: dict[str, NumberColumn] = {
    "vector_id": NumberColumn("<i8", attrgetter("vector_id")),  # -1: none
    "path": NumberColumn("<i8", lambda record: struct.unpack("<2q", path_key(record.path)), width=2),
    "mtime_ns": NumberColumn("<i8", attrgetter("mtime_ns")),
    "inode": NumberColumn("<u8", attrgetter("inode")),
    "status": NumberColumn("<u1", lambda record: _STATUS_NUMBERS[record.status]),
    "attempts": NumberColumn("<u1", lambda record: record.attempts if record.attempts < 255 else 255),
    "sidecars": NumberColumn("<i4", attrgetter("sidecars"), unknown=0),
    "metadata_version": NumberColumn("<u1", attrgetter("metadata_version"), unknown=0),
    "member": NumberColumn("<i8", lambda record: name_key(record.member), unknown=0, sparse=True),  # 0: none
    "view": NumberColumn("<i8", lambda record: name_key(record.view), unknown=0, sparse=True),  # 0: the whole file
    "archive_bytes": NumberColumn("<i8", attrgetter("archive_bytes"), unknown=0, sparse=True),
    "archive_rows": NumberColumn("<i4", attrgetter("archive_rows"), unknown=0, sparse=True),
    "live": NumberColumn("<i8", lambda record: name_key(record.metadata.live or ""), unknown=0, sparse=True),  # 0: none
}
NUMBERS = FILTER_NUMBERS | RUN_NUMBERS
_TYPECODES = {"<i8": "q", "<u8": "Q", "<f8": "d", "<i4": "i", "<i1": "b", "<u1": "B"}
SEQUENCES = ("name", *(f"{name}.codes" for name in LIST_COLUMNS))
"""Which of the texts go from row to row."""


def _folded(text: str | None) -> str | None:
    return fold_name(text) if text else None


def _written(metadata: PictureMetadata) -> Collection[str]:
    if metadata.title is None and metadata.caption is None:
        return ()
    return (*filter(None, [metadata.title]), *(metadata.caption or "").splitlines())


def _degrees(value: float | None) -> float:
    return math.nan if value is None else value


def _halves(content_hash: str | None) -> tuple[int, ...]:
    return (0, 0) if content_hash is None else struct.unpack("<2q", bytes.fromhex(content_hash))


class Columns:
    """The columns of a fragment's pictures, by row, in the order of their row ids."""

    def __init__(
        self, numbers: dict[str, npt.NDArray[Any]], texts: Mapping[str, bytes | memoryview], place: str = ""
    ) -> None:
        """`place`: see `moved`."""
        self._numbers = numbers
        self._texts = texts
        self._place = place

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

    def positions(self, ids: IntArray) -> IntArray:
        """Where those of some pictures that are here are. Shapes: ids (N,) int64, ascending; (M,) int64."""
        own = self.row_ids
        at = np.searchsorted(own, ids)
        at = at[: np.searchsorted(at, len(own))]
        found: IntArray = at[own[at] == ids[: len(at)]]
        return found

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

    @cached_property
    def starts(self) -> npt.NDArray[np.bool_]:
        """Of each row, whether it is the first of its file, or of its member of an archive. Shape: (N,) bool.

        All rows of a file follow each other.
        """
        same = np.zeros(len(self), bool)
        paths, members = self._numbers["path"], self._numbers["member"]
        same[1:] = (paths[1:] == paths[:-1]).all(axis=1) & (members[1:] == members[:-1])
        return ~same

    @cached_property
    def firsts(self) -> IntArray:
        """Of each row, where the first row of its file is. Shape: (N,) int64."""
        firsts: IntArray = np.flatnonzero(self.starts)[np.cumsum(self.starts) - 1]
        return firsts

    @cached_property
    def are_behind_wholes(self) -> npt.NDArray[np.bool_]:
        """Which rows are parts of a file that follow the row of the whole of it. Shape: (N,) bool."""
        views = self._numbers.get("view")
        if views is None or not (in_part := views != 0).any():
            return np.zeros(len(self), bool)
        found: npt.NDArray[np.bool_] = in_part & ~in_part[self.firsts]
        return found

    @cached_property
    def part_hashes(self) -> IntArray:
        """Of each row what `store.hashes.part_key` gives: its content hash, if it is a whole file. Shape: (N, 2)."""
        views = self._numbers.get("view")
        if views is None:
            return self.hashes
        return np.stack([self.hashes[:, 0], self.hashes[:, 1] ^ views], axis=1)

    @property
    def numbers(self) -> Mapping[str, npt.NDArray[Any]]:
        """All columns of numbers, by name."""
        return self._numbers

    def degrees(self, name: str) -> npt.NDArray[np.float64]:
        """latitude or longitude. Shape: (N,) float64."""
        return self._numbers[name]

    def codes(self, name: str) -> IntArray:
        """Of each row's folder, ext or camera, the number in `texts(name)`, or -1. Shape: (N,)."""
        return self._numbers[name]

    def texts(self, name: str) -> list[str]:
        """The different folders, exts or cameras, or texts of a column of lists."""
        return str(self._texts[name], "utf-8", "surrogatepass").split(SEPARATOR)[1:]

    def having(self, name: str, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which rows have a chosen text in a column of lists. Shapes: chosen (T,), by the number in `texts(name)`;
        result (N,)."""
        counts = self._numbers[name]
        ends = np.cumsum(counts, dtype=np.int64)
        codes = np.frombuffer(self._texts[f"{name}.codes"], CODES, int(ends[-1]) if len(ends) else 0)
        if not len(codes) or not chosen.any():
            return np.zeros(len(self), bool)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen[codes], dtype=np.int64)])
        found: npt.NDArray[np.bool_] = before[ends] > before[ends - counts]
        return found

    def listed(self, name: str, at: IntArray) -> tuple[IntArray, IntArray]:
        """The texts that some rows have in a column of lists: which of the rows, and the number in `texts(name)`.

        Shapes: at (M,) positions; both results (L,).
        """
        counts = self._numbers[name].astype(np.int64)
        ends = np.cumsum(counts)
        codes = np.frombuffer(self._texts[f"{name}.codes"], CODES)
        lengths = counts[at]
        which = np.repeat(np.arange(len(at)), lengths)
        within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found: IntArray = codes[np.repeat((ends - counts)[at], lengths) + within]
        return which, found

    def joined(self, name: str) -> bytes | memoryview:
        """All of `texts(name)` in UTF-8, each behind a SEPARATOR."""
        return self._texts[name]

    @cached_property
    def names(self) -> list[str]:
        """The file name of each row."""
        return self.texts("name")[: len(self)]

    def moved(self, by: int, place: str) -> Columns:
        """The same with row ids raised by a number, for a search of several indexes; `place` is the folded folder that
        theirs lie in."""
        return Columns({**self._numbers, "row_id": self.row_ids + by}, self._texts, place)

    def placed(self, folder: str) -> str:
        """A folded folder within all that is searched."""
        return "/".join(filter(None, (self._place, folder))) if self._place else folder

    def first(self, rows: int) -> Columns:
        """The first rows only."""
        return Columns({name: column[:rows] for name, column in self._numbers.items()}, self._texts, self._place)

    def blobs(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, bytes | memoryview]]:
        """What is written: columns of numbers, and texts joined."""
        return self._numbers, self._texts


class ColumnsBuilder:
    """Collects the columns of records."""

    def __init__(self) -> None:
        self._numbers = {name: array(_TYPECODES[column.dtype]) for name, column in NUMBERS.items()}
        self._single = [(self._numbers[name].append, c.of) for name, c in NUMBERS.items() if c.width == 1]
        self._several = [(self._numbers[name].extend, c.of) for name, c in NUMBERS.items() if c.width > 1]
        self._codes = {name: array("i") for name in TEXT_COLUMNS}
        self._known: dict[str, dict[str, int]] = {name: {} for name in TEXT_COLUMNS}
        self._texts = [(self._codes[name].append, self._known[name], c.of) for name, c in TEXT_COLUMNS.items()]
        self._counts = {name: array("H") for name in LIST_COLUMNS}
        self._listed = {name: array("i") for name in LIST_COLUMNS}
        self._known |= {name: {} for name in LIST_COLUMNS}
        self._lists = [
            (self._counts[name].append, self._listed[name].append, self._known[name], c.of)
            for name, c in LIST_COLUMNS.items()
        ]
        self._names = bytearray()

    def add(self, record: ImageRecord) -> None:
        """Take the next record."""
        parts = split_path(record.place)
        for append, of in self._single:
            append(of(record))
        for extend, of in self._several:
            extend(of(record))
        for append, known, text_of in self._texts:
            text = text_of(record, parts)
            append(-1 if text is None else known.setdefault(text, len(known)))
        for count, append, known, texts_of in self._lists:
            texts = texts_of(record)
            if not texts:
                count(0)
                continue
            folded = dict.fromkeys(fold_name(text) for text in texts)
            folded.pop("", None)
            count(len(folded))
            for text in folded:
                append(known.setdefault(text, len(known)))
        self._names += (SEPARATOR + parts.name).encode("utf-8", "surrogatepass")

    def columns(self) -> Columns:
        """What was collected, with the columns that runs ask beside those of filters."""
        numbers: dict[str, npt.NDArray[Any]] = {}
        for name, column in NUMBERS.items():
            flat = np.array(self._numbers[name], column.dtype)
            numbers[name] = flat.reshape(-1, column.width) if column.width > 1 else flat
        for name, codes in self._codes.items():
            numbers[name] = np.array(codes, CODES)
        for name, counts in self._counts.items():
            numbers[name] = np.array(counts, COUNTS)
        numbers = {name: numbers[name] for name in (*FILTER_NUMBERS, *TEXT_COLUMNS, *LIST_COLUMNS, *RUN_NUMBERS)}
        texts = {
            name: "".join(SEPARATOR + text for text in known).encode("utf-8", "surrogatepass")
            for name, known in self._known.items()
        }
        listed = {f"{name}.codes": np.array(codes, CODES).tobytes() for name, codes in self._listed.items()}
        return Columns(numbers, {**texts, **listed, "name": bytes(self._names)})

    def take(self) -> Columns:
        """As `columns`, of what was added since the last time; texts keep their numbers."""
        taken = self.columns()
        by_row = (self._numbers, self._codes, self._counts, self._listed)
        for collected in (each for arrays in by_row for each in arrays.values()):
            del collected[:]
        self._names.clear()
        return taken


def read_columns(
    rows: int,
    number: Callable[[str, str, int], npt.NDArray[Any] | None],
    text: Callable[[str], bytes | memoryview | None],
    *,
    wanted: Mapping[str, NumberColumn] = NUMBERS,
) -> Columns:
    """The columns of a file. `number` gives the numbers of a column by its name, dtype and how many there are, `text`
    its texts; None for one that was written before there was the column. Raises: KeyError for one that must be there.
    """
    numbers: dict[str, npt.NDArray[Any]] = {}
    for name, column in wanted.items():
        flat = number(name, column.dtype, rows * column.width)
        if flat is None:
            if column.unknown is None:
                raise KeyError(name)
            flat = np.broadcast_to(np.array(column.unknown, column.dtype), rows * column.width)
        numbers[name] = flat.reshape(rows, column.width) if column.width > 1 else flat
    texts: dict[str, bytes | memoryview] = {}
    for name in TEXT_COLUMNS:
        blob, codes = text(name), number(name, CODES, rows)
        texts[name] = b"" if blob is None else blob
        numbers[name] = np.full(rows, -1, CODES) if blob is None or codes is None else codes
    for name in LIST_COLUMNS:
        blob, listed, counts = text(name), text(f"{name}.codes"), number(name, COUNTS, rows)
        if blob is None or listed is None or counts is None:
            blob, listed, counts = b"", b"", np.zeros(rows, COUNTS)
        texts |= {name: blob, f"{name}.codes": listed}
        numbers[name] = counts
    names = text("name")
    if names is None:
        raise KeyError("name")
    return Columns(numbers, {**texts, "name": names})


def is_written(name: str, column: npt.NDArray[Any]) -> bool:
    """Whether a column of a file is to be written: not one that says nothing, of those that are sparse."""
    known = NUMBERS.get(name)
    return known is None or not known.sparse or bool((column != known.unknown).any())


def build_columns(records: Iterable[ImageRecord]) -> Columns:
    """The columns of records, which come in the order of their row ids."""
    builder = ColumnsBuilder()
    for record in records:
        builder.add(record)
    return builder.columns()
