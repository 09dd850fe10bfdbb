"""Small real PDF documents, written by hand."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Sheet:
    """A page: its `size` in points, a colour all over it, a picture in its middle, lines of words, a turn, annotations
    (of which those with /FT are fields of a form)."""

    lines: Sequence[str] = ()
    colour: tuple[int, int, int] | None = None
    picture: Image.Image | None = None
    size: tuple[float, float] = (595, 842)
    turned: int = 0
    commands: bytes = b""  # more to draw
    notes: Sequence[bytes] = ()


def document(
    sheets: Sequence[Sheet],
    *,
    info: bytes = b"",
    trailer: bytes = b"",
    extra: Sequence[bytes] = (),
    shared: bytes = b"",
) -> bytes:
    """A document of some pages. `info`: what stands in its information dictionary. `extra`: more objects, the first of
    which has the number 5. `shared`: what the pages have beside a font."""
    objects: list[bytes] = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
        b"<<%s>>" % info,
        *extra,
    ]
    pages = []
    fields = b""
    for sheet in sheets:
        width, height = sheet.size
        drawn = b""
        resources = b"/Font<</F1 3 0 R>>" + shared
        if sheet.colour is not None:
            red, green, blue = (part / 255 for part in sheet.colour)
            drawn += b"%.3f %.3f %.3f rg 0 0 %g %g re f 0 g\n" % (red, green, blue, width, height)
        if sheet.picture is not None:
            file = io.BytesIO()
            sheet.picture.convert("RGB").save(file, "JPEG", quality=95)
            head = b"<</Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceRGB/BitsPerComponent 8"
            head += b"/Filter/DCTDecode/Length %d>>"
            objects.append(
                head % (*sheet.picture.size, len(file.getvalue())) + b"stream\n" + file.getvalue() + b"\nendstream"
            )
            resources += b"/XObject<</I1 %d 0 R>>" % len(objects)
            drawn += b"q %g 0 0 %g 0 0 cm /I1 Do Q\n" % (width, height)
        for number, line in enumerate(sheet.lines):
            said = line.encode("cp1252").replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)")
            drawn += b"BT /F1 18 Tf 60 %g Td (%s) Tj ET\n" % (height - 80 - 26 * number, said)
        packed = zlib.compress(drawn + sheet.commands)
        objects.append(b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed))
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Rotate %d/Contents %d 0 R/Resources<<%s>>%s>>"
        contents, noted = len(objects), b""
        for note in sheet.notes:
            objects.append(b"<</Type/Annot%s>>" % note)
            noted += b"%d 0 R " % len(objects)
            fields += b"%d 0 R " % len(objects) if b"/FT" in note else b""
        noted = b"/Annots[%s]" % noted if noted else b""
        objects.append(page % (width, height, sheet.turned, contents, resources, noted))
        pages.append(len(objects))
    kids = b" ".join(b"%d 0 R" % number for number in pages)
    if fields:
        form = b"/AcroForm<</Fields[%s]/DA(/F1 12 Tf)/DR<</Font<</F1 3 0 R>>>>>>" % fields
        objects[0] = b"<</Type/Catalog/Pages 2 0 R%s>>" % form
    objects[1] = b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(pages))
    return put_together(objects, trailer)


def put_together(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A file of objects, numbered from 1: the first is the catalogue, the fourth the information."""
    file = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    starts = []
    for number, body in enumerate(objects, 1):
        starts.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table, count = len(file), len(objects) + 1
    file += b"xref\n0 %d\n0000000000 65535 f \n" % count
    file += b"".join(b"%010d 00000 n \n" % start for start in starts)
    file += b"trailer<</Size %d/Root 1 0 R/Info 4 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (count, trailer, table)
    return bytes(file)


_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def _rc4(key: bytes, content: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in content:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def encrypted(line: str, password: bytes) -> bytes:
    """A document of one page with a line of words that opens with a password, which may be empty (RC4, 40 bits)."""
    padded, rights, name = (password + _PADDING)[:32], -44, b"0123456789abcdef"
    owner = _rc4(hashlib.md5((b"owner" + _PADDING)[:32]).digest()[:5], padded)
    key = hashlib.md5(padded + owner + rights.to_bytes(4, "little", signed=True) + name).digest()[:5]
    drawn = b"BT /F1 18 Tf 60 700 Td (%s) Tj ET" % line.encode("ascii")
    drawn = _rc4(hashlib.md5(key + bytes([6, 0, 0, 0, 0])).digest()[:10], drawn)  # object 6
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[7 0 R]/Count 1>>",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<<>>",
        b"<</Filter/Standard/V 1/R 2/O<%s>/U<%s>/P %d>>"
        % (owner.hex().encode(), _rc4(key, _PADDING).hex().encode(), rights),
        b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 6 0 R/Resources<</Font<</F1 3 0 R>>>>>>",
    ]
    return put_together(objects, b"/Encrypt 5 0 R/ID[<%s><%s>]" % (name.hex().encode(), name.hex().encode()))


def hanging() -> list[bytes]:
    """More objects of a document, the first of which (5) draws the next twelve times, and so on, nine deep: see
    `with_trap`."""
    forms = []
    for level in range(9):
        is_last = level == 8
        body = b"0 0 100 100 re f" if is_last else b"/X Do " * 12
        inner = b"" if is_last else b"/XObject<</X %d 0 R>>" % (6 + level)
        head = b"<</Type/XObject/Subtype/Form/BBox[0 0 600 900]/Resources<<%s>>/Length %d>>" % (inner, len(body))
        forms.append(head + b"stream\n" + body + b"\nendstream")
    return forms


def with_trap(pages: int, at: int) -> bytes:
    """A document of red pages, one of which takes for ever to draw."""
    sheets = [Sheet([f"page {n}"], (220, 30, 30), commands=b"/B Do" if n == at else b"") for n in range(1, pages + 1)]
    return document(sheets, extra=hanging(), shared=b"/XObject<</B 5 0 R>>")


def coloured(colours: Sequence[tuple[int, int, int]], *, info: bytes = b"") -> bytes:
    """A document with a page of each colour."""
    return document([Sheet([f"page {number}"], colour) for number, colour in enumerate(colours, 1)], info=info)
