"""Zero-shot accuracy on a folder with one subfolder per class, in CLIP-benchmark's form.

CLIP-benchmark lays data sets out as a folder for each class, with `classnames.txt` (what the classes are called, in the
order of the folders' names) and `zeroshot_classification_templates.txt` (sentences with `{c}`) beside them or one level
up from a split, and reports acc1, acc5 and mean_per_class_recall.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.classify.zero_shot import (
    DEFAULT_TEMPLATES,
    Accuracy,
    ClassFolder,
    Label,
    measure,
    open_class_folder,
    parse_label,
    resolve_templates,
    zero_shot,
)
from clipsearch.encoder import Encoder
from clipsearch.errors import InvalidLabels, NoPictures
from clipsearch.indexer.build import Progress
from clipsearch.pairs.encoding import encode_pictures
from clipsearch.records import IntArray, SkippedImage

CLASS_NAMES = "classnames.txt"
CLASS_TEMPLATES = "zeroshot_classification_templates.txt"
TASK = "zeroshot_classification"
SPLITS = ("test", "val", "valid", "validation", "train")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Pictures with their classes, and what the classes are called. Shape: truth (N,)."""

    folder: Path
    pictures: ClassFolder
    labels: list[Label]
    templates: tuple[str, ...]

    @property
    def truth(self) -> IntArray:
        """The number of each picture's class; -1 for pictures in no class's folder."""
        return self.pictures.truth


@dataclass(frozen=True, slots=True)
class ZeroShotResult:
    """How well one model named the classes."""

    dataset: str
    model: str
    accuracy: Accuracy
    skipped: list[SkippedImage]

    def to_dict(self) -> dict[str, Any]:
        """As CLIP-benchmark writes a result, with the interval of acc1; acc5 is null with five classes or fewer."""
        found = self.accuracy
        return {
            "dataset": self.dataset,
            "model": self.model,
            "task": TASK,
            "metrics": {"acc1": found.top1, "acc5": found.top5, "mean_per_class_recall": found.balanced},
            "acc1_interval": [found.low, found.high],
            "pictures": found.pictures,
            "skipped": [{"path": skip.path, "status": skip.status, "reason": skip.reason} for skip in self.skipped],
        }


def open_benchmark(folder: Path, templates: Sequence[str] | None = None) -> Benchmark:
    """Find pictures, class names and templates. `templates`: instead of the folder's own.

    Raises: NoPictures, InvalidLabels.
    """
    found = open_class_folder(folder)
    if len(found.classes) < 2:
        raise InvalidLabels(f"{folder} has fewer than two subfolders with pictures: each is a class, named after it")
    names = _lines(folder, CLASS_NAMES)
    if names is not None and len(names) != len(found.classes):
        raise InvalidLabels(
            f"{folder} has {len(found.classes)} classes with pictures, but {CLASS_NAMES} has {len(names)} names"
        )
    labels = [Label(name, (name,)) for name in names] if names is not None else list(map(parse_label, found.classes))
    own = _lines(folder, CLASS_TEMPLATES)
    sentences = templates or ([re.sub(r"\{c?\}", "{}", line) for line in own] if own else DEFAULT_TEMPLATES)
    return Benchmark(folder, found, labels, resolve_templates(sentences))


def evaluate_zero_shot(
    encoder: Encoder,
    benchmark: Benchmark,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ZeroShotResult:
    """Classify all pictures that lie in a class's folder. Raises: NoPictures if none can be read, InvalidLabels."""
    classifier = zero_shot(encoder, benchmark.labels, benchmark.templates)
    chosen = np.flatnonzero(benchmark.truth >= 0)
    sources = [benchmark.pictures.sources[int(number)] for number in chosen]
    encoded = encode_pictures(encoder, sources, workers=workers, progress=progress)
    if not len(encoded.kept):
        raise NoPictures(benchmark.folder, len(sources))
    truth = benchmark.truth[chosen][encoded.kept]
    accuracy = measure(classifier.probabilities(encoded.vectors), truth)
    return ZeroShotResult(str(benchmark.folder), encoder.name, accuracy, encoded.skipped)


def _lines(folder: Path, name: str) -> list[str] | None:
    """The lines of a file beside the classes; one level up if the folder is one of a data set's splits."""
    for place in (folder, folder.parent) if folder.resolve().name in SPLITS else (folder,):
        file = place / name
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise InvalidLabels(f"{file} cannot be read: {problem}") from error
            return [line.strip() for line in lines if line.strip()]
    return None
