"""In which arithmetic an image tower encodes pictures: measured on this machine, remembered in its cache.

`auto` takes the fastest of what is installed whose vectors agree with fp32: a mean cosine of at least 0.999 and
none below 0.995, on some of the pictures at hand. Where the model directory says that its Recall@k was measured in a
precision and found the same ("checked_precisions" in config.json), a mean of 0.99 and none below 0.95 will do: so
for the built-in tower in bf16, whose cosines of 0.9985 cost 0.02 points of Recall@10 on 5000 captions. Another
precision must be a tenth faster than fp32 to be worth it. Vectors of one tower in different precisions are
comparable within that tolerance (side by side they changed Recall@10 by a tenth of a point), and they share the
fingerprint of the tower. Still an index is encoded in one: its manifest names it, and later runs and the pictures
that are searched for follow, also single ones (`choose(wanted=...)`).

A tower in int8 with fixed scales (`static`) may be two to three times as fast as fp32, and half as fast again as bf16
where that is computed without AMX. It is judged by what would be found: 0.9 of the ten nearest of 64 pictures of the
index must be the same as in fp32, for pictures and for texts (`rankings`). Why 0.9: measured on 1,000 photographs with
captions and the built-in tower, bf16 has 0.96 there, int8 0.95 and weights of 7 bits 0.92, and all leave Recall@10 of
the captions as it is (0.696; 0.698, 0.696 and 0.700); of 5 bits, 0.73 and 0.628. It is kept where it is
`LEAST_STATIC_GAIN` times faster than what else was chosen: later indexes of the model with `LEAST_GUARDED` pictures and
more use it untried. What its scales do not suit is cut off (with ranges a third as wide as needed, no ranking was
left), so that `guard` watches over all that is encoded with it, and an index of such a tower also has fp32 vectors. If
it drops a kept tower at once, a large index makes its own. Only indexes use such towers, and none where the environment
says CLIPSEARCH_FIXED_SCALES=0.

Measuring and making take time that one small index would never save. So what new indexes took in a slower arithmetic,
estimated, is added up over the runs (`choices.spent`), and measuring is due when the part of it that another arithmetic
saves is worth it: whoever indexes once pays nothing, and whoever does so again and again at most twice what would have
been best. A trial for a small index takes few pictures and 4 s of processor time (ViT-B-32); a large one
measures again.

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
from dataclasses import asdict, replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

import clipsearch
from clipsearch.encoder.bulk import LEAST_GUARDED, LEAST_TO_COMPARE, PICTURES_TO_COMPARE, lanes_for
from clipsearch.encoder.choices import (
    FIXED,
    PLAIN,
    Choice,
    choice_of,
    is_static,
    note_spent,
    remember,
    remembered,
    spent,
)
from clipsearch.encoder.fingerprints import visual_checksum
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory
from clipsearch.encoder.rankings import LEAST_PICTURES
from clipsearch.encoder.sessions import ImageTower, OnnxTower
from clipsearch.encoder.static import FORMAT as TOWERS
from clipsearch.encoder.static import accepted, note_accepted, static_tower, tower_bytes
from clipsearch.errors import InvalidModel
from clipsearch.records import PixelArray

LEAST_COSINES = (0.999, 0.995)  # mean, and of any picture
LEAST_COSINES_CHECKED = (0.99, 0.95)  # where Recall@k was measured
LEAST_GAIN = 1.1
TRIAL_PICTURES = 4  # for each run side by side
LEAST_TRIAL_PICTURES = 32  # the worst of 8 had a cosine of 0.998, of 64 one of 0.990
FEW_TRIAL_PICTURES = 8  # for small indexes; a large one measures again
TRIAL_TIMEOUT_S = 120
FORMAT = "4"
LEAST_STATIC_GAIN = 1.3
LEAST_AGREEMENT = 0.9
LEAST_SAVED = 0.5  # of what fp32 takes, by bf16
STATIC_FROM_FP32 = 0.5, 1.5  # the part of its time that a tower saves, and what comparing takes, times its time
STATIC_FROM_BF16 = 0.3, 3.5
TRIAL_S, TRIED_BYTES_PER_S = 0.7, 300_000_000  # a trial on few pictures; ViT-B-32: 351 MB
USUAL_S, USUAL_BYTES_PER_S = 0.01, 3_000_000_000  # of processor time; measured 0.018 s for 15 MB, 0.118 for 351 MB
MAKING_S, MADE_BYTES_PER_S = 1.0, 80_000_000  # measured: 1 s of processor time for 15 MB, 3 to 9 s for 351 MB
STATIC_KEY, FEW_KEY = f"static-{TOWERS}-", "few-"  # with the format of these towers: other ones are measured anew
SWITCH = "CLIPSEARCH_FIXED_SCALES"
LIMIT = "ONEDNN_MAX_CPU_ISA"  # oneDNN, which OpenVINO computes with, uses no more than it names


def load_tower(
    model: ModelDirectory,
    choice: Choice,
    threads: int,
    lanes: int | None = None,
    *,
    keep: bool = False,
    few: bool = False,
) -> ImageTower:
    """Load an image tower for so many runs side by side (None: `lanes_for(threads)`).

    `keep`: what was compiled for it is kept, and used (see `compiled`). `few`: it is to encode few pictures.
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
    # In haste it loads in a third of the time, and each picture takes 5 % longer (ViT-B-32: 0.13 instead of 0.40 s of
    # processor time, 124 ms instead of 118).
    return OnnxTower(model, VISUAL_MODEL, max(1, threads // lanes), hasty=few and instead is None, instead=instead)


def choose(
    model: ModelDirectory,
    pixels: PixelArray,
    threads: int,
    wanted: str | None = None,
    expected: int | None = None,
    reuse: bool = True,
) -> Choice:
    """The choice for `auto`: as remembered, otherwise measured on `pixels`.

    `wanted` is the precision of vectors that there are already: then it is that one, if it works here, else fp32
    (which needs no measurement). `expected` says that so many pictures begin an index (None: it is not known): then
    nothing is measured, or made, that would take longer than it is likely to save (see above). `reuse`: a tower with
    fixed scales that is kept here is taken untried.
    Shape: pixels (B, H, W, 3) uint8, prepared. Raises: InvalidModel for an image tower that cannot be read.
    """
    installed = {name: _version(name) for name in ("openvino", "onnx")}
    if wanted == PLAIN.precision or not any(installed.values()):
        return PLAIN
    if wanted == "int8":
        return FIXED[wanted] if installed["onnx"] else PLAIN
    if wanted is not None and is_static(wanted):
        return _static_choice(model, wanted) if installed["openvino"] else PLAIN
    if not installed["openvino"]:
        return PLAIN
    key = _key(model, threads, installed)
    if wanted is None and expected is not None:
        return _for_new_index(model, pixels, threads, key, expected, reuse, can_make=bool(installed["onnx"]))
    choice = _known(key) or _measured(model, pixels, threads, key, few=True)
    return PLAIN if choice is None else _as_wanted(choice, wanted)


def kept_choice(model: ModelDirectory, threads: int, expected: int) -> Choice | None:
    """What `choose` will take for an index of so many pictures, as far as that can be told without any.

    Raises: InvalidModel.
    """
    installed = {name: _version(name) for name in ("openvino", "onnx")}
    if not installed["openvino"]:
        return PLAIN
    key = _key(model, threads, installed)
    kept = _kept(model, key) if expected >= LEAST_GUARDED else None
    return kept or _known(key, expected)


def _key(model: ModelDirectory, threads: int, installed: dict[str, str]) -> str:
    parts = [FORMAT, visual_checksum(model), _processor(), str(threads), *sorted(model.checked_precisions)]
    parts += [_version("onnxruntime"), *installed.values(), os.environ.get(LIMIT, "")]
    return hashlib.blake2s("\n".join(parts).encode(), digest_size=16).hexdigest()


def _known(key: str, expected: int = 0) -> Choice | None:
    """What was measured; for large indexes, not what was measured on few pictures."""
    known = remembered()
    return known.get(key) or (known.get(FEW_KEY + key) if expected < LEAST_TO_COMPARE else None)


def _measured(model: ModelDirectory, pixels: PixelArray, threads: int, key: str, *, few: bool) -> Choice | None:
    choice = _measure(model, pixels, threads, few)
    if choice is not None:
        remember((FEW_KEY if few else "") + key, choice)
    return choice


def _for_new_index(
    model: ModelDirectory, pixels: PixelArray, threads: int, key: str, expected: int, reuse: bool, *, can_make: bool
) -> Choice:
    """What suits an index of so many pictures, the first of which are `pixels`."""
    if reuse and expected >= LEAST_GUARDED and (kept := _kept(model, key)) is not None:
        return kept
    choice, known = _known(key, expected), _known(key)
    rate = known.pictures_per_s if known is not None and known.pictures_per_s else 1 / usual_s(model, threads)
    paid = expected / rate + (spent(key) if reuse else 0.0)
    makes = can_make and len(pixels) >= LEAST_PICTURES and not _is_switched_off()
    if choice is None:
        if _may_have_bf16():
            pays = LEAST_SAVED * paid >= TRIAL_S + tower_bytes(model) / TRIED_BYTES_PER_S
        else:  # another library's fp32 is little faster, if at all
            pays = expected >= LEAST_TO_COMPARE or (makes and _pays_to_make(model, PLAIN, rate, paid))
        if pays:
            choice = _measured(model, pixels, threads, key, few=expected < LEAST_TO_COMPARE)
        if choice is not None and choice.pictures_per_s:
            paid += expected / choice.pictures_per_s - expected / rate
            rate = choice.pictures_per_s
        if choice is None:
            note_spent(key, paid)
            return known or PLAIN
    last = remembered().get(STATIC_KEY + key)
    is_slow = last is not None and (last.pictures_per_s or 0) < LEAST_STATIC_GAIN * rate
    if not makes or is_slow or not choice.pictures_per_s or not _pays_to_make(model, choice, rate, paid):
        note_spent(key, paid)
        return choice
    note_spent(key, 0.0)
    tried = _try_static(model, pixels, threads, choice)
    if tried is None:
        return choice
    found = replace(tried[0], pictures_per_s=rate * tried[1], worked=choice.precision)  # for `guard`
    remember(STATIC_KEY + key, found)
    return _accepted(model, found) if is_good(found, choice) else choice


def _pays_to_make(model: ModelDirectory, choice: Choice, rate: float, paid: float) -> bool:
    """Whether `paid` seconds at `rate` pictures a second are enough to try a tower with fixed scales instead."""
    saved, compared = STATIC_FROM_BF16 if choice.precision == "bf16" else STATIC_FROM_FP32
    making_s = MAKING_S + tower_bytes(model) / MADE_BYTES_PER_S
    return paid * saved >= making_s + compared * PICTURES_TO_COMPARE / rate


def usual_s(model: ModelDirectory, threads: int) -> float:
    """About how long a tower of this size takes for a picture in fp32, where nothing was measured."""
    return (USUAL_S + tower_bytes(model) / USUAL_BYTES_PER_S) / lanes_for(threads)


def _kept(model: ModelDirectory, key: str) -> Choice | None:
    """The tower with fixed scales that was made last for this model, if it was found good and is still here."""
    last, plain = remembered().get(STATIC_KEY + key), _known(key)
    if last is None or plain is None or not is_good(last, plain):
        return None
    found = _static_choice(model, last.precision)
    return found if found != PLAIN else None


def _is_switched_off() -> bool:
    return os.environ.get(SWITCH) == "0"


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
        found = choice_of(json.loads(accepted(model, precision)))
        if found is not None and found.precision == precision and (found.agreement or 0) >= LEAST_AGREEMENT:
            return found
    return PLAIN


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


def _measure(model: ModelDirectory, pixels: PixelArray, threads: int, few: bool) -> Choice | None:
    """Run `trial` in a process of its own, `few`: on few pictures. None: it was stopped, so that nothing is known."""
    lanes = lanes_for(threads)
    count = max(FEW_TRIAL_PICTURES, lanes) if few else max(LEAST_TRIAL_PICTURES, TRIAL_PICTURES * lanes)
    output = _trial(model, trial_pictures(pixels, count), threads, *(["few"] if few else []))
    if not output:
        return None
    measured = read_measured(output)
    worked = " ".join(sorted({choice.precision for choice in measured}))
    return replace(fastest(measured, model.checked_precisions), worked=worked)


def _try_static(model: ModelDirectory, pixels: PixelArray, threads: int, choice: Choice) -> tuple[Choice, float] | None:
    """What `trial` measured of a tower that it made of some of these pictures, and how much faster than `choice` it was
    then: rates of another time were measured beside other programs. None: nothing."""
    base = [choice.engine, choice.precision, str(choice.per_run)]
    measured = read_measured(_trial(model, pixels[:PICTURES_TO_COMPARE], threads, "static", *base) or b"")
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
            choice = choice_of(json.loads(line))
            if choice is not None:
                measured.append(choice)
    return measured or [PLAIN]


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
