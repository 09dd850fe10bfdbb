"""Files that viewers show although something is wrong with them: what is there is read, and the row says so."""

from __future__ import annotations

import base64
import io
import itertools
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures import repair
from clipsearch.pictures.images import open_picture, read_picture
from clipsearch.records import Preprocessing
from tests.support.cases import thinned
from tests.support.picture_matrix import HEIGHT as HEIGHT_OF_CASES
from tests.support.picture_matrix import WIDTH as WIDTH_OF_CASES
from tests.support.picture_matrix import box, definitions, jp2

SQUASH = Preprocessing(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="squash")
WIDTH, HEIGHT = 320, 240
Array = np.ndarray[Any, Any]


@cache
def scene(seed: int = 0) -> Image.Image:
    """Structure at several scales, and no row of one colour."""
    rng = np.random.default_rng(seed)
    total = np.zeros((HEIGHT, WIDTH, 3))
    for cells in (3, 9, 30, 90):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / cells**0.5
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((total * 255).astype(np.uint8))


@cache
def saved(format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    scene().save(buffer, format_, **options)
    return buffer.getvalue()


def pixels_of(content: bytes) -> Array:
    return np.asarray(open_picture("x", content=content)).astype(int)


def partial_of(content: bytes) -> str | None:
    return read_picture("x", SQUASH, content=content).partial


def seen_of(content: bytes) -> tuple[Array, str | None]:
    """The pixels, and what is missing of them."""
    return pixels_of(content), partial_of(content)


def refusal_of(content: bytes) -> str:
    with pytest.raises(UnreadablePicture) as caught:
        read_picture("x", SQUASH, content=content)
    return caught.value.status


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 85},
    "without subsampling": {"quality": 92, "subsampling": 0},
    "progressive": {"quality": 85, "progressive": True},
    "progressive 4:4:4": {"quality": 85, "progressive": True, "subsampling": 0},
    "restart": {"quality": 85, "restart_marker_blocks": 4},
    "restart rows": {"quality": 85, "restart_marker_rows": 2, "progressive": True},
    "optimised": {"quality": 60, "optimize": True},
    "rgb": {"quality": 85, "keep_rgb": True},
}

TRAILERS: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda whole: bytes(5000),
    "text": lambda whole: b"appended by some program " * 50,
    "Samsung": lambda whole: b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1496523234" + b"SEFHe\0\0\0" + bytes(20) + b"SEFT",
    "another JPEG": lambda whole: whole,
    "the middle of a JPEG": lambda whole: whole[len(whole) // 3 :],
    "tables and scans": lambda whole: whole[whole.index(b"\xff\xda") :],
    "an MP4": lambda whole: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + np.random.default_rng(1).bytes(4000),
    "noise": lambda whole: np.random.default_rng(2).bytes(4000).replace(b"\xff\xda", b"\xfe\xda"),
    "markers": lambda whole: b"\xff\xc4\0\x05abc\xff\xdb\0\x04ab\xff\xe1\0\x02" * 3,
}


@pytest.mark.few(each="ending kind")
@pytest.mark.many
@pytest.mark.parametrize(("ending", "kind"), thinned(itertools.product(["none", "half", *TRAILERS], JPEGS), 3))
def test_jpeg_without_end_marker(kind: str, ending: str) -> None:
    """All its pixels are there, whatever follows them."""
    whole = saved("JPEG", **JPEGS[kind])
    content = whole[:-2]
    if ending == "half":
        content += b"\xff"
    elif ending in TRAILERS:
        content += TRAILERS[ending](saved("JPEG", quality=20))
    difference = np.abs(pixels_of(content) - pixels_of(whole))
    assert difference.mean() < 0.2
    assert difference[:-16].max() == 0
    if ending not in ("the middle of a JPEG", "tables and scans", "markers"):
        assert partial_of(content) == "the JPEG ends before the picture does"


@pytest.mark.few(each="ending kind")
@pytest.mark.parametrize(("ending", "kind"), thinned(itertools.product(TRAILERS, JPEGS), 3))
def test_jpeg_with_a_trailer_is_whole(kind: str, ending: str) -> None:
    whole = saved("JPEG", **JPEGS[kind])
    content = whole + TRAILERS[ending](saved("JPEG", quality=20))
    assert np.array_equal(pixels_of(content), pixels_of(whole))
    assert partial_of(content) is None


KNOWN_TRAILERS = ("text", "Samsung", "another JPEG", "an MP4", "Samsung's marks", "text in UTF-16")


