"""The plain data types that pass between modules. No I/O, no third-party import but numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[np.uint8]

SkipStatus = Literal[
    "not_a_picture",  # by its name, or no picture format was recognised in its bytes
    "unsupported_format",  # a picture format that clipsearch does not read
    "missing_extra",  # readable once an optional dependency is installed
    "empty",  # zero bytes
    "corrupt",  # recognised, but its data cannot be decoded
    "truncated",  # ends before the picture does
    "too_large",  # over the pixel cap
    "timeout",  # decoding took longer than the time limit
    "decoder_crashed",  # the process that decoded it died
    "unreadable",  # the system refused: permissions, I/O error, vanished meanwhile
]
SKIP_STATUSES: tuple[SkipStatus, ...] = get_args(SkipStatus)
Status = Literal["ok"] | SkipStatus

Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos"]
ResizeMode = Literal["shortest", "squash", "longest"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the input of an image tower (open_clip's `preprocess_cfg`)."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"  # shortest: resize and centre crop; longest: resize and pad
    fill_color: int = 0  # of the padding, 0..255


@dataclass(frozen=True, slots=True)
class PictureMetadata:
    """What a picture file says of itself. All optional: most files say little."""

    format: str | None = None  # Pillow's name: "JPEG", "PNG", ...
    taken_at: str | None = None  # ISO 8601 local time, from EXIF DateTimeOriginal
    camera: str | None = None  # EXIF make and model
    latitude: float | None = None  # degrees, north positive
    longitude: float | None = None  # degrees, east positive


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One row of the index: a picture, or a file that was skipped and why.

    `path` is relative to the collection's root, with `/` between its parts; bytes that are not UTF-8 are
    kept as surrogate escapes (os.fsdecode). `width` and `height` are after EXIF orientation.
    """

    row_id: int
    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    content_hash: str | None  # xxh3-128 of the bytes, hexadecimal; None where they were never read
    width: int | None = None
    height: int | None = None
    metadata: PictureMetadata = field(default_factory=PictureMetadata)
    status: Status = "ok"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """A file that did not become a vector, and why."""

    path: str
    status: SkipStatus
    reason: str


@dataclass(frozen=True, slots=True)
class EmbeddingBatch:
    """Records and their vectors, row by row. Shapes: vectors (B, D) float32, unit L2."""

    records: list[ImageRecord]
    vectors: FloatArray


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a query. `path` can be opened from anywhere; `score` is a cosine in -1..1."""

    rank: int  # from 1
    score: float
    path: str
    record: ImageRecord
