"""`clipsearch eval` as a process, with the embedded model."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import clipsearch as library
from clipsearch.evaluation.index_recall import measure_index
from clipsearch.records import FloatArray, IntArray
from clipsearch.search.collection import Collection
from tests.support.commands import clipsearch
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, and a copy of the embedded model under another name."""
    place = tmp_path_factory.mktemp("eval")
    (place / "pairs").mkdir()
    rows = ["image,caption"]
    for colour in ("red", "green", "blue", "white", "black"):
        plain(COLOURS[colour]).save(place / "pairs" / f"{colour}.png")
        rows += [f"{colour}.png,{colour}", f"{colour}.png,the colour {colour}"]
    (place / "pairs/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    rows += ["bad.png,nothing to see", "gone.png,lost"]
    (place / "pairs/p.csv").write_text("\n".join(rows))
    shutil.copytree(Path(library.__file__).parent / "models/builtin", place / "twin")
    return place


@pytest.mark.slow
def test_a_table_for_people(place: Path) -> None:
    out = clipsearch("eval", "pairs/p.csv", "--model", "builtin", "-q", folder=place).stdout.splitlines()
    assert out[0] == "5 pictures, 10 captions (2 entries left out)"
    assert out[1].split() == ["model", "R@1", "R@5", "R@10", "median", "rank", "mAP"]
    assert re.fullmatch(r"text to image  builtin  [\d.]+ \[[\d.]+, [\d.]+\] +100.0 \[100.0, 100.0\] .*", out[2])
    assert out[3].startswith("image to text  builtin")
    assert out[4] == "Recall and mAP in %; [95 % intervals, 1,000 resamples of the pictures]."
    assert out[5].startswith("left out: ")
    assert "bad.png: " in out[5]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the plots extra")
def test_models_side_by_side(place: Path) -> None:
    arguments = ("eval", "pairs/p.csv", "--model", "builtin", "--model", "./twin", "--resamples", "50", "-q")
    body = json.loads(clipsearch(*arguments, "--json", "--png", "recall.png", folder=place).stdout)
    assert (place / "recall.png").read_bytes().startswith(PNG_MAGIC)
    assert (body["pictures"], body["captions"], body["left_out"]) == (5, 10, {"missing_picture": 1})
    assert [model["model"] for model in body["models"]] == ["builtin", str(place / "twin")]
    assert body["models"][0]["measures"] == body["models"][1]["measures"]
    assert body["models"][0]["skipped"][0]["status"] in ("truncated", "corrupt")
    assert body["differences"][0]["measures"]["text_to_image_recall@1"] == {"value": 0, "low": 0, "high": 0}
    table = clipsearch(*arguments, "--markdown", folder=place).stdout.splitlines()
    assert table[2] == "|  | model | R@1 | R@5 | R@10 | median rank | mAP |"
    assert table[3] == "|---|---|---:|---:|---:|---:|---:|"
    assert len(table[4].split("|")) == 9
    assert "+0.0 [+0.0, +0.0]" in table[6]


@pytest.mark.slow
def test_an_index_against_exact_search(place: Path) -> None:
    clipsearch("index", "pairs", "--model", "builtin", "-q", folder=place)
    out = clipsearch("eval", "pairs/p.csv", "--ann", "pairs", folder=place).stdout
    assert re.search(r"5 pictures, recall@10 1\.0000 \[1\.0000, 1\.0000\] of exact search over 11 captions; ", out)


@pytest.mark.slow
def test_a_picture_under_two_names_is_no_miss(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "pairs", tmp_path / "pairs")
    once = ("eval", "pairs/p.csv", "--model", "builtin", "--json", "-q")
    before = json.loads(clipsearch(*once, folder=tmp_path).stdout)["models"][0]["measures"]
    for colour in ("red", "blue"):
        shutil.copy(tmp_path / f"pairs/{colour}.png", tmp_path / f"pairs/{colour} again.png")
    rows = (tmp_path / "pairs/p.csv").read_text()
    for colour in ("red", "blue"):
        rows = rows.replace(f"{colour}.png,the colour", f"{colour} again.png,the colour")
    (tmp_path / "pairs/p.csv").write_text(rows)
    body = json.loads(clipsearch(*once, folder=tmp_path).stdout)
    assert body["pictures"] == 7
    after = body["models"][0]["measures"]
    assert {name: one["value"] for name, one in after.items()} == {name: one["value"] for name, one in before.items()}
    said = clipsearch(*once[:-2], "-q", folder=tmp_path).stdout.splitlines()
    assert said[5] == "the same as another picture, and counted as one with it: 2"


def test_wrong_use_is_one_line(place: Path) -> None:
    done = clipsearch("eval", "pairs/none.csv", "--model", "builtin", folder=place, status=1)
    assert done.stderr.startswith("clipsearch: pairs/none.csv: no such file")
    assert done.stderr.count("\n") == 1
    clipsearch("eval", "pairs/p.csv", "--json", "--markdown", folder=place, status=2)


class HalfBlind:
    """A collection of twenty pictures whose quick search sees only the even ones."""

    index = Path("index")

    def __init__(self) -> None:
        self.encoder = FakeEncoder(dim=8)
        self.vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)

    def __len__(self) -> int:
        return 20

    def nearest(self, queries: FloatArray, k: int, *, exact: bool = False) -> tuple[FloatArray, IntArray]:
        scores = queries @ self.vectors.T
        if not exact:
            scores[:, 1::2] = -np.inf
        ids = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, ids, axis=1), ids


