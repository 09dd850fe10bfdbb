"""What an index knows of its rows, as arrays: which row a path has, which row or vector a content has, how many rows
refer to a vector. Built once a run; no Python object for a row, some 70 bytes for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.records import Fragment, ImageRecord, IntArray, Segment
from clipsearch.store import RowsFile, open_rows
from clipsearch.store.marks import marked, read_marks
from clipsearch.vectors import VectorsFile

BoolArray = npt.NDArray[np.bool_]
FEW = 100
"""For fewer look-ups of a content than this, hashes are looked through; for more they are sorted, which takes 40 bytes
a row."""


@dataclass(slots=True)
class Marks:
    """The marks of a fragment while a run changes them. Shapes: (N,) int64, ascending."""

    dead: IntArray
    missing: dict[int, IntArray]  # by when they were first missed, in seconds since 1970


class Catalog:
    """The rows that an index has when a run begins, but for dead ones. `number` below is a row's place in the catalog.

    `files`, `marks` and `names` (of the Parquet files) are by fragment. Arrays by number: `row_ids`, `vector_ids`,
    `sizes` (bytes), `mtimes_ns`, `inodes`, `statuses` (see store.columns.STATUSES), `attempts`; `away`: whether it is
    missing, and `missed_since_s`: since when, in seconds since 1970 (0: it was not).
    """

    def __init__(self, index_dir: Path, fragments: Sequence[Fragment]) -> None:
        """Raises: CorruptIndex, StorageError."""
        self.names = [fragment.data.path for fragment in fragments]
        self.files: list[RowsFile] = []
        self.marks: list[Marks] = []
        parts: dict[str, list[npt.NDArray[Any]]] = {
            name: []
            for name in ("row_id", "vector_id", "size_bytes", "mtime_ns", "inode", "status", "attempts", "path")
        }
        positions: list[npt.NDArray[np.int32]] = []
        of_fragment: list[npt.NDArray[np.int16]] = []
        since: list[IntArray] = []
        for number, fragment in enumerate(fragments):
            rows = open_rows(index_dir, fragment)
            marks = Marks(marked(read_marks(index_dir, fragment.dead)), read_marks(index_dir, fragment.missing))
            self.files.append(rows)
            self.marks.append(marks)
            row_ids = rows.number("row_id")
            alive: Any = slice(None)  # without a copy where no row is dead
            if len(marks.dead):
                alive = np.flatnonzero(~np.isin(row_ids, marks.dead))
            for name, columns in parts.items():
                columns.append(rows.number(name)[alive])
            positions.append(np.arange(len(row_ids), dtype=np.int32)[alive])
            of_fragment.append(np.full(len(positions[-1]), number, np.int16))
            missed = np.zeros(len(positions[-1]), np.int64)
            for first_s, ids in marks.missing.items():
                missed[np.isin(row_ids[alive], ids)] = first_s
            since.append(missed)

        def joined(name: str, dtype: str) -> npt.NDArray[Any]:
            return np.concatenate([np.empty(0, dtype), *parts.pop(name)])

        self.row_ids: IntArray = joined("row_id", "<i8")
        self.vector_ids: IntArray = joined("vector_id", "<i8")
        self.sizes: IntArray = joined("size_bytes", "<i8")
        self.mtimes_ns: IntArray = joined("mtime_ns", "<i8")
        self.inodes: npt.NDArray[np.uint64] = joined("inode", "<u8")
        self.statuses: npt.NDArray[np.uint8] = joined("status", "<u1")
        self.attempts: npt.NDArray[np.uint8] = joined("attempts", "<u1")
        self.missed_since_s: IntArray = np.concatenate([np.empty(0, np.int64), *since])
        self.away: BoolArray = self.missed_since_s > 0
        self._positions = np.concatenate([np.empty(0, np.int32), *positions])
        self._fragments = np.concatenate([np.empty(0, np.int16), *of_fragment])
        paths = np.concatenate([np.empty((0, 2), "<i8"), *parts.pop("path")])
        self._by_path = np.argsort(paths[:, 0], kind="stable").astype(np.int32)
        self._paths = paths[self._by_path]
        self._known_sizes = np.sort(self.sizes)
        self._contents: _Keys | None = None
        self._asked = 0

    def __len__(self) -> int:
        return len(self.row_ids)

    def match(self, paths: IntArray) -> IntArray:
        """The number of the row with each path, -1 where there is none. Shapes: (M, 2) int64, (M,).

        Rows of one file (views of it) share a path: one of these is named, see `same_path`.
        """
        if not len(self):
            return np.full(len(paths), -1, np.int64)
        at = np.searchsorted(self._paths[:, 0], paths[:, 0])
        found = np.full(len(paths), -1, np.int64)
        while True:  # once, unless two paths agree in the first half of their hashes
            near = np.minimum(at, len(self) - 1)
            candidate = (found < 0) & (at < len(self)) & (self._paths[near, 0] == paths[:, 0])
            same = candidate & (self._paths[near, 1] == paths[:, 1])
            found[same] = self._by_path[near[same]]
            at = at + 1
            if not (candidate & ~same).any():
                return found

    def same_path(self, paths: IntArray) -> list[int]:
        """All rows of the file with a path. Shape: (2,) int64."""
        low = int(np.searchsorted(self._paths[:, 0], paths[0], "left"))
        high = int(np.searchsorted(self._paths[:, 0], paths[0], "right"))
        return [int(self._by_path[at]) for at in range(low, high) if self._paths[at, 1] == paths[1]]

    def of_same_files(self, chosen: BoolArray) -> BoolArray:
        """`chosen` and all other rows of the same files. Shape: (N,) bool, by number."""
        doubled = np.flatnonzero((np.diff(self._paths[:, 0]) == 0) & (np.diff(self._paths[:, 1]) == 0))
        if not len(doubled):
            return chosen
        chosen = chosen.copy()
        for at in doubled.tolist():
            both = self.same_path(self._paths[at])
            chosen[both] = chosen[both].any()
        return chosen

    def paths_by_number(self) -> IntArray:
        """What the rows' paths are known by, by number. Shape: (N, 2) int64."""
        paths = np.empty_like(self._paths)
        paths[self._by_path] = self._paths
        return paths

    def record(self, number: int) -> ImageRecord:
        """The record of a row."""
        return self.files[int(self._fragments[number])].record(int(self._positions[number]))

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers of all rows (see store.columns.NUMBERS), by number, copied."""
        parts = [rows.number(name)[self._positions[self._fragments == n]] for n, rows in enumerate(self.files)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def path(self, number: int) -> str:
        """The path of a row."""
        return self.record(number).path

    def fragment_of(self, number: int) -> int:
        """Which fragment a row is in."""
        return int(self._fragments[number])

    def knows_size(self, size_bytes: int) -> bool:
        """Whether some row has this size: only then can a file's content be known."""
        at = int(np.searchsorted(self._known_sizes, size_bytes))
        return at < len(self._known_sizes) and bool(self._known_sizes[at] == size_bytes)

    def with_content(self, key: tuple[int, int]) -> list[int]:
        """The rows with a content. `key`: its xxh3-128 as two numbers."""
        if self._contents is None:
            self._asked += 1
            if self._asked <= FEW:
                return self._look_through(key)
            hashes = [
                rows.number("hash")[self._positions[self._fragments == number]]
                for number, rows in enumerate(self.files)
            ]
            self._contents = _Keys(np.concatenate([np.empty((0, 2), "<i8"), *hashes]), np.arange(len(self)))
        return self._contents.find(key)

    def _look_through(self, key: tuple[int, int]) -> list[int]:
        """As `with_content`, without a sorted copy of all hashes."""
        found: list[int] = []
        for number, rows in enumerate(self.files):
            hashes = rows.number("hash")
            at = np.flatnonzero(hashes[:, 0] == key[0])
            at = at[hashes[at, 1] == key[1]]
            if len(at):
                here = (self._fragments == number) & np.isin(self._positions, at)
                found += np.flatnonzero(here).tolist()
        return found


