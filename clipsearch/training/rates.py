"""A learning rate for these pairs and this model: the rate grows from step to step, and the loss says when too far.

The range test of Smith (2017), with the rule of fastai: a tenth of the rate at which the loss is lowest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST, HIGHEST = 1e-7, 1.0
STEPS = 60
SMOOTHING = 0.8
TOO_FAR = 1.5  # times the lowest loss
SAFETY = 10.0


@dataclass(frozen=True, slots=True)
class RateSweep:
    """Losses, smoothed, by learning rate; `suggestion` is None if no rate made the loss fall."""

    rates: list[float]
    losses: list[float]
    default: float

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate with the lowest loss."""
        if not self.losses or min(self.losses) >= self.losses[0]:
            return None
        return self.rates[self.losses.index(min(self.losses))] / SAFETY


def rate_at(step: int, steps: int = STEPS) -> float:
    """The rate of a step: evenly spaced logarithms."""
    return LOWEST * math.pow(HIGHEST / LOWEST, step / (steps - 1))


class Sweeping:
    """Collects the losses of a sweep."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._average = 0.0

    def add(self, rate: float, loss: float) -> bool:
        """Take a loss; returns whether to go on."""
        if not math.isfinite(loss):
            return False
        step = len(self.losses)
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        smooth = self._average / (1 - SMOOTHING ** (step + 1))
        self.rates.append(rate)
        self.losses.append(smooth)
        return smooth <= TOO_FAR * min(self.losses)
