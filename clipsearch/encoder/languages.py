"""Telling whether a text is English, quickly enough to do it before any tower is loaded.

A model directory may hold a second text tower, `multilingual/`, for what is not English. Three small arrays there
decide (plain npy files, see `npy`):

    english.npy   (N,) int32, sorted: hashes of words that are English
    other.npy     (M,) int32, sorted: hashes of words that belong to other languages, and are not English
    letters.npy   (SIGNS + buckets,) float16: what each sign counts, then what each hashed run of letters does

A Chinese or Japanese letter settles it. Scripts that the second tower has no tokens of (Cyrillic, Arabic, Hangul, Thai
and others) are left to the first one, which knows as little of them. Then a text with words of other languages is
English only if it has more than twice as many English ones. Without any, words in neither list decide by their runs of
2 to 4 letters: their odds come from a logistic regression (`scripts/builtin_model/language_gate.py`). In doubt a text
is English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from clipsearch.errors import InvalidModel
from clipsearch.npy import read_array
from clipsearch.records import FloatArray, IntArray

ENGLISH_WORDS, OTHER_WORDS, LETTERS = "english.npy", "other.npy", "letters.npy"
FILES = (ENGLISH_WORDS, OTHER_WORDS, LETTERS)
# What is counted: English words, others, words in no list, words with a letter beyond ASCII, shares of the first two,
# and 1.
SIGNS = 7
LEAST_ODDS = -1.0  # of an English text without a word of other languages
ENGLISH_BESIDE = 2  # more than so many English words must stand beside each word of other languages
RUNS = (2, 3, 4)
_LAST_LATIN = 0x024F
# First words of the names of the letters that the second tower has tokens of, beside the Latin ones.
_READ_SCRIPTS = frozenset(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"))
_NO_SCRIPT = frozenset(("LATIN", "MODIFIER"))
_MARKS = " .?!…。？！、，:'\"“”„‘’«»()[]{}*_~#¿¡-–—"
_WORD = re.compile(r"[^\W\d_]+")
# Emoji one after another, each with what changes it: a skin, a style, what it is joined with.
_EMOJI = re.compile(
    "((?:[\u231a\u231b\u23e9-\u23fa\u2600-\u27bf\u2b1b\u2b1c\u2b50\u2b55\U0001f000-\U0001faff]"
    "[\ufe0e\ufe0f\u200d\u20e3\U000e0020-\U000e007f]*)+)"
)
# Words around what is meant, which a search puts there by itself, say nothing about its language.
_FRAME = re.compile(
    r"\s*(an?|the)?\s*(close-up )?(photo|picture|photograph|image) of (an? |the )?(?=\S)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Signs:
    """What a text shows: `counts` (SIGNS,), and the buckets of the runs of letters of words in no list."""

    counts: FloatArray
    runs: list[int]


class LanguageGate:
    """Says which texts are English."""

    def __init__(self, english: IntArray, other: IntArray, letters: FloatArray) -> None:
        """Take the arrays. Shapes: english (N,) and other (M,) sorted, letters (SIGNS + buckets,)."""
        self._english, self._other, self._letters = english, other, letters

    @classmethod
    def read(cls, folder: Path) -> LanguageGate:
        """Read the three files of a folder. Raises: InvalidModel."""
        arrays = []
        for name in FILES:
            try:
                with (folder / name).open("rb") as file:
                    arrays.append(read_array(file))
            except (OSError, ValueError) as error:
                raise InvalidModel(folder.parent, f"{folder.name}/{name} cannot be read ({error})") from error
        if len(arrays[2]) <= SIGNS or any(array.ndim != 1 for array in arrays):
            raise InvalidModel(folder.parent, f"{folder.name}/{LETTERS} is cut short")
        return cls(arrays[0], arrays[1], arrays[2].astype(np.float32))

    @property
    def arrays(self) -> tuple[IntArray, IntArray, FloatArray]:
        """What the files hold."""
        return self._english, self._other, self._letters

    def is_english(self, text: str) -> bool:
        """Whether the first tower is to read the text: it is English, or the second one is no likelier to read it."""
        text = _FRAME.sub("", text, count=1)
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
            scripts = other_scripts(text)
            if scripts:
                return scripts.isdisjoint(_READ_SCRIPTS)
        signs = self.signs(text)
        english, others = signs.counts[:2]
        return bool(english > ENGLISH_BESIDE * others if others else self.odds(signs) >= LEAST_ODDS)

    def has_other_words(self, text: str) -> bool:
        """Whether a text has words that belong to other languages, and are not English."""
        return any(_holds(self._other, hash_word(word)) for word in split_words(text))

    def is_english_word(self, word: str) -> bool:
        """Whether a word, in lower case, is in the list of English ones. Those came from captions, slips included."""
        return _holds(self._english, hash_word(word))

    def english_among(self, words: Sequence[str]) -> list[str]:
        """Those of some words for which `is_english_word` is true, in their order."""
        hashed = np.fromiter(map(hash_word, words), np.int64, len(words))
        places = np.minimum(np.searchsorted(self._english, hashed), max(0, len(self._english) - 1))
        held = self._english[places] == hashed if len(self._english) else np.zeros(len(words), bool)
        return [word for word, is_held in zip(words, held.tolist(), strict=True) if is_held]

    def odds(self, signs: Signs) -> float:
        """Return the logarithm of the odds that a text with these signs is English; 0 for one without words."""
        if not signs.counts[:3].any():
            return 0.0
        weights = self._letters
        return float(weights[:SIGNS] @ signs.counts + weights[SIGNS:][signs.runs].sum())

    def signs(self, text: str) -> Signs:
        """Return what is counted of a text."""
        counts = np.zeros(SIGNS, np.float32)
        runs: list[int] = []
        words = split_words(text)
        for word in words:
            hashed = hash_word(word)
            if _holds(self._english, hashed):
                counts[0] += 1
            elif _holds(self._other, hashed):
                counts[1] += 1
            else:
                counts[2] += 1
                runs.extend(letter_runs(word, len(self._letters) - SIGNS))
            counts[3] += not word.isascii()
        counts[4:6] = counts[:2] / max(1, len(words))
        counts[6] = 1
        return Signs(counts, runs)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without digits and punctuation."""
    return _WORD.findall(text.lower())


