"""Object storage (S3 and what else fsspec reads): listing folder by folder, and fetching ahead with a limited patience.

What the network does not give is an error that says so, never a sign that something was deleted.
"""

from __future__ import annotations

import errno
import os
import queue
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import IO, Any, Generic, NamedTuple, TypeVar

import xxhash

from clipsearch.archives.listing import Spool
from clipsearch.errors import MissingExtra, StorageError, first_line
from clipsearch.places import Address

S3 = ("s3", "s3a")
ATTEMPTS = 3
FIRST_WAIT_S = 0.2  # four times as long after each attempt
AT_ONCE = 16
AHEAD = 48  # objects that are fetched, or wait to be used
PAUSE_S = 0.02  # who waits for an object does other things so often
PAGE_PAUSE_S = 0.2  # and who waits for a page of a listing
LOOK_S = 0.5  # for a large object to be fetched while another is used
REFUSED = ("http", "https", "ftp", "data", "file", "local", "github", "git")
"""Protocols of fsspec that are no object storage."""
REFUSALS = (FileNotFoundError, PermissionError, IsADirectoryError)
"""What will not pass by asking again."""
ABOUT_WHO_ASKS = ("ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "NoSuchBucket")
"""Refusals of S3 that would be the same of any object."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation")
"""The first that there is counts: in another order, what indexes have noted of old would tell of changes."""
T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing tells of it. `path` is relative to the address. `tag`: of its content, 0 if unknown."""

    path: str
    size_bytes: int
    mtime_ns: int
    tag: int


class Wanted(NamedTuple):
    """An object to fetch. Of large ones, only one is fetched at a time."""

    path: str
    size_bytes: int
    is_large: bool = False


class Storage:
    """What lies at an address. Connects when it is first asked."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Raises: StorageError for an address that is not one of object storage, MissingExtra."""
        self.address = os.fspath(address).rstrip("/")
        place = Address(self.address)
        protocol = self.address.partition("://")[0]
        if protocol in REFUSED or "::" in self.address:
            raise StorageError(place, f"{protocol}: is not object storage", "Download the pictures first.")
        if re.match(r"[^/]*://[^/]*:[^/]*@", self.address):
            raise StorageError(place, "it has a password in it", "Put it into the storage's own configuration.")
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol in S3:  # s3fs and we try again: boto, which would as well, need not multiply that
            options["config_kwargs"] = {"retries": {"mode": "standard", "max_attempts": 1}}
            options["max_concurrency"] = 1  # else large objects come as ten parts of 50 MB at once, kept in memory
        try:
            self._fs, self._root = url_to_fs(self.address, **options)
            self._gives_pages = protocol in S3 and not getattr(self._fs, "version_aware", False)
            if self._gives_pages:
                _keep_keys_whole(self._fs)
            if (loop := getattr(self._fs, "loop", None)) is not None:
                loop.set_exception_handler(_tell)
        except ImportError as error:
            if protocol in S3:
                raise MissingExtra("s3", "reading s3:// addresses") from error
            raise StorageError(place, f"reading {protocol}: addresses needs a package", first_line(error)) from error
        except Exception as error:  # whatever a package of another storage finds wrong
            raise StorageError(place, first_line(error), "Check the address.") from error

    def walk(
        self, take: Callable[[str], bool], no_path: Callable[[str], None] = lambda key: None
    ) -> Iterator[list[StoredObject]]:
        """The objects of one folder after another; of S3, a page of a folder's listing at a time. `take` says of a
        folder, by its relative path, whether to look into it; `no_path` is told what no path can name. Raises:
        StorageError, if any cannot be listed: then nobody knows what is there. While that is waited for, none of them
        every PAGE_PAUSE_S."""
        base = self._root.rstrip("/")
        pending = [base]
        seen: set[str] = set()
        while pending:
            folder = pending.pop()
            if folder in seen:
                continue
            seen.add(folder)
            below: set[str] = set()
            for entries in self._pages(folder):
                found: list[StoredObject] = []
                for entry in entries:
                    key = str(entry["name"])
                    name = key.rstrip("/")
                    path = name.removeprefix(base).lstrip("/")
                    if name == folder or not path:  # an object that stands for the folder itself, if it is empty
                        is_filled = entry["type"] == "file" and entry.get("size") and key != folder
                        if is_filled or entry.get("is_nameless"):
                            no_path(key.removeprefix(base).removeprefix("/"))
                        continue
                    if entry["type"] == "directory":
                        if take(path):
                            below.add(name)
                    elif entry["type"] == "file":
                        found.append(StoredObject(path, int(entry["size"] or 0), _time_of(entry), _tag_of(entry)))
                yield sorted(found, key=lambda one: one.path)
            pending += sorted(below, reverse=True)

    def _pages(self, folder: str) -> Iterator[list[dict[str, Any]]]:
        """What the listing of a folder tells, in order. Raises: StorageError."""
        relative = folder.removeprefix(self._root.rstrip("/")).lstrip("/")
        is_empty = True
        hands: _Hands[Any] = _Hands(1, "clipsearch-list")
        try:
            for entries in self._s3_pages(folder, relative, hands) if self._gives_pages else ():
                is_empty = is_empty and not entries
                yield entries
            if is_empty:  # of S3, this says whether there is no such folder, or whether it is an object
                listed = hands.submit(lambda: self._patiently(relative, lambda: self._fs.ls(folder, detail=True)))
                yield from _until(listed)
                yield listed.result()
        finally:
            hands.close()

    def _s3_pages(self, folder: str, relative: str, hands: _Hands[Any]) -> Iterator[list[dict[str, Any]]]:
        """The pages of a folder; the next one is asked for while one is used."""
        bucket, _, key = folder.partition("/")
        asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}

        def page(before: str | None) -> tuple[list[dict[str, Any]], str | None]:
            more = {} if before is None else {"ContinuationToken": before}
            told = self._patiently(relative, lambda: self._fs.call_s3("list_objects_v2", **asked, **more))
            token = told.get("NextContinuationToken") if told.get("IsTruncated") else None
            if told.get("IsTruncated") and token in (None, before):  # what follows is not to be taken for absent
                raise self._unlisted(relative, "the server does not say where its listing goes on")
            return _entries(bucket, told), token

        following = hands.submit(lambda: page(None))
        while True:
            yield from _until(following)
            entries, token = following.result()
            if token is not None:
                following = hands.submit(partial(page, token))
            yield entries
            if token is None:
                return

    def about(self, path: str) -> StoredObject:
        """One object. Raises: StorageError."""
        entry = self._patiently(path, lambda: self._fs.info(self._full(path)))
        if entry.get("type") != "file":
            raise StorageError(Address(self.address) / path, "there is no such object", "Check the address.")
        return StoredObject(path, int(entry["size"] or 0), _time_of(entry), _tag_of(entry))

    def lacks(self, path: str = "") -> bool:
        """Whether the storage answers, and says that it has nothing at a path, or below it. Of a whole bucket nobody
        knows: an empty one may be another's. Nor of other storage than S3, where what is not found may be a wrong name
        of a bucket."""
        bucket, _, key = self._full(path).rstrip("/").partition("/")
        if not self._gives_pages or not key:
            return False

        def has(prefix: str) -> bool:
            told = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
            return any(one["Key"] == key or one["Key"].startswith(f"{key}/") for one in told.get("Contents", []))

        try:
            return not (_again(lambda: has(f"{key}/")) or _again(lambda: has(key)))
        except OSError:
            return False

    @staticmethod
    def is_answer(error: OSError) -> bool:
        """Whether an error says something of the object that was asked for: then the storage is there."""
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
        return isinstance(error, REFUSALS) and code not in ABOUT_WHO_ASKS

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of an object, or a part of them. Raises: OSError."""
        content: bytes = _again(lambda: self._fs.cat_file(self._full(path), start=start, end=stop))
        return content

    def open(self, path: str) -> IO[bytes]:
        """An object, to be read in parts. Raises: OSError."""
        file: IO[bytes] = _again(lambda: self._fs.open(self._full(path), "rb"))
        return file

    def fetch(self, path: str, size_bytes: int, group: Fetches | None = None) -> Spool:
        """A copy of an object, which goes when nobody holds it any more. Raises: OSError; Ended, if `group` has."""
        from fsspec.callbacks import Callback

        fetches = group or Fetches()

        class Told(Callback):  # type: ignore[misc]
            def set_size(self, size: int) -> None:
                fetches.check()

            def relative_update(self, inc: int = 1) -> None:
                fetches.check()

        def get() -> None:
            fetches.check()
            self._fs.get_file(self._full(path), spool.path, callback=Told())

        spool = Spool(os.path.splitext(path)[1])
        fetches.spools.add(spool)
        try:
            _again(get)
            found = os.path.getsize(spool.path)
            if found != size_bytes:
                raise OSError(f"it has {found:,} bytes now, not {size_bytes:,}")
        except BaseException:
            spool.close()
            raise
        return spool

    def fetch_all(
        self, items: Iterable[Item], what: Callable[[Item], Wanted | None]
    ) -> Iterator[tuple[Item, Spool | OSError | None] | None]:
        """Copies of many objects, AT_ONCE at a time, in the order of `items`, none later than it could be; None every
        PAUSE_S while one is waited for. `what` says what an item needs; None for nothing.

        A large one is fetched while the one before it is used, if the disk has room for two of its size.
        """
        waiting: deque[_Waiting[Item]] = deque()
        fetches = Fetches()
        hands: _Hands[Spool] = _Hands(AT_ONCE, "clipsearch-fetch")
        rest = iter(items)
        is_lent = False  # a large one is used

        def begin(one: _Waiting[Item]) -> None:
            assert one.wanted is not None
            path, size_bytes, _ = one.wanted
            one.copy = hands.submit(lambda: self.fetch(path, size_bytes, fetches))

        def begin_large() -> None:
            one = next((one for one in waiting if one.is_large), None)
            if one is None or one.copy is not None:
                return
            one.is_ahead = is_lent or one is not waiting[0]
            if not one.is_ahead or _has_room(one.size_bytes):
                begin(one)

        def take() -> bool:
            for item in rest:
                one = _Waiting(item, what(item))
                waiting.append(one)
                if one.is_large:
                    begin_large()
                elif one.wanted is not None:
                    begin(one)
                return True
            return False

        def use() -> Iterator[tuple[Item, Spool | OSError | None] | None]:
            """The first one, once it is there."""
            nonlocal is_lent
            one = waiting[0]
            while one.wanted is not None:
                begin_large()
                assert one.copy is not None
                if not wait([one.copy], PAUSE_S).done:
                    yield None
                    continue
                error = one.copy.exception()
                if not (one.is_ahead and isinstance(error, OSError) and error.errno in NO_ROOM):
                    break
                one.copy, one.is_ahead = None, False  # alone it may fit
            waiting.popleft()
            if one.is_large:  # the next one comes meanwhile
                is_lent = True
                until = time.monotonic() + LOOK_S
                while not any(other.is_large for other in waiting) and len(waiting) < AHEAD:
                    if time.monotonic() >= until or not take():
                        break
                begin_large()
            if one.copy is None:
                yield one.item, None
                return
            error = one.copy.exception()
            if error is not None and not isinstance(error, OSError):
                raise error
            if error is None:
                fetches.spools.discard(one.copy.result())
            yield one.item, one.copy.result() if error is None else error
            is_lent = False

        try:
            while take():
                while waiting and (len(waiting) >= AHEAD or waiting[0].is_ready):
                    yield from use()
            while waiting:
                yield from use()
        finally:
            fetches.end()
            hands.close()

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else self._root

    def _patiently(self, path: str, ask: Callable[[], T]) -> T:
        try:
            return _again(ask)
        except OSError as error:
            why = error.strerror or first_line(error)
            if isinstance(error, FileNotFoundError) and why.rstrip("/") == self._full(path).rstrip("/"):
                why = "there is nothing under that name"
            raise self._unlisted(path, why) from error

    def _unlisted(self, path: str, why: str) -> StorageError:
        advice = "Nothing was changed. Check the address, the network and the permissions, then run it again."
        return StorageError(Address(self.address) / path, f"it cannot be listed ({why})", advice)


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    """An item whose turn has not come. `is_ahead`: it is fetched while another large one may be there."""

    item: Item
    wanted: Wanted | None
    copy: Future[Spool] | None = None
    is_ahead: bool = False

    @property
    def is_large(self) -> bool:
        return self.wanted is not None and self.wanted.is_large

    @property
    def size_bytes(self) -> int:
        return 0 if self.wanted is None else self.wanted.size_bytes

    @property
    def is_ready(self) -> bool:
        return self.wanted is None or self.is_large or (self.copy is not None and self.copy.done())


class Fetches:
    """What is fetched for somebody, until that has ended: then nothing of it stays. `spools`: not handed over yet."""

    def __init__(self) -> None:
        self.spools: set[Spool] = set()
        self._has_ended = False

    def check(self) -> None:
        """Raises: Ended."""
        if self._has_ended:
            raise Ended

    def end(self) -> None:
        """Nobody waits any more."""
        self._has_ended = True
        while self.spools:
            self.spools.pop().close()


class Ended(Exception):
    """Nobody waits for what is being fetched."""


class _Hands(Generic[T]):
    """Threads that ask the storage. The process ends without waiting for them, as it would for those of an executor: a
    server that does not answer holds some for minutes."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._threads = 0
        self._work: queue.SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = queue.SimpleQueue()

    def submit(self, ask: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._work.put((future, ask))
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._ask, name=self._name, daemon=True).start()
        return future

    def _ask(self) -> None:
        while (work := self._work.get()) is not None:
            future, ask = work
            try:
                future.set_result(ask())
            except BaseException as error:
                future.set_exception(error)
            del future, ask, work  # which keep a copy

    def close(self) -> None:
        for _ in range(self._threads):
            self._work.put(None)


