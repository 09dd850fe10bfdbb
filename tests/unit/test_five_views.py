"""Pictures in five views: the whole and four tiles become one vector, which the index keeps to."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clipsearch
from clipsearch import Collection, IndexOptions
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.errors import InvalidArgument, UnsupportedIndex, ViewsMismatch
from clipsearch.indexer.compact import compact
from clipsearch.indexer.plan import plan_index
from clipsearch.indexer.repair import repair
from clipsearch.indexer.status import read_status
from clipsearch.pictures.images import prepare, read_picture, view_boxes
from clipsearch.records import FloatArray, Preprocessing
from clipsearch.store import manifest as manifests
from clipsearch.store import open_snapshot
from tests.support.collections import serving
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture, scene
from tests.support.videos import write_video

FIVE = IndexOptions(views=5)
PREPROCESSING = Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3, "bicubic", "squash")
SIDES = st.integers(1, 3000)


@given(SIDES, SIDES)
def test_tiles_cover_the_picture_and_overlap(width: int, height: int) -> None:
    whole, *tiles = view_boxes((width, height))
    assert whole == (0, 0, width, height) and len(tiles) == 4
    for left, top, right, bottom in tiles:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert min(box[0] for box in tiles) == 0 == min(box[1] for box in tiles)
    assert max(box[2] for box in tiles) == width and max(box[3] for box in tiles) == height
    if width > 9:
        assert tiles[0][2] - tiles[1][0] == pytest.approx(0.2 * width, abs=1.1)


@pytest.mark.slow
def test_views_are_decoded_once_and_large_enough(tmp_path: Path) -> None:
    image = scene(5, (1600, 1200))
    image.save(tmp_path / "a.jpg", quality=92)
    read = read_picture(tmp_path / "a.jpg", PREPROCESSING, pieces=True, views=5)
    assert read.is_tiled and read.pieces.shape == (5, 64, 64, 3) and (read.width, read.height) == image.size
    for pixels, box in zip(read.pieces, view_boxes(image.size), strict=True):
        expected = prepare(image.crop(box), PREPROCESSING).astype(float)
        assert np.abs(pixels - expected).mean() < 3
    long = scene(6, (900, 200))
    long.save(tmp_path / "long.png")
    read = read_picture(tmp_path / "long.png", PREPROCESSING, pieces=True, views=5)
    assert not read.is_tiled and len(read.pieces) > 4


def five_of(image: Image.Image, encoder: FakeEncoder) -> FloatArray:
    """The vector of a picture in five views, by hand."""
    vectors = encoder.encode_images(
        np.stack([prepare(image.crop(box), encoder.preprocessing) for box in view_boxes(image.size)])
    )
    total = vectors.sum(axis=0) + vectors[0]  # the whole counts twice
    unit: FloatArray = total / np.linalg.norm(total)
    return unit


def test_tiled_and_long_pictures_in_one_batch() -> None:
    encoder = FakeEncoder()
    pieces = [np.stack([prepare(picture(n), encoder.preprocessing) for n in range(5)])] * 2
    tiled, long = encode_decoded(encoder, pieces, [True, False])
    assert not np.allclose(tiled, long, atol=1e-3)
    assert np.allclose(tiled, encode_decoded(encoder, pieces[:1], [True])[0], atol=1e-6)
    assert np.allclose(long, encode_decoded(encoder, pieces[:1])[0], atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        scene(number, (120, 90)).save(folder / f"p{number}.png")
    return folder


def vectors_of(index: Path) -> dict[str, FloatArray]:
    with Collection(index, encoder=FakeEncoder()) as photos:
        return {record.path: photos.vector(record.row_id) for record in photos}


def assert_five(index: Path, folder: Path) -> None:
    found = vectors_of(index)
    assert found
    for name, vector in found.items():
        with Image.open(folder / name) as image:
            assert np.allclose(vector, five_of(image.convert("RGB"), FakeEncoder()), atol=1e-5), name


def test_an_index_of_one_view_is_what_it_was(folder: Path) -> None:
    """Its manifest and its files of vectors say nothing of views, also if one view was asked for."""
    for options in (None, IndexOptions(views=1)):
        index = clipsearch.index(folder, encoder=FakeEncoder(), options=options).index
        with open_snapshot(index) as snapshot:
            text = manifests.dump_manifest(snapshot.manifest)
        assert b"tile" not in text and b"view" not in text
        assert read_status(index).views_per_picture == 1


def test_updates_go_on_with_the_views_of_the_index(folder: Path) -> None:
    index = clipsearch.index(folder, encoder=FakeEncoder(), options=FIVE).index
    assert_five(index, folder)
    scene(90, (180, 90)).save(folder / "new.png")
    (folder / "p0.png").unlink()
    shutil.copyfile(folder / "p1.png", folder / "copy.png")
    report = clipsearch.index(folder, encoder=FakeEncoder())
    assert (report.encoded, report.copied, report.removed) == (1, 1, 1)
    assert_five(index, folder)
    assert read_status(index).views_per_picture == 5
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.writer_features == (manifests.TILES,)


@pytest.mark.slow
def test_other_views_need_a_reindex(folder: Path) -> None:
    encoder = FakeEncoder()
    index = clipsearch.index(folder, encoder=encoder).index
    plain = vectors_of(index)
    for options in (FIVE, dataclasses.replace(FIVE, prune=True)):
        with pytest.raises(ViewsMismatch, match=r"1 view of each.*--views 5 --reindex"):
            clipsearch.index(folder, encoder=encoder, options=options)
        with pytest.raises(ViewsMismatch):
            plan_index(folder, encoder, options=options)
    assert plan_index(folder, encoder, options=dataclasses.replace(FIVE, reindex=True)).to_read == 6
    clipsearch.index(folder, encoder=encoder, options=dataclasses.replace(FIVE, reindex=True))
    assert_five(index, folder)
    with pytest.raises(ViewsMismatch, match="5 views"):
        clipsearch.index(folder, encoder=encoder, options=IndexOptions(views=1))
    clipsearch.index(folder, encoder=encoder, options=IndexOptions(reindex=True))  # as it was
    assert_five(index, folder)
    clipsearch.index(folder, encoder=encoder, options=IndexOptions(reindex=True, views=1))
    again = vectors_of(index)
    assert all(np.allclose(again[name], plain[name], atol=1e-6) for name in plain)
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.writer_features == ()


@pytest.mark.parametrize("views", [0, 2, 4, 6, True, "5"])
def test_only_one_or_five(views: int) -> None:
    with pytest.raises(InvalidArgument, match="views"):
        IndexOptions(views=views)


def test_older_versions_read_it_and_do_not_write_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = clipsearch.index(folder, encoder=FakeEncoder(), options=FIVE).index
    monkeypatch.setattr("clipsearch.store.writer.KNOWN_WRITER_FEATURES", frozenset({"tags"}))
    assert len(vectors_of(index)) == 6
    with pytest.raises(UnsupportedIndex, match="tiles"):
        clipsearch.index(folder, encoder=FakeEncoder())


def test_compact_and_repair_keep_them(folder: Path) -> None:
    index = clipsearch.index(folder, encoder=FakeEncoder(), options=FIVE).index
    fill(folder, 5)
    clipsearch.index(folder, encoder=FakeEncoder())
    compact(index)
    assert_five(index, folder)
    assert read_status(index).views_per_picture == 5
    for path in (index / "manifests").iterdir():
        path.write_bytes(b"damaged")
    (index / "CURRENT").write_bytes(b"damaged")
    repair(index)
    assert read_status(index).views_per_picture == 5
    assert_five(index, folder)
    with open_snapshot(index) as snapshot:
        assert manifests.TILES in snapshot.manifest.writer_features


@pytest.mark.slow
def test_pictures_as_queries_are_seen_alike(folder: Path, tmp_path: Path) -> None:
    index = clipsearch.index(folder, encoder=FakeEncoder(), options=FIVE).index
    other = scene(3, (120, 90)).resize((240, 180))
    other.save(tmp_path / "other.png")
    expected = five_of(other, FakeEncoder())
    with (
        clipsearch.open(folder, encoder=FakeEncoder()) as local,
        serving(index, FakeEncoder()) as (url, _),
        clipsearch.connect(url) as remote,
    ):
        for photos in (local, remote):
            for one in (tmp_path / "other.png", other):
                assert np.allclose(photos.encode_picture(one), expected, atol=1e-5)
            hit = photos.search(tmp_path / "other.png", 1, all=True)[0]
            assert Path(hit.path).name == "p3.png"
            part = photos.encode_picture(f"{tmp_path / 'other.png'}#xywh=20,30,200,140")
            assert np.allclose(part, five_of(other.crop((20, 30, 220, 170)), FakeEncoder()), atol=1e-5)
        assert httpx.get(f"{url}/v1/status").status_code == 200
        assert not np.allclose(clipsearch.Encoder(FakeEncoder()).encode_picture(other), expected, atol=1e-3)


@pytest.mark.slow
def test_what_moves_is_seen_whole(tmp_path: Path) -> None:
    """The shots of videos and animations have the same vectors with five views as with one; stills have not."""
    scenes = [scene(number) for number in (1, 5, 9)]
    found = []
    for options in (IndexOptions(views=1), FIVE):
        folder = tmp_path / f"views-{options.views}"
        folder.mkdir()
        write_video(folder / "trip.mp4", scenes)
        scenes[0].save(folder / "party.png", save_all=True, append_images=scenes[1:], duration=1000)
        scenes[0].save(folder / "still.png")
        index = clipsearch.index(folder, encoder=FakeEncoder(), options=options).index
        with Collection(index, encoder=FakeEncoder()) as photos:
            found.append(
                {
                    (row.path, row.view): photos.vector(row.row_id)
                    for row in map(photos.record, photos.row_ids().tolist())
                }
            )
    one, five = found
    assert one.keys() == five.keys()
    assert {path for path, view in one if view} == {"trip.mp4", "party.png"}
    for key, vector in one.items():
        assert np.allclose(vector, five[key], atol=1e-6) == bool(key[1]), key


@pytest.mark.slow
def test_status_says_it(folder: Path) -> None:
    from tests.support.commands import Commands

    with Commands() as commands:
        commands.run("index", folder, "--views", "5")
        done = commands.run("status", "--index", folder / ".clipsearch")
        assert "5 views of each picture" in done.out
        assert (
            json.loads(commands.run("status", "--json", "--index", folder / ".clipsearch").out)["views_per_picture"]
            == 5
        )
        refused = commands.run("index", folder, "--views", "1")
        assert refused.status == 1 and "--views 1 --reindex" in refused.err
        wrong = commands.run("index", folder, "--views", "3")
        assert wrong.status in (1, 2) and "1 or 5" in wrong.err and "Traceback" not in wrong.err
