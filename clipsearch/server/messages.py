"""What requests and answers of the API look like. Types only; OpenAPI is made from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model, model_validator

from clipsearch.query import LENGTH_LIMIT
from clipsearch.query.arguments import (
    FARTHEST,
    MOST_AT_ONCE,
    MOST_DIMENSIONS,
    MOST_EXAMPLES,
    MOST_TEXTS,
    MOST_VECTORS,
    read_given,
)
from clipsearch.records import DEFAULT_HITS, HIT_FIELDS, Band, Sort

MOST_FIELDS = 100
DEEPEST = FARTHEST
MOST_CHARACTERS = LENGTH_LIMIT
MOST_PICTURES = 32
MOST_FILES = 1000

IndexName = Annotated[
    str | None,
    Field(
        description="Name of an index (see /v1/status), or * for all of them together. Default: the first.",
        max_length=1000,
    ),
]
Id = Annotated[int, Field(ge=0, lt=2**63)]
Bytes = Annotated[
    str | None,
    Field(
        pattern="^([0-9a-f]{2})*$", description="The exact bytes of text that is not UTF-8, in hexadecimal.", repr=False
    ),
]
PART = "Part of the picture: X,Y,WIDTH,HEIGHT in pixels of the upright picture, or percent:X,Y,WIDTH,HEIGHT."
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
IndexId = Annotated[
    str | None,
    Field(
        pattern="^[0-9a-f]{8,32}$",
        description="At least the first 8 digits of the index's id (see /v1/status): another index returns 409.",
    ),
]

ToldId = Annotated[str, Field(description="Id of the index that the row ids belong to.")]
Content = Annotated[
    str | None,
    Field(
        pattern="^[0-9a-f]{16,32}$",
        description="At least the first 16 digits of the picture's content_hash: no other picture is meant.",
    ),
]


class Request(BaseModel):
    """What is common to all requests: no field but those that are known."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def read(cls, given: Any) -> Any:
        """Fields that a search in Python has too are read as there. Raises: InvalidQuery, NoSuchPicture.

        A message for each of very many fields would take seconds, while nobody else is answered.
        """
        if isinstance(given, dict) and len(given) > MOST_FIELDS:
            raise ValueError(f"at most {MOST_FIELDS} fields")
        return read_given(given, cls.model_fields) if isinstance(given, dict) else given


class NamedFile(Request):
    """A picture file of the client that a query names."""

    path: Annotated[str, Field(max_length=MOST_CHARACTERS, description="As the query has it. It is not opened.")]
    path_bytes: Bytes = None


class SentPicture(NamedFile):
    """The same, with its vector."""

    vector: Annotated[
        list[float], Field(max_length=MOST_DIMENSIONS, description="Its vector, as returned by /v1/embed/upload.")
    ]


class SearchRequest(Request):
    """A search."""

    query: Annotated[
        Text,
        Field(
            description="Query in the query language (docs/query.md). Empty: list the newest pictures.",
            examples=["dog beach -people after:2023-05"],
        ),
    ] = ""
    query_bytes: Bytes = None
    vector: Annotated[
        list[float] | None,
        Field(
            max_length=MOST_DIMENSIONS, description="Vector to add to the terms of the query, as returned by /v1/embed."
        ),
    ] = None
    pictures: Annotated[
        list[SentPicture], Field(max_length=MOST_PICTURES, description="Picture files of the client in the query.")
    ] = []
    k: Annotated[int, Field(ge=1, le=MOST_AT_ONCE, description="Number of hits.")] = DEFAULT_HITS
    sort: Annotated[Sort, Field(description="Order of the hits.")] = "score"
    all: Annotated[bool, Field(description="Also return unlikely matches.")] = False
    min_confidence: Annotated[
        float | None, Field(ge=0, le=1, description="Leave out hits below this confidence, and no others.")
    ] = None
    unique: Annotated[bool, Field(description="Show near-duplicates as one hit, the best.")] = False
    each: Annotated[
        bool, Field(description="Return every matching moment of a video or page of a document, not only the best.")
    ] = False
    diverse: Annotated[
        bool | Annotated[float, Field(ge=0, le=1)], Field(description="How strongly to prefer varied hits. true: 0.5.")
    ] = False
    like: Annotated[list[Id], Field(max_length=MOST_EXAMPLES, description="Row ids of relevant hits.")] = []
    unlike: Annotated[list[Id], Field(max_length=MOST_EXAMPLES, description="Row ids of irrelevant hits.")] = []
    offset: Annotated[int, Field(ge=0, le=DEEPEST, description="Number of hits to skip.")] = 0
    locate: Annotated[
        Id | None, Field(description="Row id of a picture. `position` tells where it is, `located` what it is.")
    ] = None
    index: IndexName = None
    index_id: IndexId = None
    at_least_generation: Annotated[
        int | None, Field(ge=0, description="Wait until this generation of the index is open.")
    ] = None


