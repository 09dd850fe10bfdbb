"""Small real picture files, made on the spot."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, *, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A picture like no other: a gradient between two colours that `seed` gives, with some noise. `size` is (w, h)."""
    rng = np.random.default_rng(seed)
    ends = [np.array(colorsys.hsv_to_rgb(*rng.random(3))) * 255 for _ in range(2)]
    ramp = np.linspace(0, 1, size[0])[None, :, None]
    pixels = ends[0] * (1 - ramp) + ends[1] * ramp + rng.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def plain(colour: tuple[int, int, int]) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (40, 40), colour)


def fill(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    """Write pictures number first..first+count-1 as JPEGs, ten to a folder. Returns their paths."""
    paths = []
    for number in range(first, first + count):
        path = folder / f"set{number // 10:03d}" / f"p{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path, quality=85)
        paths.append(path)
    return paths
