"""clipsearch's inverted file against hnswlib, usearch and exact search, on vectors of real pictures.

The vectors are random crops of real pictures through the built-in model (`real_vectors.py`), and for larger sizes the
same with vectors interpolated between them. Queries are real captions and crops of pictures that are not in the
index. Each library builds in a process of its own with all threads, from the same float32 file in the same blocks
(clipsearch's time includes writing its float16 vectors file); its peak memory is the process's. Then one process
searches with all of them in turn, one query at a time, on one thread. hnswlib and usearch get the smallest of some
search depths with which they reach --recall, for each kind of queries. Writes JSON and a chart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, report
from benchmarks.real_vectors import crops, interpolated, sentences
from clipsearch.records import FloatArray, IntArray, IvfParameters
from clipsearch.vectors import VectorSegment, VectorsFile, empty_result, merge, top_k, write_vectors
from clipsearch.vectors.inverted import build_ivf
from clipsearch.vectors.segments import import_faiss

LIBRARIES = ("clipsearch", "hnswlib", "usearch")
CONNECTIVITY, EXPANSION_ADD = 16, 100  # hnswlib's M and efConstruction
DEPTHS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)
K = 10
BLOCK_ROWS = 16_384
QUERIES = 1_000  # of each kind, for recall
TIMED_QUERIES, TIMED_EXACT = 50, 5  # of each kind in a round

Search = Callable[[FloatArray], IntArray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of WebDataset tars (KEY.jpg, KEY.json)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"), help="where vectors and indexes are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--real", type=int, default=200_000, help="how many vectors of real crops")
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 1_000_000], help="beyond --real: interpolated")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--recall", type=float, default=0.98, help="what the others' search depth is chosen for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--build", choices=LIBRARIES, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        print(json.dumps(build(arguments.build, arguments.vectors, arguments.cache)))
        return
    real = crops(arguments.data, arguments.cache, arguments.real)
    queries = {
        "crops": np.load(crops(arguments.data, arguments.cache, QUERIES, split="dev")),
        "sentences": sentences(arguments.data, arguments.cache, QUERIES),
    }
    body: dict[str, Any] = {"machine": machine("faiss-cpu", "hnswlib", "usearch", "numpy"), "real_vectors": str(real)}
    bars: dict[str, dict[str, float]] = {}
    for rows in arguments.rows:
        vectors = real if rows == arguments.real else interpolated(real, arguments.cache, rows)
        result = compare(vectors, queries, arguments)
        body[f"{rows} rows"] = result
        for kind in queries:
            bars[f"{rows:,} rows, {kind}: ms"] = {
                name: found["ms"]["median"] for name, found in result["search"][kind].items()
            }
        bars[f"{rows:,} rows, build: s"] = {name: built["seconds"] for name, built in result["build"].items()}
        bars[f"{rows:,} rows, build: peak MB"] = {name: built["peak_mb"] for name, built in result["build"].items()}
        report(arguments.out, "against_ann", body, bars, "")


# --- building -------------------------------------------------------------------------------------------


def build(library: str, vectors: Path, place: Path) -> dict[str, Any]:
    """Build one library's index from a .npy file, in this process; seconds, processor seconds, peak memory."""
    importers: dict[str, Callable[[], object]] = {
        "clipsearch": import_faiss,
        "hnswlib": lambda: __import__("hnswlib"),
        "usearch": lambda: __import__("usearch.index"),
    }
    importers[library]()
    before_mb = peak_mb()
    began, cpu_began = time.perf_counter(), time.process_time()
    rows, dim = np.load(vectors, mmap_mode="r").shape
    made = place / f"{vectors.stem}.{library}"
    parameters: dict[str, Any]
    if library == "clipsearch":
        with made.with_suffix(".vectors").open("wb") as file:
            write_vectors(file, blocks(vectors), rows, dim, half=True)

        def write(serialise: Any) -> None:
            with made.open("wb") as file:
                serialise(file)

        parameters = asdict(build_ivf(VectorsFile(made.with_suffix(".vectors"), dim), write))
    elif library == "hnswlib":
        import hnswlib

        index = hnswlib.Index(space="ip", dim=dim)
        index.init_index(max_elements=rows, M=CONNECTIVITY, ef_construction=EXPANSION_ADD)
        for ids, block in blocks(vectors):
            index.add_items(block, ids, num_threads=os.cpu_count())
        index.save_index(str(made))
        parameters = {"M": CONNECTIVITY, "ef_construction": EXPANSION_ADD}
    else:
        usearch = usearch_index(dim)
        for ids, block in blocks(vectors):
            usearch.add(ids, block, threads=os.cpu_count())
        usearch.save(str(made))
        parameters = {"connectivity": CONNECTIVITY, "expansion_add": EXPANSION_ADD, "dtype": "f32"}
    files = [made, made.with_suffix(".vectors")] if library == "clipsearch" else [made]
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "peak_mb": peak_mb(),
        "peak_mb_before": before_mb,  # Python, NumPy and the library
        "input_mb": rows * dim * 4 / 1e6,  # on disk, read in blocks
        "files_mb": sum(path.stat().st_size for path in files) / 1e6,
        "parameters": parameters,
    }


