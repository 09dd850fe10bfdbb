"""What the page asks beside the API that programs use: rows of a gallery, exports, concepts; and `overviews`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from clipsearch.search.concepts import add_concept
from clipsearch.server import messages
from clipsearch.server.identity import check_index
from clipsearch.server.routes import AsciiJSON, Service, documented
from clipsearch.ui.exports import MEDIA_TYPES, MOST_EXPORTED, Export, Form
from clipsearch.ui.overviews import add_overview_routes
from clipsearch.ui.saved import add_saved_routes
from clipsearch.ui.suggestions import add_suggestion_routes

LEFT_OUT = "clipsearch-left-out"
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
    replace: Annotated[bool, Field(description="Overwrite the tag or concept of that name.")] = False
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


class PageService:
    """What the page's routes work with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def keep_concept(self, asked: ConceptRequest) -> dict[str, Any]:
        """Learn a concept and keep it in the index under a name. Raises: InvalidQuery, TagExists, IndexLocked."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            concept = add_concept(photos, asked.name, asked.like, asked.unlike, replace=asked.replace)
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
    add_overview_routes(app, service)
    add_suggestion_routes(app, service)
    add_saved_routes(app, service)

    @app.post("/v1/gallery/rows", tags=["page"], **documented(RowsAnswer, 400, 404, 409, 413, 422, 503))
    async def gallery_rows(asked: RowsRequest) -> Response:
        """Row ids of a part of an index in the order of a question, for a selection."""
        return await service.searches.run(lambda: AsciiJSON(page.rows(asked)))

    @app.post("/v1/concepts", tags=["page"], **documented(ConceptAnswer, 400, 404, 409, 413, 422, 503))
    async def concepts(asked: ConceptRequest) -> Response:
        """Save what example pictures have in common as a concept, for `tag:NAME` and `like:NAME`."""
        return await service.exports.run(lambda: AsciiJSON(page.keep_concept(asked)))

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
        """Export pictures as a table, as paths, or as an archive of re-encoded previews, never as originals.

        The header `Clipsearch-Left-Out` says how many are left out, as the index has them no more.
        """
        export = await service.searches.run(lambda: page.export(asked))
        return StreamingResponse(
            export.blocks(),
            media_type=MEDIA_TYPES[asked.form],
            headers={
                "content-disposition": f'attachment; filename="{EXPORT_NAMES[asked.form]}"',
                LEFT_OUT: str(len(export.left_out)),
            },
        )
