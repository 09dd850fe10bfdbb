"""Which index a command means: never another one because its own is away, and none is made in its place."""

from __future__ import annotations

import dataclasses
import shutil
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


@pytest.mark.parametrize("given", ["as before", "with dots", "through a link"])
def test_no_index_is_made_where_one_is_away(tmp_path: Path, encoder: FakeEncoder, given: str) -> None:
    photos, drive = tmp_path / "photos", tmp_path / "drive"
    fill(photos, 3)
    drive.mkdir()
    place = drive / "index"
    index(photos, encoder=encoder, index=place, options=IndexOptions(workers=1))
    unplug(drive)
    if given == "with dots":
        place = photos / ".." / "drive" / "index"
    elif given == "through a link":
        (tmp_path / "link").symlink_to(drive)
        place = tmp_path / "link" / "index"
    with pytest.raises(IndexAway, match="--new"):
        index(photos, encoder=encoder, index=place, options=IndexOptions(workers=1))
    assert list(drive.iterdir()) == []
    plug_in(drive)
    assert index(photos, encoder=encoder, index=place, options=IndexOptions(workers=1)).unchanged == 3


def test_an_index_that_was_deleted_is_made_anew(tmp_path: Path, encoder: FakeEncoder) -> None:
    photos, place = tmp_path / "photos", tmp_path / "index"
    fill(photos, 3)
    options = IndexOptions(workers=1)
    index(photos, encoder=encoder, options=options)
    shutil.rmtree(photos / ".clipsearch")  # from the folder that it was in: there is no drive that may be away
    assert index(photos, encoder=encoder, options=options).encoded == 3
    index(photos, encoder=encoder, index=place, options=options)
    shutil.rmtree(place)
    with pytest.raises(IndexAway):
        index(photos, encoder=encoder, index=place, options=options)
    assert not place.exists()
    again = dataclasses.replace(options, new=True)
    assert index(photos, encoder=encoder, index=place, options=again).encoded == 3


@pytest.mark.parametrize("how", ["another folder", "an empty index folder"])
def test_no_index_is_made_beside_pictures_of_another_drive(tmp_path: Path, encoder: FakeEncoder, how: str) -> None:
    photos = tmp_path / "drive" / "photos"
    fill(photos, 3)
    index(photos, encoder=encoder, options=IndexOptions(workers=1))
    if how == "another folder":
        unplug(tmp_path / "drive")
        fill(photos, 2)
    else:
        shutil.rmtree(photos / ".clipsearch")
        (photos / ".clipsearch").mkdir()  # where it was mounted
    with pytest.raises(IndexAway, match="--new"):
        index(photos, encoder=encoder, options=IndexOptions(workers=1))
    assert not [*photos.rglob("INDEX")]


def test_a_run_that_follows_another_makes_no_index(tmp_path: Path, encoder: FakeEncoder) -> None:
    """As under --watch: whatever the list of indexes says."""
    fill(tmp_path / "photos", 3)
    (tmp_path / "index").mkdir()
    with pytest.raises(IndexAway):
        index_folder(tmp_path / "photos", encoder, index=tmp_path / "index", options=IndexOptions(workers=1, new=False))
    assert list((tmp_path / "index").iterdir()) == []
