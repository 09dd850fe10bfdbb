"""Formats, colours, orientation and preprocessing of clipsearch.pictures.images, on pictures that the tests write."""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures import images
from clipsearch.pictures.images import classify_name, is_candidate, open_picture, prepare, read_picture
from clipsearch.records import Interpolation, PictureMetadata, PixelArray, Preprocessing, ResizeMode
from tests.support.cases import thinned

COLOURS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 200), "yellow": (240, 220, 60)}


def preprocessing(width: int = 64, height: int = 64, mode: ResizeMode = "shortest") -> Preprocessing:
    return Preprocessing(height, width, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode=mode)


SQUASH = preprocessing(mode="squash")


def quarters(width: int = 120, height: int = 80) -> Image.Image:
    """Red top left, green top right, blue bottom left, yellow bottom right: no two orientations look alike."""
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(COLOURS.values()):
        x, y = index % 2 * (width // 2), index // 2 * (height // 2)
        image.paste(colour, (x, y, x + width // 2, y + height // 2))
    return image


def corners(pixels: PixelArray) -> PixelArray:
    """The colours in the middle of the quarters, in reading order. Shape (4, 3)."""
    height, width = pixels.shape[:2]
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return np.stack([pixels[y, x] for y in rows for x in columns])


def assert_quarters(pixels: PixelArray, tolerance: int = 3) -> None:
    difference = np.abs(corners(pixels).astype(int) - np.array(list(COLOURS.values())))
    assert difference.max() <= tolerance, corners(pixels).tolist()


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Structure at every scale, somewhat like a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 30, 90):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / cells**0.5
    total += rng.normal(0, 4, total.shape)
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((total * 255).astype(np.uint8))


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def status_of(path: Path, **options: Any) -> str:
    with pytest.raises(UnreadablePicture) as caught:
        read_picture(path, SQUASH, **options)
    assert caught.value.reason
    assert caught.value.path == os.fspath(path)
    return caught.value.status


# Names


READ = "jpg JPEG jfif JPE png webp gif tif tiff bmp dib avif jp2 j2k jpf jpx j2c ppm pgm pbm pnm HEIC heif dng CR2 cr3"
READ += " nef arw orf rw2 raf pef srw"


@pytest.mark.parametrize(
    "name",
    [*(f"a.b.{extension}" for extension in READ.split()), "IMG_1", ".hidden.jpg", "bad\udcff.jpg", "new\nline.png"],
)
def test_candidates(name: str) -> None:
    assert is_candidate(name)
    assert classify_name(name) is None


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("notes.txt", "not_a_picture"),
        ("song.mp3", "not_a_picture"),
        (".DS_Store", "not_a_picture"),
        ("._IMG_1.jpg", "not_a_picture"),
        ("art.psd", "unsupported_format"),
        ("logo.SVG", "unsupported_format"),
        ("x.tga", "unsupported_format"),
        ("x.jxl", "unsupported_format"),
    ],
)
def test_other_names(name: str, status: str) -> None:
    found = classify_name(name)
    assert found is not None
    assert found[0] == status
    assert found[1]


# Formats


@pytest.mark.parametrize(
    ("extension", "options", "tolerance", "format_name"),
    [
        ("jpg", {"quality": 95}, 12, "JPEG"),
        ("jpg", {"quality": 95, "progressive": True}, 12, "JPEG"),
        ("png", {}, 1, "PNG"),
        ("webp", {"lossless": True}, 1, "WEBP"),
        ("webp", {"quality": 95}, 12, "WEBP"),
        ("gif", {}, 10, "GIF"),
        ("tiff", {}, 1, "TIFF"),
        ("tiff", {"compression": "tiff_lzw"}, 1, "TIFF"),
        ("tiff", {"compression": "jpeg", "quality": 95}, 12, "TIFF"),
        ("tiff", {"big_tiff": True}, 1, "TIFF"),
        ("bmp", {}, 1, "BMP"),
        ("dib", {}, 1, "DIB"),
        ("avif", {"quality": 95}, 12, "AVIF"),
        ("jp2", {}, 1, "JPEG2000"),
        ("j2k", {}, 1, "JPEG2000"),
        ("ppm", {}, 1, "PPM"),
    ],
)
def test_formats(tmp_path: Path, extension: str, options: dict[str, Any], tolerance: int, format_name: str) -> None:
    path = save(quarters(), tmp_path / f"picture.{extension}", **options)
    picture = read_picture(path, SQUASH)
    assert_quarters(picture.pixels, tolerance)
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.pixels.dtype == np.uint8
    assert (picture.width, picture.height) == (120, 80)
    assert picture.metadata.format == format_name
    assert picture.content_hash == xxhash.xxh3_128_hexdigest(path.read_bytes())
    # A wrong extension, or none, does not matter.
    for name in ("wrong.png", "wrong.tif", "none"):
        other = path.rename(tmp_path / name)
        assert_quarters(read_picture(other, SQUASH).pixels, tolerance)
        path = other


