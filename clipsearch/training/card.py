"""The card of a trained model: what it was made from, how, and what was measured, for whoever gets it next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from clipsearch.encoder.hub import ORGANISATION, is_export_name
from clipsearch.filenames import readable
from clipsearch.training.mixing import Share, mixing_notice
from clipsearch.training.split import FOLDS

if TYPE_CHECKING:
    from clipsearch.training.run import TrainReport

_HUB_LICENCES = (
    "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0",
    "cc0-1.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0", "openrail", "unlicense",
)  # fmt: skip
"""A hub refuses a card with another word there, as it does with a base model that it does not have."""
_MEASURES = ("r1", "r5", "r10")


def public_name(model: str) -> str:
    """A model's name for others: of a folder its last part, since where it lies is nobody's business."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


def model_card(outcome: TrainReport, settings: dict[str, Any], sources: Sequence[str], licence: str | None) -> str:
    """Return the card as Markdown. `settings`: as run.json has them; `sources`: only their names are given."""
    names = ", ".join(f"`{readable(PurePath(source).name)}`" for source in sources)
    changed = {name: value for name, value in settings.items() if value not in (None, (), [], {}) and name != "method"}
    turns = ", in turns" if outcome.folds else ""
    if 0 < outcome.folds < FOLDS:
        turns = f", in {outcome.folds} of {FOLDS} turns"
    made, unapplied = "fine-tuned", ""
    if outcome.alpha == 0:
        made, unapplied = "trained", ", but no trained weights are applied: it finds what the original finds"
    mixed = []
    if outcome.mixture:
        mixed = [f"Where sources were mixed, {mixing_notice([Share(**share) for share in outcome.mixture])}.", ""]
    lines = [
        "---",
        f"license: {licence.lower() if licence and licence.lower() in _HUB_LICENCES else 'other'}",
        "library_name: clipsearch",
        "pipeline_tag: zero-shot-image-classification",
        *([f"base_model: {ORGANISATION}/{outcome.model}"] if is_export_name(outcome.model) else []),
        "---",
        "",
        f"# {PurePath(outcome.run).name}",
        "",
        f"`{public_name(outcome.model) or 'A model in memory'}`, {made} by clipsearch (`{outcome.method}`) on "
        f"{outcome.pairs:,} pairs of pictures and captions from {names}{unapplied}.",
        "",
        f"{outcome.steps:,} steps of {outcome.batch:,} pairs; the weights are those of epoch {outcome.best_epoch}, "
        f"{outcome.alpha:.0%} of the change from the original ones (WiSE-FT). Image tower: `{outcome.fingerprint}`"
        f"{', that of the original' if outcome.same_images else ''}.",
        "",
        *mixed,
        "## Measured",
        "",
        "| text to image, % | R@1 | R@5 | R@10 |",
        "|---|---:|---:|---:|",
    ]
    for title, before, after in (
        (f"{outcome.dev_pairs:,} held-out pairs{turns}", outcome.dev_before, outcome.dev_after),
        (f"{outcome.anchor_pairs:,} general pairs", outcome.anchor_before, outcome.anchor_after),
    ):
        cells = [f"{before[f'text_to_image_{k}']:.1f} → {after[f'text_to_image_{k}']:.1f}" for k in _MEASURES]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        f"On the held-out pairs the model is **{outcome.verdict}** "
        "(intervals of recall@1, 5, 10 and the median rank that all hold in 95 of 100 cases). The epoch and the "
        "weight of the change were chosen on these pairs, so expect slightly smaller gains on others; the verdict "
        "allows for it.",
        "",
        "## Use",
        "",
        "```",
        "clipsearch index FOLDER --model MODEL_DIRECTORY",
        "```",
        "",
        "## Limits and terms",
        "",
        "The model knows what its pairs show and say, with their gaps and biases. The terms of the original model and "
        "of the pairs apply to it. "
        + (f"Of the original: {licence.rstrip('.')}." if licence else "The original names no licence."),
        "",
        "## Settings",
        "",
        *(f"- `{name}`: {value}" for name, value in sorted(changed.items())),
    ]
    return "\n".join(lines) + "\n"
