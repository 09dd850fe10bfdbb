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
from clipsearch.encoder.layout import TEXTUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.encoder.precision import PLAIN, Choice, fastest, load_tower
from clipsearch.encoder.rankings import LEAST_PICTURES, TEXTS, agreement
from clipsearch.encoder.static import make_static_tower
from clipsearch.errors import ClipsearchError
from clipsearch.records import FloatArray, PixelArray

OTHER_SIZES = (4, 16)  # pictures a run
SIZES_WORTH_S = 1.0  # try other sizes if that takes no longer
LEAST_SIZE_GAIN = 1.05
REPEATS = 3
WARMING = 1  # runs
CALIBRATING = 16  # pictures
REPEATED_BELOW_S = 0.25  # one run that takes longer is measured well enough


def candidates() -> list[Choice]:
    """What is worth trying with what is installed, besides fp32 by onnxruntime."""
    if find_spec("openvino") is None:
        return []
    from clipsearch.encoder.openvino import has_bf16

    return [Choice("openvino", "bf16" if has_bf16() else "fp32")]


def measure(model: ModelDirectory, pixels: PixelArray, threads: int) -> list[Choice]:
    """Measure each candidate and print it. Shape: pixels (B, H, W, 3) uint8. Raises: InvalidModel."""
    bulk = _load(model, PLAIN, threads)
    exact, seconds = _encode(bulk, pixels, PICTURES_PER_RUN)
    measured = [_report(replace(PLAIN, mean_cosine=1.0, least_cosine=1.0, pictures_per_s=len(pixels) / seconds))]
    loaded = {PLAIN.engine + PLAIN.precision: bulk}
    for candidate in candidates():
        try:
            bulk = _load(model, candidate, threads)
            vectors, seconds = _encode(bulk, pixels, candidate.per_run)
            mean, least = _cosines(vectors, exact)
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


def measure_static(model: ModelDirectory, pixels: PixelArray, threads: int) -> None:
    """Make a tower with fixed scales of the first pictures, measure it beside fp32, and print both.

    Its rankings are compared on pictures that set no range, if there are enough. Shape: pixels (B, H, W, 3) uint8.
    Raises: ClipsearchError.
    """
    from clipsearch.encoder.onnx import OnnxEncoder

    exact, seconds = _encode(_load(model, PLAIN, threads), pixels, PLAIN.per_run)
    _report(replace(PLAIN, pictures_per_s=len(pixels) / seconds))
    choice = Choice("openvino", make_static_tower(model, pixels[:CALIBRATING]))
    bulk = _load(model, choice, threads)
    vectors, seconds = _encode(bulk, pixels, choice.per_run)
    texts = None
    if (model.path / TEXTUAL_MODEL).is_file():
        texts = OnnxEncoder(model.path, threads=threads).encode_texts(TEXTS)
    mean, least = _cosines(vectors, exact)
    fresh = slice(CALIBRATING if len(pixels) >= LEAST_PICTURES + CALIBRATING else 0, None)
    same = agreement(exact[fresh], vectors[fresh], texts)
    speed = len(pixels) / seconds
    _report(replace(choice, mean_cosine=mean, least_cosine=least, pictures_per_s=speed, agreement=same))


def _encode(bulk: Bulk, pixels: PixelArray, per_run: int) -> tuple[FloatArray, float]:
    """The vectors, and the seconds that they take: of a tower that is warm, and of this run if it is long enough."""
    bulk.encode(pixels[: WARMING * per_run], per_run)
    started = time.perf_counter()
    vectors = bulk.encode(pixels, per_run)
    seconds = time.perf_counter() - started
    return vectors, seconds if seconds >= REPEATED_BELOW_S else min(seconds, _seconds(bulk, pixels, per_run))


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
    if sys.argv[3:4] == ["static"]:
        measure_static(model, pixels, int(sys.argv[2]))
    else:
        measure(model, pixels, int(sys.argv[2]))


if __name__ == "__main__":
    main()
