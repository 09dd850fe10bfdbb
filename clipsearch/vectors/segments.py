"""Segments: ids and unit vectors in a form that can be searched.

A small segment is a NumPy file that is mapped and multiplied with the query: exact, nothing to load. A large
one has a FAISS inverted file beside it (IVF with 4-bit product quantisation; with 1-bit codes, RaBitQ, where it is
huge) that proposes candidates, which are scored again from the stored vectors. This module knows no Parquet, no paths
of pictures and no encoder.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from clipsearch.config import reading
from clipsearch.cores import import_with_sleeping_threads
from clipsearch.errors import CorruptIndex, DimensionMismatch, InvalidQuery, first_line
from clipsearch.filenames import native_path
from clipsearch.records import FileRef, FloatArray, IntArray, IvfParameters, Manifest
from clipsearch.vectors.files import VectorsFile

IVF_FROM_ROWS = 200_000
"""Segments of fewer rows are searched exactly; the crossing is measured by `benchmarks/exact_or_ivf.py`."""

EXACT_BLOCK_ROWS = 262_144
IVF_VISITED_ROWS_PER_HIT = 20
ROWS_PER_EXACT_ROW = 50
"""To pick out a vector and multiply it takes as long as to scan the codes of so many rows: 0.5 to 2 us, and 0.015."""
RERANK_OF_UNLIKE = 4
LISTS_LOOKED_AT, LEAST_CELLS = 4, 16
LISTS_SHARE_WORTH_CHOOSING = 1 / 4  # of all; where more are needed, all are visited
OF_1_BIT_CODES = b"Iwrn"  # how FAISS begins such a file
END_OF_CODES = b"end of clipsearch codes\n"
"""What is written after them. FAISS does not read it."""
Share = tuple[int, int]
"""Which part of how many: a range of the rows where all are scored, every so many lists of an inverted file. The best
of all shares are those of the whole, or better: each proposes as many candidates as the whole does."""
ALL_OF_IT: Share = (0, 1)


class VectorSegment:
    """One searchable segment. Its files must have been verified before they are opened here."""

    def __init__(
        self,
        vectors: Path,
        dim: int,
        *,
        faiss_file: Path | None = None,
        ivf: IvfParameters | None = None,
        exclude: IntArray | None = None,
        share: Share = ALL_OF_IT,
    ) -> None:
        """Map a vectors file. `exclude`: sorted ids of vectors that are never answered. `share`: what is searched.

        Raises: CorruptIndex, DimensionMismatch.
        """
        self.file = VectorsFile(vectors, dim)
        self.dim = dim
        self.ids = self.file.ids
        self._dead = self.file.positions_of(exclude if exclude is not None else np.empty(0, np.int64))
        self._faiss_file = faiss_file
        self._ivf = ivf
        self._faiss: Any = None
        if faiss_file is not None:
            self.file.expect_few()
        self._selector: Any = None
        self._list_of_row: npt.NDArray[np.int32] | None = None
        self._share = share

    def __len__(self) -> int:
        return len(self.file)

    def find(self, vector_id: int) -> FloatArray | None:
        """The vector of that id, or None. Shape: (D,) float32."""
        at = self.file.positions_of(np.array([vector_id], np.int64))
        return self.file.take(at)[0] if len(at) else None

    def load(self) -> None:
        """Open the inverted file now, if there is one, rather than at the first search. Raises: CorruptIndex."""
        if self._faiss is None and self._faiss_file is not None:
            self._faiss = open_faiss(self._faiss_file, self.dim, len(self))

    def search(
        self, queries: FloatArray, k: int, *, exact: bool = False, selection: IntArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Return the ids of the k nearest vectors for each query, best first; equal scores by ascending id.

        Shapes: queries (Q, D) float32, unit L2; selection (S,) int64, sorted without repeating: only these ids are
        answered, those of other segments are passed over; scores (Q, k) cosine, -inf where there is none; ids
        (Q, k) int64, -1 where there is none. Raises: DimensionMismatch.
        """
        check_queries(queries, self.dim)
        positions = None if selection is None else self._live(self.file.positions_of(selection))
        if exact or self._faiss_file is None or self._ivf is None:
            return self._search_exact(queries, k, positions)
        # The lists visited must hold many more rows than are asked for: parameters were tuned for few hits.
        wanted = max(IVF_VISITED_ROWS_PER_HIT * k, math.ceil(self._ivf.nprobe * len(self) / self._ivf.nlist))
        if wanted > len(self) // 2:
            return self._search_exact(queries, k, positions)
        if positions is None or len(positions) == len(self):
            nprobe = math.ceil(wanted * self._ivf.nlist / len(self))
            return self._search_ivf(queries, k, self._ivf, nprobe, self._dead_left_out())
        if len(positions) * ROWS_PER_EXACT_ROW <= len(self):
            return self._search_exact(queries, k, positions)
        selector = self._only(positions)
        counts = self._rows_per_list(positions)
        found = []
        for query in queries:
            nprobe = self._lists_with(query, counts, wanted)
            ivf = self._ivf
            if nprobe == ivf.nlist:  # what is left is alike in its scores: codes tell it apart less well
                ivf = dataclasses.replace(ivf, rerank=RERANK_OF_UNLIKE * ivf.rerank)
            found.append(self._search_ivf(query[None], k, ivf, nprobe, selector))
        return np.concatenate([scores for scores, _ in found]), np.concatenate([ids for _, ids in found])

    def _lists_with(self, query: FloatArray, counts: IntArray, wanted: int) -> int:
        """How many lists, nearest first, hold `wanted` of the selected rows, of which `counts` are in each list.

        As many as an unfiltered query visits find as much, also if the filter goes with the subject (over 76,800
        crops and filters that keep 2 to 50 %, those nearest to another crop or any, 9,878 rows for sentences
        without a filter, and at most 7,952 with one). Where many lists are needed, the filter keeps what is unlike
        the query, no list is better than others, and all are visited.
        """
        self.load()
        nearest = lists_by_nearness(self._faiss, query[None])[0]
        lists = int(np.searchsorted(np.cumsum(counts[nearest]), wanted)) + 1
        return lists if lists <= self._faiss.nlist * LISTS_SHARE_WORTH_CHOOSING else int(self._faiss.nlist)

    def _rows_per_list(self, positions: IntArray) -> IntArray:
        """How many of the rows at `positions` are in each inverted list. Shape: (nlist,)."""
        self.load()
        if self._list_of_row is None:
            faiss, lists = import_faiss(), self._faiss.invlists
            list_of_row = np.empty(len(self), np.int32)
            for number in range(self._faiss.nlist):
                size = lists.list_size(number)
                if size:
                    ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
                    list_of_row[self.file.positions_of(np.sort(ids))] = number
            self._list_of_row = list_of_row
        return np.bincount(self._list_of_row[positions], minlength=self._faiss.nlist)

    def _only(self, positions: IntArray) -> Any:
        """A FAISS selector of the rows at `positions` (sorted): a bit for each row id, found without searching."""
        first, last = int(self.ids[0]) // 8, int(self.ids[-1]) // 8 + 1
        chosen = np.zeros(8 * (last - first), bool)
        chosen[self.ids[positions] - 8 * first] = True
        bits = np.zeros(last, np.uint8)  # what is before `first` is never touched, and so takes no memory
        bits[first:] = np.packbits(chosen, bitorder="little")
        return import_faiss().IDSelectorBitmap(bits)

    def _dead_left_out(self) -> Any:
        """A FAISS selector without the excluded rows, or None. Made once."""
        if self._selector is None and len(self._dead):
            self._selector = self._only(np.setdiff1d(np.arange(len(self)), self._dead, assume_unique=True))
        return self._selector

    def _live(self, positions: IntArray) -> IntArray:
        """`positions` (sorted) without those of excluded rows."""
        if not len(self._dead):
            return positions
        return positions[~np.isin(positions, self._dead, assume_unique=True)]

    def _search_exact(
        self, queries: FloatArray, k: int, positions: IntArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Score every live row of the share, or those at `positions` (sorted, live)."""
        best = empty_result(len(queries), k)
        number, of = self._share
        first, last = len(self) * number // of, len(self) * (number + 1) // of
        for start in range(first, last, EXACT_BLOCK_ROWS):
            stop = min(start + EXACT_BLOCK_ROWS, last)
            if positions is None:
                scores, ids = self.file.products(queries, slice(start, stop)), self.ids[start:stop]
                dead = self._dead[(self._dead >= start) & (self._dead < stop)]
                scores[:, dead - start] = -np.inf
            else:
                chosen = positions[slice(*np.searchsorted(positions, (start, stop)))]
                ids = self.ids[chosen]
                if 2 * len(chosen) > stop - start:  # reading all in order is faster than picking out the half
                    scores = self.file.products(queries, slice(start, stop))[:, chosen - start]
                else:
                    scores = self.file.products(queries, chosen)
            best = merge([best, top_k(scores, ids, k)], k)
        return best

    def _search_ivf(
        self, queries: FloatArray, k: int, ivf: IvfParameters, nprobe: int, selector: Any
    ) -> tuple[FloatArray, IntArray]:
        self.load()
        parameters = probing(self._faiss, nprobe)
        if selector is not None:
            parameters.sel = selector
        wanted = min(k * ivf.rerank, len(self))
        queries = np.ascontiguousarray(queries)
        if self._share == ALL_OF_IT:
            _, candidates = self._faiss.search(queries, wanted, params=parameters)
        else:
            candidates = self._candidates_of_share(queries, wanted, nprobe, parameters)
        scores, ids = empty_result(len(queries), k)
        for q, row_ids in enumerate(candidates):
            row_ids = distinct(row_ids[row_ids >= 0])
            exact = self.file.products(queries[q : q + 1], self.file.positions_of(row_ids))
            scores[q : q + 1], ids[q : q + 1] = top_k(exact, row_ids, k)
        return scores, ids

    def _candidates_of_share(self, queries: FloatArray, wanted: int, nprobe: int, parameters: Any) -> IntArray:
        """What the share's lists propose, of those that a query visits. Shape: (Q, wanted) int64, -1 for none."""
        faiss = import_faiss()
        number, of = self._share
        nearness, lists = self._faiss.quantizer.search(queries, nprobe, params=_cells(self._faiss, nprobe))
        lists[lists % of != number] = -1  # which FAISS passes over
        distances, found = np.empty((len(queries), wanted), np.float32), np.empty((len(queries), wanted), np.int64)
        arrays = [faiss.swig_ptr(array) for array in (lists, nearness, distances, found)]
        # FAISS's function for Python takes no parameters.
        self._faiss.search_preassigned_c(len(queries), faiss.swig_ptr(queries), wanted, *arrays, False, parameters)
        return found


def open_segments(
    manifest: Manifest,
    locate: Callable[[FileRef], Path],
    hidden: Callable[[FileRef | None], IntArray],
    share: Share = ALL_OF_IT,
) -> list[VectorSegment]:
    """Open every segment of a generation. `locate` returns the verified path of a file, `hidden` the ids in a file of
    marks; of each, `share` is searched. Raises: CorruptIndex, DimensionMismatch.
    """
    return [
        VectorSegment(
            locate(segment.mapped),
            manifest.model.dim,
            faiss_file=None if segment.faiss is None else locate(segment.faiss),
            ivf=segment.ivf,
            exclude=hidden(segment.hidden),
            share=share,
        )
        for segment in manifest.segments
    ]


def check_queries(queries: FloatArray, dim: int) -> None:
    """Raise unless `queries` is (Q, dim) float32 and finite. Raises: DimensionMismatch, InvalidQuery."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise DimensionMismatch(dim, queries.shape[-1] if queries.ndim else 0)
    if queries.dtype != np.float32 or not np.isfinite(queries).all():
        raise InvalidQuery("queries must be finite float32 vectors")


def empty_result(queries: int, k: int) -> tuple[FloatArray, IntArray]:
    """Scores and ids that hold nothing yet. Shapes: (Q, k) float32 of -inf, (Q, k) int64 of -1."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)


def top_k(scores: FloatArray, row_ids: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """The k best columns of each row, best first, equal scores by ascending row id; -inf is never chosen.

    Shapes: scores (Q, N), row_ids (N,); result (Q, k) and (Q, k), filled up with -inf and -1.
    """
    best_scores, best_ids = empty_result(len(scores), k)
    for q, row in enumerate(scores):
        if len(row) > k:
            threshold = np.partition(row, len(row) - k)[len(row) - k]
            chosen = np.flatnonzero(row >= threshold)
        else:
            chosen = np.arange(len(row))
        chosen = chosen[row[chosen] > -np.inf]
        chosen = chosen[np.lexsort((row_ids[chosen], -row[chosen]))][:k]
        best_scores[q, : len(chosen)], best_ids[q, : len(chosen)] = row[chosen], row_ids[chosen]
    return best_scores, best_ids


def distinct(ids: IntArray) -> IntArray:
    """The different ones of some ids, ascending: np.unique's hash table takes several times as long. Shape: (M,)."""
    ordered = np.sort(ids)
    different: IntArray = ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]
    return different


def merge(results: Sequence[tuple[FloatArray, IntArray]], k: int) -> tuple[FloatArray, IntArray]:
    """Join the answers of several segments into the k best of all. Shapes: as `VectorSegment.search`."""
    results = [result for result in results if result[1].size and (result[1][:, 0] >= 0).any()] or results[:1]
    if len(results) == 1 and results[0][0].shape[1] >= k:
        return results[0][0][:, :k], results[0][1][:, :k]  # in order already
    scores = np.concatenate([r[0] for r in results], axis=1)
    ids = np.concatenate([r[1] for r in results], axis=1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def import_faiss() -> Any:
    """FAISS, when it is first needed: exact search does without it. Its type stubs lag behind its functions.

    Its threads wait asleep, not spinning: on a busy machine two spinning threads took 42 s of processor time, and
    129 s, to train what one thread trained in 1.6 s, and two that sleep in 2.0 s.
    """
    return import_with_sleeping_threads("faiss")


def lists_by_nearness(index: Any, queries: FloatArray) -> IntArray:
    """All lists of an inverted file, for each query the nearest first. Shape: (Q, nlist)."""
    lists: IntArray = index.quantizer.search(queries, index.nlist, params=_cells(index, index.nlist))[1]
    return lists


def probing(index: Any, nprobe: int) -> Any:
    """FAISS's parameters to visit the `nprobe` nearest lists."""
    return import_faiss().SearchParametersIVF(nprobe=nprobe, quantizer_params=_cells(index, nprobe))


def _cells(index: Any, lists: int) -> Any:
    """FAISS's parameters to find the nearest lists. Where these are divided into cells: to look at as many cells as
    hold LISTS_LOOKED_AT times as many, or at all."""
    faiss = import_faiss()
    cells = getattr(faiss.downcast_index(index.quantizer), "nlist", None)
    if cells is None:
        return None
    wanted = cells if lists == index.nlist else math.ceil(LISTS_LOOKED_AT * lists * cells / index.nlist)
    return faiss.SearchParametersIVF(nprobe=min(cells, max(LEAST_CELLS, wanted)))


def open_faiss(path: Path, dim: int, rows: int) -> Any:
    faiss = import_faiss()
    try:
        with reading(path), path.open("rb") as file, native_path(path) as name:
            _check_whole(path, file)
            index = faiss.read_index(name, faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise CorruptIndex(path, f"FAISS cannot read it ({first_line(error)})") from error
    if index.d != dim:
        raise DimensionMismatch(dim, index.d)
    if index.ntotal != rows:
        raise CorruptIndex(path, f"it has {index.ntotal} rows, but its segment has {rows}")
    return index


def _check_whole(path: Path, file: IO[bytes]) -> None:
    """FAISS 1.15 ends the process where a file of 1-bit codes is cut short. Raises: CorruptIndex."""
    if file.read(len(OF_1_BIT_CODES)) == OF_1_BIT_CODES:
        file.seek(-min(len(END_OF_CODES), os.fstat(file.fileno()).st_size), os.SEEK_END)
        if file.read() != END_OF_CODES:
            raise CorruptIndex(path, "FAISS cannot read it (it is cut short)")
