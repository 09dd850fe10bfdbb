"""`--reindex` builds beside and switches at the end: killed at any moment, all old or all new pictures are found.

Set CLIPSEARCH_KILLS for more kills.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.breadth import tries
from tests.support.commands import REPOSITORY, Commands, State
from tests.support.faults import Faults, environment
from tests.support.pictures import fill

KILLS = tries("CLIPSEARCH_KILLS", 2, 5)
PICTURES = 48


@pytest.fixture
def photos(tmp_path: Path, commands: Commands) -> Path:
    fill(tmp_path / "photos", PICTURES)
    commands.index(tmp_path / "photos", "--model", "fake")
    return tmp_path / "photos"


def start(photos: Path, faults: Faults) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.reindex_process", str(photos)],
        cwd=REPOSITORY,
        env=environment(faults.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def checked(state: State, old: State) -> State:
    """All old, or all new: one model, all of the pictures, whole."""
    assert state.error is None
    assert not state.problems
    assert state.paths == old.paths
    if state.model == old.model:
        assert state.found == pytest.approx(old.found, abs=1e-5)
    assert state.tags == old.tags
    return state


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_all_old_or_all_new_at_every_moment(
    number: signal.Signals, photos: Path, commands: Commands, faults: Faults
) -> None:
    rng = random.Random(int(number))
    index = photos / ".clipsearch"
    assert commands.run("concept", "add", "dog", photos / "set000" / "p00001.jpg", "--index", photos).status == 0
    old = commands.state(index)
    assert (len(old.found), old.model, old.tags) == (PICTURES, "fake", ("dog",))
    interrupted = 0
    longest_s = 1.5
    for tried in range(20):
        if tried >= KILLS // 2 and interrupted:
            break
        began = time.monotonic()
        process = start(photos, faults)
        deadline = began + rng.uniform(0.2, 1) * longest_s
        while time.monotonic() < deadline and process.poll() is None:
            checked(commands.state(index, check=False), old)
        if process.poll() is None:
            interrupted += 1
            process.send_signal(number)
        else:
            longest_s = min(longest_s, time.monotonic() - began)
        process.communicate(timeout=60)
        checked(commands.state(index), old)
        if commands.state(index, check=False).model == "fake2":
            commands.index(photos, "--reindex", "--model", "fake")
    assert interrupted
    out, err = start(photos, faults).communicate(timeout=60)
    assert out.split()[1:] == [str(PICTURES)], err
    new = checked(commands.state(index), old)
    assert new.model == "fake2"
    assert new.found != old.found


@pytest.mark.slow
def test_killed_at_chosen_calls_it_goes_on_from_there(photos: Path, commands: Commands, faults: Faults) -> None:
    index = photos / ".clipsearch"
    old = commands.state(index)
    with faults.armed("rename", index, nth=10**9):
        process = start(photos, faults)
        process.communicate(timeout=60)
        renames = faults.calls()["rename"]
    assert commands.state(index).model == "fake2"
    commands.index(photos, "--reindex", "--model", "fake")
    encoded = []
    for share in (0.3, 0.5, 0.7, 0.9):
        with faults.armed("rename", index, nth=max(1, int(renames * share)), mode="kill"):
            process = start(photos, faults)
            out, err = process.communicate(timeout=60)
        if process.returncode == 0:
            encoded.append(int(out.split()[0]))
            break
        assert process.returncode == -signal.SIGKILL, err
        assert checked(commands.state(index), old).model == "fake"
    else:
        out, err = start(photos, faults).communicate(timeout=60)
        encoded.append(int(out.split()[0]))
    assert checked(commands.state(index), old).model == "fake2"
    assert encoded[-1] < PICTURES, "it began anew each time"


def test_new_and_vanished_pictures_meanwhile(photos: Path, commands: Commands, faults: Faults) -> None:
    """What happens between a killed run and the one that goes on is not lost."""
    index = photos / ".clipsearch"
    with faults.armed("rename", index, nth=8, mode="kill"):
        process = start(photos, faults)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (photos / "set001" / "p00011.jpg").unlink()
    fill(photos, 2, first=500)
    assert commands.index(photos, "--model", "fake")["indexed"] == 2
    between = commands.state(index)
    assert (len(between.found), between.model) == (PICTURES + 1, "fake")
    out, err = start(photos, faults).communicate(timeout=60)
    assert out.split()[1:] == [str(PICTURES + 1)], err
    end = commands.state(index)
    assert (end.paths, end.model, end.problems) == (between.paths, "fake2", ())
