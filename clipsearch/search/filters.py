"""Which pictures pass a filter expression, answered from columns: a million rows in a fraction of a second.

What a picture does not say of itself never matches: one without a place is near nothing. `not` is the rest of the
collection, so `not near:...` finds it. Every picture has a date (see store.columns.date_of).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from clipsearch.folding import fold_name
from clipsearch.query.fields import PANORAMA, Column, column_of
from clipsearch.query.nodes import AllOf, AnyOf, Filter, Glob, Near, Not, Oriented, Range, Seen, Tagged, Written
from clipsearch.records import COLORS, TRAITS, IntArray
from clipsearch.store.columns import LIST_COLUMNS, NUMBERS, SEPARATOR, Columns
from clipsearch.store.hashes import among

BoolArray = npt.NDArray[np.bool_]
DegreesArray = npt.NDArray[np.float64]

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG


def passing(
    expression: Filter,
    columns: Columns,
    tagged: Callable[[str], BoolArray],
    holding: Callable[[tuple[str, ...]], IntArray] = lambda words: np.empty((0, 2), np.int64),
    moving: Callable[[], IntArray] = lambda: np.empty(0, np.int64),
    captioned: Callable[[str], IntArray] = lambda pattern: np.empty((0, 2), np.int64),
) -> BoolArray:
    """Which rows pass. `tagged` says which rows carry a tag, `holding` the content hashes, (M, 2) int64, of pictures in
    which words stand, `moving` the row ids, ascending, of Live Photos, `captioned` the content hashes of pictures whose
    captions by a model fit a pattern. Shapes: (N,) bool, in the order of the columns' rows."""
    inner = partial(passing, columns=columns, tagged=tagged, holding=holding, moving=moving, captioned=captioned)
    match expression:
        case AllOf(parts):
            mask = inner(parts[0])
            for part in parts[1:]:
                if not mask.any():
                    break
                mask = mask & inner(part)
            return mask
        case AnyOf(parts):
            mask = inner(parts[0])
            for part in parts[1:]:
                mask = mask | inner(part)
            return mask
        case Not(part):
            rest: BoolArray = ~inner(part)
            return rest
        case Glob(asked, values):
            generated = asked in ("caption", "generated")
            said = [_of_contents(columns, captioned(value)) for value in values] if generated else []
            people = [] if asked == "generated" else [_fitting(str(column_of(asked)), values, columns)]
            fitting: BoolArray = np.logical_or.reduce([*people, *said])
            return fitting
        case Range(asked, low, high):
            numbers, known = _numbers(column_of(asked), columns)
            known &= True if low is None else numbers >= low
            known &= True if high is None else numbers < high
            return known
        case Oriented(shape):
            width, height = columns.whole("width"), columns.whole("height")
            fits = {"landscape": width > height, "portrait": width < height, "square": width == height}[shape]
            oriented: BoolArray = fits & (width > 0) & (height > 0)
            return oriented
        case Seen(asked, names):
            seen = _seen(asked, names, columns)
            is_asked = asked != "color" and "motion" in names and len(moving())
            return seen | np.isin(columns.row_ids, moving(), assume_unique=True) if is_asked else seen
        case Near(latitude, longitude, radius_m):
            distances = distance_m(latitude, longitude, columns.degrees("latitude"), columns.degrees("longitude"))
            within: BoolArray = distances <= radius_m  # NaN is not
            return within
        case Tagged(name):
            return tagged(name)
        case Written(words):
            return _of_contents(columns, holding(words))


def _of_contents(columns: Columns, held: IntArray) -> BoolArray:
    """Which rows are of some contents, or of parts of them. Shape: held (M, 2)."""
    inside: BoolArray = among(columns.hashes, held)
    return inside if columns.part_hashes is columns.hashes else inside | among(columns.part_hashes, held)


def _seen(asked: str, names: tuple[str, ...], columns: Columns) -> BoolArray:
    known = COLORS if asked == "color" else TRAITS
    bits = sum({1 << known.index(name) for name in names if name in known})  # named twice is asked once
    seen: BoolArray = (columns.whole(str(column_of(asked))) & bits) != 0
    if "panorama" in names:
        width, height = columns.whole("width"), columns.whole("height")
        long = np.maximum(width, height) >= PANORAMA * np.minimum(width, height)
        is_photo = columns.whole("traits") & (1 << TRAITS.index("photo")) != 0
        seen = seen | (long & is_photo)
    return seen


def _numbers(column: Column, columns: Columns) -> tuple[IntArray, BoolArray]:
    """Of each row, the number that a filter asks, and whether it is known. Shapes: (N,)."""
    if isinstance(column, str):
        numbers, unknown = columns.whole(column), NUMBERS[column].unknown
    else:
        numbers, unknown = column(columns.numbers), 0
    known: BoolArray = np.ones(len(columns), bool) if unknown is None else numbers != unknown
    return numbers, known


def distance_m(
    latitude: float, longitude: float, latitudes: DegreesArray, longitudes: DegreesArray
) -> npt.NDArray[np.float64]:
    """Metres on a sphere from one place to others (haversine), NaN where one is not known. Degrees; shape (N,)."""
    here, there = np.radians(latitude), np.radians(latitudes)
    half_north, half_east = (there - here) / 2, np.radians(longitudes - longitude) / 2
    chord = np.sin(half_north) ** 2 + np.cos(here) * np.cos(there) * np.sin(half_east) ** 2
    result: npt.NDArray[np.float64] = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(chord, 0, 1)))
    return result


