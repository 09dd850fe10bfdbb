"""How long pictures have been missing, where clocks are wrong at times: a NAS without a battery wakes up in 1970, a
computer in a year to come.

An index has a clock of its own. It goes on by what passed between one run and the next, once a third run says that it
did pass, too; more than LONGEST_S between two runs counts as a day. So no clock that jumps makes pictures old.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400
LONGEST_S = 92 * DAY_S
NOTE_AFTER_S = DAY_S // 2


@dataclass(frozen=True, slots=True)
class IndexClock:
    """The clock of an index: `seconds`, that began near 1970, as of a run at `read_at` by the system's clock.

    `waiting`: what passed before that run, if the next one confirms it.
    """

    seconds: int
    read_at: int
    waiting: int = 0

    def at(self, now: int) -> IndexClock:
        """As of a run at `now`."""
        passed = now - self.read_at
        if passed < 0:  # the clock was ahead, or is behind
            return IndexClock(self.seconds, now)
        return IndexClock(self.seconds + self.waiting, now, passed if passed <= LONGEST_S else DAY_S)

    @property
    def latest(self) -> int:
        """What it may turn out to have been: when something was first missing."""
        return self.seconds + self.waiting

    def is_worth_noting(self, before: IndexClock) -> bool:
        """Whether an index that changed in nothing else should be told."""
        return not 0 <= self.read_at - before.read_at < NOTE_AFTER_S
