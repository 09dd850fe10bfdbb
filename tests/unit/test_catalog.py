"""What a run knows of an index, held against plain lists and dictionaries."""

from __future__ import annotations

import dataclasses
import itertools
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.indexer import catalog as catalog_module
from clipsearch.indexer import changes as changes_module
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import compare
from clipsearch.indexer.scan import FileBlock, FoundFile
from clipsearch.indexer.segments import write_fragment
from clipsearch.records import Fragment, ImageRecord
from clipsearch.store import Writer
from clipsearch.store.arrow import to_array, to_numbers
from clipsearch.store.columns import path_key

rows = st.builds(
    ImageRecord,
    row_id=st.just(0),
    path=st.sampled_from([f"{folder}{name}.jpg" for folder in ("", "a/", "a/b/") for name in "uvwxyz"]),
    size_bytes=st.integers(0, 3),
    mtime_ns=st.integers(0, 2),
    inode=st.integers(0, 2**64 - 1),
    content_hash=st.integers(1, 5).map("{:032x}".format),
    status=st.sampled_from(["ok", "ok", "corrupt"]),
)
fates = st.sampled_from(["there", "there", "dead", 100, 200])  # a number: missing since then
fragments = st.lists(st.lists(st.tuples(rows, fates), min_size=1, max_size=8), max_size=4)
Known = list[tuple[ImageRecord, int]]


def write(folder: Path, parts: list[list[tuple[ImageRecord, str | int]]]) -> tuple[list[Fragment], Known]:
    """Fragments of rows, and those that are not dead in the order of a catalog, each with when it was missed."""
    ids = itertools.count()
    vector_ids = itertools.count()
    made: list[Fragment] = []
    known: Known = []
    with Writer(folder) as writer:
        for part in parts:
            records = [
                dataclasses.replace(
                    record, row_id=next(ids), vector_id=next(vector_ids) if record.status == "ok" else -1
                )
                for record, _ in part
            ]
            fragment = write_fragment(writer, lambda records=records: [records])  # type: ignore[misc]
            assert fragment is not None
            pairs = list(zip(records, [fate for _, fate in part], strict=True))

            def those(fate: str | int, pairs: list[tuple[ImageRecord, str | int]] = pairs) -> np.ndarray:
                return np.array([record.row_id for record, its in pairs if its == fate], np.int64)

            made.append(
                dataclasses.replace(
                    fragment,
                    dead=writer.add_marks({0: those("dead")}),
                    missing=writer.add_marks({since: those(since) for since in (100, 200)}),
                )
            )
            known += [
                (record, fate if isinstance(fate, int) else 0)
                for skipped in (False, True)  # as a rows file has them
                for record, fate in pairs
                if (record.status != "ok") is skipped and fate != "dead"
            ]
    return made, known


