"""Small real picture files, made on the spot."""

from __future__ import annotations

import colorsys
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


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
        path.write_bytes(_jpeg(number))
        paths.append(path)
    return paths


@lru_cache(maxsize=256)  # the same few are written by hundreds of tests
def _jpeg(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "JPEG", quality=85)
    return file.getvalue()


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Something like a photo: soft shapes of all sizes, sharp edges, grain."""
    return _scene(seed, size).copy()


@lru_cache(maxsize=128)
def _scene(seed: int, size: tuple[int, int]) -> Image.Image:
    generator = np.random.default_rng(seed)
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 25, 50, 100):
        noise = generator.standard_normal((cells, cells, 3)).astype(np.float32) * 400 / cells**0.9
        parts = [Image.fromarray(noise[..., channel]).resize(size, Image.Resampling.BICUBIC) for channel in range(3)]
        total += np.stack([np.asarray(part) for part in parts], axis=2)
    total = 128 + total * 45 / total.std() + generator.standard_normal(total.shape) * 4
    image = Image.fromarray(total.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = int(generator.integers(0, width - 60)), int(generator.integers(0, height - 60))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        draw.rectangle((x, y, x + 40, y + 30), fill=colour)
    return image
