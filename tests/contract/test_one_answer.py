"""One question has one answer through every door: Python, `connect`, HTTP, the page, assistants, the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

import clipsearch
from clipsearch.daemon import client
from clipsearch.daemon.server import answer_locally
from clipsearch.records import DEFAULT_HITS, NOTHING_CERTAIN, Hit, Hits
from clipsearch.search import confidence
from clipsearch.search.collection import Collection
from clipsearch.server.mcp import assistant_server
from clipsearch.store import open_snapshot, read_records
from tests.support.cases import thinned
from tests.support.collections import serving, varied_index
from tests.support.commands import Commands
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM
from tests.support.words import write_words

Asked = dict[str, Any]
Row = tuple[Any, ...]  # row_id, score, confidence, band, others, words
Told = tuple[list[Row], bool]  # the hits, and whether they are certain

DOUBTFUL = "a submarine"
"""A query with nothing likely."""
REQUESTS: list[Asked] = [
    {"query": "red"},
    {"query": "a dark blue picture", "k": 7},
    {"query": "green", "k": 3, "offset": 2},
    {"query": "a submarine"},
    {"query": "red", "all": True},
    {"query": "red", "all": True, "k": 90},
    {"query": "red", "all": True, "k": 30, "offset": 60},
    {"query": "red + blue", "k": 12},
    {"query": "red - blue", "all": True},
    {"query": "2:yellow + like:17"},
    {"query": "like:3"},
    {"query": "like:3", "all": True, "k": 50},
    {"query": "red ext:png", "k": 10},
    {"query": "red folder:trips"},
    {"query": "blue not tag:seen", "all": True},
    {"query": "green near:48.1,2.2,20km", "all": True},
    {"query": "after:2023-06"},
    {"query": "tag:seen", "k": 40},
    {"query": "tag:seen", "sort": "path", "k": 15},
    {"query": "camera:x100", "offset": 10, "k": 10},
    {"query": "width:>64 folder:ete", "sort": "date"},
    {"query": "", "vector": 5},
    {"query": "", "vector": 5, "all": True, "k": 33},
    {"query": "red", "vector": 8},
    {"query": "folder:trips", "vector": 8, "k": 6},
    {"query": "red", "like": [10]},
    {"query": "red", "like": [10, 11], "unlike": [140]},
    {"query": "", "like": [20]},
    {"query": "red", "unlike": [0], "all": True},
    {"query": "red", "unique": True},
    {"query": "blue", "unique": True, "all": True, "k": 25},
    {"query": "after:2023-06", "unique": True, "k": 12},
    {"query": "red", "diverse": 0.9},
    {"query": "red", "diverse": 0.5, "unique": True, "all": True},
    {"query": "red", "sort": "date"},
    {"query": "red", "sort": "date", "all": True, "k": 18, "offset": 9},
    {"query": "red", "sort": "path"},
    {"query": "red", "sort": "path", "unique": True, "all": True},
    {"query": "green", "like": [12], "sort": "date", "unique": True},
    {"query": "red folder:nowhere"},
    {"query": "yellow"},
    {"query": "yellow", "k": 4, "offset": 3},
    {"query": "yellow", "all": True, "k": 30},
    {"query": "yellow", "sort": "date", "unique": True},
    {"query": "yellow", "diverse": 0.5, "unique": True, "all": True},
    {"query": "yellow folder:trips"},
    {"query": "yellow", "unlike": [140]},
    {"query": "yellow", "min_confidence": 0.1},
    {"query": "text:yel"},
    {"query": 'red text:"TIMES new" or text:w'},
    {"query": "red", "min_confidence": 0.0, "k": 90},
    {"query": "red", "min_confidence": 0.2, "sort": "path"},
    {"query": "like:3", "min_confidence": 0.9},
    {"query": "red", "min_confidence": 1.0},
    {"query": "red folder:trips", "min_confidence": 1.0},
    {"query": "red", "like": [10], "unlike": [140], "min_confidence": 0.5},
    {"query": "red", "unlike": [0], "min_confidence": 0.3},
    {"query": DOUBTFUL},
    {"query": DOUBTFUL, "k": 3, "offset": 4},
    {"query": DOUBTFUL, "sort": "path", "unique": True},
    {"query": DOUBTFUL, "unlike": [0, 140]},
    {"query": DOUBTFUL, "like": [10]},
    {"query": DOUBTFUL, "like": [10], "unlike": [140], "sort": "date"},
    {"query": "red", "unlike": [0]},
    {"query": "like:3", "unlike": [140]},
    {"query": "", "unlike": [20]},
    {"query": "folder:trips", "unlike": [20], "sort": "path"},
    {"query": "red -blue"},
    {"query": "red -blue -green", "k": 4, "offset": 2},
    {"query": "red - yellow", "unique": True},
    {"query": "2:red - 0.3:blue", "sort": "date"},
    {"query": "red + yellow -blue", "sort": "path"},
    {"query": "red -blue", "min_confidence": 0.1},
    {"query": "red -blue", "diverse": 0.5, "all": True},
    {"query": "red -blue folder:trips"},
    {"query": "red - like:17"},
    {"query": "like:3 - red", "k": 30},
    {"query": "yellow -blue"},
    {"query": "-red"},
    {"query": "-red -blue", "k": 50, "offset": 120},
    {"query": "-red", "sort": "date", "unique": True},
    {"query": "-red", "min_confidence": 0.97, "k": 40},
    {"query": "folder:trips -red", "k": 40},
    {"query": "-like:17", "k": 20},
    {"query": "red -blue", "vector": 8},
    {"query": "-red", "vector": 8},
    {"query": "red -blue", "like": [10], "unlike": [140]},
    {"query": "red -blue", "unlike": [0]},
    {"query": "-red", "like": [10]},
    {"query": "-red", "unlike": [20]},
    {"query": f"{DOUBTFUL} -red"},
    {"query": "red -red -blue - 0.1:green", "all": True},
]


def rows_of(hits: list[Hit] | list[dict[str, Any]]) -> list[Row]:
    bodies = [hit.to_dict() if isinstance(hit, Hit) else hit for hit in hits]
    assert (
        [body["rank"] for body in bodies] == list(range(bodies[0]["rank"], bodies[0]["rank"] + len(bodies)))
        if bodies
        else True
    )
    return [
        (
            b["row_id"],
            b["score"],
            b["confidence"],
            b["band"],
            tuple(other["row_id"] for other in b["others"]),
            *(line["text"] for line in b["words"]),
        )
        for b in bodies
    ]


def same(one: list[Row], other: list[Row]) -> bool:
    return (
        [(row[0], row[3:]) for row in one] == [(row[0], row[3:]) for row in other]
        and [row[1] for row in one] == pytest.approx([row[1] for row in other], abs=1e-5)
        and [row[2] for row in one] == pytest.approx([row[2] for row in other], abs=2e-4)
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test writes to it."""
    index = varied_index(tmp_path_factory.mktemp("doors") / "photos", FakeEncoder(dim=DIM))
    with open_snapshot(index) as snapshot:
        names = [record.path for record in read_records(index, snapshot.manifest)]
    write_words(index, {names[n]: ["Yellow pages", f"New times {n}"] for n in (7, 44, 61, 62, 63, 150)})
    return index


