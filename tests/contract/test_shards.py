"""An index whose vectors are searched by shards behind a real Ray Serve answers as it does alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

import clipsearch
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.shards import TIMEOUT_S, Shards
from tests.contract.test_one_answer import DOUBTFUL, REQUESTS
from tests.support.cases import thinned
from tests.support.clusters import place_for_ray
from tests.support.collections import varied_index
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain
from tests.support.words import write_words

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SHARDS = 4
PATIENT_S = 30.0  # on a machine that runs other tests, where a slow answer is not what is tested
WRITTEN = (7, 44, 61, 62, 63, 150)


class Served(NamedTuple):
    """The same index from one process, and from shards."""

    one: TestClient
    sharded: TestClient
    place: Path
    shards: Shards

    def ask(self, which: str, route: str = "/v1/search", **body: Any) -> dict[str, Any]:
        answer = getattr(self, which).post(route, json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, encoder = tmp_path_factory.mktemp("sharded") / "photos", FakeEncoder(dim=16)
    index = varied_index(folder, encoder)
    with clipsearch.open(index, encoder=encoder) as photos:
        paths = [photos.record(n).path for n in WRITTEN]
    write_words(index, {path: ["Yellow pages", f"New times {n}"] for n, path in zip(WRITTEN, paths, strict=True)})
    options = ServerOptions(warm_pictures_after_s=None)
    with place_for_ray():
        from clipsearch.server import ray_serve
        from clipsearch.server.ray_serve import RayServe, Sharding

        ray_serve.START_S = 600.0  # beside other tests; how fast it starts is not what is tested
        one = create_app([index], encoder=encoder, options=options)
        with RayServe(Sharding(shards=SHARDS), 1) as fleet:
            sharded = create_app([index], encoder=encoder, options=options, make=fleet.open)
            base = "http://127.0.0.1:7860"
            with TestClient(one, base_url=base) as first, TestClient(sharded, base_url=base) as second:
                (shards,) = fleet.shards
                shards.timeout_s = PATIENT_S
                yield Served(first, second, index, shards)


def told(hit: dict[str, Any]) -> tuple[Any, ...]:
    others = [(other["row_id"], other["path"]) for other in hit["others"]]
    return hit["row_id"], hit["path"], hit["band"], others, [line["text"] for line in hit["words"]]


def check_same(one: dict[str, Any], sharded: dict[str, Any]) -> None:
    assert [told(hit) for hit in one["hits"]] == [told(hit) for hit in sharded["hits"]]
    for name in ("score", "confidence"):
        numbers = [[hit[name] for hit in answer["hits"]] for answer in (one, sharded)]
        assert [n is None for n in numbers[0]] == [n is None for n in numbers[1]]
        assert [n for n in numbers[1] if n is not None] == pytest.approx(
            [n for n in numbers[0] if n is not None], abs=1e-5 if name == "score" else 2e-4
        )
    same = ("total", "hidden", "notices", "partial", "missing", "index_id", "generation")
    assert {name: one.get(name) for name in same} == {name: sharded.get(name) for name in same}


@pytest.mark.parametrize("asked", thinned(REQUESTS, 12), ids=str)
def test_four_shards_answer_as_one_index(served: Served, asked: dict[str, Any]) -> None:
    body = dict(asked)
    if "vector" in body:
        body["vector"] = served.one.get(f"/v1/images/{body['vector']}/vector").json()["vectors"][0]
    check_same(served.ask("one", **body), served.ask("sharded", **body))


def test_similar_pictures_are_those_of_one_index(served: Served) -> None:
    asked = {"row_id": 3, "k": 20}
    check_same(served.ask("one", "/v1/similar", **asked), served.ask("sharded", "/v1/similar", **asked))


def within(seconds: float, check: Callable[[], bool]) -> float:
    """Wait for something, and say how long that took."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)
    return time.monotonic() - began


