"""What programs call: typed endpoints of a `gradio.Server`, over the same service as the API. The importer of Gradio.

    from gradio_client import Client

    hits = Client("http://127.0.0.1:7860").predict("a dog on a beach", api_name="/search")

No endpoint takes a file or an address: pictures are named by row id, or sent as base64 in a text.
"""

# No `from __future__ import annotations` here: Gradio reads the annotations of results as they are.
import asyncio
import base64
import binascii
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn, TypeVar

import gradio
from fastapi import Depends, HTTPException, Request
from gradio.block_function import BlockFunction
from gradio.events import api as add_call
from gradio.routes import App
from pydantic import BaseModel, Field, ValidationError

from clipsearch import __version__
from clipsearch.classify.zero_shot import parse_label, zero_shot
from clipsearch.errors import ClipsearchError, InvalidQuery
from clipsearch.filenames import for_parsers, safe
from clipsearch.indexer.api import index as index_pictures
from clipsearch.indexer.build import IndexReport, Progress
from clipsearch.records import DEFAULT_HITS, FloatArray, ImageRecord, Sort
from clipsearch.search.collection import Collection
from clipsearch.server import messages
from clipsearch.server.routes import Service, add_errors, path_of
from clipsearch.server.wrong_input import problems

SESSIONS_KEPT = 64
CALLS_WAITING = 256
MOST_LABELS = 1000
MOST_VALUES = 50_000
CALLED = {"path": "file", "path_bytes": "file_bytes"}

Picture = dict[str, Any]
Checked = TypeVar("Checked", bound=BaseModel)
Result = TypeVar("Result")


class _Labels(BaseModel):
    """Labels to choose from."""

    labels: Annotated[list[messages.Text], Field(min_length=2, max_length=MOST_LABELS)]


class _Sent(BaseModel):
    """A picture that was sent."""

    picture: str
    index: messages.IndexName = None


