"""What may be asked: the routes of the API. Everything that takes time runs in `work`'s threads."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi import Path as InPath
from fastapi import Query as InQuery
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from clipsearch import __version__
from clipsearch.archives import file_of
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.errors import (
    GONE,
    ClipsearchError,
    ClusterError,
    DimensionMismatch,
    IndexLocked,
    IndexNotFound,
    InvalidArgument,
    InvalidQuery,
    MalformedQuery,
    MissingExtra,
    MixedModels,
    NoSuchPicture,
    OtherIndex,
    OtherPicture,
    PartLost,
    SearchExists,
    TagExists,
    UnknownIndex,
    UnreadablePicture,
)
from clipsearch.filenames import for_parsers, from_bytes
from clipsearch.indexer.status import read_status
from clipsearch.pictures.heatmap import HeatMap
from clipsearch.places import is_address, is_file, is_unchanged
from clipsearch.query.arguments import MOST_AT_ONCE, THUMBNAIL_SIZES, read_size
from clipsearch.query.crops import Crop, read_crop, split_crop
from clipsearch.records import (
    DEFAULT_HITS,
    NOTHING_CERTAIN,
    FloatArray,
    Hit,
    ImageRecord,
    Preprocessing,
)
from clipsearch.remote import ALL
from clipsearch.search.collection import Collection, nothing_to_compare
from clipsearch.search.order import Order, Orders
from clipsearch.search.similar import (
    find_content,
    find_picture,
    has_content,
    row_at,
    row_of_content,
    similar_to_part,
    similar_to_row,
    similar_to_vector,
)
from clipsearch.search.where import LONGEST, find_where
from clipsearch.sentences import sentence, told
from clipsearch.server import messages
from clipsearch.server.decoders import Decoders
from clipsearch.server.engine import Engine, NothingIndexed, ServedIndex, Stopping
from clipsearch.server.identity import ADDRESS_DIGITS, Content, IndexId, check_index
from clipsearch.server.metrics import CONTENT_TYPE, Metrics
from clipsearch.server.originals import (
    CLIP_TYPE,
    NO_CLIP,
    PLAYED_TYPES,
    POLICY,
    SAVED_TYPE,
    SHOWN_TYPES,
    Original,
    OriginalsClosed,
    may_have_originals,
    open_clip,
    open_original,
    open_video,
    wanted_part,
)
from clipsearch.server.thumbnails import MEDIA_TYPE, Thumbnails
from clipsearch.server.work import Overloaded, WorkQueue
from clipsearch.server.wrong_input import problems
from clipsearch.store import read_writer
from clipsearch.store.hashes import vector_key
from clipsearch.temporary import temporary_folder

Result = TypeVar("Result")
RowId = Annotated[int, InPath(description="Row id of a picture.")]
ContentDigits = Annotated[str, InQuery(pattern="^[0-9a-f]{16,32}$", description="As for the thumbnail.")]
IndexName = Annotated[str | None, InQuery(max_length=1000, description="Name of an index. See /v1/status.")]
ThumbnailSize = Annotated[
    int,
    InQuery(
        json_schema_extra={"enum": list(THUMBNAIL_SIZES)},
        description="Longer side in pixels. Small pictures are not enlarged. From 2048 on, a picture longer than 3:1 "
        "may be up to three times as long.",
    ),
]
PartForm = Annotated[str | None, Form(max_length=200, description=messages.PART)]
THUMBNAIL_THREADS = 4
UPLOAD_THREADS = 2
MAPS_WAITING = 16  # each takes seconds
RETRY_AFTER_S = 1
_NOT_OF_THE_ORDER = {"offset", "k", "locate", "index", "index_id", "at_least_generation"}
ONE_PICTURE = "name a picture: give its row_id or its path"
CHANGED = "its file has changed since it was indexed"
PNG = "image/png"
IMMUTABLE = "private, max-age=31536000, immutable"  # of an address that carries a content hash


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
        root: str = "",
    ) -> None:
        """`local`, `originals`: see `originals.may_have_originals`. `root`: see `sub_path.root_of`."""
        self.root = root
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
        self.maps = WorkQueue("where", threads=1, most_waiting=MAPS_WAITING, observe=metrics.work)
        self._lookers = Decoders(
            Preprocessing(LONGEST, LONGEST, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), workers=1, timeout_s=decode_timeout_s
        )
        self._decode_timeout_s = decode_timeout_s
        self._decoders: dict[tuple[str, int], Decoders] = {}  # by model fingerprint and views
        self._orders = Orders()
        engine.read_part = lambda photos, path, crop: self._read_file(Path(path), photos, crop)

    def search(self, asked: messages.SearchRequest) -> dict[str, Any]:
        """Answer a question; see `messages.SearchAnswer`."""
        while True:
            try:
                return self._search(asked)
            except PartLost:
                continue  # of several indexes, one less is asked

    def _search(self, asked: messages.SearchRequest) -> dict[str, Any]:
        began = time.perf_counter()
        with self.ordered(asked) as (served, photos, order):
            hits = order.window(photos, asked.offset, asked.k)
            total, hidden = order.count(photos)
            position, located = self._locate(served, photos, order, asked.locate)
            empty = [] if hits else [_no_hits(order, photos, total)]
            uncertain = [NOTHING_CERTAIN] if order.is_uncertain else []
            behind = [_behind()] if served.is_behind else []
            said = photos.notices(order.wish.query, uncertain=order.is_uncertain)
            notices = [*empty, *behind, *said, *uncertain]  # first why there are none; last what stands above hits
            answer = self._answer(served, photos, hits, began, notices)
            return {**answer, "position": position, "located": located, "total": total, "hidden": hidden}

    def _locate(
        self, served: ServedIndex, photos: Collection, order: Order, row_id: int | None
    ) -> tuple[int | None, dict[str, Any] | None]:
        """At which place a picture is, and what the order says of it; None where there is none of this row id."""
        if row_id is None:
            return None, None
        try:
            hit = order.hit_of(photos, row_id)
        except NoSuchPicture:
            return None, None
        position = order.place_of(photos, row_id)
        if position is not None:
            hit = dataclasses.replace(hit, rank=position + 1)
        return position, self._told(served, photos, hit)

    @contextmanager
    def ordered(self, asked: messages.SearchRequest) -> Iterator[tuple[ServedIndex, Collection, Order]]:
        """The order that a question asks for, its index open as long as the `with` lasts. Raises: OtherIndex."""
        served = self.engine.index(asked.index)
        with served.lease(at_least=asked.at_least_generation) as photos:
            check_index(photos.identity, served.name, asked.index_id)
            question = asked.model_dump(exclude=_NOT_OF_THE_ORDER)
            of = [served.name, photos.identity, photos.generation, photos.manifest.created_at, sorted(photos.missing)]
            key = json.dumps([*of, question])
            order = self._orders.find(key)
            if order is None:
                vector = None if asked.vector is None else np.array(asked.vector, np.float64)
                question["query"] = _exact(asked.query, question.pop("query_bytes"))
                pictures = {_exact(p.path, p.path_bytes): np.array(p.vector, np.float64) for p in asked.pictures}
                made = photos.order(**{**question, "vector": vector, "pictures": pictures}, local_files=False)
                order = self._orders.keep(key, made)
            yield served, photos, order

    def similar(self, asked: messages.SimilarRequest) -> dict[str, Any]:
        """Find what is like a picture of the index; see `messages.SimilarAnswer`.

        Raises: NoSuchPicture, OtherPicture, OtherIndex.
        """
        began = time.perf_counter()
        served = self.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            row_id = asked.row_id
            if (row_id is None) == (asked.path is None):
                raise InvalidQuery(ONE_PICTURE if row_id is None else f"{ONE_PICTURE}, not both")
            crop = None if asked.xywh is None else read_crop(asked.xywh)
            if row_id is None:
                path = _exact(asked.path or "", asked.path_bytes)
                found = find_picture(photos, path)
                if found is None and crop is None:
                    path, crop = split_crop(path)
                row_id = row_at(photos, path) if found is None else found
            row_id = row_of_content(photos, row_id, asked.content)
            if crop is not None:
                hits = photos.answered(lambda: similar_to_part(photos, row_id, crop, asked.k, asked.offset))
                return self._answer(served, photos, hits, began)
            hits = photos.answered(lambda: similar_to_row(photos, row_id, asked.k, asked.offset))
            return self._answer(served, photos, hits, began)

    def similar_to_file(
        self, path: Path, index: str | None, k: int, offset: int = 0, xywh: str | None = None
    ) -> dict[str, Any]:
        """Find what is like the picture in a file; see `messages.SimilarAnswer`. Raises: UnreadablePicture."""
        began = time.perf_counter()
        served = self.engine.index(index)
        with served.lease() as photos:
            vector, content = self._read_file(path, photos, None if xywh is None else read_crop(xywh))
            hits = photos.answered(lambda: similar_to_vector(photos, vector, k, content=content, offset=offset))
            return self._answer(served, photos, hits, began)

    def encode_file(self, path: Path, photos: Collection, xywh: str | None = None) -> FloatArray:
        """The vector of a picture that was sent here, or of a part of it. Shape: (D,). Raises: UnreadablePicture,
        InvalidQuery."""
        return self._read_file(path, photos, None if xywh is None else read_crop(xywh))[0]

    def _read_file(self, path: Path, photos: Collection, crop: Crop | None = None) -> tuple[FloatArray, str | None]:
        encoder = photos.encoder
        kind = (encoder.fingerprint, photos.manifest.model.views)
        decoders = self._decoders.get(kind)
        if decoders is None:
            made = Decoders(
                encoder.preprocessing,
                workers=UPLOAD_THREADS,
                timeout_s=self._decode_timeout_s,
                single_use=True,
                pieces=True,
                views=kind[1],
            )
            decoders = self._decoders.setdefault(kind, made)
        try:
            read = decoders.read(path, crop)
        except UnreadablePicture as error:
            raise UnreadablePicture("the picture", error.status, error.reason) from None
        assert read.pieces is not None
        vector: FloatArray = encode_decoded(encoder, [read.pieces], [read.is_tiled])[0]
        return vector, read.content_hash

    def where(self, asked: messages.WhereRequest) -> dict[str, Any]:
        """Show where in a picture a query matches; see `messages.WhereAnswer`. Raises: as `where_map`."""
        found, _, row_id, identity = self.where_map(asked)
        return {"index_id": identity, "row_id": row_id, **found.to_dict()}

    def where_png(self, asked: messages.WhereRequest, side: int = LONGEST) -> bytes:
        """The picture with the map over it, its longer side at most `side`, as a PNG. Raises: as `where_map`."""
        found, image, _, _ = self.where_map(asked)
        image.thumbnail((side, side))
        drawn = io.BytesIO()
        found.over(image).save(drawn, "PNG")
        return drawn.getvalue()

    def where_map(self, asked: messages.WhereRequest) -> tuple[HeatMap, Image.Image, int, str]:
        """The map, the picture that it is of, its row id, and the id of the index.

        Raises: InvalidQuery, also for a query with filters only; NoSuchPicture, OtherPicture, OtherIndex,
        UnreadablePicture.
        """
        with self.ordered(asked.question) as (_, photos, order):
            if order.vector is None:
                raise nothing_to_compare(order.wish.query)
            row_id = row_of_content(photos, asked.row_id, asked.content)
            record, path = self._of(photos, row_id)
            image, size = self._look(record, path)
            found = find_where(photos.encoder, order.vector, image, size)
            confidence, band = order.confidence_of(photos, row_id) or (None, None)
            return dataclasses.replace(found, confidence=confidence, band=band), image, row_id, photos.identity

    def _look(self, record: ImageRecord, path: str) -> tuple[Image.Image, tuple[int, int]]:
        """A picture as `where` looks at it, read in a process of its own, and its whole size. Raises:
        UnreadablePicture, OtherPicture."""
        try:
            file = path if record.part_at is not None else file_of(path, record)
            pixels, size, content = self._lookers.look(file, LONGEST, start_s=record.part_at)
        except UnreadablePicture as error:
            raise UnreadablePicture(record.place, error.status, error.reason) from None
        if record.part_at is not None or record.content_hash is None:  # of a video, hashing would take long
            same = is_unchanged(path, record.size_bytes, record.mtime_ns)
        else:
            same = content == record.content_hash
        if not same:
            raise OtherPicture(record.row_id, CHANGED)
        return Image.fromarray(pixels), size

    def embed(self, asked: messages.EmbedRequest) -> dict[str, Any]:
        """Make texts into vectors; see `messages.EmbedAnswer`."""
        with self.engine.lease(asked.index) as photos:
            return self._vectors(photos, photos.encoder.encode_texts(asked.texts))

    def notices(self, asked: messages.NoticesRequest) -> dict[str, Any]:
        """What should be said of a query; see `messages.NoticesAnswer`. Raises: MalformedQuery."""
        with self.engine.lease(asked.index) as photos:
            files = {_exact(file.path, file.path_bytes) for file in asked.files}
            return {"notices": photos.notices(_exact(asked.query, asked.query_bytes), files=files)}

    def embed_file(self, path: Path, index: str | None, xywh: str | None = None) -> dict[str, Any]:
        """Make the picture in a file into a vector; see `messages.EmbedAnswer`. Raises: UnreadablePicture."""
        with self.engine.lease(index) as photos:
            return self._vectors(photos, self.encode_file(path, photos, xywh)[None])

    def vector(self, row_id: int, index: str | None, index_id: str | None = None) -> dict[str, Any]:
        """The vector of a picture; see `messages.EmbedAnswer`. Raises: NoSuchPicture, OtherIndex."""
        served = self.engine.index(index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, index_id)
            return self._vectors(photos, photos.vector(row_id)[None])

    def vectors(self, asked: messages.VectorsRequest) -> dict[str, Any]:
        """The vectors of pictures; see `messages.EmbedAnswer`. Raises: NoSuchPicture, OtherIndex."""
        served = self.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            return self._vectors(photos, photos.vectors(asked.row_ids))

    def picture(
        self, row_id: int, index: str | None, content: str | None = None, index_id: str | None = None
    ) -> dict[str, Any]:
        """What the index knows of a picture; see `messages.KnownPicture`. Raises: NoSuchPicture, OtherIndex.

        With `content`, of the picture that has it, whichever its row id is.
        """
        served = self.engine.index(index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, index_id)
            try:
                record: ImageRecord | None = photos.record(row_id)
            except NoSuchPicture:
                record = None
            if content is not None and (record is None or not has_content(record, content)):
                record = find_content(photos, content)
            if record is None:
                raise NoSuchPicture(row_id)
            return self._known(served, photos, record)

    def words(
        self, row_id: int, index: str | None, content: str | None = None, index_id: str | None = None
    ) -> dict[str, Any]:
        """The words in a picture; see `messages.WordsAnswer`. Raises: NoSuchPicture, OtherPicture, OtherIndex."""
        served = self.engine.index(index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, index_id)
            record = photos.record(row_of_content(photos, row_id, content))
            lines = photos.words.lines_of(record) if photos.manifest.words else []
            captions = photos.captions.lines_of(record) if photos.manifest.captions else []
            told = {"lines": [line.to_dict() for line in lines], "captions": [line.to_dict() for line in captions]}
            return {"index_id": photos.identity, "row_id": record.row_id, **told}

    def views(
        self, row_id: int, index: str | None, content: str | None = None, index_id: str | None = None
    ) -> dict[str, Any]:
        """The parts of a file; see `messages.ViewsAnswer`. Raises: NoSuchPicture, OtherPicture, OtherIndex."""
        served = self.engine.index(index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, index_id)
            told = [
                {
                    "row_id": one.row_id,
                    "view": one.view,
                    "start_s": one.start_s,
                    "page": one.page,
                    "thumbnail": self._address(served, one.row_id, one.content_hash),
                }
                for one in photos.views(row_of_content(photos, row_id, content))
            ]
            return {"index_id": photos.identity, "views": told}

    def picture_at(self, asked: messages.PictureRequest) -> dict[str, Any]:
        """What the index knows of the picture at a path; see `messages.KnownPicture`. Raises: NoSuchPicture."""
        served = self.engine.index(asked.index)
        with served.lease() as photos:
            record = photos.record(row_at(photos, _exact(asked.path, asked.path_bytes)))
            return self._known(served, photos, record)

    def thumbnail(
        self, row_id: int, index: str | None, size: int, content: str | None = None, index_id: str | None = None
    ) -> tuple[bytes, str]:
        """The JPEG, and what changes when it does.

        Raises: NoSuchPicture, OtherPicture, OtherIndex, UnreadablePicture, InvalidQuery.
        """
        size = read_size(size)
        record, path = self._file(row_id, index, content, index_id)
        try:
            jpeg, shown = self.thumbnails.get(record, path, size, as_now=content is None)
        except UnreadablePicture as error:
            if not is_address(path) and not is_file(path):
                raise UnreadablePicture(record.path, "unreadable", GONE) from None
            raise UnreadablePicture(record.place, error.status, error.reason) from None
        if shown != record.content_hash:
            self._file(row_id, index, content, index_id)  # not a link that was put there meanwhile
        if content is not None and shown != record.content_hash:
            raise OtherPicture(row_id, CHANGED)
        return jpeg, f"{vector_key(record) if shown == record.content_hash else shown}-{size}"

    def original(self, row_id: int, index: str | None, content: str) -> Original:
        """The file itself. Raises: NoSuchPicture, OtherPicture."""
        record, path = self._file(row_id, index, content)
        if record.content_hash is None:
            raise OtherPicture(row_id, "nobody knows what it was")
        if record.metadata.format == "VIDEO":
            return open_video(path, record)
        try:
            file = file_of(path, record)
        except UnreadablePicture as error:
            raise OtherPicture(row_id, error.reason) from None
        return open_original(file, record.place, row_id, record.content_hash)

    def clip(self, row_id: int, index: str | None, content: str) -> Original:
        """The clip in a motion photo, or that of a Live Photo. Raises: NoSuchPicture, OtherPicture, also where there is
        none."""
        record, path = self._file(row_id, index, content)
        if not record.is_motion:
            with self.engine.index(index).lease() as photos:
                rows = photos.live.clip_of(row_id)
                if rows is None:
                    raise OtherPicture(row_id, NO_CLIP)
                clip, path = self._of(photos, rows.start)
            return open_video(path, clip, played=True)
        try:
            file = file_of(path, record)
        except UnreadablePicture as error:
            raise OtherPicture(row_id, error.reason) from None
        return open_clip(file, record)

    def _file(
        self, row_id: int, index: str | None, content: str | None, index_id: str | None = None
    ) -> tuple[ImageRecord, str]:
        """A picture's record and path. Raises: NoSuchPicture, OtherPicture, OtherIndex."""
        served = self.engine.index(index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, index_id)
            if not has_content(photos.record(row_id), content):
                raise OtherPicture(row_id)
            return self._of(photos, row_id)

    @staticmethod
    def _of(photos: Collection, row_id: int) -> tuple[ImageRecord, str]:
        """A picture's record and path. Raises: NoSuchPicture, OtherPicture."""
        record = photos.record(row_id)
        if photos.leads_out(record):
            raise OtherPicture(row_id, "its file is a link out of the folder now")
        return record, path_of(photos, record)

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
            "missing": [{"index": str(path), "reason": why} for path, why in self.engine.absent.items()],
            "together": self._together(),
        }

    def _together(self) -> dict[str, Any] | None:
        """What is known of all indexes together; None where there is one, or none."""
        if len(self.engine.indexes) + len(self.engine.absent) < 2:
            return None
        try:
            with self.engine.lease(ALL) as photos:
                told = {"id": photos.identity, "generation": photos.generation, "pictures": len(photos)}
                return {"name": ALL, **told, "problem": None}
        except MixedModels as error:
            return {"name": ALL, "id": None, "generation": None, "pictures": None, "problem": str(error)}

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
        for queue in self._queues:
            self.metrics.unfinished.labels(queue.name).set(queue.unfinished)
        return self.metrics.text()

    @property
    def _queues(self) -> tuple[WorkQueue, ...]:
        return self.searches, self.pictures, self.uploads, self.exports, self.maps

    def close(self) -> None:
        """Let work that is running finish, end processes, let go of the indexes."""
        for queue in self._queues:
            queue.close()
        self.thumbnails.close()
        self._lookers.close()
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
                "tags": [{"name": tag.name, "kind": tag.kind, "pictures": tag.pictures} for tag in photos.tags],
                "is_being_written": writer is not None,
                "is_behind": served.is_behind,
                "progress": None if progress is None else dataclasses.asdict(progress),
            }

    def _answer(
        self, served: ServedIndex, photos: Collection, hits: list[Hit], began: float, notices: Sequence[str] = ()
    ) -> dict[str, Any]:
        return {
            "index": served.name,
            "index_id": photos.identity,
            "generation": photos.manifest.generation,
            "took_ms": round(1000 * (time.perf_counter() - began), 3),
            "hits": [self._told(served, photos, hit) for hit in hits],
            "notices": list(notices),
            **_absent(photos),
        }

    @staticmethod
    def _vectors(photos: Collection, vectors: FloatArray) -> dict[str, Any]:
        encoder = photos.encoder
        return {
            "index_id": photos.identity,
            "model": encoder.name,
            "fingerprint": encoder.fingerprint,
            "dim": encoder.dim,
            "vectors": np.asarray(vectors, np.float32).tolist(),
        }

    def _known(self, served: ServedIndex, photos: Collection, record: ImageRecord) -> dict[str, Any]:
        told = record.to_dict(path_of(photos, record), whole=True)
        return {**told, **self._addresses(served, photos, record), "index_id": photos.identity}

    def _told(self, served: ServedIndex, photos: Collection, hit: Hit) -> dict[str, Any]:
        """What is told of a hit, with the addresses of what belongs to it; see `messages.FoundPicture`."""
        others = [self._told(served, photos, other) for other in hit.others]
        clip = {} if hit.clip is None else {"clip": self._told(served, photos, hit.clip)}
        return {**hit.to_dict(whole=True), **self._addresses(served, photos, hit.record), "others": others, **clip}

    def _addresses(self, served: ServedIndex, photos: Collection, record: ImageRecord) -> dict[str, str]:
        """Where a small copy of a picture is, and its clip, if it has one."""
        thumbnail = {"thumbnail": self._address(served, record.row_id, record.content_hash)}
        has_clip = record.is_motion or photos.live.clip_of(record.row_id) is not None
        if not has_clip or record.content_hash is None:
            return thumbnail
        return {**thumbnail, "moment": self._address(served, record.row_id, record.content_hash, "clip")}

    def _address(self, served: ServedIndex, row_id: int, content: str | None, kind: str = "thumbnail") -> str:
        """Where something of a picture is."""
        address = f"{self.root}/v1/images/{row_id}/{kind}?index={quote(served.name, safe='')}"
        return address if content is None else f"{address}&content={content[:ADDRESS_DIGITS]}"


