"""Text towers prepared for a quick start: optimised beforehand, their weights mapped from a file of their own.

onnxruntime reads and optimises a whole model before it answers the first text. Here that is done once, by
onnxruntime itself, into the cache folder:

    text-towers/<key>/model.onnx      the optimised graph
    text-towers/<key>/weights.bin     its weights, which onnxruntime maps: only what is touched is read from disk
    text-towers/<key>/prepared.json   checksums of both, and which file they were made from

The key is a checksum of the source's bytes, the version of onnxruntime and the kind of processor. A prepared tower
gives the vectors of its source and may be deleted at any time. One whose bytes are not those that were written is
deleted and not used; checksums of files that did not change are remembered (see `checksums`). Folders of other names,
and folders with other files in them, are not ours and stay.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Any

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.config import cache_dir
from clipsearch.encoder.fingerprints import REMEMBER_FROM_BYTES, tower_checksums
from clipsearch.encoder.layout import TEXTUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.errors import InvalidModel, OutOfSpace, StorageError, first_line
from clipsearch.filenames import native_path
from clipsearch.removing import remove_folder_of, remove_made

FOLDER = "text-towers"
GRAPH, WEIGHTS, RECEIPT = "model.onnx", "weights.bin", "prepared.json"
FILES = (GRAPH, WEIGHTS, RECEIPT)
FORMAT = "1"
PART = ".part-"
PART_ABANDONED_S = 3600
_KEY = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(re.escape(PART) + r"[0-9a-f]{32}-[0-9a-z_]{8}")
KEPT_IN_GRAPH_BYTES = 1024  # smaller weights stay in the graph
LEAST_FREE_BYTES = 1 << 20  # onnxruntime reports a full disk in words only


def prepare_text_tower(directory: Path | str) -> Path:
    """Prepare the text tower of a model directory and return the folder of the result.

    Costs a second or two and the tower's size on disk, once; then only a look. Removes what was prepared by other
    versions of onnxruntime and for towers that have gone. `clipsearch index` calls it at the end of a run.
    Raises: InvalidModel (no text tower, or a damaged one), StorageError, OutOfSpace.
    """
    import tempfile

    model = read_model_directory(Path(directory))
    key = _key(model)
    folder = cache_dir() / FOLDER / key
    if _intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        part = Path(tempfile.mkdtemp(prefix=f"{PART}{key}-", dir=folder.parent))
        try:
            _optimise(model, part)
            _write_receipt(model, part)
            try:
                part.rename(folder)
            except OSError:
                if not _intact(folder):  # otherwise another process was quicker
                    raise
        finally:
            remove_made(part)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutOfSpace(folder) from error
        raise StorageError(
            folder,
            f"the text tower could not be prepared ({error.strerror or error})",
            "Queries still work, but start more slowly.",
        ) from error
    return folder


def prepared_text_tower(model: ModelDirectory) -> Path | None:
    """The graph of the prepared text tower; None where there is none, or no longer an intact one.

    Raises: InvalidModel for a source that is missing or cut short.
    """
    if not (cache_dir() / FOLDER).is_dir():
        return None
    folder = cache_dir() / FOLDER / _key(model)
    return folder / GRAPH if _intact(folder) else None


def _key(model: ModelDirectory) -> str:
    digests = tower_checksums(model.path, TEXTUAL_MODEL)
    return xxhash.xxh3_128_hexdigest("\n".join([FORMAT, _runtime(), platform.machine(), *digests]).encode())


def _runtime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _intact(folder: Path) -> bool:
    """Whether `folder` holds what was written there. What is damaged is deleted."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        intact = all(
            file_checksum(folder / name, remember_from_bytes=REMEMBER_FROM_BYTES) == receipt["files"][name]
            for name in (GRAPH, WEIGHTS)
        )
    except FileNotFoundError:
        intact = not folder.is_dir()
        if intact:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        remove_folder_of(folder, FILES)
    return intact


def _optimise(model: ModelDirectory, folder: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Not ORT_ENABLE_ALL, which rearranges some weights for the processor at hand.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    entries = {"file_name": WEIGHTS, "min_size_in_bytes": str(KEPT_IN_GRAPH_BYTES)}
    for entry, value in entries.items():
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{entry}", value)
    try:
        with native_path(model.path / TEXTUAL_MODEL) as source, native_path(folder / GRAPH) as target:
            options.optimized_model_filepath = target
            onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but this
        if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        problem = f"{TEXTUAL_MODEL} cannot be prepared ({first_line(error)})"
        raise InvalidModel(model.path, problem) from error
    (folder / WEIGHTS).touch()  # a tower of small weights has none outside its graph


def _write_receipt(model: ModelDirectory, folder: Path) -> None:
    files = {}
    for name in (GRAPH, WEIGHTS):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        files[name] = file_checksum(folder / name, remember_from_bytes=REMEMBER_FROM_BYTES, afresh=True)
    receipt: dict[str, Any] = {
        "source": str((model.path / TEXTUAL_MODEL).absolute()),
        "runtime": _runtime(),
        "files": files,
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=1), encoding="utf-8")


def _remove_stale(towers: Path) -> None:
    """Delete what another onnxruntime prepared, or for towers that have gone: what says so of itself."""
    for folder in towers.iterdir():
        if _is_abandoned(folder) or (_KEY.fullmatch(folder.name) and _is_stale(folder)):
            remove_folder_of(folder, FILES)


def _is_abandoned(folder: Path) -> bool:
    """Whether a run that was killed has left it half-written."""
    try:
        return bool(_PART.fullmatch(folder.name)) and time.time() - folder.stat().st_mtime > PART_ABANDONED_S
    except OSError:
        return False


def _is_stale(folder: Path) -> bool:
    """Whether its receipt, whole as we write them, names another onnxruntime or a tower that has gone."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        if not isinstance(receipt["files"], dict) or receipt["files"].keys() != {GRAPH, WEIGHTS}:
            return False
        return bool(receipt["runtime"] != _runtime() or not Path(receipt["source"]).is_file())
    except (OSError, ValueError, KeyError, TypeError):
        return False
