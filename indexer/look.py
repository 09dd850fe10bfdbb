"""Compare an index with its folder as it is now: what is new, changed, moved, gone. Decides, does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.archives import is_archive_name
from clipsearch.indexer.absence import split_vanished
from clipsearch.indexer.archives import compare_archives, find_moved_archives
from clipsearch.indexer.belonging import nothing_in
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import BoolArray, Changes, Comparison, PerhapsMoved, compare, find_moved
from clipsearch.indexer.ignore import Ignore
from clipsearch.indexer.listed import NOT_LISTED
from clipsearch.indexer.scan import FoundFile, Scan, kind_of_name, walk
from clipsearch.indexer.sidecars import Outdated
from clipsearch.pictures.formats import IN_PARTS, Kind, classify_name, format_of, is_installed, parts_kind
from clipsearch.records import ImageRecord


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. Rows are given by their numbers in the catalog."""

    scan: Scan
    changes: Changes
    vanished: frozenset[int]  # rows whose files were not seen where they were, nor anywhere else
    deleted: list[int]  # of those, the ones that somebody deleted
    missed: list[int]  # of those, the ones that nobody can see now


@dataclass(frozen=True, slots=True)
class Asked:
    """What to compare with.

    `devices`: the drives below the root as they were; `expected`: whether there must be pictures; `retry`: which
    skipped files to read again; `reread_metadata`: see `IndexOptions`; `known`: the rows that are to be replaced, if
    any; `tagged`: see `changes.Comparison`.
    """

    devices: dict[str, int]
    expected: bool
    retry: Callable[[ImageRecord], bool]
    reread_metadata: bool = False
    known: Catalog | None = None
    tagged: bool = False


def look(catalog: Catalog, root: Path, index_dir: Path, ignore: Ignore, asked: Asked) -> Look:
    """Walk `root` and compare. Raises: NoPictures where there must be some and nothing is there: rather an unplugged
    drive than 100,000 deletions."""
    scan = Scan()
    outdated = Outdated(catalog, older_versions=asked.reread_metadata)
    blocks = walk(root, scan, exclude=index_dir, ignore=ignore)
    changes, seen = compare(catalog, blocks, retry=asked.retry, outdated=outdated)
    return _settled(catalog, root, ignore, scan, scan.archives, changes, seen, asked)


class Stream:
    """As `look`, while a run reads already: what the walk finds is compared as it comes.

    Nothing is said of what is absent before the walk has ended: `end` is None until then.
    """

    def __init__(self, catalog: Catalog, root: Path, index_dir: Path, ignore: Ignore, asked: Asked) -> None:
        self.scan = Scan()
        self.end: Look | None = None
        self._catalog = catalog
        self._root = root
        self._ignore = ignore
        self._asked = asked
        self._blocks = walk(root, self.scan, exclude=index_dir, ignore=ignore)

    def __iter__(self) -> Iterator[Changes]:
        """What is to be done, some files at a time. Raises: as `look`; StorageError, if the walk cannot go on."""
        catalog, asked = self._catalog, self._asked
        outdated = Outdated(catalog, older_versions=asked.reread_metadata)
        comparison = Comparison(catalog, retry=asked.retry, outdated=outdated, tagged=asked.tagged)
        perhaps_moved = PerhapsMoved(catalog)
        compared = 0  # archives
        for block in self._blocks:
            changes, archives = Changes(), self.scan.archives[compared:]
            compared += len(archives)
            if len(block):
                comparison.take([block], changes)
            _compare_archives(catalog, archives, changes, comparison.found, asked)
            perhaps_moved.take_from(changes)
            yield changes
        last, rest = perhaps_moved.aside, self.scan.archives[compared:]
        self.end = _settled(catalog, self._root, self._ignore, self.scan, rest, last, comparison.seen(), asked)
        yield last


def _compare_archives(
    catalog: Catalog, archives: list[FoundFile], changes: Changes, seen: BoolArray, asked: Asked
) -> None:
    compare_archives(
        catalog,
        archives,
        changes,
        seen,
        retry=asked.retry,
        reread_metadata=asked.reread_metadata,
        tagged=asked.tagged,
    )


def _settled(
    catalog: Catalog,
    root: Path,
    ignore: Ignore,
    scan: Scan,
    archives: list[FoundFile],
    changes: Changes,
    seen: BoolArray,
    asked: Asked,
) -> Look:
    """What can be said once the whole walk is known. `archives`: not compared yet. Shape: seen (N,)."""
    _compare_archives(catalog, archives, changes, seen, asked)
    known = asked.known
    lacking = {kind for kind in IN_PARTS if not is_installed(format_of(kind))}
    if lacking:
        _set_aside(catalog if known is None else known, scan, changes, lacking)
    if asked.expected and not (scan.folders or scan.is_gone) and not _finds_pictures(changes):
        raise nothing_in(root, scan)
    vanished = np.flatnonzero(~seen)
    if scan.held:
        vanished = vanished[[not scan.holds(catalog.path(row)) for row in vanished.tolist()]]
    find_moved(catalog, changes, vanished[~catalog.away[vanished]])
    find_moved_archives(catalog, changes, vanished[~catalog.away[vanished]])
    moved = {other for row, _, _ in changes.moved for other in catalog.of_file(row)}
    vanished = np.array([row for row in vanished.tolist() if row not in moved], np.int64)
    if ignore.listed and not is_archive_name(ignore.listed):
        gone = {catalog.path(row) for row in vanished.tolist()}
        scan.left_out |= {path: NOT_LISTED for path in gone if os.path.lexists(os.path.join(root, path))}
    deleted, missed = split_vanished(catalog, scan, asked.devices, vanished)
    return Look(scan, changes, frozenset(vanished.tolist()), deleted, missed)


def _set_aside(catalog: Catalog, scan: Scan, changes: Changes, lacking: set[Kind]) -> None:
    """Count videos and documents that are not in the index among other files: what reads these is not installed."""
    kept = []
    for block in changes.to_read:
        kinds = [parts_kind(name) for name in block.names]
        if not lacking.isdisjoint(kinds):
            new = np.array([kind in lacking for kind in kinds]) & (catalog.match(block.paths) < 0)
            for name, kind, is_new in zip(block.names, kinds, new.tolist(), strict=True):
                if is_new and kind is not None:
                    scan.others[kind_of_name(name)] += 1
                    scan.lacking[kind] += 1
            scan.files -= int(new.sum())
            block = block.only(np.flatnonzero(~new))
        if len(block):
            kept.append(block)
    changes.to_read = kept


def _finds_pictures(changes: Changes) -> bool:
    """Whether there is any file worth opening, of names without an extension too."""
    return changes.unchanged > 0 or any(
        classify_name(name) is None for block in changes.to_read for name in block.names if "." not in name
    )
