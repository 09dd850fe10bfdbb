"""Re-ranking on request: the first hits in the order of how likely a model that writes captions finds the query's text.

Only the order of the first RERANKED changes. Which pictures are hits, their scores, confidence and band stay those of
the search, since these are calibrated and likelihoods are not: they compare pictures for one text, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.errors import InvalidQuery, UnreadablePicture
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.query import Query
from clipsearch.query.crops import read_crop
from clipsearch.records import Hit, Hits

if TYPE_CHECKING:
    from clipsearch.encoder import CaptionWriter, Encoder
    from clipsearch.search.collection import Collection
    from clipsearch.search.order import Order

RERANKED = 50
TIMEOUT_S = 30.0  # to read one picture


@dataclass(frozen=True, slots=True)
class Reranked:
    """Hits after re-ranking: `reranked` of the first were put in order, `unread` could not be read and kept their
    places."""

    hits: Hits
    reranked: int
    unread: int


def text_to_rank_by(query: Query) -> str:
    """The one text of a query. Raises: InvalidQuery where there is none, or more."""
    texts = [term.value for term in query.terms if term.kind == "text" and term.weight > 0]
    if len(texts) != 1 or len(query.terms) != 1:
        raise InvalidQuery("only a query with one text can be reranked: no picture and no + or -. Filters are fine")
    return texts[0]


def reranked(
    photos: Collection, order: Order, encoder: Encoder, captioner: CaptionWriter, k: int, offset: int = 0
) -> Reranked:
    """Hits number offset..offset+k-1 of an order, the first RERANKED of it re-ranked: likelier first, equals as they
    were. Raises: InvalidQuery, and as a search."""
    wish = order.wish
    text = text_to_rank_by(wish.query)
    if wish.sort != "score" or wish.diverse:
        raise InvalidQuery("hits that are sorted by date or path, or varied, cannot be reranked")
    hits = order.window(photos, 0, max(RERANKED, offset + k))
    head = hits[:RERANKED]
    found = dict(_likelihoods(photos, head, encoder, captioner, text))
    ranked = iter(sorted(found, key=lambda at: -found[at]))
    order_of = [next(ranked) if at in found else at for at in range(len(head))]
    likely = [dataclasses.replace(head[at], likelihood=found.get(at)) for at in order_of]
    every = [dataclasses.replace(hit, rank=rank) for rank, hit in enumerate([*likely, *hits[RERANKED:]], 1)]
    shown = Hits(every[offset : offset + k], are_certain=not order.is_uncertain)
    return Reranked(shown, len(found), len(head) - len(found))


def _likelihoods(
    photos: Collection, hits: list[Hit], encoder: Encoder, captioner: CaptionWriter, text: str
) -> Iterator[tuple[int, float]]:
    """Of each hit that can be read, and is what was indexed, its number and how likely the text is there."""
    pixels = {}
    with DecodePool(encoder.preprocessing, timeout_s=TIMEOUT_S) as pool:
        for result in pool.run(_tasks(photos, hits)):
            known = hits[result.key].record.content_hash
            if result.pixels is not None and result.content_hash in (None, known):
                pixels[result.key] = result.pixels
    if pixels:
        keys = sorted(pixels)
        found = captioner.likelihoods(np.stack([pixels[key] for key in keys]), text)
        yield from zip(keys, found.tolist(), strict=True)


def _tasks(photos: Collection, hits: list[Hit]) -> Iterator[DecodeTask]:
    for key, hit in enumerate(hits):
        record = hit.record
        try:
            path = photos.file_of(hit)
        except UnreadablePicture:
            continue
        crop = read_crop(record.view.removeprefix("xywh=")) if record.is_region else None
        yield DecodeTask(key, path, "decode", record.size_bytes, start_s=record.part_at, crop=crop)
