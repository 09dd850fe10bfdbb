"""The indexes that a server has open: always the newest generation, each kept until its last user is done."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.config import find_index
from clipsearch.encoder import Encoder
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import UNREADABLE, ClipsearchError, EncoderMismatch, OneIndexOnly, UnknownIndex
from clipsearch.query.crops import Crop
from clipsearch.records import FloatArray, IntArray
from clipsearch.remote import ALL
from clipsearch.search.collection import Collection
from clipsearch.search.together import Together, said_of
from clipsearch.server.batching import Batches, BatchingEncoder

POLL_S = 0.5
RETRY_S = 5.0
SEARCHES_AT_ONCE = 32

_log = logging.getLogger("clipsearch.server")


class SharedCollection(Collection):
    """A collection for many threads: searches that come together read the vectors once.

    Scores differ from those of single searches by rounding only.
    """

    def __init__(self, index: Path, encoder: Encoder, observe: Callable[[str, int], None]) -> None:
        """`observe` is told "search" and the number of queries in each batch. Raises: see Collection."""
        super().__init__(index, encoder=encoder)
        self._twin: tuple[Encoder, Collection] | None = None
        # Weakly, or a generation that nobody uses any more would wait for the garbage collector with all it has read.
        itself = weakref.ref(self)

        def search(asked: list[tuple[FloatArray, int]]) -> list[tuple[FloatArray, IntArray]]:
            collection = itself()
            assert collection is not None  # whoever asks holds it
            return collection._nearest_of_many(asked)

        self._batches: Batches[tuple[FloatArray, int], tuple[FloatArray, IntArray]] = Batches(
            search, SEARCHES_AT_ONCE, lambda items: observe("search", items)
        )

    def in_use(self) -> AbstractContextManager[None]:
        """What goes on as long as a thread answers from this."""
        return contextlib.nullcontext()

    def alone(self, encoder: Encoder) -> Collection:
        """This generation with another encoder, for one thread that shares nothing. Valid as long as this is."""
        if self._twin is None or self._twin[0] is not encoder:
            twin = Collection.__new__(Collection)
            twin.__dict__.update(self.__dict__, _encoder=self._fitting(encoder))
            self._twin = encoder, twin  # kept, for what it has learned of the collection
        return self._twin[1]

    def nearest(self, queries: FloatArray, k: int, *, exact: bool = False, **more: Any) -> tuple[FloatArray, IntArray]:
        """As Collection.nearest."""
        if exact or k < 1 or len(queries) != 1 or any(value is not None for value in more.values()):
            return super().nearest(queries, k, exact=exact, **more)
        ((scores, ids),) = self._batches.run([(queries[0], min(k, max(1, self.manifest.answered)))])
        return scores[None], ids[None]

    def _nearest_of_many(self, asked: list[tuple[FloatArray, int]]) -> list[tuple[FloatArray, IntArray]]:
        """Search for those together that want as many hits: an inverted file visits more lists for more hits."""
        answers: dict[int, tuple[FloatArray, IntArray]] = {}
        for k in {k for _, k in asked}:
            places = [place for place, (_, wanted) in enumerate(asked) if wanted == k]
            found = super().nearest(np.stack([asked[place][0] for place in places]), k)
            answers.update(zip(places, zip(*found, strict=True), strict=True))
        return [answers[place] for place in range(len(asked))]


Make = Callable[[Path, Encoder, Callable[[str, int], None]], SharedCollection]


class Stopping(ClipsearchError):
    """The server is being stopped."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class NothingIndexed(ClipsearchError):
    """The server has no index yet."""

    def __init__(self) -> None:
        super().__init__("nothing is indexed yet: open the page of this server in a browser, or use clipsearch index")


@dataclass(slots=True)
class _Open:
    """One generation, and how many are using it. Guarded by the lock of its `ServedIndex`."""

    collection: SharedCollection
    users: int = 0
    retired: bool = False


