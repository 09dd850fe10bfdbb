"""Which page of a TIFF is the picture, and whether it is a TIFF at all: names say little."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from clipsearch.errors import UnreadablePicture
from clipsearch.images import open_picture, read_picture
from clipsearch.records import Preprocessing
from tests.picture_matrix import motif, quantise, small_tiff
from tests.unit.test_images import corners, write_dng

SQUASH = Preprocessing(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="squash")


def page(width: int, height: int, colour: tuple[int, int, int] = (200, 60, 30)) -> np.ndarray[Any, Any]:
    return np.asarray(Image.new("RGB", (width, height), colour))


def tiff(*pages: tuple[np.ndarray[Any, Any], dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for pixels, more in pages:
            writer.write(pixels, photometric="rgb", metadata=None, **more)
    return buffer.getvalue()


FULL, THUMB = page(640, 480), page(160, 120, (0, 0, 255))
REDUCED = {"subfiletype": 1}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([(FULL, {})], (640, 480)),
        ([(FULL, {}), (THUMB, {})], (640, 480)),
        ([(FULL, {}), (THUMB, REDUCED)], (640, 480)),
        ([(THUMB, REDUCED), (FULL, {})], (640, 480)),
        ([(THUMB, {}), (FULL, {})], (640, 480)),
        ([(THUMB, REDUCED), (THUMB, REDUCED), (FULL, {})], (640, 480)),
        ([(page(160, 107), {}), (FULL, {})], (640, 480)),  # a thumbnail of a slightly other shape
        ([(page(160, 120), {}), (page(320, 240), {}), (FULL, {})], (640, 480)),
        ([(page(800, 600), {}), (page(1600, 1200), {})], (1600, 1200)),
        ([(page(640, 480), {}), (page(480, 640), {})], (640, 480)),  # two pages of a document
        ([(page(640, 480), {}), (page(900, 500), {})], (640, 480)),
        ([(THUMB, REDUCED)], (160, 120)),
        ([(THUMB, {"subifds": 1}), (FULL, {})], (640, 480)),  # below the first page
        ([(FULL, {"subifds": 1}), (THUMB, REDUCED)], (640, 480)),
    ],
)
def test_the_full_picture_is_taken(pages: list[Any], expected: tuple[int, int], big: bool) -> None:
    content = tiff(*pages, bigtiff=big)
    for name in ("a.tif", "a.nef", "a"):
        picture = read_picture(name, SQUASH, content=content)
        assert (picture.width, picture.height) == expected
        assert picture.partial is None


def test_orientation_is_the_pages_or_else_the_files() -> None:
    content = tiff((FULL, {"extratags": [(274, 3, 1, 6, True)]}))
    assert open_picture("x", content=content).size == (480, 640)
    content = tiff((THUMB, {**REDUCED, "extratags": [(274, 3, 1, 6, True)]}), (FULL, {}))
    assert open_picture("x", content=content).size == (480, 640)


@pytest.mark.parametrize("name", ["a.dng", "a.tif", "a.tiff", "a.jpg", "a"])
def test_a_raw_file_is_one_by_any_name(tmp_path: Path, name: str) -> None:
    pytest.importorskip("rawpy")
    write_dng(tmp_path / "raw")
    picture = read_picture(name, SQUASH, content=(tmp_path / "raw").read_bytes())
    assert picture.metadata.format == "RAW"
    assert corners(picture.pixels).astype(int).argmax(axis=1).tolist()[:3] == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.nef", "a.cr2", "a.arw", "a.dng", "a.orf", "a.pef", "a.raw"])
@pytest.mark.parametrize("make", [None, "NIKON CORPORATION", "SONY"])
def test_a_tiff_is_one_by_any_name(name: str, make: str | None) -> None:
    """LibRaw reads many a plain TIFF, and shows something else."""
    pixels = quantise(motif(), "u8")
    options = {"extratags": [(271, 2, len(make) + 1, make, True)]} if make else {}
    for code in ("u8", "u16"):
        found = np.asarray(open_picture(name, content=tiff((quantise(motif(), code), options)))).astype(int)
        assert np.abs(found - pixels).max() <= 1


@pytest.mark.parametrize("photometric", [32803, 34892])
def test_sensor_data_without_the_extra_is_said_to_need_it(monkeypatch: pytest.MonkeyPatch, photometric: int) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rawpy", None)
    tags: dict[int, Any] = {258: ("H", (16,)), 262: ("H", (photometric,)), 277: ("H", (1,))}
    for name in ("a.tif", "a.nef"):
        with pytest.raises(UnreadablePicture) as caught:
            open_picture(name, content=small_tiff(tags, bytes(48 * 32 * 2)))
        assert caught.value.status == "missing_extra"


@pytest.mark.parametrize(
    ("compression", "word"),
    [
        (9, "JBIG"), (32766, "NeXT"), (32809, "ThunderScan"), (32909, "PixarLog"), (34661, "JBIG"), (34676, "LogLuv"),
        (34887, "LERC"), (34934, "JPEG XR"), (50002, "JPEG XL"), (52546, "JPEG XL"), (61234, "61234"),
    ],
)  # fmt: skip
def test_a_compression_that_is_not_read_is_called_what_it_is(compression: int, word: str) -> None:
    tags: dict[int, Any] = {258: ("H", (8,) * 3), 259: ("H", (compression,)), 262: ("H", (2,)), 277: ("H", (3,))}
    with pytest.raises(UnreadablePicture) as caught:
        open_picture("a.tif", content=small_tiff(tags, bytes(5000)))
    assert caught.value.status == "unsupported_format"
    assert word in caught.value.reason


def test_a_loop_of_pages_ends() -> None:
    content = bytearray(tiff((FULL, {}), (THUMB, {})))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        second = file.pages[1].offset
        first = file.pages[0].offset
    count = int.from_bytes(content[second : second + 2], "little")
    at = second + 2 + 12 * count
    content[at : at + 4] = first.to_bytes(4, "little")
    assert open_picture("x", content=bytes(content)).size == (640, 480)
