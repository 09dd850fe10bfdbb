"""When a watched folder is looked at again. Set CLIPSEARCH_WATCH_TIMES to let drives go and come back more often."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from clipsearch.indexer.watch import NETWORK_FILE_SYSTEMS, Place, _near, changes, file_system
from tests.support.mounts import Mounts

TIMES = int(os.environ.get("CLIPSEARCH_WATCH_TIMES", "1"))
"""How often a drive goes and comes back."""
PATIENCE_S = 120.0
"""For what comes at once where no other process wants the processors."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for drives five times a second."""
    monkeypatch.setattr("clipsearch.indexer.watch.LOOK_AT_PLACE_S", 0.2)


class Watching:
    """Notices of a folder, taken by a thread."""

    def __init__(self, folder: Path, **options: float | bool) -> None:
        self.stop = threading.Event()
        self.notices: Queue[int] = Queue()
        self.busy_s = 0.0
        self.thread = threading.Thread(target=self._run, args=(folder, options), daemon=True)
        self.thread.start()
        assert self.notices.get(timeout=PATIENCE_S) == 0  # at once, for what changed before

    def _run(self, folder: Path, options: dict[str, float | bool]) -> None:
        for changed in changes(folder, folder / ".clipsearch", self.stop, quiet_s=0.2, **options):  # type: ignore[arg-type]
            self.notices.put(changed)
            time.sleep(self.busy_s)

    def taken(self, within_s: float = 0.6) -> list[int]:
        """Notices until none came for so long, which is longer than a burst lasts and drives are not looked for."""
        found = []
        try:
            while True:
                found.append(self.notices.get(timeout=within_s))
        except Empty:
            return found

    def change(self) -> None:
        """Wait for a notice of something that changed."""
        until = time.monotonic() + PATIENCE_S
        while not self.notices.get(timeout=PATIENCE_S):
            assert time.monotonic() < until

    def some(self) -> list[int]:
        """Wait for notices, and until no more come."""
        return [self.notices.get(timeout=PATIENCE_S), *self.taken()]


@pytest.fixture
def watching(photos: Path) -> Iterator[Watching]:
    watching = Watching(photos)
    yield watching
    watching.stop.set()
    watching.thread.join(PATIENCE_S)
    assert not watching.thread.is_alive()


@pytest.mark.slow
def test_a_burst_of_ten_thousand_is_few_notices_and_the_last_file_is_before_the_last(
    watching: Watching, photos: Path
) -> None:
    watching.busy_s = 0.5
    for number in range(10_000):
        folder = photos / f"set{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir()
        (folder / f"{number}.jpg").write_bytes(b"x")
    ended = time.monotonic()
    found = [watching.notices.get(timeout=PATIENCE_S), *watching.taken(2)]
    assert len(found) <= 12
    assert time.monotonic() - ended < 60
    (photos / "set9" / "9999.jpg").unlink()
    assert watching.some()


@pytest.mark.slow
def test_renames_deletions_and_new_folders_are_noticed(watching: Watching, photos: Path) -> None:
    (photos / "a.jpg").write_bytes(b"x")
    assert watching.some()
    (photos / "a.jpg").rename(photos / "b.jpg")
    assert watching.some()
    (photos / "new" / "below").mkdir(parents=True)
    assert watching.some()
    (photos / "new" / "below" / "c.jpg").write_bytes(b"x")
    assert watching.some()
    (photos / "b.jpg").unlink()
    assert watching.some()


@pytest.mark.slow
def test_files_that_speak_of_a_picture_are_noticed(watching: Watching, photos: Path) -> None:
    for name in ("a.xmp", "a.jpg.json"):
        (photos / name).write_bytes(b"x")
        assert watching.some()
        (photos / name).unlink()
        assert watching.some()
    (photos / "log.json").write_bytes(b"x")
    assert watching.taken(2) == []


def test_what_a_scan_passes_over_is_no_change(watching: Watching, photos: Path) -> None:
    for name in (".clipsearch", ".hidden", "@eaDir"):
        (photos / name).mkdir()
        (photos / name / "file").write_bytes(b"x")
    (photos / ".file").write_bytes(b"x")
    assert watching.taken(1) == []


def test_it_looks_anyway_now_and_then(photos: Path) -> None:
    watching = Watching(photos, look_anyway_s=0.5)
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    watching.stop.set()


def test_polling_looks_without_being_told(photos: Path) -> None:
    watching = Watching(photos, polling=True, poll_s=0.05)
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    watching.stop.set()
    watching.thread.join(PATIENCE_S)
    assert not watching.thread.is_alive()


