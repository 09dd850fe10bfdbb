"""Pictures of results. Needs matplotlib (the extra plots), which is imported when something is drawn."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.config import cache_dir, read_plain
from clipsearch.errors import MissingExtra, StorageError
from clipsearch.replacing import replacing
from clipsearch.store.files import storage_errors

if TYPE_CHECKING:
    from clipsearch.evaluation.recall import Interval
    from clipsearch.records import IntArray

_DPI = 150
_SOFTWARE = "clipsearch"
_DRAWN = f"tEXtSoftware\0{_SOFTWARE}".encode()
"""What the head of our drawings says: only these are replaced."""
_HEAD_BYTES = 1000
_MOST_CLASSES_WITH_NUMBERS = 20
_COLOURS = ("#2f6db3", "#d9822b", "#4a9e5c", "#a3459b", "#7a7a7a", "#b33a3a")


def check_plots(purpose: str, path: Path | None = None) -> None:
    """Raise MissingExtra unless pictures can be drawn: call it before work is done for one.

    Raises StorageError if at `path` is a file that is not one of our drawings.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtra("plots", purpose)
    if path is not None:
        with contextlib.suppress(FileNotFoundError), storage_errors(path):
            if path.is_file() and _DRAWN not in read_plain(path, _HEAD_BYTES):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    _keep_cache_to_ourselves()
    # "Matplotlib is building the font cache; this may take a moment", the first time on a slow machine.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def _keep_cache_to_ourselves() -> None:
    """Have matplotlib keep its list of fonts in clipsearch's cache, unless the user has settings of it."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  this one does not raise where there is no home
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    theirs = (settings / "matplotlib", home / ".matplotlib")
    if "matplotlib" not in sys.modules and not any(place.is_dir() for place in theirs):
        os.environ.setdefault("MPLCONFIGDIR", os.fspath(cache_dir() / "matplotlib"))


def draw_comparison(path: Path, models: Sequence[str], measures: Sequence[Mapping[str, Interval]], title: str) -> None:
    """Draw each model's recall with its intervals, a panel for each direction. Raises: MissingExtra, StorageError."""
    check_plots("drawing")
    from matplotlib.figure import Figure

    names = [name for name in measures[0] if "recall@" in name]
    figure = Figure(figsize=(9, 4), layout="constrained")
    width = 0.8 / len(models)
    highest = max(0.04, *(found[name].high for found in measures for name in names))
    for panel, direction in enumerate(("text_to_image", "image_to_text")):
        axes = figure.add_subplot(1, 2, panel + 1)
        own = [name for name in names if name.startswith(direction)]
        for number, (model, found) in enumerate(zip(models, measures, strict=True)):
            at = np.arange(len(own)) + (number - (len(models) - 1) / 2) * width
            values = np.array([[100 * found[name].value, found[name].low, found[name].high] for name in own])
            errors = np.abs(100 * values[:, 1:].T - values[:, 0])
            axes.bar(at, values[:, 0], width * 0.92, color=_COLOURS[number % len(_COLOURS)], label=model)
            axes.errorbar(at, values[:, 0], yerr=errors, fmt="none", ecolor="#222222", capsize=2, linewidth=1)
        axes.set_xticks(np.arange(len(own)), [name.removeprefix(f"{direction}_").replace("r", "R", 1) for name in own])
        axes.set_title(direction.replace("_", " "))
        axes.set_ylim(0, min(100, 125 * highest))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if panel == 0:
            axes.set_ylabel("% of queries")
            axes.legend(frameon=False, loc="upper left")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_confusion(path: Path, labels: Sequence[str], counts: IntArray, title: str) -> None:
    """Draw how often each class was taken for which. Shape: counts (true, predicted).

    Raises: MissingExtra, StorageError.
    """
    check_plots("drawing")
    from matplotlib.figure import Figure

    size = float(np.clip(2.5 + 0.35 * len(labels), 4, 24))
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    short = [label if len(label) <= 24 else f"{label[:23]}…" for label in labels]
    font = 9 if len(labels) <= 40 else 5
    axes.set_xticks(range(len(labels)), short, rotation=90, fontsize=font)
    axes.set_yticks(range(len(labels)), short, fontsize=font)
    axes.set_xlabel("said")
    axes.set_ylabel("is")
    if len(labels) <= _MOST_CLASSES_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            number = f"{counts[row, column]}"
            axes.text(column, row, number, ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.7, label="% of the class")
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    check_plots("drawing", path)
    try:
        with replacing(path) as file:
            figure.savefig(file, dpi=_DPI, format="png", metadata={"Software": _SOFTWARE})
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
        raise StorageError(path, problem, "Name a file that can be written") from error
