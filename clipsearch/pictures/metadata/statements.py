"""What one source says of a picture: when, where, with what, in what words. Every value is checked here (words in
`words`) before it goes further."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from clipsearch.pictures.metadata.moments import Moment
from clipsearch.pictures.metadata.words import NO_WORDS, Words

LONGEST_TEXT = 100  # characters of a camera's name

Place = tuple[float, float]  # degrees, north and east positive


@dataclass(frozen=True, slots=True)
class Said:
    """What one source says. `dates`: by the name of the field (see `SOURCES` in the package), unjudged."""

    dates: dict[str, Moment] = field(default_factory=dict)
    place: Place | None = None
    camera: str | None = None
    words: Words = NO_WORDS
    live: str | None = None  # see `live_of`


NOTHING = Said()


_UUID = re.compile(r"[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}")
# What stands behind a NUL is left over from something else, but for the time of a day that stands before it.
_NUL_IN_MOMENT = re.compile(r"(?<=\d)\0+(?=\s?\d{1,2}:\d\d(?::|\b))")


def text_of(value: object, longest: int = 4 * LONGEST_TEXT) -> str:
    """A field as text: bounded, without NULs, control characters and superfluous spaces; "" where it is no text."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value[:longest]).decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    value = _NUL_IN_MOMENT.sub(" ", value[:longest].strip("\0 ")).split("\0")[0]
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def live_of(value: object) -> str | None:
    """What Apple's phones write into the still and the clip of a Live Photo, and into no others: a UUID."""
    text = text_of(value).upper()
    return text if _UUID.fullmatch(text) else None


def camera_of(make: object, model: object) -> str | None:
    """Make and model, without a make that the model repeats ("NIKON CORPORATION", "NIKON D90")."""
    maker, name = text_of(make), text_of(model)
    if maker and name and name.split()[0].lower() != maker.split()[0].lower():
        name = f"{maker} {name}"
    return unicodedata.normalize("NFC", name or maker)[:LONGEST_TEXT].strip() or None


def place_of(latitude: float | None, longitude: float | None) -> Place | None:
    """A place on the Earth; None for half a place, for none, and for 0, 0, which is written without a fix."""
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None
    if not (math.isfinite(latitude) and math.isfinite(longitude) and abs(latitude) <= 90 and abs(longitude) <= 180):
        return None
    return round(latitude, 7), round(longitude, 7)


def degrees_of(parts: Iterable[object], letter: str, letters: str) -> float | None:
    """Degrees, minutes and seconds with the letter of the hemisphere, in signed degrees.

    Minutes and seconds that are broken (0/0) count as none; broken degrees are no place.
    """
    numbers: list[float] = []
    for part in parts:
        try:
            number = float(part)  # type: ignore[arg-type]
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            number = math.nan
        numbers.append(number if math.isfinite(number) or not numbers else 0.0)
    letter = letter.strip().upper()[:1]
    if not 1 <= len(numbers) <= 3 or not letter or letter not in letters or not math.isfinite(numbers[0]):
        return None
    if any(number < 0 for number in numbers) or any(number > 60 for number in numbers[1:]):
        return None
    degrees: float = sum(number / 60**power for power, number in enumerate(numbers))
    return -degrees if letter == letters[1] else degrees


_WRITTEN_DEGREES = re.compile(
    r"\s*(?P<sign>[+-])?(?P<degrees>\d{1,3}(?:\.\d{1,20})?)°?"
    r"(?:\s*[, ]\s*(?P<minutes>\d{1,2}(?:\.\d{1,20})?)['′]?)?(?:\s*[, ]\s*(?P<seconds>\d{1,2}(?:\.\d{1,20})?)[\"″]?)?"
    r"\s*(?P<letter>[NSEWnsew])?\s*"
)


def written_degrees(text: str, letters: str) -> float | None:
    """Degrees as XMP writes them (`48,8.22N`, `11,34,33W`), or as a plain number."""
    match = _WRITTEN_DEGREES.fullmatch(text[:LONGEST_TEXT])
    if match is None:
        return None
    letter = match["letter"]
    if letter is None:
        if match["minutes"] is not None:
            return None
        letter = letters[match["sign"] == "-"]
    elif match["sign"] is not None:
        return None
    return degrees_of([match["degrees"], match["minutes"] or 0, match["seconds"] or 0], letter, letters)
