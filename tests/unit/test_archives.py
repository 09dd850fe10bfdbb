"""Pictures in tars, Parquet and Arrow: the same vectors as of files, and every promise that files have."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import io
import json
import lzma
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import xxhash
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import clipsearch
from clipsearch.archives import file_of, is_archive_name, open_archive
from clipsearch.archives.said import said_in, with_said
from clipsearch.archives.tars import read_part
from clipsearch.cli.taking import copy_hits, file_of_hit
from clipsearch.config import find_index, index_dir_for
from clipsearch.errors import (
    ClipsearchError,
    IndexNotFound,
    NoPictures,
    OtherCollection,
    StorageError,
    UnreadablePicture,
)
from clipsearch.indexer.build import IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.compact import compact
from clipsearch.indexer.plan import plan_index
from clipsearch.indexer.repair import repair
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.indexer.watch import _Interest
from clipsearch.records import FloatArray, PictureMetadata
from clipsearch.search.collection import Collection
from clipsearch.search.dedupe import find_duplicates
from tests.support.archives import dataset_table, jpeg, table, write_arrow, write_parquet, write_tar
from tests.support.cases import thinned
from tests.support.collections import serving
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill

EXAMPLES = max(3, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 100)


def run(source: Path, encoder: FakeEncoder, **options: Any) -> IndexReport:
    report = index_folder(source, encoder, options=IndexOptions(**{"workers": 1, "archives": True, **options}))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    assert checked.pictures == report.pictures
    return report


def vectors_by_content(index: Path, encoder: FakeEncoder) -> dict[str, FloatArray]:
    with Collection(index, encoder=encoder) as photos:
        ids = photos.row_ids()
        found = photos.vectors(ids)
        return {str(photos.record(int(i)).content_hash): v for i, v in zip(ids, found, strict=True)}


def places(index: Path, encoder: FakeEncoder) -> set[str]:
    with Collection(index, encoder=encoder) as photos:
        return {photos.record(int(row_id)).place for row_id in photos.row_ids()}


def written(kind: str, folder: Path, contents: list[bytes]) -> Path:
    """The same pictures as a source of a kind."""
    folder.mkdir()
    if kind == "files":
        for number, content in enumerate(contents):
            (folder / f"{number}.jpg").write_bytes(content)
        return folder
    if kind == "list":
        written("files", folder / "elsewhere", contents)
        (folder / "paths.txt").write_text("".join(f"elsewhere/{n}.jpg\n" for n in range(len(contents))))
        return folder / "paths.txt"
    if kind == "tar":
        return write_tar(folder / "x.tar", {f"a/{n}.jpg": content for n, content in enumerate(contents)})
    if kind == "parquet":
        return write_parquet(folder / "x.parquet", table(contents))
    made = dataset_table(contents, [0] * len(contents), ["a"])
    return write_arrow(folder / "x.arrow", made, stream=kind == "stream")


KINDS = ("tar", "parquet", "arrow", "stream", "list")


@pytest.mark.slow
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(8, 300), st.integers(8, 300)), min_size=3, max_size=20), seed=st.integers(0)
)
def test_every_source_gives_the_vectors_that_files_give(
    tmp_path_factory: pytest.TempPathFactory, encoder: FakeEncoder, sizes: list[tuple[int, int]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("sources")
    contents = [jpeg(seed % 10_000 + number, size) for number, size in enumerate(sizes)]
    wanted = vectors_by_content(run(written("files", folder / "files", contents), encoder).index, encoder)
    assert len(wanted) == len(contents)
    for kind in KINDS:
        report = run(written(kind, folder / kind, contents), encoder)
        assert (report.encoded, report.pictures, report.skipped) == (len(contents), len(contents), [])
        found = vectors_by_content(report.index, encoder)
        assert found.keys() == wanted.keys()
        for content, vector in found.items():
            assert np.abs(vector - wanted[content]).max() <= 1e-6


@pytest.mark.many
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_found_can_be_opened_and_searched_for(kind: str, tmp_path: Path, encoder: FakeEncoder) -> None:
    contents = [jpeg(number) for number in range(4)]
    source = written(kind, tmp_path / "s", contents)
    report = run(source, encoder)
    assert find_index(source) == report.index
    with Collection(find_index(source), encoder=encoder) as photos:
        hits = photos.search("", k=10)
        assert len(hits) == 4
        for hit in hits:
            assert Path(photos.file_of(hit)).read_bytes() in contents
            assert Path(photos.file_of(hit)).suffix == ".jpg"
            assert Image.open(io.BytesIO(photos.thumbnail(hit))).size == (48, 36)
            again = photos.search(f"like:{hit.record.row_id}", k=1, all=True)
            assert again[0].record.row_id == hit.record.row_id
            part = photos.search(f"like:{hit.record.row_id}#xywh=0,0,20,20", k=1, all=True)
            assert len(part) == 1
            assert "data:image/jpeg" in photos.search(f"like:{hit.record.row_id}", k=1, all=True)._repr_html_()
            if kind == "tar":
                assert photos.similar(hit.where, 3)[0].record.row_id != hit.record.row_id
                assert hit.to_dict()["where"] == f"{source}/{hit.record.member}"


def test_captions_and_columns_are_searched(tmp_path: Path, encoder: FakeEncoder) -> None:
    write_tar(
        tmp_path / "w.tar",
        {
            "00.jpg": jpeg(0),
            "00.txt": "a harbour at dusk\nboats",
            "00.json": {"license": "cc-by", "id": 17, "tags": ["sea", "evening"], "title": "Harbour", "x": None},
            "01.json": {"license": "cc-by-sa", "id": 170, "caption": "a dog"},
            "01.jpg": jpeg(1),
            "02.jpg": jpeg(2),
            "02.cls": "3",
        },
    )
    columns: dict[str, list[Any]] = {"text": [["a red barn", None, "hay"], None], "id": [17, 18], "score": [0.5, 1.0]}
    write_parquet(tmp_path / "t.parquet", table([jpeg(3), jpeg(4)], columns))
    write_arrow(tmp_path / "d.arrow", dataset_table([jpeg(5)], [1], ["cat", "dog"]), stream=True)
    report = run(tmp_path, encoder)
    with Collection(report.index, encoder=encoder) as photos:

        def found(query: str) -> set[str]:
            return {hit.record.place for hit in photos.search(query, k=99)}

        assert found("caption:harbour") == {"w.tar/00.jpg"}
        assert found("caption:boats keyword:sea") == {"w.tar/00.jpg"}
        assert found("caption:barn") == found("caption:hay") == {"t.parquet/0.jpg"}
        assert found("column:license=cc-by") == {"w.tar/00.jpg", "w.tar/01.jpg"}
        assert found("column:license=cc-by*a") == {"w.tar/01.jpg"}
        assert found("column:ID=17") == {"w.tar/00.jpg", "t.parquet/0.jpg"}
        assert found("column:17") == {"w.tar/00.jpg", "w.tar/01.jpg", "t.parquet/0.jpg"}
        assert found("column:cls=3") == {"w.tar/02.jpg"}
        assert found("column:score=0.5") == {"t.parquet/0.jpg"}
        assert found("column:label=dog") == {"d.arrow/0/p0.jpg"}
        assert found("folder:w.tar -column:cls=3") == {"w.tar/00.jpg", "w.tar/01.jpg"}
        assert found("name:p0.jpg ext:jpg") == {"d.arrow/0/p0.jpg"}
        (hit,) = photos.search("caption:harbour")
        told = hit.to_dict()
        assert told["columns"] == ["license=cc-by", "id=17"]
        assert (told["title"], told["keywords"]) == ("Harbour", ["sea", "evening"])
        assert (told["caption"], told["member"]) == ("a harbour at dusk\nboats", "00.jpg")


@pytest.mark.slow
def test_an_archive_in_a_folder_is_read_only_if_asked_for(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 2)
    write_tar(photos / "x.tar", {"a.jpg": jpeg(100)})
    report = run(photos, encoder, archives=None)
    assert (report.pictures, report.other_files) == (2, {".tar files": 1})
    assert run(photos, encoder).pictures == 3
    assert run(photos, encoder, archives=None).pictures == 3  # as before
    report = run(photos, encoder, archives=False)
    assert (report.pictures, report.missing, report.withdrawn) == (2, 1, 1)
    assert report.left_out == {"tars and tables: see --archives": 1}
    report = run(photos, encoder, archives=None)
    assert (report.pictures, report.missing) == (2, 1)
    report = run(photos, encoder)
    assert (report.pictures, report.encoded, report.returned) == (3, 0, 1)
    with pytest.raises(NoPictures, match="--archives"):
        (photos.parent / "only").mkdir()
        shutil.copy(photos / "x.tar", photos.parent / "only")
        run(photos.parent / "only", encoder, archives=None)


def test_a_changed_archive_is_read_again_and_only_what_is_new_is_encoded(photos: Path, encoder: FakeEncoder) -> None:
    members = {f"{n}.jpg": jpeg(n) for n in range(6)}
    write_tar(photos / "x.tar", members)
    assert run(photos, encoder).encoded == 6
    assert run(photos, encoder).unchanged == 6
    os.utime(photos / "x.tar", ns=(1, 1))
    report = run(photos, encoder)
    assert (report.encoded, report.touched, report.pictures) == (0, 6, 6)
    del members["0.jpg"]
    members |= {"1.jpg": jpeg(101), "new.jpg": jpeg(7)}
    write_tar(photos / "x.tar", members)
    report = run(photos, encoder)
    assert (report.encoded, report.removed, report.pictures) == (2, 1, 6)
    assert places(report.index, encoder) == {f"x.tar/{name}" for name in members}
    assert run(photos, encoder).generation == report.generation


def test_an_archive_that_is_gone_is_missing_and_one_that_is_back_is_not_read(
    photos: Path, encoder: FakeEncoder
) -> None:
    fill(photos, 30)
    write_tar(photos / "x.tar", {f"{n}.jpg": jpeg(100 + n) for n in range(2)})
    run(photos, encoder)
    (photos / "x.tar").rename(photos.parent / "x.tar")
    report = run(photos, encoder)
    assert (report.missing, report.removed, report.pictures) == (2, 0, 30)
    (photos.parent / "x.tar").rename(photos / "x.tar")
    report = run(photos, encoder)
    assert (report.returned, report.encoded, report.missing, report.pictures) == (2, 0, 0, 32)
    (photos / "x.tar").rename(photos / "y.tar")
    report = run(photos, encoder)
    assert (report.renamed, report.encoded, report.pictures) == (1, 0, 32)
    assert {"y.tar/0.jpg", "y.tar/1.jpg"} < places(report.index, encoder)
    now_ns = (photos / "y.tar").stat().st_mtime_ns
    os.utime(photos / "y.tar", ns=(now_ns, now_ns // 10**9 * 10**9))  # as a copy of it has
    report = run(photos, encoder)
    assert (report.touched, report.encoded, report.unchanged) == (1, 0, 30)
    (photos / "y.tar").unlink()
    report = run(photos, encoder, prune=True)
    assert (report.forgotten, report.missing, report.pictures) == (2, 0, 30)


@pytest.mark.parametrize("replaced", ["by nothing", "by others"])
def test_what_vanishes_in_bulk_from_an_archive_is_missing(replaced: str, photos: Path, encoder: FakeEncoder) -> None:
    members = {f"{n}.jpg": jpeg(n) for n in range(6)}
    others = {"other.jpg": jpeg(50)} if replaced == "by others" else {}
    write_tar(photos / "x.tar", members)
    fill(photos, 20, first=100)
    run(photos, encoder)
    shutil.copy2(photos / "x.tar", photos.parent / "kept.tar")
    write_tar(photos / "x.tar", others)
    for encoded in (len(others), 0, 0):
        report = run(photos, encoder)
        assert (report.missing, report.removed, report.encoded) == (6, 0, encoded)
        assert report.pictures == 20 + len(others)
        assert not {f"x.tar/{name}" for name in members} & places(report.index, encoder)
    write_tar(photos / "x.tar", dict(reversed(members.items())))  # which has another time
    report = run(photos, encoder)
    assert (report.missing, report.encoded, report.pictures) == (0, 0, 26)
    write_tar(photos / "x.tar", others)
    assert run(photos, encoder).missing == 6
    shutil.copy2(photos.parent / "kept.tar", photos / "x.tar")
    report = run(photos, encoder)
    assert (report.missing, report.encoded, report.pictures) == (0, 0, 26)
    write_tar(photos / "x.tar", others)
    assert run(photos, encoder).missing == 6
    assert run(photos, encoder, reindex=True).missing == 6
    report = run(photos, encoder, prune=True)
    assert (report.forgotten, report.missing, report.pictures) == (6, 0, 20 + len(others))


def test_renaming_all_pictures_in_an_archive_leaves_none_missing(photos: Path, encoder: FakeEncoder) -> None:
    write_tar(photos / "x.tar", {f"{n}.jpg": jpeg(n) for n in range(6)})
    run(photos, encoder)
    write_tar(photos / "x.tar", {f"a/{n}.jpg": jpeg(n) for n in range(6)})
    report = run(photos, encoder)
    assert (report.missing, report.encoded, report.pictures) == (0, 0, 6)


@pytest.mark.few(each="kind dies")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("kind", ["tar", "parquet", "stream"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_source_that_stops_half_way_resumes(kind: str, dies: bool, tmp_path: Path, encoder: FakeEncoder) -> None:
    contents = [jpeg(number) for number in range(40)]
    source = written(kind, tmp_path / "s", contents)
    runs = 0
    while True:
        runs += 1
        stop = threading.Event()

        def watch(progress: Progress, stop: threading.Event = stop, before: int = encoder.images_encoded) -> None:
            if encoder.images_encoded >= before + 12:
                stop.set()
                if dies:  # as if it were killed: nothing more is committed
                    raise KeyboardInterrupt

        options = IndexOptions(workers=1, commit_rows=4, batch_pictures=4)
        try:
            report = index_folder(source, encoder, options=options, progress=watch, stop=stop)
        except KeyboardInterrupt:
            continue
        finally:
            assert verify(find_index(source)).ok
        if not report.interrupted:
            break
    assert runs > 2
    assert report.pictures == 40
    assert encoder.images_encoded <= 40 + 8 * dies * runs  # nothing twice, but for what a kill takes
    assert run(source, encoder).unchanged == 40


CONTENTS = [jpeg(number) for number in range(6)] + [b"no picture"]
Members = dict[str, int]


@pytest.mark.slow
@settings(max_examples=2 * EXAMPLES)
@example([{"a": 0, "b": 0, "c": 0}, {}, {"a": 0}, {"a": 6, "b": 6, "c": 6}], "x.tar", False)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, len(CONTENTS) - 1)), min_size=2, max_size=5),
    st.sampled_from(["x.tar", "x.parquet"]),
    st.booleans(),
)
def test_whatever_becomes_of_an_archive_the_index_says_what_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, states: list[Members], name: str, is_alone: bool
) -> None:
    folder, encoder = tmp_path_factory.mktemp("a"), FakeEncoder()
    if not is_alone:
        fill(folder, 3, first=70)
    source = folder / name
    for number, members in enumerate(states):
        contents = {f"{key}.jpg": CONTENTS[which] for key, which in members.items()}
        if name.endswith(".tar"):
            write_tar(source, contents)
        else:
            write_parquet(source, table(list(contents.values())), 2)
        os.utime(source, ns=(number * 10**9 + 1, number * 10**9 + 1))
        report = run(folder, encoder, commit_rows=2, batch_pictures=2)
        if any("cannot be read now" in warning for warning in report.warnings):
            return  # so many at once that the index keeps what it had: see test_missing
        found = [
            (record.place.removeprefix(name), record.content_hash)
            for record in collection_records(report.index, encoder)
            if record.member
        ]
        wanted = sorted(xxhash.xxh3_128_hexdigest(c) for c in contents.values() if c != CONTENTS[-1])
        assert sorted(str(content) for _, content in found) == wanted
        if name.endswith(".tar"):
            assert {place for place, _ in found} == {f"/{n}" for n, c in contents.items() if c != CONTENTS[-1]}


@pytest.mark.slow
def test_a_damaged_archive_says_so_and_loses_nothing(photos: Path, encoder: FakeEncoder) -> None:
    members = {f"{n}.jpg": jpeg(n) for n in range(6)}
    whole = write_tar(photos / "x.tar", members).read_bytes()
    (photos / "x.tar").write_bytes(whole[: len(whole) // 3])
    report = run(photos, encoder)
    first = report.pictures
    assert 0 < first < 6
    assert [(skip.path, skip.status) for skip in report.skipped] == [("x.tar", "truncated")]
    assert run(photos, encoder).unchanged == first
    (photos / "x.tar").write_bytes(whole)
    report = run(photos, encoder)
    assert (report.pictures, report.skipped, report.encoded) == (6, [], 6 - first)
    (photos / "x.tar").write_bytes(whole[: len(whole) // 3])
    report = run(photos, encoder)
    assert (report.pictures, report.kept, report.removed) == (6, 6 - first, 0)
    (photos / "x.tar").write_bytes(b"")
    report = run(photos, encoder)
    assert (report.pictures, report.kept) == (6, 6)
    (photos / "x.tar").write_bytes(whole)
    report = run(photos, encoder)
    assert (report.pictures, report.skipped, report.encoded) == (6, [], 0)
    shutil.copy(photos / "x.tar", photos / "y.parquet")
    report = run(photos, encoder)
    assert [skip.path for skip in report.skipped] == ["y.parquet"]
    assert "Parquet" in report.skipped[0].reason


def test_a_table_that_is_damaged_in_the_middle_is_told_once(photos: Path, encoder: FakeEncoder) -> None:
    path = write_parquet(photos / "x.parquet", table([jpeg(n) for n in range(12)]), 3)
    first = pq.ParquetFile(path).metadata.row_group(2).column(0)
    content = bytearray(path.read_bytes())
    at = first.dictionary_page_offset or first.data_page_offset
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    for encoded in (6, 0, 0):
        report = run(photos, encoder)
        assert (report.encoded, report.pictures) == (encoded, 6)
        assert [(skip.path, skip.status) for skip in report.skipped] == [("x.parquet", "truncated")]


def test_pictures_that_cannot_be_read_are_rows_with_a_reason(photos: Path, encoder: FakeEncoder) -> None:
    contents = [jpeg(0), b"no picture", None, jpeg(1)[:200], jpeg(2)]
    write_parquet(photos / "t.parquet", table(contents))
    write_parquet(photos / "u.parquet", table([], {"a": []}).drop(["jpg"]))
    report = run(photos, encoder)
    assert report.pictures == 2
    assert {skip.path: skip.status for skip in report.skipped} == {
        "t.parquet/1": "not_a_picture",
        "t.parquet/2": "empty",
        "t.parquet/3.jpg": "truncated",
        "u.parquet": "not_a_picture",
    }
    again = run(photos, encoder)
    assert (again.unchanged, again.generation) == (2, report.generation)
    assert sorted(skip.path for skip in again.skipped) == sorted(skip.path for skip in report.skipped)
    assert len(read_status(report.index).skipped) == 4
    assert run(photos, encoder, retry_skipped=True).pictures == 2


@pytest.mark.slow
def test_reindex_compact_plan_and_repair(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 3)
    write_tar(photos / "x.tar", {f"{n}.jpg": jpeg(100 + n) for n in range(6)})
    plan = plan_index(photos, encoder, options=IndexOptions(workers=1, archives=True))
    assert (plan.to_read, plan.files) == (9, 4)
    report = run(photos, encoder, commit_rows=2, batch_pictures=2)
    compact(report.index)
    assert verify(report.index).ok
    wanted = places(report.index, encoder)
    plan = plan_index(photos, encoder)
    assert (plan.to_read, plan.unchanged) == (0, 9)
    report = run(photos, encoder, reindex=True)
    assert (report.encoded, report.pictures) == (9, 9)
    assert places(report.index, encoder) == wanted
    for file in (report.index / "manifests").iterdir():
        file.unlink()
    repair(report.index)
    assert run(photos, encoder, archives=None).pictures == 9
    assert places(report.index, encoder) == wanted


@pytest.mark.parametrize("beside", [0, 3])
def test_a_plan_says_how_long_archives_take(beside: int, photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, beside)
    for name in "ab":
        write_tar(photos / f"{name}.tar", {f"{n}.jpg": jpeg(50 + n) for n in range(60)})
    options = IndexOptions(workers=1, archives=True, batch_pictures=8)
    plan = plan_index(photos, encoder, options=options)
    assert (plan.to_read, plan.unopened) == (120 + beside, 0)
    assert plan.measured >= 96 and plan.seconds is not None and plan.seconds > 0


@pytest.mark.parametrize(("module", "name"), [(gzip, "gzip"), (bz2, "bzip2"), (lzma, "xz")])
def test_a_compressed_tar_says_what_to_do(module: Any, name: str, photos: Path, encoder: FakeEncoder) -> None:
    write_tar(photos / "x.tar", {"a.jpg": jpeg(0)})
    (photos / "x.tar").write_bytes(module.compress((photos / "x.tar").read_bytes()))
    (skip,) = run(photos, encoder).skipped
    why = f"it is compressed with {name}. Decompress it first"
    assert (skip.status, skip.reason) == ("corrupt", why)


def test_the_index_of_a_file_stays_that_of_the_file(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 2)
    source = write_tar(photos / "x.tar", {f"{n}.jpg": jpeg(100 + n) for n in range(3)})
    report = run(source, encoder, archives=None)
    assert report.index == photos / "x.tar.clipsearch"
    assert (report.pictures, report.root) == (3, photos)
    again = index_folder(photos, encoder, index=report.index, options=IndexOptions(workers=1))  # as the page does
    assert (again.pictures, again.unchanged) == (3, 3)
    assert run(photos, encoder, archives=None).pictures == 2  # the folder has an index of its own
    with pytest.raises(OtherCollection):
        index_folder(source, encoder, index=photos / ".clipsearch", options=IndexOptions(workers=1))
    shutil.move(photos, photos.parent / "moved")
    assert run(photos.parent / "moved" / "x.tar", encoder).unchanged == 3
    (photos.parent / "moved" / "x.tar").unlink()
    report = run(photos.parent / "moved" / "x.tar", encoder)
    assert (report.pictures, report.missing, report.removed) == (0, 3, 0)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\0"])
def test_lists_of_paths(ending: str, tmp_path: Path, encoder: FakeEncoder) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
    paths = fill(inside, 3) + fill(outside, 3, first=50)
    odd = outside / "so\n and so.jpg"
    odd.write_bytes(jpeg(99))
    if ending == "\0":
        paths.append(odd)
    write_tar(inside / "x.tar", {"a.jpg": jpeg(100)})
    names = [os.path.relpath(path, inside) if n % 2 else str(path) for n, path in enumerate(paths)]
    listed = inside / "paths.txt"
    listed.write_bytes(ending.join([*names, names[0], "gone.jpg", "x.tar", ""]).encode())
    report = run(listed, encoder, archives=None)
    assert report.pictures == len(paths) + 1
    assert [(skip.path, skip.status) for skip in report.skipped] == [("gone.jpg", "unreadable")]
    with Collection(report.index, encoder=encoder) as photos:
        found = {Path(hit.path) for hit in photos.search("", k=99)}
        assert found == {*paths, inside / "x.tar"}
        assert all(photos.thumbnail(hit) for hit in photos.search("", k=99))
    listed.write_bytes(ending.join(names[1:]).encode())  # what is not listed is not deleted
    report = run(listed, encoder, archives=None)
    assert (report.missing, report.encoded) == (2, 0)
    paths[1].unlink()
    report = run(listed, encoder, archives=None)
    assert report.pictures == len(paths) - 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_list_in_utf_16_is_read(encoding: str, tmp_path: Path, encoder: FakeEncoder) -> None:
    names = [path.relative_to(tmp_path).as_posix() for path in fill(tmp_path, 2)]
    (tmp_path / "größe.jpg").write_bytes(jpeg(9))
    text = "\r\n".join([*names, "größe.jpg", ""])
    mark = "" if encoding == "utf-16" else "\ufeff"
    listed = tmp_path / "paths.txt"
    listed.write_bytes((mark + text).encode(encoding))
    assert (report := run(listed, encoder)).pictures == 3
    assert places(report.index, encoder) == {*names, "größe.jpg"}


def test_of_an_archive_that_is_gone_its_index_is_named(tmp_path: Path, encoder: FakeEncoder) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": jpeg(0)})
    run(tar, encoder)
    tar.unlink()
    with pytest.raises(StorageError, match=r"the archive does not exist\. Check its name"):
        run(tmp_path / "y.tar", encoder)
    (tmp_path / "y").mkdir()  # where a drive was
    other = index_folder(write_tar(tmp_path / "y" / "y.tar", {"a.jpg": jpeg(0)}), encoder, index=tmp_path / "i").index
    (tmp_path / "y" / "y.tar").unlink()
    with pytest.raises(StorageError, match="the archive no longer exists") as error:
        index_folder(tmp_path / "y" / "y.tar", encoder, index=tmp_path / "i")
    assert f"its index in {other} stays" in str(error.value)
    with Collection(other, encoder=encoder) as photos:
        assert len(photos) == 1


@pytest.mark.parametrize(("ending", "elsewhere"), [("tar", False), ("parquet", False), ("tar", True)])
def test_an_archive_that_is_named_again_and_gone_is_missing(
    ending: str, elsewhere: bool, tmp_path: Path, encoder: FakeEncoder
) -> None:
    source = written(ending, tmp_path / "x", [jpeg(n) for n in range(4)])
    (tmp_path / "x" / "notes.txt").write_text("an empty folder may be a drive that is away")
    place = tmp_path / "i" if elsewhere else None

    def run(source: Path, encoder: FakeEncoder) -> IndexReport:
        return clipsearch.index(source, encoder=encoder, index=place, options=IndexOptions(workers=1))

    index = run(source, encoder).index
    source.rename(tmp_path / "away")
    plan = plan_index(source, encoder, index=place, options=IndexOptions(workers=1))
    assert (plan.missing, plan.deleted) == (4, 0)
    for _ in range(2):
        report = run(source, encoder)
        assert (report.missing, report.removed, report.forgotten, report.pictures) == (4, 0, 0, 0)
        told = f"{source} no longer exists. Its pictures are marked as missing; nothing was deleted. "
        assert report.warnings == [f"{told}To undo this, bring it back and run the same command again"]
    with Collection(index, encoder=encoder) as photos:
        assert not photos.search("", k=9)
    (tmp_path / "away").rename(source)
    report = run(source, encoder)
    assert (report.returned, report.encoded, report.missing, report.pictures, report.warnings) == (4, 0, 0, 4, [])


def test_names_that_are_too_long_are_cut_in_copies(tmp_path: Path, encoder: FakeEncoder) -> None:
    names = ["é" * 140 + "1.jpg", "é" * 140 + "2.jpg", "short.jpg"]
    tar = write_tar(tmp_path / "x.tar", {name: jpeg(n) for n, name in enumerate(names)})
    with Collection(run(tar, encoder).index, encoder=encoder) as photos:
        hits = photos.search("", k=9)
    for _ in range(2):
        copy_hits(hits, tmp_path / "out")
        copied = list((tmp_path / "out").iterdir())
        assert {path.read_bytes() for path in copied} == {jpeg(n) for n in range(3)}
        assert len(copied) == 3
        assert all(path.suffix == ".jpg" for path in copied)


def test_files_that_are_no_sources(tmp_path: Path, encoder: FakeEncoder) -> None:
    for name, content, problem in (
        ("a.jpg", jpeg(0), "a picture"),
        ("notes.txt", b"buy milk\n", "neither"),
        ("empty.txt", b"", "neither"),
        ("x.tar.gz", b"\x1f\x8b", "compressed"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StorageError, match=problem):
            run(tmp_path / name, encoder)
    assert not list(tmp_path.glob("*.clipsearch"))


def write_state(folder: Path, name: str = "data-00000-of-00001.arrow") -> None:
    """What `datasets` writes beside its Arrow files."""
    state = {"_data_files": [{"filename": name}], "_fingerprint": "9c1", "_format_type": None, "_split": None}
    (folder / "state.json").write_text(json.dumps(state))


def test_of_a_data_set_only_its_own_files_are_read(tmp_path: Path, encoder: FakeEncoder) -> None:
    name = "data-00000-of-00001.arrow"
    write_arrow(tmp_path / name, dataset_table([jpeg(n) for n in range(3)], [0] * 3, ["a"]), stream=True)
    write_tar(tmp_path / "backup.tar", {"secret.jpg": jpeg(9)})
    fill(tmp_path, 1, first=50)
    for text in (
        '{"last_sync": 5}',
        "[]",
        "no JSON",
        '{"_data_files": [{"filename": "no.arrow"}], "_fingerprint": "1"}',
    ):
        (tmp_path / "state.json").write_text(text)
        report = run(tmp_path, encoder, archives=None)
        assert (report.pictures, report.left_out) == (1, {})
    shutil.rmtree(report.index)
    write_state(tmp_path)
    for _ in range(2):
        report = run(tmp_path, encoder, archives=None)
        assert report.pictures == 4
        assert report.left_out == {"tars and tables: see --archives": 1}
    (tmp_path / "state.json").unlink()
    report = run(tmp_path, encoder, archives=None)
    assert (report.pictures, report.removed, report.missing) == (1, 0, 3)
    write_state(tmp_path)
    report = run(tmp_path, encoder, archives=None)
    assert (report.pictures, report.encoded) == (4, 0)


def test_data_sets_of_hugging_face(tmp_path: Path, encoder: FakeEncoder) -> None:
    for split, first in (("train", 0), ("test", 10)):
        (tmp_path / split).mkdir()
        made = dataset_table([jpeg(first + n) for n in range(6)], [0, 1] * 3, ["cat", "dog"])
        write_arrow(tmp_path / split / "data-00000-of-00001.arrow", made, stream=True)
        write_state(tmp_path / split)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    report = run(tmp_path, encoder, archives=None)
    assert report.pictures == 12
    with Collection(report.index, encoder=encoder) as photos:
        assert len(photos.search("folder:train column:label=dog", k=99)) == 3


@pytest.mark.parametrize("names", [("a.jpg", "a.jpg"), ("é\udce9.jpg", "é\udcff.jpg"), ("../a.jpg", "/b\n.jpg")])
def test_members_of_odd_names_are_two_pictures(tmp_path: Path, encoder: FakeEncoder, names: tuple[str, str]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in zip(names, (jpeg(0), jpeg(1)), strict=True):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    report = run(tmp_path, encoder)
    assert report.pictures == 2
    with Collection(report.index, encoder=encoder) as photos:
        contents = {Path(photos.file_of(hit)).read_bytes() for hit in photos.search("", k=9)}
        assert contents == {jpeg(0), jpeg(1)}
    assert run(tmp_path, encoder).generation == report.generation


def test_captions_belong_to_names_that_are_not_utf_8(tmp_path: Path, encoder: FakeEncoder) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", encoding="utf-8", errors="surrogateescape") as archive:
        for number, letter in enumerate("\udce9\udce8\udcea"):
            for ending, content in (("jpg", jpeg(number)), ("txt", f"caption {number}".encode())):
                info = tarfile.TarInfo(f"caf{letter}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with Collection(run(tmp_path, encoder).index, encoder=encoder) as photos:
        said = {Path(photos.file_of(hit)).read_bytes(): hit.record.metadata.caption for hit in photos.search("", k=9)}
    assert said == {jpeg(number): f"caption {number}" for number in range(3)}


def test_hard_links_in_a_tar_are_the_pictures_that_they_link_to(tmp_path: Path, encoder: FakeEncoder) -> None:
    folder = tmp_path / "in"
    (folder / ".hidden").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", ".hidden/h.jpg")):
        (folder / name).write_bytes(jpeg(number))
    (folder / "a.txt").write_text("a red boat")
    for link, name in (("b.jpg", "a.jpg"), ("b.txt", "a.txt"), ("c.jpg", "b.jpg"), ("d.jpg", ".hidden/h.jpg")):
        os.link(folder / name, folder / link)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in (".hidden/h.jpg", "a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg", "d.jpg"):
            archive.add(folder / name, name)
        for name, to in (("e.jpg", "away.jpg"), ("f.jpg", str(folder / "a.jpg")), ("g.jpg", "g.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, to
            archive.addfile(info)
        assert sum(member.islnk() for member in archive) == 7
    report = run(tmp_path / "x.tar", encoder)
    with Collection(report.index, encoder=encoder) as photos:
        found = {
            hit.record.member: (Path(photos.file_of(hit)).read_bytes(), hit.record.metadata.caption)
            for hit in photos.search("", k=9)
        }
    boat = (jpeg(0), "a red boat")
    assert found == {"a.jpg": boat, "b.jpg": boat, "c.jpg": (jpeg(0), None), "d.jpg": (jpeg(1), None)}
    assert run(tmp_path / "x.tar", encoder).generation == report.generation


@pytest.mark.slow
def test_an_archive_with_many_pictures_is_compared_in_one_pass(
    tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "x.tar", {f"{number}.jpg": jpeg(number % 3) for number in range(300)})
    report = run(tmp_path / "x.tar", encoder)
    looked: Counter[str] = Counter()
    for name in ("same_path", "with_content", "record"):
        method = getattr(Catalog, name)

        def counted(self: Catalog, *asked: Any, name: str = name, method: Any = method) -> Any:
            looked[name] += 1
            return method(self, *asked)

        monkeypatch.setattr(Catalog, name, counted)
    assert run(tmp_path / "x.tar", encoder).generation == report.generation
    assert looked["same_path"] + looked["record"] < 30
    os.utime(tmp_path / "x.tar", ns=(1, 1))
    again = run(tmp_path / "x.tar", encoder)
    assert (again.encoded, again.touched, again.pictures) == (0, 300, 300)
    assert looked["with_content"] < 30
    assert looked["record"] < 10 * 300


def test_a_copy_of_a_picture_says_what_its_own_archive_says(photos: Path, encoder: FakeEncoder) -> None:
    (photos / "plain.jpg").write_bytes(jpeg(0))
    write_tar(photos / "a.tar", {"x.jpg": jpeg(0), "x.txt": "one thing"})
    write_tar(photos / "b.tar", {"x.jpg": jpeg(0), "x.txt": "another"})
    report = run(photos, encoder)
    assert (report.encoded, report.pictures) == (1, 3)
    write_tar(photos / "c.tar", {"x.jpg": jpeg(0), "x.json": {"a": "b"}})
    (photos / "again.jpg").write_bytes(jpeg(0))
    assert run(photos, encoder).encoded == 0
    with Collection(report.index, encoder=encoder) as collection:
        said = {hit.record.place: hit.record.metadata for hit in collection.search("", k=9)}
    assert {place: about.caption for place, about in said.items()} == {
        "plain.jpg": None, "again.jpg": None, "a.tar/x.jpg": "one thing", "b.tar/x.jpg": "another", "c.tar/x.jpg": None,
    }  # fmt: skip
    assert said["c.tar/x.jpg"].columns == ("a=b",)


def test_nothing_in_an_archive_is_called_a_duplicate_to_delete(photos: Path, encoder: FakeEncoder) -> None:
    content = jpeg(0)
    (photos / "plain.jpg").write_bytes(content)
    write_tar(photos / "a.tar", {"x.jpg": content, "y.jpg": content})
    report = run(photos, encoder)
    with Collection(report.index, encoder=encoder) as collection:
        assert find_duplicates(collection) == []


def test_a_changed_archive_does_not_show_another_picture(photos: Path, encoder: FakeEncoder) -> None:
    write_tar(photos / "x.tar", {"a.jpg": jpeg(0), "b.jpg": jpeg(1)})
    write_parquet(photos / "x.parquet", table([jpeg(2), jpeg(3)]))
    report = run(photos, encoder)
    write_tar(photos / "x.tar", {"b.jpg": jpeg(4), "a.jpg": jpeg(5)})
    write_parquet(photos / "x.parquet", table([jpeg(6)]))
    with Collection(report.index, encoder=encoder) as collection:
        for hit in collection.search("", k=9):
            with pytest.raises(UnreadablePicture):
                collection.file_of(hit)
            with pytest.raises(ClipsearchError):
                collection.thumbnail(hit)
    (photos / "x.tar").unlink()
    with pytest.raises(UnreadablePicture):
        file_of(str(photos / "x.tar"), next(iter(collection_records(report.index, encoder))))


def collection_records(index: Path, encoder: FakeEncoder) -> list[Any]:
    with Collection(index, encoder=encoder) as photos:
        return [photos.record(int(row_id)) for row_id in photos.row_ids()]


def test_columns_of_every_kind_are_values_or_are_named(tmp_path: Path, encoder: FakeEncoder) -> None:
    day = dt.date(2024, 2, 29)
    pair = pa.StructArray.from_arrays([pa.array([Decimal("1.50"), None])], names=["cost"])
    kept = {
        "price": pa.array([Decimal("12.50"), Decimal("-3.00")], pa.decimal128(9, 2)),
        "wide": pa.array([Decimal("1E+20"), None], pa.decimal256(50, 2)),
        "took": pa.array([5_400_000_000_000, 1_500_000_000], pa.duration("ns")),
        "at": pa.array([dt.time(23, 59, 58), None], pa.time64("us")),
        "day": pa.array([day, None], pa.date32()),
        "when": pa.array([dt.datetime(2024, 2, 29, 1, 2, 3), None], pa.timestamp("s")),
        "map": pa.array([[("a", 1), ("b", 2)], None], pa.map_(pa.string(), pa.int8())),
        "by day": pa.array([[(day, Decimal("0.10"))], []], pa.map_(pa.date32(), pa.decimal128(5, 2))),
        "nested": pa.array([[[1, 2], [3]], []], pa.list_(pa.list_(pa.int8()))),
        "box": pa.array([[1, 2, 3, 4], None], pa.list_(pa.int16(), 4)),
        "of": pair,
        "part": pa.array([{"raw": b"x", "says": "a", "none": None}, None]),
        "kind": pa.array(["cat", None]).dictionary_encode(),
        "keywords": pa.array([[1, 2], None], pa.list_(pa.int8())),
    }
    left = {
        "mask": pa.array([b"\0", b"\1"], pa.binary()),
        "depth": pa.array([{"bytes": b"x", "path": "d.png"}] * 2),
        "id": pa.array([b"0123456789abcdef"] * 2, pa.binary(16)),
        "vector": pa.array([[0.5] * 32] * 2, pa.list_(pa.float32(), 32)),
        "nothing": pa.nulls(2),
    }
    made = pa.table({"jpg": pa.array([jpeg(0), jpeg(1)], pa.binary()), **kept, **left})
    write_parquet(tmp_path / "t.parquet", made)
    report = run(tmp_path / "t.parquet", encoder)
    told = "4 columns beside the pictures are not kept: they hold neither text, numbers nor times. "
    assert report.warnings == [f"{told}mask (bytes), depth (bytes), id (bytes), vector (vectors)"]
    first, second = (
        record.metadata for record in sorted(collection_records(report.index, encoder), key=attrgetter("offset"))
    )
    assert first.columns == (
        "price=12.5", "wide=100000000000000000000", "took=5400", "at=23:59:58", "day=2024-02-29",
        "when=2024-02-29T01:02:03", 'map={"a": 1, "b": 2}', 'by day={"2024-02-29": "0.1"}', "nested=[1, 2]",
        "nested=[3]", "box=1", "box=2", "box=3", "box=4", 'of={"cost": "1.5"}',
        'part={"raw": null, "says": "a", "none": null}', "kind=cat",
    )  # fmt: skip
    assert first.keywords == ("1", "2")
    assert second.columns == ("price=-3", "took=1.5", "by day={}", 'of={"cost": null}')
    assert run(tmp_path / "t.parquet", encoder).warnings == []  # once


texts = st.text(max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=20 * EXAMPLES)
@given(st.dictionaries(texts | st.sampled_from(["title", "caption", "tags", "text"]), values, max_size=8))
def test_whatever_stands_beside_a_picture_becomes_clean_text(columns: dict[str, Any]) -> None:
    said = said_in(columns)
    assert isinstance(with_said(PictureMetadata(), said), PictureMetadata)
    for text in (said.title or "", *(said.caption or "").splitlines(), *said.keywords, *said.columns):
        assert "\0" not in text
        assert text.isprintable()
        text.encode("utf-8")
    assert all(column.partition("=")[1] for column in said.columns)
    assert said_in(columns) == said


@pytest.mark.many
@settings(max_examples=20 * EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 20_000), flips=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 255)), max_size=4))
@pytest.mark.parametrize("kind", ["tar", "parquet", "arrow", "stream"])
def test_damage_is_told_and_never_raised(
    kind: str, tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    source = written(kind, tmp_path_factory.mktemp("d") / "s", [jpeg(n) for n in range(5)])
    content = bytearray(source.read_bytes()[:cut])
    for at, bits in flips:
        if at < len(content):
            content[at] ^= bits
    source.write_bytes(content)
    try:
        archive = open_archive(str(source))
        found = list(archive.members(lambda name: True))
    except (OSError, ValueError):
        return
    assert len(found) <= archive.rows or archive.damage
    for member in found:
        assert len(read_part(member.place, member.at, member.size_bytes)) == member.size_bytes


@pytest.mark.parametrize(
    ("name", "is_archive"),
    [("a.tar", True), ("A.TAR", True), ("a.parquet", True), ("a.arrow", True), (".a.tar", False), ("a.tar.gz", False),
     ("tar", False), ("a.jpg", False), ("parquet", False)],
)  # fmt: skip
def test_names_of_archives(name: str, is_archive: bool) -> None:
    assert is_archive_name(name) is is_archive


def test_hits_are_copied_out_of_archives(
    tmp_path: Path, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {jpeg(n) for n in range(4)}
    folder = tmp_path / "f"
    folder.mkdir()
    first, second, third, fourth = sorted(contents)
    write_tar(folder / "x.tar", {"a/0.jpg": first, "b/0.jpg": second})
    write_parquet(folder / "t.parquet", table([third]))
    (folder / "plain.jpg").write_bytes(fourth)
    report = run(folder, encoder)
    with Collection(report.index, encoder=encoder) as photos:
        hits = photos.search("", k=9)
    for _ in range(2):
        copy_hits(hits, tmp_path / "out" / "here")
        copied = list((tmp_path / "out" / "here").iterdir())
        assert {path.read_bytes() for path in copied} == contents
        assert len(copied) == 4
        assert all(path.suffix == ".jpg" for path in copied)
    (folder / "plain.jpg").unlink()
    with pytest.raises(typer.Exit):
        copy_hits(hits, tmp_path / "again")
    assert len(list((tmp_path / "again").iterdir())) == 3
    assert "plain.jpg" in capsys.readouterr().err
    names = [path.name for path in copied]
    for name in names:
        (tmp_path / "again" / name).write_bytes(b"mine")
    with pytest.raises(StorageError, match="another file"):
        copy_hits(hits, tmp_path / "again")
    assert all((tmp_path / "again" / name).read_bytes() == b"mine" for name in names)


def test_a_disk_that_is_full_leaves_no_cut_copies(tmp_path: Path, encoder: FakeEncoder) -> None:
    folder, out = tmp_path / "f", tmp_path / "out"
    folder.mkdir()
    (folder / "plain.jpg").write_bytes(jpeg(0))
    with Collection(run(folder, encoder).index, encoder=encoder) as photos:
        hits = photos.search("", k=9)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(jpeg(0)) // 2, limits[1]))
    try:
        with pytest.raises(StorageError):
            copy_hits(hits, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(out.iterdir()) == []
    copy_hits(hits, out)
    assert (out / "plain.jpg").read_bytes() == jpeg(0)


@pytest.mark.parametrize("is_there", [False, True])
def test_what_cannot_be_read_is_not_copied_and_the_rest_is(
    tmp_path: Path, encoder: FakeEncoder, is_there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "f", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    with Collection(run(folder, encoder).index, encoder=encoder) as photos:
        hits = photos.search("", k=9)
    (folder / "1.jpg").unlink()
    (folder / "1.jpg").mkdir()
    if is_there:
        (out / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(typer.Exit):
        copy_hits(hits, out)
    assert {path.name for path in out.iterdir()} == {"0.jpg", "2.jpg"} | ({"1.jpg"} if is_there else set())
    told = capsys.readouterr().err
    assert "1.jpg" in told and "2 pictures copied" in told


NAMES = ("a.html", "b.desktop", "c.sh", "d", "e.JPEG", "f.1", "g.php.jpg", "h.png", "i.svg", "j.jpg.exe", "k.tar")


@pytest.mark.slow
def test_copies_of_an_archive_have_the_ending_of_what_they_are(tmp_path: Path, encoder: FakeEncoder) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    column = [{"bytes": jpeg(number), "path": f"x/{name}"} for number, name in enumerate(NAMES)]
    write_parquet(folder / "t.parquet", pa.table({"image": column}))
    write_tar(folder / "x.tar", {"a.png": jpeg(50), "b.jfif": jpeg(51), "c.gif": jpeg(52)})
    with Collection(run(folder, encoder).index, encoder=encoder) as photos:
        hits = photos.search("", k=30)
        assert len(hits) == len(NAMES) + 3
        for hit in hits:
            assert Path(photos.file_of(hit)).suffix in (".jpg", ".jpeg", ".jfif"), hit.where
    copy_hits(hits, tmp_path / "out")
    copied = list((tmp_path / "out").iterdir())
    assert len(copied) == len(hits)
    assert {path.suffix.lower() for path in copied} == {".jpg", ".jpeg", ".jfif"}


@pytest.mark.parametrize("becomes", ["another", "a link", "a link that looks the same", "a link to the same"])
def test_only_what_was_indexed_is_copied(tmp_path: Path, encoder: FakeEncoder, becomes: str) -> None:
    folder, out, other = tmp_path / "f", tmp_path / "out", tmp_path / "other.jpg"
    folder.mkdir()
    fill(folder, 1, first=70)
    file = folder / "plain.jpg"
    file.write_bytes(jpeg(0))
    before = file.stat()
    with Collection(run(folder, encoder).index, encoder=encoder) as photos:
        hits = photos.search("", k=9)
    is_same = becomes == "a link to the same"
    other.write_bytes(jpeg(0) if is_same else jpeg(1))
    if "looks" in becomes:
        other.write_bytes(jpeg(0)[:-3] + bytes(3))
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    file.unlink()
    if "link" in becomes:
        file.symlink_to(other)
    else:
        other.rename(file)
    with suppress(typer.Exit):
        copy_hits(hits, out)
    assert len(list(out.iterdir())) == 1 + is_same
    (hit,) = (hit for hit in hits if hit.record.path == "plain.jpg")
    if is_same:
        assert (out / "plain.jpg").read_bytes() == jpeg(0)
    else:
        with pytest.raises(UnreadablePicture, match="has changed"):
            file_of_hit(hit)


@pytest.mark.slow
def test_the_page_shows_pictures_of_archives(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    write_tar(tmp_path / "x.tar", {"a.jpg": jpeg(0), "a.json": {"license": "cc"}})
    write_parquet(tmp_path / "t.parquet", table([jpeg(1)]))
    index = run(tmp_path, encoder).index
    contents = {"x.tar": jpeg(0), "t.parquet": jpeg(1)}
    with serving(index, encoder) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        hits = client.post("/v1/search", json={"query": "", "k": 9}).json()["hits"]
        assert {hit["name"] for hit in hits} == set(contents)
        for hit in hits:
            assert Image.open(io.BytesIO(client.get(hit["thumbnail"]).content)).size == (48, 36)
            address = f"/v1/images/{hit['row_id']}/original?content={hit['content_hash']}"
            whole = client.get(address)
            assert (whole.content, whole.headers["content-type"]) == (contents[hit["name"]], "image/jpeg")
            assert client.get(f"/v1/images/{hit['row_id']}/exposure?content={hit['content_hash']}").status_code == 200
        write_tar(tmp_path / "x.tar", {"a.jpg": jpeg(5)})
        (hit,) = (hit for hit in hits if hit["name"] == "x.tar")
        assert client.get(hit["thumbnail"]).status_code == 200  # kept, by its content
        with clipsearch.connect(url) as photos:
            (found,) = photos.search("column:license=cc", k=9)
            assert found.record.metadata.columns == ("license=cc",)
            assert (found.record.member, found.record.offset > 0) == ("a.jpg", True)
            assert photos.search(f"like:{found.record.row_id}", k=2, all=True)


def test_a_watched_folder_notices_its_archives(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 1)
    write_tar(photos / "x.tar", {"a.jpg": jpeg(100)})
    index = run(photos, encoder, archives=None).index
    interest = _Interest(str(photos), str(index), ())
    assert not interest.counts("modified", str(photos / "x.tar"))
    run(photos, encoder)
    interest = _Interest(str(photos), str(index), ())
    assert interest.counts("modified", str(photos / "x.tar"))
    assert not interest.counts("modified", str(photos / "x.txt"))


@pytest.mark.slow
def test_an_animation_that_is_known_is_known_in_an_archive(photos: Path, encoder: FakeEncoder) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "yellow")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=4000)
    (photos / "a.gif").write_bytes(buffer.getvalue())
    rows = run(photos, encoder).rows
    assert rows > 1
    write_tar(photos / "x.tar", {"a.gif": buffer.getvalue(), "b.jpg": jpeg(0), "c.gif": buffer.getvalue()})
    report = run(photos, encoder)
    assert (report.pictures, report.encoded) == (4, 1)
    assert run(photos, encoder).generation == report.generation
    shutil.copy(photos / "x.tar", photos / "y.tar")
    report = run(photos, encoder)
    assert (report.pictures, report.encoded) == (7, 0)
    write_tar(photos / "x.tar", {"a.gif": buffer.getvalue(), "b.jpg": jpeg(0)})
    os.utime(photos / "x.tar", ns=(1, 1))
    report = run(photos, encoder)
    assert (report.pictures, report.encoded, report.removed) == (6, 0, 1)
    with Collection(report.index, encoder=encoder) as collection:
        assert {hit.record.place for hit in collection.search("", k=99)} == {
            "a.gif", "x.tar/a.gif", "x.tar/b.jpg", "y.tar/a.gif", "y.tar/b.jpg", "y.tar/c.gif",
        }  # fmt: skip


def test_any_text_may_be_asked_for_an_index(tmp_path: Path) -> None:
    for place in (tmp_path / ("x" * 300), tmp_path / "none.tar", Path(), Path("..")):
        with suppress(IndexNotFound):
            find_index(place)
        assert index_dir_for(place).name == ".clipsearch"


def end_of(content: bytes) -> int:
    """Where the zeros begin that end a tar."""
    return -(-len(content.rstrip(b"\0")) // 512) * 512


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("kind", ["hole", "zeros at the end", "cut between members", "all zeros", "no column"])
def test_an_archive_that_lost_pictures_keeps_them_and_says_so(kind: str, photos: Path, encoder: FakeEncoder) -> None:
    name = "x.parquet" if kind == "no column" else "x.tar"
    if kind == "no column":
        write_parquet(photos / name, table([jpeg(n) for n in range(40)]))
    else:
        write_tar(photos / name, {f"{n}.jpg": jpeg(n, (200, 200)) for n in range(40)})
    assert run(photos, encoder).pictures == 40
    content = bytearray((photos / name).read_bytes())
    length = len(content)
    if kind == "hole":
        content[length // 3 : 2 * length // 3] = bytes(2 * length // 3 - length // 3)
    elif kind == "zeros at the end":
        content[length // 3 :] = bytes(length - length // 3)
    elif kind == "cut between members":
        with tarfile.open(photos / name) as archive:
            del content[archive.getmembers()[20].offset :]
    elif kind == "all zeros":
        content[:] = bytes(length)
    if kind == "no column":
        write_parquet(photos / name, pa.table({"a": [1, 2]}))
    else:
        (photos / name).write_bytes(content)
    report = run(photos, encoder)
    assert (report.pictures, report.removed) == (40, 0)
    assert name in {skip.path for skip in report.skipped}
    assert report.kept > 0


def test_tars_one_behind_the_other_are_read_to_the_end(photos: Path, encoder: FakeEncoder) -> None:
    for name, first in (("a.tar", 0), ("b.tar", 3)):
        write_tar(photos / name, {f"{n}.jpg": jpeg(n) for n in range(first, first + 3)})
    both = (photos / "a.tar").read_bytes() + (photos / "b.tar").read_bytes()
    (photos / "b.tar").unlink()
    (photos / "a.tar").write_bytes(both)
    report = run(photos, encoder)
    assert (report.pictures, report.skipped) == (6, [])
    (photos / "a.tar").write_bytes(both[: end_of(both)] + b"something else" * 99)
    report = run(photos, encoder)
    assert [(skip.path, skip.status) for skip in report.skipped] == [("a.tar", "truncated")]
    assert report.pictures == 6


def test_a_member_that_was_taken_out_goes(photos: Path, encoder: FakeEncoder) -> None:
    write_tar(photos / "x.tar", {f"{n}.jpg": jpeg(n) for n in range(3)})
    run(photos, encoder)
    write_tar(photos / "x.tar", {f"{n}.jpg": jpeg(n) for n in range(2)})
    report = run(photos, encoder)
    assert (report.pictures, report.removed, report.skipped) == (2, 1, [])


@pytest.mark.slow
def test_pictures_of_a_table_that_became_zeros_are_kept(photos: Path, encoder: FakeEncoder) -> None:
    contents: list[bytes | None] = [jpeg(n) for n in range(40)]
    write_parquet(photos / "x.parquet", table(contents))
    run(photos, encoder)
    contents[10:] = [bytes(len(content or b"")) for content in contents[10:]]
    write_parquet(photos / "x.parquet", table(contents))
    report = run(photos, encoder)
    assert (report.pictures, report.kept, report.removed) == (40, 30, 0)


def header(name: str, size_bytes: int, kind: bytes = b"0") -> bytes:
    """The first block of a member of a tar."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"%011o\0" % size_bytes if size_bytes >= 0 else b"\xff" * 4 + size_bytes.to_bytes(8, signed=True)
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def said_before(records: dict[str, str], name: str, size_bytes: int) -> bytes:
    """A member of a tar with records in front of it."""
    body = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = next(n for n in range(10**4) if n == len(str(n)) + len(rest))
        body += str(length).encode() + rest
    return header("p", len(body), b"x") + body + bytes(-len(body) % 512) + header(name, size_bytes)


