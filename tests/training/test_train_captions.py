"""Captions in memory: every row comes back as the tokenizer gave it, at a fraction of its size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from clipsearch.pairs.reading import Pair, PairSet, PictureSource  # noqa: E402
from clipsearch.training.captions import Captions  # noqa: E402

pytestmark = pytest.mark.torch

TEXTS = ["a dog", "a dog on a beach", "", "0", "a " * 200, "a b " * 100, "two!!!!!!", "Two !!!!!!"]


def pairs_of(captions: list[str]) -> PairSet:
    source = PictureSource(str(Path("none.png")), 1)
    return PairSet([Pair(str(number), (caption,), source) for number, caption in enumerate(captions)])


def padded_by(value: int) -> Callable[[list[str]], Any]:
    """Characters as tokens, padded to 8 with a value that a text may end with, too."""

    def tokenize(texts: list[str]) -> Any:
        rows = torch.full((len(texts), 8), value)
        for row, text in zip(rows, texts, strict=True):
            for place, letter in enumerate(text[:8]):
                row[place] = ord(letter) - 96
        return rows

    return tokenize


@pytest.mark.parametrize("tokenize", [open_clip.tokenizer.SimpleTokenizer(), padded_by(0), padded_by(1)])
def test_tokens_come_back_as_they_were(tokenize: Callable[[list[str]], Any]) -> None:
    texts = [*TEXTS, "a", "aa", "ba", "aaaaaaaa", "baaaaaaa", "abababab"]
    captions = Captions(pairs_of(texts), tokenize)
    expected = tokenize(texts)
    chosen = np.array([3, 0, *range(len(texts))])
    torch.testing.assert_close(captions.tokens(chosen), expected[chosen].long(), rtol=0, atol=0)
    same = captions.same
    for one in range(len(texts)):
        for other in range(len(texts)):
            assert (same[one] == same[other]) == bool((expected[one] == expected[other]).all())


def test_a_caption_takes_no_more_memory_than_its_tokens() -> None:
    tokenize = open_clip.tokenizer.SimpleTokenizer()
    pairs = pairs_of([f"a photo of shoe number {number} on a wooden table" for number in range(2_000)])
    tokenize([pair.captions[0] for pair in pairs])  # what the tokenizer remembers of words is its own
    tracemalloc.start()
    try:
        captions = Captions(pairs, tokenize)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(captions.same) == 2_000
    assert kept / 2_000 < 300  # rows of 77 int64 took 616 bytes beside the rest
