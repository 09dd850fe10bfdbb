"""The captions of pairs as a text tower reads them, in little memory: tokens without the padding behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from clipsearch.pairs.reading import PairSet
from clipsearch.records import IntArray
from clipsearch.training.sameness import numbered

TEXTS_AT_ONCE = 256


class Captions:
    """All captions of some pairs: their tokens, their pictures, and which are the same text.

    A caption of twelve tokens takes 60 bytes, where a padded row of 77 took 616: of ten million captions all are kept.
    """

    def __init__(self, pairs: PairSet, tokenize: Callable[[list[str]], Tensor]) -> None:
        unique: dict[str, int] = {}
        rows = [[unique.setdefault(caption, len(unique)) for caption in pair.captions] for pair in pairs]
        self.texts = list(unique)
        self.rows: IntArray = np.array([row for own in rows for row in own], dtype=np.int64)
        self.first: IntArray = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        self.owners: IntArray = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        self._length = 0  # of a row with its padding
        parts: list[npt.NDArray[np.int32]] = []
        sizes: list[int] = []
        self.same = torch.from_numpy(numbered(self._packed(tokenize, parts, sizes)))  # (T,)
        self._packed_tokens = np.concatenate(parts)
        self._starts: IntArray = np.cumsum([0, *sizes]).astype(np.int64)

    def _packed(
        self, tokenize: Callable[[list[str]], Tensor], parts: list[npt.NDArray[np.int32]], sizes: list[int]
    ) -> Iterator[bytes]:
        """Add the tokens of all texts to `parts`, and yield what tells one from the others."""
        for at in range(0, len(self.texts), TEXTS_AT_ONCE):
            rows = tokenize(self.texts[at : at + TEXTS_AT_ONCE]).numpy().astype(np.int32)
            self._length = rows.shape[1]
            # Up to the first of the equal values that a row ends with: the others follow from it.
            kept = rows.shape[1] - np.argmax(rows[:, ::-1] != rows[:, -1:], axis=1) + 1
            kept[(rows == rows[:, -1:]).all(axis=1)] = 1
            kept = np.minimum(kept, rows.shape[1])
            parts.append(rows[np.arange(rows.shape[1]) < kept[:, None]])
            sizes += kept.tolist()
            yield from (xxhash.xxh3_128_digest(row.tobytes()) for row in rows)

    def tokens(self, chosen: IntArray) -> Tensor:
        """The tokens of some texts with their padding. Shapes: chosen (B,): numbers of texts; result (B, L) int64."""
        found = np.empty((len(chosen), self._length), dtype=np.int64)
        for place, number in enumerate(chosen):
            own = self._packed_tokens[self._starts[number] : self._starts[number + 1]]
            found[place, : len(own)] = own
            found[place, len(own) :] = own[-1]
        return torch.from_numpy(found)
