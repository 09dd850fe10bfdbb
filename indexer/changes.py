"""What is different between an index and the folder it is of. Decides, does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipsearch.archives import Archive
from clipsearch.archives.listing import Spool
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.scan import FileBlock, FoundFile
from clipsearch.indexer.sidecars import Outdated
from clipsearch.records import ImageRecord, IntArray
from clipsearch.store.columns import path_key

BoolArray = npt.NDArray[np.bool_]
BATCH_FILES = 65_536
CUT_TO_NS = (100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
COARSE_NS = 1_000_000_000
"""File systems with whole seconds (FAT, archives) give many files one time: there, a move must be proved by content."""


@dataclass(slots=True)
class ArchiveToRead:
    """An archive that is new or different, or of which the index has only some pictures.

    `done`: the rows of pictures that the index has as they are, by number in the catalog.
    """

    file: FoundFile
    done: list[int] = field(default_factory=list)
    opened: Archive | None = None
    copy: Spool | None = None  # of one in object storage
    problem: OSError | None = None  # why there is none
    given: set[str] = field(default_factory=set)  # names of what the index has as it is, or the run was given to read

    def pictures_done(self, catalog: Catalog) -> int:
        """How many pictures of it the index has as they are."""
        return sum(catalog.is_member(row) and bool(catalog.starts[row]) for row in self.done)


@dataclass(slots=True)
class Changes:
    """What an incremental run has to look at, and what it has not. Rows are given by their numbers in the catalog."""

    to_read: list[FileBlock] = field(default_factory=list)
    archives: list[ArchiveToRead] = field(default_factory=list)
    unchanged: int = 0
    unchanged_skipped: list[ImageRecord] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)  # missing rows whose files are back
    to_describe: list[FileBlock] = field(default_factory=list)  # unchanged, but for what lies beside them
    moved: list[tuple[int, FileBlock, int]] = field(default_factory=list)  # a row, and the file that its file is now
    retimed: list[tuple[int, FileBlock, int]] = field(default_factory=list)  # the same at a cut time; see `is_cut`

    @property
    def files(self) -> int:
        """How many files have to be read, but for archives."""
        return sum(len(block) for block in self.to_read)

    def all_to_read(self) -> Iterator[FoundFile | ArchiveToRead]:
        """The files that have to be read, then the archives."""
        for block in self.to_read:
            yield from block
        yield from self.archives


def compare(
    catalog: Catalog,
    blocks: Iterable[FileBlock],
    *,
    retry: Callable[[ImageRecord], bool] = lambda record: False,
    outdated: Outdated | None = None,
) -> tuple[Changes, BoolArray]:
    """Compare an index with the files that a walk yields. Same path, size and time means unchanged, whatever the inode.

    `retry` says which unchanged skipped files to try again, `outdated` whose metadata to read again. Returns the
    changes so far, and which rows were seen.
    """
    changes, comparison = Changes(), Comparison(catalog, retry=retry, outdated=outdated)
    for batch in _batches(blocks):
        comparison.take(batch, changes)
    return changes, comparison.seen()


class Comparison:
    """An index beside what a walk finds, some at a time; see `compare`. `tagged`: what stands for inodes are tags of
    contents."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        retry: Callable[[ImageRecord], bool],
        outdated: Outdated | None,
        tagged: bool = False,
    ) -> None:
        self._catalog = catalog
        self._tags = catalog.column("inode") if tagged else None
        self._retry = retry
        self._outdated = outdated
        self.found = np.zeros(len(catalog), bool)  # rows; of files with several, at least one
        self._special = (catalog.statuses != 0) | catalog.away | (catalog.vector_ids < 0)

    def seen(self) -> BoolArray:
        """Which rows were seen so far. Shape: (N,) bool."""
        return self._catalog.of_same_files(self.found)

    def take(self, batch: list[FileBlock], changes: Changes) -> None:
        """Note in `changes` what of some files is different, and what is not."""
        catalog, special = self._catalog, self._special
        paths = np.concatenate([block.paths for block in batch])
        rows = catalog.match(paths)
        there = rows >= 0
        at = rows[there]
        same = np.zeros(len(rows), bool)  # the same file as when it was indexed
        same[there] = catalog.sizes[at] == np.concatenate([block.sizes for block in batch])[there]
        same[there] &= catalog.mtimes_ns[at] == np.concatenate([block.mtimes_ns for block in batch])[there]
        other = np.zeros(len(rows), bool)  # certainly another one
        if self._tags is not None:
            other[there] = are_others(self._tags[at], np.concatenate([block.inodes for block in batch])[there])
        same &= ~other
        again = np.zeros(len(rows), bool)  # the same, to be read all the same
        unchanged = np.flatnonzero(same)
        for number in unchanged[special[rows[unchanged]]].tolist():
            row = int(rows[number])
            if catalog.statuses[row]:
                record = catalog.record(row)
                again[number] = self._retry(record)
                if not again[number]:
                    changes.unchanged_skipped.append(record)
            elif catalog.vector_ids[row] < 0:
                again[number] = True
            if catalog.away[row] and not again[number]:
                changes.returned += catalog.same_path(paths[number])
        self.found[at] = True
        cut = np.zeros(len(rows), bool)  # the same file, as a copy or an archive gives it back
        cut[there] = catalog.sizes[at] == np.concatenate([block.sizes for block in batch])[there]
        cut[there] &= is_cut(catalog.mtimes_ns[at], np.concatenate([block.mtimes_ns for block in batch])[there])
        cut[there] &= ~special[at]
        cut &= ~other
        changes.retimed += _each(batch, rows, cut)
        same &= ~again
        changes.unchanged += int(same.sum())
        old = None if self._outdated is None else self._outdated(rows, _sidecars(batch))
        if old is not None and (old & same).any():
            changes.to_describe += _parts(batch, old & same)
        if not (same | cut).all():
            changes.to_read += _parts(batch, ~same & ~cut)


