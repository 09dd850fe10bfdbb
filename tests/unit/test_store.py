"""The store without pictures: round trips, commits, snapshots, collection."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import shutil
import socket
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.config import marker_of
from clipsearch.errors import (
    ClipsearchError,
    CorruptIndex,
    IndexLocked,
    IndexNotFound,
    IndexWarning,
    NotAnIndex,
    StorageError,
    UnsupportedIndex,
)
from clipsearch.indexer.verify import check_fragment
from clipsearch.records import Fragment, ImageRecord, Manifest, ModelRef, PictureMetadata
from clipsearch.store import (
    RowsFile,
    RunProgress,
    Writer,
    open_live_rows,
    open_snapshot,
    read_records,
    read_writer,
)
from clipsearch.store.fragments import (
    Shape,
    VectorBlock,
    make_fragment,
    read_fragment_records,
    read_orphan_records,
    read_orphan_vectors,
    to_records,
    to_table,
    write_records,
    write_vector_blocks,
)
from clipsearch.store.hashes import hash_keys
from clipsearch.store.lock import NOTHING_YET, FileLock, numbered_by
from clipsearch.store.manifest import dump_manifest, load_manifest
from clipsearch.store.marks import parse_marks, write_marks
from clipsearch.store.rows import write_rows
from clipsearch.store.tags import write_tags
from clipsearch.store.writer import _put_if_absent, change_tags

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


def numbered(rows: list[ImageRecord], *, first: int = 0) -> list[ImageRecord]:
    return [
        dataclasses.replace(row, row_id=first + n, vector_id=first + n if row.status == "ok" else -1)
        for n, row in enumerate(rows)
    ]


def simple_rows(count: int) -> list[ImageRecord]:
    return [ImageRecord(0, f"p{n}.jpg", 10, 20, 30, f"{n:032x}", 4, 3) for n in range(count)]


def own_file(index: Path, folder: str, suffix: str, content: bytes) -> Path:
    """A file as only we name files: by the hash of its bytes."""
    path = index / folder / f"{xxhash.xxh3_128_hexdigest(content)}{suffix}"
    path.write_bytes(content)
    return path


def add_rows(writer: Writer, rows: list[ImageRecord]) -> Fragment:
    shape: list[Shape] = []
    data = writer.add_file("records", ".parquet", lambda file: shape.append(write_records(file, [rows])))
    return make_fragment(
        data, shape[0], writer.add_file("rows", ".rows", lambda file: write_rows(file, lambda: [rows]))
    )


def commit_rows(writer: Writer, manifest: Manifest, count: int) -> Manifest:
    fragment = add_rows(writer, numbered(simple_rows(count), first=manifest.next_row_id))
    return writer.commit(
        dataclasses.replace(
            manifest,
            fragments=(*manifest.fragments, fragment),
            next_row_id=manifest.next_row_id + count,
            pictures=manifest.pictures + count,
        )
    )


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(records, max_size=12))
def test_a_table_gives_back_its_rows(rows: list[ImageRecord]) -> None:
    rows = numbered(rows)
    assert to_records(to_table(rows)) == rows


@settings(deadline=None)
@given(st.lists(records, max_size=12))
def test_a_rows_file_gives_back_its_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[ImageRecord]) -> None:
    rows = [dataclasses.replace(row, row_id=3 * row.row_id) for row in numbered(rows)]
    folder = tmp_path_factory.mktemp("index")
    with Writer(folder) as writer:
        ref = writer.add_file("rows", ".rows", lambda file: write_rows(file, lambda: [rows]))
    file = RowsFile(folder / ref.path, folder)
    assert [file.find(record.row_id) for record in rows] == rows
    assert file.find(1) is None
    assert file.find(3 * len(rows)) is None
    assert file.pictures == sum(record.status == "ok" for record in rows)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=20), st.lists(st.integers(0, 9), max_size=6))
def test_rows_are_found_by_their_vectors(
    tmp_path_factory: pytest.TempPathFactory, of_rows: list[tuple[int, bool]], wanted: list[int]
) -> None:
    rows = [
        dataclasses.replace(row, row_id=n, vector_id=vector_id)
        for n, (row, (vector_id, _)) in enumerate(zip(simple_rows(len(of_rows)), of_rows, strict=True))
    ]
    gone = [n for n, (_, dead) in enumerate(of_rows) if dead]
    folder = tmp_path_factory.mktemp("index")
    if not rows:
        return
    with Writer(folder) as writer:
        fragment = add_rows(writer, rows)
        dead = writer.add_marks({0: np.array(gone, np.int64)})
    live = open_live_rows(folder, dataclasses.replace(fragment, dead=dead, dead_count=len(gone)))
    which, positions = live.of_vectors(np.array(wanted, np.int64))
    found = [(wanted[w], int(live.file.columns.row_ids[p])) for w, p in zip(which, positions, strict=True)]
    expected = [(w, r.row_id) for w in wanted for r in rows if r.vector_id == w and r.row_id not in gone]
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
@given(st.dictionaries(st.integers(0, 2**40), st.sets(st.integers(0, 3000))))
def test_marks_give_back_their_sets(sets: dict[int, set[int]]) -> None:
    class Bytes:
        raw = b""

        def write(self, data: object) -> int:
            self.raw += bytes(memoryview(data))  # type: ignore[arg-type]
            return 0

    written = Bytes()
    write_marks(written, {n: np.array(sorted(ids), np.int64) for n, ids in sets.items()})  # type: ignore[arg-type]
    again = {number: set(ids.tolist()) for number, ids in parse_marks(written.raw).items()}
    assert again == {number: ids for number, ids in sets.items() if ids}


@given(st.binary(max_size=100))
def test_bytes_that_are_no_marks_are_refused(noise: bytes) -> None:
    for raw in (
        noise,
        b"CLIPMARK" + (90).to_bytes(8, "little") + noise,
        b"CLIPMARK" + (4).to_bytes(8, "little") + noise,
    ):
        with pytest.raises((ValueError, TypeError)):
            parse_marks(raw)


def test_a_fragment_on_disk_gives_back_its_rows(tmp_path: Path) -> None:
    rows = numbered([*simple_rows(5), dataclasses.replace(simple_rows(1)[0], path="x.jpg", status="corrupt")])
    with Writer(tmp_path) as writer:
        fragment = add_rows(writer, rows)
    assert (fragment.rows, fragment.pictures, fragment.first_row_id, fragment.last_row_id) == (6, 5, 0, 5)
    assert list(read_fragment_records(tmp_path, fragment)) == rows
    assert read_orphan_records(tmp_path / fragment.data.path) == rows


def test_vectors_on_disk_say_what_they_are_of_and_of_which_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, DIM)).astype(np.float32)
    keys = hash_keys([f"{n:032x}" for n in range(3)])
    block = VectorBlock(np.array([4, 5, 9]), keys, vectors)
    shape: list[tuple[int, int, int]] = []
    with Writer(tmp_path) as writer:
        ref = writer.add_file(
            "vectors", ".parquet", lambda file: shape.append(write_vector_blocks(file, [block], MODEL))
        )
    assert shape == [(3, 4, 9)]
    model, again = read_orphan_vectors(tmp_path / ref.path)
    assert model == MODEL
    for one, other in ((again.ids, block.ids), (again.keys, keys), (again.vectors, vectors)):
        np.testing.assert_array_equal(one, other)


def test_row_ids_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    rows = numbered(simple_rows(2))
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match="ascend"):
        writer.add_file("records", ".parquet", lambda file: print(write_records(file, [rows, rows])))
    assert not list((tmp_path / "records").iterdir())
    assert not list((tmp_path / "staging").iterdir())


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
    [({"format_version": 3}, "format 3"), ({"reader_features": ("time-travel",)}, "time-travel")],
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
        third = commit_rows(writer, second, 1)
    left = {f"records/{path.name}" for path in (tmp_path / "records").iterdir()}
    assert left == {fragment.data.path for fragment in third.fragments}
    assert sorted(path.name for path in (tmp_path / "manifests").iterdir()) == ["00000002.json", "00000003.json"]


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


@pytest.mark.filterwarnings("ignore:.*an older CURRENT may have been restored")
def test_nothing_is_deleted_while_a_manifest_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
        (tmp_path / "manifests" / "00000007.json").write_text("half a mani")
        orphan = own_file(tmp_path, "records", ".parquet", b"never committed")
        monkeypatch.setattr("clipsearch.store.writer.GRACE_S", -1.0)
        with pytest.warns(IndexWarning, match="cannot delete old files of .*: corrupt index: .*00000007"):
            assert commit_rows(writer, manifest, 1).generation == 8
        assert orphan.exists()
        (tmp_path / "manifests" / "00000007.json").unlink()
        commit_rows(writer, manifest, 2)
        assert not orphan.exists()


@pytest.mark.parametrize("call", ["open", "scandir", "listdir"])
def test_errors_while_collecting_delete_nothing(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(tmp_path) as writer:
        manifest = EMPTY
        for _ in range(4):
            manifest = commit_rows(writer, manifest, 1)
        before = {path for path in tmp_path.rglob("*") if path.is_file()}

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patch, pytest.raises((ClipsearchError, OSError)):
            patch.setattr(os, call, refuse)
            writer.collect()
            raise OSError("collecting gave up by itself")
        assert before <= {path for path in tmp_path.rglob("*") if path.is_file()}


def test_only_names_that_we_give_are_ever_deleted(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
    own = "0" * 32
    foreign = [
        "records/holiday.parquet",
        f"records/{own}.jpg",
        f"records/{own.upper()[:-1]}G.parquet",
        f"tags/{own}.txt",
        "staging/train.csv",
        "staging/@eaDir/thumb.jpg",
        "manifests/deploy.json",
        f"elsewhere/{own}.parquet",
        f"{own}.parquet",
        f"rows/{own}.rows/inside.txt",
        f"records/{own}.parquet",  # a name like ours, but not that of its content
    ]
    for name in foreign:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    (tmp_path / "vectors" / f"{own}.parquet").symlink_to(tmp_path / "records" / "holiday.parquet")
    for _ in range(3):
        with Writer(tmp_path) as writer:
            manifest = commit_rows(writer, manifest, 1)
    assert all((tmp_path / name).read_text() == "precious" for name in foreign)
    assert (tmp_path / "vectors" / f"{own}.parquet").is_symlink()


@pytest.mark.parametrize("inside", ["a.jpg", "data/a.jpg", "CURRENT", "manifests/deploy.json", "INDEX", "staging/x"])
def test_a_folder_of_other_things_does_not_become_an_index(tmp_path: Path, inside: str) -> None:
    place = tmp_path / "place"
    (place / inside).parent.mkdir(parents=True)
    (place / inside).write_text("precious")
    with pytest.raises(NotAnIndex, match="Nothing was changed"):
        Writer(place)
    assert [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()] == [inside]


def test_a_new_index_has_its_marker_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = os.mkdir

    def look(path: str, *arguments: object, **more: object) -> None:
        if Path(path).parent == tmp_path / "index":
            seen.append([path.name for path in (tmp_path / "index").iterdir()])
        real(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "mkdir", look)
    (tmp_path / "index" / "@eaDir").mkdir(parents=True)  # a NAS makes it by itself
    Writer(tmp_path / "index").close()
    assert all("INDEX" in names for names in seen[1:])
    assert marker_of(tmp_path / "index") is not None


def test_leftovers_of_a_crash_are_cleared_when_they_are_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
    (tmp_path / "staging" / f"{'a' * 32}.part").write_bytes(b"half")
    (tmp_path / "staging" / "123-456.parquet").write_bytes(b"half, of format 1")
    own_file(tmp_path, "records", ".parquet", b"never committed")
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, manifest, 1)
    assert len(list((tmp_path / "staging").iterdir())) == 2  # they may be another machine's
    assert len(list((tmp_path / "records").iterdir())) == 3
    monkeypatch.setattr("clipsearch.store.writer.GRACE_S", -1.0)
    with Writer(tmp_path) as writer:
        writer.collect()
    assert not list((tmp_path / "staging").iterdir())
    assert len(list((tmp_path / "records").iterdir())) == 2


def test_tags_are_saved_while_a_writer_works_and_survive_its_commit(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        commit_rows(writer, EMPTY, 1)
        manifest = writer.current()
        assert manifest is not None
        staged = add_rows(writer, numbered(simple_rows(1), first=5))
        tagged = change_tags(tmp_path, lambda m: dataclasses.replace(m, writer_features=("tags",)))
        assert (tmp_path / staged.data.path).exists()
        after = commit_rows(writer, manifest, 2)
    assert (tagged.generation, after.generation, after.writer_features) == (2, 3, ("tags",))


def test_a_writer_that_was_overtaken_says_so_and_writes_nothing(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        commit_rows(writer, EMPTY, 1)
        manifest = writer.current()
        assert manifest is not None
        change_tags(tmp_path, lambda m: dataclasses.replace(m, pictures=77))  # no writer of ours does this
        with pytest.raises(StorageError, match="another program wrote generation 2"):
            commit_rows(writer, manifest, 1)
    with open_snapshot(tmp_path) as snapshot:
        assert snapshot.manifest.pictures == 77


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("read", [True, False])
def test_a_folder_that_was_swapped_is_left_as_it_is(read: bool, tmp_path: Path) -> None:
    """As when a drive goes and another is mounted in its place: here both stand at the same generation."""
    ours, theirs = tmp_path / "index", tmp_path / "theirs"
    with Writer(theirs) as writer:
        commit_rows(writer, commit_rows(writer, EMPTY, 3), 2)
    own_file(theirs, "records", ".parquet", b"of a run that goes on there")
    before = contents(theirs)
    with Writer(ours) as writer:
        manifest = commit_rows(writer, commit_rows(writer, EMPTY, 1), 1)
        if read:
            assert writer.current() == manifest
        staged = add_rows(writer, numbered(simple_rows(1), first=2))
        ours.rename(tmp_path / "away")
        theirs.rename(ours)
        (ours / "staging" / f"{'a' * 32}.part").write_bytes(b"half-written there")
        for forbidden in (
            lambda: add_rows(writer, numbered(simple_rows(1), first=2)),
            lambda: writer.commit(dataclasses.replace(manifest, fragments=(*manifest.fragments, staged))),
            lambda: writer.commit(manifest, repaired=True),
            writer.collect,
        ):
            with pytest.raises(StorageError, match="replaced in the meantime"):
                forbidden()
    after = contents(ours)
    assert after.pop(f"staging/{'a' * 32}.part")
    assert after == before
    with open_snapshot(tmp_path / "away") as snapshot:
        assert snapshot.manifest == manifest


def test_another_generation_of_the_same_number_is_another(tmp_path: Path) -> None:
    """As a file synchroniser puts another machine's generation in place of ours."""
    index, other = tmp_path / "index", tmp_path / "other"
    with Writer(index) as writer:
        commit_rows(writer, EMPTY, 1)
    shutil.copytree(index, other)
    with Writer(other) as writer:
        manifest = writer.current()
        assert manifest is not None
        commit_rows(writer, manifest, 3)
    with Writer(index) as writer:
        manifest = writer.current()
        assert manifest is not None
        manifest = commit_rows(writer, manifest, 2)
        lone = own_file(index, "records", ".parquet", b"which no generation names")
        shutil.copytree(other, index, dirs_exist_ok=True)
        before = contents(index)
        with pytest.raises(StorageError, match="another program wrote generation 2"):
            writer.commit(manifest)
        with pytest.raises(StorageError, match="another program wrote generation 2"):
            writer.collect()
        assert contents(index) == before
        assert lone.exists()


