"""Which pairs a step sees: a function of the seed and the step alone, so a resumed run sees the same ones."""

from __future__ import annotations

import math
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
    """Every epoch shows each picture once, in a new order, with one of its captions, in batches of nearly one size.

    `first_caption[i]:first_caption[i + 1]` are the captions of picture i. With several processes the batches are
    multiples of their number, for which the last one begins the epoch's order again.
    """

    def __init__(self, first_caption: IntArray, batch: int, seed: int, processes: int = 1) -> None:
        self._first = first_caption
        self._count = len(first_caption) - 1
        self.batch = min(batch, self._count)
        self.steps_per_epoch = math.ceil(self._count / self.batch)
        self._seed = seed
        shares = math.ceil(self._count / processes)
        bounds = np.arange(self.steps_per_epoch + 1) * shares // self.steps_per_epoch
        self._bounds = [int(bound) * processes for bound in bounds]
        self._epochs: dict[int, tuple[IntArray, IntArray, IntArray]] = {}

    @property
    def pairs(self) -> int:
        """How many pictures an epoch shows."""
        return self._count

    def draw(self, step: int, rank: int = 0, processes: int = 1) -> Draw:
        """The part of step number `step` (from 0) that belongs to a process."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, chosen, seeds = self._shuffled(epoch)
        start, end = self._bounds[place], self._bounds[place + 1]
        share = (end - start) // processes
        places = np.arange(start + rank * share, start + (rank + 1) * share) % self._count
        rows = order[places]
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
