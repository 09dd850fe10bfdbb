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
from clipsearch.pictures.images import open_picture, read_picture
from clipsearch.records import Preprocessing
from tests.support.cases import thinned
from tests.support.picture_matrix import motif, quantise, small_tiff
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
DOCUMENT = {"subfiletype": 2}


@pytest.mark.many
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
        ([(page(1240, 1754), {}), (page(1242, 1757), {})], (1240, 1754)),  # scans of a document
        ([(page(620, 877), {}), (page(877, 1240), {})], (620, 877)),  # A5, then A4
        ([(page(500, 400), {}), (page(640, 480), {})], (500, 400)),
        ([(page(620, 877), DOCUMENT), (page(1240, 1754), DOCUMENT)], (620, 877)),
        ([(page(620, 877), {}), (page(1240, 1754), DOCUMENT)], (620, 877)),
        ([(page(620, 877), DOCUMENT), (page(1240, 1754), {})], (620, 877)),
        ([(THUMB, REDUCED), (page(620, 877), DOCUMENT), (page(1240, 1754), DOCUMENT)], (620, 877)),
        ([(page(400, 300), REDUCED), (page(440, 330), {})], (440, 330)),
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


def grey_of(samples: np.ndarray[Any, Any], path: Path, nodata: str | None = None) -> np.ndarray[Any, Any]:
    """The grey values that are shown of samples of one channel."""
    tags = [] if nodata is None else [(42113, 2, 0, nodata, True)]
    tifffile.imwrite(path, samples, photometric="minisblack", metadata=None, extratags=tags, rowsperstrip=7)
    return np.asarray(open_picture(path))[..., 0].astype(int)


NOTHING = [
    ("f4", -3.4028234663852886e38, "-3.40282346600000016e+38"), ("f4", -3.4e38, None),
    ("f4", 3.4028234663852886e38, None),
    ("f4", -9999.0, "-9999"), ("f4", -9999.0, None), ("f8", -1.7976931348623157e308, None), ("f8", 9.96921e36, None),
    ("f8", -99999.0, None), ("f4", 1e20, None), ("f4", -32768.0, None), ("f4", 9999.0, "9999.0"), ("f8", 99999.0, None),
    ("f2", -65504.0, None), ("f4", np.nan, "nan"), ("f4", -np.inf, None), ("f4", 5000.0, "5000"), ("i2", -32768, None),
    ("i2", -9999, "-9999"), ("i2", 32767, "32767"), ("i2", 32767, None), ("i4", -2147483648, None), ("i4", -9999, None),
    ("f4", -9999.0, "what?"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "tag"), NOTHING)
@pytest.mark.parametrize(("low", "high"), thinned([(0, 1), (0, 255), (200, 800), (-60, 40), (1200, 2600)], 3))
def test_what_stands_for_no_data_does_not_flatten_the_picture(
    kind: str, value: float, tag: str | None, low: float, high: float, tmp_path: Path
) -> None:
    if kind[0] == "i" and high == 1:
        high = 100
    ramp = np.linspace(low, high, 64).astype(kind)
    samples = np.repeat(ramp[None], 40, axis=0)
    samples[5:20, 30:34] = value
    shown = grey_of(samples, tmp_path / "heights.tif", tag)
    row = shown[30]
    assert (np.diff(row) >= 0).all()
    assert row[-1] - row[0] > 70
    assert shown[5:20, 30:34].max() == 0


@pytest.mark.parametrize("kind", ["i2", "i4", "u4", "f4"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("brightest", [0.7, 1.0])
def test_few_bits_in_many_are_as_bright_as_they_are(kind: str, bits: int, brightest: float, tmp_path: Path) -> None:
    samples = np.round(np.linspace(0, brightest, 640) * (2**bits - 1)).reshape(20, 32).astype(kind)
    shown = grey_of(samples, tmp_path / "a.tif")
    assert np.abs(shown.reshape(-1) - np.linspace(0, brightest * 255, 640)).max() <= 1.5


def test_extremes_that_are_part_of_the_picture_stay(tmp_path: Path) -> None:
    for samples in ([-1, 0, 1], [0, 255, 255], [-5, -4, 3], [-100, 50, 60], [0, 9999, 7000]):
        shown = grey_of(np.repeat(np.array([samples], "f4"), 3, axis=0), tmp_path / "a.tif")
        assert shown[0].argmin() == 0
        assert len(set(shown[0])) == len(set(samples))


def photo_of_values(top: float, kind: str) -> np.ndarray[Any, Any]:
    """A grey picture of all values up to one, few of them near it."""
    rng = np.random.default_rng(5)
    return (np.sort(rng.beta(1.5, 3, (120, 160)), axis=1) * top).clip(0, top).astype(kind)


@pytest.mark.parametrize("peak", [1.0, 1.2, 2, 4, 15, 40, 300, 1e5])
@pytest.mark.parametrize("count", [1, 4, 300])
@pytest.mark.parametrize("container", ["tif", "pfm", "colour"])
def test_bright_pixels_of_hdr_do_not_darken_the_picture(
    peak: float, count: int, container: str, tmp_path: Path
) -> None:
    """White is at 1, as where viewers clip."""
    samples = photo_of_values(1, "f4")
    samples[5, :count] = samples[6:8, :count] = peak
    expected = samples.clip(0, 1) * 255
    path = tmp_path / f"sun.{container}"
    if container == "tif":
        shown = grey_of(samples, path)
    else:
        colours = 3 if container == "colour" else 1
        stored = np.repeat(samples[::-1, :, None], colours, axis=2).astype("<f4")
        path.write_bytes(b"P%c\n160 120\n-1.0\n" % (b"F" if colours == 3 else b"f") + stored.tobytes())
        shown = np.asarray(open_picture(path))[..., 0].astype(int)
    assert np.abs(shown - expected).max() <= 1


HOT = [
    ("f4", 255, 300), ("f4", 255, 70_000), ("f4", 255, -80), ("f4", 65535, 1e7), ("f8", 1023, 5000),
    ("i4", 255, 1_000_000), ("i4", 255, -1_000_000), ("i4", 65535, 2**31 - 1), ("u4", 65535, 2**32 - 1),
    ("u4", 4095, 65535), ("i2", 4095, 30_000), ("f2", 255, 60_000),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "top", "hot"), HOT)
def test_a_hot_pixel_does_not_flatten_the_picture(kind: str, top: float, hot: float, tmp_path: Path) -> None:
    samples = photo_of_values(top, kind)
    samples[0, -4:] = top  # that reach it: else fewer bits would hold them
    expected = samples.astype(float) / top * 255
    samples[40, 77] = hot
    shown = grey_of(samples, tmp_path / "hot.tif")
    expected[40, 77] = shown[40, 77]
    assert shown[40, 77] == (255 if hot > 0 else 0)
    assert np.abs(shown - expected).max() <= 1


def test_heights_with_a_hot_pixel_span_the_others(tmp_path: Path) -> None:
    heights = np.repeat(np.linspace(-60, 40, 64, dtype="f4")[None], 40, axis=0)
    heights[3, 3] = 1e6
    shown = grey_of(heights, tmp_path / "heights.tif")
    assert (shown[30][0], shown[30][-1]) == (0, 255)


def test_an_hdr_picture_brighter_than_white_spans_most_of_itself(tmp_path: Path) -> None:
    samples = photo_of_values(3, "f4")
    samples[0, :3] = 5000
    shown = grey_of(samples, tmp_path / "bright.tif")
    assert 80 < shown.mean() < 160
    assert (shown == 255).mean() < 0.06
