"""Towers as OpenVINO compiled them: kept from the second time on, and never believed when they are damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from clipsearch.config import cache_dir
from clipsearch.encoder import compiled
from clipsearch.encoder.layout import ModelDirectory, read_model_directory
from clipsearch.encoder.openvino import OpenVinoTower
from clipsearch.records import FloatArray
from tests.support.tiny_models import write_model_directory

pytest.importorskip("openvino")
GIVEN = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    return read_model_directory(write_model_directory(tmp_path / "model"))


def vectors(model: ModelDirectory, told: str | None = "this one", lanes: int = 1) -> FloatArray:
    return OpenVinoTower(model, "fp32", lanes, 1, told=told).run(GIVEN)


def kept() -> list[str]:
    place = cache_dir() / compiled.FOLDER
    return sorted(path.suffix or path.name for path in place.rglob("*") if path.is_file()) if place.exists() else []


def the_blob() -> Path:
    (blob,) = (cache_dir() / compiled.FOLDER).rglob("*.blob")
    return blob


def test_a_tower_is_kept_when_it_is_loaded_again(model: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = vectors(model, None)
    assert kept() == []
    np.testing.assert_array_equal(vectors(model), exact)
    assert kept() == [compiled.WANTED]
    np.testing.assert_array_equal(vectors(model), exact)
    assert kept() == [".blob", compiled.RECEIPT]
    before = the_blob().stat()
    monkeypatch.setattr(compiled, "_compile_and_keep", lambda *_: pytest.fail("compiled again"))
    np.testing.assert_array_equal(vectors(model), exact)
    np.testing.assert_array_equal(vectors(model, lanes=2), exact)  # one file for any number of lanes
    assert the_blob().stat() == before or the_blob().stat().st_mtime_ns == before.st_mtime_ns
    vectors(model, "another")
    assert kept() == [".blob", compiled.RECEIPT, compiled.WANTED]


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "receipt", "no receipt", "a second"])
def test_what_is_damaged_is_made_again(model: ModelDirectory, damage: str) -> None:
    exact = vectors(model, None)
    for _ in range(2):
        vectors(model)
    blob = the_blob()
    whole = blob.read_bytes()
    receipt = blob.with_name(compiled.RECEIPT)
    blob.chmod(0o600)
    if damage == "a bit":  # OpenVINO itself takes such a file, and makes other vectors
        blob.write_bytes(
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 0x7F]) + whole[len(whole) // 2 + 1 :]
        )
    elif damage in ("cut", "empty"):
        blob.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    elif damage == "receipt":
        receipt.write_bytes(b"\xff\x00 what")
    elif damage == "no receipt":
        receipt.unlink()
    else:
        blob.with_name("17.blob").write_bytes(whole)
    for expected in ([compiled.WANTED], [".blob", compiled.RECEIPT]):
        np.testing.assert_array_equal(vectors(model), exact)
        assert kept() == expected


def test_a_tower_of_another_file_is_not_taken(model: ModelDirectory) -> None:
    """As after another version of OpenVINO, or where the model was moved."""
    for _ in range(2):
        vectors(model)
    os.utime(model.path / "visual/model.onnx", (1, 1))
    np.testing.assert_array_equal(vectors(model), vectors(model, None))
    assert kept() == []
    for _ in range(2):
        vectors(model)
    assert kept() == [".blob", compiled.RECEIPT]


def test_towers_take_no_more_room_than_they_may(model: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = cache_dir() / compiled.FOLDER / "mine"
    foreign.mkdir(parents=True)
    (foreign / "1.blob").write_bytes(b"x" * 100)
    stale = cache_dir() / compiled.FOLDER / ".part-abc"
    stale.mkdir()
    (stale / "2.blob").write_bytes(b"x")
    os.utime(stale, (1, 1))
    size = sum(path.stat().st_size for path in (model.path / "visual").iterdir())
    for told in ("a", "a", "b", "b"):
        vectors(model, told)
    assert not stale.exists()
    folders = {blob.parent for blob in (cache_dir() / compiled.FOLDER).rglob("*.blob")} - {foreign}
    assert len(folders) == 2
    for number, folder in enumerate(sorted(folders)):
        os.utime(folder / compiled.RECEIPT, (number + 1, number + 1))
    held = the_largest(folders)
    monkeypatch.setattr(compiled, "MOST_BYTES", held + size)
    for _ in range(2):
        vectors(model, "c")
    left = {blob.parent for blob in (cache_dir() / compiled.FOLDER).rglob("*.blob")} - {foreign}
    assert len(left) == 2
    assert sorted(folders)[0] not in left  # that was not used for the longest time
    assert (foreign / "1.blob").exists()
    monkeypatch.setattr(compiled, "MOST_BYTES", 1)
    for _ in range(2):
        vectors(model, "d")
    assert not list(left.pop().parent.glob(".part-*"))


def the_largest(folders: set[Path]) -> int:
    return max(path.stat().st_size for folder in folders for path in folder.glob("*.blob"))


def test_a_cache_that_cannot_be_written_costs_speed_only(
    model: ModelDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exact = vectors(model, None)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(3):
        np.testing.assert_array_equal(vectors(model), exact)
