"""Full disks and full memory, in a run's own words."""

from __future__ import annotations

import errno
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsearch.errors import ClipsearchError, OutOfSpace, is_out_of_space

_OUT_OF_MEMORY = (
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
    "failed to allocate memory", "unable to allocate", "can't start new thread", "failed to map segment",
)  # fmt: skip
_NO_PRIMITIVE = re.compile(r"could not create a primitive(?! descriptor)")
"""What oneDNN says where it finds no memory; a descriptor is what it lacks for arithmetic that it does not know."""


class OutOfMemory(ClipsearchError):
    """There was too little memory while `doing`; `fitting`: how many pairs at a time would fit, if that was tried."""

    def __init__(self, doing: str, problem: str, advice: str, fitting: int | None = None) -> None:
        self.doing = doing
        self.fitting = fitting
        super().__init__(f"out of memory while {doing}: {problem}. {advice}")


class RunOutOfSpace(OutOfSpace):
    """The disk of a run is full."""

    def __init__(self, path: Path, advice: str) -> None:
        self.path = path
        Exception.__init__(self, f"no space left on the disk of {path}. {advice}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory ran out: Python's, NumPy's, PyTorch's or the system's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return True
        if isinstance(seen, RuntimeError | ImportError | OSError) or type(seen).__module__.startswith("onnxruntime"):
            text = str(seen).lower()
            if any(words in text for words in _OUT_OF_MEMORY) or _NO_PRIMITIVE.search(text):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def shortages_named(run: Path, doing: Callable[[], str]) -> Iterator[None]:
    """Raise OutOfMemory or RunOutOfSpace for what libraries call by other names."""
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if is_out_of_space(error):
            began = (run / "run.json").is_file()
            command = f"continue with: clipsearch train --resume {run}" if began else "run the same command again"
            space = "Allow larger files (ulimit -f)" if "File too large" in str(error) else "Free some space"
            states = ("checkpoints/state.json", "folds/*/checkpoints/state.json")
            kept = "The last checkpoint is kept. " if any(any(run.glob(state)) for state in states) else ""
            raise RunOutOfSpace(run, f"{kept}{space}, then {command}") from error
        if is_out_of_memory(error):
            again = f"continue with: clipsearch train --resume {run}" if (run / "run.json").is_file() else "start again"
            advice = f"Close other programs or allow it more memory, then {again}"
            raise OutOfMemory(doing(), "the system gives this process no more", advice) from error
        raise


def fitting_size(size: int, attempt: Callable[[int], object]) -> int | None:
    """The largest half, quarter, eighth ... of `size` for which `attempt` finds memory; None if none does.

    Raises: what `attempt` raises besides a lack of memory.
    """
    while size > 1:
        size //= 2
        gc.collect()
        try:
            attempt(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            continue
        return size
    return None
