"""LoRA for open_clip's towers: low-rank changes to frozen weights (Hu et al. 2021), merged without a trace.

open_clip's blocks use `nn.MultiheadAttention`, whose projections are bare parameters handed to one fused function,
so no module can be wrapped around them. Here the weights themselves are parametrised: reading `in_proj_weight`
gives W + strength * (alpha / rank) * B @ A, whoever reads it. That covers attention, linear layers, 1x1 convolutions
and projection matrices with one mechanism, and merging is taking the sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipsearch.training.settings import LORA_TARGETS, InvalidSettings, LoraTarget


class LowRank(nn.Module):
    """The parametrisation of one weight. Shapes: down (rank, columns), up (rows, rank).

    A weight of more than two axes counts as (first axis, all others); `parts` equal blocks of rows (query, key and
    value of an attention) each get factors of their own.
    """

    def __init__(self, shape: torch.Size, rank: int, alpha: float, parts: int = 1) -> None:
        super().__init__()
        rows, columns = shape[0] // parts, math.prod(shape[1:])
        self.shape = shape
        self.scaling = alpha / rank
        self.strength = 1.0
        self.down = nn.Parameter(torch.empty(parts, rank, columns))
        self.up = nn.Parameter(torch.zeros(parts, rows, rank))
        for part in self.down:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        return weight + self.change().to(weight.dtype)

    def change(self) -> Tensor:
        """What is added to the weight, in its shape."""
        product = torch.bmm(self.up, self.down) * (self.scaling * self.strength)
        return product.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class LoraReport:
    """How much of a model LoRA trains: its own numbers, those of the model without it, and the rank of each weight."""

    trained: int
    total: int
    ranks: tuple[int, ...]

    @property
    def share(self) -> float:
        return self.trained / self.total

    def rank_notice(self, asked: int) -> str | None:
        """What there is to say of weights that got a lower rank than was asked for."""
        lower = [rank for rank in self.ranks if rank < asked]
        if not lower:
            return None
        many = "all" if len(lower) == len(self.ranks) else f"{len(lower):,} of {len(self.ranks):,}"
        least, most = min(lower), max(lower)
        span = f"rank {least}" if least == most else f"ranks from {least} to {most}"
        return (
            f"--rank {asked:,} is more than an eighth of the smaller side of {many} weights that LoRA changes: "
            f"these get {span}"
        )


def add_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[LoraTarget] = LORA_TARGETS,
    frozen: Callable[[str], bool] = lambda _: False,
) -> LoraReport:
    """Freeze a model and make its attention, linear and 1x1 convolution weights trainable through low ranks.

    Layer norms, biases, embeddings and larger convolutions stay as they are. The rank of a weight is at most an
    eighth of its smaller side. `targets`: the kinds of weights; `frozen`: whether the one of that name stays, too.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    model.requires_grad_(False)
    trained = 0
    ranks = []
    names = {id(module): name for name, module in model.named_modules()}
    for module, name, parts, kind in _targets(model):
        if kind not in targets or frozen(f"{names[id(module)]}.{name}".removeprefix(".")):
            continue
        weight: Tensor = getattr(module, name)
        rows, columns = weight.shape[0] // parts, math.prod(weight.shape[1:])
        fitting = max(1, min(rank, rows // 8, columns // 8))
        change = LowRank(weight.shape, fitting, alpha * fitting / rank, parts).to(weight.device)
        parametrize.register_parametrization(module, name, change, unsafe=True)
        trained += sum(parameter.numel() for parameter in change.parameters())
        ranks.append(fitting)
    return LoraReport(trained, total, tuple(ranks))


def check_targets(model: nn.Module, targets: Sequence[str], frozen: Callable[[str], bool]) -> None:
    """Raise InvalidSettings if a model has no weight of a kind that was asked for, or none that is not frozen."""
    names = {id(module): name for name, module in model.named_modules()}
    found = [(kind, f"{names[id(module)]}.{name}".removeprefix(".")) for module, name, _, kind in _targets(model)]
    kinds = {kind for kind, _ in found}
    missing = [target for target in targets if target not in kinds]
    if missing and set(targets) != set(LORA_TARGETS):
        raise InvalidSettings(
            f"--lora-target {missing[0]} fits no weight of the model",
            f"It has {', '.join(kind for kind in LORA_TARGETS if kind in kinds)}",
        )
    if all(kind not in targets or frozen(name) for kind, name in found):
        raise InvalidSettings("all weights that LoRA would change are frozen, so nothing can be trained", "Freeze less")


def merge_lora(model: nn.Module) -> None:
    """Write every change into its weight and take the parametrisation away.

    A parametrised module has a class of its own, which a deep copy shares and torch takes the properties from: without
    a class of this module's own, merging a copy would break what it was copied from.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            module.__class__ = type(type(module).__name__, type(module).__bases__, dict(vars(type(module))))
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def set_strength(model: nn.Module, strength: float) -> None:
    """Add `strength` times the learned change: 0 is the model that training began with, 1 the trained one."""
    for change in low_ranks(model):
        change.strength = strength


def low_ranks(model: nn.Module) -> list[LowRank]:
    """Every low-rank change in a model."""
    return [module for module in model.modules() if isinstance(module, LowRank)]


def _targets(model: nn.Module) -> list[tuple[nn.Module, str, int, LoraTarget]]:
    """(module, name of its weight, equal parts of its rows, kind) of all that LoRA can change."""
    found: list[tuple[nn.Module, str, int, LoraTarget]] = []
    inside_attention: set[int] = set()
    names = {id(module): name for name, module in model.named_modules()}
    for module in model.modules():
        kind: Any = module
        if isinstance(module, nn.MultiheadAttention):
            inside_attention.add(id(module.out_proj))
            if kind.in_proj_weight is not None:
                found.append((module, "in_proj_weight", 3, "attention"))
            else:
                found += [(module, f"{part}_proj_weight", 1, "attention") for part in "qkv"]
            found.append((module.out_proj, "weight", 1, "attention"))
    for module in model.modules():
        if id(module) in inside_attention:
            continue
        for name in ("proj", "text_projection"):  # open_clip's projections into the joint space, (width, D)
            if isinstance(matrix := getattr(module, name, None), nn.Parameter) and matrix.ndim == 2:
                found.append((module, name, 1, "projection"))
        if isinstance(module, nn.Linear):
            name = names[id(module)]
            own: LoraTarget = "attention" if re.search(r"attn|attention", name) else "mlp"
            found.append((module, "weight", 1, own if re.search(r"\d", name) else "projection"))
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            found.append((module, "weight", 1, "convolution"))
    return found
