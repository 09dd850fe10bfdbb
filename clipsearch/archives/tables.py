"""Parquet and Arrow files with pictures in a column: as img2dataset, pandas and Hugging Face's `datasets` write them.

A column of pictures has bytes, or a struct with `bytes` and `path`. A picture is called by the number of its row.
Several columns of a table may have one name: of these the first is used that has what is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clipsearch.archives.listing import Archive, Member, Spool
from clipsearch.archives.said import MOST_LISTED, plain_name, said_in
from clipsearch.errors import first_line
from clipsearch.pictures.formats import HEAD_BYTES, format_of, identify
from clipsearch.places import is_address

if TYPE_CHECKING:
    import pyarrow as pa

PICTURE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content")
ROWS_AT_ONCE = 16
SPOOL_BYTES = 2**24


class Table(Archive):
    """The pictures of a Parquet or Arrow file."""

    def __init__(self, path: str) -> None:
        """Raises: OSError, ValueError if it is no such file."""
        super().__init__(path)
        import pyarrow as pa

        with _reporting(path):
            schema, self.rows = _shape(path)
            self._picture = picture_column(path, schema)
        if self._picture is None:
            self.rows = 0
            self.why_empty = self.doubt = "it has no column of pictures"
            return
        names = [field.name for field in schema if field.name != self._picture and _is_text(field.type)]
        self._others = list(dict.fromkeys(names))
        kept = {self._picture, *self._others}
        self.unkept = {f.name: _plain_kind(f.type) for f in schema if f.name not in kept and f.type != pa.null()}
        self._labels = _labels(schema)

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        if self._picture is None:
            return
        spool = Spool()
        waiting: list[tuple[str, int, int, int, Any]] = []

        def filled() -> Iterator[Member]:
            spool.flush()
            for name, size_bytes, row, at, said in waiting:
                yield Member(name, size_bytes, row, spool.path, at, said, spool)

        try:
            with _reporting(self.path):
                columns = list(dict.fromkeys([self._picture, *self._others]))
                for first, batch in _batches(self.path, columns, lambda row: wanted(str(row))):
                    pictures = _column(batch, self._picture, _may_be_picture).to_pylist()
                    others = {name: _values(_column(batch, name, _is_text)) for name in self._others}
                    for number, value in enumerate(pictures):
                        if not wanted(str(first + number)):
                            continue
                        content, path = _content(value)
                        said = {name: self._label(name, values[number]) for name, values in others.items()}
                        if path:
                            said.setdefault("file_name", path)
                        name = _member_name(first + number, content, path)
                        waiting.append((name, len(content), first + number, spool.add(content), said_in(said)))
                    if spool.size_bytes >= SPOOL_BYTES:
                        yield from filled()
                        spool, waiting = Spool(), []
        except OSError:
            raise
        except Exception as error:  # whatever pyarrow meets in a file of somebody
            self.damage = f"it is damaged: {first_line(error)}" if not isinstance(error, ValueError) else str(error)
        yield from filled()

    def _label(self, column: str, value: Any) -> Any:
        """The name of a class, where the table has names for its numbers."""
        names = self._labels.get(column)
        if names is None or not isinstance(value, int) or not 0 <= value < len(names):
            return value
        return names[value]


def read_row(path: str, row: int) -> bytes:
    """The picture in a row. Raises: OSError, ValueError."""
    with _reporting(path):
        schema, rows = _shape(path)
        column = picture_column(path, schema)
        if column is None or not 0 <= row < rows:
            raise ValueError("it no longer has this picture")
        for first, batch in _batches(path, [column], lambda number: number == row, mapped=True):
            if first <= row < first + batch.num_rows:
                return _content(_column(batch, column, _may_be_picture)[row - first].as_py())[0]
    raise ValueError("it no longer has this picture")


def picture_column(path: str, schema: pa.Schema) -> str | None:
    """The column of a table that has pictures: of a usual name, or the first that may. Of several that may, it is the
    first whose first rows hold any. Raises: OSError, ValueError if the file is damaged."""
    found = list(dict.fromkeys(field.name for field in schema if _may_be_picture(field.type)))
    by_name: dict[str, str] = {plain_name(name): name for name in reversed(found)}
    usual = [by_name[name] for name in PICTURE_COLUMNS if name in by_name]
    likely = list(dict.fromkeys([*usual, *found]))
    if len(likely) > 1:
        for _, batch in _batches(path, likely, lambda row: row < ROWS_AT_ONCE, mapped=True):
            for name in likely:
                contents = [_content(value)[0] for value in _values(_column(batch, name, _may_be_picture))]
                if any(identify(content[:HEAD_BYTES], "") is not None for content in contents if content):
                    return str(name)
            break
    return likely[0] if likely else None


def _column(batch: Any, name: str, has: Callable[[pa.DataType], bool]) -> Any:
    """The first column of this name of a batch that has what is asked for."""
    return batch.column(next(n for n in batch.schema.get_all_field_indices(name) if has(batch.schema.field(n).type)))


def _values(column: Any) -> list[Any]:
    """The values of a column; None for those that Python cannot have, such as a day after the year 9999."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # which only pandas has
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_duration(column.type) and column.type.unit == "ns":
        column = column.cast(pa.duration("us"), safe=False)
    try:
        values = column.to_pylist()
        if pa.types.is_map(column.type):
            return [None if value is None else dict(value) for value in values]
        return list(values)
    except Exception:  # one value that Python cannot hold, such as a year 10000: the others are told
        return [_value(one) for one in column]


