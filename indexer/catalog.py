"""What an index knows of its rows, as arrays: which row a path has, which row or vector a content has, how many rows
refer to a vector. Built once a run; no Python object for a row, some 50 bytes for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.records import Fragment, ImageRecord, IntArray, Segment
from clipsearch.store import RowsFile, open_rows
from clipsearch.store.columns import NUMBERS, path_key
from clipsearch.store.marks import dead_rows, missing_rows
from clipsearch.vectors import VectorsFile

BoolArray = npt.NDArray[np.bool_]
FEW = 100
"""For fewer look-ups of a content than this, hashes are looked through; for more they are sorted, which takes 40 bytes
a row."""
OPEN_ARCHIVES = 8  # whose rows are remembered by their members


@dataclass(slots=True)
class Marks:
    """The marks of a fragment while a run changes them. Shapes: (N,) int64, ascending."""

    dead: IntArray
    missing: dict[int, IntArray]  # by when they were first missed, in seconds since 1970


class Catalog:
    """The rows that an index has when a run begins, but for dead ones. `number` below is a row's place in the catalog.

    `files`, `marks` and `names` (of the Parquet files) are by fragment. Arrays by number: `vector_ids`, `sizes` in
    bytes, `mtimes_ns`, `statuses` (see store.columns.STATUSES); `away`: whether it is missing, and `missed_since_s`:
    since when, in seconds since 1970 (0: it was not). What is asked of few rows only stays in their files.
    """

    def __init__(self, index_dir: Path, fragments: Sequence[Fragment]) -> None:
        """Raises: CorruptIndex, StorageError."""
        self.names = [fragment.data.path for fragment in fragments]
        self.files: list[RowsFile] = []
        self.marks: list[Marks] = []
        self._alive: list[npt.NDArray[np.int32] | None] = []  # where rows are in a fragment; None: all of them
        starts = [0]
        for fragment in fragments:
            rows = open_rows(index_dir, fragment)
            marks = Marks(dead_rows(index_dir, fragment), missing_rows(index_dir, fragment))
            alive = None
            if len(marks.dead):
                alive = np.flatnonzero(~np.isin(rows.number("row_id"), marks.dead)).astype(np.int32)
            self.files.append(rows)
            self.marks.append(marks)
            self._alive.append(alive)
            starts.append(starts[-1] + (len(rows) if alive is None else len(alive)))
        self._starts = np.array(starts, np.int64)
        # Paths come first: sorting them takes the most memory, and nothing else is there yet.
        paths = self.column("path")
        self._by_path, self._firsts = _sorted(paths[:, 0])
        self._seconds: IntArray = paths[:, 1][self._by_path]
        del paths
        self.vector_ids: IntArray = self.column("vector_id")
        self.sizes: IntArray = self.column("size_bytes")
        self._picture_sizes = self.sizes
        self.has_members = any(fragment.members for fragment in fragments)
        self._are_members: BoolArray | None = None
        if self.has_members:  # of a member, its archive's size is that of the file
            archive_bytes = self.column("archive_bytes")
            self._are_members = archive_bytes > 0
            self.sizes = np.where(self._are_members, archive_bytes, self.sizes)
        self.mtimes_ns: IntArray = self.column("mtime_ns")
        self.statuses: npt.NDArray[np.uint8] = self.column("status")
        self.missed_since_s: IntArray = np.zeros(len(self), np.int64)
        for number, marks in enumerate(self.marks):
            for first_s, ids in marks.missing.items():
                missed = np.isin(self._of_fragment(number, "row_id"), ids)
                self.missed_since_s[starts[number] : starts[number + 1]][missed] = first_s
        self.away: BoolArray = self.missed_since_s > 0
        self.starts: BoolArray = np.ones(len(self), bool)  # the first row of a picture: others are views of the same
        self.has_views = any(fragment.views for fragment in fragments)
        for number, fragment in enumerate(fragments):
            if fragment.views:
                own, alive = self.files[number].all_columns.starts, self._alive[number]
                self.starts[starts[number] : starts[number + 1]] = own if alive is None else own[alive]
        self._shares_paths = self.has_views or self.has_members
        self._sizes_asked = 0
        self._known_sizes: IntArray | None = None
        self._contents: _Keys | None = None
        self._asked = 0
        self._by_member: dict[str, dict[str, list[int]]] = {}  # rows of archives, by path and member

    def __len__(self) -> int:
        return int(self._starts[-1])

    def forget_lost(self, segments: Sequence[Segment], open_ids: Callable[[Segment], IntArray]) -> None:
        """Let missing rows whose vectors are in none of `segments` have none, and so all rows of the same files: when
        these are back, they are read.

        `open_ids` gives the ids that a segment holds, which it is asked for only where there are gaps between them.
        """
        away = np.flatnonzero(self.away & (self.vector_ids >= 0))
        for segment in segments if len(away) else ():
            ids = self.vector_ids[away]
            held = (ids >= segment.first_vector_id) & (ids <= segment.last_vector_id)
            if held.any() and segment.last_vector_id - segment.first_vector_id + 1 != segment.vectors:
                held &= np.isin(ids, open_ids(segment))
            away = away[~held]
        if len(away):
            lost = np.zeros(len(self), bool)
            lost[away] = True
            self.vector_ids[self.of_same_files(lost) & self.away] = -1

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column (see store.columns.NUMBERS) by number, copied: mapped pages would count as memory beside it."""
        dtype, width = NUMBERS[name].dtype, NUMBERS[name].width
        column = np.empty((len(self), width) if width > 1 else len(self), dtype)
        for number, (rows, alive) in enumerate(zip(self.files, self._alive, strict=True)):
            part = column[self._starts[number] : self._starts[number + 1]]
            if alive is None:
                rows.load(name, part)
            else:
                part[:] = rows.number(name)[alive]
        return column

    def _of_fragment(self, number: int, name: str) -> npt.NDArray[Any]:
        """A column of the rows of one fragment, by number."""
        column, alive = self.files[number].number(name), self._alive[number]
        return column if alive is None else column[alive]

    def _place(self, number: int) -> tuple[int, int]:
        """Which fragment a row is in, and where."""
        fragment = self.fragment_of(number)
        at, alive = number - int(self._starts[fragment]), self._alive[fragment]
        return fragment, at if alive is None else int(alive[at])

    def fragment_of(self, number: int) -> int:
        """Which fragment a row is in."""
        return int(np.searchsorted(self._starts, number, "right")) - 1

    def row_id(self, number: int) -> int:
        """The id of a row."""
        fragment, at = self._place(number)
        return int(self.files[fragment].number("row_id")[at])

    def inodes_of(self, numbers: IntArray) -> npt.NDArray[np.uint64]:
        """The inodes of some rows. Shapes: (M,)."""
        inodes = np.empty(len(numbers), np.uint64)
        fragments = np.searchsorted(self._starts, numbers, "right") - 1
        for fragment in np.unique(fragments).tolist():
            own = fragments == fragment
            inodes[own] = self._of_fragment(fragment, "inode")[numbers[own] - self._starts[fragment]]
        return inodes

    def match(self, paths: IntArray) -> IntArray:
        """The number of the row with each path, -1 where there is none. Shapes: (M, 2) int64, (M,).

        Rows of one file (views of it) share a path: one of these is named, see `same_path`.
        """
        matched = np.full(len(paths), -1, np.int64)
        if not len(self):
            return matched
        order = np.argsort(paths[:, 0])  # neighbours are then looked up from memory that is near
        firsts, seconds = paths[order, 0], paths[order, 1]
        at = np.searchsorted(self._firsts, firsts)
        found = np.full(len(paths), -1, np.int64)
        while True:  # once, unless two paths agree in the first half of their hashes
            near = np.minimum(at, len(self) - 1)
            candidate = (found < 0) & (at < len(self)) & (self._firsts[near] == firsts)
            same = candidate & (self._seconds[near] == seconds)
            found[same] = self._by_path[near[same]]
            at = at + 1
            if not (candidate & ~same).any():
                matched[order] = found
                return matched

    def same_path(self, paths: IntArray) -> list[int]:
        """All rows of the file with a path. Shape: (2,) int64."""
        low = int(np.searchsorted(self._firsts, paths[0], "left"))
        high = int(np.searchsorted(self._firsts, paths[0], "right"))
        return [int(self._by_path[at]) for at in range(low, high) if self._seconds[at] == paths[1]]

    def rows_at(self, path: str) -> IntArray:
        """All rows of the file at `path`. Shape: (R,) int64, ascending."""
        first, second = np.frombuffer(path_key(path), "<i8")
        low, high = np.searchsorted(self._firsts, first, "left"), np.searchsorted(self._firsts, first, "right")
        found: IntArray = np.sort(self._by_path[low:high][self._seconds[low:high] == second].astype(np.int64))
        return found

    def at_place(self, path: str, member: str = "") -> list[int]:
        """All rows of a file, or of a member of an archive."""
        if not self.has_members:
            return [] if member else self.same_path(np.frombuffer(path_key(path), "<i8"))
        if path not in self._by_member:
            rows = self.rows_at(path).tolist()
            if not any(self.is_member(row) for row in rows):
                return [] if member else rows
            if len(self._by_member) >= OPEN_ARCHIVES:
                del self._by_member[next(iter(self._by_member))]
            by_member = self._by_member[path] = {}
            for row in rows:
                by_member.setdefault(self.record(row).member, []).append(row)
        return self._by_member[path].get(member, [])

    def numbers_of(self, name: str, numbers: IntArray) -> npt.NDArray[Any]:
        """What some rows have in a column of one number. Shapes: numbers (M,), ascending; (M,)."""
        found = np.empty(len(numbers), NUMBERS[name].dtype)
        fragments = np.searchsorted(self._starts, numbers, "right") - 1
        for fragment in np.unique(fragments).tolist():
            own = fragments == fragment
            found[own] = self._of_fragment(fragment, name)[numbers[own] - self._starts[fragment]]
        return found

    def is_member(self, number: int) -> bool:
        """Whether a row is of a picture in an archive."""
        return self._are_members is not None and bool(self._are_members[number])

    def of_picture(self, number: int) -> list[int]:
        """All rows of the picture that a row is of, ascending: of its file, or of its member of an archive."""
        if self.is_member(number):  # whose rows follow each other
            first = last = number
            while not self.starts[first]:
                first -= 1
            while last + 1 < len(self) and not self.starts[last + 1]:
                last += 1
            return list(range(first, last + 1))
        rows = self.of_file(number)
        return [row for row in rows if not self.is_member(row)] if self.has_members else rows

    def of_file(self, number: int) -> list[int]:
        """All rows of the file that a row is of, ascending."""
        if not self._shares_paths:
            return [number]
        return sorted(self.same_path(np.frombuffer(path_key(self.path(number)), "<i8")))

    def of_same_files(self, chosen: BoolArray) -> BoolArray:
        """`chosen` and all other rows of the same files. Shape: (N,) bool, by number."""
        firsts, seconds, numbers = self._firsts, self._seconds, self._by_path
        like_before = firsts[1:] == firsts[:-1]
        if not like_before.any():
            return chosen
        same = like_before & (seconds[1:] == seconds[:-1])
        if (same != like_before).any():  # two paths that are alike in the half by which they are sorted
            order = np.lexsort((seconds, firsts))
            firsts, seconds, numbers = firsts[order], seconds[order], numbers[order]
            same = (firsts[1:] == firsts[:-1]) & (seconds[1:] == seconds[:-1])
        starts = np.flatnonzero(np.concatenate([[True], ~same]))
        lengths = np.diff(starts, append=len(numbers))
        found = np.empty(len(numbers), bool)
        found[numbers] = np.repeat(np.logical_or.reduceat(chosen[numbers], starts), lengths)
        return found

    def paths_by_number(self) -> IntArray:
        """What the rows' paths are known by, by number. Shape: (N, 2) int64."""
        paths = np.empty((len(self), 2), np.int64)
        paths[self._by_path, 0] = self._firsts
        paths[self._by_path, 1] = self._seconds
        return paths

    def record(self, number: int) -> ImageRecord:
        """The record of a row."""
        fragment, at = self._place(number)
        return self.files[fragment].record(at)

    def path(self, number: int) -> str:
        """The path of a row."""
        return self.record(number).path

    def knows_size(self, size_bytes: int) -> bool:
        """Whether some row has this size: only then can a file's content be known."""
        if self._known_sizes is None:
            self._sizes_asked += 1
            if self._sizes_asked <= FEW:
                return bool((self._picture_sizes == size_bytes).any())
            self._known_sizes = np.sort(self._picture_sizes)
        at = int(np.searchsorted(self._known_sizes, size_bytes))
        return at < len(self._known_sizes) and bool(self._known_sizes[at] == size_bytes)

    def with_content(self, key: tuple[int, int]) -> list[int]:
        """The rows with a content. `key`: its xxh3-128 as two numbers."""
        if self._contents is None:
            self._asked += 1
            if self._asked <= FEW:
                return self._look_through(key)
            self._contents = _Keys(self.column("hash"), np.arange(len(self)))
        return self._contents.find(key)

    def _look_through(self, key: tuple[int, int]) -> list[int]:
        """As `with_content`, without a sorted copy of all hashes."""
        found: list[int] = []
        for number, rows in enumerate(self.files):
            hashes, alive = rows.number("hash"), self._alive[number]
            at = np.flatnonzero(hashes[:, 0] == key[0])
            at = at[hashes[at, 1] == key[1]]
            if alive is not None and len(at):
                at = np.flatnonzero(np.isin(alive, at))
            found += (at + self._starts[number]).tolist()
        return found


def _sorted(numbers: IntArray) -> tuple[npt.NDArray[np.int32], IntArray]:
    """What order sorts `numbers`, and they sorted; of equal ones the first comes first. Shapes: (N,)."""
    order = np.argsort(numbers).astype(np.int32)
    ascending = numbers[order]
    if (ascending[1:] == ascending[:-1]).any():  # rarely: a stable sort takes five times as long
        order = np.argsort(numbers, kind="stable").astype(np.int32)
    return order, ascending


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

    def ids_of(self, segment: Segment) -> IntArray:
        """The ids of a segment's vectors. Shape: (N,) int64, ascending. Raises: CorruptIndex."""
        return VectorsFile(self._index_dir / segment.mapped.path, self._dim).ids

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
