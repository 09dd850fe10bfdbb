"""Derive what is searched from what is stored: vectors, rows and, for large fragments, an inverted file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from clipsearch.records import EmbeddingBatch, FileRef, Fragment, ImageRecord, Segment
from clipsearch.store import Writer
from clipsearch.store.columns import ColumnsBuilder
from clipsearch.vectors import IVF_FROM_ROWS, BinaryWriter, VectorsFile, write_vectors
from clipsearch.vectors.inverted import DEFAULT_RECALL, build_ivf

MERGE_FAN = 8
"""How many fragments of a size are joined into one: see `compact`."""

Batches = Callable[[], Iterable[EmbeddingBatch]]


def add_segment(
    writer: Writer,
    fragment: Fragment,
    dim: int,
    batches: Batches,
    *,
    collection_rows: int = 0,
    recall: float = DEFAULT_RECALL,
) -> Fragment:
    """Write the searchable form of `fragment`, whose rows `batches` yields (again at each call).

    It gets an inverted file if it is large itself, or not small in a collection of `collection_rows` that is. Its
    vectors are then stored as float16: few of them are read by a query, and those in random order.
    """
    if fragment.vectors == 0:
        return dataclasses.replace(fragment, segment=None)

    def answerable(batch: EmbeddingBatch) -> list[ImageRecord]:
        return [record for record in batch.records if record.status == "ok"]

    blocks = (
        (np.array([record.row_id for record in answerable(batch)], np.int64), batch.vectors) for batch in batches()
    )
    from_rows = IVF_FROM_ROWS if collection_rows < IVF_FROM_ROWS else IVF_FROM_ROWS // MERGE_FAN
    large = fragment.vectors >= from_rows
    vectors = writer.add_file(
        "vectors", ".npy", lambda file: write_vectors(file, blocks, fragment.vectors, dim, half=large)
    )
    columns = ColumnsBuilder()

    def shown() -> Iterator[ImageRecord]:
        for batch in batches():
            for record in answerable(batch):
                columns.add(record)
                yield record

    rows = writer.add_rows(shown())
    segment = Segment(vectors, rows, columns=writer.add_columns(columns.columns()))
    if large:
        segment = add_inverted_file(writer, segment, dim, recall=recall)
    return dataclasses.replace(fragment, segment=segment)


def add_inverted_file(writer: Writer, segment: Segment, dim: int, *, recall: float) -> Segment:
    """Build FAISS's inverted file beside a segment's vectors, tuned for `recall` (0..1)."""
    refs: list[FileRef] = []

    def write(serialise: Callable[[BinaryWriter], None]) -> None:
        refs.append(writer.add_file("faiss", ".faiss", serialise))

    ivf = build_ivf(VectorsFile(writer.index_dir / segment.vectors.path, dim), write, recall=recall)
    return dataclasses.replace(segment, faiss=refs[0], ivf=ivf)
