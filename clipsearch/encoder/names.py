"""Model names: from what `--model` takes to an encoder.

    builtin               the small model that comes with clipsearch
    DIRECTORY             a model directory (see `layout`), or the folder of a training run, which holds one
    MODEL__TAG            a published ONNX export, fetched once and then cached
    open_clip:MODEL/TAG   any open_clip model, run by PyTorch; open_clip:MODEL with a checkpoint
    auto                  the recommended model if it is cached or can be fetched, otherwise builtin

A name that an encoder gives as its own loads the same encoder again, so an index can be queried by it.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from clipsearch.encoder import Encoder, hub, layout
from clipsearch.encoder.catalog import PUBLISHED, RECOMMENDED
from clipsearch.encoder.kinds import (
    KINDS,
    LoadOptions,
    ModelInfo,
    Notice,
    Precision,
    ResolvedModel,
    kind_of_directory,
    kind_of_name,
)
from clipsearch.errors import ClipsearchError, HubUnreachable, ModelNotFound, UnsupportedPrecision
from clipsearch.places import expanded
from clipsearch.query.arguments import read_name, read_number, read_place

AUTO, BUILTIN = "auto", "builtin"
BUILTIN_LANGUAGES = "English; other languages less well"
RUN_SETTINGS, RUN_MODEL = "run.json", "model"  # in a training run's folder


def load_encoder(
    name: str | os.PathLike[str] = AUTO,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: Precision = "auto",
    threads: int | None = None,
    allow_pickle: bool = False,
    notice: Notice | None = None,
) -> Encoder:
    """Make the encoder that `name` means, fetching a published one that is not cached yet.

    `checkpoint`, `device` and `allow_pickle` are for open_clip models, `threads` for the others. `precision` is the
    image tower's: "fp16" of open_clip models only, "int8" of the others only. `notice` is called with one line when
    the user should know something (which model `auto` became, and why).
    Raises: ModelNotFound, InvalidModel, MissingExtra, OutOfSpace, UnsupportedPrecision, InvalidArgument.
    """
    name = read_name("model", os.fspath(name) if isinstance(name, os.PathLike) else name)
    checkpoint = None if checkpoint is None else read_place("checkpoint", checkpoint)
    device = None if device is None else read_name("device", device)
    if threads is not None:
        read_number("threads", threads, 1)
    kind = kind_of_name(name)
    if kind is None and checkpoint is not None:
        raise ModelNotFound(name, "a checkpoint needs an open_clip model: --model open_clip:MODEL --checkpoint FILE")
    if kind is not None and precision not in kind.precisions:
        raise UnsupportedPrecision(name, precision, kind.precisions)
    resolved = resolve(name, notice=notice)
    if resolved.notice and notice is not None:
        notice(resolved.notice)
    if resolved.directory is not None:
        kind = kind_of_directory(resolved.directory)
        if precision not in kind.precisions:
            raise UnsupportedPrecision(resolved.name, precision, kind.precisions)
        if device not in (None, "cpu") and notice is not None:
            notice(
                f"{resolved.name} runs on the CPU; for {device}, use an open_clip model (--model open_clip:MODEL/TAG)"
            )
    if kind is None:
        raise ModelNotFound(name, "it has no model directory")
    return kind.load_module().load(resolved, LoadOptions(checkpoint, device, precision, threads, allow_pickle))


def resolve(name: str = AUTO, *, fetch: bool = True, notice: Notice | None = None) -> ResolvedModel:
    """Find what `name` means; with `fetch`, download a published export that is not cached.

    `notice` is told beforehand of a download. Raises: ModelNotFound, InvalidModel, OutOfSpace.
    """
    if name == AUTO:
        return _resolve_auto(fetch, notice)
    if name == BUILTIN:
        return ResolvedModel(BUILTIN, "builtin", builtin_directory())
    kind = kind_of_name(name)
    if kind is not None:
        return ResolvedModel(name, kind.name, None)
    if _looks_like_path(name) or expanded(name).is_dir():
        directory = expanded(name)
        if not directory.is_dir():
            raise ModelNotFound(name, "the directory does not exist")
        if (directory / RUN_SETTINGS).is_file() and not (directory / layout.CONFIG).is_file():
            return ResolvedModel(str(directory.absolute()), "run", _model_of_run(name, directory))
        return ResolvedModel(str(directory.absolute()), "directory", directory)
    if not hub.is_export_name(name):
        raise ModelNotFound(name, _suggestion(name))
    cached = hub.cached_export(name)
    if cached is not None:
        return ResolvedModel(name, "export", cached)
    if not fetch:
        raise ModelNotFound(name, f"it is not in the cache. Fetch it with: clipsearch models pull {name}")
    return ResolvedModel(name, "export", _fetch(name, notice))


def model_at_hand(notice: Notice | None = None) -> str:
    """The best model that is here, for who names none: the recommended one if it is cached, else builtin. Asks nobody.

    Raises: ModelNotFound if there is none at all.
    """
    found = _resolve_auto(fetch=False, notice=None)
    if found.notice and notice is not None:
        notice(found.notice)
    return found.name


def pull(name: str, *, notice: Notice | None = None) -> ResolvedModel:
    """Fetch a published export, whatever is remembered of the network. "auto" means the recommended one.

    Raises: ModelNotFound, OutOfSpace; MissingExtra for open_clip models without PyTorch.
    """
    kind = kind_of_name(name)
    if kind is not None:  # what loads it keeps its weights
        encoder = kind.load_module().load(resolve(name), LoadOptions(device="cpu", precision="fp32"))
        return ResolvedModel(encoder.name, kind.name, None)
    return resolve(RECOMMENDED if name == AUTO else name, notice=notice)


def builtin_directory() -> Path:
    """Where the embedded model lies. Raises: ModelNotFound if this installation came without it."""
    directory = Path(__file__).resolve().parent.parent / "models" / BUILTIN
    if not (directory / layout.CONFIG).is_file():
        raise ModelNotFound(BUILTIN, f"this installation lacks the built-in model ({directory})")
    return directory


def list_models(*, every_kind: bool = False) -> list[ModelInfo]:
    """What `--model` takes: builtin, cached exports, published exports and, if asked, open_clip's models and others
    that have names of their own.

    Reads no weights and asks no network. Raises: MissingExtra if every kind is asked for and one is not installed.
    """
    models: list[ModelInfo] = []
    try:
        models.append(_describe(ResolvedModel(BUILTIN, "builtin", builtin_directory()), BUILTIN_LANGUAGES))
    except ClipsearchError:
        models.append(ModelInfo(BUILTIN, "builtin", available=False))
    published = {export.name: export for export in PUBLISHED}
    cached = set(hub.cached_exports())
    for name in [*published, *sorted(cached - set(published))]:
        export = published.get(name)
        known = ModelInfo(
            name,
            "export",
            available=False,
            recommended=name == RECOMMENDED,
            dim=export.dim if export else None,
            picture_side=export.picture_side if export else None,
            size_bytes=export.size_bytes if export else None,
            languages=export.languages if export else None,
        )
        directory = hub.cached_export(name) if name in cached else None
        if directory is not None:
            try:
                known = _describe(ResolvedModel(name, "export", directory), known.languages)
            except ClipsearchError:
                known = replace(known, available=False)
        models.append(known)
    if every_kind:
        models += [model for kind in KINDS for model in kind.load_module().list_models()]
    return models


def info(name: str) -> ModelInfo:
    """All that is known of one model that is here, its fingerprint included; nothing is fetched.

    For a published export that is not cached, what the catalogue says. Raises: ModelNotFound, InvalidModel.
    """
    if name == AUTO:
        name = _resolve_auto(fetch=False, notice=None).name
    kind = kind_of_name(name)
    if kind is not None:
        return kind.load_module().describe(resolve(name), hashed=True)
    try:
        resolved = resolve(name, fetch=False)
    except ModelNotFound:
        for model in list_models():
            if model.name == name and model.kind == "export":
                return model
        raise
    languages = next((export.languages for export in PUBLISHED if export.name == name), None)
    return _describe(resolved, languages, hashed=True)


def _resolve_auto(fetch: bool, notice: Notice | None) -> ResolvedModel:
    cached = hub.cached_export(RECOMMENDED)
    if cached is not None:
        return ResolvedModel(RECOMMENDED, "export", cached)
    reason = "it is not cached yet"
    if fetch:
        remembered = hub.remembered_offline()
        if hub.offline_by_setting():
            reason = "it is not cached, and HF_HUB_OFFLINE forbids downloads"
        elif remembered is not None:
            reason = remembered
        else:
            try:
                return ResolvedModel(RECOMMENDED, "export", _fetch(RECOMMENDED, notice))
            except ModelNotFound as error:
                reason = error.problem
                hub.remember_offline(reason)
    line = (
        f"using the small built-in model, because the recommended {RECOMMENDED} is not available: {reason}. "
        f"Fetch it with: clipsearch models pull {RECOMMENDED}; or choose --model builtin to hide this line"
    )
    return ResolvedModel(BUILTIN, "builtin", builtin_directory(), line)


def _fetch(name: str, notice: Notice | None) -> Path:
    size = next((export.size_bytes for export in PUBLISHED if export.name == name), None)
    about = f" (about {size / 1e9:.1f} GB, once)" if size else ""
    try:
        directory = hub.fetch_export(name, started=lambda: notice(f"downloading {name}{about}") if notice else None)
    except HubUnreachable:
        raise
    except ModelNotFound as error:
        close = difflib.get_close_matches(name, [export.name for export in PUBLISHED], n=3, cutoff=0.6)
        if close and name not in close:
            raise ModelNotFound(name, f"{error.problem}; did you mean {' or '.join(close)}?") from error
        raise
    hub.forget_offline()
    return directory


def _model_of_run(name: str, run: Path) -> Path:
    model = run / RUN_MODEL
    if not (model / layout.CONFIG).is_file():
        raise ModelNotFound(name, f"the training run has not finished. Continue with: clipsearch train --resume {run}")
    return model


def _describe(model: ResolvedModel, languages: str | None, *, hashed: bool = False) -> ModelInfo:
    """What is known of a model in a directory."""
    if model.directory is None:
        raise ModelNotFound(model.name, "it has no model directory")
    described = kind_of_directory(model.directory).load_module().describe(model, hashed=hashed)
    return replace(described, languages=languages, recommended=model.name == RECOMMENDED)


def _looks_like_path(name: str) -> bool:
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return name.startswith((".", "~")) or any(separator in name for separator in separators)


def _suggestion(name: str) -> str:
    known = [BUILTIN, AUTO, *(export.name for export in PUBLISHED)]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "it is not a directory, and published models have names such as ViT-B-32-SigLIP2-256__webli"
