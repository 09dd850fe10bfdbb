"""How many cores a process may use: by affinity, and by the limits of containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipsearch import cores

V1 = (("quota", "250000"), ("period", "100000"))


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {}, None),
        ("0::/a.slice/b.scope", {"a.slice/cpu.max": "200000 100000", "a.slice/b.scope/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/seen/from/outside", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/x", {f"cpu,cpuacct/x/cpu.cfs_{name}_us": n for name, n in V1}, 2.5),
        ("4:cpu,cpuacct:/docker/x", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/x", {"cpu.max": "100000 100000"}, None),
        ("0::/", {"cpu.max": "nonsense"}, None),
        ("0::/", {"cpu.max": "100000 0"}, None),
        ("nonsense", {"cpu.max": "nonsense of two words"}, None),
    ],
)  # fmt: skip
def test_the_limits_of_containers(own: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "own").write_text(own + "\n")
    groups = tmp_path / "groups"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    assert cores.container_cores(groups, tmp_path / "own") == expected


@pytest.mark.parametrize(("quota", "most"), [(0.3, 1), (1.0, 1), (1.2, 2), (1e6, 1 << 20), (None, 1 << 20)])
def test_a_part_of_a_core_counts_whole(quota: float | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "container_cores", lambda: quota)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert cores.available_cores() == min(allowed, most)
