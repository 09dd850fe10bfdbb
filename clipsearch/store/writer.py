"""Writing: one writer, immutable files, commits. And deleting, by one rule: only what we can prove we wrote (a plain
file in the folder of an index, with exactly the name that we give) and can prove is needed by no generation. Where a
manifest cannot be read, nothing is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from clipsearch.checksums import file_checksum
from clipsearch.config import MARKER, format_of, is_index, marker_line, marker_of, open_plain, read_plain
from clipsearch.errors import (
    ClipsearchError,
    CorruptIndex,
    IndexLocked,
    IndexNotFound,
    IndexWarning,
    NotAnIndex,
    StorageError,
    UnsupportedIndex,
)
from clipsearch.folding import fold
from clipsearch.records import FileRef, Fragment, IntArray, Manifest
from clipsearch.store.files import REMEMBER_FROM_BYTES, HashingFile, storage_errors, sync_file, sync_folder, unlink_own
from clipsearch.store.lock import BUSY, COMMIT, COMMIT_WAIT_S, COMMITTED, LOCK, FileLock, RunProgress, who
from clipsearch.store.manifest import (
    FORMAT_VERSION,
    KNOWN_WRITER_FEATURES,
    MANIFEST_NAME,
    dump_manifest,
    load_manifest,
    manifest_name,
    manifests_of,
)
from clipsearch.store.marks import write_marks
from clipsearch.store.snapshot import open_snapshot

SUFFIXES: dict[str, tuple[str, ...]] = {
    "records": (".parquet",),
    "rows": (".rows",),
    "vectors": (".parquet", ".npy"),  # .npy: format 1
    "search": (".npy",),
    "faiss": (".faiss",),
    "marks": (".marks",),
    "tags": (".tag",),
    "data": (".parquet",),  # format 1
    "columns": (".columns",),  # format 1
    "tombstones": (".npy",),  # format 1
}
"""The files that belong to generations: folders, and the suffixes of the names in them (32 hexadecimal digits)."""
FOLDERS = ("manifests", "records", "rows", "vectors", "search", "faiss", "marks", "tags", "staging")
GRACE_WITHOUT_LOCKS_S = 3600.0
NOTHING_LOST = "Nothing is lost. Run the same command again, on one machine at a time."
LOCK_WAIT_S = 1.0  # who saves a tag holds LOCK for a moment, to clean up
_OWN_NAME = re.compile(r"[0-9a-f]{32}(\.[a-z]+)")
_STAGED_NAME = re.compile(r"[0-9a-f]{32}\.part|\d+-\d+\.(parquet|npy|rows|columns|faiss|tag)|\d{8,}\.json|CURRENT")
_MARKER_PART = re.compile(r"INDEX\.[0-9a-f]{32}\.part")
_OF_THE_SYSTEM = {"@eadir", ".ds_store", "thumbs.db", "desktop.ini", ".directory"}
"""What a NAS or a file manager puts into an empty folder by itself."""


def claim(index_dir: Path) -> None:
    """Make sure that a folder is an index: one that is there, or a new one in an empty or new folder.

    The marker comes first: nothing else makes a folder an index. Raises: NotAnIndex, UnsupportedIndex, StorageError.
    """
    with storage_errors(index_dir):
        if is_index(index_dir):
            if format_of(index_dir) > FORMAT_VERSION:
                raise UnsupportedIndex(index_dir, f"index format {format_of(index_dir)}")
            if marker_of(index_dir) is None:  # made before there were markers, or the marker is damaged
                _write_marker(index_dir)
            return
        if index_dir.exists() and not index_dir.is_dir():
            raise NotAnIndex(index_dir, "it is not a folder")
        index_dir.mkdir(parents=True, exist_ok=True)
        inside = [entry.name for entry in os.scandir(index_dir)]
        foreign = [n for n in inside if n.lower() not in _OF_THE_SYSTEM and not _MARKER_PART.fullmatch(n)]
        if foreign:
            raise NotAnIndex(index_dir, f"it contains other files ({', '.join(sorted(foreign)[:3])})")
        _write_marker(index_dir)


def _write_marker(index_dir: Path) -> None:
    identity = uuid.uuid4().hex
    made = datetime.now(UTC).isoformat(timespec="seconds")
    part = index_dir / f"{MARKER}.{identity}.part"
    try:
        _write_synced(part, marker_line(FORMAT_VERSION, identity, made))
        part.replace(index_dir / MARKER)
    finally:
        unlink_own(part)
    sync_folder(index_dir)


def _write_synced(path: Path, raw: bytes) -> None:
    with path.open("xb") as file:
        file.write(raw)
        file.flush()
        sync_file(file.fileno())


class Writer:
    """The one writer of an index. Holds LOCK until closed.

    Makes the folder an index if it is new or empty. Raises: NotAnIndex, IndexLocked, StorageError.
    """

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = index_dir
        self._lock: FileLock | None = None
        self._base: Manifest | None = None  # the generation that the next commit replaces
        self._has_read = False  # whether `_base` is known; None then means that there was no generation
        claim(index_dir)
        with storage_errors(index_dir):
            self._place = _place_of(index_dir)
            for folder in FOLDERS:
                (index_dir / folder).mkdir(exist_ok=True)
            self._lock = FileLock(index_dir, LOCK, wait_s=LOCK_WAIT_S)
            said = f"{who()}\n".encode()
            self._progress_at = len(said)
            self._lock.clear()
            self._lock.write(said)
        self._clear_staging()

    def note(self, progress: RunProgress) -> None:
        """Say how far a run is, to whoever asks `store.read_writer`."""
        if self._lock is not None:
            self._lock.write(progress.line(), self._progress_at)

    def _clear_staging(self) -> None:
        """Delete what a killed run left half-written. Others' files and folders stay. Raises: ClipsearchError."""
        self._check_place()
        with contextlib.suppress(OSError), FileLock(self.index_dir, COMMIT, wait_s=COMMIT_WAIT_S):
            for path in list(staged_files(self.index_dir)):
                unlink_own(path)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.clear()
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(ClipsearchError):
            self._clear_staging()
        self.close()

    # -- files

    def add_file(self, folder: str, suffix: str, write: Callable[[HashingFile], None]) -> FileRef:
        """Write one immutable file: staged, synced, named by the hash of its bytes.

        Raises: OutOfSpace, StorageError.
        """
        self._check_place()
        return add_file(self.index_dir, folder, suffix, write)

    def add_marks(self, sets: dict[int, IntArray], *, copy: bool = False) -> FileRef | None:
        """Write sets of ids (see store.marks); None where all are empty."""
        if not any(len(ids) for ids in sets.values()):
            return None
        return self.add_file("marks", ".marks", lambda file: write_marks(file, sets, copy=copy))

    def mark_rows(self, fragment: Fragment, dead: IntArray, missing: dict[int, IntArray]) -> Fragment:
        """`fragment` with exactly these rows dead and missing (by when they were first missed). Written twice: what is
        not to be seen is known from nothing else."""
        return dataclasses.replace(
            fragment,
            dead=self.add_marks({0: dead}),
            dead_copy=self.add_marks({0: dead}, copy=True),
            dead_count=len(dead),
            missing=self.add_marks(missing),
            missing_copy=self.add_marks(missing, copy=True),
            missing_count=sum(len(ids) for ids in missing.values()),
        )

    # -- generations

    def current(self) -> Manifest | None:
        """The committed generation, or None for a new index. Raises: CorruptIndex, UnsupportedIndex, StorageError."""
        self._base = _current(self.index_dir)
        self._has_read = True
        return self._base

    def commit(self, manifest: Manifest, *, repaired: bool = False) -> Manifest:
        """Make `manifest` the current generation (its number and time are set here).

        Tags that were saved since this writer read the index are kept. `repaired`: whatever is there is replaced, and
        nothing is deleted afterwards. Raises: OutOfSpace, StorageError.
        """
        self._check_place()
        with _locked_commit(self.index_dir) as lock:
            before = None
            if not repaired:
                before = _current(self.index_dir)
                manifest = self._with_tags_of(manifest, before)
            manifest = _commit(self.index_dir, manifest, lock, self._check_place)
            self._base, self._has_read = manifest, True
            if not repaired:
                _collect(self.index_dir, [manifest, *([] if before is None else [before])])
        return manifest

    def _check_place(self) -> None:
        """Raise StorageError unless the folder is still the one that this writer locked."""
        _check_place(self.index_dir, self._place)
        if self._lock is not None and not self._lock.is_held():
            raise StorageError(self.index_dir, "another program took the lock over", NOTHING_LOST)

    def _check_current(self, now: Manifest | None) -> None:
        """Raise StorageError if `now` differs by more than tags from the generation that this writer read or wrote.

        Its number does not tell: another machine's generation, or another drive's, may have the same.
        """
        if not self._has_read or _beside_tags(now) == _beside_tags(self._base):
            return
        if now is None:
            raise StorageError(self.index_dir, "its generations were deleted in the meantime", NOTHING_LOST)
        raise StorageError(
            self.index_dir, f"another program wrote generation {now.generation} in the meantime", NOTHING_LOST
        )

    def _with_tags_of(self, manifest: Manifest, before: Manifest | None) -> Manifest:
        self._check_current(before)
        base = self._base
        if before is None or base is None or before == base:
            return manifest
        tags, features = before.tags, before.writer_features
        if before.generation <= base.generation:  # it does not come after ours, so each may have tags of its own
            kept = {fold(ref.name): ref for ref in (*base.tags, *before.tags)}
            tags = tuple(kept[name] for name in sorted(kept))
            features = (*features, *(feature for feature in base.writer_features if feature not in features))
        return dataclasses.replace(
            manifest,
            generation=max(manifest.generation, before.generation),
            tags=tags,
            tags_before=before.tags_before,
            writer_features=features,
        )

    def collect(self) -> int:
        """Delete what no kept generation refers to. Returns the bytes freed. Raises: ClipsearchError."""
        self._check_place()
        with _locked_commit(self.index_dir):
            current = _current(self.index_dir)
            self._check_current(current)
            self._check_place()
            return 0 if current is None else _collect(self.index_dir, [current])

    def unreferenced(self, kept: set[str]) -> list[Path]:
        """Our files that are not in `kept` (paths relative to the index). Raises: OSError."""
        return list(own_files(self.index_dir, kept))


