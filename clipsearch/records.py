"""The plain data types that pass between modules. No I/O, no third-party import: a query that a server answers loads
no NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    PixelArray = npt.NDArray[np.uint8]
else:
    FloatArray = IntArray = PixelArray = Any

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
OUT_OF_MEMORY = "decoding it needs more memory than is allowed"  # the reason of "too_large", where that is why
Band = Literal["strong", "maybe", "unlikely"]  # how sure a hit is, in a word

MOST_PIECES = 16  # in which one long picture is seen

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
    partial: str | None = None  # what is missing of a picture that could be read in part, in words
    attempts: int = 0  # to read it, which circumstances ended; see indexer/retries.py


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
    """One answer to a query. `path` can be opened from anywhere; `score` is a cosine in -1..1, or NaN where the query
    has only filters. `others`: near-duplicates that this hit stands for. `confidence`: the probability (0..1) that the
    picture shows what the query says, and `band` the word for it; both None where no picture was compared."""

    rank: int  # from 1
    score: float
    path: str
    record: ImageRecord
    others: tuple[Hit, ...] = ()
    confidence: float | None = None
    band: Band | None = None


@dataclass(frozen=True, slots=True)
class FileRef:
    """One immutable file of an index: `path` is relative to the index folder, `checksum` xxh3-128 hexadecimal."""

    path: str
    size_bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class IvfParameters:
    """How a FAISS inverted file is built and searched."""

    nlist: int  # inverted lists
    nprobe: int  # lists visited by a query
    rerank: int  # candidates per wanted hit that are scored again exactly
    code: str = "SQ8"  # how its vectors are stored, in FAISS's notation


@dataclass(frozen=True, slots=True)
class Segment:
    """The searchable form of a fragment, derived from it and always rebuildable.

    `vectors`: row ids with their vectors, in the order of row ids; `rows`: the records to show for them;
    `faiss`: an inverted file over the same row ids, only where exact search would be too slow; `columns`: what filters
    ask of them.
    """

    vectors: FileRef
    rows: FileRef
    faiss: FileRef | None = None
    ivf: IvfParameters | None = None
    columns: FileRef | None = None  # None in indexes made before there were filters

    def files(self) -> list[FileRef]:
        """Every file of the segment."""
        return [ref for ref in (self.vectors, self.rows, self.faiss, self.columns) if ref is not None]


@dataclass(frozen=True, slots=True)
class Fragment:
    """One Parquet file and what is derived from it. Row ids lie in first_row_id..last_row_id, both included."""

    data: FileRef
    rows: int
    vectors: int  # rows with status "ok"
    first_row_id: int
    last_row_id: int
    segment: Segment | None  # None where no row has a vector


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model whose vectors an index holds."""

    name: str
    fingerprint: str
    dim: int
    score_scale: float


TagKind = Literal["tag", "concept"]


@dataclass(frozen=True, slots=True)
class TagRef:
    """A tag of an index: its file holds the content hashes of `pictures` pictures."""

    name: str
    kind: TagKind
    pictures: int
    file: FileRef


@dataclass(frozen=True, slots=True)
class Manifest:
    """One generation of an index: every file that belongs to it."""

    generation: int
    created_at: str  # ISO 8601, UTC
    root: str  # the collection's folder: relative to the index folder, or absolute
    model: ModelRef
    next_row_id: int
    fragments: tuple[Fragment, ...] = ()
    tombstones: FileRef | None = None  # deleted row ids
    tombstone_count: int = 0
    pictures: int = 0  # live rows with a vector
    skipped: int = 0  # live rows without one
    recall_target: float = 0.985  # recall@10 that inverted files are tuned for
    reader_features: tuple[str, ...] = ()  # what a reader must know to read this correctly
    writer_features: tuple[str, ...] = ()  # what a writer must know to change this correctly
    format_version: int = 1
    tags: tuple[TagRef, ...] = ()  # by folded name; the writer feature "tags" is set where there are any

    def files(self) -> list[FileRef]:
        """Every file that this generation refers to."""
        refs: list[FileRef] = []
        for fragment in self.fragments:
            refs.append(fragment.data)
            if fragment.segment is not None:
                refs += fragment.segment.files()
        if self.tombstones is not None:
            refs.append(self.tombstones)
        refs += [tag.file for tag in self.tags]
        return refs
