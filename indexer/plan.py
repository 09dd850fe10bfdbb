"""What a run of `clipsearch index` would do, without doing any of it: `clipsearch index --plan`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.config import check_not_away, index_dir_for, is_index
from clipsearch.encoder import Encoder
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.errors import ClipsearchError, EncoderMismatch, IndexAway, IndexNotFound
from clipsearch.indexer.belonging import check_folder, check_place, devices_before, moved_from, split_source
from clipsearch.indexer.build import (
    IndexOptions,
    archives_of,
    check_views,
    decode_pool,
    has_pictures,
    model_of,
    model_to_rebuild,
)
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.changes import Changes
from clipsearch.indexer.compact import needs_upgrade
from clipsearch.indexer.ignore import Folder, Ignore
from clipsearch.indexer.look import Asked, Look, Stream, look
from clipsearch.indexer.retries import is_read_again
from clipsearch.indexer.scan import FoundFile
from clipsearch.indexer.unpack import members_to_read, opened
from clipsearch.pictures.formats import classify_name, is_candidate
from clipsearch.pictures.pool import DecodeTask
from clipsearch.places import is_address
from clipsearch.records import Fragment, Manifest, ModelRef, PixelArray
from clipsearch.store import open_snapshot

MEASURED = 96  # pictures, at least
LEAST_MEASURED = 32  # of fewer, a rate says nothing
MOST_WARM_UP = 64
LONGEST_MEASUREMENT_S = 10.0


@dataclass(slots=True)
class IndexPlan:
    """What a run would find to do."""

    index: Path
    root: Path
    model: str
    is_new: bool  # there is no index yet
    files: int = 0  # seen in the folder
    to_read: int = (
        0  # picture files that are new or changed; copies of known pictures only have to be read, not encoded
    )
    bytes_to_read: int = 0
    unchanged: int = 0
    to_describe: int = 0  # of those, pictures whose metadata is read again
    retimed: int = 0  # with only a new file date, told without reading
    renamed: int = 0  # told by their inodes
    returned: int = 0  # were missing, and are back
    deleted: int = 0  # rows to be removed
    unopened: int = 0  # archives in object storage: how many pictures they have, nobody knows without fetching them
    missing: int = 0  # rows whose pictures nobody can see now: they stay
    left_out: dict[str, int] = field(default_factory=dict)  # files and folders that are left out, for each reason
    other_files: dict[str, int] = field(default_factory=dict)  # what is no picture by its name, by kind
    measured: int = 0  # pictures that were read and encoded to find the rate
    pictures_per_s: float | None = None  # of those; None where there were too few

    @property
    def seconds(self) -> float | None:
        """How long reading and encoding would take at that rate."""
        return None if self.pictures_per_s is None else self.to_read / self.pictures_per_s

    def to_dict(self) -> dict[str, Any]:
        """As `clipsearch index --plan --json` prints it."""
        return {
            "index": str(self.index),
            "root": str(self.root),
            "model": self.model,
            "new_index": self.is_new,
            "files": self.files,
            "to_read": self.to_read,
            "bytes_to_read": self.bytes_to_read,
            "unchanged": self.unchanged,
            "metadata_to_read": self.to_describe,
            "updated": self.retimed,
            "renamed": self.renamed,
            "returned": self.returned,
            "removed": self.deleted,
            "missing": self.missing,
            "archives_not_opened": self.unopened,
            "left_out": self.left_out,
            "other_files": self.other_files,
            "measured": self.measured,
            "pictures_per_s": None if self.pictures_per_s is None else round(self.pictures_per_s, 2),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


def plan_index(
    folder: Path,
    encoder: Encoder,
    *,
    index: Path | None = None,
    options: IndexOptions | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> IndexPlan:
    """Say what `index_folder` with the same arguments would do. Writes nothing, in the folder or in the index.

    Reads and encodes some of the pictures, for at most LONGEST_MEASUREMENT_S, to say how long it would take.
    Gives up with PlanStopped soon after `stop` says so. Raises: what `index_folder` raises before it begins.
    """
    options = options or IndexOptions()
    check_folder(folder, index)
    index_dir = index_dir_for(folder.absolute(), index)
    root, listed = split_source(folder, index_dir)
    check_place(index_dir, root)
    if not is_index(index_dir):
        if options.new is False:
            raise IndexAway(index_dir.absolute(), remake="--new")
        if options.new is None:
            check_not_away(index_dir)
        return _plan(root, listed, index_dir, encoder, options, None, stop)
    try:
        snapshot = open_snapshot(index_dir)
    except IndexNotFound:  # the first run was killed before its first commit
        return _plan(root, listed, index_dir, encoder, options, None, stop)
    with snapshot:
        return _plan(root, listed, index_dir, encoder, options, snapshot.manifest, stop)


class PlanStopped(ClipsearchError):
    """Nobody waits for the plan any more."""


class _Ignore(Ignore):
    """Looks, in every folder, whether anybody still waits."""

    stop: Callable[[], bool]

    def enter_folder(self, relative: str, names: Collection[str]) -> Folder:
        """As Ignore. Raises: PlanStopped."""
        if self.stop():
            raise PlanStopped("the plan was stopped")
        return super().enter_folder(relative, names)


def _plan(
    root: Path,
    listed: str,
    index_dir: Path,
    encoder: Encoder,
    options: IndexOptions,
    current: Manifest | None,
    stop: Callable[[], bool],
) -> IndexPlan:
    plan = IndexPlan(index_dir, root, encoder.name, current is None)
    fragments: tuple[Fragment, ...] = ()
    devices: dict[str, int] = {}
    links = options.follow_links
    model = model_of(encoder, options)
    if current is not None:
        moved_from(root, index_dir, current)
        devices = devices_before(root, index_dir, current)
        links = current.links != "inside" if links is None else links
        fragments = current.fragments
        if options.reindex:  # only what was encoded anew by an interrupted run is there
            rebuild = current.rebuild
            model = model_to_rebuild(encoder, options, current)
            same = rebuild is not None and rebuild.model.makes_vectors_of(model)
            fragments = rebuild.fragments if rebuild is not None and same else ()
        elif current.model.fingerprint != encoder.fingerprint:
            raise EncoderMismatch(index_dir, current.model.name, encoder.name, str(root))
        else:
            check_views(options, current, index_dir, root)
            encoder, model = encoder.in_precision(current.model.precision), current.model
    all_skipped = options.retry_skipped or (current is not None and needs_upgrade(current))
    catalog = Catalog(index_dir, fragments)
    ignore = _Ignore(root, options.exclude, follow_links=bool(links))
    ignore.stop, ignore.listed = stop, listed
    ignore.archives = archives_of(root, listed, options, current)
    ignore.may_be_gone = has_pictures(current)
    asked = Asked(
        devices,
        expected=current is None or current.pictures > 0 or current.missing > 0,
        retry=lambda record: is_read_again(record, all_skipped=all_skipped),
        reread_metadata=options.reread_metadata,
        tagged=is_address(root),
    )
    if is_address(root):  # whose listing may not fit into memory, and of which nothing is fetched
        stream = Stream(catalog, root, index_dir, ignore, asked)
        for changes in stream:
            _count(plan, changes, catalog)
        assert stream.end is not None
        _count_rest(plan, stream.end, catalog)
        return plan
    seen = look(catalog, root, index_dir, ignore, asked)
    for archive in seen.changes.archives:  # what cannot be opened has no pictures
        opened(plan.root, archive)
    _count(plan, seen.changes, catalog)
    _count_rest(plan, seen, catalog)
    _measure(plan, seen, catalog, encoder, options, stop, model)
    return plan


def _count(plan: IndexPlan, changes: Changes, catalog: Catalog) -> None:
    for file in _pictures(changes):
        plan.to_read += 1
        plan.bytes_to_read += file.size_bytes
    for archive in changes.archives:
        plan.bytes_to_read += archive.file.size_bytes
        if is_address(plan.root):
            plan.unopened += 1
        if archive.opened is not None:
            plan.to_read += archive.opened.rows - archive.pictures_done(catalog)
    plan.unchanged += changes.unchanged
    plan.to_describe += sum(len(block) for block in changes.to_describe)
    plan.retimed += len(changes.retimed)
    plan.renamed += len(changes.moved)
    plan.returned += int(catalog.starts[np.array(changes.returned, np.int64)].sum())  # others are views of the same


def _count_rest(plan: IndexPlan, seen: Look, catalog: Catalog) -> None:
    """Count what only the end of the walk tells."""
    scan = seen.scan
    plan.files = scan.files + sum(scan.others.values())
    plan.other_files = dict(scan.others.most_common())
    for reason in scan.left_out.values():
        plan.left_out[reason] = plan.left_out.get(reason, 0) + 1
    plan.deleted, plan.missing = (
        int(catalog.starts[np.array(seen.deleted, np.int64)].sum()),
        int(catalog.starts[np.array(seen.missed, np.int64)].sum()),
    )


def _members(seen: Look, catalog: Catalog) -> Iterator[FoundFile]:
    """The pictures in archives to read."""
    for archive in seen.changes.archives:
        if archive.opened is not None:
            try:
                yield from members_to_read(catalog, archive)
            except OSError:  # a run says more of it
                continue


def _pictures(changes: Changes) -> Iterator[FoundFile]:
    """The files to read that are pictures by their names, or may be."""
    for block in changes.to_read:
        yield from (file for file in block if classify_name(file.path.rpartition("/")[2]) is None)


def _measure(
    plan: IndexPlan,
    seen: Look,
    catalog: Catalog,
    encoder: Encoder,
    options: IndexOptions,
    stop: Callable[[], bool],
    model: ModelRef,
) -> None:
    """Read and encode pictures from all parts of the folder, as a run does. The first batch, which starts everything,
    does not count."""
    batch = options.batch_pictures or min(encoder.pictures_per_call, MOST_WARM_UP)
    count = min(plan.to_read, max(MEASURED, 2 * batch) + batch)
    places = set(np.linspace(0, plan.to_read - 1, count).astype(int).tolist())
    chosen = [
        file for number, file in enumerate(_pictures(seen.changes)) if number in places and is_candidate(file.path)
    ]
    # Of those in archives, of which the first tells how large they are, what is left to choose.
    chosen += itertools.islice(_members(seen, catalog), max(0, count - len(chosen)))
    if len(chosen) < batch + LEAST_MEASURED:
        return
    # In no order: the first are of all parts, too. Pictures of one camera lie together.
    chosen = [chosen[number] for number in np.random.default_rng(0).permutation(len(chosen)).tolist()]
    began = time.monotonic()
    counts_from = began
    waiting: list[tuple[PixelArray, bool]] = []

    def encode() -> None:
        encode_decoded(encoder, [pieces for pieces, _ in waiting], [is_tiled for _, is_tiled in waiting])
        waiting.clear()

    done = 0

    def tasks() -> Iterator[DecodeTask]:
        for number, file in enumerate(chosen):
            if number >= batch + LEAST_MEASURED and time.monotonic() - began > LONGEST_MEASUREMENT_S:
                return
            if (within := file.within) is not None:
                yield DecodeTask(number, within.place, "decode", file.size_bytes, file.member, within.at)
            else:
                yield DecodeTask(number, os.path.join(plan.root, file.path), "decode", file.size_bytes)

    with decode_pool(encoder, options, model) as pool:
        for result in pool.run(tasks()):
            if stop():
                raise PlanStopped("the plan was stopped")
            done += 1
            if result.pieces is not None:
                waiting.append((result.pieces, result.is_tiled))
            if done % batch == 0 and waiting:
                encode()
            if done == batch:
                counts_from = time.monotonic()
        if waiting:
            encode()
    plan.measured = done - batch
    plan.pictures_per_s = plan.measured / (time.monotonic() - counts_from)