def bmp_with_alpha(alpha: PixelArray, header: int, masks: tuple[int, ...], *, top_down: bool, kind: str) -> bytes:
    """`quarters` in 32 bits. `header`: bytes of the information header; 40 has its masks behind it."""
    samples = np.dstack([np.asarray(quarters()), alpha]).astype(np.uint32)
    value = np.zeros(alpha.shape, np.uint32)
    for n, mask in enumerate(masks):
        value |= samples[..., n] << np.uint32((mask & -mask).bit_length() - 1)
    rows = (value if top_down else value[::-1]).astype("<u4").tobytes()
    height, width = alpha.shape
    numbers = (header, width, -height if top_down else height, 1, 32, 6 if header == 40 else 3, len(rows), 0, 0, 0, 0)
    body = struct.pack("<IiiHHIIiiII", *numbers) + struct.pack("<4I", *masks) + b"BGRs" * (header > 56)
    body = body.ljust(max(header, 56), b"\0")
    return (
        b"BM" + struct.pack("<IHHI", 14 + len(body) + len(rows), 0, 0, 14 + len(body)) if kind == "bmp" else b""
    ) + (body + rows)


@pytest.mark.parametrize("kind", ["bmp", "dib"])
@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("header", [40, 56, 108, 124])
@pytest.mark.parametrize(
    "masks", [(0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
              (0xFF000000, 0xFF0000, 0xFF00, 0xFF)]
)  # fmt: skip
def test_a_bmp_whose_alpha_is_empty_is_opaque(
    kind: str, top_down: bool, header: int, masks: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{kind}"
    alpha = np.zeros((80, 120), np.uint8)
    path.write_bytes(bmp_with_alpha(alpha, header, masks, top_down=top_down, kind=kind))
    picture = read_picture(path, SQUASH)
    assert_quarters(picture.pixels)
    assert picture.metadata.format == kind.upper()
    alpha[:, :60] = 255  # now it says something
    path.write_bytes(bmp_with_alpha(alpha, header, masks, top_down=top_down, kind=kind))
    pixels = read_picture(path, SQUASH).pixels
    assert pixels[8:-8, 40:].min() == 255
    assert pixels[8:-8, 8:24].min() < 100


@pytest.mark.parametrize("extension", ["gif", "png", "webp", "tiff"])
def test_first_frame(tmp_path: Path, extension: str) -> None:
    others = [Image.new("RGB", (120, 80), colour) for colour in ("black", "white")]
    path = tmp_path / f"animation.{extension}"
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    quarters().save(path, save_all=True, append_images=others, **options)
    with Image.open(path) as reread:
        assert getattr(reread, "n_frames", 1) == 3
    assert_quarters(read_picture(path, SQUASH).pixels, 10)


def test_mpo_is_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "stereo.mpo"
    quarters(800, 600).save(path, save_all=True, append_images=[Image.new("RGB", (800, 600))], quality=95)
    picture = read_picture(path, SQUASH)
    assert_quarters(picture.pixels, 12)
    assert (picture.metadata.format, picture.width) == ("JPEG", 800)


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    for orientation in (1, 6):
        image = quarters() if orientation == 1 else quarters().transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.heic"
        pillow_heif.from_pillow(image).save(path, quality=95, exif=exif.tobytes())
        picture = read_picture(path, SQUASH)
        assert_quarters(picture.pixels, 16)
        assert (picture.width, picture.height, picture.metadata.format) == (120, 80, "HEIF")


@pytest.mark.parametrize(("module", "name"), [("pillow_heif", "x.heic"), ("rawpy", "x.dng")])
def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    if name.endswith("heic"):
        path.write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100))
    else:
        write_dng(path)
    assert status_of(path) == "missing_extra"


