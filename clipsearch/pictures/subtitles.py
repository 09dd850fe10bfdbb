"""Subtitles beside a video (`.srt`, `.vtt`): what is said in it, and when. The one module that knows pysubs2 (extra
`video`). Read-only and bounded."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable

from clipsearch.errors import MissingExtra
from clipsearch.records import Line

ENDINGS = (".srt", ".vtt")
LONGEST_BYTES = 8 << 20
MOST_CUES = 20_000  # of one file
LONGEST_CUE = 2_000  # characters
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
        said = " ".join(_TAG.sub("", event.plaintext).split())[:LONGEST_CUE]
        if said and event.start >= 0 and not event.is_comment:
            cues.append(Line(said, (0, 0, 0, 0), 1.0, event.start / 1000))
    return cues


def _text(content: bytes) -> str:
    """The text of a file in one of the encodings that subtitles have."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")
