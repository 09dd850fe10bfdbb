"""What is said in videos, from the subtitles beside and inside them: words of the shots in which it is said.

The words of a shot lie in the files of words by what its content and view make (`store.hashes.part_key`). Those of the
whole video have no line, but say in `reason` which subtitles were read, so that they are read again if these change.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from clipsearch.pictures.formats import format_of, is_installed
from clipsearch.pictures.subtitles import can_read, is_subtitles, joined, read_bytes, read_cues, subtitles_of
from clipsearch.places import leads_out
from clipsearch.records import ImageRecord, Line
from clipsearch.store import LiveRows
from clipsearch.store.hashes import part_key
from clipsearch.store.words import ReadPicture

MARK = "subtitles "
"""How the reason of a video begins whose subtitles were read."""


@dataclass(frozen=True, slots=True)
class SubtitledVideo:
    """A video whose subtitles are to be read: its shots, those beside it (name and content), and whether to look for
    some inside it. `reason`: what is remembered once they were read."""

    content_hash: str
    shots: list[ImageRecord]
    beside: list[tuple[str, bytes]]
    inside: bool
    reason: str
    again: bool  # it was read before, and may have had other subtitles then
    attempts: int  # to look inside, that circumstances ended

    @property
    def record(self) -> ImageRecord:
        """The row of its first shot."""
        return self.shots[0]

    def said(self, inside: Iterable[Line] = (), attempts: int = 0) -> list[ReadPicture]:
        """The words of its shots, from the subtitles beside it and `inside`, and what is remembered. `attempts`: to
        look inside, that circumstances ended. Raises: MissingExtra."""
        beside = [cue for name, read in self.beside for cue in read_cues(read, name[-4:])]
        words = [
            ReadPicture(part_key(self.content_hash, shot.view), tuple(lines), again=self.again)
            for shot, lines in zip(self.shots, divided(self.shots, joined([*beside, *inside])), strict=True)
            if lines or self.again
        ]
        return [*words, ReadPicture(self.content_hash, reason=self.reason, attempts=attempts)]


def videos_to_read(
    root: Path,
    fragments: list[LiveRows],
    known: Mapping[str, tuple[str, int]],
    *,
    links_inside: bool,
    most_attempts: int,
) -> Iterator[SubtitledVideo]:
    """The videos whose subtitles are not `known`: by content hash, what is remembered of what was read before, and how
    many attempts to look inside circumstances have ended, of `most_attempts`.

    Of copies of a video one is read: the first that has subtitles beside it, if any. `links_inside`: files that lead
    out of the folder are left alone.
    """
    looks_inside = is_installed(format_of("VIDEO")) and can_read()
    names_in = lru_cache(maxsize=64)(_subtitles_in)  # videos of a folder follow each other
    done = set[str]()
    for only_beside in (True, False):
        for shots in _videos(fragments):
            content = shots[0].content_hash
            if content is None or content in done:
                continue
            files = _beside(root, shots[0].path, names_in, links_inside=links_inside)
            inside = looks_inside and shots[0].metadata.format == "VIDEO"
            if not files and (only_beside or (content not in known and not inside)):
                continue
            done.add(content)
            reason = _reason(shots, files, inside=inside)
            before, attempts = known.get(content, ("", 0))
            if before != reason or 0 < attempts < most_attempts:
                attempts = attempts if before == reason else 0
                yield SubtitledVideo(content, shots, files, inside, reason, bool(before), attempts)


def _reason(shots: list[ImageRecord], files: list[tuple[str, bytes]], *, inside: bool) -> str:
    seen = xxhash.xxh3_128("\0".join(shot.view for shot in shots).encode())
    for name, read in files:
        seen.update(f"\0{name}\0".encode("utf-8", "surrogateescape"))
        seen.update(read)
    seen.update(b"\0inside" if inside else b"")
    return f"{MARK}{seen.hexdigest()}"


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
