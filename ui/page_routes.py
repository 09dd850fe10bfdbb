"""What the page asks beside the API that programs use: windows of a gallery, the map, exports."""

from __future__ import annotations

import csv
import io
import re
import tempfile
import threading
import unicodedata
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from clipsearch.errors import InvalidQuery, UnreadablePicture
from clipsearch.search.concepts import add_concept
from clipsearch.server import messages
from clipsearch.server.routes import AsciiJSON, IndexName, Service
from clipsearch.ui.picture_map import PictureMap, draw_map

MOST_EXPORTED = 10_000
MOST_ZIPPED = 500
PREVIEW_SIDE = 1024
MAPS_KEPT = 4
CSV_COLUMNS = (
    "path",
    "row_id",
    "width",
    "height",
    "size_bytes",
    "format",
    "taken_at",
    "camera",
    "latitude",
    "longitude",
)


Id = Annotated[int, Field(ge=0, lt=2**63)]


class ExportRequest(BaseModel):
    """Pictures to export, as a table or as re-encoded previews."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_EXPORTED)]
    form: Literal["csv", "zip"]
    index: messages.IndexName = None


class ConceptRequest(BaseModel):
    """A concept to save: example pictures and counter-examples."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    like: Annotated[list[Id], Field(min_length=1, max_length=1000)]
    unlike: Annotated[list[Id], Field(max_length=1000)] = []
    index: messages.IndexName = None


class PageService:
    """What the page's routes work with. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._maps: OrderedDict[tuple[str, int], PictureMap] = OrderedDict()
        self._drawing = threading.Lock()

    def map(self, index: str | None) -> dict[str, Any]:
        """Where the pictures of an index are on its map: places in 1/10,000 of its side."""
        served = self._service.engine.index(index)
        with served.lease() as photos, self._drawing:
            key = (served.name, photos.manifest.generation)
            if key not in self._maps:
                self._maps[key] = draw_map(photos)
                while len(self._maps) > MAPS_KEPT:
                    self._maps.popitem(last=False)
            drawn = self._maps[key]
        x, y = np.round(drawn.places.T * 10_000).astype(int).tolist() if len(drawn.ids) else ([], [])
        return {"index": served.name, "total": drawn.total, "ids": drawn.ids.tolist(), "x": x, "y": y}

    def keep_concept(self, asked: ConceptRequest) -> dict[str, Any]:
        """Learn a concept and keep it in the index under a name. Raises: InvalidQuery, IndexLocked."""
        served = self._service.engine.index(asked.index)
        with served.lease() as photos:
            concept = add_concept(photos, asked.name, asked.like, asked.unlike)
        served.reload(wait=True)
        return {"index": served.name, "name": concept.name}

    def table(self, asked: ExportRequest) -> bytes:
        """What is known of pictures, as CSV. Raises: NoSuchPicture."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(CSV_COLUMNS)
        for row_id in asked.ids:
            known = self._service.picture(row_id, asked.index)
            writer.writerow([_cell(known[column]) for column in CSV_COLUMNS])
        return text.getvalue().encode("utf-8", "replace")

    def previews(self, asked: ExportRequest) -> IO[bytes]:
        """A ZIP archive of re-encoded pictures without metadata, open at its start.

        A picture that cannot be read any more is named in `left-out.txt`. Raises: NoSuchPicture, InvalidQuery.
        """
        if len(asked.ids) > MOST_ZIPPED:
            raise InvalidQuery(
                f"{len(asked.ids):,} pictures are too many for one archive. Select at most {MOST_ZIPPED}"
            )
        file = tempfile.TemporaryFile(prefix="clipsearch-")  # noqa: SIM115  the answer reads and closes it
        left_out = []
        try:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for number, row_id in enumerate(asked.ids, 1):
                    name = self._service.picture(row_id, asked.index)["name"]
                    try:
                        jpeg, _ = self._service.thumbnail(row_id, asked.index, PREVIEW_SIDE)
                    except UnreadablePicture as error:
                        left_out.append(f"{_plain(name)}: {_plain(error.reason)}")
                        continue
                    archive.writestr(f"{number:04d}-{_stem(name)}.jpg", jpeg)
                if left_out:
                    archive.writestr("left-out.txt", "\n".join(left_out) + "\n")
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file


def _cell(value: Any) -> Any:
    """A value of the table. Texts that a spreadsheet would run as a formula are kept from it by an apostrophe."""
    if isinstance(value, str):
        value = _plain(value)
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return value


def _plain(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding can write."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _stem(name: str) -> str:
    """A file name that is safe in any archive, from the name of a picture."""
    stem = _plain(name).rpartition("/")[2].rpartition(".")[0] or "picture"
    plain = re.sub(r"[^\w .,()+-]", "_", unicodedata.normalize("NFC", stem))
    return plain.strip(" .")[:80] or "picture"


def add_page_routes(app: FastAPI, service: Service) -> None:
    """Add what the page asks to `app`."""
    page = PageService(service)

    @app.post("/v1/gallery", tags=["page"])
    async def gallery(asked: messages.SearchRequest) -> Response:
        """Same as `/v1/search`."""
        return AsciiJSON(await service.searches.run(lambda: service.search(asked)))

    @app.post("/v1/concepts", tags=["page"])
    async def concepts(asked: ConceptRequest) -> Response:
        """Save what example pictures have in common as a concept, for `tag:NAME` and `like:NAME`."""
        return AsciiJSON(await service.uploads.run(lambda: page.keep_concept(asked)))

    @app.get("/v1/map", tags=["page"])
    async def picture_map(index: IndexName = None) -> Response:
        """Get the positions of pictures on the map of an index. Similar pictures lie near each other."""
        return AsciiJSON(await service.uploads.run(lambda: page.map(index)))

    @app.post("/v1/export", tags=["page"])
    async def export(asked: ExportRequest) -> Response:
        """Export a table of pictures, or an archive of re-encoded previews. Originals are never sent."""
        if asked.form == "csv":
            table = await service.searches.run(lambda: page.table(asked))
            return Response(table, media_type="text/csv; charset=utf-8", headers=_attachment("clipsearch.csv"))
        archive = await service.uploads.run(lambda: page.previews(asked))
        return StreamingResponse(_blocks(archive), media_type="application/zip", headers=_attachment("clipsearch.zip"))


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(1 << 20):
            yield block