def question(asked: Asked, photos: Collection) -> Asked:
    """With the vector of a row in place of the row's number."""
    vector = asked.get("vector")
    return {**asked, **({} if vector is None else {"vector": photos.vector(vector)})}


def of_hits(hits: Hits) -> Told:
    return rows_of(hits), hits.are_certain


def words_of(asked: Asked) -> list[str]:
    """A question as a command line."""
    words = ["query", asked["query"], "--json"]
    for name in ("all", "unique"):
        words += [f"--{name}"] if asked.get(name) else []
    for name, option in OPTIONS.items():
        words += [option, str(asked[name])] if name in asked else []
    return words + [
        part for name in ("like", "unlike") for row in asked.get(name, ()) for part in (f"--{name}", str(row))
    ]


OPTIONS = {"k": "-k", "offset": "--offset", "diverse": "--diversity", "sort": "--sort"}
OPTIONS |= {"min_confidence": "--min-confidence"}


def of_commands(commands: Commands, index: Path) -> Callable[[Asked], Told | None]:
    def ask(asked: Asked) -> Told | None:
        if "vector" in asked:
            return None  # there is no way to say it
        done = commands.run(*words_of(asked), "--index", str(index))
        found = rows_of(done.json())
        are_certain = bool(found) and NOTHING_CERTAIN not in done.err
        assert done.status == (0 if are_certain else 3), done.err
        return found, are_certain

    return ask


