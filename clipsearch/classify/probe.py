"""Classifiers learned from a few pictures of each class, on frozen vectors: no PyTorch, seconds on a laptop.

Two kinds, both added to the zero-shot scores, since a few examples know less than the text tower:

- `linear`: ridge regression on one-hot targets. In closed form, with exact leave-one-out predictions from one
  decomposition, so that its strengths are chosen without a split. Logistic regression by gradient descent was tried
  as well: within about a point on product pictures with 1, 2 and 4 examples of 20 classes, at many times the cost.
- `cache`: Tip-Adapter (Zhang et al. 2022): examples vote for their class by exp(-beta (1 - cosine)).

Which one is kept, if either beats zero-shot, is decided by cross-validation with the strengths chosen anew inside
each fold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from clipsearch.classify.zero_shot import Accuracy, ZeroShot, measure, softmax
from clipsearch.encoder import Encoder
from clipsearch.errors import InvalidProbe, StorageError
from clipsearch.records import FloatArray, IntArray
from clipsearch.replacing import replacing

Method = Literal["zero-shot", "linear", "cache"]
METHODS: tuple[Method, ...] = get_args(Method)
DoubleArray = npt.NDArray[np.float64]

FORMAT = "clipsearch probe 1"
# With vectors of length 1. `share`: the learned part against the zero-shot scores, in units of their scale.
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BETAS = (2.0, 5.0, 10.0, 20.0, 50.0)
TEMPERATURES = (0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 5.0, 8.0)
# For classes of one example each, where nothing can be left out.
_DEFAULT_PENALTY, _DEFAULT_SHARE, _DEFAULT_BETA = 0.3, 1.0, 5.0
_MOST_FOR_CHOOSING = 4000
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Probe:
    """A learned classifier over the vectors of one image tower.

    Shapes: text (C, D), the labels' vectors; weights (D, C) and bias (C,) of the linear part; keys (K, D) and
    key_labels (K,) of the cache. Parts that `method` does not use are empty.
    """

    labels: tuple[str, ...]
    method: Method
    model: str
    fingerprint: str
    scale: float
    temperature: float
    text: FloatArray
    weights: FloatArray
    bias: FloatArray
    keys: FloatArray
    key_labels: IntArray
    beta: float
    share: float

    def probabilities(self, vectors: FloatArray) -> FloatArray:
        """Shapes: vectors (N, D) float32, unit L2; result (N, C)."""
        return np.concatenate(
            [np.empty((0, len(self.labels)), np.float32)]
            + [
                softmax(self.temperature * self._scores(vectors[start : start + _BLOCK]))
                for start in range(0, len(vectors), _BLOCK)
            ]
        )

    def _scores(self, vectors: FloatArray) -> FloatArray:
        scores = self.scale * (vectors @ self.text.T)
        if self.method == "linear":
            scores = scores + self.scale * self.share * (vectors @ self.weights + self.bias)
        elif self.method == "cache":
            scores = scores + self.scale * self.share * _votes(
                vectors @ self.keys.T, self.key_labels, len(self.labels), self.beta
            )
        found: FloatArray = scores.astype(np.float32)
        return found

    def check(self, fingerprint: str, model: str, folder: Path) -> None:
        """Raise InvalidProbe unless vectors of this image tower are what it was made for."""
        if fingerprint != self.fingerprint:
            raise InvalidProbe(folder, f"it was trained on vectors of {self.model}, not of {model}")

    def save(self, folder: Path) -> None:
        """Write probe.json and probe.npz, in place of an earlier probe's. Raises: StorageError."""
        check_probe_folder(folder)
        about = {
            "format": FORMAT,
            "labels": list(self.labels),
            "method": self.method,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "scale": self.scale,
            "temperature": self.temperature,
            "beta": self.beta,
            "share": self.share,
        }
        arrays: dict[str, npt.NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "probe.npz") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for allow_pickle
            with replacing(folder / "probe.json") as file:
                file.write(json.dumps(about, indent=2, ensure_ascii=False).encode())
        except OSError as error:
            raise StorageError(folder, (error.strerror or str(error)).lower(), "Name another folder") from error


_ARRAYS = ("text", "weights", "bias", "keys", "key_labels")


def check_probe_folder(folder: Path) -> None:
    """Raise StorageError if a probe's files would take the place of files that are none."""
    described, arrays = folder / "probe.json", folder / "probe.npz"
    problem = ""
    if os.path.lexists(described):
        try:
            about = json.loads(described.read_text(encoding="utf-8"))
            if not isinstance(about, dict) or not about.keys() >= {"format", "labels", "fingerprint"}:
                problem = "probe.json"
        except (OSError, ValueError):
            problem = "probe.json"
    elif os.path.lexists(arrays):
        problem = "probe.npz"
    if problem:
        raise StorageError(folder / problem, "it already exists and is not a probe", "Name another folder")


