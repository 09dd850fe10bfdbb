"""Units of work, in this process and on a Ray cluster, make the same index of object storage as this machine does: of
pictures, tars and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import StorageError
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.executors import Executor, LocalExecutor
from clipsearch.places import as_address
from clipsearch.store import open_snapshot
from tests.contract.test_executors import check_same, content, told
from tests.support.archives import jpeg, table, write_parquet, write_tar
from tests.support.clusters import ClusterEncoder, ray_cluster, ray_executor
from tests.support.storage import BUCKET, Wire
from tests.support.unit_pool import UnitExecutor

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow  # a server, and a cluster
ADDRESS = as_address(f"s3://{BUCKET}/a")
LOOSE = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as made:
        yield made


@pytest.fixture(params=["units", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "units":
        return UnitExecutor()
    return ray_executor(request.getfixturevalue("cluster").address, unit_pictures=7)


@pytest.fixture
def bucket(s3: Any, tmp_path: Path) -> Any:
    """Pictures, a copy, what is no picture, two tars with captions, and a Parquet file with columns."""
    for number in range(LOOSE):
        s3.put_object(Bucket=BUCKET, Key=f"a/{number % 3}/{number:03d}.jpg", Body=jpeg(number))
    s3.put_object(Bucket=BUCKET, Key="a/copy.jpg", Body=jpeg(5))
    s3.put_object(Bucket=BUCKET, Key="a/broken.jpg", Body=jpeg(6)[:300])
    s3.put_object(Bucket=BUCKET, Key="a/text.png", Body=b"no picture")
    for number in range(2):
        members: dict[str, Any] = {f"{n}.jpg": jpeg(100 + 10 * number + n) for n in range(8)}
        write_tar(tmp_path / "x.tar", members | {"3.txt": "a caption"})
        s3.upload_file(str(tmp_path / "x.tar"), BUCKET, f"a/some{number}.tar")
    made = table([jpeg(n) for n in range(200, 212)], {"text": [f"row {n}" for n in range(12)]})
    s3.upload_file(str(write_parquet(tmp_path / "t.parquet", made)), BUCKET, "a/more.parquet")
    return s3


def run(index: Path, executor: Executor, **options: Any) -> IndexReport:
    options = {"workers": 1, "archives": True, **options}
    return index_folder(ADDRESS, ClusterEncoder(), index=index, executor=executor, options=IndexOptions(**options))


def test_a_cluster_makes_the_same_index_of_a_bucket(bucket: Any, executor: Executor, tmp_path: Path) -> None:
    local = run(tmp_path / "local", LocalExecutor())
    other = run(tmp_path / "other", executor)
    assert told(local) == told(other)
    assert (local.encoded, local.copied, local.pictures) == (LOOSE + 16 + 12, 1, LOOSE + 1 + 16 + 12)
    check_same(tmp_path / "local", tmp_path / "other")
    assert {row.member for row in content(tmp_path / "other")[0]} > {"0.jpg", "11.jpg"}
    again = run(tmp_path / "other", executor)
    assert (again.encoded, again.unchanged, again.generation) == (0, local.pictures + 2, other.generation)
    bucket.put_object(Bucket=BUCKET, Key="a/0/000.jpg", Body=jpeg(900))
    bucket.delete_object(Bucket=BUCKET, Key="a/1/001.jpg")
    for index, who in ((tmp_path / "local", LocalExecutor()), (tmp_path / "other", executor)):
        report = run(index, who)
        assert (report.encoded, report.removed) == (1, 1)
    check_same(tmp_path / "local", tmp_path / "other")


@pytest.mark.few(each="what executor")
@pytest.mark.parametrize("what", ["listing", "pictures", "archives"])
def test_a_bucket_that_fails_half_way_is_resumed_by_a_cluster(
    bucket: Any, executor: Executor, wire: Wire, tmp_path: Path, what: str
) -> None:
    index, asked = tmp_path / "other", 0

    def fails(key: str) -> int | None:
        nonlocal asked
        asked += 1
        is_archive = not key.endswith((".jpg", ".png"))
        return 503 if (what == "archives" and is_archive) or (what == "pictures" and asked > 30) else None

    if what == "listing":
        wire.before = lambda number: 403 if number > 5 else None
    else:
        wire.asked = fails
    if what == "archives":  # which are too few for that the storage is taken for gone
        report = run(index, executor, commit_rows=8)
        assert report.skipped_by_status["unreadable"] == 3
    else:
        with pytest.raises(StorageError, match=r"[Rr]un the same command"):
            run(index, executor, commit_rows=8)
    with open_snapshot(index) as snapshot:
        before = snapshot.manifest
    assert 0 < before.pictures < LOOSE + 29 and before.missing == 0
    wire.before, wire.asked = lambda number: None, lambda key: None
    report = run(index, executor)
    assert report.encoded == LOOSE + 28 - (before.pictures - (what == "archives"))
    run(tmp_path / "local", LocalExecutor())
    check_same(tmp_path / "local", index)
