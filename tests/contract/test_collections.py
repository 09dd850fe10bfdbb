"""What every collection promises, a local one and one that a server has: the same calls, answers and errors."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipsearch
from clipsearch import AnyCollection, Collection, RemoteCollection, errors
from clipsearch.errors import (
    ClipsearchError,
    ClosedCollection,
    MalformedQuery,
    UnknownIndex,
    UnknownTag,
    UnreadablePicture,
)
from clipsearch.query import Query
from clipsearch.query.crops import Crop
from clipsearch.query.nodes import Tagged
from clipsearch.records import Hit, ImageRecord
from clipsearch.search.concepts import add_concept
from tests.support.cases import thinned
from tests.support.collections import serving, through_both_doors, varied_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM

Call = Callable[[Any], Any]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each test gets a copy of."""
    place = tmp_path_factory.mktemp("collections")
    index = varied_index(place / "photos", FakeEncoder(dim=DIM))
    with Collection(index, encoder=FakeEncoder(dim=DIM)) as photos:
        add_concept(photos, "reds", [0, 1], [20])
    (place / "bad.jpg").write_bytes(b"no picture")
    Image.new("RGB", (30, 20), (200, 60, 20)).save(place / "other.png")
    Image.new("RGB", (30, 20), (20, 160, 200)).save(place / "odd.png")
    (place / "odd.png").rename(place / "caf\udce9.png")
    (place / "empty.jpg").touch()
    (place / "drawing.tga").write_bytes(b"\0\0\2" + b"\0" * 40)
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "PNG")
    (place / "cut.png").write_bytes(noise.getvalue()[:40])
    return place


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "photos"


@pytest.fixture
def both(folder: Path) -> Iterator[tuple[Collection, RemoteCollection]]:
    with through_both_doors(folder, FakeEncoder(dim=DIM)) as doors:
        yield doors


def a_file(photos: AnyCollection) -> str:
    """A picture of the index that is there. (The server of these tests is on this machine.)"""
    return str(photos.root / photos.record(5).path)


def other(photos: AnyCollection) -> str:
    """A picture file that is not in the index."""
    return str(photos.root.parent / "other.png")


def odd(photos: AnyCollection) -> str:
    """One whose name is not UTF-8."""
    return str(photos.root.parent / "caf\udce9.png")


def away(photos: AnyCollection) -> str:
    """The path of a picture of the index whose file is away."""
    return str(photos.root / photos.record(4).path)


def image(mode: str, *, width: int = 24, orientation: int = 1) -> Image.Image:
    """An image that was opened, not a file: red at its left, blue at its right."""
    made = Image.new("RGB", (width, 20), (220, 30, 30))
    made.paste((30, 60, 220), (width // 2, 0, width, 20))
    made = made.convert(mode)
    made.getexif()[0x0112] = orientation
    return made


def joined(lists: Sequence[list[Hit]]) -> list[Hit]:
    return [hit for hits in lists for hit in hits]


def cut_image() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:900]))


