"""Many requests at once, and an index that changes under them."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import clipsearch
from clipsearch.records import FloatArray
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.batching import Batches, BatchingEncoder
from clipsearch.server.engine import Engine
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill, plain

LOCAL = "http://127.0.0.1:7860"


class SlowEncoder(FakeEncoder):
    """Takes its time, and remembers what it was asked together."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__()
        self.seconds = seconds
        self.calls: list[list[str]] = []
        self.at_once = 0
        self.most_at_once = 0

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        self.calls.append(list(texts))
        self.at_once -= 1
        return super().encode_texts(texts)


def test_texts_that_come_together_are_one_call_and_everyone_gets_his_own() -> None:
    slow = SlowEncoder()
    batching = BatchingEncoder(slow)
    texts = [f"text {n}" for n in range(60)]
    with ThreadPoolExecutor(30) as threads:
        vectors = list(threads.map(lambda text: batching.encode_texts([text])[0], texts))
    np.testing.assert_allclose(np.stack(vectors), FakeEncoder().encode_texts(texts), atol=1e-6)
    assert sorted(text for call in slow.calls for text in call) == sorted(texts)
    assert len(slow.calls) <= 10  # 60 one by one
    assert slow.most_at_once == 1


def test_a_text_that_comes_alone_waits_for_nobody() -> None:
    slow = SlowEncoder(0)
    batching = BatchingEncoder(slow)
    took_s = []
    for n in range(20):
        began = time.perf_counter()
        batching.encode_texts([f"text {n}"])
        took_s.append(time.perf_counter() - began)
    assert min(took_s) < 0.025  # what waits for others waits each time; what waits for a processor, now and then
    assert len(slow.calls) == 20


def test_texts_seen_lately_are_not_encoded_again() -> None:
    slow = SlowEncoder(0)
    batching = BatchingEncoder(slow)
    first = batching.encode_texts(["red", "blue", "red"])
    second = batching.encode_texts(["blue", "green"])
    assert slow.calls == [["red", "blue"], ["green"]]
    np.testing.assert_array_equal(first[1], second[0])
    np.testing.assert_array_equal(first[0], first[2])
    assert batching.encode_texts([]).shape == (0, slow.dim)


def test_pictures_are_batched_too(encoder: FakeEncoder) -> None:
    batching = BatchingEncoder(encoder)
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(batching.encode_images(pixels), encoder.encode_images(pixels))


def test_only_the_caller_with_the_bad_item_fails() -> None:
    gate = threading.Event()

    def work(items: list[int]) -> list[int]:
        gate.wait(5)
        if 13 in items:
            raise ValueError("unlucky")
        return [item * 2 for item in items]

    batches: Batches[int, int] = Batches(work, 100)
    with ThreadPoolExecutor(20) as threads:
        futures = [threads.submit(batches.run, [n]) for n in range(20)]
        time.sleep(0.1)
        gate.set()
    for n, future in enumerate(futures):
        if n == 13:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result() == [2 * n]


def test_batches_have_a_limit_but_every_call_is_done() -> None:
    sizes: list[int] = []
    batches: Batches[int, int] = Batches(lambda items: items, 4, sizes.append)
    with ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda n: batches.run([n] * (1 + n % 7)), range(40)))
    assert results == [[n] * (1 + n % 7) for n in range(40)]
    assert max(sizes) <= 7  # a call of seven is not divided
    assert sum(sizes) == sum(1 + n % 7 for n in range(40))


@pytest.fixture
def index(photos: Path, encoder: FakeEncoder) -> Path:
    fill(photos, 30)
    return clipsearch.index(photos, encoder=encoder).index


