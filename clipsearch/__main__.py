"""`clipsearch` and `python -m clipsearch`: the command line."""

from __future__ import annotations

import gc
import os
import sys

BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main() -> None:
    """Run the command line. Imports make no garbage worth looking for, so it is not looked for meanwhile.

    A query multiplies matrices too small, or too far from the processor, for the threads that NumPy's OpenBLAS starts
    and lets spin: without them it takes 90 ms less processor time on two cores.
    """
    gc.disable()
    if sys.argv[1:2] == ["query"]:
        os.environ.setdefault(BLAS_THREADS, "1")
    from clipsearch.cli import main as run

    run()


if __name__ == "__main__":
    main()
