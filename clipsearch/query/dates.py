"""Words that say when a picture was taken: `beach July 2023`, `from May to July 2021`, `last year`. The filters for
that time are offered where it is certain which is meant, all of it where only a part is, and none else.

A year is not a date in names (`2001: a space odyssey`, `model 2020`), and none yet to come is. Months that are words
too (`march`, `mars`) count where a preposition stands before them, or nothing at all; else their year alone is meant.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import NamedTuple

from clipsearch.query import Query, Term
from clipsearch.query.nodes import Range
from clipsearch.query.rewriting import rewritten
from clipsearch.sentences import sentence

_NAMES = (
    "january jan januar janvier enero", "february feb februar février febrero", "march mar märz mars marzo",
    "april apr avril abril", "may mai mayo", "june jun juni juin junio", "july jul juli juillet julio",
    "august aug août agosto", "september sep sept septembre septiembre", "october oct oktober octobre octubre",
    "november nov novembre noviembre", "december dec dezember décembre diciembre",
)  # fmt: skip
_MONTHS = {name: number for number, names in enumerate(_NAMES, 1) for name in names.split()}
_WORDS_TOO = frozenset(("march", "mar", "mars", "jan", "mai"))
_NEVER_ALONE = frozenset(("mar", "mars"))  # the sea, the planet
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_YEAR = r"(?:19[5-9]\d|20\d\d)"
_DAY = r"\d{1,2}(?:st|nd|rd|th|\.)?"
_NAMED_DAY = rf"{_DAY}\s+(?:of\s+)?(?:{_MONTH})\.?,?\s+{_YEAR}|(?:{_MONTH})\.?\s+{_DAY},?\s+{_YEAR}"
_POINT = rf"(?:{_NAMED_DAY}|{_YEAR}-\d\d(?:-\d\d)?|(?:(?:{_MONTH})\.?,?\s+(?:of\s+|de\s+)?)?{_YEAR})"
_END = r"\b(?![-/.:]?\d|['’]?s\b)"
_TAKEN = r"(?:\b(?:taken|shot|made|captured|photographed|aufgenommen|prises?|tomadas?)\s+)?"
_IN = r"\b(?:in|from|of|on|during|at|im|aus|von|am|en|du|de|dans)"
_A_PART = (
    r"(?:early|late|mid|the\s+(?:start|beginning|middle|end)\s+of|anfang|mitte|ende|début|fin|principios\s+de)[\s-]+"
)
_THE_YEAR = r"(?:\b(?:the\s+)?(?:year|jahr|jahre|l['’]année|an|el\s+año|año)\s+)?"
_BEFORE_DATE = rf"{_TAKEN}(?:{_IN}\s+)?(?:the\s+)?(?:{_A_PART})?{_THE_YEAR}"
# What says that another time is meant than the date, and which: up to its first day, from it, up to its last, after it.
_SIDES = (
    (re.compile(r"\b(?:before|older\s+than|earlier\s+than|prior\s+to)\s+$", re.IGNORECASE), "before", 0),
    (re.compile(r"\b(?:until|till|through|up\s+to)\s+$", re.IGNORECASE), "before", 1),
    (re.compile(r"\bsince\s+$", re.IGNORECASE), "after", 0),
    (re.compile(r"\b(?:after|newer\s+than|later\s+than)\s+$", re.IGNORECASE), "after", 1),
)
_NO_DATE = re.compile(
    r"(?:\b(?:not|no|without|except(?:ing|\s+for)?|excluding|than|and|or|to|between|vor|nach|seit|bis|avant|après|depuis"
    r"|jusqu'à|antes\s+de|después\s+de|desde|hasta|minus|nor|class(?:\s+of)?)|[-–—+]|\b(?:after|before|date|since|until|year):)\s*$",
    re.IGNORECASE,
)
# Of "before christmas 2020" and "the week of 4 July 2021", another time than the date.
_OTHER_TIME = re.compile(r"\b(?:(?:before|after|since|until|till)\b.*|week(?:end)?\s*)$", re.IGNORECASE)
_DATES = tuple(
    rf"(?<![\w:/.-])(?P<before>{_BEFORE_DATE})\b{pattern}{_END}"
    for pattern in (
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?\s+(?:of\s+|de\s+)?(?P<month>{_MONTH})\.?,?\s+(?:de\s+)?"
        rf"(?P<year>{_YEAR})",
        rf"(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>{_YEAR})",
        rf"(?P<year>{_YEAR})(?:-(?P<number>\d\d)-|/(?P<number2>\d{{1,2}})/)(?P<day>\d{{1,2}})",
        rf"(?P<year>{_YEAR})(?P<number>\d\d)(?P<day>\d\d)",
        rf"(?P<day>\d{{1,2}})\.\s?(?P<number>\d{{1,2}})\.\s?(?P<year>{_YEAR})",
        rf"(?P<first>\d{{1,2}})[-/](?P<second>\d{{1,2}})[-/](?P<year>{_YEAR})",
        rf"(?P<month>{_MONTH})\.?,?\s+(?:of\s+|de\s+)?(?P<year>{_YEAR})",
        rf"(?P<year>{_YEAR})\s+(?P<month>{_MONTH})",
        rf"(?P<year>{_YEAR})[-/](?P<number>\d{{2}})",
        rf"(?P<number>0[1-9]|1[0-2])/(?P<year>{_YEAR})",  # 1/2000 is a shutter speed
        rf"(?P<year>{_YEAR})",
    )
)
_TO = r"(?:\b(?:to|and|until|till|through)\b|[-–—])"
_RANGE = (
    rf"(?<![\w:/.-]){_TAKEN}(?P<from>\b(?:from|between)\s+)?\b(?P<first>{_POINT})\s*(?:(?P<and>\band\b)|{_TO})"
    rf"\s*(?P<last>{_POINT}){_END}"
)
_MONTHS_OF_YEAR = (
    rf"(?<![\w:/.-]){_TAKEN}(?:\b(?:from|between|in|during)\s+)?\b(?P<first>{_MONTH})"
    rf"\s*(?:(?P<loose>,|&|\b(?:and|or)\b)|{_TO})\s*(?P<last>{_MONTH})\.?,?\s+(?:of\s+)?(?P<year>{_YEAR}){_END}"
)
_DAYS_OF_MONTH = (
    rf"(?<![\w:/.-]){_TAKEN}(?:\b(?:from|between|on)\s+)?\b(?P<first>\d{{1,2}})(?:st|nd|rd|th|\.)?\s*{_TO}"
    rf"\s*(?P<last>\d{{1,2}})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?,?\s+(?P<year>{_YEAR}){_END}"
)
_DECADE = (
    rf"(?<![\w:/.-])(?P<in>{_TAKEN}(?:{_IN})\s+)?(?:the\s+)?\b(?P<year>19[5-9]0|20\d0)['’]?s\b"
    r"|(?:\b(?:in|from|during)\s+the\s+|^(?:the\s+)?(?=['’]?\w+['’]?\w?$))(?:['’]?(?P<tens>[5-9])0['’]?s"
    r"|(?P<word>fifties|sixties|seventies|eighties|nineties))\b"
)
_TENS = {"fifties": 5, "sixties": 6, "seventies": 7, "eighties": 8, "nineties": 9}
_RELATIVE = (
    r"(?<![\w:/.-])(?:(?:from|in|of|during)\s+)?\b(?P<what>yesterday|today|(?:this|last)\s+(?:year|month)"
    r"|letztes\s+jahr|dieses\s+jahr|l['’]année\s+dernière|el\s+año\s+pasado|gestern|heute|hier(?=\s*$)|ayer)\b(?!['’]|\s+of\b)"
)
# A season or a feast that goes on into another year than that it is called by.
_STRADDLES = re.compile(
    r"\b(?:winter|hiver|invierno|new\s+year|silvester|neujahr|nouvel\s+an|nochevieja|año\s+nuevo|school\s+year|season)\b",
    re.IGNORECASE,
)
_SEASON = r"\b(?:in\s+(?:the\s+)?|the\s+)(?P<season>summer|spring|autumn|fall)\s+$"
# What a number behind it is the name or the amount of, not a year.
_NUMBERED_THINGS = (
    "model size route number no nr type version series class chapter room page windows office area psalm apollo "
    "flight vol volume level about approx price usd eur population elevation altitude ref item id lot article section "
    "code zip pin iso line bus train highway interstate exit platform gate channel fifa euro expo olympics "
    "paralympics runner than over under"
)
_NUMBERED = frozenset(_NUMBERED_THINGS.split())
# What is made, and called by the year in which it was.
_MADE = re.compile(
    r"\b(?:calendars?|cars?|auto|sedan|coupe|trucks?|motorcycles?|motorbikes?|guitars?|posters?|movies?|films?|books?"
    r"|editions?|coins?|stamps?|wines?|vintage|models?|ford|chevrolet|chevy|toyota|volkswagen|vw|bmw|porsche|mercedes|honda"
    r"|ferrari|corvette|mustang|beetle|cadillac|jaguar|olympics?|paralympics|fifa|expo)\b",
    re.IGNORECASE,
)
_AN_AMOUNT = re.compile(
    r"\s*(?:m|meters?|metres?|km|kg|g|px|pixels?|miles?|feet|ft|w|watts?|hp|rpm|mah|ml|mm|cm|dollars?|euros?|years?|people"
    r"|steps|pieces|words|calories|kcal|%|€|\$|an?\b|the\b|:)(?![\w])|\s*:",
    re.IGNORECASE,
)
_CURRENCY = re.compile(r"[$€£¥#]\s*$")


class Said(NamedTuple):
    """Words that say a time, and the filters for it; two for a day that is written in a way for two days. `instead`:
    what stays of the words."""

    words: str
    filters: tuple[str, ...]
    instead: str = ""


def taken(query: Query, term: Term, today: datetime.date | None = None) -> list[str]:
    """A line with the filters for the time that the words of a term say, if they say one. `today`: what `last year`
    counts from; None is the day by this computer's clock."""
    if any(isinstance(leaf, Range) and leaf.column == "date" for leaf in query.leaves()):
        return []
    today = today or datetime.date.today()
    if (sum_of_two := _subtracted(query, term)) is not None:
        return sum_of_two
    others = " ".join(other.value for other in query.terms if other is not term)
    if re.search(rf"\b{_YEAR}\b", others):
        return []
    said = said_time(term.value, today)
    if said is None:
        return []
    offered = [rewritten(query, [term], [(said.words, said.instead)], filters) for filters in said.filters]
    if not all(offered):
        return []
    if len(offered) == 2:
        return [
            sentence(
                "taken_either",
                "dates in words are not understood, and this one can be two days. For pictures taken then, write: "
                "{query} or: {other}",
                query=offered[0],
                other=offered[1],
            )
        ]
    return [
        sentence(
            "taken",
            "dates in words are not understood. For pictures taken then, write: {query}",
            query=offered[0],
        )
    ]


