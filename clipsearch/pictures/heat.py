"""Maps over pictures: numbers of places made larger, and drawn."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from clipsearch.records import FloatArray, PixelArray

_OPACITY = 0.6


def squeezed(image: Image.Image, size: tuple[int, int]) -> PixelArray:
    """All of a picture in another size, (width, height). Shape: (H, W, 3) uint8."""
    return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)


def spread(scores: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Numbers of places, interpolated to (rows, columns)."""
    resized = Image.fromarray(scores.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32)


def drawn(image: Image.Image, heat: FloatArray, box: tuple[float, float, float, float] | None) -> Image.Image:
    """A picture with a map (rows, columns) of 0..1 over it, and a frame around left, top, right and bottom."""
    levels = Image.fromarray((255 * heat).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colours = levels.convert("P")
    colours.putpalette([channel for level in range(256) for channel in _colour(level / 255)])
    opacity = levels.point([int(_OPACITY * level) for level in range(256)])
    shown = Image.composite(colours.convert("RGB"), image.convert("RGB"), opacity)
    if box is not None:
        line = max(1, round(min(image.size) / 150))
        draw = ImageDraw.Draw(shown)
        draw.rectangle(box, outline="black", width=2 * line)
        draw.rectangle(box, outline="white", width=line)
    return shown


def _colour(level: float) -> tuple[int, int, int]:
    """From blue over red to yellow."""
    return round(255 * min(1.0, 2 * level)), round(255 * max(0.0, 2 * level - 1)), round(255 * max(0.0, 1 - 2 * level))
