"""Held-out pairs, by the content of the pictures: the same picture is on the same side in every run.

Of few pairs none are set aside: each is held out once, in turns (see `folds`).
"""

from __future__ import annotations

import numpy as np
import xxhash

from clipsearch.errors import UnreadablePicture
from clipsearch.pairs.reading import Pair, PairSet
from clipsearch.records import IntArray
from clipsearch.training.settings import InvalidSettings

HELD_OUT_SHARE = 0.1
MOST_HELD_OUT = 2000
LEAST_HELD_OUT = 30  # a third of them in the first ten by chance; of ten, all
FEWEST_PAIRS = 10
FEWEST_TO_SPLIT = 2 * LEAST_HELD_OUT  # of fewer, thirty held out would leave less than half to learn from
FOLDS = 5


def takes_turns(pairs: PairSet) -> bool:
    """Whether so few pairs are held out in turns."""
    return FEWEST_PAIRS <= len(pairs) < FEWEST_TO_SPLIT


def fold_numbers(pairs: PairSet) -> IntArray:
    """For each pair the turn in which it is held out, 0 to 4; pairs with the same picture in the same one. Shape: (N,).

    Raises: InvalidSettings if there are too few different pictures.
    """
    places = np.fromiter(map(_place, pairs), np.uint64, len(pairs))
    different, inverse = np.unique(places, return_inverse=True)
    if len(different) < FEWEST_PAIRS:
        raise InvalidSettings(
            f"the {len(pairs)} pairs have {len(different)} different pictures, too few to hold some of them out",
            f"Give at least {FEWEST_PAIRS}, or held-out pairs with --dev PAIRS",
        )
    found: IntArray = inverse % FOLDS
    return found


def held_out_count(pairs: int) -> int:
    """A tenth, at least 30 and at most 2,000, and never more than half."""
    return min(max(round(HELD_OUT_SHARE * pairs), LEAST_HELD_OUT), MOST_HELD_OUT, pairs // 2)


def split(pairs: PairSet) -> tuple[PairSet, PairSet]:
    """Split off the pairs whose contents have the smallest hashes. Raises: InvalidSettings if there are too few.

    Pictures with the same content go to the same side, so a few more may be held out than `held_out_count` says.
    """
    if len(pairs) < FEWEST_PAIRS:
        raise InvalidSettings(
            f"{len(pairs)} pairs are too few to split off a held-out set",
            f"Give at least {FEWEST_PAIRS}, or held-out pairs with --dev PAIRS",
        )
    places = [_place(pair) for pair in pairs]
    bound = sorted(places)[held_out_count(len(pairs)) - 1]
    if bound == max(places):  # nearly all are one picture, which goes to the training side
        bound = max((place for place in places if place < bound), default=-1)
    held = [number for number, place in enumerate(places) if place <= bound]
    if not held:
        raise InvalidSettings(
            f"the {len(pairs)} pairs have one picture between them, so none can be held out",
            "Give pairs with different pictures",
        )
    kept = [number for number, place in enumerate(places) if place > bound]
    return pairs.subset(kept), pairs.subset(held)


def common_pictures(train: PairSet, dev: PairSet) -> int:
    """How many pictures of `dev` are in `train`, too."""
    known, others = (np.fromiter(map(_place, pairs), np.uint64, len(pairs)) for pairs in (train, dev))
    return int(np.isin(others, known).sum())


def _place(pair: Pair) -> int:
    """Where a picture's content lies among all possible ones."""
    return xxhash.xxh3_64_intdigest(_content(pair))


def _content(pair: Pair) -> bytes:
    try:
        sample = pair.source.sample()
    except UnreadablePicture:
        sample = pair.key.encode("utf-8", "surrogatepass")
    return pair.source.size_bytes.to_bytes(8, "little") + sample
