"""The table of encoders: which module makes the encoder that a name or a model directory means.

A kind is a module with the functions of `EncoderModule`. It is imported when one of its models is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

from clipsearch.encoder import Encoder
from clipsearch.records import Preprocessing

Notice = Callable[[str], None]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What a model name means here. `directory` is None where the name is all; `notice` is a line for the user."""

    name: str
    kind: str  # "builtin", "directory", "run", "export", or the name of a kind
    directory: Path | None
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of `clipsearch models list`; `info` fills in all of it. None: not known without loading it."""

    name: str
    kind: str
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
    tags: tuple[str, ...] = ()  # of published weights
    extra: str | None = None  # the extra that it needs beside the core


class LoadOptions(NamedTuple):
    """How a model is to be loaded. What a kind has no use for, it passes over."""

    checkpoint: Path | str | None = None
    device: str | None = None
    precision: Precision = "auto"
    threads: int | None = None
    allow_pickle: bool = False


class EncoderModule(Protocol):
    """What a module that makes encoders offers."""

    def load(self, model: ResolvedModel, options: LoadOptions) -> Encoder:
        """Make the encoder, fetching what it needs. Raises: ModelNotFound, InvalidModel, MissingExtra, OutOfSpace."""
        ...

    def describe(self, model: ResolvedModel, *, hashed: bool) -> ModelInfo:
        """What is known of a model, with its fingerprint if `hashed`. Fetches nothing. Raises as `load`."""
        ...

    def list_models(self) -> list[ModelInfo]:
        """The models that have names of their own. Raises: MissingExtra."""
        ...


class EncoderKind(NamedTuple):
    """A kind of encoder: of the models whose names begin with `prefix`, or whose directories hold a file `marker`."""

    name: str
    module: str
    prefix: str | None
    marker: str | None
    precisions: tuple[Precision, ...]

    def load_module(self) -> EncoderModule:
        """Import what makes encoders of this kind."""
        return cast(EncoderModule, import_module(self.module))


OPEN_CLIP = "open_clip:"
KINDS = (
    EncoderKind("open_clip", "clipsearch.encoder.openclip", OPEN_CLIP, None, ("auto", "fp32", "bf16", "fp16")),
    EncoderKind("onnx", "clipsearch.encoder.onnx", None, "config.json", ("auto", "fp32", "bf16", "int8")),
)


def kind_of_name(name: str) -> EncoderKind | None:
    """The kind whose prefix a model name has; None for the name of a model that lies in a directory."""
    return next((kind for kind in KINDS if kind.prefix is not None and name.startswith(kind.prefix)), None)


def kind_of_directory(directory: Path) -> EncoderKind:
    """The kind of the model in a directory: the last of the table, which says what is missing, where none fits."""
    kinds = [kind for kind in KINDS if kind.marker is not None]
    return next((kind for kind in kinds if (directory / str(kind.marker)).is_file()), kinds[-1])
