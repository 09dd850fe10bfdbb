"""What the benchmarks share: timing whole processes, synthetic indexes, reports."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder import Encoder
from clipsearch.indexer.segments import with_pictures
from clipsearch.records import EmbeddingBatch, FloatArray, ImageRecord, Manifest, ModelRef, PictureMetadata
from clipsearch.store import Writer

ROWS_AT_ONCE = 20_000
INSTRUCTION_SETS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of interleaved runs of two programs, pair by pair."""

    ours: list[float]
    theirs: list[float]

    def ratio(self) -> dict[str, float]:
        """Ours over theirs: median, least and most of the pairs."""
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}

    def summary(self) -> dict[str, Any]:
        return {
            "ours_s": {"median": statistics.median(self.ours), "all": self.ours},
            "theirs_s": {"median": statistics.median(self.theirs), "all": self.theirs},
            "ours_over_theirs": self.ratio(),
        }


def interleaved(ours: Callable[[], float], theirs: Callable[[], float], rounds: int, *, warm_up: bool = True) -> Times:
    """Run two measurements in turn, `rounds` times each, after one of each that does not count."""
    if warm_up:
        ours(), theirs()
    a, b = [], []
    for _ in range(rounds):
        a.append(ours())
        b.append(theirs())
    return Times(a, b)


def seconds_of(command: Sequence[str | Path], *, folder: Path, env: dict[str, str] | None = None) -> float:
    """Wall time of a process that must succeed.

    Python may keep what it compiled, as it does for installed programs: without, a query took 1.33 s of processor time
    instead of 1.15, and only what runs from a checkout is slower.
    """
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**given, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return seconds


def write_index(
    folder: Path,
    encoder: Encoder,
    blocks: Callable[[], Iterator[FloatArray]],
    *,
    like: os.stat_result | None = None,
    record: Callable[[int], ImageRecord] | None = None,
) -> Path:
    """Make an index under `folder` from blocks of unit vectors (B, D), the same at each call, as indexing would.

    `like`: every picture has the size and times of this one, so that hard links to it are unchanged to a run.
    `record`: what is known of each picture, by its number, if not what `synthetic_record` says.
    """
    told = record or (lambda number: synthetic_record(number, like))
    index = folder / ".clipsearch"
    folder.mkdir(parents=True, exist_ok=True)
    model = ModelRef(encoder.name, encoder.fingerprint, encoder.dim, float(encoder.score_scale))
    with Writer(index) as writer:
        manifest = Manifest(0, "", "..", model, 0)
        writer.commit(with_pictures(writer, manifest, lambda: _batches(blocks(), told)))
    return index


def _batches(blocks: Iterator[FloatArray], record: Callable[[int], ImageRecord]) -> Iterator[EmbeddingBatch]:
    first = 0
    for block in blocks:
        yield EmbeddingBatch([record(n) for n in range(first, first + len(block))], block)
        first += len(block)


def synthetic_record(number: int, like: os.stat_result | None = None) -> ImageRecord:
    """What is known of a picture that is not there. `like`: see `write_index`."""
    return ImageRecord(
        number,
        picture_path(number),
        like.st_size if like else 1_000_000 + number,
        like.st_mtime_ns if like else 1_700_000_000_000_000_000 + number,
        number + 1,
        f"{number:032x}",
        640,
        480,
    )


CAMERAS = ("Canon EOS R5", "Canon EOS R", "Apple iPhone 12", "Apple iPhone 12 Pro", "NIKON D750", "Google Pixel 6")
TOWNS = ((38.72, -9.14), (48.85, 2.35), (40.71, -74.0), (35.68, 139.69), (-33.86, 151.2), (52.52, 13.4))
SIZES = ((4000, 3000), (3000, 4000), (6000, 4000), (1920, 1080), (1080, 1920), (2000, 2000), (9000, 2500))


def photo_record(number: int) -> ImageRecord:
    """The same of a photograph: with a date, a camera, a shape, and for four in ten a place near one of six towns."""
    rng = random.Random(number)
    taken = datetime(2004 + int(20 * rng.random() ** 0.7), rng.randint(1, 12), rng.randint(1, 28), rng.randint(0, 23))
    latitude, longitude = TOWNS[rng.randrange(len(TOWNS))]
    place = (latitude + rng.gauss(0, 0.3), longitude + rng.gauss(0, 0.3)) if rng.random() < 0.4 else (None, None)
    width, height = SIZES[rng.randrange(len(SIZES))]
    return dataclasses.replace(
        synthetic_record(number),
        path=f"{taken.year}/{taken.month:02}/IMG_{number:08}.jpg",
        width=width,
        height=height,
        metadata=PictureMetadata("JPEG", taken.isoformat(), CAMERAS[rng.randrange(len(CAMERAS))], *place),
    )


def picture_path(number: int) -> str:
    """A path as in a collection of holidays."""
    return f"20{number % 24:02d}/{number % 12 + 1:02d}/IMG_{number:08d}.jpg"


def random_blocks(rows: int, dim: int, *, seed: int = 0) -> Iterator[FloatArray]:
    """Clustered unit vectors. Shapes: (B, dim) float32, `rows` rows in all."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((1000, dim), np.float32)
    for start in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - start)
        block = centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, dim), np.float32)
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def machine(*packages: str) -> dict[str, Any]:
    """What ran the benchmark."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "instruction_sets": instruction_sets(),
        "onednn_limited_to": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "versions": {package: version(package) for package in ("clipsearch", *packages)},
    }


def instruction_sets() -> list[str]:
    """Of what this processor can do, what decides how fast towers run."""
    told = {word for line in _lines("/proc/cpuinfo") if line.startswith(("flags", "Features")) for word in line.split()}
    return [name for name in INSTRUCTION_SETS if name in told]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def report(out: Path, name: str, body: dict[str, Any], bars: dict[str, dict[str, float]], unit: str) -> None:
    """Write NAME.json and a bar chart NAME.png: `bars` maps a measurement to a value per program."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(bars), figsize=(3.2 * len(bars), 3.4), squeeze=False)
    for axis, (title, values) in zip(axes[0], bars.items(), strict=True):
        drawn = axis.bar(list(values), list(values.values()), color=["#1f77b4", "#bbbbbb", "#999999", "#777777"])
        axis.bar_label(drawn, fmt="%.3g")
        axis.set_title(title, fontsize=10)
        axis.set_ylabel(unit)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out / f"{name}.png", dpi=110)
    plt.close(figure)
