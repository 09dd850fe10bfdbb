"""Archives in a folder (tars, Parquet, Arrow): which of their pictures the index has, and which are to be read.

An archive of which all rows say the size and time that it has now, and as many as it has pictures, is unchanged and not
opened. Of any other, the pictures that an interrupted run has committed already are passed over.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import ArchiveToRead, Changes, are_others, block_of, find_moved, is_cut
from clipsearch.indexer.scan import FoundFile
from clipsearch.pictures.metadata import METADATA_VERSION
from clipsearch.records import ImageRecord, IntArray

BoolArray = npt.NDArray[np.bool_]


def compare_archives(
    catalog: Catalog,
    found: list[FoundFile],
    changes: Changes,
    seen: BoolArray,
    *,
    retry: Callable[[ImageRecord], bool],
    reread_metadata: bool = False,
    tagged: bool = False,
) -> None:
    """Compare an index with the archives that a walk has found, in order of their paths.

    Notes in `changes` what is to be read and what is not, and in `seen` which rows were seen. `tagged`: see
    `changes.Comparison`. Shape: seen (N,).
    """
    for file in sorted(found, key=lambda file: file.path):
        rows = catalog.rows_at(file.path)
        seen[rows] = True
        if not len(rows):
            changes.archives.append(ArchiveToRead(file))
            continue
        whole = catalog.sizes[rows] == file.size_bytes
        tags = catalog.numbers_of("inode", rows)
        other = are_others(tags, np.full(len(rows), file.inode, np.uint64)) & tagged
        same = whole & (catalog.mtimes_ns[rows] == file.mtime_ns) & ~other
        has_vector = (catalog.statuses[rows] != 0) | (catalog.vector_ids[rows] >= 0)
        if not same.any() and not other.any() and whole.all() and has_vector.all():
            now_ns = np.full(len(rows), file.mtime_ns, np.int64)
            is_same_time = bool(is_cut(catalog.mtimes_ns[rows], now_ns).all())
            if is_same_time and not catalog.away[rows].any() and are_all(catalog, rows):
                changes.retimed.append((int(rows[0]), block_of(file), 0))
                continue
        good = same & has_vector
        if reread_metadata:
            good &= (catalog.statuses[rows] != 0) | (catalog.numbers_of("metadata_version", rows) >= METADATA_VERSION)
        skipped = [(int(row), catalog.record(int(row))) for row in rows[good & (catalog.statuses[rows] != 0)]]
        again = {row for row, record in skipped if retry(record)}
        done = [row for row in rows[good].tolist() if row not in again]
        changes.returned += [row for row in done if catalog.away[row]]
        changes.unchanged += sum(int(catalog.statuses[row]) == 0 and bool(catalog.starts[row]) for row in done)
        # Those of an earlier state, that are missing since, are none of this one.
        own = same | ~catalog.away[rows]
        is_read = len(done) < own.sum() or not are_all(catalog, rows[own])
        # What is wrong with an archive itself is found, and told, again where it is read.
        told = [record for row, record in skipped if row not in again and (record.member or not is_read)]
        changes.unchanged_skipped += told
        if is_read:
            changes.archives.append(ArchiveToRead(file, done))
        else:
            seen[rows] = own


def are_all(catalog: Catalog, rows: IntArray) -> bool:
    """Whether rows of one archive, as it was at one time, are of all pictures that it has."""
    pictures = catalog.numbers_of("archive_rows", rows)
    members = int(((pictures > 0) & catalog.starts[rows]).sum())
    return members == int(pictures.max()) if members else len(rows) > 0


def find_moved_archives(catalog: Catalog, changes: Changes, vanished: IntArray) -> None:
    """As `find_moved`, of archives: take out of `changes.archives` the vanished ones that have another name now."""
    new = {archive.file.path: block_of(archive.file) for archive in changes.archives if is_new(catalog, archive)}
    if not new or not catalog.has_members:
        return
    moved = Changes(to_read=list(new.values()))
    find_moved(catalog, moved, _of_whole_archives(catalog, vanished))
    changes.moved += moved.moved
    gone = {block.path(number) for _, block, number in moved.moved}
    changes.archives = [archive for archive in changes.archives if archive.file.path not in gone]


def is_new(catalog: Catalog, archive: ArchiveToRead) -> bool:
    """Whether the index has nothing of an archive."""
    return not len(catalog.rows_at(archive.file.path))


def _of_whole_archives(catalog: Catalog, rows: IntArray) -> IntArray:
    """The rows of archives of which the index has all pictures: another run has read the rest of none of them."""
    whole: dict[str, bool] = {}
    for path in {catalog.path(row) for row in rows.tolist() if catalog.is_member(row)}:
        own = catalog.rows_at(path)
        times = catalog.mtimes_ns[own[catalog.starts[own] & (catalog.statuses[own] == 0)]]
        whole[path] = are_all(catalog, own) and len(np.unique(times)) <= 1
    return rows[[whole.get(catalog.path(row), False) for row in rows.tolist()]]
