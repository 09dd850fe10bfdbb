"""Several indexes searched together answer as the one index does that has all of their pictures."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clipsearch
from clipsearch import config
from clipsearch.cli.output import place_of
from clipsearch.errors import (
    ClosedCollection,
    EncoderMismatch,
    IndexNotFound,
    InvalidArgument,
    InvalidQuery,
    MixedModels,
    NoSuchPicture,
    OneIndexOnly,
    PictureOfOne,
)
from clipsearch.records import EmbeddingBatch, Hit, ImageRecord
from clipsearch.search import confidence
from clipsearch.search.collection import Collection
from clipsearch.search.concepts import add_concept
from clipsearch.search.facets import count_facets, timeline
from clipsearch.search.together import Together, row_numbers
from clipsearch.store import Writer
from tests.contract.test_one_answer import DOUBTFUL, REQUESTS
from tests.support.cases import thinned
from tests.support.collections import varied_pictures, write_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.words import write_words

DIM = 16
EXAMPLES = max(8, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 50)
WRITTEN = (7, 44, 61, 62, 63, 150)


class Divided(NamedTuple):
    """One collection, and the same in several indexes."""

    whole: Collection
    together: Together
    indexes: list[Path]

    def row_id(self, row_id: int) -> int:
        """Of a picture of the one index, among the several."""
        size = len(self.whole) // len(self.indexes)
        (_, by) = sorted(self.together.parts, key=lambda part: part[1])[row_id // size]
        return row_id % size + by

    def question(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same question about the several."""
        named: dict[str, Any] = {
            name: [self.row_id(n) for n in asked[name]] for name in ("like", "unlike") if name in asked
        }
        query = re.sub(r"like:(\d+)", lambda match: f"like:{self.row_id(int(match[1]))}", asked["query"])
        return {**asked, **named, "query": query}


@pytest.fixture(scope="module", params=[2, 4])
def divided(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Divided]:
    """No test writes to it."""
    folder, places = tmp_path_factory.mktemp("divided") / "photos", tmp_path_factory.mktemp("indexes")
    encoder = FakeEncoder(dim=DIM)
    pictures = varied_pictures(folder, encoder)
    whole = write_index(folder / ".clipsearch", "..", encoder, pictures, (slice(0, 200), slice(200, None)))
    write_words(whole, {pictures.records[n].path: ["Yellow pages", f"New times {n}"] for n in WRITTEN})
    indexes = in_their_order([places / str(n) for n in range(request.param)])
    size = len(pictures.records) // len(indexes)
    for start, index in zip(range(0, len(pictures.records), size), indexes, strict=True):
        own = slice(start, start + size)
        records = [
            dataclasses.replace(record, row_id=n, vector_id=-1) for n, record in enumerate(pictures.records[own])
        ]
        write_index(index, str(folder), encoder, EmbeddingBatch(records, pictures.vectors[own]))
        words = {
            pictures.records[n].path: ["Yellow pages", f"New times {n}"] for n in WRITTEN if start <= n < start + size
        }
        write_words(index, words)
    with clipsearch.open(whole, encoder=encoder) as one, clipsearch.open(indexes, encoder=encoder) as several:
        assert isinstance(several, Together)
        yield Divided(one, several, indexes)


def in_their_order(places: list[Path]) -> list[Path]:
    """Folders that are made indexes, by the numbers of their rows where they are searched together: equals in an answer
    follow each other by these."""

    class Marked:
        def __init__(self, index: Path) -> None:
            with Writer(index):
                self.identity, self.index = config.marker_of(index) or "", index

    numbers = row_numbers([Marked(place) for place in places])  # type: ignore[misc]
    return [place for _, place in sorted(zip(numbers, places, strict=True))]


def told(hit: Hit) -> tuple[Any, ...]:
    """What a hit is, but for numbers."""
    return hit.rank, hit.path, hit.band, [told(other) for other in hit.others], hit.words


