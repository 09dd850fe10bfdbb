"""Words that are probably misspelt, and what was probably meant. Offered, never put in place.

A word is looked at only if the model does not know it whole, and it is not one that it knows with an ending. What is
offered is a word that the model knows and that is a slip away: a letter wrong, missing, too many, or two swapped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

LEAST_LETTERS = 5  # shorter words are near to too many others, but for two letters that changed places: teh, dgo
_LEAST_SWAPPED = 3
_TWO_SLIPS_FROM = 9
_SWAPPED_FROM = 7
_LEAST_OF_COMPOUND = 3
_MOST_OF_COMPOUND = 24  # photographers; the time grows with the square of it
_WORD = re.compile(r"(?<![\w'@#.-])[a-z]+(?![\w'@:-]|\.\w)")  # names begin with a capital
_ENDINGS = ("s", "es", "ed", "er", "ers", "ing", "ings", "ly", "ness", "less", "y", "d", "r", "like", "ish", "able")


def suspicious(text: str, knows: Callable[[str], bool], is_word: Callable[[str], bool] = lambda _: True) -> list[str]:
    """The words of a text that may be misspelt: in small letters, and not known, nor made of known words. `is_word`:
    whether something that is known is a word, and no part of words alone, such as the soc of socer."""

    def is_known_word(word: str) -> bool:
        return knows(word) and is_word(word)

    return [
        word
        for word in dict.fromkeys(_WORD.findall(text))
        if len(word) >= _LEAST_SWAPPED and not knows(word) and not _is_made_of_known(word, is_known_word)
    ]


def _is_made_of_known(word: str, knows: Callable[[str], bool]) -> bool:
    """Whether a word is a known one with an ending: surfboards, biking, sunnier."""
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 3:
            continue
        forms = [stem, f"{stem}e"]
        if stem[-1] == stem[-2]:
            forms.append(stem[:-1])
        if stem[-1] == "i":
            forms.append(f"{stem[:-1]}y")
        if any(map(knows, forms)):
            return True
    return False


def nearest_word(word: str, words: Sequence[str], *, is_listed: bool = False) -> str | None:
    """The word that was probably meant, of those that a model knows, the most frequent first; None if there is none.

    Of those that are as near, one that begins alike, then the more frequent. `is_listed`: the word is in a list of
    words that has slips too, so only one with the same letters can be meant; and of a word of fewer than LEAST_LETTERS
    none. Of such a word that is not listed, only one with the same letters, too.
    """
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import extract

    slips = 2 if len(word) >= _TWO_SLIPS_FROM and not is_listed else 1
    letters = sorted(word)
    is_short = len(word) < LEAST_LETTERS
    if is_short and is_listed:
        return None
    least = len(word) if is_short else LEAST_LETTERS - 1
    near = [other for other in words if abs(len(other) - len(word)) <= slips and len(other) >= least]
    if is_short or is_listed:
        near = [other for other in near if sorted(other) == letters]
    elif slips == 1 and len(word) >= _SWAPPED_FROM:  # bycicle: two letters have changed places
        near = [other for other in near if sorted(other) == letters or OSA.distance(word, other, score_cutoff=1) <= 1]
        slips = 2
    ranked = sorted(
        (distance, sorted(other) != letters, other[:1] != word[:1], number, other)
        for other, distance, number in extract(word, near, scorer=OSA.distance, score_cutoff=slips, limit=None)
    )
    return next((other for distance, _, elsewhere, _, other in ranked if not elsewhere or distance < 2), None)


def nearest_compound(word: str, words: Sequence[str], is_word: Callable[[str], bool]) -> str | None:
    """The word of two that a model knows that is one slip away from `word`, such as skateboard; None if there is none,
    or are several. `is_word`: whether the two together are a word too."""
    if not LEAST_LETTERS <= len(word) <= _MOST_OF_COMPOUND:
        return None
    known = frozenset(words)

    def is_compound(other: str) -> bool:
        places = range(_LEAST_OF_COMPOUND, len(other) - _LEAST_OF_COMPOUND + 1)
        return any(other[:at] in known and other[at:] in known for at in places)

    if any(is_compound(word.removesuffix(ending)) for ending in ("", "s", "es", "ed", "er", "ers", "ing")):
        return None  # windsurfs
    letters = "abcdefghijklmnopqrstuvwxyz"
    parts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    slips = {head + rest[1:] for head, rest in parts if rest}
    slips |= {head + rest[1] + rest[0] + rest[2:] for head, rest in parts if len(rest) > 1}
    slips |= {head + letter + rest[1:] for head, rest in parts if rest for letter in letters}
    slips |= {head + letter + rest for head, rest in parts for letter in letters}
    near = [other for other in slips if other[:1] == word[:1] and is_compound(other) and is_word(other)]
    return near[0] if len(near) == 1 else None
