"""Measure what encodes pictures fastest here: `python -m clipsearch.encoder.trial DIRECTORY THREADS`, see `precision`.

Reads pictures from standard input (.npy, (B, H, W, 3) uint8, prepared) and prints one JSON object a line: fp32 by
onnxruntime first, then each other candidate as soon as it is measured, the best one once more with the number of
pictures a run that suits it.
"""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from clipsearch.encoder.bulk import PICTURES_PER_RUN, Bulk, lanes_for
from clipsearch.encoder.layout import ModelDirectory, read_model_directory
from clipsearch.encoder.precision import FIXED, PLAIN, Choice, fastest, load_tower
from clipsearch.errors import ClipsearchError
from clipsearch.records import FloatArray, PixelArray

OTHER_SIZES = (4, 16)  # pictures a run
SIZES_WORTH_S = 1.0  # try other sizes if that takes no longer
LEAST_SIZE_GAIN = 1.05
REPEATS = 3
REPEATED_BELOW_S = 0.25  # one run that takes longer is measured well enough


def candidates() -> list[Choice]:
    """What is worth trying with what is installed, besides fp32 by onnxruntime."""
    found: list[Choice] = []
    bf16 = False
    if find_spec("openvino") is not None:
        from clipsearch.encoder.openvino import has_bf16

        bf16 = has_bf16()
        found.append(Choice("openvino", "bf16" if bf16 else "fp32"))
    if find_spec("onnx") is not None and not bf16:  # bf16 is as fast, and int8 takes long to make
        found.append(FIXED["int8"])
    return found


def measure(model: ModelDirectory, pixels: PixelArray, threads: int) -> list[Choice]:
    """Measure each candidate and print it. Shape: pixels (B, H, W, 3) uint8. Raises: InvalidModel."""
    bulk = _load(model, PLAIN, threads)
    exact = bulk.encode(pixels)
    seconds = _seconds(bulk, pixels, PICTURES_PER_RUN)
    measured = [_report(replace(PLAIN, mean_cosine=1.0, least_cosine=1.0, pictures_per_s=len(pixels) / seconds))]
    loaded = {PLAIN.engine + PLAIN.precision: bulk}
    for candidate in candidates():
        try:
            bulk = _load(model, candidate, threads)
            mean, least = _cosines(bulk.encode(pixels, candidate.per_run), exact)
            seconds = _seconds(bulk, pixels, candidate.per_run)
        except ClipsearchError:
            continue
        loaded = {**loaded, candidate.engine + candidate.precision: bulk}
        speed = len(pixels) / seconds
        measured.append(
            _report(replace(candidate, mean_cosine=mean, least_cosine=least, pictures_per_s=speed)),
        )
    best = fastest(measured, model.checked_precisions)
    measured.append(_report(_with_best_size(best, loaded[best.engine + best.precision], pixels, threads)))
    return measured


def _with_best_size(best: Choice, bulk: Bulk, pixels: PixelArray, threads: int) -> Choice:
    speed = best.pictures_per_s or 0.0
    if best.precision == "int8":
        return best
    many = np.concatenate([pixels] * -(-max(OTHER_SIZES) * lanes_for(threads) // len(pixels)))
    if len(many) * REPEATS * (len(OTHER_SIZES) + 1) > SIZES_WORTH_S * speed:
        return best
    sizes = {size: len(many) / _seconds(bulk, many, size) for size in (PICTURES_PER_RUN, *OTHER_SIZES)}
    size = max(sizes, key=lambda size: sizes[size])
    if sizes[size] < LEAST_SIZE_GAIN * sizes[PICTURES_PER_RUN]:
        size = PICTURES_PER_RUN
    return replace(best, per_run=size, pictures_per_s=max(speed, sizes[size]))


def _load(model: ModelDirectory, choice: Choice, threads: int) -> Bulk:
    assert model.preprocessing is not None
    return Bulk(model, load_tower(model, choice, threads), model.preprocessing, lanes_for(threads))


def _seconds(bulk: Bulk, pixels: PixelArray, per_run: int) -> float:
    """The shortest of a few runs: other programs only ever make it longer."""
    times: list[float] = []
    while not times or (len(times) < REPEATS and sum(times) < REPEATED_BELOW_S):
        started = time.perf_counter()
        bulk.encode(pixels, per_run)
        times.append(time.perf_counter() - started)
    return min(times)


def _cosines(vectors: FloatArray, exact: FloatArray) -> tuple[float, float]:
    cosines = (vectors.astype(np.float64) * exact).sum(axis=1)
    return float(cosines.mean()), float(cosines.min())


def _report(choice: Choice) -> Choice:
    print(json.dumps(asdict(choice)), flush=True)
    return choice


def main() -> None:
    """Entry point of the process that `precision.choose` starts."""
    model = read_model_directory(Path(sys.argv[1]))
    pixels = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    measure(model, pixels, int(sys.argv[2]))


if __name__ == "__main__":
    main()
