"""Rows and vectors of an index as one Parquet file, for other programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from clipsearch.errors import StorageError
from clipsearch.store.arrow import from_numbers
from clipsearch.store.files import storage_errors, sync_file
from clipsearch.store.fragments import MODEL_KEY, read_pictures, record_schema, to_table
from clipsearch.store.snapshot import open_snapshot


def export_parquet(index_dir: Path, target: Path) -> int:
    """Write every picture that is answered, with all that is known of it and its vector (float32, unit L2), as Parquet.

    The columns are those of `records/`, and `vector`; the model is in the metadata. Returns the pictures written.
    Raises: StorageError if `target` exists or cannot be written, IndexNotFound, CorruptIndex, OutOfSpace.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if target.exists():
        raise StorageError(target, "it exists already", "Name another file, or delete that one first.")
    part = target.with_name(f".{target.name}.part")
    count = 0
    with open_snapshot(index_dir) as snapshot, storage_errors(target):
        model = snapshot.manifest.model
        schema = record_schema().append(pa.field("vector", pa.list_(pa.float32(), model.dim), nullable=False))
        about = {MODEL_KEY: json.dumps(dataclasses.asdict(model))}
        try:
            with part.open("xb") as file:
                with pq.ParquetWriter(file, schema.with_metadata(about), compression="zstd") as parquet:
                    for batch in read_pictures(index_dir, snapshot.manifest):
                        flat = from_numbers(batch.vectors, pa.float32())
                        vectors = pa.FixedSizeListArray.from_arrays(flat, list_size=model.dim)
                        table = to_table(batch.records).append_column(schema.field("vector"), vectors)
                        parquet.write_table(table.cast(schema))
                        count += len(batch.records)
                file.flush()
                sync_file(file.fileno())
            part.rename(target)
        except BaseException as error:
            if not isinstance(error, FileExistsError):
                part.unlink(missing_ok=True)
            raise
    return count
