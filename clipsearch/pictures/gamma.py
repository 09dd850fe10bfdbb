"""Colours that a file says in numbers and not by a profile: here they become a profile.

PNG has gAMA and cHRM, and cICP, whose numbers are those of video (ITU-T H.273); HEIF and AVIF have the same in a box
(nclx). Cameras say Adobe RGB by a mark in the EXIF. What is brighter than paper white (PQ, HLG) is mapped into sRGB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.pictures.formats import Kind
from clipsearch.pictures.holes import boxes

_OF_SRGB = 0.45455
_NEARLY = 0.01
_LEAST, _MOST = 0.1, 10.0
_GREY_MODES = ("1", "L", "LA", "La", "I")
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Matrix = npt.NDArray[np.float64]

# H.273: the primaries, as in _SRGB, and the curves, from stored to linear values. What is missing is for sRGB: the
# curves of television (1, 6, 7, 11, 12, 14, 15) are for cameras, and its screens are made so that sRGB is nearest.
_PRIMARIES = {
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (0.3127, 0.3290, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (0.3127, 0.3290, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_GAMMA = 256 / 563
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
_PQ, _HLG = 16, 18
_UNSAID = (0, 2)
_PAPER_WHITE_NITS = 203.0  # ITU-R BT.2408
_KNEE = 0.6  # of paper white: what is darker stays as it is

# Entries of EXIF, in both orders of bytes: that its colours are Adobe RGB (R03, or 2), and that they are sRGB.
_SAYS_ADOBE = (
    b"\1\0\2\0\4\0\0\0R03",
    b"\0\1\0\2\0\0\0\4R03",
    b"\1\xa0\3\0\1\0\0\0\2\0",
    b"\xa0\1\0\3\0\0\0\1\0\2",
)
_SAYS_SRGB = (b"\1\xa0\3\0\1\0\0\0\1\0", b"\xa0\1\0\3\0\0\0\1\0\1")


def profile_of(image: Image.Image) -> bytes | None:
    """The ICC profile of an image: its own, or what its numbers say; None where it is sRGB, or nothing is known.

    As PNG has it, cICP counts before a profile, that before the mark of sRGB, and that before the gamma. Primaries
    alone say nothing. In HEIF and AVIF a profile counts before numbers.
    """
    is_grey = image.mode in _GREY_MODES or image.mode.startswith("I;16")
    numbers = image.info.get("cicp")
    if isinstance(numbers, tuple) and not set(numbers[:2]) <= set(_UNSAID):
        return _profile_of_numbers(*numbers, is_grey=is_grey)
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        return profile
    said = image.info.get("nclx_profile")
    if isinstance(said, dict):
        primaries, curve = (said.get(name) for name in ("color_primaries", "transfer_characteristics"))
        if isinstance(primaries, int) and isinstance(curve, int):
            return _profile_of_numbers(primaries, curve, 0, 1, is_grey=is_grey)
    if not is_grey and _is_adobe(image.info.get("exif")):
        return _rgb_profile(_to_d50(_ADOBE), _curve(_ADOBE_GAMMA))
    gamma = image.info.get("gamma")
    if "srgb" in image.info or not isinstance(gamma, (int, float)) or not _LEAST <= gamma <= _MOST:
        return None
    is_srgb = abs(gamma - _OF_SRGB) <= _NEARLY
    if is_grey:
        return None if is_srgb else _grey_profile(_curve(gamma))
    matrix = _primaries(image.info.get("chromaticity"))
    if is_srgb and matrix is None:
        return None
    return _rgb_profile(_to_d50(_SRGB) if matrix is None else matrix, _curve(None if is_srgb else gamma))


def said_of_colours(stream: IO[bytes], kind: Kind) -> dict[str, Any]:
    """What Pillow leaves out of `info`: the numbers of a PNG or AVIF, the profile inside a BMP. Moves the stream."""
    if kind == "PNG":
        numbers = _numbers_of_png(stream)
        return {} if numbers is None else {"cicp": numbers}
    if kind in ("BMP", "DIB"):
        profile = _profile_of_bmp(stream, 0 if kind == "DIB" else 14)
        return {} if profile is None else {"icc_profile": profile}
    if kind == "AVIF":
        stream.seek(0)
        said = _numbers_of_boxes(stream.read(_MOST_HEADER_BYTES))
        names = ("color_primaries", "transfer_characteristics")
        return {} if said is None else {"nclx_profile": dict(zip(names, said, strict=True))}
    return {}


_MOST_HEADER_BYTES = 2**18
_MOST_PROFILE_BYTES = 2**24
_MOST_CHUNKS = 64


def _numbers_of_png(stream: IO[bytes]) -> tuple[int, ...] | None:
    """The numbers of cICP: primaries, curve, matrix, and whether the range is full."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(12)
        if len(head) < 12 or head[4:8] in (b"IDAT", b"IEND"):
            return None
        length = int.from_bytes(head[:4], "big")
        if head[4:8] == b"cICP" and length == 4:
            return tuple(head[8:12])
        at += 12 + length
    return None


