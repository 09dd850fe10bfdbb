"""Absence is not deletion: drives that are away, folders that answer with errors, and re-encoding beside what is there.

Each test takes pictures away, runs, brings them back and runs again: nothing may be encoded twice or lost.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from clipsearch.config import read_plain
from clipsearch.errors import InvalidTarget, NoPictures, NotAnIndex, OtherCollection, StorageError
from clipsearch.exports.run import export_index
from clipsearch.indexer import build, drives
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.scan import FoundFile, Scan, walk
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.pictures.pool import DecodeResult, DecodeTask
from clipsearch.records import OUT_OF_MEMORY, SkipStatus
from clipsearch.search.collection import Collection
from clipsearch.store import open_snapshot
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.mounts import Mounts
from tests.support.pictures import fill, picture

KILLS = tries("CLIPSEARCH_KILLS", 2, 4)
REPOSITORY = Path(__file__).resolve().parents[2]


def run(folder: Path, encoder: FakeEncoder, **options: object) -> IndexReport:
    report = index_folder(folder, encoder, options=IndexOptions(**{"workers": 1, **options}))  # type: ignore[arg-type]
    checked = verify(report.index)
    assert checked.ok, checked.problems
    assert (checked.pictures, checked.missing) == (report.pictures, report.missing)
    return report


def found(index: Path, encoder: FakeEncoder | None = None) -> set[str]:
    with Collection(index, encoder=encoder or FakeEncoder()) as photos:
        hits = photos.search("red", k=1000, all=True)
        assert len(hits) == len(photos)
        return {hit.record.path for hit in hits}


@contextmanager
def failing(place: Path, number: int, calls: tuple[str, ...], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let calls on `place` and what is below it answer with an error."""
    real = {name: getattr(os, name) for name in calls}

    def make(name: str) -> Callable[..., object]:
        def call(path: object, *arguments: object, **more: object) -> object:
            if isinstance(path, str | Path) and f"{path}/".startswith(f"{place}/"):
                raise OSError(number, os.strerror(number))
            return real[name](path, *arguments, **more)

        return call

    with patch.context() as context:
        for name in calls:
            context.setattr(os, name, make(name))
        yield


@pytest.mark.slow
def test_a_link_to_a_drive_that_is_away(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, usb = tmp_path / "photos", tmp_path / "usb"
    fill(photos, 3)
    fill(usb, 9, first=10)
    (photos / "usb").symlink_to(usb)
    run(photos, encoder, follow_links=True)
    usb.rename(tmp_path / "away")
    report = run(photos, encoder)
    assert (report.removed, report.missing, report.pictures) == (0, 9, 3)
    assert not any(path.startswith("usb/") for path in found(photos / ".clipsearch"))
    assert run(photos, encoder).generation == report.generation  # nothing new to write
    (tmp_path / "away").rename(usb)
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.missing, report.pictures) == (0, 9, 0, 12)
    assert encoder.images_encoded == 12


@pytest.mark.few(2)
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EACCES, errno.ETIMEDOUT])
def test_a_folder_that_answers_with_an_error(
    photos: Path, encoder: FakeEncoder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 25)
    run(photos, encoder)
    with failing(photos / "set001", number, ("open", "stat", "scandir"), monkeypatch):
        report = run(photos, encoder)
    assert (report.removed, report.missing, report.pictures) == (0, 10, 15)
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.pictures) == (0, 10, 25)
    assert encoder.images_encoded == 25


def test_a_mount_point_without_its_drive_but_with_a_readme(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, nas = tmp_path / "photos", tmp_path / "photos" / "nas"
    fill(photos, 2)
    fill(nas, 6, first=10)
    run(photos, encoder)
    nas.rename(tmp_path / "away")
    nas.mkdir()
    (nas / "README").write_text("mount the NAS here")
    (nas / "README.txt").write_text("mount the NAS here")
    report = run(photos, encoder)
    assert (report.removed, report.missing, report.pictures) == (0, 6, 2)
    shutil.rmtree(nas)
    (tmp_path / "away").rename(nas)
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.pictures) == (0, 6, 8)


