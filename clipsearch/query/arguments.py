"""What is asked for beside a query: numbers of any library become Python's; anything else is an InvalidQuery.

A local collection and a remote one read their arguments here, so that both take, and refuse, the same ones.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipsearch.errors import InvalidQuery, NoSuchPicture
from clipsearch.query import LENGTH_LIMIT, Query

if TYPE_CHECKING:
    from clipsearch.records import FloatArray

MOST_EXAMPLES = 10_000
"""Row ids in `like` or `unlike` of one search."""
FARTHEST = 2**53
"""More than any index has: a larger `k` or `offset` means the same."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a search is asked for beside its query, in Python's own types. `vector`: shape (D,), float64."""

    sort: Any
    unique: bool
    diverse: bool | float
    like: tuple[int, ...]
    unlike: tuple[int, ...]
    vector: FloatArray | None
    all: bool


def read_arguments(
    *, sort: object, unique: object, diverse: object, like: object, unlike: object, vector: object, all: object
) -> Arguments:
    """The arguments of a search, checked. Raises: InvalidQuery."""
    if not isinstance(sort, str):
        raise InvalidQuery(f"hits cannot be sorted by {sort!r}. Use one of: score, date, path")
    return Arguments(
        str(sort),
        read_switch("unique", unique),
        _diversity(diverse),
        _examples("like", like),
        _examples("unlike", unlike),
        read_vector(vector),
        read_switch("all", all),
    )


def read_window(k: object, offset: object = 0) -> tuple[int, int]:
    """How many hits are wanted, and from which number on. Raises: InvalidQuery."""
    count, first = read_whole("k", k), read_whole("offset", offset)
    if count < 1 or first < 0:
        raise InvalidQuery(
            f"cannot return {count} hits from offset {first}: k must be at least 1, offset at least 0"
            if first
            else f"cannot return {count} hits: k must be at least 1"
        )
    return min(count, FARTHEST), min(first, FARTHEST)


def read_queries(query: Any) -> tuple[list[Any], bool]:
    """The queries that were asked, and whether it is one that is not in a list. Raises: InvalidQuery."""
    if isinstance(query, str | os.PathLike | Query):
        return [query], True
    try:
        queries = list(query)
    except TypeError:
        queries = [query]
    for one in queries:
        if not isinstance(one, str | os.PathLike | Query):
            raise InvalidQuery(f"{one!r} is not a query: a query is a text or a path")
    return queries, False


def read_whole(name: str, value: Any) -> int:
    """A whole number of any type. Raises: InvalidQuery."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise InvalidQuery(f"{name} is {value!r}: it must be a whole number") from None


def read_switch(name: str, value: Any) -> bool:
    """A truth value of any type. Raises: InvalidQuery."""
    try:
        if value in (False, True):
            return bool(value)
    except ValueError:  # an array
        pass
    raise InvalidQuery(f"{name} is {value!r}: it must be True or False")


def read_row_ids(name: str, values: Any) -> tuple[int, ...]:
    """Row ids of any type. Raises: InvalidQuery for what cannot be one; whether there is such a row is not known."""
    if isinstance(values, str | bytes):
        raise InvalidQuery(f"{name} is {values!r}: it must be a list of row ids")
    try:
        return tuple(int(operator.index(value)) for value in values)
    except TypeError:
        raise InvalidQuery(f"{name} must be a list of row ids, which are whole numbers") from None


def read_row_id(value: Any) -> int:
    """A row id of any type. Raises: NoSuchPicture for what cannot be one."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise NoSuchPicture(value) from None


def read_vector(vector: Any) -> FloatArray | None:
    """A vector of any length and library, or None. Shape: (D,) float64. Raises: InvalidQuery."""
    if vector is None:
        return None
    import numpy as np

    try:
        given = np.asarray(vector)
    except (TypeError, ValueError):  # rows of different lengths
        given = np.empty((0, 0), object)
    if given.ndim != 1 or given.dtype.kind not in "biuf":
        raise InvalidQuery("vector must be one row of numbers, as encode_text and vector(row_id) return it")
    with np.errstate(over="ignore"):
        row: FloatArray = given.astype(np.float64)
    return row


def read_texts(texts: Iterable[Any]) -> list[str]:
    """Texts to encode. Raises: InvalidQuery for what is no text, or longer than a query can be."""
    try:
        every = list(texts)
    except TypeError:
        raise InvalidQuery("the texts must be a list of strings") from None
    for text in every:
        if not isinstance(text, str):
            raise InvalidQuery(f"{text!r} is not a text")
        if len(text) > LENGTH_LIMIT:
            raise InvalidQuery(f"the text has {len(text):,} characters; the limit is {LENGTH_LIMIT:,}")
    return every


def _diversity(value: Any) -> bool | float:
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidQuery(f"diverse is {value!r}: it must be between 0 and 1")
    return number


def _examples(name: str, values: Any) -> tuple[int, ...]:
    row_ids = read_row_ids(name, values)
    if len(row_ids) > MOST_EXAMPLES:
        raise InvalidQuery(f"{name} has {len(row_ids):,} row ids; the limit is {MOST_EXAMPLES:,}")
    return row_ids