CALLS: dict[str, Call] = {
    "plain": lambda p: p.search("red"),
    "k": lambda p: p.search("red", 3),
    "k and offset": lambda p: p.search("red", k=5, offset=2, all=True),
    "more than all": lambda p: p.search("red", 20_000, all=True),
    "nothing asked": lambda p: p.search(),
    "numbers of NumPy": lambda p: p.search(
        "red",
        np.int64(5),
        offset=np.int64(2),
        like=np.array([3, 4]),
        unlike=[np.int32(9)],
        diverse=np.float32(0.5),
        unique=np.bool_(True),
        all=np.True_,
    ),
    "beyond the last": lambda p: p.search("red", 5, offset=10**8),
    "beyond every index": lambda p: p.search("red", 10**30, offset=10**30),
    "many examples": lambda p: p.search("red", like=[n % 300 for n in range(1200)]),
    "a vector as a list": lambda p: p.search(vector=p.vector(5).tolist()),
    "similar, of NumPy": lambda p: p.similar(np.int64(5), np.int64(3)),
    "record, of NumPy": lambda p: p.record(np.uint8(8)).path,
    "vectors one by one": lambda p: p.vectors(n for n in (3, 1)),
    "texts with lone surrogates": lambda p: p.encode_texts(["\ud800 dog", "caf\udce9_dog.jpg"]),
    "filters": lambda p: p.search("red folder:trips not tag:seen width:>40"),
    "filters only": lambda p: p.search("near:48.1,2.2,20km", 50),
    "no match": lambda p: p.search("red folder:nowhere"),
    "vector": lambda p: p.search("", vector=p.vector(5)),
    "vector and words": lambda p: p.search("red", vector=p.vector(9), all=True),
    "vector and filter": lambda p: p.search("folder:trips", vector=p.vector(9) * 3),
    "feedback": lambda p: p.search("red", like=[3], unlike=[200]),
    "feedback alone": lambda p: p.search("", like={7: 0}, all=True),
    "date": lambda p: p.search("red", sort="date"),
    "path": lambda p: p.search("red", sort="path", all=True),
    "unique": lambda p: p.search("red", unique=True, all=True),
    "diverse": lambda p: p.search("red", diverse=True, all=True),
    "very diverse": lambda p: p.search("red", diverse=0.9, all=True),
    "a file": lambda p: p.search(Path(a_file(p))),
    "the path of a hit": lambda p: p.search(a_file(p), all=True),
    "a part of a file": lambda p: p.search(f"{other(p)}#xywh=3,4,20,10 + red", all=True),
    "similar to a part": lambda p: p.similar(f"{other(p)}#xywh=3,4,20,10", 5),
    "a file and a vector": lambda p: p.search(a_file(p), vector=p.vector(30), all=True),
    "a word and surrogates": lambda p: p.search("\ud800 red caf\udce9_dog.jpg", all=True),
    "a filter with surrogates": lambda p: p.search("name:IMG_02\udce9*"),
    "a file and words": lambda p: p.search(f"{other(p)} + red", all=True),
    "words without a file": lambda p: p.search(f"red - 0.5:{other(p)} folder:trips", 9, all=True),
    "a file less another": lambda p: p.search(f"{a_file(p)} - {other(p)}", all=True),
    "a file and a filter": lambda p: p.search(f"{other(p)} folder:trips"),
    "a file, unlike": lambda p: p.search(f"like:5 - {other(p)}", all=True),
    "a file of an odd name and words": lambda p: p.search(f"blue + {odd(p)}", all=True),
    "a file that is away and words": lambda p: p.search(f"{away(p)} + red", all=True),
    "a file twice": lambda p: p.search(f"2:{other(p)} + red + {other(p)}", all=True),
    "like": lambda p: p.search("like:5 - like:20"),
    "concept": lambda p: p.search("tag:reds", 100),
    "like a concept": lambda p: p.search("like:reds", all=True),
    "where": lambda p: p.where("red - blue", 5).to_dict(),
    "where, with a picture as the question": lambda p: p.where(Path(a_file(p)), 5).to_dict(),
    "several": lambda p: joined(p.search(["red", "blue folder:trips", "", Path(a_file(p))], 5)),
    "several by date": lambda p: joined(p.search(iter(["red", "green"]), sort="date", offset=1, vector=p.vector(9))),
    "similar": lambda p: p.similar(5),
    "similar to a hit": lambda p: p.similar(p.search("red", 1)[0], 7),
    "similar to a file": lambda p: p.similar(a_file(p), 30),
    "similar to a picture that is away": lambda p: p.similar(away(p), k=4),
    "similar to all": lambda p: p.similar(5, 1000),
    "record": lambda p: p.record(8).to_dict("x"),
    "vectors": lambda p: p.vectors([3, 1, 2, 1]),
    "no vectors": lambda p: p.vectors([]).shape,
    "vector of a row": lambda p: p.vector(77),
    "texts": lambda p: p.encode_texts(["red", "a dog"]),
    "no texts": lambda p: p.encode_texts([]).shape,
    "very many texts": lambda p: p.encode_texts([f"text {n}" for n in range(300)]),
    "very long texts": lambda p: p.encode_texts(["鍵" * 9_999 + str(n % 10) for n in range(160)]),
    "a text": lambda p: p.encode_text("red"),
    "a list of texts": lambda p: p.encode_text(["red"]),
    "texts one by one": lambda p: p.encode_text(text for text in ("red", "blue")),
    "no text": lambda p: p.encode_text([]).shape,
    "an image": lambda p: p.encode_picture(image("RGB")),
    "an image turned by its EXIF": lambda p: p.encode_picture(image("RGB", orientation=6)),
    "images of all modes": lambda p: p.encode_picture([image(m) for m in ("1", "L", "LA", "P", "RGBA", "CMYK", "F")]),
    "a long image and a file": lambda p: p.encode_picture([image("RGB", width=200), Path(a_file(p))]),
    "no pictures": lambda p: p.encode_picture([]).shape,
    "a picture's vector": lambda p: p.encode_picture(a_file(p)),
    "no notices": lambda p: [p.notices(""), p.notices(" ")],
    "notices of what is not there": lambda p: p.notices("red tag:nosuch like:99999"),
    "notices of files": lambda p: [p.notices("./mine.jpg"), p.notices(away(p)), p.notices(a_file(p))],
    "notices of much": lambda p: p.notices("a very long sentence about dogs " * 40 + "camara:canon"),
    "similar to more than all": lambda p: p.similar(5, 20_000),
    "similar to a file, more than all": lambda p: p.similar(p.root.parent / "other.png", 20_000),
    "notices": lambda p: p.notices("red camara:canon"),
    "notices of a folder of two words": lambda p: [
        p.notices("red folder:my trips"),
        p.notices(f"folder:my trips - {other(p)}"),
        p.notices(f"+ {odd(p)} folder:my trips camara:canon"),
    ],
    "notices of what pixels say": lambda p: p.notices("red is:dark color:red tag:nosuch"),
    "len": len,
    "root": lambda p: p.root,
    "generation": lambda p: p.generation,
    "tags": lambda p: [(tag.name, tag.kind, tag.pictures) for tag in p.tags],
}
ERRORS: dict[str, Call] = {
    "notices of what breaks off": lambda p: p.notices("dog (ext:jpg or"),
    "notices of too much": lambda p: p.notices("x" * 10_001),
    "a picture that is none and words": lambda p: p.search(f"dog + {p.root.parent / 'bad.jpg'}"),
    "words and a picture that is nowhere": lambda p: p.search("dog + /nowhere/missing.jpg"),
    "a file less itself": lambda p: p.search(f"{other(p)} - {other(p)}"),
    "a query that breaks off": lambda p: p.search("dog (ext:jpg or"),
    "one of several that breaks off": lambda p: p.search(["red", "dog (ext:jpg or", "blue"]),
    "several, no hits wanted": lambda p: p.search(["red"], 0),
    "a filter that is none": lambda p: p.search("a dog near:48.85"),
    "an unknown row id": lambda p: p.search("red", like=[999]),
    "a row id below zero": lambda p: p.search("red", unlike=[-1]),
    "like of an unknown row": lambda p: p.search("red + like:999"),
    "an unknown tag": lambda p: p.search("like:unheard-of"),
    "like of a plain tag": lambda p: p.search("like:seen"),
    "terms that cancel out": lambda p: p.search("red - red"),
    "a vector of another length": lambda p: p.search("", vector=np.ones(3, np.float32)),
    "an empty vector": lambda p: p.search("", vector=np.ones(0, np.float32)),
    "a vector of zeros": lambda p: p.search("", vector=np.zeros(DIM, np.float32)),
    "a vector of no numbers": lambda p: p.search("", vector=np.full(DIM, np.nan, np.float32)),
    "no hits wanted": lambda p: p.search("red", 0),
    "fewer than no hits": lambda p: p.search("red", offset=-1),
    "words as diversity": lambda p: p.search("red", diverse="yes"),
    "diversity that is no number": lambda p: p.search("red", diverse=float("nan")),
    "words as a switch": lambda p: p.search("red", unique="yes"),
    "a number as a switch": lambda p: p.search("red", all=2),
    "an array as a switch": lambda p: p.search("red", all=np.array([True, False])),
    "an array as a switch, with a confidence": lambda p: p.search("red", min_confidence=0.2, all=np.array([1, 2])),
    "an order that is no text": lambda p: p.search("red", sort=7),
    "words as examples": lambda p: p.search("red", like=["x"]),
    "a text of examples": lambda p: p.search("red", like="12"),
    "fractions as examples": lambda p: p.search("red", unlike=[1.5]),
    "one example": lambda p: p.search("red", like=3),
    "too many examples": lambda p: p.search("red", like=[1] * 10_001),
    "half a hit": lambda p: p.search("red", 2.5),
    "half a hit further": lambda p: p.search("red", offset=0.5),
    "a matrix as a vector": lambda p: p.search(vector=p.vector(5)[None]),
    "two vectors": lambda p: p.search(vector=p.vectors([5, 6])),
    "a vector with holes": lambda p: p.search(vector=[[1.0], [1.0, 2.0]]),
    "a text as a vector": lambda p: p.search(vector="red"),
    "texts as a vector": lambda p: p.search(vector=["1"] * DIM),
    "a very long vector": lambda p: p.search(vector=np.ones(10_000)),
    "a number as a query": lambda p: p.search(5),
    "a number among queries": lambda p: p.search(["red", 5]),
    "no record of a fraction": lambda p: p.record(1.5),
    "no record of a word": lambda p: p.record("x"),
    "no vector of a fraction": lambda p: p.vector(1.5),
    "no vectors of fractions": lambda p: p.vectors([1.5]),
    "where, with filters only": lambda p: p.where("ext:png", 0),
    "where, with nothing": lambda p: p.where(" ", 0),
    "where, of a picture that is away": lambda p: p.where("red", 4),
    "where, of a hit whose file is another": lambda p: p.where("red", p.search("name:IMG_0299.png")[0]),
    "where, of a row whose file is another": lambda p: p.where("red", 0),
    "where, of none": lambda p: p.where("red", 999),
    "where, of no file": lambda p: p.where("red", "/nowhere/missing.jpg"),
    "similar to a fraction": lambda p: p.similar(1.5),
    "similar, half a hit": lambda p: p.similar(5, 1.5),
    "too long a text": lambda p: p.encode_texts(["red", "x" * 10_001]),
    "a number as a text": lambda p: p.encode_texts([5]),
    "no order": lambda p: p.search("red", sort="size"),
    "too much variety": lambda p: p.search("red", diverse=2.0),
    "too long a query": lambda p: p.search("x" * 10_001),
    "a picture that is none": lambda p: p.search(p.root.parent / "bad.jpg"),
    "a picture that is nowhere": lambda p: p.search(p.root.parent / "missing.jpg"),
    "a path that would be words": lambda p: p.search(Path("/nowhere/a red dog")),
    "a path that would be a query": lambda p: p.search(Path("/nowhere/x near:1 - dog.jpg")),
    "a name that would be words": lambda p: p.search(Path("red")),
    "a folder": lambda p: p.search(p.root),
    "similar to a folder": lambda p: p.similar(p.root),
    "to encode a folder": lambda p: p.encode_picture(p.root),
    "similar to a very long name": lambda p: p.similar("a" * 20_000),
    "similar to words": lambda p: p.similar("red"),
    "an empty picture": lambda p: p.search(p.root.parent / "empty.jpg"),
    "a picture that is cut": lambda p: p.similar(p.root.parent / "cut.png"),
    "a drawing": lambda p: p.search(p.root.parent / "drawing.tga"),
    "a name that no file can have": lambda p: p.encode_picture("x" * 5000 + "\0.jpg"),
    "the path of one that is nowhere": lambda p: p.search("/nowhere/missing.jpg"),
    "similar to none": lambda p: p.similar(999),
    "similar to one that is nowhere": lambda p: p.similar("/nowhere/missing.jpg"),
    "similar to no picture": lambda p: p.similar(p.root.parent / "bad.jpg"),
    "similar, no hits wanted": lambda p: p.similar(5, 0),
    "no such record": lambda p: p.record(999),
    "no such record, below zero": lambda p: p.record(-1),
    "no such record, far above": lambda p: p.record(10**30),
    "no such vector": lambda p: p.vector(999),
    "no such vectors": lambda p: p.vectors([1, 999]),
    "a list with a picture that is none": lambda p: p.encode_picture([a_file(p), p.root.parent / "bad.jpg"]),
    "an image that is cut": lambda p: p.encode_picture(cut_image()),
    "no picture to encode": lambda p: p.encode_picture(p.root.parent / "bad.jpg"),
}


