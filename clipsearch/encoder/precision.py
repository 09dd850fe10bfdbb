"""In which arithmetic an image tower encodes pictures: measured on this machine, remembered in its cache.

`auto` takes the fastest of what is installed whose vectors agree with fp32: a mean cosine of at least 0.999 and
none below 0.995, on some of the pictures at hand. Where the model directory says that its Recall@k was measured in a
precision and found the same ("checked_precisions" in config.json), a mean of 0.99 and none below 0.95 will do: so
for the built-in tower in bf16, whose cosines of 0.9985 cost 0.02 points of Recall@10 on 5000 captions. Another
precision must be a tenth faster than fp32 to be worth it. Vectors of one tower in different precisions are
comparable within that tolerance (side by side they changed Recall@10 by a tenth of a point), and they share the
fingerprint of the tower. Still an index is encoded in one: its manifest names it, and later runs and the pictures
that are searched for follow, also single ones (`choose(wanted=...)`). In bf16 and fp32 the vector of a picture does
not depend on what is encoded with it: of 64 photographs, alone and in a batch, the least cosine was 0.9999999. In int8
it was 0.984 with eight pictures in a run, so that they go one by one, which is no slower (17.6 ms instead of 22 to
25.6).

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
from clipsearch.encoder.bulk import PICTURES_PER_RUN, lanes_for
from clipsearch.encoder.fingerprints import visual_checksum
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.sessions import ImageTower, OnnxTower
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
FORMAT = "2"


@dataclass(frozen=True, slots=True)
class Choice:
    """How an image tower encodes pictures.

    `mean_cosine`, `least_cosine` (to fp32) and `pictures_per_s` are what was measured when it was chosen; None
    where nothing was measured, because nothing else is installed or the user decided.
    """

    engine: Engine
    precision: Literal["fp32", "bf16", "int8"]
    per_run: int = PICTURES_PER_RUN  # pictures
    mean_cosine: float | None = None
    least_cosine: float | None = None
    pictures_per_s: float | None = None
    worked: str = ""  # the precisions that could be measured when it was chosen

    def __str__(self) -> str:
        text = f"{self.precision} by {self.engine}, {self.per_run} pictures per run"
        if self.pictures_per_s is not None:
            text += f", {self.pictures_per_s:.0f} pictures/s when it was chosen"
        if self.mean_cosine is not None:
            text += f", mean cosine to fp32 {self.mean_cosine:.5f}"
        return text


PLAIN = Choice("onnxruntime", "fp32")
FIXED: dict[str, Choice] = {
    "fp32": PLAIN,
    "bf16": Choice("openvino", "bf16"),
    "int8": Choice("onnxruntime", "int8", 1),  # its scales are those of a run: more pictures would mix
}


def load_tower(model: ModelDirectory, choice: Choice, threads: int, lanes: int | None = None) -> ImageTower:
    """Load an image tower for so many runs side by side (None: `lanes_for(threads)`).

    Raises: InvalidModel, MissingExtra, StorageError.
    """
    lanes = lanes_for(threads) if lanes is None else lanes
    if choice.engine == "openvino":
        from clipsearch.encoder.openvino import OpenVinoTower

        return OpenVinoTower(model, "bf16" if choice.precision == "bf16" else "fp32", lanes, threads)
    instead = None
    if choice.precision == "int8":
        from clipsearch.encoder.int8 import int8_tower

        instead = int8_tower(model)
    return OnnxTower(model, VISUAL_MODEL, max(1, threads // lanes), instead=instead)


def choose(model: ModelDirectory, pixels: PixelArray, threads: int, wanted: str | None = None) -> Choice:
    """The choice for `auto`: as remembered, otherwise measured on `pixels`, which takes one to five seconds.

    `wanted` is the precision of vectors that there are already: then it is that one, if it works here, else fp32
    (which needs no measurement).
    Shape: pixels (B, H, W, 3) uint8, prepared. Raises: InvalidModel for an image tower that cannot be read.
    """
    installed = {name: _version(name) for name in ("openvino", "onnx")}
    if not any(installed.values()):
        return PLAIN
    parts = [FORMAT, visual_checksum(model), _processor(), str(threads), *sorted(model.checked_precisions)]
    parts += [_version("onnxruntime"), *installed.values()]
    key = hashlib.blake2s("\n".join(parts).encode(), digest_size=16).hexdigest()
    memory = cache_dir() / MEMORY
    known = _remembered(memory)
    if (choice := known.get(key)) is not None:
        return _as_wanted(choice, wanted)
    if wanted == PLAIN.precision:
        return PLAIN
    measured = _measure(model, pixels, threads)
    if measured is None:
        return PLAIN
    newest = list(_remembered(memory).items())[1 - REMEMBERED_CHOICES :]
    entries = {name: asdict(value) for name, value in [*newest, (key, measured)]}
    write_small(memory, json.dumps(entries, indent=1))
    return _as_wanted(measured, wanted)


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
    given = io.BytesIO()
    np.save(given, np.ascontiguousarray(sample))
    package = str(Path(clipsearch.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "clipsearch.encoder.trial", str(model.path), str(threads)],
            input=given.getvalue(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=TRIAL_TIMEOUT_S,
            start_new_session=True,  # Ctrl-C is for the run, which stops at its next safe point
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    except OSError:
        return None
    else:
        output = done.stdout
        if not output:
            return None
    measured = read_measured(output)
    worked = " ".join(sorted({choice.precision for choice in measured}))
    return replace(fastest(measured, model.checked_precisions), worked=worked)


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


def _remembered(memory: Path) -> dict[str, Choice]:
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
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
    numbers = (choice.mean_cosine, choice.least_cosine, choice.pictures_per_s)
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


@cache
def _processor() -> str:
    """Model and abilities of the processor."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()}"
