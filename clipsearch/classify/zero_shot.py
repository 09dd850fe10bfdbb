"""Name what pictures show: labels become vectors, and a picture takes the nearest.

`Classifier` is what decides, zero-shot here and learned in `probe`; both give probabilities over the same labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.classify.templates import TEMPLATES
from clipsearch.encoder import Encoder
from clipsearch.errors import InvalidLabels, NoPictures
from clipsearch.folding import fold
from clipsearch.pairs.encoding import encode_captions
from clipsearch.pairs.reading import PictureSource
from clipsearch.pictures.formats import is_candidate
from clipsearch.records import FloatArray, ImageRecord, IntArray
from clipsearch.store import open_snapshot, read_pictures

DEFAULT_TEMPLATES = ("photos",)


@dataclass(frozen=True, slots=True)
class Label:
    """A class: its name, and all that it may be called in a sentence (the name first)."""

    name: str
    words: tuple[str, ...]


class Classifier(Protocol):
    """What decides between labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the columns."""
        ...

    def probabilities(self, vectors: FloatArray) -> FloatArray:
        """Shapes: vectors (N, D) float32, unit L2; result (N, C), each row sums to 1."""
        ...


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """A classifier that has seen no picture of its classes. Shape: vectors (C, D) float32, unit L2."""

    labels: tuple[str, ...]
    vectors: FloatArray
    scale: float

    def probabilities(self, vectors: FloatArray) -> FloatArray:
        """See Classifier."""
        return softmax(self.scale * (vectors @ self.vectors.T))


class Likeliest:
    """Of pictures that come in parts: the likeliest label of each, and the cosine with it.

    Labels share a picture's probability among themselves, also where it shows none of them; `confidences` says how
    likely it is that it shows the likeliest one, as for the hit of a query (docs/confidence.md).
    """

    def __init__(self, classifier: ZeroShot) -> None:
        self._vectors = classifier.vectors
        self._best = np.full(len(classifier.labels), -1.0, np.float32)
        self._numbers: list[IntArray] = []
        self._cosines: list[FloatArray] = []

    def add(self, vectors: FloatArray) -> None:
        """Look at more pictures. Shape: (N, D) float32, unit L2."""
        if not len(vectors):
            return
        cosines = vectors @ self._vectors.T
        self._best = np.maximum(self._best, cosines.max(axis=0))
        numbers = cosines.argmax(axis=1)
        self._numbers.append(numbers)
        self._cosines.append(np.take_along_axis(cosines, numbers[:, None], axis=1)[:, 0])

    def confidences(self, judge: Callable[[FloatArray, FloatArray, float], npt.ArrayLike]) -> FloatArray:
        """Of each picture, in order. Shape: (N,) in 0..1.

        `judge` gives the confidences of cosines (K,) with a text's vector (D,), of which the best in all is given.
        """
        numbers, cosines = (np.concatenate(parts) if parts else np.empty(0) for parts in (self._numbers, self._cosines))
        found = np.zeros(len(numbers), np.float32)
        for number, best in enumerate(self._best.tolist()):
            chosen = numbers == number
            if chosen.any():
                found[chosen] = judge(cosines[chosen].astype(np.float32), self._vectors[number], best)
        return found


def softmax(scores: FloatArray) -> FloatArray:
    """Shape: (N, C), over the last axis."""
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: FloatArray = (grown / grown.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def zero_shot(encoder: Encoder, labels: Sequence[Label], templates: Sequence[str] = DEFAULT_TEMPLATES) -> ZeroShot:
    """Make a classifier from labels alone.

    `templates`: names of sets in TEMPLATES, or sentences with `{}`. A label's vector is the mean of the unit vectors
    of all its sentences, of length 1 again. Raises: InvalidLabels.
    """
    sentences = resolve_templates(templates)
    check_labels([label.name for label in labels])
    check_read(encoder, labels)
    texts = [sentence.replace("{}", word) for label in labels for word in label.words for sentence in sentences]
    encoded = encode_captions(encoder, texts)
    owner = np.repeat(np.arange(len(labels)), [len(label.words) * len(sentences) for label in labels])
    sums = np.zeros((len(labels), encoded.shape[1]), np.float32)
    np.add.at(sums, owner, encoded)
    vectors: FloatArray = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return ZeroShot(tuple(label.name for label in labels), vectors, encoder.score_scale)


def resolve_templates(asked: Sequence[str]) -> tuple[str, ...]:
    """The sentences that are meant, each once. Raises: InvalidLabels."""
    found: dict[str, None] = {}
    for template in asked:
        if template in TEMPLATES:
            found.update(dict.fromkeys(TEMPLATES[template]))
        elif "{}" in template:
            found[template] = None
        else:
            raise InvalidLabels(
                f"{template!r} is not a template: use {', '.join(TEMPLATES)}, or a sentence with {{}} for the label"
            )
    return tuple(found)


# Labels


def parse_label(text: str) -> Label:
    """`dog|puppy|hound` is one class with three words; its name is the first. Raises: InvalidLabels."""
    words = tuple(word for part in text.split("|") if (word := " ".join(part.split())))
    if not words:
        raise InvalidLabels(f"{text!r} is not a label")
    return Label(words[0], tuple(dict.fromkeys(words)))


def read_labels(path: Path) -> list[Label]:
    """Labels from a file, one a line; empty lines and those that start with # are left out. Raises: InvalidLabels."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidLabels(f"{path} cannot be read: {problem}") from error
    return [parse_label(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def check_labels(names: Sequence[str]) -> None:
    """Raise InvalidLabels unless there are two or more, each once and none empty."""
    if any(not name.strip() for name in names):
        raise InvalidLabels("a label is empty")
    if len(names) < 2:
        raise InvalidLabels("give at least two labels")
    seen: set[str] = set()
    for name in names:
        if fold(name) in seen:
            raise InvalidLabels(f"the label {name!r} is given twice")
        seen.add(fold(name))


def split_labels(text: str) -> list[Label]:
    """Labels of a text, with commas between them. Raises: InvalidLabels, for an empty one as in `beach,,city`."""
    parts = text.split(",")
    empty = next((number for number, part in enumerate(parts, 1) if not part.strip(" |\t\n")), None)
    if empty is not None:
        raise InvalidLabels(
            f"label {empty} of {len(parts)} in {text!r} is empty. Write labels with one comma between them"
        )
    return [parse_label(part) for part in parts]


def check_read(encoder: Encoder, labels: Sequence[Label]) -> None:
    """Raise InvalidLabels for what the model has no token for: it would be a label for pictures of anything."""
    for label in labels:
        for word in label.words:
            unread = encoder.unread_words(word) if encoder.reads(word) else [word]
            if unread:
                said = f"{word!r}" if unread == [word] else f"{' '.join(unread)!r} in the label {word!r}"
                raise InvalidLabels(
                    f"the model cannot read {said}. Write labels in a language that it knows, such as English"
                )


# What is classified


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """Pictures by class. Shape: truth (N,) number of the class in `classes`, -1 for pictures in no class's folder."""

    classes: tuple[str, ...]
    sources: list[PictureSource]
    truth: IntArray


def open_class_folder(folder: Path) -> ClassFolder:
    """Find the pictures below `folder`; the name of the folder directly in it that holds them is their class.

    Underscores in names are spaces. Raises: NoPictures.
    """
    classes: list[str] = []
    sources: list[PictureSource] = []
    truth: list[int] = []
    files = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(root).relative_to(folder).parts
        for name in sorted(names):
            files += 1
            if name.startswith(".") or not is_candidate(name):
                continue
            path = Path(root) / name
            try:
                size_bytes = path.stat().st_size
            except OSError:
                continue
            if inside and (not classes or classes[-1] != inside[0]):
                classes.append(inside[0])
            sources.append(PictureSource(str(path), size_bytes))
            truth.append(len(classes) - 1 if inside else -1)
    if not sources:
        raise NoPictures(folder, files)
    return ClassFolder(tuple(name.replace("_", " ") for name in classes), sources, np.array(truth, np.int64))


def truth_in(labels: Sequence[str], found: ClassFolder) -> IntArray | None:
    """The true label of each picture, if every class of the folder is one of `labels`; else None. Shape: (N,)."""
    number = {fold(label): position for position, label in enumerate(labels)}
    if not found.classes or (found.truth < 0).any() or not all(fold(name) in number for name in found.classes):
        return None
    truth: IntArray = np.array([number[fold(name)] for name in found.classes], np.int64)[found.truth]
    return truth


def indexed_pictures(index: Path) -> Iterator[tuple[list[ImageRecord], FloatArray]]:
    """The pictures of an index with their stored vectors, some thousand at a time. Raises: CorruptIndex."""
    with open_snapshot(index) as snapshot:
        for batch in read_pictures(index, snapshot.manifest):
            yield batch.records, batch.vectors


# How well


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Against the truth. Shape: confusion (C, C) counts, true by said. `low`, `high`: Wilson's 95 % interval of top1.

    `balanced`: mean over the classes that occur of their own accuracy. `top5` is None with five labels or fewer.
    """

    pictures: int
    top1: float
    low: float
    high: float
    top5: float | None
    balanced: float
    confusion: IntArray


def measure(probabilities: FloatArray, truth: IntArray) -> Accuracy:
    """Compare with the truth; ties count against. Shapes: probabilities (N, C); truth (N,)."""
    count, classes = probabilities.shape
    own = probabilities[np.arange(count), truth]
    rank = (probabilities >= own[:, None]).sum(axis=1)
    said = np.where(rank == 1, truth, _best_other(probabilities, truth))
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, said), 1)
    occurring = confusion.sum(axis=1)
    top1 = float(np.mean(rank == 1))
    low, high = wilson(top1, count)
    return Accuracy(
        count,
        top1,
        low,
        high,
        float(np.mean(rank <= 5)) if classes > 5 else None,
        float(np.mean(np.diag(confusion)[occurring > 0] / occurring[occurring > 0])),
        confusion,
    )


def _best_other(probabilities: FloatArray, truth: IntArray) -> npt.NDArray[np.int64]:
    others = probabilities.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    best: npt.NDArray[np.int64] = others.argmax(axis=1)
    return best


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share among `count` independent cases (Wilson 1927)."""
    spread = z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
