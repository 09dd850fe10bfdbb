"""Retrieval measures against a brute-force computation in whole numbers and fractions, ties included."""

from __future__ import annotations

import logging
from fractions import Fraction
from statistics import mean, median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.evaluation import recall as evaluation
from clipsearch.evaluation.recall import MEASURES, Metrics, Retrieval, compare, evaluate
from clipsearch.records import FloatArray, IntArray


def brute_force(images: FloatArray, texts: FloatArray, owner: IntArray) -> dict[str, float]:
    """The definition, as directly as it can be written: sort, look where the right ones are."""

    def whole(vectors: FloatArray) -> list[list[int]]:
        return [[round(float(x) * 2**26) for x in row] for row in vectors]

    def dot(a: list[int], b: list[int]) -> int:
        return sum(x * y for x, y in zip(a, b, strict=True))

    pictures, sentences, owners = whole(images), whole(texts), owner.tolist()
    found: dict[str, float] = {}

    def rate(direction: str, rankings: list[list[bool]]) -> None:
        """Each ranking says which places are right, best place first."""
        ranks = [ranking.index(True) + 1 for ranking in rankings]
        precisions = [
            mean(Fraction(sum(ranking[: at + 1]), at + 1) for at, right in enumerate(ranking) if right)
            for ranking in rankings
        ]
        for k in (1, 5, 10):
            found[f"{direction}_recall@{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        found[f"{direction}_median_rank"] = float(median(ranks))
        found[f"{direction}_map"] = float(mean(precisions))

    rankings = []
    for text, own in zip(sentences, owners, strict=True):
        # Sorted by score; False before True among equals: a tie counts against.
        ranked = sorted((-dot(text, picture), number == own) for number, picture in enumerate(pictures))
        rankings.append([right for _, right in ranked])
    rate("text_to_image", rankings)
    rankings = []
    for number, picture in enumerate(pictures):
        if number in owners:
            ranked = sorted((-dot(text, picture), own == number) for text, own in zip(sentences, owners, strict=True))
            rankings.append([right for _, right in ranked])
    rate("image_to_text", rankings)
    return found


def unit(vectors: np.ndarray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 24),
    st.integers(1, 60),
    st.integers(2, 5),
    st.sampled_from([1, 2, 1000]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3, 7, 4096]),
)
def test_agrees_with_brute_force_ties_included(
    pictures: int, captions: int, dim: int, levels: int, seed: int, block: int
) -> None:
    """Few levels in few dimensions make many equal vectors; small blocks make many blocks."""
    rng = np.random.default_rng(seed)

    def vectors(count: int) -> FloatArray:
        raw = rng.integers(-levels, levels + 1, (count, dim)).astype(np.float64)
        raw[~raw.any(axis=1)] = 1
        return unit(raw)

    images, texts = vectors(pictures), vectors(captions)
    owner = rng.integers(0, pictures, captions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_TEXT_BLOCK", block)
        patch.setattr(evaluation, "_IMAGE_BLOCK", block + 1)
        metrics = evaluate(images, texts, owner)
    values, expected = metrics.values(), brute_force(images, texts, owner)
    assert list(values) == list(expected)
    for name, value in expected.items():
        if name.endswith("map"):  # a mean of many thirds and sevenths
            assert values[name] == pytest.approx(value, rel=1e-15 * captions)
        else:
            assert values[name] == value, name


@pytest.mark.slow
def test_a_real_size_agrees_to_the_last_digit() -> None:
    rng = np.random.default_rng(5)
    images = unit(rng.standard_normal((60, 256)))
    owner = np.repeat(np.arange(60), 5)
    texts = unit(images[owner] * 0.1 + rng.standard_normal((300, 256)) / 16)
    images[7] = images[11]  # the same picture twice
    texts[41] = texts[3]  # the same caption of two pictures
    values, expected = evaluate(images, texts, owner).values(), brute_force(images, texts, owner)
    assert {name: round(value, 12) for name, value in values.items()} == {
        name: round(value, 12) for name, value in expected.items()
    }
    assert 0.05 < values["text_to_image_recall@1"] < 0.95


def test_a_model_that_says_the_same_of_everything_finds_nothing() -> None:
    one = np.zeros((20, 8), np.float32)
    one[:, 0] = 1
    metrics = evaluate(one, one, np.arange(20))
    assert metrics.text_to_image.ranks.tolist() == [20] * 20
    assert metrics.image_to_text.recall(10) == 0


def test_own_captions_do_not_stand_in_each_others_way() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = images[[0, 0, 0, 1, 2]]
    metrics = evaluate(images, texts, np.array([0, 0, 0, 1, 2]))
    assert metrics.image_to_text.values() == {
        "recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0, "median_rank": 1.0, "map": 1.0
    }  # fmt: skip


def test_pictures_with_the_same_content_are_one_picture_with_the_captions_of_all() -> None:
    images = unit(np.array([[1, 0], [0, 1], [1, 0], [0.8, 0.6], [0, 1]]))
    texts = unit(np.array([[1, 0.1], [1, 0.2], [0.1, 1], [0.9, 0.5], [0.5, 0.7]]))
    owner = np.array([0, 2, 4, 3, 1])
    same = np.array([7, 3, 7, 5, 3])
    found = evaluate(images, texts, owner, same)
    assert found.text_to_image.ranks.tolist() == [1, 1, 1, 1, 2]
    assert found.text_to_image.pictures.tolist() == [0, 0, 1, 3, 1]
    assert found.image_to_text.ranks.tolist() == [1, 1, 1]
    assert found.image_to_text.pictures.tolist() == [0, 1, 3]
    assert (found.pictures, found.texts) == (5, 5)
    each = evaluate(images, texts, owner)  # an equal picture ties, and a tie counts against
    assert each.text_to_image.ranks.tolist() == [2, 2, 2, 1, 3]
    named_once = evaluate(images[[0, 1, 3]], texts, np.array([0, 0, 1, 2, 1]))
    assert found.values() == named_once.values()
    assert compare([found, found]).differences[0]["text_to_image_recall@1"].value == 0


def test_pictures_without_captions_only_stand_in_the_way() -> None:
    images = unit(np.array([[1.0, 0.1], [1, 0], [0, 1]]))
    texts = unit(np.array([[1.0, 0.02]]))
    metrics = evaluate(images, texts, np.array([0]))
    assert metrics.text_to_image.ranks.tolist() == [2]
    assert metrics.image_to_text.pictures.tolist() == [0]


@pytest.mark.parametrize(
    ("images", "texts", "owner"),
    [
        (np.eye(3), np.eye(4), [0, 1, 2, 0]),
        (np.eye(3), np.eye(3), [0, 1]),
        (np.eye(3), np.eye(3), [0, 1, 3]),
        (np.eye(3), np.eye(3), [-1, 1, 2]),
        (2 * np.eye(3), np.eye(3), [0, 1, 2]),
        (np.eye(3), np.full((3, 3), np.nan), [0, 1, 2]),
        (np.eye(3), np.empty((0, 3)), []),
    ],
)
def test_what_cannot_be_evaluated_is_refused(images: FloatArray, texts: FloatArray, owner: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not match|nothing to evaluate|does not exist|length 1"):
        evaluate(images.astype(np.float32), texts.astype(np.float32), np.array(owner, np.int64))


def noisy(seed: int, noise: float, pictures: int = 200) -> Metrics:
    rng = np.random.default_rng(3)
    images = unit(rng.standard_normal((pictures, 16)))
    owner = np.repeat(np.arange(pictures), 3)
    spread = np.random.default_rng(seed).standard_normal((len(owner), 16))
    return evaluate(images, unit(images[owner] + noise * spread), owner)


def test_intervals_hold_the_value_and_repeat_with_their_seed() -> None:
    metrics = noisy(0, 0.4)
    found = compare([metrics], resamples=400, seed=1)
    assert found == compare([metrics], resamples=400, seed=1)
    assert found != compare([metrics], resamples=400, seed=2)
    assert list(found.measures[0]) == list(metrics.values())
    for name, interval in found.measures[0].items():
        assert interval.value == metrics.values()[name]
        assert interval.low <= interval.value <= interval.high, name
    assert found.differences == []


def test_intervals_have_the_width_that_statistics_predicts() -> None:
    # One caption a picture makes the bootstrap of a share a binomial: width 2 * 1.96 * sqrt(p (1 - p) / n).
    ranks = np.array([1] * 300 + [7] * 700)
    retrieval = Retrieval(ranks, 1 / ranks, np.arange(1000))
    found = compare([Metrics(retrieval, retrieval, 1000, 1000)], resamples=2000).measures[0]
    interval = found["text_to_image_recall@1"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 1000) ** 0.5, rel=0.1)
    assert (found["text_to_image_median_rank"].low, found["text_to_image_median_rank"].high) == (7, 7)
    assert (found["image_to_text_recall@10"].low, found["image_to_text_recall@10"].high) == (1, 1)


def test_captions_of_a_picture_are_drawn_together() -> None:
    alone = np.arange(500) % 2
    together = np.repeat(alone, 5)
    ranks_alone, ranks_together = np.where(alone, 1, 50), np.where(together, 1, 50)
    images = Retrieval(ranks_alone, 1 / ranks_alone, np.arange(500))
    texts = Retrieval(ranks_together, 1 / ranks_together, np.repeat(np.arange(500), 5))
    found = compare([Metrics(texts, images, 500, 2500)], resamples=1000).measures[0]
    wide, narrow = found["text_to_image_recall@1"], found["image_to_text_recall@1"]
    assert (wide.low, wide.high) == (narrow.low, narrow.high)  # five copies of a caption say nothing new


def test_a_difference_is_known_better_than_its_parts() -> None:
    better, worse = noisy(0, 0.35), noisy(0, 0.45)
    found = compare([worse, better], resamples=500)
    difference = found.differences[0]["text_to_image_recall@1"]
    before, after = (measures["text_to_image_recall@1"] for measures in found.measures)
    assert difference.value == pytest.approx(after.value - before.value)
    assert difference.low > 0
    assert difference.high - difference.low < (before.high - before.low) + (after.high - after.low)
    same = compare([worse, worse], resamples=100).differences[0]
    assert all((interval.low, interval.value, interval.high) == (0, 0, 0) for interval in same.values())
    with pytest.raises(ValueError, match="same pairs"):
        compare([worse, noisy(0, 0.4, pictures=100)])


def test_the_median_of_a_resample_is_the_median() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 9, 21)
    retrieval = Retrieval(ranks, 1 / ranks, np.arange(21))
    resampled = evaluation._Resampled(retrieval, np.arange(21))
    for _ in range(50):
        weights = np.bincount(rng.integers(0, 21, 20 + int(rng.integers(2))), minlength=21)
        drawn = np.repeat(ranks, weights)
        expected = Retrieval(drawn, 1 / drawn, np.arange(len(drawn))).values()
        assert dict(zip(MEASURES, resampled.measures(weights), strict=True)) == pytest.approx(expected)


def test_what_draws_says_nothing_of_its_fonts(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    from clipsearch.evaluation.plots import check_plots

    check_plots("drawing")
    logging.getLogger("matplotlib.font_manager").warning("building the font cache; this may take a moment.")
    assert not caplog.records
