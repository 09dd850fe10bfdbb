"""Flipped bits, cut and missing files: found, never searched, and mended as far as the rest allows."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError, CorruptIndex, IndexNotFound
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.search.collection import Collection
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill

FLIPS = tries("CLIPSEARCH_FLIPS", 24, 60)
PICTURES = 30


def made(folder: Path, *, regions: bool | None = None) -> Path:
    """An index with two fragments, deleted rows and skipped files."""
    options = IndexOptions(workers=1, regions=regions)
    fill(folder, 20)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    index_folder(folder, FakeEncoder(), options=options)
    fill(folder, 12, first=20)
    (folder / "set000" / "p00001.jpg").unlink()
    (folder / "set001" / "p00011.jpg").unlink()
    index_folder(folder, FakeEncoder(), options=options)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("whole") / "photos")


@pytest.fixture
def index(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "photos")
    return tmp_path / "photos" / ".clipsearch"


@pytest.fixture(scope="module")
def whole_with_regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("regions") / "photos", regions=True)


@pytest.fixture
def index_with_regions(whole_with_regions: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole_with_regions, tmp_path / "photos")
    return tmp_path / "photos" / ".clipsearch"


def answers(index: Path) -> list[tuple[str, float]]:
    """Where each hit is, and what it scores."""
    with Collection(index, encoder=FakeEncoder()) as photos:
        root = len(str(photos.root))
        return [(hit.where[root:], hit.score) for hit in photos.search("red", k=1000, all=True)]


def index_files(index: Path) -> list[Path]:
    return sorted(path for path in index.rglob("*") if path.is_file() and path.name not in ("LOCK", "COMMIT"))


def test_no_flipped_byte_is_searched(index: Path) -> None:
    no_flipped_byte_is_searched(index)


@pytest.mark.slow
def test_no_flipped_byte_of_regions_is_searched(index_with_regions: Path) -> None:
    assert any("#xywh=" in where for where, _ in answers(index_with_regions))
    no_flipped_byte_is_searched(index_with_regions)


def no_flipped_byte_is_searched(index: Path) -> None:
    rng = random.Random(3)
    truth = answers(index)
    assert len(truth) == PICTURES
    detected = 0
    for number in range(FLIPS):
        path = index_files(index)[number % len(index_files(index))]
        raw = path.read_bytes()
        at = rng.randrange(len(raw))
        damaged = bytearray(raw)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert answers(index) == truth, f"byte {at} of {path} was searched"
        except ClipsearchError as error:
            assert isinstance(error, CorruptIndex)
            assert path.name in str(error) or "manifests" in str(error)
            assert "verify --repair" in str(error)
            detected += 1
        assert not verify(index).ok, f"byte {at} of {path} was not noticed"
        path.write_bytes(raw)
    assert detected > FLIPS / 3
    assert verify(index).ok


KINDS = ["INDEX", "CURRENT", "manifests", "records", "vectors", "search", "rows", "marks"]


@pytest.mark.few(each="harm kind")
@pytest.mark.parametrize(("harm", "kind"), thinned(itertools.product(["flip", "cut", "delete"], KINDS), 3))
def test_repair_brings_back_every_answer(index: Path, kind: str, harm: str) -> None:
    repair_brings_back_every_answer(index, kind, harm)


@pytest.mark.few(each="harm kind")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "kind"), [("flip", "records"), ("cut", "rows"), ("delete", "search"), ("cut", "CURRENT")]
)
def test_repair_brings_back_every_region(index_with_regions: Path, kind: str, harm: str) -> None:
    repair_brings_back_every_answer(index_with_regions, kind, harm)


def repair_brings_back_every_answer(index: Path, kind: str, harm: str) -> None:
    truth = answers(index)
    path = [p for p in index_files(index) if kind in (p.name, p.parent.name)][-1]
    raw = path.read_bytes()
    if harm == "flip":
        path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:])
    elif harm == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        path.unlink()
    assert not verify(index).ok
    report = repair(index)
    assert report.actions
    assert verify(index).ok, verify(index).problems
    index_folder(index.parent, encoder := FakeEncoder(), options=IndexOptions(workers=1))
    assert dict(answers(index)) == pytest.approx(dict(truth))
    assert encoder.images_encoded == 0
    assert verify(index).ok


@pytest.mark.parametrize(("kinds", "encoded"), [(("records", "rows"), 0), (("vectors", "search"), PICTURES)])
def test_of_what_cannot_be_recovered_only_vectors_are_encoded_again(
    index: Path, kinds: tuple[str, str], encoded: int
) -> None:
    truth = answers(index)
    for folder in kinds:
        for path in (index / folder).iterdir():
            path.write_bytes(path.read_bytes()[:-3])
    report = repair(index)
    assert report.lost_rows >= PICTURES
    assert report.pictures == 0
    assert len(report.put_aside) >= 4
    encoder = FakeEncoder()
    index_folder(index.parent, encoder, options=IndexOptions(workers=1))
    assert encoder.images_encoded == encoded
    assert dict(answers(index)) == pytest.approx(dict(truth))
    assert verify(index).ok, verify(index).problems


def test_what_a_repair_puts_aside_is_there_byte_for_byte(index: Path) -> None:
    harmed: dict[str, bytes] = {}
    for folder in ("records", "search", "manifests"):
        path = sorted((index / folder).iterdir())[0]
        path.write_bytes(harmed.setdefault(path.name, path.read_bytes()[:-3]))
    aside = [index / name for name in repair(index).put_aside]
    assert {path.name: path.read_bytes() for path in aside} == harmed
    for _ in range(3):  # and stays, however often things are cleaned up
        (index.parent / "new.png").write_bytes(os.urandom(10))
        index_folder(index.parent, FakeEncoder(), options=IndexOptions(workers=1))
    assert {path.name: path.read_bytes() for path in aside} == harmed


def test_indexing_refuses_to_build_on_damage(index: Path) -> None:
    path = next((index / "rows").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptIndex, match="verify --repair"):
        index_folder(index.parent, FakeEncoder(), options=IndexOptions(workers=1))


def test_repairing_a_whole_index_changes_nothing(index: Path) -> None:
    before = {path: path.read_bytes() for path in index_files(index)}
    assert repair(index).actions == []
    assert {path: path.read_bytes() for path in index_files(index)} == before


def test_repairing_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound):
        repair(tmp_path / "x")


def test_orphans_are_reported_and_harmless(index: Path) -> None:
    left = f"vectors/{'0' * 32}.parquet"
    (index / left).write_bytes(b"x" * 100)
    (index / "vectors" / "not-ours.parquet").write_bytes(b"x" * 10)
    report = verify(index)
    assert report.ok
    assert (report.orphans, report.orphan_bytes) == ([left], 100)
