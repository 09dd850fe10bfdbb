"""`clipsearch train probe`: learn classes from a few pictures of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli.options import notice, print_json
from clipsearch.cli.terminal import count, progress_display
from clipsearch.errors import InvalidLabels, InvalidQuery
from clipsearch.filenames import safe

if TYPE_CHECKING:
    from clipsearch.classify.probe import ProbeReport
    from clipsearch.records import SkippedImage

app = typer.Typer(rich_markup_mode=None)

NAMES = {"zero-shot": "zero-shot", "linear": "linear probe", "cache": "cache adapter"}


@app.command(name="probe")
def probe_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder with one subfolder of pictures for each class.", metavar="FOLDER_PER_CLASS")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the probe to.", metavar="DIR")],
    model: Annotated[
        str | None, typer.Option("--model", help="Model to use. See: clipsearch models list", metavar="MODEL")
    ] = None,
    templates: Annotated[
        list[str] | None, typer.Option("--template", help="Template, as for classify. Can be repeated.", metavar="T")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=50, help="Number of cross-validation folds.", metavar="N")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed for the folds.", metavar="N")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that decode pictures.", metavar="N")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
) -> None:
    """Learn classes from a few example pictures of each, in seconds and without PyTorch.

    \b
    Compares a linear probe and a cache adapter (Tip-Adapter) with zero-shot by cross-validation, and keeps the best.

    \b
    Examples:
      clipsearch train probe ./animals --model builtin --out runs/animals
      clipsearch classify ./new --probe runs/animals
    """
    from contextlib import ExitStack

    from clipsearch.classify.probe import check_probe_folder, fit_probe
    from clipsearch.classify.zero_shot import open_class_folder, parse_label, truth_in, zero_shot
    from clipsearch.encoder.names import load_encoder, model_at_hand
    from clipsearch.pairs.encoding import encode_pictures

    if out.exists() and not out.is_dir():
        raise InvalidQuery(f"{out} is a file. Name a folder with --out")
    check_probe_folder(out)
    found = open_class_folder(folder)
    encoder = load_encoder(model or model_at_hand(notice), notice=notice)
    base = zero_shot(encoder, [parse_label(name) for name in found.classes], templates or ["photos"])
    truth = truth_in(base.labels, found)
    if truth is None:
        raise InvalidLabels(f"{folder} has pictures outside the class folders: move them into one")
    with ExitStack() as stack:
        report = None if quiet else stack.enter_context(progress_display())
        encoded = encode_pictures(encoder, found.sources, workers=workers, progress=report)
    learned = fit_probe(encoder, base, encoded.vectors, truth[encoded.kept], folds=folds, seed=seed)
    learned.probe.save(out)
    if as_json:
        print_json(_json(learned, encoded.skipped, out))
    else:
        _print(learned, encoded.skipped, out)


def _print(learned: ProbeReport, skipped: list[SkippedImage], out: Path) -> None:
    per_class = learned.per_class
    spread = f"{min(per_class)}" if min(per_class) == max(per_class) else f"{min(per_class)} to {max(per_class)}"
    print(f"{count(learned.pictures, 'picture')} of {count(len(per_class), 'class', 'classes')}, {spread} of each")
    for skip in skipped[:5]:
        print(f"  skipped {safe(skip.path)}: {safe(skip.reason)}")
    if learned.accuracy is None:
        print("too few examples to hold any out: the linear probe is not validated (use 2 or more of each class)")
    else:
        print(f"accuracy on held-out pictures ({learned.folds} folds):")
        for method, found in learned.accuracy.items():
            kept = "  <- kept" if method == learned.probe.method else ""
            share = f"{100 * found.top1:5.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
            print(f"  {NAMES[method]:13}  {share}, per class {100 * found.balanced:.1f} %{kept}")
    print(f"Use it with: clipsearch classify FOLDER --probe {safe(str(out))}")


def _json(learned: ProbeReport, skipped: list[SkippedImage], out: Path) -> dict[str, Any]:
    probe = learned.probe
    return {
        "probe": str(out),
        "labels": list(probe.labels),
        "model": probe.model,
        "method": probe.method,
        "pictures": learned.pictures,
        "per_class": list(learned.per_class),
        "folds": learned.folds,
        "skipped": [{"path": skip.path, "status": skip.status, "reason": skip.reason} for skip in skipped],
        "accuracy": None
        if learned.accuracy is None
        else {
            method: {"top1": found.top1, "low": found.low, "high": found.high, "balanced": found.balanced}
            for method, found in learned.accuracy.items()
        },
    }
