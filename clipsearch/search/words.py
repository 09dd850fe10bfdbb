"""Words that stand in pictures, as a query asks for them: by `text:`, or because its own words are the picture's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from clipsearch.folding import fold_name, folded_words
from clipsearch.query.nodes import AllOf, AnyOf, Filter, Written
from clipsearch.records import Line

MOST_LINES = 8  # of a picture, that a hit shows

_WORD = re.compile(r"\w+")


def asked_words(expression: Filter | None) -> list[str]:
    """The words that `text:` asks for, but for those of which a picture must have none."""
    if isinstance(expression, Written):
        return list(expression.words)
    if isinstance(expression, AllOf | AnyOf):
        return [word for part in expression.parts for word in asked_words(part)]
    return []


def words_of(text: str) -> list[str]:
    """The words of a text, folded."""
    return _WORD.findall(fold_name(text))


def lines_with_parts(lines: Iterable[Line], words: Sequence[str]) -> list[Line]:
    """Those lines in which one of some words stands, or a longer one that holds it."""
    wanted = [folded for word in words if (folded := folded_words(word))]
    return [line for line in lines if any(word in folded_words(line.text) for word in wanted)]


def lines_with_words(lines: Iterable[Line], words: Sequence[str]) -> list[Line]:
    """Those lines in which one of some folded words stands."""
    wanted = frozenset(words)
    return [line for line in lines if not wanted.isdisjoint(words_of(line.text))]
