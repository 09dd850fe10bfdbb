"""Sources that are one file: an archive, or a list of paths.

A list has a path on each line, or paths that end with NUL (`find -print0`). Relative ones are relative to its folder,
which is the root of the collection; a file elsewhere has its absolute path.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.archives import is_archive_name
from clipsearch.archives.listing import COMPRESSED
from clipsearch.errors import StorageError
from clipsearch.filenames import from_bytes, to_bytes
from clipsearch.indexer.ignore import Archives
from clipsearch.indexer.scan import ARCHIVES, FileBlock, FoundFile, Scan, clamped, kind_of_name, unreadable
from clipsearch.indexer.sidecars import Sidecars
from clipsearch.pictures.formats import HEAD_BYTES, identify, is_picture_name
from clipsearch.records import SkippedImage

NOT_LISTED = "no longer in the list"
_BLOCK_FILES = 16_384
_HEAD_BYTES = 65_536
_MOST_TOLD_BYTES = 2**24


def dataset_files(folder: Path) -> frozenset[str]:
    """The Arrow files of a folder that Hugging Face's `datasets` has saved, by their paths in it; none if it is no such
    folder. That a file has the name of one of theirs says nothing: it must name Arrow files that are there."""
    splits = _told(folder / "dataset_dict.json").get("splits")
    if isinstance(splits, list):
        names = [name for name in splits if isinstance(name, str) and name not in ("", ".", "..") and "/" not in name]
        return frozenset(f"{name}/{file}" for name in names for file in _arrow_files(folder / name))
    return frozenset(_arrow_files(folder))


def _arrow_files(folder: Path) -> list[str]:
    """The Arrow files of one split."""
    state = _told(folder / "state.json")
    told = state.get("_data_files")
    if isinstance(state.get("_fingerprint"), str) and isinstance(told, list):
        names = [one.get("filename") for one in told if isinstance(one, dict)]
        return [name for name in names if isinstance(name, str) and _is_arrow(folder, name)]
    about = _told(folder / "dataset_info.json")  # as they lie in the cache of `datasets`
    if isinstance(about.get("features"), dict) and isinstance(about.get("splits"), dict):
        try:
            return [name for name in os.listdir(folder) if _is_arrow(folder, name)]
        except OSError:
            return []
    return []


def _is_arrow(folder: Path, name: str) -> bool:
    return name.endswith(".arrow") and "/" not in name and "\0" not in name and (folder / name).is_file()


def _told(path: Path) -> dict[str, Any]:
    """What a small JSON file has; nothing if it is none."""
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(_MOST_TOLD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def check_list(path: Path) -> None:
    """Raise StorageError unless a file is an archive or a list of paths."""
    name = path.name.lower()
    if is_archive_name(path.name):
        return
    if name.endswith(COMPRESSED):
        problem, advice = "a compressed tar cannot be read in random order", "Decompress it first (gunzip, xz -d)."
        raise StorageError(path, problem, advice)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise StorageError(path, f"it cannot be read ({error.strerror})", "Check its permissions.") from error
    if identify(head[:HEAD_BYTES], path.name) is not None:
        raise StorageError(path, "it is a picture, not a folder", "Name the folder that holds the pictures.")
    if not any(os.path.lexists(_joined(path.parent, raw)) for raw in _split([head])):
        problem = "it is neither a tar nor a table, and none of its lines is the path of a file"
        raise StorageError(path, problem, "Name a folder that holds pictures, or a list of paths of which some exist.")


def walk_list(
    root: Path, name: str, result: Scan, *, archives: Archives, may_be_gone: bool = False
) -> Iterator[FileBlock]:
    """As `scan.walk`, of what the file `name` in `root` is or lists. Raises: StorageError if it cannot be read."""
    place = root / name
    if is_archive_name(name):
        try:
            info = place.stat()
        except FileNotFoundError as error:
            if not may_be_gone:
                raise _not_there(place, error) from error
            result.is_gone = True
            return
        except OSError as error:
            raise _not_there(place, error) from error
        _take_archive(name, info, result)
        return
    try:
        with place.open("rb") as file:
            yield from _listed(root, _split(iter(lambda: file.read(_HEAD_BYTES), b"")), result, archives)
    except OSError as error:
        raise _not_there(place, error) from error


def _not_there(place: Path, error: OSError) -> StorageError:
    return StorageError(
        place, f"it cannot be read ({error.strerror or error})", "Nothing was changed. Check that its drive is there."
    )


def _take_archive(path: str, info: os.stat_result, result: Scan) -> None:
    result.files += 1
    result.folders.add(path.rpartition("/")[0])
    mtime_ns = int(clamped([info.st_mtime_ns])[0])
    result.archives.append(FoundFile(path, info.st_size, mtime_ns, info.st_ino))


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The paths in a list, which comes in blocks."""
    rest, ending = b"", b""
    for block in _as_utf8(blocks):
        rest += block
        if not ending:
            rest = rest.removeprefix(b"\xef\xbb\xbf")
            ending = b"\0" if b"\0" in rest else b"\n"
        *lines, rest = rest.split(ending)
        yield from (line for line in map(_stripped, lines) if line)
    if _stripped(rest):
        yield _stripped(rest)


