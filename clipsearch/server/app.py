"""Put a server together: an application of the API, guarded, with the browser interface if there is one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipsearch import __version__
from clipsearch.encoder import Encoder
from clipsearch.server.engine import Engine, Make, SharedCollection
from clipsearch.server.metrics import Metrics
from clipsearch.server.reference import add_reference, add_security
from clipsearch.server.routes import Service, add_routes
from clipsearch.server.security import COOKIE, Guard, Tickets
from clipsearch.server.sub_path import SubPath, checked_root
from clipsearch.server.warming import PictureWarmUp

UPLOAD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Who may use a server, and how much."""

    token: str | None = None  # needed by whoever asks; None: nobody needs one
    local: bool = True  # it listens on a loopback address; else a token is needed
    root_path: str = ""  # where a proxy puts this server: "/photos" for https://example.org/photos/
    host_names: tuple[str, ...] = ()  # names under which it may be asked, beside loopback names (and addresses)
    originals: bool | None = None  # whether original files are sent; None: to browsers on this machine only
    most_upload_bytes: int = UPLOAD_BYTES
    search_threads: int = 32  # as many as make a batch; they wait for each other
    most_waiting: int = 256  # requests that wait for a thread; more are answered with 503
    decode_timeout_s: float = 10.0
    warm_pictures_after_s: float | None = 4.0  # when to get ready for a first picture as a question; None: never


def create_app(
    indexes: Sequence[Path],
    *,
    options: ServerOptions | None = None,
    encoder: Encoder | None = None,
    interface: Callable[[FastAPI, Service], Callable[[], None]] | None = None,
    background: Iterable[Callable[[Service], Callable[[], None]]] = (),
    make: Make = SharedCollection,
) -> FastAPI:
    """Make the application that serves `indexes` (index folders).

    `encoder` is used instead of the indexes' own model where given. `interface` adds the browser interface, and
    returns what is called when the server ends. Each of `background` is started with the server and returns what
    stops it. `make` opens a generation of an index.
    Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, ModelNotFound, InvalidModel; ValueError without a token
    where one is needed, and for a root path that is none.
    """
    options = options or ServerOptions()
    if not options.local and not options.token:
        raise ValueError("a server that other machines can reach needs a token")
    root = checked_root(options.root_path)
    metrics = Metrics()
    engine = Engine(indexes, encoder=encoder, observe_batch=metrics.batch, observe_reload=metrics.reload, make=make)
    service = Service(
        engine,
        metrics,
        search_threads=options.search_threads,
        most_waiting=options.most_waiting,
        decode_timeout_s=options.decode_timeout_s,
        local=options.local and not root and not options.host_names,
        originals=options.originals,
        root=root,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stops = [start(service) for start in background]
        if options.warm_pictures_after_s is not None:
            stops.append(PictureWarmUp(service, options.warm_pictures_after_s).close)
        try:
            yield
        finally:
            if end is not None:
                end()
            for stop in stops:
                stop()
            service.close()

    app = FastAPI(
        title="clipsearch",
        version=__version__,
        summary="Type a sentence, see your photos.",
        description="Searches the pictures on this machine. Requests name pictures by row id; no route opens a path.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        servers=[{"url": root}] if root else None,
    )
    app.state.service = service
    app.state.root_path = root
    app.state.tickets = Tickets()
    add_routes(app, service)
    add_reference(app)
    add_security(app, COOKIE)
    end = None if interface is None else interface(app, service)
    app.add_middleware(_Timed, metrics=metrics)
    app.add_middleware(_Heads)
    app.add_middleware(
        Guard,
        token=options.token,
        local=options.local,
        names=options.host_names,
        most_bytes=options.most_upload_bytes,
        tickets=app.state.tickets,
    )
    if root:
        app.add_middleware(SubPath, root=root)
    return app


class _Heads:
    """ASGI middleware that answers HEAD as GET without its body (RFC 9110, section 9.3.2), but for Gradio's streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].startswith("/gradio_api"):
            await self._app(scope, receive, send)
            return

        is_done = False

        async def without_body(message: Message) -> None:
            nonlocal is_done
            if message["type"] == "http.response.start":
                await send(message)
                return
            if not is_done:
                is_done = True
                await send({"type": "http.response.body"})
            raise _BodyIsNotWanted

        with suppress(_BodyIsNotWanted):
            await self._app({**scope, "method": "GET"}, receive, without_body)


class _BodyIsNotWanted(Exception):
    """Ends what makes an answer."""


class _Timed:
    """ASGI middleware that counts and times requests by route."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", None)
            self._metrics.request(route or "other", status, time.perf_counter() - began)
