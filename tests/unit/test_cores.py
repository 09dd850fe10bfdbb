"""How many cores a process may use: by affinity, and by the limits of containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipsearch import cores
from clipsearch.pictures import pool as decoding

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


HUGE = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"memory.max": "536870912\n"}, 2**29),
        ("0::/", {"memory.max": "max\n", "memory.high": "max"}, None),
        ("0::/", {"memory.max": "max\n", "memory.high": "268435456"}, 2**28),
        ("0::/", {}, None),
        ("0::/a.slice/b.scope", {"a.slice/memory.max": "1073741824", "a.slice/b.scope/memory.max": "max"}, 2**30),
        ("0::/a/b/c", {"a/memory.max": "4294967296", "a/b/memory.max": "2147483648", "a/b/c/memory.max": "max"}, 2**31),
        ("0::/seen/from/outside", {"memory.max": "536870912"}, 2**29),
        ("4:memory:/docker/x", {"memory/docker/x/memory.limit_in_bytes": "536870912"}, 2**29),
        ("4:memory:/a/b", {"memory/a/memory.limit_in_bytes": "1048576000", "memory/a/b/memory.limit_in_bytes": HUGE},
         1048576000),
        ("4:memory:/docker/x", {"memory/memory.limit_in_bytes": "536870912"}, 2**29),  # from within a container
        ("4:memory:/", {"memory/memory.limit_in_bytes": HUGE}, None),
        ("3:cpu:/x\n4:hugetlb,memory:/y", {"hugetlb,memory/y/memory.limit_in_bytes": "1073741824"}, 2**30),
        ("3:cpu:/x\n0::/y", {"unified/y/memory.max": "1073741824"}, 2**30),
        ("3:cpu:/x", {"cpu/x/memory.limit_in_bytes": "1024"}, None),
        ("0::/", {"memory.max": "nonsense"}, None),
        ("0::/", {"memory.max": "0"}, None),
        ("0::/", {"memory.max": "-1"}, None),
        ("", {"memory.max": "536870912"}, 2**29),  # a line without a group: the root
    ],
)  # fmt: skip
def test_the_memory_of_containers(own: str, files: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    (tmp_path / "own").write_text(own + "\n")
    groups = tmp_path / "groups"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    assert cores.container_memory(groups, tmp_path / "own") == expected


@pytest.mark.parametrize(
    ("machine", "container", "limit"),
    [
        (64 * 2**30, None, 4 * 2**30),
        (6 * 2**30, None, 3 * 2**30),
        (64 * 2**30, 2**30, 2**30 * 3 // 4),
        (64 * 2**30, 2**29, 2**29 * 3 // 4),
        (64 * 2**30, 3 * 2**30, 3 * 2**29),
        (64 * 2**30, 128 * 2**30, 4 * 2**30),
    ],
)
def test_decoders_stay_within_the_memory_of_a_container(
    machine: int, container: int | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": machine // 4096}[name])
    monkeypatch.setattr(cores, "container_memory", lambda: container)
    assert decoding._memory_limit() == limit


def test_threads_of_a_module_wait_asleep_unless_the_environment_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        code = "import os\nfound = os.environ['OMP_WAIT_POLICY']\n"
        (tmp_path / f"loaded_once_{number}.py").write_text(code)
    (tmp_path / "broken_when_loaded.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert cores.import_with_sleeping_threads("loaded_once_1").found == "passive"
    with pytest.raises(ZeroDivisionError):
        cores.import_with_sleeping_threads("broken_when_loaded")
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert cores.import_with_sleeping_threads("loaded_once_2").found == "active"
    assert os.environ["OMP_WAIT_POLICY"] == "active"
