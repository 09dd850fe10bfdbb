"""Notice when a folder of pictures changes. Knows when to look again, not what changed: a run finds that out.

A burst of changes is one notice, given once it has been quiet for a while. Some of the system's notices (watchfiles)
can be lost when very many come at once, so there is one more now and then for nothing; on network file systems, which
do not tell of what other machines do, there are only those. Nor does the system tell that another drive is where the
watched one was: that is looked at every second.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipsearch.archives import is_archive_name
from clipsearch.config import read_plain
from clipsearch.errors import ClipsearchError, MissingExtra
from clipsearch.indexer.ignore import MARKERS, OF_DATASET, Folder, Ignore
from clipsearch.pictures.formats import HEAD_BYTES, classify_name, extra_is_installed, identify, is_in_parts
from clipsearch.pictures.metadata.sidecars import says_of_whom
from clipsearch.store import open_snapshot

QUIET_S = 1.0
LONGEST_BURST_S = 30.0
LOOK_ANYWAY_S = 900.0
POLL_S = 60.0
LOOK_AT_PLACE_S = 1.0
GROWING_S = 60.0
"""A file that changes again within so long of a notice of it is being written: a download, a recording, an export."""
SETTLED_S = 10.0
"""So long it must be quiet before there is another notice of it."""
REMEMBERED_PATHS = 100_000
_NO_NUMBER = " ?"  # said of a mount that the system does not tell from the next at its place
_IN_DELETE_SELF = 0x400
_AT_FDCWD = -100
_AS_CACHED = 0x4000 | 0x800  # AT_STATX_DONT_SYNC and AT_NO_AUTOMOUNT: no file system is asked
_STATX_MNT_ID_UNIQUE = 0x4000
_STX_MNT_ID = 0x90  # where it is in struct statx
_STATX_BYTES = 256

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
    failed: threading.Event | None = None,
    quiet_s: float = QUIET_S,
    look_anyway_s: float = LOOK_ANYWAY_S,
    poll_s: float = POLL_S,
    settled_s: float = SETTLED_S,
    polling: bool | None = None,
) -> Iterator[int]:
    """Yield how many paths changed, whenever some did and it is quiet again; 0 when it is time to look anyway.

    Ends soon after `stop` is set. What happens while the caller works on one notice is part of the next. What a scan
    with `exclude` would pass over is no change, nor is a file that is no picture by its name. A file that changes soon
    after a notice of it is told of again once it was quiet for `settled_s`. `polling` (None: on network file systems,
    and where the system has no more watches, which `notice` is told) only yields 0, every `poll_s`. A caller whose look
    did not succeed sets `failed`, and is told to look again after `poll_s`.

    A drive that goes or comes back, at the folder or below it, is a change, and `notice` is told. While the folder
    itself cannot be seen nothing is yielded. No error of the system ends this. Raises: MissingExtra.
    """
    watchfiles = _watchfiles()
    place = Place(folder, stop, poll_s)
    no_more, told = False, ""
    if place.problem:
        notice(_out_of_sight(place))
    while not stop.is_set():
        try:
            if place.problem:
                place.wait(math.inf)
            elif no_more or (file_system(folder) in NETWORK_FILE_SYSTEMS if polling is None else polling):
                while not place.wait(poll_s):
                    yield 0
            else:
                look_again = failed or threading.Event()
                yield from _notices(
                    watchfiles, place, index_dir, exclude, look_again, quiet_s, look_anyway_s, poll_s, settled_s
                )
                told = ""
        except _NoWatchesLeft:
            no_more = True
            notice(f"{_NO_MORE}: checking every {poll_s:.0f} seconds instead. {_MORE_WATCHES}")
            yield 0
        except (OSError, RuntimeError, UnicodeError) as error:  # watchfiles has a RuntimeError of its own
            words = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if isinstance(error, UnicodeError):
                words = "the system's notices need names in UTF-8"
            if not _identity(folder)[2]:
                if words != told:
                    notice(f"{folder} cannot be watched now ({words}): checking every {poll_s:.0f} seconds")
                    told = words
                yield 0
                place.wait(poll_s)
        if not stop.is_set():
            lines, moved = place.look_again()
            for line in lines:
                notice(line)
            if moved and not place.problem and (no_more or polling):
                yield 0


def _notices(
    watchfiles: Any,
    place: Place,
    index_dir: Path,
    exclude: Sequence[str],
    failed: threading.Event,
    quiet_s: float,
    look_anyway_s: float,
    poll_s: float,
    settled_s: float,
) -> Iterator[int]:
    """As `changes`, by the system's notices, until the place is another. Raises: OSError, _NoWatchesLeft."""
    root = place.root
    interest = _Interest(root, os.path.realpath(index_dir), exclude)
    growing = _Growing(settled_s)
    try:
        watching = watchfiles.watch(
            root,
            watch_filter=None,
            debounce=int(LONGEST_BURST_S * 1000),
            step=int(quiet_s * 1000),
            stop_event=place,
            rust_timeout=int(LOOK_AT_PLACE_S * 1000),
            yield_on_timeout=True,
            raise_interrupt=True,
            ignore_permission_denied=True,
            force_polling=False,
        )
        looked_at = -math.inf  # what changed before watching began is looked for at once
        with contextlib.closing(watching):
            for noticed in watching:
                if place.is_set():
                    return
                if no_watches_left(root):  # some folders are watched then, and watchfiles does not say which
                    raise _NoWatchesLeft
                changed = growing.settled()
                for change, path in noticed:
                    kind = change.raw_str()
                    changed += interest.counts(kind, path) and growing.counts(kind, path)
                if changed or time.monotonic() - looked_at >= (poll_s if failed.is_set() else look_anyway_s):
                    failed.clear()
                    growing.tell()
                    yield changed
                    interest.begin_again()
                    looked_at = time.monotonic()
                if any(path == root and change.raw_str() == "deleted" for change, path in noticed):
                    return  # if there is one again, it is not the one that is watched
    except OSError:
        if no_watches_left(root):  # not even one
            raise _NoWatchesLeft from None
        raise


