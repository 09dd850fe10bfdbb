"""Runs the text backbone in PyTorch, once over every text that is trained on.

In bfloat16, and with the matrices rounded as the shipped graph stores them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from .graph import rounded_rows
from .text_backbone import EPSILON, HEADS, LAYERS, PAD_ID, WIDTH, TextBackbone

CHUNK = 256


@dataclass(frozen=True, slots=True)
class TokenStates:
    """The token states of some texts, zero where a text has no token.

    Shapes: states (N, T, 384) bfloat16, lengths (N,) int64.
    """

    states: Tensor
    lengths: Tensor

    def batches(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (positions in `rows`, states, is_token) of texts of like length, cut to the longest of each."""
        for positions in torch.split(self.lengths[rows].argsort(stable=True), size):
            lengths = self.lengths[rows[positions]]
            longest = int(lengths.max())
            yield positions, self.states[rows[positions], :longest], torch.arange(longest) < lengths[:, None]


class TextLayer(nn.Module):
    """One BERT layer with the published weights."""

    def __init__(self, backbone: TextBackbone, index: int) -> None:
        super().__init__()
        self._prefix = f"encoder.layer.{index}."
        self._parts: dict[str, nn.Linear | nn.LayerNorm] = {
            "attention.self.query": nn.Linear(WIDTH, WIDTH),
            "attention.self.key": nn.Linear(WIDTH, WIDTH),
            "attention.self.value": nn.Linear(WIDTH, WIDTH),
            "attention.output.dense": nn.Linear(WIDTH, WIDTH),
            "attention.output.LayerNorm": nn.LayerNorm(WIDTH, EPSILON),
            "intermediate.dense": nn.Linear(WIDTH, 4 * WIDTH),
            "output.dense": nn.Linear(4 * WIDTH, WIDTH),
            "output.LayerNorm": nn.LayerNorm(WIDTH, EPSILON),
        }
        for name, part in self._parts.items():
            self.add_module(name.replace(".", "_"), part)
            part.weight.data = torch.from_numpy(backbone.state[f"{self._prefix}{name}.weight"].copy())
            part.bias.data = torch.from_numpy(backbone.state[f"{self._prefix}{name}.bias"].copy())

    def forward(self, x: Tensor, is_token: Tensor) -> Tensor:
        """Shapes: x (B, T, 384), is_token (B, T) bool, result (B, T, 384)."""
        part = self._parts
        query, key, value = (
            part[f"attention.self.{name}"](x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=is_token[:, None, None, :])
        mixed = part["attention.output.dense"](mixed.transpose(1, 2).flatten(2))
        x = part["attention.output.LayerNorm"](x + mixed)
        hidden = part["output.dense"](F.gelu(part["intermediate.dense"](x)))
        result: Tensor = part["output.LayerNorm"](x + hidden)
        return result

    def round_weights(self) -> None:
        """Round the matrices to what the shipped graph stores."""
        for part in self._parts.values():
            if isinstance(part, nn.Linear):
                rows, scales = rounded_rows(part.weight.detach().numpy())
                part.weight.data = torch.from_numpy(rows * scales[:, None])


@torch.no_grad()
def token_states(backbone: TextBackbone, tokenizer: Tokenizer, texts: Sequence[str]) -> TokenStates:
    """Return what the last layer makes of the tokens of all texts."""
    encodings = tokenizer.encode_batch(list(texts))
    lengths = torch.tensor([len(encoding.ids) for encoding in encodings])
    ids = torch.full((len(texts), int(lengths.max())), PAD_ID)
    for row, encoding in zip(ids, encodings, strict=True):
        row[: len(encoding.ids)] = torch.tensor(encoding.ids)
    state = {name: torch.from_numpy(value) for name, value in backbone.state.items() if name.startswith("embed")}
    positions = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    layers = [TextLayer(backbone, index) for index in range(LAYERS)]
    for layer in layers:
        layer.round_weights()
    states = torch.zeros(*ids.shape, WIDTH, dtype=torch.bfloat16)
    for rows in torch.split(lengths.argsort(stable=True), CHUNK):
        longest = int(lengths[rows].max())
        token = F.embedding(ids[rows, :longest], state["embeddings.word_embeddings.weight"])
        x = F.layer_norm(
            token + positions[:longest],
            (WIDTH,),
            state["embeddings.LayerNorm.weight"],
            state["embeddings.LayerNorm.bias"],
            EPSILON,
        )
        is_token = torch.arange(longest) < lengths[rows, None]
        with torch.autocast("cpu", torch.bfloat16):
            for layer in layers:
                x = layer(x, is_token)
        states[rows, :longest] = (x * is_token[:, :, None]).bfloat16()
    return TokenStates(states, lengths)
