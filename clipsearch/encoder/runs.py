"""Pictures through a PyTorch tower in runs; on a CUDA device copying, computing and reading back overlap.

While the device computes one run, the next is copied into pinned memory and, on a stream of its own, to the device:
there are two of each buffer. Reading back needs no waiting either, as the vectors go to pinned memory. A run that
does not fit into the device's memory is halved, and so are those after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.encoder.arrays import check_norms, check_width, unit_rows
from clipsearch.errors import OutOfDeviceMemory
from clipsearch.records import FloatArray, PixelArray

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_BUFFERS = 2
_COPIERS = 4
_Results = Iterator[tuple[FloatArray, int]]  # unit vectors, and the number of the first

Tower = Callable[["torch.Tensor"], "torch.Tensor"]
"""Shapes: pixels (B, H, W, 3) uint8 on the device; vectors (B, D) of any float type there, not normalised."""


class Runs:
    """Runs pictures on `device`, at most `pictures` at a time. Calls from several threads wait for each other."""

    def __init__(self, device: torch.device, dim: int, name: Path, pictures: int) -> None:
        self.pictures = pictures
        """How many pictures a run has: halved where the memory of the device does not hold so many."""
        self._device = device
        self._dim = dim
        self._name = name
        self._buffers: list[_Buffer] = []
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None  # the same ones always: see `_Buffer`
        self._copiers: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def encode(self, tower: Tower, pixels: PixelArray) -> FloatArray:
        """Return one vector per picture. Shapes: pixels (B, H, W, 3) uint8; result (B, D) float32, unit L2.

        Raises: InvalidModel for numbers that are no vector; OutOfDeviceMemory where not even one picture fits.
        """
        import torch

        vectors = np.empty((len(pixels), self._dim), np.float32)
        done = 0
        with self._lock, torch.inference_mode():
            while done < len(pixels):
                fits = True
                try:
                    for rows, start in self._encode(tower, pixels[done:], done):
                        vectors[start : start + len(rows)] = rows
                        done = start + len(rows)
                except torch.OutOfMemoryError:
                    fits = False  # no more than this here: the error holds on to what it could not add to
                if not fits:
                    self._make_smaller(min(self.pictures, len(pixels) - done))
        return vectors

    def _encode(self, tower: Tower, pixels: PixelArray, first: int) -> _Results:
        step = min(self.pictures, len(pixels))
        if self._device.type == "cuda":
            return self._overlapping(tower, pixels, first, step)
        return self._one_by_one(tower, pixels, first, step)

    def _one_by_one(self, tower: Tower, pixels: PixelArray, first: int, step: int) -> _Results:
        import torch

        for start in range(0, len(pixels), step):
            part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + step]))
            raw = tower(part.to(self._device)).float().cpu().numpy()
            yield unit_rows(raw, len(part), self._dim, self._name, "image"), first + start

    def _overlapping(self, tower: Tower, pixels: PixelArray, first: int, step: int) -> _Results:
        import torch

        if self._streams is None:
            stream: Any = torch.cuda.Stream
            self._streams = stream(self._device), stream(self._device)
        copying, computing = self._streams
        computing.wait_stream(torch.cuda.current_stream(self._device))  # which may still write weights
        self._reserve((step, *pixels.shape[1:]))
        waiting: list[tuple[_Buffer, int, int]] = []
        for number, start in enumerate(range(0, len(pixels), step)):
            part = np.ascontiguousarray(pixels[start : start + step])
            count, buffer = len(part), self._buffers[number % _BUFFERS]
            if len(waiting) == _BUFFERS:
                yield self._read(*waiting.pop(0))
            self._copy(part, buffer.host.numpy())
            with torch.cuda.stream(copying):
                buffer.pixels[:count].copy_(buffer.host[:count], non_blocking=True)
            computing.wait_stream(copying)
            with torch.cuda.stream(computing):
                raw = tower(buffer.pixels[:count]).double()
                check_width(raw.shape, count, self._dim, self._name, "image")
                norms = raw.norm(dim=1, keepdim=True)
                buffer.vectors[:count].copy_((raw / norms).float(), non_blocking=True)
                buffer.norms[:count].copy_(norms[:, 0], non_blocking=True)
                buffer.computed.record(computing)
            waiting.append((buffer, count, first + start))
        for item in waiting:
            yield self._read(*item)

    def _copy(self, part: PixelArray, host: PixelArray) -> None:
        """In a few threads of our own: PyTorch's, one for each core, spin on cores that decode pictures."""
        if self._copiers is None:
            self._copiers = ThreadPoolExecutor(_COPIERS, thread_name_prefix="copy")
        share = -(-len(part) // _COPIERS)
        slices = [slice(start, min(start + share, len(part))) for start in range(0, len(part), share)]
        list(self._copiers.map(lambda rows: np.copyto(host[rows], part[rows]), slices))

    def _read(self, buffer: _Buffer, count: int, start: int) -> tuple[FloatArray, int]:
        buffer.computed.synchronize()
        check_norms(buffer.norms[:count].numpy(), self._name, "image")
        vectors: FloatArray = buffer.vectors[:count].numpy()
        return vectors, start

    def _reserve(self, shape: tuple[int, ...]) -> None:
        """Have buffers for at least so many pictures. Shape: (B, H, W, 3)."""
        if not self._buffers or len(self._buffers[0].host) < shape[0] or self._buffers[0].host.shape[1:] != shape[1:]:
            self._buffers = []
            self._buffers = [_Buffer.make(shape, self._dim, self._device) for _ in range(_BUFFERS)]

    def _make_smaller(self, tried: int) -> None:
        import torch

        self._buffers = []
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        if tried <= 1:
            raise OutOfDeviceMemory(str(self._device), str(self._name))
        self.pictures = tried // 2


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Of one run: its pixels in pinned memory and on the device, its vectors and their lengths in pinned memory.

    If a call is given up, what it began goes on, on the streams that the next call uses after it.
    """

    host: torch.Tensor
    pixels: torch.Tensor
    vectors: torch.Tensor
    norms: torch.Tensor
    computed: torch.cuda.Event

    @classmethod
    def make(cls, shape: tuple[int, ...], dim: int, device: torch.device) -> _Buffer:
        import torch

        event: Any = torch.cuda.Event
        return cls(
            torch.empty(shape, dtype=torch.uint8, pin_memory=True),
            torch.empty(shape, dtype=torch.uint8, device=device),
            torch.empty((shape[0], dim), dtype=torch.float32, pin_memory=True),
            torch.empty(shape[0], dtype=torch.float64, pin_memory=True),
            event(),
        )
