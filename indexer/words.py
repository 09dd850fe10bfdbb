"""Read the words in the pictures of an index: a second pass, since it takes many times as long as the first.

What probably has words comes first: screenshots and documents, by their pixels. The others are looked at in a small
copy before, and read if there seem to be lines in them, unless all are wanted. Of pages of documents, the text layer
is read, and only those without one are read as pictures; where nothing is installed that reads pictures, these wait
until there is. What was found is committed every
COMMIT_S seconds; a pass that was stopped or killed goes on from there. An index run can write at the same time: this
one takes the lock only to commit.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from sys import maxsize

import numpy as np

from clipsearch.config import is_index
from clipsearch.cores import available_cores, usable_memory
from clipsearch.errors import IndexNotFound, MissingExtra, MissingFeature
from clipsearch.indexer.build import Progress, StopRequests
from clipsearch.indexer.passes import COMMIT_PICTURES, COMMIT_S, Commits, forget, is_read_here, is_settled, rows_of
from clipsearch.indexer.retries import MOST_ATTEMPTS, is_circumstance
from clipsearch.indexer.subtitles import MARK, SubtitledVideo, videos_to_read
from clipsearch.pictures.pdf import LEAST_LETTERS, MOST_PAGES, letters_in
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.pictures.words import check_reader, longest_for, scaled
from clipsearch.places import is_unchanged
from clipsearch.records import TRAITS, ImageRecord, IntArray, Line, Preprocessing, SkippedImage, page_view
from clipsearch.store import LiveRows, Snapshot, open_snapshot
from clipsearch.store.hashes import among, name_key, part_key
from clipsearch.store.words import ReadPicture, WordFiles, check_sqlite

TIMEOUT_S = 60.0
ONLY_LAYER = "little text layer"
"""The reason of a page whose text layer says little, and that nothing installed could read as a picture."""
_TICK_S = 0.2
_WORKER_BYTES = 1 << 30  # that one reader may need
_FIRST = sum(1 << TRAITS.index(trait) for trait in ("screenshot", "document"))
_NO_PIXELS = Preprocessing(1, 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a pass works. `all`: read every picture, also where no words are seen at a glance."""

    all: bool = False
    again: bool = False  # forget what was read, and begin anew
    retry_skipped: bool = False  # also pictures that could not be read before
    workers: int | None = None  # processes; None: one for each core, as far as memory goes
    timeout_s: float = TIMEOUT_S  # for one picture
    commit_s: float = COMMIT_S
    commit_pictures: int = COMMIT_PICTURES
    command: list[str] | None = None  # instead of the worker program, for tests


@dataclass(slots=True)
class ReadReport:
    """What a pass did."""

    index: Path
    read: int = 0
    written: int = 0  # of these, with words
    lines: int = 0
    passed_over: int = 0  # no words seen at a glance
    known: int = 0  # read before
    changed: int = 0  # files that are others than when they were indexed
    subtitled: int = 0  # videos whose subtitles were read
    lacking: int = 0  # pictures, and pages without a text layer, that nothing installed here reads
    skipped: list[SkippedImage] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def pictures_per_s(self) -> float:
        """Pictures that were looked at, a second."""
        return (self.read + self.passed_over) / self.seconds if self.seconds else 0.0


def read_words(
    index_dir: Path, options: ReadOptions | None = None, progress: Callable[[Progress], None] = lambda _: None
) -> ReadReport:
    """Read the words in the pictures of an index that were not read yet.

    Ctrl-C or SIGTERM commits what is done and returns with `interrupted` set. Raises: IndexNotFound, MissingExtra,
    MissingFeature, IndexLocked, CorruptIndex, OutOfSpace, StorageError.
    """
    options = options or ReadOptions()
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    check_sqlite()
    started = time.monotonic()
    if options.again:
        forget(index_dir, "words")
    with open_snapshot(index_dir) as snapshot:
        run = _Pass(snapshot, options, progress)
        with StopRequests() as stop:
            run.read_subtitles(stop)
            if options.command is None and (run.has_pictures or not run.has_videos):
                try:
                    check_reader()
                except (MissingExtra, MissingFeature):
                    if not run.keep_pages():
                        raise
            run.read(stop)
    run.report.seconds = time.monotonic() - started
    return run.report


