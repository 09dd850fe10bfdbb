"""Parquet: records in one file (a fragment), vectors in another (the truth of a segment). The only writer of both.

Any program can read them: join the records' `vector_id` with that of the vectors. What a record holds is taken from the
fields of ImageRecord and PictureMetadata, so that a new field needs nothing here.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipsearch.config import index_error, open_plain
from clipsearch.errors import CorruptIndex
from clipsearch.filenames import from_bytes, is_utf8, readable, to_bytes
from clipsearch.records import (
    EmbeddingBatch,
    FileRef,
    FloatArray,
    Fragment,
    ImageRecord,
    IntArray,
    Manifest,
    ModelRef,
    PictureMetadata,
    Segment,
)
from clipsearch.store.arrow import from_numbers, to_array, to_numbers
from clipsearch.store.files import HashingFile, verify_file
from clipsearch.store.hashes import hash_keys, hash_texts
from clipsearch.store.manifest import is_of_format_1
from clipsearch.store.marks import dead_rows, marked, missing_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MODEL_KEY = b"clipsearch.model"
MODEL_FIELDS = ("name", "fingerprint", "dim", "score_scale")
BATCH_ROWS = 8192
_RECORD_FIELDS = [field for field in dataclasses.fields(ImageRecord) if field.name != "metadata"]
_METADATA_FIELDS = list(dataclasses.fields(PictureMetadata))
_SPARSE = ("live",)
_LISTS = frozenset(field.name for field in _METADATA_FIELDS if str(field.type).startswith("tuple["))
_REPEATING = ("status", "format", "camera", "date_source")


# -- records


def record_schema(*, live: bool = False) -> pa.Schema:
    """Columns of a fragment. `path` is for people and other programs; where its bytes are not UTF-8, `path_bytes` has
    them as they are. `live`: also the one that only fragments with Live Photos have."""
    import pyarrow as pa

    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "tuple[str, ...]": pa.list_(pa.string())}
    columns = []
    for field in (*_RECORD_FIELDS, *_METADATA_FIELDS):
        if field.name in _SPARSE and not live:
            continue
        name, _, rest = str(field.type).partition(" | ")
        kind = pa.uint64() if field.name == "inode" else kinds.get(name, pa.string())
        columns.append(pa.field(field.name, kind, nullable=rest == "None"))
        if field.name == "path":
            columns.append(pa.field("path_bytes", pa.binary()))
    return pa.schema(columns)


def _utf8(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_utf8(part) for part in value]
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def to_table(records: list[ImageRecord], *, live: bool = False) -> pa.Table:
    """A fragment's table; see `record_schema`."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {}
    for fields, of in ((_RECORD_FIELDS, records), (_METADATA_FIELDS, [record.metadata for record in records])):
        for field in fields:
            values = list(map(attrgetter(field.name), of))
            columns[field.name] = list(map(_utf8, values)) if "str" in str(field.type) else values
    columns["path"] = [readable(record.path) for record in records]
    columns["path_bytes"] = [None if is_utf8(record.path) else to_bytes(record.path) for record in records]
    schema = record_schema(live=live)
    arrays = [to_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def to_records(table: pa.Table) -> list[ImageRecord]:
    """The records of a fragment's table. Fields that an older version did not write have their defaults."""
    there = set(table.column_names)
    own = [field.name for field in _RECORD_FIELDS if field.name in there]
    meta = [field.name for field in _METADATA_FIELDS if field.name in there]
    lists = _LISTS.intersection(meta)
    columns = table.select([*(name for name in (*own, *meta) if name not in lists), "path_bytes"]).to_pydict()
    raw_paths = columns.pop("path_bytes")
    for name in lists:
        column = table.column(name)
        has_some = any(len(chunk.flatten()) for chunk in column.chunks)
        columns[name] = [tuple(value or ()) for value in column.to_pylist()] if has_some else [()] * len(column)
    records = []
    for values, about, raw in zip(
        zip(*(columns[name] for name in own), strict=True),
        zip(*(columns[name] for name in meta), strict=True),
        raw_paths,
        strict=True,
    ):
        found = dict(zip(own, values, strict=True))
        if raw is not None:
            found["path"] = from_bytes(raw)
        records.append(ImageRecord(**found, metadata=PictureMetadata(**dict(zip(meta, about, strict=True)))))
    return records


class Shape(NamedTuple):
    """What was written of a fragment: see `Fragment`."""

    rows: int
    pictures: int  # rows with status "ok"
    first_row_id: int
    last_row_id: int
    views: int
    members: int


def write_records(file: HashingFile, batches: Iterable[list[ImageRecord]], *, live: bool = False) -> Shape:
    """Write records, whose row ids ascend. `live`: some may be a part of a Live Photo."""
    import pyarrow.parquet as pq

    schema = record_schema(live=live)
    rows = pictures = views = members = 0
    first = last = -1
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=[name for name in _REPEATING if name in schema.names],
        write_statistics=["row_id", "path"],
        store_schema=False,
    ) as parquet:
        for records in batches:
            for record in records:
                if record.row_id <= last:
                    raise ValueError(f"row ids must ascend: {record.row_id} after {last}")
                first = record.row_id if first < 0 else first
                last = record.row_id
                pictures += record.status == "ok"
                views += record.view != ""
                members += record.member != ""
            rows += len(records)
            if records:
                parquet.write_table(to_table(records, live=live))
    return Shape(rows, pictures, first, last, views, members)


