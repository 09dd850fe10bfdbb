"""Features of pairs, computed once and kept on disk: one file for each view of the pictures, one for the captions.

Files are named by what they depend on (towers, pairs, view, seed), so another run on the same pairs reads them, and a
run that was killed goes on with the views that it had finished.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.config import cache_dir
from clipsearch.cores import available_cores
from clipsearch.errors import UnreadablePicture
from clipsearch.pairs.reading import PairSet
from clipsearch.records import IntArray, PixelArray
from clipsearch.removing import remove_own
from clipsearch.replacing import replacing
from clipsearch.training.frozen import FrozenModel
from clipsearch.training.swapping import choice_of, swapped, usable
from clipsearch.training.views import PLAIN, Augmentation, view_of

FORMAT = "1"
LARGEST_CACHE_BYTES = 10 << 30
_NAME = re.compile(r"[0-9a-f]{32}\.npz")
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{32}\.npz\.\d+\.\d+")  # as `replacing` names it
DEAD_AFTER_S = 86_400.0  # nobody who writes such a file pauses for a day
_ARRAYS = frozenset({"features", "vectors", "readable"})
PICTURES_AT_ONCE = 64
CAPTIONS_AT_ONCE = 512

Report = Callable[[str, int, int], None]
"""What is being done, how many are done, of how many."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features and unit vectors of pictures or captions, row by row. Shapes: (N, F) and (N, D) float16 or float32."""

    features: npt.NDArray[Any]
    vectors: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class WrongCaptions:
    """Features of captions that were made wrong: `rows[first[i]:first[i + 1]]` of `texts` are those of caption i."""

    texts: Features
    rows: IntArray
    first: IntArray

    def drawn(self, captions: IntArray, seeds: IntArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """One for each of some captions, features and vectors side by side, and 1 where there is one, 0 elsewhere.

        Shapes: captions and seeds (B,); results (B, F + D) and (B,).
        """
        many = self.first[captions + 1] - self.first[captions]
        places = np.where(many > 0, self.first[captions] + choice_of(seeds, np.maximum(many, 1)), 0)
        chosen = self.rows[places]
        both = np.concatenate([self.texts.features[chosen], self.texts.vectors[chosen]], axis=1)
        return both, (many > 0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class CachedPairs:
    """Features of all readable pictures, view by view, and of all different captions.

    `pairs[i]` is the number in the pair set of row i of every view; row i has the captions
    `captions[first_caption[i]:first_caption[i + 1]]`, rows of `texts`.
    """

    views: list[Features]
    texts: Features
    pairs: IntArray
    captions: IntArray
    first_caption: IntArray
    unreadable: int
    same_pictures: IntArray | None = None  # a number for each row of a view, equal for the same picture
    same_texts: IntArray | None = None  # a number for each row of `texts`, equal where the model reads the same
    wrong: WrongCaptions | None = None

    @property
    def owners(self) -> IntArray:
        """For each entry of `captions`, the row of its picture."""
        counts = np.diff(self.first_caption)
        return np.repeat(np.arange(len(counts)), counts)


def cached_features(
    model: FrozenModel,
    pairs: PairSet,
    views: int,
    seed: int,
    report: Report,
    *,
    exact: bool = False,
    same: tuple[IntArray, IntArray | None] | None = None,
    mirror: npt.NDArray[np.bool_] | None = None,
    augmentation: Augmentation = PLAIN,
) -> CachedPairs:
    """Read the features from the cache, computing what is missing. `exact`: float32 instead of float16.

    `mirror`: for each pair whether its picture may be mirrored (default: all).
    `same`: numbers of the pictures, and of the different captions in their order, equal for the same (see `sameness`);
    those of captions are for training alone.
    Raises: InvalidModel, MissingExtra.
    """
    kind = "f4" if exact else "f2"
    identity = f"{FORMAT} {kind} {model.identity} {pairs.digest}"
    folder = cache_dir() / "training"
    unique: dict[str, int] = {}
    caption_rows = [[unique.setdefault(caption, len(unique)) for caption in pair.captions] for pair in pairs]
    texts = _cached(folder, f"{identity} captions", lambda: _caption_features(model, list(unique), kind, report))
    computed = []
    for view in range(views):
        drawn = _Drawn(model, pairs, view, seed, np.ones(len(pairs), bool) if mirror is None else mirror, augmentation)
        name = f"{identity} view {drawn.identity}"
        computed.append(_cached(folder, name, partial(_view_features, drawn, kind, report)))
    _forget_oldest(folder)
    readable = np.logical_and.reduce([entry["readable"] for entry in computed])
    numbers = np.flatnonzero(readable)
    kept = [caption_rows[number] for number in numbers]
    return CachedPairs(
        views=[Features(entry["features"][numbers], entry["vectors"][numbers]) for entry in computed],
        texts=Features(texts["features"], texts["vectors"]),
        pairs=numbers.astype(np.int64),
        captions=np.array([row for rows in kept for row in rows], dtype=np.int64),
        first_caption=np.cumsum([0, *map(len, kept)]).astype(np.int64),
        unreadable=len(pairs) - len(numbers),
        same_pictures=None if same is None else same[0][numbers],
        same_texts=None if same is None else same[1],
    )


def wrong_captions(
    model: FrozenModel, captions: Sequence[str], readings: Sequence[bytes], report: Report
) -> WrongCaptions | None:
    """Features of captions made wrong (see `swapping`), None if none of them can be.

    `readings`: what the model reads of the captions of all pairs.
    """
    variants = usable([swapped(caption) for caption in captions], model.readings, set(readings))
    unique: dict[str, int] = {}
    rows = [unique.setdefault(text, len(unique)) for own in variants for text in own]
    if not rows:
        return None
    first = np.cumsum([0, *map(len, variants)]).astype(np.int64)
    return WrongCaptions(cached_sentences(model, list(unique), report), np.array(rows, dtype=np.int64), first)


def cached_sentences(model: FrozenModel, sentences: Sequence[str], report: Report) -> Features:
    """Features of sentences without pictures, from the cache where they are known."""
    identity = f"{FORMAT} {model.identity} sentences {xxhash.xxh3_128_hexdigest(chr(0).join(sentences).encode())}"
    folder = cache_dir() / "training"
    found = _cached(folder, identity, lambda: _caption_features(model, sentences, "f4", report))
    return Features(found["features"], found["vectors"])


Arrays = dict[str, npt.NDArray[Any]]


def _cached(folder: Path, identity: str, compute: Callable[[], Arrays]) -> Arrays:
    path = folder / f"{xxhash.xxh3_128_hexdigest(identity.encode())}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        os.utime(path)
        return arrays
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):  # not there, or damaged
        pass
    arrays = compute()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    return arrays


def _forget_oldest(folder: Path) -> None:
    """Keep the cache below its size, dropping what was not used for longest, and what killed runs left half written.

    Other people's files are left alone.
    """
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            if _HALF_WRITTEN.fullmatch(path.name) and path.lstat().st_mtime < time.time() - DEAD_AFTER_S:
                remove_own(path)
    with suppress(OSError):
        ours = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
        for path in sorted(ours, key=lambda path: path.stat().st_mtime, reverse=True):
            total += path.stat().st_size
            if total > LARGEST_CACHE_BYTES:
                remove_own(path, _is_features)


def _is_features(path: Path) -> bool:
    """Whether a file holds the arrays that we write. Raises: OSError."""
    try:
        with ZipFile(path) as file:
            return {"features.npy", "vectors.npy"} <= set(file.namelist()) <= {f"{name}.npy" for name in _ARRAYS}
    except BadZipFile:
        return False


def _caption_features(model: FrozenModel, captions: Sequence[str], kind: str, report: Report) -> Arrays:
    # In the order of their length, so that short ones are not padded to long ones of their group.
    order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
    features = np.empty((len(captions), model.text.width), dtype=kind)
    vectors = np.empty((len(captions), model.dim), dtype=kind)
    for start in range(0, len(order), CAPTIONS_AT_ONCE):
        rows = order[start : start + CAPTIONS_AT_ONCE]
        features[rows], vectors[rows] = model.encode_texts([captions[row] for row in rows])
        report("encoding captions", start + len(rows), len(order))
    return {"features": features, "vectors": vectors}


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One view of all pictures."""

    model: FrozenModel
    pairs: PairSet
    view: int
    seed: int
    mirror: npt.NDArray[np.bool_]
    augmentation: Augmentation

    @property
    def identity(self) -> str:
        """What it depends on besides model and pairs."""
        parts = [str(self.view), str(self.seed) if self.view > 1 else ""]
        if self.view and not self.mirror.all():
            parts += [str(self.seed), xxhash.xxh3_64_hexdigest(np.packbits(self.mirror).tobytes())]
        if self.augmentation != PLAIN and (self.view > 1 or (self.view == 1 and not self.mirror.all())):
            parts.append(repr(self.augmentation))
        return " ".join(parts)

    def pixels(self, number: int) -> PixelArray | None:
        """Of one picture; None if it cannot be read."""
        mirror, seed = bool(self.mirror[number]), self.seed + number
        try:
            return view_of(
                self.pairs[number],
                self.view,
                seed,
                self.model.preprocessing,
                mirror=mirror,
                augmentation=self.augmentation,
            )
        except UnreadablePicture:
            return None


def _view_features(drawn: _Drawn, kind: str, report: Report) -> Arrays:
    model, pairs, view = drawn.model, drawn.pairs, drawn.view
    features = np.zeros((len(pairs), model.image.width), dtype=kind)
    vectors = np.zeros((len(pairs), model.dim), dtype=kind)
    readable = np.zeros(len(pairs), dtype=bool)
    title = "encoding pictures" if view == 0 else f"encoding pictures, view {view + 1}"
    done = 0
    for rows, pixels in _decoded(drawn):
        if len(rows):
            features[rows], vectors[rows] = model.encode_images(pixels)
            readable[rows] = True
        done = min(done + PICTURES_AT_ONCE, len(pairs))
        report(title, done, len(pairs))
    return {"features": features, "vectors": vectors, "readable": readable}


def _decoded(drawn: _Drawn) -> Iterator[tuple[IntArray, PixelArray]]:
    """Yield numbers and pixels of the readable pictures of one group after another, decoding the next ones ahead."""
    pairs = drawn.pairs
    starts = iter(range(0, len(pairs), PICTURES_AT_ONCE))

    with ThreadPoolExecutor(available_cores(), thread_name_prefix="decode") as pool:

        def submit(start: int) -> tuple[range, list[Future[PixelArray | None]]]:
            numbers = range(start, min(start + PICTURES_AT_ONCE, len(pairs)))
            return numbers, [pool.submit(drawn.pixels, number) for number in numbers]

        ahead = [submit(start) for _, start in zip(range(2), starts, strict=False)]
        while ahead:
            numbers, futures = ahead.pop(0)
            if (start := next(starts, None)) is not None:
                ahead.append(submit(start))
            both = [(number, future.result()) for number, future in zip(numbers, futures, strict=True)]
            good = [(number, pixels) for number, pixels in both if pixels is not None]
            rows = np.array([number for number, _ in good], dtype=np.int64)
            yield rows, np.stack([pixels for _, pixels in good]) if good else np.empty((0, 0, 0, 3), np.uint8)
