from __future__ import annotations

import os

import pytest

CACHE = os.environ["CLIPSEARCH_CACHE_DIR"]


@pytest.fixture(autouse=True)
def one_cache(own_places: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached for a real model takes a second to make: these tests share it, with the fixtures of modules."""
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", CACHE)
