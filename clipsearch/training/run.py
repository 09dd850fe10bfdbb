"""A training run from pairs to a model directory: `train` begins one, `resume` goes on with one."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import numpy as np

from clipsearch import __version__
from clipsearch.cores import import_with_sleeping_threads
from clipsearch.encoder.kinds import OPEN_CLIP
from clipsearch.encoder.layout import CONFIG, OPEN_CLIP_CONFIG, read_model_directory
from clipsearch.encoder.names import RUN_MODEL, resolve
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.errors import InvalidModel, MissingExtra, UnreadablePicture, first_line
from clipsearch.pairs.reading import PairSet, open_pairs
from clipsearch.records import FloatArray, IntArray, PixelArray
from clipsearch.removing import remove_made, replace_tree
from clipsearch.temporary import temporary_folder
from clipsearch.training.card import model_card, public_name
from clipsearch.training.checkpoints import write_atomically
from clipsearch.training.mixing import Share, check_turns, mixing_notice, weights_of
from clipsearch.training.readable import check_some_readable, readable_pairs, repeated_pictures
from clipsearch.training.run_folder import CARD, REPORT, SETTINGS, WEIGHTS, Row, RunExists, RunFolder
from clipsearch.training.run_folder import FOLDS as FOLDS_FOLDER
from clipsearch.training.settings import (
    InvalidSettings,
    Method,
    Settings,
    TrainingInterrupted,
    TrainingStopped,
    heeded,
)
from clipsearch.training.shortages import OutOfMemory, is_out_of_memory, shortages_named
from clipsearch.training.split import FOLDS, LEAST_HELD_OUT, common_pictures, counted, fold_numbers, split, takes_turns
from clipsearch.training.verdict import Choice, Outcome, judge
from clipsearch.training.world import World, world_of_environment

if TYPE_CHECKING:
    from clipsearch.encoder.openclip import OpenClipEncoder
    from clipsearch.evaluation.recall import Metrics
    from clipsearch.training.interpolation import Weighing
    from clipsearch.training.loop import Loop, Progress
    from clipsearch.training.rates import RateSweep

BUILTIN_ANCHOR = Path(__file__).with_name("anchor.tar")
ALLOWED_ANCHOR_DROP = 3.0  # points of recall@10
CHECKED_PICTURES = 16
CHECKED_CAPTIONS = 64
LEAST_COSINE = 0.9999  # of the written model to the trained one
FORMAT = 1

Report = Callable[[str, int, int], None]
Notice = Callable[[str], None]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Watch:
    """Whoever follows a run: what is told of its progress, what is told once, and whether it should stop."""

    report: Report = lambda *_: None
    notice: Notice = lambda _: None
    interrupted: Callable[[], bool] = lambda: False
    measured: Callable[[Row], None] = lambda _: None  # given each row of metrics.csv, as soon as it is known


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is to do. Paths are absolute; everything is JSON."""

    sources: list[str]
    model: str
    settings: Settings
    dev: list[str] | None = None
    anchor: list[str] | None = None
    image_column: str | None = None
    caption_column: str | None = None
    checkpoint: str | None = None
    allow_pickle: bool = False
    device: str | None = None
    alpha: float | None = None  # None: chosen
    max_anchor_drop: float = ALLOWED_ANCHOR_DROP
    weights: dict[str, float] = field(default_factory=dict)  # of sources (see `mixing`)

    def as_json(self) -> dict[str, Any]:
        """What run.json keeps."""
        return {**asdict(self), "settings": self.settings.as_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Request:
        """The inverse."""
        return cls(**{**values, "settings": Settings.from_json(values["settings"])})


@dataclass(slots=True)
class TrainReport:
    """The outcome of a run. Recalls are in percent, by column names as in metrics.csv."""

    run: str
    model: str
    method: Method
    pairs: int  # with a picture that can be read, as are the others
    dev_pairs: int
    anchor_pairs: int
    unreadable: int
    epochs: int
    best_epoch: int
    alpha: float
    dev_before: dict[str, float]
    dev_after: dict[str, float]
    anchor_before: dict[str, float]
    anchor_after: dict[str, float]
    anchor_drop: float
    max_anchor_drop: float
    fingerprint: str
    same_images: bool  # whether indexes made with the base model stay valid
    seconds: float
    weighings: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    batch: int = 0
    steps: int = 0
    verdict: Outcome = "unclear"  # of held-out pairs (see `verdict`)
    dev_changes: dict[str, list[float]] = field(default_factory=dict)  # by measure: change, bounds of its 95 % interval
    median_before: float = 0.0
    median_after: float = 0.0
    mixture: list[dict[str, Any]] = field(default_factory=list)  # what an epoch draws of each source, where weighted
    folds: int = 0  # runs that held-out pairs were measured by in turns, where they are few

    @property
    def lost_too_much(self) -> bool:
        """Whether the anchor set lost more than was allowed."""
        return self.anchor_drop > self.max_anchor_drop

    @property
    def helped(self) -> bool:
        """Whether held-out captions measurably find more than before."""
        return self.verdict == "better"


def train(
    request: Request,
    out: Path,
    *,
    base: OpenClipEncoder | None = None,
    watch: Watch | None = None,
) -> TrainReport:
    """Begin a run in `out`, a new folder, and finish it.

    `base`: an open_clip model in memory, instead of the one that the request names.
    Raises: InvalidPairs, InvalidSettings, RunExists, ModelNotFound, InvalidModel, MissingExtra, TrainingStopped,
    TrainingInterrupted, DamagedCheckpoint, StorageError, OutOfSpace.
    """
    _require_torch()
    from clipsearch.training.distributed import first_alone
    from clipsearch.training.methods import base_identity, check_method, check_teachable, check_trainable, open_base

    doing = _Doing()
    with ExitStack() as stack:
        stack.enter_context(shortages_named(out, doing))
        world = stack.enter_context(_Joined(request))
        check_method(request, base, world)
        watch = doing.watched((watch or Watch()) if world.is_first else Watch())
        pairs = _Pairs.open(request, watch.notice)
        base = open_base(request, base, watch.notice)
        check_trainable(request, base)
        check_teachable(request, pairs.train, base, watch.notice)
        folder = RunFolder(out)

        def begin() -> None:
            stack.enter_context(folder.held())
            begun = {"base": base_identity(request, base, watch.notice), "digests": pairs.digests}
            folder.create({**_versions(), "request": request.as_json(), **begun})

        first_alone(begin, world)
        return _carry_out(request, pairs, folder, world, base, watch)


def resume(
    out: Path,
    *,
    base: OpenClipEncoder | None = None,
    watch: Watch | None = None,
    anyway: bool = False,
) -> TrainReport:
    """Go on with the run in `out` from its last checkpoint.

    A run that was stopped because it broke stays stopped, unless `anyway`: it then goes on, and is no longer stopped
    when held-out recall collapses. Raises: as `train`; InvalidSettings for other pairs.
    """
    folder = RunFolder(out)
    settings = folder.settings()
    finished = folder.report()
    if finished is not None:
        if not (folder.model / CONFIG).is_file():
            raise RunExists(out, f"is a finished run without its {RUN_MODEL} folder", "Restore it, or train again")
        return replace(_as_written(TrainReport, finished, folder.path / REPORT), run=str(folder.path))
    request = _as_written(Request.from_json, settings.get("request"), folder.path / SETTINGS)
    _require_torch()
    from clipsearch.training.distributed import first_alone
    from clipsearch.training.methods import base_identity, open_base

    doing = _Doing()
    with ExitStack() as stack:
        stack.enter_context(shortages_named(out, doing))
        world = stack.enter_context(_Joined(request, goes_on=True))

        def go_on() -> None:
            stack.enter_context(folder.held())
            folder.check_not_stopped(anyway)

        first_alone(go_on, world)
        watch = doing.watched((watch or Watch()) if world.is_first else Watch())
        pairs = _Pairs.open(request, watch.notice)
        if pairs.digests != settings.get("digests"):
            raise InvalidSettings(
                "the pairs have changed since the run started",
                f"Restore them or start a new run; {folder.path / SETTINGS} says where they were",
            )
        base = open_base(request, base, watch.notice)
        begun_with = settings.get("base")  # which runs of earlier versions did not note
        if begun_with is not None and base_identity(request, base, watch.notice) != begun_with:
            raise InvalidSettings(
                f"{request.model or 'the model in memory'} has changed since the run started",
                "Restore it or start a new run",
            )
        return _carry_out(request, pairs, folder, world, base, watch)


def _as_written(make: Callable[..., Made], values: Any, file: Path) -> Made:
    """What a JSON file of a run says. Raises: InvalidSettings if this version does not know it."""
    try:
        return make(values) if make == Request.from_json else make(**values)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InvalidSettings(
            f"{file} is not what this version of clipsearch writes ({first_line(error)})",
            "It was changed, or written by another version: use that one, or start a new run",
        ) from error


def find_learning_rate(
    request: Request, *, base: OpenClipEncoder | None = None, watch: Watch | None = None
) -> RateSweep:
    """Try learning rates for a run; nothing is written but the features in the cache.

    Raises: as `train`.
    """
    _require_torch()
    from clipsearch.training.loop import Loop
    from clipsearch.training.methods import check_method, open_base, prepare

    watch = watch or Watch()
    doing = _Doing()
    with temporary_folder() as place, _Joined(request) as world:
        folder = RunFolder(Path(place))
        with shortages_named(folder.path, doing):
            check_method(request, base, world)
            watch = doing.watched(watch if world.is_first else Watch())
            pairs = _Pairs.open(request, watch.notice)
            work = prepare(
                request,
                pairs.train,
                pairs.dev,
                pairs.anchor,
                folder,
                world,
                open_base(request, base, watch.notice),
                watch.report,
                watch.notice,
                pairs.weights,
            )
            loop: Loop = Loop(
                work.trainee,
                work.order,
                request.settings,
                folder,
                world=world,
                report=watch.report,
                interrupted=watch.interrupted,
            )
            return loop.sweep()


class _Doing:
    """What a run is about, for errors that libraries raise."""

    def __init__(self) -> None:
        self._stage = "preparing"

    def __call__(self) -> str:
        return self._stage

    def watched(self, watch: Watch) -> Watch:
        def report(stage: str, done: int, total: int) -> None:
            self._stage = stage
            watch.report(stage, done, total)

        return replace(watch, report=report)


class _Joined:
    """The other processes of a torchrun, if there are any, for as long as the run goes on."""

    def __init__(self, request: Request, *, goes_on: bool = False) -> None:
        """`goes_on`: with a run that has begun, whose device cannot be chosen any more."""
        self._device = request.device
        self._goes_on = goes_on
        self._stack = ExitStack()

    def __enter__(self) -> World:
        _require_torch()
        from clipsearch.training import distributed

        world = world_of_environment()
        try:
            device = training_device(self._device, world)
        except InvalidSettings as error:
            if not self._goes_on:
                raise
            raise InvalidSettings(
                f"the run began with --device {self._device}, and PyTorch finds no such device here",
                "Continue it on a machine that has one, or start a new run with another --device; the run is as it was",
            ) from error
        return self._stack.enter_context(distributed.joined(world, device))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def training_device(asked: str | None, world: World) -> Any:
    """The torch device of a process: what was asked for, or CUDA, or MPS, or the CPU.

    Raises: InvalidSettings for one that is not there.
    """
    import torch

    name = asked
    if name is None:
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        if torch.cuda.is_available():
            name = "cuda"
    try:
        found = torch.device(f"cuda:{world.local_rank}" if name == "cuda" else name)
    except RuntimeError:
        raise InvalidSettings(
            f"--device {name} is not a device that PyTorch knows", "Choose cuda, mps or cpu"
        ) from None
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(found.type)
    if backend is not None and not backend.is_available():
        raise InvalidSettings(
            f"--device {name}: PyTorch finds no such device here", "Leave out --device, or choose cpu"
        )
    return found


@dataclass(slots=True)
class _Pairs:
    train: PairSet
    dev: PairSet
    anchor: PairSet
    weights: FloatArray | None = None
    mixture: list[Share] = field(default_factory=list)
    folds: IntArray | None = None  # for each pair the turn in which it is held out, where all are trained on

    @classmethod
    def open(cls, request: Request, notice: Notice) -> _Pairs:
        columns = {"image_column": request.image_column, "caption_column": request.caption_column}
        everything = open_pairs(request.sources, **columns)
        folds: IntArray | None = None
        if request.dev is not None:
            train_pairs, dev = everything, open_pairs(request.dev, **columns)
            common = common_pictures(train_pairs, dev)
            if common:
                notice(
                    f"{common:,} held-out pictures are also in the training pairs: recall will look better than it is"
                )
        elif takes_turns(int((readable := readable_pairs(everything)).sum())):
            folds = fold_numbers(everything)
            train_pairs = dev = everything
            notice(
                f"{counted(readable)} are too few to hold {LEAST_HELD_OUT} out: {FOLDS} runs each hold out a part "
                "(cross-validation), then one learns from all"
            )
        else:
            train_pairs, dev = split(everything, readable)
        anchor = open_pairs(request.anchor, **columns) if request.anchor is not None else builtin_anchor()
        for name, pairs in (("training", train_pairs), ("held-out", dev), ("anchor", anchor)):
            check_some_readable(pairs, name)
        if repeated := repeated_pictures(dev):
            notice(
                f"{repeated:,} of {len(dev):,} held-out pictures are copies of another: they count as one picture, "
                "with all their captions"
            )
        left_out = len(everything.bad)
        if left_out:
            reasons = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in everything.bad_by_reason.items())
            notice(f"{left_out:,} bad pairs are left out ({reasons}); see them with: clipsearch train --check")
        weighted = weights_of(train_pairs, request.weights)
        if weighted is None:
            return cls(train_pairs, dev, anchor, folds=folds)
        if folds is not None:
            check_turns(weighted[0], folds)
        notice(mixing_notice(weighted[1]))
        return cls(train_pairs, dev, anchor, *weighted, folds=folds)

    @property
    def digests(self) -> dict[str, str]:
        return {"train": self.train.digest, "dev": self.dev.digest, "anchor": self.anchor.digest}


