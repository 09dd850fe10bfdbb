"""Files of full size with parts missing: zeros where a copy or a download stopped, ends put on files that were cut."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures import holes, repair
from clipsearch.pictures.images import read_picture
from clipsearch.records import Preprocessing
from tests.support.cases import thinned

SQUASH = Preprocessing(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="squash")
SIZE = (487, 361)

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 88}),
    "jpeg optimised": ("JPEG", {"quality": 88, "optimize": True}),
    "jpeg progressive": ("JPEG", {"quality": 88, "progressive": True}),
    "jpeg restarts": ("JPEG", {"quality": 80, "restart_marker_blocks": 8}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 90}),
    "webp quick": ("WEBP", {"quality": 90, "method": 0}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff packbits": ("TIFF", {"compression": "packbits"}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "jp2 lossy": ("JPEG2000", {"irreversible": True, "quality_mode": "rates", "quality_layers": [20]}),
    "avif": ("AVIF", {"quality": 85, "speed": 9}),
    "heif": ("HEIF", {"quality": 85}),
}


@cache
def photo() -> Image.Image:
    """As photographs are: structure at several scales, noise, and nothing quite black."""
    rng = np.random.default_rng(3)
    total = np.zeros((SIZE[1], SIZE[0], 3))
    for cells in (3, 9, 30, 90):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC)) / cells**0.5
    total = 20 + 215 * (total - total.min()) / (total.max() - total.min()) + rng.normal(0, 4, total.shape)
    return Image.fromarray(total.clip(1, 255).astype(np.uint8))


def written(image: Image.Image, name: str) -> bytes:
    format_, options = FORMATS[name]
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@cache
def whole(name: str) -> bytes:
    return written(photo(), name)


def said_of(content: bytes) -> str | None:
    """What the row says to be missing, or why the picture is skipped."""
    try:
        return read_picture("x", SQUASH, content=content).partial
    except UnreadablePicture as error:
        return f"{error.status}: {error.reason}"


def zeroed(content: bytes, start: float, stop: float, keep: int = 0) -> bytes:
    first, last = int(len(content) * start), min(int(len(content) * stop), len(content) - keep)
    return content[:first] + bytes(last - first) + content[last:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a third of the end": lambda content: zeroed(content, 0.66, 1),
    "most of the end": lambda content: zeroed(content, 0.3, 1),
    "a tenth of the end": lambda content: zeroed(content, 0.9, 1),
    "all but the last marker": lambda content: zeroed(content, 0.6, 1, 2),
    "all but the last bytes": lambda content: zeroed(content, 0.8, 1, 64),
    "a part of the middle": lambda content: zeroed(content, 0.45, 0.6),
    "a page of memory": lambda content: (at := len(content) // 2, content[:at] + bytes(4096) + content[at + 4096 :])[1],
}


@pytest.mark.few(each="name damage")
@pytest.mark.many
@pytest.mark.parametrize(("name", "damage"), thinned(itertools.product(FORMATS, DAMAGES), 2))
def test_zeros_in_the_place_of_a_picture_are_said(name: str, damage: str) -> None:
    content = whole(name)
    assert said_of(content) is None
    damaged = DAMAGES[damage](content)
    assert len(damaged) == len(content)
    assert said_of(damaged) is not None


@pytest.mark.slow
@given(name=st.sampled_from([*FORMATS]), start=st.floats(0.3, 0.85), share=st.floats(0.1, 0.6), keep=st.integers(0, 80))
@settings(max_examples=max(30, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0"))), deadline=None)
def test_wherever_the_zeros_are(name: str, start: float, share: float, keep: int) -> None:
    content = whole(name)
    uncompressed = name in ("tiff", "bmp", "ppm")
    if uncompressed:  # what begins at the edge may be a black part
        row = -(-SIZE[0] * 3 // 4) * 4 if name == "bmp" else SIZE[0] * 3  # whose rows are of whole words
        first = int(len(content) * start)
        first += (row // 2 - first) % row
        start = (first + 0.5) / len(content)
    assert said_of(zeroed(content, start, start + share, keep)) is not None


FILLINGS: dict[str, Callable[[int], bytes]] = {
    "zeros": bytes,
    "ones": lambda count: b"\xff" * count,
    "text": lambda count: (b"Lorem ipsum dolor sit amet. " * count)[:count],
    "one byte": lambda count: b"\xd5" * count,
}


CODED = ("heif", "avif", "avif opaque in part", "heif opaque in part")


@pytest.mark.few(each="place filling name")
@pytest.mark.many
@pytest.mark.parametrize(
    ("place", "filling", "name"), thinned(itertools.product(["its end", "its middle"], FILLINGS, CODED), 5)
)
def test_coded_video_that_was_overwritten_is_said(place: str, filling: str, name: str) -> None:
    format_, options = FORMATS[name[:4]]
    image = photo().crop((0, 0, 240, 180))
    if name.endswith("part"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    content = buffer.getvalue()
    first = int(len(content) * (0.9 if place == "its end" else 0.5))
    last = len(content) if place == "its end" else first + 2500
    said = said_of(content[:first] + FILLINGS[filling](last - first) + content[last:])
    assert said is not None
    if place == "its end":
        assert said in ("parts of the HEIF are damaged", "parts of the AVIF are damaged",
                        "the HEIF ends before the picture does", "the AVIF ends before the picture does")  # fmt: skip


@pytest.mark.few(each="lost format_ quality")
@pytest.mark.parametrize(
    ("lost", "format_", "quality"), thinned(itertools.product([0.1, 0.02], ["HEIF", "AVIF"], [60, 85, 95]), 5)
)
def test_coded_video_with_opacity_that_lost_its_end_is_partial(lost: float, format_: str, quality: int) -> None:
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = photo().crop((0, 0, 240, 180))
    image.putalpha(Image.radial_gradient("L").resize(image.size))
    buffer = io.BytesIO()
    image.save(buffer, format_, quality=quality)
    cut = buffer.getvalue()[: int(len(buffer.getvalue()) * (1 - lost))]
    assert read_picture("x", SQUASH, content=cut).partial == f"the {format_} ends before the picture does"


RESTARTS: dict[str, dict[str, int]] = {
    "each row": {"restart_marker_rows": 1},
    "each third row": {"restart_marker_rows": 3},
    "each block": {"restart_marker_blocks": 1},
    "each seventh block": {"restart_marker_blocks": 7},
    "large": {"restart_marker_blocks": 20, "quality": 97},
    "grey": {"restart_marker_rows": 1},
    "CMYK": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", RESTARTS)
def test_restart_markers_that_are_missing_are_said(kind: str) -> None:
    image = photo().convert({"grey": "L"}.get(kind, kind if kind == "CMYK" else "RGB"))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 85} | RESTARTS[kind]))
    content = buffer.getvalue()
    assert said_of(content) is None
    half = len(content) // 2
    for damaged in (
        content[:half] + content[half + 4096 :],
        content[:half] + b"\xff" * 4096 + content[half + 4096 :],
        content[:half] + FILLINGS["text"](4096) + content[half + 4096 :],
        content[: half // 2] + content[half // 2 + 2000 :],
    ):
        assert said_of(damaged) in ("parts of the JPEG are damaged", "the JPEG ends before the picture does")


@pytest.mark.few(each="mode at")
@pytest.mark.parametrize(("mode", "at"), thinned(itertools.product(["CMYK", "RGB", "L"], [0.2, 0.35, 0.5, 0.65]), 3))
def test_a_jpeg_that_misses_a_page_of_its_data_is_said(mode: str, at: float) -> None:
    buffer = io.BytesIO()
    photo().convert(mode).save(buffer, "JPEG", quality=92)
    content = buffer.getvalue()
    first = int(len(content) * at)
    assert said_of(content[:first] + content[first + 4096 :]) == "the JPEG ends before the picture does"


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
@pytest.mark.parametrize("name", ["bmp", "ppm"])
def test_a_hole_in_pixels_shows_at_either_end(name: str, byte: bytes) -> None:
    """Of one that begins at the edge of a row, where it ends tells."""
    content = whole(name)
    row = -(-SIZE[0] * 3 // 4) * 4 if name == "bmp" else SIZE[0] * 3
    header = len(content) - row * SIZE[1]
    for shift in (0, 3, row - 6, row // 2):
        first = header + 100 * row + shift
        length = 20 * row + (row // 3 if shift != row // 2 else 0)
        assert said_of(content[:first] + byte * length + content[first + length :]) is not None, shift


@pytest.mark.parametrize("seed", range(5))
def test_a_progressive_jpeg_whose_corrections_are_all_zero_is_whole(seed: int) -> None:
    """Of 6,620 photographs seven were called damaged by 70 to 90 zero bytes in a scan that corrects coefficients."""
    random = np.random.default_rng(seed)
    wave = np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
    wave[0] /= np.sqrt(2)
    coefficients = np.zeros(64)
    coefficients[1 + random.choice(63, 15, replace=False)] = 4 * random.choice([-1, 1], 15)  # low bits zero
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=90)
    steps = np.array(Image.open(buffer).quantization[0])  # type: ignore[attr-defined]
    block = wave.T @ (coefficients * steps).reshape(8, 8) @ wave + 128
    noise = random.integers(90, 160, (64, 240))
    pixels = np.vstack([noise, np.tile(block, (4, 30)), noise]).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, progressive=True)
    assert said_of(buffer.getvalue()) is None


@pytest.mark.parametrize("kept", [0.35, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("name", ["jpeg", "jpeg optimised", "jpeg restarts"])
def test_a_cut_jpeg_with_an_end_marker_is_partial(name: str, kept: float) -> None:
    content = whole(name)
    cut = content[: int(len(content) * kept)].rstrip(b"\xff") + b"\xff\xd9"
    assert said_of(cut) == "the JPEG ends before the picture does"
    assert said_of(cut + bytes(3000)) == "the JPEG ends before the picture does"


@pytest.mark.parametrize("lost", [1, 2, 3, 5])
def test_a_progressive_jpeg_that_lacks_its_last_scans_is_partial(lost: int) -> None:
    content = whole("jpeg progressive")
    scans = [part for part in repair.jpeg_parts(content) if part.marker == 0xDA]
    assert len(scans) > lost
    assert said_of(content[: scans[-lost].start] + b"\xff\xd9") == "the JPEG ends before the picture does"
    middle = (scans[-lost - 1].body + scans[-lost - 1].end) // 2
    assert said_of(content[:middle].rstrip(b"\xff") + b"\xff\xd9") == "the JPEG ends before the picture does"


def stars() -> Image.Image:
    rng = np.random.default_rng(1)
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[rng.integers(0, SIZE[1], 300), rng.integers(0, SIZE[0], 300)] = rng.integers(0, 256, (300, 3))
    return Image.fromarray(pixels)


def terminal() -> Image.Image:
    image = Image.new("RGB", SIZE)
    draw = ImageDraw.Draw(image)
    for line in range(8):
        draw.text((4, 12 * line), "make: nothing to be done for 'all' " * 3, fill="white")
    return image


def padded(side: tuple[int, int], colour: int) -> Image.Image:
    return ImageOps.pad(photo(), side, color=(colour,) * 3, centering=(0, 0))


GOOD: dict[str, Callable[[], Image.Image]] = {
    "black": lambda: Image.new("RGB", SIZE),
    "white": lambda: Image.new("RGB", SIZE, "white"),
    "grey": lambda: Image.new("RGB", SIZE, (128, 128, 128)),
    "black below": lambda: padded((SIZE[0], 3 * SIZE[1]), 0),
    "black above": lambda: ImageOps.flip(padded((SIZE[0], 3 * SIZE[1]), 0)),
    "white below": lambda: padded((SIZE[0], 3 * SIZE[1]), 255),
    "white above": lambda: ImageOps.flip(padded((SIZE[0], 3 * SIZE[1]), 255)),
    "white beside": lambda: padded((3 * SIZE[0], SIZE[1]), 255),
    "a page of text": lambda: ImageOps.invert(terminal()),
    "blown out": lambda: photo().point(lambda value: min(255, value * 3)),
    "turned on white": lambda: photo().rotate(7, expand=True, fillcolor="white"),
    "a disc on white": lambda: Image.composite(photo(), Image.new("RGB", SIZE, "white"),
        Image.radial_gradient("L").resize(SIZE).point(lambda value: 255 * (value < 120))),
    "black beside": lambda: padded((3 * SIZE[0], SIZE[1]), 0),
    "grey below": lambda: padded((SIZE[0], 3 * SIZE[1]), 128),
    "turned": lambda: photo().rotate(7, expand=True),
    "turned a little": lambda: photo().rotate(0.2, resample=Image.Resampling.BICUBIC),
    "stars": stars,
    "terminal": terminal,
    "dark": lambda: photo().point(lambda value: max(0, value - 130)),
    "very dark": lambda: photo().point(lambda value: value // 20),
    "stripes": lambda: Image.fromarray(np.tile(np.array([0] * 8 + [255] * 8, np.uint8), (SIZE[1], 30))).convert("RGB"),
    "a disc": lambda: Image.composite(photo(), Image.new("RGB", SIZE), Image.radial_gradient("L").resize(SIZE).point(
        lambda value: 255 * (value < 120))),
}  # fmt: skip


@pytest.mark.few(each="name motif")
@pytest.mark.many
@pytest.mark.parametrize(("name", "motif"), thinned(itertools.product(FORMATS, GOOD), 3))
def test_black_and_grey_parts_of_pictures_are_no_damage(name: str, motif: str) -> None:
    content = written(GOOD[motif](), name)
    assert said_of(content) is None
    assert said_of(content + bytes(6000)) is None


@pytest.mark.slow
def test_any_damage_to_the_pixels_of_a_png_is_said() -> None:
    """Its checksums see it, also where the decoder has enough before it comes to the end."""
    content = whole("png")
    rng = np.random.default_rng(2)
    for at in rng.integers(content.index(b"IDAT") + 8, len(content) - 20, 25):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(0, 8))
        assert said_of(bytes(damaged)) is not None, at


@pytest.mark.slow
def test_only_the_extents_of_coded_pictures_count() -> None:
    """Zeros in metadata, which HEIF keeps in the same box, are nobody's loss."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    for format_ in ("HEIF", "AVIF"):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x010E] = "a" + "\0" * 3000 + "b"
        photo().save(buffer, format_, exif=exif, quality=80)
        content = buffer.getvalue()
        assert bytes(2000) in content
        extents = [*holes.coded_extents(content)]
        assert extents
        assert all(0 < start < end <= len(content) for start, end in extents)
        assert said_of(content) is None


