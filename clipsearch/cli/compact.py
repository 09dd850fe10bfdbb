"""`clipsearch compact`: join the files of an index, free the space of deleted rows."""

from __future__ import annotations

import dataclasses

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, RecallOption, print_json
from clipsearch.cli.terminal import count, size

app = typer.Typer(rich_markup_mode=None)


@app.command()
def compact(index: IndexOption = None, recall: RecallOption = None, as_json: JsonOption = False) -> None:
    """Join the files of an index into few, and free the space of deleted rows.

    \b
    Runs by itself, in steps, while an index grows; worth calling after large deletions.

    \b
    Examples:
      clipsearch compact
      clipsearch compact --index ./photos
      clipsearch compact --recall 0.99                          (find more of a large collection, more slowly)
    """
    from clipsearch.indexer.compact import compact as run

    report = run(config.find_index(index), recall=recall)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print(
        f"{count(report.fragments_before, 'fragment')} ({size(report.bytes_before)}) -> "
        f"{report.fragments_after} ({size(report.bytes_after)}), "
        f"{count(report.deleted_rows_dropped, 'deleted row')} dropped"
    )