class _NoWatchesLeft(Exception):
    """The system has no more watches for folders."""


_NO_MORE = "the system has no more watches for folders"
_MORE_WATCHES = "On Linux, sudo sysctl fs.inotify.max_user_watches=1048576 allows more."


class _Interest:
    """Tells changes that a scan can find something of from others."""

    def __init__(self, root: str, index: str, exclude: Sequence[str]) -> None:
        self._root = root
        self._prefix = root.rstrip("/") + "/"
        self._index = index
        self._exclude = exclude
        self._has_archives = _looks_into_archives(Path(index))
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
        is_archive = self._has_archives and is_archive_name(name)
        if kind == "file" and not is_archive and not says_of_whom(name) and not _may_be_a_picture(path, name):
            if len(self._no_pictures) >= REMEMBERED_PATHS:
                self._no_pictures.clear()
            self._no_pictures.add(path)
            return False
        if kind == "deleted" and path in self._no_pictures:
            self._no_pictures.discard(path)
            return False
        # Nobody says whether what is gone was a folder.
        return self._ignore.why(relative, kind == "deleted" and not _is_read(name), self._entered) is None


def _looks_into_archives(index_dir: Path) -> bool:
    """Whether runs look into tars and tables."""
    try:
        with open_snapshot(index_dir) as snapshot:
            return snapshot.manifest.archives in ("read", OF_DATASET)
    except (ClipsearchError, OSError):
        return False


class _Growing:
    """Files that change again and again: of these there is a notice when they are done, not each second."""

    def __init__(self, settled_s: float) -> None:
        self._settled_s = settled_s
        self._told: dict[str, float] = {}  # what there was a notice of, and when
        self._to_tell: set[str] = set()
        self._waiting: dict[str, float] = {}  # what is being written, and when it changed last

    def counts(self, change: str, path: str) -> bool:
        """Whether a change is told of now, and not when its file has settled."""
        now = time.monotonic()
        if change == "deleted" or path.rpartition("/")[2] in MARKERS:
            self._waiting.pop(path, None)
            self._told.pop(path, None)
            return True
        if path in self._waiting or now - self._told.get(path, -math.inf) < GROWING_S:
            self._waiting[path] = now
            return False
        self._to_tell.add(path)
        return True

    def settled(self) -> int:
        """How many have been quiet for long enough."""
        until = time.monotonic() - self._settled_s
        found = [path for path, changed_at in self._waiting.items() if changed_at <= until]
        for path in found:
            del self._waiting[path]
        self._to_tell.update(found)
        return len(found)

    def tell(self) -> None:
        """Note that there is a notice now of all that counted."""
        now = time.monotonic()
        self._told = {path: at for path, at in self._told.items() if now - at < GROWING_S}
        if len(self._told) < REMEMBERED_PATHS:
            self._told.update(dict.fromkeys(self._to_tell, now))
        self._to_tell.clear()


