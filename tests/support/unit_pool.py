"""Units of work done in this process: what the workers of a cluster do, without a cluster."""

from __future__ import annotations

import itertools
from collections import deque

from clipsearch.indexer.executors import LocalPool, Work, open_local
from clipsearch.indexer.schedule import Schedule
from clipsearch.indexer.units import FragmentEncoder, FragmentPlan, carry, encode_fragment, packed, unpacked
from clipsearch.pictures.pool import DecodeResult, DecodeTask

UNIT = 7


class UnitExecutor:
    """Does a unit when somebody waits for a result."""

    def check(self) -> None:
        """It is in this process."""

    def open(self, work: Work) -> UnitPool:
        return UnitPool(work)


class UnitPool(LocalPool):
    """Takes tasks and gives results with vectors."""

    def __init__(self, work: Work) -> None:
        pool = open_local(work)
        self._work = work
        self._encoder = FragmentEncoder(work.encoder, pool)
        self._schedule = Schedule()
        self._results: deque[DecodeResult] = deque()
        self._now = itertools.count()
        self.workers = pool.workers
        self.capacity = 3 * UNIT
        self.pending = 0

    def submit(self, task: DecodeTask) -> None:
        self.pending += 1
        self._schedule.add(task)

    def next_result(self, timeout_s: float | None = None) -> DecodeResult | None:
        if self.pending and not self._results:
            unit = self._schedule.next_for("this", UNIT, next(self._now))
            assert unit is not None
            tasks, carried = carry(unit.tasks, str(self._work.root))
            about = (self._work.encoder.fingerprint, self._work.precision, self._work.views, None)
            plan = FragmentPlan(tasks, *about, carried, self._work.regions)
            made: dict[str, list[DecodeResult]] = {}
            receipt = encode_fragment(plan, self._encoder, made.__setitem__)
            assert receipt.name == plan.name and receipt.files == len(unit.tasks)
            assert self._schedule.answered(unit, "this", next(self._now))
            self._results.extend(unpacked(*packed(made.pop(plan.name))))
        if not self._results:
            return None
        self.pending -= 1
        return self._results.popleft()

    def close(self) -> None:
        self._encoder.close()
