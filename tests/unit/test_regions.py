"""Pictures that are also found by parts of them: the vectors of their tiles are rows that are no pictures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from PIL import Image

import clipsearch
from clipsearch import Collection, IndexOptions
from clipsearch.encoder.pieces import encode_decoded, encode_with_regions
from clipsearch.errors import EncoderMismatch, InvalidArgument, RegionsMismatch, UnsupportedIndex
from clipsearch.exports.run import export_index
from clipsearch.indexer.build import IndexReport, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.executors import LocalExecutor
from clipsearch.indexer.plan import plan_index
from clipsearch.indexer.repair import repair
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.pictures.images import piece_boxes, prepare, view_boxes
from clipsearch.records import FloatArray, Hit
from clipsearch.search.dedupe import find_duplicates
from clipsearch.search.facets import count_facets
from clipsearch.search.regions import REGION_COUNTS, joined
from clipsearch.server.engine import Engine
from clipsearch.server.mcp import assistant_server
from clipsearch.server.metrics import Metrics
from clipsearch.server.routes import Service
from clipsearch.store import manifest as manifests
from clipsearch.store import open_snapshot
from tests.support.archives import table as archive_table
from tests.support.archives import write_parquet, write_tar
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import scene
from tests.support.unit_pool import UnitExecutor
from tests.support.videos import write_video
from tests.support.viewed import checked_run, seen

SIZE = (120, 90)
TILES = view_boxes(SIZE)[1:]
WITH = IndexOptions(regions=True)


def patched(colour: str, tile: int, *, ground: str = "grey") -> Image.Image:
    """A picture of one colour, with another in a corner that one tile alone has."""
    image = Image.new("RGB", SIZE, COLOURS[ground])
    left, top = [(0, 0), (84, 0), (0, 63), (84, 63)][tile]
    image.paste(COLOURS[colour], (left, top, left + 36, top + 27))
    return image


def run(folder: Path, **options: Any) -> IndexReport:
    return checked_run(folder, FakeEncoder(), **options)


def said(box: tuple[int, int, int, int]) -> str:
    left, top, right, bottom = box
    return f"xywh={left},{top},{right - left},{bottom - top}"


WHOLE_AND_TILES = ["", *map(said, TILES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions") / "photos"
    folder.mkdir()
    for number in range(6):
        scene(number, SIZE).save(folder / f"p{number}.png")
    for tile in range(4):
        patched("blue", tile).save(folder / f"blue{tile}.png")
    (folder / "more").mkdir()
    patched("red", 1, ground="green").save(folder / "more" / "red.png")
    run(folder, regions=True)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "photos")


@pytest.fixture
def photos(made: Path) -> Iterator[Collection]:
    with Collection(made / ".clipsearch", encoder=FakeEncoder()) as photos:
        yield photos


PICTURES = 11

# -- made and kept


def test_each_tile_is_a_row_with_its_own_vector(made: Path, photos: Collection) -> None:
    assert seen(photos.index) == {path.relative_to(made).as_posix(): WHOLE_AND_TILES for path in made.rglob("*.png")}
    encoder = FakeEncoder()
    row_id = next(record.row_id for record in photos if record.path == "p3.png")
    whole, *tiles = photos.views(row_id)
    image = scene(3, SIZE)
    for record, box in zip((whole, *tiles), view_boxes(SIZE), strict=True):
        expected = encoder.encode_images(prepare(image.crop(box), encoder.preprocessing)[None])[0]
        assert np.allclose(photos.vector(record.row_id), expected, atol=2e-3)
        assert (record.width, record.height) == SIZE
    assert read_status(photos.index).regions_per_picture == 4


@pytest.mark.slow
def test_the_vectors_of_pictures_are_those_of_an_index_without_regions(folder: Path, tmp_path: Path) -> None:
    for views in (1, 5):
        found = []
        for regions in (False, True):
            index = tmp_path / f"{views}{regions}"
            clipsearch.index(
                folder, index=index, encoder=FakeEncoder(), options=IndexOptions(views=views, regions=regions)
            )
            with Collection(index, encoder=FakeEncoder()) as photos:
                found.append({record.path: photos.vector(record.row_id) for record in photos})
        without, beside = found
        assert without.keys() == beside.keys()
        assert all(np.allclose(without[path], beside[path], atol=1e-6) for path in without)


def test_long_pictures_and_others_in_one_batch() -> None:
    encoder = FakeEncoder()
    pieces = [np.stack([prepare(scene(n, SIZE), encoder.preprocessing) for n in range(5)])] * 2
    pieces.append(pieces[0][:1])
    tiled, long, single = encode_with_regions(encoder, pieces, [True, False, False], views=1)
    assert (len(tiled), len(long), len(single)) == (5, 6, 1)
    assert np.allclose(tiled, encoder.encode_images(pieces[0]), atol=1e-6)
    assert np.allclose(long[1:], encoder.encode_images(pieces[0]), atol=1e-6)
    assert np.allclose(long[0], encode_decoded(encoder, pieces[:1])[0], atol=1e-6)
    five = encode_with_regions(encoder, pieces[:1], [True], views=5)[0]
    assert np.allclose(five[0], encode_decoded(encoder, pieces[:1], [True])[0], atol=1e-6)
    assert np.allclose(five[1:], tiled[1:], atol=1e-6)


@pytest.mark.slow
def test_panoramas_are_found_by_their_pieces_and_videos_by_their_shots(tmp_path: Path) -> None:
    size = (600, 100)
    wide = Image.new("RGB", size, COLOURS["grey"])
    wide.paste(COLOURS["blue"], (500, 0, 600, 100))
    wide.save(tmp_path / "wide.png")
    scene(1, SIZE).save(tmp_path / "p.png")
    write_video(tmp_path / "trip.mp4", [scene(2), scene(5)])
    report = run(tmp_path, regions=True)
    now = seen(report.index)
    assert now["wide.png"] == ["", *map(said, piece_boxes(size))]
    assert all(view.startswith("t=") for view in now["trip.mp4"])
    assert report.pictures == 3
    with Collection(report.index, encoder=FakeEncoder()) as photos:
        hit = photos.search("blue", 1, all=True)[0]
        assert (hit.record.path, hit.record.view) == ("wide.png", said(piece_boxes(size)[-1]))
        assert len(photos) == 3 == len(list(photos)) == len(photos.search("", 10))
        assert len(photos.search("", 100, each=True)) == report.rows
        assert {record.path for record in photos} == set(now)


def test_whoever_encodes_makes_the_same(folder: Path, tmp_path: Path) -> None:
    scene(9, (400, 90)).save(folder / "long.png")
    found = []
    for name, executor in (("here", LocalExecutor()), ("units", UnitExecutor())):
        index = tmp_path / name
        index_folder(folder, FakeEncoder(), index=index, executor=executor, options=WITH)
        with Collection(index, encoder=FakeEncoder()) as photos:
            rows = [one for record in photos for one in photos.views(record.row_id)]
            found.append({(row.path, row.view): photos.vector(row.row_id) for row in rows})
    here, units = found
    assert len(here) > 5 * PICTURES and here.keys() == units.keys()
    assert all(np.allclose(here[key], units[key], atol=1e-3) for key in here)


def test_an_index_without_regions_says_nothing_of_them(folder: Path, tmp_path: Path) -> None:
    for options in (None, IndexOptions(regions=False)):
        index = clipsearch.index(folder, index=tmp_path / "plain", encoder=FakeEncoder(), options=options).index
        with open_snapshot(index) as snapshot:
            text = manifests.dump_manifest(snapshot.manifest)
            assert snapshot.manifest.reader_features == ()
        assert not any(name in text for name in (b'"regions"', b'"views"', b'"more_views"'))
        assert read_status(index).regions_per_picture == 0


def test_older_versions_refuse_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_snapshot(folder / ".clipsearch") as snapshot:
        assert snapshot.manifest.reader_features == ("regions", "views")
    monkeypatch.setattr(manifests, "KNOWN_READER_FEATURES", frozenset({"views", "members", "rabitq"}))
    with pytest.raises(UnsupportedIndex, match="'regions'"):
        open_snapshot(folder / ".clipsearch")


def test_rows_of_a_picture_change_together(folder: Path) -> None:
    assert run(folder).unchanged == PICTURES
    (folder / "p0.png").rename(folder / "more" / "renamed.png")
    shutil.copy2(folder / "p1.png", folder / "copy.png")
    (folder / "p2.png").unlink()
    scene(50, SIZE).save(folder / "new.png")
    scene(51, SIZE).save(folder / "twins-a.png")
    shutil.copy2(folder / "twins-a.png", folder / "twins-b.png")
    report = run(folder)
    assert (report.renamed, report.copied, report.removed, report.encoded) == (1, 2, 1, 2)
    now = seen(report.index)
    assert len(now) == PICTURES + 3 and all(views == WHOLE_AND_TILES for views in now.values())
    scene(2, SIZE).save(folder / "p2.png")  # its vectors are there still
    report = run(folder)
    assert (report.copied, report.encoded) == (1, 0)
    assert seen(report.index)["p2.png"] == WHOLE_AND_TILES


@pytest.mark.slow
def test_it_is_saved_and_a_change_needs_a_reindex(folder: Path) -> None:
    encoder = FakeEncoder()
    index = folder / ".clipsearch"
    without = IndexOptions(regions=False)
    with pytest.raises(RegionsMismatch, match=r"with regions.*--no-regions --reindex"):
        clipsearch.index(folder, encoder=encoder, options=without)
    with pytest.raises(RegionsMismatch):
        plan_index(folder, encoder, options=without)
    assert plan_index(folder, encoder, options=WITH).to_read == 0
    assert plan_index(folder, encoder, options=dataclasses.replace(WITH, reindex=True)).to_read == PICTURES
    run(folder, reindex=True)  # as it was
    assert set(map(tuple, seen(index).values())) == {tuple(WHOLE_AND_TILES)}
    run(folder, reindex=True, regions=False)
    assert set(map(tuple, seen(index).values())) == {("",)}
    with pytest.raises(RegionsMismatch, match=r"without regions.*--regions --reindex"):
        clipsearch.index(folder, encoder=encoder, options=WITH)
    run(folder, reindex=True, regions=True, views=5)
    assert set(map(tuple, seen(index).values())) == {tuple(WHOLE_AND_TILES)}
    status = read_status(index)
    assert (status.regions_per_picture, status.views_per_picture) == (4, 5)


@pytest.mark.parametrize("regions", [1, 0, 4, "yes"])
def test_only_yes_or_no(regions: Any) -> None:
    with pytest.raises(InvalidArgument, match="regions"):
        IndexOptions(regions=regions)


def test_what_is_away_comes_back_with_its_regions(folder: Path, tmp_path: Path) -> None:
    (folder / "more" / ".keep").touch()
    shutil.move(folder / "more", tmp_path / "away")
    report = run(folder)
    assert report.pictures == PICTURES - 1 and report.rows == 5 * (PICTURES - 1)
    shutil.move(tmp_path / "away", folder / "more")
    report = run(folder)
    assert report.encoded == 0
    assert seen(report.index)["more/red.png"] == WHOLE_AND_TILES


def test_compact_and_repair_keep_them(folder: Path) -> None:
    index = folder / ".clipsearch"
    (folder / "p5.png").unlink()
    scene(70, SIZE).save(folder / "p7.png")
    run(folder)
    compact(index)
    before = seen(index)
    assert len(before) == PICTURES
    for path in (index / "manifests").iterdir():
        path.write_bytes(b"damaged")
    (index / "CURRENT").write_bytes(b"damaged")
    repair(index)
    assert verify(index).ok
    assert seen(index) == before
    assert read_status(index).regions_per_picture == 4
    with open_snapshot(index) as snapshot:
        assert "regions" in snapshot.manifest.reader_features


def test_a_lost_vector_costs_whole_pictures(folder: Path) -> None:
    index = folder / ".clipsearch"
    scene(70, SIZE).save(folder / "p7.png")
    run(folder)
    with open_snapshot(index) as snapshot:
        segment = snapshot.manifest.segments[-1]
    for ref in segment.files():
        (index / ref.path).write_bytes(b"damaged")
    repair(index)
    assert verify(index).ok
    assert all(views == WHOLE_AND_TILES for views in seen(index).values())
    assert run(folder).pictures == PICTURES + 1


# -- found


def test_a_small_thing_is_found_and_its_place_told(made: Path, photos: Collection) -> None:
    plain = made.parent / "plain"
    clipsearch.index(made, index=plain, encoder=FakeEncoder())
    with Collection(plain, encoder=FakeEncoder()) as without:
        alone = {hit.record.path: hit.score for hit in without.search("blue", 20, all=True)}
    hits = photos.search("blue", 20, all=True)
    assert len(hits) == PICTURES == len({hit.record.path for hit in hits})
    for hit in hits:
        if hit.record.path.startswith("blue"):
            tile = int(hit.record.path[4])
            assert hit.record.view == said(TILES[tile])
            assert hit.where == f"{hit.path}#{said(TILES[tile])}"
            assert hit.to_dict()["where"] == hit.where and hit.to_dict()["view"] == hit.record.view
            assert hit.score > alone[hit.record.path]
        row = photos.record(hit.record.row_id)
        assert (row.path, row.view) == (hit.record.path, "")  # a picture has one row id, wherever it is found


def by_hand(photos: Collection, vector: FloatArray) -> dict[str, float]:
    """What each picture scores."""
    found = {}
    for record in photos:
        whole, *regions = photos.vectors([one.row_id for one in photos.views(record.row_id)]) @ vector
        found[record.path] = float(whole + REGION_COUNTS * max(0.0, max(regions, default=whole) - whole))
    return found


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    query=st.sampled_from(["", "folder:more or name:p", "color:blue", "name:p3"]),
    options=st.sampled_from(
        [{}, {"sort": "path"}, {"min_confidence": 0.3}, {"all": True}, {"like": [5], "unlike": [20]}, {"unique": True}]
    ),
)
def test_windows_and_counts_are_of_pictures(made: Path, seed: int, query: str, options: dict[str, Any]) -> None:
    vector = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    vector /= np.linalg.norm(vector)
    with Collection(made / ".clipsearch", encoder=FakeEncoder()) as photos:
        hits = photos.search(query, 1000, vector=vector, **options)
        paths = [hit.record.path for hit in hits]
        assert len(paths) == len(set(paths))
        expected = by_hand(photos, vector)
        if "like" not in options:
            assert {hit.record.path: hit.score for hit in hits} == pytest.approx(
                {path: expected[path] for path in paths}, abs=1e-5
            )
            if options.get("sort") is None and "unique" not in options:
                ranked = [path for path in sorted(expected, key=lambda path: -expected[path]) if path in paths]
                assert paths == ranked
        order = photos.order(query, vector=vector, **options)
        total, hidden = order.count(photos)
        assert total == len(hits)
        chosen = photos.parse(query).filter if query else None
        selected = photos.row_ids() if chosen is None else photos.select(chosen)
        if "unique" not in options:
            assert total + hidden == len(selected)
        pages = [hit for start in range(0, total, 3) for hit in order.window(photos, start, 3)]
        assert [hit.record.row_id for hit in pages] == [hit.record.row_id for hit in hits]
        assert len(order.members(photos)) == total
        assert [hit.record.path for hit in photos.search(query, 2, vector=vector, **options)] == paths[:2]


def test_the_first_hits_are_those_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows were looked at: a picture that only a row further down belongs to never comes first."""
    monkeypatch.setattr("clipsearch.search.order.STEPS", (2, 3, 5))
    for number in range(24):
        scene(number, SIZE).save(tmp_path / f"p{number:02}.png")
    index = run(tmp_path, regions=True).index
    rng = np.random.default_rng(3)
    with Collection(index, encoder=FakeEncoder()) as photos:
        for _ in range(6):
            vector = rng.standard_normal(64).astype(np.float32)
            vector /= np.linalg.norm(vector)
            expected = by_hand(photos, vector)
            ranked = sorted(expected, key=lambda path: -expected[path])
            for k in (1, 3, 10, 24):
                hits = photos.search("", k, vector=vector, all=True)
                assert [hit.record.path for hit in hits] == ranked[:k]
            several = photos.search_vectors(np.stack([vector, -vector]), 3)
            assert [hit.record.path for hit in several[0]] == ranked[:3]