def hash_word(word: str) -> int:
    """Return the hash that the lists hold of a word, in the range of int32."""
    return xxhash.xxh32_intdigest(word.encode("utf-8", "replace")) - 2**31


def letter_runs(word: str, buckets: int) -> Iterator[int]:
    """Yield the buckets of a word's runs of letters, its ends marked."""
    marked = f"^{word}$"
    for length in RUNS:
        for start in range(len(marked) - length + 1):
            yield xxhash.xxh32_intdigest(marked[start : start + length].encode("utf-8", "replace")) % buckets


def other_scripts(text: str) -> set[str]:
    """Return the scripts of a text's letters but the Latin one: first words of their names, such as "CJK"."""
    letters = (character for character in text if character.isalpha() and ord(character) > _LAST_LATIN)
    return {unicodedata.name(letter, "LATIN").split()[0] for letter in letters} - _NO_SCRIPT


def has_letters_read(text: str) -> bool:
    """Whether a text has digits, or letters of a script that one of the two towers reads."""
    return any(
        letter.isalnum()
        and (ord(letter) <= _LAST_LATIN or unicodedata.name(letter, "LATIN").split()[0] in _READ_SCRIPTS | _NO_SCRIPT)
        for letter in text
    )


def said_words(text: str) -> list[str]:
    """The words and emoji of a text, as they are written; no marks, numbers or symbols. Emoji at a word are apart."""
    words = (word.strip(_MARKS) for part in re.split(r"[\s,;/&+|]+", text) for word in _EMOJI.split(part))
    return [word for word in words if any(map(_says_something, word)) or _EMOJI.fullmatch(word)]


def _says_something(sign: str) -> bool:
    """Whether a character is a letter, or an emoji, which is a wide symbol, or one that Unicode has planes for."""
    if sign.isalpha():
        return True
    is_symbol = not sign.isascii() and unicodedata.category(sign) == "So"
    return is_symbol and (ord(sign) >= 0x1F000 or unicodedata.east_asian_width(sign) == "W")


def _holds(hashes: IntArray, wanted: int) -> bool:
    place = int(np.searchsorted(hashes, wanted))
    return place < len(hashes) and int(hashes[place]) == wanted
