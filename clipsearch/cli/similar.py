"""`clipsearch similar`: pictures like one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clipsearch.cli.options import (
    EXIT_NOTHING_FOUND,
    IndexesOption,
    JsonOption,
    notice,
    picture_or_id,
    print_json,
    remember,
    searched,
)
from clipsearch.cli.output import print_hit
from clipsearch.records import DEFAULT_HITS, NOTHING_SIMILAR

app = typer.Typer(rich_markup_mode=None)


@app.command()
def similar(
    picture: Annotated[str, typer.Argument(help="Path of a picture, or row_id of a hit.", metavar="PICTURE|ID")],
    k: Annotated[int, typer.Option("-k", "--hits", help="Number of hits.", metavar="N")] = DEFAULT_HITS,
    index: IndexesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find pictures similar to one picture. That picture itself is not a hit.

    \b
    Examples:
      clipsearch similar holiday.jpg
      clipsearch similar 4711 -k 5 --json
      clipsearch similar "holiday.jpg#xywh=10,20,300,200"       (like this part: left, top, width, height)
    """
    from clipsearch.search.collection import open_collection

    with open_collection(searched(index)) as photos:
        hits = photos.similar(picture_or_id(picture), k)
        for line in photos.partial():
            notice(line)
        remember(photos)
    if as_json:
        print_json([hit.to_dict() for hit in hits])
    else:
        for hit in hits:
            print_hit(hit)
    if not hits:
        print(NOTHING_SIMILAR, file=sys.stderr)
        raise typer.Exit(EXIT_NOTHING_FOUND)