def _fitting(column: str, values: tuple[str, ...], columns: Columns) -> BoolArray:
    if column in LIST_COLUMNS:
        return columns.having(
            column, np.logical_or.reduce([_texts_that_fit(value, column, columns) for value in values])
        )
    fits = {"folder": folder_fits, "ext": _ext_fits}.get(column, text_fits)
    tests = [fits(value) for value in values]
    if column == "name":
        named: BoolArray = np.logical_or.reduce([_names_that_fit(value, columns.names) for value in values])
        return named
    table = np.array([any(test(text) for test in tests) for text in columns.texts(column)] + [False], bool)
    fitting: BoolArray = table[columns.codes(column)]  # -1, for none, is the last
    return fitting


def _texts_that_fit(pattern: str, column: str, columns: Columns) -> BoolArray:
    """Which texts of a column of lists fit a pattern. Shape: (T,), by their numbers."""
    wanted = fold_name(pattern)
    if column == "column":
        fits = column_fits(pattern)
        return np.array([fits(text) for text in columns.texts(column)], bool)
    if column == "keyword" or "*" in wanted or "?" in wanted:
        test = keyword_fits(pattern) if column == "keyword" else text_fits(pattern)
        return np.array([test(text) for text in columns.texts(column)], bool)
    # Captions are as many as pictures: no object is made of one that does not fit.
    joined = columns.joined(column)
    separators = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(SEPARATOR))
    found = np.zeros(len(separators), bool)
    behind = re.escape(wanted.encode("utf-8", "surrogatepass")) + rb"[^\0]*"
    starts = [match.start() for match in re.finditer(behind, joined)]
    found[np.searchsorted(separators, starts, "right") - 1] = True
    return found


def column_fits(pattern: str) -> Callable[[str], bool]:
    """A test of folded texts `name=value`: a number must be that one, any other value is as for `text_fits`. A pattern
    without a name is one of values."""
    name, equals, value = fold_name(pattern).partition("=")
    if not equals:
        fits = text_fits(pattern)
        return lambda text: fits(text.partition("=")[2])
    fits = text_fits(value)
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?", value) is not None
    wanted = name.strip()

    def fits_both(text: str) -> bool:
        own, _, said = text.partition("=")
        return own == wanted and (said == value if is_number else fits(said))

    return fits_both


def keyword_fits(pattern: str) -> Callable[[str], bool]:
    """A test of folded keywords, whose levels have a bar between them: as `text_fits`, but a pattern describes one
    level or several that follow each other. A slash stands for a bar as well."""
    wanted = fold_name(pattern)
    slashed = wanted.replace("|", "/")
    if "*" not in wanted and "?" not in wanted:
        if slashed == wanted and "/" not in wanted:
            return lambda text: wanted in text
        return lambda text: wanted in text or slashed in text.replace("|", "/")
    described = _described(slashed)

    def fits(text: str) -> bool:
        if "|" not in text:
            return described.match(text) is not None
        levels = text.split("|")[:_MOST_LEVELS]
        return any(
            described.match("/".join(levels[start:end])) is not None
            for start in range(len(levels))
            for end in range(start + 1, len(levels) + 1)
        )

    return fits


_MOST_LEVELS = 32


def _names_that_fit(pattern: str, names: list[str]) -> BoolArray:
    """As `text_fits` for each, without a call of ours for each of a million names."""
    wanted = fold_name(pattern)
    if "*" not in wanted and "?" not in wanted:
        return np.array([wanted in name for name in names], bool)
    match = _described(wanted).match
    return np.array([match(name) is not None for name in names], bool)


def text_fits(pattern: str) -> Callable[[str], bool]:
    """A test of folded texts: a pattern with * or ? describes all of a text, one without is a part of it."""
    wanted = fold_name(pattern)
    if "*" not in wanted and "?" not in wanted:
        return lambda text: wanted in text
    described = _described(wanted)
    return lambda text: described.match(text) is not None


def _described(pattern: str) -> re.Pattern[str]:
    """A glob as an expression that never tries twice (fnmatch's takes each * for the shortest that fits)."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def _ext_fits(pattern: str) -> Callable[[str], bool]:
    from clipsearch.pictures.formats import usual_extension  # most queries do without

    wanted = fold_name(pattern.strip()).removeprefix(".")
    if "*" not in wanted and "?" not in wanted:
        same = usual_extension(wanted)
        return lambda text: usual_extension(text) == same
    described = _described(wanted)
    return lambda text: described.match(text) is not None


def folder_fits(pattern: str) -> Callable[[str], bool]:
    """A test of folded folders ("trips/rome", "" for the collection's own), as .gitignore reads patterns.

    A folder fits with everything in it. Without a slash (but at the end) the pattern may fit at any depth, otherwise
    from the top. * and ? stay within one name, ** spans any number of them.
    """
    wanted = fold_name(pattern).replace("\\", "/")
    anywhere = "/" not in wanted.rstrip("/")
    parts = [part for part in wanted.split("/") if part not in ("", ".")]
    while parts and parts[-1] == "**":
        parts.pop()
    if not any("*" in part or "?" in part for part in parts):
        plain = "".join(f"{part}/" for part in parts)
        if anywhere:
            return lambda folder: f"/{plain}" in f"/{folder}/"
        return lambda folder: f"{folder}/".startswith(plain)
    if anywhere:
        parts.insert(0, "**")
    tests = [None if part == "**" else _described(part) for part in parts]
    return lambda folder: _folder_is(folder.split("/") if folder else [], tests)


def _folder_is(names: list[str], tests: list[re.Pattern[str] | None]) -> bool:
    """Whether the tests fit a beginning of `names`, one name each; None fits any number of them."""
    reached = {0}  # how many names the tests so far may have used up
    for test in tests:
        if test is None:
            reached = set(range(min(reached), len(names) + 1))
        else:
            reached = {n + 1 for n in reached if n < len(names) and test.match(names[n])}
        if not reached:
            return False
    return True
