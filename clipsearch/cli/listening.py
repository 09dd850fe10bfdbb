"""What `clipsearch serve` and `clipsearch ui` share: options, a socket, and a server that runs until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from clipsearch import config
from clipsearch.cli.terminal import count
from clipsearch.errors import IndexNotFound
from clipsearch.filenames import safe, to_bytes
from clipsearch.places import expanded

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from clipsearch.server.engine import Make
    from clipsearch.server.routes import Service

PORT = 7860
PORTS_TRIED = 20
LARGE_BYTES = 1 << 20
_SIOCGIFADDR = 0x8915  # of Linux's sockios.h
_VIRTUAL = ("br-", "docker", "lxc", "podman", "tun", "veth", "virbr", "vmnet")
_M_MMAP_THRESHOLD = -3  # of malloc.h


IndexesOption = Annotated[
    list[Path] | None,
    typer.Option("--index", help="Index, or its photo folder. Can be repeated.", metavar="DIR"),
]
HostOption = Annotated[
    str, typer.Option(help="Address to listen on. Any but a loopback address requires a token.", metavar="ADDRESS")
]
PortOption = Annotated[
    int | None, typer.Option(min=0, max=65535, help=f"Port to listen on (default: {PORT}, or the next free one).")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        envvar="CLIPSEARCH_TOKEN",
        help="Token that clients must send. Generated if required and not given.",
        metavar="T",
    ),
]
RootPathOption = Annotated[
    str,
    typer.Option(
        "--root-path",
        help="Sub-path behind a proxy: /photos for https://example.org/photos/.",
        metavar="PATH",
    ),
]
HostNameOption = Annotated[
    list[str] | None,
    typer.Option("--host-name", help="Additional host name to accept. Can be repeated.", metavar="NAME"),
]
OriginalsOption = Annotated[
    bool | None,
    typer.Option(
        "--originals/--no-originals",
        help="Send original files on request. By default, only to browsers on this machine.",
    ),
]


def listen(
    places: list[Path],
    host: str,
    port: int | None,
    token: str | None,
    host_names: list[str] | None,
    root_path: str,
    originals: bool | None,
    *,
    interface: Callable[[FastAPI, Service], Callable[[], None]] | None,
    browser: bool,
    make: Make | None = None,
) -> None:
    """Serve the indexes at `places` until Ctrl-C, with a page if `interface` adds one; `browser` opens it. `make` opens
    a generation of an index."""
    from clipsearch.server.sub_path import checked_root

    try:
        root = checked_root(root_path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--root-path") from None
    listening = socket_at(host, port)
    from clipsearch.daemon.server import answer_locally
    from clipsearch.server.app import ServerOptions, create_app
    from clipsearch.server.engine import SharedCollection
    from clipsearch.server.security import is_loopback

    local = is_loopback(host)
    token = token or (None if local else secrets.token_urlsafe(24))
    if token is not None and not token.isprintable():
        raise typer.BadParameter("a token cannot have control characters", param_hint="--token")
    names = (*(host_names or ()), *(() if local else own_names()))
    served = create_app(
        places,
        options=ServerOptions(token=token, local=local, root_path=root, host_names=names, originals=originals),
        interface=interface,
        background=(lambda service: answer_locally(service.engine),),
        make=make or SharedCollection,
    )
    absent = served.state.service.engine.absent
    for place in places:
        if place not in absent:
            config.remember_index(place)
    bases = [f"http://{shown}:{listening.getsockname()[1]}{root}" for shown in reachable_at(host)]
    page = "/" if interface is not None else "/docs"
    entries = [base + (page if token is None else f"/login?{urlencode({'token': to_bytes(token)})}") for base in bases]
    for name, open_index in served.state.service.engine.indexes.items():
        with open_index.lease() as photos:
            print(f"{safe(name)}: {count(len(photos), 'picture')} in {safe(str(photos.root))}", file=sys.stderr)
    for place, why in absent.items():
        print(f"{safe(str(place))}: not served now: {safe(why)}", file=sys.stderr)
    for entry in entries:
        print(f"clipsearch: {entry} (stop with Ctrl-C)", file=sys.stderr, flush=True)
    if not local and interface is not None and sys.stderr.isatty():
        print_code(entries[min(1, len(entries) - 1)])

    def open_browser() -> None:
        ticket = "" if token is None else f"login?ticket={served.state.tickets.new()}"
        _open_browser(f"{bases[0]}/{ticket}")

    _serve(served, listening, open_browser if browser else None)


def found_indexes(named: list[Path]) -> list[Path]:
    """The indexes that were named; of several, one that is not there stays as it was named. Raises: IndexNotFound,
    IndexAway."""
    found: list[Path] = []
    failures: list[IndexNotFound] = []
    for place in named:
        try:
            found.append(config.find_index(place))
        except IndexNotFound as error:
            failures.append(error)
            found.append(expanded(place))
    if failures and len(failures) == len(named):
        raise failures[0]
    return found


def reachable_at(host: str) -> list[str]:
    """The names by which browsers reach a server that listens on `host`: of this machine first, then of others."""
    if host == "localhost":
        return ["127.0.0.1"]
    if host not in ("0.0.0.0", "::"):
        return [f"[{host}]" if ":" in host else host]
    return ["127.0.0.1", *own_addresses()]


def own_addresses() -> list[str]:
    """The IPv4 addresses of this machine in its networks, those of virtual machines and containers last."""
    if sys.platform != "linux":
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect(("192.0.2.1", 9))  # chooses the address to send from, and sends nothing
            return [asking.getsockname()[0]]
        return []
    import fcntl
    import struct

    found: list[tuple[bool, str]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append((name.startswith(_VIRTUAL), socket.inet_ntoa(answer[20:24])))
    return [address for _, address in sorted(found, key=lambda one: one[0]) if not address.startswith("127.")]


def print_code(address: str) -> None:
    """An address as a QR code on the terminal, for a phone's camera."""
    import io

    import segno

    text = io.StringIO()
    segno.make(address, error="l", micro=False).terminal(out=text, compact=True)
    print(text.getvalue(), file=sys.stderr, flush=True)


