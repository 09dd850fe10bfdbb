"""Against the limit: what the encoder alone does with random pixels, and what share of it a whole run reaches.

Interleaves, in one run: the encoder alone in each precision asked for, and, with --folder, `index_folder` over those
pictures into a fresh index with the first of them. The limit of a machine whose decoding needs cores too is lower
than the encoder's alone: the CPU time per picture of both is printed, so that it can be seen. Prints medians and
spread, and writes JSON and a chart.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.common import machine, report
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.encoder.precision import Precision
from clipsearch.errors import ClipsearchError

ROUNDS = 5
WHOLE = ", whole run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a model directory")
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["auto", "fp32", "bf16", "int8"])
    parser.add_argument("--pictures", type=int, default=128, help="random ones in a measurement of the encoder")
    parser.add_argument("--folder", type=Path, help="pictures for the whole run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()

    runs: dict[str, Callable[[], int]] = {}
    choices: dict[str, str] = {}
    for name in arguments.precision:
        encoder = OnnxEncoder(arguments.model, threads=arguments.threads, precision=name)
        try:
            run = encoder_alone(encoder, arguments.pictures)
            run()  # loads, and chooses
        except ClipsearchError as error:
            print(f"{name}: left out, {error}")
            continue
        choices[name] = str(encoder.image_choice)
        runs[name] = run
        if arguments.folder and name == arguments.precision[0]:
            runs[name + WHOLE] = whole_run(encoder, arguments.folder)

    speeds: dict[str, list[float]] = {name: [] for name in runs}
    cpu_ms: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            cpu, started = cpu_seconds(), time.perf_counter()
            pictures = run()
            speeds[name].append(pictures / (time.perf_counter() - started))
            cpu_ms[name].append(1000 * (cpu_seconds() - cpu) / pictures)

    results: dict[str, Any] = {}
    print(f"{arguments.rounds} rounds interleaved: median (least to most)")
    for name, values in speeds.items():
        results[name] = {
            "choice": choices.get(name.removesuffix(WHOLE)),
            "pictures_per_s": {"median": statistics.median(values), "all": values},
            "cpu_ms_per_picture": {"median": statistics.median(cpu_ms[name]), "all": cpu_ms[name]},
        }
        print(
            f"{name:18} {statistics.median(values):7.1f} pictures/s ({min(values):.1f} to {max(values):.1f}), "
            f"{statistics.median(cpu_ms[name]):6.1f} ms of CPU a picture; {results[name]['choice']}"
        )
    body: dict[str, Any] = {"machine": machine("onnxruntime"), "model": arguments.model.name, "encoder": results}
    body["openvino"] = version("openvino") if find_spec("openvino") else None
    whole = next((name for name in speeds if name.endswith(WHOLE)), None)
    if whole is not None:
        alone = whole.removesuffix(WHOLE)
        shares = [run / limit for run, limit in zip(speeds[whole], speeds[alone], strict=True)]
        allowed = statistics.median(cpu_ms[alone]) / statistics.median(cpu_ms[whole])
        body["share_of_the_encoder_alone"] = {"median": statistics.median(shares), "all": shares}
        body["share_that_cpu_time_allows"] = allowed
        print(
            f"the whole run reaches {statistics.median(shares):.0%} of the encoder alone ({min(shares):.0%} to "
            f"{max(shares):.0%}); with decoding on the same cores, its CPU time allows {allowed:.0%}"
        )
    bars = {name: statistics.median(values) for name, values in speeds.items()}
    report(arguments.out, "encoder_ceiling", body, {arguments.model.name: bars}, "pictures/s")


def encoder_alone(encoder: OnnxEncoder, pictures: int) -> Callable[[], int]:
    """Encode random pixels in batches of the size that the encoder asks for."""
    side = encoder.preprocessing
    shape = (encoder.pictures_per_call, side.height, side.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def run() -> int:
        done = 0
        while done < pictures:
            done += len(encoder.encode_images(pixels))
        return done

    return run


def whole_run(encoder: OnnxEncoder, folder: Path) -> Callable[[], int]:
    """Index a folder from nothing."""
    from clipsearch.indexer.build import IndexOptions, index_folder

    def run() -> int:
        with tempfile.TemporaryDirectory() as place:
            options = IndexOptions(batch_pictures=encoder.pictures_per_call)
            return index_folder(folder, encoder, index=Path(place) / "index", options=options).encoded

    return run


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
