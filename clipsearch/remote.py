"""A collection that a server has: `clipsearch.connect(url)` offers the methods of a local one.

with clipsearch.connect("http://127.0.0.1:7860") as photos:
    for hit in photos.search("a dog on a beach", k=10):
        print(hit.score, hit.path)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

from clipsearch.errors import (
    NO_SUCH_PICTURE,
    AccessDenied,
    ClipsearchError,
    ClosedCollection,
    DimensionMismatch,
    InvalidArgument,
    InvalidQuery,
    MalformedQuery,
    NoSuchPicture,
    OtherIndex,
    ServerError,
    UnknownIndex,
    UnreadablePicture,
    rebuilt,
)
from clipsearch.filenames import for_parsers, from_parsers, readable, to_bytes, well_formed
from clipsearch.places import absolute, expanded, is_address, is_file, is_unchanged
from clipsearch.query import LENGTH_LIMIT, MARK, Term, parse_query
from clipsearch.query.arguments import (
    A_PICTURE,
    LONGEST_ID,
    MOST_AT_ONCE,
    MOST_DIMENSIONS,
    MOST_TEXTS,
    MOST_VECTORS,
    Size,
    read_arguments,
    read_known_row_ids,
    read_name,
    read_number,
    read_path,
    read_pictures,
    read_queries,
    read_query,
    read_row_id,
    read_server,
    read_size,
    read_texts,
    read_token,
    read_window,
)
from clipsearch.query.crops import is_picture_file, picture_file
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

    from clipsearch.pictures.heatmap import HeatMap

ALL = "*"
"""The name of all indexes of a server, searched together."""
MOST_LETTERS = 500_000  # of all texts in one request; a server takes 4 MB of JSON
SIDE_BY_SIDE = 4  # requests
MOST_REMEMBERED = 100_000  # rows that hits told of
MOST_DIGITS = 20  # of a row id
TRIES = 4  # to get an answer of several requests from one state of the index
TIMEOUT_S = 30.0
LEAST_TIMEOUT_S = 0.001
LONGEST_TIMEOUT_S = 1e8  # three years: what is longer is for ever
JPEG = b"\xff\xd8"
NO_SERVER = "it is not a clipsearch server, or one of another version"
Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RemoteTag:
    """A tag or concept of an index, and how many pictures it was given."""

    name: str
    kind: TagKind
    pictures: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """How to ask a server for a query. `file` is a picture of this machine to send, `sent` the vectors of others that
    stand among the words, by path; `elsewhere` the paths of pictures that only the server may know, by their position;
    `row_ids` those that the words name."""

    words: str
    file: str | None = None
    sent: Mapping[str, FloatArray] = field(default_factory=dict)
    elsewhere: Mapping[int, str] = field(default_factory=dict)
    row_ids: Sequence[int] = ()


class RemoteCollection:
    """An index that a server has open; always its newest generation. Safe to use from many threads.

    It remembers which index hits are from. Where that was made anew, their row ids are refused (OtherIndex): they are
    those of other pictures now.
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
        """`index` is a name from `status`, or "*" for all together; the server's first one if left out.
        `transport`: see httpx, for tests.

        Raises: InvalidArgument, also for what is no address.
        """
        import httpx

        self.url, secret = read_server("url", url)
        self.index = None if index is None else read_name("index", index)
        self._indexes: dict[int, str] = {}  # by row id, the id of the index that told of it last
        self._indexes_lock = threading.Lock()
        token = "" if token is None else read_token("token", token)
        headers = {b"Authorization": b"Bearer " + to_bytes(token)} if token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                auth=secret,
                timeout=_patience(read_number("timeout_s", timeout_s, LEAST_TIMEOUT_S)),
                transport=transport,
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise InvalidArgument("url", f"no address ({error})", "such as http://127.0.0.1:7860") from None

    @property
    def root(self) -> Path:
        """The folder whose pictures these are, on the server's machine."""
        return self._read(lambda state: Path(state["root"]), self._state())

    @property
    def generation(self) -> int:
        """The number of the commit that the server has open."""
        return self._read(lambda state: int(state["generation"]), self._state())

    @property
    def tags(self) -> tuple[RemoteTag, ...]:
        """The tags and concepts of the index."""
        return self._read(lambda state: tuple(RemoteTag(**tag) for tag in state["tags"]), self._state())

    def __len__(self) -> int:
        """How many pictures can be found."""
        return self._read(lambda state: int(state["pictures"]), self._state())

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
        Raises: InvalidQuery, UnknownTag, DimensionMismatch, UnreadablePicture, UnknownIndex, OtherIndex, AccessDenied,
        ServerError.
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
            asked = self._split(queries[0])
            options |= self._index_of((*asked.row_ids, *about.like, *about.unlike))
            return self._search(asked, k, offset, about.vector, options)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            every = list(threads.map(self._split, queries))
            named = [row_id for asked in every for row_id in asked.row_ids]
            options |= self._index_of((*named, *about.like, *about.unlike))  # before an answer tells of rows
            return list(threads.map(lambda asked: self._search(asked, k, offset, about.vector, options), every))

    def _search(
        self,
        asked: _Asked,
        k: int,
        offset: int,
        vector: FloatArray | None,
        options: dict[str, Any],
    ) -> Hits:
        """The hits of one query."""
        body = {**self._worded(asked, vector), **options}

        def ask(**window: int) -> dict[str, Any]:
            return self._asked(asked, "/v1/search", {**body, **window})

        return self._in_steps(k, ask, offset)

    def _worded(self, asked: _Asked, vector: FloatArray | None = None) -> dict[str, Any]:
        """The part of a request that is a query. Raises: DimensionMismatch, UnreadablePicture."""
        if vector is not None and len(vector) > MOST_DIMENSIONS:
            raise DimensionMismatch(self._read(lambda state: int(state["dim"]), self._state()), len(vector))
        if asked.file is not None:
            from clipsearch.vectors import directed

            of_file = self.encode_picture(asked.file)
            vector = of_file if vector is None else directed(len(of_file), vector, of_file)
        pictures = [{"path": path, "vector": vector_of.tolist()} for path, vector_of in asked.sent.items()]
        return {
            "query": asked.words,
            "vector": None if vector is None else vector.tolist(),
            "pictures": pictures,
        }

    def _asked(self, asked: _Asked, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a query. Raises: UnreadablePicture for a picture in it that is nowhere."""
        try:
            return self._post(route, body)
        except MalformedQuery as error:
            path = asked.elsewhere.get(getattr(error, "position", -1))  # of a stranger's error nothing is known
            if path is not None:
                raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE) from None
            raise

    def _split(self, query: str | os.PathLike[str]) -> _Asked:
        """How to ask the server. Raises: MalformedQuery, UnreadablePicture."""
        if not isinstance(query, str):
            return self._named_picture(os.fspath(query))
        query = well_formed(query)
        text = query.strip()
        if not text:
            return _Asked("")
        if os.path.isabs(text) and len(query) <= LENGTH_LIMIT:  # noqa: PTH117
            row_id = self._row_of(text)
            if row_id is not None:
                return _Asked(f"like:{row_id}", row_ids=[row_id])
        parsed = parse_query(query, is_file=is_file)
        pictures = {term.position: term.value for term in parsed.terms if term.kind == "picture"}
        if len(pictures) == len(parsed.terms) == 1 and parsed.filter is None and parsed.terms[0].weight > 0:
            return self._named_picture(parsed.terms[0].value)
        sent: dict[str, FloatArray] = {}
        for path in dict.fromkeys(pictures.values()):
            if (row_id := self._row_of(path)) is not None:
                sent[path] = self.vector(row_id)
            elif is_picture_file(path):
                sent[path] = self.encode_picture(path)
        return _Asked(query, None, sent, pictures, _rows_named(parsed.terms))

    def _named_picture(self, path: str) -> _Asked:
        """How to ask for a picture: in words if the index has it, else by its file. Raises: UnreadablePicture."""
        file, crop = picture_file(path)
        row_id = self._row_of(file)
        if row_id is not None:
            part = "" if crop is None else f"{MARK}{crop}"
            return _Asked(f"like:{row_id}{part}", row_ids=[row_id])
        if not is_file(file):
            raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE)
        return _Asked("", path)

    def _row_of(self, path: str) -> int | None:
        """The row id of a picture of the index, unless the file of this machine at its path is another."""
        try:
            place = absolute(path)
            found = self._post("/v1/picture", {"path": place, "index": self.index})
        except (OSError, NoSuchPicture):  # OSError: the current folder is gone
            return None
        record, index_id = self._read(lambda answer: (_record(answer), answer["index_id"]), found)
        if not is_unchanged(place, record.size_bytes, record.mtime_ns):
            return None
        self._remember([record.row_id], index_id)
        return record.row_id

    def _remember(self, row_ids: Iterable[int], index_id: str) -> None:
        """Keep which index told of rows."""
        with self._indexes_lock:
            for row_id in row_ids:
                self._indexes.pop(row_id, None)  # the last ones are at the end
                self._indexes[row_id] = index_id
            while len(self._indexes) > MOST_REMEMBERED:
                del self._indexes[next(iter(self._indexes))]

    def _index_of(self, row_ids: Iterable[int]) -> dict[str, str]:
        """Which index rows are of, as far as hits told, for the server to check. Raises: OtherIndex for several."""
        with self._indexes_lock:
            told = {self._indexes[row_id] for row_id in row_ids if row_id in self._indexes}
        if len(told) > 1:
            raise OtherIndex(self._state()["name"])
        return {"index_id": told.pop()} if told else {}

    def _means(self, hit: Hit) -> dict[str, str]:
        """What says, beside its row id, which picture a hit is of: its content, or where that says too little its
        index."""
        record = hit.record
        if record.content_hash is None or record.member or (record.view and not record.is_region):
            return self._index_of([record.row_id])
        return {"content": record.content_hash}

    def notices(self, query: str | os.PathLike[str]) -> list[str]:
        """As `Collection.notices`."""
        self._check_open()
        query = read_query(query)
        if not isinstance(query, str):
            self._state()  # whether the server has the index
            return []
        query = well_formed(query)
        if not query.strip():
            self._state()
            return []
        files: list[str] = []

        def is_here(name: str) -> bool:
            found = is_file(name)
            if found:
                files.append(name)
            return found

        with suppress(MalformedQuery):  # the server may know what it is: the path of a picture that is away
            parse_query(query, is_file=is_here)
        named = [{"path": name} for name in dict.fromkeys(files)]
        answer = self._post("/v1/notices", {"query": query, "files": named, "index": self.index})
        return self._read(lambda answer: [str(line) for line in answer["notices"]], answer)

    def similar(self, picture: int | str | os.PathLike[str] | Hit, k: int = DEFAULT_HITS) -> Hits:
        """As `Collection.similar`; a picture file of this machine is sent, another path is looked up in the index."""
        self._check_open()
        k, _ = read_window(k)
        if isinstance(picture, Hit):
            return self._similar({"row_id": picture.record.row_id, **self._means(picture)}, k)
        if not isinstance(picture, str | os.PathLike):
            return self._similar_to_row(read_row_id(picture, "picture", A_PICTURE), k)
        path = read_path("picture", picture)
        file, crop = picture_file(path)
        part = {} if crop is None else {"xywh": str(crop)}
        if crop is not None and file.isdecimal() and len(file) <= LONGEST_ID and not is_file(file):
            return self._similar_to_row(int(file), k, part)
        row_of_file = self._row_of(file)
        if row_of_file is not None:
            return self._similar_to_row(row_of_file, k, part)
        if is_file(file):
            return self._in_steps(k, lambda **window: self._send("/v1/similar/upload", path, **window))
        try:
            return self._similar({"path": file, **part}, k)
        except NoSuchPicture:
            raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE) from None

    def where(self, query: str | os.PathLike[str], picture: int | str | os.PathLike[str] | Hit) -> HeatMap:
        """As `Collection.where`, of a picture of the index: no other is sent.

        Raises: InvalidQuery, NoSuchPicture, OtherPicture, OtherIndex, UnreadablePicture.
        """
        from clipsearch.pictures.heatmap import HeatMap

        self._check_open()
        asked = self._split(read_query(query))
        if isinstance(picture, Hit):
            row_id, means = picture.record.row_id, self._means(picture)
        else:
            if isinstance(picture, str | os.PathLike):
                path = read_path("picture", picture)
                found = self._row_of(path)
                if found is None and not is_file(path):
                    raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE)
                if found is None:
                    raise UnreadablePicture(
                        path, "unreadable", "the index has no such picture, or it has changed since"
                    )
                row_id = found
            else:
                row_id = read_row_id(picture, "picture", A_PICTURE)
            means = self._index_of([row_id])
        body = {**self._worded(asked), "row_id": row_id, **self._index_of(asked.row_ids), **means, "index": self.index}
        return self._read(HeatMap.from_dict, self._asked(asked, "/v1/where", body))

    def _similar_to_row(self, row_id: int, k: int, part: dict[str, str] | None = None) -> Hits:
        return self._similar({"row_id": row_id, **(part or {}), **self._index_of([row_id])}, k)

    def _similar(self, to: dict[str, Any], k: int) -> Hits:
        return self._in_steps(k, lambda **window: self._post("/v1/similar", {**to, **window, "index": self.index}))

    def _in_steps(self, k: int, ask: Callable[..., dict[str, Any]], offset: int = 0) -> Hits:
        """k hits from number `offset` on, as many in one request as a server returns."""

        def steps() -> Iterator[dict[str, Any]]:
            seen = 0
            while seen < k:
                wanted = min(k - seen, MOST_AT_ONCE)
                answer = ask(k=wanted, offset=offset + seen)
                yield answer
                if self._read(lambda answer: len(answer["hits"]), answer) < wanted:
                    return
                seen += wanted

        answers = self._of_one_state(steps)
        hits = self._shown([hit for answer in answers for hit in self._read(_hits, answer)])
        hits.are_certain = all(self._read(lambda answer: NOTHING_CERTAIN not in answer["notices"], a) for a in answers)
        told = [one for hit in hits for one in (hit, *hit.others)]
        rows = [one.record.row_id for hit in told for one in (hit, hit.clip) if one is not None]
        self._remember(rows, answers[0]["index_id"])
        return hits

    def _of_one_state(self, ask: Callable[[], Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Answers of one generation of one index, and of one model: where it changed between two, all are asked for
        again. Raises: ServerError if it changes again and again."""
        for _ in range(TRIES):
            answers: list[dict[str, Any]] = []
            for answer in ask():
                answers.append(answer)
                if self._read(_state_of, answer) != self._read(_state_of, answers[0]):
                    break
            else:
                return answers
        raise ServerError(self.url, "the index was changed while its answer was fetched in parts. Try again")

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """As `Collection.encode_texts`."""

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
        found = self._of_one_state(
            lambda: (self._post("/v1/embed", {"texts": part, "index": self.index}) for part in parts)
        )
        return self._joined(found, parts)

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
        found = self._of_one_state(lambda: (self._send("/v1/embed/upload", one) for one in pictures))
        vectors = [self._vector(answer) for answer in found]
        return vectors[0] if is_one else np.stack(vectors) if vectors else self.vectors([])

    def record(self, row_id: int) -> ImageRecord:
        """What the index knows of a picture. Raises: NoSuchPicture, OtherIndex."""
        self._check_open()
        row_id = read_row_id(row_id)
        return self._read(_record, self._get(_address(row_id), self._index_of([row_id])))

    def vector(self, row_id: int) -> FloatArray:
        """The vector of a picture of the index. Shape: (D,) float32, unit L2. Raises: NoSuchPicture, OtherIndex."""
        self._check_open()
        row_id = read_row_id(row_id)
        return self._vector(self._get(f"{_address(row_id)}/vector", self._index_of([row_id])))

    def vectors(self, row_ids: Iterable[int]) -> FloatArray:
        """The vectors of pictures, in this order. Shape: (N, D) float32.

        Raises: NoSuchPicture for an unknown row id, OtherIndex.
        """
        self._check_open()
        wanted = read_known_row_ids(row_ids)
        parts = [wanted[at : at + MOST_VECTORS] for at in range(0, max(1, len(wanted)), MOST_VECTORS)]
        about = {"index": self.index, **self._index_of(wanted)}
        found = self._of_one_state(lambda: (self._post("/v1/vectors", {"row_ids": part, **about}) for part in parts))
        return self._joined(found, parts)

    def thumbnail(self, row_id: int | Hit, size: Size = 256) -> bytes:
        """As `Collection.thumbnail`.

        Raises: NoSuchPicture, OtherPicture, OtherIndex, UnreadablePicture, InvalidQuery.
        """
        self._check_open()
        size_px = str(read_size(size))
        if isinstance(row_id, Hit):
            means, row_id = self._means(row_id), row_id.record.row_id
        else:
            row_id = read_row_id(row_id)
            means = self._index_of([row_id])
        parameters = {"size": size_px, **means, **self._named()}
        jpeg = self._response("GET", f"{_address(row_id)}/thumbnail", params=parameters).content
        if not jpeg.startswith(JPEG):
            raise ServerError(self.url, NO_SERVER, 200)
        return jpeg

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
        states = self.status()

        def of_this(answer: dict[str, Any]) -> dict[str, Any]:
            states: list[dict[str, Any]] = list(answer["indexes"])
            names = [str(state["name"]) for state in states]
            if self.index == ALL and states:
                return _together(states)
            for state, name in zip(states, names, strict=True):
                if self.index in (None, name):
                    return state
            raise UnknownIndex(str(self.index), names)

        return self._read(of_this, states)

    def _shown(self, hits: list[Hit]) -> Hits:
        """Hits whose pictures a notebook gets from the server."""
        return Hits(hits, partial(self.thumbnail, size=256))

    def _send(self, route: str, picture: AnyPicture, **form: int | str) -> dict[str, Any]:
        """Send a picture file of this machine, or what PIL has opened. Raises: UnreadablePicture."""
        if isinstance(picture, str | os.PathLike):
            path = read_path("picture", picture)
            file, crop = picture_file(path)
            content, named = _content(path, file), "picture" + readable(Path(file).suffix)
            form |= {} if crop is None else {"xywh": str(crop)}
        else:
            from clipsearch.pictures.images import as_file, name_of

            path, content, named = name_of(picture), as_file(picture), "picture"
        try:
            return self._ask("POST", route, files={"image": (named, content)}, data={**form, **self._named()})
        except UnreadablePicture as error:
            status, reason = (str(getattr(error, name, error)) for name in ("status", "reason"))
            raise UnreadablePicture(path, status, reason) from None

    def _named(self) -> dict[str, str]:
        return {} if self.index is None else {"index": self.index}

    def _get(self, path: str, more: Mapping[str, str] = {}) -> dict[str, Any]:
        return self._ask("GET", path, params={**self._named(), **more})

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json=for_parsers(body))

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._response(method, path, **request)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServerError(self.url, NO_SERVER, answer.status_code)
        whole: dict[str, Any] = from_parsers(body)
        return whole

    def _response(self, method: str, path: str, **request: Any) -> httpx.Response:
        import httpx

        self._check_open()
        try:
            answer = self._http.request(method, path, **request)
        except httpx.ReadTimeout as error:
            problem = f"it did not answer within {self._http.timeout.read:g} s. Wait longer with: timeout_s="
            raise ServerError(self.url, problem) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"it cannot be reached ({error}). Start it with: clipsearch serve"
            raise ServerError(self.url, problem) from error
        if answer.status_code != 200:
            self._fail(answer)
        return answer

    def _read(self, read: Callable[[Answer], Result], answer: Answer) -> Result:
        """What an answer tells. Raises: ServerError where it is none of ours."""
        try:
            return read(answer)
        except ClipsearchError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise ServerError(self.url, NO_SERVER) from error

    def _vector(self, answer: dict[str, Any]) -> FloatArray:
        vector: FloatArray = self._read(lambda answer: _vectors(answer, 1), answer)[0]
        return vector

    def _joined(self, answers: Sequence[dict[str, Any]], parts: Sequence[Sequence[object]]) -> FloatArray:
        """The vectors of several answers, of a part of what was asked for each. Shape: (N, D) float32."""
        import numpy as np

        def join(answers: Sequence[dict[str, Any]]) -> FloatArray:
            joined: FloatArray = np.concatenate([_vectors(a, len(p)) for a, p in zip(answers, parts, strict=True)])
            return joined

        return self._read(join, answers)

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
        if answer.has_redirect_location:
            place = readable(answer.headers["location"])
            raise ServerError(self.url, f"{status}: it sends on to {place!r}. Connect to the server there", status)
        error = rebuilt(kind, message, fields) if status != 503 else None
        raise error or ServerError(self.url, f"{status}: {message}", status)


