"""A server behind a proxy at a sub-path: https://example.org/photos/ instead of https://example.org/.

Some proxies pass the sub-path on and some strip it; both are understood. Behind this, paths begin at "/" as everywhere;
who writes an address into an answer puts `root_of(scope)` before it.
"""

from __future__ import annotations

import re

from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_KEY = "clipsearch.root"
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")

_OWN = frozenset(
    [
        "v1",
        "ui",
        "docs",
        "login",
        "healthz",
        "metrics",
        "openapi.json",
        "assets",
        "static",
        "config",
        "theme.css",
        "gradio_api",
    ]
)
"""What paths of the server begin with: behind a proxy that strips the sub-path they could not be told from it."""


def checked_root(given: str) -> str:
    """A sub-path as "/photos" (or "", for none), from "photos", "/photos/", ... Raises: ValueError."""
    root = "/" + given.strip().strip("/") if given.strip().strip("/") else ""
    if _PLAIN.fullmatch(root) is None:
        raise ValueError(f"{given} is not a sub-path such as /photos")
    if root.split("/")[1:2] and root.split("/")[1] in _OWN:
        raise ValueError(f"{given} starts like a path of clipsearch itself: choose another")
    return root


def root_of(scope: Scope) -> str:
    """What comes before the paths of this server, "" or such as "/photos"."""
    return str(scope.get(_KEY, ""))


class SubPath:
    """ASGI middleware that takes a sub-path off, where there is one."""

    def __init__(self, app: ASGIApp, *, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        root, path = self._root, scope["path"]
        if path == root and scope["type"] == "http":  # relative addresses of the page count from its slash
            page = scope["method"] in ("GET", "HEAD")
            refused = JSONResponse({"error": "Refused", "message": "Not Found", "fields": {}}, 404)
            moved = RedirectResponse(f"{root}/", 308) if page else refused
            await moved(scope, receive, send)
            return
        inner = {**scope, _KEY: root}
        if path.startswith(f"{root}/"):
            inner["path"] = path[len(root) :]
            raw = scope.get("raw_path")
            if raw is not None and raw.startswith(root.encode()):
                inner["raw_path"] = raw[len(root) :]
        await self._app(inner, receive, send)
