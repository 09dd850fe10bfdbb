"""Write `clipsearch/pictures/metadata/months.py`: the names of months in 76 languages, from Unicode CLDR.

    pip install babel==2.19.0
    python scripts/make_month_names.py

Full names, as in a date and by themselves, and abbreviations of four letters and more; shorter ones mean too many other
things. A name that is another month in another language is left out (October in Croatian is November in Polish).
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections import defaultdict
from pathlib import Path

from babel import Locale, localedata  # type: ignore[import-not-found,import-untyped,unused-ignore]

_LANGUAGES = (
    "af am ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fil fr ga gl gu he hi hr hu hy id is it ka kk km "
    "kn ky lb lo lt lv mk ml mn mr ms mt my nb ne nl nn pa pl ps pt ro ru si sk sl sq sr sv sw ta te th tr uk ur uz vi"
)
_TARGET = Path(__file__).parents[1] / "clipsearch/pictures/metadata/months.py"


def plain(name: str) -> str:
    """A name as it stands in a text that `moments` reads: lower case, without dots and joiners."""
    text = unicodedata.normalize("NFKC", name).lower().replace("i\u0307", "i")
    text = re.sub(r"[.\u200c\u200d’'ʼ׳]", "", text).strip()
    return re.sub(r"^(?:de |d(?=[ao][bcg]))", "", text)  # Catalan


def forms(language: str, name: str, *, is_full: bool) -> list[str]:
    """A name and what dates make of it."""
    if language == "he":
        return [name, f"ב{name}"]
    if language == "eu" and is_full:
        return [name, f"{name}ren"]
    if language in ("bs", "sl", "sr") and is_full:  # of June: the data have the name by itself only
        stem = re.sub("ec$", "c", re.sub("(?<=b)ar$", "r", re.sub("(?<=б)ар$", "р", name)))
        return [name, stem + ("a" if name.isascii() else "а")]
    if language == "lv" and is_full and name.endswith("s"):
        return [name, name[:-1] + "a", name[:-1] + "ā"]
    return [name]


def main() -> None:
    months: dict[str, set[int]] = defaultdict(set)
    for identifier in sorted(localedata.locale_identifiers()):
        language = identifier.split("_")[0]
        if language not in _LANGUAGES.split() or re.search("Mong|Dsrt|Shaw", identifier):
            continue
        names = Locale.parse(identifier).months
        for context in ("format", "stand-alone"):
            for width in ("wide", "abbreviated"):
                for number, name in (names[context].get(width) or {}).items():
                    word = plain(name)
                    is_short = width == "abbreviated" and word.isascii() and len(word) < 4
                    if is_short or len(word) < 2 or re.search(r"[\d\u1800-\u18af]", word):
                        continue
                    for form in forms(language, word, is_full=width == "wide"):
                        months[form].add(number)
    lines = [
        '"""Names of months from Unicode CLDR, by `scripts/make_month_names.py`. Those of two words have a `_`."""'
    ]
    lines += ["", "NAMES = ("]
    for month in range(1, 13):
        words = sorted(word.replace(" ", "_") for word, numbers in months.items() if numbers == {month})
        rows = textwrap.wrap(" ".join(words), 104, break_on_hyphens=False, break_long_words=False)
        lines += [f'    "{row} "' for row in rows[:-1]] + [f'    "{rows[-1]}",']
    _TARGET.write_text("\n".join([*lines, ")", ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
