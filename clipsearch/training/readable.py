"""Which pictures can be read, before anything is decided by how many pairs there are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from clipsearch.cores import available_cores
from clipsearch.errors import UnreadablePicture
from clipsearch.pairs.reading import Pair, PairSet
from clipsearch.records import Preprocessing
from clipsearch.training.sameness import same_pictures
from clipsearch.training.settings import SEE_WHY, NothingToLearn
from clipsearch.training.views import WHOLE, view_of

LOOKED_AT = 300  # pairs; of more, only a thirtieth of those that are held out matters
MOST_UNREADABLE = 0.1  # of those looked at: with more of them, all pairs are
_SMALL = Preprocessing(height=32, width=32, mean=(0, 0, 0), std=(1, 1, 1), resize_mode="squash")


def readable_pairs(pairs: PairSet) -> npt.NDArray[np.bool_]:
    """For each pair whether its picture can be read. Shape: (N,).

    Of many pairs some are looked at, and all only if a tenth of these cannot be read; the others count as readable.
    """
    found = np.ones(len(pairs), dtype=bool)
    places = np.arange(0, len(pairs), max(1, len(pairs) // LOOKED_AT))
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="decode") as pool:
        found[places] = list(pool.map(lambda number: can_be_read(pairs[number]), places.tolist()))
        if len(places) < len(pairs) and not found[places].mean() > 1 - MOST_UNREADABLE:
            found[:] = list(pool.map(can_be_read, pairs))
    return found


def check_some_readable(pairs: PairSet, name: str) -> None:
    """Raise NothingToLearn if no picture of a set can be read. `name`: what the set is called."""
    if not any(map(can_be_read, pairs)):
        raise NothingToLearn(f"none of the {len(pairs):,} {name} pictures can be read", SEE_WHY)


def repeated_pictures(pairs: PairSet) -> int:
    """How many pictures that can be read have the same bytes as another one before them."""
    numbers = same_pictures(pairs)
    found = np.flatnonzero(np.bincount(numbers)[numbers] > 1).tolist()
    repeated = [number for number in found if can_be_read(pairs[number])]
    return len(repeated) - len(np.unique(numbers[repeated]))


def can_be_read(pair: Pair) -> bool:
    """Whether a picture can be decoded."""
    try:
        view_of(pair, WHOLE, 0, _SMALL)
    except UnreadablePicture:
        return False
    return True