def assert_same(one: list[Hit], several: list[Hit]) -> None:
    assert [told(hit) for hit in one] == [told(hit) for hit in several]
    for name in ("score", "confidence"):
        numbers = [
            [np.nan if getattr(hit, name) is None else getattr(hit, name) for hit in hits] for hits in (one, several)
        ]
        np.testing.assert_allclose(numbers[0], numbers[1], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("asked", thinned(REQUESTS, 6), ids=str)
def test_a_divided_index_answers_as_the_whole(divided: Divided, asked: dict[str, Any]) -> None:
    vector = asked.get("vector")
    more = {} if vector is None else {"vector": divided.whole.vector(vector)}
    one = divided.whole.search(**{**asked, **more})
    several = divided.together.search(**{**divided.question(asked), **more})
    assert_same(one, several)
    assert several.are_certain == one.are_certain
    for hit in several:
        assert hit.found_in is not None
        with clipsearch.open(hit.found_in.index) as own:
            assert own.identity == hit.found_in.index_id
            assert own.record(hit.found_in.row_id).path == hit.record.path
        assert divided.together.record(hit.record.row_id).path == hit.record.path


def test_confidence_is_judged_against_one_sample_of_all(divided: Divided, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "sample_positions", partial(confidence.sample_positions, rows=64))
    with (
        clipsearch.open(divided.whole.index, encoder=divided.whole.encoder) as whole,
        clipsearch.open(divided.indexes, encoder=divided.whole.encoder) as together,
    ):
        for query in ("red", "a dark blue picture", DOUBTFUL):
            assert_same(whole.search(query, 50, all=True), together.search(query, 50, all=True))


def test_parts_of_one_index_can_keep_its_row_ids(divided: Divided) -> None:
    """As the shards of a large index do."""
    size = len(divided.whole) // len(divided.indexes)
    opened = [
        (str(n), clipsearch.open(index, encoder=divided.whole.encoder)) for n, index in enumerate(divided.indexes)
    ]
    with Together(opened, numbers=range(0, len(divided.whole), size)) as shards:
        for query in ("red", "blue folder:trips tag:seen", "like:77", "text:yel", DOUBTFUL):
            one, several = divided.whole.search(query, 40, unique=True), shards.search(query, 40, unique=True)
            assert_same(one, several)
            assert [hit.record.row_id for hit in one] == [hit.record.row_id for hit in several]
        for wrong in (-1, len(divided.whole), 10**15):
            with pytest.raises(NoSuchPicture):
                shards.record(wrong)


def test_several_queries_at_once_answer_as_each_alone(divided: Divided) -> None:
    queries = ["red", "blue folder:trips", DOUBTFUL, ""]
    for query, several in zip(queries, divided.together.search(queries, 7), strict=True):
        assert_same(divided.whole.search(query, 7), several)


def test_a_query_is_encoded_once(divided: Divided) -> None:
    encoder = FakeEncoder(dim=DIM)
    with clipsearch.open(divided.indexes, encoder=encoder) as together:
        together.search("red")
        encoder.texts_encoded = 0
        together.search("dark blue")
    assert encoder.texts_encoded == 1


def test_similar_pictures_facets_and_months_are_those_of_the_whole(divided: Divided) -> None:
    whole, together = divided.whole, divided.together
    hit = whole.search("red", 1)[0]
    same = together.search("red", 1)[0]
    assert_same(whole.similar(hit), together.similar(same))
    assert_same(whole.similar(hit), together.similar(same.record.row_id))
    assert_same(whole.similar(hit.path), together.similar(hit.path))
    assert together.thumbnail(divided.row_id(0)) == whole.thumbnail(0)
    assert_same(whole.search(Path(hit.path), 9), together.search(Path(hit.path), 9))
    assert count_facets(together, together.row_ids()) == count_facets(whole, whole.row_ids())
    rows = [photos.order("", sort="date").row_ids(photos, 0, 10**6) for photos in (whole, together)]
    assert timeline(whole, rows[0]).months == timeline(together, rows[1]).months
    assert len(together) == len(whole) == len(list(together)) == len(rows[1])
    assert [record.path for record in together] == [record.path for record in whole]
    assert together.notices("yellow tag:sean folder:trips") == whole.notices("yellow tag:sean folder:trips") != []


def test_where_and_the_parts_of_a_file_are_those_of_the_whole(divided: Divided) -> None:
    row_id = divided.row_id(5)
    one, several = divided.whole.where("red", 5).to_dict(), divided.together.where("red", row_id).to_dict()
    assert several == {**one, "confidence": pytest.approx(one["confidence"], abs=1e-3)}
    assert [record.row_id for record in divided.together.views(row_id)] == [row_id]


def test_the_row_id_of_one_index_is_refused_by_several(divided: Divided) -> None:
    together = divided.together
    for ask in (together.record, together.vector, together.thumbnail, together.similar):
        with pytest.raises(PictureOfOne, match="7 is not a picture of the indexes that are searched together"):
            ask(7)
    for thumbs in ({"like": [7]}, {"unlike": [7]}):
        with pytest.raises(InvalidQuery, match="7 is not a picture"):
            together.search("red", **thumbs)  # type: ignore[call-overload]
    with pytest.raises(InvalidQuery, match=r"(?s)7 is not a picture.*or the path of the picture"):
        together.search("like:7")
    with pytest.raises(NoSuchPicture):
        together.record(divided.row_id(0) + 4000)
    by_path = together.search(str(divided.whole.root / divided.whole.record(0).path), 5)
    assert_same(divided.whole.search("like:0", 5), by_path)


def test_row_ids_do_not_depend_on_the_other_indexes(divided: Divided) -> None:
    first, *others = divided.indexes
    encoder = divided.whole.encoder
    with clipsearch.open([*others[::-1], first], encoder=encoder) as together:
        for hit in divided.together.search("red", 30, all=True):
            assert together.record(hit.record.row_id).path == hit.record.path
            assert divided.together.vector(hit.record.row_id) == pytest.approx(together.vector(hit.record.row_id))


def test_what_is_done_in_one_index_is_refused(divided: Divided) -> None:
    asked: list[Callable[[], Any]] = [
        divided.together.to_arrow,
        lambda: divided.together.index,
        lambda: divided.together.tag("seen"),
    ]
    for ask in asked:
        with pytest.raises(OneIndexOnly, match=r"Name one of them: .*/\d, .*/\d"):
            ask()


def test_a_copy_of_an_index_has_row_ids_of_its_own(divided: Divided, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(divided.indexes[0], copy)
    with clipsearch.open([divided.indexes[0], copy], encoder=divided.whole.encoder) as together:
        assert len(set(together.row_ids().tolist())) == len(together)
        hits = together.search("red", 4, all=True)
        paths = sorted(hit.path for hit in hits)
        assert paths[::2] == paths[1::2] and len({hit.record.row_id for hit in hits}) == 4
        folded = together.search("red", 1, all=True, unique=True)
        assert {other.found_in and other.found_in.index for other in folded[0].others} >= {str(copy)}


def test_a_row_id_never_means_a_picture_of_a_copy(divided: Divided, tmp_path: Path) -> None:
    """Whichever of an index, a copy of it and others are there, in whatever order."""
    copy, moved, encoder = tmp_path / "copy", tmp_path / "moved", divided.whole.encoder
    shutil.copytree(divided.indexes[0], copy)
    there = [divided.indexes[0], copy, divided.indexes[1]]
    known: dict[int, tuple[str, int]] = {}
    numbers: dict[frozenset[Path], str] = {}
    for few in (2, 3):
        for named in itertools.permutations(there, few):
            away = [tmp_path / "away"] if few == 2 else []
            with clipsearch.open([*away, *named], encoder=encoder) as together:
                assert isinstance(together, Together)
                for photos, by in together.parts:
                    for row_id in photos.row_ids().tolist():
                        assert known.setdefault(row_id + by, (str(photos.index), row_id)) == (str(photos.index), row_id)
                assert numbers.setdefault(frozenset(named), together.identity) == together.identity
    assert len(set(numbers.values())) == len(numbers)
    with clipsearch.open([copy, divided.indexes[1]], encoder=encoder) as together:
        of_copy = next(by for photos, by in together.parts if photos.index == copy)
    copy.rename(moved)
    with clipsearch.open([moved, divided.indexes[0]], encoder=encoder) as together, pytest.raises(PictureOfOne):
        together.record(of_copy)


def test_what_is_named_twice_is_searched_once(divided: Divided, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(divided.indexes[0])
    with clipsearch.open([divided.indexes[0], link, divided.indexes[0]], encoder=divided.whole.encoder) as photos:
        assert not isinstance(photos, Together)
        assert photos.search("red", 1)[0].found_in is None


def test_an_index_that_cannot_be_read_is_left_out_and_named(divided: Divided, tmp_path: Path) -> None:
    encoder, there = divided.whole.encoder, divided.indexes[0]
    damaged = tmp_path / "damaged"
    shutil.copytree(divided.indexes[1], damaged)
    (damaged / "CURRENT").write_text("nonsense")
    for manifest in (damaged / "manifests").iterdir():
        manifest.write_text("{}")
    away = tmp_path / "away"
    with clipsearch.open([damaged, there, away], encoder=encoder) as photos:
        assert set(photos.missing) == {str(damaged), str(away)}
        hits = photos.search("red")
        assert hits and {hit.found_in and hit.found_in.index for hit in hits} == {str(there)}
        told = photos.notices("red")
        assert f"{away} was not searched: no index found (looked in {away})" in told[1] and str(damaged) in told[0]
    with pytest.raises(IndexNotFound):
        clipsearch.open([away, tmp_path / "also away"], encoder=encoder)
    for nothing in ([], [7]):
        with pytest.raises(InvalidArgument):
            clipsearch.open(nothing)  # type: ignore[arg-type]


@pytest.mark.many
@pytest.mark.parametrize("method", ["nearest", "record", "columns", "select", "vectors"])
def test_an_index_that_is_damaged_while_it_is_open_is_left_out_from_then_on(
    divided: Divided, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with clipsearch.open(divided.indexes, encoder=divided.whole.encoder) as together:
        assert isinstance(together, Together)
        broken, by = together.parts[0]

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(broken, method, fail)
        rest = [one for one, _ in together.parts[1:]]
        hits = together.search("red folder:trips or folder:ete", 20, sort="path", like=[together.parts[1][1]], all=True)
        assert len(hits) == 20
        assert not any(hit.record.row_id - by < 1 << 32 and hit.record.row_id >= by for hit in hits)
        assert together.missing == {str(divided.indexes[0]): "Input/output error"}
        assert len(together) == sum(map(len, rest))
        assert "was not searched: Input/output error" in together.notices("red")[0]


@pytest.mark.parametrize(
    "how",
    [{}, {"unique": True}, {"diverse": True}, {"sort": "path"}, {"like": True}],
    ids=lambda how: "".join(how) or "plain",
)
def test_an_index_whose_drive_goes_away_is_left_out_whatever_is_asked(
    divided: Divided, tmp_path: Path, how: dict[str, Any]
) -> None:
    goes = tmp_path / "goes"
    shutil.copytree(divided.indexes[1], goes)
    with clipsearch.open([divided.indexes[0], goes], encoder=divided.whole.encoder) as photos:
        if "like" in how:
            stays, by = next((one, by) for one, by in photos.parts if one.index == divided.indexes[0])
            how = {"like": [int(stays.row_ids()[0]) + by]}
        goes.rename(tmp_path / "gone")
        assert photos.search("red", 5, **how)
        assert not photos.missing or set(photos.missing) == {str(goes)}


def test_the_last_that_cannot_be_read_says_why(divided: Divided, monkeypatch: pytest.MonkeyPatch) -> None:
    with clipsearch.open(divided.indexes, encoder=divided.whole.encoder) as together:
        for one, _ in together.parts:
            monkeypatch.setattr(one, "nearest", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "no drive")))
        with pytest.raises(OSError, match="no drive"):
            together.search("red")


def test_indexes_of_different_models_are_refused_with_the_command_that_helps(divided: Divided, tmp_path: Path) -> None:
    other, encoder = tmp_path / "other", FakeEncoder(dim=DIM, seed=1, name="another")
    write_index(other, str(tmp_path), encoder, varied_pictures(tmp_path, encoder))
    for places in ([other, *divided.indexes], [*divided.indexes, other]):
        with pytest.raises(MixedModels) as caught:
            clipsearch.open(places)
        assert caught.value.index == other
        assert f"clipsearch index {tmp_path} --index {other} --model fake --reindex" in str(caught.value)
    assert issubclass(MixedModels, EncoderMismatch)


def test_a_collection_of_several_that_is_closed_says_so(divided: Divided) -> None:
    together = clipsearch.open(divided.indexes, encoder=divided.whole.encoder)
    parts = [one for one, _ in together.parts]
    together.close()
    for one in (together, *parts):
        with pytest.raises(ClosedCollection):
            one.search("red")


def test_concepts_filter_in_each_index_and_are_like_only_what_is_one_thing(divided: Divided, tmp_path: Path) -> None:
    encoder = divided.whole.encoder
    copies = [tmp_path / str(n) for n in range(2)]
    for copy, index, liked in zip(copies, divided.indexes, ([3], [0]), strict=False):
        shutil.copytree(index, copy)
        with clipsearch.open(copy, encoder=encoder) as one:
            add_concept(one, "mine", liked, [])
            if copy == copies[0]:
                add_concept(one, "only here", [5], [])
    with clipsearch.open(copies, encoder=encoder) as together:
        each = [len(one.search("tag:mine", 1000)) for one, _ in together.parts]
        assert len(together.search("tag:mine", 1000)) == sum(each)
        assert together.search('like:"only here"', 1)
        with pytest.raises(
            InvalidQuery, match="several of the indexes that are searched together have their own concept mine"
        ):
            together.search("like:mine")
        with pytest.raises(OneIndexOnly):
            add_concept(together, "new", [int(together.row_ids()[0])], [])


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_files_in_any_number_of_indexes_answer_as_in_one(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whichever index each file is in, also one with parts (the shots of a video)."""
    files = data.draw(st.integers(2, 20))
    shots = data.draw(st.lists(st.integers(1, 3), min_size=files, max_size=files))
    homes = data.draw(st.lists(st.integers(0, 3), min_size=files, max_size=files))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    folder, encoder = tmp_path_factory.mktemp("any"), FakeEncoder(dim=8)
    records = [
        ImageRecord(-1, f"{n % 3}/{n}.png", 100 + n, n * 10**9, n, f"{n + 1:032x}", 40, 30, view=f"t={shot},{shot + 1}")
        if many > 1
        else ImageRecord(-1, f"{n % 3}/{n}.png", 100 + n, n * 10**9, n, f"{n + 1:032x}", 40, 30)
        for n, many in enumerate(shots)
        for shot in range(many)
    ]
    vectors = rng.standard_normal((len(records), encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def index(name: str, wanted: list[bool]) -> Path:
        chosen = [n for n, record in enumerate(records) if wanted[record.inode]]
        own = EmbeddingBatch([records[n] for n in chosen], vectors[chosen])
        return write_index(folder / name, str(folder), encoder, own)

    whole = index("whole", [True] * files)
    parts = [index(str(home), [own == home for own in homes]) for home in sorted(set(homes))]
    asked: dict[str, Any] = {
        "query": data.draw(st.sampled_from(["red", "red ext:png", "blue folder:1 or folder:2", "red - green"])),
        "k": data.draw(st.integers(1, 30)),
        "offset": data.draw(st.integers(0, 3)),
        "sort": data.draw(st.sampled_from(["score", "date", "path"])),
        "all": data.draw(st.booleans()),
        "each": data.draw(st.booleans()),
        "unique": data.draw(st.booleans()),
    }
    with clipsearch.open(whole, encoder=encoder) as one, clipsearch.open(parts, encoder=encoder) as several:
        assert_same(one.search(**asked), several.search(**asked))
        assert len(one) == len(several) == files
        for hit in several.search("", 30):
            shots_of = [(record.path, record.view) for record in several.views(hit.record.row_id)]
            assert len(shots_of) == shots[int(Path(hit.path).stem)]
            assert [several.record(record.row_id) for record in several.views(hit.record.row_id)]
            by_path = {record.path: record.row_id for record in one}
            assert shots_of == [(record.path, record.view) for record in one.views(by_path[hit.record.path])]


@pytest.mark.many
def test_pictures_in_object_storage_are_searched_with_those_in_folders(divided: Divided, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    pictures = varied_pictures(tmp_path / "files", FakeEncoder(dim=DIM))
    write_index(remote, "s3://bucket/photos", FakeEncoder(dim=DIM), pictures)
    with clipsearch.open([divided.indexes[0], remote], encoder=divided.whole.encoder) as together:
        paths = {hit.path for hit in together.search("red", 100, all=True)}
        assert {path.startswith("s3://bucket/photos/") for path in paths} == {True, False}
        assert str(together.root)
        last = together.search("red", 1000, all=True, sort="path")[-1]  # addresses come after folders
        name = last.record.path
        assert place_of(last) == f"s3://bucket/photos: {name}"
        assert place_of(dataclasses.replace(last, found_in=None)) == f"s3://bucket/photos/{name}"
