"""Exports to real databases and files, read back with their own clients. Each database is skipped where its client is
not installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import CorruptIndex, InvalidQuery, InvalidTarget, MissingExtra, StorageError
from clipsearch.exports import pictures
from clipsearch.exports import run as export_run
from clipsearch.exports.pictures import ADDED, columns
from clipsearch.exports.run import ExportReport, export_index
from clipsearch.exports.targets import KINDS, hide, read_target
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.records import ImageRecord, IntArray, Manifest
from clipsearch.search.collection import Collection
from clipsearch.store import Writer
from clipsearch.store.tags import write_tags
from tests.support.collections import varied_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.mounts import Mounts
from tests.support.pictures import fill, picture

DIM = 16
TABLE = "photos"
QUERY = "red"


def needs(*modules: str) -> None:
    """Skip where a package is missing, and say which. They are extras that somebody may do without; `make test`
    installs all of them, as the extra `dev` names them, so that there nothing is skipped."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


class Base(NamedTuple):
    """A database under test. `read` gives its rows, by row id, with `vector`; `nearest` the ten nearest row ids to a
    vector as the database finds them; `mark` what is noted at the table; `spoil` writes a row of somebody else, and a
    field of theirs `note` at row 0 where it can have one; `foreign` makes a table of somebody else; `note` reads it."""

    target: str
    read: Callable[[], dict[int, dict[str, Any]]]
    nearest: Callable[[np.ndarray], list[int]]
    mark: Callable[[], str]
    spoil: Callable[[], None]
    foreign: Callable[[str], None]
    note: Callable[[], Any]


OTHERS_ID = 1_000_000


