"""Inverted files: how they are built, and how many lists a query must visit to find what exact search finds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.records import FloatArray, IntArray, IvfParameters
from clipsearch.vectors.files import BinaryWriter, VectorsFile
from clipsearch.vectors.segments import (
    END_OF_CODES,
    empty_result,
    import_faiss,
    lists_by_nearness,
    merge,
    open_faiss,
    probing,
    top_k,
)

LISTS_PER_ROOT = 1.5
TRAINING_ROWS_PER_LIST = 64
ADD_ROWS = 16_384
DEFAULT_RECALL = 0.985
RECALL_AT = 10
RECALL_QUERIES = 128  # of each kind
RERANK_DEPTHS = (10, 20, 40, 80)
RABITQ = "RaBitQfs"
"""One bit for each dimension, scanned in registers: no codebook to train, and for 512 numbers 91 bytes a row instead of
150, built in 45 % of the time. It tells rows apart less well, above all for sentences: more are scored again."""
RABITQ_FROM_ROWS = 100_000_000
"""Below ten million rows 4-bit codes are faster; where they stop being is not measured."""
RABITQ_RERANK_DEPTHS = (10, 20, 40, 80, 160, 320)
TWO_LEVELS_FROM_LISTS = 8_192
"""To find the nearest of so many centroids takes longer than to look for them in cells of their own first."""
CODE_ERROR = 0.005  # how much recall the codes may cost beyond the lists
CURVE_NPROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Recall@10 against exact search, and time for one query on one thread, at some setting."""

    nprobe: int
    rerank: int
    recall_pictures: float
    recall_sentences: float
    query_ms: float


def build_ivf(
    stored: VectorsFile,
    write: Callable[[Callable[[BinaryWriter], None]], None],
    *,
    recall: float = DEFAULT_RECALL,
    code: str | None = None,
) -> IvfParameters:
    """Build an inverted file over a vectors file and hand a function that serialises it to `write`.

    Reads in blocks: memory is the file being built, a training sample and one block.
    `recall` is the target that the parameters are chosen for, on queries made from the file's own vectors. `code`: how
    vectors are stored in it, in FAISS's notation; None: as suits their number.
    """
    faiss = import_faiss()
    rng = np.random.default_rng(len(stored))
    rows, dim = len(stored), stored.dim
    nlist = max(1, min(round(LISTS_PER_ROOT * math.sqrt(rows)), rows // 39))
    code = code or ivf_code(dim, rows)
    index = faiss.index_factory(dim, f"IVF{nlist},{code}", faiss.METRIC_INNER_PRODUCT)
    sample = np.sort(rng.choice(rows, min(rows, nlist * TRAINING_ROWS_PER_LIST), replace=False))
    index.train(stored.take(sample))
    if code == RABITQ and nlist >= TWO_LEVELS_FROM_LISTS:
        _divide_centroids(index)
    for row_ids, vectors in stored.blocks(ADD_ROWS):
        index.add_with_ids(vectors, row_ids)
    parameters = Tuning(index, stored, code).choose(recall)

    def serialise(file: BinaryWriter) -> None:
        failure: list[BaseException] = []

        def write_part(data: bytes) -> int:
            try:
                return file.write(data)
            except BaseException as error:  # kept, because FAISS would replace it with its own
                failure.append(error)
                return 0

        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write_part))
        except RuntimeError:
            if not failure:
                raise
        if failure:
            raise failure[0]
        if code == RABITQ:
            file.write(END_OF_CODES)

    write(serialise)
    return parameters


def _divide_centroids(index: Any) -> None:
    """Let the centroids of a trained, empty index be found by an inverted file of their own."""
    faiss = import_faiss()
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    cells = round(math.sqrt(index.nlist))
    coarse = faiss.IndexFlatIP(index.d)
    divided = faiss.IndexIVFFlat(coarse, index.d, cells, faiss.METRIC_INNER_PRODUCT)
    divided.cp.min_points_per_centroid = 1  # there are as many centroids in a cell as cells: FAISS would warn
    divided.train(centroids)
    divided.add(centroids)
    divided.make_direct_map()  # codes are made of what is left of a vector without its centroid
    divided.nprobe = min(CELLS_FOR_A_ROW, cells)
    for part, owner in ((coarse, divided), (divided, index)):
        part.this.disown()
        owner.own_fields = True
    index.quantizer = divided


CELLS_FOR_A_ROW = 16  # visited to find the list of a row that is added


