"""What is kept on disk instead of in memory comes back as it was, also where there is no disk."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.pairs import spilling
from clipsearch.pairs.reading import open_pairs
from clipsearch.pairs.spilling import Rows, Spill, first_seen

PARTS = [bytes([number % 251]) * (number % 17) for number in range(400)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(spilling, "WRITTEN_AT_ONCE", 50)
    return tmp_path / "cache"


@pytest.mark.parametrize("in_memory", [0, 1, 500, 1 << 20])
def test_bytes_come_back_and_leave_nothing(in_memory: int, cache: Path) -> None:
    spill = Spill(in_memory)
    for part in PARTS:
        spill.append(part)
    found = spill.mapped()
    assert found.tobytes() == b"".join(PARTS)
    assert cache.exists() == (in_memory <= 1000)
    assert not list(cache.glob("*"))


def test_nothing_is_no_error(cache: Path) -> None:
    assert Spill(0).mapped().tobytes() == b""


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_full_disk_costs_memory_only(limit: int, cache: Path) -> None:
    spill = Spill(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        for part in PARTS:
            spill.append(part)
        found = spill.mapped()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.tobytes() == b"".join(PARTS)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    spill = Spill(0)
    spill.append(b"abc")
    assert spill.mapped().tobytes() == b"abc"


@given(st.lists(st.binary(max_size=3)))
def test_numbers_are_those_of_a_dictionary(values: list[bytes]) -> None:
    known: dict[bytes, int] = {}
    expected = [known.setdefault(value, len(known)) for value in values]
    digests = b"".join(value.ljust(8, b".") + bytes(8) for value in values)
    assert first_seen(digests).tolist() == expected
    digests = b"".join(bytes(8) + value.ljust(8, b".") for value in values)
    assert first_seen(digests).tolist() == expected


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_rows_come_back(in_memory: int, cache: Path) -> None:
    rows = Rows(in_memory)
    given: list[tuple[Any, ...]] = [("a\udcffb", ("猫", "x" * number), None, 1 << 60, -number) for number in range(90)]
    for row in given:
        rows.append(row)
    assert len(rows) == 90
    assert [rows[number] for number in (3, 0, *range(90))] == [given[number] for number in (3, 0, *range(90))]


def test_many_pairs_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(spilling, "WRITTEN_AT_ONCE", 1 << 16)
    monkeypatch.setattr(spilling.Rows.__init__, "__defaults__", (1 << 16,))
    count = 2_000
    (tmp_path / "one.png").write_bytes(b"any")
    for number in range(count):
        os.link(tmp_path / "one.png", tmp_path / f"{number}.png")
    lines = [f"{number}.png,a photo of product number {number} on a wooden table" for number in range(count)]
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "\n".join([*lines, "7.png,another caption"]))
    tracemalloc.start()
    try:
        pairs = open_pairs(tmp_path / "pairs.csv")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / count < 60  # pairs as objects took 700
    assert len(pairs) == count
    assert pairs[7].captions == ("a photo of product number 7 on a wooden table", "another caption")
    some = pairs.subset(np.array([5, 2, 8])).subset([2, 0])
    assert [pair.key for pair in some] == ["8.png", "5.png"]
    assert [pair.key for pair in pairs[-2:]] == ["1998.png", "1999.png"]
    assert pairs[-1].source.read() == b"any"
    with pytest.raises(IndexError):
        pairs[count]
