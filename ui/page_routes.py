"""What the page asks beside the API that programs use: windows of a gallery, the map, exports."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from clipsearch.search.concepts import add_concept
from clipsearch.server import messages
from clipsearch.server.identity import ADDRESS_DIGITS, check_index
from clipsearch.server.routes import AsciiJSON, IndexName, Service, documented
from clipsearch.ui.exports import MEDIA_TYPES, MOST_EXPORTED, Export, Form
from clipsearch.ui.picture_map import PictureMap, draw_map
from clipsearch.ui.places import contents_of

MAPS_KEPT = 4
EXPORT_NAMES: dict[Form, str] = {"csv": "clipsearch.csv", "paths": "clipsearch.txt", "zip": "clipsearch.zip"}

Id = Annotated[int, Field(ge=0, lt=2**63)]


class RowsRequest(messages.SearchRequest):
    """Row ids of a part of an index in the order of a question."""

    k: Annotated[int, Field(ge=1, le=MOST_EXPORTED)] = MOST_EXPORTED


class ExportRequest(messages.Request):
    """Pictures to export: as a table, as paths, or as re-encoded previews."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_EXPORTED)]
    form: Form
    index: messages.IndexName = None
    index_id: messages.IndexId = None


class ConceptRequest(messages.Request):
    """A concept to save: example pictures and counter-examples."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    like: Annotated[list[Id], Field(min_length=1, max_length=1000)]
    unlike: Annotated[list[Id], Field(max_length=1000, default_factory=list)]
    index: messages.IndexName = None
    index_id: messages.IndexId = None


class RowsAnswer(BaseModel):
    """Row ids in an order."""

    index: str
    index_id: str
    total: int
    ids: list[int]


class ConceptAnswer(BaseModel):
    """A concept that was saved."""

    index: str
    name: str


class MapAnswer(BaseModel):
    """Positions of pictures, in 1/10,000 of the side of the map."""

    index: str
    total: int
    ids: list[int]
    contents: list[str | None]
    x: list[int]
    y: list[int]


class PageService:
    """What the page's routes work with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._maps: OrderedDict[tuple[str, str, int], PictureMap] = OrderedDict()
        self._drawing = threading.Lock()

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
            concept = add_concept(photos, asked.name, asked.like, asked.unlike)
        served.reload(wait=True)
        return {"index": served.name, "name": concept.name}

    def rows(self, asked: RowsRequest) -> dict[str, Any]:
        """Row ids of a part of an order."""
        with self._service.ordered(asked) as (served, photos, order):
            ids = order.row_ids(photos, asked.offset, asked.k).tolist()
            total, _ = order.count(photos)
        return {"index": served.name, "index_id": photos.identity, "total": total, "ids": ids}

    def export(self, asked: ExportRequest) -> Export:
        """Begin an export. Raises: NoSuchPicture, InvalidQuery, OtherIndex."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
        return Export(self._service, self._service.exports, served, asked.ids, asked.form)


def add_page_routes(app: FastAPI, service: Service) -> None:
    """Add what the page asks to `app`."""
    page = PageService(service)

    @app.post("/v1/gallery", tags=["page"], **documented(messages.SearchAnswer, 400, 404, 409, 413, 422, 503))
    async def gallery(asked: messages.SearchRequest) -> Response:
        """Same as `/v1/search`."""
        return AsciiJSON(await service.searches.run(lambda: service.search(asked)))

    @app.post("/v1/gallery/rows", tags=["page"], **documented(RowsAnswer, 400, 404, 409, 413, 422, 503))
    async def gallery_rows(asked: RowsRequest) -> Response:
        """Row ids of a part of an index in the order of a question, for a selection."""
        return AsciiJSON(await service.searches.run(lambda: page.rows(asked)))

    @app.post("/v1/concepts", tags=["page"], **documented(ConceptAnswer, 400, 404, 409, 413, 422, 503))
    async def concepts(asked: ConceptRequest) -> Response:
        """Save what example pictures have in common as a concept, for `tag:NAME` and `like:NAME`."""
        return AsciiJSON(await service.exports.run(lambda: page.keep_concept(asked)))

    @app.get("/v1/map", tags=["page"], **documented(MapAnswer, 404, 422, 503))
    async def picture_map(index: IndexName = None) -> Response:
        """Get the positions of pictures on the map of an index. Similar pictures lie near each other."""
        return AsciiJSON(await service.exports.run(lambda: page.map(index)))

    @app.post(
        "/v1/export",
        tags=["page"],
        response_class=Response,
        responses={
            200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}, "description": "The export, streamed."},
            **documented(messages.Picture, 400, 404, 409, 413, 422, 503)["responses"],
        },
    )
    async def export(asked: ExportRequest) -> Response:
        """Export pictures as a table, as paths, or as an archive of re-encoded previews, never as originals."""
        export = await service.searches.run(lambda: page.export(asked))
        return StreamingResponse(
            export.blocks(),
            media_type=MEDIA_TYPES[asked.form],
            headers={"content-disposition": f'attachment; filename="{EXPORT_NAMES[asked.form]}"'},
        )
