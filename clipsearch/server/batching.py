"""Requests that come together share one encoder call; one that comes alone waits for nobody."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from clipsearch.encoder import CaptionWriter, Encoder, PlacesTower
from clipsearch.records import FloatArray, PixelArray, Preprocessing

TEXTS_REMEMBERED = 4096
TEXTS_AT_ONCE = 64
PICTURES_AT_ONCE = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Job(Generic[Item, Result]):
    """What one caller wants done."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.results: list[Result] = []
        self.error: Exception | None = None
        self.done = False


class Batches(Generic[Item, Result]):
    """Run `work` for many callers at once: whoever gets the turn does what has been waiting until then.

    There is no timer: alone, a caller runs at once; while a batch runs, the next one collects.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        most_items: int,
        observe: Callable[[int], None] = lambda items: None,
    ) -> None:
        """`work` returns one result for each item; it is never run twice at once. `observe` is told batch sizes."""
        self._work = work
        self._most_items = most_items
        self._observe = observe
        self._changed = threading.Condition()
        self._busy = False
        self._waiting: list[_Job[Item, Result]] = []

    def run(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of `items`. Raises: what `work` raises for them."""
        job: _Job[Item, Result] = _Job(items)
        with self._changed:
            self._waiting.append(job)
        while not job.done:
            self._take_turn(job)
        if job.error is not None:
            raise job.error
        return job.results

    def _take_turn(self, mine: _Job[Item, Result]) -> None:
        """Wait for others to do `mine`, or do what is waiting."""
        with self._changed:
            while self._busy and not mine.done:
                self._changed.wait()
            if mine.done:
                return
            self._busy = True
            jobs = self._take()
        try:
            self._run(jobs)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _take(self) -> list[_Job[Item, Result]]:
        """The jobs that have waited longest, as many as fit together, but at least one."""
        count, items = 1, len(self._waiting[0].items)
        for job in self._waiting[1:]:
            items += len(job.items)
            if items > self._most_items:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _run(self, jobs: list[_Job[Item, Result]]) -> None:
        try:
            items = [item for job in jobs for item in job.items]
            self._observe(len(items))
            results = self._work(items)
        except Exception as error:
            if len(jobs) > 1:  # only the one that cannot be done shall fail
                for job in jobs:
                    self._run([job])
                return
            jobs[0].error = error
        else:
            start = 0
            for job in jobs:
                job.results = list(results[start : start + len(job.items)])
                start += len(job.items)
        for job in jobs:
            job.done = True


class BatchingEncoder:
    """An encoder for many threads: calls that come together are one call, and texts seen lately are not encoded again.

    Implements `clipsearch.encoder.Encoder`. Vectors differ from those of single calls by rounding only (3e-8).
    """

    def __init__(self, encoder: Encoder, *, observe: Callable[[str, int], None] = lambda kind, items: None) -> None:
        """`observe` is told the kind ("text", "picture") and size of every batch."""
        self.encoder = encoder
        self._observe = observe
        self._texts: Batches[str, FloatArray] = Batches(
            lambda texts: list(encoder.encode_texts(texts)), TEXTS_AT_ONCE, lambda items: observe("text", items)
        )
        self._pictures = self._picture_batches(encoder)
        self._known: OrderedDict[str, FloatArray] = OrderedDict()
        self._others: dict[str | None, BatchingEncoder] = {}  # of other arithmetics
        self._lock = threading.Lock()

    def _picture_batches(self, encoder: Encoder) -> Batches[PixelArray, FloatArray]:
        return Batches(
            lambda pictures: list(encoder.encode_images(np.stack(pictures))),
            PICTURES_AT_ONCE,
            lambda items: self._observe("picture", items),
        )

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    @property
    def score_scale(self) -> float:
        return self.encoder.score_scale

    @property
    def preprocessing(self) -> Preprocessing:
        return self.encoder.preprocessing

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Shapes: pixels (B, H, W, 3) uint8; result (B, D) float32, unit L2."""
        return self._stacked(self._pictures.run(list(pixels)))

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Shape of the result: (B, D) float32, unit L2."""
        with self._lock:
            vectors = {text: self._known[text] for text in texts if text in self._known}
            for text in vectors:
                self._known.move_to_end(text)
        new = [text for text in dict.fromkeys(texts) if text not in vectors]
        if new:
            vectors.update(zip(new, self._texts.run(new), strict=True))
            with self._lock:
                self._known.update((text, vectors[text]) for text in new)
                while len(self._known) > TEXTS_REMEMBERED:
                    self._known.popitem(last=False)
        return self._stacked([vectors[text] for text in texts])

    @property
    def text_fingerprint(self) -> str | None:
        return self.encoder.text_fingerprint

    @property
    def pictures_per_call(self) -> int:
        return self.encoder.pictures_per_call

    @property
    def is_on_gpu(self) -> bool:
        return self.encoder.is_on_gpu

    @property
    def image_precision(self) -> str | None:
        return self.encoder.image_precision

    def in_precision(self, precision: str | None) -> BatchingEncoder:
        """One that shares this one's texts; pictures wait for those of the same arithmetic."""
        encoder = self.encoder.in_precision(precision)
        if encoder is self.encoder:
            return self
        with self._lock:
            if precision not in self._others:
                other = copy.copy(self)
                other.encoder = encoder
                other._pictures = self._picture_batches(encoder)
                self._others[precision] = other
            return self._others[precision]

    def for_new_index(self, pictures: int) -> Encoder:
        return self.encoder.for_new_index(pictures)

    @property
    def image_tower_bytes(self) -> int:
        return self.encoder.image_tower_bytes

    def text_lengths(self, texts: Sequence[str]) -> tuple[list[int], int] | None:
        return self.encoder.text_lengths(texts)

    def parts_read(self, texts: Sequence[str]) -> list[str | None]:
        return self.encoder.parts_read(texts)

    def reads(self, text: str) -> bool:
        return self.encoder.reads(text)

    def unread_words(self, text: str) -> list[str]:
        return self.encoder.unread_words(text)

    def unknown_words(self, text: str) -> list[str]:
        return self.encoder.unknown_words(text)

    def is_english_word(self, word: str) -> bool:
        return self.encoder.is_english_word(word)

    def words(self) -> Sequence[str]:
        return self.encoder.words()

    def prepare_texts(self) -> None:
        self.encoder.prepare_texts()

    def as_new(self) -> Encoder:
        return self.encoder.as_new()

    def dense_tower(self) -> PlacesTower | None:
        return self.encoder.dense_tower()

    def captioner(self) -> CaptionWriter | None:
        return self.encoder.captioner()

    def _stacked(self, vectors: list[FloatArray]) -> FloatArray:
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)
