"""Names of files are bytes: the one place that says how they become text, and text becomes them again.

A name is read as UTF-8, whatever the locale; bytes that are not UTF-8 are kept as surrogate escapes (PEP 383), and come
out as they were. The program makes Python do the same (see `__main__`). A program that uses the library in a locale of
another encoding should be started with `python -X utf8`. What names end with is here, too (`ENDINGS`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

_ERRORS = "surrogatepass" if sys.platform == "win32" else "surrogateescape"
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u206f\ud800-\udfff]")
"""Control characters (escape sequences), line separators, bidirectional embeddings, overrides and isolates, surrogates.

Other format characters obey nobody and belong to words: joiners hold families of emoji together, and Persian and Hindi
are misspelt without them.
"""


ENDINGS = {
    "JPEG": "jpg jpeg jpe jfif jif mpo insp",
    "PNG": "png apng",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "JPEG2000": "jp2 j2k jpf jpx j2c jpc",
    "RAW": (
        "dng 3fr arw cr2 cr3 crw dcr erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
    ),
    "TIFF": "tif tiff",
    "AVIF": "avif avifs",
    "HEIF": "heic heif heics heifs hif",
    "PPM": "ppm pgm pbm pnm pfm",
    "DIB": "dib",
    "PDF": "pdf",
    "MESH": "stl obj ply glb gltf",
    "VIDEO": "mp4 mov m4v 3gp 3g2 mkv webm avi",
}
"""What names of files end with, by what they are: those of clipsearch's formats (`pictures/formats`), the usual first.
Here, as what people type is compared with them too."""

_STRAY = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte


def warn_about_locale() -> None:
    """Warn a Python program whose file names are not read as UTF-8: the index would hold other names than they have."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower() not in ("utf-8", "utf8"):
        import warnings

        text = f"names of files are read as {encoding} here, and as UTF-8 elsewhere. Start Python with: python -X utf8"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def to_bytes(name: str | os.PathLike[str]) -> bytes:
    """The bytes of a name or path."""
    return os.fspath(name).encode("utf-8", _ERRORS)


def from_bytes(raw: bytes) -> str:
    """The name or path that these bytes are."""
    return raw.decode("utf-8", _ERRORS)


def is_utf8(name: str) -> bool:
    """Whether a name can be given to programs that take UTF-8 only."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """A name as UTF-8 allows it: U+FFFD for each byte that is not."""
    return name if is_utf8(name) else to_bytes(name).decode("utf-8", "replace")


def well_formed(text: str) -> str:
    """Text in which each surrogate stands for a byte of a name that is not UTF-8; others become U+FFFD."""
    if is_utf8(text):
        return text
    try:
        return from_bytes(to_bytes(text))
    except UnicodeEncodeError:
        return from_bytes(to_bytes(_STRAY.sub("\N{REPLACEMENT CHARACTER}", text)))


def as_typed(text: str) -> str:
    """Words from the command line, as the locale's terminal sent them, where they are not UTF-8."""
    if is_utf8(text):
        return text
    import locale

    encoding = locale.getencoding()  # the locale's, also where Python uses UTF-8
    with contextlib.suppress(UnicodeError, LookupError):
        return to_bytes(text).decode(encoding)
    return text


def for_parsers(body: Any) -> Any:
    """A JSON value without lone surrogates, which break many parsers.

    A name that is not UTF-8 is written as `readable` has it, and beside it, in objects, its bytes in hexadecimal: a
    `path` gets a `path_bytes`.
    """
    if isinstance(body, str):
        return body if is_utf8(body) else _readable_text(body)
    if isinstance(body, dict):
        clean: dict[Any, Any] = {}
        for key, value in body.items():
            clean[for_parsers(key)] = for_parsers(value)
            if isinstance(value, str) and not is_utf8(value):
                with contextlib.suppress(UnicodeEncodeError):
                    clean[f"{key}_bytes"] = to_bytes(value).hex()
        return clean
    if isinstance(body, (list, tuple)):
        return [for_parsers(value) for value in body]
    return body


def from_parsers(body: Any) -> Any:
    """The value that `for_parsers` wrote: names that are not UTF-8 are put together again."""
    if isinstance(body, dict):
        exact = {key for key in body if key.endswith("_bytes") and key.removesuffix("_bytes") in body}
        whole = {key: from_parsers(value) for key, value in body.items() if key not in exact}
        whole.update({key.removesuffix("_bytes"): from_bytes(bytes.fromhex(body[key])) for key in exact})
        return whole
    return [from_parsers(part) for part in body] if isinstance(body, list) else body


def _readable_text(text: str) -> str:
    try:
        return readable(text)
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "replace").decode("utf-8")


@contextlib.contextmanager
def native_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path for libraries that take UTF-8 only, while the context lasts: through a handle of its folder where needed.

    The name of the file itself must be UTF-8. Raises: OSError.
    """
    text = os.fspath(path)
    folder, name = os.path.split(text)
    if is_utf8(text) or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        yield text
        return
    handle = os.open(folder or os.curdir, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)


def safe(text: str) -> str:
    """`text` with everything that a terminal could obey written as an escape, such as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as kept here
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
