"""Locks of an index, and what the file LOCK says beside being locked.

LOCK is held by the one program that changes pictures, for as long as its run takes. COMMIT is held for the moment of a
commit, by that program or by one that saves a tag meanwhile. Where the file system knows no locks (flock answers
ENOLCK, as NFS without lockd and some FUSE mounts do) a file of its own stands for the lock, as in SQLite's "dot-file"
locking.

For people and pages LOCK says who writes, and how far a run is. The first line names the writer. The second, where
there is one, has a fixed length, so that one write replaces it: stage, files done, files in all, pictures encoded,
seconds since the first file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import stat
import time
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from clipsearch.config import open_plain, read_plain
from clipsearch.errors import IndexLocked, IndexWarning, NotAnIndex

LOCK = "LOCK"
COMMIT = "COMMIT"
NEW = "NEW"
"""A file that is there until the first commit: without it, files of a generation prove that there was one."""
NOTHING_YET = b"clipsearch has committed nothing to this index yet\n"
"""What NEW says."""
HELD_SUFFIX = ".held"
COMMIT_WAIT_S = 60.0
COMMITTED = b"committed\n"
"""What COMMIT says once there was a generation; then, on lines with a CRC-32 each, of which folder the index is, and of
what in it. Nothing else knows that of an index that loses its manifests."""
OF_SOURCE = ("archives", "links", "listed")
"""What COMMIT says beside the root: fields of a manifest."""
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_MOST_BYTES = 1000
_ROOT_LINE = re.compile(rb"committed\n(root \".*\") ([0-9a-f]{8})\n")
_SOURCE_LINE = re.compile(rb"(source \{.*\}) ([0-9a-f]{8})\n")
_HOLDER = re.compile(r"process (\d+) on (.*) since (.*)")


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far the run is that writes an index: `done` of `total` files, in `seconds`; `encoded` became vectors."""

    stage: str
    done: int
    total: int
    encoded: int
    seconds: float

    def line(self) -> bytes:
        """The line of LOCK that says so, always of one length."""
        return f"{self.stage:<8.8}{self.done:>14}{self.total:>14}{self.encoded:>14}{self.seconds:>14.1f}\n".encode()


@dataclass(frozen=True, slots=True)
class WriterState:
    """An index is being written; `progress` is None where the writer does not say how far it is."""

    holder: str
    progress: RunProgress | None


def committed(manifest: Mapping[str, Any]) -> bytes:
    """What to write into COMMIT for a manifest, as its file says it."""
    root = f"root {json.dumps(manifest['root'])}".encode("ascii")
    source = b"source " + json.dumps({name: manifest.get(name, "") for name in OF_SOURCE}).encode("ascii")
    return COMMITTED + _with_sum(root, root) + _with_sum(source, root + source)


def _with_sum(said: bytes, summed: bytes) -> bytes:
    return said + f" {zlib.crc32(summed):08x}\n".encode("ascii")


def committed_root(index_dir: Path) -> str | None:
    """The root that COMMIT names, None where it names none that is whole."""
    return _read_commit(index_dir)[0]


def committed_source(index_dir: Path) -> dict[str, str] | None:
    """What COMMIT says of the source beside its root, by OF_SOURCE; None where it says nothing whole, as in indexes of
    earlier versions."""
    return _read_commit(index_dir)[1]


def _read_commit(index_dir: Path) -> tuple[str | None, dict[str, str] | None]:
    try:
        said = read_plain(index_dir / COMMIT)
        line = _ROOT_LINE.match(said)
        if line is None or _with_sum(line[1], line[1]) != line[0].removeprefix(COMMITTED):
            return None, None
        root = json.loads(line[1].removeprefix(b"root "))
        if not isinstance(root, str):
            return None, None
        # What an earlier version wrote is shorter, and may stand before the rest of a line of ours of another root.
        more = _SOURCE_LINE.match(said, line.end())
        if more is None or _with_sum(more[1], line[1] + more[1]) != more[0]:
            return root, None
        source = json.loads(more[1].removeprefix(b"source "))
    except (OSError, ValueError):
        return None, None
    is_whole = source.keys() == set(OF_SOURCE) and all(isinstance(value, str) for value in source.values())
    return root, source if is_whole else None


