"""Which files that were skipped are tried again by themselves: those that circumstances may be to blame for.

A busy machine makes decoders slow, a small container ends them, a crash may be another picture's. None of it is
written down for ever: such a file is tried MOST_ATTEMPTS times in all, each time with more time.
"""

from __future__ import annotations

from clipsearch.pictures.formats import POINTER, extra_is_installed
from clipsearch.records import OUT_OF_MEMORY, ImageRecord, Status

MOST_ATTEMPTS = 3
_MORE_TIME = 3  # times as much as at the attempt before


def is_circumstance(status: Status, reason: str | None) -> bool:
    """Whether a picture was skipped for what may be different the next time, although the file is the same."""
    return status in ("timeout", "decoder_crashed") or (status == "too_large" and reason == OUT_OF_MEMORY)


def says_nothing(status: Status, reason: str | None) -> bool:
    """Whether a failure says nothing of the picture that was at a path: it is of the moment, or of what is installed,
    or there is nothing in the file (a disk ran full, a copy was cut short), or it says where the picture is."""
    if status in ("unreadable", "missing_extra", "empty") or reason == POINTER:
        return True
    return is_circumstance(status, reason)


def should_retry(record: ImageRecord) -> bool:
    """Whether a file that is unchanged should be read again by the next run."""
    return is_circumstance(record.status, record.reason) and record.attempts < MOST_ATTEMPTS


def is_read_again(record: ImageRecord, *, all_skipped: bool = False) -> bool:
    """Whether the next run reads a skipped file again that is unchanged; `all_skipped`: the user wants all of them."""
    if all_skipped or record.status == "unreadable" or should_retry(record):
        return True
    return record.status == "missing_extra" and extra_is_installed(record.place.rpartition("/")[2])


def limit_for(record: ImageRecord | None, timeout_s: float) -> float:
    """How long decoding a file may take, where `timeout_s` is for a first attempt and `record` says of earlier ones."""
    if record is None or record.status == "ok" or not is_circumstance(record.status, record.reason):
        return timeout_s
    return timeout_s * float(_MORE_TIME ** min(max(record.attempts, 1), MOST_ATTEMPTS - 1))


def attempts_after(record: ImageRecord | None, status: Status, reason: str | None) -> int:
    """How many attempts circumstances have ended, after one that ended so; `record`: of the same file, unchanged."""
    if not is_circumstance(status, reason):
        return 0
    return 1 + (0 if record is None else record.attempts)
