"""How much of what was learned to keep: WiSE-FT (Wortsman et al. 2022), the weight chosen on dev and anchor pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.evaluation.recall import Metrics
from clipsearch.training.loop import score_of
from clipsearch.training.verdict import DoubleArray, Pick

GRID = tuple(round(step / 10, 1) for step in range(11))


@dataclass(frozen=True, slots=True)
class Weighing:
    """One weight, and what retrieval is like with it. 0 is the base model, 1 all that was learned."""

    alpha: float
    dev: Metrics
    anchor: Metrics

    def anchor_drop(self, start: Weighing) -> float:
        """Points of text-to-image recall@10 that the anchor set loses; negative where it gains."""
        return 100 * (start.anchor.text_to_image.recall(10) - self.anchor.text_to_image.recall(10))


def weigh(
    measure: Callable[[float, str], Metrics], asked: float | None, report: Callable[[str, int, int], None]
) -> list[Weighing]:
    """Measure all weights, or the base model and the one asked for. `measure` takes a weight and a set's name."""
    grid: Sequence[float] = GRID if asked is None else (0.0, asked)
    found = []
    for done, alpha in enumerate(grid, 1):
        found.append(Weighing(alpha, measure(alpha, "dev"), measure(alpha, "anchor")))
        report("blending old and new weights", done, len(grid))
    return found


def choose(weighings: Sequence[Weighing], most_drop: float) -> Weighing:
    """The best weight among those that lose at most `most_drop` points on the anchor set.

    Where none but the base model does, the best of the others: whoever trains decides what it is worth.
    """
    return weighings[chooser(weighings, most_drop)(np.array([score_of(one.dev) for one in weighings]))]


def chooser(weighings: Sequence[Weighing], most_drop: float) -> Pick:
    """Which of the weights `choose` takes where they have other scores on held-out pairs than these."""
    anchors = [score_of(one.anchor) for one in weighings]
    is_allowed = [one.anchor_drop(weighings[0]) <= most_drop for one in weighings]

    def pick(scores: DoubleArray) -> int:
        others = range(1, len(weighings))

        def worth(place: int) -> float:
            return float(scores[place] + anchors[place])

        best = max(others, key=worth)
        if len(others) == 1:
            return best
        better = [place for place in others if is_allowed[place] and scores[place] > scores[0]]
        if better:
            return max(better, key=worth)
        return best if scores[best] > scores[0] else 0

    return pick
