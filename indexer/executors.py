"""Who reads and encodes the pictures of a run: processes of this machine, or workers of a cluster (`cluster`).

Both are asked for the same, and neither sees the index: a run (`build`) gives tasks, takes results, and alone commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from clipsearch.encoder import Encoder
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.records import VIEWS

AHEAD_OF_GPU = 1024  # pictures: it takes many at once, and workers go on reading meanwhile


@dataclass(frozen=True, slots=True)
class Work:
    """What a run asks of an executor. `encoder`: as this machine has it; `precision`: of the vectors in the index."""

    root: Path
    encoder: Encoder
    precision: str | None = None
    views: int = 1
    regions: int = 0  # of each picture, whose vectors are wanted, too
    workers: int | None = None  # decoding processes; None: as many as pay
    batch_pictures: int | None = None
    timeout_s: float = 10.0
    max_pixels: int | None = None

    @property
    def views_to_read(self) -> int:
        """In how many views pictures are decoded."""
        return VIEWS if self.regions else self.views


class Pool(Protocol):
    """Takes tasks and gives results, in no particular order: see `DecodePool`, which is one.

    A result has pieces, which the caller is to encode, or vectors.
    """

    @property
    def workers(self) -> int:
        """How many pictures are read at once."""
        ...

    @property
    def capacity(self) -> int:
        """How many tasks to keep between submitted and returned."""
        ...

    @property
    def pending(self) -> int:
        """How many tasks were submitted whose results were not returned yet."""
        ...

    def submit(self, task: DecodeTask) -> None: ...

    def next_result(self) -> DecodeResult | None:
        """Wait for a result; None if there is none yet. Raises: ClipsearchError."""
        ...

    def run(self, tasks: Iterable[DecodeTask]) -> Iterator[DecodeResult]: ...

    def rates(self) -> tuple[tuple[str, float], ...]:
        """Files a second of each machine, where there may be several."""
        ...

    def warnings(self) -> list[str]:
        """What to know of the run, beside its results."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Executor(Protocol):
    """Who does the work of a run."""

    def check(self) -> None:
        """Whether it is there, before anything is made for the run. Raises: ClipsearchError."""
        ...

    def open(self, work: Work) -> Pool:
        """Begin. Raises: ClipsearchError."""
        ...


class LocalPool(DecodePool):
    """Processes of this machine, which read; the caller encodes."""

    def rates(self) -> tuple[tuple[str, float], ...]:
        return ()

    def warnings(self) -> list[str]:
        return []


class LocalExecutor:
    """This machine."""

    def check(self) -> None:
        """It is here."""

    def open(self, work: Work) -> LocalPool:
        return open_local(work)


def open_local(work: Work) -> LocalPool:
    """Processes that read pictures for an encoder of this process."""
    from clipsearch.cores import available_cores

    on_gpu = work.encoder.is_on_gpu
    return LocalPool(
        work.encoder.preprocessing,
        workers=work.workers or (available_cores() if on_gpu else None),
        capacity=AHEAD_OF_GPU if on_gpu else None,
        timeout_s=work.timeout_s,
        max_pixels=work.max_pixels,
        pieces=True,
        views=work.views_to_read,
    )
