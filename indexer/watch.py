"""Notice when a folder of pictures changes. Knows when to look again, not what changed: a run finds that out.

A burst of changes is one notice, given once it has been quiet for a while. Some of the system's notices (watchfiles)
can be lost when very many come at once, so there is one more now and then for nothing; on network file systems, which
do not tell of what other machines do, there are only those.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipsearch.errors import MissingExtra
from clipsearch.indexer.scan import SKIPPED_FOLDERS

QUIET_S = 1.0
LONGEST_BURST_S = 30.0
LOOK_ANYWAY_S = 900.0
POLL_S = 60.0

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
    quiet_s: float = QUIET_S,
    look_anyway_s: float = LOOK_ANYWAY_S,
    poll_s: float = POLL_S,
    polling: bool | None = None,
) -> Iterator[int]:
    """Yield how many paths changed, whenever some did and it is quiet again; 0 when it is time to look anyway.

    Ends soon after `stop` is set. What happens while the caller works on one notice is part of the next. `polling`
    (None: on network file systems) only yields 0, every `poll_s`. Raises: MissingExtra.
    """
    watchfiles = _watchfiles()
    if polling is None:
        polling = file_system(folder) in NETWORK_FILE_SYSTEMS
    root, index = os.path.realpath(folder), os.path.realpath(index_dir)
    if not polling:
        try:
            notices = watchfiles.watch(
                root,
                watch_filter=lambda change, path: _counts(path, root, index),
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
                if changed or time.monotonic() - looked_at >= look_anyway_s:
                    yield len(changed)
                    looked_at = time.monotonic()
            return
        except OSError:  # no more watches to be had (see fs.inotify.max_user_watches)
            pass
    while not stop.wait(poll_s):
        yield 0


def _counts(path: str, root: str, index: str) -> bool:
    """Whether a change of `path` can change what a scan finds."""
    if path == index or path.startswith(index + os.sep):
        return False
    parts = Path(os.path.relpath(path, root)).parts
    return not any((part.startswith(".") and part != ".") or part in SKIPPED_FOLDERS for part in parts)


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
