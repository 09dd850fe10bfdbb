"""Archives in a folder (tars, Parquet, Arrow): which of their pictures the index has, and which are to be read.

An archive of which all rows say the size and time that it has now, and as many as it has pictures, is unchanged and not
opened. Of any other, the pictures that an interrupted run has committed already are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipsearch.archives import Archive, open_archive
from clipsearch.archives.listing import TABLE_ENDINGS, Spool
from clipsearch.archives.remote import Storage
from clipsearch.archives.tables import row_of
from clipsearch.errors import first_line
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import Changes, is_cut
from clipsearch.indexer.scan import FileBlock, FoundFile, Within
from clipsearch.pictures.metadata import METADATA_VERSION
from clipsearch.records import ImageRecord, IntArray, SkipStatus
from clipsearch.store.columns import path_key

BoolArray = npt.NDArray[np.bool_]


@dataclass(slots=True)
class ArchiveToRead:
    """An archive that is new or different, or of which the index has only some pictures.

    `done`: the rows of pictures that the index has as they are, by number in the catalog.
    """

    file: FoundFile
    done: list[int] = field(default_factory=list)
    opened: Archive | None = None
    copy: Spool | None = None
    given: set[str] = field(default_factory=set)  # names of what the index has as it is, or the run was given to read

    def pictures_done(self, catalog: Catalog) -> int:
        """How many pictures of it the index has as they are."""
        return sum(catalog.is_member(row) and bool(catalog.starts[row]) for row in self.done)


def compare_archives(
    catalog: Catalog,
    found: list[FoundFile],
    changes: Changes,
    seen: BoolArray,
    *,
    retry: Callable[[ImageRecord], bool],
    reread_metadata: bool = False,
) -> list[ArchiveToRead]:
    """Compare an index with the archives that a walk has found, in order of their paths.

    Notes in `changes` what needs no reading, and in `seen` which rows were seen. Shape: seen (N,).
    """
    to_read = []
    for file in sorted(found, key=lambda file: file.path):
        rows = catalog.rows_at(file.path)
        seen[rows] = True
        if not len(rows):
            to_read.append(ArchiveToRead(file))
            continue
        whole = catalog.sizes[rows] == file.size_bytes
        same = whole & (catalog.mtimes_ns[rows] == file.mtime_ns)
        has_vector = (catalog.statuses[rows] != 0) | (catalog.vector_ids[rows] >= 0)
        if not same.any() and whole.all() and has_vector.all():
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
        is_read = len(done) < len(rows) or not are_all(catalog, rows)
        # What is wrong with an archive itself is found, and told, again where it is read.
        told = [record for row, record in skipped if row not in again and (record.member or not is_read)]
        changes.unchanged_skipped += told
        if is_read:
            to_read.append(ArchiveToRead(file, done))
    return to_read


def are_all(catalog: Catalog, rows: IntArray) -> bool:
    """Whether rows of one archive, as it was at one time, are of all pictures that it has."""
    pictures = catalog.numbers_of("archive_rows", rows)
    members = int(((pictures > 0) & catalog.starts[rows]).sum())
    return members == int(pictures.max()) if members else len(rows) > 0


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


def opened(
    root: str | os.PathLike[str], archive: ArchiveToRead, storage: Storage | None = None
) -> Archive | tuple[SkipStatus, str]:
    """An archive, open; or why it cannot be read. From object storage a copy is fetched."""
    try:
        if storage is not None:
            archive.copy = storage.fetch(archive.file.path, archive.file.size_bytes)
            archive.opened = open_archive(archive.copy.path)
        else:
            archive.opened = open_archive(os.path.join(root, archive.file.path))
    except OSError as error:
        return "unreadable", f"it cannot be read ({error.strerror or error})"
    except ValueError as error:
        return ("empty", "the file is empty") if not archive.file.size_bytes else ("corrupt", str(error))
    except Exception as error:  # whatever a reader meets in somebody's file
        return "corrupt", f"it cannot be read ({first_line(error)})"
    return archive.opened


def members_to_read(catalog: Catalog, archive: ArchiveToRead) -> Iterator[FoundFile]:
    """The pictures of an open archive that the index has not yet."""
    file, source = archive.file, archive.opened
    assert source is not None
    is_table = file.path.lower().endswith(TABLE_ENDINGS)
    archive.given |= {catalog.record(row).member for row in archive.done}
    done = {row_of(name) if is_table else name for name in archive.given}
    before: dict[str, str] | None = None  # names of rows, where any has lost what tells its format
    for member in source.members(lambda name: name not in done):
        name = member.name
        if is_table and name.isdigit():
            if before is None:
                names = [catalog.record(row).member for row in catalog.rows_at(file.path).tolist()]
                before = {row_of(own): own for own in names if own}
            name = before.get(name, name)
        archive.given.add(name)
        within = Within(
            file.size_bytes,
            source.rows,
            member.offset,
            member.said,
            member.place,
            member.at,
            member.keeps or archive.copy,
        )
        yield FoundFile(file.path, member.size_bytes, file.mtime_ns, file.inode, member=name, within=within)