def test_each_lists_tiles(photos: Collection) -> None:
    hits = photos.search("blue", 100, all=True, each=True)
    assert len(hits) == 5 * PICTURES
    first: Hit = hits[0]
    assert first.record.view and photos.record(first.record.row_id).view == first.record.view
    assert photos.order("folder:more", each=True).count(photos) == (5, 0)
    assert photos.order("folder:more").count(photos) == (1, 0)
    assert len(photos.search("blue folder:more", 10, all=True, each=True)) == 5
    (like,) = photos.search(f"like:{first.record.row_id}", 1, each=True)
    assert like.record.row_id == first.record.row_id and like.score == pytest.approx(1, abs=2e-3)


def test_the_picture_asked_with_comes_first_with_all_of_its_score(made: Path, photos: Collection) -> None:
    for record in photos:
        for query in (f"like:{record.row_id}", made / record.path):
            hit = photos.search(query, 1)[0]
            assert (hit.record.path, hit.record.view, hit.band) == (record.path, "", "strong")
            assert hit.score == pytest.approx(1, abs=2e-3)
        assert all(hit.record.path != record.path for hit in photos.similar(record.row_id, 3))
        part = photos.search(f"like:{record.row_id}#xywh=0,0,60,60", 1, all=True)
        assert part


@pytest.mark.slow
def test_facets_exports_and_duplicates_are_of_pictures(folder: Path, tmp_path: Path) -> None:
    shutil.copy2(folder / "p1.png", folder / "copy.png")
    scene(2, SIZE).resize((240, 180)).save(folder / "p2-large.png")
    report = run(folder)
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        facets = count_facets(photos, photos.order("").members(photos))
        assert sum(value.count for value in facets["type"]) == report.pictures == PICTURES + 2
        groups = {frozenset(Path(c.path).name for c in (g.keep, *g.others)) for g in find_duplicates(photos)}
        assert frozenset({"p1.png", "copy.png"}) in groups
        assert all(len(names) > 1 for names in groups)
        folded = photos.search("", 50, vector=photos.vector(next(iter(photos)).row_id), unique=True, all=True)
        assert sum(1 + len(hit.others) for hit in folded) == PICTURES + 2
        assert len(photos.to_arrow()) == len(photos.to_arrow(vectors=False)) == PICTURES + 2
    assert export_index(report.index, str(tmp_path / "rows.parquet")).rows == PICTURES + 2


