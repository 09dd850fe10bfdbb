"""Kills, full disks, two writers, readers during commits. Set CLIPSEARCH_KILLS for more than a few kills."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError, IndexNotFound
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.verify import verify
from clipsearch.search.collection import Collection
from clipsearch.store import Writer, read_records
from tests.support import breadth
from tests.support.breadth import tries
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill
from tests.support.videos import colours, write_video

KILLS = tries("CLIPSEARCH_KILLS", 2, 4)
VIDEOS = 10 if breadth.ALL else 5
READERS = 3  # they and the writer take turns: beside eight, it had a ninth of the time
PICTURES = 80
COMMIT_ROWS = 8
REPOSITORY = Path(__file__).resolve().parents[2]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.index_process", str(folder), str(COMMIT_ROWS), *more],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def committed(folder: Path) -> set[str]:
    """The paths of the last committed generation, after checking that it answers queries and is whole."""
    try:
        with Collection(folder / ".clipsearch", encoder=FakeEncoder(dim=256)) as photos:
            hits = photos.search("red", k=1000, all=True)
    except IndexNotFound:
        return set()
    paths = [hit.record.path for hit in hits]
    assert len(paths) == len(set(paths))
    report = verify(folder / ".clipsearch")
    assert report.ok, report.problems
    assert report.pictures == len(paths)
    return set(paths)


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    folder = tmp_path / "photos"
    fill(folder, PICTURES)
    process = start(folder)
    began = time.monotonic()
    out, err = process.communicate()
    whole_run_s = time.monotonic() - began
    assert out.split() == [str(PICTURES), str(PICTURES)], err
    shutil.rmtree(folder / ".clipsearch")
    before: set[str] = set()
    finished_runs = interrupted = 0
    for _ in range(KILLS):
        process = start(folder)
        time.sleep(rng.uniform(0.0, whole_run_s * 1.05))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        interrupted += process.returncode == -signal.SIGKILL
        after = committed(folder)
        assert before <= after
        before = after
        if len(after) == PICTURES:
            finished_runs += 1
            shutil.rmtree(folder / ".clipsearch")
            before = set()
    assert interrupted > KILLS / 3
    index = folder / ".clipsearch"
    if before:
        with Writer(index) as writer:  # a commit that was killed before its last step is completed by the next writer
            writer.current()
        completed = committed(folder)
        assert before <= completed
        before = completed
    out, err = start(folder).communicate()
    encoded, pictures = map(int, out.split())
    assert pictures == PICTURES
    assert encoded == PICTURES - len(before)  # only what was not committed is encoded again
    assert len(committed(folder)) == PICTURES
    monkeypatch.setattr("clipsearch.store.writer.GRACE_S", -1.0)
    with Writer(index) as writer:
        writer.collect()
    assert not verify(index).orphans
    with Collection(index, encoder=FakeEncoder(dim=256)) as photos:
        records = read_records(index, photos.manifest)
    assert len({record.row_id for record in records}) == len(records) == PICTURES


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_the_index(tmp_path: Path, tiny_disk: Path) -> None:
    folder, index = tmp_path / "photos", tiny_disk / "index"
    encoder = FakeEncoder(dim=1024)
    fill(folder, 20)
    options = IndexOptions(workers=1, commit_rows=20)
    assert index_folder(folder, encoder, index=index, options=options).pictures == 20
    fill(folder, 400, first=100)
    with pytest.raises(ClipsearchError, match="no space left") as caught:
        index_folder(folder, encoder, index=index, options=options)
    assert type(caught.value).__name__ == "OutOfSpace"
    with Collection(index, encoder=encoder) as photos:
        kept = len(photos.search("red", k=1000, all=True))
    assert 20 <= kept < 420
    assert verify(index).ok
    assert not list((index / "staging").iterdir())
    # With the space that the pictures need elsewhere, the same command goes on from there.
    roomy = tmp_path / "roomy"
    shutil.copytree(index, roomy)
    report = index_folder(folder, encoder, index=roomy, options=options)
    assert (report.pictures, report.encoded) == (420, 420 - kept)


def test_the_second_of_two_indexers_says_who_the_first_is(tmp_path: Path) -> None:
    fill(tmp_path, 150)
    first = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / ".clipsearch" / "CURRENT").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)
        second = start(tmp_path)
        _, err = second.communicate()
        assert second.returncode == 1
        assert f"is being written to by process {first.pid} on" in err
        assert committed(tmp_path)  # readers do not mind
    finally:
        os.kill(first.pid, signal.SIGCONT)
    out, err = first.communicate()
    assert out.split() == ["150", "150"], err


@pytest.mark.slow
def test_readers_see_whole_generations_while_commits_go_on(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    fill(tmp_path, 2)
    index_folder(tmp_path, encoder, options=IndexOptions(workers=1))
    done = threading.Event()
    errors: list[BaseException] = []
    seen: list[int] = []

    def read() -> None:
        own = FakeEncoder()
        while not done.is_set():
            try:
                with Collection(tmp_path / ".clipsearch", encoder=own) as photos:
                    first = photos.search("red", k=1000, all=True)
                    again = photos.search("red", k=1000, all=True)
                    assert first == again
                    assert len(first) == photos.manifest.pictures == len(photos)
                    seen.append(photos.manifest.generation)
            except BaseException as error:
                errors.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    commits = 50 if breadth.ALL else 12
    fill(tmp_path, 2 * commits, first=10)
    index_folder(tmp_path, encoder, options=IndexOptions(workers=1, commit_rows=2, batch_pictures=2))
    done.set()
    for reader in readers:
        reader.join()
    assert not errors, errors[0]
    assert max(seen) - min(seen) >= 0.8 * commits


def views_of(folder: Path) -> dict[str, list[str]]:
    """What each file is seen as in the last committed generation, after checking that it is whole."""
    committed(folder)
    try:
        with Collection(folder / ".clipsearch", encoder=FakeEncoder(dim=256)) as photos:
            records = read_records(photos.index, photos.manifest)
    except IndexNotFound:
        return {}
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(record.path, []).append(record.view)
    return found


@pytest.mark.slow
def test_a_killed_run_never_leaves_a_file_with_some_of_its_views(tmp_path: Path) -> None:
    pytest.importorskip("av")
    rng = random.Random(11)
    folder = tmp_path / "photos"
    fill(folder, 10)
    names = list(COLOURS)
    for number in range(VIDEOS):
        shown = [names[(number + n) % len(names)] for n in range(8 + number)]
        write_video(folder / f"v{number}.mp4", colours(shown), seconds=1, fps=10)
    began = time.monotonic()
    start(folder).communicate()
    whole_run_s = time.monotonic() - began
    whole = views_of(folder)
    assert len(whole) == 10 + VIDEOS
    assert sum(map(len, whole.values())) > 8 * VIDEOS
    shutil.rmtree(folder / ".clipsearch")
    before: dict[str, list[str]] = {}
    for _ in range(KILLS):
        process = start(folder)
        time.sleep(rng.uniform(0.2, 1.05) * whole_run_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = views_of(folder)
        assert after == {path: whole[path] for path in after}
        assert before.keys() <= after.keys()
        before = after
        if len(after) == len(whole):
            # renames and deletions, which drop all rows of a file and add them under another name
            video = rng.choice([path for path in whole if path.endswith(".mp4")])
            (folder / video).rename(folder / f"renamed-{video}")
            whole[f"renamed-{video}"] = whole.pop(video)
            before = {path: views for path, views in after.items() if path != video}
            process = start(folder)
            time.sleep(rng.uniform(0.2, 1.05) * whole_run_s)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            known = {**whole, video: whole[f"renamed-{video}"]}
            after = views_of(folder)
            assert after == {path: known[path] for path in after}
            assert len(after) in (len(whole), len(whole) - 1)
            shutil.rmtree(folder / ".clipsearch")
            before = {}
    start(folder).communicate()
    assert views_of(folder) == whole


@pytest.mark.slow
def test_a_killed_run_never_leaves_a_picture_with_some_of_its_regions(tmp_path: Path) -> None:
    rng = random.Random(12)
    folder = tmp_path / "photos"
    fill(folder, 30)
    began = time.monotonic()
    start(folder, "regions").communicate()
    whole_run_s = time.monotonic() - began
    whole = views_of(folder)
    assert len(whole) == 30 and {len(views) for views in whole.values()} == {5}
    shutil.rmtree(folder / ".clipsearch")
    before: set[str] = set()
    for number in range(KILLS):
        process = start(folder, "regions")
        time.sleep(rng.uniform(0.2, 1.05) * whole_run_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = views_of(folder)
        assert after == {path: whole[path] for path in after}
        assert before <= after.keys()
        before = set(after)
        if all((folder / path).exists() for path in after) and len(after) == 30:
            # a rename, which drops all rows of a picture and adds them under another name
            path, other = sorted(after)[number], f"renamed-{number}.jpg"
            (folder / path).rename(folder / other)
            whole[other] = whole[path]
            before.discard(path)
    start(folder, "regions").communicate()
    assert views_of(folder) == {path: views for path, views in whole.items() if (folder / path).exists()}
