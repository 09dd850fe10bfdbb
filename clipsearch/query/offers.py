"""What is nearly a filter: `date:2023`, `camara:canon`. It is searched for as words; this says what to say instead.

Knows the names of the filters and what other programs call the same.
"""

from __future__ import annotations

import difflib
import re
from typing import get_args

from clipsearch.query.fields import DATE_WORDS, FIELDS, FILTERS, KINDS
from clipsearch.query.nodes import Shape
from clipsearch.records import COLORS

_KNOWN_AS = {word: field.name for field in FIELDS.values() for word in field.known_as.split()}
_KNOWN_AS |= dict.fromkeys(DATE_WORDS.split(), "date")
_YEAR = re.compile(r"\d{4}")
_MONTH = re.compile(r"(\d{4})[-/.](\d{1,2})")


def offer(name: str, value: str) -> str | None:
    """One line for `name:value`, where it is near a filter; None where it is a word with a colon."""
    word = name.lower()
    if value.startswith(("//", "\\")) or word in FIELDS:
        return None
    field = _KNOWN_AS.get(word) or _misspelt(word)
    if field is None:
        return None
    plain = value.strip('"“”„')
    said = f"{name}:{value}"
    return (
        f"there is no filter {name}:, so {said} was searched as words. Did you mean {_instead(field, plain)}? "
        f'To search for the words without this line, put them in double quotes: "{said}"'
    )


def _misspelt(word: str) -> str | None:
    """The filter that a word is a slip away from: one letter wrong, missing, too many or swapped with its neighbour."""
    for field in FIELDS:
        if len(word) > 2 and abs(len(word) - len(field)) <= 1 and sorted(word) == sorted(field):
            return field
    near = difflib.get_close_matches(word, FILTERS, n=1, cutoff=0.75) if len(word) > 2 else []
    return near[0] if near else None


def _instead(name: str, value: str) -> str:
    if name == "date":
        if _YEAR.fullmatch(value) and value < "9999":
            return f"after:{value} before:{int(value) + 1}"
        month = _MONTH.fullmatch(value)
        if month is not None and 1 <= int(month[2]) <= 12:
            year, number = int(month[1]) + int(month[2]) // 12, int(month[2]) % 12 + 1
            return f"after:{value} before:{year}-{number:02d}"
        return f"after:{value} or before:{value}" if re.fullmatch(r"\d[\d\-/.]*", value) else "after:2023 before:2024"
    field = FIELDS[name]
    match field.kind:
        case "text" | "list" | "tag" | "term":
            fits = True
        case "since" | "until":
            fits = value[:1].isdigit()
        case "number":
            fits = field.exact and re.fullmatch(r"[<>]?=?\d+", value) is not None
        case "shape":
            value = value.lower()
            fits = value in get_args(Shape)
        case "seen":
            fits = value.lower() in (*KINDS, *COLORS) and (value.lower() in COLORS) == (name == "color")
        case "place":
            fits = False
    if fits:
        return f'{name}:"{value}"' if " " in value else f"{name}:{value}"
    return f"{name}:2023-05" if field.kind in ("since", "until") else field.examples[0]
