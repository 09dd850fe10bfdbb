from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash

from clipsearch import checksums
from clipsearch.checksums import file_checksum
from clipsearch.config import cache_dir


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files made this moment count as old."""
    monkeypatch.setattr(checksums, "SETTLED_AFTER_NS", -(10**12))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    return path


def checksum(path: Path, *, afresh: bool = False) -> str:
    return file_checksum(path, remember_from_bytes=100, afresh=afresh)


def test_it_is_xxh3(tmp_path: Path) -> None:
    for content in (b"", b"a", os.urandom(100_000)):
        (tmp_path / "file").write_bytes(content)
        assert checksum(tmp_path / "file") == xxhash.xxh3_128_hexdigest(content)


@pytest.mark.usefixtures("settled")
def test_large_files_are_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checksum(file)
    monkeypatch.setattr(checksums, "_read", lambda path: "read")
    assert checksum(file) == first
    assert file_checksum(file, remember_from_bytes=10_000) == "read"
    assert checksum(file, afresh=True) == "read"


@pytest.mark.usefixtures("settled")
def test_a_write_is_noticed_even_if_the_times_are_put_back(file: Path) -> None:
    first = checksum(file)
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"y")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert checksum(file) != first


def test_a_file_that_may_still_change_is_not_remembered(file: Path) -> None:
    checksum(file)
    assert not (cache_dir() / "checksums.json").exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 3}'])
def test_a_damaged_memory_is_ignored(file: Path, content: bytes) -> None:
    cache_dir().mkdir(parents=True)
    (cache_dir() / "checksums.json").write_bytes(content)
    assert checksum(file) == checksum(file) == xxhash.xxh3_128_hexdigest(b"x" * 1000)
