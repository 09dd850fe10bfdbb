"""What requests and answers of the API look like. Types only; OpenAPI is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from clipsearch.records import DEFAULT_HITS

MOST_HITS = 10_000
DEEPEST = 10_000_000
MOST_TEXTS = 256
MOST_CHARACTERS = 10_000
MOST_DIMENSIONS = 8192
MOST_EXAMPLES = 1000

IndexName = Annotated[
    str | None, Field(description="Name of an index, see /v1/status; the first one if left out.", max_length=1000)
]
Id = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
IndexId = Annotated[
    str | None,
    Field(
        pattern="^[0-9a-f]{8,32}$",
        description="The first 8 digits or more of the index's id (see /v1/status): another index answers 409.",
    ),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchRequest(_Request):
    """A question."""

    query: Annotated[
        Text,
        Field(
            description="In the query language (docs/query.md). Empty, with nothing else: the newest first.",
            examples=["dog beach -people after:2023-05"],
        ),
    ] = ""
    vector: Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)]] | None,
        Field(max_length=MOST_DIMENSIONS, description="To be added to the query's terms, as /v1/embed gives it."),
    ] = None
    k: Annotated[int, Field(ge=1, le=MOST_HITS, description="How many hits.")] = DEFAULT_HITS
    sort: Annotated[Literal["score", "date", "path"], Field(description="The order of all hits.")] = "score"
    all: Annotated[bool, Field(description="Also what is unlikely to be a match.")] = False
    unique: Annotated[bool, Field(description="Fold near-duplicates into the best of them.")] = False
    diverse: Annotated[
        bool | Annotated[float, Field(ge=0, le=1)], Field(description="How much to prefer hits that differ; true: 0.5.")
    ] = False
    like: Annotated[list[Id], Field(max_length=MOST_EXAMPLES, description="Row ids of hits that were right.")] = []
    unlike: Annotated[list[Id], Field(max_length=MOST_EXAMPLES, description="Row ids of hits that were wrong.")] = []
    offset: Annotated[int, Field(ge=0, le=DEEPEST, description="How many of the best hits to leave out.")] = 0
    locate: Annotated[Id | None, Field(description="Row id of a picture: `position` is where it is in this order.")] = (
        None
    )
    index: IndexName = None
    index_id: IndexId = None
    at_least_generation: Annotated[
        int | None, Field(ge=0, description="Wait until this generation of the index is open.")
    ] = None


class SimilarRequest(_Request):
    """A picture of the index; what is like it?"""

    row_id: Annotated[
        Id | None,
        Field(description="Row id of a picture.", examples=[7], validation_alias=AliasChoices("row_id", "id")),
    ] = None
    path: Annotated[
        str | None, Field(max_length=MOST_CHARACTERS, description="Instead: path of a picture in the index.")
    ] = None
    k: Annotated[int, Field(ge=1, le=MOST_HITS, description="How many hits.")] = DEFAULT_HITS
    index: IndexName = None


class EmbedRequest(_Request):
    """Texts to be made into vectors."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS, examples=[["a dog on a beach"]])]
    index: IndexName = None


class VectorsRequest(_Request):
    """Pictures of the index whose vectors are wanted."""

    row_ids: Annotated[list[Id], Field(max_length=MOST_EXAMPLES)]
    index: IndexName = None


class Picture(BaseModel):
    """What the index knows of a picture."""

    row_id: Annotated[int, Field(description="Row id: names this picture in this index, and never another.")]
    path: Annotated[str, Field(description="Where it is, absolute.")]
    name: Annotated[str, Field(description="The same, relative to the folder that was indexed.")]
    size_bytes: int
    mtime_ns: int
    content_hash: str | None = Field(description="xxh3-128 of the file's bytes, hexadecimal.")
    width: int | None
    height: int | None
    format: str | None
    taken_at: str | None = Field(description="When it was taken: ISO 8601 local time, without an offset.")
    date_source: str | None = Field(
        description="What says so, such as exif:DateTimeOriginal, sidecar:CreateDate, name."
    )
    camera: str | None
    latitude: float | None
    longitude: float | None
    member: Annotated[str, Field(description="Which part of an archive; empty for a file.")]
    view: Annotated[str, Field(description="What of the file is seen; empty for all of it.")]
    partial: str | None = Field(description="What is missing of a picture that could be read in part.")
    thumbnail: Annotated[str, Field(description="Address of a small copy, relative to the server.")]


