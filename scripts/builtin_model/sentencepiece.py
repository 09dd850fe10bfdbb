"""The tokens of a SentencePiece unigram model, and the same tokenizer in the form that clipsearch reads."""

from __future__ import annotations

import json
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

_PIECE, _TEXT, _SCORE = 1, 1, 2  # field numbers of sentencepiece_model.proto
SPACE = "▁"
PAD = "<pad>"
_SCRIPTS = ("LATIN", "FULLWIDTH", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "MODIFIER")


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the logarithm of how likely it is."""

    text: str
    score: float


def read_tokens(model: Path) -> list[Token]:
    """Return the tokens of a SentencePiece model in the order of their ids."""
    data = model.read_bytes()
    return [_token(data[start:end]) for number, start, end in _fields(data) if number == _PIECE]


def build_tokenizer(tokens: Sequence[Token], context_length: int, begin: int, end: int) -> Tokenizer:
    """Return a tokenizer of these tokens (0 is the unknown one), which puts `begin` and `end` around a text."""
    tokenizer = Tokenizer(models.Unigram([(token.text, round(token.score, 3)) for token in tokens], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    first, last = tokens[begin].text, tokens[end].text
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, begin), (last, end)]
    )
    tokenizer.add_special_tokens([PAD])
    tokenizer.enable_truncation(context_length)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write the tokenizer's files into a folder, in as few bytes as JSON allows."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(content + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, "pad_token": PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def is_supported(token: str) -> bool:
    """Whether a token's letters are Latin, Chinese or Japanese."""
    return all(
        not character.isalpha() or unicodedata.name(character, "?").split()[0] in _SCRIPTS for character in token
    )


def _token(message: bytes) -> Token:
    text, score = "", 0.0
    for number, start, end in _fields(message):
        if number == _TEXT:
            text = message[start:end].decode("utf-8")
        elif number == _SCORE:
            (score,) = struct.unpack("<f", message[start:end])
    return Token(text, score)


def _fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the number and the span of every field of a protobuf message that has a span."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(message, position)
            continue
        length = 4 if kind == 5 else 8
        if kind == 2:
            length, position = _varint(message, position)
        yield tag >> 3, position, position + length
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
