"""Weights of sources: what an epoch draws, which sources they mean, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import InvalidPairs
from clipsearch.pairs.reading import open_pairs
from clipsearch.training.mixing import make_order, mixing_notice, parse_weight, weights_of
from clipsearch.training.order import Order
from clipsearch.training.settings import InvalidSettings, Settings
from tests.support.training_pairs import write_pairs
from tests.training.test_train_plan import EXAMPLES


def drawn(order: Order, epoch: int, processes: int = 1) -> list[int]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return [
        number
        for step in steps
        for rank in range(processes)
        for number in order.draw(step, rank, processes).pictures.tolist()
    ]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 8), min_size=1, max_size=80),
    batch=st.integers(1, 60),
    processes=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 3),
)
def test_an_epoch_shows_each_picture_as_often_as_its_weight_says(
    weights: list[float], batch: int, processes: int, seed: int
) -> None:
    given = np.array(weights, dtype=np.float32)
    order = Order(np.arange(len(given) + 1), batch, seed, processes, given)
    assert order.pairs == max(1, round(float(given.sum(dtype=np.float64))))
    expected = given.astype(np.float64) * order.pairs / given.sum(dtype=np.float64)
    for epoch in range(2):
        seen = drawn(order, epoch, processes)
        assert 0 <= len(seen) - order.pairs < processes
        times = np.bincount(seen[: order.pairs], minlength=len(given))
        assert (times > expected - 1 - 1e-6).all()
        assert (times < expected + 1 + 1e-6).all()


def test_over_the_epochs_nothing_is_left_out_and_nothing_repeats_in_a_batch() -> None:
    weights = np.repeat(np.array([0.25, 1.0, 3.0], np.float32), [40, 50, 20])  # 10 + 50 + 60 an epoch
    order = Order(np.arange(111), 12, 0, 1, weights)
    epochs = 40
    times = np.bincount([number for epoch in range(epochs) for number in drawn(order, epoch)], minlength=110)
    assert times[40:].tolist() == [epochs] * 50 + [3 * epochs] * 20
    assert times[:40].sum() == pytest.approx(10 * epochs, abs=epochs)
    assert times[:40].min() >= 1  # each has a chance of 1 in 100,000 never to be drawn
    batches = [order.draw(step).pictures.tolist() for step in range(epochs * order.steps_per_epoch)]
    assert all(len(set(batch)) == len(batch) for batch in batches)  # three times an epoch of ten batches, a third apart


def test_a_picture_that_is_shown_again_has_another_view_and_caption() -> None:
    order = Order(np.arange(0, 2_001, 100), 40, 0, 1, np.full(20, 2.0, np.float32))
    draw = order.draw(0)
    assert sorted(draw.pictures.tolist()) == sorted([*range(20)] * 2)
    assert (draw.captions // 100 == draw.pictures).all()
    assert len(set(draw.seeds.tolist())) == 40
    assert len(set(draw.captions.tolist())) > 30


def test_processes_share_what_one_would_draw_and_any_step_can_be_made_again() -> None:
    weights = np.repeat(np.array([0.5, 2.0], np.float32), [40, 20])
    alone = Order(np.arange(61), 12, 3, 1, weights)
    for step in (0, 7, 3, 12):
        together = Order(np.arange(61), 12, 3, 2, weights)  # without having drawn what comes before
        halves = [together.draw(step, rank, 2) for rank in range(2)]
        whole = alone.draw(step)
        for name in ("pictures", "captions", "seeds"):
            assert [*getattr(halves[0], name), *getattr(halves[1], name)] == getattr(whole, name).tolist()


def test_without_weights_the_steps_are_those_of_earlier_versions() -> None:
    draw = Order(np.array([0, 2, 3, 7, 8]), 3, 5).draw(1)
    assert draw.pictures.tolist() == [2, 0]
    assert draw.captions.tolist() == [3, 1]
    assert draw.seeds.tolist() == [877189529, 1735039634]


def test_weights_belong_to_the_sources_that_they_name(tmp_path: Path) -> None:
    for name, count, first in (("a", 4, 0), ("b", 6, 10), ("c", 2, 20)):
        write_pairs(tmp_path / name, count, first=first)
    pairs = open_pairs([tmp_path / "a", tmp_path / "[bc]"])
    assert weights_of(pairs, {}) is None
    found = weights_of(pairs, {str(tmp_path / "[bc]"): 2.5})
    assert found is not None
    weights, shares = found
    assert weights.tolist() == [1.0] * 4 + [2.5] * 8
    assert (
        mixing_notice(shares)
        == "an epoch draws 24 pairs: 20 of the 8 in [bc] (weight 2.5), 4 of the 4 others (weight 1)"
    )
    assert make_order(np.arange(13), weights, Settings("heads")).pairs == 24
    kept = weights_of(pairs.subset([5, 0, 11]), {str(tmp_path / "b"): 3.0})
    assert kept is not None
    assert kept[0].tolist() == [3.0, 1.0, 1.0]


def test_bad_weights_are_named(tmp_path: Path) -> None:
    a, b = (str(write_pairs(tmp_path / name, 4)) for name in "ab")
    pairs = open_pairs([a])
    with pytest.raises(InvalidSettings, match=r"--weight names .*b, which is not one of the sources of pairs \(.*a\)"):
        weights_of(pairs, {b: 2.0})
    with pytest.raises(InvalidSettings, match="a has two weights"):
        weights_of(pairs, {a: 2.0, f"{tmp_path}/[a]": 3.0})
    with pytest.raises(InvalidPairs, match="no such file"):
        weights_of(pairs, {str(tmp_path / "none.csv"): 2.0})
    with pytest.raises(InvalidSettings, match="an epoch would show one pair"):
        weights_of(pairs, {a: 0.1})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.csv", "is not SOURCE=X"),
        ("=2", "is not SOURCE=X"),
        ("a.csv=", "'' is not a number"),
        ("a.csv=two", "'two' is not a number"),
        ("a.csv=nan", "from 0.01 to 100"),
        ("a.csv=-1", "from 0.01 to 100"),
        ("a.csv=0", "leave out a source"),
        ("a.csv=1e9", "from 0.01 to 100"),
    ],
)
def test_a_weight_that_is_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_weight(text)
    assert parse_weight("a=b.csv=0.5") == ("a=b.csv", 0.5)
