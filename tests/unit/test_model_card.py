"""Cards of trained models: what a hub accepts, and nothing about where things lie on this machine."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from clipsearch.training.card import model_card
from clipsearch.training.mixing import Share
from clipsearch.training.run import TrainReport

RECALL = {f"text_to_image_r{k}": 1.0 for k in (1, 5, 10)}


def card(model: str, licence: str | None = None, mixture: list[Share] | None = None) -> str:
    report = TrainReport(
        "/home/ann/runs/products", model, "heads", 60, 30, 117, 0, 10, 3, 0.5, RECALL, RECALL, RECALL, RECALL, 0.0, 3.0,
        "0" * 32, False, 1.0, mixture=[asdict(share) for share in mixture or []],
    )  # fmt: skip
    return model_card(report, {"method": "heads", "seed": 0}, ["/home/ann/secret/pairs.csv"], licence)


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("/home/ann/models/first", None),
        ("builtin", None),
        ("open_clip:ViT-B-32/openai", None),
        ("ViT-B-32__openai", "base_model: immich-app/ViT-B-32__openai"),
    ],
)
def test_a_card_names_models_but_no_folders(model: str, head: str | None) -> None:
    text = card(model)
    assert "/home" not in text
    assert "`pairs.csv`" in text
    assert f"`{model.removeprefix('/home/ann/models/')}`, fine-tuned" in text
    assert [line for line in text.splitlines() if line.startswith("base_model")] == ([head] if head else [])


@pytest.mark.parametrize(
    ("licence", "shown"),
    [
        ("MIT", "mit"),
        ("Apache-2.0", "apache-2.0"),
        ("Proprietary", "other"),
        ("Research use only.", "other"),
        (None, "other"),
    ],
)
def test_a_card_names_licences_that_a_hub_knows(licence: str | None, shown: str) -> None:
    assert f"\nlicense: {shown}\n" in card("builtin", licence)


def test_a_card_says_how_sources_were_mixed() -> None:
    assert "mixed" not in card("builtin")
    text = card("builtin", mixture=[Share("Shop.csv", 2.0, 1000, 2000), Share("", 1.0, 500, 500)])
    said = "2,000 of the 1,000 in Shop.csv (weight 2), 500 of the 500 others (weight 1)."
    assert f"an epoch draws 2,500 pairs: {said}" in text
