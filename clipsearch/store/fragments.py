"""Fragments: records and vectors as Parquet. The only importer of pyarrow that writes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import CorruptIndex
from clipsearch.records import EmbeddingBatch, Fragment, ImageRecord, Manifest, ModelRef, PictureMetadata
from clipsearch.store.files import HashingFile, verify_file
from clipsearch.store.snapshot import read_tombstones

if TYPE_CHECKING:
    import pyarrow as pa


def schema(dim: int) -> pa.Schema:
    """Columns of a fragment. `path` is for people and other programs; where its bytes are not UTF-8,
    `path_bytes` has them as they are."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("path_bytes", pa.binary()),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("inode", pa.uint64(), nullable=False),
            pa.field("content_hash", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("format", pa.string()),
            pa.field("taken_at", pa.string()),
            pa.field("camera", pa.string()),
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("reason", pa.string()),
            pa.field("partial", pa.string()),
            pa.field("attempts", pa.int32()),
            pa.field("vector", pa.list_(pa.float32(), dim)),
        ]
    )


MODEL_KEY = b"clipsearch.model"
RECORD_COLUMNS = [
    "row_id", "path", "path_bytes", "size_bytes", "mtime_ns", "inode", "content_hash", "width", "height",
    "format", "taken_at", "camera", "latitude", "longitude", "status", "reason", "partial", "attempts",
]  # fmt: skip


def _utf8(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def to_table(batch: EmbeddingBatch, dim: int) -> pa.Table:
    """A fragment's table. `batch.vectors` has one row per record with status "ok", in the order of the records."""
    import pyarrow as pa

    records = batch.records
    has_vector = np.array([r.status == "ok" for r in records], bool)
    full = np.zeros((len(records), dim), np.float32)
    full[has_vector] = batch.vectors
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(full.reshape(-1)), list_size=dim, mask=pa.array(~has_vector))
    columns: dict[str, Any] = {
        "row_id": [r.row_id for r in records],
        "path": [os.fsencode(r.path).decode("utf-8", "replace") for r in records],
        "path_bytes": [None if _is_utf8(r.path) else os.fsencode(r.path) for r in records],
        "size_bytes": [r.size_bytes for r in records],
        "mtime_ns": [r.mtime_ns for r in records],
        "inode": [r.inode for r in records],
        "content_hash": [r.content_hash for r in records],
        "width": [r.width for r in records],
        "height": [r.height for r in records],
        "format": [r.metadata.format for r in records],
        "taken_at": [r.metadata.taken_at for r in records],
        "camera": [_utf8(r.metadata.camera) for r in records],
        "latitude": [r.metadata.latitude for r in records],
        "longitude": [r.metadata.longitude for r in records],
        "status": [r.status for r in records],
        "reason": [_utf8(r.reason) for r in records],
        "partial": [_utf8(r.partial) for r in records],
        "attempts": [r.attempts for r in records],
        "vector": vectors,
    }
    return pa.table(columns, schema=schema(dim))


def to_records(table: pa.Table) -> list[ImageRecord]:
    """The records of a fragment's table, without the vectors."""
    there = [name for name in RECORD_COLUMNS if name in table.column_names]  # the last two came later
    columns = table.select(there).to_pydict()
    columns |= {name: [None] * table.num_rows for name in ("partial", "attempts") if name not in columns}
    return [
        ImageRecord(
            row_id=row_id,
            path=path if path_bytes is None else os.fsdecode(path_bytes),
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            inode=inode,
            content_hash=content_hash,
            width=width,
            height=height,
            metadata=PictureMetadata(format_, taken_at, camera, latitude, longitude),
            status=status,
            reason=reason,
            partial=partial,
            attempts=attempts or 0,
        )
        for (
            row_id, path, path_bytes, size_bytes, mtime_ns, inode, content_hash, width, height,
            format_, taken_at, camera, latitude, longitude, status, reason, partial, attempts,
        ) in zip(*(columns[name] for name in RECORD_COLUMNS), strict=True)
    ]  # fmt: skip


