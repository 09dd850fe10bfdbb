"""From a request to something that the loop can train: the base model, the method, the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import xxhash

from clipsearch.encoder.fingerprints import tower_checksums
from clipsearch.encoder.kinds import OPEN_CLIP
from clipsearch.encoder.layout import TEXTUAL_MODEL, VISUAL_MODEL, read_model_directory
from clipsearch.encoder.names import load_encoder, resolve
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.encoder.texts import TextTokenizer
from clipsearch.pairs.reading import PairSet
from clipsearch.records import FloatArray
from clipsearch.removing import replace_tree
from clipsearch.training.feature_cache import cached_features, cached_sentences, wrong_captions
from clipsearch.training.freezing import frozen_by
from clipsearch.training.frozen import FrozenModel
from clipsearch.training.heads import HeadsTrainee
from clipsearch.training.mirroring import may_be_mirrored, mirroring_notice
from clipsearch.training.mixing import make_order
from clipsearch.training.order import Order
from clipsearch.training.run_folder import RunFolder
from clipsearch.training.sameness import check_variety, check_variety_early, numbered, same_pictures
from clipsearch.training.sentences import general_sentences
from clipsearch.training.settings import (
    DEFAULTS,
    LARGEST_SEED,
    OPTIONS,
    SEE_WHY,
    InvalidSettings,
    Method,
    NothingToLearn,
    Settings,
    unheeded_settings,
    unheeded_views,
    views_seen,
)
from clipsearch.training.swapping import nothing_to_swap, swapped, swapping_notice, usable
from clipsearch.training.world import World

if TYPE_CHECKING:
    from clipsearch.encoder.openclip import OpenClipEncoder
    from clipsearch.training.run import Notice, Report, Request
    from clipsearch.training.towers import TowersTrainee


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pairs of each set have a picture that can be read, and how many pictures cannot."""

    train: int
    dev: int
    anchor: int
    unreadable: int


@dataclass(slots=True)
class Work:
    """All that a loop needs, and what the report says of it."""

    trainee: Any
    order: Order
    base_fingerprint: str
    counts: Callable[[], Counts]


@dataclass(slots=True)
class Common:
    """What the runs of a cross-validation have in common, for `prepare`: the first makes it, those after it take it."""

    frozen: FrozenModel | None = None
    towers: TowersTrainee | None = None  # of the last run


def default_method(model: str, device: torch.device) -> Method:
    """`heads` for ONNX models and on a CPU, `lora` for open_clip models on anything faster."""
    return "lora" if model.startswith(OPEN_CLIP) and device.type != "cpu" else "heads"


def check_method(request: Request, base: OpenClipEncoder | None, world: World) -> None:
    """Raise InvalidSettings for a method that the model does not have, before anything is written."""
    method, is_open_clip = request.settings.method, base is not None or request.model.startswith(OPEN_CLIP)
    if world.size > 1 and (method == "heads" or not is_open_clip):
        raise InvalidSettings(
            f"{method} trains on cached features and needs only one process",
            "Leave out torchrun, or choose --method lora or full with an open_clip: model",
        )
    if method in ("lora", "full") and not is_open_clip:
        raise InvalidSettings(
            f"{request.model} is an ONNX model, and --method {method} cannot train its towers",
            "Choose --method heads or locked-image, or an open_clip: model",
        )
    if request.settings.compile and (method == "heads" or not is_open_clip):
        raise InvalidSettings(
            f"--compile is for towers that are trained, and {method} trains on cached features",
            "Leave out --compile, or choose --method lora or full with an open_clip: model",
        )
    _check_heeded(request, is_open_clip)
    if request.settings.mines and request.settings.targets == "hard":
        raise InvalidSettings(
            "with --targets hard, pairs that say the same would be each other's negatives in the batches that "
            f"--hard-negatives {request.settings.hard_negatives} makes",
            "Leave out --targets hard",
        )


