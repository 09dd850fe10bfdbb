"""Views of pictures: the whole, its mirror image, random crops, random colours. Decodes and resizes, knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from clipsearch.pairs.reading import Pair
from clipsearch.pictures.images import open_picture, prepare, read_picture
from clipsearch.records import PixelArray, Preprocessing

LARGEST_ASPECT_CHANGE = 4 / 3

WHOLE, MIRRORED = 0, 1


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How random views differ: the smallest share of the area that a crop keeps, and the largest change of colour.

    `jitter`: by how much brightness, contrast and saturation change at most: 0.2 is between 0.8 and 1.2 times.
    """

    smallest_crop: float = 0.7
    jitter: float = 0.0


PLAIN = Augmentation()


def view_of(
    pair: Pair,
    view: int,
    seed: int,
    preprocessing: Preprocessing,
    *,
    mirror: bool = True,
    augmentation: Augmentation = PLAIN,
) -> PixelArray:
    """Return one view of a picture, as an encoder takes it.

    View 0 is what is indexed, 1 its mirror image, every further one a random crop, every other time mirrored; the
    same `seed` gives the same one. Without `mirror`, nothing is mirrored, and view 1 is a random crop, too.
    Shape: (H, W, 3) uint8. Raises: UnreadablePicture.
    """
    name, content = pair.source.name, pair.read()
    if view == WHOLE or (view == MIRRORED and mirror):
        pixels = read_picture(name, preprocessing, content_hash=False, content=content).pixels
        return pixels if view == WHOLE else np.ascontiguousarray(pixels[:, ::-1])
    random = np.random.default_rng((seed, view))
    longest = 4 * max(preprocessing.height, preprocessing.width)
    image = open_picture(name, longest=longest, content=content)
    image = image.crop(_random_box(image.size, augmentation.smallest_crop, random))
    mirrored = random.random() < 0.5 and mirror
    if augmentation.jitter:
        image = _recoloured(image, augmentation.jitter, random)
    pixels = prepare(image, preprocessing)
    return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels


def _recoloured(image: Image.Image, jitter: float, random: np.random.Generator) -> Image.Image:
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(random.uniform(max(0.0, 1 - jitter), 1 + jitter))
    return image


def _random_box(size: tuple[int, int], smallest_crop: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop, in pixels."""
    width, height = size
    area = random.uniform(smallest_crop, 1.0)
    change = np.exp(random.uniform(-1, 1) * np.log(LARGEST_ASPECT_CHANGE) / 2)
    crop_width = max(1, min(width, round(width * area**0.5 * change)))
    crop_height = max(1, min(height, round(height * area**0.5 / change)))
    left = int(random.integers(0, width - crop_width + 1))
    top = int(random.integers(0, height - crop_height + 1))
    return left, top, left + crop_width, top + crop_height
