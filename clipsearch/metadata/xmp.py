"""XMP: what editors write, in pictures and in files beside them. Parsed with expat as far as it goes."""

from __future__ import annotations

import contextlib
import re
from xml.parsers import expat

from clipsearch.metadata.moments import Moment, read_moment
from clipsearch.metadata.statements import NOTHING, Said, camera_of, place_of, text_of, written_degrees

LONGEST_PACKET_BYTES = 2 * 2**20  # dates come early, also in files with a long history of edits
_LONGEST_VALUE = 200

_NAMESPACES = {
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://purl.org/dc/elements/1.1/": "dc",
}
_DATES = {
    "exif:DateTimeOriginal": "DateTimeOriginal",
    "photoshop:DateCreated": "DateCreated",
    "xmp:CreateDate": "CreateDate",
    "exif:DateTimeDigitized": "DateTimeDigitized",
    "exif:GPSTimeStamp": "GPSTimeStamp",
    "exif:GPSDateTime": "GPSTimeStamp",
    "dc:date": "date",
    "xmp:ModifyDate": "ModifyDate",
    "tiff:DateTime": "DateTime",
}
_WANTED = frozenset({*_DATES, "exif:GPSLatitude", "exif:GPSLongitude", "tiff:Make", "tiff:Model"})
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def said_in_xmp(packet: object, prefix: str = "xmp") -> Said:
    """What an XMP packet says, its sources called `prefix:...`. Never raises."""
    fields = _fields(_decoded(packet))
    dates: dict[str, Moment] = {}
    for name, short in _DATES.items():
        moment = read_moment(fields.get(name, ""))
        if moment is not None:
            if short == "GPSTimeStamp" and not moment.span:
                moment = Moment(moment.start, utc=True)
            dates.setdefault(f"{prefix}:{short}", moment)
    place = place_of(
        written_degrees(fields.get("exif:GPSLatitude", ""), "NS"),
        written_degrees(fields.get("exif:GPSLongitude", ""), "EW"),
    )
    camera = camera_of(fields.get("tiff:Make"), fields.get("tiff:Model"))
    return Said(dates, place, camera) if fields else NOTHING


def _decoded(packet: object) -> str:
    """The packet's text from its first tag on, without what XML does not allow."""
    if isinstance(packet, str):
        text = packet[:LONGEST_PACKET_BYTES]
    elif isinstance(packet, (bytes, bytearray)):
        raw = bytes(packet[:LONGEST_PACKET_BYTES])
        head = raw[:4]
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"
        elif head[:1] == b"\0" or head[1:2] == b"\0":
            encoding = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
        else:
            encoding = "utf-8"
        text = raw.decode(encoding, "replace")
    else:
        return ""
    for beginning in ("<x:xmpmeta", "<rdf:RDF", "<"):
        at = text.find(beginning)
        if at >= 0:
            return _NOT_XML.sub(" ", text[at:])
    return ""


class _Enough(Exception):
    """The document has a part that no XMP has."""


def _fields(text: str) -> dict[str, str]:
    """The wanted properties, written as attributes or as elements. What comes before a mistake counts."""
    found: dict[str, str] = {}
    prefixes = {name: name for name in _NAMESPACES.values()} | {"xap": "xmp"}
    open_fields: list[str | None] = []

    def known(name: str) -> str | None:
        prefix, _, local = name.partition(":")
        full = f"{prefixes.get(prefix, '')}:{local}"
        return full if full in _WANTED else None

    def start(name: str, attributes: dict[str, str]) -> None:
        for key, value in attributes.items():
            if key.startswith("xmlns:") and value in _NAMESPACES:
                prefixes[key[6:]] = _NAMESPACES[value]
        for key, value in attributes.items():
            field = known(key)
            if field is not None:
                found.setdefault(field, value[:_LONGEST_VALUE].strip())
        open_fields.append(known(name))

    def end(_: str) -> None:
        field = open_fields.pop() if open_fields else None
        if field is not None and not found.get(field):
            found.pop(field, None)

    def characters(data: str) -> None:
        field = next((field for field in reversed(open_fields) if field is not None), None)
        if field is not None and (data := data.strip()):
            found[field] = (found.get(field, "") + data)[:_LONGEST_VALUE]

    def refuse(*_: object) -> None:
        raise _Enough

    if not text:
        return found
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = refuse  # entities that grow are declared there
    with contextlib.suppress(expat.ExpatError, _Enough, ValueError):
        parser.Parse(text.encode("utf-8", "replace"), True)
    return {name: text_of(value) for name, value in found.items()}
