"""Colours that files say in numbers."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from clipsearch.pictures.gamma import profile_of
from clipsearch.pictures.images import as_file, read_picture, see
from clipsearch.records import Preprocessing

SMALL = Preprocessing(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="squash")
LEVELS = np.array([60, 100, 128, 170, 200, 250], np.uint8)
OF_SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
OF_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def linear(levels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    value = levels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def shown(level: int, kind: str) -> Image.Image:
    """One colour in linear light."""
    value = float(linear(np.array(level)))
    if kind == "I;16":
        return Image.fromarray(np.full((32, 32), round(value * 65535), np.uint16))
    image = Image.new("L", (32, 32), round(value * 255))
    return image.convert("RGB").quantize(4) if kind == "P" else image.convert(kind)


def png(image: Image.Image, *chunks: tuple[bytes, bytes], profile: bytes | None = None) -> bytes:
    info = PngImagePlugin.PngInfo()
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info, icc_profile=profile)
    content = file.getvalue()
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return content[:33] + added + content[33:]


def gamma(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def colour(content: bytes) -> list[int]:
    pixels = read_picture("x.png", SMALL, content=content).pixels
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(see(image, SMALL)[0][0], pixels)  # what somebody opened is seen alike
        assert np.array_equal(read_picture("y.png", SMALL, content=as_file(image)).pixels, pixels)
    found: list[int] = pixels[16, 16].tolist()
    return found


@pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("level", LEVELS.tolist())
def test_a_linear_png_is_as_bright_as_its_gamma_says(kind: str, level: int) -> None:
    assert colour(png(shown(level, kind), gamma(100_000))) == pytest.approx([level] * 3, abs=4)


@pytest.mark.parametrize(
    "chunks",
    [(), (gamma(45_455),), (gamma(45_455), (b"cHRM", OF_SRGB)), ((b"sRGB", b"\0"), gamma(100_000)), (gamma(0),),
     ((b"cHRM", OF_P3),), (gamma(2**31),)],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_is_srgb_or_says_nothing_stays_as_it_is(chunks: tuple[tuple[bytes, bytes], ...], mode: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 90, 40)).convert(mode)
    assert colour(png(image, *chunks)) == list(image.convert("RGB").getpixel((0, 0)))  # type: ignore[arg-type]


def test_a_profile_counts_for_more() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = png(Image.new("RGB", (32, 32), (200, 90, 40)), gamma(100_000), profile=profile)
    assert colour(content) == [200, 90, 40]


@pytest.mark.parametrize("written", [45_455, 100_000])
def test_primaries_are_those_that_are_written(written: int) -> None:
    """The Display P3 coordinates of an sRGB red become that red again."""
    p3 = np.array([234, 51, 35])
    stored = p3 if written == 45_455 else np.round(linear(p3) * 255).astype(int)
    red, green, blue = colour(png(Image.new("RGB", (32, 32), tuple(stored.tolist())), gamma(written), (b"cHRM", OF_P3)))
    assert red >= 250
    assert green <= 40
    assert blue <= 40


XYZ_OF_SRGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
PRIMARIES = {  # H.273, of the white of sRGB: x and y of red, green and blue
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    "Adobe": (0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
}
COLOURS = [(200, 110, 70), (80, 120, 150), (110, 140, 95), (180, 180, 180)]


def in_srgb(colour: tuple[int, int, int], primaries: int | str, power: float | None = None) -> list[int]:
    """Worked out without profiles. `power`: of the curve, if it is not that of sRGB."""
    x, y = np.array(PRIMARIES[primaries][::2]), np.array(PRIMARIES[primaries][1::2])
    matrix = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    matrix = matrix * np.linalg.solve(matrix, XYZ_OF_SRGB.sum(axis=1))
    stored = np.array(colour) / 255
    light = np.linalg.solve(XYZ_OF_SRGB, matrix @ (linear(np.array(colour)) if power is None else stored**power))
    light = light.clip(0, 1)
    found = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return [round(value * 255) for value in found.tolist()]


def nclx(format_: str, colour: tuple[int, int, int], primaries: int, curve: int) -> bytes:
    """A HEIF or AVIF that says its colours in a box."""
    file = io.BytesIO()
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
        numbers = {"color_primaries": primaries, "transfer_characteristics": curve, "save_nclx_profile": True}
        Image.new("RGB", (32, 32), colour).save(file, format_, quality=95, matrix_coefficients=6, **numbers)
        return file.getvalue()
    Image.new("RGB", (32, 32), colour).save(file, format_, quality=95)
    content = bytearray(file.getvalue())
    at = content.index(b"colrnclx") + 8
    content[at : at + 4] = struct.pack(">HH", primaries, curve)
    return bytes(content)


def pixel(content: bytes) -> list[int]:
    found: list[int] = read_picture("x", SMALL, content=content).pixels[16, 16].tolist()
    return found


@pytest.mark.few(each="format_ numbers")
@pytest.mark.many
@pytest.mark.parametrize("numbers", [(5, 13), (6, 1), (9, 14), (12, 13), (12, 1), (12, 4), (9, 8), (12, 2)])
@pytest.mark.parametrize("format_", ["PNG", "AVIF", "HEIF"])
def test_colours_are_those_of_the_numbers(format_: str, numbers: tuple[int, int]) -> None:
    primaries, curve = numbers
    for colour in COLOURS:
        if format_ == "PNG":
            content = png(Image.new("RGB", (32, 32), colour), (b"cICP", bytes([*numbers, 0, 1])), profile=None)
        else:
            content = nclx(format_, colour, *numbers)
        wanted = in_srgb(colour, primaries, {4: 2.2, 8: 1.0}.get(curve))
        assert pixel(content) == pytest.approx(wanted, abs=3 if format_ == "PNG" else 8)


def bmp_of(colour: tuple[int, int, int], layout: str, profile: bytes) -> bytes:
    """A BMP of version 5 with a profile behind its pixels."""
    red, green, blue = colour
    bits, compression, masks = {
        "24 bits": (24, 0, (0, 0, 0, 0)),
        "32 bits": (32, 3, (0xFF0000, 0xFF00, 0xFF, 0)),
        "other fields": (32, 3, (0xFF, 0xFF00, 0xFF0000, 0)),
        "palette": (8, 0, (0, 0, 0, 0)),
        "runs": (8, 1, (0, 0, 0, 0)),
    }[layout]
    palette = bytes([blue, green, red, 0]) if bits == 8 else b""
    one = {
        "24 bits": bytes([blue, green, red]),
        "other fields": bytes([red, green, blue, 0]),
        "32 bits": bytes([blue, green, red, 0]),
    }.get(layout, b"\0")
    body = b"\x20\0\0\0" * 32 + b"\0\1" if layout == "runs" else one * 32 * 32
    head = struct.pack("<IiiHHIIiiII", 124, 32, 32, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    head += struct.pack("<4I", *masks) + b"DEBM" + bytes(48)
    head += struct.pack("<4I", 4, 124 + len(palette) + len(body), len(profile), 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body + profile


@pytest.mark.parametrize("layout", ["24 bits", "32 bits", "other fields", "palette", "runs"])
def test_the_profile_in_a_bmp_counts(layout: str) -> None:
    with Image.open(io.BytesIO(png(Image.new("RGB", (1, 1)), gamma(45_455), (b"cHRM", OF_P3)))) as image:
        profile = profile_of(image)
    assert profile is not None
    for colour in COLOURS:
        content = bmp_of(colour, layout, profile)
        assert pixel(content) == pytest.approx(in_srgb(colour, 12), abs=3)
        assert pixel(content[14:]) == pytest.approx(in_srgb(colour, 12), abs=3)  # without the file's header
        broken = content.replace(struct.pack("<I", len(profile)), struct.pack("<I", 2**24))
        assert pixel(broken) == list(colour)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", ["R03", "2"])
def test_adobe_rgb_by_a_mark_in_the_exif(how: str, order: str) -> None:
    for colour in COLOURS:
        exif = Image.Exif()
        exif.endian = order
        details = exif.get_ifd(0x8769)
        details[0xA001] = 2 if how == "2" else 0xFFFF
        if how == "R03":
            details[0xA005] = {1: "R03"}
        exif[0x0112] = 1
        file = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(file, "JPEG", quality=95, exif=exif)
        assert pixel(file.getvalue()) == pytest.approx(in_srgb(colour, "Adobe", 563 / 256), abs=6)


@pytest.mark.parametrize("curve", [16, 18])
@pytest.mark.parametrize("format_", ["PNG", "AVIF", "HEIF"])
def test_pictures_of_high_range_look_like_pictures(format_: str, curve: int) -> None:
    """Paper white is nearly white, half of it as grey as it is, and what is brighter is not darker."""
    paper, half = {16: (148, 129), 18: (191, 157)}[curve]  # of 255: 203 nits, and half of it
    seen = []
    for level in (half, paper, 235):
        image = Image.new("RGB", (32, 32), (level,) * 3)
        numbers = (b"cICP", bytes([9, curve, 0, 1]))
        seen.append(pixel(png(image, numbers) if format_ == "PNG" else nclx(format_, (level,) * 3, 9, curve))[1])
    assert seen[0] == pytest.approx(188, abs=12)
    assert 225 < seen[1] < 250
    assert seen[1] < seen[2] <= 255


def test_numbers_of_png_count_before_a_profile_and_in_the_narrow_range() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (32, 32), (200, 90, 40))
    assert pixel(png(image, (b"cICP", b"\x0c\x0d\0\1"), profile=profile)) == pytest.approx(
        in_srgb((200, 90, 40), 12), abs=3
    )
    assert pixel(png(image, (b"cICP", b"\1\x0d\0\1"), gamma(100_000))) == [200, 90, 40]
    assert pixel(png(Image.new("RGB", (32, 32), (16, 126, 235)), (b"cICP", b"\1\x0d\0\0"))) == pytest.approx(
        [0, 128, 255], abs=2
    )
    grey = Image.new("L", (32, 32), 126)
    assert pixel(png(grey, (b"cICP", b"\x09\x0d\0\1"))) == [126] * 3
    assert pixel(png(grey, (b"cICP", b"\x09\x08\0\1"))) == pytest.approx([186] * 3, abs=2)


@given(numbers=st.binary(max_size=6))
def test_any_numbers_of_video_leave_a_picture(numbers: bytes) -> None:
    read_picture("x.png", SMALL, content=png(Image.new("RGB", (32, 32), (200, 90, 40)), (b"cICP", numbers)))


@given(value=st.integers(0, 2**32 - 1), primaries=st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8))
def test_any_numbers_leave_a_picture(value: int, primaries: list[int]) -> None:
    image = Image.new("RGB", (32, 32), (200, 90, 40))
    read_picture("x.png", SMALL, content=png(image, gamma(value), (b"cHRM", struct.pack(">8I", *primaries))))


@given(value=st.integers(20_000, 200_000), primaries=st.lists(st.integers(0, 100_000), min_size=8, max_size=8))
def test_white_stays_white(value: int, primaries: list[int]) -> None:
    content = png(Image.new("RGB", (32, 32), "white"), gamma(value), (b"cHRM", struct.pack(">8I", *primaries)))
    assert read_picture("x.png", SMALL, content=content).pixels.min() >= 250
