"""What there is to know of pairs before training on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipsearch.cli.check import check_json, print_check
from clipsearch.encoder.names import load_encoder
from clipsearch.pairs.checking import CheckReport, check_pairs
from clipsearch.pairs.reading import open_pairs
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture


class CountingEncoder(FakeEncoder):
    """A token for each word, and seven of them at most."""

    def text_lengths(self, texts: Sequence[str]) -> tuple[list[int], int]:
        return [len(text.split()) for text in texts], 7


@pytest.fixture
def report(tmp_path: Path) -> CheckReport:
    train, dev = tmp_path / "train", tmp_path / "dev"
    for folder, seeds in ((train, range(6)), (dev, range(10, 13))):
        folder.mkdir()
        for seed in seeds:
            picture(seed, size=(40 + seed, 30)).save(folder / f"{seed}.jpg")
            (folder / f"{seed}.txt").write_text(f"picture number {seed}\n")
    (train / "0.txt").write_text("Picture  Number Zero\npicture number zero\n")
    (train / "1.txt").write_text("a sentence of clearly more than seven words")
    (train / "2.txt").write_text("a chair")
    (train / "3.txt").write_text("A chair")
    (train / "4.jpg").write_bytes((train / "4.jpg").read_bytes()[:200])
    (train / "mute.jpg").write_bytes(b"x")
    shutil.copy(train / "0.jpg", train / "copy.jpg")
    (train / "copy.txt").write_text("another")
    shutil.copy(train / "2.jpg", dev / "leak.jpg")
    (dev / "leak.txt").write_text("something else")
    (dev / "10.txt").write_text("a CHAIR\n")
    return check_pairs(open_pairs(train), open_pairs(dev), encoder=CountingEncoder(), workers=1)


def test_everything_is_found(report: CheckReport) -> None:
    train, dev = report.train, report.dev
    assert (train.pairs, train.captions) == (6, 7)
    assert [(entry.entry, entry.reason) for entry in train.bad] == [("mute", "no_caption")]
    assert [(Path(skip.path).name, skip.status) for skip in train.unreadable] == [("4.jpg", "truncated")]
    assert train.same_picture == [("0", "copy")]
    assert train.same_caption == [("a chair", 2)]
    assert train.repeated_within == 1
    assert (train.context_length, train.too_long) == (7, 1)
    assert train.tokens is not None
    assert (train.tokens.least, train.tokens.greatest) == (1, 8)
    assert (train.widths.least, train.widths.greatest, train.heights.median) == (40, 45, 30)
    assert len(train.sample) == 5
    assert dev is not None
    assert (dev.pairs, dev.bad, dev.unreadable) == (4, (), [])
    assert report.leaked_pictures == [("2", "leak")]
    assert report.leaked_captions == ["a CHAIR"]
    assert report.leaks


def test_it_prints_what_to_mend(report: CheckReport, capsys: pytest.CaptureFixture[str]) -> None:
    print_check(report)
    out = capsys.readouterr().out
    for part in (
        "training pairs  6 pictures, 7 captions",
        "skipped       1 no caption",
        "skipped       1 unreadable picture",
        "the model takes 7: 1 caption cut off",
        "2 times: a chair",
        "0 = copy",
        "! 1 dev picture also in the training pairs (2 = leak)",
        "! 1 dev caption also in the training pairs (a CHAIR)",
        "! 2 training entries will be skipped",
        "! 1 training picture is identical to another",
        "! 14 % of the training captions are longer than the",
    ):
        assert part in out, out
    assert json.loads(json.dumps(check_json(report)))["train"]["same_picture"] == [["0", "copy"]]


def test_clean_pairs_have_nothing_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a gradient \x1b[31m")
    report = check_pairs(open_pairs(tmp_path), workers=1)
    assert not report.leaks
    assert report.train.tokens is None
    print_check(report)
    out = capsys.readouterr().out
    assert "no problems found" in out
    assert "\x1b" not in out


def test_the_embedded_model_counts_its_tokens() -> None:
    encoder = load_encoder("builtin")
    counted = encoder.text_lengths(["a dog", "a dog " * 200])
    assert counted is not None
    lengths, limit = counted
    assert lengths[0] == 4  # with the marks of start and end
    assert lengths[1] > limit > 4
    assert encoder.encode_texts(["a dog " * 200]).shape == (1, encoder.dim)
