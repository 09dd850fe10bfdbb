"""Where an ONNX tower's backbone ends and its head begins, found in the graph itself.

A tensor is a cut if everything that the input does to the output goes through it. The earliest cut of shape
(B, F) is what the backbone says of a whole picture or text: the pooled features, before any projection. Needs the
onnx package. Knows nothing of training.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import InvalidModel, MissingExtra

# Paths are counted modulo a prime of 61 bits, each edge with a weight of its own: two counts agree by chance with
# a probability of 2^-61.
_PRIME = (1 << 61) - 1


def load_graph(file: Path) -> Any:
    """Read an ONNX model with its external weights. Raises: MissingExtra, InvalidModel."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("torch", "training on an ONNX model") from error
    try:
        return onnx.load(str(file))
    except Exception as error:  # protobuf's DecodeError, OSError, onnx's own
        raise InvalidModel(file.parent.parent, f"{file.name} cannot be read ({error})") from error


def main_output(model: Any) -> str:
    """The output that holds the vectors: the first of shape (B, D), as `OnnxTower` takes it."""
    outputs = model.graph.output
    flat = [output for output in outputs if len(output.type.tensor_type.shape.dim) == 2] or list(outputs)
    return str(flat[0].name)


def cut_tensors(model: Any, output: str) -> list[str]:
    """Names of all tensors that every path from the inputs to `output` goes through, from input to output."""
    nodes = list(model.graph.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    forward: dict[str, int] = defaultdict(int)
    random = np.random.default_rng(0)
    if len(inputs) != 1:
        for name in inputs:
            forward[name] = int(random.integers(1, _PRIME))
    else:
        forward[inputs[0]] = 1
    edges: list[list[tuple[str, int]]] = []
    for node in nodes:  # topologically sorted, as ONNX demands
        weighted = [(name, int(random.integers(1, _PRIME))) for name in [*node.input, *_captured(node)] if name]
        edges.append(weighted)
        total = sum(forward[name] * weight for name, weight in weighted) % _PRIME
        for name in node.output:
            forward[name] = total
    backward: dict[str, int] = defaultdict(int)
    backward[output] = 1
    for node, weighted in zip(reversed(nodes), reversed(edges), strict=True):
        total = sum(backward[name] for name in node.output) % _PRIME
        for name, weight in weighted:
            backward[name] = (backward[name] + total * weight) % _PRIME
    whole = forward[output]
    names = [*inputs, *(name for node in nodes for name in node.output)]
    return [name for name in names if whole and forward[name] * backward[name] % _PRIME == whole]


def _captured(node: Any) -> list[str]:
    """What the subgraphs of If and Loop nodes read from outside."""
    names: list[str] = []
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            inner = {name for child in graph.node for name in child.output}
            inner |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
            for child in graph.node:
                names += [name for name in [*child.input, *_captured(child)] if name not in inner]
    return names


def pooled_features(model: Any, feed: dict[str, npt.NDArray[Any]], output: str) -> str:
    """The name of the earliest cut that is (B, F) of a float type when the graph runs on `feed`, of B rows.

    That is `output` itself if there is none before it. Raises: InvalidModel if the graph does not run.
    """
    import onnx
    import onnxruntime

    rows = len(next(iter(feed.values())))
    cuts = [name for name in cut_tensors(model, output) if name not in feed]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in cuts if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # others would spin, for two inputs
    # Optimisation could fold a cut away.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for name, value in zip(cuts, session.run(cuts, feed), strict=True):
        if value.ndim == 2 and value.shape[0] == rows and value.shape[1] > 1 and value.dtype.kind == "f":
            return name
    return output
