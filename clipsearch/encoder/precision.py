"""In which arithmetic an image tower encodes pictures: measured on this machine, remembered in its cache.

`auto` takes the fastest of what is installed whose vectors agree with fp32: a mean cosine of at least 0.999 and
none below 0.995, on some of the pictures at hand. Where the model directory says that its Recall@k was measured in a
precision and found the same ("checked_precisions" in config.json), a mean of 0.99 and none below 0.95 will do: so
for the built-in tower in bf16, whose cosines of 0.9985 cost 0.02 points of Recall@10 on 5000 captions. Another
precision must be a tenth faster than fp32 to be worth it. Vectors of one tower in different precisions are
comparable within that tolerance (side by side they changed Recall@10 by a tenth of a point), and they share the
fingerprint of the tower. Still an index is encoded in one: its manifest names it, and later runs and the pictures
that are searched for follow, also single ones (`choose(wanted=...)`).

Where there is no bf16, a tower in int8 with fixed scales (`static`) may be two to three times as fast as fp32. It is
judged by what would be found: 0.9 of the ten nearest of 64 pictures of the index must be the same as in fp32, for
pictures and for texts (`rankings`). Why 0.9: measured on 1,000 photographs with captions and the built-in tower, bf16
has 0.96 there, int8 0.95 and weights of 7 bits 0.92, and all leave Recall@10 of the captions as it is (0.696; 0.698,
0.696 and 0.700); of 5 bits, 0.73 and 0.628. One is made of the first pictures of an index that is large enough to save
what making and trying it take, about 400 pictures, and kept: later indexes of the model with `LEAST_GUARDED` pictures
and more use it untried. What its scales do not suit is cut off (with ranges a third as wide as needed, no ranking was
left), so that `guard` watches over all that is encoded with it, and an index of such a tower also has vectors in fp32.
If it drops a kept tower at once, a large index makes its own. Only indexes use such towers, and none where the
environment says CLIPSEARCH_FIXED_SCALES=0.

In bf16, in fp32 and with fixed scales the vector of a picture does not depend on what is encoded with it: of 64
photographs, alone and in a batch, the least cosine was 0.9999999. In the other int8, which only `--precision int8` asks
for, it was 0.984 with eight pictures in a run, so that they go one by one.

The measurement (`trial`) runs in a process of its own, so that a library that crashes on a model or processor it
does not expect costs speed, not the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

import clipsearch
from clipsearch.config import cache_dir, write_small
from clipsearch.encoder.bulk import LEAST_GUARDED, LEAST_TO_COMPARE, PICTURES_PER_RUN, PICTURES_TO_COMPARE, lanes_for
from clipsearch.encoder.fingerprints import visual_checksum
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.rankings import LEAST_PICTURES
from clipsearch.encoder.sessions import ImageTower, OnnxTower
from clipsearch.encoder.static import accepted, is_static, note_accepted, static_tower, tower_bytes
from clipsearch.errors import InvalidModel
from clipsearch.records import PixelArray

Precision = Literal["auto", "fp32", "bf16", "int8"]
Engine = Literal["onnxruntime", "openvino"]

LEAST_COSINES = (0.999, 0.995)  # mean, and of any picture
LEAST_COSINES_CHECKED = (0.99, 0.95)  # where Recall@k was measured
LEAST_GAIN = 1.1
TRIAL_PICTURES = 4  # for each run side by side
LEAST_TRIAL_PICTURES = 32  # the worst of 8 had a cosine of 0.998, of 64 one of 0.990
TRIAL_TIMEOUT_S = 120
MEMORY = "image-precision.json"
REMEMBERED_CHOICES = 50
FORMAT = "3"
LEAST_STATIC_GAIN = 1.3
LEAST_AGREEMENT = 0.9
LEAST_SAVED = 0.5  # of what fp32 takes
COMPARED = 1.5  # what trying a tower takes, times fp32
MAKING_S, MADE_BYTES_PER_S = 1.0, 80_000_000  # measured: 1 s of processor time for 15 MB, 3 to 9 s for 351 MB
STATIC_KEY = "static-"
SWITCH = "CLIPSEARCH_FIXED_SCALES"
LIMIT = "ONEDNN_MAX_CPU_ISA"  # oneDNN, which OpenVINO computes with, uses no more than it names


@dataclass(frozen=True, slots=True)
class Choice:
    """How an image tower encodes pictures.

    `mean_cosine`, `least_cosine` (to fp32) and `pictures_per_s` are what was measured when it was chosen; None
    where nothing was measured, because nothing else is installed or the user decided.
    """

    engine: Engine
    precision: str  # "fp32", "bf16", "int8", or the name of a tower with fixed scales: see `static`
    per_run: int = PICTURES_PER_RUN  # pictures
    mean_cosine: float | None = None
    least_cosine: float | None = None
    pictures_per_s: float | None = None
    worked: str = ""  # the precisions that could be measured when it was chosen
    agreement: float | None = None  # see `rankings`; measured of towers with fixed scales

    def __str__(self) -> str:
        text = f"{self.precision} by {self.engine}, {self.per_run} pictures per run"
        if self.pictures_per_s is not None:
            text += f", {self.pictures_per_s:.0f} pictures/s when it was chosen"
        if self.mean_cosine is not None:
            text += f", mean cosine to fp32 {self.mean_cosine:.5f}"
        if self.agreement is not None:
            text += f", {self.agreement:.1%} of the ten nearest as in fp32"
        return text


PLAIN = Choice("onnxruntime", "fp32")
FIXED: dict[str, Choice] = {
    "fp32": PLAIN,
    "bf16": Choice("openvino", "bf16"),
    "int8": Choice("onnxruntime", "int8", 1),  # its scales are those of a run: more pictures would mix
}


def load_tower(
    model: ModelDirectory, choice: Choice, threads: int, lanes: int | None = None, *, keep: bool = False
) -> ImageTower:
    """Load an image tower for so many runs side by side (None: `lanes_for(threads)`).

    `keep`: what was compiled for it is kept, and used (see `compiled`).
    Raises: InvalidModel, MissingExtra, StorageError.
    """
    lanes = lanes_for(threads) if lanes is None else lanes
    if choice.engine == "openvino":
        from clipsearch.encoder.openvino import OpenVinoTower

        static = static_tower(model, choice.precision) if is_static(choice.precision) else None
        told = "\n".join([visual_checksum(model), choice.precision, _processor(), os.environ.get(LIMIT, "")])
        hint: Literal["fp32", "bf16"] = "bf16" if choice.precision == "bf16" else "fp32"
        return OpenVinoTower(model, hint, lanes, threads, instead=static, told=told if keep else None)
    instead = None
    if choice.precision == "int8":
        from clipsearch.encoder.int8 import int8_tower

        instead = int8_tower(model)
    return OnnxTower(model, VISUAL_MODEL, max(1, threads // lanes), instead=instead)


def choose(
    model: ModelDirectory,
    pixels: PixelArray,
    threads: int,
    wanted: str | None = None,
    expected: int | None = None,
    reuse: bool = True,
) -> Choice:
    """The choice for `auto`: as remembered, otherwise measured on `pixels`, which takes one to five seconds.

    `wanted` is the precision of vectors that there are already: then it is that one, if it works here, else fp32
    (which needs no measurement). `expected` says that so many pictures begin an index (None: it is not known). For
    few of them nothing is measured where only bf16 could pay and the processor has none, and for many a tower with
    fixed scales is tried as well. `reuse`: one that is kept here is taken untried.
    Shape: pixels (B, H, W, 3) uint8, prepared. Raises: InvalidModel for an image tower that cannot be read.
    """
    installed = {name: _version(name) for name in ("openvino", "onnx")}
    if wanted == PLAIN.precision or not any(installed.values()):
        return PLAIN
    if wanted == "int8":
        return FIXED[wanted] if installed["onnx"] else PLAIN
    if wanted is not None and is_static(wanted):
        return _static_choice(model, wanted) if installed["openvino"] else PLAIN
    is_small = expected is not None and expected < LEAST_TO_COMPARE and not _may_have_bf16()
    if not installed["openvino"] or (is_small and (expected or 0) < LEAST_GUARDED):
        return PLAIN
    parts = [FORMAT, visual_checksum(model), _processor(), str(threads), *sorted(model.checked_precisions)]
    parts += [_version("onnxruntime"), *installed.values(), os.environ.get(LIMIT, "")]
    key = hashlib.blake2s("\n".join(parts).encode(), digest_size=16).hexdigest()
    if is_small:
        return (_kept(model, key) if reuse else None) or PLAIN
    choice = _remembered().get(key)
    if choice is None:
        choice = _measure(model, pixels, threads)
        if choice is None:
            return PLAIN
        _remember(key, choice)
    if wanted is not None or choice.precision != PLAIN.precision:
        return _as_wanted(choice, wanted)
    if reuse and (expected or 0) >= LEAST_GUARDED and (kept := _kept(model, key)) is not None:
        return kept
    return _with_fixed_scales(model, pixels, threads, key, choice, expected or 0) if installed["onnx"] else choice


def _kept(model: ModelDirectory, key: str) -> Choice | None:
    """The tower with fixed scales that was made last for this model, if it was found good and is still here."""
    remembered = _remembered()
    last, plain = remembered.get(STATIC_KEY + key), remembered.get(key)
    if last is None or plain is None or not is_good(last, plain):
        return None
    found = _static_choice(model, last.precision)
    return found if found != PLAIN else None


def _is_switched_off() -> bool:
    return os.environ.get(SWITCH) == "0"


def _with_fixed_scales(
    model: ModelDirectory, pixels: PixelArray, threads: int, key: str, choice: Choice, expected: int
) -> Choice:
    """`choice`, or a tower with fixed scales made of these pictures that is faster and ranks them as that one does.

    One is made where it is likely to save more than it takes.
    """
    rate = choice.pictures_per_s or 0
    if _is_switched_off() or len(pixels) < LEAST_PICTURES or expected < LEAST_TO_COMPARE or not rate:
        return choice
    last = _remembered().get(STATIC_KEY + key)
    if last is not None and (last.pictures_per_s or 0) < LEAST_STATIC_GAIN * rate:
        return choice
    making_s = MAKING_S + tower_bytes(model) / MADE_BYTES_PER_S
    if expected * LEAST_SAVED / rate < making_s + COMPARED * PICTURES_TO_COMPARE / rate:
        return choice
    tried = _try_static(model, pixels, threads)
    if tried is None:
        return choice
    found = replace(tried[0], pictures_per_s=rate * tried[1])
    _remember(STATIC_KEY + key, found)
    return _accepted(model, found) if is_good(found, choice) else choice


def is_good(found: Choice, choice: Choice) -> bool:
    """Whether a tower with fixed scales ranks well enough, and is enough faster than `choice`."""
    faster = (found.pictures_per_s or 0) >= LEAST_STATIC_GAIN * (choice.pictures_per_s or 0)
    return faster and (found.agreement or 0) >= LEAST_AGREEMENT


def _accepted(model: ModelDirectory, found: Choice) -> Choice:
    note_accepted(model, found.precision, json.dumps(asdict(found)))
    return found


def _static_choice(model: ModelDirectory, precision: str) -> Choice:
    """That tower, if it is here with what it was accepted with, else fp32."""
    if _is_switched_off():
        return PLAIN
    with contextlib.suppress(InvalidModel, ValueError):
        static_tower(model, precision)
        found = _choice(json.loads(accepted(model, precision)))
        if found is not None and found.precision == precision and (found.agreement or 0) >= LEAST_AGREEMENT:
            return found
    return PLAIN


def _remember(key: str, choice: Choice) -> None:
    newest = [entry for entry in _remembered().items() if entry[0] != key][1 - REMEMBERED_CHOICES :]
    entries = {name: asdict(value) for name, value in [*newest, (key, choice)]}
    write_small(cache_dir() / MEMORY, json.dumps(entries, indent=1))


def _as_wanted(choice: Choice, wanted: str | None) -> Choice:
    """`choice`, or what is of the precision `wanted` if that worked here when it was made, else fp32."""
    if wanted is None or choice.precision == wanted:
        return choice
    return FIXED[wanted] if wanted in FIXED and wanted in choice.worked.split() else PLAIN


def fastest(measured: list[Choice], checked: Collection[str] = ()) -> Choice:
    """The choice among what was measured, the first being fp32 by onnxruntime. `checked`: `checked_precisions`."""
    plain = best = measured[0]
    for choice in measured[1:]:
        mean, least = LEAST_COSINES_CHECKED if choice.precision in checked else LEAST_COSINES
        agrees = (choice.mean_cosine or 0) >= mean and (choice.least_cosine or 0) >= least
        speed, needed = choice.pictures_per_s or 0, LEAST_GAIN * (plain.pictures_per_s or 0)
        same = (choice.engine, choice.precision) == (plain.engine, plain.precision)
        if agrees and (same or speed >= needed) and speed >= (best.pictures_per_s or 0):
            best = choice
    return best


def _measure(model: ModelDirectory, pixels: PixelArray, threads: int) -> Choice | None:
    """Run `trial` in a process of its own. None: it was stopped, so that nothing is known."""
    sample = trial_pictures(pixels, max(LEAST_TRIAL_PICTURES, TRIAL_PICTURES * lanes_for(threads)))
    output = _trial(model, sample, threads)
    if not output:
        return None
    measured = read_measured(output)
    worked = " ".join(sorted({choice.precision for choice in measured}))
    return replace(fastest(measured, model.checked_precisions), worked=worked)


def _try_static(model: ModelDirectory, pixels: PixelArray, threads: int) -> tuple[Choice, float] | None:
    """What `trial` measured of a tower that it made of some of these pictures, and how much faster than fp32 it was
    then: rates of another time were measured beside other programs. None: nothing."""
    measured = read_measured(_trial(model, pixels[:PICTURES_TO_COMPARE], threads, "static") or b"")
    found = next((choice for choice in measured if is_static(choice.precision)), None)
    if found is None or not measured[0].pictures_per_s:
        return None
    return found, (found.pictures_per_s or 0) / measured[0].pictures_per_s


def _trial(model: ModelDirectory, sample: PixelArray, threads: int, *more: str) -> bytes | None:
    """What a trial printed, also one that crashed. None: it could not be started, or was stopped before a line."""
    given = io.BytesIO()
    np.save(given, np.ascontiguousarray(sample))
    package = str(Path(clipsearch.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "clipsearch.encoder.trial", str(model.path), str(threads), *more],
            input=given.getvalue(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=TRIAL_TIMEOUT_S,
            start_new_session=True,  # Ctrl-C is for the run, which stops at its next safe point
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return late.stdout or b""
    except OSError:
        return None
    return done.stdout or None


def trial_pictures(pixels: PixelArray, count: int) -> PixelArray:
    """So many of `pixels`, evenly; where there are fewer, they are turned, mirrored, and in other colours as well.

    Shapes: pixels (B, H, W, 3), B > 0; result (count, H, W, 3).
    """
    turn = 1 if pixels.shape[1] == pixels.shape[2] else 2
    views = []
    for number in range(-(-count // len(pixels))):
        view = np.rot90(pixels, number * turn, axes=(1, 2))
        view = view[:, :, ::-1] if number & 4 else view
        view = 255 - view if number & 8 else view
        views.append(view[..., ::-1] if number & 16 else view)
    many: PixelArray = np.concatenate(views)
    if len(views) > 1:
        return many[:count]
    spread: PixelArray = many[np.linspace(0, len(many) - 1, count).astype(int)]
    return spread


def read_measured(output: bytes) -> list[Choice]:
    """What a trial printed, also one that crashed: it prints a line after each candidate. At least fp32."""
    measured: list[Choice] = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            choice = _choice(json.loads(line))
            if choice is not None:
                measured.append(choice)
    return measured or [PLAIN]


def _remembered() -> dict[str, Choice]:
    try:
        entries = json.loads((cache_dir() / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    choices = {key: _choice(value) for key, value in entries.items()}
    return {key: choice for key, choice in choices.items() if choice is not None}


def _choice(value: Any) -> Choice | None:
    try:
        choice = Choice(**value)
    except TypeError:
        return None
    known = (choice.engine, choice.precision) in {
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
    }
    known = known or (choice.engine == "openvino" and isinstance(choice.precision, str) and is_static(choice.precision))
    numbers = (choice.mean_cosine, choice.least_cosine, choice.pictures_per_s, choice.agreement)
    usable = isinstance(choice.per_run, int) and 1 <= choice.per_run <= 256
    usable = usable and isinstance(choice.worked, str)
    return choice if known and usable and all(n is None or isinstance(n, float) for n in numbers) else None


def _version(package: str) -> str:
    """The version of an installed package, "" for one that is not there."""
    if find_spec(package) is None:
        return ""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed"


def _may_have_bf16() -> bool:
    """Whether OpenVINO may compute in bfloat16 here: only processors that list what they can do are known not to."""
    limit = os.environ.get(LIMIT, "").upper()
    if limit and not any(word in limit for word in ("BF16", "FP16", "AMX", "ALL", "DEFAULT")):
        return False
    told = _processor()
    return "bf16" in told or not ("flags" in told or "Features" in told)


@cache
def _processor() -> str:
    """Model and abilities of the processor."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()}"
