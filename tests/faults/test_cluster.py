"""Workers, machines and drivers of a Ray cluster that die: no row is lost, and none is there twice.

Set CLIPSEARCH_CLUSTER_KILLS (workers), CLIPSEARCH_CLUSTER_NODES (machines) and CLIPSEARCH_DRIVER_KILLS for more.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import ClusterError, IndexNotFound, InvalidArgument
from clipsearch.indexer.build import IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.cluster import RayExecutor
from clipsearch.indexer.executors import LocalExecutor
from clipsearch.indexer.verify import verify
from clipsearch.store import Writer, open_snapshot, read_records
from tests.contract.test_executors import check_same
from tests.support.breadth import tries
from tests.support.clusters import (
    POISON,
    REPOSITORY,
    ClusterEncoder,
    add_node,
    place_for_ray,
    ray_cluster,
    ray_executor,
)
from tests.support.fake_encoder import COLOURS
from tests.support.pictures import fill, plain

pytestmark = pytest.mark.slow

KILLS = tries("CLIPSEARCH_CLUSTER_KILLS", 1, 2)
NODES = int(os.environ.get("CLIPSEARCH_CLUSTER_NODES", "1"))
DRIVER_KILLS = tries("CLIPSEARCH_DRIVER_KILLS", 1, 2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as made:
        yield made


def run(folder: Path, executor: RayExecutor, progress: Callable[[Progress], None] | None = None) -> IndexReport:
    options = IndexOptions(workers=1, commit_rows=32)
    return index_folder(folder, ClusterEncoder(), options=options, executor=executor, progress=progress)


def check_whole(folder: Path, tmp_path: Path) -> None:
    """The index is what this machine makes of the folder alone."""
    index_folder(folder, ClusterEncoder(), index=tmp_path / "alone", executor=LocalExecutor())
    check_same(tmp_path / "alone", folder / ".clipsearch")


def alive(place: Path) -> list[int]:
    """Processes of workers that are there."""
    found = []
    for file in place.iterdir():
        with suppress(OSError):
            if "ray::" in Path(f"/proc/{file.name}/cmdline").read_text():
                found.append(int(file.name))
    return found


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do `work` in a thread, until it is done or the block is."""
    over = threading.Event()
    failed: list[BaseException] = []

    def run_it() -> None:
        try:
            work(over)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run_it)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed


def test_workers_killed_during_a_run_cost_no_row(cluster: Any, tmp_path: Path) -> None:
    folder, pids = tmp_path / "photos", tmp_path / "pids"
    pids.mkdir()
    fill(folder, 60 + 60 * KILLS)
    rng = random.Random(3)
    killed: set[int] = set()

    done = 0

    def watch(progress: Progress) -> None:
        nonlocal done
        done = progress.done

    def kill(over: threading.Event) -> None:
        before = 0
        while len(killed) < KILLS and not over.wait(rng.uniform(0.1, 0.4)):
            victims = [pid for pid in alive(pids) if pid not in killed]
            if victims and done > before:  # the run goes on between two of them
                before = done
                victim = rng.choice(victims)
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed.add(victim)

    with meanwhile(kill):
        report = run(folder, ray_executor(cluster.address, pids=pids, per_picture_s=0.05, unit_pictures=6), watch)
    assert len(killed) == KILLS
    assert not report.skipped
    assert report.encoded == report.pictures == 60 + 60 * KILLS
    check_whole(folder, tmp_path)


def test_machines_that_go_during_a_run_cost_no_row(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    count = 75 + 75 * NODES
    fill(folder, count)
    removed = 0

    def remove(progress: Progress) -> None:  # in this thread: Ray sets signal handlers where a node begins
        nonlocal removed
        if removed < NODES and progress.done >= count * (removed + 1) // (NODES + 2):
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=removed % 2 == 1)
            removed += 1
            add_node(cluster)

    report = run(folder, ray_executor(cluster.address, per_picture_s=0.05, unit_pictures=6), remove)
    assert removed == NODES
    assert not report.skipped
    assert report.encoded == report.pictures == count
    check_whole(folder, tmp_path)


