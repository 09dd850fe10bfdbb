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

Vectors = tuple[Tensor, ...]
"""Of pictures, of captions, and where a batch has them, of wrong captions: as many of each."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a batch: what the towers take, what the loss asks, and the seed of what is random in them.

    Shapes: images (B, ...), texts (B, ...), pictures and captions (B,) int64, wrong as texts, counts (B,) float32.
    """

    images: Tensor
    texts: Tensor
    pictures: Tensor
    captions: Tensor
    seed: int
    wrong: Tensor | None = None
    counts: Tensor | None = None


class Loaded(NamedTuple):
    """The rows of a step: inputs of both towers, and numbers that are equal for the same picture or caption.

    `wrong`: for each row a caption that is right for no picture, where `counts` is 1.
    """

    images: Tensor
    texts: Tensor
    pictures: Tensor
    captions: Tensor
    wrong: Tensor | None = None
    counts: Tensor | None = None

    def part(self, rows: slice, seed: int) -> Part:
        """Some of the rows."""
        images, texts, pictures, captions = (tensor[rows] for tensor in self[:4])
        if self.wrong is None or self.counts is None:
            return Part(images, texts, pictures, captions, seed)
        return Part(images, texts, pictures, captions, seed, self.wrong[rows], self.counts[rows])


class Encode(Protocol):
    """Unit vectors of a part's pictures and captions."""

    def __call__(self, part: Part) -> Vectors: ...


Loss = Callable[..., Tensor]
"""Of image vectors, text vectors, picture numbers, caption numbers; of vectors of wrong captions and their counts."""


def whole_backward(
    parts: Sequence[Part], encode: Encode, loss: Loss, scale_loss: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Accumulate the gradients of the loss over all parts as one batch; returns the loss.

    One part is done at once, several by gradient caching. `scale_loss`: a GradScaler's, for fp16.
    """
    if len(parts) == 1:
        value = _loss_of(parts, _seeded(parts[0], encode), loss)
        _backward(value, scale_loss)
        return value.detach()
    with torch.no_grad():
        cached = [_seeded(part, encode) for part in parts]
    whole = tuple(torch.cat(vectors).detach().requires_grad_() for vectors in zip(*cached, strict=True))
    value = _loss_of(parts, whole, loss)
    _backward(value, scale_loss)  # reaches the vectors, the temperature and the bias
    start = 0
    for part in parts:
        rows = slice(start, start + len(part.pictures))
        start = rows.stop
        both = zip(_seeded(part, encode), (vectors.grad for vectors in whole), strict=True)
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
        value = _loss_of([part], _seeded(part, encode), loss) / len(parts)
        _backward(value, scale_loss)
        total += value.detach()
    return total


def _loss_of(parts: Sequence[Part], vectors: Vectors, loss: Loss) -> Tensor:
    """Of all rows of the parts, whose vectors are given."""
    images, texts, *wrong = vectors
    numbers = [torch.cat([getattr(part, name) for part in parts]) for name in ("pictures", "captions")]
    counts = [part.counts for part in parts if part.counts is not None] if wrong else []
    return loss(images, texts, *numbers, *wrong, *([torch.cat(counts)] if counts else []))


def _seeded(part: Part, encode: Encode) -> Vectors:
    """Encode with the part's own random numbers: the same dropout in both passes."""
    torch.manual_seed(part.seed)
    return encode(part)


def _backward(value: Tensor, scale_loss: Callable[[Tensor], Tensor] | None) -> None:
    scaled = value if scale_loss is None else scale_loss(value)
    scaled.backward()  # type: ignore[no-untyped-call]
