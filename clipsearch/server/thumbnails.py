"""Small copies of pictures: decoded in a process of its own, encoded anew without metadata, kept on disk.

Kept by content hash and size, so a picture that was renamed, or is in two indexes, is made small once. The folder
stays below a size; what was not asked for longest is deleted first.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from clipsearch.config import cache_dir
from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.pool import DecodeResult
from clipsearch.records import ImageRecord, Preprocessing
from clipsearch.replacing import replacing
from clipsearch.server.decoders import Decoders

CACHE_BYTES = 1 << 30
MEDIA_TYPE = "image/jpeg"
_QUALITY = 82
_DECODED_AT = (256, 1024)  # smaller ones are made from the next of these
_KEEP_SHARE = 0.9  # of CACHE_BYTES, when too much was there
_TOUCH_AFTER_S = 86_400.0


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
        self._decoders = {
            side: Decoders(
                Preprocessing(side, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_mode="longest"),
                workers=workers if side == _DECODED_AT[0] else 1,
                timeout_s=timeout_s,
            )
            for side in _DECODED_AT
        }

    def get(self, record: ImageRecord, path: str, size: int) -> bytes:
        """The thumbnail of the picture at `path` as a JPEG whose longer side is at most `size`.

        A picture that changed since it was indexed is shown as it is now. Raises: UnreadablePicture.
        """
        if record.content_hash is not None and (kept := self._kept(record.content_hash, size)) is not None:
            self._observe("kept")
            return kept
        side = next(side for side in _DECODED_AT if side >= size)
        try:
            result = self._decoders[side].read(path)
        except UnreadablePicture:
            self._observe("failed")
            raise
        self._observe("made")
        jpeg = _encode(result, side, size)
        if result.content_hash is not None:
            self._keep(result.content_hash, size, jpeg)
        return jpeg

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
        """When each file was last wanted (to a day), its size and its path."""
        found = []
        for file in self.folder.glob("*/*.jpg"):
            with contextlib.suppress(OSError):
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        return found

    def _delete_oldest(self) -> int:
        files = sorted(self._files())
        left = sum(size_bytes for _, size_bytes, _ in files)
        for _, size_bytes, file in files:
            if left <= self._most_bytes * _KEEP_SHARE:
                break
            with contextlib.suppress(OSError):
                file.unlink()
                left -= size_bytes
        return left

    def close(self) -> None:
        """End the decoder processes."""
        for decoders in self._decoders.values():
            decoders.close()


def _encode(result: DecodeResult, side: int, size: int) -> bytes:
    """A JPEG without metadata from a picture that was decoded into the middle of a square."""
    assert result.pixels is not None
    assert result.width is not None
    assert result.height is not None
    longest = max(result.width, result.height)
    width, height = (max(1, round(length * side / longest)) for length in (result.width, result.height))
    left, top = (side - width) // 2, (side - height) // 2
    image = Image.fromarray(result.pixels[top : top + height, left : left + width])
    wanted = min(size, longest)
    if wanted < side:
        width, height = (max(1, round(length * wanted / longest)) for length in (result.width, result.height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=False)
    return buffer.getvalue()
