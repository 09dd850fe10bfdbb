"""A unit of work: some files, encoded into vectors and rows that are not numbered yet. Knows no index and no cluster.

`encode_fragment` has no side effect beside what it gives to `out`, and does the same each time it is called with the
same plan: whoever loses a worker calls it again elsewhere, and keeps one of the answers. What it leaves to the one
process that commits is what only that one can know: which contents are in the index, ids, and the order of commits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from clipsearch.encoder import Encoder
from clipsearch.encoder.pieces import encode_decoded, encode_with_regions
from clipsearch.errors import ClipsearchError
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.records import FloatArray
from clipsearch.temporary import process_folder


@dataclass(frozen=True, slots=True)
class FragmentPlan:
    """Some files, and what decides which vectors they get. `precision`: see `Encoder.in_precision`.

    `carried`: the bytes of tasks whose path is CARRIED, of which they are a part; see `carry`.
    """

    tasks: tuple[DecodeTask, ...]
    fingerprint: str
    precision: str | None = None
    views: int = 1
    batch_pictures: int | None = None  # None: as many as suit the encoder
    carried: bytes = b""
    regions: int = 0

    @property
    def name(self) -> str:
        """What to call its output: the same for the same plan, whoever makes it, and whenever."""
        digest = xxhash.xxh3_128(f"{self.fingerprint} {self.precision} {self.views} {self.regions}".encode())
        for task in self.tasks:
            told = dataclasses.replace(task, key=0, timeout_s=None)
            digest.update(f"\n{told!r}".encode("utf-8", "surrogatepass"))
        digest.update(self.carried)
        return digest.hexdigest()


CARRIED = ""


def carry(tasks: Sequence[DecodeTask], root: str) -> tuple[tuple[DecodeTask, ...], bytes]:
    """Tasks for another machine, with the bytes of what lies in temporary files of this one: pictures of tables, and of
    object storage. What cannot be read here stays as it is."""
    there: list[DecodeTask] = []
    parts: list[bytes] = []
    at = 0
    for task in tasks:
        if is_carried(task, root):
            # What cannot be read here is asked of the worker, whose answer says so.
            with contextlib.suppress(OSError), open(task.path, "rb") as file:
                file.seek(task.offset)
                parts.append(file.read(task.size_bytes))
                task = dataclasses.replace(task, path=CARRIED, offset=at)
                at += len(parts[-1])
        there.append(task)
    return tuple(there), b"".join(parts)


def is_carried(task: DecodeTask, root: str) -> bool:
    """Whether a task is of a part of a file that is not in the collection's folder."""
    return task.member is not None and not task.path.startswith(root.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a plan."""

    name: str
    files: int
    encoded: int  # files of which there are vectors
    precision: str | None  # in which they were made; None: not known
    seconds: float


Output = Callable[[str, list[DecodeResult]], None]
"""Takes what was made of a plan, once, and under its name: a result for each task, with vectors instead of pieces."""


class FragmentEncoder:
    """What a worker keeps between units: a loaded encoder, and processes that read pictures for it.

    Several threads may use it at once, so that pictures of one unit are read while those of another are encoded.
    """

    def __init__(self, encoder: Encoder, pool: DecodePool) -> None:
        self.encoder = encoder
        self._pool = pool
        self._lock = threading.Lock()  # of the encoder
        self._in_precision: dict[str | None, Encoder] = {}
        self._numbers = 0
        self._waiting: dict[int, tuple[queue.SimpleQueue[DecodeResult | ClipsearchError], int]] = {}
        self._numbering = threading.Lock()
        self._submitted = threading.Semaphore(0)
        threading.Thread(target=self._hand_out, daemon=True).start()

    def in_precision(self, precision: str | None) -> Encoder:
        """The encoder in an arithmetic, made once."""
        with self._lock:
            if precision not in self._in_precision:
                self._in_precision[precision] = self.encoder.in_precision(precision)
            return self._in_precision[precision]

    def encode(
        self, encoder: Encoder, pictures: Sequence[DecodeResult], *, views: int = 1, regions: int = 0
    ) -> list[FloatArray]:
        """The vector of each picture, and of its `regions`. Shapes: (1 + R, D) float32, unit L2."""
        pieces = [picture.pieces for picture in pictures if picture.pieces is not None]
        tiled = [picture.is_tiled for picture in pictures]
        with self._lock:
            if regions:
                return encode_with_regions(encoder, pieces, tiled, views=views)
            return list(encode_decoded(encoder, pieces, tiled)[:, None])

    def encode_frames(self, encoder: Encoder, frames: DecodeResult) -> FloatArray:
        """One vector for each frame of a part of a video; there may be none. Shape: (F, D) float32, unit L2."""
        if frames.pieces is None or not len(frames.pieces):
            return np.empty((0, encoder.dim), np.float32)
        with self._lock:
            return encoder.encode_images(frames.pieces)

    def read(self, tasks: Sequence[DecodeTask]) -> Iterator[DecodeResult]:
        """The results of `tasks` as they complete. Raises: ClipsearchError if no process can be started."""
        mine: queue.SimpleQueue[DecodeResult | ClipsearchError] = queue.SimpleQueue()
        for task in tasks:
            with self._numbering:
                self._numbers += 1
                number = self._numbers
                self._waiting[number] = mine, task.key
            self._pool.submit(dataclasses.replace(task, key=number))
            self._submitted.release()
        for _ in tasks:
            result = mine.get()
            if isinstance(result, ClipsearchError):
                raise result
            yield result

    def _hand_out(self) -> None:
        """Give results to the threads whose they are, for as long as the process lives."""
        while True:
            self._submitted.acquire()
            try:
                result = self._pool.next_result()
            except ClipsearchError as error:  # the pool is of no use any more
                with self._numbering:
                    waiting = list(self._waiting.values())
                for whose, _ in waiting:
                    whose.put(error)
                return
            if result is None:
                return  # closed
            with self._numbering:
                whose, key = self._waiting.pop(result.key)
            whose.put(dataclasses.replace(result, key=key))

    def close(self) -> None:
        """End the processes."""
        self._pool.close()
        self._submitted.release()


def encode_fragment(plan: FragmentPlan, encoder: FragmentEncoder, out: Output) -> Receipt:
    """Read and encode the files of a plan. Gives `out` all that was made, when all is done.

    Raises: ClipsearchError if pictures cannot be read or encoded here, whatever they are.
    """
    began = time.monotonic()
    tower = encoder.in_precision(plan.precision)
    done: list[DecodeResult] = []
    batch: list[DecodeResult] = []

    def encode() -> None:
        made = encoder.encode(tower, batch, views=plan.views, regions=plan.regions)
        for picture, vectors in zip(batch, made, strict=True):
            done.append(_encoded(picture, vectors, tower))
        batch.clear()

    for result in _read(plan, encoder):
        if result.pieces is None:
            done.append(result)
        elif result.video is not None:
            done.append(_encoded(result, encoder.encode_frames(tower, result), tower))
        else:
            batch.append(result)
            if len(batch) >= (plan.batch_pictures or tower.pictures_per_call):
                encode()
    if batch:
        encode()
    out(plan.name, done)
    encoded = sum(result.vectors is not None for result in done)
    return Receipt(plan.name, len(done), encoded, tower.image_precision, time.monotonic() - began)


def _read(plan: FragmentPlan, encoder: FragmentEncoder) -> Iterator[DecodeResult]:
    if not plan.carried:
        yield from encoder.read(plan.tasks)
        return
    with tempfile.NamedTemporaryFile(prefix="clipsearch-", dir=process_folder()) as file:
        file.write(plan.carried)
        file.flush()
        tasks = [dataclasses.replace(t, path=file.name) if t.path == CARRIED else t for t in plan.tasks]
        yield from encoder.read(tasks)


def _encoded(result: DecodeResult, vectors: FloatArray, tower: Encoder) -> DecodeResult:
    return dataclasses.replace(result, pieces=None, vectors=vectors, precision=tower.image_precision)


def packed(results: list[DecodeResult]) -> tuple[list[DecodeResult], list[int], FloatArray | None]:
    """Results for a journey: their vectors as one array, and how many each has. See `unpacked`."""
    made = [result.vectors for result in results if result.vectors is not None]
    counts = [-1 if result.vectors is None else len(result.vectors) for result in results]
    bare = [dataclasses.replace(result, vectors=None) for result in results]
    return bare, counts, np.concatenate(made) if made else None


def unpacked(bare: list[DecodeResult], counts: list[int], vectors: FloatArray | None) -> list[DecodeResult]:
    """What `packed` made, as it was."""
    results: list[DecodeResult] = []
    start = 0
    for result, count in zip(bare, counts, strict=True):
        if count < 0 or vectors is None:
            results.append(result)
            continue
        results.append(dataclasses.replace(result, vectors=np.array(vectors[start : start + count])))
        start += count
    return results
