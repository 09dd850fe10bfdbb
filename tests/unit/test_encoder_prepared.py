"""Prepared text towers: the same vectors, made once, and never used when damaged or out of date."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from clipsearch.checksums import file_checksum
from clipsearch.config import cache_dir
from clipsearch.encoder import prepared
from clipsearch.encoder.layout import read_model_directory
from clipsearch.encoder.names import builtin_directory
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.encoder.prepared import prepare_text_tower, prepared_text_tower
from clipsearch.errors import InvalidModel, StorageError
from tests.support.tiny_models import write_model_directory

TEXTS = ["a dog on the beach", "a red cat", ""]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose token table is big enough to lie outside its graph (4 KiB)."""
    return write_model_directory(tmp_path / "model", dim=512)


def found(model: Path) -> Path | None:
    return prepared_text_tower(read_model_directory(model))


def test_a_prepared_tower_gives_the_same_vectors(model: Path) -> None:
    expected = OnnxEncoder(model).encode_texts(TEXTS)
    assert found(model) is None
    folder = prepare_text_tower(model)
    assert found(model) == folder / prepared.GRAPH
    assert (folder / prepared.WEIGHTS).stat().st_size > 1024
    np.testing.assert_allclose(OnnxEncoder(model).encode_texts(TEXTS), expected, atol=1e-6)
    one_by_one = OnnxEncoder(model)  # hastily at first, then thoroughly
    for _ in range(2):
        for text, vector in zip(TEXTS, expected, strict=True):
            np.testing.assert_allclose(one_by_one.encode_texts([text])[0], vector, atol=1e-6)


def test_a_prepared_tower_is_what_is_loaded(model: Path) -> None:
    """Weights that are changed together with the receipt change the vectors: so they were used."""
    expected = OnnxEncoder(model).encode_texts(["a dog"])
    folder = prepare_text_tower(model)
    weights = np.fromfile(folder / prepared.WEIGHTS, np.float32)
    weights[::2] *= -1
    weights.tofile(folder / prepared.WEIGHTS)
    receipt = json.loads((folder / prepared.RECEIPT).read_text())
    receipt["files"][prepared.WEIGHTS] = file_checksum(folder / prepared.WEIGHTS, remember_from_bytes=1 << 40)
    (folder / prepared.RECEIPT).write_text(json.dumps(receipt))
    assert float((OnnxEncoder(model).encode_texts(["a dog"]) * expected).sum()) < 0.5


def test_preparing_again_only_looks(model: Path) -> None:
    folder = prepare_text_tower(model)
    before = (folder / prepared.WEIGHTS).stat()
    assert prepare_text_tower(model) == folder
    assert (folder / prepared.WEIGHTS).stat() == before
    assert [child.name for child in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", [prepared.GRAPH, prepared.WEIGHTS, prepared.RECEIPT])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_one_is_deleted_and_the_source_used(model: Path, name: str, damage: str) -> None:
    expected = OnnxEncoder(model).encode_texts(TEXTS)
    folder = prepare_text_tower(model)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0x41
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(bytes(data) if damage == "flip" else bytes(data)[: len(data) // 2])
    np.testing.assert_allclose(OnnxEncoder(model).encode_texts(TEXTS), expected, atol=1e-6)
    assert not folder.exists() or name == prepared.RECEIPT  # a flip in the receipt may lie in its free text
    prepare_text_tower(model)
    assert found(model) is not None


def test_another_source_or_onnxruntime_has_its_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_model_directory(tmp_path / "other", dim=512, seed=1)
    first, second = prepare_text_tower(model), prepare_text_tower(other)
    assert first != second
    assert first.is_dir()
    (other / "textual/model.onnx").write_bytes((model / "textual/model.onnx").read_bytes())
    assert found(other) == first / prepared.GRAPH  # the same bytes
    monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    assert found(model) is None
    third = prepare_text_tower(model)
    assert third not in (first, second)
    assert not first.exists()  # of the other version


def test_those_of_models_that_are_gone_are_removed(model: Path, tmp_path: Path) -> None:
    other = write_model_directory(tmp_path / "other", dim=512, seed=1)
    gone = prepare_text_tower(other)
    (other / "textual/model.onnx").unlink()
    abandoned = gone.parent / f"{prepared.PART}{gone.name}-abcdefgh"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    kept = prepare_text_tower(model)
    assert [child.name for child in kept.parent.iterdir()] == [kept.name]


def test_a_damaged_source_is_an_error_that_leaves_nothing(model: Path) -> None:
    source = model / "textual/model.onnx"
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(InvalidModel, match="cut short"):
        prepare_text_tower(model)
    source.write_bytes(b"\x3a\x00")  # an ONNX file with an empty graph
    with pytest.raises(InvalidModel, match="cannot be prepared"):
        prepare_text_tower(model)
    assert list((cache_dir() / prepared.FOLDER).iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_error_with_a_way_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = cache_dir()
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="Queries still work"):
        prepare_text_tower(model)
    assert OnnxEncoder(model).encode_texts(TEXTS).shape == (3, 512)


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("is_prepared", [True, False])
def test_an_encoder_as_new_encodes_as_a_new_process_does(is_prepared: bool) -> None:
    """However many texts are encoded at once, and whatever was encoded before."""
    builtin = builtin_directory()
    if is_prepared:
        prepare_text_tower(builtin)
    words = ["dog", "a photo of dog", "tree", "a photo of tree", "two cats on a sofa", "x", "ein Hund am Strand"]
    kept = OnnxEncoder(builtin).as_new()
    as_new = cache(lambda *texts: OnnxEncoder(builtin).encode_texts(texts))
    for count in (1, 2, 40, 4, 3, 1, 5, 2, 33, 4):
        texts = [f"{words[n % len(words)]}{' again' * (n // len(words))}" for n in range(count)]
        np.testing.assert_array_equal(kept.encode_texts(texts), as_new(*texts))
