"""Files that are seen as several things: their rows come, change and go together, and one hit stands for a file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clipsearch
from clipsearch.errors import NoSuchPicture, UnsupportedIndex
from clipsearch.exports.run import export_index
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.records import FloatArray, Hit, ImageRecord
from clipsearch.search.collection import Collection
from clipsearch.search.dedupe import find_duplicates
from clipsearch.store import Writer, manifest, open_rows, open_snapshot, read_records
from tests.support.breadth import tries
from tests.support.collections import serving
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill
from tests.support.viewed import checked_run, seen, viewed_index
from tests.support.words import write_words

FILES = 12
VIEWS = {
    "set000/p00001.jpg": ["t=0,2.5", "t=2.5,7", "t=7,9"],
    "set000/p00003.jpg": ["", "xywh=0,0,10,10", "xywh=5,5,20,20"],
    "set000/p00004.jpg": [f"t={n},{n + 1}" for n in range(40)],
    "set001/p00010.jpg": ["page=1", "page=2"],
}
RUNS = tries("CLIPSEARCH_RUNS", 3, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewed") / "photos"
    fill(folder, FILES)
    viewed_index(folder, FakeEncoder(), VIEWS)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "photos")


# -- on disk


def test_an_index_without_views_says_nothing_of_them(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 3)
    report = checked_run(tmp_path / "photos", FakeEncoder())
    with open_snapshot(report.index) as snapshot:
        path = report.index / "manifests" / f"{report.generation:08d}.json"
        body = json.loads(path.read_bytes())
        assert "reader_features" not in body
        assert "more_views" not in body
        for fragment in snapshot.manifest.fragments:
            assert not {"view", "member"} & set(open_rows(report.index, fragment)._places)
        assert not {"views", "members"} & {name for fragment in body["fragments"] for name in fragment}


def test_older_versions_refuse_an_index_with_views(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = folder / ".clipsearch"
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.reader_features == ("views",)
        assert (snapshot.manifest.pictures, snapshot.manifest.more_views) == (FILES, 44)
    monkeypatch.setattr(manifest, "KNOWN_READER_FEATURES", frozenset())
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    with pytest.raises(UnsupportedIndex, match="'views'"):
        open_snapshot(index)
    with pytest.raises(UnsupportedIndex, match="'views'"), Writer(index) as writer:
        writer.current()
    after = {path: path.read_bytes() for path in index.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert after == {path: raw for path, raw in before.items() if path.name != "LOCK"}


def test_the_feature_goes_with_the_last_view(folder: Path) -> None:
    for path in VIEWS:
        (folder / path).unlink()
    assert checked_run(folder, FakeEncoder(), prune=True).removed == len(VIEWS)
    compact(folder / ".clipsearch")
    with open_snapshot(folder / ".clipsearch") as snapshot:
        assert snapshot.manifest.reader_features == ()
        assert (snapshot.manifest.pictures, snapshot.manifest.more_views) == (FILES - len(VIEWS), 0)


# -- runs


@pytest.mark.slow
def test_rows_of_a_file_change_together(folder: Path) -> None:
    encoder = FakeEncoder()
    video, other = (folder / path for path in ("set000/p00004.jpg", "set000/p00001.jpg"))
    assert checked_run(folder, encoder).unchanged == FILES
    video.rename(folder / "set000" / "renamed.jpg")
    shutil.copy2(other, folder / "set001" / "copy.jpg")
    os.utime(folder / "set000/p00003.jpg", ns=(1, 1))
    report = checked_run(folder, encoder)
    assert (report.renamed, report.copied, report.touched, report.encoded, report.removed) == (1, 1, 1, 0, 0)
    now = seen(report.index)
    assert now["set000/renamed.jpg"] == VIEWS["set000/p00004.jpg"]
    assert now["set001/copy.jpg"] == now["set000/p00001.jpg"] == VIEWS["set000/p00001.jpg"]
    assert now["set000/p00003.jpg"] == VIEWS["set000/p00003.jpg"]
    assert len(now) == FILES + 1
    (folder / "set001/copy.jpg").unlink()
    report = checked_run(folder, encoder)
    assert (report.removed, report.missing, report.pictures) == (1, 0, FILES)
    fill(folder, 1, first=3)  # other content
    (folder / "set000/p00003.jpg").write_bytes((folder / "set000/p00000.jpg").read_bytes() + b"\0")
    report = checked_run(folder, encoder)
    assert seen(report.index)["set000/p00003.jpg"] == [""]
    assert report.encoded == 1


def test_one_deleted_video_of_many_views_is_not_a_drive_that_went(folder: Path) -> None:
    (folder / "set000/p00004.jpg").unlink()
    report = checked_run(folder, FakeEncoder())
    assert (report.removed, report.missing) == (1, 0)


def test_missing_files_come_back_with_all_views(folder: Path, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    shutil.move(folder / "set000", tmp_path / "away")
    report = checked_run(folder, encoder)
    assert (report.missing, report.pictures, report.rows) == (10, 2, 3)
    shutil.move(tmp_path / "away", folder / "set000")
    report = checked_run(folder, encoder)
    assert (report.returned, report.missing, report.encoded) == (10, 0, 0)
    assert {path: views for path, views in seen(report.index).items() if views != [""]} == VIEWS
    shutil.move(folder / "set000", tmp_path / "away")
    assert checked_run(folder, encoder, prune=True).forgotten == 10


@pytest.mark.slow
@settings(max_examples=RUNS, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_files_their_views_stay_together(made: Path, data: st.DataObject) -> None:
    encoder = FakeEncoder()
    with pytest.MonkeyPatch.context() as patch:
        folder = made.parent / f"changed{data.draw(st.integers(0, 2**60))}"
        patch.setattr("clipsearch.indexer.build.COMMIT_ROWS", 3)
        shutil.copytree(made, folder)
        expected = {path: VIEWS.get(path, [""]) for path in seen(folder / ".clipsearch")}
        for step in range(data.draw(st.integers(1, 6))):
            path = data.draw(st.sampled_from(sorted(expected)))
            what = data.draw(st.sampled_from(["rename", "copy", "touch", "delete", "compact", "swap", "nothing"]))
            target = f"set000/new{step}.jpg"
            if what == "rename":
                (folder / path).rename(folder / target)
                expected[target] = expected.pop(path)
            elif what == "copy":
                shutil.copy2(folder / path, folder / target)
                expected[target] = expected[path]
            elif what == "touch":
                os.utime(folder / path, ns=(step + 1, (step + 1) * 10**9 + 7))
            elif what == "delete" and len(expected) > 10:
                (folder / path).unlink()
                del expected[path]
            elif what == "swap":
                other = data.draw(st.sampled_from(sorted(expected)))
                (folder / path).rename(folder / "x")
                (folder / other if other != path else folder / "x").rename(folder / path)
                if other != path:
                    (folder / "x").rename(folder / other)
                expected[path], expected[other] = expected[other], expected[path]
            if what == "compact":
                compact(folder / ".clipsearch")
            if data.draw(st.booleans()):
                checked_run(folder, encoder, commit_rows=data.draw(st.integers(1, 9)))
                assert seen(folder / ".clipsearch") == expected
        checked_run(folder, encoder, commit_rows=3)
        assert seen(folder / ".clipsearch") == expected
        assert encoder.images_encoded == 0
        shutil.rmtree(folder)


def test_counts_are_of_files_and_of_views(folder: Path, tmp_path: Path) -> None:
    status = read_status(folder / ".clipsearch")
    assert (status.pictures, status.rows) == (FILES, FILES + 44)
    assert export_index(folder / ".clipsearch", str(tmp_path / "rows.parquet")).rows == FILES + 44


# -- checked and repaired


def test_a_file_that_lost_a_row_is_found_and_read_again(folder: Path) -> None:
    index = folder / ".clipsearch"
    with Writer(index) as writer:
        before = writer.current()
        assert before is not None
        fragments = list(before.fragments)
        rows = open_rows(index, fragments[0])
        number = next(i for i in range(len(rows)) if rows.record(i).view == "t=2.5,7")
        fragments[0] = writer.mark_rows(fragments[0], rows.number("row_id")[number : number + 1], {})
        changed = dataclasses.replace(before, fragments=tuple(fragments), more_views=before.more_views - 1)
        segments = [dataclasses.replace(s) for s in changed.segments]
        hidden = writer.add_marks({0: rows.number("vector_id")[number : number + 1]})
        segments[0] = dataclasses.replace(segments[0], hidden=hidden, hidden_count=1)
        writer.commit(dataclasses.replace(changed, segments=tuple(segments)))
    problems = [problem.message for problem in verify(index).problems]
    assert problems == ["files have some of their rows only"]
    repair(index)
    assert verify(index).ok
    assert "set000/p00001.jpg" not in seen(index)
    assert checked_run(folder, FakeEncoder()).encoded == 1


def test_a_lost_segment_costs_whole_files(folder: Path) -> None:
    index = folder / ".clipsearch"
    with open_snapshot(index) as snapshot:
        segment = snapshot.manifest.segments[1]
    for ref in segment.files():
        (index / ref.path).write_bytes(b"damaged")
    repair(index)
    assert verify(index).ok
    views = {path: views for path, views in seen(index).items() if views != [""]}
    assert views == {path: own for path, own in VIEWS.items() if path in views}
    assert checked_run(folder, FakeEncoder()).pictures == FILES


def test_everything_is_found_again_without_any_manifest(folder: Path) -> None:
    index = folder / ".clipsearch"
    for path in (index / "manifests").iterdir():
        path.unlink()
    repair(index)
    assert verify(index).ok
    assert {path: views for path, views in seen(index).items() if views != [""]} == VIEWS


# -- searched


@pytest.fixture(scope="module")
def vectors(made: Path) -> dict[int, FloatArray]:
    with Collection(made / ".clipsearch", encoder=FakeEncoder()) as photos:
        return {int(row): photos.vector(int(row)) for row in photos.row_ids()}


def folded(hits: list[Hit]) -> list[tuple[str, str]]:
    best: dict[str, str] = {}
    for hit in hits:
        best.setdefault(hit.record.path, hit.record.view)
    return list(best.items())


def places(hits: list[Hit]) -> list[tuple[str, str]]:
    return [(hit.record.path, hit.record.view) for hit in hits]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    query=st.sampled_from(["", "folder:set000", "color:white", "is:dark or is:bright", "name:p00004"]),
    options=st.sampled_from(
        [{}, {"sort": "path"}, {"sort": "date"}, {"min_confidence": 0.3}, {"all": True}, {"like": [5], "unlike": [2]}]
    ),
)
def test_one_hit_stands_for_a_file_where_it_is_best(made: Path, seed: int, query: str, options: dict[str, Any]) -> None:
    vector = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    with Collection(made / ".clipsearch", encoder=FakeEncoder()) as photos:
        by_score = photos.search(query, 1000, vector=vector, **{**options, "sort": "score"}, each=True)
        hits = photos.search(query, 1000, vector=vector, **options)
        assert sorted(places(hits)) == sorted(folded(by_score)) or not hits.are_certain
        if options.get("sort", "score") == "score" and hits.are_certain:
            assert places(hits) == folded(by_score)
        order = photos.order(query, vector=vector, **options)
        total, hidden = order.count(photos)
        assert total == len(hits)
        chosen = photos.parse(query).filter if query else None
        selected = photos.row_ids() if chosen is None else photos.select(chosen)
        assert total + hidden == len({photos.record(int(row)).path for row in selected})
        pages = [hit for start in range(0, total, 3) for hit in order.window(photos, start, 3)]
        assert [hit.record.row_id for hit in pages] == [hit.record.row_id for hit in hits]
        shown = {hit.record.path: number for number, hit in enumerate(hits)}
        for row in selected.tolist():
            record = photos.record(row)
            assert order.place_of(photos, row) == shown.get(record.path)
        assert len(order.members(photos)) == total
        first = photos.search(query, 2, vector=vector, **options)
        assert places(first) == places(hits)[:2]


def test_each_part_of_a_file_is_judged_for_itself(made: Path) -> None:
    vector = np.random.default_rng(3).standard_normal(64).astype(np.float32)
    with Collection(made / ".clipsearch", encoder=FakeEncoder()) as photos:
        order = photos.order("", vector=vector, all=True)
        parts = photos.search("", 1000, vector=vector, all=True, each=True)
        assert len(parts) > order.count(photos)[0]
        for part in parts:
            alone = order.hit_of(photos, part.record.row_id)
            assert (alone.record, alone.band, alone.others, alone.rank) == (part.record, part.band, (), 0)
            assert (alone.score, alone.confidence) == pytest.approx((part.score, part.confidence), abs=1e-5)
        with pytest.raises(NoSuchPicture):
            order.hit_of(photos, 10**9)


@pytest.mark.parametrize("sort", ["score", "date", "path"])
def test_lists_name_each_file_once(made: Path, sort: Any) -> None:
    with Collection(made / ".clipsearch", encoder=FakeEncoder()) as photos:
        assert len(photos) == FILES == len(list(photos)) == len(photos.search("", 1000, sort=sort))
        assert len(photos.search("", 1000, sort=sort, each=True)) == FILES + 44
        assert photos.order("").count(photos) == (FILES, 0)
        (hit,) = photos.search("name:p00003", 10, sort=sort)
        assert hit.record.view == ""
        assert len(photos.search("color:white", 1000, sort=sort)) <= FILES


def test_a_hit_says_where(made: Path, vectors: dict[int, FloatArray]) -> None:
    with clipsearch.open(made, encoder=FakeEncoder()) as photos:
        by_view = {(photos.record(row).path, photos.record(row).view): row for row in vectors}
        for path, view, said in (
            ("set000/p00001.jpg", "t=2.5,7", "#t=2.5"),
            ("set000/p00003.jpg", "xywh=5,5,20,20", "#xywh=5,5,20,20"),
            ("set001/p00010.jpg", "page=2", "#page=2"),
            ("set000/p00000.jpg", "", ""),
        ):
            hit = photos.search("", 1, vector=vectors[by_view[path, view]])[0]
            assert hit.where == f"{made}/{path}{said}"
            assert hit.to_dict().get("where") == (hit.where if view else None)
            assert Hit.from_dict(hit.to_dict(whole=True, exact=True)) == hit


def test_near_duplicates_are_of_files(folder: Path) -> None:
    shutil.copy2(folder / "set000/p00004.jpg", folder / "set001/copy.jpg")
    index = checked_run(folder, FakeEncoder()).index
    with Collection(index, encoder=FakeEncoder()) as photos:
        row = next(int(r) for r in photos.row_ids() if photos.record(int(r)).view == "t=17,18")
        vector = photos.vector(row)
        hits = photos.search("", 50, vector=vector, unique=True, all=True)
        assert [other.record.path for other in hits[0].others] == ["set001/copy.jpg"]
        assert hits[0].others[0].record.view == hits[0].record.view == "t=17,18"
        assert len(hits) == FILES
        each = photos.search("", 500, vector=vector, unique=True, each=True, all=True)
        assert len(each) == FILES + 44  # copies alone are folded
        similar = photos.similar(row, 50)
        assert {hit.record.path for hit in similar}.isdisjoint({"set000/p00004.jpg", "set001/copy.jpg"})
        assert len(similar) == FILES - 1
        groups = find_duplicates(photos)
        named = [{group.keep.record.path, *(other.record.path for other in group.others)} for group in groups]
        assert named == [{"set000/p00004.jpg", "set001/copy.jpg"}]


def test_tags_are_of_files(folder: Path) -> None:
    from clipsearch.store.tags import write_tags

    with open_snapshot(folder / ".clipsearch") as snapshot:
        records: Iterator[ImageRecord] = iter(read_records(folder / ".clipsearch", snapshot.manifest))
        content = next(record.content_hash for record in records if record.view == "t=7,9")
    write_tags(folder / ".clipsearch", {"trip": {content or "": 1.0}})
    with Collection(folder / ".clipsearch", encoder=FakeEncoder()) as photos:
        assert [hit.record.path for hit in photos.search("tag:trip", 10)] == ["set000/p00001.jpg"]
        assert len(photos.search("tag:trip", 10, each=True)) == 3


@pytest.mark.slow
def test_the_parts_and_the_words_of_a_file_over_http(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, FILES)
    index, _ = viewed_index(photos, encoder, VIEWS)
    write_words(index, {"set000/p00002.jpg": ["INVOICE 12", "Total"]})
    with (
        clipsearch.open(photos, encoder=encoder) as here,
        serving(index, encoder) as (url, _),
        httpx.Client(base_url=url) as http,  # making one takes as long as ten answers
    ):
        every = list(read_records(index, here.manifest))
        rows = {(record.path, record.view): record for record in every}
        for (path, view), record in rows.items():
            said = http.get(f"/v1/images/{record.row_id}/views?content={record.content_hash}").json()["views"]
            assert [one["view"] for one in said] == list(VIEWS.get(path, [""])), (path, view)
            assert [one["row_id"] for one in said] == [rows[path, one["view"]].row_id for one in said]
            assert [one.view for one in here.views(record.row_id)] == [one["view"] for one in said]
            assert said[0]["start_s"] == (0 if said[0]["view"].startswith("t=0,") else None)
            lines = http.get(f"/v1/images/{record.row_id}/words").json()["lines"]
            texts = ["INVOICE 12", "Total"] if path == "set000/p00002.jpg" else []
            assert [line["text"] for line in lines] == texts
            assert all(len(line["box"]) == 4 for line in lines)
        for part in ("words", "views"):
            assert http.get(f"/v1/images/9999/{part}").status_code == 404
            assert http.get(f"/v1/images/0/{part}?content={'0' * 16}").status_code == 404
            assert http.get(f"/v1/images/0/{part}?index_id={'0' * 8}").status_code == 409


@pytest.mark.slow
def test_the_parts_of_a_file_of_several_indexes(tmp_path: Path, encoder: FakeEncoder) -> None:
    indexes: list[Path] = []
    for name in ("one", "two"):
        fill(tmp_path / name, FILES)
        indexes.append(viewed_index(tmp_path / name, encoder, VIEWS, seed=len(indexes))[0])
    with clipsearch.open(indexes, encoder=encoder) as several:
        for row_id in several.row_ids().tolist():
            record = several.record(row_id)
            parts = several.views(row_id)
            assert [part.view for part in parts] == list(VIEWS.get(record.path, [""]))
            assert row_id in [part.row_id for part in parts] and {part.path for part in parts} == {record.path}
