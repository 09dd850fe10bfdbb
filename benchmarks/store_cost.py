"""What a small change costs in a large index: processor time, memory and bytes written of adding ten pictures.

    python -m benchmarks.store_cost add   [--rows 20000] [--times 3]      add ten pictures to an index of so many
    python -m benchmarks.store_cost runs  [--rows 2000] [--runs 40]       one run after another, ten pictures each
    python -m benchmarks.store_cost large [--rows 200000]                 open, query and extend a made-up index

All of it with a fake encoder (dim 256) and real files: tiny pictures, each with its own content unless `--distinct`
says how many contents there are (then most are hard links, and an index is made by hashing alone). The issue's numbers
are `add --rows 1000000`, `runs --rows 1000000 --runs 1000` and `large --rows 10000000`; `df -i` says whether there are
that many inodes. Each measured run is a process of its own. "written" is what the process gave to write(), as
/proc/self/io counts it; "own bytes" are those of the ten pictures and of their rows (a vector and 200 bytes).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import clipsearch
from benchmarks.common import picture_path, random_blocks, write_index
from clipsearch.indexer.build import IndexOptions
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

DIM = 256
IN_A_FOLDER = 1000
ADDED = 10
RECORD_BYTES = 200
MOST_LINKS = 60_000  # to one file; ext4 allows 65,000


def tiny_picture(number: int) -> bytes:
    """A PNG of 8×8 points: one of 512 colours, and the number behind its end, where no reader looks."""
    colour = (number % 8 * 32, number // 8 % 8 * 32, number // 64 % 8 * 32)
    if colour not in _TINY:
        data = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(data, "PNG")
        _TINY[colour] = data.getvalue()
    return _TINY[colour] + b"%012d" % number


_TINY: dict[tuple[int, int, int], bytes] = {}


def fill_tiny(folder: Path, rows: int, distinct: int | None) -> None:
    """`rows` tiny pictures, a thousand to a folder. The first `distinct` have contents of their own."""
    firsts: list[str] = []
    for start in range(0, rows, IN_A_FOLDER):
        place = f"{folder}/{start // IN_A_FOLDER:05d}"
        Path(place).mkdir(parents=True, exist_ok=True)
        for number in range(start, min(rows, start + IN_A_FOLDER)):
            path = f"{place}/{number:08d}.png"
            if distinct is None or number < distinct:
                with open(path, "wb") as file:
                    file.write(tiny_picture(number))
                firsts.append(path)
            else:
                os.link(firsts[number % len(firsts)], path)


def add_pictures(folder: Path, first: int, count: int = ADDED) -> int:
    """Add pictures of 320×240 as a camera makes them. Returns their size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for number in range(first, first + count):
        path = folder / f"new{number:08d}.jpg"
        picture(number, size=(320, 240)).save(path, quality=90)
        size += path.stat().st_size
    return size


# -- measured in a process of its own


def written() -> dict[str, int]:
    """Bytes that this process has given to write(), and that have reached the disk's pages for it."""
    lines = Path("/proc/self/io").read_text().splitlines()
    found = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return {"written": found["wchar"], "to_disk": found["write_bytes"]}


def index_once(folder: Path, index: Path) -> dict[str, Any]:
    """Run the indexer in this process and say what it cost."""
    before, cpu = written(), time.process_time()
    began = time.perf_counter()
    report = clipsearch.index(
        folder, encoder=FakeEncoder(dim=DIM), index=index, options=IndexOptions(workers=int(os.environ["WORKERS"]))
    )
    seconds = time.perf_counter() - began
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "cpu_s": time.process_time() - cpu + children.ru_utime + children.ru_stime,
        "process_cpu_s": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "seconds": seconds,
        "peak_mb": own.ru_maxrss / 1024,
        "peak_of_workers_mb": children.ru_maxrss / 1024,
        **{name: value - before[name] for name, value in written().items()},
        "encoded": report.encoded,
        "pictures": report.pictures,
    }


