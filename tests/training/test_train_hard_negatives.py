"""Hard negatives: captions made wrong, near pairs in one batch, and the losses of both against plain sums."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from clipsearch.pairs.reading import Pair, PairSet, PictureSource  # noqa: E402
from clipsearch.training.feature_cache import CachedPairs, Features, WrongCaptions  # noqa: E402
from clipsearch.training.grad_cache import Loaded, Part, accumulated_backward, whole_backward  # noqa: E402
from clipsearch.training.heads import HeadsTrainee  # noqa: E402
from clipsearch.training.loop import Loop  # noqa: E402
from clipsearch.training.losses import Objective, Side, contrastive_loss  # noqa: E402
from clipsearch.training.mining import mined_places  # noqa: E402
from clipsearch.training.order import Order  # noqa: E402
from clipsearch.training.run_folder import RunFolder  # noqa: E402
from clipsearch.training.settings import InvalidSettings, Settings  # noqa: E402
from clipsearch.training.swapping import choice_of, swapped, swapping_notice, usable  # noqa: E402
from tests.training.test_train_plan import EXAMPLES  # noqa: E402

pytestmark = pytest.mark.torch

# --- captions made wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a red boat and a blue hill", "a blue boat and a red hill"),
        ("Nike Men Black T-shirt", "Nike Men Green T-shirt"),
        ("TWO DOGS", "SEVEN DOGS"),
        ("3 cats", "5 cats"),
        ("Hund jagt eine Katze", "Katze jagt eine Hund"),
        ("ein Hund, der Katzen jagt", "ein Katzen, der Hund jagt"),
    ],
)
def test_what_can_be_swapped(caption: str, wrong: str) -> None:
    seen = {text for ending in range(60) for text in swapped(caption + " " * ending)}
    assert wrong in {text.rstrip() for text in seen}


@pytest.mark.parametrize("caption", ["", "a", "shoes", "a cat and a dog", "the dog next to a cat", "2019", "猫が二匹"])
def test_what_cannot_be_swapped(caption: str) -> None:
    assert swapped(caption) == []


@pytest.mark.parametrize(
    ("caption", "true", "wrong"),
    [
        ("two dogs and two cats", "two cats and two dogs", None),
        ("a photo of two dogs with two cats on a beach", "a photo of two cats with two dogs on a beach", None),
        (
            "a man in a red shirt next to a man in a blue shirt",
            "a man in a blue shirt next to a man in a red shirt",
            None,
        ),
        (
            "a red dog, a white cat and a red bird",
            "a red bird, a white cat and a red dog",
            "a red cat, a white dog and a ",
        ),
        ("a man eating and a man drinking", "a man drinking and a man eating", None),
        ("a man with a red hat and a woman with a red coat", None, "a man with a red coat and a woman with a red hat"),
        ("a red cup on a red table", None, "a red table on a red cup"),
        ("a red car and a big red bus", None, "a red bus and a big red car"),
    ],
)
def test_what_may_change_sides_is_not_swapped(caption: str, true: str | None, wrong: str | None) -> None:
    seen = {text.rstrip() for ending in range(200) for text in swapped(caption + " " * ending)}
    assert true not in seen
    assert wrong is None or any(text.startswith(wrong) for text in seen)


def test_swaps_are_never_another_name_for_the_same() -> None:
    for caption in ("a navy shirt", "a grey wall", "silver ring", "a black and white dog", "golden gate"):
        families = ({"navy", "blue", "teal", "turquoise"}, {"grey", "gray", "silver", "charcoal"}, {"gold", "yellow"})
        for text in swapped(caption):
            for family in families:
                if family & set(caption.split()):
                    assert not family & set(text.split())
    assert "a white and black dog" not in swapped("a black and white dog")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.sampled_from(["a", "Red", "blue", "dog", "TWO", "on", ",", "3", "猫", "navy-"])).map(" ".join))
def test_swaps_are_few_different_and_always_the_same(caption: str) -> None:
    found = swapped(caption)
    assert found == swapped(caption)
    assert len(found) <= 4
    assert len({text.casefold() for text in (*found, caption)}) == len(found) + 1
    if found:
        assert choice_of(np.arange(64) * 16, np.full(64, len(found))).max() < len(found)


def test_a_wrong_caption_that_some_pair_has_is_none() -> None:
    def readings(texts: list[str]) -> list[bytes]:
        return [text.lower()[:12].encode() for text in texts]  # cleaned and truncated

    known = set(readings(["A RED BOAT", "a blue boat", "a white boat that is large"]))
    variants = [["a blue boat", "a green boat"], ["A White Cat!"], ["a white boat that was large"], []]
    assert usable(variants, readings, known) == [["a green boat"], ["A White Cat!"], [], []]
    assert usable([[], []], readings, known) == [[], []]


def test_captions_without_anything_to_swap_are_refused() -> None:
    def pairs_of(*captions: str) -> PairSet:
        return PairSet([Pair(str(n), (text,), PictureSource("none", 1)) for n, text in enumerate(captions)])

    assert swapping_notice(pairs_of("a red dog", "shoes")).startswith("1 of 2 captions")
    with pytest.raises(InvalidSettings, match="Leave out --hard-negatives"):
        swapping_notice(pairs_of("shoes", "hats"))


# --- losses ----------------------------------------------------------------------------------------------


def unit(count: int) -> Tensor:
    return F.normalize(torch.randn(count, 8, dtype=torch.float64), dim=1)


def side(count: int, seed: int = 0) -> Side:
    torch.manual_seed(seed)
    pictures, captions = torch.arange(count) % (count - 1), torch.arange(count) // 2 * 2
    return Side(unit(count), unit(count), pictures, captions, unit(count), (torch.arange(count) % 3 > 0).double())


def same(one: Side, row: int, column: int) -> bool:
    return bool(one.pictures[row] == one.pictures[column] or one.captions[row] == one.captions[column])


def plain_clip(one: Side, scale: float, targets: str, rows: range | None = None) -> float:
    """NegCLIP's loss, term by term."""
    assert one.wrong is not None and one.counts is not None
    count, total = len(one.images), 0.0
    for row in rows or range(count):
        right = [column for column in range(count) if column == row or (targets == "soft" and same(one, row, column))]
        forth = [scale * float(one.images[row] @ text) for text in one.texts]
        more = [scale * float(one.images[row] @ one.wrong[other]) for other in range(count) if one.counts[other]]
        back = [scale * float(one.texts[row] @ picture) for picture in one.images]
        for logits, others in ((forth, more), (back, [])):
            norm = math.log(sum(math.exp(value) for value in (*logits, *others)))
            total -= sum(logits[column] - norm for column in right) / len(right)
    return total / 2 / len(rows or range(count))


