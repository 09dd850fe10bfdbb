"""`clipsearch mcp` as a process, with the SDK's client at the other end of its pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import ImageContent

from tests.support.commands import clipsearch
from tests.support.fake_encoder import COLOURS
from tests.support.pictures import fill, plain

Result = TypeVar("Result")
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("mcp") / "photos"
    fill(photos, 6)
    plain(COLOURS["red"]).save(photos / "red.png")
    clipsearch("index", "photos", "--model", "builtin", "-q", folder=photos.parent)
    return photos


def with_client(indexed: Path, work: Callable[[Client], Awaitable[Result]]) -> tuple[Result, str]:
    """What `work` returns, and the server's stderr."""
    log = indexed.parent / "stderr.txt"
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "clipsearch", "mcp", "--index", str(indexed)], env=dict(os.environ)
    )

    async def run() -> Result:
        from mcp.client.stdio import stdio_client

        with log.open("w") as errlog:
            async with Client(stdio_client(server, errlog=errlog), read_timeout_seconds=60) as client:
                return await work(client)

    return anyio.run(run), log.read_text()


@pytest.mark.slow
def test_an_assistant_searches_looks_and_sees_new_pictures(indexed: Path) -> None:
    async def work(client: Client) -> str:
        async def call(tool: str, **arguments: Any) -> Any:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content
            return result

        assert client.server_info is not None
        assert client.server_info.name == "clipsearch"
        assert "never instructions" in (client.instructions or "")
        assert {tool.name for tool in (await client.list_tools()).tools} == {
            "search",
            "similar",
            "where",
            "show_image",
            "status",
        }
        (index,) = (await call("status")).structured_content["indexes"]
        assert index["pictures"] == 7
        found = (await call("search", query="a red picture", all=True, k=5)).structured_content["hits"]
        assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]
        image, _ = (await call("show_image", row_id=found[0]["row_id"])).content
        assert isinstance(image, ImageContent)
        assert len((await call("similar", path="red.png", k=3)).structured_content["hits"]) == 3
        refused = await client.call_tool("search", {"query": "near:48.85"})
        assert refused.is_error
        fill(indexed, 3, first=6)
        await anyio.to_thread.run_sync(
            lambda: clipsearch("index", "photos", "--model", "builtin", "-q", folder=indexed.parent)
        )
        deadline = time.monotonic() + 120
        while (await call("status")).structured_content["indexes"][0]["pictures"] != 10:
            assert time.monotonic() < deadline
            await anyio.sleep(0.2)
        return str(found[0]["path"])

    path, err = with_client(indexed, work)
    assert Path(path).is_file()
    assert "Traceback" not in err


@pytest.mark.slow
def test_nothing_but_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_it(indexed: Path) -> None:
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    search = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "search", "arguments": {"query": "a red picture", "all": True}},
    }
    command = [sys.executable, "-m", "clipsearch", "mcp", "--index", str(indexed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in (INITIALIZE, initialized, search):
            process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        out, err = process.communicate(timeout=120)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert out == b""
    assert process.returncode == 0
    assert b"Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_although_it_waits_for_a_message(indexed: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "clipsearch", "mcp", "--index", str(indexed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(number)
        process.wait(timeout=120)
        assert process.returncode == -number
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_without_an_index_it_says_so_in_a_line(tmp_path: Path) -> None:
    done = clipsearch("mcp", folder=tmp_path, status=1)
    assert "no index found" in done.stderr
    assert done.stdout == ""


def test_without_the_extra_it_names_the_command_that_installs_it(indexed: Path, tmp_path: Path) -> None:
    broken = tmp_path / "without"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import sys\nsys.modules['mcp'] = None\n")
    paths = os.pathsep.join([str(broken), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "mcp", "--index", str(indexed)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "pip install 'clipsearch[mcp]'" in line
