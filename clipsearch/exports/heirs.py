"""Rows of pictures that got other row ids since an export: read again, moved, or in a tar that grew.

Of these a table keeps the row, and with it the columns that somebody added. A picture is told by its place (path,
member, view), whatever became of its content; else by its content, which was moved then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import xxhash

from clipsearch.exports.engine import Engine
from clipsearch.records import IntArray

TOLD_BY = ("path", "path_hex", "member", "view", "content_hash")
AT_ONCE = 1000


def heirs_of(engine: Engine, gone: IntArray, new: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Which new rows are those of pictures whose rows are gone: the old row id by the new one.

    `gone`: row ids that exports wrote and the index has no more. `new`: of rows that the table has not, `row_id` and
    TOLD_BY. Shape: gone (G,).
    """
    by_place: dict[int, int] = {}
    by_content: dict[int, list[int]] = {}
    for row in _told(engine, gone):
        by_place[_place(row)] = row["row_id"]
        if row["content_hash"]:
            by_content.setdefault(_content(row), []).append(row["row_id"])
    found: dict[int, int] = {}
    moved: list[tuple[int, int]] = []
    for row in new:
        old = by_place.pop(_place(row), None)
        if old is not None:
            found[row["row_id"]] = old
        elif row["content_hash"] and _content(row) in by_content:
            moved.append((row["row_id"], _content(row)))
    taken = set(found.values())
    for row_id, content in moved:  # after all that stayed where they were
        old = next((old for old in by_content[content] if old not in taken), None)
        if old is not None:
            found[row_id] = old
            taken.add(old)
    return found


def _told(engine: Engine, row_ids: IntArray) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(row_ids), AT_ONCE):
        yield from engine.told(row_ids[start : start + AT_ONCE].tolist(), TOLD_BY)


def _place(row: Mapping[str, Any]) -> int:
    path = row["path_hex"] or row["path"]
    return _hashed(path, row["member"], row["view"])


def _content(row: Mapping[str, Any]) -> int:
    return _hashed(row["content_hash"], row["view"])


def _hashed(*texts: str | None) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(text or "" for text in texts).encode())
