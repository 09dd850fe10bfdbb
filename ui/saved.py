"""Searches that are saved in an index, for the page: see `store.searches`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from clipsearch.folding import fold_name
from clipsearch.query import with_rows_raised
from clipsearch.records import SavedSearch, Sort
from clipsearch.search.collection import Collection
from clipsearch.server import messages
from clipsearch.server.identity import check_index
from clipsearch.server.routes import AsciiJSON, IndexName, Service, documented
from clipsearch.store.searches import make_search, read_searches, remove_search, rename_search, save_search
from clipsearch.store.tags import NAME_LIMIT

SearchName = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]


class OneSearchRequest(messages.Request):
    """A saved search of an index."""

    name: SearchName
    index: messages.IndexName = None
    index_id: messages.IndexId = None


class SaveRequest(OneSearchRequest):
    """A search to save."""

    query: messages.Text
    sort: Sort = "score"
    unique: bool = False
    diverse: bool = False
    all: bool = False
    replace: Annotated[bool, Field(description="Overwrite the saved search of that name.")] = False


class RenameRequest(OneSearchRequest):
    """A saved search that gets another name."""

    new_name: SearchName


class SavedSearchAnswer(BaseModel):
    """A saved search."""

    name: str
    query: str
    sort: Sort
    unique: bool
    diverse: bool
    all: bool


class SavedSearchesAnswer(BaseModel):
    """The saved searches of an index, by name."""

    index: str
    index_id: str
    searches: list[SavedSearchAnswer]


class SavedSearches:
    """What the routes work with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def list(self, index: str | None) -> dict[str, Any]:
        """The saved searches of an index; of all together, of searches with one name the first, with the row ids that
        pictures have there."""
        served = self._service.engine.index(index)
        with served.lease() as photos:
            found = [(search, by) for one, by in photos.parts for search in read_searches(one.index, one.manifest)]
            searches = {fold_name(search.name): (search, by) for search, by in reversed(found)}
            told = [
                dataclasses.asdict(search) | {"query": with_rows_raised(search.query, by)}
                for _, (search, by) in sorted(searches.items())
            ]
            return {"index": served.name, "index_id": photos.identity, "searches": told}

    def save(self, asked: SaveRequest) -> dict[str, Any]:
        """Save a search. Raises: SearchExists, InvalidTag, OtherIndex."""
        search = make_search(asked.name, asked.query, asked.sort, asked.unique, asked.diverse, asked.all)

        def save(photos: Collection) -> SavedSearch:
            save_search(photos.index, search, replace=asked.replace)
            return search

        return self._changed(asked, save)

    def rename(self, asked: RenameRequest) -> dict[str, Any]:
        """Give a search another name. Raises: SearchExists, UnknownSearch, InvalidTag, OtherIndex."""
        return self._changed(asked, lambda photos: rename_search(photos.index, asked.name, asked.new_name))

    def remove(self, asked: OneSearchRequest) -> dict[str, Any]:
        """Forget a search, which is the answer. Raises: UnknownSearch, OtherIndex."""
        return self._changed(asked, lambda photos: remove_search(photos.index, asked.name))

    def _changed(self, asked: OneSearchRequest, change: Callable[[Collection], SavedSearch]) -> dict[str, Any]:
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            check_index(photos.identity, served.name, asked.index_id)
            search = change(photos)
        served.reload(wait=True)
        return dataclasses.asdict(search)


def add_saved_routes(app: FastAPI, service: Service) -> None:
    """Add what the page asks of saved searches to `app`."""
    saved = SavedSearches(service)

    @app.get("/v1/searches", tags=["page"], **documented(SavedSearchesAnswer, 404, 422, 503))
    async def searches(index: IndexName = None) -> Response:
        """List the saved searches of an index."""
        return await service.searches.run(lambda: AsciiJSON(saved.list(index)))

    @app.post("/v1/searches", tags=["page"], **documented(SavedSearchAnswer, 400, 404, 409, 413, 422, 503))
    async def save(asked: SaveRequest) -> Response:
        """Save a search in an index, under a name."""
        return await service.exports.run(lambda: AsciiJSON(saved.save(asked)))

    @app.post("/v1/searches/rename", tags=["page"], **documented(SavedSearchAnswer, 400, 404, 409, 413, 422, 503))
    async def rename(asked: RenameRequest) -> Response:
        """Give a saved search another name."""
        return await service.exports.run(lambda: AsciiJSON(saved.rename(asked)))

    @app.post("/v1/searches/remove", tags=["page"], **documented(SavedSearchAnswer, 400, 404, 409, 413, 422, 503))
    async def remove(asked: OneSearchRequest) -> Response:
        """Forget a saved search. It is the answer: saving it again undoes this."""
        return await service.exports.run(lambda: AsciiJSON(saved.remove(asked)))
