"""Many vectors as shards: built in bounded memory one after another, then queried from disk and from memory.

Vectors are synthetic: with --like, between vectors of real pictures and their neighbours (`real_vectors.py`), in the
directions in which these vary most; otherwise around random centres. They are made block by block, never all at once.
Each shard is built and tuned in a process of its own, by the code that builds the segments of an index, and searched by
the code that searches them. True neighbours come from a pass over all vectors as they are made. Prints a table, and
with --json writes the numbers, also each shard's time for each query, which `scale_sim.py` takes.

20 million rows of 512 dimensions take 24 GB of disk: --rows 20000000 --shards 20 --dim 512.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine
from benchmarks.real_vectors import NOISE, sentences
from clipsearch.records import FloatArray, IntArray, IvfParameters
from clipsearch.vectors import VectorSegment, VectorsFile, empty_result, merge, top_k, write_vectors
from clipsearch.vectors.inverted import build_ivf

BLOCK = 16_384
ROWS_PER_CENTRE = 2_000
NEIGHBOURS = 10
K = 10
BLOCKS_ASKED = 16  # of which queries are made


@dataclass(frozen=True, slots=True)
class Made:
    """How one shard was built."""

    build_s: float
    own_mb: float  # most memory of its own, without pages of mapped files
    bytes_to_search: int
    ivf: IvfParameters


class AroundCentres:
    """Random centres, one for so many rows, and noise around them: neighbours mean something, but the noise has as many
    directions as the vectors have numbers, so that more lists must be visited than for real pictures."""

    def __init__(self, rows: int, dim: int) -> None:
        rng = np.random.default_rng(1)
        self._centres = unit(rng.standard_normal((max(50, rows // ROWS_PER_CENTRE), dim)))

    def draw(self, rng: np.random.Generator, count: int) -> FloatArray:
        drawn = self._centres[rng.integers(0, len(self._centres), count)]
        dim = drawn.shape[1]
        return unit(drawn + (0.9 / np.sqrt(dim)) * rng.standard_normal((count, dim), np.float32))


class LikeReal:
    """Between real vectors and one of their ten nearest, with noise of length 0.1, in the first `dim` directions in
    which real ones vary."""

    def __init__(self, real: FloatArray, dim: int) -> None:
        self.directions = np.linalg.svd(real.T @ real)[0][:, :dim].astype(np.float32)
        self._real = unit(real @ self.directions)
        ids = np.arange(len(real))
        near = [top_k(part @ self._real.T, ids, 1 + NEIGHBOURS)[1] for part in np.array_split(self._real, 64)]
        self._near = np.concatenate(near)[:, 1:]  # without itself

    def draw(self, rng: np.random.Generator, count: int) -> FloatArray:
        ours = rng.integers(0, len(self._real), count)
        theirs = self._near[ours, rng.integers(0, NEIGHBOURS, count)]
        share = rng.random((count, 1), np.float32)
        mixed = self._real[ours] * (1 - share) + self._real[theirs] * share
        return unit(mixed + (NOISE / np.sqrt(mixed.shape[1])) * rng.standard_normal(mixed.shape, np.float32))


Source = AroundCentres | LikeReal


def blocks_of(first: int, rows: int, source: Source) -> Iterator[tuple[IntArray, FloatArray]]:
    """Vectors `first` and on, the same each time. Shapes: (B,), (B, dim)."""
    for start in range(first, first + rows, BLOCK):
        size = min(BLOCK, first + rows - start)
        yield np.arange(start, start + size), source.draw(np.random.default_rng([7, start]), size)


def unit(rows: FloatArray) -> FloatArray:
    found: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def build(place: Path, code: str | None) -> Made:
    """Build the inverted file of the vectors in a folder."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            most[0] = max(most[0], next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")))

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.perf_counter()
    dim = json.loads((place / "dim.json").read_text(encoding="ascii"))
    with (place / "x.faiss").open("wb") as file:
        ivf = build_ivf(VectorsFile(place / "x.npy", dim), lambda serialise: serialise(file), code=code)
    spent = time.perf_counter() - began
    over.set()
    watching.join()
    return Made(spent, most[0], sum(path.stat().st_size for path in place.glob("x.*")), ivf)


def evict(places: list[Path]) -> None:
    """Let the system forget what it has read of the files."""
    for place in places:
        for path in place.glob("x.*"):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--cold", type=int, default=10, help="queries with nothing in memory")
    parser.add_argument("--place", type=Path, help="where to put the files (default: a temporary folder)")
    parser.add_argument("--like", type=Path, help="vectors of real pictures, .npy, by `real_vectors.py`")
    parser.add_argument("--data", type=Path, help="with --like: WebDataset tars, whose captions are asked as sentences")
    parser.add_argument("--code", help="how vectors are coded, as FAISS names it, such as RaBitQfs (default: by rows)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        print(json.dumps(asdict(build(arguments.build, arguments.code))))
        return
    place = Path(tempfile.mkdtemp(prefix="shards", dir=arguments.place))
    try:
        result = measure(
            place,
            arguments.rows,
            arguments.shards,
            arguments.dim,
            arguments.queries,
            arguments.cold,
            code=arguments.code,
            like=arguments.like,
            data=arguments.data,
        )
    finally:
        shutil.rmtree(place)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result), encoding="utf-8")


