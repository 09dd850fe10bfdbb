"""What an export asks of a database. One module of this folder for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from clipsearch.records import FloatArray, IntArray

BATCH_BYTES = 4_000_000  # of a request, roughly: servers refuse much larger ones


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to write. `values` has everything but the vectors, by name of the column. Shapes: row_ids and digests (B,)
    int64; vectors (B, D) float32, unit L2."""

    values: list[dict[str, Any]]
    row_ids: IntArray
    digests: IntArray
    vectors: FloatArray

    def __len__(self) -> int:
        return len(self.values)

    def taken(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """Those where `mask` is true."""
        chosen = np.flatnonzero(mask)
        values = [self.values[n] for n in chosen]
        return Rows(values, self.row_ids[chosen], self.digests[chosen], self.vectors[chosen])

    def requests(self) -> Iterator[Rows]:
        """The same in parts that fit into one request."""
        step = max(1, BATCH_BYTES // (self.vectors.shape[1] * 12 + 1000))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield Rows(self.values[part], self.row_ids[part], self.digests[part], self.vectors[part])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is: `address` as its client takes it, the name of the table, the columns, and the length of the
    vectors. `columns`: name -> "int", "float", "text", "bool" or "texts", without `vector`."""

    address: str
    table: str
    columns: dict[str, str]
    dim: int


class PlaceRefused(Exception):
    """A place that cannot take an export: the message says why, and what to do."""


class Engine(Protocol):
    """A table of a database, open for an export. Made of a Place; use it in a `with`."""

    def __init__(self, place: Place) -> None:
        """Raises: PlaceRefused; whatever its client raises."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def mark(self) -> str | None:
        """What `create` was given. None if there is no such table; "" if it has no mark, and so is not ours."""

    def create(self, mark: str) -> None:
        """Create the table, with its mark."""

    def widen(self) -> None:
        """Add columns that an earlier version did not know."""

    def known(self) -> Iterator[tuple[Iterable[int], Iterable[int]]]:
        """Row ids and digests of the rows that exports wrote, some at a time."""

    def told(self, row_ids: list[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """`row_id` and some columns of rows, None where nothing is known."""

    def renumber(self, pairs: list[tuple[int, int]]) -> None:
        """Give rows that exports wrote other row ids (old, new): all in them stays, also what others added."""

    def foreign(self, row_ids: list[int]) -> list[int]:
        """Which of these row ids are those of rows that no export wrote."""

    def write(self, rows: Rows, is_new: npt.NDArray[np.bool_]) -> None:
        """Write rows, over those with the same row ids. `is_new`: which of them `known` did not have."""

    def remove(self, row_ids: list[int]) -> None:
        """Remove rows that `known` had."""

    def finish(self) -> None:
        """Make all of it last."""
