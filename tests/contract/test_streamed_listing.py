"""Object storage is read while it is listed: what comes of pages that are late, refused, or never asked for."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from clipsearch.archives import remote
from clipsearch.errors import IndexNotFound, NoPictures, StorageError
from clipsearch.indexer.build import IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.plan import plan_index
from clipsearch.indexer.verify import verify
from clipsearch.places import as_address
from clipsearch.search.collection import Collection
from clipsearch.store import open_snapshot, read_writer
from tests.support.archives import jpeg, write_tar
from tests.support.fake_encoder import FakeEncoder
from tests.support.storage import BUCKET, Wire, put

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow  # a server
ADDRESS = as_address(f"s3://{BUCKET}/a")
PICTURES = 80
PAGES = 9  # one of the folder above, eight of ten pictures each
ROWS = 8  # of a commit


@pytest.fixture(autouse=True)
def few_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AHEAD", 4)
    monkeypatch.setattr("clipsearch.indexer.build.PAUSE_EVERY_S", 0.0)


@pytest.fixture
def bucket(s3: Any, wire: Wire) -> Any:
    put({f"a/many/{number:03d}.jpg": jpeg(number) for number in range(PICTURES)})
    return s3


def run(encoder: FakeEncoder, index: Path, *, batch: int = 4, **more: Any) -> IndexReport:
    options = IndexOptions(workers=1, batch_pictures=batch, commit_rows=ROWS, commit_s=1e9, archives=True)
    return index_folder(ADDRESS, encoder, index=index, options=options, **more)


def pictures(index: Path) -> int:
    """How many an index has now."""
    try:
        with open_snapshot(index) as snapshot:
            return snapshot.manifest.pictures
    except IndexNotFound:
        return 0


def put_tar(tmp_path: Path, key: str, members: dict[str, bytes]) -> None:
    write_tar(tmp_path / "x.tar", members)
    put({f"a/{key}": (tmp_path / "x.tar").read_bytes()})


def put_tars(tmp_path: Path, many: int = 24) -> set[str]:
    """Tars of two pictures each, after 10 pictures. Returns the places of all."""
    put({f"a/{number:03d}.jpg": jpeg(number) for number in range(10)})
    for number in range(many):
        members = {f"{n}.jpg": jpeg(100 + 2 * number + n) for n in range(2)}
        put_tar(tmp_path, f"t{number:03d}.tar", members)
    return {f"{n:03d}.jpg" for n in range(10)} | {f"t{n:03d}.tar/{m}.jpg" for n in range(many) for m in range(2)}


def vectors(index: Path, encoder: FakeEncoder) -> dict[str, Any]:
    with Collection(index, encoder=encoder) as photos:
        ids = photos.row_ids()
        places = [photos.record(int(i)).place for i in ids]
        assert len(set(places)) == len(places)
        return dict(zip(places, photos.vectors(ids), strict=True))


def test_the_first_fragment_does_not_wait_for_the_last_page(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, told, noted = tmp_path / "index", list[Progress](), list[int]()
    committed: dict[int, int] = {}
    wire.before = lambda number: committed.update({number: pictures(index)})

    def notify(progress: Progress) -> None:
        told.append(progress)
        state = read_writer(index)
        if progress.stage == "read" and progress.is_listing and state is not None and state.progress is not None:
            noted.append(state.progress.total)

    report = run(encoder, index, progress=notify)
    assert (report.found, report.encoded, report.pictures) == (PICTURES, PICTURES, PICTURES)
    assert committed[wire.pages] > 0
    assert wire.pages == PAGES + 2 + 1  # two to see whether there are pictures, and the one after these
    assert verify(index).ok
    going = [progress for progress in told if progress.is_listing and progress.stage == "read"]
    assert going and max(progress.total for progress in going[:3]) < PICTURES
    assert not told[-1].is_listing and told[-1].total == told[-1].done == PICTURES
    assert noted and not any(noted)  # nobody is told a share of what nobody knows

    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "1000")
    run(encoder, tmp_path / "at once")
    one, other = vectors(index, encoder), vectors(tmp_path / "at once", encoder)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[place], other[place]) for place in one)


def test_a_listing_that_fails_keeps_what_was_read_and_deletes_nothing(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index = tmp_path / "index"
    wire.before = lambda number: 403 if number >= 8 else None
    with pytest.raises(StorageError, match=r"a/many: it cannot be listed .* no picture counts as deleted"):
        run(encoder, index)
    done = pictures(index)
    assert 0 < done < PICTURES and done == encoder.images_encoded
    assert done == 30  # all of the pages that came
    assert verify(index).ok
    bucket.delete_object(Bucket=BUCKET, Key="a/many/003.jpg")
    wire.pages, wire.before = 0, lambda number: 403 if number >= 6 else None
    with pytest.raises(StorageError, match="no picture counts as deleted"):
        run(encoder, index)
    assert pictures(index) == 41
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.missing == 0
    wire.before = lambda number: None
    report = run(encoder, index)
    assert (report.removed, report.missing, report.pictures) == (1, 0, PICTURES - 1)
    assert encoder.images_encoded == PICTURES
    assert set(vectors(index, encoder)) == {f"many/{n:03d}.jpg" for n in range(PICTURES) if n != 3}
    assert verify(index).ok


def test_a_page_that_is_refused_once_is_asked_for_again(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    wire.before = lambda number: 503 if number in (5, 6) else None
    report = run(encoder, tmp_path / "index")
    assert (report.found, report.encoded) == (PICTURES, PICTURES)


def test_a_server_that_loses_the_thread_deletes_nothing(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index = tmp_path / "index"
    run(encoder, index)
    lost = re.compile(rb"<NextContinuationToken>.*?</NextContinuationToken>")
    wire.change = lambda page: lost.sub(b"", page)
    with pytest.raises(StorageError, match="does not say where its listing goes on"):
        run(encoder, index)
    assert pictures(index) == PICTURES


def test_a_run_that_is_killed_while_it_lists_goes_on(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index = tmp_path / "index"
    begin = "from clipsearch.archives import remote; from tests.faults import index_process; "
    begin += "remote.AHEAD = 4; index_process.main()"
    command = [sys.executable, "-c", begin, str(ADDRESS), str(ROWS), str(index)]
    for page in (PAGES + 3, PAGES):  # the last one
        wire.pages = 0
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])

        def kill(number: int, page: int = page, process: subprocess.Popen[bytes] = process) -> None:
            if number == page:
                process.send_signal(signal.SIGKILL)

        wire.before = kill
        assert process.wait(300) == -signal.SIGKILL
    done = pictures(index)
    assert 0 < done < PICTURES
    wire.before = lambda number: None
    other = FakeEncoder(dim=256)
    report = run(other, index)
    assert (report.pictures, report.missing, report.removed, report.copied) == (PICTURES, 0, 0, 0)
    assert (report.unchanged, other.images_encoded) == (done, PICTURES - done)
    assert len(vectors(index, other)) == PICTURES
    assert verify(index).ok


def test_a_run_that_is_stopped_while_it_lists_deletes_nothing(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index, stop = tmp_path / "index", threading.Event()
    run(encoder, index)
    for number in range(5):
        bucket.delete_object(Bucket=BUCKET, Key=f"a/many/{79 - number:03d}.jpg")
        bucket.put_object(Bucket=BUCKET, Key=f"a/many/{number:03d}.jpg", Body=jpeg(200 + number))

    def notify(progress: Progress) -> None:
        if progress.encoded and progress.is_listing:
            stop.set()

    wire.pages = 0
    report = run(encoder, index, batch=1, progress=notify, stop=stop)
    assert wire.pages < PAGES  # it was not listed to its end first
    assert report.interrupted
    assert (report.removed, report.missing, report.pictures) == (0, 0, PICTURES)
    report = run(encoder, index)
    assert (report.removed, report.pictures) == (5, PICTURES - 5)
    assert verify(index).ok


@pytest.mark.few
@pytest.mark.parametrize("page", [4, 7])
def test_ctrl_c_does_not_wait_for_a_page_that_does_not_come(bucket: Any, wire: Wire, tmp_path: Path, page: int) -> None:
    index, asked, let_go = tmp_path / "index", threading.Event(), threading.Event()

    def hold(number: int) -> None:
        if number >= page:
            asked.set()
            let_go.wait(600)

    wire.before = hold
    command = [sys.executable, "-m", "tests.faults.index_process", str(ADDRESS), "2", str(index)]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert asked.wait(120)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)  # a server has a minute to answer
    finally:
        let_go.set()
        process.kill()
    assert (process.returncode, err) == (0, "")
    done = int(out.split()[0])
    assert pictures(index) == done < PICTURES
    report = run(FakeEncoder(dim=256), index)
    assert (report.pictures, report.encoded, report.missing, report.removed) == (PICTURES, PICTURES - done, 0, 0)
    assert verify(index).ok


def test_what_moved_is_told_although_its_new_name_comes_first(
    bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index = tmp_path / "index"
    run(encoder, index)
    for number in (40, 41):
        name = f"a/many/{number:03d}.jpg"
        bucket.copy_object(Bucket=BUCKET, Key=f"a/many/000-{number}.jpg", CopySource=f"{BUCKET}/{name}")
        bucket.delete_object(Bucket=BUCKET, Key=name)
    bucket.copy_object(Bucket=BUCKET, Key="a/many/000-copy.jpg", CopySource=f"{BUCKET}/a/many/050.jpg")
    report = run(encoder, index)
    assert (report.renamed, report.copied, report.removed, report.missing) == (2, 1, 0, 0)
    assert (report.encoded, report.pictures) == (0, PICTURES + 1)
    assert encoder.images_encoded == PICTURES
    assert verify(index).ok


def test_what_keeps_its_time_where_it_goes_is_not_even_fetched(
    tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory").store
    address, options = as_address("memory://bucket"), IndexOptions(workers=1, archives=True)
    try:
        for folder in "abc":
            for number in range(4):
                fsspec.filesystem("memory").pipe(f"/bucket/{folder}/{number}.jpg", jpeg(ord(folder) * 9 + number))
        write_tar(tmp_path / "x.tar", {"0.jpg": jpeg(7777)})
        fsspec.filesystem("memory").pipe("/bucket/c/x.tar", (tmp_path / "x.tar").read_bytes())
        index_folder(address, encoder, index=tmp_path / "index", options=options)
        store["/bucket/a/moved.jpg"] = store.pop("/bucket/c/2.jpg")
        store["/bucket/a/moved.tar"] = store.pop("/bucket/c/x.tar")
        monkeypatch.setattr(remote.Storage, "fetch", None)
        report = index_folder(address, encoder, index=tmp_path / "index", options=options)
        assert (report.renamed, report.unchanged, report.removed, report.missing) == (2, 11, 0, 0)
        assert {"a/moved.jpg", "a/moved.tar/0.jpg"} <= vectors(tmp_path / "index", encoder).keys()
    finally:
        for name in [name for name in store if name.startswith("/bucket/")]:
            del store[name]


def test_everything_gone_is_no_deletion(bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder) -> None:
    index = tmp_path / "index"
    run(encoder, index)
    every = [{"Key": f"a/many/{number:03d}.jpg"} for number in range(PICTURES)]
    bucket.delete_objects(Bucket=BUCKET, Delete={"Objects": every})
    bucket.put_object(Bucket=BUCKET, Key="a/notes.txt", Body=b"")
    with pytest.raises(NoPictures):
        run(encoder, index)
    assert pictures(index) == PICTURES
    bucket.delete_object(Bucket=BUCKET, Key="a/notes.txt")
    report = run(encoder, index)  # there is no such prefix any more, so what was there is missing
    assert (report.missing, report.removed) == (PICTURES, 0)


def test_a_new_index_waits_for_one_page_only(s3: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder) -> None:
    put({f"a/{number:03d}.txt": b"" for number in range(30)})
    with pytest.raises(NoPictures):
        run(encoder, tmp_path / "index")
    assert not (tmp_path / "index").exists()
    for number in range(30):
        put_tar(tmp_path, f"{number:03d}.tar", {"0.jpg": jpeg(number)})
    wire.pages = 0
    plan = plan_index(ADDRESS, encoder, index=tmp_path / "index", options=IndexOptions(workers=1, archives=True))
    assert (plan.files, wire.pages) == (60, 6)
    report = run(encoder, tmp_path / "index")
    assert report.pictures == 30
    assert wire.pages == 6 + 2 + 6


def test_archives_do_not_wait_for_the_last_page(s3: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder) -> None:
    index, places = tmp_path / "index", put_tars(tmp_path, 60)
    committed: dict[int, int] = {}
    wire.before = lambda number: committed.update({number: pictures(index)})
    report = run(encoder, index)
    assert (report.encoded, report.pictures, report.skipped) == (130, 130, [])
    assert set(vectors(index, encoder)) == places
    assert wire.pages == 2 + 7  # two to see whether there are pictures
    assert committed[wire.pages] > 10  # of the archives on the page before
    assert verify(index).ok
    again = run(encoder, index)
    assert (again.unchanged, again.encoded, again.generation) == (130, 0, report.generation)


def test_a_listing_that_fails_takes_nothing_in_archives_for_gone(
    s3: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index, places = tmp_path / "index", put_tars(tmp_path)
    wire.before = lambda number: 403 if number >= 6 else None
    with pytest.raises(StorageError, match="no picture counts as deleted"):
        run(encoder, index)
    assert 10 < pictures(index) == encoder.images_encoded < len(places)
    wire.before = lambda number: None
    assert run(encoder, index).pictures == len(places)
    put_tar(tmp_path, "t001.tar", {"0.jpg": jpeg(102), "2.jpg": jpeg(900)})  # of which 1.jpg is gone
    s3.delete_object(Bucket=BUCKET, Key="a/t002.tar")
    wire.pages, wire.before = 0, lambda number: 403 if number >= 3 else None
    with pytest.raises(StorageError, match="no picture counts as deleted"):
        run(encoder, index)
    with open_snapshot(index) as snapshot:
        assert (snapshot.manifest.pictures, snapshot.manifest.missing) == (len(places) + 1, 0)
    wire.before = lambda number: None
    report = run(encoder, index)
    assert (report.removed, report.missing, report.encoded) == (1, 2, 0)
    assert set(vectors(index, encoder)) == places - {"t001.tar/1.jpg", *(f"t002.tar/{n}.jpg" for n in range(2))} | {
        "t001.tar/2.jpg"
    }
    assert verify(index).ok


def test_an_archive_that_moved_is_told_although_its_new_name_comes_first(
    s3: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index, places = tmp_path / "index", put_tars(tmp_path)
    run(encoder, index)
    s3.copy_object(Bucket=BUCKET, Key="a/000.tar", CopySource=f"{BUCKET}/a/t020.tar")
    s3.delete_object(Bucket=BUCKET, Key="a/t020.tar")
    report = run(encoder, index)
    assert (report.renamed, report.copied, report.removed, report.missing, report.encoded) == (2, 0, 0, 0, 0)
    now = places - {"t020.tar/0.jpg", "t020.tar/1.jpg"} | {"000.tar/0.jpg", "000.tar/1.jpg"}
    assert set(vectors(index, encoder)) == now
    assert verify(index).ok


def test_a_storage_that_goes_while_archives_are_read_is_an_error_and_no_deletion(
    s3: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index, _ = tmp_path / "index", put_tars(tmp_path)
    fetched = list[str]()
    fetch = remote.Storage.fetch

    def gone(storage: remote.Storage, path: str, *more: Any) -> Any:
        fetched.append(path)
        if path >= "t003":
            raise OSError("no route")
        return fetch(storage, path, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote.Storage, "fetch", gone)
        with pytest.raises(StorageError, match="the storage could no longer be reached"):
            run(encoder, index)
    done = pictures(index)
    assert done <= 16 and fetched[-1] < "t023.tar"
    report = run(encoder, index)
    assert (report.unchanged, report.pictures, report.skipped) == (done, 58, [])
    assert verify(index).ok


def test_a_plan_counts_all_pages(bucket: Any, wire: Wire, tmp_path: Path, encoder: FakeEncoder) -> None:
    index, options = tmp_path / "index", IndexOptions(workers=1)
    plan = plan_index(ADDRESS, encoder, index=index, options=options)
    assert (plan.to_read, plan.files, plan.unchanged) == (PICTURES, PICTURES, 0)
    assert plan.bytes_to_read == sum(len(jpeg(number)) for number in range(PICTURES))
    run(encoder, index)
    bucket.delete_object(Bucket=BUCKET, Key="a/many/050.jpg")
    bucket.put_object(Bucket=BUCKET, Key="a/many/051.jpg", Body=jpeg(300, (60, 60)))
    plan = plan_index(ADDRESS, encoder, index=index, options=options)
    assert (plan.to_read, plan.unchanged, plan.deleted, plan.missing) == (1, PICTURES - 2, 1, 0)
