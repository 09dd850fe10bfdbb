"""One picture of an archive: its bytes, and a copy of it as a file for programs that want one."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import xxhash

from clipsearch.archives.listing import TABLE_ENDINGS
from clipsearch.config import cache_dir
from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.formats import true_extension
from clipsearch.places import is_address
from clipsearch.records import ImageRecord
from clipsearch.removing import remove_own
from clipsearch.replacing import replacing

CACHE_BYTES = 2**30
_NAME = re.compile(r"[0-9a-f]{32}(\.[a-z0-9]{1,8})?")
CHANGED = "its file has changed since it was indexed"


def read_member(path: str, record: ImageRecord) -> bytes:
    """The bytes of a picture in the archive, or at the address, `path`. Raises: UnreadablePicture, also if they are
    others now."""
    name = record.where(record.path)
    try:
        if record.member and path.lower().endswith(TABLE_ENDINGS):
            from clipsearch.archives.tables import read_row

            content = read_row(path, record.offset)
        elif is_address(path):
            from clipsearch.archives.remote import read_object

            part = (record.offset, record.offset + record.size_bytes) if record.member else ()
            content = read_object(path, *part)
        else:
            from clipsearch.archives.tars import read_part

            content = read_part(path, record.offset, record.size_bytes)
    except OSError as error:
        raise UnreadablePicture(name, "unreadable", (error.strerror or str(error)).lower()) from error
    except ValueError as error:
        raise UnreadablePicture(name, "unreadable", str(error)) from error
    if record.content_hash is not None and xxhash.xxh3_128_hexdigest(content) != record.content_hash:
        raise UnreadablePicture(name, "unreadable", CHANGED)
    return content


def file_of(path: str, record: ImageRecord) -> str:
    """A file with the picture of a record, which is at `path`: that file, or a copy of what is in an archive or in
    object storage.

    Copies are kept by content in the cache, as long as there is space. Their extension is that of what they are, since
    programs go by it, and an archive may call a picture anything. Raises: UnreadablePicture.
    """
    if not record.member and not is_address(path):
        return path
    extension = true_extension(record.metadata.format, record.place)
    suffix = f".{extension}" if extension else ""
    if record.content_hash is None:
        raise UnreadablePicture(record.where(record.path), "unreadable", "its content is not known")
    place = cache_dir() / "members" / record.content_hash[:2] / f"{record.content_hash}{suffix}"
    if _is_whole(place, record):
        with contextlib.suppress(OSError):  # it only goes earlier when room is made
            os.utime(place)
        return os.fspath(place)
    content = read_member(path, record)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(place) as file:
            file.write(content)
    except OSError as error:
        problem = f"it cannot be copied out of its archive ({error.strerror})"
        raise UnreadablePicture(record.where(record.path), "unreadable", problem) from error
    _delete_oldest(place)
    return os.fspath(place)


def _is_whole(place: Path, record: ImageRecord) -> bool:
    """Whether a copy is there, and is the picture."""
    try:
        if place.stat().st_size != record.size_bytes:
            return False
        return xxhash.xxh3_128_hexdigest(place.read_bytes()) == record.content_hash
    except OSError:
        return False


def _is_named_by_its_content(file: Path) -> bool:
    return xxhash.xxh3_128_hexdigest(file.read_bytes()) == file.name[:32]


def _delete_oldest(but: Path) -> None:
    """Keep the folder of copies below CACHE_BYTES. Files of other names in it are not ours."""
    found = []
    with contextlib.suppress(OSError):  # what cannot be listed is not removed
        for folder in but.parent.parent.iterdir():
            if len(folder.name) == 2 and folder.is_dir() and not folder.is_symlink():
                found += [
                    (entry.stat().st_mtime, entry.stat().st_size, entry.path)
                    for entry in os.scandir(folder)
                    if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                ]
    left = sum(size_bytes for _, size_bytes, _ in found)
    for _, _, path in sorted(found):
        if left <= CACHE_BYTES or path == os.fspath(but):
            break
        left -= remove_own(Path(path), _is_named_by_its_content)
