"""`clipsearch read`: read the words in the pictures of an index."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, quoted
from clipsearch.cli.passes import end_interrupted, print_as_json, print_counts
from clipsearch.cli.terminal import count, progress_display

if TYPE_CHECKING:
    from clipsearch.indexer.words import ReadReport

app = typer.Typer(rich_markup_mode=None)


@app.command()
def read(
    index: IndexOption = None,
    read_all: Annotated[
        bool, typer.Option("--all", help="Read every picture, even those that seem to have no words.")
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
    `clipsearch query text:invoice` then finds them. A query whose words appear in only a few pictures shows these, too.
    Takes much longer than indexing. Ctrl-C is safe at any time: the next run continues from there.
    Needs: pip install 'clipsearch[ocr]'. Everything stays on this machine. Also reads subtitles of videos, inside
    them or in files beside them (trip.srt, trip.en.vtt), for which 'clipsearch[video]' is enough, and text layers of
    PDF documents, for which 'clipsearch[pdf]' is enough.

    \b
    Examples:
      clipsearch read
      clipsearch read --index ./photos --all
      clipsearch query 'text:"re16 tgk"'
    """
    from clipsearch.indexer.passes import forget as forget_all
    from clipsearch.indexer.words import ReadOptions, read_words

    place = config.find_index(index)
    if forget:
        print("Forgot all words." if forget_all(place, "words") else "There were no words to forget.")
        return
    options = ReadOptions(all=read_all, again=again, retry_skipped=retry_skipped, workers=workers, timeout_s=timeout)
    with ExitStack() as stack:
        report = read_words(place, options, (lambda _: None) if quiet else stack.enter_context(progress_display()))
    if as_json:
        print_as_json(report)
    elif not quiet:
        _print_report(report)
    if report.interrupted:
        command = "clipsearch read" + (f" --index {quoted(index)}" if index is not None else "")
        command += " --all" if read_all else ""
        end_interrupted(f"Continue with: {command}")


def _print_report(report: ReadReport) -> None:
    print_counts(
        report,
        f"{report.read:,} read",
        [
            (report.passed_over, "that seem to have no words"),
            (report.known, "known from before"),
            (report.changed, "changed since they were indexed"),
        ],
    )
    if report.lacking:
        pictures = count(report.lacking, "picture or page", "pictures and pages")
        print(f"{pictures} without a text layer were not read. To read them: pip install 'clipsearch[ocr]'")
    if report.subtitled:
        print(f"subtitles of {count(report.subtitled, 'video')}")
    if report.read or report.subtitled or report.lines:
        print(f"{count(report.lines, 'line')} of words in {count(report.written, 'picture')}")
