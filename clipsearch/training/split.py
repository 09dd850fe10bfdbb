"""Held-out pairs, by the content of the pictures: the same picture is on the same side in every run.

Of few pairs none are set aside: each is held out once, in turns (see `folds`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
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


def takes_turns(pairs: int) -> bool:
    """Whether so few pairs are held out in turns."""
    return FEWEST_PAIRS <= pairs < FEWEST_TO_SPLIT


def counted(readable: npt.NDArray[np.bool_]) -> str:
    """How many pairs there are, and of how many of them the picture can be read. Shape: (N,)."""
    pairs = f"{len(readable):,} pair{'' if len(readable) == 1 else 's'}"
    return pairs if readable.all() else f"{pairs} ({int(readable.sum()):,} with a picture that can be read)"


def fold_numbers(pairs: PairSet) -> IntArray:
    """For each pair the turn in which it is held out, 0 to 4; pairs with the same picture in the same one. Shape: (N,).

    Raises: InvalidSettings if there are too few different pictures.
    """
    different, inverse = np.unique(_places(pairs)[0], axis=0, return_inverse=True)
    if len(different) < FEWEST_PAIRS:
        raise InvalidSettings(
            f"the {len(pairs)} pairs have {len(different)} different pictures, too few to hold some of them out",
            f"Give at least {FEWEST_PAIRS}, or held-out pairs with --dev PAIRS",
        )
    found: IntArray = inverse.reshape(-1) % FOLDS
    return found


def held_out_count(pairs: int) -> int:
    """A tenth, at least 30 and at most 2,000, and never more than half."""
    return min(max(round(HELD_OUT_SHARE * pairs), LEAST_HELD_OUT), MOST_HELD_OUT, pairs // 2)


def split(pairs: PairSet, readable: npt.NDArray[np.bool_] | None = None) -> tuple[PairSet, PairSet]:
    """Split off the pairs whose contents have the smallest hashes. Raises: InvalidSettings if there are too few.

    Pictures with the same content go to the same side, so a few more may be held out than `held_out_count` says.
    `readable`: for each pair whether its picture can be read, without which it is not held out; shape: (N,).
    """
    can = np.ones(len(pairs), dtype=bool) if readable is None else readable
    if can.sum() < FEWEST_PAIRS:
        captions = sum(len(pair.captions) for pair in pairs)
        said = f"{counted(can)} {'is' if len(pairs) == 1 else 'are'}"
        if captions >= FEWEST_PAIRS:  # rows of one picture are one pair
            of = f"{len(pairs)} pictures" if len(pairs) > 1 else "one picture"
            said = f"the {captions:,} captions are of {of}: {said}"
        raise InvalidSettings(
            f"{said} too few to split off a held-out set",
            f"Give at least {FEWEST_PAIRS}, or held-out pairs with --dev PAIRS",
        )
    last = (2**64, 2**64)  # beyond all places of pictures that can be read
    found = zip(_places(pairs)[0].tolist(), can.tolist(), strict=True)
    places: list[tuple[int, int]] = [tuple(place) if is_readable else last for place, is_readable in found]
    bound = sorted(places)[held_out_count(int(can.sum())) - 1]
    if bound == max(
        place for place in places if place < last
    ):  # nearly all are one picture, which goes to the training side
        bound = max((place for place in places if place < bound), default=(-1, -1))
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
    known, others = (Counter(map(tuple, places.tolist())) for places in _places(train, dev))
    return sum(many for place, many in others.items() if place in known)


def _places(*sets: PairSet) -> list[npt.NDArray[np.uint64]]:
    """Where the content of each picture lies among all possible ones: by its size and a sample; where others have the
    same, as uncompressed pictures may, also by all of it. Shape of each: (N, 2)."""
    samples = [np.fromiter(map(_sampled, pairs), np.uint64, len(pairs)) for pairs in sets]
    values, counts = np.unique(np.concatenate(samples), return_counts=True)
    places = []
    for pairs, sampled in zip(sets, samples, strict=True):
        whole = np.zeros(len(pairs), np.uint64)
        for number in np.flatnonzero(np.isin(sampled, values[counts > 1])).tolist():
            whole[number] = _whole(pairs[number])
        places.append(np.stack([sampled, whole], axis=1))
    return places


def _sampled(pair: Pair) -> int:
    try:
        sample = pair.source.sample()
    except UnreadablePicture:
        sample = _nothing_else(pair)
    return xxhash.xxh3_64_intdigest(pair.source.size_bytes.to_bytes(8, "little") + sample)


def _whole(pair: Pair) -> int:
    try:
        return xxhash.xxh3_64_intdigest(pair.read())
    except UnreadablePicture:
        return xxhash.xxh3_64_intdigest(_nothing_else(pair))


def _nothing_else(pair: Pair) -> bytes:
    return pair.key.encode("utf-8", "surrogatepass")
