"""The colours of a PNG that says them in numbers (gAMA, cHRM) and not by a profile: here they become a profile."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_OF_SRGB = 0.45455
_NEARLY = 0.01
_LEAST, _MOST = 0.1, 10.0
_GREY_MODES = ("1", "L", "LA", "La", "I")
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Matrix = npt.NDArray[np.float64]


def profile_of(image: Image.Image) -> bytes | None:
    """The ICC profile of an image: its own, or what its gamma says; None where it is sRGB, or nothing is known.

    As PNG has it, a profile counts before the mark of sRGB, and that before the gamma. Primaries alone say nothing.
    """
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        return profile
    gamma = image.info.get("gamma")
    if "srgb" in image.info or not isinstance(gamma, (int, float)) or not _LEAST <= gamma <= _MOST:
        return None
    is_srgb = abs(gamma - _OF_SRGB) <= _NEARLY
    if image.mode in _GREY_MODES or image.mode.startswith("I;16"):
        return None if is_srgb else _profile(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": _curve(gamma)})
    said = _primaries(image.info.get("chromaticity"))
    if is_srgb and said is None:
        return None
    red, green, blue = (_to_d50(_SRGB) if said is None else said).T
    curve = _curve(None if is_srgb else gamma)
    tags = {b"wtpt": _xyz(_D50), b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def _primaries(said: Any) -> Matrix | None:
    """What takes linear colours to XYZ, by the numbers of cHRM; None for those of sRGB, and for impossible ones."""
    try:
        numbers = tuple(float(number) for number in said)
        if len(numbers) != len(_SRGB) or max(abs(a - b) for a, b in zip(numbers, _SRGB, strict=True)) <= _NEARLY:
            return None
        matrix = _to_d50(numbers)
    except (TypeError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None
    return matrix if np.isfinite(matrix).all() and np.abs(matrix).max() < 4 and (matrix.sum(axis=0) > 0).all() else None


def _to_d50(numbers: tuple[float, ...]) -> Matrix:
    """The matrix to XYZ (columns red, green, blue), its white moved to that of profiles."""
    white, *colours = (
        np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in zip(numbers[::2], numbers[1::2], strict=True)
    )
    matrix = np.stack(colours, axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: Matrix = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
    return adapted


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(values: Matrix) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values.tolist())


def _curve(gamma: float | None) -> bytes:
    """From stored to linear values: a power, or the curve of sRGB."""
    if gamma is None:
        return b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0\0\0\0\0" + _fixed(1 / gamma)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\4PNG\0" + bytes(79), b"cprt": b"text\0\0\0\0none\0\0\0\0"} | tags
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(8) + struct.pack(">I", 0x04200000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head = struct.pack(">I", 128 + len(table) + len(body)) + (head + _fixed(*_D50.tolist())).ljust(128, b"\0")[4:]
    return head + table + body
