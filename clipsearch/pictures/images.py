"""Picture files to pixels: read once, recognised by their bytes, upright, sRGB, on white, resized as a model wants.

Every failure becomes an UnreadablePicture with a status and a reason. Decoders are imported when first needed.
This module knows neither indexes nor worker processes; `clipsearch.pictures.pool` runs it in some.
"""

from __future__ import annotations

import errno
import importlib
import io
import math
import os
import re
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import xxhash
from PIL import Image, ImageChops, ImageFile

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures import animation, holes, meshes, pdf, repair, tiff, video
from clipsearch.pictures.appearance import NOT_SEEN, Appearance, appearance, appearance_of_model
from clipsearch.pictures.formats import (
    HEAD_BYTES,
    IN_PARTS,
    TIFF_SIGNATURES,
    Kind,
    classify_name,
    classify_unidentified,
    format_of,
    identify,
    is_candidate,
    is_in_parts,
    is_installed,
    missing_extra,
)
from clipsearch.pictures.gamma import profile_of, said_of_colours
from clipsearch.pictures.lineage import Stored
from clipsearch.pictures.metadata import (
    Embedded,
    Exif,
    describe,
    orientation_of,
    read_blocks,
    read_embedded,
    read_exif,
    read_tiff_exif,
)
from clipsearch.pictures.metadata.stripping import (
    gif_without_comments,
    png_without_pixels,
    without_bad_metadata,
    without_items,
)
from clipsearch.pictures.motion import clip_start
from clipsearch.query.crops import Crop, OutsidePicture
from clipsearch.records import (
    MOST_PIECES,
    OUT_OF_MEMORY,
    TRAITS,
    Line,
    PictureMetadata,
    PixelArray,
    Preprocessing,
    SkipStatus,
)

__all__ = [
    "MAX_PIXELS",
    "Picture",
    "PictureFile",
    "as_file",
    "classify_name",
    "is_candidate",
    "open_picture",
    "piece_boxes",
    "prepare",
    "read_picture",
    "see",
    "view_boxes",
]

# 2^28 pixels are 1 GiB at Pillow's 4 bytes each, and up to 2.5 GiB while alpha is composited. Phones make
# 200-megapixel pictures. A JPEG that is decoded at a reduced size may declare four times as many.
MAX_PIXELS = 2**28
_MAX_DRAFT_FACTOR = 4

A_PART_OF: dict[Kind, str] = {"VIDEO": "a video", "PDF": "a PDF document", "MESH": "a 3-D model"}
_DOCUMENT, _SCREENSHOT = (1 << TRAITS.index(trait) for trait in ("document", "screenshot"))
_SAVED_AS_SEEN = ("JPEG", "PNG", "WEBP")  # by most programs: with the colours that they show
_WITH_CLIPS = ("JPEG", "HEIF", "AVIF")  # of motion photos
_BESIDE_UNREAD = "a file beside it, which may have more metadata, cannot be read"

# A picture longer than this, long side to short side, is seen in pieces; see `piece_boxes`.
LONG_ASPECT = 2.2
_PIECE_STEP = 0.75  # of the short side, from one piece to the next

_IN_MEMORY_BYTES = 256 * 2**20  # larger files are hashed in chunks and decoded from the disk
_CHUNK_BYTES = 4 * 2**20

# A JPEG is decoded at 1/2, 1/4 or 1/8 as long as twice the resized size is left. Against decoding in full,
# 12-megapixel photographs for a 256-pixel model (five sources, both chroma samplings, quality 90) differ by:
#   factor 1: mean 0.6-1.4, 99th percentile 4-9, maximum 21 of 255;  ~27 ms
#   factor 2: mean 0.23-0.37, 99th percentile 1-2, maximum 5;        ~35 ms
#   factor 3: mean 0.12-0.14, 99th percentile 1, maximum 2;          ~58 ms
#   in full: 0;                                                     ~140 ms
_DRAFT_FACTOR = 2

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom
_Transform = Any  # PIL.ImageCms.ImageCmsTransform, imported only for pictures with a profile


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture ready for an encoder. Shapes: pieces (K, H, W, 3) uint8 RGB; width and height are the file's, upright.

    There is one piece, the whole picture, unless more were asked for and the picture is long: see `piece_boxes`.
    """

    pieces: PixelArray
    width: int
    height: int
    metadata: PictureMetadata
    content_hash: str | None  # xxh3-128 of the file's bytes, hexadecimal; None where not asked for
    partial: str | None = None  # what is missing of the picture, in words; None where nothing is
    beside_unread: bool = False  # a file beside it that may say more could not be read
    appearance: Appearance = NOT_SEEN
    is_tiled: bool = False  # whether the pieces are the whole picture and its tiles: see `view_boxes`

    @property
    def pixels(self) -> PixelArray:
        """The first piece. Shape: (H, W, 3)."""
        pixels: PixelArray = self.pieces[0]
        return pixels


@dataclass(slots=True)
class _Decoded:
    """An upright RGB image, perhaps smaller than the file's (`box` is then the part of it that is the picture)."""

    image: Image.Image
    full_size: Size
    box: Box | None
    to_srgb: _Transform | None  # to be applied after resizing, which is cheaper and looks the same
    embedded: Embedded
    partial: str | None = None


class Beside(NamedTuple):
    """What a file holds beside the picture that is seen of it."""

    has_more_pictures: bool = False  # pages, frames of an animation
    is_deep: bool = False  # more than 8 bits a colour
    is_raw: bool = False  # what a sensor saw
    is_for_print: bool = False  # its colours are those of inks
    has_second_picture: bool = False  # behind a JPEG: the other half of a stereo picture, a gain map; no preview


_PNG_DEPTH_AT = 24
_SEPARATED = 5  # photometric interpretation (TIFF 6.0)
_PICTURES_OF_MPO = 0xB002  # CIPA DC-007


def read_picture(
    path: str | os.PathLike[str],
    preprocessing: Preprocessing,
    *,
    max_pixels: int = MAX_PIXELS,
    content_hash: bool = True,
    content: bytes | None = None,
    pieces: bool = False,
    crop: Crop | None = None,
    views: int = 1,
) -> Picture:
    """Read, decode and prepare the picture at `path`; or `content`, the bytes of a picture file called `path`.

    `pieces`, `crop`, `views`: see `PictureFile.decode`. Raises: UnreadablePicture, whatever is wrong with the file.
    """
    with PictureFile(path, content) as file:
        hashed = file.content_hash() if content_hash else None
        return file.decode(
            preprocessing, max_pixels=max_pixels, content_hash=hashed, pieces=pieces, crop=crop, views=views
        )


def open_picture(
    path: str | os.PathLike[str],
    *,
    longest: int | None = None,
    max_pixels: int = MAX_PIXELS,
    content: bytes | None = None,
    time_s: float = 0.0,
) -> Image.Image:
    """Return the picture at `path` upright in sRGB, with its longer side at most `longest` pixels.

    The image carries no metadata of the file. `content`: as for `read_picture`. `time_s`: of a video, the moment that
    is shown; of a document, the number of the page. Raises: UnreadablePicture.
    """
    with PictureFile(path, content) as file:
        return file.open(longest=longest, max_pixels=max_pixels, time_s=time_s)


def prepare(image: Image.Image, preprocessing: Preprocessing) -> PixelArray:
    """Return what open_clip's inference transform makes of `image`, before scaling and normalising.

    Shape: (H, W, 3) uint8. Pixel-identical to open_clip's for RGB images; other modes are converted first,
    alpha on white. EXIF orientation is not applied.
    """
    rgb, to_srgb = _to_rgb(image)
    return _resize_and_crop(_Decoded(rgb, image.size, None, to_srgb, Embedded()), preprocessing)


def see(image: Image.Image, preprocessing: Preprocessing, views: int = 1) -> tuple[PixelArray, bool]:
    """What an encoder is given of an image that somebody has opened: upright, a long one in pieces, any other in
    `views`; and whether it is tiled.

    Shape: (K, H, W, 3) uint8. Raises: UnreadablePicture.
    """
    with _reading(image):
        rgb, to_srgb = _to_rgb(image)
        upright, _ = _turn_upright(rgb, None, orientation_of(read_exif(image), 1))
        decoded = _Decoded(upright, upright.size, None, to_srgb, Embedded())
        boxes, is_tiled = _parts(upright.size, True, views)
        parts = [_piece(decoded, box, exact=is_tiled) for box in boxes] if boxes else [decoded]
        return np.stack([_resize_and_crop(part, preprocessing) for part in parts]), is_tiled


def as_file(image: Image.Image) -> bytes:
    """A picture file of an image that somebody has opened: `see` sees the same in it. Raises: as `see`."""
    file = io.BytesIO()
    with _reading(image):
        exif = image.getexif()
        if image.mode in ("CMYK", "LAB", "I", "F", "YCbCr"):
            image.save(file, "TIFF", exif=exif)
        elif image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            image.save(file, "PNG", compress_level=1, exif=exif, icc_profile=profile_of(image))
        else:  # no file has it
            _to_rgb(image)[0].save(file, "PNG", compress_level=1, exif=exif, icc_profile=profile_of(image))
    return file.getvalue()


def name_of(image: Image.Image) -> str:
    """What to call an image that somebody has opened."""
    return str(getattr(image, "filename", "") or "the image")


@contextmanager
def _reading(image: Image.Image) -> Iterator[None]:
    """Turn whatever is wrong with an image that somebody has opened into an UnreadablePicture."""
    if not image.width or not image.height:
        raise UnreadablePicture(name_of(image), "empty", "the image has no pixels")
    try:
        yield
    except Exception as error:
        raise UnreadablePicture(name_of(image), *_classify_error(error, "image", None)) from error


