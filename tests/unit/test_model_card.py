"""Cards of trained models: what a hub accepts, and nothing about where things lie on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from clipsearch.cli.train import _print_outcome
from clipsearch.training.card import model_card
from clipsearch.training.mixing import Share
from clipsearch.training.run import TrainReport

RECALL = {f"text_to_image_r{k}": 1.0 for k in (1, 5, 10)}


def outcome_of(model: str, alpha: float = 0.5, **more: Any) -> TrainReport:
    return TrainReport(
        "/home/ann/runs/products", model, "heads", 60, 30, 117, 0, 10, 3, alpha, RECALL, RECALL, RECALL, RECALL, 0.0,
        3.0, "0" * 32, False, 1.0, **more,
    )  # fmt: skip


def card(model: str, licence: str | None = None, mixture: list[Share] | None = None, alpha: float = 0.5) -> str:
    report = outcome_of(model, alpha, mixture=[asdict(share) for share in mixture or []])
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


def test_a_card_does_not_call_a_model_fine_tuned_that_is_the_original() -> None:
    assert "fine-tuned" not in card("builtin", alpha=0.0)
    assert "no trained weights are applied" in card("builtin", alpha=0.0)


@pytest.mark.parametrize(
    ("alpha", "verdict", "weights", "said", "advice"),
    [
        (0.5, "better", 11, "training helped: median rank 0 -> 0", "Use it with: clipsearch index"),
        (0.5, "unclear", 11, "! training did not measurably improve", "To use it anyway: clipsearch index"),
        (0.5, "worse", 11, "! training made held-out recall worse: keep your current model", None),
        (0.0, "unclear", 11, "! training did not improve held-out recall, with any weight: keep your current", None),
        (0.0, "unclear", 2, "no trained weights were applied (--alpha 0)", None),
    ],
)
def test_only_a_model_that_is_worth_it_is_said_to_be_used(
    alpha: float, verdict: Any, weights: int, said: str, advice: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    recalls = {f"text_to_image_r{k}": 1.0 for k in (1, 5, 10)}
    outcome = outcome_of(
        "builtin", alpha, verdict=verdict, weighings=[recalls] * weights, dev_changes={"r1": [1, 0, 2]}
    )
    _print_outcome(outcome, accepted=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(said) for line in lines)
    assert [line[: len(advice or "")] for line in lines if "FOLDER" in line] == ([advice] if advice else [])
    assert not any("is the same" in line for line in lines)
