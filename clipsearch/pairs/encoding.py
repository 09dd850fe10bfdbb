"""Pairs, and folders of pictures, to vectors: decoded ahead in worker processes, encoded in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Encoder
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.errors import InvalidPairs
from clipsearch.indexer.build import Progress
from clipsearch.pairs.reading import PairSet, PictureSource
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.records import FloatArray, IntArray, PixelArray, SkippedImage

TEXTS_AT_ONCE = 512

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """Shapes: vectors (N, D) float32, unit L2; kept (N,): which of the pictures given, ascending.

    `hashes`: xxh3-128 of each kept file. `skipped`: what could not be read, and why.
    """

    vectors: FloatArray
    kept: IntArray
    hashes: list[str]
    skipped: list[SkippedImage]

    @property
    def same(self) -> IntArray:
        """A number for each row, equal for files with the same content. Shape: (N,)."""
        known: dict[str, int] = {}
        return np.array([known.setdefault(value, len(known)) for value in self.hashes], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Pictures and captions as vectors. Shapes: texts (T, D); owner (T,): the row in `pictures.vectors` of each."""

    pictures: EncodedPictures
    texts: FloatArray
    owner: IntArray

    def only(self, kept: IntArray) -> EncodedPairs:
        """Return the part whose pictures are among `kept` (numbers of pairs, ascending)."""
        chosen = np.isin(self.pictures.kept, kept)
        row = np.cumsum(chosen) - 1
        of_chosen = chosen[self.owner]
        hashes = [value for value, wanted in zip(self.pictures.hashes, chosen, strict=True) if wanted]
        pictures = EncodedPictures(
            self.pictures.vectors[chosen], self.pictures.kept[chosen], hashes, self.pictures.skipped
        )
        return EncodedPairs(pictures, self.texts[of_chosen], row[self.owner[of_chosen]])


def decode_tasks(sources: Sequence[PictureSource]) -> list[DecodeTask]:
    """What a decode pool must do to read these pictures; a task's key is the source's number."""
    return [
        DecodeTask(number, source.path, size_bytes=source.size_bytes, member=source.member, offset=source.offset)
        for number, source in enumerate(sources)
    ]


def encode_pictures(
    encoder: Encoder,
    sources: Sequence[PictureSource],
    *,
    workers: int | None = None,
    batch: int | None = None,
    timeout_s: float = 10.0,
    progress: Report | None = None,
) -> EncodedPictures:
    """Encode pictures; those that cannot be read are left out and listed."""
    vectors = np.empty((len(sources), encoder.dim), np.float32)
    hashes: dict[int, str] = {}
    skipped: dict[int, SkippedImage] = {}
    waiting: list[tuple[int, PixelArray]] = []

    def flush() -> None:
        if waiting:
            vectors[[number for number, _ in waiting]] = encode_decoded(encoder, [p for _, p in waiting])
            waiting.clear()
        if progress is not None:
            progress(Progress("encode", len(hashes) + len(skipped), len(sources), len(hashes)))

    with DecodePool(encoder.preprocessing, workers=workers, timeout_s=timeout_s, pieces=True) as pool:
        for result in pool.run(decode_tasks(sources)):
            if result.pieces is None or result.content_hash is None:
                status, reason = result.skip or ("unreadable", "it could not be read")
                skipped[result.key] = SkippedImage(sources[result.key].name, status, reason)
                continue
            hashes[result.key] = result.content_hash
            waiting.append((result.key, result.pieces))
            if len(waiting) >= (batch or encoder.pictures_per_call):
                flush()
    flush()
    kept = np.array(sorted(hashes), np.int64)
    return EncodedPictures(
        vectors[kept], kept, [hashes[key] for key in sorted(hashes)], [skipped[key] for key in sorted(skipped)]
    )


def encode_captions(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
    """Return one vector per text, (T, D); equal texts are encoded once."""
    numbers: dict[str, int] = {}
    for text in texts:
        numbers.setdefault(text, len(numbers))
    distinct = list(numbers)
    parts = [
        encoder.encode_texts(distinct[start : start + TEXTS_AT_ONCE])
        for start in range(0, len(distinct), TEXTS_AT_ONCE)
    ]
    vectors = np.concatenate(parts) if parts else np.empty((0, encoder.dim), np.float32)
    found: FloatArray = vectors[[numbers[text] for text in texts]]
    return found


def encode_pairs(
    encoder: Encoder,
    pairs: PairSet,
    *,
    workers: int | None = None,
    batch: int | None = None,
    progress: Report | None = None,
) -> EncodedPairs:
    """Encode all pictures and captions. Raises: InvalidPairs if no picture can be read."""
    sources = [pair.source for pair in pairs]
    pictures = encode_pictures(encoder, sources, workers=workers, batch=batch, progress=progress)
    if not len(pictures.kept):
        reason = pictures.skipped[0]
        raise InvalidPairs(
            ", ".join(pairs.sources), f"none of its pictures can be read ({reason.path}: {reason.reason})"
        )
    captions = [pairs[int(number)].captions for number in pictures.kept]
    owner = np.repeat(np.arange(len(captions)), [len(said) for said in captions])
    return EncodedPairs(pictures, encode_captions(encoder, [text for said in captions for text in said]), owner)
