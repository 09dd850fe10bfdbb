"""Captions made wrong by one change: another colour, another count, two words in each other's place.

What NegCLIP (Yuksekgonul et al. 2023) trains against: a model that reads a caption as a bag of words finds these as
near to the picture as the caption itself. Colours and counts are known in English; words change places in any language
that puts spaces between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import takewhile

import numpy as np
import xxhash

from clipsearch.pairs.reading import PairSet
from clipsearch.records import IntArray
from clipsearch.training.settings import NothingToLearn

LOOKED_AT = 1000  # pairs, for what is said before training
MOST_VIEWS = 16  # of a picture, which the same seeds choose by their remainder
MOST_VARIANTS = 4  # of a caption
ATTEMPTS = 3  # of a kind, for each variant of it

_FAMILIES = (
    ("black",),
    ("white", "cream", "ivory"),
    ("grey", "gray", "charcoal", "silver"),
    ("red", "maroon", "burgundy", "crimson"),
    ("pink", "magenta", "peach"),
    ("orange", "coral"),
    ("yellow", "gold", "golden", "mustard"),
    ("green", "olive"),
    ("blue", "navy", "teal", "turquoise"),
    ("purple", "violet", "lavender"),
    ("brown", "tan", "beige", "khaki", "bronze", "copper"),
)
"""Colours that people may call by each other's names stand together: none is a wrong word for another."""

_FAMILY = {name: family[0] for family in _FAMILIES for name in family}
_COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = tuple(str(number) for number in range(2, 11))
_COLOUR = re.compile(rf"\b(?:{'|'.join(_FAMILY)})\b", re.IGNORECASE)
_COUNT = re.compile(rf"\b(?:{'|'.join(_COUNTS)}|(?<![\w./-])(?:[2-9]|10)(?=\s+[^\W\d]))\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_LITTLE = frozenset([
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "by", "for", "with", "from", "into", "onto", "over",
    "under", "near", "next", "beside", "behind", "between", "is", "are", "was", "were", "be", "its", "it", "his", "her",
    "their", "this", "that", "these", "those", "there", "some", "very", "while", "as", "up", "down", "out", "off",
    "who", "which",
])  # fmt: skip
_EVEN = frozenset(["a", "an", "the", "and", "or", "with", "next", "to", "near", "beside", "other", "each", "some"])
"""Between two words, these alone say the same of both: "a dog and a cat" is "a cat and a dog"."""
_TOKEN = re.compile(r"\d+|[^\W\d_][\w'’-]*|[,;.&+]")
_SIDE_BY_SIDE = frozenset(["and", "or", "near", "beside", "next", ",", ";", ".", "&", "+"])
"""What stands on both sides of these may change sides."""
_SAYING_NOTHING = frozenset(["a", "an", "the", "to", "other", "each", "some"])

Swap = Callable[[str, np.random.Generator], str | None]


def swapped(caption: str) -> list[str]:
    """Return up to four wrong captions like this one, always the same; none if nothing in it can be swapped.

    Colours and counts come before the order of words, which changes the meaning less surely.
    """
    random = np.random.default_rng(xxhash.xxh3_64_intdigest(caption.encode("utf-8", "surrogatepass")))
    found: dict[str, None] = {}
    for swap, most in ((_other_colour, 2), (_other_count, 1), (_other_order, MOST_VARIANTS)):
        made = 0
        for _ in range(ATTEMPTS * most):
            if made == most or len(found) == MOST_VARIANTS:
                break
            wrong = swap(caption, random)
            if wrong is None:
                break
            if wrong not in found and wrong.casefold() != caption.casefold():
                found[wrong] = None
                made += 1
    return list(found)


def usable(
    variants: Sequence[Sequence[str]], readings: Callable[[list[str]], Sequence[bytes]], known: Container[bytes]
) -> list[list[str]]:
    """Leave out what is no wrong caption: variants that a model reads as a caption of some pair.

    `readings`: what it reads of texts; `known`: of all captions. Truncation can make a variant the caption itself.
    """
    texts = list(dict.fromkeys(text for own in variants for text in own))
    good = {text for text, reading in zip(texts, readings(texts), strict=True) if reading not in known} if texts else {}
    return [[text for text in own if text in good] for own in variants]


