"""Metadata that Pillow passes over, found in the file itself. Bounded: bodies of other blocks are skipped."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any

from clipsearch.pictures.formats import Kind
from clipsearch.pictures.metadata.exif import exif_of_bytes, said_in_exif
from clipsearch.pictures.metadata.iptc import iptc_in_resources, said_in_iptc
from clipsearch.pictures.metadata.moments import Moment
from clipsearch.pictures.metadata.png_texts import unpacked_profiles
from clipsearch.pictures.metadata.statements import Said
from clipsearch.pictures.metadata.xmp import LONGEST_PACKET_BYTES, said_in_xmp

_MOST_BLOCKS = 100_000
_MOST_SEGMENTS = 256  # that Photoshop's resources are spread over
_MOST_READ = 8  # of EXIF or XMP
_MOST_GIF_BYTES = 2**26
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"  # then a name of 32 letters, its whole size, the part's place
_PHOTOSHOP_SEGMENTS = (b"Photoshop 3.0\0", b"Adobe_Photoshop2.5:")
_TIFF_HEADS = (b"II*\0", b"MM\0*")

_UUIDS_OF_EXIF = (b"JpgTiffExif->JP2", bytes.fromhex("0537cdab9d0c4431a72afa561f2a113e"))  # the second is Photoshop's
_UUID_OF_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_UUID_OF_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_UUID_OF_RESOURCES = bytes.fromhex("2c4c0100850440b9a03e562148d6dfeb")

_GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
_GIF_XMP_END = b"\x01\xff\xfe\xfd"  # after the packet, so that readers who take its letters for lengths get out again


def said_in_blocks(stream: IO[bytes], kind: Kind) -> Iterator[Said]:
    """What a picture file says where Pillow does not look. Raises: whatever the stream does."""
    stream.seek(0)
    if kind == "JPEG":
        yield from _in_jpeg(stream)
    elif kind == "PNG":
        yield from _in_png(stream)
    elif kind == "JPEG2000":
        yield from _in_jpeg2000(stream)
    elif kind == "GIF":
        yield from _in_gif(stream)


# --- JPEG: more than one segment of a kind ------------------------------------------------------------------


def _in_jpeg(stream: IO[bytes]) -> Iterator[Said]:
    exifs: list[bytes] = []
    packets: list[bytes] = []
    resources: list[bytes] = []
    extensions: dict[bytes, list[tuple[int, bytes]]] = {}
    for marker, body in jpeg_segments(stream):
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exifs.append(body)
        elif marker == 0xE1 and body.startswith(_XMP_SEGMENT):
            packets.append(body[len(_XMP_SEGMENT) :])
        elif marker == 0xE1 and body.startswith(_XMP_EXTENSION):
            rest = body[len(_XMP_EXTENSION) :]
            extensions.setdefault(rest[:32], []).append((int.from_bytes(rest[36:40], "big"), rest[40:]))
        elif marker == 0xED:
            head = next((head for head in _PHOTOSHOP_SEGMENTS if body.startswith(head)), None)
            resources.append(body if head is None else body[len(head) :])
    # Pillow read the first EXIF, of which later segments may be the rest, and the last packet.
    others = [body for body in exifs[1:] if body[6:10] in _TIFF_HEADS]
    yield from (said_in_exif(exif_of_bytes(body)) for body in others[:_MOST_READ])
    yield from (said_in_xmp(packet) for packet in packets[:-1][:_MOST_READ])
    # What did not fit into one segment stands in more of them, whose name the packet gives; some forget to.
    named = [name for name in extensions if any(name in packet for packet in packets)]
    yield from (said_in_xmp(_joined(extensions[name])) for name in (named or [*extensions])[:_MOST_READ])
    if resources:
        yield said_in_iptc(iptc_in_resources(b"".join(resources[:_MOST_SEGMENTS])))


def _joined(parts: list[tuple[int, bytes]]) -> bytes:
    """The parts of an extended packet in their order, as far as none is missing and a packet is read."""
    packet = b""
    for at, part in sorted(parts, key=lambda item: item[0]):
        if at > len(packet) or len(packet) >= LONGEST_PACKET_BYTES:
            break
        packet = packet[:at] + part if at + len(part) > len(packet) else packet
    return packet


def jpeg_segments(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The segments APP1 and APP13 before the pixels."""
    if stream.read(2) != b"\xff\xd8":
        return
    found = 0
    for _ in range(_MOST_BLOCKS):
        head = stream.read(2)
        while head == b"\xff\xff" and found < _MOST_BLOCKS:  # fill
            head, found = b"\xff" + stream.read(1), found + 1
        if len(head) < 2 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):
            return
        if head[1] == 0x01 or 0xD0 <= head[1] <= 0xD8:  # without a body
            continue
        size = int.from_bytes(stream.read(2), "big") - 2
        if size < 0:
            return
        if head[1] in (0xE1, 0xED):
            yield head[1], stream.read(size)
        else:
            stream.seek(size, io.SEEK_CUR)


