"""What a server does about shards that fail. Here they are threads; `contract/test_shards.py` has a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import clipsearch
from clipsearch.cli.serve import app as serve_command
from clipsearch.encoder import Encoder
from clipsearch.search.shard import Generation, Shard, generation_of
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.shards import Response, ShardedCollection, Shards
from clipsearch.store import open_snapshot
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

OF = 3


class Call:
    """What comes of a call to a thread."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self, *, timeout_s: float | None = None) -> Any:
        return self._future.result(timeout_s)

    def cancel(self) -> None:
        self._future.cancel()


class Thread:
    """A shard in a thread, which fails while `fails` is set, and hangs while `hangs` is."""

    def __init__(self, shard: Shard, threads: ThreadPoolExecutor) -> None:
        self.shard = shard
        self._threads = threads
        self.fails = False
        self.hangs = threading.Event()
        self.hangs.set()
        self.asked = 0

    def _run(self, work: Any, *asked: Any) -> Response:
        def run() -> Any:
            self.hangs.wait(5)
            if self.fails:
                raise RuntimeError("it died\nand more")
            return work(*asked)

        return Call(self._threads.submit(run))

    def search(self, *asked: Any) -> Response:
        self.asked += 1
        return self._run(self.shard.search, *asked)

    def has(self, generation: Generation) -> Response:
        return self._run(self.shard.has, generation)


