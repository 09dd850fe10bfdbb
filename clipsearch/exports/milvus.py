"""Milvus: a server, or a folder of Milvus Lite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
from pymilvus import DataType, MilvusClient

from clipsearch.errors import first_line
from clipsearch.exports.engine import Place, PlaceRefused, Rows

KNOWN_AT_ONCE = 10_000
MARK_KEY = "clipsearch.export"
TEXT_BYTES = 65_535  # the most that Milvus keeps of one text
MOST_TEXTS = 4096  # of one row
TIMEOUT_S = 60.0
_NOTHING = logging.NullHandler()
_TYPES = {"int": DataType.INT64, "float": DataType.DOUBLE, "text": DataType.VARCHAR, "bool": DataType.BOOL}


class Table:
    """A collection of Milvus, whose key is `row_id`. The mark is one of its properties."""

    def __init__(self, place: Place) -> None:
        self._place = place
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # both print what they raise
        logging.getLogger("milvus_lite").propagate = False
        logging.getLogger("milvus_lite").addHandler(_NOTHING)
        if "://" not in place.address:
            at = Path(place.address)
            if not at.name.endswith(".db"):
                raise PlaceRefused("the name of a database of Milvus Lite ends with .db, as in milvus:photos.db")
            if at.exists() and not at.is_dir():
                raise PlaceRefused("it is a file, and not one that this version of Milvus Lite reads. Name a new one")
            if at.is_dir() and any(at.iterdir()) and not _is_lite(at):
                raise PlaceRefused("the folder has other files and no collection of Milvus. Name a new one")
        token = os.environ.get("MILVUS_TOKEN", "")
        with _saying_why():
            self._client = MilvusClient(place.address, token=token, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def mark(self) -> str | None:
        if not self._client.has_collection(self._place.table):
            return None
        noted = self._client.describe_collection(self._place.table).get("properties") or {}
        if MARK_KEY not in noted:
            return ""
        self._client.load_collection(self._place.table)
        return str(noted[MARK_KEY])

    def create(self, mark: str) -> None:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        for name, kind in self._place.columns.items():
            if kind == "texts":
                schema.add_field(
                    name,
                    DataType.ARRAY,
                    element_type=DataType.VARCHAR,
                    max_length=TEXT_BYTES,
                    max_capacity=MOST_TEXTS,
                    nullable=True,
                )
                continue
            sized = {"max_length": TEXT_BYTES} if kind == "text" else {}
            is_key = name == "row_id"
            schema.add_field(name, _TYPES[kind], is_primary=is_key, **({} if is_key else {"nullable": True}), **sized)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._place.dim)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        self._client.create_collection(
            self._place.table,
            schema=schema,
            index_params=index,
            properties={MARK_KEY: mark},
            consistency_level="Strong",
        )
        self._client.load_collection(self._place.table)

    def widen(self) -> None:
        """The collection has dynamic fields: columns that it does not know go there."""

    def known(self) -> Iterator[tuple[list[int], list[int]]]:
        pages = self._client.query_iterator(
            self._place.table,
            batch_size=KNOWN_AT_ONCE,
            filter="digest is not null",
            output_fields=["row_id", "digest"],
            consistency_level="Strong",
        )
        try:
            while found := pages.next():
                yield [row["row_id"] for row in found], [row["digest"] for row in found]
        finally:
            pages.close()

    def _whole(self, row_ids: list[int], columns: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
        """Rows with some of their columns, or with all, also those that somebody added."""
        found = self._client.query(
            self._place.table,
            filter=f"row_id in {row_ids}",
            output_fields=["row_id", *columns],
            consistency_level="Strong",
        )
        return [dict(row) for row in found]

    def told(self, row_ids: list[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return self._whole(row_ids, columns)

    def renumber(self, pairs: list[tuple[int, int]]) -> None:
        """A key cannot change: a row is written anew, whole, and the old one removed."""
        now = dict(pairs)
        old = self._whole(list(now))
        self._client.upsert(self._place.table, [_storable(row) | {"row_id": now[row["row_id"]]} for row in old])
        self.remove([row["row_id"] for row in old])

    def foreign(self, row_ids: list[int]) -> list[int]:
        found = self._client.query(
            self._place.table,
            filter=f"digest is null and row_id in {row_ids}",
            output_fields=["row_id"],
            consistency_level="Strong",
        )
        return [row["row_id"] for row in found]

    def write(self, rows: Rows, is_new: npt.NDArray[Any]) -> None:
        for part in rows.taken(is_new).requests():
            self._client.upsert(self._place.table, _written(part, {}))
        for part in rows.taken(~is_new).requests():  # fields that somebody added keep their values
            before = {row["row_id"]: _storable(row) for row in self._whole(part.row_ids.tolist())}
            self._client.upsert(self._place.table, _written(part, before))

    def remove(self, row_ids: list[int]) -> None:
        self._client.delete(self._place.table, ids=row_ids)

    def finish(self) -> None:
        self._client.flush(self._place.table)


class _Kept(logging.Handler):
    """Keeps the errors that are logged instead of raised."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])


@contextmanager
def _saying_why() -> Iterator[None]:
    """Milvus Lite logs why a database does not open, and raises only that it does not."""
    log, kept = logging.getLogger("milvus_lite"), _Kept()
    log.addHandler(kept)
    try:
        yield
    except Exception:
        if not kept.errors:
            raise
        error = kept.errors[-1]
        if type(error).__name__ == "DataDirLockedError":
            raise PlaceRefused("another program has it open. Close it there, then run the same command again") from None
        raise PlaceRefused(f"Milvus Lite cannot open it: {first_line(error)}") from error
    finally:
        log.removeHandler(kept)


def _written(rows: Rows, before: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as Milvus takes them, over what was there."""
    return [
        {**before.get(row["row_id"], {}), **{name: _fitting(value) for name, value in row.items()}, "vector": vector}
        for row, vector in zip(rows.values, rows.vectors, strict=True)
    ]


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """A row that was read, as it can be written: arrays come as what is no list."""
    return {
        name: value if value is None or isinstance(value, str | int | float | dict) else list(value)
        for name, value in row.items()
    }


def _is_lite(folder: Path) -> bool:
    return (folder / "LOCK").is_file() and (folder / "collections").is_dir()


def _fitting(value: Any) -> Any:
    if isinstance(value, str) and len(value) * 4 > TEXT_BYTES:
        return value.encode("utf-8")[:TEXT_BYTES].decode("utf-8", "ignore")
    return value
