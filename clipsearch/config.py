"""Where clipsearch keeps things, and which index a command means.

Inside the collection: `.clipsearch/`. Outside it: a cache folder (can be deleted at any time) and a small
registry of indexes used, in the user's state folder. `CLIPSEARCH_CACHE_DIR` and `CLIPSEARCH_STATE_DIR`
override both.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from clipsearch.errors import ClipsearchError, CorruptIndex, IndexAway, IndexNotFound, StorageError
from clipsearch.filenames import from_bytes, readable, to_bytes
from clipsearch.places import absolute, expanded, is_address, is_file, own_folder
from clipsearch.replacing import replacing

RECALL_LIMITS = (0.5, 0.999)
"""What inverted files can be asked to find of the ten nearest."""

INDEX_DIR_NAME = ".clipsearch"
INDEX_ENV = "CLIPSEARCH_INDEX"
REGISTRY_LIMIT = 50
MARKER = "INDEX"
MARKER_LINE = re.compile(rb"(clipsearch index \d+ ([0-9a-f]{32}) [0-9T:.+-]+) ([0-9a-f]{8})\n")
"""What the file INDEX says, which makes a folder an index: format, a random id, when it was made, CRC-32 of these."""
CURRENT_LINE = re.compile(rb"clipsearch (\d+) (\d{8,}) ([0-9a-f]{32})\n")
"""What the file CURRENT says: format, generation, checksum of its manifest."""
NEWER_LINE = re.compile(rb"clipsearch (?:index )?(\d{1,9}) ")
"""How CURRENT and INDEX begin in any format, also in one that is yet to come."""
DAMAGE = (errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EUCLEAN)
"""What the system says of a file that is damaged or gone; anything else says something of the moment."""
_OF_A_MANIFEST = {"generation", "root", "model", "checksum", "format_version"}


def cache_dir() -> Path:
    """Folder for what can be made again. Not created here."""
    return _own_dir("CLIPSEARCH_CACHE_DIR", "cache")


def state_dir() -> Path:
    """Folder for what should outlive a cache clean-up (the registry of indexes). Not created here."""
    return _own_dir("CLIPSEARCH_STATE_DIR", "state")


def _own_dir(variable: str, kind: Literal["cache", "state"]) -> Path:
    override = os.environ.get(variable)
    if override:
        return expanded(override)
    return own_folder(kind)


def index_dir_for(folder: Path, index: Path | None = None) -> Path:
    """The index folder that `clipsearch index FOLDER [--index INDEX]` writes to."""
    if index is not None:
        return index
    if is_address(folder):
        raise StorageError(folder, "an index cannot be in object storage", "Say where to put it with: --index DIR")
    beside = folder.with_name(folder.name + INDEX_DIR_NAME) if folder.name else folder
    is_folder = os.path.isdir(folder)  # noqa: PTH112  Path.is_dir raises what a broken drive says
    if is_file(folder) or (is_index(beside) and not is_folder):  # a tar, say
        return beside
    return folder if is_index(folder) else folder / INDEX_DIR_NAME


def is_index(folder: Path) -> bool:
    """Whether `folder` is an index, complete or damaged.

    It has our marker, or, of an index made before there were markers, a file CURRENT or a manifest that only clipsearch
    writes. Other people's files of these names do not count.
    """
    if marker_of(folder) is not None or CURRENT_LINE.fullmatch(_first_bytes(folder / "CURRENT")):
        return True
    if format_of(folder) > 2:
        return True
    try:
        manifests = sorted(
            path for path in (folder / "manifests").iterdir() if re.fullmatch(r"\d{8,}\.json", path.name)
        )
    except OSError:
        return False
    return any(_is_manifest(path) for path in reversed(manifests[-3:]))


def marker_of(folder: Path) -> str | None:
    """The random id in an index's marker, or None where there is none that is whole."""
    match = MARKER_LINE.fullmatch(_first_bytes(folder / MARKER))
    if match is None or f"{zlib.crc32(match[1]):08x}".encode() != match[3]:
        return None
    return match[2].decode("ascii")


def format_of(folder: Path) -> int:
    """The index format that a folder's marker says, 0 where it says none. It may be newer than what we know."""
    match = NEWER_LINE.match(_first_bytes(folder / MARKER))
    return 0 if match is None else int(match[1])


def marker_line(form: int, identity: str, made: str) -> bytes:
    """What to write into INDEX."""
    said = f"clipsearch index {form} {identity} {made}".encode("ascii")
    return said + f" {zlib.crc32(said):08x}\n".encode("ascii")


