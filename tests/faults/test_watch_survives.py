"""What the system says of the folder ends no watch."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cases import thinned
from tests.support.commands import REPOSITORY, Commands
from tests.support.faults import Family, Faults, environment
from tests.support.pictures import fill

READING: tuple[Family, ...] = ("open", "read", "stat", "list")


@pytest.fixture
def watch(photos: Path, commands: Commands, faults: Faults) -> Iterator[Watch]:
    pytest.importorskip("watchfiles")
    fill(photos, 3)
    commands.index(photos)
    watch = Watch(photos, environment(faults.env))
    yield watch
    faults.disarm()
    watch.close()


class Watch:
    """`clipsearch index --watch` in the background, and what it says."""

    def __init__(self, photos: Path, env: dict[str, str]) -> None:
        self._said = photos.with_name("said")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_main", "index", str(photos), "--watch", "--workers", "1"],
            cwd=REPOSITORY,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=self._said.open("wb"),
        )
        self.wait_for("Watching")
        time.sleep(2)  # it looks once more for what came before it watched

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_for(self, words: str, within_s: float = 120) -> None:
        until = time.monotonic() + within_s
        while words not in self.said:
            assert self._process.poll() is None, self.said
            assert time.monotonic() < until, (words, self.said)
            time.sleep(0.05)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(120)
        assert "Traceback" not in self.said


@pytest.mark.few(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    "error", thinned([errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EACCES], 4), ids=errno.errorcode.get
)
def test_a_watch_survives_a_root_that_answers_with_errors(
    watch: Watch, photos: Path, faults: Faults, error: int
) -> None:
    before = (photos / ".clipsearch" / "CURRENT").read_bytes()
    with faults.armed(READING, photos, error=error, mode="from then on"):
        watch.wait_for(os.strerror(error))
        time.sleep(2.5)
    watch.wait_for("is back")
    fill(photos, 1, first=5)
    until = time.monotonic() + 30
    while (photos / ".clipsearch" / "CURRENT").read_bytes() == before:
        assert time.monotonic() < until, watch.said
        time.sleep(0.1)
    assert watch.said.count("is unavailable") == 1


@pytest.mark.slow
@pytest.mark.parametrize("families", thinned(["open", "read", "list"], 3))
def test_a_watch_survives_a_run_that_fails(watch: Watch, photos: Path, faults: Faults, families: Family) -> None:
    with faults.armed(families, photos, mode="from then on"):
        fill(photos, 1, first=5)
        time.sleep(4)
    before = (photos / ".clipsearch" / "CURRENT").read_bytes()
    fill(photos, 1, first=6)
    until = time.monotonic() + 30
    while (photos / ".clipsearch" / "CURRENT").read_bytes() == before:
        assert time.monotonic() < until, watch.said
        time.sleep(0.1)
