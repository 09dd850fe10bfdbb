"""Show pictures in a terminal: by its own graphics (kitty's protocol, sixel as iTerm2 and others have it), else as
coloured half blocks. The terminal is asked once what it can do (textual-image does that, and draws)."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Literal, TextIO

from clipsearch.errors import ClipsearchError, MissingExtra, UnreadablePicture
from clipsearch.pictures.images import open_picture

Graphics = Literal["auto", "kitty", "sixel", "blocks"]
ROWS = 10  # of text, that one picture takes
LONGEST_PIXELS = 512
_CLASSES: dict[str, str] = {"auto": "Image", "kitty": "TGPImage", "sixel": "SixelImage", "blocks": "HalfcellImage"}


class NoTerminal(ClipsearchError):
    """Pictures can only be shown in a terminal."""

    def __init__(self) -> None:
        super().__init__(
            "--preview needs a terminal as its input and output. Leave it out, or view the pictures with: clipsearch ui"
        )


class Preview:
    """Draws pictures on a terminal."""

    def __init__(self, stream: TextIO, graphics: Graphics = "auto") -> None:
        """`graphics` overrides what the terminal says it can do. Raises: MissingExtra, NoTerminal."""
        asked = sys.__stdout__ is not None and sys.__stdout__.isatty()  # it answers on stdin
        if not stream.isatty() or (asked and (sys.__stdin__ is None or not sys.__stdin__.isatty())):
            raise NoTerminal
        try:
            drawing = importlib.import_module("textual_image.renderable")
        except ImportError:
            raise MissingExtra("preview", "showing pictures in the terminal") from None
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._class: Any = getattr(drawing, _CLASSES[graphics])

    def show(self, path: str, rows: int = ROWS) -> None:
        """Draw the picture at `path`, `rows` lines high. Raises: UnreadablePicture."""
        image = open_picture(path, longest=LONGEST_PIXELS)
        try:
            drawn = self._class(image, width="auto", height=rows)
            self._console.print(drawn)
        except (OSError, ValueError, ZeroDivisionError) as error:  # a terminal without a size, an unlucky shape
            raise UnreadablePicture(path, "unreadable", f"it cannot be drawn here ({error})") from error