@dataclass(slots=True)
class ServedIndex:
    """One index by name. `path` is the index folder."""

    name: str
    path: Path
    _engine: Engine
    _open: _Open | None = None
    _seen: tuple[int, int, int] | None = None  # CURRENT, as it was when the open generation was read
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reloading: threading.Lock = field(default_factory=threading.Lock)
    _refused: tuple[int, int, int] | None = None  # CURRENT, as it was when it could not be opened
    _retry_at: float = 0.0
    _told: str = ""

    @property
    def is_behind(self) -> bool:
        """Whether there is a newer state that cannot be opened, or none any more."""
        return bool(self._told)

    @contextmanager
    def lease(self, *, at_least: int | None = None) -> Iterator[Collection]:
        """As `lease_alone`, where nothing is asked that only an index by itself can."""
        with self.lease_alone(at_least=at_least) as photos:
            yield photos

    @contextmanager
    def lease_alone(self, *, at_least: int | None = None) -> Iterator[SharedCollection]:
        """The newest generation that is open, for as long as the `with` lasts.

        `at_least` waits for that generation (and returns an older one if there is none such).
        Raises: what opening an index raises, if it never could be opened.
        """
        if self._open is None or (
            at_least is not None and (self._open.collection.manifest.generation < at_least or self._changed())
        ):
            self.reload(wait=True)
        with self._lock:
            if self._open is None:
                raise Stopping
            mine = self._open
            mine.users += 1
        if self._changed():
            self._engine.wake()
        try:
            with mine.collection.in_use():
                yield mine.collection
        finally:
            with self._lock:
                mine.users -= 1
                done = mine.retired and not mine.users
            if done:
                mine.collection.close()

    def reload(self, *, wait: bool = False) -> bool:
        """Open the newest generation if it is not open yet; whether it is now. `wait` for another who does."""
        if not self._reloading.acquire(blocking=wait):
            return False
        try:
            if self._engine.is_closed:
                raise Stopping
            seen = self._current()
            if self._open is not None and seen == self._seen:
                if self._told:  # it was away for a while, and is as it was
                    self._told = ""
                    self._engine.forget_together()
                return True
            try:
                fresh = self._engine.open(self.path)
            except (ClipsearchError, OSError) as error:
                self._engine.observe_reload(self.name, "failed")
                if self._open is None:
                    raise
                if (line := str(error)) != self._told:
                    _log.warning("still serving generation %d: %s", self._open.collection.manifest.generation, line)
                self._told, self._refused, self._retry_at = line, seen, time.monotonic() + RETRY_S
                return False
            self._told = ""
            if self._open is not None:
                _warm_up(fresh)  # while the generation before still answers
            with self._lock:
                before, self._open, self._seen = self._open, _Open(fresh), seen
                if before is not None:
                    before.retired = True
                    done = not before.users
            if before is not None:
                self._engine.forget_together()
                self._engine.observe_reload(self.name, "opened")
                if done:
                    before.collection.close()
            return True
        finally:
            self._reloading.release()

    def _current(self) -> tuple[int, int, int] | None:
        try:
            status = (self.path / "CURRENT").stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _changed(self) -> bool:
        now = self._current()
        if now == self._seen:
            return bool(self._told)
        return now != self._refused or time.monotonic() >= self._retry_at

    def close(self) -> None:
        with self._lock:
            last, self._open = self._open, None
            if last is not None:
                last.retired = True
                done = not last.users
        if last is not None and done:
            last.collection.close()


class ServedTogether(ServedIndex):
    """All indexes of a server, searched together (see `search.together`)."""

    _last: tuple[tuple[Collection, ...], dict[str, str], Together] | None = None
    """Of what the last answer came: the parts, what was missing then, and them together."""
    _made_at: float = 0.0

    @contextmanager
    def lease(self, *, at_least: int | None = None) -> Iterator[Collection]:
        """The newest generation of each index, for as long as the `with` lasts. One that cannot be opened is left out.

        Raises: MixedModels, NothingIndexed, OneIndexOnly for `at_least`; what opening the first raises if none can be.
        """
        if at_least is not None:
            raise OneIndexOnly(self._engine.names)
        with contextlib.ExitStack() as stack:
            found: list[tuple[str, Collection]] = []
            missing = {str(path): why for path, why in self._engine.absent.items()}
            failures: list[Exception] = []
            for name, served in self._engine.indexes.items():
                try:
                    found.append((name, stack.enter_context(served.lease())))
                except UNREADABLE as error:
                    failures.append(error)
                    missing[name] = said_of(error)
            if not found:
                raise failures[0] if failures else NothingIndexed()
            key = tuple(photos for _, photos in found)
            with self._lock:
                again = time.monotonic() >= self._made_at + RETRY_S  # for a part that was lost while it was read
                if self._last is None or self._last[:2] != (key, missing) or (again and self._last[2].has_lost):
                    self._last = key, missing, Together(found, missing, owned=False)
                    self._made_at = time.monotonic()
                together = self._last[2]
            yield together

    def forget(self) -> None:
        """Keep no generation."""
        with self._lock:
            self._last = None

    def reload(self, *, wait: bool = False) -> bool:
        """Open the newest generations."""
        reloaded = [served.reload(wait=wait) for served in self._engine.indexes.values()]
        return all(reloaded)

    def _changed(self) -> bool:
        return False

    @property
    def path(self) -> Path:
        """Raises: OneIndexOnly."""
        raise OneIndexOnly(self._engine.names)

    @path.setter
    def path(self, path: Path) -> None:
        pass  # of an index that goes elsewhere: all of them together are in no place


