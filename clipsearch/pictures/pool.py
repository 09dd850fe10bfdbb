"""Decode pictures ahead, in worker processes: a picture that hangs or kills its decoder costs only itself.

The workers are plain subprocesses (`worker`), so they need no `if __name__ == "__main__"` in the
caller's script and no fork. Pixels come back through shared memory, the rest as small messages.

One thread for each worker keeps two tasks in its pipe, so that it never waits for the caller; results pile up
to `capacity` while the caller encodes. One more thread ends workers that are over their time. If a worker dies, its
picture and the one before it are decoded again, each alone in a new process.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

import numpy as np

from clipsearch.cores import available_cores, usable_memory
from clipsearch.errors import ClipsearchError
from clipsearch.pictures.appearance import NOT_SEEN, Appearance
from clipsearch.pictures.subtitles import cue
from clipsearch.pictures.worker import nameless_file, receive, send, share_memory
from clipsearch.query.crops import Crop
from clipsearch.records import (
    MOST_PIECES,
    OUT_OF_MEMORY,
    SKIP_STATUSES,
    FloatArray,
    Line,
    PictureMetadata,
    PixelArray,
    Preprocessing,
    SkipStatus,
)

_DEPTH = 2  # tasks in a worker's pipe: one being decoded, one waiting
_START_TIMEOUT_S = 60.0
_START_ATTEMPTS = 3
_TICK_S = 0.1
_SLOWEST_READ_BYTES_PER_S = 1_000_000  # of a network drive that is slow but alive
_MEMORY_LIMIT_BYTES = 4 * 2**30
_LEAST_MEMORY_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """A file to be hashed, or hashed and decoded; or only its metadata to be read ("describe"); or hashed, and its
    words read ("words"): its longer side at most `longest` pixels, and, where `gated`, only if there seem to be any,
    or of a document those of the page `start_s`; or hashed, and decoded as a whole, its longer side at most `longest`
    ("look"); or the subtitles inside a video read, and it is hashed if it has any ("subtitles").

    `key` is the caller's; `size_bytes` allows large files more time. `member`: instead of the whole file, `size_bytes`
    of it at `offset`, which are a picture file of that name. `crop`: decode this part of the picture.
    """

    key: int
    path: str
    mode: Literal["decode", "hash", "describe", "words", "look", "subtitles"] = "decode"
    size_bytes: int = 0
    member: str | None = None
    offset: int = 0
    timeout_s: float | None = None  # for decoding it; None: the pool's
    longest: int = 0
    gated: bool = False
    text_only: bool = False  # of the page of a document, read the text layer alone
    crop: Crop | None = None
    frames: bool = False  # of an animated picture, some of its frames, as of a video; else it is its first
    start_s: float | None = None  # of a video: after which moment, and nothing is hashed; None: from the beginning.
    # Of a document, after which page; where one place in it is asked for, which page
    most: int | None = None  # frames or pages of a part; None: as many as there is room for
    alone: bool = False  # of a video, document or model: one picture, of its beginning or of `start_s`


@dataclass(frozen=True, slots=True)
class VideoPart:
    """Some frames of a video: when they are shown, in seconds from its beginning, and what their pixels say. Or some
    pages of a document: for times, their numbers from 1; for the duration, how many it has."""

    times_s: tuple[float, ...]
    looks: tuple[Appearance, ...]
    next_s: float | None  # `start_s` of the task that reads on; None at the end
    duration_s: float | None
    sizes: tuple[tuple[int, int], ...] | None = None  # of each page (width, height); None: it is a video

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> VideoPart:
        """What a worker tells. Raises: KeyError, TypeError, ValueError."""
        next_s, duration_s = body["next_s"], body["duration_s"]
        times_s = tuple(float(time_s) for time_s in body["times_s"])
        if not all(0 <= time_s < math.inf for time_s in (*times_s, next_s or 0.0, duration_s or 0.0)):
            raise ValueError("no times")
        sizes = None
        if "sizes" in body:
            sizes = tuple((int(width), int(height)) for width, height in body["sizes"])
            if len(sizes) != len(times_s) or not all(min(size) > 0 for size in sizes):
                raise ValueError("no sizes")
        return cls(
            times_s,
            tuple(Appearance.from_dict(look) for look in body["looks"]),
            None if next_s is None else float(next_s),
            None if duration_s is None else float(duration_s),
            sizes,
        )


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What became of a task. Shapes: pieces (K, H, W, 3) uint8, the caller's to keep; None unless it was decoded.

    There is one piece, the whole picture, unless the pool was asked for more and the picture is long. Of a video
    (`video`), the pieces are frames; there may be none in a part that is not the first. In mode look, the one piece
    has the shape of the picture, which is of `width` and `height` itself.

    `content_hash` is there whenever the bytes could be read, also for a picture that was skipped after that; not in
    mode describe.
    """

    key: int
    content_hash: str | None = None
    width: int | None = None
    height: int | None = None
    metadata: PictureMetadata = field(default_factory=PictureMetadata)
    pieces: PixelArray | None = None
    skip: tuple[SkipStatus, str] | None = None
    partial: str | None = None  # what is missing of the picture, in words
    beside_unread: bool = False  # a file beside it that may say more could not be read
    appearance: Appearance = NOT_SEEN
    lines: tuple[Line, ...] | None = None  # in mode words, in pixels of a picture of width and height; None: not read
    # (in mode subtitles: what is said; None: there are none)
    video: VideoPart | None = None
    is_tiled: bool = False  # whether the pieces are the whole picture and its tiles
    vectors: FloatArray | None = None  # instead of pieces, from a worker that has encoded them: see `indexer.units`
    precision: str | None = None  # the arithmetic that made these

    @property
    def is_decoded(self) -> bool:
        """Whether its pixels, or vectors made of them, are there."""
        return self.pieces is not None or self.vectors is not None

    @property
    def pixels(self) -> PixelArray | None:
        """The first piece. Shape: (H, W, 3)."""
        return None if self.pieces is None else self.pieces[0]


