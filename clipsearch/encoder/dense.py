"""An image tower cut before its pooling: what it sees at each place of a picture, not only in all of it.

A convolutional tower averages its last features over the picture and projects the average. Cut there, the features of
one place go through the same projection, and the vector compares with texts as that of a picture does. The cut is
found in the ONNX graph itself: a GlobalAveragePool through which all goes that the picture does to the vector. Towers
without one (vision transformers) cannot be cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder.arrays import scale_pixels, unit_rows
from clipsearch.encoder.fingerprints import tower_files
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.protobuf import all_fields, bytes_field, fields, number_field
from clipsearch.errors import InvalidModel, NotDense, first_line
from clipsearch.records import FloatArray, PixelArray, Preprocessing

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 1, 5, 11, 12, 13  # of a graph
_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND = 1, 2, 4
_TENSOR_NAME = 8
_FLOAT = 1
_WITH_GRAPHS = ("If", "Loop", "Scan")


@dataclass(slots=True)
class _Node:
    raw: bytes
    inputs: list[str]
    outputs: list[str]
    kind: str


@dataclass(slots=True)
class _Graph:
    """A graph in parts: its nodes, and what stands beside them as it is."""

    nodes: list[_Node]
    kept: bytes  # weights, and whatever else is neither a node, an input nor an output
    inputs: list[str]
    outputs: list[str]
    model: bytes  # the fields of the model beside its graph

    def cut(self, nodes: Iterable[_Node], start: str, end: str) -> bytes:
        """The model that goes from one tensor, of any shape, to another."""
        floats = bytes_field(2, bytes_field(1, number_field(1, _FLOAT)))  # a tensor type
        body = b"".join(bytes_field(_NODE, node.raw) for node in nodes) + self.kept
        body += bytes_field(_INPUT, bytes_field(1, start.encode()) + floats)
        body += bytes_field(_OUTPUT, bytes_field(1, end.encode()) + floats)
        return self.model + bytes_field(_MODEL_GRAPH, body)


class DenseTower:
    """Both parts of an image tower. Safe to use from many threads."""

    def __init__(self, model: ModelDirectory, preprocessing: Preprocessing, threads: int) -> None:
        """Cut the tower. Raises: NotDense if there is no place to; InvalidModel."""
        self._model = model
        self._preprocessing = preprocessing
        file = model.path / VISUAL_MODEL
        if len(tower_files(model.path, VISUAL_MODEL)) > 1:
            raise NotDense(model.path, f"{VISUAL_MODEL} keeps its weights in other files")
        try:
            graph = _read(file.read_bytes())
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise InvalidModel(model.path, f"{VISUAL_MODEL} is not an ONNX file") from error
        body, self._features, head, self._vectors = _halves(graph, model.path)
        self._picture = graph.inputs[0]
        self._body = self._session(body, threads)
        self._head = self._session(head, threads)

    def _session(self, model: bytes, threads: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # the weights of the other half are not missed
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NotDense(
                self._model.path, f"half of {VISUAL_MODEL} cannot be loaded ({first_line(error)})"
            ) from error

    def features(self, pixels: PixelArray) -> FloatArray:
        """What the tower sees at each place. Shapes: pixels (H, W, 3) uint8, of any size; result (h, w, C).

        Raises: NotDense if the tower takes pictures of one size only.
        """
        scaled = scale_pixels(pixels[None], self._preprocessing)
        try:
            (found,) = self._body.run([self._features], {self._picture: scaled})
        except Exception as error:
            raise NotDense(self._model.path, f"{VISUAL_MODEL} takes no other size ({first_line(error)})") from error
        if found.ndim != 4 or len(found) != 1:
            raise NotDense(self._model.path, f"{VISUAL_MODEL} has no features of places")
        features: FloatArray = np.ascontiguousarray(found[0].transpose(1, 2, 0), dtype=np.float32)
        return features

    def vectors(self, features: FloatArray) -> FloatArray:
        """Features to vectors, as if each were all that there is of a picture. Shapes: (N, C); result (N, D), unit L2.

        Raises: InvalidModel.
        """
        (raw,) = self._head.run([self._vectors], {self._features: features[:, :, None, None]})
        return unit_rows(raw, len(features), self._model.dim, self._model.path, "image")


def _read(data: bytes) -> _Graph:
    """Raises: ValueError, IndexError, UnicodeDecodeError."""
    ((start, end),) = fields(data, 0, len(data), _MODEL_GRAPH)
    rest = b"".join(data[at:stop] for number, at, _, stop in all_fields(data, 0, len(data)) if number != _MODEL_GRAPH)
    nodes, weights, inputs, outputs, kept = [], set(), [], [], []
    for number, at, value, stop in all_fields(data, start, end):
        if number == _NODE:
            own = {n: _texts(data, value, stop, n) for n in (_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND)}
            nodes.append(_Node(data[value:stop], own[_NODE_INPUT], own[_NODE_OUTPUT], own[_NODE_KIND][0]))
        elif number == _INPUT:
            inputs += _texts(data, value, stop, 1)
        elif number == _OUTPUT:
            outputs += _texts(data, value, stop, 1)
        elif number != _VALUE_INFO:  # shapes of tensors, which are others now
            kept.append(data[at:stop])
            if number == _INITIALIZER:
                weights.update(_texts(data, value, stop, _TENSOR_NAME))
    return _Graph(nodes, b"".join(kept), [name for name in inputs if name not in weights], outputs, rest)


def _texts(data: bytes, start: int, end: int, number: int) -> list[str]:
    return [data[a:b].decode("utf-8") for a, b in fields(data, start, end, number)]


def _halves(graph: _Graph, path: Path) -> tuple[bytes, str, bytes, str]:
    """The model before the pooling and the tensor that it gives; the model from there on, and its. Raises: NotDense."""
    if len(graph.inputs) != 1 or any(node.kind in _WITH_GRAPHS for node in graph.nodes):
        raise NotDense(path, f"{VISUAL_MODEL} is not a plain graph")
    seen = {graph.inputs[0]}  # tensors that depend on the picture
    moved = []
    for node in graph.nodes:  # topologically sorted, as ONNX demands
        moved.append(not seen.isdisjoint(node.inputs))
        if moved[-1]:
            seen.update(node.outputs)
    for at in reversed(range(len(graph.nodes))):
        pool = graph.nodes[at]
        if pool.kind != "GlobalAveragePool" or not moved[at]:
            continue
        after, tail = set(pool.outputs), [at]
        goes_around = False
        for n in range(at + 1, len(graph.nodes)):
            node = graph.nodes[n]
            if after.isdisjoint(node.inputs):
                continue
            goes_around = goes_around or any(name in seen and name not in after for name in node.inputs)
            after.update(node.outputs)
            tail.append(n)
        if goes_around or graph.outputs[0] not in after:
            continue
        behind = set(tail)
        fixed = [n for n, is_moved in enumerate(moved) if not is_moved]  # casts of weights, and the like
        head = [graph.nodes[n] for n in sorted(behind | set(fixed))]
        body = [node for n, node in enumerate(graph.nodes) if n not in behind]
        features = pool.inputs[0]
        return (
            graph.cut(body, graph.inputs[0], features),
            features,
            graph.cut(head, features, graph.outputs[0]),
            graph.outputs[0],
        )
    raise NotDense(path, f"{VISUAL_MODEL} does not average its features over the picture")
