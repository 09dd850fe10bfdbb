"""`clipsearch verify`: check every byte of an index, and repair what can be repaired."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import EXIT_ERROR, IndexOption, JsonOption, index_line, print_json, quoted
from clipsearch.cli.terminal import count, size
from clipsearch.filenames import safe

app = typer.Typer(rich_markup_mode=None)


@app.command()
def verify(
    index: IndexOption = None,
    mend: Annotated[
        bool, typer.Option("--repair", help="Repair damaged files from intact ones. Deletes nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of an index: checksums, counts, and consistency between its files.

    \b
    --repair rebuilds search files from Parquet files, and Parquet files from search files. It moves damaged
    files to `damaged/` in the index folder. Rows are lost only if both copies are damaged; the next
    `clipsearch index` encodes those pictures again.

    \b
    Examples:
      clipsearch verify
      clipsearch verify --repair --index ./photos
    """
    from clipsearch.indexer.repair import repair
    from clipsearch.indexer.verify import verify as check

    place = config.find_index(index)
    mended = repair(place) if mend else None
    report = check(place)
    if as_json:
        body = dataclasses.asdict(report) | {"index": str(report.index), "ok": report.ok}
        if mended is not None:
            body["repair"] = dataclasses.asdict(mended) | {"index": str(mended.index)}
        print_json(body)
    else:
        if mended is not None:
            for action in mended.actions:
                print(f"repaired: {safe(action)}")
            if mended.put_aside:
                print(f"{count(len(mended.put_aside), 'damaged file')} kept in {safe(str(place / 'damaged'))}")
            if mended.lost_rows:
                print(
                    f"{count(mended.lost_rows, 'row')} could not be recovered. Index their files again with: "
                    f"{index_line(_root_of(place), index)}"
                )
            if not mended.actions:
                print("nothing to repair")
        for problem in report.problems:
            print(f"{safe(problem.file)}: {safe(problem.message)}")
        if report.ok:
            print(
                f"generation {report.generation} is intact: {count(report.pictures, 'picture')}, "
                f"{count(report.files, 'file')}, {size(report.bytes_read)}"
            )
        if report.orphans:
            left = f"{count(len(report.orphans), 'file')} ({size(report.orphan_bytes)})"
            print(f"{left} left over from an interrupted run. Later runs delete what is more than an hour old")
        for note in report.notes:
            print(safe(note))
    if not report.ok:
        if not mend:
            print(f"Repair it with: clipsearch verify --repair --index {quoted(place)}", file=sys.stderr)
        raise typer.Exit(EXIT_ERROR)


def _root_of(index: Path) -> Path:
    """The folder that an index is of, or a word for it where nobody knows."""
    from clipsearch.store import open_snapshot

    with open_snapshot(index) as snapshot:
        return snapshot.root if snapshot.manifest.root else Path("FOLDER")
