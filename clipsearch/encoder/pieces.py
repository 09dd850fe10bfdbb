"""Decoded pictures to vectors, one for each picture: a long one, seen in pieces, has the mean of their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipsearch.encoder import Encoder
from clipsearch.records import FloatArray, PixelArray

_LEAST_PER_CALL = 16

# A piece counts by a power of its contrast: the sky of a panorama and the paper of a screenshot are most of it and
# say least. A photograph of COCO's (60, of the development files) among 2 to 11 others in a row, alone in 3 to 8 times
# its width of sky, or in 3 to 12 screens of text, is found by its caption among the first 10 of 400 others in:
#   the middle alone: 5 %;  mean: 16;  contrast: 25;  its square: 36;  third power: 39;  fourth: 41.5;
#   the best piece alone, of which an index would have to keep all vectors: 64
# Of very long ones (40 pictures each, alone in sky), in up to 16 pieces, longer ones cropped, against up to 32 squares:
#   20:1: 63 and 70 %;  40:1: 30 and 63;  100:1: 3 and 23. Four to nine squares in each piece do worse: 33, 35, 15.
_CONTRAST_POWER = 4


def encode_decoded(encoder: Encoder, pictures: Sequence[PixelArray]) -> FloatArray:
    """Return one vector for each picture.

    Shapes: each picture (K, H, W, 3) uint8, its pieces; result (B, D) float32, unit L2.
    """
    if all(len(pieces) == 1 for pieces in pictures):
        return encoder.encode_images(np.concatenate(pictures))
    counts = np.array([len(pieces) for pieces in pictures])
    pixels = np.concatenate(pictures)
    size = max(len(pictures), _LEAST_PER_CALL)  # at once: no more than if all were one piece each
    parts = [encoder.encode_images(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    weights = np.concatenate([_contrast(pieces) for pieces in pictures])[:, None] ** _CONTRAST_POWER
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    totals = np.add.reduceat(np.concatenate(parts) * weights, starts, axis=0)
    lengths = np.linalg.norm(totals, axis=1, keepdims=True)
    vectors: FloatArray = (totals / np.maximum(lengths, 1e-12)).astype(np.float32)
    return vectors


def _contrast(pieces: PixelArray) -> FloatArray:
    """How much there is to see in each piece, relative to the one with most. Shape: (K,), in 0..1."""
    spread = pieces.reshape(len(pieces), -1, 3).std(axis=1, dtype=np.float32).mean(axis=1) + 1.0
    contrast: FloatArray = spread / spread.max()
    return contrast
