"""Pages of PDF documents: how they look, and the words that their text layers, forms and notes hold. The one module
that knows pypdfium2 (extra `pdf`).

The file is read as a stream, as far as a page needs it. A part of a document ends after so many pages, or after so much
time, and says where the next one begins: each has its own time limit, so that of a document grows with its pages, and
no more than one page is ever in memory. Nothing in a document is run, and no other file or address is opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from PIL import Image

from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import Said
from clipsearch.pictures.metadata.words import Words
from clipsearch.pictures.words import bounded
from clipsearch.records import Line, SkipStatus

Size = tuple[int, int]  # width, height
Fit = Callable[[Size], Size]

DOTS_PER_INCH = 200  # a page is as large, in pixels, as a scan of it
MOST_PAGES = 5000  # of one document
MOST_CHARACTERS = 60_000  # of the text layer of a page
LEAST_LETTERS = 20  # of a text layer that says what stands on its page: a stamp of a scanner does not
PART_S = 5.0  # after which a part ends with the page that it is at
_LONGEST_SIDE = 100_000  # of a page, in pixels: some say that they are miles long
_LONGEST_DRAWN = 4096  # of a page for the encoder
_MOST_NOTES = 2000  # annotations of a page, of which the fields of forms are some
_MOST_OPTIONS = 5000  # of a list in a form
_LONGEST_NOTE_BYTES = 2**20
_MOST_UNREAD = 20  # pages that cannot be read of one part, until the rest is given up
_POINTS_PER_INCH = 72
_BREAKS = "\r\n\x0b\x0c\u2028\u2029"
_HYPHENS = "\x02\xad\ufffe"  # as PDFium reports one at the end of a line

_alone = threading.RLock()  # PDFium is not safe for threads


class PdfError(Exception):
    """A document that cannot be read, with the status that its row gets."""

    def __init__(self, status: SkipStatus, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Page:
    """How a page looks, not larger than was wanted, and its own size. `number` is from 1. `is_blank`: nothing is on it,
    not even a picture that could not be drawn."""

    number: int
    image: Image.Image
    size: Size
    is_blank: bool


@dataclass(slots=True)
class PagesRead:
    """Some pages of a document in their order. `next_page`: after which page the next part begins; None at the end."""

    count: int = 0  # pages of the document
    pages: list[Page] = field(default_factory=list)
    next_page: int | None = None
    partial: str | None = None  # what is missing, in words


def read_pages(stream: IO[bytes], *, after: int = 0, most: int = 32, shortest: int | None = None) -> PagesRead:
    """The pages after a page, `most` at most. What is blank is left out, but not the first page that can be read.

    `shortest`: they need not be larger than this along their shorter side. Raises: PdfError.
    """

    def fit(size: Size) -> Size:
        if shortest is None:
            return size
        scale = min(shortest / min(size), _LONGEST_DRAWN / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    began = time.monotonic()
    with _opened(stream) as document:
        read = PagesRead(len(document))
        last = min(read.count, MOST_PAGES)
        unread = 0
        number = after
        while number < last and len(read.pages) < most:
            number += 1
            try:
                page = _drawn(document, number, fit)
            except MemoryError:
                raise
            except Exception:
                unread += 1
                read.partial = "some of its pages are damaged"
                if unread >= _MOST_UNREAD:  # there may be a million
                    last = number
                continue
            if not page.is_blank or (not after and not read.pages):
                read.pages.append(page)
            if time.monotonic() - began > PART_S:
                break
        if number < last:
            read.next_page = number
        elif number == MOST_PAGES < read.count:
            read.partial = f"only its first {MOST_PAGES:,} pages of {read.count:,} were read"
    if not read.pages and not after and read.next_page is None:
        raise PdfError("corrupt", "the document is damaged: no page of it can be shown")
    return read


def page_at(stream: IO[bytes], number: int, *, fit: Fit | None = None) -> tuple[Image.Image, Size]:
    """How a page looks, and its own size. `fit`: how large it has to be, of its own size. Raises: PdfError."""
    with _opened(stream) as document:
        page = _drawn(document, max(1, min(number, len(document))), fit or (lambda size: size))
        return page.image, page.size


def read_said(stream: IO[bytes]) -> Said:
    """What a document says of itself. Raises: PdfError."""
    with _opened(stream) as document:
        told = {name: document.get_metadata_value(name).strip("\0 ") for name in ("Title", "Subject", "Keywords")}
        made = _moment(document.get_metadata_value("CreationDate"))
    words = Words(
        titles=tuple(filter(None, (told["Title"],))),
        captions=tuple(filter(None, (told["Subject"],))),
        keywords=tuple(filter(None, (one.strip() for one in re.split("[,;]", told["Keywords"])))),
    )
    return Said({} if made is None else {"pdf:CreationDate": made}, words=words)


def _moment(text: str) -> Moment | None:
    """D:20230501120000+02'00', of which people may leave out the end."""
    match = re.match(r"\s*(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?", text)
    if match is None:
        return read_moment(text)
    year, *rest = match.groups()
    date = "-".join([year, *(part for part in rest[:2] if part)])
    clock = [part or "00" for part in rest[2:]]
    return read_moment(f"{date}T{':'.join(clock)}" if rest[1] and rest[2] else date)


def read_lines(stream: IO[bytes], number: int) -> tuple[list[Line], list[Line], Size]:
    """The lines of the text layer of a page, in its own pixels; those that are filled into its forms and stand in its
    notes; and its size. Raises: PdfError."""
    with _opened(stream) as document:
        page = document[max(1, min(number, len(document))) - 1]
        with contextlib.closing(page), contextlib.closing(page.get_textpage()) as text:
            size = _size_of(page)
            layer = bounded(line.as_line(page, size) for line in _lines(text))
            return layer, bounded(line.as_line(page, size) for line in _filled(document, page)), size


def letters_in(lines: Iterable[Line]) -> int:
    """How many letters and digits stand in lines."""
    return sum(c.isalnum() for line in lines for c in line.text)


@dataclass(slots=True)
class _TextLine:
    """A line of a text layer while it is put together. `box`: left, bottom, right and top on the page, in points."""

    letters: list[str] = field(default_factory=list)
    box: list[float] = field(default_factory=lambda: [math.inf, math.inf, -math.inf, -math.inf])

    @property
    def text(self) -> str:
        """Its words; PDFium gives letters outside the first plane as two."""
        said = "".join(self.letters).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return " ".join("".join(c if c.isprintable() else " " for c in said).split())

    def as_line(self, page: Any, size: Size) -> Line:
        import pypdfium2.raw as c

        corners = []
        for x, y in ((self.box[0], self.box[3]), (self.box[2], self.box[1])):
            across, down = ctypes.c_int(), ctypes.c_int()
            c.FPDF_PageToDevice(page.raw, 0, 0, *size, 0, x, y, across, down)
            corners.append((min(max(0, across.value), size[0] - 1), min(max(0, down.value), size[1] - 1)))
        (left, right), (top, bottom) = (sorted(along) for along in zip(*corners, strict=True))
        return Line(self.text, (left, top, max(1, right - left), max(1, bottom - top)), 1.0)


def _lines(text: Any) -> Iterator[_TextLine]:
    import pypdfium2.raw as c

    line, is_divided = _TextLine(), False  # a word that was divided belongs to the line that it begins in
    edges = [ctypes.c_double() for _ in range(4)]
    left, right, bottom, top = edges
    for at in range(min(text.count_chars(), MOST_CHARACTERS)):
        code = c.FPDFText_GetUnicode(text.raw, at)
        letter = chr(code) if code <= 0x10FFFF else "\ufffd"
        if letter in _HYPHENS:
            is_divided = True
            continue
        line.letters.append(letter)
        if letter in _BREAKS or (is_divided and letter.isspace()):
            if line.text:
                yield line
            line, is_divided = _TextLine(), False
        elif is_divided or letter.isspace() or not c.FPDFText_GetCharBox(text.raw, at, left, right, bottom, top):
            continue
        else:
            low, high = (left.value, bottom.value), (right.value, top.value)
            line.box = [*map(min, line.box[:2], low), *map(max, line.box[2:], high)]
    if line.text:
        yield line


def _filled(document: Any, page: Any) -> Iterator[_TextLine]:
    """What people have put on a page that stands in no text layer."""
    import pypdfium2.raw as c

    room = MOST_CHARACTERS
    for at in range(min(c.FPDFPage_GetAnnotCount(page.raw), _MOST_NOTES)):
        note = c.FPDFPage_GetAnnot(page.raw, at)
        if not note:
            continue
        try:
            edges = c.FS_RECTF()
            text = _said_in(document, note)
            if not text or not c.FPDFAnnot_GetRect(note, edges):
                continue
        finally:
            c.FPDFPage_CloseAnnot(note)
        for said in text.splitlines():
            line = _TextLine([said[:room]], [edges.left, edges.bottom, edges.right, edges.top])
            room -= len(said)
            if line.text:
                yield line
            if room <= 0:
                return


def _said_in(document: Any, note: Any) -> str:
    """The value of a field of a form, or the text of another annotation; "" where it is not seen, or is a password."""
    import pypdfium2.raw as c

    if c.FPDFAnnot_GetFlags(note) & (c.FPDF_ANNOT_FLAG_HIDDEN | c.FPDF_ANNOT_FLAG_NOVIEW):
        return ""
    kind, form = c.FPDFAnnot_GetSubtype(note), document.formenv
    if kind in (c.FPDF_ANNOT_LINK, c.FPDF_ANNOT_POPUP):  # a popup shows what another one says
        return ""
    if kind != c.FPDF_ANNOT_WIDGET:
        return _text_of(lambda *into: c.FPDFAnnot_GetStringValue(note, b"Contents", *into))
    if not form:
        return ""
    field_kind = c.FPDFAnnot_GetFormFieldType(form, note)
    is_password = (
        field_kind == c.FPDF_FORMFIELD_TEXTFIELD
        and c.FPDFAnnot_GetFormFieldFlags(form, note) & c.FPDF_FORMFLAG_TEXT_PASSWORD
    )
    if is_password or field_kind not in (
        c.FPDF_FORMFIELD_TEXTFIELD,
        c.FPDF_FORMFIELD_COMBOBOX,
        c.FPDF_FORMFIELD_LISTBOX,
    ):
        return ""
    chosen = [] if field_kind == c.FPDF_FORMFIELD_TEXTFIELD else _chosen(form, note)
    return "\n".join(chosen) or _text_of(lambda *into: c.FPDFAnnot_GetFormFieldValue(form, note, *into))


def _chosen(form: Any, note: Any) -> list[str]:
    """What is chosen in a list, in the words that are shown: the value of the field may be a code for them, or one of
    several."""
    import pypdfium2.raw as c

    count = min(c.FPDFAnnot_GetOptionCount(form, note), _MOST_OPTIONS)
    selected = [at for at in range(count) if c.FPDFAnnot_IsOptionSelected(form, note, at)]
    labels = [_text_of(lambda *into, at=at: c.FPDFAnnot_GetOptionLabel(form, note, at, *into)) for at in selected]
    return [label for label in labels if label]


def _text_of(ask: Callable[..., int]) -> str:
    """A text of PDFium, which says how many bytes of UTF-16 it has."""
    size = ask(None, 0)
    if not 2 < size <= _LONGEST_NOTE_BYTES:
        return ""
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    ask(buffer, size)
    return bytes(buffer).decode("utf-16-le", "replace").partition("\0")[0]


def _drawn(document: Any, number: int, fit: Fit) -> Page:
    """Draw a page on white, with what is filled into its forms. Raises: what PDFium does."""
    import pypdfium2 as pdfium
    import pypdfium2.raw as c

    page = document[number - 1]
    with contextlib.closing(page):
        size = _size_of(page)
        width, height = fit(size)
        bitmap = pdfium.PdfBitmap.new_native(width, height, c.FPDFBitmap_BGR, rev_byteorder=True)
        with contextlib.closing(bitmap):
            bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
            placed = bitmap, page, 0, 0, width, height, 0, c.FPDF_ANNOT | c.FPDF_REVERSE_BYTE_ORDER
            c.FPDF_RenderPageBitmap(*placed)
            if document.formenv:
                c.FPDF_FFLDraw(document.formenv, *placed)
            image = Image.fromarray(np.array(bitmap.to_numpy()[:, :, :3]))
        return Page(number, image, size, _is_white(image) and not _has_pictures(page))


def _size_of(page: Any) -> Size:
    """The size of a page in pixels. Raises: ValueError."""
    across, down = page.get_size()
    if not (0 < across < math.inf and 0 < down < math.inf):
        raise ValueError("a page without a size")
    scale = min(DOTS_PER_INCH / _POINTS_PER_INCH, _LONGEST_SIDE / max(across, down))
    return max(1, round(across * scale)), max(1, round(down * scale))


def _has_pictures(page: Any) -> bool:
    import pypdfium2.raw as c

    objects = (c.FPDFPage_GetObject(page, at) for at in range(c.FPDFPage_CountObjects(page)))
    return any(c.FPDFPageObj_GetType(one) in (c.FPDF_PAGEOBJ_IMAGE, c.FPDF_PAGEOBJ_FORM) for one in objects)


def _is_white(image: Image.Image) -> bool:
    return all(low == 255 for low, _ in image.getextrema())  # type: ignore[misc]


class _Source:
    """A stream as PDFium reads it, through C code in which errors are lost."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def seek(self, at: int, whence: int = 0) -> int:
        return self._stream.seek(at, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        except OSError as error:
            self.error = error
            return 0
        return count


@contextlib.contextmanager
def _opened(stream: IO[bytes]) -> Iterator[Any]:
    """The document in a stream. Raises: PdfError; OSError where the file cannot be read."""
    import pypdfium2 as pdfium

    source = _Source(stream)
    with _alone:
        document = None
        try:
            _forget_errors()
            document = pdfium.PdfDocument(source)
            with contextlib.suppress(pdfium.PdfiumError):  # the pages are there without it
                document.init_forms()
            yield document
        except pdfium.PdfiumError as error:
            raise _explained(error, source) from error
        finally:
            if document is not None:
                document.close()


def _forget_errors() -> None:
    """Let PDFium remember that a document is damaged, and not what was wrong with an earlier one."""
    import pypdfium2.raw as c

    c.FPDF_LoadMemDocument64(b"x", 1, None)


def _explained(error: Any, source: _Source) -> Exception:
    import pypdfium2.raw as c

    if source.error is not None:
        return source.error
    if error.err_code in (c.FPDF_ERR_PASSWORD, c.FPDF_ERR_SECURITY):
        return PdfError("unsupported_format", "the document is encrypted and needs a password")
    source.seek(0, 2)
    source.seek(max(0, source.tell() - 1024))
    if error.err_code == c.FPDF_ERR_FORMAT and b"%%EOF" not in source.read():
        return PdfError("truncated", "the document ends before its end")
    return PdfError("corrupt", "the document is damaged: no page of it can be found")
