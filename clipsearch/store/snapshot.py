"""Reading: resolve CURRENT once, keep that generation."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import warnings
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from clipsearch.config import CURRENT_LINE, NEWER_LINE, index_error, open_plain, read_plain
from clipsearch.errors import CorruptIndex, IndexNotFound, IndexWarning, StorageError, UnsupportedIndex
from clipsearch.places import Address, is_address
from clipsearch.records import FileRef, IntArray, Manifest, TagRef
from clipsearch.store.files import verify_file
from clipsearch.store.lock import BUSY, COMMIT, is_new
from clipsearch.store.manifest import FORMAT_VERSION, OWN_NAME, load_manifest, manifest_name, manifests_of
from clipsearch.store.marks import marked, read_marks

RESOLVE_ATTEMPTS = 100


class Snapshot:
    """One generation, kept from being collected while this is open. Close it, or use it in a `with`."""

    def __init__(self, index_dir: Path, manifest: Manifest, ref: FileRef, lock_fd: int) -> None:
        self.index_dir = index_dir
        self.manifest = manifest
        self.ref = ref  # the manifest's file
        self._lock_fd: int | None = lock_fd

    @cached_property
    def root(self) -> Path:
        """The collection's folder, absolute. Warns where nobody knows it; it is then the index folder."""
        if not self.manifest.root:
            warnings.warn(unknown_root(self.index_dir), IndexWarning, stacklevel=3)
        return root_path(self.index_dir, self.manifest.root)

    def file(self, ref: FileRef, *, afresh: bool = False) -> Path:
        """The path of a file of this generation, verified. Raises: CorruptIndex."""
        return verify_file(self.index_dir, ref, afresh=afresh)

    def marks(self, ref: FileRef | None) -> IntArray:
        """All ids of a file of marks, ascending. Shape: (N,) int64. Raises: CorruptIndex."""
        return marked(read_marks(self.index_dir, ref))

    @property
    def tags(self) -> tuple[TagRef, ...]:
        """The tags and concepts of this generation."""
        return tuple(ref for ref in self.manifest.tags if ref.kind != "search")

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._lock_fd is None

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
    """The collection's folder that the manifest's `root` means, or its Address."""
    if is_address(root):
        return Address(root)
    return Path(os.path.normpath(index_dir.absolute() / root))


def unknown_root(index_dir: Path) -> str:
    """What to say of an index that lost its manifests, and with them the name of its folder."""
    return (
        f"{index_dir} no longer says which folder it is the index of, so its pictures cannot be opened. Name the "
        f"folder with: clipsearch index FOLDER --index {index_dir}"
    )


def resolve_current(index_dir: Path) -> tuple[int, str]:
    """Generation and manifest checksum that CURRENT names.

    Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, StorageError.
    """
    path = index_dir / "CURRENT"
    try:
        line = read_plain(path)
    except FileNotFoundError:
        try:
            names = manifests_of(index_dir)
            is_damaged = was_committed(index_dir)
            if list(names) == [1] and not is_damaged:  # the first commit was cut short after its manifest: it counts
                return 1, xxhash.xxh3_128_hexdigest(read_plain(names[1]))
        except OSError as error:
            raise index_error(path, error, index_dir) from error
        if names or is_damaged:
            raise CorruptIndex(path, "the file is missing", index=index_dir) from None
        raise IndexNotFound([index_dir]) from None
    except OSError as error:
        raise index_error(path, error, index_dir) from error
    newer = NEWER_LINE.match(line)
    if newer is not None and int(newer[1]) > FORMAT_VERSION:
        raise UnsupportedIndex(index_dir, f"index format {int(newer[1])}")
    match = CURRENT_LINE.fullmatch(line)
    if match is None:
        raise CorruptIndex(path, "it names no generation", index=index_dir)
    return int(match[2]), match[3].decode("ascii")


def was_committed(index_dir: Path) -> bool:
    """Whether an index without CURRENT had a generation once: it is damaged then, not new. Raises: OSError."""
    with contextlib.suppress(OSError):  # it may be gone with CURRENT: what is left of the tags and rows tells then
        if (index_dir / COMMIT).stat().st_size > 0:
            return True
    if _has_own_files(index_dir, "tags"):
        return True
    return not is_new(index_dir) and any(_has_own_files(index_dir, name) for name in ("records", "data"))


def _has_own_files(index_dir: Path, folder: str) -> bool:
    try:
        return any(OWN_NAME.fullmatch(path.name) for path in (index_dir / folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_snapshot(index_dir: Path) -> Snapshot:
    """Open the newest committed generation for reading.

    Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, StorageError.
    """
    for attempt in range(RESOLVE_ATTEMPTS):
        generation, checksum = resolve_current(index_dir)
        path = index_dir / "manifests" / manifest_name(generation)
        try:
            with open_plain(path) as file:
                fd = os.dup(file.fileno())
        except OSError as error:
            if isinstance(error, FileNotFoundError) and resolve_current(index_dir)[0] != generation:
                continue  # a writer moved on and collected it between our two reads
            raise index_error(path, error, index_dir) from error
        try:
            if not _lock_shared(fd) or not path.exists():
                os.close(fd)
                time.sleep(0.001 * (attempt + 1))
                continue  # it is being collected this moment
            try:
                raw = os.pread(fd, os.fstat(fd).st_size, 0)
            except OSError as error:
                raise index_error(path, error, index_dir) from error
            if xxhash.xxh3_128_hexdigest(raw) != checksum:
                raise CorruptIndex(path, "its checksum does not match CURRENT", index=index_dir)
            manifest = load_manifest(path, raw, index_dir)
            if manifest.generation != generation:
                raise CorruptIndex(path, f"it belongs to generation {manifest.generation}", index=index_dir)
            ref = FileRef(f"manifests/{path.name}", len(raw), checksum)
            return Snapshot(index_dir, manifest, ref, fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
    raise StorageError(index_dir, "it keeps changing while it is opened", "Try again.")


def _lock_shared(fd: int) -> bool:
    """Take a reader's lock. True also where the file system has no locks: collection then waits by age."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in BUSY
    return True
