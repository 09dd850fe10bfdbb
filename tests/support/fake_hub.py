"""A model hub on 127.0.0.1 that serves folders as repositories: the few endpoints that its client asks.

It takes uploads, too, from whoever has TOKEN: small files in the commit, large ones before it, as the real one does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"
LARGE_BYTES = 10_000  # what is sent before the commit
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`requests` are the paths that were asked for; `broken` files break off in the middle.

    `public`: repositories that anyone may read. `received`: bodies of all uploads, as they came. `fails_at`: the path
    whose upload is answered with status 500.
    """

    url: str
    requests: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    public: set[str] = field(default_factory=set)
    received: list[bytes] = field(default_factory=list)
    fails_at: str | None = None


@contextmanager
def fake_hub(repositories: dict[str, Path], new: Path | None = None) -> Iterator[FakeHub]:
    """Serve each folder under its repository name ("organisation/name"). `new`: where created ones lie."""
    large: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_PUT(self) -> None:
            path = urlsplit(self.path).path.lstrip("/")
            large[path.removeprefix("lfs/")] = self._received()
            self._json({}, True)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append(path)
            data = self._received()
            if path == "api/validate-yaml":
                self._json({"errors": [], "warnings": []}, True)
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._json({"error": "Invalid username or password."}, True, 401)
                return
            if path == "api/repos/create":
                self._create(json.loads(data))
            elif found := re.fullmatch(r"api/models/(.+)/preupload/main", path):
                self._json({"files": [_mode(file) for file in json.loads(data)["files"]]}, True)
            elif found := re.fullmatch(r"(.+)\.git/info/lfs/objects/batch", path):
                objects = [
                    {**entry, "actions": {"upload": {"href": f"{hub.url}/lfs/{entry['oid']}"}}}
                    for entry in json.loads(data)["objects"]
                ]
                self._json({"objects": objects, "transfer": "basic"}, True)
            elif (found := re.fullmatch(r"api/models/(.+)/commit/main", path)) and found[1] in repositories:
                self._commit(found[1], [json.loads(line) for line in data.splitlines()])
            else:
                self._json({"error": "Repository not found"}, True, 404, {"X-Error-Code": "RepoNotFound"})

        def _received(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                data = b"".join(parts)
            else:
                data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            hub.received.append(data)
            return data

        def _create(self, asked: dict[str, str]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            url = {"url": f"{hub.url}/{name}", "name": name}
            if name in repositories:
                self._json({"error": "You already created this model repo", **url}, True, 409)
                return
            assert new is not None
            repositories[name] = new / name
            repositories[name].mkdir(parents=True)
            if asked.get("visibility") != "private":
                hub.public.add(name)
            self._json(url, True)

        def _commit(self, name: str, lines: list[dict[str, dict[str, str]]]) -> None:
            folder = repositories[name]
            if hub.fails_at == "commit":
                self._json({"error": "Internal error"}, True, 500)
                return
            for line in lines:
                kind, value = str(line["key"]), line["value"]
                if kind == "header":
                    continue
                target = folder / value["path"]
                if kind == "deletedFile":
                    target.unlink()
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(large[value["oid"]] if kind == "lfsFile" else base64.b64decode(value["content"]))
            url = f"{hub.url}/{name}/commit/{COMMIT}"
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": url}, True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append(path)
            for name, folder in repositories.items():
                if path.startswith(f"api/models/{name}/revision/") or path == f"api/models/{name}":
                    files = [{"rfilename": file} for file in _files(folder)]
                    private = new is not None and name not in hub.public
                    self._json({"id": name, "sha": COMMIT, "siblings": files, "private": private}, body)
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


def _mode(file: dict[str, object]) -> dict[str, object]:
    size = file["size"]
    assert isinstance(size, int)
    return {"path": file["path"], "uploadMode": "lfs" if size > LARGE_BYTES else "regular", "shouldIgnore": False}


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _entry(folder: Path, file: str) -> dict[str, object]:
    data = (folder / file).read_bytes()
    return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
