"""Whether two pictures are versions of one: compared point by point, whatever was saved, shrunk or made lighter.

Three steps, each for what passed the one before: the whole picture on a grid of 16 by 16; its parts, in grey and in
colours, at 256 by 256 points; and its details, at up to 2048 by 2048. What differs there may be a word in a letter, a
sum in an invoice or a bird in the sky.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.images import Beside, PictureFile
from clipsearch.records import FloatArray, PixelArray, Preprocessing

SAME_CORRELATION = 0.97
_GRID = 16
_SIDE = 256

# Parts are compared in as many points a side as the smaller picture has to offer.
# shorter side of the smaller picture from, points, what differs by less is the same
_POINTS = ((512, 256, 0.10), (256, 128, 0.12), (112, 64, 0.20), (0, 32, 0.20))
_PARTS = 8  # a side
_CONTRAST = 12.0  # grey levels: parts with less are even
_MOST_DIFFERENT = 0.38
_FULL = 250  # of 255: a colour at its limit does not become lighter
_EXCUSED = 0.1
_MOST_UNEVEN = 3.2  # the most different part against the median one

_COLOUR_PARTS = 16  # a side
_MOST_COLOURED = 10.0  # levels between colours, by which a part may differ
_MOST_RECOLOURED = 0.2  # of its own colour, beside that

_MOST_POINTS = 2048
_LEAST_POINTS = 256
_DETAIL = 16  # points a side
_MOST_CHANGED = 0.5
_MOST_OUTSTANDING = 2.6  # the most different detail against all but a twentieth of them
_DETAILS_KEPT = 16  # of at most 8 MB
_NOISE = 0.03
"""Of 60 photographs and works of art of 256 to 1,024 pixels, 12 versions each (JPEG, WebP and AVIF of quality 30 to 75,
a third to twice the size, lighter, darker, other gamma), no detail of the 11 that are not shrunk by leaving out pixels
differs by more than 0.50, nor stands out by more than 2.5. Where a square of 3 % of the shorter side was replaced by
another part of the picture, 9 of 10 are beyond, and all pages of 827 to 2,480 pixels with one other digit."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is compared of a picture. `peak`: the strongest of red, green and blue. Shapes: grid (768,) float32, unit
    length or zero; grey, peak (256, 256) uint8; colours (2, 64, 64) float32, red and blue against green."""

    grid: FloatArray
    grey: PixelArray
    peak: PixelArray
    colours: FloatArray
    sharpness: float
    size: tuple[int, int]
    beside: Beside

    @property
    def colourfulness(self) -> float:
        """How far its colours are from grey, in the mean, in levels."""
        return float(np.abs(self.colours).mean())

    def is_same(self, other: Look) -> bool:
        """Whether both show the same, as far as 256 by 256 points tell."""
        if float(self.grid @ other.grid) < SAME_CORRELATION:
            return False
        shorter = min(*self.size, *other.size)
        points, least = next((points, least) for side, points, least in _POINTS if shorter >= side)
        return _parts_are_same(self, other, points, least)


def look_at(path: str) -> Look | None:
    """A picture as it is compared; None if it cannot be read."""
    try:
        with PictureFile(path) as file:
            picture = file.decode(_squashed(_SIDE))
            beside = file.beside()
    except (UnreadablePicture, OSError):
        return None
    pixels = picture.pixels.astype(np.float32)
    cell = _SIDE // _GRID
    grid = pixels.reshape(_GRID, cell, _GRID, cell, 3).mean(axis=(1, 3)).reshape(-1)
    grid -= grid.mean()
    length = float(np.linalg.norm(grid))
    grey = pixels.mean(axis=2)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return Look(
        grid / length if length > 1e-3 else np.zeros_like(grid),
        grey.astype(np.uint8),
        np.maximum(np.maximum(*np.moveaxis(picture.pixels[..., :2], 2, 0)), picture.pixels[..., 2]),
        _colours(pixels),
        float(laplacian.var()),
        (picture.width, picture.height),
        beside,
    )


class Details:
    """Compares what only many points show. The last pictures are kept: pairs of one group follow each other."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], tuple[PixelArray, PixelArray] | None] = OrderedDict()

    def are_same(self, one_path: str, two_path: str, shorter: int) -> bool:
        """Whether no detail of one picture differs from that of another. `shorter`: the shorter side of the smaller
        one, in pixels, which says how small a detail may be."""
        points = min(_MOST_POINTS, 1 << int(math.log2(max(shorter, _LEAST_POINTS))))
        one, two = self._points_of(one_path, points), self._points_of(two_path, points)
        if one is None or two is None:
            return False
        x, y = one[0].astype(np.float32), two[0].astype(np.float32)
        told, rest, _ = _difference(x, y, one[1] >= _FULL, two[1] >= _FULL)
        cells = points // _DETAIL
        contrast = np.maximum(_cut(told, cells).std(axis=1), _cut(y, cells).std(axis=1))
        left = _cut(rest, cells).std(axis=1) / (contrast + _CONTRAST)
        uneven = left[contrast > _CONTRAST / 2]
        usual = float(np.quantile(uneven if len(uneven) >= _PARTS else left, 0.95))
        return float(left.max()) <= min(_MOST_CHANGED, _MOST_OUTSTANDING * (usual + _NOISE))

    def _points_of(self, path: str, points: int) -> tuple[PixelArray, PixelArray] | None:
        """Grey, and the strongest of red, green and blue; None if it cannot be read. Shapes: (P, P) uint8 each."""
        key = path, points
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found: tuple[PixelArray, PixelArray] | None = None
        try:
            with PictureFile(path) as file:
                pixels = file.decode(_squashed(points)).pixels
            found = pixels.mean(axis=2, dtype=np.float32).round().astype(np.uint8), pixels.max(axis=2)
        except (UnreadablePicture, OSError):
            pass
        self._kept[key] = found
        if len(self._kept) > _DETAILS_KEPT:
            self._kept.popitem(last=False)
        return found


