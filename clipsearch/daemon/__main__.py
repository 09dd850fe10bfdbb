"""A process that answers this user's queries of one index through its local socket, and ends when it has been idle.

Started by `clipsearch query --daemon auto`, as `python -m clipsearch.daemon INDEX [IDLE_S]`. It serves no HTTP.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from pathlib import Path

from clipsearch.daemon import client
from clipsearch.daemon.server import open_sockets
from clipsearch.errors import ClipsearchError
from clipsearch.server.engine import Engine

IDLE_S = 900.0


def run(index: Path, idle_s: float = IDLE_S) -> None:
    """Answer until nobody asked for `idle_s`, or SIGTERM; at once if a server is there already.

    Raises: what opening an index raises.
    """
    if client.is_answered(index):
        return
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with Engine([index]) as engine:
        sockets = open_sockets(engine)
        try:
            while sockets and not stop.wait(min(1.0, idle_s / 4)):
                used_at = max(local.last_used_at for local in sockets)
                if time.monotonic() - used_at > idle_s or not (index / "CURRENT").exists():
                    return
        finally:
            for local in sockets:
                local.close()


if __name__ == "__main__":
    with contextlib.suppress(ClipsearchError, OSError):  # the query that started it has said so already
        run(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else IDLE_S)