def _check_heeded(request: Request, is_open_clip: bool) -> None:
    """Raise InvalidSettings for options that would change nothing, or cannot be."""
    settings = request.settings
    method = settings.method
    if request.checkpoint is not None and not is_open_clip:
        raise InvalidSettings(
            f"--checkpoint gives an open_clip: model its weights, and {request.model} is an ONNX model with its own",
            "Leave out --checkpoint, or name the model that the weights are of with --model open_clip:NAME",
        )
    if not 0 <= settings.seed <= LARGEST_SEED:
        raise InvalidSettings(f"--seed {settings.seed} is not a number from 0 to {LARGEST_SEED}", "Choose another")
    on_features = method == "heads" or not is_open_clip
    unheeded = unheeded_settings(method, on_features)
    given = [OPTIONS[name] for name in unheeded if _is_given(settings, name)]
    of_views = [name for name in unheeded_views(settings, on_features) if name != "views" or settings.views != 1]
    if not given and (ways := [_option(settings, name) for name in of_views if _is_given(settings, name)]):
        listed = _listed(ways)
        why, instead = "with --views 1, every picture is shown whole", "give a larger --views"
        if settings.views > 1:
            why = "--method locked-image keeps the vectors of pictures, so each is looked at once, whole"
            instead = "choose --method heads"
        raise InvalidSettings(f"{listed} would change nothing: {why}", f"Leave out {listed}, or {instead}")
    if given:
        why = f"has no use for {'that' if len(given) == 1 else 'them'}"
        if on_features:
            why = "trains on cached features of towers that stay as they are"
        instead = "lora or full with an open_clip: model" if on_features else "one that has"
        if set(given) <= {"--rank", "--lora-alpha", "--lora-target"}:
            instead = "lora with an open_clip: model"
        listed = _listed(given)
        raise InvalidSettings(
            f"{listed} would change nothing: --method {method} {why}",
            f"Leave out {listed}, or choose --method {instead}",
        )
    if method == "lora" and settings.lora_alpha == 0:
        raise InvalidSettings(
            "--lora-alpha 0 multiplies all that LoRA learns by 0, so nothing can be trained", "Choose a number above 0"
        )


def _is_given(settings: Settings, name: str) -> bool:
    value, default = getattr(settings, name), DEFAULTS[name]
    return bool(set(value) != set(default) if isinstance(value, tuple) else value != default)


def _option(settings: Settings, name: str) -> str:
    return "--no-mirror" if name == "mirror" and settings.mirror is False else OPTIONS[name]


def _listed(options: Sequence[str]) -> str:
    return " and ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)


def check_trainable(request: Request, base: OpenClipEncoder | None) -> None:
    """Raise InvalidSettings if what is frozen and what LoRA changes do not fit the model. Nothing is written yet."""
    if base is None or request.settings.method == "heads":
        return
    from clipsearch.training.lora import check_targets

    settings = request.settings
    frozen = frozen_by([name for name, _ in base.model.named_parameters()], settings.freeze, settings.freeze_layers)
    if settings.method == "lora":
        check_targets(base.model, settings.lora_targets, frozen)


def open_base(request: Request, base: OpenClipEncoder | None, notice: Notice) -> OpenClipEncoder | None:
    """The open_clip model that a run begins with: `base`, or the one that the request names; None for an ONNX model."""
    if base is not None or not request.model.startswith(OPEN_CLIP):
        return base
    loaded: Any = load_encoder(
        request.model,
        checkpoint=request.checkpoint,
        device=request.device,
        precision="fp32",
        allow_pickle=request.allow_pickle,
        notice=notice,
    )
    return cast("OpenClipEncoder", loaded)


def base_identity(request: Request, base: OpenClipEncoder | None, notice: Notice) -> str:
    """What a run begins with, by content: xxh3-128 of the weights of both towers. `base`: as `open_base` gives it."""
    hasher = xxhash.xxh3_128()
    if base is None:
        directory = _directory(request, notice)
        for relative in (VISUAL_MODEL, TEXTUAL_MODEL):
            hasher.update(" ".join([relative, *tower_checksums(directory, relative)]).encode())
        return hasher.hexdigest()
    for name, value in base.model.state_dict().items():
        hasher.update(name.encode())
        hasher.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def check_teachable(request: Request, pairs: PairSet, base: OpenClipEncoder | None, notice: Notice) -> None:
    """Raise NothingToLearn if all training pairs together cannot teach anything, before anything is written.

    `base`: as `open_base` gives it.
    """
    readings = _readings(request, base, notice)
    check_variety_early(pairs, readings)
    if not request.settings.swaps_captions:
        return
    swapping_notice(pairs)
    texts = list(dict.fromkeys(caption for pair in pairs for caption in pair.captions))
    known = set(readings(texts))
    if not any(any(usable([swapped(text)], readings, known)) for text in texts):
        raise nothing_to_swap()