BAD_MEMBERS = {
    "negative": header("n.bin", -1024),
    "negative record": said_before({"size": "-2048"}, "n.bin", 0),
    "huge": said_before({"size": "9" * 40}, "n.bin", 0),
    "not a number": said_before({"size": "x", "mtime": "1e999"}, "n.bin", 0),
    "deep": said_before({"comment": "x"}, "n.bin", 0)[:-512] * 3000 + header("n.bin", 0),
    "sparse": said_before({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}, "s.jpg", 512)
    + b"99999999999999999999\n1\n1\n".ljust(512, b"\0"),
    "sparse of letters": said_before(
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}, "s.jpg", 512
    )
    + b"x\n1\n1\n".ljust(512, b"\0"),
}


@pytest.mark.many
@pytest.mark.parametrize("kind", BAD_MEMBERS)
def test_a_bad_member_of_a_tar_costs_neither_what_came_before_it_nor_other_files(
    kind: str, photos: Path, encoder: FakeEncoder
) -> None:
    fill(photos, 2)
    content = jpeg(1)
    good = header("good.jpg", len(content)) + content + bytes(-len(content) % 512)
    for name, data in (("x.tar", good + BAD_MEMBERS[kind] + good), ("y.tar", BAD_MEMBERS[kind] + good)):
        (photos / name).write_bytes(data + bytes(1024))
    report = run(photos, encoder)
    assert "x.tar/good.jpg" in places(report.index, encoder)
    assert len(places(report.index, encoder)) >= 3


