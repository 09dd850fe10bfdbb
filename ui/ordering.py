"""Whole indexes in the order of a question, a window at a time: what a gallery of any length is made of.

An order is kept as row ids and scores, so that the next window of it costs the look-up of its rows only. The best
`HEAD` are found first; the rest, exactly, when somebody scrolls there.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from clipsearch.query.nodes import Filter
from clipsearch.records import FloatArray, Hit, IntArray
from clipsearch.search.collection import Collection
from clipsearch.search.confidence import QueryKind
from clipsearch.search.variety import diversify, quality

HEAD = 1000
FOLDED_AMONG = 300
SORTED_AMONG = 200
DIVERSITY = 0.5
DEEPEST = 1_000_000
ORDERS_KEPT = 16


@dataclass(frozen=True, slots=True)
class Wish:
    """What makes an order. `vector`: what to compare with, shape (D,) float32, unit L2; None lists the newest first."""

    vector: FloatArray | None
    selection: Filter | None
    sort: str = "score"
    unique: bool = False
    diverse: bool = False
    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    kind: QueryKind = "text"  # what `vector` is of
    cut: bool = False  # leave out what is unlikely


@dataclass(slots=True)
class Order:
    """Row ids and scores, best first. Shapes: (N,) int64, (N,) float32. `others`: row ids folded into a row."""

    ids: IntArray
    scores: FloatArray
    total: int
    hidden: int = 0  # how many unlikely ones are left out of it
    vector: FloatArray | None = None
    selection: IntArray | None = None
    kind: QueryKind = "text"
    best: float | None = None  # the highest score, wherever the order puts it
    others: dict[int, list[int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def window(self, photos: Collection, offset: int, count: int) -> list[Hit]:
        """Hits number offset..offset+count-1, those folded into them beside them."""
        if offset + count > len(self.ids) and len(self.ids) < self.total:
            self.extend(photos)
        part = slice(offset, offset + count)
        hits = photos.hits(self.scores[part], self.ids[part])
        if self.vector is not None:
            hits = photos.judge(hits, self.vector, self.kind, self.best)
        return [self._with_others(photos, hit, offset) for hit in hits]

    def _with_others(self, photos: Collection, hit: Hit, offset: int) -> Hit:
        folded = self.others.get(hit.record.row_id, [])
        others = photos.hits(np.full(len(folded), hit.score, np.float32), np.array(folded, np.int64)) if folded else []
        return dataclasses.replace(hit, rank=hit.rank + offset, others=tuple(others))

    def extend(self, photos: Collection) -> None:
        """Find the rest, exactly, and leave out what the first rows stand for."""
        with self.lock:
            if len(self.ids) >= self.total:
                return
            assert self.vector is not None
            depth = min(DEEPEST, len(photos) if self.selection is None else len(self.selection))
            scores, ids = photos.nearest(self.vector[None], depth, exact=True, selection=self.selection)
            known = np.concatenate([self.ids, np.array([i for o in self.others.values() for i in o], np.int64)])
            rest = (ids[0] >= 0) & ~np.isin(ids[0], known)
            self.scores = np.concatenate([self.scores, scores[0][rest]])
            self.ids = np.concatenate([self.ids, ids[0][rest]])
            self.total = len(self.ids)


class Orders:
    """The orders asked for last, by a key that names a question and the generation it was put to."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Order] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str) -> Order | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: str, order: Order) -> Order:
        """Keep an order; what was asked for longest ago is dropped."""
        with self._lock:
            self._kept[key] = order
            while len(self._kept) > ORDERS_KEPT:
                self._kept.popitem(last=False)
        return order


def put_in_order(photos: Collection, wish: Wish) -> Order:
    """Order the pictures of a collection. Raises: UnknownTag, InvalidQuery for an unknown row id."""
    selection = None if wish.selection is None else photos.select(wish.selection)
    vector = photos.refined(wish.vector, list(wish.like), list(wish.unlike))
    if vector is None:
        chosen = photos.row_ids() if selection is None else selection
        ids = _listed(photos, chosen, by_path=wish.sort == "path")
        return Order(ids, np.full(len(ids), np.nan, np.float32), len(ids))
    everything = min(DEEPEST, len(photos) if selection is None else len(selection))
    head = min(HEAD, everything)
    if not head:
        return Order(np.empty(0, np.int64), np.empty(0, np.float32), 0)
    found_scores, found_ids = photos.nearest(vector[None], head, selection=selection)
    found = found_ids[0] >= 0
    order = Order(found_ids[0][found], found_scores[0][found], everything)
    order.vector, order.selection, order.kind = vector, selection, wish.kind
    order.best = float(order.scores[0]) if len(order.scores) else None
    if wish.cut:
        _leave_out_unlikely(photos, order)
    if wish.sort != "score":
        among = min(len(order.ids) if wish.cut else SORTED_AMONG, len(order.ids))
        ids, scores = order.ids[:among], order.scores[:among]
        by_row = np.argsort(ids)
        wanted = _listed(photos, ids[by_row], by_path=wish.sort == "path")
        order.ids, order.scores = wanted, scores[by_row][np.searchsorted(ids[by_row], wanted)]
        order.total = among
    if wish.unique or wish.diverse:
        _vary(photos, order, unique=wish.unique, diverse=wish.diverse and wish.sort == "score")
    return order


