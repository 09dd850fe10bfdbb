"""EfficientNet-Lite2 as an ONNX graph, from the published state dict.

The architecture follows the paper's table for the Lite family (no squeeze-and-excitation, ReLU6, stem and
head not widened): Tan and Le, "EfficientNet", 2019, and its `lite` variant. Batch normalisation is folded
into the convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .graph import Array, Graph

IMAGE_SIZE = 256
FEATURES = 1280
CLASSES = 1000
# The TensorFlow original computes (x - 127) / 128 on 0..255.
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the architecture's table: `repeats` inverted residual blocks, the first with the stride."""

    repeats: int
    kernel: int
    stride: int


STAGES = (
    Stage(1, 3, 1),
    Stage(3, 3, 2),
    Stage(3, 5, 2),
    Stage(4, 3, 2),
    Stage(4, 5, 1),
    Stage(5, 5, 2),
    Stage(1, 3, 1),
)


class ImageBackbone:
    """The published weights, and the graph from pixels to pooled features."""

    def __init__(self, checkpoint: Path) -> None:
        state: dict[str, torch.Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self._state: dict[str, Array] = {name: value.float().numpy() for name, value in state.items()}

    @property
    def class_weight(self) -> Array:
        """The classifier's matrix, (1000, 1280)."""
        return self._state["_fc.weight"]

    @property
    def class_bias(self) -> Array:
        """The classifier's bias, (1000,)."""
        return self._state["_fc.bias"]

    def add_to(self, graph: Graph, pixels: str) -> str:
        """Add the backbone; returns the pooled features, (B, 1280). `pixels` is (B, 3, 256, 256)."""
        x = self._conv(graph, pixels, "_conv_stem", "_bn0", kernel=3, stride=2, size=IMAGE_SIZE)
        x = _relu6(graph, x)
        size, block = IMAGE_SIZE // 2, 0
        for stage in STAGES:
            for repeat in range(stage.repeats):
                x = self._block(graph, x, f"_blocks.{block}.", stage, size, repeated=repeat > 0)
                block += 1
                if repeat == 0:
                    size //= stage.stride
        x = _relu6(graph, self._conv(graph, x, "_conv_head", "_bn1", kernel=1, stride=1, size=size))
        x = graph.node("GlobalAveragePool", [x], "pool")
        return graph.node("Flatten", [x], "features", axis=1)

    def _block(self, graph: Graph, x: str, prefix: str, stage: Stage, size: int, repeated: bool) -> str:
        """Add a block; `repeated`: it is not the first of its stage, so it keeps the shape and adds its input."""
        shortcut, stride = x, 1 if repeated else stage.stride
        if prefix + "_expand_conv.weight" in self._state:
            x = self._conv(graph, x, prefix + "_expand_conv", prefix + "_bn0", 1, 1, size)
            x = _relu6(graph, x)
        x = self._conv(graph, x, prefix + "_depthwise_conv", prefix + "_bn1", stage.kernel, stride, size)
        x = _relu6(graph, x)
        x = self._conv(graph, x, prefix + "_project_conv", prefix + "_bn2", 1, 1, size // stride)
        return graph.node("Add", [x, shortcut], prefix + "add") if repeated else x

    def _conv(self, graph: Graph, x: str, conv: str, norm: str, kernel: int, stride: int, size: int) -> str:
        weight, bias = self._folded(conv, norm)
        # "Same" padding as TensorFlow does it: what is missing, the odd pixel at the end.
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = missing // 2, missing - missing // 2
        return graph.node(
            "Conv",
            [x, graph.half(weight, conv + ".weight"), graph.constant(bias, conv + ".bias")],
            conv,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=weight.shape[0] if weight.shape[1] == 1 else 1,
        )

    def _folded(self, conv: str, norm: str) -> tuple[Array, Array]:
        state = self._state
        scale = state[norm + ".weight"] / np.sqrt(state[norm + ".running_var"] + BATCH_NORM_EPSILON)
        weight = state[conv + ".weight"] * scale[:, None, None, None]
        bias = state[norm + ".bias"] - state[norm + ".running_mean"] * scale
        return weight.astype(np.float32), bias.astype(np.float32)


def _relu6(graph: Graph, x: str) -> str:
    return graph.node("Clip", [x, graph.constant(0.0), graph.constant(6.0)], x + "_relu6")