def of_daemon(index: Path) -> Callable[[Asked], Told | None]:
    def ask(asked: Asked) -> Told | None:
        if "vector" in asked:
            return None
        options = {name: value for name, value in asked.items() if name not in ("query", "k")}
        hits = client.ask(index, asked["query"], asked.get("k", DEFAULT_HITS), options)
        return None if hits is None else of_hits(hits)  # None: nothing is found

    return ask


def as_assistant(server: MCPServer, asked: Asked) -> dict[str, Any]:
    async def call() -> Any:
        async with Client(server) as client:
            return await client.call_tool("search", asked)

    answer = anyio.run(call)
    assert not answer.is_error, answer.content
    found: dict[str, Any] = answer.structured_content
    return found


def of_assistants(service: Any) -> Callable[[Asked], Told | None]:
    server = assistant_server(service)  # one for all: to make it takes far longer than to ask it

    def ask(asked: Asked) -> Told | None:
        if "vector" in asked:
            return None
        found = as_assistant(server, asked)
        return rows_of(found["hits"]), bool(found["hits"]) and NOTHING_CERTAIN not in (found["note"] or "")

    return ask


@contextlib.contextmanager
def answering(app: Any, index: Path) -> Iterator[None]:
    """A server that answers the commands of this user."""
    close = answer_locally(app.state.service.engine)
    try:
        assert client.is_answered(index)
        yield
    finally:
        close()


PARTS = 4
PART = pytest.mark.parametrize("requests", thinned([REQUESTS[n::PARTS] for n in range(PARTS)], PARTS), ids=range(PARTS))


@pytest.mark.slow
@PART
def test_every_door_gives_the_same_answer(requests: list[Asked], index: Path) -> None:
    encoder = FakeEncoder(dim=DIM)
    assert len(REQUESTS) > 40
    with (
        clipsearch.open(index, encoder=encoder) as photos,
        serving(index, encoder) as (url, app),
        clipsearch.connect(url) as remote,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        Commands({name: os.environ[name] for name in ("CLIPSEARCH_STATE_DIR", "CLIPSEARCH_CACHE_DIR")}) as commands,
    ):

        def posted(route: str) -> Callable[[Asked], Told]:
            def ask(asked: Asked) -> Told:
                vector = asked.get("vector")
                body = {**asked, "vector": None if vector is None else vector.tolist()}
                answer = http.post(route, json=body)
                assert answer.status_code == 200, answer.text
                found = answer.json()
                order = photos.order(**{k: v for k, v in asked.items() if k not in ("k", "offset")})
                assert (found["total"], found["hidden"]) == order.count(photos), (route, asked)
                return rows_of(found["hits"]), bool(found["hits"]) and NOTHING_CERTAIN not in found["notices"]

            return ask

        doors: dict[str, Callable[[Asked], Told | None]] = {
            "connect": lambda asked: of_hits(remote.search(**asked)),
            "/v1/search": posted("/v1/search"),
            "/v1/gallery": posted("/v1/gallery"),
            "mcp": of_assistants(app.state.service),
            "query --json": of_commands(commands, index),
            "query, answered by another process": of_daemon(index),  # the last: later commands would ask it as well
        }
        wholes = [question(asked, photos) for asked in requests]
        local = [photos.search(**whole) for whole in wholes]
        answers = 0
        for door, ask in doors.items():
            with answering(app, index) if ask is list(doors.values())[-1] else contextlib.nullcontext():
                for asked, whole, hits in zip(requests, wholes, local, strict=True):
                    told = ask(whole)
                    if told is None:
                        continue
                    found, are_certain = told
                    assert same(found, rows_of(hits)), (door, asked, found, rows_of(hits))
                    assert are_certain == hits.are_certain, (door, asked)
                    answers += 1
        assert answers > 4.2 * len(requests)
        assert sum(len(hits) > 0 for hits in local) > 0.75 * len(requests)  # the table asks for something


