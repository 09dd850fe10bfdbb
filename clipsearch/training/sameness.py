"""Which pairs show the same picture or say the same: what must not count as each other's negatives."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.errors import UnreadablePicture
from clipsearch.pairs.reading import PairSet
from clipsearch.pairs.spilling import first_seen
from clipsearch.records import IntArray
from clipsearch.training.settings import NothingToLearn

LONGEST_EXAMPLE = 60  # characters
LOOKED_AT = 1000  # pairs that nearly always differ already


def same_pictures(pairs: PairSet) -> IntArray:
    """A number for each pair, equal for files with the same bytes. Shape: (N,).

    Only files of the same size with the same sample are read whole.
    """
    samples = np.empty((len(pairs), 2), dtype=np.uint64)
    for number, pair in enumerate(pairs):
        try:
            sample = pair.source.sample()
        except UnreadablePicture:
            sample = _nothing_else(number)
        samples[number] = _digest(pair.source.size_bytes.to_bytes(8, "little") + sample)
    alike = first_seen(samples.tobytes())
    for number in np.flatnonzero(np.bincount(alike)[alike] > 1).tolist():
        try:
            content = pairs[number].read()
        except UnreadablePicture:
            content = _nothing_else(number)
        samples[number] = _digest(content)
    return first_seen(samples.tobytes())


def _nothing_else(number: int) -> bytes:
    return f"what nothing else contains, {number}".encode()


def _digest(content: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(xxhash.xxh3_128_digest(content), dtype=np.uint64)


def numbered(values: Iterable[Hashable]) -> IntArray:
    """A number for each value, equal for equal ones: 0 for the first, 1 for the next that is new, ..."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def check_variety(pairs: PairSet, pictures: IntArray, captions: IntArray) -> None:
    """Raise NothingToLearn if nothing can be learned: one picture, or captions that the model reads as one.

    Shapes: pictures (N,) and captions (C,): their numbers, equal for the same.
    """
    different = len(np.unique(pictures))
    if different < 2:
        problem = f"all {len(pairs):,} training pairs show the same picture"
        if len(pairs) < 2:
            problem = f"there is {'one training pair' if len(pairs) else 'no training pair'} only"
        raise NothingToLearn(problem, "Training compares pictures with each other: give pairs with different ones")
    if len(np.unique(captions)) < 2:
        texts = sorted({caption for pair in pairs for caption in pair.captions})
        example = texts[0] if len(texts[0]) <= LONGEST_EXAMPLE else f"{texts[0][: LONGEST_EXAMPLE - 3]}..."
        problem = f'all {len(pairs):,} training pairs have the same caption, "{example}"'
        if len(texts) > 1:
            problem = f"the model reads all {len(texts):,} different training captions as the same text"
        raise NothingToLearn(problem, "Training needs captions that tell pictures apart, in the part the model reads")


def check_variety_early(pairs: PairSet, readings: Callable[[list[str]], Sequence[bytes]]) -> None:
    """As `check_variety`, of the first pairs alone where they differ. `readings`: what the model reads of texts."""
    for some in (pairs[:LOOKED_AT], pairs):
        texts = list(dict.fromkeys(caption for pair in some for caption in pair.captions))
        try:
            return check_variety(some, same_pictures(some), numbered(readings(texts)))
        except NothingToLearn:
            if len(some) == len(pairs):
                raise
    return None
