from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.fake_encoder import FakeEncoder

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background of a script: processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caches and the registry of the person who runs the tests out of them."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CLIPSEARCH_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CLIPSEARCH_PRECISION", "fp32")  # no trial of what is fastest in every test
    monkeypatch.delenv("CLIPSEARCH_INDEX", raising=False)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder
