"""`clipsearch status`: what an index holds."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, print_json
from clipsearch.cli.skipped import STATUS_WORDS
from clipsearch.cli.terminal import count, rows_of, shown, size
from clipsearch.filenames import safe
from clipsearch.records import SKIP_STATUSES

app = typer.Typer(rich_markup_mode=None)


@app.command()
def status(
    index: IndexOption = None,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="List every file that was skipped or partly read, with the reason.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what an index contains.

    \b
    Examples:
      clipsearch status
      clipsearch status --skipped --index ./photos
    """
    from clipsearch.indexer.status import read_status

    found = read_status(config.find_index(index))
    if as_json:
        body = dataclasses.asdict(found)
        body["index"], body["root"] = str(found.index), str(found.root)
        if not skipped:
            body = {k: v for k, v in body.items() if k != "skipped"} | {"partial": len(found.partial)}
        print_json(body)
        return
    if skipped:
        for skip in sorted(found.skipped, key=lambda skip: (SKIP_STATUSES.index(skip.status), skip.path)):
            print(f"{skip.status}\t{shown(skip.path)}\t{shown(skip.reason)}")
        for picture in sorted(found.partial, key=lambda picture: picture.path):
            print(f"partial\t{shown(picture.path)}\t{shown(picture.reason)}")
        return
    print(f"pictures    {found.pictures:,}")
    if found.rows != found.pictures:
        print(f"              in {found.rows:,} rows, {rows_of(found.regions_per_picture)}")
    if found.partial:
        print(f"              {len(found.partial):,} of them partly read")
    if found.missing:
        print(f"missing     {found.missing:,} (files unavailable; kept until they return or are pruned)")
    print(f"skipped     {sum(found.skipped_by_status.values()):,}")
    for name, number in found.skipped_by_status.items():
        print(f"              {number:,} {STATUS_WORDS[name]}")
    if found.words_read:
        print(f"words       read in {count(found.words_read, 'picture')}")
    if found.captioned:
        print(f"captions    by a model, of {count(found.captioned, 'picture')}")
    print(f"folder      {shown(str(found.root))}")
    print(f"index       {shown(str(found.index))} ({size(found.size_bytes)})")
    views = f", {found.views_per_picture} views of each picture" if found.views_per_picture > 1 else ""
    regions = f", {found.regions_per_picture} regions of each" if found.regions_per_picture else ""
    print(f"model       {safe(found.model)}, {found.dim} dimensions{views}{regions}")
    print(f"generation  {found.generation}, committed {found.committed_at}")
    print(f"fragments   {found.fragments}, with {count(found.deleted_rows, 'deleted row')}")
    if found.rebuilt is not None:
        print(f"re-index    {found.rebuilt:,} done; continue with the same `clipsearch index --reindex` command")
    print(f"search      {'inverted file' if found.inverted_files else 'exact'}")
