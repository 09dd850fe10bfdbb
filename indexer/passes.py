"""What second passes over an index have in common: what they find is committed in parts, beside an index run.

A pass takes the lock only to commit; one that was stopped or killed goes on from what it committed last.
"""

from __future__ import annotations

import time
from pathlib import Path

from clipsearch.config import is_index
from clipsearch.errors import IndexLocked, IndexNotFound
from clipsearch.indexer.retries import MOST_ATTEMPTS, is_circumstance
from clipsearch.places import is_address
from clipsearch.records import ImageRecord, SkipStatus
from clipsearch.store import LiveRows, Snapshot, Writer, open_live_rows
from clipsearch.store.words import Kind, ReadPicture, add_words, with_words, words_of

COMMIT_S = 30.0
COMMIT_PICTURES = 512
LOCK_PATIENCE_S = 600.0  # for an index run that commits its last


class Commits:
    """What a pass has found, and when it is committed. `done`: what is not yet."""

    def __init__(self, index_dir: Path, kind: Kind, commit_s: float, commit_pictures: int) -> None:
        self._index_dir = index_dir
        self._kind: Kind = kind
        self._commit_s = commit_s
        self._commit_pictures = commit_pictures
        self._last = time.monotonic()
        self.done: list[ReadPicture] = []

    def skip(self, content_hash: str, status: SkipStatus, reason: str | None, attempts: int) -> None:
        """Remember that a picture could not be read, unless that says nothing of it. `attempts`: earlier ones."""
        if status not in ("unreadable", "missing_extra"):
            attempts += is_circumstance(status, reason)
            self.done.append(ReadPicture(content_hash, (), status, reason, attempts))

    def commit_if_due(self) -> None:
        """Commit if enough was found or enough time has passed; later, where an index run is writing."""
        waited_s = time.monotonic() - self._last
        if len(self.done) >= self._commit_pictures or (self.done and waited_s >= self._commit_s):
            self._try()

    def _try(self) -> IndexLocked | None:
        self._last = time.monotonic()
        try:
            with Writer(self._index_dir) as writer:
                manifest = writer.current()
                if manifest is None:
                    raise IndexNotFound([self._index_dir])
                writer.commit(add_words(writer, manifest, self.done, self._kind))
        except IndexLocked as locked:
            return locked
        self.done = []
        self._last = time.monotonic()
        return None

    def finish(self) -> None:
        """Commit what was found, and wait for an index run that is writing. Raises: IndexLocked."""
        give_up = time.monotonic() + LOCK_PATIENCE_S
        while self.done:
            locked = self._try()
            if locked is not None and time.monotonic() > give_up:
                raise locked


def rows_of(snapshot: Snapshot) -> list[LiveRows]:
    """What a pass goes through: the rows of each fragment, without those of tiles.

    Raises: CorruptIndex, StorageError.
    """
    has_regions = snapshot.manifest.model.regions > 0
    fragments = [fragment for fragment in snapshot.manifest.fragments if fragment.rows_file is not None]
    return [open_live_rows(snapshot.index_dir, fragment, has_regions=has_regions) for fragment in fragments]


def is_read_here(root: Path, record: ImageRecord) -> bool:
    """Whether a pass reads a picture: not a row of a table, of which each look takes long, nor an object elsewhere."""
    is_in_table = record.member and not record.path.lower().endswith(".tar")
    return not (is_in_table or is_address(root) or record.content_hash is None)


def is_settled(status: str, reason: str | None, attempts: int, *, retry_skipped: bool) -> bool:
    """Whether a picture that a pass could not read is left alone by the next."""
    again = is_circumstance(status, reason) and attempts < MOST_ATTEMPTS  # type: ignore[arg-type]
    return not (again or retry_skipped)


def forget(index_dir: Path, kind: Kind) -> bool:
    """Forget all words of a kind; whether there were any. Raises: IndexNotFound, IndexLocked, CorruptIndex,
    OutOfSpace."""
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    with Writer(index_dir) as writer:
        manifest = writer.current()
        if manifest is None:
            raise IndexNotFound([index_dir])
        found = words_of(manifest, kind)
        if found:
            writer.commit(with_words(manifest, (), kind))
        return bool(found)
