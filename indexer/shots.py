"""The shots of a video: frames that follow each other and look alike are one row, with the mean of their vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from clipsearch.indexer.scan import FoundFile
from clipsearch.pictures.appearance import Appearance
from clipsearch.pictures.formats import IN_PARTS
from clipsearch.pictures.pool import DecodeResult
from clipsearch.records import FloatArray

SAME_SHOT = 0.8
"""Cosine of a frame with the mean of the shot so far, from which on it belongs to it. See docs/videos.md."""
MOST_FRAMES = 7200  # of a video that does not say how long it is
MOST_FAILURES = 3  # parts of a video that hang or kill their decoder
PAST_FAILURE_S = 30.0
MORE_TIME = 6  # times as much for a part of a video as for a picture


@dataclass(slots=True)
class Video:
    """A video while it is read, a part at a time. `first` is what was told with its first part."""

    file: FoundFile
    first: DecodeResult
    at_s: float = -1.0  # where the part that is being read begins
    times_s: list[float] = field(default_factory=list)
    looks: list[Appearance] = field(default_factory=list)
    vectors: list[FloatArray] = field(default_factory=list)  # (D,) float32 each
    partial: str | None = None
    failures: int = 0
    copies: list[tuple[FoundFile, DecodeResult]] = field(default_factory=list)  # more files of the same content
    most: int | None = None  # frames of the next part; None: as many as there is room for

    @property
    def is_animation(self) -> bool:
        """Whether it is an animated picture, which is still if it has one shot."""
        return self.first.metadata.format not in IN_PARTS

    def take(self, result: DecodeResult, vectors: FloatArray) -> float | None:
        """Take a part, whose frames have these vectors, shape (F, D). Returns where to read on, if anywhere."""
        part = result.video
        assert part is not None
        for time_s, look, vector in zip(part.times_s, part.looks, vectors, strict=True):
            if not self.times_s or time_s > self.times_s[-1]:
                self.times_s.append(time_s)
                self.looks.append(look)
                self.vectors.append(vector)
        self.partial = self.partial or result.partial
        if part.next_s is None or part.next_s <= self.at_s:
            return None
        if len(self.times_s) >= MOST_FRAMES:
            self.partial = self.partial or f"only its first {int(self.times_s[-1] // 60)} minutes were read"
            return None
        self.at_s = part.next_s
        return self.at_s

    def pass_over(self) -> float | None:
        """The part cannot be read. Returns where to read on, if anywhere."""
        self.partial = "parts of the video are damaged"
        self.failures += 1
        last = self.times_s[-1] if self.times_s else 0.0
        self.at_s = max(last, self.at_s) + PAST_FAILURE_S
        duration = self.first.video.duration_s if self.first.video is not None else None
        is_past = duration is not None and self.at_s >= duration
        return None if self.failures > MOST_FAILURES or is_past else self.at_s

    def shots(self) -> list[Shot]:
        """Its shots in their order."""
        duration = self.first.video.duration_s if self.first.video is not None else None
        return divided(self.times_s, np.stack(self.vectors), self.looks, duration)


@dataclass(frozen=True, slots=True)
class Shot:
    """A shot: its locator, the mean vector of its frames (shape (D,), unit L2), and what its first frame looks like. Or
    a page of a document."""

    view: str
    vector: FloatArray
    look: Appearance
    size: tuple[int, int] | None = None  # width and height, where not all have the same


def divided(times_s: list[float], vectors: FloatArray, looks: list[Appearance], duration_s: float | None) -> list[Shot]:
    """The shots that frames are of. A shot begins at its first frame and ends where the next one begins.

    Shapes: vectors (F, D) float32, unit L2, by ascending time.
    """
    starts: list[int] = []
    sums: list[FloatArray] = []
    for number, vector in enumerate(vectors):
        if not starts or float(vector @ sums[-1]) < SAME_SHOT * float(np.linalg.norm(sums[-1])):
            starts.append(number)
            sums.append(vector.astype(np.float32, copy=True))
        else:
            sums[-1] += vector
    begin = [times_s[number] for number in starts]
    begin[0] = 0.0 if begin[0] < 1.0 else begin[0]
    ends: list[float | None] = [*begin[1:], duration_s]
    return [
        Shot(time_span(start, end), total / max(float(np.linalg.norm(total)), 1e-12), looks[number])
        for start, end, total, number in zip(begin, ends, sums, starts, strict=True)
    ]


def time_span(start_s: float, end_s: float | None) -> str:
    """A span of time as a locator (Media Fragments URI): `t=12.5,18`."""
    start = _number(start_s)
    return (
        f"t={start}" if end_s is None or end_s <= start_s or not math.isfinite(end_s) else f"t={start},{_number(end_s)}"
    )


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