def _profile_of_bmp(stream: IO[bytes], at: int) -> bytes | None:
    """The profile that a BMP says to have behind its pixels. One in a file of its own is not looked for."""
    stream.seek(at)
    head = stream.read(124)
    if len(head) < 124 or int.from_bytes(head[:4], "little") < 124 or head[56:60] != b"DEBM":
        return None
    start, length = struct.unpack_from("<II", head, 112)
    if not 128 < length <= _MOST_PROFILE_BYTES:
        return None
    stream.seek(at + start)
    profile = stream.read(length)
    return profile if len(profile) == length else None


def _numbers_of_boxes(content: bytes) -> tuple[int, int] | None:
    """Primaries and curve of the first picture of an AVIF, if a box says them."""
    meta = next(((start, end) for name, start, end in boxes(content, 0, len(content)) if name == b"meta"), None)
    if meta is None:
        return None
    inner = {name: (start, end) for name, start, end in boxes(content, meta[0] + 4, meta[1])}
    inner |= {name: (start, end) for name, start, end in boxes(content, *inner.get(b"iprp", (0, 0)))}
    if not {b"pitm", b"ipco", b"ipma"} <= set(inner):
        return None
    start, end = inner[b"pitm"]
    shown = int.from_bytes(content[start + 4 : start + (6 if content[start] == 0 else 8)], "big")
    properties = list(boxes(content, *inner[b"ipco"]))
    start, end = inner[b"ipma"]
    of_item, of_place = 2 if content[start] == 0 else 4, 2 if content[start + 3] & 1 else 1
    at = start + 8
    while at + of_item < end:
        item, count = int.from_bytes(content[at : at + of_item], "big"), content[at + of_item]
        at += of_item + 1
        for place in range(at, at + count * of_place, of_place):
            number = int.from_bytes(content[place : place + of_place], "big") & (0x7FFF if of_place == 2 else 0x7F)
            if item == shown and 0 < number <= len(properties):
                name, first, _ = properties[number - 1]
                if name == b"colr" and content[first : first + 4] == b"nclx":
                    return struct.unpack(">HH", content[first + 4 : first + 8])
        at += count * of_place
    return None


def _is_adobe(exif: Any) -> bool:
    if not isinstance(exif, bytes) or not any(entry in exif for entry in _SAYS_ADOBE):
        return False
    return not any(entry in exif for entry in _SAYS_SRGB)


@lru_cache(maxsize=16)
def _profile_of_numbers(primaries: int, curve: int, matrix: int, full: int, *, is_grey: bool) -> bytes | None:
    """The profile of a picture whose colours are said as H.273 has it; None for sRGB, and for what is not known."""
    said = _PRIMARIES.get(primaries)
    is_narrow = not full
    if matrix or not (curve in _POWERS or curve in (_PQ, _HLG) or is_narrow or (said and not is_grey)):
        return None
    stored = np.linspace(0, 1, 4096)
    table = _to_linear(curve)(((stored * 255 - 16) / 219).clip(0, 1) if is_narrow else stored)
    body = b"curv\0\0\0\0" + struct.pack(">I", len(table)) + np.round(table * 65535).astype(">u2").tobytes()
    return _grey_profile(body) if is_grey else _rgb_profile(_to_d50(said or _SRGB), body)


def _to_linear(curve: int) -> Callable[[Matrix], Matrix]:
    """From stored values to light, of which paper white, or all there is, is 1."""
    if curve == _PQ:
        return lambda stored: _into_range(_light_of_pq(stored) / _PAPER_WHITE_NITS)
    if curve == _HLG:
        return lambda stored: _into_range(1000 * _light_of_hlg(stored) ** 1.2 / _PAPER_WHITE_NITS)
    power = _POWERS.get(curve)
    if power is not None:
        return lambda stored: stored**power
    return lambda stored: np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def _light_of_pq(stored: Matrix) -> Matrix:
    """In nits (SMPTE ST 2084)."""
    power = stored ** (32 / 2523)
    light: Matrix = 10_000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
    return light


def _light_of_hlg(stored: Matrix) -> Matrix:
    """Of the scene, 0..1 (ARIB STD-B67)."""
    high = (np.exp((stored - 0.55991073) / 0.17883277) + 0.28466892) / 12
    light: Matrix = np.where(stored <= 0.5, stored**2 / 3, high).clip(0, 1)
    return light


def _into_range(light: Matrix) -> Matrix:
    """What is brighter than most of paper white comes near 1, the less the brighter it is."""
    room = 1 - _KNEE
    mapped: Matrix = np.where(light <= _KNEE, light, 1 - room * np.exp(-(np.maximum(light, _KNEE) - _KNEE) / room))
    return mapped


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


def _grey_profile(curve: bytes) -> bytes:
    return _profile(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": curve})


def _rgb_profile(matrix: Matrix, curve: bytes) -> bytes:
    red, green, blue = matrix.T
    tags = {b"wtpt": _xyz(_D50), b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\4PNG\0" + bytes(79), b"cprt": b"text\0\0\0\0none\0\0\0\0"} | tags
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(8) + struct.pack(">I", 0x04200000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head = struct.pack(">I", 128 + len(table) + len(body)) + (head + _fixed(*_D50.tolist())).ljust(128, b"\0")[4:]
    return head + table + body
