"""What is different between an index and the folder it is of. Decides, does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clipsearch.indexer.scan import FoundFile, Scan
from clipsearch.records import ImageRecord


@dataclass(slots=True)
class Changes:
    """What an incremental run has to look at, and what it has not."""

    unchanged: int = 0
    unchanged_skipped: list[ImageRecord] = field(default_factory=list)
    to_read: list[FoundFile] = field(default_factory=list)
    vanished: dict[str, ImageRecord] = field(default_factory=dict)


def compare(
    records: Iterable[ImageRecord], scan: Scan, *, retry: Callable[[ImageRecord], bool] = lambda record: False
) -> Changes:
    """Compare live records with what was found. Same size, mtime and inode means unchanged.

    `retry` says which unchanged skipped files to try again.
    """
    changes = Changes()
    missing = {record.path: record for record in records}
    for found in scan.files:
        record = missing.pop(found.path, None)
        same = record is not None and (record.size_bytes, record.mtime_ns, record.inode) == (
            found.size_bytes,
            found.mtime_ns,
            found.inode,
        )
        if record is None or not same or (record.status != "ok" and retry(record)):
            changes.to_read.append(found)
        else:
            changes.unchanged += 1
            if record.status != "ok":
                changes.unchanged_skipped.append(record)
    still_there = {skipped.path for skipped in scan.unreadable_files}
    changes.vanished = {
        path: record for path, record in missing.items() if path not in still_there and not scan.hides(path)
    }
    return changes
