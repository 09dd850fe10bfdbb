"""Rows of CSV and TSV files as people and programs write them: a quote that is never closed costs its own row only."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator

MOST_LINES = 1000
"""Of one row, whose captions may have lines."""


def rows_of_text(
    lines: Iterable[str], delimiter: str, is_row: Callable[[list[str]], bool], *, first: int = 1
) -> Iterator[tuple[int, list[str] | None]]:
    """Each row's fields with the number of its last line; None for a row whose quote is not closed.

    `is_row` says whether what a line has is a row of its own: no field goes on over such a line. Between tabs, quotes
    that do not enclose a whole field are text, as most programs that write tabs mean them.
    """
    numbered = enumerate(lines, first)
    again: deque[tuple[int, str]] = deque()  # lines that were looked at and belong to rows of their own

    def following() -> tuple[int, str] | None:
        return again.popleft() if again else next(numbered, None)

    while (line := following()) is not None:
        if '"' not in line[1]:
            if bare := line[1].rstrip("\r\n"):
                yield line[0], bare.split(delimiter)
            continue
        taken = [line]
        row, is_open = _parsed([line[1]], delimiter)
        while is_open and len(taken) < MOST_LINES and (more := following()) is not None:
            if is_row(_parsed([more[1]], delimiter)[0] or []):
                again.appendleft(more)
                break
            taken.append(more)
            if '"' in more[1]:
                row, is_open = _parsed([text for _, text in taken], delimiter)
        if is_open:
            again.extendleft(reversed(taken[1:]))
            yield line[0], _as_text(line[1], delimiter) if delimiter == "\t" else None
        elif delimiter == "\t" and len(taken) == 1 and not _encloses(line[1]):
            yield line[0], _as_text(line[1], delimiter)
        else:
            yield taken[-1][0], row


def _parsed(lines: list[str], delimiter: str) -> tuple[list[str] | None, bool]:
    """The fields of a row, if they can be told, and whether a quote is open at its end."""
    reader = csv.reader([*lines, ""], delimiter=delimiter)
    try:
        return next(reader), reader.line_num > len(lines)
    except csv.Error:  # a field that is too long
        return None, False


def _as_text(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _encloses(line: str) -> bool:
    """Whether all quotes that begin a field of a line with tabs end it, too."""
    try:
        list(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        return False
    return True
