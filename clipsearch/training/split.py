"""Held-out pairs, by the content of the pictures: the same picture is on the same side in every run."""

from __future__ import annotations

import xxhash

from clipsearch.errors import UnreadablePicture
from clipsearch.pairs.reading import Pair, PairSet
from clipsearch.training.settings import InvalidSettings

HELD_OUT_SHARE = 0.1
MOST_HELD_OUT = 2000
FEWEST_PAIRS = 20


def split(pairs: PairSet) -> tuple[PairSet, PairSet]:
    """Split off a tenth of the pairs, at most about 2,000. Raises: InvalidSettings if there are too few."""
    if len(pairs) < FEWEST_PAIRS:
        raise InvalidSettings(
            f"{len(pairs)} pairs are too few to split off a held-out set",
            "Give at least 20, or held-out pairs with --dev PAIRS",
        )
    share = min(HELD_OUT_SHARE, MOST_HELD_OUT / len(pairs))
    places = [_place(pair) for pair in pairs]
    bound = max(share, min(places))
    held = [number for number, place in enumerate(places) if place <= bound]
    kept = [number for number, place in enumerate(places) if place > bound]
    return pairs.subset(kept), pairs.subset(held)


def common_pictures(train: PairSet, dev: PairSet) -> int:
    """How many pictures of `dev` are in `train`, too."""
    known = {_content(pair) for pair in train}
    return sum(_content(pair) in known for pair in dev)


def _place(pair: Pair) -> float:
    """Where a picture's content lies between 0 and 1."""
    return xxhash.xxh3_64_intdigest(_content(pair)) / 2**64


def _content(pair: Pair) -> bytes:
    try:
        sample = pair.source.sample()
    except UnreadablePicture:
        sample = pair.key.encode("utf-8", "surrogatepass")
    return pair.source.size_bytes.to_bytes(8, "little") + sample
