"""In which arithmetics image towers can encode, and what earlier runs learned of them on this machine.

What was learned lies in a small file of the cache folder. Where it is damaged, or two processes write at once, entries
are lost and found out again; nothing else depends on them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clipsearch.config import cache_dir, write_small
from clipsearch.encoder.bulk import PICTURES_PER_RUN

Precision = Literal["auto", "fp32", "bf16", "int8"]
Engine = Literal["onnxruntime", "openvino"]

MEMORY = "image-precision.json"
REMEMBERED_CHOICES = 50
SPENT = "spent-"
STATIC_PREFIX = "int8-"
_STATIC = re.compile(STATIC_PREFIX + "[0-9a-f]{16}")


def is_static(precision: str) -> bool:
    """Whether a precision names a tower with fixed scales: see `static`."""
    return _STATIC.fullmatch(precision) is not None


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
    worked: str = ""  # the precisions that could be measured when it was chosen; of a static tower, what it replaced
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


def remembered() -> dict[str, Choice]:
    """The choices that were measured, by what they depend on."""
    choices = {key: choice_of(value) for key, value in _entries().items()}
    return {key: choice for key, choice in choices.items() if choice is not None}


def remember(key: str, choice: Choice) -> None:
    """Keep a choice."""
    _write(key, asdict(choice))


def spent(key: str) -> float:
    """The seconds that indexes took, as estimated, in what was chosen, which another might have made less."""
    return _seconds(_entries().get(SPENT + key)) or 0.0


def note_spent(key: str, seconds: float) -> None:
    """Replace that number."""
    _write(SPENT + key, {"seconds": seconds})


def _entries() -> dict[str, Any]:
    try:
        entries = json.loads((cache_dir() / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(key: str, value: dict[str, Any]) -> None:
    known = {
        name: entry
        for name, entry in _entries().items()
        if name != key and (choice_of(entry) is not None or _seconds(entry) is not None)
    }
    newest = list(known.items())[1 - REMEMBERED_CHOICES :]
    write_small(cache_dir() / MEMORY, json.dumps({**dict(newest), key: value}, indent=1))


def _seconds(entry: Any) -> float | None:
    found = entry.get("seconds") if isinstance(entry, dict) else None
    return found if isinstance(found, float) and 0 <= found < math.inf else None


def choice_of(value: Any) -> Choice | None:
    """The choice that was written as JSON, if it is one."""
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
