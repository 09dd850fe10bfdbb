"""This machine, units of work in this process, and a Ray cluster make the same index of the same folder."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.indexer.build import IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.executors import Executor, LocalExecutor
from clipsearch.indexer.units import carry
from clipsearch.indexer.verify import verify
from clipsearch.pictures.pool import DecodeTask
from clipsearch.records import FloatArray, ImageRecord
from clipsearch.store import open_snapshot, read_records
from clipsearch.store.fragments import read_pictures
from tests.support.archives import jpeg, table, write_parquet, write_tar
from tests.support.clusters import ClusterEncoder, ray_cluster, ray_executor
from tests.support.pictures import fill, picture
from tests.support.unit_pool import UnitExecutor
from tests.support.videos import colours, write_video

VECTORS_DIFFER = 1e-6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as made:
        yield made


@pytest.fixture(params=["local", "units", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "local":
        return LocalExecutor()
    if request.param == "units":
        return UnitExecutor()
    return ray_executor(request.getfixturevalue("cluster").address, unit_pictures=7)


def run(folder: Path, index: Path, executor: Executor, **options: Any) -> IndexReport:
    options = {"workers": 1, **options}
    return index_folder(folder, ClusterEncoder(), index=index, executor=executor, options=IndexOptions(**options))


def content(index: Path) -> tuple[list[ImageRecord], dict[tuple[str, str, str], FloatArray]]:
    """All rows but for their ids, and the vectors of those that have one."""
    with open_snapshot(index) as snapshot:
        rows = read_records(index, snapshot.manifest)
        vectors = {
            (record.path, record.member, record.view): vector
            for batch in read_pictures(index, snapshot.manifest)
            for record, vector in zip(batch.records, batch.vectors, strict=True)
        }
    bare = [dataclasses.replace(row, row_id=0, vector_id=min(row.vector_id, 0)) for row in rows]
    return sorted(bare, key=lambda row: (row.path, row.member, row.view)), vectors


def check_same(index: Path, other: Path) -> None:
    (rows, vectors), (other_rows, other_vectors) = content(index), content(other)
    assert rows == other_rows
    assert vectors.keys() == other_vectors.keys()
    for key, vector in vectors.items():
        np.testing.assert_allclose(other_vectors[key], vector, rtol=0, atol=VECTORS_DIFFER)
    report = verify(other)
    assert report.ok and not report.orphans, report.problems


def told(report: IndexReport) -> dict[str, Any]:
    """What a report says that does not depend on the place or on time."""
    left_out = {"index", "seconds", "pictures_per_s", "generation"}
    body = {name: value for name, value in report.to_dict().items() if name not in left_out}
    return body | {"skipped": sorted(body["skipped"], key=lambda skip: skip["path"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of several kinds, copies, what cannot be read, and a video."""
    place = tmp_path / "photos"
    paths = fill(place, 40)
    shutil.copy(paths[0], place / "a copy.jpg")
    shutil.copy(paths[31], place / "another copy.jpg")
    picture(1001, size=(900, 90)).save(place / "long.png")  # in pieces
    (place / "empty.jpg").touch()
    (place / "broken.jpg").write_bytes(paths[3].read_bytes()[:300])
    (place / "text.png").write_text("no picture")
    (place / "notes.txt").write_text("not looked at")
    (place / "ünïcode 'name.jpg").write_bytes(paths[4].read_bytes() + b" ")
    return place


@pytest.mark.many
def test_the_first_run_makes_the_same_index(folder: Path, tmp_path: Path, executor: Executor) -> None:
    local = run(folder, tmp_path / "local", LocalExecutor())
    other = run(folder, tmp_path / "other", executor)
    assert told(local) == told(other)
    assert local.encoded == 42 and local.copied == 2
    check_same(tmp_path / "local", tmp_path / "other")