def plainly(answer: Any) -> Any:
    if isinstance(answer, list) and answer and isinstance(answer[0], Hit):
        return [hit.to_dict() for hit in answer]
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("calls", thinned([dict(list(CALLS.items())[n::3]) for n in range(3)], 3), ids=range(3))
def test_a_remote_collection_answers_as_a_local_one(
    calls: dict[str, Call], both: tuple[Collection, RemoteCollection]
) -> None:
    local, remote = both
    for name, call in calls.items():
        here, there = plainly(call(local)), plainly(call(remote))
        if isinstance(here, np.ndarray):
            np.testing.assert_allclose(there, here, atol=1e-6, err_msg=name)
            assert there.dtype == here.dtype, name
        elif isinstance(here, list) and here and isinstance(here[0], dict):
            assert len(here) == len(there), name
            for one, other in zip(here, there, strict=True):
                assert other == {
                    **one,
                    "score": pytest.approx(one["score"], abs=1e-5),
                    "confidence": pytest.approx(one["confidence"], abs=1e-3),
                    "others": [
                        {
                            **o,
                            "score": pytest.approx(o["score"], abs=1e-5),
                            "confidence": pytest.approx(o["confidence"], abs=1e-3),
                        }
                        for o in one["others"]
                    ],
                }, name
        else:
            assert there == here, name


