"""Views of pictures: the whole, its mirror image, random crops. Decodes and resizes, knows no model."""

from __future__ import annotations

import numpy as np

from clipsearch.pairs.reading import Pair
from clipsearch.pictures.images import open_picture, prepare, read_picture
from clipsearch.records import PixelArray, Preprocessing

SMALLEST_CROP = 0.7  # of the area
LARGEST_ASPECT_CHANGE = 4 / 3

WHOLE, MIRRORED = 0, 1


def view_of(pair: Pair, view: int, seed: int, preprocessing: Preprocessing) -> PixelArray:
    """Return one view of a picture, as an encoder takes it.

    View 0 is what is indexed, 1 its mirror image, every further one a random crop, every other time mirrored; the
    same `seed` gives the same one. Shape: (H, W, 3) uint8. Raises: UnreadablePicture.
    """
    name, content = pair.source.name, pair.read()
    if view in (WHOLE, MIRRORED):
        pixels = read_picture(name, preprocessing, content_hash=False, content=content).pixels
        return pixels if view == WHOLE else np.ascontiguousarray(pixels[:, ::-1])
    random = np.random.default_rng((seed, view))
    longest = 4 * max(preprocessing.height, preprocessing.width)
    image = open_picture(name, longest=longest, content=content)
    pixels = prepare(image.crop(_random_box(image.size, random)), preprocessing)
    return np.ascontiguousarray(pixels[:, ::-1]) if random.random() < 0.5 else pixels


def _random_box(size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop, in pixels."""
    width, height = size
    area = random.uniform(SMALLEST_CROP, 1.0)
    change = np.exp(random.uniform(-1, 1) * np.log(LARGEST_ASPECT_CHANGE) / 2)
    crop_width = max(1, min(width, round(width * area**0.5 * change)))
    crop_height = max(1, min(height, round(height * area**0.5 / change)))
    left = int(random.integers(0, width - crop_width + 1))
    top = int(random.integers(0, height - crop_height + 1))
    return left, top, left + crop_width, top + crop_height
