"""What follows the colon of a filter: patterns, dates, sizes, places."""

from __future__ import annotations

import re
from collections.abc import Callable

from clipsearch.query.nodes import Glob, Leaf, Near, Oriented, Range, Shape, Span, Tagged


class BadValue(Exception):
    """What is wrong with a value, and what to say instead."""


_NUMBER = re.compile(r"(>=|<=|>|<|=)?\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]*)")
_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2})(?:[T ](\d{1,2}):(\d{2}))?)?)?", re.ASCII)
_SIZES = {
    "": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344}
_SHAPES: dict[str, Shape] = {"landscape": "landscape", "portrait": "portrait", "square": "square"}


def _text_value(name: str, value: str, span: Span) -> Leaf:
    if not value:
        raise BadValue(f"{name}: needs a value", f"Say {_EXAMPLES[name]}.")
    if name == "tag":
        return Tagged(value, span)
    if name == "ext":
        return Glob("ext", tuple(part.removeprefix(".") for part in value.split(",") if part.strip(".")), span)
    assert name in ("folder", "name", "camera")
    return Glob(name, (value,), span)  # type: ignore[arg-type]


def _number_value(name: str, value: str, span: Span) -> Leaf:
    units = {"": 1, "px": 1} if name != "size" else _SIZES
    advice = f"Say {_EXAMPLES[name]}."
    low, dots, high = value.partition("..")
    if dots:
        bounds = [_NUMBER.fullmatch(end) if end else None for end in (low, high)]
        if any(end and (match is None or match[1]) for end, match in zip((low, high), bounds, strict=True)):
            raise BadValue(f"{value} is no range", advice)
        first, last = (None if match is None else _amount(match, units, advice) for match in bounds)
        if first is None and last is None:
            raise BadValue(f"{value} is no range", advice)
        return _range(name, None if first is None else _ceil(first), None if last is None else int(last) + 1, span)
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise BadValue(f"{name}: takes a number", advice)
    amount = _amount(match, units, advice)
    operator = match[1] or "="
    if operator == "=" and name == "size" and match[1] is None:
        raise BadValue("size: needs to know whether more or less", advice)
    if operator in (">", ">="):
        return _range(name, int(amount) + 1 if operator == ">" else _ceil(amount), None, span)
    if operator in ("<", "<="):
        return _range(name, None, _ceil(amount) if operator == "<" else int(amount) + 1, span)
    return _range(name, _ceil(amount), int(amount) + 1, span)


def _range(name: str, low: int | None, high: int | None, span: Span) -> Range:
    assert name in ("width", "height", "size", "date")
    return Range(name, low, high, span)  # type: ignore[arg-type]


def _amount(match: re.Match[str], units: dict[str, int], advice: str) -> float:
    factor = units.get(match[3].lower())
    if factor is None:
        raise BadValue(f"unknown unit {match[3]}", advice)
    return float(match[2]) * factor


def _ceil(amount: float) -> int:
    return -int(-amount // 1)


def _date_value(name: str, value: str, span: Span) -> Leaf:
    from datetime import datetime

    advice = f"Say {_EXAMPLES[name]}."
    match = _DATE.fullmatch(value)
    if match is None:
        raise BadValue(f"{name}: takes a year, a month or a day", advice)
    year, month, day, hour, minute = (None if part is None else int(part) for part in match.groups())
    try:
        moment = datetime(year or 0, month or 1, day or 1, hour or 0, minute or 0)
    except ValueError as error:
        raise BadValue(f"there is no such date ({error})", advice) from None
    passed = moment - datetime(1970, 1, 1)
    at_us = (passed.days * 86_400 + passed.seconds) * 1_000_000
    return Range("date", at_us, None, span) if name == "after" else Range("date", None, at_us, span)


def _shape_value(name: str, value: str, span: Span) -> Leaf:
    shape = _SHAPES.get(value.lower())
    if shape is None:
        raise BadValue(f"unknown orientation {value}", "Say orientation:landscape, portrait or square.")
    return Oriented(shape, span)


def _place_value(name: str, value: str, span: Span) -> Leaf:
    advice = f"Say {_EXAMPLES[name]}."
    parts = [part.strip() for part in value.split(",")]
    if len(parts) != 3:
        raise BadValue("near: needs a latitude, a longitude and a distance", advice)
    degrees: list[float] = []
    for part, limit in zip(parts, (90, 180), strict=False):
        if not re.fullmatch(r"[-+]?\d{1,3}(?:\.\d{1,12})?", part, re.ASCII) or abs(float(part)) > limit:
            raise BadValue(f"{part or 'nothing'} is no number between -{limit} and {limit}", advice)
        degrees.append(float(part))
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([a-zA-Z]+)", parts[2], re.ASCII)
    if match is None or match[2].lower() not in _METRES:
        raise BadValue(f"{parts[2] or 'nothing'} is no distance", advice)
    return Near(degrees[0], degrees[1], float(match[1]) * _METRES[match[2].lower()], span)


FIELDS: dict[str, Callable[[str, str, Span], Leaf]] = {
    "folder": _text_value,
    "name": _text_value,
    "ext": _text_value,
    "camera": _text_value,
    "tag": _text_value,
    "after": _date_value,
    "before": _date_value,
    "width": _number_value,
    "height": _number_value,
    "size": _number_value,
    "orientation": _shape_value,
    "near": _place_value,
    "like": _text_value,
}
_EXAMPLES = {
    "folder": "folder:trips/**",
    "name": "name:IMG_*",
    "ext": "ext:jpg",
    "camera": "camera:canon",
    "tag": "tag:holiday",
    "after": "after:2023, after:2023-05 or after:2023-05-17",
    "before": "before:2023, before:2023-05 or before:2023-05-17",
    "width": "width:>2000, width:<=800 or width:1000..2000",
    "height": "height:>2000, height:<=800 or height:1000..2000",
    "size": "size:>5MB, size:<200kB or size:1MB..2MB",
    "near": "near:48.85,2.35,10km",
}
