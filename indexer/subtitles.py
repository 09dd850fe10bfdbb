"""What is said in videos, from the subtitles beside them: words of the shots in which it is said.

The words of a shot lie in the files of words by what its content and view make (`store.hashes.part_key`). Those of the
whole video have no line, but say in `reason` which subtitles were read, so that they are read again if these change.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from clipsearch.pictures.subtitles import is_subtitles, read_bytes, read_cues, subtitles_of
from clipsearch.places import leads_out
from clipsearch.records import ImageRecord, Line
from clipsearch.store import LiveRows
from clipsearch.store.hashes import part_key
from clipsearch.store.words import ReadPicture

MARK = "subtitles "
"""How the reason of a video begins whose subtitles were read."""


@dataclass(slots=True)
class Subtitled:
    """What is new in the subtitles of an index: words of shots, of how many videos."""

    words: list[ReadPicture] = field(default_factory=list)
    videos: int = 0
    lines: int = 0


def read_subtitles(root: Path, fragments: list[LiveRows], known: Mapping[str, str], *, links_inside: bool) -> Subtitled:
    """Read the subtitles of videos that are not `known`: by content hash, what was read before (`ReadPicture.reason`).

    `links_inside`: files that lead out of the folder are left alone. Raises: MissingExtra.
    """
    found = Subtitled()
    done = set[str]()
    names_in = lru_cache(maxsize=64)(_subtitles_in)  # videos of a folder follow each other
    for shots in _videos(fragments):
        content, path = shots[0].content_hash, shots[0].path
        if content is None or content in done:
            continue
        files = _beside(root, path, names_in, links_inside=links_inside)
        if not files and content not in known:
            continue
        done.add(content)
        seen = xxhash.xxh3_128("\0".join(shot.view for shot in shots).encode())
        for name, read in files:
            seen.update(f"\0{name}\0".encode("utf-8", "surrogateescape"))
            seen.update(read)
        reason = f"{MARK}{seen.hexdigest()}"
        if known.get(content) == reason:
            continue
        said = divided(shots, [cue for name, read in files for cue in read_cues(read, name[-4:])])
        again = content in known
        for shot, lines in zip(shots, said, strict=True):
            if lines or again:
                found.words.append(ReadPicture(part_key(content, shot.view), tuple(lines), again=again))
        found.words.append(ReadPicture(content, reason=reason))
        found.videos += bool(files)
        found.lines += sum(map(len, said))
    return found


def divided(shots: list[ImageRecord], cues: list[Line]) -> list[list[Line]]:
    """The cues of each shot: those that begin in it."""
    starts = [shot.start_s or 0.0 for shot in shots]
    said: list[list[Line]] = [[] for _ in shots]
    for cue in sorted(cues, key=lambda cue: cue.start_s or 0.0):
        said[max(0, bisect.bisect_right(starts, cue.start_s or 0.0) - 1)].append(cue)
    return said


def _videos(fragments: list[LiveRows]) -> Iterator[list[ImageRecord]]:
    """The shots of each video, in their order."""
    for rows in fragments:
        if not rows.has_views:
            continue
        shots: list[ImageRecord] = []
        for at in np.flatnonzero(rows.alive & (rows.file.columns.numbers["view"] != 0)).tolist():
            record = rows.file.record(at)
            if shots and shots[0].path != record.path:
                yield shots
                shots = []
            if record.start_s is not None and not record.member:
                shots.append(record)
        if shots:
            yield shots


def _subtitles_in(folder: str) -> list[str]:
    """The names of the subtitle files in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if is_subtitles(entry.name)]
    except OSError:
        return []


def _beside(
    root: Path, path: str, names_in: Callable[[str], list[str]], *, links_inside: bool
) -> list[tuple[str, bytes]]:
    """The subtitle files of a video, by their names, and what is in them."""
    folder, name = os.path.split(os.path.join(root, path))  # noqa: PTH118
    found = []
    inside = os.path.dirname(path)  # noqa: PTH120
    for other in subtitles_of(name, names_in(folder)):
        if links_inside and leads_out(root, os.path.join(inside, other)):  # noqa: PTH118
            continue
        try:
            content = read_bytes(os.path.join(folder, other))  # noqa: PTH118
        except OSError:
            continue
        if content is not None:
            found.append((other, content))
    return found
