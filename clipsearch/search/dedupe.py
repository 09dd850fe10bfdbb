"""Near-duplicates: the same photo in other sizes, qualities and exposures. Finds them, and deletes nothing.

Four steps. The hashes of the index propose: pictures that differ in NEAR_BITS at most; and vectors do: those at least
CANDIDATE_COSINE near, unless their hashes are known and differ in more than FAR_BITS. Pixels decide (`looks`): pictures
of a series, of which a part moved, are other pictures, and so are pages with other words, other colours, crops and
mirror images. What is known of the files, and again their pixels, tell the original from what was made from it
(`_Versions`); where they do not, neither is a spare copy of the other. And what has anything that the original lacks
is none (`has_more`). Times of files count only where nothing is lost with either. Of files with several pages or
frames, RAW files and what can be read in part only those of the same bytes are copies.

docs/query.md has what this finds, and what it leaves.
"""

from __future__ import annotations

import os
import shlex
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UnreadablePicture
from clipsearch.filenames import to_bytes
from clipsearch.pictures.images import PictureFile
from clipsearch.pictures.lineage import Lineage, is_enlarged, original_of, resized_from
from clipsearch.places import is_address
from clipsearch.records import ImageRecord, IntArray
from clipsearch.search.collection import Collection
from clipsearch.search.looks import Details, Look, look_at
from clipsearch.store.columns import date_of
from clipsearch.vectors.hashes import near_hashes

