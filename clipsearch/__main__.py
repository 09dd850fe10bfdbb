"""`clipsearch` and `python -m clipsearch`: the command line."""

from __future__ import annotations

import atexit
import gc
import os
import sys

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
LEFT_AS_THEY_ARE = ("index", "query", "status", "verify")  # commands whose process is not taken apart at its end
_statuses: list[int] = []  # that of the process, once it is known


def _use_utf8_for_names() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: names are bytes, read as UTF-8.

    A terminal goes on being written to in its own encoding. Nothing happens, and nothing is lost, where names are UTF-8
    already: on nearly every machine.
    """
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or os.name != "posix":
        return
    if os.environ.get("PYTHONUTF8") == "1" or not sys.executable:  # tried already
        return
    if sys.stdout is not None and sys.stdout.isatty():
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"  # of the processes that this one starts, too
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _is_the_program() -> bool:
    """Whether `main` is what this process was started for, not called by another program or a test."""
    return sys._getframe(2).f_globals.get("__name__") == "__main__"


def _leave() -> None:
    """End the process at once: Python and libraries would free their memory part by part, and so will the system.

    A query takes 0.37 s of processor time instead of 0.43 (10,000 rows); what is saved of an index run of 7 s is less
    than the noise of other programs. Nor can a library's threads turn success into an error, as happened once in a test
    of `verify` ("terminate called without an active exception"). It is the last of what happens at exit: threads have
    ended, what others registered was called. A stream that cannot be flushed, and a process that dies of an error, end
    as ever.
    """
    if not _statuses:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            return
    os._exit(_statuses[0])


def main() -> None:
    """Run the command line. Imports make no garbage worth looking for, so it is not looked for meanwhile.

    A search multiplies matrices too small, or too far from the processor, for the threads that NumPy's OpenBLAS starts
    and lets spin: without them a query takes 90 ms less processor time on two cores, and a server, whose own threads
    would stand in line for OpenBLAS's, answers many times as many.
    """
    _use_utf8_for_names()
    gc.disable()
    open_closed_streams()
    if sys.argv[1:2] and sys.argv[1] in LEFT_AS_THEY_ARE and _is_the_program():
        atexit.register(_leave)  # before all others, which are called before it
    try:
        from clipsearch.cli.commands import COMMANDS

        if sys.argv[1:2] and sys.argv[1] in COMMANDS and COMMANDS[sys.argv[1]].answers:
            os.environ.setdefault(BLAS_THREADS, "1")
        from clipsearch.cli.app import main as run

        run()
    except KeyboardInterrupt:  # while it starts: later ones are answered in cli.app
        print("clipsearch: interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            _statuses.append(left.code or 0)
        raise


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
