"""Where a picture is in an order, and what its address carries."""

from __future__ import annotations

import numpy as np

from clipsearch.records import IntArray
from clipsearch.search.collection import Collection
from clipsearch.ui.ordering import Order


def position_of(order: Order, photos: Collection, row_id: int) -> int | None:
    """At which place of an order, from 0, a picture is, or the one that it is folded into; None: it is not among them.

    An order whose rest was not looked for yet is completed if need be.
    """
    row_id = next((best for best, others in order.others.items() if row_id in others), row_id)
    while True:
        known = len(order.ids)
        found = np.flatnonzero(order.ids == row_id)
        if len(found):
            return int(found[0])
        if known >= order.total:
            return None
        order.extend(photos)
        if len(order.ids) == known:
            return None


def contents_of(photos: Collection, row_ids: IntArray, digits: int) -> list[str | None]:
    """The first digits of the content hash of each picture; None where it is not known. Shape of row_ids: (N,)."""
    found: dict[int, str] = {}
    for columns in photos.columns():
        at = np.flatnonzero(np.isin(columns.row_ids, row_ids))
        hashes = columns.hashes[at].astype("<i8").tobytes().hex()
        found.update(
            (row_id, hashes[32 * n : 32 * n + digits]) for n, row_id in enumerate(columns.row_ids[at].tolist())
        )
    unknown = "0" * digits
    return [None if found.get(row_id, unknown) == unknown else found[row_id] for row_id in row_ids.tolist()]
