"""A collection that a server has: `clipsearch.connect(url)` offers the methods of a local one.

with clipsearch.connect("http://127.0.0.1:7860") as photos:
    for hit in photos.search("a dog on a beach", k=10):
        print(hit.score, hit.path)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

from clipsearch.errors import (
    NO_SUCH_PICTURE,
    AccessDenied,
    ClosedCollection,
    DimensionMismatch,
    InvalidArgument,
    InvalidQuery,
    MalformedQuery,
    NoSuchPicture,
    ServerError,
    UnknownIndex,
    UnreadablePicture,
    rebuilt,
)
from clipsearch.filenames import for_parsers, from_parsers, readable, to_bytes, well_formed
from clipsearch.places import absolute, expanded, is_file, is_unchanged
from clipsearch.query import LENGTH_LIMIT, Query, parse_query
from clipsearch.query.arguments import (
    A_PICTURE,
    MOST_AT_ONCE,
    MOST_DIMENSIONS,
    MOST_TEXTS,
    MOST_VECTORS,
    Size,
    read_address,
    read_arguments,
    read_name,
    read_number,
    read_path,
    read_pictures,
    read_queries,
    read_query,
    read_row_id,
    read_row_ids,
    read_size,
    read_texts,
    read_token,
    read_window,
)
from clipsearch.records import (
    DEFAULT_HITS,
    NOTHING_CERTAIN,
    AnyPicture,
    FloatArray,
    Hit,
    Hits,
    ImageRecord,
    Sort,
    TagKind,
)

if TYPE_CHECKING:
    import httpx

MOST_LETTERS = 500_000  # of all texts in one request; a server takes 4 MB of JSON
SIDE_BY_SIDE = 4  # requests
TIMEOUT_S = 30.0
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RemoteTag:
    """A tag or concept of an index, and how many pictures it was given."""

    name: str
    kind: TagKind
    pictures: int


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
        """`index` is a name from `status`; the server's first one if left out. `transport`: see httpx, for tests.

        Raises: InvalidArgument, also for what is no address.
        """
        import httpx

        self.url = read_address("url", url)
        self.index = None if index is None else read_name("index", index)
        token = "" if token is None else read_token("token", token)
        headers = {b"Authorization": b"Bearer " + to_bytes(token)} if token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=read_number("timeout_s", timeout_s, 0),
                transport=transport,
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise InvalidArgument("url", f"no address ({error})", "such as http://127.0.0.1:7860") from None

    @property
    def root(self) -> Path:
        """The folder whose pictures these are, on the server's machine."""
        return Path(self._state()["root"])

    @property
    def generation(self) -> int:
        """The number of the commit that the server has open."""
        return int(self._state()["generation"])

    @property
    def tags(self) -> tuple[RemoteTag, ...]:
        """The tags and concepts of the index."""
        return tuple(RemoteTag(**tag) for tag in self._state()["tags"])

    def __len__(self) -> int:
        """How many pictures can be found."""
        return int(self._state()["pictures"])

    def __repr__(self) -> str:
        named = "" if self.index is None else f", index {self.index}"
        return f"<RemoteCollection at {self.url}{named}{', closed' if self._http.is_closed else ''}>"

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is an iterable of str, too: one query
        self,
        query: str | os.PathLike[str] = ...,
        k: int = DEFAULT_HITS,
        *,
        offset: int = 0,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> Hits: ...
    @overload
    def search(
        self,
        query: Iterable[str | os.PathLike[str]],
        k: int = DEFAULT_HITS,
        *,
        offset: int = 0,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> list[Hits]: ...
    def search(
        self,
        query: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = "",
        k: int = DEFAULT_HITS,
        *,
        offset: int = 0,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> Hits | list[Hits]:
        """As `Collection.search`. Picture files of this machine that the index does not have are sent.

        Paths in hits are those of the server's machine; a query may be one of them. Several queries are asked side by
        side: the server joins what comes together.
        Raises: InvalidQuery, UnknownTag, DimensionMismatch, UnreadablePicture, UnknownIndex, AccessDenied, ServerError.
        """
        self._check_open()
        k, offset = read_window(k, offset)
        about = read_arguments(
            sort=sort,
            unique=unique,
            diverse=diverse,
            like=like,
            unlike=unlike,
            vector=vector,
            all=all,
            min_confidence=min_confidence,
            each=each,
        )
        queries, is_one = read_queries(query)
        options = {
            "sort": about.sort,
            "unique": about.unique,
            "diverse": about.diverse,
            "min_confidence": about.min_confidence,
            "each": about.each,
            "like": about.like,
            "unlike": about.unlike,
            "all": about.all,
            "index": self.index,
        }
        if is_one:
            return self._search(queries[0], k, offset, about.vector, options)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            return list(threads.map(lambda one: self._search(one, k, offset, about.vector, options), queries))

    def _search(
        self,
        query: str | os.PathLike[str],
        k: int,
        offset: int,
        vector: FloatArray | None,
        options: dict[str, Any],
    ) -> Hits:
        """The hits of one query."""
        if vector is not None and len(vector) > MOST_DIMENSIONS:
            raise DimensionMismatch(int(self._state()["dim"]), len(vector))
        words, file, sent, elsewhere = self._split(query)
        if file is not None:
            from clipsearch.vectors import directed

            of_file = self.encode_picture(file)
            vector = of_file if vector is None else directed(len(of_file), vector, of_file)
        pictures = [{"path": path, "vector": vector_of.tolist()} for path, vector_of in sent.items()]
        body = {"query": words, "vector": None if vector is None else vector.tolist(), "pictures": pictures, **options}
        hits = self._shown([])
        while len(hits) < k:
            wanted = min(k - len(hits), MOST_AT_ONCE)
            try:
                answer = self._post("/v1/search", {**body, "k": wanted, "offset": offset + len(hits)})
            except MalformedQuery as error:
                if error.position in elsewhere:
                    raise UnreadablePicture(elsewhere[error.position], "unreadable", NO_SUCH_PICTURE) from None
                raise
            hits += self._read(_hits, answer)
            hits.are_certain = NOTHING_CERTAIN not in answer["notices"]
            if len(answer["hits"]) < wanted:
                break
        return hits

    def _split(self, query: str | os.PathLike[str]) -> tuple[str, str | None, dict[str, FloatArray], dict[int, str]]:
        """What to ask the server in words, a picture file of this machine to send, the vectors of others that stand
        among the words, and pictures that only the server may know, by their position.

        Raises: MalformedQuery, UnreadablePicture.
        """
        if not isinstance(query, str):
            return *self._named_picture(os.fspath(query)), {}, {}
        query = well_formed(query)
        text = query.strip()
        if not text:
            return "", None, {}, {}
        if os.path.isabs(text) and len(query) <= LENGTH_LIMIT:  # noqa: PTH117
            row_id = self._row_of(text)
            if row_id is not None:
                return f"like:{row_id}", None, {}, {}
        parsed = parse_query(query, is_file=is_file)
        pictures = {term.position: term.value for term in parsed.terms if term.kind == "picture"}
        if len(pictures) == len(parsed.terms) == 1 and parsed.filter is None and parsed.terms[0].weight > 0:
            return *self._named_picture(parsed.terms[0].value), {}, {}
        sent: dict[str, FloatArray] = {}
        for path in dict.fromkeys(pictures.values()):
            if (row_id := self._row_of(path)) is not None:
                sent[path] = self.vector(row_id)
            elif is_file(path):
                sent[path] = self.encode_picture(path)
        return query, None, sent, pictures

    def _named_picture(self, path: str) -> tuple[str, str | None]:
        """How to ask for a picture: in words if the index has it, else by its file. Raises: UnreadablePicture."""
        row_id = self._row_of(path)
        if row_id is not None:
            return f"like:{row_id}", None
        if not is_file(path):
            raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE)
        return "", path

    def _row_of(self, path: str) -> int | None:
        """The row id of a picture of the index, unless the file of this machine at its path is another."""
        try:
            place = absolute(path)
            found = self._post("/v1/picture", {"path": place, "index": self.index})
        except (OSError, NoSuchPicture):  # OSError: the current folder is gone
            return None
        return int(found["row_id"]) if is_unchanged(place, found["size_bytes"], found["mtime_ns"]) else None

    def notices(self, query: str | os.PathLike[str]) -> list[str]:
        """As `Collection.notices`."""
        self._check_open()
        query = read_query(query)
        if not isinstance(query, str):
            self._state()  # whether the server has the index
            return []
        query = well_formed(query)
        text = query.strip()
        may_be_path = len(query) <= LENGTH_LIMIT and os.path.isabs(text)  # noqa: PTH117
        if may_be_path and self._row_of(text) is not None:
            return []
        parsed = parse_query(query, is_file=is_file) if text else None
        texts = [term.value for term in parsed.terms if term.kind == "text"] if parsed is not None else []
        answer = self._post("/v1/notices", {"texts": texts, "index": self.index})
        told = [] if parsed is None else [*parsed.offers, *self._hints(parsed)]
        return [*told, *map(str, answer["notices"])]

    def _hints(self, parsed: Query) -> list[str]:
        from clipsearch.query.hints import hints, unknown_tags

        untagged = unknown_tags(parsed, [tag.name for tag in self.tags]) if parsed.filter is not None else []
        return [*untagged, *hints(parsed)]

    def similar(self, picture: int | str | os.PathLike[str] | Hit, k: int = DEFAULT_HITS) -> Hits:
        """As `Collection.similar`; a picture file of this machine is sent, another path is looked up in the index."""
        self._check_open()
        k, _ = read_window(k)
        if not isinstance(picture, str | os.PathLike):
            row_id = picture.record.row_id if isinstance(picture, Hit) else read_row_id(picture, "picture", A_PICTURE)
            return self._similar({"row_id": row_id}, k)
        path = read_path("picture", picture)
        row_of_file = self._row_of(path)
        if row_of_file is not None:
            return self._similar({"row_id": row_of_file}, k)
        if is_file(path):
            return self._in_steps(k, lambda **window: self._send("/v1/similar/upload", path, **window))
        try:
            return self._similar({"path": path}, k)
        except NoSuchPicture:
            raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE) from None

    def _similar(self, to: dict[str, Any], k: int) -> Hits:
        return self._in_steps(k, lambda **window: self._post("/v1/similar", {**to, **window, "index": self.index}))

    def _in_steps(self, k: int, ask: Callable[..., dict[str, Any]]) -> Hits:
        """k hits, as many in one request as a server returns."""
        hits = self._shown([])
        while len(hits) < k:
            wanted = min(k - len(hits), MOST_AT_ONCE)
            found = self._read(_hits, ask(k=wanted, offset=len(hits)))
            hits += found
            if len(found) < wanted:
                break
        return hits

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """As `Collection.encode_texts`."""
        import numpy as np

        self._check_open()
        every = [text.encode("utf-8", "replace").decode() for text in read_texts(texts)]  # as models read them
        if not every:
            return self.vectors([])
        parts: list[list[str]] = [[]]
        letters = 0
        for text in every:
            if len(parts[-1]) == MOST_TEXTS or (parts[-1] and letters + len(text) > MOST_LETTERS):
                parts.append([])
                letters = 0
            parts[-1].append(text)
            letters += len(text)
        found = [self._post("/v1/embed", {"texts": part, "index": self.index}) for part in parts]
        joined: FloatArray = np.concatenate([_array(answer["vectors"]) for answer in found])
        return joined

    def encode_text(self, text: str | Iterable[str]) -> FloatArray:
        """As `Collection.encode_text`."""
        self._check_open()
        if isinstance(text, str):
            vector: FloatArray = self.encode_texts([text])[0]
            return vector
        return self.encode_texts(read_texts(text))

    def encode_picture(self, picture: AnyPicture | Iterable[AnyPicture]) -> FloatArray:
        """As `Collection.encode_picture`; pictures of this machine, and PIL's images, are sent one by one."""
        import numpy as np

        self._check_open()
        pictures, is_one = read_pictures(picture)
        vectors = [_vector(self._send("/v1/embed/upload", one)) for one in pictures]
        return vectors[0] if is_one else np.stack(vectors) if vectors else self.vectors([])

    def record(self, row_id: int) -> ImageRecord:
        """What the index knows of a picture. Raises: NoSuchPicture."""
        self._check_open()
        return self._read(ImageRecord.from_dict, self._get(_address(row_id)))

    def vector(self, row_id: int) -> FloatArray:
        """The vector of a picture of the index. Shape: (D,) float32, unit L2. Raises: NoSuchPicture."""
        self._check_open()
        return _vector(self._get(f"{_address(row_id)}/vector"))

    def vectors(self, row_ids: Iterable[int]) -> FloatArray:
        """The vectors of pictures, in this order. Shape: (N, D) float32. Raises: InvalidQuery for an unknown row id."""
        import numpy as np

        self._check_open()
        wanted = read_row_ids("row_ids", row_ids)
        parts = [wanted[at : at + MOST_VECTORS] for at in range(0, max(1, len(wanted)), MOST_VECTORS)]
        found = [self._post("/v1/vectors", {"row_ids": part, "index": self.index}) for part in parts]
        joined: FloatArray = np.concatenate([_array(answer["vectors"]).reshape(-1, answer["dim"]) for answer in found])
        return joined

    def thumbnail(self, row_id: int, size: Size = 256) -> bytes:
        """A small copy of a picture as a JPEG. Raises: NoSuchPicture, UnreadablePicture, InvalidQuery."""
        self._check_open()
        parameters = {"size": str(read_size(size)), **self._named()}
        return self._response("GET", f"{_address(row_id)}/thumbnail", params=parameters).content

    def status(self) -> dict[str, Any]:
        """What is served: see `GET /v1/status`."""
        return self._get("/v1/status")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- requests

    def _check_open(self) -> None:
        """Raises: ClosedCollection."""
        if self._http.is_closed:
            raise ClosedCollection

    def _state(self) -> dict[str, Any]:
        """The part of `status` that is about this index. Raises: UnknownIndex."""
        states = self.status()["indexes"]
        for state in states:
            if self.index in (None, state["name"]):
                found: dict[str, Any] = state
                return found
        raise UnknownIndex(str(self.index), [state["name"] for state in states])

    def _shown(self, hits: list[Hit]) -> Hits:
        """Hits whose pictures a notebook gets from the server."""
        return Hits(hits, partial(self.thumbnail, size=256))

    def _send(self, route: str, picture: AnyPicture, **form: int) -> dict[str, Any]:
        """Send a picture file of this machine, or what PIL has opened. Raises: UnreadablePicture."""
        if isinstance(picture, str | os.PathLike):
            path = read_path("picture", picture)
            content, named = _content(path), "picture" + readable(Path(path).suffix)
        else:
            from clipsearch.pictures.images import as_file, name_of

            path, content, named = name_of(picture), as_file(picture), "picture"
        try:
            return self._ask("POST", route, files={"image": (named, content)}, data={**form, **self._named()})
        except UnreadablePicture as error:
            raise UnreadablePicture(path, error.status, error.reason) from None

    def _named(self) -> dict[str, str]:
        return {} if self.index is None else {"index": self.index}

    def _get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path, params=self._named())

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json=for_parsers(body))

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._response(method, path, **request)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServerError(self.url, "it is not a clipsearch server", answer.status_code)
        whole: dict[str, Any] = from_parsers(body)
        return whole

    def _response(self, method: str, path: str, **request: Any) -> httpx.Response:
        import httpx

        self._check_open()
        try:
            answer = self._http.request(method, path, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"it cannot be reached ({error}). Start it with: clipsearch serve"
            raise ServerError(self.url, problem) from error
        if answer.status_code != 200:
            self._fail(answer)
        return answer

    def _read(self, read: Callable[[dict[str, Any]], Result], answer: dict[str, Any]) -> Result:
        """What an answer tells of pictures. Raises: ServerError."""
        try:
            return read(answer)
        except (KeyError, TypeError) as error:
            raise ServerError(self.url, "it is not a clipsearch server, or one of another version") from error

    def _fail(self, answer: httpx.Response) -> NoReturn:
        status = answer.status_code
        try:
            body = answer.json()
            kind, message, fields = str(body["error"]), str(body["message"]), dict(body.get("fields") or {})
        except (ValueError, KeyError, TypeError):
            kind, message, fields = "", answer.text.strip()[:200] or answer.reason_phrase, {}
        if status == 401:
            raise AccessDenied(self.url, "it requires a token: clipsearch.connect(url, token=...)", status)
        if kind == "WrongInput":
            raise InvalidQuery(message)
        error = rebuilt(kind, message, fields) if status != 503 else None
        raise error or ServerError(self.url, f"{status}: {message}", status)


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


def _content(path: str) -> bytes:
    """The bytes of a picture file. Raises: UnreadablePicture, as a local collection does."""
    if not is_file(path):
        raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE)
    try:
        return expanded(path).read_bytes()
    except OSError:
        from clipsearch.pictures.images import PictureFile

        with PictureFile(expanded(path)):  # says what is wrong
            raise UnreadablePicture(path, "unreadable", "the file cannot be read") from None


def _hits(answer: dict[str, Any]) -> list[Hit]:
    return [Hit.from_dict(found) for found in answer["hits"]]


def _address(row_id: int) -> str:
    """Where the server tells of a picture. Raises: NoSuchPicture, InvalidArgument for what cannot be a row id."""
    return f"/v1/images/{read_row_id(row_id)}"
