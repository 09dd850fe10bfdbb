"""Image towers with int8 weights, made once by onnxruntime's quantiser (the extra `int8`) into the cache folder.

Matrices are quantised for each column, activations for each run. Such a tower is no second truth: it is made
from the fp32 one, keyed by its bytes, and its vectors are compared with that one's (see `precision`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.config import cache_dir, write_small
from clipsearch.encoder.fingerprints import REMEMBER_FROM_BYTES, tower_files
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.quiet import quiet_logging
from clipsearch.errors import InvalidModel, MissingExtra, StorageError, first_line
from clipsearch.filenames import native_path
from clipsearch.removing import remove_folder_of, remove_oldest

FOLDER = "int8-towers"
GRAPH, RECEIPT, ACCEPTED = "model.onnx", "checksum", "accepted.json"  # the last one: see `static`
_FILES = (GRAPH, RECEIPT, ACCEPTED)
FORMAT = "2"
MOST_BYTES = 1_500_000_000  # of all towers of a folder of the cache
_FOLDER = re.compile(r"[0-9a-f]{32}")
EXTERNAL_FROM_BYTES = 6_000_000_000  # of the source; a quarter of it must fit into one message of 2 GB


def int8_tower(model: ModelDirectory) -> Path:
    """The int8 form of a model's image tower, made if it is not there: 5 to 15 s for ViT-B-32.

    Raises: InvalidModel, MissingExtra (it must be made and the onnx package is not there), StorageError.
    """
    import onnxruntime

    files = tower_files(model.path, VISUAL_MODEL)
    if sum(file.stat().st_size for file in files) > EXTERNAL_FROM_BYTES:
        raise InvalidModel(model.path, f"{VISUAL_MODEL} is too large to quantise to int8 on this machine")
    reduced = needs_reduced_range()
    digests = [file_checksum(file, remember_from_bytes=REMEMBER_FROM_BYTES) for file in files]
    parts = [FORMAT, onnxruntime.__version__, "7 bits" if reduced else "8 bits", *digests]
    folder = cache_dir() / FOLDER / xxhash.xxh3_128_hexdigest("\n".join(parts).encode())
    if (tower := kept_tower(folder)) is not None:
        return tower
    _quantise(model, folder, reduced)
    return folder / GRAPH


def kept_tower(folder: Path) -> Path | None:
    """The tower that `keep_tower` put into a folder of the cache, if it is there as it was."""
    with contextlib.suppress(OSError):
        found = file_checksum(folder / GRAPH, remember_from_bytes=REMEMBER_FROM_BYTES)
        if found == (folder / RECEIPT).read_text(encoding="utf-8"):
            with contextlib.suppress(OSError):
                os.utime(folder / RECEIPT)  # by which the least used one is found
            return folder / GRAPH
    return None


def keep_tower(made: Path, folder: Path) -> None:
    """Move a tower into its folder of the cache, on the same disk, and note its checksum last. Where they become too
    many, those beside it that were used longest ago are deleted. Raises: OSError."""
    remove_folder_of(folder, _FILES)
    _make_room(folder.parent, made.stat().st_size)
    folder.mkdir(parents=True, exist_ok=True)
    digest = file_checksum(made, remember_from_bytes=REMEMBER_FROM_BYTES, afresh=True)
    made.replace(folder / GRAPH)
    write_small(folder / RECEIPT, digest)


def _make_room(place: Path, size: int) -> None:
    """Delete what was used longest ago of the towers in a folder, until there is room for so many bytes more."""
    with contextlib.suppress(OSError):
        held = {
            folder: (folder / GRAPH).stat().st_size
            for folder in place.iterdir()
            if _FOLDER.fullmatch(folder.name) and not folder.is_symlink() and (folder / GRAPH).is_file()
        }
        remove_oldest(held, MOST_BYTES - size, RECEIPT, lambda folder: remove_folder_of(folder, _FILES))


def _quantise(model: ModelDirectory, folder: Path, reduced: bool) -> None:
    import tempfile

    try:
        import onnx  # noqa: F401  what the quantiser needs
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtra("int8", "quantising the image tower to int8") from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part, quiet_logging():
            folded, made = Path(part) / "folded.onnx", Path(part) / GRAPH
            fold_constants(model.path / VISUAL_MODEL, folded)
            quantize_dynamic(
                folded,
                made,
                per_channel=True,
                reduce_range=reduced,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm", "Attention"],
            )
            keep_tower(made, folder)
    except OSError as error:
        problem = f"cannot write the int8 tower ({error.strerror or error})"
        raise StorageError(folder, problem, "Free some space, or use --precision fp32.") from error
    except Exception as error:
        raise InvalidModel(model.path, f"{VISUAL_MODEL} cannot be quantised to int8 ({first_line(error)})") from error


def fold_constants(source: Path, target: Path) -> None:
    """Write `source` with weights as plain fp32: the quantiser passes over those that are stored in fp16."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{target.name}.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    with native_path(source) as read, native_path(target) as written:
        options.optimized_model_filepath = written
        onnxruntime.InferenceSession(read, options, providers=["CPUExecutionProvider"])


def needs_reduced_range() -> bool:
    """x86 without VNNI adds pairs of 8-bit products in 16 bits, which overflow: weights then get 7 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