def write_dng(path: Path, *, orientation: int = 1, side: int = 128, hidden: bytes = b"") -> None:
    """A minimal uncompressed DNG: a Bayer mosaic of the quarters in 16 bits, linear. `hidden` stands before it."""
    rgb = np.asarray(quarters(2 * side, side)).astype(np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    mosaic = np.empty(rgb.shape[:2])
    for y, x, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[y::2, x::2] = linear[y::2, x::2, channel]
    data = (mosaic * 65535).astype("<u2").tobytes()
    xyz_to_srgb = [32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572]
    entries: list[tuple[int, int, list[int]]] = [  # tag, TIFF type, values
        (254, 4, [0]), (256, 4, [2 * side]), (257, 4, [side]), (258, 3, [16]), (259, 3, [1]), (262, 3, [32803]),
        (273, 4, [0]), (274, 3, [orientation]), (277, 3, [1]), (278, 4, [side]), (279, 4, [len(data)]),
        (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2]), (50706, 1, [1, 4, 0, 0]), (50707, 1, [1, 1, 0, 0]),
        (50717, 4, [65535]), (50721, 10, [n for value in xyz_to_srgb for n in (value, 10000)]),
        (50728, 5, [1, 1, 1, 1, 1, 1]), (50778, 3, [21]),
    ]  # fmt: skip
    codes = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i"}
    packed = [struct.pack(f"<{len(values)}{codes[kind]}", *values) for _, kind, values in entries]
    extra_at = 8 + 2 + 12 * len(entries) + 4
    data_at = extra_at + sum(len(value) for value in packed if len(value) > 4)
    table, extra = b"", b""
    for (tag, kind, values), value in zip(entries, packed, strict=True):
        count = len(values) // 2 if kind in (5, 10) else len(values)
        if tag == 273:
            value = struct.pack("<I", data_at + len(hidden))
        if len(value) > 4:
            extra, value = extra + value, struct.pack("<I", extra_at + len(extra))
        table += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + extra + hidden + data)


@pytest.mark.parametrize("name", ["x.dng", "x.tif"])
def test_raw(tmp_path: Path, name: str) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / name
    write_dng(path)
    picture = read_picture(path, SQUASH)
    assert (picture.width, picture.height, picture.metadata.format) == (256, 128, "RAW")
    found = corners(picture.pixels).astype(int)  # the camera's colours and tone curve: hues only
    assert found.argmax(axis=1).tolist()[:3] == [0, 1, 2]
    assert found[3, :2].min() > 1.5 * found[3, 2]


def test_raw_orientation(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "x.dng"
    write_dng(path, orientation=6)
    picture = read_picture(path, SQUASH)
    assert (picture.width, picture.height) == (128, 256)
    assert corners(picture.pixels)[1].argmax() == 0  # red moved to the right


@pytest.mark.many
@pytest.mark.parametrize("share", [0.95, 0.6, 0.3])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_preview_of_a_raw_file_that_is_cut(tmp_path: Path, share: float, orientation: int) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "x.dng"
    small, large = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (160, 120)).save(small, "JPEG")
    quarters(1000, 500).save(large, "JPEG", quality=90)
    write_dng(path, side=600, orientation=orientation, hidden=small.getvalue() + bytes(100) + large.getvalue())
    whole = path.read_bytes()
    assert read_picture(path, SQUASH).partial is None
    path.write_bytes(whole[: int(len(whole) * share)])
    picture = read_picture(path, SQUASH)
    assert picture.partial == "the RAW file ends before the picture does; its preview is intact"
    assert (picture.width, picture.height) == ((1000, 500) if orientation == 1 else (500, 1000))
    expected = quarters(1000, 500).transpose(Image.Transpose.ROTATE_270) if orientation == 6 else quarters(1000, 500)
    assert np.abs(picture.pixels.astype(int) - prepare(expected, SQUASH)).mean() < 3


@pytest.mark.parametrize("hidden", [b"", b"\xff\xd8\xff\xe0 no picture \xff\xd9"])
def test_a_raw_file_that_is_cut_and_has_no_preview(tmp_path: Path, hidden: bytes) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "x.dng"
    write_dng(path, side=600, hidden=hidden)
    path.write_bytes(path.read_bytes()[:-1000])
    try:
        assert read_picture(path, SQUASH).partial == "the RAW file ends before the picture does"
    except UnreadablePicture as error:
        assert error.status == "truncated"