def swapping_notice(pairs: PairSet) -> str:
    """How many captions can be made wrong, of some. Raises: NothingToLearn if none can."""
    looked_at = pairs[:: max(1, len(pairs) // LOOKED_AT)]
    captions = {caption for pair in looked_at for caption in pair.captions}
    good = sum(bool(swapped(caption)) for caption in captions)
    if not good:
        raise nothing_to_swap()
    return (
        f"{good:,} of {len(captions):,} captions that were checked have a colour, a count or words that can be swapped"
    )


def nothing_to_swap() -> NothingToLearn:
    """What is wrong with captions that have no wrong ones like them."""
    problem = "no caption has a colour, a count or words that can be swapped"
    return NothingToLearn(problem, "Leave out --hard-negatives, or choose --hard-negatives mined")


def choice_of(seeds: IntArray, many: IntArray) -> IntArray:
    """Which of `many` variants a draw's seeds choose, whatever views they choose (see `Draw`). Shapes: (B,)."""
    return seeds // MOST_VIEWS % many


def _other_colour(caption: str, random: np.random.Generator) -> str | None:
    found = list(_COLOUR.finditer(caption))
    if not found:
        return None
    chosen = found[random.integers(len(found))]
    others = [one for one in found if _family(one[0]) != _family(chosen[0]) and _tell_apart(caption, chosen, one)]
    if others and random.random() < 0.5:
        return _exchanged(caption, chosen, others[random.integers(len(others))])
    taken = {_family(one[0]) for one in found}
    free = [family[0] for family in _FAMILIES if family[0] not in taken]
    return _replaced(caption, chosen, free[random.integers(len(free))]) if free else None


def _other_count(caption: str, random: np.random.Generator) -> str | None:
    found = list(_COUNT.finditer(caption))
    if not found:
        return None
    chosen = found[random.integers(len(found))]
    names = _DIGITS if chosen[0].isdigit() else _COUNTS
    others = [name for name in names if name != chosen[0].lower()]
    return _replaced(caption, chosen, others[random.integers(len(others))])


def _other_order(caption: str, random: np.random.Generator) -> str | None:
    words = [word for word in _WORD.finditer(caption) if len(word[0]) > 2 and word[0].lower() not in _LITTLE]
    pairs = [
        (one, other)
        for place, one in enumerate(words)
        for other in words[place + 2 :]
        if one[0].lower() != other[0].lower() and _tell_apart(caption, one, other)
    ]
    return _exchanged(caption, *pairs[random.integers(len(pairs))]) if pairs else None


def _family(colour: str) -> str:
    return _FAMILY[colour.lower()]


def _tell_apart(caption: str, one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether something is said of one of two words only, so that they cannot change places.

    "two dogs and two cats" is "two cats and two dogs", and so it is with "a man in red next to a man in blue".
    """
    first, second = sorted((one, other), key=lambda word: word.start())
    between = _tokens(caption[first.end() : second.start()])
    if not any(word[0].isalpha() and word not in _EVEN for word in between):
        return False
    parting = _SIDE_BY_SIDE if any(word in _SIDE_BY_SIDE for word in between) else frozenset(["with"])
    if not any(word in parting for word in between):
        return True
    before = _up_to(parting, reversed(_tokens(caption[: first.start()])))
    before_second = _up_to(parting, reversed(between))
    after = _up_to(parting, between)
    after_second = _up_to(parting, _tokens(caption[second.end() :]))
    # What comes before both, or after both, may be said of them together.
    return before_second != before[: len(before_second)] or after != after_second[: len(after)]


def _tokens(text: str) -> list[str]:
    return [token.lower() for token in _TOKEN.findall(text)]


def _up_to(ends: Container[str], tokens: Iterable[str]) -> list[str]:
    """The tokens before the first one that is an end, without those that say nothing."""
    return [token for token in takewhile(lambda one: one not in ends, tokens) if token not in _SAYING_NOTHING]


def _replaced(caption: str, place: re.Match[str], word: str) -> str:
    return caption[: place.start()] + _written_like(word, place[0]) + caption[place.end() :]


def _exchanged(caption: str, one: re.Match[str], other: re.Match[str]) -> str:
    first, second = sorted((one, other), key=lambda word: word.start())
    between = caption[first.end() : second.start()]
    forth, back = _written_like(second[0], first[0]), _written_like(first[0], second[0])
    return caption[: first.start()] + forth + between + back + caption[second.end() :]


def _written_like(word: str, model: str) -> str:
    """With the capitals of the word whose place it takes, unless it has capitals of its own."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    if model[:1].isupper() and model[1:].islower():
        return word[:1].upper() + word[1:]
    return word.lower() if model.islower() and word[1:].islower() else word