PAGE = b"<!DOCTYPE html><html><body><h1>503</h1> The service is unavailable; try again later.</body></html>\n" * 80
OF_CODED = (
    "jpeg",
    "jpeg optimised",
    "jpeg progressive",
    "jpeg restarts",
    "webp",
    "webp lossless",
    "jp2 lossy",
    "tiff jpeg",
)


@pytest.mark.parametrize("at", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("name", OF_CODED)
def test_text_in_coded_data_is_said(name: str, at: float) -> None:
    content = whole(name)
    first = int(len(content) * at)
    damaged = content[:first] + PAGE[:4096] + content[first + 4096 :]
    assert said_of(damaged[: len(content)]) is not None
    if name.startswith("webp"):
        assert said_of(content[:first] + PAGE * 8) is not None


@pytest.mark.parametrize("at", [0.3, 0.7])
@pytest.mark.parametrize("byte", [b"\xe5", b"\xf6", b"\xaa", b"\x20", b"\xff"])
@pytest.mark.parametrize("name", ["webp", "webp quick", "tiff", "bmp", "ppm"])
def test_a_rest_of_one_byte_is_said(name: str, byte: bytes, at: float) -> None:
    """As formatting leaves it in sectors, and recovery copies it."""
    content = whole(name)
    first = int(len(content) * at)
    if name in ("tiff", "bmp", "ppm"):  # not from the edge of a row: that may be a border
        row = -(-SIZE[0] * 3 // 4) * 4 if name == "bmp" else SIZE[0] * 3
        start = {"tiff": 8 if content[4] != 8 else len(content) - row * SIZE[1], "bmp": 54}.get(
            name, len(content) - row * SIZE[1]
        )
        first += (row // 2 - (first - start)) % row
    assert said_of(content[:first] + byte * (len(content) - first)) is not None


@pytest.mark.parametrize("at", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", ["webp", "webp lossless", "tiff", "bmp", "ppm", "jpeg"])
def test_a_file_that_begins_again_inside_is_said(name: str, at: float) -> None:
    """A download that was begun again behind its first part."""
    content = whole(name)
    assert said_of(content[: int(len(content) * at)] + content) is not None


@pytest.mark.parametrize("name", ["jpeg", "jpeg optimised", "jpeg progressive", "jpeg restarts", "bmp", "ppm"])
def test_a_transfer_as_text_is_said(name: str) -> None:
    content = written(photo().point(lambda value: max(value - 20, 0)), name)  # with values of 10
    assert said_of(content) is None
    said = said_of(content.replace(b"\n", b"\r\n"))
    assert said is not None
    if name in ("jpeg", "bmp", "ppm"):
        assert "text" in said


def bordered(colour: int, *, words: bool) -> Image.Image:
    """A photograph with a plain part below it, or words on it."""
    image = photo().crop((0, 0, 400, 300))
    image.paste((colour,) * 3, (0, 200, 400, 300))
    if words:
        drawing = ImageDraw.Draw(image)
        for row in range(4):
            drawing.text((10, 205 + 14 * row), "a caption of the picture " * (row + 1), (0, 0, 0))
    return image


@pytest.mark.few(each="name colour")
@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg optimised", "webp", "webp lossless", "tiff", "bmp", "ppm", "jp2", "jp2 lossy"]
)
@pytest.mark.parametrize("colour", thinned([0x0D, 0, 0x0A, 0x20, 0x41, 0xAA, 0xE5, 0xF6, 0xFF], 9))
def test_plain_parts_below_a_picture_are_no_damage(name: str, colour: int) -> None:
    for words in (False, True):
        assert said_of(written(bordered(colour, words=words), name)) is None
    image = bordered(colour, words=False)
    image.paste((colour,) * 3, (0, 0, 400, 300))
    assert said_of(written(image, name)) is None
    image.paste((0x0D, 0x0A, 0x0D), (0, 0, 400, 150))
    assert said_of(written(image, name)) is None


def test_texts_in_the_headers_and_behind_a_picture_are_no_damage() -> None:
    jpeg = whole("jpeg")
    comment = b"\xff\xfe" + (len(PAGE) + 2).to_bytes(2, "big") + PAGE
    assert said_of(jpeg[:2] + comment + jpeg[2:]) is None
    assert said_of(jpeg + PAGE) is None
    assert said_of(jpeg + PAGE.replace(b"\n", b"\r\n") + jpeg) is None
    codestream = whole("jp2 lossy")
    end = codestream.rindex(b"\xff\xd9") + 2
    assert said_of(codestream[:end] + (len(PAGE) + 8).to_bytes(4, "big") + b"xml " + PAGE) is None
    webp = whole("webp")
    extra = b"XMP " + len(PAGE).to_bytes(4, "little") + PAGE
    assert said_of(webp[:4] + (len(webp) - 8 + len(extra)).to_bytes(4, "little") + webp[8:] + extra) is None
    for name in ("bmp", "ppm"):
        assert said_of(whole(name) + PAGE.replace(b"\n", b"\r\n")) is None