def measure(
    place: Path,
    rows: int,
    shards: int,
    dim: int,
    count: int,
    cold: int,
    *,
    code: str | None,
    like: Path | None,
    data: Path | None,
) -> dict[str, Any]:
    source = AroundCentres(rows, dim) if like is None else LikeReal(np.load(like), dim)
    bounds = [rows * n // shards for n in range(shards + 1)]
    queries = questions(bounds, dim, source, count)
    if isinstance(source, LikeReal) and like is not None and data is not None:
        asked = unit(sentences(data, like.parent, count) @ source.directions)
        queries = np.concatenate([queries[:count], asked])
    best = empty_result(len(queries), K)
    places: list[Path] = []
    made: list[Made] = []
    for n in range(shards):
        own = place / str(n)
        own.mkdir()
        places.append(own)
        (own / "dim.json").write_text(json.dumps(dim), encoding="ascii")

        def parts(first: int = bounds[n], size: int = bounds[n + 1] - bounds[n]) -> Iterator[Any]:
            nonlocal best
            for ids, vectors in blocks_of(first, size, source):
                best = merge([best, top_k(queries @ vectors.T, ids, K)], K)
                yield ids, np.zeros((len(ids), 2), np.int64), vectors

        with (own / "x.npy").open("wb") as file:
            write_vectors(file, parts(), bounds[n + 1] - bounds[n], dim, half=True)
        command = [sys.executable, "-m", "benchmarks.shards_on_disk", "--build", str(own)]
        command += [] if code is None else ["--code", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        made.append(Made(**{**told, "ivf": IvfParameters(**told["ivf"])}))
        print(f"shard {n + 1}: {made[-1].build_s:.0f} s, {made[-1].own_mb:.0f} MB, {made[-1].ivf}", flush=True)

    def opened() -> list[VectorSegment]:
        found = [
            VectorSegment(own / "x.npy", dim, faiss_file=own / "x.faiss", ivf=one.ivf)
            for own, one in zip(places, made, strict=True)
        ]
        for segment in found:
            segment.load()
        return found

    cold_ms = []
    for query in queries[:: max(1, len(queries) // cold)][:cold]:
        evict(places)
        segments = opened()
        began = time.perf_counter()
        merge([segment.search(query[None], K) for segment in segments], K)
        cold_ms.append(1e3 * (time.perf_counter() - began))
        del segments
    segments = opened()
    for query in queries:
        merge([segment.search(query[None], K) for segment in segments], K)
    each_ms, hit = [], []
    for query, truth in zip(queries, best[1], strict=True):
        results, times = [], []
        for segment in segments:
            began = time.perf_counter()
            results.append(segment.search(query[None], K))
            times.append(1e3 * (time.perf_counter() - began))
        hit.append(np.isin(truth, merge(results, K)[1][0]).mean())
        each_ms.append(times)
    total = sum(one.bytes_to_search for one in made)
    result = {
        "machine": machine("faiss-cpu", "numpy"),
        "rows": rows,
        "shards": shards,
        "dim": dim,
        "like": None if like is None else like.stem,
        "build_s": sum(one.build_s for one in made),
        "most_memory_mb": max(one.own_mb for one in made),
        "bytes_per_vector": total / rows,
        "recall_pictures": float(np.mean(hit[:count])),
        "recall_sentences": float(np.mean(hit[count:])),
        "cold_ms": cold_ms,
        "each_ms": each_ms,
    }
    sums = [sum(times) for times in each_ms]
    print(
        f"{rows:,} x {dim} in {shards} shards: built in {result['build_s']:.0f} s, at most "
        f"{result['most_memory_mb']:.0f} MB a shard, {result['bytes_per_vector']:.0f} bytes a vector\n"
        f"recall@{K}: pictures {result['recall_pictures']:.3f}, sentences {result['recall_sentences']:.3f}\n"
        f"all shards one after another, median: {statistics.median(cold_ms):.0f} ms from disk, "
        f"{statistics.median(sums):.1f} ms from memory; the slowest shard "
        f"{statistics.median(map(max, each_ms)):.1f} ms"
    )
    return result


def questions(bounds: list[int], dim: int, source: Source, count: int) -> FloatArray:
    """Vectors near one of the collection, as pictures are, then between three, as sentences are (as in tuning).

    Shape: (2 * count, dim)."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((2, count, dim)) / np.sqrt(dim)
    starts = [(start, last) for first, last in pairwise(bounds) for start in range(first, last, BLOCK)]
    read = []
    for n in rng.choice(len(starts), min(len(starts), BLOCKS_ASKED), replace=False):
        start, last = starts[n]
        ((_, vectors),) = blocks_of(start, min(BLOCK, last - start), source)
        read.append(vectors[rng.choice(len(vectors), min(len(vectors), count), replace=False)])
    known = np.concatenate(read)
    one, *three = (known[rng.choice(len(known), count)] for _ in range(4))
    return unit(np.concatenate([one + 0.5 * noise[0], np.mean(three, axis=0) + noise[1]]).astype(np.float32))


if __name__ == "__main__":
    main()
