"""Filter expressions, as the parser makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Shape = Literal["landscape", "portrait", "square"]


@dataclass(frozen=True, slots=True)
class Span:
    """Where a filter stands in the query: source[start:end]."""

    start: int
    end: int


_NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Glob:
    """Pictures whose folder, name, ext or camera (see `fields`) fits a pattern; `values` are alternatives."""

    column: str
    values: tuple[str, ...]
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Range:
    """Pictures with low <= value < high. Units: date microseconds since 1970 of the picture's own clock, width and
    height pixels, size bytes."""

    column: str
    low: int | None
    high: int | None
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Oriented:
    """Pictures that are wider than high, higher than wide, or neither."""

    shape: Shape
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures that pixels say one of some names of: traits (`is:`) or colours (`color:`); see `records`."""

    column: Literal["is", "color"]
    names: tuple[str, ...]
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Near:
    """Pictures taken within `radius_m` metres of a place (degrees, north and east positive)."""

    latitude: float
    longitude: float
    radius_m: float
    span: Span = field(default=_NOWHERE, compare=False)
    note: str = field(default="", compare=False)  # which place of that name it is, where there are others


@dataclass(frozen=True, slots=True)
class Tagged:
    """Pictures that carry a tag, or that a concept finds."""

    name: str
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Written:
    """Pictures in which all of some words stand, or letters of longer ones; `words` are as the query has them."""

    words: tuple[str, ...]
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Pictures that pass every one of `parts`."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Pictures that pass one of `parts` or more."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Pictures that do not pass `part`: the rest of the collection, also where the metadata is missing."""

    part: Filter


Leaf = Glob | Range | Oriented | Seen | Near | Tagged | Written
Filter = Leaf | AllOf | AnyOf | Not


def leaves_of(expression: Filter) -> list[Leaf]:
    """Every single filter of an expression, from left to right."""
    found: list[Leaf] = []
    todo = [expression]
    while todo:
        node = todo.pop()
        if isinstance(node, Not):
            todo.append(node.part)
        elif isinstance(node, AllOf | AnyOf):
            todo += reversed(node.parts)
        else:
            found.append(node)
    return found


def required_tags(expression: Filter) -> list[str]:
    """The tags that every passing picture has."""
    if isinstance(expression, Tagged):
        return [expression.name]
    return [name for part in expression.parts for name in required_tags(part)] if isinstance(expression, AllOf) else []
