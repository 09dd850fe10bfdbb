"""Checks on what goes into an encoder and what comes out. numpy only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.errors import InvalidModel
from clipsearch.records import FloatArray, PixelArray, Preprocessing

SMALLEST_NORM = 1e-12


def check_pixels(pixels: PixelArray, preprocessing: Preprocessing) -> None:
    """Raise ValueError unless pixels is (B, H, W, 3) uint8 of the size that the model takes."""
    expected = (preprocessing.height, preprocessing.width, 3)
    shape = getattr(pixels, "shape", None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or shape is None or shape[1:] != expected:
        kind = f"{pixels.dtype} {shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"pixels must be uint8 (B, {expected[0]}, {expected[1]}, 3), got {kind}")


def scale_pixels(pixels: PixelArray, preprocessing: Preprocessing) -> FloatArray:
    """(x / 255 - mean) / std as one multiplication and one addition.

    Shapes: pixels (B, H, W, 3) uint8; result (B, 3, H, W) float32, C-contiguous.
    """
    count, height, width, _ = pixels.shape
    scaled = np.empty((count, 3, height, width), dtype=np.float32)
    for channel in range(3):
        mean, std = preprocessing.mean[channel], preprocessing.std[channel]
        plane = scaled[:, channel]
        np.multiply(pixels[..., channel], np.float32(1 / (255 * std)), out=plane)
        plane -= np.float32(mean / std)
    return scaled


def unit_rows(raw: npt.NDArray[np.generic], count: int, dim: int, model: Path, tower: str) -> FloatArray:
    """Normalise what a tower returned. Shapes: raw (count, dim) of any float type; result float32, unit L2.

    Raises: InvalidModel for another shape, and for rows that are not finite or have no length: stored, they
    would be found by every query or by none.
    """
    check_width(raw.shape, count, dim, model, tower)
    rows = raw.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    check_norms(norms[:, 0], model, tower)
    vectors: FloatArray = (rows / norms).astype(np.float32)
    return vectors


def check_width(shape: tuple[int, ...], count: int, dim: int, model: Path, tower: str) -> None:
    """Raise InvalidModel unless a tower returned (count, dim)."""
    if tuple(shape) != (count, dim):
        raise InvalidModel(
            model, f"its {tower} tower returned vectors of shape {tuple(shape)} where {(count, dim)} was expected"
        )


def check_norms(norms: npt.NDArray[np.float64], model: Path, tower: str) -> None:
    """Raise InvalidModel for lengths (B,) of what cannot be made unit vectors."""
    usable = np.isfinite(norms) & (norms > SMALLEST_NORM)
    if not usable.all():
        index = int(np.argmin(usable))
        problem = "a zero vector" if np.isfinite(norms[index]) else "numbers that are not finite"
        raise InvalidModel(model, f"its {tower} tower returned {problem} for input {index + 1} of {len(norms)}")
