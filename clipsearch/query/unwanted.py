"""Words for what is not wanted: `without people`, `not a dog`, `car-free`. The model does not understand them; a query
with a minus is offered where it is certain what is left out.

"no" begins names of signs (`no parking`) and "not" stands before what somebody is or does (`not alone`), so each counts
only before a word for a thing. Words of other languages count within a text, and alone only before words for people.
"""

from __future__ import annotations

import re

from clipsearch.query import Query, Term
from clipsearch.query.rewriting import rewritten
from clipsearch.records import COLORS
from clipsearch.sentences import sentence

_ARTICLE = (
    r"(?:(?:an?|any|the|some|die|den|das|der|dem|einen?|eine|les|la|le|los|las|el|gli|i|il|de|du|des|het|een|os|as)\s+"
    r"|l['’]|d['’])?"
)
_THING = r"[^\W\d_]+(?:-[^\W\d_]+)*"
_OR = (
    r"(?:\s*,?\s*\b(?:or|and|nor|oder|und|ou|et|o|y|e|ni|of|en)\b\s*"
    r"|\s*,\s*(?=[^\W\d_]+(?:,\s*[^\W\d_]+)*,?\s+(?:or|and|nor|oder|und|ou|et|o|y)\b))"
)
_PEOPLE = (
    "menschen leute personen personnes? gens gente personas persone persona pessoas mensen people persons? humans? "
    "autos? voitures? coches"
).replace(" ", "|")
_NEGATED = (
    r"(?:but|and|with|that\s+(?:is|are|has)|which\s+(?:is|are|has)|there\s+(?:is|are))?\s*\b(?:not|no)|(?:and\s+|but\s+)?without"
    r"|w/o|excluding|except(?:ing)?(?:\s+for)?|(?:free|empty|devoid)\s+of|(?:(?<=everything\s)|(?<=anything\s)|(?<=all\s))but"
    r"|(?<=\S\s)(?:minus|rather\s+than|instead\s+of)"
    r"|(?<=\S\s)(?:mit\s+)?(?:sans|pas\s+de|pas\s+d(?=['’])|sin|senza|sem|zonder|geen)"
    rf"|keine?n?|ohne|(?:sans|sin|senza|sem|zonder|geen)(?=\s+{_ARTICLE}(?:{_PEOPLE})\b)"
)
_BEHIND = (
    r"(?=\s*(?:$|[,.;:?!)\]]|\b(?:in|on|at|of|with|near|by|under|over|from|behind|beside|but|and|please|visible|around|there"
    r"|anywhere|no|not|without|im|am|auf|dans|sur|en)\b))"
)
_WITHOUT = re.compile(
    rf"(?P<open>[(\[]\s*)?(?<![^\s(\[,.;])(?P<says>{_NEGATED})\s*(?<=[\s'’]|d)(?P<things>{_ARTICLE}{_THING}"
    rf"(?:{_OR}{_ARTICLE}{_THING})*)\b{_BEHIND}(?(open)\s*[)\]])",
    re.IGNORECASE,
)
_SIGNED = re.compile(rf"(?:(?:\b(?:and|but)|&&?)\s*)?(?<![^\s(])(?:!|--)(?P<things>{_THING})\b(?=\s|$)", re.IGNORECASE)
_FREE = re.compile(
    r"(?<![\w-])(?P<things>people|person|human|crowd|tourist|car|traffic|dog|cat|animal|cloud|snow|text|watermark)s?-free\b",
    re.IGNORECASE,
)
_BETWEEN_THINGS = re.compile(rf"{_OR}{_ARTICLE}", re.IGNORECASE)
_LOOK_WORDS = {*COLORS, "grey"} | {
    "blurry", "blurred", "dark", "bright", "monochrome", "panorama", "panoramic", "screenshot", "screenshots",
    "document", "documents", "color", "colour", "scan", "scans", "background",
}  # fmt: skip
_NO_THINGS = (
    "one no not entry trespassing diving way doubt idea matter longer more less other others exit vacancy dumping "
    "limit fear comment problem to yet so very only sure too in on at from with without for by it is i my your his "
    "her our their this that these those all here there serif a an any the turn turns access admittance signal "
    "service internet connection photos photo pictures picture image images photography flash name title filter "
    "caption date gps tag tags clue chance bit fan drill soul care thing things single moment reason kidding joke "
    "country man time pain gain sign signs entrance thanks thank please abri abris souci soucis papiers fil doute "
    "titre nom embargo duda título nombre titel namen ende much many few enough every each just even really quite "
    "always never alone good bad new old big small young open closed visible present possible available allowed "
    "permitted required needed well same different sharp clear full empty"
)
_NOT_THINGS = frozenset(_NO_THINGS.split())
# What is said of "not" before one of these, or of several of something, is of a thing, also without an article.
_SOME_THINGS = (
    "people person woman child children kid baby human dog puppy cat kitten animal bird horse fish car truck bus "
    "train bike bicycle boat plane tree flower grass snow rain water sea ocean beach food pizza fruit cake text "
    "watermark furniture building house street road city mountain sky sun moon hat gun phone computer"
)
_THINGS = frozenset(_SOME_THINGS.split())
_DOINGS = re.compile(
    r"(?!(?:building|painting|ring|king|wing|string|thing|ceiling|earring|clothing|wedding|railing|duckling)s?$)\w{2,}ing$"
)


