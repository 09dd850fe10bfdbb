"""What is nearly a filter: `date:2023`, `camara:canon`, `size>5MB`. It is searched for as words; this says what to say
instead, with the value that was written. Where that value does not fit the filter, it says how the filter is written.

Knows the names of the filters and what other programs call the same.
"""

from __future__ import annotations

import difflib
import re
from datetime import date, timedelta

from clipsearch.filenames import ENDINGS
from clipsearch.query.fields import DATE_WORDS, FIELDS, FILTERS, SAME_FIELDS, Field, as_filter
from clipsearch.query.nodes import Span
from clipsearch.query.values import BadValue, read_value
from clipsearch.sentences import sentence

_KNOWN_AS = {word: field.name for field in FIELDS.values() for word in field.known_as.split()}
_KNOWN_AS |= dict.fromkeys(DATE_WORDS.split(), "date")
_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2}))?)?", re.ASCII)
_BETWEEN = re.compile(r"(.*?)\s*(?:\.\.\.?|…|–|,)\s*(.*)")
_NEAREST_DATES = sentence(
    "nearest_dates",
    "The nearest filters are after: and before:. Write {example}.",
    example="after:2023 before:2024",
)
_ENDINGS = "|".join(ending for endings in ENDINGS.values() for ending in endings.split())
_TYPES = re.compile(rf"\.?(?:{_ENDINGS})(?:,\S+)?", re.IGNORECASE)
_COORDINATES = re.compile(r"[-+]?\d{1,3}(?:\.\d+)?\s*,\s*[-+]?\d{1,3}(?:\.\d+)?", re.ASCII)
# A filter without its colon: `size>5MB`, `camera=canon`, `before2023`.
_NO_COLON = re.compile(r"([A-Za-z]+)(?:([<>]=?|[≤≥])|=)?(?=[^\s<>=:])(\S+)")
LEAST_BYTES = 1000  # no picture is smaller, or hardly one


def offer(name: str, value: str) -> str | None:
    """One line for `name:value`, where it is near a filter; None where it is a word with a colon."""
    word = name.lower()
    if value.startswith(("//", "\\")) or word in FIELDS or word in SAME_FIELDS:
        return None
    plain = value.strip('"“”„')
    field = _KNOWN_AS.get(word)
    if word in FIELDS["ext"].known_as.split() and _TYPES.fullmatch(plain):
        field = "ext"
    if field is None:
        field = _misspelt(word, plain)
        # so short a word is near by chance where its value says something else: iso:100
        if field is None or (len(word) <= 3 and _problem(FIELDS[field], plain) is not None):
            return None
    said = f"{name}:{value}"
    return sentence(
        "no_filter",
        "there is no filter {name}:, so {said} was searched as words. {instead} "
        'To search for the words without this line, put them in double quotes: "{name}:{plain}"',
        name=name,
        said=said,
        instead=_instead(field, plain, word),
        plain=plain,
    )


def offer_colon(written: str) -> str | None:
    """One line for a word that is a filter but for its colon: `size>5MB`, `camera=canon`, `before2023`."""
    match = _NO_COLON.fullmatch(written)
    if match is None:
        return None
    word, sign, value = match[1].lower(), match[2] or "", match[3]
    has_sign = match.end(1) < match.start(3)
    if word in DATE_WORDS.split():
        instead = _dates_instead(word, sign + value) if has_sign and word not in ("month", "day") else None
    else:
        field = FILTERS.get(word)
        is_date = field is not None and field.kind in ("since", "until")
        # `h=5` and `to=x` are of formulas and addresses, and words with digits behind them are names, but of dates
        if field is None or not (has_sign or is_date) or (sign and field.kind != "number"):
            return None
        instead = as_filter(field.name, sign + value) if _problem(field, sign + value) is None else None
    if instead is None:
        return None
    return sentence(
        "no_colon",
        "a filter has a colon, so {written} was searched as words. Did you mean {instead}?",
        written=written,
        instead=instead,
    )


