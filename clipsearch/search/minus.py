"""What a query takes away: `horse -people` asks for horses, and each hit is judged by both.

The order is by the difference of the vectors, which keeps what is not wanted out best. What the difference scores says
nothing of how sure a hit is, however: the calibration was fitted on what is asked for, not on differences. So a hit is
as likely as it shows what is asked for, times as likely as it does not show what is not wanted. docs/confidence.md has
the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipsearch.records import FloatArray

if TYPE_CHECKING:
    from clipsearch.search.confidence import DoubleArray, QueryKind

ODDS_BESIDE = 8.0
"""How much likelier something is where the thing is that it is taken from, than its own confidence says: who writes
`horse -people` knows that the two are often seen together. Measured by `scripts/evaluate_minus.py`."""
LEAST_ABSENT = 0.8
"""A hit is left out where what is not wanted is likelier to be there than this leaves. Where nothing else is asked for,
what a query for it would show is left out."""


@dataclass(frozen=True, slots=True)
class VectorOf:
    """A term of a query as it is searched with. Shape: vector (D,) float32, unit L2."""

    vector: FloatArray
    weight: float
    kind: QueryKind


@dataclass(frozen=True, slots=True)
class Unwanted:
    """Something that is taken away. `share`, 0 to 1: how much it counts beside what is asked for, by its weight."""

    vector: FloatArray
    kind: QueryKind
    share: float


def unwanted_of(terms: Sequence[VectorOf], *, of_vector: bool = False) -> tuple[Unwanted, ...]:
    """What is taken away. `of_vector`: a vector is asked for beside the terms, with a weight of 1."""
    away = [term for term in terms if term.weight < 0]
    asked = [term.weight for term in terms if term.weight > 0] + [1.0] * of_vector
    most = max(asked) if asked else max((-term.weight for term in away), default=1.0)
    return tuple(Unwanted(term.vector, term.kind, min(1.0, -term.weight / most)) for term in away)


def absence(chances: DoubleArray, share: float, *, beside: bool) -> DoubleArray:
    """How likely hits do not show something, 0 to 1, of how likely each would be a hit for it by itself. Shapes: (K,).

    `beside`: something else is asked for. A share below 1 moves it towards 1, which says nothing.
    """
    odds = ODDS_BESIDE if beside else 1.0
    absent: DoubleArray = ((1 - chances) / (1 - chances + odds * chances)) ** share
    return absent


def stays(chances: DoubleArray, share: float, *, beside: bool, maybe: float) -> npt.NDArray[np.bool_]:
    """Which hits are not left out because of something, of how likely each would be a hit for it. Shapes: (K,).

    `maybe`: from what confidence on a query for it shows hits.
    """
    kept: npt.NDArray[Any] = absence(chances, share, beside=beside) >= (LEAST_ABSENT if beside else 1 - maybe)
    return kept
