"""A small image tower with layers enough to be quantised. Needs the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.tiny_models import write_model_directory

DIM = 64


def write_layered_model(path: Path, *, seed: int = 0) -> Path:
    """Convolutions, one of them for each channel by itself, and two matrices; pictures of 16 by 16."""
    from onnx import TensorProto, helper, numpy_helper, save

    write_model_directory(path, dim=DIM)
    rng = np.random.default_rng(seed)
    shapes = {
        "first": (32, 3, 3, 3),
        "second": (64, 32, 3, 3),
        "alone": (64, 1, 4, 4),
        "wide": (64, 128),
        "last": (128, DIM),
    }
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal(shape) / np.sqrt(np.prod(shape) / max(shape[0], shape[-1]))).astype(np.float32), name
        )
        for name, shape in shapes.items()
    ]

    def node(kind: str, *names: str, **more: Any) -> Any:
        return helper.make_node(kind, list(names[:-1]), [names[-1]], **more)

    nodes = [
        node("Conv", "image", "first", "a", strides=[2, 2]),
        node("Relu", "a", "b"),
        node("Conv", "b", "second", "c", strides=[2, 2]),
        node("Relu", "c", "d"),
        node("Conv", "d", "alone", "e", group=64, pads=[1, 1, 1, 1]),
        node("Relu", "e", "f"),
        node("GlobalAveragePool", "f", "g"),
        node("Flatten", "g", "h"),
        node("MatMul", "h", "wide", "i"),
        node("Relu", "i", "j"),
        node("MatMul", "j", "last", "embedding"),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])
    made = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])
    graph = helper.make_graph(nodes, "tower", [given], [made], weights)
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        path / "visual/model.onnx",
    )
    return path