def index_error(file: Path, error: OSError, index: Path) -> ClipsearchError:
    """Our word for what the system said when a file of an index was read: IndexAway, CorruptIndex or StorageError."""
    if error.errno not in DAMAGE:
        return StorageError(file, f"it cannot be read ({error.strerror or error})", "Try again.")
    if not os.path.isdir(index):  # noqa: PTH112  # Path.is_dir raises what a broken drive says
        return IndexAway(index.absolute())
    is_missing = error.errno == errno.ENOENT
    problem = "the file is missing" if is_missing else f"it cannot be read ({error.strerror})"
    return CorruptIndex(file, problem, index=index, unreadable=not is_missing)


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn the system's errors while a file of an index is read into ours. Raises: as `index_error` says.

    All but INDEX, CURRENT and locks lie in a folder of the index.
    """
    try:
        yield
    except OSError as error:
        raise index_error(file, error, file.parent.parent) from error


def _first_bytes(path: Path) -> bytes:
    try:
        return read_plain(path, 200)
    except OSError:
        return b""


def _is_manifest(path: Path) -> bool:
    try:
        body = json.loads(read_plain(path))
    except (OSError, ValueError):
        return False
    return isinstance(body, dict) and body.keys() >= _OF_A_MANIFEST


def find_index(index: Path | None = None) -> Path:
    """The index that a command without a folder means.

    In this order: `index` (a photo folder or its index folder), $CLIPSEARCH_INDEX, `.clipsearch` in the
    current folder and its ancestors, the index used last. If that one is not there, no other takes its place: a command
    may delete. Raises: IndexNotFound, IndexAway.
    """
    for named in (index, os.environ.get(INDEX_ENV)):
        if named:
            place = expanded(named)
            for candidate in (place, place / INDEX_DIR_NAME, index_dir_for(place)):
                if is_index(candidate):
                    return candidate
            raise IndexNotFound([place])
    here = working_folder()
    known = known_indexes()
    for folder in () if here is None else (here, *here.parents):
        if is_index(folder / INDEX_DIR_NAME):
            return folder / INDEX_DIR_NAME
        if folder / INDEX_DIR_NAME in known and _is_bare(folder):
            raise IndexAway(folder / INDEX_DIR_NAME, _there(known))
    if known and is_index(known[0]):
        return known[0]
    if known:
        raise IndexAway(known[0], _there(known))
    sought = "the current folder, which is gone" if here is None else f"{here} and the folders above it"
    raise IndexNotFound([f"{INDEX_DIR_NAME} in {sought}", "the indexes used before"])


def _is_bare(folder: Path) -> bool:
    """Whether a folder has nothing in it that is seen, as a mount point without its drive has. Where there are
    pictures, an index that is not there was deleted, and one further up is what was meant."""
    try:
        return not any(path.name[0] != "." for path in folder.iterdir())
    except OSError:
        return True


def _there(known: list[Path]) -> list[Path]:
    """The indexes used before that are there: some of them, the last one first."""
    return [index for index in known[:10] if is_index(index)][:3]


def check_not_away(index_dir: Path) -> None:
    """Raise IndexAway if `index_dir` was an index on a drive that is away: none is made below its mount point.

    What is gone from the file system that it was on was deleted.
    """
    if is_index(index_dir):
        return
    names = {absolute(index_dir), os.path.realpath(index_dir)}
    drives = {entry.get("drive", "") for entry in _registry() if absolute(_path_of(entry)) in names}
    if drives and not drives <= {"", _drive_of(index_dir)}:
        raise IndexAway(index_dir.absolute(), remake="--new")


def _drive_of(index_dir: Path) -> str:
    """What tells the file system that an index is on, or would be made on, from others. "" if nobody knows."""
    for place in (index_dir, *index_dir.absolute().parents):
        try:
            return f"{os.statvfs(place).f_fsid:x}"
        except FileNotFoundError:
            continue
        except OSError:
            break
    return ""


def working_folder() -> Path | None:
    """The folder that relative paths start from; None if it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def known_indexes() -> list[Path]:
    """Indexes used on this machine, the last one first. Some may be gone."""
    return [_path_of(entry) for entry in _registry()]


def _registry() -> list[dict[str, str]]:
    """What is known of these: `path_hex`, and `drive`, what tells the file system that each is on from others."""
    try:
        entries = json.loads((state_dir() / "indexes.json").read_text(encoding="utf-8"))
        for entry in entries:
            _path_of(entry)
        return list(entries)
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _path_of(entry: dict[str, str]) -> Path:
    return Path(from_bytes(bytes.fromhex(entry["path_hex"])))


def remember_index(index: Path) -> None:
    """Put `index` at the front of the registry. A registry that cannot be written is no error."""
    target = index.absolute()
    known = _registry()
    hexed = to_bytes(target).hex()
    first = {"path": readable(str(target)), "path_hex": hexed, "drive": _drive_of(target)}
    if known[:1] == [first]:
        return
    entries = [first, *(entry for entry in known if entry["path_hex"] != hexed)][:REGISTRY_LIMIT]
    write_small(state_dir() / "indexes.json", json.dumps(entries, indent=1))


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file whose name says what it is, whoever made it. Raises: OSError, also if it is not a plain file.

    Opening a pipe would wait for somebody who writes into it, for ever; opening a device may do anything.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENXIO, "not a plain file", os.fspath(path))
        return os.fdopen(fd, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise


def read_plain(path: str | os.PathLike[str], limit_bytes: int = -1) -> bytes:
    """The bytes of a plain file, or the first of them. Raises: OSError, see `open_plain`."""
    with open_plain(path) as file:
        return file.read(limit_bytes)


def write_small(path: Path, text: str) -> None:
    """Replace a small cache or state file in one step; failing to is no error (it can be made again)."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
