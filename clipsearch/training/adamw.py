"""AdamW by PyTorch's own function. `torch.optim.AdamW` first loads the compiler, for a second of every run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

EPSILON = 1e-8


class AdamW:
    """The steps of `torch.optim.AdamW`, bit for bit. Groups have `params` and `weight_decay`, `state` the moments."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._betas = betas

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for value in group["params"]:
                if set_to_none:
                    value.grad = None
                elif value.grad is not None:
                    value.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Change what has a gradient."""
        for group in self.param_groups:
            changed = [value for value in group["params"] if value.grad is not None]
            for value in changed:
                if value not in self.state:
                    moments = {"exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
                    self.state[value] = {"step": torch.tensor(0.0), **moments}
            if not changed:
                continue
            adamw(
                changed,
                [value.grad for value in changed],
                [self.state[value]["exp_avg"] for value in changed],
                [self.state[value]["exp_avg_sq"] for value in changed],
                [],
                [self.state[value]["step"] for value in changed],
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=EPSILON,
                maximize=False,
            )
