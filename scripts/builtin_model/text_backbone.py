"""all-MiniLM-L6-v2 as an ONNX graph, from its safetensors: six BERT layers, 384 wide, int8 weights.

Every matrix is stored as int8 with a scale per output column (per row for the token table) and computed in
float32, so activations are not quantised and results do not depend on a processor's int8 instructions.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import TensorProto
from safetensors.numpy import load_file

from .graph import Array, Graph
from .quantisation import ProductCodes, quantise

LAYERS = 6
WIDTH = 384
HEADS = 12
PAD_ID = 0
CONTEXT_LENGTH = 64
EPSILON = 1e-12
FREQUENT = 12_000  # tokens in 4 bits a number, the others in 2
FREQUENT_PIECES, RARE_PIECES = 192, 96


class Tokens(NamedTuple):
    """Names of tensors in a graph: the last layer's states (B, T, 384), and 1 where there is a token (B, T)."""

    states: str
    mask: str


class TextBackbone:
    """The weights, as published until `state` is written to, and the graph from token ids to token states."""

    def __init__(self, checkpoint: Path) -> None:
        self.state: dict[str, Array] = dict(load_file(checkpoint))

    def add_to(self, graph: Graph, text: str) -> Tokens:
        """Add the backbone.

        `text` is (B, T) int32, T at most the context length; `PAD_ID` marks what is no token.
        """
        pad = graph.constant(np.asarray(PAD_ID, dtype=np.int32), "pad_id")
        is_token = graph.node("Not", [graph.node("Equal", [text, pad])], "is_token")
        mask = graph.node("Cast", [is_token], "mask", to=TensorProto.FLOAT)
        # Added to the attention scores, (B, 1, 1, T): 0 for tokens, -10,000 for padding.
        missing = graph.node("Sub", [mask, graph.constant(1.0)], "missing")
        penalty = graph.node("Mul", [missing, graph.constant(10_000.0)], "penalty")
        penalty = graph.node("Unsqueeze", [penalty, graph.constant([1, 2], "axes")], "attention_penalty")

        x = self._embed(graph, text)
        for layer in range(LAYERS):
            x = self._layer(graph, x, penalty, f"encoder.layer.{layer}.")
        return Tokens(x, mask)

    def _embed(self, graph: Graph, text: str) -> str:
        state = self.state
        table = state["embeddings.word_embeddings.weight"]
        if graph.exact:
            token = graph.lookup(table, text, "token")
        else:
            token = add_token_table(graph, *quantise_tokens(table), text)
        # Every token is of type 0: that row joins the positions.
        positions = (
            state["embeddings.position_embeddings.weight"][:CONTEXT_LENGTH]
            + state["embeddings.token_type_embeddings.weight"][0]
        )
        length = graph.node("Gather", [graph.node("Shape", [text]), graph.constant([1], "axes")], "length")
        starts = graph.constant([0], "starts")
        position = graph.node("Slice", [graph.constant(positions, "positions"), starts, length], "position")
        x = graph.node("Add", [token, position], "embedded")
        return self._norm(graph, x, "embeddings.LayerNorm")

    def _layer(self, graph: Graph, x: str, penalty: str, prefix: str) -> str:
        attention = prefix + "attention."
        query = self._heads(graph, self._linear(graph, x, attention + "self.query"), [0, 2, 1, 3])
        key = self._heads(graph, self._linear(graph, x, attention + "self.key"), [0, 2, 3, 1])
        value = self._heads(graph, self._linear(graph, x, attention + "self.value"), [0, 2, 1, 3])
        scores = graph.node("MatMul", [query, key], prefix + "scores")
        scores = graph.node("Mul", [scores, graph.constant(float((WIDTH // HEADS) ** -0.5))])
        weights = graph.node("Softmax", [graph.node("Add", [scores, penalty])], prefix + "weights", axis=-1)
        mixed = graph.node("MatMul", [weights, value], prefix + "mixed")
        mixed = graph.node("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = graph.node("Reshape", [mixed, graph.constant([0, 0, WIDTH], "shape")])
        mixed = self._linear(graph, mixed, attention + "output.dense")
        x = self._norm(graph, graph.node("Add", [mixed, x]), attention + "output.LayerNorm")
        hidden = self._linear(graph, x, prefix + "intermediate.dense")
        hidden = graph.gelu(hidden, prefix + "gelu")
        hidden = self._linear(graph, hidden, prefix + "output.dense")
        return self._norm(graph, graph.node("Add", [hidden, x]), prefix + "output.LayerNorm")

    def _heads(self, graph: Graph, x: str, order: list[int]) -> str:
        split = graph.node("Reshape", [x, graph.constant([0, 0, HEADS, WIDTH // HEADS], "shape")])
        return graph.node("Transpose", [split], perm=order)

    def _linear(self, graph: Graph, x: str, name: str) -> str:
        return graph.linear(x, self.state[name + ".weight"], self.state[name + ".bias"], name)

    def _norm(self, graph: Graph, x: str, name: str) -> str:
        return graph.layer_norm(x, self.state[name + ".weight"], self.state[name + ".bias"], name, EPSILON)


def quantise_tokens(table: Array) -> tuple[ProductCodes, ProductCodes]:
    """Return the token table in codes: the words, which stand first by how often they occur, and the others."""
    return quantise(table[:FREQUENT], FREQUENT_PIECES), quantise(table[FREQUENT:], RARE_PIECES)


def add_token_table(graph: Graph, frequent: ProductCodes, rare: ProductCodes, rows: str) -> str:
    """Add the lookup in a table of two parts, of which `rare` has the ids after those of `frequent`.

    Shapes: rows (B, T) int32, result (B, T, width).
    """
    border = graph.constant(np.asarray(len(frequent.codes), np.int32), "first_rare")
    lowest = graph.constant(np.asarray(0, np.int32), "lowest")

    def part(codes: ProductCodes, row: str, name: str) -> str:
        highest = graph.constant(np.asarray(len(codes.codes) - 1, np.int32), name + "_last")
        inside = graph.node("Min", [graph.node("Max", [row, lowest]), highest], name + "_row")
        return graph.coded_lookup(codes, inside, name)

    found = [part(frequent, rows, "frequent"), part(rare, graph.node("Sub", [rows, border], "rare_id"), "rare")]
    is_frequent = graph.node("Unsqueeze", [graph.node("Less", [rows, border]), graph.constant([2], "row_axis")])
    return graph.node("Where", [is_frequent, *found], "token")