@pytest.mark.slow
@pytest.mark.many
def test_later_runs_find_the_same_changes(folder: Path, tmp_path: Path, executor: Executor) -> None:
    local, other = tmp_path / "local", tmp_path / "other"
    for index, who in ((local, LocalExecutor()), (other, executor)):
        run(folder, index, who)
    (folder / "set000").rename(folder / "moved")
    fill(folder, 12, first=500)
    shutil.copy(folder / "set001" / "p00011.jpg", folder / "copy of old.jpg")
    (folder / "set002" / "p00020.jpg").unlink()
    same_size = folder / "set002" / "p00021.jpg"
    same_size.write_bytes(same_size.read_bytes()[:-2] + b"\0\0")  # hashed first: its size is known
    again = run(folder, local, LocalExecutor())
    assert told(again) == told(run(folder, other, executor))
    assert again.encoded and again.renamed and again.copied and again.removed
    check_same(local, other)
    assert run(folder, other, executor).encoded == 0


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_is_done(folder: Path, tmp_path: Path, executor: Executor) -> None:
    stop = threading.Event()

    def soon(progress: Progress) -> None:
        if progress.encoded >= 10:
            stop.set()

    index, options = tmp_path / "other", IndexOptions(workers=1)
    report = index_folder(
        folder, ClusterEncoder(), index=index, executor=executor, options=options, progress=soon, stop=stop
    )
    assert report.interrupted and 10 <= report.encoded < 42
    rest = run(folder, index, executor)
    assert report.encoded + rest.encoded == 42
    run(folder, tmp_path / "local", LocalExecutor())
    check_same(tmp_path / "local", index)


@pytest.mark.slow
def test_everything_is_encoded_again_in_five_views(folder: Path, tmp_path: Path, executor: Executor) -> None:
    local, other = tmp_path / "local", tmp_path / "other"
    for index, who in ((local, LocalExecutor()), (other, executor)):
        run(folder, index, who)
        report = run(folder, index, who, reindex=True, views=5)
        assert report.encoded == 42
    check_same(local, other)


@pytest.mark.slow
@pytest.mark.many
def test_metadata_is_read_again_by_whoever_reads(folder: Path, tmp_path: Path, executor: Executor) -> None:
    local, other = tmp_path / "local", tmp_path / "other"
    for index, who in ((local, LocalExecutor()), (other, executor)):
        run(folder, index, who)
        sidecar = folder / "set000" / "p00001.jpg.xmp"
        sidecar.write_text(
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
        )
        assert run(folder, index, who).described == 1
        sidecar.unlink()
        assert run(folder, index, who).described == 1
    check_same(local, other)


@pytest.mark.slow
def test_videos_become_the_same_shots(tmp_path: Path, executor: Executor) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "one.mp4", colours(["red", "blue", "green"]))
    shutil.copy(folder / "one.mp4", folder / "copy.mp4")
    fill(folder, 3)
    assert told(run(folder, tmp_path / "local", LocalExecutor())) == told(run(folder, tmp_path / "other", executor))
    assert any(row.view for row in content(tmp_path / "other")[0])
    check_same(tmp_path / "local", tmp_path / "other")


@pytest.mark.many
def test_pictures_in_tars_and_tables_are_the_same(tmp_path: Path, executor: Executor) -> None:
    """Of tables, whose pictures a run copies into temporary files, the bytes go to the workers."""
    folder = tmp_path / "archives"
    folder.mkdir()
    write_tar(folder / "some.tar", {f"{n}.jpg": jpeg(n) for n in range(12)} | {"3.txt": "a caption"})
    write_parquet(folder / "more.parquet", table([jpeg(n) for n in range(8, 30)]))
    (folder / "one.jpg").write_bytes(jpeg(99))
    local = run(folder, tmp_path / "local", LocalExecutor(), archives=True)
    assert told(local) == told(run(folder, tmp_path / "other", executor, archives=True))
    assert local.encoded == 31
    check_same(tmp_path / "local", tmp_path / "other")


def test_what_lies_in_temporary_files_goes_with_the_tasks(tmp_path: Path) -> None:
    root, copy = tmp_path / "photos", tmp_path / "copy"
    copy.write_bytes(b"0123456789")
    tasks = [
        DecodeTask(1, f"{root}/a.jpg", size_bytes=5),
        DecodeTask(2, str(copy), size_bytes=3, member="b.jpg", offset=4),
        DecodeTask(3, f"{root}/c.tar", size_bytes=3, member="c.jpg", offset=512),
        DecodeTask(4, str(copy), size_bytes=2, member="d.jpg", offset=0),
        DecodeTask(5, str(tmp_path / "gone"), size_bytes=2, member="e.jpg"),
    ]
    there, carried = carry(tasks, str(root))
    assert carried == b"45601"
    assert [(task.path, task.offset) for task in there] == [
        (tasks[0].path, 0),
        ("", 0),
        (tasks[2].path, 512),
        ("", 3),
        (tasks[4].path, 0),
    ]
    assert [dataclasses.replace(task, path="", offset=0) for task in there] == [
        dataclasses.replace(task, path="", offset=0) for task in tasks
    ]
