"""Which pairs of pictures are looked at, in collections too large to compare each with each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipsearch
from benchmarks.common import write_index
from clipsearch.errors import InvalidQuery
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.records import FloatArray
from clipsearch.search import dedupe
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture

ROWS = 2000


def unit(vectors: FloatArray) -> FloatArray:
    result: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result


@pytest.fixture
def vectors() -> FloatArray:
    """Pictures of 40 kinds, which have about 0.6 in common; the last hundred are near one of the first."""
    generator = np.random.default_rng(0)
    kinds = generator.standard_normal((40, 64)).astype(np.float32)
    own = generator.standard_normal((ROWS, 64)).astype(np.float32)
    made = unit(unit(kinds)[np.arange(ROWS) % 40] + 0.8 * unit(own))
    made[-100:] = unit(made[:100] + 0.3 * unit(generator.standard_normal((100, 64)).astype(np.float32)))
    return made


@pytest.fixture
def collection(tmp_path: Path, vectors: FloatArray, encoder: FakeEncoder) -> Path:
    return write_index(tmp_path / "photos", encoder, lambda: iter([vectors]))


def candidates(photos: Collection) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    done = 0
    for one, two, finished in dedupe._candidates(photos, photos.row_ids()):
        assert (one < two).all()
        pairs.update(zip(one.tolist(), two.tolist(), strict=True))
        done += finished
    assert done == len(photos)
    return pairs


def test_cells_hold_nearly_every_pair_that_comparing_all_finds(
    collection: Path, vectors: FloatArray, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = vectors @ vectors.T
    near = np.argwhere(np.triu(scores, 1) >= dedupe.CANDIDATE_COSINE + 0.002)
    assert len(near) > 90
    with clipsearch.open(collection, encoder=encoder) as photos:
        every = candidates(photos)
        monkeypatch.setattr(dedupe, "EXHAUSTIVE_ROWS", 100)
        in_cells = candidates(photos)
    assert {(int(a), int(b)) for a, b in near} <= every
    assert len(every & in_cells) >= 0.97 * len(every)
    assert all(scores[one, two] >= dedupe.CANDIDATE_COSINE - 0.002 for one, two in every | in_cells)


def test_a_row_has_no_more_than_so_many_neighbours(
    collection: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "CANDIDATE_COSINE", -1.0)
    with clipsearch.open(collection, encoder=encoder) as photos:
        pairs = candidates(photos)
    assert ROWS * dedupe.NEIGHBOURS / 2 <= len(pairs) <= ROWS * dedupe.NEIGHBOURS


def test_vectors_of_many_rows_at_once(collection: Path, vectors: FloatArray, encoder: FakeEncoder) -> None:
    with clipsearch.open(collection, encoder=encoder) as photos:
        wanted = [5, 1999, 5, 0, 1234]
        assert np.array_equal(photos.vectors(wanted), vectors[wanted])
        assert photos.vectors([]).shape == (0, 64)
        for unknown in (ROWS, -1, 2**70):
            with pytest.raises(InvalidQuery, match=str(unknown)):
                photos.vectors([0, unknown])


def run_script(photos: Path, *, then: Callable[[], object] = lambda: None) -> str:
    """Write the script for an index, let something happen, run it. Returns what it says."""
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        script = dedupe.shell_script(dedupe.find_duplicates(collection), ascii)
    then()
    (photos.parent / "remove.sh").write_bytes(script)
    done = subprocess.run(["sh", photos.parent / "remove.sh"], capture_output=True, text=True, check=True)
    return done.stderr


def contents(photos: Path) -> set[bytes]:
    return {path.read_bytes() for path in photos.rglob("*") if path.suffix in (".png", ".jpg") and path.is_file()}


def indexed(photos: Path) -> None:
    index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))


@pytest.mark.parametrize("link", ["z.png", "a.png", "sub/a.png"])
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_no_other_name_of_a_kept_picture_is_removed(
    photos: Path, link: str, make: Callable[[Path, Path], None]
) -> None:
    fill(photos, 3)
    picture(100).save(photos / "m.png")
    shutil.copy(photos / "m.png", photos / "n.png")
    (photos / "sub").mkdir()
    make(photos / "m.png", photos / link)
    indexed(photos)
    before = contents(photos)
    assert run_script(photos) == ""
    assert contents(photos) == before
    assert (photos / "m.png").exists()


def test_a_link_is_not_kept_in_place_of_its_file(photos: Path) -> None:
    fill(photos, 3)
    (photos / "real").mkdir()
    (photos.parent / "elsewhere").mkdir()
    picture(100).save(photos.parent / "elsewhere" / "a.png")
    shutil.copy(photos.parent / "elsewhere" / "a.png", photos / "real" / "z.png")
    (photos / "album").symlink_to(photos.parent / "elsewhere")
    indexed(photos)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        (group,) = dedupe.find_duplicates(collection)
    assert group.keep.record.path == "real/z.png"


def edit(path: Path, seed: int) -> None:
    picture(seed).save(path)


def instead(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


@pytest.mark.parametrize(
    "happens",
    [
        lambda keep, other: keep.unlink(),
        lambda keep, other: keep.rename(keep.with_suffix(".kept")),
        lambda keep, other: edit(keep, 7),
        lambda keep, other: edit(other, 7),
        lambda keep, other: instead(keep, lambda: os.link(other, keep)),
        lambda keep, other: instead(keep, lambda: keep.symlink_to(other)),
        lambda keep, other: instead(keep, keep.mkdir),
        lambda keep, other: keep.write_bytes(b""),
        lambda keep, other: keep.write_bytes(bytes(keep.stat().st_size)),
    ],
    ids=["gone", "renamed", "edited", "other edited", "hard link", "link", "folder", "empty", "zeros"],
)
def test_a_script_that_is_out_of_date_removes_nothing(photos: Path, happens: Callable[[Path, Path], object]) -> None:
    fill(photos, 3)
    picture(100).save(photos / "a.png")
    shutil.copy(photos / "a.png", photos / "b.png")
    indexed(photos)
    assert "something changed" in run_script(photos, then=lambda: happens(photos / "a.png", photos / "b.png"))
    assert (photos / "b.png").exists()


def test_files_that_changed_since_the_last_run_are_not_the_same_by_their_rows(photos: Path) -> None:
    fill(photos, 3)
    picture(100).save(photos / "a.png")
    shutil.copy(photos / "a.png", photos / "b.png")
    indexed(photos)
    edit(photos / "b.png", 7)
    before = contents(photos)
    run_script(photos)
    assert contents(photos) == before
