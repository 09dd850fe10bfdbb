"""Measure what encodes pictures fastest here: `python -m clipsearch.encoder.trial DIRECTORY THREADS [few]`, see
`precision`; or whether a tower with fixed scales is faster than a choice: `... static ENGINE PRECISION PER_RUN`.

Reads pictures from standard input (.npy, (B, H, W, 3) uint8, prepared) and prints one JSON object a line: fp32 by
onnxruntime first, then each other candidate as soon as it is measured, the best one once more with the number of
pictures a run that suits it, unless they are few.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from clipsearch.encoder.bulk import PICTURES_PER_RUN, Bulk, lanes_for
from clipsearch.encoder.choices import PLAIN, Choice
from clipsearch.encoder.layout import TEXTUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.encoder.precision import fastest, load_tower
from clipsearch.encoder.rankings import LEAST_PICTURES, TEXTS, agreement
from clipsearch.encoder.static import make_static_tower
from clipsearch.errors import ClipsearchError
from clipsearch.records import FloatArray, PixelArray

if TYPE_CHECKING:
    from clipsearch.encoder.choices import Engine

OTHER_SIZES = (4, 16)  # pictures a run
SIZES_WORTH_S = 1.0  # try other sizes if that takes no longer
LEAST_SIZE_GAIN = 1.05
REPEATS = 3
LEAST_S = 1e-6  # a clock may stand still
CALIBRATING = 16  # pictures
REPEATED_BELOW_S = 0.25  # one run that takes longer is measured well enough


def candidates() -> list[Choice]:
    """What is worth trying with what is installed, besides fp32 by onnxruntime."""
    if find_spec("openvino") is None:
        return []
    from clipsearch.encoder.openvino import has_bf16

    return [Choice("openvino", "bf16" if has_bf16() else "fp32")]


def measure(model: ModelDirectory, pixels: PixelArray, threads: int, *, few: bool = False) -> list[Choice]:
    """Measure each candidate and print it. Shape: pixels (B, H, W, 3) uint8. Raises: InvalidModel."""
    with ThreadPoolExecutor(1) as pool:  # loading takes as long as measuring on few pictures: side by side, if it can
        others = pool.submit(_load_candidates, model, threads)
        bulk = _load(model, PLAIN, threads)
        loaded = {PLAIN.engine + PLAIN.precision: bulk}
        found = others.result()
    exact, seconds = _encode(bulk, pixels, PICTURES_PER_RUN, threads, once=few)
    measured = [_report(replace(PLAIN, mean_cosine=1.0, least_cosine=1.0, pictures_per_s=len(pixels) / seconds))]
    for candidate, bulk in found:
        try:
            vectors, seconds = _encode(bulk, pixels, candidate.per_run, threads, once=few)
            mean, least = _cosines(vectors, exact)
        except ClipsearchError:
            continue
        loaded = {**loaded, candidate.engine + candidate.precision: bulk}
        speed = len(pixels) / seconds
        measured.append(
            _report(replace(candidate, mean_cosine=mean, least_cosine=least, pictures_per_s=speed)),
        )
    if not few:
        best = fastest(measured, model.checked_precisions)
        measured.append(_report(_with_best_size(best, loaded[best.engine + best.precision], pixels, threads)))
    return measured


def _load_candidates(model: ModelDirectory, threads: int) -> list[tuple[Choice, Bulk]]:
    found: list[tuple[Choice, Bulk]] = []
    for candidate in candidates():
        with contextlib.suppress(ClipsearchError):
            found.append((candidate, _load(model, candidate, threads)))
    return found


def _with_best_size(best: Choice, bulk: Bulk, pixels: PixelArray, threads: int) -> Choice:
    speed = best.pictures_per_s or 0.0
    many = np.concatenate([pixels] * -(-max(OTHER_SIZES) * lanes_for(threads) // len(pixels)))
    if len(many) * REPEATS * (len(OTHER_SIZES) + 1) > SIZES_WORTH_S * speed:
        return best
    sizes = {size: len(many) / _seconds(bulk, many, size, threads) for size in (PICTURES_PER_RUN, *OTHER_SIZES)}
    size = max(sizes, key=lambda size: sizes[size])
    if sizes[size] < LEAST_SIZE_GAIN * sizes[PICTURES_PER_RUN]:
        size = PICTURES_PER_RUN
    return replace(best, per_run=size, pictures_per_s=max(speed, sizes[size]))


def _load(model: ModelDirectory, choice: Choice, threads: int) -> Bulk:
    assert model.preprocessing is not None
    return Bulk(model, load_tower(model, choice, threads), model.preprocessing, lanes_for(threads))


def measure_static(model: ModelDirectory, pixels: PixelArray, threads: int, base: Choice) -> None:
    """Make a tower with fixed scales of the first pictures, measure it beside `base`, and print both, that one first.

    Its rankings are compared with those of fp32, on pictures that set no range, if there are enough. Shape: pixels
    (B, H, W, 3) uint8. Raises: ClipsearchError.
    """
    from clipsearch.encoder.onnx import OnnxEncoder

    exact, seconds = _encode(_load(model, PLAIN, threads), pixels, PLAIN.per_run, threads)
    if (base.engine, base.precision) != (PLAIN.engine, PLAIN.precision):
        _, seconds = _encode(_load(model, base, threads), pixels, base.per_run, threads)
    _report(replace(base, pictures_per_s=len(pixels) / seconds))
    choice = Choice("openvino", make_static_tower(model, pixels[:CALIBRATING]))
    bulk = _load(model, choice, threads)
    vectors, seconds = _encode(bulk, pixels, choice.per_run, threads)
    texts = None
    if (model.path / TEXTUAL_MODEL).is_file():
        texts = OnnxEncoder(model.path, threads=threads).encode_texts(TEXTS)
    mean, least = _cosines(vectors, exact)
    fresh = slice(CALIBRATING if len(pixels) >= LEAST_PICTURES + CALIBRATING else 0, None)
    same = agreement(exact[fresh], vectors[fresh], texts)
    speed = len(pixels) / seconds
    _report(replace(choice, mean_cosine=mean, least_cosine=least, pictures_per_s=speed, agreement=same))


def _encode(
    bulk: Bulk, pixels: PixelArray, per_run: int, threads: int, *, once: bool = False
) -> tuple[FloatArray, float]:
    """The vectors, and the seconds that they take: of a tower that is warm, and of this run if it is long enough, or if
    once is enough."""
    bulk.encode(pixels[: 1 if once else bulk.lanes], per_run)
    started = time.process_time()
    vectors = bulk.encode(pixels, per_run)
    seconds = max((time.process_time() - started) / threads, LEAST_S)
    if once or seconds >= REPEATED_BELOW_S:
        return vectors, seconds
    return vectors, min(seconds, _seconds(bulk, pixels, per_run, threads))


def _seconds(bulk: Bulk, pixels: PixelArray, per_run: int, threads: int) -> float:
    """The shortest of a few runs, by processor time, shared by all threads: other programs make the rest of it longer,
    by half and more in some runs."""
    times: list[float] = []
    while not times or (len(times) < REPEATS and sum(times) < REPEATED_BELOW_S):
        started = time.process_time()
        bulk.encode(pixels, per_run)
        times.append((time.process_time() - started) / threads)
    return max(min(times), LEAST_S)


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
    threads, asked = int(sys.argv[2]), sys.argv[3:]
    if asked[:1] == ["static"]:
        measure_static(model, pixels, threads, Choice(cast("Engine", asked[1]), asked[2], int(asked[3])))
    else:
        measure(model, pixels, threads, few=asked == ["few"])


if __name__ == "__main__":
    main()
