"""Pictures with captions, in the forms in which people have them.

Tables (CSV, TSV, JSON lines, Parquet) with an image and a caption column, folders with a `.txt` or `.json` beside
each picture, WebDataset tars. Nothing is copied or unpacked: a tar is walked once for the places of its members.

What cannot be used is counted with its reason and left out; only a source without a single pair is an error. This
module reads captions, not pixels: whether a picture can be decoded is for `check` to say.
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import xxhash

from clipsearch.archives.said import CAPTION_COLUMNS, MOST_CAPTION_BYTES, captions_in, plain_name
from clipsearch.archives.tars import is_hidden, members_of
from clipsearch.errors import InvalidPairs, UnreadablePicture, first_line
from clipsearch.folding import is_blank
from clipsearch.pairs.spilling import Rows, first_seen
from clipsearch.pairs.tables import rows_of_text
from clipsearch.pictures.formats import is_candidate, is_picture_name
from clipsearch.records import IntArray

BadReason = Literal[
    "missing_picture",  # a caption whose picture is not there
    "no_caption",  # a picture that nothing is said of
    "empty_caption",  # only white space, and marks that show nothing
    "web_address",  # a picture somewhere else
    "malformed",  # an entry that cannot be understood
    "damaged",  # a tar that ends early: what follows is lost
]
BAD_REASONS: tuple[BadReason, ...] = get_args(BadReason)

IMAGE_COLUMNS = (
    "image", "filepath", "file_path", "file_name", "filename", "image_path", "img_path", "path", "file", "img",
    "image_file", "image_name", "picture", "photo",
)  # fmt: skip
_ADDRESS_COLUMNS = ("url", "image_url", "img_url", "link")
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_METADATA_NAMES = tuple(f"metadata{suffix}" for suffix in (".csv", ".tsv", ".jsonl", ".parquet"))
_CAPTION_SUFFIXES = ("txt", "json")
_SAMPLE_BYTES = 4096
_PLAIN_SUFFIXES = (".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".tga")
"""Of formats without compression, where an edit may change a part of the file only."""


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Where a picture's bytes are: a file, or `size_bytes` at `offset` of a tar, there called `member`."""

    path: str
    size_bytes: int
    member: str | None = None
    offset: int = 0

    @property
    def name(self) -> str:
        """What people call it; its suffix is the picture's."""
        return self.path if self.member is None else f"{self.path}/{self.member}"

    def read(self) -> bytes:
        """Return the picture file's bytes. Raises: UnreadablePicture."""
        if self.member is None:
            return self._read(0, -1)
        data = self._read(self.offset, self.size_bytes)
        if len(data) < self.size_bytes:
            raise UnreadablePicture(self.name, "truncated", "the tar ends before the picture does")
        return data

    def sample(self) -> bytes:
        """Return up to 4 KiB from the middle of the file. Raises: UnreadablePicture."""
        length = min(self.size_bytes, _SAMPLE_BYTES)
        return self._read(self.offset + (self.size_bytes - length) // 2, length)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                return file.read(length)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UnreadablePicture(self.name, "unreadable", reason.lower()) from error


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and all that is said of it: at least one caption, none empty, in their order."""

    key: str
    captions: tuple[str, ...]
    source: PictureSource
    origin: str = ""
    """The table, folder or tar that names it, as `open_pairs` was given it."""

    def read(self) -> bytes:
        """Return the picture file's bytes. Raises: UnreadablePicture."""
        return self.source.read()


@dataclass(frozen=True, slots=True)
class BadEntry:
    """Something in `source` that was left out: `entry` says which, `reason` why."""

    source: str
    entry: str
    reason: BadReason


class _StoredPairs(Sequence[Pair]):
    """Pairs that are made of rows when they are asked for (see `spilling`): a million do not have to be in memory."""

    def __init__(self, rows: Rows, chosen: IntArray | None = None) -> None:
        """`chosen`: the rows that belong to it, in their order; all by default."""
        self._rows = rows
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._rows) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> _StoredPairs: ...
    def __getitem__(self, index: int | slice) -> Pair | _StoredPairs:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        number = range(len(self))[index]
        key, captions, origin, *source = self._rows[number if self._chosen is None else int(self._chosen[number])]
        return Pair(key, captions, PictureSource(*source), origin)

    def __iter__(self) -> Iterator[Pair]:
        return (self[number] for number in range(len(self)))

    def subset(self, indices: Iterable[int]) -> _StoredPairs:
        numbers = np.fromiter(indices, np.int64)
        return _StoredPairs(self._rows, numbers if self._chosen is None else self._chosen[numbers])

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets the pairs themselves."""
        return list, (list(self),)


class PairSet(Sequence[Pair]):
    """Pairs in a fixed order: that of the sources named, and within each that of its entries.

    Knows captions and places, no pictures. Can be pickled and sent to other processes.
    """

    def __init__(self, pairs: Sequence[Pair], bad: Sequence[BadEntry] = (), sources: Sequence[str] = ()) -> None:
        self._pairs = pairs if isinstance(pairs, _StoredPairs) else list(pairs)
        self.bad = tuple(bad)
        """What was left out."""
        self.sources = tuple(sources)
        """The files and folders that were read."""

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairSet: ...
    def __getitem__(self, index: int | slice) -> Pair | PairSet:
        if isinstance(index, slice):
            return PairSet(self._pairs[index], sources=self.sources)
        return self._pairs[index]

    def subset(self, indices: Iterable[int]) -> PairSet:
        """Return the pairs at `indices`, in that order."""
        if isinstance(self._pairs, _StoredPairs):
            return PairSet(self._pairs.subset(indices), sources=self.sources)
        return PairSet([self._pairs[index] for index in indices], sources=self.sources)

    @property
    def bad_by_reason(self) -> dict[BadReason, int]:
        """How many entries were left out for each reason, the most frequent first."""
        return dict(Counter(entry.reason for entry in self.bad).most_common())

    @cached_property
    def caption_count(self) -> int:
        """How many captions all pictures have together."""
        return sum(len(pair.captions) for pair in self._pairs)

    @cached_property
    def digest(self) -> str:
        """Identity of the content: xxh3-128, hexadecimal; the same after the files were copied or moved.

        Covers, in order, every key and caption, and of each picture its size and 4 KiB from its middle: an
        edited picture in a compressed format differs there, and a NAS is spared reading everything. Of pictures in
        other formats it covers all.
        """
        hasher = xxhash.xxh3_128()
        for pair in self._pairs:
            try:
                is_plain = pair.source.name.lower().endswith(_PLAIN_SUFFIXES)
                sample = pair.source.read() if is_plain else pair.source.sample()
            except UnreadablePicture:
                sample = b""
            for part in (pair.key, *pair.captions):
                encoded = part.encode("utf-8", "surrogatepass")
                hasher.update(len(encoded).to_bytes(8, "little") + encoded)
            hasher.update(f"{len(pair.captions)} {pair.source.size_bytes} {len(sample)} ".encode() + sample)
        return hasher.hexdigest()


@dataclass(slots=True)
class _Reading:
    """What has been read so far, of one source or of several."""

    pairs: Rows = field(default_factory=Rows)  # of what `_StoredPairs` makes pairs
    bad: list[BadEntry] = field(default_factory=list)
    origin: str = ""  # what is being read

    def leave_out(self, source: str, entry: str, reason: BadReason) -> None:
        self.bad.append(BadEntry(source, entry, reason))

    def add(self, source: str, key: str, captions: Iterable[str], picture: PictureSource) -> None:
        """Add a pair, if a caption is left once they are stripped."""
        kept = []
        given = False
        for caption in captions:
            given = True
            if not is_blank(caption):
                kept.append(caption.strip())
            else:
                self.leave_out(source, key, "empty_caption")
        if kept:
            source_of = (picture.path, picture.size_bytes, picture.member, picture.offset)
            self.pairs.append((key, tuple(kept), self.origin, *source_of))
        elif not given:
            self.leave_out(source, key, "no_caption")


def open_pairs(
    sources: Sequence[str | Path] | str | Path,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> PairSet:
    """Open pairs in one or several sources, in the order given.

    A source is a table (`.csv`, `.tsv`, `.txt` with a header, `.jsonl`, `.json`, `.parquet`), a folder, a WebDataset
    tar, or a pattern of such: `pairs-*.tar`, `pairs-{0000..0009}.tar`, `{a,b}.csv`. Columns are found by their usual
    names (IMAGE_COLUMNS, CAPTION_COLUMNS) unless named. Paths in a table are relative to its folder; rows of one
    picture become one pair with several captions. A `.txt` has one caption a line; a `.json` has them under one of
    CAPTION_COLUMNS. Captions are stripped of white space around them and otherwise left alone.

    Raises: InvalidPairs if a source is not there, cannot be understood, or all of them hold no pair.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    places = [place for source in given for place in expand_source(os.fspath(source))]
    reading = _Reading()
    for place in places:
        reading.origin = place
        if os.path.isdir(place):
            _read_folder(place, reading, image_column, caption_column)
        else:
            _read_file(place, reading, image_column, caption_column)
    if not len(reading.pairs):
        counted = Counter(entry.reason for entry in reading.bad).most_common()
        found = ", ".join(f"{number:,} {reason.replace('_', ' ')}" for reason, number in counted) or "it is empty"
        first = f"; first: {reading.bad[0].entry}" if reading.bad else ""
        raise InvalidPairs(", ".join(map(str, given)), f"no picture with a caption ({found}{first})")
    return PairSet(_StoredPairs(reading.pairs), reading.bad, places)


