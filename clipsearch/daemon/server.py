"""Answer queries of this user's other processes, exactly as they would answer them themselves.

`client` is the other end. What cannot be answered so (another build, a picture's path, an error) is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipsearch.builds import build
from clipsearch.daemon.client import is_own_user, message, receive, socket_path
from clipsearch.encoder import Encoder
from clipsearch.errors import ClipsearchError
from clipsearch.places import expanded
from clipsearch.query import MARK, Query, parse_query
from clipsearch.server.engine import Engine, ServedIndex

PATIENCE_S = 5.0  # with a client that connects and says nothing


class LocalSocket:
    """A socket for one index that is served. Close it."""

    def __init__(self, engine: Engine, served: ServedIndex, path: Path) -> None:
        """Listen at `path`, in place of a server that was there before, and of nothing else. Raises: OSError."""
        self._engine = engine
        self._served = served
        self._path = path
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self.last_used_at = time.monotonic()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        part = path.with_suffix(f".{os.getpid()}")
        for place in (part, path):
            if os.path.lexists(place) and not place.is_socket():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
        part.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(part))
        part.chmod(0o600)
        self._listening.listen(16)
        self._inode = part.stat().st_ino
        part.replace(path)
        threading.Thread(target=self._warm_up).start()  # no daemon: ending inside onnxruntime aborts the process
        threading.Thread(target=self._accept, name="clipsearch-local", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,)).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError, ClipsearchError):
            connection.settimeout(PATIENCE_S)
            if not is_own_user(connection):
                return
            index = os.path.realpath(self._served.path)
            connection.sendall(message({"build": build(), "index": index}))
            with connection.makefile("rb") as stream:
                asked = receive(stream)
                self.last_used_at = time.monotonic()
                if asked["build"] == build() and asked["index"] == index:
                    connection.sendall(message(self._answer(asked)))

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Hits, or nothing. Raises: ClipsearchError, TypeError for options that are not known here."""
        generation = int(asked["current"].split()[2])
        folder = Path(asked["folder"])
        if any(map(os.path.isabs, asked["query"].split())):
            return {}  # it may be a picture of the index, whatever else it reads as
        parsed = Query("", ())  # what lists the newest pictures
        if asked["query"].strip():
            parsed = parse_query(asked["query"], is_file=lambda name: _is_file(folder, name))
        if any(term.kind == "picture" or MARK in term.value for term in parsed.terms):
            return {}
        with self._served.lease_alone(at_least=generation) as photos:
            if photos.manifest.generation != generation:
                return {}
            alone = photos.alone(self._own_encoder(photos.encoder))
            hits = alone.search(parsed, asked["k"], **asked["options"])
            notices = alone.notices(parsed, uncertain=bool(hits) and not hits.are_certain)
            told = {"are_certain": hits.are_certain, "notices": notices}
            return {"hits": [hit.to_dict(exact=True, whole=True) for hit in hits], **told}

    def _warm_up(self) -> None:
        with contextlib.suppress(ClipsearchError, OSError), self._served.lease_alone() as photos:
            photos.alone(self._own_encoder(photos.encoder)).search("a picture", 1)

    def _own_encoder(self, shared: Encoder) -> Encoder:
        """An encoder that gives the vectors of a new process, to the last bit."""
        with self._lock:
            if self._encoder is None or self._encoder.fingerprint != shared.fingerprint:
                self._encoder = shared.as_new()
            return self._encoder


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / expanded(name)).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def open_sockets(engine: Engine) -> list[LocalSocket]:
    """A socket for each index, where there can be one."""
    sockets = []
    for served in engine.indexes.values():
        path = socket_path(served.path)
        with contextlib.suppress(OSError):
            if path is not None:
                sockets.append(LocalSocket(engine, served, path))
    return sockets


def answer_locally(engine: Engine) -> Callable[[], None]:
    """Open the sockets; returns what closes them."""
    sockets = open_sockets(engine)

    def close() -> None:
        for local in sockets:
            local.close()

    return close
