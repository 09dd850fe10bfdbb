"""Measures queries that take something away (`horse -people`): what is shown, and how true its confidence is.

    python scripts/evaluate_minus.py --data DIR [--model NAME] [--odds 1 3 5 8] [--cache DIR]

Draws collections of 20 to 500 pictures from the development pictures of Flickr8k and COCO, in two halves, and asks each
for one thing that captions name without another, for two others of those that stand with it in at least two pictures.
A hit is right if a caption names the first and none the other; it is not judged where captions leave open whether it
shows either (see `evaluate_confidence.py`, whose words these are). Printed are the plain query for the thing, judged
for itself; the same judged as if it had said the minus; the difference of vectors judged as a query of its own, as it
was before; and the two judged apart, with each of `--odds`. Then the same for two models of other geometry.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from evaluate_confidence import (
    KINDS_OF,
    OPEN,
    SHOWN,
    BoolArray,
    Pictures,
    Seen,
    _half,
    _load,
    _unit,
    _vocabulary,
    _words_for,
    calibration_error,
    in_a_cone,
    on_two_sides,
)

import clipsearch
from clipsearch.records import FloatArray
from clipsearch.search import minus
from clipsearch.search.confidence import (
    Background,
    DoubleArray,
    bank_vectors,
    drawing_vectors,
    sample_positions,
    shipped_calibration,
)
from clipsearch.search.embedding import encode_asked

SIZES = (20, 50, 100, 200, 300, 400, 500)
TOGETHER = 2  # pictures of a half that show both: fewer, and nobody would take the one from the other
OTHERS, TIMES = 2, 5  # asked for of one thing, and how often one other is asked for in a collection
NO_THINGS = frozenset(("black", "goal", "leave", "machine", "mouth", "nose", "person", "race", "split"))
MORE = {"dog": "dog", "people": "person"}  # what is typed, and the word of captions


@dataclass(frozen=True)
class Case:
    """One thing without another, asked of one collection. Shapes: (N,) each, of all its pictures."""

    thing: str
    other: str
    half: int
    shows: BoolArray  # the thing
    shows_other: BoolArray
    open_: BoolArray  # whether it shows the thing, nobody knows
    open_other: BoolArray
    score: FloatArray  # of the thing
    difference: FloatArray
    sure: DoubleArray  # of the thing
    of_other: DoubleArray
    of_difference: DoubleArray


Shown = tuple[npt.NDArray[np.floating], DoubleArray, BoolArray]  # the order, confidences, what is shown as likely


def main() -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the WebDataset tars")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--odds", type=float, nargs="*", default=[minus.ODDS_BESIDE])
    parser.add_argument("--seeds", type=int, default=2, help="how often collections are drawn")
    parser.add_argument("--cache", type=Path, help="folder to keep vectors in between runs")
    options = parser.parse_args()
    encoder = clipsearch.load_encoder(options.model)
    nouns = [noun for noun in _vocabulary(options.data)[0] if noun not in NO_THINGS] + list(MORE)
    vectors = encode_asked(encoder, nouns)
    seen = Seen(
        _load(options.data, "flickr8k-dev-*.tar", "sentence", encoder, options.cache),
        _load(options.data, "coco-dev-*.tar", "coco", encoder, options.cache),
        nouns,
        [],
        {noun: vector[None] for noun, vector in zip(nouns, vectors, strict=True)},
        bank_vectors(encoder),
        drawing_vectors(encoder),
    )
    for name, model in (("", seen), (" in a narrow cone", in_a_cone(seen)), (" on two sides", on_two_sides(seen))):
        cases = [case for seed in range(options.seeds) for half in (0, 1) for case in _ask(model, seed, half)]
        print(f"{options.model}{name}: {len({(case.thing, case.other) for case in cases})} pairs, {len(cases)} queries")
        _report("the thing alone", cases, _alone, without=False)
        _report("alone, for both", cases, _alone)
        _report("difference", cases, _by_difference)
        for odds in options.odds:
            for half in (0, 1) if len(options.odds) > 1 else (None,):
                some = [case for case in cases if half in (None, case.half)]
                title = f"apart, odds {odds:g}" + ("" if half is None else f", half {half}")
                _report(title, some, partial(_apart, odds=odds))
        _report_absent(cases)


def _ask(seen: Seen, seed: int, half: int) -> list[Case]:
    found: list[Case] = []
    kinds, open_ = _words_for(KINDS_OF), _words_for(OPEN)
    calibration = shipped_calibration()
    for pictures in (seen.photos, seen.products):
        mine = pictures.subset(_half(len(pictures.vectors), half))
        words = {noun: MORE.get(noun, noun) for noun in seen.nouns}
        shows = {noun: _tell(mine, [word, *kinds.get(word, ())]) for noun, word in words.items()}
        unknown = {noun: _tell(mine, open_.get(word, [])) & ~shows[noun] for noun, word in words.items()}
        names = {noun: {word, *kinds.get(word, ())} for noun, word in words.items()}
        others = {
            noun: [b for b in words if not names[noun] & names[b] and (shows[noun] & shows[b]).sum() >= TOGETHER]
            for noun in words
        }
        rng = np.random.default_rng([seed, half, len(mine.vectors)])
        for size in (size for size in SIZES if size <= len(mine.vectors)):
            chosen = np.sort(rng.choice(len(mine.vectors), size, replace=False))
            vectors = mine.vectors[chosen]
            background = Background(seen.bank, vectors[sample_positions([size])[0]], seen.drawings)

            def judged(
                query: FloatArray, vectors: FloatArray = vectors, background: Background = background
            ) -> tuple[FloatArray, DoubleArray]:
                scores: FloatArray = vectors @ query
                return scores, calibration.confidences(background, query, scores, "text")

            asked = Counter[str]()
            for noun in rng.permutation(sorted(words)).tolist():
                likely = [other for other in others[noun] if asked[other] < TIMES]
                for other in rng.permutation(likely)[:OTHERS].tolist():
                    asked[other] += 1
                    wanted, unwanted = seen.labels[noun][0], seen.labels[other][0]
                    score, sure = judged(wanted)
                    difference, of_difference = judged(_unit(wanted - unwanted))
                    _, of_other = judged(unwanted)
                    found.append(
                        Case(
                            noun,
                            other,
                            half,
                            shows[noun][chosen],
                            shows[other][chosen],
                            unknown[noun][chosen],
                            unknown[other][chosen],
                            score,
                            difference,
                            sure,
                            of_other,
                            of_difference,
                        )
                    )
    return found


def _tell(pictures: Pictures, of: list[str]) -> BoolArray:
    return np.array([any(words[word] for word in of) for words in pictures.words], dtype=bool)


def _alone(case: Case) -> Shown:
    return case.score, case.sure, _passing(case.sure, case.sure)


def _by_difference(case: Case) -> Shown:
    return case.difference, case.of_difference, _passing(case.of_difference, case.of_difference)


def _apart(case: Case, odds: float) -> Shown:
    before, minus.ODDS_BESIDE = minus.ODDS_BESIDE, odds
    sure = case.sure * minus.absence(case.of_other, 1.0, beside=True)
    shown = _passing(sure, case.sure) & minus.stays(case.of_other, 1.0, beside=True, maybe=_maybe())
    minus.ODDS_BESIDE = before
    return case.difference, sure, shown


def _passing(sure: DoubleArray, of_best: DoubleArray) -> BoolArray:
    bands = shipped_calibration().text_bands
    passing: BoolArray = (sure >= bands.maybe) & (float(of_best.max()) >= bands.certain)
    return passing


def _report(title: str, cases: list[Case], show: Callable[[Case], Shown], *, without: bool = True) -> None:
    """`without`: what shows the other thing is wrong."""
    certain, absent, precision, with_other, first = [], [], [], [], []
    sure: list[DoubleArray] = []
    right: list[BoolArray] = []
    for case in cases:
        order, chances, shown = show(case)
        is_right = case.shows & ~case.shows_other if without else case.shows
        known = ~(case.open_ | case.open_other) if without else ~case.open_
        nearest_first = np.argsort(-order, kind="stable")
        hits = nearest_first[shown[nearest_first]][:SHOWN]
        judged = hits[known[hits]]
        sure.append(chances[judged])
        right.append(is_right[judged])
        if not (is_right & known).any():
            absent += [bool(shown.any())] * (not (is_right | ~known).any())
            continue
        certain.append(bool(shown.any()))
        precision.append(is_right[nearest_first[known[nearest_first]][:SHOWN]].mean())
        first.append(case.shows_other[nearest_first[:SHOWN]].sum())
        displayed = hits if shown.any() else nearest_first[:SHOWN]
        of_thing = case.shows[displayed]
        with_other.append(
            (
                case.shows_other[displayed].sum(),
                len(displayed),
                (case.shows_other[displayed] & of_thing).sum(),
                of_thing.sum(),
            )
        )
    said, truth = np.concatenate(sure), np.concatenate(right)
    strong = said >= shipped_calibration().text_bands.strong
    unwanted, displayed_hits, both, things = np.sum(with_other, axis=0)
    bands = [
        f"{name} {truth[of].mean():.3f} of {of.sum()} (said {said[of].mean():.2f})"
        for name, of in (("strong", strong), ("maybe", ~strong))
        if of.any()
    ]
    error = f"{calibration_error(said, truth):.3f}" if len(said) else "-"
    print(
        f"{title:24} certain {np.mean(certain):.3f} of {len(certain)}, of {len(absent)} with nothing right "
        f"{np.mean(absent):.3f} | precision@10 {np.mean(precision):.3f}, of the ten first with the other "
        f"{np.mean(first):.2f}; of the ten shown {unwanted / len(certain):.2f} a query, "
        f"{unwanted / displayed_hits:.3f}, and of those that show the thing {both / things:.3f} | {', '.join(bands)}; "
        f"error {error}"
    )


def _maybe() -> float:
    return shipped_calibration().text_bands.maybe


def _report_absent(cases: list[Case]) -> None:
    """How true the confidence of `-other` alone is, of all pictures."""
    asked = {(case.other, case.half, len(case.of_other)): case for case in cases}.values()
    known = [~case.open_other for case in asked]
    said = np.concatenate(
        [minus.absence(case.of_other[of], 1.0, beside=False) for case, of in zip(asked, known, strict=True)]
    )
    truth = np.concatenate([~case.shows_other[of] for case, of in zip(asked, known, strict=True)])
    stay = np.concatenate(
        [
            minus.stays(case.of_other[of], 1.0, beside=False, maybe=_maybe())
            for case, of in zip(asked, known, strict=True)
        ]
    )
    print(
        f"{'without the other alone':24} {len(asked)} queries: of all pictures {truth.mean():.3f} are right, of those "
        f"left {truth[stay].mean():.3f} (said {said[stay].mean():.3f}), of those left out {truth[~stay].mean():.3f} of "
        f"{(~stay).sum()}; error {calibration_error(said, truth):.3f}"
    )


if __name__ == "__main__":
    main()
