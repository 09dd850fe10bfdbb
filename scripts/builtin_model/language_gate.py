"""Learns to tell English from other languages: lists of words, and weights of what a text shows.

From short texts in both: captions, names, synonyms and definitions in English, names and keywords of Unicode's emoji in
other languages that use Latin letters. What is counted is `clipsearch.encoder.languages`' business.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.encoder.languages import (
    ENGLISH_WORDS,
    LETTERS,
    OTHER_WORDS,
    SIGNS,
    LanguageGate,
    Signs,
    hash_word,
    letter_runs,
    split_words,
)

BUCKETS = 1 << 14
EPOCHS = 3
BATCH = 2048
LEARNING_RATE = 0.03
HIDDEN_WORDS = 0.4  # share of words that are taken for unknown while learning
ENGLISH_WEIGHT = 3.0  # an English text taken for a foreign one is the worse mistake
LEAST_FOREIGN = 2  # so often a word must occur in other languages to be theirs although English lists have it
log = logging.getLogger(__name__)


def learn_gate(common: Sequence[str], rare: Sequence[str], other: Sequence[str], seed: int) -> LanguageGate:
    """Return a gate. `common`: texts whose words are surely English, `rare`: other English, `other`: not English."""
    counted = Counter(word for text in other for word in split_words(text))
    certain = {word for text in common for word in split_words(text)}
    english = certain | {
        word for text in rare for word in split_words(text) if counted[word] < LEAST_FOREIGN and word.isascii()
    }
    foreign = set(counted) - english
    known = {text.lower() for text in (*common, *rare)}
    strangers = sorted({text for text in other if text.lower() not in known})
    texts = [*common, *rare, *strangers]
    is_english = torch.tensor([True] * (len(common) + len(rare)) + [False] * len(strangers))
    random = np.random.default_rng(seed)
    signs = [_signs(text, english, foreign, random) for text in texts]
    log.info("telling %d English texts from %d others", int(is_english.sum()), len(strangers))
    letters = _learn(signs, is_english.float(), seed)
    return LanguageGate(_hashes(english), _hashes(foreign), letters)


def write_gate(gate: LanguageGate, folder: Path) -> None:
    """Write the gate's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    english, other, letters = gate.arrays
    np.save(folder / ENGLISH_WORDS, english)
    np.save(folder / OTHER_WORDS, other)
    np.save(folder / LETTERS, letters.astype(np.float16))


def _hashes(words: set[str]) -> npt.NDArray[np.int64]:
    hashes: npt.NDArray[np.int64] = np.unique(np.array([hash_word(word) for word in words], np.int32))
    return hashes


def _signs(text: str, english: set[str], foreign: set[str], random: np.random.Generator) -> Signs:
    """As `LanguageGate.signs`, some words being taken for unknown."""
    counts = np.zeros(SIGNS, np.float32)
    runs: list[int] = []
    words = split_words(text)
    for word in words:
        hidden = random.random() < HIDDEN_WORDS
        kind = 2 if hidden else 0 if word in english else 1 if word in foreign else 2
        counts[kind] += 1
        if kind == 2:
            runs.extend(letter_runs(word, BUCKETS))
        counts[3] += not word.isascii()
    counts[4:6] = counts[:2] / max(1, len(words))
    counts[6] = 1
    return Signs(counts, runs)


def _learn(signs: Sequence[Signs], is_english: Tensor, seed: int) -> npt.NDArray[np.float32]:
    """Return the weights of all signs and runs, by logistic regression."""
    torch.manual_seed(seed)
    counts = torch.from_numpy(np.stack([sign.counts for sign in signs]))
    of_runs = nn.EmbeddingBag(BUCKETS, 1, mode="sum")
    of_runs.weight.data.zero_()
    of_signs = nn.Parameter(torch.zeros(SIGNS))
    optimizer = torch.optim.Adam([*of_runs.parameters(), of_signs], lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(signs)), BATCH):
            runs = [signs[row].runs for row in rows.tolist()]
            starts = torch.tensor([0, *(len(part) for part in runs)]).cumsum(0)[:-1]
            flat = torch.tensor([run for part in runs for run in part], dtype=torch.long)
            odds = of_runs(flat, starts)[:, 0] + counts[rows] @ of_signs
            weight = torch.where(is_english[rows] > 0, ENGLISH_WEIGHT, 1.0)
            loss = F.binary_cross_entropy_with_logits(odds, is_english[rows], weight=weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.4
        log.info("loss %.4f", loss.item())
    weights = torch.cat([of_signs.detach(), of_runs.weight.detach()[:, 0]])
    learned: npt.NDArray[np.float32] = weights.numpy().astype(np.float16).astype(np.float32)
    return learned
