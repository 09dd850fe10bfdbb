"""Getting ready for the first picture that is sent to a server, where there is memory for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import clipsearch
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.search.confidence import drawing_vectors
from clipsearch.server import warming
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.batching import BatchingEncoder
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain
from tests.support.tiny_models import write_model_directory

LOCAL = "http://127.0.0.1:7860"


@pytest.fixture
def index(photos: Path, encoder: FakeEncoder) -> Path:
    plain(COLOURS["red"]).save(photos / "red.png")
    index = clipsearch.index(photos, encoder=encoder).index
    drawing_vectors(encoder)  # kept, as `index` does for models that are prepared for queries
    encoder.images_encoded = 0
    return index


def test_a_server_that_is_idle_gets_ready_for_pictures(index: Path, encoder: FakeEncoder) -> None:
    app = create_app([index], encoder=encoder, options=ServerOptions(warm_pictures_after_s=0.01))
    with TestClient(app, base_url=LOCAL):
        deadline = time.monotonic() + 120
        while not encoder.images_encoded:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (decoders,) = app.state.service._decoders.values()
        (pool,) = decoders._pools
        (worker,) = pool._workers
        while worker.process is None:  # the one that decoded has ended; the next one is started for the next picture
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert encoder.images_encoded == 1


@pytest.mark.slow
def test_it_waits_for_searches_to_end_and_for_nobody_when_the_server_stops(index: Path, encoder: FakeEncoder) -> None:
    app = create_app([index], encoder=encoder, options=ServerOptions(warm_pictures_after_s=0.0))
    app.state.service.searches.unfinished = 1
    began = time.monotonic()
    with TestClient(app, base_url=LOCAL):
        time.sleep(0.3)
        assert not encoder.images_encoded
    assert time.monotonic() - began < 20
    assert not encoder.images_encoded
    late = create_app([index], encoder=encoder, options=ServerOptions(warm_pictures_after_s=3600.0))
    with TestClient(late, base_url=LOCAL):
        pass
    assert not encoder.images_encoded


@pytest.mark.slow
def test_where_memory_matters_nothing_is_loaded_ahead(
    index: Path, encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OnnxEncoder(write_model_directory(tmp_path / "model"))
    monkeypatch.setattr(warming, "LEAST_FREE_BYTES", 0)
    tower_bytes = sum(file.stat().st_size for file in (tmp_path / "model" / "visual").iterdir())
    for free_bytes, fits in ((16 * tower_bytes, True), (16 * tower_bytes - 1, False), (0, False)):
        monkeypatch.setattr(warming, "free_bytes", lambda free_bytes=free_bytes: free_bytes)
        assert warming.is_small(BatchingEncoder(model)) is fits
    monkeypatch.setattr(warming, "is_small", lambda encoder: False)
    app = create_app([index], encoder=encoder, options=ServerOptions(warm_pictures_after_s=0.0))
    with TestClient(app, base_url=LOCAL):
        time.sleep(0.3)
    assert not encoder.images_encoded
    assert not app.state.service._decoders


def test_what_is_free_is_what_the_system_or_the_container_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(warming, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert warming.free_bytes() == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert warming.free_bytes() == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    assert warming.free_bytes() == 2_000_000