# --- PNG: the time of the last change, and long texts ---------------------------------------------------------


def _in_png(stream: IO[bytes]) -> Iterator[Said]:
    stream.seek(8)
    read = 0
    has_time = False
    for _ in range(_MOST_BLOCKS):
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"tIME" and size == 7 and not has_time:
            has_time = True
            year, month, day, hour, minute, second = struct.unpack(">H5B", stream.read(7))
            with contextlib.suppress(ValueError):
                yield Said({"png:tIME": Moment(datetime(year, month, day, hour, minute, min(second, 59)), utc=True)})
            stream.seek(4, io.SEEK_CUR)
        elif name in (b"zTXt", b"iTXt") and size <= LONGEST_PACKET_BYTES and read < _MOST_READ:
            text = _compressed_text(name, stream.read(size))
            read += text is not None
            if text is not None and text[0] == _PNG_XMP:
                yield said_in_xmp(text[1])
            elif text is not None:
                yield from said_in_profiles({text[0]: text[1].decode("latin-1")})
            stream.seek(4, io.SEEK_CUR)
        else:
            stream.seek(size + 4, io.SEEK_CUR)


def said_in_profiles(texts: dict[Any, Any]) -> Iterator[Said]:
    """What the profiles in texts of a PNG say."""
    for kind, content in unpacked_profiles(texts):
        if kind == "exif":
            yield said_in_exif(exif_of_bytes(content))
        elif kind == "xmp":
            yield said_in_xmp(content)
        else:
            yield said_in_iptc(iptc_in_resources(content) or content)


_PNG_XMP = "XML:com.adobe.xmp"


def _compressed_text(name: bytes, body: bytes) -> tuple[str, bytes] | None:
    """The keyword and the text of a compressed block that holds XMP or a profile, as far as it is read."""
    raw, _, rest = body.partition(b"\0")
    keyword = raw.decode("latin-1")
    if keyword != _PNG_XMP and not keyword.lower().startswith("raw profile type "):
        return None
    if name == b"iTXt":
        if rest[:1] != b"\1":
            return None
        rest = b"\0" + rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    machine = zlib.decompressobj()
    text = b""
    with contextlib.suppress(zlib.error):
        text = machine.decompress(rest[1:], 2 * LONGEST_PACKET_BYTES)
    return (keyword, text) if text else None


# --- JPEG 2000: boxes -----------------------------------------------------------------------------------------


def _in_jpeg2000(stream: IO[bytes]) -> Iterator[Said]:
    end = stream.seek(0, io.SEEK_END)
    at = found = 0
    for _ in range(_MOST_BLOCKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or found >= 4 * _MOST_READ:
            return
        size, name, head_size = int.from_bytes(head[:4], "big"), head[4:], 8
        if size == 1:
            size, head_size = int.from_bytes(stream.read(8), "big"), 16
        size = size or end - at  # 0: to the end of the file
        if size < head_size:
            return
        if name in (b"uuid", b"xml "):
            found += 1
            body = stream.read(min(size - head_size, LONGEST_PACKET_BYTES))
            if name == b"xml ":
                yield said_in_xmp(body)
            elif body.startswith(_UUIDS_OF_EXIF):
                yield said_in_exif(exif_of_bytes(_tiff_in(body[16:])))
            elif body.startswith(_UUID_OF_XMP):
                yield said_in_xmp(body[16:])
            elif body.startswith(_UUID_OF_IPTC):
                yield said_in_iptc(body[16:])
            elif body.startswith(_UUID_OF_RESOURCES):
                yield said_in_iptc(iptc_in_resources(body[16:]))
        at += size


def _tiff_in(body: bytes) -> bytes:
    """EXIF without what some programs write before it: a word, zeros, an offset."""
    at = min((at for head in _TIFF_HEADS if (at := body.find(head, 0, 32)) >= 0), default=0)
    return body[at:]


# --- GIF: an application's extension -----------------------------------------------------------------------


def _in_gif(stream: IO[bytes]) -> Iterator[Said]:
    content = stream.getvalue() if isinstance(stream, io.BytesIO) else stream.read(_MOST_GIF_BYTES)
    at = content.find(_GIF_XMP)
    if at < 0:
        return
    at += len(_GIF_XMP)
    body = content[at : at + LONGEST_PACKET_BYTES]
    if body[1:2] != b"<" and body[1:4] != b"\xef\xbb\xbf":  # the packet as it is
        yield said_in_xmp(body.partition(_GIF_XMP_END)[0])
        return
    parts: list[bytes] = []  # as the format asks for: in parts with their lengths
    start = 0
    while start < len(body) and body[start]:
        parts.append(body[start + 1 : start + 1 + body[start]])
        start += 1 + body[start]
    yield said_in_xmp(b"".join(parts))
