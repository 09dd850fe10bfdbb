"""What wakes nobody, what does not wait, and file systems without locks.

Set CLIPSEARCH_LOG_S to let a log grow for longer under --watch.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.cases import thinned
from tests.support.commands import REPOSITORY, Commands
from tests.support.faults import Family, Faults, environment
from tests.support.pictures import fill
from tests.support.trees import differences, tree

LOG_S = float(os.environ.get("CLIPSEARCH_LOG_S", "5"))
WAIT_S = 3.0
IN_A_COMMIT = 0.9  # share of its syncs after which a run is in its last commit


def start(faults: Faults, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
    """The command line with the fake encoder, in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_main", *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment(faults.env, env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_stopped(process: subprocess.Popen[str], faults: Faults) -> bool:
    """Wait until the process is stopped by the order that it has; False if it ended before that."""
    deadline = time.monotonic() + 120
    while process.poll() is None:
        if Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1][0] == "T":
            faults.disarm()
            return True
        assert time.monotonic() < deadline
        time.sleep(0.01)
    faults.disarm()
    return False


def current(photos: Path) -> bytes:
    return (photos / ".clipsearch" / "CURRENT").read_bytes()


# -- what is not a picture


def test_what_is_no_picture_commits_nothing(photos: Path, commands: Commands) -> None:
    fill(photos, 3)
    first = commands.index(photos)["generation"]
    (photos / "server.log").write_text("one line\n")
    (photos / "nowhere").symlink_to("not there")
    (photos / "nowhere.jpg").symlink_to("not there")
    os.mkfifo(photos / "pipe")
    os.mkfifo(photos / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(photos)  # the names of sockets are short
        listening.bind("socket")
        for number in range(3):
            with (photos / "server.log").open("a") as log:
                log.write("another line\n")
            (photos / f"{number}.log").write_text("x")
            assert commands.index(photos)["generation"] == first
    os.chdir(REPOSITORY)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    report = commands.index(photos)
    assert report["generation"] > first
    assert any(skip["path"] == "broken.jpg" for skip in report["skipped"])
    assert commands.index(photos)["generation"] == report["generation"]


@pytest.mark.slow
def test_a_growing_log_wakes_nobody(photos: Path, commands: Commands, faults: Faults) -> None:
    pytest.importorskip("watchfiles")
    fill(photos, 3)
    (photos / "server.log").write_text("first\n")
    commands.index(photos)
    watching = start(faults, "index", photos, "--watch")
    try:
        assert watching.stderr is not None
        for line in watching.stderr:
            if line.startswith("Watching"):
                break
        time.sleep(2)  # it looks once more for what came before it watched
        before = current(photos)
        seen = {before}
        deadline = time.monotonic() + LOG_S
        with (photos / "server.log").open("a") as log:
            while time.monotonic() < deadline:
                log.write("a line\n")
                log.flush()
                time.sleep(0.1)
                seen.add(current(photos))
        time.sleep(2.5)
        assert seen | {current(photos)} == {before}
        fill(photos, 1, first=5)
        deadline = time.monotonic() + 120
        while current(photos) == before and time.monotonic() < deadline:
            time.sleep(0.1)
        assert current(photos) != before
    finally:
        watching.terminate()
        watching.communicate(timeout=120)


# -- tags and runs


@pytest.mark.few(each="command moment")
@pytest.mark.parametrize("command", thinned(["index", "reindex", "compact"], 3))
@pytest.mark.parametrize("moment", thinned([0.3, IN_A_COMMIT], 2))
def test_a_tag_does_not_wait_for_a_run_and_survives_it(
    moment: float, command: str, photos: Path, commands: Commands, faults: Faults
) -> None:
    index = photos / ".clipsearch"
    for first in (0, 10, 20):
        fill(photos, 6, first=first)
        commands.index(photos)
    (photos / "set000" / "p00003.jpg").unlink()
    commands.index(photos)
    assert commands.run("concept", "add", "old", photos / "set000" / "p00001.jpg", "--index", photos).status == 0
    fill(photos, 6, first=30)
    arguments: dict[str, list[str | Path]] = {
        "index": ["index", photos, "-q"],
        "reindex": ["index", photos, "--reindex", "-q"],
        "compact": ["compact", "--index", photos],
    }
    copied = photos.with_name("counted")
    subprocess.run(["cp", "-a", photos, copied], check=True)
    with faults.armed("sync", copied / ".clipsearch", nth=10**9):
        commands.run(*[copied if part == photos else part for part in arguments[command]])
        syncs = faults.calls()["sync"]
    assert syncs > 1
    before = commands.state(index)
    faults.arm("sync", index, nth=max(1, int(syncs * moment)), mode="stop")
    run = start(faults, *arguments[command])
    assert is_stopped(run, faults), run.communicate()
    try:
        saving = start(faults, "concept", "add", "new", photos / "set000" / "p00002.jpg", "--index", photos)
        with suppress(subprocess.TimeoutExpired):
            saving.wait(WAIT_S if moment == IN_A_COMMIT else 60)
        waited = saving.poll() is None  # right only while the run stands in the middle of a commit
        if not waited:
            meanwhile = commands.state(index, check=False)
            assert set(meanwhile.tags) == {"old", "new"}
            assert meanwhile.paths >= before.paths
            removed = commands.run("concept", "remove", "old", "--index", photos, timeout_s=120)
    finally:
        run.send_signal(signal.SIGCONT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    _, err = saving.communicate(timeout=60)
    assert saving.returncode == 0, err
    assert not waited or moment == IN_A_COMMIT
    if waited:
        removed = commands.run("concept", "remove", "old", "--index", photos)
    assert removed.status == 0, removed.err
    after = commands.state(index)
    assert after.tags == ("new",)
    assert after.paths >= before.paths
    assert not after.problems
    commands.index(photos)
    end = commands.state(index)
    assert (len(end.found), end.tags, end.problems) == (23, ("new",), ())
    found = commands.run("query", "tag:new", "--paths", "--index", photos)
    assert "p00002.jpg" in found.out


@pytest.mark.slow
def test_tags_of_many_at_once_are_all_kept(photos: Path, commands: Commands, faults: Faults) -> None:
    fill(photos, 6)
    commands.index(photos)
    savers = [
        start(faults, "concept", "add", f"tag{n}", photos / "set000" / f"p{n:05d}.jpg", "--index", photos)
        for n in range(6)
    ]
    for saver in savers:
        _, err = saver.communicate(timeout=120)
        assert saver.returncode == 0, err
    assert commands.state(photos / ".clipsearch").tags == tuple(f"tag{n}" for n in range(6))


# -- another index in the place of this one


@pytest.mark.few(2)
@pytest.mark.parametrize("moment", thinned([2, 6, 9], 3))
def test_a_drive_that_is_swapped_during_a_run_keeps_its_index(
    moment: int, photos: Path, commands: Commands, faults: Faults
) -> None:
    """Both indexes stand at one generation, so that its number does not tell them apart."""
    other, away = photos.with_name("other"), photos.with_name("away")
    for place, count in ((photos, 4), (other, 7)):
        fill(place, count)
        commands.index(place)
    assert current(photos).split()[2] == current(other).split()[2]
    theirs, ours = tree(other), commands.state(photos / ".clipsearch")
    fill(photos, 3, first=20)
    faults.arm("sync", photos / ".clipsearch", nth=moment, mode="stop")
    run = start(faults, "index", photos, "-q")
    assert is_stopped(run, faults), f"the run has fewer than {moment} syncs"
    photos.rename(away)
    other.rename(photos)
    run.send_signal(signal.SIGCONT)
    _, err = run.communicate(timeout=60)
    assert "Traceback" not in err
    assert run.returncode == 1, err
    assert not differences(theirs, tree(photos))
    assert commands.run("verify", "--index", photos).status == 0
    state = commands.state(away / ".clipsearch", check=False)
    assert state.error is None
    assert state.paths >= ours.paths


# -- file systems that lack things

NO_LOCKS = [errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.mark.parametrize("error", thinned(NO_LOCKS, 3), ids=errno.errorcode.get)
def test_without_locks_it_goes_on_or_says_why_not(error: int, photos: Path, commands: Commands, faults: Faults) -> None:
    index = photos / ".clipsearch"
    fill(photos, 5)
    commands.index(photos)
    before = commands.state(index)
    fill(photos, 2, first=20)
    with faults.armed("flock", index, error=error, mode="from then on"):
        done = commands.run("index", photos)
        query = commands.run("query", "--all", "red", "--paths", "--index", photos)
        assert faults.struck().failed
    assert "Traceback" not in done.err + query.err
    assert query.status == 0
    after = commands.state(index)
    assert not after.problems
    assert len(after.found) == (7 if done.status == 0 else 5)
    assert after.paths >= before.paths
    assert done.status == 0 or "lock" in done.err.replace(str(photos), "")


@pytest.mark.few(each="error family moment")
@pytest.mark.parametrize("error", thinned([errno.ENOLCK, errno.EBADF], 2), ids=errno.errorcode.get)
@pytest.mark.parametrize("family", thinned(["rename", "sync"], 2))
@pytest.mark.parametrize("moment", thinned([1, 4, 8], 3))
def test_two_writers_without_locks_lose_nothing(
    moment: int,
    family: Family,
    error: int,
    photos: Path,
    commands: Commands,
    fault_library: Path,
    faults: Faults,
    tmp_path: Path,
) -> None:
    """The first stands still within its commit while the second does all of its work."""
    index = photos / ".clipsearch"
    fill(photos, 5)
    commands.index(photos)
    before = commands.state(index)
    fill(photos, 3, first=20)
    with Faults(fault_library, tmp_path) as stopping:
        # no lock for either: the first is told by an order of its own when to stand still, and its locks fail too
        stopping.arm(family, index, nth=moment, mode="stop")
        first = start(stopping, "index", photos, "-q", CLIPSEARCH_TEST_NO_LOCKS=str(error))
        going = is_stopped(first, stopping)
        try:
            fill(photos, 2, first=30)
            with faults.armed("flock", index, error=error, mode="from then on"):
                second = commands.run("index", photos, "-q")
            between = commands.state(index, check=False)
        finally:
            first.send_signal(signal.SIGCONT)
        _, err = first.communicate(timeout=60)
    assert "Traceback" not in second.err + err
    if not going:  # then it was refused, and said why
        assert first.returncode == 1
        assert "lock" in err.replace(str(photos), "")
    assert between.error is None
    assert between.paths >= before.paths
    after = commands.state(index)
    assert after.error is None
    assert after.paths >= between.paths
    assert not after.problems
    commands.index(photos)
    end = commands.state(index)
    assert (len(end.found), end.problems) == (10, ())


def test_folders_that_cannot_be_synced(photos: Path, commands: Commands, faults: Faults) -> None:
    """As on some network and FUSE file systems: EINVAL for a folder, not for a file."""
    fill(photos, 5)
    with faults.armed("sync folder", photos, error=errno.EINVAL, mode="from then on"):
        assert commands.index(photos)["indexed"] == 5
        fill(photos, 2, first=20)
        assert commands.index(photos)["indexed"] == 2
        assert commands.run("compact", "--index", photos).status == 0
        assert commands.run("concept", "add", "dog", photos / "set000" / "p00001.jpg", "--index", photos).status == 0
        assert commands.run("verify", "--repair", "--index", photos).status == 0
        assert faults.struck().failed
    state = commands.state(photos / ".clipsearch")
    assert (len(state.found), state.tags, state.problems) == (7, ("dog",), ())


def test_file_systems_without_hard_links(photos: Path, commands: Commands, faults: Faults) -> None:
    """exFAT and some network drives."""
    fill(photos, 5)
    commands.index(photos)
    fill(photos, 2, first=20)
    with faults.armed("link", photos, error=errno.EPERM, mode="from then on"):
        assert commands.index(photos)["indexed"] == 2
    assert len(commands.state(photos / ".clipsearch").found) == 7
