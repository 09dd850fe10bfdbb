"""Notice when a folder of pictures changes. Knows when to look again, not what changed: a run finds that out.

A burst of changes is one notice, given once it has been quiet for a while. Some of the system's notices (watchfiles)
can be lost when very many come at once, so there is one more now and then for nothing; on network file systems, which
do not tell of what other machines do, there are only those.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipsearch.errors import MissingExtra
from clipsearch.formats import HEAD_BYTES, identify, is_candidate
from clipsearch.indexer.ignore import MARKERS, Folder, Ignore

QUIET_S = 1.0
LONGEST_BURST_S = 30.0
LOOK_ANYWAY_S = 900.0
POLL_S = 60.0
REMEMBERED_PATHS = 100_000
_IN_DELETE_SELF = 0x400

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.rclone", "fuse.s3fs"}
)


def check_watching() -> None:
    """Raise MissingExtra unless folders can be watched."""
    _watchfiles()


def changes(
    folder: Path,
    index_dir: Path,
    stop: threading.Event,
    *,
    exclude: Sequence[str] = (),
    notice: Callable[[str], None] = lambda line: None,
    quiet_s: float = QUIET_S,
    look_anyway_s: float = LOOK_ANYWAY_S,
    poll_s: float = POLL_S,
    polling: bool | None = None,
) -> Iterator[int]:
    """Yield how many paths changed, whenever some did and it is quiet again; 0 when it is time to look anyway.

    Ends soon after `stop` is set. What happens while the caller works on one notice is part of the next. What a scan
    with `exclude` would pass over is no change, nor is a file that is no picture by its name. `polling` (None: on
    network file systems, and where the system has no more watches, which `notice` is told) only yields 0, every
    `poll_s`. Raises: MissingExtra.
    """
    watchfiles = _watchfiles()
    if polling is None:
        polling = file_system(folder) in NETWORK_FILE_SYSTEMS
    root = os.path.realpath(folder)
    if not polling:
        interest = _Interest(root, os.path.realpath(index_dir), exclude)
        try:
            notices = watchfiles.watch(
                root,
                watch_filter=lambda change, path: interest.counts(change.raw_str(), path),
                debounce=int(LONGEST_BURST_S * 1000),
                step=int(quiet_s * 1000),
                stop_event=stop,
                rust_timeout=1000,
                yield_on_timeout=True,
                raise_interrupt=True,
                ignore_permission_denied=True,
                force_polling=False,
            )
            looked_at = -math.inf  # what changed before watching began is looked for at once
            for changed in notices:
                if stop.is_set():
                    return
                if no_watches_left(root):  # some folders are watched then, and watchfiles does not say which
                    notices.close()
                    break
                if changed or time.monotonic() - looked_at >= look_anyway_s:
                    yield len(changed)
                    interest.begin_again()
                    looked_at = time.monotonic()
            else:
                return
        except OSError:  # not even one watch to be had
            pass
        notice(
            f"the system has no more watches for folders: looking every {poll_s:.0f} seconds instead. {_MORE_WATCHES}"
        )
        yield 0
    while not stop.wait(poll_s):
        yield 0


_MORE_WATCHES = "On Linux, sudo sysctl fs.inotify.max_user_watches=1048576 allows more."


class _Interest:
    """Tells changes that a scan can find something of from others."""

    def __init__(self, root: str, index: str, exclude: Sequence[str]) -> None:
        self._root = root
        self._prefix = root.rstrip("/") + "/"
        self._index = index
        self._exclude = exclude
        self._no_pictures: set[str] = (
            set()
        )  # paths of files that are none, so that their removal is known for what it is
        self.begin_again()

    def begin_again(self) -> None:
        """Forget what folders looked like: they may be different by the next change."""
        self._ignore = Ignore(self._root, self._exclude)
        self._entered: dict[str, Folder] = {}

    def counts(self, change: str, path: str) -> bool:
        """Whether a change ("added", "modified" or "deleted") of `path` can change what a scan finds."""
        if path == self._index or path.startswith(self._index + os.sep):
            return False
        if not path.startswith(self._prefix):
            return change == "deleted"  # the folder itself
        relative = path[len(self._prefix) :]
        folder, _, name = relative.rpartition("/")
        if name in MARKERS:
            self.begin_again()
            return folder == "" or self._ignore.why(folder, True, self._entered) is None
        kind = "deleted" if change == "deleted" else _kind(path)
        if kind == "deleted" != change:  # gone by now: that is told, too
            return False
        if kind == "folder":
            return change == "added" and self._ignore.why(relative, True, self._entered) is None
        if kind == "file" and not _may_be_a_picture(path, name):
            if len(self._no_pictures) >= REMEMBERED_PATHS:
                self._no_pictures.clear()
            self._no_pictures.add(path)
            return False
        if kind == "deleted" and path in self._no_pictures:
            self._no_pictures.discard(path)
            return False
        # Nobody says whether what is gone was a folder.
        return self._ignore.why(relative, kind == "deleted" and not is_candidate(name), self._entered) is None


def _kind(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "deleted"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _may_be_a_picture(path: str, name: str) -> bool:
    """By its name, and where that says nothing by its first bytes: a log may have a name without an extension."""
    if not is_candidate(name):
        return False
    if os.path.splitext(name)[1]:
        return True
    try:
        with open(path, "rb") as file:
            return identify(file.read(HEAD_BYTES), name) is not None
    except OSError:
        return True


def no_watches_left(folder: str) -> bool:
    """Whether the system refuses one more inotify watch to this user. False where there is no inotify."""
    if sys.platform != "linux":
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return False
    try:
        watch = libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_DELETE_SELF)
        return watch < 0 and ctypes.get_errno() == errno.ENOSPC
    finally:
        os.close(descriptor)


def file_system(folder: Path) -> str | None:
    """The type of the file system that `folder` is on, as in /proc/mounts; None where the system does not say."""
    if sys.platform != "linux":
        return None
    found, longest = None, -1
    place = os.path.realpath(folder)
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.encode("latin-1", "backslashreplace").decode("unicode_escape")  # \040 is a space
        inside = point in ("/", place) or place.startswith(point + "/")
        if inside and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def _watchfiles() -> Any:
    try:
        import watchfiles
    except ImportError:
        raise MissingExtra("watch", "watching a folder") from None
    return watchfiles