# Which files


def expand_source(source: str) -> list[str]:
    """Return the files and folders that a source names. Patterns are tried only if no file has that name.

    Raises: InvalidPairs if one is not there.
    """
    source = os.path.expanduser(source)
    if os.path.exists(source):
        return [source]
    found: list[str] = []
    for name in expand_braces(source):
        matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        if not matches or not all(os.path.exists(match) for match in matches):
            raise InvalidPairs(source, "no such file" if name == source else f"{name} does not exist")
        found += matches
    return found


_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """Expand `{0000..0009}` (numbers keep their width) and `{a,b}` as a shell does. Braces do not nest."""
    opening = pattern.find("{")
    closing = pattern.find("}", opening)
    if opening < 0 or closing < 0:
        return [pattern]
    inner = pattern[opening + 1 : closing]
    span = _RANGE.fullmatch(inner)
    if span:
        first, last = int(span[1]), int(span[2])
        width = (
            max(len(part) for part in span.groups()) if any(re.match("0[0-9]", part) for part in span.groups()) else 0
        )
        step = 1 if last >= first else -1
        choices = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    elif "," in inner:
        choices = inner.split(",")
    else:
        choices = [f"{{{inner}}}"]
    return [pattern[:opening] + choice + rest for choice in choices for rest in expand_braces(pattern[closing + 1 :])]


