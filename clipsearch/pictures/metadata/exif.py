"""EXIF: what cameras write. Often broken: each field is read by itself, and what cannot be read is left out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import IO, Any, TypeVar

from PIL import Image

from clipsearch.pictures.metadata.moments import Moment, read_moment, with_fraction
from clipsearch.pictures.metadata.statements import NOTHING, Said, camera_of, degrees_of, place_of, text_of

T = TypeVar("T")

_ORIENTATION, _MAKE, _MODEL = 0x0112, 0x010F, 0x0110
_DETAILS, _GPS = 0x8769, 0x8825
_DATES = (
    # name, tag, tag of its fraction of a second
    ("DateTimeOriginal", 0x9003, 0x9291),
    ("DateTimeDigitized", 0x9004, 0x9292),
    ("DateTime", 0x0132, 0x9290),
)


def read_exif(image: Image.Image) -> Image.Exif | None:
    """The EXIF of an image that is open; None where there is none that can be parsed."""
    try:
        exif = image.getexif()
        exif.get(_ORIENTATION)  # parse
        return exif
    except Exception:  # Pillow's parser raises nearly anything on malformed EXIF
        return None


def exif_of_bytes(content: bytes) -> Image.Exif | None:
    """As `read_exif`, of an EXIF block by itself."""
    try:
        exif = Image.Exif()
        exif.load(content)
        return exif
    except Exception:  # as above
        return None


def read_tiff_exif(stream: IO[bytes]) -> Image.Exif | None:
    """The tags of a TIFF, or of a RAW file: most of them are TIFF inside."""
    try:
        stream.seek(0)
        exif = Image.Exif()
        exif.load_from_fp(stream)
        return exif
    except Exception:  # as above
        return None


def orientation_of(exif: Image.Exif | None, default: int) -> int:
    """How the camera was held, 1..8."""
    value = None if exif is None else exif.get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else default


def said_in_exif(exif: Image.Exif | None) -> Said:
    """What EXIF says. Never raises."""
    if exif is None:
        return NOTHING
    details, gps = _directory(exif, _DETAILS), _directory(exif, _GPS)

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
    return Said(dates, place, camera_of(_field(exif, _MAKE), _field(exif, _MODEL)))


def _directory(exif: Image.Exif, tag: int) -> Any:
    try:
        return exif.get_ifd(tag)
    except Exception:  # as in read_exif
        return {}


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
