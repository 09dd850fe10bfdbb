"""The one ranking: what a question puts an index in order by, whoever asks it.

refine (thumbs), select (filters), nearest (vectors), judge (confidence), cut (what is unlikely), merge (views of one
file into the best of them, the clips of Live Photos into their stills), lift (what has the words of the question in
it), sort (date, path), fold (near-duplicates), vary (hits that differ). The command line, Python, the HTTP API,
assistants and the page all take windows of the order that is made here, so that:

- The first k hits are the first k of any larger number: no step depends on how many are asked for. Folding looks at
  the first FOLDED_AMONG of an order, variety at the first VARIED_AMONG of those.
- What is unlikely is left out, of every kind of question, unless `all` is wished.
- Where all words of a question stand in a few pictures, these come among the first, by turns with the nearest.
- `sort` orders everything that passes the filter and the cut. Equals follow each other by row id.

Only what is asked for is looked for, in STEPS: the nearest 20, 100, ..., then, exactly, all. What approximate search
finds later although it is nearer comes after what was shown before.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipsearch.query import Query
from clipsearch.records import BANDS, Band, FloatArray, Hit, IntArray, Sort, told_confidence
from clipsearch.search.minus import Unwanted, absence, stays, unwanted_of
from clipsearch.search.regions import AT_ONCE, pictures_of, scores_of, with_places
from clipsearch.sentences import sentence
from clipsearch.timing import lap
from clipsearch.vectors import directed, empty_result

if TYPE_CHECKING:
    from clipsearch.query.nodes import Filter
    from clipsearch.search.collection import Collection
    from clipsearch.search.confidence import Bands, DoubleArray, QueryKind
    from clipsearch.search.minus import VectorOf

STEPS = (20, 100, 500, 1000)
FIRST, LAST_STEP = STEPS[0], STEPS[-1]
NEAREST = 10  # shown where nothing passes the cut
FOLDED_AMONG = 1000
VARIED_AMONG = 300
DIVERSITY = 0.5
DEEPEST = 1_000_000
ORDERS_KEPT = 16
TOGETHER = 64  # questions in one pass over the vectors: 64 MB of scores
FOUND_AT_ONCE = 4_000_000  # of all of them: 48 MB
ROWS_A_PICTURE = 5  # in an index with regions


@dataclass(frozen=True, slots=True)
class Wish:
    """A question. `vector`, shape (D,), is added to the query's terms; without both, everything is listed.

    `diverse` is 0 (as near to the question as can be) to 1 (as far from each other).
    """

    query: Query
    vector: FloatArray | None = None
    sort: Sort = "score"
    unique: bool = False
    diverse: float = 0.0
    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    all: bool = False
    min_confidence: float | None = None  # the cut, if it is not that of the bands
    each: bool = False  # views of one file (shots of a video) are hits of their own

    @property
    def kind(self) -> QueryKind:
        """What confidence is judged by: "text" if words alone are asked for, else "picture"."""
        of_pictures = self.vector is not None or self.like
        return "text" if self.query.terms and not of_pictures and asks_in_words(self.query) else "picture"

    @property
    def cuts(self) -> bool:
        """Whether what is unlikely is left out: not of a list, where a concept's own threshold has decided, or where
        thumbs down alone say what comes last."""
        return not self.all and bool(self.query.terms or self.vector is not None or self.like)

    @property
    def means_words(self) -> bool:
        """Whether pictures count in which the words of the question stand: of text alone, unless a confidence is asked
        for, which words have none of."""
        return self.kind == "text" and self.min_confidence is None

    @property
    def without_thumbs(self) -> Wish:
        """What is asked for, nearest first, without what pictures have been judged since."""
        return replace(self, sort="score", unique=False, diverse=0.0, like=(), unlike=())


def asks_in_words(query: Query) -> bool:
    """Whether all that a query asks for, and does not take away, is text."""
    return all(term.kind == "text" for term in query.terms if term.weight > 0)


def _written(part: Filter, source: str) -> str:
    """A part of a filter as the query has it."""
    from clipsearch.query.nodes import Not, leaves_of

    leaves = leaves_of(part)
    said = source[min(leaf.span.start for leaf in leaves) : max(leaf.span.end for leaf in leaves)]
    return f"not {said}" if isinstance(part, Not) else said


@dataclass(slots=True)
class Order:
    """What is known of an order so far. Safe to use from many threads; ask each time with the same generation."""

    wish: Wish
    vector: FloatArray | None  # what was compared with; None in a list
    selection: IntArray | None  # row ids that pass the filter, ascending; None without a filter
    everything: int  # how many rows pass the filter
    pictures: int  # and how many pictures they are of; with `each` the same
    by_regions: bool = False  # pictures score with their regions, which are no hits
    searched: IntArray | None = None  # `selection`, with the regions of its pictures
    ids: IntArray = field(default_factory=lambda: np.empty(0, np.int64))  # the beginning of the order
    scores: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))  # theirs; NaN until it is asked for
    asked: Order | None = None  # that of the question alone, where thumbs have moved it
    unwanted: tuple[Unwanted, ...] = ()  # what the question takes away
    rest: Order | None = None  # that of the rest of it; None where there is none, or nothing is taken away
    written: IntArray = field(default_factory=lambda: np.empty(0, np.int64))  # rows with its words in them, best first
    is_whole: bool = False  # whether `ids` is all of it
    folded: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # row ids, scores folded into a row
    lent: dict[int, float] = field(default_factory=dict)  # to stills of Live Photos: the score of their clip
    _lenders: dict[int, int] = field(default_factory=dict)  # and the row that has it
    _found: IntArray = field(default_factory=lambda: np.empty(0, np.int64))  # nearest first, what passes the cut
    _found_scores: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    _depth: int = 0  # how many of the nearest were looked at
    _is_cut: bool = False  # nothing after `_found` passes
    is_uncertain: bool = False  # nothing passes: `_found` is the nearest all the same
    _best: float | None = None  # the score of the nearest of all
    _apart: dict[int, tuple[float, Band]] = field(default_factory=dict)  # of what passes, where something is taken away
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- what is asked

    def window(self, photos: Collection, offset: int, count: int) -> list[Hit]:
        """Hits number offset..offset+count-1, with confidence, and those folded into them."""
        with self._lock:
            self._reach(photos, offset + count)
            ids, scores = self.ids[offset : offset + count], self.scores[offset : offset + count].copy()
        hits = self._looked_up(photos, ids, scores)
        hits = [self._with_others(photos, replace(hit, rank=hit.rank + offset)) for hit in hits]
        hits = self._with_clips(photos, hits)
        return self._with_words(photos, hits)

    def count(self, photos: Collection) -> tuple[int, int]:
        """How many hits there are in all, and how many are hidden because they are unlikely."""
        with self._lock:
            if self.vector is None or not self.wish.cuts:
                self._reach(photos, 1)  # what is folded
                everything = self.pictures if self.vector is None else min(DEEPEST, self.pictures)
                return len(self.ids) if self.is_whole else everything - self._spare, 0
            self._reach(photos, 1)
            self._find_the_cut(photos)
            found = len(self._found) + int((~np.isin(self.written, self._found)).sum())
            return found - self._spare, self.pictures - found

    def why_empty(self, photos: Collection) -> str:
        """Why there are no hits, or none at an offset."""
        found, hidden = self.count(photos)
        if found:
            return sentence("hits_in_all", "there are {n:,} hits in all", one="there is one hit in all", n=found)
        if hidden:  # where the cut is that of the bands, the nearest are hits
            return sentence(
                "less_confident",
                "{n:,} pictures match with a lower confidence than {least:g}",
                one="one picture matches with a lower confidence than {least:g}",
                n=hidden,
                least=self.wish.min_confidence,
            )
        if self.wish.query.filter is None or not len(photos):
            return sentence("no_pictures", "the index has no searchable pictures")
        from clipsearch.query.nodes import AllOf

        expression, source = self.wish.query.filter, self.wish.query.source
        parts = expression.parts if isinstance(expression, AllOf) else (expression,)
        written = [_written(part, source) for part in parts]
        if len(parts) == 1:
            return sentence("none_matches", "no picture matches {what}", what=written[0])
        alone = [said for part, said in zip(parts, written, strict=True) if not len(photos.select(part))]
        if alone:
            return sentence("none_matches", "no picture matches {what}", what=alone[0])
        return sentence("none_matches_all", "no picture matches all of {what}", what=", ".join(written))

    def row_ids(self, photos: Collection, offset: int, count: int) -> IntArray:
        """Those of the same window, without a look at their rows. Shape: (count,) or less, int64."""
        with self._lock:
            self._reach(photos, offset + count)
            return self.ids[offset : offset + count]

    def members(self, photos: Collection) -> IntArray:
        """Row ids of all hits, without those folded into others. Shape: (N,) int64, ascending."""
        with self._lock:
            self._reach(photos, 1)
            if self.vector is None or not self.wish.cuts:
                ids = self._listed(photos)
            else:
                self._find_the_cut(photos)
                ids = np.union1d(self._found, self.written)
            folded = [row_id for others in self.folded.values() for row_id, _ in others]
        return ids[~np.isin(ids, folded)] if folded else ids

    @property
    def is_by_date(self) -> bool:
        """Whether the newest come first: also of a list that nobody asked to sort."""
        return self.wish.sort == "date" or (self.vector is None and self.wish.sort == "score")

    def place_of(self, photos: Collection, row_id: int) -> int | None:
        """At which place, from 0, a picture is, or the one that it is folded into; None if it is not among them."""
        with self._lock:
            wanted = self._pictures_of(photos, np.array([row_id], np.int64))[0]
            while True:
                known = len(self.ids)
                found = np.flatnonzero(self._pictures_of(photos, self.ids) == wanted)
                for best, others in self.folded.items() if not len(found) else ():
                    folded = np.array([other for other, _ in others], np.int64)
                    if (self._pictures_of(photos, folded) == wanted).any():
                        found = np.flatnonzero(self.ids == best)
                if len(found):
                    return int(found[0])
                self._reach(photos, known + 1)
                if len(self.ids) == known:
                    return None

    def confidence_of(self, photos: Collection, row_id: int) -> tuple[float, Band] | None:
        """How likely a picture shows what is asked for, whether it is a hit or not; None in a list."""
        if self.vector is None:
            return None
        hit = self._judged_alone(photos, row_id)
        return None if hit.confidence is None or hit.band is None else (hit.confidence, hit.band)

    def hit_of(self, photos: Collection, row_id: int) -> Hit:
        """A row as hits are shown, whether it is among them or not, or another view of its file is; without those
        folded into it, and with rank 0. Raises: NoSuchPicture."""
        photos.record(row_id)
        (hit,) = self._with_words(photos, [self._judged_alone(photos, row_id)])
        return replace(hit, rank=0)

    def _judged_alone(self, photos: Collection, row_id: int) -> Hit:
        with self._lock:
            self._reach(photos, 1)
        ids = np.array([row_id], np.int64)
        ids = photos.wholes_of(ids) if self.by_regions else ids
        (hit,) = self._looked_up(photos, ids, np.full(1, np.nan, np.float32))
        return hit

    def _looked_up(self, photos: Collection, ids: IntArray, scores: FloatArray) -> list[Hit]:
        """Rows as hits, with confidence. `scores`: NaN where they are not known."""
        if self.vector is not None and np.isnan(scores).any():
            scores = self._scores_of(photos, ids)
        if self.lent:
            least = [self.lent.get(row_id, -math.inf) for row_id in ids.tolist()]
            scores = np.maximum(scores, np.array(least, np.float32))
        hits = photos.hits(scores, ids)
        lap("look up the rows")
        hits = self._judged(photos, hits)
        lap("judge what is shown")
        return with_places(photos, self.vector, hits) if self.by_regions and self.vector is not None else hits

    @property
    def _spare(self) -> int:
        return sum(map(len, self.folded.values()))

    def _with_others(self, photos: Collection, hit: Hit) -> Hit:
        folded = self.folded.get(hit.record.row_id)
        if not folded:
            return hit
        ids, scores = np.array([i for i, _ in folded], np.int64), np.array([s for _, s in folded], np.float32)
        others = self._looked_up(photos, ids, scores)
        return replace(hit, others=tuple(replace(other, rank=hit.rank) for other in others))

    def _with_clips(self, photos: Collection, hits: Sequence[Hit]) -> list[Hit]:
        """Hits of which the stills of Live Photos have their clip, where that is best."""
        if self.wish.each or not len(photos.live):
            return list(hits)

        def whole(hit: Hit) -> Hit:
            rows = photos.live.clip_of(hit.record.row_id)
            others = tuple(map(whole, hit.others))
            if rows is None:
                return replace(hit, others=others)
            ids = np.arange(rows.start, rows.stop, dtype=np.int64)
            if self.selection is not None and (passing := ids[np.isin(ids, self.selection)]).size:
                ids = passing
            scores = np.full(len(ids), np.nan, np.float32) if self.vector is None else photos.vectors(ids) @ self.vector
            best = [0] if self.vector is None else [int(np.argmax(scores))]
            (clip,) = self._judged(photos, photos.hits(scores[best], ids[best]))
            return replace(hit, others=others, clip=replace(clip, rank=hit.rank))

        return list(map(whole, hits))

    def _with_words(self, photos: Collection, hits: list[Hit]) -> list[Hit]:
        """Hits with the lines in them that the query asks for."""
        manifest, chosen = photos.manifest, self.wish.query.filter
        if not (manifest.words or manifest.captions) or (chosen is None and not len(self.written)):
            return hits
        from clipsearch.search.words import (
            MOST_LINES,
            asked_captions,
            asked_words,
            captions_that_fit,
            lines_with_parts,
            lines_with_words,
            said_words,
        )

        asked = asked_words(chosen) if manifest.words else []
        patterns = asked_captions(chosen) if manifest.captions else []
        written = frozenset(self.written.tolist())
        if not asked and not patterns and not written:
            return hits
        said = said_words(self.wish.query)

        def shown(hit: Hit) -> Hit:
            is_written = hit.record.row_id in written
            if not asked and not patterns and not is_written:
                return hit
            lines = photos.words.lines_of(hit.record) if asked or is_written else []
            found = lines_with_parts(lines, asked) if asked else []
            if patterns:
                found += captions_that_fit(photos.captions.lines_of(hit.record), patterns)
            if is_written:
                found = list(dict.fromkeys([*found, *lines_with_words(lines, said)]))
            return replace(hit, words=tuple(found[:MOST_LINES])) if found else hit

        return [replace(shown(hit), others=tuple(map(shown, hit.others))) for hit in hits]

    @property
    def _judges(self) -> list[Order]:
        """The orders that say what is likely, each what the others do not. A thumb up says what else is right, not that
        the question is wrong; a thumb down is no evidence for any other picture."""
        moved = [self] if self.vector is not None and (self.wish.like or not self.wish.unlike) else []
        return moved if self.asked is None else [*moved, self.asked]

    def _judged(self, photos: Collection, hits: list[Hit]) -> list[Hit]:
        """Hits with confidence and band: the highest that any of the judges gives."""
        row_ids = np.array([hit.record.row_id for hit in hits], np.int64)
        for judge in self._judges if hits else ():
            assert judge.vector is not None
            if judge.unwanted:
                found = judge._judged_apart(photos, row_ids)
                if self._lenders:
                    lenders = np.array([self._lenders.get(row_id, row_id) for row_id in row_ids.tolist()], np.int64)
                    of_clips = judge._judged_apart(photos, lenders)
                    found = [
                        max(own, lent, key=lambda judged: (judged[1] != "unlikely", judged[0]))
                        for own, lent in zip(found, of_clips, strict=True)
                    ]
            else:
                scores = np.array([hit.score for hit in hits], np.float32)
                if judge is not self:
                    scores = judge._scores_of(photos, row_ids)
                    judge._find_best(photos)
                found = judge._confidences(photos, scores)
            hits = [
                replace(
                    hit,
                    confidence=confidence if hit.confidence is None else max(hit.confidence, confidence),
                    band=band if hit.band is None else min(hit.band, band, key=BANDS.index),
                )
                for hit, (confidence, band) in zip(hits, found, strict=True)
            ]
        return hits

    # -- how it is found

    def _scores_of(self, photos: Collection, row_ids: IntArray) -> FloatArray:
        """What rows score. Shapes: (N,) int64, (N,) float32."""
        assert self.vector is not None
        if self.by_regions:
            return scores_of(photos, row_ids, self.vector)
        scores: FloatArray = photos.vectors(row_ids) @ self.vector
        return scores

    def _confidences(self, photos: Collection, scores: FloatArray) -> list[tuple[float, Band]]:
        """How likely rows with some scores show what is asked for. Shape: (N,)."""
        assert self.vector is not None
        found, bands = photos.confidences(scores, self.vector, self.wish.kind, self._best, of_regions=self.by_regions)
        return list(zip(found.tolist(), bands, strict=True))

    def _find_best(self, photos: Collection) -> None:
        """Know the score of the nearest, which confidence depends on."""
        with self._lock:
            if self._best is None:
                self._deepen(photos, FIRST)

    def _judged_apart(self, photos: Collection, row_ids: IntArray) -> list[tuple[float, Band]]:
        """How likely rows show what is asked for and nothing that is taken away. Shape: (N,)."""
        if not len(row_ids):
            return []
        known = [self._apart.get(row_id) for row_id in row_ids.tolist()]
        if None not in known:
            return [judged for judged in known if judged is not None]
        if self.rest is not None:
            self.rest._find_best(photos)
        parts = [self._chances(photos, row_ids[at : at + AT_ONCE]) for at in range(0, len(row_ids), AT_ONCE)]
        sure, stay = (np.concatenate(column) for column in zip(*parts, strict=True))
        best = 1.0
        if self.rest is not None:
            assert self.rest.vector is not None and self.rest._best is not None
            of_best = np.array([self.rest._best], np.float32)
            (best, _), *_ = self.rest._confidences(photos, of_best)
        bands = _bands_of(self.wish.kind).of(sure, best)
        least: Band = "unlikely"
        return [
            (chance, band if may_stay else least)
            for chance, band, may_stay in zip(sure.tolist(), bands, stay.tolist(), strict=True)
        ]

    def _chances(self, photos: Collection, row_ids: IntArray) -> tuple[DoubleArray, npt.NDArray[np.bool_]]:
        """The confidences of rows by both, and which are not left out for what they show. Shapes: (N,)."""
        rest = self.rest
        vectors = [unwanted.vector for unwanted in self.unwanted]
        if rest is not None:
            assert rest.vector is not None
            vectors.append(rest.vector)
        each = np.stack(vectors, axis=1)
        every: FloatArray = scores_of(photos, row_ids, each) if self.by_regions else photos.vectors(row_ids) @ each
        columns = iter(np.ascontiguousarray(every.T))
        sure, stay = np.ones(len(row_ids)), np.ones(len(row_ids), bool)
        for unwanted, scores in zip(self.unwanted, columns, strict=False):
            # Beside the best of the sample, not of the collection: nobody has looked for that.
            seen, _ = photos.confidences(scores, unwanted.vector, unwanted.kind, -1.0, of_regions=self.by_regions)
            sure *= absence(seen, unwanted.share, beside=rest is not None)
            stay &= stays(seen, unwanted.share, beside=rest is not None, maybe=_bands_of(unwanted.kind).maybe)
        if rest is not None:
            assert rest.vector is not None
            scores = every[:, -1]
            kind, best = rest.wish.kind, rest._best
            shown, _ = photos.confidences(scores, rest.vector, kind, best, of_regions=self.by_regions)
            sure *= shown
        return sure, stay

    def _pass_apart(self, photos: Collection, row_ids: IntArray) -> npt.NDArray[np.bool_]:
        """Which rows pass the cut, by what is asked for and what is taken away. Shape: (N,)."""
        judged, least = self._judged_apart(photos, row_ids), self.wish.min_confidence
        if least is None:
            passing = [band != "unlikely" for _, band in judged]
        else:
            passing = [max(sure, told_confidence(sure)) >= least for sure, _ in judged]
        rows = zip(row_ids.tolist(), judged, passing, strict=True)
        self._apart.update({row_id: of_row for row_id, of_row, passes in rows if passes})
        return np.array(passing, bool)

    def _pictures_of(self, photos: Collection, row_ids: IntArray) -> IntArray:
        """What tells the rows of one hit: their picture, or each by itself. Shapes: (N,) int64."""
        return row_ids if self.wish.each else photos.pictures_of(row_ids)

    def _first_of_each(self, photos: Collection, row_ids: IntArray, but: IntArray) -> IntArray:
        """Where the first row of each picture is among some, without pictures that have a row among `but`.

        Shapes: row_ids (N,), but (M,) int64; result (K,) ascending.
        """
        if self.wish.each or not photos.has_views:
            return np.arange(len(row_ids))
        pictures = photos.pictures_of(row_ids)
        _, first = np.unique(pictures, return_index=True)
        first = np.sort(first)
        found: IntArray = first[~np.isin(pictures[first], photos.pictures_of(but))]
        return found

    def _as_stills(self, photos: Collection, row_ids: IntArray, scores: FloatArray | None = None) -> IntArray:
        """Rows, of which those of the clips of Live Photos became their stills, where these pass the filter. Their
        scores are lent to them. Shapes: (N,)."""
        if self.wish.each or not len(photos.live):
            return row_ids
        stills = photos.live.still_of(photos.files_of(row_ids))
        are_clips = stills >= 0
        if self.selection is not None:
            are_clips &= np.isin(stills, self.selection)
        if scores is not None:
            self.lent.update(zip(stills[are_clips].tolist(), scores[are_clips].tolist(), strict=True))
            self._lenders.update(zip(stills[are_clips].tolist(), row_ids[are_clips].tolist(), strict=True))
        found: IntArray = np.where(are_clips, stills, row_ids)
        return found

    def _listed(self, photos: Collection) -> IntArray:
        """A row of each picture that passes the filter, ascending. Shape: (N,) int64."""
        ids = photos.row_ids() if self.selection is None else self.selection
        if self.pictures == self.everything:
            return ids
        return np.sort(self._as_stills(photos, ids[self._first_of_each(photos, ids, ids[:0])]))

    def _keep_what_is_likely(self, photos: Collection) -> None:
        """Know all that passes the cut by any of the judges; the nearest if nothing does."""
        assert self.vector is not None
        judges = self._judges
        for judge in judges:
            judge._find_all_likely(photos)
        certain = [judge for judge in judges if not judge.is_uncertain]
        ids, scores = self._found[:0], self._found_scores[:0]
        for judge in certain or ([] if len(self.written) else judges[:1]):
            fresh = judge._found[~np.isin(judge._found, ids)]
            own = self._found_scores if judge is self else self._scores_of(photos, fresh)
            ids, scores = np.concatenate([ids, fresh]), np.concatenate([scores, own])
        nearest_first = np.lexsort((ids, -scores))
        nearest_first = nearest_first[self._first_of_each(photos, ids[nearest_first], ids[:0])]
        self._found_scores = scores[nearest_first]
        self._found = self._as_stills(photos, ids[nearest_first], self._found_scores)
        self._is_cut, self.is_uncertain = True, not certain and not len(self.written)

    def _find_all_likely(self, photos: Collection) -> None:
        """Know all that passes the cut by this order alone; the nearest if nothing does."""
        rest = self.rest
        if rest is not None and not self._is_cut:
            while not rest._is_cut:  # far at once: nothing but all of it will do
                rest._deepen(photos, STEPS[1] if rest._depth < STEPS[1] else max(LAST_STEP, rest._depth + 1))
            ids = rest._found[:0] if rest.is_uncertain else rest._found
            ids = ids[self._pass_apart(photos, ids)]
            if len(ids) or len(self.written) or self.wish.min_confidence is not None:
                scores = self._scores_of(photos, ids)
                nearest_first = np.lexsort((ids, -scores))
                self._found, self._found_scores = ids[nearest_first], scores[nearest_first]
                self._is_cut = True
        self._find_the_cut(photos)

    def _find_the_cut(self, photos: Collection) -> None:
        """Know all that passes the cut, of which all pictures are asked where something is taken away from nothing."""
        while not self._is_cut:
            self._deepen(photos, self.everything if self.unwanted and self.rest is None else self._depth + 1)

    @property
    def is_cut_apart(self) -> bool:
        """Whether other orders say what passes the cut, which then has to be known as a whole."""
        return self.wish.cuts and (self.asked is not None or self.rest is not None)

    def _reach(self, photos: Collection, count: int) -> None:
        """Know the first `count` of the order, or all."""
        wish = self.wish
        if self.is_cut_apart and not self._is_cut:
            self._keep_what_is_likely(photos)
        while not self.is_whole and len(self.ids) < count:  # again where so many were folded that others are missing
            while (wanted := self.wanted(count)) is not None:
                self._deepen(photos, wanted)
            if self.vector is None or (wish.sort != "score" and not wish.cuts):
                self._list(photos, count)
            elif wish.sort != "score":
                found, found_scores = self._lifted(photos, self._found, self._found_scores)
                by_row = np.argsort(found)
                ids = listed(photos, found[by_row], by_path=wish.sort == "path")
                scores = found_scores[by_row][np.searchsorted(found[by_row], ids)]
                self._arrange(photos, ids, scores, is_whole=True)
            else:
                found, found_scores = self._lifted(photos, self._found, self._found_scores)
                self._arrange(photos, found, found_scores, is_whole=self._is_cut)
        lap("sort, fold and vary")

    def wanted(self, count: int) -> int | None:
        """How many of the nearest to look at next to know the first `count` of the order; None: no more."""
        wish = self.wish
        if self.vector is None or self._is_cut or self.is_whole or count <= len(self.ids):
            return None
        if self.is_cut_apart:
            return None  # see _keep_what_is_likely
        if wish.sort != "score":
            if wish.cuts:
                return self._depth + 1
            return FIRST if self._best is None else None  # confidence depends on the best
        varied = max(FOLDED_AMONG * wish.unique, VARIED_AMONG * bool(wish.diverse))
        wanted = max(count + self._spare, varied) + len(self.written)
        if len(self._found) >= wanted:
            return None
        return count + len(self.written) if wish.cuts else wanted  # the cut mostly comes before what can be folded

    def _list(self, photos: Collection, count: int) -> None:
        """By date or path, what passes the filter: the first of it, unless more are wanted."""
        chosen = self._listed(photos)
        first = max(FIRST, FOLDED_AMONG * self.wish.unique)
        first = first if count <= first and not self.ids.size else len(chosen)
        ids = listed(photos, chosen, by_path=self.wish.sort == "path", first=first)
        self._arrange(photos, ids, np.full(len(ids), np.nan, np.float32), is_whole=len(ids) == len(chosen))

    def _deepen(self, photos: Collection, wanted: int) -> None:
        """Look at more of the nearest, and find out where the cut is if it is among them."""
        assert self.vector is not None
        depth = self.next_depth(photos, wanted)
        scores, ids = nearest(photos, [self], depth)
        self.take(photos, depth, scores[0], ids[0])

    def next_depth(self, photos: Collection, wanted: int) -> int:
        """How many of the nearest to look at next, if `wanted` are; 0: there are none."""
        deepest = min(DEEPEST, self.everything)
        of_each = ROWS_A_PICTURE if self.by_regions else 1
        steps = [of_each * step for step in STEPS if self._depth < of_each * step < deepest]
        wanted *= of_each
        if photos.is_exact:  # a deeper search finds the same first ones
            steps = [step for step in steps if step >= wanted]
        return steps[0] if steps else deepest

    def take(self, photos: Collection, depth: int, scores: FloatArray, ids: IntArray) -> None:
        """Take over what was found at a depth. Shapes: (K,) float32, best first; (K,) int64, -1 where there is none."""
        if self.by_regions:
            assert self.vector is not None
            are_all = depth == min(DEEPEST, self.everything)
            scores, ids = pictures_of(photos, self.vector, scores, ids, are_all=are_all)
            lap("join regions to pictures")
        fresh = (ids >= 0) & ~np.isin(ids, self._found)
        fresh_ids, fresh_scores = ids[fresh], scores[fresh]
        if self._best is None and len(fresh_ids):
            self._best = float(fresh_scores[0])
        is_first = not len(self._found) and not len(self.written)
        are_all = depth == min(DEEPEST, self.everything)
        if not self.wish.cuts:
            likely = len(fresh_ids)
        elif self.rest is not None:
            likely = 0  # see _find_all_likely
        elif self.unwanted:
            stay = self._pass_apart(photos, fresh_ids)
            if stay.any() or not are_all or not is_first or self.wish.min_confidence is not None:
                fresh_ids, fresh_scores = fresh_ids[stay], fresh_scores[stay]
            likely = int(stay.sum())
        else:
            likely = self._likely(photos, fresh_scores)
        chosen = self._first_of_each(photos, fresh_ids, self._found)
        if not likely and is_first and len(fresh_ids) and self.wish.min_confidence is None:
            if len(chosen) < min(NEAREST, self.pictures) and not are_all:
                self._depth = depth  # these are views of few files: look further
                return
            self.is_uncertain, chosen = True, chosen[:NEAREST]
        else:
            chosen = chosen[: np.searchsorted(chosen, likely)]
        lap("judge and cut")
        found = self._as_stills(photos, fresh_ids[chosen], fresh_scores[chosen])
        self._found = np.concatenate([self._found, found])
        self._found_scores = np.concatenate([self._found_scores, fresh_scores[chosen]])
        self._depth = depth
        self._is_cut = self.is_uncertain or likely < len(fresh_ids) or are_all

    def _likely(self, photos: Collection, scores: FloatArray) -> int:
        """How many of some scores, the highest first, pass the cut: for one query, confidence rises with the score."""

        def passing(some: FloatArray) -> int:
            assert self.vector is not None
            judged = self._confidences(photos, some)
            least = self.wish.min_confidence
            if least is None:
                return sum(band != "unlikely" for _, band in judged)
            # Also as it is told: who gives back a confidence that was shown gets its picture.
            return sum(max(sure, told_confidence(sure)) >= least for sure, _ in judged)

        if len(scores) <= LAST_STEP:
            return passing(scores)
        step = math.isqrt(len(scores))
        start = max(0, passing(scores[::step]) - 1) * step
        return start + passing(scores[start : start + step])

    def _lifted(
        self, photos: Collection, ids: IntArray, scores: FloatArray, *, only_there: bool = False
    ) -> tuple[IntArray, FloatArray]:
        """An order in which pictures with the words in them come by turns with the others, as long as there are any.

        A strong hit comes first where there is one, else a picture with the words. `only_there`: none that is not in
        the order already. The first of it are the same however much of it is known beyond as many as there are.
        """
        if not len(self.written):
            return ids, scores
        assert self.vector is not None
        lifted = self.written[np.isin(self.written, ids)] if only_there else self.written
        others = ~np.isin(ids, lifted)
        rest, rest_scores = ids[others], scores[others]
        is_strong = False
        if self.unwanted:
            is_strong = any(band == "strong" for _, band in self._judged_apart(photos, self._found[:1]))
        elif self._best is not None and len(self._found):
            best = np.array([self._best], np.float32)
            ((_, band),) = self._confidences(photos, best)
            is_strong = band == "strong"
        turns = np.concatenate([2 * np.arange(len(lifted)) + is_strong, 2 * np.arange(len(rest)) + (not is_strong)])
        order = np.argsort(turns, kind="stable")
        own_scores = self._scores_of(photos, lifted)
        return np.concatenate([lifted, rest])[order], np.concatenate([own_scores, rest_scores])[order]

    def _arrange(self, photos: Collection, ids: IntArray, scores: FloatArray, *, is_whole: bool) -> None:
        """Take an order over, its first rows folded and varied; they are the same however much of it is known."""
        wish, among = self.wish, 0
        if wish.unique:
            among = min(FOLDED_AMONG, len(ids))
            head_ids, head_scores, self.folded = _fold(photos, ids[:among], scores[:among])
        else:
            head_ids, head_scores = ids[:0], scores[:0]
        ids, scores = np.concatenate([head_ids, ids[among:]]), np.concatenate([head_scores, scores[among:]])
        if wish.diverse and wish.sort == "score" and self.vector is not None:
            from clipsearch.search.variety import diversify

            head = min(VARIED_AMONG, len(ids))
            if wish.unique:
                head = min(head, len(head_ids))
            # one small difference would change all that follows: scores of a pass over several queries are not used
            head_ids = np.sort(ids[:head])
            vectors = photos.vectors(head_ids)
            head_scores = self._scores_of(photos, head_ids) if self.by_regions else vectors @ self.vector
            chosen = diversify(head_scores, vectors, head, wish.diverse)
            ids = np.concatenate([head_ids[chosen], ids[head:]])
            scores = np.concatenate([head_scores[chosen], scores[head:]])
            if len(self.written):
                ids, scores = self._lifted(photos, ids, scores, only_there=True)
        self.ids, self.scores, self.is_whole = ids, scores, is_whole


def _bands_of(kind: QueryKind) -> Bands:
    from clipsearch.search.confidence import shipped_calibration

    calibration = shipped_calibration()
    return calibration.text_bands if kind == "text" else calibration.picture_bands


def put_in_order(photos: Collection, wish: Wish) -> Order:
    """Begin the order of a collection that a question asks for.

    Raises: InvalidQuery (UnknownTag, ... of the query; an unknown row id in `like`), DimensionMismatch,
    UnreadablePicture, EncoderMismatch.
    """
    return put_all_in_order(photos, [wish])[0]


def put_all_in_order(photos: Collection, wishes: Sequence[Wish]) -> list[Order]:
    """Begin the orders of several questions, their texts encoded together. Raises: as `put_in_order`."""
    terms_of_each = photos.query_terms([wish.query for wish in wishes])
    lap("load the model and encode the query")
    selections: dict[tuple[Filter, bool], tuple[IntArray, IntArray]] = {}
    orders = []
    for wish, terms in zip(wishes, terms_of_each, strict=True):
        vector = photos.summed(wish.query, terms)
        if wish.vector is not None:
            vector = directed(photos.manifest.model.dim, wish.vector, vector if wish.query.terms else None)
        moved = photos.refined(vector, wish.like, wish.unlike)
        chosen, selection, searched = wish.query.filter, None, None
        if chosen is not None:
            if (chosen, wish.each) not in selections:
                passing = photos.select(chosen)
                with_regions = photos.with_regions(passing) if photos.has_regions else passing
                selections[chosen, wish.each] = (with_regions if wish.each else passing), with_regions
            selection, searched = selections[chosen, wish.each]
        elif wish.each and photos.has_regions:  # which are hits, then
            selection = searched = photos.with_regions(photos.row_ids())
        everything = photos.manifest.answered if searched is None else len(searched)
        pictures = everything
        if photos.has_views and not wish.each:
            pictures = len(photos) - len(photos.live)
            if selection is not None:
                pictures = len(np.unique(photos.pictures_of(selection)))
        by_regions = photos.has_regions and not wish.each
        order = Order(wish, moved, selection, everything, pictures, by_regions, searched)
        if photos.manifest.words and wish.means_words:
            from clipsearch.search.words import rows_with_words, said_words

            order.written = rows_with_words(photos, said_words(wish.query), selection)
        of_vector = wish.vector is not None and bool(np.any(wish.vector))
        unwanted = unwanted_of(terms, of_vector=of_vector)
        if vector is not None and (wish.like or wish.unlike or unwanted):
            # By rows: which view of a file is the best is for the vector that moved to say.
            alone = replace(wish.without_thumbs, each=True)
            rows = everything
            if by_regions:
                rows = len(photos.row_ids() if selection is None else selection)
            asked = order
            if wish.like or wish.unlike:
                order.asked = asked = Order(alone, vector, selection, everything, rows, by_regions, searched)
            rest = _rest_of(photos, wish, terms, of_vector=of_vector) if unwanted else None
            asked.unwanted = unwanted
            if rest is not None:
                asked.rest = Order(alone, rest, selection, everything, rows, by_regions, searched)
        orders.append(order)
    lap("refine and select")
    return orders


def _rest_of(photos: Collection, wish: Wish, terms: Sequence[VectorOf], *, of_vector: bool) -> FloatArray | None:
    """The vector of what is asked for without what is taken away, if any. Shape: (D,). Raises: InvalidQuery."""
    vector = photos.summed(wish.query, [term for term in terms if term.weight > 0])
    return directed(photos.manifest.model.dim, wish.vector, vector) if of_vector and wish.vector is not None else vector


def reach_together(photos: Collection, orders: Sequence[Order], count: int) -> None:
    """Find what the first `count` of each order need: those with the same filter share the passes over the vectors.

    For orders that nobody else has yet.
    """
    waiting = list(orders)
    while waiting:
        passes: dict[tuple[int, int], list[Order]] = {}
        for order in waiting:
            wanted = order.wanted(count)
            if wanted is not None:
                passes.setdefault((order.next_depth(photos, wanted), id(order.searched)), []).append(order)
        waiting = []
        for (depth, _), alike in passes.items():
            waiting += alike
            step = max(1, min(TOGETHER, FOUND_AT_ONCE // max(1, depth)))
            for part in (alike[start : start + step] for start in range(0, len(alike), step)):
                scores, ids = nearest(photos, part, depth)
                for order, own_scores, own_ids in zip(part, scores, ids, strict=True):
                    order.take(photos, depth, own_scores, own_ids)


def nearest(photos: Collection, orders: Sequence[Order], depth: int) -> tuple[FloatArray, IntArray]:
    """The nearest to the vectors of orders with the same filter. Shapes: (Q, K) float32, (Q, K) int64."""
    if not depth:
        return empty_result(len(orders), 0)
    queries = np.stack([order.vector for order in orders if order.vector is not None])
    last = LAST_STEP * (ROWS_A_PICTURE if orders[0].by_regions else 1)
    found = photos.nearest(queries, depth, exact=depth > last, selection=orders[0].searched)
    lap("find the nearest")
    return found


def _fold(
    photos: Collection, ids: IntArray, scores: FloatArray
) -> tuple[IntArray, FloatArray, dict[int, list[tuple[int, float]]]]:
    """Rows with near-duplicates folded into the best of them, and what was folded."""
    from clipsearch.search.variety import fold_duplicates

    contents, pixels, sizes = _versions(photos, ids)
    kept, folded = [], {}
    for group in fold_duplicates(contents, photos.vectors(ids), photos.nearness()):
        best = max(group, key=lambda n: (pixels[n], sizes[n], float(scores[n])))
        kept.append(best)
        if len(group) > 1:
            folded[int(ids[best])] = [(int(ids[n]), float(scores[n])) for n in group if n != best]
    return ids[kept], scores[kept], folded


def _versions(photos: Collection, ids: IntArray) -> tuple[list[bytes], list[int], list[int]]:
    """What makes the better of two versions: of each picture its content (its row id where that is unknown), how many
    pixels it has and how many bytes. From the columns: a record of each of a thousand costs more than all else."""
    order = np.argsort(ids)
    ascending = ids[order]
    keys = np.stack([np.full(len(ids), -1, np.int64), ids], axis=1)
    pixels, sizes = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for columns in photos.columns():
        at = columns.positions(ascending)
        to = order[np.searchsorted(ascending, columns.row_ids[at])]
        hashes = columns.hashes[at]
        known = hashes.any(axis=1)
        if (views := columns.numbers.get("view")) is not None:  # the same part of the same content
            hashes = np.stack([hashes[:, 0], hashes[:, 1] ^ views[at]], axis=1)
        keys[to[known]] = hashes[known]
        pixels[to] = columns.whole("width")[at].astype(np.int64) * columns.whole("height")[at]
        sizes[to] = columns.whole("size_bytes")[at]
    return [key.tobytes() for key in keys], pixels.tolist(), sizes.tolist()


def listed(photos: Collection, chosen: IntArray, *, by_path: bool, first: int | None = None) -> IntArray:
    """The first of some row ids by date, the newest first, or by path; equals by row id. Shape: (S,) int64, ascending.

    Folders and names are compared as filters compare them: without capitals and accents.
    """
    first = len(chosen) if first is None else min(first, len(chosen))
    if by_path:
        rows: list[tuple[str, str, int]] = []
        for columns in photos.columns():
            folders, codes, names, row_ids = (
                columns.texts("folder"),
                columns.codes("folder"),
                columns.names,
                columns.row_ids,
            )
            at = np.flatnonzero(np.isin(row_ids, chosen, assume_unique=True))
            folders = [columns.placed(folder) for folder in folders]
            rows += [(folders[codes[n]], names[n], int(row_ids[n])) for n in at]
        rows = sorted(rows) if first == len(rows) else heapq.nsmallest(first, rows)
        return np.array([row_id for _, _, row_id in rows], np.int64)
    found, dates = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for columns in photos.columns():
        at = np.flatnonzero(np.isin(columns.row_ids, chosen, assume_unique=True))
        if first < len(at):  # the newest of a fragment are all that can count
            own = columns.dates_us[at]
            at = at[own >= np.partition(own, len(at) - first)[len(at) - first]]
        found.append(columns.row_ids[at])
        dates.append(columns.dates_us[at])
    ids = np.concatenate(found)
    return ids[np.lexsort((ids, -np.concatenate(dates)))[:first]]


class Orders:
    """The orders asked for last, by a key that names a question and the generation it was put to."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Order] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str) -> Order | None:
        """The order of that key, if it is still kept."""
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
