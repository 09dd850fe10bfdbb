"""A collection as a table, and as what can be looped over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clipsearch
from clipsearch.exports.run import export_index
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.search.collection import Collection
from tests.support.collections import varied_index
from tests.support.fake_encoder import FakeEncoder

DIM = 16
EXAMPLES = max(8, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 50)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    encoder = FakeEncoder(dim=DIM)
    folder = tmp_path_factory.mktemp("tables") / "photos"
    with Collection(varied_index(folder, encoder), encoder=encoder) as photos:
        yield photos


def matrix(table: pa.Table) -> np.ndarray:
    column = table.column("vector").combine_chunks()
    return np.asarray(column.flatten()).reshape(len(table), -1)


def test_a_table_has_every_picture_by_row_id_with_its_vector(photos: Collection) -> None:
    table = photos.to_arrow()
    row_ids = table.column("row_id").to_pylist()
    assert row_ids == photos.row_ids().tolist() == list(range(300))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), DIM)
    np.testing.assert_array_equal(matrix(table), photos.vectors(row_ids))
    for row in table.slice(0, 300).drop_columns(["vector"]).to_pylist():
        record = photos.record(row["row_id"])
        for name in ("path", "size_bytes", "mtime_ns", "content_hash", "width", "height", "status"):
            assert row[name] == getattr(record, name)
        for name in ("format", "taken_at", "camera", "latitude", "longitude"):
            assert row[name] == getattr(record.metadata, name)


def test_batches_are_the_same_rows(photos: Collection) -> None:
    for vectors in (True, False):
        whole = photos.to_arrow(vectors=vectors)
        batches = list(photos.batches(vectors=vectors))
        assert len(batches) > 1
        assert pa.Table.from_batches(batches).sort_by("row_id") == whole
        assert ("vector" in whole.column_names) is vectors
    assert photos.to_arrow().drop_columns(["vector"]) == photos.to_arrow(vectors=False)


def test_an_export_is_the_same_table(photos: Collection, tmp_path: Path) -> None:
    assert export_index(photos.index, str(tmp_path / "all.parquet")).rows == 300
    exported = pq.read_table(tmp_path / "all.parquet").sort_by("row_id")
    assert exported.drop_columns(["tags", "missing"]).equals(photos.to_arrow())
    assert photos.to_arrow().schema.metadata.items() <= exported.schema.metadata.items()


def test_pandas_gets_the_same(photos: Collection) -> None:
    frame = photos.to_pandas()
    assert list(frame["row_id"]) == list(range(300))
    np.testing.assert_array_equal(np.stack(frame["vector"].to_list()), photos.vectors(range(300)))
    assert "vector" not in photos.to_pandas(vectors=False)


def test_a_loop_gives_each_record_once(photos: Collection) -> None:
    records = list(photos)
    assert [record.row_id for record in records] == photos.row_ids().tolist()
    assert records[7] == photos.record(7)
    assert len(records) == len(photos)


def test_a_collection_says_what_it_is(photos: Collection) -> None:
    assert repr(photos) == f"<Collection of 300 pictures in {str(photos.root)!r}, model fake>"
    with clipsearch.connect("http://127.0.0.1:9", index="holidays") as remote:
        assert repr(remote) == "<RemoteCollection at http://127.0.0.1:9, index holidays>"


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "copy", "rename", "delete", "change"]), st.integers(0, 99)), max_size=6
)


def do(folder: Path, step: str, number: int) -> None:
    """Change a folder of pictures as people do."""
    there = sorted(folder.glob("*.png"))
    new = folder / f"{number:02d}-{len(there)}\udcff.png"
    if step == "add" or len(there) < 2:  # an empty folder is refused
        Image.new("RGB", (8, 8), (2 * number, 255 - number, len(there))).save(new)
        return
    chosen = there[number % len(there)]
    if step == "copy":
        shutil.copyfile(chosen, new)
    elif step == "rename":
        chosen.rename(new)
    elif step == "delete":
        chosen.unlink()
    else:
        Image.new("RGB", (8, 9), (number, number, 7)).save(chosen)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(runs=st.lists(STEPS, min_size=1, max_size=4))
def test_whatever_was_done_to_the_folder_rows_and_vectors_belong_together(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[tuple[str, int]]]
) -> None:
    folder, encoder = tmp_path_factory.mktemp("changing"), FakeEncoder(dim=DIM)
    for steps in [[("add", 1), ("add", 2)], *runs]:
        for step, number in steps:
            do(folder, step, number)
        index_folder(folder, encoder, options=IndexOptions(workers=1))
    with clipsearch.open(folder, encoder=encoder) as photos:
        table = photos.to_arrow()
        row_ids = table.column("row_id").to_pylist()
        assert row_ids == photos.row_ids().tolist() == [record.row_id for record in photos]
        np.testing.assert_array_equal(matrix(table), photos.vectors(row_ids))
        assert len(photos) == len(table) == len(list(folder.glob("*.png")))
        assert table.drop_columns(["vector"]) == photos.to_arrow(vectors=False)
        assert table.column("path_bytes").to_pylist() == [os.fsencode(record.path) for record in photos]
