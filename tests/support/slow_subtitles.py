"""A decoder process that hangs while it reads the subtitles of a file named `hang.mkv`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from clipsearch.pictures import worker
from clipsearch.pictures.images import PictureFile
from clipsearch.records import Line

REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAM = f"""
import runpy, sys
sys.path.insert(0, {str(REPOSITORY)!r})
runpy.run_module("tests.support.slow_subtitles", run_name="__main__", alter_sys=False)
"""
COMMAND = [sys.executable, "-P", "-c", _PROGRAM]


def main() -> None:
    """Work as `worker` does, but for that file."""
    import av  # noqa: F401  what takes long to load is not to be counted
    import pysubs2  # noqa: F401

    read = PictureFile.subtitles

    def read_or_hang(file: PictureFile) -> list[Line] | None:
        if os.path.basename(file.path) == "hang.mkv":  # noqa: PTH119
            time.sleep(600)
        return read(file)

    PictureFile.subtitles = read_or_hang  # type: ignore[assignment, method-assign]
    worker.main()


if __name__ == "__main__":
    main()