@pytest.mark.slow
def test_a_remote_collection_says_how_a_query_was_read_and_what_it_leaves_out(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "my trips").mkdir(parents=True)
    Image.new("RGB", (30, 20), (200, 60, 20)).save(folder / "my trips" / "a.png")
    encoder = FakeEncoder(dim=DIM)
    clipsearch.index(folder, encoder=encoder)
    with through_both_doors(folder, encoder) as doors:
        for query in ("folder:my trips", "red folder:my trips camara:canon"):
            here, there = (photos.notices(query) for photos in doors)
            assert here == there
            assert f"{query} was read as {query.replace('my trips', chr(34) + 'my trips' + chr(34))}" in here
    varied_index(tmp_path / "old", encoder)  # nobody looked at its pixels
    with through_both_doors(tmp_path / "old", encoder) as doors:
        here, there = (photos.notices("red is:dark") for photos in doors)
        assert here == there and "300 of 300 pictures were indexed before" in here[0]


def test_the_errors_of_a_remote_collection_are_those_of_a_local_one(both: tuple[Collection, RemoteCollection]) -> None:
    for name, call in ERRORS.items():
        raised: list[ClipsearchError] = []
        for photos in both:
            with pytest.raises(ClipsearchError) as caught:
                call(photos)
            raised.append(caught.value)
        here, there = raised
        assert type(there) is type(here), (name, there, here)
        for field in ("position", "query", "row_id", "name", "known", "expected", "found", "status"):
            assert getattr(there, field, None) == getattr(here, field, None), (name, field)
        if isinstance(here, MalformedQuery | UnknownTag):
            assert str(there) == str(here), name
        if isinstance(here, UnreadablePicture) and isinstance(there, UnreadablePicture):
            assert (there.path, there.reason) == (here.path, here.reason), name
            assert isinstance(here.path, str) and str(there) == str(here), name