def connect(
    url: str, token: str | None = None, *, index: str | None = None, timeout_s: float = TIMEOUT_S
) -> RemoteCollection:
    """Connect to `clipsearch serve` at `url`, such as "http://127.0.0.1:7860".

    `index` is the name of one of its indexes, or "*" for all together; the first if left out. Nothing is asked before a
    method is called.
    """
    return RemoteCollection(url, token=token, index=index, timeout_s=timeout_s)


def _patience(timeout_s: float) -> float | None:
    return timeout_s if timeout_s <= LONGEST_TIMEOUT_S else None


def _vectors(answer: dict[str, Any], count: int) -> FloatArray:
    """As many vectors as an answer must have. Shape: (count, D). Raises: KeyError, TypeError, ValueError."""
    import numpy as np

    return np.array(answer["vectors"], np.float32).reshape(count, int(answer["dim"]))


def _content(path: str, file: str) -> bytes:
    """The bytes of a picture file that was given as `path`. Raises: UnreadablePicture, as a local collection does."""
    if not is_file(file):
        raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE)
    try:
        return expanded(file).read_bytes()
    except OSError:
        from clipsearch.pictures.images import PictureFile

        with PictureFile(expanded(file)):  # says what is wrong
            raise UnreadablePicture(path, "unreadable", "the file cannot be read") from None


