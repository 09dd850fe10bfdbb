"""Training on one core: the tests already run side by side, and PyTorch's threads wait for each other in vain."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch = sys.modules.get("torch")  # tests that need it have imported it: three seconds for those that do not
    if torch is not None:
        torch.set_num_threads(1)
