"""`OnnxEncoder`: a model directory (see `layout`) run by onnxruntime. Never imports torch.

Each tower, and the tokenizer, is loaded when it is first used: a text query never reads the image tower.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder.arrays import check_pixels, scale_pixels, unit_rows
from clipsearch.encoder.fingerprints import image_fingerprint, tower_files
from clipsearch.encoder.layout import TEXTUAL_MODEL, VISUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.encoder.prepared import prepare_text_tower, prepared_text_tower
from clipsearch.encoder.texts import TextTokenizer, Tokens
from clipsearch.errors import InvalidModel
from clipsearch.records import FloatArray, PixelArray, Preprocessing

# More pictures at once fall out of the processor's caches: the built-in tower took 13.8 ms of CPU a picture with
# 4 or 8 at once and 19.6 with 32; ViT-B-32 76 with 4, 70 with 8 and 69 with 32 (two cores, AMX).
IMAGES_PER_RUN = 8
TEXTS_PER_RUN = 32
MOST_TEXT_THREADS = 4  # one short text does not fill more
HASTY_RUNS = 2  # after so many, a text tower that was loaded in haste is loaded thoroughly

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxEncoder:
    """Encoder for a model directory.

    `threads` is the number of CPU threads a tower may use (None: what onnxruntime finds); `name` is what
    `--model` takes to load it again (default: the directory).
    """

    def __init__(self, directory: Path | str, *, threads: int | None = None, name: str | None = None) -> None:
        """Read the small files. Raises: InvalidModel."""
        self._model: ModelDirectory = read_model_directory(Path(directory))
        self._name = name if name is not None else str(self._model.path.absolute())
        self._threads = threads
        self._lock = Lock()
        self._visual: _Tower | None = None
        self._textual: _TextTower | None = None
        self._fingerprint: str | None = None

    @property
    def name(self) -> str:
        """The model name that loads this encoder again."""
        return self._name

    @property
    def directory(self) -> Path:
        """The model directory."""
        return self._model.path

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._model.dim

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax."""
        return self._model.score_scale

    @property
    def preprocessing(self) -> Preprocessing:
        """What a picture must go through before `encode_images`. Raises: InvalidModel without an image tower."""
        if self._model.preprocessing is None:
            raise self._no_image_tower()
        return self._model.preprocessing

    @property
    def fingerprint(self) -> str:
        """Hash of the image tower's weights and preprocessing. Raises: InvalidModel."""
        if self._fingerprint is None:
            self._fingerprint = image_fingerprint(self._model)
        return self._fingerprint

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Return one vector per picture.

        Shapes: pixels (B, H, W, 3) uint8 RGB; result (B, D) float32, unit L2.
        Raises: ValueError for pixels of another kind; InvalidModel if the tower is missing, damaged, or
        returns what is no vector.
        """
        if not self._model.has_visual:
            raise self._no_image_tower()
        check_pixels(pixels, self.preprocessing)
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        tower = self._visual_tower()
        step = tower.fixed_batch or IMAGES_PER_RUN
        parts = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            raw = tower.run(_filled(scale_pixels(part, self.preprocessing), tower.fixed_batch))[: len(part)]
            parts.append(unit_rows(raw, len(part), self.dim, self._model.path, "image"))
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text.

        Shape: (B, D) float32, unit L2. Texts too long are truncated, keeping their closing token.
        Raises: InvalidModel if the tower or tokenizer is missing, damaged, or returns what is no vector.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, not one string")
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        tower = self._text_tower()
        # Neighbours in length share a run: with a dynamic context, short texts are not padded to long ones.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        step = tower.fixed_batch or TEXTS_PER_RUN
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            raw = tower.run_texts([texts[index] for index in chosen])
            vectors[chosen] = unit_rows(raw, len(chosen), self.dim, self._model.path, "text")
        return vectors

    def prepare_texts(self) -> None:
        """Make later processes answer their first text sooner; see `prepared.prepare_text_tower`.

        Raises: InvalidModel, StorageError, OutOfSpace.
        """
        prepare_text_tower(self._model.path)

    def _visual_tower(self) -> _Tower:
        with self._lock:
            if self._visual is None:
                self._visual = _Tower(self._model, VISUAL_MODEL, _image_threads(self._threads))
            return self._visual

    def _text_tower(self) -> _TextTower:
        with self._lock:
            if self._textual is None:
                threads = _text_threads(self._threads)
                prepared = prepared_text_tower(self._model) if self._model.has_textual else None
                if prepared is not None:
                    try:
                        self._textual = _TextTower(self._model, threads, optimised=prepared)
                    except InvalidModel:  # made by an onnxruntime that differs more than its version says
                        self._textual = None
                if self._textual is None:
                    self._textual = _TextTower(self._model, threads)
            return self._textual

    def _no_image_tower(self) -> InvalidModel:
        return InvalidModel(self._model.path, f"it has no image tower ({VISUAL_MODEL}), it can only encode texts")


class _Tower:
    """One ONNX model with one main input and one output that is used."""

    def __init__(
        self,
        model: ModelDirectory,
        relative: str,
        threads: int,
        *,
        hasty: bool = False,
        optimised: Path | None = None,
    ) -> None:
        """Load it; `hasty` when it may be run once only: see `_load`. `optimised`: a prepared tower to load instead.

        Raises: InvalidModel.
        """
        if optimised is None:
            tower_files(model.path, relative)  # says what is missing or cut short more plainly than onnxruntime
        self._path = model.path
        self._relative = relative
        self._optimised = optimised
        self._threads = threads
        self._session = session = self._load(hasty)
        self.inputs = session.get_inputs()
        outputs = session.get_outputs()
        flat = [output for output in outputs if len(output.shape) == 2] or outputs
        self._output = flat[0].name
        width = flat[0].shape[-1] if flat[0].shape else None
        if isinstance(width, int) and width != model.dim:
            raise InvalidModel(model.path, f"{relative} makes vectors of {width} numbers, config.json says {model.dim}")
        for given in self.inputs:
            if given.type not in _DTYPES:
                raise InvalidModel(model.path, f"{relative} takes an input of type {given.type}")
        batch = self.inputs[0].shape[0] if self.inputs[0].shape else None
        self.fixed_batch: int | None = batch if isinstance(batch, int) and batch > 0 else None

    def _load(self, hasty: bool) -> Any:
        """Make the session. Raises: InvalidModel.

        In haste, weights are neither rearranged for the processor nor unpacked from int8 beforehand. Measured on
        two cores, load and one text: ViT-B-32's tower (fp32, 254 MB) 360 ms instead of 522, a MiniLM of 23 MB
        (int8) 94 instead of 142; each further text takes 80 ms instead of 55, and 48 instead of 5. A prepared tower
        is mapped instead of read and needs no optimisation: 104 and 51 ms in haste, 200 and 112 thoroughly.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads that spin would take the cores from the processes that decode pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if hasty:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if self._optimised is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(
                str(self._optimised or self._path / self._relative),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConstantFolding"] if hasty and self._optimised is None else None,
            )
        except Exception as error:  # onnxruntime's errors share no base class but this
            raise InvalidModel(self._path, f"{self._relative} cannot be loaded ({_first_line(error)})") from error

    def run(self, *arrays: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run on one array for each input, in the order of the inputs."""
        feed = {
            given.name: np.ascontiguousarray(array, dtype=_DTYPES[given.type])
            for given, array in zip(self.inputs, arrays, strict=True)
        }
        try:
            result: npt.NDArray[Any] = self._session.run([self._output], feed)[0]
        except Exception as error:
            raise InvalidModel(self._path, f"{self._relative} cannot be run ({_first_line(error)})") from error
        return result


class _TextTower(_Tower):
    """The text tower and its tokenizer."""

    def __init__(self, model: ModelDirectory, threads: int, *, optimised: Path | None = None) -> None:
        super().__init__(model, TEXTUAL_MODEL, threads, hasty=True, optimised=optimised)
        self._tokenizer = TextTokenizer(model)
        self._runs = 0
        self._hasty = True
        self._reload_lock = Lock()
        self._length: int | None = None if model.text.dynamic_context else model.text.context_length
        length = self.inputs[0].shape[1] if len(self.inputs[0].shape) == 2 else None
        if isinstance(length, int) and length != model.text.context_length:
            self._length = length
            self._tokenizer.limit(length)

    def run_texts(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Shape of the result: (B, D), not normalised."""
        with self._reload_lock:
            self._runs += 1
            if self._hasty and (self._runs > HASTY_RUNS or len(texts) > 1):
                self._session = self._load(hasty=False)
                self._hasty = False
        tokens = self._tokenizer.encode(texts, self._length)
        arrays = [_filled(self._for_input(given.name, tokens), self.fixed_batch) for given in self.inputs]
        return self.run(*arrays)[: len(texts)]

    def _for_input(self, name: str, tokens: Tokens) -> npt.NDArray[Any]:
        if len(self.inputs) > 1 and "mask" in name:
            return tokens.mask
        if len(self.inputs) > 1 and "type" in name:
            return np.zeros_like(tokens.ids)
        return tokens.ids


def _filled(array: npt.NDArray[Any], fixed_batch: int | None) -> npt.NDArray[Any]:
    """Repeat the last row up to a fixed batch size."""
    missing = (fixed_batch or len(array)) - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _image_threads(asked: int | None) -> int:
    """0 leaves it to onnxruntime, which counts the machine's cores; fewer where this process may use fewer."""
    if asked is not None:
        return max(1, asked)
    allowed = _allowed_cores()
    return allowed if allowed < (os.cpu_count() or 1) else 0


def _text_threads(asked: int | None) -> int:
    return max(1, asked) if asked is not None else min(MOST_TEXT_THREADS, _allowed_cores())


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