def odd_tables() -> dict[str, pa.Table]:
    """Tables of four pictures that not every reader understands."""
    contents = [jpeg(n) for n in range(4)]
    pictures = pa.array(contents, pa.binary())
    texts = pa.array(["a", "b", "c", "d"])
    struct = pa.StructArray.from_arrays([pa.array([1] * 4), pa.array([2] * 4)], names=["x", "x"])
    return {
        "two of one name": pa.table([pictures, texts, texts, pictures], names=["jpg", "caption", "caption", "jpg"]),
        "text of the same name": pa.table([texts, pictures], names=["jpg", "jpg"]),
        "far": pa.table({"jpg": pictures, "when": pa.array([0, 0, 300_000_000_000, 0], pa.timestamp("s"))}),
        "far day": pa.table({"jpg": pictures, "when": pa.array([0, 0, 2**31 - 1, 0], pa.date32())}),
        "nanoseconds": pa.table(
            {"jpg": pictures, "when": pa.array([1_700_000_000_000_000_001] * 4, pa.timestamp("ns"))}
        ),
        "nanoseconds in a list": pa.table({"jpg": pictures, "when": pa.array([[1]] * 4, pa.list_(pa.timestamp("ns")))}),
        "zone": pa.table({"jpg": pictures, "when": pa.array([0] * 4, pa.timestamp("ns", "Mars/Olympus"))}),
        "one name twice in a struct": pa.table([pictures, struct], names=["jpg", "about"]),
        "hash first": pa.table({"hash": pa.array([b"\0\1" * 8] * 4, pa.binary()), "photo of it": pictures}),
        "views": pa.table({"jpg": pictures.cast(pa.binary_view())}),
        "lists": pa.table({"jpg": pa.array([[content, b"x"] for content in contents], pa.list_(pa.binary()))}),
        "dictionary": pa.table({"jpg": pictures.dictionary_encode()}),
    }


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", thinned(odd_tables(), 4))
def test_odd_tables_are_read(kind: str, ending: str, photos: Path, encoder: FakeEncoder) -> None:
    made = odd_tables()[kind]
    path = photos / f"x.{ending}"
    if ending == "parquet":
        write_parquet(path, made)
    else:
        write_arrow(path, made, stream=False)
    report = run(photos, encoder)
    assert (report.pictures, report.skipped) == (4, [])
    with Collection(report.index, encoder=encoder) as found:
        hits = found.search("", k=9)
        assert {Path(found.file_of(hit)).read_bytes() for hit in hits} == {jpeg(n) for n in range(4)}
        if kind.startswith("nanoseconds") and kind.endswith("s"):
            assert len(found.search("column:when=2023-11-14*", k=9)) == 4


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("stream", [False, True])
def test_an_arrow_file_that_is_cut_short_while_it_is_read_ends_no_process(stream: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    made = pa.concat_tables([table([jpeg(n, (300, 300))]) for n in range(100)])
    write_arrow(path, made, stream=stream)
    code = (
        "import os, sys; from clipsearch.archives import tables; tables.SPOOL_BYTES = 1; path = sys.argv[1];"
        "archive = tables.Table(path); found = archive.members(lambda name: True); next(found);"
        "os.truncate(path, os.path.getsize(path) // 3); print(len(list(found)), archive.damage)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "damage" in done.stdout or "Arrow" in done.stdout


@pytest.mark.many
@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_an_archive_that_was_read_in_part_and_renamed_is_read_to_its_end(
    ending: str, photos: Path, encoder: FakeEncoder
) -> None:
    contents = [jpeg(n) for n in range(30)]
    source = photos / f"x.{ending}"
    if ending == "tar":
        write_tar(source, {f"{n}.jpg": content for n, content in enumerate(contents)})
    else:
        write_parquet(source, table(contents))
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.encoded >= 4:
            stop.set()

    options = IndexOptions(workers=1, archives=True, commit_rows=2, batch_pictures=2)
    first = index_folder(photos, encoder, options=options, progress=watch, stop=stop)
    assert 0 < first.pictures < 30
    source.rename(photos / f"y.{ending}")
    report = run(photos, encoder)
    assert (report.pictures, report.encoded) == (30, 30 - first.pictures)
    assert {place.partition("/")[0] for place in places(report.index, encoder)} == {f"y.{ending}"}
    (photos / f"y.{ending}").rename(source)
    report = run(photos, encoder)
    assert (report.pictures, report.encoded) == (30, 0)
    assert report.renamed == 1


def test_hidden_members_and_folders_of_other_programs_are_left_out(photos: Path, encoder: FakeEncoder) -> None:
    names = [
        "a.jpg", "./b/c.jpg", "../d.jpg", "e..f/g.jpg", ".h.jpg", "._a.jpg", ".hidden/x.jpg", "a/.trash/y.jpg",
        "@eaDir/z.jpg/SYNOPHOTO_THUMB_M.jpg", "p/__MACOSX/q.jpg", "$RECYCLE.BIN/r.jpg", ".Trash-1000/files/s.jpg",
        "found.000/t.jpg",
    ]  # fmt: skip
    write_tar(photos / "x.tar", {name: jpeg(number) for number, name in enumerate(names)})
    report = run(photos, encoder)
    assert places(report.index, encoder) == {f"x.tar/{name}" for name in ("a.jpg", "b/c.jpg", "../d.jpg", "e..f/g.jpg")}