def _squashed(side: int) -> Preprocessing:
    return Preprocessing(side, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")


def _colours(pixels: FloatArray) -> FloatArray:
    """Red and blue against green, of 64 by 64 means. Shapes: pixels (256, 256, 3); result (2, 64, 64)."""
    cell = _SIDE // (4 * _COLOUR_PARTS)
    means = pixels.reshape(_SIDE // cell, cell, _SIDE // cell, cell, 3).mean(axis=(1, 3))
    against: FloatArray = np.stack([means[..., 0] - means[..., 1], means[..., 2] - means[..., 1]])
    return against


def _difference(
    x: FloatArray, y: FloatArray, x_full: np.ndarray, y_full: np.ndarray
) -> tuple[FloatArray, FloatArray, float]:
    """The second picture as told from the first by a gain and an offset, as far as no colour of either is at its limit;
    what is left between; and the gain. Shapes: (P, P) each."""
    inside = ~(x_full | y_full) & (np.minimum(x, y) > 255 - _FULL)
    if np.count_nonzero(inside) < len(x):
        inside = np.ones_like(inside)
    x_mean, y_mean = x[inside].mean(), y[inside].mean()
    variance = float(np.mean((x[inside] - x_mean) ** 2))
    gain = float(np.mean((x[inside] - x_mean) * (y[inside] - y_mean))) / variance if variance > 1e-3 else 1.0
    told = np.clip(gain * (x - x_mean) + y_mean, 0, 255)
    rest = told - y
    rest[(y_full & (rest > 0)) | (x_full & (rest < 0))] *= _EXCUSED
    return told, rest, gain


def _cut(grey: FloatArray, parts: int) -> FloatArray:
    """The parts of a picture. Shapes: grey (P, P); result (parts * parts, points of a part)."""
    length = len(grey) // parts
    return grey.reshape(parts, length, parts, length).swapaxes(1, 2).reshape(parts * parts, -1)


def _parts_are_same(one: Look, two: Look, points: int, least: float) -> bool:
    """Whether no part of one picture differs from that of another by more than saving, shrinking and exposure explain.

    What is left of each part, against the contrast there, must be small, or not much more than in other parts: saving
    takes something everywhere, a change only where it is.
    """
    cells = points, _SIDE // points, points, _SIDE // points
    x, y = (look.grey.reshape(cells).mean(axis=(1, 3), dtype=np.float32) for look in (one, two))
    x_full, y_full = (look.peak.reshape(cells).max(axis=(1, 3)) >= _FULL for look in (one, two))
    told, rest, gain = _difference(x, y, x_full, y_full)
    contrast = np.maximum(_cut(told, _PARTS).std(axis=1), _cut(y, _PARTS).std(axis=1))
    left = np.sqrt(np.mean(_cut(rest, _PARTS) ** 2, axis=1)) / (contrast + _CONTRAST)
    most = float(left.max())
    uneven = contrast > _CONTRAST / 2
    usual = float(np.median(left[uneven] if np.count_nonzero(uneven) >= 4 else left))
    if not (most <= least or (most <= _MOST_DIFFERENT and most <= _MOST_UNEVEN * (usual + 0.01))):
        return False
    return _colours_are_same(one, two, gain)


def _colours_are_same(one: Look, two: Look, gain: float) -> bool:
    """Whether each part of one picture has the colours of that of another, in the mean of the points whose colours are
    not at their limit, where they shift."""
    side = one.colours.shape[1]
    cell = _SIDE // side
    full = (one.peak >= _FULL) | (two.peak >= _FULL)
    is_full = full.reshape(side, cell, side, cell).any(axis=(1, 3))
    is_free = np.where(is_full, 0.0, 1.0).astype(np.float32)
    free = _cut(is_free, _COLOUR_PARTS)
    weights = free / np.maximum(free.sum(axis=1, keepdims=True), 1)
    for x, y in zip(one.colours, two.colours, strict=True):
        told, seen = gain * _mean_of(x, weights), _mean_of(y, weights)
        allowed = _MOST_COLOURED + _MOST_RECOLOURED * np.maximum(np.abs(told), np.abs(seen))
        if (np.abs(told - seen) > allowed).any():
            return False
    return True


def _mean_of(colour: FloatArray, weights: FloatArray) -> FloatArray:
    mean: FloatArray = np.sum(_cut(colour, _COLOUR_PARTS) * weights, axis=1)
    return mean
