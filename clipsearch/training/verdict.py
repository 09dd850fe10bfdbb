"""Whether a run helped: recall and median rank on held-out pairs, before and after, with intervals of the change.

The epoch that is kept, and how much of what was learned, are chosen on the same pairs, and what does best by chance is
chosen by chance: with shuffled captions, of which nothing can be learned, a quarter of the runs on 120 pairs had gained
by more than their intervals. So each choice is made again on four fifths of the pairs and measured on the others
(repeated cross-validation: what Varma and Simon 2006 call for), and what it seemed to gain beyond that is taken off the
change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipsearch.evaluation.recall import RECALL_AT, Metrics, compare
from clipsearch.records import IntArray

Outcome = Literal["better", "worse", "unclear"]
DoubleArray = npt.NDArray[np.float64]
Pick = Callable[[DoubleArray], int]

MEASURES = (*(f"recall@{k}" for k in RECALL_AT), "median_rank")
CONFIDENCE = 1 - 0.05 / len(MEASURES)  # of each, so that all hold together in 95 of 100 cases (Bonferroni)
PARTS = 5
REPEATS = 40


@dataclass(frozen=True, slots=True)
class Choice:
    """Something of which one was chosen by how it does on held-out pairs.

    `ranks`: text to image, of each that could be chosen, (C, Q); `pictures`: which each query belongs to, (Q,);
    `pick`: which one is chosen where their mean recalls at 1, 5 and 10 are these, (C,).
    """

    ranks: IntArray
    pictures: IntArray
    pick: Pick

    def flattery(self) -> DoubleArray:
        """How much better the chosen one seems than what is chosen does on other pairs. Shape: MEASURES."""
        owners, of_query = np.unique(self.pictures, return_inverse=True)
        if len(self.ranks) < 2 or len(owners) < PARTS:
            return np.zeros(len(MEASURES))
        scores = np.mean([self.ranks <= k for k in RECALL_AT], axis=0)  # (C, Q)
        random = np.random.default_rng(0)
        found = []
        for _ in range(REPEATS):
            part_of = (random.permutation(len(owners)) % PARTS)[of_query]
            unseen = np.empty(len(of_query), np.int64)
            for part in range(PARTS):
                is_other = part_of == part
                unseen[is_other] = self.ranks[self.pick(scores[:, ~is_other].mean(axis=1)), is_other]
            found.append(_measured(unseen))
        seems = _measured(self.ranks[self.pick(scores.mean(axis=1))])
        flattery: DoubleArray = seems - np.mean(found, axis=0)
        return flattery


def _measured(ranks: IntArray) -> DoubleArray:
    """The MEASURES of queries with these ranks. Shapes: (Q,), (4,)."""
    return np.array([*(np.mean(ranks <= k) for k in RECALL_AT), np.median(ranks)])


@dataclass(frozen=True, slots=True)
class Verdict:
    """`changes`: for text to image, by measure: the change, less what choosing seemed to gain, and the bounds of its
    interval (all hold together in 95 of 100 cases); recall in points."""

    outcome: Outcome
    changes: dict[str, tuple[float, float, float]]
    median_before: float
    median_after: float


def judge(before: Metrics, after: Metrics, choices: Sequence[Choice] = ()) -> Verdict:
    """Compare two models on the same pairs. `choices`: what was chosen on these pairs to make the second one.

    Better: at least one of recall@1, 5, 10 and the median rank has improved by more than its interval, and none has
    become worse by more. Intervals are bootstrapped over the pictures (see `evaluation.recall.compare`).
    """
    [differences] = compare([before, after], confidence=CONFIDENCE).differences
    flattery = sum((choice.flattery() for choice in choices), np.zeros(len(MEASURES)))
    changes: dict[str, tuple[float, float, float]] = {}
    gains = losses = 0
    for name, seeming in zip(MEASURES, flattery.tolist(), strict=True):
        found = differences[f"text_to_image_{name}"]
        # Choosing by chance makes nothing look worse, nor does what it did not gain count.
        seeming = min(seeming, 0.0) if name == "median_rank" else max(seeming, 0.0)
        factor = 1.0 if name == "median_rank" else 100.0
        value, low, high = (round(factor * (bound - seeming), 4) for bound in (found.value, found.low, found.high))
        changes[name] = (value, low, high)
        gains += high < 0 if name == "median_rank" else low > 0
        # Choosing hides a loss, if anything, so what is taken off is no evidence of one.
        losses += found.low > 0 if name == "median_rank" else found.high < 0
    outcome: Outcome = "unclear"
    if gains and not losses:
        outcome = "better"
    elif losses and not gains:
        outcome = "worse"
    return Verdict(outcome, changes, before.text_to_image.median_rank, after.text_to_image.median_rank)
