"""Decoded pictures to vectors, one for each picture: a long one, seen in pieces, has the mean of their vectors, and so
has one that is seen as a whole and in tiles."""

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


# The whole counts twice: with the embedded model on COCO's and Flickr8k's development files, sentences find their
# picture among the first 1, 5, 10 in (COCO; Flickr8k)
#   whole alone: 22.7 51.3 65.0 %; 27.6 57.0 70.1     counted once: 25.3 53.0 68.0; 29.9 60.0 72.1
#   twice:       26.7 53.2 68.3;   30.8 61.2 73.1     three times:  26.2 54.0 68.7; 30.9 61.2 73.2
# Weights by contrast, as above, gain nothing here.
_WHOLE_COUNTS = 2.0


def encode_decoded(encoder: Encoder, pictures: Sequence[PixelArray], tiled: Sequence[bool] | None = None) -> FloatArray:
    """Return one vector for each picture.

    Shapes: each picture (K, H, W, 3) uint8, its pieces; result (B, D) float32, unit L2. `tiled`: of each picture,
    whether the pieces are the whole and its tiles (`images.view_boxes`).
    """
    if all(len(pieces) == 1 for pieces in pictures):
        return encoder.encode_images(np.concatenate(pictures))
    return _joined(_of_all_pieces(encoder, pictures), pictures, tiled or [False] * len(pictures))


def encode_with_regions(
    encoder: Encoder, pictures: Sequence[PixelArray], tiled: Sequence[bool], *, views: int
) -> list[FloatArray]:
    """As `encode_decoded`, and behind the vector of each picture those of its regions: its tiles, or the pieces of a
    long one. `views`: the whole alone is the vector of a picture that is tiled, if it is 1.

    Shapes: each picture (K, H, W, 3) uint8; each result (1 + R, D) float32, unit L2.
    """
    vectors = _of_all_pieces(encoder, pictures)
    ends = np.cumsum([len(pieces) for pieces in pictures])
    found: list[FloatArray] = []
    for whole, own, is_tiled in zip(
        _joined(vectors, pictures, tiled), np.split(vectors, ends[:-1]), tiled, strict=True
    ):
        if is_tiled:
            found.append(own if views == 1 else np.concatenate([whole[None], own[1:]]))
        else:
            found.append(own if len(own) == 1 else np.concatenate([whole[None], own]))
    return found


def _of_all_pieces(encoder: Encoder, pictures: Sequence[PixelArray]) -> FloatArray:
    """The vectors of all pieces of all pictures. Shape: (N, D)."""
    pixels = np.concatenate(pictures)
    size = max(len(pictures), _LEAST_PER_CALL)  # at once: no more than if all were one piece each
    return np.concatenate([encoder.encode_images(pixels[at : at + size]) for at in range(0, len(pixels), size)])


def _joined(vectors: FloatArray, pictures: Sequence[PixelArray], tiled: Sequence[bool]) -> FloatArray:
    """The vector of each picture, of those of all pieces. Shapes: vectors (N, D); (B, D)."""
    counts = np.array([len(pieces) for pieces in pictures])
    weights = np.concatenate([_weights(*picture) for picture in zip(pictures, tiled, strict=True)])[:, None]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    totals = np.add.reduceat(vectors * weights, starts, axis=0)
    lengths = np.linalg.norm(totals, axis=1, keepdims=True)
    joined: FloatArray = (totals / np.maximum(lengths, 1e-12)).astype(np.float32)
    return joined


def _weights(pieces: PixelArray, is_tiled: bool) -> FloatArray:
    """How much each piece counts. Shape: (K,)."""
    if is_tiled:
        return np.array([_WHOLE_COUNTS, *[1.0] * (len(pieces) - 1)], np.float32)
    weights: FloatArray = _contrast(pieces) ** _CONTRAST_POWER
    return weights


def _contrast(pieces: PixelArray) -> FloatArray:
    """How much there is to see in each piece, relative to the one with most. Shape: (K,), in 0..1."""
    spread = pieces.reshape(len(pieces), -1, 3).std(axis=1, dtype=np.float32).mean(axis=1) + 1.0
    contrast: FloatArray = spread / spread.max()
    return contrast
