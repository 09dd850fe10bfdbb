"""Parts of pictures, named as W3C media fragments name them: `photo.jpg#xywh=10,20,300,200`, `#xywh=percent:5,5,50,50`.

Coordinates are of the upright picture, from its left upper corner. Knows no picture: a crop becomes pixels where the
size is known.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from clipsearch.errors import InvalidQuery
from clipsearch.places import is_file
from clipsearch.query import MARK

HOW = "write xywh=X,Y,WIDTH,HEIGHT in pixels, or xywh=percent:X,Y,WIDTH,HEIGHT"
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_CROP = re.compile(rf"(pixel:|percent:|)({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})")
_SLACK = 0.01  # percent, for numbers that were rounded


class OutsidePicture(ValueError):
    """A crop of which nothing, or not all, is in its picture."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture: its left upper corner and its size, in pixels or in percent of the picture."""

    x: float
    y: float
    width: float
    height: float
    in_percent: bool = False

    def __str__(self) -> str:
        numbers = ",".join(f"{number:.9f}".rstrip("0").rstrip(".") for number in self._numbers)
        return f"percent:{numbers}" if self.in_percent else numbers

    @property
    def _numbers(self) -> tuple[float, float, float, float]:
        return self.x, self.y, self.width, self.height

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of an upright picture of `size`. Raises: OutsidePicture.

        At least one pixel: a tenth of a percent of a small picture is less.
        """
        left, right = _span(self.x, self.width, size[0], self.in_percent)
        top, bottom = _span(self.y, self.height, size[1], self.in_percent)
        if left < 0 or top < 0:
            raise OutsidePicture(f"xywh={self} is not inside the picture, which is {size[0]} x {size[1]} pixels")
        return left, top, right, bottom


def _span(start: float, length: float, of: int, in_percent: bool) -> tuple[int, int]:
    """From which pixel to which; (-1, -1) for what is not inside."""
    if in_percent:
        if start >= 100 or start + length > 100 + _SLACK:
            return -1, -1
        start, length = start * of / 100, length * of / 100
    first = min(math.floor(start + 0.5), of - 1 if in_percent else of)
    last = max(first + 1, math.floor(start + length + 0.5))
    if in_percent:
        last = min(last, of)
    return (first, last) if last <= of else (-1, -1)


def read_crop(value: str) -> Crop:
    """The crop that is written behind `xywh=`. Raises: InvalidQuery."""
    match = _CROP.fullmatch(value)
    if match is None:
        raise InvalidQuery(f"xywh={value} is not a part of a picture: {HOW}")
    x, y, width, height = map(float, match.groups()[1:])
    crop = Crop(x, y, width, height, in_percent=match[1] == "percent:")
    if not crop.width or not crop.height:
        raise InvalidQuery(f"xywh={value} is empty: its width and height must be more than 0")
    return crop


def split_crop(name: str) -> tuple[str, Crop | None]:
    """What is before `#xywh=`, and the part of it that is named; all of `name` where no part is.

    Raises: InvalidQuery for a part that cannot be understood.
    """
    whole, mark, value = name.rpartition(MARK)
    return (whole, read_crop(value)) if mark and whole else (name, None)


def picture_file(name: str) -> tuple[str, Crop | None]:
    """The path of a picture, and the part of it that is meant. A file that has all of `name` as its name comes first.

    Raises: InvalidQuery, as `split_crop`.
    """
    return (name, None) if MARK not in name or is_file(name) else split_crop(name)


def is_picture_file(name: str) -> bool:
    """Whether a name is that of a file, or of a part of one. Any text may be asked about."""
    return is_file(name) or (MARK in name and is_file(name.rpartition(MARK)[0]))
