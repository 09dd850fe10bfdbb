"""Which index a command means: never another one because its own is away, and none is made in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch.config import INDEX_ENV, find_index, remember_index
from clipsearch.errors import IndexAway, IndexNotFound
from clipsearch.indexer.api import index
from clipsearch.indexer.build import IndexOptions, index_folder
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture


@pytest.fixture
def two(tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An indexed folder that was used before, and the one used last, on a drive. The current folder is neither."""
    home, drive = tmp_path / "home", tmp_path / "drive"
    for folder in (home / "photos", drive / "photos"):
        fill(folder, 3)
        index(folder, encoder=encoder, options=IndexOptions(workers=1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv(INDEX_ENV, raising=False)
    return home / "photos", drive / "photos"


def unplug(drive: Path) -> Path:
    away = drive.with_name(f"{drive.name} away")
    drive.rename(away)
    drive.mkdir()
    return away


def plug_in(drive: Path) -> None:
    drive.rmdir()
    drive.with_name(f"{drive.name} away").rename(drive)


def test_another_index_does_not_take_the_place_of_the_last_one(two: tuple[Path, Path]) -> None:
    home, photos = two
    assert find_index() == photos / ".clipsearch"
    unplug(photos.parent)
    with pytest.raises(IndexAway) as error:
        find_index()
    assert str(photos / ".clipsearch") in str(error.value)
    assert "--index DIR" in str(error.value)
    assert error.value.others == [str(home / ".clipsearch")]
    assert find_index(home) == home / ".clipsearch"
    remember_index(home / ".clipsearch")  # as every command does with the index that it was told to use
    assert find_index() == home / ".clipsearch"
    plug_in(photos.parent)
    assert find_index(photos) == photos / ".clipsearch"


def test_in_the_folder_of_an_index_that_is_away_no_other_is_meant(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, photos = two
    remember_index(home / ".clipsearch")
    unplug(photos)
    monkeypatch.chdir(photos)
    with pytest.raises(IndexAway, match="drive/photos"):
        find_index()
    picture(1).save(photos / "a.jpg")  # there are pictures: the index was deleted, not their drive
    assert find_index() == home / ".clipsearch"


def test_nothing_used_before_is_no_index_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IndexNotFound) as error:
        find_index()
    assert not isinstance(error.value, IndexAway)


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Path]:
    """A folder of another file system, below a name here."""
    place = Path("/dev/shm") / f"clipsearch-drive-{os.getpid()}"
    if not place.parent.is_dir() or place.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two devices")  # what is on one file system was deleted, and is not away
    place.mkdir()
    (tmp_path / "drive").symlink_to(place)
    try:
        yield tmp_path / "drive"
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.many
@pytest.mark.parametrize("given", ["as before", "with dots", "through a link"])
@pytest.mark.parametrize("below", ["", "index"])
def test_no_index_is_made_where_one_is_away(
    tmp_path: Path, encoder: FakeEncoder, drive: Path, given: str, below: str
) -> None:
    photos = tmp_path / "photos"
    fill(photos, 3)
    place = drive / below
    index(photos, encoder=encoder, index=place, options=IndexOptions(workers=1))
    away = unplug(drive)
    if given == "with dots":
        place = photos / ".." / "drive" / below
    elif given == "through a link":
        (tmp_path / "link").symlink_to(drive)
        place = tmp_path / "link" / below
    with pytest.raises(IndexAway, match="--new"):
        index(photos, encoder=encoder, index=place, options=IndexOptions(workers=1))
    assert list(drive.iterdir()) == []
    drive.rmdir()
    away.rename(drive)
    assert index(photos, encoder=encoder, index=place, options=IndexOptions(workers=1)).unchanged == 3


@pytest.mark.slow
def test_an_index_that_was_deleted_is_made_anew(tmp_path: Path, encoder: FakeEncoder) -> None:
    """From the file system that it was on: there is no drive that may be away."""
    photos, place = tmp_path / "photos", tmp_path / "elsewhere" / "index"
    fill(photos, 3)
    options = IndexOptions(workers=1)
    for index_dir in (None, place):
        index(photos, encoder=encoder, index=index_dir, options=options)
        shutil.rmtree(index_dir or photos / ".clipsearch")
        assert index(photos, encoder=encoder, index=index_dir, options=options).encoded == 3
    shutil.rmtree(place.parent)
    assert index(photos, encoder=encoder, index=place, options=options).encoded == 3
    shutil.rmtree(photos)
    fill(photos, 3)
    assert index(photos, encoder=encoder, options=options).encoded == 3


def test_an_index_on_a_drive_that_was_wiped_is_made_anew_if_that_is_asked_for(
    tmp_path: Path, encoder: FakeEncoder, drive: Path
) -> None:
    fill(drive / "photos", 3)
    index(drive / "photos", encoder=encoder, options=IndexOptions(workers=1))
    unplug(drive)
    fill(drive / "photos", 2)
    with pytest.raises(IndexAway, match="--new"):
        index(drive / "photos", encoder=encoder, options=IndexOptions(workers=1))
    assert not [*drive.rglob("INDEX")]
    assert index(drive / "photos", encoder=encoder, options=IndexOptions(workers=1, new=True)).encoded == 2


def test_a_run_that_follows_another_makes_no_index(tmp_path: Path, encoder: FakeEncoder) -> None:
    """As under --watch: whatever the list of indexes says."""
    fill(tmp_path / "photos", 3)
    (tmp_path / "index").mkdir()
    with pytest.raises(IndexAway):
        index_folder(tmp_path / "photos", encoder, index=tmp_path / "index", options=IndexOptions(workers=1, new=False))
    assert list((tmp_path / "index").iterdir()) == []