def _subtracted(query: Query, term: Term) -> list[str] | None:
    """What to say of two years with a dash between spaces, `2019 - 2021`: that is one year without the other."""
    at = query.terms.index(term)
    if at + 1 == len(query.terms):
        return None
    following = query.terms[at + 1]
    if following.kind != "text" or following.weight != -1 or term.weight != 1:
        return None
    match = re.search(rf"(?:\b(?:from|between)\s+)?\b{_POINT}\s+[-−]\s+{_POINT}{_END}", query.source, re.IGNORECASE)
    if match is None or not match.start() < following.position + 2 < match.end() + 2:
        return None
    span = _between(match[0].replace("−", "-"))
    rest = None if span is None else rewritten(query, [term, following], [(match[0], "")], span)
    if rest is None:
        return []
    return [
        sentence(
            "taken",
            "dates in words are not understood. For pictures taken then, write: {query}",
            query=rest,
        )
    ]


def said_time(text: str, today: datetime.date) -> Said | None:
    """The words of a text that say a time, and the filters for it; None if there are none, or none that are sure."""
    for pattern, read in ((_DAYS_OF_MONTH, _days), (_MONTHS_OF_YEAR, _months), (_RANGE, _ends)):
        match = re.search(pattern, text, re.IGNORECASE)
        if match is not None:
            filters = read(match) if _NO_DATE.search(text[: match.start()]) is None else None
            is_only = len(re.findall(rf"\b{_YEAR}\b", text)) == len(re.findall(rf"\b{_YEAR}\b", match[0]))
            return Said(match[0], (filters,)) if filters and is_only else None
    match = re.search(_DECADE, text, re.IGNORECASE)
    if match is not None:
        return _decade(text, match, today)
    match = re.search(_RELATIVE, text, re.IGNORECASE)
    if match is not None and re.search(_YEAR, text) is None:
        return _relative(text, match, today)
    return _single(text, today)


