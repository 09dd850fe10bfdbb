"""Indexes of format 1, made by the version before format 2: they open as they are, and the next run writes them anew.

First what the functions do with tests/fixtures/format_1.zip, then the commands. Set CLIPSEARCH_KILLS to kill more of
them on the way.
"""

from __future__ import annotations

import random
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
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.commands import Commands
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM
from tests.support.faults import COMMAND_ONLY, Family, Faults
from tests.support.old_index import unpack
from tests.support.pictures import fill
from tests.support.trees import differences, not_ours, tree

KILLS = tries("CLIPSEARCH_KILLS", 4, 8)
ONE = IndexOptions(workers=1)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder(dim=DIM)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    unpack(tmp_path / "photos")
    return tmp_path / "photos"


# -- functions


def answers(photos: Path, encoder: FakeEncoder, query: str = "red") -> list[tuple[str, int, float]]:
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        hits = collection.search(query, k=100, all=True)
        return [(hit.record.path, hit.record.row_id, hit.score) for hit in hits]


def assert_same(found: list[tuple[str, int, float]], before: list[tuple[str, int, float]]) -> None:
    """The same rows in the same order; sums of other segments are rounded otherwise."""
    assert [hit[:2] for hit in found] == [hit[:2] for hit in before]
    assert [hit[2] for hit in found] == pytest.approx([hit[2] for hit in before], abs=1e-6)


def test_an_old_index_answers_as_it_is(photos: Path, encoder: FakeEncoder) -> None:
    index = photos / ".clipsearch"
    assert not (index / "INDEX").exists()
    assert verify(index).ok
    found = answers(photos, encoder)
    assert len(found) == 10
    assert not {"a/p02.png", "a/p03.png"} & {path for path, _, _ in found}
    assert len(answers(photos, encoder, "folder:b")) == 6
    assert [path for path, _, _ in answers(photos, encoder, "tag:dog")] == ["a/p01.png"]
    assert not (index / "INDEX").exists()


def test_the_next_run_upgrades_it_without_reading_a_picture(photos: Path, encoder: FakeEncoder) -> None:
    before = answers(photos, encoder)
    runner = FakeEncoder(dim=DIM)
    report = index_folder(photos, runner, options=ONE)
    assert (report.encoded, report.touched, report.unchanged, report.pictures) == (
        0,
        0,
        10,
        10,
    )  # and what was skipped is tried again
    assert any("--reindex" in line for line in report.warnings)
    index = photos / ".clipsearch"
    assert (index / "INDEX").exists()
    assert verify(index).ok, verify(index).problems
    assert_same(answers(photos, encoder), before)
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
    assert_same(answers(photos, encoder), before)


def test_tags_are_saved_in_it_before_it_is_upgraded(photos: Path, encoder: FakeEncoder) -> None:
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        (hit,) = collection.search("blue", k=1, all=True)
    write_tags(photos / ".clipsearch", {"sky": {hit.record.content_hash or "": 1.0}})
    assert [path for path, _, _ in answers(photos, encoder, "tag:sky")] == [hit.record.path]
    assert len(answers(photos, encoder)) == 10
    index_folder(photos, encoder, options=ONE)
    assert [path for path, _, _ in answers(photos, encoder, "tag:sky")] == [hit.record.path]
    assert verify(photos / ".clipsearch").ok


@pytest.mark.parametrize(
    "kind", thinned(["CURRENT", "data", "vectors", "rows", "columns", "tombstones", "manifests"], 3)
)
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
    runner = FakeEncoder(dim=DIM)
    index_folder(photos, runner, options=ONE)
    assert {p: s for p, _, s in answers(photos, encoder)} == pytest.approx({p: s for p, _, s in before})
    assert runner.images_encoded == 0


def test_it_is_not_taken_for_damaged_when_only_its_marker_is_missing(photos: Path) -> None:
    assert verify(photos / ".clipsearch").ok
    with pytest.raises(ClipsearchError, match="no index"):
        repair(photos / "a")


# -- commands


def test_commands_answer_from_an_old_index_and_leave_it_alone(tmp_path: Path, commands: Commands) -> None:
    photos = tmp_path / "photos"
    old = unpack(photos)
    before = tree(photos / ".clipsearch")
    state = commands.state(photos / ".clipsearch")
    assert state.error is None
    assert state.found == pytest.approx(old.found, abs=1e-5)
    assert state.tags == old.tags
    for place in (photos, photos / ".clipsearch"):
        assert "p01.png" in commands.run("query", "tag:dog", "--paths", "--index", place).out
    assert not differences(before, tree(photos / ".clipsearch"))


def test_the_next_run_upgrades_an_old_index(tmp_path: Path, commands: Commands) -> None:
    photos = tmp_path / "photos"
    old = unpack(photos)
    index = photos / ".clipsearch"
    report = commands.index(photos)
    assert report["indexed"] == 0
    state = commands.state(index)
    assert state.found == pytest.approx(old.found, abs=1e-5)
    assert (state.tags, state.problems, state.error) == (old.tags, (), None)
    assert (index / "INDEX").is_file()
    assert commands.index(photos)["generation"] == report["generation"]
    fill(photos, 2)
    (photos / "a" / "p00.png").unlink()
    assert commands.index(photos)["indexed"] == 2
    end = commands.state(index)
    assert (len(end.found), end.tags, end.problems) == (11, ("dog",), ())
    assert not not_ours(index)


@pytest.mark.parametrize("command", ["compact", "repair", "tag"])
def test_other_commands_on_an_old_index_lose_nothing(command: str, tmp_path: Path, commands: Commands) -> None:
    photos = tmp_path / "photos"
    old = unpack(photos)
    arguments: dict[str, list[str | Path]] = {
        "compact": ["compact"],
        "repair": ["verify", "--repair"],
        "tag": ["concept", "add", "cat", photos / "a" / "p04.png"],
    }
    done = commands.run(*arguments[command], "--index", photos)
    assert "Traceback" not in done.err
    state = commands.state(photos / ".clipsearch")
    assert state.found == pytest.approx(old.found, abs=1e-5)
    assert set(state.tags) >= set(old.tags)
    assert commands.index(photos)["indexed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mkdir", "write", "sync", "rename", "unlink", "open"])
def test_an_upgrade_that_is_killed_loses_nothing(
    family: Family, tmp_path: Path, commands: Commands, faults: Faults
) -> None:
    rng = random.Random(family)
    photos = tmp_path / "count" / "photos"
    unpack(photos)
    with faults.armed(family, photos / ".clipsearch", nth=10**9):
        commands.index(photos)
    calls = faults.calls()[family]
    for nth in sorted(rng.sample(range(1, calls + 1), min(calls, max(1, KILLS // 4)))):
        photos = tmp_path / str(nth) / "photos"
        old = unpack(photos)
        index = photos / ".clipsearch"
        with faults.armed(family, index, nth=nth, mode="kill", pid=COMMAND_ONLY):
            assert commands.run("index", photos, "-q").status == -9
        state = commands.state(index)
        assert state.error is None
        assert state.found == pytest.approx(old.found, abs=1e-5)
        assert state.tags == old.tags
        assert commands.index(photos)["indexed"] == 0
        end = commands.state(index)
        assert end.found == pytest.approx(old.found, abs=1e-5)
        assert (end.tags, end.problems) == (old.tags, ())
        assert not not_ours(index)
