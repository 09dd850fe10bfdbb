"""Hits as HTML for notebooks: small copies of the pictures within the page, encoded anew, without metadata."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from clipsearch.checksums import file_checksum
from clipsearch.errors import ClipsearchError, UnreadablePicture
from clipsearch.filenames import readable
from clipsearch.pictures.images import open_picture
from clipsearch.places import is_file, is_unchanged
from clipsearch.records import NOTHING_CERTAIN, Hit, Hits, ImageRecord

MOST_SHOWN = 20
SIDE = 200  # pixels of the longer side
MAX_PIXELS = 2**26  # 256 MB: a notebook shows pictures in its own process
_QUALITY = 80
_CARD = "display:inline-block;width:200px;margin:4px;vertical-align:top;font:12px sans-serif;overflow-wrap:anywhere"
_BOX = "display:flex;align-items:center;justify-content:center;width:200px;height:150px;background:#ccc;color:#333"


def as_html(hits: Hits, thumbnail: Callable[[Hit], bytes] | None = None) -> str:
    """The first MOST_SHOWN hits, each with its name, score and band; a grey box where a picture cannot be shown.

    `thumbnail` gives the JPEG of a hit, where paths are those of another machine.
    """
    cards = "".join(_card(hit, thumbnail) for hit in hits[:MOST_SHOWN])
    more = len(hits) - MOST_SHOWN
    said = "no hits" if not hits else f"and {more:,} more" if more > 0 else ""
    above = "" if hits.are_certain or not hits else f"<p>{NOTHING_CERTAIN}</p>"
    return f"{above}<div>{cards}</div>" + (f"<p>{said}</p>" if said else "")


def _card(hit: Hit, thumbnail: Callable[[Hit], bytes] | None) -> str:
    name = html.escape(_shown(hit.record.where(hit.record.path)))
    jpeg = small_copy(hit, thumbnail)
    if jpeg is None:
        picture = f'<div style="{_BOX}">{name}</div>'
    else:
        data = base64.b64encode(jpeg).decode("ascii")
        picture = f'<img alt="{name}" src="data:image/jpeg;base64,{data}" style="max-width:200px;max-height:200px">'
    score = "" if math.isnan(hit.score) else f" {hit.score:.3f}"
    band = "" if hit.band is None else f" {hit.band}"
    title = html.escape(_shown(hit.path))
    return f'<div style="{_CARD}" title="{title}">{picture}<div>{hit.rank}.{score}{band}<br>{name}</div></div>'


def small_copy(hit: Hit, thumbnail: Callable[[Hit], bytes] | None = None, longest: int = SIDE) -> bytes | None:
    """A small copy of a hit's picture as a JPEG; None where there is none, or its file is another now."""
    with suppress(ClipsearchError, OSError, ValueError, RuntimeError):  # the last: a connection that was closed
        if thumbnail is not None:
            return thumbnail(hit)
        if is_as_indexed(hit.path, hit.record):
            return thumbnail_of(hit.path, hit.path, longest, hit.record.part_at or 0.0)
    return None


def is_as_indexed(path: str, record: ImageRecord) -> bool:
    """Whether the file at `path` is there, and as a record says: of that size and time, or of that content."""
    if not is_file(path):
        return False
    if is_unchanged(path, record.size_bytes, record.mtime_ns):
        return True
    file = Path(path)
    if record.content_hash is None or file.stat().st_size != record.size_bytes:
        return False
    return file_checksum(file, remember_from_bytes=record.size_bytes + 1) == record.content_hash


def thumbnail_of(path: str, name: str, longest: int, time_s: float = 0.0) -> bytes:
    """A small copy of the picture at `path` as a JPEG, without metadata; of a video, what it shows at a moment; of a
    document, a page.

    Raises: UnreadablePicture, of `name`.
    """
    file = io.BytesIO()
    try:
        open_picture(path, longest=longest, max_pixels=MAX_PIXELS, time_s=time_s).save(file, "JPEG", quality=_QUALITY)
    except UnreadablePicture as error:
        raise UnreadablePicture(name, error.status, error.reason) from None
    return file.getvalue()


def _shown(name: str) -> str:
    """A name without what is no letter: bytes that are not UTF-8, and characters that control a terminal or a line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in readable(name))
