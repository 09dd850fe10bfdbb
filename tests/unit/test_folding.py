"""Names that people type otherwise than they are written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.folding import fold_name
from clipsearch.search.filters import folder_fits, text_fits


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("Café.jpg", "cafe"),
        ("cafe\u0301.jpg", "CAFÉ"),
        ("Łódź 2019.jpg", "lodz"),
        ("Smørrebrød.jpg", "smorrebrod"),
        ("Straße.jpg", "STRASSE"),
        ("İstanbul.jpg", "istanbul"),
        ("Việt Nam.jpg", "viet nam"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ.jpg", "full width"),
        ("ﬁnal.jpg", "final"),
        ("ΑΘΉΝΑ Σς.jpg", "αθηνα σσ"),
        ("Ёлка.jpg", "елка"),
        ("می\u200cخواهم.jpg", "میخواهم"),
        ("كتاب.jpg", "کتاب"),
        ("كِتَابٌ.jpg", "كتاب"),
        ("שָׁלוֹם.jpg", "שלום"),
        ("ｶﾞ.jpg", "ガ"),
        ("か\u3099.jpg", "が"),
        ("각.jpg", unicodedata.normalize("NFD", "각")),
        ("soft\u00adhyphen.jpg", "softhyphen"),
        ("❤\ufe0f.jpg", "❤"),
        ("non‑breaking – dash.jpg", "non-breaking - dash"),
        ("l’été.jpg", "l'ete"),
        ("①②.jpg", "12"),
    ],
)
def test_a_name_is_found_as_it_is_typed(name: str, typed: str) -> None:
    assert text_fits(typed)(fold_name(name))
    assert text_fits(f"*{typed}*")(fold_name(name))
    assert folder_fits(typed + ".jpg" if "*" not in typed else typed)(fold_name(name)) == (
        fold_name(typed + ".jpg") == fold_name(name)
    )


@pytest.mark.parametrize(
    ("name", "typed"),
    [("か.jpg", "が"), ("कि.jpg", "का"), ("ไม้.jpg", "ไม่"), ("가.jpg", "각"), ("hat.jpg", "hut")],
)
def test_other_words_are_not_found(name: str, typed: str) -> None:
    assert not text_fits(typed)(fold_name(name))


@pytest.mark.parametrize("name", ["什么？.jpg", "a／b.jpg", "＊.jpg", "c：d.jpg", "℀.jpg", "［x］.jpg"])
def test_letters_never_become_signs_of_paths_and_patterns(name: str) -> None:
    assert set("/\\*?[]:\0").isdisjoint(fold_name(name))
    assert text_fits(name.removesuffix(".jpg"))(fold_name(name))


@given(st.text(max_size=20))
def test_folding_is_done_at_once_and_keeps_parts(text: str) -> None:
    folded = fold_name(text)
    assert fold_name(folded) == folded
    assert folded.count("/") == text.count("/") and folded.count("\0") == text.count("\0")
    for form in ("NFC", "NFD"):
        assert fold_name(unicodedata.normalize(form, text)) == folded
    assert fold_name(text.upper().lower()) == fold_name(text.upper())


@given(st.text(st.characters(max_codepoint=255, categories=["L"]), min_size=1))
def test_bytes_of_latin_1_are_the_letters_that_they_were(name: str) -> None:
    kept = "".join(c if c.isascii() else chr(ord(c) + 0xDC00) for c in name)
    assert fold_name(kept) == fold_name(name)
    assert fold_name("caf\udce9 1999.jpg") == "cafe 1999.jpg"
    assert fold_name("\udc80\udcd7") == "\udc80\udcd7"  # no letters
