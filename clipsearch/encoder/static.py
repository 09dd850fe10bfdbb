"""Image towers in int8 with fixed scales, made of the fp32 ones and some pictures, for OpenVINO.

Weights get a scale for each column or channel; what goes into a layer gets one range, seen while pictures went
through in fp32, so that the vector of a picture does not depend on what is encoded with it. The last layer, sums,
norms, and the products of attention stay in fp32, and so does the first layer, but for patches: they are pixels, which
have 8 bits. Vision transformers are made leaner first (see `leaner`). Own code instead of onnxruntime's quantiser,
which took 35 s of processor time for ViT-B-32: this takes a fraction, and one source and one set of ranges always make
the same tower.

A tower is named by what it was made of, ranges included: its name is the precision of an index that was encoded with
it (`int8-...`), so that no other tower can pass for it. Such an index also has vectors in fp32: of pictures that
`guard` found the tower unfit for, and of those that came in small numbers. It lies in the cache folder, with a
checksum and with what it was accepted with. Where it is lost, or on another machine, such an index goes on in fp32,
and the run says so.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.config import cache_dir, write_small
from clipsearch.encoder.arrays import scale_pixels
from clipsearch.encoder.choices import STATIC_PREFIX, is_static
from clipsearch.encoder.fingerprints import visual_checksum
from clipsearch.encoder.int8 import ACCEPTED, fold_constants, keep_tower, kept_tower, needs_reduced_range
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.leaner import make_leaner, makes_patches
from clipsearch.encoder.quiet import quiet_logging
from clipsearch.errors import InvalidModel, MissingExtra, StorageError, first_line
from clipsearch.filenames import native_path
from clipsearch.records import FloatArray, PixelArray

FOLDER = "int8-static"
FORMAT = "2"
PICTURES_PER_PASS = 2  # what all layers put out is in memory at once
LEAST_WEIGHTS = 1024  # of a layer that is worth it
MOST_SOURCE_BYTES = 1_500_000_000  # it is changed as one message, of at most 2 GB
MOST_DIFFERENCE = 1e-4  # between vectors of a tower and a leaner one, of their length; ViT-B-32: 1e-7


def static_tower(model: ModelDirectory, precision: str) -> Path:
    """The file of the tower of that name. Raises: InvalidModel if it is not here, or damaged, or of another model."""
    if is_static(precision) and (tower := kept_tower(_folder(model, precision))) is not None:
        return tower
    raise InvalidModel(model.path, f"its image tower in {precision} is not in the cache folder of this machine")


def make_static_tower(model: ModelDirectory, pixels: PixelArray) -> str:
    """Make a tower of which `pixels` set the ranges, and return the name of its precision.

    Shape: pixels (B, H, W, 3) uint8, prepared, B > 0. Raises: InvalidModel, MissingExtra, StorageError.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("int8", "quantising the image tower to int8") from error
    if tower_bytes(model) > MOST_SOURCE_BYTES:
        raise InvalidModel(model.path, f"{VISUAL_MODEL} is too large to quantise to int8 on this machine")
    place = cache_dir() / FOLDER
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".part-") as part, quiet_logging():
            folded = Path(part) / "folded.onnx"
            fold_constants(model.path / VISUAL_MODEL, folded)
            graph, folded = _leaner(model, folded, pixels)
            layers = _layers(graph.graph)
            ranges = _ranges(model, folded, [node.input[0] for node in layers], pixels)
            name = _name(model, ranges)
            _quantise(graph.graph, layers, ranges)
            made = Path(part) / "made.onnx"
            onnx.save(graph, made)
            keep_tower(made, _folder(model, name))
    except OSError as error:
        problem = f"cannot write the int8 tower ({error.strerror or error})"
        raise StorageError(place, problem, "Free some space, or use --precision fp32.") from error
    except InvalidModel:
        raise
    except Exception as error:  # onnx's and onnxruntime's errors share no base class but this
        raise InvalidModel(model.path, f"{VISUAL_MODEL} cannot be quantised to int8 ({first_line(error)})") from error
    return name


def note_accepted(model: ModelDirectory, precision: str, told: str) -> None:
    """Keep beside a tower what its trial measured. Where that cannot be written, the tower is not used again."""
    write_small(_folder(model, precision) / ACCEPTED, told)


def accepted(model: ModelDirectory, precision: str) -> str:
    """What was kept beside a tower; "" where there is nothing."""
    with contextlib.suppress(OSError, ValueError):
        return (_folder(model, precision) / ACCEPTED).read_text(encoding="utf-8") if is_static(precision) else ""
    return ""


def tower_bytes(model: ModelDirectory) -> int:
    """Size of what such a tower is made of."""
    return sum(file.stat().st_size for file in (model.path / VISUAL_MODEL).parent.iterdir() if file.is_file())


def _folder(model: ModelDirectory, precision: str) -> Path:
    key = xxhash.xxh3_128_hexdigest(f"{visual_checksum(model)} {precision}".encode())
    return cache_dir() / FOLDER / key


def _name(model: ModelDirectory, ranges: dict[str, tuple[float, float]]) -> str:
    bits = "7" if needs_reduced_range() else "8"
    told = [f"{name} {low!r} {high!r}" for name, (low, high) in sorted(ranges.items())]
    return STATIC_PREFIX + xxhash.xxh3_64_hexdigest("\n".join([FORMAT, bits, visual_checksum(model), *told]).encode())


