"""What several commands share: options, exit statuses, and how JSON, bytes and commands are printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipsearch.terminal import safe

EXIT_ERROR, EXIT_USAGE, EXIT_NOTHING_FOUND, EXIT_INTERRUPTED = 1, 2, 3, 130

IndexOption = Annotated[
    Path | None,
    typer.Option("--index", help="Folder of the index, if it is not `.clipsearch` in the photo folder.", metavar="DIR"),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="builtin, a model directory, NAME__TAG (a published ONNX export) or open_clip:NAME/TAG. "
        "See: clipsearch models list",
        metavar="MODEL",
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Weights (safetensors) for --model open_clip:NAME.", metavar="FILE"),
]
AllowPickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="Load a .pt checkpoint that you trust: it can run code.")
]
RecallOption = Annotated[
    float | None,
    typer.Option(
        "--recall",
        min=0.5,
        max=0.999,
        help="Share of the true ten nearest that searching 200,000 pictures and more must find; kept for later.",
        metavar="R",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def notice(line: str) -> None:
    """Tell the user one thing, on stderr."""
    print(f"clipsearch: {safe(line)}", file=sys.stderr)


def print_json(body: Any) -> None:
    """Print an answer that programs read."""
    print(json.dumps(body, indent=2))


def print_bytes(data: bytes) -> None:
    """Print exact bytes, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def quoted(path: Path | str) -> str:
    """A path as it can be pasted into a shell."""
    import shlex

    return shlex.quote(safe(str(path)))
