"""Tiny model directories for tests, written without the onnx package (it is not a dependency of the core).

Image tower: mean colour (B, 3) times a fixed matrix. Text tower: mean of the token vectors, padding included.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.home import HOME

FLOAT, INT32, INT64 = 1, 6, 7
WORDS = ["<pad>", "<unk>", "<s>", "</s>", "a", "dog", "cat", "on", "the", "beach", "red", "blue", "&", "don't"]


def write_model_directory(
    path: Path,
    *,
    dim: int = 8,
    size: int = 16,
    context_length: int = 6,
    seed: int = 0,
    config: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    external: bool = False,
    text_type: int = INT32,
    visual: bool = True,
    textual: bool = True,
    names: tuple[str, str, str] = ("image", "text", "embedding"),
    fixed_batch: int | None = None,
    fixed_length: int | None = None,
) -> Path:
    """Write a complete model directory and return its path."""
    generator = np.random.default_rng(seed)
    image_weights = generator.standard_normal((3, dim)).astype(np.float32)
    token_weights = generator.standard_normal((len(WORDS), dim)).astype(np.float32)
    path.mkdir(parents=True, exist_ok=True)
    text_cfg = {"context_length": context_length, "hf_tokenizer_name": "tiny"}
    full = {"embed_dim": dim, "text_cfg": text_cfg, **(config or {})}
    if own is not None:
        full["clipsearch"] = own
    (path / "config.json").write_text(json.dumps(full))
    image_name, text_name, output = names
    batch: int | str = fixed_batch or "batch"
    if visual:
        (path / "visual").mkdir(exist_ok=True)
        (path / "visual/preprocess_cfg.json").write_text(json.dumps(preprocess_cfg(size)))
        nodes = [
            node("GlobalAveragePool", [image_name], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("MatMul", ["flat", "weights"], [output]),
        ]
        if external:
            (path / "visual/weights.bin").write_bytes(image_weights.tobytes())
        tensor = initializer("weights", image_weights, "weights.bin" if external else None)
        data = model(nodes, [tensor], [(image_name, FLOAT, [batch, 3, size, size])], [(output, FLOAT, [batch, dim])])
        (path / "visual/model.onnx").write_bytes(data)
    if textual:
        (path / "textual").mkdir(exist_ok=True)
        write_tokenizer(path / "textual")
        nodes = [
            node("Gather", ["weights", text_name], ["tokens"]),
            node("ReduceMean", ["tokens"], [output], axes=[1], keepdims=0),
        ]
        length: int | str = fixed_length or "length"
        tensor = initializer("weights", token_weights, None)
        data = model(nodes, [tensor], [(text_name, text_type, [batch, length])], [(output, FLOAT, [batch, dim])])
        (path / "textual/model.onnx").write_bytes(data)
    return path


@cache
def any_model() -> str:
    """What `--model` takes where commands need any model: its towers take no time."""
    return str(write_model_directory(HOME.parent / f"any-model-{os.getpid()}"))


def preprocess_cfg(size: int | list[int] = 16) -> dict[str, Any]:
    return {
        "size": size,
        "mode": "RGB",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }


def write_tokenizer(folder: Path) -> None:
    """Words at white space, <s> and </s> around them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))


# The wire format of onnx.proto, as far as the models above need it.


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: int | list[int]) -> bytes:
    data = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs) + field(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            data += field(5, field(1, name) + field(3, value) + field(20, 2))
        else:
            data += field(5, field(1, name) + b"".join(field(8, item) for item in value) + field(20, 7))
    return data


def initializer(name: str, values: npt.NDArray[np.float32], location: str | None) -> bytes:
    data = b"".join(field(1, side) for side in values.shape) + field(2, FLOAT) + field(8, name)
    if location is None:
        return data + field(9, values.tobytes())
    return data + field(13, field(1, "location") + field(2, location)) + field(14, 1)


def model(
    nodes: list[bytes],
    initializers: list[bytes],
    inputs: list[tuple[str, int, list[int | str]]],
    outputs: list[tuple[str, int, list[int | str]]],
) -> bytes:
    def value(name: str, kind: int, shape: list[int | str]) -> bytes:
        sides = b"".join(field(1, field(1, side) if isinstance(side, int) else field(2, side)) for side in shape)
        return field(1, name) + field(2, field(1, field(1, kind) + field(2, sides)))

    graph = b"".join(field(1, item) for item in nodes) + field(2, "tiny")
    graph += b"".join(field(5, item) for item in initializers)
    graph += b"".join(field(11, value(*item)) for item in inputs)
    graph += b"".join(field(12, value(*item)) for item in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))