@pytest.fixture
def lancedb_base(tmp_path: Path) -> Iterator[Base]:
    needs("lancedb")
    import lancedb

    folder = tmp_path / "lance"

    def table() -> Any:
        return lancedb.connect(folder).open_table(TABLE)

    def read() -> dict[int, dict[str, Any]]:
        return {row["row_id"]: row for row in table().to_arrow().to_pylist()}

    def nearest(vector: np.ndarray) -> list[int]:
        return [row["row_id"] for row in table().search(vector).distance_type("cosine").limit(10).to_list()]

    def spoil() -> None:
        table().add_columns({"note": "cast(NULL as string)"})
        table().update(where="row_id = 0", values={"note": "mine"})
        table().add([{"row_id": OTHERS_ID, "vector": np.eye(DIM)[0].tolist(), "note": "theirs"}])

    def foreign(name: str) -> None:
        lancedb.connect(folder).create_table(name, [{"row_id": 1, "vector": [1.0] * DIM}])

    yield Base(
        f"lancedb:{folder}",
        read,
        nearest,
        lambda: str(table().schema.metadata[b"clipsearch.export"], "utf-8"),
        spoil,
        foreign,
        lambda: read()[0]["note"],
    )


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needs("pgserver", "psycopg", "pgvector")
    # PostgreSQL refuses to run as root, so it runs as a user who has to get there: pytest shuts its folders to others.
    folder = Path(tempfile.mkdtemp(prefix="clipsearch-pg-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import pgserver

        server = pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
            shutil.rmtree(folder)


@pytest.fixture
def postgres_base(postgres_server: str) -> Iterator[Base]:
    import psycopg
    from pgvector.psycopg import register_vector

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS photos, theirs")

        def read() -> dict[int, dict[str, Any]]:
            register_vector(connection)
            with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
                cursor.execute("SELECT * FROM photos")
                return {
                    row["row_id"]: {**row, "vector": np.asarray(_numbers(row["vector"]), np.float32)}
                    for row in cursor.fetchall()
                }

        def nearest(vector: np.ndarray) -> list[int]:
            asked = "SELECT row_id FROM photos WHERE vector IS NOT NULL ORDER BY vector <=> %s::vector LIMIT 10"
            return [row[0] for row in connection.execute(asked, (str(vector.tolist()),)).fetchall()]

        def mark() -> str:
            found = connection.execute("SELECT obj_description('photos'::regclass, 'pg_class')").fetchone()
            assert found is not None
            return str(found[0]).removeprefix("clipsearch export ")

        def spoil() -> None:
            connection.execute("ALTER TABLE photos ADD COLUMN note text")
            connection.execute("UPDATE photos SET note = 'mine' WHERE row_id = 0")
            connection.execute("INSERT INTO photos (row_id, note) VALUES (%s, 'theirs')", (OTHERS_ID,))

        yield Base(
            postgres_server,
            read,
            nearest,
            mark,
            spoil,
            lambda name: connection.execute(f"CREATE TABLE {name} (row_id int)") and None,  # type: ignore[arg-type]
            lambda: read()[0]["note"],
        )


def _numbers(vector: Any) -> Any:
    if vector is None:
        return []
    return vector.to_numpy() if hasattr(vector, "to_numpy") else vector


@pytest.fixture
def qdrant_base(tmp_path: Path) -> Iterator[Base]:
    needs("qdrant_client")
    from qdrant_client import QdrantClient, models

    folder = tmp_path / "qdrant"

    def asked(what: Callable[[Any], Any]) -> Any:
        client = QdrantClient(path=str(folder))
        try:
            return what(client)
        finally:
            client.close()

    def read() -> dict[int, dict[str, Any]]:
        points, _ = asked(lambda client: client.scroll(TABLE, limit=10_000, with_vectors=True))
        return {point.id: {"row_id": point.id, **point.payload, "vector": point.vector} for point in points}

    def nearest(vector: np.ndarray) -> list[int]:
        found = asked(lambda client: client.query_points(TABLE, query=vector.tolist(), limit=10))
        return [point.id for point in found.points]

    def spoil() -> None:
        asked(lambda client: client.set_payload(TABLE, {"note": "mine"}, points=[0]))
        theirs = models.PointStruct(id=OTHERS_ID, vector=np.eye(DIM)[0].tolist(), payload={"note": "theirs"})
        asked(lambda client: client.upsert(TABLE, [theirs]))

    def foreign(name: str) -> None:
        shape = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        asked(lambda client: client.create_collection(name, vectors_config=shape))

    yield Base(
        f"qdrant:{folder}",
        read,
        nearest,
        lambda: str(asked(lambda client: client.get_collection(TABLE).config.metadata["clipsearch.export"])),
        spoil,
        foreign,
        lambda: read()[0]["note"],
    )


@pytest.fixture
def milvus_base(tmp_path: Path) -> Iterator[Base]:
    needs("pymilvus", "milvus_lite")
    from pymilvus import MilvusClient

    folder = tmp_path / "milvus.db"

    def asked(what: Callable[[Any], Any], *, load: bool = True) -> Any:
        client = MilvusClient(str(folder))
        try:
            if load:
                client.load_collection(TABLE)
            return what(client)
        finally:
            client.close()

    def read() -> dict[int, dict[str, Any]]:
        found = asked(lambda client: client.query(TABLE, filter="row_id >= 0", output_fields=["*"], limit=10_000))
        return {row["row_id"]: row for row in found}

    def nearest(vector: np.ndarray) -> list[int]:
        return [hit["row_id"] for hit in asked(lambda client: client.search(TABLE, [vector.tolist()], limit=10))[0]]

    def spoil() -> None:
        theirs = {**dict.fromkeys(columns()), "row_id": OTHERS_ID, "vector": np.eye(DIM)[0].tolist(), "note": "theirs"}
        mine = {**read()[0], "note": "mine"}
        mine |= {
            name: list(mine[name]) for name, kind in columns().items() if kind == "texts" and mine[name] is not None
        }
        asked(lambda client: client.upsert(TABLE, [theirs, {**mine, "vector": list(mine["vector"])}]))

    def foreign(name: str) -> None:
        asked(lambda client: client.create_collection(name, dimension=DIM), load=False)

    yield Base(
        f"milvus:{folder}",
        read,
        nearest,
        lambda: str(asked(lambda client: client.describe_collection(TABLE)["properties"]["clipsearch.export"])),
        spoil,
        foreign,
        lambda: read()[0]["note"],
    )


@pytest.fixture(params=["lancedb", "postgres", "qdrant", "milvus"])
def base(request: pytest.FixtureRequest) -> Base:
    found: Base = request.getfixturevalue(f"{request.param}_base")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_index(tmp_path_factory.mktemp("exports") / "photos", FakeEncoder(dim=DIM)).parent


@pytest.fixture
def photos(made: Path, tmp_path: Path) -> Path:
    """A folder with an index of 300 pictures, to be changed."""
    shutil.copytree(made, tmp_path / "photos")
    return tmp_path / "photos"


def export(photos: Path, target: str, **options: Any) -> ExportReport:
    if not target.endswith((".parquet", ".arrow")):
        options.setdefault("table", TABLE)
    return export_index(photos / ".clipsearch", target, **options)


def wanted(photos: Path, row_ids: IntArray | None = None) -> dict[int, dict[str, Any]]:
    """What an export has to hold, as the collection tells it."""
    with Collection(photos / ".clipsearch", encoder=FakeEncoder(dim=DIM)) as collection:
        ids = collection.row_ids() if row_ids is None else row_ids
        tagged = {tag.name: collection.tag(tag.name).as_dict() for tag in collection.tags}
        vectors = collection.vectors(ids)
        found = {}
        for row_id, vector in zip(ids.tolist(), vectors, strict=True):
            record = collection.record(row_id)
            row = {**dataclasses.asdict(record), **dataclasses.asdict(record.metadata)}
            row["tags"] = sorted(name for name, carriers in tagged.items() if record.content_hash in carriers)
            found[row_id] = {**row, "vector": vector, "missing": False}
        return found


def compare(read: dict[int, dict[str, Any]], expected: dict[int, dict[str, Any]]) -> None:
    assert sorted(read) == sorted(expected)
    for row_id, row in expected.items():
        there = read[row_id]
        np.testing.assert_allclose(np.asarray(there["vector"], np.float32), row["vector"], atol=1e-6)
        for name in columns():
            if name not in (*ADDED, "traits", "colors"):
                told = list(row[name]) if isinstance(row[name], tuple) else row[name]
                assert there.get(name) == told, (row_id, name)
        assert list(there["tags"]) == row["tags"]
        assert list(there["traits"]) == list(there["colors"]) == []
        assert there["missing"] is row["missing"]


def mark_gone(photos: Path, kind: str, row_ids: list[int]) -> None:
    """Let rows be dead or missing, as a run of the indexer does."""
    gone = np.array(row_ids, np.int64)
    with Writer(photos / ".clipsearch") as writer:
        manifest = writer.current()
        assert manifest is not None
        fragments = []
        for fragment in manifest.fragments:
            own = gone[(gone >= fragment.first_row_id) & (gone <= fragment.last_row_id)]
            dead, missing = (own, {}) if kind == "dead" else (own[:0], {7: own})
            fragments.append(writer.mark_rows(fragment, dead, missing) if len(own) else fragment)
        away = len(gone) if kind == "missing" else 0
        pictures, missing_count = manifest.pictures - len(gone), manifest.missing + away
        writer.commit(
            dataclasses.replace(manifest, fragments=tuple(fragments), pictures=pictures, missing=missing_count)
        )


# -- databases


@pytest.mark.many
def test_everything_arrives_and_the_nearest_are_the_same(base: Base, photos: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = export(photos, base.target, progress=lambda done, total: seen.append((done, total)))
    assert (report.rows, report.added, report.changed, report.removed) == (300, 300, 0, 0)
    assert seen[0] == (0, 300) and seen[-1] == (300, 300)
    compare(base.read(), wanted(photos))
    noted = json.loads(base.mark())
    encoder = FakeEncoder(dim=DIM)
    assert (noted["model"], noted["fingerprint"]) == (encoder.name, encoder.fingerprint)
    assert (noted["dim"], noted["metric"], noted["root"]) == (DIM, "cosine", str(photos))
    rng = np.random.default_rng(3)
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        vectors = collection.vectors(collection.row_ids())
        for query in rng.normal(size=(5, DIM)).astype(np.float32):
            query /= np.linalg.norm(query)
            hits = collection.search(vector=query, k=10, all=True)
            found = base.nearest(query)
            assert len(set(found)) == 10
            scores = [float(vectors[row_id] @ query) for row_id in found]  # equal vectors may change places
            np.testing.assert_allclose(scores, [hit.score for hit in hits], atol=1e-5)
            distinct = {
                hit.record.row_id for hit in hits if sum(np.isclose(vectors @ query, hit.score, atol=1e-6)) == 1
            }
            assert distinct <= set(found)


@pytest.mark.many
def test_a_second_export_writes_nothing_and_a_third_what_changed(base: Base, photos: Path) -> None:
    export(photos, base.target)
    again = export(photos, base.target)
    assert (again.rows, again.added, again.changed, again.removed) == (300, 0, 0, 0)
    base.spoil()
    write_tags(photos / ".clipsearch", {"best": {f"{1:032x}": 1.0}})  # of the pictures 0 and 1
    mark_gone(photos, "dead", [5, 6, 7])
    third = export(photos, base.target)
    assert (third.rows, third.added, third.changed, third.removed) == (297, 0, 2, 3)
    there = base.read()
    theirs = there.pop(OTHERS_ID)
    assert theirs["note"] == "theirs" and theirs.get("digest") is None
    compare(there, wanted(photos))
    assert list(there[0]["tags"]) == ["best", "seen"]
    assert base.note() == "mine"  # a field that somebody added to a row that changed


@pytest.mark.many
def test_a_table_of_an_older_version_gets_the_columns_that_are_new(
    base: Base, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fields = [field for field in pictures._METADATA if field.name not in ("camera", "keywords", "rating")]
        patch.setattr(pictures, "_METADATA", fields)
        export(photos, base.target)
        assert "rating" not in next(iter(base.read().values()))
    report = export(photos, base.target)
    assert (report.rows, report.added, report.changed) == (300, 0, 300)
    compare(base.read(), wanted(photos))


@pytest.mark.many
def test_missing_pictures_go_along_only_when_asked_for(base: Base, photos: Path) -> None:
    mark_gone(photos, "missing", [0, 3])
    assert export(photos, base.target).rows == 298
    assert not {0, 3} & set(base.read())
    report = export(photos, base.target, missing=True)
    assert (report.rows, report.added, report.changed) == (300, 2, 0)
    there = base.read()
    assert {row_id for row_id, row in there.items() if row["missing"]} == {0, 3}
    assert list(there[0]["tags"]) == ["seen"]


@pytest.mark.many
def test_a_row_of_somebody_else_is_never_replaced(base: Base, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark_gone(photos, "missing", [5])
    export(photos, base.target)
    monkeypatch.setattr(sys.modules[__name__], "OTHERS_ID", 5)
    base.spoil()
    with pytest.raises(InvalidTarget, match=r"1 of your own rows \(row_id 5\).*Give them other ids"):
        export(photos, base.target, missing=True)
    there = base.read()
    assert there[5]["note"] == "theirs" and there[5].get("digest") is None
    assert len(there) == 300


@pytest.mark.many
def test_a_picture_that_was_read_again_or_moved_keeps_its_row(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    encoder = FakeEncoder(dim=DIM)
    first, second, third, fourth, *_ = fill(folder, 6)
    shutil.copy(first, folder / "same.jpg")  # one content, at two places
    run = partial(index_folder, folder, encoder, options=IndexOptions(workers=1))
    run()
    export(folder, base.target)
    paths = {row["row_id"]: row["path"] for row in base.read().values()}
    base.spoil()
    (folder / paths[0]).rename(folder / "moved.jpg")
    assert paths[0] == "same.jpg"
    for path in (first, second):  # the first has the content of the one that moved
        os.utime(path, (2e9, 2e9))
    picture(77).save(third)  # edited
    run()
    report = export(folder, base.target)
    there = base.read()
    assert there.pop(OTHERS_ID)["note"] == "theirs"
    told = wanted(folder)
    for name in ("path", "mtime_ns", "content_hash"):
        assert {row_id: row[name] for row_id, row in there.items()} == {n: row[name] for n, row in told.items()}
    for row_id, row in there.items():
        np.testing.assert_allclose(np.asarray(row["vector"], np.float32), told[row_id]["vector"], atol=1e-6)
    notes = {row["path"]: row.get("note") for row in there.values()}
    assert notes == {**{path: None for row_id, path in paths.items() if row_id}, "moved.jpg": "mine"}
    assert (report.rows, report.added, report.removed) == (7, 0, 0)
    assert report.changed == 4
    fourth.unlink()
    run()
    last = export(folder, base.target)
    assert (last.rows, last.added, last.changed, last.removed) == (6, 0, 0, 1)


@pytest.mark.many
def test_filters_choose(base: Base, photos: Path) -> None:
    with Collection(photos / ".clipsearch", encoder=FakeEncoder(dim=DIM)) as collection:
        ids = np.array(sorted(row for row in collection.row_ids() if collection.record(row).path.startswith("trips/")))
    report = export(photos, base.target, where="folder:trips")
    assert report.rows == len(ids) and 0 < len(ids) < 300
    compare(base.read(), wanted(photos, ids))
    with pytest.raises(InvalidTarget, match=r"folder:trips.*--table"):
        export(photos, base.target)
    assert len(base.read()) == len(ids)


@pytest.mark.many
def test_a_table_of_somebody_else_is_left_alone(base: Base, photos: Path) -> None:
    base.foreign("theirs")
    with pytest.raises(InvalidTarget, match=r"theirs exists, and clipsearch did not create it.*--table"):
        export(photos, base.target, table="theirs")
    export(photos, base.target)
    assert len(base.read()) == 300


@pytest.mark.many
def test_another_index_and_another_model_are_refused(base: Base, photos: Path, tmp_path: Path) -> None:
    export(photos, base.target)
    other = varied_index(tmp_path / "other", FakeEncoder(dim=DIM)).parent
    with pytest.raises(InvalidTarget, match=r"another index.*--table"):
        export(other, base.target)
    with Writer(photos / ".clipsearch") as writer:
        manifest = writer.current()
        assert manifest is not None
        model = dataclasses.replace(manifest.model, name="newer", fingerprint="f" * 32)
        writer.commit(dataclasses.replace(manifest, model=model))
    with pytest.raises(InvalidTarget, match="the model fake, and the index those of newer"):
        export(photos, base.target)
    assert len(base.read()) == 300


@pytest.mark.many
def test_an_index_that_has_nothing_to_show_empties_no_table(base: Base, photos: Path) -> None:
    export(photos, base.target)
    mark_gone(photos, "missing", list(range(300)))
    with pytest.raises(InvalidTarget, match=r"Nothing was removed.*--missing"):
        export(photos, base.target)
    assert len(base.read()) == 300


@pytest.mark.many
def test_an_interrupted_export_is_finished_by_the_next(
    base: Base, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(photos, base.target, progress=stop)
    report = export(photos, base.target)
    assert report.rows == 300
    compare(base.read(), wanted(photos))


@pytest.mark.many
@pytest.mark.parametrize("kind", ["lancedb", "qdrant", "milvus"])
def test_a_full_disk_is_told_and_says_how_to_go_on(
    kind: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs({"lancedb": "lancedb", "qdrant": "qdrant_client", "milvus": "pymilvus"}[kind])
    with closing(Mounts()) as mounts:
        mounts.tmpfs(tmp_path / "disk", size="64m")
        place = tmp_path / "disk" / "p.db"
        filling = place.with_name("filling")
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        with pytest.raises(InvalidTarget, match=r"no space left on its disk\. Free some space, then ") as error:
            export(photos, f"{kind}:{place}")
        assert "Traceback" not in "".join(capfd.readouterr())
        filling.unlink()
        if advice := re.search("delete (.*), which this export began and could not finish", str(error.value)):
            assert Path(advice[1]) == place
            shutil.rmtree(place)
        assert export(photos, f"{kind}:{place}").added == 300


@pytest.mark.many
def test_a_damaged_index_is_told_as_such(base: Base, photos: Path) -> None:
    export(photos, base.target)
    segment = next((photos / ".clipsearch").glob("**/*.parquet"))
    for path in (photos / ".clipsearch").glob("**/*.parquet"):
        path.write_bytes(b"nonsense" + path.read_bytes()[8:])
    assert segment.exists()
    with pytest.raises(CorruptIndex):
        export(photos, base.target)
    assert len(base.read()) == 300


# -- files


def test_a_milvus_lite_that_is_open_elsewhere_says_so(photos: Path, milvus_base: Base) -> None:
    folder = milvus_base.target.removeprefix("milvus:")
    Path(folder).mkdir()
    (Path(folder) / "collections").mkdir()
    holds = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    lock = [sys.executable, "-c", holds, f"{folder}/LOCK"]
    command = [sys.executable, "-m", "clipsearch", "export", milvus_base.target, "--index", str(photos)]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        other.communicate(b"\n")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"clipsearch: cannot export to {milvus_base.target}: another program has it open. "
        "Close it there, then run the same command again"
    ]


@pytest.mark.parametrize("name", ["all.parquet", "all.arrow"])
def test_a_file_has_everything(photos: Path, tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = tmp_path / name
    assert export(photos, str(target)).rows == 300
    table = pq.read_table(target) if name.endswith("parquet") else pa.ipc.open_file(target).read_all()
    with Collection(photos / ".clipsearch", encoder=FakeEncoder(dim=DIM)) as collection:
        assert table.sort_by("row_id").drop_columns(["tags", "missing"]).equals(collection.to_arrow())
    expected = wanted(photos)
    assert {row["row_id"]: row["tags"] for row in table.to_pylist()} == {i: row["tags"] for i, row in expected.items()}
    assert json.loads(table.schema.metadata[b"clipsearch.export"])["metric"] == "cosine"


def test_a_file_is_replaced_only_when_asked_and_only_an_export(photos: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    target, other = tmp_path / "all.parquet", tmp_path / "other.parquet"
    export(photos, str(target))
    before = target.read_bytes()
    with pytest.raises(InvalidTarget, match=r"already exists.*--overwrite"):
        export(photos, str(target))
    assert target.read_bytes() == before
    assert export(photos, str(target), overwrite=True, where="folder:trips").rows < 300
    assert pq.read_table(target).num_rows < 300
    pq.write_table(pa.table({"path": ["a"], "vector": [[1.0]]}), other)
    theirs = other.read_bytes()
    with pytest.raises(StorageError, match="already exists"):
        export(photos, str(other))
    with pytest.raises(InvalidTarget, match="replaces only its own"):
        export(photos, str(other), overwrite=True)
    assert other.read_bytes() == theirs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.parquet", "other.parquet", "photos"]


def test_a_stopped_export_leaves_no_file(photos: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(photos, str(tmp_path / "all.parquet"), progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_nothing_is_written_into_an_index(photos: Path) -> None:
    before = sorted(photos.rglob("*"))
    for target in ("a.parquet", "sub/x.arrow"):
        with pytest.raises(InvalidTarget, match="inside the index"):
            export(photos, str(photos / ".clipsearch" / target))
    assert sorted(photos.rglob("*")) == before


# -- targets


@pytest.mark.many
@pytest.mark.parametrize("kind", ["lancedb", "qdrant", "milvus"])
def test_a_folder_with_other_things_is_refused(kind: str, photos: Path) -> None:
    needs({"lancedb": "lancedb", "qdrant": "qdrant_client", "milvus": "pymilvus"}[kind])
    place = photos if kind != "milvus" else photos.rename(photos.parent / "photos.db")
    index = place / ".clipsearch"
    before = sorted(place.rglob("*"))
    with pytest.raises(InvalidTarget, match=r"the folder has other files.*Name [^.]*$"):
        export_index(index, f"{kind}:{place}")
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "target", ["photos.csv", "", "photos", "lancedb:", "qdrant:", "milvus:", "postgresql:", "mysql://u:secret@h/d"]
)
def test_a_target_that_is_none_is_refused(photos: Path, target: str) -> None:
    with pytest.raises(InvalidTarget) as raised:
        export_index(photos / ".clipsearch", target)
    assert "secret" not in str(raised.value)
    assert re.search(r"(Name one of|Write it as): \S+", str(raised.value))


@pytest.mark.parametrize("name", ["", "a b", "a;DROP TABLE x", "1a", "ä", "x" * 64, "a.b", '"'])
def test_a_name_that_no_table_can_have_is_refused(photos: Path, name: str) -> None:
    with pytest.raises(InvalidTarget, match="not a name for a table"):
        export_index(photos / ".clipsearch", "lancedb:x", table=name)


def test_only_filters_choose(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidQuery, match="not a filter"):
        export(photos, str(tmp_path / "a.parquet"), where="a dog")
    assert not (tmp_path / "a.parquet").exists()


def test_a_missing_package_names_its_extra(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    packages = {"lancedb": "lancedb", "postgresql": "psycopg", "qdrant": "qdrant_client", "milvus": "pymilvus"}
    for kind in KINDS:
        if kind.extra is None:
            continue
        prefix = kind.prefixes[0].removesuffix(":")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, packages[prefix], None)
            patch.delitem(sys.modules, f"clipsearch.exports.{kind.module}", raising=False)
            with pytest.raises(MissingExtra, match=rf"pip install 'clipsearch\[{kind.extra}\]'"):
                export_index(photos / ".clipsearch", f"{prefix}://{tmp_path}/x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


SECRET = st.text("abcXYZ019@/:%?&=+ !ß", min_size=6).filter(lambda text: text.strip() == text)


@given(secret=SECRET)
def test_no_password_is_shown(secret: str) -> None:
    from urllib.parse import quote

    written = quote(secret, safe="")
    for url in (
        f"postgresql://me:{written}@db.example/photos",
        f"postgresql://db.example/photos?user=me&password={written}",
        f"qdrant:https://me:{written}@db.example:6333",
        f"milvus:https://db.example:19530?token={written}",
    ):
        target = read_target(url)
        assert written not in target.shown and "db.example" in target.shown
        assert "***" in target.shown
        for form in (secret, written):
            assert form not in target.without_secrets(f"could not connect with {form} to it").replace("***", "")
    assert read_target("qdrant:http://me:a@db").without_secrets("a was wrong") == "the database refused"
    shown, _ = hide("postgresql://me:not/escaped@too@db.example/photos")
    assert shown == "postgresql://me:***@db.example/photos"


@pytest.mark.many
@pytest.mark.parametrize(
    "target",
    [
        "postgresql://me:hunter2hunter2@127.0.0.1:1/photos",
        "postgresql://127.0.0.1:1/photos?password=hunter2hunter2&nonsense=1",
        "qdrant:http://me:hunter2hunter2@127.0.0.1:1",
    ],
)
def test_a_database_that_does_not_answer_is_told_without_the_password(photos: Path, target: str) -> None:
    needs("psycopg", "pgvector", "qdrant_client")
    with pytest.raises(InvalidTarget, match="Check the address") as raised:
        export_index(photos / ".clipsearch", target)
    told: BaseException | None = raised.value
    while told is not None:
        assert "hunter2" not in f"{told} {told.args} {vars(told)}" or told is not raised.value
        told = None if told.__suppress_context__ else told.__cause__ or told.__context__
    assert "127.0.0.1" in str(raised.value)


def test_batches_stay_small(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the index holds, no more than a batch is in memory."""
    needs("lancedb")
    sizes: list[int] = []
    monkeypatch.setattr("clipsearch.exports.pictures.BATCH_ROWS", 64)

    engine = export_run.load_engine(read_target("lancedb:x"))
    write = engine.write

    def noted(self: Any, rows: Any, is_new: Any) -> None:
        sizes.append(len(rows))
        write(self, rows, is_new)

    monkeypatch.setattr(engine, "write", noted)
    export(photos, f"lancedb:{tmp_path / 'l'}")
    assert sum(sizes) == 300 and max(sizes) <= 64


def test_records_and_manifests_are_what_the_test_thinks() -> None:
    """Every field of a record is a column, or is named as none of other programs' business."""
    from clipsearch.exports.pictures import OURS

    named = {field.name for field in dataclasses.fields(ImageRecord)} - {"metadata"}
    assert named <= {*columns(), *OURS}
    assert {field.name for field in dataclasses.fields(Manifest)} >= {"missing", "pictures"}
    assert os.environ.get("QDRANT_API_KEY") is None