class SimilarRequest(Request):
    """A search for pictures similar to one of the index."""

    row_id: Annotated[
        int | None,
        Field(description="Row id of a picture.", examples=[7], validation_alias=AliasChoices("row_id", "id")),
    ] = None
    path: Annotated[
        str | None, Field(max_length=MOST_CHARACTERS, description="Path of a picture in the index, instead of row_id.")
    ] = None
    path_bytes: Bytes = None
    content: Content = None
    xywh: Annotated[str | None, Field(max_length=200, description=PART, examples=["10,20,300,200"])] = None
    k: Annotated[int, Field(ge=1, le=MOST_AT_ONCE, description="Number of hits.")] = DEFAULT_HITS
    offset: Annotated[int, Field(ge=0, le=DEEPEST, description="Number of hits to skip.")] = 0
    index: IndexName = None
    index_id: IndexId = None


class WhereRequest(Request):
    """A picture of the index, and what to look for in it."""

    query: Annotated[
        Text, Field(description="Query in the query language (docs/query.md).", examples=["a dog on a beach"])
    ] = ""
    query_bytes: Bytes = None
    vector: Annotated[
        list[float] | None, Field(max_length=MOST_DIMENSIONS, description="Vector to add to the terms of the query.")
    ] = None
    pictures: Annotated[
        list[SentPicture], Field(max_length=MOST_PICTURES, description="Picture files of the client in the query.")
    ] = []
    like: Annotated[list[Id], Field(max_length=MOST_EXAMPLES, description="Row ids of relevant hits.")] = []
    unlike: Annotated[list[Id], Field(max_length=MOST_EXAMPLES, description="Row ids of irrelevant hits.")] = []
    row_id: Annotated[int, Field(description="Row id of the picture.", examples=[7])]
    content: Content = None
    form: Annotated[
        Literal["json", "png"], Field(description="png: the picture with the map and the box drawn over it.")
    ] = "json"
    index: IndexName = None
    index_id: IndexId = None

    @property
    def question(self) -> SearchRequest:
        """The search with that query, of everything."""
        return SearchRequest(**self.model_dump(exclude={"row_id", "content", "form"}), all=True)


class PictureRequest(Request):
    """A picture of the index, by its path."""

    path: Annotated[str, Field(max_length=MOST_CHARACTERS, description="Absolute, or relative to the indexed folder.")]
    path_bytes: Bytes = None
    index: IndexName = None


class NoticesRequest(Request):
    """A query, to be told what /v1/search would say of it."""

    query: Annotated[Text, Field(description="Query in the query language (docs/query.md).")]
    query_bytes: Bytes = None
    files: Annotated[
        list[NamedFile], Field(max_length=MOST_FILES, description="Picture files of the client in the query.")
    ] = []
    index: IndexName = None


class NoticesAnswer(BaseModel):
    """What should be said of a query."""

    notices: Annotated[
        list[str],
        Field(description="Words that are almost filters, how the query was read, and what the model does not read."),
    ]