def _as_utf8(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same text, of a list that says it is UTF-16, as PowerShell's `>` writes it."""
    decoder: codecs.IncrementalDecoder | None = None
    is_first = True
    for block in blocks:
        if is_first and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            decoder = codecs.getincrementaldecoder("utf-16")("replace")
        is_first = False
        yield block if decoder is None else decoder.decode(block).encode()


def _stripped(line: bytes) -> bytes:
    return line.removesuffix(b"\r")


def _joined(root: Path, raw: bytes) -> str:
    return os.path.normpath(os.path.join(root, from_bytes(raw)))


def _listed(root: Path, lines: Iterable[bytes], result: Scan, archives: Archives) -> Iterator[FileBlock]:
    """The files of a list, some at a time, each once."""
    seen: set[bytes] = set()
    inside = os.path.join(root, "")
    waiting: dict[str, list[tuple[str, os.stat_result]]] = {}
    sidecars: dict[str, Sidecars] = {}
    number = 0
    for raw in lines:
        place = _joined(root, raw)
        path = place.removeprefix(inside).replace(os.sep, "/")
        digest = xxhash.xxh3_128_digest(to_bytes(path))
        if digest in seen:
            continue
        seen.add(digest)
        folder, _, name = path.rpartition("/")
        try:
            info = os.stat(place)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                result.unreadable.append(unreadable(path, error))
            else:
                result.unreadable.append(SkippedImage(path, "unreadable", "it is no path"))
            continue
        if not stat.S_ISREG(info.st_mode):
            result.others["folders" if stat.S_ISDIR(info.st_mode) else "neither files nor folders"] += 1
        elif is_archive_name(name) and archives is not False:
            _take_archive(path, info, result)
        elif is_archive_name(name):
            result.left_out[path] = ARCHIVES
        elif not is_picture_name(name):
            result.others[kind_of_name(name)] += 1
        else:
            waiting.setdefault(folder, []).append((name, info))
            number += 1
            if number % _BLOCK_FILES == 0:
                yield from _blocks(root, waiting, sidecars, result)
                waiting = {}
    yield from _blocks(root, waiting, sidecars, result)


def _blocks(
    root: Path,
    waiting: dict[str, list[tuple[str, os.stat_result]]],
    sidecars: dict[str, Sidecars],
    result: Scan,
) -> Iterator[FileBlock]:
    for folder, files in waiting.items():
        result.files += len(files)
        result.folders.add(folder)
        names = [name for name, _ in files]
        paths = [f"{folder}/{name}" if folder else name for name in names]
        digests = b"".join(xxhash.xxh3_128_digest(to_bytes(path)) for path in paths)
        infos = [info for _, info in files]
        if folder not in sidecars:
            sidecars[folder] = _beside(os.path.join(root, folder))
        yield FileBlock(
            folder,
            names,
            np.frombuffer(digests, "<i8").reshape(-1, 2),
            np.array([info.st_size for info in infos], np.int64),
            clamped([info.st_mtime_ns for info in infos]),
            _inodes(infos),
            sidecars[folder].numbers(names),
        )


def _inodes(infos: list[os.stat_result]) -> npt.NDArray[np.uint64]:
    return np.array([info.st_ino for info in infos], np.uint64)


def _beside(folder: str) -> Sidecars:
    """What lies in a folder that may speak of pictures."""
    found = Sidecars()
    try:
        descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        for name in os.listdir(descriptor):
            found.add(name)
        found.look(descriptor)
    except OSError:
        pass  # the pictures are read all the same, and say themselves if they cannot be
    finally:
        os.close(descriptor)
    return found
