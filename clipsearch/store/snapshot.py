"""Reading: resolve CURRENT once, keep that generation."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import xxhash

from clipsearch.errors import CorruptIndex, IndexNotFound, StorageError
from clipsearch.npy import read_array
from clipsearch.records import FileRef, IntArray, Manifest, TagRef
from clipsearch.store.files import verify_file
from clipsearch.store.manifest import load_manifest, manifest_name

CURRENT_LINE = re.compile(rb"clipsearch 1 (\d{8,}) ([0-9a-f]{32})\n")
RESOLVE_ATTEMPTS = 100


class Snapshot:
    """One generation, kept from being collected while this is open. Close it, or use it in a `with`."""

    def __init__(self, index_dir: Path, manifest: Manifest, lock_fd: int) -> None:
        self.index_dir = index_dir
        self.manifest = manifest
        self._lock_fd: int | None = lock_fd

    @property
    def root(self) -> Path:
        """The collection's folder, absolute."""
        return root_path(self.index_dir, self.manifest.root)

    def file(self, ref: FileRef, *, afresh: bool = False) -> Path:
        """The path of a file of this generation, verified. Raises: CorruptIndex."""
        return verify_file(self.index_dir, ref, afresh=afresh)

    def tombstones(self) -> IntArray:
        """Deleted row ids, sorted. Shape: (T,) int64."""
        return read_tombstones(self.index_dir, self.manifest)

    @property
    def tags(self) -> tuple[TagRef, ...]:
        """The tags and concepts of this generation."""
        return self.manifest.tags

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def root_path(index_dir: Path, root: str) -> Path:
    """The collection's folder that the manifest's `root` means."""
    return Path(os.path.normpath(index_dir.absolute() / root))


def read_tombstones(index_dir: Path, manifest: Manifest) -> IntArray:
    """Deleted row ids of a generation, sorted. Shape: (T,) int64. Raises: CorruptIndex."""
    if manifest.tombstones is None:
        return np.empty(0, np.int64)
    path = verify_file(index_dir, manifest.tombstones)
    try:
        with path.open("rb") as file:
            row_ids: IntArray = read_array(file)
    except ValueError as error:
        raise CorruptIndex(path, f"it is no NumPy file ({error})", index=index_dir) from error
    if row_ids.dtype != np.int64 or row_ids.ndim != 1:
        raise CorruptIndex(path, f"it holds {row_ids.dtype} of shape {row_ids.shape}", index=index_dir)
    return row_ids


def resolve_current(index_dir: Path) -> tuple[int, str]:
    """Generation and manifest checksum that CURRENT names. Raises: IndexNotFound, CorruptIndex."""
    path = index_dir / "CURRENT"
    try:
        line = path.read_bytes()
    except FileNotFoundError:
        names = sorted(manifest.name for manifest in (index_dir / "manifests").glob("*.json"))
        if names == [manifest_name(1)]:  # the very first commit was cut short after its manifest: it counts
            return 1, xxhash.xxh3_128_hexdigest((index_dir / "manifests" / names[0]).read_bytes())
        if names:
            raise CorruptIndex(path, "the file is missing", index=index_dir) from None
        raise IndexNotFound([index_dir]) from None
    except OSError as error:
        raise CorruptIndex(path, f"it cannot be read ({error.strerror})", index=index_dir) from error
    match = CURRENT_LINE.fullmatch(line)
    if match is None:
        raise CorruptIndex(path, "it does not name a generation", index=index_dir)
    return int(match[1]), match[2].decode("ascii")


def open_snapshot(index_dir: Path) -> Snapshot:
    """Open the newest committed generation for reading. Raises: IndexNotFound, CorruptIndex, UnsupportedIndex."""
    for attempt in range(RESOLVE_ATTEMPTS):
        generation, checksum = resolve_current(index_dir)
        path = index_dir / "manifests" / manifest_name(generation)
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            if resolve_current(index_dir)[0] != generation:
                continue  # a writer moved on and collected it between our two reads
            raise CorruptIndex(path, "the file is missing", index=index_dir) from None
        except OSError as error:
            raise CorruptIndex(path, f"it cannot be read ({error.strerror})", index=index_dir) from error
        try:
            if not _lock_shared(fd) or not path.exists():
                os.close(fd)
                time.sleep(0.001 * (attempt + 1))
                continue  # it is being collected this moment
            raw = os.pread(fd, os.fstat(fd).st_size, 0)
            if xxhash.xxh3_128_hexdigest(raw) != checksum:
                raise CorruptIndex(path, "its checksum does not match CURRENT", index=index_dir)
            manifest = load_manifest(path, raw, index_dir)
            if manifest.generation != generation:
                raise CorruptIndex(path, f"it is of generation {manifest.generation}", index=index_dir)
            return Snapshot(index_dir, manifest, fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
    raise StorageError(index_dir, "it changes faster than it can be opened", "Try again.")


def _lock_shared(fd: int) -> bool:
    """Take a reader's lock. True also where the file system has no locks: collection then waits by age."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


def find_newest_manifest(index_dir: Path) -> Manifest | None:
    """The newest manifest that is whole, whatever CURRENT says: where a repair starts."""
    for path in sorted((index_dir / "manifests").glob("*.json"), reverse=True):
        try:
            return load_manifest(path, path.read_bytes(), index_dir)
        except (CorruptIndex, OSError):
            continue
    return None
