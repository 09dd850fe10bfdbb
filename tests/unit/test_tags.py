"""Tags: written, read, kept through everything that happens to an index, and mended."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import CorruptIndex, InvalidTag, TagExists, UnknownTag, UnsupportedIndex
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.query import parse_query
from clipsearch.query.fields import as_filter
from clipsearch.query.nodes import Tagged
from clipsearch.records import Manifest
from clipsearch.store import Writer, open_snapshot, read_records
from clipsearch.store.hashes import hash_keys, hash_texts
from clipsearch.store.tags import (
    Direction,
    find_tag,
    make_tag,
    parse_tag,
    read_tag,
    remove_tag,
    write_tags,
)
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill

ONE_WORKER = IndexOptions(workers=1)

hashes = st.binary(min_size=16, max_size=16).map(bytes.hex)


def index_of(photos: Path, pictures: int = 6) -> Path:
    fill(photos, pictures)
    return index_folder(photos, FakeEncoder(), options=ONE_WORKER).index


def manifest_of(index: Path) -> Manifest:
    with open_snapshot(index) as snapshot:
        return snapshot.manifest


def scores_of(index: Path, name: str) -> dict[str, float]:
    ref = find_tag(manifest_of(index), name)
    assert ref is not None
    return read_tag(index, ref).as_dict()


def content_hashes(index: Path) -> list[str]:
    return [record.content_hash or "" for record in read_records(index, manifest_of(index))]


@given(st.dictionaries(hashes, st.floats(-1, 1, width=32), max_size=20), st.lists(hashes, max_size=10))
def test_a_tag_says_of_any_picture_whether_it_carries_it(scores: dict[str, float], others: list[str]) -> None:
    tag = make_tag("dog", scores)
    asked = [*scores, *others]
    found = tag.holds(hash_keys(asked)).tolist()
    assert hash_texts(hash_keys(asked)) == asked
    for content_hash, score in zip(asked, found, strict=True):
        assert score == scores[content_hash] if content_hash in scores else np.isnan(score)


def test_hashes_that_agree_in_their_first_half_are_told_apart() -> None:
    first, second, third = (f"{'ab' * 8}{end:016x}" for end in (1, 2, 3))
    tag = make_tag("dog", {first: 0.1, second: 0.2})
    found = tag.holds(hash_keys([second, first, third]))
    assert found[:2].tolist() == pytest.approx([0.2, 0.1])
    assert np.isnan(found[2])


def test_tags_are_added_to_replaced_and_removed(photos: Path) -> None:
    index = index_of(photos)
    a, b, c, *_ = content_hashes(index)
    write_tags(index, {"dog": {a: 1.0, b: 0.5}, "Café": {c: 1.0}})
    with pytest.raises(TagExists, match=r"already has the tag 'dog' \(2 pictures\)"):
        write_tags(index, {"bird": {}, "DOG": {b: 0.75, c: 1.0}})
    assert [ref.name for ref in manifest_of(index).tags] == ["Café", "dog"]
    assert len(list((index / "tags").iterdir())) == 4  # nothing was written that a repair might take in
    write_tags(index, {"dog": {a: 1.0, b: 0.5}})  # as it is
    write_tags(index, {"DOG": {b: 0.75, c: 1.0}}, extend=True)
    assert scores_of(index, "dog") == {a: 1.0, b: 0.75, c: 1.0}
    assert scores_of(index, "cafe\u0301") == {c: 1.0}
    write_tags(index, {"dog": {c: 1.0}}, replace=True)
    assert scores_of(index, "dog") == {c: 1.0}
    assert [ref.name for ref in manifest_of(index).tags] == ["Café", "dog"]
    remove_tag(index, "dog")
    with pytest.raises(UnknownTag, match="clipsearch concept add") as error:
        remove_tag(index, "dog")
    assert error.value.known == ["Café"]
    assert verify(index).ok
    assert len(list((index / "tags").iterdir())) == 6  # two files of each; the two states before are kept


@pytest.mark.many
@pytest.mark.parametrize("name", ["", " dog", "dog\n", 'a"b', "\x1b[2J", "x" * 101])
def test_names_that_cannot_be_typed_are_refused(photos: Path, name: str) -> None:
    index = index_of(photos, 1)
    with pytest.raises(ValueError, match="cannot be a name"):
        write_tags(index, {name: {}})


@pytest.mark.parametrize("name", ["16", "-5", "007", "٣"])
def test_a_concept_has_no_name_that_is_a_row_id(name: str) -> None:
    with pytest.raises(InvalidTag, match="means the picture with this row id"):
        make_tag(name, {}, Direction(np.ones(4, np.float32), 0.5, "x"))
    assert make_tag(name, {}).name == name  # a label of digits: tag:16 finds it


@given(
    name=st.text(st.one_of(st.sampled_from("\"“”„'() :*?-+.,<>0a"), st.characters()), min_size=1, max_size=12),
    before=st.sampled_from(["", "dog ", "2:dog + ", "not ", "dog -", "(ext:png or ", "-"]),
)
def test_every_name_can_be_searched_for_as_it_is_written(name: str, before: str) -> None:
    try:
        make_tag(name, {})
    except InvalidTag:
        return
    query = parse_query(before + as_filter("tag", name) + (")" if "(" in before else ""))
    assert [leaf.name for leaf in query.leaves() if isinstance(leaf, Tagged)] == [name]
    assert [term.value for term in query.terms] == (["dog"] if "dog" in before else [])


@pytest.mark.slow
def test_tags_outlive_renames_reindexing_compaction_and_repair(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = content_hashes(index)
    expected = {a: 1.0, b: 0.5}
    write_tags(index, {"dog": expected})
    (photos / "set000" / "p00001.jpg").rename(photos / "renamed.jpg")
    fill(photos, 3, first=20)
    index_folder(photos, FakeEncoder(), options=ONE_WORKER)
    assert scores_of(index, "dog") == expected
    compact(index)
    assert scores_of(index, "dog") == expected
    other = FakeEncoder(seed=1)
    index_folder(photos, other, options=dataclasses.replace(ONE_WORKER, reindex=True))
    assert manifest_of(index).model.fingerprint == other.fingerprint
    assert scores_of(index, "dog") == expected
    next(iter((index / "vectors").iterdir())).unlink()
    repair(index)
    assert scores_of(index, "dog") == expected
    assert verify(index).ok


@pytest.mark.slow
def test_tags_are_found_again_when_every_manifest_is_lost(photos: Path) -> None:
    index = index_of(photos)
    (a, *_) = content_hashes(index)
    vector = np.eye(1, 64, dtype=np.float32)[0]
    write_tags(index, [make_tag("dog", {a: 1.0}, Direction(vector, 0.25, "f" * 32))])
    shutil.rmtree(index / "manifests")
    (index / "manifests").mkdir()
    repair(index)
    assert verify(index).ok
    (ref,) = manifest_of(index).tags
    assert (ref.name, ref.kind, ref.pictures) == ("dog", "concept", 1)
    direction = read_tag(index, ref).direction
    assert direction is not None
    assert (direction.threshold, direction.fingerprint) == (0.25, "f" * 32)
    assert np.array_equal(direction.vector, vector)
    assert manifest_of(index).writer_features == ("tags",)


def harm(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


@pytest.mark.slow
def test_a_tag_with_one_damaged_file_is_read_from_the_other(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = content_hashes(index)
    write_tags(index, {"dog": {a: 1.0}, "cat": {b: 1.0}})
    ref = find_tag(manifest_of(index), "dog")
    assert ref is not None
    harm(index / ref.file.path)
    assert scores_of(index, "dog") == {a: 1.0}
    assert [problem.file for problem in verify(index).problems] == [ref.file.path]
    report = repair(index)
    assert any("intact in its other file" in action for action in report.actions)
    assert [(index / kept).stat().st_size for kept in report.put_aside] == [ref.file.size_bytes]
    assert verify(index).ok
    assert scores_of(index, "dog") == {a: 1.0}


def test_a_tag_that_is_damaged_twice_comes_back_as_it_was_before_its_last_change(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = content_hashes(index)
    write_tags(index, {"dog": {a: 1.0}})
    write_tags(index, {"dog": {a: 1.0, b: 1.0}}, replace=True)
    ref = find_tag(manifest_of(index), "dog")
    assert ref is not None
    for file in ref.files():
        harm(index / file.path)
    assert any("before its last change" in action for action in repair(index).actions)
    assert scores_of(index, "dog") == {a: 1.0}


def test_a_tag_that_is_damaged_everywhere_is_dropped_by_a_repair_that_says_so(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = content_hashes(index)
    write_tags(index, {"dog": {a: 1.0}, "cat": {b: 1.0}})
    ref = find_tag(manifest_of(index), "dog")
    assert ref is not None
    for file in ref.files():
        harm(index / file.path)
    with pytest.raises(CorruptIndex, match="verify --repair"):
        read_tag(index, ref)
    assert {problem.file for problem in verify(index).problems} == {file.path for file in ref.files()}
    report = repair(index)
    assert any("'dog' is lost" in action for action in report.actions)
    assert len(report.put_aside) == 2
    assert verify(index).ok
    assert scores_of(index, "cat") == {b: 1.0}


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_bytes_that_are_no_tag_are_refused(noise: bytes, at: int, value: int) -> None:
    class Bytes:
        def __init__(self) -> None:
            self.raw = b""

        def write(self, data: object) -> int:
            self.raw += bytes(memoryview(data))  # type: ignore[arg-type]
            return 0

    from clipsearch.store.tags import write_tag

    file = Bytes()
    write_tag(file, make_tag("dog", {"ab" * 16: 1.0}))  # type: ignore[arg-type]
    assert parse_tag(file.raw).name == "dog"
    broken = bytearray(file.raw)
    broken[at % len(broken)] = value
    for raw in (noise, bytes(broken), file.raw[: at % len(file.raw)]):
        try:
            parse_tag(raw)
        except ValueError:
            continue


def test_a_writer_that_knows_no_tags_does_not_lose_them(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(photos, 1)
    write_tags(index, {"dog": {}})
    monkeypatch.setattr("clipsearch.store.writer.KNOWN_WRITER_FEATURES", frozenset())
    with Writer(index) as writer, pytest.raises(UnsupportedIndex, match="'tags'"):
        writer.current()
    assert list((index / "tags").iterdir())
