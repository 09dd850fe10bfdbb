"""What is too much for memory: bytes and rows in a temporary file without a name, mapped; numbers for what is equal."""

from __future__ import annotations

import marshal
import mmap
import tempfile
from array import array
from contextlib import suppress
from io import RawIOBase
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clipsearch.config import cache_dir
from clipsearch.records import IntArray

LARGEST_IN_MEMORY = 16 << 20
WRITTEN_AT_ONCE = 4 << 20


class Spill:
    """Bytes that are appended and then read: in memory while they are few, beyond that on disk.

    The file has no name, so nothing is left of it, however the process ends. Where none can be made, or the disk is
    full, they stay in memory.
    """

    def __init__(self, in_memory: int = LARGEST_IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._file: RawIOBase | None = None
        self._on_disk = 0
        self._waiting = bytearray()
        self._gave_up = False

    def append(self, data: bytes) -> None:
        """Add to the end."""
        self._waiting += data
        if len(self._waiting) > (self._in_memory if self._file is None else WRITTEN_AT_ONCE) and not self._gave_up:
            self._write()

    def mapped(self) -> npt.NDArray[np.uint8]:
        """All bytes; nothing can be appended afterwards."""
        if self._file is not None and self._waiting and not self._gave_up:
            self._write()
        in_memory = np.frombuffer(self._waiting, np.uint8)
        if self._file is None or not self._on_disk:
            return in_memory
        with self._file as file:  # what is mapped stays
            on_disk = np.frombuffer(mmap.mmap(file.fileno(), self._on_disk, access=mmap.ACCESS_READ), np.uint8)
        return np.concatenate([on_disk, in_memory]) if len(in_memory) else on_disk

    def _write(self) -> None:
        """Move what is in memory to the end of the file, or give up."""
        written = 0
        try:
            if self._file is None:
                self._file = _nameless_file()
            while written < len(self._waiting):
                written += self._file.write(memoryview(self._waiting)[written:]) or 0
        except OSError:
            self._gave_up = True  # what was written of it is behind the end
            return
        self._on_disk += written
        self._waiting = bytearray()


class Rows:
    """Tuples of texts and numbers, in a `Spill`, with 8 bytes of memory for each: rows are added, then read."""

    def __init__(self, in_memory: int = LARGEST_IN_MEMORY) -> None:
        self._spill = Spill(in_memory)
        self._ends = array("q", [0])
        self._data: memoryview | None = None

    def __len__(self) -> int:
        """How many."""
        return len(self._ends) - 1

    def append(self, row: tuple[Any, ...]) -> None:
        """Add a row, before any is read."""
        data = marshal.dumps(row)
        self._spill.append(data)
        self._ends.append(self._ends[-1] + len(data))

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        """One of the rows."""
        if self._data is None:
            self._data = self._spill.mapped().data
        row: tuple[Any, ...] = marshal.loads(self._data[self._ends[number] : self._ends[number + 1]])
        return row


def _nameless_file() -> RawIOBase:
    """An empty temporary file. Raises: OSError."""
    with suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
        return cast(RawIOBase, tempfile.TemporaryFile(buffering=0, dir=cache_dir()))
    return cast(RawIOBase, tempfile.TemporaryFile(buffering=0))


def first_seen(digests: bytes | bytearray) -> IntArray:
    """A number for each digest of 16 bytes, equal for equal ones: 0 for the first, 1 for the next that is new, ...

    Shape: (N,). What `dict.setdefault` would say, for a tenth of the memory.
    """
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: the first of equal ones stands first
    ordered = halves[order]
    is_new = np.ones(len(ordered), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = order[is_new]
    ranks = np.empty(len(firsts), dtype=np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    found = np.empty(len(order), dtype=np.int64)
    found[order] = ranks[np.cumsum(is_new) - 1]
    return found