def _until(future: Future[Any]) -> Iterator[list[dict[str, Any]]]:
    """Nothing of a listing, every PAGE_PAUSE_S, until its next page is there."""
    while not wait([future], PAGE_PAUSE_S).done:
        yield []


def _has_room(size_bytes: int) -> bool:
    """Whether the disk of temporary files has room for two of a size."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free >= 2 * size_bytes
    except OSError:
        return False


def _again(ask: Callable[[], T]) -> T:
    """What `ask` gives, at most at the ATTEMPTS-th time. Raises: OSError, at once for what will not pass."""
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except (*REFUSALS, Ended):
            raise
        except Exception as error:  # every kind of storage has errors of its own
            if attempt + 1 == ATTEMPTS:
                if isinstance(error, OSError):
                    raise
                raise OSError(first_line(error)) from error
            time.sleep(FIRST_WAIT_S * 4**attempt)
    raise AssertionError


def _tell(loop: Any, context: dict[str, Any]) -> None:
    """Say what goes wrong in fsspec's thread, but not that a connection is open when the process ends: who stops a run
    does not wait for it."""
    if not str(context.get("message")).startswith("Unclosed"):
        loop.default_exception_handler(context)


def _keep_keys_whole(files: Any) -> None:
    """Let s3fs take what follows `?versionId=` in a key for a part of it, which it is: else it asks for another key."""
    split = files.split_path

    def whole(path: str) -> tuple[str, str, None]:
        path, mark, rest = path.partition("?versionId=")
        bucket, key, _ = split(path)
        return bucket, f"{key}{mark}{rest}", None

    files.split_path = whole


def _entries(bucket: str, page: dict[str, Any]) -> list[dict[str, Any]]:
    """A page of S3 as fsspec tells of a folder."""
    below: list[dict[str, Any]] = []
    for one in page.get("CommonPrefixes", []):
        prefix = one["Prefix"]
        is_nameless = prefix == "/" or prefix.endswith("//")  # a folder whose name is empty
        name = prefix if is_nameless else prefix[:-1]
        below.append({"name": f"{bucket}/{name}", "type": "directory", "is_nameless": is_nameless})
    objects = page.get("Contents", [])
    return below + [{**one, "name": f"{bucket}/{one['Key']}", "type": "file", "size": one["Size"]} for one in objects]


def _time_of(entry: dict[str, Any]) -> int:
    """When an object was written, in nanoseconds since 1970; 0 where nothing says so."""
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e6) * 1000
        if isinstance(value, (int, float)):
            return int(value * 1e6) * 1000
        if isinstance(value, str):
            try:
                return int(datetime.fromisoformat(value).timestamp() * 1e6) * 1000
            except ValueError:
                continue
    return _tag_of(entry) % 2**62


def _tag_of(entry: dict[str, Any]) -> int:
    """What a listing says of an object's content, hashed: indexes keep it (`ImageRecord.inode`)."""
    tag = next((entry[name] for name in _TAGS if entry.get(name)), "")
    return xxhash.xxh3_64_intdigest(str(tag).encode()) if tag else 0


_STORAGES: dict[str, Storage] = {}


def read_object(address: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes at an address, or a part of them. Raises: OSError."""
    storage, path = storage_of(address)
    return storage.read(path, start, stop)


def storage_of(address: str) -> tuple[Storage, str]:
    """The storage that an address is in, with its connection kept, and the path there. Raises: OSError."""
    protocol, _, rest = address.partition("://")
    bucket, _, path = rest.partition("/")
    root = f"{protocol}://{bucket}"
    try:
        storage = _STORAGES.setdefault(root, Storage(root)) if root not in _STORAGES else _STORAGES[root]
    except (StorageError, MissingExtra) as error:
        raise OSError(first_line(error)) from error
    return storage, path
