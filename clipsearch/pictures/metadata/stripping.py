"""A picture file without the metadata that its decoder stumbles over: bytes to bytes, no pixel touched."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import IO

from clipsearch.pictures.formats import Kind

_LARGEST_FILE_BYTES = 2**29
_LONGEST_TEXT_BYTES = 2**20
_LONGEST_PROFILE_BYTES = 2**22
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_TEXTS = (b"tEXt", b"iTXt", b"eXIf")
_PNG_SIZES = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"pHYs": 9}


def without_bad_metadata(stream: IO[bytes], kind: Kind) -> IO[bytes] | None:
    """The file with only such metadata as is whole and small; None where that leaves it as it is.

    Raises: OSError.
    """
    if kind not in ("JPEG", "PNG"):
        return None
    stream.seek(0)
    content = stream.read(_LARGEST_FILE_BYTES + 1)
    if len(content) > _LARGEST_FILE_BYTES:
        return None
    kept = _jpeg(content) if kind == "JPEG" else _png(content)
    return None if kept is None or sum(map(len, kept)) == len(content) else io.BytesIO(b"".join(kept))


_ITEMS = (b"Exif", b"mime")
_NO_ITEM = b"none"


def without_items(content: bytes) -> Iterator[bytes]:
    """A HEIF or AVIF in which one kind of metadata, then the other, then both are of a kind that no decoder reads.

    Nothing moves: in the table of items, another name takes the place of theirs.
    """
    start = content.find(b"iinf")
    end = start + int.from_bytes(content[start - 4 : start], "big") if start >= 4 else 0
    places: dict[bytes, list[int]] = {name: [] for name in _ITEMS}
    at = content.find(b"infe", start, end) if start >= 4 else -1
    while at >= 0:
        version = content[at + 4]
        name_at = at + (12 if version == 2 else 14)
        if version in (2, 3) and content[name_at : name_at + 4] in places:
            places[content[name_at : name_at + 4]].append(name_at)
        at = content.find(b"infe", at + 4, end)
    for names in (_ITEMS[:1], _ITEMS[1:], _ITEMS):
        if all(places[name] for name in names):
            changed = bytearray(content)
            for name_at in (place for name in names for place in places[name]):
                changed[name_at : name_at + 4] = _NO_ITEM
            yield bytes(changed)


def gif_without_comments(content: bytes) -> bytes:
    """A GIF without the comments before its first picture, of which Pillow takes time by the square of their length.

    The same where its blocks cannot be followed.
    """
    at = 13 + ((3 << (content[10] & 7) + 1) if len(content) > 10 and content[10] & 128 else 0)
    kept = [content[:at]]
    while content[at : at + 1] == b"!":
        end = at + 2
        while end < len(content) and content[end]:
            end += 1 + content[end]
        end += 1
        if end > len(content):
            return content
        if content[at + 1] != 0xFE:
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]]) if content[at : at + 1] == b"," else content


def png_without_pixels(stream: IO[bytes]) -> IO[bytes] | None:
    """A PNG of one pixel with the texts and the EXIF of another; None for one that is not whole.

    Its blocks may come behind the pixels, which need not be read for them. Raises: OSError.
    """
    stream.seek(8)
    kept = [_PNG_BEGINNING]
    texts_bytes = 0
    while True:
        head = stream.read(8)
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8:
            return None
        if name == b"IEND":
            return io.BytesIO(b"".join([*kept, _PNG_END]))
        if name in _PNG_SAYING:
            body = stream.read(size + 4)
            texts_bytes += size
            if len(body) < size + 4 or texts_bytes > _LARGEST_FILE_BYTES:
                return None
            kept += [head, body]
        else:
            stream.seek(size + 4, io.SEEK_CUR)


def _png_block(name: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


_PNG_SAYING = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
_PNG_BEGINNING = b"\x89PNG\r\n\x1a\n" + _png_block(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
_PNG_END = _png_block(b"IDAT", zlib.compress(b"\0\0")) + _png_block(b"IEND", b"")


def _png(content: bytes) -> list[bytes | memoryview] | None:
    view = memoryview(content)
    kept: list[bytes | memoryview] = [view[:8]]
    at, texts_bytes = 8, 0
    while at + 12 <= len(content):
        size, name = int.from_bytes(view[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 12 + size
        if name == b"IDAT" and end > len(content):
            return None  # the pixels themselves are cut off
        if end > len(content):
            break
        body = view[at + 8 : end - 4]
        keep = name in _PNG_CRITICAL
        if not keep and zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big"):
            if name in _PNG_TEXTS:
                texts_bytes += size
                keep = texts_bytes <= _LONGEST_TEXT_BYTES and not _is_compressed(name, bytes(body[:200]))
            elif name == b"iCCP":
                keep = _inflates(body)
            else:
                keep = size == _PNG_SIZES.get(name)
        if keep:
            kept.append(view[at:end])
        at = end
        if name == b"IEND":
            return kept
    return [*kept, b"\0\0\0\0IEND\xaeB`\x82"]


def _is_compressed(name: bytes, head: bytes) -> bool:
    keyword_end = head.find(b"\0")
    return name == b"iTXt" and (keyword_end < 0 or head[keyword_end + 1 : keyword_end + 2] != b"\0")


def _inflates(body: memoryview) -> bool:
    """Whether a compressed profile is one, and of a size that profiles have."""
    head = bytes(body[:81])
    at = head.find(b"\0")
    if at < 0 or head[at + 1 : at + 2] != b"\0":
        return False
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(body[at + 2 :], _LONGEST_PROFILE_BYTES)
    except zlib.error:
        return False
    return inflater.eof


def _jpeg(content: bytes) -> list[bytes | memoryview] | None:
    view = memoryview(content)
    kept: list[bytes | memoryview] = [view[:2]]
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if not (0xE0 <= marker <= 0xEF or marker in (0xFE, 0xDB, 0xC4, 0xDD)):
            break  # a frame or a scan: the pixels begin
        end = at + 2 + max(2, int.from_bytes(view[at + 2 : at + 4], "big"))
        if end > len(content):
            break
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or _jpeg_segment_is_whole(marker, bytes(view[at + 4 : end])):
            kept.append(view[at:end])
        at = end
    return [*kept, view[at:]]


def _jpeg_segment_is_whole(marker: int, body: bytes) -> bool:
    """Whether a segment of metadata is one that decoders need or that says something, and has all its parts."""
    if marker == 0xE1:
        return body.startswith(b"http://ns.adobe.com/xap/1.0/\0") or (body.startswith(b"Exif\0\0") and len(body) >= 14)
    if marker == 0xE2:
        return body.startswith(b"ICC_PROFILE\0") and len(body) > 14
    return marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
