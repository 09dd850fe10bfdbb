"""Segments with inverted files: float16 vectors beside float32 truth, through repair, compaction and older indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import UnsupportedIndex
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.records import FloatArray
from clipsearch.search.collection import Collection
from clipsearch.store import open_snapshot, read_pictures
from clipsearch.vectors import write_vectors
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill


@pytest.fixture
def index(photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("clipsearch.indexer.build.FIRST_COMMIT_S", 1000.0)  # one segment, however busy the machine
    monkeypatch.setattr("clipsearch.indexer.segments.IVF_FROM_ROWS", 80)
    fill(photos, 100)
    grow(photos, encoder)
    return photos / ".clipsearch"


def grow(photos: Path, encoder: FakeEncoder) -> None:
    index_folder(photos, encoder, options=IndexOptions(workers=1, commit_s=1000))


def stored_vectors(index: Path) -> dict[str, FloatArray]:
    """What Parquet holds, by path."""
    vectors: dict[str, FloatArray] = {}
    with open_snapshot(index) as snapshot:
        for batch in read_pictures(index, snapshot.manifest):
            vectors |= {record.path: row for record, row in zip(batch.records, batch.vectors, strict=True)}
    return vectors


def current_files(index: Path, folder: str) -> list[Path]:
    """Those of the current generation."""
    with open_snapshot(index) as snapshot:
        return [index / ref.path for ref in snapshot.manifest.files() if ref.path.startswith(folder + "/")]


def files(index: Path, folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in current_files(index, folder)}


def kinds(index: Path) -> list[str]:
    return [np.load(path, mmap_mode="r").dtype.str for path in sorted(current_files(index, "search"))]


def test_large_segments_are_float16_and_small_ones_float32(index: Path, encoder: FakeEncoder) -> None:
    assert kinds(index) == ["<f2"]
    truth = stored_vectors(index)
    with Collection(index, encoder=encoder) as photos:
        hits = photos.search("red", k=100, all=True)
        assert len(hits) == 100
        query = photos.encode_query("red")
    for hit in hits:
        assert hit.score == pytest.approx(float(truth[hit.record.path] @ query), abs=1e-3)
    fill(index.parent, 5, first=100)
    grow(index.parent, encoder)
    assert sorted(kinds(index)) == ["<f2", "<f4"]


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("folder", thinned(["search", "faiss"], 2))
def test_repair_makes_the_same_files_again(index: Path, folder: str) -> None:
    before = {name: files(index, name) for name in ("records", "vectors", "search", "faiss")}
    (victim,) = current_files(index, folder)
    victim.write_bytes(victim.read_bytes()[:-1])
    assert not verify(index).ok
    assert repair(index).lost_rows == 0
    assert verify(index).ok
    assert {name: files(index, name) for name in before} == before


@pytest.mark.slow
def test_compaction_takes_its_vectors_from_parquet(index: Path, encoder: FakeEncoder) -> None:
    before = stored_vectors(index)
    assert any(np.any(row != row.astype(np.float16)) for row in before.values())
    for first in (100, 105):
        fill(index.parent, 5, first=first)
        grow(index.parent, encoder)
        compact(index)
    after = stored_vectors(index)
    assert len(after) == 110
    for path, row in before.items():
        np.testing.assert_array_equal(after[path], row)
    assert kinds(index) == ["<f2"]


@pytest.mark.slow
def test_what_parquet_lost_comes_back_from_float16(index: Path) -> None:
    before = stored_vectors(index)
    (data,) = current_files(index, "vectors")
    data.write_bytes(data.read_bytes()[:-1])
    report = repair(index)
    assert report.lost_rows == 0
    assert "float16" in " ".join(report.actions)
    assert verify(index).ok
    for path, row in stored_vectors(index).items():
        np.testing.assert_array_equal(row, before[path].astype(np.float16))


@pytest.mark.slow
def test_float32_vectors_of_an_older_index_stay_readable(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.indexer.build.FIRST_COMMIT_S", 1000.0)
    monkeypatch.setattr("clipsearch.indexer.segments.IVF_FROM_ROWS", 80)
    fill(photos, 100)
    with monkeypatch.context() as patch:

        def as_before(*arguments: object, half: bool) -> None:
            write_vectors(*arguments)  # type: ignore[arg-type]

        patch.setattr("clipsearch.indexer.segments.write_vectors", as_before)
        grow(photos, encoder)
    index = photos / ".clipsearch"
    assert kinds(index) == ["<f4"]
    assert verify(index).ok
    with Collection(index, encoder=encoder) as collection:
        before = [(hit.path, hit.score) for hit in collection.search("red", k=10, all=True)]
    fill(photos, 1, first=100)
    grow(photos, encoder)
    compact(index)
    assert kinds(index) == ["<f2"]
    assert verify(index).ok
    with Collection(index, encoder=encoder) as collection:
        found = {hit.path: hit.score for hit in collection.search("red", k=101, all=True)}
    for path, score in before:
        assert found[path] == pytest.approx(score, abs=1e-3)


def lists_visited(index: Path) -> list[int]:
    with open_snapshot(index) as snapshot:
        return [segment.ivf.nprobe for segment in snapshot.manifest.segments if segment.ivf is not None]


def recall_target(index: Path) -> float:
    with open_snapshot(index) as snapshot:
        return snapshot.manifest.recall_target


@pytest.mark.slow
def test_the_recall_asked_for_is_kept_and_tuned_for(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.indexer.build.FIRST_COMMIT_S", 1000.0)
    monkeypatch.setattr("clipsearch.indexer.segments.IVF_FROM_ROWS", 200)
    index = photos / ".clipsearch"
    fill(photos, 300)

    def run(**options: object) -> None:
        index_folder(photos, encoder, options=IndexOptions(workers=1, commit_s=1000, **options))  # type: ignore[arg-type]

    run(recall=0.6)
    assert recall_target(index) == 0.6
    (few,) = lists_visited(index)
    run(recall=0.999)  # nothing new to encode
    assert recall_target(index) == 0.999
    (many,) = lists_visited(index)
    assert few < many
    compact(index, recall=0.6)  # nothing to join
    assert (recall_target(index), lists_visited(index)) == (0.6, [few])
    fill(photos, 40, first=300)
    run()
    compact(index, recall=0.999)
    assert recall_target(index) == 0.999
    assert lists_visited(index)[0] > few
    compact(index)
    run(reindex=True)
    assert recall_target(index) == 0.999
    assert verify(index).ok


def test_1_bit_codes_are_a_feature_that_readers_must_know(
    index: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.reader_features == ()
    monkeypatch.setattr("clipsearch.vectors.inverted.RABITQ_FROM_ROWS", 80)
    with Collection(index, encoder=encoder) as photos:
        before = {hit.path for hit in photos.search("red", k=10, all=True)}
    index_folder(index.parent, encoder, options=IndexOptions(workers=1, commit_s=1000, reindex=True))
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.reader_features == ("rabitq",)
        assert [segment.ivf.code for segment in snapshot.manifest.segments if segment.ivf] == ["RaBitQfs"]
    assert verify(index).ok
    with Collection(index, encoder=encoder) as photos:
        assert {hit.path for hit in photos.search("red", k=10, all=True)} == before
    monkeypatch.setattr("clipsearch.store.manifest.KNOWN_READER_FEATURES", frozenset({"views", "members"}))
    with pytest.raises(UnsupportedIndex, match="rabitq"):  # as versions do that do not know it
        Collection(index, encoder=encoder)
