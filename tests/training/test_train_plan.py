"""How many steps of how many pairs, which pairs each step sees, which are held out, and what is said of the outcome."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.evaluation.recall import RECALL_AT, Metrics, Retrieval, evaluate
from clipsearch.pairs.reading import Pair, PairSet, open_pairs
from clipsearch.training.order import Order
from clipsearch.training.plan import FEWEST_STEPS, plan
from clipsearch.training.readable import readable_pairs
from clipsearch.training.residual import Residual, _principal
from clipsearch.training.run import Request, _Pairs
from clipsearch.training.run import train as train_run
from clipsearch.training.sameness import check_variety, numbered, same_pictures
from clipsearch.training.settings import InvalidSettings, NothingToLearn, Settings
from clipsearch.training.split import common_pictures, fold_numbers, held_out_count, split
from clipsearch.training.verdict import Choice, judge
from tests.support.breadth import tries
from tests.support.training_pairs import write_pairs

EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 20, 60)


@settings(max_examples=EXAMPLES, deadline=None)
@given(pairs=st.integers(2, 2_000_000), processes=st.sampled_from([1, 2, 3, 8]))
@example(pairs=1786, processes=1)
def test_the_plan_has_steps_enough_at_every_size(pairs: int, processes: int) -> None:
    found = plan(pairs, Settings("heads"), processes)
    assert found.steps >= FEWEST_STEPS
    assert found.steps == found.epochs * found.steps_per_epoch
    assert found.steps_per_epoch == -(-pairs // found.batch)
    assert found.batch % processes == 0 or pairs < processes
    if pairs >= 500:
        assert found.steps_per_epoch >= 6
    assert 0 < found.warmup_steps <= found.steps / 2
    assert found.patience * found.steps_per_epoch >= 20


def test_what_is_asked_for_is_done() -> None:
    found = plan(1000, Settings("heads", batch=128, epochs=3, warmup_steps=2, patience=4))
    assert (found.batch, found.steps_per_epoch, found.epochs, found.steps) == (128, 8, 3, 24)
    assert (found.warmup_steps, found.patience) == (2, 4)
    assert plan(1000, Settings("heads", batch=128, max_steps=10)).steps == 10
    assert plan(50, Settings("heads", batch=128)).batch == 50


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    count=st.integers(1, 300),
    batch=st.integers(1, 300),
    processes=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 3),
)
def test_every_epoch_shows_every_picture(count: int, batch: int, processes: int, seed: int) -> None:
    order = Order(np.arange(count + 1), batch, seed, processes)
    for epoch in range(2):
        seen: list[int] = []
        sizes = []
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            draws = [order.draw(step, rank, processes) for rank in range(processes)]
            assert len({len(draw.pictures) for draw in draws}) == 1
            sizes.append(sum(len(draw.pictures) for draw in draws))
            seen += [picture for draw in draws for picture in draw.pictures.tolist()]
        assert set(seen) == set(range(count))
        assert len(seen) - count < processes
        assert max(sizes) - min(sizes) <= processes
        assert max(sizes) <= max(batch, processes) + processes - 1


def test_pictures_that_cannot_be_read_are_not_held_out_nor_counted(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 75)
    for number in range(0, 75, 5):
        (folder / f"p{number:05d}.png").write_bytes(b"\x89PNG, torn off")
    pairs = open_pairs([folder])
    readable = readable_pairs(pairs)
    assert np.flatnonzero(~readable).tolist() == list(range(0, 75, 5))
    train, dev = split(pairs, readable)
    assert (len(train), len(dev)) == (45, 30)
    assert not {pair.key for pair in dev} & {pairs[number].key for number in range(0, 75, 5)}
    with pytest.raises(InvalidSettings, match=r"10 pairs \(8 with a picture that can be read\) are too few"):
        split(pairs.subset(range(10)), readable[:10])
    request = Request([str(folder)], "builtin", Settings("heads"))
    said: list[str] = []
    found = _Pairs.open(request, said.append)
    assert (len(found.dev), found.folds) == (30, None)
    for number in range(1, 75, 5):
        (folder / f"p{number:05d}.png").write_bytes(b"\x89PNG, torn off")
    found = _Pairs.open(request, said.append)
    assert found.folds is not None
    assert said[-1].startswith("75 pairs (45 with a picture that can be read) are too few to hold 30 out")


def test_a_picture_under_several_names_is_said_to_count_once(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 12)
    for number in range(3):
        (folder / f"q{number}.png").write_bytes((folder / f"p{number:05d}.png").read_bytes())
        (folder / f"q{number}.txt").write_text(f"another caption {number}")
    said: list[str] = []
    _Pairs.open(Request([str(folder)], "builtin", Settings("heads")), said.append)
    assert "3 of 15 held-out pictures are copies of another: they count as one picture, with all their captions" in said


@pytest.mark.parametrize(("option", "name"), [("dev", "held-out"), ("anchor", "anchor"), ("sources", "training")])
def test_a_set_without_readable_pictures_is_refused_before_anything_is_written(
    option: str, name: str, tmp_path: Path
) -> None:
    good, bad = write_pairs(tmp_path / "pairs", 12), write_pairs(tmp_path / "bad", 12)
    for picture in bad.glob("*.png"):
        picture.write_bytes(b"\x89PNG, torn off")
    sets = {"sources": [str(good)], "dev": [str(good)], option: [str(bad)]}
    request = Request(**{"model": "builtin", "settings": Settings("heads"), **sets})  # type: ignore[arg-type]
    with pytest.raises(NothingToLearn, match=f"none of the 12 {name} pictures can be read"):
        train_run(request, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("pairs", "held"), [(60, 30), (80, 30), (299, 30), (1000, 100), (90_000, 2000)])
def test_at_least_thirty_pairs_are_held_out(pairs: int, held: int) -> None:
    assert held_out_count(pairs) == held


def test_the_split_depends_on_content_only(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 70)
    (folder / "q.png").write_bytes((folder / "p00003.png").read_bytes())
    (folder / "q.txt").write_text("the same picture again")
    pairs = open_pairs([folder])
    train, dev = split(pairs)
    assert len(dev) in (30, 31)
    assert len(train) + len(dev) == 71
    sides = [{pair.key for pair in side} for side in (train, dev)]
    assert any({"p00003", "q"} <= side for side in sides)
    _, again = split(pairs.subset(reversed(range(71))))
    assert {pair.key for pair in again} == sides[1]
    with pytest.raises(InvalidSettings, match="--dev PAIRS"):
        split(pairs.subset(range(9)))
    one = PairSet([Pair("a", tuple(f"caption {n}" for n in range(60)), pairs[0].source)])
    with pytest.raises(InvalidSettings, match=r"^the 60 captions are of one picture: 1 pair is too few to split off"):
        split(one)


def test_pairs_that_teach_nothing_are_named_before_training(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 4)
    pairs = open_pairs([folder])
    different = np.arange(4)
    check_variety(pairs, same_pictures(pairs), different)
    with pytest.raises(InvalidSettings, match="the model reads all 4 different training captions as the same text"):
        check_variety(pairs, different, np.zeros(4, int))
    for text in folder.glob("*.txt"):
        text.write_text("a shoe")
    with pytest.raises(InvalidSettings, match='all 4 training pairs have the same caption, "a shoe"'):
        check_variety(open_pairs([folder]), different, np.zeros(4, int))
    for picture in folder.glob("*.png"):
        picture.write_bytes((folder / "p00000.png").read_bytes())
    copies = open_pairs([folder])
    assert same_pictures(copies).tolist() == [0, 0, 0, 0]
    with pytest.raises(InvalidSettings, match="all 4 training pairs show the same picture"):
        check_variety(copies, same_pictures(copies), different)
    with pytest.raises(InvalidSettings, match="one training pair"):
        check_variety(copies.subset([0]), np.zeros(1, int), np.zeros(1, int))


def test_equal_values_get_equal_numbers() -> None:
    assert numbered("abcab").tolist() == [0, 1, 2, 0, 1]


def metrics(noise: float, seed: int, count: int) -> Metrics:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 24))
    texts = images + noise * rng.normal(size=images.shape)
    unit = [(side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (images, texts)]
    return evaluate(unit[0], unit[1], np.arange(count))


@pytest.mark.slow
def test_the_verdict_follows_the_intervals() -> None:
    bad, good = metrics(3.0, 1, 60), metrics(0.8, 1, 60)
    assert judge(bad, good).outcome == "better"
    assert judge(good, bad).outcome == "worse"
    assert judge(bad, bad).outcome == "unclear"
    found = judge(bad, good)
    value, low, high = found.changes["recall@1"]
    assert low <= value <= high
    assert found.changes["median_rank"][0] == pytest.approx(found.median_after - found.median_before)
    # Of ten held-out pairs all are among the first ten, which says nothing; their ranks do.
    few = judge(metrics(3.0, 2, 10), metrics(0.5, 2, 10))
    assert few.changes["recall@10"] == (0.0, 0.0, 0.0)
    assert few.outcome == "better"


def test_what_was_chosen_by_chance_is_no_gain() -> None:
    """Of 60 epochs that all find by chance, the best one seems to find more than chance does: one in six."""
    rng = np.random.default_rng(0)
    seems, honest = [], []
    for _ in range(60):
        ranks = rng.integers(1, 31, (60, 30))
        choice = Choice(ranks, np.arange(30), lambda scores: int(np.argmax(scores)))
        best = ranks[np.argmax(np.mean([(ranks <= k).mean(axis=1) for k in RECALL_AT], axis=0))]
        seems.append((best <= 5).mean() - 5 / 30)
        honest.append(seems[-1] - choice.flattery()[1])
    assert np.mean(seems) > 0.1
    assert abs(np.mean(honest)) < 0.03
    told = judge(found_at(ranks[0]), found_at(best), [choice]).changes["recall@5"]
    plain = judge(found_at(ranks[0]), found_at(best)).changes["recall@5"]
    less = 100 * choice.flattery()[1]
    assert told == pytest.approx([bound - less for bound in plain], abs=0.01) and less > 0


def test_what_all_epochs_find_is_no_chance() -> None:
    pictures = np.arange(60)
    ranks = np.tile(np.r_[np.ones(50, int), np.full(10, 40)], (20, 1))
    choice = Choice(ranks, pictures, lambda scores: int(np.argmax(scores)))
    assert choice.flattery() == pytest.approx([0, 0, 0, 0])
    found = judge(found_at(np.full(60, 30)), found_at(ranks[0]), [choice])
    assert found.outcome == "better"
    assert found.changes["recall@1"][0] == pytest.approx(100 * 50 / 60, abs=0.01)
    assert judge(found_at(ranks[0]), found_at(np.full(60, 30)), [choice]).outcome == "worse"


def found_at(ranks: npt.NDArray[np.int64]) -> Metrics:
    """As if each of so many captions had found its picture at that rank."""
    both = Retrieval(ranks, 1 / ranks, np.arange(len(ranks)))
    return Metrics(both, both, len(ranks), len(ranks))


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_a_gate_of_few_captions_can_be_computed(kinds: int) -> None:
    """Their features vary in one direction or none, where differences of large numbers once made it open or shut."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(kinds, 96, generator=rng)[torch.arange(60) % kinds]
    residual = Residual(features, 8)
    x = (features - residual.mean) / residual.scale
    rounded = residual.gate(x + 1e-3 * torch.randn(x.shape, generator=rng))
    assert bool((residual.gate(x) > 0.49).all()), "the farthest of the pairs stands at the threshold"
    assert bool((rounded - residual.gate(x)).abs().max() < 0.05)
    other = (3 * torch.randn(20, 96, generator=rng) - residual.mean) / residual.scale
    assert bool((residual.gate(other) < 0.01).all())