class EmbedRequest(Request):
    """Texts to encode."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS, examples=[["a dog on a beach"]])]
    index: IndexName = None


class VectorsRequest(Request):
    """Pictures whose vectors to return."""

    row_ids: Annotated[list[Id], Field(max_length=MOST_VECTORS)]
    index: IndexName = None
    index_id: IndexId = None


def told(names: Iterable[str]) -> dict[str, Any]:
    """Those fields of a hit, for a model of pydantic."""
    return {name: (HIT_FIELDS[name].type, Field(description=HIT_FIELDS[name].says)) for name in names}


class _Shown(BaseModel):
    """A picture in the index."""

    thumbnail: Annotated[str, Field(description="URL of a thumbnail, relative to the server.")]
    kept: Annotated[dict[str, int | str], Field(description="What else the index keeps, for clipsearch.connect.")]
    where: Annotated[
        str | None,
        Field(default=None, description="Only for a part of a file: its place, such as trip.mp4#t=73."),
    ]
    moment: Annotated[
        str | None,
        Field(
            default=None,
            description="Only for motion photos and Live Photos: URL of the clip, under the terms of original files.",
        ),
    ]


_OF_PICTURE = [name for name, field in HIT_FIELDS.items() if field.of_picture]
Picture = create_model("Picture", __base__=_Shown, __doc__=_Shown.__doc__, **told(_OF_PICTURE))


class KnownPicture(Picture):  # type: ignore[valid-type,misc]
    """A picture in the index, and in which."""

    index_id: ToldId


_Found = create_model("_Found", __base__=Picture, **told(name for name in HIT_FIELDS if name not in _OF_PICTURE))


class WrittenLine(BaseModel):
    """A line of words in a picture, or of a caption that a model wrote."""

    text: str
    box: Annotated[list[int], Field(description="Left, top, width, height in pixels of the upright picture.")]
    score: Annotated[float, Field(description="The reader's confidence, 0 to 1.")]
    start_s: Annotated[float | None, Field(description="Only for subtitles, which have no box: when, in seconds.")] = (
        None
    )
    by: Annotated[str | None, Field(description="Only for generated captions, which have no box: the model.")] = None


Words = Annotated[
    list[WrittenLine],
    Field(
        default_factory=list,
        description="Lines that match the query: its text:, its caption:, or its words.",
    ),
]


class FoundPicture(_Found):  # type: ignore[valid-type,misc]
    """A hit."""

    others: Annotated[list[FoundPicture], Field(default_factory=list, description="Near-duplicates of this hit.")]
    words: Words
    clip: Annotated[
        FoundPicture | None,
        Field(default=None, description="Only for the still of a Live Photo: its clip, at its best moment."),
    ]
    index: Annotated[
        str | None, Field(default=None, description="Only for a search of several indexes: the one that has it.")
    ]
    index_id: Annotated[str | None, Field(default=None, description="Id of that index.")]
    index_row_id: Annotated[int | None, Field(default=None, description="Its row id there.")]


class MissingIndex(BaseModel):
    """An index that was left out."""

    index: str
    reason: str


class WhereAnswer(BaseModel):
    """Where in a picture a query matches."""

    index_id: ToldId
    row_id: int
    width: Annotated[int, Field(description="Of the upright picture, in pixels, as are all places.")]
    height: int
    box: Annotated[list[int], Field(description="Left, top, width, height of the matching area around the peak.")]
    fragment: Annotated[
        str, Field(description="The box in the form that queries take after like:ID.", examples=["#xywh=1,2,3,4"])
    ]
    peak: Annotated[list[int], Field(description="x, y of the place that matches best.")]
    score: Annotated[float, Field(description="Its cosine.")]
    by: Annotated[str, Field(description="features of places, or crops of the picture.")]
    confidence: Annotated[
        float | None, Field(description="How likely the picture shows what is asked for at all, 0 to 1.")
    ]
    band: Annotated[Band | None, Field(description="The same as a word. A map always points somewhere.")]
    scores: Annotated[list[list[float]], Field(description="Cosines of places: rows from the top, from the left.")]


class WordsAnswer(BaseModel):
    """The words in a picture, as far as `clipsearch read` has read them."""

    index_id: ToldId
    row_id: int
    lines: Annotated[list[WrittenLine], Field(description="In reading order.")]
    captions: Annotated[
        list[WrittenLine], Field(default_factory=list, description="Captions that a model wrote of it.")
    ]


class ViewState(BaseModel):
    """A part of a file that is searched by itself: a shot of a video, a page of a document."""

    row_id: int
    view: Annotated[str, Field(description="The part of the file; empty for a whole file.", examples=["t=73,78.5"])]
    start_s: Annotated[float | None, Field(description="When a shot begins, in seconds.")]
    page: Annotated[int | None, Field(description="The number of a page, from 1.")]
    thumbnail: Annotated[str, Field(description="URL of a thumbnail, relative to the server.")]


class ViewsAnswer(BaseModel):
    """The parts of a file, in their order."""

    index_id: ToldId
    views: list[ViewState]


class SimilarAnswer(BaseModel):
    """Hits, best first."""

    index: str
    index_id: ToldId
    generation: int
    took_ms: float
    hits: list[FoundPicture]
    notices: Annotated[
        list[str],
        Field(
            description="Why nothing is found, or that nothing is certain; then hints about the query: words that the "
            "model does not read, words that are almost filters."
        ),
    ] = []
    partial: Annotated[bool, Field(description="Of several indexes, or shards, whether some were left out.")] = False
    missing: Annotated[list[MissingIndex], Field(description="Those that were left out.")] = []


class SearchAnswer(SimilarAnswer):
    """A page of hits, with the total."""

    position: Annotated[
        int | None, Field(description="Position of the picture in `locate`, from 0; null if it is not a hit.")
    ] = None
    located: Annotated[
        FoundPicture | None,
        Field(
            description="The picture in `locate` as a hit of this query: itself, also where another moment or page "
            "of its file, or a near-duplicate, stands for it. Its rank is 0 if it is not a hit."
        ),
    ] = None
    total: Annotated[int, Field(description="Number of hits in all.")]
    hidden: Annotated[int, Field(description="Number of unlikely matches left out.")]


class EmbedAnswer(BaseModel):
    """Unit vectors, comparable with those in the index."""

    index_id: ToldId
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
    """Progress of an indexing run."""

    stage: Annotated[str, Field(description="describe (metadata only), read, commit or merge.")]
    done: Annotated[int, Field(description="Files done.")]
    total: Annotated[int, Field(description="New and changed files.")]
    encoded: Annotated[int, Field(description="Pictures encoded so far.")]
    seconds: Annotated[float, Field(description="Seconds since the first file.")]


class IndexState(BaseModel):
    """An index that is served."""

    name: str
    id: Annotated[str, Field(description="Random id, created with the index.")]
    root: str
    generation: int
    committed_at: str
    model: str
    fingerprint: str
    dim: int
    pictures: int
    skipped: int
    tags: list[TagState]
    is_being_written: Annotated[bool, Field(description="Whether an indexing run is in progress.")]
    is_behind: Annotated[
        bool, Field(description="Whether its newest version cannot be read or was removed. The previous one is served.")
    ] = False
    progress: Annotated[RunState | None, Field(description="Progress of the run, if known.")]


class TogetherState(BaseModel):
    """All indexes that are served, as one that is called *."""

    name: str
    id: Annotated[str | None, Field(description="Id for the row ids of its answers.")]
    generation: Annotated[int | None, Field(description="Sum of the generations of the indexes.")]
    pictures: int | None
    problem: Annotated[str | None, Field(description="Why they cannot be searched together; null if they can.")]


class StatusAnswer(BaseModel):
    """The indexes that are served."""

    version: str
    originals: Annotated[bool, Field(description="Whether browsers on this machine can get original files.")]
    indexes: list[IndexState]
    missing: Annotated[list[MissingIndex], Field(description="Indexes of this server that cannot be read.")] = []
    together: Annotated[TogetherState | None, Field(description="All of them together; null for fewer than two.")] = (
        None
    )


class SkippedFile(BaseModel):
    """A skipped file and the reason."""

    path: str
    status: str
    reason: str


class SkippedAnswer(BaseModel):
    """Skipped files."""

    index: str
    total: int
    skipped: list[SkippedFile]


class Sentence(BaseModel):
    """A sentence by its code, with the parts that are put in; null where there is only English."""

    code: str
    parts: dict[str, Any]


class Problem(BaseModel):
    """An error."""

    error: Annotated[str, Field(description="Class of the error.", examples=["InvalidQuery"])]
    message: str
    position: Annotated[int | None, Field(description="Position in the query, in characters from 0.")] = None
    fields: Annotated[dict[str, Any], Field(description="Other fields of the error, by name.")] = {}
    sentences: Annotated[list[Sentence | None], Field(description="The message by codes, for other languages.")] = []
