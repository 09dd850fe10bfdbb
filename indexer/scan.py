"""Walk a folder of pictures. Knows file names, sizes and devices, not what is in the files.

What cannot be looked at hides what lies below it: that a file was not seen there says nothing about it.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.archives import is_archive_name
from clipsearch.archives.listing import Spool
from clipsearch.config import INDEX_DIR_NAME
from clipsearch.filenames import to_bytes
from clipsearch.indexer.drives import MountPoints, drive_identity
from clipsearch.indexer.ignore import HIDDEN, OF_THE_PROCESS, PASSING_ERRORS, Folder, Ignore
from clipsearch.indexer.placeholders import stands_for
from clipsearch.indexer.sidecars import Sidecars
from clipsearch.pictures.formats import PICTURE_ENDINGS, Kind, classify_name, is_in_parts, is_picture_name
from clipsearch.places import is_address
from clipsearch.records import IntArray, PictureMetadata, SkippedImage

BLOCK_FILES = 65_536
PASSING = PASSING_ERRORS
OUTSIDE = "links out of the folder: see --follow-links"
ARCHIVES = "tars and tables: see --archives"
ATTEMPTS = 3
PATIENCE_S = 3.0  # of all waiting in one walk, so that a drive that is gone does not take forever
_SHORT_ENDINGS = frozenset(ending for ending in PICTURE_ENDINGS if len(ending) == 4)
_KIND_OF_FILE = 0o170000  # of st_mode
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Within:
    """Where a picture is that is a part of another file. `place`: the file that has its bytes, from `at` on: the
    archive, or a copy, which stays as long as `keeps`. `said`: what stands beside it."""

    archive_bytes: int
    archive_rows: int  # how many pictures it has
    offset: int
    said: PictureMetadata
    place: str
    at: int
    keeps: object = None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as the scan saw it. `path` is relative to the root, `/` between its parts (see ImageRecord).

    A time that does not fit 64 bits of nanoseconds (before 1677, after 2262) is the nearest that does.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    sidecars: int = 0  # what lies beside it; see indexer/sidecars.py
    member: str = ""  # of an archive, whose time and inode these are
    within: Within | None = None  # where, of a member
    copy: Spool | None = None  # of what is in object storage

    @property
    def place(self) -> str:
        """What it is called in the collection."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def name(self) -> str:
        """The last part of that."""
        return (self.member or self.path).rpartition("/")[2]

    @property
    def file_bytes(self) -> int:
        """The size of the file at `path`."""
        return self.size_bytes if self.within is None else self.within.archive_bytes


class FileBlock:
    """Files of one folder whose names may be those of pictures, without an object for each.

    Shapes: paths (N, 2) int64, what their paths are known by; sizes, mtimes_ns (N,) int64; inodes (N,) uint64;
    sidecars (N,) int64, see indexer/sidecars.py, or None where nothing lies beside any.
    """

    __slots__ = ("folder", "inodes", "mtimes_ns", "names", "paths", "sidecars", "sizes")

    def __init__(
        self,
        folder: str,
        names: list[str],
        paths: IntArray,
        sizes: IntArray,
        mtimes_ns: IntArray,
        inodes: npt.NDArray[np.uint64],
        sidecars: IntArray | None = None,
    ) -> None:
        self.folder = folder
        self.names = names
        self.paths = paths
        self.sizes = sizes
        self.mtimes_ns = mtimes_ns
        self.inodes = inodes
        self.sidecars = sidecars

    def __len__(self) -> int:
        return len(self.names)

    def path(self, number: int) -> str:
        """The path of one of the files."""
        return f"{self.folder}/{self.names[number]}" if self.folder else self.names[number]

    def file(self, number: int) -> FoundFile:
        """One of the files."""
        sidecars = 0 if self.sidecars is None else int(self.sidecars[number])
        size, mtime_ns, inode = int(self.sizes[number]), int(self.mtimes_ns[number]), int(self.inodes[number])
        return FoundFile(self.path(number), size, mtime_ns, inode, sidecars)

    def only(self, numbers: IntArray) -> FileBlock:
        """Some of the files."""
        return FileBlock(
            self.folder,
            [self.names[n] for n in numbers.tolist()],
            self.paths[numbers],
            self.sizes[numbers],
            self.mtimes_ns[numbers],
            self.inodes[numbers],
            None if self.sidecars is None else self.sidecars[numbers],
        )

    def __iter__(self) -> Iterator[FoundFile]:
        return (self.file(number) for number in range(len(self)))


