"""What is nearly a filter: `date:2023`, `camara:canon`. It is searched for as words; this says what to say instead.

Knows the names of the filters and what other programs call the same.
"""

from __future__ import annotations

import difflib
import re
from datetime import date, timedelta
from typing import get_args

from clipsearch.query.fields import DATE_WORDS, FIELDS, FILTERS, KINDS
from clipsearch.query.nodes import Shape
from clipsearch.records import COLORS

_KNOWN_AS = {word: field.name for field in FIELDS.values() for word in field.known_as.split()}
_KNOWN_AS |= dict.fromkeys(DATE_WORDS.split(), "date")
_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2}))?)?", re.ASCII)
_BETWEEN = re.compile(r"(.*?)\s*(?:\.\.\.?|…|–|,)\s*(.*)")
_ANY_DATES = "after:2023 before:2024"


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
        f"there is no filter {name}:, so {said} was searched as words. Did you mean {_instead(field, plain, word)}? "
        f'To search for the words without this line, put them in double quotes: "{said}"'
    )


def _misspelt(word: str) -> str | None:
    """The filter that a word is a slip away from: one letter wrong, missing, too many or swapped with its neighbour."""
    for field in FIELDS:
        if len(word) > 2 and abs(len(word) - len(field)) <= 1 and sorted(word) == sorted(field):
            return field
    near = difflib.get_close_matches(word, FILTERS, n=1, cutoff=0.75) if len(word) > 2 else []
    return near[0] if near else None


def _instead(name: str, value: str, said: str) -> str:
    if name == "date":
        return _dates_instead(said, value)
    field = FIELDS[name]
    match field.kind:
        case "text" | "list" | "tag" | "term":
            fits = True
        case "since" | "until":
            fits = _span_of(value) is not None
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


def _dates_instead(said: str, value: str) -> str:
    """The filters of the days that a value means; some example where it means none."""
    if said in ("month", "day") and re.fullmatch(r"\d{1,2}", value, re.ASCII):
        span = _span_of(f"2023-{value}" if said == "month" else f"2023-05-{value}")
        return _ANY_DATES if span is None else f"after:{span[0]} before:{span[1]}"
    sign = re.fullmatch(r"([<>]=?)(.+)", value)
    if sign is not None:
        span = _span_of(sign[2])
        if span is None:
            return _ANY_DATES
        return {">": "after:{1}", ">=": "after:{0}", "<": "before:{0}", "<=": "before:{1}"}[sign[1]].format(*span)
    between = _BETWEEN.fullmatch(value)
    first, last = (value, value) if between is None else between.groups()
    begin, end = _span_of(first), _span_of(last)
    if (first and begin is None) or (last and end is None):
        return _ANY_DATES
    parts = [f"after:{begin[0]}" if begin else "", f"before:{end[1]}" if end else ""]
    return " ".join(part for part in parts if part) or _ANY_DATES


def _span_of(value: str) -> tuple[str, str] | None:
    """A year, a month or a day, and the following one; None for what is no date."""
    match = _DATE.fullmatch(value)
    if match is None:
        return None
    year, month, day = (None if part is None else int(part) for part in match.groups())
    try:
        start = date(year or 0, month or 1, day or 1)
        if month is None:
            return f"{start.year:04d}", f"{date(start.year + 1, 1, 1).year:04d}"
        if day is None:
            following = date(start.year + start.month // 12, start.month % 12 + 1, 1)
            return f"{start:%Y-%m}".zfill(7), f"{following:%Y-%m}".zfill(7)
        return start.isoformat(), (start + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return None
