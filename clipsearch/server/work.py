"""Threads that do the work of requests, with a queue that has an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clipsearch.errors import ClipsearchError

Result = TypeVar("Result")


class Overloaded(ClipsearchError):
    """More requests are waiting than can be answered soon."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(f"{waiting} requests are already waiting. Try again in a second")


class WorkQueue:
    """Run functions in threads, first come, first served. Used from one event loop."""

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        most_waiting: int,
        observe: Callable[[str, float, float], None] = lambda name, waited_s, worked_s: None,
    ) -> None:
        """`observe` is told the queue's name, and how long each piece of work waited and took."""
        self.name = name
        self.unfinished = 0
        """How many pieces of work are running or waiting."""
        self._limit = threads + most_waiting
        self._observe = observe
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"clipsearch-{name}")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns. Raises: Overloaded, and what `work` raises."""
        if self.unfinished >= self._limit:
            raise Overloaded(self.unfinished)
        self.unfinished += 1
        asked_at = time.perf_counter()

        def timed() -> Result:
            began_at = time.perf_counter()
            try:
                return work()
            finally:
                self._observe(self.name, began_at - asked_at, time.perf_counter() - began_at)

        future = asyncio.get_running_loop().run_in_executor(self._threads, timed)
        # Not when the request is given up, but when the thread is free again.
        future.add_done_callback(self._finished)
        return await asyncio.shield(future)

    def _finished(self, future: asyncio.Future[Result]) -> None:
        self.unfinished -= 1
        if not future.cancelled():
            future.exception()  # a request that was given up has nobody who would ask for it

    def close(self) -> None:
        """Wait for what is running; what is waiting is dropped."""
        self._threads.shutdown(cancel_futures=True)