def _hits(answer: dict[str, Any]) -> list[Hit]:
    return [Hit.from_dict(found, whole=True) for found in answer["hits"]]


def _record(answer: dict[str, Any]) -> ImageRecord:
    return ImageRecord.from_dict(answer, whole=True)


def _state_of(answer: Mapping[str, Any]) -> tuple[str, int | None, str | None]:
    """Of which state of an index an answer is: the index, and its generation or its model."""
    return answer["index_id"], answer.get("generation"), answer.get("fingerprint")


def _together(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of all indexes of a server, as of one."""
    tags: dict[str, dict[str, Any]] = {}
    for tag in (tag for state in states for tag in state["tags"]):
        known = tags.setdefault(tag["name"], {**tag, "pictures": 0})
        known["pictures"] += tag["pictures"]
    return {
        **states[0],
        "name": ALL,
        "root": _common([state["root"] for state in states]),
        "generation": sum(state["generation"] for state in states),
        "pictures": sum(state["pictures"] for state in states),
        "tags": list(tags.values()),
    }


def _common(roots: Sequence[str]) -> str:
    """The folder that some lie in; the first, where some are addresses."""
    return roots[0] if any(map(is_address, roots)) else os.path.commonpath(roots)


def _rows_named(terms: Iterable[Term]) -> list[int]:
    """The row ids that stand in a query: `like:7`."""
    values = [term.value.partition(MARK)[0] for term in terms if term.kind == "like"]
    return [int(value) for value in values if value.isdecimal() and len(value) < MOST_DIGITS]


def _address(row_id: int) -> str:
    """Where the server tells of a picture."""
    return f"/v1/images/{row_id}"
