"""`clipsearch serve` as a process, and queries that it answers for other processes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch import __version__ as clipsearch_version
from clipsearch.daemon.client import message, socket_path
from tests.support.commands import clipsearch
from tests.support.fake_encoder import COLOURS
from tests.support.pictures import fill, plain


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each test gets a copy of."""
    photos = tmp_path_factory.mktemp("serve") / "photos"
    fill(photos, 12)
    for name in ("red", "green", "blue"):
        plain(COLOURS[name]).save(photos / f"{name}.png")
    clipsearch("index", "photos", "--model", "builtin", "-q", folder=photos.parent)
    return photos


@pytest.fixture
def indexed(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "photos"))


class Server:
    """A `clipsearch serve` process."""

    def __init__(self, photos: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "clipsearch", "serve", "--index", str(photos), "--port", str(self.port)]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while self.get("/healthz")[0] != 200:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.05)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""
        except OSError:
            return 0, b""

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=120)
        return self.process.returncode, err


@pytest.fixture
def server(indexed: Path) -> Iterator[Server]:
    server = Server(indexed)
    yield server
    server.stop(signal.SIGKILL)


def asks_server(*arguments: str, folder: Path, status: int = 0) -> tuple[str, bool]:
    """Output of a query, and whether a server answered it."""
    os.environ["CLIPSEARCH_TIMING"] = "1"
    try:
        done = clipsearch("query", "--all", *arguments, folder=folder, status=status)
    finally:
        del os.environ["CLIPSEARCH_TIMING"]
    return done.stdout, "ask the server" in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_it_cleanly(server: Server) -> None:
    assert json.loads(server.get("/v1/status")[1])["indexes"][0]["pictures"] == 15
    status, err = server.stop()
    assert status == 0
    assert "Traceback" not in err
    assert f"http://127.0.0.1:{server.port}/" in err
    assert "photos: 15 pictures in " in err


