"""Small real PDF documents, written by hand."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Sheet:
    """A page: its `size` in points, a colour all over it, a picture in its middle, lines of words, a turn."""

    lines: Sequence[str] = ()
    colour: tuple[int, int, int] | None = None
    picture: Image.Image | None = None
    size: tuple[float, float] = (595, 842)
    turned: int = 0
    commands: bytes = b""  # more to draw


def document(sheets: Sequence[Sheet], *, info: bytes = b"", trailer: bytes = b"", extra: Sequence[bytes] = ()) -> bytes:
    """A document of some pages. `info`: what stands in its information dictionary. `extra`: more objects, the first of
    which has the number 5."""
    objects: list[bytes] = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
        b"<<%s>>" % info,
        *extra,
    ]
    pages = []
    for sheet in sheets:
        width, height = sheet.size
        drawn = b""
        resources = b"/Font<</F1 3 0 R>>"
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
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Rotate %d/Contents %d 0 R/Resources<<%s>>>>"
        objects.append(page % (width, height, sheet.turned, len(objects), resources))
        pages.append(len(objects))
    kids = b" ".join(b"%d 0 R" % number for number in pages)
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


def coloured(colours: Sequence[tuple[int, int, int]], *, info: bytes = b"") -> bytes:
    """A document with a page of each colour."""
    return document([Sheet([f"page {number}"], colour) for number, colour in enumerate(colours, 1)], info=info)
