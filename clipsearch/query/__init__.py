"""The query language: text, pictures, weights, negatives and filters become terms and a filter expression.

    "2:golden retriever" + ./pool.jpg - fruit  after:2023-05 (folder:trips/** or tag:holiday) not ext:png

docs/query.md is its reference, `fields` the table of filters. Every query passes through here: a plain sentence is done
with at once, and the parser is loaded for the others only. Knows no index, no model and no disk: whether a word names a
file is for the caller to say. Every sentence without an operator or a filter is text as it stands; hyphens,
apostrophes, colons and numbers in it mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from clipsearch.errors import EmptyQuery, InvalidQuery
from clipsearch.sentences import sentence

if TYPE_CHECKING:
    from clipsearch.query.nodes import Filter, Leaf

LENGTH_LIMIT = 10_000

TermKind = Literal["text", "picture", "like"]


@dataclass(frozen=True, slots=True)
class Term:
    """Something that pictures are compared with: words, the path of a picture, or what `like:` names (a row id or a
    concept). A path or a row id may end with a part of the picture (see `crops`). `weight` is negative for what is
    taken away. `position`: where it begins in the query. `vector`: of a picture that was encoded elsewhere."""

    kind: TermKind
    value: str
    weight: float = 1.0
    position: int = field(default=0, compare=False)
    vector: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. Without terms it lists what passes the filter; without a filter everything passes. `offers`: a
    line for each word that is nearly a filter."""

    source: str
    terms: tuple[Term, ...]
    filter: Filter | None = None
    offers: tuple[str, ...] = field(default=(), compare=False)

    def leaves(self) -> list[Leaf]:
        """Every single filter, in the order of the query: what an interface shows as controls."""
        from clipsearch.query.nodes import leaves_of

        return [] if self.filter is None else leaves_of(self.filter)


def parse_query(source: str, *, is_file: Callable[[str], bool] | None = None) -> Query:
    """Parse `source`. Raises: EmptyQuery, MalformedQuery with the position of what cannot be understood.

    `is_file` says whether a term that does not begin like a path names a picture all the same (`cat.jpg`).
    """
    check_length(source)
    if not source.isascii():
        source = _WORDS.sub(_in_plain_width, source)
    text = source.strip()
    if not text:
        raise EmptyQuery
    if _PLAIN.fullmatch(text) is not None:
        return Query(source, (Term("text", without_end(text), position=source.index(text[0])),))
    if is_file is not None and MARK in text:
        is_file = _or_part(is_file)
    if is_file is not None and is_file(text):
        return Query(source, (Term("picture", text, position=source.index(text[0])),))
    from clipsearch.query.parser import parse

    return parse(source, is_file)


def with_rows_raised(source: str, by: int) -> str:
    """A query whose `like:` names each row id raised by a number: the same picture, where several indexes are searched
    together. What cannot be understood stays as it is."""
    if not by or "like" not in source.lower():
        return source
    from clipsearch.query.scanner import Scanner

    try:
        items = Scanner(source).scan()
    except InvalidQuery:
        return source
    for item in reversed(items):
        if item.kind == "like" and (match := _ROW.match(item.text)) and int(match[0]) < by:
            at = source.rindex(item.text, item.start, item.end)
            source = f"{source[:at]}{int(match[0]) + by}{source[at + match.end() :]}"
    return source


def check_length(source: str) -> None:
    """Raises: InvalidQuery, for a query of more than LENGTH_LIMIT characters."""
    if len(source) > LENGTH_LIMIT:
        raise InvalidQuery(
            sentence(
                "too_long", "the query has {n:,} characters; the limit is {limit:,}", n=len(source), limit=LENGTH_LIMIT
            )
        )


MARK = "#xywh="
_ROW = re.compile(rf"\d{{1,18}}(?=$|{MARK})", re.ASCII)


def _or_part(is_file: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a term names a picture or a part of one. That the part is one is for whoever reads it to see."""

    def is_picture(name: str) -> bool:
        if is_file(name):
            return True
        whole, mark, part = name.rpartition(MARK)
        return bool(mark) and not any(map(str.isspace, part)) and is_file(whole)

    return is_picture


_WORDS = re.compile(r"\S+")
_OF_FILES = re.compile(r"[/\\]|\.\w")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "！，．：；？"}
"""Letters, digits and operators of East Asian input methods, and the same of everybody else's. The marks of sentences
stay: those of Chinese and Japanese have them."""


def _in_plain_width(match: re.Match[str]) -> str:
    """A word without full-width letters; names and paths of files stay as they are."""
    word = match[0]
    return word if _OF_FILES.search(word) else word.translate(_FULL_WIDTH)


_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Characters that say how to write a text and show nothing, as they come with what is pasted; but none of those that
emoji and scripts are joined by."""


def without_end(text: str) -> str:
    """A text without what changes nothing of what it asks for: marks at its ends (`dog.`, `(dog)`, `#dog`), and
    characters that show nothing."""
    text = given = _INVISIBLE.sub("", text)
    text = _without_quotes(text)
    plain = ""
    while plain != (plain := text):
        text = text.rstrip(" .?!…。？！,;:'\"”’»*_~").lstrip(" .?!…¿¡,;:'\"“‘«„#*_~")
        if text[:1] + text[-1:] in ("()", "[]", "{}"):
            text = text[1:-1]
    return plain if re.search(r"\w", plain) else given


_OPENING, _CLOSING = "'\"“‘«„", "'\"”’»”"


def _without_quotes(text: str) -> str:
    """A text without the marks of a quotation at one of its ends, both of them: `'stop sign' red`."""
    for opening, closing in zip(_OPENING, _CLOSING, strict=True):
        begins = re.match(rf"\s*{opening}(?=\w)([^{opening}{closing}]*\w){closing}(?!\w)", text)
        if begins is not None:
            text = begins[1] + text[begins.end() :]
        ends = re.search(rf"(?<!\w){opening}(?=\w)([^{opening}{closing}]*\w){closing}\s*$", text)
        if ends is not None:
            text = text[: ends.start()] + ends[1]
    return text


# No character that could be part of an operator, a filter or a path, nor a date without its colon: before2023.
_PLAIN = re.compile(r"(?!.*\b(?:after|before)\d{4})[\w ,;!?']+", re.IGNORECASE)
