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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipsearch.encoder import Encoder, hub, layout
from clipsearch.encoder.catalog import PUBLISHED, RECOMMENDED
from clipsearch.errors import ClipsearchError, HubUnreachable, ModelNotFound, UnsupportedPrecision
from clipsearch.places import expanded
from clipsearch.records import Preprocessing

if TYPE_CHECKING:
    from clipsearch.encoder.openclip import OpenClipEncoder
    from clipsearch.encoder.openclip import Precision as OpenClipPrecision

AUTO, BUILTIN, OPEN_CLIP = "auto", "builtin", "open_clip:"
BUILTIN_LANGUAGES = "English, others less well"
RUN_SETTINGS, RUN_MODEL = "run.json", "model"  # in a training run's folder
Kind = Literal["builtin", "directory", "run", "export", "open_clip"]
Notice = Callable[[str], None]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What a model name means here. `directory` is None for open_clip models; `notice` is a line for the user."""

    name: str
    kind: Kind
    directory: Path | None
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of `clipsearch models list`; `info` fills in all of it. None: not known without loading it."""

    name: str
    kind: Kind
    available: bool  # usable now, without fetching anything
    recommended: bool = False
    dim: int | None = None
    picture_side: int | None = None  # pixels
    size_bytes: int | None = None
    languages: str | None = None
    directory: Path | None = None
    preprocessing: Preprocessing | None = None
    fingerprint: str | None = None
    score_scale: float | None = None
    context_length: int | None = None
    licence: str | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()  # of open_clip's published weights


