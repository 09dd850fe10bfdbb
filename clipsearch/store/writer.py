"""Writing: one writer, immutable files, commits."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import xxhash

from clipsearch.errors import ClipsearchError, CorruptIndex, IndexLocked, IndexNotFound, UnsupportedIndex
from clipsearch.records import EmbeddingBatch, FileRef, Fragment, ImageRecord, IntArray, Manifest, ModelRef
from clipsearch.store.columns import Columns, write_columns
from clipsearch.store.files import HashingFile, storage_errors, sync_folder
from clipsearch.store.fragments import write_fragment
from clipsearch.store.lock import LOCK, RunProgress, holder_of
from clipsearch.store.manifest import KNOWN_WRITER_FEATURES, dump_manifest, load_manifest, manifest_name
from clipsearch.store.rows import write_rows
from clipsearch.store.snapshot import open_snapshot, resolve_current

FOLDERS = ("manifests", "data", "vectors", "rows", "columns", "faiss", "tombstones", "tags", "staging")
COLLECTED_FOLDERS = ("data", "vectors", "rows", "columns", "faiss", "tombstones", "tags")
GRACE_WITHOUT_LOCKS_S = 3600.0
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class Writer:
    """The one writer of an index. Holds LOCK until closed. Raises: IndexLocked, StorageError."""

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = index_dir
        with storage_errors(index_dir):
            for folder in FOLDERS:
                (index_dir / folder).mkdir(parents=True, exist_ok=True)
            self._lock_fd: int | None = None
            self._lock_fd, self._progress_at = self._acquire(index_dir)
        self._clear_staging()

    @staticmethod
    def _acquire(index_dir: Path) -> tuple[int, int]:
        """The lock, and where in its file a line about progress goes."""
        path = index_dir / LOCK
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = holder_of(fd)
            os.close(fd)
            if error.errno in BUSY:
                raise IndexLocked(index_dir, holder or "another process") from None
            raise
        since = datetime.now().isoformat(" ", "seconds")
        who = f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode()
        with contextlib.suppress(OSError):  # a full disk must not keep us from freeing some of it
            os.ftruncate(fd, 0)
            os.pwrite(fd, who, 0)
        return fd, len(who)

    def note(self, progress: RunProgress) -> None:
        """Say how far a run is, to whoever asks `store.read_writer`."""
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._lock_fd, progress.line(), self._progress_at)

    def _clear_staging(self) -> None:
        with storage_errors(self.index_dir):
            for leftover in (self.index_dir / "staging").iterdir():
                leftover.unlink(missing_ok=True)

    def close(self) -> None:
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(ClipsearchError):
            self._clear_staging()
        self.close()

    # -- files

    def add_file(self, folder: str, suffix: str, write: Callable[[HashingFile], None]) -> FileRef:
        """Write one immutable file: staged, synced, named by the hash of its bytes. Raises: OutOfSpace."""
        part = self.index_dir / "staging" / f"{os.getpid()}-{time.monotonic_ns()}{suffix}"
        with storage_errors(self.index_dir):
            try:
                with part.open("wb") as file:
                    hashing = HashingFile(file)
                    write(hashing)
                    file.flush()
                    os.fsync(file.fileno())
                name = f"{folder}/{hashing.checksum()}{suffix}"
                part.replace(self.index_dir / name)
                sync_folder(self.index_dir / folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
                raise
        return FileRef(name, hashing.size_bytes, hashing.checksum())

    def add_fragment(self, batches: Iterable[EmbeddingBatch], model: ModelRef) -> Fragment:
        """Write rows as one Parquet file; row ids must ascend over all batches. It has no segment yet."""
        shape: list[tuple[int, int, int, int]] = []
        data = self.add_file("data", ".parquet", lambda file: shape.append(write_fragment(file, batches, model)))
        rows, vectors, first_row_id, last_row_id = shape[0]
        return Fragment(data, rows, vectors, first_row_id, last_row_id, None)

    def add_rows(self, records: Iterable[ImageRecord]) -> FileRef:
        """Write what hits show of `records`, which come in the order of their row ids."""
        return self.add_file("rows", ".rows", lambda file: write_rows(file, records))

    def add_columns(self, columns: Columns) -> FileRef:
        """Write what filters ask of pictures."""
        return self.add_file("columns", ".columns", lambda file: write_columns(file, columns))

    def add_tombstones(self, row_ids: IntArray) -> FileRef:
        """Write the deleted row ids. Shape: (T,) int64, sorted."""
        return self.add_file("tombstones", ".npy", lambda file: np.save(cast(Any, file), row_ids))

    # -- generations

    def current(self) -> Manifest | None:
        """The committed generation, or None for a new index. Raises: CorruptIndex, UnsupportedIndex."""
        try:
            with open_snapshot(self.index_dir) as snapshot:
                manifest = snapshot.manifest
        except IndexNotFound:
            return None
        for feature in manifest.writer_features:
            if feature not in KNOWN_WRITER_FEATURES:
                raise UnsupportedIndex(self.index_dir, f"the writer feature {feature!r}")
        return manifest

    def commit(self, manifest: Manifest) -> Manifest:
        """Make `manifest` the current generation (its number and time are set here). Raises: OutOfSpace."""
        numbers = [int(p.stem) for p in (self.index_dir / "manifests").glob("*.json") if p.stem.isdigit()]
        generation = max([manifest.generation, *numbers], default=0) + 1
        manifest = dataclasses.replace(
            manifest, generation=generation, created_at=datetime.now(UTC).isoformat(timespec="milliseconds")
        )
        raw = dump_manifest(manifest)
        name = manifest_name(generation)
        with storage_errors(self.index_dir):
            staged = self._stage(name, raw)
            try:
                self._put_if_absent(staged, self.index_dir / "manifests" / name)
            finally:
                staged.unlink(missing_ok=True)
            sync_folder(self.index_dir / "manifests")
            staged = self._stage(
                "CURRENT", f"clipsearch 1 {generation:08d} {xxhash.xxh3_128_hexdigest(raw)}\n".encode("ascii")
            )
            staged.replace(self.index_dir / "CURRENT")
            sync_folder(self.index_dir)
        self.collect()
        return manifest

    def _stage(self, name: str, raw: bytes) -> Path:
        part = self.index_dir / "staging" / name
        with part.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        return part

    @staticmethod
    def _put_if_absent(staged: Path, target: Path) -> None:
        try:
            os.link(staged, target)
        except FileExistsError:
            raise
        except OSError:  # no hard links here (exFAT, some network drives): our lock keeps others out
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
            staged.replace(target)

    def collect(self) -> int:
        """Delete what no generation refers to that is current or held by a reader. Returns the bytes freed."""
        generation, _ = resolve_current(self.index_dir)
        kept: set[str] = set()
        for path in (self.index_dir / "manifests").glob("*.json"):
            held = path.name == manifest_name(generation) or not self._forget_manifest(path)
            if held:
                with contextlib.suppress(CorruptIndex, OSError):
                    kept |= {ref.path for ref in load_manifest(path, path.read_bytes(), self.index_dir).files()}
        freed = 0
        for orphan in self.orphans(kept):
            with contextlib.suppress(OSError):
                freed += orphan.stat().st_size
                orphan.unlink()
        return freed

    def orphans(self, kept: set[str]) -> list[Path]:
        """Files in the index's folders that are not in `kept` (paths relative to the index)."""
        return [
            path
            for folder in COLLECTED_FOLDERS
            for path in (self.index_dir / folder).iterdir()
            if f"{folder}/{path.name}" not in kept
        ]

    @staticmethod
    def _forget_manifest(path: Path) -> bool:
        """Delete an old manifest unless a reader holds it. True if it is gone."""
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in BUSY:
                return False
            if time.time() - os.fstat(fd).st_mtime < GRACE_WITHOUT_LOCKS_S:
                return False
            path.unlink(missing_ok=True)
        finally:
            os.close(fd)
        return True
