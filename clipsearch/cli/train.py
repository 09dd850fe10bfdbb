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
from click.core import ParameterSource

from clipsearch.cli.commands import TRAIN_COMMANDS, load_command
from clipsearch.cli.options import EXIT_ERROR, EXIT_INTERRUPTED, notice, print_json
from clipsearch.cli.terminal import count, duration, progress_display, stages_display
from clipsearch.filenames import safe
from clipsearch.places import expanded

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder
    from clipsearch.training.rates import RateSweep
    from clipsearch.training.run import TrainReport

PAIRS = "pairs"
MANY_HELD_OUT = 300
WITH_RESUME = frozenset(["run", "anyway", "accept_anchor_drop", "tensorboard", "as_json", "quiet"])
SWEEP_LINES = 4  # a line for every so many rates


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
    context: typer.Context,
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            help="CSV, TSV, JSONL or Parquet with an image and a caption column; a folder with a .txt beside each "
            "picture; WebDataset tars. Several files, or a quoted pattern.",
            metavar="PAIRS...",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model to start from. See: clipsearch models list", metavar="MODEL")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for the run.", metavar="RUN")] = None,
    run: Annotated[
        Path | None, typer.Option("--resume", help="Resume a run that was stopped or killed.", metavar="RUN")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="With --resume: continue a run that was stopped because training failed.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check the pairs and train nothing.")] = False,
    dev: Annotated[
        list[str] | None,
        typer.Option(
            "--dev",
            help="Held-out pairs for model selection (default: a tenth of PAIRS, at least 30).",
            metavar="PAIRS",
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            help="Show the pairs of a source X times an epoch, such as a.csv=2 (default: 1). Can be repeated.",
            metavar="SOURCE=X",
        ),
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", help="General pairs that the model must still find (default: 117 drawings).", metavar="PAIRS"
        ),
    ] = None,
    max_anchor_drop: Annotated[
        float,
        typer.Option(min=0, help="Largest drop in recall@10 allowed on the anchor set, in points.", metavar="POINTS"),
    ] = 3.0,
    accept_anchor_drop: Annotated[
        bool, typer.Option("--accept-anchor-drop", help="Exit with status 0 even if the drop is larger.")
    ] = False,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="WiSE-FT weight of the trained model (default: chosen by measurement).", metavar="A"
        ),
    ] = None,
    method: Annotated[
        Literal["auto", "heads", "locked-image", "lora", "full"],
        typer.Option(help="What to train. locked-image keeps indexes valid. auto: by model and device."),
    ] = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of passes over the pairs (default: 10, more for few pairs).", metavar="N"),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after this many steps.", metavar="N")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Pairs per training step (default: by the number of pairs).", metavar="N")
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs in memory at once. The gradients are those of the whole batch.", metavar="N"),
    ] = None,
    accumulate: Annotated[
        bool,
        typer.Option("--accumulate", help="Compare pairs only within micro-batches (plain gradient accumulation)."),
    ] = False,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate (default: by method).", metavar="RATE")
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0, help="Weight decay.", metavar="X")] = 0.2,
    warmup_steps: Annotated[
        int | None,
        typer.Option("--warmup-steps", min=0, help="Steps of warm-up (default: a tenth of the steps).", metavar="N"),
    ] = None,
    layer_decay: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Learning-rate factor per layer, counted from the output.", metavar="X"),
    ] = 1.0,
    ema: Annotated[
        float, typer.Option(min=0, max=0.99999, help="Decay of the weight average (EMA).", metavar="X")
    ] = 0.0,
    objective: Annotated[
        Literal["auto", "clip", "siglip"],
        typer.Option(help="Loss function. auto: the one that the model was trained with."),
    ] = "auto",
    targets: Annotated[
        Literal["soft", "hard"], typer.Option(help="soft: equal captions or pictures in a batch all count as correct.")
    ] = "soft",
    hard_negatives: Annotated[
        Literal["captions", "mined", "both"] | None,
        typer.Option(
            "--hard-negatives",
            help="Add wrong captions (captions), put similar pairs in one batch (mined), or both.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Precision of the towers that are trained.")
    ] = "auto",
    checkpoint_layers: Annotated[
        bool, typer.Option("--checkpoint-layers", help="Use gradient checkpointing: less memory, more computation.")
    ] = False,
    compile_towers: Annotated[
        bool,
        typer.Option("--compile", help="Compile the towers (torch.compile): slower start, faster steps."),
    ] = False,
    rank: Annotated[int, typer.Option("--rank", min=1, help="LoRA rank.", metavar="N")] = 8,
    lora_alpha: Annotated[
        float | None,
        typer.Option("--lora-alpha", min=0, help="LoRA scale: alpha / rank (default: twice the rank).", metavar="X"),
    ] = None,
    lora_targets: Annotated[
        list[str] | None,
        typer.Option(
            "--lora-target",
            help="Weights for LoRA: attention, mlp, projection, convolution (default: all). Can be repeated.",
            metavar="KIND",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            "--freeze",
            help="Do not train these: image, text, embeddings, or parameter names with *. Can be repeated.",
            metavar="NAMES",
        ),
    ] = None,
    freeze_layers: Annotated[
        int, typer.Option("--freeze-layers", min=0, help="Freeze the first N layers of each tower.", metavar="N")
    ] = 0,
    clip_gradients: Annotated[
        float,
        typer.Option("--clip-gradients", min=0, help="Maximum gradient norm. 0: no limit.", metavar="X"),
    ] = 1.0,
    views: Annotated[
        int, typer.Option(min=1, max=16, help="Views per picture: whole, mirrored, crops.", metavar="N")
    ] = 3,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Mirror pictures (default: unless captions mention sides or writing).",
            show_default=False,
        ),
    ] = None,
    crop: Annotated[
        float,
        typer.Option("--crop", min=0.05, max=1, help="Smallest share of a picture in a random crop.", metavar="X"),
    ] = 0.7,
    jitter: Annotated[
        float, typer.Option("--jitter", min=0, max=1, help="Largest colour change in random crops.", metavar="X")
    ] = 0.0,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="For heads: leave vectors of pictures unlike the pairs unchanged.")
    ] = True,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs without improvement before training stops (default: 5 or more).", metavar="N"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.", metavar="N")] = 0,
    device: Annotated[str | None, typer.Option(help="Device: cuda, mps or cpu.", metavar="DEVICE")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights (.safetensors) for open_clip:NAME.", metavar="FILE")
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Load a .pt checkpoint. It can run code: only use files that you trust."),
    ] = False,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Save every N steps instead of every minute.", metavar="N")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column with the path of the picture.", metavar="NAME")
    ] = None,
    caption_column: Annotated[str | None, typer.Option(help="Column with the caption.", metavar="NAME")] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-lr", help="Try learning rates, suggest one, and train nothing.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard (tensorboard extra).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
) -> None:
    """Fine-tune a model on your own pictures and captions (torch extra).

    \b
    The best epoch on held-out pairs is kept. The trained weights are then blended with the original ones so that
    general pictures can still be found. RUN can then be used as a model. Ctrl-C saves; continue with --resume.
    For a few pictures per class, see: clipsearch train probe --help

    \b
    Examples:
      clipsearch train --check products.csv
      clipsearch train products.csv --model builtin --out runs/products
      clipsearch index ./products --model runs/products
      clipsearch train products.csv --method locked-image --out runs/words    (existing indexes stay valid)
      clipsearch train --resume runs/products
    """
    if run is not None:
        _refuse_other_settings(context)
    weights = _weights(weight or [])
    if check:
        from clipsearch.encoder.names import AUTO, load_encoder

        # "auto" may have to be fetched, which is not worth a line about tokens
        named = None if model in (None, AUTO) else model
        load = partial(load_encoder, named or AUTO, checkpoint=checkpoint, device=device, allow_pickle=allow_pickle)
        _check(pairs, dev, image_column, caption_column, as_json, quiet, None if named is None else load)
        return
    if run is None and not pairs:
        raise typer.BadParameter("no pairs given: name the pairs to train on", param_hint="PAIRS")
    if run is None and out is None and not find_rate:
        raise typer.BadParameter("no folder given: name a new folder for the run", param_hint="--out")
    from clipsearch.encoder.names import model_at_hand
    from clipsearch.training import run as runs
    from clipsearch.training.settings import LORA_TARGETS as TARGETS
    from clipsearch.training.settings import OtherProcessEnded, Settings, TrainingInterrupted, TrainingStopped
    from clipsearch.training.world import world_of_environment

    unknown = [target for target in lora_targets or () if target not in TARGETS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(TARGETS)}", param_hint="--lora-target")

    def requested() -> runs.Request:
        assert pairs
        base = model or model_at_hand(notice)
        chosen, arithmetic = runs.resolve_choices(base, method, device, precision)
        settings = Settings(
            method=chosen,
            epochs=epochs,
            batch=batch,
            max_steps=max_steps,
            micro_batch=micro_batch,
            accumulate=accumulate,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            layer_decay=layer_decay,
            ema=ema,
            objective=None if objective == "auto" else objective,
            targets=targets,
            hard_negatives=hard_negatives,
            precision=arithmetic,
            checkpoint_layers=checkpoint_layers,
            compile=compile_towers,
            lora_rank=rank,
            lora_alpha=lora_alpha,
            lora_targets=tuple(lora_targets or TARGETS),
            freeze=tuple(freeze or ()),
            freeze_layers=freeze_layers,
            gradient_norm=clip_gradients,
            views=views,
            mirror=mirror,
            smallest_crop=crop,
            jitter=jitter,
            gate=gate,
            patience=patience,
            seed=seed,
            checkpoint_steps=checkpoint_steps,
        )
        return runs.Request(
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
            weights=weights,
        )

    def watch(stack: ExitStack, folder: Path | None) -> runs.Watch:
        report = (lambda *_: None) if quiet else stack.enter_context(stages_display())
        if folder is None:  # nothing would be saved, so Ctrl-C stops at once
            return runs.Watch(report, notice)
        interrupted = stack.enter_context(_asked_to_stop())
        if not tensorboard:
            return runs.Watch(report, notice, interrupted)
        from clipsearch.training.tensorboard import tensorboard_writer

        return runs.Watch(report, notice, interrupted, tensorboard_writer(folder))

    def carry_out(stack: ExitStack) -> TrainReport:
        if run is not None:
            folder = expanded(run).absolute()
            return runs.resume(folder, watch=watch(stack, folder), anyway=anyway)
        assert out is not None
        folder = expanded(out).absolute()
        return runs.train(requested(), folder, watch=watch(stack, folder))

    if find_rate:
        with ExitStack() as stack:
            sweep = runs.find_learning_rate(requested(), watch=watch(stack, None))
        _print_sweep(sweep, as_json)
        return

    speaks = world_of_environment().is_first  # of several processes, that one says what all would
    try:
        with ExitStack() as stack:
            outcome = carry_out(stack)
    except TrainingInterrupted as stopped:
        if speaks:
            print(f"clipsearch: {safe(str(stopped))}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (TrainingStopped, OtherProcessEnded):
        if speaks:
            raise
        raise typer.Exit(EXIT_ERROR) from None
    if not speaks:
        return
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        _print_outcome(outcome, accept_anchor_drop)
    if outcome.lost_too_much and not accept_anchor_drop:
        raise typer.Exit(EXIT_ERROR)


def _refuse_other_settings(context: typer.Context) -> None:
    """Raise BadParameter for an option that a run which goes on would not heed."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is ParameterSource.COMMANDLINE and parameter.name not in WITH_RESUME:
            off = getattr(parameter, "secondary_opts", []) if context.params[str(parameter.name)] is False else []
            name = (off or parameter.opts)[-1] if parameter.param_type_name == "option" else "PAIRS"
            raise typer.BadParameter(
                f"--resume continues with the pairs and options that the run began with: leave out {name}, "
                "or start another run with --out",
                param_hint="--resume",
            )


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
        raise typer.BadParameter("no pairs given: name the pairs to check", param_hint="PAIRS")
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


def _weights(given: list[str]) -> dict[str, float]:
    """Weights by source, from `SOURCE=X`."""
    if not given:
        return {}
    from clipsearch.training.mixing import parse_weight

    found: dict[str, float] = {}
    for text in given:
        try:
            source, weight = parse_weight(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--weight") from error
        if _absolute(source) in found:
            raise typer.BadParameter(f"{source!r} is given twice", param_hint="--weight")
        found[_absolute(source)] = weight
    return found


def _absolute(source: str) -> str:
    """Patterns stay patterns."""
    return str(expanded(source).absolute())


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks to save and stop; a second one stops at once."""
    from clipsearch.training.world import world_of_environment

    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if world_of_environment().is_first:
            print("saving ... (Ctrl-C again stops at once)", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_outcome(outcome: TrainReport, accepted: bool) -> None:
    trained = f"{outcome.method} on {count(outcome.pairs, 'pair')}, {count(outcome.steps, 'step')} of {outcome.batch:,}"
    best = f"best of {count(outcome.epochs, 'epoch')} is epoch {outcome.best_epoch}"
    print(f"{safe(outcome.run)}: {trained}, {best}, {duration(outcome.seconds)}")
    rows = [
        (f"held-out, {count(outcome.dev_pairs, 'picture')}", outcome.dev_before, outcome.dev_after),
        (f"anchor, {count(outcome.anchor_pairs, 'picture')}", outcome.anchor_before, outcome.anchor_after),
    ]
    print(f"{'text to image, %':32} {'recall@1':>17} {'recall@5':>17} {'recall@10':>17}")
    for title, before, after in rows:
        cells = [f"{before[f'text_to_image_r{k}']:6.1f} -> {after[f'text_to_image_r{k}']:5.1f}" for k in (1, 5, 10)]
        print(f"{title:32} " + " ".join(f"{cell:>17}" for cell in cells))
    print(f"blended {outcome.alpha:.0%} of the trained weights (WiSE-FT weight {outcome.alpha:g})")
    for note in outcome.notes:
        print(note)
    model = safe(outcome.run)
    for line in _verdict(outcome):
        print(line)
    if outcome.lost_too_much:
        print(
            f"! recall on general pictures fell: the anchor set lost {outcome.anchor_drop:.1f} points of recall@10, "
            f"and at most {outcome.max_anchor_drop:g} are allowed"
        )
        if not accepted:
            print("  Accept this with --accept-anchor-drop, or train again with a smaller --alpha")
    use = f"clipsearch index FOLDER --model {model} --reindex"
    if outcome.same_images:
        use = f'clipsearch query "..." --model {model} (indexes made with {safe(outcome.model)} stay valid)'
    if outcome.helped:
        print(f"Use it with: {use}")
    elif outcome.verdict == "unclear" and outcome.alpha:
        print(f"To use it anyway: {use}")


def _print_sweep(sweep: RateSweep, as_json: bool) -> None:
    if as_json:
        body = {"learning_rates": sweep.rates, "losses": sweep.losses, "suggestion": sweep.suggestion}
        print_json({**body, "default": sweep.default})
        return
    print("learning rate   loss, smoothed")
    for number, (rate, loss) in enumerate(zip(sweep.rates, sweep.losses, strict=True)):
        if number % SWEEP_LINES == 0 or number == len(sweep.rates) - 1:
            print(f"{rate:13.2g}   {loss:.4f}")
    if sweep.suggestion is None:
        print("no learning rate lowered the loss: check the pairs with: clipsearch train --check PAIRS")
    else:
        print(f"suggested: --learning-rate {sweep.suggestion:.1g} (default for this method: {sweep.default:g})")


def _verdict(outcome: TrainReport) -> list[str]:
    """What held-out pairs say of the run: the changes with their intervals, and what follows from them."""
    if outcome.alpha == 0:
        if len(outcome.weighings) == 2:  # the base model, and the one weight that was asked for
            return ["no trained weights were applied (--alpha 0), so there is nothing to compare"]
        return ["! training did not improve held-out recall, with any weight: keep your current model"]
    if not outcome.dev_changes:
        return []
    cells = []
    for name, (value, low, high) in outcome.dev_changes.items():
        cells.append(f"{name.replace('_', ' ')} {value:+.1f} [{low:+.1f}, {high:+.1f}]")
    median = f"median rank {outcome.median_before:g} -> {outcome.median_after:g}"
    lines = [
        "held-out change, corrected for having chosen on these pairs, with intervals that all hold in 95 of 100 cases: "
        f"{', '.join(cells)}"
    ]
    if outcome.verdict == "better":
        return [*lines, f"training helped: {median}"]
    if outcome.verdict == "worse":
        return [*lines, "! training made held-out recall worse: keep your current model"]
    if outcome.dev_pairs < MANY_HELD_OUT:
        lines.append(
            f"{count(outcome.dev_pairs, 'held-out pair')} can only show large changes: give more with --dev PAIRS"
        )
    return [*lines, "! training did not measurably improve held-out recall: keep your current model"]
