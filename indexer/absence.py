"""What became of pictures that are not seen any more.

A file that is not seen is not thereby deleted: its drive may be away. Deleted is what vanished singly from folders that
were looked at. What vanished in bulk, with its folder or drive or from an archive, or where nobody could look, is
missing: not shown, kept with its vector, and back without being read. `--prune` or 30 days forget it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.scan import Scan
from clipsearch.records import IntArray

MISSING_FROM = 20
MISSING_SHARE = 0.1
"""If more than so many pictures, and more than this share of all, vanish at once, they are missing, not deleted."""
MISSING_OF_FEW = 3
"""So many are bulk, too, if they are more than half of a small collection: another drive is in the place of its own."""


def split_vanished(
    catalog: Catalog, scan: Scan, devices: dict[str, int], vanished: IntArray
) -> tuple[list[int], list[int]]:
    """Which vanished rows are deleted, and which are missing, as those are that were missing before.

    A folder that went whole, with every picture in it, is missing; so is what vanished in bulk, what nobody can look at
    and what was on another device, and what the user leaves out now.

    `devices`: the index's record of them (see Scan.devices). Shape: vanished (V,) numbers in the catalog.
    """
    if scan.is_gone:
        return [], sorted(vanished.tolist())
    missing = set(vanished[catalog.away[vanished]].tolist())
    paths = {row: catalog.path(row) for row in vanished[~catalog.away[vanished]].tolist()}
    if scan.left_out:  # the user may want it back
        missing |= {row for row, path in paths.items() if scan.leaves_out(path) is not None}
    if catalog.has_members:  # a whole archive is gone: no one picture of it was deleted
        missing |= {row for row in paths if catalog.is_member(row)}
    moved = scan.moved_devices(devices)
    missing |= {row for row, path in paths.items() if scan.hides(path) or (moved and _inside(path, moved))}
    rest = [row for row in paths if row not in missing]
    pictures = int(((catalog.vector_ids >= 0) & ~catalog.away & catalog.starts).sum())
    lost = sum(int(catalog.vector_ids[row]) >= 0 and bool(catalog.starts[row]) for row in rest)
    if _is_bulk(lost, pictures):
        missing |= set(rest)
    else:
        missing |= {row for row in rest if paths[row].rpartition("/")[0] not in scan.folders}
    return [row for row in rest if row not in missing], sorted(missing)


def went_in_bulk(catalog: Catalog, unread: Iterable[str]) -> bool:
    """Whether files that were seen, and could not be read then, are so many that their drive may have gone since: as
    many as are missing when they vanish, or all of a folder.

    `unread`: places of files, or members of archives, that `catalog` has as pictures.
    """
    lost = Counter(path.rpartition("/")[0] for path in unread)
    rows = np.flatnonzero((catalog.vector_ids >= 0) & ~catalog.away & catalog.starts)
    if _is_bulk(lost.total(), len(rows)):
        return True
    may_be_whole = {folder for folder, number in lost.items() if number >= MISSING_OF_FEW}
    if not may_be_whole:
        return False
    known = Counter(catalog.record(row).place.rpartition("/")[0] for row in rows.tolist())
    return any(lost[folder] >= known[folder] for folder in may_be_whole)


def archives_emptied(catalog: Catalog, lost: Mapping[str, list[int]]) -> set[str]:
    """The archives that lack so many of their pictures at once that these are missing, not deleted; all of them, if
    that is many for the whole collection.

    `lost`: by archive, the rows of pictures that it has no more, and that were not missing before.
    """
    starts = {path: sum(bool(catalog.starts[row]) for row in rows) for path, rows in lost.items()}
    answered = (catalog.vector_ids >= 0) & ~catalog.away & catalog.starts
    if _is_bulk(sum(starts.values()), int(answered.sum())):
        return set(lost)
    return {path for path, number in starts.items() if _is_bulk(number, int(answered[catalog.rows_at(path)].sum()))}


def _is_bulk(lost: int, pictures: int) -> bool:
    many = lost > MISSING_FROM and lost > MISSING_SHARE * pictures
    return many or (lost >= MISSING_OF_FEW and 2 * lost > pictures)


class Root:
    """A folder as it is when a run begins, held open: whether the same one is at its place later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        with contextlib.suppress(OSError):  # the walk says more of it
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_gone(self) -> bool:
        """Whether nothing or another folder is at its place; a drive that does not answer is asked three times."""
        if self._fd < 0:
            return False
        for wait_s in (0.05, 0.2, None):
            try:
                now, then = self._path.stat(), os.fstat(self._fd)
            except OSError:
                if wait_s is not None:
                    time.sleep(wait_s)
            else:
                return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _inside(path: str, folders: list[str]) -> bool:
    return any(folder == "" or path.startswith(folder + "/") for folder in folders)
