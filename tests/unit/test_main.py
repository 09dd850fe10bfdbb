"""What `clipsearch` sets before it imports anything."""

from __future__ import annotations

import os
from collections.abc import Callable

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
