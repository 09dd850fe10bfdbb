"""A collection that a server has: `clipsearch.connect(url)` offers the methods of a local one.

with clipsearch.connect("http://127.0.0.1:7860") as photos:
    for hit in photos.search("a dog on a beach", k=10):
        print(hit.score, hit.path)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from clipsearch.errors import ClipsearchError, IndexNotFound, InvalidQuery, UnreadablePicture
from clipsearch.filenames import from_bytes
from clipsearch.records import DEFAULT_HITS, FloatArray, Hit, ImageRecord, PictureMetadata

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0


class ServerError(ClipsearchError):
    """The server at `url` cannot be reached, or answered with `status` for a reason of its own."""

    def __init__(self, url: str, problem: str, status: int | None = None) -> None:
        self.url = url
        self.problem = problem
        self.status = status
        super().__init__(f"{url}: {problem}")


class AccessDenied(ServerError):
    """The server wants another token."""


class RemoteCollection:
    """An index that a server has open; always its newest generation. Safe to use from many threads.

    Use `clipsearch.connect` to make one. Close it, or use it in a `with`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        index: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`index` is a name from `status`; the server's first one if left out. `transport`: see httpx, for tests."""
        import httpx

        self.url = url.rstrip("/")
        self.index = index
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_s, transport=transport, trust_env=False
        )

    def search(
        self,
        query: str | os.PathLike[str],
        k: int = DEFAULT_HITS,
        *,
        sort: Literal["score", "date", "path"] = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        all: bool = False,
    ) -> list[Hit]:
        """As `Collection.search`; a path that is no string is a picture of this machine, which is sent.

        Paths in hits are those of the server's machine.
        Raises: InvalidQuery, UnreadablePicture, AccessDenied, ServerError.
        """
        if not isinstance(query, str):
            vector, query = self.encode_picture(query), ""
        body = {
            "query": query,
            "k": k,
            "sort": sort,
            "unique": unique,
            "diverse": 0.5 if diverse is True else float(diverse),
            "like": list(like),
            "unlike": list(unlike),
            "vector": None if vector is None else [float(x) for x in vector],
            "all": all,
            "index": self.index,
        }
        return [_hit(found) for found in self._post("/v1/search", body)["hits"]]

    def notices(self, query: str) -> list[str]:
        """As `Collection.notices`."""
        answer = self._post("/v1/search", {"query": query, "k": 1, "all": True, "index": self.index})
        return [str(line) for line in answer.get("notices", ())]

    def similar(self, row_id: int, k: int = DEFAULT_HITS) -> list[Hit]:
        """The k pictures nearest to one of the index, itself first. Raises: KeyError if there is none."""
        body = {"id": row_id, "k": k, "index": self.index}
        return [_hit(found) for found in self._post("/v1/similar", body)["hits"]]

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """The vectors of texts. Shape: (B, D) float32, unit L2."""
        return _array(self._post("/v1/embed", {"texts": list(texts), "index": self.index})["vectors"])

    def encode_picture(self, path: str | os.PathLike[str]) -> FloatArray:
        """The vector of a picture of this machine, which is sent. Shape: (D,). Raises: UnreadablePicture."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UnreadablePicture(os.fspath(path), "unreadable", error.strerror or str(error)) from None
        form = {} if self.index is None else {"index": self.index}
        answer = self._ask("POST", "/v1/embed/upload", files={"image": ("picture", content)}, data=form)
        return _vector(answer)

    def record(self, row_id: int) -> ImageRecord:
        """What the index knows of a picture. Raises: KeyError if there is none."""
        return _record(self._get(f"/v1/images/{int(row_id)}"))

    def vector(self, row_id: int) -> FloatArray:
        """The vector of a picture of the index. Shape: (D,) float32, unit L2. Raises: KeyError if there is none."""
        return _vector(self._get(f"/v1/images/{int(row_id)}/vector"))

    def thumbnail(self, row_id: int, size: Literal[128, 256, 512, 1024] = 256) -> bytes:
        """A small copy of a picture as a JPEG. Raises: KeyError if there is none, UnreadablePicture."""
        parameters = {"size": str(size), **self._named()}
        return self._response("GET", f"/v1/images/{int(row_id)}/thumbnail", params=parameters).content

    def status(self) -> dict[str, Any]:
        """What is served: see `GET /v1/status`."""
        return self._get("/v1/status")

    def __len__(self) -> int:
        """How many pictures can be found."""
        states = self.status()["indexes"]
        return int(next(state["pictures"] for state in states if self.index in (None, state["name"])))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- requests

    def _named(self) -> dict[str, str]:
        return {} if self.index is None else {"index": self.index}

    def _get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path, params=self._named())

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._response(method, path, **request)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServerError(self.url, "it is no clipsearch server", answer.status_code)
        return body

    def _response(self, method: str, path: str, **request: Any) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, path, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"it cannot be reached ({error}). Start it with: clipsearch serve"
            raise ServerError(self.url, problem) from error
        if answer.status_code != 200:
            self._fail(answer)
        return answer

    def _fail(self, answer: httpx.Response) -> NoReturn:
        try:
            body = answer.json()
            kind, message = str(body["error"]), str(body["message"])
        except (ValueError, KeyError, TypeError):
            kind, message = "", answer.text.strip()[:200] or answer.reason_phrase
        status = answer.status_code
        if status == 400:
            raise InvalidQuery(message)
        if kind == "NoSuchPicture":
            raise KeyError(message)
        if kind == "UnknownIndex":
            raise IndexNotFound([f"{self.url} ({message})"])
        if kind == "UnreadablePicture":
            raise UnreadablePicture("the picture", "corrupt", message.removeprefix("the picture: "))
        if status == 401:
            raise AccessDenied(self.url, "it wants a token: clipsearch.connect(url, token=...)", status)
        raise ServerError(self.url, f"{status}: {message}", status)


def connect(
    url: str, token: str | None = None, *, index: str | None = None, timeout_s: float = TIMEOUT_S
) -> RemoteCollection:
    """Connect to `clipsearch serve` at `url`, such as "http://127.0.0.1:7860".

    `index` is the name of one of its indexes; the first if left out. Nothing is asked before a method is called.
    """
    return RemoteCollection(url, token=token, index=index, timeout_s=timeout_s)


def _array(vectors: list[list[float]]) -> FloatArray:
    import numpy as np

    return np.array(vectors, np.float32)


def _vector(answer: dict[str, Any]) -> FloatArray:
    vector: FloatArray = _array(answer["vectors"])[0]
    return vector


def _record(body: dict[str, Any]) -> ImageRecord:
    metadata = PictureMetadata(
        **{name: body[name] for name in ("format", "taken_at", "camera", "latitude", "longitude")},
        date_source=body.get("date_source"),
    )
    names = ("size_bytes", "mtime_ns", "content_hash", "width", "height")
    return ImageRecord(
        row_id=body["id"], path=_name(body, "name"), inode=0, metadata=metadata, **{name: body[name] for name in names}
    )


def _name(body: dict[str, Any], key: str) -> str:
    """A name or path, also one that is not UTF-8."""
    exact = body.get(f"{key}_bytes")
    return body[key] if exact is None else from_bytes(bytes.fromhex(exact))


def _hit(body: dict[str, Any]) -> Hit:
    score = float("nan") if body["score"] is None else body["score"]
    others = tuple(_hit(other) for other in body["others"])
    return Hit(body["rank"], score, _name(body, "path"), _record(body), others, body["confidence"], body["band"])
