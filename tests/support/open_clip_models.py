"""Small open_clip models with random weights, one of each kind, for tests that have PyTorch."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch.onnx._internal.exporter._registration import ONNXRegistry

from clipsearch.encoder.openclip import OpenClipEncoder
from clipsearch.records import PixelArray

# The exporter reads its table of operators, which no export changes, from sources: for each tower, a fifth of its time.
ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]


def know_operators() -> None:
    """Read that table now, for all processes that are forked from this one: a second of work."""
    ONNXRegistry.from_torchlib()


_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
SMALL_VIT: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": _TEXT,
}
SMALL_RESNET: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": _TEXT,
}
SMALL_SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 96,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}

SMALL_COCA: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {**_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**_TEXT, "context_length": 76, "attn_pooler_heads": 2},
}


def small_model(config: dict[str, Any], seed: int = 0) -> Any:
    """A model of that configuration; weights large enough that different inputs give different vectors."""
    torch.manual_seed(seed)
    arguments = deepcopy(config)
    kind = CustomTextCLIP if arguments.pop("custom_text", False) else CLIP
    if "multimodal_cfg" in arguments:
        model = CoCa(**arguments)
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # which open_clip leaves as memory had it
        return model.eval()
    return kind(**arguments).eval()


def small_encoder(config: dict[str, Any], seed: int = 0, name: str = "small") -> OpenClipEncoder:
    """The encoder of that model, on the CPU."""
    return OpenClipEncoder.from_model(small_model(config, seed), config, name=name, device="cpu")


def fit_norms(encoder: OpenClipEncoder, pixels: PixelArray) -> None:
    """Let the normalisations of an image tower fit some pictures, as those of a pretrained one do.

    Untouched, a random tower gives all pictures nearly the same vector: batch normalisations, whose statistics are
    not trained, do nothing, and a ViT's class token says more than its patches. Shape: (B, H, W, 3) uint8.
    """
    visual = encoder.model.visual
    scaled = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    norms = [module for module in visual.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.ones_(norm.weight)
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        encoder.model.encode_image(scaled)
        encoder.model.eval()
        if hasattr(visual, "ln_post"):
            seen: list[torch.Tensor] = []
            hook = visual.ln_post.register_forward_hook(lambda *found: seen.append(found[-1]))
            encoder.model.encode_image(scaled)
            hook.remove()
            features = seen[0] if seen[0].ndim == 2 else seen[0][:, 0]
            visual.ln_post.weight.copy_(1 / features.std(dim=0))
            visual.ln_post.bias.copy_(-features.mean(dim=0) / features.std(dim=0))
