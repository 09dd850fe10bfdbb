"""XMP: what editors write, in pictures and in files beside them. Parsed with expat as far as it goes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from xml.parsers import expat

from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import NOTHING, Said, camera_of, place_of, text_of, written_degrees
from clipsearch.pictures.metadata.words import (
    LEVELS,
    LONGEST_CAPTION,
    MOST_KEYWORDS,
    NO_WORDS,
    Words,
    decoded_as,
    levels_of,
    stars,
)

LONGEST_PACKET_BYTES = 16 * 2**20  # of which a long history of edits, or a preview, may stand before the dates
_LONGEST_VALUE = 200
_MOST_PREFIXES = 128  # of the namespaces that count
_LONGEST_TEXT = 2 * LONGEST_CAPTION
_MOST_LANGUAGES = 16
_MOST_VALUES = 2 * MOST_KEYWORDS  # of a list
_DEEPEST_LEVEL = 32  # of a tree of keywords

_NAMESPACES = {
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://ns.adobe.com/xmp/1.0/DynamicMedia/": "xmpDM",
    "http://ns.adobe.com/lightroom/1.0/": "lr",
    "http://www.digikam.org/ns/1.0/": "digiKam",
    "http://ns.microsoft.com/photo/1.0/": "MicrosoftPhoto",
    "http://ns.microsoft.com/photo/1.0": "MicrosoftPhoto",
    "http://ns.microsoft.com/photo/1.2/": "MP",
    "http://ns.microsoft.com/photo/1.2/t/Region#": "MPReg",
    "http://www.metadataworkinggroup.com/schemas/regions/": "mwg-rs",
    "http://www.metadataworkinggroup.com/schemas/keywords/": "mwg-kw",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://ns.acdsee.com/iptc/1.0/": "acdsee",
    "http://ns.acdsee.com/regions/": "acdsee-rs",
    "http://ns.iview-multimedia.com/mediapro/1.0/": "mediapro",
    "http://ns.microsoft.com/expressionmedia/1.0/": "expressionmedia",
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
    "MicrosoftPhoto:DateAcquired": "DateAcquired",
    "xmp:ModifyDate": "ModifyDate",
    "tiff:DateTime": "DateTime",
    "dcterms:modified": "ModifyDate",
}
_TITLES = ("dc:title", "photoshop:Headline")
_CAPTIONS = (
    "dc:description", "acdsee:caption", "tiff:ImageDescription", "exif:UserComment", "acdsee:notes",
    "Iptc4xmpCore:AltTextAccessibility", "Iptc4xmpCore:ExtDescrAccessibility",
)  # fmt: skip
_KEYWORDS = {
    # the first are those with levels, and what is between these
    "lr:hierarchicalSubject": "|",
    "digiKam:TagsList": "/",
    "MicrosoftPhoto:LastKeywordXMP": "/",
    "MicrosoftPhoto:LastKeywordIPTC": "/",
    "mediapro:CatalogSets": "|",
    "expressionmedia:CatalogSets": "|",
    "dc:subject": "|",
    "acdsee:keywords": "|",
    "photoshop:SupplementalCategories": "|",
}
_CATEGORIES = "acdsee:categories"  # a document of its own in one text
_CATEGORY = re.compile(
    r"<(?:/Category|Category\s+Assigned=[\"'](?P<assigned>[01])[\"']\s*(?P<empty>/)?)>(?P<name>[^<]*)"
)
_PEOPLE = ("Iptc4xmpExt:PersonInImage", "mediapro:People", "expressionmedia:People")
_RATINGS = (("xmp:Rating", False), ("MicrosoftPhoto:Rating", True), ("acdsee:rating", False))
_TREES = frozenset(
    {"mwg-rs:Regions", "MP:RegionInfo", "acdsee-rs:Regions", "mwg-kw:Keywords", "Iptc4xmpExt:PersonInImageWDetails"}
)
"""What has structures in it, of which one says something by these fields."""
_NAMES = ("mwg-rs:Name", "MPReg:PersonDisplayName", "acdsee-rs:Name", "Iptc4xmpExt:PersonName")
_KINDS = ("mwg-rs:Type", "acdsee-rs:Type")
_LEAVES = frozenset({*_NAMES, *_KINDS, "mwg-kw:Keyword"})
_LISTS = frozenset({*_KEYWORDS, *_PEOPLE})
_TEXTS = frozenset({*_TITLES, *_CAPTIONS})  # whose values are in several languages
_WANTED = frozenset(
    {*_DATES, *_LISTS, *_TEXTS, *(name for name, _ in _RATINGS)}
    | {_CATEGORIES, "exif:GPSLatitude", "exif:GPSLongitude", "tiff:Make", "tiff:Model"}
)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def said_in_xmp(packet: object, prefix: str = "xmp") -> Said:
    """What an XMP packet says, its sources called `prefix:...`. Never raises."""
    reader = _read(_decoded(packet))
    fields = {name: text_of(values[0]) for name, values in reader.found.items()}
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
    words = _words(reader)
    return Said(dates, place, camera, words) if fields or words != NO_WORDS else NOTHING


def _words(reader: _Reader) -> Words:
    """What people wrote."""
    found = reader.found
    keywords = [levels_of(text, levels) for name, levels in _KEYWORDS.items() for text in found.get(name, ())]
    named = [(name, kind.casefold()) for name, kind in reader.regions]
    keywords += [LEVELS.join(path) for path in (*reader.paths, *_assigned(found.get(_CATEGORIES, [""])[0]))]
    keywords += [name for name, kind in named if kind == "pet"]
    people = [text for name in _PEOPLE for text in found.get(name, ())]
    people += [name for name, kind in named if kind in ("", "face")]
    ratings = [stars(found[name][0], percent=percent) for name, percent in _RATINGS if name in found]
    said = [rating for rating in ratings if rating is not None]
    return Words(
        tuple(text for name in _TITLES for text in found.get(name, ())),
        tuple(text for name in _CAPTIONS for text in found.get(name, ())),
        tuple(keywords),
        tuple(people),
        next((rating for rating in said if rating), next(iter(said), None)),
    )


def _assigned(categories: str) -> Iterator[tuple[str, ...]]:
    """ACDSee's categories that a picture is in, each with those above it."""
    above: list[str] = []
    for _, match in zip(range(_MOST_VALUES), _CATEGORY.finditer(categories), strict=False):
        if match["assigned"] is None:
            above = above[:-1]
        elif not match["empty"] and len(above) < _DEEPEST_LEVEL:
            above = [*above, unescape(match["name"])]
            if match["assigned"] == "1":
                yield tuple(above)


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
        text = decoded_as(raw, encoding)
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
    speaks of other pictures; but structures that name regions, people and keywords are looked through.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.regions: list[tuple[str, str]] = []  # names of what is seen, and what kinds of things they are
        self.paths: list[tuple[str, ...]] = []  # keywords with those above them
        self._prefixes = {name: name for name in _NAMESPACES.values()} | {"xap": "xmp", "rdf": "rdf"}
        self._scopes: list[tuple[int, dict[str, str]]] = []  # depths that declare some, and what held before
        self._depth = 0
        self._description: int | None = None  # the depth of the outermost one that is open
        self._field: str | None = None  # the property that is open
        self._ignored: int | None = None  # the depth of what is open and speaks of something else
        self._text: list[str] = []  # of the value that is open
        self._length = 0
        self._language = ""
        self._languages: dict[str, str] = {}  # of the values of a property in several languages
        self._tree: int | None = None  # the depth of the property that has structures
        self._structures: list[_Structure] = []  # that are open
        self._leaf: tuple[int, str] | None = None  # the field of a structure that is open

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
        self._begin_text()
        if self._description is None:
            if name == "rdf:Description":
                self._description = self._depth
                for key, value in attributes.items():
                    self._set(self._known(key), value)
        elif self._depth == self._description + 1:
            if name in _TREES:
                self._tree = self._depth
                self._structures = [_Structure(self._depth)]
                self._read_attributes(attributes)
            elif name in _WANTED and not self._has_enough(name):
                self._field, self._languages = name, {}
            else:
                self._ignored = self._depth
        elif self._tree is not None:
            self._start_in_tree(name, attributes)
        elif name not in _VALUES:
            self._ignored = self._depth
        elif self._field is not None:
            self._language = attributes.get("xml:lang", "")
            if name == "rdf:Description":  # a value with qualifiers
                for key, value in attributes.items():
                    if self._known(key) == "rdf:value":
                        self._set(self._field, value)

    def end(self, _: str) -> None:
        if self._ignored == self._depth:
            self._ignored = None
        elif self._ignored is None and self._tree is not None:
            self._end_in_tree()
        elif self._ignored is None and self._field is not None:
            self._end_value()
        self._begin_text()
        if self._description is not None:
            if self._depth == self._description:
                self._description = None
            if self._depth <= (self._description or 0) + 1:
                self._end_field()
        if self._scopes and self._scopes[-1][0] == self._depth:
            self._prefixes = self._scopes.pop()[1]
        self._depth -= 1

    def characters(self, data: str) -> None:
        is_wanted = self._field is not None or self._leaf is not None
        if is_wanted and self._ignored is None and self._length < _LONGEST_TEXT:
            self._text.append(data)
            self._length += len(data)

    def _begin_text(self) -> None:
        self._text, self._length = [], 0

    def _has_enough(self, field: str) -> bool:
        return len(self.found.get(field, ())) >= (_MOST_VALUES if field in _LISTS else 1)

    def _set(self, field: str, value: str) -> None:
        value = value.strip()
        if value and field in _WANTED and not self._has_enough(field):
            is_long = field in _TEXTS or field == _CATEGORIES
            self.found.setdefault(field, []).append(value[: _LONGEST_TEXT if is_long else _LONGEST_VALUE])

    def _end_value(self) -> None:
        """A value ends, or the property with its only one."""
        assert self._field is not None
        value = "".join(self._text)
        if self._field not in _TEXTS:
            self._set(self._field, value)
        elif value.strip() and len(self._languages) < _MOST_LANGUAGES:
            self._languages.setdefault(self._language, value.strip())

    def _end_field(self) -> None:
        if self._field in _TEXTS and self._languages:
            default = self._languages.pop("x-default", None)
            values = [*([] if default is None else [default]), *self._languages.values()]
            self.found.setdefault(self._field, values)
        self._field, self._languages, self._language = None, {}, ""

    # -- structures

    def _start_in_tree(self, name: str, attributes: dict[str, str]) -> None:
        if self._leaf is not None:
            return
        if name in _LEAVES:
            self._leaf = self._depth, name
        elif name == "rdf:li":
            if len(self._structures) > _DEEPEST_LEVEL:
                self._ignored = self._depth
                return
            self._structures.append(_Structure(self._depth))
        self._read_attributes(attributes)

    def _read_attributes(self, attributes: dict[str, str]) -> None:
        for key, value in attributes.items():
            if (known := self._known(key)) in _LEAVES and value.strip():
                self._structures[-1].fields.setdefault(known, value.strip()[:_LONGEST_VALUE])

    def _end_in_tree(self) -> None:
        if self._leaf is not None:
            depth, name = self._leaf
            if value := "".join(self._text).strip():
                self._structures[-1].fields.setdefault(name, value[:_LONGEST_VALUE])
            if self._depth == depth:
                self._leaf = None
        if self._structures and self._structures[-1].depth == self._depth:
            self._end_structure(self._structures.pop())
        if self._tree == self._depth:
            self._tree, self._structures, self._leaf = None, [], None

    def _end_structure(self, ended: _Structure) -> None:
        name = next((ended.fields[field] for field in _NAMES if field in ended.fields), None)
        if name is not None and len(self.regions) < _MOST_VALUES:
            self.regions.append((name, next((ended.fields[field] for field in _KINDS if field in ended.fields), "")))
        keyword = ended.fields.get("mwg-kw:Keyword")
        paths = ended.paths
        if keyword is not None:
            paths = [(keyword, *path) for path in paths] or [(keyword,)]
        above = self._structures[-1].paths if self._structures else self.paths
        above += paths[: max(0, _MOST_VALUES - len(above))]


