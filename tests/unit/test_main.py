"""What `clipsearch` sets before it imports anything."""

from __future__ import annotations

import os

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
