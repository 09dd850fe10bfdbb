"""Fingerprints: what changes them, what does not, and what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipsearch.encoder.fingerprints import image_fingerprint, tower_files, visual_checksum
from clipsearch.encoder.layout import VISUAL_MODEL, read_model_directory
from clipsearch.errors import InvalidModel
from tests.support.tiny_models import FLOAT, field, model, node, write_model_directory


def fingerprint(directory: Path) -> str:
    return image_fingerprint(read_model_directory(directory))


def test_it_is_of_the_image_tower_alone(tmp_path: Path) -> None:
    first = fingerprint(write_model_directory(tmp_path / "a"))
    assert len(first) == 32
    assert int(first, 16)
    assert fingerprint(write_model_directory(tmp_path / "b", context_length=9, own={"score_scale": 5})) == first
    assert fingerprint(write_model_directory(tmp_path / "c", seed=1)) != first


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.5, 0.4, 0.31]},
        {"std": [0.2, 0.3, 0.41]},
        {"size": [16, 17]},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
    ],
    ids=str,
)
def test_preprocessing_changes_it(tmp_path: Path, change: dict[str, Any]) -> None:
    directory = write_model_directory(tmp_path, own={"image_fingerprint": "e" * 32})
    file = directory / "visual/preprocess_cfg.json"
    before = fingerprint(directory)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert fingerprint(directory) != before


def test_size_written_both_ways_is_the_same(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    file = directory / "visual/preprocess_cfg.json"
    before = fingerprint(directory)
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": [16, 16]}))
    assert fingerprint(directory) == before


def test_an_export_keeps_the_identity_of_its_weights_until_it_is_changed(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    checksum = visual_checksum(read_model_directory(directory))
    write_model_directory(tmp_path, own={"image_fingerprint": "a" * 32, "visual_checksum": checksum})
    assert fingerprint(directory) == "a" * 32
    write_model_directory(tmp_path, seed=1, own={"image_fingerprint": "a" * 32, "visual_checksum": checksum})
    assert fingerprint(directory) != "a" * 32


def test_weights_outside_the_model_file_count(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path, external=True)
    before = fingerprint(directory)
    assert [file.name for file in tower_files(directory, VISUAL_MODEL)] == ["model.onnx", "weights.bin"]
    data = bytearray((directory / "visual/weights.bin").read_bytes())
    data[5] ^= 1
    (directory / "visual/weights.bin").write_bytes(data)
    assert fingerprint(directory) != before
    (directory / "visual/weights.bin").unlink()
    with pytest.raises(InvalidModel, match=r"'weights.bin', which is missing"):
        fingerprint(directory)


@pytest.mark.parametrize("place", ["../../secret", "/etc/passwd", "a\\b", "C:x"])
def test_weights_elsewhere_are_refused(tmp_path: Path, place: str) -> None:
    directory = write_model_directory(tmp_path)
    tensor = field(1, 2) + field(2, FLOAT) + field(8, "w") + field(13, field(1, "location") + field(2, place))
    data = model([node("Identity", ["image"], ["vector"])], [tensor], [("image", FLOAT, [1])], [("vector", FLOAT, [1])])
    (directory / "visual/model.onnx").write_bytes(data)
    with pytest.raises(InvalidModel, match="outside its folder"):
        fingerprint(directory)


def test_every_truncation_of_a_model_is_noticed(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    data = (directory / "visual/model.onnx").read_bytes()
    before = fingerprint(directory)
    for length in range(0, len(data), 7):
        (directory / "visual/model.onnx").write_bytes(data[:length])
        try:
            assert fingerprint(directory) != before
        except InvalidModel:
            continue
