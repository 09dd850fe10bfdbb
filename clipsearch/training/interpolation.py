"""How much of what was learned to keep: WiSE-FT (Wortsman et al. 2022), the weight chosen on dev and anchor pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipsearch.evaluation.recall import Metrics
from clipsearch.training.loop import score_of

GRID = tuple(round(step / 10, 1) for step in range(11))


@dataclass(frozen=True, slots=True)
class Weighing:
    """One weight, and what retrieval is like with it. 0 is the base model, 1 all that was learned."""

    alpha: float
    dev: Metrics
    anchor: Metrics

    @property
    def score(self) -> float:
        """What weights are compared by: text-to-image recall on both sets."""
        return score_of(self.dev) + score_of(self.anchor)

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
    start, others = weighings[0], weighings[1:]
    best = max(others, key=lambda one: one.score)
    if len(others) == 1:
        return best
    allowed = [one for one in others if one.anchor_drop(start) <= most_drop]
    better = [one for one in allowed if score_of(one.dev) > score_of(start.dev)]
    if better:
        return max(better, key=lambda one: one.score)
    if score_of(best.dev) > score_of(start.dev):
        return best
    return start