@pytest.mark.parametrize("bad", [999, -1, 2**70, 1.5, "x", None, True])
def test_a_bad_row_id_has_the_same_error_alone_and_in_a_list(
    both: tuple[Collection, RemoteCollection], bad: Any
) -> None:
    for photos in both:
        with pytest.raises(ClipsearchError) as alone:
            photos.vector(bad)
        with pytest.raises(ClipsearchError) as listed:
            photos.vectors([3, bad])
        assert type(listed.value) is type(alone.value)
        assert str(listed.value) == str(alone.value)


def test_hits_of_both_doors_come_back_from_what_they_tell(both: tuple[Collection, RemoteCollection]) -> None:
    for photos in both:
        for hit in photos.search("red", 5, unique=True):
            assert Hit.from_dict(hit.to_dict()).to_dict() == hit.to_dict()
            assert Hit.from_dict(hit.to_dict(whole=True, exact=True)) == hit


def test_a_picture_whose_place_is_a_folder_now_is_refused_alike(both: tuple[Collection, RemoteCollection]) -> None:
    (both[0].root / both[0].record(4).path).mkdir()
    told = set()
    for photos in both:
        with pytest.raises(UnreadablePicture) as caught:
            photos.thumbnail(4)
        told.add((str(caught.value), caught.value.status))
    assert len(told) == 1


