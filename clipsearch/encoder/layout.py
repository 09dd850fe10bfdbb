"""The model directory: its small files, read and checked. Knows neither towers nor tensors.

The layout is the one that the immich project publishes for open_clip models and that its server loads:

    config.json                    open_clip model configuration, and clipsearch's own block (below)
    visual/model.onnx              (B, 3, H, W) float32 -> (B, D)
    visual/preprocess_cfg.json     open_clip's preprocessing configuration
    textual/model.onnx             (B, context length or, with dynamic_context, fewer) int32 -> (B, D)
    textual/tokenizer.json         a Hugging Face fast tokenizer
    textual/tokenizer_config.json  its padding token
    multilingual/                  clipsearch's own, may be missing: a text tower for what is not English, a model
                                   directory without an image tower, and what tells them apart (see `languages`)

A directory may hold one tower only. The optional block "clipsearch" of config.json:

    image_fingerprint   identity of the image tower, kept over an export (see `fingerprints`)
    visual_checksum     what `fingerprints.visual_checksum` must give for image_fingerprint to hold
    score_scale         the trained exp(logit_scale)
    dynamic_context     true: texts are padded to the longest of their batch only
    checked_precisions  list of "bf16", "int8": in these, Recall@k was measured to be as good as in fp32
    licence, source     free text for `clipsearch models info`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from clipsearch.errors import InvalidModel, StorageError
from clipsearch.records import Interpolation, Preprocessing, ResizeMode
from clipsearch.removing import remove_made, replace_tree

CONFIG = "config.json"
VISUAL_MODEL = "visual/model.onnx"
PREPROCESS_CFG = "visual/preprocess_cfg.json"
TEXTUAL_MODEL = "textual/model.onnx"
TOKENIZER = "textual/tokenizer.json"
TOKENIZER_CONFIG = "textual/tokenizer_config.json"
MULTILINGUAL = "multilingual"

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
"""What open_clip itself looks for in a folder, or in a repository of a hub."""

DEFAULT_CONTEXT_LENGTH = 77  # open_clip's, also for its Hugging Face text towers
CLIP_SCORE_SCALE = 100.0  # CLIP clamps exp(logit_scale) there and trained models end at it
SIGLIP_SCORE_SCALE = 115.0  # published SigLIP and SigLIP 2 checkpoints lie between 110 and 118


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How texts become token ids (open_clip's `text_cfg`)."""

    context_length: int
    clean: str  # "lower", "whitespace" or "canonicalize", see `texts.clean_text`
    strip_sep_token: bool  # separator tokens become id 0 (CLIPA)
    dynamic_context: bool


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """What the small files of a model directory say. `preprocessing` is None without an image tower."""

    path: Path
    dim: int
    text: TextSettings
    score_scale: float
    preprocessing: Preprocessing | None
    has_visual: bool
    has_textual: bool
    image_fingerprint: str | None
    visual_checksum: str | None
    licence: str | None
    source: str | None
    checked_precisions: tuple[str, ...] = ()

    @property
    def multilingual(self) -> Path | None:
        """The text tower for other languages than English, where there is one."""
        folder = self.path / MULTILINGUAL
        return folder if self.has_textual and (folder / CONFIG).is_file() else None


def read_model_directory(path: Path) -> ModelDirectory:
    """Read the small files of a model directory. Raises: InvalidModel."""
    if not path.is_dir():
        raise InvalidModel(path, "the directory does not exist")
    config = read_json(path, CONFIG)
    dim = config.get("embed_dim")
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise InvalidModel(path, f"{CONFIG} has no embed_dim")
    own = config.get("clipsearch", {})
    if not isinstance(own, dict):
        raise InvalidModel(path, f'"clipsearch" in {CONFIG} is not an object')
    has_visual, has_textual = (path / VISUAL_MODEL).is_file(), (path / TEXTUAL_MODEL).is_file()
    if not has_visual and not has_textual:
        raise InvalidModel(path, f"it has neither {VISUAL_MODEL} nor {TEXTUAL_MODEL}")
    fingerprint = own.get("image_fingerprint")
    if not has_visual and not isinstance(fingerprint, str):
        raise InvalidModel(
            path,
            f'without {VISUAL_MODEL}, {CONFIG} must name the image tower: "clipsearch": {{"image_fingerprint": ...}}',
        )
    preprocessing = None
    if has_visual or (path / PREPROCESS_CFG).is_file():
        preprocessing = parse_preprocessing(read_json(path, PREPROCESS_CFG), path)
    return ModelDirectory(
        path=path,
        dim=dim,
        text=_text_settings(path, config, own),
        score_scale=_score_scale(path, config, own),
        preprocessing=preprocessing,
        has_visual=has_visual,
        has_textual=has_textual,
        image_fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        visual_checksum=_optional_text(own.get("visual_checksum")),
        licence=_optional_text(own.get("licence")),
        source=_optional_text(own.get("source")),
        checked_precisions=_names(own.get("checked_precisions")),
    )