class PictureFile:
    """A picture file, opened once for its content hash and its pixels.

    Opening looks at the first bytes only; what is not a picture is not read further. With `content`, the bytes of
    a picture file, nothing is opened and `path` is only its name. Raises: UnreadablePicture, from every method.
    """

    def __init__(self, path: str | os.PathLike[str], content: bytes | None = None) -> None:
        self.path = os.fspath(path)
        self._stream: IO[bytes] = self._open_regular() if content is None else io.BytesIO(content)
        self._hash: str | None = None
        self._is_on_disk = content is None
        try:
            with self._reporting_errors("file"):
                self.size_bytes = os.fstat(self._stream.fileno()).st_size if content is None else len(content)
                head = self._stream.read(HEAD_BYTES)
            if not head:
                raise UnreadablePicture(self.path, "empty", "the file is empty")
            name = os.path.basename(self.path)  # noqa: PTH119
            kind = identify(head, name)
            if kind is None:
                raise UnreadablePicture(self.path, *classify_unidentified(head, name))
            if kind in IN_PARTS and not (is_in_parts(name) or is_installed(format_of(kind))):
                raise UnreadablePicture(self.path, "not_a_picture", A_PART_OF[kind])
            self.kind: Kind = kind
            self._head: bytes | None = head
        except BaseException:
            self.close()
            raise

    def _open_regular(self) -> IO[bytes]:
        """Open the path if it is a regular file. Anything else is not opened: a FIFO would block forever."""
        with self._reporting_errors("file"):
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # noqa: PTH116
                raise UnreadablePicture(self.path, "unreadable", "not a regular file")
            # O_NONBLOCK in case it became a FIFO since; without effect on regular files.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            return os.fdopen(os.open(self.path, flags), "rb")

    def close(self) -> None:
        """Let go of the file and its bytes."""
        self._stream.close()
        self._head = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def content_hash(self) -> str:
        """Return the xxh3-128 of the file's bytes, hexadecimal. Reads a file of ordinary size into memory."""
        if self._hash is None:
            if self.kind not in IN_PARTS:  # which are read from the disk, a part at a time
                self._read()
            hasher = xxhash.xxh3_128()
            with self._reporting_errors("file"):
                self._stream.seek(0)
                if isinstance(self._stream, io.BytesIO):
                    hasher.update(self._stream.getbuffer())
                else:
                    while chunk := self._stream.read(_CHUNK_BYTES):
                        hasher.update(chunk)
            self._hash = hasher.hexdigest()
        return self._hash

    def decode(
        self,
        preprocessing: Preprocessing,
        *,
        max_pixels: int = MAX_PIXELS,
        content_hash: str | None = None,
        pieces: bool = False,
        crop: Crop | None = None,
        views: int = 1,
        look: bool = False,
    ) -> Picture:
        """Decode the picture for an image tower. Draft-mode JPEG decoding: see _DRAFT_FACTOR.

        `pieces`: return a long picture in several, rather than its middle. `crop`: return this part of it, as if it
        were a picture of its own. `views`: return the whole and its tiles, if more than one. `look`: also say what its
        pixels say. Of a video, its first frame; of a document, its first page.
        """
        if self.kind in IN_PARTS and crop is not None:
            raise UnreadablePicture(
                self.path, "unreadable", f"you can search with a part of a picture, not of {A_PART_OF[self.kind]}"
            )
        if self.kind in IN_PARTS:
            first = self.frame_at(0.0, preprocessing)
            metadata, beside_unread = self.metadata()
            return replace(first, metadata=metadata, content_hash=content_hash, beside_unread=beside_unread)
        self._read()
        with self._reporting_errors(self.kind), _without_pillows_pixel_cap():
            decoded = _decode(self._stream, self.kind, _wanted(preprocessing, pieces, crop, views), max_pixels)
            boxes, is_tiled = _boxes(decoded.full_size, pieces, crop, views)
            if boxes:
                parts = [_piece(decoded, box, exact=crop is not None or is_tiled) for box in boxes]
                seen = np.stack([_resize_and_crop(part, preprocessing) for part in parts])
            else:
                seen = _resize_and_crop(decoded, preprocessing)[None]
        width, height = decoded.full_size
        embedded = decoded.embedded + read_blocks(self.kind, self._stream)
        beside_unread = False
        try:
            metadata = describe(embedded, self.path, beside=self._is_on_disk)
        except OSError:
            beside_unread = True
            metadata = describe(embedded, self.path, beside=False)
        looks = NOT_SEEN
        if look:
            with suppress(Exception):  # of these measures none is worth a picture
                looks = _look_at(decoded, self.path, metadata)
            if self.kind in _WITH_CLIPS and clip_start(_content(self._stream, 0)) is not None:
                looks = replace(looks, traits=looks.traits | 1 << TRAITS.index("motion"))
        return Picture(seen, width, height, metadata, content_hash, decoded.partial, beside_unread, looks, is_tiled)

    def describe(
        self, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS, pieces: bool = False
    ) -> PictureMetadata:
        """What `decode` would say of the picture, without decoding it: of most formats, its beginning is read.

        Only a file whose metadata is damaged is decoded all the same.
        """
        if self.kind in IN_PARTS:
            metadata, unread = self.metadata()
            if unread:
                raise UnreadablePicture(self.path, "unreadable", _BESIDE_UNREAD)
            return metadata
        try:
            with self._reporting_errors(self.kind), _without_pillows_pixel_cap():
                embedded = _read_metadata(self._stream, self.kind, _wanted(preprocessing, pieces))
                embedded += read_blocks(self.kind, self._stream)
        except UnreadablePicture as error:
            if error.status in ("unreadable", "missing_extra"):
                raise
            picture = self.decode(preprocessing, max_pixels=max_pixels, pieces=pieces)
            if picture.beside_unread:
                raise UnreadablePicture(self.path, "unreadable", _BESIDE_UNREAD) from None
            return picture.metadata
        try:
            return describe(embedded, self.path, beside=self._is_on_disk)
        except OSError as error:
            raise UnreadablePicture(self.path, "unreadable", _BESIDE_UNREAD) from error

    def read_part(
        self, preprocessing: Preprocessing, *, start_s: float, most: int, look: bool = False
    ) -> tuple[video.Part, PixelArray, list[Appearance]]:
        """Some frames of a video after `start_s`, as an encoder is given them, and what their pixels say.

        Shape: (F, H, W, 3) uint8.
        """
        with self._reading_part():
            shortest = _DRAFT_FACTOR * max(preprocessing.width, preprocessing.height)
            part = video.read_part(self._stream, start_s=start_s, most=most, shortest=shortest)
        decoded = [_Decoded(frame.image, part.full_size, None, None, Embedded()) for frame in part.frames]
        looks = []
        for one in decoded if look else ():
            with suppress(Exception):  # what pixels say is an extra: without it the frame is found all the same
                looks.append(_look_at(one, "", PictureMetadata()))
                continue
            looks.append(NOT_SEEN)
        empty = np.empty((0, preprocessing.height, preprocessing.width, 3), np.uint8)
        pixels = [_resize_and_crop(one, preprocessing) for one in decoded]
        return part, np.stack(pixels) if pixels else empty, looks

    def read_pages(
        self, preprocessing: Preprocessing, *, after: int, most: int
    ) -> tuple[pdf.PagesRead, PixelArray, list[Appearance]]:
        """Some pages of a document, or angles of a 3-D model, after one, as an encoder is given them, and what their
        pixels say.

        Shape: (F, H, W, 3) uint8. Raises: UnreadablePicture.
        """
        with self._reading_part():
            shortest = _DRAFT_FACTOR * max(preprocessing.width, preprocessing.height)
            own: list[PixelArray] = []
            if self.kind == "MESH":
                read, own = meshes.read_angles(
                    self._stream, self.path, beside=self._is_on_disk, after=after, most=most, shortest=shortest
                )
            else:
                read = pdf.read_pages(self._stream, after=after, most=most, shortest=shortest)
        decoded = [_Decoded(page.image, page.size, None, None, Embedded()) for page in read.pages]
        looks = [_look_of_page(one) for one in decoded] if self.kind == "PDF" else [*map(appearance_of_model, own)]
        empty = np.empty((0, preprocessing.height, preprocessing.width, 3), np.uint8)
        pixels = [_resize_and_crop(one, preprocessing) for one in decoded]
        return read, np.stack(pixels) if pixels else empty, looks

    def read_text(self, number: int) -> tuple[list[Line], list[Line], Size]:
        """The lines of the text layer of a page of a document, those of its forms and notes, and its size. Raises:
        UnreadablePicture."""
        with self._reading_part():
            return pdf.read_lines(self._stream, number)

    def metadata(self) -> tuple[PictureMetadata, bool]:
        """What is known of a video or document, and whether a file beside it that may say more could not be read."""
        embedded = Embedded(self.kind)
        if self.kind != "MESH":  # which says nothing of itself
            with suppress(UnreadablePicture), self._reading_part():
                read_said = video.read_said if self.kind == "VIDEO" else pdf.read_said
                embedded = Embedded(self.kind, (read_said(self._stream),))
        try:
            return describe(embedded, self.path, beside=self._is_on_disk), False
        except OSError:
            return describe(embedded, self.path, beside=False), True

    def subtitles(self) -> list[Line] | None:
        """What is said in the subtitles inside a video; None where it has none."""
        with self._reading_part():
            return video.read_subtitles(self._stream)

    @contextmanager
    def _reading_part(self) -> Iterator[None]:
        """The stream as it is: what is read in parts is not brought into memory. Raises: UnreadablePicture."""
        if not is_installed(format_of(self.kind)):
            raise UnreadablePicture(self.path, "missing_extra", missing_extra(self.kind))
        with self._reporting_errors({"VIDEO": "video", "MESH": "model"}.get(self.kind, "document")):
            try:
                yield
            except (video.VideoError, pdf.PdfError, meshes.MeshError) as error:
                raise UnreadablePicture(self.path, error.status, error.reason) from error

    def frame_at(self, time_s: float, preprocessing: Preprocessing) -> Picture:
        """What a video or an animated picture shows at a moment, a document on a page, a model from an angle: to an
        encoder, what an index of it has seen."""
        if self.kind in ("PDF", "MESH"):
            number = max(1, int(time_s))
            read, seen, _ = self.read_pages(preprocessing, after=number - 1, most=1)
            if [page.number for page in read.pages] == [number]:  # not one that is blank
                return Picture(seen, *read.pages[0].size, PictureMetadata(self.kind), None)
        if self.kind not in IN_PARTS:
            image = self._animated_at(time_s)
            size = image.size
        else:
            image, size = self._part_at(time_s, _wanted(preprocessing, False))
        seen = _resize_and_crop(_Decoded(image, size, None, None, Embedded()), preprocessing)[None]
        return Picture(seen, *size, PictureMetadata(self.kind), None)

    def _part_at(self, place: float, fit: Callable[[Size], Size]) -> tuple[Image.Image, Size]:
        """What a video shows at a moment, a document on a page, a model from an angle, and its own size.

        Raises: UnreadablePicture."""
        with self._reading_part():
            if self.kind == "VIDEO":
                return video.frame_at(self._stream, place, fit=fit)
            if self.kind == "MESH":
                return meshes.angle_at(self._stream, self.path, int(place), beside=self._is_on_disk, fit=fit)
            return pdf.page_at(self._stream, int(place), fit=fit)

    @contextmanager
    def _opened_animation(self) -> Iterator[ImageFile.ImageFile]:
        """The picture, if it is animated. Raises: UnreadablePicture."""
        self._read()
        with self._reporting_errors(self.kind), _without_pillows_pixel_cap():
            self._stream.seek(0)
            with _open_image(self._stream, self.kind) as image:
                yield image

    @property
    def is_animated(self) -> bool:
        """Whether it is an animated picture, whose frames `read_frames` gives."""
        if self.kind not in animation.KINDS:
            return False
        with suppress(UnreadablePicture), self._opened_animation() as image:
            return animation.is_animated(image)
        return False

    def read_frames(
        self, preprocessing: Preprocessing, *, most: int
    ) -> tuple[list[float], float, PixelArray, list[Appearance]]:
        """Some frames of an animated picture: when they are shown, in seconds, how long it is, how an encoder is given
        them, and what their pixels say. Shape: (F, H, W, 3) uint8. Raises: UnreadablePicture."""
        with self._opened_animation() as image:
            orientation = image.getexif().get(0x0112, 1)

            def see() -> tuple[PixelArray, Appearance]:
                upright = _upright_frame(image, orientation)
                decoded = _Decoded(upright, upright.size, None, None, Embedded())
                look = NOT_SEEN
                with suppress(Exception):  # what pixels say is an extra: without it the frame is found all the same
                    look = _look_at(decoded, "", PictureMetadata())
                return _resize_and_crop(decoded, preprocessing), look

            found, duration_s = animation.spread(image, see, most)
        pixels = np.stack([seen for _, (seen, _) in found])
        return [start_s for start_s, _ in found], duration_s, pixels, [look for _, (_, look) in found]

    def _animated_at(self, time_s: float) -> Image.Image:
        """What an animated picture shows at a moment, upright. Raises: UnreadablePicture."""
        with self._opened_animation() as image:
            orientation = image.getexif().get(0x0112, 1)
            animation.seek_moment(image, time_s)
            return _upright_frame(image, orientation)

    def open(self, *, longest: int | None = None, max_pixels: int = MAX_PIXELS, time_s: float = 0.0) -> Image.Image:
        """Decode the picture for people: see `open_picture`."""
        return self.open_sized(longest=longest, max_pixels=max_pixels, time_s=time_s)[0]

    def open_sized(
        self, *, longest: int | None = None, max_pixels: int = MAX_PIXELS, time_s: float = 0.0
    ) -> tuple[Image.Image, Size]:
        """The same, and the size of the whole picture."""

        def fit(size: Size) -> Size:
            scale = 1.0 if longest is None else min(1.0, longest / max(size))
            return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

        if self.kind in IN_PARTS:
            return self._part_at(time_s, fit)
        if time_s > 0 and self.kind in animation.KINDS:
            shown = self._animated_at(time_s)
            return shown.resize(fit(shown.size), Image.Resampling.LANCZOS, reducing_gap=2.0), shown.size
        self._read()
        with self._reporting_errors(self.kind), _without_pillows_pixel_cap():
            decoded = _decode(self._stream, self.kind, fit, max_pixels)
            image, size = decoded.image, fit(decoded.full_size)
            if size != image.size:
                image = image.resize(size, Image.Resampling.LANCZOS, box=decoded.box, reducing_gap=2.0)
            image = _apply(decoded.to_srgb, image)
        image.info.clear()
        return image, decoded.full_size

    def stored(self) -> Stored:
        """The picture as the file has it: not turned, and in its own colours, where that is what was saved."""
        if self.kind not in _SAVED_AS_SEEN:
            return Stored(self.open())
        self._read()
        with self._reporting_errors(self.kind), _without_pillows_pixel_cap():
            self._stream.seek(0)
            image: Any = _open_image(self._stream, self.kind)
            profile = image.info.get("icc_profile")
            if self.kind != "JPEG":
                image.load()
                return Stored(image, profile=profile)
            from PIL.JpegImagePlugin import get_sampling

            tables = tuple(tuple(image.quantization[number]) for number in sorted(image.quantization))
            sampling = 0 if image.mode == "L" else get_sampling(image)
            image.load()
            return Stored(image, tables, sampling, profile)

    def beside(self) -> Beside:
        """What the file holds beside the picture that is seen of it. Raises: UnreadablePicture."""
        self._read()
        with self._reporting_errors(self.kind), _without_pillows_pixel_cap():
            self._stream.seek(0)
            if self.kind in IN_PARTS:
                return Beside(has_more_pictures=True)
            if self.kind in ("TIFF", "RAW"):
                directories = tiff.read_directories(self._stream) if _is_tiff(self._stream) else []
                if self.kind == "RAW" or tiff.shows_raw(directories):
                    return Beside(is_deep=True, is_raw=True)
                whole = [page for page in directories if page.is_picture]
                bits = [bit for page in directories for bit in page.tags.get(258, ())]
                is_for_print = any(page.photometric == _SEPARATED for page in whole)
                return Beside(len(whole) > 1, max(bits, default=1) > 8, is_for_print=is_for_print)
            image: Any = _open_image(self._stream, self.kind)
            is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or image.info.get("bit_depth", 8) > 8
            if self.kind == "PNG":
                self._stream.seek(_PNG_DEPTH_AT)
                is_deep = self._stream.read(1) == b"\x10"
            entries = ((image._getmp() or {}) if self.kind == "JPEG" else {}).get(_PICTURES_OF_MPO, ())
            pictures = [entry for entry in entries if not entry["Attribute"]["MPType"].startswith("Large Thumbnail")]
            has_more = bool(getattr(image, "is_animated", False))
            return Beside(has_more, is_deep, False, image.mode == "CMYK", len(pictures) > 1)

    def _read(self) -> None:
        """Bring the bytes of a file of ordinary size into memory."""
        with self._reporting_errors("file"):
            if self._head is not None and self.size_bytes <= _IN_MEMORY_BYTES:
                self._stream.seek(len(self._head))
                content = io.BytesIO(self._head + self._stream.read())
                self._stream.close()
                self._stream = content
            self._head = None
            self._stream.seek(0)

    @contextmanager
    def _reporting_errors(self, kind: str) -> Iterator[None]:
        """Turn whatever a decoder raises (they raise everything) into an UnreadablePicture."""
        try:
            yield
        except UnreadablePicture:
            raise
        except Exception as error:
            status, reason = _classify_error(error, kind, getattr(self, "_stream", None))
            raise UnreadablePicture(self.path, status, reason) from error


