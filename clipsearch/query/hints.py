"""What a query could also have meant: words that say what a filter or a minus says better, and what stands in its way.

One line each, beside the hits; the query is never changed. `query.offers` has words that are nearly filters. Knows no
index and no model: what they know is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from clipsearch.query import Query
from clipsearch.query.nodes import Range, Tagged, leaves_of
from clipsearch.records import COLORS
from clipsearch.sentences import sentence

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero", "february feb februar février febrero", "march mar märz mars marzo",
            "april apr avril abril", "may mai mayo", "june jun juni juin junio", "july jul juli juillet julio",
            "august aug août agosto", "september sep sept septembre septiembre", "october oct oktober octobre octubre",
            "november nov novembre noviembre", "december dec dezember décembre diciembre",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_YEAR = r"(?:19[5-9]\d|20\d\d)"
_BEFORE_DATE = r"(?:\b(?:in|from|of|on|during|im|en|du|de)\s+(?:the\s+)?)?"
# What says that another time is meant than the date, and which: up to its first day, from it, up to its last, after it.
_SIDES = (
    (re.compile(r"\b(?:before|older\s+than|earlier\s+than|prior\s+to)\s+$", re.IGNORECASE), "before", 0),
    (re.compile(r"\b(?:until|till|through|up\s+to)\s+$", re.IGNORECASE), "before", 1),
    (re.compile(r"\bsince\s+$", re.IGNORECASE), "after", 0),
    (re.compile(r"\b(?:after|newer\s+than|later\s+than)\s+$", re.IGNORECASE), "after", 1),
)
_NO_DATE = re.compile(
    r"(?:\b(?:not|no|without|except(?:ing|\s+for)?|excluding|than|and|or|to|between|vor|nach|seit|bis|avant|après|depuis"
    r"|jusqu'à|antes\s+de|después\s+de|desde|hasta)|[-–—+])\s*$",
    re.IGNORECASE,
)
_DATES = tuple(
    (rf"(?<![\w:/.-]){_BEFORE_DATE}\b{pattern}\b(?![-/.:]?\d)")
    for pattern in (
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?,?\s+(?P<year>{_YEAR})",
        rf"(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>{_YEAR})",
        rf"(?P<year>{_YEAR})-(?P<number>\d{{2}})-(?P<day>\d{{2}})",
        rf"(?P<month>{_MONTH})\.?,?\s+(?:of\s+|de\s+)?(?P<year>{_YEAR})",
        rf"(?P<year>{_YEAR})\s+(?P<month>{_MONTH})",
        rf"(?P<year>{_YEAR})-(?P<number>\d{{2}})",
        rf"(?P<year>{_YEAR})",
    )
)
_RANGE = (
    rf"(?:\b(?:from|between)\s+)?\b(?P<first>(?:(?:{_MONTH})\s+)?{_YEAR})\s*(?:\b(?:to|and|until|till|through)\b|[-–—])"
    rf"\s*(?P<last>(?:(?:{_MONTH})\s+)?{_YEAR})\b(?![-/.:]?\d)"
)
# What is not wanted. "no" begins names of signs ("no parking"), so it counts only before a word for things.
_ARTICLE = r"(?:an?\s+|any\s+|the\s+)?"
_WITHOUT = (
    rf"(?:^|\s)(?:(?:but\s+|and\s+|with\s+)?(?:not|no)|without|w/o|excluding|except(?:\s+for)?|(?<=\s)(?:ohne|sans|sin))"
    rf"\s+(?P<things>{_ARTICLE}[^\W\d_]+(?:\s*(?:,|\b(?:or|and|nor)\b)\s*{_ARTICLE}[^\W\d_]+)*)\b"
    # Of two words that belong together, neither is left out by itself; nor of what somebody does.
    rf"(?=\s*(?:$|[,.;:?!]|\b(?:in|on|at|of|with|near|by|under|over|from|for|behind|beside|but)\b))"
)
_BETWEEN_THINGS = re.compile(rf"\s*(?:,|\b(?:or|and|nor)\b)\s*{_ARTICLE}", re.IGNORECASE)
_LOOK_WORDS = {*COLORS, "grey"} | {
    "blurry", "blurred", "dark", "bright", "monochrome", "panorama", "panoramic", "screenshot", "screenshots",
    "document", "documents", "color", "colour", "scan", "scans", "background",
}  # fmt: skip
_NO_THINGS = (
    "one no not smoking parking entry trespassing swimming fishing diving way doubt idea matter longer more less other "
    "exit stopping vacancy dumping littering limit fear comment problem to yet so very only sure too in on at from "
    "doing looking being wearing using with without for by it is i my your this that these those all here serif "
    "a an any the"
)
_NOT_THINGS = frozenset(_NO_THINGS.split())
_PICTURE = r"(?:photos?|photographs?|pictures?|pics?|images?|shots?|portraits?)"
_OF = rf"\s+{_PICTURE}\b(?:\s+of\b)?"
_ALONE = r"(?=\s*$)"
_LOOKS = tuple(
    (pattern, says, what)
    for pattern, says, what in (
        (
            r"\b(?:in\s+)?(?:black\s*(?:and|&)\s*white|black-and-white|b\s?&\s?w|b/w|gr[ae]yscale|monochrome)"
            rf"(?:{_OF}|{_ALONE})",
            "is:monochrome",
            sentence("look_monochrome", "pictures without colour"),
        ),
        (r"\b(?:a\s+)?screen\s?shots?\b(?:\s+of\b)?", "is:screenshot", sentence("look_screenshot", "screenshots")),
        (
            rf"\b(?:a\s+)?(?:blurry|blurred|out[- ]of[- ]focus)(?:{_OF}|{_ALONE})",
            "is:blurred",
            sentence("look_blurred", "blurred pictures"),
        ),
        (
            rf"\b(?:a\s+)?(?:panorama|panoramic)s?\b(?:{_OF}|\s+of\b)?",
            "is:panorama",
            sentence("look_panorama", "panoramas"),
        ),
        (rf"\b(?:a\s+)?dark{_OF}", "is:dark", sentence("look_dark", "dark pictures")),
        (rf"\b(?:a\s+)?bright{_OF}", "is:bright", sentence("look_bright", "bright pictures")),
        (
            r"^(?:scanned\s+)?documents?$|^scans?$|\bscanned\s+documents?\b",
            "is:document",
            sentence("look_document", "documents"),
        ),
    )
)
_COLOR = (
    rf"^(?P<alone>{'|'.join(COLORS)}|grey)$|\b(?:a\s+)?(?P<of>{'|'.join(COLORS)}|grey)\s+"
    rf"(?:{_PICTURE}|colou?rs?|background)\b(?:\s+of\b)?"
)
MOST_WORDS = 6
_UNQUOTED_FOLDER = r"(?P<field>(?<![\w:])folder:)(?P<value>[^\s\"“„()*?]+(?:\s+[^\s\"“„()*?:]+(?![\w:]))*)"
_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
_WORTH_A_LOOK = re.compile(
    rf"{_YEAR}|\b(?:not?|without|w/o|excluding|except|ohne|sans|sin|black|b\s?&\s?w|b/w|gr[ae]yscale|monochrome|blur"
    rf"|screen|out[- ]of|panoram|dark|bright|scan|document)|\b(?:{'|'.join(COLORS)}|grey)\b|://",
    re.IGNORECASE,
)


def hints(query: Query) -> list[str]:
    """Queries that may say better what one says in words, a line each. Each can be asked as it stands."""
    told: list[str] = []
    for term in query.terms:
        if term.kind != "text" or term.weight < 0 or _WORTH_A_LOOK.search(term.value) is None:
            continue
        text = term.value
        if _ADDRESS.fullmatch(text):
            told.append(
                sentence(
                    "address",
                    "{text} was searched as words: only clipsearch query fetches a picture from its address, and only "
                    "an address that stands alone",
                    text=text,
                )
            )
            continue
        told += _without(query, text)
        told += _taken(query, text)
        told += _looking(query, text)
    return list(dict.fromkeys(told))


def unknown_tags(query: Query, tags: Iterable[str], with_keyword: Callable[[str], int] = lambda _: 0) -> list[str]:
    """That a query filters by tags that there are not, a line each. `tags`: the names of those that there are;
    `with_keyword`: how many pictures have a keyword that other programs wrote."""
    if query.filter is None:
        return []
    from clipsearch.folding import fold_name

    names = list(tags)
    known = {fold_name(name) for name in names}
    unknown = [leaf.name for leaf in leaves_of(query.filter) if isinstance(leaf, Tagged)]
    listed = f"{', '.join(sorted(names)[:10])}{', ...' if len(names) > 10 else ''}"
    there = (
        sentence("tags_there", "There are: {names}", names=listed)
        if names
        else sentence("no_tags", "There are none yet: clipsearch concept add NAME PICTURE... makes one")
    )
    told: list[str] = []
    for name in dict.fromkeys(unknown):
        if fold_name(name) not in known:
            written = f'"{name}"' if " " in name else name
            found = with_keyword(name)
            if found:
                where = sentence(
                    "tag_is_keyword", "For the {n:,} with this keyword, write keyword:{word}", n=found, word=written
                )
            else:
                where = there
            told.append(
                sentence(
                    "no_tag",
                    "no tag or concept is called {name}, so tag:{name} matches nothing. {where}",
                    name=name,
                    where=where,
                )
            )
    return told


def _without(query: Query, text: str) -> list[str]:
    told: list[str] = []
    for match in re.finditer(_WITHOUT, text, re.IGNORECASE):
        things = [re.sub(rf"^{_ARTICLE}", "", thing).lower() for thing in _BETWEEN_THINGS.split(match["things"])]
        if any(thing in _NOT_THINGS or thing in _LOOK_WORDS for thing in things):
            continue
        rest = _rest(query, match[0], " ".join(f"-{thing}" for thing in things))
        if rest is not None:
            told.append(
                sentence(
                    "without",
                    "words like not and without are not understood. To leave out {word}, write: {query}",
                    word=", ".join(things),
                    query=rest,
                )
            )
    return told


def _taken(query: Query, text: str) -> list[str]:
    if query.filter is not None and any(
        isinstance(leaf, Range) and leaf.column == "date" for leaf in leaves_of(query.filter)
    ):
        return []
    found = _dated(text)
    rest = None if found is None else _rest(query, *found)
    if rest is None:
        return []
    return [sentence("taken", "dates in words are not understood. For pictures taken then, write: {query}", query=rest)]


def _dated(text: str) -> tuple[str, str] | None:
    """The words of a text that say a time, and the filters for it; None if there are none, or none that are sure."""
    between = re.search(_RANGE, text, re.IGNORECASE)
    if between is not None:
        first, last = (next(filter(None, map(_span_of, _matches(between[name]))), None) for name in ("first", "last"))
        is_sure = first is not None and last is not None and _NO_DATE.search(text[: between.start()]) is None
        return (between[0], f"after:{first[0]} before:{last[1]}") if is_sure and first and last else None
    match = next(iter(_matches(text)), None)
    if match is None or len(re.findall(rf"\b{_YEAR}\b", text)) > 1 or (span := _span_of(match)) is None:
        return None
    head = text[: match.start()]
    for pattern, field, end in _SIDES:
        if (side := pattern.search(head)) is not None:
            is_negated = _NO_DATE.search(head[: side.start()]) is not None
            return None if is_negated else (f"{side[0]}{match[0]}", f"{field}:{span[end]}")
    return None if _NO_DATE.search(head) is not None else (match[0], f"after:{span[0]} before:{span[1]}")


def _matches(text: str) -> Iterator[re.Match[str]]:
    return (found for pattern in _DATES if (found := re.search(pattern, text, re.IGNORECASE)))


def _span_of(match: re.Match[str]) -> tuple[str, str] | None:
    groups = match.groupdict()
    named, number = groups.get("month"), groups.get("number")
    month = _MONTHS[named.lower()] if named else int(number) if number else None
    return _span(int(groups["year"]), month, int(groups["day"]) if groups.get("day") else None)


_BEFORE_HEAD = re.compile(rf"(?:(?:an?|the|my|our|some|two|three)\s+)*{_PICTURE}\s+of\s+", re.IGNORECASE)
_NOT_DOING = "building|wedding|evening|morning|ceiling|painting|clothing|earring|ring|king|wing|string|spring|thing"
_DOING = rf"(?!(?:{_NOT_DOING})\b)\w{{2,}}ing"
_AFTER_HEAD = re.compile(
    r"\s(?:in|on|at|with|without|of|for|from|by|near|under|over|behind|beside|between|against|into|through|and|or|who|that"
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
    text = query.terms[0].value
    words = _AFTER_HEAD.sub("", _BEFORE_HEAD.sub("", text, count=1).strip(), count=1).split()
    if not words or len(words[-1]) < 3 or len(text.split()) < 2:
        return None
    written = _rest(query, text, words[-1])
    return None if written is None else (words[-1], written)


def _span(year: int, month: int | None, day: int | None) -> tuple[str, str] | None:
    """When a year, month or day begins, and when it is over; None where there is no such one."""
    import datetime

    try:
        first = datetime.date(year, month or 1, day or 1)
    except ValueError:
        return None
    if day is not None:
        return f"{first}", f"{first + datetime.timedelta(days=1)}"
    if month is not None:
        return f"{first:%Y-%m}", f"{year + month // 12}-{month % 12 + 1:02d}"
    return str(year), str(year + 1)


def _looking(query: Query, text: str) -> list[str]:
    for pattern, says, what in _LOOKS:
        match = re.search(pattern, text, re.IGNORECASE)
        if match is not None and _is_refused(text, match):
            return []
        if match is not None and says not in query.source:
            rest = _rest(query, match[0], says)
            return (
                []
                if rest is None
                else [sentence("looks", "for {what} by their pixels, write: {query}", what=what, query=rest)]
            )
    match = re.search(_COLOR, text, re.IGNORECASE)
    if match is None or "color:" in query.source or _is_refused(text, match):
        return []
    color = (match["alone"] or match["of"]).lower().replace("grey", "gray")
    rest = _rest(query, match[0], f"color:{color}")
    if rest is None:
        return []
    return [
        sentence("much_colour", "for pictures with much of this colour by their pixels, write: {query}", query=rest)
    ]


def _is_refused(text: str, match: re.Match[str]) -> bool:
    """Whether what stands before a phrase says that it is not wanted."""
    return (
        re.search(rf"\b(?:not|no|without|w/o|except(?:\s+for)?|excluding)\s+{_ARTICLE}$", text[: match.start()])
        is not None
    )


def _rest(query: Query, phrase: str, instead: str) -> str | None:
    """The query without a phrase, and with what says the same; None where it cannot be told or asked."""
    from clipsearch.errors import InvalidQuery
    from clipsearch.query import parse_query

    before, found, after = query.source.partition(phrase)
    if not found or before.count('"') % 2:  # what is in quotes is meant as it stands
        return None
    before, after = before.rstrip(" ,.;"), after.strip(" ,;.?!")
    if re.fullmatch(r"an?|the|of", before, re.IGNORECASE):
        before = ""
    written = " ".join(f"{before} {after} {instead}".split())
    try:
        parse_query(written)
    except InvalidQuery:
        return None
    return written


def requoted(query: str, is_folder: Callable[[str], bool]) -> str:
    """A query with quotes around the names of folders of several words, where only so there is such a folder.

    `is_folder`: whether there is a folder that a name fits. The longest name of up to MOST_WORDS words counts.
    """

    def with_quotes(match: re.Match[str]) -> str:
        words = re.split(r"(\s+)", match["value"])
        if len(words) == 1 or is_folder(words[0]):
            return match[0]
        for count in range(min(len(words), 2 * MOST_WORDS - 1), 1, -2):
            name = "".join(words[:count])
            if is_folder(name):
                return f'{match["field"]}"{name}"{"".join(words[count:])}'
        return match[0]

    return re.sub(_UNQUOTED_FOLDER, with_quotes, query, flags=re.IGNORECASE) if query.count('"') == 0 else query
