"""A map of where in a picture a query matches, and the box that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.records import Band, FloatArray, told_confidence

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS = 4  # of the scores of a map, so that what is told of it is all of it
_RISE = 0.5  # a box holds what is above this share of the way from the middle of all to the highest


@dataclass(frozen=True)
class HeatMap:
    """Where in a picture a query matches. Coordinates are pixels of the upright picture, `width` by `height`.

    `scores`: shape (rows, columns), cosines, spread evenly over the picture. `by`: what they were made with.
    `confidence`: how likely the picture shows it at all, and `band` the word for that, as for hits; None where no index
    knows the picture.
    """

    scores: FloatArray
    width: int
    height: int
    by: Literal["features", "crops"]
    confidence: float | None = None
    band: Band | None = None

    @cached_property
    def _highest(self) -> tuple[int, int]:
        row, column = np.unravel_index(int(np.argmax(self.scores)), self.scores.shape)
        return int(row), int(column)

    @property
    def score(self) -> float:
        """The highest cosine."""
        return float(self.scores[self._highest])

    @property
    def peak(self) -> tuple[int, int]:
        """Where it is: x, y."""
        row, column = self._highest
        rows, columns = self.scores.shape
        return int((column + 0.5) * self.width / columns), int((row + 0.5) * self.height / rows)

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of what is high around the peak."""
        low, high = float(np.median(self.scores)), self.score
        inside = _around(self.scores >= low + _RISE * (high - low), self._highest)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        high_cells, wide_cells = self.scores.shape
        left, right = (round(at * self.width / wide_cells) for at in (columns[0], columns[-1] + 1))
        top, bottom = (round(at * self.height / high_cells) for at in (rows[0], rows[-1] + 1))
        return left, top, max(1, right - left), max(1, bottom - top)

    @property
    def fragment(self) -> str:
        """The box as queries take it: "#xywh=10,20,300,200", to be put behind the path of the picture."""
        return "#xywh=" + ",".join(map(str, self.box))

    def to_dict(self) -> dict[str, Any]:
        """The map in the words of every answer: JSON, HTTP (docs/where.md)."""
        return {
            "width": self.width,
            "height": self.height,
            "box": list(self.box),
            "fragment": self.fragment,
            "peak": list(self.peak),
            "score": round(self.score, 6),
            "by": self.by,
            "confidence": None if self.confidence is None else told_confidence(self.confidence),
            "band": self.band,
            "scores": [[round(float(score), DIGITS) for score in row] for row in self.scores],
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> HeatMap:
        """The map that `to_dict` told. Raises: KeyError, TypeError, ValueError."""
        scores = np.array(body["scores"], np.float32)
        if scores.ndim != 2 or not scores.size:
            raise ValueError("no map")
        return cls(scores, body["width"], body["height"], body["by"], body["confidence"], body["band"])

    def over(self, image: Image, *, box: bool = True) -> Image:
        """A picture with the map, and its box, drawn over it."""
        from clipsearch.pictures.heat import drawn

        low, high = float(np.median(self.scores)), self.score
        heat = np.clip((self.scores - low) / max(high - low, 1e-6), 0, 1)
        left, top, width, height = self.box
        scale_x, scale_y = image.width / self.width, image.height / self.height
        edges = (left * scale_x, top * scale_y, (left + width) * scale_x - 1, (top + height) * scale_y - 1)
        right, bottom = max(edges[0], edges[2]), max(edges[1], edges[3])
        return drawn(image, heat, (edges[0], edges[1], right, bottom) if box else None)


def _around(inside: npt.NDArray[np.bool_], at: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The cells that hang together with one."""
    found = np.zeros_like(inside)
    found[at] = True
    while True:
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        grown &= inside
        if (grown == found).all():
            return found
        found = grown
