"""The store without pictures: round trips, commits, snapshots, collection."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import CorruptIndex, IndexLocked, IndexNotFound, UnsupportedIndex
from clipsearch.records import EmbeddingBatch, ImageRecord, Manifest, ModelRef, PictureMetadata
from clipsearch.store import (
    RowsFile,
    RunProgress,
    Writer,
    open_snapshot,
    read_fragment,
    read_orphan,
    read_records,
    read_writer,
)
from clipsearch.store.fragments import to_batch, to_table
from clipsearch.store.manifest import dump_manifest, load_manifest

DIM = 8
MODEL = ModelRef("fake", "f" * 32, DIM, 100.0)
EMPTY = Manifest(0, "", "..", MODEL, 0)

names = st.binary(min_size=1, max_size=30).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"x")))
optional_text = st.none() | st.text(max_size=20)
metadata = st.builds(
    PictureMetadata,
    format=st.sampled_from([None, "JPEG", "PNG"]),
    taken_at=st.none() | st.just("2024-05-06T07:08:09"),
    camera=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
    latitude=st.none() | st.floats(-90, 90),
    longitude=st.none() | st.floats(-180, 180),
)
records = st.builds(
    ImageRecord,
    row_id=st.just(0),
    path=names,
    size_bytes=st.integers(0, 2**62),
    mtime_ns=st.integers(-(2**62), 2**62),
    inode=st.integers(0, 2**64 - 1),
    content_hash=st.none() | st.just("0" * 32),
    width=st.none() | st.integers(1, 2**31 - 1),
    height=st.none() | st.integers(1, 2**31 - 1),
    metadata=metadata,
    status=st.sampled_from(["ok", "corrupt", "timeout"]),
    reason=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
)


def batch_of(rows: list[ImageRecord], *, first: int = 0) -> EmbeddingBatch:
    numbered = [dataclasses.replace(row, row_id=first + n) for n, row in enumerate(rows)]
    rng = np.random.default_rng(len(rows))
    vectors = rng.standard_normal((sum(r.status == "ok" for r in rows), DIM)).astype(np.float32)
    return EmbeddingBatch(numbered, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def simple_rows(count: int) -> list[ImageRecord]:
    return [ImageRecord(0, f"p{n}.jpg", 10, 20, 30, f"{n:032x}", 4, 3) for n in range(count)]


def commit_rows(writer: Writer, manifest: Manifest, count: int) -> Manifest:
    batch = batch_of(simple_rows(count), first=manifest.next_row_id)
    fragment = writer.add_fragment([batch], MODEL)
    return writer.commit(
        dataclasses.replace(
            manifest,
            fragments=(*manifest.fragments, fragment),
            next_row_id=manifest.next_row_id + count,
            pictures=manifest.pictures + count,
        )
    )


@settings(deadline=None)
@given(st.lists(records, max_size=12))
def test_a_table_gives_back_its_rows(rows: list[ImageRecord]) -> None:
    batch = batch_of(rows)
    again = to_batch(to_table(batch, DIM), DIM)
    assert again.records == batch.records
    np.testing.assert_array_equal(again.vectors, batch.vectors)


@settings(deadline=None)
@given(st.lists(records, max_size=12))
def test_a_rows_file_gives_back_its_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[ImageRecord]) -> None:
    shown = [dataclasses.replace(row, row_id=3 * n, status="ok", reason=None) for n, row in enumerate(rows)]
    with Writer(tmp_path_factory.mktemp("index")) as writer:
        file = RowsFile(writer.index_dir / writer.add_rows(shown).path, writer.index_dir)
    assert [file.find(record.row_id) for record in shown] == shown
    assert file.find(1) is None
    assert file.find(3 * len(rows)) is None


def test_a_fragment_on_disk_gives_back_its_rows_and_its_model(tmp_path: Path) -> None:
    batch = batch_of([*simple_rows(5), dataclasses.replace(simple_rows(1)[0], path="x.jpg", status="corrupt")])
    with Writer(tmp_path) as writer:
        fragment = writer.add_fragment([batch], MODEL)
    assert (fragment.rows, fragment.vectors, fragment.first_row_id, fragment.last_row_id) == (6, 5, 0, 5)
    (again,) = read_fragment(tmp_path, fragment, dim=DIM)
    assert again.records == batch.records
    assert read_orphan(tmp_path / fragment.data.path)[0] == MODEL


def test_row_ids_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    batch = batch_of(simple_rows(2))
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match="ascend"):
        writer.add_fragment([batch, batch], MODEL)
    assert not list((tmp_path / "data").iterdir())


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 3)
    assert load_manifest(tmp_path / "m.json", dump_manifest(manifest), tmp_path) == manifest


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 3)
    body = json.loads(dump_manifest(manifest))
    del body["checksum"]
    body["colour"] = body["fragments"][0]["colour"] = body["model"]["colour"] = "blue"
    checksum = xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    raw = json.dumps({**body, "checksum": checksum}).encode()
    assert load_manifest(tmp_path / "m.json", raw, tmp_path) == manifest


@pytest.mark.parametrize(
    ("change", "word"),
    [({"format_version": 2}, "format 2"), ({"reader_features": ("time-travel",)}, "time-travel")],
)
def test_a_manifest_of_the_future_is_refused_with_advice(tmp_path: Path, change: dict[str, object], word: str) -> None:
    raw = dump_manifest(dataclasses.replace(EMPTY, **change))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedIndex, match=f"{word}.*pip install --upgrade"):
        load_manifest(tmp_path / "m.json", raw, tmp_path)


def test_an_unknown_writer_feature_lets_read_but_not_write(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.commit(dataclasses.replace(EMPTY, writer_features=("zones",)))
    with open_snapshot(tmp_path) as snapshot:
        assert snapshot.manifest.writer_features == ("zones",)
    with Writer(tmp_path) as writer, pytest.raises(UnsupportedIndex, match="zones"):
        writer.current()


def test_a_snapshot_keeps_its_files_until_it_is_closed(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        first = commit_rows(writer, EMPTY, 3)
    snapshot = open_snapshot(tmp_path)
    with Writer(tmp_path) as writer:
        second = commit_rows(writer, dataclasses.replace(first, fragments=(), pictures=0), 2)
        assert len(read_records(tmp_path, snapshot.manifest)) == 3
        snapshot.close()
        writer.collect()
    left = [f"data/{path.name}" for path in (tmp_path / "data").iterdir()]
    assert left == [second.fragments[0].data.path]
    assert [path.name for path in (tmp_path / "manifests").iterdir()] == ["00000002.json"]


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with Writer(tmp_path), pytest.raises(IndexLocked, match=f"process {os.getpid()} on") as caught:
        Writer(tmp_path)
    assert caught.value.index == tmp_path
    Writer(tmp_path).close()


def test_a_writer_says_how_far_it_is_while_it_holds_the_lock(tmp_path: Path) -> None:
    assert read_writer(tmp_path) is None
    with Writer(tmp_path) as writer:
        state = read_writer(tmp_path)
        assert state is not None
        assert state.holder.startswith(f"process {os.getpid()} on")
        assert state.progress is None
        for progress in (RunProgress("read", 3, 1_000_000, 2, 0.5), RunProgress("commit", 10**9, 10**9, 7, 123456.7)):
            writer.note(progress)
            state = read_writer(tmp_path)
            assert state is not None
            assert state.progress == progress
        with pytest.raises(IndexLocked) as caught:
            Writer(tmp_path)
        assert caught.value.holder == state.holder
        with (tmp_path / "LOCK").open("ab") as file:
            file.truncate(70)  # a line that was cut short says nothing
        state = read_writer(tmp_path)
        assert state is not None
        assert state.progress is None
    assert read_writer(tmp_path) is None


def test_asking_who_writes_keeps_nobody_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer(tmp_path).close()
    monkeypatch.setattr("fcntl.flock", lambda *given: pytest.fail("the lock was taken"))
    assert read_writer(tmp_path) is None


def _hold_and_die(index_dir: Path) -> None:
    Writer(index_dir)
    os._exit(9)


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert read_writer(tmp_path) is None
    Writer(tmp_path).close()


def test_generations_only_grow_even_past_an_abandoned_manifest(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
        (tmp_path / "manifests" / "00000007.json").write_text("half a mani")
        assert commit_rows(writer, manifest, 1).generation == 8
    assert [path.name for path in (tmp_path / "manifests").iterdir()] == ["00000008.json"]


def test_leftovers_of_a_crash_are_cleared(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
    (tmp_path / "staging" / "123-456.parquet").write_bytes(b"half")
    (tmp_path / "data" / ("0" * 32 + ".parquet")).write_bytes(b"never committed")
    with Writer(tmp_path) as writer:
        commit_rows(writer, manifest, 1)
    assert not list((tmp_path / "staging").iterdir())
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_no_index_and_a_lost_current_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound):
        open_snapshot(tmp_path)
    with Writer(tmp_path) as writer:
        commit_rows(writer, commit_rows(writer, EMPTY, 1), 1)
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(CorruptIndex, match=r"missing.*verify --repair"):
        open_snapshot(tmp_path)


def test_a_first_commit_cut_short_before_current_counts(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 3)
    (tmp_path / "CURRENT").unlink()
    with open_snapshot(tmp_path) as snapshot:
        assert snapshot.manifest == manifest
    with Writer(tmp_path) as writer:
        assert writer.current() == manifest
        assert commit_rows(writer, manifest, 1).generation == 2
    with open_snapshot(tmp_path) as snapshot:
        assert len(read_records(tmp_path, snapshot.manifest)) == 4


def test_manifests_need_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Writer(tmp_path) as writer:
        assert commit_rows(writer, commit_rows(writer, EMPTY, 1), 1).generation == 2
        with pytest.raises(FileExistsError):
            writer._put_if_absent(tmp_path / "CURRENT", tmp_path / "manifests" / "00000002.json")
