"""Write rows and vectors, each with what is derived from them: a fragment with its rows file, a segment with its mapped
vectors and, where it is large, an inverted file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from clipsearch.records import EmbeddingBatch, FileRef, Fragment, ImageRecord, Manifest, ModelRef, Segment
from clipsearch.store import Writer
from clipsearch.store.fragments import Shape, VectorBlock, make_fragment, write_records, write_vector_blocks
from clipsearch.store.hashes import hash_keys, vector_key
from clipsearch.store.rows import write_rows
from clipsearch.vectors import IVF_FROM_ROWS, BinaryWriter, VectorsFile, write_vectors
from clipsearch.vectors.inverted import DEFAULT_RECALL, build_ivf

MERGE_FAN = 8
"""How many fragments, or segments, of a size are joined into one: see `compact`."""

Records = Callable[[], Iterable[list[ImageRecord]]]
Blocks = Callable[[], Iterable[VectorBlock]]


def write_fragment(writer: Writer, records: Records) -> Fragment | None:
    """Write rows, which `records` yields by ascending row id, again at each call. None where there are none."""
    if not any(records()):
        return None
    live: list[bool] = []
    rows = writer.add_file("rows", ".rows", lambda file: live.append(write_rows(file, records)))
    shape: list[Shape] = []
    data = writer.add_file(
        "records", ".parquet", lambda file: shape.append(write_records(file, records(), live=live[0]))
    )
    return make_fragment(data, shape[0], rows)


def write_rows_file(writer: Writer, records: Records) -> FileRef:
    """Write what queries and later runs read of rows."""
    return writer.add_file("rows", ".rows", lambda file: write_rows(file, records))


def write_segment(
    writer: Writer,
    blocks: Blocks,
    model: ModelRef,
    *,
    collection_rows: int = 0,
    recall: float = DEFAULT_RECALL,
) -> Segment | None:
    """Write vectors, which `blocks` yields by ascending id, again at each call. None where there are none."""
    shape: list[tuple[int, int, int]] = []
    data = writer.add_file("vectors", ".parquet", lambda file: shape.append(write_vector_blocks(file, blocks(), model)))
    count, first, last = shape[0]
    if not count:
        return None
    mapped = _write_mapped(writer, blocks, count, model.dim, collection_rows)
    segment = Segment(data, count, first, last, mapped)
    return derive_inverted_file(writer, segment, model.dim, collection_rows=collection_rows, recall=recall)


def derive_segment(
    writer: Writer, segment: Segment, blocks: Blocks, dim: int, *, collection_rows: int, recall: float
) -> Segment:
    """Make again what is derived from a segment's vectors."""
    mapped = _write_mapped(writer, blocks, segment.vectors, dim, collection_rows)
    segment = dataclasses.replace(segment, mapped=mapped, faiss=None, ivf=None)
    return derive_inverted_file(writer, segment, dim, collection_rows=collection_rows, recall=recall)


def _write_mapped(writer: Writer, blocks: Blocks, count: int, dim: int, collection_rows: int) -> FileRef:
    """Of segments with an inverted file the vectors are stored as float16: few of them are read by a query, and those
    in random order."""
    parts = ((block.ids, block.keys, block.vectors) for block in blocks())
    large = _is_large(count, collection_rows)
    return writer.add_file("search", ".npy", lambda file: write_vectors(file, parts, count, dim, half=large))


def _is_large(vectors: int, collection_rows: int) -> bool:
    """Whether a segment gets an inverted file: if it is large itself, or not small in a collection that is."""
    return vectors >= (IVF_FROM_ROWS if collection_rows < IVF_FROM_ROWS else IVF_FROM_ROWS // MERGE_FAN)


def derive_inverted_file(writer: Writer, segment: Segment, dim: int, *, collection_rows: int, recall: float) -> Segment:
    """Build FAISS's inverted file beside a segment's vectors if it is large, tuned for `recall` (0..1)."""
    if not _is_large(segment.vectors, collection_rows):
        return segment
    refs: list[FileRef] = []

    def write(serialise: Callable[[BinaryWriter], None]) -> None:
        refs.append(writer.add_file("faiss", ".faiss", serialise))

    ivf = build_ivf(VectorsFile(writer.index_dir / segment.mapped.path, dim), write, recall=recall)
    return dataclasses.replace(segment, faiss=refs[0], ivf=ivf)


def with_pictures(writer: Writer, manifest: Manifest, batches: Callable[[], Iterable[EmbeddingBatch]]) -> Manifest:
    """`manifest`, not yet committed, with more rows, which get the next ids, each picture with a vector of its own.

    `batches` yields the same again at each call.
    """

    def numbered() -> Iterator[tuple[list[ImageRecord], VectorBlock]]:
        row_id, vector_id = manifest.next_row_id, manifest.next_vector_id
        for batch in batches():
            records = []
            first = vector_id
            for record in batch.records:
                ok = record.status == "ok"
                records.append(dataclasses.replace(record, row_id=row_id, vector_id=vector_id if ok else -1))
                row_id += 1
                vector_id += ok
            keys = hash_keys(vector_key(record) for record in records if record.status == "ok")
            yield records, VectorBlock(np.arange(first, vector_id, dtype=np.int64), keys, batch.vectors)

    fragment = write_fragment(writer, lambda: (records for records, _ in numbered()))
    if fragment is None:
        return manifest
    segment = write_segment(
        writer,
        lambda: (block for _, block in numbered()),
        manifest.model,
        collection_rows=manifest.answered + fragment.pictures,
        recall=manifest.recall_target,
    )
    made = dataclasses.replace(
        manifest,
        fragments=(*manifest.fragments, fragment),
        segments=(*manifest.segments, *([] if segment is None else [segment])),
        next_row_id=fragment.last_row_id + 1,
        next_vector_id=manifest.next_vector_id + fragment.pictures,
        pictures=manifest.pictures + fragment.pictures,
        skipped=manifest.skipped + fragment.rows - fragment.pictures,
    )
    if not fragment.views:
        return made
    from clipsearch.indexer.compact import counted

    return counted(writer.index_dir, made)
