"""`FakeEncoder`: a deterministic encoder of colours and gradients, for tests that need no real model.

A picture's features are its mean colour and how its colours change along both axes, put through a fixed random
projection; a colour word becomes the vector of a plain picture of that colour, so "red" finds red pictures.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from clipsearch.encoder import BaseEncoder
from clipsearch.records import FloatArray, PixelArray, Preprocessing

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "gray": (128, 128, 128),
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (30, 60, 220),
    "yellow": (235, 220, 40),
    "orange": (240, 140, 30),
    "purple": (130, 40, 160),
    "pink": (245, 150, 190),
    "brown": (120, 75, 35),
    "cyan": (30, 210, 220),
}
_FEATURES = 10  # colour and its change along both axes (3 each), contrast


class FakeEncoder(BaseEncoder):
    """Implements `clipsearch.encoder.Encoder`. Counts its calls, so that a test can see what was encoded."""

    def __init__(self, dim: int = 64, *, size: int = 32, seed: int = 0, name: str = "fake") -> None:
        self.dim = dim
        self.name = name
        self.score_scale = 100.0
        self.fingerprint = f"{zlib.crc32(f'{dim} {size} {seed}'.encode()):08x}" * 4
        self.preprocessing = Preprocessing(height=size, width=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.images_encoded = 0
        self.texts_encoded = 0
        generator = np.random.default_rng(seed)
        self._projection = generator.standard_normal((_FEATURES, dim)).astype(np.float32)

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Shapes: pixels (B, H, W, 3) uint8; result (B, D) float32, unit L2."""
        expected = (self.preprocessing.height, self.preprocessing.width, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
            raise ValueError(f"pixels must be uint8 (B, {expected}), got {pixels.dtype} {pixels.shape}")
        self.images_encoded += len(pixels)
        scaled = pixels.astype(np.float32) / 127.5 - 1
        colour = scaled.mean(axis=(1, 2))
        half_h, half_w = expected[0] // 2, expected[1] // 2
        down = (scaled[:, half_h:].mean(axis=(1, 2)) - scaled[:, :half_h].mean(axis=(1, 2))) / 2
        right = (scaled[:, :, half_w:].mean(axis=(1, 2)) - scaled[:, :, :half_w].mean(axis=(1, 2))) / 2
        contrast = scaled.std(axis=(1, 2)).mean(axis=1, keepdims=True) / 2
        return self._vectors(np.concatenate([colour, down, right, contrast], axis=1))

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Mean of the colours a text names; a text that names none gets features of its own hash."""
        self.texts_encoded += len(texts)
        features = np.zeros((len(texts), _FEATURES), dtype=np.float32)
        for row, text in zip(features, texts, strict=True):
            named = [COLOURS[word] for word in text.lower().split() if word in COLOURS]
            if named:
                row[:3] = np.mean(named, axis=0) / 127.5 - 1
            else:
                row[:] = np.random.default_rng(zlib.crc32(text.encode("utf-8", "replace"))).standard_normal(_FEATURES)
        return self._vectors(features)

    def _vectors(self, features: FloatArray) -> FloatArray:
        raw = features.astype(np.float32) @ self._projection + 1e-3
        vectors: FloatArray = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        return vectors


def plain_pixels(colour: str, size: int = 32) -> PixelArray:
    """One picture of one colour. Shape: (size, size, 3) uint8."""
    return np.full((size, size, 3), COLOURS[colour], dtype=np.uint8)
