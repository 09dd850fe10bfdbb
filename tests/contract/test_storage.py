"""Collections in object storage: a real S3 server on this machine, which can be slow, wrong, or gone."""

from __future__ import annotations

import importlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.archives import remote
from clipsearch.archives.remote import Storage
from clipsearch.config import find_index
from clipsearch.errors import MissingExtra, OtherCollection, StorageError, UnreadablePicture
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.plan import plan_index
from clipsearch.indexer.stored import NO_PATH
from clipsearch.indexer.verify import verify
from clipsearch.places import Address, as_address, is_address
from clipsearch.search.collection import Collection
from clipsearch.search.dedupe import find_duplicates
from clipsearch.server.thumbnails import Thumbnails
from clipsearch.store import open_snapshot, read_records
from clipsearch.store.tags import write_tags
from tests.support.archives import jpeg, table, write_parquet, write_tar
from tests.support.fake_encoder import FakeEncoder
from tests.support.storage import BUCKET, set_times

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow  # a server


def run(encoder: FakeEncoder, index: Path, address: str = f"s3://{BUCKET}/a", **options: Any) -> IndexReport:
    report = index_folder(
        as_address(address), encoder, index=index, options=IndexOptions(**{"workers": 1, "archives": True, **options})
    )
    checked = verify(report.index)
    assert checked.ok, checked.problems
    return report


def put(s3: Any, tmp_path: Path) -> dict[str, bytes]:
    """Pictures in the bucket: plain, in a tar and in a Parquet file. Returns them by place."""
    contents = {f"b/{n}.jpg": jpeg(n) for n in range(4)} | {"top.jpg": jpeg(10), "c d/é#?.jpg": jpeg(11)}
    for name, content in contents.items():
        s3.put_object(Bucket=BUCKET, Key=f"a/{name}", Body=content)
    write_tar(tmp_path / "x.tar", {"0.jpg": jpeg(20), "0.txt": "a harbour", "1.jpg": jpeg(21)})
    write_parquet(tmp_path / "t.parquet", table([jpeg(30), jpeg(31)], {"text": ["a barn", "a dog"]}))
    for name in ("x.tar", "t.parquet"):
        s3.upload_file(str(tmp_path / name), BUCKET, f"a/{name}")
    s3.put_object(Bucket=BUCKET, Key="a/notes.txt", Body=b"")
    s3.put_object(Bucket=BUCKET, Key="a/b/", Body=b"")  # a folder, as some programs make them
    s3.put_object(Bucket=BUCKET, Key="ab/other.jpg", Body=jpeg(99))
    archived = {
        "x.tar/0.jpg": jpeg(20),
        "x.tar/1.jpg": jpeg(21),
        "t.parquet/0.jpg": jpeg(30),
        "t.parquet/1.jpg": jpeg(31),
    }
    return contents | archived


