"""What a query could also have meant: words that say what a filter or a minus says better, and what stands in its way.

One line each, beside the hits; the query is never changed. `query.offers` has words that are nearly filters; what words
may mean is looked up in `dates`, `unwanted` and `looks`, and only for a query with a sign of it: plain queries load
none of them. Knows no index and no model: what they know is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from clipsearch.filenames import ENDINGS
from clipsearch.query import Query
from clipsearch.records import COLORS
from clipsearch.sentences import sentence

if TYPE_CHECKING:
    import datetime

_DATES = "yesterday today year month gestern heute jahr hier année ayer año fifties sixties seventies eighties nineties"
_UNWANTED = (
    "not no without w/o excluding except excepting minus but rather instead free empty devoid ohne kein keine keinen "
    "sans pas sin senza sem zonder geen"
)
_OF_DATES, _OF_UNWANTED = frozenset(_DATES.split()), frozenset(_UNWANTED.split())
_TYPES = tuple(f".{ending}" for endings in ENDINGS.values() for ending in endings.split())
_LOOKS = (
    "b&w", "b & w", "b/w", "scale", "monochrome", "sepia", "blur", "screen", "out-of", "out of", "panoram", "dark",
    "bright", "scan", "document", "grey", *COLORS,
)  # fmt: skip


def hints(query: Query, today: datetime.date | None = None) -> list[str]:
    """Queries that may say better what one says in words, a line each. Each can be asked as it stands.

    `today`: what `last year` counts from; None is the day by this computer's clock.
    """
    told: list[str] = []
    for term in query.terms:
        if term.kind != "text":
            continue
        text = term.value.lower()
        words = {word.strip(",;()[]’'") for word in text.split()}
        if "://" in text:
            from clipsearch.query.addresses import address_in

            told += address_in(term.value)
            continue
        if text.endswith(_TYPES) and len(words) == 1:
            from clipsearch.query.addresses import file_name

            told += file_name(query, term)
            continue
        if not _OF_UNWANTED.isdisjoint(words) or "!" in text or "--" in text or "-free" in text:
            from clipsearch.query.unwanted import left_out

            told += left_out(query, term)
        if term.weight < 0:
            continue
        if not _OF_DATES.isdisjoint(words) or "0s" in text or "0's" in text or sum(map(str.isdecimal, text)) >= 4:
            from clipsearch.query.dates import taken

            told += taken(query, term, today)
        if any(sign in text for sign in _LOOKS):
            from clipsearch.query.looks import looking

            told += looking(query, term)
    return list(dict.fromkeys(told))


def unknown_tags(query: Query, tags: Iterable[str], with_keyword: Callable[[str], int] = lambda _: 0) -> list[str]:
    """That a query filters by tags that there are not, a line each. `tags`: the names of those that there are;
    `with_keyword`: how many pictures have a keyword that other programs wrote."""
    if query.filter is None:
        return []
    from clipsearch.folding import fold_name
    from clipsearch.query.nodes import Tagged, leaves_of

    names = list(tags)
    known = {fold_name(name) for name in names}
    unknown = [leaf.name for leaf in leaves_of(query.filter) if isinstance(leaf, Tagged)]
    listed = f"{', '.join(sorted(names)[:10])}{', ...' if len(names) > 10 else ''}"
    there = (
        sentence("tags_there", "There are: {names}", names=listed)
        if names
        else sentence("no_tags", "There are none yet. Create one with: clipsearch concept add NAME PICTURE...")
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
