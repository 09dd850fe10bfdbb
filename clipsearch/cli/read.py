"""`clipsearch read`: read the words in the pictures of an index."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import EXIT_INTERRUPTED, IndexOption, JsonOption, print_json, quoted
from clipsearch.cli.terminal import count, duration, progress_display, shown

if TYPE_CHECKING:
    from clipsearch.indexer.words import ReadReport

EXAMPLES = 3

app = typer.Typer(rich_markup_mode=None)


@app.command()
def read(
    index: IndexOption = None,
    read_all: Annotated[
        bool, typer.Option("--all", help="Read every picture, also those that seem to have no words.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Forget what was read, and read everything again.")] = False,
    retry_skipped: Annotated[
        bool, typer.Option("--retry-skipped", help="Retry pictures that could not be read before.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete all words from the index, and read nothing.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that read. Each needs up to 1 GB.", metavar="N")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Time limit for one picture, in seconds.", metavar="S")] = 60.0,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no summary.")] = False,
) -> None:
    """Read the words in pictures: screenshots, receipts, signs.

    \b
    Then `clipsearch query text:invoice` finds them, and a query whose words stand in a few pictures shows these, too.
    Takes much longer than indexing. Ctrl-C is safe at any time: the next run continues from there.
    Needs: pip install 'clipsearch[ocr]'. Everything stays on this machine. Subtitles of videos, beside them
    (trip.srt, trip.en.vtt) and inside them, are words of their moments; they need 'clipsearch[video]' only. Text
    layers of PDF documents need 'clipsearch[pdf]' only.

    \b
    Examples:
      clipsearch read
      clipsearch read --index ./photos --all
      clipsearch query 'text:"re16 tgk"'
    """
    from clipsearch.indexer.words import ReadOptions, forget_words, read_words

    place = config.find_index(index)
    if forget:
        print("Forgot all words." if forget_words(place) else "There were no words to forget.")
        return
    options = ReadOptions(all=read_all, again=again, retry_skipped=retry_skipped, workers=workers, timeout_s=timeout)
    with ExitStack() as stack:
        report = read_words(place, options, (lambda _: None) if quiet else stack.enter_context(progress_display()))
    if as_json:
        body = dataclasses.asdict(report)
        print_json({**body, "index": str(report.index), "pictures_per_s": round(report.pictures_per_s, 2)})
    elif not quiet:
        _print_report(report)
    if report.interrupted:
        command = "clipsearch read" + (f" --index {quoted(index)}" if index is not None else "")
        command += " --all" if read_all else ""
        print(f"Stopped. Finished work is kept. Continue with: {command}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)


def _print_report(report: ReadReport) -> None:
    parts = [f"{report.read:,} read"]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (report.passed_over, "without words at a glance"),
            (report.known, "known from before"),
            (report.changed, "changed since they were indexed"),
            (len(report.skipped), "skipped"),
        )
        if number
    ]
    rate = f" ({report.pictures_per_s:.1f} pictures/s)" if report.read + report.passed_over else ""
    print(f"{', '.join(parts)} in {duration(report.seconds)}{rate}")
    for skip in report.skipped[:EXAMPLES]:
        print(f"    {shown(skip.path)}: {shown(skip.reason)}")
    if report.lacking:
        pictures = count(report.lacking, "picture or page", "pictures and pages")
        print(f"{pictures} without a text layer not read. To read them: pip install 'clipsearch[ocr]'")
    if report.subtitled:
        print(f"subtitles of {count(report.subtitled, 'video')}")
    if report.read or report.subtitled or report.lines:
        print(f"{count(report.lines, 'line')} of words in {count(report.written, 'picture')}")
