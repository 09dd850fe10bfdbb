"""A hit as text and as CSV. As JSON, it is `Hit.to_dict`."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable

from clipsearch.cli.terminal import cell, shown
from clipsearch.filenames import to_bytes
from clipsearch.places import is_address
from clipsearch.records import HIT_FIELDS, Hit, Line, PictureMetadata, in_one_cell

LONGEST_SHOWN = 80  # characters of a text under a hit
LONGEST_WORDS = 90  # characters of the words in a picture, under a hit


def hits_csv(hits: Iterable[Hit]) -> bytes:
    """A line for each hit, after a line of names. Texts are exact in a pipe or a file."""
    buffer = io.StringIO(newline="")
    hits = list(hits)
    several = next((list(hit.found_in.to_dict()) for hit in hits if hit.found_in is not None), [])
    writer = csv.DictWriter(buffer, [*HIT_FIELDS, *several], extrasaction="ignore")
    writer.writeheader()
    for hit in hits:
        row = hit.to_dict()
        flat = {key: in_one_cell(value) for key, value in row.items()}
        writer.writerow({key: cell(value) if isinstance(value, str) else value for key, value in flat.items()})
    return to_bytes(buffer.getvalue())


def print_hit(hit: Hit) -> None:
    """Print a line for people, one for the clip of a Live Photo, and one for each near-duplicate that the hit stands
    for."""
    score = "    -" if math.isnan(hit.score) else f"{hit.score:.3f}"
    read = [line for line in hit.words if not line.by]
    word = "words" if read and hit.band == "unlikely" else hit.band  # these are why it is shown
    band = "" if word is None else f"{word:8}  "
    print(f"{hit.rank:3d}  {score}  {band}{shown(place_of(hit))}")
    if read:
        print(f"{'':22}{shown(said_words(read))}")
    for line in hit.words:
        if line.by:
            print(f"{'':22}caption by {shown(line.by)}: {shown(said_words([line]))}")
    if words := words_of(hit.record.metadata):
        print(f"{'':22}{shown(words)}")
    if hit.clip is not None:
        print(f"                      + {shown(place_of(hit.clip))}")
    for other in hit.others:
        print(f"                      = {shown(place_of(other))}")


def place_of(hit: Hit) -> str:
    """Where a picture is: from here, or of several indexes in which folder, and where in it."""
    if hit.found_in is None:
        return hit.record.where(_shortest(hit.path))
    root = hit.path.removesuffix(hit.record.path).rstrip("/") or "/"
    return f"{_shortest(root)}: {hit.record.where(hit.record.path)}"


def words_of(metadata: PictureMetadata) -> str:
    """What people wrote of a picture, as far as it fits into a line; "" if nothing."""
    told = {
        "rating": "" if metadata.rating is None else str(metadata.rating),
        "people": ", ".join(metadata.people),
        "keywords": ", ".join(metadata.keywords),
        "title": metadata.title or "",
        "caption": (metadata.caption or "").replace("\n", " / "),
        "columns": ", ".join(metadata.columns),
    }
    return "; ".join(f"{name}: {_cut(text)}" for name, text in told.items() if text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def said_words(lines: Iterable[Line]) -> str:
    """The first lines of words in a picture, in quotes, on one line."""
    words = " / ".join(" ".join(line.text.split()) for line in lines)
    return f'"{words}"' if len(words) <= LONGEST_WORDS else f'"{words[:LONGEST_WORDS].rstrip()}..."'


def _shortest(path: str) -> str:
    """`path` as it is shortest to type from here."""
    if is_address(path):
        return path
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # this folder is no more
        return path
    return relative if len(relative) < len(path) else path
