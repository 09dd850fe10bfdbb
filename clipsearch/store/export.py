"""Rows and vectors of an index as one table of Arrow's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.records import Manifest, ModelRef
from clipsearch.store.arrow import from_numbers, to_numbers
from clipsearch.store.fragments import BATCH_ROWS, MODEL_KEY, read_pictures, record_schema, to_table
from clipsearch.store.rows import open_live_rows

if TYPE_CHECKING:
    import pyarrow as pa


def picture_schema(model: ModelRef, *, vectors: bool = True) -> pa.Schema:
    """The columns of `records/`, and `vector`; the model is in the metadata."""
    import pyarrow as pa

    schema = record_schema()
    if vectors:
        schema = schema.append(pa.field("vector", pa.list_(pa.float32(), model.dim), nullable=False))
    return schema.with_metadata({MODEL_KEY: json.dumps(dataclasses.asdict(model))})


def picture_batches(index_dir: Path, manifest: Manifest, *, vectors: bool = True) -> Iterator[pa.RecordBatch]:
    """Every picture that is answered, some thousand at a time, in the order in which they are stored.

    `vectors`: with their vectors (float32, unit L2). Raises: CorruptIndex.
    """
    import pyarrow as pa

    schema = picture_schema(manifest.model, vectors=vectors)
    if vectors:
        for batch in read_pictures(index_dir, manifest):
            flat = from_numbers(batch.vectors, pa.float32())
            column = pa.FixedSizeListArray.from_arrays(flat, list_size=manifest.model.dim)
            table = to_table(batch.records).append_column(schema.field("vector"), column)
            yield from table.cast(schema).to_batches()
        return
    for fragment in manifest.fragments:
        if fragment.rows_file is None:
            continue
        rows = open_live_rows(index_dir, fragment, has_regions=manifest.model.regions > 0)
        alive = np.flatnonzero(rows.alive)
        for start in range(0, len(alive), BATCH_ROWS):
            yield from to_table(rows.file.records(alive[start : start + BATCH_ROWS])).cast(schema).to_batches()


def picture_table(index_dir: Path, manifest: Manifest, *, vectors: bool = True) -> pa.Table:
    """All of `picture_batches` as one table, by row id. Raises: CorruptIndex."""
    import pyarrow as pa

    schema = picture_schema(manifest.model, vectors=vectors)
    table = pa.Table.from_batches(picture_batches(index_dir, manifest, vectors=vectors), schema)
    row_ids = to_numbers(table.column("row_id"))
    if (np.diff(row_ids) > 0).all():
        return table
    order = np.argsort(row_ids, kind="stable")
    return table.take(from_numbers(order, pa.int64()))
