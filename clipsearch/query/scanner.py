"""The scanner: goes through a query once and cuts it into words, quotations, operators and filters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from clipsearch.errors import MalformedQuery
from clipsearch.query.fields import FIELDS, FILTERS, OTHER_UNITS, SAME_FIELDS
from clipsearch.query.nodes import Leaf, Near, Span
from clipsearch.query.values import BadValue, read_value
from clipsearch.sentences import sentence

WEIGHT_LIMIT = 1000.0

ItemKind = Literal["word", "quoted", "like", "plus", "minus", "filter", "open", "close", "end"]


@dataclass(slots=True)
class Item:
    kind: ItemKind
    start: int
    end: int
    text: str = ""
    filter: Leaf | None = None
    sign: int = 0  # of an operator that touches it: `-people`
    weight: float | None = None


_FIELD = re.compile("([A-Za-z]+)[:\uff1a](?=\\S)")  # the second is the colon of Chinese and Japanese input methods
_WITHOUT_COLON = re.compile(r"[A-Za-z]+(?:[<>=≤≥]|\d{4})")
MOST_WITHOUT_COLON = 100
WEIGHT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?):(?=[^\s\d:])")
_QUOTES = {'"': '"', "“": "”", "„": "“”"}
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|„[^“”]*[“”]')
_SINGLE = {"'": "'", "‘": "’"}  # around values: elsewhere they are apostrophes
_SENTENCE_END = re.compile(r"\w[.?!…]+(?=\s|$)")
_SIGN = r"(?:(?:>=|<=|>|<|=|≥|≤)\s*)?"
_NUMBER = r"-?\d{1,15}(?:\.\d{1,9})?"
_SIGNS = {"+": 1, "-": -1, "−": -1}
PATH = re.compile(r"(?:\.{1,2}|~)[/\\]\S|/.*\.\w{2,5}(?:#xywh=\S*)?$", re.DOTALL)


@lru_cache
def _spaced(name: str) -> re.Pattern[str]:
    """What a number with its sign and unit looks like where there are spaces in it, up to the other end of a range."""
    field = FILTERS[name]
    own = set(field.units or ()) - {""}
    units = own if field.name == "rating" else own | OTHER_UNITS
    amount = rf"{_NUMBER}(?:\s*(?:{'|'.join(map(re.escape, sorted(units, key=len, reverse=True)))})(?!\w))?"
    # A dash between spaces takes away what follows it; of a range it is one only behind what is no filter by itself.
    dash = r"[-–—]" if field.exact else r"\s*[-–—]\s*"
    to = rf"(?:\s*\.\.\s*{amount}|(?:{dash}|\s+to\s+){amount})"
    bounds = rf"{amount}{to}|{amount}\s+[-–—]\s+\d{{3,}}(?:\s*px)?" if field.units is not None else amount
    return re.compile(rf"(?:{bounds}|{_SIGN}{amount}(?:\s*\.\.\s*{amount})?)(?=\s|\)|$)", re.IGNORECASE)


def _named(match: re.Match[str]) -> str:
    """The field that stands before a colon."""
    name = match[1].lower()
    return SAME_FIELDS.get(name, name)


class Scanner:
    def __init__(self, source: str) -> None:
        self.source = source
        self.items: list[Item] = []
        self.offers: list[str] = []
        self.depth = 0
        self._group_end, self._group_is_filter = -1, False
        self._is_sentence = _SENTENCE_END.search(_QUOTED.sub(" ", source)) is not None

    def scan(self) -> list[Item]:
        at, source = 0, self.source
        while at < len(source):
            at = at + 1 if source[at].isspace() else self._item(at)
        self.items.append(Item("end", len(source), len(source)))
        return self.items

    def _item(self, at: int) -> int:
        """Scan the item at `at`; return where it ends."""
        source = self.source
        start, sign, weight = at, 0, None
        if source[at] in _SIGNS:
            if self._is_dash(at):
                return self._word(at, at + 1)
            if at + 1 == len(source) or source[at + 1].isspace():
                self.items.append(Item("plus" if _SIGNS[source[at]] > 0 else "minus", at, at + 1))
                return at + 1
            if self._is_signed(at + 1):
                sign = _SIGNS[source[at]]
                at += 1
        if (sign or self._begins_term()) and (match := WEIGHT.match(source, at)):
            weight = float(match[1])
            if not 0 < weight <= WEIGHT_LIMIT:
                raise MalformedQuery(
                    source,
                    at,
                    sentence("bad_weight", "a weight must be more than 0 and at most 1000"),
                    sentence("write", "Write {examples}.", examples=("2:dog", "0.5:dog")),
                )
            at = match.end()
        item = self._operand(at)
        item.start, item.sign, item.weight = start, sign, weight
        self.items.append(item)
        return item.end

    def _is_dash(self, at: int) -> bool:
        """Whether a sign that stands alone between the words of a sentence is a dash: `what's that - a dog?`."""
        if not self._is_sentence or not self.source[at + 1 : at + 2].isspace() or not self.source[at + 1 :].strip():
            return False
        return bool(self.items) and self.items[-1].kind == "word" and self.items[-1].end < at

    def _word(self, at: int, end: int) -> int:
        self.items.append(Item("word", at, end, self.source[at:end]))
        return end

    def _is_signed(self, at: int) -> bool:
        """Whether a plus or minus before `at` touches something that it can be an operator of."""
        source = self.source
        if source[at] == "(":
            return self._is_filter_group(at)
        return (
            source[at].isalpha()
            or source[at] in _QUOTES
            or PATH.match(source, at) is not None
            or WEIGHT.match(source, at) is not None
        )

    def _begins_term(self) -> bool:
        return not any(item.kind in ("word", "quoted", "like") for item in self.items[-1:])

    def _operand(self, at: int) -> Item:
        source = self.source
        if source[at] in _QUOTES:
            end = self._closing_quote(at)
            return Item("quoted", at, end, source[at + 1 : end - 1])
        if source[at] == "(" and self._is_filter_group(at):
            self.depth += 1
            return Item("open", at, at + 1)
        if source[at] == ")" and self._closes():
            self.depth -= 1
            return Item("close", at, at + 1)
        match = _FIELD.match(source, at)
        if match is not None and (name := _named(match)) in FIELDS:
            return self._filter(name, at, match.end())
        end = at
        while end < len(source) and not source[end].isspace() and not (self.depth and source[end] == ")" and end > at):
            end += 1
        if match is not None:
            self._offer(match[1], match.end(), end)
        elif source[end - 1] in ":\uff1a" and source[at : end - 1].lower() in FILTERS and source[end:].strip():
            self._offer_joined(source[at : end - 1].lower(), end)
        elif end - at < MOST_WITHOUT_COLON and source[at].isalpha() and _WITHOUT_COLON.match(source, at):
            self._offer_colon(source[at:end])
        return Item("word", at, end, source[at:end])

    def _offer(self, name: str, at: int, end: int) -> None:
        """Keep what to say of a word that is nearly a filter."""
        from clipsearch.query.offers import offer

        if self.source[at] in _QUOTES and '"' in self.source[at + 1 :]:
            end = self._closing_quote(at)
        self._tell(offer(name, self.source[at:end]))

    def _offer_joined(self, name: str, at: int) -> None:
        """The same, of a word that is a filter but for the space behind its colon: `size: >5MB`."""
        from clipsearch.query.offers import offer_joined

        rest = self.source[at:].lstrip()
        spaced = _spaced(name).match(rest) if FILTERS[name].kind == "number" else None
        self._tell(offer_joined(name, rest.split(None, 1)[0] if spaced is None else spaced[0]))

    def _offer_colon(self, word: str) -> None:
        """The same, of a word that is a filter but for its colon."""
        from clipsearch.query.offers import offer_colon

        self._tell(offer_colon(word))

    def _tell_unit(self, name: str, value: str) -> None:
        """The same, of a number without a unit that is probably not in bytes."""
        from clipsearch.query.offers import offer_unit

        self._tell(offer_unit(name, value))

    def _tell(self, told: str | None) -> None:
        if told is not None and told not in self.offers:
            self.offers.append(told)

    def _closes(self) -> bool:
        if self.depth:
            return True
        if self.items and self.items[-1].kind in ("filter", "close") and self.items[-1].end > 0:
            before = self.items[-1]
            if not self.source[before.end : before.end + 1].isspace():
                raise MalformedQuery(
                    self.source,
                    before.end,
                    sentence("not_opened", "this parenthesis has no opening one"),
                    sentence(
                        "parentheses", "Parentheses are for filters. Put text that contains them in double quotes."
                    ),
                )
        return False

    def _closing_quote(self, at: int) -> int:
        """Where the quotation that begins at `at` ends, its closing quote included."""
        closing = _QUOTES[self.source[at]]
        ends = [end for mark in closing if (end := self.source.find(mark, at + 1)) >= 0]
        if not ends:
            raise MalformedQuery(
                self.source,
                at,
                sentence("open_quotation", "this quotation is not closed"),
                sentence("close_quotation", "Close it, or remove the quote."),
            )
        return min(ends) + 1

    def _single_quoted(self, at: int) -> int | None:
        """Where a value in single quotes that begins at `at` ends, its closing quote included; None where there is
        none: an apostrophe inside a word closes nothing."""
        closing = _SINGLE.get(self.source[at])
        if closing is None:
            return None
        match = re.compile(rf".+?{closing}(?=\s|\)|$)").match(self.source, at + 1)
        return None if match is None else match.end()

    def _is_filter_group(self, at: int) -> bool:
        """Whether the parenthesis at `at` begins a group of filters; otherwise it is text."""
        if at >= self._group_end:
            end = at
            while True:
                rest = self.source[end : end + 4].lower()
                if rest[:1] in ("(", "-", "−") or rest[:1].isspace():
                    end += 1
                elif rest[:3] == "not" and (rest[3:] == "(" or rest[3:].isspace()):
                    end += 3
                else:
                    break
            match = _FIELD.match(self.source, end)
            self._group_end = end
            self._group_is_filter = match is not None and _named(match) in FILTERS
        return self._group_is_filter

    def _filter(self, name: str, start: int, at: int) -> Item:
        source = self.source
        if source[at] in _QUOTES:
            end = self._closing_quote(at)
            value_at, value = at + 1, source[at + 1 : end - 1]
        elif (single := self._single_quoted(at)) is not None:
            end, value_at, value = single, at + 1, source[at + 1 : single - 1]
        else:
            spaced = None
            if name in FILTERS and FILTERS[name].kind == "number":
                spaced = _spaced(name).match(source, at)
            end, nested = (at, 0) if spaced is None else (spaced.end(), 0)
            while end < len(source) and not source[end].isspace():
                nested += (source[end] == "(") - (source[end] == ")")
                if nested < 0:
                    break
                end += 1
            value_at, value = at, source[at:end]
        if name not in FILTERS:
            if not value.strip():
                problem = sentence("nothing_follows", "nothing follows {what}", what=f"{name}:")
                raise MalformedQuery(source, start, problem, FIELDS[name].advice)
            return Item("like", start, end, value)
        try:
            leaf = read_value(FILTERS[name], value.strip(), Span(start, end))
        except BadValue as error:
            raise MalformedQuery(
                source,
                value_at,
                error.args[0],
                sentence(
                    "or_words",
                    '{advice} To search for the words, put them in double quotes: "{words}"',
                    advice=error.args[1],
                    words=source[start:end],
                )
                if '"' not in source[start:end]
                else error.args[1],
            ) from None
        if isinstance(leaf, Near) and leaf.note:
            self.offers.append(leaf.note)
        if name == "size" and value[-1:].isdecimal() and not any(map(str.isalpha, value)):
            self._tell_unit(name, value)
        return Item("filter", start, end, filter=leaf)
