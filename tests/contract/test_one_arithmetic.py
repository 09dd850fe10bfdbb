"""A picture has one vector in a collection, whatever else the process has encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipsearch
from clipsearch.encoder import choices, precision
from clipsearch.encoder.choices import Choice
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.records import Hit
from tests.support.collections import serving
from tests.support.tiny_models import write_model_directory

FP32 = Choice("onnxruntime", "fp32", worked="fp32 int8")
INT8 = Choice("onnxruntime", "int8", 1, worked="fp32 int8")


@pytest.fixture(params=[FP32, INT8], ids=["fp32 is fastest", "int8 is fastest"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnnxEncoder]:
    pytest.importorskip("onnx")
    monkeypatch.setattr(precision, "_version", lambda name: "1")
    monkeypatch.setattr(precision, "_measure", lambda *_: request.param)
    yield OnnxEncoder(write_model_directory(tmp_path / "model", dim=64), threads=2)


def make_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(3)
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)).save(path)
    return paths


def told(hits: list[Hit]) -> list[tuple[int, float]]:
    return [(hit.record.row_id, hit.score) for hit in hits]


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["fp32", "int8", "auto"])
def test_a_question_has_one_answer_whatever_was_encoded_before(
    tmp_path: Path, encoder: OnnxEncoder, asked: choices.Precision
) -> None:
    """Ask, upload 16 pictures and a panorama of 32 squares, ask again: through Python and through a server."""
    photos = tmp_path / "photos"
    paths = make_pictures(photos, 12)
    others = make_pictures(tmp_path / "others", 17)
    Image.effect_noise((1280, 40), 60).convert("RGB").save(tmp_path / "panorama.png")
    made = OnnxEncoder(encoder.directory, precision=asked, threads=2)
    index_folder(photos, made, options=IndexOptions(workers=1))
    with (
        clipsearch.open(photos, encoder=encoder) as local,
        serving(photos / ".clipsearch", encoder) as (url, _),
        clipsearch.connect(url) as remote,
    ):
        stored = {record.path: local.vector(record.row_id) for record in local}
        for collection in (local, remote):
            before = told(collection.search(others[16], 12, all=True))
            alone = collection.encode_picture(paths[3])
            assert float(alone @ stored[paths[3].name]) > 0.99999
            together = collection.encode_picture([*others[:16]])
            collection.encode_picture(tmp_path / "panorama.png")
            encoder.encode_images(np.zeros((20, 16, 16, 3), np.uint8))  # for somebody else
            np.testing.assert_allclose(collection.encode_picture(others[2]), together[2], atol=1e-5)
            after = told(collection.search(others[16], 12, all=True))
            assert [row for row, _ in after] == [row for row, _ in before]
            np.testing.assert_allclose([s for _, s in after], [s for _, s in before], atol=1e-5)
            for path in paths:
                assert float(collection.encode_picture(path) @ stored[path.name]) > 0.99999


def test_an_encoder_has_one_arithmetic(tmp_path: Path, encoder: OnnxEncoder) -> None:
    paths = make_pictures(tmp_path / "photos", 20)
    embedding = clipsearch.Encoder(encoder)
    alone = embedding.encode_picture(paths[5])
    np.testing.assert_allclose(embedding.encode_picture(paths)[5], alone, atol=1e-5)
    np.testing.assert_allclose(embedding.encode_picture(paths[5]), alone, atol=1e-5)
