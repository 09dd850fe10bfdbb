"""What the system refuses ends a command in one line of our words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.support.cases import thinned
from tests.support.commands import Commands
from tests.support.faults import Family, Faults
from tests.support.pictures import fill

READING: tuple[Family, ...] = ("open", "read", "stat", "list")
ERRORS = (errno.EIO, errno.ENOTCONN, errno.EMFILE)
COMMANDS = ("status", "verify", "compact", "tune", "export", "query")


@pytest.mark.few(each="error command")
@pytest.mark.parametrize("error", thinned(ERRORS, 3), ids=errno.errorcode.get)
@pytest.mark.parametrize("command", thinned(COMMANDS, 2))
def test_an_index_that_cannot_be_read_is_one_line(
    photos: Path, tmp_path: Path, commands: Commands, faults: Faults, command: str, error: int
) -> None:
    fill(photos, 3)
    commands.index(photos)
    index = photos / ".clipsearch"
    options: dict[str, list[Path | str]] = {"export": [tmp_path / "rows.parquet"], "query": ["red"]}
    more = options.get(command, [])
    failed = 0
    for families in (*READING, READING):
        for nth in (1, 4):
            with faults.armed(families, index, nth=nth, error=error, mode="from then on"):
                done = commands.run(command, *more, "--index", index)
            where = (families, nth, done)
            assert "Traceback" not in done.err, where
            assert done.status in (0, 1, 3), where
            if done.status == 1 and command != "verify":
                failed += 1
                assert "clipsearch: " in done.err, where
    assert failed or command == "verify"
