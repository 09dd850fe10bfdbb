"""PNG's texts: dates under the names that programs give them, and whole profiles in hexadecimal (ImageMagick's)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from PIL.PngImagePlugin import iTXt

from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import Said, text_of
from clipsearch.pictures.metadata.words import MOST_CHARACTERS, Words, levels_of

_LONGEST_PROFILE_CHARACTERS = 2**25
_KEYWORDS = {
    "png:DateTimeOriginal": "datetimeoriginal datetaken dateshot",
    "png:CreationTime": "creationtime creationdate createtime createdate created datetimecreated datecreated "
    "timecreated date datetime datetimedigitized digitizeddate datedigitized timestamp",
    # date:... is ImageMagick's, of the file that it read
    "png:ModifyDate": "modifydate modifytime modificationtime modificationdate datemodified datetimemodified "
    "lastmodified modified exif:datetime tiff:datetime tiff:timestamp date:create date:modify date:timestamp",
}
_DATES = {keyword: source for source, keywords in _KEYWORDS.items() for keyword in keywords.split()}
_PREFIXES = ("exif:", "xmp:", "xap:", "photoshop:", "dc:", "dcterms:", "png:")
_SPACES = re.compile(r"[\s_\-/]+")


def _source(keyword: str) -> str | None:
    """What a keyword says the date of, however its words are parted: `Create Date`, `create-date`, `CreateDate`."""
    name = _SPACES.sub("", keyword).lower()
    if name in _DATES:
        return _DATES[name]
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
    return None if prefix is None else _DATES.get(name.removeprefix(prefix))


_WORDS = {
    "title": "titles",
    "headline": "titles",
    "description": "captions",
    "imagedescription": "captions",
    "exif:imagedescription": "captions",
    "caption": "captions",
    "comment": "captions",
    "usercomment": "captions",
    "exif:usercomment": "captions",
    "keywords": "keywords",
    "tags": "keywords",
}


def said_in_png_texts(info: dict[Any, Any]) -> Said:
    """What the texts of a PNG say, by their keywords in any spelling."""
    dates: dict[str, Moment] = {}
    words: dict[str, list[str]] = {what: [] for what in ("titles", "captions", "keywords")}
    for key, value in info.items():
        if isinstance(key, str) and isinstance(value, str) and (what := _WORDS.get(key.strip().lower())) is not None:
            text = _as_written(value)
            parts = re.split(r"[,;\n]", text[:MOST_CHARACTERS]) if what == "keywords" else [text]
            words[what] += [levels_of(part, "|") if what == "keywords" else part for part in parts]
        source = _source(key) if isinstance(key, str) and isinstance(value, str) else None
        moment = None if source is None else read_moment(text_of(value))
        if source is not None and moment is not None:
            dates.setdefault(source, moment)
    kept = {what: tuple(filter(None, texts)) for what, texts in words.items()}
    return Said(dates, words=Words(kept["titles"], kept["captions"], kept["keywords"], trust=2))


def _as_written(value: str) -> str:
    """A text whose bytes are UTF-8, although its kind of block says Latin-1, as many programs write it."""
    try:
        return value if isinstance(value, iTXt) else value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


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
