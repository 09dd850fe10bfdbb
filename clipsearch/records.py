"""The plain data types that pass between modules. No I/O, no third-party import: a query that a server answers loads
no NumPy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, get_args, overload

from clipsearch.sentences import sentence

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    AnyPicture = str | os.PathLike[str] | Image  # a path, or what PIL has opened
    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    PixelArray = npt.NDArray[np.uint8]
else:
    FloatArray = IntArray = PixelArray = AnyPicture = Any

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
BANDS: tuple[Band, ...] = get_args(Band)  # the surest first

TRAITS = (
    "monochrome", "dark", "bright", "blurred", "transparent", "screenshot", "document", "drawing", "photo", "motion",
)  # fmt: skip
COLORS = ("black", "white", "gray", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown")
"""What pixels say of a picture, stored as bits by their numbers: new ones go to the end. `motion` is said by its file:
there is a clip in it."""

DEFAULT_HITS = 20  # of an answer, where nobody says how many
MOST_PIECES = 32  # in which one long picture is seen
VIEWS = 5  # the whole picture and its four tiles: what `--views` takes beside 1
REGIONS = VIEWS - 1  # whose vectors `--regions` keeps beside that of the picture

FIRST_WITH_WORDS = 3  # the first version of the reader of metadata that reads what people wrote

Sort = Literal["score", "date", "path"]  # the order of hits
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
    taken_at: str | None = None  # ISO 8601 local time, without an offset
    camera: str | None = None  # EXIF make and model
    latitude: float | None = None  # degrees, north positive
    longitude: float | None = None  # degrees, east positive
    date_source: str | None = None  # who says `taken_at`: see metadata.SOURCES
    title: str | None = None  # what people wrote, as are all of these
    caption: str | None = None  # a line for each text
    keywords: tuple[str, ...] = ()  # with "|" between the levels of hierarchical ones
    people: tuple[str, ...] = ()  # who is in it
    rating: int | None = None  # stars, 1..5; -1: rejected
    columns: tuple[str, ...] = ()  # what else stands beside it in a table or an archive, as name=value
    live: str | None = None  # what the still and the clip of a Live Photo have in common; see search/live.py

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> PictureMetadata:
        """Of its fields by name, some of which may be missing; other names are passed over. Lists become tuples."""
        known: dict[str, Any] = {part.name: body[part.name] for part in fields(cls) if part.name in body}
        for name, value in known.items():
            if isinstance(value, list):
                known[name] = tuple(value)
        return cls(**known)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One row of the index: a picture (or a part of one), or a picture-like file that was skipped and why.

    A row is known by path, member and view. `path` is relative to the collection's root, with `/` between its parts;
    bytes that are not UTF-8 are kept as surrogate escapes. `member` is a part of an archive, `view` what of a file is
    seen ("page=3"); both empty for a whole file. `width` and `height` are after EXIF orientation. `vector_id` says
    which stored vector is the picture's: rows of the same content share one.
    """

    row_id: int
    path: str
    size_bytes: int
    mtime_ns: int
    inode: int  # in object storage, a hash of what the listing says of the content (ETag); 0: nothing
    content_hash: str | None  # xxh3-128 of the bytes, hexadecimal; None where they were never read
    width: int | None = None
    height: int | None = None
    metadata: PictureMetadata = field(default_factory=PictureMetadata)
    status: Status = "ok"
    reason: str | None = None
    member: str = ""
    view: str = ""
    vector_id: int = -1  # -1: none, as of every row whose status is not "ok"
    partial: str | None = None  # what is missing of a picture that could be read in part, in words
    attempts: int = 0  # to read it, which circumstances ended; see indexer/retries.py
    sidecars: int = 0  # what lay beside it when its metadata was read; see metadata/sidecars.py; 0: nothing
    metadata_version: int = 0  # of the reader of its metadata; see metadata.METADATA_VERSION
    traits: int = 0  # a bit for each of TRAITS; 0 where nobody looked, as in all of these three
    colors: int = 0  # a bit for each of COLORS
    perceptual_hash: int = 0  # 64 bits, signed; see pictures/appearance.py
    offset: int = 0  # of a member: the byte of a tar, or the row of a table, where it is
    archive_bytes: int = 0  # of a member: the size of its archive; `size_bytes` is that of the picture
    archive_rows: int = 0  # of a member: how many pictures its archive has

    @property
    def place(self) -> str:
        """What a picture is called in its collection: its path, and its member, if it is one."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def file_bytes(self) -> int:
        """The size of the file at `path`."""
        return self.archive_bytes if self.member else self.size_bytes

    def has(self, trait: str) -> bool:
        """Whether the picture has one of TRAITS, as far as somebody looked."""
        return bool(self.traits >> TRAITS.index(trait) & 1)

    @property
    def is_motion(self) -> bool:
        """Whether there is a clip in the picture's file."""
        return self.has("motion")

    @property
    def start_s(self) -> float | None:
        """When a part of a video begins; None for what is none."""
        if not self.view.startswith("t="):
            return None
        try:
            start_s = float(self.view[2:].partition(",")[0])
        except ValueError:
            return None
        return start_s if math.isfinite(start_s) else None

    @property
    def page(self) -> int | None:
        """The number of a page of a document, from 1; None for what is none."""
        return self._numbered("page=")

    @property
    def angle(self) -> int | None:
        """From which of its angles a 3-D model is seen, from 1; None for what is none."""
        return self._numbered("angle=")

    def _numbered(self, prefix: str) -> int | None:
        number = self.view.removeprefix(prefix)
        is_number = number != self.view and number.isascii() and number.isdecimal() and len(number) < 10
        return int(number) if is_number else None

    @property
    def is_region(self) -> bool:
        """Whether it is a part of a picture, which is found with the picture and never instead of it."""
        return self.view.startswith("xywh=")

    @property
    def part_at(self) -> float | None:
        """Where in its file a part is, as decoders are asked for it: a second of a video, a page of a document, an
        angle of a 3-D model; None for a whole file."""
        number = self.angle if self.page is None else self.page
        return self.start_s if number is None else float(number)

    def where(self, path: str) -> str:
        """What is seen, and where: `path`, or a part of what is there, as trip.mp4#t=73 or scan.pdf#page=3."""
        return (f"{path}/{self.member}" if self.member else path) + self.fragment

    @property
    def fragment(self) -> str:
        """What of its file is seen, to be put behind its path: "#t=73", "#page=3"; empty for a whole file."""
        if not self.view:
            return ""
        return f"#{self.view.partition(',')[0] if self.view.startswith('t=') else self.view}"

    def to_dict(self, path: str, *, whole: bool = False) -> dict[str, Any]:
        """What is known of a picture at `path`, in the words of every answer (docs/api.md).

        `where` is there for a part of a file, also of an archive.
        `whole`: also `kept`, without which `from_dict` makes a record of what is told alone."""
        known = {name: getattr(self, name) for name in _TOLD}
        said = [(name, getattr(self.metadata, name)) for name in _SAID]
        about = {name: list(value) if isinstance(value, tuple) else value for name, value in said}
        told = {"path": path, "row_id": self.row_id, "name": self.path, **known, **about}
        kept = {"kept": {name: getattr(self, name) for name in KEPT}} if whole else {}
        if whole and self.metadata.live is not None:
            kept["kept"]["live"] = self.metadata.live
        place = {"where": self.where(path)} if self.view or self.member else {}
        return {**{name: told[name] for name, field in HIT_FIELDS.items() if field.of_picture}, **place, **kept}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any], *, whole: bool = False) -> ImageRecord:
        """The record that `to_dict` told. What an index keeps besides is as in `ImageRecord()`, where `to_dict` did not
        tell the whole: 0, or -1 for the number of its vector. `whole`: it must have. Raises: KeyError."""
        kept = body["kept"] if whole else body.get("kept")
        known = {
            **{name: body[name] for name in _TOLD},
            **({} if kept is None else {name: kept[name] for name in KEPT}),
        }
        about = {name: body[name] for name in _SAID}
        metadata = PictureMetadata.from_dict({**about, "live": (kept or {}).get("live")})
        return cls(row_id=body["row_id"], path=body["name"], metadata=metadata, **{"inode": 0, **known})


