"""Get ready for the first picture that is sent, while nobody asks for anything.

It needs an image tower and a process that reads pictures: most of a second. They are loaded some seconds after the
start, when the first page and the first question are over, and only where their memory is no matter.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from clipsearch.encoder import Encoder
from clipsearch.errors import ClipsearchError
from clipsearch.temporary import temporary_folder

if TYPE_CHECKING:
    from clipsearch.server.routes import Service

TOWERS_THAT_FIT = 16
"""An image tower is loaded ahead if the memory that is free would hold as many files of its size: about twice its
size is taken, while it loads a little more."""
LEAST_FREE_BYTES = 1 << 30
LOOK_EVERY_S = 0.5
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class PictureWarmUp:
    """A thread that gets a service ready for pictures, once it has been idle for a while. Close it."""

    def __init__(self, service: Service, after_s: float) -> None:
        """Begin `after_s` after now at the earliest, and when no search has been running for LOOK_EVERY_S."""
        self._service = service
        self._after_s = after_s
        self._closed = threading.Event()
        # No daemon: ending inside onnxruntime aborts the process.
        self._thread = threading.Thread(target=self._run, name="clipsearch-warm-up")
        self._thread.start()

    def close(self) -> None:
        """Stop waiting; what is being loaded is loaded."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        if self._closed.wait(self._after_s):
            return
        self._service.engine.wait_until_warm()
        while self._service.searches.unfinished:
            if self._closed.wait(LOOK_EVERY_S):
                return
        done = set[str]()
        for name in self._service.engine.names:
            with contextlib.suppress(ClipsearchError, OSError), self._service.engine.lease(name) as photos:
                if self._closed.is_set():
                    return
                encoder = photos.encoder
                if encoder.fingerprint in done or not is_small(encoder):
                    continue
                done.add(encoder.fingerprint)
                with temporary_folder() as folder:
                    blank = Path(folder) / "blank.png"
                    Image.new("RGB", (8, 8)).save(blank)
                    self._service.encode_file(blank, photos)


def is_small(encoder: Encoder) -> bool:
    """Whether the image tower can be loaded without anybody missing the memory. True where there is none to load."""
    tower_bytes = encoder.image_tower_bytes
    return not tower_bytes or max(TOWERS_THAT_FIT * tower_bytes, LEAST_FREE_BYTES) <= free_bytes()


def free_bytes() -> int:
    """How much memory can be taken without swapping, as far as the system says; 0 where it does not."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return 0
    with contextlib.suppress(OSError, ValueError):  # no limit says "max"
        limit, used = (int((_CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    return free