def offer_joined(name: str, value: str) -> str | None:
    """One line for `size: >5MB`, whose value stands apart from its colon; None where it may be a word with a colon."""
    field = FILTERS[name]
    if field.kind == "text" and name not in ("folder", "camera", "keyword", "person"):
        return None
    if field.kind in ("words", "place") or _problem(field, value) is not None:
        return None
    return sentence(
        "no_space",
        "a filter has no space after its colon, so {written} was searched as words. Did you mean {instead}?",
        written=f"{name}: {value}",
        instead=as_filter(name, value),
    )


def offer_unit(name: str, value: str) -> str | None:
    """One line for `size:>5`, which is so few bytes that megabytes are meant; None where bytes may be."""
    numbers = re.findall(r"\d+(?:\.\d+)?", value)
    if max(map(float, numbers)) >= LEAST_BYTES:
        return None
    return sentence(
        "in_bytes",
        "{said} counts bytes. For megabytes, write {instead}",
        said=f"{name}:{value}",
        instead=as_filter(name, re.sub(r"\d+(?:\.\d+)?", r"\g<0>MB", "".join(value.split()))),
    )


def _misspelt(word: str, value: str) -> str | None:
    """The filter that a word is a slip away from: one letter wrong, missing, too many or swapped with its neighbour."""
    for field in FIELDS:
        if len(word) > 2 and abs(len(word) - len(field)) <= 1 and sorted(word) == sorted(field):
            return field
    near = difflib.get_close_matches(word, FILTERS, n=1, cutoff=0.75) if len(word) > 2 else []
    if not near and _TYPES.fullmatch(value):  # of three letters one is much, but not before what only one filter knows
        near = difflib.get_close_matches(word, ["ext"], n=1, cutoff=0.6)
    return near[0] if near else None


def _instead(name: str, value: str, said: str) -> str:
    """What to say for a value: a filter with it, or how the filter is written where the value does not fit."""
    if name == "date":
        meant = _dates_instead(said, value)
        return _did_you_mean(meant) if meant else _NEAREST_DATES
    field = FIELDS[name]
    if field.kind == "place" and _COORDINATES.fullmatch(value):
        value = f"{''.join(value.split())},10km"
    problem = _problem(field, value)
    if problem:
        return sentence("nearest_filter", "The nearest filter is {name}:. {problem}", name=name, problem=problem)
    return _did_you_mean(as_filter(field.name, value))


def _did_you_mean(meant: str) -> str:
    return sentence("did_you_mean", "Did you mean {meant}?", meant=meant)


def _problem(field: Field, value: str) -> str | None:
    """What to write where a value does not fit a filter, or is not likely to mean that."""
    if field.kind == "term":
        return None
    if field.kind == "place" and not _may_be_town(value):
        return field.advice
    try:
        read_value(field, value.strip(), Span(0, 0))
    except BadValue as problem:
        advice: str = problem.args[1]
        return advice
    return None


def _may_be_town(value: str) -> bool:
    """Whether the place is one of numbers, or a town, and no country, state, or room of a house."""
    from clipsearch.gazetteer import is_installed, is_town

    name = re.sub(r",[^,]*\d[^,]*$", "", value)  # without a distance
    return value[:1] in tuple("+-.0123456789") or not is_installed() or is_town(name)


def _dates_instead(said: str, value: str) -> str | None:
    """The filters of the days that a value means."""
    if said in ("month", "day") and re.fullmatch(r"\d{1,2}", value, re.ASCII):
        span = _span_of(f"2023-{value}" if said == "month" else f"2023-05-{value}")
        return None if span is None else f"after:{span[0]} before:{span[1]}"
    sign = re.fullmatch(r"([<>]=?)(.+)", value)
    if sign is not None:
        span = _span_of(sign[2])
        if span is None:
            return None
        return {">": "after:{1}", ">=": "after:{0}", "<": "before:{0}", "<=": "before:{1}"}[sign[1]].format(*span)
    between = _BETWEEN.fullmatch(value)
    first, last = (value, value) if between is None else between.groups()
    begin, end = _span_of(first), _span_of(last)
    if (first and begin is None) or (last and end is None):
        return None
    parts = [f"after:{begin[0]}" if begin else "", f"before:{end[1]}" if end else ""]
    return " ".join(part for part in parts if part) or None


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
