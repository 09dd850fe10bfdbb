"""Which worker does what: units of files, given to workers that come and go. Knows neither pictures nor clusters.

Every task is answered once. A worker that goes takes nothing with it but time: its units are done again by others. A
unit may be given to two workers, where one is slow, and the first answer counts. The tasks of a worker that died are
suspects: each is done again alone on a worker, after all others, and one that was there TRIES times when a worker died
is answered as lost. So one that kills every worker costs TRIES workers, and its neighbours nothing.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clipsearch.pictures.pool import DecodeTask

TRIES = 3
DEPTH = 2  # units of a worker: one is read while the other is encoded
MOST_CARRIED_BYTES = 64 * 2**20  # with a unit
_SLOW = 3.0  # times as long as usual: then another worker, which has nothing to do, does the unit, too
_SLOW_LEAST_S = 2.0
_USUAL_OF = 50  # units


@dataclass(slots=True, eq=False)
class Unit:
    """Tasks that one worker does together. `tries`: how many workers died with them."""

    number: int
    tasks: tuple[DecodeTask, ...]
    tries: int = 0
    runs: dict[str, float] = field(default_factory=dict)  # who does it, and since when


class Schedule:
    """The units of a run. `gated`: while this says so, one unit at a time has files that are to be encoded.

    `carried_bytes`: how many of a task's bytes go to the worker with it.
    """

    def __init__(
        self, gated: Callable[[], bool] = lambda: False, carried_bytes: Callable[[DecodeTask], int] = lambda task: 0
    ) -> None:
        self._gated = gated
        self._carried_bytes = carried_bytes
        self._backlog: deque[DecodeTask] = deque()
        self._again: deque[Unit] = deque()  # of workers that went for no fault of theirs
        self._suspects: deque[Unit] = deque()
        self._running: dict[int, Unit] = {}
        self._numbers = 0
        self._took_s: deque[float] = deque(maxlen=_USUAL_OF)

    @property
    def waiting(self) -> int:
        """Tasks that nobody has yet."""
        return len(self._backlog) + sum(len(unit.tasks) for unit in (*self._again, *self._suspects))

    def add(self, task: DecodeTask) -> None:
        """One more task, to be answered some time."""
        self._backlog.append(task)

    def units_of(self, worker: str) -> list[Unit]:
        """What a worker has."""
        return [unit for unit in self._running.values() if worker in unit.runs]

    def next_for(self, worker: str, most: int, now_s: float, *, whole: bool = False) -> Unit | None:
        """A unit of at most `most` tasks for a worker to do now. `whole`: only if there are so many."""
        has = self.units_of(worker)
        if len(has) >= DEPTH or any(unit.tries for unit in has):
            return None
        closed = self._gated() and any(map(_encodes, self._running.values()))
        if self._again and not (closed and _encodes(self._again[0])):
            return self._give(self._again.popleft(), worker, now_s)
        if self._backlog and not (whole and len(self._backlog) < most):
            tasks: list[DecodeTask] = []
            carried = 0
            while self._backlog and len(tasks) < most and not (closed and self._backlog[0].mode == "decode"):
                carried += self._carried_bytes(self._backlog[0])
                if tasks and carried > MOST_CARRIED_BYTES:
                    break
                tasks.append(self._backlog.popleft())
            if tasks:
                return self._give(self._new(tasks, 0), worker, now_s)
        if has or whole:
            return None
        if self._suspects and not closed:
            return self._give(self._suspects.popleft(), worker, now_s)
        return self._slow(worker, now_s)

    def _slow(self, worker: str, now_s: float) -> Unit | None:
        """The oldest of the units that take unusually long elsewhere."""
        usual_s = statistics.median(self._took_s) if self._took_s else _SLOW_LEAST_S
        least_s = max(_SLOW_LEAST_S, _SLOW * usual_s)
        slow = [unit for unit in self._running.values() if len(unit.runs) == 1 and not unit.tries]
        slow = [unit for unit in slow if now_s - min(unit.runs.values()) >= least_s]
        if not slow:
            return None
        unit = min(slow, key=lambda unit: min(unit.runs.values()))
        unit.runs[worker] = now_s
        return unit

    def _new(self, tasks: Sequence[DecodeTask], tries: int) -> Unit:
        self._numbers += 1
        return Unit(self._numbers, tuple(tasks), tries)

    def _give(self, unit: Unit, worker: str, now_s: float) -> Unit:
        self._running[unit.number] = unit
        unit.runs[worker] = now_s
        return unit

    def answered(self, unit: Unit, worker: str, now_s: float) -> bool:
        """A worker has done a unit. Returns whether that is the first answer, which counts."""
        began_s = unit.runs.get(worker)
        if self._running.pop(unit.number, None) is None:
            return False
        if began_s is not None:
            self._took_s.append(now_s - began_s)
        return True

    def lost(self, worker: str, *, to_blame: bool) -> list[DecodeTask]:
        """A worker is gone. `to_blame`: perhaps because of what it did. Returns tasks that are given up."""
        given_up: list[DecodeTask] = []
        for unit in self.units_of(worker):
            del unit.runs[worker]
            if not unit.runs:
                del self._running[unit.number]
                given_up += self._do_again(unit, to_blame=to_blame)
        return given_up

    def failed(self, unit: Unit, worker: str) -> None:
        """The answer of a worker that is still there was lost."""
        unit.runs.pop(worker, None)
        if not unit.runs and self._running.pop(unit.number, None) is not None:
            self._again.append(unit)

    def _do_again(self, unit: Unit, *, to_blame: bool) -> list[DecodeTask]:
        if not to_blame:
            (self._suspects if unit.tries else self._again).append(unit)
            return []
        tries = unit.tries + 1
        if tries >= TRIES:
            return list(unit.tasks)
        self._suspects.extend(self._new([task], tries) for task in unit.tasks)
        return []


def _encodes(unit: Unit) -> bool:
    return any(task.mode == "decode" for task in unit.tasks)
