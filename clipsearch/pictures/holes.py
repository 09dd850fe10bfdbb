"""Pictures that decode although parts of their files are gone: overwritten with zeros, or cut and ended all the same.

Downloads into files of their full size, and copies that failed, leave zeros. A decoder takes them for data. This finds
them by evidence that whole pictures cannot give, black and grey ones included:

- Checksums, where a format has some (PNG).
- Zeros for longer than the coding of any picture yields them: HEVC forbids them, AV1 and JPEG 2000 yield 54 and 251 at
  most in pictures made for it. In a JPEG its tables tell what zeros mean: if it is blocks without change, the run may
  only not be longer than the picture.
- Where zeros may be data (WebP, some JPEGs): the end of the data is not needed for the picture, or more would be.
- A JPEG of which no end marker follows the last scan's data, whatever else does.
- Scans that a progressive JPEG promises and lacks, and data that ends before the picture does: other bytes behind it
  change the picture.
- In pixels that are not compressed: zeros, or ones, from or up to the middle of a row, which the next row does not have
  anywhere.
- Restart markers of a JPEG that are not all there, or not in their order.
- Coded data of HEVC and AV1 that is text, or a single byte: both look like noise wherever they are whole. In others,
  that of a picture of one colour may repeat itself, but does not read as text.
- Another file, or the same once more, that begins inside the coded data.
- Line ends as in text, all of them: a transfer as text made them.

Bytes in, words out. What is decoded for it, only of files that are suspect, is decoded by whoever asks.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from clipsearch.pictures import repair
from clipsearch.pictures.formats import Kind

CUT, DAMAGED = "the {} ends before the picture does", "parts of the {} are damaged"
AS_TEXT = "the {} was changed by a transfer as text (line ends)"

Decode = Callable[[bytes], bytes | None]  # a file to its pixels; None where it cannot be decoded

_NOT_ZERO, _NOT_ONES = re.compile(rb"[^\0]"), re.compile(rb"[^\xff]")
_LONGEST_RUNS = {"JPEG": 64, "WEBP": 256, "AVIF": 256, "HEIF": 16, "JPEG2000": 512}  # bytes: so many are suspect
_FILLERS = (b"\xaa\xd5" * 2048, b"\x55\x2b" * 2048)
_LAST = 8  # bytes of coded data, of which every picture needs some


def missing_of(content: bytes, kind: Kind, decode: Decode, *, ends_grey: bool = False) -> str | None:
    """What is missing of a picture that a decoder showed as if it were whole, in words; None where nothing is known.

    `ends_grey`: the last pixel is of the grey that a JPEG decoder shows where there is nothing.
    """
    if kind == "JPEG":
        found = _in_jpeg(content, decode, ends_grey=ends_grey)
    elif kind == "PNG":
        found = _in_png(content)
    elif kind == "WEBP":
        found = _in_webp(content, decode)
    elif kind in ("AVIF", "HEIF"):
        length = _LONGEST_RUNS[kind]
        extents = coded_extents(content)
        found = (
            DAMAGED if any(has_hole(content, *one, length) or _is_no_noise(content, *one) for one in extents) else None
        )
    elif kind == "JPEG2000":
        found = _in_jpeg2000(content)
    else:
        found = None
    return None if found is None else found.format(kind)


_AS_IN_TEXT = b"\t\n\r" + bytes(range(0x20, 0x7F))
_PIECE = 128  # bytes
_MOST_REPEATED = 16  # different bytes in them, of codes that repeat themselves


def has_text(content: bytes, start: int, end: int) -> bool:
    """Whether text stands in coded data, of twice a piece at least: noise yields none, nor codes that repeat."""
    count = (min(end, len(content)) - start) // _PIECE
    if count < 1:
        return False
    some = np.frombuffer(content, np.uint8, count * _PIECE, start)[:: _PIECE // 8].reshape(count, 8)
    for number in np.flatnonzero((some < 0x80).all(axis=1)).tolist():  # few of noise: each picture is looked at
        at = start + number * _PIECE
        piece = content[at : at + _PIECE]
        if piece.isascii() and not piece.translate(None, _AS_IN_TEXT) and len(set(piece)) > _MOST_REPEATED:
            letters = sum(chr(byte).isalpha() for byte in piece) + piece.count(b" ")
            if 2 * letters > _PIECE:
                return True
    return False


_FEWEST_ENDS = 8  # lines
_LOOKED_AT = 2**16  # bytes


def has_ends_of_lines(content: bytes, start: int, end: int) -> bool:
    """Whether each line feed in coded data follows a carriage return, and these stand alone as well.

    One of 256 such line feeds does by chance. Codes that repeat themselves may have the pair, but nothing else of it.
    """
    part = content[start : min(end, start + _LOOKED_AT)]
    feeds, pairs = part.count(b"\n"), part.count(b"\r\n")
    return feeds == pairs >= _FEWEST_ENDS and part.count(b"\r") - pairs >= _FEWEST_ENDS // 2


def has_hole(content: bytes, start: int, end: int, length: int) -> bool:
    """Whether so many zeros stand in a row in a part of a file."""
    return content.find(bytes(length), start, end) >= 0


_WINDOW, _STEP = 64, 2048  # bytes


def _is_no_noise(content: bytes, start: int, end: int) -> bool:
    """Whether a part of coded data is text, or one byte over and over. Looks at its end, and here and there."""
    starts = [*range(start + _WINDOW, end - 2 * _WINDOW, _STEP), end - 2 * _WINDOW]
    windows = (content[at : at + _WINDOW] for at in starts if at > start + _WINDOW)
    return any(window.isascii() or window.count(window[0]) == len(window) for window in windows)


def _run_at(content: bytes, at: int, end: int) -> int:
    """How many zeros there are from a place on."""
    found = _NOT_ZERO.search(content, at, end)
    return (end if found is None else found.start()) - at


# JPEG


@dataclass(slots=True)
class _Table:
    """Of a Huffman table: what a row of zero bits means in it, in how many of them, and whether it knows runs of ends
    of blocks."""

    symbol: int
    bits: int
    has_runs: bool


@dataclass(slots=True)
class _Scan:
    """A scan of a JPEG with what holds for it."""

    components: list[int]
    first: int
    last: int
    high: int
    low: int
    tables: list[tuple[_Table | None, _Table | None]]  # for DC and AC, of each component
    interval: int
    start: int
    end: int


@dataclass(slots=True)
class _Jpeg:
    frame: int = 0
    width: int = 0
    height: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    scans: list[_Scan] = field(default_factory=list)

    def units(self, scan: _Scan) -> tuple[int, int]:
        """How many MCUs a scan has, and how many blocks there are in all of them."""
        most_across = max(across for across, _ in self.sampling.values())
        most_down = max(down for _, down in self.sampling.values())
        if len(scan.components) == 1:
            across, down = self.sampling[scan.components[0]]
            columns = math.ceil(math.ceil(self.width * across / most_across) / 8)
            rows = math.ceil(math.ceil(self.height * down / most_down) / 8)
            return columns * rows, columns * rows
        units = -(-self.width // (8 * most_across)) * -(-self.height // (8 * most_down))
        return units, units * sum(self.sampling[one][0] * self.sampling[one][1] for one in scan.components)


def _in_jpeg(content: bytes, decode: Decode, *, ends_grey: bool) -> str | None:
    header = repair.jpeg_header(content)
    if header is None:
        return None
    frame, in_first, of_all, at = header
    hole = has_hole(content, at, len(content), _LONGEST_RUNS["JPEG"])
    several = frame in repair.PROGRESSIVE or in_first < of_all
    ends_as_usual = repair.ends_as_usual(content, at)
    stop, has_end = (len(content), True) if ends_as_usual else repair.end_of_scans(content, at)
    if has_ends_of_lines(content, at, stop):
        return AS_TEXT
    if not has_end:
        return CUT if repair.is_jpeg_cut(content) else DAMAGED
    if frame in (0xC0, 0xC1) and not several and (found := _lacks_restarts(content, at)):
        return found
    if has_text(content, at, stop) and has_text(content, at, repair.end_of_scans(content, at)[0]):
        return DAMAGED  # not in a second picture behind it
    if not hole and not several and not ends_grey:
        return None
    jpeg = _read_jpeg(content, with_tables=hole)
    if not jpeg.scans:
        return None
    if not _has_all_scans(jpeg):
        return CUT
    last = jpeg.scans[-1]
    suspect = ends_grey or (several and not content[last.end - 1] & 1 and content[last.end - 2] != 0xFF)
    for scan in jpeg.scans if hole else []:
        run_at = content.find(bytes(_LONGEST_RUNS["JPEG"]), scan.start, scan.end)
        while run_at >= 0:
            length = _run_at(content, run_at, scan.end)
            meaning = _is_no_picture(jpeg, scan, 8 * length)
            if meaning:
                return DAMAGED
            suspect = True
            run_at = content.find(bytes(_LONGEST_RUNS["JPEG"]), run_at + length, scan.end)
    if not suspect:
        return None
    start, end = content[: last.end], repair.END_OF_JPEG
    if _depends_on(decode, *(start + filler + end for filler in _FILLERS)):
        return CUT
    if hole and _needs(content, last.start, decode) and not _needs(content, last.end - _LAST, decode):
        return DAMAGED
    return None


_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


def _lacks_restarts(content: bytes, at: int) -> str | None:
    """What is missing of a JPEG of one scan, whose data starts at a place, by its restart markers."""
    beginning = _read_jpeg(content[:at] + b"\0" + repair.END_OF_JPEG, with_tables=False)
    if not beginning.scans or not beginning.scans[0].interval:
        return None
    units, _ = beginning.units(beginning.scans[0])
    needed = -(-units // beginning.scans[0].interval) - 1
    end, _ = repair.end_of_scans(content, at)
    found = b"".join(_RESTART.findall(content, at, end))
    in_order = (bytes(range(0xD0, 0xD8)) * (needed // 8 + 1))[: needed + 1]  # some write one more at the end
    if not in_order.startswith(found):
        return DAMAGED
    return CUT if len(found) < needed else None


def _depends_on(decode: Decode, one: bytes, other: bytes) -> bool:
    """Whether two files differ in what is seen."""
    first = decode(one)
    second = None if first is None else decode(other)
    return first is not None and second is not None and first != second


def _needs(content: bytes, at: int, decode: Decode) -> bool:
    """Whether a few bytes of coded data say anything: of a picture of one colour none may."""
    seen = decode(content)
    changed = (content[:at] + filler[:_LAST] + content[at + _LAST :] for filler in _FILLERS)
    return seen is None or any(decode(other) != seen for other in changed)


def _read_jpeg(content: bytes, *, with_tables: bool) -> _Jpeg:
    jpeg = _Jpeg()
    tables: dict[int, _Table] = {}
    interval = 0
    for part in repair.jpeg_parts(content):
        if part.marker == 0xDD and part.end - part.body >= 2:
            interval = int.from_bytes(content[part.body : part.body + 2], "big")
        elif part.marker == 0xC4 and with_tables:
            tables |= _read_tables(content[part.body : part.end])
        elif part.marker in repair.FRAMES:
            body = content[part.body : part.end]
            if jpeg.frame or len(body) < 6 or len(body) < 6 + 3 * body[5]:
                break
            jpeg.frame = part.marker
            jpeg.height, jpeg.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            for at in range(6, 6 + 3 * body[5], 3):
                jpeg.sampling[body[at]] = (max(1, body[at + 1] >> 4), max(1, body[at + 1] & 15))
        elif part.marker == 0xDA:
            body = content[part.body : part.end]
            count = body[0] if body else 0
            if not jpeg.frame or not 1 <= count <= 4 or len(body) < 4 + 2 * count:
                break
            pairs = [(body[1 + 2 * n], body[2 + 2 * n]) for n in range(count)]
            if not {name for name, _ in pairs} <= set(jpeg.sampling):
                break
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            jpeg.scans.append(
                _Scan(
                    [name for name, _ in pairs],
                    first,
                    last,
                    bits >> 4,
                    bits & 15,
                    [(tables.get(chosen >> 4), tables.get(0x10 | chosen & 15)) for _, chosen in pairs],
                    interval,
                    part.body + 4 + 2 * count,
                    part.end,
                )
            )
    return jpeg


def _read_tables(body: bytes) -> dict[int, _Table]:
    found: dict[int, _Table] = {}
    at = 0
    while at + 17 <= len(body):
        counts = body[at + 1 : at + 17]
        symbols = body[at + 17 : at + 17 + sum(counts)]
        bits = next((n for n, count in enumerate(counts, 1) if count), 0)
        if symbols:
            found[body[at]] = _Table(symbols[0], bits, any(s & 15 == 0 and 0 < s < 0xF0 for s in symbols))
        at += 17 + sum(counts)
    return found


def _has_all_scans(jpeg: _Jpeg) -> bool:
    """Whether each coefficient of each component is there to its last bit."""
    if jpeg.frame not in repair.PROGRESSIVE:
        return {name for scan in jpeg.scans for name in scan.components} == set(jpeg.sampling)
    there = dict.fromkeys(jpeg.sampling, 0)  # a bit for each coefficient
    for scan in jpeg.scans:
        span = (2 << min(scan.last, 63)) - (1 << min(scan.first, 63))
        for name in scan.components:
            there[name] = there[name] & ~span if scan.low else there[name] | span
    return all(found == 2**64 - 1 for found in there.values())


def _is_no_picture(jpeg: _Jpeg, scan: _Scan, bits: int) -> bool:
    """Whether so many zero bits in a row in a scan cannot be of a picture."""
    units, blocks = jpeg.units(scan)
    if scan.interval:
        blocks = min(blocks, scan.interval * (blocks // max(1, units)))
        units = min(units, scan.interval)
    if jpeg.frame not in (0xC0, 0xC1, 0xC2):  # arithmetic coding and other rare ones
        return bits >= 8 * 512
    dc, ac = ([pair[number] for pair in scan.tables] for number in (0, 1))
    if jpeg.frame != 0xC2:
        flat = all(one and two and one.symbol == 0 and two.symbol == 0 for one, two in scan.tables)
        return not flat or bits > units * _bits_of_unit(
            jpeg, scan, [one.bits + two.bits for one, two in scan.tables if one and two]
        )
    if scan.first == 0:
        if scan.high:
            return bits > blocks
        flat = all(table is not None and table.symbol == 0 for table in dc)
        return not flat or bits > units * _bits_of_unit(jpeg, scan, [table.bits for table in dc if table])
    table = ac[0]
    if scan.high:  # bits that correct coefficients, each of which may be zero: a hole is at least a sector of a drive
        return bits > min(8 * 512, blocks * (scan.last - scan.first + 1))
    if table is None or table.symbol & 15 or table.symbol == 0xF0 or table.has_runs:
        return True  # coefficients in every place; or one end of a block after the other, which are written as a run
    return bits > blocks * table.bits


def _bits_of_unit(jpeg: _Jpeg, scan: _Scan, of_block: list[int]) -> int:
    if len(of_block) == 1:
        return of_block[0]
    sizes = (jpeg.sampling[name] for name in scan.components)
    return sum(across * down * bits for (across, down), bits in zip(sizes, of_block, strict=False))


# PNG


def _in_png(content: bytes) -> str | None:
    """By the checksums: first of the chunks, which some programs write wrong, then of the pixels."""
    view = memoryview(content)
    at = 8
    bodies: list[memoryview] = []
    sound = True
    while at + 12 <= len(content):
        length, name = int.from_bytes(view[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 8 + length
        if name == b"IEND":
            break
        if name == b"IDAT":
            bodies.append(view[at + 8 : end])
            sound = sound and zlib.crc32(view[at + 4 : end]) == int.from_bytes(view[end : end + 4], "big")
        at = end + 4
    if sound or not bodies:
        return None
    machine = zlib.decompressobj()
    try:
        for body in bodies:
            for start in range(0, len(body), 2**16):
                rest: bytes | memoryview = body[start : start + 2**16]
                while rest:
                    machine.decompress(rest, 2**22)
                    rest = machine.unconsumed_tail
    except zlib.error:
        return DAMAGED
    return None if machine.eof else DAMAGED


# WebP


def _in_webp(content: bytes, decode: Decode) -> str | None:
    length = _LONGEST_RUNS["WEBP"]
    at = 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if name == b"ANMF":
            at += 24
            continue
        start, end = at + 8, min(at + 8 + size, len(content))
        if name in (b"ALPH", b"VP8 ", b"VP8L"):
            if has_ends_of_lines(content, start, end):
                return AS_TEXT
            if has_text(content, start, end) or _ANOTHER_WEBP.search(content, start, end):
                return DAMAGED
        if name == b"ALPH" and has_hole(content, start, end, length) and not _needs(content, end - _LAST, decode):
            return DAMAGED
        if name in (b"VP8 ", b"VP8L"):
            if not _has_run(content, start, end, length):
                return None
            if name == b"VP8 ":
                first = start + 10 + (int.from_bytes(content[start : start + 3], "little") >> 5)
                if has_hole(content, start, first, length):
                    return DAMAGED  # it says how each block is predicted
            if not _needs(content, end - _LAST, decode):
                return DAMAGED
            bodies = (content[start:end] + filler for filler in _FILLERS)
            return CUT if _depends_on(decode, *(repair.webp_of(name, body) for body in bodies)) else None
        at += 8 + size + (size & 1)
    return None


_ANOTHER_WEBP = re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL)


def _has_run(content: bytes, start: int, end: int, length: int) -> bool:
    """Whether zeros stand in a row as often as said, or any other byte about twice as often."""
    steps = range(start, end - length + 1, length)
    return has_hole(content, start, end, length) or any(
        content.startswith(content[at : at + 1] * length, at) for at in steps
    )


# HEIF and AVIF


def coded_extents(content: bytes, *, without: int | None = None) -> Iterator[tuple[int, int]]:
    """Where in a HEIF or AVIF the coded data of its pictures are, `without` one of the items."""
    meta = next((box for name, *box in boxes(content, 0, len(content)) if name == b"meta"), None)
    if meta is None:
        return
    inner = {name: (start, end) for name, start, end in boxes(content, meta[0] + 4, meta[1])}
    if b"iloc" not in inner or b"iinf" not in inner:
        return
    start, end = inner[b"iinf"]
    coded = set()
    for name, at, _ in boxes(content, start + (6 if content[start] == 0 else 8), end):
        if name == b"infe" and content[at] in (2, 3):
            width = 2 if content[at] == 2 else 4
            if content[at + 6 + width : at + 10 + width] in (b"hvc1", b"av01"):
                coded.add(int.from_bytes(content[at + 4 : at + 4 + width], "big"))
    start, end = inner[b"iloc"]
    version = content[start]
    at = start + 4

    def take(width: int) -> int:
        nonlocal at
        at += width
        return int.from_bytes(content[at - width : at], "big")

    sizes = take(2)
    of_offset, of_length, of_base, of_index = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    for _ in range(take(4 if version == 2 else 2)):
        item = take(4 if version == 2 else 2)
        in_file = version == 0 or take(2) & 15 == 0
        take(2)
        base = take(of_base)
        for _ in range(take(2)):
            take(of_index if version else 0)
            offset = base + take(of_offset)
            length = take(of_length) or len(content) - offset
            if item in coded and in_file and item != without:
                yield offset, offset + length
        if at > end:
            return


def boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the body of each box of an ISO media file."""
    while start + 8 <= end:
        size, head = int.from_bytes(content[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(content[start + 8 : start + 16], "big"), 16
        size = size or end - start
        if size < head:
            return
        yield content[start + 4 : start + 8], start + head, min(start + size, end)
        start += size


# JPEG 2000


def _in_jpeg2000(content: bytes) -> str | None:
    start = repair.codestream(content)
    if start < 0:
        return None
    end = repair.end_of_codestream(content)
    end = content.rfind(repair.END_OF_JPEG) if end is None else min(end, len(content))
    data = content.find(b"\xff\x93", start, end)  # headers may have text
    if data >= 0 and has_ends_of_lines(content, data, end):
        return AS_TEXT
    if data >= 0 and has_text(content, data, end):
        return DAMAGED
    run_at = content.find(bytes(_LONGEST_RUNS["JPEG2000"]), start)
    return DAMAGED if 0 <= run_at <= end else None


# Pixels that are not compressed


def rows_have_hole(content: bytes, start: int, end: int, row_bytes: int) -> bool:
    """Whether zeros or ones stand in pixels from or up to the middle of a row, beside rows that have none; or any other
    byte from there to the end.

    A black part of a picture begins and ends at the edge of something: not once in a row, to its end and beyond.
    """
    end = min(end, len(content))
    last = content[end - 1 : end]
    return any(_rows_have_run(content, start, end, row_bytes, byte) for byte in (b"\0", b"\xff")) or _rows_end_in_run(
        content, start, end, row_bytes, last
    )


def _rows_end_in_run(content: bytes, start: int, end: int, row_bytes: int, byte: bytes) -> bool:
    least = max(512, 2 * row_bytes)
    if end - least < start or not content.startswith(byte * least, end - least):
        return False
    run_at = start + len(content[start:end].rstrip(byte))
    before = content[max(start, run_at - row_bytes) : run_at]
    return (
        _is_inside_row(run_at - start, row_bytes) and len(before) == row_bytes and before.count(byte) * 50 <= row_bytes
    )


def _is_inside_row(at: int, row_bytes: int) -> bool:
    """Dark corners begin and end rows with zeros, and dark parts of a picture whole rows."""
    return 12 <= at % row_bytes <= row_bytes - max(12, row_bytes // 25)


def begins_again(content: bytes, start: int, end: int, head: bytes) -> bool:
    """Whether a file begins once more inside its pixels: a download that was begun again behind its first part."""
    head = head[:_HEAD]
    return len(head) >= _LEAST_HEAD and content.find(head, start + 1, end) >= 0


_HEAD, _LEAST_HEAD = 32, 11  # bytes


def rows_are_text(content: bytes, start: int, end: int) -> bool:
    """Whether a transfer as text changed a file with pixels: by the ends of lines, and its length without them."""
    feeds = content.count(b"\n")
    if feeds < _FEWEST_ENDS or feeds != content.count(b"\r\n"):
        return False
    in_header = content.count(b"\n", 0, start)  # of a header in text: what follows it begins later
    return len(content) - feeds in (end, end - in_header)


def _rows_have_run(content: bytes, start: int, end: int, row_bytes: int, byte: bytes) -> bool:
    least = max(512, 2 * row_bytes)
    run_at = content.find(byte * least, start, end)
    while run_at >= 0:
        found = _NOT_ZERO.search(content, run_at, end) if byte == b"\0" else _NOT_ONES.search(content, run_at, end)
        stop = end if found is None else found.start()
        before, after = content[max(start, run_at - row_bytes) : run_at], content[stop : min(end, stop + row_bytes)]
        is_inside = any(_is_inside_row(at - start, row_bytes) for at in (run_at, stop))
        if (
            is_inside
            and len(before) == row_bytes
            and before.count(byte) * 50 <= row_bytes
            and (stop > end - row_bytes or after.count(byte) * 50 <= len(after))
        ):
            return True
        run_at = content.find(byte * least, stop, end)
    return False