def page_view(number: int) -> str:
    """The locator of a page of a document."""
    return f"page={number}"


def angle_view(number: int) -> str:
    """The locator of an angle of a 3-D model."""
    return f"angle={number}"


@dataclass(frozen=True, slots=True)
class HitField:
    """A field of a hit: its type, and what it says."""

    type: Any
    says: str
    of_picture: bool = True  # whether a picture has it that is no hit
    is_brief: bool = True  # whether assistants are told


HIT_FIELDS: dict[str, HitField] = {
    "rank": HitField(int, "Rank, from 1.", of_picture=False),
    "score": HitField(float | None, "Cosine, -1 to 1. null if the query has only filters.", of_picture=False),
    "confidence": HitField(float | None, "Probability that the picture matches the query, 0 to 1.", of_picture=False),
    "band": HitField(Band | None, "The confidence in a word.", of_picture=False),
    "path": HitField(str, "Absolute path."),
    "row_id": HitField(int, "Identifies this picture in this index (similar, like:ROW_ID). Never reused."),
    "width": HitField(int | None, "Width as shown, in pixels."),
    "height": HitField(int | None, "Height as shown, in pixels."),
    "size_bytes": HitField(int, "Size of the file."),
    "taken_at": HitField(str | None, "Date taken, as ISO 8601 local time without an offset."),
    "camera": HitField(str | None, "Camera."),
    "latitude": HitField(float | None, "Degrees, north positive."),
    "longitude": HitField(float | None, "Degrees, east positive."),
    "format": HitField(str | None, "Format of the file."),
    "title": HitField(str | None, "Title that somebody gave it."),
    "caption": HitField(str | None, "Caption, description or comment that somebody wrote; a line for each."),
    "keywords": HitField(list[str], 'Keywords, with "|" between the levels of hierarchical ones.'),
    "people": HitField(list[str], "Names of people in it."),
    "rating": HitField(int | None, "Stars, 1 to 5; -1 if rejected; null if not rated."),
    "columns": HitField(list[str], "Other columns of the table or archive that it is in, as name=value."),
    "name": HitField(str, "Path relative to the indexed folder."),
    "mtime_ns": HitField(int, "When the file was changed, in nanoseconds since 1970.", is_brief=False),
    "content_hash": HitField(str | None, "xxh3-128 of the file, in hexadecimal.", is_brief=False),
    "member": HitField(str, "Member of an archive. Empty for a plain file.", is_brief=False),
    "view": HitField(str, "Part of the file that is shown. Empty for the whole file.", is_brief=False),
    "partial": HitField(str | None, "What is missing, if the picture was only partly readable.", is_brief=False),
    "date_source": HitField(
        str | None, "Source of the date, such as exif:DateTimeOriginal, sidecar:CreateDate or name.", is_brief=False
    ),
}
"""What every answer tells of a hit beside `others`, in this order: JSON, CSV, HTTP, assistants."""