class FoundPicture(Picture):
    """A hit."""

    rank: Annotated[int, Field(description="From 1.")]
    score: Annotated[float | None, Field(description="Cosine, -1 to 1; null where the query has only filters.")]
    confidence: Annotated[float | None, Field(description="Probability that it shows what the query says.")]
    band: Annotated[Literal["strong", "maybe", "unlikely"] | None, Field(description="The same in a word.")]
    others: Annotated[list[FoundPicture], Field(description="Near-duplicates that this hit stands for.")] = []


class SimilarAnswer(BaseModel):
    """Hits, best first."""

    index: str
    generation: int
    took_ms: float
    hits: list[FoundPicture]
    notices: Annotated[
        list[str], Field(description="What to know of the query: words that are not read, or nearly filters.")
    ] = []


class SearchAnswer(SimilarAnswer):
    """A window of hits, and how many there are."""

    index_id: Annotated[str, Field(description="The index's id: row ids are those of this index.")]
    position: Annotated[
        int | None, Field(description="Where the picture of `locate` is, from 0; null where it is not among the hits.")
    ] = None
    total: Annotated[int, Field(description="How many hits there are in all.")]
    hidden: Annotated[int, Field(description="How many more are left out because they are unlikely.")]


class EmbedAnswer(BaseModel):
    """Unit vectors, comparable with those of the index."""

    model: str
    fingerprint: str
    dim: int
    vectors: list[list[float]]


class TagState(BaseModel):
    """A tag of an index, for `tag:NAME`; a concept also for `like:NAME`."""

    name: str
    kind: str
    pictures: int


class RunState(BaseModel):
    """How far an indexing run is."""

    stage: Annotated[str, Field(description="describe (metadata alone), read, commit or merge.")]
    done: Annotated[int, Field(description="Files that are dealt with.")]
    total: Annotated[int, Field(description="Files that are new or changed.")]
    encoded: Annotated[int, Field(description="Of those done: pictures that were made into vectors.")]
    seconds: Annotated[float, Field(description="Since the first file.")]


class IndexState(BaseModel):
    """One index that is served."""

    name: str
    id: Annotated[str, Field(description="Random, made with the index: one made anew has another.")]
    root: str
    generation: int
    committed_at: str
    model: str
    fingerprint: str
    dim: int
    pictures: int
    skipped: int
    tags: list[TagState]
    is_being_written: Annotated[bool, Field(description="Whether an indexing run is under way.")]
    progress: Annotated[RunState | None, Field(description="How far it is, where it says so.")]


class StatusAnswer(BaseModel):
    """What is served."""

    version: str
    originals: Annotated[bool, Field(description="Whether browsers on this machine get original files.")]
    indexes: list[IndexState]


class SkippedFile(BaseModel):
    """A file that cannot be found, and why."""

    path: str
    status: str
    reason: str


class SkippedAnswer(BaseModel):
    """Files that cannot be found."""

    index: str
    total: int
    skipped: list[SkippedFile]


class Problem(BaseModel):
    """Why there is no answer."""

    error: Annotated[str, Field(description="The kind of error.", examples=["InvalidQuery"])]
    message: str
    position: Annotated[int | None, Field(description="Where in the query, in characters from 0.")] = None
    fields: Annotated[dict[str, Any], Field(description="What the error carries besides, by name.")] = {}