class _Keys:
    """Numbers by content hash, sorted once."""

    def __init__(self, keys: IntArray, numbers: IntArray) -> None:
        order = np.argsort(keys[:, 0], kind="stable")
        self.keys = keys[order]
        self.numbers = numbers[order]

    def find(self, key: tuple[int, int]) -> list[int]:
        low = int(np.searchsorted(self.keys[:, 0], key[0], "left"))
        high = int(np.searchsorted(self.keys[:, 0], key[0], "right"))
        return [int(self.numbers[at]) for at in range(low, high) if self.keys[at, 1] == key[1]]


class StoredVectors:
    """Which vector each content has, of all that are stored, also of pictures that are gone."""

    def __init__(self, index_dir: Path, segments: Sequence[Segment], dim: int) -> None:
        self._index_dir = index_dir
        self._dim = dim
        self._segments = list(segments)
        self._keys: list[_Keys] | None = None
        self._files: list[VectorsFile] | None = None
        self._asked = 0
        self._new: list[_Keys] = []

    def find(self, key: tuple[int, int]) -> int | None:
        """The id of a content's vector. Raises: CorruptIndex."""
        if self._files is None:
            paths = [self._index_dir / segment.mapped.path for segment in self._segments]
            self._files = [VectorsFile(path, self._dim) for path in paths]
        self._asked += 1
        if self._asked > FEW and self._keys is None:
            self._keys = [_Keys(np.asarray(f.keys), f.ids) for f in self._files if f.keys is not None]
        for file in self._files if self._keys is None else ():
            if file.keys is not None:
                at = np.flatnonzero(file.keys[:, 0] == key[0])
                at = at[file.keys[at, 1] == key[1]]
                if len(at):
                    first: int = int(file.ids[at[0]])
                    return first
        for keys in (*(self._keys or ()), *self._new):
            found = keys.find(key)
            if found:
                return int(found[0])
        return None

    def add(self, keys: IntArray, ids: IntArray) -> None:
        """Take vectors that this run has made. Shapes: (N, 2) int64, (N,) int64."""
        if not len(ids):
            return
        self._new.append(_Keys(keys, ids))
        while len(self._new) > 1 and len(self._new[-2].numbers) <= 2 * len(self._new[-1].numbers):
            last, before = self._new.pop(), self._new.pop()
            joined = np.concatenate([before.keys, last.keys])
            self._new.append(_Keys(joined, np.concatenate([before.numbers, last.numbers])))


