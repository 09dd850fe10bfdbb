"""Milvus: a server, or a folder of Milvus Lite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
from pymilvus import DataType, MilvusClient

from clipsearch.exports.engine import Place, PlaceRefused, Rows

KNOWN_AT_ONCE = 10_000
MARK_KEY = "clipsearch.export"
TEXT_BYTES = 65_535  # the most that Milvus keeps of one text
MOST_TEXTS = 4096  # of one row
TIMEOUT_S = 60.0
_TYPES = {"int": DataType.INT64, "float": DataType.DOUBLE, "text": DataType.VARCHAR, "bool": DataType.BOOL}


class Table:
    """A collection of Milvus, whose key is `row_id`. The mark is one of its properties."""

    def __init__(self, place: Place) -> None:
        self._place = place
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints what it raises
        if "://" not in place.address:
            at = Path(place.address)
            if not at.name.endswith(".db"):
                raise PlaceRefused("the name of a database of Milvus Lite ends with .db, as in milvus:photos.db")
            if at.exists() and not at.is_dir():
                raise PlaceRefused("it is a file, and not one that this version of Milvus Lite reads. Name a new one")
            if at.is_dir() and any(at.iterdir()) and not _is_lite(at):
                raise PlaceRefused("the folder has other files and no collection of Milvus. Name a new one")
        token = os.environ.get("MILVUS_TOKEN", "")
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

    def foreign(self, row_ids: list[int]) -> list[int]:
        found = self._client.query(
            self._place.table,
            filter=f"digest is null and row_id in {row_ids}",
            output_fields=["row_id"],
            consistency_level="Strong",
        )
        return [row["row_id"] for row in found]

    def write(self, rows: Rows, is_new: npt.NDArray[Any]) -> None:
        for part in rows.requests():
            told = [
                {**{name: _fitting(value) for name, value in row.items()}, "vector": vector}
                for row, vector in zip(part.values, part.vectors, strict=True)
            ]
            self._client.upsert(self._place.table, told)

    def remove(self, row_ids: list[int]) -> None:
        self._client.delete(self._place.table, ids=row_ids)

    def finish(self) -> None:
        self._client.flush(self._place.table)


def _is_lite(folder: Path) -> bool:
    return (folder / "LOCK").is_file() and (folder / "collections").is_dir()


def _fitting(value: Any) -> Any:
    if isinstance(value, str) and len(value) * 4 > TEXT_BYTES:
        return value.encode("utf-8")[:TEXT_BYTES].decode("utf-8", "ignore")
    return value
