"""Features that are kept on disk: a damaged file is computed again, as if it were not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

feature_cache = pytest.importorskip("clipsearch.training.feature_cache")


@pytest.mark.parametrize("damage", ["half", "ones", "zeros", "empty"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    arrays = {name: np.arange(4096, dtype=np.float32) for name in ("features", "vectors")}
    feature_cache._cached(tmp_path, "x", lambda: arrays)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 4
    damaged = {
        "half": whole[: len(whole) // 2],
        "ones": whole[:middle] + b"\xff" * 400 + whole[middle + 400 :],
        "zeros": bytes(len(whole)),
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    again = feature_cache._cached(tmp_path, "x", lambda: arrays)
    assert np.array_equal(again["features"], arrays["features"])
    assert path.read_bytes() == whole


def test_what_a_killed_run_left_half_written_goes_after_a_day(tmp_path: Path) -> None:
    old, new, other = (
        tmp_path / name for name in (f".{'a' * 32}.npz.12.345", f".{'b' * 32}.npz.12.345", ".notes.npz.1.2")
    )
    for path in (old, new, other):
        path.write_bytes(b"x")
    yesterday = time.time() - 90_000
    os.utime(old, (yesterday, yesterday))
    os.utime(other, (yesterday, yesterday))
    feature_cache._forget_oldest(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([new, other])
