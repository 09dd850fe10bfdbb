"""What is different between an index and the folder it is of. Decides, does nothing.

A file that is not seen is not thereby deleted: its drive may be away. Deleted is what vanished singly from folders that
were looked at; what vanished in bulk, or where nobody could look, is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.scan import FileBlock, Scan
from clipsearch.indexer.sidecars import Outdated
from clipsearch.records import ImageRecord, IntArray

BoolArray = npt.NDArray[np.bool_]
MISSING_FROM = 20
MISSING_SHARE = 0.1
"""If more than so many pictures, and more than this share of all, vanish at once, they are missing, not deleted."""
MISSING_OF_FEW = 3
"""So many are bulk, too, if they are more than half of a small collection: another drive is in the place of its own."""
COARSE_NS = 1_000_000_000
"""File systems with whole seconds (FAT, archives) give many files one time: there, a move must be proved by content."""


@dataclass(slots=True)
class Changes:
    """What an incremental run has to look at, and what it has not. Rows are given by their numbers in the catalog."""

    to_read: list[FileBlock] = field(default_factory=list)
    unchanged: int = 0
    unchanged_skipped: list[ImageRecord] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)  # missing rows whose files are back
    to_describe: list[FileBlock] = field(default_factory=list)  # unchanged, but for what lies beside them
    moved: list[tuple[int, FileBlock, int]] = field(default_factory=list)  # row, and the file that it is now

    @property
    def files(self) -> int:
        """How many files have to be read."""
        return sum(len(block) for block in self.to_read)


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
    changes = Changes()
    seen = np.zeros(len(catalog), bool)
    special = (catalog.statuses != 0) | catalog.away | (catalog.vector_ids < 0)
    for block in blocks:
        rows = catalog.match(block.paths)
        there = rows >= 0
        at = rows[there]
        same = np.zeros(len(block), bool)
        same[there] = (catalog.sizes[at] == block.sizes[there]) & (catalog.mtimes_ns[at] == block.mtimes_ns[there])
        again = np.zeros(len(block), bool)  # the same file, to be read all the same
        unchanged = np.flatnonzero(same)
        for number in unchanged[special[rows[unchanged]]].tolist():
            row = int(rows[number])
            if catalog.statuses[row]:
                record = catalog.record(row)
                again[number] = retry(record)
                if not again[number]:
                    changes.unchanged_skipped.append(record)
            elif catalog.vector_ids[row] < 0:
                again[number] = True
            if catalog.away[row] and not again[number]:
                changes.returned += catalog.same_path(block.paths[number])
        seen[at] = True
        same &= ~again
        changes.unchanged += int(same.sum())
        old = None if outdated is None else outdated(rows, block.sidecars)
        if old is not None and (old & same).any():
            changes.to_describe.append(block.only(np.flatnonzero(old & same)))
        wanted = np.flatnonzero(~same)
        if len(wanted):
            names = block.names
            changes.to_read.append(block.only(np.array(sorted(wanted.tolist(), key=names.__getitem__), np.int64)))
    return changes, catalog.of_same_files(seen)


def find_moved(catalog: Catalog, changes: Changes, vanished: IntArray) -> None:
    """Take out of `changes.to_read` the files that are vanished rows under another name: same inode, size and time.

    Only where the time is finer than a second; what remains is told by its content. Shape: vanished (V,) numbers.
    """
    known = vanished[(catalog.statuses[vanished] == 0) & (catalog.vector_ids[vanished] >= 0)]
    known = known[catalog.mtimes_ns[known] % COARSE_NS != 0]
    if not len(known):
        return
    order = np.argsort(catalog.inodes[known], kind="stable")
    known = known[order]
    inodes = catalog.inodes[known]
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
                    taken.add(row)
                    stays[number] = False
                    changes.moved.append((row, block, number))
                    break
        kept.append(block if stays.all() else block.only(np.flatnonzero(stays)))
    changes.to_read = [block for block in kept if len(block)]


def split_vanished(
    catalog: Catalog, scan: Scan, devices: dict[str, int], vanished: IntArray
) -> tuple[list[int], list[int]]:
    """Which vanished rows are deleted, and which are missing, as those are that were missing before.

    A folder that went whole, with every picture in it, is missing; so is what vanished in bulk, what nobody can look at
    and what was on another device, and what the user leaves out now.

    `devices`: the index's record of them (see Scan.devices). Shape: vanished (V,) numbers in the catalog.
    """
    missing = set(vanished[catalog.away[vanished]].tolist())
    paths = {row: catalog.path(row) for row in vanished[~catalog.away[vanished]].tolist()}
    if scan.left_out:  # the user may want it back
        missing |= {row for row, path in paths.items() if scan.leaves_out(path) is not None}
    moved = scan.moved_devices(devices)
    missing |= {row for row, path in paths.items() if scan.hides(path) or (moved and _inside(path, moved))}
    rest = [row for row in paths if row not in missing]
    pictures = int(((catalog.vector_ids >= 0) & ~catalog.away).sum())
    lost = sum(int(catalog.vector_ids[row]) >= 0 for row in rest)
    many = lost > MISSING_FROM and lost > MISSING_SHARE * pictures
    if many or (lost >= MISSING_OF_FEW and 2 * lost > pictures):
        missing |= set(rest)
    else:
        missing |= {row for row in rest if paths[row].rpartition("/")[0] not in scan.folders}
    return [row for row in rest if row not in missing], sorted(missing)


def _inside(path: str, folders: list[str]) -> bool:
    return any(folder == "" or path.startswith(folder + "/") for folder in folders)