@pytest.mark.slow
def test_similar_goes_in_steps(both: tuple[Collection, RemoteCollection], monkeypatch: pytest.MonkeyPatch) -> None:
    local, remote = both
    monkeypatch.setattr("clipsearch.remote.MOST_AT_ONCE", 7)
    for picture in (5, local.root.parent / "other.png"):
        here, there = local.similar(picture, 40), remote.similar(picture, 40)
        assert [(hit.rank, hit.path) for hit in there] == [(hit.rank, hit.path) for hit in here]


@pytest.mark.slow
def test_answers_without_scores_are_equal(both: tuple[Collection, RemoteCollection]) -> None:
    for photos in both:
        found = photos.search("is:landscape", k=3)
        assert found == photos.search("is:landscape", k=3) and len(found) == 3


def test_ranks_are_numbers_of_python(both: tuple[Collection, RemoteCollection]) -> None:
    for photos in both:
        hits = CALLS["numbers of NumPy"](photos)
        assert [json.loads(json.dumps(hit.to_dict()))["rank"] for hit in hits] == [3, 4, 5, 6, 7]


ASKED_WITH: dict[str, tuple[Any, ...]] = {
    "search": ("red",),
    "order": ("red",),
    "rerank": ("red", "builtin"),
    "similar": (5,),
    "parse": ("red",),
    "notices": ("",),
    "unread": ([],),
    "encode_query": ("red",),
    "query_vector": (Query("red", ()),),
    "query_vectors": ([Query("red", ())],),
    "query_terms": ([Query("red", ())],),
    "summed": (Query("red", ()), []),
    "encode_text": ("red",),
    "encode_texts": ([],),
    "encode_picture": ([],),
    "encode_part": (5, Crop(0, 0, 9, 9)),
    "answered": (lambda: None,),
    "path_of": (ImageRecord(5, "5.png", 0, 0, 0, None),),
    "leads_out": (ImageRecord(5, "5.png", 0, 0, 0, None),),
    "where": ("red", 5),
    "file_of": (5,),
    "read_picture": ("other.png",),
    "refined": (None, [3], []),
    "search_vectors": (np.ones((1, DIM), np.float32),),
    "nearest": (np.ones((1, DIM), np.float32), 3),
    "hits": (np.ones(1, np.float32), np.ones(1, np.int64)),
    "judge": ([], np.ones(DIM, np.float32)),
    "confidences": (np.ones(0, np.float32), np.ones(DIM, np.float32)),
    "record": (5,),
    "views": (5,),
    "content_hash": (5,),
    "thumbnail": (5,),
    "vector": (5,),
    "vectors": ([],),
    "files_of": (np.arange(3),),
    "pictures_of": (np.arange(3),),
    "wholes_of": (np.arange(3),),
    "regions_of": (np.arange(3),),
    "with_regions": (np.arange(3),),
    "select": (Tagged("seen"),),
    "tag": ("seen",),
    "concept": ("reds",),
}
"""What methods that need arguments are asked with; all others are called without."""
STILL_ANSWER = {"close", "index", "url"}


