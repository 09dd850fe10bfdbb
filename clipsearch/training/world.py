"""Which process of a `torchrun` this is, if there are several. Known without PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class World:
    """Which process this is, of how many; `local_rank` counts those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """The process that writes and prints."""
        return self.rank == 0


def world_of_environment() -> World:
    """What torchrun says; one process if it says nothing."""
    get = os.environ.get
    size = int(get("WORLD_SIZE", "1"))
    return World(int(get("RANK", "0")), size, int(get("LOCAL_RANK", "0"))) if size > 1 else World()