def _value(one: Any) -> Any:
    try:
        return one.as_py()
    except Exception:  # the value itself; the picture beside it counts
        return None


def _may_be_picture(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):  # of which the first is taken
        return not pa.types.is_list(kind.value_type) and _may_be_picture(kind.value_type)
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_bytes(kind.field(at).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column says something that can be written in words: texts, numbers, times, and what is made of them."""
    import pyarrow as pa

    of = pa.types
    if of.is_fixed_size_list(kind):  # a long one is a vector
        return kind.list_size <= MOST_LISTED and _is_text(kind.value_type)
    if of.is_list(kind) or of.is_large_list(kind) or of.is_list_view(kind) or of.is_large_list_view(kind):
        return _is_text(kind.value_type)
    if of.is_dictionary(kind) or of.is_run_end_encoded(kind):
        return _is_text(kind.value_type)
    if of.is_map(kind):
        return _is_text(kind.key_type) and _is_text(kind.item_type)
    if of.is_struct(kind):  # of which the parts that say nothing become null
        says = any(_is_text(kind.field(n).type) for n in range(kind.num_fields))
        return says and kind.num_fields < 20 and not _may_be_picture(kind)
    if of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind) or of.is_decimal(kind):
        return True
    return bool(of.is_primitive(kind)) and not of.is_interval(kind)


def _plain_kind(kind: pa.DataType) -> str:
    """What a column that is not kept has, for people."""
    import pyarrow as pa

    of = pa.types
    if of.is_fixed_size_list(kind) and _is_text(kind.value_type):
        return "vectors"
    if _may_be_picture(kind) or of.is_fixed_size_binary(kind):
        return "bytes"
    return str(kind)[:40]


def _content(value: Any) -> tuple[bytes, str]:
    """The bytes of a picture, none if it has none, and what its file was called."""
    if isinstance(value, list):
        value = next(iter(value), None)
    if isinstance(value, dict):
        name, value = value.get("path"), value.get("bytes")
        return value or b"", name if isinstance(name, str) else ""
    return value or b"", ""


def _member_name(row: int, content: bytes, path: str) -> str:
    base = path.replace("\\", "/").rpartition("/")[2]
    if base and base.isprintable():
        return f"{row}/{base[-200:]}"
    kind = identify(content[:HEAD_BYTES], "")
    return str(row) if kind is None else f"{row}.{format_of(kind).extensions.split()[0]}"


def row_of(member: str) -> str:
    """The number of the row that a picture of a table is in, as text."""
    return member.partition("/")[0].partition(".")[0]


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of classes that Hugging Face's `datasets` writes into a schema, by column."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


@contextmanager
def _reporting(path: str) -> Iterator[None]:
    """Raises: ValueError instead of what pyarrow raises for a file that is none, or damaged."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(
            f"not a readable {'Parquet' if _is_parquet(path) else 'Arrow'} file: {first_line(error)}"
        ) from (error)
    except OSError as error:
        if error.errno is None:  # of pyarrow, of what it read
            raise ValueError(f"it is damaged: {first_line(error)}") from error
        raise


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _shape(path: str) -> tuple[pa.Schema, int]:
    """The schema of a table, and how many rows it has."""
    if _is_parquet(path):
        with _parquet(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    parts = iter(_arrow(path, mapped=True))  # reads only the head of each batch
    schema, _ = next(parts)
    return schema, sum(0 if batch is None else batch.num_rows for _, batch in parts)


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """A Parquet file, here or in object storage, of which only the parts that are asked for are read."""
    import pyarrow.parquet as pq

    if not is_address(path):
        with pq.ParquetFile(path) as file:
            yield file
        return
    from clipsearch.archives.remote import storage_of

    storage, inside = storage_of(path)
    with storage.open(inside) as source, pq.ParquetFile(source) as file:
        yield file


def _arrow(path: str, *, mapped: bool = False) -> Iterator[tuple[pa.Schema, pa.RecordBatch | None]]:
    """The schema alone, and then with each batch of an Arrow file, of either form.

    `mapped` is for a moment's look: a file that is cut short while it is mapped ends the process.
    """
    import pyarrow as pa

    if is_address(path):
        from clipsearch.archives.remote import read_object

        opened = pa.BufferReader(read_object(path))
    else:
        opened = pa.memory_map(path) if mapped else pa.OSFile(path)
    with opened as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            yield stream.schema, None
            for batch in stream:
                yield stream.schema, batch
            return
        yield reader.schema, None
        for number in range(reader.num_record_batches):
            yield reader.schema, reader.get_batch(number)


def _batches(
    path: str, columns: list[str], wanted: Callable[[int], bool], *, mapped: bool = False
) -> Iterator[tuple[int, Any]]:
    """Some rows at a time, with the number of the first; without parts of the file of which no row is wanted."""
    first = 0
    if not _is_parquet(path):
        for _, batch in _arrow(path, mapped=mapped):
            if batch is None:
                continue
            chosen = batch.select([n for n, name in enumerate(batch.schema.names) if name in columns])
            if any(wanted(first + n) for n in range(batch.num_rows)):
                chosen.validate(full=True)  # offsets that lead out of a damaged file would end this process
                for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                    part = chosen.slice(start, ROWS_AT_ONCE)
                    if any(wanted(first + start + n) for n in range(part.num_rows)):
                        yield first + start, part
            first += batch.num_rows
        return
    with _parquet(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            at = first
            if any(wanted(first + n) for n in range(rows)):
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False):
                    batch.validate(full=True)
                    yield at, batch
                    at += batch.num_rows
            first += rows
