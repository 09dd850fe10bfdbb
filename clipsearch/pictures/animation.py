"""Frames of animated pictures (GIF, WebP, APNG), spread over their time: as of a video, but all in one part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from PIL import Image

KINDS = ("GIF", "WEBP", "PNG")
LEAST_APART_S = 0.5  # no two frames that are looked at are nearer
MOST_PIXELS = 500_000_000  # to be decoded of one animation,
MOST_S = 3.0  # in this time: what comes after is left out
_SHORTEST_S = 0.02  # of a frame: what is said to be shorter is shown, as by browsers,
_USUAL_S = 0.1  # for this long
Seen = TypeVar("Seen")


def is_animated(image: Image.Image) -> bool:
    """Whether a picture that was opened has more than one frame."""
    return bool(getattr(image, "is_animated", False))


def moments(image: Image.Image) -> Iterator[tuple[float, float]]:
    """When each frame of an animation begins and ends, in seconds; `image` then is that frame, until the next is asked
    for. An animation that is damaged ends before the damage, a long one where it has taken enough time. Raises: what a
    decoder raises at the first frame."""
    start_s, began = 0.0, time.monotonic()
    for number in range(max(1, MOST_PIXELS // max(1, image.width * image.height))):
        if number and time.monotonic() - began > MOST_S:
            return
        try:
            image.seek(number)
            image.load()
        except Exception:
            if number == 0:
                raise
            return
        duration_s = float(image.info.get("duration") or 0) / 1000
        end_s = start_s + (duration_s if duration_s >= _SHORTEST_S else _USUAL_S)
        yield start_s, end_s
        start_s = end_s


def spread(image: Image.Image, see: Callable[[], Seen], most: int) -> tuple[list[tuple[float, Seen]], float]:
    """What `see` makes of some frames of an animation, `most` at most, with when they begin; and how long it is.

    They are at least LEAST_APART_S apart, and farther if there would be too many.
    """
    found: list[tuple[float, Seen]] = []
    apart_s, duration_s = LEAST_APART_S, 0.0
    for start_s, end_s in moments(image):
        duration_s = end_s
        if found and start_s < found[-1][0] + apart_s:
            continue
        if len(found) == most:
            found, apart_s = found[::2], 2 * apart_s
            if start_s < found[-1][0] + apart_s or len(found) == most:
                continue
        found.append((start_s, see()))
    return found, duration_s


def seek_moment(image: Image.Image, time_s: float) -> None:
    """Make `image` the frame that an animation shows at a moment; its last one after its end."""
    for start_s, end_s in moments(image):
        if start_s <= time_s + 1e-3 < end_s:
            return
