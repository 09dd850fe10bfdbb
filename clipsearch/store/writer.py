"""Writing: one writer, immutable files, commits. And deleting, by one rule: only what we can prove we wrote (a plain
file in the folder of an index, with exactly the name that we give) and can prove is needed by no generation. Where a
manifest cannot be read, nothing is deleted.

A manifest is forgotten if the current one names it as its ancestor, checksum and all, and what only it named is
deleted with it. What no manifest names is of a run that was cut short, or of one that goes on elsewhere: it is deleted
after an hour, but tags are not, since nothing else has them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
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
from clipsearch.records import FileRef, Fragment, IntArray, Manifest
from clipsearch.store.files import REMEMBER_FROM_BYTES, HashingFile, storage_errors, sync_file, sync_folder, unlink_own
from clipsearch.store.lock import (
    BUSY,
    COMMIT,
    COMMIT_WAIT_S,
    LOCK,
    NEW,
    NOTHING_YET,
    FileLock,
    RunProgress,
    committed,
    is_new,
    who,
)
from clipsearch.store.manifest import (
    FORMAT_VERSION,
    KNOWN_WRITER_FEATURES,
    MANIFEST_NAME,
    OWN_NAME,
    dump_manifest,
    key_of,
    load_manifest,
    manifest_name,
    manifests_of,
    needed_features,
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
    "words": (".words",),
    "data": (".parquet",),  # format 1
    "columns": (".columns",),  # format 1
    "tombstones": (".npy",),  # format 1
}
"""The files that belong to generations: folders, and the suffixes of the names in them (32 hexadecimal digits)."""
FOLDERS = ("manifests", "records", "rows", "vectors", "search", "faiss", "marks", "tags", "words", "staging")
GRACE_S = 3600.0
"""How old a file of no generation must be to be deleted; without locks, how old a manifest."""
NOTHING_LOST = "Nothing is lost. Run the same command again, on one machine at a time."
LOCK_WAIT_S = 1.0  # who saves a tag holds LOCK for a moment, to clean up
_STAGED_NAME = re.compile(r"[0-9a-f]{32}\.part|\d+-\d+\.(parquet|npy|rows|columns|faiss|tag)")
_MARKER_PART = re.compile(r"INDEX\.[0-9a-f]{32}\.part")
_OF_THE_SYSTEM = re.compile(
    r"@eadir|#recycle|#snapshot|lost\+found|system volume information|\$recycle\.bin|recycler|found\.\d{3}"
    r"|\.ds_store|\.apdisk|\.trashes|\.trash(-\d+)?|\.spotlight-v100|\.fseventsd|\.temporaryitems"
    r"|\.documentrevisions-v100|\.stfolder.*|\.stversions|\.stignore|\.snapshots?|\.zfs"
    r"|thumbs\.db|desktop\.ini|\.directory"
)
"""What a system, a NAS, a file manager or a synchroniser puts into an empty folder or drive by itself."""


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
        other = next((folder for folder in Path(os.path.realpath(index_dir)).parents if is_index(folder)), None)
        if other is not None:
            raise NotAnIndex(index_dir, f"it is in another index ({other})")
        if index_dir.is_symlink() and not index_dir.exists():
            raise StorageError(
                index_dir,
                f"it is a link to {os.path.realpath(index_dir)}, which is not there",
                "Connect the drive with the index. Remove the link only if the index no longer exists.",
            )
        index_dir.mkdir(parents=True, exist_ok=True)
        inside = [entry.name for entry in os.scandir(index_dir)]
        foreign = [
            name
            for name in inside
            if not _OF_THE_SYSTEM.fullmatch(name.lower())
            and not _MARKER_PART.fullmatch(name)
            and not (name == NEW and is_new(index_dir))
        ]
        if foreign:
            raise NotAnIndex(index_dir, f"it contains other files ({', '.join(sorted(foreign)[:3])})")
        _write_marked(index_dir, NEW, NOTHING_YET)
        _write_marker(index_dir)


def _write_marker(index_dir: Path) -> None:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    _write_marked(index_dir, MARKER, marker_line(FORMAT_VERSION, uuid.uuid4().hex, made))
    sync_folder(index_dir)


def _write_marked(index_dir: Path, name: str, raw: bytes) -> None:
    part = index_dir / f"{MARKER}.{uuid.uuid4().hex}.part"
    try:
        _write_synced(part, raw)
        part.replace(index_dir / name)
    finally:
        unlink_own(part)


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
        self._written: set[str] = set()  # names of files
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
                if _is_old(path):
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

    def add_file(self, folder: str, suffix: str, write: Callable[[HashingFile], object]) -> FileRef:
        """Write one immutable file: staged, synced, named by the hash of its bytes.

        Raises: OutOfSpace, StorageError.
        """
        self._check_place()
        ref = add_file(self.index_dir, folder, suffix, write)
        self._written.add(ref.path)
        return ref

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
        with _locked_commit(self.index_dir) as lock:
            self._base, _ = _completed(self.index_dir, lock, self._check_place)
        self._has_read = True
        return self._base

    def commit(self, manifest: Manifest, *, repaired: bool = False) -> Manifest:
        """Make `manifest` the current generation (its number, time and ancestors are set here).

        Tags that were saved since this writer read the index are kept. `repaired`: what is there may be damaged, and
        nothing is deleted afterwards. Raises: OutOfSpace, CorruptIndex, StorageError.
        """
        self._check_place()
        with _locked_commit(self.index_dir) as lock:
            line = _line_of_current(self.index_dir)
            before: Manifest | None = None
            ref: FileRef | None = None
            try:
                before, ref = _completed(self.index_dir, lock, self._check_place)
            except CorruptIndex:
                if not repaired or self._base is not None:
                    raise
            else:
                line = _line_of_current(self.index_dir)
                if repaired and self._base is None and before is not None:
                    raise StorageError(self.index_dir, "it can be read again now", NOTHING_LOST)
                manifest = self._with_tags_of(manifest, before)
            if before is None:  # what was found instead of a damaged one
                before, ref = _known_as(self.index_dir, manifest)
            check = Check(self.index_dir, self._check_place, lock, line)
            _check_files(self.index_dir, dataclasses.replace(manifest, tags_before=()).files(), before)
            manifest = _commit(self.index_dir, manifest, _ancestors(self.index_dir, before, ref), check)
            self._base, self._has_read = manifest, True
            if not repaired:
                _collect(self.index_dir, [manifest, *([] if before is None else [before])], self._written)
        return manifest

    def _check_place(self) -> None:
        """Raise StorageError unless the folder is still the one that this writer locked."""
        _check_place(self.index_dir, self._place)
        if self._lock is not None and not self._lock.is_held():
            raise StorageError(self.index_dir, "its LOCK was deleted, or taken over, in the meantime", NOTHING_LOST)

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
        # What was saved, changed or removed since, and beside it what this writer changed.
        kept, known, now = ({key_of(ref.name, ref.kind): ref for ref in m.tags} for m in (manifest, base, before))
        kept |= {name: ref for name, ref in now.items() if ref != known.get(name)}
        if before.generation > base.generation:  # it comes after ours: elsewhere each may have tags of its own
            kept = {name: ref for name, ref in kept.items() if name in now or name not in known}
        features = tuple(dict.fromkeys((*before.writer_features, *manifest.writer_features)))
        tags = tuple(kept[name] for name in sorted(kept))
        return dataclasses.replace(
            manifest,
            generation=max(manifest.generation, before.generation),
            tags=tags,
            tags_before=tuple(dict.fromkeys((*before.tags_before, *manifest.tags_before))),
            writer_features=features,
        )

    def collect(self) -> int:
        """Delete what no kept generation refers to. Returns the bytes freed. Raises: ClipsearchError."""
        self._check_place()
        with _locked_commit(self.index_dir):
            current = _current(self.index_dir)
            self._check_current(current)
            self._check_place()
            return 0 if current is None else _collect(self.index_dir, [current], self._written)

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
            manifest,
            generation=0,
            created_at="",
            tags=(),
            tags_before=(),
            ancestors=None,
            writer_features=(),
            format_version=0,
        )
    )


def add_file(index_dir: Path, folder: str, suffix: str, write: Callable[[HashingFile], object]) -> FileRef:
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
            try:
                part.replace(index_dir / name)
            except FileNotFoundError as error:
                raise StorageError(index_dir, "another program deletes files in it", NOTHING_LOST) from error
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
        before, ref = _completed(index_dir, lock, lambda: _check_place(index_dir, place))
        if before is None:
            raise IndexNotFound([index_dir])
        line = _line_of_current(index_dir)
        changed = change(before)
        changed = dataclasses.replace(changed, tags_before=before.tags)
        known = set(before.files())
        _check_files(index_dir, [file for tag in changed.tags for file in tag.files() if file not in known], before)
        check = Check(index_dir, lambda: _check_place(index_dir, place), lock, line)
        after = _commit(index_dir, changed, _ancestors(index_dir, before, ref), check)
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
    return _current_and_file(index_dir)[0]


def _current_and_file(index_dir: Path) -> tuple[Manifest | None, FileRef | None]:
    try:
        with open_snapshot(index_dir) as snapshot:
            manifest = snapshot.manifest
    except IndexNotFound:
        return None, None
    for feature in manifest.writer_features:
        if feature not in KNOWN_WRITER_FEATURES:
            raise UnsupportedIndex(index_dir, f"the writer feature {feature!r}")
    return manifest, snapshot.ref


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """Raises StorageError when called, unless the folder and the lock are still ours, and CURRENT says `line`."""

    index_dir: Path
    place: Callable[[], None]
    lock: FileLock
    line: bytes | None

    def __call__(self) -> None:
        self.place()
        if not self.lock.is_held():
            raise StorageError(
                self.index_dir, f"its file {COMMIT} was deleted, or taken over, in the meantime", NOTHING_LOST
            )
        if _line_of_current(self.index_dir) != self.line:
            raise StorageError(self.index_dir, "another program wrote a generation in the meantime", NOTHING_LOST)


def _line_of_current(index_dir: Path) -> bytes | None:
    try:
        return read_plain(index_dir / "CURRENT")
    except OSError:
        return None


def _completed(
    index_dir: Path, lock: FileLock, check_place: Callable[[], None]
) -> tuple[Manifest | None, FileRef | None]:
    """The current generation and its file, for who holds COMMIT: first a commit is completed that was cut short after
    its manifest. A manifest numbered above CURRENT's that does not come from it is kept, and said."""
    with storage_errors(index_dir):
        return _completed_or_said(index_dir, lock, check_place)