class Fleet:
    """Shards of every index that is opened."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(32)
        self.members: dict[str, list[Thread]] = {}
        self.shards: dict[str, Shards] = {}

    def open(self, index: Path, encoder: Encoder, observe: Any) -> ShardedCollection:
        name = index.parent.name
        if name not in self.shards:
            self.members[name] = [Thread(Shard(index, (n, OF)), self.threads) for n in range(OF)]
            named = {f"shard {n + 1} of {name}": member for n, member in enumerate(self.members[name])}
            self.shards[name] = Shards(named, timeout_s=0.3)
        return ShardedCollection.opened(index, encoder, observe, self.shards[name])

    def close(self) -> None:
        for shards in self.shards.values():
            shards.close()
        self.threads.shutdown()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr("clipsearch.server.shards.OUT_S", 0.2)
    monkeypatch.setattr("clipsearch.server.shards.LOOK_S", 0.05)
    made = Fleet()
    yield made
    made.close()


@pytest.fixture
def indexes(tmp_path: Path, encoder: FakeEncoder) -> list[Path]:
    for name, colours in {"here": ("red", "green", "orange", "pink"), "there": ("blue", "brown", "cyan")}.items():
        (tmp_path / name).mkdir()
        for n, colour in enumerate(colours):
            plain(COLOURS[colour]).resize((40 + n, 40 + len(colours))).save(tmp_path / name / f"{colour}.png")
        clipsearch.index(tmp_path / name, encoder=encoder)
    return [tmp_path / name / ".clipsearch" for name in ("here", "there")]


@pytest.fixture
def client(indexes: list[Path], encoder: FakeEncoder, fleet: Fleet) -> Iterator[TestClient]:
    options = ServerOptions(warm_pictures_after_s=None)
    app = create_app(indexes, encoder=encoder, options=options, make=fleet.open)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        client.app.state.service.engine.wait_until_warm()  # type: ignore[attr-defined]
        yield client


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/search", json={"query": "red", "all": True, **body})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def until_whole(client: TestClient, **body: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (answer := ask(client, **body))["partial"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def paths(answer: dict[str, Any]) -> list[str]:
    return [hit["name"] for hit in answer["hits"]]


@pytest.mark.slow
def test_a_shard_that_fails_is_named_and_asked_again_by_itself(client: TestClient, fleet: Fleet) -> None:
    whole = until_whole(client)
    assert len(whole["hits"]) == 4
    bad = fleet.members["here"][1]
    bad.fails = True
    # The same question: what was kept of its order is of all shards, and may be told as such.
    assert not ask(client)["partial"]
    partial = ask(client, query="dark red")
    assert partial["partial"] and partial["missing"] == [{"index": "shard 2 of here", "reason": "it died"}]
    assert "shard 2 of here was not searched: it died" in partial["notices"]
    assert len(partial["hits"]) < 4
    assert ask(client)["partial"], "an answer of all shards, from before, is not that of those which are left"
    bad.fails = False
    assert paths(until_whole(client)) == paths(whole)
    assert len(until_whole(client, query="dark red")["hits"]) == 4


@pytest.mark.slow
def test_only_the_first_query_waits_for_a_shard_that_hangs(client: TestClient, fleet: Fleet) -> None:
    until_whole(client)
    bad = fleet.members["here"][2]
    bad.hangs.clear()
    asked = bad.asked
    took = []
    for n in range(5):
        began = time.monotonic()
        answer = ask(client, query=f"red {'very ' * n}dark")
        took.append(time.monotonic() - began)
        assert answer["partial"] and answer["missing"][0]["reason"] == "no answer within 0.3 s"
    assert bad.asked == asked + 1 and max(took) < 2
    bad.hangs.set()
    assert len(until_whole(client, query="dark red")["hits"]) == 4


@pytest.mark.slow
def test_without_any_shard_the_answer_is_an_error_not_nothing(client: TestClient, fleet: Fleet) -> None:
    until_whole(client)
    for member in fleet.members["here"]:
        member.fails = True
    told = ask(client, 503, query="dark red")
    assert told["message"] == "no shard answers now: it died. Try again in a few seconds"
    assert ask(client, query="ext:png")["total"] == 4  # which the rows alone answer
    together = ask(client, index="*", query="dark red")
    assert {hit["index"] for hit in together["hits"]} == {"there"}
    assert {one["index"] for one in together["missing"]} == {f"shard {n} of here" for n in (1, 2, 3)}
    for member in fleet.members["there"]:
        member.fails = True
    assert "no shard answers now" in ask(client, 503, index="*", query="a light red")["message"]


def test_similar_pictures_are_told_without_a_lost_shard(client: TestClient, fleet: Fleet) -> None:
    until_whole(client)
    fleet.members["here"][0].fails = True
    answer = client.post("/v1/similar", json={"row_id": 3})
    assert answer.status_code == 200 and answer.json()["partial"]
    assert 0 < len(answer.json()["hits"]) < 3


def test_a_shard_keeps_the_generations_that_are_asked_for(
    indexes: list[Path], encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = indexes[0]
    shard = Shard(index, (0, 1))
    query = encoder.encode_texts(["red"])
    generations: list[Generation] = []

    def commit() -> None:
        plain(COLOURS["grey"]).resize((50 + len(generations), 60)).save(index.parent / f"new{len(generations)}.png")
        clipsearch.index(index.parent, encoder=encoder)
        with open_snapshot(index) as snapshot:
            generations.append(generation_of(snapshot))

    with open_snapshot(index) as snapshot:
        generations.append(generation_of(snapshot))
    for _ in range(4):
        commit()
        shard.refresh()
        found = shard.search(generations[0], query, 9, False, None)
        assert found is not None and (found[1] >= 0).sum() == 4
    assert [shard.has(known) for known in generations] == [True, False, False, True, True]
    commit()
    assert shard.has(generations[5])
    assert [shard.has(known) for known in generations] == [False, False, False, True, True, True]
    monkeypatch.setattr("clipsearch.search.shard.KEPT_S", 0.0)
    shard.refresh()
    assert [shard.has(known) for known in generations] == [False, False, False, False, False, True]


def test_generations_in_quick_succession_leave_no_gap(
    indexes: list[Path], client: TestClient, encoder: FakeEncoder, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, prepare = indexes[0].parent, Shards.prepare
    answers: list[dict[str, Any]] = []
    commits = 0

    def commit() -> None:
        nonlocal commits
        commits += 1
        plain(COLOURS["grey"]).resize((50 + commits, 60)).save(root / f"new{commits}.png")
        clipsearch.index(root, encoder=encoder)
        for member in fleet.members["here"]:  # as each shard does once a second
            member.shard.refresh()
        answers.append(ask(client, index="here"))

    def meanwhile(self: Shards, *asked: Any) -> bool:
        if commits < 5:  # two generations while one is opened, and two more
            commit()
            commit()
        return prepare(self, *asked)

    monkeypatch.setattr(Shards, "prepare", meanwhile)
    commit()
    with open_snapshot(indexes[0]) as snapshot:
        before = snapshot.manifest.generation
    until = time.monotonic() + 60
    while answers[-1]["generation"] < before + 4:
        assert time.monotonic() < until, answers[-1]
        time.sleep(0.02)
        answers.append(ask(client, index="here"))
    assert len(answers) >= 6
    assert [answer for answer in answers if answer["partial"]] == []


def test_options_of_shards_are_refused_without_ray(tmp_path: Path, indexes: list[Path]) -> None:
    for option, value in {"--shards": "2", "--most-replicas": "2", "--shard-timeout": "1", "--address": "a:1"}.items():
        done = CliRunner().invoke(serve_command, ["--index", str(indexes[0]), option, value])
        assert done.exit_code == 2 and "needs --ray" in done.output and option in done.output
