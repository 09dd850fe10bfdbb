"""What follows the colon of a filter: patterns, dates, sizes, places."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import floor

from clipsearch.folding import folded_words
from clipsearch.query.fields import KINDS, SAME_NAMES, Field, Kind
from clipsearch.query.nodes import Glob, Leaf, Near, Oriented, Range, Seen, Shape, Span, Tagged, Written
from clipsearch.records import COLORS
from clipsearch.sentences import sentence


class BadValue(Exception):
    """What is wrong with a value, and what to say instead."""


_NUMBER = re.compile(r"(>=|<=|>|<|=)?\s*(-?\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z★]*)")
_PLAIN_AMOUNT = r"\d{1,15}(?:\.\d{1,9})?\s*[a-zA-Z]*"
_FROM_TO = re.compile(rf"({_PLAIN_AMOUNT}?)\s*(?:[-–—]|\bto\b)\s*({_PLAIN_AMOUNT})", re.IGNORECASE)
_AND_MORE = re.compile(rf"({_PLAIN_AMOUNT})\s*\+")
_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2})(?:[T ](\d{1,2}):(\d{2}))?)?)?", re.ASCII)
_DISTANCE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([a-zA-Z]+)", re.ASCII)
_COORDINATE = re.compile(r"[-+.\d]|$", re.ASCII)  # how a coordinate begins; towns begin with a letter
AROUND_TOWN_M = 20_000.0
_METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344}
_NOTHING = sentence("nothing", "nothing")
_SHAPES: dict[str, Shape] = {"landscape": "landscape", "portrait": "portrait", "square": "square"}


def _text_value(field: Field, value: str, span: Span) -> Leaf:
    return Glob(field.asks, (value,), span)


def _list_value(field: Field, value: str, span: Span) -> Leaf:
    return Glob(field.asks, tuple(part.removeprefix(".") for part in value.split(",") if part.strip(".")), span)


def _tag_value(field: Field, value: str, span: Span) -> Leaf:
    return Tagged(value, span)


def _words_value(field: Field, value: str, span: Span) -> Leaf:
    words = tuple(word for word in value.split() if folded_words(word))
    if not words:
        raise BadValue(sentence("needs_word", "{name}: needs a word that can be read", name=field.name), field.advice)
    return Written(words, span)


def _number_value(field: Field, value: str, span: Span) -> Leaf:
    name = field.asks
    advice = field.advice
    value = _as_documented(value)
    low, dots, high = (part.strip() for part in value.partition(".."))
    if dots:
        bounds = [_NUMBER.fullmatch(end) if end else None for end in (low, high)]
        if any(end and (match is None or match[1]) for end, match in zip((low, high), bounds, strict=True)):
            raise BadValue(sentence("no_range", "{value} is not a range", value=value), advice)
        if bounds[0] is not None and bounds[1] is not None and not bounds[0][3] and bounds[1][3]:  # 5..10MB
            bounds[0] = _NUMBER.fullmatch(f"{low}{bounds[1][3]}")
        first, last = (None if match is None else _amount(match, field, advice) for match in bounds)
        if first is None and last is None:
            raise BadValue(sentence("no_range", "{value} is not a range", value=value), advice)
        return Range(name, None if first is None else _ceil(first), None if last is None else floor(last) + 1, span)
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise BadValue(sentence("needs_number", "{name}: needs a number", name=name), advice)
    amount = _amount(match, field, advice)
    operator = match[1] or "="
    if match[1] is None and not field.exact:
        raise BadValue(sentence("needs_range", "{name}: needs > or < or a range", name=name), advice)
    if operator in (">", ">="):
        return Range(name, floor(amount) + 1 if operator == ">" else _ceil(amount), None, span)
    if operator in ("<", "<="):
        return Range(name, None, _ceil(amount) if operator == "<" else floor(amount) + 1, span)
    return Range(name, _ceil(amount), floor(amount) + 1, span)


def _as_documented(value: str) -> str:
    """A number or range as docs/query.md writes it: `5-10MB` is `5..10MB`, `3+` is `>=3`."""
    if (between := _FROM_TO.fullmatch(value)) is not None:
        return f"{between[1]}..{between[2]}"
    if (more := _AND_MORE.fullmatch(value)) is not None:
        return f">={more[1]}"
    return value.replace("≥", ">=").replace("≤", "<=")


def _amount(match: re.Match[str], field: Field, advice: str) -> float:
    factor = (field.units or {"": 1}).get(match[3].lower())
    if float(match[2]) < field.lowest:
        if not field.lowest:
            raise BadValue(sentence("needs_number", "{name}: needs a number", name=field.name), advice)
        said = sentence(
            "needs_number_from", "{name}: needs a number, {lowest} or more", name=field.name, lowest=field.lowest
        )
        raise BadValue(said, advice)
    if factor is None:
        raise BadValue(sentence("unknown_unit", "unknown unit {unit}", unit=match[3]), advice)
    return float(match[2]) * factor


def _ceil(amount: float) -> int:
    return -floor(-amount)


def _date_value(field: Field, value: str, span: Span) -> Leaf:
    from datetime import datetime

    advice = field.advice
    match = _DATE.fullmatch(value)
    if match is None:
        raise BadValue(sentence("needs_date", "{name}: needs a year, a month or a day", name=field.name), advice)
    year, month, day, hour, minute = (None if part is None else int(part) for part in match.groups())
    try:
        moment = datetime(year or 0, month or 1, day or 1, hour or 0, minute or 0)
    except ValueError as error:
        raise BadValue(sentence("no_date", "the date does not exist ({problem})", problem=str(error)), advice) from None
    passed = moment - datetime(1970, 1, 1)
    at_us = (passed.days * 86_400 + passed.seconds) * 1_000_000
    return Range(field.asks, at_us, None, span) if field.kind == "since" else Range(field.asks, None, at_us, span)


def _shape_value(field: Field, value: str, span: Span) -> Leaf:
    shape = _SHAPES.get(value.lower())
    if shape is None:
        raise BadValue(_unknown(field, value), field.advice)
    return Oriented(shape, span)


def _unknown(field: Field, value: str) -> str:
    return sentence("unknown_value", "unknown {name} {value}", name=field.name, value=value)


def _seen_value(field: Field, value: str, span: Span) -> Leaf:
    known = KINDS if field.name == "is" else COLORS
    names = tuple(SAME_NAMES.get(part, part) for part in value.lower().replace(" ", "").split(",") if part)
    if field.name == "is" and len(names) == 1 and names[0] in _SHAPES:
        return Oriented(_SHAPES[names[0]], span)
    unknown = next((name for name in names if name not in known), None if names else value)
    if unknown is not None:
        raise BadValue(_unknown(field, unknown), field.advice)
    return Seen("is" if field.name == "is" else "color", names, span)


def _place_value(field: Field, value: str, span: Span) -> Leaf:
    advice = field.advice
    parts = [part.strip() for part in value.split(",")]
    distance = _DISTANCE.fullmatch(parts[-1]) if len(parts) > 1 else None
    if not _COORDINATE.match(parts[0]):
        return _named_place(value if distance is None else ",".join(parts[:-1]), distance, advice, span)
    if len(parts) != 3:
        said = sentence("needs_place", "{name}: needs a latitude, a longitude and a distance", name=field.name)
        raise BadValue(said, advice)
    degrees: list[float] = []
    for part, limit in zip(parts, (90, 180), strict=False):
        if not re.fullmatch(r"[-+]?\d{1,3}(?:\.\d{1,12})?", part, re.ASCII) or abs(float(part)) > limit:
            said = sentence(
                "not_between",
                "{value} is not a number between {least} and {most}",
                value=part or _NOTHING,
                least=-limit,
                most=limit,
            )
            raise BadValue(said, advice)
        degrees.append(float(part))
    return Near(degrees[0], degrees[1], _metres(distance, parts[2], advice), span)


def _named_place(name: str, distance: re.Match[str] | None, advice: str, span: Span) -> Leaf:
    """Within a distance of a town, AROUND_TOWN_M if none is said."""
    from clipsearch.errors import MissingExtra
    from clipsearch.gazetteer import UnclearPlace, find_town, listed

    radius_m = AROUND_TOWN_M if distance is None else _metres(distance, distance[0], advice)
    try:
        town, others = find_town(name)
    except UnclearPlace as problem:
        raise BadValue(*problem.args) from None
    except MissingExtra as missing:
        raise BadValue(str(missing), advice) from None
    said = [written for written in dict.fromkeys(other.written for other in others) if written != town.written]
    note = ""
    if said:
        note = sentence(
            "near_means",
            "near:{name} means {town}. For others, write {others}",
            name=name.strip(),
            town=f"{town.name}, {town.region}",
            others=listed(said),
        )
    return Near(town.latitude, town.longitude, radius_m, span, note)


def _metres(distance: re.Match[str] | None, written: str, advice: str) -> float:
    if distance is None or distance[2].lower() not in _METRES:
        raise BadValue(sentence("no_distance", "{value} is not a distance", value=written or _NOTHING), advice)
    return float(distance[1]) * _METRES[distance[2].lower()]


_READERS: dict[Kind, Callable[[Field, str, Span], Leaf]] = {
    "text": _text_value,
    "list": _list_value,
    "tag": _tag_value,
    "words": _words_value,
    "number": _number_value,
    "since": _date_value,
    "until": _date_value,
    "shape": _shape_value,
    "seen": _seen_value,
    "place": _place_value,
}


def read_value(field: Field, value: str, span: Span) -> Leaf:
    """The filter that a value makes of a field. Raises: BadValue."""
    if not value and field.kind in ("text", "list", "tag", "words", "seen"):
        raise BadValue(sentence("needs_value", "{name}: needs a value", name=field.name), field.advice)
    return _READERS[field.kind](field, value, span)