def _kind(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "deleted"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _is_read(name: str) -> bool:
    """Whether a run opens a file of this name: a video or a document only where what reads them is there."""
    return classify_name(name) is None and (not is_in_parts(name) or extra_is_installed(name))


def _may_be_a_picture(path: str, name: str) -> bool:
    """By its name, and where that says nothing by its first bytes: a log may have a name without an extension."""
    if not _is_read(name):
        return False
    if os.path.splitext(name)[1]:
        return True
    try:
        return identify(read_plain(path, HEAD_BYTES), name) is not None
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


class Place:
    """Where a folder really is: what is watched is a folder of one file system, not whatever is at a path.

    Like an event that is set once the folder, or a drive that is mounted at it or below it, is another than when it
    was last looked at, or once `stop` is set.
    """

    def __init__(self, folder: Path, stop: threading.Event, patience_s: float) -> None:
        """What only may concern the folder (drives elsewhere, that links may lead to) counts once in `patience_s`."""
        self.folder = folder
        self._stop = stop
        self._patience_s = patience_s
        self._table_changes = _TableChanges()
        self._gone: set[str] = set()
        self._suspects: set[str] = set()
        self._suspected_at = -math.inf
        self._may_have_moved = False
        self._see()

    def _see(self) -> None:
        self._mounts = mounts()
        self.root, self._identity, self.problem = _identity(self.folder)
        self._here, self._elsewhere = _near(self._mounts, self.root)

    def is_set(self) -> bool:
        """Whether it is another, or `stop` is set."""
        if self._stop.is_set():
            return True
        root, identity, _ = _identity(self.folder)
        now = mounts()
        noted = self._table_changes.seen()
        here, elsewhere = _near(now, root)
        if (root, identity, here) != (self.root, self._identity, self._here):
            return True
        self._suspects.update(point for point, *_ in set(elsewhere) ^ set(self._elsewhere))
        if noted:  # one drive for another of the same numbers looks like none
            self._suspects.update(point for point, told in here.items() if told[-1].endswith(_NO_NUMBER))
            if sorted(now) == sorted(self._mounts):
                self._suspects.update(point for point, *_ in elsewhere)
        self._mounts, self._elsewhere = now, elsewhere
        if self._suspects and time.monotonic() - self._suspected_at >= self._patience_s:
            self._may_have_moved |= _concerns(root, self._suspects)
            self._suspects = set()
            self._suspected_at = time.monotonic()
        return self._may_have_moved

    def wait(self, for_s: float) -> bool:
        """Wait until it is another or `stop` is set, but for `for_s` at most; whether that is so."""
        until = time.monotonic() + for_s
        while not self.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._stop.wait(min(left, LOOK_AT_PLACE_S))
        return True

    def look_again(self) -> tuple[list[str], bool]:
        """Take it as it is now. Returns what to say of it, and whether it is another."""
        before = (self.root, self._identity, self._here)
        problem, here = self.problem, self._here
        self._see()
        moved, self._may_have_moved = self._may_have_moved, False
        if before == (self.root, self._identity, self._here):
            return [], moved
        lines = []
        if self.problem:
            lines = [] if problem else [_out_of_sight(self)]
        elif problem:
            lines = [f"{self.folder} is back"]
        else:
            for point in sorted(here.keys() | self._here.keys()):
                if point not in self._here:
                    self._gone.add(point)
                    lines.append(f"the drive at {point} is gone; waiting for it")
                elif point not in here:
                    lines.append(f"the drive at {point} is {'back' if point in self._gone else 'there'}")
                    self._gone.discard(point)
                elif here[point] != self._here[point]:
                    lines.append(f"a different drive is now at {point}")
            if not lines and _numbers(before[1]) != _numbers(self._identity):
                lines = [f"a different folder is now at {self.folder}"]
        return lines, True


def _out_of_sight(place: Place) -> str:
    return f"{place.folder} is unavailable ({place.problem}); waiting for it"


def _numbers(identity: tuple[int, int, int] | None) -> tuple[int, ...]:
    return () if identity is None else identity[:2]


def _identity(folder: Path) -> tuple[str, tuple[int, int, int] | None, str]:
    """The folder's path without links, what tells it from others, and why it cannot be seen ("": it can)."""
    try:
        root = os.path.realpath(folder)
        status = os.stat(root)
    except OSError as error:
        return os.path.abspath(folder), None, error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return root, None, os.strerror(errno.ENOTDIR)
    return root, (status.st_dev, status.st_ino, status.st_mode), ""


Mount = tuple[str, str, str]  # where, the type of its file system, what else tells it from others

NO_DRIVES = frozenset(
    {
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fuse.lxcfs",
        "fuse.portal",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "overlay",
        "proc",
        "pstore",
        "ramfs",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "squashfs",
        "sysfs",
        "tracefs",
    }
)
"""File systems that come and go with containers and services, and on which nobody has pictures to link to."""


def mounts() -> list[Mount]:
    """What is mounted, in the order of mounting. Empty where the system does not say."""
    if sys.platform != "linux":
        return []
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:  # 36 35 98:0 /inner /mnt/point rw,noatime master:1 - ext4 /dev/sda1 rw
        first, _, last = line.partition(" - ")
        fields = first.split(" ")
        if len(fields) >= 5 and last:
            kind, source, *_ = [*last.split(" "), ""]
            found.append((_unescaped(fields[4]), kind, " ".join((fields[0], fields[2], fields[3], source))))
    return found


def _near(mounted: list[Mount], root: str) -> tuple[dict[str, list[str]], list[Mount]]:
    """What is mounted at the root or below it, by its place; and the drives elsewhere."""
    here: dict[str, list[str]] = {}
    elsewhere = []
    inside = root.rstrip("/") + "/"
    for mount in mounted:
        point, kind, what = mount
        if point == root or point.startswith(inside):
            number = 0 if kind in NETWORK_FILE_SYSTEMS else _mount_number(point)  # a server that is away is waited for
            here.setdefault(point, []).append(f"{what} {number}" if number else what + _NO_NUMBER)
        elif kind not in NO_DRIVES and not point.startswith(("/dev/", "/proc/", "/run/credentials/", "/sys/")):
            elsewhere.append(mount)
    return here, elsewhere


def _mount_number(point: str) -> int:
    """The number of what is mounted at `point`, which no later mount gets again. 0 where the system does not say.

    The numbers in the table of mounts are given to others; these are in Linux 6.8 and later (statx(2)).
    """
    if sys.platform != "linux":
        return 0
    import ctypes

    told = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        statx = ctypes.CDLL(None).statx
    except AttributeError:  # a C library from before 2018
        return 0
    if statx(_AT_FDCWD, os.fsencode(point), _AS_CACHED, _STATX_MNT_ID_UNIQUE, told):
        return 0
    if not int.from_bytes(told.raw[:4], sys.byteorder) & _STATX_MNT_ID_UNIQUE:
        return 0
    return int.from_bytes(told.raw[_STX_MNT_ID : _STX_MNT_ID + 8], sys.byteorder)


def _concerns(root: str, points: set[str]) -> bool:
    """Whether what is mounted at `points` is the root, holds it, is below it, or is where a link below it leads."""
    entered, folders = {root}, [root]
    if any(_overlap(root, point) for point in points):
        return True
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if any(_overlap(target, point) for point in points):
                        return True
                    if target not in entered and os.path.isdir(target):
                        entered.add(target)
                        folders.append(target)
                elif entry.is_dir():
                    folders.append(entry.path)
    return False


def _overlap(folder: str, point: str) -> bool:
    return (point != "/" and (folder + "/").startswith(point + "/")) or point.startswith(folder.rstrip("/") + "/")


class _TableChanges:
    """Tells that something was mounted or unmounted, also if the table of mounts looks the same after it."""

    def __init__(self) -> None:
        self._poll: Any = None
        self._file: Any = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._file = open("/proc/self/mountinfo", "rb")  # noqa: SIM115 - as long as this object
                self._poll = select.poll()
                self._poll.register(self._file, select.POLLPRI)
                self.seen()

    def seen(self) -> bool:
        """Whether that was since the last call."""
        try:
            return self._poll is not None and bool(self._poll.poll(0))
        except OSError:
            return False


def file_system(folder: Path) -> str | None:
    """The type of the file system that `folder` is on, as in /proc/mounts; None where the system does not say."""
    found, longest = None, -1
    place = os.path.realpath(folder)
    for point, kind, _ in mounts():
        inside = point in ("/", place) or place.startswith(point + "/")
        if inside and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def _unescaped(point: str) -> str:
    return point.encode("latin-1", "backslashreplace").decode("unicode_escape")  # \040 is a space


def _watchfiles() -> Any:
    try:
        import watchfiles
    except ImportError:
        raise MissingExtra("watch", "watching a folder") from None
    return watchfiles