def test_a_collection_that_is_closed_says_so(both: tuple[Collection, RemoteCollection]) -> None:
    """Every public method and property of both, also those that nobody has thought of yet."""
    for photos in both:
        kind = type(photos)
        shown = repr(photos)
        before = {name: vars(kind).get(name) for name in vars(kind) if not name.startswith("_")} | {
            "__len__": len,
            "__iter__": iter,
        }
        photos.close()
        photos.close()
        asked = 0
        for name in before.keys() - STILL_ANSWER:
            if name == "__iter__" and photos is both[1]:
                continue  # a remote one has no records to loop over
            with pytest.raises(ClosedCollection):
                if name.startswith("__"):
                    before[name](photos)  # type: ignore[misc]
                elif isinstance(before[name], property):
                    getattr(photos, name)
                else:
                    getattr(photos, name)(*ASKED_WITH.get(name, ()))
                pytest.fail(f"{kind.__name__}.{name} answers")
            asked += 1
        assert asked > 14
        assert shown.rstrip(">") in repr(photos)


@pytest.mark.slow
def test_an_index_that_the_server_has_not_is_an_error_of_every_method(
    both: tuple[Collection, RemoteCollection],
) -> None:
    with clipsearch.connect(both[1].url, index="elsewhere") as remote:
        for call in CALLS.values():
            with pytest.raises(UnknownIndex) as caught:
                call(remote)
            assert (caught.value.name, caught.value.known) == ("elsewhere", ["photos"])


def test_the_path_of_a_hit_finds_it_where_its_file_is_not(both: tuple[Collection, RemoteCollection]) -> None:
    for photos in both:
        path = away(photos)
        assert not Path(path).exists()
        for query in (path, Path(path), f" {path}\n"):
            hits = photos.search(query, 3)
            assert hits[0].score == pytest.approx(1, abs=1e-5)
            assert hits[0].record.content_hash == photos.record(4).content_hash


