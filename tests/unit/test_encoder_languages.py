"""A second text tower for other languages: who goes to it, and that nobody else pays for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from clipsearch.encoder import languages
from clipsearch.encoder.fingerprints import image_fingerprint
from clipsearch.encoder.languages import LETTERS, SIGNS, LanguageGate, hash_word, letter_runs, other_scripts
from clipsearch.encoder.layout import read_model_directory
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.errors import InvalidModel
from tests.support.tiny_models import write_model_directory

ENGLISH = ["a", "cat", "dog", "on", "the", "beach", "photo", "of"]
OTHER = ["hund", "perro", "ein"]
BUCKETS = 4096


def write_gate(folder: Path) -> None:
    """Words in neither list are English unless they have the letters "zz"."""
    letters = np.zeros(SIGNS + BUCKETS, np.float16)
    letters[[SIGNS + run for run in letter_runs("zz", BUCKETS)]] = -9
    for name, words in ((languages.ENGLISH_WORDS, ENGLISH), (languages.OTHER_WORDS, OTHER)):
        np.save(folder / name, np.unique(np.array([hash_word(word) for word in words], np.int32)))
    np.save(folder / LETTERS, letters)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A model directory with a tower for other languages, which makes other vectors of the same words."""
    model = write_model_directory(tmp_path / "model", own={"dynamic_context": True})
    fingerprint = image_fingerprint(read_model_directory(model))
    own = {"image_fingerprint": fingerprint, "dynamic_context": True}
    other = write_model_directory(model / "multilingual", seed=5, own=own, visual=False)
    write_gate(other)
    return model


@pytest.fixture
def gate(both: Path) -> LanguageGate:
    return LanguageGate.read(both / "multilingual")


@pytest.mark.parametrize(
    "text", ["", "a dog", "A DOG!", "brno", "IMG_2034.jpg", "90 %", "10 µm", "a dog on the beach, hund"]
)
def test_english_and_what_says_nothing_is_english(gate: LanguageGate, text: str) -> None:
    assert gate.is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "hund",
        "Ein Hund",
        "Hund a dog",
        "犬",
        "dog 犬",
        "собака 犬",
        "ｲﾇ",
        "zz",
        "a photo of Hund",
        "a photo of a perro",
    ],
)
def test_other_languages_are_told(gate: LanguageGate, text: str) -> None:
    assert not gate.is_english(text)


def test_words_are_looked_up_together_as_one_by_one(gate: LanguageGate) -> None:
    words = ["dog", "hund", "perro", "beach", "", "日本", "xqzzy", "dog"]
    found = [word for word in words if gate.is_english_word(word)]
    assert gate.english_among(words) == found
    assert gate.english_among([]) == []
    nothing = LanguageGate(gate.arrays[0][:0], *gate.arrays[1:])
    assert nothing.english_among(words) == []


def test_only_letters_have_a_script() -> None:
    assert other_scripts("ビーチ 犬 й가") == {"KATAKANA", "KATAKANA-HIRAGANA", "CJK", "CYRILLIC", "HANGUL"}
    assert not any(other_scripts(text) for text in ("naïve café", "Łódź", "10 µm → 5 …", "😀", "Việt", "rockʼn"))


@pytest.mark.parametrize("text", ["собака", "개", "หมา", "كلب", "כלב", "σκύλος", "कुत्ता", "hund собака"])
def test_scripts_that_neither_tower_reads_stay_with_the_first(gate: LanguageGate, text: str) -> None:
    assert gate.is_english(text)


def test_each_text_is_encoded_by_its_own_tower(both: Path) -> None:
    encoder = OnnxEncoder(both)
    texts = ["a dog", "hund dog", "the beach", "犬 cat"]
    vectors = encoder.encode_texts(texts)
    english = OnnxEncoder(shutil.copytree(both, both.parent / "english", ignore=shutil.ignore_patterns("multilingual")))
    other = OnnxEncoder(both / "multilingual")
    for row, (tower, text) in enumerate(zip([english, other, english, other], texts, strict=True)):
        np.testing.assert_allclose(vectors[row], tower.encode_texts([text])[0], atol=1e-6)
    assert not np.allclose(other.encode_texts(["a dog"]), english.encode_texts(["a dog"]), atol=1e-3)


def test_an_english_text_opens_no_file_of_the_other_tower(both: Path) -> None:
    for file in (both / "multilingual" / "textual").iterdir():
        file.write_bytes(b"")
    encoder = OnnxEncoder(both)
    assert encoder.encode_texts(["a dog", "the beach"]).shape == (2, 8)
    with pytest.raises(InvalidModel):
        encoder.encode_texts(["a dog", "hund"])


def test_a_tower_of_another_image_tower_is_refused(both: Path) -> None:
    write_model_directory(both / "multilingual", visual=False, own={"image_fingerprint": "0" * 32})
    encoder = OnnxEncoder(both)
    encoder.encode_texts(["a dog"])
    with pytest.raises(InvalidModel, match="another image tower"):
        encoder.encode_texts(["hund"])


def test_a_damaged_gate_is_said_to_be_so(both: Path) -> None:
    (both / "multilingual" / LETTERS).write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(InvalidModel, match=LETTERS):
        OnnxEncoder(both).encode_texts(["a dog"])


def test_the_identity_of_the_texts_covers_both_towers_and_the_gate(both: Path) -> None:
    seen = {OnnxEncoder(both).text_fingerprint}
    gate_file = both / "multilingual" / languages.OTHER_WORDS
    np.save(gate_file, np.array([1, 2], np.int32))
    seen.add(OnnxEncoder(both).text_fingerprint)
    own = {"image_fingerprint": OnnxEncoder(both).fingerprint}
    write_model_directory(both / "multilingual", seed=6, own=own, visual=False)
    seen.add(OnnxEncoder(both).text_fingerprint)
    shutil.rmtree(both / "multilingual")
    seen.add(OnnxEncoder(both).text_fingerprint)
    assert len(seen) == 4


def test_both_towers_are_prepared(both: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIPSEARCH_CACHE", str(tmp_path / "cache"))
    before = OnnxEncoder(both).encode_texts(["a dog", "hund dog"])
    OnnxEncoder(both).prepare_texts()
    np.testing.assert_allclose(OnnxEncoder(both).encode_texts(["a dog", "hund dog"]), before, atol=1e-6)
