"""Words for what pixels say: `black and white`, `blurry photo`, `red`. What they filter by is offered."""

from __future__ import annotations

import re

from clipsearch.query import Query, Term
from clipsearch.query.rewriting import rewritten
from clipsearch.records import COLORS
from clipsearch.sentences import sentence

_PICTURE = r"(?:photos?|photographs?|pictures?|pics?|images?|shots?|portraits?)"
_OF = rf"\s+{_PICTURE}\b(?:\s+of\b)?"
_ALONE = r"(?=\s*$)"
# What is blurred in sharp pictures: the hint is for a query such as `blurry dog`, in which the picture is meant.
_OFTEN_BLURRED = "|".join(
    [
        "background",
        "foreground",
        "ground",
        "bokeh",
        "light",
        "motion",
        "movement",
        "line",
        "trail",
        "water",
        "edge",
        "vision",
        "text",
        "face",
        "plate",
    ]
)
_LOOKS = tuple(
    (pattern, says, what)
    for pattern, says, what in (
        (
            r"\b(?:in\s+)?(?:black\s*(?:and|&)\s*white|black-and-white|b\s?&\s?w|b/w|gr[ae]yscale|monochrome)"
            rf"(?:{_OF}|{_ALONE})",
            "is:monochrome",
            sentence("look_monochrome", "pictures without colour"),
        ),
        (
            rf"\b(?:in\s+)?sepia(?:[\s-]+toned?)?(?:{_OF}|{_ALONE})",
            "is:monochrome",
            sentence("look_toned", "pictures in one tone"),
        ),
        (r"\b(?:a\s+)?screen\s?shots?\b(?:\s+of\b)?", "is:screenshot", sentence("look_screenshot", "screenshots")),
        (
            rf"\b(?:a\s+)?(?:blurry|blurred|out[- ]of[- ]focus)(?:{_OF}|{_ALONE})",
            "is:blurred",
            sentence("look_blurred", "blurred pictures"),
        ),
        (
            r"^(?:an?\s+|the\s+|my\s+)?(?:blurry|blurred|out[- ]of[- ]focus)\s+"
            rf"(?=[\w'-]+(?:\s+[\w'-]+)?\s*$)(?!(?:\w+\s+)?(?:{_OFTEN_BLURRED})s?\b)",
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
_REFUSED = r"\b(?:not|no|without|w/o|except(?:\s+for)?|excluding|non)[\s-]+(?:an?\s+|any\s+|the\s+)?$"


def looking(query: Query, term: Term) -> list[str]:
    """A line with the filter that the words of a term mean, if they mean one."""
    text = term.value
    for pattern, says, what in _LOOKS:
        match = re.search(pattern, text, re.IGNORECASE)
        if match is not None and _is_refused(text, match):
            return []
        if match is not None and says not in query.source:
            rest = rewritten(query, [term], [(match[0], "")], says)
            return [] if rest is None else [_looks(what, rest)]
    match = re.search(_COLOR, text, re.IGNORECASE)
    if match is None or "color:" in query.source or _is_refused(text, match):
        return []
    color = (match["alone"] or match["of"]).lower().replace("grey", "gray")
    rest = rewritten(query, [term], [(match[0], "")], f"color:{color}")
    if rest is None:
        return []
    return [
        sentence("much_colour", "for pictures with much of this colour by their pixels, write: {query}", query=rest)
    ]


def _looks(what: str, query: str) -> str:
    return sentence("looks", "for {what} by their pixels, write: {query}", what=what, query=query)


def _is_refused(text: str, match: re.Match[str]) -> bool:
    """Whether what stands before a phrase says that it is not wanted."""
    return re.search(_REFUSED, text[: match.start()], re.IGNORECASE) is not None
