"""What cannot be answered is refused alike through every door: Python, `connect`, HTTP, assistants, commands."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from PIL import Image

import clipsearch
from clipsearch import Collection, RemoteCollection
from clipsearch.errors import ClipsearchError
from clipsearch.query.arguments import SORTS, THUMBNAIL_SIZES
from clipsearch.records import Hit
from clipsearch.server.mcp import assistant_server
from tests.support.collections import serving, through_both_doors, varied_index
from tests.support.commands import Commands
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM

Call = Callable[[Any], Any]
EXAMPLES = max(25, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")))
NAN = math.nan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    folder = tmp_path_factory.mktemp("refusals") / "photos"
    varied_index(folder, FakeEncoder(dim=DIM))
    (folder.parent / "bad.jpg").write_bytes(b"no picture")
    Image.new("RGB", (30, 20), (200, 60, 20)).save(folder.parent / "other.png")
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[tuple[Collection, RemoteCollection]]:
    with through_both_doors(folder, FakeEncoder(dim=DIM)) as doors:
        yield doors


def outcome(call: Call, photos: Any) -> Any:
    """What a call returns, as plain values; or its error: class, message and fields."""
    try:
        answer = call(photos)
    except ClipsearchError as error:
        return type(error), str(error), dict(vars(error))
    return _plain(answer)


def _plain(answer: Any) -> Any:
    if isinstance(answer, np.ndarray):
        return [answer.shape, str(answer.dtype), answer.ravel().tolist()]
    if isinstance(answer, Hit):
        return [answer.record.row_id, answer.score]
    if isinstance(answer, clipsearch.ImageRecord):
        return answer.to_dict(answer.path)
    if isinstance(answer, bytes):
        with Image.open(io.BytesIO(answer)) as jpeg:
            return jpeg.format, jpeg.size
    return [_plain(one) for one in answer] if isinstance(answer, list) else answer


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are equal but for the rounding of scores and vectors."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-5) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


IDS: st.SearchStrategy[Any] = st.one_of(
    st.integers(),
    st.integers(-3, 310),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**30]),
    st.sampled_from([None, "3", b"3", "x", 1.0, NAN, True, np.int64(3), np.float32(2), [3], (), {}, object]),
)
PATHS = st.sampled_from(
    ["", " ", "nowhere.jpg", "/nowhere/x.jpg", "\0", "x" * 5000, "~", "bad.jpg", Path("bad.jpg"), Path("nowhere")]
)
NUMBERS = st.one_of(st.floats(), st.integers(), st.floats(0, 1))
VALUES = st.one_of(IDS, NUMBERS, st.text(max_size=5), PATHS, st.binary(max_size=3), st.booleans())
VECTORS = st.one_of(
    st.sampled_from([0.0, NAN, math.inf, -1e38, 1e38, 1e200, 1e308, 1e-38, 1e-300, 5e-324]).map(lambda x: [x] * DIM),
    st.integers(0, 3).map(np.ones),
    st.sampled_from([[1e308] + [0.0] * (DIM - 1), [NAN] + [1.0] * (DIM - 1), np.ones((1, DIM)), np.ones(DIM, complex)]),
    st.sampled_from(
        [np.ones(9000), [10**400] * DIM, [None] * DIM, "red", 5, np.full(DIM, 6e4, np.float16), [True] * DIM]
    ),
)


def images(mode: str, size: tuple[int, int]) -> Image.Image:
    made = Image.new(mode, size)
    if mode in ("RGB", "HSV", "L") and min(size):
        made.paste(Image.effect_noise(size, 80).convert("L").convert("RGB").convert(mode))
    return made


IMAGES = st.builds(
    images,
    st.sampled_from(
        [
            "1",
            "L",
            "LA",
            "La",
            "P",
            "PA",
            "RGB",
            "RGBA",
            "RGBa",
            "RGBX",
            "HSV",
            "LAB",
            "YCbCr",
            "CMYK",
            "I",
            "F",
            "I;16",
        ]
    ),
    st.sampled_from([(20, 20), (1, 1), (0, 0), (0, 9), (9, 0), (90, 20)]),
)

CALLS: list[tuple[str, st.SearchStrategy[Any], Callable[[Any, Any], Any]]] = [
    ("record", IDS, lambda p, x: p.record(x)),
    ("vector", IDS, lambda p, x: p.vector(x)),
    ("similar", VALUES, lambda p, x: p.similar(x)),
    ("where", st.one_of(IDS, st.integers(0, 10)), lambda p, x: p.where("red", x).to_dict()),
    ("where, of a query", VALUES, lambda p, x: p.where(x, 5).to_dict()),
    ("similar to an image", IMAGES, lambda p, x: p.similar(x)),
    ("similar, k", IDS, lambda p, x: p.similar(5, x)),
    ("vectors", st.one_of(VALUES, st.lists(IDS, max_size=3)), lambda p, x: p.vectors(x)),
    ("vectors of an array", st.lists(st.integers(-2, 302), max_size=3), lambda p, x: p.vectors(np.array(x, np.int64))),
    ("search", VALUES, lambda p, x: p.search(x)),
    ("search several", st.lists(VALUES, max_size=2), lambda p, x: p.search(x)),
    ("search for an image", IMAGES, lambda p, x: p.search(x)),
    ("k", VALUES, lambda p, x: p.search("red", x)),
    ("offset", VALUES, lambda p, x: p.search("red", offset=x)),
    ("sort", st.one_of(VALUES, st.sampled_from([*SORTS, "DATE"])), lambda p, x: p.search("red", sort=x)),
    ("unique", VALUES, lambda p, x: p.search("red", unique=x)),
    ("all", VALUES, lambda p, x: p.search("red", 3, all=x)),
    ("diverse", VALUES, lambda p, x: p.search("red", diverse=x)),
    ("like", st.one_of(VALUES, st.lists(IDS, max_size=3)), lambda p, x: p.search("red", like=x)),
    ("unlike", st.one_of(VALUES, st.lists(IDS, max_size=3)), lambda p, x: p.search("red", unlike=x)),
    ("like in words", IDS, lambda p, x: p.search(f"red + like:{x}")),
    ("vector alone", VECTORS, lambda p, x: p.search("", 5, vector=x, all=True)),
    ("vector and words", VECTORS, lambda p, x: p.search("red", 5, vector=x, all=True)),
    ("vector and file", VECTORS, lambda p, x: p.search(p.root.parent / "other.png", 5, vector=x, all=True)),
    ("notices", VALUES, lambda p, x: p.notices(x)),
    ("encode_text", st.one_of(VALUES, st.lists(VALUES, max_size=2)), lambda p, x: p.encode_text(x)),
    ("encode_texts", st.one_of(VALUES, st.lists(VALUES, max_size=2)), lambda p, x: p.encode_texts(x)),
    ("encode_picture", st.one_of(VALUES, IMAGES, st.lists(VALUES, max_size=2)), lambda p, x: p.encode_picture(x)),
    ("thumbnail", IDS, lambda p, x: p.thumbnail(x)),
    ("thumbnail, size", st.one_of(VALUES, st.sampled_from(THUMBNAIL_SIZES)), lambda p, x: p.thumbnail(5, x)),
]
BY_NAME = {name: (values, call) for name, values, call in CALLS}


@pytest.mark.many
@pytest.mark.parametrize("name", BY_NAME)
def test_a_local_and_a_remote_collection_answer_and_refuse_alike(
    name: str, both: tuple[Collection, RemoteCollection], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, call = BY_NAME[name]
    monkeypatch.chdir(both[0].root.parent)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(value=values)
    def compare(value: Any) -> None:
        here, there = (outcome(lambda photos: call(photos, value), photos) for photos in both)
        assert same(there, here), (here, there)

    compare()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"like": [-1]}, "the index has no picture -1. Use the row_id of a hit"),
    ({"unlike": [2**63]}, f"the index has no picture {2**63}. Use the row_id of a hit"),
    ({"like": [999]}, "the index has no picture 999. Use the row_id of a hit"),
    ({"like": ["3"]}, "like must be a list of row ids, which are whole numbers"),
    ({"like": 3}, "like is 3: it must be a list of row ids"),
    ({"sort": "size"}, "hits cannot be sorted by 'size'. Use one of: score, date, path"),
    ({"k": 0}, "k is 0: it must be at least 1"),
    ({"k": "5"}, "k is '5': it must be a whole number"),
    ({"k": True}, "k is True: it must be a whole number"),
    ({"offset": -1}, "offset is -1: it must be at least 0"),
    ({"diverse": 1.5}, "diverse is 1.5: it must be between 0 and 1"),
    ({"diverse": "yes"}, "diverse is 'yes': it must be between 0 and 1"),
    ({"unique": "yes"}, "unique is 'yes': it must be True or False"),
    ({"all": 2}, "all is 2: it must be True or False"),
    ({"query": "dog (ext:jpg or"}, ""),
    ({"query": "near:48.85"}, ""),
    ({"query": "like:-1"}, ""),
    ({"query": "like:999"}, ""),
    ({"query": "like:" + "9" * 5000}, ""),
    ({"query": "red - red"}, ""),
    ({"all": True, "min_confidence": 0}, "use all or min_confidence, not both"),
    ({"min_confidence": 2.0}, "min_confidence is 2.0: it must be between 0 and 1"),
    ({"min_confidence": "0.5"}, "min_confidence is '0.5': it must be between 0 and 1"),
    ({"query": "dog (ext:jpg or", "all": True, "min_confidence": 0}, "use all or min_confidence, not both"),
    ({"query": "dog (ext:jpg or", "sort": "size"}, "hits cannot be sorted by 'size'. Use one of: score, date, path"),
    ({"query": "dog (ext:jpg or", "like": [999]}, ""),
    ({"query": None}, "None is not a query: a query is a text or a path"),
    ({"query": 5}, "5 is not a query: a query is a text or a path"),
    ({"query": 5, "sort": "size"}, "hits cannot be sorted by 'size'. Use one of: score, date, path"),
    ({"query": "x" * 10_001}, "the query has 10,001 characters; the limit is 10,000"),
    ({"all": 2, "min_confidence": 0.2}, "all is 2: it must be True or False"),
    ({"sort": "size", "all": True, "min_confidence": 0.2}, ""),
    ({"offset": -(2**60)}, f"offset is {-(2**60)}: it must be at least 0"),
]


@pytest.mark.slow
def test_a_question_is_refused_in_the_same_words_through_every_door(folder: Path) -> None:
    encoder = FakeEncoder(dim=DIM)
    index = folder / ".clipsearch"
    with (
        clipsearch.open(folder, encoder=encoder) as photos,
        serving(index, encoder) as (url, app),
        clipsearch.connect(url) as remote,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        Commands({name: os.environ[name] for name in ("CLIPSEARCH_STATE_DIR", "CLIPSEARCH_CACHE_DIR")}) as commands,
    ):

        async def ask_as_an_assistant() -> list[Any]:
            async with Client(assistant_server(app.state.service)) as client:
                return [await client.call_tool("search", {"query": "red", **options}) for options, _ in REFUSED]

        told = anyio.run(ask_as_an_assistant)
        for number, (options, words) in enumerate(REFUSED):
            asked = {"query": "red", **options}
            with pytest.raises(ClipsearchError) as caught:
                photos.search(**asked)
            error = caught.value
            assert str(error) == words or (not words and isinstance(error, clipsearch.errors.InvalidQuery)), options
            assert outcome(lambda p: p.search(**asked), remote) == outcome(lambda p: p.search(**asked), photos), options  # noqa: B023
            for route in ("/v1/search", "/v1/gallery"):
                answer = http.post(route, json=asked)
                assert answer.status_code == 400, (route, options)
                assert answer.json()["error"] == type(error).__name__, (route, options)
                assert answer.json()["message"] == str(error), (route, options)

            assert told[number].is_error, options
            assert told[number].content[0].text == str(error), options
            typed = _words_of(asked)
            if typed is not None:
                done = commands.run("query", *typed, "--index", str(index))
                assert done.status == 2, (options, done.err)
                assert done.err == f"clipsearch: {error}\n", options


def _words_of(asked: dict[str, Any]) -> list[str] | None:
    """The same on a command line; None where its options cannot say it."""
    words = [asked["query"]]
    if not isinstance(words[0], str):
        return None
    for name, value in asked.items():
        if name in ("like", "unlike") and isinstance(value, list) and isinstance(value[0], int):
            words += [f"--{name}={value[0]}"]
        elif name == "all" and value is True:
            words += ["--all"]
        elif name == "min_confidence" and not isinstance(value, str):
            words += ["--min-confidence", str(value)]
        elif name in ("k", "offset") and type(value) is int:
            words += ["-k" if name == "k" else "--offset", str(value)]
        elif name != "query":
            return None
    return words


@pytest.mark.slow
def test_what_is_beyond_every_index_is_answered_alike_through_every_door(folder: Path) -> None:
    encoder = FakeEncoder(dim=DIM)
    long = "a" * 20_000
    with (
        clipsearch.open(folder, encoder=encoder) as photos,
        serving(folder / ".clipsearch", encoder) as (url, app),
        clipsearch.connect(url) as remote,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        for offset in (2**53, 2**53 + 1, 2**60, 10**30):
            assert photos.search("red", offset=offset) == remote.search("red", offset=offset) == []
            for route in ("/v1/search", "/v1/gallery"):
                answer = http.post(route, json={"query": "red", "offset": offset})
                assert (answer.status_code, answer.json()["hits"]) == (200, []), (route, answer.text)
        told = [outcome(lambda p: p.similar(long), one) for one in (photos, remote)]
        assert told[0] == told[1] and told[0][0] is clipsearch.errors.UnreadablePicture
        for path, name in ((long, "aaa..."), ("/nowhere/a.jpg", "/nowhere/a.jpg")):
            for route in ("/v1/similar", "/v1/picture"):
                answer = http.post(route, json={"path": path})
                assert (answer.status_code, answer.json()["error"]) == (404, "NoSuchPicture")
                assert f"{name}, and no other file is opened" in answer.json()["message"]
        answer = http.post("/v1/embed", json={"texts": ["x" * 10_001]})
        with pytest.raises(clipsearch.errors.InvalidQuery) as caught:
            photos.encode_texts(["x" * 10_001])
        assert (answer.status_code, answer.json()["message"]) == (400, str(caught.value))

        async def ask_as_an_assistant() -> list[Any]:
            async with Client(assistant_server(app.state.service)) as client:
                asked: list[tuple[str, dict[str, Any]]] = [
                    ("search", {"query": "red", "offset": 2**60}),
                    ("similar", {"path": long}),
                    ("search", {"query": "./cat.jpg"}),
                ]
                return [await client.call_tool(tool, options) for tool, options in asked]

        answers = anyio.run(ask_as_an_assistant)
        assert not answers[0].is_error
        assert "aaa..., and no other file is opened" in answers[1].content[0].text
        assert answers[2].content[0].text.endswith("Use like:ROW_ID, or send the picture where that is possible.")


NONSENSE: list[Any] = [5, b"x", 1.5, ["a"], {"a": 1}, object(), True, np.ones(3), "\0"]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_every_public_function_refuses_what_is_no_argument(value: Any, folder: Path, tmp_path: Path) -> None:
    encoder = FakeEncoder(dim=DIM)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    calls: dict[str, Call] = {
        "open": clipsearch.open,
        "open, model": lambda x: clipsearch.open(folder, model=x).encoder,
        "Collection": Collection,
        "index": lambda x: clipsearch.index(x, encoder=encoder),
        "index, index": lambda x: clipsearch.index(tmp_path, encoder=encoder, index=x),
        "index, model": lambda x: clipsearch.index(tmp_path, model=x),
        "load_encoder": clipsearch.load_encoder,
        "load_encoder, checkpoint": lambda x: clipsearch.load_encoder("open_clip:ViT-B-32", checkpoint=x),
        "load_encoder, device": lambda x: clipsearch.load_encoder("builtin", device=x),
        "Encoder": clipsearch.Encoder,
        "encode_text": lambda x: clipsearch.Encoder(encoder).encode_text(x),
        "encode_picture": lambda x: clipsearch.Encoder(encoder).encode_picture(x),
        "connect": lambda x: clipsearch.connect(x).status(),
        "connect, token": lambda x: clipsearch.connect("http://127.0.0.1:9", x),
        "connect, index": lambda x: clipsearch.connect("http://127.0.0.1:9", index=x),
    }
    if not isinstance(value, str):
        calls |= {
            "open, encoder": lambda x: clipsearch.open(folder, encoder=x),
            "index, encoder": lambda x: clipsearch.index(tmp_path, encoder=x),
            "index, options": lambda x: clipsearch.index(tmp_path, encoder=encoder, options=x),
        }
    if not isinstance(value, int | float):
        calls["connect, timeout_s"] = lambda x: clipsearch.connect("http://127.0.0.1:9", timeout_s=x)
    for name, call in calls.items():
        if isinstance(value, str | list | dict) and name == "encode_text":
            continue  # these are texts
        if isinstance(value, str) and name == "connect, token":
            continue
        with pytest.raises(ClipsearchError):
            call(value)
            pytest.fail(f"{name} takes {value!r}")


@pytest.mark.parametrize("number", [NAN, -1, -math.inf, "5", None, [1]])
def test_settings_of_a_run_are_numbers_that_can_be(number: Any) -> None:
    for name in (
        "batch_pictures",
        "workers",
        "timeout_s",
        "max_pixels",
        "commit_rows",
        "commit_s",
        "keep_missing_days",
    ):
        if number is None and name in ("batch_pictures", "workers", "max_pixels"):
            continue
        with pytest.raises(clipsearch.errors.InvalidArgument, match=name):
            clipsearch.IndexOptions(**{name: number})
    with pytest.raises(clipsearch.errors.InvalidArgument, match="recall"):
        clipsearch.IndexOptions(recall=NAN)
