"""Bring an index up to date with its folder: walk, read what is new, encode, commit every few thousand.

The path of one picture: `scan` finds it, `changes` says it is new, the decode pool reads it (or only hashes
it, when its size says that it may be known), a batch of pixels becomes vectors, the row waits in `_pending`
until the next commit, and `segments` derives what is searched. What was committed survives everything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import struct
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np

from clipsearch.archives.listing import Spool
from clipsearch.archives.remote import Storage
from clipsearch.archives.said import clean_name, with_said
from clipsearch.config import INDEX_DIR_NAME, RECALL_LIMITS, check_not_away, index_dir_for, is_index
from clipsearch.encoder import Encoder
from clipsearch.encoder.pieces import encode_decoded, encode_with_regions
from clipsearch.errors import (
    ClipsearchError,
    EncoderMismatch,
    IndexAway,
    InvalidArgument,
    RegionsMismatch,
    StorageError,
    ViewsMismatch,
)
from clipsearch.indexer.absence import Root, archives_emptied, went_in_bulk
from clipsearch.indexer.belonging import (
    agreed_source,
    check_folder,
    check_pictures,
    check_place,
    devices_before,
    moved_from,
    split_source,
)
from clipsearch.indexer.catalog import Catalog, References, StoredVectors
from clipsearch.indexer.changes import ArchiveToRead, Changes, are_others
from clipsearch.indexer.compact import counted, merge_due, needs_upgrade
from clipsearch.indexer.executors import Executor, LocalExecutor, LocalPool, Pool, Work, open_local
from clipsearch.indexer.ignore import EXCLUDED, OF_DATASET, Archives, Ignore, overlapping
from clipsearch.indexer.listed import dataset_files
from clipsearch.indexer.look import Asked, Look, Stream, look
from clipsearch.indexer.pages import watched
from clipsearch.indexer.patience import IndexClock
from clipsearch.indexer.rebuild import carried_over
from clipsearch.indexer.regions import regions_of
from clipsearch.indexer.remark import remarked, with_hidden
from clipsearch.indexer.retries import attempts_after, is_read_again, limit_for, says_nothing
from clipsearch.indexer.rows import row_at, row_of, row_of_decoded, says_the_same
from clipsearch.indexer.scan import FoundFile, Scan
from clipsearch.indexer.segments import write_fragment, write_segment
from clipsearch.indexer.shots import MORE_TIME, Shot, Video
from clipsearch.indexer.sidecars import NOT_LOOKED_AT, has_older_versions
from clipsearch.indexer.stored import MOST_FAILED, PAUSE, with_copies
from clipsearch.indexer.tune import retuned
from clipsearch.indexer.unpack import Unpacking, Unread
from clipsearch.indexer.upgrade import upgraded
from clipsearch.pictures.formats import IN_PARTS, classify_name, format_of, is_in_parts
from clipsearch.pictures.metadata import METADATA_VERSION
from clipsearch.pictures.pool import DecodeResult, DecodeTask
from clipsearch.places import is_address
from clipsearch.query.arguments import read_number, read_setting, shown
from clipsearch.records import (
    REGIONS,
    VIEWS,
    FloatArray,
    Fragment,
    ImageRecord,
    Manifest,
    ModelRef,
    PictureMetadata,
    PixelArray,
    Rebuild,
    Segment,
    SkippedImage,
    SkipStatus,
)
from clipsearch.store import RunProgress, Snapshot, Writer, open_snapshot
from clipsearch.store.files import storage_errors
from clipsearch.store.fragments import VectorBlock
from clipsearch.store.hashes import hash_keys, vector_key

COMMIT_ROWS = 2048
FIRST_COMMIT_S = 2.0
COMMIT_S = 15.0
NOTE_EVERY_S = 0.5
PAUSE_EVERY_S = 0.5  # of a listing in which there is little to read
KEEP_MISSING_DAYS = 30.0
LONGEST_TIMEOUT_S = 86_400.0


METADATA_IS_OLD = (
    "this version finds more dates, places, cameras, keywords and captions than the one that read some of these "
    "pictures. To read them again, run this once with --reread-metadata, which encodes nothing"
)
LONG_PICTURES_WERE_CUT = (
    "an older version made this index and saw only the middle of panoramas and other long pictures. To see all, "
    "encode everything again with --reindex"
)


MOST_NAMED = 5


def columns_left_out(columns: Mapping[str, str]) -> str:
    """Says which columns of tables are not kept, and what each has."""
    named = [f"{clean_name(name)} ({kind})" for name, kind in columns.items()]
    more = f" and {len(named) - MOST_NAMED:,} more" if len(named) > MOST_NAMED else ""
    many = f"{len(named):,} columns beside the pictures are not kept: they hold"
    counted = "one column beside the pictures is not kept: it holds" if len(named) == 1 else many
    return f"{counted} neither text, numbers nor times. {', '.join(named[:MOST_NAMED])}{more}"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. `done` of `total` files are dealt with; of these, `encoded` were made into vectors.

    In the stage "describe", of files whose metadata is read again.
    """

    stage: Literal["scan", "describe", "read", "commit", "merge", "check", "encode", "words", "captions"]
    done: int = 0
    total: int = 0
    encoded: int = 0
    described: int = 0  # of which only the metadata was read again
    nodes: tuple[tuple[str, float], ...] = ()  # machines that work on it, and files a second of each, if others do
    is_listing: bool = False  # more files may be found: `total` is of those so far


