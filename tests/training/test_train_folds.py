"""Few pairs are held out in turns: every number of pairs is either refused, taken in turns, or has thirty held out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from clipsearch.evaluation.recall import evaluate  # noqa: E402
from clipsearch.pairs.reading import PairSet, open_pairs  # noqa: E402
from clipsearch.training.folds import Fold, mean_rows, of_pictures, pooled, take_turns  # noqa: E402
from clipsearch.training.loop import Loop, percentages  # noqa: E402
from clipsearch.training.run import Request, Watch, resume, train  # noqa: E402
from clipsearch.training.run_folder import RunFolder  # noqa: E402
from clipsearch.training.settings import (  # noqa: E402
    InvalidSettings,
    Method,
    Settings,
    TrainingInterrupted,
    TrainingStopped,
)
from clipsearch.training.split import fold_numbers, split, takes_turns  # noqa: E402
from clipsearch.training.towers import TowersTrainee  # noqa: E402
from clipsearch.training.world import World  # noqa: E402
from tests.support.open_clip_models import SMALL_VIT, small_encoder  # noqa: E402
from tests.support.tiny_models import write_model_directory  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = pytest.mark.torch

NARROW = {**SMALL_VIT, "text_cfg": {**SMALL_VIT["text_cfg"], "context_length": 16, "width": 32, "layers": 1}}


def test_every_number_of_pairs_has_thirty_held_out_or_takes_turns(tmp_path: Path) -> None:
    everything = open_pairs([write_pairs(tmp_path / "pairs", 200)])
    for count in range(2, 201):
        pairs = everything.subset(range(count))
        if takes_turns(len(pairs)):
            numbers = fold_numbers(pairs)
            sizes = np.bincount(numbers)
            assert len(sizes) == 5
            assert sizes.max() - sizes.min() <= 1
        elif count < 10:
            with pytest.raises(InvalidSettings, match="--dev PAIRS"):
                split(pairs)
        else:
            kept, held = split(pairs)
            assert len(held) >= 30
            assert len(kept) >= 30


def test_the_same_picture_has_one_turn(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 20)
    for name in ("q", "r"):
        (folder / f"{name}.png").write_bytes((folder / "p00003.png").read_bytes())
        (folder / f"{name}.txt").write_text("the same again")
    pairs = open_pairs([folder])
    numbers = {pair.key: int(number) for pair, number in zip(pairs, fold_numbers(pairs), strict=True)}
    assert numbers["q"] == numbers["r"] == numbers["p00003"]
    again = pairs.subset(reversed(range(22)))
    assert {pair.key: int(number) for pair, number in zip(again, fold_numbers(again), strict=True)} == numbers
    for name in list(numbers)[:13]:
        (folder / f"{name}.png").write_bytes((folder / "q.png").read_bytes())
    with pytest.raises(InvalidSettings, match="different pictures, too few"):
        fold_numbers(open_pairs([folder]))


def test_what_folds_measure_is_put_together() -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(12, 6)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = images[np.arange(24) // 2] + random.normal(size=(24, 6)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    whole = evaluate(images, texts, np.arange(24) // 2)
    turns = [np.array([0, 5, 7, 11]), np.array([1, 2, 3, 4, 6, 8, 9, 10])]
    parts = [of_pictures(whole, turn) for turn in turns]
    assert parts[0].text_to_image.pictures.tolist() == [0, 0, 5, 5, 7, 7, 11, 11]
    own = whole.text_to_image.ranks[[0, 1, 10, 11, 14, 15, 22, 23]]
    assert parts[0].text_to_image.ranks.tolist() == own.tolist()
    together = pooled(parts)
    assert percentages(together) == percentages(whole)
    folds = [Fold([{"epoch": 0, **percentages(part)}], {0.0: part}) for part in parts]
    assert mean_rows(folds)[0] == pytest.approx(percentages(whole), abs=1e-3)
    again = Fold.from_json(json.loads(json.dumps(folds[0].as_json())))
    assert again.rows == folds[0].rows
    assert again.by_alpha[0.0].values() == parts[0].values()


@pytest.mark.slow
def test_a_run_on_few_pairs_takes_turns_and_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pairs(tmp_path / "pairs", 15)
    (folder / "p00004.png").write_bytes(b"not a picture")
    settings = Settings("full", max_steps=3, learning_rate=1e-3, views=1)
    anchor = [str(write_pairs(tmp_path / "anchor", 12, first=100))]
    request = Request([str(folder)], "", settings, anchor=anchor, alpha=1.0, max_anchor_drop=100.0)
    seen: list[tuple[str, int]] = []
    told: list[str] = []
    stopping = [True]

    def report(stage: str, done: int, total: int) -> None:
        if stage.startswith("training"):
            seen.append((stage, done))

    interrupted = lambda: stopping[0] and len(seen) == 5  # noqa: E731  in the second of six runs
    watch = Watch(report, told.append, interrupted)
    said = f"after step 2 of run 2 of 5 of the cross-validation.*--resume {tmp_path / 'run'}"
    with pytest.raises(TrainingInterrupted, match=said):
        train(request, tmp_path / "run", base=small_encoder(NARROW), watch=watch)
    assert {stage for stage, _ in seen} == {f"training, run {n} of 5 of the cross-validation" for n in (1, 2)}
    assert "cross-validation" in told[0]
    stopping[0] = False
    outcome = resume(tmp_path / "run", base=small_encoder(NARROW), watch=watch)
    assert len(seen) == 6 * 3  # no step was made twice
    assert (outcome.folds, outcome.pairs, outcome.dev_pairs, outcome.steps, outcome.best_epoch) == (5, 14, 14, 3, 3)
    assert any("one of 5 runs" in note for note in outcome.notes)
    assert not (tmp_path / "run" / "folds").exists()
    assert "held-out pairs, in turns" in (tmp_path / "run" / "MODEL_CARD.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["text_to_image_r1"] == outcome.dev_before["text_to_image_r1"]
    assert rows[-1]["text_to_image_r1"] == outcome.dev_after["text_to_image_r1"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "locked-image"])
def test_towers_are_taken_over_with_the_weights_that_they_began_with(method: Method, tmp_path: Path) -> None:
    pairs = open_pairs([write_pairs(tmp_path / "pairs", 12)])
    settings = Settings(method, batch=4, learning_rate=1e-2, views=2)
    base, turns = small_encoder(NARROW), (pairs.subset(range(8)), pairs.subset(range(4, 12)))

    def trained(turn: PairSet, before: TowersTrainee | None) -> TowersTrainee:
        trainee = TowersTrainee(base, settings, turn, {"dev": pairs}, before=before)
        loop = Loop(trainee, trainee.order, settings, RunFolder(tmp_path / "run"))
        for step in range(2):
            loop._step(step)
        return trainee

    first = trained(turns[0], None)
    first.measure("dev")
    first.set_strength(0.3)
    again, anew = trained(turns[1], first), trained(turns[1], None)
    assert again.model is first.model
    assert again._pixels  # decoded once
    for strength in (1.0, 0.5, 0.0):
        for trainee in (again, anew):
            trainee.set_strength(strength)
        for found, expected in zip(again.vectors("dev"), anew.vectors("dev"), strict=True):
            np.testing.assert_array_equal(found, expected)
    weights = anew.trained_encoder("").model.state_dict()
    for name, value in again.trained_encoder("").model.state_dict().items():
        assert torch.equal(value, weights[name]), name


HEADS = Settings("heads", max_steps=2, views=1, keep_general=0.0)
PLAIN = [" ".join(words) for words in permutations(("dog", "cat", "beach", "the", "on"), 2)]  # nothing to be swapped


def request_for(tmp_path: Path, captions: list[str], **settings: Any) -> Request:
    model = write_model_directory(tmp_path / "model")
    folder = write_pairs(tmp_path / "pairs", len(captions))
    for number, caption in enumerate(captions):
        (folder / f"p{number:05d}.txt").write_text(caption)
    anchor = [str(write_pairs(tmp_path / "anchor", 12, first=100))]
    return Request([str(folder)], str(model), replace(HEADS, **settings), anchor=anchor, max_anchor_drop=100.0)


@pytest.mark.slow
def test_turns_that_cannot_learn_are_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    request = request_for(tmp_path, ["a red dog"] * 11 + ["the cat"])
    told: list[str] = []
    outcome = train(request, tmp_path / "run", watch=Watch(notice=told.append))
    [left_out] = [line for line in told if "left out" in line]
    found = re.fullmatch(
        r"run (\d) of 5 of the cross-validation is left out: all \d+ training pairs .*red dog.*", left_out
    )
    assert found
    held = int((fold_numbers(open_pairs(request.sources)) == int(found[1]) - 1).sum())
    assert (outcome.folds, outcome.pairs, outcome.dev_pairs) == (4, 12, 12 - held)
    assert any(note.startswith("only 4 of 5 runs") for note in outcome.notes)
    assert "held-out pairs, in 4 of 5 turns" in (tmp_path / "run" / "MODEL_CARD.md").read_text()


def test_a_turn_that_breaks_says_which_it_was(tmp_path: Path) -> None:
    request = request_for(tmp_path, PLAIN[:12], learning_rate=float("inf"))
    with pytest.raises(TrainingStopped, match=r"at step 0: in run 1 of 5 of the cross-validation, the .*\. Try"):
        train(request, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert told["problem"].startswith("in run 1 of 5 of the cross-validation, ")


@pytest.mark.slow
def test_a_turn_without_wrong_captions_is_left_out(tmp_path: Path) -> None:
    request = request_for(tmp_path, [*PLAIN[:11], "a red dog"], hard_negatives="captions")
    told: list[str] = []
    outcome = train(request, tmp_path / "run", watch=Watch(notice=told.append))
    assert outcome.folds == 4
    assert sum("left out: no caption has a colour" in line for line in told) == 1


@pytest.mark.slow
def test_a_turn_whose_pictures_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    request = request_for(tmp_path, PLAIN[:15])
    noise = np.random.default_rng(0).integers(0, 256, (15, 64, 64, 3), dtype=np.uint8)
    for pair, pixels in zip(open_pairs(request.sources), noise, strict=True):
        Image.fromarray(pixels).save(pair.source.path)
    pairs = open_pairs(request.sources)
    for pair, number in zip(pairs, fold_numbers(pairs), strict=True):
        if number == 1:  # its turn follows from the middle of the file
            path = Path(pair.source.path)
            path.write_bytes(b"broken" + path.read_bytes()[6:])
    told: list[str] = []
    outcome = train(request, tmp_path / "run", watch=Watch(notice=told.append))
    assert outcome.folds == 4
    assert any("left out: none of the pictures that it holds out can be read" in line for line in told)
    assert all(np.isfinite(value) for value in outcome.dev_after.values())


@pytest.mark.slow
def test_a_turn_of_towers_that_can_read_one_picture_is_left_out(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 15)
    noise = np.random.default_rng(0).integers(0, 256, (15, 64, 64, 3), dtype=np.uint8)
    for pair, pixels in zip(open_pairs([folder]), noise, strict=True):
        Image.fromarray(pixels).save(pair.source.path)
    numbers = fold_numbers(open_pairs([folder]))
    readable = [*np.flatnonzero(numbers == 1), np.flatnonzero(numbers == 3)[0]]
    for number, pair in enumerate(open_pairs([folder])):
        if number not in readable:  # its turn follows from the middle of the file
            path = Path(pair.source.path)
            path.write_bytes(b"broken" + path.read_bytes()[6:])
    pairs = open_pairs([folder])
    assert (fold_numbers(pairs) == numbers).all()
    request = Request([str(folder)], "", Settings("full", max_steps=1, views=1), alpha=1.0)
    told: list[str] = []
    watch, base = Watch(notice=told.append), small_encoder(NARROW)
    turns = take_turns(
        request, pairs, pairs, numbers, None, RunFolder(tmp_path / "run"), World(), base, watch.report, watch
    )
    assert (turns.folds, turns.held_out) == (1, 1)
    assert sum("left out: none of the pictures that it holds out can be read" in line for line in told) == 3
    [one] = [line for line in told if "run 2 of 5" in line]
    assert "11 of 12 training pictures cannot be read, and without them there is one training pair only" in one


@pytest.mark.slow
def test_a_turn_whose_weights_show_one_pair_is_left_out(tmp_path: Path) -> None:
    request = request_for(tmp_path, PLAIN[:12])
    few = write_pairs(tmp_path / "few", 2, first=50)
    for number, caption in enumerate(PLAIN[12:14]):
        (few / f"p{50 + number:05d}.txt").write_text(caption)
    weights = {request.sources[0]: 0.01}
    told: list[str] = []
    mixed = replace(request, sources=[*request.sources, str(few)], weights=weights)
    outcome = train(mixed, tmp_path / "run", watch=Watch(notice=told.append))
    assert any("one of the 12 in pairs every 8 epochs (weight 0.01), 2 of the 2 others" in line for line in told)
    pairs = open_pairs(mixed.sources)
    turns = {int(n) for pair, n in zip(pairs, fold_numbers(pairs), strict=True) if pair.origin == str(few)}
    assert outcome.folds == 5 - len(turns)
    assert sum("left out: with these weights an epoch would show one pair" in line for line in told) == len(turns)
    with pytest.raises(InvalidSettings, match="an epoch would show one pair"):
        train(replace(request, weights={request.sources[0]: 0.14}), tmp_path / "none")  # 1.68 of all, 1.4 in a turn
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("captions", "settings", "said"),
    [
        (["a red dog"] * 12, {}, 'all 12 training pairs have the same caption, "a red dog"'),
        ([f"dog{n}" for n in range(12)], {}, "the model reads all 12 different training captions as the same text"),
        (PLAIN[:12], {"hard_negatives": "captions"}, "no caption has a colour"),
    ],
)
def test_pairs_that_teach_nothing_are_refused_before_anything_is_written(
    tmp_path: Path, captions: list[str], settings: dict[str, Any], said: str
) -> None:
    request = request_for(tmp_path, captions, **settings)
    with pytest.raises(InvalidSettings, match=said):
        train(request, tmp_path / "run")
    assert not (tmp_path / "run").exists()