@pytest.mark.slow
def test_searches_that_come_together_answer_as_alone(index: Path, encoder: FakeEncoder) -> None:
    queries = encoder.encode_texts([f"text {n}" for n in range(64)])
    sizes: list[tuple[str, int]] = []
    with (
        Engine([index], encoder=encoder, observe_batch=lambda kind, items: sizes.append((kind, items))) as engine,
        clipsearch.open(index, encoder=encoder) as alone,
        engine.lease() as together,
        ThreadPoolExecutor(16) as threads,
    ):
        ks = [1 + n % 3 for n in range(64)]
        found = list(threads.map(lambda n: together.search_vectors(queries[n : n + 1], ks[n])[0], range(64)))
        for n, hits in enumerate(found):
            expected = alone.search_vectors(queries[n : n + 1], ks[n])[0]
            assert [hit.record for hit in hits] == [hit.record for hit in expected]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    assert sum(items for kind, items in sizes if kind == "search") >= 64  # and what warmed it up


@pytest.mark.slow
def test_a_server_with_too_much_to_do_says_when_to_come_again(index: Path) -> None:
    options = ServerOptions(search_threads=1, most_waiting=2)
    app = create_app([index], encoder=SlowEncoder(0.2), options=options)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=LOCAL) as client:
            return await asyncio.gather(
                *(client.post("/v1/search", json={"query": f"text {n}"}) for n in range(10)), client.get("/healthz")
            )

    *answers, health = asyncio.run(ask())
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) == 3
    assert codes.count(503) == 7
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"] == "Overloaded"
    assert health.status_code == 200


@pytest.mark.slow
def test_new_generations_are_served_and_no_request_is_dropped(index: Path, photos: Path, encoder: FakeEncoder) -> None:
    """Twelve clients ask without a pause while the index is changed five times."""
    app = create_app([index], encoder=encoder)
    seen: set[int] = set()
    failures: list[str] = []
    done = asyncio.Event()

    async def client(asker: httpx.AsyncClient, number: int) -> None:
        asked = 0
        while not done.is_set():
            asked += 1
            answer = await asker.post("/v1/search", json={"query": f"text {number} {asked}", "k": 5, "all": True})
            if answer.status_code != 200 or len(answer.json()["hits"]) != 5:
                failures.append(answer.text)
            seen.add(answer.json()["generation"])

    async def change(asker: httpx.AsyncClient) -> None:
        for number in range(5):
            plain(COLOURS["pink"]).rotate(number).save(photos / f"pink{number}.png")
            (photos / "set000" / f"p{number:05d}.jpg").unlink()
            report = await asyncio.to_thread(clipsearch.index, photos, encoder=FakeEncoder())
            answer = await asker.post(
                "/v1/search", json={"query": "pink", "k": 1, "at_least_generation": report.generation}
            )
            assert answer.json()["generation"] >= report.generation
            assert answer.json()["hits"][0]["name"].startswith("pink")
        done.set()

    async def run() -> int:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=LOCAL) as asker:
            await asyncio.gather(change(asker), *(client(asker, number) for number in range(12)))
            return int((await asker.get("/v1/status")).json()["indexes"][0]["generation"])

    newest = asyncio.run(run())
    assert failures == []
    assert len(seen) >= 5
    assert newest == max(seen)


@pytest.mark.slow
def test_an_old_generation_is_let_go_once_its_last_user_is_done(
    index: Path, photos: Path, encoder: FakeEncoder
) -> None:
    manifests = index / "manifests"
    with Engine([index], encoder=encoder) as engine:
        with engine.lease() as old:
            first = old.manifest.generation
            plain(COLOURS["pink"]).save(photos / "pink.png")
            newest = clipsearch.index(photos, encoder=encoder).generation
            with engine.lease(at_least=newest) as new:
                assert new.manifest.generation == newest
            assert old.search_vectors(encoder.encode_texts(["red"]), 3)[0]  # still whole
            assert (manifests / f"{first:08d}.json").exists()
        plain(COLOURS["cyan"]).save(photos / "cyan.png")
        clipsearch.index(photos, encoder=encoder)
        assert not (manifests / f"{first:08d}.json").exists()


@pytest.mark.slow
def test_an_old_generation_frees_its_memory_without_the_garbage_collector(
    index: Path, photos: Path, encoder: FakeEncoder
) -> None:
    with Engine([index], encoder=encoder) as engine:
        with engine.lease() as old:
            old.search("red", k=1, all=True)
            kept = weakref.ref(old)
        del old
        plain(COLOURS["pink"]).save(photos / "pink.png")
        newest = clipsearch.index(photos, encoder=encoder).generation
        gc.disable()
        try:
            with engine.lease(at_least=newest) as new:
                assert new.manifest.generation == newest
                assert kept() is None
        finally:
            gc.enable()


