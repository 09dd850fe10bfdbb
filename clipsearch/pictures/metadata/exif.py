"""EXIF: what cameras write. Often broken: each field is read by itself, and what cannot be read is left out.

Pillow stops at the first tag that it cannot read, and the date may stand behind it. So tags are read here entry by
entry; Pillow's own reading counts where there is no block of bytes to read: for images that somebody has made.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any, TypeVar

from PIL import Image

from clipsearch.pictures.metadata.moments import Moment, read_moment, with_fraction
from clipsearch.pictures.metadata.statements import (
    NOTHING,
    Said,
    camera_of,
    degrees_of,
    live_of,
    place_of,
    text_of,
)
from clipsearch.pictures.metadata.words import Words, decoded, decoded_utf16, levels_of, stars

T = TypeVar("T")

_ORIENTATION, _MAKE, _MODEL = 0x0112, 0x010F, 0x0110
_DETAILS, _GPS = 0x8769, 0x8825
_DATES = (
    # name, tag, tag of its fraction of a second
    ("DateTimeOriginal", 0x9003, 0x9291),
    ("DateTimeDigitized", 0x9004, 0x9292),
    ("DateTime", 0x0132, 0x9290),
)


# Codes of `struct` by the type of a tag, of BigTIFF as well. 2 is text, 7 bytes of any meaning.
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
_TYPES |= {16: "Q", 17: "q", 18: "Q", 129: "s"}
_HEADS = (b"*\0", b"\0*", b"+\0", b"\0+", b"RO", b"OR", b"RS", b"U\0")  # behind II or MM; some RAW have their own
_MOST_ENTRIES = 4096
_LONGEST_VALUE_BYTES = 2**22
_MOST_NUMBERS = 64  # of a tag that is used


class Tags:
    """The tags of a block of EXIF, or of a TIFF, as far as each can be read by itself."""

    def __init__(self, stream: IO[bytes], order: str, big: bool, starts: Sequence[int]) -> None:
        """`starts`: where directories stand, of which the first that has a tag counts."""
        self._stream, self.order, self._big = stream, order, big
        self._entries: dict[int, tuple[int, int, bytes]] = {}  # its type, how many, and the value or where it stands
        for start in reversed(starts):
            with suppress(struct.error, OSError, ValueError, OverflowError):
                self._read_entries(start)

    @classmethod
    def of(cls, stream: IO[bytes], starts: Sequence[int] = ()) -> Tags | None:
        """The tags of a TIFF, without `starts` those of its first directory; None for what is no TIFF."""
        stream.seek(0)
        head = stream.read(16)
        if head[:2] not in (b"II", b"MM") or head[2:4] not in _HEADS or len(head) < 8:
            return None
        order, big = "<" if head[:2] == b"II" else ">", b"+" in head[2:4]
        first = head[8:16] if big else head[4:8]
        return cls(stream, order, big, starts or [int.from_bytes(first, "little" if order == "<" else "big")])

    def _read_entries(self, start: int) -> None:
        self._stream.seek(start)
        number = self._stream.read(8 if self._big else 2)
        count = struct.unpack(self.order + ("Q" if self._big else "H"), number)[0]
        size, inline = (20, 8) if self._big else (12, 4)
        table = self._stream.read(min(count, _MOST_ENTRIES) * size)
        for at in range(0, len(table) - size + 1, size):
            entry = table[at : at + size]
            tag, kind, many = struct.unpack(self.order + ("HHQ" if self._big else "HHI"), entry[:-inline])
            if kind in _TYPES and many:
                self._entries[tag] = kind, many, entry[-inline:]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a value. Of one that reaches past the end nothing, but of a text what there is."""
        if tag not in self._entries:
            return None
        kind, many, value = self._entries[tag]
        length = many * struct.calcsize("=" + _TYPES[kind])
        if length <= len(value):
            return value[:length]
        wanted = min(length, _LONGEST_VALUE_BYTES)
        try:
            self._stream.seek(struct.unpack(self.order + ("Q" if self._big else "I"), value)[0])
            value = self._stream.read(wanted)
        except (OSError, ValueError, OverflowError):
            return None
        return value if value and (len(value) == wanted or kind == 2) else None

    def get(self, tag: int) -> object:
        """A value: text, bytes, a number or several. A fraction with nothing below its line is no number (NaN)."""
        raw = self.raw(tag)
        if raw is None:
            return None
        code = _TYPES[self._entries[tag][0]]
        if code == "s" or (code == "B" and len(raw) > 1):
            return raw
        number = min(len(raw) // struct.calcsize("=" + code[0]), _MOST_NUMBERS)
        values = struct.unpack(f"{self.order}{number}{code[0]}", raw[: number * struct.calcsize("=" + code[0])])
        if len(code) == 2:
            values = tuple(a / b if b else float("nan") for a, b in zip(values[::2], values[1::2], strict=False))
        return values[0] if len(values) == 1 else values

    def get_ifd(self, tag: int) -> Tags:
        """The tags of the directory that a tag points to; none where there is no such."""
        start = self.get(tag)
        return Tags(self._stream, self.order, self._big, [start] if isinstance(start, int) and start > 0 else [])


@dataclass(frozen=True, slots=True)
class Exif:
    """What EXIF there is: read tag by tag, and by Pillow."""

    tags: Tags | None
    of_pillow: Image.Exif | None = None

    def get(self, tag: int) -> object:
        """A value of the outermost directory."""
        found = None if self.tags is None else self.tags.get(tag)
        return found if found is not None or self.of_pillow is None else _field(self.of_pillow, tag)

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a value."""
        found = None if self.tags is None else self.tags.raw(tag)
        if found is not None or self.of_pillow is None:
            return found
        value = _field(self.of_pillow, tag)
        return value if isinstance(value, bytes) else None

    def directory(self, tag: int) -> Any:
        """The directory that a tag points to."""
        found = None if self.tags is None else self.tags.get_ifd(tag)
        if found or self.of_pillow is None:
            return found or {}
        try:
            return self.of_pillow.get_ifd(tag)
        except Exception:  # as in read_exif
            return {}


def read_exif(image: Image.Image) -> Exif | None:
    """The EXIF of an image that is open; None where there is none that can be parsed."""
    block = image.info.get("exif")
    tags = _tags_of(block) if isinstance(block, bytes) else None
    try:
        of_pillow = image.getexif()
        of_pillow.get(_ORIENTATION)  # parse
    except Exception:  # Pillow's parser raises nearly anything on malformed EXIF
        of_pillow = None
    return None if tags is None and of_pillow is None else Exif(tags, of_pillow)


def exif_of_bytes(content: bytes) -> Exif | None:
    """As `read_exif`, of an EXIF block by itself."""
    tags = _tags_of(content)
    return None if tags is None else Exif(tags)


def _tags_of(block: bytes) -> Tags | None:
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    return Tags.of(io.BytesIO(block))


def read_tiff_exif(stream: IO[bytes], starts: Sequence[int] = ()) -> Exif | None:
    """The tags of a TIFF, or of a RAW file: most of them are TIFF inside. `starts`: as for `Tags.of`."""
    try:
        tags = Tags.of(stream, starts)
        return None if tags is None else Exif(tags)
    except OSError:
        return None


def orientation_of(exif: Exif | None, default: int) -> int:
    """How the camera was held, 1..8. Pillow knows it from XMP as well, and what somebody has changed."""
    if exif is None:
        return default
    for value in (_field(exif.of_pillow, _ORIENTATION), exif.get(_ORIENTATION)):
        if isinstance(value, int) and 1 <= value <= 8:
            return value
    return default


def said_in_exif(exif: Exif | None) -> Said:
    """What EXIF says. Never raises."""
    if exif is None:
        return NOTHING
    details, gps = exif.directory(_DETAILS), exif.directory(_GPS)

    def field(tag: int) -> object:
        found = _field(details, tag)
        return found if found is not None else _field(exif, tag)  # TIFF/EP keeps all in one place

    dates: dict[str, Moment] = {}
    for name, tag, fraction_tag in _DATES:
        moment = with_fraction(read_moment(text_of(field(tag))), text_of(field(fraction_tag)))
        if moment is not None:
            dates[f"exif:{name}"] = moment
    if (moment := _gps_moment(gps)) is not None:
        dates["exif:GPSDateStamp"] = moment
    place = place_of(_degrees(gps, 2, 1, "NS"), _degrees(gps, 4, 3, "EW"))
    camera = camera_of(_field(exif, _MAKE), _field(exif, _MODEL))
    return Said(dates, place, camera, _words(exif, details), _live(_bytes_of(field(_MAKER_NOTE))))


_MAKER_NOTE, _CONTENT_IDENTIFIER = 0x927C, 0x0011
_APPLE = b"Apple iOS\0"


def _live(note: bytes | None) -> str | None:
    """What says that a picture is the still of a Live Photo, in what Apple's phones note: tags of their own, whose
    places count from the beginning of the note."""
    if note is None or not note.startswith(_APPLE):
        return None
    order = ">" if note[12:14] == b"MM" else "<"
    return live_of(Tags(io.BytesIO(note), order, False, [14]).get(_CONTENT_IDENTIFIER))


_DESCRIPTION, _USER_COMMENT, _RATING, _RATING_PERCENT = 0x010E, 0x9286, 0x4746, 0x4749
_XP_TITLE, _XP_COMMENT, _XP_KEYWORDS, _XP_SUBJECT = 0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F


def _words(exif: Exif, details: Any) -> Words:
    """What people wrote."""

    def explorer(tag: int) -> str:
        raw = _bytes_of(_field(exif, tag))
        return "" if raw is None else decoded_utf16(raw)

    description = _bytes_of(_field(exif, _DESCRIPTION))
    comment = _bytes_of(_field(details, _USER_COMMENT)) or _bytes_of(_field(exif, _USER_COMMENT))
    order = exif.tags.order if exif.tags is not None else "<"
    keywords = [levels_of(part, "|") for part in explorer(_XP_KEYWORDS).split(";")]
    ratings = [stars(_field(exif, _RATING)), stars(_field(exif, _RATING_PERCENT), percent=True)]
    title = explorer(_XP_TITLE)
    captions = (
        explorer(_XP_COMMENT),
        "" if description is None else decoded(description),
        "" if comment is None else _user_comment(comment, order),
        explorer(_XP_SUBJECT),
    )
    said = [rating for rating in ratings if rating is not None]
    rating = next((rating for rating in said if rating), next(iter(said), None))
    return Words((title,) if title else (), tuple(filter(None, captions)), tuple(filter(None, keywords)), (), rating, 3)


def _bytes_of(value: object) -> bytes | None:
    """A field's bytes, which Pillow gives as text or as numbers."""
    if isinstance(value, str):
        return value.encode("latin-1", "replace")
    if isinstance(value, (tuple, list)) and all(isinstance(part, int) and 0 <= part < 256 for part in value):
        return bytes(value)
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None


def _user_comment(raw: bytes, order: str) -> str:
    """A comment behind the name of its encoding, which some programs leave out or fill with NULs or blanks."""
    head, body = raw[:8], raw[8:]
    code = head.rstrip(b"\0 ").upper()
    if code == b"UNICODE":
        utf8 = body.rstrip(b"\0")
        if utf8.decode("latin-1").isprintable() and utf8.isascii() and len(utf8) > 2:
            return utf8.decode("ascii")
        return decoded_utf16(body, order)
    if code == b"JIS":
        return decoded(body, "iso2022_jp" if b"\x1b" in body else "shift_jis")
    if code in (b"ASCII", b"") or head.strip(b"\0 ") == b"":
        return decoded(body)
    return decoded(raw)


def _field(fields: Any, tag: int) -> object:
    """One field, which Pillow may read only now."""
    try:
        value: object = fields.get(tag)
    except Exception:  # as in read_exif
        return None
    return value


def _parts(value: object) -> list[object]:
    return list(value[:3]) if isinstance(value, (tuple, list)) else [value]


def _degrees(gps: Any, tag: int, letter_tag: int, letters: str) -> float | None:
    value, letter = _field(gps, tag), text_of(_field(gps, letter_tag))
    return None if value is None else _quietly(lambda: degrees_of(_parts(value), letter, letters))


def _gps_moment(gps: Any) -> Moment | None:
    """The satellites' date and time, UTC; a date by itself is a day."""
    day = read_moment(text_of(_field(gps, 29)))
    if day is None or day.span > timedelta(days=1):
        return None  # satellites know all of a date
    if not day.span:
        return day
    value = _field(gps, 7)

    def clock() -> Moment | None:
        if isinstance(value, (str, bytes)):
            numbers = [float(part) for part in text_of(value).replace(",", ":").split(":")]
        else:
            numbers = [float(part) for part in _parts(value)]  # type: ignore[arg-type]
        hour, minute, second = numbers
        if not (0 <= hour < 24 and 0 <= minute < 60):
            return None
        second = second if 0 <= second < 60 else 0.0
        return Moment(day.start + timedelta(hours=hour, minutes=minute, seconds=round(second, 3)), utc=True)

    return _quietly(clock) or day


def _quietly(function: Callable[[], T | None]) -> T | None:
    try:
        return function()
    except (TypeError, ValueError, ArithmeticError):
        return None
