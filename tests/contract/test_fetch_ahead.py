"""Archives in object storage are fetched while those before them are read: in order, one ahead, and nothing stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.archives import remote
from clipsearch.archives.listing import Spool
from clipsearch.archives.remote import Storage, Wanted
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.verify import verify
from clipsearch.places import as_address
from tests.support.archives import jpeg, write_tar
from tests.support.fake_encoder import FakeEncoder
from tests.support.storage import BUCKET, Wire

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow  # a server
ADDRESS = as_address(f"s3://{BUCKET}/a")
SOON_S = 60.0
SIZE = 3 * 2**18


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are, of this process and of others."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


class Asked:
    """What a server was asked for, in order. `held`: keys that it sends half of, until it is let go."""

    def __init__(self, wire: Wire) -> None:
        self.keys: list[str] = []
        self.held: set[str] = set()
        self.let_go = threading.Event()
        self._came = threading.Condition()
        wire.asked, wire.sent = self._note, self._sent

    def _note(self, key: str) -> None:
        with self._came:
            self.keys.append(key.removeprefix("a/"))
            self._came.notify_all()

    def _sent(self, key: str, size_bytes: int) -> None:
        if key.removeprefix("a/") in self.held and size_bytes >= SIZE // 2:
            self.let_go.wait(SOON_S * 10)

    def wait_for(self, key: str) -> None:
        with self._came:
            assert self._came.wait_for(lambda: key in self.keys, SOON_S), self.keys


@pytest.fixture
def asked(wire: Wire) -> Iterator[Asked]:
    made = Asked(wire)
    yield made
    made.let_go.set()


def put(s3: Any, *names: str) -> None:
    for number, name in enumerate(names):
        s3.put_object(Bucket=BUCKET, Key=f"a/{name}", Body=bytes([number]) * SIZE)


def fetched(names: list[str], size_bytes: int = SIZE) -> Generator[tuple[str, Spool | OSError | None]]:
    """Large objects as they come, without the pauses between."""
    for found in Storage(ADDRESS).fetch_all(names, lambda name: Wanted(name, size_bytes, is_large=True)):
        if found is not None:
            yield found


def copies_in(folder: Path) -> list[Path]:
    """What is fetched. The folder of this process, where it is made by the first test that needs one, is no copy."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_next_one_is_fetched_while_one_is_used_and_no_more(s3: Any, asked: Asked, temporary: Path) -> None:
    names = [f"{number}.tar" for number in range(4)]
    put(s3, *names)
    found = fetched(names)
    for number, name in enumerate(names):
        got, copy = next(found)
        assert got == name and isinstance(copy, Spool)
        assert Path(copy.path).read_bytes() == bytes([number]) * SIZE
        if number + 1 < len(names):
            asked.wait_for(names[number + 1])
            time.sleep(0.1)
        assert asked.keys == names[: number + 2]
        assert len(copies_in(temporary)) <= 2
    assert next(found, None) is None
    del copy, got
    assert not copies_in(temporary)


