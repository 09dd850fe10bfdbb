"""What is learned from few examples, and whether its own word on how well can be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipsearch.classify import probe as module
from clipsearch.classify.probe import METHODS, _Ridge, fit_probe, load_probe
from clipsearch.classify.zero_shot import ZeroShot, measure
from clipsearch.errors import InvalidProbe
from clipsearch.records import FloatArray, IntArray
from tests.support.fake_encoder import FakeEncoder

DIM, CLASSES = 24, 6


def unit(vectors: np.ndarray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def examples(each: int, *, seed: int = 0, spread: float = 0.25) -> tuple[ZeroShot, FloatArray, IntArray]:
    """Classes around centres that the text vectors hit only roughly."""
    centres = np.random.default_rng(99).standard_normal((CLASSES, DIM))
    text = unit(centres + 1.5 * np.random.default_rng(98).standard_normal((CLASSES, DIM)))
    truth = np.repeat(np.arange(CLASSES), each)
    noise = np.random.default_rng(seed).standard_normal((len(truth), DIM))
    vectors = unit(unit(centres)[truth] + spread * noise)
    return ZeroShot(tuple(f"class {n}" for n in range(CLASSES)), text, 20.0), vectors, truth


def test_it_learns_what_the_words_do_not_say() -> None:
    base, vectors, truth = examples(12)
    report = fit_probe(FakeEncoder(DIM), base, vectors, truth)
    _, unseen, unseen_truth = examples(50, seed=1)
    assert report.accuracy is not None
    before = measure(base.probabilities(unseen), unseen_truth).top1
    after = measure(report.probe.probabilities(unseen), unseen_truth).top1
    assert before < 0.85 < after
    assert report.probe.method != "zero-shot"
    assert report.accuracy["zero-shot"].top1 == pytest.approx(before, abs=0.15)
    kept = report.accuracy[report.probe.method]
    assert kept.low - 0.05 <= after <= kept.high + 0.05
    assert (report.pictures, report.per_class, report.folds) == (72, (12,) * 6, 5)


def test_nothing_is_made_worse_where_there_is_nothing_to_learn() -> None:
    base, vectors, truth = examples(10)
    shuffled = np.random.default_rng(5).permutation(truth)
    report = fit_probe(FakeEncoder(DIM), base, vectors, shuffled)
    assert report.accuracy is not None
    for found in report.accuracy.values():  # a check that let examples vote for themselves would say more
        assert found.top1 < 0.4


def test_leaving_one_out_equals_fitting_without_it() -> None:
    _, vectors, truth = examples(4)
    left_out = _Ridge(vectors, truth, CLASSES).left_out(0.3)
    for number in (0, 7, 23):
        kept = np.arange(len(truth)) != number
        weights, bias = _Ridge(vectors[kept], truth[kept], CLASSES).solve(0.3)
        assert vectors[number] @ weights + bias == pytest.approx(left_out[number], abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_probe_says_the_same(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, vectors, truth = examples(5)
    monkeypatch.setattr(module, "METHODS", (method,))
    probe = fit_probe(FakeEncoder(DIM), base, vectors, truth).probe
    monkeypatch.undo()
    assert probe.method == method
    probe.save(tmp_path / "deep/probe")
    again = load_probe(tmp_path / "deep/probe")
    assert again.labels == probe.labels
    # not bit for bit: where arrays lie in memory changes the order in which some processors add
    np.testing.assert_allclose(again.probabilities(vectors), probe.probabilities(vectors), rtol=1e-4, atol=1e-7)
    assert probe.probabilities(vectors).sum(axis=1) == pytest.approx(1, abs=1e-5)
    again.check(FakeEncoder(DIM).fingerprint, "fake", tmp_path)
    with pytest.raises(InvalidProbe, match="made for vectors of fake, not of other"):
        again.check("0" * 32, "other", tmp_path)


def test_one_example_of_each_is_used_and_nothing_is_promised() -> None:
    base, vectors, truth = examples(1)
    report = fit_probe(FakeEncoder(DIM), base, vectors, truth)
    assert report.accuracy is None
    assert report.probe.method == "linear"
    _, unseen, unseen_truth = examples(30, seed=2)
    before = measure(base.probabilities(unseen), unseen_truth).top1
    assert measure(report.probe.probabilities(unseen), unseen_truth).top1 > before


def test_damage_is_said_and_nothing_is_executed(tmp_path: Path) -> None:
    base, vectors, truth = examples(3)
    good = tmp_path / "good"
    fit_probe(FakeEncoder(DIM), base, vectors, truth).probe.save(good)
    about = json.loads((good / "probe.json").read_text())
    arrays = (good / "probe.npz").read_bytes()

    def broken(name: str, settings: object, data: bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "probe.json").write_text(json.dumps(settings))
        (folder / "probe.npz").write_bytes(data)
        return folder

    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **dict.fromkeys(("text", "weights", "bias", "keys", "key_labels"), np.array([{}], object)))  # type: ignore[arg-type]
    for folder in (
        broken("cut", about, arrays[: len(arrays) // 2]),
        broken("list", [], arrays),
        broken("format", about | {"format": "clipsearch probe 9"}, arrays),
        broken("labels", about | {"labels": ["a", "b"]}, arrays),
        broken("method", about | {"method": "magic"}, arrays),
        broken("pickle", about, pickled.read_bytes()),
        tmp_path / "none",
    ):
        with pytest.raises(InvalidProbe, match="clipsearch train probe"):
            load_probe(folder)
