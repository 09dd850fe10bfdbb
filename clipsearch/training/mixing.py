"""Weights of sources: how often an epoch shows the pairs of one, where pairs of several kinds are mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from clipsearch.filenames import readable
from clipsearch.pairs.reading import PairSet, expand_source
from clipsearch.records import FloatArray, IntArray
from clipsearch.training.order import Order, epoch_length
from clipsearch.training.plan import plan
from clipsearch.training.settings import InvalidSettings, NothingToLearn, Settings

LEAST_WEIGHT, LARGEST_WEIGHT = 0.01, 100.0
FEWEST_DRAWN = 2  # a picture alone has nothing to be told from


@dataclass(frozen=True, slots=True)
class Share:
    """What an epoch draws from the pairs of one source. `source`: its name without folders; empty for all others."""

    source: str
    weight: float
    pairs: int
    drawn: int


def parse_weight(text: str) -> tuple[str, float]:
    """Read `SOURCE=X`. Raises: ValueError, with a sentence."""
    source, equals, number = text.rpartition("=")
    if not equals or not source:
        raise ValueError(f"{text!r} is not SOURCE=X, as in photos.csv=2")
    try:
        weight = float(number)
    except ValueError:
        raise ValueError(f"{number!r} is not a number, in {text!r}") from None
    if not (math.isfinite(weight) and LEAST_WEIGHT <= weight <= LARGEST_WEIGHT):
        problem = "leave out a source that you do not want" if weight == 0 else "choose one within these bounds"
        raise ValueError(f"{text!r}: weights are from {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}; {problem}")
    return source, weight


def weights_of(pairs: PairSet, asked: Mapping[str, float]) -> tuple[FloatArray, list[Share]] | None:
    """The weight of each pair, and what an epoch draws of each source; None if nothing is asked for.

    `asked`: weights by source, a name or pattern that `pairs` were opened with or that names some of their files;
    others have 1. Raises: InvalidPairs, InvalidSettings.
    """
    if not asked:
        return None
    weights = np.ones(len(pairs), dtype=np.float32)
    origins = np.array([pair.origin for pair in pairs], dtype=object)
    by_place: dict[str, str] = {}
    shares: list[Share] = []
    for source, weight in asked.items():
        places = expand_source(source)
        for place in places:
            if place not in pairs.sources:
                known = ", ".join(pairs.sources[:3]) + (", ..." if len(pairs.sources) > 3 else "")
                raise InvalidSettings(
                    f"--weight names {place}, which is not one of the sources of pairs ({known})",
                    "Name a source as in PAIRS",
                )
            if place in by_place:
                raise InvalidSettings(
                    f"{place} has two weights, from {by_place[place]} and from {source}", "Give it one --weight"
                )
            by_place[place] = source
        own = np.isin(origins, places)
        weights[own] = weight
        count = int(own.sum())
        shares.append(Share(readable(PurePath(source).name), weight, count, round(count * weight)))
    others = len(pairs) - sum(share.pairs for share in shares)
    if others:
        shares.append(Share("", 1.0, others, others))
    _check_drawn(epoch_length(len(pairs), weights))
    return weights, shares


def mixing_notice(shares: list[Share]) -> str:
    """What an epoch draws, in one sentence."""
    parts = [f"{_drawn(share)} (weight {share.weight:g})" for share in shares]
    drawn = max(1, round(sum(share.weight * share.pairs for share in shares)))
    return f"an epoch draws {drawn:,} pairs: {', '.join(parts)}"


def _drawn(share: Share) -> str:
    if share.pairs and not share.drawn:
        return f"one of {_named(share)} every {round(1 / (share.weight * share.pairs)):,} epochs"
    return f"{share.drawn:,} of {_named(share)}"


def _named(share: Share) -> str:
    return f"the {share.pairs:,} in {share.source}" if share.source else f"the {share.pairs:,} others"


def make_order(first_caption: IntArray, weights: FloatArray | None, settings: Settings, processes: int = 1) -> Order:
    """The order of a run, in batches as the plan for so many pairs an epoch has them.

    Raises: NothingToLearn, where an epoch would show one pair only.
    """
    drawn = epoch_length(len(first_caption) - 1, weights)
    if weights is not None:
        _check_drawn(drawn)
    return Order(first_caption, plan(drawn, settings, processes).batch, settings.seed, processes, weights)


def check_turns(weights: FloatArray, folds: IntArray) -> None:
    """Raise NothingToLearn if an epoch would show one pair in each turn of a cross-validation."""
    drawn = [epoch_length(int(kept.sum()), weights[kept]) for kept in (folds != n for n in np.unique(folds))]
    _check_drawn(max(drawn))


def _check_drawn(drawn: int) -> None:
    if drawn < FEWEST_DRAWN:
        raise NothingToLearn("with these weights an epoch would show one pair", "Give larger ones with --weight")
