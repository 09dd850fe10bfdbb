"""PostgreSQL with pgvector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from clipsearch.errors import InvalidTarget
from clipsearch.exports.engine import Place, Rows

KNOWN_AT_ONCE = 50_000
MARK = "clipsearch export "
NEW_ROWS = sql.Identifier("clipsearch_new_rows")
_TYPES = {"int": "bigint", "float": "double precision", "text": "text", "bool": "boolean", "texts": "text[]"}
_CODECS = {"int": "int8", "float": "float8", "text": "text", "bool": "bool", "texts": "text[]"}


class Table:
    """A table of PostgreSQL. The mark is its comment. All of an export is one transaction: whoever reads meanwhile sees
    the state before it, and two exports wait for each other."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._name = sql.Identifier(place.table)
        self._columns = sql.SQL(", ").join(sql.Identifier(name) for name in (*place.columns, "vector"))
        self._connection = psycopg.connect(place.address, connect_timeout=15, application_name="clipsearch export")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # what was not committed is undone

    def _has_vectors(self) -> bool:
        found = self._connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
        return found is not None

    def _prepare(self) -> None:
        register_vector(self._connection)
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), self._type(name)) for name in (*self._place.columns, "vector")
        )
        self._connection.execute(sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(NEW_ROWS, columns))

    def _type(self, name: str) -> sql.SQL:
        if name == "vector":
            return sql.SQL(f"vector({int(self._place.dim)})")
        return sql.SQL(_TYPES[self._place.columns[name]])

    def mark(self) -> str | None:
        found = self._connection.execute(
            "SELECT c.relkind::text, obj_description(c.oid, 'pg_class') FROM pg_class c WHERE c.oid = to_regclass(%s)",
            (self._name.as_string(self._connection),),
        ).fetchone()
        if found is None:
            return None
        kind, comment = found
        if kind not in ("r", "p") or not str(comment or "").startswith(MARK):
            return ""
        # Readers go on; another export waits here until this one is done.
        self._connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self._name))
        self._prepare()
        return str(comment).removeprefix(MARK)

    def create(self, mark: str) -> None:
        if not self._has_vectors():
            try:
                with self._connection.transaction():
                    self._connection.execute("CREATE EXTENSION vector")
            except psycopg.Error as error:
                problem = f"the database has no extension pgvector ({str(error).splitlines()[0]})"
                raise InvalidTarget(
                    self._place.table,
                    f"{problem}. Install pgvector on the server and run there: CREATE EXTENSION vector",
                ) from None
        columns = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(name), self._type(name), sql.SQL(" PRIMARY KEY" if name == "row_id" else "")
            )
            for name in (*self._place.columns, "vector")
        ]
        self._connection.execute(sql.SQL("CREATE TABLE {} ({})").format(self._name, sql.SQL(", ").join(columns)))
        self._connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._name, sql.Literal(MARK + mark)))
        self._prepare()

    def widen(self) -> None:
        for name in self._place.columns:
            self._connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                    self._name, sql.Identifier(name), self._type(name)
                )
            )

    def known(self) -> Iterator[tuple[list[int], list[int]]]:
        asked = sql.SQL("SELECT row_id, digest FROM {} WHERE digest IS NOT NULL").format(self._name)
        with self._connection.cursor("clipsearch_known") as cursor:
            cursor.itersize = KNOWN_AT_ONCE
            cursor.execute(asked)
            while found := cursor.fetchmany(KNOWN_AT_ONCE):
                yield [row[0] for row in found], [row[1] for row in found]

    def told(self, row_ids: list[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        names = ["row_id", *columns]
        asked = sql.SQL("SELECT {} FROM {} WHERE row_id = ANY(%s)").format(
            sql.SQL(", ").join(map(sql.Identifier, names)), self._name
        )
        return [dict(zip(names, row, strict=True)) for row in self._connection.execute(asked, (row_ids,)).fetchall()]

    def renumber(self, pairs: list[tuple[int, int]]) -> None:
        asked = sql.SQL(
            "UPDATE {0} SET row_id = pairs.new FROM unnest(%s::bigint[], %s::bigint[]) AS pairs (old, new) "
            "WHERE {0}.row_id = pairs.old AND {0}.digest IS NOT NULL"
        ).format(self._name)
        self._connection.execute(asked, ([old for old, _ in pairs], [new for _, new in pairs]))

    def foreign(self, row_ids: list[int]) -> list[int]:
        asked = sql.SQL("SELECT row_id FROM {} WHERE digest IS NULL AND row_id = ANY(%s)").format(self._name)
        return [row[0] for row in self._connection.execute(asked, (row_ids,)).fetchall()]

    def write(self, rows: Rows, is_new: npt.NDArray[Any]) -> None:
        run = self._connection.execute
        with self._connection.cursor() as cursor:
            asked = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(NEW_ROWS, self._columns)
            with cursor.copy(asked) as copy:
                copy.set_types([*(_CODECS[kind] for kind in self._place.columns.values()), "vector"])
                for row, vector in zip(rows.values, rows.vectors, strict=True):
                    copy.write_row([*(row[name] for name in self._place.columns), vector])
        changes = sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name))
            for name in (*self._place.columns, "vector")
            if name != "row_id"
        )
        run(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT (row_id) DO UPDATE SET {}").format(
                self._name, self._columns, self._columns, NEW_ROWS, changes
            )
        )
        run(sql.SQL("TRUNCATE {}").format(NEW_ROWS))

    def remove(self, row_ids: list[int]) -> None:
        asked = sql.SQL("DELETE FROM {} WHERE digest IS NOT NULL AND row_id = ANY(%s)").format(self._name)
        self._connection.execute(asked, (row_ids,))

    def finish(self) -> None:
        self._connection.commit()