def _between(text: str) -> str | None:
    match = re.search(_RANGE, text, re.IGNORECASE)
    return None if match is None else _ends(match)


def _ends(match: re.Match[str]) -> str | None:
    """The filters from the beginning of one time to the end of another; of "one and the other", only "between"."""
    if match["and"] and not match["from"]:
        return None
    first, last = (next(filter(None, map(_span_of, _matches(match[name]))), None) for name in ("first", "last"))
    return f"after:{first[0]} before:{last[1]}" if first and last and first[0] < last[1] else None


def _months(match: re.Match[str]) -> str | None:
    first, last = (_MONTHS[match[name].lower()] for name in ("first", "last"))
    if last <= first or (match["loose"] and last != first + 1):  # of May and July, June is in between
        return None
    begin, end = _span(int(match["year"]), first, None), _span(int(match["year"]), last, None)
    return f"after:{begin[0]} before:{end[1]}" if begin and end else None


def _days(match: re.Match[str]) -> str | None:
    year, month = int(match["year"]), _MONTHS[match["month"].lower()]
    begin, end = (_span(year, month, int(match[name])) for name in ("first", "last"))
    return f"after:{begin[0]} before:{end[1]}" if begin and end and begin < end else None


def _decade(text: str, match: re.Match[str], today: datetime.date) -> Said | None:
    if match["year"] is not None:
        first, is_said = int(match["year"]), match["in"] is not None
    else:
        first, is_said = 1900 + 10 * (int(match["tens"]) if match["tens"] else _TENS[match["word"].lower()]), True
    after = text[match.end() :]
    names_things = re.match(r"\s+(?!(?:in|on|at|of|with|near|by|from|and)\b)\w", after)
    if first > today.year or first == 2000 or (names_things and not is_said) or re.search(_YEAR + r"\b", after):
        return None  # "2000s" may be a century
    if _NO_DATE.search(text[: match.start()]) or any(side.search(text[: match.start()]) for side, _, _ in _SIDES):
        return None
    return Said(match[0], (f"after:{first} before:{first + 10}",))


