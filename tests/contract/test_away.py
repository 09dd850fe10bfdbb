"""A collection whose index goes away while it is open (a drive is unplugged, a folder renamed) says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipsearch
from clipsearch import Collection
from clipsearch.errors import ClipsearchError, CorruptIndex, IndexAway
from clipsearch.query.nodes import Tagged
from tests.support.collections import varied_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM

CALLS: dict[str, Callable[[Collection], Any]] = {
    "search": lambda photos: photos.search("red"),
    "search, all": lambda photos: photos.search("red", 500, all=True),
    "a list": lambda photos: photos.search("", 500),
    "by path": lambda photos: photos.search("", sort="path"),
    "filtered": lambda photos: photos.search("red folder:trips"),
    "tagged": lambda photos: photos.search("tag:seen"),
    "unique": lambda photos: photos.search("", 500, unique=True),
    "diverse": lambda photos: photos.search("red", diverse=True),
    "like": lambda photos: photos.search("red", like=[3], unlike=[9]),
    "like in words": lambda photos: photos.search("like:3"),
    "several": lambda photos: photos.search(["red", "blue"]),
    "similar": lambda photos: photos.similar(3),
    "record": lambda photos: photos.record(3),
    "vector": lambda photos: photos.vector(3),
    "vectors": lambda photos: photos.vectors([3, 250]),
    "sample": lambda photos: photos.sample(),
    "nearest": lambda photos: photos.nearest(np.ones((1, DIM), np.float32), 3),
    "records": list,
    "row_ids": lambda photos: photos.row_ids(),
    "select": lambda photos: photos.select(Tagged("seen")),
    "tag": lambda photos: photos.tag("seen"),
    "notices": lambda photos: photos.notices("red is:dark"),
    "to_arrow": lambda photos: photos.to_arrow(),
    "to_arrow without vectors": lambda photos: photos.to_arrow(vectors=False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    folder = tmp_path_factory.mktemp("away") / "photos"
    varied_index(folder, FakeEncoder(dim=DIM))
    return folder


@pytest.fixture
def photos(folder: Path, tmp_path: Path) -> Iterator[Collection]:
    shutil.copytree(folder, tmp_path / "photos")
    with clipsearch.open(tmp_path / "photos", encoder=FakeEncoder(dim=DIM)) as opened:
        yield opened


def outcome(call: Callable[[Collection], Any], photos: Collection) -> ClipsearchError | None:
    try:
        call(photos)
    except ClipsearchError as error:
        return error
    return None


@pytest.mark.many
@pytest.mark.parametrize("before", ["nothing was read", "rows were read", "all was read"])
def test_an_index_that_went_away_is_away(before: str, photos: Collection) -> None:
    if before == "rows were read":
        photos.record(3)
    if before == "all was read":
        for call in CALLS.values():
            call(photos)
    photos.root.rename(photos.root.with_name("elsewhere"))
    for name, call in CALLS.items():
        error = outcome(call, photos)
        assert error is None or type(error) is IndexAway, (name, error)
        assert error is not None or before != "nothing was read", name  # else it is in memory
    assert type(outcome(lambda photos: photos.vectors([3, 250]), photos)) is IndexAway
    if before != "nothing was read":
        assert type(outcome(lambda photos: photos.thumbnail(3), photos)) is IndexAway
    photos.root.with_name("elsewhere").rename(photos.root)
    for name, call in CALLS.items():
        assert outcome(call, photos) is None, name  # it is connected again


@pytest.mark.parametrize("folder_of", ["search", "rows", "tags", "vectors"])
def test_a_file_that_went_away_is_damage(folder_of: str, photos: Collection) -> None:
    place = photos.index / folder_of
    files = [file for file in place.iterdir() if file.is_file()]
    assert files
    for file in files:
        file.unlink()
    errors = {name: outcome(call, photos) for name, call in CALLS.items()}
    assert {type(error) for error in errors.values()} == {type(None), CorruptIndex}, errors
    assert all("verify --repair" in str(error) for error in errors.values() if error is not None)


def test_no_folder_is_no_damage_for_what_reads_at_once(photos: Collection) -> None:
    photos.root.rename(photos.root.with_name("elsewhere"))
    for place in (photos.root, photos.index):
        with pytest.raises(clipsearch.errors.IndexNotFound):
            clipsearch.open(place)
