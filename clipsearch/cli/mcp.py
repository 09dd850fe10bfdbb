"""`clipsearch mcp`: search for AI assistants, over the Model Context Protocol."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.listening import found_indexes
from clipsearch.errors import MissingExtra

DECODE_TIMEOUT_S = 10.0

app = typer.Typer(rich_markup_mode=None)


@app.command()
def mcp(
    index: Annotated[
        list[Path] | None,
        typer.Option("--index", help="Index, or its photo folder. Can be repeated.", metavar="DIR"),
    ] = None,
) -> None:
    """Let an AI assistant search, over the Model Context Protocol on stdin and stdout.

    \b
    The assistant starts it: docs/api.md shows the settings to use. The assistant can only read.

    \b
    Examples:
      clipsearch mcp --index ~/Pictures
    """
    places = found_indexes(index) if index else [config.find_index()]
    try:
        from clipsearch.server.mcp import assistant_server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise MissingExtra("mcp", "the Model Context Protocol") from None
    from clipsearch.server.engine import Engine
    from clipsearch.server.metrics import Metrics
    from clipsearch.server.routes import Service

    service = Service(Engine(places), Metrics(), search_threads=1, most_waiting=0, decode_timeout_s=DECODE_TIMEOUT_S)
    for place in places:
        if place in service.engine.absent:
            continue
        config.remember_index(place)
    # A thread waits in read(2) for the assistant's next message: an interrupt would wait for it, too.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with contextlib.closing(service):
            assistant_server(service).run()
    finally:
        signal.signal(signal.SIGINT, before)