def in_one_cell(value: Any) -> Any:
    """A value of a hit for a cell of a table: the texts of a list one behind the other."""
    return "; ".join(map(str, value)) if isinstance(value, list) else value


KEPT = (
    "inode", "vector_id", "attempts", "sidecars", "metadata_version", "traits", "colors", "perceptual_hash", "offset",
    "archive_bytes", "archive_rows",
)  # fmt: skip
"""What an index keeps of a picture besides, which only programs of ours are told."""
_SAID = tuple(part.name for part in fields(PictureMetadata) if part.name in HIT_FIELDS)
_TOLD = ("width", "height", "size_bytes", "mtime_ns", "content_hash", "member", "view", "partial")


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


def told_confidence(confidence: float) -> float:
    """A confidence as answers tell it."""
    return round(confidence, 4)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of words in a picture. `box`: left, top, width and height in pixels of the upright picture. `start_s`: of
    one that is said in a video, when, in seconds from its beginning; its box is empty. `by`: of a caption, which stands
    nowhere in the picture either, the model that wrote it."""

    text: str
    box: tuple[int, int, int, int]
    score: float  # how surely it was read, 0..1
    start_s: float | None = None
    by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The line in the words of every answer (docs/api.md)."""
        said = {} if self.start_s is None else {"start_s": self.start_s}
        by = {"by": self.by} if self.by else {}
        return {"text": self.text, "box": list(self.box), "score": self.score, **said, **by}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Line:
        """The line that `to_dict` told. Raises: KeyError, ValueError, TypeError."""
        left, top, width, height = map(int, body["box"])
        start_s = body.get("start_s")
        start_s = None if start_s is None else float(start_s)
        return cls(
            str(body["text"]), (left, top, width, height), float(body["score"]), start_s, str(body.get("by", ""))
        )


