"""Which of two versions of a picture was made from the other, as far as their pixels tell.

What programs save is what they would save again: of the original, saved with the tables of a copy, comes the copy, to
the pixel. The other way round it does not, where anything was lost. And a JPEG's block of 8 by 8 pixels is a sum of
waves whose strengths are multiples of the steps of its table: what was made from it, and saved finer, still lies near
those multiples. Where neither tells, nothing is said: a copy that was called the original may cost the original.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from clipsearch.records import FloatArray

Lineage = Literal["first", "second", "same"] | None
Tables = tuple[tuple[int, ...], ...]

_BLOCK = 8  # of JPEG
_UNIT = 2 * _BLOCK  # with halved colours
_MOST_SIDE = 1024  # of what is looked at, in the middle
_ENLARGED_RATIO = 0.85  # times the scale; see is_enlarged
_SHARPENED_RATIO, _COARSER = 0.55, 0.6
_LEAST_DETAIL = 1.5  # grey levels: less may be of saving alone
_LEAST_SCALE = 0.95  # a picture that is hardly larger says nothing
_EXACT = 0.2  # of what saving takes: the same, but for what decoders differ in
_CLEARLY_NOT = 0.5
_ROUNDING = 0.1  # grey levels
_ON_LATTICE, _ON_LATTICE_SURELY = 0.15, 0.1  # of a step, in the mean; 0.25 by chance
_LEAST_STEP = 3  # finer ones drown in the rounding of pixels
_LEAST_WAVES = 64
_FILTERS = (
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture as its file has it, not turned and in its own colours. `tables`: by which a JPEG was rounded, in the
    file's order; None of other formats. `sampling`: of its colours, as Pillow numbers it; -1 where it has no number."""

    image: Image.Image
    tables: Tables | None = None
    sampling: int = 0
    profile: bytes | None = None

    def has_pixels_of(self, other: Stored) -> bool:
        """Whether both show the same to the pixel."""
        if self.image.size != other.image.size or self.profile != other.profile:
            return False
        return self.image.convert("RGB").tobytes() == other.image.convert("RGB").tobytes()


def is_enlarged(large: Image.Image, small: Image.Image) -> bool:
    """Whether the larger of two versions has no more detail than the smaller one.

    `large`, shrunk to the size of `small` and enlarged again, loses what only it had; that is measured against what
    `small` loses by the same. Of 150 photos that were enlarged, each lost at most 0.77 times (at a scale of 0.9; 0.29
    at 0.5) as much as its original; of their smaller versions, each photo lost at least 0.80 (0.58) times as much.
    Sharpening adds to that, but to what both have as well: so what `large` loses is also measured against what it loses
    when it is shrunk to 0.6 of that. Of 36 photos, enlarged and sharpened in three ways, 35 are told so, and 30 of the
    photos are not, against halves of theirs. A photo that is soft by itself, or shows next to
    nothing, looks enlarged.
    """
    scale = small.width / large.width
    if not 0 < scale <= _LEAST_SCALE:
        return False
    middle = _middle(large, _MOST_SIDE)
    own = _finest(middle, scale)
    if own * (float(_pixels(middle).std()) + 1) < _LEAST_DETAIL:
        return True
    if own < _SHARPENED_RATIO * _finest(middle, _COARSER * scale):
        return True
    return own < _ENLARGED_RATIO * scale * _finest(_middle(small, _MOST_SIDE), scale)


def original_of(first: Stored, second: Stored) -> Lineage:
    """Which of two versions of one size the other was saved from; "same" where their pixels are the same and nothing
    is lost with either, None where it is not certain. docs/query.md has what was measured."""
    if first.image.size != second.image.size or min(first.image.size) < 4 * _BLOCK:
        return None
    if not {first.image.mode, second.image.mode} <= {"L", "RGB", "RGBA", "P"}:
        return None
    if first.has_pixels_of(second):
        return _original_of_equals(first, second)
    there, back = _unlike_when_saved(first, second), _unlike_when_saved(second, first)
    if there > _EXACT and back > _EXACT:
        return None
    if there <= _EXACT and back <= _EXACT:
        if _is_made_of_waves_of(second, first) and not _may_be_made_of_waves_of(first, second):
            return "first"
        return "second" if _is_made_of_waves_of(first, second) and not _may_be_made_of_waves_of(second, first) else None
    source, copy, other_way = (first, second, back) if there <= _EXACT else (second, first, there)
    if _has_multiples(source, copy):
        is_finer = not _has_multiples(copy, source) and _is_made_of_waves_of(copy, source)
        is_certain = is_finer or other_way >= _CLEARLY_NOT
    else:
        is_certain = not _may_be_made_of_waves_of(source, copy)
    if not is_certain:
        return None
    return "first" if source is first else "second"


def resized_from(small: Stored, large: Stored) -> Lineage:
    """Which of two versions, the larger of which has no more detail, the other was made from by one of the usual
    filters: "first" is the small one. None where it cannot be told."""
    is_first = any(_comes_of(made, large) for made in _resized(small.image, large.image.size))
    is_second = any(_comes_of(made, small) for made in _resized(large.image, small.image.size))
    if is_first == is_second:
        return None
    return "first" if is_first else "second"


