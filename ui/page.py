"""The browser interface: a Gradio page whose only content is the page's own program (`assets/`, plain ES modules).

Importing Gradio takes seconds, and its own program is large. So the document is answered at once, with the page in it:
while Gradio is being imported by itself, after that within Gradio's document, where the page moves into Gradio's
layout. Either way the same program talks to the API. Of Gradio's routes only those are passed on that its document
needs; the others (files, uploads, proxy, queue) do not exist here. A content security policy allows scripts of this
server only, and no request to any other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable
from importlib import resources

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipsearch.server.routes import Service
from clipsearch.ui.page_routes import add_page_routes
from clipsearch.ui.tables import tables

ROOT = "clipsearch"
"""The id of the element that the page's program fills."""
FRAME = "clipsearch-frame"
"""The id of the element of Gradio's layout that it moves into."""
TABLES = "clipsearch-tables"
"""The id of the element that holds `tables.tables`."""

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_OF_GRADIO = re.compile(r"/(?:assets/.*|static/.*|config/?|theme\.css|gradio_api/(?:info/?|startup-events|theme\.css))")
_IMMUTABLE = "private, max-age=31536000, immutable"
_INLINE_SCRIPT = re.compile(  # data are no script
    rb"<script(?![^>]*\b(?:src=|type=\"application/json\"))[^>]*>(.*?)</script>", re.DOTALL
)

_log = logging.getLogger("clipsearch.server")


class Assets:
    """The page's own files, in memory. Their folder has a name that changes when they do."""

    def __init__(self) -> None:
        folder = resources.files("clipsearch.ui") / "assets"
        self._files: dict[str, bytes] = {}
        for prefix, part in (("", folder), ("vendor/", folder / "vendor")):
            for file in part.iterdir():
                if file.name.endswith(tuple(_TYPES)):
                    self._files[prefix + file.name] = file.read_bytes()
        together = b"".join(name.encode() + content for name, content in sorted(self._files.items()))
        self.folder = f"/ui/{hashlib.blake2b(together, digest_size=8).hexdigest()}"

    def answer(self, path: str) -> Response:
        """A file by its address."""
        name = path.removeprefix(f"{self.folder}/")
        if name == path or name not in self._files:
            return PlainTextResponse("404: no such file\n", 404)
        kind = _TYPES[name[name.rindex(".") :]]
        return Response(self._files[name], headers={"content-type": kind, "cache-control": _IMMUTABLE})

    def head(self) -> str:
        """What the document needs in its head to show the page. Its address ends with a slash, whatever it is."""
        folder = self.folder.removeprefix("/")
        modules = sorted(name for name in self._files if name.endswith(".js"))
        lines = [
            f'<link rel="icon" href="{folder}/icon.svg">',
            f'<link rel="stylesheet" href="{folder}/vendor/photoswipe.css">',
            f'<link rel="stylesheet" href="{folder}/app.css">',
        ]
        lines += [f'<link rel="modulepreload" href="{folder}/{name}">' for name in modules]
        known = json.dumps(tables()).replace("<", "\\u003c")
        lines += [f'<script type="application/json" id="{TABLES}">{known}</script>']
        return "\n".join([*lines, f'<script type="module" src="{folder}/app.js"></script>'])


class Page:
    """ASGI application of the document, its files, and what its Gradio part needs."""

    def __init__(self, root_path: str = "") -> None:
        self._assets = Assets()
        self._root_path = root_path
        self._gradio: ASGIApp | None = None
        self._begun = False

    def begin(self) -> None:
        """Make the Gradio part, in a thread: importing it takes seconds."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._load, name="clipsearch-gradio", daemon=True).start()

    def _load(self) -> None:
        try:
            self._gradio = _gradio_part(self._root_path)
        except Exception:  # the page works without it
            _log.exception("Gradio cannot be used")

    @property
    def has_gradio(self) -> bool:
        """Whether the document is Gradio's by now."""
        return self._gradio is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        path, gradio = scope["path"], self._gradio
        if scope["method"] not in ("GET", "HEAD"):
            response: Response = PlainTextResponse("404: no such route\n", 404)
        elif path == "/":
            response = await self._document(scope, receive)
        elif path.startswith("/ui/"):
            response = self._assets.answer(path)
        elif gradio is not None and _OF_GRADIO.fullmatch(path):
            await gradio(scope, receive, _cached(send) if path.startswith("/assets/") else send)
            return
        else:
            response = PlainTextResponse("404: no such page\n", 404)
        await response(scope, receive, send)

    async def _document(self, scope: Scope, receive: Receive) -> Response:
        body = self._own_document()
        if self._gradio is not None:
            answered, given = await _collect(self._gradio, {**scope, "query_string": b""}, receive)
            if answered == 200:
                body = self._within(given)
        policy = _policy(body)
        return HTMLResponse(body, headers={"content-security-policy": policy, "cache-control": "no-store"})

    def _own_document(self) -> bytes:
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>clipsearch</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{self._assets.head()}\n</head>\n'
            f'<body style="margin: 0"><div id="{ROOT}"></div></body>\n</html>\n'
        ).encode()

    def _within(self, document: bytes) -> bytes:
        """Gradio's document with the page in it: first in the head, so that it does not wait for Gradio's program."""
        start = document.index(b"<head>") + len(b"<head>")
        document = document[:start] + b"\n" + self._assets.head().encode() + document[start:]
        document = document.replace(b'<link rel="manifest" href="/manifest.json" />', b"")
        at = document.index(b"<gradio-app")
        return document[:at] + f'<div id="{ROOT}"></div>\n'.encode() + document[at:]


def add_page(app: FastAPI, service: Service) -> Callable[[], None]:
    """Add the browser interface to `app`, at "/". Returns what begins to load its slow part."""
    add_page_routes(app, service)
    page = Page(app.state.root_path)
    app.state.page = page
    app.mount("/", page)
    return page.begin


def _gradio_part(root_path: str) -> FastAPI:
    """Gradio's own application, with a layout for the page to move into."""
    import gradio

    from clipsearch.server.mounting import mount

    with gradio.Blocks(title="clipsearch", analytics_enabled=False, fill_width=True) as blocks:
        gradio.Column(elem_id=FRAME)
    fonts = ["system-ui", "sans-serif"]
    theme = gradio.themes.Base(font=fonts, font_mono=["monospace"])
    return mount(FastAPI(openapi_url=None), blocks, theme=theme, root_path=root_path or None)


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[int, bytes]:
    """The status and body of an application's answer."""
    status, body = 500, b""

    async def collect(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body += message.get("body", b"")

    await app({**scope, "method": "GET"}, receive, collect)
    return status, body


def _cached(send: Send) -> Send:
    """Gradio's assets are named by their content."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            MutableHeaders(scope=message)["cache-control"] = _IMMUTABLE
        await send(message)

    return sending


def _policy(document: bytes) -> str:
    """A content security policy for a document: its own inline scripts by their hash, and files of this server."""
    hashes = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in _INLINE_SCRIPT.findall(document)]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; manifest-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'"
    )