@pytest.mark.slow
def test_a_real_mount_that_is_away(tmp_path: Path, encoder: FakeEncoder) -> None:
    """A single picture is missing too where another device has taken the place of the one that it was on."""
    photos, nas = tmp_path / "photos", tmp_path / "photos" / "nas"
    fill(photos, 30)
    nas.mkdir()
    (nas / "left.jpg").write_bytes(b"")
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(nas)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        fill(nas, 2, first=40)
        for n, path in enumerate(sorted(nas.rglob("*.jpg"))):
            path.rename(nas / ("left.jpg" if n else "b.jpg"))
        assert run(photos, encoder).pictures == 32
        shutil.copytree(nas, tmp_path / "copy")
    finally:
        subprocess.run(["umount", "-l", str(nas)], check=True)
    report = run(photos, encoder)
    assert (report.removed, report.missing) == (0, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
def test_an_album_that_may_not_be_looked_into(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 12)
    run(photos, encoder)
    album = photos / "set000"
    for mode in (0o000, 0o444):
        album.chmod(mode)
        try:
            report = run(photos, encoder)
            assert (report.removed, report.missing, report.pictures) == (0, 10, 2)
        finally:
            album.chmod(0o755)
        assert run(photos, encoder).pictures == 12
    assert encoder.images_encoded == 12


def test_bulk_is_missing_and_a_few_are_deleted(photos: Path, encoder: FakeEncoder) -> None:
    paths = fill(photos, 100)
    run(photos, encoder)
    for n in range(0, 50, 2):  # 25 of 100, some of every folder
        paths[n].unlink()
    report = run(photos, encoder)
    assert (report.removed, report.missing, report.pictures) == (0, 25, 75)
    paths[1].unlink()
    report = run(photos, encoder)
    assert (report.removed, report.missing, report.pictures) == (1, 25, 74)
    report = run(photos, encoder, prune=True)
    assert (report.forgotten, report.missing, report.pictures) == (25, 0, 74)


def test_missing_pictures_are_forgotten_after_a_time(photos: Path, encoder: FakeEncoder) -> None:
    paths = fill(photos, 30)
    run(photos, encoder)
    shutil.rmtree(photos / "set002")
    assert run(photos, encoder).missing == 10
    assert run(photos, encoder, keep_missing_days=1).missing == 10
    report = run(photos, encoder, keep_missing_days=0)
    assert (report.forgotten, report.missing, report.pictures) == (10, 0, 20)
    assert not paths[25].exists()


def test_what_cannot_be_looked_at_is_not_forgotten_by_time(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 20)
    run(photos, encoder)
    with failing(photos / "set001", errno.EIO, ("open",), monkeypatch):
        assert run(photos, encoder, keep_missing_days=0).missing == 10
        report = run(photos, encoder, prune=True)
    assert (report.forgotten, report.pictures) == (10, 10)


@pytest.mark.slow
def test_missing_pictures_survive_compaction_and_other_runs(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 20)
    run(photos, encoder)
    (photos / "set001").rename(photos.parent / "away")
    run(photos, encoder)
    for n in range(12):
        picture(1000 + n).save(photos / f"new{n}.jpg")
        run(photos, encoder)
    compact(photos / ".clipsearch")
    assert verify(photos / ".clipsearch").ok
    assert read_status(photos / ".clipsearch").missing == 10
    (photos.parent / "away").rename(photos / "set001")
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.pictures) == (0, 10, 32)


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("changed", [24, 32])
def test_dropping_unused_vectors_keeps_those_of_missing_pictures(
    changed: int, tmp_path: Path, encoder: FakeEncoder
) -> None:
    """At the end of a run, a segment of which a third is unused is written anew without that."""
    photos = tmp_path / "photos"
    fill(photos / "here", 32)
    fill(photos / "nas", 32, first=100)
    run(photos, encoder)
    (photos / "nas").rename(tmp_path / "away")
    assert run(photos, encoder).missing == 32
    for number, path in enumerate(sorted((photos / "here").rglob("*.jpg"))[:changed]):
        picture(1000 + number).save(path)
    report = run(photos, encoder)
    assert (report.encoded, report.missing, report.pictures) == (changed, 32, 32)
    with open_snapshot(report.index) as snapshot:
        assert sum(segment.vectors for segment in snapshot.manifest.segments) == 64  # the unused ones are gone
    (tmp_path / "away").rename(photos / "nas")
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.missing, report.pictures) == (0, 32, 0, 64)
    assert len(found(report.index)) == 64
    assert encoder.images_encoded == 64 + changed


