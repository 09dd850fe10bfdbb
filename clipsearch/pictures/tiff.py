"""TIFF files to pixels: which page is the picture, and what its samples mean.

Pillow decompresses; the samples are interpreted here, since Pillow knows a TIFF by a table of some hundred
combinations and is silently wrong or at a loss outside it. Any number of bits, integers and floats, chunky and planar,
strips and tiles, both byte orders, all photometric interpretations of pictures; what is left is refused by its name.
Knows no index, no orientation and no metadata.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from clipsearch.pictures import holes
from clipsearch.pictures.repair import inflate, join_jpeg_tables

Array = np.ndarray[Any, Any]

ENDS_EARLY = "the TIFF ends before the picture does"
DAMAGED = "parts of the TIFF are damaged"

_MAX_DIRECTORIES = 256
_MAX_COUNT = 2**22  # values of one tag
_BLOCK_SAMPLES = 2**22  # interpreted at once

_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_TYPES |= {13: "I", 16: "Q", 17: "q", 18: "Q"}

_COMPRESSIONS = {
    1: "no", 2: "CCITT", 3: "CCITT Group 3", 4: "CCITT Group 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG",
    8: "Deflate", 9: "JBIG", 10: "JBIG", 32766: "NeXT", 32767: "Sony ARW", 32769: "Epson ERF", 32770: "Samsung SRW",
    22610: "JPEG XR", 32772: "Samsung SRW", 33004: "lossy JPEG 2000", 34692: "LuraDocument",
    34718: "Microsoft Document", 34719: "Microsoft Document", 34720: "Microsoft Document", 48124: "Jetraw",
    50013: "Pixtiff", 65001: "electron events", 65002: "electron events", 99: "JPEG", 103: "IMPAC", 262: "Kodak",
    32771: "CCITT", 32773: "PackBits", 32809: "ThunderScan", 32867: "Kodak KDC", 32895: "IT8", 32896: "IT8",
    32897: "IT8", 32898: "IT8", 32908: "Pixar film", 32909: "PixarLog", 32946: "Deflate", 32947: "DCS",
    33003: "JPEG 2000", 33005: "JPEG 2000", 33007: "JPEG 2000", 34661: "JBIG", 34676: "SGI LogLuv",
    34677: "SGI LogLuv", 34712: "JPEG 2000", 34713: "Nikon NEF", 34715: "JBIG2", 34887: "LERC", 34892: "lossy JPEG",
    34925: "LZMA", 34926: "Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 65000: "Kodak DCR", 65535: "Pentax PEF",
}  # fmt: skip
_CCITT = (2, 3, 4, 32771)
_DEFLATE = (8, 32946)
_BY_LIBTIFF = (5, 32773, 34925, 50000)  # streams of bytes, whatever the bytes mean
_BY_OTHER_PLUGINS = {33003: "J2K", 33005: "J2K", 34712: "J2K", 34927: "WEBP", 50001: "WEBP", 34933: "PNG"}
_WITH_PREDICTOR = (5, 8, 32946, 34925, 50000)
_LONGEST_RUNS = {**dict.fromkeys((*_CCITT, 5), 64), 32773: 256}  # bytes of zeros in a row that no encoder writes
_RAW_COMPRESSIONS = {32767, 32769, 32770, 32867, 34713, 34892, 65000, 65535}
_RAW_PHOTOMETRICS = {32803, 34892}  # colour filter array, linear raw
_PHOTOMETRICS = {
    0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*",
    9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv",
    34892: "linear raw", 51177: "depth",
}  # fmt: skip

_REVERSED_BITS = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class UnsupportedTiff(Exception):
    """A TIFF that is not damaged, but of a kind that is not read; its message says which."""


@dataclass(slots=True)
class Directory:
    """The tags of one page, as far as they could be read."""

    order: str  # "<" or ">"
    tags: dict[int, tuple[Any, ...]]
    tag_bytes: int = 0  # what all its tags hold, those that are not read as well
    start: int = 0  # where in the file it stands
    is_cut: bool = False  # whether it, or a value of it that counts, lies beyond the end of the file

    def get(self, tag: int, default: int = 0) -> int:
        """The first value of a tag, as a whole number."""
        values = self.tags.get(tag)
        return int(values[0]) if values and isinstance(values[0], (int, float)) else default

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self.get(256), self.get(257)

    @property
    def photometric(self) -> int:
        """How samples mean colours; what few files leave out is guessed by their number."""
        return self.get(262, 2 if self.get(277, 1) >= 3 else 1)

    @property
    def compression(self) -> int:
        """How the samples are compressed."""
        return self.get(259, 1)

    @property
    def is_picture(self) -> bool:
        """Whether this is a page of its own: no reduced version of another one, and no mask."""
        return min(self.size) > 0 and not self.get(254) & 0b101 and self.get(255) != 2

    @property
    def is_of_document(self) -> bool:
        """Whether it says that it is one page of several that belong together."""
        return bool(self.get(254) & 0b10)

    @property
    def stored_bytes(self) -> int:
        """How much of the file its pixels take."""
        return sum(v for v in (*self.tags.get(279, ()), *self.tags.get(325, ())) if isinstance(v, int) and v > 0)


# Directories

_WANTED = {
    254, 255, 256, 257, 258, 259, 262, 266, 271, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325,
    330, 332, 338, 339, 347, 514, 529, 530, 532, 34675, 42113, 50706,
}  # fmt: skip


def read_directories(stream: IO[bytes]) -> list[Directory]:
    """Every page of a TIFF and the pages below them, in the order of the file. Damaged tags are left out."""
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    found: list[Directory] = []
    seen: set[int] = set()
    waiting = [struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "I", head[4:8])[0]]
    while waiting and len(found) < _MAX_DIRECTORIES:
        at = waiting.pop(0)
        if at == 0 or at in seen:
            continue
        seen.add(at)
        try:
            directory, following = _read_directory(stream, at, order, big)
        except (struct.error, OverflowError, ValueError):
            continue
        found.append(directory)
        below = [value for value in directory.tags.get(330, ()) if isinstance(value, int)]
        waiting = [following, *waiting, *below]
    return found


def _read_directory(stream: IO[bytes], at: int, order: str, big: bool) -> tuple[Directory, int]:
    stream.seek(at)
    count = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))[0]
    entry_bytes, inline_bytes = (20, 8) if big else (12, 4)
    table = stream.read(min(count, 4096) * entry_bytes + (8 if big else 4))
    tags: dict[int, tuple[Any, ...]] = {}
    tag_bytes = 0
    is_cut = len(table) < min(count, 4096) * entry_bytes
    for start in range(0, min(count, 4096) * entry_bytes, entry_bytes):
        entry = table[start : start + entry_bytes]
        if len(entry) < entry_bytes:
            break
        tag, kind, number = struct.unpack(order + ("HHQ" if big else "HHI"), entry[:-inline_bytes])
        if kind in _TYPES:
            tag_bytes += number * struct.calcsize("=" + _TYPES[kind])
        if tag in _WANTED and kind in _TYPES and 0 < number <= _MAX_COUNT and tag not in tags:
            code = _TYPES[kind]
            length = number * struct.calcsize("=" + code)
            raw = entry[-inline_bytes:][:length]
            if length > inline_bytes:
                stream.seek(struct.unpack(order + ("Q" if big else "I"), entry[-inline_bytes:])[0])
                raw = stream.read(length)
                is_cut |= len(raw) < length
            tags[tag] = _values(raw, code, order)
    rest = table[count * entry_bytes :] if count <= 4096 else b""
    following = struct.unpack(order + ("Q" if big else "I"), rest)[0] if len(rest) == (8 if big else 4) else 0
    return Directory(order, tags, tag_bytes, at, is_cut), following


def _values(raw: bytes, code: str, order: str) -> tuple[Any, ...]:
    if code == "s" or (code == "B" and len(raw) > 64):
        return (raw,)
    single = code[0]
    number = len(raw) // struct.calcsize("=" + single)
    values = struct.unpack(f"{order}{number}{single}", raw[: number * struct.calcsize("=" + single)])
    if len(code) == 2:
        values = tuple(a / b if b else 0.0 for a, b in zip(values[::2], values[1::2], strict=False))
    return values


def shows_raw(directories: list[Directory]) -> bool:
    """Whether the TIFF is the shell of a RAW file: DNGVersion, or a page of sensor data."""
    return holds_sensor_data(directories) or says_dng(directories)


def says_dng(directories: list[Directory]) -> bool:
    """Whether it has a DNGVersion, as DNG and TIFF that were made of one have."""
    return any(50706 in directory.tags for directory in directories)


def holds_sensor_data(directories: list[Directory]) -> bool:
    """Whether a page is what a sensor saw, which is no picture yet."""
    return any(d.photometric in _RAW_PHOTOMETRICS or d.compression in _RAW_COMPRESSIONS for d in directories)


def may_hide_raw(directories: list[Directory], size_bytes: int) -> bool:
    """Whether a camera made the file and its pages and tags account for the lesser part of it.

    LibRaw must not be asked without a reason: it reads many a plain TIFF, and shows something else.
    """
    accounted = sum(directory.stored_bytes + directory.tag_bytes for directory in directories)
    return accounted * 2 < size_bytes and any(271 in directory.tags for directory in directories)


def choose_page(directories: list[Directory]) -> Directory:
    """The page that is the picture: the first one, unless that is a small version of a later one.

    Pages of scans differ by a few pixels, and those of a document say that they are its pages: viewers show the first.
    """
    pages = [d for d in directories if d.is_picture] or [d for d in directories if min(d.size) > 0]
    if not pages:
        raise ValueError("it has no page with a size")
    first = best = pages[0]
    if first.is_of_document:
        return first
    for page in pages[1:]:
        (width, height), (best_width, best_height) = page.size, best.size
        larger = width > best_width and height > best_height
        larger = larger and all(side >= _LARGER * of for side, of in zip(page.size, first.size, strict=True))
        alike = abs(math.log(width * first.size[1] / (height * first.size[0]))) < 0.05
        if larger and not page.is_of_document and (alike or max(first.size) <= 512):
            best = page if page.photometric in _PHOTOMETRICS else best
    return best


_LARGER = 1.5  # times as wide and high as what may be a thumbnail


# Pixels


def decode_page(stream: IO[bytes], page: Directory) -> tuple[Image.Image, str | None]:
    """Decode a page, with what is missing of it in words (None: nothing).

    The image has mode L, LA, RGB, RGBA, CMYK or LAB, eight bits a sample, and in `info` its profile, and for the last
    two modes "alpha", an image of mode L, if there is any.
    Raises: UnsupportedTiff, and ValueError, OSError and the like for damage.
    """
    layout = _Layout.of(page)
    reader = _Chunks(stream, page, layout)
    planes = [reader.plane(n) if n in layout.shown else np.empty((0, 0), np.uint8) for n in range(layout.planes)]
    if reader.failed and not reader.decoded:
        raise (reader.error or ValueError("no part can be decoded"))
    rows_there = reader.rows_there
    if reader.colour is not None:  # the decompressor has made RGB of it
        layout = layout.as_rgb(reader.colour)
    image = _interpret(page, layout, planes)
    profile = page.tags.get(34675)
    if profile:
        body = profile[0] if isinstance(profile[0], bytes) else bytes(v & 255 for v in profile)
        image.info["icc_profile"] = body
    partial = None
    if reader.failed or reader.has_hole:
        partial = ENDS_EARLY if reader.cut else DAMAGED
        if rows_there * 10 < page.size[1]:
            raise (EOFError() if reader.cut else ValueError("almost nothing can be decoded"))
    return image, partial


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the samples of a page lie in it."""

    width: int
    height: int
    bits: tuple[int, ...]  # of each sample of a pixel
    kind: str  # "u" unsigned, "i" signed, "f" float
    planar: bool
    order: str
    alpha: int | None  # which sample
    associated: bool  # colours are multiplied with alpha already
    shown: tuple[int, ...]  # planes that hold colours or alpha; chunky samples are one plane

    @classmethod
    def of(cls, page: Directory) -> _Layout:
        width, height = page.size
        samples = page.get(277, 1)
        bits = tuple(int(v) for v in page.tags.get(258, (1,)))
        if not bits:
            raise EOFError("its tags are past the end of the file")
        if len(bits) != samples:
            bits = (bits[0],) * samples
        formats = {1: "u", 2: "i", 3: "f", 4: "u"}
        given = {int(v) for v in page.tags.get(339, (1,))}
        if not given <= set(formats) or len({formats[v] for v in given}) > 1:
            raise UnsupportedTiff("a TIFF of complex or mixed numbers is not supported")
        kind = formats[given.pop()]
        if not 0 < samples <= 1024 or min(bits) < 1 or max(bits) > 64:
            raise ValueError(f"it says {samples} samples of {bits[0]} bits")
        if kind == "f" and set(bits) - {16, 24, 32, 64}:
            raise UnsupportedTiff(f"a TIFF with floating-point numbers of {bits[0]} bits is not supported")
        if kind == "i" and set(bits) - {8, 16, 32, 64}:
            raise UnsupportedTiff(f"a TIFF with signed numbers of {bits[0]} bits is not supported")
        planar = page.get(284, 1) == 2 and samples > 1
        if planar and len(set(bits)) > 1:
            raise UnsupportedTiff("a TIFF with planes of different depths is not supported")
        colours = _colours(page.photometric)
        extra = [int(v) for v in page.tags.get(338, ())]
        first_extra = samples - len(extra) if extra else colours
        alpha = next((first_extra + n for n, v in enumerate(extra) if v in (1, 2)), None)
        if alpha is not None and not colours <= alpha < samples:
            alpha = None
        associated = alpha is not None and extra[alpha - first_extra] == 1
        shown = (*range(colours), *(() if alpha is None else (alpha,))) if planar else (0,)
        return cls(width, height, bits, kind, planar, page.order, alpha, associated, shown)

    @property
    def planes(self) -> int:
        """How many planes there are."""
        return len(self.bits) if self.planar else 1

    def as_rgb(self, channels: int) -> _Layout:
        """The layout of what a decompressor has made 8-bit samples of."""
        alpha = self.alpha if self.alpha is not None and self.alpha < channels else None
        return _Layout(self.width, self.height, (8,) * channels, "u", False, "<", alpha, self.associated, (0,))

    def row_bytes(self, width: int) -> int:
        """Bytes of one row of `width` pixels of a plane."""
        return (width * (self.bits[0] if self.planar else sum(self.bits)) + 7) // 8


