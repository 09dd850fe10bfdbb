"""`clipsearch caption`: have a model caption the pictures of an index."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import (
    AllowPickleOption,
    CheckpointOption,
    IndexOption,
    JsonOption,
    ModelOption,
    notice,
)
from clipsearch.cli.passes import end_interrupted, print_as_json, print_counts
from clipsearch.cli.terminal import progress_display

if TYPE_CHECKING:
    from clipsearch.indexer.captions import CaptionReport

app = typer.Typer(rich_markup_mode=None)


@app.command()
def caption(
    index: IndexOption = None,
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    allow_pickle: AllowPickleOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Delete all generated captions, and caption everything again.")
    ] = False,
    retry_skipped: Annotated[
        bool, typer.Option("--retry-skipped", help="Retry pictures that could not be read before.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete all generated captions from the index, and write none.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that read pictures.", metavar="N")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit to read one picture, in seconds.", metavar="S")
    ] = 30.0,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no summary.")] = False,
) -> None:
    """Caption each picture with a model.

    \b
    `clipsearch query caption:harbour` then searches all captions, generated:harbour only those of the model, and
    wrote:harbour only those that people wrote. Generated captions are kept in the index: picture files and people's
    captions do not change. The model must be able to write captions (open_clip's CoCa). It need not be the model of
    the index, and is downloaded only if you name one. Ctrl-C is safe at any time: the next run continues from there.
    Needs: pip install 'clipsearch[torch]'. See docs/captions.md.

    \b
    Examples:
      clipsearch caption --model open_clip:coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k
      clipsearch caption --model open_clip:coca_ViT-B-32 --checkpoint coca.safetensors --index ./photos
      clipsearch query generated:harbour
    """
    from clipsearch.indexer.api import encoder_for
    from clipsearch.indexer.captions import CaptionOptions, caption_pictures
    from clipsearch.indexer.passes import forget as forget_all

    place = config.find_index(index)
    if forget:
        print(
            "Forgot all captions of models." if forget_all(place, "captions") else "There were no captions to forget."
        )
        return
    encoder = encoder_for(place, model, checkpoint=checkpoint, allow_pickle=allow_pickle, notice=notice)
    options = CaptionOptions(again=again, retry_skipped=retry_skipped, workers=workers, timeout_s=timeout)
    with ExitStack() as stack:
        display = (lambda _: None) if quiet else stack.enter_context(progress_display())
        report = caption_pictures(place, encoder, options, display)
    if as_json:
        print_as_json(report)
    elif not quiet:
        _print_report(report)
    if report.interrupted:
        end_interrupted("Continue with the same command, without --again.")


def _print_report(report: CaptionReport) -> None:
    print_counts(
        report,
        f"{report.captioned:,} captioned",
        [
            (report.known, "known from before"),
            (report.changed, "changed since they were indexed"),
            (report.not_read, "in tables or object storage, which are not captioned"),
        ],
    )
