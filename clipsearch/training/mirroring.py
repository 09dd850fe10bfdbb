"""Which pictures must not be mirrored: those whose captions speak of sides, or of something that is to be read."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from clipsearch.pairs.reading import PairSet

NEVER_FROM = 0.1  # of the pairs: then the others are probably like them

_TELLING = re.compile(
    r"\b(?:left|right|leftmost|rightmost|(?:counter|anti)?-?clockwise|east|west|eastern|western|"
    r"links|rechts|linke[rnms]?|rechte[rnms]?|gauche|droite|izquierd[ao]|derech[ao]|sinistr[ao]|destr[ao]|"
    r"texts?|logos?|letters?|lettering|words?|signs?|signage|signpost|writing|written|handwrit\w*|inscri\w+|says|"
    r"reads|reading|slogans?|headlines?|labels?|labell?ed|posters?|banners?|billboards?|screenshots?|documents?|"
    r"receipts?|invoices?|newspapers?|menus?|maps?|charts?|diagrams?|typograph\w*|fonts?|graffiti|calligraph\w*|"
    r"monograms?|(?:number|licen[cs]e) plates?|scoreboards?|clocks?|schild\w*|schrift\w*|aufschrift|enseigne|"
    r"panneau|letrero|cartel|texte|texto|testo)\b"
    r"|[\"\u201c\u201d\u201e\u00ab\u00bb\u300c]\s*\w"
    r"|[\u5de6\u53f3\u5b57]|\u6587\u5b57|\u6807\u5fd7|\u6a19\u8a8c",
    re.IGNORECASE,
)


def tells_a_side(captions: Iterable[str]) -> bool:
    """Whether one of a picture's captions could become wrong, or its writing unreadable, in a mirror."""
    return any(_TELLING.search(caption) for caption in captions)


def may_be_mirrored(pairs: PairSet, asked: bool | None = None) -> npt.NDArray[np.bool_]:
    """For each pair whether its picture may be mirrored. Shape: (N,).

    `asked`: True for all, False for none; None: unless the captions speak against it, and for none where a tenth
    of them does.
    """
    if asked is not None:
        return np.full(len(pairs), asked)
    found = np.array([not tells_a_side(pair.captions) for pair in pairs], dtype=bool)
    return found if np.mean(~found) < NEVER_FROM else np.zeros(len(pairs), dtype=bool)


def mirroring_notice(may: npt.NDArray[np.bool_]) -> str | None:
    """What there is to say of a choice that was made from the captions."""
    left_out = int(np.count_nonzero(~may))
    if not left_out:
        return None
    why = "because captions mention sides or writing"
    if left_out == len(may):
        return f"pictures are not mirrored, {why}; --mirror mirrors them all"
    return f"{left_out:,} of {len(may):,} pictures are not mirrored, {why}; --mirror mirrors them all"
