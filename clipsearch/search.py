"""Answer queries: open a generation, encode the query, search its segments, look the rows up.

Used by the command line, the browser interface and Python programs alike; formats nothing, prints nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from clipsearch import config
from clipsearch.encoder import Encoder
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import CorruptIndex, EmptyQuery, EncoderMismatch, InvalidQuery, UnreadablePicture
from clipsearch.records import FloatArray, Hit, ImageRecord, IntArray, Manifest
from clipsearch.store import RowsFile, open_snapshot
from clipsearch.vectors import check_queries, empty_result, merge, open_segments

DEFAULT_HITS = 20


class Collection:
    """An indexed folder of pictures, open for searching: one generation, unaffected by later changes.

    Use `clipsearch.open` to make one. Close it, or use it in a `with`, so that old files can be deleted.
    """

    def __init__(self, index: Path, *, model: str | None = None, encoder: Encoder | None = None) -> None:
        self.index = index
        self._snapshot = open_snapshot(index)
        self._model_name = model
        self._encoder = encoder
        if encoder is not None:
            self._check(encoder)
        manifest = self._snapshot.manifest
        self._segments = open_segments(manifest, self._snapshot.file, self._snapshot.tombstones())
        self._rows: dict[str, RowsFile] = {}

    @property
    def root(self) -> Path:
        """The folder whose pictures these are."""
        return self._snapshot.root

    @property
    def manifest(self) -> Manifest:
        """The generation that is open."""
        return self._snapshot.manifest

    def __len__(self) -> int:
        """How many pictures can be found."""
        return self.manifest.pictures

    @property
    def encoder(self) -> Encoder:
        """The model, loaded when it is first needed. Raises: ModelNotFound, InvalidModel, EncoderMismatch."""
        if self._encoder is None:
            encoder = load_encoder(self._model_name or self.manifest.model.name)
            self._check(encoder)
            self._encoder = encoder
        return self._encoder

    def _check(self, encoder: Encoder) -> None:
        if encoder.fingerprint != self.manifest.model.fingerprint:
            raise EncoderMismatch(self.index, self.manifest.model.name, encoder.name, str(self.root))

    def search(self, query: str | os.PathLike[str], k: int = DEFAULT_HITS) -> list[Hit]:
        """Return the k pictures nearest to `query`, best first.

        `query` is a sentence, or the path of a picture to find similar ones to (a string that names a file is
        one). Raises: InvalidQuery, UnreadablePicture, EncoderMismatch, CorruptIndex.
        """
        return self.search_vectors(self.encode_query(query)[None], k)[0]

    def encode_query(self, query: str | os.PathLike[str]) -> FloatArray:
        """The vector of a sentence or of a picture's path. Shape: (D,) float32, unit L2."""
        path = Path(query)
        if not isinstance(query, str) or _is_file(path):
            from clipsearch.images import read_picture

            if not _is_file(path):
                raise UnreadablePicture(path, "unreadable", "there is no such picture")
            pixels = read_picture(path, self.encoder.preprocessing, content_hash=False).pixels
            picture: FloatArray = self.encoder.encode_images(pixels[None])[0]
            return picture
        if not query.strip():
            raise EmptyQuery
        text: FloatArray = self.encoder.encode_texts([query])[0]
        return text

    def search_vectors(self, queries: FloatArray, k: int = DEFAULT_HITS) -> list[list[Hit]]:
        """Return the k pictures nearest to each vector. Shape: queries (Q, D) float32, unit L2."""
        scores, ids = self.nearest(queries, k)
        return [
            [
                self._hit(rank, float(score), int(row_id))
                for rank, (score, row_id) in enumerate(zip(row_scores, row_ids, strict=True), 1)
                if row_id >= 0
            ]
            for row_scores, row_ids in zip(scores, ids, strict=True)
        ]

    def nearest(self, queries: FloatArray, k: int, *, exact: bool = False) -> tuple[FloatArray, IntArray]:
        """Return scores and row ids of the k nearest pictures, without looking them up.

        Shapes: queries (Q, D) float32, unit L2; scores (Q, k) cosine; ids (Q, k) int64, -1 where there is none.
        `exact` searches large segments exhaustively too. Raises: DimensionMismatch.
        """
        if k < 1:
            raise InvalidQuery(f"cannot return {k} hits: ask for 1 or more")
        check_queries(queries, self.manifest.model.dim)
        k = min(k, max(1, len(self)))
        found = [segment.search(queries, k, exact=exact) for segment in self._segments]
        return merge([empty_result(len(queries), k), *found], k)

    def _hit(self, rank: int, score: float, row_id: int) -> Hit:
        record = self.record(row_id)
        return Hit(rank, max(-1.0, min(1.0, score)), os.path.join(self.root, record.path), record)

    def record(self, row_id: int) -> ImageRecord:
        """What the index knows of a picture. Raises: KeyError if no picture has this row id."""
        for fragment in self.manifest.fragments:
            if fragment.segment is None or not fragment.first_row_id <= row_id <= fragment.last_row_id:
                continue
            ref = fragment.segment.rows
            if ref.path not in self._rows:
                self._rows[ref.path] = RowsFile(self._snapshot.file(ref), self.index)
            record = self._rows[ref.path].find(row_id)
            if record is None:
                raise CorruptIndex(self.index / ref.path, f"row {row_id} is missing", index=self.index)
            return record
        raise KeyError(row_id)

    def vector(self, row_id: int) -> FloatArray:
        """The vector of a picture. Shape: (D,) float32, unit L2. Raises: KeyError if no picture has this row id."""
        for segment in self._segments:
            vector = segment.find(row_id)
            if vector is not None:
                return vector
        raise KeyError(row_id)

    def close(self) -> None:
        """Let go of the generation. Hits stay valid."""
        self._snapshot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a sentence may be longer than a name can be, or hold a NUL
        return False


def open_collection(
    folder: str | os.PathLike[str] | None = None, *, model: str | None = None, encoder: Encoder | None = None
) -> Collection:
    """Open the index of a photo folder (or an index folder) for searching.

    Without `folder`: the one that a command in the current folder would use (see config.find_index).
    `model` names another model than the index's, with the same image tower. Raises: IndexNotFound, CorruptIndex,
    UnsupportedIndex.
    """
    index = config.find_index(None if folder is None else Path(folder))
    return Collection(index, model=model, encoder=encoder)
