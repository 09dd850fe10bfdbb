"""A map of pictures: those that look alike lie near each other.

Up to `LANDMARKS` pictures are laid out with t-SNE (van der Maaten and Hinton, JMLR 2008; exact, started from the two
principal components so that the map is the same each time); the others go to where their nearest landmarks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.records import FloatArray, IntArray
from clipsearch.search.collection import Collection
from clipsearch.ui.map_labels import Label, label_places

MOST_PICTURES = 20_000
LANDMARKS = 600
STEPS = 250
_COMPONENTS = 50
_PERPLEXITY = 20.0
_NEIGHBOURS = 5
_EXAGGERATED_STEPS = 70
_EXAGGERATION = 6.0
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class PictureMap:
    """Where pictures are. Shapes: ids (N,) int64; places (N, 2) float32, 0..1. `labels`: see `label_places`."""

    ids: IntArray
    places: FloatArray
    labels: list[Label]


def draw_map(photos: Collection, ids: IntArray) -> PictureMap:
    """Lay out some pictures, or an even sample of them, and say what their groups show. Takes seconds."""
    if len(ids) > MOST_PICTURES:
        ids = ids[np.linspace(0, len(ids) - 1, MOST_PICTURES).astype(np.int64)]
    vectors = photos.vectors(ids)
    places = lay_out(vectors)
    return PictureMap(ids, places, label_places(photos, vectors, places))


def lay_out(vectors: FloatArray) -> FloatArray:
    """Places on a square, near each other where vectors are. Shapes: (N, D) float32, unit L2; (N, 2), 0..1."""
    count = len(vectors)
    if count < 3:
        return np.linspace(0.3, 0.7, max(count, 1), dtype=np.float32)[:count, None].repeat(2, axis=1)
    marks = np.arange(count) if count <= LANDMARKS else np.linspace(0, count - 1, LANDMARKS).astype(np.int64)
    components = _principal(vectors[marks])
    placed = _tsne(components)
    if count > LANDMARKS:
        placed = _beside(vectors, vectors[marks], placed)
    low, high = placed.min(axis=0), placed.max(axis=0)
    scaled: FloatArray = ((placed - (low + high) / 2) / max(float((high - low).max()), 1e-9) + 0.5).astype(np.float32)
    return scaled


def _principal(vectors: FloatArray) -> FloatArray:
    """The principal components. Shapes: (N, D) to (N, C), the greatest first."""
    centred = vectors - vectors.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    chosen = axes[:, np.argsort(values)[::-1][:_COMPONENTS]]
    # of the two signs of an axis, the one that makes its largest entry positive
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    result: FloatArray = (centred @ chosen).astype(np.float32)
    return result


def _tsne(points: FloatArray) -> FloatArray:
    """Shapes: (N, C) to (N, 2)."""
    near = _affinities(points)
    places = points[:, :2] / max(float(points[:, 0].std()), 1e-9) * np.float32(1e-2)
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 1)))
    step, gains = np.zeros_like(places), np.ones_like(places)
    rate = np.float32(max(len(points) / _EXAGGERATION / 4, 20.0))
    for at in range(STEPS):
        exaggeration = np.float32(_EXAGGERATION if at < _EXAGGERATED_STEPS else 1.0)
        pull = _distances(places)
        pull += 1
        np.reciprocal(pull, out=pull)
        np.fill_diagonal(pull, 0)
        force = near * exaggeration
        force -= pull / max(float(pull.sum()), 1e-12)
        force *= pull
        slope = 4 * (force.sum(axis=1, keepdims=True) * places - force @ places)
        gains = np.maximum(np.where(np.sign(slope) != np.sign(step), gains + 0.2, gains * 0.8), 0.01)
        step = (0.5 if at < _EXAGGERATED_STEPS else 0.8) * step - rate * gains.astype(np.float32) * slope
        places = places + step
        places -= places.mean(axis=0)
    return places


def _affinities(points: FloatArray) -> FloatArray:
    """How near each is to each other: sums to 1, symmetric. Shape: (N, N)."""
    distances = _distances(points).astype(np.float64)
    np.fill_diagonal(distances, np.inf)
    wanted = np.log(min(_PERPLEXITY, (len(points) - 1) / 3 + 1))
    low, high = np.zeros(len(points)), np.full(len(points), np.inf)
    sharpness = 1 / np.maximum(
        np.partition(distances, min(20, len(points) - 2), axis=1)[:, min(20, len(points) - 2)], 1e-12
    )
    nearest = distances.min(axis=1, keepdims=True)
    weights = np.empty_like(distances)
    for _ in range(40):
        np.exp(-(distances - nearest) * sharpness[:, None], out=weights)
        weights /= weights.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nansum(weights * np.log(weights), axis=1)
        wide = entropy > wanted
        low, high = np.where(wide, sharpness, low), np.where(wide, high, sharpness)
        sharpness = np.where(np.isinf(high), sharpness * 2, (low + high) / 2)
    result: FloatArray = ((weights + weights.T) / (2 * len(points))).astype(np.float32)
    return result


def _distances(points: npt.NDArray[np.float32]) -> FloatArray:
    """Squared distances. Shape: (N, N)."""
    squares = (points * points).sum(axis=1)
    distances: FloatArray = points @ points.T
    distances *= -2
    distances += squares[:, None]
    distances += squares
    return np.maximum(distances, 0, out=distances)


def _beside(vectors: FloatArray, marks: FloatArray, placed: FloatArray) -> FloatArray:
    """Places among those of the nearest landmarks. Shapes: (N, D), (L, D), (L, 2); (N, 2)."""
    result = np.empty((len(vectors), 2), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines = vectors[part] @ marks.T
        nearest = np.argpartition(-cosines, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
        weights = np.exp(30 * np.take_along_axis(cosines, nearest, axis=1))
        weights /= weights.sum(axis=1, keepdims=True)
        result[part] = (placed[nearest] * weights[:, :, None]).sum(axis=1)
    spread = np.float32(0.004 * float(np.ptp(placed)))
    result += spread * np.random.default_rng(0).standard_normal(result.shape, np.float32)
    return result