def block_of(folder: str, files: list[FoundFile]) -> FileBlock:
    return FileBlock(
        folder,
        [file.path.rpartition("/")[2] for file in files],
        np.frombuffer(b"".join(path_key(file.path) for file in files), "<i8").reshape(-1, 2),
        np.array([file.size_bytes for file in files], np.int64),
        np.array([file.mtime_ns for file in files], np.int64),
        np.array([file.inode for file in files], np.uint64),
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(parts=fragments, few=st.sampled_from([0, 100]))
def test_a_catalog_says_what_its_rows_are(
    parts: list[list[tuple[ImageRecord, str | int]]], few: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    made, known = write(folder, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_module, "FEW", few)
        catalog = Catalog(folder, made)
        assert [catalog.record(number) for number in range(len(catalog))] == [record for record, _ in known]
        assert [catalog.row_id(number) for number in range(len(catalog))] == [record.row_id for record, _ in known]
        assert catalog.sizes.tolist() == [record.size_bytes for record, _ in known]
        assert catalog.mtimes_ns.tolist() == [record.mtime_ns for record, _ in known]
        assert catalog.vector_ids.tolist() == [record.vector_id for record, _ in known]
        assert (catalog.statuses == 0).tolist() == [record.status == "ok" for record, _ in known]
        assert catalog.missed_since_s.tolist() == [since for _, since in known]
        assert catalog.away.tolist() == [since > 0 for _, since in known]
        numbers = np.arange(len(catalog))[::-1]
        assert catalog.inodes_of(numbers).tolist() == [record.inode for record, _ in known][::-1]
        for size in range(5):
            assert catalog.knows_size(size) is any(record.size_bytes == size for record, _ in known)
        for content in range(1, 7):
            first, second = struct.unpack("<2q", bytes.fromhex(f"{content:032x}"))
            same = [n for n, (record, _) in enumerate(known) if record.content_hash == f"{content:032x}"]
            assert sorted(catalog.with_content((first, second))) == same
        by_path: dict[str, set[int]] = {}
        for number, (record, _) in enumerate(known):
            by_path.setdefault(record.path, set()).add(number)
        asked = [*by_path, "none.jpg", *by_path]
        keys = np.frombuffer(b"".join(map(path_key, asked)), "<i8").reshape(-1, 2)
        for path, key, number in zip(asked, keys, catalog.match(keys).tolist(), strict=True):
            assert set(catalog.same_path(key)) == by_path.get(path, set())
            assert number in by_path.get(path, {-1})
        for number, key in enumerate(catalog.paths_by_number()):
            assert number in catalog.same_path(key)
        chosen = np.zeros(len(catalog), bool)
        chosen[::3] = True
        wanted = [any(chosen[list(by_path[record.path])]) for record, _ in known]
        assert catalog.of_same_files(chosen).tolist() == wanted


def found_in(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    for folder in ("", "a", "a/b"):
        yield folder, [name for name in names if name.rpartition("/")[0] == folder]


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    parts=fragments,
    files=st.dictionaries(rows.map(lambda row: row.path), st.tuples(st.integers(0, 3), st.integers(0, 2))),
    batch=st.sampled_from([1, 2, 5, 65_536]),
)
def test_what_is_compared_together_changes_nothing(
    parts: list[list[tuple[ImageRecord, str | int]]],
    files: dict[str, tuple[int, int]],
    batch: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """However many folders are compared at once, a row of its path, size and time makes a file unchanged."""
    folder = tmp_path_factory.mktemp("index")
    paths: set[str] = set()
    kept = []
    for part in parts:  # one row for a path
        kept.append([(record, fate) for record, fate in part if not (record.path in paths or paths.add(record.path))])  # type: ignore[func-returns-value]
    made, known = write(folder, [part for part in kept if part])
    catalog = Catalog(folder, made)
    blocks = [
        block_of(where, [FoundFile(name, *files[name], 7) for name in names])
        for where, names in found_in(list(files))
        if names
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes_module, "BATCH_FILES", batch)
        changes, seen = compare(catalog, iter(blocks))
    rows_of = {record.path: (number, record) for number, (record, _) in enumerate(known)}
    same, cut = set(), set()
    for path, (size, mtime) in files.items():
        if path in rows_of and rows_of[path][1].size_bytes == size:
            number, record = rows_of[path]
            if record.mtime_ns == mtime:
                same.add(path)
            elif mtime == 0 and record.status == "ok" and record.vector_id >= 0 and not known[number][1]:
                cut.add(path)  # 0 is any of these times, cut to what archives keep
    assert changes.unchanged == len(same)
    assert {known[row][0].path for row, _, _ in changes.retimed} == cut
    read = [(block.folder, [file.path for file in block]) for block in changes.to_read]
    assert read == [
        (where, wanted) for where, names in found_in(list(files)) if (wanted := sorted(set(names) - same - cut))
    ]
    assert np.flatnonzero(seen).tolist() == sorted(number for path, (number, _) in rows_of.items() if path in files)
    back = {number for path, (number, _) in rows_of.items() if path in same and known[number][1]}
    assert sorted(changes.returned) == sorted(back)
    skipped = [path for path in same if rows_of[path][1].status != "ok"]
    assert sorted(record.path for record in changes.unchanged_skipped) == sorted(skipped)


VALUES = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "double": (pa.float64(), st.floats(allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text("aé世😀\0 ")),
    "binary": (pa.binary(), st.binary()),
}


@settings(deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(VALUES)))
def test_arrays_of_buffers_are_those_that_arrow_makes(data: st.DataObject, name: str) -> None:
    kind, values = VALUES[name]
    chosen = data.draw(st.lists(st.none() | values, max_size=70))
    made = to_array(chosen, kind)
    made.validate(full=True)
    assert made.equals(pa.array(chosen, kind))


@settings(max_examples=20)
@given(pieces=st.lists(st.lists(st.integers(-9, 9), max_size=5), max_size=3), cut=st.integers(0, 4))
@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.float16(), pa.uint64()], ids=str)
def test_numbers_come_out_of_arrays_as_they_are(kind: pa.DataType, pieces: list[list[int]], cut: int) -> None:
    chunks = [pa.array(np.abs(piece).astype(kind.to_pandas_dtype()), kind)[cut:] for piece in pieces]
    whole = pa.chunked_array(chunks, kind)
    for array in (whole, *chunks):
        taken = to_numbers(array)
        assert taken.dtype == kind.to_pandas_dtype()
        assert taken.tolist() == array.to_pylist()


def test_what_is_no_number_does_not_come_out_as_one() -> None:
    with pytest.raises(ValueError, match="1 numbers are missing"):
        to_numbers(pa.array([1, None]))
    for values in (["a"], [True], [b"a"], [[1]]):
        with pytest.raises(ValueError, match="not numbers, but"):
            to_numbers(pa.array(values))


RUN = """
import sys
from pathlib import Path
import clipsearch
from clipsearch.indexer.build import IndexOptions
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import FakeEncoder
photos = Path(sys.argv[1])
report = clipsearch.index(photos, encoder=FakeEncoder(), options=IndexOptions(workers=1))
assert report.encoded == 3
index = photos / ".clipsearch"
assert verify(index).ok
with Collection(index, encoder=FakeEncoder()) as found:
    assert found.to_arrow().num_rows == 3
for copy in (index / "search").iterdir():
    copy.unlink()
assert repair(index).pictures == 3
compact(index)
print(*sorted(sys.modules))
"""


@pytest.mark.slow
def test_a_run_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """pyarrow imports pandas by itself, wherever it is installed, unless arrays are made of buffers and taken apart."""
    from tests.support.pictures import fill

    fill(tmp_path / "photos", 3)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "photos")], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "pyarrow" in loaded
    assert not {"pandas", "faiss", "torch", "gradio", "onnxruntime", "rich"} & loaded
