"""Temporary files: nothing that a killed process left stays, and nothing that is used or of others goes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clipsearch import temporary
from clipsearch.archives.listing import Spool


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_own", None)
    return tmp_path


def in_a_process(work: Callable[[], object], dies: bool) -> int:
    """Do `work` in a process that is then killed, or waits to be. Returns its id."""
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = work()
        os.write(write, b"x")
        signal.pause()
        del kept
    os.close(write)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    if dies:
        end(pid)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def fill() -> list[object]:
    spool = Spool(".jpg")
    spool.add(b"picture")
    spool.flush()
    folder = temporary.temporary_folder()
    (Path(folder.name) / "tower.onnx").write_bytes(b"weights")
    return [spool, folder]


def test_what_a_killed_process_left_goes_and_what_is_used_stays(place: Path) -> None:
    in_a_process(fill, dies=True)
    [dead] = place.iterdir()
    assert len(list(dead.rglob("*"))) == 3
    living = in_a_process(fill, dies=False)
    try:
        assert not dead.exists()  # the next process that has temporary files takes them away
        [held] = place.iterdir()
        own = Spool()
        assert Path(own.path).parent.parent == place
        assert Path(own.path).parent != held
        assert len(list(held.rglob("*"))) == 3
    finally:
        end(living)


def test_what_is_not_certainly_left_over_stays(place: Path) -> None:
    in_a_process(fill, dies=True)
    [dead] = place.iterdir()
    name = dead.name
    of_another_machine = dead.rename(place / f"{name[:11]}{'0' * 8}{name[19:]}")
    open_to_others = place / f"{name[:-8]}abcdefgh"
    open_to_others.mkdir(mode=0o755)
    open_to_others.chmod(0o755)
    named_else = place / f"{name}.bak"
    named_else.mkdir(mode=0o700)
    photos = place / "photos"
    photos.mkdir(mode=0o700)
    link = place / f"{name[:-8]}zzzzzzzz"
    link.symlink_to(photos)
    for folder in (of_another_machine, open_to_others, named_else, photos):
        (folder / "mine.jpg").write_bytes(b"mine")
    kept = Spool()
    assert Path(kept.path).is_file()
    for folder in (of_another_machine, open_to_others, named_else, photos, link):
        assert (folder / "mine.jpg").read_bytes() == b"mine"


def test_a_forked_process_has_its_own_and_a_folder_that_vanished_is_made_again(place: Path) -> None:
    first = temporary.process_folder()
    assert first is not None
    living = in_a_process(Spool, dies=False)
    try:
        assert len(list(place.iterdir())) == 2
    finally:
        end(living)
    Path(first).rmdir()
    assert Path(Spool().path).parent.parent == place


def test_without_locks_the_system_s_folder_is_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_lock", lambda folder: None)
    kept = Spool()
    assert Path(kept.path).parent == place
    assert list(place.iterdir()) == [Path(kept.path)]
