"""An index whose vectors are searched by shards, each in a process of its own, perhaps on other machines.

The server has the rows of the index, and filters, judges and folds as ever: only the nearest vectors are asked of all
shards at once, and merged by score. So there is one background for confidence, and several shards answer as one index
does. A shard that does not answer in time is left out, named, and asked again by the server, not by somebody's query,
until it answers. What a request is answered from does not change on the way: if a shard is lost meanwhile, it begins
again without it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from clipsearch.encoder import Encoder
from clipsearch.errors import ClusterError, PartLost, first_line
from clipsearch.query import Query
from clipsearch.records import FloatArray, IntArray
from clipsearch.search.collection import Collection
from clipsearch.search.shard import Generation, generation_of
from clipsearch.server.engine import SharedCollection
from clipsearch.store.snapshot import resolve_current

TIMEOUT_S = 1.5
"""How long a query waits for a shard: with it, an answer without one is there within two seconds."""
OUT_S = 3.0  # that a shard is left out at least; else each query might wait for it
BEHIND_S = 0.5  # the same, where it has another generation than this server
LOOK_S = 0.5
OPEN_S = 30.0
TRIES = 20  # to open a generation before the next is committed

_log = logging.getLogger("clipsearch.server")


class Response(Protocol):
    """What comes of a call."""

    def result(self, *, timeout_s: float | None = None) -> Any: ...
    def cancel(self) -> Any: ...


class Member(Protocol):
    """A shard as it is asked: see `search.shard.Shard`."""

    def search(
        self, generation: Generation, queries: FloatArray, k: int, exact: bool, selection: IntArray | None
    ) -> Response: ...
    def has(self, generation: Generation) -> Response: ...


class Shards:
    """The shards of one index, by their names, and which of them are left out."""

    def __init__(self, members: Mapping[str, Member], *, timeout_s: float = TIMEOUT_S, replicas: int = 1) -> None:
        """`replicas`: of each member, at most."""
        self._members = dict(members)
        self.timeout_s = timeout_s
        self._replicas = replicas
        self._lost: dict[str, tuple[str, float]] = {}  # why, and until when it is not asked at all
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._newest: Generation | None = None
        self._looking = threading.Thread(target=self._look, name="clipsearch-shards", daemon=True)
        self._looking.start()

    def __len__(self) -> int:
        return len(self._members)

    def lost(self) -> dict[str, str]:
        """Which are left out now, and why."""
        with self._lock:
            return {name: why for name, (why, _) in self._lost.items()}

    def search(
        self,
        generation: Generation,
        queries: FloatArray,
        k: int,
        exact: bool,
        selection: IntArray | None,
        without: Container[str],
    ) -> list[tuple[FloatArray, IntArray]]:
        """What each shard has, `without` some. Raises: PartLost for one that fails; ClusterError if none is left."""
        asked = {
            name: member.search(generation, queries, k, exact, selection)
            for name, member in self._members.items()
            if name not in without
        }
        if not asked:
            problems = "; ".join(sorted(set(self.lost().values())))
            raise ClusterError(f"no shard answers now: {problems}. Try again in a few seconds")
        until = time.monotonic() + self.timeout_s
        found, failed = [], dict[str, tuple[str, float]]()
        for name, response in asked.items():
            answer, problem = self._answer(response, until - time.monotonic(), self.timeout_s)
            if problem is not None:
                failed[name] = problem, OUT_S
            elif answer is None:
                failed[name] = "it has another generation of the index than this server", BEHIND_S
            else:
                found.append(answer)
        if failed:
            self._leave_out(failed)
            name, (problem, _) = next(iter(failed.items()))
            raise PartLost(name, problem)
        return found

    @staticmethod
    def _answer(response: Response, wait_s: float, named_s: float) -> tuple[Any, str | None]:
        """What comes of a call, or what is wrong."""
        try:
            return response.result(timeout_s=max(0.01, wait_s)), None
        except (TimeoutError, FutureTimeout):
            with contextlib.suppress(Exception):  # nobody waits for it any more
                response.cancel()
            return None, f"no answer within {named_s:g} s"
        except Exception as error:  # of its own, of Ray, of Ray Serve: they share no type
            return None, first_line(error)

    def _leave_out(self, failed: Mapping[str, tuple[str, float]]) -> None:
        now = time.monotonic()
        with self._lock:
            new = [name for name in failed if name not in self._lost]
            self._lost.update({name: (why, now + out_s) for name, (why, out_s) in failed.items()})
        for name in new:
            _log.warning("%s is left out: %s", name, failed[name][0])

    def prepare(self, generation: Generation, is_newest: Callable[[], bool]) -> bool:
        """Return when all shards that answer have that generation: a server can change to it without a gap. False if
        they never will, as `is_newest` says that the index has a newer one, and shards open only that.

        One that fails or takes too long is found by the next query.
        """
        self._newest = generation
        until = time.monotonic() + OPEN_S
        # Nobody can ask each replica. One that was not asked opens it by itself within a second.
        left = 1 if self._replicas == 1 else 4 * self._replicas
        while left:
            out = self.lost()
            asked = [member.has(generation) for name, member in self._members.items() if name not in out]
            answers = [self._answer(response, until - time.monotonic(), OPEN_S) for response in asked]
            if all(has or problem is not None for has, problem in answers):
                left -= 1
                continue
            if not is_newest():
                return False
            if time.monotonic() > until:
                return True
            time.sleep(LOOK_S / 5)  # a file system that they share has not told them yet
        return True

    def _look(self) -> None:
        """Ask those that are left out whether they are there again."""
        while not self._closed.wait(LOOK_S):
            now, newest = time.monotonic(), self._newest
            with self._lock:
                due = [name for name, (_, until) in self._lost.items() if now >= until]
            if newest is None:
                continue
            asked = {name: self._members[name].has(newest) for name in due}
            for name, response in asked.items():
                answer, problem = self._answer(response, self.timeout_s, self.timeout_s)
                if problem is None and answer:
                    with self._lock:
                        self._lost.pop(name, None)
                    _log.warning("%s answers again", name)

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()
        self._looking.join()


def _is_newest(index: Path, generation: Generation) -> bool:
    return resolve_current(index) == generation


class ShardedCollection(SharedCollection):
    """A collection whose vectors are searched by shards."""

    def __init__(self, index: Path, encoder: Encoder, observe: Callable[[str, int], None], shards: Shards) -> None:
        """Raises: see Collection."""
        super().__init__(index, encoder, observe)
        self._shards = shards
        self._mine = threading.local()
        self._generation = generation_of(self._snapshot)

    @classmethod
    def opened(
        cls, index: Path, encoder: Encoder, observe: Callable[[str, int], None], shards: Shards
    ) -> ShardedCollection:
        """The newest generation that the shards have too. Raises: see Collection."""
        made = cls(index, encoder, observe, shards)
        for _ in range(TRIES):
            own = made._generation
            if shards.prepare(own, partial(_is_newest, index, own)):
                break
            made.close()  # another was committed meanwhile
            made = cls(index, encoder, observe, shards)
        return made

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let this thread's answers be from the shards that answer now, as long as the `with` lasts."""
        before = getattr(self._mine, "without", None)
        self._mine.without = self._shards.lost()
        try:
            yield
        finally:
            self._mine.without = before

    @property
    def missing(self) -> Mapping[str, str]:
        self._check_open()
        without: dict[str, str] | None = getattr(self._mine, "without", None)
        return self._shards.lost() if without is None else without

    def notices(self, query: str | Any | Query, **known: Any) -> list[str]:
        return [*self.partial(), *super().notices(query, **known)]

    def nearest(self, queries: FloatArray, k: int, *, exact: bool = False, **more: Any) -> tuple[FloatArray, IntArray]:
        return Collection.nearest(self, queries, k, exact=exact, **more)  # each by itself: what is missing may differ

    def _nearest_vectors(
        self, queries: FloatArray, k: int, exact: bool, selection: IntArray | None
    ) -> list[tuple[FloatArray, IntArray]]:
        try:
            return self._shards.search(self._generation, queries, k, exact, selection, self.missing)
        except PartLost:
            if getattr(self._mine, "without", None) is not None:
                self._mine.without = {**self._mine.without, **self._shards.lost()}
            raise
