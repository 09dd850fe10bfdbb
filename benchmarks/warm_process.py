"""A warm process over a large collection: what encoding a sentence, searching and looking the rows up take.

The vectors are those of `against_ann.py` (crops of real pictures, and between them), the sentences are real captions.
Prints and writes medians and the 95th percentile, with and without a filter; and how long making the index took and
the most memory that it needed, when this run made it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.against_ann import blocks, peak_mb
from benchmarks.common import machine, report, write_index
from benchmarks.real_vectors import captions, crops, interpolated
from clipsearch.encoder.names import load_encoder
from clipsearch.search.collection import open_collection

QUERIES = 200
K = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of WebDataset tars (KEY.jpg, KEY.json)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"), help="where vectors and indexes are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--real", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    encoder = load_encoder("builtin")
    folder = arguments.cache / f"warm-{arguments.rows}-{arguments.real}"
    if arguments.build:
        real = crops(arguments.data, arguments.cache, arguments.real)
        vectors = real if arguments.rows == arguments.real else interpolated(real, arguments.cache, arguments.rows)
        began, before_mb = time.perf_counter(), peak_mb()
        write_index(folder, encoder, lambda: (block for _, block in blocks(vectors)))
        made = {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(), "peak_mb_before": before_mb}
        print(json.dumps(made))
        return
    body: dict[str, Any] = {"machine": machine("faiss-cpu", "onnxruntime", "numpy"), "rows": arguments.rows}
    if not (folder / ".clipsearch" / "CURRENT").exists():
        command = [sys.executable, "-m", "benchmarks.warm_process", "--build", *sys.argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        body["build"] = json.loads(done.stdout.splitlines()[-1])
        print(body["build"])
    texts = captions(arguments.data, 2 * QUERIES)
    times: dict[str, list[float]] = {}
    with open_collection(folder, encoder=encoder) as photos:
        selection = np.flatnonzero(np.random.default_rng(0).random(arguments.rows) < 0.1)

        def measured(name: str, run: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            result = run()
            times.setdefault(name, []).append(1000 * (time.perf_counter() - began))
            return result

        for number, text in enumerate(texts):
            if number == QUERIES:
                times.clear()  # what came before was warming up
            began = time.perf_counter()
            vector = measured("encode", lambda text=text: photos.encode_query(text))[None]
            found = measured("search", lambda vector=vector: photos.nearest(vector, K))
            measured("rows", lambda found=found: [photos.record(int(row_id)) for row_id in found[1][0]])
            times.setdefault("all", []).append(1000 * (time.perf_counter() - began))
            for segment in photos._segments:
                measured("search, 10 % selected", lambda s=segment, v=vector: s.search(v, K, selection=selection))
    body["ms"] = {
        name: {"median": statistics.median(values), "p95": float(np.quantile(values, 0.95))}
        for name, values in times.items()
    }
    for name, values in body["ms"].items():
        print(f"{name:22} {values['median']:7.2f} ms median, {values['p95']:7.2f} ms p95")
    medians = {name: values["median"] for name, values in body["ms"].items()}
    report(arguments.out, "warm_process", body, {f"{arguments.rows:,} rows": medians}, "ms")


if __name__ == "__main__":
    main()
