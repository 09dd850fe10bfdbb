"""What the benchmarks share: timing whole processes, synthetic indexes, reports."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder import Encoder
from clipsearch.indexer.segments import with_pictures
from clipsearch.records import EmbeddingBatch, FloatArray, ImageRecord, Manifest, ModelRef
from clipsearch.store import Writer

ROWS_AT_ONCE = 20_000


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
    """Wall time of a process that must succeed."""
    began = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return seconds


def write_index(
    folder: Path, encoder: Encoder, blocks: Callable[[], Iterator[FloatArray]], *, like: os.stat_result | None = None
) -> Path:
    """Make an index under `folder` from blocks of unit vectors (B, D), the same at each call, as indexing would.

    `like`: every picture has the size and times of this one, so that hard links to it are unchanged to a run.
    """
    index = folder / ".clipsearch"
    folder.mkdir(parents=True, exist_ok=True)
    model = ModelRef(encoder.name, encoder.fingerprint, encoder.dim, float(encoder.score_scale))
    with Writer(index) as writer:
        manifest = Manifest(0, "", "..", model, 0)
        writer.commit(with_pictures(writer, manifest, lambda: _batches(blocks(), like)))
    return index


def _batches(blocks: Iterator[FloatArray], like: os.stat_result | None) -> Iterator[EmbeddingBatch]:
    first = 0
    for block in blocks:
        records = [
            ImageRecord(
                n,
                picture_path(n),
                like.st_size if like else 1_000_000 + n,
                like.st_mtime_ns if like else 1_700_000_000_000_000_000 + n,
                n + 1,
                f"{n:032x}",
                640,
                480,
            )
            for n in range(first, first + len(block))
        ]
        first += len(block)
        yield EmbeddingBatch(records, block)


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
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "versions": {package: version(package) for package in ("clipsearch", *packages)},
    }


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