def _completed_or_said(
    index_dir: Path, lock: FileLock, check_place: Callable[[], None]
) -> tuple[Manifest | None, FileRef | None]:
    current, ref = _current_and_file(index_dir)
    if current is None or ref is None:
        return None, None
    found, is_next = current.generation, True
    while (after := _after(index_dir, current, ref)) is not None:
        number, raw, ancestors = after
        is_next = is_next and current.generation == found and ancestors[0] == ref
        line = _line_of_current(index_dir)
        _make_current(index_dir, number, raw, Check(index_dir, check_place, lock, line))
        current, ref = _current_and_file(index_dir)
        if current is None or ref is None:
            return None, None
    if not is_next:  # no single commit that was cut short
        warnings.warn(
            f"the file CURRENT of {index_dir} named the older generation {found}: an older index may have "
            f"been restored. Generation {current.generation}, which comes from it, is the current one again",
            IndexWarning,
            stacklevel=2,
        )
    above = [number for number in manifests_of(index_dir) if number > current.generation]
    if above:
        warnings.warn(
            f"{index_dir} has a generation {max(above)}, but its file CURRENT names the older generation "
            f"{current.generation}: an older CURRENT may have been restored. Nothing of it is deleted. To go back to "
            "the newer one: clipsearch verify --repair",
            IndexWarning,
            stacklevel=2,
        )
    return current, ref


