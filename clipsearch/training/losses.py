"""Contrastive losses over a batch of pictures and captions. Knows neither models nor pairs.

Every loss takes the rows of this process and the columns of all processes, which in a run of one process are the
same: "local loss over gathered features". The mean of the processes' losses is the loss of the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["clip", "siglip"]
Targets = Literal["soft", "hard"]

LARGEST_LOG_SCALE = math.log(100.0)
"""CLIP's bound (Radford et al. 2021, section 2.5): beyond it training becomes unstable."""


@dataclass(frozen=True, slots=True)
class Side:
    """One batch as a loss sees it: vectors of unit length, and what each row is.

    Shapes: images and texts (B, D); pictures and captions (B,) int64, equal numbers meaning the same picture or
    the same caption; `wrong` (B, D), texts that are right for no picture (see `swapping`), where `counts` (B,) is 1.
    """

    images: Tensor
    texts: Tensor
    pictures: Tensor
    captions: Tensor
    wrong: Tensor | None = None
    counts: Tensor | None = None


def contrastive_loss(
    local: Side,
    everything: Side,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    first_row: int = 0,
    objective: Objective = "clip",
    targets: Targets = "soft",
) -> Tensor:
    """Return the loss of the rows of `local` against all of `everything`, as a scalar.

    `scale` is exp(log temperature), `bias` SigLIP's. `first_row`: where the rows of `local` lie in `everything`.
    `targets`: "soft" counts every caption equal to a row's own, and every caption of the same picture, as a match
    (ActionCLIP, Wang et al. 2021: the KL divergence to the matches' uniform distribution, which has the gradient of
    the cross-entropy with it); "hard" only the row's own.
    Wrong texts are more texts that a picture must not match (NegCLIP, Yuksekgonul et al. 2023). They match nothing, so
    no row asks which picture is theirs.
    """
    if targets == "soft":
        matches = _matches(local, everything)
    else:
        rows = torch.arange(len(local.images), device=local.images.device)
        matches = torch.zeros(len(local.images), len(everything.images), device=local.images.device)
        matches[rows, rows + first_row] = 1.0
    logits_of_images = scale * local.images @ everything.texts.T
    if objective == "siglip":
        if bias is not None:
            logits_of_images = logits_of_images + bias
        signs = 2 * matches - 1
        judged = F.logsigmoid(signs * logits_of_images).sum()
        if everything.wrong is not None and everything.counts is not None:
            logits = scale * local.images @ everything.wrong.T
            judged = judged + (F.logsigmoid(-(logits if bias is None else logits + bias)) * everything.counts).sum()
        return -judged / len(local.images)
    columns = logits_of_images.shape[1]
    if everything.wrong is not None and everything.counts is not None:
        logits = (scale * local.images @ everything.wrong.T).masked_fill(everything.counts == 0, -torch.inf)
        logits_of_images = torch.cat([logits_of_images, logits], dim=1)
    logits_of_texts = scale * local.texts @ everything.images.T
    share = matches / matches.sum(dim=1, keepdim=True)
    forth = -(share * logits_of_images.log_softmax(dim=1)[:, :columns]).sum(dim=1).mean()
    back = -(share * logits_of_texts.log_softmax(dim=1)).sum(dim=1).mean()
    return (forth + back) / 2


def _matches(local: Side, everything: Side) -> Tensor:
    """1.0 where a row and a column share their picture or their caption. Shape: (rows, columns); symmetric."""
    same_picture = local.pictures[:, None] == everything.pictures[None, :]
    same_caption = local.captions[:, None] == everything.captions[None, :]
    return (same_picture | same_caption).float()


def largest_log_scale(start: float) -> float:
    """The bound on the temperature: CLIP's, or where a model begins that is beyond it (SigLIP: 110 to 118)."""
    return max(LARGEST_LOG_SCALE, start)


def clamp_temperature_(log_scale: Tensor, largest: float = LARGEST_LOG_SCALE) -> None:
    """Keep the temperature within its bound, in place."""
    with torch.no_grad():
        log_scale.clamp_(max=largest)
