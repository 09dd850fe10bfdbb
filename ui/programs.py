"""What programs ask through Gradio: the endpoints of a `gradio.Server`, behind the doors of this server.

Importing Gradio takes seconds and 136 MB, and the page needs none of it. So it is loaded when a program first asks. Of
its some sixty routes only those in `ROUTES` exist here: what its clients need to list endpoints, to call one, and to
stop a call. Its files, uploads, proxy, pages, monitoring and its own server for AI assistants do not.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from clipsearch.errors import MissingExtra
from clipsearch.server.routes import Service

if TYPE_CHECKING:
    from clipsearch.ui.endpoints import EndpointServer

ROUTES = {
    "/config": "GET",
    "/gradio_api/info": "GET",
    "/gradio_api/queue/join": "POST",
    "/gradio_api/queue/data": "GET",
    "/gradio_api/call/{api_name}": "POST",
    "/gradio_api/call/{api_name}/{event_id}": "GET",
    "/gradio_api/cancel": "POST",
}
"""The routes of Gradio that exist, with their methods."""

_DESCRIBING = frozenset({"/config", "/gradio_api/info"})
"""What a client asks first, for which it waits 5 seconds only."""
PATIENCE_S = 2.0
_OF_THE_REQUEST = (
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
    "client", "server", "extensions",
)  # fmt: skip

_log = logging.getLogger("clipsearch.server")


def check_gradio() -> None:
    """Raises: MissingExtra."""
    try:
        missing = find_spec("gradio") is None
    except ValueError:  # sys.modules says that there is none
        missing = True
    if missing:
        raise MissingExtra("ui", "the page in the browser")


class Programs:
    """ASGI application of `ROUTES`. Loads Gradio for the first request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: EndpointServer | None = None
        self._loading: asyncio.Task[EndpointServer] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether Gradio was asked for and answers."""
        return self._server is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._server is None:
            if self._loading is None:
                self._loading = asyncio.create_task(self._load())
                self._loading.add_done_callback(self._loaded)
            if scope["path"] in _DESCRIBING:
                done, _ = await asyncio.wait({self._loading}, timeout=PATIENCE_S)
                if not done:
                    await self._answer_slowly(scope, receive, send)
                    return
        await _without_tracebacks(await self._ready(), _inner(scope), receive, send)

    async def _ready(self) -> EndpointServer:
        if self._server is not None:
            return self._server
        assert self._loading is not None
        return await asyncio.shield(self._loading)

    async def _load(self) -> EndpointServer:
        check_gradio()
        server = await asyncio.to_thread(_made, self._service)
        server.start()
        return server

    def _loaded(self, loading: asyncio.Task[EndpointServer]) -> None:
        if loading.cancelled():
            return
        if (error := loading.exception()) is not None:
            _log.error("Gradio cannot be used: %s", error)
            self._loading = None  # the next request tries again
        else:
            self._server = loading.result()

    async def _answer_slowly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """JSON with spaces before it, while Gradio is being loaded, so that no client gives up."""
        loading = self._loading
        assert loading is not None
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not (await asyncio.wait({loading}, timeout=PATIENCE_S))[0]:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
        body = b'{"error": "MissingExtra", "message": "Gradio cannot be used. The server\'s log says why."}'
        if loading.exception() is None:
            body = await _collected(loading.result(), _inner(scope), receive)
        await send({"type": "http.response.body", "body": body})

    def close(self) -> None:
        """Stop taking calls."""
        if self._server is not None:
            self._server.stop()


def add_programs(app: FastAPI, service: Service) -> Programs:
    """Add the routes of Gradio to `app`. Close what is returned."""
    programs = Programs(service)
    for path, method in ROUTES.items():
        app.router.routes.append(Route(path, programs, methods=[method], include_in_schema=False))
    return programs


def _made(service: Service) -> EndpointServer:
    from clipsearch.ui.endpoints import EndpointServer

    return EndpointServer(service)


def _inner(scope: Scope) -> Scope:
    """A request without what the application around has noted of it."""
    return {name: scope[name] for name in _OF_THE_REQUEST if name in scope}


async def _without_tracebacks(server: EndpointServer, scope: Scope, receive: Receive, send: Send) -> None:
    """Where Gradio cannot go on with a stream, as of an unknown session, it raises after the start of the answer."""
    last: Message | None = None

    async def noted(message: Message) -> None:
        nonlocal last
        await send(message)
        last = message

    try:
        await server(scope, receive, noted)
    except Exception as error:
        if last is None:
            raise
        _log.warning("a stream of Gradio ended early: %s", error.__cause__ or error)
        if last["type"] == "http.response.start" or last.get("more_body", False):
            await send({"type": "http.response.body", "body": b""})


async def _collected(server: EndpointServer, scope: Scope, receive: Receive) -> bytes:
    """The body of an answer."""
    body = b""

    async def collect(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    await server(scope, receive, collect)
    return body