def blocks(vectors: Path) -> Iterator[tuple[IntArray, FloatArray]]:
    """A float32 .npy file in blocks, read and not mapped."""
    mapped = np.load(vectors, mmap_mode="r")
    rows, dim = mapped.shape
    with vectors.open("rb") as file:
        file.seek(mapped.offset)
        for start in range(0, rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - start)
            yield np.arange(start, start + count), np.fromfile(file, np.float32, count * dim).reshape(count, dim)


def usearch_index(dim: int) -> Any:
    from usearch.index import Index

    return Index(ndim=dim, metric="ip", dtype="f32", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD)


def peak_mb() -> float:
    """The most memory that this process ever had (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


# --- searching ------------------------------------------------------------------------------------------


def compare(vectors: Path, queries: dict[str, FloatArray], arguments: argparse.Namespace) -> dict[str, Any]:
    """Build with each library, then search with all in turn."""
    built: dict[str, Any] = {}
    for library in arguments.libraries:
        command = [sys.executable, "-m", "benchmarks.against_ann", "--data", arguments.data, "--build", library]
        command += ["--vectors", vectors, "--cache", arguments.cache]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        built[library] = json.loads(done.stdout.splitlines()[-1])
        print(f"{vectors.name}: {library} built in {built[library]['seconds']:.0f} s", built[library], flush=True)
    matrix: FloatArray = np.load(vectors)
    truth = {kind: exact_truth(matrix, given) for kind, given in queries.items()}
    searches = {kind: searchers(matrix, vectors, built, arguments, queries[kind], truth[kind]) for kind in queries}
    found: dict[str, dict[str, Any]] = {}
    times: dict[tuple[str, str], list[list[float]]] = {}
    for number in range(arguments.rounds):
        for kind, given in queries.items():
            for name, (search, _, _) in searches[kind].items():
                count = TIMED_EXACT if name == "exact" else TIMED_QUERIES
                chosen = given[(number * TIMED_QUERIES + np.arange(count)) % len(given)]
                times.setdefault((kind, name), []).append([seconds(search, query[None]) for query in chosen])
    limit = bandwidth(matrix, arguments.rounds)
    for (kind, name), rounds in times.items():
        medians = [1000 * statistics.median(values) for values in rounds]
        exact = [1000 * statistics.median(values) for values in times[kind, "exact"]]
        ratios = [ours / theirs for ours, theirs in zip(medians, exact, strict=True)]
        _, recall, setting = searches[kind][name]
        found.setdefault(kind, {})[name] = {
            "recall_at_10": recall,
            "setting": setting,
            "ms": {"median": statistics.median(medians), "rounds": medians},
            "of_exact": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        }
        print(f"{kind:10} {name:11} recall {recall:.4f}  {statistics.median(medians):8.2f} ms", setting, flush=True)
    return {"vectors": vectors.name, "build": built, "search": found, "ratios": ratios_of(built), "memory": limit}


def ratios_of(built: dict[str, Any]) -> dict[str, Any]:
    """How the builds compare: seconds and peak memory of the others over clipsearch's."""
    if "clipsearch" not in built:
        return {}
    return {
        f"{name}_over_clipsearch": {
            part: other[part] / built["clipsearch"][part] for part in ("seconds", "cpu_seconds", "peak_mb")
        }
        for name, other in built.items()
        if name != "clipsearch"
    }


def exact_truth(matrix: FloatArray, queries: FloatArray) -> IntArray:
    """The ten nearest of each query. Shapes: matrix (N, D), queries (Q, D), result (Q, 10)."""
    best = empty_result(len(queries), K)
    for start in range(0, len(matrix), BLOCK_ROWS):
        block = matrix[start : start + BLOCK_ROWS]
        best = merge([best, top_k(queries @ block.T, np.arange(start, start + len(block)), K)], K)
    return best[1]


