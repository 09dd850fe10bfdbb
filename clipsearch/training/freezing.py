"""Which of an open_clip model's parameters stay as they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from clipsearch.training.settings import InvalidSettings

LAYER = re.compile(r"(?:resblocks|blocks|layers?|stages)\.?(\d+)")
STEM = re.compile(r"embedding|conv1|bn1|patch_embed|cls_token|stem|ln_pre|norm_pre")
IMAGE_TOWER = "visual."
WORDS = ("image", "text", "embeddings")


def plain_name(name: str) -> str:
    """A parameter's name as it is without parametrisations."""
    return re.sub(r"\.parametrizations\.(\w+)\.original\d*$", r".\1", name).replace(".parametrizations.", ".")


def frozen_by(names: Iterable[str], patterns: Sequence[str], layers: int) -> Callable[[str], bool]:
    """Return what tells whether a parameter is frozen.

    `patterns`: image, text, embeddings, or parameter names with wildcards (`transformer.resblocks.[0-5].*`).
    `layers`: so many blocks of each tower, from the input, with what comes before them.
    Raises: InvalidSettings for a pattern that fits nothing, and for more layers than there are.
    """
    names = [plain_name(name) for name in names]
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in names):
            example = next((name for name in names if LAYER.search(name)), names[0] if names else "")
            raise InvalidSettings(
                f"--freeze {pattern} matches no parameter of the model",
                f"Use {', '.join(WORDS)}, or names with wildcards, such as '{example.rpartition('.')[0]}.*'",
            )
    most = 1 + max((int(found[1]) for name in names if (found := LAYER.search(name))), default=-1)
    if layers > most:
        raise InvalidSettings(
            f"--freeze-layers {layers} is more than the {most} layers that a tower of the model has",
            f"Choose at most {most}, or freeze a whole tower with --freeze image or --freeze text",
        )

    def frozen(name: str) -> bool:
        plain = plain_name(name)
        return any(_fits(plain, pattern) for pattern in patterns) or (layers > 0 and _depth(plain) < layers)

    return frozen


def _fits(name: str, pattern: str) -> bool:
    if pattern == "image":
        return name.startswith(IMAGE_TOWER)
    if pattern == "text":
        return not name.startswith(IMAGE_TOWER)
    if pattern == "embeddings":
        return STEM.search(name) is not None and LAYER.search(name) is None
    return fnmatchcase(name, pattern)


def _depth(name: str) -> float:
    """Of a parameter's block, from 0; what comes before the first has -1, what comes after the last is not frozen."""
    found = LAYER.search(name)
    if found:
        return int(found[1])
    return -1 if STEM.search(name) else float("inf")