def _after(index_dir: Path, current: Manifest, ref: FileRef) -> tuple[int, bytes, tuple[FileRef, ...]] | None:
    """The newest whole generation that comes from the current one: its number, its manifest, its ancestors."""
    for number, path in reversed(manifests_of(index_dir).items()):
        if number <= current.generation:
            break
        try:
            raw = read_plain(path)
            manifest = load_manifest(path, raw, index_dir)
            ancestors = manifest.ancestors or ()
            if ref in ancestors and manifest.generation == number and not lacking(index_dir, manifest.files()):
                return number, raw, ancestors
        except (CorruptIndex, UnsupportedIndex, FileNotFoundError):
            continue
    return None


def lacking(index_dir: Path, refs: Iterable[FileRef]) -> list[FileRef]:
    """Those of the files that are not there with their size. Raises: OSError for what may be there."""
    found = []
    for ref in refs:
        try:
            if (index_dir / ref.path).stat().st_size == ref.size_bytes:
                continue
        except (FileNotFoundError, NotADirectoryError):
            pass
        found.append(ref)
    return found


def _check_files(index_dir: Path, refs: Iterable[FileRef], before: Manifest | None) -> None:
    """Raise unless every file that a manifest is to name is there. Raises: CorruptIndex, StorageError."""
    with storage_errors(index_dir):
        gone = lacking(index_dir, refs)
    if not gone:
        return
    if before is not None and gone[0] in before.files():
        raise CorruptIndex(index_dir / gone[0].path, "the file is missing or cut short", index=index_dir)
    raise StorageError(index_dir, f"another program deleted {gone[0].path} in the meantime", NOTHING_LOST)