def builtin_anchor() -> PairSet:
    """117 drawings of everyday things, from the Open Clip Art Library, which is in the public domain."""
    return open_pairs([BUILTIN_ANCHOR])


class Trained(Protocol):
    """What `train` asks of a trainee besides what the loop does."""

    def set_strength(self, strength: float) -> None: ...
    def measure(self, name: str) -> Metrics: ...
    def write_model(self, target: Path, source: str) -> None: ...
    def vectors(self, name: str) -> tuple[FloatArray, FloatArray]: ...


def _carry_out(
    request: Request,
    pairs: _Pairs,
    folder: RunFolder,
    world: World,
    base: OpenClipEncoder | None,
    watch: Watch,
) -> TrainReport:
    from clipsearch.training.interpolation import choose, weigh
    from clipsearch.training.loop import Loop, percentages
    from clipsearch.training.methods import Common, prepare

    started = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        watch.report(stage, done, total)
        # What stages other than the loop have done is in the cache or is done again.
        if world.size == 1 and watch.interrupted():
            raise TrainingInterrupted(str(folder.path), folder.steps_done())

    turns, common = None, Common()
    if pairs.folds is not None:
        from clipsearch.training.folds import take_turns

        with _stops_noted(folder, world):
            turns = take_turns(
                request,
                pairs.train,
                pairs.anchor,
                pairs.folds,
                pairs.weights,
                folder,
                world,
                base,
                report,
                watch,
                common,
            )
    notice, weights = watch.notice, pairs.weights
    work = prepare(request, pairs.train, pairs.dev, pairs.anchor, folder, world, base, report, notice, weights, common)
    loop: Loop = Loop(
        work.trainee,
        work.order,
        request.settings,
        folder,
        world=world,
        report=watch.report,
        interrupted=watch.interrupted,
        anyway=folder.goes_on_anyway,
        measured=watch.measured,
        measured_before=None if turns is None else turns.rows,
    )
    with _stops_noted(folder, world):
        progress = loop.run()
    trainee: Trained = work.trainee

    def measure(alpha: float, name: str) -> Metrics:
        if turns is not None and name == "dev":
            return turns.by_alpha[alpha]
        trainee.set_strength(alpha)
        return trainee.measure(name)

    weighings = weigh(measure, request.alpha, report)
    chosen = choose(weighings, request.max_anchor_drop)
    start = weighings[0]
    trainee.set_strength(chosen.alpha)
    choices = _choices(progress, weighings, request.max_anchor_drop) if chosen.alpha else []
    verdict = judge(start.dev, chosen.dev, choices)
    counts = work.counts()
    outcome = TrainReport(
        run=str(folder.path),
        model=request.model,
        method=request.settings.method,
        pairs=counts.train,
        dev_pairs=counts.dev if turns is None else turns.held_out,
        anchor_pairs=counts.anchor,
        unreadable=counts.unreadable,
        epochs=-(-progress.step // work.order.steps_per_epoch),
        best_epoch=progress.best_epoch,
        alpha=chosen.alpha,
        dev_before=percentages(start.dev),
        dev_after=percentages(chosen.dev),
        anchor_before=percentages(start.anchor),
        anchor_after=percentages(chosen.anchor),
        anchor_drop=round(chosen.anchor_drop(start), 4),
        max_anchor_drop=request.max_anchor_drop,
        fingerprint="",
        same_images=False,
        seconds=0.0,
        weighings=[_weighing_json(one) for one in weighings],
        batch=work.order.batch,
        steps=progress.step,
        verdict=verdict.outcome,
        dev_changes={name: list(change) for name, change in verdict.changes.items()},
        median_before=verdict.median_before,
        median_after=verdict.median_after,
        mixture=[asdict(share) for share in pairs.mixture],
        folds=0 if turns is None else turns.folds,
    )
    if turns is not None:
        outcome.notes.append(_turns_note(turns.folds))
    if world.is_first:
        report("writing the model", 0, 1)
        fingerprint = _write_model(trainee, folder, request, pairs.dev, work.base_fingerprint)
        outcome.fingerprint, outcome.same_images = fingerprint, fingerprint == work.base_fingerprint
        missing = folder.draw_curves()
        if missing:
            outcome.notes.append(missing)
        on_features = request.settings.method == "heads" or base is None
        used = heeded(request.settings.as_json(), request.settings.method, on_features)
        card = model_card(outcome, used, request.sources, read_model_directory(folder.model).licence)
        folder.put_aside(CARD)
        write_atomically(folder.path / CARD, card.encode())
        outcome.seconds = round(time.monotonic() - started, 1)
        folder.write_json(REPORT, asdict(outcome))
        loop.forget_checkpoints()
        if turns is not None:
            remove_made(folder.path / FOLDS_FOLDER)
    return outcome


def _choices(progress: Progress, weighings: Sequence[Weighing], most_drop: float) -> list[Choice]:
    """What was chosen on held-out pairs: the epoch, where it was measured, and the weight."""
    from clipsearch.training.interpolation import chooser

    pictures = weighings[0].dev.text_to_image.pictures
    by_weight = np.stack([one.dev.text_to_image.ranks for one in weighings])
    choices = [Choice(by_weight, pictures, chooser(weighings, most_drop))] if len(weighings) > 2 else []
    if progress.ranks:
        choices.append(Choice(np.array(progress.ranks), pictures, lambda scores: int(np.argmax(scores))))
    return choices


def _turns_note(folds: int) -> str:
    """What so many turns of a cross-validation have measured, of the five that there are."""
    if folds == FOLDS:
        return f"each held-out pair was measured by one of {FOLDS} runs without it; the model learned from all"
    return (
        f"only {folds} of {FOLDS} runs could learn and then measure the pairs that they held out, so the verdict is "
        "about those; the model learned from all"
    )


@contextmanager
def _stops_noted(folder: RunFolder, world: World) -> Iterator[None]:
    """Keep why a run was stopped, so that it stays so."""
    try:
        yield
    except TrainingStopped as stopped:
        if world.is_first:
            folder.note_stop(stopped)
        raise


def _write_model(trainee: Trained, folder: RunFolder, request: Request, dev: PairSet, base_fingerprint: str) -> str:
    """Write the model directory, compare it with what was trained, and put it in place. Returns its fingerprint."""
    name = public_name(request.model).removeprefix(OPEN_CLIP) if request.model else "a model in memory"
    with folder.making() as work:
        partial = work / "model"
        trainee.write_model(partial, f"{name}, trained by clipsearch ({request.settings.method})")
        written = OnnxEncoder(partial, precision="fp32")
        _compare(written, trainee, dev, folder.path)
        fingerprint = written.fingerprint
        for name in (WEIGHTS, OPEN_CLIP_CONFIG):  # which only trained towers leave beside the model
            if (work / name).is_file():
                (work / name).replace(folder.path / name)
        replace_tree(partial, folder.model)
    return fingerprint


def _compare(written: OnnxEncoder, trainee: Trained, dev: PairSet, run: Path) -> None:
    """Raise InvalidModel unless some held-out pictures and captions get the vectors that were measured."""
    from clipsearch.training.views import WHOLE, view_of

    captions = list(dict.fromkeys(caption for pair in dev for caption in pair.captions))[:CHECKED_CAPTIONS]
    pixels: list[PixelArray] = []
    for pair in dev:
        if len(pixels) == CHECKED_PICTURES:
            break
        try:
            pixels.append(view_of(pair, WHOLE, 0, written.preprocessing))
        except UnreadablePicture:
            continue
    images, texts = trainee.vectors("dev")
    for kind, found, expected in (
        ("picture", written.encode_images(np.stack(pixels)), images[: len(pixels)]),
        ("caption", written.encode_texts(captions), texts[: len(captions)]),
    ):
        least = float((found * expected).sum(axis=1).min())
        if least < LEAST_COSINE:
            raise InvalidModel(run, f"the written model gives a {kind} a cosine of {least:.6f} to the trained model")


def _weighing_json(one: Weighing) -> dict[str, float]:
    return {
        "alpha": one.alpha,
        "dev_text_to_image_r10": round(100 * one.dev.text_to_image.recall(10), 4),
        "anchor_text_to_image_r10": round(100 * one.anchor.text_to_image.recall(10), 4),
    }


def _versions() -> dict[str, Any]:
    packages = {}
    for name in ("torch", "open_clip_torch", "onnxruntime", "numpy"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"format": FORMAT, "clipsearch": __version__, "python": platform.python_version(), "packages": packages}


def _require_torch() -> None:
    """Load PyTorch before anything else does. Raises: MissingExtra, OutOfMemory.

    On a busy machine with two cores a step of `heads` took 1.2 s of processor time with threads that spin, 0.16 s with
    threads that sleep.
    """
    try:
        import onnx  # noqa: F401
        import safetensors  # noqa: F401

        import_with_sleeping_threads("torch")
    except (ImportError, OSError) as error:
        if is_out_of_memory(error):
            advice = "Close other programs or allow it more memory (ulimit -v), then try again"
            raise OutOfMemory("loading PyTorch", first_line(error), advice) from error
        raise MissingExtra("torch", "training") from error


def resolve_choices(
    model: str, method: str, device: str | None, precision: str
) -> tuple[Method, Literal["fp32", "bf16", "fp16"]]:
    """What `auto` means for the method and for the precision, here and for this model. Raises: MissingExtra."""
    _require_torch()
    from clipsearch.training.methods import default_method

    found = training_device(device, world_of_environment())
    chosen = default_method(model, found) if method == "auto" else cast(Method, method)
    if precision != "auto":
        return chosen, cast(Literal["fp32", "bf16", "fp16"], precision)
    if found.type != "cuda" or chosen == "heads":
        return chosen, "fp32"
    import torch

    return chosen, "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def lasting_name(model: str) -> str:
    """A model name that means the same from every folder. Raises: ModelNotFound."""
    if model.startswith(OPEN_CLIP):
        return model
    return resolve(model).name
