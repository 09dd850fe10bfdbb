"""The table of picture formats, and which files are pictures: by their names, then by their first bytes.

The scanner, what tells formats apart, the decoders, messages, `clipsearch index --help`, `ext:` and the page come from
it. Knows no decoder and opens nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Literal, NamedTuple

from clipsearch.filenames import ENDINGS
from clipsearch.records import SkipStatus

Kind = Literal[
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000", "RAW", "TIFF", "AVIF", "HEIF", "PPM", "DIB", "PDF", "MESH", "VIDEO"
]  # what clipsearch reads; all but five are Pillow's names

HEAD_BYTES = 4096  # what `identify` wants to see of a file
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # classic and BigTIFF
_STL_HEAD_BYTES = 84
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def _is_webp(head: bytes, name: str) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _is_raw(head: bytes, name: str) -> bool:
    """Most RAW files pretend to be a TIFF; CR3 shares the container of MP4."""
    if head.startswith(TIFF_SIGNATURES):
        return head[8:10] == b"CR" or _kind_by_name(name) == "RAW"
    return head[4:12] == b"ftypcrx "


def _is_avif(head: bytes, name: str) -> bool:
    return bool(_brands(head) & {b"avif", b"avis"})


def _is_heif(head: bytes, name: str) -> bool:
    return bool(_brands(head) & _HEIF_BRANDS) or head[4:12] in (b"ftypmif1", b"ftypmsf1")


def _brands(head: bytes) -> set[bytes]:
    """What a file in the container of MP4 says that it is."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))}


def _is_ppm(head: bytes, name: str) -> bool:
    return head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3].isspace()


def _is_video(head: bytes, name: str) -> bool:
    """After AVIF, HEIF and CR3, which share the container of MP4."""
    return video_container(head) is not None