def are_others(known_tags: npt.NDArray[np.uint64], tags: npt.NDArray[np.uint64]) -> BoolArray:
    """Which objects in storage are not those that rows are of, by the tags of their contents, whatever size and time
    say. Where either is 0, nothing is known. Shapes: (N,)."""
    others: BoolArray = (known_tags != tags) & (known_tags != 0) & (tags != 0)
    return others


def is_cut(known_ns: IntArray, now_ns: IntArray) -> BoolArray:
    """Which times are others cut to what archives and file systems keep: 2 s (zip, FAT), 1 s (tar), 10 ms (exFAT),
    1 ms, 1 µs, 100 ns (NTFS, SMB).

    A file that was written later has a later time, never one of these. Shapes: (N,), nanoseconds.
    """
    late = known_ns - now_ns
    found = np.zeros(len(late), bool)
    for unit in CUT_TO_NS:
        found |= (now_ns % unit == 0) & (late < unit)
    return found & (late > 0)


def _each(batch: list[FileBlock], rows: IntArray, wanted: BoolArray) -> Iterator[tuple[int, FileBlock, int]]:
    """The row, block and number in it of each file of a batch that is wanted."""
    stop = 0
    for block in batch:
        start, stop = stop, stop + len(block)
        for number in np.flatnonzero(wanted[start:stop]).tolist():
            yield int(rows[start + number]), block, number


def _batches(blocks: Iterable[FileBlock]) -> Iterator[list[FileBlock]]:
    """Blocks together: what NumPy does for each of them costs more than for each of their files."""
    batch: list[FileBlock] = []
    files = 0
    for block in blocks:
        batch.append(block)
        files += len(block)
        if files >= BATCH_FILES:
            yield batch
            batch, files = [], 0
    if batch:
        yield batch


def _sidecars(batch: list[FileBlock]) -> IntArray | None:
    """What lies beside the files of a batch, None where nothing lies beside any. Shape: (files of the batch,) int64."""
    if all(block.sidecars is None for block in batch):
        return None
    parts = [np.zeros(len(block), np.int64) if block.sidecars is None else block.sidecars for block in batch]
    return np.concatenate(parts)