def left_out(query: Query, term: Term) -> list[str]:
    """A line with the query that leaves out what the words of a term say that they do without, if they say so."""
    if term.weight < 0:
        return _negated_twice(query, term)
    phrases: list[str] = []
    things: list[str] = []
    for match in sorted(
        (found for pattern in (_WITHOUT, _SIGNED, _FREE) for found in pattern.finditer(term.value)),
        key=lambda m: m.start(),
    ):
        named = None if re.search(r"(?:^|\s)\d+\s*$", term.value[: match.start()]) else _things(match)
        if named is None:  # 3 no trumps
            return []  # half of what is not wanted is not offered
        phrases.append(match[0].strip())
        things += named
    if not phrases:
        return _before_filter(query, term)
    things = list(dict.fromkeys(things))
    there = {other.value.lower() for other in query.terms if other.weight < 0}
    signed = " ".join(f"-{thing}" for thing in things if thing.lower() not in there)
    return _told(things, rewritten(query, [term], [(phrase, "") for phrase in phrases], signed))


def _things(match: re.Match[str]) -> list[str] | None:
    """What a phrase says is not wanted; None where that is not certain."""
    says = (match.groupdict().get("says") or "").lower().split()[-1:]
    things = [
        re.sub(rf"^{_ARTICLE}", "", thing, flags=re.IGNORECASE) for thing in _BETWEEN_THINGS.split(match["things"])
    ]
    has_article = re.match(r"(?:an?|any)\s", match["things"], re.IGNORECASE) is not None
    for thing in things:
        word = thing.lower()
        if word in _NOT_THINGS or word in _LOOK_WORDS or _DOINGS.match(word):
            return None
        if says == ["not"] and not (has_article or _is_thing(word)):
            return None
    return things


def _is_thing(word: str) -> bool:
    return word in _THINGS or (len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ous")))


def _negated_twice(query: Query, term: Term) -> list[str]:
    """Of `beach - no people`, the query without its second no."""
    match = _WITHOUT.fullmatch(term.value)
    things = None if match is None else _things(match)
    if match is None or things is None or len(things) != 1:
        return []
    return _told(things, rewritten(query, [term], [(term.value, things[0])]))


def _before_filter(query: Query, term: Term) -> list[str]:
    """Of `dog without folder:x`, the query with the word that filters are negated by."""
    match = re.search(r"(?:^|\s)(?P<says>without|excluding|except|no|ohne|sans|sin)$", term.value, re.IGNORECASE)
    if match is None or query.filter is None:
        return []
    rest = negated(query, term, match["says"])
    if rest is None:
        return []
    return [
        sentence(
            "without_filter",
            "{word} before a filter was searched as a word. To leave out what it matches, write: {query}",
            word=match["says"],
            query=rest,
        )
    ]


def negated(query: Query, term: Term, word: str) -> str | None:
    """A query with "not" for the word that stands before one of its filters; None where it does not stand there."""
    from clipsearch.errors import InvalidQuery
    from clipsearch.query import parse_query

    for leaf in query.leaves():
        before = query.source[: leaf.span.start]
        found = re.search(rf"(?<!\S){re.escape(word)}\s+$", before)
        if found is None:
            continue
        written = f"{before[: found.start()]}not {query.source[leaf.span.start :]}".strip()
        try:
            parse_query(written)
        except InvalidQuery:
            return None
        return written
    return None


def _told(things: list[str], written: str | None) -> list[str]:
    if written is None:
        return []
    return [
        sentence(
            "without",
            "words like not and without are not understood. To leave out {word}, write: {query}",
            word=", ".join(things),
            query=written,
        )
    ]