@dataclass(slots=True)
class _Structure:
    """A structure that is open: its fields, and the keywords below its own."""

    depth: int
    fields: dict[str, str] = field(default_factory=dict)
    paths: list[tuple[str, ...]] = field(default_factory=list)


# What programs that do not escape leave: an ampersand or a bracket that begins nothing, and references to characters
# that XML does not have.
_STRAY = re.compile(
    r"&(?!(?:amp|lt|gt|quot|apos);|#(?:9|1[03]|3[2-9]|[4-9]\d|[1-9]\d{2,4});|#[xX]0{0,4}(?:9|[aAdD]|[2-9a-fA-F][\da-fA-F]|"
    r"[1-9a-cA-C][\da-fA-F]{2,3});)|<(?![^\W\d]|[:/!?])"
)


def _read(text: str) -> _Reader:
    """The wanted properties. What comes before a mistake counts."""
    reader = _Reader()

    def refuse(*_: object) -> None:
        raise _Enough

    if not text:
        return reader
    text = _STRAY.sub(lambda match: "&amp;" if match[0] == "&" else "&lt;", text)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = refuse  # entities that grow are declared there
    with contextlib.suppress(expat.ExpatError, _Enough, ValueError):
        parser.Parse(text.encode("utf-8", "replace"), True)
    return reader
