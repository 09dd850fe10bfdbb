"""Commands in turn in one Python that is started as a test says: in a locale, without a home, on a terminal.

What Python decides when it starts is decided once. Each command is a process forked from it, with the streams that it
made, and ends as Python ends. Starting Python and importing what commands need takes most of the time of a short one.
Run as a program, this is that Python.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Words = Sequence[str | bytes | Path]
NEEDED = "pyarrow.parquet clipsearch.cli.app clipsearch.cli.query clipsearch.cli.status clipsearch.search.collection"


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    out: bytes
    err: bytes


def python(commands: Sequence[Words]) -> list[str]:
    """The command line of that Python. On a terminal, NUL and the status and NUL follow what each command says."""
    return [sys.executable, "-P", __file__, json.dumps([[os.fsencode(word).hex() for word in one] for one in commands])]


def in_turn(
    *commands: Words,
    folder: Path,
    env: Mapping[str, str],
    within: Sequence[str | Path] = (),
    timeout_s: float = 300.0,
) -> list[Ended]:
    """How each `clipsearch COMMAND` ended in `folder`. `env`: all of its environment; `within`: what starts Python."""
    done = subprocess.run([*within, *python(commands)], cwd=folder, env=env, capture_output=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    return [Ended(status, bytes.fromhex(out), bytes.fromhex(err)) for status, out, err in json.loads(done.stdout)]


def all_well(*commands: Words, folder: Path, env: Mapping[str, str], within: Sequence[str | Path] = ()) -> list[bytes]:
    """What each of these commands, which must succeed, writes to stdout."""
    ended = in_turn(*commands, folder=folder, env=env, within=within)
    for words, one in zip(commands, ended, strict=True):
        assert one.status == 0, f"{words}: exit {one.status}\n{one.out!r}\n{one.err!r}"
        assert b"Traceback" not in one.err, words
    return [one.out for one in ended]


def _main(commands: str) -> None:
    from clipsearch.__main__ import _use_utf8_for_names, main

    _use_utf8_for_names()  # as each would first do
    for name in NEEDED.split():
        import_module(name)
    gc.freeze()  # no command is to look through it, and so to copy it
    on_terminal, told = os.isatty(1), []
    for words in json.loads(commands):
        streams = [] if on_terminal else [os.memfd_create(name) for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            for number, stream in enumerate(streams, 1):
                os.dup2(stream, number)
            sys.argv = ["clipsearch", *(os.fsdecode(bytes.fromhex(word)) for word in words)]
            main()
            return
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if on_terminal:
            os.write(1, b"\0%d\0" % status)
            continue
        told.append([status, *(os.pread(stream, os.fstat(stream).st_size, 0).hex() for stream in streams)])
        for stream in streams:
            os.close(stream)
    if not on_terminal:
        os.write(1, json.dumps(told).encode("ascii"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