# Errors


class _Rejected(Exception):
    """A picture that is refused with a status, before its path is known."""

    def __init__(self, status: SkipStatus, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


def _classify_error(error: Exception, kind: str, stream: IO[bytes] | None) -> tuple[SkipStatus, str]:
    if isinstance(error, _Rejected):
        return error.status, error.reason
    message = " ".join(str(error).split())
    lower = message.lower()
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOENT:
            return "unreadable", "no such file"
        return "unreadable", (os.strerror(error.errno) if error.errno > 0 else message).lower()
    if isinstance(error, ValueError) and "null" in lower and kind == "file":
        return "unreadable", "no such file"
    if isinstance(error, MemoryError) or "out of memory" in lower:
        return "too_large", OUT_OF_MEMORY
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "too_large", message
    if kind in ("BMP", "DIB") and lower.startswith("unsupported") and stream is not None:
        with suppress(Exception):  # the header is damaged as well: the decoder's own words stay
            message = _compression_of_bmp(stream, kind) or message
    if isinstance(error, NotImplementedError) or lower.startswith(("unsupported", "unknown", "cannot handle")):
        return "unsupported_format", f"an unsupported kind of {kind}: {message[:120]}"
    cut = isinstance(error, EOFError) or "truncated" in lower
    if not cut and stream is not None:
        with suppress(Exception):  # the file is damaged, and so may be what this looks at
            cut = _ends_early(stream, kind)
    if cut:
        return "truncated", f"the {kind} ends before the picture does"
    return "corrupt", f"the {kind} is damaged: {message[:120] or type(error).__name__}"


_OS2_COMPRESSIONS = {3: "a fax code (OS/2)", 4: "runs of 24 bits (OS/2)"}
_BMP_COMPRESSIONS = {4: "JPEG", 5: "PNG", 11: "CMYK", 12: "CMYK in runs", 13: "CMYK in runs"}


def _compression_of_bmp(stream: IO[bytes], kind: str) -> str | None:
    """What to say of a BMP whose pixels are in a form that is not read; None where that is not known."""
    stream.seek(0 if kind == "DIB" else _BMP_FILE_HEADER)
    head = stream.read(20)
    size = int.from_bytes(head[:4], "little")
    is_os2 = 16 <= size <= 64 and size not in (40, 52, 56)
    if len(head) < 20 or (size < 40 and not is_os2):
        return None
    inside = (_OS2_COMPRESSIONS if is_os2 else _BMP_COMPRESSIONS).get(int.from_bytes(head[16:20], "little"))
    return None if inside is None else f"its pixels are stored as {inside}"


def _ends_early(stream: IO[bytes], kind: str) -> bool:
    """Whether a file whose decoding failed lacks its end, by what its format says of its length or last bytes."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    stream.seek(max(0, size - 65_536))
    tail = stream.read()
    if kind == "JPEG":
        return repair.is_jpeg_cut(_content(stream, _MOST_REPAIRED_BYTES))
    if kind == "PNG":
        return b"IEND" not in tail
    if kind == "GIF":
        return not tail.rstrip(b"\x00").endswith(b";")
    if kind == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if kind == "BMP":
        return int.from_bytes(head[2:6], "little") > size
    if kind == "JPEG2000" and head.startswith(b"\xff\x4f"):
        return b"\xff\xd9" not in tail
    if kind in ("AVIF", "HEIF", "JPEG2000"):
        return _last_box_ends_late(stream, size)
    return kind == "TIFF" and _strips_end_late(stream)


def _last_box_ends_late(stream: IO[bytes], size: int) -> bool:
    """Whether the outermost boxes of an ISO media file claim more bytes than there are."""
    start = 0
    while start + 8 <= size:
        stream.seek(start)
        header = stream.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0 means to the end; less than its own header is damage
            return False
        start += length
    return start > size


def _strips_end_late(stream: IO[bytes]) -> bool:
    """Whether a TIFF keeps its table of tags, a value of it, or a strip or tile, beyond the end of the file."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(8)
    table_at = int.from_bytes(head[4:8], "little" if head.startswith(b"II") else "big")
    if head[2:4] in (b"*\0", b"\0*") and table_at + 2 > size:
        return True
    for page in tiff.read_directories(stream):
        if page.is_cut:
            return True
        for offsets_tag, lengths_tag in ((273, 279), (324, 325)):
            pairs = zip(page.tags.get(offsets_tag, ()), page.tags.get(lengths_tag, ()), strict=False)
            if any(offset + length > size for offset, length in pairs):
                return True
    return False


_cap_lock = threading.Lock()
_cap_users = 0
_cap_of_process: int | None = None


@contextmanager
def _without_pillows_pixel_cap() -> Iterator[None]:
    """Let this module's pixel cap stand in for Pillow's, which is a global of the process and warns on stderr.

    Not None, which Pillow would take, too: it looks at the cap twice, and in another thread it may change in between.
    """
    global _cap_users, _cap_of_process
    with _cap_lock:
        if _cap_users == 0:
            _cap_of_process, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, sys.maxsize
        _cap_users += 1
    try:
        yield
    finally:
        with _cap_lock:
            _cap_users -= 1
            if _cap_users == 0:
                Image.MAX_IMAGE_PIXELS = _cap_of_process


def _check_pixels(size: Size, decoded: Size, max_pixels: int) -> None:
    """Refuse a picture by its declared size, before any memory is taken for it."""
    width, height = size
    if decoded[0] * decoded[1] > max_pixels or width * height > max_pixels * _MAX_DRAFT_FACTOR:
        raise _Rejected(
            "too_large",
            f"{width} x {height} is {width * height / 1e6:,.0f} megapixels, over the limit of {max_pixels / 1e6:,.0f}",
        )


# Decoding


def _decode(stream: IO[bytes], kind: Kind, wanted: Callable[[Size], Size], max_pixels: int) -> _Decoded:
    """Decode a whole file; a JPEG only as large as resizing it to wanted(upright size) needs.

    A file with faults is read as far as viewers read it: see `repair`.
    """
    if _is_tiff(stream):
        return _decode_tiff(stream, kind, wanted, max_pixels)
    if kind == "RAW":
        return _decode_raw(stream, wanted, max_pixels)
    try:
        stream.seek(0)
        if kind == "PPM" and stream.read(2) == b"PF":
            return _decode_colour_pfm(stream, max_pixels)
        if kind in ("BMP", "DIB") and (masks := _unusual_masks(stream, kind)):
            return _decode_bit_fields(stream, kind, masks, max_pixels)
        if kind in ("BMP", "DIB") and (bits := _bits_of_runs(stream, kind)):
            return _decode_runs(stream, kind, bits, max_pixels)
        stream.seek(0)
        with _open_image(stream, kind) as image:
            where = None if image.fp is not stream else _rows_as_they_are(image)
            decoded = _decode_image(image, kind, wanted, max_pixels)
            ends_grey = kind == "JPEG" and _ends_grey(image)
        decoded.partial = _missing(stream, kind, where, ends_grey=ends_grey)
        if kind == "JPEG" and decoded.partial == holes.CUT.format(kind):
            return _without_trailer(stream, decoded, wanted, max_pixels)
        return decoded
    except (_Rejected, MemoryError):
        raise
    except Exception as error:
        if kind == "JPEG" and (name := repair.unsupported_jpeg(_content(stream, _MOST_REPAIRED_BYTES))) is not None:
            raise _Rejected("unsupported_format", f"{name} is not supported") from error
        if kind == "JPEG" and (other := repair.with_height(_content(stream, _MOST_REPAIRED_BYTES))) is not None:
            return _decode(io.BytesIO(other), kind, wanted, max_pixels)
        if kind == "PNG" and _content(stream, HEAD_BYTES)[12:16] == b"CgBI":
            raise _Rejected("unsupported_format", "a PNG as in iPhone apps (CgBI) is not supported") from error
        # Perhaps only for its metadata.
        spared = without_bad_metadata(stream, kind)
        if spared is not None:
            with suppress(Exception), _open_image(spared, kind) as image:
                return _decode_image(image, kind, wanted, max_pixels)
        if kind in ("AVIF", "HEIF"):
            for other in without_items(_content(stream, _MOST_REPAIRED_BYTES)):
                with suppress(_Rejected, OSError, SyntaxError, ValueError, RuntimeError, EOFError):
                    with _open_image(io.BytesIO(other), kind) as image:
                        decoded = _decode_image(image, kind, wanted, max_pixels)
                    decoded.partial = _missing(stream, kind)
                    return decoded
        saved = _decode_what_is_left(stream, kind, wanted, max_pixels)
        if saved is None:
            raise
        decoded, complete = saved
        if not complete:
            cut = isinstance(error, EOFError) or "truncated" in str(error).lower() or _ends_early(stream, kind)
            decoded.partial = f"the {kind} ends before the picture does" if cut else f"parts of the {kind} are damaged"
        else:
            decoded.partial = _missing(stream, kind)
        return decoded


def _without_trailer(stream: IO[bytes], decoded: _Decoded, wanted: Callable[[Size], Size], max_pixels: int) -> _Decoded:
    """A JPEG that lacks its end, as it is without what was put there: of which a decoder makes more of the picture."""
    shorter = repair.without_trailer(_content(stream, _MOST_REPAIRED_BYTES))
    if shorter is not None:
        # Where it cannot be read without its trailer, what was decoded with it stays.
        with suppress(Exception), _open_image(io.BytesIO(shorter), "JPEG") as image:
            return replace(_decode_image(image, "JPEG", wanted, max_pixels), partial=decoded.partial)
    return decoded


def _rows_as_they_are(image: ImageFile.ImageFile) -> tuple[int, int, int] | None:
    """Where in a file that is not compressed the pixels start and end, and the bytes of a row."""
    if image.format not in ("BMP", "DIB", "PPM") or len(image.tile) != 1 or image.tile[0].codec_name != "raw":
        return None
    start, given = image.tile[0].offset, image.tile[0].args
    mode, stride = (given[0], given[1]) if isinstance(given, tuple) else (given, 0)
    bits = {"1": 1, "1;I": 1, "P;1": 1, "P;4": 4, "L": 8, "P": 8, "RGB": 24, "BGR": 24, "I;16B": 16}.get(str(mode), 32)
    row_bytes = stride or (image.width * bits + 7) // 8
    return start, start + row_bytes * image.height, row_bytes


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last pixel of a JPEG is what decoders show where there is no data."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return last == 128 or (isinstance(last, tuple) and set(last) <= {127, 128})


def _missing(
    stream: IO[bytes], kind: Kind, rows: tuple[int, int, int] | None = None, *, ends_grey: bool = False
) -> str | None:
    """What is missing of a picture although it could be decoded. Looks at files in memory only."""
    if not isinstance(stream, io.BytesIO):
        return None
    content = stream.getvalue()

    def decode(other: bytes) -> bytes | None:
        with suppress(Exception), _open_image(io.BytesIO(other), kind) as image:
            image.load()
            return image.tobytes()
        return None

    if rows is not None:
        if holes.rows_are_text(content, *rows[:2]):
            return holes.AS_TEXT.format(kind)
        is_damaged = holes.rows_have_hole(content, *rows) or holes.begins_again(content, *rows[:2], content[: rows[0]])
        return holes.DAMAGED.format(kind) if is_damaged else None
    return holes.missing_of(content, kind, decode, ends_grey=ends_grey)


def _wanted(
    preprocessing: Preprocessing, pieces: bool, crop: Crop | None = None, views: int = 1
) -> Callable[[Size], Size]:
    """How large a picture of some size must be decoded at least."""

    def wanted(size: Size) -> Size:
        try:
            boxes, _ = _boxes(size, pieces, crop, views)
        except _Rejected:  # said when the picture is decoded, which tells whether it can be
            boxes = []
        if not boxes:
            return _resized_size(size, preprocessing)
        scale_x, scale_y = 0.0, 0.0
        for left, top, right, bottom in boxes:
            own = (right - left, bottom - top)
            resized = _resized_size(own, preprocessing)
            scale_x, scale_y = max(scale_x, resized[0] / own[0]), max(scale_y, resized[1] / own[1])
        return max(1, round(size[0] * scale_x)), max(1, round(size[1] * scale_y))

    return wanted


def _boxes(size: Size, pieces: bool, crop: Crop | None, views: int) -> tuple[list[tuple[int, int, int, int]], bool]:
    """The parts of an upright picture that an encoder is given, in its pixels; none where it is given the whole. And
    whether they are the whole and its tiles: a long picture is seen in pieces all the same.

    Raises: _Rejected for a crop that is not inside the picture.
    """
    if crop is None:
        return _parts(size, pieces, views)
    try:
        left, top, right, bottom = crop.box(size)
    except OutsidePicture as error:
        raise _Rejected("unreadable", str(error)) from error
    within, is_tiled = _parts((right - left, bottom - top), pieces, views)
    moved = [(left + a, top + b, left + c, top + d) for a, b, c, d in within] or [(left, top, right, bottom)]
    return moved, is_tiled


def _parts(size: Size, pieces: bool, views: int) -> tuple[list[tuple[int, int, int, int]], bool]:
    boxes = piece_boxes(size) if pieces else []
    return (boxes, False) if boxes or views == 1 else (view_boxes(size), True)


def _read_metadata(stream: IO[bytes], kind: Kind, wanted: Callable[[Size], Size]) -> Embedded:
    """What stands in a file, by its header. As `_decode` finds it in files without faults."""
    if _is_tiff(stream):
        directories = tiff.read_directories(stream)
        stream.seek(8)
        if tiff.shows_raw(directories) or stream.read(2) == b"CR":
            return _read_raw_metadata(stream, wanted)
        if tiff.may_hide_raw(directories, stream.seek(0, os.SEEK_END)):
            with suppress(Exception):  # LibRaw takes it for something that it is not: then it is a TIFF
                return _read_raw_metadata(stream, wanted)
        if not directories:
            return read_embedded("TIFF", read_tiff_exif(stream))
        page = tiff.choose_page(directories)
        if page.compression != 6:
            return read_embedded("TIFF", _exif_of_pages(stream, page, directories))
        kind = "TIFF"
    if kind == "RAW":
        return _read_raw_metadata(stream, wanted)
    if kind in ("BMP", "DIB", "PPM"):
        return Embedded(kind)
    stream.seek(0)
    if kind == "PNG":
        small = png_without_pixels(stream)
        if small is None:
            raise EOFError
        with _open_image(small, kind) as image:
            image.load()
            return read_embedded(kind, read_exif(image), image.info)
    with _open_image(stream, kind) as image:
        return read_embedded(kind, read_exif(image), image.info)


_MOST_REPAIRED_BYTES = 2**30


def _decode_what_is_left(
    stream: IO[bytes], kind: Kind, wanted: Callable[[Size], Size], max_pixels: int
) -> tuple[_Decoded, bool] | None:
    """Decode a file that is refused as it is, and say whether the picture is complete. None where there is too little.

    A tenth of the rows is enough to show something. What is missing has one colour.
    """
    content = _content(stream, _MOST_REPAIRED_BYTES)
    if kind in ("AVIF", "HEIF"):
        for other in (content, repair.without_filled_end(content)):
            if other is not None and (found := _decode_coded(other, kind, wanted, max_pixels)) is not None:
                return found
        return None
    decoded: _Decoded | None = None
    repaired: repair.Repaired | None = None
    for bare in (False, True):
        repaired = _repaired(content, kind, max_pixels, bare)
        if repaired is None and kind not in ("GIF", "BMP", "DIB", "PPM"):
            return None
        try:
            with _open_image(io.BytesIO(content if repaired is None else repaired.content), kind) as image:
                decoded = _decode_image(image, kind, wanted, max_pixels, lenient=True)
            break
        except (_Rejected, MemoryError):
            raise
        except Exception:  # the error of the file as it was says more
            continue
    if decoded is None:
        return None
    complete = repaired is not None and repaired.complete
    complete = complete and decoded.partial is None
    if not complete:
        if kind == "GIF" and _is_interlaced_gif(content):
            decoded.image = _with_rows_between(decoded.image)
        elif repaired is not None and repaired.grid != (1, 1):
            decoded.image = _from_grid(decoded.image, *repaired.grid)
        top, bottom = _rows_there(decoded.image)
        if (bottom - top) * 10 < decoded.image.height:
            return None
        _paint_grey(decoded.image, top, bottom)
    return decoded, complete


# A decoder may refuse one or another. The first three differ in their first bits.
_FILLERS: tuple[bytes, ...] = (
    *(b"\0", b"\x55", b"\xff", b"\xaa", b"\x33"),
    *(b"\x92\x49\x24", b"\xe4\x1b\x93", b"\x6c\xb1\x27\xd8", b"\x0f\xd3\x5a\x86\x71"),
    *(b"\x9e\x04\xc7\x38\xeb\x52\x1d", b"\x43\xf8\x2d", b"\xb7\x61\x0c\x95\xde"),
)
_FILLINGS = {"AVIF": 4, "HEIF": 2}  # that are compared
_MORE_ROOM = 4096  # bytes, and as many as are missing
_BLOCK = 8  # pixels beside those that differ may be wrong by a filter
_NEXT_TO_NOTHING = 32  # bytes
_MOST_PADDING = 10  # times as much as there is of a file


def _decode_coded(
    content: bytes, kind: Kind, wanted: Callable[[Size], Size], max_pixels: int
) -> tuple[_Decoded, bool] | None:
    """Decode a file of video coding that is damaged, without its opacity where only that is, or where it is in the way.

    A HEIF has it behind its colours, an AVIF before them.
    """
    opacity = repair.opacity_in_boxes(content)
    if opacity >= 0:
        plain = content[:opacity] + b"free" + content[opacity + 4 :]
        item = int.from_bytes(content[opacity + 4 : opacity + 6], "big")
        end = repair.end_of_boxes(content)
        if all(
            stop <= len(content) for _, stop in holes.coded_extents(content, without=item)
        ) and end <= _MOST_PADDING * len(content):
            errors = (OSError, SyntaxError, ValueError, RuntimeError, EOFError)
            padded = io.BytesIO(plain + bytes(max(0, end - len(content))))
            # What cannot be read so either is refused below.
            with suppress(*errors), _open_image(padded, kind) as image:
                return _decode_image(image, kind, wanted, max_pixels), False
    else:
        plain = content
    saved = _decode_padded(content if kind == "AVIF" else plain, kind, wanted, max_pixels)
    return saved or (_decode_padded(plain, kind, wanted, max_pixels) if kind == "AVIF" and opacity >= 0 else None)


def _decode_padded(
    content: bytes, kind: Kind, wanted: Callable[[Size], Size], max_pixels: int
) -> tuple[_Decoded, bool] | None:
    """Decode a file of video coding that lacks its end, with several fillings: what all show alike is of the file."""
    end = repair.end_of_boxes(content)
    if not len(content) < end <= min(_MOST_REPAIRED_BYTES, _MOST_PADDING * len(content)):
        return None
    missing = end - len(content)
    next_to_nothing = missing <= max(_NEXT_TO_NOTHING, end // 50)
    roomier = repair.with_room_in_avif(content, end, missing + _MORE_ROOM) if kind == "AVIF" else None
    start, room = roomier or (content, 0)
    decoded: list[_Decoded] = []
    for filler in _FILLERS:
        padding = (filler * -(-(missing + room) // len(filler)))[: missing + room]
        try:
            with _open_image(io.BytesIO(start + padding), kind) as image:
                decoded.append(_decode_image(image, kind, wanted, max_pixels))
        except (_Rejected, MemoryError):
            raise
        except Exception:  # the error of the file as it was says more
            continue
        if len(decoded) == _FILLINGS[kind]:
            if kind == "AVIF" or next_to_nothing or _different(decoded[0].image, decoded[1].image) is not None:
                break
            decoded.pop()  # perhaps the next one tells what is missing
    if len(decoded) < (3 if kind == "AVIF" else 2) or len({one.image.size for one in decoded}) > 1:
        return None
    first = decoded[0].image
    boxes = [_different(first, other.image) for other in decoded[1:]]
    there = [box for box in boxes if box is not None]
    if not there:
        # What is missing does not show, or is no picture. A HEIC of which all show the same nothing is refused.
        nothing = Image.new(first.mode, first.size, (0, 0, 0) if kind == "AVIF" else first.getpixel((0, 0)))
        return None if ImageChops.difference(first, nothing).getbbox() is None else (decoded[0], False)
    lefts, tops, rights, bottoms = zip(*there, strict=True)
    around = _BLOCK if kind == "AVIF" else 0
    box = (
        max(0, min(lefts) - around),
        max(0, min(tops) - around),
        min(first.width, max(rights) + around),
        min(first.height, max(bottoms) + around),
    )
    if (box[2] - box[0]) * (box[3] - box[1]) * 10 > 9 * first.width * first.height:
        return None
    first.paste((128, 128, 128), box)
    return decoded[0], False


def _different(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of the pixels that are not alike in two pictures of a size."""
    return ImageChops.difference(one, other).point(lambda value: 255 * (value > 8)).getbbox()


def _repaired(content: bytes, kind: Kind, max_pixels: int, bare: bool) -> repair.Repaired | None:
    if kind == "JPEG":
        return repair.repair_jpeg(content, bare=bare)
    if kind == "PNG":
        return repair.repair_png(content, max_pixels * 8 + 2**24, bare=bare)
    if kind == "WEBP":
        return repair.repair_webp(content, bare=bare)
    if kind == "PPM":
        return repair.repair_pnm(content, max_pixels * 3)
    return repair.repair_jpeg2000(content, bare=bare) if kind == "JPEG2000" else None


def _is_interlaced_gif(content: bytes) -> bool:
    start = 13 + (3 << (content[10] & 7) + 1 if content[10] & 128 else 0)
    at = content.find(b",", start)
    return 0 <= at < len(content) - 9 and bool(content[at + 9] & 64)


def _with_rows_between(image: Image.Image) -> Image.Image:
    """Let the rows of an interlaced GIF that were not painted over be like the ones above them that were."""
    pixels = np.asarray(image)
    empty = (pixels == pixels[-1, -1]).all(axis=(1, 2))
    sources = np.arange(len(pixels))
    for step in (2, 4, 8):
        sources = np.where(empty[sources], sources // step * step, sources)
    return Image.fromarray(np.ascontiguousarray(pixels[sources]))


def _from_grid(image: Image.Image, across: int, down: int) -> Image.Image:
    """Let each pixel that is there, of every so many columns and rows one, stand for those that are not."""
    full = np.asarray(image)[::down, ::across].repeat(down, axis=0).repeat(across, axis=1)
    return Image.fromarray(np.ascontiguousarray(full[: image.height, : image.width]))


def _content(stream: IO[bytes], most_bytes: int) -> bytes:
    """The bytes of a file, without a copy where they are in memory."""
    if isinstance(stream, io.BytesIO):
        return stream.getvalue()
    stream.seek(0)
    return stream.read(most_bytes)


def _rows_there(image: Image.Image) -> tuple[int, int]:
    """Which rows a partly decoded picture has: those beside the ones of a single colour at one of its ends."""
    spans = []
    for corner in ((0, 0), (image.width - 1, image.height - 1)):
        colour = image.getpixel(corner)
        box = ImageChops.difference(image, Image.new(image.mode, image.size, colour)).getbbox()
        spans.append((0, 0) if box is None else (box[1], box[3]))
    return min(spans, key=lambda span: span[1] - span[0])


def _paint_grey(image: Image.Image, top: int, bottom: int) -> None:
    """Make the rows grey that are missing above `top` and below `bottom`, if they are black.

    The vectors of photographs of which half is missing are nearer to those of the whole ones: a cosine of 0.70 (black
    0.63, cut off 0.63); with a tenth missing 0.96 (0.94, 0.94). JPEG decoders do it themselves.
    """
    for first, last in ((0, top), (bottom, image.height)):
        if first < last and image.getpixel((0, first)) == image.getpixel((0, last - 1)) == (0, 0, 0):
            image.paste((128, 128, 128), (0, first, image.width, last))


def _decode_colour_pfm(stream: IO[bytes], max_pixels: int) -> _Decoded:
    """Decode a floating-point pixel map in colour, which Pillow reads in grey only."""
    stream.seek(0)
    words: list[bytes] = []
    while len(words) < 4:
        line = stream.readline(256)
        if not line:
            raise EOFError
        words += line.split(b"#")[0].split()
    width, height, scale = int(words[1]), int(words[2]), float(words[3])
    if width < 1 or height < 1:
        raise ValueError(f"its header says {width} x {height}")
    _check_pixels((width, height), (width, height), max_pixels)
    data = stream.read(width * height * 12)
    rows = len(data) // (width * 12)
    if rows * 10 < height:
        raise EOFError
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", rows * width * 3).reshape(rows, width, 3)
    found = tiff.extremes_of(lambda: [values])
    low, high = tiff.span_of(found, "f", 32)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height - rows :] = tiff.to_bytes(values, low, high, found.nothing)[::-1]  # from the bottom upwards
    partial = None if rows == height else "the PPM ends before the picture does"
    return _Decoded(Image.fromarray(pixels), (width, height), None, None, Embedded("PPM"), partial)


def _open_image(stream: IO[bytes], kind: Kind) -> ImageFile.ImageFile:
    """Parse the header with the one plugin of `kind`; no other gets to see the bytes."""
    found = format_of(kind)
    assert found.plugin is not None
    module_name, class_name = found.plugin
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if found.extra is None:
            raise
        raise _Rejected("missing_extra", missing_extra(kind)) from error
    if kind == "JPEG2000":
        return _open_jpeg2000(getattr(module, class_name), stream)
    if kind == "GIF":
        stream = io.BytesIO(gif_without_comments(_content(stream, _MOST_REPAIRED_BYTES)))
    if kind == "PPM":
        stream = _with_plain_header(stream)
    image: ImageFile.ImageFile = getattr(module, class_name)(stream)
    if kind in ("PNG", "AVIF", "BMP", "DIB") and (kind != "AVIF" or "icc_profile" not in image.info):
        at = stream.tell()
        with suppress(Exception):  # colours that cannot be read are no reason to lose the picture
            image.info.update(said_of_colours(stream, kind))
        stream.seek(at)
    return image


_PNM_WORD = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*(\d+)")
_LONGEST_PNM_HEADER = 2**16


def _with_plain_header(stream: IO[bytes]) -> IO[bytes]:
    """A PPM, PGM or PBM without comments in its header, which may stand directly behind a number."""
    stream.seek(0)
    head = stream.read(_LONGEST_PNM_HEADER)
    first = _PNM_WORD.match(head, 2)
    stream.seek(0)
    if head[:2] not in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6") or first is None:
        return stream
    words: list[bytes] = []
    at = 2
    for _ in range(2 if head[:2] in (b"P1", b"P4") else 3):
        found = _PNM_WORD.match(head, at)
        if found is None:
            return stream
        words.append(found[1])
        at = found.end()
    if b"#" not in head[:at] and head[at : at + 1] != b"#":
        return stream
    # One white space ends the header; a comment takes its place, with the end of its line.
    end = _LINE_END.search(head, at) if head[at : at + 1] == b"#" else None
    body_at = at + 1 if end is None else end.end()
    stream.seek(body_at)
    return io.BytesIO(head[:2] + b"\n" + b" ".join(words) + b"\n" + stream.read())


_LINE_END = re.compile(rb"[\n\r]")


def _open_jpeg2000(plugin: Any, stream: IO[bytes]) -> ImageFile.ImageFile:
    """Parse the header of a JPEG 2000, and put into `info` what Pillow leaves out: its profile, its depths, its layout.

    Of colours deeper than eight bits Pillow makes black where they are brightest (256 in a byte). They are decoded as
    if they had one bit more, which leaves them room above.
    """
    content = whole = _content(stream, _MOST_REPAIRED_BYTES)
    layout = repair.jpeg2000_layout(content)
    if layout is not None:
        content = repair.without_layout(content)
    depths = repair.jpeg2000_depths(content)
    image: ImageFile.ImageFile = plugin(io.BytesIO(content))  # which is closed where another takes its place
    if depths == [9] and image.mode == "L":  # Pillow takes grey of nine bits for eight; of ten it knows that it is deep
        image.close()
        image = plugin(io.BytesIO(repair.with_header_of_ten_bits(content)))
    if max(depths, default=8) > 8 and image.mode != "I;16":
        roomier = repair.with_room_above(content)
        if roomier is None:
            raise _Rejected("unsupported_format", f"JPEG 2000 with {max(depths)}-bit colours is not supported")
        image.close()
        image = plugin(io.BytesIO(roomier))
    image.info["depths"] = depths
    if layout is not None:
        image.info["layout"] = layout
    profile = repair.jpeg2000_profile(whole)
    if profile is not None:
        image.info.setdefault("icc_profile", profile)
    return image


def _by_layout(image: Image.Image, layout: repair.Layout) -> Image.Image:
    """Make colours and opacity of the components of a JPEG 2000 as its container says."""
    depths = image.info["depths"]
    components, full = image.split(), _to_full_depth(image).split()
    if len(components) != len(depths):
        raise _Rejected("unsupported_format", f"JPEG 2000 with {len(depths)} components is not supported")
    bands = []
    for component, table in layout.channels:
        if table is None:
            bands.append(full[component])
            continue
        room = 16 if image.mode == "I;16" else 8
        if depths[component] > room:
            raise _Rejected("unsupported_format", f"JPEG 2000 with {depths[component]}-bit indices is not supported")
        indices = np.asarray(components[component]) >> (room - depths[component])
        bands.append(Image.fromarray(np.frombuffer(table, np.uint8)[np.minimum(indices, len(table) - 1)]))
    colours = [bands[channel] for channel in layout.colours]
    opacity = [] if layout.alpha is None else [bands[layout.alpha]]
    info = image.info
    if len(colours) == 4:
        shown = Image.merge("CMYK", colours)
        info = info | {"alpha": opacity[0]} if opacity else info
    elif layout.space == repair.SYCC:
        shown = Image.merge("YCbCr", colours).convert("RGB")
        if opacity:
            shown.putalpha(opacity[0])
    else:
        mode = ("L" if len(colours) == 1 else "RGB") + ("A" if opacity else "")
        if opacity and layout.premultiplied:
            shown = Image.merge(mode[:-1] + "a", colours + opacity).convert(mode)
        else:
            shown = Image.merge(mode, colours + opacity)
    shown.info = info
    return shown


def _to_full_depth(image: Image.Image) -> Image.Image:
    """Let the samples of a JPEG 2000 of other depths than eight span 0..255."""
    depths = image.info.get("depths", ())
    if all(depth == 8 for depth in depths) or len(depths) != len(image.getbands()) or image.mode in ("I;16", "P"):
        return image
    values = np.arange(256)
    tables: list[int] = []
    for depth in depths:
        levels = (values - 64) * 255 / 128 if depth > 8 else (values >> (8 - depth)) * 255 / (2**depth - 1)
        tables += [int(level) for level in (levels + 0.5).clip(0, 255)]
    full = image.point(tables)
    full.info = image.info
    return full


_BMP_FILE_HEADER = 14  # bytes, which a DIB does without


def _unusual_masks(stream: IO[bytes], kind: Kind) -> tuple[int, ...]:
    """The bit masks of a BMP that has any of its own, other than the few that Pillow knows."""
    stream.seek(0)
    head = (bytes(_BMP_FILE_HEADER) if kind == "DIB" else b"") + stream.read(70)
    bits, compression = int.from_bytes(head[28:30], "little"), int.from_bytes(head[30:34], "little")
    if (
        len(head) < 70
        or int.from_bytes(head[14:18], "little") < 40
        or bits not in (16, 32)
        or compression not in (3, 6)
    ):
        return ()
    size = int.from_bytes(head[14:18], "little")
    masks = struct.unpack("<4I", head[54:70])
    masks = masks if size >= 56 or compression == 6 else (*masks[:3], 0)
    usual = {(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)} if bits == 16 else {(0xFF0000, 0xFF00, 0xFF)}
    of_pillow = masks[:3] in usual and masks[3] in (0, 0xFF000000) and (bits == 32 or masks[3] == 0)
    if of_pillow and compression == 3:
        return ()
    return masks if all(masks[:3]) else ()


def _decode_bit_fields(stream: IO[bytes], kind: Kind, masks: tuple[int, ...], max_pixels: int) -> _Decoded:
    """Decode a BMP whose pixels are numbers with a field for each colour."""
    stream.seek(0)
    head = (bytes(_BMP_FILE_HEADER) if kind == "DIB" else b"") + stream.read(54)
    offset, size, width, height, _, bits, compression = struct.unpack("<IIiiHHI", head[10:34])
    if kind == "DIB":
        own_masks = 0 if size >= 56 else 16 if compression == 6 else 12 if size < 52 else 0
        offset = size + own_masks + 4 * min(int.from_bytes(head[46:50], "little"), 256)
    top_down, height = height < 0, abs(height)
    if width < 1 or height < 1:
        raise ValueError(f"its header says {width} x {height}")
    _check_pixels((width, height), (width, height), max_pixels)
    row_bytes = (width * bits // 8 + 3) // 4 * 4
    stream.seek(offset)
    data = stream.read(row_bytes * height)
    rows = len(data) // row_bytes
    if rows * 10 < height:
        raise EOFError
    numbers = np.frombuffer(data, np.uint8, rows * row_bytes).reshape(rows, row_bytes)[:, : width * bits // 8]
    values = np.ascontiguousarray(numbers).view("<u2" if bits == 16 else "<u4")
    out = np.zeros((height, width, 4 if masks[3] else 3), np.uint8)
    for channel in range(out.shape[2]):
        low = (masks[channel] & -masks[channel]).bit_length() - 1
        fields = (values & np.uint32(masks[channel])) >> np.uint32(low)
        out[:rows, :, channel] = tiff.to_bytes(fields, 0, masks[channel] >> low)
    if out.shape[2] == 4:
        out[rows:, :, 3] = 255  # what is missing is no more transparent than in a BMP without alpha
    if out.shape[2] == 4 and not out[:rows, :, 3].any():
        out = out[..., :3]
    image = Image.fromarray(np.ascontiguousarray(out if top_down else out[::-1]))
    image.info.update(said_of_colours(stream, kind))
    rgb, to_srgb = _to_rgb(image)
    partial = None if rows == height else f"the {kind} ends before the picture does"
    return _Decoded(rgb, (width, height), None, to_srgb, Embedded(kind), partial)


def _bits_of_runs(stream: IO[bytes], kind: Kind) -> int:
    """How many bits a pixel has in a BMP that is coded in runs; 0 for others.

    Pillow's decoder loses blank rows, the last pixel of odd runs, and its place where the pixels begin at an odd byte.
    """
    stream.seek(0)
    head = (bytes(_BMP_FILE_HEADER) if kind == "DIB" else b"") + stream.read(54)
    if len(head) < 54 or int.from_bytes(head[14:18], "little") < 40:
        return 0
    bits, compression = int.from_bytes(head[28:30], "little"), int.from_bytes(head[30:34], "little")
    return bits if (bits, compression) in ((8, 1), (4, 2)) else 0


def _decode_runs(stream: IO[bytes], kind: Kind, bits: int, max_pixels: int) -> _Decoded:
    """Decode a BMP whose pixels are runs of palette numbers (BI_RLE8, BI_RLE4)."""
    stream.seek(0)
    head = (bytes(_BMP_FILE_HEADER) if kind == "DIB" else b"") + stream.read(54)
    offset, size, width, height = struct.unpack("<IIii", head[10:26])
    top_down, height = height < 0, abs(height)
    if width < 1 or height < 1:
        raise ValueError(f"its header says {width} x {height}")
    _check_pixels((width, height), (width, height), max_pixels)
    colors = min(int.from_bytes(head[46:50], "little") or 2**bits, 256)
    stream.seek(size + (0 if kind == "DIB" else _BMP_FILE_HEADER))
    table = stream.read(4 * colors)
    palette = np.zeros((256, 3), np.uint8)
    entries = np.frombuffer(table, np.uint8, len(table) // 4 * 4).reshape(-1, 4)
    palette[: len(entries)] = entries[:, 2::-1]
    stream.seek(size + 4 * colors if kind == "DIB" else offset)
    numbers, rows = _runs_to_numbers(stream.read(), width, height, bits)
    if rows * 10 < height:
        raise EOFError
    image = Image.fromarray(palette[numbers if top_down else numbers[::-1]])
    image.info.update(said_of_colours(stream, kind))
    rgb, to_srgb = _to_rgb(image)
    partial = None if rows == height else f"the {kind} ends before the picture does"
    return _Decoded(rgb, (width, height), None, to_srgb, Embedded(kind), partial)


def _runs_to_numbers(data: bytes, width: int, height: int, bits: int) -> tuple[PixelArray, int]:
    """Palette numbers (height, width), in the order of the file, and how many rows there are: all, if its end is."""
    out = bytearray(width * height)
    at = x = y = 0
    while y < height and at + 2 <= len(data):
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            run = bytes([value]) * count if bits == 8 else bytes([value >> 4, value & 15]) * ((count + 1) // 2)
        elif value == 0:  # the end of a row
            x, y = 0, y + 1
            continue
        elif value == 1:  # the end of it all
            return np.frombuffer(bytes(out), np.uint8).reshape(height, width), height
        elif value == 2:  # to the right, and on
            if at + 2 > len(data):
                break
            x, y = x + data[at], y + data[at + 1]
            at += 2
            continue
        else:
            count = value
            used = count if bits == 8 else (count + 1) // 2
            run = data[at : at + used]
            at += used + used % 2  # whole words
            if len(run) < used:
                break
            if bits == 4:
                run = bytes(half for byte in run for half in (byte >> 4, byte & 15))
        kept = max(0, min(count, width - x))
        out[y * width + x : y * width + x + kept] = run[:kept]
        x += count
    rows = height if y >= height or (y == height - 1 and x >= width) else y
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width), rows


def _without_empty_alpha(image: Image.Image) -> Image.Image:
    """A BMP all of which is transparent is opaque: programs reserve the place for alpha and write nothing there."""
    if image.mode not in ("RGBA", "LA") or image.getchannel("A").getextrema() != (0, 0):
        return image
    opaque = image.convert("RGB")
    opaque.info = image.info
    return opaque


def _decode_image(
    image: ImageFile.ImageFile,
    kind: Kind,
    wanted: Callable[[Size], Size],
    max_pixels: int,
    default_orientation: int = 1,
    *,
    lenient: bool = False,
) -> _Decoded:
    """Decode an image whose header was read. `lenient`: keep what was decoded before an error."""
    full_size = image.size
    box: Box | None = None
    partial: str | None = None
    has_colour = kind == "PNG" and "transparency" in image.info
    content = _content(image.fp, _MOST_REPAIRED_BYTES) if has_colour and image.fp is not None else b""
    if kind == "JPEG":
        exif = read_exif(image)
        orientation = orientation_of(exif, default_orientation)
        width, height = wanted(_upright_size(full_size, orientation))
        image.decodermaxblock = _MOST_REPAIRED_BYTES  # all at once: arithmetic coding cannot wait for more
        # libjpeg decodes lossless JPEGs in full only; told otherwise, Pillow writes past the end of its buffer.
        frame = None if image.fp is None else repair.jpeg_frame(_content(image.fp, 2**22))
        if frame is not None and frame not in repair.LOSSLESS:
            draft = image.draft(None, _upright_size((width * _DRAFT_FACTOR, height * _DRAFT_FACTOR), orientation))
            if draft is not None and image.size != full_size:
                box = draft[1]
    _check_pixels(full_size, image.size, max_pixels)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        if not lenient or getattr(image, "_im", None) is None:
            raise
        image.tile = []
        partial = f"parts of the {kind} are damaged"
    shown: Image.Image = image
    if content and "transparency" in image.info:
        transparent = image.info["transparency"]
        if image.mode == "RGB" and content[24] == 16 and isinstance(transparent, tuple):
            alpha = _deep_alpha(image, content, transparent)
            del image.info["transparency"]
            shown = image.convert("RGBA")
            shown.putalpha(alpha)
        else:
            _scale_transparency(image, content)
    if kind == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        shown = ImageChops.invert(image)  # Pillow takes all CMYK for Adobe's, which is inverted
        shown.info = image.info
    elif kind == "JPEG2000":
        layout = image.info.pop("layout", None)
        shown = _to_full_depth(image) if layout is None else _by_layout(image, layout)
    elif kind in ("BMP", "DIB"):
        shown = _without_empty_alpha(image)
    rgb, to_srgb = _to_rgb(shown)
    if kind != "JPEG":
        # PNG may carry its EXIF behind the pixels; Pillow turns TIFF upright while loading.
        full_size, exif = image.size, read_exif(image)
        orientation = orientation_of(exif, default_orientation)
    embedded = read_embedded(kind, exif, image.info)
    upright, box = _turn_upright(rgb, box, orientation)
    return _Decoded(upright, _upright_size(full_size, orientation), box, to_srgb, embedded, partial)


def _scale_transparency(image: Image.Image, header: bytes) -> None:
    """Let the value that stands for transparency be one of the pixels' range, to which Pillow scales only those."""
    depth, transparent = header[24], image.info["transparency"]
    if image.mode == "L" and depth in (2, 4) and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // (2**depth - 1)


def _deep_alpha(image: Image.Image, content: bytes, colour: tuple[int, ...]) -> Image.Image:
    """The alpha of an RGB PNG of 16 bits in which one colour is transparent: of which Pillow keeps the upper bytes.

    Told that the lower byte comes first, it keeps the lower ones.
    """
    with _open_image(io.BytesIO(content), "PNG") as lower:
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
        lower.load()
        alike = (np.asarray(lower) == [value & 255 for value in colour]).all(axis=2)
    alike &= (np.asarray(image) == [value >> 8 for value in colour]).all(axis=2)
    return Image.fromarray(np.where(alike, 0, 255).astype(np.uint8))


def _is_tiff(stream: IO[bytes]) -> bool:
    stream.seek(0)
    return stream.read(4) in TIFF_SIGNATURES


def _decode_tiff(stream: IO[bytes], kind: Kind, wanted: Callable[[Size], Size], max_pixels: int) -> _Decoded:
    """Decode a TIFF, or the RAW file that it is the shell of, whatever its name says."""
    directories = tiff.read_directories(stream)
    stream.seek(8)
    if tiff.shows_raw(directories) or stream.read(2) == b"CR":
        try:
            return _decode_raw(stream, wanted, max_pixels)
        except MemoryError:
            raise
        except Exception as error:
            refused = isinstance(error, _Rejected) and error.status in ("missing_extra", "too_large")
            if refused or tiff.holds_sensor_data(directories) or not tiff.says_dng(directories):
                raise  # else it only says that it is a DNG
    if not directories:
        raise EOFError if _strips_end_late(stream) else ValueError("it has no readable page")
    if tiff.may_hide_raw(directories, stream.seek(0, os.SEEK_END)):
        # Perhaps a RAW file of an unusual kind.
        try:
            return _decode_raw(stream, wanted, max_pixels)
        except (_Rejected, MemoryError) as error:
            if kind == "RAW" and isinstance(error, _Rejected) and error.status == "missing_extra":
                raise
        except Exception:  # LibRaw takes it for something that it is not: then it is a TIFF
            pass
    page = tiff.choose_page(directories)
    _check_pixels(page.size, page.size, max_pixels)
    if page.compression == 6:  # old-style JPEG: libtiff knows the ways in which it was written
        stream.seek(0)
        with _open_image(stream, "TIFF") as image:
            return _decode_image(image, "TIFF", wanted, max_pixels)
    try:
        image_of_page, partial = tiff.decode_page(stream, page)
    except tiff.UnsupportedTiff as error:
        raise _Rejected("unsupported_format", str(error)) from error
    orientation = page.get(274, directories[0].get(274, 1))
    orientation = orientation if 1 <= orientation <= 8 else 1
    if partial is None and tiff.says_dng(directories) and page.get(254, 0) & 1:
        partial = _ONLY_PREVIEW
    rgb, to_srgb = _to_rgb(image_of_page)
    if partial is not None:
        _paint_grey(rgb, *_rows_there(rgb))
    upright, _ = _turn_upright(rgb, None, orientation)
    embedded = read_embedded("TIFF", _exif_of_pages(stream, page, directories))
    return _Decoded(upright, _upright_size(page.size, orientation), None, to_srgb, embedded, partial)


def _exif_of_pages(stream: IO[bytes], page: tiff.Directory, directories: list[tiff.Directory]) -> Exif | None:
    """The tags of the page that is shown, and what only the first one says."""
    return read_tiff_exif(stream, [page.start, directories[0].start])


_ONLY_PREVIEW = "the sensor's data of the RAW file cannot be read; its preview is intact"

# LibRaw's flip to EXIF's: 0 upright, 3 upside down, 5 needs a quarter turn to the left, 6 to the right.
_FLIPS = {3: 3, 5: 8, 6: 6}


def _decode_raw(stream: IO[bytes], wanted: Callable[[Size], Size], max_pixels: int) -> _Decoded:
    """Decode a RAW file: the camera's own preview where it is large enough, else the sensor's data at half size."""
    try:
        import rawpy
    except ImportError as error:
        raise _Rejected("missing_extra", missing_extra("RAW")) from error
    stream.seek(0)
    try:
        with rawpy.imread(stream) as raw:
            orientation = _FLIPS.get(raw.sizes.flip, 1)
            size = (raw.sizes.width, raw.sizes.height)
            _check_pixels(size, size, max_pixels)
            full_size = _upright_size(size, orientation)
            preview = _raw_preview(raw, rawpy, full_size, orientation, wanted=wanted, max_pixels=max_pixels)
            if preview is not None:  # which may come without what the file says
                preview.embedded += read_embedded("RAW", read_tiff_exif(stream))
                preview.partial = _cut_raw(stream)
                return preview
            partial = _cut_raw(stream)
            if partial is not None:  # LibRaw makes up what is missing of the sensor's data
                left = _decode_preview_left(stream, wanted, max_pixels, least_side=_GOOD_PREVIEW)
                if left is not None:
                    return left
            pixels = raw.postprocess(half_size=True, use_camera_wb=True, output_bps=8)
    except (rawpy.LibRawTooBigError, rawpy.LibRawUnsufficientMemoryError) as error:
        raise MemoryError from error
    except rawpy.LibRawError as error:
        ends_early = isinstance(error, rawpy.LibRawIOError)
        left = _decode_preview_left(stream, wanted, max_pixels)
        if left is not None:
            if not ends_early:
                left.partial = _ONLY_PREVIEW
            return left
        if ends_early:
            raise _Rejected("truncated", "the RAW file ends before the picture does") from error
        if isinstance(error, rawpy.LibRawFileUnsupportedError):
            raise _Rejected("unsupported_format", "an unsupported kind of RAW file") from error
        raise
    if pixels.ndim == 3 and pixels.shape[2] == 1:  # a monochrome sensor
        pixels = pixels.repeat(3, axis=2)
    image = Image.fromarray(pixels)
    box = (0.0, 0.0, float(image.width), float(image.height))
    return _Decoded(image, full_size, box, None, read_embedded("RAW", read_tiff_exif(stream)), partial)


# Pixels of the short side of a preview that is better than nothing, and better than a part of the picture.
_LEAST_PREVIEW, _GOOD_PREVIEW = 100, 400


def _cut_raw(stream: IO[bytes]) -> str | None:
    """What is missing of a RAW file, by the places that its tags name."""
    if _is_tiff(stream) and _strips_end_late(stream):
        return "the RAW file ends before the picture does"
    return None


def _decode_preview_left(
    stream: IO[bytes], wanted: Callable[[Size], Size], max_pixels: int, *, least_side: int = _LEAST_PREVIEW
) -> _Decoded | None:
    """The largest whole JPEG in a RAW file whose sensor's data is not."""
    content = _content(stream, _MOST_REPAIRED_BYTES)
    exif = read_tiff_exif(stream) if _is_tiff(stream) else None
    for start in repair.largest_jpegs(content, least_side):
        with suppress(OSError, SyntaxError, ValueError), _open_image(io.BytesIO(content[start:]), "JPEG") as image:
            decoded = _decode_image(image, "JPEG", wanted, max_pixels, orientation_of(exif, 1))
            decoded.embedded += read_embedded("RAW", exif)
            decoded.partial = "the RAW file ends before the picture does; its preview is intact"
            return decoded
    return None


def _read_raw_metadata(stream: IO[bytes], wanted: Callable[[Size], Size]) -> Embedded:
    """As `_decode_raw` finds it."""
    import rawpy

    stream.seek(0)
    embedded = Embedded("RAW")
    with rawpy.imread(stream) as raw:
        orientation = _FLIPS.get(raw.sizes.flip, 1)
        full_size = _upright_size((raw.sizes.width, raw.sizes.height), orientation)
        preview = _preview_bytes(raw, rawpy)
        if preview is not None:
            with suppress(OSError, SyntaxError, ValueError), _open_image(io.BytesIO(preview), "JPEG") as image:
                exif = read_exif(image)
                size = _upright_size(image.size, orientation_of(exif, orientation))
                if _shows_all(size, full_size, wanted):
                    embedded = read_embedded("JPEG", exif, image.info)
    return embedded + read_embedded("RAW", read_tiff_exif(stream))


def _preview_bytes(raw: Any, rawpy: Any) -> bytes | None:
    """The camera's own JPEG in a RAW file."""
    try:
        thumbnail = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        return None
    return bytes(thumbnail.data) if thumbnail.format == rawpy.ThumbFormat.JPEG else None


def _shows_all(preview: Size, full_size: Size, wanted: Callable[[Size], Size]) -> bool:
    """Whether a preview shows the whole picture at twice the wanted size or more."""
    (width, height), (full_width, full_height) = preview, full_size
    needed = wanted(full_size)
    large_enough = width >= 2 * needed[0] and height >= 2 * needed[1]
    return large_enough and abs(width * full_height / (height * full_width) - 1) <= 0.05


def _raw_preview(
    raw: Any, rawpy: Any, full_size: Size, orientation: int, *, wanted: Callable[[Size], Size], max_pixels: int
) -> _Decoded | None:
    """Return the preview in a RAW file if it shows the whole picture at twice the wanted size or more."""
    preview = _preview_bytes(raw, rawpy)
    if preview is None:
        return None
    try:
        with _open_image(io.BytesIO(preview), "JPEG") as image:
            decoded = _decode_image(image, "JPEG", wanted, max_pixels, orientation)
    except (OSError, SyntaxError, ValueError):
        return None
    if not _shows_all(decoded.full_size, full_size, wanted):
        return None
    box = decoded.box or (0.0, 0.0, float(decoded.full_size[0]), float(decoded.full_size[1]))
    return _Decoded(decoded.image, full_size, box, decoded.to_srgb, decoded.embedded)


# Orientation: EXIF value -> (how Pillow turns the picture upright, axes swapped, x flipped, y flipped)
_UPRIGHT: dict[int, tuple[Image.Transpose, bool, bool, bool]] = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: (Image.Transpose.ROTATE_180, False, True, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: (Image.Transpose.TRANSPOSE, True, False, False),
    6: (Image.Transpose.ROTATE_270, True, True, False),
    7: (Image.Transpose.TRANSVERSE, True, True, True),
    8: (Image.Transpose.ROTATE_90, True, False, True),
}


def _upright_size(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation >= 5 else size


def _turn_upright(image: Image.Image, box: Box | None, orientation: int) -> tuple[Image.Image, Box | None]:
    """Turn the image, and the box with it: what is left over at its right and bottom moves to other sides."""
    if orientation == 1:
        return image, box
    transpose, swap, flip_x, flip_y = _UPRIGHT[orientation]
    upright = image.transpose(transpose)
    if box is None:
        return upright, None
    right, bottom = (box[3], box[2]) if swap else (box[2], box[3])
    left = upright.width - right if flip_x else 0.0
    top = upright.height - bottom if flip_y else 0.0
    return upright, (left, top, left + right, top + bottom)


def _upright_frame(image: Image.Image, orientation: int) -> Image.Image:
    """What an animated picture shows now, as a picture of its own."""
    rgb, transform = _to_rgb(image)
    upright, _ = _turn_upright(_apply(transform, rgb), None, orientation if orientation in _UPRIGHT else 1)
    return upright.copy()


# Colour


def _to_rgb(image: Image.Image) -> tuple[Image.Image, _Transform | None]:
    """Return the image in mode RGB, with the transform that takes it to sRGB where it is in another space."""
    profile = profile_of(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _deep_to_grey(image)
    elif image.mode == "La":  # which becomes nothing else
        image = image.convert("LA")
    if image.mode in ("CMYK", "LAB"):
        transform = _transform_to_srgb(profile, image.mode)
        rgb = image.convert("RGB") if transform is None else _apply(transform, image)
        alpha = image.info.get("alpha")
        if isinstance(alpha, Image.Image):
            rgb.putalpha(alpha)
            rgb = _on_white(rgb)
        return rgb, None
    if image.mode == "L" and profile is not None and isinstance(image.info.get("transparency"), int):
        image = image.convert("LA")
    if image.mode in ("L", "LA") and profile is not None:
        transform = _transform_to_srgb(profile, "L")
        if transform is not None:
            rgb = _apply(transform, image.getchannel("L"))
            if image.mode == "LA":
                rgb.putalpha(image.getchannel("A"))
                rgb = _on_white(rgb)
            return rgb, None
    if image.has_transparency_data:
        image = _on_white(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return image, _transform_to_srgb(profile, "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    background = Image.new("RGB", rgba.size, "white")
    background.paste(rgba, mask=alpha)
    background.info[_SEE_THROUGH] = any(alpha.histogram()[:_NEARLY_OPAQUE])
    return background


_SEE_THROUGH = "clipsearch.see_through"  # in the info of an image: whether parts of its file's picture are
_NEARLY_OPAQUE = 250  # of 255
_WITHOUT_LOSS = ("PNG", "BMP", "GIF")


def _look_at(decoded: _Decoded, path: str, metadata: PictureMetadata) -> Appearance:
    """What the pixels say that were decoded: all of the picture, whatever of it the encoder is given."""
    image = decoded.image
    if decoded.box is not None and decoded.box != (0, 0, *image.size):
        left, top, right, bottom = (round(edge) for edge in decoded.box)
        image = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return appearance(
        image,
        decoded.full_size,
        os.path.basename(path),  # noqa: PTH119
        to_srgb=lambda small: _apply(decoded.to_srgb, small),
        lossless=metadata.format in _WITHOUT_LOSS,
        transparent=bool(decoded.image.info.get(_SEE_THROUGH)),
        camera=metadata.camera is not None,
    )


def _look_of_page(decoded: _Decoded) -> Appearance:
    """What the pixels of a page say, which is of a document whatever they are."""
    seen = NOT_SEEN
    with suppress(Exception):  # of these measures none is worth a page
        seen = _look_at(decoded, "", PictureMetadata())
    return replace(seen, traits=(seen.traits | _DOCUMENT) & ~_SCREENSHOT)


def _deep_to_grey(image: Image.Image) -> Image.Image:
    """Scale grey values of 16 or 32 bits to 0..255, in strips so that no large array is made.

    16-bit values span 0..65535. Wider modes have no fixed span: see `tiff.span_of`. A value that stands for
    transparency becomes alpha.
    """
    rows = max(1, 2**22 // image.width)
    boxes = [(0, y, image.width, min(y + rows, image.height)) for y in range(0, image.height, rows)]
    low, high = 0.0, 65535.0
    nothing: tuple[float, ...] = ()
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        found = tiff.extremes_of(lambda: (np.asarray(image.crop(box)) for box in boxes))
        low, high = tiff.span_of(found, "f" if image.mode == "F" else "i", 32)
        nothing = found.nothing
    transparent = image.info.get("transparency")
    grey = Image.new("LA" if isinstance(transparent, int) else "L", image.size)
    for box in boxes:
        values = np.asarray(image.crop(box))
        scaled = tiff.to_bytes(values, low, high, nothing)
        if isinstance(transparent, int):
            scaled = np.dstack([scaled, np.where(values == transparent, 0, 255).astype(np.uint8)])
        grey.paste(Image.fromarray(scaled), box[:2])
    if "icc_profile" in image.info:
        grey.info["icc_profile"] = image.info["icc_profile"]
    return grey


_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}


@lru_cache(maxsize=32)
def _transform_to_srgb(profile: bytes | None, mode: str) -> _Transform | None:
    """Return the transform of images of `mode` to sRGB; None for none needed, or none possible.

    A profile that changes no colour by more than 2 of 255 is taken for sRGB itself. A broken profile, or one
    for another kind of image, is ignored.
    """
    if profile is None and mode != "LAB":
        return None
    from PIL import ImageCms

    try:
        if profile is None:
            source = ImageCms.createProfile("LAB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
            if source.xcolor_space.strip() != _PROFILE_SPACES[mode]:
                return _transform_to_srgb(None, mode)
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "RGB":
            steps = np.linspace(0, 255, 6, dtype=np.uint8)
            colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
            after = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
            if np.abs(after.astype(np.int16) - colours).max() <= 2:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _transform_to_srgb(None, mode) if profile is not None else None
    return transform


def _apply(transform: _Transform | None, image: Image.Image) -> Image.Image:
    if transform is None:
        return image
    from PIL import ImageCms

    transformed = ImageCms.applyTransform(image, transform)
    assert transformed is not None  # only with inPlace=True
    return transformed


# Long pictures


def piece_boxes(size: Size) -> list[tuple[int, int, int, int]]:
    """The parts (left, top, right, bottom) in which a picture of this size is seen; none where it is seen whole.

    Panoramas and screenshots that were scrolled are long: their middle says little of them. They are seen in squares
    along their long side, of which neighbours share a part, so that nothing is cut by all of them. Where as many as
    there may be do not cover it (32:1), they are spread evenly from one end to the other and leave gaps.
    """
    width, height = size
    long, short = max(size), min(size)
    if long <= LONG_ASPECT * short:
        return []
    count = min(MOST_PIECES, 1 + math.ceil((long / short - 1) / _PIECE_STEP))
    starts = [round(n * (long - short) / (count - 1)) for n in range(count)]
    if width >= height:
        return [(start, 0, start + short, height) for start in starts]
    return [(0, start, width, start + short) for start in starts]


_TILE = 0.6  # of both sides: neighbours share a fifth of the picture


def view_boxes(size: Size) -> list[tuple[int, int, int, int]]:
    """The five views of a picture (left, top, right, bottom): the whole, then four tiles that overlap.

    Small things are larger in a tile than in the whole, and a tower that squeezes pictures into a square squeezes a
    tile less hard. Tiles of 1/1.8, which share a tenth, were worse: see docs/views.md.
    """
    width, height = size
    wide, high = max(1, round(_TILE * width)), max(1, round(_TILE * height))
    corners = ((0, 0), (width - wide, 0), (0, height - high), (width - wide, height - high))
    return [(0, 0, width, height), *((left, top, left + wide, top + high) for left, top in corners)]


def _piece(decoded: _Decoded, box: tuple[int, int, int, int], *, exact: bool = False) -> _Decoded:
    """A part of a decoded picture, `box` in pixels of the file, as a picture of its own.

    `exact`: resizing it mixes no pixels into its edge that are beside it, unless it was decoded at a reduced size.
    """
    size = (box[2] - box[0], box[3] - box[1])
    if exact and decoded.box is None and decoded.image.size == decoded.full_size:
        return replace(decoded, image=decoded.image.crop(box), full_size=size)
    left, top, right, bottom = decoded.box or (0.0, 0.0, float(decoded.image.width), float(decoded.image.height))
    scale_x, scale_y = (right - left) / decoded.full_size[0], (bottom - top) / decoded.full_size[1]
    part = (left + box[0] * scale_x, top + box[1] * scale_y, left + box[2] * scale_x, top + box[3] * scale_y)
    clipped = (*part[:2], min(part[2], right), min(part[3], bottom))
    return replace(decoded, full_size=size, box=clipped)


# Preprocessing, after open_clip/transform.py and torchvision


def _resized_size(size: Size, preprocessing: Preprocessing) -> Size:
    """The size to which a picture is resized before it is cropped or padded, rounded as open_clip rounds."""
    width, height = size
    target_width, target_height = preprocessing.width, preprocessing.height
    if preprocessing.resize_mode == "squash":
        return target_width, target_height
    if preprocessing.resize_mode == "shortest" and target_width == target_height:
        if width <= height:  # torchvision's Resize with one number
            return target_width, int(target_width * height / width)
        return int(target_width * width / height), target_width
    ratios = (height / target_height, width / target_width)  # open_clip's ResizeKeepRatio
    ratio = max(ratios) if preprocessing.resize_mode == "longest" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _resize_and_crop(decoded: _Decoded, preprocessing: Preprocessing) -> PixelArray:
    image, box = decoded.image, decoded.box
    width, height = preprocessing.width, preprocessing.height
    size = _resized_size(decoded.full_size, preprocessing)
    resampling = _RESAMPLING[preprocessing.interpolation]
    if preprocessing.resize_mode == "shortest" and width != height:
        resampling = Image.Resampling.BICUBIC  # as in open_clip, which asks for nothing else here
    left, top = round((size[0] - width) / 2.0), round((size[1] - height) / 2.0)
    if size[0] * size[1] > 64 * width * height:
        # A panorama so long that nearly all of it is cropped away: resize only what is kept.
        box = box or (0.0, 0.0, float(image.width), float(image.height))
        scale_x, scale_y = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
        x, y = box[0] + left * scale_x, box[1] + top * scale_y
        image = image.resize((width, height), resampling, box=(x, y, x + width * scale_x, y + height * scale_y))
    else:
        if size != image.size or box is not None:
            image = image.resize(size, resampling, box=box)
        if size[0] < width or size[1] < height:
            canvas = Image.new("RGB", (width, height), (preprocessing.fill_color,) * 3)
            x = (width - size[0]) // 2 if size[0] < width else -left
            y = (height - size[1]) // 2 if size[1] < height else -top
            canvas.paste(image, (x, y))
            image = canvas
        elif size != (width, height):
            image = image.crop((left, top, left + width, top + height))
    return np.array(_apply(decoded.to_srgb, image), dtype=np.uint8)


# Metadata. EXIF is often broken: whatever cannot be read is left out, and never fails the picture.