@pytest.mark.slow
@PART
def test_the_first_hits_are_the_first_of_more_hits(requests: list[Asked], index: Path) -> None:
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        for request in requests:
            asked = {k: v for k, v in question(request, photos).items() if k not in ("k", "offset")}
            everything = rows_of(photos.search(**asked, k=1000))
            total, hidden = photos.order(**asked).count(photos)
            assert len(everything) == len({row[0] for row in everything}) == total
            for k in (1, 5, 20, 21, 120):
                assert same(rows_of(photos.search(**asked, k=k)), everything[:k]), (k, request)
            windows = [row for n in range(0, 300, 37) for row in rows_of(photos.search(**asked, k=37, offset=n))]
            assert same(windows, everything), request
            if photos.parse(request["query"] or "x").filter is None:
                folded = sum(len(row[4]) for row in everything)
                assert total + folded + hidden == len(photos), request


@pytest.mark.slow
@PART
def test_places_and_row_ids_are_those_of_the_windows(requests: list[Asked], index: Path) -> None:
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        every = photos.row_ids().tolist()
        for request in requests:
            asked = {k: v for k, v in question(request, photos).items() if k not in ("k", "offset")}
            shown = rows_of(photos.search(**asked, k=1000))
            for offset, count in ((0, 3), (40, 30), (0, 1000), (len(shown), 5)):  # each of an order just begun
                found = photos.order(**asked).row_ids(photos, offset, count).tolist()
                assert found == [row[0] for row in shown[offset : offset + count]], (request, offset)
            places = {row_id: place for place, row in enumerate(shown) for row_id in (row[0], *row[4])}
            last = [shown[-1][0], *shown[-1][4]] if shown else []
            for row_id in (*last, *every[:2]):
                assert photos.order(**asked).place_of(photos, row_id) == places.get(row_id), request
            order = photos.order(**asked)
            assert {row_id: order.place_of(photos, row_id) for row_id in every} == {n: places.get(n) for n in every}


NOTHING: list[tuple[Asked, str]] = [
    ({"query": "red", "min_confidence": 1.0}, "300 pictures match with a lower confidence than 1"),
    ({"query": "red folder:trips", "min_confidence": 0.999}, "255 pictures match with a lower confidence than 0.999"),
    ({"query": "blue name:IMG_0299", "min_confidence": 0.75}, "one picture matches with a lower confidence than 0.75"),
    ({"query": "red folder:nowhere", "min_confidence": 0.5}, "no picture matches folder:nowhere"),
    ({"query": "folder:nowhere"}, "no picture matches folder:nowhere"),
    ({"query": "red", "like": [10], "min_confidence": 1.0}, "300 pictures match with a lower confidence than 1"),
    ({"query": "camera:x100 folder:trips", "offset": 5000}, "there are 50 hits in all"),
    ({"query": "blue name:IMG_0299", "all": True, "offset": 1}, "there is one hit in all"),
]


@pytest.mark.slow
def test_why_nothing_is_found_is_said_in_the_same_words_through_every_door(index: Path) -> None:
    encoder = FakeEncoder(dim=DIM)
    with (
        serving(index, encoder) as (url, app),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        Commands({name: os.environ[name] for name in ("CLIPSEARCH_STATE_DIR", "CLIPSEARCH_CACHE_DIR")}) as commands,
    ):
        server = assistant_server(app.state.service)
        for asked, why in NOTHING:
            nothing = "" if "offset" in asked else "nothing found: "  # behind the last hit, something is
            for route in ("/v1/search", "/v1/gallery"):
                found = http.post(route, json=asked).json()
                assert (found["hits"], found["notices"][:1]) == ([], [f"{nothing}{why}"]), (route, asked)
            answer = as_assistant(server, asked)
            assert (answer["hits"], answer["note"].split("; ")[0]) == ([], f"{nothing}{why}"), asked
            done = commands.run(*words_of(asked), "--index", str(index))
            assert (done.status, done.err.splitlines()[-1]) == (3, f"{nothing}{index.parent}: {why}"), asked


