"""`clipsearch train`: fine-tune a model on pairs of pictures and captions."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipsearch.cli.commands import TRAIN_COMMANDS, load_command
from clipsearch.cli.options import EXIT_ERROR, EXIT_INTERRUPTED, notice, print_json
from clipsearch.cli.terminal import count, duration, progress_display, stages_display
from clipsearch.filenames import safe
from clipsearch.places import expanded

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder
    from clipsearch.training.run import TrainReport

PAIRS = "pairs"


class _TrainCommands(typer.core.TyperGroup):
    """Trains on pairs unless the first argument is a subcommand."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (PAIRS, *TRAIN_COMMANDS):
            args = [PAIRS, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == PAIRS else name), command, rest

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in TRAIN_COMMANDS else super().get_command(ctx, cmd_name)


app = typer.Typer(cls=_TrainCommands, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def _root() -> None:
    """Fine-tune a model on your own pictures and captions."""


@app.command(name=PAIRS)
def train_command(
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            help="CSV, TSV, JSONL or Parquet with an image and a caption column; a folder with a .txt beside each "
            "picture; WebDataset tars. Several, or a pattern in quotes.",
            metavar="PAIRS...",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="What to start from; see: clipsearch models list", metavar="MODEL")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new folder for the run.", metavar="RUN")] = None,
    run: Annotated[
        Path | None, typer.Option("--resume", help="Go on with a run that was stopped or killed.", metavar="RUN")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Look at the pairs, and train nothing.")] = False,
    dev: Annotated[
        list[str] | None,
        typer.Option("--dev", help="Held-out pairs to choose by. Without: a tenth of PAIRS.", metavar="PAIRS"),
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option("--anchor", help="General pairs that must go on working. Without: 117 drawings.", metavar="PAIRS"),
    ] = None,
    max_anchor_drop: Annotated[
        float,
        typer.Option(min=0, help="Points of recall@10 that the anchor set may lose.", metavar="POINTS"),
    ] = 3.0,
    accept_anchor_drop: Annotated[
        bool, typer.Option("--accept-anchor-drop", help="Exit with 0 also if it loses more.")
    ] = False,
    alpha: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How much of what was learned to keep. Without: chosen.", metavar="A"),
    ] = None,
    method: Annotated[
        Literal["auto", "heads", "locked-image", "lora", "full"],
        typer.Option(help="What is trained; locked-image keeps indexes valid. auto: by model and device."),
    ] = "auto",
    epochs: Annotated[int, typer.Option(min=1, help="Times that every picture is seen.", metavar="N")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Pairs compared at a step.", metavar="N")] = 1024,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs in memory at once; the gradients stay those of the batch.", metavar="N"),
    ] = None,
    accumulate: Annotated[
        bool, typer.Option("--accumulate", help="Compare within micro-batches only (plain accumulation).")
    ] = False,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Peak; by method.", metavar="RATE")] = None,
    weight_decay: Annotated[float, typer.Option(min=0, metavar="X")] = 0.2,
    warmup: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps.", metavar="X")] = 0.1,
    layer_decay: Annotated[
        float, typer.Option(min=0.01, max=1, help="Factor on the rate, layer by layer from the output.", metavar="X")
    ] = 1.0,
    ema: Annotated[float, typer.Option(min=0, max=0.99999, help="Decay of averaged weights.", metavar="X")] = 0.0,
    objective: Annotated[Literal["clip", "siglip"], typer.Option(help="The loss.")] = "clip",
    targets: Annotated[
        Literal["soft", "hard"], typer.Option(help="soft: equal captions and pictures in a batch all count as right.")
    ] = "soft",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Of the arithmetic of towers that are trained.")
    ] = "auto",
    checkpoint_layers: Annotated[
        bool, typer.Option("--checkpoint-layers", help="Gradient checkpointing: less memory, more work.")
    ] = False,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of LoRA.", metavar="N")] = 8,
    views: Annotated[
        int, typer.Option(min=1, max=16, help="Views of each picture: whole, mirrored, crops.", metavar="N")
    ] = 3,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="heads: leave what is unlike the pairs as it was.")
    ] = True,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without gain before it stops.", metavar="N")] = 5,
    seed: Annotated[int, typer.Option(min=0, metavar="N")] = 0,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.", metavar="DEVICE")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights (safetensors) for open_clip:NAME.", metavar="FILE")
    ] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load a .pt checkpoint that you trust.")] = False,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Save every N steps instead of every minute.", metavar="N")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the picture's path.", metavar="NAME")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Column of the caption.", metavar="NAME")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Fine-tune a model on your own pictures and captions (torch extra).

    \b
    The best epoch on held-out pairs is kept; how much of the change to keep is chosen so that general
    pictures stay findable. RUN is then a model name. Ctrl-C saves; a killed run goes on with --resume.
    Few pictures a class? See: clipsearch train probe --help

    \b
    Examples:
      clipsearch train --check products.csv
      clipsearch train products.csv --model builtin --out runs/products
      clipsearch index ./products --model runs/products
      clipsearch train products.csv --method locked-image --out runs/words    (existing indexes stay valid)
      clipsearch train --resume runs/products
    """
    if check:
        from clipsearch.encoder.names import AUTO, load_encoder

        # "auto" may have to be fetched, which is not worth a line about tokens
        named = None if model in (None, AUTO) else model
        load = partial(load_encoder, named or AUTO, checkpoint=checkpoint, device=device, allow_pickle=allow_pickle)
        _check(pairs, dev, image_column, caption_column, as_json, quiet, None if named is None else load)
        return
    if run is None and not pairs:
        raise typer.BadParameter("name the pairs to train on", param_hint="PAIRS")
    if run is None and out is None:
        raise typer.BadParameter("name a folder for the run", param_hint="--out")
    from clipsearch.encoder.names import model_at_hand
    from clipsearch.training import run as runs
    from clipsearch.training.settings import Settings, TrainingInterrupted

    def carry_out(stack: ExitStack) -> TrainReport:
        report = (lambda *_: None) if quiet else stack.enter_context(stages_display())
        interrupted = stack.enter_context(_asked_to_stop())
        watch = runs.Watch(report, notice, interrupted)
        if run is not None:
            return runs.resume(expanded(run).absolute(), watch=watch)
        assert out is not None and pairs
        base = model or model_at_hand(notice)
        chosen, arithmetic = runs.resolve_choices(base, method, device, precision)
        settings = Settings(
            method=chosen,
            epochs=epochs,
            batch=batch,
            micro_batch=micro_batch,
            accumulate=accumulate,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup=warmup,
            layer_decay=layer_decay,
            ema=ema,
            objective=objective,
            targets=targets,
            precision=arithmetic,
            checkpoint_layers=checkpoint_layers,
            lora_rank=rank,
            views=views,
            gate=gate,
            patience=patience,
            seed=seed,
            checkpoint_steps=checkpoint_steps,
        )
        request = runs.Request(
            sources=[_absolute(source) for source in pairs],
            model=runs.lasting_name(base),
            settings=settings,
            dev=None if dev is None else [_absolute(source) for source in dev],
            anchor=None if anchor is None else [_absolute(source) for source in anchor],
            image_column=image_column,
            caption_column=caption_column,
            checkpoint=None if checkpoint is None else str(expanded(checkpoint).absolute()),
            allow_pickle=allow_pickle,
            device=device,
            alpha=alpha,
            max_anchor_drop=max_anchor_drop,
        )
        return runs.train(request, expanded(out).absolute(), watch=watch)

    try:
        with ExitStack() as stack:
            outcome = carry_out(stack)
    except TrainingInterrupted as stopped:
        print(f"clipsearch: {safe(str(stopped))}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        _print_outcome(outcome, accept_anchor_drop)
    if outcome.lost_too_much and not accept_anchor_drop:
        raise typer.Exit(EXIT_ERROR)


def _check(
    pairs: list[str] | None,
    dev: list[str] | None,
    image_column: str | None,
    caption_column: str | None,
    as_json: bool,
    quiet: bool,
    load_model: Callable[[], Encoder] | None,
) -> None:
    from clipsearch.cli.check import check_json, print_check
    from clipsearch.pairs.checking import check_pairs
    from clipsearch.pairs.reading import open_pairs

    if not pairs:
        raise typer.BadParameter("name the pairs to check", param_hint="PAIRS")
    columns = {"image_column": image_column, "caption_column": caption_column}
    held_out = open_pairs(dev, **columns) if dev is not None else None
    with ExitStack() as stack:
        progress = None if quiet else stack.enter_context(progress_display())
        encoder = load_model() if load_model else None
        found = check_pairs(open_pairs(pairs, **columns), held_out, encoder=encoder, progress=progress)
    if as_json:
        print_json(check_json(found))
    else:
        print_check(found)


def _absolute(source: str) -> str:
    """Patterns stay patterns."""
    return str(expanded(source).absolute())


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks to save and stop; a second one stops at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("saving ... (Ctrl-C again stops at once)", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_outcome(outcome: TrainReport, accepted: bool) -> None:
    trained = f"{outcome.method} on {count(outcome.pairs, 'pair')}, best of {count(outcome.epochs, 'epoch')}"
    print(f"{safe(outcome.run)}: {trained} is number {outcome.best_epoch}, {duration(outcome.seconds)}")
    rows = [
        (f"held-out, {count(outcome.dev_pairs, 'picture')}", outcome.dev_before, outcome.dev_after),
        (f"anchor, {count(outcome.anchor_pairs, 'picture')}", outcome.anchor_before, outcome.anchor_after),
    ]
    print(f"{'text to image, %':32} {'recall@1':>17} {'recall@5':>17} {'recall@10':>17}")
    for title, before, after in rows:
        cells = [f"{before[f'text_to_image_r{k}']:6.1f} -> {after[f'text_to_image_r{k}']:5.1f}" for k in (1, 5, 10)]
        print(f"{title:32} " + " ".join(f"{cell:>17}" for cell in cells))
    print(f"{outcome.alpha:.0%} of what was learned is kept (WiSE-FT weight {outcome.alpha:g})")
    for note in outcome.notes:
        print(note)
    model = safe(outcome.run)
    if outcome.alpha == 0 or not outcome.helped:
        print("! training did not make held-out captions find more: keep your present model")
    if outcome.lost_too_much:
        print(
            f"! general pictures suffer: the anchor set lost {outcome.anchor_drop:.1f} points of recall@10, "
            f"{outcome.max_anchor_drop:g} are allowed"
        )
        if not accepted:
            print("  If that is what you want, say so with --accept-anchor-drop; or train again with a smaller --alpha")
    if outcome.same_images:
        print(f'indexes made with {safe(outcome.model)} stay valid: clipsearch query "..." --model {model}')
    else:
        print(f"use it with: clipsearch index FOLDER --model {model} --reindex")
