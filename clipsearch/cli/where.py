"""`clipsearch where`: where in a picture a query matches."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, ModelOption, notice, picture_or_id, print_json
from clipsearch.cli.terminal import shown
from clipsearch.errors import IndexNotFound
from clipsearch.places import absolute, is_address, is_file
from clipsearch.records import angle_view, page_view
from clipsearch.replacing import creating, refuse_existing

if TYPE_CHECKING:
    from clipsearch.search.collection import Collection

NOT_CERTAIN = {
    "maybe": "nothing certain: the picture may show something else",
    "unlikely": "the picture probably does not show this: the place is a guess",
}

WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

app = typer.Typer(rich_markup_mode=None)


@app.command()
def where(
    query: Annotated[str, typer.Argument(help="What to look for, as in `clipsearch query`.", metavar="TEXT")],
    picture: Annotated[
        str,
        typer.Argument(help="Path of a picture, or a hit as `query` prints it, or its row_id.", metavar="PICTURE|ID"),
    ],
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
    The box is printed in the form that `clipsearch query` takes. For a document, a video or a 3-D model it also names
    the page, second or angle: that of the hit, or the first one if you give a path. There is always a box, even if the
    picture does not show what you look for. A line on stderr then says so, if the picture is in the index.
    docs/where.md says how often the place is right. Uses the model of the index, or --model if there is no index.

    \b
    Examples:
      clipsearch where "a dog" holiday.jpg -o map.png
      clipsearch where "a red car" 4711 --json
    """
    from clipsearch.search.collection import open_collection
    from clipsearch.search.embedding import Encoder, open_for_map
    from clipsearch.store.files import storage_errors

    if out is not None:
        if out.suffix.lower() not in WRITTEN:
            raise typer.BadParameter(f"{out.name} must end with .png, .jpg or .webp.", param_hint="--out")
        with storage_errors(out):
            refuse_existing(out)
    wanted = _without_box(picture_or_id(picture))
    photos: Collection | None = None
    asked, time_s, part = "", 0.0, ""
    try:
        photos = open_collection(index, model=model)
    except IndexNotFound:
        if index is not None or isinstance(wanted, int):
            raise
    if photos is not None:
        with photos:
            row_id = _row_of(photos, wanted)
            found = photos.where(query, wanted if row_id is None else row_id)
            if row_id is None:
                path = source = str(wanted)
                part = _seen_of(path)
            else:
                record = photos.record(row_id)
                path, time_s = os.path.join(photos.root, record.place), record.part_at or 0.0  # noqa: PTH118  addresses
                source = path if out is None else photos.file_of(row_id)
                part = "" if record.is_region else record.fragment  # the map is of all of the picture
                if record.member or is_address(path):  # of which no query takes the path
                    asked = f"like:{row_id}"
            config.remember_index(photos.index)
    else:
        path = source = str(wanted)
        part = _seen_of(path)
        found = Encoder(model or "auto", notice=notice).where(query, path)
    if out is not None:
        image, _ = open_for_map(source, time_s)
        with storage_errors(out), creating(out) as file:
            found.over(image).save(file, WRITTEN[out.suffix.lower()])
    if found.band in ("maybe", "unlikely"):
        notice(NOT_CERTAIN[found.band])
    if as_json:
        print_json({"path": path, **({"where": f"{path}{part}"} if part else {}), **found.to_dict()})
    elif part:
        print(f"{shown(path)}{part}&{found.fragment.removeprefix('#')}")
    else:
        print(f"{asked or shown(path)}{found.fragment}")


def _without_box(wanted: int | str) -> int | str:
    """What a box was found in, which is looked at as a whole again: photo.jpg of photo.jpg#xywh=..., scan.pdf#page=3 of
    scan.pdf#page=3&xywh=..."""
    if isinstance(wanted, int) or is_file(wanted):
        return wanted
    return re.sub(r"[#&]xywh=[^#&/]*$", "", wanted)


def _seen_of(path: str) -> str:
    """Which part of a file is looked at that has parts: of a document the first page, of a model
    the first angle, of a video its beginning."""
    from clipsearch.pictures.formats import HEAD_BYTES, identify

    try:
        with Path(path).expanduser().open("rb") as file:
            kind = identify(file.read(HEAD_BYTES), path)
    except (OSError, ValueError):
        return ""  # whoever reads it says so
    return {"PDF": f"#{page_view(1)}", "MESH": f"#{angle_view(1)}", "VIDEO": "#t=0"}.get(kind or "", "")


def _row_of(photos: Collection, wanted: int | str) -> int | None:
    """The row of a picture that is no file by itself, as `query` prints it; None for a file, and for what the index
    does not know."""
    from clipsearch.search.similar import find_picture

    if isinstance(wanted, int) or is_file(wanted):
        return wanted if isinstance(wanted, int) else None
    with contextlib.suppress(OSError):  # the current folder is gone
        row_id = find_picture(photos, absolute(wanted))
        name, mark, part = wanted.rpartition("#")
        if row_id is None and mark and (whole := find_picture(photos, absolute(name))) is not None:
            of_file = {record.fragment: record.row_id for record in photos.views(whole)}
            row_id = of_file.get(f"#{part}")
        return row_id
    return None
