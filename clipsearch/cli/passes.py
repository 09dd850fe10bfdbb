"""What the commands of second passes (`read`, `caption`) say at their end."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from clipsearch.cli.options import EXIT_INTERRUPTED, print_json
from clipsearch.cli.terminal import duration, shown

if TYPE_CHECKING:
    from clipsearch.indexer.captions import CaptionReport
    from clipsearch.indexer.words import ReadReport

EXAMPLES = 3


def print_as_json(report: CaptionReport | ReadReport) -> None:
    """Print all that a pass reports."""
    body = dataclasses.asdict(report)
    print_json({**body, "index": str(report.index), "pictures_per_s": round(report.pictures_per_s, 2)})


def print_counts(report: CaptionReport | ReadReport, did: str, counts: Sequence[tuple[int, str]]) -> None:
    """Print what a pass `did`, how many pictures (`counts`) it left for which reason, and some that it skipped."""
    parts = [did, *(f"{number:,} {what}" for number, what in (*counts, (len(report.skipped), "skipped")) if number)]
    rate = f" ({report.pictures_per_s:.1f} pictures/s)" if report.pictures_per_s else ""
    print(f"{', '.join(parts)} in {duration(report.seconds)}{rate}")
    for skip in report.skipped[:EXAMPLES]:
        print(f"    {shown(skip.path)}: {shown(skip.reason)}")


def end_interrupted(going_on: str) -> None:
    """End a command that was stopped, and say how it goes on. Raises: Exit."""
    print(f"Stopped. Finished work is kept. {going_on}", file=sys.stderr)
    raise typer.Exit(EXIT_INTERRUPTED)
