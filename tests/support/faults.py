"""Processes whose calls of the system fail, are counted, or are where the process dies: `faults.c`, from Python.

The order is in a file that this process and every process with `Faults.env` map, so it can be given, changed and
withdrawn while they run.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import pytest

Family = Literal[
    "open", "read", "stat", "rename", "sync", "unlink", "write", "list", "flock", "mkdir", "sync folder", "link"
]
Mode = Literal["once", "from then on", "kill", "stop", "kill from then on"]

FAMILIES: tuple[Family, ...] = get_args(Family)
MODES: tuple[Mode, ...] = get_args(Mode)
COMMAND_ONLY = -1
_PID_AT = 5 * 8
_NUMBERS = struct.Struct("<24q")
_FAMILIES_AT = 12
_TEXT, _PATH = 16384, 4096
_SIZE = _NUMBERS.size + 4 * _TEXT + _PATH


@dataclass(frozen=True, slots=True)
class Struck:
    """What became of an order: calls that it was about, how many of them failed, and the last of these."""

    calls: int
    failed: int
    where: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """What processes did with the files that are watched."""

    bytes_read: int
    bytes_written: int
    opened: int


def build(folder: Path) -> Path:
    """Compile the library into `folder`. Skips the test where that cannot be."""
    if sys.platform != "linux":
        pytest.skip("errors are injected with LD_PRELOAD, on Linux")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("injecting errors needs a C compiler (cc)")
    library = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


class Faults:
    """Orders to the processes that were started with `env`."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._file = folder / f"faults-{os.getpid()}-{id(self):x}"
        self._file.write_bytes(bytes(_SIZE))
        with self._file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self.env = {"LD_PRELOAD": str(library), "CLIPSEARCH_FAULTS": str(self._file)}

    def arm(
        self,
        families: Family | Sequence[Family],
        below: Path | Sequence[Path],
        *,
        nth: int = 1,
        error: int = errno.EIO,
        mode: Mode = "once",
        but: Path | Sequence[Path] = (),
        pid: int = 0,
    ) -> None:
        """Let the nth call of these families that concerns something `below` (but not below `but`) fail.

        `kill` and `stop` end or stop the process in place of that call; `pid` limits all to one process, with
        COMMAND_ONLY to the next command itself, without the processes that it starts.
        """
        self.disarm()
        named = (families,) if isinstance(families, str) else families
        bits = sum(1 << FAMILIES.index(family) for family in named)
        self._write(0, below)
        self._write(1, but)
        self._map[_SIZE - _PATH : _SIZE] = bytes(_PATH)
        struct.pack_into("<12q", self._map, 8 * _FAMILIES_AT, *([0] * len(FAMILIES)))
        struct.pack_into("<8q", self._map, 0, 0, bits, nth, error, MODES.index(mode), pid, 0, 0)
        struct.pack_into("<q", self._map, 0, 1)

    def disarm(self) -> Struck:
        """Withdraw the order."""
        struct.pack_into("<q", self._map, 0, 0)
        return self.struck()

    def struck(self) -> Struck:
        numbers = _NUMBERS.unpack_from(self._map)
        where = self._map[_SIZE - _PATH : _SIZE].split(b"\0", 1)[0]
        return Struck(numbers[6], numbers[7], os.fsdecode(where))

    def calls(self) -> dict[Family, int]:
        """How many calls of each family the last order was about."""
        numbers = _NUMBERS.unpack_from(self._map)[_FAMILIES_AT:]
        return dict(zip(FAMILIES, numbers, strict=True))

    @contextmanager
    def armed(
        self,
        families: Family | Sequence[Family],
        below: Path | Sequence[Path],
        *,
        nth: int = 1,
        error: int = errno.EIO,
        mode: Mode = "once",
        but: Path | Sequence[Path] = (),
        pid: int = 0,
    ) -> Iterator[None]:
        """`arm`, for the length of a `with`."""
        self.arm(families, below, nth=nth, error=error, mode=mode, but=but, pid=pid)
        try:
            yield
        finally:
            self.disarm()

    def watch(self, below: Path | Sequence[Path], *, but: Path | Sequence[Path] = ()) -> None:
        """Count, from now on, what is read and written of files below `below` (but not below `but`)."""
        self._write(2, below)
        self._write(3, but)
        struct.pack_into("<3q", self._map, 8 * 8, 0, 0, 0)

    def traffic(self) -> Traffic:
        return Traffic(*_NUMBERS.unpack_from(self._map)[8:11])

    def close(self) -> None:
        self._map.close()
        self._file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, number: int, paths: Path | Sequence[Path]) -> None:
        lines = [os.fsencode(path) for path in ((paths,) if isinstance(paths, Path) else paths)]
        text = b"\n".join(lines)
        assert len(text) < _TEXT
        start = _NUMBERS.size + number * _TEXT
        self._map[start : start + _TEXT] = text.ljust(_TEXT, b"\0")


def be_the_command() -> None:
    """Tell those who order COMMAND_ONLY that this process is the command."""
    name = os.environ.get("CLIPSEARCH_FAULTS")
    if name is not None:
        with Path(name).open("r+b", buffering=0) as file:
            (pid,) = struct.unpack("<q", os.pread(file.fileno(), 8, _PID_AT))
            if pid == COMMAND_ONLY:
                os.pwrite(file.fileno(), struct.pack("<q", os.getpid()), _PID_AT)


def environment(*more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `more`."""
    return {name: value for part in (os.environ, *more) for name, value in part.items()}