class EndpointServer(gradio.Server):
    """A `gradio.Server` within the event loop of another server, instead of `launch()`, which would open a port."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            title="clipsearch",
            version=__version__,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            dependencies=[Depends(_check_call)],
        )
        add_endpoints(self, service)
        add_errors(self)
        with gradio.Blocks(mode="server", title="clipsearch", analytics_enabled=False) as blocks:
            for function, options in self._deferred_apis:
                add_call(function, **options)
        blocks.queue(max_size=CALLS_WAITING)
        blocks.state_session_capacity = SESSIONS_KEPT  # of each, what was last sent is remembered
        blocks.show_error = True
        blocks.run_history = False
        blocks.enable_monitoring = False
        blocks.root_path = ""
        blocks.has_launched = True  # else Gradio would take any path of this machine for an upload
        blocks.config = blocks.get_config_file()
        self.calls = blocks
        blocks.server_app = blocks.app = App.create_app(blocks, app=self, mcp_server=False)
        self.user_middleware.clear()  # the guard around decides who may ask, and nothing is compressed

    def start(self) -> None:
        """Take calls, in the event loop that runs."""
        self.calls.run_startup_events()

    def stop(self) -> None:
        """Take no more calls, and end those that are waiting."""
        self.calls.close(verbose=False)


async def _check_call(request: Request) -> None:
    """Refuse what is no call of an endpoint, and values that are neither plain nor lists: Gradio would take some for
    files, which it copies or fetches before the endpoint sees them."""
    calls: dict[int, BlockFunction] = request.app.calls.fns
    name = request.path_params.get("api_name")
    if name is not None and name not in {call.api_name for call in calls.values()}:
        raise HTTPException(404, f"no endpoint {name}")
    if request.method != "POST":
        return
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(422, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "the body is not an object")
    if request.url.path.endswith("/cancel"):
        return
    wanted = body.get("fn_index") if name is None else None
    called = [call for number, call in calls.items() if number == wanted or call.api_name == name]
    if not called or isinstance(wanted, bool):
        raise HTTPException(404, "no such fn_index")
    data = body.get("data")
    if not isinstance(data, list) or len(data) != len(called[0].inputs):
        raise HTTPException(422, f"data must be a list of {len(called[0].inputs)} values, one for each parameter")
    inside = list(islice(_inside(data), MOST_VALUES))
    if len(inside) == MOST_VALUES or any(isinstance(value, dict) for value in inside):
        raise HTTPException(422, "data must have plain values and lists only, and not too many")


def _inside(value: Any) -> Iterator[Any]:
    """A value and, if it is a list, what is in it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, list):
            waiting += one


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def add_endpoints(server: gradio.Server, service: Service) -> None:
    """Add the endpoints to `server`."""

    def endpoint(name: str, at_once: int | None = None) -> Callable[[Endpoint], Endpoint]:
        """`at_once`: how many calls; None: as many as the queues of `Service` take."""
        typed: Callable[[Endpoint], Endpoint] = server.api(name=name, concurrency_limit=at_once)
        return typed

    @endpoint("search")
    async def search(
        query: str = "",
        k: int = DEFAULT_HITS,
        offset: int = 0,
        sort: Sort = "score",
        all: bool = False,
        min_confidence: float | None = None,
        unique: bool = False,
        each: bool = False,
        diverse: bool | float = False,
        like: list[int] | None = None,
        unlike: list[int] | None = None,
        index: str | None = None,
        index_id: str | None = None,
    ) -> list[Picture]:
        """Find pictures. Takes the query language, like `clipsearch query`, and returns the hits, best first."""
        asked = _checked(
            messages.SearchRequest,
            query=query,
            k=k,
            offset=offset,
            sort=sort,
            all=all,
            min_confidence=min_confidence,
            unique=unique,
            each=each,
            diverse=diverse,
            like=like or [],
            unlike=unlike or [],
            index=index,
            index_id=index_id,
        )
        found = await _answered(service.searches.run(lambda: service.search(asked)))
        return _pictures(found["hits"])

    @endpoint("similar")
    async def similar(
        row_id: int | None = None,
        path: str | None = None,
        picture: str | None = None,
        k: int = DEFAULT_HITS,
        offset: int = 0,
        index: str | None = None,
        index_id: str | None = None,
    ) -> list[Picture]:
        """Find pictures similar to one of the index, by its row id or path, or to a picture file, sent as base64."""
        if picture is None:
            asked = _checked(
                messages.SimilarRequest, row_id=row_id, path=path, k=k, offset=offset, index=index, index_id=index_id
            )
            found = await _answered(service.searches.run(lambda: service.similar(asked)))
            return _pictures(found["hits"])
        sent = _checked(_Sent, picture=picture)
        window = _checked(messages.SimilarRequest, k=k, offset=offset, index=index)
        if row_id is not None or path is not None:
            _fail("give row_id, path or picture, not several")

        def answer() -> dict[str, Any]:
            with _file(sent.picture) as file:
                return service.similar_to_file(file, window.index, window.k, window.offset)

        return _pictures((await _answered(service.uploads.run(answer)))["hits"])

    @endpoint("embed")
    async def embed(
        texts: list[str] | None = None, picture: str | None = None, index: str | None = None
    ) -> list[list[float]]:
        """Encode texts, or a picture file sent as base64, as vectors of length 1."""
        if (texts is None) == (picture is None):
            _fail("give texts or picture" if texts is None else "give texts or picture, not both")
        if picture is None:
            asked = _checked(messages.EmbedRequest, texts=texts, index=index)
            found = await _answered(service.searches.run(lambda: service.embed(asked)))
        else:
            sent = _checked(_Sent, picture=picture, index=index)

            def answer() -> dict[str, Any]:
                with _file(sent.picture) as file:
                    return service.embed_file(file, sent.index)

            found = await _answered(service.uploads.run(answer))
        vectors: list[list[float]] = found["vectors"]
        return vectors

    @endpoint("classify")
    async def classify(
        labels: list[str],
        query: str = "",
        k: int = DEFAULT_HITS,
        offset: int = 0,
        row_ids: list[int] | None = None,
        index: str | None = None,
        index_id: str | None = None,
    ) -> list[Picture]:
        """Tell which of your labels each picture of a query (default: the newest), or of row_ids, shows. | separates
        synonyms: "dog|puppy"."""
        names = _checked(_Labels, labels=labels).labels
        asked = _checked(
            messages.SearchRequest, query=query, k=k, offset=offset, all=True, index=index, index_id=index_id
        )
        rows = None if row_ids is None else _checked(messages.VectorsRequest, row_ids=row_ids).row_ids

        def answer() -> list[Picture]:
            given = [parse_label(label) for label in names]
            with service.ordered(asked) as (_, photos, order):
                ids = order.row_ids(photos, asked.offset, asked.k).tolist() if rows is None else rows
                classifier = zero_shot(photos.encoder, given)
                chances = classifier.probabilities(photos.vectors(ids))
                return [
                    _labelled(photos, photos.record(row_id), classifier.labels, row)
                    for row_id, row in zip(ids, chances, strict=True)
                ]

        return _pictures(await _answered(service.searches.run(answer)))

    @endpoint("index", at_once=1)
    async def index(index: str | None = None) -> AsyncIterator[Picture]:
        """Bring an index that is served up to date with its folder. Streams progress; the last says what was done."""
        async for said in _run(service, _checked(messages.SearchRequest, index=index).index):
            yield said

    @endpoint("status")
    async def status() -> Picture:
        """Show the indexes that are served."""
        found: Picture = as_told(await _answered(service.searches.run(service.status)))
        return found