def test_missing_pictures_that_come_back_elsewhere_are_moved(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 20)
    run(photos, encoder)
    (photos / "set001").rename(photos.parent / "away")
    run(photos, encoder)
    shutil.copytree(photos.parent / "away", photos / "elsewhere")
    report = run(photos, encoder)
    assert (report.encoded, report.renamed, report.missing, report.pictures) == (0, 10, 0, 20)


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_just_now_stays(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = fill(photos, 5)
    run(photos, encoder)
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr("clipsearch.indexer.build._Run._take", _refuse)
    report = run(photos, encoder)
    assert [skip.status for skip in report.skipped] == ["unreadable"]
    assert (report.pictures, report.removed) == (5, 0)
    monkeypatch.undo()
    report = run(photos, encoder)
    assert (report.touched, report.encoded, report.pictures) == (1, 0, 5)


def _refuse(run: build._Run, file: FoundFile, result: DecodeResult) -> None:
    """As if the file could not be read this moment."""
    run._skip(file, "unreadable", "Input/output error", None)


def test_three_copies_of_a_new_picture_are_encoded_once(photos: Path, encoder: FakeEncoder) -> None:
    (path,) = fill(photos, 1)
    for n in range(3):
        shutil.copy(path, photos / f"copy{n}.jpg")
    report = run(photos, encoder)
    assert (report.encoded, report.copied, report.pictures) == (1, 3, 4)
    assert len(found(photos / ".clipsearch")) == 4


def test_a_copy_of_folder_and_index_is_unchanged(photos: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    fill(photos, 10)
    run(photos, encoder)
    subprocess.run(["cp", "-a", str(photos), str(tmp_path / "copy")], check=True)
    report = run(tmp_path / "copy", encoder)
    assert (report.unchanged, report.touched, report.encoded, report.generation) == (10, 0, 0, 1)


def test_a_file_time_far_from_now_is_no_error(photos: Path, encoder: FakeEncoder) -> None:
    paths = fill(photos, 3)
    os.utime(paths[0], (15_000_000_000, 15_000_000_000))
    os.utime(paths[1], (-11_644_473_600, -11_644_473_600))
    assert run(photos, encoder).pictures == 3
    assert run(photos, encoder).unchanged == 3


@pytest.mark.parametrize("folder", ["index", "photos"])
def test_an_index_elsewhere_is_not_taken_over_by_another_folder(
    tmp_path: Path, encoder: FakeEncoder, folder: str
) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    fill(photos, 6)
    options = IndexOptions(workers=1)
    index_folder(photos, encoder, index=index, options=options)
    photos.rename(tmp_path / "moved")
    fill(tmp_path / "other", 6, first=100)
    with pytest.raises(OtherCollection, match="is the index of"):
        index_folder(tmp_path / "other", encoder, index=index, options=options)
    report = index_folder(tmp_path / "moved", encoder, index=index, options=options)
    assert (report.encoded, report.unchanged, report.pictures) == (0, 6, 6)


@pytest.mark.many
@pytest.mark.parametrize("reindex", [False, True])
def test_what_did_not_move_with_its_folder_is_missing(tmp_path: Path, encoder: FakeEncoder, reindex: bool) -> None:
    """A copy that was cut short, say, of which the old folder is deleted."""
    photos, moved, index = tmp_path / "photos", tmp_path / "moved", tmp_path / "index"
    paths = fill(photos, 30)
    options = IndexOptions(workers=1, reindex=reindex)
    index_folder(photos, encoder, index=index, options=IndexOptions(workers=1))
    (tmp_path / "kept").mkdir()
    for path in (paths[3], paths[14]):
        path.rename(tmp_path / "kept" / path.name)
    photos.rename(moved)
    report = index_folder(moved, encoder, index=index, options=options)
    assert (report.removed, report.missing, report.pictures) == (0, 2, 28)
    for path in (paths[3], paths[14]):
        (tmp_path / "kept" / path.name).rename(moved / path.relative_to(photos))
    report = index_folder(moved, encoder, index=index, options=IndexOptions(workers=1))
    assert (report.encoded, report.returned, report.pictures) == (0, 2, 30)
    (moved / paths[3].relative_to(photos)).unlink()
    assert index_folder(moved, encoder, index=index, options=IndexOptions(workers=1)).removed == 1


def test_an_empty_root_changes_nothing(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    fill(photos, 6)
    index_folder(photos, encoder, index=index, options=IndexOptions(workers=1))
    photos.rename(tmp_path / "away")
    photos.mkdir()
    with pytest.raises(NoPictures):
        index_folder(photos, encoder, index=index, options=IndexOptions(workers=1))
    assert len(found(index)) == 6


@pytest.mark.parametrize("place", [".", "..", "data/..", "sub"])
def test_an_index_around_the_pictures_or_in_their_place_is_refused(
    tmp_path: Path, encoder: FakeEncoder, place: str
) -> None:
    data = tmp_path / "project" / "data"
    fill(data, 4)
    (data / "train.csv").write_text("a,b")
    (tmp_path / "project" / "tags").mkdir()
    (tmp_path / "project" / "tags" / "labels.txt").write_text("cat")
    if place == "sub":
        fill(data / "sub", 1, first=50)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(NotAnIndex):
        index_folder(data, encoder, index=data / place, options=IndexOptions(workers=1))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run(data, encoder).pictures >= 4  # and the folder can be indexed as ever


def test_an_export_holds_rows_and_vectors(photos: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    fill(photos, 12)
    run(photos, encoder)
    (photos / "set001" / "p00011.jpg").unlink()
    run(photos, encoder)
    target = tmp_path / "out.parquet"
    assert export_index(photos / ".clipsearch", str(target)).rows == 11
    table = pq.read_table(target)
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        rows = {row["path"]: row["vector"] for row in table.select(["path", "vector"]).to_pylist()}
        for row_id in collection.row_ids().tolist():
            record = collection.record(row_id)
            assert rows[record.path] == pytest.approx(collection.vector(row_id).tolist())
    before = target.read_bytes()
    with pytest.raises(InvalidTarget, match=r"already exists.*--overwrite"):
        export_index(photos / ".clipsearch", str(target))
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "photos"]


# -- encoding everything again


@pytest.mark.slow
def test_the_old_vectors_answer_until_all_is_encoded_again(photos: Path) -> None:
    fill(photos, 30)
    old, new = FakeEncoder(), FakeEncoder(dim=48, seed=1)
    run(photos, old)
    seen: list[tuple[int, int]] = []
    index = photos / ".clipsearch"

    def look(_: object) -> None:
        with Collection(index) as collection:
            seen.append((collection.manifest.model.dim, len(collection)))

    options = IndexOptions(workers=1, commit_rows=4, batch_pictures=2, reindex=True)
    report = index_folder(photos, new, options=options, progress=look)
    assert (report.encoded, report.pictures) == (30, 30)
    assert set(seen) <= {(64, 30), (48, 30)}
    assert (64, 30) in seen
    assert verify(index).ok, verify(index).problems
    with Collection(index, encoder=new) as collection:
        assert len(collection.search("red", k=100, all=True)) == 30


@pytest.mark.slow
def test_encoding_again_goes_on_where_it_was_stopped(photos: Path) -> None:
    fill(photos, 30)
    old, new = FakeEncoder(), FakeEncoder(dim=48, seed=1)
    run(photos, old)
    index = photos / ".clipsearch"

    class Stop(Exception):
        pass

    calls = 0
    real = new.encode_images

    def stop_half_way(pixels: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise Stop
        return real(pixels)  # type: ignore[arg-type]

    new.encode_images = stop_half_way  # type: ignore[assignment,method-assign]
    options = IndexOptions(workers=1, commit_rows=2, batch_pictures=2, reindex=True)
    with pytest.raises(Stop):
        index_folder(photos, new, options=options)
    assert len(found(index)) == 30
    assert read_status(index).rebuilt
    assert verify(index).ok, verify(index).problems
    assert run(photos, old).unchanged == 30  # a plain run leaves it alone
    fresh = FakeEncoder(dim=48, seed=1)
    report = run(photos, fresh, reindex=True)
    assert 0 < report.encoded < 30
    assert report.pictures == 30
    assert read_status(index).rebuilt is None


@pytest.mark.slow
def test_encoding_again_keeps_what_is_away_and_tags(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, usb = tmp_path / "photos", tmp_path / "usb"
    fill(photos, 25)
    fill(usb, 5, first=40)
    (photos / "usb").symlink_to(usb)
    run(photos, encoder, follow_links=True)
    usb.rename(tmp_path / "away")
    report = run(photos, encoder, reindex=True)
    assert (report.encoded, report.pictures, report.missing) == (25, 25, 5)
    (tmp_path / "away").rename(usb)
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.pictures) == (0, 5, 30)
    usb.rename(tmp_path / "away")
    other = FakeEncoder(dim=48, seed=1)
    report = run(photos, other, reindex=True)
    assert (report.pictures, report.missing) == (25, 5)
    (tmp_path / "away").rename(usb)
    report = run(photos, other)  # the old vectors are of another model: these are encoded
    assert (report.encoded, report.pictures, report.missing) == (5, 30, 0)


@pytest.mark.slow
def test_encoding_again_does_not_lose_what_cannot_be_read_just_now(photos: Path, encoder: FakeEncoder) -> None:
    paths = fill(photos, 6)
    run(photos, encoder)
    bad = paths[0].relative_to(photos).as_posix()
    real = build._Run._take

    def take(run: build._Run, file: FoundFile, result: DecodeResult) -> DecodeTask | None:
        if file.path != bad:
            return real(run, file, result)
        _refuse(run, file, result)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build._Run, "_take", take)
        report = run(photos, encoder, reindex=True)
    assert (report.pictures, report.missing) == (5, 1)
    report = run(photos, encoder)
    assert (report.encoded, report.pictures, report.missing) == (0, 6, 0)


def going(leave: Callable[[], object], patch: pytest.MonkeyPatch, *, after: int) -> None:
    """Call `leave` when so many files were submitted to the pool."""
    real, submitted = build._Run._task, 0

    def task(run: build._Run, key: int, file: FoundFile, mode: Literal["decode", "hash", "describe"]) -> DecodeTask:
        nonlocal submitted
        submitted += 1
        if submitted == after:
            leave()
        return real(run, key, file, mode)

    patch.setattr(build._Run, "_task", task)


@pytest.mark.slow
@pytest.mark.parametrize(("prune", "part"), thinned([(False, "drive"), (True, "drive"), (False, ""), (True, "")], 4))
def test_a_drive_that_goes_while_encoding_again_changes_nothing(
    part: str, prune: bool, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, index, away = tmp_path / "photos", tmp_path / "index", tmp_path / "away"
    drive = photos / part
    fill(photos, 4)
    fill(photos / "drive", 30, first=10)
    index_folder(photos, encoder, index=index, options=IndexOptions(workers=1))
    before = found(index)
    other = FakeEncoder(dim=48, seed=1)
    options = IndexOptions(workers=1, commit_rows=2, batch_pictures=2, reindex=True, prune=prune)
    with monkeypatch.context() as patch:
        going(lambda: drive.rename(away), patch, after=10)
        with pytest.raises(StorageError, match="Queries still use the old vectors"):
            index_folder(photos, other, index=index, options=options)
    assert found(index) == before
    assert verify(index).ok, verify(index).problems
    away.rename(drive)
    report = index_folder(photos, other, index=index, options=options)
    assert (report.pictures, report.missing, report.forgotten) == (34, 0, 0)
    assert other.images_encoded <= 34 + 2
    assert found(index, other) == before


@pytest.mark.slow
def test_a_folder_that_goes_during_a_run_is_told_of(
    tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, index, away = tmp_path / "photos", tmp_path / "index", tmp_path / "away"
    fill(photos, 30)
    options = IndexOptions(workers=1, commit_rows=2, batch_pictures=2, prune=True)
    for put_there in (lambda: None, lambda: fill(photos, 1)):
        fill(photos, 30, first=40)
        with monkeypatch.context() as patch:

            def leave(put_there: Callable[[], object] = put_there) -> None:
                photos.rename(away)
                put_there()

            going(leave, patch, after=12)
            with pytest.raises(StorageError, match="went away during the run"):
                index_folder(photos, encoder, index=index, options=options)
        shutil.rmtree(photos, ignore_errors=True)
        away.rename(photos)
        report = index_folder(photos, encoder, index=index, options=options)
        assert (report.pictures, report.missing, report.forgotten, report.skipped) == (60, 0, 0, [])
        index_folder(photos, encoder, index=index, options=options)
        shutil.rmtree(index)


@pytest.mark.many
@pytest.mark.parametrize("prune", [False, True])
def test_forgetting_spares_what_was_seen_and_cannot_be_read(
    prune: bool, photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(photos, 12)
    run(photos, encoder)
    going(paths[0].unlink, monkeypatch, after=1)
    report = run(photos, encoder, reindex=True, prune=prune)
    assert (report.pictures, report.missing) == (11, 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_encoding_again_all_old_or_all_new_are_found(tmp_path: Path, number: signal.Signals) -> None:
    photos = tmp_path / "photos"
    fill(photos, 40)
    run(photos, FakeEncoder(dim=256))
    index = photos / ".clipsearch"
    command = [sys.executable, "-m", "tests.faults.index_process", str(photos), "4", "reindex"]
    for attempt in range(KILLS):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.5 + 0.15 * attempt)
        process.send_signal(number)
        process.communicate()
        with Collection(index) as collection:
            assert len(collection.row_ids()) == len(collection) == 40
        checked = verify(index)
        assert checked.ok, checked.problems
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    assert done.stdout.split()[1] == "40"
    assert verify(index).ok


# -- files that are there and give no picture


def spoil(paths: list[Path], how: str) -> None:
    for path in paths:
        size = path.stat().st_size
        path.write_bytes(b"" if how == "emptied" else b"\0" * size if how == "zeroed" else path.read_bytes()[:200])


@pytest.mark.few(each="how options neighbour")
@pytest.mark.many
@pytest.mark.parametrize("how", ["emptied", "zeroed", "cut"])
@pytest.mark.parametrize("options", [{}, {"reindex": True}], ids=["run", "reindex"])
@pytest.mark.parametrize("neighbour", [False, True])
def test_what_is_spoiled_in_bulk_keeps_its_vectors(
    how: str, options: dict[str, object], neighbour: bool, photos: Path, encoder: FakeEncoder
) -> None:
    paths = fill(photos, 12)
    if neighbour:  # a file whose row already says that such content is no picture
        (photos / "old.jpg").write_bytes(b"" if how == "emptied" else b"\0" * paths[0].stat().st_size)
    run(photos, encoder)
    contents = [path.read_bytes() for path in paths]
    before = found(photos / ".clipsearch")
    spoil(paths[:8], how)
    if options:
        with pytest.raises(StorageError, match="8 indexed pictures cannot be read now"):
            index_folder(photos, encoder, options=IndexOptions(workers=1, reindex=True))
    else:
        report = run(photos, encoder)
        assert (report.pictures, report.kept, report.removed) == (12, 8, 0)
        assert "8 indexed pictures cannot be read now" in report.warnings[-1]
        generation = report.generation
        assert run(photos, encoder).generation == generation
    assert found(photos / ".clipsearch") == before
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    report = run(photos, encoder)
    assert (report.encoded, report.pictures, report.kept) == (0, 12, 0)


@pytest.mark.few(each="placeholder of")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("placeholder", [".{}.icloud", "{}.nextcloud", "{}.owncloud", "{}.cloud", "{}.dvc"])
@pytest.mark.parametrize("of", ["a picture", "a folder"])
def test_what_a_sync_client_has_evicted_is_missing(
    placeholder: str, of: str, photos: Path, tmp_path: Path, encoder: FakeEncoder
) -> None:
    paths = fill(photos, 24)
    gone = [paths[3], paths[13]] if of == "a picture" else [paths[3].parent]
    run(photos, encoder)
    number = 2 if of == "a picture" else len(list(gone[0].iterdir()))
    for path in gone:
        path.rename(tmp_path / path.name)
        path.with_name(placeholder.format(path.name)).write_bytes(b"")
    report = run(photos, encoder)
    assert (report.removed, report.missing, report.pictures) == (0, number, 24 - number)
    assert run(photos, encoder, keep_missing_days=0).forgotten == 0  # as long as the placeholder is there
    for path in gone:
        path.with_name(placeholder.format(path.name)).unlink()
        (tmp_path / path.name).rename(path)
    report = run(photos, encoder)
    assert (report.encoded, report.returned, report.pictures) == (0, number, 24)
    paths[4].unlink()
    assert run(photos, encoder).removed == 1


@pytest.mark.many
@pytest.mark.parametrize(
    "pointer",
    [
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n",
        "/annex/objects/SHA256E-s12345--4d7a214614ab2935.jpg\n",
        "../.git/annex/objects/Xx/9k/SHA256E-s12345--4d7a.jpg/SHA256E-s12345--4d7a.jpg",
    ],
)
def test_a_picture_that_became_a_pointer_keeps_its_vector(
    pointer: str, photos: Path, tmp_path: Path, encoder: FakeEncoder
) -> None:
    paths = fill(photos, 12)
    run(photos, encoder)
    shutil.copy2(paths[2], tmp_path / "kept.jpg")
    paths[2].write_text(pointer)
    (photos / "new.jpg").write_text(pointer)
    for _ in range(2):
        report = run(photos, encoder)
        assert (report.pictures, report.kept, report.removed) == (12, 1, 0)
        assert {skip.path for skip in report.skipped} == {"new.jpg", paths[2].relative_to(photos).as_posix()}
        assert all("pointer" in skip.reason for skip in report.skipped)
    shutil.copy2(tmp_path / "kept.jpg", paths[2])
    report = run(photos, encoder)
    assert (report.encoded, report.pictures, report.kept) == (0, 12, 0)


def test_one_that_is_spoiled_is_a_picture_no_more_but_an_empty_file_says_nothing(
    photos: Path, encoder: FakeEncoder
) -> None:
    paths = fill(photos, 12)
    run(photos, encoder)
    spoil(paths[:1], "zeroed")
    spoil(paths[1:2], "emptied")
    report = run(photos, encoder)
    assert (report.pictures, report.kept, len(report.skipped)) == (11, 1, 2)
    paths[1].unlink()
    assert run(photos, encoder).pictures == 10


@pytest.mark.few(each="status share")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("missing_extra", "needs heif"),
        ("timeout", "too slow"),
        ("decoder_crashed", "it died"),
        ("too_large", OUT_OF_MEMORY),
        ("unsupported_format", "this version does not read it"),
    ],
)
@pytest.mark.parametrize("share", [1, 8])
def test_no_failure_of_ours_replaces_a_picture(
    status: SkipStatus, reason: str, share: int, photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(photos, 12)
    run(photos, encoder)
    before = found(photos / ".clipsearch")
    bad = {path.relative_to(photos).as_posix() for path in paths[:share]}
    real = build._Run._take

    def take(run: build._Run, file: FoundFile, result: DecodeResult) -> DecodeTask | None:
        if file.path not in bad:
            return real(run, file, result)
        run._skip(file, status, reason, None)
        return None

    with monkeypatch.context() as patch:
        patch.setattr(build._Run, "_take", take)
        if share > 1:
            with pytest.raises(StorageError, match="8 indexed pictures cannot be read now"):
                index_folder(photos, encoder, options=IndexOptions(workers=1, reindex=True))
            assert found(photos / ".clipsearch") == before
        else:
            report = run(photos, encoder, reindex=True)
            assert (report.pictures, report.missing, report.removed) == (11, 1, 0)
        run(photos, encoder)
        if status != "unsupported_format":  # which says something of a file that is another now
            for path in paths:
                os.utime(path, ns=(1, 1))
            assert run(photos, encoder).kept == share
        assert found(photos / ".clipsearch") == before
    report = run(photos, encoder)
    assert (report.encoded, report.pictures, report.missing) == (0, 12, 0)
    assert found(photos / ".clipsearch") == before


@pytest.mark.slow
def test_with_prune_what_only_we_cannot_read_does_not_hold_up_a_reindex(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(photos, 6)
    run(photos, encoder)
    bad = {path.relative_to(photos).as_posix() for path in paths[:5]}
    real = build._Run._take

    def take(run: build._Run, file: FoundFile, result: DecodeResult) -> DecodeTask | None:
        if file.path not in bad:
            return real(run, file, result)
        run._skip(file, "missing_extra", "needs heif", None)
        return None

    with monkeypatch.context() as patch:
        patch.setattr(build._Run, "_take", take)
        report = run(photos, encoder, reindex=True, prune=True)
    assert (report.pictures, report.missing) == (1, 5)
    assert run(photos, encoder).pictures == 6


def test_files_that_may_be_anything_leave_no_row(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 3)
    for name in ("README", "empty", "locked"):
        (photos / name).write_bytes(b"" if name == "empty" else b"text")
    index_folder(photos, encoder, index=photos / "own")
    report = index_folder(photos, encoder, options=IndexOptions(workers=1))  # the other one is within the pictures
    assert (report.encoded, report.skipped) == (3, [])
    assert report.left_out == {"indexes of clipsearch": 1}
    status = read_status(report.index)
    assert (status.pictures, len(status.skipped)) == (3, 0)


# -- what leaves pictures out, and cannot be read


@contextmanager
def unreadable_file(name: str, number: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    real = read_plain

    def read(path: str, limit_bytes: int = -1) -> bytes:
        if Path(path).name == name:
            raise OSError(number, os.strerror(number))
        return real(path, limit_bytes)

    with patch.context() as context:
        context.setattr("clipsearch.indexer.ignore.read_plain", read)
        context.setattr("clipsearch.indexer.ignore.time.sleep", lambda seconds: None)
        yield


@pytest.mark.few(each="number name options")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ELOOP])
@pytest.mark.parametrize("name", [".clipsearchignore", "CACHEDIR.TAG"])
@pytest.mark.parametrize("options", [{}, {"prune": True, "keep_missing_days": 0.0}], ids=["run", "prune"])
def test_a_folder_of_which_nobody_knows_what_is_left_out_stays_as_it_was(
    number: int,
    name: str,
    options: dict[str, object],
    photos: Path,
    encoder: FakeEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(photos / "open", 3)
    album = photos / "album"
    shown, hidden, gone = fill(album, 3, first=10), fill(album / "private", 2, first=20), fill(album, 1, first=30)
    (album / ".clipsearchignore").write_text("private/\n")
    if name == "CACHEDIR.TAG":
        (album / name).write_text("no signature")
    report = run(photos, encoder)
    assert report.pictures == 7
    before = found(photos / ".clipsearch")
    gone[0].unlink()
    new = fill(album, 1, first=40)
    with unreadable_file(name, number, monkeypatch):
        report = run(photos, encoder, **options)
        assert [(skip.path, skip.status) for skip in report.skipped] == [(f"album/{name}", "unreadable")]
        assert (report.encoded, report.removed, report.missing, report.forgotten) == (0, 0, 0, 0)
        assert found(photos / ".clipsearch") == before
        shutil.copy(shown[0], photos / "open" / "copy.jpg")  # of a picture that stays where it was
        assert run(photos, encoder, **options).pictures == 8
        with pytest.raises(StorageError, match=f"{name} cannot be read"):
            index_folder(photos, encoder, options=IndexOptions(workers=1, reindex=True))
        assert len(found(photos / ".clipsearch")) == 8
    assert run(photos, encoder).encoded == 1
    paths = found(photos / ".clipsearch")
    assert {path.relative_to(photos).as_posix() for path in [*shown, *new]} <= paths
    assert not any(path.relative_to(photos).as_posix() in paths for path in [*hidden, *gone])


def test_an_index_is_not_begun_where_nobody_knows_what_is_left_out(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 3)
    (photos / ".clipsearchignore").symlink_to(photos.parent / "away" / "patterns")
    with pytest.raises(StorageError, match=r"\.clipsearchignore"):
        index_folder(photos, encoder)
    assert not (photos / ".clipsearch").exists()
    (photos / ".clipsearchignore").unlink()
    (photos / ".clipsearchignore").mkdir()  # holds no patterns, and never will
    report = run(photos, encoder)
    assert report.pictures == 3
    assert "no file" in report.warnings[-1]


# -- which drive is it?


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("said", ["id", "size", "source", "uuid"])
def test_another_drive_with_the_same_device_number_deletes_nothing(
    said: str, photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(photos, 30)
    monkeypatch.setattr(drives, "_mounted_at", lambda place: ("vfat", "/dev/sdb1", "/"))
    monkeypatch.setattr(drives, "_uuid", lambda device, source: "1234-ABCD")
    run(photos, encoder)
    before = found(photos / ".clipsearch")
    paths[3].rename(photos.parent / "away.jpg")
    with monkeypatch.context() as patch:
        real = os.fstatvfs
        if said == "id":
            patch.setattr(os, "fstatvfs", lambda fd: _with(real(fd), f_fsid=real(fd).f_fsid + 1))
        elif said == "size":
            patch.setattr(os, "fstatvfs", lambda fd: _with(real(fd), f_blocks=real(fd).f_blocks + 1))
        elif said == "source":
            patch.setattr(drives, "_mounted_at", lambda place: ("vfat", "/dev/sdc1", "/"))
        else:
            patch.setattr(drives, "_uuid", lambda device, source: "5678-DCBA")
        report = run(photos, encoder)
        assert (report.removed, report.missing) == (0, 1)
    (photos.parent / "away.jpg").rename(paths[3])
    report = run(photos, encoder)
    assert (report.returned, report.encoded) == (1, 0)
    assert found(photos / ".clipsearch") == before
    paths[3].unlink()
    assert run(photos, encoder).removed == 1  # the drive is the same


def _with(told: os.statvfs_result, **other: int) -> object:
    names = [name for name in dir(told) if name.startswith("f_")]
    return type("Told", (), {**{name: getattr(told, name) for name in names}, **other})()


@pytest.mark.slow
def test_another_real_drive_at_the_same_mount_point_deletes_nothing(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, usb = tmp_path / "photos", tmp_path / "photos" / "usb"
    fill(photos, 30)
    mounted = Mounts()
    try:
        mounted.tmpfs(usb)
        numbers = [usb.stat().st_dev]
        for n in range(3):
            picture(100 + n).save(usb / f"{n}.png")
        run(photos, encoder)
        mounted.unmount(usb)
        mounted.tmpfs(usb)
        numbers.append(usb.stat().st_dev)
        picture(200).save(usb / "other.png")
        report = run(photos, encoder)
        assert (report.removed, report.missing) == (0, 3), numbers
    finally:
        mounted.close()


def test_an_index_of_before_knows_device_numbers(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 3)
    scan = Scan()
    assert len([*walk(photos, scan)]) > 0
    number = photos.stat().st_dev
    assert scan.moved_devices({"": number, "set000": number}) == []
    assert scan.moved_devices({"": number + 1}) == [""]
    assert scan.moved_devices(scan.devices) == []
    assert min(scan.devices.values()) >= drives.LEAST


# -- time, and what is left out


def run_at(
    days: float, patch: pytest.MonkeyPatch, folder: Path, encoder: FakeEncoder, **options: object
) -> IndexReport:
    with patch.context() as context:
        context.setattr("clipsearch.indexer.build.time.time", lambda: 1_800_000_000 + 86_400 * days)
        return run(folder, encoder, **options)


@pytest.mark.slow
def test_a_clock_that_jumps_ahead_and_back_makes_nothing_old(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 30)
    run_at(0, monkeypatch, photos, encoder)
    (photos / "set001").rename(photos.parent / "away")
    for days in (1, 2000, 2000.1, 2001, 2002, 3, 3.1, 9000, 9000.1, 4, -20000, 5, -20000, 6, 6.1):
        report = run_at(days, monkeypatch, photos, encoder)
        assert (report.missing, report.forgotten) == (10, 0), days
    (photos.parent / "away").rename(photos / "set001")
    assert run_at(7, monkeypatch, photos, encoder).returned == 10
    assert encoder.images_encoded == 30


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("every", [1, 7, 31])
def test_days_are_counted_from_run_to_run(
    every: int, photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 30)
    run_at(-60, monkeypatch, photos, encoder)
    (photos / "set001").rename(photos.parent / "away")
    assert run_at(0, monkeypatch, photos, encoder).missing == 10  # after a pause, which does not count
    days, report = 0, run_at(0.1, monkeypatch, photos, encoder)
    while not report.forgotten:
        days += every
        assert days < 30 + 3 * every
        report = run_at(days, monkeypatch, photos, encoder)
    assert report.forgotten == 10
    assert days >= 30


@pytest.mark.slow
def test_a_run_that_only_tells_the_time_is_a_rare_one(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 30)
    run_at(0, monkeypatch, photos, encoder)
    (photos / "set001").rename(photos.parent / "away")
    generations = {run_at(hour / 24, monkeypatch, photos, encoder).generation for hour in range(1, 49)}
    assert len(generations) <= 5


@pytest.mark.many
@pytest.mark.parametrize("reindex", [False, True])
def test_what_is_excluded_is_not_deleted(reindex: bool, photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 30)
    run(photos, encoder)
    shutil.rmtree(photos / "set002")
    everything: dict[str, object] = {"prune": True, "keep_missing_days": 0.0, "reindex": reindex}
    for _ in range(2):
        report = run(photos, encoder, exclude=("set001",), **everything)
        assert (report.pictures, report.missing) == (10, 10)
    encoded = encoder.images_encoded
    report = run(photos, encoder)
    assert (report.returned, report.pictures, encoder.images_encoded) == (10, 20, encoded)


def test_what_is_left_out_for_good_is_forgotten_when_asked_only(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 30)
    run(photos, encoder)
    (photos / ".clipsearchignore").write_text("set001/\n")
    for _ in range(2):
        report = run(photos, encoder, keep_missing_days=0)
        assert (report.pictures, report.missing, report.forgotten) == (20, 10, 0)
    assert run(photos, encoder, prune=True).forgotten == 10
