"""How many processor cores and how much memory this process may use."""

from __future__ import annotations

import importlib
import os
import sys
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


_share: int | None = None


def available_cores() -> int:
    """Cores by the machine, this process's affinity, and the limit of its container (a part of a core counts whole).

    A process that shares a machine may have been given fewer: see `use_cores`.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = container_cores()
    cores = cores if quota is None else max(1, min(cores, -int(-quota // 1)))
    return cores if _share is None else max(1, min(cores, _share))


def use_cores(count: int | None) -> None:
    """Let this process use so many cores at most: its share of a machine on which others work beside it."""
    global _share
    _share = count


def import_with_sleeping_threads(name: str) -> Any:
    """Import a module whose OpenMP threads are to wait asleep, not spinning, unless the environment says how.

    On a busy machine spinning threads take the processor from those that work. OpenMP reads this once, when it is
    loaded.
    """
    if name in sys.modules or "OMP_WAIT_POLICY" in os.environ:
        return importlib.import_module(name)
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        return importlib.import_module(name)
    finally:
        del os.environ["OMP_WAIT_POLICY"]


@lru_cache
def container_cores(groups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float | None:
    """The least number of cores that this process's control groups allow, versions 2 and 1; None for no limit."""
    limits = [limit for place in _places(groups, own, "cpu") if (limit := _limit(place)) is not None]
    return min(limits, default=None)


def usable_memory() -> int:
    """Bytes of memory that the machine has, or that the container of this process may use, if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = container_memory()
    return machine if allowed is None else min(machine, allowed)


@lru_cache
def container_memory(groups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """The least number of bytes that this process's control groups allow, versions 2 and 1; None for no limit."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    places = _places(groups, own, "memory")
    limits = [limit for place in places for name in names if (limit := _bytes(place / name)) is not None]
    return min(limits, default=None)


def _bytes(file: Path) -> int | None:
    """What a file of one number says. No number, and none worth a limit, say nothing."""
    try:
        number = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return number if 0 < number < _NO_LIMIT_BYTES else None


_NO_LIMIT_BYTES = 2**60  # version 1 writes nearly 2^63


def _places(groups: Path, own: Path, controller: str) -> list[Path]:
    """The folders of this process's groups and of those above them. Within a container, its own group is the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = ["0::/"]
    places = []
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and controller not in kinds.split(","):
            continue
        tops = [groups / kinds, groups / controller] if kinds else [groups, groups / "unified"]
        group = PurePosixPath(path)
        inside = [group, *group.parents]
        places += [top / str(part).lstrip("/") for top in tops for part in inside]
    return places


def _limit(place: Path) -> float | None:
    """Cores that one group allows. Unreadable files, and what is no number, say nothing."""
    try:
        quota, period = (place / "cpu.max").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        try:
            quota, period = ((place / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        except (OSError, ValueError):
            return None
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
