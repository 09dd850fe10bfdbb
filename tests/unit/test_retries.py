"""What circumstances did to a picture is not written down for ever."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.retries import MOST_ATTEMPTS, attempts_after, limit_for, should_retry
from clipsearch.records import OUT_OF_MEMORY, ImageRecord, Status
from clipsearch.store import open_snapshot, read_records
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

STATUSES: tuple[Status, ...] = ("ok", *(s for s in get_args(get_args(Status)[1])))


def record(status: Status, attempts: int = 0, reason: str | None = None) -> ImageRecord:
    return ImageRecord(1, "a.jpg", 10, 20, 30, None, status=status, attempts=attempts, reason=reason)


@given(st.sampled_from(STATUSES), st.integers(0, 10))
def test_only_circumstances_are_tried_again_and_not_for_ever(status: Status, attempts: int) -> None:
    assert should_retry(record(status, attempts)) == (
        status in ("timeout", "decoder_crashed") and attempts < MOST_ATTEMPTS
    )
    assert should_retry(record("too_large", attempts, OUT_OF_MEMORY)) == (attempts < MOST_ATTEMPTS)
    assert not should_retry(record("too_large", attempts, "300 megapixels"))


@given(st.sampled_from(STATUSES), st.integers(0, 10), st.floats(0.1, 100))
def test_each_attempt_has_more_time(status: Status, attempts: int, timeout_s: float) -> None:
    limit_s = limit_for(record(status, attempts), timeout_s)
    if status in ("timeout", "decoder_crashed"):
        assert limit_s >= 3 * timeout_s
        assert limit_s <= limit_for(record(status, attempts + 1), timeout_s) <= 9.0001 * timeout_s
    else:
        assert limit_s == timeout_s
    assert limit_for(None, timeout_s) == timeout_s


def test_attempts_are_counted_until_the_file_is_read() -> None:
    now: ImageRecord | None = None
    for expected in (1, 2, 3):
        attempts = attempts_after(now, "timeout", "took longer")
        assert attempts == expected
        now = record("timeout", attempts)
    assert not should_retry(record("timeout", 3))
    assert attempts_after(now, "corrupt", "damaged") == 0


def rows(index: Path) -> dict[str, ImageRecord]:
    with open_snapshot(index) as snapshot:
        return {r.path: r for r in read_records(index, snapshot.manifest)}


TOO_LITTLE_S = 0.06  # for slow pictures, not for others on a busy machine


def slow_picture(width: int) -> Image.Image:
    """One that takes a hundred times as long to decode as the others."""
    return Image.linear_gradient("L").resize((width, 12_000)).convert("RGB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, 9000)


def folder_of(folder: Path, width: int) -> Path:
    slow_picture(width).save(folder / "slow.png", compress_level=1)
    picture(2).save(folder / "quick.png")
    return folder


@pytest.mark.slow
def test_a_busy_machine_is_given_three_attempts(folder: Path) -> None:
    options = IndexOptions(timeout_s=TOO_LITTLE_S, workers=1)
    for attempt in (1, 2, 3):
        report = index_folder(folder, FakeEncoder(), options=options)
        assert rows(report.index)["slow.png"].attempts == attempt
        assert rows(report.index)["slow.png"].status == "timeout"
        assert "slow.png" in [skip.path for skip in report.skipped]  # elsewhere busy, quick.png may be late too
    last = index_folder(folder, FakeEncoder(), options=IndexOptions(timeout_s=60))
    assert rows(last.index)["slow.png"].status == "timeout"  # enough is enough
    assert last.unchanged + last.encoded == 2
    asked = index_folder(folder, FakeEncoder(), options=IndexOptions(timeout_s=60, retry_skipped=True))
    assert asked.pictures == 2
    assert rows(asked.index)["slow.png"].attempts == 0


@pytest.mark.slow
def test_the_next_run_reads_what_was_too_slow(tmp_path: Path) -> None:
    folder, encoder = folder_of(tmp_path, 4000), FakeEncoder()
    read = index_folder(folder, encoder, options=IndexOptions(timeout_s=TOO_LITTLE_S)).pictures
    assert read < 2  # on a machine that is busy elsewhere, not even the small one is read in time
    report = index_folder(folder, encoder, options=IndexOptions(timeout_s=60))
    assert (report.pictures, report.encoded, report.skipped) == (2, 2 - read, [])


@pytest.mark.slow
def test_a_file_that_changed_has_all_its_attempts_again(folder: Path) -> None:
    options = IndexOptions(timeout_s=TOO_LITTLE_S, workers=1)
    for _ in range(2):
        index_folder(folder, FakeEncoder(), options=options)
    slow_picture(9001).save(folder / "slow.png", compress_level=1)
    report = index_folder(folder, FakeEncoder(), options=options)
    assert rows(report.index)["slow.png"].attempts == 1


def test_attempts_and_partial_survive_on_disk(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    picture(1).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-40])
    report = index_folder(tmp_path, FakeEncoder())
    assert (report.pictures, report.partial) == (2, 1)
    found = rows(report.index)
    assert found["cut.png"].partial == "the PNG ends before the picture does"
    assert found["whole.png"].partial is None
    assert dataclasses.replace(found["whole.png"]).attempts == 0
