"""How many pairs a step compares, how many steps a run takes, and how they warm up: from the number of pairs.

Measured on product pictures with the built-in model (docs/training.md has the table): a run needs some six steps an
epoch, and some 60 in all; beyond that, larger batches are as good and quicker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipsearch.training.settings import Settings

STEPS_PER_EPOCH = 6  # at least, where the batch is chosen here
SMALLEST_BATCH = 64
LARGEST_BATCH = 1024
EPOCHS = 10
FEWEST_STEPS = 60  # of a run, where the epochs are chosen here
WARMUP_SHARE = 0.1
FEWEST_WARMUP_STEPS = 5
PATIENT_STEPS = 20  # without a better epoch, at least


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run. `patience` is in epochs."""

    batch: int
    steps_per_epoch: int
    epochs: int
    steps: int
    warmup_steps: int
    patience: int


def plan(pairs: int, settings: Settings, processes: int = 1) -> Plan:
    """What the settings leave open, for so many pairs to train on."""
    batch = settings.batch or min(LARGEST_BATCH, max(SMALLEST_BATCH, _power_of_two(pairs / STEPS_PER_EPOCH)))
    batch = min(batch, pairs)
    if settings.batch is None:
        batch = max(processes, batch - batch % processes)
    steps_per_epoch = math.ceil(pairs / batch)
    epochs = settings.epochs or max(EPOCHS, math.ceil(FEWEST_STEPS / steps_per_epoch))
    steps = epochs * steps_per_epoch
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
        epochs = math.ceil(steps / steps_per_epoch)
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = min(max(FEWEST_WARMUP_STEPS, round(WARMUP_SHARE * steps)), steps // 2)
    patience = settings.patience or max(5, math.ceil(PATIENT_STEPS / steps_per_epoch))
    return Plan(batch, steps_per_epoch, epochs, steps, warmup, patience)


def _power_of_two(value: float) -> int:
    """The greatest power of two that does not exceed a value of at least 1."""
    return 1 << max(0, math.floor(math.log2(max(1.0, value))))
