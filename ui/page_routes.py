"""What the page asks beside the API that programs use: windows of a gallery, the map, exports."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from clipsearch.errors import InvalidQuery
from clipsearch.query import Query
from clipsearch.search.collection import Collection, asks_in_words
from clipsearch.search.concepts import add_concept
from clipsearch.server import messages
from clipsearch.server.engine import ServedIndex, SharedCollection
from clipsearch.server.identity import ADDRESS_DIGITS, IndexId, check_index
from clipsearch.server.routes import AsciiJSON, IndexName, Service, direction, found_picture, parse_safely
from clipsearch.ui.exports import MEDIA_TYPES, MOST_EXPORTED, Export, Form
from clipsearch.ui.ordering import Order, Orders, Wish, put_in_order
from clipsearch.ui.picture_map import PictureMap, draw_map
from clipsearch.ui.places import contents_of, position_of

MAPS_KEPT = 4
EXPORT_NAMES: dict[Form, str] = {"csv": "clipsearch.csv", "paths": "clipsearch.txt", "zip": "clipsearch.zip"}

Id = Annotated[int, Field(ge=0, lt=2**63)]


class _Question(BaseModel):
    """What puts an index in order; nothing puts the newest first."""

    model_config = ConfigDict(extra="forbid")

    query: messages.Text = ""
    vector: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]] | None, Field(max_length=8192)] = None
    sort: Literal["score", "date", "path"] = "score"
    unique: bool = False
    diverse: bool = False
    all: Annotated[bool, Field(description="Also what is unlikely to be a match.")] = False
    like: Annotated[list[Id], Field(max_length=1000)] = []
    unlike: Annotated[list[Id], Field(max_length=1000)] = []
    index: messages.IndexName = None
    index_id: IndexId = None
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class GalleryRequest(_Question):
    """A window of an index in the order of a question; without one, the newest first."""

    k: Annotated[int, Field(ge=1, le=1000)] = 100
    locate: Annotated[Id | None, Field(description="Row id of a picture: where it is in this order.")] = None


class RowsRequest(_Question):
    """Row ids of a part of an index in the order of a question."""

    k: Annotated[int, Field(ge=1, le=MOST_EXPORTED)] = MOST_EXPORTED


class ExportRequest(BaseModel):
    """Pictures to be exported: as a table, as paths, or as re-encoded previews."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_EXPORTED)]
    form: Form
    index: messages.IndexName = None
    index_id: IndexId = None


