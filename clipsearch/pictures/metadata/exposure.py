"""How a picture was taken: lens, exposure, aperture, sensitivity and focal length, from its EXIF, when it is looked at.

Only blocks of metadata are read, by code of ours and Pillow's parser of TIFF tags, which is Python: no decoder runs.
"""

from __future__ import annotations

import io
import math
from typing import IO, Any, NamedTuple

from clipsearch.pictures.formats import Kind
from clipsearch.pictures.metadata.blocks import jpeg_segments
from clipsearch.pictures.metadata.exif import Exif, exif_of_bytes, read_tiff_exif
from clipsearch.pictures.metadata.statements import text_of

_DETAILS = 0x8769
_LENS, _LENS_MAKE = 0xA434, 0xA433
_EXPOSURE_S, _APERTURE, _ISO, _FOCAL_MM, _FOCAL_35MM = 0x829A, 0x829D, 0x8827, 0x920A, 0xA405
_MOST_BYTES = 1 << 22  # of a HEIC or AVIF file, of which an item somewhere is EXIF
_MOST_CHUNKS = 10_000
_LONGEST_BLOCK = 1 << 24
_LONGEST_NAME = 200


class Exposure(NamedTuple):
    """How a picture was taken, as far as it is said."""

    lens: str | None = None
    exposure_s: float | None = None
    aperture: float | None = None
    iso: int | None = None
    focal_length_mm: float | None = None
    focal_length_35mm: float | None = None


def read_exposure(stream: IO[bytes], kind: Kind) -> Exposure:
    """What a picture file of that kind says of it. Never raises."""
    try:
        return _said(_exif(stream, kind))
    except Exception:  # anything may stand in a file, and Pillow's parser raises nearly anything
        return Exposure()


def _exif(stream: IO[bytes], kind: Kind) -> Exif | None:
    stream.seek(0)
    if kind == "JPEG":
        bodies = (body for marker, body in jpeg_segments(stream) if marker == 0xE1 and body.startswith(b"Exif\0\0"))
        return _parsed(next(bodies, None))
    if kind == "PNG":
        stream.seek(8)
        return _parsed(_chunk(stream, b"eXIf", "big", 4))
    if kind == "WEBP":
        stream.seek(12)
        return _parsed(_chunk(stream, b"EXIF", "little", 0))
    if kind in ("HEIF", "AVIF"):
        content = stream.read(_MOST_BYTES)
        heads = (prefix + order for prefix in (b"Exif\0\0", bytes(4)) for order in (b"II*\0", b"MM\0*"))
        at, length = next(((at, len(head) - 4) for head in heads if (at := content.find(head)) >= 0), (-1, 0))
        return _parsed(content[at + length :]) if at >= 0 else None
    return read_tiff_exif(stream)  # TIFF, and most RAW files


def _parsed(body: bytes | None) -> Exif | None:
    return None if body is None else exif_of_bytes(body)


def _chunk(stream: IO[bytes], wanted: bytes, order: Any, after: int) -> bytes | None:
    """The body of a chunk of a PNG (length, name; a checksum after it) or RIFF file (name, length; padded)."""
    for _ in range(_MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return None
        length, name = (head[:4], head[4:]) if order == "big" else (head[4:], head[:4])
        size = int.from_bytes(length, order)
        if name == wanted and size <= _LONGEST_BLOCK:
            return stream.read(size)
        stream.seek(size + after + (size % 2 if order == "little" else 0), io.SEEK_CUR)
    return None


def _said(exif: Exif | None) -> Exposure:
    if exif is None:
        return Exposure()
    details: Any = exif.directory(_DETAILS)

    def field(tag: int) -> Any:
        value = details.get(tag)
        return exif.get(tag) if value is None else value  # TIFF/EP keeps all in one place

    make, model = (" ".join(text_of(field(tag)).split())[:_LONGEST_NAME] for tag in (_LENS_MAKE, _LENS))
    lens = model if not make or model.lower().startswith(make.split()[0].lower()) else f"{make} {model}".strip()
    iso = field(_ISO)
    number = _number(iso[0] if isinstance(iso, tuple) and iso else iso, 1e8)
    return Exposure(
        lens or None,
        _number(field(_EXPOSURE_S), 1e6),
        _number(field(_APERTURE), 1e4),
        None if number is None else round(number),
        _number(field(_FOCAL_MM), 1e6),
        _number(field(_FOCAL_35MM), 1e6),
    )


def _number(value: Any, most: float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) and 0 < number < most else None