class FileLock:
    """An exclusive lock on a file of an index, held from when this is made until `release`.

    Raises: IndexLocked if another process holds it for longer than `wait_s`, OSError.
    """

    def __init__(self, index_dir: Path, name: str, *, wait_s: float = 0.0) -> None:
        self._held: Path | None = None  # the file that stands for the lock where there is no flock
        self._said = b""  # what we wrote into it
        path = self._path = index_dir / name
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotAnIndex(index_dir, f"its {name} is a link to another file") from error
            raise
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise NotAnIndex(index_dir, f"its {name} is not a plain file")
        self._is_ours_alone = status.st_nlink == 1  # what another name shares is locked, but not written
        deadline = time.monotonic() + wait_s
        try:
            while not self._try(path):
                if time.monotonic() >= deadline:
                    raise IndexLocked(index_dir, holder_of(self.fd) or self._holder_beside(path) or "another process")
                time.sleep(0.02)
        except BaseException:
            os.close(self.fd)
            raise

    def _try(self, path: Path) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except InterruptedError:
            return False
        except OSError as error:
            if error.errno in BUSY:
                return False
            return self._try_without_flock(path, error)
        return True

    def _try_without_flock(self, path: Path, error: OSError) -> bool:
        """A file that only one process can make stands for the lock; one whose process is gone no longer counts."""
        held = path.with_name(path.name + HELD_SUFFIX)
        for _ in range(2):
            try:
                fd = os.open(held, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except FileExistsError:
                said = self._stale(held)
                if said is None or not self._take_away(held, said):
                    return False
                continue
            self._said = f"{who()}\n{numbered_by()}\n".encode()
            with os.fdopen(fd, "wb") as file:
                file.write(self._said)
            self._held = held
            if path.name == LOCK:
                warnings.warn(
                    f"the file system of {path.parent} cannot lock files ({error.strerror}); {held.name} replaces "
                    "the lock. Index from one machine at a time, or put the index on a local disk with: --index DIR",
                    IndexWarning,
                    stacklevel=2,
                )
            return True
        return False

    @staticmethod
    def _take_away(held: Path, said: bytes) -> bool:
        """Take away a lock file that was judged stale, saying `said`. False if another has taken it over since then.

        It is renamed before it is deleted, so that what is deleted is what was judged.
        """
        moved = held.with_name(f"{held.name}.{os.urandom(16).hex()}")
        try:
            held.rename(moved)
        except FileNotFoundError:
            return True
        try:
            if read_plain(moved, _MOST_BYTES) == said:
                return True
            try:
                os.link(moved, held)
            except FileExistsError:
                pass  # two have it now: whose file this is not will see that before it commits (`is_held`)
            except OSError:  # no hard links here
                if not held.exists():
                    moved.rename(held)
            return False
        finally:
            with contextlib.suppress(OSError):
                moved.unlink()

    def is_held(self) -> bool:
        """Whether the lock is still ours, as far as its file says."""
        try:
            if self._held is None:
                return self.fd >= 0 and os.path.samestat(os.fstat(self.fd), self._path.lstat())
            return read_plain(self._held, _MOST_BYTES) == self._said
        except OSError:
            return False

    @staticmethod
    def _stale(held: Path) -> bytes | None:
        """What a lock file says whose process is gone for certain (its number can be asked for here), else None.

        A machine's name proves nothing: containers, and machines set up from one image, share one.
        """
        try:
            said = read_plain(held, _MOST_BYTES)
        except OSError:
            return None
        holder, _, where = said.decode("utf-8", "replace").partition("\n")
        match, here = _HOLDER.match(holder), numbered_by()
        if match is None or match[2] != socket.gethostname() or not here or where.strip() != here:
            return None
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            return said
        except (OSError, OverflowError):
            return None
        return None

    @staticmethod
    def _holder_beside(path: Path) -> str:
        held = path.with_name(path.name + HELD_SUFFIX)
        try:
            said = read_plain(held, _MOST_BYTES).decode("utf-8", "replace").strip()
        except OSError:
            return ""
        return f"{said} (if that process is gone, delete {held})"

    def write(self, said: bytes, at: int = 0) -> None:
        """Say something in the lock's file; failing to is no error: a full disk must not keep us from freeing it."""
        if self._is_ours_alone:
            with contextlib.suppress(OSError):
                os.pwrite(self.fd, said, at)

    def clear(self) -> None:
        """Say nothing any more."""
        if self._is_ours_alone:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, 0)

    def release(self) -> None:
        """Let go. Once is enough."""
        if self.fd >= 0:
            if self._held is not None:
                if self.is_held():
                    with contextlib.suppress(OSError):
                        self._held.unlink()
                self._held = None
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_new(index_dir: Path) -> bool:
    """Whether nothing was ever committed to an index, as far as its file NEW says."""
    try:
        return read_plain(index_dir / NEW, _MOST_BYTES) == NOTHING_YET
    except OSError:
        return False


def who() -> str:
    """This process, as LOCK names it."""
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now().isoformat(' ', 'seconds')}"


def numbered_by() -> str:
    """What gives this process its number: a run of a system and, of Linux, a namespace. "" if nobody can tell.

    No two processes to which this says the same have one number at the same time.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"boot {boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        pass
    if os.uname().sysname == "Linux":  # without /proc it cannot be told from another container
        return ""
    import uuid

    node = uuid.getnode()
    return "" if node >> 40 & 1 else f"node {node:012x}"  # that bit: made up, as no network card was found


def read_writer(index_dir: Path) -> WriterState | None:
    """Who is writing an index, or None.

    A free lock is tried only if its file names a writer, one that was killed: trying it keeps others from taking it.
    """
    try:
        with open_plain(index_dir / LOCK) as file:
            said = file.read(_MOST_BYTES)
            if not said:
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parsed(said)
            except OSError:
                held = index_dir / (LOCK + HELD_SUFFIX)
                return _parsed(said) if held.exists() and FileLock._stale(held) is None else None
    except OSError:
        pass
    return None


def holder_of(fd: int) -> str:
    """Who holds the lock, as its file says."""
    return _parsed(os.pread(fd, _MOST_BYTES, 0)).holder


def _parsed(said: bytes) -> WriterState:
    holder, _, rest = said.decode("utf-8", "replace").partition("\n")
    try:
        stage, done, total, encoded, seconds = rest.split()
        progress = RunProgress(stage, int(done), int(total), int(encoded), float(seconds))
    except ValueError:
        return WriterState(holder.strip(), None)
    return WriterState(holder.strip(), progress)
