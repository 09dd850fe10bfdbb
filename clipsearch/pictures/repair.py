"""Damaged picture files made into whole ones, as far as what is left allows. Bytes in, bytes out; decodes nothing.

A decoder refuses a file for its smallest fault: a checksum, an end marker that is missing, metadata that it cannot
parse. Viewers show such files. Each function here keeps what the picture itself needs, leaves the rest out, and ends
the file as its format wants it. Where a part is missing, the new file says so by being grey or black there.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # Huffman, arithmetic, quantisation, restart interval
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_MOST_EMBEDDED = 64
_EMBEDDED_HEADER = 2**18  # before a preview's pixels: EXIF, a profile
END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A file that decoders accept. `complete`: every pixel of the picture is in it, and only other things were not."""

    content: bytes
    complete: bool
    grid: tuple[int, int] = (1, 1)  # of an interlaced picture: that only each such column and row of it is there


# JPEG


@dataclass(frozen=True, slots=True)
class _Part:
    """A marker of a JPEG and what belongs to it; for a scan, its entropy-coded data as well."""

    marker: int
    start: int
    body: int  # where the body starts, behind the length
    end: int


def jpeg_frame(content: bytes) -> int | None:
    """The marker that says how a JPEG is coded (SOF0..SOF15), or None where there is none."""
    for part in jpeg_parts(content):
        if part.marker in FRAMES:
            return part.marker
        if part.marker == 0xDA:
            return None
    return None


def jpeg_header(content: bytes) -> tuple[int, int, int, int] | None:
    """How a JPEG is coded (its SOF marker), of how many components its first scan and all are, and where that scan
    starts; None where there is no scan."""
    frame = components = 0
    for part in jpeg_parts(content, headers_only=True):
        if part.marker in FRAMES and part.end - part.body > 5:
            frame, components = part.marker, content[part.body + 5]
        elif part.marker == 0xDA and frame:
            return frame, content[part.body], components, part.end
    return None


def unsupported_jpeg(content: bytes) -> str | None:
    """What kind of JPEG it is, in words, if it is none that libjpeg shows in bytes: deeper, hierarchical, JPEG-LS."""
    for part in jpeg_parts(content):
        if part.marker == 0xF7:
            return "JPEG-LS"
        if part.marker in FRAMES:
            bits = content[part.body]
            kind = "lossless JPEG" if part.marker in LOSSLESS else "JPEG"
            if part.marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
                return f"hierarchical {kind}"
            if bits != 8 and 2 <= bits <= 16:
                return f"{kind} of {bits} bits"
            return f"arithmetic-coded {kind}" if part.marker == 0xCB else None
        if part.marker == 0xDA:
            return None
    return None


def with_height(content: bytes) -> bytes | None:
    """A JPEG whose height stands behind its first scan (DNL), with it where decoders look. None for others."""
    frame: _Part | None = None
    for part in jpeg_parts(content):
        if part.marker in FRAMES and part.end - part.body > 5:
            if content[part.body + 1 : part.body + 3] != b"\0\0":
                return None
            frame = part
        elif part.marker == 0xDC and frame is not None and part.end - part.body == 2:
            height = content[part.body : part.end]
            before, between = content[: frame.body + 1], content[frame.body + 3 : part.start]
            return None if height == b"\0\0" else before + height + between + content[part.end :]
    return None