class ConceptRequest(BaseModel):
    """Pictures that show something, and pictures that do not: to be kept under a name."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    like: Annotated[list[Id], Field(min_length=1, max_length=1000)]
    unlike: Annotated[list[Id], Field(max_length=1000)] = []
    index: messages.IndexName = None
    index_id: IndexId = None


class PageService:
    """What the page's routes work with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._orders = Orders()
        self._maps: OrderedDict[tuple[str, str, int], PictureMap] = OrderedDict()
        self._drawing = threading.Lock()

    def gallery(self, asked: GalleryRequest) -> dict[str, Any]:
        """A window of hits, and how many there are."""
        began = time.perf_counter()
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            order = self._order(served, photos, asked)
            hits = order.window(photos, asked.offset, asked.k)
            found = [found_picture(served, photos, hit) for hit in hits]
            position = None if asked.locate is None else position_of(order, photos, asked.locate)
        return {
            "index": served.name,
            "index_id": photos.identity,
            "generation": photos.manifest.generation,
            "position": position,
            "total": order.total,
            "hidden": order.hidden,
            "took_ms": round(1000 * (time.perf_counter() - began), 3),
            "hits": found,
        }

    def _order(self, served: ServedIndex, photos: SharedCollection, asked: _Question) -> Order:
        question = asked.model_dump(exclude={"offset", "k", "index", "index_id", "locate"})
        key = json.dumps([served.name, photos.identity, photos.manifest.generation, question])
        order = self._orders.find(key)
        return self._orders.keep(key, _order(photos, asked)) if order is None else order

    def map(self, index: str | None) -> dict[str, Any]:
        """Where the pictures of an index are on its map: places in 1/10,000 of its side."""
        served = self._service.engine.index(index)
        with served.lease() as photos, self._drawing:
            key = (served.name, photos.identity, photos.manifest.generation)
            if key not in self._maps:
                self._maps[key] = draw_map(photos)
                while len(self._maps) > MAPS_KEPT:
                    self._maps.popitem(last=False)
            drawn = self._maps[key]
            contents = contents_of(photos, drawn.ids, ADDRESS_DIGITS)
        x, y = np.round(drawn.places.T * 10_000).astype(int).tolist() if len(drawn.ids) else ([], [])
        return {
            "index": served.name,
            "total": drawn.total,
            "ids": drawn.ids.tolist(),
            "contents": contents,
            "x": x,
            "y": y,
        }

    def keep_concept(self, asked: ConceptRequest) -> dict[str, Any]:
        """Learn a concept and keep it in the index under a name. Raises: InvalidQuery, IndexLocked."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            try:
                concept = add_concept(photos, asked.name, asked.like, asked.unlike)
            except ValueError as error:
                raise InvalidQuery(str(error)) from None
        served.reload(wait=True)
        return {"index": served.name, "name": concept.name}

    def rows(self, asked: RowsRequest) -> dict[str, Any]:
        """Row ids of a part of an order."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            order = self._order(served, photos, asked)
            if asked.offset + asked.k > len(order.ids) and len(order.ids) < order.total:
                order.extend(photos)
            ids = order.ids[asked.offset : asked.offset + asked.k].tolist()
        return {"index": served.name, "index_id": photos.identity, "total": order.total, "ids": ids}

    def export(self, asked: ExportRequest) -> Export:
        """Begin an export. Raises: NoSuchPicture, InvalidQuery, OtherIndex."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
        return Export(self._service, self._service.exports, served, asked.ids, asked.form)


def _order(photos: Collection, asked: _Question) -> Order:
    """Raises: InvalidQuery."""
    parsed = parse_safely(photos, asked.query) if asked.query.strip() else Query("", ())
    vector = photos.query_vector(parsed) if asked.vector is None else direction(photos, parsed, asked.vector)
    in_words = bool(parsed.terms) and not (asked.vector or asked.like or asked.unlike) and asks_in_words(parsed)
    wish = Wish(
        vector,
        parsed.filter,
        asked.sort,
        unique=asked.unique,
        diverse=asked.diverse,
        like=tuple(asked.like),
        unlike=tuple(asked.unlike),
        kind="text" if in_words else "picture",
        cut=in_words and not asked.all,
    )
    return put_in_order(photos, wish)


def add_page_routes(app: FastAPI, service: Service) -> None:
    """Add what the page asks to `app`."""
    page = PageService(service)

    @app.post("/v1/gallery", tags=["page"])
    async def gallery(asked: GalleryRequest) -> Response:
        """A window of an index in the order of a question."""
        return AsciiJSON(await service.searches.run(lambda: page.gallery(asked)))

    @app.post("/v1/gallery/rows", tags=["page"])
    async def gallery_rows(asked: RowsRequest) -> Response:
        """Row ids of a part of an index in the order of a question, for a selection."""
        return AsciiJSON(await service.searches.run(lambda: page.rows(asked)))

    @app.post("/v1/concepts", tags=["page"])
    async def concepts(asked: ConceptRequest) -> Response:
        """Keep what was liked and not under a name: `tag:NAME` and `like:NAME` work from then on."""
        return AsciiJSON(await service.exports.run(lambda: page.keep_concept(asked)))

    @app.get("/v1/map", tags=["page"])
    async def picture_map(index: IndexName = None) -> Response:
        """Where pictures are on the map of an index: those that look alike lie near each other."""
        return AsciiJSON(await service.exports.run(lambda: page.map(index)))

    @app.post("/v1/export", tags=["page"])
    async def export(asked: ExportRequest) -> Response:
        """Pictures as a table, as paths, or as an archive of re-encoded previews. Originals are never among them."""
        export = await service.searches.run(lambda: page.export(asked))
        return StreamingResponse(
            export.blocks(),
            media_type=MEDIA_TYPES[asked.form],
            headers={"content-disposition": f'attachment; filename="{EXPORT_NAMES[asked.form]}"'},
        )
