"""Pictures as a table, as paths, or as an archive of previews, sent while they are made.

The work is done a few pictures at a time in a queue of its own, so that a long export keeps nobody from searching or
sending pictures, and ends when the browser stops reading.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zipfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from clipsearch.errors import InvalidQuery, NoSuchPicture, OtherIndex, OtherPicture, UnreadablePicture
from clipsearch.filenames import safe
from clipsearch.records import HIT_FIELDS, in_one_cell
from clipsearch.search.collection import Collection
from clipsearch.sentences import sentence
from clipsearch.server.engine import ServedIndex
from clipsearch.server.routes import Service, path_of
from clipsearch.server.work import WorkQueue

Form = Literal["csv", "paths", "zip"]
MOST_EXPORTED = 200_000
MOST_ZIPPED = 5_000
PREVIEW_SIDE = 1024
CSV_COLUMNS = tuple(name for name, field in HIT_FIELDS.items() if field.of_picture)
MEDIA_TYPES: dict[Form, str] = {
    "csv": "text/csv; charset=utf-8",
    "paths": "text/plain; charset=utf-8",
    "zip": "application/zip",
}
_ROWS_AT_ONCE = 500
_GONE = "it is missing now"


class Export:
    """Pictures of one generation of an index, which stays open until the export has ended. Close it.

    Attributes:
        left_out: row ids of pictures that the index has no more.
    """

    def __init__(self, service: Service, work: WorkQueue, served: ServedIndex, ids: list[int], form: Form) -> None:
        """Raises: NoSuchPicture if the index has none of them; InvalidQuery."""
        if form == "zip" and len(ids) > MOST_ZIPPED:
            raise InvalidQuery(
                sentence(
                    "too_many_zipped",
                    "{n} pictures are too many for one archive: select {most} or fewer",
                    n=len(ids),
                    most=MOST_ZIPPED,
                )
            )
        self._service, self._work, self._served, self._ids, self._form = service, work, served, ids, form
        self._stack = ExitStack()
        self._photos: Collection = self._stack.enter_context(served.lease())
        self.left_out = np.setdiff1d(np.array(ids, np.int64), self._photos.row_ids()).tolist()
        if self.left_out:
            gone = set(self.left_out)
            self._ids = [row_id for row_id in ids if row_id not in gone]
            if not self._ids:
                self.close()
                raise NoSuchPicture(self.left_out[0])

    def close(self) -> None:
        """Let go of the index."""
        self._stack.close()

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes of the export. Closes it."""
        try:
            if self._form == "zip":
                async for block in self._archive():
                    yield block
                return
            for start in range(0, len(self._ids), _ROWS_AT_ONCE):
                part = self._ids[start : start + _ROWS_AT_ONCE]
                rows = await self._work.run(lambda part=part: self._rows(part))  # type: ignore[misc]
                yield _table(rows, header=start == 0) if self._form == "csv" else _paths(rows)
        finally:
            self.close()

    def _rows(self, ids: list[int]) -> list[dict[str, Any]]:
        records = [self._photos.record(row_id) for row_id in ids]
        return [record.to_dict(path_of(self._photos, record)) for record in records]

    async def _archive(self) -> AsyncIterator[bytes]:
        """A ZIP archive. A picture that cannot be read any more is named in `left-out.txt`."""
        sink = _Sink()
        left_out = [f"picture {row_id}: {_GONE}" for row_id in self.left_out]
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
            for number, row_id in enumerate(self._ids, 1):
                name, jpeg, problem = await self._work.run(lambda row_id=row_id: self._preview(row_id))  # type: ignore[misc]
                if jpeg is None:
                    left_out.append(f"{_plain(name)}: {_plain(problem)}")
                else:
                    archive.writestr(f"{number:04d}-{_stem(name)}.jpg", jpeg)
                    yield sink.taken()
            if left_out:
                archive.writestr("left-out.txt", "\n".join(left_out) + "\n")
        yield sink.taken()

    def _preview(self, row_id: int) -> tuple[str, bytes | None, str]:
        name, index_id = self._photos.record(row_id).path, self._photos.identity
        try:
            jpeg, _ = self._service.thumbnail(row_id, self._served.name, PREVIEW_SIDE, index_id=index_id)
        except (OtherPicture, OtherIndex) as error:
            return name, None, str(error)
        except (UnreadablePicture, NoSuchPicture) as error:
            return name, None, error.reason if isinstance(error, UnreadablePicture) else _GONE
        return name, jpeg, ""


class _Sink:
    """What zipfile writes into; it cannot be read or sought."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def flush(self) -> None:
        """There is nothing behind it."""

    def taken(self) -> bytes:
        """What was written since the last time."""
        together = b"".join(self._parts)
        self._parts.clear()
        return together


def _table(rows: list[dict[str, Any]], *, header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    if header:
        text.write("\ufeff")  # else spreadsheets take it for the encoding of their system
        writer.writerow(CSV_COLUMNS)
    writer.writerows([_cell(in_one_cell(row[column])) for column in CSV_COLUMNS] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _paths(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{safe(row['path'])}\n" for row in rows).encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    """A value of the table. Texts that a spreadsheet would run as a formula are kept from it by an apostrophe."""
    if isinstance(value, str):
        value = _plain(value)
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return value


def _plain(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding can write."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _stem(name: str) -> str:
    """A file name that is safe in any archive, from the name of a picture."""
    stem = _plain(name).rpartition("/")[2].rpartition(".")[0] or "picture"
    plain = re.sub(r"[^\w .,()+-]", "_", unicodedata.normalize("NFC", stem))
    return plain.strip(" .")[:80] or "picture"
