"""Qdrant: a server, or a folder in the local mode of its client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
from qdrant_client import QdrantClient, models

from clipsearch.exports.engine import Place, PlaceRefused, Rows

KNOWN_AT_ONCE = 10_000
MARK_KEY = "clipsearch.export"
TIMEOUT_S = 60


class Table:
    """A collection of Qdrant, whose points have the row ids. The mark is in the metadata of the collection."""

    def __init__(self, place: Place) -> None:
        self._place = place
        if "://" in place.address:
            key = os.environ.get("QDRANT_API_KEY")
            self._client = QdrantClient(url=place.address, api_key=key, timeout=TIMEOUT_S, check_compatibility=False)
            return
        folder = Path(place.address)
        if folder.exists():
            if not folder.is_dir():
                raise PlaceRefused("it is a file. Name a folder, or the URL of a server")
            if not (folder / "meta.json").is_file() and any(folder.iterdir()):
                raise PlaceRefused(
                    "the folder has other files and no collection of Qdrant. Name an empty or new folder"
                )
        self._client = QdrantClient(path=place.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def mark(self) -> str | None:
        if not self._client.collection_exists(self._place.table):
            return None
        noted = self._client.get_collection(self._place.table).config.metadata or {}
        return str(noted.get(MARK_KEY, ""))

    def create(self, mark: str) -> None:
        self._client.create_collection(
            self._place.table,
            vectors_config=models.VectorParams(size=self._place.dim, distance=models.Distance.COSINE),
            metadata={MARK_KEY: mark},
        )
        if self.mark() != mark:  # made a moment ago, and empty
            self._client.delete_collection(self._place.table)
            raise PlaceRefused("this server keeps no metadata of collections. Update Qdrant to 1.16 or later")

    def widen(self) -> None:
        """Payloads take any field."""

    def known(self) -> Iterator[tuple[list[int], list[int]]]:
        after: Any = None
        while True:
            points, after = self._client.scroll(
                self._place.table, limit=KNOWN_AT_ONCE, offset=after, with_payload=["digest"], with_vectors=False
            )
            ours = [point for point in points if isinstance((point.payload or {}).get("digest"), int)]
            yield [int(point.id) for point in ours], [point.payload["digest"] for point in ours if point.payload]
            if after is None:
                return

    def told(self, row_ids: list[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        points = self._client.retrieve(self._place.table, row_ids, with_payload=list(columns), with_vectors=False)
        return [
            {"row_id": int(point.id), **dict.fromkeys(columns), **(point.payload or {})}  # what is unknown is left out
            for point in points
        ]

    def renumber(self, pairs: list[tuple[int, int]]) -> None:
        """The id of a point cannot change: it is written anew, whole, and the old one removed."""
        now = dict(pairs)
        old = self._client.retrieve(self._place.table, list(now), with_payload=True, with_vectors=True)
        points = [
            models.PointStruct(
                id=now[int(point.id)],
                vector=cast(Any, point.vector),
                payload={**(point.payload or {}), "row_id": now[int(point.id)]},
            )
            for point in old
            if isinstance((point.payload or {}).get("digest"), int)
        ]
        if points:
            self._client.upsert(self._place.table, points, wait=True)
        self.remove([int(point.id) for point in old])

    def foreign(self, row_ids: list[int]) -> list[int]:
        points = self._client.retrieve(self._place.table, row_ids, with_payload=["digest"], with_vectors=False)
        return [int(point.id) for point in points if not isinstance((point.payload or {}).get("digest"), int)]

    def write(self, rows: Rows, is_new: npt.NDArray[np.bool_]) -> None:
        for part in rows.taken(is_new).requests():
            points = [
                models.PointStruct(id=row["row_id"], vector=vector, payload=_known_of(row))
                for row, vector in zip(part.values, part.vectors.tolist(), strict=True)
            ]
            self._client.upsert(self._place.table, points, wait=True)
        for part in rows.taken(~is_new).requests():
            vectors = [
                models.PointVectors(id=row["row_id"], vector=vector)
                for row, vector in zip(part.values, part.vectors.tolist(), strict=True)
            ]
            changes: list[Any] = [models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=vectors))]
            for row in part.values:  # fields that somebody added keep their values
                unknown = [name for name, value in row.items() if value is None]
                at = [row["row_id"]]
                changes.append(
                    models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=unknown, points=at))
                )
                changes.append(
                    models.SetPayloadOperation(set_payload=models.SetPayload(payload=_known_of(row), points=at))
                )
            self._client.batch_update_points(self._place.table, changes, wait=True)

    def remove(self, row_ids: list[int]) -> None:
        self._client.delete(self._place.table, models.PointIdsList(points=list(row_ids)), wait=True)

    def finish(self) -> None:
        """Every request was waited for."""


def _known_of(row: dict[str, Any]) -> dict[str, Any]:
    """What is known of a picture: the client does not always send fields without a value."""
    return {name: value for name, value in row.items() if value is not None}
