"""The towers of a model directory, run as they are: pooled features beside the vectors. onnxruntime, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.cores import available_cores
from clipsearch.encoder.arrays import check_pixels, scale_pixels, unit_rows
from clipsearch.encoder.fingerprints import tower_checksums
from clipsearch.encoder.layout import CONFIG, TEXTUAL_MODEL, VISUAL_MODEL, read_json, read_model_directory
from clipsearch.encoder.texts import TextTokenizer
from clipsearch.errors import InvalidModel, first_line
from clipsearch.records import FloatArray, PixelArray, Preprocessing
from clipsearch.temporary import temporary_folder
from clipsearch.training.graph_cut import load_graph, main_output, pooled_features

PICTURES_PER_RUN = 8
TEXTS_PER_RUN = 32
PROBE_TEXTS = ("a dog on a beach", "two people riding bicycles through a city at night")
IN_MEMORY_BYTES = 1_500_000_000  # one protobuf message ends at 2 GB


class FrozenTower:
    """One tower, with its pooled features as a second output (see `graph_cut`)."""

    def __init__(self, directory: Path, relative: str, probe: npt.NDArray[Any], threads: int) -> None:
        """Find the features by running on `probe`, two inputs. Raises: InvalidModel, MissingExtra."""
        import onnx
        import onnxruntime

        graph = load_graph(directory / relative)
        self.vectors = main_output(graph)
        weights = {tensor.name for tensor in graph.graph.initializer}
        inputs = [value for value in graph.graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise InvalidModel(directory, f"{relative} takes {len(inputs)} inputs; training needs a tower with one")
        self._input = str(inputs[0].name)
        self._dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)
        self.features = pooled_features(graph, {self._input: probe.astype(self._dtype)}, self.vectors)
        if self.features != self.vectors:
            graph.graph.output.append(onnx.ValueInfoProto(name=self.features))
        self._directory, self._relative = directory, relative
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with temporary_folder() as folder:
            source: str | bytes
            if graph.ByteSize() > IN_MEMORY_BYTES:
                source = str(Path(folder) / "tower.onnx")
                onnx.save(graph, source, save_as_external_data=True, location="weights.bin")
            else:
                source = graph.SerializeToString()
            try:
                self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise InvalidModel(directory, f"{relative} cannot be loaded ({first_line(error)})") from error
        self.width = self.run(probe)[0].shape[1]

    def run(self, inputs: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Features (B, F) and raw vectors (B, D)."""
        names = [self.features, self.vectors]
        try:
            features, vectors = self._session.run(names, {self._input: inputs.astype(self._dtype, copy=False)})
        except Exception as error:
            raise InvalidModel(self._directory, f"{self._relative} cannot be run ({first_line(error)})") from error
        return features.astype(np.float32, copy=False), vectors


class FrozenModel:
    """Both towers of a model directory."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        """Load both. Raises: InvalidModel, MissingExtra."""
        self.directory = directory
        self._model = read_model_directory(directory)
        if not self._model.has_visual or not self._model.has_textual:
            raise InvalidModel(directory, "training needs a model with both towers")
        self._threads = threads or available_cores()
        self._tokenizer = TextTokenizer(self._model)
        side = self.preprocessing
        picture = np.random.default_rng(0).normal(size=(2, 3, side.height, side.width)).astype(np.float32)
        self.image = FrozenTower(directory, VISUAL_MODEL, picture, self._threads)
        self.text = FrozenTower(directory, TEXTUAL_MODEL, self._token_ids(PROBE_TEXTS), self._threads)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="frozen")

    @property
    def preprocessing(self) -> Preprocessing:
        """What a picture must go through before `encode_images`."""
        if self._model.preprocessing is None:
            raise InvalidModel(self.directory, "it has no image tower")
        return self._model.preprocessing

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._model.dim

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax."""
        return self._model.score_scale

    @property
    def score_bias(self) -> float | None:
        """The bias of a model that was trained with SigLIP's objective, None for any other."""
        config = read_json(self.directory, CONFIG)
        own = config.get("clipsearch") or {}
        found = own.get("score_bias", config.get("init_logit_bias"))
        return float(found) if isinstance(found, int | float) else None

    @property
    def identity(self) -> str:
        """What features depend on: the bytes of both towers and where they are cut."""
        files = [tower_checksums(self.directory, relative) for relative in (VISUAL_MODEL, TEXTUAL_MODEL)]
        return " ".join([*files[0], *files[1], self.image.features, self.text.features, str(self._model.preprocessing)])

    def encode_images(self, pixels: PixelArray) -> tuple[FloatArray, FloatArray]:
        """Shapes: pixels (B, H, W, 3) uint8; features (B, F), vectors (B, D) unit L2."""
        check_pixels(pixels, self.preprocessing)
        parts = [pixels[start : start + PICTURES_PER_RUN] for start in range(0, len(pixels), PICTURES_PER_RUN)]
        done = list(self._pool.map(lambda part: self.image.run(scale_pixels(part, self.preprocessing)), parts))
        return self._joined(done, len(pixels), self.image.width, "image")

    def encode_texts(self, texts: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Shapes: features (B, F), vectors (B, D) unit L2. Texts too long are truncated."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        groups = [order[start : start + TEXTS_PER_RUN] for start in range(0, len(order), TEXTS_PER_RUN)]
        work = [self._token_ids([texts[index] for index in group]) for group in groups]
        features, vectors = self._joined(list(self._pool.map(self.text.run, work)), len(texts), self.text.width, "text")
        back = np.empty(len(texts), dtype=np.int64)
        back[order] = np.arange(len(texts))
        return features[back], vectors[back]

    def readings(self, texts: Sequence[str]) -> list[bytes]:
        """What the text tower reads of each text: after cleaning, tokenising and truncation."""
        tokens = self._tokenizer.encode(texts, self._model.text.context_length)
        return [row.tobytes() for row in tokens.ids.astype(np.int32)]

    def _joined(
        self, parts: Sequence[tuple[FloatArray, FloatArray]], count: int, width: int, tower: str
    ) -> tuple[FloatArray, FloatArray]:
        if not parts:
            return np.empty((0, width), np.float32), np.empty((0, self.dim), np.float32)
        features = np.concatenate([part[0] for part in parts])
        raw = np.concatenate([part[1] for part in parts])
        return features, unit_rows(raw, count, self.dim, self.directory, tower)

    def _token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        length = None if self._model.text.dynamic_context else self._model.text.context_length
        return self._tokenizer.encode(texts, length).ids
