"""The captions of pairs as a text tower reads them, in little memory: tokens on disk, without their padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import xxhash
from torch import Tensor

from clipsearch.pairs.reading import PairSet
from clipsearch.pairs.spilling import Spill, first_seen
from clipsearch.records import IntArray

TEXTS_AT_ONCE = 256


class Captions:
    """All captions of some pairs: their tokens, their pictures, and which are the same text.

    In memory are some 130 bytes for each; what the tokens need is read from a temporary file, if they are many.
    """

    def __init__(self, pairs: PairSet, tokenize: Callable[[list[str]], Tensor]) -> None:
        self.tokenize = tokenize
        counts = np.fromiter((len(pair.captions) for pair in pairs), np.int64, len(pairs))
        self.first: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        digests = b"".join(
            xxhash.xxh3_128_digest(caption.encode("utf-8", "surrogatepass"))
            for pair in pairs
            for caption in pair.captions
        )
        self.rows: IntArray = first_seen(digests)
        """Of each caption of each picture, the number of its text: 0 for the first, 1 for the next other one, ..."""
        self.count = int(self.rows.max(initial=-1)) + 1
        self._length = 0  # of a row with its padding
        tokens = Spill()
        sizes: list[IntArray] = []
        readings = b"".join(self._packed(self._texts(pairs), tokens, sizes))
        self.same = torch.from_numpy(first_seen(readings))  # (T,)
        self._packed_tokens = tokens.mapped().view(np.int32)
        self._starts: IntArray = np.concatenate([[0], *sizes]).cumsum().astype(np.int64)
        self._readings = np.unique(np.frombuffer(readings, np.uint64)[::2])

    @property
    def owners(self) -> IntArray:
        """Of each caption the number of its picture."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def _texts(self, pairs: PairSet) -> Iterator[list[str]]:
        """All different captions, some at a time, in the order of their numbers."""
        found: list[str] = []
        place = known = 0
        for pair in pairs:
            for caption in pair.captions:
                if self.rows[place] == known:
                    known += 1
                    found.append(caption)
                    if len(found) == TEXTS_AT_ONCE:
                        yield found
                        found = []
                place += 1
        if found:
            yield found

    def _packed(self, texts: Iterator[list[str]], tokens: Spill, sizes: list[IntArray]) -> Iterator[bytes]:
        """Add the tokens of all texts to `tokens`, and yield what tells one from the others."""
        for group in texts:
            rows = self.tokenize(group).numpy().astype(np.int32)
            self._length = rows.shape[1]
            # Up to the first of the equal values that a row ends with: the others follow from it.
            kept = rows.shape[1] - np.argmax(rows[:, ::-1] != rows[:, -1:], axis=1) + 1
            kept[(rows == rows[:, -1:]).all(axis=1)] = 1
            kept = np.minimum(kept, rows.shape[1])
            tokens.append(rows[np.arange(rows.shape[1]) < kept[:, None]].tobytes())
            sizes.append(kept.astype(np.int64))
            yield from _readings(rows)

    def tokens(self, chosen: IntArray) -> Tensor:
        """The tokens of some texts with their padding. Shapes: chosen (B,): numbers of texts; result (B, L) int64."""
        found = np.empty((len(chosen), self._length), dtype=np.int64)
        for place, number in enumerate(chosen):
            own = self._packed_tokens[self._starts[number] : self._starts[number + 1]]
            found[place, : len(own)] = own
            found[place, len(own) :] = own[-1]
        return torch.from_numpy(found)

    def reading_of(self, texts: list[str]) -> list[bytes]:
        """What a model reads of texts, to be looked for among these captions."""
        return list(_readings(self.tokenize(texts).numpy().astype(np.int32)))

    def __contains__(self, reading: object) -> bool:
        """Whether a caption is read so; of a hundred billion others, one may be taken for a caption."""
        if not isinstance(reading, bytes):
            return False
        wanted = np.frombuffer(reading, np.uint64)[0]
        place = np.searchsorted(self._readings, wanted)
        return bool(place < len(self._readings) and self._readings[place] == wanted)


def _readings(rows: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> Iterator[bytes]:
    yield from (xxhash.xxh3_128_digest(row.tobytes()) for row in rows)
