"""An export as one file, Parquet or Arrow, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clipsearch.errors import InvalidTarget
from clipsearch.exports.pictures import Pictures
from clipsearch.exports.targets import Target
from clipsearch.replacing import creating, replacing
from clipsearch.search.collection import Collection
from clipsearch.store.arrow import from_numbers, to_array
from clipsearch.store.export import picture_schema
from clipsearch.store.files import storage_errors
from clipsearch.store.fragments import MODEL_KEY, to_table

if TYPE_CHECKING:
    import pyarrow as pa

EXPORT_KEY = b"clipsearch.export"


def write(
    photos: Collection,
    pictures: Pictures,
    target: Target,
    mark: str,
    *,
    overwrite: bool,
    progress: Callable[[int, int], None],
) -> int:
    """Write a new file, or with `overwrite` one in the place of an earlier export. Returns the pictures in it.

    The columns are those of `records/`, and `tags`, `missing`, `vector` (float32, unit L2); the model is in the
    metadata. Raises: InvalidTarget, StorageError, CorruptIndex, OutOfSpace.
    """
    path = Path(target.address)
    schema = file_schema(photos, mark)
    count = 0
    with storage_errors(path), _opened(path, overwrite=overwrite) as file, _writer(target, file, schema) as writer:
        progress(0, pictures.count)
        for batch in _batches(pictures, schema):
            writer.write_batch(batch)
            count += batch.num_rows
            progress(count, pictures.count)
    return count


def file_schema(photos: Collection, mark: str) -> pa.Schema:
    """The columns of a file."""
    import pyarrow as pa

    schema = picture_schema(photos.manifest.model)
    vector = schema.field("vector")
    fields = [field for field in schema if field.name != "vector"]
    fields += [
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("missing", pa.bool_(), nullable=False),
        vector,
    ]
    return pa.schema(fields, metadata={MODEL_KEY: schema.metadata[MODEL_KEY], EXPORT_KEY: mark.encode()})


def _batches(pictures: Pictures, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import numpy as np
    import pyarrow as pa

    for batch in pictures.batches():
        table = to_table(batch.records)
        row_ids = np.array([record.row_id for record in batch.records], np.int64)
        tags = pictures.tags(row_ids)
        ends = np.cumsum([0, *map(len, tags)], dtype=np.int32)
        flat = to_array([name for names in tags for name in names], pa.string())
        vectors = from_numbers(batch.vectors, pa.float32())
        columns = [
            *table.columns,
            pa.ListArray.from_arrays(from_numbers(ends, pa.int32()), flat),
            to_array(pictures.are_missing(row_ids), pa.bool_()),
            pa.FixedSizeListArray.from_arrays(vectors, list_size=schema.field("vector").type.list_size),
        ]
        yield from pa.Table.from_arrays(columns, names=schema.names).cast(schema).to_batches()


def _writer(target: Target, file: IO[bytes], schema: pa.Schema) -> AbstractContextManager[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: AbstractContextManager[Any]
    if target.kind.name == "Arrow":
        writer = pa.ipc.new_file(file, schema)
    else:
        writer = pq.ParquetWriter(file, schema, compression="zstd")
    return writer


def _opened(path: Path, *, overwrite: bool) -> AbstractContextManager[IO[bytes]]:
    if not overwrite or not path.exists():
        if path.is_file() and is_export(path):
            raise InvalidTarget(str(path), "it already exists. Replace this earlier export with: --overwrite")
        return creating(path)
    if not path.is_file() or not is_export(path):
        raise InvalidTarget(
            str(path), "clipsearch did not write it, and replaces only its own exports. Name another file"
        )
    return replacing(path, synced=True)


def is_export(path: Path) -> bool:
    """Whether a file is an earlier export, by what it says of itself. Raises: OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        try:
            if start == b"ARROW1":
                schema = pa.ipc.open_file(file).schema
            elif start[:4] == b"PAR1":
                schema = pq.read_schema(file)
            else:
                return False
        except (pa.ArrowException, ValueError):
            return False
    metadata = schema.metadata or {}
    return EXPORT_KEY in metadata or (MODEL_KEY in metadata and {"path", "vector"} <= set(schema.names))
