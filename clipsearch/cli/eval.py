"""`clipsearch eval`: how well pictures and captions find each other, model beside model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipsearch.cli.options import notice, print_json
from clipsearch.cli.terminal import count, progress_display
from clipsearch.errors import InvalidQuery
from clipsearch.filenames import safe

if TYPE_CHECKING:
    from clipsearch.evaluation.index_recall import IndexRecall
    from clipsearch.evaluation.recall import Comparison, Interval
    from clipsearch.pairs.encoding import EncodedPairs
    from clipsearch.pairs.reading import PairSet

app = typer.Typer(rich_markup_mode=None)

PairsArgument = Annotated[
    list[str],
    typer.Argument(
        help="CSV, TSV, JSONL or Parquet with an image and a caption column; a folder with a .txt beside each "
        "picture; WebDataset tars. Several, or a pattern in quotes.",
        metavar="PAIRS...",
        show_default=False,
    ),
]
ImageColumnOption = Annotated[
    str | None, typer.Option("--image-column", help="Column of the picture's path.", metavar="NAME")
]
CaptionColumnOption = Annotated[
    str | None, typer.Option("--caption-column", help="Column of the caption.", metavar="NAME")
]


@app.command(name="eval")
def eval_command(
    pairs: PairsArgument,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="What to measure; give it again for models side by side.", metavar="MODEL"),
    ] = None,
    ann: Annotated[
        Path | None,
        typer.Option("--ann", help="Also: how much of the exact answer this index's own search finds.", metavar="DIR"),
    ] = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the recalls (extra plots).", metavar="FILE")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    resamples: Annotated[int, typer.Option(min=10, help="Bootstrap resamples.", metavar="N")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.", metavar="N")] = 0,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8", "auto"],
        typer.Option(help="Arithmetic of the image tower: fp32 gives the same figures on every machine."),
    ] = "fp32",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode pictures.", metavar="N")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure models on pictures with captions: Recall@1/5/10, median rank and mean average precision, both ways.

    \b
    Every caption is a query with one right picture; a picture is right if any of its captions is among the first k.
    Ties count against. Intervals: 95 %, by bootstrap over the pictures.

    \b
    Examples:
      clipsearch eval products.csv --model builtin
      clipsearch eval dev-*.tar --model builtin --model runs/products --png recall.png
      clipsearch eval dev.tar --ann ./photos
    """
    from contextlib import ExitStack

    from clipsearch.encoder.names import load_encoder, model_at_hand
    from clipsearch.evaluation.plots import check_plots, draw_comparison
    from clipsearch.pairs.encoding import encode_pairs
    from clipsearch.pairs.reading import open_pairs

    if markdown and as_json:
        raise InvalidQuery("--markdown and --json exclude each other")
    if png is not None:
        check_plots("--png")
    found = open_pairs(pairs, image_column=image_column, caption_column=caption_column)
    names: list[str] = []
    encoded: list[EncodedPairs] = []
    for asked in model or ([] if ann is not None else [model_at_hand(notice)]):
        try:
            encoder = load_encoder(asked, precision=precision, notice=notice)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--precision") from None
        with ExitStack() as stack:
            report = None if quiet else stack.enter_context(progress_display())
            encoded.append(encode_pairs(encoder, found, workers=workers, progress=report))
        names.append(encoder.name)
    encoded = _on_the_same_pictures(encoded)
    compared = _compare(encoded, resamples, seed) if encoded else None
    recall = _index_recall(ann, found, seed) if ann is not None else None
    if png is not None and compared is not None:
        draw_comparison(png, names, compared.measures, _title(found, encoded[0]))
    if as_json:
        print_json(_json(found, names, encoded, compared, recall))
        return
    if compared is not None:
        header = _title(found, encoded[0])
        print(f"**{header}**\n" if markdown else header)
        for line in (_markdown if markdown else _plain)(_rows(names, compared)):
            print(line)
        print(f"{'' if not markdown else chr(10)}{_footnote(compared, encoded[0])}")
    if recall is not None:
        print(_index_line(recall))


def _on_the_same_pictures(encoded: Sequence[EncodedPairs]) -> list[EncodedPairs]:
    """What is left when only pictures count that every model could read (one may have taken too long once)."""
    from functools import reduce

    import numpy as np

    kept = reduce(np.intersect1d, [part.pictures.kept for part in encoded]) if encoded else np.empty(0, np.int64)
    return [part.only(kept) for part in encoded]