def with_children(pid: int) -> list[int]:
    """A process and all that it began, and these."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(other for child in children for other in with_children(int(child)))]


def test_a_machine_that_falls_silent_does_not_hold_the_run(cluster: Any, tmp_path: Path) -> None:
    """Without power or network, it closes no connection: Ray itself notices after a minute."""
    folder = tmp_path / "photos"
    fill(folder, 120)
    node = add_node(cluster)
    raylet = node.all_processes["raylet"][0].process.pid
    silent: list[int] = []
    since = 0.0

    def stop(progress: Progress) -> None:
        nonlocal since
        if not silent and progress.done >= 40:
            silent.extend(with_children(raylet))
            for pid in silent:
                os.kill(pid, signal.SIGSTOP)
            since = time.monotonic()

    try:
        report = run(folder, ray_executor(cluster.address, per_picture_s=0.05, unit_pictures=6), stop)
        assert silent and time.monotonic() - since < 45
        assert not report.skipped
        assert report.encoded == report.pictures == 120
    finally:
        for pid in silent:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
    check_whole(folder, tmp_path)


def test_a_killed_driver_is_resumed_and_encodes_only_what_was_not_committed(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    count = 60 + 40 * DRIVER_KILLS
    fill(folder, count)
    rng = random.Random(5)
    before: set[str] = set()

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.faults.cluster_process", str(folder), str(cluster.address)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for _ in range(DRIVER_KILLS):
        process = start()
        wanted = len(before) + rng.randint(1, 40)
        began = time.monotonic()
        while len(committed(folder)) < min(wanted, count - 1) and process.poll() is None:
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        process.kill()
        process.communicate()
        after = committed(folder)
        assert before <= after and len(after) > len(before)
        before = after
    out, err = start().communicate()
    encoded, pictures = map(int, out.split() or ["0", "0"])
    assert pictures == count, err
    assert encoded <= count - len(before)
    monkeypatch.setattr("clipsearch.store.writer.GRACE_S", -1.0)
    with Writer(folder / ".clipsearch") as writer:  # what the killed ones had begun is known for what it is
        writer.collect()
    check_whole(folder, tmp_path)


def committed(folder: Path) -> set[str]:
    """Paths of the last committed generation, after checking that none is there twice."""
    try:
        with open_snapshot(folder / ".clipsearch") as snapshot:
            paths = [record.path for record in read_records(folder / ".clipsearch", snapshot.manifest)]
    except IndexNotFound:
        return set()
    assert len(paths) == len(set(paths))
    return set(paths)


def test_a_picture_that_kills_each_worker_is_skipped_after_three_tries(cluster: Any, tmp_path: Path) -> None:
    folder, pids = tmp_path / "photos", tmp_path / "pids"
    pids.mkdir()
    fill(folder, 30)
    plain(COLOURS[POISON]).save(folder / "poison.png")
    report = run(folder, ray_executor(cluster.address, pids=pids, dies=True, unit_pictures=8))
    assert [(skip.path, skip.status) for skip in report.skipped] == [("poison.png", "decoder_crashed")]
    assert "3 times" in report.skipped[0].reason
    assert report.encoded == 30
    assert 3 <= len(list(pids.iterdir())) <= 2 + 3  # workers: one on each machine, and one for each that died
    assert verify(folder / ".clipsearch").ok


def test_a_worker_that_hangs_does_not_hold_the_run(cluster: Any, tmp_path: Path) -> None:
    folder, hangs = tmp_path / "photos", tmp_path / "hangs"
    fill(folder, 60)
    report = run(folder, ray_executor(cluster.address, hangs=hangs, unit_pictures=8))
    assert hangs.exists()
    assert report.encoded == report.pictures == 60
    check_whole(folder, tmp_path)


def test_a_machine_that_cannot_do_it_is_told_of(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    fill(folder, 3)
    with pytest.raises(ClusterError, match="is not the one of the index"):
        index_folder(
            folder,
            ClusterEncoder(),
            executor=RayExecutor(cluster.address, OtherModel()),
        )


class OtherModel:
    """Loads another model than the driver has."""

    def __call__(self) -> Any:
        from tests.support.fake_encoder import FakeEncoder

        return FakeEncoder(dim=64, seed=99)


def test_a_cluster_begun_for_a_run_is_private_and_ends_with_it(tmp_path: Path) -> None:
    """No dashboard, no statistics, a token; and no process stays behind."""
    folder, pids = tmp_path / "photos", tmp_path / "pids"
    pids.mkdir()
    fill(folder, 12)
    seen: list[str] = []
    environment: list[dict[str, str]] = []

    def watch(progress: Progress) -> None:
        if progress.nodes and not seen:
            seen.extend(lines_of_processes(place))
            environment.extend(environments(seen))

    with place_for_ray() as place:
        report = run(folder, ray_executor(pids=pids), watch)
        assert report.encoded == 12
        said = "\n".join(seen)
        assert "gcs_server" in said
        pages = [line for line in seen if "dashboard/dashboard.py" in line]  # a process of that name is always there
        assert all("--disable-frontend" in line for line in pages)
        assert environment and all(e.get("RAY_USAGE_STATS_ENABLED") == "0" for e in environment)
        assert all(e.get("RAY_AUTH_MODE") == "token" for e in environment)
        until = time.monotonic() + 20
        while lines_of_processes(place) and time.monotonic() < until:
            time.sleep(0.2)
        assert not lines_of_processes(place)
    check_whole(folder, tmp_path)


def test_a_cluster_begun_for_a_run_that_dies_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    fill(folder, 60)
    killed: list[float] = []

    def kill(progress: Progress) -> None:
        if progress.nodes and not killed:
            raylets = [int(line.split()[0]) for line in lines_of_processes(place) if "/raylet/raylet " in line]
            for pid in raylets:
                os.kill(pid, signal.SIGKILL)
            killed.extend([time.monotonic()] * len(raylets))

    with place_for_ray() as place:
        with pytest.raises(ClusterError, match=r"has ended.* run the same command again"):
            run(folder, ray_executor(per_picture_s=0.5), kill)
        assert time.monotonic() - killed[0] < 120
    assert index_folder(folder, ClusterEncoder(), executor=LocalExecutor()).pictures == 60
    check_whole(folder, tmp_path)


def lines_of_processes(place: Path) -> list[str]:
    """Process id and command of what runs from a folder of Ray."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if str(place) in command and int(process.name) != os.getpid():
                found.append(f"{process.name} {command}")
    return found


def environments(lines: list[str]) -> list[dict[str, str]]:
    """Environments of processes that are still there."""
    found = []
    for line in lines:
        with suppress(OSError):
            raw = Path(f"/proc/{line.split()[0]}/environ").read_bytes().decode("utf-8", "replace")
            found.append(dict(item.partition("=")[::2] for item in raw.split("\0") if item))
    return found


def test_what_cannot_be_a_cluster_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    fill(folder, 2)
    with pytest.raises(InvalidArgument, match="address"):
        RayExecutor("ray://head:10001")
    with place_for_ray(), pytest.raises(ClusterError, match=r"no Ray cluster at 127\.0\.0\.1:9: connection refused"):
        run(folder, ray_executor("127.0.0.1:9"))
    assert not (folder / ".clipsearch").exists()  # the address is tried before anything is made
    began = time.monotonic()
    with place_for_ray(), pytest.raises(ClusterError, match=r"Ask for less with --worker-cpus"):
        run(folder, ray_executor(cpus=1000))
    assert time.monotonic() - began < 120