SEEN_OF_PARTS = ("view", "partial", "traits", "colors", "perceptual_hash", "width", "height")  # alike in all copies
VIDEOS_AT_ONCE = 2  # for each decoding process


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How a run works. The defaults suit a laptop and a NAS alike."""

    batch_pictures: int | None = None  # None: as many as suit the encoder
    workers: int | None = None  # decoding processes; None: as many as pay on this machine
    timeout_s: float = 10.0  # for decoding one picture
    max_pixels: int | None = None  # None: the reader's own cap
    commit_rows: int = COMMIT_ROWS
    commit_s: float = COMMIT_S
    retry_skipped: bool = False  # read again what was skipped before, although the file is the same
    reindex: bool = False  # encode everything again beside what is there, and switch at the end
    reread_metadata: bool = False  # read dates and the like again where an older version did; encodes nothing
    recall: float | None = None  # recall@10 that inverted files are tuned for, 0..1; None: as before
    prune: bool = False  # forget missing pictures now
    keep_missing_days: float = KEEP_MISSING_DAYS  # forget what nobody has seen for so long
    follow_links: bool | None = None  # out of the folder; None: as in the last run, at first no
    archives: bool | None = None  # also what is in tars, Parquet and Arrow; None: as in the last run, at first no
    views: int | None = None  # of each picture: 1, or 5 with its tiles; None: as before, at first 1
    regions: bool | None = None  # keep the vectors of the tiles of each picture, too; None: as before, at first no
    exclude: tuple[str, ...] = ()  # patterns of what to leave out in this run, as in .clipsearchignore
    new: bool | None = None  # make an index where there is none; None: only where none is known to have been

    def __post_init__(self) -> None:
        """Raises: InvalidArgument."""
        for name, whole in (
            ("batch_pictures", self.batch_pictures),
            ("workers", self.workers),
            ("max_pixels", self.max_pixels),
            ("commit_rows", self.commit_rows),
        ):
            if whole is not None or name == "commit_rows":
                read_setting(name, whole, 1)
        read_number("timeout_s", self.timeout_s, 0, LONGEST_TIMEOUT_S)
        read_number("commit_s", self.commit_s, 0)
        read_number("keep_missing_days", self.keep_missing_days, 0)
        if self.recall is not None:
            read_number("recall", self.recall, *RECALL_LIMITS)
        for name in ("follow_links", "archives", "regions", "new"):
            if not isinstance(getattr(self, name), bool | None):
                raise InvalidArgument(name, shown(getattr(self, name)), "True, False or None")
        for name in ("retry_skipped", "reindex", "reread_metadata", "prune"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgument(name, shown(getattr(self, name)), "True or False")
        if self.views not in (None, 1, VIEWS) or isinstance(self.views, bool):
            raise InvalidArgument("views", shown(self.views), f"1 or {VIEWS}")
        given: object = self.exclude
        if not isinstance(given, list | tuple) or not all(isinstance(pattern, str) for pattern in given):
            raise InvalidArgument("exclude", shown(given), "patterns in a tuple")


@dataclass(slots=True)
class IndexReport:
    """What a run did, and what the index holds after it."""

    index: Path
    root: Path
    generation: int = 0
    found: int = 0  # files seen
    encoded: int = 0  # pictures made into vectors by this run
    unchanged: int = 0
    touched: int = 0  # same content, new time or place on disk: only the metadata was updated
    described: int = 0  # only their metadata was read again
    renamed: int = 0
    copied: int = 0  # same content as a picture that is still there: its vector was reused
    removed: int = 0  # deleted since the last run
    missing: int = 0  # not to be seen at present; their vectors are kept
    returned: int = 0  # were missing, and are back
    forgotten: int = 0  # were missing for too long, or pruned
    kept: int = 0  # cannot be read now, and stay in the index as they were
    withdrawn: int = 0  # rows of files that are left out now, and were not before
    left_out: dict[str, int] = field(default_factory=dict)  # files and folders that were left out, for each reason
    warnings: list[str] = field(default_factory=list)
    pictures: int = 0  # searchable after the run
    rows: int = 0  # what these are seen as: more than they are where there are videos, documents or regions
    regions: int = 0  # of each picture
    partial: int = 0  # of those encoded, pictures of which only a part could be read
    skipped: list[SkippedImage] = field(default_factory=list)  # every picture-like file that is not, and why
    other_files: dict[str, int] = field(default_factory=dict)  # what is no picture by its name, by kind
    seconds: float = 0.0
    interrupted: bool = False
    asked_to_stop: bool = False  # also when everything was done by then

    @property
    def pictures_per_s(self) -> float:
        """Pictures encoded per second of the whole run."""
        return self.encoded / self.seconds if self.seconds else 0.0

    @property
    def described_per_s(self) -> float:
        """Pictures whose metadata was read again, per second of the whole run."""
        return self.described / self.seconds if self.seconds else 0.0

    @property
    def skipped_by_status(self) -> dict[SkipStatus, int]:
        """How many files were skipped for each reason, the most frequent first."""
        return dict(Counter(skip.status for skip in self.skipped).most_common())

    def to_dict(self) -> dict[str, Any]:
        """As `clipsearch index --json` prints it."""
        return {
            "index": str(self.index),
            "root": str(self.root),
            "generation": self.generation,
            "found": self.found,
            "indexed": self.encoded,
            "unchanged": self.unchanged,
            "updated": self.touched,
            "metadata_read": self.described,
            "renamed": self.renamed,
            "copied": self.copied,
            "removed": self.removed,
            "missing": self.missing,
            "returned": self.returned,
            "forgotten": self.forgotten,
            "kept": self.kept,
            "other_files": self.other_files,
            "withdrawn": self.withdrawn,
            "left_out": self.left_out,
            "warnings": self.warnings,
            "pictures": self.pictures,
            "rows": self.rows,
            "skipped": [dataclasses.asdict(skip) for skip in self.skipped],
            "skipped_by_status": self.skipped_by_status,
            "partial": self.partial,
            "seconds": round(self.seconds, 3),
            "pictures_per_s": round(self.pictures_per_s, 2),
            "interrupted": self.interrupted,
        }


def index_folder(
    folder: Path,
    encoder: Encoder,
    *,
    index: Path | None = None,
    options: IndexOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    executor: Executor | None = None,
) -> IndexReport:
    """Index `folder`, or bring its index up to date. `executor` reads and encodes (default: this machine).

    Ctrl-C, SIGTERM or `stop` being set commits what is done and returns with `interrupted` set.
    Raises: NoPictures, NotAnIndex, IndexAway, EncoderMismatch, OtherCollection, IndexLocked, OutOfSpace, CorruptIndex,
    StorageError.
    """
    with storage_errors(folder):
        notify = progress or (lambda _: None)
        by = executor or LocalExecutor()
        return _index_folder(folder, encoder, index, options or IndexOptions(), notify, stop, by)


def _index_folder(
    folder: Path,
    encoder: Encoder,
    index: Path | None,
    options: IndexOptions,
    notify: Callable[[Progress], None],
    asked: threading.Event | None,
    executor: Executor,
) -> IndexReport:
    check_folder(folder, index)
    index_dir = index_dir_for(folder.absolute(), index)
    root, listed = split_source(folder, index_dir)
    check_place(index_dir, root)
    started = time.monotonic()
    notify(Progress("scan"))
    ignore = Ignore(root, options.exclude, follow_links=bool(options.follow_links))
    ignore.listed = listed
    ignore.archives = archives_of(root, listed, options, None)
    if not is_index(index_dir):
        if options.new is False:
            raise IndexAway(index_dir.absolute(), remake="--new")
        if options.new is None:
            check_not_away(index_dir)
        check_pictures(root, index_dir, ignore)
        executor.check()  # or a wrong address leaves an index without anything in it
    with Writer(index_dir) as writer:
        run = _Run(writer, root, encoder, options, ignore, _Teller(writer, notify), executor)
        try:
            run.open()
            report = run.report
            report.warnings += ignore.problems
            with StopRequests(asked) as stop:
                run.read(stop)
                run.check_root()
                if stop.requested:
                    report.interrupted = True
                    run.commit()
                else:
                    run.finish()
            report.asked_to_stop = stop.requested
        finally:
            run.close()
        report.seconds = time.monotonic() - started
        return report


def work_of(root: Path, encoder: Encoder, options: IndexOptions, model: ModelRef) -> Work:
    """What a run asks of whoever reads and encodes for it, to make vectors as those of `model` are."""
    return Work(
        root,
        encoder,
        model.precision,
        model.views,
        model.regions,
        options.workers,
        options.batch_pictures,
        options.timeout_s,
        options.max_pixels,
    )


def has_pictures(current: Manifest | None) -> bool:
    """Whether an index has pictures, seen or missing."""
    return current is not None and current.pictures + current.missing > 0


def source_is_gone(source: Path) -> str:
    """Says that what was named is not there any more, and how that is undone."""
    return (
        f"{source} no longer exists. Its pictures are marked as missing; nothing was deleted. To undo this, bring it "
        "back and run the same command again"
    )


def archives_of(root: Path, listed: str, options: IndexOptions, current: Manifest | None) -> Archives:
    """Whether a run looks into tars and tables: as the user says, or as before; at first where the source itself is
    one, or a list, in which they are named. Of a data set of Hugging Face's `datasets`, the paths of its own files.
    None: nobody said so."""
    if options.archives is not None:
        return options.archives
    if current is not None and current.archives != OF_DATASET:
        return {"": None, "read": True}.get(current.archives, False)
    if listed:
        return True
    # Of one that does not tell its files any more, they are missing.
    return dataset_files(root) or (None if current is None else False)


def decode_pool(encoder: Encoder, options: IndexOptions, model: ModelRef) -> LocalPool:
    """What reads pictures for an encoder, as a run does that makes vectors of `model`."""
    return open_local(work_of(Path(), encoder, options, model))


def model_of(encoder: Encoder, options: IndexOptions) -> ModelRef:
    """How a manifest names an encoder, and what it sees of each picture, as far as the user says."""
    views = options.views or 1
    return ModelRef(
        encoder.name,
        encoder.fingerprint,
        encoder.dim,
        float(encoder.score_scale),
        tiled=views if views > 1 else 0,
        regions=REGIONS if options.regions else 0,
    )


def model_to_rebuild(encoder: Encoder, options: IndexOptions, current: Manifest) -> ModelRef:
    """What a `--reindex` makes: as the user says; as one that it continues; as before."""
    model, rebuild = model_of(encoder, options), current.rebuild
    continued = rebuild is not None and rebuild.model.fingerprint == model.fingerprint
    before = rebuild.model if rebuild is not None and continued else current.model
    return dataclasses.replace(
        model,
        tiled=before.tiled if options.views is None else model.tiled,
        regions=before.regions if options.regions is None else model.regions,
    )


def check_views(options: IndexOptions, current: Manifest, index_dir: Path, root: Path) -> None:
    """Raises: ViewsMismatch, RegionsMismatch if other views are wished than the index has."""
    if options.views is not None and options.views != current.model.views:
        raise ViewsMismatch(index_dir, current.model.views, options.views, str(root))
    if options.regions is not None and options.regions != bool(current.model.regions):
        raise RegionsMismatch(index_dir, options.regions, str(root))


class _Teller:
    """Passes progress on, and every NOTE_EVERY_S, or when there is a new stage, to other processes as well."""

    def __init__(self, writer: Writer, notify: Callable[[Progress], None]) -> None:
        self._writer = writer
        self._notify = notify
        self._began = time.monotonic()
        self._noted = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        self._notify(progress)
        now = time.monotonic()
        stage, noted_at = self._noted
        if progress.stage != stage or progress.done == progress.total or now - noted_at >= NOTE_EVERY_S:
            self._noted = (progress.stage, now)
            seconds = now - self._began
            total = 0 if progress.is_listing else progress.total  # which nobody knows yet
            self._writer.note(RunProgress(progress.stage, progress.done, total, progress.encoded, seconds))


class StopRequests:
    """Ctrl-C and SIGTERM as a request to stop at the next safe point; a second one interrupts at once.

    Nothing is interrupted in the middle of a commit. Outside the main thread signals are left alone: `asked` is for
    those who run it in another.
    """

    def __init__(self, asked: threading.Event | None = None) -> None:
        self._requested = False
        self._asked = asked
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self._requested or (self._asked is not None and self._asked.is_set())

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: object) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


Pending = tuple[ImageRecord, FloatArray | None]


class _Run:
    """The state of one run of `index_folder`.

    Rows and vectors are those of the index, or, while everything is encoded again, of what takes its place at the end
    (Manifest.rebuild): `_fragments`, `_segments` and `_put` mean the one or the other.
    """

    def __init__(
        self,
        writer: Writer,
        root: Path,
        encoder: Encoder,
        options: IndexOptions,
        ignore: Ignore,
        notify: Callable[[Progress], None],
        executor: Executor,
    ) -> None:
        self.writer = writer
        self.executor = executor
        self.root = root
        self.encoder = encoder
        self.options = options
        self.ignore = ignore
        self.notify = notify
        self.report = IndexReport(writer.index_dir, root)
        self.model = model_of(encoder, options)
        self.manifest = Manifest(0, "", self._root_name(), self.model, 0)
        self.changes = Changes()
        self.scan = Scan()
        self._before: Snapshot | None = None  # keeps the vectors that are looked up from being collected
        self._rebuilding = False
        self._retry_all = options.retry_skipped
        self._deleted: list[int] = []
        self._missed: list[int] = []  # rows that nobody can see, as far as the run knows
        self._vanished: set[int] = set()
        self._renamed_members: set[int] = set()  # rows whose pictures have other names in the same archives now
        self._stream: Stream | None = None  # of what is in object storage
        self._unlisted: StorageError | None = None  # why it could not be listed to its end
        self._copied = array("q")  # contents that files share with rows of which nobody knows yet whether they vanished
        self._to_read = 0  # files, as far as they are known
        self._to_describe: list[tuple[FoundFile, int]] = []  # files that were moved, or whose times were cut
        self._pending: list[Pending] = []
        self._pending_keys: dict[str, Pending] = {}  # those with a new vector, by content hash
        self._dropped: list[int] = []
        self._marked_missing: dict[int, int] = {}  # row: since when, in seconds since 1970
        self._unmarked: list[int] = []
        self._gone: set[int] = set()  # rows that were dropped in this run
        self._batch: list[tuple[FoundFile, DecodeResult, PixelArray]] = []
        self._batch_hashes: dict[str, list[tuple[FoundFile, DecodeResult]]] = {}  # more files of the same content
        self._still: dict[int, list[tuple[FoundFile, DecodeResult]]] = {}  # copies of animations read as pictures
        self._watching: dict[int, Video] = {}  # videos that are being read, by key of their task
        self._videos: dict[str, list[ImageRecord]] = {}  # rows of those read in this run, by content
        self._done = 0
        self._last_commit = time.monotonic()
        self._commit_after_s = min(FIRST_COMMIT_S, options.commit_s)
        self._clock = IndexClock(int(time.time()), int(time.time()))
        self._not_read: dict[str, SkipStatus] = {}  # files that could be read before, and not now
        self._spoiled: dict[str, ImageRecord] = {}  # files that were pictures before, and are others now
        self._old: Catalog | None = None
        self._place = Root(root)
        self._is_root_gone = False
        self._known_devices: dict[str, int] = {}
        self._devices_before: dict[str, int] = {}
        self._reusing: dict[int, int] = {}  # rows whose vectors files will share, by key of the file's task
        self._told_of_precision = False
        self._first_encoder: Encoder | None = None  # while the index has no arithmetic yet
        self._storage = Storage(root) if is_address(root) else None
        self._failed = 0  # objects in a row that could not be fetched
        self._copies: dict[int, Spool] = {}  # that processes read, by key of their tasks
        self._moved = False  # of another folder than its manifest says, with other links, or at another time

    def _root_name(self) -> str:
        """The root as the manifest names it: relative where the index lies in it, so that both can be moved."""
        index_dir = self.writer.index_dir.absolute()
        if is_address(self.root):
            return os.fspath(self.root)
        beside = index_dir.name.endswith(INDEX_DIR_NAME) and not index_dir.is_symlink()
        return ".." if beside and index_dir.parent.samefile(self.root) else os.fspath(self.root)

    # -- rows and vectors, of the index or of what replaces it

    @property
    def _fragments(self) -> tuple[Fragment, ...]:
        rebuild = self.manifest.rebuild
        return rebuild.fragments if self._rebuilding and rebuild is not None else self.manifest.fragments

    @property
    def _segments(self) -> tuple[Segment, ...]:
        rebuild = self.manifest.rebuild
        return rebuild.segments if self._rebuilding and rebuild is not None else self.manifest.segments

    def _put(self, manifest: Manifest, fragments: tuple[Fragment, ...], segments: tuple[Segment, ...]) -> Manifest:
        if self._rebuilding:
            return dataclasses.replace(manifest, rebuild=Rebuild(self.model, fragments, segments))
        return dataclasses.replace(manifest, fragments=fragments, segments=segments)

    # -- looking

    def _choose_links(self, current: Manifest | None) -> None:
        """Follow links out of the folder if the user says so, or else as before; the same of looking into archives."""
        if current is not None:
            self.ignore.listed = agreed_source(self.root, self.ignore.listed, self.writer.index_dir, current)
        links = "" if current is None else current.links
        wish = self.options.follow_links
        if wish is not None or current is None:
            is_free = self.ignore.listed or is_address(self.root)  # what is listed was named by the user
            links = "followed" if wish or is_free else "inside"
        self._moved |= current is not None and links != current.links  # which is committed by itself
        self.ignore.follow_links = links != "inside"
        self.ignore.archives = archives_of(self.root, self.ignore.listed, self.options, current)
        self.ignore.may_be_gone = has_pictures(current)
        chosen = self.ignore.archives
        was_dataset = current is not None and current.archives == OF_DATASET and self.options.archives is None
        if was_dataset or isinstance(chosen, frozenset):
            archives = OF_DATASET
        else:
            archives = {None: "", True: "read", False: "left out"}[chosen]
        self._moved |= current is not None and archives != current.archives
        self.manifest = dataclasses.replace(self.manifest, links=links, archives=archives, listed=self.ignore.listed)

    def _read_clock(self, current: Manifest) -> None:
        now = self._clock.read_at
        before = IndexClock(current.clock_s, current.clock_read_s, current.clock_waiting_s)
        if not current.clock_s:  # of a version that had no clock
            last = _seconds(current.created_at, now)
            before = IndexClock(min(now, last), last)
        self._clock = before.at(now)
        self._moved |= current.missing > 0 and self._clock.is_worth_noting(before)

    def _note_clock(self) -> None:
        clock = self._clock
        self.manifest = dataclasses.replace(
            self.manifest, clock_s=clock.seconds, clock_read_s=clock.read_at, clock_waiting_s=clock.waiting
        )

    def open(self) -> None:
        """Compare the folder with the index, if there is one."""
        index_dir = self.writer.index_dir
        current = self.writer.current()
        if current is not None:
            was_old = needs_upgrade(current)
            self._read_clock(current)
            current = upgraded(self.writer, current)
            self._adopt(current)
            self._retry_all |= was_old
            if was_old:
                self.report.warnings.append(LONG_PICTURES_WERE_CUT)
        self._choose_links(current)
        self._note_clock()
        self.catalog = catalog = Catalog(index_dir, self._fragments)
        self._unpacking = Unpacking(self.root, catalog, keeps_names=self._rebuilding)
        self._tell_of_old_metadata()
        self._before = open_snapshot(index_dir) if current is not None else None
        self._vectors = StoredVectors(index_dir, self._segments, self.model.dim)
        catalog.forget_lost(self._segments, self._vectors.ids_of)
        self._references = References(catalog, self.manifest.next_vector_id)
        answered = (catalog.statuses == 0) & ~catalog.away
        self._live = Counter(
            pictures=int((answered & catalog.starts).sum()),
            skipped=int(((catalog.statuses != 0) & ~catalog.away).sum()),
            missing=int((catalog.away & catalog.starts).sum()),
            more_views=int((answered & ~catalog.starts).sum()),
        )
        asked = Asked(
            self.manifest.devices,
            expected=current is None or current.pictures > 0 or current.missing > 0,
            retry=self._retry,
            reread_metadata=self.options.reread_metadata,
            known=self._old_catalog() if self._rebuilding and self.manifest.more_views else None,
            tagged=self._storage is not None,
        )
        if self._storage is not None:
            self._stream = Stream(catalog, self.root, index_dir, self.ignore, asked)
            self.scan = self._stream.scan
            return
        seen = look(catalog, self.root, index_dir, self.ignore, asked)
        self.scan, self.changes = seen.scan, seen.changes
        self._know_all(seen)
        if current is None:
            self.report.warnings += overlapping(self.root, index_dir.absolute(), self.scan.indexed)
        for kind, number in sorted(self.scan.lacking.items(), reverse=True):
            one, many = IN_PARTS[kind]
            said = f"{one} was" if number == 1 else f"{number:,} {many} were"
            extra = format_of(kind).extra
            self.report.warnings.append(f"{said} left out. To search {many}, too: pip install 'clipsearch[{extra}]'")

    def _know_all(self, seen: Look) -> None:
        """Note what is only known when everything was listed: what is absent."""
        self._vanished = set(seen.vanished)
        self._deleted, self._missed = seen.deleted, seen.missed

    def _report_scan(self) -> None:
        """Report what was seen, all of it or so far."""
        scan, report = self.scan, self.report
        report.found = scan.files + sum(scan.others.values())
        report.left_out = dict(Counter(scan.left_out.values()).most_common())
        report.other_files = dict(scan.others.most_common())
        report.skipped += scan.unreadable
        if scan.is_gone:
            report.warnings.append(source_is_gone(self.root / self.ignore.listed if self.ignore.listed else self.root))

    def _tell_of_old_metadata(self) -> None:
        """Say once that more can be read of the pictures in the index, which this run does not read again."""
        if self.manifest.metadata_version < METADATA_VERSION:
            if not self.options.reread_metadata and not self._rebuilding and has_older_versions(self.catalog):
                self.report.warnings.append(METADATA_IS_OLD)
            self.manifest = dataclasses.replace(self.manifest, metadata_version=METADATA_VERSION)

    def _adopt(self, current: Manifest) -> None:
        index_dir = self.writer.index_dir
        old_root = moved_from(self.root, index_dir, current)
        current = dataclasses.replace(current, devices=devices_before(self.root, index_dir, current))
        self._known_devices = self._devices_before = dict(current.devices)
        is_moved = current.root != self._root_name()
        self._moved |= is_moved
        if is_moved and old_root is not None:
            self.report.warnings.append(
                f"the pictures moved from {old_root} to {self.root}: the index now belongs to the new folder"
            )
        if self.options.reindex:
            self._rebuilding = True
            rebuild = current.rebuild
            self.model = model_to_rebuild(self.encoder, self.options, current)
            if rebuild is None or not rebuild.model.makes_vectors_of(self.model):
                rebuild = Rebuild(self.model)
            self.model = dataclasses.replace(self.model, precision=rebuild.model.precision)
            self.manifest = dataclasses.replace(current, root=self._root_name(), rebuild=rebuild)
        elif current.model.fingerprint == self.model.fingerprint:
            check_views(self.options, current, index_dir, self.root)
            model = current.model
            self.model = dataclasses.replace(
                self.model, precision=model.precision, tiled=model.tiled, regions=model.regions
            )
            self.manifest = dataclasses.replace(current, root=self._root_name(), model=self.model)
        else:
            raise EncoderMismatch(index_dir, current.model.name, self.encoder.name, str(self.root))

    def _retry(self, record: ImageRecord) -> bool:
        return is_read_again(record, all_skipped=self._retry_all)

    # -- reading and encoding

    def read(self, stop: StopRequests) -> None:
        """Deal with every file that is new or different, until `stop` is requested."""
        if self._stream is None:
            self._take_changes(self.changes)
            self._report_scan()
        files: dict[int, FoundFile] = {}  # what the pool has, by key
        keys = itertools.count()
        todo = self._files_to_read()
        waiting = next(todo, None)
        while waiting is PAUSE and not stop.requested:
            waiting = next(todo, None)
        if waiting is PAUSE or (waiting is None and not self._to_describe and not self.changes.to_describe):
            self._tell("read")
            self._end_reading(is_whole=waiting is None)
            return
        work = work_of(self.root, self.encoder, self.options, self.model)
        with self.executor.open(work) as pool:
            if isinstance(pool, LocalPool) and self._stream is None and not self.changes.archives:
                self._precise_encoder()  # all pictures are known: it may load its tower while the first ones are read
            # Copies come slowly at times: what was read is used, and committed, before the next is waited for.
            ahead = pool.capacity if self._storage is None else max(pool.workers, pool.capacity // 4)
            self._describe(pool, stop)
            self._tell("read")
            while (waiting is not None or pool.pending) and not stop.requested and not self._is_root_gone:
                while waiting is not None and pool.pending < ahead:
                    if waiting is PAUSE:
                        waiting = next(todo, None)
                        break
                    if is_in_parts(waiting.name):  # whose frames take 30 times the memory of a picture
                        at_once = sum(is_in_parts(file.name) for file in files.values())
                        if at_once >= VIDEOS_AT_ONCE * pool.workers:
                            break
                    file, waiting = waiting, next(todo, None)
                    refusal = None if file.member else classify_name(file.name)
                    if refusal is not None:
                        self._skip(file, *refusal, None)
                        self._done += 1
                        continue
                    key = next(keys)
                    files[key] = file
                    pool.submit(self._task(key, file, self._mode(file)))
                result = pool.next_result()
                if result is not None:
                    again = self._take(files[result.key], result)
                    if again is None:
                        self._done += 1
                        del files[result.key]
                    else:
                        pool.submit(again)
                self._maybe_commit()
                self._tell("read", pool.rates())
            self._encode_batch()
            if waiting is None and not stop.requested and not self._is_root_gone:
                self._describe(pool, stop)  # what a listing has found since
            self.report.warnings += pool.warnings()
        self._end_reading(is_whole=waiting is None and not stop.requested)
        self._tell("read")

    def _end_reading(self, *, is_whole: bool) -> None:
        """`is_whole`: everything that was found is dealt with."""
        self._is_root_gone |= self._unlisted is not None
        if is_whole and not self._is_root_gone:
            self._finish_archives()
        if self._stream is not None:
            self._report_scan()

    def _tell(self, stage: Literal["read", "commit", "merge"], nodes: tuple[tuple[str, float], ...] = ()) -> None:
        """Say how far the run is."""
        total = self._to_read + self._unpacking.found  # files and members of archives, as far as they are known
        is_listing = self._stream is not None and self._stream.end is None
        self.notify(Progress(stage, self._done, total, self.report.encoded, nodes=nodes, is_listing=is_listing))

    def _files_to_read(self) -> Iterator[FoundFile]:
        """What is new or different, of a walk or while it goes on: files, and the pictures in archives, of which one is
        open at a time."""
        found = self.changes.all_to_read()
        if self._storage is not None and self._stream is not None:
            found = self._fetched(self._storage, self._streamed(self._stream))
        for item in found:
            if isinstance(item, FoundFile):
                yield item
                continue
            for file in self._unpacking.members(item):
                if self._storage is not None:
                    self._note_fetched(file.error if isinstance(file, Unread) else None)
                if isinstance(file, Unread):
                    self._skip_archive(file)
                else:
                    yield file
            if self._is_root_gone:
                return

    def _streamed(self, stream: Stream) -> Iterator[FoundFile | ArchiveToRead]:
        """What is new or different in object storage, while it is listed, and PAUSEs between pages. What was listed
        before an error is read all the same."""
        pages = iter(stream)
        paused_at = time.monotonic()
        while True:
            try:
                changes = next(pages, None)
            except StorageError as error:
                self._unlisted = error
                return
            if changes is None:
                break
            if stream.end is not None:
                self._know_all(stream.end)
            self._take_changes(changes)
            self.changes.to_describe += changes.to_describe
            self._maybe_commit()
            yield from changes.all_to_read()
            if time.monotonic() - paused_at >= PAUSE_EVERY_S:
                yield PAUSE
                paused_at = time.monotonic()
        self._tell_moved()

    def _take_changes(self, changes: Changes) -> None:
        """Do what needs no reading of the files of a walk, or of a part of it, and note what does."""
        self._to_read += changes.files
        self.report.unchanged += changes.unchanged
        self.report.skipped += [
            SkippedImage(r.place, r.status, r.reason or "") for r in changes.unchanged_skipped if r.status != "ok"
        ]
        self._to_describe += self._take_known(changes)

    def _tell_moved(self) -> None:
        """Let rows that vanished go whose contents were found at other places before that was known."""
        contents = np.frombuffer(self._copied, np.int64).reshape(-1, 2)
        for first, second in contents.tolist() if self._vanished else ():
            rows = self.catalog.with_content((first, second))
            row = next((row for row in rows if row in self._vanished and row not in self._gone), None)
            if row is not None:
                for other in self.catalog.of_picture(row):
                    self._drop(other)
                self.report.copied -= 1
                self.report.renamed += 1
        self._copied = array("q")

    def _fetched(
        self, storage: Storage, files: Iterator[FoundFile | ArchiveToRead]
    ) -> Iterator[FoundFile | ArchiveToRead]:
        """Copies of objects."""
        for file, problem in with_copies(storage, files):
            if file is PAUSE or not isinstance(file, FoundFile):  # of an archive, who opens it says what is wrong
                yield file
                continue
            self._note_fetched(problem)
            if problem is None:
                yield file
                continue
            self._skip(file, "unreadable", f"it cannot be fetched ({problem.strerror or problem})", None)
            self._done += 1
            if self._is_root_gone:
                return

    def _note_fetched(self, error: OSError | None) -> None:
        """Count of what the storage says nothing: MOST_FAILED in a row, and it is gone, as a drive may be."""
        self._failed = 0 if error is None or Storage.is_answer(error) else self._failed + 1
        self._is_root_gone |= self._failed >= MOST_FAILED

    def _finish_archives(self) -> None:
        """Drop the rows of what archives do not have any more, or let them be missing if that is much at once. Of one
        that is damaged they stay."""
        catalog = self.catalog
        lost: dict[str, list[int]] = {}
        for row in self._unpacking.gone(self._gone):
            if isinstance(row, Unread):
                self._skip_archive(row)
            elif catalog.statuses[row] or row in self._renamed_members:
                self._drop(row)
                self.report.removed += catalog.statuses[row] == 0 and bool(catalog.starts[row])
            elif catalog.away[row]:
                self._missed.append(row)
            else:
                lost.setdefault(catalog.path(row), []).append(row)
        if self._unpacking.unkept:
            self.report.warnings.append(columns_left_out(self._unpacking.unkept))
        emptied = archives_emptied(catalog, lost) if lost else set()
        for path, rows in lost.items():
            if path in emptied:
                self._missed += rows
                continue
            for row in rows:
                self._drop(row)
                self.report.removed += bool(catalog.starts[row])

    def _skip_archive(self, archive: Unread) -> None:
        """Note that an archive, or a part of it, cannot be read. Unless it has no pictures, their rows stay."""
        file = archive.file
        if archive.status == "unreadable" and (self._is_root_gone or self._place.is_gone()):
            self._is_root_gone = True
            return
        self.report.skipped.append(SkippedImage(file.path, archive.status, archive.reason))
        old = self._old_catalog()
        for row in old.rows_at(file.path).tolist() if archive.has_pictures else ():
            if old.statuses[row] == 0 and (record := old.record(row)).member not in archive.given:
                self._not_read[record.place] = archive.status
        record = dataclasses.replace(row_of(file), status=archive.status, reason=archive.reason)
        if not self._has(record, self._rows_of(file.path)):
            self._add(record, None)

    def _take_known(self, changes: Changes) -> Iterator[tuple[FoundFile, int]]:
        """What needs no reading: files that are back, that were moved, and whose times were cut. Yields those of the
        latter two, with their rows, of which files beside them spoke or speak now."""
        for row in changes.returned:
            self._unmark(row)
        for row, block, number in changes.moved:
            file, record = block.file(number), self.catalog.record(row)
            self.report.renamed += 1
            rows = self.catalog.of_file(row)
            for other in rows:
                self._drop(other)
            if record.sidecars or file.sidecars:
                yield file, row
            else:
                self._add_again(rows, file)
        for row, block, number in changes.retimed:
            file, record = block.file(number), self.catalog.record(row)
            self.report.touched += 1
            if record.sidecars or file.sidecars:
                yield file, row
            else:
                self._add_again(self.catalog.of_file(row), file)

    def _describe(self, pool: Pool, stop: StopRequests) -> None:
        """Read the metadata again of pictures beside which something changed, and of all of older versions if asked to.

        Their vectors stay. A row whose file cannot be read now stays as it is, and its file is looked at by the next
        run; but a file that was moved has its new place.
        """
        moved, self._to_describe = self._to_describe, []
        blocks, self.changes.to_describe = self.changes.to_describe, []
        files: dict[int, tuple[FoundFile, int, bool]] = {}
        total = sum(map(len, blocks)) + len(moved)

        def tasks() -> Iterator[DecodeTask]:
            unchanged = (
                (block.file(number), row, False)
                for block in blocks
                for number, row in enumerate(self.catalog.match(block.paths).tolist())
            )
            for key, item in enumerate(itertools.chain(((*item, True) for item in moved), unchanged)):
                files[key] = item
                yield self._task(key, item[0], "describe")

        if total:
            self.notify(Progress("describe", 0, total))
        for done, result in enumerate(pool.run(tasks()), 1):
            file, row, is_moved = files.pop(result.key)
            self._copies.pop(result.key, None)
            rows = self.catalog.of_file(row)
            if result.skip is None:
                self._add_again(rows, file, result.metadata)
                self.report.described += 1
                self.report.unchanged -= not is_moved
            elif is_moved:
                self._add_again(rows, file, unread=True)
            elif result.skip[0] == "unreadable":
                self._is_root_gone = self._is_root_gone or self._place.is_gone()
            self._maybe_commit()
            self.notify(Progress("describe", done, total, described=self.report.described))
            if stop.requested or self._is_root_gone:
                return

    def _task(self, key: int, file: FoundFile, mode: Literal["decode", "hash", "describe"]) -> DecodeTask:
        limit_s = limit_for(self._same_as_before(file), self.options.timeout_s)
        if (within := file.within) is not None:
            return DecodeTask(key, within.place, mode, file.size_bytes, file.member, within.at, timeout_s=limit_s)
        if self._storage is not None and file.copy is None:  # of which only the metadata is read again
            with contextlib.suppress(OSError):  # the row stays, and its metadata as it was
                self._copies[key] = self._storage.fetch(file.path, file.size_bytes)
                file = dataclasses.replace(file, copy=self._copies[key])
        if file.copy is not None:
            return DecodeTask(key, file.copy.path, mode, file.size_bytes, file.name, timeout_s=limit_s)
        limit_s *= MORE_TIME if is_in_parts(file.name) else 1
        path = os.path.join(self.root, file.path)
        return DecodeTask(key, path, mode, file.size_bytes, timeout_s=limit_s, frames=mode == "decode")

    def _mode(self, file: FoundFile) -> Literal["decode", "hash"]:
        """Hash first where the size says that the content may be known; decode at once where it cannot be."""
        return "hash" if self.catalog.knows_size(file.size_bytes) else "decode"

    def _take(self, file: FoundFile, result: DecodeResult) -> DecodeTask | None:
        """Use one result of the pool; the task that must follow, if any."""
        content = result.content_hash
        if (video := self._watching.get(result.key)) is not None:
            return self._watch(video, result)
        if (row := self._reusing.pop(result.key, None)) is not None:
            self._reuse(file, row, None if result.skip is not None else result.metadata)
            return None
        if result.skip is not None:
            self._skip(file, *result.skip, content)
            return None
        row = self._row_with(content, file)
        if row is not None and self.catalog.statuses[row] != 0 and self._was_read(file):
            other = self.catalog.record(row)  # which is as empty or damaged as this file is now
            assert other.status != "ok"
            self._skip(file, other.status, other.reason or "", content)
        elif row is not None:
            if not result.is_decoded and self._is_said_of_differently(file, row):
                self._reusing[result.key] = row
                return self._task(result.key, file, "describe")
            self._reuse(file, row, None if not result.is_decoded or result.beside_unread else result.metadata)
        elif not result.is_decoded:
            return self._task(result.key, file, "decode")
        elif content is not None and (rows := self._videos.get(content)) is not None:
            self._add_video_copy(file, result, rows)
        elif result.video is not None:
            for video in self._watching.values():
                if content is not None and video.first.content_hash == content:
                    video.copies.append((file, dataclasses.replace(result, pieces=None)))
                    return None
            self._watching[result.key] = watched(file, result)
            return self._watch(self._watching[result.key], result)
        elif content is not None and (same := self._batch_hashes.get(content)) is not None:
            same.append((file, dataclasses.replace(result, pieces=None)))  # as a file that is about to be encoded
            if len(same) >= self._batch_pictures():  # a folder of copies never fills a batch
                self._encode_batch()
        elif content is not None and (known := self._pending_keys.get(content)) is not None:
            self._add_copy(file, result, known)
        elif content is not None and (stored := self._stored(file, result)) is not None:
            self._add_rows(stored)
            self.report.copied += 1
        elif result.vectors is not None:
            self._note_precision(result.precision)
            self._add_encoded(file, result, result.vectors)
        elif result.pieces is not None:
            self._batch.append((file, result, result.pieces))
            if content is not None:
                self._batch_hashes[content] = self._still.pop(result.key, [])
            if len(self._batch) >= self._batch_pictures():
                self._encode_batch()
        return None

    def _watch(self, video: Video, result: DecodeResult) -> DecodeTask | None:
        """Take a part of a video; the task that reads the next one, if there is one. At the end, add its shots."""
        file = video.file
        if result.skip is not None and result.skip[0] == "unreadable":
            del self._watching[result.key]
            self._skip(file, *result.skip, video.first.content_hash)
            return None
        if result.skip is not None or not result.is_decoded:
            next_s = video.pass_over()
        elif result.vectors is not None:
            self._note_precision(result.precision)
            next_s = video.take(result, result.vectors)
        else:
            assert result.pieces is not None
            encoder = self._precise_encoder()
            vectors = np.empty((0, self.model.dim), np.float32)
            if len(result.pieces):
                vectors = encoder.encode_images(result.pieces)
                self._note_precision(encoder.image_precision)
            next_s = video.take(result, vectors)
        if next_s is not None:
            return dataclasses.replace(self._task(result.key, file, "decode"), start_s=next_s, most=video.most)
        del self._watching[result.key]
        shots = video.shots()
        if len(shots) == 1 and video.is_animation:  # what moves in it is of no account
            self._still[result.key] = video.copies
            return dataclasses.replace(self._task(result.key, file, "decode"), frames=False)
        self._add_video(video, shots)
        return None

    def _add_video(self, video: Video, shots: list[Shot]) -> None:
        """Add the shots of a video that was read, and those of its copies: all of a file in one step."""
        file, content = video.file, video.first.content_hash
        try:
            now = os.stat(os.path.join(self.root, file.path))
            is_same = (now.st_size, now.st_mtime_ns) == (file.size_bytes, file.mtime_ns)
        except OSError:
            is_same = False
        if not is_same:  # its parts may be of different contents
            self._skip(file, "unreadable", "the file changed while it was read", None)
            return
        rows: list[Pending] = []
        for shot in shots:
            about = asdict(shot.look)
            record = dataclasses.replace(
                row_of_decoded(file, video.first), view=shot.view, partial=video.partial, **about
            )
            if shot.size is not None:
                record = dataclasses.replace(record, width=shot.size[0], height=shot.size[1])
            key = vector_key(record)
            known = None if key is None else self._vectors.find(_key(key))
            rows.append(
                (record, shot.vector) if known is None else (dataclasses.replace(record, vector_id=known), None)
            )
        self._add_rows(rows)
        self.report.encoded += 1
        self.report.partial += video.partial is not None
        if content is not None:
            self._videos[content] = [record for record, _ in rows]
            for other, its in video.copies:
                self._add_video_copy(other, its, self._videos[content])

    def _add_video_copy(self, file: FoundFile, result: DecodeResult, same: list[ImageRecord]) -> None:
        """A file with the content of a video that this run has read: its vectors are found by their views."""
        own = row_of_decoded(file, result)
        rows: list[Pending] = []
        for record in same:
            key = vector_key(record)
            known = record.vector_id if key is None or record.vector_id >= 0 else self._vectors.find(_key(key))
            seen = {name: getattr(record, name) for name in SEEN_OF_PARTS}
            rows.append((dataclasses.replace(own, **seen, vector_id=-1 if known is None else known), None))
        self._add_rows(rows)
        self.report.copied += 1

    def _batch_pictures(self) -> int:
        """What was asked for, else what keeps the encoder busy, which it may learn from its first batch."""
        return self.options.batch_pictures or self._precise_encoder().pictures_per_call

    def _precise_encoder(self) -> Encoder:
        """The encoder, in the arithmetic that the index has, if it has one."""
        if self.model.precision is not None:
            return self.encoder.in_precision(self.model.precision)
        if self._first_encoder is None:
            self._first_encoder = self.encoder.for_new_index(self._to_read + self._unpacking.found)
        return self._first_encoder

    def _row_with(self, content_hash: str | None, file: FoundFile) -> int | None:
        """Of the rows with a content, the one that `file` most likely was: itself, one that vanished, or any."""
        if content_hash is None:
            return None
        for row in self.catalog.at_place(file.path, file.member):
            if self.catalog.record(row).content_hash == content_hash and self._is_useful(row):
                return row
        rows = [row for row in self.catalog.with_content(_key(content_hash)) if self._is_useful(row)]
        if not rows:
            return None
        return next((row for row in rows if row in self._vanished and row not in self._gone), rows[0])

    def _is_useful(self, row: int) -> bool:
        """Whether a row says what became of its content: a vector, or a reason not to read it again."""
        if self.catalog.statuses[row] == 0:
            return bool(self.catalog.vector_ids[row] >= 0)
        return not self._retry(self.catalog.record(row))

    def _encode_batch(self) -> None:
        if not self._batch:
            return
        encoder = self._precise_encoder()
        pictures, tiled = [pieces for _, _, pieces in self._batch], [result.is_tiled for _, result, _ in self._batch]
        if self.model.regions:
            made = encode_with_regions(encoder, pictures, tiled, views=self.model.views)
        else:
            made = list(encode_decoded(encoder, pictures, tiled)[:, None])
        self._note_precision(encoder.image_precision)
        for (file, result, _), vectors in zip(self._batch, made, strict=True):
            self._add_encoded(file, result, vectors)
        self._batch.clear()
        self._batch_hashes.clear()

    def _rows_as_seen(self, file: FoundFile, result: DecodeResult) -> list[ImageRecord]:
        """The rows of a decoded picture: that of the whole, then those of its regions, if the index keeps any."""
        whole = row_of_decoded(file, result)
        regions = regions_of(result) if self.model.regions else ()
        return [whole, *(dataclasses.replace(whole, view=view) for view in regions)]

    def _stored(self, file: FoundFile, result: DecodeResult) -> list[Pending] | None:
        """The rows of a picture whose vectors are all there, of one that was deleted; else None."""
        rows: list[Pending] = []
        for record in self._rows_as_seen(file, result):
            key = vector_key(record)
            vector_id = None if key is None else self._vectors.find(_key(key))
            if vector_id is None:
                return None
            rows.append((dataclasses.replace(record, vector_id=vector_id), None))
        return rows

    def _add_encoded(self, file: FoundFile, result: DecodeResult, vectors: FloatArray) -> None:
        """Add a picture with its vector and those of its regions, shape (1 + R, D), and the files of the same content
        that wait for it."""
        pending = self._add_rows(list(zip(self._rows_as_seen(file, result), vectors, strict=True)))[0]
        self.report.encoded += 1
        self.report.partial += result.partial is not None
        if result.content_hash is not None:
            self._pending_keys[result.content_hash] = pending
            for other, its in self._batch_hashes.pop(result.content_hash, ()):
                self._add_copy(other, its, pending)

    def _note_precision(self, used: str | None) -> None:
        """Let the index say in which arithmetic its vectors are made, so that later runs use the same."""
        known = self.model.precision
        if known is None and used is not None:
            self.model = dataclasses.replace(self.model, precision=used)
            if not self._rebuilding:
                self.manifest = dataclasses.replace(self.manifest, model=self.model)
        elif used not in (None, known) and not self._told_of_precision:
            self._told_of_precision = True
            self.report.warnings.append(
                f"this run encoded pictures in {used}; others in the index are in {known}. To encode all alike, "
                f"run this with --reindex --precision {used}"
            )

    def _add_copy(self, file: FoundFile, result: DecodeResult, same: Pending) -> None:
        """A file with the content of one that waits for its commit: the vector is found by the content then."""
        self._add_rows([(record, None) for record in self._rows_as_seen(file, result)])
        self.report.copied += 1

    def _is_said_of_differently(self, file: FoundFile, row: int) -> bool:
        """Whether what lies beside `file` is not what lay beside the picture of the same content in `row`."""
        known = self.catalog.record(row)
        if known.status != "ok":
            return False
        if file.member or known.member:  # an archive says things of its own
            return True
        return known.sidecars != file.sidecars or (file.sidecars != 0 and known.path != file.path)

    def _reuse(self, file: FoundFile, row: int, metadata: PictureMetadata | None = None) -> None:
        """The content is in the index already: a rename, a copy, or the same file with a new time. `metadata`: what is
        known of it now, where it was read."""
        known = self.catalog.record(row)
        rows = self.catalog.of_picture(row)
        if metadata is not None and file.within is not None:
            metadata = with_said(metadata, file.within.said)
        unread = not file.member and metadata is None and self._is_said_of_differently(file, row)
        self._add_again(rows, file, metadata, unread=unread)
        if known.status != "ok":
            self.report.skipped.append(SkippedImage(file.place, known.status, known.reason or ""))
        if known.place == file.place:
            self.report.touched += 1
        elif row in self._vanished and row not in self._gone and not self.scan.hides(known.path):
            for other in rows:
                self._drop(other)
            self.report.renamed += 1
        else:
            self.report.copied += 1
            if known.member and known.path == file.path:
                self._renamed_members.update(rows)
            if self._stream is not None and self._stream.end is None and known.content_hash is not None:
                self._copied.extend(_key(known.content_hash))

    def _add_again(
        self, rows: list[int], file: FoundFile, metadata: PictureMetadata | None = None, *, unread: bool = False
    ) -> None:
        """Let the rows of one file be those of `file`, which has the same content: all of them together.

        `metadata`: see `row_at`. `unread`: what lies beside `file` could not be read, or was not.
        """
        records = []
        for row in rows:
            record = row_at(self.root, self.catalog.record(row), file, metadata)
            if record.status == "ok" and not record.member:
                metadata = record.metadata  # is the same of every view
            records.append(dataclasses.replace(record, sidecars=NOT_LOOKED_AT) if unread else record)
        self._add_rows([(record, None) for record in records])

    def _skip(self, file: FoundFile, status: SkipStatus, reason: str, content_hash: str | None) -> None:
        """Note that a file gives no vector. A row that has one is not replaced because of the moment."""
        if status == "unreadable" and (self._is_root_gone or self._place.is_gone()):
            self._is_root_gone = True
            return  # that says nothing of the file
        rows = self._rows_of(file.path, file.member)
        was_read = self._was_read(file)
        is_nameless = "." not in file.name and not file.member
        if status in ("not_a_picture", "empty", "unreadable") and is_nameless and not was_read:
            self.report.other_files["other files"] = self.report.other_files.get("other files", 0) + 1
            return  # not even its name says that it may be one: no row
        self.report.skipped.append(SkippedImage(file.place, status, reason))
        if was_read and (says_nothing(status, reason) or self._is_as_it_was_read(file)):
            self._not_read[file.place] = status
            return
        record = dataclasses.replace(
            row_of(file, content_hash),
            status=status,
            reason=reason,
            attempts=attempts_after(self._same_as_before(file), status, reason),
        )
        if self._has(record, rows):
            return
        if was_read:
            self._spoiled[file.place] = record  # if it is the only one: see finish
        else:
            self._add(record, None)

    def _replace_spoiled(self) -> None:
        """Let rows of pictures that are none any more say so, unless very many are spoiled at once: by a disk that ran
        full, say, or a copy that was cut short. Those are kept as they were, as are those that cannot be read now."""
        spoiled, self._spoiled = self._spoiled, {}
        if spoiled and went_in_bulk(self._old_catalog(), [*spoiled, *self._not_read]):
            self._not_read |= {path: cast(SkipStatus, record.status) for path, record in spoiled.items()}
        else:
            for now in spoiled.values():
                self._add(now, None)
        if self._not_read:
            self.report.kept = len(self._not_read)
            whats = ", ".join(sorted({status.replace("_", " ") for status in self._not_read.values()}))
            self.report.warnings.append(
                f"{len(self._not_read):,} indexed pictures cannot be read now ({whats}), such as "
                f"{min(self._not_read)}. The index keeps them as they were until they can be read or are deleted"
            )

    def _was_read(self, file: FoundFile) -> bool:
        """Whether a file was a picture, also among the rows that a rebuild is to replace."""
        if any(self.catalog.statuses[row] == 0 for row in self._rows_of(file.path, file.member)):
            return True
        return self._rebuilding and self._old_row(file) is not None

    def _old_row(self, file: FoundFile) -> int | None:
        """The row of a file that was a picture, in the index as it is before a rebuild takes its place."""
        old = self._old_catalog()
        rows = old.at_place(file.path, file.member)
        return next((row for row in rows if old.statuses[row] == 0), None)

    def _is_as_it_was_read(self, file: FoundFile) -> bool:
        """Whether a file that was a picture is unchanged: not it is to blame then."""
        row, old = self._old_row(file), self._old_catalog()
        if row is None or old.vector_ids[row] < 0:
            return False
        return self._is_of(old, row, file)

    def _is_of(self, catalog: Catalog, row: int, file: FoundFile) -> bool:
        """Whether a row is of a file as it is now, as far as size, time and, in storage, tag say."""
        if (catalog.sizes[row], catalog.mtimes_ns[row]) != (file.file_bytes, file.mtime_ns):
            return False
        tags = catalog.inodes_of(np.array([row])), np.array([file.inode], np.uint64)
        return self._storage is None or not are_others(*tags).any()

    def _has(self, record: ImageRecord, rows: list[int]) -> bool:
        """Whether some rows, of files that were skipped, say what `record` does."""
        tagged = self._storage is not None
        return any(says_the_same(self.catalog.record(row), record, tagged=tagged) for row in rows)

    def _old_catalog(self) -> Catalog:
        if not self._rebuilding:
            return self.catalog
        if self._old is None:
            self._old = Catalog(self.writer.index_dir, self.manifest.fragments)
        return self._old

    def _same_as_before(self, file: FoundFile) -> ImageRecord | None:
        """The row that the file has, if it did not change since."""
        for row in self._rows_of(file.path, file.member):
            if self._is_of(self.catalog, row, file):
                return self.catalog.record(row)
        return None

    def _rows_of(self, path: str, member: str = "") -> list[int]:
        return [row for row in self.catalog.at_place(path, member) if row not in self._gone]

    def _add(self, record: ImageRecord, vector: FloatArray | None) -> Pending:
        """Let `record` take the place of the rows of its file, if any; see `_add_rows`."""
        return self._add_rows([(record, vector)])[0]

    def _add_rows(self, rows: list[Pending]) -> list[Pending]:
        """Let all rows of one file take the place of those that it has, if any: in one commit.

        Their row ids are given there; so are those of their vectors, if these are new, or if they are those of other
        pending rows with the same content.
        """
        for path, member in dict.fromkeys((record.path, record.member) for record, _ in rows):
            for row in self._rows_of(path, member):
                self._drop(row)
        self._pending += rows
        return rows

    def _drop(self, row: int) -> None:
        if row not in self._gone:
            self._gone.add(row)
            self._dropped.append(row)

    def _unmark(self, row: int) -> None:
        self._unmarked.append(row)
        self.report.returned += bool(self.catalog.starts[row])

    # -- committing

    def _maybe_commit(self) -> None:
        waited = time.monotonic() - self._last_commit
        if len(self._pending) >= self.options.commit_rows or (self._pending and waited >= self._commit_after_s):
            self.commit()
            self._commit_after_s = min(self._commit_after_s * 2, self.options.commit_s)

    def commit(self) -> None:
        """Make what is pending part of the index, in one step."""
        manifest = self.manifest
        changed = self._pending or self._dropped or self._marked_missing or self._unmarked or self._moved
        if changed or manifest.generation == 0:
            self._tell("commit")
            fragments, segments = self._fragments, self._segments
            if self._pending:
                records, block = self._numbered(manifest)
                fragment = write_fragment(self.writer, lambda: [records])
                segment = write_segment(self.writer, lambda: [block], self.model)
                fragments = (*fragments, *([] if fragment is None else [fragment]))
                segments = (*segments, *([] if segment is None else [segment]))
                manifest = dataclasses.replace(
                    manifest,
                    next_row_id=manifest.next_row_id + len(records),
                    next_vector_id=manifest.next_vector_id + len(block.ids),
                )
                self._vectors.add(block.keys, block.ids)
            fragments = self._with_marks(fragments)
            segments = with_hidden(self.writer, self._references, segments, self.model.dim)
            # A device is forgotten only at the end of a run, when what was on it has been marked as missing.
            devices = self.scan.devices | self._known_devices
            manifest = self._put(dataclasses.replace(manifest, devices=devices), fragments, segments)
            self.manifest = self.writer.commit(self._with_counts(manifest))
            self._pending.clear()
            self._pending_keys.clear()
            self._dropped.clear()
            self._marked_missing.clear()
            self._unmarked.clear()
            self._moved = False
            self._merge()
        self._last_commit = time.monotonic()
        self._say_counts()

    def _say_counts(self) -> None:
        self.report.generation = self.manifest.generation
        self.report.pictures = self.manifest.pictures
        self.report.rows = self.manifest.answered
        self.report.regions = self.manifest.model.regions
        self.report.missing = self.manifest.missing

    def _numbered(self, manifest: Manifest) -> tuple[list[ImageRecord], VectorBlock]:
        """The pending rows with their ids, and the new vectors with theirs."""
        vector_ids: dict[str, int] = {}
        new: list[FloatArray] = []
        hashes: list[str | None] = []
        records: list[ImageRecord] = []
        for record, vector in self._pending:
            if vector is not None:
                vector_id = manifest.next_vector_id + len(new)
                new.append(vector)
                key = vector_key(record)
                hashes.append(key)
                if key is not None:
                    vector_ids[key] = vector_id
                record = dataclasses.replace(record, vector_id=vector_id)
            elif record.status == "ok" and record.vector_id < 0:
                record = dataclasses.replace(record, vector_id=vector_ids[vector_key(record) or ""])
            record = dataclasses.replace(record, row_id=manifest.next_row_id + len(records))
            is_first = not records or (record.path, record.member) != (records[-1].path, records[-1].member)
            records.append(record)
            self._references.add(record.vector_id, 1)
            kind = "pictures" if record.status == "ok" else "skipped"
            self._live[kind if is_first else "more_views"] += 1
        vectors = np.stack(new) if new else np.empty((0, self.model.dim), np.float32)
        ids = np.arange(len(new), dtype=np.int64) + manifest.next_vector_id
        return records, VectorBlock(ids, hash_keys(hashes), vectors)

    def _with_marks(self, fragments: tuple[Fragment, ...]) -> tuple[Fragment, ...]:
        """`fragments` with what was dropped, missed or seen again since the last commit."""
        catalog, references = self.catalog, self._references
        touched: set[int] = set()
        dead: dict[int, list[int]] = {}
        for row in self._dropped:
            if not catalog.away[row]:
                references.add(int(catalog.vector_ids[row]), -1)
            self._live[self._kind(row)] -= 1
            dead.setdefault(catalog.fragment_of(row), []).append(catalog.row_id(row))
        for number, row_ids in dead.items():
            marks = catalog.marks[number]
            marks.dead = np.union1d(marks.dead, np.array(row_ids, np.int64))
            marks.missing = {since: np.setdiff1d(ids, marks.dead) for since, ids in marks.missing.items()}
            touched.add(number)
        away: dict[tuple[int, int], list[int]] = {}
        for row, since in self._marked_missing.items():
            if not catalog.away[row]:
                references.add(int(catalog.vector_ids[row]), -1)
                self._live[self._kind(row)] -= 1
                catalog.away[row] = True
                self._live[self._kind(row)] += 1
                away.setdefault((catalog.fragment_of(row), since), []).append(catalog.row_id(row))
        for (number, since), row_ids in away.items():
            missing = catalog.marks[number].missing
            missing[since] = np.union1d(missing.get(since, np.empty(0, np.int64)), np.array(row_ids, np.int64))
            touched.add(number)
        back: dict[int, list[int]] = {}
        for row in self._unmarked:
            if catalog.away[row] and row not in self._gone:
                references.add(int(catalog.vector_ids[row]), 1)
                self._live[self._kind(row)] -= 1
                catalog.away[row] = False
                self._live[self._kind(row)] += 1
                back.setdefault(catalog.fragment_of(row), []).append(catalog.row_id(row))
        for number, row_ids in back.items():
            marks = catalog.marks[number]
            marks.missing = {since: np.setdiff1d(ids, row_ids) for since, ids in marks.missing.items()}
            touched.add(number)
        return remarked(self.writer, catalog, fragments, touched)

    def _kind(self, row: int) -> str:
        """What a row is counted as."""
        if not self.catalog.starts[row]:
            return "more_missing" if self.catalog.away[row] else "more_views"
        return "missing" if self.catalog.away[row] else "skipped" if self.catalog.statuses[row] else "pictures"

    def _with_counts(self, manifest: Manifest) -> Manifest:
        return (
            manifest
            if self._rebuilding
            else dataclasses.replace(
                manifest,
                pictures=self._live["pictures"],
                skipped=self._live["skipped"],
                missing=self._live["missing"],
                more_views=self._live["more_views"],
            )
        )

    def _merge(self, *, drop_unused: bool = False) -> None:
        """Join what is due. Unused vectors are dropped at the end of a run only: until then a file may turn up that has
        the content of one."""
        manifest = self.manifest
        target = dataclasses.replace(manifest, model=self.model, fragments=self._fragments, segments=self._segments)
        merged = merge_due(
            self.writer,
            target,
            lambda: self._tell("merge"),
            drop_unused=drop_unused,
        )
        if merged.fragments != target.fragments or merged.segments != target.segments:
            self.manifest = self.writer.commit(self._put(manifest, merged.fragments, merged.segments))

    def check_root(self) -> None:
        """Stop a run whose folder went while it ran, with what it had read until then. Raises: StorageError."""
        self._is_root_gone = self._is_root_gone or self._place.is_gone()
        if not self._is_root_gone:
            return
        self.commit()
        if self._rebuilding:
            gone = "its pictures went away during the run"
            self._stop_rebuild(gone if self._unlisted is None else self._unlisted.problem)
        if self._unlisted is not None:
            raise StorageError(
                self._unlisted.path,
                self._unlisted.problem,
                "Finished work is kept, and no picture counts as deleted. Check the network and the permissions, "
                "then run the same command again: it continues from there.",
            ) from self._unlisted
        what = "the folder went away" if self._storage is None else "the storage could no longer be reached"
        raise StorageError(
            self.root,
            f"{what} during the run",
            "Finished work is kept, and nothing was forgotten. Run the same command when it is back.",
        )

    def _stop_rebuild(self, problem: str) -> None:
        """Keep what was made anew beside the old vectors. Raises: StorageError."""
        raise StorageError(
            self.root,
            problem,
            "Queries still use the old vectors, and finished work is kept. Run the same command when the pictures can "
            "be read again.",
        )

    def finish(self) -> None:
        """Commit the rest; forget what was deleted, and mark what is missing."""
        report, scan = self.report, self.scan
        assert self._stream is None or self._stream.end is not None, "of a listing that has not ended nothing is absent"
        self._replace_spoiled()
        now_s = self._clock.seconds
        oldest_s = now_s - 86_400 * self.options.keep_missing_days
        for row in self._deleted:
            if row not in self._gone:
                self._drop(row)
                report.removed += bool(self.catalog.starts[row])
        for row in self._missed:
            if row in self._gone:
                continue
            known = bool(self.catalog.away[row])
            first_s = int(self.catalog.missed_since_s[row]) if known else now_s
            left_out = scan.leaves_out(self.catalog.path(row)) if scan.left_out else None
            # What is left out is not gone: in this run only, or until the user asks.
            too_long = first_s <= oldest_s and left_out is None and not scan.hides(self.catalog.path(row))
            if (self.options.prune and left_out != EXCLUDED) or too_long:
                self._drop(row)
                report.forgotten += bool(self.catalog.starts[row])
            elif not known:
                self._marked_missing[row] = self._clock.latest
                report.withdrawn += left_out is not None and bool(self.catalog.starts[row])
        self._known_devices = {}
        self.commit()
        if self._rebuilding:
            # With --prune only what the drive is to blame for stops it: else a package that is gone would for ever.
            if self.scan.held:
                place = min(s.path for s in self.scan.unreadable if self.scan.holds(s.path))
                self._stop_rebuild(f"{place} cannot be read, so it is not known what to leave out")
            unread = [p for p, status in self._not_read.items() if status == "unreadable" or not self.options.prune]
            if unread and went_in_bulk(self._old_catalog(), unread):
                self._stop_rebuild(f"{len(unread):,} indexed pictures cannot be read now, such as {min(unread)}")
            self._switch()
        self._merge(drop_unused=True)
        recall = self.options.recall
        if recall is not None and recall != self.manifest.recall_target:
            self.manifest = self.writer.commit(retuned(self.writer.index_dir, self.manifest, recall))
        self._say_counts()

    def _switch(self) -> None:
        """Let what was made anew take the place of the old rows and vectors, but for pictures that nobody can see now:
        their rows stay, and their vectors too if they are of the same model."""
        manifest, rebuild = self.manifest, self.manifest.rebuild
        assert rebuild is not None
        self._rebuilding = False
        manifest = dataclasses.replace(
            manifest, model=self.model, fragments=rebuild.fragments, segments=rebuild.segments, rebuild=None
        )
        manifest, deleted = carried_over(
            self.writer,
            dataclasses.replace(self.manifest, devices=self._devices_before),
            manifest,
            self.scan,
            not_read=set(self._not_read),
            prune=self.options.prune,
            now_s=self._clock.latest,
        )
        self.report.removed += deleted
        self.manifest = self.writer.commit(counted(self.writer.index_dir, manifest))

    def close(self) -> None:
        """Let go of the generation that the run started from, and of what only it needed."""
        self._place.close()
        if self._before is not None:
            self._before.close()
            self._before = None
            with contextlib.suppress(ClipsearchError):  # the run's own error, if any, says more; old files only stay
                self.writer.collect()


def _seconds(created_at: str, default: int) -> int:
    """A manifest's time in seconds since 1970."""
    try:
        return int(datetime.fromisoformat(created_at).timestamp())
    except (ValueError, OverflowError):
        return default


def _key(content_hash: str) -> tuple[int, int]:
    first, second = struct.unpack("<2q", bytes.fromhex(content_hash))
    return first, second
