"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clipsearch.replacing import creating, replacing


@pytest.mark.parametrize("synced", [False, True])
def test_the_old_content_stays_until_all_is_written(tmp_path: Path, synced: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path, synced=synced) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), replacing(path, synced=synced) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


SOMETHING: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b"theirs"),
    lambda path: path.mkdir(),
    lambda path: path.symlink_to("nowhere"),
]


@pytest.mark.parametrize("make", SOMETHING)
@pytest.mark.parametrize("links", [True, False])
def test_nothing_is_replaced(
    tmp_path: Path, make: Callable[[Path], object], links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there, what comes while the file is written, and what a killed process left."""
    if not links:

        def link(source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", link)
    before, during, free = (tmp_path / name for name in ("before", "during", "free"))
    make(before)
    (tmp_path / ".free.part").write_bytes(b"left over")
    with pytest.raises(FileExistsError), creating(before):
        raise AssertionError("it was not refused")
    with pytest.raises(FileExistsError), creating(during) as file:
        file.write(b"ours")
        make(during)
    with creating(free) as file:
        file.write(b"ours")
        assert not os.path.lexists(free)
    assert free.read_bytes() == b"ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".free.part", "before", "during", "free"]
    for path in (before, during):
        assert not path.is_file() or path.read_bytes() == b"theirs"
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    with creating(Path("/dev/null")) as file:
        file.write(b"x")
    assert Path("/dev/null").is_char_device()
