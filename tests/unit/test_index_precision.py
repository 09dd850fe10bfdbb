"""An index is encoded in one arithmetic: a picture has one vector, however many came with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipsearch
from clipsearch.encoder import choices, precision
from clipsearch.encoder.choices import PLAIN, Choice
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.pictures.images import read_picture
from clipsearch.store import open_snapshot
from tests.support.tiny_models import write_model_directory

INT8 = Choice("onnxruntime", "int8", 1, worked="fp32 int8")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    return write_model_directory(tmp_path / "model", dim=64)


def make_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def run(folder: Path, model: Path, asked: choices.Precision = "auto", *, reindex: bool = False) -> IndexReport:
    encoder = OnnxEncoder(model, precision=asked, threads=2)
    return index_folder(folder, encoder, options=IndexOptions(reindex=reindex, workers=1))


def noted(folder: Path) -> str | None:
    with open_snapshot(folder / ".clipsearch") as snapshot:
        return snapshot.manifest.model.precision


def vectors(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    with clipsearch.open(folder) as photos:
        return {record.path: photos.vector(record.row_id) for record in photos}


@pytest.mark.slow
@pytest.mark.parametrize("measured", [pytest.param(PLAIN, marks=pytest.mark.slow), INT8])
def test_one_by_one_and_all_at_once_give_the_same_vectors(
    tmp_path: Path, model: Path, measured: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_version", lambda name: "1")
    monkeypatch.setattr(precision, "_measure", lambda *_: measured)
    monkeypatch.setattr(precision, "_may_have_bf16", lambda: True)
    monkeypatch.setattr(precision, "usual_s", lambda *_: 60.0)  # so that measuring pays for one picture
    paths = make_pictures(tmp_path / "all", 20)
    run(tmp_path / "all", model)
    (tmp_path / "grows").mkdir()
    for path in paths[:4]:
        shutil.copy2(path, tmp_path / "grows" / path.name)
        run(tmp_path / "grows", model)
    for path in paths[4:]:
        shutil.copy2(path, tmp_path / "grows" / path.name)
    run(tmp_path / "grows", model)
    assert noted(tmp_path / "all") == noted(tmp_path / "grows") == measured.precision
    once, grown = vectors(tmp_path / "all"), vectors(tmp_path / "grows")
    assert min(float(once[name] @ grown[name]) for name in once) > 0.99999


def test_later_runs_follow_the_index_and_say_so_when_told_otherwise(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_version", lambda name: "1")
    monkeypatch.setattr(precision, "_measure", lambda *_: INT8)
    photos = tmp_path / "photos"
    paths = make_pictures(photos, 3)
    assert not run(photos, model, "fp32").warnings
    assert noted(photos) == "fp32"
    Image.new("RGB", (30, 30), "red").save(photos / "red.png")
    assert not run(photos, model).warnings  # although int8 is faster here
    exact = OnnxEncoder(model, precision="fp32")
    with clipsearch.open(photos) as opened:
        red = next(record for record in opened if record.path == "red.png")
        pixels = read_picture(photos / "red.png", exact.preprocessing).pixels
        assert float(opened.vector(red.row_id) @ exact.encode_images(pixels[None])[0]) > 0.999999
    Image.new("RGB", (30, 30), "blue").save(photos / "blue.png")
    (warning,) = run(photos, model, "int8").warnings
    assert "encoded pictures in int8; others in the index are in fp32" in warning
    assert noted(photos) == "fp32"
    assert not run(photos, model, "int8", reindex=True).warnings
    assert noted(photos) == "int8"
    assert paths[0].name in vectors(photos)
    paths[0].unlink()
    assert not run(photos, model).warnings
    assert noted(photos) == "int8"