def plain_siglip(one: Side, scale: float, bias: float, rows: range | None = None) -> float:
    assert one.wrong is not None and one.counts is not None
    count, total = len(one.images), 0.0
    for row in rows or range(count):
        for column in range(count):
            logit = scale * float(one.images[row] @ one.texts[column]) + bias
            total += math.log1p(math.exp(-logit if same(one, row, column) else logit))
            if one.counts[column]:
                total += math.log1p(math.exp(scale * float(one.images[row] @ one.wrong[column]) + bias))
    return total / len(rows or range(count))


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_wrong_captions_in_clips_loss(targets: Any) -> None:
    one, scale = side(7), torch.tensor(6.0, dtype=torch.float64)
    found = float(contrastive_loss(one, one, scale, targets=targets))
    assert found == pytest.approx(plain_clip(one, 6.0, targets), abs=1e-6)
    without = Side(one.images, one.texts, one.pictures, one.captions)
    assert found > float(contrastive_loss(without, without, scale, targets=targets)) + 1e-3


def test_wrong_captions_in_siglips_loss() -> None:
    one, scale, bias = side(7), torch.tensor(5.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    found = contrastive_loss(one, one, scale, bias, objective="siglip")
    assert float(found) == pytest.approx(plain_siglip(one, 5.0, -3.0), abs=1e-6)


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_processes_with_a_part_of_the_rows_each_see_all_wrong_captions(objective: Any) -> None:
    whole, scale, bias = side(8), torch.tensor(5.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    total = 0.0
    for start in (0, 4):
        local = Side(*(getattr(whole, name)[start : start + 4] for name in Side.__slots__))
        value = contrastive_loss(local, whole, scale, bias, first_row=start, objective=objective)
        rows = range(start, start + 4)
        expected = plain_clip(whole, 5.0, "soft", rows) if objective == "clip" else plain_siglip(whole, 5.0, -3.0, rows)
        assert float(value) == pytest.approx(expected, abs=1e-6)
        total += float(value) / 2
    assert total == pytest.approx(float(contrastive_loss(whole, whole, scale, bias, objective=objective)), abs=1e-6)


def test_a_wrong_caption_that_does_not_count_changes_nothing() -> None:
    one = side(5)
    none = torch.zeros(5, dtype=torch.float64)
    images = one.images.clone().requires_grad_()
    wrong = unit(5).requires_grad_()
    silent = Side(images, one.texts, one.pictures, one.captions, wrong, none)
    plain = Side(one.images, one.texts, one.pictures, one.captions)
    for objective in get_args(Objective):
        value = contrastive_loss(silent, silent, torch.tensor(5.0), objective=objective)
        expected = contrastive_loss(plain, plain, torch.tensor(5.0), objective=objective)
        assert float(value.detach()) == pytest.approx(float(expected), abs=1e-12)
        value.backward()  # type: ignore[no-untyped-call]
    assert wrong.grad is not None
    assert not wrong.grad.any()
    assert images.grad is not None
    assert images.grad.isfinite().all()


class Towers(nn.Module):
    def __init__(self, objective: str = "clip") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(6, 8).double(), nn.Linear(5, 8).double()
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))
        self.objective: Any = objective

    def encode(self, part: Part) -> tuple[Tensor, ...]:
        assert part.wrong is not None
        texts = F.normalize(self.text(torch.cat([part.texts, part.wrong])), dim=1)
        return F.normalize(self.image(part.images), dim=1), texts[: len(part.texts)], texts[len(part.texts) :]

    def loss(self, *rows: Tensor) -> Tensor:
        both = Side(*rows)
        return contrastive_loss(both, both, self.log_scale.exp(), self.bias, objective=self.objective)


