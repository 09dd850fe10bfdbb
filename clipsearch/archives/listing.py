"""What all kinds of archives have in common."""

from __future__ import annotations

import contextlib
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

from clipsearch.records import PictureMetadata
from clipsearch.temporary import process_folder

TABLE_ENDINGS = (".parquet", ".arrow")
ARCHIVE_ENDINGS = (".tar", *TABLE_ENDINGS)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


def is_archive_name(name: str) -> bool:
    """Whether a file may hold pictures of its own, by its name."""
    return name[-8:].lower().endswith(ARCHIVE_ENDINGS) and not name.startswith(".")


class Spool:
    """A temporary file with pictures one behind the other, for other processes. It goes with its last member."""

    def __init__(self, suffix: str = "") -> None:
        folder = process_folder()
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(prefix="clipsearch-", suffix=suffix, dir=folder)  # noqa: SIM115
        self.path = self._file.name
        self.size_bytes = 0

    def add(self, content: bytes) -> int:
        """Write a picture. Returns where it is."""
        offset = self.size_bytes
        self._file.write(content)
        self.size_bytes += len(content)
        return offset

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Delete the file now, whoever holds it: an error, say, which keeps what there was when it was raised."""
        with contextlib.suppress(OSError):
            self._file.close()


@dataclass(frozen=True, slots=True)
class Member:
    """A picture in an archive: `size_bytes` at `at` in the file `place`, the archive itself or a copy.

    `offset` is where the archive has it: a byte of a tar, a row of a table. `said`: what stands beside it.
    """

    name: str
    size_bytes: int
    offset: int
    place: str
    at: int
    said: PictureMetadata
    keeps: Spool | None = field(default=None, compare=False)


class Archive:
    """The pictures of an archive. `damage` says what is wrong with it, as soon as that is known; `doubt`, what may be,
    if it has not all the pictures any more that it had."""

    rows: int  # how many pictures it has, read or not

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage: str | None = None
        self.doubt: str | None = None
        self.unkept: dict[str, str] = {}  # columns whose values say nothing in words, and what they have
        self.why_empty = "it has no pictures"

    @abstractmethod
    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Its pictures in order, but for those whose names are not `wanted`. Raises: OSError."""


def open_archive(path: str) -> Archive:
    """Open an archive by its name. Raises: OSError; ValueError, with the reason, if it is none."""
    if path.lower().endswith(TABLE_ENDINGS):
        from clipsearch.archives.tables import Table

        return Table(path)
    from clipsearch.archives.tars import Tar

    return Tar(path)
