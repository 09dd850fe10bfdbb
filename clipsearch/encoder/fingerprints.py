"""What makes stored vectors comparable: a hash of the image tower's weights and preprocessing.

A fingerprint is an xxh3-128 in hexadecimal over a checksum of the weights and the canonical form of the
preprocessing. For an ONNX image tower the weights are the bytes of its files. An export changes bytes but not
the space, so it writes down the fingerprint of the weights that it was made from, together with the
`visual_checksum` of what it wrote; the first is believed for as long as the second still fits.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path, PurePosixPath

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.encoder.languages import FILES as GATE_FILES
from clipsearch.encoder.layout import TEXTUAL_MODEL, VISUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.encoder.protobuf import fields
from clipsearch.errors import InvalidModel
from clipsearch.records import Preprocessing

REMEMBER_FROM_BYTES = 4 << 20  # smaller files are hashed again in a millisecond


def fingerprint_of(weights: str, preprocessing: Preprocessing) -> str:
    """Combine a checksum of weights and a preprocessing into a fingerprint (32 hexadecimal digits)."""
    canonical = json.dumps(asdict(preprocessing), sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(f"clipsearch image tower 1\n{weights}\n{canonical}".encode())


def image_fingerprint(model: ModelDirectory) -> str:
    """The fingerprint of the image tower that `model` holds or, without one, belongs to. Raises: InvalidModel."""
    if not model.has_visual:
        if model.image_fingerprint is None:
            raise InvalidModel(model.path, "it does not name its image tower")
        return model.image_fingerprint
    found = visual_checksum(model)
    if model.image_fingerprint is not None and model.visual_checksum == found:
        return model.image_fingerprint
    return found


def text_fingerprint(model: ModelDirectory) -> str:
    """Hash of the text tower's files, its tokenizer and the model's configuration. Raises: InvalidModel."""
    digests = tower_checksums(model.path, TEXTUAL_MODEL)
    try:
        for name in sorted(
            ["config.json", *(f"textual/{path.name}" for path in (model.path / "textual").glob("*.json"))]
        ):
            digests.append(f"{name} {file_checksum(model.path / name, remember_from_bytes=REMEMBER_FROM_BYTES)}")
    except OSError as error:
        raise InvalidModel(model.path, f"the text tower cannot be read ({error.strerror or error})") from error
    if model.multilingual is not None:
        digests += _other_languages(model.multilingual)
    return xxhash.xxh3_128_hexdigest("\n".join(["clipsearch text tower 1", *digests]).encode())


def _other_languages(folder: Path) -> list[str]:
    """Hashes of the text tower for other languages, and of what tells them apart. Raises: InvalidModel."""
    try:
        gate = [
            f"{name} {file_checksum(folder / name, remember_from_bytes=REMEMBER_FROM_BYTES)}" for name in GATE_FILES
        ]
    except OSError as error:
        raise InvalidModel(folder.parent, f"{folder.name} cannot be read ({error.strerror or error})") from error
    return [f"multilingual {text_fingerprint(read_model_directory(folder))}", *gate]


def visual_checksum(model: ModelDirectory) -> str:
    """Checksum of the image tower's files and its preprocessing. Raises: InvalidModel."""
    if model.preprocessing is None:
        raise InvalidModel(model.path, "it has no image tower")
    return fingerprint_of("+".join(tower_checksums(model.path, VISUAL_MODEL)), model.preprocessing)


def tower_checksums(directory: Path, relative: str) -> list[str]:
    """xxh3-128 of each of a tower's files (see `tower_files`), hexadecimal. Raises: InvalidModel."""
    try:
        return [
            file_checksum(file, remember_from_bytes=REMEMBER_FROM_BYTES) for file in tower_files(directory, relative)
        ]
    except OSError as error:
        raise InvalidModel(directory, f"{relative} cannot be read ({error.strerror or error})") from error


def tower_files(directory: Path, relative: str) -> list[Path]:
    """The ONNX file at `relative` and the files that its weights lie in, in the order of their names.

    Raises: InvalidModel for a file that is cut short, is not ONNX, or refers to data outside its own folder.
    """
    model = directory / relative
    files = []
    for name in sorted(_external_locations(directory, model, relative)):
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name:
            raise InvalidModel(directory, f"{relative} stores its weights outside its folder ({name!r})")
        file = model.parent / parts
        if not file.is_file():
            raise InvalidModel(directory, f"{relative} stores its weights in {name!r}, which is missing")
        files.append(file)
    return [model, *files]


# Field numbers are those of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_EXTERNAL_DATA, _ENTRY_KEY, _ENTRY_VALUE = 7, 5, 13, 1, 2


def _external_locations(directory: Path, model: Path, relative: str) -> frozenset[str]:
    if not model.is_file():
        raise InvalidModel(directory, f"{relative} is missing")
    status = model.stat()
    return _locations_in(directory, relative, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=8)
def _locations_in(directory: Path, relative: str, _identity: tuple[int, ...]) -> frozenset[str]:
    """Walking a graph of a thousand nodes takes milliseconds, and a query asks three times: once is enough."""
    locations: set[str] = set()
    with (directory / relative).open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise InvalidModel(directory, f"{relative} is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                graphs = list(fields(data, 0, len(data), _MODEL_GRAPH))
                for graph in graphs:
                    for tensor in fields(data, *graph, _GRAPH_INITIALIZER):
                        for entry in fields(data, *tensor, _TENSOR_EXTERNAL_DATA):
                            key, value = (
                                b"".join(data[start:end] for start, end in fields(data, *entry, number))
                                for number in (_ENTRY_KEY, _ENTRY_VALUE)
                            )
                            if key == b"location":
                                locations.add(value.decode("utf-8"))
            except (ValueError, IndexError) as error:
                raise InvalidModel(directory, f"{relative} is cut short or is not an ONNX file") from error
    if not graphs:
        raise InvalidModel(directory, f"{relative} is not an ONNX file")
    return frozenset(locations)
