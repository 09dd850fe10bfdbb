"""Cleaning and tokenising texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.encoder.layout import read_model_directory
from clipsearch.encoder.texts import TextTokenizer, clean_text
from tests.support.tiny_models import WORDS, write_model_directory


@pytest.mark.parametrize(
    ("clean", "text", "expected"),
    [
        ("whitespace", "  A  Dog\t\non the\u3000beach ", "A Dog on the beach"),
        ("lower", "A  Dog", "a dog"),
        ("canonicalize", "A dog's_ball, (red)! ", "a dogs ball red"),
        ("canonicalize", "!!!", ""),
        ("lower", "fish &amp;amp; chips", "fish & chips"),
        ("lower", "“It’s” ﬁne", '"it\'s" fine'),
        ("lower", "Ｒｅｄ　ｃａｔ", "red cat"),
        ("whitespace", "e\u0301", "é"),
        ("lower", "ÀÉ", "àé"),
        ("whitespace", "a\ud800b", "a?b"),
    ],
)
def test_cleaning(clean: str, text: str, expected: str) -> None:
    assert clean_text(text, clean) == expected


@pytest.mark.slow
@given(st.text(), st.sampled_from(["whitespace", "lower", "canonicalize"]))
def test_cleaning_never_fails_and_leaves_single_spaces(text: str, clean: str) -> None:
    cleaned = clean_text(text, clean)
    assert cleaned == " ".join(cleaned.split())
    cleaned.encode("utf-8")


def tokenizer(directory: Path, **config: object) -> TextTokenizer:
    if config:
        (directory / "textual/tokenizer_config.json").write_text(json.dumps(config))
    return TextTokenizer(read_model_directory(directory))


def test_padding_comes_from_the_configuration_then_the_tokenizer_then_zero(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    assert tokenizer(directory, pad_token="</s>").pad_id == 3
    assert tokenizer(directory, pad_token={"content": "a", "special": True}).pad_id == WORDS.index("a")
    file = directory / "textual/tokenizer.json"
    stored = json.loads(file.read_text())
    stored["padding"] = {
        "strategy": {"Fixed": 3},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "<s>",
    }
    stored["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(stored))
    own = tokenizer(directory, other=1)
    assert own.pad_id == 2
    assert own.encode(["dog"], 5).ids.tolist() == [[2, 2, 2, 5, 3]]  # from the left, and longer than its own limit
    (directory / "textual/tokenizer_config.json").unlink()
    stored["padding"] = None
    file.write_text(json.dumps(stored))
    assert tokenizer(directory).pad_id == 0


def test_mask_marks_the_tokens(tmp_path: Path) -> None:
    tokens = tokenizer(write_model_directory(tmp_path)).encode(["dog", "a dog on"])
    assert tokens.ids.tolist() == [[2, 5, 3, 0, 0], [2, 4, 5, 7, 3]]
    assert tokens.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_separators_can_be_stripped(tmp_path: Path) -> None:
    cfg = {"context_length": 6, "hf_tokenizer_name": "x", "tokenizer_kwargs": {"strip_sep_token": True}}
    directory = write_model_directory(tmp_path, config={"text_cfg": cfg})
    tokens = tokenizer(directory, sep_token="</s>", pad_token="<pad>").encode(["dog"], 6)
    assert tokens.ids.tolist() == [[2, 5, 0, 0, 0, 0]]
