"""`clipsearch where`: where in a picture a query matches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, ModelOption, notice, picture_or_id, print_json
from clipsearch.cli.terminal import shown
from clipsearch.errors import IndexNotFound
from clipsearch.replacing import creating, refuse_existing

NOT_CERTAIN = {
    "maybe": "nothing certain: the picture may show something else",
    "unlikely": "the picture probably does not show this: the place is a guess",
}

WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

app = typer.Typer(rich_markup_mode=None)


@app.command()
def where(
    query: Annotated[str, typer.Argument(help="What to look for, as in `clipsearch query`.", metavar="TEXT")],
    picture: Annotated[str, typer.Argument(help="Path of a picture, or row_id of a hit.", metavar="PICTURE|ID")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the picture with the map to a new file (.png, .jpg or .webp).", metavar="FILE"
        ),
    ] = None,
    index: IndexOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where in a picture a query matches: a box, and a heat map.

    \b
    The box is printed as a part of the picture, which `clipsearch query` takes. It always points somewhere, also in
    a picture that does not show what you look for: a line on stderr says so, if the index knows the picture.
    docs/where.md says how often the place is right. The model is that of the index, where there is one; else --model.

    \b
    Examples:
      clipsearch where "a dog" holiday.jpg -o map.png
      clipsearch where "a red car" 4711 --json
    """
    from clipsearch.search.collection import Collection, open_collection
    from clipsearch.search.embedding import Encoder, open_for_map
    from clipsearch.store.files import storage_errors

    if out is not None:
        if out.suffix.lower() not in WRITTEN:
            raise typer.BadParameter(f"{out.name} must end with .png, .jpg or .webp.", param_hint="--out")
        with storage_errors(out):
            refuse_existing(out)
    wanted = picture_or_id(picture)
    photos: Collection | None = None
    try:
        photos = open_collection(index, model=model)
    except IndexNotFound:
        if index is not None or isinstance(wanted, int):
            raise
    if photos is not None:
        with photos:
            path = wanted if isinstance(wanted, str) else str(photos.root / photos.record(wanted).path)
            found = photos.where(query, wanted)
            config.remember_index(photos.index)
    else:
        alone = Encoder(model or "auto", notice=notice)
        path, found = str(wanted), alone.where(query, str(wanted))
    if out is not None:
        image, _ = open_for_map(path)
        with storage_errors(out), creating(out) as file:
            found.over(image).save(file, WRITTEN[out.suffix.lower()])
    if found.band in ("maybe", "unlikely"):
        notice(NOT_CERTAIN[found.band])
    if as_json:
        print_json({"path": path, **found.to_dict()})
    else:
        print(f"{shown(path)}{found.fragment}")
