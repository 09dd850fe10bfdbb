"""A model hub on 127.0.0.1 that serves folders as repositories: the few endpoints that snapshot_download asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`requests` are the paths that were asked for; `broken` files break off in the middle."""

    url: str
    requests: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


@contextmanager
def fake_hub(repositories: dict[str, Path]) -> Iterator[FakeHub]:
    """Serve each folder under its repository name ("organisation/name")."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append(path)
            for name, folder in repositories.items():
                if path.startswith(f"api/models/{name}/revision/"):
                    files = [{"rfilename": file} for file in _files(folder)]
                    self._json({"id": name, "sha": COMMIT, "siblings": files, "private": False}, body)
                    return
                if path.startswith(f"api/models/{name}/tree/"):
                    self._json([_entry(folder, file) for file in _files(folder)], body)
                    return
                prefix = f"{name}/resolve/"
                if path.startswith(prefix):
                    file = path.removeprefix(prefix).partition("/")[2]
                    if file in _files(folder):
                        self._file((folder / file).read_bytes(), file, body)
                        return
            self._json({"error": "Repository not found"}, body, 404, {"X-Error-Code": "RepoNotFound"})

        def _json(self, value: object, body: bool, status: int = 200, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _file(self, data: bytes, name: str, body: bool) -> None:
            start = 0
            asked = self.headers.get("Range", "")
            if body and asked.startswith("bytes="):
                start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if body and name in hub.broken:
                self.wfile.write(data[start : len(data) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(data[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _entry(folder: Path, file: str) -> dict[str, object]:
    data = (folder / file).read_bytes()
    return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
