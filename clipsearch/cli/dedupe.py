"""`clipsearch dedupe`: near-duplicates, the original of each group first."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, print_json
from clipsearch.cli.terminal import count, shown, size
from clipsearch.filenames import safe
from clipsearch.replacing import creating, refuse_existing

if TYPE_CHECKING:
    from clipsearch.search.dedupe import Copy

app = typer.Typer(rich_markup_mode=None)


@app.command()
def dedupe(
    index: IndexOption = None,
    script: Annotated[
        Path | None,
        typer.Option("--script", help="Write a new shell script that deletes the copies.", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List near-duplicates, the original of each group first. Deletes nothing.

    \b
    The original has the most pixels, unless it was only enlarged. Of equals, it is the one that names a
    camera, or that others were saved from, as their pixels tell. Where nothing tells, none is listed, nor is
    a copy that has anything that the original lacks (keywords, a place, transparency). See docs/query.md.

    \b
    Examples:
      clipsearch dedupe
      clipsearch dedupe --script remove.sh && less remove.sh && sh remove.sh
      clipsearch dedupe --json | jq -r '.[].others[].path'
    """
    from clipsearch.search.collection import open_collection
    from clipsearch.search.dedupe import find_duplicates, shell_script
    from clipsearch.store.files import storage_errors

    if script is not None:
        with storage_errors(script):
            refuse_existing(script)
    with open_collection(index) as photos:
        more: Counter[str] = Counter()
        untold: list[Copy] = []
        groups = find_duplicates(
            photos,
            spare=lambda copy, what: more.update([what]),
            unsure=lambda one, two: untold.append(one),
        )
        config.remember_index(photos.index)
    if as_json:
        print_json([{"keep": _copy(g.keep), "others": [_copy(other) for other in g.others]} for g in groups])
    else:
        for group in groups:
            print(f"keep  {shown(group.keep.path)}  {_measures(group.keep)}")
            for other in group.others:
                print(f"   =  {shown(other.path)}  {_measures(other)}")
    if script is not None:
        with storage_errors(script), creating(script) as file:
            file.write(shell_script(groups, safe))
    spare = [other for group in groups for other in group.others]
    freed = size(sum(other.record.size_bytes for other in spare))
    where = f"; review and run: {safe(str(script))}" if script is not None else ""
    print(f"{count(len(groups), 'group')}, {count(len(spare), 'spare picture')} ({freed}){where}", file=sys.stderr)
    if more:
        named = ", ".join(f"{what} ({n})" for what, n in more.most_common())
        print(f"not listed are copies that have what the original lacks: {named}", file=sys.stderr)
    if untold:
        pairs = count(len(untold), "pair")
        print(f"not listed: {pairs} of versions of which nothing tells which came first", file=sys.stderr)


def _copy(copy: Copy) -> dict[str, Any]:
    record = copy.record
    return {
        "path": copy.path,
        "row_id": record.row_id,
        "width": record.width,
        "height": record.height,
        "size_bytes": record.size_bytes,
        "sharpness": round(copy.sharpness, 2),
    }


def _measures(copy: Copy) -> str:
    return f"{copy.record.width}x{copy.record.height}, {size(copy.record.size_bytes)}, sharpness {copy.sharpness:.0f}"