def test_tags_of_another_generation_of_the_same_number_are_kept_beside_ours(tmp_path: Path) -> None:
    index, other = tmp_path / "index", tmp_path / "other"
    with Writer(index) as writer:
        commit_rows(writer, EMPTY, 1)
    shutil.copytree(index, other)
    for place, name in ((index, "ours"), (other, "theirs")):
        write_tags(place, {name: {"0" * 32: 1.0}})
    with Writer(index) as writer:
        manifest = writer.current()
        assert manifest is not None
        shutil.copytree(other, index, dirs_exist_ok=True)
        after = commit_rows(writer, manifest, 1)
    assert [tag.name for tag in after.tags] == ["ours", "theirs"]
    assert after.writer_features == ("tags",)
    assert all((index / file.path).exists() for tag in after.tags for file in tag.files())


def test_generations_that_were_deleted_meanwhile_are_not_written_anew(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
        for name in ("CURRENT", "COMMIT", "manifests/00000001.json"):
            (tmp_path / name).unlink()
        with pytest.raises(CorruptIndex, match="the file is missing"):
            writer.commit(manifest)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.ENOTSUP, errno.ENOSYS])
def test_without_flock_a_file_is_the_lock(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(IndexWarning, match="cannot lock files"), Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
        with pytest.raises(IndexLocked, match=f"process {os.getpid()}"):
            Writer(tmp_path)
        commit_rows(writer, manifest, 1)
    assert not (tmp_path / "LOCK.held").exists()
    gone = f"process 999999999 on {socket.gethostname()} since long ago\n"
    (tmp_path / "LOCK.held").write_text(f"{gone}{numbered_by()}\n")  # killed
    with pytest.warns(IndexWarning), Writer(tmp_path):
        pass


def test_a_lock_is_stale_only_where_its_process_is_gone_for_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    here, name, gone = numbered_by(), socket.gethostname(), 999_999_999
    assert here
    for said in (
        f"process {gone} on {name} since long ago\n",  # of a version that did not say more
        f"process {gone} on {name} since long ago\n{here}0\n",  # of another container, or before a restart
        f"process {gone} on {name} since long ago\n\n",  # of a system that cannot tell
        f"process {gone} on {name}x since long ago\n{here}\n",  # of a copy of this machine
        f"process {os.getpid()} on {name} since long ago\n{here}\n",
        "nonsense\n",
        "",
    ):
        (tmp_path / "LOCK.held").write_text(said)
        with pytest.raises(IndexLocked):
            FileLock(tmp_path, "LOCK")
        assert (tmp_path / "LOCK.held").read_text() == said
    (tmp_path / "LOCK.held").write_text(f"process {gone} on {name} since long ago\n{here}\n")
    with pytest.warns(IndexWarning), FileLock(tmp_path, "LOCK"):
        pass
    monkeypatch.setattr("clipsearch.store.lock.numbered_by", lambda: "")
    (tmp_path / "LOCK.held").write_text(f"process {gone} on {name} since long ago\n\n")
    with pytest.raises(IndexLocked):
        FileLock(tmp_path, "LOCK")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no hard links"])
@pytest.mark.parametrize("moment", ["judged", "released", "moved", "both"])
def test_only_one_takes_over_a_stale_lock(
    moment: str, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes it over completely after it was judged stale, or between its removal and the making of our own."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    def other() -> None:
        monkeypatch.undo()
        monkeypatch.setattr("fcntl.flock", refuse)
        if not links:
            monkeypatch.setattr("os.link", refuse)
        monkeypatch.setattr("clipsearch.store.lock.who", lambda: f"process {os.getpid()} on another ({len(others)})")
        others.append(FileLock(tmp_path, "LOCK"))
        if moment == "released":
            others.pop().release()

    rename, take_away, others = Path.rename, FileLock._take_away, list[FileLock]()

    def taken_before(held: Path, said: bytes) -> bool:
        other()
        return take_away(held, said)

    def taken_after(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        other()
        return moved

    def taken_twice(held: Path, said: bytes) -> bool:
        other()
        assert others[0].is_held()
        monkeypatch.setattr(Path, "rename", taken_after)
        return take_away(held, said)

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / "LOCK.held").write_text(f"process 999999999 on {socket.gethostname()} since then\n{numbered_by()}\n")
    if moment == "moved":
        monkeypatch.setattr(Path, "rename", taken_after)
    else:
        monkeypatch.setattr(FileLock, "_take_away", staticmethod(taken_twice if moment == "both" else taken_before))
    with pytest.warns(IndexWarning):
        if moment == "released":
            FileLock(tmp_path, "LOCK").release()
        else:
            with pytest.raises(IndexLocked, match=f"process {os.getpid()}"):
                FileLock(tmp_path, "LOCK")
    assert [lock.is_held() for lock in others] == [False, True][-len(others) :] if others else moment == "released"
    for lock in others:
        lock.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LOCK"]


def test_who_lost_its_lock_does_not_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(IndexWarning), Writer(tmp_path) as writer:
        manifest = commit_rows(writer, EMPTY, 1)
        (tmp_path / "LOCK.held").write_text("process 1 on another since now\nboot 1\n")
        with pytest.raises(StorageError, match="LOCK was deleted, or taken over"):
            writer.commit(manifest)
    assert (tmp_path / "LOCK.held").exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF])
