"""Segments: row ids and unit vectors in a form that can be searched.

A small segment is a NumPy file that is mapped and multiplied with the query: exact, nothing to load. A large
one has a FAISS inverted file (IVF with 4-bit product quantisation) beside it that proposes candidates, which are
scored again from the exact vectors. This module knows no Parquet, no paths of pictures and no encoder.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from clipsearch.errors import CorruptIndex, DimensionMismatch
from clipsearch.npy import read_array, read_header
from clipsearch.records import FileRef, FloatArray, IntArray, IvfParameters, Manifest

IVF_FROM_ROWS = 200_000
"""Segments of fewer rows are searched exactly; the crossing is measured by `benchmarks/exact_or_ivf.py`."""

UNIT_TOLERANCE = 1e-3
EXACT_BLOCK_ROWS = 262_144
GATHER_ROWS = 4_096
IVF_VISITED_ROWS_PER_HIT = 20


class BinaryWriter(Protocol):
    def write(self, data: Any) -> int: ...


def check_vectors(row_ids: IntArray, vectors: FloatArray, dim: int, *, after: int = -1) -> None:
    """Raise unless every vector is finite, of unit length and `dim` long, and the row ids ascend from `after`.

    FAISS takes duplicate ids and NaN without a word, so nothing reaches it unchecked.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise DimensionMismatch(dim, vectors.shape[-1])
    if row_ids.shape != (len(vectors),):
        raise ValueError(f"{len(vectors)} vectors for row ids of shape {row_ids.shape}")
    if not len(row_ids):
        return
    if row_ids[0] <= after or np.any(np.diff(row_ids) <= 0):
        raise ValueError("row ids must ascend without repeating")
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = ~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(f"the vector of row {row_ids[first]} has length {lengths[first]:.4g}, not 1")


def write_vectors(file: BinaryWriter, blocks: Iterable[tuple[IntArray, FloatArray]], rows: int, dim: int) -> None:
    """Write a vectors file of `rows` rows, block by block. Shapes: blocks of (B,) int64, (B, dim) float32.

    Layout: the vectors as npy, (rows, dim) float32, then their row ids as npy, (rows,) int64; so `numpy.load` on
    an open file gives the one, and again the other. Reading the row ids touches no page of vectors.
    """
    _write_header(file, "<f4", (rows, dim))
    row_ids: list[IntArray] = [np.empty(0, np.int64)]
    last = -1
    for ids, vectors in blocks:
        check_vectors(ids, vectors, dim, after=last)
        if not len(ids):
            continue
        file.write(np.ascontiguousarray(vectors, "<f4"))
        row_ids.append(ids)
        last = int(ids[-1])
    all_ids = np.concatenate(row_ids)
    if len(all_ids) != rows:
        raise ValueError(f"{len(all_ids)} rows were written where {rows} were announced")
    _write_header(file, "<i8", (rows,))
    file.write(all_ids.astype("<i8"))


