"""XMP: what editors write, in pictures and in files beside them. Parsed with expat as far as it goes."""

from __future__ import annotations

import contextlib
import re
from xml.parsers import expat

from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import NOTHING, Said, camera_of, place_of, text_of, written_degrees

LONGEST_PACKET_BYTES = 16 * 2**20  # of which a long history of edits, or a preview, may stand before the dates
_LONGEST_VALUE = 200
_MOST_PREFIXES = 64  # of the few namespaces that count

_NAMESPACES = {
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://ns.adobe.com/xmp/1.0/DynamicMedia/": "xmpDM",
    "http://ns.acdsee.com/iptc/1.0/": "acdsee",
    "http://ns.microsoft.com/photo/1.0": "MicrosoftPhoto",
    "http://ns.microsoft.com/photo/1.0/": "MicrosoftPhoto",
}
_DATES = {
    "exif:DateTimeOriginal": "DateTimeOriginal",
    "photoshop:DateCreated": "DateCreated",
    "xmpDM:shotDate": "DateCreated",
    "acdsee:datetime": "DateCreated",
    "xmp:CreateDate": "CreateDate",
    "dcterms:created": "CreateDate",
    "exif:DateTimeDigitized": "DateTimeDigitized",
    "exif:GPSTimeStamp": "GPSTimeStamp",
    "exif:GPSDateTime": "GPSTimeStamp",
    "dc:date": "date",
    "dcterms:date": "date",
    "MicrosoftPhoto:DateAcquired": "date",  # when it came from the camera
    "xmp:ModifyDate": "ModifyDate",
    "tiff:DateTime": "DateTime",
    "dcterms:modified": "ModifyDate",
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


_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_VALUES = frozenset({"rdf:Seq", "rdf:Bag", "rdf:Alt", "rdf:li", "rdf:value", "rdf:Description"})


class _Reader:
    """The wanted properties of the picture itself, written as attributes or as elements.

    They stand in the outermost rdf:Descriptions. What is deeper (history, ingredients, pantry, what it is derived from)
    speaks of other pictures.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._prefixes = {name: name for name in _NAMESPACES.values()} | {"xap": "xmp", "rdf": "rdf"}
        self._scopes: list[tuple[int, dict[str, str]]] = []  # depths that declare some, and what held before
        self._depth = 0
        self._description: int | None = None  # the depth of the outermost one that is open
        self._field: str | None = None  # the property that is open
        self._ignored: int | None = None  # the depth of what is open and speaks of something else
        self._is_read = False  # whether the first value of the property has ended

    def _known(self, name: str) -> str:
        prefix, _, local = name.rpartition(":")
        return f"{self._prefixes.get(prefix, '')}:{local}"

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._ignored is not None:
            return
        declared = {
            key[6:]: "rdf" if value == _RDF else _NAMESPACES[value]
            for key, value in attributes.items()
            if key.startswith("xmlns") and (value == _RDF or value in _NAMESPACES)
        }
        if declared:
            if len(self._scopes) >= _MOST_PREFIXES or len(self._prefixes) + len(declared) > _MOST_PREFIXES:
                raise _Enough
            self._scopes.append((self._depth, self._prefixes))
            self._prefixes = self._prefixes | declared
        name = self._known(name)
        if self._description is None:
            if name == "rdf:Description":
                self._description = self._depth
                for key, value in attributes.items():
                    self._set(self._known(key), value)
        elif self._depth == self._description + 1:
            if name in _WANTED and not self.found.get(name):
                self._field, self._is_read = name, False
            else:
                self._ignored = self._depth
        elif name not in _VALUES:
            self._ignored = self._depth
        elif name == "rdf:Description" and self._field is not None:  # a value with qualifiers
            for key, value in attributes.items():
                if self._known(key) == "rdf:value":
                    self._set(self._field, value)

    def end(self, _: str) -> None:
        if self._ignored == self._depth:
            self._ignored = None
        elif self._field is not None and self.found.get(self._field):
            self._is_read = True
        if self._description is not None:
            if self._depth == self._description:
                self._description = None
            if self._depth <= (self._description or 0) + 1:
                self._field = None
        if self._scopes and self._scopes[-1][0] == self._depth:
            self._prefixes = self._scopes.pop()[1]
        self._depth -= 1

    def characters(self, data: str) -> None:
        if self._field is None or self._ignored is not None or self._is_read:
            return
        if data := data.strip():
            self.found[self._field] = (self.found.get(self._field, "") + data)[:_LONGEST_VALUE]

    def _set(self, field: str, value: str) -> None:
        if field in _WANTED and not self.found.get(field):
            self.found[field] = value[:_LONGEST_VALUE].strip()


# What programs that do not escape leave: an ampersand or a bracket that begins nothing, and references to characters
# that XML does not have.
_STRAY = re.compile(
    r"&(?!(?:amp|lt|gt|quot|apos);|#(?:9|1[03]|3[2-9]|[4-9]\d|[1-9]\d{2,4});|#[xX]0{0,4}(?:9|[aAdD]|[2-9a-fA-F][\da-fA-F]|"
    r"[1-9a-cA-C][\da-fA-F]{2,3});)|<(?![^\W\d]|[:/!?])"
)


def _fields(text: str) -> dict[str, str]:
    """The wanted properties. What comes before a mistake counts."""
    reader = _Reader()

    def refuse(*_: object) -> None:
        raise _Enough

    if not text:
        return reader.found
    text = _STRAY.sub(lambda match: "&amp;" if match[0] == "&" else "&lt;", text)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = refuse  # entities that grow are declared there
    with contextlib.suppress(expat.ExpatError, _Enough, ValueError):
        parser.Parse(text.encode("utf-8", "replace"), True)
    return {name: text_of(value) for name, value in reader.found.items() if value}
