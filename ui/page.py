"""The browser interface: a document whose only content is the page's own program (`assets/`, plain ES modules).

It talks to the API. Programs that are no browser call the same through Gradio (`programs`). A content security policy
allows scripts of this server only, and no request to any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from clipsearch.encoder import Encoder
from clipsearch.server.routes import Service
from clipsearch.server.security import LOGIN_TEXTS
from clipsearch.ui.first_use import FirstUse, Known, add_first_use
from clipsearch.ui.languages import COOKIE, ENGLISH, choose, read_languages, sent
from clipsearch.ui.page_routes import add_page_routes
from clipsearch.ui.programs import Programs, add_programs
from clipsearch.ui.tables import tables

ROOT = "clipsearch"
"""The id of the element that the page's program fills."""
TABLES = "clipsearch-tables"
"""The id of the element that holds `tables.tables`."""
MESSAGES = "clipsearch-messages"
"""The id of the element that holds the sentences of the page: see `languages.sent`."""

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_IMMUTABLE = "private, max-age=31536000, immutable"


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

    @property
    def paths(self) -> list[str]:
        """The path of each file."""
        return [f"{self.folder}/{name}" for name in self._files]

    def answer(self, path: str) -> Response:
        """A file by its path."""
        name = path.removeprefix(f"{self.folder}/")
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
        lines += [_as_data(TABLES, tables())]
        return "\n".join([*lines, f'<script type="module" src="{folder}/app.js"></script>'])


def _as_data(name: str, value: Any) -> str:
    """An element that holds JSON, which browsers do not run."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


class Page:
    """The document and its files, and what programs ask (`programs`)."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self._assets = Assets()
        self._head = self._assets.head()
        self.languages = read_languages()

    @property
    def files(self) -> list[str]:
        """The paths of the page's own files."""
        return self._assets.paths

    async def document(self, request: Request) -> Response:
        """The page, in the language that the browser asks for or that was chosen in it."""
        tag, chosen = self._language(request)
        told = _as_data(MESSAGES, sent(self.languages, tag, chosen))
        body = (
            f'<!doctype html>\n<html lang="{tag}">\n<head>\n<meta charset="utf-8">\n<title>clipsearch</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{told}\n{self._head}\n</head>\n'
            f'<body style="margin: 0"><div id="{ROOT}"></div></body>\n</html>\n'
        )
        headers = {"content-security-policy": _POLICY, "cache-control": "no-store", "content-language": tag}
        return HTMLResponse(body, headers=headers)

    def login_texts(self, request: Request) -> dict[str, str]:
        """What the page says that asks for the token: see `security.LOGIN_TEXTS`."""
        tag, _ = self._language(request)
        known = {**self.languages[ENGLISH].messages, **self.languages[tag].messages}
        return {"language": tag, **{name: str(known[f"login.{name}"]) for name in LOGIN_TEXTS if name != "language"}}

    def _language(self, request: Request) -> tuple[str, str]:
        """The tag of the language that a browser gets, and what was chosen in it."""
        chosen = request.cookies.get(COOKIE, "")
        return choose(self.languages, chosen, request.headers.get("accept-language", "")), chosen

    async def file(self, request: Request) -> Response:
        """One of its files."""
        return self._assets.answer(request.url.path)


def add_page(
    app: FastAPI,
    service: Service,
    *,
    folder: Path | None = None,
    encoder: Encoder | None = None,
    open_known: bool = False,
    other_folders: bool = False,
) -> Callable[[], None]:
    """Add the browser interface to `app`, at "/", and what programs ask. Returns what is called at the end.

    `folder` has no index yet: the page offers to make one (with `encoder`, where given). `open_known`: the page may
    open any index that was used on this machine, `other_folders`: and offer another folder than `folder`;
    neither is for servers that other machines can ask.
    """
    first = None if folder is None else FirstUse(service, folder, encoder=encoder, others=other_folders)
    add_first_use(app, service, first, Known(service) if open_known else None)
    add_page_routes(app, service)
    page = Page(add_programs(app, service))
    app.state.page = page
    app.state.login_texts = page.login_texts
    app.add_route("/", page.document, methods=["GET"], include_in_schema=False)
    for path in page.files:
        app.add_route(path, page.file, methods=["GET"], include_in_schema=False)

    def end() -> None:
        if first is not None:
            first.close()
        page.programs.close()

    return end


_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self'; font-src 'self' data:; connect-src 'self'; manifest-src 'none'; "
    "base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'"
)