def test_the_share_of_the_exact_answer_is_measured() -> None:
    collection = HalfBlind()
    captions = [f"caption {number}" for number in range(60)]
    found = measure_index(cast(Collection, collection), captions)
    exact = collection.nearest(collection.encoder.encode_texts(captions), 10, exact=True)[1]
    assert found.recall == pytest.approx(np.mean(exact % 2 == 0))
    assert 0 < found.low < found.recall < found.high < 1
    assert (found.queries, found.pictures) == (60, 20)
    with pytest.raises(ValueError, match="no caption"):
        measure_index(cast(Collection, collection), [])


@pytest.mark.slow
def test_zero_shot_on_a_folder_for_each_class(tmp_path: Path) -> None:
    data = tmp_path / "colours/test"
    for folder, colour in (("1", "red"), ("2", "blue"), ("3", "green")):
        (data / folder).mkdir(parents=True)
        for number in range(3):
            red, green, blue = (min(255, part + 9 * number) for part in COLOURS[colour])
            plain((red, green, blue)).save(data / folder / f"{number}.png")
    (data / "1/bad.png").write_bytes(PNG_MAGIC)
    (tmp_path / "colours/classnames.txt").write_text("red\nblue\ngreen\n")
    (tmp_path / "colours/zeroshot_classification_templates.txt").write_text("the colour {c}\nsomething {c}\n")
    arguments = ("eval", "--zero-shot", "colours/test", "--model", "builtin", "-q")
    [found] = json.loads(clipsearch(*arguments, "--json", folder=tmp_path).stdout)
    assert found["metrics"]["acc1"] == found["metrics"]["mean_per_class_recall"]
    assert found["metrics"]["acc1"] > 0.6
    assert found["metrics"]["acc5"] is None
    assert found["pictures"] == 9
    assert [Path(skip["path"]).name for skip in found["skipped"]] == ["bad.png"]
    assert found["task"] == "zeroshot_classification"
    lines = clipsearch(*arguments, "--template", "{}", folder=tmp_path).stdout.splitlines()
    assert lines[0] == "9 pictures, 3 classes (1 picture left out)"
    assert lines[-1].endswith("mean of 1 sentence.")
    (tmp_path / "colours/classnames.txt").write_text("red\nblue\n")
    assert "classnames.txt has 2 names" in clipsearch(*arguments, folder=tmp_path, status=1).stderr
    (tmp_path / "colours/classnames.txt").write_text("red\nblue\nred\n")
    assert "given twice" in clipsearch(*arguments, folder=tmp_path, status=1).stderr
    wrong = clipsearch("eval", "--zero-shot", "colours/test/1", "--model", "builtin", folder=tmp_path, status=1)
    assert "fewer than two subfolders" in wrong.stderr
    assert "PAIRS" in clipsearch("eval", "--model", "builtin", folder=tmp_path, status=2).stderr
    assert "leave out PAIRS" in clipsearch("eval", "p.csv", *arguments[1:], folder=tmp_path, status=2).stderr