def _write_header(file: BinaryWriter, descr: str, shape: tuple[int, ...]) -> None:
    header: dict[str, Any] = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(cast(Any, file), header)


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
    ) -> None:
        """Map a vectors file. `exclude`: sorted row ids that are never answered. Raises: CorruptIndex."""
        try:
            matrix, row_ids, self._data_at = _map_vectors(vectors)
        except (ValueError, EOFError, OSError) as error:
            raise CorruptIndex(vectors, f"it is no vectors file ({error})") from error
        if matrix.ndim != 2 or matrix.dtype != np.float32 or row_ids.shape != (len(matrix),):
            raise CorruptIndex(vectors, f"it holds {matrix.dtype} {matrix.shape} and {row_ids.dtype} {row_ids.shape}")
        if matrix.shape[1] != dim:
            raise DimensionMismatch(dim, matrix.shape[1])
        self.path = vectors
        self.dim = dim
        self.row_ids: IntArray = row_ids
        self.vectors: FloatArray = matrix
        self._dead = self._positions_of(exclude)
        self._faiss_file = faiss_file
        self._ivf = ivf
        self._faiss: Any = None

    def blocks(self, rows: int) -> Iterator[tuple[IntArray, FloatArray]]:
        """Read the segment front to back in blocks, without mapping it: memory stays at one block."""
        with self.path.open("rb") as file:
            file.seek(self._data_at)
            for start in range(0, len(self), rows):
                ids = self.row_ids[start : start + rows]
                block = np.fromfile(file, "<f4", len(ids) * self.dim)
                yield ids, block.reshape(len(ids), self.dim)

    def take(self, positions: IntArray) -> FloatArray:
        """Read the vectors at ascending positions, without mapping them. Shape: (P, D) float32."""
        taken = np.empty((len(positions), self.dim), np.float32)
        with self.path.open("rb") as file:
            for n, position in enumerate(positions.tolist()):
                file.seek(self._data_at + position * self.dim * 4)
                taken[n] = np.fromfile(file, "<f4", self.dim)
        return taken

    def __len__(self) -> int:
        return len(self.row_ids)

    def _positions_of(self, row_ids: IntArray | None) -> IntArray:
        if row_ids is None or not len(row_ids) or not len(self.row_ids):
            return np.empty(0, np.int64)
        at = np.searchsorted(self.row_ids, row_ids)
        at = np.minimum(at, len(self.row_ids) - 1)
        found: IntArray = at[self.row_ids[at] == row_ids]
        return found

    def find(self, row_id: int) -> FloatArray | None:
        """The vector of `row_id`, or None. Shape: (D,) float32."""
        at = self._positions_of(np.array([row_id], np.int64))
        return None if not len(at) else np.array(self.vectors[at[0]])

    def load(self) -> None:
        """Open the inverted file now, if there is one, rather than at the first search. Raises: CorruptIndex."""
        if self._faiss is None and self._faiss_file is not None:
            self._faiss = open_faiss(self._faiss_file, self.dim, len(self))

    def search(
        self, queries: FloatArray, k: int, *, exact: bool = False, selection: IntArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Return the k nearest row ids for each query, best first; equal scores by ascending row id.

        Shapes: queries (Q, D) float32, unit L2; selection (S,) int64, sorted without repeating: only these row ids
        are answered, those of other segments are passed over; scores (Q, k) cosine, -inf where there is none; ids
        (Q, k) int64, -1 where there is none. Raises: DimensionMismatch.
        """
        check_queries(queries, self.dim)
        if selection is not None:
            return self._search_exact(queries, k, self._live(self._positions_of(selection)))
        if exact or self._faiss_file is None or self._ivf is None:
            return self._search_exact(queries, k)
        # The lists visited must hold many more rows than are asked for: parameters were tuned for few hits.
        nprobe = max(self._ivf.nprobe, math.ceil(IVF_VISITED_ROWS_PER_HIT * k * self._ivf.nlist / max(1, len(self))))
        if nprobe > self._ivf.nlist // 2:
            return self._search_exact(queries, k)
        return self._search_ivf(queries, k, self._ivf, nprobe)

    def _live(self, positions: IntArray) -> IntArray:
        """`positions` (sorted) without those of excluded rows."""
        if not len(self._dead):
            return positions
        return positions[~np.isin(positions, self._dead, assume_unique=True)]

    def _search_exact(
        self, queries: FloatArray, k: int, positions: IntArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Score every live row, or those at `positions` (sorted, live)."""
        best = empty_result(len(queries), k)
        for start in range(0, len(self), EXACT_BLOCK_ROWS):
            stop = min(start + EXACT_BLOCK_ROWS, len(self))
            if positions is None:
                scores, ids = _products(queries, self.vectors[start:stop]), self.row_ids[start:stop]
                dead = self._dead[(self._dead >= start) & (self._dead < stop)]
                scores[:, dead - start] = -np.inf
            else:
                chosen = positions[slice(*np.searchsorted(positions, (start, stop)))]
                if not len(chosen):
                    continue
                ids = self.row_ids[chosen]
                if 2 * len(chosen) > stop - start:  # reading all in order is faster than picking out the half
                    scores = _products(queries, self.vectors[start:stop])[:, chosen - start]
                else:
                    parts = [chosen[n : n + GATHER_ROWS] for n in range(0, len(chosen), GATHER_ROWS)]
                    scores = np.concatenate([_products(queries, self.vectors[part]) for part in parts], axis=1)
            best = merge([best, top_k(scores, ids, k)], k)
        return best

    def _search_ivf(self, queries: FloatArray, k: int, ivf: IvfParameters, nprobe: int) -> tuple[FloatArray, IntArray]:
        faiss = import_faiss()
        self.load()
        wanted = min(k * ivf.rerank, len(self))
        parameters = faiss.SearchParametersIVF(nprobe=nprobe)
        if len(self._dead):
            dead = faiss.IDSelectorBatch(self.row_ids[self._dead])
            parameters.sel = faiss.IDSelectorNot(dead)
        _, candidates = self._faiss.search(np.ascontiguousarray(queries), wanted, params=parameters)
        scores, ids = empty_result(len(queries), k)
        for q, row_ids in enumerate(candidates):
            row_ids = np.unique(row_ids[row_ids >= 0])
            exact = self.vectors[self._positions_of(row_ids)] @ queries[q]
            scores[q : q + 1], ids[q : q + 1] = top_k(exact[None], row_ids, k)
        return scores, ids


def open_segments(manifest: Manifest, locate: Callable[[FileRef], Path], exclude: IntArray) -> list[VectorSegment]:
    """Open every segment of a generation. `locate` returns the verified path of a file; `exclude` are deleted rows.

    Raises: CorruptIndex, DimensionMismatch.
    """
    return [
        VectorSegment(
            locate(segment.vectors),
            manifest.model.dim,
            faiss_file=None if segment.faiss is None else locate(segment.faiss),
            ivf=segment.ivf,
            exclude=exclude,
        )
        for segment in (fragment.segment for fragment in manifest.fragments)
        if segment is not None
    ]


def _products(queries: FloatArray, rows: FloatArray) -> FloatArray:
    """Shapes: queries (Q, D), rows (N, D), result (Q, N)."""
    products: FloatArray = (rows @ queries[0])[None] if len(queries) == 1 else queries @ rows.T
    return products


def _map_vectors(path: Path) -> tuple[FloatArray, IntArray, int]:
    """The vectors, mapped; their row ids, read; and the offset in bytes at which the vectors begin."""
    with path.open("rb") as file:
        dtype, shape = read_header(file)
        start = file.tell()
        size = int(np.prod(shape)) * dtype.itemsize
        file.seek(start + size)
        row_ids: IntArray = read_array(file)
        if size == 0:
            return np.empty(shape, dtype), row_ids, start
        mapped = np.memmap(file, dtype, "r", start, shape)
    return mapped.view(np.ndarray), row_ids, start


def check_queries(queries: FloatArray, dim: int) -> None:
    """Raise unless `queries` is (Q, dim) float32 and finite."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise DimensionMismatch(dim, queries.shape[-1])
    if queries.dtype != np.float32 or not np.isfinite(queries).all():
        raise ValueError("queries must be finite float32 vectors")


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


def merge(results: Sequence[tuple[FloatArray, IntArray]], k: int) -> tuple[FloatArray, IntArray]:
    """Join the answers of several segments into the k best of all. Shapes: as `VectorSegment.search`."""
    scores = np.concatenate([r[0] for r in results], axis=1)
    ids = np.concatenate([r[1] for r in results], axis=1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def import_faiss() -> Any:
    """FAISS, when it is first needed: exact search does without it. Its type stubs lag behind its functions."""
    return importlib.import_module("faiss")


def open_faiss(path: Path, dim: int, rows: int) -> Any:
    faiss = import_faiss()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise CorruptIndex(path, f"FAISS cannot read it ({str(error).splitlines()[0]})") from error
    if index.d != dim:
        raise DimensionMismatch(dim, index.d)
    if index.ntotal != rows:
        raise CorruptIndex(path, f"it has {index.ntotal} rows, its segment {rows}")
    return index