def parts_of(sizes: list[int]) -> list[Part]:
    torch.manual_seed(3)
    count = sum(sizes)
    images, texts, wrong = (torch.randn(count, width, dtype=torch.float64) for width in (6, 5, 5))
    counts = (torch.arange(count) % 4 > 0).double()
    loaded = Loaded(images, texts, torch.arange(count), torch.arange(count) % (count - 2), wrong, counts)
    starts = itertools.accumulate(sizes, initial=0)
    return [loaded.part(slice(start, start + size), 0) for start, size in zip(starts, sizes, strict=False)]


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_cached_gradients_with_wrong_captions_are_those_of_the_whole_batch(objective: str) -> None:
    whole, cached = Towers(objective), Towers(objective)
    [part] = parts_of([13])
    expected = whole_backward([part], whole.encode, whole.loss)
    found = whole_backward(parts_of([4, 4, 5]), cached.encode, cached.loss)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)
    for one, other in zip(whole.parameters(), cached.parameters(), strict=True):
        if one.grad is not None or other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-9, rtol=1e-9)
    images, texts, wrong = (vectors.detach() for vectors in whole.encode(part))
    assert part.counts is not None
    batch = Side(images, texts, part.pictures, part.captions, wrong, part.counts)
    scale, bias = float(whole.log_scale.detach().exp()), float(whole.bias.detach())
    plain = plain_clip(batch, scale, "soft") if objective == "clip" else plain_siglip(batch, scale, bias)
    assert float(expected) == pytest.approx(plain, abs=1e-6)


def test_accumulated_parts_have_their_own_wrong_captions() -> None:
    towers = Towers()
    parts = parts_of([6, 6])
    value = accumulated_backward(parts, towers.encode, towers.loss)
    alone = [float(whole_backward([part], Towers().encode, Towers().loss)) for part in parts]
    assert float(value) == pytest.approx(sum(alone) / 2, abs=1e-6)


# --- mined batches ---------------------------------------------------------------------------------------


def clusters(count: int, each: int, seed: int = 0) -> tuple[Any, Any]:
    """Vectors around `count` far centres, in random order, and the number of each one's centre."""
    random = np.random.default_rng(seed)
    centres = np.eye(count, dtype=np.float32)
    numbers = random.permutation(np.repeat(np.arange(count), each))
    vectors = centres[numbers] + 0.05 * random.normal(size=(count * each, count)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), numbers


def test_near_pairs_stand_together() -> None:
    vectors, numbers = clusters(12, 4)
    all_different = np.arange(48)
    places = mined_places(vectors, all_different, all_different, np.random.default_rng(1), group=4)
    assert sorted(places.tolist()) == list(range(48))
    assert all(len(set(numbers[own])) == 1 for own in places.reshape(12, 4))
    again = mined_places(vectors, all_different, all_different, np.random.default_rng(2), group=4)
    assert [numbers[own[0]] for own in places.reshape(12, 4)] != [numbers[own[0]] for own in again.reshape(12, 4)]


