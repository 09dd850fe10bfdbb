"""Which pictures are exported, and what of each: the columns that every database gets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from clipsearch.errors import InvalidQuery
from clipsearch.exports.engine import Rows
from clipsearch.filenames import is_utf8, readable, to_bytes
from clipsearch.query import parse_query
from clipsearch.query.nodes import Tagged
from clipsearch.records import COLORS, TRAITS, EmbeddingBatch, ImageRecord, IntArray, PictureMetadata
from clipsearch.search.collection import Collection
from clipsearch.store.fragments import BATCH_ROWS, read_pictures
from clipsearch.store.marks import marked, missing_rows

OURS = (
    "inode", "vector_id", "attempts", "sidecars", "metadata_version", "status", "reason", "archive_bytes",
    "archive_rows", "live",
)  # fmt: skip
"""Fields of a record that say nothing to other programs."""
WORDS = {"traits": TRAITS, "colors": COLORS}
"""Fields whose bits are written as words."""
ADDED = {"path_hex": "text", "tags": "texts", "missing": "bool", "digest": "int"}
"""Columns beside the fields of a record. `digest` tells which rows changed, and which rows an export wrote."""
_KINDS = {"int": "int", "float": "float", "bool": "bool", "str": "text", "tuple[str, ...]": "texts"}
_FIELDS = [field for field in dataclasses.fields(ImageRecord) if field.name not in (*OURS, "metadata")]
_METADATA = [field for field in dataclasses.fields(PictureMetadata) if field.name not in OURS]


def columns() -> dict[str, str]:
    """The columns of a database: name -> "int", "float", "text", "bool" or "texts". `vector` comes beside them."""
    found = {field.name: _KINDS.get(str(field.type).partition(" | ")[0], "text") for field in (*_FIELDS, *_METADATA)}
    return {**found, **dict.fromkeys(WORDS, "texts"), **ADDED}


class Pictures:
    """The pictures of a collection that are asked for: those that pass the filter `where`, and with `missing` also
    those whose files cannot be seen. Raises: InvalidQuery, CorruptIndex."""

    def __init__(self, photos: Collection, where: str = "", *, missing: bool = False) -> None:
        self._photos = photos
        self._with_missing = missing
        self._chosen: IntArray | None = None
        self.where = where.strip()
        if self.where:
            query = parse_query(self.where)
            if query.terms or query.filter is None:
                said = "".join(f" ({offer})" for offer in query.offers)
                raise InvalidQuery(
                    f"{self.where!r} is not a filter. Write filters only, as in: folder:trips after:2023{said}"
                )
            self._chosen = photos.select(query.filter, missing=missing)
        manifest = photos.manifest
        self._missing = np.sort(
            np.concatenate(
                [
                    np.empty(0, np.int64),
                    *(marked(missing_rows(photos.index, fragment)) for fragment in manifest.fragments if missing),
                ]
            )
        )
        every = manifest.pictures + (0 if photos.has_regions else manifest.more_views) + len(self._missing)
        self.count = every if self._chosen is None else len(self._chosen)  # about, with missing rows
        self._tags = [(tag.name, self._carriers(tag.name)) for tag in photos.tags]

    def _carriers(self, name: str) -> IntArray:
        try:
            return self._photos.select(Tagged(name), missing=self._with_missing)
        except InvalidQuery:  # a concept of another model, which no picture of this one can be compared with
            return np.empty(0, np.int64)

    def row_ids(self) -> IntArray:
        """Of all rows that are exported, and perhaps of some more. Shape: (N,) int64, ascending."""
        if self._chosen is not None:
            return np.sort(self._chosen)
        return np.union1d(self._photos.row_ids(), self._missing)

    def told(self, row_ids: IntArray) -> Iterator[dict[str, Any]]:
        """What tells pictures of an export from others: see `heirs.TOLD_BY`. Shape: (N,) int64, ascending."""
        for rows in self._photos.live_rows():
            for row_id in row_ids[np.isin(row_ids, rows.file.columns.row_ids)].tolist():
                record = rows.file.find(row_id)
                if record is not None:
                    told = {"row_id": row_id, **_places_of(record)}
                    yield {
                        **told,
                        **{name: _clean(getattr(record, name)) for name in ("member", "view", "content_hash")},
                    }

    def batches(self) -> Iterator[EmbeddingBatch]:
        """Records and vectors, some thousand at a time. Raises: CorruptIndex."""
        photos = self._photos
        for batch in read_pictures(photos.index, photos.manifest, missing=self._with_missing):
            records, vectors = batch.records, batch.vectors
            if self._chosen is not None:
                kept = np.flatnonzero(np.isin([record.row_id for record in records], self._chosen))
                records, vectors = [records[n] for n in kept], vectors[kept]
            for start in range(0, len(records), BATCH_ROWS):
                part = slice(start, start + BATCH_ROWS)
                yield EmbeddingBatch(records[part], vectors[part])

    def tags(self, row_ids: IntArray) -> list[list[str]]:
        """The tags and concepts of rows."""
        found: list[list[str]] = [[] for _ in row_ids]
        for name, carriers in self._tags:
            for n in np.flatnonzero(np.isin(row_ids, carriers)):
                found[n].append(_clean(name))
        return found

    def are_missing(self, row_ids: IntArray) -> list[bool]:
        """Of rows, whether their files cannot be seen."""
        found: list[bool] = np.isin(row_ids, self._missing).tolist()
        return found

    def rows(self) -> Iterator[Rows]:
        """What databases get, some thousand at a time. Raises: CorruptIndex."""
        for batch in self.batches():
            row_ids = np.array([record.row_id for record in batch.records], np.int64)
            about = zip(batch.records, self.tags(row_ids), self.are_missing(row_ids), strict=True)
            values = [_row(record, tags, missing) for record, tags, missing in about]
            vectors = np.ascontiguousarray(batch.vectors, np.float32)
            digests = [_digest(row, vector.tobytes()) for row, vector in zip(values, vectors, strict=True)]
            for row, digest in zip(values, digests, strict=True):
                row["digest"] = digest
            yield Rows(values, row_ids, np.array(digests, np.int64), vectors)


def _row(record: ImageRecord, tags: list[str], missing: bool) -> dict[str, Any]:
    row = {field.name: _clean(getattr(record, field.name)) for field in _FIELDS}
    row |= {field.name: _clean(getattr(record.metadata, field.name)) for field in _METADATA}
    for name, words in WORDS.items():
        row[name] = [word for n, word in enumerate(words) if row[name] >> n & 1]
    return row | _places_of(record) | {"tags": tags, "missing": missing}


def _places_of(record: ImageRecord) -> dict[str, Any]:
    path_hex = None if is_utf8(record.path) else to_bytes(record.path).hex()
    return {"path": readable(record.path), "path_hex": path_hex}


def _clean(value: Any) -> Any:
    """Texts as every database takes them: UTF-8, without NUL; several as a list."""
    if isinstance(value, tuple):
        return [_clean(part) for part in value]
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _digest(row: dict[str, Any], vector: bytes) -> int:
    """64 bits, signed, of all that is in a row."""
    said = json.dumps(row, sort_keys=True, default=str).encode("ascii")
    return int(np.uint64(xxhash.xxh3_64_intdigest(said + vector)).astype(np.int64))