def load_encoder(
    name: str = AUTO,
    *,
    checkpoint: Path | str | None = None,
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
    Raises: ModelNotFound, InvalidModel, MissingExtra, OutOfSpace, UnsupportedPrecision.
    """
    if name.startswith(OPEN_CLIP):
        if precision == "int8":
            raise UnsupportedPrecision(name, precision, ("auto", "fp32", "bf16", "fp16"))
        return _open_clip_encoder(name, checkpoint, device, precision, allow_pickle)
    if checkpoint is not None:
        raise ModelNotFound(
            name, "a checkpoint goes with an open_clip model: --model open_clip:MODEL --checkpoint FILE"
        )
    resolved = resolve(name, notice=notice)
    if resolved.notice and notice is not None:
        notice(resolved.notice)
    if device not in (None, "cpu") and notice is not None:
        notice(f"{resolved.name} runs on the CPU; for {device}, use an open_clip model (--model open_clip:MODEL/TAG)")
    from clipsearch.encoder.onnx import OnnxEncoder

    if resolved.directory is None:
        raise ModelNotFound(name, "it has no model directory")
    if precision == "fp16":
        raise UnsupportedPrecision(resolved.name, precision, ("auto", "fp32", "bf16", "int8"))
    return OnnxEncoder(resolved.directory, threads=threads, name=resolved.name, precision=precision)


def resolve(name: str = AUTO, *, fetch: bool = True, notice: Notice | None = None) -> ResolvedModel:
    """Find what `name` means; with `fetch`, download a published export that is not cached.

    `notice` is told beforehand of a download. Raises: ModelNotFound, InvalidModel, OutOfSpace.
    """
    if name == AUTO:
        return _resolve_auto(fetch, notice)
    if name == BUILTIN:
        return ResolvedModel(BUILTIN, "builtin", builtin_directory())
    if name.startswith(OPEN_CLIP):
        return ResolvedModel(name, "open_clip", None)
    if _looks_like_path(name) or expanded(name).is_dir():
        directory = expanded(name)
        if not directory.is_dir():
            raise ModelNotFound(name, "there is no such directory")
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


def pull(name: str, *, notice: Notice | None = None) -> ResolvedModel:
    """Fetch a published export, whatever is remembered of the network. "auto" means the recommended one.

    Raises: ModelNotFound, OutOfSpace; MissingExtra for open_clip models without PyTorch.
    """
    if name.startswith(OPEN_CLIP):
        encoder = _open_clip_encoder(name, None, "cpu", "fp32", allow_pickle=False)  # open_clip caches its weights
        return ResolvedModel(encoder.name, "open_clip", None)
    return resolve(RECOMMENDED if name == AUTO else name, notice=notice)


def builtin_directory() -> Path:
    """Where the embedded model lies. Raises: ModelNotFound if this installation came without it."""
    directory = Path(__file__).resolve().parent.parent / "models" / BUILTIN
    if not (directory / layout.CONFIG).is_file():
        raise ModelNotFound(BUILTIN, f"this installation lacks the embedded model ({directory})")
    return directory


def list_models(*, with_open_clip: bool = False) -> list[ModelInfo]:
    """What `--model` takes: builtin, cached exports, published exports and, if asked, open_clip's models.

    Reads no weights and asks no network. Raises: MissingExtra if open_clip is asked for and not installed.
    """
    models: list[ModelInfo] = []
    try:
        models.append(_directory_info(BUILTIN, "builtin", builtin_directory(), languages=BUILTIN_LANGUAGES))
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
                known = _directory_info(name, "export", directory, languages=known.languages)
            except ClipsearchError:
                known = replace(known, available=False)
        models.append(known)
    if with_open_clip:
        from clipsearch.encoder.openclip import open_clip_models

        for architecture, tags in open_clip_models():
            models.append(ModelInfo(f"{OPEN_CLIP}{architecture}", "open_clip", available=False, tags=tuple(tags)))
    return models


def info(name: str) -> ModelInfo:
    """All that is known of one model that is here, its fingerprint included; nothing is fetched.

    For a published export that is not cached, what the catalogue says. Raises: ModelNotFound, InvalidModel.
    """
    if name == AUTO:
        name = _resolve_auto(fetch=False, notice=None).name
    if name.startswith(OPEN_CLIP):
        return _open_clip_info(name)
    try:
        resolved = resolve(name, fetch=False)
    except ModelNotFound:
        for model in list_models():
            if model.name == name and model.kind == "export":
                return model
        raise
    if resolved.directory is None:
        raise ModelNotFound(name, "it has no model directory")
    languages = next((export.languages for export in PUBLISHED if export.name == name), None)
    return _directory_info(resolved.name, resolved.kind, resolved.directory, languages=languages, hashed=True)


def _resolve_auto(fetch: bool, notice: Notice | None) -> ResolvedModel:
    cached = hub.cached_export(RECOMMENDED)
    if cached is not None:
        return ResolvedModel(RECOMMENDED, "export", cached)
    reason = "it is not cached yet"
    if fetch:
        remembered = hub.remembered_offline()
        if hub.offline_by_setting():
            reason = "it is not cached, and HF_HUB_OFFLINE forbids fetching it"
        elif remembered is not None:
            reason = remembered
        else:
            try:
                return ResolvedModel(RECOMMENDED, "export", _fetch(RECOMMENDED, notice))
            except ModelNotFound as error:
                reason = error.problem
                hub.remember_offline(reason)
    line = (
        f"using the small built-in model, as the recommended {RECOMMENDED} is not available: {reason}. "
        f"Fetch it with: clipsearch models pull {RECOMMENDED}; or say --model builtin to keep this one quietly"
    )
    return ResolvedModel(BUILTIN, "builtin", builtin_directory(), line)


def _fetch(name: str, notice: Notice | None) -> Path:
    size = next((export.size_bytes for export in PUBLISHED if export.name == name), None)
    about = f" (about {size / 1e9:.1f} GB, once)" if size else ""
    try:
        directory = hub.fetch_export(name, started=lambda: notice(f"fetching {name}{about}") if notice else None)
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
        raise ModelNotFound(name, f"the training run has not finished; go on with: clipsearch train --resume {run}")
    return model


def _directory_info(
    name: str, kind: Kind, directory: Path, *, languages: str | None = None, hashed: bool = False
) -> ModelInfo:
    model = layout.read_model_directory(directory)
    fingerprint = None
    if hashed:
        from clipsearch.encoder.fingerprints import image_fingerprint

        fingerprint = image_fingerprint(model)
    return ModelInfo(
        name,
        kind,
        available=True,
        recommended=name == RECOMMENDED,
        dim=model.dim,
        picture_side=model.preprocessing.width if model.preprocessing else None,
        size_bytes=sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()),
        languages=languages,
        directory=directory,
        preprocessing=model.preprocessing,
        fingerprint=fingerprint,
        score_scale=model.score_scale,
        context_length=model.text.context_length,
        licence=model.licence,
        source=model.source,
    )


def _open_clip_parts(name: str) -> tuple[str, str | None, str | None]:
    """open_clip:MODEL/TAG or open_clip:MODEL@CHECKPOINT to model, tag, checkpoint."""
    rest = name.removeprefix(OPEN_CLIP)
    architecture, at, checkpoint = rest.partition("@")
    if at:
        return architecture, None, checkpoint
    architecture, _, tag = rest.partition("/")
    return architecture, tag or None, None


def _open_clip_encoder(
    name: str, checkpoint: Path | str | None, device: str | None, precision: OpenClipPrecision, allow_pickle: bool
) -> OpenClipEncoder:
    architecture, tag, inline = _open_clip_parts(name)
    if not architecture:
        raise ModelNotFound(name, "it names no model; open_clip's are written open_clip:ViT-B-32/laion2b_s34b_b79k")
    if checkpoint is not None and (tag or inline):
        raise ModelNotFound(name, "it names its weights already, so it takes no --checkpoint")
    from clipsearch.encoder.openclip import OpenClipEncoder

    weights = checkpoint if checkpoint is not None else inline
    return OpenClipEncoder(architecture, tag, weights, device, precision, allow_pickle=allow_pickle)


def _open_clip_info(name: str) -> ModelInfo:
    from clipsearch.encoder.openclip import open_clip_config, open_clip_tags

    architecture, tag, _ = _open_clip_parts(name)
    config = open_clip_config(architecture)
    side = config.get("vision_cfg", {}).get("image_size")
    return ModelInfo(
        name,
        "open_clip",
        available=False,
        dim=config.get("embed_dim"),
        picture_side=side if isinstance(side, int) else None,
        context_length=config.get("text_cfg", {}).get("context_length", layout.DEFAULT_CONTEXT_LENGTH),
        tags=(tag,) if tag else tuple(open_clip_tags(architecture)),
    )


def _looks_like_path(name: str) -> bool:
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return name.startswith((".", "~")) or any(separator in name for separator in separators)


def _suggestion(name: str) -> str:
    known = [BUILTIN, AUTO, *(export.name for export in PUBLISHED)]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "it is no directory here, and names of published models look like ViT-B-32-SigLIP2-256__webli"
