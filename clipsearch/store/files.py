"""Files of an index: checksums, durable writes, and the system's errors in our words."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash

from clipsearch import config
from clipsearch.errors import CorruptIndex, OutOfSpace, StorageError
from clipsearch.records import FileRef

REMEMBER_CHECKSUM_FROM_BYTES = 64 << 20


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors on the way to `path` into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                path,
                f"cannot write here ({error.strerror})",
                "Put the index where you may write, with: --index DIR",
            ) from error
        raise StorageError(
            path, error.strerror or str(error), "Check the disk, then run the same command again."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def checksum_of(path: Path) -> str:
    """xxh3-128 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return xxhash.xxh3_128_hexdigest(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            digest = xxhash.xxh3_128()
            step = 16 << 20
            with memoryview(view) as data:
                for start in range(0, len(data), step):
                    with data[start : start + step] as part:
                        digest.update(part)
            return digest.hexdigest()


class _ChecksumMemory:
    """Large files whose checksum was verified before, by inode, size and change time.

    A write to the file changes its change time, so what is remembered is never older than the last write;
    a file changed less than two seconds before it was verified is not remembered, because a later change
    could then fall on the same clock tick.
    """

    def __init__(self) -> None:
        self._path = config.cache_dir() / "verified.json"
        try:
            self._known: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    @staticmethod
    def _key(path: Path) -> tuple[str, bool]:
        s = path.stat()
        settled = time.time_ns() - max(s.st_mtime_ns, s.st_ctime_ns) > 2_000_000_000
        return f"{s.st_dev}:{s.st_ino}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}", settled

    def knows(self, path: Path, checksum: str) -> bool:
        return self._known.get(self._key(path)[0]) == checksum

    def remember(self, path: Path, checksum: str) -> None:
        key, settled = self._key(path)
        if settled:
            newest = list(self._known.items())[-999:]
            self._known = {**dict(newest), key: checksum}
            config.write_small(self._path, json.dumps(self._known))


def verify_file(index_dir: Path, ref: FileRef, *, afresh: bool = False) -> Path:
    """Return the path of `ref` after checking its size and checksum. Raises: CorruptIndex.

    `afresh` reads every byte even if a large file was verified before.
    """
    path = index_dir / ref.path
    try:
        size = path.stat().st_size
        if size != ref.size_bytes:
            raise CorruptIndex(path, f"it has {size} bytes, the manifest says {ref.size_bytes}", index=index_dir)
        large = size >= REMEMBER_CHECKSUM_FROM_BYTES
        memory = _ChecksumMemory() if large else None
        if memory is not None and not afresh and memory.knows(path, ref.checksum):
            return path
        if checksum_of(path) != ref.checksum:
            raise CorruptIndex(path, "its checksum does not match the manifest", index=index_dir)
        if memory is not None:
            memory.remember(path, ref.checksum)
    except FileNotFoundError:
        raise CorruptIndex(path, "the file is missing", index=index_dir) from None
    except OSError as error:
        raise CorruptIndex(path, f"it cannot be read ({error.strerror})", index=index_dir) from error
    return path


class HashingFile:
    """A file being written whose checksum is known at the end. Enough of the file protocol for numpy and pyarrow."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = xxhash.xxh3_128()
        self.size_bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        with memoryview(data) as view:
            flat = view.cast("B") if view.contiguous else memoryview(view.tobytes())
            self._file.write(flat)
            self._digest.update(flat)
            self.size_bytes += len(flat)
            return len(flat)

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def checksum(self) -> str:
        return self._digest.hexdigest()
