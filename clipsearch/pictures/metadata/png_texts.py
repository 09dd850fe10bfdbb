"""PNG's texts: dates under the names that programs give them, and whole profiles in hexadecimal (ImageMagick's)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import Said, text_of

_LONGEST_PROFILE_CHARACTERS = 2**25
_DATES = {
    "exif:datetimeoriginal": "png:DateTimeOriginal",
    "datetimeoriginal": "png:DateTimeOriginal",
    "exif:datetimedigitized": "png:CreationTime",
    "creation time": "png:CreationTime",
    "creation date": "png:CreationTime",
    "creationtime": "png:CreationTime",
    "creationdate": "png:CreationTime",
    "create-date": "png:CreationTime",
    "createdate": "png:CreationTime",
    "date created": "png:CreationTime",
    "date": "png:CreationTime",
    "datetime": "png:CreationTime",
    "date time": "png:CreationTime",
    "photoshop:datecreated": "png:CreationTime",
    "xmp:createdate": "png:CreationTime",
    "exif:datetime": "png:ModifyDate",
    "modify-date": "png:ModifyDate",
    "modification time": "png:ModifyDate",
    "date:create": "png:ModifyDate",  # ImageMagick's: of the file that it read
    "date:modify": "png:ModifyDate",
    "xmp:modifydate": "png:ModifyDate",
}


def said_in_png_texts(info: dict[Any, Any]) -> Said:
    """What the texts of a PNG say, by their keywords in any letter case."""
    dates: dict[str, Moment] = {}
    for key, value in info.items():
        source = _DATES.get(key.strip().lower()) if isinstance(key, str) and isinstance(value, str) else None
        moment = None if source is None else read_moment(text_of(value))
        if source is not None and moment is not None:
            dates.setdefault(source, moment)
    return Said(dates)


def unpacked_profiles(info: dict[Any, Any]) -> Iterator[tuple[str, bytes]]:
    """The profiles in texts of a PNG, each as "exif", "xmp", "iptc" or "8bim" with its bytes."""
    for key, value in info.items():
        name = key.lower().removeprefix("raw profile type ") if isinstance(key, str) else ""
        if name not in ("exif", "xmp", "iptc", "8bim", "app1") or not isinstance(value, str) or name == key:
            continue
        try:  # a line with the name, one with the length, then hexadecimal
            digits = "".join(value[:_LONGEST_PROFILE_CHARACTERS].split()[2:])
            content = bytes.fromhex(digits[: len(digits) // 2 * 2])
        except ValueError:
            continue
        if content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            yield "xmp", content.partition(b"\0")[2]
        elif name in ("exif", "app1"):
            yield "exif", content
        else:
            yield name, content
