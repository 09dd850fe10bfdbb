"""The measuring of other languages: which captions belong to a stamp, and what counts as found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate_languages.py"
ENGLISH_COLOURS = list(COLOURS)[:3] + list(COLOURS)[4:]  # "gray" looks like "grey"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_languages", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """A stamp of each colour; "simple" captions are the English ones, "wrong" ones name the next colour."""
    for number, colour in enumerate(ENGLISH_COLOURS):
        folder = tmp_path / "stamps" / f"set{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        plain(COLOURS[colour]).save(folder / f"{colour}.png")
        wrong = ENGLISH_COLOURS[(number + 1) % len(ENGLISH_COLOURS)]
        lines = [colour, f"simple.utf8={colour}", f"wrong.utf8={wrong}"]
        if number == 0:
            lines.append("rare.utf8=black")
        (folder / f"{colour}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "stamps"


def test_captions_are_read_by_language(script: ModuleType) -> None:
    text = " A dog. \r\nde.utf8=Ein Hund = Tier.\nja.utf8=犬\nfr.utf8=\nno caption\n"
    assert script.parse_captions(text) == {"en": "A dog.", "de": "Ein Hund = Tier.", "ja": "犬"}
    assert script.parse_captions("") == {}


def test_stamps_with_the_same_english_caption_count_once(script: ModuleType, stamps: Path) -> None:
    plain((1, 2, 3)).save(stamps / "zzz.png")
    (stamps / "zzz.txt").write_text("red\n", encoding="utf-8")
    (stamps / "drawing.txt").write_text("A drawing that is no PNG.\n", encoding="utf-8")
    found = script.read_stamps(stamps)
    assert sorted(stamp.captions["en"] for stamp in found) == sorted(ENGLISH_COLOURS)
    assert not any(stamp.picture.name == "zzz.png" for stamp in found)


def test_an_empty_folder_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no stamp"):
        script.read_stamps(tmp_path)


def test_right_captions_find_their_stamps_and_wrong_ones_do_not(
    script: ModuleType, stamps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "load_encoder", lambda name, **settings: FakeEncoder())
    lines = script.measure("fake", script.read_stamps(stamps), ["simple", "wrong", "rare", "none"], 1)
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    count = str(len(ENGLISH_COLOURS))
    assert rows["en"] == rows["simple"] == [count, "100.0", "100.0", "100.0", "100.0"]
    assert rows["wrong"][:2] == [count, "0.0"] and float(rows["wrong"][4]) < 100
    assert rows["rare"][:2] == ["1", "100.0"]
    assert rows["none"] == ["none"]


def test_only_pictures_that_both_find_are_shared(script: ModuleType) -> None:
    some, others = np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])
    assert script.shared(some, others) == pytest.approx(0.75)
