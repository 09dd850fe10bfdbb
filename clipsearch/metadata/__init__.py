"""What picture files say of themselves: when and where they were taken, and with what.

EXIF is often broken: whatever cannot be read is left out, and never fails the picture.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import IO

from PIL import Image

from clipsearch.formats import Kind
from clipsearch.records import PictureMetadata


def read_exif(image: Image.Image) -> Image.Exif | None:
    try:
        exif = image.getexif()
        exif.get(0x0112)  # parse
        return exif
    except Exception:  # Pillow's parser raises nearly anything on malformed EXIF
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
    value = None if exif is None else exif.get(0x0112)
    return value if isinstance(value, int) and 1 <= value <= 8 else default


def metadata_of(kind: Kind, exif: Image.Exif | None) -> PictureMetadata:
    if exif is None:
        return PictureMetadata(format=kind)
    try:
        details, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        latitude = _degrees(gps.get(2), gps.get(1), "NS", 90.0)
        longitude = _degrees(gps.get(4), gps.get(3), "EW", 180.0)
        if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
            latitude = longitude = None  # half a place is none, and cameras write 0, 0 without a fix
        taken_at = _timestamp(details.get(0x9003), details.get(0x9291))
        camera = _camera(exif.get(0x010F), exif.get(0x0110))
    except Exception:  # as above
        return PictureMetadata(format=kind)
    return PictureMetadata(kind, taken_at, camera, latitude, longitude)


def _text(value: object) -> str:
    """An EXIF string without control characters and superfluous spaces."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value.split("\0")[0]).split())


def _timestamp(value: object, subseconds: object) -> str | None:
    """EXIF's `YYYY:MM:DD HH:MM:SS` in ISO 8601, with its fraction where there is one."""
    try:
        moment = datetime.strptime(_text(value).replace("-", ":"), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    fraction = _text(subseconds)
    if fraction.isascii() and fraction.isdigit():
        moment = moment.replace(microsecond=int(fraction[:6].ljust(6, "0")))
    return moment.isoformat()


def _camera(make: object, model: object) -> str | None:
    """Make and model, without a make that the model repeats ("NIKON CORPORATION", "NIKON D90")."""
    maker, name = _text(make), _text(model)
    if maker and name and name.split()[0].lower() != maker.split()[0].lower():
        name = f"{maker} {name}"
    return (name or maker)[:100] or None


def _degrees(value: object, reference: object, letters: str, limit: float) -> float | None:
    """Degrees, minutes and seconds with a letter for the hemisphere, in signed degrees."""
    letter = _text(reference).upper()[:1]
    if not isinstance(value, (tuple, list)) or not 1 <= len(value) <= 3 or not letter or letter not in letters:
        return None
    degrees: float = sum(float(part) / 60**power for power, part in enumerate(value))
    if not math.isfinite(degrees) or not 0 <= degrees <= limit:
        return None
    return round(-degrees if letter == letters[1] else degrees, 7)