class _Pass:
    """One pass over a generation. Pictures are known by content: an index run may change the rows meanwhile."""

    def __init__(self, snapshot: Snapshot, options: ReadOptions, notify: Callable[[Progress], None]) -> None:
        self._index_dir = snapshot.index_dir
        self._root = snapshot.root
        self._options = options
        self._notify = notify
        self.report = ReadReport(snapshot.index_dir)
        self._fragments = rows_of(snapshot)
        self._attempts: dict[str, int] = {}
        self._links_inside = snapshot.manifest.links == "inside"
        self._can_read = options.command is not None or _has_reader()
        self._has_layer: set[str] = set()  # pages whose text layer is known, and is all that could be read
        self._subtitles: dict[str, tuple[str, int]] = {}  # what is remembered of those that were read, and attempts
        self._todo = self._to_read(snapshot)  # fragment, position, whether it may have no words, whether it is a page
        self._text_only = False
        self._has_videos = bool(self._subtitles)
        self._watched: dict[int, SubtitledVideo] = {}  # those whose subtitles are being read, by number
        self._not_read = 0
        self._records: dict[int, ImageRecord] = {}  # those that are being read, by number
        self._commits = Commits(snapshot.index_dir, "words", options.commit_s, options.commit_pictures)

    def _to_read(self, snapshot: Snapshot) -> IntArray:
        """What is to be read, likely ones first: of each content a row, by fragment and position, whether it may have
        no words, and whether it is a page. Shape: (N, 4)."""
        known = self._known(snapshot)
        found = [np.empty((0, 6), np.int64)]
        for number, rows in enumerate(self._fragments):
            columns = rows.file.columns
            wanted = rows.alive & columns.hashes.any(axis=1)
            is_page = np.zeros(len(wanted), bool)
            if (views := columns.numbers.get("view")) is not None:
                parts_of_files = np.flatnonzero(wanted & (views != 0))
                wanted = wanted & (views == 0)  # not a moment of a video, but of an animated picture
                moving = [at for at in parts_of_files.tolist() if columns.starts[at] and not _has_no_words(rows, at)]
                wanted[moving] = True
                is_page = rows.alive & columns.hashes.any(axis=1) & np.isin(views, page_keys())
                wanted |= is_page
            at = np.flatnonzero(wanted)
            is_first = (columns.whole("traits")[at] & _FIRST) != 0
            hashes = np.where(is_page[at, None], columns.part_hashes[at], columns.hashes[at])
            parts = (np.full(len(at), number), at, ~is_first, is_page[at], *hashes.T)
            found.append(np.stack([np.asarray(part, np.int64) for part in parts], axis=1))
        every = np.concatenate(found)
        _, first = np.unique(every[:, 4:], axis=0, return_index=True)
        every = every[np.sort(first)]
        is_known = among(every[:, 4:], known)
        self.report.known = int(is_known.sum())
        every = every[~is_known]
        return every[np.argsort(every[:, 2], kind="stable"), :4]

    def keep_pages(self) -> bool:
        """Leave all to be read but pages, and of these read text layers only; whether there are any."""
        is_page = self._todo[:, 3] != 0
        self.report.lacking = int((~is_page).sum())
        self._todo = self._todo[is_page]
        self._text_only = True
        return len(self._todo) > 0

    def _known(self, snapshot: Snapshot) -> IntArray:
        """The contents that need not be read (again). Shape: (N, 2)."""
        files = WordFiles(self._index_dir, snapshot.manifest.words)
        known: list[bytes] = []
        for content_hash, status, reason, attempts, thorough in files.states():
            if reason is not None and reason.startswith(MARK):
                self._subtitles[content_hash.hex()] = reason, attempts
            if reason == ONLY_LAYER:
                is_known = not self._can_read
            elif status == "ok":
                is_known = thorough or not self._options.all
            else:
                self._attempts[content_hash.hex()] = attempts
                is_known = is_settled(status, reason, attempts, retry_skipped=self._options.retry_skipped)
            if is_known:
                known.append(content_hash)
            if reason == ONLY_LAYER:
                self._has_layer.add(content_hash.hex())
        files.close()
        return np.frombuffer(b"".join(known), "<i8").reshape(-1, 2)

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to be read."""
        return len(self._todo) > 0

    @property
    def has_videos(self) -> bool:
        """Whether the subtitles of videos were read, now or before."""
        return self._has_videos

    def read_subtitles(self, stop: StopRequests) -> None:
        """Read what is said in videos, by the subtitles beside and inside them."""
        tasks = self._tasks_inside()
        first = next(tasks, None)
        if first is not None:  # else no process is started
            workers = self._options.workers or available_cores()
            self._work(chain([first], tasks), workers, self._take_subtitles, stop)
            self.report.interrupted = stop.requested and (bool(self._watched) or next(tasks, None) is not None)
        self._watched.clear()
        self._commits.finish()

    def _tasks_inside(self) -> Iterator[DecodeTask]:
        """Read subtitles beside videos, and give tasks for those inside them."""
        most_attempts = maxsize if self._options.retry_skipped else MOST_ATTEMPTS
        videos = videos_to_read(
            self._root, self._fragments, self._subtitles, links_inside=self._links_inside, most_attempts=most_attempts
        )
        for key, video in enumerate(videos):
            self._has_videos = True
            path = os.path.join(self._root, video.record.path)  # noqa: PTH118  as it is stored
            if not video.inside:
                self._add_subtitles(video)
            elif self._is_unchanged(path, video.record):
                self._watched[key] = video
                timeout_s = self._options.timeout_s * (1 + video.attempts)
                yield DecodeTask(key, path, "subtitles", video.record.size_bytes, timeout_s=timeout_s)

    def _is_unchanged(self, path: str, record: ImageRecord) -> bool:
        """Whether a video is the file that was indexed, going by its size and time."""
        if not os.path.exists(path):  # noqa: PTH110
            return False
        same = is_unchanged(path, record.size_bytes, record.mtime_ns)
        self.report.changed += not same  # the next index run sees it, and the next pass reads it
        return same

    def _take_subtitles(self, result: DecodeResult) -> None:
        video = self._watched.pop(result.key)
        attempts = 0
        if result.content_hash not in (None, video.content_hash):
            self.report.changed += 1
            return
        if result.skip is not None:
            status, reason = result.skip
            self.report.skipped.append(SkippedImage(video.record.place, status, f"its subtitles: {reason}"))
            if status in ("unreadable", "missing_extra"):  # these say nothing of the video
                return
            attempts = video.attempts + 1 if is_circumstance(status, reason) else 0
        self._add_subtitles(video, result.lines or (), attempts)

    def _add_subtitles(self, video: SubtitledVideo, inside: Sequence[Line] = (), attempts: int = 0) -> None:
        words = video.said(inside, attempts)
        self._commits.done += words
        self.report.subtitled += bool(video.beside or inside)
        self.report.lines += sum(len(one.lines) for one in words)

    def read(self, stop: StopRequests) -> None:
        """Read until all is read, or somebody wants to stop; commit on the way, and at the end."""
        options, total = self._options, len(self._todo)
        if not total:
            return
        self._notify(Progress("words", 0, total))
        workers = options.workers or max(1, min(available_cores(), usable_memory() // _WORKER_BYTES))
        done = self._work(
            self._tasks(),
            workers,
            self._take,
            stop,
            lambda done: self._notify(Progress("words", done + self._not_read, total, done)),
        )
        self.report.interrupted |= stop.requested and done + self._not_read < total
        self._commits.finish()

    def _work(
        self,
        tasks: Iterator[DecodeTask],
        workers: int,
        take: Callable[[DecodeResult], None],
        stop: StopRequests,
        notify: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Have tasks done, and take their results, until somebody wants to stop; commit on the way.

        Returns how many were done.
        """
        options, ended, done = self._options, False, 0
        with DecodePool(
            _NO_PIXELS, workers=workers, capacity=4 * workers, timeout_s=options.timeout_s, command=options.command
        ) as pool:
            while not stop.requested:
                while not ended and pool.pending < pool.capacity:
                    task = next(tasks, None)
                    if task is None:
                        ended = True
                    else:
                        pool.submit(task)
                if not pool.pending:
                    break
                result = pool.next_result(_TICK_S)
                if result is not None:
                    take(result)
                    done += 1
                    notify(done)
                self._commits.commit_if_due()
        return done

    def _tasks(self) -> Iterator[DecodeTask]:
        for key, (number, position, later, is_page) in enumerate(self._todo.tolist()):
            record = self._fragments[number].file.record(position)
            if not is_read_here(self._root, record):
                self._not_read += 1
                continue
            self._records[key] = record
            attempts = self._attempts.get(_key_of(record), 0)
            yield DecodeTask(
                key,
                os.path.join(self._root, record.path),  # noqa: PTH118  as it is stored
                "words",
                record.size_bytes,
                record.member or None,
                record.offset,
                timeout_s=self._options.timeout_s * (1 + attempts),
                longest=longest_for(record.width or 0, record.height or 0),
                gated=bool(later) and not self._options.all,
                text_only=self._text_only,
                start_s=record.part_at if is_page else None,
            )

    def _take(self, result: DecodeResult) -> None:
        record, report = self._records.pop(result.key), self.report
        content_hash = _key_of(record)
        if record.page is not None:  # the file was not hashed for each
            path = os.path.join(self._root, record.path)  # noqa: PTH118  as it is stored
            is_same = is_unchanged(path, record.size_bytes, record.mtime_ns)
        else:
            is_same = result.content_hash in (None, content_hash)
        if not is_same:
            report.changed += 1  # the next index run sees it, and the next pass reads it
            return
        if result.skip is not None:
            status, reason = result.skip
            report.skipped.append(SkippedImage(record.place, status, reason))
            self._commits.skip(content_hash, status, reason, self._attempts.get(content_hash, 0))
            return
        if result.lines is None:
            report.passed_over += 1
            self._commits.done.append(ReadPicture(content_hash, thorough=False))
            return
        across = (record.width or 1) / max(1, result.width or 1)
        down = (record.height or 1) / max(1, result.height or 1)
        lines = tuple(scaled(line, across, down) for line in result.lines)
        if self._text_only and letters_in(lines) < LEAST_LETTERS:
            report.lacking += 1
            if lines:
                report.lines += len(lines)
                self._commits.done.append(ReadPicture(content_hash, lines, reason=ONLY_LAYER, thorough=False))
            return
        report.read += 1
        report.written += bool(lines)
        report.lines += len(lines)
        self._commits.done.append(ReadPicture(content_hash, lines, again=content_hash in self._has_layer))


def _has_reader() -> bool:
    """Whether what reads pictures is installed."""
    with contextlib.suppress(MissingExtra, MissingFeature):
        check_reader()
        return True
    return False


def _key_of(record: ImageRecord) -> str:
    """What the words of a row are kept by: its content, and of a document the page."""
    assert record.content_hash is not None
    return record.content_hash if record.page is None else part_key(record.content_hash, record.view)


@lru_cache(maxsize=1)
def page_keys() -> IntArray:
    """What pages are known by in the columns of rows. Shape: (MOST_PAGES,)."""
    return np.array([name_key(page_view(number)) for number in range(1, MOST_PAGES + 1)], np.int64)


def _has_no_words(rows: LiveRows, at: int) -> bool:
    """Whether the picture at a position is a part of a video or of a 3-D model."""
    return rows.file.record(at).metadata.format in ("VIDEO", "MESH")
