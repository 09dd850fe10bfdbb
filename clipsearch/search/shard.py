"""One shard of an index: a share of its vectors, for whoever has its rows and asks all shards (`server.shards`)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from clipsearch.records import FloatArray, IntArray
from clipsearch.store import Snapshot, open_snapshot
from clipsearch.store.snapshot import resolve_current
from clipsearch.vectors import Share, VectorSegment, empty_result, merge, open_segments

Generation = tuple[int, str]
"""A generation of an index, by its number and the checksum of its manifest."""
KEPT = 3
"""Generations that a shard has open at most: the newest, the one that answers are from, and the next.
Of more that an index makes in between, the one that was asked for longest ago is let go of first."""
KEPT_S = 60.0
"""How long it keeps one that is not the newest and that nobody asks for."""


def generation_of(snapshot: Snapshot) -> Generation:
    """What a generation is known by to shards."""
    return snapshot.manifest.generation, snapshot.ref.checksum


@dataclass(slots=True)
class _Open:
    """A generation, and when it was last asked for or, where nobody asked, opened."""

    snapshot: Snapshot
    segments: list[VectorSegment]
    asked_at: float


class Shard:
    """A share of the vectors of an index, in its newest generations. For many threads."""

    def __init__(self, index: Path, share: Share) -> None:
        """Open the newest generation. Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, StorageError."""
        self._index = index
        self._share = share
        self._open: dict[Generation, _Open] = {}  # replaced, never changed
        self._opening = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Open the newest generation, if it is not; let go of old ones. Raises: as to make one."""
        with self._opening:
            now, newest = time.monotonic(), resolve_current(self._index)
            opened = dict(self._open)
            if newest not in opened:
                snapshot = open_snapshot(self._index)
                segments = open_segments(snapshot.manifest, snapshot.file, snapshot.marks, self._share)
                for segment in segments:
                    segment.load()  # later, its file may be gone
                newest = generation_of(snapshot)
                opened[newest] = _Open(snapshot, segments, now)
            old = sorted((name for name in opened if name != newest), key=lambda name: -opened[name].asked_at)
            gone = [name for n, name in enumerate(old) if n >= KEPT - 1 or now - opened[name].asked_at > KEPT_S]
            self._open = {name: one for name, one in opened.items() if name not in gone}
            for name in gone:
                opened[name].snapshot.close()

    def has(self, generation: Generation) -> bool:
        """Whether it answers for that generation. Raises: as to make one."""
        return self._asked(generation) is not None

    def _asked(self, generation: Generation) -> _Open | None:
        if generation not in self._open:
            self.refresh()
        if (found := self._open.get(generation)) is not None:
            found.asked_at = time.monotonic()
        return found

    def search(
        self, generation: Generation, queries: FloatArray, k: int, exact: bool, selection: IntArray | None
    ) -> tuple[FloatArray, IntArray] | None:
        """The nearest vectors of the share: see `VectorSegment.search`. None: it does not have that generation."""
        found = self._asked(generation)
        if found is None:
            return None
        results = [segment.search(queries, k, exact=exact, selection=selection) for segment in found.segments]
        return merge([empty_result(len(queries), k), *results], k)
