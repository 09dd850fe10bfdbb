"""Many pictures through one image tower: in small runs, several side by side.

A run with one thread wastes nothing on handing out work inside the tower: for ViT-B-32 in bf16 on two cores, two
runs side by side took 9.5 ms a picture where one run with two threads took 11.7, in fp32 80 instead of 92 (the
built-in tower 7.0 instead of 7.5). Scaling and normalising happen inside the runs, too.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipsearch.encoder.arrays import scale_pixels, unit_rows
from clipsearch.encoder.layout import ModelDirectory
from clipsearch.encoder.sessions import ImageTower, filled
from clipsearch.records import FloatArray, PixelArray, Preprocessing

MOST_LANES = 8  # beyond that, a run gets several threads, so that batches of usual size fill the lanes
# More pictures at once fall out of the processor's caches: the built-in tower took 13.8 ms of CPU a picture with
# 4 or 8 at once and 19.6 with 32; ViT-B-32 76 with 4, 70 with 8 and 69 with 32 (two cores, AMX).
PICTURES_PER_RUN = 8
# Towers with fixed scales (see `precision`) are compared with fp32 on the first pictures of an index that has so many:
# for fewer, that takes longer than it saves. One that is there encodes so many pictures and more: loading it takes as
# long as encoding ten (ViT-B-32) to 60 (the built-in tower), and checking it on eight as eight in fp32.
LEAST_TO_COMPARE = 256
LEAST_GUARDED = 64
PICTURES_TO_COMPARE = 80  # 16 that may set the scales, and 64


def lanes_for(threads: int) -> int:
    """How many runs side by side suit so many threads."""
    return max(1, min(threads, MOST_LANES))


class Bulk:
    """Runs a tower on batches, in `lanes` threads, `per_run` pictures at a time."""

    def __init__(self, model: ModelDirectory, tower: ImageTower, preprocessing: Preprocessing, lanes: int) -> None:
        self._model = model
        self._tower = tower
        self._preprocessing = preprocessing
        self._lanes = lanes
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def lanes(self) -> int:
        """How many runs there are side by side."""
        return self._lanes

    def encode(self, pixels: PixelArray, per_run: int = PICTURES_PER_RUN) -> FloatArray:
        """Shapes: pixels (B, H, W, 3) uint8, B > 0; result (B, D) float32, unit L2. Raises: InvalidModel."""
        count = len(pixels)
        step = self._tower.fixed_batch or max(1, min(per_run, -(-count // self._lanes)))
        parts = [pixels[start : start + step] for start in range(0, count, step)]
        if self._lanes == 1 or len(parts) == 1:
            return np.concatenate([self._run(part) for part in parts])
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._lanes, thread_name_prefix="encode")
        return np.concatenate(list(self._pool.map(self._run, parts)))

    def _run(self, part: PixelArray) -> FloatArray:
        scaled = filled(scale_pixels(part, self._preprocessing), self._tower.fixed_batch)
        raw = self._tower.run(scaled)[: len(part)]
        return unit_rows(raw, len(part), self._model.dim, self._model.path, "image")