def _read_file(path: str, reading: _Reading, image_column: str | None, caption_column: str | None) -> None:
    lower = path.lower()
    if lower.endswith(".tar"):
        _read_tar(path, reading, caption_column)
    elif lower.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise InvalidPairs(path, "a compressed tar cannot be read in random order; decompress it first (gunzip, xz -d)")
    elif lower.endswith(_TABLE_SUFFIXES):
        _read_table(path, reading, image_column, caption_column)
    else:
        raise InvalidPairs(path, "not a table, folder or tar of pairs")


# Captions


def _parse_captions(data: bytes, suffix: str, caption_column: str | None) -> list[str] | None:
    """The captions in a `.txt` (one a line) or `.json`; None if it cannot be understood."""
    try:
        text = data.decode("utf-8-sig")
        if suffix == "txt":
            return [line for line in text.splitlines() if not is_blank(line)] or [""]
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        names = [caption_column] if caption_column else CAPTION_COLUMNS
        column = next((name for name in value if plain_name(name) in map(plain_name, names)), None)
        return [] if column is None else captions_in(value[column])
    return captions_in(value)


def _join_captions(found: dict[str, list[str]]) -> list[str]:
    """What a picture's `.txt` and `.json` say together: the second usually repeats the first."""
    captions = list(found.get("txt", []))
    known = {caption.strip() for caption in captions}
    return captions + [caption for caption in found.get("json", []) if caption.strip() not in known]