def test_the_same_caption_or_picture_is_no_reason_to_stand_together() -> None:
    vectors = np.repeat(np.eye(6, dtype=np.float32), 4, axis=0)  # four copies of six
    copies, different = np.repeat(np.arange(6), 4), np.arange(24)
    for pictures, captions in ((copies, different), (different, copies)):
        places = mined_places(vectors, pictures, captions, np.random.default_rng(0), group=2)
        together = [len({copies[one], copies[other]}) for one, other in places.reshape(12, 2)]
        assert together.count(2) >= 10  # the last ones have only their copies left


@settings(max_examples=EXAMPLES, deadline=None)
@given(count=st.integers(1, 70), group=st.integers(2, 9), pool=st.integers(1, 40), seed=st.integers(0, 5))
def test_no_pair_is_lost_in_mining(count: int, group: int, pool: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 4)).astype(np.float32)
    numbers = random.integers(0, 5, count)
    places = mined_places(vectors, np.arange(count), numbers, random, group, pool)
    assert sorted(places.tolist()) == list(range(count))


def test_an_order_of_its_own_shows_the_same_with_all_that_belongs_to_it() -> None:
    first = np.array([0, 2, 3, 7, 8, 9, 11])
    plain, mined = Order(first, 2, 5, processes=2), Order(first, 2, 5, processes=2)
    mined.regroup(1, np.array([5, 3, 1, 0, 2, 4]))

    def drawn(order: Order, epoch: int) -> list[tuple[int, int, int]]:
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        draws = [order.draw(step, rank, 2) for step in steps for rank in range(2)]
        columns = [
            np.concatenate([getattr(draw, name) for draw in draws]) for name in ("pictures", "captions", "seeds")
        ]
        return list(zip(*(column.tolist() for column in columns), strict=True))

    assert drawn(mined, 0) == drawn(plain, 0)
    before, after = drawn(plain, 1), drawn(mined, 1)
    assert after == [before[place] for place in (5, 3, 1, 0, 2, 4)]
    assert mined.shown(1).tolist() == [picture for picture, _, _ in before]


# --- whole runs ------------------------------------------------------------------------------------------


class Model:
    """What `heads` asks of a model whose features are cached."""

    dim, score_scale = 8, 20.0


def cached(count: int, *, wrong: bool) -> CachedPairs:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2, count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    images, texts = (Features(np.tanh(3 * side), side) for side in vectors)
    numbers = np.arange(count)
    made = None
    if wrong:  # of each caption but the last one: another caption
        made = WrongCaptions(texts, np.roll(numbers, 7)[:-1], np.minimum(np.arange(count + 1), count - 1))
    return CachedPairs([images], texts, numbers, numbers, np.arange(count + 1), 0, numbers, numbers, made)


def loop_for(folder: Path, pairs: CachedPairs, **options: Any) -> Loop:
    chosen = Settings("heads", batch=16, gate=False, keep_general=0.0, views=1, patience=99, **options)
    trainee = HeadsTrainee(Model(), pairs, {"dev": pairs}, chosen)  # type: ignore[arg-type]
    run = RunFolder(folder)
    if not folder.exists():
        run.create({})
    return Loop(trainee, Order(pairs.first_caption, 16, chosen.seed), chosen, run)


def weights_of(loop: Loop) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in loop.parameters.items()}


@pytest.mark.parametrize("kind", ["captions", "mined", "both"])
def test_a_run_with_hard_negatives_goes_on_to_the_same_weights(kind: Any, tmp_path: Path) -> None:
    pairs = cached(40, wrong=kind != "mined")
    options: dict[str, Any] = {"epochs": 3, "hard_negatives": kind}
    whole = loop_for(tmp_path / "whole", pairs, **options)
    whole.run()
    assert len({row["loss"] for row in whole.progress.rows}) == 4
    stopped = loop_for(tmp_path / "stopped", pairs, **options)
    for step in range(4):  # in the middle of the second epoch, whose order follows from weights that change
        stopped._step(step)
        stopped.progress.step += 1
        if stopped.progress.step == 3:
            stopped._end_epoch(1)
    stopped.save()
    resumed = loop_for(tmp_path / "stopped", pairs, **options)
    resumed.run()
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(resumed)[name]), name
    plain = loop_for(tmp_path / "plain", cached(40, wrong=False), epochs=3)
    plain.run()
    assert any(not torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(plain).items())
