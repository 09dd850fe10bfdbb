from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipsearch.indexer.changes import compare
from clipsearch.indexer.scan import FoundFile, Scan, scan
from clipsearch.records import ImageRecord, SkippedImage


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def paths(found: Scan) -> list[str]:
    return [file.path for file in found.files]


def test_everything_below_is_found_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "a.jpg", "z/1.jpg", "c/d/e.jpg")
    assert paths(scan(tmp_path)) == ["a.jpg", "b.jpg", "c/d/e.jpg", "z/1.jpg"]


def test_hidden_and_system_folders_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", ".hidden.jpg", ".clipsearch/x.jpg", ".git/x.jpg", "@eaDir/x.jpg", "p/node_modules/x.jpg")
    assert paths(scan(tmp_path)) == ["a.jpg"]


def test_the_index_folder_is_left_out_wherever_it_is(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "my-index/data/x.jpg")
    assert paths(scan(tmp_path, exclude=tmp_path / "my-index")) == ["a.jpg"]


def test_links_are_followed_but_nothing_is_found_twice(tmp_path: Path) -> None:
    write(tmp_path / "photos", "real/a.jpg")
    write(tmp_path / "other", "b.jpg")
    photos = tmp_path / "photos"
    (photos / "aaa").symlink_to(photos / "real")  # sorts before the folder that it points to
    (photos / "loop").symlink_to(photos)
    (photos / "outside").symlink_to(tmp_path / "other")
    (photos / "c.jpg").symlink_to(tmp_path / "other" / "b.jpg")
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere")
    found = scan(photos)
    assert paths(found) == ["c.jpg", "real/a.jpg", "outside/b.jpg"]
    assert found.unreadable_files == [SkippedImage("gone.jpg", "unreadable", "a link to nowhere")]


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff.jpg")
    write(tmp_path, name, "new\nline.jpg")
    assert set(paths(scan(tmp_path))) == {name, "new\nline.jpg"}


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    found = scan(tmp_path)
    assert not found.files
    assert found.unreadable_files[0].status == "not_a_picture"


def test_a_folder_that_cannot_be_read_hides_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jpg", "locked/b.jpg")
    real = os.scandir

    def refuse(place: str) -> object:
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found = scan(tmp_path)
    assert paths(found) == ["a.jpg"]
    assert found.unreadable_folders == [
        SkippedImage("locked", "unreadable", "the folder cannot be read (Permission denied)")
    ]
    assert found.hides("locked/b.jpg")
    assert not found.hides("locked2/b.jpg")


def record(path: str, *, size: int = 1, mtime: int = 2, inode: int = 3, status: str = "ok") -> ImageRecord:
    return ImageRecord(0, path, size, mtime, inode, "h", status=status)  # type: ignore[arg-type]


def test_changes_are_told_by_size_time_and_inode() -> None:
    old = [record("same"), record("size"), record("time"), record("inode"), record("gone"), record("hidden/x")]
    found = Scan(
        [
            FoundFile("same", 1, 2, 3),
            FoundFile("size", 9, 2, 3),
            FoundFile("time", 1, 9, 3),
            FoundFile("inode", 1, 2, 9),
            FoundFile("new", 1, 2, 3),
        ],
        unreadable_folders=[SkippedImage("hidden", "unreadable", "")],
    )
    changes = compare(old, found)
    assert changes.unchanged == 1
    assert [file.path for file in changes.to_read] == ["size", "time", "inode", "new"]
    assert list(changes.vanished) == ["gone"]


def test_skipped_files_are_read_again_only_where_asked() -> None:
    old = [record("a", status="corrupt"), record("b", status="unreadable")]
    found = Scan([FoundFile("a", 1, 2, 3), FoundFile("b", 1, 2, 3)])
    changes = compare(old, found, retry=lambda r: r.status == "unreadable")
    assert [file.path for file in changes.to_read] == ["b"]
    assert [r.path for r in changes.unchanged_skipped] == ["a"]
