"""When a watched folder is looked at again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from clipsearch.indexer.watch import NETWORK_FILE_SYSTEMS, changes, file_system


class Watching:
    """Notices of a folder, taken by a thread."""

    def __init__(self, folder: Path, **options: float | bool) -> None:
        self.stop = threading.Event()
        self.notices: Queue[int] = Queue()
        self.busy_s = 0.0
        self.thread = threading.Thread(target=self._run, args=(folder, options), daemon=True)
        self.thread.start()
        assert self.notices.get(timeout=20) == 0  # at once, for what changed before

    def _run(self, folder: Path, options: dict[str, float | bool]) -> None:
        for changed in changes(folder, folder / ".clipsearch", self.stop, quiet_s=0.2, **options):  # type: ignore[arg-type]
            self.notices.put(changed)
            time.sleep(self.busy_s)

    def taken(self, within_s: float) -> list[int]:
        """Notices until none came for so long."""
        found = []
        try:
            while True:
                found.append(self.notices.get(timeout=within_s))
        except Empty:
            return found


@pytest.fixture
def watching(photos: Path) -> Iterator[Watching]:
    watching = Watching(photos)
    yield watching
    watching.stop.set()
    watching.thread.join(10)
    assert not watching.thread.is_alive()


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
    found = watching.taken(3)
    assert found
    assert len(found) <= 12
    assert time.monotonic() - ended < 60
    (photos / "set9" / "9999.jpg").unlink()
    assert watching.taken(3)


def test_renames_deletions_and_new_folders_are_noticed(watching: Watching, photos: Path) -> None:
    (photos / "a.jpg").write_bytes(b"x")
    assert watching.taken(2)
    (photos / "a.jpg").rename(photos / "b.jpg")
    assert watching.taken(2)
    (photos / "new" / "below").mkdir(parents=True)
    assert watching.taken(2)
    (photos / "new" / "below" / "c.jpg").write_bytes(b"x")
    assert watching.taken(2)
    (photos / "b.jpg").unlink()
    assert watching.taken(2)


def test_what_a_scan_passes_over_is_no_change(watching: Watching, photos: Path) -> None:
    for name in (".clipsearch", ".hidden", "@eaDir"):
        (photos / name).mkdir()
        (photos / name / "file").write_bytes(b"x")
    (photos / ".file").write_bytes(b"x")
    assert watching.taken(2) == []


def test_it_looks_anyway_now_and_then(photos: Path) -> None:
    watching = Watching(photos, look_anyway_s=0.5)
    assert watching.notices.get(timeout=10) == 0
    watching.stop.set()


def test_polling_looks_without_being_told(photos: Path) -> None:
    watching = Watching(photos, polling=True, poll_s=0.05)
    assert watching.notices.get(timeout=10) == 0
    assert watching.notices.get(timeout=10) == 0
    watching.stop.set()
    watching.thread.join(5)
    assert not watching.thread.is_alive()


def test_the_kind_of_a_file_system(tmp_path: Path) -> None:
    kind = file_system(tmp_path)
    assert kind is None or kind not in NETWORK_FILE_SYSTEMS
    assert file_system(Path("/proc/self")) in (None, "proc")
