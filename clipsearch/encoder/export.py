"""Write an open_clip model as a model directory (see `layout`), and prove that it gives the same vectors.

Knows nothing of pictures on disk: the ones to check with come in as pixels.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.encoder import layout
from clipsearch.encoder.fingerprints import visual_checksum
from clipsearch.encoder.layout import preprocess_cfg, read_model_directory
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.encoder.openclip import OpenClipEncoder, set_batch_first
from clipsearch.encoder.origins import forget_origins_of
from clipsearch.errors import ExportFailed, MissingExtra, OutOfSpace, StorageError, first_line
from clipsearch.places import expanded
from clipsearch.records import FloatArray, PixelArray
from clipsearch.removing import remove_made, replace_tree

if TYPE_CHECKING:
    import torch

DEFAULT_OPSET = 18
LEAST_COSINE = 0.999
LEAST_COSINE_UNPADDED = 0.999_999
EXTERNAL_FROM_BYTES = 1_500_000_000  # one protobuf message ends at 2 GB
CHECK_TEXTS = (
    "a dog on a beach",
    "two people riding bicycles through a city at night",
    "a red car",
    "handwritten notes on a whiteboard, with a diagram",
    "Sunset over the mountains",
    "un gato negro durmiendo en un sofá",
    "",
    "a very long description " * 40,
)


@dataclass(frozen=True, slots=True)
class Parity:
    """Cosines between the vectors of PyTorch and of the export, one for each input."""

    cosines: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.cosines)

    @property
    def mean(self) -> float:
        return sum(self.cosines) / len(self.cosines)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written and how well it agrees. `pictures.images` is None where no pictures were given to check with."""

    directory: Path
    fingerprint: str
    size_bytes: int
    images: Parity | None
    texts: Parity

    def __str__(self) -> str:
        lines = [f"wrote {self.directory} ({self.size_bytes / 1e6:.0f} MB, fingerprint {self.fingerprint})"]
        for kind, parity in (("pictures", self.images), ("texts", self.texts)):
            if parity is not None:
                least, mean = f"{parity.least:.6f}", f"{parity.mean:.6f}"
                lines.append(f"{len(parity.cosines)} {kind}: cosine to PyTorch at least {least}, mean {mean}")
        return "\n".join(lines)


def export(
    encoder: OpenClipEncoder,
    directory: Path | str,
    *,
    opset: int = DEFAULT_OPSET,
    check_pictures: PixelArray | None = None,
    check_texts: Sequence[str] = CHECK_TEXTS,
    overwrite: bool = False,
    licence: str | None = None,
) -> ExportReport:
    """Write `encoder` to `directory` and compare the vectors of both, PyTorch's in fp32 on the CPU.

    `check_pictures`: (B, H, W, 3) uint8, prepared by the encoder's preprocessing; real ones, as noise hides
    what goes wrong. The directory appears in one step, once every cosine is at least 0.999.
    Raises: ExportFailed, MissingExtra, ModelNotFound (a tokenizer that cannot be had), StorageError, OutOfSpace.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("torch", "exporting to ONNX") from error
    target = expanded(directory)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())) and not overwrite:
        raise StorageError(target, "it already exists", "Replace it with --overwrite")
    if overwrite and target.exists() and any(target.iterdir()) and not (target / layout.CONFIG).is_file():
        raise StorageError(target, "it is not a model directory", "It was not overwritten. Name another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise StorageError(target.parent, error.strerror or str(error), "Name another folder") from error
    try:
        model = _fp32_copy(encoder)
        _write(encoder, model, work, opset, licence)
        exact = OpenClipEncoder.from_model(
            model, encoder.config, name=encoder.name, tokenizer=encoder.tokenizer, device="cpu", precision="fp32"
        )
        report = _compare(exact, work, check_pictures, check_texts)
        work.chmod(0o755)
        replace_tree(work, target)
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(target) from error
        raise StorageError(target, error.strerror or str(error), "Nothing was written") from error
    finally:
        remove_made(work)
    return replace(report, directory=target)


def _write(encoder: OpenClipEncoder, model: Any, work: Path, opset: int, licence: str | None) -> None:
    (work / "visual").mkdir()
    (work / "textual").mkdir()
    config = encoder.config
    text_cfg = config.setdefault("text_cfg", {})
    _write_tokenizer(encoder, work / "textual", text_cfg)
    side = encoder.preprocessing
    import torch

    image = torch.zeros(2, 3, side.height, side.width)
    text = encoder.tokenizer(list(CHECK_TEXTS[:2])).to("cpu", torch.int32)
    lengths = _text_lengths(_tower(model, "encode_text"), text)
    for tower, given, example, sizes, relative in (
        (_tower(model, "encode_image"), "image", image, {}, layout.VISUAL_MODEL),
        (_tower(model, "encode_text"), "text", text, lengths, layout.TEXTUAL_MODEL),
    ):
        try:
            _write_tower(tower, example, sizes, work / relative, given=given, opset=opset)
        except OSError:
            raise
        except Exception as error:  # the exporter raises whatever its passes raise
            problem = f"its {given} tower is not exportable ({_summary(error)})"
            raise ExportFailed(encoder.name, problem) from error
    _write_json(work / layout.PREPROCESS_CFG, preprocess_cfg(encoder.preprocessing))
    # The exporter is deterministic in what it computes, not in its bytes: the weights' own identity is kept.
    own = {"image_fingerprint": encoder.fingerprint, "score_scale": encoder.score_scale, "source": encoder.name}
    if lengths:
        own["dynamic_context"] = True
    if licence:
        own["licence"] = licence
    config["clipsearch"] = own
    _write_json(work / layout.CONFIG, config)
    own["visual_checksum"] = visual_checksum(read_model_directory(work))
    _write_json(work / layout.CONFIG, config)


def _compare(encoder: OpenClipEncoder, work: Path, pictures: PixelArray | None, texts: Sequence[str]) -> ExportReport:
    exported = OnnxEncoder(work, precision="fp32")
    images = None
    if pictures is not None and len(pictures):
        images = _parity(encoder.name, "picture", encoder.encode_images(pictures), exported.encode_images(pictures))
    parity = _parity(encoder.name, "text", encoder.encode_texts(texts), exported.encode_texts(texts))
    if exported.fingerprint != encoder.fingerprint:
        raise ExportFailed(encoder.name, "the export does not contain its fingerprint")
    size_bytes = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    return ExportReport(work, exported.fingerprint, size_bytes, images, parity)


def _parity(name: str, kind: str, expected: FloatArray, found: FloatArray) -> Parity:
    cosines = np.einsum("ij,ij->i", expected.astype(np.float64), found.astype(np.float64))
    if cosines.min() < LEAST_COSINE:
        worst = int(cosines.argmin())
        raise ExportFailed(
            name, f"{kind} {worst + 1} of {len(cosines)} has a cosine of {cosines[worst]:.6f} to PyTorch's vector"
        )
    return Parity(tuple(float(cosine) for cosine in cosines))


def _fp32_copy(encoder: OpenClipEncoder) -> Any:
    """The model on the CPU in fp32 with plain memory layout, leaving the encoder's own as it is."""
    import torch

    model = copy.deepcopy(encoder.model).to(device="cpu", dtype=torch.float32, memory_format=torch.contiguous_format)
    set_batch_first(model, True)  # one graph, whatever the encoder runs on
    return model.eval().requires_grad_(False)