def _readings(request: Request, base: OpenClipEncoder | None, notice: Notice) -> Callable[[Sequence[str]], list[bytes]]:
    """What the base model reads of texts, without its towers."""
    if base is not None:
        return lambda texts: [row.tobytes() for row in base.tokenizer(list(texts)).numpy()]
    model = read_model_directory(_directory(request, notice))
    tokenizer, length = TextTokenizer(model), model.text.context_length
    return lambda texts: [row.tobytes() for row in tokenizer.encode(texts, length).ids.astype(np.int32)]


def _directory(request: Request, notice: Notice, *, introduced: bool = False) -> Path:
    """Where the base model is. `introduced`: say what there is to say of it, too."""
    resolved = resolve(request.model, notice=notice)
    if resolved.directory is None:
        raise InvalidSettings(f"{request.model} has no model directory", "Name another --model")
    if resolved.notice and introduced:
        notice(resolved.notice)
    return resolved.directory


def prepare(
    request: Request,
    train: PairSet,
    dev: PairSet,
    anchor: PairSet,
    folder: RunFolder,
    world: World,
    base: OpenClipEncoder | None,
    report: Report,
    notice: Notice,
    weights: FloatArray | None = None,
    common: Common | None = None,
) -> Work:
    """Make the trainee of the base model. `base`: as `open_base` gives it; `weights`: of the training pairs.

    `common`: shared with runs before of the same request, whose trainees are not used any more. Raises: as `run.train`.
    """
    common = common or Common()
    settings = request.settings
    if settings.swaps_captions:
        notice(swapping_notice(train))
    if base is not None and settings.method != "heads":
        from clipsearch.training.towers import prepare_towers

        work = prepare_towers(base, settings, train, dev, anchor, world, report, notice, weights, common.towers)
        common.towers = work.trainee
        return work
    directory = _directory(request, notice, introduced=True) if base is None else _exported(base, folder, report)
    model = common.frozen = common.frozen or FrozenModel(directory)
    views = views_seen(settings.method, True, settings.views)
    texts = list(dict.fromkeys(caption for pair in train for caption in pair.captions))
    readings = model.readings(texts)
    same = same_pictures(train), numbered(readings)
    check_variety(train, *same)
    wrong = wrong_captions(model, texts, readings, report) if settings.swaps_captions else None
    if settings.swaps_captions and wrong is None:
        raise nothing_to_swap()
    mirror = may_be_mirrored(train, settings.mirror)
    if views > 1 and settings.mirror is None and (said := mirroring_notice(mirror)):
        notice(said)
    pictures = cached_features(
        model, train, views, settings.seed, report, same=same, mirror=mirror, augmentation=settings.augmentation
    )
    pictures = replace(pictures, wrong=wrong)
    sets = {
        name: cached_features(model, some, 1, settings.seed, report, exact=True, same=(same_pictures(some), None))
        for name, some in (("dev", dev), ("anchor", anchor))
    }
    for name, found in (("training", pictures), ("held-out", sets["dev"]), ("anchor", sets["anchor"])):
        if len(found.pairs) == 0:
            raise NothingToLearn(f"none of the {name} pictures can be read", SEE_WHY)
    if pictures.unreadable and pictures.same_pictures is not None and pictures.same_texts is not None:
        left = pictures.same_texts[pictures.captions]
        check_variety(train.subset(pictures.pairs.tolist()), pictures.same_pictures, left)
    unreadable = pictures.unreadable + (0 if dev is train else sets["dev"].unreadable)
    if unreadable:
        notice(f"{unreadable:,} pictures cannot be read and are left out; see them with: clipsearch train --check")
    general = cached_sentences(model, general_sentences(), report) if settings.keep_general else None
    trainee = HeadsTrainee(model, pictures, sets, settings, general)
    own = None if weights is None else weights[pictures.pairs]
    order = make_order(pictures.first_caption, own, settings)
    counts = Counts(len(pictures.pairs), len(sets["dev"].pairs), len(sets["anchor"].pairs), unreadable)
    return Work(trainee, order, OnnxEncoder(directory).fingerprint, lambda: counts)


def _exported(encoder: OpenClipEncoder, folder: RunFolder, report: Report) -> Path:
    """The open_clip model as a model directory inside the run, for training on its frozen towers."""
    from clipsearch.encoder.export import export

    directory = folder.path / "base"
    if not (directory / "config.json").is_file():
        report("exporting the base model", 0, 1)
        with folder.making() as work:
            export(encoder, work / "base")
            replace_tree(work / "base", directory)
    return directory
