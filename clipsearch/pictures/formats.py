"""Which files are pictures: by their names, then by their first bytes. Knows no decoder and opens nothing."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

from clipsearch.records import SkipStatus

Kind = Literal[
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "HEIF", "RAW"
]  # what clipsearch reads; all but the last two are Pillow's names

HEAD_BYTES = 4096  # what `identify` wants to see of a file

_EXTENSIONS: dict[Kind, str] = {
    "JPEG": "jpg jpeg jpe jfif jif mpo insp",
    "PNG": "png apng",
    "WEBP": "webp",
    "GIF": "gif",
    "TIFF": "tif tiff",
    "BMP": "bmp",
    "DIB": "dib",
    "AVIF": "avif avifs",
    "JPEG2000": "jp2 j2k jpf jpx j2c jpc",
    "PPM": "ppm pgm pbm pnm pfm",
    "HEIF": "heic heif heics heifs hif",
    "RAW": "3fr arw cr2 cr3 crw dcr dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 "
    "srf srw x3f",
}
_KIND_OF_EXTENSION: dict[str, Kind] = {
    extension: kind for kind, extensions in _EXTENSIONS.items() for extension in extensions.split()
}

_UNSUPPORTED_EXTENSIONS: dict[str, str] = {
    extension: name
    for name, extensions in {
        "Photoshop": "psd psb",
        "EPS": "eps ps epsf",
        "Illustrator": "ai",
        "SVG": "svg svgz",
        "Targa": "tga icb vda vst",
        "Windows icon": "ico cur",
        "Apple icon": "icns",
        "DirectDraw": "dds",
        "GIMP": "xcf gbr",
        "Krita": "kra",
        "FITS": "fits fit fts",
        "OpenEXR": "exr",
        "Radiance": "hdr rgbe",
        "JPEG XL": "jxl",
        "JPEG XR": "jxr wdp hdp",
        "QOI": "qoi",
        "PCX": "pcx dcx",
        "SGI": "sgi rgb rgba bw",
        "Sun raster": "ras sun",
        "X11": "xbm xpm",
        "Windows metafile": "wmf emf",
        "PAM": "pam",
        "DjVu": "djvu djv",
        "DICOM": "dcm",
        "FlashPix": "fpx mic",
        "PhotoCD": "pcd",
        "Pixar": "pxr",
        "FLIC": "fli flc",
        "game texture": "blp ftc ftu ktx ktx2 wal",
        "IM": "im",
        "MSP": "msp",
        "CorelDRAW": "cdr",
        "Affinity": "afphoto afdesign",
        "Procreate": "procreate",
        "Clip Studio": "clip",
    }.items()
    for extension in extensions.split()
}

_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"FUJIFILMCCD-RAW", "RAW"),
    (b"II\x1a\x00\x00\x00HEAPCCDR", "RAW"),  # CRW
    (b"IIRO", "RAW"),  # ORF
    (b"IIRS", "RAW"),
    (b"MMOR", "RAW"),
    (b"IIU\x00", "RAW"),  # RW2
    (b"FOVb", "RAW"),  # X3F
    (b"\x00MRM", "RAW"),
)
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # classic and BigTIFF

_UNSUPPORTED_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"8BPS", "Photoshop"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"DDS ", "DirectDraw"),
    (b"\x00\x00\x01\x00", "Windows icon"),
    (b"\x00\x00\x02\x00", "Windows icon"),
    (b"icns", "Apple icon"),
    (b"gimp xcf", "GIMP"),
    (b"SIMPLE  =", "FITS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"qoif", "QOI"),
    (b"P7", "PAM"),
    (b"\x01\xda", "SGI"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"/* XPM", "X11"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
    (b"\x01\x00\x00\x00", "Windows metafile"),
    (b"BLP", "game texture"),
    (b"FTEX", "game texture"),
    (b"DanM", "MSP"),
    (b"LinS", "MSP"),
    (b"AT&TFORM", "DjVu"),
    (b"\x80\xe8\x00\x00", "Pixar"),
)

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def _extension(name: str) -> str:
    """The lower-case extension of a file name, without its dot; "" for `.name` and `name`."""
    return os.path.splitext(name)[1][1:].lower()  # noqa: PTH122  pathlib is far slower, and this runs per file


def classify_name(name: str) -> tuple[SkipStatus, str] | None:
    """Return None for a file worth opening, else the status and reason to record for it.

    Worth opening are the extensions of all formats that clipsearch reads, with or without the extras, and
    names without an extension, whose bytes must tell.
    """
    if name.startswith("._"):
        return "not_a_picture", "macOS keeps attributes of another file in it"
    extension = _extension(name)
    if extension in _KIND_OF_EXTENSION:
        return None
    if extension in _UNSUPPORTED_EXTENSIONS:
        return "unsupported_format", f"{_UNSUPPORTED_EXTENSIONS[extension]} files are not supported"
    if extension:
        return "not_a_picture", f"not a picture by its name (.{extension})"
    return ("not_a_picture", "a hidden file without an extension") if name.startswith(".") else None


_SEEN: dict[str, bool] = {}  # whether names with an extension, as it is written, may be pictures
PICTURE_ENDINGS: frozenset[str] = frozenset(
    f".{written}" for extension in _KIND_OF_EXTENSION for written in (extension, extension.upper())
)
"""The extensions of what clipsearch reads, as cameras and people write them mostly: for a first, quick look."""


def is_picture_name(name: str) -> bool:
    """Whether a file has, by its name, anything to do with pictures: one worth opening, or of a format that is not
    supported. Called for every file of a folder, so it remembers extensions."""
    at = name.rfind(".")
    if at <= 0:
        return at < 0
    extension = name[at:]
    known = _SEEN.get(extension)
    if known is None:
        known = _extension(name) in _KIND_OF_EXTENSION or _extension(name) in _UNSUPPORTED_EXTENSIONS
        if len(_SEEN) < 10_000:
            _SEEN[extension] = known
    return known and not name.startswith("._")


def is_candidate(name: str) -> bool:
    """Whether a file of this name is worth opening."""
    return classify_name(name) is None


def extra_is_installed(name: str) -> bool:
    """Whether what a file of this name needs beside the core, if anything, is there."""
    needs = {"HEIF": "pillow_heif", "RAW": "rawpy"}.get(_KIND_OF_EXTENSION.get(_extension(name), ""))
    return needs is None or importlib.util.find_spec(needs) is not None


def identify(head: bytes, name: str) -> Kind | None:
    """Return the format of a file from its first HEAD_BYTES, or None where it is none that clipsearch reads.

    `name` only tells a RAW file from the TIFF that most of them pretend to be.
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head.startswith(TIFF_SIGNATURES):
        named_raw = _KIND_OF_EXTENSION.get(_extension(name)) == "RAW"
        return "RAW" if named_raw or head[8:10] == b"CR" else "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _identify_iso_media(head)
    if head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3].isspace():
        return "PPM"
    # A DIB is a BMP without its file header: header size, width, height, one plane, bits per pixel.
    if (
        int.from_bytes(head[:4], "little") in (40, 52, 56, 64, 108, 124)
        and head[12:14] == b"\x01\x00"
        and int.from_bytes(head[14:16], "little") in (1, 2, 4, 8, 16, 24, 32)
    ):
        return "DIB"
    return None


def _identify_iso_media(head: bytes) -> Kind | None:
    """AVIF, HEIF and CR3 share the container of MP4 and name themselves in its brands."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))}
    if head[8:12] == b"crx ":
        return "RAW"
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIF_BRANDS or head[8:12] in (b"mif1", b"msf1"):
        return "HEIF"
    return None


def classify_unidentified(head: bytes, name: str) -> tuple[SkipStatus, str]:
    """Return the status and reason of a file that `identify` did not know."""
    by_name = classify_name(name)
    if by_name is not None and by_name[0] == "unsupported_format":
        return by_name  # first, since Targa files start like Windows icons
    for signature, format_name in _UNSUPPORTED_SIGNATURES:
        if head.startswith(signature):
            return "unsupported_format", f"{format_name} files are not supported"
    if b"<svg" in head[:1024]:
        return "unsupported_format", "SVG files are not supported"
    if head[4:8] == b"ftyp":
        return "not_a_picture", "a video"
    return "not_a_picture", "no picture format is recognised in its bytes"