NEAR_BITS = 7
"""Of the 64 of a perceptual hash. Of 430 copies that were saved again, halved, quartered, doubled, made lighter or
darker, none differs in more than 6; of 720,000 pairs of different photos none differs in fewer than 12."""
FAR_BITS = 20
"""Pictures whose vectors are near are not compared if their hashes differ in more. Those of pictures that show almost
nothing (a gradient, a wall) are mostly noise: halved, they differ in 14 to 22."""
CANDIDATE_COSINE = 0.8
NEIGHBOURS = 16
BLOCK_ROWS = 1024
EXHAUSTIVE_ROWS = 10_000
CELLS_OF_A_ROW = 3
ASSIGNED_ROWS = 8192
_LOSSLESS = ("PNG", "TIFF", "BMP", "DIB", "PPM")
_MORE_COLOURS, _GREY = 1.5, 2.0  # times, and levels
_LOOKS_KEPT = 1024  # of 160 kB
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """One version of a picture. `sharpness`: variance of the Laplacian of its 256 by 256 grey values."""

    record: ImageRecord
    path: str
    sharpness: float
    size_bytes: int = 0  # of the file that was looked at, as are the following
    identity: tuple[int, int] = (0, 0)  # device and inode: links and hard links to one file have the same
    is_link: bool = False
    is_as_indexed: bool = True  # its size and time are those of its row
    mtime_ns: int = 0

    @property
    def pixels(self) -> int:
        """How many it has."""
        return (self.record.width or 0) * (self.record.height or 0)

    @property
    def is_lossless(self) -> bool:
        """Whether its format keeps every pixel as it was given."""
        return self.record.metadata.format in _LOSSLESS

    @property
    def names_camera(self) -> bool:
        """Whether the file says which camera took it. Programs that write a date of their own do not."""
        return self.record.metadata.camera is not None

    @property
    def says_camera(self) -> bool:
        """Whether the file has anything that cameras write, which most programs drop."""
        metadata = self.record.metadata
        return metadata.camera is not None or (metadata.date_source or "").startswith("exif:")

    def has_bytes_of(self, other: Copy) -> bool:
        """Whether both are as indexed, with the same content."""
        same = self.record.content_hash is not None and self.record.content_hash == other.record.content_hash
        return same and self.is_as_indexed and other.is_as_indexed


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Versions of one picture: the original, as far as can be told, and the others, each of which was compared with
    it."""

    keep: Copy
    others: tuple[Copy, ...]


def find_duplicates(
    photos: Collection,
    *,
    progress: Callable[[int, int], None] | None = None,
    spare: Callable[[Copy, str], None] | None = None,
    unsure: Callable[[Copy, Copy], None] | None = None,
) -> list[DuplicateGroup]:
    """Every group of near-duplicates, by path of the picture to keep. Files that cannot be read are left out.

    No other path to a file that is kept is among the others, nor is half of a Live Photo: without it, the other half is
    what nobody took. `spare` is told of each that was left out because it has what the better one lacks, and of what;
    `unsure` of two of which nothing says which came first.
    """
    versions = _Versions(photos)
    pairs = _proposed(photos)
    halves = frozenset(photos.live.row_ids.tolist())
    kept: dict[int, set[int]] = {}  # of each version, the worse ones
    for done, (one, two) in enumerate(pairs.tolist()):
        if versions.are_same(one, two):
            better = versions.better_of(one, two)
            worse = two if better == one else one
            if better is None:
                if unsure is not None:
                    unsure(versions.copy_of(one), versions.copy_of(two))
                continue
            if worse in halves:
                continue
            if (more := versions.has_more(worse, better)) is not None:
                if spare is not None:
                    spare(versions.copy_of(worse), more)
                continue
            kept.setdefault(better, set()).add(worse)
        if progress is not None:
            progress(done + 1, len(pairs))
    return _groups(kept, versions.copy_of)


def _proposed(photos: Collection) -> IntArray:
    """Pairs of row ids to compare, the smaller first, in ascending order. Shape: (P, 2) int64."""
    row_ids, copies = _whole_pictures(photos)
    hashes = _hashes(photos, row_ids)
    known = hashes != 0
    hashed = row_ids[known]
    found = [np.empty((0, 2), np.int64), copies]
    for one, two in near_hashes(hashes[known], NEAR_BITS, NEIGHBOURS):
        found.append(np.stack([hashed[one], hashed[two]], axis=1))
    for one, two, _ in _candidates(photos, row_ids):
        first, second = hashes[np.searchsorted(row_ids, one)], hashes[np.searchsorted(row_ids, two)]
        apart = np.unpackbits((first ^ second).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
        near = (apart <= FAR_BITS) | (first == 0) | (second == 0)
        found.append(np.stack([one[near], two[near]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _whole_pictures(photos: Collection) -> tuple[IntArray, IntArray]:
    """The rows of whole pictures, ascending; and pairs of files of the same bytes that are only seen in parts (videos).

    Shapes: (N,) int64; (P, 2) int64.
    """
    row_ids = photos.row_ids()
    if not photos.has_views:
        return row_ids, np.empty((0, 2), np.int64)
    whole, parts, contents = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)]
    for columns in photos.columns():
        alive = np.isin(columns.row_ids, row_ids, assume_unique=True)
        in_part = columns.numbers["view"] != 0
        first = alive & in_part & columns.starts
        whole.append(columns.row_ids[alive & ~in_part])
        parts.append(columns.row_ids[first])
        contents.append(columns.hashes[first])
    videos, keys = np.concatenate(parts), np.concatenate(contents)
    order = np.lexsort((videos, keys[:, 1], keys[:, 0]))
    order = order[keys[order].any(axis=1)]
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    pairs = np.stack([videos[order[:-1][same]], videos[order[1:][same]]], axis=1)
    return np.sort(np.concatenate(whole)), np.sort(pairs, axis=1)


def _hashes(photos: Collection, row_ids: IntArray) -> IntArray:
    """The perceptual hashes of rows; 0: not known. Shape: (N,) int64."""
    hashes = np.zeros(len(row_ids), np.int64)
    for columns in photos.columns():
        at = columns.positions(row_ids)
        hashes[np.searchsorted(row_ids, columns.row_ids[at])] = columns.numbers["perceptual_hash"][at]
    return hashes


def _candidates(photos: Collection, row_ids: IntArray) -> Iterator[tuple[IntArray, IntArray, int]]:
    """Pairs of row ids, the smaller first, at least CANDIDATE_COSINE near, the NEIGHBOURS nearest of each row; and how
    many rows are finished with them. A pair may come twice.

    Many rows are compared only within cells: those that share one of the CELLS_OF_A_ROW pictures nearest to them, of a
    few hundred. Pictures that near to each other nearly always do.
    """
    stored = np.empty((len(row_ids), photos.manifest.model.dim), np.float16)
    for start in range(0, len(row_ids), ASSIGNED_ROWS):
        stored[start : start + ASSIGNED_ROWS] = photos.vectors(row_ids[start : start + ASSIGNED_ROWS])
    cells = [np.arange(len(row_ids))] if len(row_ids) <= EXHAUSTIVE_ROWS else _cells(stored)
    copies = 1 if len(cells) == 1 else CELLS_OF_A_ROW
    unfinished = 0
    for cell in cells:
        vectors = stored[cell].astype(np.float32)
        for start in range(0, len(cell), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            scores = vectors[block] @ vectors.T
            own = np.arange(len(scores))
            scores[own, start + own] = -2.0
            if len(cell) > NEIGHBOURS:
                least = np.partition(scores, len(cell) - NEIGHBOURS, axis=1)[:, len(cell) - NEIGHBOURS, None]
                scores[scores < least] = -2.0
            rows, columns = np.nonzero(scores >= CANDIDATE_COSINE)
            one, two = row_ids[cell[block][rows]], row_ids[cell[columns]]
            unfinished += len(scores)
            yield np.minimum(one, two), np.maximum(one, two), unfinished // copies
            unfinished %= copies


def _cells(stored: npt.NDArray[np.float16]) -> list[IntArray]:
    """Numbers of rows by the centres they are nearest to, each in CELLS_OF_A_ROW cells. Ascending in each."""
    count = max(CELLS_OF_A_ROW + 1, round(len(stored) ** 0.5))
    chosen = np.random.default_rng(0).choice(len(stored), count, replace=False)
    centres = stored[chosen].astype(np.float32)
    nearest = np.empty((len(stored), CELLS_OF_A_ROW), np.int32)
    for start in range(0, len(stored), ASSIGNED_ROWS):
        block = slice(start, start + ASSIGNED_ROWS)
        scores = stored[block].astype(np.float32) @ centres.T
        nearest[block] = np.argpartition(scores, count - CELLS_OF_A_ROW, axis=1)[:, count - CELLS_OF_A_ROW :]
    order = np.argsort(nearest.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(nearest.ravel(), minlength=count))
    return np.split(order // CELLS_OF_A_ROW, ends[:-1])


def _groups(worse: dict[int, set[int]], copy_of: Callable[[int], Copy]) -> list[DuplicateGroup]:
    """The best first, each takes what it was compared with and found better than: nothing is called a copy of a picture
    that it differs from. `worse`: of each picture, those."""
    beaten: dict[int, int] = {}
    for row_ids in worse.values():
        for row_id in row_ids:
            beaten[row_id] = beaten.get(row_id, 0) + 1
    groups, taken = [], set[int]()

    def rank(row_id: int) -> tuple[int, int, str]:
        copy = copy_of(row_id)
        return beaten.get(row_id, 0), -copy.pixels, copy.path

    for row_id in sorted(worse, key=rank):
        others = sorted((copy_of(other) for other in worse[row_id] - taken), key=lambda copy: copy.path)
        if row_id in taken or not others:
            continue
        taken |= {row_id, *worse[row_id]}
        groups.append(DuplicateGroup(copy_of(row_id), tuple(others)))
    kept = {group.keep.identity for group in groups}
    apart = [
        DuplicateGroup(group.keep, tuple(other for other in group.others if other.identity not in kept))
        for group in groups
    ]
    return sorted((group for group in apart if group.others), key=lambda group: group.keep.path)


class _Versions:
    """Compares the pictures of a collection. Each is read when it is first needed, and the last _LOOKS_KEPT are kept;
    files of one content are read once."""

    def __init__(self, photos: Collection) -> None:
        self._photos = photos
        self._files: dict[int, _File | None] = {}
        self._looks: OrderedDict[int | str, Look | None] = OrderedDict()
        self._sharpness: dict[int | str, float] = {}
        self._details = Details()

    def are_same(self, one_id: int, two_id: int) -> bool:
        """Whether both can be read and show the same."""
        one, two = self._file(one_id), self._file(two_id)
        if one is None or two is None:
            return False
        if one.record.view:  # of which nothing but bytes is compared
            return one.has_bytes_of(two)
        if one.has_bytes_of(two):
            return self._look(one) is not None
        one_look, two_look = self._look(one), self._look(two)
        if one_look is None or two_look is None:
            return False
        besides = one_look.beside, two_look.beside
        if (
            any(beside.has_more_pictures or beside.is_raw for beside in besides)
            or one.record.partial
            or two.record.partial
        ):
            return False
        shorter = min(*one_look.size, *two_look.size)
        return one_look.is_same(two_look) and self._details.are_same(one.path, two.path, shorter)

    def has_more(self, worse_id: int, better_id: int) -> str | None:
        """What the worse of two versions has, in words, that the better one lacks. None: nothing."""
        worse, better = self._file(worse_id), self._file(better_id)
        assert worse is not None
        assert better is not None
        said = _has_more(worse, better)
        if said is not None or worse.has_bytes_of(better):
            return said
        worse_look, better_look = self._look(worse), self._look(better)
        assert worse_look is not None
        assert better_look is not None
        if worse_look.colourfulness > _MORE_COLOURS * better_look.colourfulness + _GREY:
            return "colours"
        if worse_look.beside.is_deep and not better_look.beside.is_deep:
            return "more than 8 bits a colour"
        if worse_look.beside.has_second_picture:
            return "a second picture"
        if worse_look.beside.is_for_print and not better_look.beside.is_for_print:
            return "colours for print"
        if worse_look.size == better_look.size and worse.is_lossless and not better.is_lossless:
            return None if _original_of(better, worse) == "first" else "pixels that were saved without loss"
        return None

    def better_of(self, one_id: int, two_id: int) -> int | None:
        """Which of two versions is the original, or as good; None where nothing says so.

        Of the same bytes or pixels: what says more of a camera, has more bytes, or is older. Of as many other pixels:
        what the other was saved from, as its pixels tell, or what alone names a camera, unless pixels say the
        contrary. Else the larger one, unless it has no more detail: then only what the other was made from.
        """
        one, two = self._file(one_id), self._file(two_id)
        assert one is not None
        assert two is not None
        if one.has_bytes_of(two):
            return one_id if one.rank < two.rank else two_id
        one_look, two_look = self._look(one), self._look(two)
        assert one_look is not None
        assert two_look is not None
        if one_look.size != two_look.size:
            first_is_larger = bool(np.prod(one_look.size) > np.prod(two_look.size))
            large_id, small_id = (one_id, two_id) if first_is_larger else (two_id, one_id)
            large, small = (one, two) if first_is_larger else (two, one)
            told = _of_sizes(large, small)
            if told is None and large.names_camera != small.names_camera:
                told = "first" if large.names_camera else "second"
            return None if told is None else large_id if told == "first" else small_id
        told = _original_of(one, two)
        if one.names_camera != two.names_camera:
            other = "second" if one.names_camera else "first"
            return None if told == other else one_id if one.names_camera else two_id
        is_one_format = one.record.metadata.format == two.record.metadata.format
        if told == "same" and not (is_one_format or (one.is_lossless and two.is_lossless)):
            return None  # a PNG of a WebP, and a WebP without loss of a PNG
        if told == "same":
            return one_id if (not one.says_camera, *one.rank) < (not two.says_camera, *two.rank) else two_id
        return None if told is None else one_id if told == "first" else two_id

    def copy_of(self, row_id: int) -> Copy:
        """A picture that was found to be the same as another."""
        file = self._file(row_id)
        assert file is not None
        return file.copy(self._sharpness.get(file.key, 0.0))

    def _file(self, row_id: int) -> _File | None:
        if row_id not in self._files:
            self._files[row_id] = _describe(self._photos, row_id)
        return self._files[row_id]

    def _look(self, file: _File) -> Look | None:
        key = file.key
        if key in self._looks:
            self._looks.move_to_end(key)
            return self._looks[key]
        look = self._looks[key] = look_at(file.path)
        if look is not None:
            self._sharpness[key] = look.sharpness
        if len(self._looks) > _LOOKS_KEPT:
            self._looks.popitem(last=False)
        return look


@dataclass(frozen=True, slots=True)
class _File(Copy):
    """A picture whose pixels are not needed yet."""

    @property
    def mtime_us(self) -> int:
        """When the file was changed, in microseconds since 1970."""
        return self.mtime_ns // 1000

    @property
    def key(self) -> int | str:
        """The same for files whose bytes are known to be the same."""
        content = self.record.content_hash
        return content if content is not None and self.is_as_indexed else self.record.row_id

    @property
    def date_us(self) -> int:
        """As `date_of`, by the file's present time."""
        return self.mtime_us if self.record.metadata.taken_at is None else date_of(self.record)

    @property
    def rank(self) -> tuple[bool, int, int, int, str]:
        """Less is better, of files that show the same to the pixel."""
        return self.is_link, -self.size_bytes, self.date_us, self.mtime_us, self.path

    def copy(self, sharpness: float) -> Copy:
        """What is told of it."""
        told = self.size_bytes, self.identity, self.is_link, self.is_as_indexed, self.mtime_ns
        return Copy(self.record, self.path, sharpness, *told)


