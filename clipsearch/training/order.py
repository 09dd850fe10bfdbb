"""Which pairs a step sees: a function of the seed and the step alone, so a resumed run sees the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipsearch.records import FloatArray, IntArray


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
    `weights`: how often an epoch shows each picture; of a fraction, that share of the epochs. Shape: (N,).
    """

    def __init__(
        self, first_caption: IntArray, batch: int, seed: int, processes: int = 1, weights: FloatArray | None = None
    ) -> None:
        self._first = first_caption
        self._weights = weights
        self._count = epoch_length(len(first_caption) - 1, weights)
        self.batch = min(batch, self._count)
        self.steps_per_epoch = math.ceil(self._count / self.batch)
        self._seed = seed
        shares = math.ceil(self._count / processes)
        bounds = np.arange(self.steps_per_epoch + 1) * shares // self.steps_per_epoch
        self._bounds = [int(bound) * processes for bound in bounds]
        self._epochs: dict[int, tuple[IntArray, IntArray, IntArray]] = {}
        self.regrouped: dict[int, IntArray] = {}
        """Of the last epoch with an order of its own (see `regroup`): its places."""

    @property
    def pairs(self) -> int:
        """How many pictures an epoch shows, each as often as it does."""
        return self._count

    def shown(self, epoch: int) -> IntArray:
        """The pictures of an epoch in their order, without what `regroup` makes of it. Shape: (pairs,)."""
        return self._shuffled(epoch)[0]

    def regroup(self, epoch: int, places: IntArray) -> None:
        """Let an epoch show what it shows in another order: a permutation of its places. Shape: (pairs,)."""
        self.regrouped = {epoch: places}

    def draw(self, step: int, rank: int = 0, processes: int = 1) -> Draw:
        """The part of step number `step` (from 0) that belongs to a process."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, chosen, seeds = self._shuffled(epoch)
        start, end = self._bounds[place], self._bounds[place + 1]
        share = (end - start) // processes
        places = np.arange(start + rank * share, start + (rank + 1) * share) % self._count
        if epoch in self.regrouped:
            places = self.regrouped[epoch][places]
        return Draw(order[places], chosen[places], seeds[places])

    def _shuffled(self, epoch: int) -> tuple[IntArray, IntArray, IntArray]:
        """The pictures of an epoch in their order, and for each the caption and the seed of its view."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # reading ahead needs the next one, too
                del self._epochs[min(self._epochs)]
            random = np.random.default_rng((self._seed, epoch))
            if self._weights is None:
                order = shown = random.permutation(self._count)
            else:
                shown, order = _weighted(self._weights, self._count, random), np.arange(self._count)
            # By picture where each is shown once, so that the steps are those of earlier versions.
            first, counts = (self._first[:-1], np.diff(self._first))
            if self._weights is not None:
                first, counts = first[shown], counts[shown]
            chosen = first + (random.random(self._count) * counts).astype(np.int64)
            seeds = random.integers(0, 2**31, self._count)
            self._epochs[epoch] = (shown, chosen[order], seeds[order])
        return self._epochs[epoch]


def epoch_length(pictures: int, weights: FloatArray | None) -> int:
    """How many pictures an epoch shows: all of them once, or the sum of their weights."""
    return pictures if weights is None else max(1, round(float(weights.sum(dtype=np.float64))))


def _weighted(weights: FloatArray, count: int, random: np.random.Generator) -> IntArray:
    """Pictures in the order of an epoch, each its weight rounded up or down times, and its repetitions far apart.

    Systematic sampling: the places of the weights, laid one behind the other in a random order, on a grid with a random
    start. So the counts differ by less than one from the weights, and in the mean over the epochs not at all.
    """
    mixed = random.permutation(len(weights))
    ends = np.cumsum(weights[mixed].astype(np.float64))
    ends *= count / ends[-1]
    ends[-1] = count
    times = np.diff(np.floor(ends + random.random()), prepend=0.0).astype(np.int64)
    shown = np.repeat(mixed, times)
    repetition = np.arange(count) - np.repeat(np.cumsum(times) - times, times)
    place = (repetition + np.repeat(random.random(len(mixed)), times)) / np.repeat(times, times)
    return shown[np.argsort(place, kind="stable")]