def _relative(text: str, match: re.Match[str], today: datetime.date) -> Said | None:
    head = text[: match.start()]
    if _NO_DATE.search(head) or any(side.search(head) for side, _, _ in _SIDES):
        return None
    what = " ".join(match["what"].lower().replace("’", "'").split())
    is_past = not what.startswith(("this", "dieses", "today", "heute"))
    if what in ("yesterday", "today", "gestern", "heute", "hier", "ayer"):
        day = today - datetime.timedelta(days=is_past)
        span = _span(day.year, day.month, day.day)
    elif what.endswith("month"):
        first = today.replace(day=1)
        first = (first - datetime.timedelta(days=1)).replace(day=1) if is_past else first
        span = _span(first.year, first.month, None)
    else:
        span = _span(today.year - is_past, None, None)
    return None if span is None else Said(match[0], (f"after:{span[0]} before:{span[1]}",))


def _single(text: str, today: datetime.date) -> Said | None:
    """The one date of a text."""
    match = next(_matches(text), None)
    if match is None or len(re.findall(rf"(?<!\d){_YEAR}(?!\d)|(?<!\d){_YEAR}(?=\d{{4}}\b)", text)) > 1:
        return None
    head, groups, words = text[: match.start()], match.groupdict(), match[0]
    if (month := (groups.get("month") or "").lower()) in _WORDS_TOO and not groups.get("day"):
        before = bool(match["before"].strip()) or any(side.search(head) for side, _, _ in _SIDES)
        if not before and (head.strip() or month in _NEVER_ALONE):  # a band march, the planet Mars
            year = re.search(rf"\b{_YEAR}{_END}", match[0])
            words, groups = (year[0] if year else words), {"year": groups["year"]}
    spans = _spans_of(groups)
    if not spans or spans[0][0] > f"{today:%Y-%m-%d}":
        return None
    is_year = not any(groups.get(part) for part in ("month", "number", "number2", "first"))
    for pattern, field, end in _SIDES:
        if (side := pattern.search(head)) is not None:
            is_sure = _NO_DATE.search(head[: side.start()]) is None and len(spans) == 1 and not _STRADDLES.search(text)
            return Said(f"{side[0]}{words}", (f"{field}:{spans[0][end]}",)) if is_sure else None
    if _OTHER_TIME.search(head) is not None and (is_year or match["before"][:2].lower() == "of"):
        return None
    if _NO_DATE.search(head) is not None or (is_year and not _is_of_taking(text, match, words)):
        return None
    season = re.search(_SEASON, head, re.IGNORECASE) if is_year else None
    instead = "" if season is None else season["season"]
    words = words if season is None else text[season.start() : match.end()].lstrip()
    return Said(words, tuple(f"after:{first} before:{last}" for first, last in spans), instead)