class References:
    """How many answered rows refer to each vector."""

    def __init__(self, catalog: Catalog, next_vector_id: int) -> None:
        used = catalog.vector_ids[(catalog.vector_ids >= 0) & ~catalog.away]
        self._counts = np.bincount(used, minlength=next_vector_id + 1).astype(np.int32)
        self.changed: set[int] = set()

    def add(self, vector_id: int, by: int) -> None:
        """Count a row more (1) or less (-1)."""
        if vector_id < 0:
            return
        if vector_id >= len(self._counts):
            grown = np.zeros(max(vector_id + 1, 2 * len(self._counts)), np.int32)
            grown[: len(self._counts)] = self._counts
            self._counts = grown
        self._counts[vector_id] += by
        self.changed.add(vector_id)

    def add_all(self, vector_ids: Iterable[int], by: int) -> None:
        """As `add`, for each."""
        for vector_id in vector_ids:
            self.add(int(vector_id), by)

    def unreferenced(self, vector_ids: IntArray) -> IntArray:
        """Those of `vector_ids` to which no answered row refers."""
        inside = vector_ids < len(self._counts)
        counts = np.zeros(len(vector_ids), np.int32)
        counts[inside] = self._counts[vector_ids[inside]]
        unused: IntArray = vector_ids[counts == 0]
        return unused
