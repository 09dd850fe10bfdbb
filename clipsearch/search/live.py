"""Live Photos: a still and a clip of a few seconds in two files, which are one picture.

Apple's phones write the same identifier into both (`PictureMetadata.live`). Files are a pair where they have that in
common; where one of them has lost it, as exports lose it, only if the other one has it, they lie in one folder under
one name, the clip has at most LONGEST_S and both say that they were taken within APART_S. Two files neither of which
says that it is of a Live Photo are never taken for one. A file is in one pair at most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.records import ImageRecord, IntArray
from clipsearch.store import LiveRows

LONGEST_S = 5.0
APART_S = 3.0
CLIPS = frozenset({"mov", "mp4", "m4v", "qt"})
STILLS = frozenset({"heic", "heif", "jpg", "jpeg", "jpe", "avif", "png", "dng"})
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class LivePhotos:
    """The pairs of an index. `clips`: the first row of each clip, ascending; `ends`: what follows its last one;
    `stills`: the row of its still. Shapes: (P,) int64."""

    clips: IntArray
    ends: IntArray
    stills: IntArray

    def __len__(self) -> int:
        return len(self.clips)

    def still_of(self, files: IntArray) -> IntArray:
        """The still of each of some files, known by their first rows, that is a clip; else -1. Shapes: (N,) int64."""
        if not len(self):
            return np.full(len(files), -1, np.int64)
        at = np.minimum(np.searchsorted(self.clips, files), len(self) - 1)
        found: IntArray = np.where(self.clips[at] == files, self.stills[at], -1)
        return found

    def clip_of(self, still: int) -> range | None:
        """The rows of the clip of a still; None for any other row."""
        at = self._by_still.get(still)
        return None if at is None else range(int(self.clips[at]), int(self.ends[at]))

    @cached_property
    def _by_still(self) -> dict[int, int]:
        return {still: at for at, still in enumerate(self.stills.tolist())}

    @cached_property
    def row_ids(self) -> IntArray:
        """Every row of both. Shape: (N,) int64, ascending."""
        lengths = self.ends - self.clips
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.sort(np.concatenate([self.stills, np.repeat(self.clips, lengths) + within]))


NO_PAIRS = LivePhotos(_NONE, _NONE, _NONE)


def joined(parts: Iterable[tuple[LivePhotos, int]]) -> LivePhotos:
    """The pairs of several indexes, whose row ids are raised by a number each."""
    there = [(pairs, by) for pairs, by in parts if len(pairs)]
    if not there:
        return NO_PAIRS
    clips, ends, stills = (
        np.concatenate([getattr(pairs, name) + by for pairs, by in there]) for name in ("clips", "ends", "stills")
    )
    order = np.argsort(clips)
    return LivePhotos(clips[order], ends[order], stills[order])


class _Place(NamedTuple):
    """A file: the number of its fragment, and where its first row is there."""

    fragment: int
    at: int


def find_live(fragments: Sequence[LiveRows]) -> LivePhotos:
    """The pairs among the files that are answered."""
    keys, places, clips = [_NONE], [np.empty((0, 2), np.int64)], [np.empty(0, bool)]
    for number, rows in enumerate(fragments):
        own = rows.file.columns.numbers.get("live")
        if own is None or not own.any():  # as in every index without Live Photos
            continue
        at = np.flatnonzero((own != 0) & _files(rows))
        keys.append(own[at])
        places.append(np.stack([np.full(len(at), number), at], axis=1))
        clips.append(_are_parts(rows)[at])
    key, place, is_clip = np.concatenate(keys), np.concatenate(places), np.concatenate(clips)
    if not len(key):
        return NO_PAIRS
    _, of_key = np.unique(key, return_inverse=True)
    of_clips, of_stills = (np.bincount(of_key[mask], minlength=of_key.max() + 1) for mask in (is_clip, ~is_clip))
    # one of each, as nearly always
    alone = ((of_clips == 1) & (of_stills == 1))[of_key]
    order = np.argsort(of_key, kind="stable")
    one, two = order[alone[order] & is_clip[order]], order[alone[order] & ~is_clip[order]]
    pairs = [
        (_Place(*clip), _Place(*still)) for clip, still in zip(place[one].tolist(), place[two].tolist(), strict=True)
    ]
    several = ((of_clips > 0) & (of_stills > 0))[of_key] & ~alone
    named = _Named(fragments)
    taken = set[_Place]()
    for group in _grouped(of_key, np.flatnonzero(several)):
        files = [(_Place(*place[n].tolist()), bool(is_clip[n])) for n in group]
        found = list(_told_apart(files, named))
        pairs += found
        taken.update(*found)
    lonely = np.flatnonzero((of_clips == 0) | (of_stills == 0))
    left = np.flatnonzero(np.isin(of_key, lonely))
    if len(left):
        pairs += _by_name(
            [_Place(*place[n].tolist()) for n in left if is_clip[n]],
            [_Place(*place[n].tolist()) for n in left if not is_clip[n]],
            named,
        )
    return _as_pairs(fragments, pairs)


def _as_pairs(fragments: Sequence[LiveRows], pairs: list[tuple[_Place, _Place]]) -> LivePhotos:
    found = np.array([(*clip, *still) for clip, still in pairs], np.int64).reshape(-1, 4)
    clips, ends, stills = (np.zeros(len(found), np.int64) for _ in range(3))
    whole = np.ones(len(found), bool)
    for number, rows in enumerate(fragments):
        row_ids = rows.file.columns.row_ids
        here = found[:, 0] == number
        if here.any():
            first = found[here, 1]
            last = _ends(rows)[np.searchsorted(_ends(rows), first, "right")] - 1
            clips[here], ends[here] = row_ids[first], row_ids[last] + 1
            whole[here] = row_ids[last] - row_ids[first] == last - first  # as they are written: in one go
        here = found[:, 2] == number
        stills[here] = row_ids[found[here, 3]]
    order = np.flatnonzero(whole)[np.argsort(clips[whole])]
    return LivePhotos(clips[order], ends[order], stills[order])


def _ends(rows: LiveRows) -> IntArray:
    """Where each file ends, as rows follow each other. Shape: (F,) int64, ascending."""
    return np.append(np.flatnonzero(rows.file.columns.starts)[1:], rows.file.pictures)


def _are_parts(rows: LiveRows) -> npt.NDArray[np.bool_]:
    """Which rows are parts of a file: of what begins so here, a video."""
    views = rows.file.columns.numbers.get("view")
    return np.zeros(rows.file.pictures, bool) if views is None else views != 0


def _files(rows: LiveRows) -> npt.NDArray[np.bool_]:
    """Which rows are the first of a file of its own that is answered: of no member of an archive."""
    members = rows.file.columns.numbers.get("member")
    return rows.starts if members is None else rows.starts & (members == 0)


def _grouped(keys: IntArray, at: IntArray) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for n in at.tolist():
        groups[int(keys[n])].append(n)
    yield from groups.values()


class _Named:
    """The names of files, as filters compare them."""

    def __init__(self, fragments: Sequence[LiveRows]) -> None:
        self.fragments = fragments
        self._folders: dict[int, list[str]] = {}
        self._ends: dict[int, IntArray] = {}

    def folder_and_name(self, place: _Place) -> tuple[str, str]:
        columns = self.fragments[place.fragment].file.columns
        if place.fragment not in self._folders:
            self._folders[place.fragment] = columns.texts("folder")
        return self._folders[place.fragment][int(columns.codes("folder")[place.at])], columns.names[place.at]

    def stem(self, place: _Place) -> tuple[str, str]:
        """Folder, and name without its ending."""
        folder, name = self.folder_and_name(place)
        return folder, name.rpartition(".")[0]

    def last(self, place: _Place) -> ImageRecord:
        """The record of the last row of a file."""
        rows = self.fragments[place.fragment]
        if place.fragment not in self._ends:
            self._ends[place.fragment] = _ends(rows)
        ends = self._ends[place.fragment]
        return rows.file.record(int(ends[np.searchsorted(ends, place.at, "right")]) - 1)

    def record(self, place: _Place) -> ImageRecord:
        """The record of the first."""
        return self.fragments[place.fragment].file.record(place.at)


def _told_apart(files: list[tuple[_Place, bool]], named: _Named) -> Iterator[tuple[_Place, _Place]]:
    """Pairs among files of one identifier, of which there are several (copies, the same still in two formats): those of
    one name in one folder, of stills the first by their endings; then what is left in a folder, or at all, if that is
    one of each."""
    for same in (named.stem, lambda place: named.folder_and_name(place)[0], lambda place: ""):
        groups: dict[object, list[tuple[_Place, bool]]] = defaultdict(list)
        for file in files:
            groups[same(file[0])].append(file)
        for group in groups.values():
            clips = [place for place, is_clip in group if is_clip]
            stills = sorted((place for place, is_clip in group if not is_clip), key=named.folder_and_name)
            if len(clips) == 1 and (len(stills) == 1 or (stills and same == named.stem)):
                yield clips[0], stills[0]
                files = [file for file in files if file[0] not in (clips[0], stills[0])]


def _by_name(clips: list[_Place], stills: list[_Place], named: _Named) -> Iterator[tuple[_Place, _Place]]:
    """Pairs of files one of which has lost the identifier."""
    for known, wants_clip in ((stills, True), (clips, False)):
        by_stem: dict[tuple[str, str], list[_Place]] = defaultdict(list)
        for place in known if _has_any(named.fragments, wants_clip) else ():
            by_stem[named.stem(place)].append(place)
        if not by_stem:
            continue
        folders = {folder for folder, _ in by_stem}
        candidates: dict[tuple[str, str], list[_Place]] = defaultdict(list)
        for place in _without(named.fragments, folders, CLIPS if wants_clip else STILLS, is_clip=wants_clip):
            stem = named.stem(place)
            if stem in by_stem:
                candidates[stem].append(place)
        for stem, found in candidates.items():
            if len(found) == len(by_stem[stem]) == 1:
                clip, still = (found[0], by_stem[stem][0]) if wants_clip else (by_stem[stem][0], found[0])
                if _belong_together(clip, still, named):
                    yield clip, still


def _has_any(fragments: Sequence[LiveRows], wants_clip: bool) -> bool:
    return not wants_clip or any(rows.has_views for rows in fragments)


def _without(
    fragments: Sequence[LiveRows], folders: set[str], endings: frozenset[str], *, is_clip: bool
) -> Iterator[_Place]:
    """Clips, or stills, in some folders that have no identifier."""
    for number, rows in enumerate(fragments):
        columns = rows.file.columns
        keys = columns.numbers.get("live")
        chosen = _files(rows) & (_are_parts(rows) == is_clip)
        if keys is not None:
            chosen &= keys == 0
        for column, wanted in (("folder", folders), ("ext", endings)):
            table = np.array([text in wanted for text in columns.texts(column)] + [False], bool)
            chosen &= table[columns.codes(column)]
        for at in np.flatnonzero(chosen).tolist():
            yield _Place(number, at)


def _belong_together(clip: _Place, still: _Place, named: _Named) -> bool:
    """Whether a clip is short, and was taken when the still was, as both files say themselves."""
    end = named.last(clip).view.partition(",")[2]
    first, picture = named.record(clip), named.record(still)
    try:
        if not end or float(end) > LONGEST_S or first.metadata.format != "VIDEO":
            return False
        moments = [datetime.fromisoformat(_said(record)) for record in (first, picture)]
        return abs((moments[0] - moments[1]).total_seconds()) <= APART_S
    except (ValueError, TypeError, OverflowError):
        return False


def _said(record: ImageRecord) -> str:
    """When a file says that it was taken; "" where only its name does."""
    metadata = record.metadata
    return "" if metadata.date_source == "name" else metadata.taken_at or ""