def test_a_bucket_is_indexed_as_a_folder_is(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    contents = put(s3, tmp_path)
    report = run(encoder, tmp_path / "index")
    assert (report.pictures, report.encoded, report.skipped) == (10, 10, [])
    files = tmp_path / "files"
    for number, content in enumerate(contents.values()):
        files.mkdir(exist_ok=True)
        (files / f"{number}.jpg").write_bytes(content)
    wanted = by_content(index_folder(files, encoder, options=IndexOptions(workers=1)).index, encoder)
    found = by_content(report.index, encoder)
    assert found.keys() == wanted.keys()
    assert all(np.abs(found[key] - wanted[key]).max() <= 1e-6 for key in found)
    again = run(encoder, tmp_path / "index")
    assert (again.unchanged, again.encoded, again.generation) == (10, 0, report.generation)
    thumbnails = Thumbnails(tmp_path / "thumbnails")
    with Collection(find_index(tmp_path / "index"), encoder=encoder) as photos:
        assert str(photos.root) == f"s3://{BUCKET}/a"
        hits = photos.search("", k=99)
        assert {hit.record.place for hit in hits} == set(contents)
        for hit in hits:
            assert hit.path.startswith(f"s3://{BUCKET}/a/")
            assert Path(photos.file_of(hit)).read_bytes() == contents[hit.record.place]
            assert photos.thumbnail(hit)
            assert thumbnails.get(hit.record, hit.path, 256)[1] == hit.record.content_hash
            assert photos.search(f"like:{hit.record.row_id}#xywh=0,0,9,9", k=1, all=True)
        assert [hit.record.place for hit in photos.search("caption:harbour")] == ["x.tar/0.jpg"]
        assert find_duplicates(photos) == []
    thumbnails.close()


def by_content(index: Path, encoder: FakeEncoder) -> dict[str, Any]:
    with Collection(index, encoder=encoder) as photos:
        ids = photos.row_ids()
        return {str(photos.record(int(i)).content_hash): v for i, v in zip(ids, photos.vectors(ids), strict=True)}


def test_what_changes_in_a_bucket(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    put(s3, tmp_path)
    index = tmp_path / "index"
    run(encoder, index, exclude=("c*",))
    report = run(encoder, index)
    assert (report.pictures, report.encoded) == (10, 1)
    s3.put_object(Bucket=BUCKET, Key="a/b/0.jpg", Body=jpeg(50, (60, 60)))
    s3.copy_object(Bucket=BUCKET, Key="a/b/moved.jpg", CopySource=f"{BUCKET}/a/b/1.jpg")
    s3.delete_object(Bucket=BUCKET, Key="a/b/1.jpg")
    write_tar(tmp_path / "x.tar", {"0.jpg": jpeg(20), "2.jpg": jpeg(22)})
    s3.upload_file(str(tmp_path / "x.tar"), BUCKET, "a/x.tar")
    plan = plan_index(as_address(f"s3://{BUCKET}/a"), encoder, index=index, options=IndexOptions(workers=1))
    assert (plan.to_read, plan.unchanged, plan.unopened) == (2, 6, 1)
    report = run(encoder, index)
    assert (report.encoded, report.renamed, report.pictures) == (2, 1, 10)
    report = run(encoder, index, reread_metadata=True, reindex=True)
    assert (report.encoded, report.pictures) == (10, 10)
    s3.delete_object(Bucket=BUCKET, Key="a/x.tar")
    report = run(encoder, index)
    assert (report.missing, report.removed, report.pictures) == (2, 0, 8)


WHEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def padded(content: bytes, size_bytes: int = 4000) -> bytes:
    assert len(content) <= size_bytes
    return content.ljust(size_bytes, b"\0")


def put_alike(s3: Any, tmp_path: Path, seed: int) -> None:
    """Two pictures, a tar and a Parquet file in the bucket, of sizes and times that do not depend on `seed`."""
    for number in range(2):
        s3.put_object(Bucket=BUCKET, Key=f"a/{number}.jpg", Body=padded(jpeg(seed + number)))
    write_tar(tmp_path / "x.tar", {f"{n}.jpg": padded(jpeg(seed + 10 + n)) for n in range(2)})
    table_of = table([padded(jpeg(seed + 20 + n)) for n in range(2)])
    write_parquet(tmp_path / "t.parquet", table_of, compression="none")
    for name in ("x.tar", "t.parquet"):
        s3.upload_file(str(tmp_path / name), BUCKET, f"a/{name}")
    set_times(WHEN)


def sizes(s3: Any) -> dict[str, tuple[int, datetime]]:
    return {one["Key"]: (one["Size"], one["LastModified"]) for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}


def contents_of(index: Path, encoder: FakeEncoder) -> dict[str, str | None]:
    with Collection(index, encoder=encoder) as photos:
        records = [photos.record(int(row)) for row in photos.row_ids()]
        return {record.place: record.content_hash for record in records}


def test_what_is_overwritten_at_the_same_size_and_time_is_read_anew(
    s3: Any, tmp_path: Path, encoder: FakeEncoder
) -> None:
    index = tmp_path / "index"
    put_alike(s3, tmp_path, 0)
    assert run(encoder, index).encoded == 6
    before, seen = contents_of(index, encoder), sizes(s3)
    put_alike(s3, tmp_path, 100)
    assert sizes(s3) == seen
    plan = plan_index(as_address(f"s3://{BUCKET}/a"), encoder, index=index, options=IndexOptions(workers=1))
    assert (plan.to_read, plan.unchanged, plan.bytes_to_read) == (2, 0, sum(size for size, _ in seen.values()))
    report = run(encoder, index)
    assert (report.encoded, report.unchanged, report.pictures, report.removed) == (6, 0, 6, 0)
    after = contents_of(index, encoder)
    assert after.keys() == before.keys() and not set(after.values()) & set(before.values())
    again = run(encoder, index)
    assert (again.unchanged, again.encoded, again.generation) == (6, 0, report.generation)


def test_what_is_overwritten_with_what_is_no_picture_is_told_once(
    s3: Any, tmp_path: Path, encoder: FakeEncoder
) -> None:
    """At the same size and time, it is not the same file of which only this moment says nothing."""
    index = tmp_path / "index"
    put_alike(s3, tmp_path, 0)
    run(encoder, index)
    for content in (b"no picture", b"none again"):
        s3.put_object(Bucket=BUCKET, Key="a/1.jpg", Body=padded(content))
        set_times(WHEN)
        report = run(encoder, index)
        assert (report.pictures, report.skipped_by_status, report.kept) == (5, {"not_a_picture": 1}, 0)
        again = run(encoder, index)
        assert (again.unchanged, again.generation, len(again.skipped)) == (6, report.generation, 1)


def test_the_same_bytes_under_another_tag_change_nothing_else(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    """As after an upload in parts, whose ETag is made of theirs."""
    index = tmp_path / "index"
    put_alike(s3, tmp_path, 0)
    run(encoder, index)
    encoded = encoder.images_encoded
    with open_snapshot(index) as snapshot:
        vectors = {row.place: row.vector_id for row in read_records(index, snapshot.manifest)}
    tagged, content = next(iter(contents_of(index, encoder).items()))
    write_tags(index, {"mine": {content or "": 1.0}})
    for name in ("0.jpg", "1.jpg", "x.tar", "t.parquet"):
        at = {"Bucket": BUCKET, "Key": f"a/{name}"}
        body = s3.get_object(**at)["Body"].read()
        upload = {**at, "UploadId": s3.create_multipart_upload(**at)["UploadId"]}
        part = {"PartNumber": 1, "ETag": s3.upload_part(**upload, PartNumber=1, Body=body)["ETag"]}
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
        assert s3.head_object(**at)["ETag"].endswith('-1"')
    set_times(WHEN)
    report = run(encoder, index)
    assert (report.touched, report.encoded, report.copied, report.renamed, report.removed) == (6, 0, 0, 0, 0)
    assert encoder.images_encoded == encoded
    with open_snapshot(index) as snapshot:
        assert {row.place: row.vector_id for row in read_records(index, snapshot.manifest)} == vectors
    with Collection(index, encoder=encoder) as photos:
        assert [hit.record.place for hit in photos.search("tag:mine")] == [tagged]
    again = run(encoder, index)
    assert (again.unchanged, again.touched, again.generation) == (6, 0, report.generation)


def test_an_index_that_has_noted_no_tags_goes_by_size_and_time(
    s3: Any, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    put_alike(s3, tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_tag_of", lambda entry: 0)
        first = run(encoder, index)
    put_alike(s3, tmp_path, 100)
    report = run(encoder, index)
    assert (report.unchanged, report.encoded, report.generation) == (6, 0, first.generation)


def test_one_archive_at_an_address(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    put(s3, tmp_path)
    report = run(encoder, tmp_path / "index", f"s3://{BUCKET}/a/x.tar", archives=None)
    assert report.pictures == 2
    assert run(encoder, tmp_path / "index", f"s3://{BUCKET}/a/x.tar", archives=None).unchanged == 2
    with pytest.raises(StorageError):
        run(encoder, tmp_path / "other", f"s3://{BUCKET}/a/none.tar")
    with pytest.raises(StorageError, match=r"it cannot be listed \(there is nothing under that name\)"):
        run(encoder, tmp_path / "other", f"s3://{BUCKET}/nobody")
    with pytest.raises(OtherCollection):
        run(encoder, tmp_path / "index", f"s3://{BUCKET}/ab")


@pytest.mark.parametrize("address", ["a", "a/x.tar", "a/t.parquet"])
def test_a_source_that_is_named_again_and_gone_is_missing(
    address: str, s3: Any, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, tmp_path)
    s3.put_object(Bucket=BUCKET, Key="a.jpg", Body=jpeg(90))  # names that begin alike are others
    s3.put_object(Bucket=BUCKET, Key=f"{address}2", Body=jpeg(91))
    index, place = tmp_path / "index", f"s3://{BUCKET}/{address}"
    count = run(encoder, index, place, archives=None).pictures
    keys = [
        key for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"] if (key := one["Key"]).startswith(("a/", address))
    ]
    kept = {key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys if key != f"{address}2"}
    for key in kept:
        s3.delete_object(Bucket=BUCKET, Key=key)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
        with pytest.raises(StorageError):
            run(encoder, index, place, archives=None)
    report = run(encoder, index, place, archives=None)
    assert (report.missing, report.removed, report.pictures) == (count, 0, 0)
    assert [line.partition(" no longer exists")[0] for line in report.warnings] == [place]
    for key, content in kept.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    report = run(encoder, index, place, archives=None)
    assert (report.missing, report.encoded, report.pictures) == (0, 0, count)


def test_a_bucket_lacks_what_is_certainly_not_there(s3: Any, tmp_path: Path) -> None:
    put(s3, tmp_path)
    s3.put_object(Bucket=BUCKET, Key="b.jpg", Body=jpeg(90))
    for below, is_gone in {
        "": False,
        "/a": False,
        "/a/": False,
        "/b.jpg": False,
        "/b": True,
        "/a/nothing": True,
    }.items():
        assert Storage(Address(f"s3://{BUCKET}{below}")).lacks() is is_gone, below
    for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        s3.delete_object(Bucket=BUCKET, Key=one["Key"])
    assert not Storage(Address(f"s3://{BUCKET}")).lacks()  # an empty bucket may be another's
    assert Storage(Address(f"s3://{BUCKET}/a")).lacks()


def test_an_object_that_cannot_be_fetched_loses_nothing(
    s3: Any, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, tmp_path)
    index = tmp_path / "index"
    tries: dict[str, int] = {}
    fetched = Storage._full

    def fails(times: int) -> None:
        def full(storage: Storage, path: str) -> str:
            if path == "b/2.jpg":
                tries[path] = tries.get(path, 0) + 1
                if tries[path] <= times:
                    raise ConnectionResetError("connection reset")
            return fetched(storage, path)

        tries.clear()
        monkeypatch.setattr(Storage, "_full", full)

    fails(remote.ATTEMPTS - 1)
    report = run(encoder, index)
    assert (report.pictures, report.skipped) == (10, [])
    s3.put_object(Bucket=BUCKET, Key="a/b/2.jpg", Body=jpeg(60))
    fails(10**9)
    report = run(encoder, index)
    assert [skip.path for skip in report.skipped] == ["b/2.jpg"]
    assert (report.pictures, report.kept) == (10, 1)  # as it was
    assert 1 < tries["b/2.jpg"] <= remote.ATTEMPTS
    fails(0)
    report = run(encoder, index)
    assert (report.pictures, report.encoded, report.skipped) == (10, 1, [])


def test_a_storage_that_is_gone_is_an_error_and_no_deletion(
    s3: Any, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, tmp_path)
    for number in range(40):
        s3.put_object(Bucket=BUCKET, Key=f"a/many/{number:02d}.jpg", Body=jpeg(200 + number))
    index = tmp_path / "index"
    fetch = Storage.fetch

    def dies(storage: Storage, path: str, *more: Any) -> Any:
        if path >= "many/10":
            raise OSError("connection refused")
        return fetch(storage, path, *more)

    monkeypatch.setattr(Storage, "fetch", dies)
    with pytest.raises(StorageError, match="could no longer be reached"):
        run(encoder, index, batch_pictures=4)
    before = encoder.images_encoded
    assert verify(index).pictures == before > 0
    monkeypatch.setattr(Storage, "fetch", fetch)
    report = run(encoder, index)
    assert (report.pictures, encoder.images_encoded) == (50, 50)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    remote._STORAGES.clear()
    with pytest.raises(StorageError, match="listed"):
        run(encoder, index)
    assert verify(index).pictures == 50
    with Collection(index, encoder=encoder) as photos:
        hit = photos.search("", k=1)[0]
        assert photos.search("red", k=3, all=True)
        with pytest.raises(UnreadablePicture):
            photos.file_of(hit)


def test_keys_that_no_path_can_name_are_counted(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    s3.put_object(Bucket=BUCKET, Key="a/1.jpg", Body=jpeg(1))
    s3.put_object(Bucket=BUCKET, Key="a/b/", Body=b"")
    for key in ("a/b//2.jpg", "a//3.jpg", "/4.jpg", "s3://5.jpg", "a/6.jpg/"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=jpeg(2))
    report = run(encoder, tmp_path / "index")
    assert (report.pictures, report.left_out) == (1, {NO_PATH: 3})
    report = run(encoder, tmp_path / "all", f"s3://{BUCKET}")
    assert (report.pictures, report.left_out) == (1, {NO_PATH: 5})
    plan = plan_index(as_address(f"s3://{BUCKET}"), encoder, index=tmp_path / "all", options=IndexOptions(workers=1))
    assert plan.left_out == {NO_PATH: 5}


def test_a_key_with_a_version_in_its_name_is_that_key(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    contents = {"q": jpeg(1), "q?versionId=2.jpg": jpeg(2), "r.jpg?versionId=null": jpeg(3), "r.jpg": jpeg(4)}
    for name, content in contents.items():
        s3.put_object(Bucket=BUCKET, Key=f"a/{name}", Body=content)
    index = tmp_path / "index"
    assert run(encoder, index).skipped == []
    with Collection(index, encoder=encoder) as photos:
        hits = photos.search("", k=9)
        assert {"q?versionId=2.jpg", "r.jpg"} <= {hit.record.place for hit in hits}
        for hit in hits:
            assert Path(photos.file_of(hit)).read_bytes() == contents[hit.record.place]


def test_what_the_storage_refuses_is_skipped_and_does_not_stop_a_run(
    s3: Any, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of pictures that a rule has moved to an archive class of S3, the oldest of which come first."""
    for number in range(20):
        write_tar(tmp_path / "x.tar", {"0.jpg": jpeg(300 + number)})
        for name, content in (("jpg", jpeg(number)), ("tar", (tmp_path / "x.tar").read_bytes())):
            key = f"a/2009/{number:02d}.{name}"
            s3.put_object(Bucket=BUCKET, Key=key, Body=content, StorageClass="GLACIER")
    for number in range(5):
        s3.put_object(Bucket=BUCKET, Key=f"a/2020/{number}.jpg", Body=jpeg(100 + number))
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 1e9)  # what is refused for good is not asked for again
    report = run(encoder, tmp_path / "index")
    assert (report.pictures, report.skipped_by_status) == (5, {"unreadable": 40})
    assert all("storage class" in skip.reason for skip in report.skipped)
    report = run(encoder, tmp_path / "index")
    assert (report.pictures, report.encoded, len(report.skipped)) == (5, 0, 40)


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: FakeEncoder) -> None:
    for text in ("s3://b/p", "s3:/b/p", "gs://b", "s3://b/p q/é#1"):
        address = as_address(Path(text))
        assert is_address(address)
        assert str(address) == os.fspath(address) == f"{text.partition(':')[0]}://{text.partition(':')[2].lstrip('/')}"
        assert os.path.join(address, "x.jpg") == f"{address}/x.jpg"  # noqa: PTH118
        assert isinstance(address / "x", Address)
        assert address.absolute() == address
    for text in ("a/b", "/a", "C:/x", ":/", "s3:"):
        assert not is_address(as_address(Path(text)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "b").mkdir(parents=True)
    assert not is_address(as_address(Path("s3:/b")))
    for text, problem in (
        ("https://example.org/a", "not object storage"),
        ("s3://key:secret@bucket/a", "password"),
        ("zip://a::s3://b/x.zip", "not object storage"),
        ("nothing://b", "nothing"),
        ("reference:///x", "Check the address"),
        ("dir:///x", "Check the address"),
    ):
        with pytest.raises(StorageError, match=problem):
            Storage(text)
    with pytest.raises(StorageError, match="--index"):
        index_folder(as_address("s3://b/a"), encoder)


def test_what_reads_addresses_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("fsspec.registry")

    for package, protocol, kind, problem in (
        ("gcsfs", "gs", StorageError, "gcsfs"),
        ("s3fs", "s3", MissingExtra, r"clipsearch\[s3\]"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(registry._registry, protocol, raising=False)
        with pytest.raises(kind, match=problem):
            Storage(f"{protocol}://bucket/a")


def test_a_changed_object_is_not_shown(s3: Any, tmp_path: Path, encoder: FakeEncoder) -> None:
    s3.put_object(Bucket=BUCKET, Key="a/x.jpg", Body=jpeg(0))
    report = run(encoder, tmp_path / "index")
    s3.put_object(Bucket=BUCKET, Key="a/x.jpg", Body=jpeg(1))
    with Collection(report.index, encoder=encoder) as photos, pytest.raises(UnreadablePicture, match="changed"):
        photos.file_of(photos.search("", k=1)[0])