def _place_of(index_dir: Path) -> tuple[int, int, str | None]:
    """Which folder an index is: its device and inode, and the id in its marker. Raises: OSError."""
    status = index_dir.stat()
    return status.st_dev, status.st_ino, marker_of(index_dir)


def _check_place(index_dir: Path, place: tuple[int, int, str | None]) -> None:
    """Raise StorageError if another folder than `place` lies there now: drives are swapped and folders renamed."""
    with storage_errors(index_dir):
        now = _place_of(index_dir)
    if now[:2] != place[:2] or now[2] not in (place[2], None):
        raise StorageError(index_dir, "the folder of the index was replaced in the meantime", NOTHING_LOST)


def _beside_tags(manifest: Manifest | None) -> bytes:
    """What a change of tags leaves as it is, as it is written."""
    if manifest is None:
        return b""
    return dump_manifest(
        dataclasses.replace(
            manifest, generation=0, created_at="", tags=(), tags_before=(), writer_features=(), format_version=0
        )
    )


def add_file(index_dir: Path, folder: str, suffix: str, write: Callable[[HashingFile], None]) -> FileRef:
    """Write one immutable file of an index: staged, synced, named by the hash of its bytes. Raises: OutOfSpace."""
    part = index_dir / "staging" / f"{uuid.uuid4().hex}.part"
    with storage_errors(index_dir):
        try:
            with part.open("xb") as file:
                hashing = HashingFile(file)
                write(hashing)
                file.flush()
                sync_file(file.fileno())
            name = f"{folder}/{hashing.checksum()}{suffix}"
            part.replace(index_dir / name)
            sync_folder(index_dir / folder)
        except BaseException:
            unlink_own(part)
            raise
    return FileRef(name, hashing.size_bytes, hashing.checksum())