def own_names(hosts: Path = Path("/etc/hosts"), resolver: Path = Path("/etc/resolv.conf")) -> list[str]:
    """What this machine is called, as far as its own files say: nobody is asked, as socket.getfqdn would."""
    name = socket.gethostname()
    names = [name, f"{name}.local"]
    with contextlib.suppress(OSError):
        for line in hosts.read_text(encoding="utf-8", errors="replace").splitlines():
            listed = line.partition("#")[0].split()[1:]
            names += listed if name in listed else []
    with contextlib.suppress(OSError):
        for line in resolver.read_text(encoding="utf-8", errors="replace").splitlines():
            kind, *domains = line.split() or [""]
            names += [f"{name}.{domain.strip('.')}" for domain in domains if kind in ("search", "domain")]
    return list(dict.fromkeys(names))


def socket_at(host: str, port: int | None) -> socket.socket:
    """A socket that listens, so that its port is known before the server runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(PORT, PORT + PORTS_TRIED):
        # asyncio turns Nagle's algorithm off for sockets that say they are TCP's: else each answer waits 40 ms for the
        # client's delayed acknowledgement of its header.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(1024)
        except OSError as error:
            listening.close()
            problem = error.strerror or str(error)
        else:
            return listening
    where = f"port {port}" if port is not None else f"ports {PORT} to {PORT + PORTS_TRIED - 1}"
    raise typer.BadParameter(f"cannot listen on {host}, {where}: {problem}", param_hint="--host, --port")


def _return_memory() -> None:
    """Let glibc give large arrays back when they are freed, rather than keep some for each thread."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def _serve(served: FastAPI, listening: socket.socket, started: Callable[[], None] | None) -> None:
    """Run until Ctrl-C or SIGTERM; what is being answered then is answered."""
    import uvicorn

    from clipsearch.server.connections import Sparingly, settings

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and started is not None:
                started()

    _return_memory()
    logging.basicConfig(format="clipsearch: %(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparingly())
    with contextlib.suppress(KeyboardInterrupt):
        Server(settings(served, log_config=None)).run([listening])


def _open_browser(address: str) -> None:
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
