"""What `clipsearch` sets before it imports anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import clipsearch.cli.app
from clipsearch.__main__ import BLAS_THREADS, main


@pytest.mark.parametrize(
    ("command", "given", "threads"),
    [("query", None, "1"), ("serve", None, "1"), ("ui", None, "1"), ("serve", "4", "4"), ("train", None, None)],
)
def test_commands_that_answer_multiply_in_one_thread(
    command: str, given: str | None, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own setting stands."""
    seen: list[str | None] = []
    monkeypatch.setattr(clipsearch.cli.app, "main", lambda: seen.append(os.environ.get(BLAS_THREADS)))
    monkeypatch.setattr("sys.argv", ["clipsearch", command])
    monkeypatch.setattr("gc.disable", lambda: None)
    monkeypatch.setenv(BLAS_THREADS, given or "")
    if given is None:
        monkeypatch.delenv(BLAS_THREADS)
    main()
    assert seen == [threads]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _loading(*_: object) -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error


@pytest.mark.parametrize("stop", [_interrupted, _loading], ids=["in a command", "while a library is loaded"])
@pytest.mark.parametrize("place", ["clipsearch.cli.app.load_command", "clipsearch.config.find_index"])
def test_ctrl_c_is_said_wherever_it_comes(
    stop: Callable[[], None], place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(place, stop)
    monkeypatch.setattr("sys.argv", ["clipsearch", "query", "a dog"])
    monkeypatch.setattr("gc.disable", lambda: None)
    monkeypatch.setattr("gc.enable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "clipsearch: interrupted\n")


def test_ctrl_c_before_a_command_is_known_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clipsearch.cli.app, "main", _interrupted)
    monkeypatch.setattr("sys.argv", ["clipsearch", "train"])
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "clipsearch: interrupted\n")


AT_EXIT = """
import atexit, sys, threading, time
import clipsearch.cli.app, clipsearch.__main__

def run():
    atexit.register(lambda: print("registered"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("x" * 300_000)
    sys.exit(int(sys.argv[2]))

class Freed:
    def __del__(self):
        print("freed")

freed = Freed()
clipsearch.cli.app.main = run
clipsearch.__main__.main()
"""


@pytest.mark.parametrize(
    ("command", "status", "is_freed"),
    [("query", 3, False), ("index", 0, False), ("verify", 1, False), ("compact", 1, True)],
)
def test_a_process_that_is_not_taken_apart_ends_as_it_would(
    command: str, status: int, is_freed: bool, tmp_path: Path
) -> None:
    """With its status, after its threads and what was registered, and with all that it has printed."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, command, str(status)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.split() == ["x" * 300_000, "thread", "registered", *(["freed"] if is_freed else [])]


def test_another_program_that_calls_it_is_not_ended() -> None:
    code = (
        "import sys; sys.argv = ['clipsearch', 'query', '--help']; from clipsearch.cli import app\n"
        "app.main = lambda: sys.exit(7)\nimport atexit, types\nfrom clipsearch.__main__ import main\n"
        "other = types.FunctionType((lambda: main()).__code__, {'main': main, '__name__': 'other'})\n"
        "atexit.register(lambda: print('last'))\n"
        "try: other()\nexcept SystemExit: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "last\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_at_the_end_is_no_success(tmp_path: Path) -> None:
    statuses = []
    for command in ("query", "compact"):
        with open("/dev/full", "w") as full:
            given = [sys.executable, "-c", AT_EXIT.replace("* 300_000", "* 10"), command, "0"]
            done = subprocess.run(given, cwd=tmp_path, stdout=full, stderr=subprocess.DEVNULL, check=False)
        statuses.append(done.returncode)
    assert statuses[0] == statuses[1] != 0
