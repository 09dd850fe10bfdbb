"""LanceDB: a folder, or an address in a cloud's storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lancedb
import numpy.typing as npt
import pyarrow as pa

from clipsearch.exports.engine import Place, PlaceRefused, Rows

MARK_KEY = b"clipsearch.export"
KNOWN_AT_ONCE = 65_536
_TYPES = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "bool": pa.bool_(),
    "texts": pa.list_(pa.string()),
}


class Table:
    """A table of LanceDB. The mark is in the metadata of its schema. Each batch is a version of it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        folder = Path(place.address)
        if "://" not in place.address and folder.exists():
            if not folder.is_dir():
                raise PlaceRefused("it is a file. LanceDB needs a folder")
            names = [entry.name for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]
            if names and not any(name.endswith(".lance") for name in names):
                raise PlaceRefused("the folder has other files and no table of LanceDB. Name an empty or new folder")
        self._base = lancedb.connect(place.address)
        self._table: Any = None
        fields = [pa.field(name, _TYPES[kind], nullable=name != "row_id") for name, kind in place.columns.items()]
        self._schema = pa.schema([*fields, pa.field("vector", pa.list_(pa.float32(), place.dim), nullable=False)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table = None

    def _names(self) -> Iterator[str]:
        after = None
        while True:
            page = self._base.list_tables(page_token=after)
            yield from page.tables
            after = page.page_token
            if not after:
                return

    def mark(self) -> str | None:
        if self._place.table not in self._names():
            return None
        self._table = self._base.open_table(self._place.table)
        noted: bytes = (self._table.schema.metadata or {}).get(MARK_KEY, b"")
        return noted.decode("utf-8", "replace")

    def create(self, mark: str) -> None:
        schema = self._schema.with_metadata({MARK_KEY: mark.encode()})
        self._table = self._base.create_table(self._place.table, schema=schema)

    def widen(self) -> None:
        there = set(self._table.schema.names)
        new = [field for field in self._schema if field.name not in there]
        if new:
            self._table.add_columns(pa.schema(new))

    def known(self) -> Iterator[tuple[list[int], list[int]]]:
        asked = self._table.search().where("digest IS NOT NULL").select(["row_id", "digest"])
        for batch in asked.to_batches(batch_size=KNOWN_AT_ONCE):
            yield batch.column("row_id").to_pylist(), batch.column("digest").to_pylist()

    def told(self, row_ids: list[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        asked = f"row_id IN ({', '.join(map(str, row_ids))})"
        found: list[dict[str, Any]] = (
            self._table.search().where(asked).select(["row_id", *columns]).limit(len(row_ids)).to_list()
        )
        return found

    def renumber(self, pairs: list[tuple[int, int]]) -> None:
        """What a row is matched by cannot change: it is written anew, whole, and the old one removed."""
        listed = ", ".join(str(old) for old, _ in pairs)
        asked = self._table.search().where(f"digest IS NOT NULL AND row_id IN ({listed})").limit(len(pairs))
        old = asked.to_arrow().select(self._table.schema.names)
        now = dict(pairs)
        at = old.schema.get_field_index("row_id")
        was = old.column(at).to_pylist()
        self._table.add(old.set_column(at, old.schema.field(at), pa.array([now[row_id] for row_id in was], pa.int64())))
        self.remove(was)

    def foreign(self, row_ids: list[int]) -> list[int]:
        asked = f"digest IS NULL AND row_id IN ({', '.join(map(str, row_ids))})"
        found: list[int] = self._table.search().where(asked).select(["row_id"]).to_arrow().column("row_id").to_pylist()
        return found

    def write(self, rows: Rows, is_new: npt.NDArray[Any]) -> None:
        columns = [
            pa.array([row[name] for row in rows.values], self._schema.field(name).type) for name in self._place.columns
        ]
        vectors = pa.array(rows.vectors.reshape(-1), pa.float32())
        columns.append(pa.FixedSizeListArray.from_arrays(vectors, list_size=self._place.dim))
        table = pa.Table.from_arrays(columns, schema=self._schema)
        merge = self._table.merge_insert("row_id")  # without columns that somebody added, which keep their values
        merge.when_matched_update_all().when_not_matched_insert_all().execute(table)

    def remove(self, row_ids: list[int]) -> None:
        self._table.delete(f"digest IS NOT NULL AND row_id IN ({', '.join(map(str, row_ids))})")

    def finish(self) -> None:
        """Every batch is written already."""
