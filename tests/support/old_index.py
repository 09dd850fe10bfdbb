"""A collection whose index is of format 1: ten pictures, a tag, deleted rows, rows for a log and a broken file."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from tests.support.commands import State

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "format_1.zip"


def unpack(to: Path) -> State:
    """Put the collection at `to`. Returns what its index answers."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        times = json.loads(archive.read("times.json"))
        answers = json.loads(archive.read("answers.json"))
        for name in archive.namelist():
            if name not in ("times.json", "answers.json"):
                archive.extract(name, to)
    for path, time_ns in times.items():
        os.utime(to / path, ns=(time_ns, time_ns))
    return State(answers["found"], tuple(answers["tags"]), (), None)
