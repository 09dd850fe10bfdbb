"""`OpenClipEncoder`: any open_clip model, run by PyTorch. The only module that imports open_clip.

For GPUs, for training, and as what `export` reads. Pictures are normalised on the device: what crosses the bus
is uint8, a quarter of the bytes. `runs` gets them there.

On a GPU the image tower is copied in the precision of the arithmetic, where its vectors agree with those in fp32 on
some of the pictures at hand: on an H200 ViT-B-32 then encodes 33,200 pictures/s and ViT-L-14 2,680, where converting
the weights for each run gives 22,000 and 1,900. Compiling it gained nothing for these, 8 % for SigLIP, and for RN50 a
factor of two, from 11,000: many times what any number of cores decodes, so that it is not worth its ten seconds.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import time
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xxhash

from clipsearch.encoder import PICTURES_PER_CALL, BaseEncoder
from clipsearch.encoder.arrays import check_pixels, unit_rows
from clipsearch.encoder.fingerprints import fingerprint_of
from clipsearch.encoder.kinds import OPEN_CLIP, LoadOptions, ModelInfo, ResolvedModel
from clipsearch.encoder.layout import DEFAULT_CONTEXT_LENGTH, OPEN_CLIP_CONFIG, PREPROCESS_CFG, parse_preprocessing
from clipsearch.encoder.precision import trial_pictures
from clipsearch.encoder.quiet import quiet_logging
from clipsearch.encoder.runs import Runs, Tower
from clipsearch.errors import (
    InvalidCheckpoint,
    InvalidModel,
    MissingExtra,
    ModelNotFound,
    OutOfDeviceMemory,
    UnsupportedPrecision,
    first_line,
)
from clipsearch.places import expanded
from clipsearch.records import FloatArray, PixelArray, Preprocessing

if TYPE_CHECKING:
    import torch

    from clipsearch.encoder.captions import Captioner

EXTRA = "torch"
Precision = Literal["auto", "fp32", "bf16", "fp16"]

PREPROCESS_KEY = "preprocess_cfg"
"""In the metadata of a .safetensors file: open_clip's preprocessing configuration, as JSON."""

IMAGES_PER_RUN = {"cuda": 512, "mps": 64, "cpu": 32}
LEAST_CALL = 256  # pictures
LONGEST_CALL_S = 0.1  # of a GPU, if that is more than one run: whoever waits for it reads no pictures meanwhile
LARGEST_CALL_BYTES = 512 << 20
TRIAL_PICTURES = 32
LEAST_TRIAL_COSINE = 0.999
TEXTS_PER_RUN = {"cuda": 1024, "mps": 128, "cpu": 64}


