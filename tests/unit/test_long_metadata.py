"""Metadata that is long, compressed or written with gaps is read all the same, within bounds."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from clipsearch.pictures.images import read_picture
from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.records import Preprocessing

SQUASH = Preprocessing(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="squash")
TAKEN = "2011-06-05T10:11:12"
HEAD = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
SAYS = b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:DateTimeOriginal="2011-06-05T10:11:12"/>'
TAIL = b"</rdf:RDF></x:xmpmeta>"


def packet(megabytes: float, *, late: bool) -> bytes:
    long = b'<rdf:Description xmlns:z="z:"><z:a>' + b"y" * int(megabytes * 1e6) + b"</z:a></rdf:Description>"
    return HEAD + (long + SAYS if late else SAYS + long) + TAIL


def saved(format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, format_, **options)
    return buffer.getvalue()


def profile(name: str, content: bytes) -> str:
    """As ImageMagick writes it."""
    digits = content.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return f"\n{name}\n{len(content):8}\n{lines}\n"


def taken_of(content: bytes) -> str | None:
    picture = read_picture("x", SQUASH, content=content)
    assert picture.partial is None
    return picture.metadata.taken_at


def with_text(key: str, text: str, *, itxt: bool, zipped: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    if itxt:
        info.add_itxt(key, text, zip=zipped)
    else:
        info.add_text(key, text, zip=zipped)
    return saved("PNG", pnginfo=info)


@pytest.mark.many
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", ["iTXt", "compressed iTXt", "profile", "compressed profile", "WEBP", "AVIF", "JPEG"])
def test_xmp_of_more_than_two_megabytes(way: str, late: bool) -> None:
    whole = packet(3, late=late)
    if way.endswith("iTXt"):
        content = with_text("XML:com.adobe.xmp", whole.decode(), itxt=True, zipped=way.startswith("compressed"))
    elif way.endswith("profile"):
        text = profile("xmp", whole)
        content = with_text("Raw profile type xmp", text, itxt=False, zipped=way.startswith("compressed"))
    elif way == "JPEG":
        content = _in_extensions(whole)
    else:
        content = saved(way, xmp=whole)
    assert taken_of(content) == TAKEN


def _in_extensions(whole: bytes) -> bytes:
    def segment(body: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body

    name = b"0123456789ABCDEF" * 2
    note = b'<rdf:Description xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="' + name + b'"/>'
    parts = [
        segment(
            b"http://ns.adobe.com/xmp/extension/\0" + name + struct.pack(">II", len(whole), at) + whole[at:][:65000]
        )
        for at in range(0, len(whole), 65000)
    ]
    content = saved("JPEG")
    return content[:2] + segment(b"http://ns.adobe.com/xap/1.0/\0" + HEAD + note + TAIL) + b"".join(parts) + content[2:]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["exif", "APP1", "xmp", "iptc", "8bim"])
def test_profiles_in_hexadecimal(kind: str, zipped: bool) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2011:06:05 10:11:12"
    iptc = b"\x1c\x02\x37\0\x0820110605\x1c\x02\x3c\0\x06101112"
    content = {
        "exif": exif.tobytes(),
        "APP1": exif.tobytes(),
        "xmp": HEAD + SAYS + TAIL,
        "iptc": iptc,
        "8bim": b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc,
    }[kind]
    text = profile(kind.lower(), content)
    assert taken_of(with_text(f"Raw profile type {kind}", text, itxt=False, zipped=zipped)) == TAKEN


def test_a_text_that_another_breaks_is_read_all_the_same() -> None:
    """Pillow refuses the whole file for a text that is too long: it is read without its compressed texts."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "y" * 3_000_000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", (HEAD + SAYS + TAIL).decode(), zip=True)
    assert taken_of(saved("PNG", pnginfo=info)) == TAKEN


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("2011:06:05\x0010:11:12", TAKEN),
        ("2011:06:05\0 10:11:12\0", TAKEN),
        ("2011:06:05 10:11:12\0junk", TAKEN),
        ("2011:06:05\x00\x0010:11:12", TAKEN),
        ("2011:06:05\0junk", "2011-06-05T00:00:00"),
        ("2011:06:05 10:11:12\x0012:13:14", TAKEN),
    ],
)
def test_nul_between_date_and_time(written: str, taken: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = written
    assert taken_of(saved("JPEG", exif=exif)) == taken
    moment = read_moment(written)
    assert moment is not None
    assert moment.isoformat() == taken


@pytest.mark.parametrize(
    "written",
    [
        "5 Jun 11",
        "05 JUN 11",
        "5-Jun-11",
        "5/Jun/11",
        "5. Juni 11",
        "5 jun '11",
        "Sun, 5 Jun 11",
        "5 juin 11",
        "5 giu 11",
    ],
)
def test_years_of_two_digits_behind_a_named_month(written: str) -> None:
    moment = read_moment(written)
    assert moment is not None
    assert (moment.isoformat()[:10], moment.span.days) == ("2011-06-05", 1)
    timed = read_moment(f"{written} 10:11:12")
    assert timed is not None
    assert timed.isoformat() == TAKEN


@pytest.mark.parametrize("written", ["5 Jun 10:11:12 2011", "Sun 5 Jun 10:11 2011", "5 Jun 11 2011", "5 Jun 1"])
def test_hours_are_no_years(written: str) -> None:
    moment: Moment | None = read_moment(written)
    assert moment is None or moment.start.year == 2011
