"""Text made comparable: however a name was composed, accented and capitalised, it is found. No I/O."""

from __future__ import annotations

import unicodedata
from functools import lru_cache


def fold(text: str) -> str:
    """`text` for caseless comparison, the same for each of its Unicode forms.

    macOS hands out decomposed names ("e" and an accent), others composed ones. After the Unicode Standard,
    section 3.13, canonical caseless matching; bytes that are not UTF-8 (surrogate escapes) stay as they are.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def fold_name(text: str) -> str:
    """`text` for finding names: `fold`, without accents and in the plainest form of each letter.

    Compatibility decomposition (full-width letters, ligatures, Arabic forms), combining accents and points dropped, as
    are joiners and other marks that are not seen; letters with a stroke, and the Arabic letters that Persian writes
    otherwise, become those that people type instead. A byte that is not UTF-8 is read as Latin-1, if it is a letter
    there: names of old discs are written so. Nothing becomes a slash, a star or a question mark, which mean
    something in paths and patterns. Vowel signs, tones and voicing marks, which make other words, stay.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", "".join(map(_plainest, text)))


def folded_words(text: str) -> str:
    """`text` for finding what stands in pictures: `fold_name` without spaces, which readers of pictures lose and make.

    What cannot be written (half a surrogate pair, NUL) is left out.
    """
    folded = "".join(fold_name(text).split())
    return folded if folded.isascii() and "\0" not in folded else _writable(folded)


def is_blank(text: str) -> bool:
    """Whether nothing of a text is seen: spaces, byte order marks, joiners and other marks that show nothing."""
    return all(character.isspace() or character in _UNSEEN for character in text)


def _writable(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "ignore").decode("utf-8")


_LETTERS = str.maketrans({
    "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "ŀ": "l", "ɨ": "i", "ƶ": "z", "æ": "ae",
    "œ": "oe", "þ": "th", "ĸ": "k", "ŋ": "n",
    "ي": "ی", "ى": "ی", "ك": "ک", "ة": "ه",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{MODIFIER LETTER APOSTROPHE}": "'",
    "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-", "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{MINUS SIGN}": "-",
})  # fmt: skip
_UNSEEN = frozenset("\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff") | {
    chr(code) for code in range(0xFE00, 0xFE10)
}
_MEANT = frozenset("/\\*?[]\0:")


@lru_cache(maxsize=8192)
def _plainest(character: str) -> str:
    """What becomes of one character, decomposed."""
    if 0xDC80 <= ord(character) <= 0xDCFF and chr(ord(character) - 0xDC00).isalpha():  # a byte, see `filenames`
        character = chr(ord(character) - 0xDC00)
    decomposed = unicodedata.normalize("NFKD", character)
    if character not in _MEANT and not _MEANT.isdisjoint(decomposed):
        return character
    lower = unicodedata.normalize("NFKD", decomposed.casefold())
    return "".join(c for c in lower if not _is_dropped(c)).translate(_LETTERS)


def _is_dropped(character: str) -> bool:
    """Accents (above 200: Latin, Greek, Cyrillic), points of Hebrew and Arabic (10 to 36), and what is not seen."""
    place = unicodedata.combining(character)
    return character in _UNSEEN or place >= 200 or 10 <= place <= 36
