"""Where in one picture a query matches: a map of cosines, the place where it is highest, and a box around that.

Measured by `benchmarks/pointing.py`; docs/where.md says what it can and cannot do. A tower that averages features over
the picture (see `encoder.dense`) gives vectors of places at once; any other encodes crops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Encoder
from clipsearch.errors import NotDense
from clipsearch.pictures.heatmap import DIGITS, HeatMap
from clipsearch.records import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 2048  # of the picture that is looked at
DENSE_SIDES = (2.0, 3.0)  # times the side that the model takes
STRIDE = 32  # of the features of convolutional towers; sides are its multiples
CROPS = (1 / 2, 1 / 3, 1 / 4)  # of the picture's sides, overlapping by half
CELLS = 48  # of a map, along the longer side


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
    return HeatMap(np.round(scores, DIGITS), width, height, by)


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
