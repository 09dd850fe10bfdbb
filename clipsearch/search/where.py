"""Where in one picture a query matches: a map of cosines, the place where it is highest, and a box around that.

Measured by `benchmarks/pointing.py`; docs/where.md says what it can and cannot do. A tower that averages features over
the picture (see `encoder.dense`) gives vectors of places at once; any other encodes crops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Encoder
from clipsearch.errors import NotDense
from clipsearch.records import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 2048  # of the picture that is looked at
DENSE_SIDES = (2.0, 3.0)  # times the side that the model takes
STRIDE = 32  # of the features of convolutional towers; sides are its multiples
CROPS = (1 / 2, 1 / 3, 1 / 4)  # of the picture's sides, overlapping by half
CELLS = 48  # of a map, along the longer side
_RISE = 0.5  # a box holds what is above this share of the way from the middle of all to the highest


@dataclass(frozen=True)
class HeatMap:
    """Where in a picture a query matches. Coordinates are pixels of the upright picture, `width` by `height`.

    `scores`: shape (rows, columns), cosines, spread evenly over the picture. `by`: what they were made with.
    """

    scores: FloatArray
    width: int
    height: int
    by: Literal["features", "crops"]

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
        """As `clipsearch where --json` prints it."""
        return {
            "width": self.width,
            "height": self.height,
            "box": list(self.box),
            "fragment": self.fragment,
            "peak": list(self.peak),
            "score": round(self.score, 6),
            "by": self.by,
            "scores": [[round(float(score), 4) for score in row] for row in self.scores],
        }

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


def find_where(encoder: Encoder, vector: FloatArray, image: Image, size: tuple[int, int] | None = None) -> HeatMap:
    """Where in an upright picture a vector, shape (D,), matches. `size`: of the picture that `image` is a copy of.

    Raises: InvalidModel.
    """
    longer = max(image.size)
    shape = tuple(max(4, round(CELLS * side / longer)) for side in (image.height, image.width))
    by: Literal["features", "crops"] = "features"
    scores = _by_features(encoder, vector, image, (shape[0], shape[1]))
    if scores is None:
        by, scores = "crops", _by_crops(encoder, vector, image, (shape[0], shape[1]))
    width, height = size or image.size
    return HeatMap(scores, width, height, by)


def _by_features(encoder: Encoder, vector: FloatArray, image: Image, shape: tuple[int, int]) -> FloatArray | None:
    """A map from the features of places; None where the tower has none."""
    from clipsearch.pictures.heat import spread

    try:
        tower = encoder.dense_tower()
        if tower is None:
            return None
        maps = []
        for times in DENSE_SIDES:
            features = tower.features(_whole(image, encoder, times))
            rows, columns, _ = features.shape
            around = _neighbourhoods(features).reshape(rows * columns, -1)
            maps.append(spread((tower.vectors(around) @ vector).reshape(rows, columns), shape))
    except NotDense:
        return None
    total: FloatArray = np.mean(maps, axis=0, dtype=np.float32)
    return total


def _whole(image: Image, encoder: Encoder, times: float) -> npt.NDArray[np.uint8]:
    """All of a picture, larger than the model takes one. Shape: (H, W, 3) uint8, sides multiples of STRIDE."""
    from clipsearch.pictures.heat import squeezed

    takes = encoder.preprocessing
    width, height = takes.width * times, takes.height * times
    if takes.resize_mode != "squash":
        stretched = math.sqrt(image.width / image.height)
        width, height = width * stretched, height / stretched
    sides = (max(STRIDE, STRIDE * round(width / STRIDE)), max(STRIDE, STRIDE * round(height / STRIDE)))
    return squeezed(image, sides)


def _neighbourhoods(features: FloatArray) -> FloatArray:
    """The mean of each place and those beside it. Shape: (h, w, C), as features."""
    rows, columns, _ = features.shape
    padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
    counts = np.pad(np.ones((rows, columns, 1), np.float32), ((1, 1), (1, 1), (0, 0)))
    spans = [(y, x) for y in range(3) for x in range(3)]
    total = sum(padded[y : y + rows, x : x + columns] for y, x in spans)
    weight = sum(counts[y : y + rows, x : x + columns] for y, x in spans)
    return np.asarray(total / weight, dtype=np.float32)


def _by_crops(encoder: Encoder, vector: FloatArray, image: Image, shape: tuple[int, int]) -> FloatArray:
    """A map from windows of three sizes, each spread around its middle."""
    from clipsearch.pictures.images import prepare

    maps = []
    for share in CROPS:
        boxes = list(_windows(image.size, share))
        vectors = []
        step = encoder.pictures_per_call
        for start in range(0, len(boxes), step):
            pixels = [prepare(image.crop(_rounded(box)), encoder.preprocessing) for box in boxes[start : start + step]]
            vectors.append(encoder.encode_images(np.stack(pixels)))
        scores = np.concatenate(vectors) @ vector
        total, weight = np.zeros(shape), np.zeros(shape)
        for box, score in zip(boxes, scores, strict=True):
            near = np.outer(
                _bell(box[1] / image.height, box[3] / image.height, shape[0]),
                _bell(box[0] / image.width, box[2] / image.width, shape[1]),
            )
            total += score * near
            weight += near
        maps.append(total / weight)
    mean: FloatArray = np.mean(maps, axis=0).astype(np.float32)
    return mean


def _windows(size: tuple[int, int], share: float) -> Iterator[tuple[float, float, float, float]]:
    """Boxes of a share of both sides that cover a picture, overlapping by half."""
    count = round(2 / share) - 1
    width, height = size[0] * share, size[1] * share
    for row in range(count):
        for column in range(count):
            left, top = column * (size[0] - width) / (count - 1), row * (size[1] - height) / (count - 1)
            yield left, top, left + width, top + height


def _rounded(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _bell(start: float, end: float, cells: int) -> npt.NDArray[np.float64]:
    """How near each of some cells is to the middle of a span, which is four standard deviations wide."""
    middles = (np.arange(cells) + 0.5) / cells
    near: npt.NDArray[np.float64] = np.exp(-0.5 * ((middles - (start + end) / 2) / ((end - start) / 4)) ** 2)
    return near
