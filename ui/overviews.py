"""Overviews of the hits of a question, for the page: by month, by facet, on a map of likeness, on one of the Earth."""

from __future__ import annotations

import base64
import dataclasses
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import numpy as np
import xxhash
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from clipsearch import gazetteer
from clipsearch.archives import file_of
from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.formats import HEAD_BYTES, identify
from clipsearch.pictures.metadata.exposure import Exposure, read_exposure
from clipsearch.records import ImageRecord, IntArray
from clipsearch.search.collection import Collection
from clipsearch.search.facets import count_facets, timeline
from clipsearch.search.order import DEEPEST
from clipsearch.sentences import told
from clipsearch.server import messages
from clipsearch.server.identity import ADDRESS_DIGITS, Content
from clipsearch.server.routes import AsciiJSON, IndexName, RowId, Service, documented
from clipsearch.ui.earth_map import draw_earth
from clipsearch.ui.picture_map import draw_map
from clipsearch.ui.places import contents_of

MAPS_KEPT = 8
Drawn = TypeVar("Drawn")


class GalleryRequest(messages.SearchRequest):
    """A search, and whether to tell of which months the hits are."""

    timeline: bool = Field(False, description="Also return the months and shapes of all hits, if sorted by date.")

    @property
    def search(self) -> messages.SearchRequest:
        """The same without what only the page asks."""
        return messages.SearchRequest(**self.model_dump(exclude={"timeline"}))


class TimelineAnswer(BaseModel):
    """Hits by month, the newest first, and the shape of each, in base64: see `search.facets.shape_codes`."""

    months: list[tuple[str, int]]
    shapes: str


class GalleryAnswer(messages.SearchAnswer):
    """Hits, with the months of all of them if they are sorted by date and this was asked for."""

    timeline: TimelineAnswer | None = None
    sentences: list[messages.Sentence | None] = Field([], description="The notices by codes, for other languages.")


class FacetAnswer(BaseModel):
    """A value, how many hits have it, and the filters (field, value) that keep them."""

    label: str
    count: int
    filters: list[tuple[str, str]]


class FacetsAnswer(BaseModel):
    """The most frequent values among the hits, by field."""

    index: str
    index_id: str
    total: int
    facets: dict[str, list[FacetAnswer]]


class LabelAnswer(BaseModel):
    """What a group of pictures shows: a word at a place, at a level of detail."""

    text: str
    x: float
    y: float
    level: int
    pictures: int


class MapAnswer(BaseModel):
    """Positions of the hits, in 1/10,000 of the side of the map; those of labels from 0 to 1."""

    index: str
    total: int
    ids: list[int]
    contents: list[str | None]
    x: list[int]
    y: list[int]
    labels: list[LabelAnswer]


class RegionAnswer(BaseModel):
    """A town, and what the pictures near it show."""

    name: str
    country: str
    shows: str
    people: int
    code: Annotated[str, Field(description="Code of the country, as in ISO 3166-1.")]


class EarthAnswer(BaseModel):
    """Where hits were taken. `within`: the number of each one's region, or -1."""

    index: str
    total: int
    with_place: int
    ids: list[int]
    contents: list[str | None]
    latitudes: list[float]
    longitudes: list[float]
    within: list[int]
    regions: list[RegionAnswer]


class ExposureAnswer(BaseModel):
    """How a picture was taken; null where it is not known, or the file is away or has changed."""

    lens: str | None
    exposure_s: float | None
    aperture: float | None
    iso: int | None
    focal_length_mm: float | None
    focal_length_35mm: float | None
    place: str | None
    country: Annotated[str | None, Field(description="Code of the country of `place`, as in ISO 3166-1.")]