T = TypeVar("T")


class _Patience:
    """Asks again where an error may pass. Raises: OSError, at once for what is of this process."""

    def __init__(self) -> None:
        self._left_s = PATIENCE_S

    def __call__(self, ask: Callable[[], T]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except OSError as error:
                if error.errno in OF_THE_PROCESS:
                    raise _CannotGoOn from error
                wait_s = 0.05 * 4**attempt
                if error.errno not in PASSING or attempt + 1 == ATTEMPTS or self._left_s < wait_s:
                    raise
                self._left_s -= wait_s
                time.sleep(wait_s)
        raise AssertionError


class _CannotGoOn(Exception):
    """The process has no more files or memory. Its cause is the system's error."""


@dataclass(slots=True)
class Scan:
    """What a walk found beside the blocks of files that it yields."""

    files: int = 0  # with the names of pictures
    others: Counter[str] = field(default_factory=Counter)  # what is no picture by its name, by its kind
    unreadable: list[SkippedImage] = field(default_factory=list)  # files and folders that cannot be looked at
    lacking: Counter[Kind] = field(default_factory=Counter)  # of these, videos and documents that nothing here reads
    lost_links: list[SkippedImage] = field(default_factory=list)  # of names of no pictures: to folders, perhaps
    evicted: set[str] = field(default_factory=set)  # files and folders of which only placeholders are here
    folders: set[str] = field(default_factory=set)  # those that hold files with the names of pictures
    devices: dict[str, int] = field(default_factory=dict)
    """Which drive (see indexer/drives.py) the root ("") is on, the folders in it, and every folder that is on another
    device than the one above it, or where something is mounted."""

    device_numbers: dict[str, int] = field(default_factory=dict)  # of the same; older indexes have only these

    drives: dict[int, int] = field(default_factory=dict)  # by device number
    mounted: set[str] = field(default_factory=set)  # folders where something is mounted, perhaps of the same device
    left_out: dict[str, str] = field(default_factory=dict)  # files and folders that `ignore` names, and why; no hidden
    held: set[str] = field(default_factory=set)  # folders that stay as they were; see indexer/ignore.py
    indexed: list[str] = field(default_factory=list)  # folders below the root that have an index of their own
    archives: list[FoundFile] = field(default_factory=list)  # tars and tables, where they are asked for
    is_gone: bool = False  # the source as a whole, which somebody named: whoever holds it says that it is not there
    _unreadable: set[str] = field(default_factory=set)  # the paths of `unreadable` and `lost_links`

    def holds(self, path: str) -> bool:
        """Whether `path` lies in a folder of which nobody knows what to leave out: it stays as it was."""
        while self.held:
            if path in self.held:
                return True
            if not path:
                return False
            path = path.rpartition("/")[0]
        return False

    def leaves_out(self, path: str) -> str | None:
        """Why `path` was left out, by itself or with a folder that it is in; None where it was not."""
        while path:
            if (reason := self.left_out.get(path)) is not None:
                return reason
            path = path.rpartition("/")[0]
        return None

    def hides(self, path: str) -> bool:
        """Whether `path` cannot be looked at, or is elsewhere for now, or lies in such a folder: its absence then says
        nothing."""
        if len(self._unreadable) < len(self.unreadable) + len(self.lost_links):
            self._unreadable = {skipped.path for skipped in (*self.unreadable, *self.lost_links)}
        while path not in self._unreadable and path not in self.evicted:
            if not path:
                return False
            path = path.rpartition("/")[0]
        return True

    def moved_devices(self, before: dict[str, int]) -> list[str]:
        """The folders that were on another drive when the index was last written."""
        return [path for path, device in before.items() if device not in self._devices_of(path, device)]

    def _devices_of(self, path: str, default: int) -> tuple[int, ...]:
        """The drive that a folder is on now, and its number: unless noted by itself, that of the folder above it."""
        while path not in self.devices:
            if not path:
                return (default,)
            path = path.rpartition("/")[0]
        return self.devices[path], self.device_numbers.get(path, self.devices[path])


def walk(root: Path, result: Scan, *, exclude: Path | None = None, ignore: Ignore | None = None) -> Iterator[FileBlock]:
    """Yield the files below `root` whose names may be those of pictures, following links but no folder twice. Links
    that lead out of `root` are followed if `ignore` says so.

    Of a source that is one file (`Ignore.listed`), see `listed`. What `ignore` names (see there; by default, what it
    always names) and the folder `exclude` are left out. What cannot be read is put into `result`, not raised.
    """
    if is_address(root):
        from clipsearch.indexer.stored import walk_storage

        yield from walk_storage(root, result, ignore or Ignore(root))
        return
    if ignore is not None and ignore.listed:
        from clipsearch.indexer.listed import walk_list  # which needs what stands here

        yield from walk_list(root, ignore.listed, result, archives=ignore.archives, may_be_gone=ignore.may_be_gone)
        return
    try:
        yield from _walk(root, result, exclude, ignore or Ignore(root))
    except _CannotGoOn as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


def _walk(root: Path, result: Scan, exclude: Path | None, ignore: Ignore) -> Iterator[FileBlock]:
    patience = _Patience()
    points = MountPoints(os.fspath(root))
    result.mounted = points.met_at(os.fspath(root), "")
    visited: set[tuple[int, int]] = set()
    if exclude is not None and exclude.is_dir():
        info = exclude.stat()
        visited.add((info.st_dev, info.st_ino))
    linked: list[tuple[str, int]] = []  # folders behind links come last: a folder is known by its own name first
    pending = [("", -1)]
    while pending or linked:
        if pending:
            relative, above = pending.pop()
        else:
            relative, above = linked.pop(0)
            result.mounted |= points.met_at(os.path.join(os.fspath(root), relative), relative)
        folder = _Folder(os.fspath(root), relative, ignore, result, patience)
        yield from folder.read(above, visited)
        pending += reversed(folder.subfolders)
        linked += folder.linked


class _Folder:
    """One folder on the way."""

    def __init__(self, root: str, relative: str, ignore: Ignore, result: Scan, patience: _Patience) -> None:
        self.relative = relative
        self.place = os.path.join(root, relative) if relative else root
        self.subfolders: list[tuple[str, int]] = []
        self.linked: list[tuple[str, int]] = []
        self._ignore = ignore
        self._result = result
        self._patience = patience
        self._prefix = f"{relative}/" if relative else ""
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._mtimes_ns: list[int] = []
        self._inodes: list[int] = []
        self._rest: list[os.DirEntry[str]] = []  # whatever is not plainly a picture
        self._sidecars = Sidecars()

    def read(self, above: int, visited: set[tuple[int, int]]) -> Iterator[FileBlock]:
        """Yield the files of this folder. `above`: the device of the folder that it is in."""
        relative, result = self.relative, self._result
        try:
            fd = self._patience(lambda: os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            result.unreadable.append(unreadable(relative, error))
            return
        try:
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) in visited:
                return
            visited.add((info.st_dev, info.st_ino))
            try:
                blocks = self._patience(lambda: self._list(fd))
            except OSError as error:  # what was seen of it counts, what was not is hidden
                result.unreadable.append(unreadable(relative, error))
                blocks = list(self._blocks())
            try:
                rules = self._ignore.enter_folder(relative, _Names(self._rest, blocks))
            except OSError as error:
                raise _CannotGoOn from error
            if (problem := self._ignore.held.get(relative)) is not None:
                name, _, reason = problem.partition(": ")
                result.held.add(relative)
                result.unreadable.append(SkippedImage(self._prefix + name, "unreadable", reason))
                return
            if rules.whole is not None:
                result.left_out[relative] = rules.whole
                return
            mounted = relative in result.mounted
            if not relative or "/" not in relative or info.st_dev != above or mounted:
                drive = None if mounted else result.drives.get(info.st_dev)
                if drive is None:
                    drive = drive_identity(fd, self.place, info.st_dev)
                if not mounted:
                    result.drives[info.st_dev] = drive
                result.devices[relative] = drive
                result.device_numbers[relative] = info.st_dev
            for entry in self._rest:
                self._take(entry, fd, info.st_dev, rules)
            if blocks or self._names:
                self._sidecars.look(fd)
        finally:
            os.close(fd)
        self.subfolders.sort()
        self.linked.sort()
        blocks += self._blocks()
        for block in blocks:
            block.sidecars = self._sidecars.numbers(block.names)
            yield from self._allowed(block, rules)

    def _list(self, fd: int) -> list[FileBlock]:
        """List the folder from its beginning. Raises: OSError."""
        self._start()
        self._rest = []
        os.lseek(fd, 0, os.SEEK_SET)
        return [*self._listed(fd), *self._blocks()]

    def _start(self) -> None:
        self._names, self._sizes, self._mtimes_ns, self._inodes = [], [], [], []

    def _listed(self, fd: int) -> Iterator[FileBlock]:
        """Put every entry where it belongs; yield blocks of plain pictures where there are very many."""
        # Of a million files each microsecond here is a second: plain files with the extension of a picture take the
        # short way, and no object that the system makes for one of them outlives its turn.
        lstat, regular, short, endings = os.lstat, stat.S_IFREG, _SHORT_ENDINGS, PICTURE_ENDINGS
        names, sizes, mtimes_ns, inodes = self._names, self._sizes, self._mtimes_ns, self._inodes
        with os.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                if (name[-4:] in short or name[name.rfind(".") :] in endings) and name[0] != ".":
                    try:
                        info = lstat(name, dir_fd=fd)
                    except OSError:
                        self._rest.append(entry)  # to be asked again
                        continue
                    if info.st_mode & _KIND_OF_FILE == regular:
                        names.append(name)
                        sizes.append(info.st_size)
                        mtimes_ns.append(info.st_mtime_ns)
                        inodes.append(info.st_ino)
                        if len(names) >= BLOCK_FILES:
                            yield from self._blocks()
                            names, sizes, mtimes_ns, inodes = self._names, self._sizes, self._mtimes_ns, self._inodes
                        continue
                self._rest.append(entry)

    def _allowed(self, block: FileBlock, rules: Folder) -> Iterator[FileBlock]:
        """A block without what the user's patterns leave out."""
        result = self._result
        if rules.judges_files:
            kept = []
            for number, name in enumerate(block.names):
                why = rules.skips(self._prefix + name, name, False)
                if why is None:
                    kept.append(number)
                elif why != HIDDEN:
                    result.left_out[self._prefix + name] = why
            if len(kept) < len(block):
                block = block.only(np.array(kept, np.int64))
        if len(block):
            result.files += len(block)
            if any("." in name for name in block.names):  # a README is worth opening, but no sign of pictures
                result.folders.add(self.relative)
            yield block

    def _take(self, entry: os.DirEntry[str], fd: int, device: int, rules: Folder) -> None:
        name, result = entry.name, self._result
        path = self._prefix + name
        if (evicted := stands_for(name)) is not None:
            result.evicted.add(self._prefix + evicted)
        try:
            is_link, is_dir = entry.is_symlink(), self._patience(entry.is_dir)
            why = rules.skips(path, name, is_dir)
            if why is not None:
                if why != HIDDEN:
                    result.left_out[path] = why
                elif self.relative and name == INDEX_DIR_NAME:
                    result.indexed.append(self.relative)
                return
            if is_link and self._ignore.leads_out(path):
                result.left_out[path] = OUTSIDE
                return
            if is_dir:
                (self.linked if is_link else self.subfolders).append((path, device))
                return
            is_archive = self._ignore.archives is not None and is_archive_name(name)
            if is_archive and not self._ignore.takes_archive(path):
                result.left_out[path] = ARCHIVES
                return
            if not is_link and not is_archive and not is_picture_name(name):
                result.others[kind_of_name(name)] += 1
                self._sidecars.add(name)
                return
            info = self._patience(lambda: os.stat(name, dir_fd=fd, follow_symlinks=is_link))
        except OSError as error:
            self._note(name, error, is_link=entry.is_symlink())
            return
        if not stat.S_ISREG(info.st_mode):
            result.others["neither files nor folders"] += 1
        elif is_archive:
            result.files += 1
            result.folders.add(self.relative)
            mtime_ns = max(INT64_MIN, min(INT64_MAX, info.st_mtime_ns))
            result.archives.append(FoundFile(path, info.st_size, mtime_ns, info.st_ino))
        elif is_picture_name(name):
            self._names.append(name)
            self._sizes.append(info.st_size)
            self._mtimes_ns.append(info.st_mtime_ns)
            self._inodes.append(info.st_ino)
        else:
            result.others[kind_of_name(name)] += 1
            self._sidecars.add(name)

    def _note(self, name: str, error: OSError, *, is_link: bool = False) -> None:
        """Write down what cannot be looked at. What was deleted this moment is no news."""
        result = self._result
        if not isinstance(error, FileNotFoundError):
            result.unreadable.append(unreadable(self._prefix + name, error))
        elif is_link:
            result.others["links to nowhere"] += 1
            lost = unreadable(self._prefix + name, error, "a link to nowhere")
            is_picture = "." in name and is_picture_name(name)
            (result.unreadable if is_picture else result.lost_links).append(lost)

    def _blocks(self) -> Iterator[FileBlock]:
        """What was gathered of files, if anything."""
        names, sizes, mtimes_ns, inodes = self._names, self._sizes, self._mtimes_ns, self._inodes
        self._start()
        if not names:
            return
        paths = to_bytes(self._prefix + f"\0{self._prefix}".join(names)).split(b"\0")
        yield FileBlock(
            self.relative,
            names,
            np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, paths)), "<i8").reshape(-1, 2),
            np.array(sizes, np.int64),
            clamped(mtimes_ns),
            np.array(inodes, np.uint64),
        )


