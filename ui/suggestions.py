"""What the search box suggests while somebody types: see `search.suggest`. Recent searches stay in the browser."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from clipsearch.search.collection import Collection
from clipsearch.search.suggest import MOST_READ, MOST_SUGGESTED, Vocabulary, suggest
from clipsearch.server import messages
from clipsearch.server.routes import AsciiJSON, Service, documented

VOCABULARIES_KEPT = 4


class SuggestRequest(messages.Request):
    """The word of a query that is being written."""

    word: Annotated[str, Field(max_length=MOST_READ, description="The word as typed so far, such as `folder:tri`.")]
    most: Annotated[int, Field(ge=1, le=50, description="Number of suggestions.")] = MOST_SUGGESTED
    index: messages.IndexName = None


class SuggestionAnswer(BaseModel):
    """A field, or a field with a value; `count`: how many pictures have it, null if nobody counted."""

    field: str
    value: str
    label: str
    count: int | None


class SuggestionsAnswer(BaseModel):
    """What the word could become, the most fitting first."""

    index: str
    index_id: str
    suggestions: list[SuggestionAnswer]


class Suggestions:
    """What the route works with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: OrderedDict[tuple[object, ...], Vocabulary] = OrderedDict()
        self._counting = threading.Lock()

    def suggest(self, asked: SuggestRequest) -> dict[str, Any]:
        """What a word could become; see `SuggestionsAnswer`."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            found = suggest(photos, self._vocabulary(served.name, photos), asked.word, most=asked.most)
            told = [dataclasses.asdict(one) for one in found]
            return {"index": served.name, "index_id": photos.identity, "suggestions": told}

    def _vocabulary(self, name: str, photos: Collection) -> Vocabulary:
        key = (name, photos.identity, photos.manifest.generation, photos.manifest.created_at)
        with self._counting:
            if key not in self._known:
                self._known[key] = Vocabulary(photos)
                while len(self._known) > VOCABULARIES_KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


def add_suggestion_routes(app: FastAPI, service: Service) -> None:
    """Add what the search box asks to `app`."""
    suggestions = Suggestions(service)

    @app.post("/v1/suggest", tags=["page"], **documented(SuggestionsAnswer, 404, 413, 422, 503))
    async def suggested(asked: SuggestRequest) -> Response:
        """Suggest fields and values for the word of a query that is being written."""
        return await service.searches.run(lambda: AsciiJSON(suggestions.suggest(asked)))