@pytest.mark.slow
def test_an_idle_server_moves_on_by_itself(index: Path, photos: Path, encoder: FakeEncoder) -> None:
    with Engine([index], encoder=encoder) as engine:
        plain(COLOURS["pink"]).save(photos / "pink.png")
        newest = clipsearch.index(photos, encoder=encoder).generation
        deadline = time.monotonic() + 120
        while engine.index()._open.collection.manifest.generation < newest:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_a_damaged_generation_does_not_end_the_service(index: Path, encoder: FakeEncoder) -> None:
    with Engine([index], encoder=encoder) as engine:
        with engine.lease() as photos:
            generation = photos.manifest.generation
        (index / "CURRENT").write_text("rubbish\n")
        with engine.lease(at_least=generation + 1) as photos:
            assert photos.manifest.generation == generation
            assert photos.search_vectors(encoder.encode_texts(["red"]), 3)[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("gone_s", [0.0, 1.5])
def test_an_index_deleted_and_made_anew_is_taken_up_without_a_traceback(
    photos: Path,
    encoder: FakeEncoder,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    gone_s: float,
) -> None:
    monkeypatch.setattr("clipsearch.server.engine.RETRY_S", 600.0)  # what cannot be opened is not what is waited for
    plain(COLOURS["red"]).save(photos / "red.png")
    index = clipsearch.index(photos, encoder=encoder).index
    app = create_app([index], encoder=encoder)
    with TestClient(app, base_url=LOCAL) as client:
        if gone_s:
            app.state.service.engine.wait_until_warm()
        shutil.rmtree(index)  # also while a first search is being made ready
        until = time.monotonic() + gone_s
        asked, told = True, False
        while asked or time.monotonic() < until:
            answer = client.post("/v1/search", json={"query": "red", "k": 1})
            assert answer.status_code in (200, 500, 503)
            assert "hits" in answer.json() or answer.json()["message"]
            told |= any("newest version" in line for line in answer.json().get("notices", []))
            asked = False
        assert told or not gone_s
        assert client.get("/v1/status").json()["indexes"][0]["is_behind"] or not gone_s
        plain(COLOURS["blue"]).save(photos / "blue.png")
        clipsearch.index(photos, encoder=encoder)
        until = time.monotonic() + 120
        while (answer := client.get("/v1/status")).json()["indexes"][0]["pictures"] != 2:
            assert time.monotonic() < until, answer.json()
            time.sleep(0.05)
        assert "newest version" not in str(client.post("/v1/search", json={"query": "red", "k": 1}).json()["notices"])
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    assert caplog.text.count("still serving") <= 1


def test_an_error_of_the_system_is_a_clear_answer(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(COLOURS["red"]).save(photos / "red.png")
    index = clipsearch.index(photos, encoder=encoder).index
    with TestClient(create_app([index], encoder=encoder), base_url=LOCAL) as client:

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(index / "rows"))

        monkeypatch.setattr("clipsearch.search.collection.Collection.order", fail)
        answer = client.post("/v1/search", json={"query": "red", "k": 1})
        assert answer.status_code == 503
        assert os.strerror(errno.EIO) in answer.json()["message"]
        assert str(index) not in answer.text


@pytest.mark.slow
def test_an_index_that_was_away_and_is_back_as_it_was_is_no_longer_called_behind(
    index: Path, encoder: FakeEncoder, tmp_path: Path
) -> None:
    with Engine([index], encoder=encoder) as engine:
        engine.wait_until_warm()
        for away in (True, False):
            before, after = (index, tmp_path / "away")[:: 1 if away else -1]
            before.rename(after)
            deadline = time.monotonic() + 120
            while engine.index().is_behind is not away:
                assert time.monotonic() < deadline
                time.sleep(0.05)