class _Names:
    """The names in a folder, as `ignore` wants to look at them: those that may be a sign of something, which no plain
    picture's is, one by one; but any that it asks for."""

    def __init__(self, rest: list[os.DirEntry[str]], blocks: list[FileBlock]) -> None:
        self._rest = rest
        self._blocks = blocks
        self._set: set[str] | None = None

    def __contains__(self, name: object) -> bool:
        if self._set is None:
            self._set = {*self, *(name for block in self._blocks for name in block.names)}
        return name in self._set

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._rest)

    def __len__(self) -> int:
        return len(self._rest) + sum(len(block) for block in self._blocks)


def clamped(numbers: list[int]) -> IntArray:
    """Times in nanoseconds that fit 64 bits."""
    try:
        return np.array(numbers, np.int64)
    except OverflowError:
        return np.array([max(INT64_MIN, min(INT64_MAX, number)) for number in numbers], np.int64)


def unreadable(path: str, error: OSError, reason: str | None = None) -> SkippedImage:
    """What cannot be looked at, in the system's words."""
    return SkippedImage(path, "unreadable", reason or f"it cannot be read ({error.strerror or error})")


def kind_of_name(name: str) -> str:
    """What to count a file as that is no picture by its name: ".txt files", ..."""
    refusal = classify_name(name)
    _, dot, extension = name.rpartition(".")
    if (refusal is None and not is_in_parts(name)) or not dot or not 0 < len(extension) <= 12:
        return "other files"
    return f".{extension.lower()} files"


def scan(root: Path, *, exclude: Path | None = None, ignore: Ignore | None = None) -> tuple[list[FoundFile], Scan]:
    """Walk all of a folder at once: for where an object for each file does not matter. Sorted by path."""
    result = Scan()
    files = [file for block in walk(root, result, exclude=exclude, ignore=ignore) for file in block]
    return sorted(files, key=lambda file: file.path), result
