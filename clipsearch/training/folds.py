"""Few pairs: held out in turns (cross-validation), since thirty of them at once would leave too few to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipsearch.evaluation.recall import Metrics, Retrieval
from clipsearch.pairs.reading import PairSet
from clipsearch.records import FloatArray, IntArray
from clipsearch.training.distributed import first_alone, wait_for_all
from clipsearch.training.interpolation import GRID
from clipsearch.training.loop import Loop
from clipsearch.training.methods import Common, prepare
from clipsearch.training.run_folder import FOLDS as FOLDS_FOLDER
from clipsearch.training.run_folder import Row, RunFolder
from clipsearch.training.settings import SEE_WHY, NothingToLearn, TrainingInterrupted, TrainingStopped
from clipsearch.training.split import FOLDS
from clipsearch.training.world import World

if TYPE_CHECKING:
    from clipsearch.encoder.openclip import OpenClipEncoder
    from clipsearch.training.run import Request, Watch

HELD = "held.json"
_DIRECTIONS = ("text_to_image", "image_to_text")


@dataclass(frozen=True, slots=True)
class Turns:
    """What the folds measured together. `rows`: by epoch, without losses; `by_alpha`: of each weight.

    `folds`: how many there were: those of which the other pairs could teach something.
    """

    rows: list[Row]
    by_alpha: dict[float, Metrics]
    folds: int

    @property
    def held_out(self) -> int:
        """How many pictures were held out and measured."""
        return len(np.unique(self.by_alpha[0.0].image_to_text.pictures))


def take_turns(
    request: Request,
    pairs: PairSet,
    anchor: PairSet,
    folds: IntArray,
    weights: FloatArray | None,
    folder: RunFolder,
    world: World,
    base: OpenClipEncoder | None,
    report: Callable[[str, int, int], None],
    watch: Watch,
    common: Common | None = None,
) -> Turns:
    """Train on all pairs but those of one fold, for each fold, and measure those. Raises: as `run.train`.

    `common`: as `prepare` takes it.

    A held-out pair is looked for among all pictures, those trained on, too. All epochs are run, and the last is
    measured, so that nothing is chosen by the few pairs of a fold. A fold is left out, and that is said, if the other
    pairs can teach nothing.
    """
    common = common or Common()
    found: list[Fold] = []
    why: NothingToLearn | None = None
    for number in range(int(folds.max()) + 1):
        place = RunFolder(folder.path / FOLDS_FOLDER / str(number))
        known = place.read_json(HELD)
        wait_for_all()
        if known is None:
            name = f"run {number + 1} of {FOLDS} of the cross-validation"
            try:
                with _named(name, folder, place):
                    one = _take_turn(
                        request,
                        pairs,
                        anchor,
                        folds == number,
                        weights,
                        folder,
                        place,
                        world,
                        base,
                        report,
                        watch,
                        name,
                        common,
                    )
            except NothingToLearn as error:
                why = error
                watch.notice(f"{name} is left out: {error.problem}")
                continue
            first_alone(partial(place.write_json, HELD, one.as_json()), world)
        else:
            one = Fold.from_json(known)
        found.append(one)
    if why is not None and not found:
        raise why
    by_alpha = {alpha: pooled([fold.by_alpha[alpha] for fold in found]) for alpha in found[0].by_alpha}
    return Turns(mean_rows(found), by_alpha, len(found))


def _take_turn(
    request: Request,
    pairs: PairSet,
    anchor: PairSet,
    is_held: npt.NDArray[np.bool_],
    weights: FloatArray | None,
    folder: RunFolder,
    place: RunFolder,
    world: World,
    base: OpenClipEncoder | None,
    report: Callable[[str, int, int], None],
    watch: Watch,
    name: str,
    common: Common,
) -> Fold:
    kept = np.flatnonzero(~is_held)
    own = None if weights is None else weights[kept]
    kept_pairs = pairs.subset(kept)
    work = prepare(request, kept_pairs, pairs, anchor, folder, world, base, report, lambda _: None, own, common)
    trainee = work.trainee

    def held(metrics: Metrics) -> Metrics:
        own = np.flatnonzero(is_held[trainee.readable("dev")])
        if len(own) == 0:
            raise NothingToLearn("none of the pictures that it holds out can be read", SEE_WHY)
        return of_pictures(metrics, own)

    place.path.mkdir(parents=True, exist_ok=True)
    loop: Loop = Loop(
        trainee,
        work.order,
        request.settings,
        place,
        world=world,
        report=watch.report,
        interrupted=watch.interrupted,
        anyway=folder.goes_on_anyway,
        held=held,
        stage=f"training, {name}",
    )
    progress = loop.run()
    by_alpha = {}
    for alpha in GRID if request.alpha is None else (0.0, request.alpha):
        trainee.set_strength(alpha)
        by_alpha[alpha] = held(trainee.measure("dev"))
    return Fold(progress.rows, by_alpha)


@contextmanager
def _named(name: str, folder: RunFolder, place: RunFolder) -> Iterator[None]:
    """Let what stops a turn say which one it was, and name the run that it is a part of."""
    try:
        yield
    except TrainingInterrupted:
        raise TrainingInterrupted(str(folder.path), place.steps_done(), name) from None
    except TrainingStopped as stopped:
        raise TrainingStopped(stopped.step, f"in {name}, {stopped.problem}", stopped.advice) from None


@dataclass(frozen=True, slots=True)
class Fold:
    """What a run on the other pairs measured on those of one fold, among all pictures.

    `rows`: of its epochs, as in metrics.csv; `by_alpha`: of each weight of the trained model.
    """

    rows: list[Row]
    by_alpha: dict[float, Metrics]

    def as_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {"rows": self.rows, "by_alpha": {str(alpha): _as_json(found) for alpha, found in self.by_alpha.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Fold:
        """A fold that was measured before."""
        return cls(values["rows"], {float(alpha): _from_json(found) for alpha, found in values["by_alpha"].items()})


def of_pictures(metrics: Metrics, pictures: IntArray) -> Metrics:
    """The queries that belong to some pictures, all pictures staying where they are found or stand in the way."""
    forth, back = (_chosen(getattr(metrics, direction), pictures) for direction in _DIRECTIONS)
    return Metrics(forth, back, metrics.pictures, metrics.texts)


def pooled(folds: list[Metrics]) -> Metrics:
    """The queries of all folds together."""
    forth, back = (_joined([getattr(one, direction) for one in folds]) for direction in _DIRECTIONS)
    return Metrics(forth, back, folds[0].pictures, folds[0].texts)


def mean_rows(folds: list[Fold]) -> list[Row]:
    """The epochs of all folds as if each pair had been measured where it was held out."""
    found: list[Row] = []
    for epoch in range(max(len(fold.rows) for fold in folds)):
        rows = [fold.rows[min(epoch, len(fold.rows) - 1)] for fold in folds]
        found.append({name: _mean(name, rows, folds) for name in rows[0] if name.startswith(_DIRECTIONS)})
    return found


def _mean(name: str, rows: list[Row], folds: list[Fold]) -> float:
    """Of a recall, weighted by how many queries each fold has."""
    direction = next(direction for direction in _DIRECTIONS if name.startswith(direction))
    counts = [len(getattr(fold.by_alpha[0.0], direction).ranks) for fold in folds]
    return round(sum((row[name] or 0.0) * count for row, count in zip(rows, counts, strict=True)) / sum(counts), 4)


def _chosen(queries: Retrieval, pictures: IntArray) -> Retrieval:
    own = np.isin(queries.pictures, pictures)
    return Retrieval(queries.ranks[own], queries.average_precision[own], queries.pictures[own])


def _joined(queries: list[Retrieval]) -> Retrieval:
    names = ("ranks", "average_precision", "pictures")
    return Retrieval(*(np.concatenate([getattr(one, name) for one in queries]) for name in names))


def _as_json(metrics: Metrics) -> dict[str, Any]:
    names = ("ranks", "average_precision", "pictures")
    sides = {
        direction: {name: getattr(getattr(metrics, direction), name).tolist() for name in names}
        for direction in _DIRECTIONS
    }
    return {**sides, "pictures": metrics.pictures, "texts": metrics.texts}


def _from_json(values: dict[str, Any]) -> Metrics:
    forth, back = (
        Retrieval(
            np.array(values[direction]["ranks"], dtype=np.int64),
            np.array(values[direction]["average_precision"], dtype=np.float64),
            np.array(values[direction]["pictures"], dtype=np.int64),
        )
        for direction in _DIRECTIONS
    )
    return Metrics(forth, back, values["pictures"], values["texts"])
