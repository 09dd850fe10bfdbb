"""A hit as text, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterable
from typing import Any

from clipsearch.cli.terminal import shown
from clipsearch.filenames import to_bytes
from clipsearch.records import Hit

_CSV_COLUMNS = (
    "rank", "score", "confidence", "band", "path", "row_id", "width", "height", "size_bytes", "taken_at", "camera",
)  # fmt: skip


def hit_json(hit: Hit) -> dict[str, Any]:
    """All that is known of a hit."""
    record = hit.record
    return {
        "rank": hit.rank,
        "score": None if math.isnan(hit.score) else round(hit.score, 6),
        "confidence": None if hit.confidence is None else round(hit.confidence, 4),
        "band": hit.band,
        "path": hit.path,
        "row_id": record.row_id,
        "width": record.width,
        "height": record.height,
        "size_bytes": record.size_bytes,
        "mtime_ns": record.mtime_ns,
        "content_hash": record.content_hash,
        **dataclasses.asdict(record.metadata),
        **({"others": [hit_json(other) for other in hit.others]} if hit.others else {}),
    }


def hits_csv(hits: Iterable[Hit]) -> bytes:
    """A line for each hit, after a line of names. Paths are exact bytes in a pipe or a file."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, _CSV_COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for hit in hits:
        writer.writerow({**hit_json(hit), "path": shown(hit.path), "camera": shown(hit.record.metadata.camera or "")})
    return to_bytes(buffer.getvalue())


def short_json(hit: Hit, *, judged: bool = False) -> dict[str, Any]:
    """What says which picture a hit is; with `judged`, also how sure it is."""
    record = hit.record
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "path": hit.path,
        "row_id": record.row_id,
        "width": record.width,
        "height": record.height,
        "size_bytes": record.size_bytes,
        "content_hash": record.content_hash,
        **({"confidence": hit.confidence, "band": hit.band} if judged else {}),
    }


def print_hit(hit: Hit) -> None:
    """Print a line for people, and one for each near-duplicate that the hit stands for."""
    score = "    -" if math.isnan(hit.score) else f"{hit.score:.3f}"
    band = "" if hit.band is None else f"{hit.band:8}  "
    print(f"{hit.rank:3d}  {score}  {band}{shown(_shortest(hit.path))}")
    for other in hit.others:
        print(f"                      = {shown(_shortest(other.path))}")


def _shortest(path: str) -> str:
    """`path` as it is shortest to type from here."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # this folder is no more
        return path
    return relative if len(relative) < len(path) else path