class Feedable(Protocol):
    """What takes tasks and gives results: see `DecodePool`."""

    @property
    def capacity(self) -> int: ...

    @property
    def pending(self) -> int: ...

    def submit(self, task: DecodeTask) -> None: ...

    def next_result(self) -> DecodeResult | None: ...


def results_of(pool: Feedable, tasks: Iterable[DecodeTask]) -> Iterator[DecodeResult]:
    """Yield the results of tasks, of which no more are taken than a pool has room for, until none is pending."""
    remaining = iter(tasks)
    exhausted = False
    while True:
        while not exhausted and pool.pending < pool.capacity:
            task = next(remaining, None)
            if task is None:
                exhausted = True
            else:
                pool.submit(task)
        if not pool.pending:
            return
        result = pool.next_result()
        if result is not None:
            yield result


class DecodePool:
    """Worker processes that hash and decode picture files, in no particular order.

    Either iterate over `run(tasks)`, submitting follow-up tasks on the way:

        with DecodePool(encoder.preprocessing) as pool:
            for result in pool.run(tasks):
                if is_new(result.content_hash):
                    pool.submit(DecodeTask(result.key, path, "decode"))

    or pair `submit` with `next_result`. Processes start when there is work for them. One thread takes results; others
    may submit.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        workers: int | None = None,
        capacity: int | None = None,
        timeout_s: float = 10.0,
        max_pixels: int | None = None,
        memory_limit_bytes: int | None = None,
        command: list[str] | None = None,
        pieces: bool = False,
        views: int = 1,
        single_use: bool = False,
    ) -> None:
        """Make a pool of `workers` processes (default: one for each core, at most 8) that are at most
        `capacity` results ahead of the caller.

        `timeout_s` limits the decoding of one picture; reading it has the same again, and a second more for each
        megabyte. `memory_limit_bytes` limits one process (default: 4 GiB, or half of what the machine has or the
        container may use, if that is less). `command` replaces the worker program, for tests. `pieces`: long pictures
        come in several (`images.piece_boxes`). `views`: others in so many (`images.view_boxes`). `single_use`: a
        process decodes one picture and is replaced, for pictures of strangers.
        """
        self.workers = count = workers or min(8, available_cores())
        self.capacity = capacity or max(128, 16 * count)
        """How many tasks `run` keeps between submitted and returned."""
        self.pending = 0
        """How many tasks were submitted whose results were not returned yet."""
        self._counting = threading.Lock()
        self._shared = _Shared(
            preprocessing,
            workers=count,
            timeout_s=timeout_s,
            max_pixels=max_pixels,
            limit_bytes=memory_limit_bytes or _memory_limit(),
            command=command,
            most_pieces=MOST_PIECES if pieces else views,
            pieces=pieces,
            views=views,
            depth=1 if single_use else _DEPTH,
            single_use=single_use,
        )
        self._workers = [_Worker(self._shared, index) for index in range(count)]
        watchdog = threading.Thread(target=_watch, args=(self._shared, self._workers), daemon=True)
        threads = [watchdog, *(threading.Thread(target=w.serve, daemon=True) for w in self._workers)]
        for thread in threads:
            thread.start()
        # Also at exit, and when the pool is forgotten: no thread holds the pool itself.
        self._finalizer = weakref.finalize(self, _shut_down, self._shared, self._workers, threads)

    def submit(self, task: DecodeTask) -> None:
        """Queue a task; never blocks."""
        if self._shared.closed.is_set():
            raise ValueError("the pool is closed")
        with self._counting:
            self.pending += 1
        self._shared.put(task)

    def next_result(self, timeout_s: float | None = None) -> DecodeResult | None:
        """Wait for a result; None if nothing is pending, or nothing came within `timeout_s`.

        Raises: ClipsearchError if worker processes cannot be started.
        """
        if self.pending == 0:
            return None
        try:
            result = self._shared.results.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(result, ClipsearchError):
            self.close()
            raise result
        with self._counting:
            self.pending -= 1
        return result

    def run(self, tasks: Iterable[DecodeTask]) -> Iterator[DecodeResult]:
        """Yield the results of `tasks`, and of tasks submitted meanwhile, as they complete.

        Takes from `tasks` only while fewer than `capacity` are pending.
        """
        return results_of(self, tasks)

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are running."""
        processes = [worker.process for worker in self._workers]
        return [process.pid for process in processes if process is not None and process.poll() is None]

    def close(self) -> None:
        """End the workers; what is pending is lost."""
        self.pending = 0
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shared:
    """What the threads of a pool have in common."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        workers: int,
        timeout_s: float,
        max_pixels: int | None,
        limit_bytes: int,
        command: list[str] | None,
        most_pieces: int,
        pieces: bool,
        views: int,
        depth: int,
        single_use: bool,
    ) -> None:
        self.timeout_s = timeout_s
        self.depth = depth
        self.single_use = single_use
        self.shape = (most_pieces, preprocessing.height, preprocessing.width, 3)
        memory_bytes = workers * depth * math.prod(self.shape)
        self.memory, self.handle = share_memory(memory_bytes)
        self.slots = np.frombuffer(self.memory, np.uint8).reshape(-1, *self.shape)
        settings = {
            "preprocessing": asdict(preprocessing),
            "max_pixels": max_pixels,
            "memory": self.handle,
            "memory_bytes": memory_bytes,
            "most_pieces": most_pieces,
            "pieces": pieces,
            "views": views,
            "limit_bytes": limit_bytes,
        }
        # -P: the current folder, which may be a folder of anything, is not a place to import from.
        program = command or [sys.executable, "-P", "-m", "clipsearch.pictures.worker"]
        self.command = [*program, json.dumps(settings)]
        self.stderr = os.fdopen(nameless_file("clipsearch-words"), "w+b")  # of workers that are starting
        self.results: queue.SimpleQueue[DecodeResult | ClipsearchError] = queue.SimpleQueue()
        self.closed = threading.Event()
        self._backlog: deque[DecodeTask] = deque()
        self._changed = threading.Condition()

    def put(self, task: DecodeTask) -> None:
        with self._changed:
            self._backlog.append(task)
            self._changed.notify()

    def take(self, *, wait: bool) -> DecodeTask | None:
        """Return the oldest task; None if there is none (and wait is off) or the pool was closed."""
        with self._changed:
            while wait and not self._backlog and not self.closed.is_set():
                self._changed.wait()
            return self._backlog.popleft() if self._backlog and not self.closed.is_set() else None

    def close(self) -> None:
        with self._changed:
            self.closed.set()
            self._changed.notify_all()


class _Worker:
    """One process, replaced whenever it dies, and the tasks that it has. Its thread runs `serve`.

    A process that dies does not say which picture killed it: a decoder that wrote where it should not harms the next
    picture as often as its own. So a result is held back until the picture after it is decoded as well; when the
    process dies, both are decoded again, each alone in a new process, and only one that kills that, too, is to blame.
    """

    def __init__(self, shared: _Shared, index: int) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.shared = shared
        self.first_slot = index * shared.depth
        self.tasks: deque[DecodeTask] = deque()  # sent to the process, in its order of work
        self.again: deque[DecodeTask] = deque()  # were behind one that killed it
        self.held: tuple[DecodeTask, DecodeResult] | None = None
        self.suspects: deque[DecodeTask] = deque()
        self.alone = False  # the task is a suspect
        self.sent = 0
        self.lock = threading.Lock()  # of the next two, which the watchdog uses as well
        self.deadline = math.inf
        self.overdue = False  # ended by the watchdog

    def serve(self) -> None:
        """Work until the pool is closed."""
        try:
            self._serve()
        except Exception as error:  # the caller waits for results: tell it
            self.shared.results.put(ClipsearchError(f"the picture decoder failed: {error}"))

    def _serve(self) -> None:
        while not self.shared.closed.is_set():
            if self.suspects and not self.tasks:
                self.alone = True
                if not self._start():
                    return
                self._send(self.suspects.popleft())
            while len(self.tasks) < self.shared.depth and not self.alone:
                idle = not self.tasks and self.held is None
                task = self.again.popleft() if self.again else self.shared.take(wait=idle)
                if task is None:
                    break
                if not self._running() and not self._start():
                    return
                self._send(task)
            if self.tasks:
                self._receive()
            else:
                self._release()

    def _release(self) -> None:
        """Hand the result out that was held back."""
        if self.held is not None:
            self.shared.results.put(self.held[1])
            self.held = None

    def _running(self) -> bool:
        # A process that died with nothing to do was ended from outside, and no picture is to blame.
        return self.process is not None and (bool(self.tasks) or self.process.poll() is None)

    def _start(self) -> bool:
        """Start a process; False if that cannot be done, which ends the run."""
        for _ in range(_START_ATTEMPTS):
            self.end_process()
            with self.lock:
                if self.shared.closed.is_set():
                    return False
                self.process = subprocess.Popen(
                    self.shared.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.shared.stderr,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                    start_new_session=True,  # without the terminal's Ctrl-C
                    pass_fds=(self.shared.handle,),
                )
            self._set_deadline(_START_TIMEOUT_S)
            if receive(self._pipe("stdout")) is not None:
                self._set_deadline(None)
                return True
        if not self.shared.closed.is_set():
            self.shared.stderr.seek(0)
            said = self.shared.stderr.read().decode("utf-8", "replace").strip().splitlines()
            problem = said[-1] if said else "it ended without a message"
            self.shared.results.put(ClipsearchError(f"the picture decoder cannot be started: {problem}"))
        return False

    def _pipe(self, name: Literal["stdin", "stdout"]) -> IO[bytes]:
        assert self.process is not None
        pipe = self.process.stdin if name == "stdin" else self.process.stdout
        assert pipe is not None
        return pipe

    def _send(self, task: DecodeTask) -> None:
        slot = self.first_slot + self.sent % self.shared.depth
        self.sent += 1
        self.tasks.append(task)
        if len(self.tasks) == 1:
            self._start_clock()
        # Should this process die, nobody ends a decoder that hangs: it then ends itself.
        alarm_s = 2 * (self._read_limit_s(task) + self._limit_s(task)) + 10
        message = {"path": task.path, "mode": task.mode, "slot": slot, "alarm_s": math.ceil(alarm_s)}
        if task.mode in ("words", "look"):
            message |= {"longest": task.longest, "gated": task.gated, "text_only": task.text_only}
        if task.member is not None:
            message |= {"member": task.member, "offset": task.offset, "size_bytes": task.size_bytes}
        if task.frames:
            message["frames"] = True
        if task.start_s is not None:
            message["start_s"] = task.start_s
        if task.most is not None:
            message["most"] = task.most
        if task.alone:
            message["alone"] = True
        if task.crop is not None:
            message["crop"] = str(task.crop)
        # A process that died still has its last answers in the pipe; after them comes the end of its stdout.
        with suppress(OSError):
            send(self._pipe("stdin"), message)

    def _receive(self) -> None:
        """Handle one message, or the end of the process."""
        message = receive(self._pipe("stdout"))
        if message is not None and "read" in message:
            self._set_deadline(self._limit_s(self.tasks[0]))
            return
        slot = self.first_slot + (self.sent - len(self.tasks)) % self.shared.depth
        try:
            result = None if message is None else self._result(self.tasks[0], message, slot)
        except (KeyError, TypeError, ValueError):
            result = None  # not what a worker in its right mind says
        if result is None:
            self._bury()
            return
        task = self.tasks.popleft()
        if self.alone or self.shared.single_use:
            self.alone = False
            self.shared.results.put(result)
            self.end_process()
            if self.shared.single_use:
                self._start()  # for the next one, while there is time
            return
        self._release()
        if result.skip == ("too_large", OUT_OF_MEMORY):  # perhaps what pictures before it have left behind
            self.suspects.append(task)
            self.end_process()
            self._do_again()
            return
        self.held = (task, result)
        if not self._start_clock():
            # The watchdog ended the process at the very moment of its answer: no other picture is to blame.
            self.end_process()
            self._do_again()

    def _result(self, task: DecodeTask, message: dict[str, Any], slot: int) -> DecodeResult:
        if "skip" in message:
            status, reason = message["skip"]
            if status not in SKIP_STATUSES:
                raise ValueError(status)
            return DecodeResult(task.key, message.get("hash"), skip=(status, reason))
        if task.mode == "hash":
            return DecodeResult(task.key, message["hash"])
        if task.mode == "words":
            told = message["lines"]
            lines = None if told is None else tuple(map(Line.from_dict, told))
            content = message.get("hash") if task.start_s is not None else message["hash"]
            return DecodeResult(task.key, content, int(message["width"]), int(message["height"]), lines=lines)
        if task.mode == "subtitles":
            cues = message.get("cues")
            said = None if cues is None else tuple(cue(str(text), _moment(start_s)) for start_s, text in cues)
            return DecodeResult(task.key, message["hash"] if said is not None else None, lines=said)
        if task.mode == "look":
            shape = (1, int(message["rows"]), int(message["columns"]), 3)
            flat = self.shared.slots[slot].reshape(-1)
            if min(shape) < 1 or math.prod(shape) > len(flat):
                raise ValueError("no picture")
            pixels = flat[: math.prod(shape)].reshape(shape).copy()
            content = message.get("hash") if task.start_s is not None else message["hash"]
            return DecodeResult(task.key, content, int(message["width"]), int(message["height"]), pieces=pixels)
        if task.mode == "describe":
            return DecodeResult(task.key, metadata=PictureMetadata.from_dict(message["metadata"]))
        video = None if "video" not in message else VideoPart.from_dict(message["video"])
        pieces = min(max(video is None, int(message.get("pieces", 1))), self.shared.shape[0])
        if video is not None and not len(video.times_s) == len(video.looks) == pieces:
            raise ValueError("not a frame for each time")
        return DecodeResult(
            task.key,
            message.get("hash") if task.start_s is not None else message["hash"],
            message["width"],
            message["height"],
            PictureMetadata.from_dict(message.get("metadata", {})),
            self.shared.slots[slot, :pieces].copy(),
            partial=None if message.get("partial") is None else str(message["partial"]),
            beside_unread=bool(message.get("beside_unread")),
            appearance=Appearance.from_dict(message.get("appearance", {})),
            video=video,
            is_tiled=bool(message.get("tiled")),
        )

    def _start_clock(self) -> bool:
        """Give the first task its time; False if the process was just ended for the task before."""
        if not self.tasks:
            return self._set_deadline(None)
        return self._set_deadline(self._read_limit_s(self.tasks[0]))

    def _limit_s(self, task: DecodeTask) -> float:
        return self.shared.timeout_s if task.timeout_s is None else task.timeout_s

    def _read_limit_s(self, task: DecodeTask) -> float:
        return self._limit_s(task) + task.size_bytes / _SLOWEST_READ_BYTES_PER_S

    def _set_deadline(self, limit_s: float | None) -> bool:
        with self.lock:
            self.deadline = math.inf if limit_s is None else time.monotonic() + limit_s
            return not self.overdue

    def _bury(self) -> None:
        """The process died: see the class. What it had not begun is done again by the next one."""
        overdue = self.overdue
        status = self.end_process()
        if self.shared.closed.is_set():
            return
        culprit = self.tasks.popleft()
        self._do_again()
        was_alone, self.alone = self.alone, False
        if overdue:
            self._release()
            limit_s = self._limit_s(culprit)
            self.shared.results.put(DecodeResult(culprit.key, skip=("timeout", f"took longer than {limit_s:g} s")))
        elif was_alone:
            reason = f"the process that decoded it {_describe_exit(status)}"
            self.shared.results.put(DecodeResult(culprit.key, skip=("decoder_crashed", reason)))
        else:
            if self.held is not None:
                self.suspects.append(self.held[0])
                self.held = None
            self.suspects.append(culprit)

    def _do_again(self) -> None:
        """Keep the tasks of a process that is gone for the next one, before all others."""
        self.again.extend(self.tasks)
        self.tasks.clear()

    def end_process(self) -> int | None:
        """End the process if it runs, and leave nothing of it. Returns its exit status."""
        if self.process is None:
            return None
        self.process.kill()
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what could not be flushed to a dead process
                if pipe is not None:
                    pipe.close()
        with self.lock:
            self.process, self.deadline, self.overdue = None, math.inf, False
        return status


def _watch(shared: _Shared, workers: list[_Worker]) -> None:
    """End every worker that is over its time. Time in which this process itself was stopped does not count."""
    before = time.monotonic()
    while not shared.closed.wait(_TICK_S):
        now = time.monotonic()
        stopped_s, before = now - before - _TICK_S, now
        for worker in workers:
            with worker.lock:
                if stopped_s > 1.0:
                    worker.deadline += stopped_s
                elif now > worker.deadline and worker.process is not None:
                    worker.deadline, worker.overdue = math.inf, True
                    worker.process.kill()


def _shut_down(shared: _Shared, workers: list[_Worker], threads: list[threading.Thread]) -> None:
    shared.close()
    for worker in workers:
        with worker.lock:
            if worker.process is not None:
                worker.process.kill()  # which ends its thread's wait
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()
    for worker in workers:
        worker.end_process()
    shared.stderr.close()
    os.close(shared.handle)
    del shared.slots, shared.memory


def _moment(told: Any) -> float:
    """A time in a video. Raises: TypeError, ValueError."""
    time_s = float(told)
    if not 0 <= time_s < math.inf:
        raise ValueError("no time")
    return time_s


def _memory_limit() -> int:
    usable = usable_memory()
    least = min(_LEAST_MEMORY_BYTES, usable * 3 // 4)
    return max(least, min(_MEMORY_LIMIT_BYTES, usable // 2))


def _describe_exit(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