def _parts(batch: list[FileBlock], wanted: BoolArray) -> Iterator[FileBlock]:
    """The files of a batch that are wanted, sorted by name within their folder. Shape: (files of the batch,) bool."""
    stop = 0
    for block in batch:
        start, stop = stop, stop + len(block)
        numbers = np.flatnonzero(wanted[start:stop]).tolist()
        if numbers:
            yield block.only(np.array(sorted(numbers, key=block.names.__getitem__), np.int64))


def find_moved(catalog: Catalog, changes: Changes, vanished: IntArray) -> None:
    """Take out of `changes.to_read` the files that are vanished rows under another name: same inode, size and time.

    Only where the time is finer than a second; what remains is told by its content. Shape: vanished (V,) numbers.
    """
    known = _known_by_inode(catalog, vanished)
    if not len(known):
        return
    inodes = catalog.inodes_of(known)
    order = np.argsort(inodes, kind="stable")
    known, inodes = known[order], inodes[order]
    taken: set[int] = set()
    kept: list[FileBlock] = []
    for block in changes.to_read:
        low = np.searchsorted(inodes, block.inodes, "left")
        high = np.searchsorted(inodes, block.inodes, "right")
        stays = np.ones(len(block), bool)
        for number in np.flatnonzero((high > low) & (catalog.match(block.paths) < 0)).tolist():
            for row in known[low[number] : high[number]].tolist():
                same = (catalog.sizes[row], catalog.mtimes_ns[row]) == (block.sizes[number], block.mtimes_ns[number])
                if same and row not in taken:
                    taken.update(catalog.of_file(row))
                    stays[number] = False
                    changes.moved.append((row, block, number))
                    break
        kept.append(block if stays.all() else block.only(np.flatnonzero(stays)))
    changes.to_read = [block for block in kept if len(block)]


def _known_by_inode(catalog: Catalog, rows: IntArray) -> IntArray:
    """Those of some rows whose files are known under any name. Shape: (N,) numbers."""
    known = rows[(catalog.statuses[rows] == 0) & (catalog.vector_ids[rows] >= 0)]
    found: IntArray = known[catalog.mtimes_ns[known] % COARSE_NS != 0]
    return found


def block_of(file: FoundFile) -> FileBlock:
    """An archive as a walk tells of files."""
    folder, _, name = file.path.rpartition("/")
    return FileBlock(
        folder,
        [name],
        np.frombuffer(path_key(file.path), "<i8").reshape(1, 2),
        np.array([file.size_bytes], np.int64),
        np.array([file.mtime_ns], np.int64),
        np.array([file.inode], np.uint64),
    )


class PerhapsMoved:
    """New files and archives that `find_moved` may tell, once it is known what vanished: put aside until then. 8 bytes
    a row."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        rows = _known_by_inode(catalog, np.flatnonzero(~catalog.away))
        self._marks = np.unique(_marks(catalog.inodes_of(rows), catalog.sizes[rows], catalog.mtimes_ns[rows]))
        self.aside = Changes()

    def take_from(self, changes: Changes) -> None:
        """Take such files out of what `changes` says is to be read."""
        if not len(self._marks):
            return
        kept: list[FileBlock] = []
        for block in changes.to_read:
            alike = self._are_alike(block)
            if alike.any():
                self.aside.to_read.append(block.only(np.flatnonzero(alike)))
                block = block.only(np.flatnonzero(~alike))
            if len(block):
                kept.append(block)
        changes.to_read = kept
        archives, changes.archives = changes.archives, []
        for archive in archives:
            is_alike = self._are_alike(block_of(archive.file)).any()
            (self.aside if is_alike else changes).archives.append(archive)

    def _are_alike(self, block: FileBlock) -> BoolArray:
        """Which of some files have no row, and what some rows have."""
        alike: BoolArray = np.isin(_marks(block.inodes, block.sizes, block.mtimes_ns), self._marks)
        return alike & (self._catalog.match(block.paths) < 0)


def _marks(inodes: npt.NDArray[np.uint64], sizes: IntArray, mtimes_ns: IntArray) -> npt.NDArray[np.uint64]:
    """Alike where all three are. Shapes: (N,)."""
    mixed: npt.NDArray[np.uint64] = inodes * np.uint64(3)
    mixed ^= sizes.astype(np.uint64) * np.uint64(5)
    mixed ^= mtimes_ns.astype(np.uint64)
    return mixed
