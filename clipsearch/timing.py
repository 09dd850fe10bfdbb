"""Where a command's time goes: `CLIPSEARCH_TIMING=1` prints it on stderr. Costs nothing otherwise."""

from __future__ import annotations

import os
import sys
import time

_ASKED = os.environ.get("CLIPSEARCH_TIMING", "") not in ("", "0")
_MOST = 1000  # a server goes on for ever
_laps: list[tuple[str, float]] = []


def lap(name: str) -> None:
    """End a step called `name`; it began where the last one ended (the first: when the process started)."""
    if _ASKED and len(_laps) < _MOST:
        _laps.append((name, time.time()))


def print_laps() -> None:
    """Print every step with its milliseconds, and their sum."""
    if not _laps:
        return
    before = began = _process_start() or _laps[0][1]
    for name, at in _laps:
        print(f"{1000 * (at - before):8.1f} ms  {name}", file=sys.stderr)
        before = at
    print(f"{1000 * (before - began):8.1f} ms  in all", file=sys.stderr)


def _process_start() -> float | None:
    """When this process started, in seconds since the epoch, to a hundredth; None where /proc does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