def video_container(head: bytes) -> str | None:
    """FFmpeg's name of the container that a video is in, by its first bytes; None for what is no video."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def _is_pdf(head: bytes, name: str) -> bool:
    """Readers accept a document that begins within the first 1,024 bytes of what is called one."""
    return head.startswith(b"%PDF-") or (_kind_by_name(name) == "PDF" and b"%PDF-" in head[:1024])


def _is_mesh(head: bytes, name: str) -> bool:
    """After PDF: a binary STL has no signature, so it goes by its name."""
    return mesh_container(head, name) is not None


def mesh_container(head: bytes, name: str) -> str | None:
    """Which of glb, gltf, ply, obj and stl a 3-D model is, by its first bytes and name; None for what is none."""
    if head.startswith(b"glTF"):
        return "glb"
    if head.startswith((b"ply\n", b"ply\r")):
        return "ply"
    extension = _extension(name)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if extension == "gltf" and text.startswith(b"{"):
        return "gltf"
    if extension == "obj" and b"\0" not in head and text[:1] in b"#vfomgsul":  # programs have such files, too
        return "obj"
    is_text = text[:5].lower() == b"solid"
    is_binary = len(head) >= _STL_HEAD_BYTES and any(head[80:84]) and head[3:6] != b"STL"  # as subtitles have it
    return "stl" if extension == "stl" and (is_text or is_binary) else None


def _is_dib(head: bytes, name: str) -> bool:
    """A DIB is a BMP without its file header: header size, width, height, one plane, bits per pixel."""
    return (
        int.from_bytes(head[:4], "little") in (40, 52, 56, 64, 108, 124)
        and head[12:14] == b"\x01\x00"
        and int.from_bytes(head[14:16], "little") in (1, 2, 4, 8, 16, 24, 32)
    )


class Format(NamedTuple):
    """A format that clipsearch reads, with or without an extra."""

    kind: Kind
    label: str  # what people call it
    extensions: str  # of `filenames.ENDINGS`
    media_types: str  # as browsers name them
    signatures: tuple[bytes, ...] = ()  # what files of it begin with
    test: Callable[[bytes, str], bool] | None = None  # else: of the first HEAD_BYTES and the name, whether it is one
    plugin: tuple[str, str] | None = None  # module and class of its Pillow plugin
    same: str = ""  # extensions that mean the same to `ext:`, the usual one first
    offered: bool = False  # as a choice for `ext:` on the page
    shown: bool = False  # by every browser, as the first of its media types
    extra: str | None = None  # what it needs beside the core,
    module: str | None = None  # and the module that is then there


FORMATS: tuple[Format, ...] = (
    Format(
        "JPEG",
        "JPEG",
        ENDINGS["JPEG"],
        "image/jpeg",
        (b"\xff\xd8\xff",),
        plugin=("PIL.JpegImagePlugin", "JpegImageFile"),
        same="jpg jpeg jpe jfif",
        offered=True,
        shown=True,
    ),
    Format(
        "PNG",
        "PNG",
        ENDINGS["PNG"],
        "image/png image/apng",
        (b"\x89PNG\r\n\x1a\n",),
        plugin=("PIL.PngImagePlugin", "PngImageFile"),
        offered=True,
        shown=True,
    ),
    Format(
        "WEBP",
        "WebP",
        ENDINGS["WEBP"],
        "image/webp",
        test=_is_webp,
        plugin=("PIL.WebPImagePlugin", "WebPImageFile"),
        offered=True,
        shown=True,
    ),
    Format(
        "GIF",
        "GIF",
        ENDINGS["GIF"],
        "image/gif",
        (b"GIF87a", b"GIF89a"),
        plugin=("PIL.GifImagePlugin", "GifImageFile"),
        offered=True,
        shown=True,
    ),
    Format(
        "BMP", "BMP", ENDINGS["BMP"], "image/bmp", (b"BM",), plugin=("PIL.BmpImagePlugin", "BmpImageFile"), shown=True
    ),
    Format(
        "JPEG2000",
        "JPEG 2000",
        ENDINGS["JPEG2000"],
        "image/jp2 image/jpx image/j2k image/x-jp2",
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        plugin=("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    ),
    Format(  # before TIFF
        "RAW",
        "camera RAW",
        ENDINGS["RAW"],
        "image/x-adobe-dng image/x-dcraw",
        (
            b"FUJIFILMCCD-RAW",
            b"II\x1a\x00\x00\x00HEAPCCDR",  # CRW
            b"IIRO",  # ORF
            b"IIRS",
            b"MMOR",
            b"IIU\x00",  # RW2
            b"FOVb",  # X3F
            b"\x00MRM",
        ),
        test=_is_raw,
        extra="raw",
        module="rawpy",
    ),
    Format(
        "TIFF",
        "TIFF",
        ENDINGS["TIFF"],
        "image/tiff",
        TIFF_SIGNATURES,
        plugin=("PIL.TiffImagePlugin", "TiffImageFile"),
        same="tif tiff",
        offered=True,
    ),
    Format(
        "AVIF",
        "AVIF",
        ENDINGS["AVIF"],
        "image/avif",
        test=_is_avif,
        plugin=("PIL.AvifImagePlugin", "AvifImageFile"),
        offered=True,
        shown=True,
    ),
    Format(
        "HEIF",
        "HEIC",
        ENDINGS["HEIF"],
        "image/heic image/heif image/heic-sequence image/heif-sequence",
        test=_is_heif,
        plugin=("pillow_heif", "HeifImageFile"),
        same="heic heif",
        offered=True,
        extra="heif",
        module="pillow_heif",
    ),
    Format(
        "PPM",
        "PPM",
        ENDINGS["PPM"],
        "image/x-portable-anymap image/x-portable-bitmap image/x-portable-graymap image/x-portable-pixmap",
        test=_is_ppm,
        plugin=("PIL.PpmImagePlugin", "PpmImageFile"),
    ),
    Format("DIB", "DIB", ENDINGS["DIB"], "image/x-ms-bmp", test=_is_dib, plugin=("PIL.BmpImagePlugin", "DibImageFile")),
    Format(
        "PDF",
        "PDF",
        ENDINGS["PDF"],
        "application/pdf",
        test=_is_pdf,
        offered=True,
        extra="pdf",
        module="pypdfium2",
    ),
    Format(
        "MESH",
        "3-D model (STL, OBJ, PLY, glTF)",
        ENDINGS["MESH"],
        "model/stl model/obj model/ply model/gltf-binary model/gltf+json",
        test=_is_mesh,
        extra="3d",
        module="trimesh",
    ),
    Format(  # last
        "VIDEO",
        "video (MP4, QuickTime, Matroska, WebM, AVI)",
        ENDINGS["VIDEO"],
        "video/mp4 video/quicktime video/x-m4v video/3gpp video/x-matroska video/webm video/x-msvideo",
        test=_is_video,
        extra="video",
        module="av",
    ),
)
"""What clipsearch reads, in the order in which files are tested for it."""


class Unsupported(NamedTuple):
    """A format that clipsearch knows by its name or first bytes, and does not read."""

    name: str
    extensions: str  # of `filenames.ENDINGS`
    signatures: tuple[bytes, ...] = ()


UNSUPPORTED = (
    Unsupported("Photoshop", "psd psb", (b"8BPS",)),
    Unsupported("EPS", "eps ps epsf", (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    Unsupported("Illustrator", "ai"),
    Unsupported("SVG", "svg svgz"),
    Unsupported("Targa", "tga icb vda vst"),
    Unsupported("Windows icon", "ico cur", (b"\x00\x00\x01\x00", b"\x00\x00\x02\x00")),
    Unsupported("Apple icon", "icns", (b"icns",)),
    Unsupported("DirectDraw", "dds", (b"DDS ",)),
    Unsupported("GIMP", "xcf gbr", (b"gimp xcf",)),
    Unsupported("Krita", "kra"),
    Unsupported("MNG or JNG", "mng jng", (b"\x8aMNG", b"\x8bJNG")),
    Unsupported("FITS", "fits fit fts", (b"SIMPLE  =",)),
    Unsupported("OpenEXR", "exr", (b"v/1\x01",)),
    Unsupported("Radiance", "hdr rgbe", (b"#?RADIANCE",)),
    Unsupported("JPEG XL", "jxl", (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    Unsupported("JPEG XR", "jxr wdp hdp", (b"II\xbc\x01",)),
    Unsupported("QOI", "qoi", (b"qoif",)),
    Unsupported("PCX", "pcx dcx"),
    Unsupported("SGI", "sgi rgb rgba bw", (b"\x01\xda",)),
    Unsupported("Sun raster", "ras sun", (b"\x59\xa6\x6a\x95",)),
    Unsupported("X11", "xbm xpm", (b"/* XPM",)),
    Unsupported("Windows metafile", "wmf emf", (b"\xd7\xcd\xc6\x9a", b"\x01\x00\x00\x00")),
    Unsupported("PAM", "pam", (b"P7",)),
    Unsupported("DjVu", "djvu djv", (b"AT&TFORM",)),
    Unsupported("DICOM", "dcm"),
    Unsupported("FlashPix", "fpx mic"),
    Unsupported("PhotoCD", "pcd"),
    Unsupported("Pixar", "pxr", (b"\x80\xe8\x00\x00",)),
    Unsupported("FLIC", "fli flc"),
    Unsupported("game texture", "blp ftc ftu ktx ktx2 wal", (b"BLP", b"FTEX")),
    Unsupported("IM", "im"),
    Unsupported("MSP", "msp", (b"DanM", b"LinS")),
    Unsupported("CorelDRAW", "cdr"),
    Unsupported("Affinity", "afphoto afdesign"),
    Unsupported("Procreate", "procreate"),
    Unsupported("Clip Studio", "clip"),
)

IN_PARTS: dict[Kind, tuple[str, str]] = {
    "PDF": ("one PDF document", "PDF documents"),
    "MESH": ("one 3-D model", "3-D models"),
    "VIDEO": ("one video", "videos"),
}
"""Formats whose files are read a part at a time and seen as several things, and what one and many files are called."""

_FORMATS = {found.kind: found for found in FORMATS}
_KIND_OF_EXTENSION: dict[str, Kind] = {
    extension: found.kind for found in FORMATS for extension in found.extensions.split()
}
_UNSUPPORTED_EXTENSIONS: dict[str, str] = {
    extension: found.name for found in UNSUPPORTED for extension in found.extensions.split()
}
_USUAL = {extension: found.same.split()[0] for found in FORMATS for extension in found.same.split()}


def format_of(kind: Kind) -> Format:
    """The line of the table."""
    return _FORMATS[kind]


def usual_extension(extension: str) -> str:
    """An extension as it is usually written: `jpg` for `jpeg`."""
    return _USUAL.get(extension, extension)


def true_extension(kind: str | None, name: str) -> str:
    """The extension that a file of this format should have: that of `name` if it is one of the format's, else its
    first. Of an unknown format, that of `name` if pictures have it, else none."""
    own = _extension(name)
    extensions = next((found.extensions.split() for found in FORMATS if found.kind == kind), None)
    if extensions is None:
        return own if own in _KIND_OF_EXTENSION else ""
    return own if own in extensions else extensions[0]


def is_installed(found: Format) -> bool:
    """Whether what a format needs beside the core, if anything, is there."""
    return found.module is None or importlib.util.find_spec(found.module) is not None


def missing_extra(kind: Kind) -> str:
    """What to say where it is not."""
    found = _FORMATS[kind]
    return f"{found.label} needs an optional package: pip install 'clipsearch[{found.extra}]'"


def _kind_by_name(name: str) -> Kind | None:
    return _KIND_OF_EXTENSION.get(_extension(name))


def _extension(name: str) -> str:
    """The lower-case extension of a file name, without its dot; "" for `.name` and `name`."""
    return os.path.splitext(name)[1][1:].lower()  # noqa: PTH122  pathlib is far slower, and this runs per file


def classify_name(name: str) -> tuple[SkipStatus, str] | None:
    """Return None for a file worth opening, else the status and reason to record for it.

    Worth opening are the extensions of all formats that clipsearch reads, with or without the extras, and
    names without an extension, whose bytes must tell.
    """
    if name.startswith("._"):
        return "not_a_picture", "it holds macOS attributes of another file"
    extension = _extension(name)
    if extension in _KIND_OF_EXTENSION:
        return None
    if extension in _UNSUPPORTED_EXTENSIONS:
        return "unsupported_format", f"{_UNSUPPORTED_EXTENSIONS[extension]} files are not supported"
    if extension:
        return "not_a_picture", f"not a picture, judging by its name (.{extension})"
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
    """Whether a file of this name is worth opening as a picture."""
    return classify_name(name) is None and not is_in_parts(name)


def is_video_name(name: str) -> bool:
    """Whether a file is a video by its name."""
    return _kind_by_name(name) == "VIDEO"


def is_in_parts(name: str) -> bool:
    """Whether a file is, by its name, one that is read a part at a time: see IN_PARTS."""
    return _kind_by_name(name) in IN_PARTS


def parts_kind(name: str) -> Kind | None:
    """Which of IN_PARTS a file is by its name."""
    kind = _kind_by_name(name)
    return kind if kind in IN_PARTS else None


def extra_is_installed(name: str) -> bool:
    """Whether what a file of this name needs beside the core, if anything, is there."""
    kind = _kind_by_name(name)
    return kind is None or is_installed(_FORMATS[kind])


def identify(head: bytes, name: str) -> Kind | None:
    """Return the format of a file from its first HEAD_BYTES, or None where it is none that clipsearch reads.

    `name` only tells a RAW file from the TIFF that most of them pretend to be.
    """
    for found in FORMATS:
        if head.startswith(found.signatures) or (found.test is not None and found.test(head, name)):
            return found.kind
    return None


POINTER = "a pointer of Git LFS or git-annex to a picture that is not here"
_POINTERS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
    b"/annex/objects/",
)


def classify_unidentified(head: bytes, name: str) -> tuple[SkipStatus, str]:
    """Return the status and reason of a file that `identify` did not know."""
    if head.startswith(_POINTERS) or b".git/annex/objects/" in head[:512]:
        return "not_a_picture", POINTER
    by_name = classify_name(name)
    if by_name is not None and by_name[0] == "unsupported_format":
        return by_name  # first, since Targa files start like Windows icons
    for found in UNSUPPORTED:
        if head.startswith(found.signatures):
            return "unsupported_format", f"{found.name} files are not supported"
    if b"<svg" in head[:1024]:
        return "unsupported_format", "SVG files are not supported"
    return "not_a_picture", "its content is not in a known picture format"