def _tower(model: Any, method: str) -> torch.nn.Module:
    """One tower as a module of its own; token ids come as int32, as immich's server sends them."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = getattr(self.model, method)(inputs.long() if method == "encode_text" else inputs)
            return features

    class ShortTexts(torch.nn.Module):
        """open_clip's CLIP insists on texts as long as its context; its other classes cut these two themselves."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = Tower()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            length = inputs.shape[1]
            cut = {"model.positional_embedding": self.tower.model.positional_embedding[:length]}
            if self.tower.model.attn_mask is not None:
                cut["model.attn_mask"] = self.tower.model.attn_mask[:length, :length]
            features: torch.Tensor = torch.func.functional_call(self.tower, cut, (inputs,))
            return features

    if method == "encode_text" and hasattr(model, "positional_embedding") and hasattr(model, "attn_mask"):
        return ShortTexts()
    return Tower()


def _text_lengths(tower: torch.nn.Module, tokens: torch.Tensor) -> dict[int, Any]:
    """The dimension of token ids that may be shorter than the context; none where padding changes the vector.

    A text of ten tokens in a context of 77 costs a causal tower (CLIP) eight times what its tokens do. Towers that
    look at the padding (SigLIP) give another vector without it; which kind this is, is tried rather than known.
    """
    import torch

    length = _unpadded(tokens)
    if length >= tokens.shape[1]:
        return {}
    with torch.no_grad():
        padded = tower(tokens)
        try:
            short = tower(tokens[:, :length])
        except Exception:  # whatever a tower of fixed length stumbles over
            return {}
    if torch.nn.functional.cosine_similarity(padded, short).min() < LEAST_COSINE_UNPADDED:
        return {}
    return {1: torch.export.Dim("length", min=2, max=tokens.shape[1])}


def _unpadded(tokens: torch.Tensor) -> int:
    """Up to which token the longest text goes: the columns behind it all hold one value."""
    padding = tokens[0, -1]
    used = (tokens != padding).any(dim=0).nonzero()
    return int(used.max()) + 1 if len(used) else 1


def _write_tower(
    tower: torch.nn.Module, example: torch.Tensor, sizes: dict[int, Any], file: Path, *, given: str, opset: int
) -> None:
    """Export it; the batch and the dimensions `sizes` stay open."""
    import torch

    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())
    with _quiet(), torch.no_grad():
        # The older, tracing exporter gave wrong vectors for the attention pool of ResNets and could not
        # export the fused attention of ViTs (torch 2.14).
        torch.onnx.export(
            tower,
            (example,),
            str(file),
            input_names=[given],
            output_names=["vector"],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch"), **sizes},),
            external_data=weights_bytes >= EXTERNAL_FROM_BYTES,
            verbose=False,
        )
    forget_origins_of(file)


def _write_tokenizer(encoder: OpenClipEncoder, folder: Path, text_cfg: dict[str, Any]) -> None:
    tokenizer = encoder.tokenizer
    context_length = int(getattr(tokenizer, "context_length", None) or layout.DEFAULT_CONTEXT_LENGTH)
    text_cfg["context_length"] = context_length
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and hasattr(inner, "save_pretrained"):
        inner.save_pretrained(str(folder))
        if not (folder / "tokenizer.json").is_file():
            raise ExportFailed(encoder.name, "its tokenizer has no fast form (tokenizer.json)")
        return
    import open_clip.tokenizer

    if not isinstance(tokenizer, open_clip.tokenizer.SimpleTokenizer):
        raise ExportFailed(encoder.name, f"its tokenizer has an unknown type ({type(tokenizer).__name__})")
    if tokenizer.reduction_fn is not None:
        raise ExportFailed(encoder.name, "its tokenizer drops tokens by a rule that tokenizer.json cannot express")
    from clipsearch.encoder.bpe import write_clip_tokenizer

    write_clip_tokenizer(Path(open_clip.tokenizer.default_bpe()), folder, context_length)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _summary(error: Exception) -> str:
    """The exporter wraps a one-line cause into a page of advice."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return first_line(cause)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates its passes in warnings, logs and on stdout."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
