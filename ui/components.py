"""An application of Gradio's own components: text, a picture, filters, a gallery with confidence, similar, thumbs."""

# No `from __future__ import annotations` here: Gradio reads the annotations of functions as they are.
import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import Parameter, signature
from keyword import iskeyword
from typing import Any, Literal, NoReturn

import gradio
from PIL import Image

from clipsearch.errors import ClipsearchError, InvalidQuery
from clipsearch.filenames import for_parsers, safe
from clipsearch.pictures.notebook import small_copy
from clipsearch.places import is_file
from clipsearch.query import parse_query
from clipsearch.query.fields import FILTERS, Field, as_filter
from clipsearch.records import NOTHING_CERTAIN, Hit, Hits
from clipsearch.remote import RemoteCollection
from clipsearch.search.collection import Collection
from clipsearch.search.protocol import AnyCollection
from clipsearch.ui.tables import extensions

SIDE: Literal[512] = 512  # pixels of the longer side of a picture in the gallery
MOST_SHOWN = 200
SHOWN = 40
READERS = 4
_MARKDOWN = re.compile(r"[\\`*_~<>&\[\]$]")  # what a notice repeats of a query or a tag is text
SORTS = [("best first", "score"), ("newest first", "date"), ("by name", "path")]

Shown = list[tuple[Image.Image, str]]


def search_blocks(collection: AnyCollection, title: str) -> gradio.Blocks:
    """See `clipsearch.ui.blocks`."""
    search = _Searching(collection)
    filters = [field for field in FILTERS.values() if field.control is not None]
    with gradio.Blocks(title=title, analytics_enabled=False) as blocks:
        rows, liked, unliked = (gradio.State([]) for _ in range(3))
        chosen = gradio.State(None)
        gradio.Markdown(f"# {_as_text(title)}", visible=bool(title))
        with gradio.Row():
            query = gradio.Textbox(
                "", label="Search", placeholder="a dog on a beach", max_length=10_000, scale=4, autofocus=True
            )
            button = gradio.Button("Search", variant="primary", scale=0, min_width=120)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=240):
                picture = gradio.Image(
                    label="Like this picture", type="pil", sources=["upload", "clipboard"], height=200
                )
                with gradio.Accordion("Filters", open=False):
                    controls = [_control(field, collection) for field in filters]
                with gradio.Accordion("Order", open=False):
                    sort = gradio.Radio(SORTS, value="score", label="Sort")
                    everything = gradio.Checkbox(label="Also unlikely matches")
                    unique = gradio.Checkbox(label="Group near-duplicates")
                    diverse = gradio.Checkbox(label="Varied")
                    count = gradio.Slider(1, MOST_SHOWN, SHOWN, step=1, label="Pictures")
            with gradio.Column(scale=4):
                summary = gradio.Markdown(label="Summary")
                gallery = gradio.Gallery(
                    label="Pictures",
                    columns=5,
                    object_fit="contain",
                    height="auto",
                    interactive=False,
                    buttons=["fullscreen"],
                )
                with gradio.Row():
                    similar = gradio.Button("Similar", interactive=False)
                    up = gradio.Button("👍 More of these", interactive=False)
                    down = gradio.Button("👎 Less of these", interactive=False)
                    clear = gradio.Button("Forget thumbs", interactive=False)
                with gradio.Accordion("Details", open=False):
                    details = gradio.JSON(label="Hits", show_label=False)

        asked: list[Any] = [query, picture, sort, everything, unique, diverse, count, *controls]
        answer: list[Any] = [gallery, details, summary, rows, chosen, similar, up, down, clear]

        def find(
            liked: list[int],
            unliked: list[int],
            query: str = "",
            picture: Image.Image | None = None,
            sort: str = "score",
            everything: bool = False,
            unique: bool = False,
            diverse: bool = False,
            count: int = SHOWN,
            *values: str | None,
        ) -> list[Any]:
            """Find pictures by a query, a picture, or both, with filters."""
            text = " ".join([query or "", *(_term(f, v) for f, v in zip(filters, values, strict=False) if v)])
            options = {"sort": sort, "all": everything, "unique": unique, "diverse": diverse}
            hits = search.hits(text, picture, count, like=liked, unlike=unliked, **options)
            return [
                *_answer(search, hits, search.notices(text)),
                *_buttons(chosen=False, thumbs=bool(liked or unliked)),
            ]

        _name_parameters(find, [field.name for field in filters])

        def find_similar(row_id: int, count: int = SHOWN) -> list[Any]:
            """Find pictures similar to one of the index."""
            hits = search.similar(row_id, count)
            return [*_answer(search, hits), *_buttons(chosen=False, thumbs=False)]

        def choose(shown: list[int], liked: list[int], unliked: list[int], event: gradio.SelectData) -> list[Any]:
            at = event.index if isinstance(event.index, int) else event.index[0]
            return [shown[at], *_buttons(chosen=True, thumbs=bool(liked or unliked))]

        def rate(row_id: int, those: list[int], others: list[int]) -> tuple[list[int], list[int]]:
            return [*those, *({row_id} - set(those))], [row for row in others if row != row_id]

        ask: dict[str, Any] = {"fn": find, "inputs": [liked, unliked, *asked], "outputs": answer}
        gradio.on([button.click, query.submit], **ask, api_name="search")
        unnamed: dict[str, Any] = {"api_visibility": "private"}
        for control in (picture, sort, everything, unique, diverse, *controls):
            control.change(**ask, **unnamed, trigger_mode="always_last")
        count.release(**ask, **unnamed, trigger_mode="always_last")
        gallery.select(choose, [rows, liked, unliked], [chosen, similar, up, down, clear], **unnamed)
        number = gradio.Number(precision=0, visible=False)  # for programs: a row id
        number.input(find_similar, [number, count], answer, api_name="similar")
        similar.click(find_similar, [chosen, count], answer, **unnamed)
        up.click(rate, [chosen, liked, unliked], [liked, unliked], **unnamed).success(**ask, **unnamed)
        down.click(rate, [chosen, unliked, liked], [unliked, liked], **unnamed).success(**ask, **unnamed)
        clear.click(lambda: ([], []), None, [liked, unliked], **unnamed).success(**ask, **unnamed)
        blocks.load(**ask, **unnamed)
    made: gradio.Blocks = blocks
    return made


