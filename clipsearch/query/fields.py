"""The table of filters: what a query can say beside words and pictures.

The parser, what is offered for a word that is nearly a filter, messages of mistakes, docs/query.md, what `--help` and
AI assistants are told, and the controls of the page come from it. Knows no index: a column is named as in
`store.columns`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from clipsearch.records import COLORS, TRAITS
from clipsearch.sentences import sentence

Kind = Literal[
    "text",  # a part of a text, or a pattern that fits all of it
    "list",  # the same, several separated by commas
    "number",  # `>2000`, `<=800`, `1000..2000`, with a unit
    "since",  # a moment, and all after it
    "until",  # all before a moment
    "shape",  # landscape, portrait, square
    "seen",  # names of what pixels say, several separated by commas
    "place",  # latitude, longitude, distance; or a town
    "tag",
    "words",  # words that stand in the picture
    "term",  # no filter: what `like:` names is compared with
]
Column = str | Callable[[Mapping[str, Any]], Any]

STARS: Mapping[str, int] = {"": 1, "star": 1, "stars": 1, "★": 1}
PIXELS: Mapping[str, int] = {"": 1, "px": 1, "pixel": 1, "pixels": 1}
BYTES: Mapping[str, int] = {
    "": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
    "byte": 1, "kbyte": 10**3, "mbyte": 10**6, "gbyte": 10**9, "kilobyte": 10**3, "megabyte": 10**6, "gigabyte": 10**9,
    "bytes": 1, "kbytes": 10**3, "mbytes": 10**6, "gbytes": 10**9, "kilobytes": 10**3, "megabytes": 10**6,
    "gigabytes": 10**9, "meg": 10**6, "megs": 10**6, "ko": 10**3, "mo": 10**6,
}  # fmt: skip
OTHER_UNITS = frozenset((
    "kilo", "mega", "giga", "thousand", "million", "kbit", "mbit", "mbits", "tb", "tib", "mp", "megapixel",
    "megapixels",
    "cm", "mm", "inch", "inches", "dpi", "kb", "mb", "gb", "px", "pixels", "k",
))  # fmt: skip
"""Units of something else, which no size or width is in: behind a number, they are an error and no word."""


class Control(NamedTuple):
    """What the page offers to set a filter with: a field for text or a date, or options (value, label)."""

    label: str
    placeholder: str = ""
    type: Literal["text", "date"] = "text"
    options: tuple[tuple[str, str], ...] = ()


class Field(NamedTuple):
    """A filter. `column` is what it asks of rows: the name of a stored column, or for numbers what is reckoned from
    several (0 where it is not known). `keeps` is what docs/query.md says that it keeps, of the `examples` there, and
    `say` has those that a mistake is answered with. `known_as`: words that other programs have for the same."""

    name: str
    kind: Kind
    column: Column
    keeps: str
    examples: tuple[str, ...]
    say: tuple[str, ...]
    known_as: str = ""
    control: Control | None = None
    units: Mapping[str, int] | None = None  # of numbers: what each is multiplied with
    exact: bool = True  # whether a number may stand alone, for exactly that one
    lowest: int = 0  # of numbers
    also: tuple[str, ...] = ()  # other names that mean the same

    @property
    def advice(self) -> str:
        """What a mistake is answered with."""
        if self.kind == "term":
            return sentence("write_like", "Write like:ID with the row_id of a hit.")
        if self.kind != "seen":
            return sentence("write", "Write {examples}.", examples=self.say)
        others = ", ".join(COLORS if self.name == "color" else KINDS[1:])
        return sentence("write_another", "Write {example}, or another of {names}.", example=self.say[0], names=others)

    @property
    def asks(self) -> str:
        """What nodes of the filter call the column: `after:` and `before:` both ask the date."""
        return "date" if self.kind in ("since", "until") else self.name


KINDS = (*TRAITS, "panorama")
"""What `is:` knows. A panorama is a photo at least PANORAMA times as long as high, or as high as long."""
PANORAMA = 2.0
SAME_NAMES = {
    "bw": "monochrome", "b&w": "monochrome", "black-and-white": "monochrome", "grayscale": "monochrome",
    "greyscale": "monochrome", "blurry": "blurred", "photograph": "photo", "scan": "document", "grey": "gray",
    "cyan": "teal", "turquoise": "teal", "violet": "purple",
}  # fmt: skip
"""What people call the same as one of these names or colours."""

_NEEDS_QUOTES = re.compile(r'[\s()"“”„]')
_FROM = "from this date on, or before it. `after:2023 before:2024` is the year 2023"
_PIXELS = "by size in pixels, after rotation"

_FIELDS = (
    Field(
        "folder",
        "text",
        "folder",
        "in a folder of this name, at any depth, or below it. Patterns as in `.gitignore`: a leading slash "
        "anchors it to the top, `*` stays within a name, `**` spans folders",
        ("folder:trips", "folder:/trips", "folder:trips/**", "folder:**/2023/*"),
        ("folder:trips/**",),
        "path dir directory dirs album in subfolder directories parent",
        Control("Folder", "trips/**"),
    ),
    Field(
        "name",
        "text",
        "name",
        "whose file name contains this; with `*` or `?`, whose whole name matches",
        ("name:beach", "name:IMG_*.jpg"),
        ("name:IMG_*",),
        "file filename basename filetitle",
        Control("File name", "*beach*"),
    ),
    Field(
        "tag",
        "tag",
        "tag",
        "with this tag, or found by this concept",
        ("tag:holiday",),
        ("tag:holiday",),
        "label labels category concept tags hashtag",
        Control("Tag", "my-dog"),
    ),
    Field(
        "keyword",
        "text",
        "keyword",
        "with a keyword that other programs wrote into the file or beside it. Each level of `Places/Italy/Rome` "
        "counts, as a whole if you write `*` or `?`",
        ("keyword:wedding", "keyword:italy/rome"),
        ("keyword:wedding",),
        "keywords subject subjects taglist",
        Control("Keyword", "wedding"),
    ),
    Field(
        "person",
        "text",
        "person",
        "of this person, as other programs named the faces",
        ("person:anna", 'person:"anna b*"'),
        ("person:anna",),
        "people persons face faces personinimage",
        Control("Person", "Anna"),
    ),
    Field(
        "caption",
        "text",
        "caption",
        "whose title, caption, description or comment contains this, or matches a pattern; also captions that a model "
        "wrote (`clipsearch caption`), which hits mark",
        ("caption:harbour",),
        ("caption:harbour",),
        "title description headline comment captions titles comments",
        Control("Caption", "harbour"),
    ),
    Field(
        "wrote",
        "text",
        "caption",
        "the same, only in what people wrote",
        ("wrote:harbour",),
        ("wrote:harbour",),
        "human humans manual",
        Control("Caption by people", "harbour"),
    ),
    Field(
        "generated",
        "text",
        "generated",
        "the same, only in captions that a model wrote; `generated:*` matches any",
        ("generated:harbour",),
        ("generated:harbour",),
        "machine automatic ai autocaption alt",
        Control("Caption by a model", "harbour"),
    ),
    Field(
        "column",
        "text",
        "column",
        "with this in another column of their table or archive: a number exactly, a text in part, or a pattern that "
        "matches all of it",
        ("column:license=cc-by", "column:id=17"),
        ("column:license=cc-by",),
        "field attribute property",
        Control("Column", "license=cc-by"),
    ),
    Field(
        "rating",
        "number",
        "rating",
        "by stars, 1 to 5. Rejected ones have -1; unrated ones never match",
        ("rating:>3", "rating:5", "rating:-1"),
        ("rating:>3", "rating:5", "rating:2..4"),
        "stars ratings rate rated",
        Control(
            "Rating",
            options=(
                (">=1", "1 star or more"),
                *((f">={n}", f"{n} stars or more") for n in (2, 3, 4)),
                ("5", "5 stars"),
                ("-1", "Rejected"),
            ),
        ),
        STARS,
        lowest=-1,
    ),
    Field(
        "text",
        "words",
        "words",
        "in which `clipsearch read` has read these words, or parts of them, in any order",
        ("text:invoice", 'text:"re16 tgk"'),
        ("text:invoice",),
        "ocr words writing written letters inscription",
        Control("Words in it", "invoice"),
    ),
    Field(
        "camera",
        "text",
        "camera",
        "whose camera make or model contains this, or matches a pattern",
        ("camera:canon",),
        ("camera:canon",),
        "exif make model device maker brand phone",
        Control("Camera", "*pixel*"),
    ),
    Field(
        "after",
        "since",
        "date_us",
        _FROM,
        ("after:2023", "after:2023-05"),
        ("after:2023", "after:2023-05", "after:2023-05-17"),
        "since from start begin newer",
        Control("From", type="date"),
    ),
    Field(
        "before",
        "until",
        "date_us",
        _FROM,
        ("before:2023-05-17",),
        ("before:2023", "before:2023-05", "before:2023-05-17"),
        "until till to end older upto",
        Control("Before", type="date"),
    ),
    Field(
        "near",
        "place",
        "latitude",
        "taken within this distance (`m`, `km`, `mi`) of coordinates or of a town (20 km if you give none)",
        ("near:48.85,2.35,10km", "near:lisbon", 'near:"new york, 5km"'),
        ("near:48.85,2.35,10km", "near:lisbon"),
        "gps location loc city town village region country geo lat lon latitude longitude where coordinates around at",
        Control("Near", "Lisbon, 10km"),
        also=("place",),
    ),
    Field(
        "ext",
        "list",
        "ext",
        "of this type; `jpg` and `jpeg` are the same",
        ("ext:jpg", "ext:png,webp"),
        ("ext:jpg",),
        "type format extension filetype kind mime suffix",
        Control("Type"),
    ),
    Field(
        "orientation",
        "shape",
        "width",
        "wider than high; also `portrait`, `square`",
        ("orientation:landscape",),
        ("orientation:landscape", "portrait", "square"),
        "orient rotation aspect layout ratio shape",
        Control("Shape", options=(("landscape", "Landscape"), ("portrait", "Portrait"), ("square", "Square"))),
    ),
    Field(
        "is",
        "seen",
        "traits",
        "of this kind, by its pixels; also `photo`, `document`, `drawing`, `panorama`, `blurred`, `dark`, `bright`, "
        "`transparent`; and `motion`, with a clip in the file or, of a Live Photo, beside it",
        ("is:monochrome", "is:screenshot"),
        ("is:monochrome",),
        "kind mode",
        Control("Kind", options=tuple((kind, kind.capitalize()) for kind in KINDS)),
    ),
    Field(
        "color",
        "seen",
        "colors",
        "much of which has this colour: `black`, `white`, `gray`, `red`, `orange`, `yellow`, `green`, `teal`, `blue`, "
        "`purple`, `pink`, `brown`",
        ("color:teal", "color:red,orange"),
        ("color:teal",),
        "colour colors colours farbe tone hue",
        Control("Colour", options=tuple((color, color.capitalize()) for color in COLORS)),
    ),
    Field(
        "width",
        "number",
        "width",
        _PIXELS,
        ("width:>2000", "width:1000..2000"),
        ("width:>2000", "width:<=800", "width:1000..2000"),
        "w resolution pixels dimensions",
        Control("Width", options=((">1000", "over 1,000 px"), (">2000", "over 2,000 px"), (">4000", "over 4,000 px"))),
        PIXELS,
    ),
    Field(
        "height",
        "number",
        "height",
        _PIXELS,
        ("height:<=800",),
        ("height:>2000", "height:<=800", "height:1000..2000"),
        "h",
        Control("Height", options=((">1000", "over 1,000 px"), (">2000", "over 2,000 px"), (">4000", "over 4,000 px"))),
        PIXELS,
    ),
    Field(
        "size",
        "number",
        "size_bytes",
        "by file size; 1 MB is a million bytes, 1 MiB is 1,048,576",
        ("size:>5MB", "size:<200kB"),
        ("size:>5MB", "size:<200kB", "size:1MB..2MB"),
        "filesize bytes megabytes mb",
        Control(
            "File size",
            options=(
                ("<100kB", "under 100 kB"),
                (">1MB", "over 1 MB"),
                (">5MB", "over 5 MB"),
                (">20MB", "over 20 MB"),
            ),
        ),
        BYTES,
        exact=False,
    ),
    Field(
        "like",
        "term",
        "",
        "",
        ("like:4711",),
        ("like:ID",),
        "similar image picture",
    ),
)
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
"""What can stand before a colon."""
SAME_FIELDS: dict[str, str] = {other: field.name for field in _FIELDS for other in field.also}
"""What else can: another name, and whose."""
FILTERS: dict[str, Field] = {name: field for name, field in FIELDS.items() if field.kind != "term"}
"""The fields that are filters, in the order in which the page offers them."""
WORDS = frozenset({"keyword", "person", "caption", "wrote", "rating"})
"""Those that ask for what people wrote with other programs."""
DATE_WORDS = "date dates year month day taken when time datetime created modified daterange during on"
"""Words of other programs for what `after:` and `before:` say together."""


def as_filter(name: str, value: str) -> str:
    """A filter as it is written in a query, in quotes where its value needs them. `value` has no double quote."""
    return f'{name}:"{value}"' if _NEEDS_QUOTES.search(value) else f"{name}:{value}"


def column_of(asked: str) -> Column:
    """The column that a node of a filter asks (see `Field.asks`)."""
    return next(field.column for field in FILTERS.values() if field.asks == asked)


def filter_rows() -> list[tuple[tuple[str, ...], str]]:
    """The filters for people: examples, and what they keep. Those that keep the same are one row."""
    rows: dict[str, tuple[str, ...]] = {}
    for field in FILTERS.values():
        rows[field.keeps] = (*rows.get(field.keeps, ()), *field.examples)
    return [(examples, keeps) for keeps, examples in rows.items()]