def _layers(graph: Any) -> list[Any]:
    """The nodes that are worth it, which multiply what flows with constant weights."""
    sizes = {weights.name: (list(weights.dims), weights.data_type) for weights in graph.initializer}
    found = []
    for node in graph.node:
        shape, kind = sizes.get(node.input[1], ([], 0)) if len(node.input) > 1 else ([], 0)
        flat = node.op_type in ("MatMul", "Gemm") and len(shape) == 2
        filters = node.op_type == "Conv" and len(shape) == 4
        if (flat or filters) and kind == 1 and np.prod(shape) >= LEAST_WEIGHTS and node.input[0] not in sizes:
            found.append(node)
    return found[0 if found and makes_patches(found[0]) else 1 : -1]


def _leaner(model: ModelDirectory, folded: Path, pixels: PixelArray) -> tuple[Any, Path]:
    """A tower that computes the same as `folded` with less work, if one can be made, else that one; and its file."""
    import onnx

    assert model.preprocessing is not None
    made = folded.with_name("leaner.onnx")
    with contextlib.suppress(Exception):  # whatever there is where another kind of model has something else
        graph = onnx.load(folded, load_external_data=False)  # or all weights would be in memory twice
        if make_leaner(graph.graph, folded.parent):
            onnx.save(graph, made, save_as_external_data=True, location=f"{made.name}.data")
            del graph
            scaled = scale_pixels(pixels[:PICTURES_PER_PASS], model.preprocessing)
            before, after = (_vectors(file, scaled) for file in (folded, made))
            if np.abs(after - before).max() <= MOST_DIFFERENCE * np.linalg.norm(before, axis=1).min():
                return onnx.load(made), made
    return onnx.load(folded), folded


def _vectors(file: Path, scaled: FloatArray) -> npt.NDArray[Any]:
    session = _session(file)
    vectors: npt.NDArray[Any] = session.run(None, {session.get_inputs()[0].name: scaled})[0]
    return vectors


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with native_path(file) as readable:
        return onnxruntime.InferenceSession(readable, options, providers=["CPUExecutionProvider"])


def _ranges(
    model: ModelDirectory, folded: Path, names: list[str], pixels: PixelArray
) -> dict[str, tuple[float, float]]:
    """The least and the greatest of what flows in each of these places."""
    import onnx

    assert model.preprocessing is not None
    wanted = sorted(set(names))
    graph = onnx.load(folded, load_external_data=False)
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in wanted)
    watched = folded.with_name("watched.onnx")
    onnx.save(graph, watched)
    session = _session(watched)
    given = session.get_inputs()[0].name
    ranges = dict.fromkeys(wanted, (0.0, 0.0))  # zero must be among the values
    for start in range(0, len(pixels), PICTURES_PER_PASS):
        scaled = scale_pixels(pixels[start : start + PICTURES_PER_PASS], model.preprocessing)
        for name, values in zip(wanted, session.run(wanted, {given: scaled}), strict=True):
            low, high = ranges[name]
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


def _quantise(graph: Any, layers: list[Any], ranges: dict[str, tuple[float, float]]) -> None:
    from onnx import helper, numpy_helper

    weights = {value.name: value for value in graph.initializer}
    added: dict[str, list[Any]] = {}  # by the id of the node that they stand before
    flows: dict[str, str] = {}
    done: dict[tuple[str, int], str] = {}
    for node in layers:
        before: list[Any] = []
        source, name = node.input[0], node.input[1]
        if source not in flows:
            flows[source] = f"{source}/as-int8"
            low, high = ranges[source]
            scale = max((high - low) / 255, 1e-8)
            scales = numpy_helper.from_array(np.float32(scale), f"{source}/scale")
            zero = numpy_helper.from_array(np.uint8(np.clip(round(-low / scale), 0, 255)), f"{source}/zero")
            graph.initializer.extend([scales, zero])
            both = [scales.name, zero.name]
            before += [
                helper.make_node("QuantizeLinear", [source, *both], [f"{source}/int8"]),
                helper.make_node("DequantizeLinear", [f"{source}/int8", *both], [flows[source]]),
            ]
        axis = _channel_axis(node)
        if (name, axis) not in done:
            done[name, axis] = f"{name}/{axis}/as-int8"
            ints, scale_of = _columns(numpy_helper.to_array(weights[name]), axis)
            stored = numpy_helper.from_array(ints, f"{name}/{axis}/int8")
            scales = numpy_helper.from_array(scale_of, f"{name}/{axis}/scale")
            zeros = numpy_helper.from_array(np.zeros(len(scale_of), np.int8), f"{name}/{axis}/zero")
            graph.initializer.extend([stored, scales, zeros])
            parts = [stored.name, scales.name, zeros.name]
            before.append(helper.make_node("DequantizeLinear", parts, [done[name, axis]], axis=axis))
        added[node.output[0]] = before
        node.input[0], node.input[1] = flows[source], done[name, axis]
    nodes = [part for node in graph.node for part in [*added.get(node.output[0], []), node]]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _channel_axis(node: Any) -> int:
    """Which axis of a layer's weights is that of what it puts out."""
    if node.op_type == "Conv":
        return 0
    turned = node.op_type == "Gemm" and any(given.name == "transB" and given.i for given in node.attribute)
    return 0 if turned else 1


def _columns(values: npt.NDArray[Any], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers, and a scale for each slice along `axis`."""
    most = 63 if needs_reduced_range() else 127
    others = tuple(at for at in range(values.ndim) if at != axis)
    scales = np.maximum(np.maximum(values.max(axis=others), -values.min(axis=others)) / most, 1e-10)
    shape = [-1 if at == axis else 1 for at in range(values.ndim)]
    ints = np.rint(values / scales.reshape(shape).astype(np.float32)).clip(-most, most).astype(np.int8)
    return ints, scales.astype(np.float32)
