"""`clipsearch classify` and `clipsearch train probe`, with the embedded model."""

from __future__ import annotations

import csv
import io
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipsearch.cli.probe import app
from clipsearch.store import open_snapshot
from clipsearch.store.tags import read_tag
from tests.support.commands import clipsearch
from tests.support.fake_encoder import COLOURS
from tests.support.pictures import plain


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shades of red, green and blue, in a folder for each, and an index of them."""
    place = tmp_path_factory.mktemp("classify")
    for colour in ("red", "green", "blue"):
        (place / "colours" / colour).mkdir(parents=True)
        for number in range(3):
            shade = tuple(min(255, part + 9 * number) for part in COLOURS[colour])
            plain((shade[0], shade[1], shade[2])).save(place / "colours" / colour / f"{number}.png")
    clipsearch("index", "colours", "--model", "builtin", "-q", folder=place)
    return place


@pytest.mark.slow
def test_accuracy_of_a_folder_for_each_class(place: Path) -> None:
    out = clipsearch("classify", "colours", "--model", "builtin", "-q", folder=place).stdout.splitlines()
    assert re.fullmatch(r"9 pictures, 3 labels: [\d.]+ % right \[[\d.]+, [\d.]+\]; mean over classes [\d.]+ %", out[0])
    assert re.fullmatch(r"  blue   +[\d.]+ %  \d of 3", out[1])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the plots extra")
def test_json_csv_and_confusion(place: Path) -> None:
    arguments = ("classify", "colours", "--model", "builtin", "-q", "--template", "plain")
    body = json.loads(clipsearch(*arguments, "--json", "--confusion", "c.png", folder=place).stdout)
    assert (place / "c.png").read_bytes().startswith(b"\x89PNG")
    assert body["labels"] == ["blue", "green", "red"]
    assert sum(map(sum, body["accuracy"]["confusion"])) == 9
    rows = list(csv.DictReader(io.StringIO(clipsearch(*arguments, "--csv", folder=place).stdout)))
    assert len(rows) == len(body["pictures"]) == 9
    for row, picture in zip(rows, body["pictures"], strict=True):
        assert (row["path"], row["truth"]) == (picture["path"], picture["truth"])
        assert row["label"] == picture["labels"][0]["label"]
        assert Path(row["path"]).parent.name == row["truth"]
        assert sum(label["probability"] for label in picture["labels"]) == pytest.approx(1, abs=1e-4)
    assert body["accuracy"]["top1"] == pytest.approx(sum(row["label"] == row["truth"] for row in rows) / 9)


@pytest.mark.slow
def test_tags_are_written_where_the_model_is_sure(place: Path) -> None:
    arguments = ("classify", "--index", "colours", "--labels", "red, green|lawn, blue", "--all")
    pictures = json.loads(clipsearch(*arguments, "--json", folder=place).stdout)["pictures"]
    done = clipsearch(*arguments, "--write", "--threshold", "0.4", folder=place)
    sure = [picture for picture in pictures if picture["labels"][0]["probability"] >= 0.4]
    assert f"wrote 3 tags on {len(sure)} picture" in done.stderr
    assert len(done.stdout.splitlines()) == 9
    with open_snapshot(place / "colours/.clipsearch") as snapshot:
        tags = {ref.name: read_tag(snapshot.index_dir, ref).as_dict() for ref in snapshot.tags}
    assert set(tags) == {"red", "green", "blue"}
    assert sorted(round(score, 4) for tag in tags.values() for score in tag.values()) == sorted(
        round(picture["labels"][0]["probability"], 4) for picture in sure
    )


@pytest.mark.slow
def test_pictures_that_show_none_of_the_labels_get_none(place: Path) -> None:
    """Squares of one colour are no beach, though one of three labels is always the likeliest."""
    for asked in (("--index", "colours"), ("colours/red", "--model", "builtin", "-q")):
        arguments = ("classify", *asked, "--labels", "beach, mountains|hills, city")
        lines = clipsearch(*arguments, folder=place).stdout.splitlines()
        assert lines and all(line.startswith("    -  none of these  ") for line in lines)
        pictures = json.loads(clipsearch(*arguments, "--json", folder=place).stdout)["pictures"]
        assert all(picture["none_of_these"] and picture["confidence"] < 0.25 for picture in pictures)
        rows = csv.DictReader(io.StringIO(clipsearch(*arguments, "--csv", folder=place).stdout))
        assert {(row["none_of_these"], row["label"]) for row in rows} == {("true", "")}
        assert "none of these" not in clipsearch(*arguments, "--all", folder=place).stdout
    done = clipsearch("classify", "--index", "colours", "--labels", "beach, city", "--write", folder=place)
    assert "wrote 2 tags on 0 pictures; 9 left untagged" in done.stderr


@pytest.mark.slow
def test_tags_of_before_stay_unless_replaced(place: Path) -> None:
    def tagged(name: str) -> set[str]:
        with open_snapshot(place / "colours/.clipsearch") as snapshot:
            ref = next(ref for ref in snapshot.tags if ref.name == name)
            return set(read_tag(snapshot.index_dir, ref).as_dict())

    arguments = ("classify", "--index", "colours", "--labels", "dark, bright", "--write", "--all")
    clipsearch(*arguments, "--threshold", "0", folder=place)
    before = tagged("dark") | tagged("bright")
    assert len(before) == 9
    clipsearch(*arguments, "--threshold", "1", folder=place)
    assert tagged("dark") | tagged("bright") == before
    clipsearch(*arguments, "--threshold", "1", "--replace", folder=place)
    assert tagged("dark") | tagged("bright") == set()
    clipsearch("concept", "remove", "dark", folder=place / "colours")
    clipsearch("concept", "add", "dark", "red/0.png", folder=place / "colours")
    assert "has the concept 'dark' (1 example)" in clipsearch(*arguments, folder=place, status=2).stderr
    assert len(tagged("dark")) == 1


@pytest.mark.slow
def test_a_probe_is_learned_and_used(place: Path) -> None:
    arguments = ["colours", "--model", "builtin", "--out", "probe", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        learned = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == ["9 pictures of 3 classes, 3 of each", "accuracy on held-out pictures (3 folds):"]
    assert sum("<- kept" in line for line in lines) == 1
    assert lines[-1] == "Use it with: clipsearch classify FOLDER --probe probe"
    assert set(learned["accuracy"]) == {"zero-shot", "linear", "cache"}
    assert learned["accuracy"][learned["method"]]["top1"] == max(each["top1"] for each in learned["accuracy"].values())
    for source in (("colours", "-q"), ("--index", "colours")):
        body = json.loads(clipsearch("classify", *source, "--probe", "probe", "--json", folder=place).stdout)
        assert {p["labels"][0]["label"] == Path(p["path"]).parent.name for p in body["pictures"]} == {True}


def test_wrong_use_is_one_line(place: Path) -> None:
    for arguments, status, message in (
        (("classify",), 2, "name a folder or an index"),
        (("classify", "colours", "--write"), 2, "--write saves tags in an index"),
        (("classify", "--index", "colours", "--labels", "a,b", "--replace"), 2, "--replace needs --write"),
        (("classify", "--index", "colours"), 1, "no labels given"),
        (("classify", "--index", "colours", "--labels", "one"), 1, "at least two labels"),
        (("classify", "--index", "colours", "--labels", "beach,,city", "--write"), 1, "label 2 of 3 in 'beach,,city'"),
        (("classify", "colours", "--labels", " , "), 1, "label 1 of 2 in ' , ' is empty"),
        (("classify", "--index", "colours", "--labels", "red, собака", "--write"), 1, "cannot read 'собака'"),
        (("classify", "colours/red", "--model", "builtin"), 1, "has no subfolders to use as labels"),
        (("classify", "colours", "--probe", "nowhere", "-q"), 1, "does not contain a probe"),
    ):
        done = clipsearch(*arguments, folder=place, status=status)
        assert done.stderr.startswith("clipsearch: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