def _exact(text: str, exact: str | None) -> str:
    """Text that was sent, of which the bytes were sent too if it is not UTF-8."""
    return text if exact is None else from_bytes(bytes.fromhex(exact))


def path_of(photos: Collection, record: ImageRecord) -> str:
    """Where a picture is, absolute."""
    return photos.path_of(record)


def _absent(photos: Collection) -> dict[str, Any]:
    """Of several indexes, which were left out."""
    missing = [{"index": name, "reason": why} for name, why in photos.missing.items()]
    return {"partial": bool(missing), "missing": missing}


def _no_hits(order: Order, photos: Collection, total: int) -> str:
    """Why a window is empty: nothing was found, or it begins behind the last hit."""
    why = order.why_empty(photos)
    return why if total else sentence("nothing_found", "nothing found: {why}", why=why)


def _behind() -> str:
    return sentence(
        "behind",
        "the newest version of the index cannot be read, or was removed. These pictures are from the version before. "
        "See the server's log",
    )


_SURROGATE = "\\ud"  # how JSON in ASCII writes one; also of what is no name, and of letters beyond U+FFFF


class AsciiJSON(Response):
    """JSON in ASCII. Names of files that are not UTF-8: see `filenames.for_parsers`.

    To be made where the answer is, beside the event loop: of 10,000 hits it takes two seconds.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, separators=(",", ":"))
        if _SURROGATE in text:
            text = json.dumps(for_parsers(content), separators=(",", ":"))
        return text.encode("ascii")


def documented(model: type, *codes: int) -> dict[str, Any]:
    """What OpenAPI says of a route: its answer, and its errors."""
    reasons = {400: "Invalid query", 404: "No such picture or index", 422: "Invalid input"}
    reasons |= {
        503: "Too many requests are waiting. See Retry-After",
        413: "Too large",
        409: "Another index, or a name that is taken",
    }
    problems: dict[int | str, Any] = {code: {"model": messages.Problem, "description": reasons[code]} for code in codes}
    return {"response_model": model, "responses": problems}


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the API to `app`."""
    add_errors(app)
    _add_searches(app, service)
    _add_pictures(app, service)
    _add_state(app, service)


def _add_searches(app: FastAPI, service: Service) -> None:
    @app.post("/v1/search", tags=["search"], **documented(messages.SearchAnswer, 400, 404, 409, 413, 422, 503))
    async def search(asked: messages.SearchRequest) -> Response:
        """Find pictures. File names and URLs in a query are plain text: nothing is opened or fetched."""
        return await service.searches.run(lambda: AsciiJSON(service.search(asked)))

    @app.post("/v1/similar", tags=["search"], **documented(messages.SimilarAnswer, 400, 404, 409, 413, 422, 503))
    async def similar(asked: messages.SimilarRequest) -> Response:
        """Find pictures similar to one of the index, which is not a hit itself. A path is looked up, never opened."""
        return await service.searches.run(lambda: AsciiJSON(service.similar(asked)))

    @app.post("/v1/similar/upload", tags=["search"], **documented(messages.SimilarAnswer, 404, 413, 422, 503))
    async def similar_upload(
        image: Annotated[UploadFile, File(description="A picture file.")],
        k: Annotated[int, Form(ge=1, le=MOST_AT_ONCE)] = DEFAULT_HITS,
        offset: Annotated[int, Form(ge=0, le=messages.DEEPEST)] = 0,
        index: Annotated[str | None, Form(max_length=1000)] = None,
        xywh: PartForm = None,
    ) -> Response:
        """Find pictures similar to an uploaded one. It is decoded in a separate process and then deleted."""

        def answer(path: Path) -> dict[str, Any]:
            return service.similar_to_file(path, index, k, offset, xywh)

        return await service.uploads.run(lambda: AsciiJSON(_with_file(image, answer)))

    @app.post(
        "/v1/where",
        tags=["search"],
        response_model=messages.WhereAnswer,
        responses={
            200: {"content": {PNG: {}}, "description": "The map and its box; with form png, the picture with both."},
            **documented(messages.WhereAnswer, 400, 404, 409, 413, 422, 503)["responses"],
        },
    )
    async def where(asked: messages.WhereRequest) -> Response:
        """Show where in a picture a query matches. It always points somewhere, also if nothing matches: see `band`."""
        if asked.form == "json":
            return await service.maps.run(lambda: AsciiJSON(service.where(asked)))
        return Response(await service.maps.run(lambda: service.where_png(asked)), media_type=PNG)

    @app.post("/v1/notices", tags=["search"], **documented(messages.NoticesAnswer, 400, 404, 413, 422, 503))
    async def notices(asked: messages.NoticesRequest) -> Response:
        """Tell what a query could also mean, how it was read, and what the model does not read of it."""
        return await service.searches.run(lambda: AsciiJSON(service.notices(asked)))

    @app.post("/v1/embed", tags=["search"], **documented(messages.EmbedAnswer, 400, 404, 413, 422, 503))
    async def embed(asked: messages.EmbedRequest) -> Response:
        """Encode texts as vectors."""
        return await service.searches.run(lambda: AsciiJSON(service.embed(asked)))

    @app.post("/v1/embed/upload", tags=["search"], **documented(messages.EmbedAnswer, 404, 413, 422, 503))
    async def embed_upload(
        image: Annotated[UploadFile, File(description="A picture file.")],
        index: Annotated[str | None, Form(max_length=1000)] = None,
        xywh: PartForm = None,
    ) -> Response:
        """Encode an uploaded picture as a vector. It is decoded in a separate process and then deleted."""
        return await service.uploads.run(
            lambda: AsciiJSON(_with_file(image, lambda path: service.embed_file(path, index, xywh)))
        )


_KIND = re.compile(r"\.[A-Za-z0-9]{1,8}$", re.ASCII)


def _with_file(image: UploadFile, use: Callable[[Path], Result]) -> Result:
    """Put an upload into a file that only this user can read, for as long as it is used."""
    with temporary_folder() as folder:
        kind = _KIND.search(image.filename or "")  # some formats are known by it only
        path = Path(folder) / f"upload{kind[0] if kind else ''}"
        with path.open("wb") as file:
            while block := image.file.read(1 << 20):
                file.write(block)
        return use(path)


def _add_pictures(app: FastAPI, service: Service) -> None:
    @app.get("/v1/images/{id}", tags=["pictures"], **documented(messages.KnownPicture, 404, 409, 422, 503))
    async def picture(
        id: RowId, index: IndexName = None, content: Content = None, index_id: IndexId = None
    ) -> Response:
        """Get what the index knows about a picture. With `content`, the one with this content hash, whatever its id."""
        return await service.searches.run(lambda: AsciiJSON(service.picture(id, index, content, index_id)))

    @app.get("/v1/images/{id}/words", tags=["pictures"], **documented(messages.WordsAnswer, 404, 409, 422, 503))
    async def words(id: RowId, index: IndexName = None, content: Content = None, index_id: IndexId = None) -> Response:
        """Get the words that stand in a picture, with their boxes."""
        return await service.searches.run(lambda: AsciiJSON(service.words(id, index, content, index_id)))

    @app.get("/v1/images/{id}/views", tags=["pictures"], **documented(messages.ViewsAnswer, 404, 409, 422, 503))
    async def views(id: RowId, index: IndexName = None, content: Content = None, index_id: IndexId = None) -> Response:
        """Get the parts of a file that are searched by themselves: shots of a video, pages of a document."""
        return await service.searches.run(lambda: AsciiJSON(service.views(id, index, content, index_id)))

    @app.post("/v1/picture", tags=["pictures"], **documented(messages.KnownPicture, 400, 404, 413, 422, 503))
    async def picture_at(asked: messages.PictureRequest) -> Response:
        """Get what the index knows about the picture at a path. The path is looked up, never opened."""
        return await service.searches.run(lambda: AsciiJSON(service.picture_at(asked)))

    @app.get("/v1/images/{id}/vector", tags=["pictures"], **documented(messages.EmbedAnswer, 404, 409, 422, 503))
    async def vector(id: RowId, index: IndexName = None, index_id: IndexId = None) -> Response:
        """Get the vector of a picture."""
        return await service.searches.run(lambda: AsciiJSON(service.vector(id, index, index_id)))

    @app.post("/v1/vectors", tags=["pictures"], **documented(messages.EmbedAnswer, 400, 404, 409, 413, 422, 503))
    async def vectors(asked: messages.VectorsRequest) -> Response:
        """Get the vectors of several pictures, in the order of `row_ids`."""
        return await service.searches.run(lambda: AsciiJSON(service.vectors(asked)))

    @app.get(
        "/v1/images/{id}/thumbnail",
        tags=["pictures"],
        response_class=Response,
        responses={
            200: {"content": {MEDIA_TYPE: {}}, "description": "A JPEG without metadata."},
            304: {"description": "Not modified (If-None-Match)."},
            **documented(messages.Picture, 404, 409, 422, 503)["responses"],
        },
    )
    async def thumbnail(
        request: Request,
        id: RowId,
        size: ThumbnailSize = 256,
        index: IndexName = None,
        content: Content = None,
        index_id: IndexId = None,
    ) -> Response:
        """Get a small upright copy of a picture, with a longer side of at most `size` pixels.

        With `content`, the address always means the same picture and can be cached for ever.
        """
        jpeg, tag = await service.pictures.run(lambda: service.thumbnail(id, index, size, content, index_id))
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
                "content": {kind: {} for kind in (*SHOWN_TYPES.values(), *PLAYED_TYPES.values(), SAVED_TYPE)},
                "description": "The file, if it still has this content.",
            },
            206: {"description": "The part of a video that Range asks for."},
            416: {"model": messages.Problem, "description": "The video has no such part."},
            403: {"model": messages.Problem, "description": "Originals are for browsers on this machine only."},
            **documented(messages.Picture, 404, 422, 503)["responses"],
        },
    )
    async def original(
        request: Request,
        id: RowId,
        content: ContentDigits,
        index: IndexName = None,
    ) -> Response:
        """The picture's own file, with all that stands in it: for browsers on this machine (see --originals).

        A video is sent in parts, if a player asks for them (Range).
        """
        if not may_have_originals(request, allowed=service.originals, local=service.local):
            raise OriginalsClosed
        found = await service.pictures.run(lambda: service.original(id, index, content))
        return _sent(request, found)

    @app.get(
        "/v1/images/{id}/clip",
        tags=["pictures"],
        response_class=Response,
        responses={
            200: {"content": {CLIP_TYPE: {}}, "description": "The clip, if the file still has this content."},
            206: {"description": "The part of it that Range asks for."},
            416: {"model": messages.Problem, "description": "The clip has no such part."},
            403: {"model": messages.Problem, "description": "Originals are for browsers on this machine only."},
            **documented(messages.Picture, 404, 422, 503)["responses"],
        },
    )
    async def clip(
        request: Request,
        id: RowId,
        content: ContentDigits,
        index: IndexName = None,
    ) -> Response:
        """The clip in a motion photo, or that of a Live Photo, by its still: for browsers on this machine, as the
        original file (see --originals)."""
        if not may_have_originals(request, allowed=service.originals, local=service.local):
            raise OriginalsClosed
        return _sent(request, await service.pictures.run(lambda: service.clip(id, index, content)))


def _sent(request: Request, found: Original) -> Response:
    """A file, or of a video the part that a player asks for."""
    headers = {
        "cache-control": "private, no-store",
        "content-disposition": found.disposition,
        "content-length": str(found.size_bytes),
        "content-security-policy": POLICY,
    }
    if not found.media_type.startswith("video/"):
        return StreamingResponse(found.blocks(), media_type=found.media_type, headers=headers)
    headers["accept-ranges"] = "bytes"
    part = wanted_part(request.headers.get("range"), found.size_bytes)
    if part is None:
        return StreamingResponse(found.blocks(), media_type=found.media_type, headers=headers)
    if not part:
        found.file.close()
        raise HTTPException(416, "The video has no such part.", {"content-range": f"bytes */{found.size_bytes}"})
    headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{found.size_bytes}"
    headers["content-length"] = str(len(part))
    return StreamingResponse(found.blocks(part), 206, media_type=found.media_type, headers=headers)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/status", tags=["state"], **documented(messages.StatusAnswer, 503))
    async def status() -> Response:
        """Show the indexes that are served."""
        return await service.searches.run(lambda: AsciiJSON(service.status()))

    @app.get("/v1/skipped", tags=["state"], **documented(messages.SkippedAnswer, 404, 422, 503))
    async def skipped(index: IndexName = None, most: Annotated[int, InQuery(ge=0, le=100_000)] = 1000) -> Response:
        """List skipped files with the reason."""
        return await service.searches.run(lambda: AsciiJSON(service.skipped(index, most)))

    @app.get("/healthz", tags=["state"], response_class=PlainTextResponse)
    async def healthz() -> Response:
        """Check that the server is running. Needs no token."""
        return PlainTextResponse("ok\n")

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Get metrics in the text format of Prometheus."""
        return Response(service.measure(), media_type=CONTENT_TYPE)


FAILED: dict[str, Any] = {"error": "Failed", "message": "the server failed; its log says more", "fields": {}}


def told_error(error: ClipsearchError | OSError) -> dict[str, Any]:
    """An error as answers tell it: see `messages.Problem`."""
    if isinstance(error, OSError):
        return {"error": "OSError", "message": error.strerror or str(error), "fields": {}}
    body: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, MalformedQuery):
        body["position"] = error.position
    return {**body, "fields": error.fields(), "sentences": [told(part) for part in error.sentences()]}


def add_errors(app: FastAPI) -> None:
    """Let `app` answer every error as JSON."""

    @app.exception_handler(ClipsearchError)
    async def clipsearch_error(request: Request, error: ClipsearchError) -> Response:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        headers = {"retry-after": str(RETRY_AFTER_S)} if isinstance(error, Overloaded) else None
        return AsciiJSON(told_error(error), status, headers)

    @app.exception_handler(OSError)
    async def storage_error(request: Request, error: OSError) -> Response:
        """As of an index that was deleted a moment ago and is being made anew."""
        message = f"the index cannot be read at the moment ({error.strerror or type(error).__name__}). Try again."
        body = {"error": "StorageError", "message": message, "fields": {}}
        return AsciiJSON(body, 503, {"retry-after": str(RETRY_AFTER_S)})

    @app.exception_handler(RequestValidationError)
    async def wrong_input(request: Request, error: RequestValidationError) -> Response:
        """Say where; do not repeat what was sent."""
        return AsciiJSON({"error": "WrongInput", "message": problems(error.errors()), "fields": {}}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        body = {"error": "Refused", "message": error.detail, "fields": {}}
        return AsciiJSON(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        """A mistake of ours. What it was is in the log."""
        return AsciiJSON(FAILED, 500)


_STATUS: tuple[tuple[type[ClipsearchError], int], ...] = (
    (TagExists, 409),
    (SearchExists, 409),
    (InvalidQuery, 400),
    (InvalidArgument, 400),
    (MixedModels, 400),
    (DimensionMismatch, 400),
    (UnknownIndex, 404),
    (NoSuchPicture, 404),
    (OtherPicture, 404),
    (OtherIndex, 409),
    (OriginalsClosed, 403),
    (UnreadablePicture, 422),
    (Overloaded, 503),
    (IndexLocked, 409),
    (Stopping, 503),
    (PartLost, 503),
    (ClusterError, 503),
    (NothingIndexed, 404),
    (IndexNotFound, 503),  # it was there when the server was started
    (MissingExtra, 501),
    (ClipsearchError, 500),
)