def query_once(index: Path) -> dict[str, Any]:
    """Open an index and search it."""
    began, cpu = time.perf_counter(), time.process_time()
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        hits = len(photos.search("red", k=10, all=True))
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "hits": hits,
    }


def synthesize(folder: Path, rows: int) -> dict[str, Any]:
    """Make an index of `rows` made-up rows, whose files are hard links to a few."""
    sources: list[Path] = []
    for start in range(0, rows, MOST_LINKS):
        sources.append(folder.with_name(f"{folder.name}-source{start}.png"))
        sources[-1].write_bytes(tiny_picture(0)[:-12] + b"%012d" % start)  # all of one size
        os.utime(sources[-1], ns=(1_700_000_000_000_000_000,) * 2)
    folders = set()
    for number in range(rows):
        path = f"{folder}/{picture_path(number)}"
        place = path.rpartition("/")[0]
        if place not in folders:
            Path(place).mkdir(parents=True, exist_ok=True)
            folders.add(place)
        os.link(sources[number // MOST_LINKS], path)
    began = time.perf_counter()
    write_index(folder, FakeEncoder(dim=DIM), lambda: random_blocks(rows, DIM), like=sources[0].stat())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.perf_counter() - began, "peak_mb": peak}


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "index": index_once,
    "query": query_once,
    "synthesize": synthesize,
}