@pytest.mark.parametrize("copies", [1, 3], ids=["fewer rows than features", "more"])
def test_principal_directions_are_those_of_the_covariance(copies: int) -> None:
    """Each row several times has the same covariance, and is taken by the other way."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 96, generator=rng, dtype=torch.double) * torch.linspace(3, 0.1, 96, dtype=torch.double)
    variances = torch.linalg.svdvals(rows).square() / 40
    directions, leading, others = _principal(rows.repeat(copies, 1), 4)
    torch.testing.assert_close(leading, variances[:4])
    assert others == pytest.approx(float(variances[4:].sum()) / 92)
    torch.testing.assert_close(directions.T @ directions, torch.eye(4, dtype=torch.double))
    torch.testing.assert_close(rows.T @ (rows @ directions) / 40, directions * leading)


def white_in_the_middle(folder: Path, many: int) -> Path:
    """Uncompressed pictures of one size with captions. They differ at their edges only, as things on white may."""
    folder.mkdir()
    for number in range(many):
        picture = Image.new("RGB", (60, 80), "white")
        for row in (0, 79):
            picture.paste((number, 5 * row // 79, 200 - number), (0, row, 60, row + 1))
        picture.save(folder / f"{number:03d}.bmp")
        (folder / f"{number:03d}.txt").write_text(f"thing number {number}")
    return folder


def test_uncompressed_pictures_that_agree_in_their_middle_are_different(tmp_path: Path) -> None:
    folder = white_in_the_middle(tmp_path / "pairs", 100)
    copies = {"copy1.bmp": "007.bmp", "copy2.bmp": "007.bmp"}
    for name, of in copies.items():
        (folder / name).write_bytes((folder / of).read_bytes())
        (folder / name).with_suffix(".txt").write_text("the same again")
    pairs = open_pairs(folder)
    kept, held = split(pairs)
    assert (len(kept) + len(held), len(held) in (30, 31, 32)) == (102, True)
    same = {"007", "copy1", "copy2"}
    assert same <= {pair.key for pair in kept} or same <= {pair.key for pair in held}
    assert common_pictures(kept, held) == 0
    assert common_pictures(pairs, held) == len(held)
    few = pairs.subset(range(40))
    assert np.bincount(fold_numbers(few)).tolist() == [8] * 5


def test_what_an_uncompressed_picture_shows_at_its_edge_is_part_of_the_digest(tmp_path: Path) -> None:
    folder = white_in_the_middle(tmp_path / "pairs", 12)
    before = open_pairs(folder).digest
    assert open_pairs(folder).digest == before
    content = bytearray((folder / "003.bmp").read_bytes())
    content[-1] ^= 255
    (folder / "003.bmp").write_bytes(content)
    assert open_pairs(folder).digest != before