class Engine:
    """The indexes of a server, and their encoders. Close it, or use it in a `with`."""

    def __init__(
        self,
        indexes: Sequence[Path],
        *,
        encoder: Encoder | None = None,
        observe_batch: Callable[[str, int], None] = lambda kind, items: None,
        observe_reload: Callable[[str, str], None] = lambda index, result: None,
        make: Make = SharedCollection,
    ) -> None:
        """Open `indexes` (index folders), perhaps none yet (see `add`). `encoder` is used instead of the indexes' own
        model where given. `make` opens a generation. Of several, those that cannot be read are absent, and looked for
        now and then.

        Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, ModelNotFound, InvalidModel, EncoderMismatch.
        """
        self.observe_reload = observe_reload
        self._observe_batch = observe_batch
        self._make = make
        self._given = None if encoder is None else BatchingEncoder(encoder, observe=observe_batch)
        self._encoders: dict[str, BatchingEncoder] = {}
        self._encoders_lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._warming: list[threading.Thread] = []
        self._adding = threading.Lock()
        self._together = ServedTogether(ALL, Path(), self)
        self.read_part: Callable[[Collection, str, Crop], tuple[FloatArray, str | None]] | None = None
        """What encodes a part of a picture file for a collection; None: this process."""
        self.indexes: dict[str, ServedIndex] = {}
        self.absent: dict[Path, str] = {}
        """Indexes that were to be served and cannot be read, and why."""
        self._look_at = time.monotonic() + RETRY_S
        try:
            failures: list[Exception] = []
            for path in indexes:
                try:
                    self.add(path)
                except UNREADABLE as error:
                    failures.append(error)
                    self.absent[path] = said_of(error)
            if failures and not self.indexes:
                raise failures[0]
        except BaseException:
            self.close()
            raise
        self._poller = threading.Thread(target=self._poll, name="clipsearch-reload", daemon=True)
        self._poller.start()

    def add(self, path: Path) -> ServedIndex:
        """Serve one more index, or the same again. Raises: see __init__."""
        with self._adding:
            place = os.path.realpath(path)
            for known in self.indexes.values():
                if os.path.realpath(known.path) == place:
                    return known
            served = ServedIndex("", path.absolute(), self)
            served.reload(wait=True)
            with served.lease() as collection:
                served.name = _name(collection.root, self.indexes)
            self.indexes = {**self.indexes, served.name: served}  # others go through the dictionary meanwhile
            # No daemon: ending inside onnxruntime aborts the process.
            self._warming.append(threading.Thread(target=self._warm_up, args=(served,)))
            self._warming[-1].start()
            return served

    def forget_together(self) -> None:
        """Keep no generation open for searches of all indexes together that is not open otherwise."""
        self._together.forget()

    @property
    def names(self) -> list[str]:
        """The names of the indexes, the default one first."""
        return list(self.indexes)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def index(self, name: str | None = None) -> ServedIndex:
        """The index of that name, or the default one. Raises: UnknownIndex, NothingIndexed."""
        if name is None:
            for first in self.indexes.values():
                return first
            raise NothingIndexed
        if name == ALL:
            return self._together
        try:
            return self.indexes[name]
        except KeyError:
            raise UnknownIndex(name, self.names) from None

    @contextmanager
    def lease(self, name: str | None = None, *, at_least: int | None = None) -> Iterator[Collection]:
        """The newest open generation of an index; see `ServedIndex.lease`. Raises: UnknownIndex."""
        with self.index(name).lease(at_least=at_least) as collection:
            yield collection

    def open(self, index: Path) -> SharedCollection:
        """Open the newest generation of an index with an encoder that is shared. Raises: see __init__."""
        if self._given is not None:
            return self._reading_apart(self._make(index, self._given, self._observe_batch))
        with contextlib.ExitStack() as stack:
            probe = stack.enter_context(Collection(index))
            model = probe.manifest.model
            with self._encoders_lock:
                encoder = self._encoders.get(model.name)
                if encoder is None or encoder.fingerprint != model.fingerprint:
                    encoder = BatchingEncoder(load_encoder(model.name), observe=self._observe_batch)
                    if encoder.fingerprint != model.fingerprint:
                        raise EncoderMismatch(index, model.name, encoder.name, str(probe.root))
                    self._encoders[model.name] = encoder
            return self._reading_apart(self._make(index, encoder, self._observe_batch))

    def _reading_apart(self, collection: SharedCollection) -> SharedCollection:
        """A collection that reads parts of pictures as the engine's user does, as soon as that is known."""
        itself, engine = weakref.ref(collection), weakref.ref(self)

        def read(path: str, crop: Crop) -> tuple[FloatArray, str | None]:
            photos, own = itself(), engine()
            assert photos is not None  # whoever asks holds it
            if own is None or own.read_part is None:
                return photos._read(path, crop)
            return own.read_part(photos, path, crop)

        collection.read_part = read
        return collection

    def encoder_of_its_own(self, index: Path) -> Encoder:
        """The encoder of an index for a run, which shall not keep searches waiting. Raises: see __init__."""
        if self._given is not None:
            return self._given.as_new()
        with Collection(index) as photos:
            return load_encoder(photos.manifest.model.name)

    @staticmethod
    def _warm_up(served: ServedIndex) -> None:
        with contextlib.suppress(ClipsearchError, OSError), served.lease() as photos:
            _warm_up(photos)

    def wait_until_warm(self) -> None:
        """Return when what a first search loads is loaded, for every index."""
        for thread in self._warming:
            thread.join()

    def wake(self) -> None:
        """Look for new generations now."""
        self._wake.set()

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(POLL_S)
            self._wake.clear()
            if self.absent and time.monotonic() >= self._look_at:
                self._look_for_absent()
            for served in self.indexes.values():
                if self._closed.is_set():
                    return
                if served._changed():
                    try:
                        served.reload()
                    except Exception:
                        _log.exception("looking for a new generation of %s", served.name)
                        served._refused, served._retry_at = served._current(), time.monotonic() + RETRY_S

    def _look_for_absent(self) -> None:
        for path in list(self.absent):
            try:
                self.add(find_index(path))
            except UNREADABLE as error:
                self.absent = {**self.absent, path: said_of(error)}
            except ClipsearchError as error:
                _log.warning("not serving %s: %s", path, error)
                self.absent = {**self.absent, path: said_of(error)}
            else:
                self.absent = {other: why for other, why in self.absent.items() if other != path}
        self._look_at = time.monotonic() + RETRY_S

    def close(self) -> None:
        """Let go of every index; a generation in use is closed by its last user."""
        self._closed.set()
        self._wake.set()
        for served in self.indexes.values():
            served.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _warm_up(photos: Collection) -> None:
    """Load what a first search loads, before somebody waits for it; whoever needs it is told what is wrong with it."""
    with contextlib.suppress(ClipsearchError, OSError):
        for number in range(3):  # a text tower is loaded in haste first, and thoroughly when it is used more
            photos.search(f"a picture of number {number}", 1)
        photos.nearness()


def _name(root: Path, taken: dict[str, ServedIndex]) -> str:
    """A name for the index of `root`: the folder's, with a number if that is taken."""
    base = root.name.encode("utf-8", "replace").decode("utf-8") or "index"
    names = (base if n == 1 else f"{base}-{n}" for n in itertools.count(1))
    return next(name for name in names if name not in taken and name != ALL)
