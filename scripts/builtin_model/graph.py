"""A thin builder for ONNX graphs: nodes and weights by name, weights stored small.

Both towers are written node by node instead of traced, so that names, storage types and the dynamic
axes are exactly what the model directory promises. Knows nothing of either tower.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from .quantisation import ProductCodes

Array = npt.NDArray[np.float32]
Attribute = int | float | str | list[int]

OPSET = 17
IR_VERSION = 8  # read by onnxruntime 1.15 and later


class Graph:
    """Collects nodes and weights; every method returns the name of the tensor it made."""

    def __init__(self, name: str, exact: bool = False) -> None:
        """Start an empty graph. `exact` stores every weight as float32, to measure what compression costs."""
        self.name = name
        self.exact = exact
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._taken: set[str] = set()

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: Attribute) -> str:
        """Add a node with one output."""
        output = self._fresh(output or op.lower())
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: npt.NDArray[np.generic] | float | list[int], name: str = "constant") -> str:
        """Add a weight as it is (a float becomes float32, a list int64)."""
        if isinstance(value, float):
            value = np.asarray(value, dtype=np.float32)
        elif isinstance(value, list):
            value = np.asarray(value, dtype=np.int64)
        name = self._fresh(name)
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def half(self, value: Array, name: str) -> str:
        """Add a float32 weight stored as float16; the runtime folds the cast when it loads the model."""
        if self.exact:
            return self.constant(value, name)
        stored = self.constant(value.astype(np.float16), name + "_f16")
        return self.node("Cast", [stored], name, to=TensorProto.FLOAT)

    def linear(self, x: str, weight: Array, bias: Array, name: str) -> str:
        """Add `x @ weight.T + bias`, the weight stored as int8 with one scale per output. Shape: (out, in).

        The product runs in float32: the runtime casts the matrix once, when it loads the model.
        """
        if self.exact:
            product = self.node("MatMul", [x, self.constant(weight.T, name + "_weight")], name + "_matmul")
        else:
            rows, scales = rounded_rows(weight)
            stored = self.constant(rows.T, name + "_weight_i8")
            matrix = self.node("Cast", [stored], name + "_weight", to=TensorProto.FLOAT)
            product = self.node("MatMul", [x, matrix], name + "_matmul")
            product = self.node("Mul", [product, self.constant(scales, name + "_scale")])
        return self.node("Add", [product, self.constant(bias, name + "_bias")], name)

    def lookup(self, table: Array, rows: str, name: str) -> str:
        """Add `table[rows]`, the table stored as int8 with one scale per row."""
        if self.exact:
            return self.node("Gather", [self.constant(table, name + "_table"), rows], name, axis=0)
        rounded, scales = rounded_rows(table)
        found = self.node("Gather", [self.constant(rounded, name + "_table_i8"), rows], name + "_i8", axis=0)
        found = self.node("Cast", [found], name + "_float", to=TensorProto.FLOAT)
        scales_name = self.constant(scales[:, None], name + "_table_scale")
        scale = self.node("Gather", [scales_name, rows], name + "_scale", axis=0)
        return self.node("Mul", [found, scale], name)

    def coded_lookup(self, table: ProductCodes, rows: str, name: str) -> str:
        """Add `table[rows]`, (B, T, width), the table stored as codes of a product quantisation."""
        pieces, centroids, length = table.centroids.shape
        codes = self.node("Gather", [self.constant(table.codes, name + "_codes"), rows], name + "_code", axis=0)
        codes = self.node("Cast", [codes], to=TensorProto.INT32)
        # Of each piece's 256 centroids those of the next stand behind: one table, one lookup.
        starts = self.constant(np.arange(0, pieces * centroids, centroids, dtype=np.int32), name + "_starts")
        flat = self.half(table.centroids.reshape(-1, length), name + "_centroids")
        found = self.node("Gather", [flat, self.node("Add", [codes, starts])], name + "_pieces", axis=0)
        return self.node("Reshape", [found, self.constant([0, 0, pieces * length], "shape")], name)

    def layer_norm(self, x: str, weight: Array, bias: Array, name: str, epsilon: float) -> str:
        """Add a layer normalisation over the last axis."""
        inputs = [x, self.constant(weight, name + "_weight"), self.constant(bias, name + "_bias")]
        return self.node("LayerNormalization", inputs, name, axis=-1, epsilon=epsilon)

    def gelu(self, x: str, name: str) -> str:
        """Add the exact GELU, x / 2 * (1 + erf(x / sqrt 2)), in the form that the runtime fuses."""
        erf = self.node(
            "Erf", [self.node("Div", [x, self.constant(float(np.sqrt(2.0)))], name + "_div")], name + "_erf"
        )
        one = self.node("Add", [erf, self.constant(1.0)], name + "_one")
        return self.node("Mul", [self.node("Mul", [x, one], name + "_mul"), self.constant(0.5)], name)

    def unit(self, x: str, name: str) -> str:
        """Add a division by the L2 norm of the last axis."""
        norm = self.node("ReduceL2", [x], name + "_norm", axes=[-1], keepdims=1)
        floor = self.node("Max", [norm, self.constant(1e-12)], name + "_floor")
        return self.node("Div", [x, floor], name)

    def save(
        self,
        path: Path,
        inputs: dict[str, tuple[int, list[int | str]]],
        outputs: dict[str, list[int | str]],
    ) -> None:
        """Write the model; `inputs` maps names to (element type, shape), `outputs` to float32 shapes."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            initializer=self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="clipsearch")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _fresh(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        return unique


def rounded_rows(matrix: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """Return a matrix as int8, symmetric, and the scale of each row."""
    scales = np.maximum(np.abs(matrix).max(axis=1), 1e-8).astype(np.float32) / np.float32(127)
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales
