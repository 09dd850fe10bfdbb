"""What may be asked: the routes of the API. Everything that takes time runs in `work`'s threads."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi import Path as InPath
from fastapi import Query as InQuery
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from clipsearch import __version__
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.errors import (
    ClipsearchError,
    IndexLocked,
    IndexNotFound,
    InvalidQuery,
    MissingExtra,
    UnknownTag,
    UnreadablePicture,
)
from clipsearch.filenames import for_parsers
from clipsearch.indexer.status import read_status
from clipsearch.query import Query
from clipsearch.records import FloatArray, Hit, ImageRecord
from clipsearch.search.collection import Collection
from clipsearch.server import messages
from clipsearch.server.decoders import Decoders
from clipsearch.server.engine import Engine, ServedIndex, Stopping, UnknownIndex
from clipsearch.server.identity import Content, OtherIndex, OtherPicture, address_content, find_content, has_content
from clipsearch.server.metrics import CONTENT_TYPE, Metrics
from clipsearch.server.originals import (
    POLICY,
    SAVED_TYPE,
    SHOWN_TYPES,
    Original,
    OriginalsClosed,
    may_have_originals,
    open_original,
)
from clipsearch.server.thumbnails import MEDIA_TYPE, Thumbnails
from clipsearch.server.work import Overloaded, WorkQueue
from clipsearch.store import read_writer

Result = TypeVar("Result")
RowId = Annotated[int, InPath(ge=0, lt=2**63, description="Row id of a picture.")]
IndexName = Annotated[str | None, InQuery(max_length=1000, description="Name of an index, see /v1/status.")]
ThumbnailSize = Annotated[
    Literal["128", "256", "512", "1024", "2048", "4096"],
    InQuery(
        description="Longer side in pixels; a small picture is not enlarged. From 2048 on, that of a picture longer "
        "than 3 to 1 may be up to three times as long."
    ),
]
THUMBNAIL_THREADS = 4
UPLOAD_THREADS = 2
RETRY_AFTER_S = 1
SHORTEST_SUM = 1e-3
IMMUTABLE = "private, max-age=31536000, immutable"  # of an address that carries a content hash


class NoSuchPicture(ClipsearchError):
    """The index has no picture with this row id."""

    def __init__(self, index: str, row_id: int) -> None:
        self.index = index
        self.row_id = row_id
        super().__init__(f"the index {index} has no picture {row_id}")


class Service:
    """What the routes, and a page mounted beside them, work with. Its methods may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        search_threads: int,
        most_waiting: int,
        decode_timeout_s: float,
        local: bool = False,
        originals: bool | None = None,
    ) -> None:
        """`local`, `originals`: see `originals.may_have_originals`."""
        self.local = local
        self.originals = originals
        self.engine = engine
        self.metrics = metrics
        self.thumbnails = Thumbnails(timeout_s=decode_timeout_s, observe=metrics.thumbnail)
        self.searches = WorkQueue("search", threads=search_threads, most_waiting=most_waiting, observe=metrics.work)
        self.pictures = WorkQueue(
            "thumbnail", threads=THUMBNAIL_THREADS, most_waiting=8 * most_waiting, observe=metrics.work
        )
        self.uploads = WorkQueue("upload", threads=UPLOAD_THREADS, most_waiting=most_waiting, observe=metrics.work)
        self.exports = WorkQueue("export", threads=1, most_waiting=most_waiting, observe=metrics.work)
        self._decode_timeout_s = decode_timeout_s
        self._decoders: dict[str, Decoders] = {}  # by model fingerprint

    def search(self, asked: messages.SearchRequest) -> dict[str, Any]:
        """Answer a question; see `messages.SearchAnswer`."""
        began = time.perf_counter()
        served = self.engine.index(asked.index)
        with served.lease(at_least=asked.at_least_generation) as photos:
            parsed = Query("", ()) if asked.vector and not asked.query.strip() else parse_safely(photos, asked.query)
            hits = photos.search(
                parsed,
                asked.k + asked.offset,
                sort=asked.sort,
                unique=asked.unique,
                diverse=asked.diverse,
                like=asked.like,
                unlike=asked.unlike,
                all=asked.all,
                vector=None if asked.vector is None else direction(photos, parsed, asked.vector),
            )
            return self._answer(served, photos, hits[asked.offset :], began, photos.notices(parsed))

    def similar(self, asked: messages.SimilarRequest) -> dict[str, Any]:
        """Find what is like a picture of the index; see `messages.SearchAnswer`."""
        began = time.perf_counter()
        served = self.engine.index(asked.index)
        with served.lease() as photos:
            try:
                vector = photos.vector(asked.id)
            except KeyError:
                raise NoSuchPicture(served.name, asked.id) from None
            return self._answer(served, photos, photos.search_vectors(vector[None], asked.k)[0], began)

    def similar_to_file(self, path: Path, index: str | None, k: int) -> dict[str, Any]:
        """Find what is like the picture in a file; see `messages.SearchAnswer`. Raises: UnreadablePicture."""
        began = time.perf_counter()
        served = self.engine.index(index)
        with served.lease() as photos:
            vector = self.encode_file(path, photos)
            return self._answer(served, photos, photos.search_vectors(vector[None], k)[0], began)

    def encode_file(self, path: Path, photos: Collection) -> FloatArray:
        """The vector of a picture that was sent here. Shape: (D,). Raises: UnreadablePicture."""
        encoder = photos.encoder
        decoders = self._decoders.get(encoder.fingerprint)
        if decoders is None:
            made = Decoders(
                encoder.preprocessing,
                workers=UPLOAD_THREADS,
                timeout_s=self._decode_timeout_s,
                single_use=True,
                pieces=True,
            )
            decoders = self._decoders.setdefault(encoder.fingerprint, made)
        try:
            pieces = decoders.read(path).pieces
        except UnreadablePicture as error:
            raise UnreadablePicture("the picture", error.status, error.reason) from None
        assert pieces is not None
        vector: FloatArray = encode_decoded(encoder, [pieces])[0]
        return vector

    def embed(self, asked: messages.EmbedRequest) -> dict[str, Any]:
        """Make texts into vectors; see `messages.EmbedAnswer`."""
        with self.engine.lease(asked.index) as photos:
            return self._vectors(photos, photos.encoder.encode_texts(asked.texts))

    def embed_file(self, path: Path, index: str | None) -> dict[str, Any]:
        """Make the picture in a file into a vector; see `messages.EmbedAnswer`. Raises: UnreadablePicture."""
        with self.engine.lease(index) as photos:
            return self._vectors(photos, self.encode_file(path, photos)[None])

    def vector(self, row_id: int, index: str | None) -> dict[str, Any]:
        """The vector of a picture; see `messages.EmbedAnswer`. Raises: NoSuchPicture."""
        served = self.engine.index(index)
        with served.lease() as photos:
            try:
                return self._vectors(photos, photos.vector(row_id)[None])
            except KeyError:
                raise NoSuchPicture(served.name, row_id) from None

    def picture(self, row_id: int, index: str | None, content: str | None = None) -> dict[str, Any]:
        """What the index knows of a picture; see `messages.Picture`. Raises: NoSuchPicture.

        With `content`, of the picture that has it, whichever its row id is.
        """
        served = self.engine.index(index)
        with served.lease() as photos:
            try:
                record: ImageRecord | None = photos.record(row_id)
            except KeyError:
                record = None
            if content is not None and (record is None or not has_content(record, content)):
                record = find_content(photos, content)
            if record is None:
                raise NoSuchPicture(served.name, row_id)
            return picture_fields(served, photos, record)

    def thumbnail(self, row_id: int, index: str | None, size: int, content: str | None = None) -> tuple[bytes, str]:
        """The JPEG, and what changes when it does. Raises: NoSuchPicture, OtherPicture, UnreadablePicture."""
        record, path = self._file(row_id, index, content)
        try:
            jpeg, shown = self.thumbnails.get(record, path, size)
        except UnreadablePicture as error:
            raise UnreadablePicture(record.path, error.status, error.reason) from None
        if content is not None and shown != record.content_hash:
            raise OtherPicture(row_id, "its file has changed since it was indexed")
        return jpeg, f"{shown}-{size}"

    def original(self, row_id: int, index: str | None, content: str) -> Original:
        """The file itself. Raises: NoSuchPicture, OtherPicture."""
        record, path = self._file(row_id, index, content)
        if record.member or record.content_hash is None:
            raise OtherPicture(row_id, "it is part of another file")
        return open_original(path, record.path, row_id, record.content_hash)

    def _file(self, row_id: int, index: str | None, content: str | None) -> tuple[ImageRecord, str]:
        """A picture's record and path. Raises: NoSuchPicture, OtherPicture."""
        served = self.engine.index(index)
        with served.lease() as photos:
            record = _record(served, photos, row_id)
            if not has_content(record, content):
                raise OtherPicture(row_id)
            return record, os.path.join(photos.root, record.path)  # noqa: PTH118  surrogates, and speed

    @property
    def gives_originals(self) -> bool:
        """Whether a browser on this machine gets original files."""
        return self.local if self.originals is None else self.originals

    def status(self) -> dict[str, Any]:
        """What is served; see `messages.StatusAnswer`."""
        return {
            "version": __version__,
            "originals": self.gives_originals,
            "indexes": [self._state(served) for served in self.engine.indexes.values()],
        }

    def skipped(self, index: str | None, most: int) -> dict[str, Any]:
        """Files that cannot be found; see `messages.SkippedAnswer`."""
        served = self.engine.index(index)
        skipped = read_status(served.path).skipped
        return {
            "index": served.name,
            "total": len(skipped),
            "skipped": [{"path": s.path, "status": s.status, "reason": s.reason} for s in skipped[:most]],
        }

    def measure(self) -> bytes:
        """Metrics in Prometheus's text format."""
        for served in self.engine.indexes.values():
            with served.lease() as photos:
                self.metrics.generation.labels(served.name).set(photos.manifest.generation)
                self.metrics.pictures.labels(served.name).set(len(photos))
        for queue in (self.searches, self.pictures, self.uploads, self.exports):
            self.metrics.unfinished.labels(queue.name).set(queue.unfinished)
        return self.metrics.text()

    def close(self) -> None:
        """Let work that is running finish, end processes, let go of the indexes."""
        for queue in (self.searches, self.pictures, self.uploads, self.exports):
            queue.close()
        self.thumbnails.close()
        for decoders in self._decoders.values():
            decoders.close()
        self.engine.close()

    def _state(self, served: ServedIndex) -> dict[str, Any]:
        writer = read_writer(served.path)
        progress = None if writer is None else writer.progress
        with served.lease() as photos:
            manifest = photos.manifest
            return {
                "name": served.name,
                "id": photos.identity,
                "root": str(photos.root),
                "generation": manifest.generation,
                "committed_at": manifest.created_at,
                "model": manifest.model.name,
                "fingerprint": manifest.model.fingerprint,
                "dim": manifest.model.dim,
                "pictures": manifest.pictures,
                "skipped": manifest.skipped,
                "tags": [{"name": tag.name, "kind": tag.kind, "pictures": tag.pictures} for tag in manifest.tags],
                "is_being_written": writer is not None,
                "progress": None if progress is None else dataclasses.asdict(progress),
            }

    @staticmethod
    def _answer(
        served: ServedIndex, photos: Collection, hits: list[Hit], began: float, notices: Sequence[str] = ()
    ) -> dict[str, Any]:
        return {
            "index": served.name,
            "generation": photos.manifest.generation,
            "took_ms": round(1000 * (time.perf_counter() - began), 3),
            "hits": [found_picture(served, photos, hit) for hit in hits],
            "notices": list(notices),
        }

    @staticmethod
    def _vectors(photos: Collection, vectors: FloatArray) -> dict[str, Any]:
        encoder = photos.encoder
        return {
            "model": encoder.name,
            "fingerprint": encoder.fingerprint,
            "dim": encoder.dim,
            "vectors": np.asarray(vectors, np.float32).tolist(),
        }


def parse_safely(photos: Collection, query: str) -> Query:
    """A query in which no file can be named. Raises: InvalidQuery."""
    return photos.parse(query, local_files=False)


def direction(photos: Collection, parsed: Query, given: list[float]) -> FloatArray:
    """The direction of a vector that was sent, and of the query's terms. Shape: (D,). Raises: InvalidQuery."""
    with np.errstate(over="ignore"):
        vector = np.array(given, np.float32)
    if len(vector) != photos.manifest.model.dim:
        raise InvalidQuery(f"the vector has {len(vector)} numbers, the index's have {photos.manifest.model.dim}")
    length = float(np.linalg.norm(vector))
    terms = photos.query_vector(parsed) if parsed.terms else None
    total: FloatArray = vector / length if length > 0 and np.isfinite(length) else vector
    if terms is not None:
        total = total + terms
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or length < SHORTEST_SUM:
        raise InvalidQuery("the vector, with the query's terms, points nowhere")
    return total / length


def _record(served: ServedIndex, photos: Collection, row_id: int) -> ImageRecord:
    try:
        return photos.record(row_id)
    except KeyError:
        raise NoSuchPicture(served.name, row_id) from None


def found_picture(served: ServedIndex, photos: Collection, hit: Hit) -> dict[str, Any]:
    """A hit; see `messages.FoundPicture`."""
    return {
        "rank": hit.rank,
        "score": None if math.isnan(hit.score) else round(hit.score, 6),
        "confidence": None if hit.confidence is None else round(hit.confidence, 4),
        "band": hit.band,
        **picture_fields(served, photos, hit.record),
        "others": [found_picture(served, photos, other) for other in hit.others],
    }


def picture_fields(served: ServedIndex, photos: Collection, record: ImageRecord) -> dict[str, Any]:
    """What is known of a picture; see `messages.Picture`."""
    metadata = record.metadata
    return {
        "id": record.row_id,
        "path": os.path.join(photos.root, record.path),  # noqa: PTH118
        "name": record.path,
        "size_bytes": record.size_bytes,
        "mtime_ns": record.mtime_ns,
        "content_hash": record.content_hash,
        "width": record.width,
        "height": record.height,
        "format": metadata.format,
        "taken_at": metadata.taken_at,
        "date_source": metadata.date_source,
        "camera": metadata.camera,
        "latitude": metadata.latitude,
        "longitude": metadata.longitude,
        "thumbnail": f"/v1/images/{record.row_id}/thumbnail?index={quote(served.name, safe='')}{_content(record)}",
    }


def _content(record: ImageRecord) -> str:
    content = address_content(record)
    return "" if content is None else f"&content={content}"


class AsciiJSON(Response):
    """JSON in ASCII. Names of files that are not UTF-8: see `filenames.for_parsers`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(for_parsers(content), separators=(",", ":")).encode("ascii")


def _documented(model: type, *codes: int) -> dict[str, Any]:
    reasons = {400: "A query that cannot be understood", 404: "No such picture or index", 422: "Wrong input"}
    reasons |= {503: "Too many requests are waiting; see Retry-After", 413: "Too large"}
    problems: dict[int | str, Any] = {code: {"model": messages.Problem, "description": reasons[code]} for code in codes}
    return {"response_model": model, "responses": problems}


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the API to `app`."""
    _add_errors(app)
    _add_searches(app, service)
    _add_pictures(app, service)
    _add_state(app, service)


def _add_searches(app: FastAPI, service: Service) -> None:
    @app.post("/v1/search", tags=["search"], **_documented(messages.SearchAnswer, 400, 404, 422, 503))
    async def search(asked: messages.SearchRequest) -> Response:
        """Find pictures. What names a file or an address in a query is text: nothing is read or fetched."""
        return AsciiJSON(await service.searches.run(lambda: service.search(asked)))

    @app.post("/v1/similar", tags=["search"], **_documented(messages.SearchAnswer, 404, 422, 503))
    async def similar(asked: messages.SimilarRequest) -> Response:
        """Find pictures like one of the index."""
        return AsciiJSON(await service.searches.run(lambda: service.similar(asked)))

    @app.post("/v1/similar/upload", tags=["search"], **_documented(messages.SearchAnswer, 404, 413, 422, 503))
    async def similar_upload(
        image: Annotated[UploadFile, File(description="A picture file.")],
        k: Annotated[int, Form(ge=1, le=messages.MOST_HITS)] = 20,
        index: Annotated[str | None, Form(max_length=1000)] = None,
    ) -> Response:
        """Find pictures like one that is sent. It is read in a process of its own and not kept."""
        return AsciiJSON(
            await service.uploads.run(lambda: _with_file(image, lambda path: service.similar_to_file(path, index, k)))
        )

    @app.post("/v1/embed", tags=["search"], **_documented(messages.EmbedAnswer, 404, 422, 503))
    async def embed(asked: messages.EmbedRequest) -> Response:
        """Make texts into vectors."""
        return AsciiJSON(await service.searches.run(lambda: service.embed(asked)))

    @app.post("/v1/embed/upload", tags=["search"], **_documented(messages.EmbedAnswer, 404, 413, 422, 503))
    async def embed_upload(
        image: Annotated[UploadFile, File(description="A picture file.")],
        index: Annotated[str | None, Form(max_length=1000)] = None,
    ) -> Response:
        """Make a picture that is sent into a vector. It is read in a process of its own and not kept."""
        return AsciiJSON(
            await service.uploads.run(lambda: _with_file(image, lambda path: service.embed_file(path, index)))
        )


def _with_file(image: UploadFile, use: Callable[[Path], Result]) -> Result:
    """Put an upload into a file that only this user can read, for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="clipsearch-") as folder:
        path = Path(folder) / "upload"
        with path.open("wb") as file:
            while block := image.file.read(1 << 20):
                file.write(block)
        return use(path)


def _add_pictures(app: FastAPI, service: Service) -> None:
    @app.get("/v1/images/{id}", tags=["pictures"], **_documented(messages.Picture, 404, 422, 503))
    async def picture(id: RowId, index: IndexName = None, content: Content = None) -> Response:
        """What the index knows of a picture. With `content`, of the one that has it, whichever its row id is."""
        return AsciiJSON(await service.searches.run(lambda: service.picture(id, index, content)))

    @app.get("/v1/images/{id}/vector", tags=["pictures"], **_documented(messages.EmbedAnswer, 404, 422, 503))
    async def vector(id: RowId, index: IndexName = None) -> Response:
        """The vector of a picture of the index."""
        return AsciiJSON(await service.searches.run(lambda: service.vector(id, index)))

    @app.get(
        "/v1/images/{id}/thumbnail",
        tags=["pictures"],
        response_class=Response,
        responses={
            200: {"content": {MEDIA_TYPE: {}}, "description": "A JPEG without any metadata."},
            304: {"description": "It is as it was (If-None-Match)."},
            **_documented(messages.Picture, 404, 422, 503)["responses"],
        },
    )
    async def thumbnail(
        request: Request, id: RowId, size: ThumbnailSize = "256", index: IndexName = None, content: Content = None
    ) -> Response:
        """A small copy of a picture, upright, its longer side at most `size` pixels.

        With `content`, the address always means the same picture, and may be kept for ever.
        """
        jpeg, tag = await service.pictures.run(lambda: service.thumbnail(id, index, int(size), content))
        headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache" if content is None else IMMUTABLE}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(jpeg, media_type=MEDIA_TYPE, headers=headers)

    @app.get(
        "/v1/images/{id}/original",
        tags=["pictures"],
        response_class=Response,
        responses={
            200: {
                "content": {kind: {} for kind in (*SHOWN_TYPES.values(), SAVED_TYPE)},
                "description": "The file, if it still has this content.",
            },
            403: {"model": messages.Problem, "description": "Originals are for browsers on this machine only."},
            **_documented(messages.Picture, 404, 422, 503)["responses"],
        },
    )
    async def original(
        request: Request,
        id: RowId,
        content: Annotated[str, InQuery(pattern="^[0-9a-f]{16,32}$", description="As for the thumbnail.")],
        index: IndexName = None,
    ) -> Response:
        """The picture's own file, with all that stands in it: for browsers on this machine (see --originals)."""
        if not may_have_originals(request, allowed=service.originals, local=service.local):
            raise OriginalsClosed
        found = await service.pictures.run(lambda: service.original(id, index, content))
        headers = {
            "cache-control": "private, no-store",
            "content-disposition": found.disposition,
            "content-length": str(found.size_bytes),
            "content-security-policy": POLICY,
        }
        return StreamingResponse(found.blocks(), media_type=found.media_type, headers=headers)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/status", tags=["state"], **_documented(messages.StatusAnswer, 503))
    async def status() -> Response:
        """What is served."""
        return AsciiJSON(await service.searches.run(service.status))

    @app.get("/v1/skipped", tags=["state"], **_documented(messages.SkippedAnswer, 404, 422, 503))
    async def skipped(index: IndexName = None, most: Annotated[int, InQuery(ge=0, le=100_000)] = 1000) -> Response:
        """Files that cannot be found, and why."""
        return AsciiJSON(await service.searches.run(lambda: service.skipped(index, most)))

    @app.get("/healthz", tags=["state"], response_class=PlainTextResponse)
    async def healthz() -> Response:
        """Whether the server runs. Needs no token, and says nothing else."""
        return PlainTextResponse("ok\n")

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts and times in Prometheus's text format."""
        return Response(service.measure(), media_type=CONTENT_TYPE)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ClipsearchError)
    async def clipsearch_error(request: Request, error: ClipsearchError) -> Response:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        headers = {"retry-after": str(RETRY_AFTER_S)} if isinstance(error, Overloaded) else None
        body: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
        position = getattr(error, "position", None)
        if isinstance(position, int):
            body["position"] = position
        return AsciiJSON(body, status, headers)

    @app.exception_handler(OSError)
    async def storage_error(request: Request, error: OSError) -> Response:
        """As of an index that was deleted a moment ago and is being made anew."""
        message = f"the index cannot be read now ({error.strerror or type(error).__name__}). Try again."
        return AsciiJSON({"error": "StorageError", "message": message}, 503, {"retry-after": str(RETRY_AFTER_S)})

    @app.exception_handler(RequestValidationError)
    async def wrong_input(request: Request, error: RequestValidationError) -> Response:
        """Say where; do not repeat what was sent."""
        places = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return AsciiJSON({"error": "WrongInput", "message": "; ".join(places)}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return AsciiJSON({"error": "Refused", "message": error.detail}, error.status_code, error.headers)


_STATUS: tuple[tuple[type[ClipsearchError], int], ...] = (
    (InvalidQuery, 400),
    (UnknownTag, 400),
    (UnknownIndex, 404),
    (NoSuchPicture, 404),
    (OtherPicture, 404),
    (OtherIndex, 409),
    (OriginalsClosed, 403),
    (UnreadablePicture, 422),
    (Overloaded, 503),
    (IndexLocked, 409),
    (Stopping, 503),
    (IndexNotFound, 503),  # it was there when the server was started
    (MissingExtra, 501),
    (ClipsearchError, 500),
)
