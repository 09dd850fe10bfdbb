"""`clipsearch illustrate`: a picture for each paragraph of a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, print_json
from clipsearch.cli.terminal import count
from clipsearch.errors import InvalidQuery, StorageError
from clipsearch.filenames import to_bytes
from clipsearch.replacing import creating, refuse_existing

app = typer.Typer(rich_markup_mode=None)


@app.command()
def illustrate(
    text: Annotated[Path, typer.Argument(help="Markdown or plain text file in UTF-8.", metavar="TEXT")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write to this new .html or .md file instead of printing Markdown.", metavar="FILE"
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Leave no gaps: use the nearest picture, however unlikely.")
    ] = False,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a picture for each paragraph of a text. Leaves a gap where no picture fits.

    \b
    Examples:
      clipsearch illustrate story.md -o story.html
      clipsearch illustrate story.md > illustrated.md
    """
    from clipsearch.search import illustrate as making
    from clipsearch.search.collection import open_collection
    from clipsearch.store.files import storage_errors

    if output is not None:
        with storage_errors(output):
            refuse_existing(output)
    try:
        story = text.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StorageError(text, error.strerror or str(error), "Name a text file.") from None
    except UnicodeDecodeError:
        raise InvalidQuery(f"{text} is not UTF-8 text") from None
    with open_collection(index) as photos:
        blocks = making.illustrate(photos, story, everything=everything)
        config.remember_index(photos.index)
    if as_json:
        told = [block for block in blocks if block.text is not None]
        print_json([{"text": b.text, "hit": None if b.hit is None else b.hit.to_dict()} for b in told])
    elif output is None:
        print(making.to_markdown(blocks, config.working_folder() or Path("/")), end="")
    else:
        page = output.suffix.lower() in (".html", ".htm")
        made = making.to_html(blocks, text.stem, output.parent) if page else making.to_markdown(blocks, output.parent)
        with storage_errors(output), creating(output) as file:
            file.write(to_bytes(made))
    gaps = sum(block.text is not None and block.hit is None for block in blocks)
    chosen = sum(block.hit is not None for block in blocks)
    print(f"{count(chosen, 'picture')}, {count(gaps, 'gap')}", file=sys.stderr)