def copy_model_directory(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Copy a model directory to a new place, in one step. Raises: StorageError if something else is there.

    What `overwrite` finds beside files of the same names stays in a folder beside it.
    """
    import shutil
    import tempfile

    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        if not overwrite:
            raise StorageError(target, "it already exists", "Replace it with --overwrite")
        if not (target / CONFIG).is_file():
            raise StorageError(target, "it is not a model directory", "It was not overwritten. Name another folder")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            shutil.copytree(source, partial, copy_function=shutil.copyfile, dirs_exist_ok=True)
            partial.chmod(0o755)
            replace_tree(partial, target)
        finally:
            remove_made(partial)
    except OSError as error:
        raise StorageError(target, error.strerror or str(error), "Name another folder") from error


def read_json(directory: Path, relative: str) -> dict[str, Any]:
    """Read one JSON object of a model directory. Raises: InvalidModel."""
    try:
        value = json.loads((directory / relative).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModel(directory, f"{relative} is missing") from None
    except OSError as error:
        raise InvalidModel(directory, f"{relative} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidModel(directory, f"{relative} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InvalidModel(directory, f"{relative} is not a JSON object")
    return value


def parse_preprocessing(cfg: dict[str, Any], directory: Path) -> Preprocessing:
    """Turn open_clip's preprocess_cfg into `Preprocessing`. Its size is N or [height, width]. Raises: InvalidModel."""

    def reject(key: str) -> InvalidModel:
        return InvalidModel(directory, f"{PREPROCESS_CFG} has an invalid {key}: {cfg.get(key)!r}")

    size = cfg.get("size")
    sides = [size, size] if isinstance(size, int) else size
    if isinstance(sides, (list, tuple)) and len(sides) == 1:
        sides = [sides[0], sides[0]]
    if not (isinstance(sides, (list, tuple)) and len(sides) == 2 and all(_is_side(side) for side in sides)):
        raise reject("size")
    if cfg.get("mode", "RGB") != "RGB":
        raise reject("mode")
    triples: dict[str, tuple[float, float, float]] = {}
    for key in ("mean", "std"):
        values = cfg.get(key)
        if not (isinstance(values, (list, tuple)) and len(values) == 3 and all(_is_number(v) for v in values)):
            raise reject(key)
        triples[key] = (float(values[0]), float(values[1]), float(values[2]))
    if min(triples["std"]) <= 0:
        raise reject("std")
    interpolation, resize_mode = cfg.get("interpolation", "bicubic"), cfg.get("resize_mode", "shortest")
    if interpolation not in get_args(Interpolation):
        raise reject("interpolation")
    if resize_mode not in get_args(ResizeMode):
        raise reject("resize_mode")
    fill_color = cfg.get("fill_color", 0)
    if not _is_number(fill_color) or not 0 <= fill_color <= 255:
        raise reject("fill_color")
    return Preprocessing(
        height=int(sides[0]),
        width=int(sides[1]),
        mean=triples["mean"],
        std=triples["std"],
        interpolation=cast(Interpolation, interpolation),
        resize_mode=cast(ResizeMode, resize_mode),
        fill_color=int(fill_color),
    )


def preprocess_cfg(preprocessing: Preprocessing) -> dict[str, Any]:
    """The inverse of `parse_preprocessing`, as open_clip and immich write it."""
    return {
        "size": [preprocessing.height, preprocessing.width],
        "mode": "RGB",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "resize_mode": preprocessing.resize_mode,
        "fill_color": preprocessing.fill_color,
    }


def _text_settings(path: Path, config: dict[str, Any], own: dict[str, Any]) -> TextSettings:
    text_cfg = config.get("text_cfg", {})
    if not isinstance(text_cfg, dict):
        raise InvalidModel(path, f'"text_cfg" in {CONFIG} is not an object')
    context_length = text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH)
    if not isinstance(context_length, int) or not 2 <= context_length <= 1 << 16:
        raise InvalidModel(path, f"{CONFIG} has an invalid context_length: {context_length!r}")
    options = text_cfg.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict):
        raise InvalidModel(path, f'"tokenizer_kwargs" in {CONFIG} is not an object')
    clean = options.get("clean", "whitespace" if text_cfg.get("hf_tokenizer_name") else "lower")
    if clean not in ("lower", "whitespace", "canonicalize"):
        raise InvalidModel(path, f"{CONFIG} names an unknown text cleaning: {clean!r}")
    mode = options.get("tokenizer_mode") or text_cfg.get("tokenizer_mode")
    if mode:
        raise InvalidModel(path, f"{CONFIG} names the unknown tokenizer mode {mode!r}")
    return TextSettings(
        context_length=context_length,
        clean=clean,
        strip_sep_token=bool(options.get("strip_sep_token", False)),
        dynamic_context=own.get("dynamic_context") is True,
    )


def _score_scale(path: Path, config: dict[str, Any], own: dict[str, Any]) -> float:
    scale = own.get("score_scale")
    if scale is None:
        return SIGLIP_SCORE_SCALE if "init_logit_bias" in config else CLIP_SCORE_SCALE
    if not _is_number(scale) or not 0 < scale < 1e6:
        raise InvalidModel(path, f"{CONFIG} has an invalid score_scale: {scale!r}")
    return float(scale)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 8192


def _names(value: object) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()


def _optional_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