def load_probe(folder: Path) -> Probe:
    """Read a probe; nothing in it is executed. Raises: InvalidProbe."""
    try:
        about = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        with np.load(folder / "probe.npz", allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in _ARRAYS}
        if about["format"] != FORMAT:
            raise InvalidProbe(folder, f"its format is {about['format']!r}, but this version reads {FORMAT!r}")
        probe = Probe(
            labels=tuple(map(str, about["labels"])),
            method=about["method"],
            model=str(about["model"]),
            fingerprint=str(about["fingerprint"]),
            scale=float(about["scale"]),
            temperature=float(about["temperature"]),
            text=arrays["text"].astype(np.float32),
            weights=arrays["weights"].astype(np.float32),
            bias=arrays["bias"].astype(np.float32),
            keys=arrays["keys"].astype(np.float32),
            key_labels=arrays["key_labels"].astype(np.int64),
            beta=float(about["beta"]),
            share=float(about["share"]),
        )
    except FileNotFoundError as error:
        raise InvalidProbe(folder, "it does not contain a probe") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InvalidProbe(folder, f"it is damaged ({error})") from error
    _check_shapes(probe, folder)
    return probe


def _check_shapes(probe: Probe, folder: Path) -> None:
    classes, dim = len(probe.labels), probe.text.shape[-1]
    whole = (
        probe.method in METHODS
        and probe.text.shape == (classes, dim)
        and (probe.method != "linear" or (probe.weights.shape == (dim, classes) and probe.bias.shape == (classes,)))
        and (
            probe.method != "cache"
            or (
                probe.keys.ndim == 2
                and probe.keys.shape[1] == dim
                and probe.key_labels.shape == (len(probe.keys),)
                and bool(((probe.key_labels >= 0) & (probe.key_labels < classes)).all())
            )
        )
        and all(bool(np.isfinite(getattr(probe, name)).all()) for name in _ARRAYS)
    )
    if not whole:
        raise InvalidProbe(folder, "its parts do not match")


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was learned. `accuracy` by method: cross-validated, or None where classes have too few examples for it."""

    probe: Probe
    accuracy: dict[Method, Accuracy] | None
    folds: int
    pictures: int
    per_class: tuple[int, ...]


def fit_probe(
    encoder: Encoder, base: ZeroShot, vectors: FloatArray, truth: IntArray, *, folds: int = 5, seed: int = 0
) -> ProbeReport:
    """Learn from pictures whose class is known, and keep what does best on pictures that it has not seen.

    Shapes: vectors (N, D) float32, unit L2; truth (N,) numbers of `base.labels`. Where most classes have one example,
    nothing can be held out: the linear probe is then kept, with strengths that do well in general.
    """
    classes = len(base.labels)
    per_class = np.bincount(truth, minlength=classes)
    accuracy: dict[Method, Accuracy] | None = None
    method: Method = "linear"
    folds = int(min(folds, max(2, np.median(per_class))))
    if _can_hold_out(truth, classes):
        held_out = {name: np.empty((len(truth), classes), np.float32) for name in METHODS}
        for chosen in _folds(truth, folds, seed):
            rest = ~chosen
            for name in METHODS:
                learned = _fit(name, encoder, base, vectors[rest], truth[rest], seed)
                held_out[name][chosen] = learned.probabilities(vectors[chosen])
        accuracy = {name: measure(held_out[name], truth) for name in METHODS}
        method = max(METHODS, key=lambda name: accuracy[name].top1)
    probe = _fit(method, encoder, base, vectors, truth, seed)
    return ProbeReport(probe, accuracy, folds, len(truth), tuple(per_class.tolist()))


def _can_hold_out(truth: IntArray, classes: int) -> bool:
    """Whether most classes keep an example when one is taken away."""
    return bool(np.mean(np.bincount(truth, minlength=classes) >= 2) > 0.5)


def _folds(truth: IntArray, folds: int, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of what is held out, each class spread over all folds."""
    order = np.random.default_rng(seed).permutation(len(truth))
    order = order[np.argsort(truth[order], kind="stable")]
    number = np.empty(len(truth), np.int64)
    number[order] = np.arange(len(truth)) % folds
    for fold in range(folds):
        yield number == fold


