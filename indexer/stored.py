"""Collections in object storage: what a walk finds there, and copies of what is to be read.

Files beside pictures (XMP) and videos are not looked at there, and `.clipsearchignore` is not read; `--exclude` is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xxhash

from clipsearch.archives import is_archive_name
from clipsearch.archives.listing import Spool
from clipsearch.archives.remote import Storage, StoredObject, Wanted
from clipsearch.config import INDEX_DIR_NAME
from clipsearch.errors import StorageError
from clipsearch.filenames import to_bytes
from clipsearch.indexer.changes import ArchiveToRead
from clipsearch.indexer.ignore import HIDDEN, Folder, Ignore
from clipsearch.indexer.scan import ARCHIVES, FileBlock, FoundFile, Scan, clamped, kind_of_name
from clipsearch.pictures.formats import classify_name, is_in_parts, is_picture_name

NO_PATH = "keys with an empty part (a//b)"
MOST_FAILED = 16
"""So many objects one after another of which the storage says nothing: it is not to be reached, and the run stops."""

PAUSE = FoundFile("", 0, 0, 0)
"""Among files to read, instead of one: use what was read, and see whether to stop, before waiting for the next."""


def walk_storage(root: Path, result: Scan, ignore: Ignore) -> Iterator[FileBlock]:
    """As `scan.walk`, of object storage. Raises: StorageError, if anything there cannot be listed."""
    storage = Storage(root)
    if ignore.listed:
        with _gone(storage, result, ignore):
            _take_archive(storage.about(ignore.listed), result)
        return
    with _gone(storage, result, ignore):
        yield from _walk(storage, result, ignore)


@contextmanager
def _gone(storage: Storage, result: Scan, ignore: Ignore) -> Iterator[None]:
    """Note it in `result` instead of an error, if the storage says of the whole source that it is not there."""
    try:
        yield
    except StorageError:
        nothing = not (result.files or result.folders or result.others)
        result.is_gone = ignore.may_be_gone and nothing and storage.lacks(ignore.listed)
        if not result.is_gone:
            raise


def _walk(storage: Storage, result: Scan, ignore: Ignore) -> Iterator[FileBlock]:
    rules: dict[str, Folder] = {}

    def skipped(path: str, is_dir: bool) -> bool:
        folder, _, name = path.rpartition("/")
        if folder not in rules:
            rules[folder] = ignore.enter_folder(folder, ())
        why = rules[folder].skips(path, name, is_dir)
        if why is not None and why != HIDDEN:
            result.left_out[path] = why
        return why is not None or name == INDEX_DIR_NAME

    def no_path(key: str) -> None:
        result.left_out[key] = NO_PATH

    for objects in storage.walk(lambda path: not skipped(path, True), no_path):
        pictures, archives = [], len(result.archives)
        for one in objects:
            name = one.path.rpartition("/")[2]
            if skipped(one.path, False):
                continue
            if is_archive_name(name) and ignore.archives is not None:
                if ignore.takes_archive(one.path):
                    _take_archive(one, result)
                else:
                    result.left_out[one.path] = ARCHIVES
            elif is_picture_name(name) and not is_in_parts(name) and "." in name:
                pictures.append(one)
            else:
                result.others[kind_of_name(name)] += 1
        if pictures or len(result.archives) > archives or not objects:  # or to let who stops a run not wait for a page
            yield _block(pictures, result)


def _take_archive(one: StoredObject, result: Scan) -> None:
    result.files += 1
    result.folders.add(one.path.rpartition("/")[0])
    result.archives.append(FoundFile(one.path, one.size_bytes, int(clamped([one.mtime_ns])[0]), one.tag))


def _block(objects: list[StoredObject], result: Scan) -> FileBlock:
    folder = objects[0].path.rpartition("/")[0] if objects else ""
    result.files += len(objects)
    if objects:
        result.folders.add(folder)
    digests = b"".join(xxhash.xxh3_128_digest(to_bytes(one.path)) for one in objects)
    return FileBlock(
        folder,
        [one.path.rpartition("/")[2] for one in objects],
        np.frombuffer(digests, "<i8").reshape(-1, 2),
        np.array([one.size_bytes for one in objects], np.int64),
        clamped([one.mtime_ns for one in objects]),
        np.array([one.tag for one in objects], np.uint64),
    )


def with_copies(
    storage: Storage, files: Iterable[FoundFile | ArchiveToRead]
) -> Iterator[tuple[FoundFile | ArchiveToRead, OSError | None]]:
    """Each file and archive with a copy of it, or with the error that says why there is none. PAUSEs also while one is
    waited for."""

    def wanted(file: FoundFile | ArchiveToRead) -> Wanted | None:
        if isinstance(file, ArchiveToRead):
            return Wanted(file.file.path, file.file.size_bytes, is_large=True)
        if file is PAUSE or classify_name(file.name) is not None:
            return None
        return Wanted(file.path, file.size_bytes)

    for found in storage.fetch_all(files, wanted):
        file, copy = (PAUSE, None) if found is None else found
        problem = copy if isinstance(copy, OSError) else None
        if isinstance(file, ArchiveToRead):
            file.copy, file.problem = copy if isinstance(copy, Spool) else None, problem
        elif isinstance(copy, Spool):
            file = dataclasses.replace(file, copy=copy)
        yield file, problem
