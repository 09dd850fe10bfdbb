"""The thing that a query of several words is about, for where nothing is certain for all of it."""

from __future__ import annotations

import re

from clipsearch.query import Query
from clipsearch.query.rewriting import PICTURE, PICTURES_ALONE, rewritten

_BEFORE_HEAD = re.compile(
    r"(?:(?:an?|the|my|our|some|all|any|two|three)\s+)*"
    rf"(?:{PICTURE}\s+(?:of|with|showing)|(?:shots?|portraits?)\s+of)\s+",
    re.IGNORECASE,
)
_NO_THING = re.compile(rf"{PICTURE}|background|\W.*", re.IGNORECASE)
_NOT_DOING = "building|wedding|evening|morning|ceiling|painting|clothing|earring|ring|king|wing|string|spring|thing"
_DOING = rf"(?!(?:{_NOT_DOING})\b)\w{{2,}}ing"
_AFTER_HEAD = re.compile(
    r"\s(?:in|on|at|with|without|of|for|from|by|near|under|over|behind|beside|between|against|into|through|and|or|but|no|not|except|minus|who|that"
    rf"|which|is|are|has|have|wears|holds|{_DOING}(?=\s+(?:an?|the|his|her|its|their|in|on|at|to|up|down|along|through|over"
    rf"|with|near|by)\b))\s.*|[,.;:?!].*|\s{_DOING}$",
    re.IGNORECASE | re.DOTALL,
)


def head_of(query: Query) -> tuple[str, str] | None:
    """The thing that a query of several words is about, and the query with nothing else in its place.

    The last word before the first preposition or what somebody does: "watch" of "a men watch on a table"; or, of a
    query that takes something away, what is asked for: "horse" of "horse -people". None for other queries of one word,
    or of more than one term.
    """
    wanted = [term for term in query.terms if term.weight > 0]
    if len(wanted) == 1 < len(query.terms) and wanted[0].kind == "text" and query.filter is None:
        text = wanted[0].value
        return (text, text) if re.fullmatch(r"[\w ]+", text) else None
    if len(query.terms) != 1 or query.terms[0].kind != "text" or query.terms[0].weight <= 0:
        return None
    term = query.terms[0]
    about = _AFTER_HEAD.sub("", _BEFORE_HEAD.sub("", term.value, count=1).strip(), count=1)
    words = [word for word in about.split() if not word.isdecimal()]
    if not words or len(words[-1]) < 3 or len(term.value.split()) < 2:
        return None
    if PICTURES_ALONE.fullmatch(about) or _NO_THING.fullmatch(words[-1]):
        return None
    written = rewritten(query, [term], [(term.value, words[-1])])
    return None if written is None else (words[-1], written)