def test_tags_and_thumbnails_know_the_picture(folder: Path) -> None:
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        hit = photos.search("blue", 1, all=True)[0]
        assert hit.record.view
        assert photos.thumbnail(hit)[:2] == b"\xff\xd8"
        assert photos.similar(hit, 1)[0].record.path != hit.record.path
        assert photos.where("blue", hit).box
        (tile,) = [one for one in photos.views(hit.record.row_id) if one.view == hit.record.view]
        assert photos.thumbnail(tile.row_id) == photos.thumbnail(hit)


@pytest.mark.slow
def test_several_indexes_with_regions_together(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for tile in range(4):
        patched("blue", tile, ground="white").save(other / f"other{tile}.png")
    run(other, regions=True)
    with (
        clipsearch.open([folder, other], encoder=FakeEncoder()) as both,
        clipsearch.open(folder, encoder=FakeEncoder()) as one,
        clipsearch.open(other, encoder=FakeEncoder()) as two,
    ):
        hits = both.search("blue", 30, all=True)
        assert len(hits) == len(both) == PICTURES + 4
        apart = {h.path: (h.where, h.score) for part in (one, two) for h in part.search("blue", 30, all=True)}
        assert {h.path: h.where for h in hits} == {path: where for path, (where, _) in apart.items()}
        assert [h.score for h in hits] == pytest.approx([apart[h.path][1] for h in hits], abs=1e-5)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
        assert len(both.search("name:other", 30, each=True)) == 20
    run(other, reindex=True, regions=False)
    with pytest.raises(EncoderMismatch, match="with regions"):
        clipsearch.open([folder, other], encoder=FakeEncoder())


@pytest.mark.slow
def test_servers_tell_the_same(folder: Path) -> None:
    with (
        clipsearch.open(folder, encoder=FakeEncoder()) as local,
        serving(folder / ".clipsearch", FakeEncoder()) as (url, _),
        clipsearch.connect(url) as remote,
    ):
        asked: list[dict[str, Any]] = [{"all": True}, {"all": True, "each": True}, {"unique": True}]
        for options in asked:
            here, there = (photos.search("blue", 20, **options) for photos in (local, remote))
            assert [h.where for h in here] == [h.where for h in there]
            assert [h.record.row_id for h in here] == [h.record.row_id for h in there]
        hit = remote.search("blue", 1, all=True)[0]
        assert hit.record.is_region
        assert [h.path for h in remote.similar(hit, 2)] == [h.path for h in local.similar(hit, 2)]
        assert remote.where("blue", hit).box == local.where("blue", hit).box
        assert httpx.get(f"{url}/v1/images/{hit.record.row_id}/thumb").status_code in (200, 404)
        told = httpx.post(f"{url}/v1/search", json={"query": "blue", "all": True, "k": 1}).json()["hits"][0]
        assert told["where"].endswith(f"#{told['view']}") and told["view"].startswith("xywh=")


@pytest.mark.slow
def test_assistants_and_each_are_told_bands_and_boxes(folder: Path) -> None:
    engine = Engine([folder / ".clipsearch"], encoder=FakeEncoder())
    service = Service(engine, Metrics(), search_threads=1, most_waiting=0, decode_timeout_s=10)

    async def call(tool: str, **arguments: Any) -> Any:
        async with Client(assistant_server(service)) as client:
            return await client.call_tool(tool, arguments)

    try:
        told = anyio.run(partial(call, "search", query="blue", all=True, k=20)).structured_content["hits"]
        (looked,) = [hit for hit in told if hit["path"].endswith("blue2.png")]
        parts = anyio.run(partial(call, "search", query="blue", all=True, each=True, k=100)).structured_content["hits"]
        (tile,) = [hit for hit in parts if hit.get("where", "").endswith(f"blue2.png#{said(TILES[2])}")]
        asked = [looked["row_id"], tile["row_id"]]
        drawn = [anyio.run(partial(call, "where", query="blue", row_id=row_id)) for row_id in asked]
    finally:
        service.close()
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        hits = photos.search("blue", 20, all=True)
        assert [hit.get("where", hit["path"]) for hit in told] == [hit.where for hit in hits]
        assert [hit["band"] for hit in told] == [hit.band for hit in hits]
        assert [hit["confidence"] for hit in told] == pytest.approx([hit.confidence for hit in hits], abs=1e-3)
        assert looked["where"].endswith(f"blue2.png#{said(TILES[2])}")
        for row_id, map_of in zip(asked, drawn, strict=True):  # of a tile: that of all of its picture
            fragment = json.loads(map_of.content[1].text)["fragment"]
            assert fragment.startswith(f"like:{row_id}#xywh=") and fragment.count("xywh=") == 1
            assert photos.search(fragment, 1, all=True)
        each = photos.search("blue", 100, all=True, each=True)
        assert all(hit.band and hit.confidence is not None for hit in each)
        ranks = ["strong", "maybe", "unlikely"]
        assert [ranks.index(str(hit.band)) for hit in each] == sorted(ranks.index(str(hit.band)) for hit in each)
        for hit in each:
            region = hit.record.view
            assert hit.where == (f"{hit.path}#{region}" if region else hit.path)
            assert hit.to_dict()["view"] == region or not region
        assert {hit.record.view for hit in each if hit.path.endswith("blue2.png")} == set(WHOLE_AND_TILES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_pictures_in_archives_have_regions(kind: str, made: Path, tmp_path: Path) -> None:
    contents = {path.name: path.read_bytes() for path in sorted(made.glob("*.png"))}
    source = tmp_path / f"x.{kind}"
    if kind == "tar":
        write_tar(source, contents)
    else:
        write_parquet(source, archive_table(list(contents.values())))
    report = run(source, regions=True, archives=True)
    assert (report.pictures, report.rows) == (len(contents), 5 * len(contents))
    with (
        Collection(report.index, encoder=FakeEncoder()) as photos,
        Collection(made / ".clipsearch", encoder=FakeEncoder()) as files,
    ):
        wanted = {hit.record.content_hash: hit for hit in files.search("blue name:png", 20, all=True)}
        hits = photos.search("blue", 20, all=True)
        assert len(hits) == len(contents)
        for hit in hits:
            other = wanted[hit.record.content_hash]
            assert hit.record.view == other.record.view
            assert hit.score == pytest.approx(other.score, abs=1e-5)
            assert hit.where == f"{source}/{hit.record.member}" + (f"#{hit.record.view}" if hit.record.view else "")
            assert photos.thumbnail(hit)[:2] == b"\xff\xd8"
        best = hits[0]
        assert best.record.view and photos.where("blue", best).box
        assert photos.similar(best, 3)[0].record.row_id != best.record.row_id
        assert len(photos.search("blue", 100, all=True, each=True)) == report.rows
        assert {view.view for view in photos.views(best.record.row_id)} == set(WHOLE_AND_TILES)
    assert run(source, regions=True, archives=True).unchanged == len(contents)


@pytest.mark.slow
def test_commands_take_and_say_it(folder: Path) -> None:
    from tests.support.commands import Commands

    with Commands() as commands:
        shutil.rmtree(folder / ".clipsearch")
        done = commands.run("index", folder, "--regions")
        assert f"{PICTURES} pictures ({5 * PICTURES} rows, with regions of pictures" in done.out
        done = commands.run("status", "--index", folder / ".clipsearch")
        assert f"pictures    {PICTURES}\n" in done.out and "4 regions of each" in done.out
        told = json.loads(commands.run("query", "blue", "--all", "--json", "--index", folder).out)
        assert len(told) == PICTURES and "#xywh=" in told[0]["where"]
        paths = commands.run("query", "blue", "--all", "--paths", "--index", folder).out.splitlines()
        assert all(Path(path).is_file() for path in paths) and len(paths) == PICTURES
        each = commands.run("query", "blue", "--all", "--each", "-k", "100", "--json", "--index", folder).out
        assert len(json.loads(each)) == 5 * PICTURES
        (tile, *_) = (hit for hit in json.loads(each) if "#xywh=" in hit.get("where", ""))
        for asked in (str(tile["row_id"]), tile["where"]):  # whose map is of all of the picture
            box = commands.run("where", "blue", asked, "--index", folder).out.strip()
            assert box.startswith(f"{tile['path']}#xywh=") and box.count("xywh=") == 1
        refused = commands.run("index", folder, "--no-regions")
        assert refused.status == 1 and "--no-regions --reindex" in refused.err


@given(st.integers(0, 2**31))
def test_a_score_is_between_the_whole_and_its_nearest_region(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wholes = rng.standard_normal(5).astype(np.float32)
    which, regions = rng.integers(0, 4, 9), rng.standard_normal(9).astype(np.float32)
    found = joined(wholes, which, regions)
    for n, whole in enumerate(wholes):
        best = max([whole, *regions[which == n]])
        assert found[n] == pytest.approx(0.3 * whole + 0.7 * best, abs=1e-5)
