from __future__ import annotations

import pytest

ABOUT_PROCESSES = ("test_decoding", "test_build", "test_retries", "test_missing", "test_cores")


@pytest.fixture(autouse=True)
def one_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read pictures in one process, not in one for each core, where that is not what is tested: 0.2 s for each."""
    if request.path.stem not in ABOUT_PROCESSES:
        monkeypatch.setattr("clipsearch.pictures.pool.available_cores", lambda: 1)
