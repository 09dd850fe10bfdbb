"""Texts to token ids, as open_clip's tokenizers make them, without open_clip.

open_clip first repairs a text (ftfy, HTML entities), then cleans it as the model wants, then tokenises. The
repair is done here for what people type: entities, curly quotes, ligatures, full-width letters, NFC. What
ftfy does beyond that (undoing wrongly decoded text) is not.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.encoder.layout import TOKENIZER, TOKENIZER_CONFIG, ModelDirectory, read_json
from clipsearch.errors import InvalidModel, first_line
from clipsearch.filenames import native_path
from clipsearch.records import IntArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REPAIRS: dict[int, str] = {
    **{ord(quote): "'" for quote in "\u02bc\u2018\u2019\u201a\u201b"},
    **{ord(quote): '"' for quote in "\u201c\u201d\u201e\u201f"},
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)},  # Latin ligatures
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0) if chr(code).isprintable()},
    0x3000: " ",  # ideographic space
}


def clean_text(text: str, clean: str) -> str:
    """Repair and clean a text as open_clip does before it tokenises.

    `clean`: "whitespace" (collapse white space), "lower" (that and lower case) or "canonicalize" (SigLIP: that
    without ASCII punctuation, underscores becoming spaces).
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_REPAIRS))
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be tokenised
    if "&" in text:
        import html

        text = html.unescape(html.unescape(text))  # twice, as open_clip does
    if clean == "canonicalize":
        text = text.replace("_", " ").translate(_PUNCTUATION)
    if clean != "whitespace":
        text = text.lower()
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of some texts. Shapes: ids and mask (B, L) int64; mask is 1 for tokens and 0 for padding."""

    ids: IntArray
    mask: IntArray


class TextTokenizer:
    """The tokenizer of a model directory."""

    def __init__(self, model: ModelDirectory) -> None:
        """Read the tokenizer. Raises: InvalidModel."""
        from tokenizers import Tokenizer

        self._settings = model.text
        file = model.path / TOKENIZER
        if not file.is_file():
            raise InvalidModel(model.path, f"{TOKENIZER} is missing")
        try:
            with native_path(file) as name:
                tokenizer = Tokenizer.from_file(name)
            if isinstance(tokenizer.padding, dict):
                stored_padding: dict[str, Any] = dict(tokenizer.padding)
            else:
                stored_padding = {}
            tokenizer.no_padding()
            tokenizer.enable_truncation(max_length=model.text.context_length)
        except Exception as error:  # the library raises bare Exception
            raise InvalidModel(model.path, f"{TOKENIZER} cannot be used ({first_line(error)})") from error
        self._tokenizer: Tokenizer = tokenizer
        config = read_json(model.path, TOKENIZER_CONFIG) if (model.path / TOKENIZER_CONFIG).is_file() else {}
        self._pad_id = self._padding_id(model.path, config, stored_padding)
        self._pad_left = config.get("padding_side", stored_padding.get("direction", "right")) == "left"
        self._sep_id: int | None = None
        if model.text.strip_sep_token:
            separator = _token_text(config.get("sep_token")) or "[SEP]"
            self._sep_id = tokenizer.token_to_id(separator)

    @property
    def pad_id(self) -> int:
        """What texts shorter than the context are filled up with."""
        return self._pad_id

    def encode(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """Tokenise texts; those too long lose their end but keep their closing token.

        `length`: pad to this many tokens; None pads to the longest text.
        """
        # One by one: the library's batch call starts threads, which forking (decode workers) does not survive.
        rows = [self._tokenizer.encode(clean_text(text, self._settings.clean)).ids for text in texts]
        width = max((len(row) for row in rows), default=1) if length is None else length
        ids = np.full((len(rows), max(width, 1)), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            row = row[:width]
            place = slice(width - len(row), width) if self._pad_left else slice(0, len(row))
            ids[index, place] = row
            mask[index, place] = 1
        if self._sep_id is not None:
            ids[ids == self._sep_id] = 0
        return Tokens(ids, mask)

    def part_read(self, text: str) -> str | None:
        """The part of a text, cleaned, that is not cut off; None where nothing is."""
        cleaned = clean_text(text, self._settings.clean)
        encoding = self._tokenizer.encode(cleaned)
        if not encoding.overflowing:
            return None
        return cleaned[: max((end for _, end in encoding.offsets), default=0)]

    def reads(self, text: str) -> bool:
        """Whether there is a token for anything in a text beside what begins, ends and replaces."""
        model = self._tokenizer.model
        unknown = getattr(model, "unk_token", None) or "<unk>"
        encoding = self._tokenizer.encode(clean_text(text, self._settings.clean), add_special_tokens=False)
        return any(token != unknown and token.strip("\u2581#_ ") for token in encoding.tokens)

    def knows(self, word: str) -> bool:
        """Whether a word, in lower case, is one token."""
        return any(self._tokenizer.token_to_id(form) is not None for form in self._forms(word))

    def words(self) -> list[str]:
        """The words of at least three letters that are one token each, in the order of the tokens."""
        tokens = sorted(self._tokenizer.get_vocab().items(), key=itemgetter(1))
        kind = self._kind()
        if kind == "BPE":
            found = (token.removesuffix("</w>") for token, _ in tokens if token.endswith("</w>"))
        elif kind == "WordPiece":
            found = (token for token, _ in tokens)
        else:
            found = (token.removeprefix("\u2581") for token, _ in tokens if token.startswith("\u2581"))
        return [word for word in found if len(word) > 2 and word.isascii() and word.isalpha() and word.islower()]

    def _kind(self) -> str:
        return type(self._tokenizer.model).__name__

    def _forms(self, word: str) -> list[str]:
        """How a whole word is written as a token."""
        kind = self._kind()
        return [f"{word}</w>"] if kind == "BPE" else [word] if kind == "WordPiece" else [f"\u2581{word}"]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, before any is cut off. Not while another thread encodes."""
        truncation = self._tokenizer.truncation or {}
        self._tokenizer.no_truncation()
        try:
            return [len(self._tokenizer.encode(clean_text(text, self._settings.clean)).ids) for text in texts]
        finally:
            self._tokenizer.enable_truncation(max_length=truncation["max_length"])

    def limit(self, context_length: int) -> None:
        """Truncate to `context_length` from now on (a tower whose input has a fixed length)."""
        self._tokenizer.enable_truncation(max_length=context_length)

    def _padding_id(self, path: Path, config: dict[str, Any], stored: dict[str, Any]) -> int:
        token = _token_text(config.get("pad_token"))
        if token is not None:
            found = self._tokenizer.token_to_id(token)
            if found is None:
                raise InvalidModel(path, f"{TOKENIZER} does not know the padding token {token!r} of {TOKENIZER_CONFIG}")
            return int(found)
        return int(stored.get("pad_id", 0))


def _token_text(value: object) -> str | None:
    """A token in tokenizer_config.json is a string or an object with its "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
