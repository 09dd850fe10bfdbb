"""Real mounts for tests, where the system lets us; they are undone at the end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


class Mounts:
    """Mounts that one test made."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def tmpfs(self, place: Path, *, size: str = "16m") -> None:
        """An empty file system of its own at `place`. Skips the test where mounting is not allowed."""
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place), place=place)

    def bind(self, source: Path, place: Path) -> None:
        """What is in `source`, also at `place`. Skips the test where mounting is not allowed."""
        self._mount("--bind", str(source), str(place), place=place)

    def _mount(self, *arguments: str, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip("mounting needs root")
        self._made.append(place)

    def unmount(self, place: Path) -> None:
        subprocess.run(["umount", "-l", str(place)], check=True)
        self._made.remove(place)

    def close(self) -> None:
        while self._made:
            self.unmount(self._made[-1])


def can_mount(folder: Path) -> bool:
    """Whether this process may mount; tried in `folder`."""
    place = folder / "try-to-mount"
    place.mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
        if made.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True)
        return made.returncode == 0
    except OSError:
        return False
    finally:
        place.rmdir()
