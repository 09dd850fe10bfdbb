"""Read pictures in processes of their own, for threads that wait for them."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import LifoQueue

from clipsearch.errors import GONE, UnreadablePicture
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.query.crops import Crop
from clipsearch.records import PixelArray, Preprocessing

MEMORY_LIMIT_BYTES = 2 << 30
MAX_PIXELS = 2**27  # a JPEG that is decoded at a reduced size may have four times as many


class Decoders:
    """Decoder processes, each for one picture at a time; they start when they are needed.

    A picture that hangs or kills its process costs only itself. `single_use`: a process reads one picture in its life,
    so that what a stranger sent cannot touch what the next one sends. `pieces`, `views`: see `DecodePool`.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        workers: int,
        timeout_s: float = 10.0,
        max_pixels: int = MAX_PIXELS,
        single_use: bool = False,
        pieces: bool = False,
        views: int = 1,
    ) -> None:
        self.preprocessing = preprocessing
        self._lock = threading.Lock()
        self._unmade = workers
        self._closed = False
        self._pools: list[DecodePool] = []
        self._free: LifoQueue[DecodePool] = LifoQueue()
        self._timeout_s = timeout_s
        self._max_pixels = max_pixels
        self._single_use = single_use
        self._pieces = pieces
        self._views = views

    def read(
        self, path: str | os.PathLike[str], crop: Crop | None = None, *, start_s: float | None = None
    ) -> DecodeResult:
        """Decode the picture at `path`, or a part of it, as `preprocessing` wants it: of a video its first frame, of a
        document its first page. Or what a video shows at a moment, unhashed.

        Raises: UnreadablePicture.
        """
        return self._result(DecodeTask(0, os.fspath(path), crop=crop, start_s=start_s, alone=True))

    def look(
        self, path: str | os.PathLike[str], longest: int, *, start_s: float | None = None
    ) -> tuple[PixelArray, tuple[int, int], str | None]:
        """The picture at `path` as it is, upright, its longer side at most `longest` (no more than `preprocessing`
        takes); or what a video shows at a moment.

        Returns: pixels (H, W, 3), the size of the whole picture, its content hash. Raises: UnreadablePicture.
        """
        result = self._result(DecodeTask(0, os.fspath(path), "look", longest=longest, start_s=start_s))
        assert result.pixels is not None
        assert result.width is not None
        assert result.height is not None
        return result.pixels, (result.width, result.height), result.content_hash

    def _result(self, task: DecodeTask) -> DecodeResult:
        path = task.path
        try:
            size_bytes = os.stat(path).st_size  # noqa: PTH116
        except (OSError, ValueError):
            raise UnreadablePicture(path, "unreadable", GONE) from None
        with self._pool() as pool:
            pool.submit(dataclasses.replace(task, size_bytes=size_bytes))
            result = pool.next_result()
        if result is None:
            raise UnreadablePicture(path, "unreadable", "the server is shutting down")
        if result.skip is not None:
            raise UnreadablePicture(path, *result.skip)
        return result

    @contextmanager
    def _pool(self) -> Iterator[DecodePool]:
        with self._lock:
            if self._closed:
                raise ValueError("the decoders are closed")
            if self._free.empty() and self._unmade:
                self._unmade -= 1
                made = DecodePool(
                    self.preprocessing,
                    workers=1,
                    timeout_s=self._timeout_s,
                    max_pixels=self._max_pixels,
                    memory_limit_bytes=MEMORY_LIMIT_BYTES,
                    single_use=self._single_use,
                    pieces=self._pieces,
                    views=self._views,
                )
                self._pools.append(made)
                self._free.put(made)
        pool = self._free.get()
        try:
            yield pool
        finally:
            self._free.put(pool)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, []
        for pool in pools:
            pool.close()
