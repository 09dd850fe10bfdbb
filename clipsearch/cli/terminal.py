"""What the command line shows: safe text, progress, numbers for people. Writes to streams, decides nothing."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from clipsearch.filenames import safe

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from clipsearch.indexer.build import Progress as RunProgress

PLAIN_EVERY_S = 10.0
MOST_MACHINES = 4  # of which each is named


def shown(text: str) -> str:
    """`text` for a line of stdout: `safe` for a terminal; for a pipe or a file as it is, but for its line breaks."""
    return safe(text) if sys.stdout.isatty() else text.replace("\n", "\\x0a")


def cell(text: str) -> str:
    """`text` for a cell of a CSV table on stdout: `safe` for a terminal, else as it is. Line breaks stand in quotes
    there, as RFC 4180 has it."""
    return safe(text) if sys.stdout.isatty() else text


def speak_any_name() -> None:
    """Let stdout and stderr take every name: bytes that are not UTF-8 as they are, else escapes for what is missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            exact = stream is sys.stdout and stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if exact else "backslashreplace")


def outlive_readers() -> None:
    """Let a command do all of its work, and say how that went, when whoever reads what it prints has seen enough.

    What is printed on stdout or stderr after that goes nowhere, as in `clipsearch index ./photos | head -1`.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or stream is not getattr(sys, f"__{name}__"):
            continue
        stream.flush()
        raw = _ReadOrNot(stream.fileno())
        unbuffered = isinstance(stream.buffer, io.RawIOBase)  # as PYTHONUNBUFFERED asks for
        binary = raw if unbuffered else io.BufferedWriter(raw)
        text = io.TextIOWrapper(
            binary,  # type: ignore[type-var]
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)


class _ReadOrNot(io.RawIOBase):
    """An open file, or the null device from when its reader is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int | None:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BrokenPipeError:
            print_nowhere(self._descriptor)
            return size
        except BlockingIOError:
            return size - len(left) or None
        return size


def print_nowhere(descriptor: int) -> None:
    """Let an open file be the null device from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 picture", "12,345 pictures"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def rows_of(regions: int) -> str:
    """What rows of an index are beside pictures. `regions`: of each picture."""
    parts = "shots of videos, pages of documents and angles of 3-D models"
    return f"with regions of pictures, {parts}" if regions else f"with {parts}"


def size(size_bytes: int) -> str:
    """A size for people, in decimal units: "3.2 MB"."""
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    value, units = size_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}" if value < 99.5 else f"{value:.0f} {units[0]}"


def duration(seconds: float) -> str:
    """A time span for people: "0.8 s", "42 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def can_redraw(stream: TextIO) -> bool:
    """Whether what was printed on `stream` can be printed over: a terminal that knows escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


class Reporter(Protocol):
    def __call__(self, progress: RunProgress) -> None: ...


@contextmanager
def progress_display(stream: TextIO | None = None) -> Iterator[Reporter]:
    """Show an indexing run on `stream` (stderr): a bar on a terminal, a line every ten seconds elsewhere."""
    target = stream or sys.stderr
    if can_redraw(target):
        with _bar(target) as report:
            yield report
    else:
        yield _PlainLines(target)


@contextmanager
def _bar(stream: TextIO) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[so_far]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task("scanning", total=None, rate="", so_far="0/0")

        def report(progress: RunProgress) -> None:
            done = progress.encoded or progress.described
            rate = done / max(time.monotonic() - started, 1e-3)
            bars.update(
                task,
                description=_STAGES[progress.stage],
                completed=progress.done,
                total=None if progress.is_listing or progress.stage == "scan" else progress.total,  # None: no time left
                so_far=f"{progress.done:,}/{progress.total:,}" + (" so far" if progress.is_listing else ""),
                rate=(f"{rate:.1f} pictures/s" if done else "") + _of_machines(progress),
            )

        yield report


@contextmanager
def stages_display(stream: TextIO | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show a run of several stages, each called what it is, on `stream` (stderr): (stage, done, total)."""
    target = stream or sys.stderr
    if not can_redraw(target):
        yield _StageLines(target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(file=target), transient=True) as bars:
        task = bars.add_task("starting", total=0)
        current = ""

        def report(stage: str, done: int, total: int) -> None:
            nonlocal current
            if stage != current:
                current = stage
                bars.reset(task, total=total)
            bars.update(task, description=stage, completed=done, total=total)

        yield report


class _StageLines:
    """A line when a stage begins, and every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._started = self._next_at = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started = stage, now
        elif now < self._next_at:
            return
        self._next_at = now + PLAIN_EVERY_S
        spent = now - self._started
        left = f", about {duration(spent / done * (total - done))} left" if done and spent > 1 else ""
        print(f"{stage}: {done:,} of {total:,}{left}", file=self._stream, flush=True)


def _of_machines(progress: RunProgress) -> str:
    """How fast each machine of a cluster is: all of them if they are few, else the slowest and the fastest."""
    nodes = sorted(progress.nodes, key=lambda node: node[1])
    if len(nodes) > MOST_MACHINES:
        (slowest, low), (fastest, high) = nodes[0], nodes[-1]
        return f" ({len(nodes)} machines: {safe(slowest)} {low:.1f}/s to {safe(fastest)} {high:.1f}/s)"
    return f" ({', '.join(f'{safe(name)} {rate:.1f}/s' for name, rate in sorted(nodes))})" if nodes else ""


class _PlainLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._next_at = self._started + PLAIN_EVERY_S

    def __call__(self, progress: RunProgress) -> None:
        now = time.monotonic()
        if now < self._next_at or not progress.total:
            return
        self._next_at = now + PLAIN_EVERY_S
        spent = now - self._started
        left = duration(spent / progress.done * (progress.total - progress.done)) if progress.done else "?"
        more, left = (" so far", "") if progress.is_listing else ("", f", about {left} left")
        print(
            f"{_STAGES[progress.stage]}: {progress.done:,} of {progress.total:,} files{more}, "
            f"{(progress.encoded or progress.described) / spent:.1f} pictures/s{_of_machines(progress)}{left}",
            file=self._stream,
            flush=True,
        )


_STAGES = {
    "scan": "scanning",
    "describe": "reading metadata",
    "read": "indexing",
    "commit": "saving",
    "merge": "merging files",
    "check": "checking",
    "encode": "encoding",
    "words": "reading words",
    "captions": "captioning",
}