@pytest.mark.parametrize("lost", [0.01, 0.1])
@pytest.mark.parametrize("ending", [*KNOWN_TRAILERS, "zeros", "noise"])
def test_jpeg_that_lost_its_end_to_a_trailer(ending: str, lost: float) -> None:
    """It is partial, and a trailer that is known for one is not shown as picture."""
    whole = saved("JPEG", **JPEGS["baseline"])
    trailer = {
        "Samsung's marks": lambda whole: b"\0SEFT" * 1000,
        "text in UTF-16": lambda whole: ("appended by some program " * 99).encode("utf-16-le"),
        **TRAILERS,
    }[ending]
    cut = whole[: int(len(whole) * (1 - lost))].rstrip(b"\xff")
    content = cut + trailer(saved("JPEG", quality=20))
    assert partial_of(content) == "the JPEG ends before the picture does"
    if ending in KNOWN_TRAILERS:
        assert np.abs(pixels_of(content) - pixels_of(cut + b"\xff\xd9")).mean() < 0.05


def test_the_end_of_a_jpeg_may_follow_other_segments() -> None:
    whole = saved("JPEG", quality=85)
    for between in (b"\xff\xdc\0\4\0\xf0", b"\xff\xff\xff", b"\xff\xfe\0\7hello", b"\xff\xe4\0\4ab\xff\xfe\0\3x"):
        assert partial_of(whole[:-2] + between + b"\xff\xd9") is None
        assert partial_of(whole[:-2] + between + b"\xff\xd9" + bytes(999)) is None


@pytest.mark.few(each="lost kind")
@pytest.mark.many
@pytest.mark.parametrize(("lost", "kind"), thinned(itertools.product([0.001, 0.02, 0.05, 0.1, 0.3, 0.5], JPEGS), 3))
def test_jpeg_that_lost_its_end(kind: str, lost: float) -> None:
    whole = saved("JPEG", **JPEGS[kind])
    content = whole[: int(len(whole) * (1 - lost))]
    difference = np.abs(pixels_of(content) - pixels_of(whole))
    if JPEGS[kind].get("progressive"):  # all rows are there, with less detail
        assert difference.mean() < 0.5 + 12 * lost
    else:
        assert difference[: int(HEIGHT * (1 - lost) * 0.85)].max() == 0
    assert partial_of(content) == "the JPEG ends before the picture does"
    assert (read_picture("x", SQUASH, content=content).width, pixels_of(content).shape[0]) == (WIDTH, HEIGHT)


ARITHMETIC = {
    "sequential": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgy"
        "PC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/yQARCAAgACAD"
        "ASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDSglfZNjgOQoQDGNjuCBTHZsUcDPzes9hUSgijEtHOoea5CbbTrC9vRpy7YfhSnEJh"
        "KBwoBcnjFmiazng4AfW+vb+qAMQoZxlB7ZwaEU9rvYU8krpCSmQJV1YuBoB2VeznQ3ztFZ3oeFYkOUHb8c52HCEN6mLBnP8AX3jchewr4RfO4nHX"
        "TlEYQv/Z"
    ),
    "progressive": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgy"
        "PC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/ygARCAAgACAD"
        "ASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAdIUyMwGR4DQjpyUhTabLsltYlhujLn/AOMundLg/8wABBAF/9oACAEBAAEFAhA3k61XYKWH"
        "/wBnW23tHFrZ4FSBKSX/zAAEEQX/2gAIAQMBAT8BHpM2N2SsfgKWO37BYZD/zAAEEQX/2gAIAQIBAT8BFXD6buMoj5/08dDw/8wABBAF/9oACAEB"
        "AAY/ArD/zAAEEAX/2gAIAQEAAT8huT1Cjsd5Dp7Kz4nUKnE2pqXhyHBb/9oADAMBAAIAAwAAABDCsp7/zAAEEQX/2gAIAQMBAT8Q7znjD8Eo/8wA"
        "BBEF/9oACAECAQE/EO1n9h8uvP/MAAQQBf/aAAgBAQABPxDvXg2ES+grk+5A/Ro3Daz8aPEbVlwAQP/Z"
    ),
}


@pytest.mark.parametrize("kind", ARITHMETIC)
def test_arithmetic_coding(kind: str) -> None:
    """Both files are lossless transcodings (by jpegtran) of one picture; larger than a buffer after padding."""
    content = base64.b64decode(ARITHMETIC[kind])
    padded = content[:2] + b"".join(b"\xff\xfe\xff\xfd" + bytes(65531) for _ in range(3)) + content[2:]
    for file in (content, padded):
        pixels = pixels_of(file)
        assert pixels.shape == (32, 32, 3)
        assert np.abs(pixels - pixels_of(base64.b64decode(ARITHMETIC["sequential"]))).max() == 0
        assert pixels.std() > 40
        assert partial_of(file) is None
    cut = content[: int(len(content) * 0.95)]
    assert partial_of(cut) is not None


OTHERS: dict[str, bytes] = {}