def change_tags(index_dir: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Commit what `change` makes of the current generation: other tags, nothing else. Waits for no run.

    Raises: IndexNotFound, OutOfSpace, CorruptIndex, StorageError.
    """
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    with storage_errors(index_dir):
        return _change_tags(index_dir, change)


def _change_tags(index_dir: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    place = _place_of(index_dir)
    for folder in FOLDERS:
        (index_dir / folder).mkdir(exist_ok=True)
    with _locked_commit(index_dir) as lock:
        before = _current(index_dir)
        if before is None:
            raise IndexNotFound([index_dir])
        changed = change(before)
        changed = dataclasses.replace(changed, tags_before=before.tags)
        after = _commit(index_dir, changed, lock, lambda: _check_place(index_dir, place))
        with contextlib.suppress(IndexLocked, OSError), FileLock(index_dir, LOCK):
            _collect(index_dir, [after, before])  # not while a run has files that no generation refers to yet
        return after


@contextlib.contextmanager
def _locked_commit(index_dir: Path) -> Iterator[FileLock]:
    with storage_errors(index_dir):
        lock = FileLock(index_dir, COMMIT, wait_s=COMMIT_WAIT_S)
    try:
        yield lock
    finally:
        lock.release()


def _current(index_dir: Path) -> Manifest | None:
    try:
        with open_snapshot(index_dir) as snapshot:
            manifest = snapshot.manifest
    except IndexNotFound:
        return None
    for feature in manifest.writer_features:
        if feature not in KNOWN_WRITER_FEATURES:
            raise UnsupportedIndex(index_dir, f"the writer feature {feature!r}")
    return manifest


def _commit(index_dir: Path, manifest: Manifest, lock: FileLock, check: Callable[[], None]) -> Manifest:
    """Write a generation. `check` raises if the folder is no longer the one that was locked."""
    with storage_errors(index_dir):
        generation = max(manifest.generation, _highest_name(index_dir)) + 1
        manifest = dataclasses.replace(
            manifest,
            generation=generation,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            format_version=FORMAT_VERSION,
        )
        raw = dump_manifest(manifest)
        staged = _stage(index_dir, raw)
        try:
            check()
            _put_if_absent(staged, index_dir / "manifests" / manifest_name(generation))
        finally:
            unlink_own(staged)
        sync_folder(index_dir / "manifests")
        line = f"clipsearch {FORMAT_VERSION} {generation:08d} {xxhash.xxh3_128_hexdigest(raw)}\n"
        staged = _stage(index_dir, line.encode("ascii"))
        try:
            check()
            staged.replace(index_dir / "CURRENT")
        finally:
            unlink_own(staged)
        sync_folder(index_dir)
        lock.write(COMMITTED)  # an index that loses its manifests is then known from one that never had any
        check()  # before anything is deleted
    return manifest


def _highest_name(index_dir: Path) -> int:
    """The highest number of a manifest's name, whatever has it: a link or a folder takes the name too."""
    matches = (MANIFEST_NAME.fullmatch(path.name) for path in (index_dir / "manifests").iterdir())
    return max((int(match[1]) for match in matches if match is not None), default=0)


def _stage(index_dir: Path, raw: bytes) -> Path:
    part = index_dir / "staging" / f"{uuid.uuid4().hex}.part"
    try:
        _write_synced(part, raw)
    except BaseException:
        unlink_own(part)
        raise
    return part


def _put_if_absent(staged: Path, target: Path) -> None:
    try:
        os.link(staged, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here (exFAT, some network drives): our lock keeps others out
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        staged.replace(target)


# -- collecting


def _collect(index_dir: Path, kept: list[Manifest]) -> int:
    """Delete what neither `kept` nor any generation that a reader holds refers to. Returns the bytes freed.

    Of old generations the one before the newest is kept too. Where anything cannot be read, nothing is deleted.
    """
    try:
        if not _is_own_folder(index_dir / "manifests"):
            return 0
        manifests = manifests_of(index_dir)
        known = {manifest.generation: manifest for manifest in kept}
        newest = max(known)
        wanted = {*known, max((number for number in manifests if number < newest), default=newest)}
        refs: set[str] = {ref.path for manifest in kept for ref in manifest.files()}
        locked: list[int] = []
        forgotten: list[Path] = []
        try:
            superseded: set[str] = set()  # files of generations that are forgotten now: these we wrote
            for number, path in manifests.items():
                if number in known:
                    continue
                its = {ref.path for ref in load_manifest(path, read_plain(path), index_dir).files()}
                if number not in wanted and number < newest:
                    fd = _lock_unless_held(path)
                    if fd is not None:
                        locked.append(fd)
                        forgotten.append(path)
                        superseded |= its
                        continue
                refs |= its
            for path in _copies_of_manifests(index_dir):
                refs |= {ref.path for ref in load_manifest(path, read_plain(path), index_dir).files()}
            orphans = [
                path
                for path in own_files(index_dir, refs)
                if f"{path.parent.name}/{path.name}" in superseded or is_named_by_its_content(path)
            ]
            freed = sum(unlink_own(path) for path in (*forgotten, *orphans))
        finally:
            for fd in locked:
                os.close(fd)
    except (OSError, ClipsearchError) as error:
        warnings.warn(f"cannot delete old files of {index_dir}: {error}", IndexWarning, stacklevel=2)
        return 0
    return freed


def _copies_of_manifests(index_dir: Path) -> Iterator[Path]:
    """Manifests under names that we do not give: a file synchroniser puts another machine's beside ours. What they name
    is somebody's. Other people's JSON files are none of these. Raises: OSError."""
    for path in (index_dir / "manifests").iterdir():
        if path.suffix == ".json" and MANIFEST_NAME.fullmatch(path.name) is None and path.is_file():
            with contextlib.suppress(CorruptIndex):
                load_manifest(path, read_plain(path), index_dir)
                yield path


def is_named_by_its_content(path: Path) -> bool:
    """Whether a file's name is the hash of its bytes, as only we name files. Raises: OSError."""
    return file_checksum(path, remember_from_bytes=REMEMBER_FROM_BYTES, afresh=True) == path.name[:32]


def _lock_unless_held(path: Path) -> int | None:
    """A manifest's file, locked against readers; None if a reader holds it. Raises: OSError."""
    with open_plain(path) as file:
        fd = os.dup(file.fileno())
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = error.errno in BUSY or time.time() - os.fstat(fd).st_mtime < GRACE_WITHOUT_LOCKS_S
            if held:
                os.close(fd)
                return None
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    return fd


def staged_files(index_dir: Path) -> Iterator[Path]:
    """Files in `staging/` with names that we give, of a run that goes on or was killed. Raises: OSError."""
    place = index_dir / "staging"
    for path in place.iterdir() if _is_own_folder(place) else ():
        if _STAGED_NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            yield path


def _is_own_folder(place: Path) -> bool:
    """Whether a folder lies in the index itself. What a link leads to may be shared, and is never cleaned up."""
    return place.is_dir() and not place.is_symlink()


def is_own_name(folder: str, name: str) -> bool:
    """Whether we give such a name in one of an index's folders."""
    match = _OWN_NAME.fullmatch(name)
    return match is not None and match[1] in SUFFIXES.get(folder, ())


def own_files(index_dir: Path, kept: set[str]) -> Iterator[Path]:
    """Plain files in an index's folders with names that we give, other than `kept` (paths relative to the index).

    Raises: OSError.
    """
    for folder in SUFFIXES:
        place = index_dir / folder
        if not _is_own_folder(place):
            continue
        with os.scandir(place) as entries:
            for entry in entries:
                if not is_own_name(folder, entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                if f"{folder}/{entry.name}" not in kept:
                    yield place / entry.name
