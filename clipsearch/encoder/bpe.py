"""CLIP's byte-pair tokenizer as a Hugging Face tokenizer.json, with the ids of open_clip's SimpleTokenizer.

SimpleTokenizer repairs and lower-cases a text in Python before it splits it; here `texts.clean_text` does that
before, and the normalizer once more for programs that use the file without it (immich's server does). The
differences that remain come from the repair, see `texts`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

START, END, PAD = "<start_of_text>", "<end_of_text>", "!"
MERGES = 48894  # open_clip leaves out the rest of the file, which CLIP was not trained with
# Contractions, runs of letters, single digits, runs of anything else that is not white space.
WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_tokenizer(vocabulary: Path) -> Tokenizer:
    """Build the tokenizer from open_clip's bundled merges file (gzip, a heading, one merge a line)."""
    with gzip.open(vocabulary, "rt", encoding="utf-8") as stream:
        lines = stream.read().split("\n")
    symbols = _byte_symbols()
    merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
    pairs = [(left, right) for left, right in merges]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in pairs), START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=pairs,
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B {END}",
        special_tokens=[(START, vocab[START]), (END, vocab[END])],
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in (START, END)]
    tokenizer.add_special_tokens(special)
    return tokenizer


def clip_tokenizer_config(context_length: int) -> dict[str, Any]:
    """tokenizer_config.json for `clip_tokenizer`: open_clip pads with id 0, which is the token "!"."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": PAD,
        "padding_side": "right",
    }


def write_clip_tokenizer(vocabulary: Path, folder: Path, context_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`.

    Without white space and with each merge as one string, which every version reads: 46 ms to load instead of 63.
    """
    tokenizer = json.loads(clip_tokenizer(vocabulary).to_str())
    tokenizer["model"]["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    compact = json.dumps(tokenizer, separators=(",", ":"), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(compact, encoding="utf-8")
    text = json.dumps(clip_tokenizer_config(context_length), indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _byte_symbols() -> list[str]:
    """A printable character for each byte, in CLIP's order: printable Latin-1 first, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
