"""What several commands share: options, exit statuses, and how JSON, bytes and commands are printed."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli.terminal import shown
from clipsearch.config import RECALL_LIMITS
from clipsearch.filenames import for_parsers, safe, to_bytes

if TYPE_CHECKING:
    from clipsearch.search.collection import Collection

EXIT_ERROR, EXIT_USAGE, EXIT_NOTHING_FOUND, EXIT_INTERRUPTED = 1, 2, 3, 130

IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        help="Folder of the index, if not `.clipsearch` in the photo folder.",
        metavar="DIR",
        readable=False,  # what the system says when it is read says more
    ),
]
IndexesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--index",
        help="Folder of the index, if not `.clipsearch` in the photo folder. Repeat it to search several together.",
        metavar="DIR",
        readable=False,
    ),
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
    typer.Option("--checkpoint", help="Weights (.safetensors) for --model open_clip:NAME.", metavar="FILE"),
]
AllowPickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="Load a .pt checkpoint. It can run code: only use files that you trust.")
]
RecallOption = Annotated[
    float | None,
    typer.Option(
        "--recall",
        min=RECALL_LIMITS[0],
        max=RECALL_LIMITS[1],
        help="Target recall@10 in collections of 200,000 pictures or more. Saved.",
        metavar="R",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def searched(index: list[Path] | None) -> Path | list[Path] | None:
    """What `--index` names, given any number of times, for `open_collection`."""
    return index[0] if index and len(index) == 1 else index or None


def remember(photos: Collection) -> None:
    """Note that an index was used, or several, of which the first counts as the one used last."""
    from clipsearch import config

    for one, _ in reversed(photos.parts):
        config.remember_index(one.index)


def picture_or_id(word: str) -> int | str:
    """A row id that was typed; any other word, and a file of that name, is the path of a picture."""
    from clipsearch.query.arguments import LONGEST_ID

    is_id = word.isdecimal() and len(word) <= LONGEST_ID and not Path(word).exists()
    return int(word) if is_id else word


def notice(line: str) -> None:
    """Tell the user one thing, on stderr."""
    print(f"clipsearch: {safe(line)}", file=sys.stderr)


def system_words(error: OSError) -> str:
    """What the system said, and of which file."""
    name = error.filename
    what = error.strerror or str(error) or type(error).__name__
    return what if name is None else f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {what}"


def system_advice(error: OSError) -> str:
    """What to do about what the system said."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Close other programs or raise `ulimit -n`, then try again."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space, then run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Check the permissions."
    return "Check the disk or the connection, then run the same command again."


def print_json(body: Any) -> None:
    """Print an answer that programs read. Names that are not UTF-8: see `filenames.for_parsers`."""
    print(json.dumps(for_parsers(body), indent=2, default=str))


def print_bytes(data: bytes) -> None:
    """Print exact bytes, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_names(names: Iterable[str]) -> None:
    """Print names, one a line: their very bytes into a pipe or a file, safe for a terminal."""
    if sys.stdout.isatty():
        for name in names:
            print(safe(name))
    else:
        print_bytes(b"".join(to_bytes(shown(name)) + b"\n" for name in names))


def quoted(path: Path | str) -> str:
    """A path as it can be pasted into a shell; in its form with escapes where a terminal could obey the name."""
    import shlex

    text = str(path)
    if safe(text) == text:
        return shlex.quote(text)
    escaped = (c if safe(c) == c and c not in "\\'" else "".join(f"\\x{b:02x}" for b in to_bytes(c)) for c in text)
    return f"$'{''.join(escaped)}'"


def index_line(folder: Path, index: Path | None) -> str:
    """The command that brings the index of a folder up to date, to be pasted into a shell."""
    return f"clipsearch index {quoted(folder)}" + (f" --index {quoted(index)}" if index is not None else "")
