"""Text made comparable: however a name was composed and capitalised, it is found. No I/O."""

from __future__ import annotations

import unicodedata


def fold(text: str) -> str:
    """`text` for caseless comparison, the same for each of its Unicode forms.

    macOS hands out decomposed names ("e" and an accent), others composed ones. After the Unicode Standard,
    section 3.13, canonical caseless matching; bytes that are not UTF-8 (surrogate escapes) stay as they are.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
