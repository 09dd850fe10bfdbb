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

app = typer.Typer(rich_markup_mode=None)


@app.command()
def illustrate(
    text: Annotated[Path, typer.Argument(help="A Markdown or plain text, UTF-8.", metavar="TEXT")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .html or .md file; without it, Markdown is printed.", metavar="FILE"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="No gaps: take the nearest, however unlikely.")] = False,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a picture for each paragraph of a text, none twice; leave a gap where none fits.

    \b
    Examples:
      clipsearch illustrate story.md -o story.html
      clipsearch illustrate story.md > illustrated.md
    """
    from clipsearch.search import illustrate as making
    from clipsearch.search.collection import open_collection

    try:
        story = text.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StorageError(text, error.strerror or str(error), "Name a text file.") from None
    except UnicodeDecodeError:
        raise InvalidQuery(f"{text} is no UTF-8 text") from None
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
        output.write_bytes(to_bytes(made))
    gaps = sum(block.text is not None and block.hit is None for block in blocks)
    chosen = sum(block.hit is not None for block in blocks)
    print(f"{count(chosen, 'picture')}, {count(gaps, 'gap')}", file=sys.stderr)
