"""`clipsearch tune`: how much a large index finds, and how fast."""

from __future__ import annotations

import dataclasses

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, RecallOption, print_json
from clipsearch.cli.terminal import count

app = typer.Typer(rich_markup_mode=None)


@app.command()
def tune(
    index: IndexOption = None,
    recall: RecallOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how much a large index finds of what exact search finds, and how fast; choose with --recall.

    \b
    Collections of up to 200,000 pictures are searched exactly, and there is nothing to tune.

    \b
    Examples:
      clipsearch tune
      clipsearch tune --recall 0.95
    """
    from clipsearch.indexer.tune import show_tuning
    from clipsearch.indexer.tune import tune as choose

    place = config.find_index(index)
    report = show_tuning(place) if recall is None else choose(place, recall)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for segment in report.segments:
        ivf = segment.parameters
        print(f"{segment.rows:,} rows in {ivf.nlist:,} lists of {ivf.code}; {ivf.rerank} candidates a hit scored again")
        print("  lists   recall@10 of pictures   of sentences   ms (one thread)")
        for point in segment.curve:
            print(
                f"  {point.nprobe:5d}   {point.recall_pictures:21.3f}   {point.recall_sentences:12.3f}"
                f"   {point.query_ms:15.2f}"
            )
        print(f"  a query visits {ivf.nprobe}, chosen for a recall of {report.recall_target:g}")
    print(f"{count(report.exact_rows, 'row')} searched exactly (recall 1)")
