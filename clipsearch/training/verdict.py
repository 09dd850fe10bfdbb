"""Whether a run helped: recall and median rank on held-out pairs, before and after, with intervals of the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipsearch.evaluation.recall import RECALL_AT, Metrics, compare

Outcome = Literal["better", "worse", "unclear"]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    """`changes`: for text to image, by measure: the change and the bounds of its 95 % interval; recall in points."""

    outcome: Outcome
    changes: dict[str, tuple[float, float, float]]
    median_before: float
    median_after: float


def judge(before: Metrics, after: Metrics) -> Verdict:
    """Compare two models on the same pairs.

    Better: at least one of recall@1, 5, 10 and the median rank has improved by more than its interval, and none has
    become worse by more. Intervals are bootstrapped over the pictures (see `evaluation.recall.compare`).
    """
    [differences] = compare([before, after], confidence=CONFIDENCE).differences
    changes: dict[str, tuple[float, float, float]] = {}
    gains = losses = 0
    for name in (*(f"recall@{k}" for k in RECALL_AT), "median_rank"):
        found = differences[f"text_to_image_{name}"]
        factor = 1.0 if name == "median_rank" else 100.0
        bounds = [round(factor * bound, 4) for bound in (found.value, found.low, found.high)]
        changes[name] = (bounds[0], bounds[1], bounds[2])
        up, down = found.low > 0, found.high < 0
        gains += down if name == "median_rank" else up
        losses += up if name == "median_rank" else down
    outcome: Outcome = "unclear"
    if gains and not losses:
        outcome = "better"
    elif losses and not gains:
        outcome = "worse"
    return Verdict(outcome, changes, before.text_to_image.median_rank, after.text_to_image.median_rank)