# WebDataset tars


def _read_tar(path: str, reading: _Reading, caption_column: str | None) -> None:
    pictures: dict[str, PictureSource] = {}
    captions: dict[str, dict[str, list[str]]] = {}
    malformed: list[str] = []
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            size_bytes = os.path.getsize(path)
            for member in members_of(archive, size_bytes, lambda where: reading.leave_out(path, where, "damaged")):
                if not member.isreg() or member.issparse() or is_hidden(member.name):
                    continue
                key, _, suffix = member.name.removeprefix("./").rpartition(".")
                suffix = suffix.lower()
                if suffix in _CAPTION_SUFFIXES:
                    file.seek(member.offset_data)
                    found = _parse_captions(file.read(min(member.size, MOST_CAPTION_BYTES)), suffix, caption_column)
                    if found is None:
                        malformed.append(member.name.removeprefix("./"))
                    else:
                        captions.setdefault(key, {})[suffix] = found
                elif is_candidate(member.name):
                    pictures[key] = PictureSource(path, member.size, member.name, member.offset_data)
    except (OSError, tarfile.TarError) as error:
        raise InvalidPairs(path, f"not a readable tar: {error}") from error
    for name in malformed:
        reading.leave_out(path, name, "malformed")
    malformed_keys = {name.rpartition(".")[0] for name in malformed}
    for key, picture in pictures.items():
        found_captions = captions.pop(key, None)
        if found_captions is not None or key not in malformed_keys:
            reading.add(path, key, _join_captions(found_captions or {}), picture)
    for key in captions:
        reading.leave_out(path, key, "missing_picture")


# Folders


def _read_folder(folder: str, reading: _Reading, image_column: str | None, caption_column: str | None) -> None:
    """Read a folder of pictures with captions beside them; or its metadata table; or the tars in it."""
    for name in _METADATA_NAMES:
        table = os.path.join(folder, name)
        if os.path.isfile(table):
            _read_table(table, reading, image_column, caption_column)
            return
    pictures: list[tuple[str, str]] = []  # key, name of the file
    captions: dict[str, dict[str, str]] = {}
    tars: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(root, folder).replace(os.sep, "/")
        for name in sorted(name for name in names if not is_hidden(name)):
            key, _, suffix = (name if inside == "." else f"{inside}/{name}").rpartition(".")
            suffix = suffix.lower()
            if suffix in _CAPTION_SUFFIXES:
                captions.setdefault(key, {})[suffix] = os.path.join(root, name)
            elif suffix == "tar":
                tars.append(os.path.join(root, name))
            elif key and is_candidate(name):
                pictures.append((key, os.path.join(root, name)))
    if tars and not pictures:
        for tar in tars:
            _read_tar(tar, reading, caption_column)
        return
    described = {key for key, _ in pictures}
    for key, path in pictures:
        picture = _picture_file(path)
        if picture is None:
            reading.leave_out(folder, key, "missing_picture")
            continue
        found: dict[str, list[str]] = {}
        malformed = False
        for suffix, place in captions.get(key, {}).items():
            parsed = _parse_captions(_first_bytes(place), suffix, caption_column)
            if parsed is None:
                malformed = True
                reading.leave_out(folder, os.path.relpath(place, folder), "malformed")
            else:
                found[suffix] = parsed
        if found or not malformed:
            reading.add(folder, key, _join_captions(found), picture)
    for key in captions.keys() - described:
        reading.leave_out(folder, key, "missing_picture")


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_CAPTION_BYTES)
    except OSError:
        return b"\xff"  # which is not UTF-8: malformed