def _describe(photos: Collection, row_id: int) -> _File | None:
    record = photos.record(row_id)
    if record.member or is_address(photos.root):  # no file that could be deleted
        return None
    path = photos.root / record.path
    try:
        status = path.stat()
    except OSError:
        return None
    return _File(
        record,
        str(path),
        0.0,
        size_bytes=status.st_size,
        identity=(status.st_dev, status.st_ino),
        is_link=os.path.realpath(path) != str(Path(os.path.realpath(photos.root)) / record.path),
        is_as_indexed=(status.st_size, status.st_mtime_ns) == (record.size_bytes, record.mtime_ns),
        mtime_ns=status.st_mtime_ns,
    )


def _has_more(worse: _File, better: _File) -> str | None:
    """What people, the camera or the file itself say in the worse of two versions, and not in the better one."""
    mine, theirs = worse.record.metadata, better.record.metadata
    written = (
        ("keywords", set(mine.keywords) <= set(theirs.keywords)),
        ("names of people", set(mine.people) <= set(theirs.people)),
        ("a title", mine.title in (None, theirs.title)),
        ("a caption", set((mine.caption or "").split("\n")) <= {"", *(theirs.caption or "").split("\n")}),
        ("stars", mine.rating in (None, theirs.rating)),
        ("a place", mine.latitude is None or theirs.latitude is not None),
        ("a file beside it", not worse.record.sidecars or bool(better.record.sidecars)),
        ("what a camera wrote", better.says_camera or not worse.says_camera),
        ("a clip", not worse.record.is_motion or better.has_bytes_of(worse)),
        ("transparency", better.record.has("transparent") or not worse.record.has("transparent")),
    )
    return next((what for what, is_there in written if not is_there), None)


