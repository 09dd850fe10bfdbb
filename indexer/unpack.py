"""The pictures in the archives of a run: given to be read, one archive after another, and what is gone from them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsearch.archives import Archive, open_archive
from clipsearch.archives.listing import TABLE_ENDINGS
from clipsearch.archives.tables import row_of
from clipsearch.errors import first_line
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import ArchiveToRead
from clipsearch.indexer.scan import FoundFile, Within
from clipsearch.records import SkipStatus


@dataclass(frozen=True, slots=True)
class Unread:
    """An archive that cannot be read, or not to its end, and why. `given`: names of pictures that are there."""

    file: FoundFile
    status: SkipStatus
    reason: str
    given: Collection[str] = ()
    has_pictures: bool = True
    error: OSError | None = None  # of whoever was asked for it


@dataclass(frozen=True, slots=True)
class _Read:
    """What is remembered of an archive whose pictures were all given to be read. There may be 100,000 of them."""

    file: FoundFile
    rows: int
    damage: str | None
    doubt: str | None
    why_empty: str
    given: Collection[str]


class Unpacking:
    """The archives that a run reads. `found`: the pictures in those that were opened so far."""

    def __init__(self, root: Path, catalog: Catalog, *, keeps_names: bool = False) -> None:
        """`keeps_names`: of archives of which the catalog has nothing, too."""
        self.found = 0
        self.unkept: dict[str, str] = {}  # columns of tables that are not kept, and what they have
        self._keeps_names = keeps_names
        self._root = root
        self._catalog = catalog
        self._read: list[_Read] = []

    def members(self, archive: ArchiveToRead) -> Iterator[FoundFile | Unread]:
        """The pictures of an archive that are to be read; what cannot be said of it."""
        source = opened(self._root, archive)
        if isinstance(source, Unread):
            yield source
            return
        self.found += source.rows - archive.pictures_done(self._catalog)
        self.unkept |= source.unkept
        try:
            yield from members_to_read(self._catalog, archive)
        except OSError as error:
            reason = f"it cannot be read ({error.strerror or error})"
            yield Unread(archive.file, "unreadable", reason, archive.given, error=error)
        except Exception as error:  # whatever a reader meets in somebody's file, the other files are read
            yield Unread(archive.file, "corrupt", f"it cannot be read ({first_line(error)})", archive.given)
        else:
            is_known = self._keeps_names or len(self._catalog.rows_at(archive.file.path)) > 0
            given = archive.given if is_known else ()
            damage, doubt = source.damage, source.doubt
            self._read.append(_Read(archive.file, source.rows, damage, doubt, source.why_empty, given))
        archive.copy = archive.opened = None  # its members hold the copy

    def gone(self, dropped: Collection[int]) -> Iterator[int | Unread]:
        """The rows of what archives do not have any more, but for those that are `dropped` already. Of an archive that
        is damaged they stay."""
        for read in self._read:
            if read.damage is not None:
                yield Unread(read.file, "truncated", read.damage, read.given)
                continue
            rows = [row for row in self._catalog.rows_at(read.file.path).tolist() if row not in dropped]
            gone = {row: old for row in rows if (old := self._catalog.record(row)).member not in read.given}
            if read.doubt is not None and any(old.member and old.status == "ok" for old in gone.values()):
                yield Unread(read.file, "truncated" if read.rows else "not_a_picture", read.doubt, read.given)
                continue
            if not read.rows:
                yield Unread(read.file, "not_a_picture", read.why_empty, read.given, has_pictures=False)
                gone = {row: old for row, old in gone.items() if old.member}
            yield from gone


def opened(root: Path, archive: ArchiveToRead) -> Archive | Unread:
    """An archive, or its copy, open; or why it cannot be read."""
    file = archive.file
    try:
        if archive.problem is not None:
            raise archive.problem
        path = os.fspath(root / file.path) if archive.copy is None else archive.copy.path
        archive.opened = open_archive(path)
    except OSError as error:
        return Unread(file, "unreadable", f"it cannot be read ({error.strerror or error})", error=error)
    except ValueError as error:
        if not file.size_bytes:
            return Unread(file, "empty", "the file is empty")
        return Unread(file, "corrupt", str(error))
    except Exception as error:  # whatever a reader meets in somebody's file
        return Unread(file, "corrupt", f"it cannot be read ({first_line(error)})")
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