def _picture_file(path: str) -> PictureSource | None:
    """The picture file at `path`, unless nothing is there."""
    try:
        return PictureSource(path, os.stat(path).st_size) if os.path.isfile(path) else None
    except (OSError, ValueError):
        return None


# Tables


def _read_table(path: str, reading: _Reading, image_column: str | None, caption_column: str | None) -> None:
    """Read a table's rows; those of one picture, wherever they are, become one pair at the place of the first."""
    folder = os.path.dirname(os.path.abspath(path))
    rows = Rows()
    places = bytearray()
    for entry, image, caption in _rows(path, reading, image_column, caption_column):
        captions = captions_in(caption)
        if not isinstance(image, str) or not image.strip():
            reading.leave_out(path, entry, "missing_picture" if image is None or image == "" else "malformed")
        elif captions is None:
            reading.leave_out(path, f"{entry} ({image})", "malformed")
        elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", image):
            reading.leave_out(path, f"{entry} ({image})", "web_address")
        else:
            place = os.path.join(folder, os.path.expanduser(image.strip()))
            places += xxhash.xxh3_128_digest(place.encode("utf-8", "surrogatepass"))
            rows.append((image.strip(), captions))
    numbers = first_seen(places)
    order = np.argsort(numbers, kind="stable")
    bounds = np.flatnonzero(np.diff(numbers[order], prepend=-1, append=-1))
    for start, end in pairwise(bounds):
        own = order[start:end]
        named = rows[own[0]][0]  # the path as first written
        picture = _picture_file(os.path.join(folder, os.path.expanduser(named)))
        if picture is None:
            reading.leave_out(path, named, "missing_picture")
        else:
            reading.add(path, named, [caption for row in own for caption in rows[row][1]], picture)


def _rows(
    path: str, reading: _Reading, image_column: str | None, caption_column: str | None
) -> Iterator[tuple[str, Any, Any]]:
    """Each row's name for people, image and caption. Raises: InvalidPairs."""
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path, image_column, caption_column)
        elif suffix in (".jsonl", ".ndjson", ".json"):
            yield from _json_rows(path, reading, image_column, caption_column)
        else:
            yield from _csv_rows(path, reading, image_column, caption_column)
    except UnicodeError as error:
        if not isinstance(error, UnicodeDecodeError) or error.encoding.startswith("utf-16"):
            raise InvalidPairs(path, f"it begins as UTF-16, and is damaged ({first_line(error)})") from error
        raise InvalidPairs(
            path, f"not UTF-8 (byte {error.start}); convert it with: iconv -f latin1 -t utf-8"
        ) from error
    except OSError as error:
        raise InvalidPairs(path, (error.strerror or str(error)).lower()) from error