def _fit(method: Method, encoder: Encoder, base: ZeroShot, vectors: FloatArray, truth: IntArray, seed: int) -> Probe:
    dim, classes = vectors.shape[1], len(base.labels)
    if len(vectors) > _MOST_FOR_CHOOSING:
        asked = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:_MOST_FOR_CHOOSING])
    else:
        asked = np.arange(len(vectors))
    can_hold_out = _can_hold_out(truth, classes)
    zero = (base.scale * (vectors[asked] @ base.vectors.T)).astype(np.float64)
    weights, bias = np.empty((0, 0), np.float32), np.empty(0, np.float32)
    keys, key_labels = np.empty((0, dim), np.float32), np.empty(0, np.int64)
    beta, share, temperature = _DEFAULT_BETA, _DEFAULT_SHARE, 1.0
    if method == "linear":
        ridge = _Ridge(vectors, truth, classes)
        penalty = _DEFAULT_PENALTY
        if can_hold_out:
            left_out = {each: ridge.left_out(each)[asked] for each in PENALTIES}
            penalty, share, temperature = _choose(zero, left_out, base.scale, truth[asked])
        weights, bias = ridge.solve(penalty)
    elif method == "cache":
        keys, key_labels = vectors, truth
        if can_hold_out:
            cosines = vectors[asked] @ vectors.T
            cosines[np.arange(len(asked)), asked] = -np.inf  # nobody votes for itself
            votes = {each: _votes(cosines, truth, classes, each) for each in BETAS}
            beta, share, temperature = _choose(zero, votes, base.scale, truth[asked])
    else:
        temperature = _best_temperature(zero, truth[asked])[1]
    return Probe(
        base.labels, method, encoder.name, encoder.fingerprint, base.scale, temperature, base.vectors,
        weights, bias, keys, key_labels, beta, share,
    )  # fmt: skip


def _votes(cosines: FloatArray, key_labels: IntArray, classes: int, beta: float) -> DoubleArray:
    """The mean vote of each class's examples. Shapes: cosines (N, K); result (N, C)."""
    counts = np.bincount(key_labels, minlength=classes)
    ballots = np.zeros((len(key_labels), classes), np.float32)
    ballots[np.arange(len(key_labels)), key_labels] = 1 / counts[key_labels]
    votes: DoubleArray = (np.exp(-beta * (1 - cosines)) @ ballots).astype(np.float64)
    return votes


class _Ridge:
    """Ridge regression of one-hot targets, decomposed once for every penalty."""

    def __init__(self, vectors: FloatArray, truth: IntArray, classes: int) -> None:
        self._targets = np.eye(classes)[truth]
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        self._share = self._targets.mean(axis=0)
        self._left, self._sizes, self._right = np.linalg.svd(vectors - self._mean, full_matrices=False)

    def solve(self, penalty: float) -> tuple[FloatArray, FloatArray]:
        """Weights (D, C) and bias (C,)."""
        shrunk = self._sizes / (self._sizes**2 + penalty)
        weights = self._right.T @ (shrunk[:, None] * (self._left.T @ (self._targets - self._share)))
        bias = self._share - self._mean @ weights
        return weights.astype(np.float32), bias.astype(np.float32)

    def left_out(self, penalty: float) -> DoubleArray:
        """What is predicted for each example by a fit without it (exact: Allen's PRESS). Shape: (N, C)."""
        kept = self._sizes**2 / (self._sizes**2 + penalty)
        fitted = self._share + (self._left * kept) @ (self._left.T @ (self._targets - self._share))
        leverage = 1 / len(self._left) + (self._left**2 * kept).sum(axis=1)
        found: DoubleArray = self._targets - (self._targets - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]
        return found


def _choose(
    zero: DoubleArray, learned: dict[float, DoubleArray], scale: float, truth: IntArray
) -> tuple[float, float, float]:
    """The strength, share and temperature with the least log loss on what was left out."""
    tried = []
    for strength, scores in learned.items():
        for share in SHARES:
            loss, temperature = _best_temperature(zero + scale * share * scores, truth)
            tried.append((loss, strength, share, temperature))
    return min(tried)[1:]


def _best_temperature(scores: DoubleArray, truth: IntArray) -> tuple[float, float]:
    """The least log loss (mean, nats), and the factor on the scores that gives it."""
    relative = scores - scores.max(axis=1, keepdims=True)
    own = relative[np.arange(len(truth)), truth]
    losses = [
        (float(np.mean(np.log(np.exp(factor * relative).sum(axis=1)) - factor * own)), factor)
        for factor in TEMPERATURES
    ]
    return min(losses)
