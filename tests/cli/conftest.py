from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def one_cache(shared_cache: None) -> None:
    """These tests have a real model, and share what is cached for it, with the fixtures of modules."""
