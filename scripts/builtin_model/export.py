"""Writes the model directory: two ONNX graphs, their settings and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import TensorProto

from .graph import Graph
from .heads import DIM, Ensemble
from .image_backbone import IMAGE_SIZE, MEAN, STD, ImageBackbone
from .text_backbone import CONTEXT_LENGTH, HEADS, LAYERS, PAD_ID, WIDTH, TextBackbone

Json = dict[str, object]


def write_model(
    folder: Path,
    image: ImageBackbone,
    text: TextBackbone,
    heads: Ensemble,
    tokenizer_file: Path,
    *,
    exact: bool,
) -> None:
    """Write both towers and all settings into `folder`, which may exist. `exact`: weights as float32."""
    graph = Graph("visual", exact)
    embedding = heads.add_image_to(graph, image.add_to(graph, "image"))
    pixels: list[int | str] = ["batch", 3, IMAGE_SIZE, IMAGE_SIZE]
    graph.save(
        folder / "visual" / "model.onnx",
        {"image": (TensorProto.FLOAT, pixels)},
        {embedding: ["batch", DIM]},
    )
    graph = Graph("textual", exact)
    embedding = heads.add_text_to(graph, text.add_to(graph, "text"))
    graph.save(
        folder / "textual" / "model.onnx",
        {"text": (TensorProto.INT32, ["batch", "context"])},
        {embedding: ["batch", DIM]},
    )
    _write_json(folder / "config.json", _config(heads.score_scale))
    _write_json(folder / "visual" / "preprocess_cfg.json", _preprocessing())
    _write_json(folder / "textual" / "tokenizer.json", _tokenizer(tokenizer_file), indent=None)
    _write_json(
        folder / "textual" / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": CONTEXT_LENGTH,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    )


def _config(score_scale: float) -> Json:
    return {
        "embed_dim": DIM,
        "vision_cfg": {"image_size": IMAGE_SIZE, "backbone": "efficientnet-lite2"},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 30522,
            "width": WIDTH,
            "heads": HEADS,
            "layers": LAYERS,
            "pad_id": PAD_ID,
            "backbone": "all-MiniLM-L6-v2",
        },
        "clipsearch": {
            "name": "builtin",
            "score_scale": round(score_scale, 4),
            # A text needs no padding beyond the longest of its batch.
            "dynamic_context": True,
            "checked_precisions": ["bf16"],
        },
    }


def _preprocessing() -> Json:
    return {
        "size": [IMAGE_SIZE, IMAGE_SIZE],
        "mode": "RGB",
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "fill_color": 0,
    }


def _tokenizer(source: Path) -> Json:
    """Return the tokenizer as published, but cut and padded to this model's context length."""
    settings: Json = json.loads(source.read_text(encoding="utf-8"))
    settings["truncation"] = {
        "direction": "Right",
        "max_length": CONTEXT_LENGTH,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    settings["padding"] = {
        "strategy": {"Fixed": CONTEXT_LENGTH},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": PAD_ID,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    return settings


def _write_json(path: Path, content: Json, indent: int | None = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