def _is_of_taking(text: str, match: re.Match[str], words: str) -> bool:
    """Whether a year alone is likely to be when a picture was taken, and no name or amount."""
    if _STRADDLES.search(text):
        return False
    said = match["before"].strip().lower()
    if re.match(r"(?:in|im|en|dans|during|taken|shot|captured|photographed|aufgenommen)\b", said):
        return True
    if _MADE.search(text):
        return False
    head, after = text[: match.end() - len(words)], text[match.end() :]
    last = re.findall(r"[^\W\d_]+", head)[-1:]
    if not said and last and last[0].lower() in _NUMBERED:
        return False
    if _CURRENCY.search(head) or _AN_AMOUNT.match(after):
        return False
    return not (match["year"].endswith("000") and re.match(r"\s+\w", after))


def _matches(text: str) -> Iterator[re.Match[str]]:
    return (found for pattern in _DATES if (found := re.search(pattern, text, re.IGNORECASE)))


def _span_of(match: re.Match[str]) -> tuple[str, str] | None:
    spans = _spans_of(match.groupdict())
    return spans[0] if len(spans) == 1 else None


def _spans_of(groups: dict[str, str | None]) -> list[tuple[str, str]]:
    """The time that a date means; two where day and month may be either; none where there is no such one."""
    year = int(groups["year"] or 0)
    if groups.get("first"):
        first, second = int(groups["first"] or 0), int(groups["second"] or 0)
        either = [_span(year, second, first), _span(year, first, second)]
        return [span for span in dict.fromkeys(either) if span is not None]
    named, number = groups.get("month"), groups.get("number") or groups.get("number2")
    month = _MONTHS[named.lower()] if named else int(number) if number else None
    span = _span(year, month, int(groups["day"] or 0) if groups.get("day") else None)
    return [] if span is None else [span]


def _span(year: int, month: int | None, day: int | None) -> tuple[str, str] | None:
    """When a year, month or day begins, and when it is over; None where there is no such one."""
    try:
        first = datetime.date(year, 1 if month is None else month, 1 if day is None else day)
    except ValueError:
        return None
    if day is not None:
        return f"{first}", f"{first + datetime.timedelta(days=1)}"
    if month is not None:
        return f"{first:%Y-%m}", f"{year + month // 12}-{month % 12 + 1:02d}"
    return str(year), str(year + 1)
