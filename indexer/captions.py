"""Have a model caption the pictures of an index: a second pass, as `words` is one.

Every picture, moment of a video, page and angle gets a caption of its own. Captions are kept apart from what people
wrote and from the words in pictures; no picture file is written to. Any model that can may write them: it need not be
that of the index.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipsearch.config import is_index
from clipsearch.encoder import CaptionWriter, Encoder, captioner_of
from clipsearch.errors import IndexNotFound
from clipsearch.indexer.build import Progress, StopRequests
from clipsearch.indexer.passes import COMMIT_PICTURES, COMMIT_S, Commits, forget, is_read_here, is_settled, rows_of
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.places import is_unchanged
from clipsearch.records import NO_BOX, ImageRecord, IntArray, Line, PixelArray, SkippedImage
from clipsearch.store import Snapshot, open_snapshot
from clipsearch.store.hashes import among, part_key
from clipsearch.store.words import ReadPicture, WordFiles, check_sqlite

TIMEOUT_S = 30.0
_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """How a pass works."""

    again: bool = False  # forget all captions of models, and begin anew
    retry_skipped: bool = False  # also pictures that could not be read before
    workers: int | None = None  # processes that read pictures; None: one for each core
    timeout_s: float = TIMEOUT_S  # to read one picture
    commit_s: float = COMMIT_S
    commit_pictures: int = COMMIT_PICTURES


@dataclass(slots=True)
class CaptionReport:
    """What a pass did."""

    index: Path
    model: str
    captioned: int = 0
    known: int = 0  # captioned before, by whichever model
    changed: int = 0  # files that are others than when they were indexed
    not_read: int = 0  # rows of tables, and objects elsewhere
    skipped: list[SkippedImage] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def pictures_per_s(self) -> float:
        """Pictures that were captioned, a second."""
        return self.captioned / self.seconds if self.seconds else 0.0


def caption_pictures(
    index_dir: Path,
    encoder: Encoder,
    options: CaptionOptions | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> CaptionReport:
    """Caption what no model has captioned yet.

    Ctrl-C or SIGTERM commits what is done and returns with `interrupted` set. Raises: IndexNotFound, MissingFeature,
    IndexLocked, CorruptIndex, OutOfSpace, StorageError.
    """
    options = options or CaptionOptions()
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    check_sqlite()
    captioner = captioner_of(encoder)
    started = time.monotonic()
    if options.again:
        forget(index_dir, "captions")
    with open_snapshot(index_dir) as snapshot:
        run = _Pass(snapshot, encoder, captioner, options, progress)
        with StopRequests() as stop:
            run.run(stop)
    run.report.seconds = time.monotonic() - started
    return run.report


class _Pass:
    """One pass over a generation. Pictures are known by content: an index run may change the rows meanwhile."""

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: Encoder,
        captioner: CaptionWriter,
        options: CaptionOptions,
        notify: Callable[[Progress], None],
    ) -> None:
        self._root = snapshot.root
        self._encoder = encoder
        self._captioner = captioner
        self._options = options
        self._notify = notify
        self.report = CaptionReport(snapshot.index_dir, encoder.name)
        self._fragments = rows_of(snapshot)
        self._attempts: dict[str, int] = {}
        self._todo = self._to_caption(snapshot)
        self._records: dict[int, ImageRecord] = {}  # those that are being read, by number
        self._waiting: list[tuple[str, PixelArray]] = []  # read, and not yet captioned
        self._commits = Commits(snapshot.index_dir, "captions", options.commit_s, options.commit_pictures)

    def _to_caption(self, snapshot: Snapshot) -> IntArray:
        """Of each content that has no caption a row, by fragment and position. Shape: (N, 2)."""
        found = [np.empty((0, 4), np.int64)]
        for number, rows in enumerate(self._fragments):
            columns = rows.file.columns
            at = np.flatnonzero(rows.alive & columns.hashes.any(axis=1))
            found.append(np.column_stack([np.full(len(at), number), at, columns.part_hashes[at]]).astype(np.int64))
        every = np.concatenate(found)
        _, first = np.unique(every[:, 2:], axis=0, return_index=True)
        every = every[np.sort(first)]
        is_known = among(every[:, 2:], self._known(snapshot))
        self.report.known = int(is_known.sum())
        return every[~is_known, :2]

    def _known(self, snapshot: Snapshot) -> IntArray:
        """The contents that need no caption (again). Shape: (N, 2)."""
        files = WordFiles(snapshot.index_dir, snapshot.manifest.captions)
        known: list[bytes] = []
        for content_hash, status, reason, attempts, _ in files.states():
            self._attempts[content_hash.hex()] = attempts
            if status == "ok" or is_settled(status, reason, attempts, retry_skipped=self._options.retry_skipped):
                known.append(content_hash)
        files.close()
        return np.frombuffer(b"".join(known), "<i8").reshape(-1, 2)

    def run(self, stop: StopRequests) -> None:
        """Caption until all is done, or somebody wants to stop; commit on the way, and at the end."""
        total = len(self._todo)
        if not total:
            return
        self._notify(Progress("captions", 0, total))
        tasks, ended = self._tasks(), False
        with DecodePool(
            self._encoder.preprocessing,
            workers=self._options.workers,
            capacity=2 * self._captioner.pictures_per_call,
            timeout_s=self._options.timeout_s,
        ) as pool:
            while not stop.requested:
                while not ended and pool.pending < pool.capacity:
                    task = next(tasks, None)
                    if task is None:
                        ended = True
                    else:
                        pool.submit(task)
                result = pool.next_result(_TICK_S)
                if result is not None:
                    self._take(result)
                if len(self._waiting) >= self._captioner.pictures_per_call or not pool.pending:
                    self._caption()
                    report = self.report
                    done = report.captioned + report.changed + report.not_read + len(report.skipped)
                    self._notify(Progress("captions", done, total, report.captioned))
                self._commits.commit_if_due()
                if ended and not pool.pending:
                    break
        self.report.interrupted = not (ended and not self._records and not self._waiting)
        self._commits.finish()

    def _tasks(self) -> Iterator[DecodeTask]:
        for key, (number, position) in enumerate(self._todo.tolist()):
            record = self._fragments[number].file.record(position)
            if not is_read_here(self._root, record):
                self.report.not_read += 1
                continue
            self._records[key] = record
            yield DecodeTask(
                key,
                os.path.join(self._root, record.path),  # noqa: PTH118  as it is stored
                "decode",
                record.size_bytes,
                record.member or None,
                record.offset,
                timeout_s=self._options.timeout_s * (1 + self._attempts.get(_key_of(record), 0)),
                start_s=record.part_at,
            )

    def _take(self, result: DecodeResult) -> None:
        record, report = self._records.pop(result.key), self.report
        key = _key_of(record)
        if record.part_at is not None:  # the file was not hashed for each
            path = os.path.join(self._root, record.path)  # noqa: PTH118  as it is stored
            is_same = not os.path.exists(path) or is_unchanged(path, record.size_bytes, record.mtime_ns)  # noqa: PTH110
        else:
            is_same = result.content_hash in (None, record.content_hash)
        if not is_same:
            report.changed += 1  # the next index run sees it, and the next pass captions it
        elif result.skip is not None:
            status, reason = result.skip
            report.skipped.append(SkippedImage(record.place, status, reason))
            self._commits.skip(key, status, reason, self._attempts.get(key, 0))
        elif result.pixels is not None:
            self._waiting.append((key, result.pixels))

    def _caption(self) -> None:
        """Caption what was read."""
        if not self._waiting:
            return
        captions = self._captioner.captions(np.stack([pixels for _, pixels in self._waiting]))
        for (key, _), (text, score) in zip(self._waiting, captions, strict=True):
            lines = (Line(text, NO_BOX, score),) if text else ()
            self._commits.done.append(ReadPicture(key, lines, reason=self._encoder.name))
        self.report.captioned += len(captions)
        self._waiting = []


def _key_of(record: ImageRecord) -> str:
    """What the caption of a row is kept by: its content, and what of it is seen."""
    assert record.content_hash is not None
    return part_key(record.content_hash, record.view) if record.view else record.content_hash