NO_BOX = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class FoundIn:
    """Which of several indexes that were searched together has a picture: what the index is called where it was
    searched (a folder, or a name of a server), its id, and the row id that the picture has there."""

    index: str
    index_id: str
    row_id: int

    def to_dict(self) -> dict[str, Any]:
        """The same in the words of every answer (docs/api.md)."""
        return {"index": self.index, "index_id": self.index_id, "index_row_id": self.row_id}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> FoundIn | None:
        """What `to_dict` told; None of an answer from one index. Raises: KeyError."""
        return (
            cls(body["index"], body["index_id"], body["index_row_id"]) if body.get("index_row_id") is not None else None
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit of a query. `path` is absolute, or an address; `score` is a cosine in -1..1, or NaN for filters alone.
    `others`: near-duplicates that this hit stands for. `confidence`: the probability (0..1) that the picture shows what
    the query says, and `band` the word for it; both None if no picture was compared. `words`: the lines in the picture
    that match the query, by `text:` or because they have its words."""

    rank: int  # from 1
    score: float
    path: str
    record: ImageRecord
    others: tuple[Hit, ...] = ()
    confidence: float | None = None
    band: Band | None = None
    words: tuple[Line, ...] = ()
    found_in: FoundIn | None = None  # of a search of several indexes
    clip: Hit | None = None  # of the still of a Live Photo: its clip, for which it stands as well
    likelihood: float | None = None  # of one that was re-ranked: see search/rerank.py

    @property
    def where(self) -> str:
        """The path, with the part of the file that was found: trip.mp4#t=73."""
        return self.record.where(self.path)

    def to_dict(self, *, exact: bool = False, whole: bool = False) -> dict[str, Any]:
        """The hit in the words of every answer: JSON, CSV, HTTP, assistants (docs/api.md).

        NaN is None; scores have six digits after the point and confidences four, unless `exact`. `whole`: see
        `ImageRecord.to_dict`.
        """
        score = None if math.isnan(self.score) else self.score if exact else round(self.score, 6)
        confidence = self.confidence if exact or self.confidence is None else told_confidence(self.confidence)
        judged = {"rank": self.rank, "score": score, "confidence": confidence, "band": self.band}
        others = [other.to_dict(exact=exact, whole=whole) for other in self.others]
        words = [line.to_dict() for line in self.words]
        told = {**judged, **self.record.to_dict(self.path, whole=whole), "others": others, "words": words}
        if self.clip is not None:
            told["clip"] = self.clip.to_dict(exact=exact, whole=whole)
        if self.likelihood is not None:
            told["likelihood"] = self.likelihood if exact else round(self.likelihood, 6)
        return told if self.found_in is None else {**told, **self.found_in.to_dict()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any], *, whole: bool = False) -> Hit:
        """The hit that `to_dict` told: the same with `exact` and `whole`, else one that tells the same. `whole`: it
        must have told the whole. Raises: KeyError."""
        score = math.nan if body["score"] is None else body["score"]
        others = tuple(cls.from_dict(other, whole=whole) for other in body["others"])
        record = ImageRecord.from_dict(body, whole=whole)
        words = tuple(map(Line.from_dict, body.get("words", ())))
        found_in = FoundIn.from_dict(body)
        clip = None if body.get("clip") is None else cls.from_dict(body["clip"], whole=whole)
        judged = body["confidence"], body["band"]
        likelihood = body.get("likelihood")
        return cls(body["rank"], score, body["path"], record, others, *judged, words, found_in, clip, likelihood)

    def _repr_html_(self) -> str:
        """The hit with its picture, for notebooks."""
        return Hits([self])._repr_html_()


NOTHING_CERTAIN = sentence("nothing_certain", "nothing certain; nearest:")
"""What stands above hits none of which is likely."""
NOTHING_FOUND = "nothing found: "
"""What stands where there are no hits, before the reason."""
NOTHING_SIMILAR = f"{NOTHING_FOUND}the index has no other picture"