def _resized(image: Image.Image, size: tuple[int, int]) -> Iterator[Image.Image]:
    for resampling in _FILTERS:
        yield image.convert("RGB").resize(size, resampling)


def _comes_of(made: Image.Image, copy: Stored) -> bool:
    """Whether a file is what comes of an image that is saved."""
    if copy.tables is None:
        difference = _pixels(_middle(made, _MOST_SIDE, _UNIT)) - _pixels(
            _middle(copy.image.convert("RGB"), _MOST_SIDE, _UNIT)
        )
        return _rms(difference) <= _EXACT
    return _unlike_when_saved(Stored(made), copy) <= _EXACT


def _original_of_equals(first: Stored, second: Stored) -> Lineage:
    """Of files with the same pixels: a JPEG, where the other has what only a JPEG's rounding makes."""
    if (first.tables is None) == (second.tables is None):
        return "same"
    if second.tables is None:
        return "first" if _is_made_of_waves_of(second, first) else None
    return "second" if _is_made_of_waves_of(first, second) else None


def _unlike_when_saved(source: Stored, copy: Stored) -> float:
    """How far a copy is from what comes of `source` when it is saved as the copy was, against what saving takes from
    it. 0: the same; infinite where it cannot be saved so."""
    if copy.tables is None or len(copy.tables) > 2 or copy.sampling < 0 or copy.image.mode not in ("L", "RGB"):
        return float("inf")
    mode = copy.image.mode
    one, two = (_middle(image, _MOST_SIDE, _UNIT).convert(mode) for image in (source.image, copy.image))
    file = io.BytesIO()
    options = {} if mode == "L" else {"subsampling": copy.sampling}
    one.save(file, "JPEG", qtables=[list(table) for table in copy.tables], **options)
    with Image.open(file, formats=["JPEG"]) as image:
        saved = _pixels(image.convert(mode))
    return _rms(saved - _pixels(two)) / (_rms(saved - _pixels(one)) + _ROUNDING)


def _has_multiples(source: Stored, copy: Stored) -> bool:
    """Whether the steps of the first are multiples of those of the other, so that it lies on these by itself."""
    if source.tables is None or copy.tables is None:
        return False
    own, other = np.array(source.tables[0]), np.array(copy.tables[0])
    return bool(np.mean((own + 1) % other <= 2) > 0.5)


def _is_made_of_waves_of(image: Stored, jpeg: Stored) -> bool:
    distance = _distance(image, jpeg)
    return distance is not None and distance < _ON_LATTICE_SURELY


def _may_be_made_of_waves_of(image: Stored, jpeg: Stored) -> bool:
    distance = _distance(image, jpeg)
    return distance is not None and distance < _ON_LATTICE


def _distance(image: Stored, jpeg: Stored) -> float | None:
    """How far the waves of a picture are from multiples of the steps of a JPEG, in steps, in the mean of those that are
    not nearest to 0. 0.25 where they have nothing to do with it; None where there are too few to tell."""
    if jpeg.tables is None:
        return None
    grey = _pixels(_middle(image.image, _MOST_SIDE, _UNIT).convert("L")) - 128
    height, width = (length // _BLOCK for length in grey.shape)
    blocks = grey[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK).swapaxes(1, 2)
    n = np.arange(_BLOCK)
    waves = np.cos(np.pi / _BLOCK * (n[None] + 0.5) * n[:, None]).astype(np.float32) / 2
    waves[0] /= np.sqrt(2)
    steps = np.array(jpeg.tables[0], np.float32).reshape(_BLOCK, _BLOCK)
    strengths = waves @ blocks @ waves.T / steps
    nearest = np.round(strengths)
    told = (nearest != 0) & (steps >= _LEAST_STEP)
    told[..., 0, 0] = False
    if np.count_nonzero(told) < _LEAST_WAVES:
        return None
    return float(np.abs(strengths - nearest)[told].mean())


def _middle(image: Image.Image, side: int, step: int = 0) -> Image.Image:
    """The middle of a picture; without `step` in grey, else its left and top are multiples of that."""
    left, top = ((max(0, length - side) // 2) // max(step, 1) * max(step, 1) for length in image.size)
    part = image.crop((left, top, min(image.width, left + side), min(image.height, top + side)))
    return part if step else part.convert("L")


def _finest(grey: Image.Image, scale: float) -> float:
    """How much of a picture is lost where it is shrunk by `scale` and enlarged again, of its contrast."""
    size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
    back = grey.resize(size, Image.Resampling.LANCZOS).resize(grey.size, Image.Resampling.BICUBIC)
    pixels = _pixels(grey)
    return float(np.sqrt(np.mean((pixels - _pixels(back)) ** 2))) / (float(pixels.std()) + 1)


def _pixels(image: Image.Image) -> FloatArray:
    return np.asarray(image, np.float32)


def _rms(difference: FloatArray) -> float:
    """Without a block at each side, where a part of a picture ends otherwise than the whole."""
    inner = difference[_BLOCK:-_BLOCK, _BLOCK:-_BLOCK]
    return float(np.sqrt(np.mean(inner.astype(np.float64) ** 2)))
