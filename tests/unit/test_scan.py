from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from clipsearch.indexer.absence import split_vanished
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import compare, find_moved
from clipsearch.indexer.ignore import Ignore
from clipsearch.indexer.scan import FileBlock, FoundFile, Scan, scan
from clipsearch.indexer.segments import write_fragment
from clipsearch.records import ImageRecord, SkippedImage
from clipsearch.store import Writer
from clipsearch.store.columns import path_key


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def paths(found: tuple[list[FoundFile], Scan]) -> list[str]:
    return [file.path for file in found[0]]


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
    assert paths(found) == ["c.jpg", "outside/b.jpg", "real/a.jpg"]
    assert found[1].unreadable == [SkippedImage("gone.jpg", "unreadable", "a link to nowhere")]
    assert found[1].hides("gone.jpg")


def test_a_link_to_nowhere_that_is_no_picture_by_its_name_is_counted_and_no_error(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "archive").symlink_to(tmp_path / "unplugged")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "unplugged" / "notes.txt")
    _, found = scan(tmp_path)
    assert found.unreadable == []
    assert found.others["links to nowhere"] == 2
    assert found.hides("archive/b.jpg")  # what it may have led to is missing, not deleted


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff.jpg")
    write(tmp_path, name, "new\nline.jpg")
    assert set(paths(scan(tmp_path))) == {name, "new\nline.jpg"}


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    found = scan(tmp_path)
    assert not found[0]
    assert found[1].others == {"neither files nor folders": 1}