class Hits(list[Hit]):
    """A list of hits, as `search` returns it, that notebooks show as thumbnails. `len`, `==`, JSON: as of any list."""

    __slots__ = ("_are_certain", "_thumbnail")

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        thumbnail: Callable[[Hit], bytes] | None = None,
        *,
        are_certain: bool = True,
    ) -> None:
        """`thumbnail` gives the JPEG of a hit, where paths are those of another machine.

        `are_certain` is False for the nearest to a query that has no likely hit.
        """
        super().__init__(hits)
        self._thumbnail = thumbnail
        self._are_certain = are_certain

    @property
    def are_certain(self) -> bool:
        """Whether these are what was asked for, as far as can be said. False for the nearest to a query that has no
        likely hit, and where there are no hits: `if hits.are_certain` is never true of nothing."""
        return bool(self) and self._are_certain

    @are_certain.setter
    def are_certain(self, are_certain: bool) -> None:
        self._are_certain = are_certain

    @overload
    def __getitem__(self, at: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, at: slice) -> Hits: ...
    def __getitem__(self, at: SupportsIndex | slice) -> Hit | Hits:
        found = super().__getitem__(at)
        if not isinstance(found, list):
            return found
        return Hits(found, self._thumbnail, are_certain=self._are_certain)

    def __reduce_ex__(
        self, protocol: SupportsIndex
    ) -> tuple[type[Hits], tuple[list[Hit]], tuple[None, dict[str, Any]]]:
        return Hits, (list(self),), (None, {"_are_certain": self._are_certain})  # a connection cannot be copied

    def _repr_html_(self) -> str:
        """The first hits with their pictures, for notebooks."""
        # By name, as clipsearch's own names are: this is the ground floor, and loads no decoder before it is shown.
        html: str = import_module("clipsearch.pictures.notebook").as_html(self, self._thumbnail)
        return html


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
class Fragment:
    """Rows: one Parquet file of records, and what is derived from it. Row ids lie in first_row_id..last_row_id.

    `rows_file` is what queries and later runs read of the same records. `dead` are rows that were replaced or removed,
    `missing` rows whose files cannot be seen at present; neither is answered.
    """

    data: FileRef
    rows: int
    pictures: int  # rows that have a vector; the rest are files that were skipped
    first_row_id: int
    last_row_id: int
    rows_file: FileRef | None
    dead: FileRef | None = None
    dead_count: int = 0
    missing: FileRef | None = None
    missing_count: int = 0
    columns_file: FileRef | None = None  # format 1 only
    dead_copy: FileRef | None = None  # the same marks once more: nothing else has them
    missing_copy: FileRef | None = None
    views: int = 0  # rows that are a part of a file; all rows of one file follow each other in one fragment
    members: int = 0  # rows that are in an archive

    def files(self) -> list[FileRef]:
        """Every file of the fragment."""
        refs = (
            self.data,
            self.rows_file,
            self.dead,
            self.missing,
            self.columns_file,
            self.dead_copy,
            self.missing_copy,
        )
        return [ref for ref in refs if ref is not None]


@dataclass(frozen=True, slots=True)
class Segment:
    """Vectors: one Parquet file, and its searchable form. Vector ids lie in first_vector_id..last_vector_id.

    `mapped` holds the same vectors with their ids and content hashes, to be mapped; `faiss` an inverted file over them,
    only where exact search would be too slow; `hidden` the ids of vectors that no row in answer refers to.
    """

    data: FileRef
    vectors: int
    first_vector_id: int
    last_vector_id: int
    mapped: FileRef
    faiss: FileRef | None = None
    ivf: IvfParameters | None = None
    hidden: FileRef | None = None
    hidden_count: int = 0

    def files(self) -> list[FileRef]:
        """Every file of the segment."""
        return [ref for ref in (self.data, self.mapped, self.faiss, self.hidden) if ref is not None]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model whose vectors an index holds."""

    name: str
    fingerprint: str
    dim: int
    score_scale: float
    precision: str | None = None  # the arithmetic that made the vectors, as far as it was noted: fp32, bf16, int8
    tiled: int = 0  # in how many views each picture was encoded, the whole and its tiles; 0: as a whole alone
    regions: int = 0  # of how many tiles of each picture the vectors are kept, too; 0: of none

    @property
    def views(self) -> int:
        """In how many views each picture was encoded: 1 or VIEWS."""
        return self.tiled or 1

    def makes_vectors_of(self, other: ModelRef) -> bool:
        """Whether its vectors and those of another can stand in one index."""
        return (self.fingerprint, self.tiled, self.regions) == (other.fingerprint, other.tiled, other.regions)


TagKind = Literal["tag", "concept", "search"]


@dataclass(frozen=True, slots=True)
class SavedSearch:
    """A search that somebody saved in an index: a query, and how its hits are shown."""

    name: str
    query: str
    sort: Sort = "score"
    unique: bool = False
    diverse: bool = False
    all: bool = False


@dataclass(frozen=True, slots=True)
class TagRef:
    """A tag of an index: its file holds the content hashes of `pictures` pictures; `copy` is the same once more.

    A saved search is kept as a tag without pictures is, and has names of its own.
    """

    name: str
    kind: TagKind
    pictures: int
    file: FileRef
    copy: FileRef | None = None

    def files(self) -> list[FileRef]:
        """The tag's file and its copy."""
        return [ref for ref in (self.file, self.copy) if ref is not None]


