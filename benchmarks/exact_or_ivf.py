"""Where an inverted file begins to pay: exact search against IVF by rows, in fresh processes and in a warm one.

Vectors are the ones of an index (--index) where given, extended by interpolating between random pairs of them, or
clustered random ones. Each measurement of a fresh process counts opening the files, loading FAISS where it is needed,
and one query; the files are in the page cache. Prints a table and, with --json, writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from clipsearch.records import FloatArray, IvfParameters
from clipsearch.vectors import VectorSegment, VectorsFile, write_vectors
from clipsearch.vectors.inverted import build_ivf

DIM = 512
ROUNDS = 7

ONE_QUERY = """
import sys, time
began = time.perf_counter()
import json, numpy as np
from pathlib import Path
from clipsearch.records import IvfParameters
from clipsearch.vectors import VectorSegment
ivf = json.loads(sys.argv[3])
started = time.perf_counter()
segment = VectorSegment(Path(sys.argv[1]), 512, faiss_file=Path(sys.argv[2]) if ivf else None,
                        ivf=IvfParameters(**ivf) if ivf else None)
query = segment.find(7)[None]
segment.search(query, 20)
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, help="take vectors from this index")
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000, 400_000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    print(f"{'rows':>9} {'exact cold':>11} {'IVF cold':>9} {'exact warm':>11} {'IVF warm':>9} {'build':>7}  recall@10")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as place:
            result = measure(Path(place), vectors(rows, arguments.index))
        results.append(result)
        print(
            f"{rows:9,} {result['exact_cold_ms']:8.0f} ms {result['ivf_cold_ms']:6.0f} ms "
            f"{result['exact_warm_ms']:8.1f} ms {result['ivf_warm_ms']:6.1f} ms "
            f"{result['build_s']:5.1f} s  {result['recall']:.3f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def vectors(rows: int, index: Path | None) -> FloatArray:
    """Unit vectors. Shape: (rows, 512) float32."""
    rng = np.random.default_rng(rows)
    if index is None:
        base = rng.standard_normal((2000, DIM)).astype(np.float32)
    else:
        from clipsearch.search.collection import open_collection

        with open_collection(index) as photos:
            base = np.concatenate(
                [rows for segment in photos._segments for _, rows in segment.file.blocks(len(segment))]
            )
    weight = rng.random((rows, 1), np.float32)
    mixed = base[rng.integers(0, len(base), rows)] * weight + base[rng.integers(0, len(base), rows)] * (1 - weight)
    mixed += 0.02 * rng.standard_normal(mixed.shape, np.float32)
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return mixed


def measure(place: Path, rows: FloatArray) -> dict[str, float]:
    """Medians in milliseconds over interleaved rounds; build time in seconds."""
    path, half, faiss_file = place / "v.npy", place / "h.npy", place / "v.faiss"
    for made, is_half in ((path, False), (half, True)):
        with made.open("wb") as file:
            write_vectors(file, [(np.arange(len(rows)), rows)], len(rows), DIM, half=is_half)
    exact = VectorSegment(path, DIM)
    began = time.perf_counter()

    def write(serialise: object) -> None:
        with faiss_file.open("wb") as file:
            serialise(file)  # type: ignore[operator]

    ivf = build_ivf(VectorsFile(half, DIM), write)
    build_s = time.perf_counter() - began
    indexed = VectorSegment(half, DIM, faiss_file=faiss_file, ivf=ivf)
    queries = rows[:: max(1, len(rows) // 200)][:200]
    recall = np.mean(
        [
            np.isin(truth, found).mean()
            for truth, found in zip(exact.search(queries, 10)[1], indexed.search(queries, 10)[1], strict=True)
        ]
    )
    cold: dict[str, list[float]] = {"exact": [], "ivf": []}
    warm: dict[str, list[float]] = {"exact": [], "ivf": []}
    for _ in range(ROUNDS):
        cold["exact"].append(one_query(path, faiss_file, None))
        cold["ivf"].append(one_query(half, faiss_file, ivf))
        for name, segment in (("exact", exact), ("ivf", indexed)):
            began = time.perf_counter()
            segment.search(queries[:1], 20)
            warm[name].append(time.perf_counter() - began)
    return {
        "rows": len(rows),
        "build_s": build_s,
        "recall": float(recall),
        **{f"{name}_cold_ms": 1000 * statistics.median(times) for name, times in cold.items()},
        **{f"{name}_warm_ms": 1000 * statistics.median(times) for name, times in warm.items()},
        **asdict(ivf),
    }


def one_query(path: Path, faiss_file: Path, ivf: IvfParameters | None) -> float:
    """Seconds in a fresh process, imports of numpy and clipsearch not counted."""
    command = [sys.executable, "-c", ONE_QUERY, str(path), str(faiss_file), json.dumps(asdict(ivf) if ivf else None)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
