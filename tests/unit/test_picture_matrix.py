"""Every combination of container, depth, planes, interpretation, byte order, alpha and profile is shown as it is, or
refused by its name; none is silently wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.images import open_picture
from tests.support.picture_matrix import GROUPS, Case, motif

LEAST = {
    "tiff_types": 170, "tiff_bits": 50, "tiff_compressions": 200, "tiff_photometrics": 55, "pngs": 50, "jpegs": 15,
    "jpeg2000s": 80, "jpeg2000_layouts": 65, "webps": 4, "bmps": 15, "ppms": 30, "profiles": 10,
}  # fmt: skip


def fault_of(case: Case) -> str | None:
    """What is wrong with how a case is read; None for nothing."""
    try:
        pixels = np.asarray(open_picture("x", content=case.content)).astype(float)
    except UnreadablePicture as error:
        if case.refused is not None and case.refused in error.reason and error.status == "unsupported_format":
            return None
        return f"refused: {error.status}, {error.reason}"
    if case.expected is None:
        return "was read"
    if pixels.shape != case.expected.shape:
        return f"is {pixels.shape}"
    difference = np.abs(pixels - case.expected)
    if difference.mean() > case.tolerance or difference.max() > 10 * case.tolerance:
        return f"differs by {difference.mean():.1f} on average, {difference.max():.0f} at most"
    return None


@pytest.mark.many
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_matrix(group: Callable[[], Iterator[Case]]) -> None:
    cases = list(group())
    assert len(cases) >= LEAST[group.__name__]
    assert len({case.name for case in cases}) == len(cases)
    faults = {case.name: fault for case in cases if (fault := fault_of(case)) is not None}
    assert not faults


def test_the_motif_tells_channels_and_directions_apart() -> None:
    colours = motif() * 255
    for other in (255 - colours, colours[::-1], colours[:, ::-1], colours[..., ::-1], colours[..., [1, 0, 2]]):
        assert np.abs(colours - other).mean() > 15
    assert sum(LEAST.values()) >= 300