def _of_sizes(large: _File, small: _File) -> Lineage:
    """Which of two versions of other sizes has what the other was made from: the larger one, if it has more detail."""
    try:
        with PictureFile(large.path) as one, PictureFile(small.path) as two:
            if not is_enlarged(one.open(), two.open()):
                return "first"
            told = resized_from(two.stored(), one.stored())
    except (UnreadablePicture, OSError):
        return None
    return None if told is None else "second" if told == "first" else "first"


def _original_of(one: _File, two: _File) -> Lineage:
    try:
        with PictureFile(one.path) as first, PictureFile(two.path) as second:
            return original_of(first.stored(), second.stored())
    except (UnreadablePicture, OSError):
        return None


_SCRIPT = """\
#!/bin/sh
# Written by clipsearch dedupe. Review it, remove the lines of pictures to keep, then run it.
# A picture is deleted only if the one to keep is there, is another file, and both have the bytes that they had.
set -u
keep= keep_sum=
as_it_was() { [ -f "$1" ] && [ "$(cksum < "$1" | awk '{print $1, $2}')" = "$2" ]; }
remove() {
  if as_it_was "$keep" "$keep_sum" && as_it_was "$2" "$3" && ! [ "$keep" -ef "$2" ] &&
    { [ "$1" = similar ] || cmp -s -- "$keep" "$2"; }
  then rm -- "$2"
  else printf 'kept, as something changed: %s\\n' "$2" >&2
  fi
}
"""