class Overviews:
    """What the routes work with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._maps: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._drawing = threading.Lock()

    def gallery(self, asked: GalleryRequest) -> dict[str, Any]:
        """Hits, with the months and shapes of all if they are asked for and sorted by date."""
        search = asked.search
        if not asked.timeline:
            return self._search(search)
        with self._service.ordered(search) as (_, photos, order):
            shown = None
            if order.is_by_date:
                found = timeline(photos, order.row_ids(photos, 0, DEEPEST))
                shown = {"months": found.months, "shapes": base64.b64encode(found.shapes.tobytes()).decode("ascii")}
        return {**self._search(search), "timeline": shown}

    def _search(self, asked: messages.SearchRequest) -> dict[str, Any]:
        answer = self._service.search(asked)
        return {**answer, "sentences": [told(notice) for notice in answer["notices"]]}

    def facets(self, asked: messages.SearchRequest) -> dict[str, Any]:
        """How many hits there are of each value."""
        with self._service.ordered(asked) as (served, photos, order):
            ids = order.members(photos)
            found = count_facets(photos, ids)
            facets = {field: [dataclasses.asdict(value) for value in values] for field, values in found.items()}
            return {"index": served.name, "index_id": photos.identity, "total": len(ids), "facets": facets}

    def map(self, asked: messages.SearchRequest) -> dict[str, Any]:
        """Where the hits are on a map of likeness: places in 1/10,000 of its side."""
        with self._service.ordered(asked) as (served, photos, order):
            ids = order.members(photos)
            drawn = self._drawn(draw_map, served.name, photos.identity, photos, ids)
            contents = contents_of(photos, drawn.ids, ADDRESS_DIGITS)
        x, y = np.round(drawn.places.T * 10_000).astype(int).tolist() if len(drawn.ids) else ([], [])
        return {
            "index": served.name,
            "total": len(ids),
            "ids": drawn.ids.tolist(),
            "contents": contents,
            "x": x,
            "y": y,
            "labels": [label._asdict() for label in drawn.labels],
        }

    def earth(self, asked: messages.SearchRequest) -> dict[str, Any]:
        """Where the hits were taken that say so, and what the towns are called that they are near to."""
        with self._service.ordered(asked) as (served, photos, order):
            ids = order.members(photos)
            drawn = self._drawn(draw_earth, served.name, photos.identity, photos, ids)
            contents = contents_of(photos, drawn.ids, ADDRESS_DIGITS)
        north, east = np.round(drawn.degrees.T, 5).tolist() if len(drawn.ids) else ([], [])
        return {
            "index": served.name,
            "total": len(ids),
            "with_place": drawn.total,
            "ids": drawn.ids.tolist(),
            "contents": contents,
            "latitudes": north,
            "longitudes": east,
            "within": drawn.within.tolist(),
            "regions": [region._asdict() for region in drawn.regions],
        }

    def exposure(self, row_id: int, index: str | None, content: str | None) -> dict[str, Any]:
        """How a picture was taken, and the town that it was taken near to. Nothing of a file that has changed since.

        Raises: NoSuchPicture, OtherPicture.
        """
        record, path = self._service._file(row_id, index, content)
        town = _town_of(record)
        place = None if town is None else f"{town.name}, {town.region}"
        return {**_exposure_of(record, path)._asdict(), "place": place, "country": town and town.country}

    def _drawn(
        self, draw: Callable[[Collection, IntArray], Drawn], name: str, identity: str, photos: Collection, ids: IntArray
    ) -> Drawn:
        """A map, drawn once for the same pictures of a generation."""
        which = xxhash.xxh3_128_digest(np.ascontiguousarray(ids).tobytes())
        key = (draw, name, identity, photos.manifest.generation, photos.manifest.created_at, which)
        with self._drawing:
            if key not in self._maps:
                self._maps[key] = draw(photos, ids)
                while len(self._maps) > MAPS_KEPT:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(key)
            drawn: Drawn = self._maps[key]
            return drawn


def _exposure_of(record: ImageRecord, path: str) -> Exposure:
    try:
        path = file_of(path, record)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError, UnreadablePicture):
        return Exposure()
    status = os.fstat(descriptor)
    seen = bool(record.member) or (status.st_size, status.st_mtime_ns) == (record.size_bytes, record.mtime_ns)
    if not seen or not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return Exposure()
    with os.fdopen(descriptor, "rb") as file:
        kind = identify(file.read(HEAD_BYTES), record.place)
        return Exposure() if kind is None else read_exposure(file, kind)


def _town_of(record: ImageRecord) -> gazetteer.Town | None:
    latitude, longitude = record.metadata.latitude, record.metadata.longitude
    if latitude is None or longitude is None or not gazetteer.is_installed():
        return None
    _, towns = gazetteer.towns_near(np.array([latitude]), np.array([longitude]))
    return towns[0] if towns else None


def add_overview_routes(app: FastAPI, service: Service) -> None:
    """Add the overviews to `app`."""
    overviews = Overviews(service)

    @app.post("/v1/gallery", tags=["page"], **documented(GalleryAnswer, 400, 404, 409, 413, 422, 503))
    async def gallery(asked: GalleryRequest) -> Response:
        """Same as `/v1/search`, with `timeline`: the number of hits in each month, and the shape of each hit."""
        return await service.searches.run(lambda: AsciiJSON(overviews.gallery(asked)))

    @app.post("/v1/gallery/facets", tags=["page"], **documented(FacetsAnswer, 400, 404, 409, 413, 422, 503))
    async def facets(asked: messages.SearchRequest) -> Response:
        """Count the hits of each year, folder, camera, type and tag, with the filters that keep them."""
        return await service.searches.run(lambda: AsciiJSON(overviews.facets(asked)))

    @app.post("/v1/gallery/map", tags=["page"], **documented(MapAnswer, 400, 404, 409, 413, 422, 503))
    async def picture_map(asked: messages.SearchRequest) -> Response:
        """Get the positions of the hits on a map. Similar pictures lie near each other; labels say what they show."""
        return await service.exports.run(lambda: AsciiJSON(overviews.map(asked)))

    @app.post("/v1/gallery/earth", tags=["page"], **documented(EarthAnswer, 400, 404, 409, 413, 422, 503))
    async def earth_map(asked: messages.SearchRequest) -> Response:
        """Get where the hits were taken that have coordinates, and the names of the nearest towns."""
        return await service.exports.run(lambda: AsciiJSON(overviews.earth(asked)))

    @app.get("/v1/images/{id}/exposure", tags=["page"], **documented(ExposureAnswer, 404, 409, 422, 503))
    async def exposure(id: RowId, index: IndexName = None, content: Content = None) -> Response:
        """Get how a picture was taken (lens, exposure, aperture, ISO, focal length) and the nearest town."""
        return await service.pictures.run(lambda: AsciiJSON(overviews.exposure(id, index, content)))
