"""Files of an index: checksums, durable writes, and the system's errors in our words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.errors import CorruptIndex, OutOfSpace, StorageError
from clipsearch.records import FileRef

REMEMBER_FROM_BYTES = 64 << 20


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


def verify_file(index_dir: Path, ref: FileRef, *, afresh: bool = False) -> Path:
    """Return the path of `ref` after checking its size and checksum. Raises: CorruptIndex.

    `afresh` reads every byte even if a large file was verified before.
    """
    path = index_dir / ref.path
    try:
        size = path.stat().st_size
        if size != ref.size_bytes:
            raise CorruptIndex(path, f"it has {size} bytes, the manifest says {ref.size_bytes}", index=index_dir)
        if file_checksum(path, remember_from_bytes=REMEMBER_FROM_BYTES, afresh=afresh) != ref.checksum:
            raise CorruptIndex(path, "its checksum does not match the manifest", index=index_dir)
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
