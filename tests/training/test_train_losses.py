"""Losses against plain computations, gradient caching against the whole batch."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from clipsearch.training.grad_cache import Part, accumulated_backward, whole_backward  # noqa: E402
from clipsearch.training.losses import Side, clamp_temperature_, contrastive_loss  # noqa: E402

pytestmark = pytest.mark.torch


def side(count: int, captions: list[int] | None = None, seed: int = 0) -> Side:
    torch.manual_seed(seed)
    images, texts = (F.normalize(torch.randn(count, 8), dim=1) for _ in range(2))
    return Side(images, texts, torch.arange(count), torch.tensor(captions or list(range(count))))


def test_without_repeats_it_is_clips_loss() -> None:
    one, scale = side(12), torch.tensor(10.0)
    logits = scale * one.images @ one.texts.T
    right = torch.arange(12)
    expected = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    for targets in ("soft", "hard"):
        assert contrastive_loss(one, one, scale, targets=targets) == pytest.approx(float(expected), abs=1e-6)


def test_equal_captions_share_their_target() -> None:
    one, scale = side(4, [0, 1, 0, 2]), torch.tensor(5.0)
    logits = (scale * one.images @ one.texts.T).tolist()
    right = {0: [0, 2], 1: [1], 2: [0, 2], 3: [3]}

    def cross_entropy(rows: list[list[float]]) -> float:
        total = 0.0
        for number, row in enumerate(rows):
            norm = math.log(sum(math.exp(value) for value in row))
            total -= sum(row[column] - norm for column in right[number]) / len(right[number])
        return total / len(rows)

    columns = [list(column) for column in zip(*logits, strict=True)]
    expected = (cross_entropy(logits) + cross_entropy(columns)) / 2
    assert float(contrastive_loss(one, one, scale)) == pytest.approx(expected, abs=1e-5)
    assert float(contrastive_loss(one, one, scale, targets="hard")) != pytest.approx(expected, abs=1e-3)


def test_siglip_judges_every_pair_for_itself() -> None:
    one, scale, bias = side(3, [0, 0, 1]), torch.tensor(4.0), torch.tensor(-2.0)
    expected = 0.0
    for row in range(3):
        for column in range(3):
            logit = 4.0 * float(one.images[row] @ one.texts[column]) - 2.0
            sign = 1 if int(one.captions[row]) == int(one.captions[column]) else -1
            expected += math.log(1 + math.exp(-sign * logit))
    found = contrastive_loss(one, one, scale, bias, objective="siglip")
    assert float(found) == pytest.approx(expected / 3, abs=1e-5)


def test_the_temperature_is_clamped() -> None:
    log_scale = torch.tensor(9.0)
    clamp_temperature_(log_scale)
    assert float(log_scale) == pytest.approx(math.log(100))


class Towers(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.text = nn.Linear(5, 8)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def encode(self, part: Part) -> tuple[Tensor, Tensor]:
        return F.normalize(self.image(part.images), dim=1), F.normalize(self.text(part.texts), dim=1)

    def loss(self, images: Tensor, texts: Tensor, pictures: Tensor, captions: Tensor) -> Tensor:
        both = Side(images, texts, pictures, captions)
        return contrastive_loss(both, both, self.log_scale.exp())


def parts_of(sizes: list[int]) -> list[Part]:
    torch.manual_seed(3)
    count = sum(sizes)
    images, texts = torch.randn(count, 6), torch.randn(count, 5)
    pictures, captions = torch.arange(count), torch.arange(count) % (count - 2)
    parts, start = [], 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        parts.append(Part(images[rows], texts[rows], pictures[rows], captions[rows], 100 + number))
        start += size
    return parts


def gradients(towers: Towers) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in towers.named_parameters() if value.grad is not None}


def test_cached_gradients_are_those_of_the_whole_batch() -> None:
    whole, cached = Towers(0.0), Towers(0.0)
    expected = whole_backward(parts_of([24]), whole.encode, whole.loss)
    found = whole_backward(parts_of([7, 7, 7, 3]), cached.encode, cached.loss)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(cached)[name], gradient, atol=1e-5, rtol=1e-5)


def test_both_passes_of_a_cached_batch_drop_the_same_units() -> None:
    """The gradient must be that of the loss whose vectors were cached."""
    towers = Towers(0.5)
    parts = parts_of([6, 6])
    whole_backward(parts, towers.encode, towers.loss)
    found = gradients(towers)
    towers.zero_grad()
    vectors = []
    for part in parts:
        torch.manual_seed(part.seed)
        vectors.append(towers.encode(part))
    together = [torch.cat([pair[side] for pair in vectors]) for side in (0, 1)]
    numbers = [torch.cat([getattr(part, name) for part in parts]) for name in ("pictures", "captions")]
    towers.loss(*together, *numbers).backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(towers).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_accumulation_compares_within_parts_only() -> None:
    towers = Towers(0.0)
    parts = parts_of([8, 8])
    value = accumulated_backward(parts, towers.encode, towers.loss)
    alone = [towers.loss(*towers.encode(part), part.pictures, part.captions) for part in parts]
    assert float(value) == pytest.approx(sum(float(one.detach()) for one in alone) / 2, abs=1e-6)
    whole = whole_backward(parts_of([16]), Towers(0.0).encode, towers.loss)
    assert float(value) < float(whole) - 0.1