def read_fragment_records(index_dir: Path, fragment: Fragment, *, afresh: bool = False) -> Iterator[ImageRecord]:
    """Every record of a fragment, dead ones too, by ascending row id. Raises: CorruptIndex."""
    path = verify_file(index_dir, fragment.data, afresh=afresh)
    legacy = is_of_format_1(fragment)
    for table in _tables(path, index_dir, fragment.rows, without=("vector",)):
        for record in to_records(table):
            if legacy and record.status == "ok":
                record = dataclasses.replace(record, vector_id=record.row_id)
            yield record


def read_live_records(index_dir: Path, fragment: Fragment, *, missing: bool = False) -> Iterator[ImageRecord]:
    """The records of a fragment that are not dead, nor missing unless `missing` is set. Raises: CorruptIndex."""
    gone = set(dead_rows(index_dir, fragment).tolist())
    if not missing:
        gone |= set(marked(missing_rows(index_dir, fragment)).tolist())
    for record in read_fragment_records(index_dir, fragment):
        if record.row_id not in gone:
            yield record


def merge_records(index_dir: Path, fragments: Iterable[Fragment]) -> Iterator[list[ImageRecord]]:
    """The records of several fragments that are not dead, by ascending row id, some at a time. Raises: CorruptIndex."""
    batch: list[ImageRecord] = []
    sources = [read_live_records(index_dir, fragment, missing=True) for fragment in fragments]
    for record in heapq.merge(*sources, key=lambda record: record.row_id):
        batch.append(record)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def read_records(index_dir: Path, manifest: Manifest) -> list[ImageRecord]:
    """Every record of a generation that is neither dead nor missing. Raises: CorruptIndex."""
    return [record for fragment in manifest.fragments for record in read_live_records(index_dir, fragment)]


def read_partial(index_dir: Path, manifest: Manifest) -> list[ImageRecord]:
    """Every answered record of a picture that was read in part. Most fragments have none, which one column tells.

    Raises: CorruptIndex.
    """
    import pyarrow.compute as pc

    found: list[ImageRecord] = []
    for fragment in manifest.fragments:
        path = verify_file(index_dir, fragment.data)
        tables = _tables(path, index_dir, fragment.rows, only=("partial",))
        if any(pc.count(table.column("partial")).as_py() for table in tables if table.num_columns):
            found += [r for r in read_live_records(index_dir, fragment) if r.partial is not None]
    return found


