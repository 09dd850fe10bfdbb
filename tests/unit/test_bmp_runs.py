"""BMP in runs (BI_RLE8, BI_RLE4): every way to write a picture gives its pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.images import open_picture, read_picture
from clipsearch.records import PixelArray, Preprocessing

PALETTE = np.random.default_rng(1).integers(0, 256, (16, 3)).astype(np.uint8)
SHOWN = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash", 0)


def bmp(bits: int, data: bytes, size: tuple[int, int], *, shift: int = 0) -> bytes:
    table = b"".join(bytes([blue, green, red, 0]) for red, green, blue in PALETTE.tolist())
    offset = 54 + len(table) + shift
    head = b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset)
    compression = 1 if bits == 8 else 2
    head += struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(data), 0, 0, 16, 0)
    return head + table + bytes(shift) + data


def in_runs(row: list[int], bits: int, choose: st.DataObject) -> bytes:
    """A row as a writer may write it: in runs of one or two colours, and of pixels as they are."""
    out, at = b"", 0
    while at < len(row):
        count = choose.draw(st.integers(1, min(9, len(row) - at)))
        part = row[at : at + count]
        repeated = part[0] if bits == 8 else part[0] << 4 | part[min(1, count - 1)]
        fits = len(set(part)) == 1 if bits == 8 else len(set(part[::2])) == 1 and len(set(part[1::2])) <= 1
        if fits:
            out += bytes([count, repeated])
        elif count < 3:
            out += bytes([1, part[0] if bits == 8 else part[0] << 4])
            count = 1
        else:
            pixels = part if bits == 8 else [a << 4 | b for a, b in zip(part[::2], [*part[1::2], 0], strict=False)]
            out += bytes([0, count, *pixels]) + bytes(len(pixels) % 2)
        at += count
    return out


@pytest.mark.slow
@settings(max_examples=60)
@given(choose=st.data(), bits=st.sampled_from([4, 8]), width=st.integers(1, 23), height=st.integers(1, 9))
def test_every_way_of_writing_gives_the_pixels(choose: st.DataObject, bits: int, width: int, height: int) -> None:
    seed = choose.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 16, (height, width)) * (rng.random((height, 1)) < 0.7)  # some rows are blank
    data = b""
    for row in numbers[::-1].tolist():
        if any(row) or not choose.draw(st.booleans()):
            data += in_runs(row, bits, choose)
        data += bytes(2)  # a blank row may be nothing else
    ends = choose.draw(st.sampled_from([b"\0\1", b""]))
    content = bmp(bits, data + ends, (width, height), shift=choose.draw(st.integers(0, 3)))
    image = open_picture("x.bmp", content=content)
    np.testing.assert_array_equal(np.asarray(image), PALETTE[numbers])


def test_moves_leave_the_first_colour() -> None:
    data = bytes([2, 5, 0, 2, 3, 1, 1, 7, 0, 0, 0, 1])  # two pixels; 3 to the right and 1 up; one; end
    numbers = np.zeros((4, 9), int)
    numbers[3, :2], numbers[2, 5] = 5, 7
    image = open_picture("x.bmp", content=bmp(8, data, (9, 4)))
    np.testing.assert_array_equal(np.asarray(image), PALETTE[numbers])


def rows(count: int) -> bytes:
    return b"".join(bytes([9, number % 15 + 1, 0, 0]) for number in range(count))


def test_one_that_is_cut_is_partial_and_one_without_rows_is_refused() -> None:
    cut = read_picture("x.bmp", SHOWN, content=bmp(8, rows(30)[:-60], (9, 30)))
    assert cut.partial == "the BMP ends before the picture does"
    assert read_picture("x.bmp", SHOWN, content=bmp(8, rows(30) + b"\0\1", (9, 30))).partial is None
    with pytest.raises(UnreadablePicture) as refused:
        read_picture("x.bmp", SHOWN, content=bmp(8, rows(2), (9, 30)))
    assert refused.value.status == "truncated"


def test_pillow_reads_what_is_simple_alike() -> None:
    content = bmp(8, rows(30) + b"\0\1", (9, 30))
    expected: PixelArray = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_picture("x.bmp", content=content)), expected)
