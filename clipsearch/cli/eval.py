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
    from clipsearch.encoder import Encoder
    from clipsearch.evaluation.index_recall import IndexRecall
    from clipsearch.evaluation.recall import Comparison, Interval
    from clipsearch.pairs.encoding import EncodedPairs
    from clipsearch.pairs.reading import PairSet

app = typer.Typer(rich_markup_mode=None)

Precision = Literal["fp32", "bf16", "fp16", "int8", "auto"]

PairsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="CSV, TSV, JSONL or Parquet with an image and a caption column; a folder with a .txt beside each "
        "picture; WebDataset tars. Several files, or a quoted pattern.",
        metavar="PAIRS...",
        show_default=False,
    ),
]
ImageColumnOption = Annotated[
    str | None, typer.Option("--image-column", help="Column with the path of the picture.", metavar="NAME")
]
CaptionColumnOption = Annotated[
    str | None, typer.Option("--caption-column", help="Column with the caption.", metavar="NAME")
]


@app.command(name="eval")
def eval_command(
    pairs: PairsArgument = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Model to evaluate. Repeat to compare several.", metavar="MODEL"),
    ] = None,
    ann: Annotated[
        Path | None,
        typer.Option("--ann", help="Also measure the recall of this index against exact search.", metavar="DIR"),
    ] = None,
    zero_shot: Annotated[
        Path | None,
        typer.Option(
            "--zero-shot",
            help="Measure zero-shot classification on a folder with one subfolder per class.",
            metavar="DIR",
        ),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            help="For --zero-shot: photos (default), imagenet, ... or a sentence with {}. Can be repeated.",
            metavar="T",
        ),
    ] = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw the recalls as a PNG (needs the plots extra).", metavar="FILE")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    resamples: Annotated[int, typer.Option(min=10, help="Number of bootstrap resamples.", metavar="N")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed for the bootstrap.", metavar="N")] = 0,
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of the image tower. fp32: the same figures on every machine."),
    ] = "fp32",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that decode pictures.", metavar="N")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
) -> None:
    """Evaluate models on captioned pictures: Recall@1/5/10, median rank and mAP, in both directions.

    \b
    Each caption is a query with one correct picture. A picture is correct if any of its captions is in the top k.
    Files with the same content count as one picture, which has all their captions.
    Ties count as misses. Intervals are 95 %, bootstrapped over the pictures.

    \b
    --zero-shot measures how often a model names the class of a picture, as CLIP-benchmark does: classnames.txt (in
    the order of the subfolders) and zeroshot_classification_templates.txt are used if the folder has them.

    \b
    Examples:
      clipsearch eval products.csv --model builtin
      clipsearch eval dev-*.tar --model builtin --model runs/products --png recall.png
      clipsearch eval dev.tar --ann ./photos
      clipsearch eval --zero-shot ./animals --model builtin --model runs/products
    """
    from contextlib import ExitStack

    from clipsearch.encoder.names import model_at_hand
    from clipsearch.evaluation.plots import check_plots, draw_comparison
    from clipsearch.pairs.encoding import encode_pairs
    from clipsearch.pairs.reading import open_pairs

    if markdown and as_json:
        raise InvalidQuery("use --markdown or --json, not both")
    if png is not None:
        check_plots("--png", png)
    if zero_shot is not None:
        if pairs or ann is not None or png is not None:
            raise InvalidQuery("--zero-shot takes a folder of its own: leave out PAIRS, --ann and --png")
        _zero_shot(zero_shot, model or [model_at_hand(notice)], templates, precision, workers, quiet, markdown, as_json)
        return
    if templates:
        raise InvalidQuery("--template needs --zero-shot DIR")
    if not pairs:
        raise typer.BadParameter("no pairs given: name the pairs to evaluate on", param_hint="PAIRS")
    found = open_pairs(pairs, image_column=image_column, caption_column=caption_column)
    names: list[str] = []
    encoded: list[EncodedPairs] = []
    for asked in model or ([] if ann is not None else [model_at_hand(notice)]):
        encoder = _loaded(asked, precision)
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


def _loaded(model: str, precision: Precision) -> Encoder:
    from clipsearch.encoder.names import load_encoder

    try:
        return load_encoder(model, precision=precision, notice=notice)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--precision") from None


def _zero_shot(
    folder: Path,
    models: Sequence[str],
    templates: Sequence[str] | None,
    precision: Precision,
    workers: int | None,
    quiet: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    from contextlib import ExitStack

    from clipsearch.classify.benchmark import evaluate_zero_shot, open_benchmark

    found = open_benchmark(folder, templates)
    results = []
    for asked in models:
        encoder = _loaded(asked, precision)
        with ExitStack() as stack:
            report = None if quiet else stack.enter_context(progress_display())
            results.append(evaluate_zero_shot(encoder, found, workers=workers, progress=report))
    if as_json:
        print_json([result.to_dict() for result in results])
        return
    pictures, left_out = results[0].accuracy.pictures, len(results[0].skipped)
    header = f"{count(pictures, 'picture')}, {count(len(found.labels), 'class', 'classes')}"
    header += f" ({count(left_out, 'picture')} left out)" if left_out else ""
    rows = [["", "model", *ZERO_SHOT_HEADINGS]]
    for number, result in enumerate(results):
        own = result.accuracy
        top5 = "-" if own.top5 is None else f"{100 * own.top5:.1f}"
        first = f"{100 * own.top1:.1f} [{100 * own.low:.1f}, {100 * own.high:.1f}]"
        label = "zero-shot" if number == 0 else ""
        rows.append([label, safe(result.model), first, top5, f"{100 * own.balanced:.1f}"])
    print(f"**{header}**\n" if markdown else header)
    for line in (_markdown if markdown else _plain)(rows):
        print(line)
    sentences = count(len(found.templates), "sentence")
    print(f"{chr(10) if markdown else ''}In %; [95 % interval]. Each class is the mean of {sentences}.")


def _on_the_same_pictures(encoded: Sequence[EncodedPairs]) -> list[EncodedPairs]:
    """What is left when only pictures count that every model could read (one may have taken too long once)."""
    from functools import reduce

    import numpy as np

    kept = reduce(np.intersect1d, [part.pictures.kept for part in encoded]) if encoded else np.empty(0, np.int64)
    return [part.only(kept) for part in encoded]


def _compare(encoded: Sequence[EncodedPairs], resamples: int, seed: int) -> Comparison:
    from clipsearch.evaluation.recall import compare, evaluate

    metrics = [evaluate(part.pictures.vectors, part.texts, part.owner, part.pictures.same) for part in encoded]
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
ZERO_SHOT_HEADINGS = ("acc1", "acc5", "mean per class")


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
    return [lines[0], "|---" * 2 + "|---:" * (len(rows[0]) - 2) + "|", *lines[1:]]


def _footnote(compared: Comparison, encoded: EncodedPairs) -> str:
    share = f"{100 * compared.confidence:.0f} %"
    note = f"Recall and mAP in %; [{share} intervals, {compared.resamples:,} resamples of the pictures]."
    if compared.differences:
        note += " A difference is significant if its interval excludes 0."
    same = encoded.pictures.same
    if repeated := len(same) - len(set(same.tolist())):
        note += f"\nthe same as another picture, and counted as one with it: {repeated:,}"
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