# -- vectors


@dataclasses.dataclass(frozen=True, slots=True)
class VectorBlock:
    """Stored vectors. Shapes: ids (B,) int64, ascending; keys (B, 2) int64, of their contents; vectors (B, D) float32,
    unit L2."""

    ids: IntArray
    keys: IntArray
    vectors: FloatArray


def vector_schema(dim: int) -> pa.Schema:
    """Columns of a segment's truth. `content_hash`: of the picture's bytes (and its view, if it has one)."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("vector_id", pa.int64(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        ]
    )


def write_vector_blocks(file: HashingFile, blocks: Iterable[VectorBlock], model: ModelRef) -> tuple[int, int, int]:
    """Write vectors, whose ids ascend. Returns how many, first and last id.

    The model goes into the file's metadata, so that the vectors can be understood without a manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    first = last = -1
    plain = vector_schema(model.dim)
    with pq.ParquetWriter(
        file,
        plain.with_metadata({MODEL_KEY: json.dumps(_named(model))}),
        compression={"vector_id": "zstd", "content_hash": "zstd", "vector.list.element": "none"},
        use_dictionary=False,
        write_statistics=["vector_id"],
    ) as parquet:
        for block in blocks:
            if not len(block.ids):
                continue
            if block.ids[0] <= last or (np.diff(block.ids) <= 0).any():
                raise ValueError("vector ids must ascend")
            first = int(block.ids[0]) if first < 0 else first
            last = int(block.ids[-1])
            count += len(block.ids)
            columns = [
                from_numbers(block.ids, pa.int64()),
                to_array(hash_texts(block.keys), pa.string()),
                pa.FixedSizeListArray.from_arrays(from_numbers(block.vectors, pa.float32()), list_size=model.dim),
            ]
            parquet.write_table(pa.Table.from_arrays(columns, schema=plain))
    return count, first, last


def read_vector_blocks(
    index_dir: Path, segment: Segment, dim: int, *, batch_rows: int = BATCH_ROWS, afresh: bool = False
) -> Iterator[VectorBlock]:
    """A segment's vectors from its Parquet file, a bounded number at a time. Raises: CorruptIndex."""
    path = verify_file(index_dir, segment.data, afresh=afresh)
    count = 0
    for table in _tables(path, index_dir, None, batch_rows=batch_rows):
        try:
            block = _to_block(table, dim)
        except (KeyError, ValueError) as error:
            raise CorruptIndex(path, f"not a file of vectors ({error})", index=index_dir) from error
        count += len(block.ids)
        yield block
    if count != segment.vectors:
        raise CorruptIndex(path, f"it has {count} vectors, but the manifest says {segment.vectors}", index=index_dir)


