"""Files of an index: checksums, durable writes, and the system's errors in our words."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.config import index_error
from clipsearch.errors import CorruptIndex, OutOfSpace, StorageError
from clipsearch.records import FileRef

REMEMBER_FROM_BYTES = 64 << 20
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EISDIR)
"""What file systems answer that cannot sync a folder. PostgreSQL (fsync_fname_ext) and SQLite go on as well."""
READ_ATTEMPTS = 3
READ_AGAIN_S = 0.05


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors on the way to `path` into ours."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError | OutOfSpace:
    """Our word for what the system said of `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        problem = f"cannot write here ({error.strerror})"
        return StorageError(path, problem, "Put the index in a writable folder with: --index DIR")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError(
            path, error.strerror or "too many open files", "Close other programs or raise `ulimit -n`, then try again."
        )
    if error.errno == errno.EEXIST:
        return StorageError(path, "it already exists", "Name another file, or delete that one first.")
    return StorageError(path, error.strerror or str(error), "Check the disk, then run the same command again.")


def sync_file(fd: int) -> None:
    """Make what was written to an open file durable, past the drive's own cache where the system can (macOS)."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(fd, full)
            return
        except OSError:
            pass  # not every file system there can
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable, where its file system can."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def unlink_own(path: Path) -> int:
    """Delete a plain file whose name the caller has matched. Returns the bytes freed; 0 where it stays."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return 0
        path.unlink()
    except OSError:
        return 0
    return status.st_size


def verify_file(index_dir: Path, ref: FileRef, *, afresh: bool = False) -> Path:
    """Return the path of `ref` after checking its size and checksum. Raises: CorruptIndex, IndexAway, StorageError.

    `afresh` reads every byte even if a large file was verified before. A read that fails is tried again.
    """
    path = index_dir / ref.path
    attempt = 1
    while True:
        try:
            _verify(path, ref, index_dir, afresh=afresh)
        except CorruptIndex as error:
            if not error.unreadable or attempt == READ_ATTEMPTS:
                raise
        else:
            return path
        time.sleep(READ_AGAIN_S)
        attempt += 1


def _verify(path: Path, ref: FileRef, index_dir: Path, *, afresh: bool) -> None:
    try:
        size = path.stat().st_size
        if size != ref.size_bytes:
            problem = f"it has {size} bytes, but the manifest says {ref.size_bytes}"
            raise CorruptIndex(path, problem, index=index_dir)
        if file_checksum(path, remember_from_bytes=REMEMBER_FROM_BYTES, afresh=afresh) != ref.checksum:
            raise CorruptIndex(path, "its checksum does not match the manifest", index=index_dir)
    except OSError as error:
        raise index_error(path, error, index_dir) from error


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
