"""EXIF with entries that cannot be read: the others count, wherever they stand."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.pictures.images import PictureFile, open_picture, read_picture
from clipsearch.records import PictureMetadata, Preprocessing
from tests.support.breadth import tries

SQUASH = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_mode="squash")
EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 15, 40)
DATE = b"2011:06:05 10:11:12\0"

Entry = tuple[int, int, int, Any]  # tag, type, how many, value (bytes) or where it stands (a number)


def directory(entries: list[Entry], order: str, start: int) -> bytes:
    """A directory with its values behind it."""
    table = struct.pack(order + "H", len(entries))
    values = b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        table += struct.pack(order + "HHI", tag, kind, count)
        if isinstance(value, int):
            table += struct.pack(order + "I", value)
        elif len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", behind + len(values))
            values += value
    return table + bytes(4) + values


def block(order: str, broken: list[list[Entry]], places: list[int]) -> bytes:
    """EXIF that says all that is read from EXIF, with broken entries in its three directories."""

    def number(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}I", *values)

    details: list[Entry] = [(0x9003, 2, 20, DATE), (0x9291, 2, 4, b"250\0")]
    gps: list[Entry] = [
        (1, 2, 2, b"N\0"),
        (2, 5, 3, number(48, 1, 30, 1, 0, 1)),
        (3, 2, 2, b"E\0"),
        (4, 5, 3, number(11, 1, 30, 1, 0, 1)),
    ]
    main: list[Entry] = [
        (0x010F, 2, 6, b"Canon\0"),
        (0x0110, 2, 12, b"Canon EOS R\0"),
        (0x0112, 3, 1, struct.pack(order + "H", 6)),
        (0x8769, 4, 1, 0),
        (0x8825, 4, 1, 0),
    ]
    parts = [main, details, gps]
    for part, more, place in zip(parts, broken, places, strict=True):
        part[place % (len(part) + 1) : place % (len(part) + 1)] = more
    first = 8 + len(directory(main, order, 8))
    second = first + len(directory(details, order, first))
    main = [(*entry[:3], {0x8769: first, 0x8825: second}.get(entry[0], entry[3])) for entry in main]
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    return head + directory(main, order, 8) + directory(details, order, first) + directory(gps, order, second)


def with_exif(content: bytes) -> bytes:
    """A JPEG of 60 x 40 pixels with this EXIF."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(buffer, "JPEG")
    body = b"Exif\0\0" + content
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body + buffer.getvalue()[2:]


def metadata_of(content: bytes, path: Path) -> PictureMetadata:
    path.write_bytes(content)
    metadata = read_picture(path, SQUASH).metadata
    with PictureFile(path) as file:
        assert file.describe(SQUASH) == metadata
    return metadata


BROKEN: list[Entry] = [
    (0x010E, 2, 90_000, 0x200),  # a text that is longer than the file
    (0x010E, 2, 90, 0x7FFFFFF0),  # past the end
    (0x829A, 5, 1, 0x7FFFFFFF),
    (0x927C, 7, 0x7FFFFFFF, 8),
    (0x9C9B, 1, 90, 0x7FFFFFF0),
    (0x9C9B, 77, 5, b"abcd"),
    (0xA005, 4, 1, 0x7FFFFFFF),
    (0x011A, 12, 0x1FFFFFFF, 0x7FFFFFFF),
    (0x0201, 4, 0, 0),
]


@pytest.mark.parametrize("order", ["<", ">"])
@settings(max_examples=EXAMPLES, deadline=None)
@example([[BROKEN[0]], [], []], [0, 0, 0])
@example([[BROKEN[1]], [BROKEN[2]], [BROKEN[4]]], [0, 0, 0])
@given(
    st.lists(st.lists(st.sampled_from(BROKEN), max_size=3), min_size=3, max_size=3),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
)
def test_entries_that_cannot_be_read_hide_no_others(order: str, broken: list[list[Entry]], places: list[int]) -> None:
    content = with_exif(block(order, broken, places))
    picture = read_picture("x.jpg", SQUASH, content=content)
    found = picture.metadata
    assert (picture.width, picture.height) == (40, 60)
    assert open_picture("x.jpg", content=content).size == (40, 60)
    assert (found.taken_at, found.camera) == ("2011-06-05T10:11:12.250000", "Canon EOS R")
    assert (found.latitude, found.longitude) == (48.5, 11.5)


def test_a_camera_that_cannot_be_read_is_left_out_alone() -> None:
    for kept, lost in ((0x0110, 0x010F), (0x010F, 0x0110)):
        text = {0x0110: b"Canon EOS R\0", 0x010F: b"Canon\0"}[kept]
        entries: list[Entry] = [(lost, 2, 90, 0x7FFFFFF0), (kept, 2, len(text), text), (0x0132, 2, 20, DATE)]
        content = with_exif(b"II*\0\x08\0\0\0" + directory(entries, "<", 8))
        found = read_picture("x.jpg", SQUASH, content=content).metadata
        assert (found.taken_at, found.camera) == ("2011-06-05T10:11:12", text[:-1].decode())


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0" + bytes(8)])
)
def test_any_bytes_are_survived(junk: bytes, head: bytes) -> None:
    assert read_picture("x.jpg", SQUASH, content=with_exif(head + junk)).width > 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dated", [0, 1])
def test_tags_of_any_tiff_and_of_the_page_that_is_shown(tmp_path: Path, order: str, big: bool, dated: int) -> None:
    buffer = io.BytesIO()
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=big) as writer:
        for number, image in enumerate((picture.resize((32, 24)), picture)):
            writer.write(
                np.asarray(image),
                photometric="rgb",
                metadata=None,
                subfiletype=1 - number,
                datetime=DATE[:-1].decode() if number == dated else None,
                extratags=[(271, 2, 6, "Canon", True)],
            )
    found = metadata_of(buffer.getvalue(), tmp_path / "x.tif")
    assert (found.taken_at, found.camera) == ("2011-06-05T10:11:12", "Canon")
