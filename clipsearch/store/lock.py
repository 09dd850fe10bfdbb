"""What the file LOCK says beside being locked: who writes, and how far a run is. For people and pages only.

The first line names the writer. The second, where there is one, has a fixed length, so that one write replaces it:
stage, files done, files in all, pictures encoded, seconds since the first file.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

LOCK = "LOCK"
_MOST_BYTES = 1000


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


def read_writer(index_dir: Path) -> WriterState | None:
    """Who is writing an index, or None.

    A free lock is tried only if its file names a writer, one that was killed: trying it keeps others from taking it.
    """
    try:
        with (index_dir / LOCK).open("rb") as file:
            said = file.read(_MOST_BYTES)
            if not said:
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parsed(said)
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