def _labelled(photos: Collection, record: ImageRecord, labels: Sequence[str], chances: FloatArray) -> Picture:
    """A picture and what it shows. Shape: chances (C,)."""
    return {
        "row_id": record.row_id,
        "path": path_of(photos, record),
        "name": record.path,
        "label": labels[int(chances.argmax())],
        "probability": float(chances.max()),
        "probabilities": dict(zip(labels, map(float, chances), strict=True)),
    }


async def _run(service: Service, index: str | None) -> AsyncIterator[Picture]:
    """Index in a thread, and tell how far it is. A client that leaves ends the run after what it is doing."""
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[Progress | IndexReport | Exception] = asyncio.Queue()
    left = threading.Event()

    def tell(what: Progress | IndexReport | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(said.put_nowait, what)

    def progress(where: Progress) -> None:
        if left.is_set():
            raise _Left
        tell(where)

    def work() -> None:
        try:
            served = service.engine.index(index)
            with served.lease() as photos:
                root = photos.root
            encoder = service.engine.encoder_of_its_own(served.path)
            report = index_pictures(root, encoder=encoder, index=served.path, progress=progress)
            served.reload(wait=True)
            tell(report)
        except _Left:
            pass
        except Exception as error:
            tell(error)

    threading.Thread(target=work, name="clipsearch-index").start()
    try:
        while True:
            what = await said.get()
            while isinstance(what, Progress) and not said.empty():
                what = said.get_nowait()  # only the newest matters
            if isinstance(what, Exception):
                raise _as_error(what)
            if isinstance(what, IndexReport):
                yield as_told({"stage": "done", **what.to_dict()})
                return
            yield asdict(what)
    finally:
        left.set()


class _Left(Exception):
    """Nobody waits for the run any more."""


@contextlib.contextmanager
def _file(picture: str) -> Iterator[Path]:
    """A file that only this user can read, of what was sent as base64. Raises: InvalidQuery."""
    _, _, content = picture.rpartition(",")  # a data URL has its type before it
    try:
        decoded = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidQuery("picture must be the content of a picture file in base64, no path or address") from None
    with TemporaryDirectory(prefix="clipsearch-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(decoded)
        yield path


def _pictures(pictures: list[Picture]) -> list[Picture]:
    told: list[Picture] = as_told(pictures)
    return told


def as_told(value: Any) -> Any:
    """What is told, as JSON: names that are not UTF-8 with their bytes beside them."""
    return _renamed(for_parsers(value))


def _renamed(value: Any) -> Any:
    """`file` for `path`, and `file_bytes` for `path_bytes`: Gradio's clients download what is called `path`."""
    if isinstance(value, dict):
        return {CALLED.get(key, key): _renamed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one) for one in value]
    return value


def _checked(kind: type[Checked], **given: Any) -> Checked:
    """A request of the API. Raises: gradio.Error, which says what is wrong."""
    try:
        return kind(**given)
    except ClipsearchError as error:
        raise _as_error(error) from None
    except ValidationError as error:
        raise gradio.Error(problems(error.errors()), title="WrongInput", print_exception=False) from None


async def _answered(work: Awaitable[Result]) -> Result:
    """What `work` gives. Raises: gradio.Error with what an error of ours says; others are not told."""
    try:
        return await work
    except Exception as error:
        raise _as_error(error) from None


def _as_error(error: Exception) -> Exception:
    if not isinstance(error, ClipsearchError | OSError):
        return error
    if isinstance(error, OSError):
        problem = error.strerror or type(error).__name__
        return gradio.Error(f"the index cannot be read at the moment ({problem})", print_exception=False)
    told = "\n".join(safe(line) for line in str(error).split("\n"))
    return gradio.Error(told, title=type(error).__name__, print_exception=False)


def _fail(problem: str) -> NoReturn:
    raise gradio.Error(problem, title="InvalidQuery", print_exception=False)