def ivf_code(dim: int, rows: int) -> str:
    """How vectors are stored in an inverted file, in FAISS's notation.

    Four bits for two dimensions (dim / 4 bytes a row) are scanned in registers: over a million rows of 512 numbers
    five times faster than 8-bit scalar codes at the same recall, in a quarter of the space.
    """
    if rows >= RABITQ_FROM_ROWS:
        return RABITQ
    return f"PQ{dim // 2}x4fs" if dim % 2 == 0 else "SQ8"


def open_tuning(stored: VectorsFile, faiss_file: Path, code: str) -> Tuning:
    """Measure an inverted file that is there already, with that code."""
    return Tuning(open_faiss(faiss_file, stored.dim, len(stored)), stored, code)


class Tuning:
    """What an inverted file finds of the true neighbours, on two kinds of queries, each on its own.

    Pictures like those in the index (a vector with noise), and queries that lie between and beside the pictures,
    as sentences do (the mean of three vectors with more noise): of 1,500 lists over a million rows, interpolated from
    11,000 pictures, 243 were chosen by the latter, and real sentences reached a recall of 0.98 with 256.
    """

    def __init__(self, index: Any, stored: VectorsFile, code: str) -> None:
        self._index = index
        self._code = code
        rng = np.random.default_rng(len(stored) + 1)
        self._count = count = min(len(stored), RECALL_QUERIES)
        noise = rng.standard_normal((2, count, stored.dim)) / np.sqrt(stored.dim)
        one, three = (
            np.mean([stored.take(np.sort(rng.choice(len(stored), count, replace=False))) for _ in range(n)], axis=0)
            for n in (1, 3)
        )
        queries = np.concatenate([one + 0.5 * noise[0], three + noise[1]]).astype(np.float32)
        self._queries: FloatArray = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        best = empty_result(len(queries), RECALL_AT)
        for row_ids, vectors in stored.blocks(ADD_ROWS):
            best = merge([best, top_k(self._queries @ vectors.T, row_ids, RECALL_AT)], RECALL_AT)
        self._truth: IntArray = best[1]
        # In which of its lists, nearest first, does each query have its true neighbours?
        wanted = np.unique(self._truth)
        home = index.quantizer.search(stored.take(np.searchsorted(stored.ids, wanted)), 1)[1][:, 0]
        place = np.argsort(lists_by_nearness(index, self._queries), axis=1)
        self._rank = np.take_along_axis(place, home[np.searchsorted(wanted, self._truth)], axis=1)

    def choose(self, recall: float) -> IvfParameters:
        """The fewest lists and candidates that reach `recall` (0..1) on both kinds of queries, if any do."""
        lists_recall = min(recall + CODE_ERROR, (1 + recall) / 2)
        nprobe = 1
        while nprobe < self._index.nlist and min(self._halves(self._rank < nprobe)) < lists_recall:
            nprobe = max(nprobe + 1, math.ceil(nprobe * 1.1))
        nprobe = min(nprobe, self._index.nlist)
        depths = RABITQ_RERANK_DEPTHS if self._code == RABITQ else RERANK_DEPTHS
        rerank = next((r for r in depths if min(self._found(nprobe, r)) >= recall), depths[-1])
        return IvfParameters(nlist=self._index.nlist, nprobe=nprobe, rerank=rerank, code=self._code)

    def curve(self, rerank: int) -> list[CurvePoint]:
        """Recall and time over the number of lists visited."""
        faiss = import_faiss()
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            points = []
            for nprobe in (n for n in CURVE_NPROBES if n <= self._index.nlist):
                began = time.perf_counter()
                pictures, sentences = self._found(nprobe, rerank)
                spent_ms = 1000 * (time.perf_counter() - began) / len(self._queries)
                points.append(CurvePoint(nprobe, rerank, pictures, sentences, spent_ms))
            return points
        finally:
            faiss.omp_set_num_threads(threads)

    def _found(self, nprobe: int, rerank: int) -> tuple[float, float]:
        parameters = probing(self._index, nprobe)
        _, found = self._index.search(self._queries, RECALL_AT * rerank, params=parameters)
        return self._halves(np.array([np.isin(t, f) for t, f in zip(self._truth, found, strict=True)]))

    def _halves(self, hit: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """The share of true neighbours found: for pictures, for sentences."""
        return float(hit[: self._count].mean()), float(hit[self._count :].mean())
