"""The colours of a PNG that says them in numbers."""

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


@given(value=st.integers(0, 2**32 - 1), primaries=st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8))
def test_any_numbers_leave_a_picture(value: int, primaries: list[int]) -> None:
    image = Image.new("RGB", (32, 32), (200, 90, 40))
    read_picture("x.png", SMALL, content=png(image, gamma(value), (b"cHRM", struct.pack(">8I", *primaries))))


@given(value=st.integers(20_000, 200_000), primaries=st.lists(st.integers(0, 100_000), min_size=8, max_size=8))
def test_white_stays_white(value: int, primaries: list[int]) -> None:
    content = png(Image.new("RGB", (32, 32), "white"), gamma(value), (b"cHRM", struct.pack(">8I", *primaries)))
    assert read_picture("x.png", SMALL, content=content).pixels.min() >= 250
