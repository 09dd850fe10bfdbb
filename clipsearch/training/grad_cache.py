"""The backward pass of a contrastive batch: at once, by gradient caching, or accumulated.

A contrastive loss compares every picture of a batch with every caption of it, so it cannot be split into parts whose
gradients add up. Gradient caching (GradCache, Gao et al. 2021) computes the vectors of all parts without keeping what
a backward pass needs, takes the gradient of the loss with respect to the vectors, and runs the parts again, one by
one, to carry it on: exactly the gradient of the whole batch, for the memory of one part and a second forward pass.
Plain accumulation averages the losses of the parts instead: less work, but each row then meets the negatives of its
own part only. The two agree where there is one part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Vectors = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a batch: what the towers take, what the loss asks, and the seed of what is random in them.

    Shapes: images (B, ...), texts (B, ...), pictures and captions (B,) int64.
    """

    images: Tensor
    texts: Tensor
    pictures: Tensor
    captions: Tensor
    seed: int


class Loaded(NamedTuple):
    """The rows of a step: inputs of both towers, and numbers that are equal for the same picture or caption."""

    images: Tensor
    texts: Tensor
    pictures: Tensor
    captions: Tensor


class Encode(Protocol):
    """Unit vectors of a part's pictures and captions."""

    def __call__(self, part: Part) -> Vectors: ...


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of image vectors, text vectors, picture numbers, caption numbers."""


def whole_backward(
    parts: Sequence[Part], encode: Encode, loss: Loss, scale_loss: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Accumulate the gradients of the loss over all parts as one batch; returns the loss.

    One part is done at once, several by gradient caching. `scale_loss`: a GradScaler's, for fp16.
    """
    if len(parts) == 1:
        images, texts = _seeded(parts[0], encode)
        value = loss(images, texts, parts[0].pictures, parts[0].captions)
        _backward(value, scale_loss)
        return value.detach()
    with torch.no_grad():
        cached = [_seeded(part, encode) for part in parts]
    images = torch.cat([pair[0] for pair in cached]).detach().requires_grad_()
    texts = torch.cat([pair[1] for pair in cached]).detach().requires_grad_()
    pictures = torch.cat([part.pictures for part in parts])
    captions = torch.cat([part.captions for part in parts])
    value = loss(images, texts, pictures, captions)
    _backward(value, scale_loss)  # reaches the vectors, the temperature and the bias
    start = 0
    for part in parts:
        rows = slice(start, start + len(part.pictures))
        start = rows.stop
        both = zip(_seeded(part, encode), (images.grad, texts.grad), strict=True)
        # A frozen tower's vectors have no gradient to carry on.
        pairs = [
            (vectors, gradient[rows]) for vectors, gradient in both if vectors.requires_grad and gradient is not None
        ]
        if pairs:
            torch.autograd.backward([vectors for vectors, _ in pairs], [gradient for _, gradient in pairs])
    return value.detach()


def accumulated_backward(
    parts: Sequence[Part], encode: Encode, loss: Loss, scale_loss: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Accumulate the gradients of the mean of the parts' own losses; returns that mean."""
    total = torch.zeros((), device=parts[0].images.device)
    for part in parts:
        images, texts = _seeded(part, encode)
        value = loss(images, texts, part.pictures, part.captions) / len(parts)
        _backward(value, scale_loss)
        total += value.detach()
    return total


def _seeded(part: Part, encode: Encode) -> Vectors:
    """Encode with the part's own random numbers: the same dropout in both passes."""
    torch.manual_seed(part.seed)
    return encode(part)


def _backward(value: Tensor, scale_loss: Callable[[Tensor], Tensor] | None) -> None:
    scaled = value if scale_loss is None else scale_loss(value)
    scaled.backward()  # type: ignore[no-untyped-call]