def test_a_shard_that_dies_or_hangs_is_left_out_named_and_comes_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = served.ask("one", query="red", all=True, k=300)
    began = time.monotonic()
    check_same(whole, served.ask("sharded", query="red", all=True, k=300))
    most_s = max(2.0, TIMEOUT_S + 3 * (time.monotonic() - began))
    monkeypatch.setattr(served.shards, "timeout_s", TIMEOUT_S)
    for turn, how in enumerate((signal.SIGKILL, signal.SIGSTOP)):
        victim = pids(served)[1]
        os.kill(victim, how)
        try:
            seen = []
            for n in range(4):
                began = time.monotonic()
                answer = served.ask("sharded", query=f"red  {' ' * (4 * turn + n)}", all=True, k=300)
                assert time.monotonic() - began < most_s
                seen.append(answer)
            partial = next((answer for answer in seen if answer["partial"]), None)
            if partial is None and how == signal.SIGKILL:  # Ray had another one running before the time was out
                for answer in seen:
                    check_same(whole, answer)
                continue
            assert partial is not None
            assert [one["index"] for one in partial["missing"]] == [f"shard 2 of {SHARDS} of photos"]
            assert 0 < len(partial["hits"]) < len(whole["hits"])
            scores = {hit["row_id"]: (hit["score"], hit["confidence"]) for hit in whole["hits"]}
            for hit in partial["hits"]:  # what is there is judged as before
                assert (hit["score"], hit["confidence"]) == pytest.approx(scores[hit["row_id"]], abs=2e-4)
            assert any("shard 2 of 4 of photos was not searched" in line for line in partial["notices"])
            similar = served.ask("sharded", "/v1/similar", row_id=3)
            assert similar["partial"] is partial["partial"]
        finally:
            if how == signal.SIGSTOP:
                os.kill(victim, signal.SIGCONT)
        within(60, lambda: not served.ask("sharded", query="green")["partial"])
        check_same(whole, served.ask("sharded", query="red", all=True, k=300))


def pids(served: Served) -> list[int]:
    """Process ids of the shards, in their order."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                line = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if "ServeReplica:clipsearch-" in line:
                name = line.split("ServeReplica:")[1]
                found[int(name.split("-of-")[0].rsplit("-", 1)[1])] = int(folder.name)
    assert sorted(found) == list(range(SHARDS))
    return [found[n] for n in range(SHARDS)]


def test_new_pictures_are_answered_without_a_gap(served: Served) -> None:
    encoder = FakeEncoder(dim=16)
    root = served.place.parent
    before = served.ask("sharded", query=DOUBTFUL, all=True, k=1)
    plain(COLOURS["purple"]).resize((41, 43)).save(root / "new purple.png")
    clipsearch.index(root, encoder=encoder)
    generations = []

    def is_there() -> bool:
        answer = served.ask("sharded", query="purple", all=True, k=300)
        assert not answer["partial"], answer["missing"]
        generations.append(answer["generation"])
        return any(hit["name"] == "new purple.png" for hit in answer["hits"])

    within(30, is_there)
    assert set(generations) >= {generations[-1]} and generations[-1] > before["generation"]
    within(30, lambda: served.ask("one", query="purple", all=True)["generation"] == generations[-1])
    check_same(served.ask("one", query="purple", all=True), served.ask("sharded", query="purple", all=True))


def ports_of(pid: int) -> list[int]:
    """Where a process listens."""
    sockets = set[str]()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(fd.readlink()))
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    listening = [line for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
    return [int(line[1].rpartition(":")[2], 16) for line in listening]


def test_who_has_no_token_is_refused_by_all_processes(served: Served) -> None:
    """Ray Serve's own HTTP server asks for none, and is not started; what its processes are sent they unpickle."""
    import grpc  # type: ignore[import-untyped]
    from ray import serve

    assert not serve.status().proxies
    refused = 0
    for port in (port for pid in pids(served) for port in ports_of(pid)):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in ("/ray.serve.ASGIService/HandleRequest", "/ray.rpc.CoreWorkerService/PushTask"):
                with pytest.raises(grpc.RpcError) as raised:
                    channel.unary_unary(method)(b"", timeout=10)
                assert raised.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
                refused += raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert refused >= 2 * SHARDS
