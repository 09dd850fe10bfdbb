"""What if we are wrong? Links in an index, lost manifests, other machines' files, wrong clocks, moved folders."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError, CorruptIndex, NotAnIndex, OtherCollection, StorageError, UnsupportedIndex
from clipsearch.indexer import build
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.search.collection import Collection
from clipsearch.store import open_snapshot
from clipsearch.store.tags import write_tags
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture


def run(folder: Path, encoder: FakeEncoder, index: Path | None = None, **options: object) -> IndexReport:
    return index_folder(folder, encoder, index=index, options=IndexOptions(**{"workers": 1, **options}))  # type: ignore[arg-type]


def some_hash(index: Path) -> str:
    with Collection(index, encoder=FakeEncoder()) as photos:
        return photos.search("red", k=1, all=True)[0].record.content_hash or ""


def tag_names(index: Path) -> list[str]:
    with open_snapshot(index) as snapshot:
        return [tag.name for tag in snapshot.tags]


@pytest.mark.parametrize("name", ["LOCK", "COMMIT"])
def test_a_link_in_the_place_of_a_lock_is_not_written_to(photos: Path, encoder: FakeEncoder, name: str) -> None:
    fill(photos, 3)
    run(photos, encoder)
    diary = photos.parent / "diary.txt"
    diary.write_text("dear diary")
    (photos / ".clipsearch" / name).unlink()
    (photos / ".clipsearch" / name).symlink_to(diary)
    picture(99).save(photos / "new.jpg")
    with pytest.raises(NotAnIndex, match="link"):
        run(photos, encoder)
    assert diary.read_text() == "dear diary"


def test_a_lock_that_another_snapshot_shares_is_not_written_to(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 3)
    run(photos, encoder)
    lock, other = photos / ".clipsearch" / "LOCK", photos.parent / "snapshot-LOCK"
    lock.write_text("as it was\n")
    os.link(lock, other)
    picture(99).save(photos / "new.jpg")
    assert run(photos, encoder).pictures == 4
    assert other.read_text() == "as it was\n"


@pytest.mark.slow
def test_folders_behind_links_are_never_cleaned_up(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 3)
    run(photos, encoder)
    mine = photos.parent / "mine"
    shutil.copytree(photos, mine)
    write_tags(mine / ".clipsearch", {"alice": {some_hash(mine / ".clipsearch"): 1.0}})
    database = photos.parent / "database"
    database.mkdir()
    for name in ("CURRENT", "12345678.json", "a" * 32 + ".part"):
        (database / name).write_text("precious")
    index = photos / ".clipsearch"
    for folder in ("records", "rows", "vectors", "search", "tags"):
        shutil.rmtree(index / folder)
        (index / folder).symlink_to(mine / ".clipsearch" / folder)
    shutil.rmtree(index / "staging")
    (index / "staging").symlink_to(database)
    before = {path for path in mine.rglob("*") if path.is_file()}
    for n in range(4):
        picture(100 + n).save(photos / f"new{n}.jpg")
        run(photos, encoder)
    assert before <= {path for path in mine.rglob("*") if path.is_file()}
    assert verify(mine / ".clipsearch").ok
    assert {path.read_text() for path in database.iterdir()} == {"precious"}


@pytest.mark.slow
def test_a_marked_index_without_manifests_is_damaged_not_new(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 8)
    run(photos, encoder)
    index = photos / ".clipsearch"
    write_tags(index, {"grandma": {some_hash(index): 1.0}})
    (index / "CURRENT").unlink()
    shutil.rmtree(index / "manifests")
    with pytest.raises(CorruptIndex, match="verify --repair"):
        run(photos, encoder)
    report = repair(index)
    assert report.pictures == 8
    assert tag_names(index) == ["grandma"]
    assert verify(index).ok
    fresh = FakeEncoder()
    assert run(photos, fresh).unchanged == 8
    assert fresh.images_encoded == 0


def test_tags_that_were_saved_last_survive_the_loss_of_their_manifest(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 4)
    run(photos, encoder)
    index = photos / ".clipsearch"
    write_tags(index, {"old": {some_hash(index): 1.0}})
    write_tags(index, {"new": {some_hash(index): 1.0}})
    newest = sorted((index / "manifests").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    repair(index)
    assert tag_names(index) == ["new", "old"]


@pytest.mark.slow
def test_what_another_machine_s_manifest_names_is_kept(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 5)
    run(photos, encoder)
    other = photos.parent / "other"
    shutil.copytree(photos, other)
    index = photos / ".clipsearch"
    write_tags(other / ".clipsearch", {"alice": {some_hash(index): 1.0}})
    for path in (other / ".clipsearch" / "tags").iterdir():
        shutil.copy(path, index / "tags")
    conflict = index / "manifests" / "00000002.sync-conflict-20261127-021400-ABCDEFG.json"
    shutil.copy(other / ".clipsearch" / "manifests" / "00000002.json", conflict)
    alice = set((index / "tags").iterdir())
    for n in range(4):
        picture(100 + n).save(photos / f"new{n}.jpg")
        run(photos, encoder)
    assert alice <= set((index / "tags").iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("CURRENT", "clipsearch 3 00000001 0123456789abcdef0123456789abcdef zstd"),
        ("CURRENT", "clipsearch 4 what it says is up to it"),
        ("INDEX", "clipsearch index 3 " + "a" * 32 + " 2031-01-01 more\n"),
    ],
)
def test_a_newer_index_is_refused_by_everything_that_writes(
    photos: Path, encoder: FakeEncoder, name: str, content: str
) -> None:
    fill(photos, 3)
    run(photos, encoder)
    index = photos / ".clipsearch"
    (index / name).write_text(content)
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    for attempt in (lambda: repair(index), lambda: run(photos, encoder), lambda: compact(index)):
        with pytest.raises(UnsupportedIndex, match="pip install --upgrade"):
            attempt()
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == before


def test_an_unreadable_file_stops_a_repair_before_it_changes_anything(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 4)
    run(photos, encoder)
    index = photos / ".clipsearch"
    write_tags(index, {"grandma": {some_hash(index): 1.0}})
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}

    def refuse(path: Path, **_: object) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="Nothing was changed"):
        patch.setattr("clipsearch.store.files.file_checksum", refuse)
        repair(index)
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_wrong_clocks_forget_nothing(photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(photos, 30)
    run(photos, encoder)
    (photos / "set001").rename(photos.parent / "away")
    now = time.time()
    for clock in (now - 800_000_000, now, now + 800_000_000, now):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        report = run(photos, encoder)
        assert (report.missing, report.forgotten) == (10, 0)
    (photos.parent / "away").rename(photos / "set001")
    assert run(photos, encoder).returned == 10
    assert encoder.images_encoded == 30


@pytest.mark.slow
def test_an_interrupted_run_does_not_forget_which_drive_was_there(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, usb = tmp_path / "photos", Path("/dev/shm") / f"clipsearch-test-{os.getpid()}"
    if not usb.parent.is_dir() or usb.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two devices")
    try:
        fill(photos, 30)
        fill(usb, 3, first=100)
        (photos / "usb").symlink_to(usb)
        run(photos, encoder, follow_links=True)
        (photos / "usb").unlink()
        (photos / "usb").mkdir()
        picture(7).save(photos / "usb" / "other.jpg")
        fill(photos, 20, first=500)
        real, seen = build._Run._maybe_commit, []

        def stop(self: build._Run) -> None:
            real(self)
            seen.append(1)
            if len(seen) == 12:
                signal.raise_signal(signal.SIGINT)  # handled before it returns

        assert threading.current_thread() is threading.main_thread()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build._Run, "_maybe_commit", stop)
            assert run(photos, encoder, commit_rows=2, batch_pictures=2).interrupted
        report = run(photos, encoder)
        assert (report.removed, report.missing) == (0, 3)
    finally:
        shutil.rmtree(usb, ignore_errors=True)


@pytest.mark.slow
def test_a_moved_folder_is_answered_where_it_is_now(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    fill(photos, 5)
    run(photos, encoder, index)
    photos.rename(tmp_path / "moved")
    report = run(tmp_path / "moved", encoder, index)
    assert any(str(photos) in line for line in report.warnings)
    with Collection(index, encoder=encoder) as collection:
        assert all(Path(hit.path).exists() for hit in collection.search("red", k=5, all=True))
    photos.mkdir()
    assert run(tmp_path / "moved", encoder, index).unchanged == 5


@pytest.mark.slow
def test_a_backup_of_a_part_does_not_take_the_index_over(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    paths = fill(photos, 20)
    run(photos, encoder, index)
    for path in paths[:14]:
        target = tmp_path / "backup" / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    photos.rename(tmp_path / "away")
    with pytest.raises(OtherCollection):
        run(tmp_path / "backup", encoder, index)
    (tmp_path / "away").rename(photos)
    assert run(photos, encoder, index).unchanged == 20


@pytest.mark.parametrize("number", [5, 13, 107, 116])
def test_a_root_that_answers_with_an_error_is_an_error_of_ours(
    photos: Path, encoder: FakeEncoder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 3)
    run(photos, encoder)

    def refuse(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(ClipsearchError):
        patch.setattr(Path, "is_dir", refuse)
        run(photos, encoder)


@pytest.mark.slow
def test_what_is_left_out_for_one_run_is_not_encoded_again(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 30)
    run(photos, encoder)
    report = run(photos, encoder, exclude=("set001",))
    assert (report.withdrawn, report.pictures) == (10, 20)
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.pictures) == (0, 10, 30)