def shell_script(groups: list[DuplicateGroup], shown: Callable[[str], str]) -> bytes:
    """A script that deletes all but the first of each group, for reading before running. `shown` makes a path safe to
    show. Paths are quoted, and kept as they are also where they are not UTF-8. What has changed since it was looked at
    is left out."""
    lines = []
    for group in groups:
        keep = group.keep
        sums = {copy.path: _sum_of(copy) for copy in (keep, *group.others)}
        lines += ["", f"# keep {shown(keep.path)} ({keep.record.width}x{keep.record.height})"]
        lines += [f"# has changed meanwhile: {shown(path)}" for path, known in sums.items() if known is None]
        if sums[keep.path] is None:
            continue
        lines.append(f"keep={_quoted(keep.path)} keep_sum='{sums[keep.path]}'")
        for other in group.others:
            how = "same" if keep.has_bytes_of(other) else "similar"
            if sums[other.path] is not None:
                lines.append(f"remove {how} {_quoted(other.path)} '{sums[other.path]}'")
    return to_bytes(_SCRIPT + "\n".join(lines) + "\n")


def _sum_of(copy: Copy) -> str | None:
    """What `cksum` prints of a file's bytes (POSIX); None if it is not the file that was looked at."""
    crc = 0
    try:
        with Path(copy.path).open("rb") as file:
            before = os.fstat(file.fileno())
            for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
                crc = _posix_crc(chunk, crc)
            after = os.fstat(file.fileno())
    except OSError:
        return None
    for status in (before, after):
        if (status.st_size, status.st_mtime_ns) != (copy.size_bytes, copy.mtime_ns):
            return None
    length = copy.size_bytes
    crc = _posix_crc(length.to_bytes((length.bit_length() + 7) // 8, "little"), crc)
    return f"{~crc & 0xFFFFFFFF} {length}"


def _posix_crc(data: bytes, crc: int) -> int:
    """The checksum of `cksum` goes through each byte from its highest bit, zlib's from its lowest, and inverts what it
    begins and ends with."""
    mirrored = int(f"{crc:032b}"[::-1], 2)
    mirrored = zlib.crc32(data.translate(_MIRRORED), mirrored ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def _quoted(path: str) -> str:
    return shlex.quote(str(Path(path).absolute()))