def _encoding(path: str) -> str:
    """UTF-8, or UTF-16 where the first bytes say so (Excel's "Unicode text"). Raises: OSError."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _csv_rows(
    path: str, reading: _Reading, image_column: str | None, caption_column: str | None
) -> Iterator[tuple[str, str, str | None]]:
    with open(path, encoding=_encoding(path), newline="") as file:
        first = file.readline()
        # By content, since many files named .csv hold tabs or semicolons.
        delimiter = max("\t,;|", key=first.count)
        try:
            header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        except csv.Error as error:
            raise InvalidPairs(path, f"line 1: {error}") from error
        image = _column(path, header, image_column, IMAGE_COLUMNS, "image")
        caption = _column(path, header, caption_column, CAPTION_COLUMNS, "caption")
        image_at, caption_at = header.index(image), header.index(caption)

        def is_row(fields: list[str]) -> bool:
            if len(fields) != len(header):
                return False
            name = os.path.basename(fields[image_at].strip())
            return is_picture_name(name) and (
                "." in name or (delimiter == "\t" and re.fullmatch(r"\w+", name) is not None)
            )

        for number, row in rows_of_text(file, delimiter, is_row, first=2):
            if row is None:
                reading.leave_out(path, f"line {number}", "malformed")
            else:
                picture = row[image_at] if image_at < len(row) else ""
                yield f"line {number}", picture, row[caption_at] if caption_at < len(row) else None


def _json_rows(
    path: str, reading: _Reading, image_column: str | None, caption_column: str | None
) -> Iterator[tuple[str, Any, Any]]:
    names: tuple[str, str] | None = None
    lacking: InvalidPairs | None = None
    for entry, row in _json_objects(path):
        if not isinstance(row, dict):
            reading.leave_out(path, entry, "malformed")
            continue
        if names is None or not (names[0] in row and names[1] in row):
            if names is not None and names[0] in row:  # this one only lacks its caption
                yield entry, row[names[0]], None
                continue
            try:
                image = _column(path, list(row), image_column, IMAGE_COLUMNS, "image")
            except InvalidPairs as error:
                lacking = lacking or _at_entry(error, entry)
                reading.leave_out(path, entry, "missing_picture")
                continue
            try:
                names = image, _column(path, list(row), caption_column, CAPTION_COLUMNS, "caption")
            except InvalidPairs as error:
                lacking = lacking or _at_entry(error, entry)
                yield entry, row[image], None
                continue
        yield entry, row[names[0]], row[names[1]]
    if names is None and lacking is not None:
        raise lacking


def _at_entry(error: InvalidPairs, entry: str) -> InvalidPairs:
    return InvalidPairs(error.source, f"{entry}: {error.problem}")


def _json_objects(path: str) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON array, or one a line; None for a line that is not JSON."""
    with open(path, encoding=_encoding(path)) as file:
        first = file.read(1)
        while first and first.isspace():
            first = file.read(1)
        file.seek(0)
        if first == "[":
            try:
                rows = json.load(file)
            except (ValueError, RecursionError) as error:
                raise InvalidPairs(path, f"not JSON: {error}") from error
            yield from ((f"entry {number}", row) for number, row in enumerate(rows, 1))
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except (ValueError, RecursionError):
                    yield f"line {number}", None


def _parquet_rows(path: str, image_column: str | None, caption_column: str | None) -> Iterator[tuple[str, Any, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            image = _column(path, header, image_column, IMAGE_COLUMNS, "image")
            caption = _column(path, header, caption_column, CAPTION_COLUMNS, "caption")
            kind = file.schema_arrow.field(image).type
            if pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
                raise InvalidPairs(
                    path, f"its column {image!r} contains the pictures themselves; save them as files or as a tar"
                )
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys([image, caption]))):
                for picture, said in zip(
                    batch.column(image).to_pylist(), batch.column(caption).to_pylist(), strict=True
                ):
                    number += 1
                    yield f"row {number}", picture, said
    except pyarrow.ArrowException as error:
        raise InvalidPairs(path, f"not a readable Parquet file: {first_line(error)}") from error


def _column(path: str, header: list[str], asked: str | None, usual: Sequence[str], what: str) -> str:
    """The column that was asked for, or the first of the usual ones. Raises: InvalidPairs."""
    if asked is not None:
        if asked in header:
            return asked
        raise InvalidPairs(path, f"no column {asked!r} (it has: {', '.join(header)})")
    plain = {plain_name(name): name for name in reversed(header)}
    for name in usual:
        if name in plain:
            return plain[name]
    if what == "image" and any(name in plain for name in _ADDRESS_COLUMNS):
        raise InvalidPairs(
            path,
            "it contains URLs, not files. Download the pictures first, for example with img2dataset, "
            "and use the tars that it writes",
        )
    raise InvalidPairs(
        path,
        f"no {what} column (it has: {', '.join(header) or 'nothing'}). Name it with --{what}-column",
    )
