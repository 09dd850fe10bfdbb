"""Who may ask: checks before any route, mounted application or websocket sees a request.

- Host must be a name of this server: a page that rebinds its own name to 127.0.0.1 (DNS rebinding) has another.
- Origin, where a browser sends one, must be this server's own; so must Sec-Fetch-Site, which browsers also send with
  pictures and scripts that other pages include. Only following a link to a page is allowed from elsewhere.
- The token, if there is one: as `Authorization: Bearer TOKEN`. A browser that has sent it to `/login`, or a ticket that
  is good for one time, gets a cookie with a value that is derived from the token and does not tell it.
- The body may not be larger than a limit; JSON, which is read while nobody else is answered, has a lower one.

Every answer says that no other page may read, frame or guess it.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipsearch.server.sub_path import root_of

COOKIE = "clipsearch_session"
OPEN_PATHS = frozenset({"/healthz", "/login"})
"""Paths that need no token."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^\s:/@?#\[\]]+))(?::(?P<port>\d{1,5}))?")
_ALWAYS = {
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # with "no-referrer", browsers send the login form with "Origin: null"
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_LOGIN_BYTES = 4096
JSON_BYTES = 4 << 20
TICKET_S = 120.0
MOST_TICKETS = 16


class _TooLarge(Exception):
    """The body is larger than allowed."""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Tickets:
    """What logs a browser in once, soon: so that the token need not be among the arguments of a program."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def new(self) -> str:
        """A ticket for one login."""
        while len(self._until) >= MOST_TICKETS:
            del self._until[next(iter(self._until))]
        ticket = secrets.token_urlsafe(24)
        self._until[ticket] = time.monotonic() + TICKET_S
        return ticket

    def take(self, given: str) -> bool:
        """Whether this is a ticket that is good. It is not any more."""
        known = next((one for one in self._until if hmac.compare_digest(one.encode(), given.encode())), "")
        return bool(known) and self._until.pop(known) > time.monotonic()


def session_of(token: bytes) -> str:
    """What a browser's cookie holds: derived from the token, so slowly that few guesses of a token can be tried."""
    return hashlib.scrypt(token, salt=b"clipsearch session", n=1 << 14, r=8, p=1, dklen=24).hex()


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as the API has them."""
    return JSONResponse({"error": "Refused", "message": message, "fields": {}}, status, headers)


class Guard:
    """ASGI middleware that answers what must not be answered otherwise: 421, 403, 401, 413."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        local: bool,
        names: Iterable[str] = (),
        most_bytes: int,
        tickets: Tickets | None = None,
    ) -> None:
        """`local`: only loopback names are this server's; else addresses are too (they cannot be rebound).

        `names` are more host names of this server.
        """
        self._app = app
        self._token = token.encode("utf-8", "surrogateescape") if token else None
        self._session = session_of(self._token) if self._token else ""
        self._tickets = tickets or Tickets()
        self._local = local
        self._names = LOOPBACK_NAMES | {name.lower().rstrip(".") for name in names}
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refuse(scope, headers)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await _refuse_websocket(refusal, receive, send)
            return
        send = _with_headers(send)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif scope["path"] == "/login":
            await (await self._login(scope, headers, receive))(scope, receive, send)
        else:
            await self._limited(scope, headers, receive, send)

    # -- may it?

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_own(host):
            return refusal(421, "unknown host name; add it with --host-name")
        if not _is_same_origin(scope, headers, host):
            return refusal(403, "requests from other sites are refused")
        if self._token is None or scope["path"] in OPEN_PATHS or self._has_token(headers):
            return None
        if "text/html" in headers.get("accept", "") and scope.get("method") == "GET":
            asked = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            target = root_of(scope) + scope["path"] + asked
            return RedirectResponse(f"{root_of(scope)}/login?" + urlencode({"next": target}), 303)
        return refusal(401, "a token is required", {"www-authenticate": "Bearer"})

    def _is_own(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = (match["v6"] or match["name"]).lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self._local or address.is_loopback

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer" and any(self._is_token(sent) for sent in _as_sent(given)):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and hmac.compare_digest(cookies[COOKIE].value.encode(), self._session.encode())

    def _is_token(self, given: bytes) -> bool:
        """Compare in constant time."""
        assert self._token is not None
        return hmac.compare_digest(given, self._token)

    async def _login(self, scope: Scope, headers: Headers, receive: Receive) -> Response:
        """The page that asks for the token, and what it sends."""
        asked = parse_qs(scope["query_string"].decode("latin-1"), errors="surrogateescape")
        root = root_of(scope)
        target = _own_path(asked.get("next", [""])[0], root)
        if self._token is None:
            return RedirectResponse(target, 303)
        given = asked.get("token", [""])[0]
        if scope["method"] == "POST":
            body = b""
            async for chunk in _chunks(receive):
                body += chunk
                if len(body) > _LOGIN_BYTES:
                    return refusal(413, "too large")
            given = parse_qs(body.decode("latin-1"), errors="surrogateescape").get("token", [""])[0]
        elif scope["method"] not in ("GET", "HEAD"):
            return refusal(405, "Method Not Allowed", {"allow": "GET, HEAD, POST"})
        ticket = asked.get("ticket", [""])[0] if scope["method"] == "GET" else ""
        if self._is_token(_utf8(given)) or (ticket.isascii() and self._tickets.take(ticket)):
            done = RedirectResponse(target, 303)
            done.set_cookie(
                COOKIE,
                self._session,
                path=f"{root}/",
                httponly=True,
                samesite="strict",
                secure=scope.get("scheme") == "https",
            )
            return done
        translate = getattr(scope["app"].state, "login_texts", None)
        texts = LOGIN_TEXTS if translate is None else translate(Request(scope))
        texts = {name: html.escape(text) for name, text in texts.items()}
        page = _LOGIN_PAGE.format(
            **texts,
            root=root,
            next=html.escape(quote(target, safe="")),
            problem=f"<p>{texts['wrong']}</p>" if given else "",
        )
        return HTMLResponse(page, 401 if given else 200, {"content-security-policy": _LOGIN_POLICY})

    # -- how much?

    async def _limited(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Pass the request on, its body cut off where it becomes too large."""
        announced = headers.get("content-length", "0")
        if not announced.isdecimal():
            await refusal(400, "Content-Length is not a number")(scope, receive, send)
            return
        most = self._most_bytes if scope["path"].endswith("/upload") else min(self._most_bytes, JSON_BYTES)
        too_large = refusal(413, f"at most {most:,} bytes", {"connection": "close"})
        if len(announced) > 18 or int(announced) > most:
            await too_large(scope, receive, send)
            return
        received = 0
        refused = False
        started = False

        async def counted() -> Message:
            nonlocal received, refused
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > most:
                    refused = True
                    raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if refused and not started:
                return  # what the application makes of the cut is of no interest
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLarge:
            pass
        except Exception:
            if not refused:
                raise
        if refused and not started:
            await too_large(scope, receive, send)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _as_sent(given: str) -> set[bytes]:
    """The bytes of a header, and what they are for clients that send letters as Latin-1."""
    sent = given.encode("latin-1", "replace")
    return {sent, _utf8(given)}


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _is_same_origin(scope: Scope, headers: Headers, host: str) -> bool:
    origins = headers.getlist("origin")
    if origins:
        schemes = {"http": ("http", "https"), "ws": ("http", "https"), "https": ("https",), "wss": ("https",)}
        own = [f"{scheme}://{host}".lower() for scheme in schemes.get(scope.get("scheme", "http"), ())]
        if len(origins) > 1 or origins[0].lower() not in own:
            return False
    site = headers.get("sec-fetch-site", "none")
    follows_link = (
        scope.get("method") == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    return site in ("none", "same-origin") or follows_link


def _own_path(target: str, root: str) -> str:
    """`target` if it is a path of this server, else its page."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return target if plain and target.startswith(f"{root}/") and not target.startswith("//") else f"{root}/"


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ALWAYS.items():
                headers[name] = value
        await send(message)

    return sending


async def _refuse_websocket(refusal: Response, receive: Receive, send: Send) -> None:
    """Refuse the handshake; the server answers it with 403."""
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": bytes(refusal.body).decode().strip()})


LOGIN_TEXTS = {
    "language": "en",
    "wrong": "Wrong token.",
    "token": "Token",
    "open": "Open",
    "where": "clipsearch printed the token when it started.",
}
"""What the page that asks for the token says, unless `login_texts` of the application's state says it otherwise."""
_LOGIN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_LOGIN_PAGE = """<!doctype html>
<html lang="{language}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>clipsearch</title>
<style>body {{ font: 1.1em system-ui; max-width: 28em; margin: 20vh auto; padding: 0 1em; color-scheme: light dark }}
input, button {{ font: inherit; padding: .4em }}</style>
<h1>clipsearch</h1>{problem}
<form method="post" action="{root}/login?next={next}">
<label>{token} <input name="token" type="password" autofocus autocomplete="current-password"></label>
<button>{open}</button></form>
<p>{where}</p></html>
"""
