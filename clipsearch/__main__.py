"""`clipsearch` and `python -m clipsearch`: the command line."""

from __future__ import annotations

import gc
import os
import sys

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
ANSWERING = ("query", "serve", "ui", "mcp", "similar")


def main() -> None:
    """Run the command line. Imports make no garbage worth looking for, so it is not looked for meanwhile.

    A search multiplies matrices too small, or too far from the processor, for the threads that NumPy's OpenBLAS starts
    and lets spin: without them a query takes 90 ms less processor time on two cores, and a server, whose own threads
    would stand in line for OpenBLAS's, answers many times as many.
    """
    gc.disable()
    open_closed_streams()
    if sys.argv[1:2] and sys.argv[1] in ANSWERING:
        os.environ.setdefault(BLAS_THREADS, "1")
    from clipsearch.cli import main as run

    run()


def open_closed_streams() -> None:
    """Give a process that was started without some of stdin, stdout and stderr the null device in their place.

    Else the next file that is opened takes the place, an index perhaps, and whatever a library prints goes there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
