"""Tars as WebDataset has them: the members of a sample have one name, with different suffixes.

A tar is walked once for the places of its members, which are then read where they are.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from clipsearch.archives.listing import Archive, Member
from clipsearch.archives.said import MOST_CAPTION_BYTES, said_in, said_in_json
from clipsearch.filenames import readable
from clipsearch.pictures.formats import is_candidate

_SAID = ("txt", "json", "caption", "cls", "label", "url")
MOST_SAID_BYTES = 2**28  # of all that is said of the pictures of a tar, so that no tar fills the memory


def members_of(archive: tarfile.TarFile, size_bytes: int, damaged: Callable[[str], None]) -> Iterator[tarfile.TarInfo]:
    """The members up to the end, or up to where a damaged tar can no longer be followed: `damaged` is told where."""
    try:
        while (member := archive.next()) is not None:
            if member.offset_data + member.size > size_bytes:
                damaged(member.name)
                return
            yield member
            archive.members.clear()  # type: ignore[attr-defined]  # or they would all stay in memory
    except (tarfile.ReadError, EOFError) as error:
        damaged(str(error))
        return
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # neither the end nor a member: tarfile stops silently
        damaged(f"byte {archive.offset:,}")


def is_hidden(path: str) -> bool:
    """Whether a name starts with a dot, such as the `._photo.jpg` that macOS adds."""
    return path.rpartition("/")[2].startswith(".")


class Tar(Archive):
    """The pictures of a tar."""

    def __init__(self, path: str) -> None:
        """Raises: OSError, ValueError if it is no tar."""
        super().__init__(path)
        pictures: dict[str, tuple[int, int]] = {}
        said: dict[str, dict[str, Any]] = {}
        left_bytes = MOST_SAID_BYTES
        try:
            with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for member in members_of(archive, os.fstat(file.fileno()).st_size, self._note_damage):
                    if not member.isreg() or member.issparse() or is_hidden(member.name):
                        continue
                    name = readable(member.name.removeprefix("./"))  # the offset says which it is
                    stem, _, suffix = name.rpartition(".")
                    if suffix.lower() in _SAID and stem:
                        length = min(member.size, MOST_CAPTION_BYTES, left_bytes)
                        left_bytes -= length
                        file.seek(member.offset_data)
                        _note(said.setdefault(stem, {}), suffix.lower(), file.read(length))
                    elif stem and is_candidate(name.rpartition("/")[2]):
                        if name in pictures:  # a later one of the same name, which tar would write over the first
                            name = f"{name}@{member.offset_data}"
                        pictures[name] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise ValueError(f"not a readable tar: {error}") from error
        self._pictures, self._said = pictures, said
        self.rows = len(pictures)

    def _note_damage(self, where: str) -> None:
        self.damage = f"the tar is damaged or cut short at {where}; what follows is lost"

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        for name, (offset, size_bytes) in self._pictures.items():
            if wanted(name):
                yield Member(name, size_bytes, offset, self.path, offset, said_in(self._columns(name)))

    def _columns(self, name: str) -> dict[str, Any]:
        """What is said of a picture: under its own name without the suffix, or under that of its sample."""
        folder, slash, base = name.rpartition("/")
        stem = name.rpartition(".")[0]
        sample = f"{folder}{slash}{base.partition('.')[0]}"
        return {**self._said.get(sample, {}), **self._said.get(stem, {})}


def _note(columns: dict[str, Any], suffix: str, data: bytes) -> None:
    """Add what a member beside a picture says."""
    if suffix == "json":
        for name, value in (said_in_json(data) or {}).items():
            known = columns.get(name)
            columns[name] = [*known, value] if isinstance(known, list) and isinstance(value, str) else value
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    if suffix in ("txt", "caption"):
        columns["captions"] = [*columns.get("captions", []), *text.splitlines()]
    else:
        columns[suffix] = text.strip()


def read_part(path: str, offset: int, size_bytes: int) -> bytes:
    """Some bytes of a file. Raises: OSError, also if it ends before."""
    file: IO[bytes]
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size_bytes)
    if len(content) < size_bytes:
        raise OSError("the file ends before the picture does")
    return content
