"""`OnnxTower`: one tower of a model directory as an onnxruntime session.

`ImageTower` is what an image tower must offer, whichever library runs it (see `openvino` for the other one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.encoder.fingerprints import tower_files
from clipsearch.encoder.layout import ModelDirectory
from clipsearch.errors import InvalidModel, first_line
from clipsearch.filenames import native_path
from clipsearch.records import FloatArray

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class ImageTower(Protocol):
    """An image tower that is loaded. May be run by several threads at once."""

    @property
    def fixed_batch(self) -> int | None:
        """How many pictures it insists on; None: any number."""
        ...

    def run(self, scaled: FloatArray, /) -> npt.NDArray[Any]:
        """Shapes: scaled (B, 3, H, W) float32; result (B, D), any float type, not normalised."""
        ...


class OnnxTower:
    """One ONNX model with one main input and one output that is used, run by onnxruntime."""

    def __init__(
        self,
        model: ModelDirectory,
        relative: str,
        threads: int,
        *,
        hasty: bool = False,
        optimised: Path | None = None,
        instead: Path | None = None,
    ) -> None:
        """Load it with `threads` (0: what onnxruntime finds) for each run; `hasty`: see `load`.

        `optimised`: a prepared tower to load instead, `instead`: another form of it (int8).
        Raises: InvalidModel.
        """
        if optimised is None and instead is None:
            tower_files(model.path, relative)  # says what is missing or cut short more plainly than onnxruntime
        self._path = model.path
        self._relative = relative
        self._file = optimised or instead or model.path / relative
        self._optimised = optimised is not None
        self._threads = threads
        self.session = session = self.load(hasty)
        self.inputs = session.get_inputs()
        outputs = session.get_outputs()
        flat = [output for output in outputs if len(output.shape) == 2] or outputs
        self._output = flat[0].name
        check_width(model, relative, flat[0].shape[-1] if flat[0].shape else None)
        for given in self.inputs:
            if given.type not in _DTYPES:
                raise InvalidModel(model.path, f"{relative} has an input of type {given.type}")
        batch = self.inputs[0].shape[0] if self.inputs[0].shape else None
        self.fixed_batch: int | None = batch if isinstance(batch, int) and batch > 0 else None

    def load(self, hasty: bool) -> Any:
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
        if self._optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            with native_path(self._file) as file:
                return onnxruntime.InferenceSession(
                    file,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=["ConstantFolding"] if hasty and not self._optimised else None,
                )
        except Exception as error:  # onnxruntime's errors share no base class but this
            raise InvalidModel(self._path, f"{self._relative} cannot be loaded ({first_line(error)})") from error

    def run(self, *arrays: npt.NDArray[Any], session: Any = None) -> npt.NDArray[Any]:
        """Run on one array for each input, in the order of the inputs. Raises: InvalidModel."""
        session = session or self.session
        feed = {
            given.name: np.ascontiguousarray(array, dtype=_DTYPES[given.type])
            for given, array in zip(self.inputs, arrays, strict=True)
        }
        try:
            result: npt.NDArray[Any] = session.run([self._output], feed)[0]
        except Exception as error:
            raise InvalidModel(self._path, f"{self._relative} cannot be run ({first_line(error)})") from error
        return result


def check_width(model: ModelDirectory, relative: str, width: object) -> None:
    """Raise InvalidModel if a tower says that its vectors have another length than the model's."""
    if isinstance(width, int) and width != model.dim:
        raise InvalidModel(
            model.path, f"{relative} returns vectors of {width} dimensions, but config.json says {model.dim}"
        )


def filled(array: npt.NDArray[Any], fixed_batch: int | None) -> npt.NDArray[Any]:
    """Repeat the last row up to a fixed batch size."""
    missing = (fixed_batch or len(array)) - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
