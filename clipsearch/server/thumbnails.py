"""Small copies of pictures: decoded in a process of its own, encoded anew without metadata, kept on disk.

Kept by content hash and size, so a picture that was renamed, or is in two indexes, is made small once. The folder
stays below a size; what was not asked for longest is deleted first. Files of other names in it are not ours.

The larger sizes are for looking at: also of what browsers cannot show (RAW, HEIC, TIFF). A long picture, more than
`LONG` times its short side, may have `LONG` times as many pixels along it, else nobody could read it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from clipsearch.archives import file_of
from clipsearch.config import cache_dir
from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.pool import DecodeResult
from clipsearch.places import is_unchanged
from clipsearch.query.arguments import THUMBNAIL_SIZES
from clipsearch.records import ImageRecord, Preprocessing
from clipsearch.removing import remove_own
from clipsearch.replacing import replacing
from clipsearch.server.decoders import Decoders
from clipsearch.store.hashes import vector_key

CACHE_BYTES = 1 << 30
MEDIA_TYPE = "image/jpeg"
_QUALITY = 82

LONG = 3
_DECODED_AT = (256, 1024, 2048, 4096)  # smaller ones are made from the next of these
_LONG_FROM = 2048  # smaller ones are of long pictures like of others
_KEEP_SHARE = 0.9  # of CACHE_BYTES, when too much was there
_TOUCH_AFTER_S = 86_400.0
_TURNS = 16
_FOLDER = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(rf"([0-9a-f]{{2}})[0-9a-f]{{30}}-({'|'.join(map(str, THUMBNAIL_SIZES))})\.jpg")
_OURS = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"
"""How a JPEG without metadata begins."""


class Thumbnails:
    """Makes and keeps thumbnails. Safe to use from many threads."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        workers: int = 2,
        most_bytes: int = CACHE_BYTES,
        timeout_s: float = 10.0,
        observe: Callable[[str], None] = lambda result: None,
    ) -> None:
        """`folder` is in the cache folder by default. `observe` is told "kept", "made" or "failed" for each."""
        self.folder = folder or cache_dir() / "thumbnails"
        self._most_bytes = most_bytes
        self._observe = observe
        self._lock = threading.Lock()
        self._size_bytes: int | None = None  # of the folder; None until it was looked through
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        boxes = [(side, side) for side in _DECODED_AT]
        for side in _DECODED_AT:
            if side >= _LONG_FROM:
                boxes += [(side * LONG, side // LONG), (side // LONG, side * LONG)]
        self._decoders = {
            (width, height): Decoders(
                Preprocessing(height, width, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_mode="longest"),
                workers=workers if width == height == _DECODED_AT[0] else 1,
                timeout_s=timeout_s,
            )
            for width, height in boxes
        }

    def get(self, record: ImageRecord, path: str, size: int, *, as_now: bool = False) -> tuple[bytes, str | None]:
        """The thumbnail of the picture at `path` as a JPEG of `size`, and the hash of the content that it shows.

        A picture that changed since it was indexed is shown as it is now, not one in an archive: where it was kept as
        it was, only with `as_now`. Raises: UnreadablePicture.
        """
        name = vector_key(record)  # of a part of a file: the part, too
        changed = as_now and not record.member and not is_unchanged(path, record.size_bytes, record.mtime_ns)
        if name is not None and not changed and (kept := self._kept(name, size)) is not None:
            self._observe("kept")
            return kept, record.content_hash
        box, most = _box(record, size)
        try:
            with self._turn_of(record):
                result = self._decoders[box].read(file_of(path, record), start_s=record.part_at)
        except UnreadablePicture:
            self._observe("failed")
            raise
        self._observe("made")
        jpeg = _encode(result, box, most)
        if record.part_at is not None:  # nothing was hashed: of a video that would take long
            shown = record.content_hash if is_unchanged(path, record.size_bytes, record.mtime_ns) else None
        else:
            shown = name = result.content_hash
        if shown is not None and name is not None:
            self._keep(name, size, jpeg)
        return jpeg, shown

    def _turn_of(self, record: ImageRecord) -> contextlib.AbstractContextManager[object]:
        """Angles of one 3-D model are drawn one after another, so by one process, which then reads it once."""
        if record.angle is None:
            return contextlib.nullcontext()
        return self._turns[hash(record.content_hash or record.path) % _TURNS]

    def _file(self, content_hash: str, size: int) -> Path:
        return self.folder / content_hash[:2] / f"{content_hash}-{size}.jpg"

    def _kept(self, content_hash: str, size: int) -> bytes | None:
        file = self._file(content_hash, size)
        try:
            jpeg = file.read_bytes()
            if time.time() - file.stat().st_mtime > _TOUCH_AFTER_S:
                os.utime(file)
        except OSError:
            return None
        return jpeg if jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9") else None

    def _keep(self, content_hash: str, size: int, jpeg: bytes) -> None:
        """Write one file; failing to is no error."""
        file = self._file(content_hash, size)
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(file) as stream:
                stream.write(jpeg)
        with self._lock:
            if self._size_bytes is None:
                self._size_bytes = sum(size_bytes for _, size_bytes, _ in self._files())
            else:
                self._size_bytes += len(jpeg)
            if self._size_bytes > self._most_bytes:
                self._size_bytes = self._delete_oldest()

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each of our files was last wanted (to a day), its size and its path."""
        found = []
        for folder in self.folder.glob("??"):
            if _FOLDER.fullmatch(folder.name) is None or folder.is_symlink():
                continue
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    match = _NAME.fullmatch(entry.name)
                    if match is not None and match[1] == folder.name and entry.is_file(follow_symlinks=False):
                        status = entry.stat()
                        found.append((status.st_mtime, status.st_size, folder / entry.name))
        return found

    def _delete_oldest(self) -> int:
        files = sorted(self._files())
        left = sum(size_bytes for _, size_bytes, _ in files)
        for _, _, file in files:
            if left <= self._most_bytes * _KEEP_SHARE:
                break
            left -= remove_own(file, _is_thumbnail)
        return left

    def close(self) -> None:
        """End the decoder processes."""
        for decoders in self._decoders.values():
            decoders.close()


def _is_thumbnail(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_OURS)) == _OURS


def _box(record: ImageRecord, size: int) -> tuple[tuple[int, int], int]:
    """The box that a picture is decoded into (width, height), and how long its longer side may be."""
    width, height = record.width or 1, record.height or 1
    longest, shortest = max(width, height), max(1, min(width, height))
    if size >= _LONG_FROM and longest > LONG * shortest and longest > size:
        most = min(LONG * size, size * longest // (LONG * shortest))
        return ((LONG * size, size // LONG) if width > height else (size // LONG, LONG * size)), most
    wanted = min(size, longest) if record.width else size
    side = next(side for side in _DECODED_AT if side >= wanted)
    return (side, side), size


def _encode(result: DecodeResult, box: tuple[int, int], most: int) -> bytes:
    """A JPEG without metadata from a picture that was decoded into the middle of a box, `most` pixels long at most."""
    assert result.pixels is not None
    assert result.width is not None
    assert result.height is not None
    scale = min(box[0] / result.width, box[1] / result.height)
    width, height = (max(1, round(length * scale)) for length in (result.width, result.height))
    left, top = (box[0] - width) // 2, (box[1] - height) // 2
    image = Image.fromarray(result.pixels[top : top + height, left : left + width])
    longest = max(result.width, result.height)
    wanted = min(most, longest)
    if wanted < max(width, height):
        width, height = (max(1, round(length * wanted / longest)) for length in (result.width, result.height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=False)
    return buffer.getvalue()