@pytest.mark.slow
def test_dots_in_a_raw_path_lead_nowhere(server: Server) -> None:
    for path in ("/v1/images/../../../../etc/passwd", "/../../../../etc/passwd", "//etc/passwd"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.split(b" ")[1] in (b"404", b"422"), path
        assert b"root:" not in answer


@pytest.mark.slow
def test_a_token_is_made_up_for_others(indexed: Path) -> None:
    server = Server(indexed, "--host", "0.0.0.0")
    assert server.get("/v1/status")[0] == 401
    _, err = server.stop()
    entry = next(word for word in err.split() if word.startswith("http://"))
    assert "/login?token=" in entry
    assert len(entry.split("token=")[1]) >= 32


def assert_same_but_for_rounding(one: str, other: str) -> None:
    """Every character is the same, except that the last digit of a fraction may differ by one.

    A server multiplies with other threads and a thoroughly loaded text tower: float32 sums end in other bits.
    """
    fraction = re.compile(r"\d+\.\d+")
    assert fraction.sub("#", one) == fraction.sub("#", other)
    for a, b in zip(fraction.findall(one), fraction.findall(other), strict=True):
        digits = len(a.partition(".")[2])
        assert float(a) == pytest.approx(float(b), abs=1.5 * 10**-digits)


@pytest.mark.slow
def test_a_query_that_a_server_answers_prints_what_a_cold_one_prints(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = indexed / "set000"
    questions = [
        ("red", "-k", "4"),
        ("a photo of something blue", "--json"),
        ("green", "--csv"),
        ("green", "--paths"),
        ("green - red", "-0"),
        ("2:red + blue", "--json", "--unique"),
        ("ext:png", "--sort", "path"),
        ("red", "--diverse", "--sort", "date"),
        ("red", "--like", "1", "--unlike", "2", "--json"),
    ]
    cold = [asks_server(*question, folder=below) for question in questions]
    server = Server(indexed)
    try:
        warm = [asks_server(*question, folder=below) for question in questions]
        errors = [
            clipsearch("query", "--all", *bad, folder=below, status=2).stderr
            for bad in (("dog (ext:jpg or",), ("like:999",))
        ]
        picture, answered = asks_server("../red.png", "-k", "1", folder=below)
        nothing = clipsearch("query", "--all", "ext:heic", folder=below, status=3).stderr
    finally:
        server.stop()
    for (warm_output, _), (cold_output, _) in zip(warm, cold, strict=True):
        assert_same_but_for_rounding(warm_output, cold_output)
    assert {answered for _, answered in cold} == {False}
    assert {answered for _, answered in warm} == {True}
    assert (picture.split()[3], answered) == ("../red.png", False)
    assert errors == [
        clipsearch("query", "--all", *bad, folder=below, status=2).stderr
        for bad in (("dog (ext:jpg or",), ("like:999",))
    ]
    assert nothing == clipsearch("query", "--all", "ext:heic", folder=below, status=3).stderr


@pytest.mark.slow
def test_a_server_answers_from_the_generation_that_is_there(server: Server, indexed: Path) -> None:
    assert asks_server("red", "--paths", "-k", "99", folder=indexed)[1]
    plain(COLOURS["pink"]).save(indexed / "pink.png")
    clipsearch("index", indexed, "-q", folder=indexed)
    output, answered = asks_server("red", "--paths", "-k", "99", folder=indexed)
    assert answered
    assert str(indexed / "pink.png") in output.splitlines()


@pytest.mark.slow
def test_a_server_of_another_build_is_not_asked(server: Server, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch.daemon import client

    current = indexed / ".clipsearch"
    assert client.ask(current, "red", 3, {"all": True}) is not None
    monkeypatch.setattr(client, "build", lambda: f"{clipsearch_version}-00000000")
    assert client.ask(current, "red", 3, {"all": True}) is None
    assert not client.is_answered(current)


@pytest.mark.slow
def test_a_server_that_was_killed_costs_nothing(server: Server, indexed: Path) -> None:
    path = socket_path(indexed / ".clipsearch")
    assert path is not None
    server.stop(signal.SIGKILL)
    assert path.exists()
    output, answered = asks_server("red", "--paths", folder=indexed)
    assert output
    assert not answered


@pytest.mark.parametrize("says", [b"", b"rubbish\n", message({"build": "0.0.1", "index": "x"}), None])
def test_a_server_that_is_none_is_passed_over_quickly(indexed: Path, says: bytes | None) -> None:
    from clipsearch.daemon.client import ask

    path = socket_path(indexed / ".clipsearch")
    assert path is not None
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        if says is not None:
            import threading

            def greet() -> None:
                with contextlib.suppress(OSError):  # it is closed in the end
                    while True:
                        with listening.accept()[0] as connection:
                            connection.sendall(says)

            threading.Thread(target=greet, daemon=True).start()
        took_s = math.inf
        for _ in range(5):  # once may be a busy machine
            began = time.perf_counter()
            assert ask(indexed / ".clipsearch", "red", 3, {}) is None
            took_s = time.perf_counter() - began
            if took_s < 2:
                break
        assert took_s < 2


@pytest.mark.slow
def test_others_cannot_reach_the_socket(server: Server, indexed: Path) -> None:
    path = socket_path(indexed / ".clipsearch")
    assert path is not None
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    server.stop()
    assert not path.exists()


@pytest.mark.slow
def test_an_index_is_kept_current_until_ctrl_c(indexed: Path) -> None:
    command = [sys.executable, "-m", "clipsearch", "index", str(indexed), "--watch", "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert watching.stderr is not None
        assert "Watching" in next(line for line in watching.stderr if "Watching" in line)
        plain(COLOURS["pink"]).save(indexed / "pink.png")
        (indexed / "red.png").unlink()
        deadline = time.monotonic() + 120
        while True:
            found = clipsearch("query", "red", "--all", "--paths", "-k", "99", folder=indexed).stdout
            if "pink.png" in found and "red.png" not in found:
                break
            assert time.monotonic() < deadline
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=120)
    finally:
        watching.kill()
    assert watching.returncode == 0, err
    assert "Traceback" not in err
    assert '"indexed": 1' in out


@pytest.mark.slow
def test_a_query_may_start_a_process_that_answers_the_next_ones(indexed: Path) -> None:
    from clipsearch.daemon.client import is_answered

    index = indexed / ".clipsearch"
    cold, answered = asks_server("red", "--daemon", "auto", folder=indexed)
    assert not answered
    try:
        deadline = time.monotonic() + 180
        while not is_answered(index):
            assert daemons_of(index) and time.monotonic() < deadline
            time.sleep(0.1)
        while not (told := asks_server("red", folder=indexed))[1]:  # on a busy machine it is not waited for
            assert told[0] == cold and time.monotonic() < deadline
        assert told == (cold, True)
    finally:
        path = socket_path(index)
        assert path is not None
        for process in daemons_of(index):
            os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + 120
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def daemons_of(index: Path) -> list[int]:
    """Process ids of the daemons of one index."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"clipsearch.daemon" in words and os.fsencode(index) in words:
            found.append(int(place.parent.name))
    return found


@pytest.mark.slow
def test_a_daemon_ends_when_it_is_idle_and_makes_room_for_a_server(indexed: Path, server: Server) -> None:
    command = [sys.executable, "-m", "clipsearch.daemon", str(indexed / ".clipsearch"), "1"]
    began = time.monotonic()
    assert subprocess.run(command, timeout=60).returncode == 0  # there is a server already
    server.stop()
    assert subprocess.run(command, timeout=60).returncode == 0  # idle for a second
    assert time.monotonic() - began > 1
    path = socket_path(indexed / ".clipsearch")
    assert path is not None
    assert not path.exists()