def _known_as(index_dir: Path, manifest: Manifest) -> tuple[Manifest | None, FileRef | None]:
    """The generation that `manifest` was made from, and its file, if it is there."""
    path = manifests_of(index_dir).get(manifest.generation)
    if path is not None:
        with contextlib.suppress(OSError, ClipsearchError):
            raw = read_plain(path)
            known = load_manifest(path, raw, index_dir)
            if known.created_at == manifest.created_at:
                return known, FileRef(f"manifests/{path.name}", len(raw), xxhash.xxh3_128_hexdigest(raw))
    return None, None


def _ancestors(index_dir: Path, before: Manifest | None, ref: FileRef | None) -> tuple[FileRef, ...]:
    """What comes after `before` names as its ancestors."""
    if before is None or ref is None:
        return ()
    older = before.ancestors
    if older is None:
        older = ()
        for number, path in reversed(manifests_of(index_dir).items()):
            if number < before.generation:
                with contextlib.suppress(OSError):
                    raw = read_plain(path)
                    older = (*older, FileRef(f"manifests/{path.name}", len(raw), xxhash.xxh3_128_hexdigest(raw)))
    return (ref, *(one for one in older if os.path.lexists(index_dir / one.path)))


def _commit(index_dir: Path, manifest: Manifest, ancestors: tuple[FileRef, ...], check: Check) -> Manifest:
    """Write a generation, and make it the current one."""
    with storage_errors(index_dir):
        generation = max(manifest.generation, _highest_name(index_dir)) + 1
        manifest = dataclasses.replace(
            manifest,
            generation=generation,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            ancestors=ancestors,
            format_version=FORMAT_VERSION,
            reader_features=needed_features(manifest),
        )
        raw = dump_manifest(manifest)
        staged = _stage(index_dir, raw)
        try:
            check()
            target = index_dir / "manifests" / manifest_name(generation)
            try:
                _put_if_absent(staged, target)
            except FileExistsError as error:
                problem = f"another program wrote generation {generation} in the meantime"
                raise StorageError(index_dir, problem, NOTHING_LOST) from error
        finally:
            unlink_own(staged)
        try:
            sync_folder(index_dir / "manifests")
            _make_current(index_dir, generation, raw, check)
        except BaseException:
            if _line_of_current(index_dir) == check.line:  # it is not current, and we wrote it
                unlink_own(target)
            raise
    return manifest