def _leave_out_unlikely(photos: Collection, order: Order) -> None:
    """Cut an order off where pictures become unlikely: for one query, the confidence rises with the score."""

    if not len(order.ids):
        return
    (any_hit,) = photos.hits(order.scores[:1], order.ids[:1])  # only scores matter here

    def likely_of(scores: FloatArray) -> int:
        assert order.vector is not None
        judged = photos.judge(
            [dataclasses.replace(any_hit, score=float(score)) for score in scores],
            order.vector,
            order.kind,
            order.best,
        )
        return sum(hit.band != "unlikely" for hit in judged)

    def cut() -> int:
        step = max(1, math.isqrt(len(order.scores)))
        start = max(0, likely_of(order.scores[::step]) - 1) * step
        return start + likely_of(order.scores[start : start + step])

    likely = cut()
    if likely == len(order.ids) < order.total:
        order.extend(photos)
        likely = cut()
    order.hidden = order.total - likely
    order.ids, order.scores, order.total = order.ids[:likely], order.scores[:likely], likely


def _vary(photos: Collection, order: Order, *, unique: bool, diverse: bool) -> None:
    """Fold near-duplicates among the first rows, and put different ones first."""
    among = min(FOLDED_AMONG, len(order.ids))
    ids, scores = order.ids[:among], order.scores[:among]
    vectors = photos.vectors(ids)
    keep = np.arange(among)
    if unique:
        nearness = photos.nearness()
        groups = _groups(nearness.project(vectors), nearness.threshold)
        keep = np.array([group[0] for group in groups], np.int64)
        for group in groups:
            if len(group) > 1:
                hits = photos.hits(scores[group], ids[group])
                best = max(hits, key=quality).record.row_id
                ids[group[0]] = best
                order.others[best] = [hit.record.row_id for hit in hits if hit.record.row_id != best]
    if diverse:
        keep = keep[diversify(scores[keep], vectors[keep], len(keep), DIVERSITY)]
    order.ids = np.concatenate([ids[keep], order.ids[among:]])
    order.scores = np.concatenate([scores[keep], order.scores[among:]])
    order.total -= sum(map(len, order.others.values()))


def _groups(vectors: FloatArray, threshold: float) -> list[list[int]]:
    """Numbers of rows, those whose product with the first of their group is `threshold` together. Shape: (N, D)."""
    near = vectors @ vectors.T >= threshold
    alone = (near.sum(axis=1) <= 1).tolist()
    groups: list[list[int]] = []
    taken: set[int] = set()
    for n, is_alone in enumerate(alone):
        if n not in taken:
            others = [] if is_alone else [m for m in np.flatnonzero(near[n, n + 1 :]) + n + 1 if m not in taken]
            groups.append([n, *map(int, others)])
            taken.update(groups[-1])
    return groups


def _listed(photos: Collection, chosen: IntArray, *, by_path: bool) -> IntArray:
    """Row ids by date, the newest first, or by path. Shape: (S,) int64, ascending."""
    found, dates, paths = [np.empty(0, np.int64)], [np.empty(0, np.int64)], list[tuple[str, str]]()
    for columns in photos.columns():
        at = np.flatnonzero(np.isin(columns.row_ids, chosen, assume_unique=True))
        found.append(columns.row_ids[at])
        dates.append(columns.dates_us[at])
        if by_path:
            folders, codes, names = columns.texts("folder"), columns.codes("folder"), columns.names
            paths += [(folders[codes[n]], names[n]) for n in at]
    ids = np.concatenate(found)
    if by_path:
        return ids[np.array(sorted(range(len(ids)), key=paths.__getitem__), np.int64)]
    return ids[np.argsort(-np.concatenate(dates), kind="stable")]