class OpenClipEncoder(BaseEncoder):
    """Encoder for an open_clip model with the weights of a published tag or of a checkpoint file.

    `device`: "cuda", "cuda:1", "mps" or "cpu" (None: the first of these that is there). `precision`: of the
    arithmetic, not of the weights; "auto" is bf16 on CUDA and on CPUs with AMX, fp32 elsewhere. On such a CPU it
    took, for each picture, ViT-B-32 from 63 to 20 ms of CPU, RN50 from 100 to 34, SigLIP's ViT-B-32 from 80 to 28.
    """

    def __init__(
        self,
        name: str,
        tag: str | None = None,
        checkpoint: Path | str | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        *,
        allow_pickle: bool = False,
    ) -> None:
        """Load the weights, from the network where a tag is not cached yet.

        `allow_pickle`: accept a checkpoint that is a pickle (.pt, .bin, ...); it is then read with PyTorch's
        weights_only, which runs no code of the file's but has had holes.
        Raises: MissingExtra, ModelNotFound, InvalidModel.
        """
        open_clip = _import_open_clip(f"the model open_clip:{name}")
        config = _model_config(open_clip, name)
        if checkpoint is not None:
            checkpoint = expanded(checkpoint)
            _check_checkpoint(checkpoint, allow_pickle)
            full_name, weights = f"open_clip:{name}@{checkpoint.absolute()}", str(checkpoint)
        elif tag is not None:
            tags = open_clip.list_pretrained_tags_by_model(name)
            if tag not in tags:
                known = f"open_clip knows {', '.join(tags)}" if tags else "open_clip has no published weights for it"
                raise ModelNotFound(f"open_clip:{name}/{tag}", f"the weights do not exist; {known}")
            full_name, weights = f"open_clip:{name}/{tag}", tag
        else:
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise ModelNotFound(
                f"open_clip:{name}",
                f"it needs weights: a tag (open_clip:{name}/{tags[0] if tags else 'TAG'}) or --checkpoint FILE",
            )
        with quiet_logging():
            try:
                model = open_clip.create_model(name, pretrained=weights, device="cpu", weights_only=True)
            except Exception as error:  # open_clip, torch, safetensors and the hub each have their own
                if checkpoint is not None:
                    problem = f"it does not contain weights for {name} ({first_line(error)})"
                    advice = "Name the model that it was made from (open_clip:NAME), or another file"
                    raise InvalidCheckpoint(Path(checkpoint), problem, advice) from error
                raise ModelNotFound(full_name, f"its weights could not be downloaded ({first_line(error)})") from error
        if checkpoint is not None:
            model.visual.preprocess_cfg = _preprocessing_of(Path(checkpoint), name, open_clip, model.visual)
        self._set_up(model, config, full_name, device, precision, architecture=name)

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        config: dict[str, Any],
        *,
        name: str,
        tokenizer: Any = None,
        device: str | None = None,
        precision: Precision = "auto",
    ) -> OpenClipEncoder:
        """Wrap an open_clip model that is already in memory (a trained one, or one of a test).

        `config` is its open_clip model configuration, `tokenizer` what turns texts into (B, L) ids (None: the
        one that the configuration asks for). Raises: MissingExtra, InvalidModel.
        """
        _import_open_clip(f"the model {name}")
        self = cls.__new__(cls)
        self._set_up(model, config, name, device, precision, tokenizer=tokenizer)
        return self

    def _set_up(
        self,
        model: torch.nn.Module,
        config: dict[str, Any],
        name: str,
        device: str | None,
        precision: Precision,
        *,
        architecture: str = "",
        tokenizer: Any = None,
    ) -> None:
        import torch

        self._architecture = architecture
        self._name = name
        self._config = config
        self._tokenizer = tokenizer
        self._device = torch.device(device or _best_device())
        if self._device.type == "cuda" and (self._device.index or 0) >= torch.cuda.device_count():
            found = torch.cuda.device_count() or "no"
            problem = f"the device {self._device} was requested, but PyTorch finds {found} CUDA device"
            raise ModelNotFound(name, problem + ("s" if found not in ("no", 1) else ""))
        self._precision = _resolve_precision(precision, self._device)
        visual: Any = model.visual
        from open_clip.transform import PreprocessCfg

        defaults = {**asdict(PreprocessCfg()), "size": visual.image_size}
        cfg = {**defaults, **dict(getattr(visual, "preprocess_cfg", None) or {})}
        self._preprocessing = parse_preprocessing(cfg, Path(name))
        self._dim = int(config["embed_dim"])
        self._fingerprint: str | None = None
        memory_format = torch.channels_last if self._device.type != "mps" else torch.contiguous_format
        try:
            self._model: Any = model.eval().to(self._device).to(memory_format=memory_format)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(str(self._device), name) from error
        self._memory_format = memory_format
        self._image_model = ImageModel(self._model, self._precision, self._device, convert=self._device.type == "cuda")
        self._runs = Runs(self._device, self._dim, Path(name), IMAGES_PER_RUN.get(self._device.type, 32))
        self._pictures_per_call = min(self._runs.pictures, LEAST_CALL) if self.is_on_gpu else PICTURES_PER_CALL
        if self._device.type == "cpu" and self._precision == "bf16":
            set_batch_first(self._model, False)
        scale, offset = _affine(self._preprocessing)
        self._scale = torch.tensor(scale, device=self._device).view(1, 3, 1, 1)
        self._offset = torch.tensor(offset, device=self._device).view(1, 3, 1, 1)

    @property
    def name(self) -> str:
        """The model name that loads this encoder again."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    @property
    def preprocessing(self) -> Preprocessing:
        """What a picture must go through before `encode_images`."""
        return self._preprocessing

    @property
    def score_scale(self) -> float:
        """exp(logit_scale), as trained."""
        return math.exp(float(self._model.logit_scale.detach().float().reshape(-1)[0]))

    @property
    def device(self) -> str:
        """Where the towers run: "cuda:0", "mps", "cpu"."""
        return str(self._device)

    @property
    def precision(self) -> str:
        """Of the arithmetic: "fp32", "bf16" or "fp16"."""
        return self._precision

    @property
    def is_on_gpu(self) -> bool:
        """Whether pictures are encoded on a GPU."""
        return self._device.type != "cpu"

    @property
    def pictures_per_call(self) -> int:
        """How many pictures `encode_images` should be given at once: learnt from calls before."""
        return self._pictures_per_call

    @property
    def model(self) -> Any:
        """The open_clip model itself (a torch.nn.Module), on `device`, for training and export."""
        return self._model

    @property
    def config(self) -> dict[str, Any]:
        """The open_clip model configuration (a copy)."""
        return deepcopy(self._config)

    @property
    def fingerprint(self) -> str:
        """Hash of the image tower's weights and preprocessing; the same on every device, in every precision."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(weights_checksum(self._model.visual), self._preprocessing)
        return self._fingerprint

    @property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer of this model: texts to (B, L) int64 ids. Raises: ModelNotFound."""
        if self._tokenizer is None:
            self._tokenizer = _make_tokenizer(self._name, self._architecture, self._config)
        return self._tokenizer

    def text_lengths(self, texts: Sequence[str]) -> tuple[list[int], int]:
        """Return each text's number of tokens, uncut, and how many the text tower takes. Raises: ModelNotFound."""
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "encode"):  # open_clip's own: without the marks of start and end
            counts = [len(tokenizer.encode(text)) + 2 for text in texts]
        else:
            clean = getattr(tokenizer, "clean_fn", str)
            counts = [len(tokenizer.tokenizer(clean(text))["input_ids"]) for text in texts]
        return counts, int(tokenizer.context_length)

    def parts_read(self, texts: Sequence[str]) -> list[str | None]:
        """Of each text that is too long the part that is read, to the word, else None. Raises: ModelNotFound."""
        counts, most = self.text_lengths(texts)
        return [
            self._part_read(text, most) if count > most else None for text, count in zip(texts, counts, strict=True)
        ]

    def _part_read(self, text: str, most: int) -> str:
        words = text.split()
        low, high = 0, len(words)  # so many are read, so many are not
        while high - low > 1:
            middle = (low + high) // 2
            (count,), _ = self.text_lengths([" ".join(words[:middle])])
            low, high = (middle, high) if count <= most else (low, middle)
        return " ".join(words[:low])

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Return one vector per picture.

        Shapes: pixels (B, H, W, 3) uint8 RGB; result (B, D) float32, unit L2.
        Raises: ValueError for pixels of another kind; InvalidModel for numbers that are no vector.
        """
        check_pixels(pixels, self._preprocessing)
        if len(pixels) == 0:
            return np.empty((0, self._dim), dtype=np.float32)
        began = time.perf_counter()
        vectors = self._runs.encode(self.image_tower(pixels), pixels)
        self._learn(len(pixels), time.perf_counter() - began)
        return vectors

    def image_tower(self, pixels: PixelArray) -> Tower:
        """The image tower as `encode_images` runs it; some of `pixels` are tried if that was not done yet.

        It takes pixels (B, H, W, 3) uint8 on the device to vectors (B, D) there, not normalised.
        """
        tower = self._image_model.choose(self._normalised, pixels)
        return lambda given: tower(self._normalised(given))

    def _learn(self, pictures: int, seconds: float) -> None:
        """How many pictures a call should have, from one of them."""
        least = min(self._runs.pictures, LEAST_CALL)
        if self.is_on_gpu and pictures >= least:
            height, width = self._preprocessing.height, self._preprocessing.width
            most = min(LONGEST_CALL_S * pictures / seconds, LARGEST_CALL_BYTES / (height * width * 3))
            self._pictures_per_call = least * max(1, int(most / least))

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text. Shape: (B, D) float32, unit L2. Texts too long are truncated."""
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, not one string")
        parts = [np.empty((0, self._dim), dtype=np.float32)]
        step = TEXTS_PER_RUN.get(self._device.type, 64)
        for start in range(0, len(texts), step):
            part = list(texts[start : start + step])
            raw = self._run_texts(self.tokenizer(part).to(self._device))
            parts.append(unit_rows(raw, len(part), self._dim, Path(self._name), "text"))
        return np.concatenate(parts)

    def _run_texts(self, ids: torch.Tensor) -> FloatArray:
        import torch

        self._model.eval()  # whoever trains it may have left it in the other mode
        with torch.inference_mode(), autocast(self._device, reduced_dtype(self._precision)):
            array: FloatArray = self._model.encode_text(ids).float().cpu().numpy()
        return array

    def captioner(self) -> Captioner | None:
        """What writes captions with this model; None for all but CoCa, whose tokens open_clip itself can read."""
        from open_clip.coca_model import CoCa

        if not isinstance(self._model, CoCa) or not hasattr(self.tokenizer, "eot_token_id"):
            return None
        from clipsearch.encoder.captions import Captioner

        arithmetic = partial(autocast, self._device, reduced_dtype(self._precision))
        return Captioner(self._model, self.tokenizer, self._preprocessing, self._device, self._normalised, arithmetic)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Shapes: pixels (B, H, W, 3) uint8 on the device; result (B, 3, H, W) float32."""
        import torch

        # The permuted view already is channels_last: no copy is made for that layout.
        floats = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return torch.addcmul(self._offset, floats, self._scale).contiguous(memory_format=self._memory_format)


class ImageModel:
    """The image tower of a model, which somebody may be training: with weights in the precision of the arithmetic
    where that is as good, else with weights that are converted for each run."""

    def __init__(self, model: Any, precision: str, device: torch.device, *, convert: bool) -> None:
        self._model = model
        self._may_convert = convert
        self._device = device
        self._dtype = reduced_dtype(precision)
        self._converted: Any = None
        self._made_from: int | None = None

    def choose(
        self, normalised: Callable[[torch.Tensor], torch.Tensor], pixels: PixelArray
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """What takes normalised pictures (B, 3, H, W) to vectors (B, D).

        Shape: pixels (B, H, W, 3) uint8, some of which are tried if that was not done yet.
        """
        if self._model.training:  # as whoever trains it may have left it
            self._model.eval()
        if not self._may_convert or self._dtype is None:
            return self._exact_weights
        version = _version_of(self._model.visual)
        if version is None:
            return self._exact_weights
        if version != self._made_from:
            self._converted = self._try(normalised, pixels)
            self._made_from = version
        return self._exact_weights if self._converted is None else self._converted_weights

    def _exact_weights(self, inputs: torch.Tensor) -> torch.Tensor:
        with autocast(self._device, self._dtype):
            return cast("torch.Tensor", self._model.encode_image(inputs))

    def _converted_weights(self, inputs: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self._converted.encode_image(inputs.to(self._dtype)))

    def _try(self, normalised: Callable[[torch.Tensor], torch.Tensor], pixels: PixelArray) -> Any:
        """The converted model, if its vectors agree; None if not, or if there is no memory for it."""
        import torch

        sample = torch.from_numpy(np.ascontiguousarray(trial_pictures(pixels, TRIAL_PICTURES)))
        try:
            with torch.inference_mode():
                inputs = normalised(sample.to(self._device))
                exact = self._model.encode_image(inputs).float()
                converted = with_visual(self._model, deepcopy(self._model.visual).to(self._dtype))
                agreed = torch.cosine_similarity(converted.encode_image(inputs.to(self._dtype)).float(), exact)
        except (torch.OutOfMemoryError, RuntimeError, TypeError):  # a tower that insists on its own precision
            return None
        return converted if bool((agreed >= LEAST_TRIAL_COSINE).all()) else None


def with_visual(model: Any, visual: Any) -> Any:
    """A model that shares all but its image tower with `model`."""
    other = copy(model)
    other._modules = {**model._modules, "visual": visual}
    return other


def _version_of(module: Any) -> int | None:
    """A number that changes whenever somebody writes to the weights; None where that cannot be told."""
    try:
        return int(sum(tensor._version for tensor in (*module.parameters(), *module.buffers())))
    except RuntimeError:  # made in inference mode
        return None


def reduced_dtype(precision: str) -> torch.dtype | None:
    """PyTorch's name of a precision, None for fp32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """PyTorch's automatic precision for the arithmetic; None: as the weights are."""
    import torch

    return torch.autocast(device.type, dtype=dtype) if dtype is not None else contextlib.nullcontext()


def weights_checksum(module: torch.nn.Module) -> str:
    """xxh3-128 over names, shapes and float32 bytes of a module's state, in the order of the names.

    Integers (BatchNorm's step counters) take no part in inference and none in this.
    """
    import torch

    hasher = xxhash.xxh3_128()
    for key, tensor in sorted(module.state_dict().items()):
        if tensor.is_floating_point():
            hasher.update(f"{key} {list(tensor.shape)}\n".encode())
            flat = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1)
            hasher.update(flat.numpy().astype("<f4", copy=False).tobytes())
    return hasher.hexdigest()


def load(model: ResolvedModel, options: LoadOptions) -> OpenClipEncoder:
    """See `kinds.EncoderModule`."""
    architecture, tag, inline = _parts(model.name)
    if not architecture:
        problem = "it names no model; write open_clip models as open_clip:ViT-B-32/laion2b_s34b_b79k"
        raise ModelNotFound(model.name, problem)
    if options.checkpoint is not None and (tag or inline):
        raise ModelNotFound(model.name, "it already names its weights: leave out --checkpoint")
    weights = options.checkpoint if options.checkpoint is not None else inline
    precision = cast(Precision, options.precision)
    return OpenClipEncoder(architecture, tag, weights, options.device, precision, allow_pickle=options.allow_pickle)


def describe(model: ResolvedModel, *, hashed: bool) -> ModelInfo:
    """See `kinds.EncoderModule`. The fingerprint is not known before the weights are loaded."""
    architecture, tag, _ = _parts(model.name)
    open_clip = _import_open_clip(f"the model open_clip:{architecture}")
    config = _model_config(open_clip, architecture)
    side = config.get("vision_cfg", {}).get("image_size")
    return ModelInfo(
        model.name,
        model.kind,
        available=False,
        dim=config.get("embed_dim"),
        picture_side=side if isinstance(side, int) else None,
        context_length=config.get("text_cfg", {}).get("context_length", DEFAULT_CONTEXT_LENGTH),
        tags=(tag,) if tag else tuple(open_clip.list_pretrained_tags_by_model(architecture)),
        extra=EXTRA,
    )


def list_models() -> list[ModelInfo]:
    """See `kinds.EncoderModule`: every model that open_clip knows, and the tags of its published weights."""
    open_clip = _import_open_clip("listing open_clip models")
    return [
        ModelInfo(
            f"{OPEN_CLIP}{name}",
            "open_clip",
            available=False,
            tags=tuple(open_clip.list_pretrained_tags_by_model(name)),
            extra=EXTRA,
        )
        for name in open_clip.list_models()
    ]


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """open_clip:MODEL/TAG or open_clip:MODEL@CHECKPOINT to model, tag, checkpoint."""
    rest = name.removeprefix(OPEN_CLIP)
    architecture, at, checkpoint = rest.partition("@")
    if at:
        return architecture, None, checkpoint
    architecture, _, tag = rest.partition("/")
    return architecture, tag or None, None


def _import_open_clip(purpose: str) -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtra(EXTRA, purpose) from error
    return open_clip


def _model_config(open_clip: Any, name: str) -> dict[str, Any]:
    if ":" in name:
        raise ModelNotFound(f"open_clip:{name}", "only open_clip model names are accepted, with a tag or --checkpoint")
    config = open_clip.get_model_config(name)
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see: clipsearch models list --all"
        raise ModelNotFound(f"open_clip:{name}", f"open_clip has no such model; {hint}")
    return dict(config)


def _check_checkpoint(checkpoint: Path, allow_pickle: bool) -> None:
    if not checkpoint.is_file():
        raise ModelNotFound(str(checkpoint), "the checkpoint file does not exist")
    if checkpoint.suffix.lower() != ".safetensors" and not allow_pickle:
        raise InvalidCheckpoint(
            checkpoint,
            "it is not a .safetensors file; other checkpoints are pickles, which can run code when they are loaded",
            "If you trust its source, add --allow-pickle",
        )


def _preprocessing_of(checkpoint: Path, architecture: str, open_clip: Any, visual: Any) -> dict[str, Any]:
    """open_clip's preprocess_cfg for a checkpoint, which is not told by its weights. Raises: InvalidModel.

    What the file says in its own metadata (as training writes it), or open_clip_config.json beside it (as published
    models have it), or the model directory of its training run; else what all published weights of the architecture
    agree on; else open_clip's own.
    """
    current = dict(getattr(visual, "preprocess_cfg", None) or {})
    stored = _cfg_in_metadata(checkpoint) or _cfg_beside(checkpoint) or _published_cfg(architecture, open_clip) or {}
    parse_preprocessing({"size": visual.image_size, **current, **stored}, checkpoint)  # raises if it is wrong
    return {**current, **stored}


def _cfg_in_metadata(checkpoint: Path) -> dict[str, Any] | None:
    from safetensors import safe_open

    if checkpoint.suffix.lower() != ".safetensors":
        return None
    with safe_open(str(checkpoint), framework="pt") as file:
        text = (file.metadata() or {}).get(PREPROCESS_KEY)
    return None if text is None else _cfg_in_json(checkpoint, text)


def _cfg_beside(checkpoint: Path) -> dict[str, Any] | None:
    for name, key in ((OPEN_CLIP_CONFIG, "preprocess_cfg"), (f"model/{PREPROCESS_CFG}", None)):
        file = checkpoint.parent / name
        if file.is_file() and (key is not None or (checkpoint.parent / "run.json").is_file()):
            return _cfg_in_json(file, file.read_text(encoding="utf-8"), key)
    return None


def _cfg_in_json(file: Path, text: str, key: str | None = None) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
        found = value if key is None else value.get(key)
        return None if found is None else dict(found)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidModel(file, f"its preprocessing configuration is damaged ({first_line(error)})") from error


def _published_cfg(architecture: str, open_clip: Any) -> dict[str, Any] | None:
    """The preprocessing that all published weights of an architecture have in common, if they have one."""
    keys = ("mean", "std", "interpolation", "resize_mode")
    found = [
        {key: cfg[key] for key in keys if cfg.get(key) is not None}
        for tag in open_clip.list_pretrained_tags_by_model(architecture)
        for cfg in [open_clip.get_pretrained_cfg(architecture, tag) or {}]
    ]
    return found[0] if found and all(cfg == found[0] for cfg in found) else None


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _resolve_precision(asked: Precision, device: torch.device) -> str:
    import torch

    if asked not in ("auto", "fp32", "bf16", "fp16"):
        raise UnsupportedPrecision("an open_clip model", asked, ("auto", "fp32", "bf16", "fp16"))
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and has_amx() else "fp32"


def set_batch_first(model: torch.nn.Module, batch_first: bool) -> None:
    """Let open_clip's own transformers work on (B, L, D) or on (L, B, D), which gives the same vectors.

    With the batch first, PyTorch's attention hands a transposed view to its input projection, which in bf16 on a
    CPU makes a copy of the weights for each picture: 291 ms a picture for ViT-B-32 instead of 20 (torch 2.14).
    """
    import torch
    from open_clip.transformer import Transformer

    modules: list[Any] = list(model.modules())
    for module in modules:
        if type(module) is Transformer:
            blocks = list(module.resblocks)
            if all(isinstance(block.attn, torch.nn.MultiheadAttention) for block in blocks):
                module.batch_first = batch_first
                for block in blocks:
                    block.attn.batch_first = batch_first


def _affine(preprocessing: Preprocessing) -> tuple[list[float], list[float]]:
    """(x / 255 - mean) / std = x * scale + offset, for each channel."""
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return [1 / (255 * std) for _, std in pairs], [-mean / std for mean, std in pairs]


def _make_tokenizer(name: str, architecture: str, config: dict[str, Any]) -> Any:
    open_clip = _import_open_clip(f"the model {name}")
    text_cfg = config.get("text_cfg", {})
    hf_name = text_cfg.get("hf_tokenizer_name")
    if not hf_name:
        options = dict(text_cfg.get("tokenizer_kwargs") or {})
        return open_clip.SimpleTokenizer(context_length=text_cfg.get("context_length", 77), **options)
    try:
        with quiet_logging():
            return open_clip.get_tokenizer(architecture)
    except ImportError as error:
        problem = f"its tokenizer ({hf_name}) needs another package: pip install transformers"
        raise ModelNotFound(name, problem) from error
    except Exception as error:
        raise ModelNotFound(name, f"its tokenizer ({hf_name}) could not be downloaded ({first_line(error)})") from error
