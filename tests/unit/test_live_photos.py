"""Live Photos: a still and its clip in two files are one picture, and nothing else is."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

import clipsearch
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.pictures.images import PictureFile
from clipsearch.search.collection import Collection
from clipsearch.search.dedupe import find_duplicates
from clipsearch.search.live import NO_PAIRS
from clipsearch.store import open_snapshot
from clipsearch.store.columns import NUMBERS
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.live_photos import ONE, TWO, clip, live_photo, maker_note, still
from tests.support.pictures import scene
from tests.support.videos import colours, write_video


def run(folder: Path, **options: Any) -> Path:
    report = index_folder(folder, FakeEncoder(), options=IndexOptions(**{"workers": 2, **options}))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    return report.index


def opened(folder: Path) -> Collection:
    return clipsearch.open(folder, encoder=FakeEncoder())


def names(hits: Iterable[clipsearch.Hit]) -> list[str]:
    """Of hits, each with its clip behind a plus."""
    return [
        Path(hit.path).name if hit.clip is None else f"{Path(hit.path).name}+{Path(hit.clip.path).name}" for hit in hits
    ]


def pairs(folder: Path) -> set[tuple[str, str]]:
    """What is taken for a Live Photo among the files of a folder: still and clip, by path."""
    run(folder)
    with opened(folder) as photos:
        live = photos.live
        return {
            (photos.record(int(one)).path, photos.record(int(two)).path)
            for one, two in zip(live.stills, live.clips, strict=True)
        }


def described(path: Path) -> str | None:
    with PictureFile(path) as file:
        return file.describe(FakeEncoder().preprocessing).live


# -- what files say


@pytest.mark.parametrize("name", ["a.jpg", "a.heic"])
@pytest.mark.parametrize("order", ["big", "little"])
def test_a_still_says_of_which_live_photo_it_is(name: str, order: str, tmp_path: Path) -> None:
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif")
    path = still(tmp_path / name, None, note=maker_note(ONE.lower(), order=order))
    assert described(path) == ONE
    with PictureFile(path) as file:
        assert file.decode(FakeEncoder().preprocessing).metadata.live == ONE


def test_other_notes_and_broken_ones_say_nothing(tmp_path: Path) -> None:
    whole = maker_note(ONE)
    notes = [whole[:at] for at in (9, 12, 14, 20, 40, 50)] + [
        whole.replace(b"Apple iOS", b"Apple foo"),
        maker_note("no identifier"),
        maker_note(ONE[:-1] + "X"),
        b"Apple iOS\0\0\x01MM\xff\xff" + bytes(60),
        b"Nikon\0\x02\x10" + whole,
    ]
    for number, note in enumerate(notes):
        assert described(still(tmp_path / f"{number}.jpg", None, note=note)) is None, number


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="no exiftool")
def test_exiftool_reads_the_same_identifiers(tmp_path: Path) -> None:
    one, two = live_photo(tmp_path / "IMG_1", ONE)
    told = subprocess.run(
        ["exiftool", "-j", "-ContentIdentifier", "-MediaGroupUUID", str(one), str(two)], check=True, capture_output=True
    ).stdout
    assert [entry.get("ContentIdentifier", entry.get("MediaGroupUUID")) for entry in json.loads(told)] == [ONE, ONE]


def test_a_clip_says_it_if_it_is_short(tmp_path: Path) -> None:
    assert described(clip(tmp_path / "a.MOV", ONE)) == ONE
    assert described(clip(tmp_path / "b.MOV", None)) is None
    assert described(clip(tmp_path / "long.MOV", ONE, seconds=10.5)) is None
    assert described(clip(tmp_path / "c.MOV", "no identifier")) is None


# -- what is a pair


def test_files_of_one_identifier_are_a_pair_wherever_they_are(tmp_path: Path) -> None:
    still(tmp_path / "IMG_1.JPG", ONE, taken=None)
    (tmp_path / "clips").mkdir()
    clip(tmp_path / "clips/other name.MOV", ONE, taken=None)
    assert pairs(tmp_path) == {("IMG_1.JPG", "clips/other name.MOV")}


def test_a_file_that_lost_its_identifier_is_known_by_name_and_time(tmp_path: Path) -> None:
    still(tmp_path / "IMG_1.JPG", ONE)
    clip(tmp_path / "IMG_1.MOV", None)
    still(tmp_path / "img_2.jpg", None)
    clip(tmp_path / "IMG_2.MOV", TWO)
    assert pairs(tmp_path) == {("IMG_1.JPG", "IMG_1.MOV"), ("img_2.jpg", "IMG_2.MOV")}


def test_what_is_not_certain_is_no_pair(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name / "IMG_1"

    here = folder("neither says so")
    still(here.with_suffix(".JPG"), None), clip(here.with_suffix(".MOV"), None)
    here = folder("two others")
    still(here.with_suffix(".JPG"), ONE), clip(here.with_suffix(".MOV"), TWO)
    here = folder("later")
    (
        still(here.with_suffix(".JPG"), ONE.replace("5", "1")),
        clip(here.with_suffix(".MOV"), None, taken="2024-05-01T10:00:04+0200"),
    )
    here = folder("long")
    still(here.with_suffix(".JPG"), ONE.replace("5", "2")), clip(here.with_suffix(".MOV"), None, seconds=5.5)
    here = folder("no time")
    still(here.with_suffix(".JPG"), ONE.replace("5", "3")), clip(here.with_suffix(".MOV"), None, taken=None)
    here = folder("other name")
    still(here.with_suffix(".JPG"), ONE.replace("5", "4")), clip(here.with_name("IMG_2.MOV"), None)
    here = folder("two clips")
    still(here.with_suffix(".JPG"), ONE.replace("5", "6"))
    clip(here.with_suffix(".MOV"), None), clip(here.with_suffix(".MP4"), None)
    assert pairs(tmp_path) == set()
    with opened(tmp_path) as photos:
        assert photos.live is not NO_PAIRS or len(photos.live) == 0
        found = photos.search("", 50)
        assert len(found) == len(photos) == 15
        assert all(hit.clip is None for hit in found)
        assert len(photos.search("is:motion", 50)) == 0


def test_copies_are_pairs_of_their_own(tmp_path: Path) -> None:
    live_photo(tmp_path / "a/IMG_1", ONE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/IMG_1.MOV").rename(tmp_path / "b/moment.MOV")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    still(tmp_path / "c/IMG_1.A.JPG", ONE, "blue").rename(tmp_path / "c/IMG_1.HEIF.JPG")
    shutil.copy(tmp_path / "a/IMG_1.JPG", tmp_path / "d.JPG")
    assert pairs(tmp_path) == {
        ("a/IMG_1.JPG", "a/IMG_1.MOV"),
        ("b/IMG_1.JPG", "b/moment.MOV"),
        ("c/IMG_1.JPG", "c/IMG_1.MOV"),
    }


def test_of_a_still_in_two_formats_one_has_the_clip(tmp_path: Path) -> None:
    live_photo(tmp_path / "IMG_1", ONE)
    still(tmp_path / "IMG_1.jpeg", ONE, "blue")
    assert pairs(tmp_path) == {("IMG_1.jpeg", "IMG_1.MOV")}


# -- in answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    live_photo(folder / "IMG_1", ONE, "red", ("red", "blue"))
    live_photo(folder / "IMG_2", TWO, "green", ("green",))
    Image.new("RGB", (320, 240), COLOURS["blue"]).save(folder / "plain.jpg")
    write_video(folder / "trip.mp4", colours(["yellow", "pink"]), seconds=2)
    run(folder)
    return folder


def test_a_clip_is_folded_into_its_still(folder: Path) -> None:
    with opened(folder) as photos:
        assert len(photos) == 6
        listed = photos.search("")
        assert sorted(names(listed)) == ["IMG_1.JPG+IMG_1.MOV", "IMG_2.JPG+IMG_2.MOV", "plain.jpg", "trip.mp4"]
        order = photos.order("")
        assert order.count(photos) == (4, 0)
        every = [hit.record.path for hit in photos.search("", each=True)]
        assert sorted(every) == [
            "IMG_1.JPG",
            *["IMG_1.MOV"] * 2,
            "IMG_2.JPG",
            "IMG_2.MOV",
            "plain.jpg",
            *["trip.mp4"] * 2,
        ]
        assert names(photos.search("ext:mov", sort="path")) == ["IMG_1.MOV", "IMG_2.MOV"]
        assert names(photos.search("ext:jpg", sort="path")) == [
            "IMG_1.JPG+IMG_1.MOV",
            "IMG_2.JPG+IMG_2.MOV",
            "plain.jpg",
        ]
        assert order.place_of(photos, int(photos.live.clips[0])) == order.place_of(photos, int(photos.live.stills[0]))


def test_what_only_the_clip_shows_finds_the_still(folder: Path) -> None:
    with opened(folder) as photos:
        blue = photos.search("blue", 2)
        assert sorted(names(blue)) == ["IMG_1.JPG+IMG_1.MOV", "plain.jpg"]
        (live,) = (hit for hit in blue if hit.clip)
        assert live.clip is not None
        assert live.clip.record.view.startswith("t=1,")
        assert live.score == live.clip.score == pytest.approx(blue[0].score, abs=0.02)
        assert live.confidence == pytest.approx(live.clip.confidence)
        red = photos.search("red", 1)[0]
        assert names([red]) == ["IMG_1.JPG+IMG_1.MOV"]
        assert red.clip is not None
        assert red.clip.record.view.startswith("t=0")
        (alone,) = photos.search("blue ext:mov", 1)
        assert alone.where.endswith("IMG_1.MOV#t=1")
        assert names(photos.similar(photos.search("name:IMG_1.JPG")[0], 9))[0] != "IMG_1.JPG+IMG_1.MOV"


@pytest.mark.slow
def test_windows_are_those_of_one_order(folder: Path) -> None:
    ways: list[dict[str, Any]] = [{}, {"sort": "date"}, {"sort": "path"}, {"unique": True}, {"diverse": True}]
    ways += [{"like": [0]}, {"unlike": [0]}, {"min_confidence": 0.01}, {"each": True}]
    queries = ("", "blue", "red", "is:motion", "green ext:jpg or ext:mov", "pink - red")
    with opened(folder) as photos:
        for query, about, all in itertools.product(queries, ways, (True, False)):
            asked = about if "min_confidence" in about else {**about, "all": all}
            whole = photos.search(query, 20, **asked)
            rows = np.array([hit.record.row_id for hit in whole], np.int64)
            each = rows if "each" in about else photos.pictures_of(rows)
            assert len(np.unique(each)) == len(rows), (query, asked)
            total, hidden = photos.order(query, **asked).count(photos)
            assert total == len(whole), (query, asked)
            assert total + hidden <= (8 if "each" in about else 4)
            for k in range(1, len(rows) + 1):
                part = photos.search(query, k, **asked)
                assert [hit.record.row_id for hit in part] == rows[:k].tolist(), (query, asked)
                scores = [[hit.score for hit in hits] for hits in (part, whole[:k])]
                assert scores[0] == pytest.approx(scores[1], nan_ok=True, abs=1e-5), (query, asked)


def test_is_motion_holds_for_both(folder: Path) -> None:
    with opened(folder) as photos:
        assert sorted(names(photos.search("is:motion"))) == ["IMG_1.JPG+IMG_1.MOV", "IMG_2.JPG+IMG_2.MOV"]
        both = {hit.record.path for hit in photos.search("is:motion", each=True)}
        assert both == {"IMG_1.JPG", "IMG_1.MOV", "IMG_2.JPG", "IMG_2.MOV"}
        assert sorted(names(photos.search("not is:motion"))) == ["plain.jpg", "trip.mp4"]
        assert sorted(names(photos.search("is:motion or name:trip"))) == [
            "IMG_1.JPG+IMG_1.MOV",
            "IMG_2.JPG+IMG_2.MOV",
            "trip.mp4",
        ]


def test_what_is_left_of_a_live_photo_is_a_picture_or_a_video(folder: Path) -> None:
    (folder / "IMG_1.MOV").unlink()
    (folder / "IMG_2.JPG").unlink()
    run(folder, prune=True)
    with opened(folder) as photos:
        assert sorted(names(photos.search(""))) == ["IMG_1.JPG", "IMG_2.MOV", "plain.jpg", "trip.mp4"]
        assert not photos.search("is:motion")


def test_a_live_photo_that_moved_is_one(folder: Path) -> None:
    (folder / "trip").mkdir()
    for name in ("IMG_1.JPG", "IMG_1.MOV"):
        (folder / name).rename(folder / "trip" / f"moved {name}")
    run(folder)
    with opened(folder) as photos:
        assert "moved IMG_1.JPG+moved IMG_1.MOV" in names(photos.search(""))


def test_several_indexes_have_their_own(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "others"
    live_photo(other / "IMG_1", ONE, "red", ("red",))
    run(other)
    with clipsearch.open([folder, other], encoder=FakeEncoder()) as photos:
        assert len(photos.live) == 3
        found = photos.search("", 20)
        assert sorted(names(found)) == sorted(
            ["IMG_1.JPG+IMG_1.MOV", "IMG_2.JPG+IMG_2.MOV", "plain.jpg", "trip.mp4", "IMG_1.JPG+IMG_1.MOV"]
        )
        for hit in found:
            assert hit.clip is None or Path(hit.clip.path).parent == Path(hit.path).parent
        assert len(photos.search("is:motion", 20)) == 3
        assert photos.order("").count(photos) == (5, 0)


def test_a_server_plays_the_clip_of_a_still(folder: Path) -> None:
    content = (folder / "IMG_1.MOV").read_bytes()
    with serving(folder / ".clipsearch", FakeEncoder()) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/v1/search", json={}).json()
        assert answer["total"] == 4
        hits = {hit["name"]: hit for hit in answer["hits"]}
        hit = hits["IMG_1.JPG"]
        assert hit["clip"]["name"] == "IMG_1.MOV"
        assert client.get(hit["clip"]["thumbnail"]).status_code == 200
        whole = client.get(hit["moment"])
        assert (whole.content, whole.headers["content-type"]) == (content, "video/mp4")
        assert whole.headers["content-disposition"].startswith("inline; ")
        part = client.get(hit["moment"], headers={"range": "bytes=100-"})
        assert (part.status_code, part.content) == (206, content[100:])
        assert "moment" not in hits["plain.jpg"]
        assert client.get(f"/v1/images/{hit['row_id']}").json()["moment"] == hit["moment"]
        with clipsearch.connect(url) as remote:
            (told,) = remote.search("red", 1)
            with opened(folder) as photos:
                (here,) = photos.search("red", 1)
            assert names([told]) == ["IMG_1.JPG+IMG_1.MOV"]
            assert told.record == here.record
            assert told.clip is not None
            assert here.clip is not None
            assert told.clip.record == here.clip.record
            assert {hit.record.path for hit in remote.search("is:motion", each=True)} == {
                "IMG_1.JPG",
                "IMG_1.MOV",
                "IMG_2.JPG",
                "IMG_2.MOV",
            }
        with (folder / "IMG_1.MOV").open("ab") as file:
            file.write(b"\0")
        assert client.get(hit["moment"]).status_code == 404
        (folder / "IMG_1.MOV").unlink()
        (folder / "IMG_1.MOV").symlink_to(folder / "trip.mp4")
        assert client.get(hit["moment"]).status_code == 404


def test_dedupe_proposes_neither_half(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shown = scene(5).resize((640, 480))
    still(folder / "IMG_1.JPG", ONE, image=shown)
    clip(folder / "IMG_1.MOV", ONE)
    for name in ("small", "large"):  # of which the still is the better, and the worse
        size = (320, 240) if name == "small" else (1280, 960)
        shown.resize(size).save(folder / f"{name}.jpg", quality=90)
    shutil.copytree(folder, folder / "copy")
    shutil.copy(folder / "IMG_1.MOV", folder / "alone.MOV")
    run(folder)
    with opened(folder) as photos:
        groups = find_duplicates(photos)
        assert len(photos.live) == 2
    spare = {str(Path(other.path).relative_to(folder)) for group in groups for other in group.others}
    assert spare.isdisjoint({"IMG_1.JPG", "IMG_1.MOV", "copy/IMG_1.JPG", "copy/IMG_1.MOV"})
    assert {"small.jpg", "alone.MOV"} <= spare  # what is no half still is


# -- on disk


def columns_of(index: Path) -> list[tuple[bool, bool]]:
    """Of each fragment, whether its rows and its Parquet file have the column."""
    import pyarrow.parquet as pq

    found = []
    with closing(open_snapshot(index)) as snapshot:
        fragments = snapshot.manifest.fragments
    for fragment in fragments:
        assert fragment.rows_file is not None
        rows = (index / fragment.rows_file.path).read_bytes()
        found.append(
            (b'"live":[' in rows or b'"live": [' in rows, "live" in pq.read_schema(index / fragment.data.path).names)
        )
    return found


def test_an_index_without_live_photos_has_no_column_for_them(tmp_path: Path) -> None:
    Image.new("RGB", (32, 24), "red").save(tmp_path / "plain.jpg")
    index = run(tmp_path)
    assert columns_of(index) == [(False, False)]
    live_photo(tmp_path / "IMG_1", ONE)
    run(tmp_path)
    assert sorted(columns_of(index)) == [(False, False), (True, True)]


def test_compaction_and_repair_keep_them(folder: Path) -> None:
    index = folder / ".clipsearch"
    Image.new("RGB", (32, 24), "red").save(folder / "more.jpg")
    run(folder)
    compact(index)
    assert columns_of(index) == [(True, True)]
    for rows in (index / "rows").iterdir():
        rows.unlink()
    repair(index)
    assert verify(index).ok
    with opened(folder) as photos:
        assert len(photos.live) == 2


def test_a_reader_without_the_column_reads_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(NUMBERS, "live")
    with opened(folder) as photos:
        assert len(photos.search("")) == 6
