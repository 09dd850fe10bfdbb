"""A query with some of its words replaced, to be offered: it can be asked as it stands, and nothing else of it changes.

What cannot be told apart or would change another term or filter is not offered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from clipsearch.errors import InvalidQuery
from clipsearch.query import Query, Term, parse_query
from clipsearch.query.nodes import AllOf, Filter

_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|„[^“”]*[“”]')
_MARKS = " ,.;?!"
PICTURE = r"(?:photos?|photographs?|pictures?|pics?|images?|fotos?|bilder)"
# What names no picture more than another: "photos from yesterday" are all of them.
PICTURES_ALONE = re.compile(
    rf"(?:(?:please|show|find|give|get|me|us|a|an|all|any|every|the|my|our|some|of|those|alle|meine)\s+)*{PICTURE}"
    r"(?:\s+(?:with|of|in|on|from|taken|made|shot|that|which|are|were))*",
    re.IGNORECASE,
)
# What is left of a sentence at the side of what is taken out of it, and says nothing by itself.
_DANGLING_END = re.compile(
    r"(?:^|\s)(?:an?|the|of|in|on|at|from|with|and|but|or|that|which|who|there|is|are|has|have|having|showing|im|am|aus"
    r"|mit|und|aber|en|de|du|avec|et|mais|con|y|pero|&&?|\+)$",
    re.IGNORECASE,
)
_DANGLING_START = re.compile(
    r"(?:of\s+|(?:in|on|at)\s+(?:it|them|there|sight|view)\b|there\b|around\b|at\s+all\b|visible\b|please\b|and\s+|but\s+|"
    r"with\s+(?=an?\s))\s*",
    re.IGNORECASE,
)


def rewritten(
    query: Query, terms: Sequence[Term], phrases: Sequence[tuple[str, str]], added: str = "", *, quoted: bool = False
) -> str | None:
    """A query with phrases of the words of `terms` replaced, in their order, and `added` at its end.

    `quoted`: also in double quotes, where else what is written is meant as it stands. None where none can be
    offered.
    """
    source = query.source
    try:
        asked = parse_query(source)
    except InvalidQuery:
        return None
    start = min(term.position for term in terms)
    while (at := source.find(phrases[0][0], start)) >= 0:
        start = at + 1
        for written in _candidates(source, at, phrases, added, quoted):
            if written != " ".join(source.split()) and _changes_nothing_else(asked, terms, written, phrases, added):
                return written
    return None


def corrected(query: Query, term: Term, word: str, meant: str) -> str | None:
    """The query with another word for a misspelt one of a term; None where it cannot be offered."""
    return rewritten(query, [term], [(word, meant)], quoted=True)


def _candidates(source: str, at: int, phrases: Sequence[tuple[str, str]], added: str, quoted: bool) -> Iterator[str]:
    quotations = [match.span() for match in _QUOTED.finditer(source)]
    body, end = "", 0
    for number, (phrase, instead) in enumerate(phrases):
        found = at if number == 0 else source.find(phrase, end)
        if found < 0 or (not quoted and any(first < found < last for first, last in quotations)):
            return
        before, end = source[end:found], found + len(phrase)
        if instead:
            body = _joined(body, before) + instead
            if number + 1 == len(phrases):
                body += source[end:]
        else:
            body = _joined(body, before)
            if number + 1 == len(phrases):
                body = _joined(body, source[end:], is_last=True)
    if any(instead for _, instead in phrases):
        yield f"{body} {added}".strip()
        return
    body = " ".join(re.sub(r"\(\s*\)|\[\s*\]", " ", body).split())
    body = re.sub(r"^\+\s+", "", body)
    if added and PICTURES_ALONE.fullmatch(body):
        body = ""
    for whole in dict.fromkeys((body.rstrip(_MARKS), body)):
        yield f"{whole.removesuffix(' +')} {added}".strip()


def _joined(before: str, after: str, *, is_last: bool = False) -> str:
    """Two parts of a query between which words were taken out."""
    if not before and not is_last:
        return after
    mark = ", " if after.lstrip().startswith(",") and re.search(r"\w", after) else " "
    before, after = before.rstrip(" ,.;"), after.lstrip(_MARKS)
    if is_last:
        after = _DANGLING_START.sub("", after, count=1) if _DANGLING_START.match(after) else after
    if not after or re.match(r"[A-Za-z]+:\S|[-+−]", after):
        while (shorter := _DANGLING_END.sub("", before)) != before:
            before = shorter.rstrip(" ,.;")
    if re.fullmatch(r"(?:an?|the|of)", before, re.IGNORECASE):
        before = ""
    return f"{before}{mark}{after}" if before and after else before or after


def _changes_nothing_else(
    asked: Query, terms: Sequence[Term], written: str, phrases: Sequence[tuple[str, str]], added: str
) -> bool:
    """Whether a query has all that was asked but for some words of `terms`, and nothing that nobody asked for."""
    try:
        offered = parse_query(written)
    except InvalidQuery:
        return False
    before, after = _parts(asked.filter), _parts(offered.filter)
    if [part for part in after if part in before] != before:
        return False
    own = Counter((term.kind, term.value, term.weight) for term in terms)
    others = Counter((term.kind, term.value, term.weight) for term in asked.terms) - own
    now = Counter((term.kind, term.value, term.weight) for term in offered.terms)
    if others - now:
        return False
    known = Counter(_words(" ".join([asked.source, added, *(instead for _, instead in phrases)])))
    said = Counter(word for _, value, _ in (now - others).elements() for word in _words(value))
    return not said - known


def _parts(expression: Filter | None) -> list[Filter]:
    if expression is None:
        return []
    return list(expression.parts) if isinstance(expression, AllOf) else [expression]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s\"“”„,.;:?!()\[\]+−-]+", text)