def test_an_order_by_date_or_path_is_of_all_that_passes_the_cut(index: Path) -> None:
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        choices: list[Asked] = [{}, {"all": True}, {"like": [4]}]
        for options in choices:
            by_score = rows_of(photos.search("red", 1000, **options))
            for sort in ("date", "path"):
                found = rows_of(photos.search("red", 1000, **{**options, "sort": sort}))
                assert same(sorted(found), sorted(by_score))
        newest = [photos.record(hit.record.row_id) for hit in photos.search("red", 1000, sort="date", all=True)]
        assert len(newest) == len(photos)
        listed = [hit.record for hit in photos.search("", 1000)]
        assert [record.row_id for record in newest] == [record.row_id for record in listed]


def test_one_thumb_does_not_show_everything(index: Path) -> None:
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        for query in ("red", "blue", "green"):
            liked = photos.search(query, 1, all=True)[0].record.row_id
            for options in ({"like": [liked]}, {"unlike": [liked]}, {"vector": photos.vector(liked)}):
                _, hidden = photos.order(query, **options).count(photos)
                assert hidden > len(photos) / 4, (query, options)


QUERIES = ["red", "green", DOUBTFUL, "xyzzy", "a dog", "like:3", "red + like:17", "red folder:trips", "red - blue"]


@pytest.mark.many
@pytest.mark.parametrize("options", [{}, {"min_confidence": 0.3}, {"sort": "path"}, {"all": True}], ids=str)
def test_a_thumb_down_moves_what_is_found_and_is_no_evidence_for_it(options: Asked, index: Path) -> None:
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        order = {}
        for query in QUERIES:
            plain = photos.search(query, 1000, **options)
            for unlike in ([0], [140], [0, 140, 201]):
                moved = photos.search(query, 1000, unlike=unlike, **options)
                assert moved.are_certain == plain.are_certain, (query, unlike)
                bands, expected = ({hit.record.row_id: hit.band for hit in hits} for hits in (moved, plain))
                assert bands == expected, (query, unlike)
                sure, known = ({hit.record.row_id: hit.confidence for hit in hits} for hits in (moved, plain))
                assert sure == pytest.approx(known, abs=1e-5), (query, unlike)
                order[query, *unlike] = [hit.record.row_id for hit in moved] != [hit.record.row_id for hit in plain]
        assert "sort" in options or any(order.values())


THUMBS: list[Asked] = [{"like": [10]}, {"like": [3, 4]}, {"like": [10], "unlike": [140]}]


@pytest.mark.slow
def test_a_thumb_up_adds_to_what_is_found_and_hides_none_of_it(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = confidence.shipped_calibration()
    # The pictures here are unlike each other: only a judge who is easily convinced finds more.
    picture = dataclasses.replace(shipped.picture, intercept=shipped.picture.intercept + 1)
    lenient = dataclasses.replace(shipped, picture=picture)
    monkeypatch.setattr(confidence, "shipped_calibration", lambda: lenient)
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        certain = set()
        for query in QUERIES:
            plain = photos.search(query, 1000)
            for thumbs in THUMBS:
                shown = photos.search(query, 1000, **thumbs)
                sure = {hit.record.row_id: hit.confidence or 0.0 for hit in shown}
                certain.add((plain.are_certain, shown.are_certain))
                assert shown.are_certain >= plain.are_certain, (query, thumbs)
                assert len(shown) <= 10 or shown.are_certain
                assert not shown.are_certain or all(hit.band != "unlikely" for hit in shown), (query, thumbs)
                for hit in plain if plain.are_certain else ():
                    assert sure[hit.record.row_id] >= (hit.confidence or 0.0) - 1e-6, (query, thumbs)
        assert certain == {(True, True), (False, True), (False, False)}


def test_thumbs_down_alone_ask_for_nothing(index: Path) -> None:
    """They order a list, and leave nothing out of it."""
    with clipsearch.open(index, encoder=FakeEncoder(dim=DIM)) as photos:
        for query in ("", "folder:trips"):
            hits = photos.search(query, 1000, unlike=[20])
            assert len(hits) == len(photos.search(query, 1000)) and hits.are_certain
            assert all(hit.confidence is None and hit.band is None for hit in hits)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert 20 not in [hit.record.row_id for hit in hits[: len(hits) // 2]]
