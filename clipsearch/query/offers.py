"""What is nearly a filter: `date:2023`, `camara:canon`. It is searched for as words; this says what to say instead.

Knows the names of the filters and what other programs call the same.
"""

from __future__ import annotations

import difflib
import re

from clipsearch.query import FIELDS

_KNOWN_AS = {
    word: field
    for field, words in {
        "after": "since from start begin newer",
        "before": "until till to end older upto",
        "date": "date dates year month day taken when time datetime created modified daterange during on",
        "camera": "exif make model lens device maker brand iso phone",
        "name": "file filename title basename filetitle",
        "folder": "path dir directory dirs album in subfolder directories parent",
        "ext": "type format extension filetype kind mime suffix",
        "tag": "label labels keyword keywords category concept tags hashtag subject",
        "near": "gps location place geo lat lon latitude longitude where coordinates around at",
        "size": "filesize bytes megabytes mb",
        "orientation": "orient rotation aspect layout ratio shape is",
        "width": "w resolution pixels dimensions",
        "height": "h",
        "like": "similar image picture",
    }.items()
    for word in words.split()
}
_YEAR = re.compile(r"\d{4}")
_MONTH = re.compile(r"(\d{4})[-/.](\d{1,2})")
_EXAMPLES = {"near": "near:48.85,2.35,10km", "size": "size:>5MB", "orientation": "orientation:landscape"}
_TEXTS = ("folder", "name", "ext", "camera", "tag", "like")


def offer(name: str, value: str) -> str | None:
    """One line for `name:value`, where it is near a filter; None where it is a word with a colon."""
    word = name.lower()
    if value.startswith(("//", "\\")) or word in FIELDS or word == "like":
        return None
    field = _KNOWN_AS.get(word) or _misspelt(word)
    if field is None:
        return None
    plain = value.strip('"“”„')
    said = f"{name}:{value}"
    return (
        f"there is no filter {name}:, so {said} was searched for as words. Did you mean {_instead(field, plain)}? "
        f'To search for the words without this line, put them in double quotes: "{said}"'
    )


def _misspelt(word: str) -> str | None:
    """The filter that a word is a slip away from: one letter wrong, missing, too many or swapped with its neighbour."""
    for field in (*FIELDS, "like"):
        if len(word) > 2 and abs(len(word) - len(field)) <= 1 and sorted(word) == sorted(field):
            return field
    near = difflib.get_close_matches(word, FIELDS, n=1, cutoff=0.75) if len(word) > 2 else []
    return near[0] if near else None


def _instead(field: str, value: str) -> str:
    if field == "date":
        if _YEAR.fullmatch(value) and value < "9999":
            return f"after:{value} before:{int(value) + 1}"
        month = _MONTH.fullmatch(value)
        if month is not None and 1 <= int(month[2]) <= 12:
            year, number = int(month[1]) + int(month[2]) // 12, int(month[2]) % 12 + 1
            return f"after:{value} before:{year}-{number:02d}"
        return f"after:{value} or before:{value}" if re.fullmatch(r"\d[\d\-/.]*", value) else "after:2023 before:2024"
    if field in _TEXTS or (field in ("after", "before") and value[:1].isdigit()):
        return f'{field}:"{value}"' if " " in value else f"{field}:{value}"
    if field in ("width", "height"):
        return f"{field}:{value}" if re.fullmatch(r"[<>]?=?\d+", value) else f"{field}:>2000"
    if field in ("after", "before"):
        return f"{field}:2023-05"
    if field == "orientation" and value.lower() in ("landscape", "portrait", "square"):
        return f"orientation:{value.lower()}"
    return _EXAMPLES[field]
