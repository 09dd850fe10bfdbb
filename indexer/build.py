"""Bring an index up to date with its folder: scan, read what is new, encode, commit every few thousand.

The path of one picture: `scan` finds it, `changes` says it is new, the decode pool reads it (or only hashes
it, when its size says that it may be known), a batch of pixels becomes vectors, the row waits in `_pending`
until the next commit, and `segments` derives what is searched. What was committed survives everything.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from clipsearch.config import INDEX_DIR_NAME, index_dir_for
from clipsearch.encoder import Encoder
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.errors import EncoderMismatch, NoPictures, OtherCollection, StorageError
from clipsearch.formats import classify_name, extra_is_installed
from clipsearch.indexer.changes import Changes, compare
from clipsearch.indexer.compact import due_merge, merge_fragments, with_tombstones
from clipsearch.indexer.decoding import DecodePool, DecodeResult, DecodeTask
from clipsearch.indexer.retries import attempts_after, limit_for, should_retry
from clipsearch.indexer.scan import FoundFile, Scan, scan
from clipsearch.indexer.segments import add_segment
from clipsearch.indexer.tune import retuned
from clipsearch.records import (
    EmbeddingBatch,
    FloatArray,
    ImageRecord,
    Manifest,
    ModelRef,
    PictureMetadata,
    PixelArray,
    SkippedImage,
    SkipStatus,
)
from clipsearch.store import RunProgress, Snapshot, Writer, open_snapshot, read_records, read_tombstones, root_path
from clipsearch.vectors import open_segments

COMMIT_ROWS = 2048
FIRST_COMMIT_S = 2.0
COMMIT_S = 15.0
NOTE_EVERY_S = 0.5
BATCH_PICTURES = 32


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. `done` of `total` files are dealt with; of these, `encoded` were made into vectors."""

    stage: Literal["scan", "read", "commit", "merge", "check", "encode"]
    done: int = 0
    total: int = 0
    encoded: int = 0


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
    reindex: bool = False  # encode everything again, whatever the index holds
    recall: float | None = None  # recall@10 that inverted files are tuned for, 0..1; None: as before


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
    renamed: int = 0
    copied: int = 0  # same content as a picture that is still there: its vector was reused
    removed: int = 0
    pictures: int = 0  # searchable after the run
    partial: int = 0  # of those encoded, pictures of which only a part could be read
    skipped: list[SkippedImage] = field(default_factory=list)  # every file that is not, and why
    seconds: float = 0.0
    interrupted: bool = False
    asked_to_stop: bool = False  # also when everything was done by then

    @property
    def pictures_per_s(self) -> float:
        """Pictures encoded per second of the whole run."""
        return self.encoded / self.seconds if self.seconds else 0.0

    @property
    def skipped_by_status(self) -> dict[SkipStatus, int]:
        """How many files were skipped for each reason, the most frequent first."""
        return dict(Counter(skip.status for skip in self.skipped).most_common())