def test_a_folder_whose_path_is_not_utf_8_is_looked_at_again_and_again(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "photos"
    folder.mkdir(parents=True)
    said: list[str] = []
    watching = Watching(folder, poll_s=0.05, notice=said.append)  # type: ignore[arg-type]
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    watching.stop.set()
    watching.thread.join(PATIENCE_S)
    assert not watching.thread.is_alive()
    assert len(said) == 1
    assert "need names in UTF-8" in said[0]


def test_the_kind_of_a_file_system(tmp_path: Path) -> None:
    kind = file_system(tmp_path)
    assert kind is None or kind not in NETWORK_FILE_SYSTEMS
    assert file_system(Path("/proc/self")) in (None, "proc")


@pytest.mark.slow
def test_files_that_no_scan_takes_are_no_change_however_often_they_are_written(photos: Path) -> None:
    """Nor are their renaming and removal, as of a log that is rotated."""
    for folder in ("@eaDir", "left", "quiet"):
        (photos / folder).mkdir()
    (photos / "quiet" / ".nomedia").touch()
    (photos / ".clipsearchignore").write_text("left/\n")
    watching = Watching(photos, exclude=("*.gif",))  # type: ignore[arg-type]
    names = "x.log x.txt x.tmp syslog x.mp3 Thumbs.db x.gif .x.jpg @eaDir/x.jpg left/x.jpg quiet/x.jpg"
    files = [photos / name for name in names.split()]
    for number in range(20):
        for file in files:
            with file.open("a") as growing:
                growing.write(f"line {number}\n")
        time.sleep(0.02)
    time.sleep(0.4)
    for file in files:
        file.rename(file.with_name(f"{file.name}.1"))
    time.sleep(0.4)
    for file in files:
        file.with_name(f"{file.name}.1").unlink()
    assert not any(watching.taken(1))  # 0 is of drives, which tests beside this one may mount
    (photos / "a.jpg").write_bytes(b"x")
    watching.change()
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


@pytest.mark.slow
def test_a_picture_that_keeps_growing_is_told_of_when_it_appears_and_when_it_is_done(photos: Path) -> None:
    watching = Watching(photos, settled_s=2.0)
    try:
        with (photos / "download.jpg").open("wb") as file:
            for number in range(12):
                file.write(b"\xff\xd8" * 100)
                file.flush()
                time.sleep(0.5)
                if number == 6:
                    (photos / "other.jpg").write_bytes(b"another")
        assert len(watching.taken(within_s=0.3)) <= 2  # of the first bytes, and of the other file
        assert len(watching.taken(within_s=4.0)) == 1
        (photos / "download.jpg").unlink()
        watching.change()
    finally:
        watching.stop.set()


@pytest.mark.slow
def test_what_may_be_a_picture_or_a_folder_is_a_change_when_it_comes_and_goes(watching: Watching, photos: Path) -> None:
    for name in ("x.jpg", "x.JPG", "x.heic", "x.tif", "x.nef", "2019.08 Rome/", "new/", "x"):
        place = photos / name
        if name.endswith("/"):
            place.mkdir()
        else:
            place.write_bytes(b"\xff\xd8\xff\xe0 a JPEG by its first bytes")
        assert watching.notices.get(timeout=PATIENCE_S), name
        watching.taken(0.4)
        if name.endswith("/"):
            place.rmdir()
        else:
            place.unlink()
        assert watching.notices.get(timeout=PATIENCE_S), name
        watching.taken(0.4)


@pytest.mark.slow
def test_what_leaves_a_folder_out_is_a_change(watching: Watching, photos: Path) -> None:
    for marker in (".nomedia", ".clipsearchignore", "CACHEDIR.TAG"):
        folder = photos / f"with {marker}"
        folder.mkdir()
        assert watching.notices.get(timeout=PATIENCE_S)
        watching.taken(0.4)
        (folder / marker).touch()
        assert watching.notices.get(timeout=PATIENCE_S)
        watching.taken(0.4)


def test_where_watches_are_used_up_it_says_so_and_looks_now_and_then(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    left = [False, False, True]
    monkeypatch.setattr(
        "clipsearch.indexer.watch.no_watches_left", lambda folder: left.pop(0) if len(left) > 1 else True
    )
    watching = Watching(photos, poll_s=0.1, notice=said.append)  # type: ignore[arg-type]
    assert watching.notices.get(timeout=PATIENCE_S) == 0  # at once, for what happened in folders that were not watched
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    assert len(said) == 1
    assert "max_user_watches" in said[0]
    watching.stop.set()
    watching.thread.join(PATIENCE_S)
    assert not watching.thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_watches_that_are_used_up_are_noticed(tmp_path: Path) -> None:
    """In a user namespace of its own, which has limits of its own."""
    program = (
        "from clipsearch.indexer.watch import no_watches_left\n"
        "before = no_watches_left('/')\n"
        "open('/proc/sys/user/max_inotify_watches', 'w').write('0')\n"
        "print(before, no_watches_left('/'))"
    )
    command = ["unshare", "-Ur", sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode:
        pytest.skip("no user namespaces here")
    assert done.stdout == "False True\n"


# -- drives that go and come back


@pytest.fixture
def drives() -> Iterator[Mounts]:
    mounts = Mounts()
    yield mounts
    mounts.close()


class Told(list[str]):
    """What is said of a folder."""

    def wait_for(self, words: str, within_s: float = PATIENCE_S) -> None:
        until = time.monotonic() + within_s
        while not any(words in line for line in self):
            assert time.monotonic() < until, (words, list(self))
            time.sleep(0.05)


def quiet(watching: Watching) -> None:
    watching.taken()


@pytest.mark.slow
@pytest.mark.parametrize("inside", [".", "below/drive"])
def test_a_drive_that_went_and_came_back_is_watched_again(photos: Path, drives: Mounts, inside: str) -> None:
    drive = photos / inside
    drives.tmpfs(drive)
    told = Told()
    watching = Watching(photos, notice=told.append)  # type: ignore[arg-type]
    for _ in range(TIMES):
        drives.unmount(drive)
        told.wait_for("is gone")
        assert watching.notices.get(timeout=PATIENCE_S) == 0
        quiet(watching)
        drives.tmpfs(drive)
        told.wait_for("is back")
        assert watching.notices.get(timeout=PATIENCE_S) == 0
        quiet(watching)
        (drive / "a.jpg").write_bytes(b"x")
        watching.change()
        assert len(told) == 2
        told.clear()
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [".", "drive"])
def test_a_drive_that_is_another_at_once_is_watched(photos: Path, drives: Mounts, inside: str) -> None:
    """Its numbers may be those of the one before."""
    drive = photos / inside
    drives.tmpfs(drive)
    watching = Watching(photos, poll_s=1)
    for _ in range(TIMES):
        quiet(watching)
        drives.unmount(drive)
        drives.tmpfs(drive)
        assert watching.notices.get(timeout=PATIENCE_S) == 0
        quiet(watching)
        (drive / "a.jpg").write_bytes(b"x")
        watching.change()
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("inside", [".", "drive"])
def test_a_drive_that_is_another_is_noticed_whatever_else_is_mounted(
    photos: Path, tmp_path: Path, drives: Mounts, inside: str, numbered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of mounts then tells of a change, but not of which. Linux before 6.8 numbers no mounts."""
    if not numbered:
        monkeypatch.setattr("clipsearch.indexer.watch._mount_number", lambda point: 0)
    drive, elsewhere = photos / inside, tmp_path / "elsewhere"
    drives.tmpfs(drive)
    place = Place(photos, threading.Event(), patience_s=0)
    assert not place.is_set()
    for change in (drives.tmpfs, drives.unmount):
        drives.unmount(drive)
        drives.tmpfs(drive)
        change(elsewhere)
        assert place.is_set()
        assert place.look_again()[1]
        assert not place.is_set()
        assert place.look_again() == ([], False)


@pytest.mark.slow
def test_a_drive_elsewhere_that_a_link_leads_to(photos: Path, tmp_path: Path, drives: Mounts) -> None:
    drives.tmpfs(tmp_path / "usb")
    (photos / "link").symlink_to(tmp_path / "usb")
    watching = Watching(photos, poll_s=0.5)
    drives.unmount(tmp_path / "usb")
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    drives.tmpfs(tmp_path / "usb")
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    quiet(watching)
    drives.tmpfs(tmp_path / "other")
    assert watching.taken(1.2) == []
    (tmp_path / "usb" / "a.jpg").write_bytes(b"x")
    watching.change()
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


def test_a_folder_that_goes_is_waited_for(photos: Path) -> None:
    told = Told()
    watching = Watching(photos, notice=told.append)  # type: ignore[arg-type]
    photos.rename(photos.with_name("unplugged"))
    told.wait_for("is unavailable")
    quiet(watching)
    assert watching.taken(1) == []
    photos.with_name("unplugged").rename(photos)
    told.wait_for("is back")
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    quiet(watching)
    (photos / "a.jpg").write_bytes(b"x")
    watching.change()
    assert len(told) == 2
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


@pytest.mark.slow
def test_a_folder_made_anew_is_watched(photos: Path) -> None:
    watching = Watching(photos)
    for _ in range(TIMES):
        photos.rmdir()
        photos.mkdir()
        assert 0 in watching.some()
        (photos / "a.jpg").write_bytes(b"x")
        watching.change()
        (photos / "a.jpg").unlink()
        quiet(watching)
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


@pytest.mark.slow
def test_a_look_that_failed_is_made_again_soon(photos: Path) -> None:
    failed = threading.Event()
    watching = Watching(photos, failed=failed, poll_s=0.5)  # type: ignore[arg-type]
    assert watching.taken(1.2) == []
    failed.set()
    assert watching.notices.get(timeout=PATIENCE_S) == 0
    assert watching.taken(1.2) == []
    watching.stop.set()
    watching.thread.join(PATIENCE_S)


def test_containers_and_services_are_no_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.indexer.watch._mount_number", lambda point: 0)
    here, elsewhere = _near(
        [
            ("/", "overlay", "1"),
            ("/photos", "ext4", "2"),
            ("/photos/a b", "tmpfs", "3"),
            ("/photosynthesis", "ext4", "4"),
            ("/run/credentials/x", "tmpfs", "5"),
            ("/proc", "proc", "6"),
        ],
        "/photos",
    )
    assert here == {"/photos": ["2 ?"], "/photos/a b": ["3 ?"]}
    assert [point for point, *_ in elsewhere] == ["/photosynthesis"]
