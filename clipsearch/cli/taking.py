"""What `clipsearch query` does with hits besides printing them: it copies or opens them, out of their archives too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from clipsearch.archives import file_of
from clipsearch.archives.members import CHANGED
from clipsearch.checksums import file_checksum
from clipsearch.cli.options import EXIT_ERROR, notice, quoted
from clipsearch.cli.terminal import count
from clipsearch.errors import StorageError, UnreadablePicture
from clipsearch.filenames import to_bytes
from clipsearch.pictures.notebook import is_as_indexed
from clipsearch.places import is_address, is_file, leads_out
from clipsearch.records import Hit
from clipsearch.replacing import creating

GONE = "the file no longer exists"
_BLOCK = 2**20
MOST_NAME_BYTES = 255
MOST_ENDING_BYTES = 16


def copy_hits(hits: Iterable[Hit], folder: Path) -> None:
    """Copy the pictures of hits into a folder, which is made if need be. No file there is overwritten, and each copy
    is whole.

    Raises: StorageError, and typer.Exit if a picture could not be copied.
    """
    copied = failed = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for hit in hits:
            try:
                source = Path(file_of_hit(hit))
                target = _target(folder, hit, source)
                if target is not None:
                    with creating(target) as file:
                        for block in _blocks(source, hit):
                            file.write(block)
                copied += 1
            except UnreadablePicture as error:
                failed += 1
                notice(str(error))
    except OSError as error:
        raise StorageError(folder, f"cannot copy to it ({error.strerror or error})", "Name another folder.") from error
    print(f"{count(copied, 'picture')} copied to {quoted(folder)}", file=sys.stderr)
    if failed:
        raise typer.Exit(EXIT_ERROR)


def _blocks(source: Path, hit: Hit) -> Iterator[bytes]:
    """What is in the file of a hit. Raises: UnreadablePicture."""
    try:
        with source.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except FileNotFoundError:
        raise UnreadablePicture(hit.where, "unreadable", GONE) from None
    except OSError as error:
        raise UnreadablePicture(hit.where, "unreadable", (error.strerror or str(error)).lower()) from error


def _target(folder: Path, hit: Hit, source: Path) -> Path | None:
    """What to call the copy of a hit; None if it is there already. Raises: UnreadablePicture."""
    name = hit.record.place.rpartition("/")[2]
    if Path(name).suffix.lower() != source.suffix.lower():  # a copy out of an archive, named by what it is
        name += source.suffix
    stem, suffix = Path(name).stem, Path(name).suffix
    if len(to_bytes(suffix)) > MOST_ENDING_BYTES:  # no ending, and none is lost: the one that it has was added
        stem, suffix = name, ""
    numbered = f"-{hit.record.row_id}{suffix}"
    for tried in (_cut(stem, suffix), _cut(stem, numbered)):
        target = folder / tried
        if not target.exists() and not target.is_symlink():
            return target
        if target.is_file() and _is_copy(target, source, hit):
            return None
    raise StorageError(folder / name, "another file has this name", "Name an empty folder.")


def _cut(stem: str, ending: str) -> str:
    """A name that file systems take: members of archives may have longer ones."""
    room = MOST_NAME_BYTES - len(to_bytes(ending))
    raw = to_bytes(stem)
    return (stem if len(raw) <= room else raw[:room].decode("utf-8", "ignore")) + ending


def _is_copy(target: Path, source: Path, hit: Hit) -> bool:
    """Whether a file holds the bytes of a hit. Raises: UnreadablePicture, OSError."""
    with target.open("rb") as file:
        return all(block == file.read(len(block)) for block in _blocks(source, hit)) and not file.read(1)


def open_hit(hit: Hit) -> None:
    """Open the picture of a hit with the program that the system has for it. Raises: UnreadablePicture."""
    typer.launch(file_of_hit(hit))


def file_of_hit(hit: Hit) -> str:
    """A file with the picture of a hit, as it was indexed: another one may have its name now, or a link to one.

    Raises: UnreadablePicture.
    """
    record = hit.record
    if record.member or is_address(hit.path):  # of which every byte is compared
        return file_of(hit.path, record)
    if not is_file(hit.path):
        raise UnreadablePicture(hit.where, "unreadable", GONE)
    try:
        same = is_as_indexed(hit.path, record)
        if same and leads_out(hit.path.removesuffix(record.path), record.path):  # where size and time prove less
            content = file_checksum(Path(hit.path), remember_from_bytes=record.size_bytes + 1)
            same = content == record.content_hash
    except OSError as error:
        raise UnreadablePicture(hit.where, "unreadable", (error.strerror or str(error)).lower()) from error
    if not same:
        raise UnreadablePicture(hit.where, "unreadable", CHANGED)
    return hit.path