def index_folder(
    folder: Path,
    encoder: Encoder,
    *,
    index: Path | None = None,
    options: IndexOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> IndexReport:
    """Index `folder`, or bring its index up to date.

    Ctrl-C or SIGTERM commits what is done and returns with `interrupted` set.
    Raises: NoPictures, EncoderMismatch, OtherCollection, IndexLocked, OutOfSpace, CorruptIndex, StorageError.
    """
    options = options or IndexOptions()
    notify = progress or (lambda _: None)
    check_folder(folder)
    root = folder.absolute()
    index_dir = index_dir_for(root, index)
    started = time.monotonic()
    notify(Progress("scan"))
    found = scan(root, exclude=index_dir)
    if not found.files and not index_dir.exists():
        raise _nothing_in(root, found)
    with Writer(index_dir) as writer:
        run = _Run(writer, root, encoder, options, _Teller(writer, notify))
        run.open(found)
        report = run.report
        with _StopRequests() as stop:
            run.read(found, stop)
            if stop.requested:
                report.interrupted = True
                run.commit()
            else:
                run.finish()
        report.asked_to_stop = stop.requested
        run.close()
        report.seconds = time.monotonic() - started
        return report


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
            self._writer.note(RunProgress(progress.stage, progress.done, progress.total, progress.encoded, seconds))


class _StopRequests:
    """Ctrl-C and SIGTERM as a request to stop at the next safe point; a second one interrupts at once.

    Nothing is interrupted in the middle of a commit. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def check_folder(folder: Path) -> None:
    """Raise StorageError unless `folder` is a folder."""
    if not folder.is_dir():
        problem = "it is not a folder" if folder.exists() else "there is no such folder"
        raise StorageError(folder, problem, "Name the folder that holds the pictures.")


def _nothing_in(root: Path, found: Scan) -> NoPictures | StorageError:
    for unreadable in found.unreadable_folders:
        if unreadable.path == "":
            return StorageError(root, unreadable.reason, "Check its permissions and that its drive is there.")
    return NoPictures(root, len(found.files))


class _Run:
    """The state of one run of `index_folder`."""

    def __init__(
        self, writer: Writer, root: Path, encoder: Encoder, options: IndexOptions, notify: Callable[[Progress], None]
    ) -> None:
        self.writer = writer
        self.root = root
        self.encoder = encoder
        self.options = options
        self.notify = notify
        self.report = IndexReport(writer.index_dir, root)
        self.manifest = Manifest(
            generation=0,
            created_at="",
            root=".." if writer.index_dir.absolute() == root / INDEX_DIR_NAME else str(root),
            model=ModelRef(encoder.name, encoder.fingerprint, encoder.dim, float(encoder.score_scale)),
            next_row_id=0,
        )
        self.changes = Changes()
        self._old: dict[str, ImageRecord] = {}  # live rows of the index by path, as the run found them
        self._known: dict[str, list[ImageRecord]] = {}  # the same by content hash
        self._known_sizes: set[int] = set()
        self._stored: _StoredVectors | None = None
        self._pending: list[tuple[ImageRecord, FloatArray | None]] = []
        self._replaced: list[int] = []
        self._live: Counter[bool] = Counter()  # rows with a vector (True) and without one (False)
        self._batch: list[tuple[FoundFile, DecodeResult, PixelArray]] = []
        self._done = 0
        self._last_commit = time.monotonic()
        self._commit_after_s = min(FIRST_COMMIT_S, options.commit_s)

    def open(self, found: Scan) -> None:
        """Compare the folder with the index, if there is one."""
        current = self.writer.current()
        report = self.report
        report.found = len(found.files) + len(found.unreadable_files)
        if current is None:
            if not any(classify_name(_name(file.path)) is None for file in found.files):
                raise _nothing_in(self.root, found)
        elif not found.files and current.pictures:
            raise _nothing_in(self.root, found)  # rather an unplugged drive than 100,000 deletions
        records: list[ImageRecord] = []
        if current is not None:
            self._adopt(current)
            if not self.options.reindex:
                records = read_records(self.writer.index_dir, current)
                self._live.update(record.status == "ok" for record in records)
        self._old = {record.path: record for record in records}
        for record in records:
            if record.content_hash is not None and (record.status == "ok" or not self._retry(record)):
                self._known.setdefault(record.content_hash, []).append(record)
                self._known_sizes.add(record.size_bytes)
        self.changes = compare(records, found, retry=self._retry)
        report.unchanged = self.changes.unchanged
        report.skipped += [
            SkippedImage(r.path, r.status, r.reason or "") for r in self.changes.unchanged_skipped if r.status != "ok"
        ]
        report.skipped += found.unreadable_folders

    def _adopt(self, current: Manifest) -> None:
        index_dir = self.writer.index_dir
        old_root = root_path(index_dir, current.root)
        if old_root != self.root and old_root.exists() and not old_root.samefile(self.root):
            raise OtherCollection(index_dir, old_root, self.root)
        if current.model.fingerprint == self.encoder.fingerprint and not self.options.reindex:
            self.manifest = dataclasses.replace(current, root=self.manifest.root, model=self.manifest.model)
            self._stored = _StoredVectors(open_snapshot(index_dir))
        elif self.options.reindex:
            self.manifest = dataclasses.replace(
                self.manifest,
                generation=current.generation,
                next_row_id=current.next_row_id,
                recall_target=current.recall_target,
                tags=current.tags,  # they belong to contents, not to rows
                writer_features=current.writer_features,
            )
        else:
            raise EncoderMismatch(index_dir, current.model.name, self.encoder.name, str(self.root))

    def _retry(self, record: ImageRecord) -> bool:
        if self.options.retry_skipped or record.status == "unreadable":
            return True
        if should_retry(record):
            return True
        return record.status == "missing_extra" and extra_is_installed(_name(record.path))

    # -- reading and encoding

    def read(self, found: Scan, stop: _StopRequests) -> None:
        """Deal with every file that is new or different, until `stop` is requested."""
        for skipped in found.unreadable_files:
            self._skip(FoundFile(skipped.path, 0, 0, 0), skipped.status, skipped.reason, None)
        todo = deque(self.changes.to_read)
        files: dict[int, FoundFile] = {}  # what the pool has, by key
        keys = itertools.count()
        total = len(todo)
        self.notify(Progress("read", 0, total))
        if not todo:
            return
        options = self.options
        with DecodePool(
            self.encoder.preprocessing,
            workers=options.workers,
            timeout_s=options.timeout_s,
            max_pixels=options.max_pixels,
            pieces=True,
        ) as pool:
            while (todo or pool.pending) and not stop.requested:
                while todo and pool.pending < pool.capacity:
                    file = todo.popleft()
                    refusal = classify_name(_name(file.path))
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
                self.notify(Progress("read", self._done, total, self.report.encoded))
            self._encode_batch()
        self.notify(Progress("read", self._done, total, self.report.encoded))

    def _task(self, key: int, file: FoundFile, mode: Literal["decode", "hash"]) -> DecodeTask:
        limit_s = limit_for(self._same_as_before(file), self.options.timeout_s)
        return DecodeTask(key, os.path.join(self.root, file.path), mode, file.size_bytes, timeout_s=limit_s)

    def _mode(self, file: FoundFile) -> Literal["decode", "hash"]:
        """Hash first where the size says that the content may be known; decode at once where it cannot be."""
        return "hash" if file.size_bytes in self._known_sizes else "decode"

    def _take(self, file: FoundFile, result: DecodeResult) -> DecodeTask | None:
        """Use one result of the pool; the task that must follow, if any."""
        if result.skip is not None:
            self._skip(file, *result.skip, result.content_hash)
        elif known := self._known.get(result.content_hash or ""):
            self._reuse(file, self._source(file, known))
        elif result.pieces is None:
            return self._task(result.key, file, "decode")
        else:
            self._batch.append((file, result, result.pieces))
            if len(self._batch) >= self._batch_pictures():
                self._encode_batch()
        return None

    def _batch_pictures(self) -> int:
        """What was asked for, else what keeps the encoder busy, which it may learn from its first batch."""
        return self.options.batch_pictures or int(getattr(self.encoder, "pictures_per_call", BATCH_PICTURES))

    def _source(self, file: FoundFile, known: list[ImageRecord]) -> ImageRecord:
        """Of the rows with the content of `file`, the one it most likely was: itself, one that vanished, or any."""
        for record in known:
            if record.path == file.path:
                return record
        return next((record for record in known if record.path in self.changes.vanished), known[0])

    def _encode_batch(self) -> None:
        if not self._batch:
            return
        vectors = encode_decoded(self.encoder, [pieces for _, _, pieces in self._batch])
        for (file, result, _), vector in zip(self._batch, vectors, strict=True):
            record = _record(file, result.content_hash, result.width, result.height, result.metadata)
            self._add(dataclasses.replace(record, partial=result.partial), vector)
            self.report.encoded += 1
            self.report.partial += result.partial is not None
        self._batch.clear()

    def _reuse(self, file: FoundFile, known: ImageRecord) -> None:
        """The content is in the index already: a rename, a copy, or the same file with a new time or inode."""
        vector = None
        if known.status == "ok":
            assert self._stored is not None
            vector = self._stored.vector(known.row_id)
        record = dataclasses.replace(
            known, path=file.path, size_bytes=file.size_bytes, mtime_ns=file.mtime_ns, inode=file.inode
        )
        self._add(record, vector)
        if known.status != "ok":
            self.report.skipped.append(SkippedImage(file.path, known.status, known.reason or ""))
        if known.path == file.path:
            self.report.touched += 1
        elif (vanished := self.changes.vanished.pop(known.path, None)) is not None:
            self._drop(vanished)
            self.report.renamed += 1
        else:
            self.report.copied += 1

    def _skip(self, file: FoundFile, status: SkipStatus, reason: str, content_hash: str | None) -> None:
        record = _record(file, content_hash, None, None, PictureMetadata())
        attempts = attempts_after(self._same_as_before(file), status, reason)
        self._add(dataclasses.replace(record, status=status, reason=reason, attempts=attempts), None)
        self.report.skipped.append(SkippedImage(file.path, status, reason))

    def _same_as_before(self, file: FoundFile) -> ImageRecord | None:
        """The row that the file has, if it did not change since."""
        old = self._old.get(file.path)
        if old is None or (old.size_bytes, old.mtime_ns) != (file.size_bytes, file.mtime_ns):
            return None
        return old

    def _add(self, record: ImageRecord, vector: FloatArray | None) -> None:
        """Let `record` take the place of the row that its path has, if any. Its row id is given at the commit."""
        old = self._old.pop(record.path, None)
        if old is not None:
            self._drop(old)
        self._pending.append((record, vector))
        self._live[vector is not None] += 1

    def _drop(self, record: ImageRecord) -> None:
        self._replaced.append(record.row_id)
        self._live[record.status == "ok"] -= 1

    # -- committing

    def _maybe_commit(self) -> None:
        waited = time.monotonic() - self._last_commit
        if len(self._pending) >= self.options.commit_rows or (self._pending and waited >= self._commit_after_s):
            self.commit()
            self._commit_after_s = min(self._commit_after_s * 2, self.options.commit_s)

    def commit(self) -> None:
        """Make what is pending part of the index, in one step."""
        manifest = self.manifest
        if self._pending or self._replaced or manifest.generation == 0:
            self.notify(Progress("commit", self._done, len(self.changes.to_read), self.report.encoded))
            if self._pending:
                batch = self._numbered(manifest.next_row_id)
                fragment = self.writer.add_fragment([batch], manifest.model)
                fragment = add_segment(self.writer, fragment, manifest.model.dim, lambda: [batch])
                manifest = dataclasses.replace(
                    manifest,
                    fragments=(*manifest.fragments, fragment),
                    next_row_id=manifest.next_row_id + len(batch.records),
                )
            if self._replaced:
                dead = np.union1d(read_tombstones(self.writer.index_dir, manifest), np.array(self._replaced, np.int64))
                manifest = with_tombstones(self.writer, manifest, dead)
            self.manifest = self.writer.commit(
                dataclasses.replace(manifest, pictures=self._live[True], skipped=self._live[False])
            )
            self._pending.clear()
            self._replaced.clear()
            self._merge()
        self._last_commit = time.monotonic()
        self.report.generation = self.manifest.generation
        self.report.pictures = self.manifest.pictures

    def _numbered(self, first_row_id: int) -> EmbeddingBatch:
        records = [dataclasses.replace(record, row_id=first_row_id + n) for n, (record, _) in enumerate(self._pending)]
        vectors = [vector for _, vector in self._pending if vector is not None]
        stacked = np.stack(vectors) if vectors else np.empty((0, self.manifest.model.dim), np.float32)
        return EmbeddingBatch(records, stacked)

    def _merge(self) -> None:
        start = due_merge(self.manifest.fragments)
        if start is not None:
            self.notify(Progress("merge", self._done, len(self.changes.to_read), self.report.encoded))
            merged = merge_fragments(self.writer, self.manifest, start, len(self.manifest.fragments))
            self.manifest = self.writer.commit(merged)

    def finish(self) -> None:
        """Commit the rest, and forget what is no longer there."""
        for record in self.changes.vanished.values():
            self._drop(record)
            self.report.removed += 1
        self.commit()
        recall = self.options.recall
        if recall is not None and recall != self.manifest.recall_target:
            self.manifest = self.writer.commit(retuned(self.writer.index_dir, self.manifest, recall))
            self.report.generation = self.manifest.generation

    def close(self) -> None:
        """Let go of the generation that the run started from, and of what only it needed."""
        if self._stored is not None:
            self._stored.close()
            self.writer.collect()


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _record(
    file: FoundFile, content_hash: str | None, width: int | None, height: int | None, metadata: PictureMetadata
) -> ImageRecord:
    return ImageRecord(
        row_id=-1,
        path=file.path,
        size_bytes=file.size_bytes,
        mtime_ns=file.mtime_ns,
        inode=file.inode,
        content_hash=content_hash,
        width=width,
        height=height,
        metadata=metadata,
    )


class _StoredVectors:
    """Vectors of the generation that a run started from, by row id. Keeps that generation from being collected."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._segments = open_segments(snapshot.manifest, snapshot.file, snapshot.tombstones())

    def vector(self, row_id: int) -> FloatArray:
        """Shape: (D,) float32."""
        for segment in self._segments:
            vector = segment.find(row_id)
            if vector is not None:
                return vector
        raise AssertionError(f"row {row_id} has no vector")

    def close(self) -> None:
        self._snapshot.close()
