"""Pictures at an address, for the command line only: nothing else fetches what a user names.

http and https; no address that is not public, also not after a redirect: the name is looked up once, and the connection
goes to what was found. A limit of bytes, of time and of redirects; what is kept is a picture by its first bytes.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from clipsearch.errors import ClipsearchError, UnreadablePicture
from clipsearch.pictures.formats import HEAD_BYTES, identify
from clipsearch.temporary import temporary_folder

MOST_BYTES = 50 * 2**20
MOST_SECONDS = 30.0
MOST_REDIRECTS = 5
_TOO_LONG = f"it takes longer than {MOST_SECONDS:.0f} seconds"
_CHUNK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_AS_WRITTEN = (
    "%/:@!$&'()*+,;=?[]"  # in the path of an address and behind it; all else but letters and digits is escaped
)


class CannotFetch(ClipsearchError):
    """A picture that cannot be fetched, and why."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot fetch {address}: {reason}")
        self.address = address
        self.reason = reason


def is_address(word: str) -> bool:
    """Whether a query is the address of something on the web."""
    return word.lower().startswith(("http://", "https://")) and not any(map(str.isspace, word))


@contextlib.contextmanager
def fetched(address: str) -> Iterator[Path]:
    """The picture at an address, as a file that is there as long as the `with` lasts. Raises: CannotFetch."""
    ends_at = time.monotonic() + MOST_SECONDS
    content = _follow(address, ends_at)
    kind = identify(content[:HEAD_BYTES], "")
    if kind is None:
        raise CannotFetch(address, "it is not a picture")
    with temporary_folder() as folder:
        path = Path(folder) / f"fetched.{kind.lower()[:5]}"
        path.write_bytes(content)
        try:
            yield path
        except UnreadablePicture as error:
            raise CannotFetch(address, error.reason) from error


def _follow(address: str, ends_at: float) -> bytes:
    at = address
    for _ in range(MOST_REDIRECTS + 1):
        try:
            content, goes_to = _get(at, ends_at)
        except (OSError, http.client.HTTPException, ValueError) as error:
            is_late = time.monotonic() >= ends_at
            reason = _TOO_LONG if is_late else getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CannotFetch(at, reason) from error
        if content is not None:
            return content
        at = urljoin(at, _as_utf8(goes_to))
    raise CannotFetch(address, f"it redirects more than {MOST_REDIRECTS} times")


def _get(address: str, ends_at: float) -> tuple[bytes | None, str]:
    """What is at an address, or None and where it redirects to. Raises: OSError, HTTPException, ValueError."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        raise ValueError("only http and https addresses are fetched")
    if not parts.hostname:
        raise ValueError("it names no server")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(parts.hostname, port)
    connection.sock = _connect(parts.hostname, port, ends_at)
    with contextlib.closing(connection), _ended(connection, ends_at):
        if parts.scheme == "https":
            secure = ssl.create_default_context().wrap_socket(
                connection.sock, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            connection.sock = secure
            secure.do_handshake()
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_AS_WRITTEN)
        connection.request("GET", target, headers={"User-Agent": "clipsearch", "Accept": "image/*"})
        answer = connection.getresponse()
        if answer.status in _REDIRECTS:
            return None, answer.headers.get("Location") or ""
        if answer.status != 200:
            raise ValueError(f"the server answers {answer.status} {answer.reason}")
        content = bytearray()
        while chunk := answer.read1(_CHUNK_BYTES):
            content += chunk
            if len(content) > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
        _left(ends_at)  # else it may have been ended before it was whole
        return bytes(content), ""


@contextlib.contextmanager
def _ended(connection: http.client.HTTPConnection, ends_at: float) -> Iterator[None]:
    """While the `with` lasts, a connection is ended when its time is over, however slowly bytes go on coming: the
    timeout of a socket begins anew with each."""

    def end() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # of what encrypts, too: its reads end

    timer = threading.Timer(_left(ends_at), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _as_utf8(header: str) -> str:
    """A header that holds UTF-8, which http.client takes for Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _connect(host: str, port: int, ends_at: float) -> socket.socket:
    """A connection to a public address of a host. Raises: OSError, ValueError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [place for *_, place in found]
    if not places or not all(is_public(str(place[0])) for place in places):
        raise ValueError(f"{host} is not a public address")
    connection = socket.create_connection((str(places[0][0]), port), timeout=_left(ends_at))
    connection.settimeout(min(10.0, _left(ends_at)))
    return connection


def is_public(place: str) -> bool:
    """Whether an IP address is one of the public internet, however it is written."""
    address = ipaddress.ip_address(place.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
    return address.is_global and not address.is_multicast


def _left(ends_at: float) -> float:
    """Seconds that are left. Raises: TimeoutError."""
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError(_TOO_LONG)
    return left
