"""Ask a server of this user that has the index open already, through a socket that only this user can reach.

The socket is in the user's state folder, named after the index. A server greets whoever connects; it answers with hits
or, if it cannot answer exactly as a new process would (another build, a picture's path in the query, an error), not
at all: the caller then does the work itself. Loads no NumPy: that is most of what a query waits for.

Messages are JSON, one a line. `clipsearch.daemon.server` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clipsearch.builds import build
from clipsearch.config import state_dir, working_folder
from clipsearch.filenames import to_bytes
from clipsearch.records import Hit, Hits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GREETING_TIMEOUT_S = 0.25
ANSWER_TIMEOUT_S = 10.0
LONGEST_ADDRESS = 100  # bytes; systems allow 104 or more
LONGEST_MESSAGE_BYTES = 256 << 20


def socket_path(index: Path) -> Path | None:
    """Where a server of the index folder `index` listens; None where no socket can be."""
    name = f"{zlib.crc32(to_bytes(os.path.realpath(index))):08x}.sock"
    path = state_dir() / "servers" / name
    usable = hasattr(socket, "AF_UNIX") and len(to_bytes(path)) <= LONGEST_ADDRESS
    return path if usable else None


def ask(
    index: Path, query: str, k: int, options: dict[str, Any], tell: Callable[[str], None] = lambda line: None
) -> Hits | None:
    """The hits that `Collection.search` would return, from a server; None where there is none that knows them.

    `options` are keyword arguments of `Collection.search`; `tell` gets what `Collection.notices` would say.
    """
    path = socket_path(index)
    if path is None or not path.exists():
        return None
    here = working_folder()
    if here is None:
        return None
    request: dict[str, Any] = {
        "build": build(),
        "index": os.path.realpath(index),
        "folder": str(here),
        "query": query,
        "k": k,
        "options": options,
    }
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        request["current"] = (index / "CURRENT").read_text(encoding="ascii")
        with _greeted(path, request["index"]) as (connection, stream):
            connection.settimeout(ANSWER_TIMEOUT_S)
            connection.sendall(message(request))
            answer = receive(stream)
        if answer.get("hits"):
            hits = Hits(map(Hit.from_dict, answer["hits"]), are_certain=answer["are_certain"])
            for line in answer["notices"]:
                tell(str(line))
            return hits
    return None


def is_answered(index: Path) -> bool:
    """Whether a server of this build answers for the index folder `index`."""
    path = socket_path(index)
    if path is None:
        return False
    with contextlib.suppress(OSError, ValueError), _greeted(path, os.path.realpath(index)):
        return True
    return False


def start_daemon(index: Path) -> None:
    """Start a process that answers later queries, and ends when it has been idle. It is not waited for."""
    import subprocess
    import sys

    if socket_path(index) is None:
        return
    subprocess.Popen(
        [sys.executable, "-P", "-m", "clipsearch.daemon", str(index.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ},  # see __main__
        start_new_session=True,
    )


@contextlib.contextmanager
def _greeted(path: Path, index: str) -> Iterator[tuple[socket.socket, IO[bytes]]]:
    """A connection to the server of `index`. Raises: OSError; ValueError for another build, index or user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(GREETING_TIMEOUT_S)
        connection.connect(str(path))
        if not is_own_user(connection):
            raise ValueError("a server of another user")
        with connection.makefile("rb") as stream:
            greeting = receive(stream)
            if greeting.get("build") != build() or greeting.get("index") != index:
                raise ValueError("another server")
            yield connection, stream


def message(body: dict[str, Any]) -> bytes:
    """One message. Lone surrogates (names that are not UTF-8) survive as escapes."""
    return json.dumps(body).encode("ascii") + b"\n"


def receive(stream: IO[bytes]) -> dict[str, Any]:
    """Read one message. Raises: ValueError for what is none, OSError."""
    line = stream.readline(LONGEST_MESSAGE_BYTES)
    if not line.endswith(b"\n"):
        raise ValueError("the connection ended")
    body = json.loads(line)
    if not isinstance(body, dict):
        raise ValueError("not a message")
    return body


def is_own_user(connection: socket.socket) -> bool:
    """Whether the process at the other end is of this user. True where the system does not say (macOS)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return bool(user == os.geteuid())