def _name_parameters(function: Callable[..., Any], names: Sequence[str]) -> None:
    """Let programs call what `*values` takes by name; `is_` is what Python has no name for."""
    known = signature(function)
    given = [one for one in known.parameters.values() if one.kind is not Parameter.VAR_POSITIONAL]
    said = [f"{name}_" if iskeyword(name) else name for name in names]
    named = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default="") for name in said]
    setattr(function, "__signature__", known.replace(parameters=[*given, *named]))  # noqa: B010


class _Searching:
    """A collection, and small copies of its pictures."""

    def __init__(self, collection: AnyCollection) -> None:
        self._collection = collection
        self._thumbnail: Callable[[Hit], bytes] | None = None
        if isinstance(collection, RemoteCollection):
            self._thumbnail = partial(collection.thumbnail, size=SIDE)
        self._more: dict[str, Any] = {"local_files": False} if isinstance(collection, Collection) else {}

    def hits(self, query: str, picture: Image.Image | None, count: int, **options: Any) -> Hits:
        try:
            terms = parse_query(query, is_file=is_file).terms if query.strip() else ()
            if any(term.kind == "picture" for term in terms):
                raise InvalidQuery("files are not opened: choose the picture in its field, or use like:ROW_ID")
            if picture is not None:
                options["vector"] = self._collection.encode_picture(picture)
            found: Hits = self._collection.search(query, int(count), **options, **self._more)
            return found
        except ClipsearchError as error:
            _fail(error)

    def notices(self, query: str) -> list[str]:
        try:
            return self._collection.notices(query)
        except ClipsearchError as error:
            _fail(error)

    def similar(self, row_id: int, count: int) -> Hits:
        try:
            return self._collection.similar(row_id, int(count))
        except ClipsearchError as error:
            _fail(error)

    def pictures(self, hits: Sequence[Hit]) -> Shown:
        """Small copies with captions."""
        with ThreadPoolExecutor(READERS) as readers:
            copies = readers.map(lambda hit: small_copy(hit, self._thumbnail, SIDE), hits)
            return [(_opened(copy), _caption(hit)) for copy, hit in zip(copies, hits, strict=True)]


def _answer(search: _Searching, hits: Hits, notices: Sequence[str] = ()) -> list[Any]:
    """What the gallery, the details, the summary and the states are given."""
    told = [{("file" if key == "path" else key): value for key, value in hit.to_dict().items()} for hit in hits]
    for hit in told:
        hit["others"] = [other["row_id"] for other in hit["others"]]
    found = f"{len(hits):,} picture{'' if len(hits) == 1 else 's'}" if hits else "Nothing found."
    found = found if hits.are_certain or not hits else f"{NOTHING_CERTAIN} {found}"
    summary = "\n\n".join([found, *map(_as_text, notices)])
    return [search.pictures(hits), for_parsers(told), summary, [hit.record.row_id for hit in hits], None]


def _buttons(*, chosen: bool, thumbs: bool) -> list[Any]:
    """Similar, up, down, clear."""
    return [gradio.Button(interactive=chosen)] * 3 + [gradio.Button(interactive=thumbs)]


def _control(field: Field, collection: AnyCollection) -> Any:
    """The component that sets a filter."""
    control = field.control
    assert control is not None
    options = [(label, value) for value, label in (extensions() if field.column == "ext" else control.options)]
    if field.name == "tag":
        options = [(_plain(tag.name), tag.name) for tag in collection.tags]
    if options or field.name == "tag":
        choices: list[tuple[str, Any]] = [("any", ""), *options]
        return gradio.Dropdown(choices, value="", label=control.label)
    placeholder = "2023-05-17" if control.type == "date" else control.placeholder
    return gradio.Textbox("", label=control.label, placeholder=placeholder, max_length=1000)


def _term(field: Field, value: str) -> str:
    """A filter in the query language."""
    value = str(value).replace('"', "").strip()
    return as_filter(field.name, value) if value else ""


def _caption(hit: Hit) -> str:
    """The name of a picture and how likely it is meant."""
    sure = "" if hit.confidence is None else f" · {100 * hit.confidence:.0f} % {hit.band}"
    more = f" · +{len(hit.others)}" if hit.others else ""
    return f"{_plain(hit.record.place)}{sure}{more}"


def _opened(copy: bytes | None) -> Image.Image:
    """A picture, or a grey box for one that cannot be read."""
    if copy is None:
        return Image.new("RGB", (SIDE, SIDE * 3 // 4), (200, 200, 200))
    return Image.open(io.BytesIO(copy)).convert("RGB")


def _as_text(text: str) -> str:
    """Markdown that shows a text as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", _plain(text))


def _plain(text: str) -> str:
    return safe(for_parsers(text))


def _fail(error: ClipsearchError) -> NoReturn:
    told = "\n".join(safe(line) for line in str(error).split("\n"))
    raise gradio.Error(told, title=type(error).__name__, print_exception=False) from None
