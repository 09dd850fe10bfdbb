"""What the address of a picture carries."""

from __future__ import annotations

import numpy as np

from clipsearch.records import IntArray
from clipsearch.search.collection import Collection


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
