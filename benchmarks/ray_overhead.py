"""What a Ray cluster of this machine costs beside processes of this machine: the same folder, indexed by both in turn.

python -m benchmarks.ray_overhead --pictures 20000 [--model builtin] [--json OUT]

Counts from the first picture that is done, since starting Ray and loading the model once more take seconds whatever the
folder is. Measures wall time, and the processor time of all processes (of Ray's, too), which says more on a busy
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import Times, interleaved
from clipsearch.encoder.names import load_encoder
from clipsearch.indexer.build import Progress, index_folder
from clipsearch.indexer.cluster import RayExecutor
from clipsearch.indexer.executors import Executor, LocalExecutor

MOST_RATIO = 1.15
EVERY_S = 1.0


def main() -> None:
    """Parse, make pictures, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--cpus", type=int, help="of each worker")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.model)
    cpu_s: dict[str, list[float]] = {"local": [], "ray": []}

    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        write_pictures(place / "photos", arguments.pictures)

        def measured(name: str, executor: Executor) -> Callable[[], float]:
            def run() -> float:
                started: list[tuple[float, float]] = []
                with tempfile.TemporaryDirectory(dir=place) as index, ProcessorTime() as spent:

                    def note(progress: Progress) -> None:
                        if not started and progress.stage == "read" and progress.done:
                            started.append((time.perf_counter(), spent.seconds()))

                    report = index_folder(
                        place / "photos", encoder, index=Path(index) / "index", executor=executor, progress=note
                    )
                    assert report.encoded == arguments.pictures
                    wall_s = time.perf_counter() - started[0][0]
                    cpu_s[name].append(spent.seconds() - started[0][1])
                print(f"{name}: {wall_s:.2f} s, processors {cpu_s[name][-1]:.2f} s", flush=True)
                return wall_s

            return run

        ray = measured("ray", RayExecutor(cpus=arguments.cpus))
        times = interleaved(ray, measured("local", LocalExecutor()), arguments.rounds, warm_up=False)
    body = summary(times, cpu_s) | {"pictures": arguments.pictures, "model": arguments.model}
    print(json.dumps(body, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(body, indent=1) + "\n")


def summary(times: Times, cpu_s: dict[str, list[float]]) -> dict[str, Any]:
    """Ray over local, in wall and processor time. `meets`: at most MOST_RATIO of the wall time."""
    median = times.ratio()["median"]
    cpu = [a / b for a, b in zip(cpu_s["ray"], cpu_s["local"], strict=True)]
    return times.summary() | {
        "processor_s": cpu_s,
        "processor_ratio": statistics.median(cpu),
        "meets": median <= MOST_RATIO,
    }


def write_pictures(folder: Path, count: int) -> None:
    """JPEGs of 320 by 240 pixels, each of another content."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 500:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=85)


class ProcessorTime:
    """Processor time of this process and of all that descend from it, those that ended meanwhile as last seen."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> ProcessorTime:
        self._base = 0.0
        self._base = self.seconds()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self.seconds()

    def seconds(self) -> float:
        """So far."""
        with self._lock:
            self._look()
            return sum(self._seen.values()) - self._base

    def _look(self) -> None:
        parents: dict[int, int] = {}
        spent: dict[int, float] = {}
        tick = os.sysconf("SC_CLK_TCK")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                parents[int(process.name)] = int(fields[1])
                spent[int(process.name)] = (int(fields[11]) + int(fields[12])) / tick
        own = os.getpid()
        for pid, seconds in spent.items():
            above: int | None = pid
            while above is not None and above != own:
                above = parents.get(above)
            if above == own or pid in self._seen:
                self._seen[pid] = max(seconds, self._seen.get(pid, 0.0))


if __name__ == "__main__":
    main()
