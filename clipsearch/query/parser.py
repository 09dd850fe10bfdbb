"""The parser: items become terms and a filter expression. Recurses for parentheses only, DEPTH_LIMIT deep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from clipsearch.errors import EmptyQuery, MalformedQuery
from clipsearch.query import Query, Term, without_end
from clipsearch.query.nodes import AllOf, AnyOf, Filter, Not
from clipsearch.query.scanner import PATH, WEIGHT, WEIGHT_LIMIT, Item, Scanner
from clipsearch.sentences import sentence

DEPTH_LIMIT = 40


def parse(source: str, is_file: Callable[[str], bool] | None) -> Query:
    """Parse a query that is not plain text. Raises: EmptyQuery, MalformedQuery."""
    scanner = Scanner(source)
    query = _Parser(source, scanner.scan(), is_file).parse()
    return replace(query, offers=tuple(scanner.offers)) if scanner.offers else query


@dataclass(slots=True)
class _Run:
    """The items between two operators that stand alone."""

    sign: int
    position: int
    items: list[Item] = field(default_factory=list)
    operator: Item | None = None


class _Parser:
    def __init__(self, source: str, items: list[Item], is_file: Callable[[str], bool] | None) -> None:
        self.source = source
        self.items = items
        self.at = 0
        self.is_file = is_file
        # Whether a filter, with any `not` or minus before it, begins with each item.
        self._begins = [item.kind in ("filter", "open") for item in items]
        for at in range(len(items) - 2, -1, -1):
            self._begins[at] |= self._negates(items[at]) and self._begins[at + 1]

    def parse(self) -> Query:
        filters: list[Filter] = []
        runs = [_Run(1, 0)]
        attached: list[_Run] = []
        while self._item.kind != "end":
            item = self._item
            if self._begins[self.at]:
                operator = runs[-1].operator
                if operator is not None and not runs[-1].items and item.kind != "minus":
                    runs.pop()  # `dog + folder:trips`
                filters.append(self._alternatives())
            elif item.kind in ("plus", "minus"):
                self.at += 1
                runs.append(_Run(1 if item.kind == "plus" else -1, item.start, operator=item))
            elif item.kind == "word" and not item.sign and self._is_conjunction():
                self.at += 1
            else:
                self.at += 1
                if item.sign:
                    attached.append(_Run(item.sign, item.start, [item]))
                else:
                    runs[-1].items.append(item)
        terms = [term for run in self._filled(runs) + attached for term in self._terms(run)]
        terms.sort(key=lambda term: term.position)
        if not terms and not filters:
            raise EmptyQuery
        return Query(self.source, tuple(terms), _join(AllOf, filters) if filters else None)

    def _filled(self, runs: list[_Run]) -> list[_Run]:
        filled = []
        for run in runs:
            if run.items:
                filled.append(run)
            elif run.operator is not None:
                sign = self.source[run.operator.start]
                raise MalformedQuery(
                    self.source,
                    run.operator.start,
                    sentence("nothing_follows_sign", "nothing follows this {sign}", sign=sign),
                    sentence("write_what_to_add", "Write what to add, or put the {sign} in double quotes.", sign=sign)
                    if run.sign > 0
                    else sentence(
                        "write_what_to_take", "Write what to take away, or put the {sign} in double quotes.", sign=sign
                    ),
                )
        return filled

    @property
    def _item(self) -> Item:
        return self.items[self.at]

    # -- filters

    @staticmethod
    def _negates(item: Item) -> bool:
        return item.kind == "minus" or (item.kind == "word" and not item.sign and item.text.lower() == "not")

    def _is_word(self, text: str) -> bool:
        item = self._item
        return item.kind == "word" and not item.sign and item.text.lower() == text

    def _is_conjunction(self) -> bool:
        """Whether the word here is an `and` beside a filter. Raises for an `or` between text and a filter."""
        before = self.at > 0 and self.items[self.at - 1].kind in ("filter", "close")
        after = self._begins[self.at + 1]
        if self._is_word("or") and (before or after):
            raise MalformedQuery(
                self.source,
                self._item.start,
                sentence("or_between", "or can only stand between two filters"),
                sentence("quote_or", 'To search for the word, put it in double quotes: "or"'),
            )
        return self._is_word("and") and (before or after)

    def _alternatives(self, depth: int = 0) -> Filter:
        parts = [self._unary(depth)]
        while self._is_word("or") and self._begins[self.at + 1]:
            self.at += 1
            parts.append(self._unary(depth))
        return _join(AnyOf, parts)

    def _unary(self, depth: int) -> Filter:
        negative = False
        while self._negates(self._item):
            negative = not negative
            self.at += 1
        item = self._item
        self.at += 1
        negative ^= item.sign < 0
        if item.kind == "open":
            part = self._group(item, depth + 1)
        else:
            assert item.filter is not None
            part = item.filter
        return Not(part) if negative else part

    def _group(self, opening: Item, depth: int) -> Filter:
        if depth > DEPTH_LIMIT:
            raise MalformedQuery(
                self.source,
                opening.start,
                sentence("too_deep", "parentheses are nested more than {n} levels deep", n=DEPTH_LIMIT),
                sentence("fewer", "Use fewer."),
            )
        parts: list[Filter] = []
        while self._item.kind != "close":
            if self._begins[self.at]:
                parts.append(self._alternatives(depth))
            elif self._is_word("and") and parts and self._begins[self.at + 1]:
                self.at += 1
            elif self._item.kind == "end":
                raise MalformedQuery(
                    self.source,
                    opening.start,
                    sentence("not_closed", "this parenthesis is never closed"),
                    sentence("add_parenthesis", "Add a )."),
                )
            else:
                raise MalformedQuery(
                    self.source,
                    self._item.start,
                    sentence("only_filters", "parentheses with filters can only contain filters"),
                    sentence("words_outside", "Put the words outside."),
                )
        self.at += 1
        return _join(AllOf, parts)

    # -- terms

    def _terms(self, run: _Run) -> list[Term]:
        """The words of a run as one text, and each picture among them."""
        weight = run.sign * next((item.weight for item in run.items if item.weight is not None), 1.0)
        first = run.items[0]
        if len(run.items) == 1 and first.kind == "quoted" and first.weight is None:
            match = WEIGHT.match(first.text)
            if match is not None and 0 < float(match[1]) <= WEIGHT_LIMIT:
                weight *= float(match[1])
                first.text = first.text[match.end() :]
        if self.is_file is not None and len(run.items) > 1 and all(item.kind == "word" for item in run.items):
            whole = self._verbatim(run.items)
            if whole is not None and self.is_file(whole):
                return [Term("picture", whole, weight, run.items[0].start)]
        terms: list[Term] = []
        words: list[Item] = []
        for item in run.items:
            if item.kind == "like":
                terms.append(Term("like", item.text, weight, item.start))
            elif self._is_picture(item, alone=len(run.items) == 1):
                terms.append(Term("picture", item.text, weight, item.start))
            else:
                words.append(item)
        if words:
            value = self._text(words)
            if words[-1].kind == "word":
                value = without_end(value)
            if value:
                terms.append(Term("text", value, weight, words[0].start))
            elif not terms:
                raise MalformedQuery(
                    self.source,
                    words[0].start,
                    sentence("empty_quotes", "these quotes are empty"),
                    sentence("remove_them", "Remove them."),
                )
        return terms

    def _is_picture(self, item: Item, *, alone: bool) -> bool:
        if PATH.match(item.text) is not None:
            return True
        return alone and self.is_file is not None and self.is_file(item.text)

    def _text(self, words: list[Item]) -> str:
        if len(words) == 1:
            return words[0].text.strip()
        gaps = [self.source[before.end : after.start] for before, after in pairwise(words)]
        kept = [gap if not gap or gap.isspace() else " " for gap in gaps]
        return "".join(part for item, gap in zip(words, [*kept, ""], strict=True) for part in (item.text, gap)).strip()

    def _verbatim(self, items: list[Item]) -> str | None:
        """The source of items that follow each other with nothing but space between them."""
        for before, after in pairwise(items):
            gap = self.source[before.end : after.start]
            if gap and not gap.isspace():
                return None
        skipped = len(items[0].text) if items[0].kind == "word" else items[0].end - items[0].start
        return self.source[items[0].end - skipped : items[-1].end]


def _join(kind: type[AllOf] | type[AnyOf], parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else kind(tuple(parts))
