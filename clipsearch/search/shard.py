"""One shard of an index: a share of its vectors, for whoever has its rows and asks all shards (`server.shards`)."""

from __future__ import annotations

import threading
from pathlib import Path

from clipsearch.records import FloatArray, IntArray
from clipsearch.store import Snapshot, open_snapshot
from clipsearch.store.snapshot import resolve_current
from clipsearch.vectors import Share, VectorSegment, empty_result, merge, open_segments

Generation = tuple[int, str]
"""A generation of an index, by its number and the checksum of its manifest."""
KEPT = 2
"""Generations that a shard has open: those who ask change to a new one after the shards did."""


def generation_of(snapshot: Snapshot) -> Generation:
    """What a generation is known by to shards."""
    return snapshot.manifest.generation, snapshot.ref.checksum


class Shard:
    """A share of the vectors of an index, in its newest generations. For many threads."""

    def __init__(self, index: Path, share: Share) -> None:
        """Open the newest generation. Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, StorageError."""
        self._index = index
        self._share = share
        self._open: dict[Generation, tuple[Snapshot, list[VectorSegment]]] = {}
        self._opening = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Open the newest generation, if it is not; the oldest is let go of. Raises: as to make one."""
        with self._opening:
            if resolve_current(self._index) in self._open:
                return
            snapshot = open_snapshot(self._index)
            segments = open_segments(snapshot.manifest, snapshot.file, snapshot.marks, self._share)
            for segment in segments:
                segment.load()  # later, its file may be gone
            kept = list(self._open.items())[-(KEPT - 1) :]
            old = [gone for name, (gone, _) in self._open.items() if name not in dict(kept)]
            self._open = {**dict(kept), generation_of(snapshot): (snapshot, segments)}
            for gone in old:
                gone.close()

    def has(self, generation: Generation) -> bool:
        """Whether it answers for that generation. Raises: as to make one."""
        if generation not in self._open:
            self.refresh()
        return generation in self._open

    def search(
        self, generation: Generation, queries: FloatArray, k: int, exact: bool, selection: IntArray | None
    ) -> tuple[FloatArray, IntArray] | None:
        """The nearest vectors of the share: see `VectorSegment.search`. None: it does not have that generation."""
        if not self.has(generation):
            return None
        found = self._open.get(generation)
        if found is None:  # it was let go of this moment
            return None
        results = [segment.search(queries, k, exact=exact, selection=selection) for segment in found[1]]
        return merge([empty_result(len(queries), k), *results], k)
