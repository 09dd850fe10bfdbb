"""Subtitles of a video: what is said in it, and when. Those beside it (`.srt`, `.vtt`), and what is written in those
inside it (`video.read_subtitles`). The one module that knows pysubs2 (extra `video`). Read-only and bounded."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from typing import Any

from clipsearch.errors import MissingExtra
from clipsearch.records import Line

ENDINGS = (".srt", ".vtt")
LONGEST_BYTES = 8 << 20
MOST_CUES = 20_000  # of one file
LONGEST_CUE = 2_000  # characters
SAME_S = 0.05  # a line that two files, or tracks, begin within this time is said once
_TAG = re.compile(r"<[^<>]{0,200}>")
_LANGUAGE = re.compile(r"(?:\.[a-z0-9_-]{1,20}){0,2}")  # trip.en.srt, trip.en.sdh.srt


def is_subtitles(name: str) -> bool:
    """Whether a file has subtitles, going by its name."""
    return name[-4:].lower() in ENDINGS


def subtitles_of(name: str, beside: Iterable[str]) -> list[str]:
    """Those of some names of subtitle files that are of the video `name`, in order: trip.srt, trip.en.vtt and
    trip.mp4.srt of trip.mp4."""
    whole = _form(name)
    stem = whole.rpartition(".")[0]
    found = []
    for other in beside:
        folded = _form(other)[:-4]
        for start in (whole, stem):
            if folded.startswith(start) and _LANGUAGE.fullmatch(folded[len(start) :]):
                found.append(other)
                break
    return sorted(found)


def _form(name: str) -> str:
    """A name to compare with others: copies between systems change the form of its letters."""
    return unicodedata.normalize("NFC", name).casefold()


def read_bytes(path: str) -> bytes | None:
    """What is in a subtitle file; None for what is none, which is not opened. Raises: OSError."""
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST_BYTES:
        return None
    with open(path, "rb") as file:
        return file.read(LONGEST_BYTES)


def read_cues(content: bytes, ending: str) -> list[Line]:
    """What is said, in the order in which it begins, each with when it does (`Line.start_s`), and no place.

    None of a file that is damaged. Raises: MissingExtra.
    """
    try:
        import pysubs2
    except ImportError:
        raise MissingExtra("video", "reading subtitles") from None
    try:
        events = pysubs2.SSAFile.from_string(_text(content), format_=ending.lower().removeprefix(".")).events
    except Exception:  # it raises everything
        return []
    cues = []
    for event in sorted(events[:MOST_CUES], key=lambda event: event.start):
        said = _said(event)
        if said and event.start >= 0 and not event.is_comment:
            cues.append(cue(said, event.start / 1000))
    return cues


def cue(said: str, start_s: float) -> Line:
    """A line that is said from a moment on, and has no place."""
    return Line(said, (0, 0, 0, 0), 1.0, start_s)


def said_in_ass(text: str) -> str:
    """What is said in the text of an ASS event, to which FFmpeg brings every kind of subtitles. "" for a drawing."""
    import pysubs2

    return _said(pysubs2.SSAEvent(text=text))


def can_read() -> bool:
    """Whether what reads subtitles is installed."""
    return importlib.util.find_spec("pysubs2") is not None


def joined(cues: Iterable[Line]) -> list[Line]:
    """What is said, in its order: what several files or tracks say at the same moment is said once."""
    found: list[Line] = []
    last: dict[str, float] = {}
    for one in sorted(cues, key=lambda one: one.start_s or 0.0):
        start_s = one.start_s or 0.0
        if start_s - last.get(one.text, -1.0) > SAME_S:
            last[one.text] = start_s
            found.append(one)
    return found


def _said(event: Any) -> str:
    return "" if event.is_drawing else " ".join(_TAG.sub("", event.plaintext).split())[:LONGEST_CUE]


def _text(content: bytes) -> str:
    """The text of a file in one of the encodings that subtitles have."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")