def child(name: str, *arguments: str | Path | int, workers: int = 1) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.store_cost", "child", name, *map(str, arguments)],
        env={**os.environ, "WORKERS": str(workers)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    body: dict[str, Any] = json.loads(done.stdout)
    return body


# -- the measurements


def files_of(index: Path) -> tuple[int, int]:
    """How many files an index has, and their bytes."""
    sizes = [path.stat().st_size for path in index.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


@contextmanager
def workspace(place: Path | None) -> Iterator[Path]:
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="store-cost-") as made:
        yield Path(made)


def made(home: Path, rows: int, distinct: int | None) -> tuple[Path, Path]:
    """A folder of `rows` tiny pictures and its index, made unless it is there from a run before."""
    folder, index = home / f"tiny-{rows}-{distinct}", home / f"tiny-{rows}-{distinct}.index"
    if not (index / "CURRENT").exists():
        fill_tiny(folder, rows, distinct)
        cost = child("index", folder, index, workers=2)
        files, size = files_of(index)
        print(
            f"made {cost['pictures']:,} rows in {cost['seconds']:.0f} s ({cost['cpu_s']:.0f} s of processor time), "
            f"peak {cost['peak_mb']:.0f} MB, written {cost['written'] / 1e6:.1f} MB = "
            f"{cost['written'] / size:.1f} times the index ({files} files, {size / 1e6:.1f} MB)"
        )
    return folder, index


def own_bytes(pictures: int, count: int = ADDED) -> int:
    return pictures + count * (4 * DIM + RECORD_BYTES)


def measure_add(home: Path, rows: int, times: int, distinct: int | None) -> dict[str, Any]:
    folder, index = made(home, rows, distinct)
    nothing = child("index", folder, index)
    results = []
    print(f"{'':>20}  processor s  whole process s  peak MB  written kB  of own bytes  of their rows   files")

    def line(name: str, cost: dict[str, Any], size: int) -> None:
        rows_only = ADDED * (4 * DIM + RECORD_BYTES)
        print(
            f"{name:>20}  {cost['cpu_s']:11.2f}  {cost['process_cpu_s']:15.2f}  {cost['peak_mb']:7.0f}  "
            f"{cost['written'] / 1000:10.1f}  {cost['written'] / own_bytes(size):12.1f}  "
            f"{cost['written'] / rows_only:13.1f}  {files_of(index)[0]:6d}"
        )

    line("nothing new", nothing, 0)
    taken = len(list((folder / "new").glob("*"))) if (folder / "new").exists() else 0
    for number in range(times):
        size = add_pictures(folder / "new", taken + number * ADDED)
        cost = child("index", folder, index)
        assert cost["encoded"] == ADDED, cost
        line(f"{ADDED} new pictures", cost, size)
        results.append({**cost, "picture_bytes": size, "own_bytes": own_bytes(size)})
    query = child("query", index)
    print(f"{'a query':>20}  {query['cpu_s']:11.2f}  {'':15}  {query['peak_mb']:7.0f}")
    return {"rows": rows, "nothing": nothing, "add": results, "query": query}


def measure_runs(home: Path, rows: int, runs: int, distinct: int | None) -> dict[str, Any]:
    """Run after run on a copy of the index, all in this process."""
    folder, source = made(home, rows, distinct)
    index = home / "runs.index"
    shutil.rmtree(index, ignore_errors=True)
    shutil.copytree(source, index)
    base_files, base_size = files_of(index)
    os.environ["WORKERS"] = "1"
    place = folder / "runs"
    shutil.rmtree(place, ignore_errors=True)
    total = data = 0
    most_files, largest, slowest = base_files, 0, 0.0
    points = []
    for number in range(runs):
        data += own_bytes(add_pictures(place / f"{number // 100:03d}", number * ADDED))
        cost = index_once(folder, index)
        assert cost["encoded"] == ADDED, cost
        total += cost["written"]
        files, size = files_of(index)
        most_files, largest = max(most_files, files), max(largest, cost["written"])
        slowest = max(slowest, cost["seconds"])
        points.append({"written": cost["written"], "files": files, "size": size, "seconds": cost["seconds"]})
    added = max(1, points[-1]["size"] - base_size)
    print(
        f"{runs} runs of {ADDED} pictures on {rows:,} rows: {base_files} files before, {most_files} at most, "
        f"{points[-1]['files']} after; written {total / 1e6:.2f} MB = {total / data:.2f} times the pictures and their "
        f"rows = {total / added:.2f} times what the index grew by ({added / 1e6:.2f} MB) = "
        f"{total / points[-1]['size']:.2f} times the index; "
        f"the most in one run {largest / 1000:.0f} kB, {slowest:.1f} s"
    )
    shutil.rmtree(place)
    return {"rows": rows, "runs": points, "written": total, "own_bytes": data, "grown_by": added}


def measure_large(home: Path, rows: int) -> dict[str, Any]:
    """A made-up index of files that are hard links: opened and queried, brought up to date, extended, queried again."""
    folder = home / f"large-{rows}"
    index = folder / ".clipsearch"
    if not (index / "CURRENT").exists():
        cost = child("synthesize", folder, rows)
        print(f"made {rows:,} rows in {cost['seconds']:.0f} s, peak {cost['peak_mb']:.0f} MB")
    results = {"query": child("query", index), "nothing new": child("index", folder, index)}
    assert results["nothing new"]["encoded"] == 0, results
    add_pictures(folder / "new", time.time_ns() % 10**8)
    results |= {"extend": child("index", folder, index), "query again": child("query", index)}
    assert results["extend"]["encoded"] == ADDED, results
    print(f"{'':>20}  seconds  processor s  peak MB")
    for name, cost in results.items():
        print(f"{name:>20}  {cost['seconds']:7.1f}  {cost['cpu_s']:11.1f}  {cost['peak_mb']:7.0f}")
    return {"rows": rows, **results}


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        name, *arguments = sys.argv[2:]
        values: list[Any] = [int(part) if part.isdecimal() else Path(part) for part in arguments]
        print(json.dumps(CHILDREN[name](*values)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["add", "runs", "large"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--times", type=int, default=3, help="how often ten pictures are added")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--distinct", type=int, help="contents; the other files are hard links")
    parser.add_argument("--folder", type=Path, help="where to work; what is made there is kept and used again")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with workspace(options.folder) as home:
        if options.what == "add":
            body = measure_add(home, options.rows or 20_000, options.times, options.distinct)
        elif options.what == "runs":
            body = measure_runs(home, options.rows or 2000, options.runs, options.distinct)
        else:
            body = measure_large(home, options.rows or 200_000)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
