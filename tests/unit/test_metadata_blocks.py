"""Metadata in blocks that Pillow passes over: each is read where it stands, and no bytes in it cost the picture."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.pictures.formats import Kind
from clipsearch.pictures.images import read_picture
from clipsearch.pictures.metadata import read_blocks
from clipsearch.pictures.metadata.iptc import said_in_iptc
from tests.unit.test_metadata import (
    EXAMPLES,
    SECOND,
    SQUASH,
    XMP_HEAD,
    check,
    chunk,
    encoded,
    exif_bytes,
    iptc_block,
    jpeg_with,
    metadata_of,
    png_with,
    segment,
    xmp,
)

PACKET = xmp(" exif:DateTimeOriginal='2017-03-09T21:04:33'>")
EXIF = exif_bytes({}, {0x9003: "2017:03:09 21:04:33"})
IPTC = iptc_block((55, b"20170309"), (60, b"210433+0100"))
RESOURCES = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)


def resource(number: int, body: bytes, name: bytes = b"") -> bytes:
    title = bytes([len(name)]) + name
    title += b"\0" * (len(title) % 2)
    return b"8BIM" + struct.pack(">H", number) + title + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)


def box(name: bytes, body: bytes, *, size: int = 32) -> bytes:
    if size == 64:
        return b"\0\0\0\1" + name + struct.pack(">Q", len(body) + 16) + body
    return struct.pack(">I", len(body) + 8 if size else 0) + name + body


def jpeg2000_with(early: bytes = b"", late: bytes = b"") -> bytes:
    content = encoded("JPEG2000")
    at = content.index(b"jp2c") - 4
    length = int.from_bytes(content[at : at + 4], "big")
    stream = content[at + 8 :] if length == 0 else content[at + 8 : at + length]
    return content[:at] + early + box(b"jp2c", stream) + late


@pytest.mark.parametrize("late", [False, True])
def test_the_time_of_a_png(tmp_path: Path, late: bool) -> None:
    written = chunk(b"tIME", struct.pack(">HBBBBB", 2017, 3, 9, 21, 4, 33))
    found = metadata_of(tmp_path / "a.png", png_with(late=written) if late else png_with(written))
    assert (found.taken_at, found.date_source) == (SECOND, "png:tIME")
    other = chunk(b"tEXt", b"date:modify\x002016-01-02T03:04:05")
    found = metadata_of(tmp_path / "b.png", png_with(written, other))
    assert (found.taken_at, found.date_source) == ("2016-01-02T03:04:05", "png:ModifyDate")


@pytest.mark.parametrize(
    "fields", [(0, 0, 0, 0, 0, 0), (2017, 13, 1, 0, 0, 0), (2017, 1, 1, 25, 0, 0), (1970, 1, 1, 0, 0, 0)]
)
def test_no_time_of_a_png(tmp_path: Path, fields: tuple[int, ...]) -> None:
    content = png_with(chunk(b"tIME", struct.pack(">HBBBBB", *fields)))
    assert metadata_of(tmp_path / "a.png", content).taken_at is None


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keyword", [b"Raw profile type 8bim", b"Raw profile type 8BIM"])
def test_photoshops_resources_in_a_png(tmp_path: Path, keyword: bytes, compressed: bool) -> None:
    content = resource(0x03ED, bytes(16)) + RESOURCES
    text = b"\n8bim\n%8d\n" % len(content) + content.hex().encode()
    written = (
        chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(text))
        if compressed
        else chunk(b"tEXt", keyword + b"\0" + text)
    )
    found = metadata_of(tmp_path / "a.png", png_with(written))
    assert (found.taken_at, found.date_source) == (SECOND, "iptc:DateCreated")


@pytest.mark.many
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("name", "body", "source"),
    [
        (b"uuid", b"JpgTiffExif->JP2" + EXIF, "exif:DateTimeOriginal"),
        (b"uuid", b"JpgTiffExif->JP2" + EXIF.removeprefix(b"Exif\0\0"), "exif:DateTimeOriginal"),
        (b"uuid", b"JpgTiffExif->JP2\0\0\0\6" + EXIF, "exif:DateTimeOriginal"),
        (b"uuid", bytes.fromhex("0537cdab9d0c4431a72afa561f2a113e") + EXIF[6:], "exif:DateTimeOriginal"),  # Photoshop
        (b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + PACKET, "xmp:DateTimeOriginal"),
        (b"uuid", bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38") + IPTC, "iptc:DateCreated"),
        (b"uuid", bytes.fromhex("2c4c0100850440b9a03e562148d6dfeb") + RESOURCES, "iptc:DateCreated"),
        (b"xml ", PACKET, "xmp:DateTimeOriginal"),
    ],
)
def test_boxes_of_jpeg_2000(tmp_path: Path, name: bytes, body: bytes, source: str, late: bool, size: int) -> None:
    written = box(name, body, size=size)
    content = jpeg2000_with(late=written) if late else jpeg2000_with(written)
    found = metadata_of(tmp_path / "a.jp2", content)
    assert (found.taken_at, found.date_source) == (SECOND, source)


def test_the_last_box_may_have_no_length(tmp_path: Path) -> None:
    content = jpeg2000_with(late=box(b"xml ", PACKET, size=0))
    assert metadata_of(tmp_path / "a.jp2", content).taken_at == SECOND


@pytest.mark.parametrize("as_blocks", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("mark", ["'\ufeff'", "''"])
def test_xmp_of_gif(tmp_path: Path, as_blocks: bool, late: bool, mark: str) -> None:
    packet = PACKET.replace("'\ufeff'".encode(), mark.encode())
    if as_blocks:
        parts = [packet[at : at + 255] for at in range(0, len(packet), 255)]
        body = b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    else:
        body = packet + b"\1" + bytes(range(255, -1, -1)) + b"\0"
    written = b"\x21\xff\x0bXMP DataXMP" + body
    content = encoded("GIF")
    at = len(content) - 1 if late else 13 + 3 * 2 ** ((content[10] & 7) + 1)
    found = metadata_of(tmp_path / "a.gif", content[:at] + written + content[at:])
    assert (found.taken_at, found.date_source) == (SECOND, "xmp:DateTimeOriginal")


@given(cuts=st.lists(st.integers(1, 4000), max_size=6))
@settings(max_examples=EXAMPLES, deadline=None)
def test_photoshops_resources_over_several_segments(cuts: list[int]) -> None:
    resources = resource(0x040C, bytes(1500), b"thumbnail") + RESOURCES + resource(0x0424, bytes(2000))
    ends = sorted({*(cut % len(resources) for cut in cuts), len(resources)})
    parts = [resources[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    content = jpeg_with(*(segment(0xED, b"Photoshop 3.0\0" + part) for part in parts))
    found = read_picture("a.jpg", SQUASH, content=content).metadata
    assert (found.taken_at, found.date_source) == (SECOND, "iptc:DateCreated")


def test_a_date_that_is_cut_off_is_none() -> None:
    assert "iptc:DateCreated" in said_in_iptc(IPTC).dates
    assert said_in_iptc(IPTC[:12]).dates == {}


@pytest.mark.parametrize(
    "first",
    [exif_bytes({0x010F: "Nokia"}), b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9), b"Exif\0\0", b"Exif\0\0rubbish"],
)
def test_a_second_exif(tmp_path: Path, first: bytes) -> None:
    found = metadata_of(
        tmp_path / "a.jpg", jpeg_with(segment(0xE1, first), segment(0xE0, b"JFXX\0"), segment(0xE1, EXIF))
    )
    assert (found.taken_at, found.date_source) == (SECOND, "exif:DateTimeOriginal")


def test_the_first_exif_counts_for_more(tmp_path: Path) -> None:
    other = exif_bytes({}, {0x9003: "2001:02:03 04:05:06"})
    assert metadata_of(tmp_path / "a.jpg", jpeg_with(segment(0xE1, EXIF), segment(0xE1, other))).taken_at == SECOND


def test_a_second_packet_of_xmp(tmp_path: Path) -> None:
    empty = XMP_HEAD + xmp(" xmp:Rating='3'>")
    for packets in ([XMP_HEAD + PACKET, empty], [empty, XMP_HEAD + PACKET]):
        content = jpeg_with(*(segment(0xE1, packet) for packet in packets))
        assert metadata_of(tmp_path / "a.jpg", content).taken_at == SECOND


KINDS: list[tuple[Kind, bytes]] = [
    ("JPEG", b"\xff\xd8\xff\xed\x00\x40Photoshop 3.0\x008BIM\x04\x04\0\0"),
    ("JPEG", b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0\x08\0\0\0"),
    ("JPEG", b"\xff\xd8" + b"\xff" * 50),
    ("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\7tIME"),
    ("JPEG2000", b"\0\0\0\0uuidJpgTiffExif->JP2II*\0\x08\0\0\0"),
    ("JPEG2000", b"\0\0\0\1uuid\0\0\0\0"),
    ("GIF", b"GIF89a\x21\xff\x0bXMP DataXMP"),
]


@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(kind=st.sampled_from(KINDS), junk=st.binary(max_size=300), times=st.integers(1, 3))
def test_any_bytes_in_any_block_are_survived(kind: tuple[Kind, bytes], junk: bytes, times: int) -> None:
    read_blocks(kind[0], io.BytesIO((kind[1] + junk) * times))
    read_blocks(kind[0], io.BytesIO(junk))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(junk=st.binary(max_size=200), head=st.sampled_from([b"uuid", b"uuidJpgTiffExif->JP2", b"xml ", b"abcd"]))
def test_any_box_of_a_jpeg_2000_leaves_its_picture(junk: bytes, head: bytes) -> None:
    found = read_picture("a.jp2", SQUASH, content=jpeg2000_with(late=box(head[:4], head[4:] + junk)))
    check(found.metadata)
    assert (found.width, found.height) == (256, 256)


@pytest.mark.many
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("JPEG", b"\xff\xd8" + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000) * 300),
        ("JPEG", b"\xff\xd8" + segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04" + b"\x1c" * 60_000) * 300),
        ("JPEG", b"\xff\xd8" + segment(0xE1, XMP_HEAD + b"<a>" * 20_000) * 300),
        ("JPEG", b"\xff\xd8" + b"\xff" * 20_000_000),
        ("PNG", b"\x89PNG\r\n\x1a\n" + chunk(b"abCd", b"") * 1_000_000),
        ("JPEG2000", box(b"free", b"") * 1_000_000),
        ("JPEG2000", box(b"uuid", b"JpgTiffExif->JP2II*\0\x08\0\0\0" + b"\xff" * 60_000) * 300),
        ("GIF", b"GIF89a\x21\xff\x0bXMP DataXMP" + b"\1<" * 5_000_000),
    ],
)
def test_many_blocks_take_little_time(kind: Kind, content: bytes) -> None:
    began = time.process_time()
    read_blocks(kind, io.BytesIO(content))
    assert time.process_time() - began < 8


# --- extended XMP ------------------------------------------------------------------------------------------------

NAME = b"0123456789ABCDEF0123456789ABCDEF"


def extension(packet: bytes, at: int, size: int, name: bytes = NAME) -> bytes:
    head = b"http://ns.adobe.com/xmp/extension/\0" + name + struct.pack(">II", len(packet), at)
    return segment(0xE1, head + packet[at : at + size])


def main_packet(name: bytes | None) -> bytes:
    said = (
        ""
        if name is None
        else f" xmlns:xmpNote='http://ns.adobe.com/xmp/note/' xmpNote:HasExtendedXMP='{name.decode()}'"
    )
    return segment(0xE1, XMP_HEAD + xmp(f"tiff:Make='Canon'{said}>"))


@pytest.mark.parametrize("order", ["as written", "backwards", "doubled"])
@pytest.mark.parametrize("name", [NAME, None])
def test_extended_xmp(tmp_path: Path, order: str, name: bytes | None) -> None:
    packet = xmp(f"photoshop:Instructions='{'x' * 3000}' exif:DateTimeOriginal='2011-06-05T10:11:12'>")
    parts = [extension(packet, at, 1000) for at in range(0, len(packet), 1000)]
    parts = parts[::-1] if order == "backwards" else parts + parts if order == "doubled" else parts
    found = metadata_of(tmp_path / "a.jpg", jpeg_with(main_packet(name), *parts))
    assert (found.taken_at, found.date_source) == ("2011-06-05T10:11:12", "xmp:DateTimeOriginal")
    assert found.camera == "Canon"


def test_extended_xmp_of_another_packet_or_with_a_gap(tmp_path: Path) -> None:
    packet = xmp(f"photoshop:Instructions='{'x' * 3000}' exif:DateTimeOriginal='2011-06-05T10:11:12'>")
    right = [extension(packet, at, 1000) for at in range(0, len(packet), 1000)]
    other = xmp("exif:DateTimeOriginal='2013-06-05T10:11:12'>")
    wrong = extension(other, 0, len(other), NAME[::-1])
    content = jpeg_with(main_packet(NAME), wrong, *right)
    assert metadata_of(tmp_path / "a.jpg", content).taken_at == "2011-06-05T10:11:12"
    assert metadata_of(tmp_path / "b.jpg", jpeg_with(main_packet(NAME), *right[1:])).taken_at is None
    main = segment(0xE1, XMP_HEAD + xmp("exif:DateTimeOriginal='2012-06-05T10:11:12'>"))
    assert metadata_of(tmp_path / "c.jpg", jpeg_with(main, *right)).taken_at == "2012-06-05T10:11:12"


@given(st.lists(st.binary(max_size=90), max_size=6))
def test_any_extension_is_survived(parts: list[bytes]) -> None:
    head = b"http://ns.adobe.com/xmp/extension/\0"
    main = segment(0xE1, XMP_HEAD + xmp("exif:DateTimeOriginal='2012-06-05T10:11:12'>"))
    content = jpeg_with(main, *(segment(0xE1, head + part) for part in parts))
    assert read_picture("a.jpg", SQUASH, content=content).metadata.taken_at == "2012-06-05T10:11:12"
