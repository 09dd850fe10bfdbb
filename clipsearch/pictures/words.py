"""Pixels to words: the one module that knows the reader, rapidocr (extra `ocr`), which carries its models.

Two steps. `has_words` looks for lines at a low resolution, which takes a twentieth of the time of `read`, and lets
through what has any. `read` finds lines, turns each upright, and says what stands in it. A long picture is read in
pieces, or nobody could read it. Runs in decoder processes only (`pictures.worker`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipsearch.errors import MissingExtra, MissingFeature
from clipsearch.records import Line, PixelArray

READER = "rapidocr PP-OCRv6 small"
LONGEST = 2000  # pixels of the longer side, to be read
LONG = 2.5  # times its shorter side: read in pieces
PIECE_SHORT = 1000  # pixels of the shorter side of a long picture
LARGEST = 40_000_000  # pixels of a long picture
LOOKED_AT = 640  # pixels of the longer side, to see whether there are words
SEEN_FROM = 0.5  # how sure the detector must be of one line there
DETECTED_AT = 960  # pixels of the longer side, to find lines: at more, single words of signs are lost
ENLARGED_TO, MOST_ENLARGED = 1000, 3.0  # pixels of the longer side of a small picture, and times its own
LEAST_SCORE = 0.5  # of a line
MOST_LINES = 2000
MOST_CHARACTERS = 100_000  # of a picture
_OVERLAP = 160  # pixels of pieces

Box = tuple[int, int, int, int]


def longest_for(width: int, height: int) -> int:
    """How long the longer side of a picture should be to be read."""
    long, short = max(width, height, 1), max(1, min(width, height))
    if long < LONG * short:
        return min(long, LONGEST)
    scale = min(1.0, PIECE_SHORT / short, math.sqrt(LARGEST / (long * short)))
    return max(min(long, LONGEST), round(long * scale))


class Reader:
    """Reads words. Raises: MissingExtra, MissingFeature."""

    def __init__(self) -> None:
        self._engine = _engine()

    def has_words(self, image: Image.Image) -> bool:
        """Whether there is probably a line of words in a picture."""
        image = image.convert("RGB")
        return any(self._has_lines(image.crop(piece)) for piece, _ in _pieces(image.size))

    def _has_lines(self, small: Image.Image) -> bool:
        small.thumbnail((LOOKED_AT, LOOKED_AT), Image.Resampling.BILINEAR, reducing_gap=2.0)
        found = self._engine(_bgr(small), use_det=True, use_cls=False, use_rec=False)
        return found.scores is not None and any(score >= SEEN_FROM for score in found.scores)

    def read(self, image: Image.Image) -> list[Line]:
        """The lines in a picture, from top to bottom, with boxes in its own pixels."""
        image, scale = _enlarged(image.convert("RGB"))
        lines: list[Line] = []
        for piece, own in _pieces(image.size):
            part = image if piece == (0, 0, *image.size) else image.crop(piece)
            for line in self._lines(part):
                left, top = line.box[0] + piece[0], line.box[1] + piece[1]
                middle = left + line.box[2] / 2, top + line.box[3] / 2
                if own[0] <= middle[0] < own[2] and own[1] <= middle[1] < own[3]:
                    lines.append(Line(line.text, (left, top, line.box[2], line.box[3]), line.score))
        return bounded(lines if scale == 1 else [scaled(line, 1 / scale, 1 / scale) for line in lines])

    def _lines(self, image: Image.Image) -> Iterator[Line]:
        found = self._engine(_bgr(image), use_det=True, use_cls=True, use_rec=True)
        if getattr(found, "txts", None) is None or found.boxes is None:
            return
        for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True):
            low = np.clip(np.floor(corners.min(axis=0)), 0, None)
            high = np.minimum(np.ceil(corners.max(axis=0)), image.size)
            left, top, right, bottom = (*map(int, low), *map(int, high))
            said = " ".join(str(text).split())
            if said and right > left and bottom > top:
                yield Line(said, (left, top, right - left, bottom - top), round(float(score), 3))


def scaled(line: Line, across: float, down: float) -> Line:
    """A line with its box in pixels of a larger or smaller picture."""
    left, top, width, height = line.box
    right, bottom = round((left + width) * across), round((top + height) * down)
    left, top = round(left * across), round(top * down)
    return Line(line.text, (left, top, max(1, right - left), max(1, bottom - top)), line.score)


def _enlarged(image: Image.Image) -> tuple[Image.Image, float]:
    """A small picture at a size at which its letters can be told apart, and how many times that is its own."""
    scale = min(MOST_ENLARGED, ENLARGED_TO / max(image.size))
    if scale <= 1:
        return image, 1.0
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC), scale


def bounded(lines: Iterable[Line]) -> list[Line]:
    """As many lines as are kept of one picture."""
    kept, left = [], MOST_CHARACTERS
    for line in itertools.islice(lines, MOST_LINES):
        left -= len(line.text)
        if left < 0:
            break
        kept.append(line)
    return kept


def _pieces(size: tuple[int, int]) -> list[tuple[Box, Box]]:
    """What to read of a picture at once, and of which part of it the lines count: overlaps are read twice."""
    width, height = size
    long, short = max(size), min(size)
    if long <= max(LONGEST, LONG * short):
        return [((0, 0, width, height), (0, 0, width, height))]
    step = max(2 * _OVERLAP, round(short * 1.5))
    count = math.ceil((long - _OVERLAP) / (step - _OVERLAP))
    starts = [round(n * (long - step) / max(1, count - 1)) for n in range(count)]
    found = []
    for n, start in enumerate(starts):
        stop = min(long, start + step)
        first = 0 if n == 0 else (start + starts[n - 1] + step) // 2
        last = long if n == count - 1 else (starts[n + 1] + stop) // 2
        found.append(
            ((0, start, width, stop), (0, first, width, last))
            if height > width
            else ((start, 0, stop, height), (first, 0, last, height))
        )
    return found


def _bgr(image: Image.Image) -> PixelArray:
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def check_reader() -> None:
    """Raise MissingExtra or MissingFeature unless words can be read here. Loads no model."""
    _models()


def _models() -> dict[str, str]:
    from importlib.util import find_spec

    found = find_spec("rapidocr")
    if found is None or found.origin is None:
        raise MissingExtra("ocr", "reading the words in pictures")
    folder = Path(found.origin).parent / "models"
    models = {part: sorted(folder.glob(f"*_{part}_*.onnx")) for part in ("det", "cls", "rec")}
    lacking = [part for part, paths in models.items() if not paths]
    if lacking:
        raise MissingFeature(
            f"the installed rapidocr has no model for {', '.join(lacking)}",
            "Install one that does: pip install 'rapidocr>=3.10'",
        )
    return {part: str(paths[-1]) for part, paths in models.items()}


def _engine() -> Any:
    models = _models()
    downloads = import_module("rapidocr.utils.download_file").DownloadFile

    def refuse(wanted: Any) -> None:
        raise OSError(f"rapidocr would download {wanted.file_url}, which clipsearch does not allow")

    downloads.run = staticmethod(refuse)
    return import_module("rapidocr").RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.text_score": LEAST_SCORE,
            "Global.max_side_len": 2 * LONGEST,
            "Det.model_path": models["det"],
            "Cls.model_path": models["cls"],
            "Rec.model_path": models["rec"],
            "Det.limit_type": "max",
            "Det.limit_side_len": DETECTED_AT,
            # one core for each process: pictures are read side by side
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
