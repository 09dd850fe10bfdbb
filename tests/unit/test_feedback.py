"""Feedback, concepts, variety and near-duplicates, on pictures whose nearness is known."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import InvalidQuery
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.query.nodes import Tagged
from clipsearch.search.collection import Collection
from clipsearch.search.concepts import add_concept
from clipsearch.search.dedupe import find_duplicates, shell_script
from clipsearch.search.feedback import refine, threshold_for
from clipsearch.search.variety import diversify
from clipsearch.store.tags import remove_tag, write_tags
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill, plain, scene

ONE_WORKER = IndexOptions(workers=1)


def unit(*numbers: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def test_feedback_moves_towards_what_was_liked_and_away_from_what_was_not() -> None:
    query, liked, disliked, centre = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1), np.zeros(3, np.float32)
    none = np.empty((0, 3), np.float32)
    refined = refine(query, liked[None], disliked[None], centre)
    assert np.linalg.norm(refined) == pytest.approx(1)
    assert refined @ liked > query @ liked
    assert refined @ disliked < query @ disliked
    assert refine(None, liked[None], none, centre) == pytest.approx(liked)
    assert refine(query, none, none, centre) == pytest.approx(query)
    with pytest.raises(InvalidQuery, match="cancel each other"):
        refine(None, liked[None], none, liked)


def test_a_concept_begins_between_the_collection_and_its_examples() -> None:
    rng = np.random.default_rng(0)
    background = rng.standard_normal((500, 16)).astype(np.float32)
    background /= np.linalg.norm(background, axis=1, keepdims=True)
    vector = unit(*np.eye(16)[0])
    examples = np.stack([unit(1, *(0.1 * rng.standard_normal(15))) for _ in range(5)])
    threshold = threshold_for(vector, examples, examples[:0], background)
    assert np.quantile(background @ vector, 0.98) < threshold < np.median(examples @ vector)
    near_miss = unit(1, *([0.2] * 15))
    assert threshold_for(vector, examples, near_miss[None], background) >= near_miss @ vector


def test_marginal_relevance_prefers_what_differs() -> None:
    vectors = np.stack([unit(1, 0), unit(1, 0.01), unit(0, 1)])
    scores = np.array([0.30, 0.29, 0.25], np.float32)
    assert diversify(scores, vectors, 3, 0.0) == [0, 1, 2]
    assert diversify(scores, vectors, 2, 0.6) == [0, 2]
    assert diversify(scores[:0], vectors[:0], 2, 0.5) == []


@pytest.fixture
def index(photos: Path) -> Path:
    rng = np.random.default_rng(1)
    for colour, (r, g, b) in COLOURS.items():
        for n in range(3):
            shade = tuple(int(np.clip(c + rng.integers(-9, 10), 0, 255)) for c in (r, g, b))
            plain(shade).save(photos / f"{colour}{n}.png")  # type: ignore[arg-type]
    return index_folder(photos, FakeEncoder(), options=ONE_WORKER).index


def test_liked_pictures_rank_higher(index: Path) -> None:
    with Collection(index, encoder=FakeEncoder()) as photos:
        ids = {hit.record.path: hit.record.row_id for hit in photos.search("red", 100, all=True)}
        liked = [ids["purple0.png"], ids["purple1.png"]]
        before = [hit.record.path for hit in photos.search("red", 100, all=True)].index("purple2.png")
        after = [hit.record.path for hit in photos.search("red", 100, all=True, like=liked, unlike=[ids["red0.png"]])]
        assert after.index("purple2.png") < before
        with pytest.raises(InvalidQuery, match="the index has no picture 999"):
            photos.search("red", like=[999])


@pytest.mark.slow
def test_a_concept_is_a_filter_and_a_query_and_outlives_reindexing_as_a_tag(index: Path, photos: Path) -> None:
    with Collection(index, encoder=FakeEncoder()) as collection:
        other = collection.search("blue", 1, all=True)[0].record.row_id
        add_concept(collection, "reds", [photos / "red0.png", str(photos / "red1.png")], [other])
    with Collection(index, encoder=FakeEncoder()) as collection:
        found = collection.search("tag:reds", 100)
        names = [hit.record.path for hit in found]
        assert {"red0.png", "red1.png", "red2.png"} <= set(names)
        assert len(names) < 15
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
        assert not any(name.startswith("blue") for name in names)
        assert collection.search("like:reds", 1, all=True)[0].record.path.startswith("red")
        assert len(collection.select(Tagged("REDS"))) == len(names)
        assert set(names) >= {hit.record.path for hit in collection.search("green tag:reds", 100, all=True)}
    index_folder(photos, FakeEncoder(seed=3), options=IndexOptions(workers=1, reindex=True))
    other_model = FakeEncoder(seed=3)
    with Collection(index, encoder=other_model) as collection, pytest.raises(InvalidQuery, match="concept add reds"):
        collection.search("tag:reds")
    remove_tag(index, "reds")
    write_tags(index, {"plain": {}})
    with Collection(index, encoder=FakeEncoder(seed=3)) as collection:
        assert collection.search("tag:plain") == []
        with pytest.raises(InvalidQuery, match="is a tag, not a concept"):
            collection.search("like:plain")


def test_concepts_need_examples(index: Path) -> None:
    with Collection(index, encoder=FakeEncoder()) as photos, pytest.raises(InvalidQuery, match="at least one picture"):
        add_concept(photos, "x", [])


def test_duplicates_are_grouped_and_the_script_removes_the_worse_ones(photos: Path) -> None:
    fill(photos, 5)
    names = ["it's\n$(touch hacked) `x`.png", "-rf.png", os.fsdecode(b"\xe9.png")]
    original = scene(100)
    original.save(photos / "best.png")
    for name, width in zip(names, (160, 200, 240), strict=True):
        original.resize((width, width * 3 // 4)).save(photos / "x.png")
        (photos / "x.png").rename(photos / name)
    index_folder(photos, FakeEncoder(), options=ONE_WORKER)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        (group,) = find_duplicates(collection)
    assert group.keep.record.path == "best.png"
    assert {other.record.path for other in group.others} == set(names)
    before = {path for path in photos.rglob("*") if path.suffix in (".png", ".jpg")}
    assert len(before) == 9
    script = photos.parent / "remove.sh"
    script.write_bytes(shell_script([group], lambda path: path.replace("\n", " ")))
    subprocess.run(["sh", str(script)], cwd=photos, check=True)
    assert {path for path in photos.rglob("*") if path.suffix in (".png", ".jpg")} == before - {
        photos / name for name in names
    }
    assert not list(photos.parent.rglob("hacked"))


def test_what_was_only_enlarged_is_not_kept_over_what_it_was_made_from(photos: Path) -> None:
    original = scene(100)
    original.resize((640, 480)).save(photos / "a.png")
    original.save(photos / "b.png")
    os.utime(photos / "b.png", (1_600_000_000, 1_600_000_000))
    index_folder(photos, FakeEncoder(), options=ONE_WORKER)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        (group,) = find_duplicates(collection)
    assert (group.keep.record.path, [other.record.path for other in group.others]) == ("b.png", ["a.png"])