def searchers(
    matrix: FloatArray,
    vectors: Path,
    built: dict[str, Any],
    arguments: argparse.Namespace,
    queries: FloatArray,
    truth: IntArray,
) -> dict[str, tuple[Search, float, dict[str, Any]]]:
    """For each library: a search for one query, its recall over all of `queries`, and its setting."""

    def recall_of(search: Search) -> float:
        return float(np.mean([np.isin(t, search(q[None])).mean() for q, t in zip(queries, truth, strict=True)]))

    def exact(query: FloatArray) -> IntArray:
        best = empty_result(1, K)
        for start in range(0, len(matrix), 16 * BLOCK_ROWS):
            block = matrix[start : start + 16 * BLOCK_ROWS]
            best = merge([best, top_k((block @ query[0])[None], np.arange(start, start + len(block)), K)], K)
        return best[1]

    found: dict[str, tuple[Search, float, dict[str, Any]]] = {"exact": (exact, 1.0, {})}
    for library in built:
        made = arguments.cache / f"{vectors.stem}.{library}"
        if library == "clipsearch":
            ivf = IvfParameters(**built[library]["parameters"])
            import_faiss().omp_set_num_threads(1)
            segment = VectorSegment(made.with_suffix(".vectors"), matrix.shape[1], faiss_file=made, ivf=ivf)
            search = lambda query, segment=segment: segment.search(query, K)[1]  # noqa: E731
            found[library] = (search, recall_of(search), asdict(ivf))
            continue
        make = hnswlib_search if library == "hnswlib" else usearch_search
        for depth in DEPTHS:
            search = make(made, matrix.shape, depth)
            recall = recall_of(search)
            if recall >= arguments.recall or depth == DEPTHS[-1]:
                found[library] = (search, recall, {"depth": depth})
                break
    return found


_opened: dict[Path, Any] = {}


def hnswlib_search(made: Path, shape: tuple[int, ...], depth: int) -> Search:
    """Search hnswlib's file with ef=`depth`, on one thread."""
    if made not in _opened:
        import hnswlib

        _opened[made] = hnswlib.Index(space="ip", dim=shape[1])
        _opened[made].load_index(str(made), max_elements=shape[0])
    index = _opened[made]

    def search(query: FloatArray) -> IntArray:
        index.set_ef(depth)
        labels: IntArray = index.knn_query(query, k=K, num_threads=1)[0].astype(np.int64)
        return labels

    return search


def usearch_search(made: Path, shape: tuple[int, ...], depth: int) -> Search:
    """Search usearch's file with expansion_search=`depth`, on one thread."""
    if made not in _opened:
        _opened[made] = usearch_index(shape[1])
        _opened[made].load(str(made))
    index = _opened[made]

    def search(query: FloatArray) -> IntArray:
        index.expansion_search = depth
        keys: IntArray = np.asarray(index.search(query[0], K, threads=1).keys).astype(np.int64)
        return keys

    return search


def seconds(search: Search, query: FloatArray) -> float:
    """Of one search."""
    began = time.perf_counter()
    search(query)
    return time.perf_counter() - began


def bandwidth(matrix: FloatArray, rounds: int) -> dict[str, float]:
    """What reading all vectors once costs one thread at the least: a plain sum over them, and a copy of a part."""
    sums, copies = [], []
    part = matrix[: max(1, len(matrix) // 4)]
    into = np.empty_like(part)
    for _ in range(rounds):
        began = time.perf_counter()
        matrix.sum()
        sums.append(matrix.nbytes / (time.perf_counter() - began) / 1e9)
        began = time.perf_counter()
        np.copyto(into, part)
        copies.append(2 * part.nbytes / (time.perf_counter() - began) / 1e9)
    best = max(*sums, *copies)
    return {
        "sum_gb_per_s": statistics.median(sums),
        "copy_gb_per_s": statistics.median(copies),  # read and written
        "least_ms_of_exact_search": 1000 * matrix.nbytes / best / 1e9,
    }


if __name__ == "__main__":
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if "--build" not in sys.argv and os.environ.get(name) != "1":  # read once, when NumPy is loaded
            os.environ[name] = "1"
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.against_ann", *sys.argv[1:]])
    main()