def others() -> dict[str, bytes]:
    """Files of other formats that store rows from the top (BMP: from the bottom)."""
    if not OTHERS:
        OTHERS["png"] = saved("PNG")
        OTHERS["png palette"] = _palette("PNG")
        OTHERS["gif"] = _palette("GIF", interlace=False)
        OTHERS["bmp"] = saved("BMP")
        OTHERS["dib"] = saved("DIB")
        OTHERS["ppm"] = saved("PPM")
        OTHERS["pfm"] = b"PF\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + np.asarray(scene())[::-1].astype("<f4").tobytes()
        OTHERS["webp"] = saved("WEBP", quality=90)
        OTHERS["webp lossless"] = saved("WEBP", lossless=True)
        for compression in (None, "zlib", "lzw", "packbits", "jpeg"):
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, np.asarray(scene()), photometric="rgb", compression=compression, rowsperstrip=8)
            OTHERS[f"tiff {compression}"] = buffer.getvalue()
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.asarray(scene()), photometric="rgb", compression="zlib", tile=(16, 64))
        OTHERS["tiff tiles"] = buffer.getvalue()
    return OTHERS


def _palette(format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    scene().quantize(64).save(buffer, format_, **options)
    return buffer.getvalue()


OTHER_NAMES = (
    "png", "png palette", "gif", "bmp", "dib", "ppm", "pfm", "webp", "webp lossless", "tiff None", "tiff zlib",
    "tiff lzw", "tiff packbits", "tiff jpeg", "tiff tiles",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.few(each="name lost")
@pytest.mark.many
@pytest.mark.parametrize(("name", "lost"), thinned(itertools.product(OTHER_NAMES, [0.002, 0.05, 0.1, 0.3, 0.5]), 3))
def test_other_formats_that_lost_their_end(name: str, lost: float) -> None:
    whole = others()[name]
    content = whole[: int(len(whole) * (1 - lost))]
    rows = int(HEIGHT * (1 - lost) * 0.8)
    difference = np.abs(pixels_of(content) - pixels_of(whole))
    there = difference[-rows:] if name in ("bmp", "dib", "pfm") else difference[:rows]
    assert there.mean() < 0.5
    partial = partial_of(content)
    assert partial is not None
    assert "ends before the picture does" in partial


WEBPS: dict[str, dict[str, Any]] = {
    "worst": {"quality": 5},
    "half": {"quality": 50, "method": 0},
    "usual": {"quality": 75},
    "good": {"quality": 90},
    "best": {"quality": 100, "method": 6},
    "quick": {"quality": 80, "method": 0},
    "small": {"quality": 20, "method": 6},
    "alpha": {"quality": 80},
    "lossless": {"lossless": True},
}


@pytest.mark.few(5)
@pytest.mark.many
@pytest.mark.parametrize("kind", WEBPS)
def test_a_webp_that_lost_its_last_bytes_is_partial(kind: str) -> None:
    """Zeros in the place of what is missing may say less than it did in as many bytes."""
    for seed in range(4):
        image = scene(seed).crop((0, 0, 96 + 13 * seed, 70 + 21 * seed))
        if kind == "alpha":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", **WEBPS[kind])
        whole = buffer.getvalue()
        for lost in (*range(2, 41), len(whole) // 50 + 2, len(whole) // 10):
            assert partial_of(whole[:-lost]) == "the WEBP ends before the picture does"
        assert np.abs(pixels_of(whole[:-4]) - pixels_of(whole)).mean() < 0.5


@pytest.mark.parametrize("name", [name for name in OTHER_NAMES if name not in ("gif",)])
def test_less_than_a_tenth_is_refused(name: str) -> None:
    whole = others()[name]
    assert refusal_of(whole[: int(len(whole) * 0.06)]) == "truncated"


@pytest.mark.few(each="name lost")
@pytest.mark.many
@pytest.mark.parametrize(
    ("name", "lost"), thinned(itertools.product(["gif", "png", "jp2", "j2k"], [0.01, 0.1, 0.3, 0.6]), 3)
)
def test_interlaced_and_layered_pictures_keep_less_detail(name: str, lost: float) -> None:
    if name == "gif":
        whole = _palette("GIF", interlace=True)
    elif name == "png":
        whole = interlaced_png(np.asarray(scene()))
    else:
        whole = saved("JPEG2000", no_jp2=name == "j2k")
    content = whole[: int(len(whole) * (1 - lost))]
    assert np.abs(pixels_of(content) - pixels_of(whole)).mean() < 2 + 15 * lost
    assert partial_of(content) is not None


def with_last_part_to_the_end(content: bytes) -> bytes:
    """A JPEG 2000 of one tile-part that does not say how long it is."""
    at = content.index(b"\xff\x90\0\n") + 6
    return content[:at] + bytes(4) + content[at + 4 :]


@pytest.mark.few(each="bare to_the_end")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("to_the_end", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_a_jpeg_2000_without_its_last_bytes_is_partial(bare: bool, to_the_end: bool) -> None:
    whole = saved("JPEG2000", no_jp2=bare)
    changed = with_last_part_to_the_end(whole) if to_the_end else whole
    assert partial_of(changed) is None
    for lost in (*range(1, 9), len(whole) // 10, len(whole) // 2):
        difference = np.abs(pixels_of(changed[:-lost]) - pixels_of(whole))
        assert difference.mean() < 1.5
        assert partial_of(changed[:-lost]) == "the JPEG2000 ends before the picture does"
    for trailer in (b"", b"after it", b"Q\0\xff\xff" * 9):
        content = whole[:-1] + trailer  # half an end marker
        assert np.abs(pixels_of(content) - pixels_of(whole)).max() <= 1
        assert partial_of(content) is not None


def test_a_cut_jpeg_2000_keeps_its_order_of_colours_and_its_palette() -> None:
    pixels = np.asarray(scene())[:HEIGHT_OF_CASES, :WIDTH_OF_CASES]
    named = definitions((0, 3), (0, 2), (0, 1))
    index = pixels[..., 0] >> 4
    colours = np.random.default_rng(0).integers(0, 256, (16, 3)).astype(np.uint8)
    palette = box(b"pclr", struct.pack(">HB3B", 16, 3, 7, 7, 7), colours.tobytes())
    mapping = box(b"cmap", *(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    for whole, expected in (
        (jp2([pixels[..., 2], pixels[..., 1], pixels[..., 0]], 16, named), pixels),
        (jp2([index], 16, palette, mapping), colours[index]),
    ):
        assert np.array_equal(pixels_of(whole), expected)
        for lost in (1, 2, 3):
            assert (np.abs(pixels_of(whole[:-lost]) - expected) <= 2).mean() > 0.9
            assert partial_of(whole[:-lost]) is not None


def interlaced_png(pixels: Array) -> bytes:
    raw = b""
    for x, y, step_x, step_y in repair._ADAM7:
        raw += b"".join(b"\0" + row.tobytes() for row in pixels[y::step_y, x::step_x])
    return png(
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")
    )


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) if crc is None else crc)
    )


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def split(content: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, body) for name, body, _ in repair._png_chunks(content)]


BOMB = b"Comment\0\0" + zlib.compress(bytes(70 * 2**20))
PNG_FAULTS: dict[str, Callable[[list[tuple[bytes, bytes]]], bytes]] = {
    "text that is too large": lambda parts: png(parts[0], (b"zTXt", BOMB), *parts[1:]),
    "text that is no zlib": lambda parts: png(parts[0], (b"zTXt", b"Comment\0\0nothing"), *parts[1:]),
    "a profile that is none": lambda parts: png(parts[0], (b"iCCP", b"icc\0\0nothing"), *parts[1:]),
    "EXIF that is none": lambda parts: png(parts[0], (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"), *parts[1:]),
    "late EXIF that is none": lambda parts: png(*parts[:-1], (b"eXIf", b"II*\0\xff\xff\xff\x7f"), parts[-1]),
    "late text that is none": lambda parts: png(*parts[:-1], (b"iTXt", b"XML:com.adobe.xmp\0\1\1\0\0x"), parts[-1]),
    "gamma of a wrong length": lambda parts: png(parts[0], (b"gAMA", b"\0"), *parts[1:]),
    "a time of a wrong length": lambda parts: png(parts[0], (b"tIME", b""), (b"pHYs", b"12"), *parts[1:]),
    "transparency of a wrong length": lambda parts: png(parts[0], (b"tRNS", b"\0"), *parts[1:]),
    "animation control that is none": lambda parts: png(parts[0], (b"acTL", b"\0"), *parts[1:]),
    "a wrong checksum of text": lambda parts: (
        png(parts[0])[: -0 or None] + chunk(b"tEXt", b"a\0b", 1) + png(*parts[1:])[8:]
    ),
    "a wrong checksum of the header": lambda parts: png()[:8] + chunk(*parts[0], 7) + png(*parts[1:])[8:],
}


@pytest.mark.parametrize("fault", PNG_FAULTS)
def test_png_metadata_never_loses_the_picture(fault: str) -> None:
    whole = saved("PNG")
    content = PNG_FAULTS[fault](split(whole))
    assert np.array_equal(pixels_of(content), pixels_of(whole))
    assert partial_of(content) is None


def test_png_with_wrong_checksums_of_pixels() -> None:
    whole = saved("PNG")
    parts = split(whole)
    bad = png()[:8] + b"".join(chunk(n, b, 1 if n == b"IDAT" else None) for n, b in parts)
    assert np.array_equal(pixels_of(bad), pixels_of(whole))
    joined = b"".join(body for name, body in parts if name == b"IDAT")
    wrong_sum = png(parts[0], (b"IDAT", joined[:-4] + b"abcd"), (b"IEND", b""))
    assert np.array_equal(pixels_of(wrong_sum), pixels_of(whole))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    difference = np.abs(pixels_of(bytes(flipped)) - pixels_of(whole))
    assert difference[: int(HEIGHT * 0.4)].max() == 0
    assert partial_of(bytes(flipped)) == "parts of the PNG are damaged"
    assert np.array_equal(pixels_of(png(*parts[:-1])), pixels_of(whole))  # no IEND


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


JPEG_FAULTS: dict[str, bytes] = {
    "EXIF that is none": segment(0xE1, b"Exif\0\0" + b"\xff" * 40),
    "EXIF whose offset is far away": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "EXIF without a table": segment(0xE1, b"Exif\0\0MM"),
    "many pieces of a profile, none of it": b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + b"x") for n in range(9)
    ),
    "a piece of a profile that is too short": segment(0xE2, b"ICC_PROFILE\0"),
    "an index of pictures that is none": segment(0xE2, b"MPF\0" + b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60),
    "an empty index of pictures": segment(0xE2, b"MPF\0"),
    "Photoshop resources that are none": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\xff\xff\xff\xff\xff\xff\xff\xff"),
    "Photoshop resources that are short": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02a"),
    "XMP without an end": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf"),
    "a megabyte of comments": segment(0xFE, bytes(65533)) * 16,
    "Adobe's marker without its end": segment(0xEE, b"Adobe"),
    "JFIF without its end": segment(0xE0, b"JFIF\0"),
    "a part that is longer than it says": b"\xff\xe5\0\x04abcdefgh",
    "zeros": bytes(300),
    "fill bytes": b"\xff" * 50,
}


@pytest.mark.few(each="fault progressive")
@pytest.mark.many
@pytest.mark.parametrize("fault", JPEG_FAULTS)
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_metadata_never_loses_the_picture(fault: str, progressive: bool) -> None:
    whole = saved("JPEG", quality=85, progressive=progressive)
    for at in (2, whole.index(b"\xff\xdb")):
        if at == 2 and fault == "zeros":
            continue  # then it does not begin as a JPEG does
        content = whole[:at] + JPEG_FAULTS[fault] + whole[at:]
        assert np.array_equal(pixels_of(content), pixels_of(whole)), at
        assert partial_of(content) is None


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(n + struct.pack("<I", len(b)) + b + b"\0" * (len(b) & 1) for n, b in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("fault", ["exif", "xmp", "profile", "flags", "size", "trailer"])
def test_webp_metadata_never_loses_the_picture(lossless: bool, fault: str) -> None:
    whole = saved("WEBP", lossless=lossless, quality=90)
    name, body = whole[12:16], whole[20 : 20 + int.from_bytes(whole[16:20], "little")]
    size = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    content = {
        "exif": riff((b"VP8X", b"\x08\0\0\0" + size), (name, body), (b"EXIF", b"\xff" * 33)),
        "xmp": riff((b"VP8X", b"\x04\0\0\0" + size), (name, body), (b"XMP ", b"<x"))[:-3],
        "profile": riff((b"VP8X", b"\x20\0\0\0" + size), (b"ICCP", b"none"), (name, body)),
        "flags": riff((b"VP8X", b"\x3c\0\0\0" + size), (name, body)),
        "size": b"RIFF\xff\xff\xff\x7f" + whole[8:],
        "trailer": whole + b"trailer",
    }[fault]
    assert np.array_equal(pixels_of(content), pixels_of(whole))


def test_tiff_tags_that_are_broken_never_lose_the_picture() -> None:
    """Tags beyond the end, of unknown types, of absurd counts, twice."""
    from tests.support.picture_matrix import HEIGHT as LINES
    from tests.support.picture_matrix import motif, quantise, small_tiff

    pixels = quantise(motif(), "u8")
    base: dict[int, Any] = {258: ("H", (8, 8, 8)), 262: ("H", (2,)), 277: ("H", (3,))}
    assert len(pixels) == LINES
    for tag in (270, 305, 306, 315, 700, 33723, 34377, 34665, 34675, 34853, 37724):
        whole = bytearray(small_tiff({**base, tag: ("B", (1, 2, 3, 4, 5, 6, 7, 8))}, pixels.tobytes()))
        at = whole.index(struct.pack("<HHI", tag, 1, 8))
        for entry in (
            struct.pack("<HHII", tag, 1, 8, 2**31),
            struct.pack("<HHII", tag, 1, 2**32 - 1, 8),
            struct.pack("<HHII", tag, 99, 8, 8),
            struct.pack("<HHII", tag, 2, 2**20, 8),
            struct.pack("<HHII", tag, 13, 1, 8),
        ):
            whole[at : at + 12] = entry
            assert np.abs(pixels_of(bytes(whole)) - pixels).max() <= 1, (tag, entry)
            assert partial_of(bytes(whole)) is None


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_damage_in_the_middle_keeps_the_beginning(name: str) -> None:
    whole = others()[name]
    damaged = bytearray(whole)
    middle = int(len(whole) * 0.6)
    damaged[middle : middle + 40] = np.random.default_rng(4).bytes(40)
    content = bytes(damaged)
    if name.startswith("webp") or name == "pfm":
        return  # a decoder makes something of it, or nothing; numbers span what they span
    rows = int(HEIGHT * 0.4)
    difference = np.abs(pixels_of(content) - pixels_of(whole))
    there = difference[-rows:] if name in ("bmp", "dib", "pfm") else difference[:rows]
    assert there.mean() < 0.5


# --- HEIF and AVIF ---------------------------------------------------------------------------------------------


@cache
def heif(turned: bool) -> tuple[bytes, Array]:
    """A file and its pixels."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = scene().resize((960, 720))
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    buffer = io.BytesIO()
    image.save(buffer, "HEIF", quality=80, exif=exif)
    whole, partial = seen_of(buffer.getvalue())
    assert partial is None
    return buffer.getvalue(), whole


@pytest.mark.few(each="share turned")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize(
    ("share", "turned"), thinned([(share, turned) for turned in (False, True) for share in (0.7, 0.99, 0.9, 0.4)], 7)
)
def test_a_heif_that_is_cut_shows_what_is_there(share: float, turned: bool) -> None:
    content, whole = heif(turned)
    found, partial = seen_of(content[: int(len(content) * share)])
    assert partial == "the HEIF ends before the picture does"
    missing = (found == 128).all(axis=2)
    assert np.abs(found - whole)[~missing].max() <= 8
    assert (~missing).mean() > share - 0.35


CUTS = (1, 2, 3, 5, 12, 40, 150, 500, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5)  # bytes, or a share of the file


@pytest.mark.few(each="options size")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize(
    ("options", "size"),
    thinned(
        itertools.product([{"speed": 8}, {"speed": 10, "alpha": True}], [(224, 224), (640, 480), (1500, 300)]),
        3,
    ),
)
def test_an_avif_that_is_cut_shows_what_is_there(size: tuple[int, int], options: dict[str, Any]) -> None:
    options = dict(options)
    image = scene().resize(size)
    noise = np.random.default_rng(5).normal(0, 8, (size[1], size[0], 3))
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if options.pop("alpha", False):
        image.putalpha(Image.linear_gradient("L").resize(size))
    buffer = io.BytesIO()
    image.save(buffer, "AVIF", quality=70, **options)
    content = buffer.getvalue()
    whole, partial = seen_of(content)
    assert partial is None
    for cut in CUTS:
        lost = int(cut if cut >= 1 else cut * len(content))
        if cut == 0.5 and size == (640, 480):
            continue  # of two tiles, the first of which is not whole: its decoder may give nothing
        found, partial = seen_of(content[:-lost])
        assert partial == "the AVIF ends before the picture does", lost
        grey = (found == 128).all(axis=2)
        assert np.abs(found - whole)[~grey].max() <= 24, lost
        assert grey.mean() < 0.35 + lost / len(content), lost


@pytest.mark.few(each="quality size")
@pytest.mark.many
@pytest.mark.parametrize("quality", [50, 85, -1])
@pytest.mark.parametrize("size", [(64, 48), (200, 150)])
def test_heif_without_its_last_bytes_is_partial(size: tuple[int, int], quality: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(scene().resize(size)).save(buffer, quality=quality)
    whole = buffer.getvalue()
    for lost in (*range(1, 9), 12, 16):
        assert (np.abs(pixels_of(whole[:-lost]) - pixels_of(whole)) <= 12).mean() > 0.8
        assert partial_of(whole[:-lost]) == "the HEIF ends before the picture does"


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@given(share=st.floats(0.01, 0.999))
@settings(max_examples=max(4, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 50), deadline=None)
def test_what_is_shown_of_a_cut_file_is_its_own_or_grey(kind: str, share: float) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = saved(kind, quality=70)
    whole = pixels_of(content)
    try:
        found, partial = seen_of(content[: int(len(content) * share)])
    except UnreadablePicture as error:
        assert error.status in ("truncated", "corrupt", "not_a_picture")
        return
    missing = (found == 128).all(axis=2)
    assert np.abs(found - whole)[~missing].mean() < 3
    assert partial is not None or not missing.any()


# --- kinds of JPEG that no viewer shows ------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 7, 8, 10, 12, 16])
@pytest.mark.parametrize("lossless", [False, True])
def test_jpegs_of_other_depths_are_called_what_they_are(bits: int, lossless: bool) -> None:
    samples = (np.asarray(scene()).astype(np.uint32) << 8 >> (16 - bits)).astype("u1" if bits <= 8 else "u2")
    if not lossless and bits not in (8, 12):
        return
    content = bytes(imagecodecs.jpeg_encode(samples, bitspersample=bits, lossless=lossless))
    if bits == 8:
        assert np.abs(pixels_of(content) - np.asarray(scene())).mean() < 8
        return
    with pytest.raises(UnreadablePicture) as caught:
        read_picture("x.jpg", SQUASH, content=content)
    assert caught.value.status == "unsupported_format"
    assert caught.value.reason == f"{'lossless ' if lossless else ''}JPEG of {bits} bits is not supported"


def test_jpeg_ls_is_called_what_it_is() -> None:
    with pytest.raises(UnreadablePicture, match="JPEG-LS is not supported"):
        read_picture("x.jpg", SQUASH, content=bytes(imagecodecs.jpegls_encode(np.asarray(scene()))))


METADATA_FAULTS = (
    "no header",
    "no header, in ones",
    "far away",
    "longer than the file",
    "empty",
    "XMP far away",
    "both",
)


@pytest.mark.many
@pytest.mark.parametrize(
    ("kind", "fault"),
    [*itertools.product(["AVIF"], METADATA_FAULTS), *itertools.product(["HEIF"], METADATA_FAULTS[:3])],
)
def test_metadata_of_heif_and_avif_never_loses_the_picture(kind: str, fault: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    content = bytearray(saved(kind, quality=70, exif=exif.tobytes(), xmp=b"<x:xmpmeta>" + b"q" * 400 + b"</x:xmpmeta>"))
    whole = pixels_of(bytes(content))
    header = content.rfind(b"MM\0*") if b"MM\0*" in content else content.rfind(b"II*\0")
    if fault.startswith("no header"):
        content[header : header + 8] = (b"\0" if fault == "no header" else b"\xff") * 8
    table = content.index(b"iloc")
    end = table + int.from_bytes(content[table - 4 : table], "big")
    of_exif = next(
        at for start in range(header - 10, header + 1) if (at := content.find(struct.pack(">I", start), table, end)) > 0
    )
    of_xmp = content.find(struct.pack(">I", content.index(b"<x:xmpmeta>")), table, end)
    for at in {"XMP far away": [of_xmp], "both": [of_exif, of_xmp], "far away": [of_exif]}.get(fault, []):
        content[at : at + 4] = b"\x7f\xff\xff\xf0"
    if fault in ("longer than the file", "empty"):
        content[of_exif + 4 : of_exif + 8] = b"\x7f\xff\xff\xf0" if fault != "empty" else bytes(4)
    assert np.array_equal(pixels_of(bytes(content)), whole)
    assert partial_of(bytes(content)) is None


@pytest.mark.parametrize(
    "header",
    [
        b"P6\n# by a scanner\n%d %d\n# x\n255\n",
        b"P6 # a\n#b\n%d # c\n#d\n%d#e\n255\n",
        b"P6\n%d %d\n255# no space before it\n",
        b"P6\n#" + b"z" * 5000 + b"\n%d %d\n255\n",
        b"P6\r#\r%d\t%d\r255\n",
    ],
    ids=range(5),
)
def test_comments_in_a_ppm(header: bytes) -> None:
    content = header % (WIDTH, HEIGHT) + scene().tobytes()
    assert np.array_equal(pixels_of(content), np.asarray(scene()))
    assert partial_of(content) is None


PLAIN = (23, 17)  # pixels


def plain_pnm(magic: bytes, *, most: int = 255, separator: bytes = b" ") -> tuple[bytes, Array]:
    """A picture in text that ends with its last number, and its pixels."""
    width, height = PLAIN
    shape = (height, width, 3) if magic == b"P3" else (height, width)
    values = np.random.default_rng(4).integers(0, 2 if magic == b"P1" else most + 1, shape)
    head = magic + b"\n%d %d\n" % PLAIN + (b"" if magic == b"P1" else b"%d\n" % most)
    shown = ((1 - values) if magic == b"P1" else values) * 255 // (1 if magic == b"P1" else most)
    shown = np.dstack([shown] * 3) if shown.ndim == 2 else shown
    return head + separator.join(b"%d" % value for value in values.ravel()), shown.astype(int)


BEHIND_NUMBERS: dict[str, bytes] = {
    "zeros": b"\n" + bytes(500),
    "zeros at once": bytes(500),
    "text": b"\nappended by some program, without blanks:" + b"x" * 40,
    "a word": b" end",
    "a long number": b"\n" + b"7" * 40,
    "numbers": b" 1 2 3 99999 -4",
    "Ctrl-Z": b"\n\x1a",
    "another": b"\nP3 1 1 255 1 2 3",
    "markup": b"\n</pre>",
    "bytes": b"\n\xff\xd8\xff\xe0 \x80",
}


@pytest.mark.parametrize("behind", BEHIND_NUMBERS)
@pytest.mark.parametrize("magic", [b"P1", b"P2", b"P3"])
def test_what_follows_the_numbers_of_a_pnm_is_none_of_it(magic: bytes, behind: str) -> None:
    for separator in (b" ", b"\n", b" # a remark\n"):
        content, pixels = plain_pnm(magic, separator=separator)
        found, partial = seen_of(content + BEHIND_NUMBERS[behind])
        assert partial is None
        assert np.abs(found - pixels).max() <= 1


@pytest.mark.parametrize("behind", ["", "text", "Ctrl-Z", "bytes", "zeros"])
@pytest.mark.parametrize("magic", [b"P1", b"P2", b"P3"])
def test_a_pnm_in_text_that_lost_its_end_is_partial(magic: bytes, behind: str) -> None:
    content, pixels = plain_pnm(magic)
    cut = content[: len(content) * 3 // 5].rsplit(b" ", 1)[0]
    found, partial = seen_of(cut + BEHIND_NUMBERS.get(behind, b""))
    assert partial is not None
    assert np.abs(found - pixels)[: PLAIN[1] // 2].max() <= 1


@pytest.mark.parametrize(("inside", "number"), [("JPEG", 4), ("PNG", 5)])
def test_a_bmp_around_another_format_is_called_that(inside: str, number: int) -> None:
    raw = saved(inside)
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 0, number, len(raw), 0, 0, 0, 0)
    content = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(raw), 0, 0, 14 + len(head)) + head + raw
    with pytest.raises(UnreadablePicture) as caught:
        read_picture("x", SQUASH, content=content)
    assert (caught.value.status, caught.value.reason) == (
        "unsupported_format",
        f"an unsupported kind of BMP: its pixels are stored as {inside}",
    )


def bmp_of_kind(size: int, bits: int, compression: int) -> bytes:
    body = np.random.default_rng(1).bytes(400)
    head = struct.pack("<IiiHHIIiiII", size, 20, 20, 1, bits, compression, len(body), 0, 0, 0, 0).ljust(size, b"\0")[
        :size
    ]
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def with_first_chunk(name: bytes, body: bytes) -> bytes:
    whole = saved("PNG")
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return whole[:8] + chunk + whole[8:33] + b"\0\0\1\0IDAT" + np.random.default_rng(2).bytes(260) + whole[-12:]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: bmp_of_kind(64, 24, 4), "runs of 24 bits"),
        (lambda: bmp_of_kind(64, 1, 3), "fax code"),
        (lambda: bmp_of_kind(46, 24, 4), "runs of 24 bits"),
        (lambda: bmp_of_kind(40, 24, 4), "as JPEG"),
        (lambda: bmp_of_kind(108, 0, 5), "as PNG"),
        (lambda: with_first_chunk(b"CgBI", b"\x50\0\x20\2"), "CgBI"),
        (lambda: with_first_chunk(b"CgBI", b"\x50\0\x20\6"), "CgBI"),
        (lambda: b"\x8aMNG\r\n\x1a\n" + bytes(99), "MNG"),
        (lambda: b"\x8bJNG\r\n\x1a\n" + bytes(99), "JNG"),
        *((lambda number=number: tiff_of_compression(number), name) for number, name in (
            (33004, "lossy JPEG 2000"), (22610, "JPEG XR"), (34692, "LuraDocument"), (34718, "Microsoft Document"),
            (48124, "Jetraw"), (50013, "Pixtiff"), (65001, "electron events"), (32772, "Samsung SRW"))),
    ],
)  # fmt: skip
def test_a_kind_that_is_not_read_is_called_that_and_not_damaged(content: Callable[[], bytes], said: str) -> None:
    with pytest.raises(UnreadablePicture) as caught:
        read_picture("x", SQUASH, content=content())
    assert caught.value.status == "unsupported_format"
    assert said in caught.value.reason


def tiff_of_compression(number: int) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(scene()), photometric="rgb")
    content = bytearray(buffer.getvalue())
    at = content.index(struct.pack("<HHI", 259, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", number)
    return bytes(content)


@pytest.mark.parametrize("kind", ["baseline", "without subsampling", "progressive", "restart", "rgb"])
def test_a_jpeg_that_says_its_height_behind_its_first_scan(kind: str) -> None:
    """Cameras that count rows while they scan write it so; libjpeg does not know it."""
    whole = bytearray(saved("JPEG", **JPEGS[kind]))
    frame = next(part for part in repair.jpeg_parts(bytes(whole)) if part.marker in repair.FRAMES)
    height = bytes(whole[frame.body + 1 : frame.body + 3])
    end = next(part.end for part in repair.jpeg_parts(bytes(whole)) if part.marker == 0xDA)
    changed = bytearray(whole)
    changed[frame.body + 1 : frame.body + 3] = b"\0\0"
    changed[end:end] = b"\xff\xdc\0\4" + height
    assert partial_of(bytes(changed)) is None
    assert np.array_equal(pixels_of(bytes(changed)), pixels_of(bytes(whole)))
    del changed[end : end + 6]
    assert refusal_of(bytes(changed)) == "corrupt"


@given(lost=st.integers(8, 3000), compression=st.sampled_from(["jpeg", "tiff_lzw", "raw"]))
@settings(deadline=None, max_examples=30)
def test_a_tiff_that_lost_its_end_says_so_wherever_its_tags_are(lost: int, compression: str) -> None:
    whole = saved("TIFF", compression=compression)
    try:
        said = partial_of(whole[:-lost])
        if said is None:  # of tables behind the picture, those that nothing needs
            assert np.array_equal(pixels_of(whole[:-lost]), pixels_of(whole))
            return
    except UnreadablePicture as error:
        assert error.status == "truncated"
        said = error.reason
    assert said == "the TIFF ends before the picture does"