def end_of_boxes(content: bytes) -> int:
    """Where the outermost boxes of an ISO media file (HEIF, AVIF) say that it ends; 0 where they are no such boxes."""
    at = 0
    while at + 8 <= len(content):
        size, head = int.from_bytes(content[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        if size == 0:  # to the end
            return len(content)
        if size < head:
            return 0
        at += size
    return at


_TEXT_BACKWARDS = re.compile(rb"[\t\n\r\x20-\x7e]{64,}")
_LEAST_MENDED_END, _LONGEST_MENDED_END = 16, 2**24  # bytes


def opacity_in_boxes(content: bytes) -> int:
    """Where a HEIF or AVIF says that an item is the opacity of another; -1 where it says nothing of the kind."""
    start = content.find(b"iref")
    end = start + int.from_bytes(content[start - 4 : start], "big") if start >= 4 else 0
    return content.find(b"auxl", start, end) if start >= 4 else -1


def without_filled_end(content: bytes) -> bytes | None:
    """A file without the text, or the one byte over and over, that it ends with. None where it does not."""
    kept = len(content.rstrip(content[-1:]))
    text = _TEXT_BACKWARDS.match(content[: -_LONGEST_MENDED_END - 1 : -1])
    kept = len(content) - text.end() if text is not None else kept
    return content[:kept] if kept <= len(content) - _LEAST_MENDED_END else None


def with_room_in_avif(content: bytes, end: int, room: int) -> tuple[bytes, int] | None:
    """The bytes there are of an AVIF that lacks its end, changed so that it says to be longer, by `room` or as much as
    it can say, and by how much. None where it cannot.

    A decoder refuses a picture whose coded data runs out before its last pixel, as false data does half the time.
    """
    at = content.find(b"iloc")
    box = content[at : at + int.from_bytes(content[at - 4 : at], "big")] if at >= 4 else b""
    for place in range(4, len(box) - 7):  # an extent: where it starts, and its length
        start, length = struct.unpack_from(">II", box, place)
        if start + length != end or not 0 < start < len(content):
            continue
        changed = bytearray(content)
        unit = _last_size_of_av1(content, start, end)
        whole = content.rfind(b"mdat", 0, start)
        if unit is None or whole < 4 or int.from_bytes(content[whole - 4 : whole], "big") != end - whole + 4:
            return None
        first, width = unit
        size = sum((byte & 127) << 7 * number for number, byte in enumerate(content[first : first + width]))
        room = min(room, (1 << 7 * width) - 1 - size, 2**31 - end)
        if room <= 0:
            return None
        size += room
        for number in range(width):
            changed[first + number] = size >> 7 * number & 127 | (128 if number < width - 1 else 0)
        struct.pack_into(">I", changed, at + place + 4, length + room)
        struct.pack_into(">I", changed, whole - 4, end - whole + 4 + room)
        return bytes(changed), room
    return None


def _last_size_of_av1(content: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Where the size of the unit (OBU) stands that reaches to `end`, and in how many bytes."""
    while at + 2 < len(content):
        header = content[at]
        if header & 0x82 != 2:  # no unit that has a size
            return None
        first = at = at + 2 if header & 4 else at + 1
        while at < len(content) - 1 and content[at] & 128:
            at += 1
        at += 1
        if at - first > 4:
            return None
        size = sum((byte & 127) << 7 * number for number, byte in enumerate(content[first:at]))
        if at + size == end:
            return first, at - first
        at += size
    return None


def largest_jpegs(content: bytes, least_side: int) -> list[int]:
    """Where in a file of another kind JPEGs start: the largest by its number of pixels first.

    Those of sensors' data, those without an end and small ones are left out.
    """
    found: list[tuple[int, int]] = []
    at = content.find(b"\xff\xd8\xff")
    while at >= 0 and len(found) < _MOST_EMBEDDED:
        end = content.find(b"\xff\xd9", at)
        size = None
        for part in jpeg_parts(content[at : at + _EMBEDDED_HEADER]):
            if part.marker in FRAMES:
                height, width = struct.unpack(">HH", content[at + part.body + 1 : at + part.body + 5])
                size = None if part.marker in LOSSLESS else (width, height)
            if part.marker in (*FRAMES, 0xDA):
                break
        if size is not None and min(size) >= least_side and end >= 0:
            found.append((size[0] * size[1], at))
        at = content.find(b"\xff\xd8\xff", at + 3)
    return [start for _, start in sorted(found, key=lambda item: (-item[0], item[1]))]


def has_adobe_marker(content: bytes) -> bool:
    """Whether a JPEG says that Adobe's conventions hold for it."""
    for part in jpeg_parts(content):
        if part.marker == 0xEE and content[part.body : part.body + 5] == b"Adobe":
            return True
        if part.marker == 0xDA:
            return False
    return False


def jpeg_parts(content: bytes, *, headers_only: bool = False) -> Iterator[_Part]:
    """The parts of a JPEG up to its end marker, or to its first scan's data. Steps over what is no part of it, before
    the first scan only."""
    at, size = 2, len(content)
    scanned = False
    while at + 4 <= size:
        if content[at] != 0xFF:
            if scanned:
                return
            at = _next_part(content, at)
            continue
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xD9:
            return
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        end = at + 2 + length
        if (
            marker in (0x00, 0x01, *range(0xD0, 0xD9))
            or length < 2
            or end > size
            or not _is_followed(content, end, marker)
        ):
            if scanned or marker == 0xDA:
                return
            at = _next_part(content, at + 1)
            continue
        if marker == 0xDA:
            scanned = True
            if headers_only:
                yield _Part(marker, at, at + 4, end)
                return
            end = _end_of_scan(content, end)
        yield _Part(marker, at, at + 4, end)
        at = end


def _is_followed(content: bytes, end: int, marker: int) -> bool:
    """Whether another part follows where a part says that it ends. Picture data follows a scan's header."""
    return marker == 0xDA or end + 1 >= len(content) or content[end] == 0xFF


def _next_part(content: bytes, at: int) -> int:
    """Where, from `at`, the next part that a picture cannot do without may start."""
    size = len(content)
    while True:
        at = content.find(b"\xff", at)
        if at < 0 or at + 4 > size:
            return size
        marker = content[at + 1]
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        needed = marker in _TABLES or marker in FRAMES or marker == 0xDA
        if needed and 2 < length < 8192 and at + 2 + length <= size and _is_followed(content, at + 2 + length, marker):
            return at
        at += 1


def _end_of_scan(content: bytes, at: int) -> int:
    """Where the entropy-coded data from `at` ends: at the next marker that is neither stuffing nor a restart."""
    found = _AFTER_SCAN.search(content, at)
    return len(content) if found is None else found.start()


_AFTER_SCAN = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
_LAST_BYTES = 2**17


def end_of_scans(content: bytes, at: int) -> tuple[int, bool]:
    """Where the coded data ends of the last scan after `at`, where a scan's data starts; and whether the end marker
    follows it, as it does in a whole JPEG, whatever comes behind that."""
    size = len(content)
    while True:
        end = at = _end_of_scan(content, at)
        while at + 1 < size and content[at] == 0xFF:
            marker = content[at + 1]
            if marker == 0xD9:
                return end, True
            if marker < 0xC0 or 0xD0 <= marker <= 0xD8:
                return end, False
            at = at + 1 if marker == 0xFF else at + 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
            if marker == 0xDA:
                break
        else:
            return end, False


def ends_as_usual(content: bytes, at: int) -> bool:
    """Whether a JPEG ends with coded data and an end marker, by its last bytes: the rest would take long to read."""
    near = max(at, len(content) - _LAST_BYTES)
    return content.endswith(END_OF_JPEG) and _end_of_scan(content, near) == len(content) - 2


# What programs put behind a JPEG, where a scan's data would go on: text, a film, Samsung's notes.
_TRAILER = re.compile(rb"(?:[\t\n\r\x20-\x7e]\0?){48}|\0\0[^\xff]{2}ftyp|\0\0[^\xff]{2}.\0\0\0Image_UTC|SEFH")


def without_trailer(content: bytes) -> bytes | None:
    """A JPEG without end marker and without what certainly is none of its coded data. None where nothing is found."""
    header = jpeg_header(content)
    found = None if header is None else _TRAILER.search(content, header[3])
    return None if found is None else content[: found.start()] + END_OF_JPEG


def is_jpeg_cut(content: bytes) -> bool:
    """Whether it is the end that a JPEG lacks: coded data that stops at a marker which is none, with the end of the
    picture still to come, is damaged."""
    header = jpeg_header(content)
    if header is None:
        return END_OF_JPEG not in content[-_LAST_BYTES:]
    end, has_end = end_of_scans(content, header[3])
    is_another = content[end + 1 : end + 2] == b"\xd8"
    return not has_end and (is_another or not content.rstrip(b"\0").endswith(END_OF_JPEG))


def repair_jpeg(content: bytes, *, bare: bool = False) -> Repaired | None:
    """The frame, the tables and the scans of a JPEG, with an end marker. None where there is no scan.

    What follows the last scan (a trailer, another picture) is left out: without an end marker before it, a decoder
    would take it for more of the picture. Colour profile, EXIF and Adobe's marker are kept where they are whole,
    of which `bare` keeps the last only.
    """
    kept = [b"\xff\xd8"]
    components: set[int] = set()
    frame = 0
    scans = 0
    needed = 0  # of what is kept: up to the last scan
    at = 2
    for part in jpeg_parts(content):
        body = content[part.body : part.end]
        if part.marker in FRAMES:
            if frame:
                break  # another picture
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            frame = part.marker
            components = {body[6 + 3 * n] for n in range(body[5])}
        elif part.marker == 0xDA:
            if not frame or not _is_scan(body, components, frame in PROGRESSIVE, frame in LOSSLESS):
                break
            scans += 1
        elif part.marker not in _TABLES and not _is_wanted(part.marker, body, bare):
            at = part.end
            continue
        is_scan = part.marker == 0xDA
        body = content[part.start : part.end]
        kept.append(body.rstrip(b"\xff") if is_scan else body)  # half a marker is none
        needed = len(kept) if is_scan else needed
        at = part.end
    if not scans:
        return None
    ended = content[at : at + 2] == END_OF_JPEG
    if not ended and (found := _TRAILER.search(kept[needed - 1])):
        kept[needed - 1] = kept[needed - 1][: found.start()]
    return Repaired(b"".join((*kept[:needed], END_OF_JPEG)), ended)


def _is_scan(body: bytes, components: set[int], progressive: bool, lossless: bool) -> bool:
    count = body[0] if body else 0
    if not 1 <= count <= 4 or len(body) < 4 + 2 * count or not {body[1 + 2 * n] for n in range(count)} <= components:
        return False
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    if lossless:
        return True
    if not progressive:
        return True
    high, low = bits >> 4, bits & 15
    return first <= last <= 63 and (first > 0 or last == 0) and (first == 0 or count == 1) and high in (0, low + 1)


def _is_wanted(marker: int, body: bytes, bare: bool) -> bool:
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if bare:
        return False
    return body.startswith(b"Exif\0\0") if marker == 0xE1 else marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")


def join_jpeg_tables(tables: bytes, data: bytes, transform: int | None) -> tuple[bytes, bool]:
    """A strip of a TIFF as a JPEG of its own: with the tables that all strips share, and how colours are coded.

    Returns: the JPEG, and whether `data` has its end.
    """
    start = data.find(b"\xff\xd8")
    body = data[start + 2 :] if start >= 0 else data
    shared = tables[2:].removesuffix(END_OF_JPEG) if tables.startswith(b"\xff\xd8") else b""
    adobe = b"" if transform is None else b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    complete = END_OF_JPEG in data[-64:]
    return b"".join((b"\xff\xd8", adobe, shared, body, b"" if complete else END_OF_JPEG)), complete


# PNG

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_COLOURS = {b"cICP": 4, b"cHRM": 32, b"gAMA": 4, b"sRGB": 1}  # what says them in numbers, and of how many bytes
_MOST_PROFILE_BYTES = 2**22


def repair_png(content: bytes, most_bytes: int, *, bare: bool = False) -> Repaired | None:
    """The header, palette, transparency and pixels of a PNG, with right checksums. None where nothing can be had.

    Pixels that are missing are zero. `most_bytes`: of the pixels, decompressed; `bare`: without profile and EXIF.
    """
    header = b""
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    sound, ended = True, False
    for name, body, whole in _png_chunks(content):
        if name == b"IHDR" and len(body) == 13 and not header:
            header = body
        elif name in (b"PLTE", b"tRNS") and name not in kept:
            if whole or name == b"PLTE":
                kept[name] = body
        elif whole and (
            name == b"eXIf" or (name == b"iCCP" and _is_profile(body)) or len(body) == _PNG_COLOURS.get(name)
        ):
            kept[name] = body
        elif name == b"IDAT":
            pixels.append(body)
            sound = sound and whole
        elif name == b"IEND":
            ended = True
            break
    if not header or not pixels:
        return None
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in _PNG_CHANNELS or not 0 < width < 2**31 or not 0 < height < 2**31 or depth not in (1, 2, 4, 8, 16):
        return None
    if colour == 3 and b"PLTE" not in kept:
        return None
    rows = _png_rows(width, height, depth * _PNG_CHANNELS[colour], bool(interlaced))
    expected = sum(count * length for count, length in rows)
    if expected > most_bytes:
        return None
    there, whole = inflate(b"".join(pixels), expected)
    if not there:
        return None
    padded = bytearray(there.ljust(expected, b"\0"))
    start = 0
    for count, length in rows:  # a filter that there is none of would be refused
        for at in range(start, start + count * length, length):
            if padded[at] > 4:
                padded[at] = 0
                whole = False
        start += count * length
    if len(kept.get(b"tRNS", b"")) < {0: 2, 2: 6, 3: 1}.get(colour, 2**31):
        kept.pop(b"tRNS", None)
    order = (b"PLTE", b"tRNS") if bare else (*_PNG_COLOURS, b"iCCP", b"PLTE", b"tRNS", b"eXIf")
    chunks = [(b"IHDR", header), *((name, kept[name]) for name in order if name in kept)]
    chunks += [(b"IDAT", zlib.compress(padded, 1)), (b"IEND", b"")]
    grid = _ADAM7_GRIDS[_whole_passes(rows, len(there))] if interlaced else (1, 1)
    if grid[0] > 8:
        return None
    return Repaired(_PNG + b"".join(map(_png_chunk, chunks)), whole and sound and ended, grid)


# Columns and rows of which the first n passes of an interlaced PNG have each one.
_ADAM7_GRIDS = ((99, 99), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2), (1, 1))


def _whole_passes(rows: list[tuple[int, int]], there: int) -> int:
    """How many of the seven passes are there; small pictures have fewer, and then the rest is as good as there."""
    for done, (count, length) in enumerate(rows):
        there -= count * length
        if there < 0:
            return done if len(rows) == 7 else 7
    return 7


def _png_chunk(chunk: tuple[bytes, bytes]) -> bytes:
    name, body = chunk
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


_PNG_KNOWN = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name, body and whether the checksum is right, of each chunk; a length that cannot be is stepped over."""
    at, size = 8, len(content)
    while at + 8 <= size:
        length, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 8 + length
        if not name.isalpha() or (end + 4 > size and name != b"IDAT"):
            following = [content.find(known, at + 5) for known in _PNG_KNOWN]
            following = [found for found in following if found > 0]
            if not following:
                return
            at = min(following) - 4
            continue
        body = content[at + 8 : end]
        crc = int.from_bytes(content[end : end + 4], "big")
        yield name, body, end + 4 <= size and crc == zlib.crc32(name + body)
        at = end + 4


def _png_rows(width: int, height: int, bits: int, interlaced: bool) -> list[tuple[int, int]]:
    """How many rows of how many bytes, the filter's included, a PNG has in each of its passes."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // step_x), -(-(height - y) // step_y)) for x, y, step_x, step_y in passes]
    return [(rows, (columns * bits + 7) // 8 + 1) for columns, rows in sizes if columns > 0 and rows > 0]


def _is_profile(body: bytes) -> bool:
    name, _, rest = body.partition(b"\0")
    try:
        machine = zlib.decompressobj()
        machine.decompress(rest[1:], _MOST_PROFILE_BYTES)
    except zlib.error:
        return False
    return len(name) < 80 and machine.eof


_MOST_BEYOND = (
    2**20
)  # bytes, and as many as are needed, that may follow in a part of a picture whose last rows are not used


def inflate(data: bytes, most_bytes: int) -> tuple[bytes, bool]:
    """What can be decompressed of a zlib stream, and whether that is all of it, with the right checksum."""
    machine = zlib.decompressobj()
    try:
        out = machine.decompress(data, most_bytes)
        if len(out) == most_bytes:
            beyond = 0  # the checksum, perhaps after more
            while machine.unconsumed_tail and not machine.eof:
                beyond += len(machine.decompress(machine.unconsumed_tail, 2**20))
                if beyond > most_bytes + _MOST_BEYOND:
                    return out, False
        return out, machine.eof or len(out) == most_bytes
    except zlib.error:
        pass
    machine = zlib.decompressobj()
    body = bytearray()
    for start in range(0, len(data), 512):
        before = machine.copy()
        try:
            body += machine.decompress(data[start : start + 512], most_bytes - len(body))
        except zlib.error:  # which takes with it what was right of this part
            with suppress(zlib.error):
                for at in range(start, start + 512):
                    body += before.decompress(data[at : at + 1], most_bytes - len(body))
                    if len(body) >= most_bytes:
                        break
            break
        if len(body) >= most_bytes:
            break
    return bytes(body[:most_bytes]), False


# WebP


def repair_webp(content: bytes, *, bare: bool = False) -> Repaired | None:
    """The first picture of a WebP with nothing but its profile (`bare`: without); what is missing is zero bytes.

    There are more of them than bytes are missing: a decoder refuses a picture whose data runs out before its last
    pixel, and zeros may say less in as many bytes.
    """
    alpha, profile = b"", b""
    at = 12
    size = len(content)
    while at + 8 <= size:
        name, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        body = content[at + 8 : at + 8 + length]
        if name == b"ANMF":
            at += 24
            continue
        if name == b"ALPH":
            alpha = body
        elif name == b"ICCP" and len(body) == length and not bare:
            profile = body
        elif name in (b"VP8 ", b"VP8L"):
            if length > 2**28 or len(body) < 32 or len(body) * 10 < length:
                return None
            first = 10 + (int.from_bytes(body[:3], "little") >> 5) if name == b"VP8 " else 0
            if (len(body) - first) * 10 < length - first:
                return None  # with loss, the pixels come behind a part that says what kind of blocks there are
            missing = length - len(body)
            room = missing and missing + _room_in_webp(name, body)
            return Repaired(_webp(name, body + bytes(room), alpha, profile), not missing)
        elif not name.strip().isalnum():
            return None
        at += 8 + length + (length & 1)
    return None


_MOST_ROOM = 2**26  # bytes


def _room_in_webp(name: bytes, body: bytes) -> int:
    """How many bytes zeros may take to say a whole picture.

    With loss, 25 blocks of 16 x 16 pixels that are empty, each of a bit that costs up to eight; without, two bytes for
    a pixel, where good files have one.
    """
    width, height = _webp_size(name, body)
    return 64 + min(_MOST_ROOM, 25 * -(-width // 16) * -(-height // 16) if name == b"VP8 " else 2 * width * height)


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    """Width and height, by the coded pixels."""
    if name == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    packed = int.from_bytes(body[1:5], "little")
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1


def webp_of(name: bytes, body: bytes) -> bytes:
    """A WebP of nothing but one chunk of coded pixels."""
    return _webp(name, body, b"", b"")


def _webp(name: bytes, body: bytes, alpha: bytes, profile: bytes) -> bytes:
    chunks = [(name, body)]
    if (alpha and name == b"VP8 ") or profile:
        width, height = _webp_size(name, body)
        has_alpha = bool(alpha) or (name == b"VP8L" and bool(body[4] & 0x10))
        flags = 0x10 * has_alpha | 0x20 * bool(profile)
        header = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = [(b"VP8X", header)]
        chunks += [(b"ICCP", profile)] if profile else []
        chunks += [(b"ALPH", alpha)] if alpha and name == b"VP8 " else []
        chunks.append((name, body))
    packed_chunks = b"".join(n + struct.pack("<I", len(b)) + b + b"\0" * (len(b) & 1) for n, b in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(packed_chunks)) + b"WEBP" + packed_chunks


# PPM, PGM and PBM in text

_COMMENT = re.compile(rb"#[^\n\r]*")
_NUMBERS, _BITS = re.compile(rb"[\d\s]*"), re.compile(rb"[01\s]*")
_PNM_HEADER = re.compile(rb"P[1-6](?:(?:\s|#[^\n\r]*[\n\r])*\d+){2}")


def repair_pnm(content: bytes, most_bytes: int) -> Repaired | None:
    """The numbers that a picture in text needs, without what stands behind them; missing ones are zero.

    `most_bytes`: of the pixels. None for other files.
    """
    found = _PNM_HEADER.match(content)
    if found is None or content[:2] not in (b"P1", b"P2", b"P3"):
        return None
    body = _COMMENT.sub(b" ", content[2:])
    is_bits = content[:2] == b"P1"
    words = body.split(None, 2 if is_bits else 3)
    if len(words) < (3 if is_bits else 4) or not all(word.isdigit() for word in words[:-1]):
        return None
    width, height = int(words[0]), int(words[1])
    count = width * height * (3 if content[:2] == b"P3" else 1)
    if not 0 < count <= most_bytes:
        return None
    rest = words[-1]
    if is_bits:
        there = b"".join(_BITS.match(rest)[0].split())[:count]  # type: ignore[index]  # it matches nothing as well
        numbers, has = there.ljust(count, b"0"), len(there)
    else:
        items = _NUMBERS.match(rest)[0].split(None, count)[:count]  # type: ignore[index]
        numbers, has = b" ".join(items + [b"0"] * (count - len(items))), len(items)
    if not has:
        return None
    head = b" ".join((content[:2], *words[:-1]))
    return Repaired(head + b"\n" + numbers + b"\n", has == count)


# JPEG 2000


def repair_jpeg2000(content: bytes, *, bare: bool = False) -> Repaired | None:
    """A JPEG 2000 with an end marker. What is missing is zero, which says that nothing follows.

    `bare`: only the codestream, without what a JP2 says of its colours.
    """
    start = codestream(content)
    if start < 0:
        return None
    stream = bytearray(content[start:])
    at, last, cut, lacking, to_the_end = 2, -1, False, 0, False
    while at + 12 <= len(stream):
        marker, length = int.from_bytes(stream[at : at + 2], "big"), int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xFF90:
            last = at
            part = int.from_bytes(stream[at + 6 : at + 10], "big")
            to_the_end, cut = part == 0, at + part > len(stream)
            lacking = at + part - len(stream) if cut else 0
            if to_the_end or cut:
                break
            at += part
        elif last < 0 and marker >> 8 == 0xFF and marker != 0xFFD9 and length >= 2:
            at += 2 + length
        else:  # nothing but the end follows the parts
            break
    if last < 0 or lacking > 9 * len(stream):
        return None
    ended = not cut and END_OF_JPEG in (stream[-16:] if to_the_end else stream[at : at + 2])
    if not cut and not to_the_end:
        del stream[at + 2 * ended :]  # what follows the last part
    if to_the_end and not ended:  # how much is missing is not known
        if stream[-1] == 0xFF:
            del stream[-1]  # half an end marker
        lacking = 9 * len(stream)
    head = b"" if bare else _before_codestream(content[:start])
    return Repaired(b"".join((head, stream, bytes(lacking), b"" if ended else END_OF_JPEG)), ended)


def _before_codestream(boxes: bytes) -> bytes:
    """What stands before the codestream of a JP2, with a box around it that ends with the file; nothing of others."""
    at = boxes.rfind(b"jp2c", -12)
    return boxes[: at - 4] + b"\0\0\0\0jp2c" if at >= 4 else b""


def end_of_codestream(content: bytes) -> int | None:
    """Where the last tile-part of a JPEG 2000 ends; None where it is not known."""
    at, parts = codestream(content) + 2, 0
    while 1 < at <= len(content) - 12:
        marker, length = int.from_bytes(content[at : at + 2], "big"), int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xFF90:
            part = int.from_bytes(content[at + 6 : at + 10], "big")
            if part == 0:  # to the end
                return None
            at, parts = at + part, parts + 1
        elif not parts and marker >> 8 == 0xFF and marker != 0xFFD9 and length >= 2:
            at += 2 + length
        else:
            break
    return at


def codestream(content: bytes) -> int:
    """Where the codestream of a JPEG 2000 starts; -1 where there is none."""
    return content.find(b"\xff\x4f\xff\x51")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the channels of a JP2 are, where that is not what their places say."""

    channels: tuple[tuple[int, bytes | None], ...]  # the component of each, and of an index what its values stand for
    colours: tuple[int, ...]  # which channels are colours, in the order of the colour space
    alpha: int | None  # which one is opacity
    premultiplied: bool
    space: int  # as JP2 numbers them; 0 for another


CMYK, SRGB, GREY, SYCC = 12, 16, 17, 18
_COLOURS = {CMYK: 4, SRGB: 3, GREY: 1, SYCC: 3}  # of each space
_COLOUR, _OPACITY, _PREMULTIPLIED = 0, 1, 2


def jpeg2000_layout(content: bytes) -> Layout | None:
    """What a JP2 says of its channels: the palette that they are from, and which is which.

    None where it says no more than their places do, or what cannot be.
    """
    boxes: dict[bytes, bytes] = {}
    for name, start, end in _jp2_header(content):
        boxes.setdefault(name, content[start:end])
    space = int.from_bytes(boxes.get(b"colr", b"")[3:7], "big") if boxes.get(b"colr", b"")[:1] == b"\1" else 0
    components = len(jpeg2000_depths(content))
    channels: tuple[tuple[int, bytes | None], ...] = tuple((component, None) for component in range(components))
    try:
        if b"pclr" in boxes:
            channels = _palette_channels(boxes[b"pclr"], boxes[b"cmap"])
        definitions = list(struct.iter_unpack(">3H", boxes.get(b"cdef", b"")[2:]))
    except (KeyError, IndexError, struct.error):
        return None
    if any(component >= components for component, _ in channels):
        return None
    kinds = [(belongs_to, kind, channel) for channel, kind, belongs_to in definitions if channel < len(channels)]
    of_colour = {belongs_to: channel for belongs_to, kind, channel in kinds if kind == _COLOUR and 1 <= belongs_to <= 4}
    count = _COLOURS.get(space) or len(of_colour) or (1 if len(channels) < 3 else 3)
    by_place = tuple(range(count)), count if len(channels) > count else None, False
    colours, alpha, premultiplied = by_place
    if definitions:
        if not set(range(1, count + 1)) <= set(of_colour):
            return None
        colours = tuple(of_colour[colour] for colour in range(1, count + 1))
        # Of a single colour, its own opacity is that of the picture.
        opacities = [one for one in kinds if one[1] in (_OPACITY, _PREMULTIPLIED) and one[0] <= (count == 1)]
        alpha = min(opacities)[2] if opacities else None
        premultiplied = bool(opacities) and min(opacities)[1] == _PREMULTIPLIED
    if count not in (1, 3, 4) or max(colours) >= len(channels):
        return None
    if b"pclr" not in boxes and (colours, alpha, premultiplied) == by_place:
        return None
    return Layout(channels, colours, alpha, premultiplied, space)


def without_layout(content: bytes) -> bytes:
    """A JP2 that says nothing of its channels, for a decoder that shall give them as they are."""
    out = bytearray(content)
    space = SRGB if len(jpeg2000_depths(content)) >= 3 else GREY
    for name, start, end in _jp2_header(content):
        if name in (b"pclr", b"cmap", b"cdef"):
            out[start - 4 : start] = b"free"
        elif name == b"colr" and end - start >= 7:
            out[start : start + 7] = b"\1\0\0" + space.to_bytes(4, "big")
    return bytes(out)


def _palette_channels(palette: bytes, mapping: bytes) -> tuple[tuple[int, bytes | None], ...]:
    """The component of each channel, and of those that are from a palette its column of it, in 0..255."""
    entries, columns = struct.unpack_from(">HB", palette)
    depths = palette[3 : 3 + columns]
    widths = [((depth & 127) + 8) // 8 for depth in depths]
    body = palette[3 + columns :]
    if len(depths) < columns or len(body) < entries * sum(widths) or not 0 < entries <= 1024:
        raise IndexError
    tables = []
    for column, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        first, top = sum(widths[:column]), 2 ** ((depth & 127) + 1) - 1
        places = range(first, first + entries * sum(widths), sum(widths))
        values = [int.from_bytes(body[at : at + width], "big") & top for at in places]
        half = (top + 1) // 2 if depth & 128 else 0  # signed
        tables.append(bytes(round((value ^ half) * 255 / top) for value in values))
    mapped = struct.iter_unpack(">HBB", mapping)
    return tuple((component, tables[column] if kind == 1 else None) for component, kind, column in mapped)


def _jp2_header(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The boxes in the header of a JP2: the name of each, and where its body starts and ends."""
    at, end, inside = 0, codestream(content), False
    while at + 8 <= end:
        size, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if size < 8 or at + size > end:
            return
        if name == b"jp2h" and not inside:
            at, end, inside = at + 8, at + size, True
            continue
        if inside:
            yield name, at + 8, at + size
        at += size


def jpeg2000_depths(content: bytes) -> list[int]:
    """The bits of each component."""
    start = codestream(content)
    count = int.from_bytes(content[start + 40 : start + 42], "big") if start >= 0 else 0
    return [(size & 127) + 1 for size in content[start + 42 : start + 42 + 3 * count : 3]]


def jpeg2000_profile(content: bytes) -> bytes | None:
    """The colour profile of a JP2, if it has one."""
    start = max(0, codestream(content))
    at = content.find(b"colr", 0, start)
    while at >= 4:
        length = int.from_bytes(content[at - 4 : at], "big")
        if content[at + 4 : at + 5] in (b"\x02", b"\x03") and length > 11 and at - 4 + length <= start:
            return content[at + 7 : at - 4 + length]
        at = content.find(b"colr", at + 4, start)
    return None


def with_header_of_ten_bits(content: bytes) -> bytes:
    """A JP2 whose header says ten bits, whatever its codestream says."""
    header = content.find(b"ihdr", 0, max(0, codestream(content)))
    return content if header < 0 else content[: header + 14] + b"\x09" + content[header + 15 :]


def with_room_above(content: bytes) -> bytes | None:
    """A JPEG 2000 that says that each component has one bit more than it has, and means the same by its coefficients.

    A decoder then makes v + 2^(bits - 1) of each value v. None where that cannot be said.
    """
    start = codestream(content)
    if start < 0:
        return None
    out = bytearray(content)
    count = len(jpeg2000_depths(content))
    for at in range(start + 42, start + 42 + 3 * count, 3):
        if out[at] & 128 or out[at] & 127 >= 37:
            return None
        out[at] += 1
    header = content.find(b"ihdr", 0, start)
    if header >= 0 and out[header + 14] != 255:
        out[header + 14] += 1
    at, size = start + 2, len(out)
    while at + 4 <= size:
        marker, length = int.from_bytes(out[at : at + 2], "big"), int.from_bytes(out[at + 2 : at + 4], "big")
        if marker == 0xFF90:
            tile, part = at, int.from_bytes(out[at + 6 : at + 10], "big")
        elif marker == 0xFF93:
            if part == 0:
                break
            at = tile + part
            continue
        elif marker in (0xFF5C, 0xFF5D):
            style = at + 4 if marker == 0xFF5C else at + 5 + (count > 256)
            if not _one_bit_more(out, style, at + 2 + length):
                return None
        elif marker >> 8 != 0xFF or length < 2:
            break
        at += 2 + length
    return bytes(out)


def _one_bit_more(out: bytearray, style: int, end: int) -> bool:
    """Let quantisation steps mean the same for components of one bit more. Steps of 1, without loss, do anyway."""
    if out[style] & 31 == 0:
        return True
    if out[style] >> 5 == 0:
        return False
    out[style] -= 32  # one guard bit less, so that as many bit planes are left
    for at in range(style + 1, end - 1, 2):
        if out[at] >> 3 == 31:
            return False
        out[at] += 8
    return True