@dataclass(frozen=True, slots=True)
class WordsRef:
    """A file of the words in `pictures` pictures, of which `written` have any (see store.words)."""

    file: FileRef
    pictures: int
    written: int


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What `--reindex` has made so far. It takes the place of the index's rows and vectors when it is whole."""

    model: ModelRef
    fragments: tuple[Fragment, ...] = ()
    segments: tuple[Segment, ...] = ()

    def files(self) -> list[FileRef]:
        """Every file made so far."""
        refs = [ref for fragment in self.fragments for ref in fragment.files()]
        return refs + [ref for segment in self.segments for ref in segment.files()]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One generation of an index: every file that belongs to it."""

    generation: int
    created_at: str  # ISO 8601, UTC
    root: str  # the collection's folder: relative to the index folder, or absolute; "": unknown, after a repair
    model: ModelRef
    next_row_id: int
    next_vector_id: int = 0
    fragments: tuple[Fragment, ...] = ()
    segments: tuple[Segment, ...] = ()
    pictures: int = 0  # files, or members of archives, that are answered
    skipped: int = 0  # files that could not be read
    missing: int = 0  # files that cannot be seen
    more_views: int = 0  # rows that are answered beside the first of their file
    recall_target: float = 0.985  # recall@10 that inverted files are tuned for
    devices: dict[str, int] = field(default_factory=dict)  # the drive of the root ("") and of folders; see scan
    clock_s: int = 0  # the index's own clock, and by the system's when it was read; see indexer/patience.py
    clock_read_s: int = 0
    clock_waiting_s: int = 0
    metadata_version: int = 0  # the last whose readers told the user what they could read of older rows
    links: str = ""  # out of the folder: "inside": not followed; "followed"; "": followed, as always once
    archives: str = ""  # "read": also in tars and tables; "data set": only in those of the data set itself
    listed: str = ""  # the file in the folder that is the source, if it is not the folder: an archive, or a list
    rebuild: Rebuild | None = None
    tags: tuple[TagRef, ...] = ()  # by folded name; the writer feature "tags" is set where there are any
    tags_before: tuple[TagRef, ...] = ()  # the same before their last change
    words: tuple[WordsRef, ...] = ()  # oldest first; the writer feature "words" is set where there are any
    captions: tuple[WordsRef, ...] = ()  # the same of captions that a model wrote; the writer feature is "captions"
    ancestors: tuple[FileRef, ...] | None = None
    """Manifests, still there when this was written, of the generations that it came from, the last one first; None:
    written by a version that took every lower number for one."""

    reader_features: tuple[str, ...] = ()  # what a reader must know to read this correctly
    writer_features: tuple[str, ...] = ()  # what a writer must know to change this correctly
    format_version: int = 2

    @property
    def answered(self) -> int:
        """How many rows are answered: every view of every picture."""
        return self.pictures + self.more_views

    def files(self) -> list[FileRef]:
        """Every file that this generation refers to."""
        refs = [ref for fragment in self.fragments for ref in fragment.files()]
        refs += [ref for segment in self.segments for ref in segment.files()]
        refs += [ref for tag in (*self.tags, *self.tags_before) for ref in tag.files()]
        refs += [words.file for words in (*self.words, *self.captions)]
        if self.rebuild is not None:
            refs += self.rebuild.files()
        return list({ref.path: ref for ref in refs}.values())
