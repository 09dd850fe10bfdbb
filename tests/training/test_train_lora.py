"""LoRA on open_clip's towers: little is trained, the start is the base model, merging changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from torch import Tensor  # noqa: E402

from clipsearch.training.lora import (  # noqa: E402
    LoraReport,
    LowRank,
    add_lora,
    low_ranks,
    merge_lora,
    set_strength,
)
from clipsearch.training.towers import layer_distances  # noqa: E402
from tests.support.open_clip_models import SMALL_RESNET, SMALL_SIGLIP, SMALL_VIT, small_model  # noqa: E402

pytestmark = pytest.mark.torch


def outputs(model: Any, side: int) -> list[Tensor]:
    torch.manual_seed(5)
    with torch.no_grad():
        return [
            model.encode_image(torch.randn(2, 3, side, side)),
            model.encode_text(torch.randint(1, 400, (2, model.context_length))),
        ]


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET, SMALL_SIGLIP], ids=["vit", "resnet", "siglip"])
def test_merged_is_unmerged(config: dict[str, Any]) -> None:
    model, side = small_model(config), config["vision_cfg"]["image_size"]
    base = outputs(model, side)
    add_lora(model)
    for before, after in zip(base, outputs(model, side), strict=True):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    for change in low_ranks(model):
        torch.nn.init.normal_(change.up, std=0.02)
    trained = outputs(model, side)
    assert all((before - after).abs().max() > 1e-3 for before, after in zip(base, trained, strict=True))
    set_strength(model, 0.0)
    for before, after in zip(base, outputs(model, side), strict=True):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
    set_strength(model, 1.0)
    merge_lora(model)
    assert not low_ranks(model)
    assert set(model.state_dict()) == set(small_model(config).state_dict())
    for unmerged, merged in zip(trained, outputs(model, side), strict=True):
        torch.testing.assert_close(unmerged, merged, atol=1e-5, rtol=1e-5)


def test_a_rank_that_weights_cannot_have_is_said() -> None:
    sides = {min(change.down.shape[2], change.up.shape[1]) for change in _changes(1)}
    report = add_lora(small_model(SMALL_VIT), rank=100_000, alpha=1.0)
    assert set(report.ranks) == {side // 8 for side in sides}
    least, most = min(report.ranks), max(report.ranks)
    span = f"rank {least}" if least == most else f"ranks from {least} to {most}"
    said = "--rank 100,000 is more than an eighth of the smaller side of all weights that LoRA changes: these get "
    assert report.rank_notice(100_000) == said + span
    assert add_lora(small_model(SMALL_VIT), rank=1).rank_notice(1) is None
    some = LoraReport(1, 2, (16, 8, 4))
    said = "--rank 16 is more than an eighth of the smaller side of 2 of 3 weights that LoRA changes"
    assert some.rank_notice(16) == f"{said}: these get ranks from 4 to 8"


def _changes(rank: int) -> list[LowRank]:
    model = small_model(SMALL_VIT)
    add_lora(model, rank=rank)
    return low_ranks(model)


@pytest.mark.few(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_it_trains_less_than_two_percent(name: str) -> None:
    model = open_clip.create_model(name, pretrained=None)
    report = add_lora(model)
    trained = [value for value in model.parameters() if value.requires_grad]
    assert sum(value.numel() for value in trained) == report.trained
    assert 0.005 < report.share < 0.02
    changed = {name.split(".parametrizations.")[0] for name, value in model.named_parameters() if value.requires_grad}
    if name == "ViT-B-32":
        assert any("visual.transformer.resblocks.0.attn" in name for name in changed)
    else:
        assert any(name.startswith("visual.layer1") for name in changed)
    assert any(name.startswith("transformer.resblocks.11.attn") for name in changed)


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_merging_a_copy_leaves_the_original(config: dict[str, Any]) -> None:
    model = small_model(config)
    add_lora(model, 4)
    tokens = torch.randint(1, 400, (2, 77))
    with torch.no_grad():
        before = model.encode_text(tokens)
        merged = copy.deepcopy(model)
        merge_lora(merged)
        torch.testing.assert_close(model.encode_text(tokens), before)
        torch.testing.assert_close(merged.encode_text(tokens), before, atol=1e-5, rtol=1e-4)


def test_layers_are_counted_from_the_output() -> None:
    distances = layer_distances(
        ["visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight", "visual.transformer.resblocks.3.x",
         "visual.proj", "transformer.resblocks.1.x", "text_projection", "token_embedding.weight"]
    )  # fmt: skip
    assert list(distances.values()) == [5, 4, 1, 0, 1, 0, 3]
