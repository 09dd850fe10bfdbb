"""Indexes of format 1, made by the version before format 2: they open as they are, and the next run writes them anew.

tests/fixtures/format_1.tar.xz holds 24 pictures (two of 26 were deleted), a damaged one and a text, indexed in two runs
with FakeEncoder(dim=32), and the tag "dog" on one of them.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError, CorruptIndex
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.search.collection import Collection
from clipsearch.store import open_snapshot
from clipsearch.store.tags import write_tags
from tests.support.fake_encoder import FakeEncoder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format_1.tar.xz"
ONE = IndexOptions(workers=1)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder(dim=32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    with tarfile.open(FIXTURE) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "photos"


def answers(photos: Path, encoder: FakeEncoder, query: str = "red") -> list[tuple[str, int, float]]:
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        hits = collection.search(query, k=100, all=True)
        return [(hit.record.path, hit.record.row_id, hit.score) for hit in hits]


def test_an_old_index_answers_as_it_is(photos: Path, encoder: FakeEncoder) -> None:
    index = photos / ".clipsearch"
    assert not (index / "INDEX").exists()
    assert verify(index).ok
    found = answers(photos, encoder)
    assert len(found) == 24
    assert not {"set000/p00001.jpg", "set001/p00011.jpg"} & {path for path, _, _ in found}
    assert len(answers(photos, encoder, "folder:set002")) == 6
    assert len(answers(photos, encoder, "tag:dog")) == 1
    assert not (index / "INDEX").exists()


def test_the_next_run_upgrades_it_without_reading_a_picture(photos: Path, encoder: FakeEncoder) -> None:
    before = answers(photos, encoder)
    runner = FakeEncoder(dim=32)
    report = index_folder(photos, runner, options=ONE)
    assert (report.encoded, report.touched, report.unchanged, report.pictures) == (
        0,
        0,
        24,
        24,
    )  # and what was skipped is tried again
    assert any("--reindex" in line for line in report.warnings)
    index = photos / ".clipsearch"
    assert (index / "INDEX").exists()
    assert verify(index).ok, verify(index).problems
    assert answers(photos, encoder) == before
    assert len(answers(photos, encoder, "tag:dog")) == 1
    with open_snapshot(index) as snapshot:
        files = {ref.path.partition("/")[0] for ref in snapshot.manifest.files()}
        assert snapshot.manifest.skipped == 1  # the text has no row any more
    assert files == {"records", "rows", "vectors", "search", "marks", "tags"}
    assert runner.images_encoded == 0


def test_it_can_be_compacted_at_once(photos: Path, encoder: FakeEncoder) -> None:
    before = answers(photos, encoder)
    report = compact(photos / ".clipsearch")
    assert (report.fragments_after, report.deleted_rows_dropped) == (1, 2)
    assert verify(photos / ".clipsearch").ok
    assert answers(photos, encoder) == before


def test_tags_are_saved_in_it_before_it_is_upgraded(photos: Path, encoder: FakeEncoder) -> None:
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        (hit,) = collection.search("blue", k=1, all=True)
    write_tags(photos / ".clipsearch", {"sky": {hit.record.content_hash or "": 1.0}})
    assert [path for path, _, _ in answers(photos, encoder, "tag:sky")] == [hit.record.path]
    assert len(answers(photos, encoder)) == 24
    index_folder(photos, encoder, options=ONE)
    assert [path for path, _, _ in answers(photos, encoder, "tag:sky")] == [hit.record.path]
    assert verify(photos / ".clipsearch").ok


@pytest.mark.parametrize("kind", ["CURRENT", "data", "vectors", "rows", "columns", "tombstones", "manifests"])
def test_damage_in_it_is_noticed_and_repaired(photos: Path, encoder: FakeEncoder, kind: str) -> None:
    index = photos / ".clipsearch"
    before = answers(photos, encoder)
    place = index / kind
    path = place if place.is_file() else sorted(place.iterdir())[-1]
    raw = path.read_bytes()
    path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:])
    assert not verify(index).ok
    if kind not in ("vectors", "rows", "columns"):  # an upgrade needs none of these: it reads Parquet
        with pytest.raises(CorruptIndex):
            index_folder(photos, encoder, options=ONE)
    assert repair(index).put_aside
    assert verify(index).ok, verify(index).problems
    runner = FakeEncoder(dim=32)
    index_folder(photos, runner, options=ONE)
    assert {p: s for p, _, s in answers(photos, encoder)} == pytest.approx({p: s for p, _, s in before})
    assert runner.images_encoded == 0


def test_it_is_not_taken_for_damaged_when_only_its_marker_is_missing(photos: Path) -> None:
    assert verify(photos / ".clipsearch").ok
    with pytest.raises(ClipsearchError, match="no index"):
        repair(photos / "set000")