def test_nothing_is_fetched_ahead_that_may_fill_the_disk(
    s3: Any, asked: Asked, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remote._has_room(1) and not remote._has_room(2**62)
    put(s3, "0.tar", "1.tar")
    monkeypatch.setattr(remote, "_has_room", lambda size_bytes: False)
    found = fetched(["0.tar", "1.tar"])
    next(found)
    time.sleep(0.3)
    assert asked.keys == ["0.tar"]
    assert isinstance(next(found)[1], Spool)


def test_a_disk_that_is_full_for_two_is_used_for_one(
    s3: Any, asked: Asked, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "0.tar", "1.tar", "2.tar")
    fetch = Storage.fetch
    first: list[Spool | OSError | None] = []

    def full(storage: Storage, path: str, *more: Any) -> Spool:
        if path == "1.tar" and first:
            raise OSError(28, "No space left on device")
        return fetch(storage, path, *more)

    monkeypatch.setattr(Storage, "fetch", full)
    found = fetched(["0.tar", "1.tar", "2.tar"])
    first.append(next(found)[1])
    time.sleep(0.3)
    first.clear()  # what is used no more is gone
    assert [(name, type(copy)) for name, copy in found] == [("1.tar", Spool), ("2.tar", Spool)]


def test_errors_come_in_their_turn_and_leave_no_file(s3: Any, wire: Wire, asked: Asked, temporary: Path) -> None:
    put(s3, "0.tar", "1.tar", "2.tar")
    note, errors = wire.asked, []
    wire.asked = lambda key: note(key) or (403 if key == "a/1.tar" else None)
    for name, copy in fetched(["0.tar", "1.tar", "2.tar", "none.tar"]):
        assert isinstance(copy, OSError) == (name in ("1.tar", "none.tar"))
        if isinstance(copy, OSError):
            errors.append(copy)
    for _, copy in fetched(["0.tar", "2.tar"], SIZE + 1):
        assert isinstance(copy, OSError) and "bytes now" in str(copy)
        errors.append(copy)
    del copy
    assert len(errors) == 4 and not copies_in(temporary)  # although the errors remember all there was


def test_who_stops_waits_for_nothing_and_leaves_no_file(s3: Any, asked: Asked, temporary: Path) -> None:
    put(s3, "0.tar", "1.tar")
    asked.held = {"1.tar"}
    found = fetched(["0.tar", "1.tar"])
    next(found)
    asked.wait_for("1.tar")
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 5
    asked.let_go.set()
    until = time.monotonic() + SOON_S
    while any(thread.name == "clipsearch-fetch" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not copies_in(temporary)


def run(encoder: FakeEncoder, index: Path) -> IndexReport:
    return index_folder(ADDRESS, encoder, index=index, options=IndexOptions(workers=1, archives=True))


def put_tars(s3: Any, tmp_path: Path) -> None:
    """Three tars of two pictures each, which are large for what they hold."""
    for number in range(3):
        members = {"0.jpg": jpeg(2 * number), "1.jpg": jpeg(2 * number + 1), "fill.bin": b"\0" * SIZE}
        write_tar(tmp_path / "x.tar", members)
        s3.upload_file(str(tmp_path / "x.tar"), BUCKET, f"a/{number}.tar")


def test_pictures_are_committed_while_an_archive_is_waited_for(
    s3: Any, asked: Asked, tmp_path: Path, temporary: Path, encoder: FakeEncoder
) -> None:
    put_tars(s3, tmp_path)
    asked.held = {"1.tar"}
    committed: list[int] = []

    def watch() -> None:
        until = time.monotonic() + SOON_S
        while time.monotonic() < until and not committed:
            try:
                report = verify(tmp_path / "index")
            except Exception:
                continue
            if report.pictures == 2:
                committed.append(report.pictures)
        asked.let_go.set()

    watching = threading.Thread(target=watch)
    watching.start()
    options = IndexOptions(workers=1, archives=True, batch_pictures=1, commit_rows=2)
    report = index_folder(ADDRESS, encoder, index=tmp_path / "index", options=options)
    watching.join()
    assert committed == [2]
    assert (report.pictures, report.skipped) == (6, [])


def test_ctrl_c_while_an_archive_is_fetched_keeps_what_was_read(
    s3: Any, asked: Asked, tmp_path: Path, temporary: Path
) -> None:
    put_tars(s3, tmp_path)
    index = tmp_path / "index"
    asked.held = {"1.tar"}
    command = [sys.executable, "-m", "tests.faults.index_process", str(ADDRESS), "2", str(index), "archives"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    asked.wait_for("1.tar")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SOON_S)  # the server still sends nothing
    assert (process.returncode, err) == (0, "")
    assert not [path for path in temporary.iterdir() if path.suffix == ".tar"]
    assert out.split()[0] in ("0", "1", "2")
    asked.let_go.set()
    report = run(FakeEncoder(dim=256), index)
    assert (report.pictures, report.encoded) == (6, 6 - int(out.split()[0]))
    assert verify(index).ok
