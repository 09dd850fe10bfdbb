"""Tars as WebDataset has them: the members of a sample have one name, with different suffixes.

A tar is walked once for the places of its members, which are then read where they are.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from clipsearch.archives.listing import Archive, Member
from clipsearch.archives.said import MOST_CAPTION_BYTES, said_in, said_in_json
from clipsearch.errors import first_line
from clipsearch.filenames import readable
from clipsearch.pictures.folders import category_of
from clipsearch.pictures.formats import is_candidate

_SAID = ("txt", "json", "caption", "cls", "label", "url")
_COMPRESSED_HEADS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
END_BYTES = tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE  # of zeros, as nearly all programs end a tar
MOST_END_BYTES = 2**21  # for tapes
AT_ONCE = 2**20
MOST_SAID_BYTES = 2**28  # of all that is said of the pictures of a tar, so that no tar fills the memory


def members_of(
    archive: tarfile.TarFile,
    size_bytes: int,
    damaged: Callable[[str], None],
    doubtful: Callable[[str], None] = lambda _: None,
) -> Iterator[tarfile.TarInfo]:
    """The members up to the end, also of tars that were written one behind the other, or up to where a damaged tar can
    no longer be followed: `damaged` is told where. `doubtful` is told of an end that no program is known to write."""
    while True:
        before = archive.offset
        try:
            member = archive.next()
        except OSError:
            raise
        except Exception as error:  # tarfile trusts what headers say: numbers, depths, maps of sparse files
            damaged(first_line(error) if isinstance(error, tarfile.TarError | EOFError) else f"byte {before:,}")
            return
        if member is not None:
            if member.size < 0 or archive.offset <= before < member.offset_data:  # it would lead back
                damaged(f"byte {before:,}")
                return
            if not member.issparse() and member.offset_data + member.size > size_bytes:
                damaged(member.name)
                return
            yield member
            archive.members.clear()  # type: ignore[attr-defined]  # or they would all stay in memory
            continue
        at = archive.offset
        zeros, block = _after_zeros(cast(IO[bytes], archive.fileobj), at)
        if not block:  # the end
            if zeros > MOST_END_BYTES:
                damaged(f"byte {at:,}, from where there are only zeros")
            elif not zeros or zeros > END_BYTES:
                doubtful(f"the tar may be cut short: it has no end mark at byte {at:,}")
            return
        if not _is_header(block):  # neither the end nor a member: tarfile stops silently
            damaged(f"byte {at:,}")
            return
        if zeros > END_BYTES:
            damaged(f"byte {at:,}, where it has {zeros:,} zeros")
        archive.offset = at + zeros  # the next of several tars


def _after_zeros(file: IO[bytes], at: int) -> tuple[int, bytes]:
    """How many bytes in whole blocks are zeros from `at` on, and the block that follows them; none at the end."""
    start = at
    file.seek(at)
    while data := file.read(AT_ONCE):
        if data.count(0) < len(data):
            zeros = len(data) - len(data.lstrip(b"\0"))
            at += zeros - zeros % tarfile.BLOCKSIZE
            file.seek(at)
            return at - start, file.read(tarfile.BLOCKSIZE)
        at += len(data)
    return at - start, b""


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def is_hidden(path: str) -> bool:
    """Whether a member is none of the user's, as of a folder: its name or one of its folders starts with a dot, such as
    the `._photo.jpg` that macOS adds, or is one of other programs, such as `@eaDir`."""
    *folders, name = path.split("/")
    if name.startswith("."):
        return True
    return any(
        (one.startswith(".") and one not in (".", "..")) or category_of(one) is not None for one in folders if one
    )


class Tar(Archive):
    """The pictures of a tar."""

    def __init__(self, path: str) -> None:
        """Raises: OSError, ValueError if it is no tar."""
        super().__init__(path)
        pictures: dict[str, tuple[str, int, int]] = {}  # the name in the tar, which need not be UTF-8; offset, bytes
        places: dict[str, tuple[int, int]] = {}  # what later members may be hard links to
        said: dict[str, dict[str, Any]] = {}
        left_bytes = MOST_SAID_BYTES
        try:
            with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                size_bytes = os.fstat(file.fileno()).st_size
                for member in members_of(archive, size_bytes, self._note_damage, self._note_doubt):
                    own_name = member.name.removeprefix("./")
                    stem, _, suffix = own_name.rpartition(".")
                    is_said = suffix.lower() in _SAID
                    if not stem or not (is_said or is_candidate(own_name.rpartition("/")[2])):
                        continue
                    if member.islnk():
                        place = places.get(member.linkname.removeprefix("./"))
                    else:
                        place = (member.offset_data, member.size) if member.isreg() and not member.issparse() else None
                    if place is None:
                        continue
                    places[own_name] = place
                    if is_hidden(own_name):
                        continue
                    offset, size = place
                    if is_said:
                        length = min(size, MOST_CAPTION_BYTES, left_bytes)
                        left_bytes -= length
                        file.seek(offset)
                        _note(said.setdefault(stem, {}), suffix.lower(), file.read(length))
                        continue
                    name = readable(own_name)
                    if name in pictures:  # a later one of the same name, which tar would write over the first
                        name = f"{name}@{member.offset_data}"
                    pictures[name] = (own_name, *place)
        except OSError:
            raise
        except Exception as error:  # of its first header: see members_of
            raise ValueError(_why_none(path, error)) from error
        self._pictures, self._said = pictures, said
        self.rows = len(pictures)

    def _note_damage(self, where: str) -> None:
        if self.damage is None:
            self.damage = f"the tar is damaged or cut short at {where}; what follows may be lost"

    def _note_doubt(self, what: str) -> None:
        self.doubt = what

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        for name, (own_name, offset, size_bytes) in self._pictures.items():
            if wanted(name):
                yield Member(name, size_bytes, offset, self.path, offset, said_in(self._columns(own_name)))

    def _columns(self, name: str) -> dict[str, Any]:
        """What is said of a picture: under its own name without the suffix, or under that of its sample."""
        folder, slash, base = name.rpartition("/")
        stem = name.rpartition(".")[0]
        sample = f"{folder}{slash}{base.partition('.')[0]}"
        return {**self._said.get(sample, {}), **self._said.get(stem, {})}


def _why_none(path: str, error: Exception) -> str:
    """Why a file is no tar."""
    with open(path, "rb") as file:
        head = file.read(8)
    how = next((name for magic, name in _COMPRESSED_HEADS.items() if head.startswith(magic)), None)
    if how is None:
        return f"not a readable tar: {first_line(error)}"
    return f"it is compressed with {how}. Decompress it first"


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