def to_batch(table: pa.Table, dim: int) -> EmbeddingBatch:
    """Records and vectors of a fragment's table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    vectors: list[np.ndarray[Any, Any]] = []
    for chunk in table.column("vector").chunks:
        present = chunk.filter(pc.is_valid(chunk))
        values = present.flatten() if isinstance(present, pa.FixedSizeListArray) else present.values
        vectors.append(np.asarray(values, np.float32).reshape(-1, dim))
    stacked = np.concatenate(vectors) if vectors else np.empty((0, dim), np.float32)
    return EmbeddingBatch(to_records(table), stacked)


def read_fragment(
    index_dir: Path, fragment: Fragment, *, dim: int, batch_rows: int = 8192, afresh: bool = False
) -> Iterator[EmbeddingBatch]:
    """Yield a fragment's rows, a bounded number at a time. Raises: CorruptIndex."""
    path = verify_file(index_dir, fragment.data, afresh=afresh)
    for table in _tables(path, index_dir, fragment, None, batch_rows):
        yield to_batch(table, dim)


def read_records(index_dir: Path, manifest: Manifest) -> list[ImageRecord]:
    """Every live record of a generation, without vectors. Raises: CorruptIndex."""
    dead = set(read_tombstones(index_dir, manifest).tolist())
    records: list[ImageRecord] = []
    for fragment in manifest.fragments:
        records += [record for record in read_fragment_records(index_dir, fragment) if record.row_id not in dead]
    return records


def read_partial(index_dir: Path, manifest: Manifest) -> list[ImageRecord]:
    """Every live record of a picture that was read in part. Most fragments have none, which one column tells.

    Raises: CorruptIndex.
    """
    import pyarrow.compute as pc

    found: list[ImageRecord] = []
    dead: set[int] | None = None
    for fragment in manifest.fragments:
        path = verify_file(index_dir, fragment.data)
        tables = _tables(path, index_dir, fragment, ["partial", "row_id"], 65536)
        if any(pc.count(t.column("partial")).as_py() for t in tables if "partial" in t.column_names):
            dead = set(read_tombstones(index_dir, manifest).tolist()) if dead is None else dead
            records = read_fragment_records(index_dir, fragment)
            found += [record for record in records if record.partial is not None and record.row_id not in dead]
    return found


def read_fragment_records(index_dir: Path, fragment: Fragment) -> Iterator[ImageRecord]:
    """Every record of a fragment, deleted ones too, without vectors. Raises: CorruptIndex."""
    path = verify_file(index_dir, fragment.data)
    for table in _tables(path, index_dir, fragment, RECORD_COLUMNS, 65536):
        yield from to_records(table)


def _tables(
    path: Path, index_dir: Path, fragment: Fragment, columns: list[str] | None, batch_rows: int
) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=batch_rows, columns=columns, use_threads=True):
                rows += batch.num_rows
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, KeyError) as error:
        raise CorruptIndex(path, f"it is no fragment ({error})", index=index_dir) from error
    if rows != fragment.rows:
        raise CorruptIndex(path, f"it has {rows} rows, the manifest says {fragment.rows}", index=index_dir)


def write_fragment(file: HashingFile, batches: Iterable[EmbeddingBatch], model: ModelRef) -> tuple[int, int, int, int]:
    """Write rows, whose ids ascend, as Parquet. Returns rows, rows with a vector, first and last row id.

    The model goes into the file's metadata, so that a fragment can be understood without its manifest.
    """
    import pyarrow.parquet as pq

    rows = vectors = 0
    first = last = -1
    with pq.ParquetWriter(
        file,
        schema(model.dim).with_metadata({MODEL_KEY: json.dumps(dataclasses.asdict(model))}),
        compression={**dict.fromkeys(RECORD_COLUMNS, "zstd"), "vector.list.element": "none"},
        use_dictionary=["status", "format", "camera"],
        write_statistics=RECORD_COLUMNS,
    ) as parquet:
        for batch in batches:
            for record in batch.records:
                if record.row_id <= last:
                    raise ValueError(f"row ids must ascend: {record.row_id} after {last}")
                first = record.row_id if first < 0 else first
                last = record.row_id
            rows += len(batch.records)
            vectors += len(batch.vectors)
            parquet.write_table(to_table(batch, model.dim))
    return rows, vectors, first, last


def read_orphan(path: Path) -> tuple[ModelRef, EmbeddingBatch]:
    """Read a fragment that no manifest describes, whole. Raises: ValueError if it is not one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        model = ModelRef(**json.loads(table.schema.metadata[MODEL_KEY]))
        return model, to_batch(table, model.dim)
    except (pa.ArrowException, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is no fragment: {error}") from error
