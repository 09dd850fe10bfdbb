"""Which build of clipsearch this process runs: two processes understand each other only if it is the same."""

from __future__ import annotations

import contextlib
import os
import zlib
from functools import cache
from pathlib import Path

from clipsearch import __version__

PACKAGE = Path(__file__).parent


@cache
def build() -> str:
    """The version and a checksum of the package, as it was when this process first asked.

    Names, sizes and times of its files stand for their bytes, as they do where Python decides whether compiled
    code is stale: reading 300 files would take longer than what a server needs for its answer.
    """
    return f"{__version__}-{code_checksum(PACKAGE):08x}"


def code_checksum(package: Path) -> int:
    """A checksum of the code below a folder, and of all that it reads: tables, models, the page."""
    seen = [str(package)]
    for folder, folders, names in os.walk(package, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):  # what an editor keeps beside a file
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - Path objects take as long again
                seen.append(f"{folder}/{name} {status.st_size} {status.st_mtime_ns}")
    return zlib.crc32("\n".join(seen).encode("utf-8", "surrogateescape"))
