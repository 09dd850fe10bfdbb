"""`OpenVinoTower`: an image tower run by OpenVINO (the extra `openvino`), the only importer of openvino.

Its use is bfloat16 arithmetic, which onnxruntime lacks on x86: processors with AMX or AVX512-BF16 encode two to
four times as many pictures with it. On others with VNNI, it runs towers in int8 (see `static`) two to three times as
fast. OpenVINO's telemetry, which it loads with itself, is kept out by `privacy`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.encoder.compiled import compile_kept
from clipsearch.encoder.fingerprints import tower_files
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.sessions import check_width
from clipsearch.errors import InvalidModel, MissingExtra, first_line
from clipsearch.filenames import native_path
from clipsearch.records import FloatArray

HINTS: dict[Literal["fp32", "bf16"], str] = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoTower:
    """An image tower, compiled for as many runs at once as there are `lanes`."""

    def __init__(
        self,
        model: ModelDirectory,
        precision: Literal["fp32", "bf16"],
        lanes: int,
        threads: int,
        *,
        instead: Path | None = None,
        told: str | None = None,
    ) -> None:
        """Compile it for `threads` in all. Processors without bfloat16 use fp32. Raises: InvalidModel, MissingExtra.

        `instead`: another form of it (int8, whose layers say themselves what they compute in). `told`: what tells this
        form of this tower from all others; then what was compiled is kept for later processes (see `compiled`).
        """
        if instead is None:
            tower_files(model.path, VISUAL_MODEL)
        openvino = _import_openvino()
        core = _core(openvino)
        self._path = model.path
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # the decoding processes move, so must these threads
        }
        try:
            # Batches stay dynamic: with a fixed batch, OpenVINO 2026.4 ended the process on the built-in tower.
            with native_path(instead or model.path / VISUAL_MODEL) as file:
                if told is None:
                    compiled = core.compile_model(file, "CPU", settings)
                else:
                    version = openvino.get_version()
                    compiled = compile_kept(core, file, settings, f"{version} {HINTS[precision]} {told}")
            given = compiled.inputs[0]
            self._dtype = given.get_element_type().to_dtype()
            shapes = [output.get_partial_shape() for output in compiled.outputs]
            flat = [index for index, shape in enumerate(shapes) if len(shape) == 2] or [0]
            self._output = flat[0]
            width = shapes[self._output][-1]
            batch = given.get_partial_shape()[0]
            self._idle: SimpleQueue[Any] = SimpleQueue()
            for _ in range(lanes):
                self._idle.put(compiled.create_infer_request())
        except Exception as error:  # openvino's errors share no base class but this
            raise InvalidModel(
                model.path, f"{VISUAL_MODEL} cannot be loaded by OpenVINO ({first_line(error)})"
            ) from error
        check_width(model, VISUAL_MODEL, width.get_length() if width.is_static else None)
        self.fixed_batch: int | None = batch.get_length() if batch.is_static else None

    def run(self, scaled: FloatArray) -> npt.NDArray[Any]:
        """Shapes: scaled (B, 3, H, W) float32; result (B, D). Raises: InvalidModel."""
        request = self._idle.get()
        try:
            request.infer([np.ascontiguousarray(scaled, dtype=self._dtype)], share_inputs=True)
            result: npt.NDArray[Any] = request.get_output_tensor(self._output).data.copy()
        except Exception as error:
            raise InvalidModel(self._path, f"{VISUAL_MODEL} cannot be run by OpenVINO ({first_line(error)})") from error
        finally:
            self._idle.put(request)
        return result


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16. Raises: MissingExtra."""
    return "BF16" in _core(_import_openvino()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@lru_cache(maxsize=1)
def _core(openvino: ModuleType) -> Any:
    """The one core of this process.

    Each core gives the thread that first uses its processor plugin a stack for signals, and takes it back when it goes,
    from whichever thread that is. With two of them a thread keeps one that is gone, and the next Ctrl-C ends the
    process (OpenVINO 2026.4): so none ever goes.
    """
    return openvino.Core()


def _import_openvino() -> ModuleType:
    try:
        import openvino  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtra("openvino", "encoding pictures in bf16") from error
    module: ModuleType = openvino
    return module