ODD_NAMES = [
    "Paris - 2021.bmp",
    "img near:1.bmp",
    "a + (b or.bmp",
    'so "called.bmp',
    "caf\udce9_dog.bmp",
    "Été/2:dog.bmp",
]


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("name", thinned(ODD_NAMES, 4))
def test_a_picture_of_the_index_is_its_stored_vector_unless_it_has_changed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name reads as in the query language, there or away, by its absolute or its relative path."""
    folder = tmp_path / "photos"
    (folder / "Été").mkdir(parents=True)
    colours = [(220, 30, 30), (30, 200, 40), (30, 60, 220), (220, 210, 40), (200, 40, 200), (40, 200, 200)]
    for colour, odd in zip(colours, ODD_NAMES, strict=True):
        Image.new("RGB", (30, 20), colour).save(tmp_path / "made.bmp")
        (tmp_path / "made.bmp").rename(folder / odd)
    encoder = FakeEncoder(dim=DIM)
    index = clipsearch.index(folder, encoder=encoder).index
    monkeypatch.chdir(folder)

    def first(photos: AnyCollection, query: Any) -> Any:
        found = photos.search(query, 2, all=True)
        return [(hit.record.path, hit.score) for hit in found]

    def paths_like(photos: AnyCollection, picture: Any) -> list[str]:
        return [hit.record.path for hit in photos.similar(picture, 9)]

    with (
        clipsearch.open(index, encoder=encoder) as local,
        serving(index, encoder) as (url, _),
        clipsearch.connect(url) as remote,
    ):
        path = folder / name
        seen, becomes = path.stat(), ODD_NAMES[(ODD_NAMES.index(name) + 1) % len(ODD_NAMES)]
        Image.new("RGB", (30, 20), colours[ODD_NAMES.index(becomes)]).save(tmp_path / "made.bmp")  # of the same size
        (tmp_path / "made.bmp").replace(path)
        os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
        ways: list[Any] = [path, str(path), Path(name)]
        for photos in (local, remote):
            for way in ways:  # as far as anybody can see it is the picture of the index
                assert first(photos, way)[0] == (name, pytest.approx(1, abs=1e-5)), way
                assert name not in paths_like(photos, way)
        os.utime(path, ns=(1, 1))
        for photos in (local, remote):
            for way in ways:  # it has changed: what it shows now
                assert first(photos, way)[0] == (becomes, pytest.approx(1, abs=1e-5)), way
                assert becomes not in paths_like(photos, way)
        path.unlink()
        for photos in (local, remote):
            for way in ways:
                assert first(photos, way)[0] == (name, pytest.approx(1, abs=1e-5)), way
                assert name not in paths_like(photos, way)


def test_both_are_collections(both: tuple[Collection, RemoteCollection]) -> None:
    def take(photos: AnyCollection) -> int:
        return len(photos)

    promised = {
        name for name in vars(AnyCollection) if not name.startswith("_") or name in ("__len__", "__enter__", "__exit__")
    }
    assert len(promised) > 14
    for photos in both:
        assert take(photos) == 300
        assert promised <= set(dir(photos))


def test_every_error_of_the_library_is_in_one_module() -> None:
    def below(kind: type[ClipsearchError]) -> set[type[ClipsearchError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    library = ("clipsearch.search", "clipsearch.store", "clipsearch.encoder", "clipsearch.remote", "clipsearch.vectors")
    import clipsearch.encoder.hub
    import clipsearch.encoder.onnx  # noqa: F401

    strangers = [kind for kind in below(ClipsearchError) if kind.__module__.startswith(library)]
    assert not strangers
    drawn = errors.__doc__ or ""
    for kind in below(ClipsearchError):
        assert kind.__module__ != "clipsearch.errors" or kind.__name__ in drawn, kind


def test_what_was_raised_before_still_is() -> None:
    assert issubclass(errors.NoSuchPicture, KeyError)
    assert issubclass(errors.InvalidTag, ValueError)
    assert issubclass(errors.UnsupportedPrecision, ValueError)
    assert str(errors.NoSuchPicture(7)) == "the index has no picture 7. Use the row_id of a hit"
    with pytest.raises(errors.UnsupportedPrecision, match="int8"):
        clipsearch.load_encoder("builtin", precision="fp16")


def test_a_remote_record_is_the_local_one(both: tuple[Collection, RemoteCollection]) -> None:
    local, remote = both
    for record in list(local)[::37]:
        assert remote.record(record.row_id) == record
        assert record.inode and record.vector_id >= 0
    calls: list[Call] = [
        lambda photos: photos.search("red", 7, unique=True),
        lambda photos: photos.search("folder:trips", 7),
        lambda photos: photos.similar(3, 7),
        lambda photos: photos.similar(photos.root.parent / "other.png", 7),
    ]
    for call in calls:
        here, there = ([one.record for hit in call(photos) for one in (hit, *hit.others)] for photos in both)
        assert here == there
