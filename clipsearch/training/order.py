"""Which pairs a step sees: a function of the seed and the step alone, so a resumed run sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipsearch.records import IntArray


@dataclass(frozen=True, slots=True)
class Draw:
    """One batch. Shapes: all (B,). `captions` are places in the list of all captions; `seeds` are for views."""

    pictures: IntArray
    captions: IntArray
    seeds: IntArray


class Order:
    """Every epoch shows each picture once, in a new order, with one of its captions; the rest of a batch is left out.

    `first_caption[i]:first_caption[i + 1]` are the captions of picture i.
    """

    def __init__(self, first_caption: IntArray, batch: int, seed: int) -> None:
        self._first = first_caption
        self._count = len(first_caption) - 1
        self.batch = min(batch, self._count)
        self.steps_per_epoch = self._count // self.batch
        self._seed = seed
        self._epochs: dict[int, tuple[IntArray, IntArray, IntArray]] = {}

    def draw(self, step: int, rank: int = 0, processes: int = 1) -> Draw:
        """The part of step number `step` (from 0) that belongs to a process: the same rows whatever their number."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, chosen, seeds = self._shuffled(epoch)
        share = self.batch // processes
        start = place * self.batch + rank * share
        rows = order[start : start + share].copy()
        return Draw(rows, chosen[rows], seeds[rows])

    def _shuffled(self, epoch: int) -> tuple[IntArray, IntArray, IntArray]:
        """The order of an epoch, and by picture the caption and the seed of its view."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # reading ahead needs the next one, too
                del self._epochs[min(self._epochs)]
            random = np.random.default_rng((self._seed, epoch))
            order = random.permutation(self._count)
            chosen = self._first[:-1] + (random.random(self._count) * np.diff(self._first)).astype(np.int64)
            self._epochs[epoch] = (order, chosen, random.integers(0, 2**31, self._count))
        return self._epochs[epoch]