@pytest.mark.many
@pytest.mark.parametrize("orientation", [1, 8])
@pytest.mark.parametrize("compression", [9, 52546, 61234])
def test_the_preview_of_a_raw_file_whose_coding_is_not_known(
    tmp_path: Path, compression: int, orientation: int
) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "x.dng"
    large = io.BytesIO()
    quarters(1000, 500).save(large, "JPEG", quality=90)
    write_dng(path, side=600, orientation=orientation, hidden=large.getvalue())
    content = path.read_bytes()
    entry = struct.pack("<HHII", 259, 3, 1, 1)
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, struct.pack("<HHII", 259, 3, 1, compression)))
    picture = read_picture(path, SQUASH)
    assert picture.partial == "the sensor's data of the RAW file cannot be read; its preview is intact"
    expected = quarters(1000, 500).transpose(Image.Transpose.ROTATE_90) if orientation == 8 else quarters(1000, 500)
    assert (picture.width, picture.height) == expected.size
    assert np.abs(picture.pixels.astype(int) - prepare(expected, SQUASH)).mean() < 3


@pytest.mark.parametrize(
    "head",
    [b"FUJIFILMCCD-RAW 0201FF129502X-NEW", b"FOVb\0\0\3\0", b"\0MRM\0\1\2\3", b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0"],
)
def test_the_preview_of_a_raw_file_of_an_unknown_camera(head: bytes) -> None:
    pytest.importorskip("rawpy")
    large = io.BytesIO()
    quarters(1000, 500).save(large, "JPEG", quality=90)
    for name in ("x.raf", "x.x3f", "x.mrw", "x.orf", "x.rw2"):
        content = head.ljust(512, b"\0") + large.getvalue() + bytes(3000)
        try:
            picture = read_picture(name, SQUASH, content=content)
        except UnreadablePicture as error:
            assert error.status == "unsupported_format" and "RAW" not in error.reason  # another kind, by its bytes
            continue
        assert picture.partial is not None and (picture.width, picture.height) == (1000, 500)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("name", ["a.tif", "a.dng"])
def test_a_tiff_that_says_that_it_is_a_dng(name: str, compression: str | None) -> None:
    """Programs that develop a RAW file copy its tags into the TIFF that they write."""
    pytest.importorskip("rawpy")
    pixels = np.asarray(quarters(96, 64))
    for version in (b"\1\4\0\0", b"\1\6\0\0"):
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer, pixels, photometric="rgb", compression=compression, extratags=[(50706, 1, 4, version, True)]
        )
        picture = read_picture(name, SQUASH, content=buffer.getvalue())
        assert (picture.metadata.format, picture.partial) == ("TIFF", None)
        assert np.abs(picture.pixels.astype(int) - prepare(quarters(96, 64), SQUASH)).mean() < 1