def _to_block(table: pa.Table, dim: int) -> VectorBlock:
    """Of a segment's table, or of a fragment's of format 1, whose row ids are its vector ids."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "vector_id" not in table.column_names:
        table = table.filter(pc.is_valid(table.column("vector")))
    ids = table.column("vector_id" if "vector_id" in table.column_names else "row_id")
    parts: list[np.ndarray[Any, Any]] = []
    for chunk in table.column("vector").chunks:
        values = chunk.flatten() if isinstance(chunk, pa.FixedSizeListArray) else chunk.values
        parts.append(np.asarray(to_numbers(values), np.float32).reshape(-1, dim))
    vectors = np.concatenate(parts) if parts else np.empty((0, dim), np.float32)
    return VectorBlock(
        np.asarray(to_numbers(ids), np.int64), hash_keys(table.column("content_hash").to_pylist()), vectors
    )


def read_pictures(index_dir: Path, manifest: Manifest, *, missing: bool = False) -> Iterator[EmbeddingBatch]:
    """Every picture that is answered with its vector, some thousand at a time, in the order of the vectors.

    `missing`: also those whose files cannot be seen. Raises: CorruptIndex.
    """
    from clipsearch.store.rows import open_live_rows

    there = [fragment for fragment in manifest.fragments if fragment.rows_file]
    has_regions = manifest.model.regions > 0
    fragments = [open_live_rows(index_dir, part, missing=missing, has_regions=has_regions) for part in there]
    for segment in manifest.segments:
        for block in read_vector_blocks(index_dir, segment, manifest.model.dim):
            records: list[ImageRecord] = []
            taken: list[int] = []
            for rows in fragments:
                which, positions = rows.of_vectors(block.ids)
                are_pictures = ~rows.are_regions[positions]
                which, positions = which[are_pictures], positions[are_pictures]
                records += rows.file.records(positions)
                taken += which.tolist()
            if records:
                order = sorted(range(len(taken)), key=lambda n: (taken[n], records[n].row_id))
                chosen = np.array([taken[n] for n in order])
                yield EmbeddingBatch([records[n] for n in order], block.vectors[chosen])


def _tables(
    path: Path,
    index_dir: Path,
    expected_rows: int | None,
    *,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
    batch_rows: int = 65536,
) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:  # a path must be UTF-8
            columns = [name for name in file.schema_arrow.names if name not in without]
            columns = [name for name in columns if only is None or name in only]
            for groups in _row_groups(file, batch_rows):  # asked for all at once, pyarrow holds the whole file
                for batch in file.iter_batches(batch_rows, row_groups=groups, columns=columns, use_threads=True):
                    rows += batch.num_rows
                    yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # else pyarrow's own word
            raise index_error(path, error, index_dir) from error
        raise CorruptIndex(path, f"not a Parquet file written by clipsearch ({error})", index=index_dir) from error
    if expected_rows is not None and rows != expected_rows:
        raise CorruptIndex(path, f"it has {rows} rows, but the manifest says {expected_rows}", index=index_dir)


def _row_groups(file: pq.ParquetFile, batch_rows: int) -> Iterator[list[int]]:
    """The row groups of a file, together so many that they have `batch_rows` rows."""
    groups: list[int] = []
    rows = 0
    for number in range(file.num_row_groups):
        groups.append(number)
        rows += file.metadata.row_group(number).num_rows
        if rows >= batch_rows:
            yield groups
            groups, rows = [], 0
    if groups:
        yield groups


# -- what no manifest describes


def read_orphan_records(path: Path) -> list[ImageRecord]:
    """A fragment that no manifest describes, whole. Raises: ValueError if it is not one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_plain(path) as opened:
            table = pq.read_table(opened)
        records = to_records(table)
        if "vector" in table.column_names:
            records = [
                dataclasses.replace(record, vector_id=record.row_id) if record.status == "ok" else record
                for record in records
            ]
        return records
    except (pa.ArrowException, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is not a fragment: {error}") from error


def _named(model: ModelRef) -> dict[str, Any]:
    """What a file of vectors says of the model that made them."""
    named = {name: getattr(model, name) for name in MODEL_FIELDS}
    return {**named, **{name: value for name in ("tiled", "regions") if (value := getattr(model, name))}}


def read_orphan_vectors(path: Path) -> tuple[ModelRef, VectorBlock]:
    """A segment's vectors that no manifest describes, whole. Raises: ValueError if the file holds none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_plain(path) as opened:
            table = pq.read_table(opened)
        model = ModelRef(**json.loads(table.schema.metadata[MODEL_KEY]))
        return model, _to_block(table, model.dim)
    except (pa.ArrowException, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} holds no vectors: {error}") from error


def make_fragment(data: FileRef, shape: Shape, rows_file: FileRef) -> Fragment:
    """A fragment without dead or missing rows. `shape` is what `write_records` returned."""
    rows, pictures, first, last, views, members = shape
    return Fragment(data, rows, pictures, first, last, rows_file, views=views, members=members)