def test_what_is_no_picture_by_its_name_is_counted_by_kind(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.JPG", "c.txt", "d.TXT", "server.log", "._a.jpg", "README", "art.psd")
    files, found = scan(tmp_path)
    assert [file.path for file in files] == ["README", "a.jpg", "art.psd", "b.JPG"]
    assert found.others == {".txt files": 2, ".log files": 1}
    assert found.folders == {""}


def test_times_that_do_not_fit_are_the_nearest_that_do(tmp_path: Path) -> None:
    write(tmp_path, "future.jpg", "past.jpg")
    os.utime(tmp_path / "future.jpg", (15_000_000_000, 15_000_000_000))  # 2445
    os.utime(tmp_path / "past.jpg", (-11_644_473_600, -11_644_473_600))  # 1601
    files, _ = scan(tmp_path)
    assert all(-(2**63) <= file.mtime_ns < 2**63 for file in files)
    assert files[0].mtime_ns > 9 * 10**18


def test_a_folder_that_cannot_be_read_hides_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jpg", "locked/b.jpg")
    real = os.open

    def refuse(place: str, *arguments: int, **more: object) -> int:
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(place, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    found = scan(tmp_path)
    assert paths(found) == ["a.jpg"]
    assert found[1].unreadable == [SkippedImage("locked", "unreadable", "it cannot be read (Permission denied)")]
    assert found[1].hides("locked/b.jpg")
    assert found[1].hides("locked")
    assert not found[1].hides("locked2/b.jpg")


def record(path: str, *, size: int = 1, mtime: int = 2, inode: int = 3, status: str = "ok") -> ImageRecord:
    return ImageRecord(0, path, size, mtime, inode, "0" * 32, status=status, vector_id=-1)  # type: ignore[arg-type]


def catalog_of(folder: Path, *records: ImageRecord) -> Catalog:
    """A catalog of rows that get their ids here."""
    numbered = [
        dataclasses.replace(r, row_id=n, vector_id=n if r.status == "ok" else -1) for n, r in enumerate(records)
    ]
    with Writer(folder) as writer:
        fragment = write_fragment(writer, lambda: [numbered])
    assert fragment is not None
    return Catalog(folder, [fragment])


def block_of(*files: FoundFile) -> FileBlock:
    """Files as if they were all in the root."""
    return FileBlock(
        "",
        [file.path for file in files],
        np.frombuffer(b"".join(path_key(file.path) for file in files), "<i8").reshape(-1, 2),
        np.array([file.size_bytes for file in files], np.int64),
        np.array([file.mtime_ns for file in files], np.int64),
        np.array([file.inode for file in files], np.uint64),
    )


def test_changes_are_told_by_size_and_time_whatever_the_inode(tmp_path: Path) -> None:
    names = ["same", "size", "time", "inode", "gone", "hidden/x"]
    catalog = catalog_of(tmp_path, *(record(name) for name in names))
    found = [
        FoundFile("same", 1, 2, 3),
        FoundFile("size", 9, 2, 3),
        FoundFile("time", 1, 9, 3),
        FoundFile("inode", 1, 2, 9),
        FoundFile("new", 1, 2, 3),
    ]
    changes, seen = compare(catalog, [block_of(*found)])
    assert changes.unchanged == 2
    assert [file.path for block in changes.to_read for file in block] == ["new", "size", "time"]
    assert [names[row] for row in np.flatnonzero(~seen)] == ["gone", "hidden/x"]


def test_skipped_files_are_read_again_only_where_asked(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, record("a", status="corrupt"), record("b", status="unreadable"))
    block = block_of(FoundFile("a", 1, 2, 3), FoundFile("b", 1, 2, 3))
    changes, _ = compare(catalog, [block], retry=lambda r: r.status == "unreadable")
    assert [file.path for block in changes.to_read for file in block] == ["b"]
    assert [r.path for r in changes.unchanged_skipped] == ["a"]


def test_a_move_is_told_by_inode_size_and_fine_time(tmp_path: Path) -> None:
    fine, coarse = 1_700_000_000_123_456_789, 1_700_000_000_000_000_000
    catalog = catalog_of(
        tmp_path, record("old", mtime=fine, inode=7), record("fat", mtime=coarse, inode=8), record("x", mtime=fine)
    )
    block = block_of(
        FoundFile("new", 1, fine, 7), FoundFile("moved on fat", 1, coarse, 8), FoundFile("other", 2, fine, 3)
    )
    changes, seen = compare(catalog, [block])
    find_moved(catalog, changes, np.flatnonzero(~seen))
    assert [(row, block.path(number)) for row, block, number in changes.moved] == [(0, "new")]
    assert [file.path for block in changes.to_read for file in block] == ["moved on fat", "other"]


def vanish(folder: Path, there: list[str], gone: list[str], scan: Scan) -> tuple[set[str], set[str]]:
    """Which of the vanished rows are deleted, and which are missing."""
    names = [*there, *gone]
    catalog = catalog_of(folder, *(record(name, inode=n) for n, name in enumerate(names)))
    vanished = np.arange(len(there), len(names))
    deleted, missing = split_vanished(catalog, scan, {"": 1, "usb": 2}, vanished)
    return {names[row] for row in deleted}, {names[row] for row in missing}


def test_single_pictures_are_deleted_and_whole_folders_missing(tmp_path: Path) -> None:
    scan = Scan(folders={"", "a"}, devices={"": 1, "usb": 2})
    deleted, missing = vanish(
        tmp_path, [f"a/{n}.jpg" for n in range(9)], ["a/x.jpg", "b/1.jpg", "b/2.jpg", "usb/1.jpg"], scan
    )
    assert (deleted, missing) == ({"a/x.jpg"}, {"b/1.jpg", "b/2.jpg", "usb/1.jpg"})


def test_more_than_half_of_a_small_collection_is_missing(tmp_path: Path) -> None:
    scan = Scan(folders={"a"}, devices={"": 1})
    assert vanish(tmp_path / "two", ["a/1.jpg"], ["a/2.jpg", "a/3.jpg"], scan) == ({"a/2.jpg", "a/3.jpg"}, set())
    gone = {"a/2.jpg", "a/3.jpg", "a/4.jpg"}
    assert vanish(tmp_path / "three", ["a/1.jpg"], sorted(gone), scan) == (set(), gone)


def test_what_vanishes_in_bulk_is_missing(tmp_path: Path) -> None:
    there = [f"a/{n}.jpg" for n in range(100)]
    few, many = [f"a/x{n}.jpg" for n in range(20)], [f"a/x{n}.jpg" for n in range(21)]
    scan = Scan(folders={"a"}, devices={"": 1})
    assert vanish(tmp_path / "few", there, few, scan) == (set(few), set())
    assert vanish(tmp_path / "many", there, many, scan) == (set(), set(many))


def test_what_nobody_could_see_is_missing(tmp_path: Path) -> None:
    gone = ["locked/1.jpg", "usb/1.jpg", "nas.jpg", "a/1.jpg"]
    scan = Scan(
        folders={"", "usb", "a"},
        unreadable=[SkippedImage("locked", "unreadable", ""), SkippedImage("nas.jpg", "unreadable", "")],
        devices={"": 1, "usb": 1},  # the folder is there, the drive in it is not
    )
    deleted, missing = vanish(tmp_path, [], gone, scan)
    assert (deleted, missing) == ({"a/1.jpg"}, {"locked/1.jpg", "usb/1.jpg", "nas.jpg"})


def test_a_mount_deep_below_that_is_away_is_noticed() -> None:
    before = {"": 1, "a": 1, "a/b/nas": 2, "link": 3}
    assert Scan(devices={"": 1, "a": 1, "link": 3}).moved_devices(before) == ["a/b/nas"]
    assert Scan(devices={"": 1, "a": 1, "a/b/nas": 2, "link": 3}).moved_devices(before) == []
    assert Scan(devices={}).moved_devices(before) == []  # the root itself cannot be looked at


def test_links_out_of_the_folder_are_left_out_unless_they_are_wanted(tmp_path: Path) -> None:
    write(tmp_path / "photos", "real/a.jpg", "real/x.jpg")
    write(tmp_path / "photos and more", "b.jpg")  # its name begins like the folder's
    photos = tmp_path / "photos"
    (tmp_path / "way").symlink_to(photos)
    for name, target in (
        ("aaa", photos / "real"),
        ("again.jpg", photos / "real" / "a.jpg"),
        ("loop", tmp_path / "way"),
        ("outside", tmp_path / "photos and more"),
        ("c.jpg", "../photos and more/b.jpg"),
        ("real/d.jpg", "../../photos and more/b.jpg"),
        ("up", ".."),
        ("gone.jpg", tmp_path / "nowhere"),
        ("within.jpg", photos / "nowhere"),
    ):
        (photos / name).symlink_to(target)
    for root in (photos, tmp_path / "way"):
        found, result = scan(root, ignore=Ignore(root, follow_links=False))
        assert [file.path for file in found] == ["again.jpg", "real/a.jpg", "real/x.jpg"]
        assert set(result.left_out) == {"outside", "c.jpg", "real/d.jpg", "up", "gone.jpg"}
        assert [skipped.path for skipped in result.unreadable] == ["within.jpg"]
        followed = [file.path for file in scan(root, ignore=Ignore(root))[0]]
        assert {"outside/b.jpg", "c.jpg", "real/d.jpg"} <= set(followed)