@pytest.mark.parametrize("where", [2**31, 30, 0])
@pytest.mark.parametrize("name", ["a.tif", "a.dng"])
def test_a_dng_whose_sensor_data_is_out_of_reach_shows_its_thumbnail_as_such(name: str, where: int) -> None:
    pytest.importorskip("rawpy")
    buffer = io.BytesIO()
    tags = [(50706, 1, 4, b"\1\4\0\0", True), (330, 4, 1, where, True)]
    tifffile.imwrite(buffer, np.asarray(quarters(256, 192)), photometric="rgb", subfiletype=1, extratags=tags)
    picture = read_picture(name, SQUASH, content=buffer.getvalue())
    assert picture.partial == "the sensor's data of the RAW file cannot be read; its preview is intact"
    assert np.abs(picture.pixels.astype(int) - prepare(quarters(256, 192), SQUASH)).mean() < 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_gif_with_a_huge_comment_takes_no_longer_than_its_length(count: int) -> None:
    whole = io.BytesIO()
    quarters(64, 48).save(whole, "GIF")
    content = whole.getvalue()
    at = 13 + (3 << (content[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * (16 * 4096 // count) + b"\0"
    started = time.process_time()
    found = open_picture("x", content=content[:at] + comment * count + content[at:])
    assert time.process_time() - started < 2
    assert np.array_equal(np.asarray(found), np.asarray(open_picture("x", content=content)))


# Colour


def test_grey_modes(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    sixteen = ramp.astype(np.uint16) * 257
    cases = {
        "L.png": Image.fromarray(ramp),
        "I16.png": Image.fromarray(sixteen),
        "I16.tif": Image.fromarray(sixteen),
        "I.tif": Image.fromarray(sixteen.astype(np.int32)),
        "F1.tif": Image.fromarray((ramp / 255).astype(np.float32)),
        "F255.tif": Image.fromarray(ramp.astype(np.float32)),
        "F16.pfm": Image.fromarray(sixteen.astype(np.float32)),
        "wide.tif": Image.fromarray(ramp.astype(np.int32) * 1000 - 70_000),
    }
    for name, image in cases.items():
        pixels = read_picture(save(image, tmp_path / name), preprocessing(256, 64, "squash")).pixels
        assert np.abs(pixels.astype(int) - ramp[..., None]).max() <= 1, name


def test_not_a_number_is_black(tmp_path: Path) -> None:
    values = np.full((64, 64), 200, np.float32)
    values[:, :32] = np.nan
    values[0, 63] = np.inf
    pixels = read_picture(save(Image.fromarray(values), tmp_path / "x.tif"), SQUASH).pixels
    assert pixels[32, 10, 0] == 0
    assert pixels[32, 50, 0] == 200


def write_png(path: Path, samples: np.ndarray[Any, Any], colour_type: int) -> Path:
    """A PNG of big-endian 16-bit samples, which Pillow does not write in colour."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )
    return path


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    deep = np.asarray(quarters()).astype(np.uint16) * 257
    assert_quarters(read_picture(write_png(tmp_path / "rgb.png", deep, 2), SQUASH).pixels, 1)
    alpha = np.full((80, 120, 1), 65535, np.uint16)
    alpha[:, 60:] = 0
    pixels = read_picture(write_png(tmp_path / "rgba.png", np.dstack([deep, alpha]), 6), SQUASH).pixels
    assert np.abs(corners(pixels)[0].astype(int) - COLOURS["red"]).max() <= 1
    assert corners(pixels)[1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "1"])
def test_alpha_is_on_white(tmp_path: Path, mode: str) -> None:
    """The left half is opaque dark grey (black in mode 1), the right half transparent black."""
    image = Image.new("RGBA", (80, 40), (40, 40, 40, 255))
    image.paste((0, 0, 0, 0), (40, 0, 80, 40))
    options: dict[str, Any] = {}
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "PA":
        image = image.convert("PA")
    elif mode == "P":
        image = image.quantize(4)
    elif mode == "RGB":
        image = Image.new("RGB", (80, 40), (40, 40, 40))
        image.paste((1, 2, 3), (40, 0, 80, 40))
        options["transparency"] = (1, 2, 3)
    elif mode == "1":
        image = Image.new("1", (80, 40), 1)
        image.paste(0, (0, 0, 40, 40))
        options["transparency"] = 1
    extension = "tif" if mode == "PA" else "png"
    if mode == "PA":
        pixels = prepare(image, SQUASH)  # no format that Pillow writes keeps it
    else:
        pixels = read_picture(save(image, tmp_path / f"x.{extension}", **options), SQUASH).pixels
    assert pixels[32, 10].tolist() == ([0, 0, 0] if mode == "1" else [40, 40, 40])
    assert pixels[32, 54].tolist() == [255, 255, 255]


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    path = save(Image.new("RGBA", (64, 64), (0, 0, 0, 128)), tmp_path / "x.webp", lossless=True, exact=True)
    assert abs(int(read_picture(path, SQUASH).pixels[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, extension: str) -> None:
    """Pillow writes CMYK JPEGs as Adobe does, inverted."""
    path = save(quarters().convert("CMYK"), tmp_path / f"x.{extension}")
    assert_quarters(read_picture(path, SQUASH).pixels, 16)


def test_lab(tmp_path: Path) -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(quarters(), to_lab)
    assert lab is not None
    assert_quarters(read_picture(save(lab, tmp_path / "x.tif"), SQUASH).pixels, 8)


def matrix_profile(primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    """A matrix/TRC display profile. `primaries`: the XYZ (D50) of red, green and blue."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
    tags = [(b"desc", text), (b"wtpt", xyz((0.9642, 1.0, 0.8249)))]
    tags += [(name, xyz(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags:
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value
    header = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">I", 0)
    header += fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return header.ljust(128, b"\0") + table + body


SRGB_XYZ = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]
P3_XYZ = [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_profile_with_swapped_primaries(tmp_path: Path, extension: str) -> None:
    """A profile that calls red what is green: honouring it swaps the two."""
    profile = matrix_profile([SRGB_XYZ[1], SRGB_XYZ[0], SRGB_XYZ[2]], 2.2)
    r, g, b = quarters().split()
    path = tmp_path / f"x.{extension}"
    Image.merge("RGB", (g, r, b)).save(path, icc_profile=profile, quality=95)
    assert_quarters(read_picture(path, SQUASH).pixels, 16)
    assert_quarters(np.asarray(open_picture(path)), 16)


def test_wide_gamut_profile(tmp_path: Path) -> None:
    """The Display P3 coordinates of an sRGB colour become that colour again."""
    path = tmp_path / "x.png"
    Image.new("RGB", (64, 64), (234, 51, 35)).save(path, icc_profile=matrix_profile(P3_XYZ, 2.2))
    red, green, blue = read_picture(path, SQUASH).pixels[0, 0].tolist()
    assert red >= 250
    assert green <= 40
    assert blue <= 40


def test_srgb_and_broken_profiles_change_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = read_picture(save(quarters(), tmp_path / "plain.png"), SQUASH).pixels
    for name, profile in {"srgb": srgb, "other_space": grey, "cut": srgb[:200], "junk": b"junk" * 50}.items():
        path = save(quarters(), tmp_path / f"{name}.png", icc_profile=profile)
        assert np.array_equal(read_picture(path, SQUASH).pixels, plain), name


# Orientation

TURNS = {  # how the stored picture was turned away from the upright one
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "avif"])
def test_orientation(tmp_path: Path, extension: str, orientation: int) -> None:
    turn = TURNS[orientation]
    image = quarters() if turn is None else quarters().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{extension}"
    image.save(path, exif=exif, quality=95)
    picture = read_picture(path, SQUASH)
    assert_quarters(picture.pixels, 14)
    assert (picture.width, picture.height) == (120, 80)
    shown = open_picture(path)
    assert shown.size == (120, 80)
    assert_quarters(np.asarray(shown), 14)


@pytest.mark.few(each="orientation mode")
@pytest.mark.many
@pytest.mark.parametrize(
    ("orientation", "mode"), thinned(itertools.product(TURNS, ["shortest", "squash", "longest"]), 4)
)
def test_draft_agrees_with_full_decoding(tmp_path: Path, orientation: int, mode: ResizeMode) -> None:
    """At sizes that no reduction divides evenly: the box must follow the turn, or the picture shifts."""
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = photo(1237, 1011)
    source.save(path, quality=92, exif=exif)
    wanted = preprocessing(72, 64, mode)
    with Image.open(path) as full:
        upright = full.convert("RGB")
        if orientation > 1:
            upright = upright.transpose(images._UPRIGHT[orientation][0])
        expected = prepare(upright, wanted).astype(int)
    found = read_picture(path, wanted)
    assert (found.width, found.height) == upright.size
    difference = np.abs(found.pixels - expected)
    assert difference.mean() < 1.0
    assert difference.max() <= 8


def test_draft_is_used_and_sufficient() -> None:
    """A large JPEG is decoded at a reduced size that still leaves twice the wanted one; a small one in full."""
    for size, expected in ((1000, 250), (255, 255), (256, 128), (4000, 500)):
        data = io.BytesIO()
        Image.new("RGB", (size, size)).save(data, "JPEG")
        data.seek(0)
        with images._open_image(data, "JPEG") as image:
            decoded = images._decode_image(image, "JPEG", lambda _: (64, 64), images.MAX_PIXELS)
        assert decoded.image.size == (expected, expected)
        assert decoded.full_size == (size, size)


# Preprocessing

sides = st.integers(1, 300)
targets = st.integers(8, 70)


@pytest.mark.torch
@settings(max_examples=150, deadline=None)
@given(
    source=st.tuples(sides, sides),
    target=st.tuples(targets, targets) | targets.map(lambda side: (side, side)),
    mode=st.sampled_from(["shortest", "squash", "longest"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 255),
)
def test_prepare_equals_open_clip(
    source: tuple[int, int], target: tuple[int, int], mode: ResizeMode, interpolation: Interpolation, seed: int
) -> None:
    transform = pytest.importorskip("open_clip.transform")
    width, height, fill = *source, seed
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    ours = Preprocessing(target[0], target[1], (0, 0, 0), (1, 1, 1), interpolation, mode, fill)
    if mode == "longest" and min(images_after_longest(width, height, target)) == 0:
        assert prepare(image, ours).shape == (*target, 3)  # open_clip fails on these
        return
    theirs = transform.image_transform(
        target, False, (0, 0, 0), (1, 1, 1), resize_mode=mode, interpolation=interpolation, fill_color=fill
    )
    expected = (theirs(image).permute(1, 2, 0) * 255).round().byte().numpy()
    size = images._resized_size(image.size, ours)
    found = prepare(image, ours)
    assert found.shape == expected.shape
    if size[0] * size[1] > 64 * target[0] * target[1]:
        assert np.abs(found.astype(int) - expected).max() <= 1  # only the part that is kept is resized
    else:
        assert np.array_equal(found, expected)


def images_after_longest(width: int, height: int, target: tuple[int, int]) -> tuple[int, int]:
    ratio = max(height / target[0], width / target[1])
    return round(width / ratio), round(height / ratio)


def test_longest_pads_with_the_fill_colour() -> None:
    wanted = Preprocessing(64, 64, (0, 0, 0), (1, 1, 1), resize_mode="longest", fill_color=99)
    pixels = prepare(Image.new("RGB", (128, 64), "white"), wanted)
    assert pixels[5, 30].tolist() == [99, 99, 99]
    assert pixels[32, 30].tolist() == [255, 255, 255]


def test_extreme_panorama_takes_no_memory(tmp_path: Path) -> None:
    """Resized as the model asks, it would have 256 x 7.7 million pixels."""
    strip = np.zeros((1, 30_000, 3), np.uint8)
    strip[:, 15_000:] = 255
    path = save(Image.fromarray(strip), tmp_path / "x.png")
    pixels = read_picture(path, preprocessing(256, 256)).pixels
    assert pixels.shape == (256, 256, 3)
    assert pixels[100, 0].max() < 128 < pixels[100, 255].min()


# Thumbnails


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_open_picture_at_reduced_size(tmp_path: Path, extension: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"x.{extension}"
    quarters(1200, 800).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    image = open_picture(path, longest=300)
    assert (image.size, image.mode) == ((300, 200), "RGB")
    assert_quarters(np.asarray(image), 12)
    assert not image.info
    assert not image.getexif()
    assert open_picture(path, longest=5000).size == (1200, 800)


# Metadata


def with_exif(path: Path, fill: Any) -> PictureMetadata:
    exif = Image.Exif()
    fill(exif)
    quarters().save(path, exif=exif.tobytes())
    return read_picture(path, SQUASH).metadata


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_metadata(tmp_path: Path, extension: str) -> None:
    def fill(exif: Image.Exif) -> None:
        exif[0x010F], exif[0x0110] = "NIKON CORPORATION\0", " NIKON  D90 "
        details, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        details[0x9003], details[0x9291] = "2019:07:14 18:30:05", "25"
        gps[1], gps[2], gps[3], gps[4] = "N", (48.0, 51.0, 24.0), "W", (2.0, 21.0, 7.2)

    found = with_exif(tmp_path / f"x.{extension}", fill)
    assert found.taken_at == "2019-07-14T18:30:05.250000"
    assert found.camera == "NIKON D90"
    assert found.latitude == pytest.approx(48.8566667)
    assert found.longitude == pytest.approx(-2.352)


def test_metadata_is_optional_and_checked(tmp_path: Path) -> None:
    def zeros(exif: Image.Exif) -> None:
        exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2], gps[3], gps[4] = "N", (0.0, 0.0, 0.0), "E", (0.0, 0.0, 0.0)

    def out_of_range(exif: Image.Exif) -> None:
        exif[0x010F], exif[0x0110] = "Apple", "iPhone 12"
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2], gps[3], gps[4] = "N", (95.0, 0.0, 0.0), "E", (5.0, 0.0, 0.0)

    found = with_exif(tmp_path / "zeros.jpg", zeros)
    assert (found.taken_at, found.camera, found.latitude, found.longitude) == (None, None, None, None)
    found = with_exif(tmp_path / "range.jpg", out_of_range)
    assert (found.camera, found.latitude, found.longitude) == ("Apple iPhone 12", None, None)
    found = read_picture(save(quarters(), tmp_path / "none.jpg"), SQUASH).metadata
    assert found == PictureMetadata(format="JPEG")


def test_zero_denominators_are_no_place(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (48.0, 0.0, 0.0), "E", (2.0, 0.0, 0.0)
    quarters().save(path, exif=exif)
    data = path.read_bytes()
    assert data.count(struct.pack(">II", 48, 1)) == 1
    assert read_picture(path, SQUASH).metadata.latitude == 48
    path.write_bytes(data.replace(struct.pack(">II", 48, 1), bytes(8)))
    assert read_picture(path, SQUASH).metadata.latitude is None


@settings(max_examples=60, deadline=None)
@given(
    junk=st.binary(max_size=200), header=st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0MM"])
)
def test_broken_exif_never_fails_the_picture(junk: bytes, header: bytes) -> None:
    data = io.BytesIO()
    quarters().save(data, "JPEG", exif=header + junk)
    data.seek(0)
    with images._open_image(data, "JPEG") as image:
        decoded = images._decode_image(image, "JPEG", lambda _: (64, 64), images.MAX_PIXELS)
    assert decoded.full_size in {(120, 80), (80, 120)}


# Limits and the process around


def test_pixel_cap(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (200, 100)), tmp_path / "x.png")
    assert read_picture(path, SQUASH, max_pixels=20_000).width == 200
    assert status_of(path, max_pixels=19_999) == "too_large"
    # A JPEG counts with what is decoded of it, up to a limit.
    path = save(Image.new("RGB", (400, 400)), tmp_path / "x.jpg")
    assert read_picture(path, SQUASH, max_pixels=40_000).width == 400
    assert status_of(path, max_pixels=39_999) == "too_large"
    with pytest.raises(UnreadablePicture):
        open_picture(path, max_pixels=40_000)


def test_pillows_own_cap_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(quarters(400, 300), tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # would refuse it
    threads = [threading.Thread(target=lambda: [open_picture(path) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_picture(path).size == (400, 300)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_large_files_are_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_IN_MEMORY_BYTES", 1000)
    path = save(photo(200, 200), tmp_path / "x.png")
    picture = read_picture(path, SQUASH)
    assert picture.content_hash == xxhash.xxh3_128_hexdigest(path.read_bytes())
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000])
    assert read_picture(path, SQUASH).partial == "the PNG ends before the picture does"
    path.write_bytes(whole[:1500])
    assert status_of(path) == "truncated"


def test_without_content_hash(tmp_path: Path) -> None:
    assert read_picture(save(quarters(), tmp_path / "x.png"), SQUASH, content_hash=False).content_hash is None


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.jpg")
    try:
        quarters().save(open(path, "wb"), "JPEG")  # noqa: SIM115
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert read_picture(path, SQUASH).width == 120


@pytest.mark.slow
def test_import_is_light() -> None:
    code = (
        "import sys, clipsearch.pictures.images; "
        "heavy = {'rawpy', 'pillow_heif', 'PIL.ImageCms', 'torch', 'pandas'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bytes_read_as_the_file_that_they_come_from(tmp_path: Path) -> None:
    path = save(quarters(), tmp_path / "x.png")
    content = path.read_bytes()
    expected, found = read_picture(path, SQUASH), read_picture("x.png", SQUASH, content=content)
    assert np.array_equal(found.pixels, expected.pixels)
    assert found.content_hash == expected.content_hash
    assert open_picture("x.png", content=content).tobytes() == open_picture(path).tobytes()
    for broken, status in ((b"", "empty"), (b"text", "not_a_picture"), (content[:60], "truncated")):
        with pytest.raises(UnreadablePicture, match=r"x\.png") as caught:
            read_picture("x.png", SQUASH, content=broken)
        assert caught.value.status == status


@pytest.mark.slow
def test_pillows_own_cap_stays_a_number_while_pictures_are_read() -> None:
    # Image.crop in another thread compares with twice of it, after a look whether it is None.
    before = Image.MAX_IMAGE_PIXELS
    with images._without_pillows_pixel_cap():
        assert isinstance(Image.MAX_IMAGE_PIXELS, int)
        Image.new("1", (20_000, 20_000)).crop((0, 0, 20_000, 19_999))
    assert before == Image.MAX_IMAGE_PIXELS