def _make_current(index_dir: Path, generation: int, raw: bytes, check: Check) -> None:
    """Let CURRENT name a manifest that is there."""
    line = f"clipsearch {FORMAT_VERSION} {generation:08d} {xxhash.xxh3_128_hexdigest(raw)}\n".encode("ascii")
    staged = _stage(index_dir, line)
    try:
        check()
        staged.replace(index_dir / "CURRENT")
    finally:
        unlink_own(staged)
    sync_folder(index_dir)
    # An index that loses its manifests is then known from one that never had any.
    check.lock.write(committed(json.loads(raw)))
    if is_new(index_dir):
        unlink_own(index_dir / NEW)
    dataclasses.replace(check, line=line)()  # before anything is deleted


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


def _collect(index_dir: Path, kept: list[Manifest], written: Container[str] = ()) -> int:
    """Delete what neither `kept` (the current generation first) nor any generation that a reader holds refers to.
    Returns the bytes freed. `written`: files that this writer wrote.

    Only ancestors of the current generation are forgotten, and the last one of these is kept too. Where anything cannot
    be read, nothing is deleted.
    """
    try:
        if not _is_own_folder(index_dir / "manifests"):
            return 0
        manifests = manifests_of(index_dir)
        current = kept[0]
        ancestors = current.ancestors or ()
        known = {manifest.generation for manifest in kept}
        refs: set[str] = {ref.path for manifest in kept for ref in manifest.files()}
        locked: list[int] = []
        forgotten: list[Path] = []
        try:
            superseded: set[str] = set()  # files of generations that are forgotten now: these we wrote
            for number, path in manifests.items():
                if number == current.generation:
                    continue
                raw = read_plain(path)
                its = {ref.path for ref in load_manifest(path, raw, index_dir).files()}
                own = FileRef(f"manifests/{path.name}", len(raw), xxhash.xxh3_128_hexdigest(raw))
                if number not in known and own in ancestors[1:]:
                    fd = _lock_unless_held(path)
                    if fd is not None:
                        locked.append(fd)
                        forgotten.append(path)
                        superseded |= its
                        continue
                refs |= its
            for path in copies_of_manifests(index_dir):
                refs |= {ref.path for ref in load_manifest(path, read_plain(path), index_dir).files()}
            orphans = [
                path
                for path in own_files(index_dir, refs)
                for name in [f"{path.parent.name}/{path.name}"]
                if name in superseded or name in written or _is_left_over(path)
            ]
            freed = sum(unlink_own(path) for path in (*forgotten, *orphans))
        finally:
            for fd in locked:
                os.close(fd)
    except (OSError, ClipsearchError) as error:
        warnings.warn(f"cannot delete old files of {index_dir}: {error}", IndexWarning, stacklevel=2)
        return 0
    return freed


def copies_of_manifests(index_dir: Path) -> Iterator[Path]:
    """Manifests under names that we do not give: a file synchroniser puts another machine's beside ours. What they name
    is somebody's. Other people's JSON files are none of these. Raises: OSError."""
    for path in (index_dir / "manifests").iterdir():
        if path.suffix == ".json" and MANIFEST_NAME.fullmatch(path.name) is None and path.is_file():
            with contextlib.suppress(CorruptIndex):
                load_manifest(path, read_plain(path), index_dir)
                yield path


def _is_left_over(path: Path) -> bool:
    """Whether a file that no generation names may be deleted. Raises: OSError."""
    return path.parent.name != "tags" and _is_old(path) and is_named_by_its_content(path)


def _is_old(path: Path) -> bool:
    """Whether a file has been here for GRACE_S, unless clocks are wrong. Raises: OSError."""
    status = path.stat()
    return time.time() - max(status.st_mtime, status.st_ctime) > GRACE_S


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
            held = error.errno in BUSY or time.time() - os.fstat(fd).st_mtime < GRACE_S
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
    match = OWN_NAME.fullmatch(name)
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
