"""`clipsearch index --plan` says what a run does, and does nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipsearch.errors import ClipsearchError, EncoderMismatch, IndexAway, NoPictures, OtherCollection
from clipsearch.indexer import plan as plans
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.plan import IndexPlan, plan_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture

ONE = IndexOptions(workers=1)


def everything_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def plan(folder: Path, options: IndexOptions = ONE) -> IndexPlan:
    """A plan, which leaves everything as it was."""
    before = everything_in(folder)
    found = plan_index(folder, FakeEncoder(), options=options)
    assert everything_in(folder) == before
    return found


def test_a_new_folder(photos: Path) -> None:
    fill(photos, 5)
    (photos / "notes.txt").write_text("no picture")
    found = plan(photos)
    assert found.is_new
    assert (found.files, found.to_read, found.unchanged) == (6, 5, 0)
    assert found.bytes_to_read == sum(path.stat().st_size for path in photos.rglob("*.jpg"))
    assert (found.measured, found.pictures_per_s, found.seconds) == (0, None, None)  # too few to tell
    assert not (photos / ".clipsearch").exists()


@pytest.mark.slow
def test_a_rate_is_measured_on_pictures_of_all_parts(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(photos, 120)
    found = plan(photos)
    assert found.measured == 88
    assert found.pictures_per_s is not None
    assert found.seconds == pytest.approx(120 / found.pictures_per_s)
    assert found.pictures_per_s > 0
    monkeypatch.setattr(plans, "LONGEST_MEASUREMENT_S", 0.0)
    assert plan(photos).measured < 88


@pytest.mark.slow
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changed=st.sets(st.integers(0, 9), max_size=4),
    gone=st.sets(st.integers(0, 9), max_size=3),
    moved=st.booleans(),
    more=st.integers(0, 3),
    reindex=st.booleans(),
)
def test_a_run_does_what_its_plan_says(
    tmp_path_factory: pytest.TempPathFactory,
    changed: set[int],
    gone: set[int],
    moved: bool,
    more: int,
    reindex: bool,
) -> None:
    photos = tmp_path_factory.mktemp("photos")
    paths = fill(photos, 10)
    index_folder(photos, FakeEncoder(), options=ONE)
    for number in changed:
        picture(1000 + number).save(paths[number])
    for number in gone:
        paths[number].unlink()
    if moved and 9 not in gone:
        paths[9].rename(photos / "set000" / "moved.jpg")
    fill(photos / "new", more, first=2000)
    options = IndexOptions(workers=1, reindex=reindex)
    found = plan(photos, options)
    report = index_folder(photos, FakeEncoder(), options=options)
    assert found.to_read == report.encoded + report.copied + len(report.skipped)
    assert found.files == report.found
    if not reindex:  # which compares with nothing
        assert (found.deleted, found.missing) == (report.removed, report.missing)
        assert (found.unchanged, found.renamed) == (report.unchanged, report.renamed)


def test_a_drive_that_is_away_is_said_as_a_run_would(photos: Path) -> None:
    fill(photos, 12)
    (photos / "usb").mkdir()
    fill(photos / "usb", 20, first=100)
    index_folder(photos, FakeEncoder(), options=ONE)
    shutil.rmtree(photos / "usb")
    assert (plan(photos).missing, plan(photos).deleted) == (20, 0)


def test_what_stops_a_run_stops_its_plan(photos: Path, tmp_path: Path) -> None:
    def same_error(folder: Path, kind: type[ClipsearchError], encoder: FakeEncoder, index: Path | None = None) -> None:
        with pytest.raises(kind) as planned:
            plan_index(folder, encoder, index=index, options=ONE)
        with pytest.raises(kind) as run:
            index_folder(folder, encoder, index=index, options=ONE)
        assert str(planned.value) == str(run.value)

    (photos / "notes.txt").write_text("no picture")
    same_error(photos, NoPictures, FakeEncoder())
    fill(photos, 3)
    index_folder(photos, FakeEncoder(), options=ONE)
    same_error(photos, EncoderMismatch, FakeEncoder(seed=1))
    other = tmp_path / "other"
    fill(other, 2)
    same_error(other, OtherCollection, FakeEncoder(), photos / ".clipsearch")
    with pytest.raises(IndexAway):
        plan_index(photos, FakeEncoder(), index=tmp_path / "away", options=IndexOptions(new=False))


def test_files_that_cannot_be_read_cost_nothing(photos: Path) -> None:
    for number in range(80):
        (photos / f"{number}.jpg").write_bytes(os.urandom(50))
    found = plan(photos)
    assert found.to_read == 80
    assert found.measured == 48
