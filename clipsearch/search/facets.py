"""What the hits of a question are made of: how many of each year, folder, camera, type, tag, keyword and person, and of
each month.

Counted from columns, like filters: no object per row. Each value comes with the filters that keep exactly its
pictures, in the query language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipsearch.folding import fold_name
from clipsearch.query.nodes import Span, Tagged
from clipsearch.records import ImageRecord, IntArray
from clipsearch.search.filters import folder_fits, keyword_fits, text_fits
from clipsearch.store.columns import LIST_COLUMNS, Columns

if TYPE_CHECKING:
    from clipsearch.search.collection import Collection

MOST_VALUES = 12
MOST_TAGS = 40  # concepts among them are compared with every vector
_UNSAID = re.compile(r'["“”\\\x00-\x1f\x7f]|^\s|\s$')  # what a quoted value of a query cannot hold
_MONTHS_A_YEAR = 12


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value, how many hits have it, and the filters (field, value) that keep them."""

    label: str
    count: int
    filters: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Hits by month in their order. `months`: (month, hits), as (2023-05, 7); shapes (N,) uint8: see `shape_codes`."""

    months: list[tuple[str, int]]
    shapes: npt.NDArray[np.uint8]


def count_facets(photos: Collection, ids: IntArray, *, most: int = MOST_VALUES) -> dict[str, list[FacetValue]]:
    """The most frequent values among some pictures, by field. Shape: ids (N,) int64, ascending."""
    found = [(columns, columns.positions(ids)) for columns in photos.columns()]
    return {
        "year": _years(found, most),
        "folder": _folders(photos, found, most),
        "camera": _cameras(photos, found, most),
        "type": _types(found, most),
        "tag": _tags(photos, ids, most),
        "keyword": _words(photos, found, "keyword", keyword_fits, lambda record: record.metadata.keywords, most),
        "person": _words(photos, found, "person", text_fits, lambda record: record.metadata.people, most),
    }


Found = list[tuple[Columns, IntArray]]


def _years(found: Found, most: int) -> list[FacetValue]:
    months = np.concatenate([np.empty(0, np.int64), *(months_of(columns.dates_us[at]) for columns, at in found)])
    years, counts = np.unique(months // _MONTHS_A_YEAR + 1970, return_counts=True)
    newest_first = zip(years[::-1].tolist(), counts[::-1].tolist(), strict=True)
    return [
        FacetValue(str(year), count, (("after", f"{year:04}"), ("before", f"{year + 1:04}")))
        for year, count in newest_first
        if 1 <= year < 9999
    ][: 4 * most]


def _folders(photos: Collection, found: Found, most: int) -> list[FacetValue]:
    """The folders that the hits are divided into: those within the deepest that holds all of them."""
    counts, examples = count_texts(found, "folder")
    if not counts:
        return []
    split = {text: text.split("/") if text else [] for text in counts}
    first, last = min(split.values()), max(split.values())
    depth = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    within: dict[str, int] = {}
    example: dict[str, int] = {}
    for text, parts in split.items():
        if len(parts) > depth:
            folder = "/".join(parts[: depth + 1])
            within[folder] = within.get(folder, 0) + counts[text]
            example.setdefault(folder, examples[text])
    values = []
    for folder, count in _most_frequent(within, most):
        label = "/".join(photos.record(example[folder]).place.split("/")[: depth + 1])
        value = said_exactly(f"/{label}", f"/{folder}", (f"/{other}" for other in within), _folder_is)
        if value is not None:
            values.append(FacetValue(label, count, (("folder", value),)))
    return values


def _folder_is(pattern: str) -> Callable[[str], bool]:
    fits = folder_fits(pattern)
    return lambda folder: fits(folder.removeprefix("/"))


def _cameras(photos: Collection, found: Found, most: int) -> list[FacetValue]:
    counts, examples = count_texts(found, "camera")
    known = {text for columns in photos.columns() for text in columns.texts("camera")}
    values = []
    for text, count in _most_frequent(counts, most):
        label = photos.record(examples[text]).metadata.camera or text
        value = said_exactly(label, text, known, text_fits)
        if value is not None:
            values.append(FacetValue(label, count, (("camera", value),)))
    return values


def _types(found: Found, most: int) -> list[FacetValue]:
    from clipsearch.pictures.formats import usual_extension

    counts: dict[str, int] = {}
    for text, count in count_texts(found, "ext")[0].items():
        if re.fullmatch(r"\w+", text):  # others cannot be asked for
            usual = usual_extension(text)
            counts[usual] = counts.get(usual, 0) + count
    return [FacetValue(text, count, (("ext", text),)) for text, count in _most_frequent(counts, most)]


def _tags(photos: Collection, ids: IntArray, most: int) -> list[FacetValue]:
    counts = {}
    pictures = np.unique(photos.pictures_of(ids))
    for tag in sorted(photos.tags, key=lambda tag: (tag.kind != "tag", -tag.pictures))[:MOST_TAGS]:
        carrying = photos.select(Tagged(tag.name, Span(0, 0)))
        counts[tag.name] = int(np.isin(pictures, photos.pictures_of(carrying)).sum())
    return [FacetValue(name, count, (("tag", name),)) for name, count in _most_frequent(counts, most) if count]


def _words(
    photos: Collection,
    found: Found,
    name: str,
    fits: Callable[[str], Callable[[str], bool]],
    texts_of: Callable[[ImageRecord], Iterable[str]],
    most: int,
) -> list[FacetValue]:
    """The values of a column of lists."""
    counts, examples = count_texts(found, name)
    known = {text for columns in photos.columns() for text in columns.texts(name)} if counts else set()
    values = []
    for text, count in _most_frequent(counts, most):
        written = texts_of(photos.record(examples[text]))
        label = next((one for one in written if fold_name(one) == text), text)
        value = said_exactly(label, text, known, fits)
        if value is not None:
            values.append(FacetValue(label, count, ((name, value),)))
    return values


def count_texts(found: Found, name: str) -> tuple[dict[str, int], dict[str, int]]:
    """How many pictures have each text of a column, and the row id of one of them."""
    counts: dict[str, int] = {}
    examples: dict[str, int] = {}
    for columns, at in found:
        if name in LIST_COLUMNS:
            which, codes = columns.listed(name, at)
            row_ids = columns.row_ids[at[which]]
        else:
            codes, row_ids = columns.codes(name)[at], columns.row_ids[at]
            codes, row_ids = codes[codes >= 0], row_ids[codes >= 0]
        each = np.bincount(codes)
        first = np.zeros(len(each), np.int64)
        first[codes[::-1]] = row_ids[::-1]  # of several, the last that is put there stays
        texts = columns.texts(name)
        for number in np.flatnonzero(each).tolist():
            counts[texts[number]] = counts.get(texts[number], 0) + int(each[number])
            examples.setdefault(texts[number], int(first[number]))
    return counts, examples


def _most_frequent(counts: dict[str, int], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def said_exactly(
    label: str, text: str, known: Iterable[str], fits: Callable[[str], Callable[[str], bool]]
) -> str | None:
    """A value of a filter that keeps `text` and none of the other `known` texts: what people read, where that does.
    None where there is no such value.

    `label` is the text as it was written, `fits` how the filter reads a value. Else a question mark stands for what
    cannot be said, or for one letter: a pattern fits all of a text, not a part of it.
    """
    others = [other for other in known if other != text]

    def is_exact(value: str) -> bool:
        if _UNSAID.search(value):
            return False
        test = fits(value)
        return test(text) and not any(test(other) for other in others)

    if fold_name(label) == text and is_exact(label):
        return label
    plain = _UNSAID.sub("?", text)
    places = sorted(range(len(plain)), key=lambda at: plain[at].isalnum())  # a space or a stroke before a letter
    patterns = [plain, *(f"{plain[:at]}?{plain[at + 1 :]}" for at in places if plain[at] != "/")]
    return next(filter(is_exact, patterns), None)


def months_of(dates_us: IntArray) -> IntArray:
    """Months since January 1970 of moments. Shape: (N,) int64."""
    months: IntArray = dates_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    return months


def timeline(photos: Collection, ids: IntArray) -> Timeline:
    """Months and shapes of pictures that are sorted by date, the newest first. Shape: ids (N,) int64, in their order.

    A group of near-duplicates is where its newest is, and counts for the month of its neighbours.
    """
    order = np.argsort(ids)
    ascending = ids[order]
    months = np.zeros(len(ids), np.int64)
    codes = np.zeros(len(ids), np.uint8)
    for columns in photos.columns():
        at = columns.positions(ascending)
        there = order[np.searchsorted(ascending, columns.row_ids[at])]
        months[there] = months_of(columns.dates_us[at])
        codes[there] = shape_codes(columns.whole("width")[at], columns.whole("height")[at])
    months = np.minimum.accumulate(months) if len(months) else months
    starts = np.flatnonzero(np.diff(months, prepend=months[:1] + 1)) if len(months) else np.empty(0, np.int64)
    counts = np.diff(starts, append=len(months))
    return Timeline(
        [
            (f"{month // _MONTHS_A_YEAR + 1970:04}-{month % _MONTHS_A_YEAR + 1:02}", count)
            for month, count in zip(months[starts].tolist(), counts.tolist(), strict=True)
        ],
        codes,
    )


def shape_codes(widths: IntArray, heights: IntArray) -> npt.NDArray[np.uint8]:
    """Width over height in one byte: 0 is unknown, 1..255 are 1/4 to 4 in equal ratios. Shapes: (N,)."""
    known = (widths > 0) & (heights > 0)
    ratios = np.log2(np.where(known, widths, 1) / np.where(known, heights, 1))
    codes: npt.NDArray[np.uint8] = np.where(known, np.round((np.clip(ratios, -2, 2) + 2) / 4 * 254) + 1, 0).astype(
        np.uint8
    )
    return codes
