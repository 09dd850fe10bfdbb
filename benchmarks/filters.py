"""How long filters take over large collections: from a columns file on disk to the row ids that pass.

    python -m benchmarks.filters [--rows 100000 1000000] [--json FILE]

Made-up metadata: 400 pictures to a folder, dates over twenty years, places around the world for half of them, up to six
of 20,000 keywords, and a caption of its own for each second one. "cold" is
a fresh process's share: checking the file's checksum, mapping it, and the first evaluation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.indexer.segments import write_rows_file
from clipsearch.query import parse_query
from clipsearch.records import ImageRecord, PictureMetadata
from clipsearch.search.filters import passing
from clipsearch.store import RowsFile, Writer, verify_file

QUERIES = (
    "after:2015 before:2016",
    "folder:trips/**/day3",
    "name:9876",
    "name:IMG_*7?.jpg",
    "near:48.85,2.35,100km",
    "width:>3000 orientation:landscape not ext:png",
    "(camera:canon or size:>9MB) -folder:trip12",
    "keyword:town77",
    "keyword:places/*",
    "person:anna",
    "rating:>3",
    "caption:4711",
    "caption:boat",
    "caption:*77",
)


def records(rows: int) -> Iterator[ImageRecord]:
    rng = np.random.default_rng(0)
    for n in range(rows):
        place = (float(rng.uniform(-60, 70)), float(rng.uniform(-180, 180))) if n % 2 else (None, None)
        second = 1_100_000_000 + int(rng.integers(600_000_000))
        taken = f"{np.datetime64(second, 's')}" if n % 3 else None
        words = {
            "keywords": tuple(f"Places|Country{k % 90}|Town{k}" for k in rng.integers(20_000, size=n % 7).tolist()),
            "caption": f"A boat in the harbour of town {n}, seen from the lighthouse in the evening" if n % 2 else None,
            "people": ("Anna Müller",) if n % 11 == 0 else (),
            "rating": n % 6 or None,
        }
        camera = ("Canon EOS 5D", "NIKON D90", "Pixel 8")[n % 3]
        meta = PictureMetadata("JPEG", taken, camera, *place, **words)  # type: ignore[arg-type]
        path = f"trips/trip{n // 4000}/day{n // 400 % 10}/IMG_{n:07d}.{'jpg' if n % 5 else 'png'}"
        width, height = (4000, 3000) if n % 4 else (3000, 4000)
        size = int(rng.integers(10_000_000))
        yield ImageRecord(n, path, size, second * 10**9, n, f"{n:032x}", width, height, meta)


def measure(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, Writer(Path(folder)) as writer:
        began = time.perf_counter()
        made = list(records(rows))
        ref = write_rows_file(writer, lambda: [made])
        report: dict[str, Any] = {"rows": rows, "build_s": round(time.perf_counter() - began, 2)}
        report["bytes_per_row"] = round(ref.size_bytes / rows, 1)
        for query in QUERIES:
            expression = parse_query(query).filter
            assert expression is not None
            cold, warm = [], []
            for _ in range(3):
                began = time.perf_counter()
                columns = RowsFile(verify_file(Path(folder), ref, afresh=True), Path(folder)).columns
                mask = passing(expression, columns, lambda _: np.zeros(rows, bool))
                cold.append(time.perf_counter() - began)
                began = time.perf_counter()
                passing(expression, columns, lambda _: np.zeros(rows, bool))
                warm.append(time.perf_counter() - began)
            report[query] = {
                "kept": int(mask.sum()),
                "cold_ms": round(1000 * statistics.median(cold), 1),
                "warm_ms": round(1000 * statistics.median(warm), 1),
            }
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    text = json.dumps([measure(rows) for rows in asked.rows], indent=1)
    print(text)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