def _compare(encoded: Sequence[EncodedPairs], resamples: int, seed: int) -> Comparison:
    from clipsearch.evaluation.recall import compare, evaluate

    metrics = [evaluate(part.pictures.vectors, part.texts, part.owner) for part in encoded]
    return compare(metrics, resamples=resamples, seed=seed)


def _index_recall(index: Path, pairs: PairSet, seed: int) -> IndexRecall:
    from clipsearch.evaluation.index_recall import measure_index
    from clipsearch.search.collection import open_collection

    with open_collection(index) as collection:
        return measure_index(collection, [text for pair in pairs for text in pair.captions], seed=seed)


def _title(pairs: PairSet, encoded: EncodedPairs) -> str:
    title = f"{count(len(encoded.pictures.kept), 'picture')}, {count(len(encoded.texts), 'caption')}"
    left_out = len(pairs.bad) + len(encoded.pictures.skipped)
    return title + (f" ({count(left_out, 'entry', 'entries')} left out)" if left_out else "")


HEADINGS = ("R@1", "R@5", "R@10", "median rank", "mAP")


def _rows(names: Sequence[str], compared: Comparison) -> list[list[str]]:
    """A table: a heading, then for each direction a line for each model, and for each difference to the first."""
    rows = [["", "model", *HEADINGS]]
    for direction in ("text_to_image", "image_to_text"):
        label = direction.replace("_", " ")
        for number, (name, measures) in enumerate(zip(names, compared.measures, strict=True)):
            own = {key: value for key, value in measures.items() if key.startswith(direction)}
            rows.append([label if number == 0 else "", safe(name), *(_cell(*item) for item in own.items())])
        for name, differences in zip(names[1:], compared.differences, strict=True):
            own = {key: value for key, value in differences.items() if key.startswith(direction)}
            rows.append(["", f"{safe(name)} - {safe(names[0])}", *(_cell(*item, sign="+") for item in own.items())])
    return rows


def _cell(name: str, interval: Interval, sign: str = "") -> str:
    if name.endswith("median_rank"):
        return f"{interval.value:{sign}.4g} [{interval.low:{sign}.4g}, {interval.high:{sign}.4g}]"
    value, low, high = (100 * bound for bound in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _plain(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|---" * 2 + "|---:" * len(HEADINGS) + "|", *lines[1:]]


def _footnote(compared: Comparison, encoded: EncodedPairs) -> str:
    share = f"{100 * compared.confidence:.0f} %"
    note = f"Recall and mAP in %; [{share} intervals, {compared.resamples:,} resamples of the pictures]."
    if compared.differences:
        note += " A difference whose interval does not hold 0 is there."
    for skip in encoded.pictures.skipped[:3]:
        note += f"\nleft out: {safe(skip.path)}: {safe(skip.reason)}"
    return note


def _index_line(recall: IndexRecall) -> str:
    return (
        f"{safe(str(recall.index))}: {count(recall.pictures, 'picture')}, recall@10 {recall.recall:.4f} "
        f"[{recall.low:.4f}, {recall.high:.4f}] of exact search over {count(recall.queries, 'caption')}; "
        f"{recall.query_ms:.2f} ms a query, exact {recall.exact_ms:.2f} ms"
    )


def _json(
    pairs: PairSet,
    names: Sequence[str],
    encoded: Sequence[EncodedPairs],
    compared: Comparison | None,
    recall: IndexRecall | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {"sources": list(pairs.sources), "digest": pairs.digest, "left_out": pairs.bad_by_reason}
    if compared is not None:
        body |= {
            "pictures": len(encoded[0].pictures.kept),
            "captions": len(encoded[0].texts),
            "confidence": compared.confidence,
            "resamples": compared.resamples,
            "seed": compared.seed,
            "models": [
                {
                    "model": name,
                    "skipped": [dataclasses.asdict(skip) for skip in part.pictures.skipped],
                    "measures": {key: dataclasses.asdict(value) for key, value in measures.items()},
                }
                for name, part, measures in zip(names, encoded, compared.measures, strict=True)
            ],
            "differences": [
                {"model": name, "to": names[0], "measures": {k: dataclasses.asdict(v) for k, v in found.items()}}
                for name, found in zip(names[1:], compared.differences, strict=True)
            ],
        }
    if recall is not None:
        body["ann"] = dataclasses.asdict(recall) | {"index": str(recall.index)}
    return body