def _colours(photometric: int) -> int:
    return {2: 3, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}.get(photometric, 1)


class _Chunks:
    """Reads the strips or tiles of a page into planes of bytes; goes on behind damaged ones."""

    def __init__(self, stream: IO[bytes], page: Directory, layout: _Layout) -> None:
        self.stream = stream
        self.page = page
        self.layout = layout
        self.failed = 0
        self.decoded = 0
        self.cut = False
        self.has_hole = False
        stream.seek(0)
        self.head = stream.read(16)
        self.error: Exception | None = None
        self.rows_there = 0
        self.colour: int | None = None  # channels, where the decompressor deals with colour as well
        self.compression = page.compression
        self.subsampling = (1, 1)
        name = _COMPRESSIONS.get(self.compression, f"unknown ({self.compression})")
        known = {1, 7, *_CCITT, *_DEFLATE, *_BY_LIBTIFF, *_BY_OTHER_PLUGINS}
        if self.compression not in known:
            raise UnsupportedTiff(f"a TIFF with {name} compression is not supported")
        if self.compression in _CCITT and layout.bits != (1,):
            raise ValueError(f"{name} compression of more than one bit")
        if page.photometric == 6 and self.compression not in (7, *_BY_OTHER_PLUGINS):
            given = [int(v) for v in page.tags.get(530, (2, 2))]
            self.subsampling = (given[0], given[1]) if len(given) == 2 else (2, 2)
            if not set(self.subsampling) <= {1, 2, 4}:
                raise ValueError(f"chroma subsampling of {self.subsampling}")
            if self.subsampling != (1, 1) and (layout.bits != (8, 8, 8) or layout.planar):
                raise UnsupportedTiff("a TIFF with subsampled chroma in planes or more than 8 bits is not supported")
        self.predictor = page.get(317, 1) if self.compression in _WITH_PREDICTOR else 1
        bits = layout.bits[0]
        if self.predictor not in (1, 2, 3) or (self.predictor == 2 and (bits % 8 or len(set(layout.bits)) > 1)):
            raise UnsupportedTiff(f"a TIFF with predictor {self.predictor} for {bits} bits is not supported")
        if self.predictor == 3 and layout.kind != "f":
            raise ValueError("a predictor for floating-point numbers with other ones")
        tiled = 322 in page.tags and 323 in page.tags
        self.chunk_width = page.get(322) if tiled else layout.width
        self.chunk_height = page.get(323) if tiled else min(page.get(278) or layout.height, layout.height)
        if not 0 < self.chunk_width <= 2**20 or not 0 < self.chunk_height <= 2**20:
            raise ValueError(f"its tiles or strips are {self.chunk_width} x {self.chunk_height}")
        self.across = -(-layout.width // self.chunk_width)
        self.down = -(-layout.height // self.chunk_height)
        self.offsets = page.tags.get(324) or page.tags.get(273) or ()
        self.lengths = page.tags.get(325) or page.tags.get(279) or ()
        if not self.offsets:
            raise EOFError("the location of its pixels is missing")
        if not self.lengths and self.compression == 1:
            self.lengths = (self._expected_bytes(self.chunk_height),) * len(self.offsets)
        if not self.lengths:
            raise ValueError("the lengths of its strips are missing")
        self.file_bytes = stream.seek(0, io.SEEK_END)

    def _expected_bytes(self, rows: int) -> int:
        across, down = self.subsampling
        if (across, down) != (1, 1):
            return -(-self.chunk_width // across) * -(-rows // down) * (across * down + 2)
        return rows * self.layout.row_bytes(self.chunk_width)

    def plane(self, number: int) -> Array:
        """The bytes of a plane, decompressed. Shape: (H, bytes of a row), or (H, W, C) after a picture decoder."""
        layout = self.layout
        out: Array | None = None
        per_plane = self.across * self.down
        whole = self._stored_as_they_are(number * per_plane, per_plane)
        if whole is None:
            whole = self._all_strips(number * per_plane, per_plane)
        if whole is not None:
            self.decoded += per_plane
            self.rows_there = layout.height
            return whole
        for index in range(per_plane):
            top, left = index // self.across * self.chunk_height, index % self.across * self.chunk_width
            rows = min(self.chunk_height, layout.height - top)
            part, whole_there = self._chunk(number * per_plane + index, rows)
            if part is None:
                self.failed += 1
                continue
            self.failed += not whole_there
            self.decoded += 1
            if out is None:
                out = self._empty(part)
            self.rows_there = max(self.rows_there, top + min(rows, len(part)))
            if part.ndim == 3:
                columns = min(part.shape[1], layout.width - left)
                out[top : top + min(rows, len(part)), left : left + columns] = part[:rows, :columns]
            else:
                start = layout.row_bytes(left)
                length = min(part.shape[1], out.shape[1] - start)
                out[top : top + min(rows, len(part)), start : start + length] = part[:rows, :length]
        if out is None:
            out = np.zeros((layout.height, layout.row_bytes(layout.width)), np.uint8)
        return out

    def _empty(self, part: Array) -> Array:
        layout = self.layout
        if part.ndim == 3:
            return np.zeros((layout.height, layout.width, part.shape[2]), np.uint8)
        return np.zeros((layout.height, layout.row_bytes(layout.width)), np.uint8)

    def _stored(self, index: int) -> bytes:
        """A chunk as it is in the file."""
        if index >= len(self.offsets) or index >= len(self.lengths):
            self.cut = True
            return b""
        offset, length = int(self.offsets[index]), int(self.lengths[index])
        if not 0 <= offset < self.file_bytes or length < 0:
            self.cut = True
            return b""
        self.cut = self.cut or offset + length > self.file_bytes
        self.stream.seek(offset)
        data = self.stream.read(min(length, self.file_bytes - offset))
        run = _LONGEST_RUNS.get(self.compression)
        if run is not None:
            self.has_hole = self.has_hole or holes.has_hole(data, 0, len(data), run)
        elif self.compression == 1:
            self._look_for_hole(data)
        if self.page.get(266, 1) == 2 and self.compression not in (*_CCITT, 7):
            data = data.translate(_REVERSED_BITS)
        return data

    def _look_for_hole(self, data: bytes) -> None:
        """Notice zeros in rows that are not compressed, where a picture has none, and the beginning of a file."""
        row_bytes = self.layout.row_bytes(self.chunk_width)
        self.has_hole = (
            self.has_hole
            or holes.rows_have_hole(data, 0, len(data), row_bytes)
            or holes.begins_again(data, 0, len(data), self.head)
        )

    def _stored_as_they_are(self, first: int, count: int) -> Array | None:
        """Every strip of a plane at once, where they are not compressed and follow each other."""
        row_bytes, tiled = self.layout.row_bytes(self.chunk_width), 322 in self.page.tags
        if self.compression != 1 or tiled or self.subsampling != (1, 1) or len(self.offsets) < first + count:
            return None
        start = int(self.offsets[first])
        ends = zip(self.offsets[first + 1 : first + count], self.lengths[first : first + count - 1], strict=False)
        at = start
        for following, length in ends:
            at += int(length)
            if int(length) != self.chunk_height * row_bytes or int(following) != at:
                return None
        expected = self.layout.height * row_bytes
        if start < 0 or start + expected > self.file_bytes:
            return None
        self.stream.seek(start)
        data = self.stream.read(expected)
        self._look_for_hole(data)
        if self.page.get(266, 1) == 2:
            data = data.translate(_REVERSED_BITS)
        return np.frombuffer(data, np.uint8).reshape(self.layout.height, row_bytes)

    def _all_strips(self, first: int, count: int) -> Array | None:
        """Every strip of a plane at once, where libtiff decompresses them and nothing is wrong with any."""
        simple = self.across == 1 and self.chunk_width == self.layout.width and self.subsampling == (1, 1)
        if self.compression not in (*_BY_LIBTIFF, *_CCITT) or not simple or count == 1:
            return None
        strips = [self._stored(first + n) for n in range(count)]
        if not all(strips):
            return None
        try:
            raw = self._through_libtiff(strips, self.layout.height, self.chunk_height)
        except Exception:  # Pillow raises whatever it likes: then one by one
            return None
        return self._without_prediction(raw)

    def _chunk(self, index: int, rows: int) -> tuple[Array | None, bool]:
        """One strip or tile, decompressed, and whether it is complete. None where there is nothing of it."""
        data = self._stored(index)
        if not data:
            return None, False
        was_cut = index < len(self.lengths) and len(data) < int(self.lengths[index])
        tiled = 322 in self.page.tags
        stored_rows = self.chunk_height if tiled else rows
        try:
            if self.compression == 7 or self.compression in _BY_OTHER_PLUGINS:
                part, complete = self._picture(data, stored_rows)
                return part, complete and not was_cut
            if self.compression in _BY_LIBTIFF or self.compression in _CCITT:
                part = self._through_libtiff([data], stored_rows, stored_rows)
                return self._without_prediction(part), not was_cut
            expected = self._expected_bytes(stored_rows)
            body, sound = inflate(data, expected) if self.compression in _DEFLATE else (data, True)
        except UnsupportedTiff:
            raise
        except Exception as error:
            self.error = self.error or error
            return None, False
        complete = sound and len(body) >= expected
        if self.subsampling != (1, 1):
            full = np.zeros(expected, np.uint8)
            full[: min(len(body), expected)] = np.frombuffer(body, np.uint8)[:expected]
            return self._with_whole_chroma(full, stored_rows), complete
        row_bytes = self.layout.row_bytes(self.chunk_width)
        there = min(len(body) // row_bytes, stored_rows)
        if there == 0:
            return None, False
        part = np.frombuffer(body, np.uint8, there * row_bytes).reshape(there, row_bytes)
        return self._without_prediction(part), complete

    def _through_libtiff(self, strips: list[bytes], rows: int, rows_per_strip: int) -> Array:
        """Decompress by means of a TIFF of bytes: what libtiff makes of them does not depend on what they mean."""
        if self.compression in _CCITT:
            width, bits = self.chunk_width, 1
        else:
            width, bits = self.layout.row_bytes(self.chunk_width), 8
        entries = {256: width, 257: rows, 258: bits, 259: self.compression, 262: 1, 277: 1, 278: rows_per_strip}
        if self.compression in _CCITT:
            entries |= {266: self.page.get(266, 1), 292: self.page.get(292), 293: self.page.get(293)}
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(_small_tiff(entries, strips)))
        with image:
            if image.size != (width, rows):
                raise ValueError("a strip has the wrong size")
            image.load()
            pixels = np.asarray(image)
        return np.packbits(pixels, axis=1) if bits == 1 else pixels

    def _without_prediction(self, part: Array) -> Array:
        """Undo the predictor of rows of bytes. The result is in the file's byte order, after predictor 3 big-endian."""
        if self.predictor == 1:
            return part
        layout = self.layout
        samples = 1 if layout.planar else len(layout.bits)
        size = layout.bits[0] // 8
        rows = len(part)
        if self.predictor == 3:
            summed = np.cumsum(part.reshape(rows, -1, samples), axis=1, dtype=np.uint8).reshape(rows, size, -1)
            mixed = np.ascontiguousarray(summed.transpose(0, 2, 1))
            if layout.order == "<":
                mixed = mixed[..., ::-1]
            return np.ascontiguousarray(mixed).reshape(rows, -1)
        if size == 3:
            raise UnsupportedTiff("a TIFF with a predictor for 24 bits is not supported")
        values = part.view(f"{layout.order}u{size}").reshape(rows, -1, samples)
        summed = np.cumsum(values, axis=1, dtype=f"u{size}").astype(f"{layout.order}u{size}")
        return summed.reshape(rows, -1).view(np.uint8)

    def _with_whole_chroma(self, body: Array, rows: int) -> Array:
        """Blocks of Y, Y, ..., Cb, Cr made into pixels. Shape of the result: (rows, 3 W)."""
        across, down = self.subsampling
        columns, lines = -(-self.chunk_width // across), -(-rows // down)
        blocks = body.reshape(lines, columns, across * down + 2)
        luma = blocks[..., :-2].reshape(lines, columns, down, across).transpose(0, 2, 1, 3)
        out = np.empty((lines * down, columns * across, 3), np.uint8)
        out[..., 0] = luma.reshape(lines * down, columns * across)
        out[..., 1:] = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        return out[:rows, : self.chunk_width].reshape(rows, -1)

    def _picture(self, data: bytes, rows: int) -> tuple[Array, bool]:
        """A chunk that is a picture file of another format. Shape: (rows, W, C) uint8."""
        complete = True
        layout = self.layout
        if max(layout.bits) > 8:
            name = _COMPRESSIONS[self.compression]
            raise UnsupportedTiff(f"a TIFF with {name} compression of {max(layout.bits)} bits is not supported")
        if self.compression == 7:
            channels = 1 if layout.planar else len(layout.bits)
            table = self.page.tags.get(347, (b"",))
            tables = table[0] if isinstance(table[0], bytes) else bytes(v & 255 for v in table)
            transform = 1 if self.page.photometric == 6 and not layout.planar else 0
            data, complete = join_jpeg_tables(tables, data, transform if channels >= 3 else None)
            image: Any = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        else:
            from PIL import Jpeg2KImagePlugin, PngImagePlugin, WebPImagePlugin

            plugin: Any = {
                "J2K": Jpeg2KImagePlugin.Jpeg2KImageFile,
                "WEBP": WebPImagePlugin.WebPImageFile,
                "PNG": PngImagePlugin.PngImageFile,
            }[_BY_OTHER_PLUGINS[self.compression]]
            image = plugin(io.BytesIO(data))
        with image:
            if image.width > self.chunk_width + 16 or image.height > max(rows, self.chunk_height) + 16:
                raise ValueError("a tile has the wrong size")
            image.load()
            pixels = np.asarray(image)
        if self.compression == 7:
            last = set(pixels[-1, -1].ravel().tolist())
            missing = holes.missing_of(data, "JPEG", _pixels_of_jpeg, ends_grey=last == {128})
            complete = complete and missing is None
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8) * 255
        if self.compression == 7 and pixels.shape[2] == 4:
            pixels = 255 - pixels  # Pillow takes all CMYK for Adobe's, which is inverted
        if self.page.photometric == 6 and self.compression not in (7, 33005) and pixels.shape[2] == 3:
            pixels = np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB"))
        if not layout.planar:
            self.colour = pixels.shape[2]
        return pixels, complete


def _pixels_of_jpeg(content: bytes) -> bytes | None:
    with suppress(Exception), JpegImagePlugin.JpegImageFile(io.BytesIO(content)) as image:
        image.load()
        return image.tobytes()
    return None


def _small_tiff(entries: dict[int, int], strips: list[bytes]) -> bytes:
    """A little-endian TIFF of one page with these tags and strips."""
    table_bytes = 2 + 12 * (len(entries) + 2) + 4
    lists_at = 8 + table_bytes
    inline = len(strips) == 1
    start = lists_at + (0 if inline else 8 * len(strips))
    offsets, lengths = [], [len(strip) for strip in strips]
    for length in lengths:
        offsets.append(start)
        start += length
    count = len(strips)
    rows = [(tag, 4, 1, value) for tag, value in entries.items()]
    rows.append((273, 4, count, offsets[0] if inline else lists_at))
    rows.append((279, 4, count, lengths[0] if inline else lists_at + 4 * count))
    table = b"".join(struct.pack("<HHII", *row) for row in sorted(rows))
    lists = b"" if inline else struct.pack(f"<{2 * count}I", *offsets, *lengths)
    return b"".join((b"II*\0\x08\0\0\0", struct.pack("<H", len(rows)), table, bytes(4), lists, *strips))


# Samples to colours


def _interpret(page: Directory, layout: _Layout, planes: list[Array]) -> Image.Image:
    photometric = page.photometric
    if photometric not in _PHOTOMETRICS or photometric in (32844, 32845, *_RAW_PHOTOMETRICS, 51177):
        name = _PHOTOMETRICS.get(photometric, f"unknown colours ({photometric})")
        raise UnsupportedTiff(f"a TIFF with {name} is not supported")
    if photometric == 5 and page.get(332, 1) != 1:
        raise UnsupportedTiff("a TIFF with inks other than CMYK is not supported")
    decoded_colours = planes[0].ndim == 3 and not layout.planar
    if decoded_colours and photometric == 6:
        photometric = 2
    colours = _colours(photometric)
    if len(layout.bits) < colours:
        raise ValueError(f"{_PHOTOMETRICS[photometric]} of {len(layout.bits)} samples")
    wanted = [*range(colours), *([] if layout.alpha is None else [layout.alpha])]
    if photometric == 3:
        return _with_palette(page, layout, planes, wanted)
    if photometric in (8, 9, 10) and (layout.kind == "f" or set(layout.bits[:3]) - {8, 16}):
        raise UnsupportedTiff(f"a TIFF with {_PHOTOMETRICS[photometric]} of {layout.bits[0]} bits is not supported")
    if photometric in (1, 2, 5) and layout.kind == "u" and set(layout.bits) == {8} and not layout.planar:
        return _image(photometric, _chunky_bytes(planes[0], layout, wanted), layout)
    scale = _scale_of(layout, planes, wanted, _nodata_of(page))
    out = np.empty((layout.height, layout.width, len(wanted)), np.uint8)
    for rows, values in _blocks(layout, planes, wanted):
        if photometric in (8, 9, 10):
            out[rows, :, :3] = _lab_bytes(values[:3], layout.bits[0], photometric, signed=layout.kind == "i")
        else:
            for channel in range(colours):
                out[rows, :, channel] = scale(values[channel], channel)
        if layout.alpha is not None:
            out[rows, :, colours] = scale(values[-1], layout.alpha)
    if photometric == 0:
        out[..., 0] = 255 - out[..., 0]
    if photometric == 6:
        out[..., :3] = _ycbcr_to_rgb(page, out[..., :3])
    return _image(photometric, out, layout)


def _chunky_bytes(plane: Array, layout: _Layout, wanted: list[int]) -> Array:
    """The samples of the most usual layout, which are what is wanted already. Shape: (H, W, C)."""
    samples = plane
    if plane.ndim == 2:
        samples = plane[:, : layout.width * len(layout.bits)].reshape(layout.height, layout.width, len(layout.bits))
    return samples if wanted == list(range(samples.shape[2])) else samples[..., wanted]


def _image(photometric: int, out: Array, layout: _Layout) -> Image.Image:
    has_alpha = layout.alpha is not None
    if photometric in (5, 8, 9, 10):
        size, channels = (out.shape[1], out.shape[0]), 4 if photometric == 5 else 3
        colours = np.ascontiguousarray(out[..., :channels])
        if photometric != 5:
            colours[..., 1:] ^= 128  # as Pillow packs them
        image = Image.frombytes("CMYK" if photometric == 5 else "LAB", size, colours)
        if has_alpha and not layout.associated:  # where ink was multiplied with it, what is transparent has none
            image.info["alpha"] = Image.frombytes("L", size, np.ascontiguousarray(out[..., channels]))
        return image
    if has_alpha and layout.associated:
        on_white = out[..., :-1]
        if photometric != 0:  # where zero is white, what is transparent is white already
            on_white = np.minimum(on_white + (255 - out[..., -1:].astype(np.uint16)), 255).astype(np.uint8)
        out = on_white
    channels = out.shape[2]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    body = np.ascontiguousarray(out[..., 0] if channels == 1 else out)
    image = Image.fromarray(body)
    assert image.mode == mode
    return image


def _blocks(layout: _Layout, planes: list[Array], wanted: list[int]) -> Iterator[tuple[slice, list[Array]]]:
    """The wanted samples, some rows at a time: one array (rows, W) each."""
    rows = max(1, _BLOCK_SAMPLES // max(1, layout.width * (1 if layout.planar else len(layout.bits))))
    for top in range(0, layout.height, rows):
        span = slice(top, min(top + rows, layout.height))
        if layout.planar:
            single = replace(layout, bits=layout.bits[:1], planar=False)
            yield span, [_unpack(planes[n][span], single, [0])[0] for n in wanted]
        else:
            yield span, _unpack(planes[0][span], layout, wanted)


def _unpack(raw: Array, layout: _Layout, wanted: list[int]) -> list[Array]:
    """Bytes of rows to numbers. Shapes: raw (rows, bytes) or (rows, W, C); results (rows, W)."""
    if raw.ndim == 3:
        return [raw[..., n] for n in wanted]
    bits, samples, width = layout.bits[0], len(layout.bits), layout.width
    if len(set(layout.bits)) == 1 and bits in (8, 16, 32, 64):
        code = f"{layout.order}{layout.kind}{bits // 8}"
        values = np.ascontiguousarray(raw).view(code)[:, : width * samples].reshape(len(raw), width, samples)
        return [values[..., n] for n in wanted]
    if len(set(layout.bits)) == 1 and bits == 24:
        triples = raw[:, : width * samples * 3].reshape(len(raw), width, samples, 3)
        if layout.order == "<":
            triples = triples[..., ::-1]
        return [_from_24_bits(triples[..., n, :], layout.kind) for n in wanted]
    fields = np.unpackbits(raw, axis=1)[:, : width * sum(layout.bits)].reshape(len(raw), width, sum(layout.bits))
    results = []
    for n in wanted:
        start, size = sum(layout.bits[:n]), layout.bits[n]
        weights = (1 << np.arange(size - 1, -1, -1, dtype=np.uint64)).astype(np.uint64)
        results.append((fields[..., start : start + size] * weights).sum(axis=-1, dtype=np.uint64))
    return results


def _from_24_bits(triples: Array, kind: str) -> Array:
    """Big-endian triples of bytes to numbers; floats have 1 sign, 7 exponent and 16 fraction bits."""
    wide = triples.astype(np.uint32)
    values = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    if kind != "f":
        return np.asarray(values)
    exponent = (values >> 16 & 127).astype(np.int32)
    fraction = (values & 0xFFFF).astype(np.float64) / 65536
    sign = np.where(values >> 23, -1.0, 1.0)
    return np.asarray(
        np.where(exponent == 0, sign * fraction * 2.0**-62, sign * (1 + fraction) * 2.0 ** (exponent - 63))
    )


def _nodata_of(page: Directory) -> float | None:
    """The value that stands for no data (GDAL_NODATA), if the page names one."""
    written = page.tags.get(42113, (b"",))[0]
    with suppress(ValueError, UnicodeDecodeError):
        nodata = float(written.split(b"\0")[0].decode("ascii")) if isinstance(written, bytes) else math.nan
        return nodata if math.isfinite(nodata) else None
    return None


def _scale_of(
    layout: _Layout, planes: list[Array], wanted: list[int], nodata: float | None
) -> Callable[[Array, int], Array]:
    """What takes samples to 0..255.

    Unsigned numbers of up to 16 bits span what their bits can hold. Others have no fixed span; see `span_of`.
    """
    if layout.kind == "u" and max(layout.bits[n] for n in wanted) <= 16:
        tables = {bits: _table(bits) for bits in set(layout.bits)}
        return lambda values, channel: tables[layout.bits[channel]][values]
    colours = [n for n in wanted if n != layout.alpha]
    found = extremes_of(
        lambda: (channel for _, values in _blocks(layout, planes, colours) for channel in values), nodata
    )
    span = span_of(found, layout.kind, layout.bits[0])

    def scaled(values: Array, channel: int) -> Array:
        if channel == layout.alpha:
            return to_bytes(values, *_alpha_span(layout))
        return to_bytes(values, *span, found.nothing)

    return scaled


def _alpha_span(layout: _Layout) -> tuple[float, float]:
    """The span of alpha is that of its type, whatever values occur: 1 for floats."""
    bits = layout.bits[0]
    return (0.0, 1.0 if layout.kind == "f" else 2.0 ** (bits - (layout.kind == "i")) - 1)


def _table(bits: int) -> Array:
    top = (1 << bits) - 1
    return ((np.arange(1 << bits, dtype=np.uint32) * 255 + top // 2) // top).astype(np.uint8)


class Extremes(NamedTuple):
    """The least and the greatest sample (inf and -inf of none), without those that stand for nothing."""

    low: float
    high: float
    nothing: tuple[float, ...]
    most: tuple[float, float]  # all but a thousandth at either end lie between them
    bright: float  # all but a twentieth are no greater
    whole: bool  # whether all are whole numbers, as far as it was looked


_USUAL_NOTHING = (9999.0, 99999.0, 999999.0, 32767.0)
_LARGEST_MEANT = 1e20


def extremes_of(parts: Callable[[], Iterable[Array]], nodata: float | None = None) -> Extremes:
    """The extremes of samples that come in parts, as often as they are asked for.

    What stands for no data is `nodata`, if the file says so. Many do not: then it is a value further from all others
    than these are from each other, if it is below zero, beyond any measure or all nines.
    """
    nothing = () if nodata is None else (nodata,)
    low, high = _extremes_without(parts(), nothing)
    while len(nothing) < 4:
        for value in (low, high):
            if not (-math.inf < value < 0 or _LARGEST_MEANT <= value < math.inf or value in _USUAL_NOTHING):
                continue
            inner_low, inner_high = _extremes_without(parts(), (*nothing, value))
            if inner_low <= inner_high and max(value - inner_high, inner_low - value) > inner_high - inner_low > 0:
                break
        else:
            break
        nothing, low, high = (*nothing, value), inner_low, inner_high
    return Extremes(low, high, nothing, *_distribution(parts(), nothing))


def _extremes_without(parts: Iterable[Array], nothing: tuple[float, ...]) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for values in parts:
        kept = _without(values, nothing)
        if kept.size:
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
    return low, high


def _without(values: Array, nothing: tuple[float, ...]) -> Array:
    kept = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    for value in nothing:
        kept = kept[~_equal(kept, value)]
    return kept


_MOST_LOOKED_AT = 2**19  # samples


def _distribution(parts: Iterable[Array], nothing: tuple[float, ...]) -> tuple[tuple[float, float], float, bool]:
    """The last three of `Extremes`, from samples at equal distances."""
    taken: list[Array] = []
    step = 1
    for values in parts:
        taken.append(_without(values, nothing).reshape(-1)[::step].copy())
        while sum(some.size for some in taken) > _MOST_LOOKED_AT:
            taken, step = [some[::2].copy() for some in taken], 2 * step
    looked_at = np.concatenate(taken) if taken else np.empty(0)
    if not looked_at.size:
        return (math.inf, -math.inf), -math.inf, False
    # The nearest samples outwards: a small picture has none that are few.
    last = looked_at.size - 1
    places = [last // 1000, last - last // 20, last - last // 1000]
    low, bright, high = (float(value) for value in np.partition(looked_at, places)[places])
    whole = looked_at.dtype.kind != "f" or bool((looked_at == np.rint(looked_at)).all())
    return (low, high), bright, whole


def _equal(values: Array, value: float) -> Array:
    """Which samples are `value`, as far as their type and its decimal form can tell."""
    slack = abs(value) * 1e-6 if values.dtype.kind == "f" else 0.0
    least, most = value - slack, value + slack
    if values.dtype.kind == "f":
        top = float(np.finfo(values.dtype).max)
        least, most = max(least, -top), min(most, top)
    return np.asarray((values >= least) & (values <= most))


def span_of(found: Extremes, kind: str, bits: int) -> tuple[float, float]:
    """Which values are black and white, where a type alone does not say it, from the values that occur.

    The smallest usual span that holds most of them: 0..1 (floats only), 0..255, that of 10, 12, 14 or 16 bits, all that
    the type holds. Few may lie outside: hot pixels, and in floats the sun and lamps above a white of 1. Numbers with a
    sign span all of their type if they use much of it; what fits nothing, as heights do and temperatures, spans its own
    values.
    """
    if not found.low <= found.high:
        return 0.0, 1.0
    low, high = found.most
    fitting = next((float(span) for span in _USUAL_SPANS if low >= 0 and high <= span), None)
    if kind == "f" and low >= -0.01:
        if high <= 1.0:
            return 0.0, 1.0
        if found.whole and high <= _BRIGHTEST:
            return 0.0, high
        if not found.whole and (high <= _BRIGHTEST or found.bright <= _BRIGHT):
            return 0.0, max(1.0, found.bright)
    own_low, own_high = _own_span(found)
    if kind == "f":
        far_from_zero = fitting is not None and fitting > 255 and high - low < high / 4
        return (own_low, own_high) if fitting is None or far_from_zero else (0.0, fitting)
    top = 2.0 ** (bits - (kind == "i")) - 1
    if low < 0:
        return (-top - 1, top) if own_high - own_low > top / 2 else (own_low, own_high)
    if bits <= 8:
        return 0.0, top
    if fitting is not None:
        return 0.0, min(fitting, top)
    return (0.0, top) if own_high > top / 4 else (own_low, own_high)


def _own_span(found: Extremes) -> tuple[float, float]:
    """From the least value to the greatest, but for few that are far from all others."""
    low, high = found.most
    far = _FAR * (high - low)
    if far <= 0:
        return found.low, found.high
    return (found.low if low - found.low <= far else low), (found.high if found.high - high <= far else high)


_FAR = 4  # times the span of most
_BRIGHT, _BRIGHTEST = 4.0, 16.0  # times white: a twentieth of an HDR picture, and nearly all of it
_USUAL_SPANS = (255, 1023, 4095, 16383, 65535)


def to_bytes(values: Array, low: float, high: float, nothing: tuple[float, ...] = ()) -> Array:
    """Numbers to 0..255; what is no number, or one of those that stand for nothing, is black."""
    wide: Array = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.nan_to_num((wide - low) * (255.0 / max(high - low, 1e-12)), nan=0.0, posinf=255.0, neginf=0.0)
    for value in nothing:
        scaled[_equal(values, value)] = 0
    return np.asarray((scaled.clip(0, 255) + 0.5).astype(np.uint8))


def _with_palette(page: Directory, layout: _Layout, planes: list[Array], wanted: list[int]) -> Image.Image:
    colours = page.tags.get(320)
    bits = layout.bits[0]
    if colours is None or bits > 16 or layout.kind != "u" or len(colours) < 3:
        raise ValueError("its palette is missing")
    entries = len(colours) // 3
    table = np.array(colours[: 3 * entries], np.uint32).reshape(3, entries).T
    if table.max(initial=0) > 255:  # some writers forget that entries have 16 bits
        table = (table * 255 + 32767) // 65535
    table = table.astype(np.uint8)
    out = np.empty((layout.height, layout.width, len(wanted) + 2), np.uint8)
    for rows, values in _blocks(layout, planes, wanted):
        out[rows, :, :3] = table[np.minimum(values[0], entries - 1).astype(np.intp)]
        if layout.alpha is not None:
            out[rows, :, 3] = _table(layout.bits[layout.alpha])[values[1]]
    return _image(2, out, layout)


def _lab_bytes(values: list[Array], bits: int, photometric: int, *, signed: bool) -> Array:
    """L*, a*, b* in the eight bits that LittleCMS wants: L* of 0..255, a* and b* with 128 for zero."""
    light: Array
    a: Array
    b: Array
    light, a, b = (v.astype(np.float32) for v in values)
    if bits == 8:
        if photometric == 8:  # two's complement
            a, b = ((v + 128) % 256 for v in (a, b))
        elif photometric == 10:  # the spans of fax: a* of -85..85, b* of -75..125
            a, b = a / 255 * 170 - 85 + 128, b / 255 * 200 - 75 + 128
    elif photometric == 8:
        light = light / (32767 if signed else 65535) * 255  # of L*, signed numbers (libvips) use the half from zero on
        a, b = ((v + 32768) % 65536 / 256 for v in (a, b))
    elif photometric == 9:
        light, a, b = light / 65280 * 255, a / 256, b / 256
    else:
        light, a, b = light / 65535 * 255, a / 65535 * 170 - 85 + 128, b / 65535 * 200 - 75 + 128
    return np.stack([(v.clip(0, 255) + 0.5).clip(0, 255).astype(np.uint8) for v in (light, a, b)], axis=-1)


def _ycbcr_to_rgb(page: Directory, pixels: Array) -> Array:
    """CCIR 601 unless the page says otherwise, with the span that ReferenceBlackWhite gives."""
    red, green, blue = (float(v) for v in (*page.tags.get(529, (0.299, 0.587, 0.114)), 0, 0, 0)[:3])
    if not 0 < green < 1:
        red, green, blue = 0.299, 0.587, 0.114
    reference = [float(v) for v in page.tags.get(532, ())]
    if len(reference) != 6 or any(reference[n] == reference[n + 1] for n in (0, 2, 4)):
        reference = [0, 255, 128, 255, 128, 255]
    out = np.empty_like(pixels)
    rows = max(1, _BLOCK_SAMPLES // max(1, pixels.shape[1] * 3))
    for top in range(0, len(pixels), rows):
        block = pixels[top : top + rows].astype(np.float32)
        luma = (block[..., 0] - reference[0]) * (255 / (reference[1] - reference[0]))
        cb = (block[..., 1] - reference[2]) * (127 / (reference[3] - reference[2]))
        cr = (block[..., 2] - reference[4]) * (127 / (reference[5] - reference[4]))
        r = luma + cr * (2 - 2 * red)
        b = luma + cb * (2 - 2 * blue)
        g = (luma - blue * b - red * r) / green
        out[top : top + rows] = (np.stack([r, g, b], axis=-1) + 0.5).clip(0, 255).astype(np.uint8)
    return out
