"""Pictures on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any, TextIO

import pytest

from clipsearch.cli.preview import Graphics, NoTerminal, Preview
from clipsearch.errors import MissingExtra, UnreadablePicture
from tests.support.fake_encoder import COLOURS
from tests.support.pictures import plain

pytest.importorskip("textual_image")


class Terminal:
    """A terminal of 80 columns and 24 rows, and what was written on it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 800, 480))
        self.stream: TextIO = os.fdopen(theirs, "w", encoding="utf-8")
        self._read = bytearray()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        try:
            while block := os.read(self._ours, 65536):
                self._read += block
        except OSError:  # closed at the other end
            pass

    def text(self) -> str:
        """Everything that was written; closes the terminal."""
        self.stream.close()
        self._thread.join(10)
        os.close(self._ours)
        return self._read.decode("utf-8", "replace")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    plain(COLOURS["red"]).save(tmp_path / "red.png")
    return tmp_path / "red.png"


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_half_blocks_have_the_colours_and_the_shape_of_the_picture(picture: Path) -> None:
    terminal = Terminal()
    Preview(terminal.stream, "blocks").show(str(picture), rows=5)
    text = terminal.text()
    lines = [line for line in text.splitlines() if "▀" in line]
    assert len(lines) == 5
    assert {line.count("▀") for line in lines} <= {9, 10, 11}  # a square: cells are twice as high as wide
    assert re.search(r"38;2;2[12]\d;[23]\d;[23]\d", text)


@pytest.mark.parametrize(("graphics", "mark"), [("kitty", "\U0010eeee"), ("sixel", "\x1bP")])
def test_terminals_with_graphics_get_them(picture: Path, graphics: Graphics, mark: str) -> None:
    terminal = Terminal()
    Preview(terminal.stream, graphics).show(str(picture))
    assert mark in terminal.text()


def test_what_is_no_terminal_is_refused(picture: Path) -> None:
    with pytest.raises(NoTerminal, match="terminal"):
        Preview(io.StringIO())


def test_a_missing_extra_and_a_bad_picture(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    picture.write_bytes(b"nothing")
    with pytest.raises(UnreadablePicture):
        Preview(terminal.stream, "blocks").show(str(picture))

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingExtra, match=r"clipsearch\[preview\]"):
        Preview(terminal.stream)
    terminal.text()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_a_query_shows_its_hits_and_goes_on_where_a_picture_is_gone(photos: Path) -> None:
    for name in ("red", "blue"):
        plain(COLOURS[name]).save(photos / f"{name}.png")
    run = [sys.executable, "-m", "clipsearch"]
    subprocess.run([*run, "index", "photos", "--model", "builtin", "-q"], cwd=photos.parent, check=True)
    (photos / "blue.png").unlink()
    terminal = Terminal()
    subprocess.run(
        [*run, "query", "name:*", "--preview"],
        cwd=photos,
        stdin=terminal.stream,
        stdout=terminal.stream,
        check=True,
        timeout=120,
    )
    text = terminal.text()
    assert text.count("▀") >= 10
    assert "red.png" in text
    assert "(the file no longer exists)" in text
    refused = subprocess.run([*run, "query", "red", "--preview"], cwd=photos, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "needs a terminal" in refused.stderr
