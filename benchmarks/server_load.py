"""Many clients at once: latency, errors and memory of `clipsearch serve`, with a new generation committed meanwhile.

Makes an index of --rows clustered random vectors (the embedded model encodes the questions), starts the server as a
process, and asks from this one over --clients connections for --seconds. Every question is new, so none is
remembered. Halfway, 1,000 rows are added and committed. Prints JSON; exits with 1 where a request failed, p99 is 8
times p50 or more, or the new generation was not served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, random_blocks, write_index
from clipsearch.encoder.names import load_encoder
from clipsearch.indexer.segments import with_pictures
from clipsearch.records import EmbeddingBatch, ImageRecord
from clipsearch.store import Writer

WORDS = ("dog", "cat", "beach", "sunset", "red", "car", "mountain", "child", "snow", "city", "night", "old", "tree")
WARM_UP_S = 3.0
ADDED_ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--index", type=Path, help="make the index here, or use the one that is here")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.index or Path(place)
        if not (folder / ".clipsearch" / "CURRENT").exists():
            encoder = load_encoder("builtin")
            write_index(folder, encoder, lambda: random_blocks(arguments.rows, encoder.dim))
        result = measure(folder, arguments.clients, arguments.seconds)
    result["machine"] = machine("uvicorn", "fastapi")
    print(json.dumps({k: v for k, v in result.items() if k != "memory_mb"}, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if result["failed"] or result["p99_over_p50"] >= 8 or result["generations"][0] == result["generations"][-1]:
        sys.exit(1)


def measure(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Serve `folder`, ask, and report. Times in milliseconds, memory in megabytes."""
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-m", "clipsearch", "serve", "--index", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        alone = asyncio.run(ask(port, 1, min(seconds, 5.0)))
        memory: list[float] = []
        stop = threading.Event()
        sampler = threading.Thread(target=sample_memory, args=(server.pid, memory, stop))
        adder = threading.Timer(WARM_UP_S + seconds / 2, add_rows, (folder / ".clipsearch", ADDED_ROWS))
        sampler.start(), adder.start()
        together = asyncio.run(ask(port, clients, seconds))
        stop.set()
        sampler.join(), adder.join()
    finally:
        server.send_signal(signal.SIGINT)
        exit_status = server.wait(timeout=30)
    settled = memory[len(memory) // 6 :]
    return {
        "clients": clients,
        "seconds": seconds,
        "failed": len(alone["errors"]) + len(together["errors"]),
        "errors": (alone["errors"] + together["errors"])[:5],
        "alone": summary(alone["times"]),
        **summary(together["times"]),
        "per_second": len(together["times"]) / seconds,
        "generations": sorted(together["generations"]),
        "memory_mb_first_to_last_third": [
            statistics.median(settled[: len(settled) // 3]),
            statistics.median(settled[-(len(settled) // 3) :]),
        ],
        "memory_mb": memory,
        "server_exit_status": exit_status,
    }


def summary(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "requests": len(times),
        "p50_ms": 1000 * p50,
        "p99_ms": 1000 * p99,
        "most_ms": 1000 * max(times),
        "p99_over_p50": p99 / p50,
    }


def wait_for(port: int) -> None:
    import http.client

    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server does not answer")


async def ask(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Ask over `clients` connections, each as soon as it has its answer. Times are of requests after the warm-up."""
    found: dict[str, Any] = {"times": [], "errors": [], "generations": set()}
    start = time.perf_counter() + WARM_UP_S
    await asyncio.gather(*(one_client(port, number, start, start + seconds, found) for number in range(clients)))
    return found


async def one_client(port: int, number: int, start: float, end: float, found: dict[str, Any]) -> None:
    chance = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = 0
    while (began := time.perf_counter()) < end:
        asked += 1
        query = " ".join(chance.choices(WORDS, k=5)) + f" {number} {asked}"
        body = json.dumps({"query": query, "k": 20, "all": True}).encode()
        writer.write(
            b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                raise ValueError(head[:60] + answer[:200])
            answered = json.loads(answer)
            if len(answered["hits"]) != 20:
                raise ValueError(f"{len(answered['hits'])} hits")
        except Exception as error:
            found["errors"].append(repr(error))
            if reader.at_eof():
                return
        else:
            found["generations"].add(answered["generation"])
            if began >= start:
                found["times"].append(time.perf_counter() - began)
    writer.close()


def sample_memory(pid: int, into: list[float], stop: threading.Event) -> None:
    """Megabytes of memory that are the server's own (not mapped files), twice a second."""
    while not stop.wait(0.5):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        into.append(next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon")))


def add_rows(index: Path, rows: int) -> None:
    """Commit a generation with `rows` more rows, as an indexing run would."""
    with Writer(index) as writer:
        current = writer.current()
        assert current is not None
        (block,) = random_blocks(rows, current.model.dim, seed=1)
        first = current.next_row_id
        records = [
            ImageRecord(first + n, f"new/{n}.jpg", 1000, 0, n, f"{first + n:032x}", 640, 480) for n in range(rows)
        ]
        batch = EmbeddingBatch(records, block)
        writer.commit(with_pictures(writer, current, lambda: [batch]))


if __name__ == "__main__":
    main()
