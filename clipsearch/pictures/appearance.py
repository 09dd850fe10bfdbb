"""What pixels say of a picture better than a model does: without colour, dark, blurred, which colours, a screenshot.

Computed once, when a picture is decoded. All measures are made on small versions of it: 64 by 64 points for colours,
512 pixels along the long side for blur, and some rows of the decoded pixels for what programs draw (screenshots,
documents, drawings have edges and areas of one colour that no lens makes). docs/query.md has what they find.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.records import COLORS, TRAITS, FloatArray, PixelArray

_POINTS = 64
_SHARP_SIDE = 512
_LINES = 64
_ROWS = 48
_HASH_GRID = 32

# CIELAB, D65. Chroma of what people call without colour, and of what they call by the name of a colour.
_NO_CHROMA = 4.0
# Of Cb and Cr, 256 levels: what blocks may differ from the tone of their brightness, and how far tones go apart.
_TONED_SIDE, _BLOCKS = 256, 32
_TONED_ACROSS, _TONED_ALONG, _TONED_STRENGTH = 3.1, 3.0, 0.15
_TONE_STRONGEST, _TONE_ASIDE, _DIMMEST = 50.0, 15.0, 0.45
# CIELAB: the strongest tones of prints, and of what stands on a white ground; which ground is white.
_TONE_CHROMA, _TONE_ON_WHITE = 46.0, 10.0
_WHITE_GROUND, _WHITE_TONE, _LEAST_WHITE = 96.0, 3.0, 0.35
_GREY_CHROMA, _WHITE_CHROMA = 6.0, 8.0
_DARK, _BRIGHT = 60, 190  # of 255, mean luma
_CHROMATIC_SHARE = 0.15
_LEAST_FIGURE, _FIGURE = 0.35, 0.65
_SHARES = {"black": 0.35, "white": 0.35, "gray": 0.5, "brown": 0.27}
_LEAST_EDGES = 40
_BLURRED_WIDTH = 2.6
_CELLS, _LEAST_IN_FOCUS, _IN_FOCUS = 6, 8, 0.28
_LEAST_SHAKEN, _SHAKEN = 60, 0.04
_COARSE_SIDE, _LEAST_COARSE_EDGES, _MOST_SHARP = 128, 30, 3
_FLAT_SHARE, _HARD_SHARE = 0.55, 0.12
_EVEN, _DRAWN = 0.7, 0.1  # of steps between pixels, and of edges a row
_PAPER, _PAPER_CHROMA = 180, 14  # green of 255, chroma of CIELAB
_INK, _GROUND, _STROKES, _WRITTEN_SHARE = 60, 20, 20, 0.15
_ROWS_OF_TEXT, _STRIPS, _LEAST_TURNS = 192, 4, 13
_LEAST_DRAWN = 400  # pixels, the longer side

_SCREENSHOT_NAME = re.compile(
    r"screen[ _-]?(shot|cap|grab)|bildschirm(foto|aufnahme)|captura de (pantalla|tela|ecr)|capture d.?.?[ée]cran"
    r"|schermata|schermafbeelding|zrzut ekranu|sk[äa]rmavbild|skjermbilde|kuvakaappaus|снимок экрана|скриншот"
    r"|スクリーンショット|屏幕截图|屏幕快照|截屏|截图|截圖|螢幕擷取|螢幕快照|스크린샷"
    r"|ekran (g[öo]r[üu]nt[üu]s[üu]|resmi)|sk[æa]rmbillede|sn[íi]mka obrazovky|sn[íi]mek obrazovky|sn[íi]mok obrazovky"
    r"|k[ée]perny[őo]k[ée]p|captur[ăa] de ecran|στιγμιότυπο οθόνης|знімок екрана|صورة الشاشة|لقطة شاشة|צילום מסך"
    r"|स्क्रीनशॉट|ภาพหน้าจอ|ảnh chụp màn hình|tangkapan layar|snimka zaslona|photo d.?.?[ée]cran|スクショ",
    re.IGNORECASE,
)
_SCREENS = frozenset(
    # shorter side, longer side: computers, phones, tablets, at the scales that they are captured at
    [
        *((768, 1024), (768, 1366), (800, 1280), (900, 1440), (900, 1600), (1024, 1280), (1050, 1680), (1080, 1920)),
        *((1200, 1600), (1200, 1920), (1440, 2560), (1600, 2560), (1800, 2880), (1864, 2880), (2160, 3840)),
        *((1440, 3440), (1080, 2560), (1964, 3024), (2234, 3456), (2560, 1664), (2880, 5120), (1504, 2256)),
        *((640, 960), (640, 1136), (750, 1334), (828, 1792), (1080, 2340), (1125, 2436), (1170, 2532), (1179, 2556)),
        *((1206, 2622), (1242, 2208), (1242, 2688), (1284, 2778), (1290, 2796), (1320, 2868), (720, 1280), (720, 1520)),
        *((720, 1560), (720, 1600), (1080, 2160), (1080, 2220), (1080, 2280), (1080, 2310), (1080, 2400), (1080, 2408)),
        *((1440, 2960), (1440, 3040), (1440, 3088), (1440, 3120), (1440, 3200), (1344, 2992), (1280, 2856), (480, 800)),
        *((540, 960), (1536, 2048), (1620, 2160), (1640, 2360), (1668, 2224), (1668, 2388), (2048, 2732), (1488, 2266)),
    ]
)


@dataclass(frozen=True, slots=True)
class Appearance:
    """What pixels say. `traits` and `colors`: a bit for each name that fits in `records.TRAITS` and `records.COLORS`;
    `perceptual_hash`: 64 bits that differ in few places for versions of one picture, as a signed number."""

    traits: int = 0
    colors: int = 0
    perceptual_hash: int = 0

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Appearance:
        """What another process told, which decoded a file that nobody vouches for. Raises: ValueError, TypeError."""
        traits, colors, bits = (int(body.get(name, 0)) for name in ("traits", "colors", "perceptual_hash"))
        if not (0 <= traits < 1 << len(TRAITS) and 0 <= colors < 1 << len(COLORS) and -(2**63) <= bits < 2**63):
            raise ValueError("no appearance")
        return cls(traits, colors, bits)


NOT_SEEN = Appearance()


def appearance(
    image: Image.Image,
    full_size: tuple[int, int],
    name: str,
    *,
    to_srgb: Callable[[Image.Image], Image.Image] = lambda small: small,
    lossless: bool = False,
    transparent: bool = False,
    camera: bool = False,
) -> Appearance:
    """Look at an upright RGB image, which may be smaller than its file's `full_size` (width, height).

    `name`: of the file. `to_srgb`: takes a small version of the image to sRGB. `camera`: whether the file says which
    camera took it.
    """
    scale = min(1.0, _SHARP_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = to_srgb(image if scale == 1 else image.resize(size, Image.Resampling.BOX, reducing_gap=1.0))
    points = small.resize((_POINTS, _POINTS), Image.Resampling.BOX)
    lab = _to_lab(np.asarray(points).reshape(-1, 3))
    grey = small.convert("L")
    luma = np.asarray(grey)
    found = {
        "monochrome": _is_monochrome(small, points, lab),
        "dark": float(luma.mean()) < _DARK,
        "bright": float(luma.mean()) > _BRIGHT,
        "blurred": _is_blurred(luma),
        "transparent": transparent,
    }
    found |= {_made(image, lab, full_size, name, lossless=lossless, camera=camera): True}
    traits = sum(1 << number for number, trait in enumerate(TRAITS) if found.get(trait))
    return Appearance(traits, _colors(lab), _perceptual_hash(grey))


def appearance_of_model(colours: PixelArray) -> Appearance:
    """What is known of a 3-D model from an angle, which is a drawing, whatever the light, the white around it and the
    grey of one without colours look like. `colours`: those of its own that are seen; shape (N, 3)."""
    traits, colors = {"drawing"}, 0
    if len(colours):
        lab = _to_lab(colours)
        colors = _colors(lab)
        if np.count_nonzero(np.hypot(lab[:, 1], lab[:, 2]) >= _NO_CHROMA) <= len(lab) / 100:
            traits.add("monochrome")
    return Appearance(sum(1 << number for number, trait in enumerate(TRAITS) if trait in traits), colors)


@lru_cache(maxsize=1)
def _linear() -> FloatArray:
    """Of each sRGB value 0..255, the linear one 0..1 (IEC 61966-2-1)."""
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
_WHITE = np.array([0.9505, 1.0, 1.089], np.float32)


def _to_lab(pixels: PixelArray) -> FloatArray:
    """CIELAB of sRGB pixels. Shapes: (N, 3) uint8, (N, 3)."""
    xyz = _linear()[pixels] @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def _is_monochrome(small: Image.Image, points: Image.Image, lab: FloatArray) -> bool:
    """Whether there is no colour, or one tone all over (sepia, cyanotype, split toning): that of its brightness.

    The mean tone of each brightness is taken from pixels that are not mixed, since a mixture of two tones is neither's;
    what differs from it is averaged over blocks, which leaves of noise and of JPEG little, of colours all. Along the
    tone more may differ than across it: there toning clips, and papers fade. No tone is as strong as the colour of a
    sunset, and none leaves much of a picture pure white and gives the rest a colour: that is a product in one colour.
    """
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    if np.count_nonzero(chroma >= _NO_CHROMA) <= len(lab) / 100:
        return True
    white = np.count_nonzero((lab[:, 0] >= _WHITE_GROUND) & (chroma < _WHITE_TONE))
    most_chroma = _TONE_ON_WHITE if white >= _LEAST_WHITE * len(lab) else _TONE_CHROMA
    if np.percentile(chroma, 97) >= most_chroma:
        return False
    tone = np.asarray(points.convert("YCbCr")).reshape(-1, 3).astype(np.float32) - (0, 128, 128)
    blue, red = (float(of) for of in tone[:, 1:].mean(axis=0))
    strength = math.hypot(blue, red)
    if strength >= _TONE_STRONGEST:
        return False
    along = np.array([blue / strength, red / strength] if strength > 0 else [1, 0], np.float32)
    across = along[::-1] * (-1, 1)
    if np.percentile(np.abs(tone[:, 1:] @ across), 97) >= _TONE_ASIDE:
        return False
    scale = min(1.0, _TONED_SIDE / max(small.size))
    size = [max(1, round(side * scale / _BLOCKS)) * _BLOCKS for side in small.size]
    pixels = np.asarray(small.resize((size[0], size[1]), Image.Resampling.NEAREST).convert("YCbCr"))
    level = pixels[..., 0] >> 2
    count = np.maximum(np.bincount(level.ravel(), minlength=64), 1)
    rest = []
    for channel in (1, 2):
        mean = np.bincount(level.ravel(), pixels[..., channel].ravel(), 64) / count
        rest.append(_of_blocks(pixels[..., channel] - mean.astype(np.float32)[level]))
    off = np.abs(np.stack(rest, axis=1) @ np.stack([across, along], axis=1))
    dim = min(1.0, max(_DIMMEST, float(np.percentile(tone[:, 0], 95)) / 200))
    clips = _TONED_ALONG + _TONED_STRENGTH * float(np.percentile(np.hypot(tone[:, 1], tone[:, 2]), 97))
    most = dim * np.array([_TONED_ACROSS, clips])
    return bool((np.percentile(off, 97, axis=0) < most).all() and (np.percentile(off, 99, axis=0) < 1.5 * most).all())


def _of_blocks(values: FloatArray) -> FloatArray:
    """The means of 32 by 32 blocks of an array, in one line."""
    height, width = (side // _BLOCKS for side in values.shape)
    means: FloatArray = values.reshape(_BLOCKS, height, _BLOCKS, width).mean((1, 3)).ravel()
    return means


def _colors(lab: FloatArray) -> int:
    """A bit for each colour that much of a picture has."""
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    named = _names_of(lightness, chroma, hue)
    shares = np.bincount(named, minlength=len(COLORS) + 1)[: len(COLORS)] / len(lab)
    white = COLORS.index("white")
    if shares[white] >= _SHARES["white"]:  # a product on white, a skier: of the rest much is one's colour
        rest = max(1 - shares[white], _LEAST_FIGURE)
        shares = np.where(np.arange(len(COLORS)) == white, shares, shares / rest * _FIGURE)
    needed = [_SHARES.get(color, _CHROMATIC_SHARE) for color in COLORS]
    return sum(1 << number for number, share in enumerate(shares) if share >= needed[number])


def _names_of(lightness: FloatArray, chroma: FloatArray, hue: FloatArray) -> npt.NDArray[np.int64]:
    """The number in COLORS of what people call each point, len(COLORS) where they would hesitate."""
    none = len(COLORS)
    number = {color: n for n, color in enumerate(COLORS)}
    named = np.full(len(lightness), none)
    named[(chroma < _GREY_CHROMA) & (lightness > 25) & (lightness < 80)] = number["gray"]
    named[(chroma < _WHITE_CHROMA) & (lightness >= 85)] = number["white"]
    named[(lightness < 20) & (chroma < 18)] = number["black"]
    for color, low, high, dimmest, brightest, least, most in _HUES:
        within = (hue >= low) & (hue < high) if low < high else (hue >= low) | (hue < high)
        vivid = (chroma > least) & (chroma < most)
        named[within & vivid & (lightness >= dimmest) & (lightness < brightest)] = number[color]
    return named


# name, hue from and to (degrees, CIELAB), lightness from and to, chroma from and to; later lines win
_HUES: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    ("pink", 335, 5, 45, 100, 24, 200),
    ("pink", 5, 25, 64, 100, 22, 200),
    ("red", 8, 36, 22, 62, 44, 200),
    ("red", 36, 43, 22, 62, 56, 200),
    ("orange", 45, 65, 55, 90, 50, 200),
    ("orange", 65, 75, 57, 90, 60, 200),
    ("yellow", 79, 87, 64, 101, 57, 200),
    ("yellow", 87, 100, 68, 101, 44, 200),
    ("green", 102, 113, 18, 68, 26, 200),  # paper and straw have these hues, lighter or paler
    ("green", 113, 170, 18, 101, 20, 200),
    ("yellow", 100, 109, 82, 101, 60, 200),
    ("teal", 170, 222, 25, 101, 18, 200),
    ("blue", 226, 300, 15, 101, 20, 200),
    ("blue", 230, 280, 42, 78, 17, 200),  # skies
    ("purple", 300, 335, 15, 80, 18, 200),
    ("blue", 300, 308, 10, 80, 78, 200),  # of screens: there, CIELAB turns blue toward purple
    ("brown", 40, 80, 18, 58, 18, 56),
)


def _is_blurred(luma: PixelArray) -> bool:
    """Whether no part of a picture has sharp edges, though it has edges.

    The width of an edge is its whole step divided by its steepest slope (Marziliano et al., ICIP 2002, measure it along
    lines). The sharpest part of a picture counts, so that a blurred background does not; a shake leaves edges sharp
    along its way, none across it. Where so much is blurred that no edges are left, those of a small version are seen.
    """
    if min(luma.shape) < 32:
        return False
    every, sharp = _edges(luma)
    all_edges, all_sharp = int(every.sum()), int(sharp.sum())
    if all_edges < _LEAST_EDGES:
        scale = _COARSE_SIDE / max(luma.shape)
        if all_sharp > _MOST_SHARP or scale >= 1:
            return False
        size = tuple(max(1, round(side * scale)) for side in luma.shape[::-1])
        small = np.asarray(Image.fromarray(luma).resize(size, Image.Resampling.BOX))
        if min(small.shape) < 20 or int(_edges(small)[0].sum()) < _LEAST_COARSE_EDGES:
            return False
        values = small.astype(np.int16)
        steps = (values[9:] - values[:-9], values[:, 9:] - values[:, :-9])
        least = small.size / 1000  # a sky goes from light to dark once, things go back
        return any(min(np.count_nonzero(step > 24), np.count_nonzero(step < -24)) >= least for step in steps)
    shaken = (every.sum(1) >= _LEAST_SHAKEN) & (sharp.sum(1) <= _SHAKEN * every.sum(1))
    if any(not _in_focus(every[along], sharp[along]) for along in np.nonzero(shaken)[0]):
        return True
    return all_sharp <= all_edges / 10 and not _in_focus(every.sum(0), sharp.sum(0))


def _in_focus(every: npt.NDArray[np.int64], sharp: npt.NDArray[np.int64]) -> bool:
    """Whether any part has its share of sharp edges. Shapes: (36,)."""
    return bool(np.any((sharp >= _LEAST_IN_FOCUS) & (sharp > _IN_FOCUS * every)))


def _edges(luma: PixelArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many edges there are along rows and along columns, in each of 6 by 6 parts; and how many of these are sharp.
    Shapes: (2, 36)."""
    every, sharp = np.zeros((2, 2, _CELLS * _CELLS), np.int64)
    rows, columns = luma[:: 1 + len(luma) // _LINES], luma[:, :: 1 + luma.shape[1] // _LINES].T
    for along, lines in enumerate((rows.astype(np.int16), np.ascontiguousarray(columns).astype(np.int16))):
        slope = lines[:, 1:] - lines[:, :-1]
        steep = np.abs(slope)
        inner = steep[:, 8:-8]
        step = np.abs(lines[:, 13:-4] - lines[:, 4:-13])
        peak = (inner >= steep[:, 7:-9]) & (inner >= steep[:, 9:-7]) & (step > 24) & (inner > 2)
        line, place = np.nonzero(peak)
        line, place = line * _CELLS // len(lines), place * _CELLS // peak.shape[1]
        cell = place * _CELLS + line if along else line * _CELLS + place
        narrow = step[peak] <= _BLURRED_WIDTH * inner[peak]
        every[along] = np.bincount(cell, minlength=_CELLS * _CELLS)
        sharp[along] = np.bincount(cell[narrow], minlength=_CELLS * _CELLS)
    return every, sharp


def _made(
    image: Image.Image, lab: FloatArray, full_size: tuple[int, int], name: str, *, lossless: bool, camera: bool
) -> str:
    """ "screenshot", "document", "drawing" or "photo"."""
    is_screen = tuple(sorted(full_size)) in _SCREENS
    if _SCREENSHOT_NAME.search(unicodedata.normalize("NFC", name)):  # macOS takes letters apart
        return "screenshot"
    if camera:
        return "photo"
    lines = _lines(image)
    steps = np.abs(np.diff(lines, axis=1))
    if is_screen and lossless:  # photographs are kept so too: what is drawn is even, up to its edges
        even = steps == 0
        drawn = np.count_nonzero((steps[:, 1:-1] >= 40) & even[:, :-2] & even[:, 2:])
        if np.count_nonzero(even) > _EVEN * even.size or drawn > _DRAWN * len(lines):
            return "screenshot"
    changing, hard = np.count_nonzero(steps > 2), np.count_nonzero(steps >= 64)
    is_flat = changing < (1 - _FLAT_SHARE) * steps.size
    if is_screen and is_flat and hard > _HARD_SHARE / 2 * changing:
        return "screenshot"
    is_written = _written(lines) > _WRITTEN_SHARE
    neutral = np.count_nonzero(np.hypot(lab[:, 1], lab[:, 2]) >= _PAPER_CHROMA) <= len(lab) / 10
    if neutral and is_written and np.median(lines) > _PAPER and _has_lines_of_text(image):
        return "document"
    is_small = not lossless and max(full_size) < _LEAST_DRAWN  # at such a size JPEG makes photographs as flat and hard
    if is_small or not is_flat or hard <= _HARD_SHARE * changing:
        return "photo"
    if is_written:
        return "screenshot"
    figure = np.abs(lines - np.median(lines))[:, 1:] >= _GROUND  # a product on white paper is no drawing
    return "drawing" if np.count_nonzero(steps[figure] <= 2) >= _FLAT_SHARE * np.count_nonzero(figure) else "photo"


def _lines(image: Image.Image, most: int = _ROWS) -> npt.NDArray[np.int16]:
    """The green of some rows of pixels, from edge to edge. Shape: (R, W)."""
    count = min(image.height, most)
    step = (image.height - 1) / max(1, count - 1)
    # the pixel at each place, not between pixels: 0.05 ms where cutting out row by row took 0.36
    places = (1, 0, 0, 0, step, 1e-6 - step / 2)
    rows = image.transform((image.width, count), Image.Transform.AFFINE, places, Image.Resampling.NEAREST)
    return np.asarray(rows.getchannel(1)).astype(np.int16)


def _written(lines: npt.NDArray[np.int16]) -> float:
    """The share of rows that go through a line of text: from ground to ink and back many times."""
    ground = np.median(lines)
    inked = np.abs(lines - ground) > _INK
    changes = np.count_nonzero(inked[:, 1:] != inked[:, :-1], axis=1)
    even = np.count_nonzero(np.abs(lines - ground) < _GROUND, axis=1) > lines.shape[1] * 0.4
    return float(np.mean((changes >= _STROKES) & even))


def _has_lines_of_text(image: Image.Image) -> bool:
    """Whether lines of text and rows with nothing follow each other, in two of four strips from top to bottom: in each,
    a page that lies askew is hardly so. The strokes of a drawing fill the paper."""
    lines = _lines(image, _ROWS_OF_TEXT)
    inked = np.abs(lines - np.median(lines)) > _INK
    turns = []
    for strip in np.array_split(inked, _STRIPS, axis=1):
        changes = np.count_nonzero(strip[:, 1:] != strip[:, :-1], axis=1)
        told = np.where(changes >= _STROKES / _STRIPS, 1, np.where(changes == 0, -1, 0))
        told = told[told != 0]
        turns.append(int(np.count_nonzero(told[1:] != told[:-1])))
    return sorted(turns)[-2] >= _LEAST_TURNS


@lru_cache(maxsize=1)
def _cosines() -> FloatArray:
    """The first 9 rows of the type II cosine transform of 32 values."""
    n = np.arange(_HASH_GRID)
    rows: FloatArray = np.cos(np.pi / _HASH_GRID * (n[None] + 0.5) * np.arange(9)[:, None]).astype(np.float32)
    return rows


def _perceptual_hash(grey: Image.Image) -> int:
    """A bit for each of 64 low frequencies: whether it is over the median (pHash, Zauner 2010)."""
    small = np.asarray(grey.resize((_HASH_GRID, _HASH_GRID), Image.Resampling.BOX), np.float32)
    low = (_cosines() @ small @ _cosines().T)[1:, 1:].ravel()
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big", signed=True)