def test_folders_that_cannot_be_synced_are_no_error(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    with Writer(tmp_path) as writer:
        assert commit_rows(writer, EMPTY, 1).generation == 1


def test_an_index_of_a_newer_format_is_refused_as_newer(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        commit_rows(writer, EMPTY, 1)
    current = (tmp_path / "CURRENT").read_text()
    (tmp_path / "CURRENT").write_text(current.replace("clipsearch 2", "clipsearch 3"))
    for attempt in (lambda: open_snapshot(tmp_path), lambda: Writer(tmp_path).current()):
        with pytest.raises(UnsupportedIndex, match=r"format 3.*pip install --upgrade"):
            attempt()


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
    (tmp_path / "COMMIT").unlink()
    with pytest.raises(CorruptIndex):  # that was a later one
        open_snapshot(tmp_path)
    (tmp_path / "NEW").write_bytes(NOTHING_YET)
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
            _put_if_absent(tmp_path / "CURRENT", tmp_path / "manifests" / "00000002.json")


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("batch", [1, 3, 8192])
def test_every_byte_of_what_is_derived_from_rows_is_held_against_them(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a file's checksum is right, as after an error in the program that wrote it."""
    monkeypatch.setattr("clipsearch.indexer.verify.BATCH_ROWS", batch)
    rows = [
        dataclasses.replace(
            row,
            path=f"f{n % 3}/{row.path}",
            status="corrupt" if n in (2, 5) else "ok",
            metadata=PictureMetadata(camera=f"c{n % 2}", latitude=1.0 if n % 2 else None),
        )
        for n, row in enumerate(simple_rows(9))
    ]
    with Writer(tmp_path) as writer:
        fragment = add_rows(writer, numbered(rows))
        check_fragment(tmp_path, fragment)
        assert fragment.rows_file is not None
        whole = (tmp_path / fragment.rows_file.path).read_bytes()
        length = struct.unpack("<q", whole[-16:-8])[0]
        places = json.loads(whole[-16 - length : -16])["columns"]
        for name, (at, size) in places.items():
            if name == "offsets":
                continue  # texts would begin elsewhere: see below
            for byte in sorted({at, at + size // 2, at + size - 1} if size else ()):
                damaged = bytearray(whole)
                damaged[byte] ^= 1
                ref = writer.add_file("rows", ".rows", lambda file, raw=bytes(damaged): file.write(raw))  # type: ignore[misc]
                with pytest.raises(CorruptIndex):
                    check_fragment(tmp_path, dataclasses.replace(fragment, rows_file=ref))
        damaged = bytearray(whole)
        damaged[8 + whole[8:].index(b"p4.jpg")] ^= 1  # in a row's own text
        ref = writer.add_file("rows", ".rows", lambda file: file.write(damaged))
        with pytest.raises(CorruptIndex, match="row 4 does not match"):
            check_fragment(tmp_path, dataclasses.replace(fragment, rows_file=ref))
        for missing in (rows[:-1], rows[1:], rows[::-1]):
            other = add_rows(writer, numbered(missing)).rows_file
            with pytest.raises(CorruptIndex):
                check_fragment(tmp_path, dataclasses.replace(fragment, rows_file=other))
