"""What can be written next in a query: fields, and their values as they occur in an index.

A `Vocabulary` is counted once for a generation, from columns; a keystroke then compares texts in memory and looks up
the few rows whose capitals it shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.folding import fold_name
from clipsearch.query.fields import FIELDS, Field
from clipsearch.search.facets import count_texts
from clipsearch.search.filters import folder_fits, text_fits
from clipsearch.store.columns import TEXT_COLUMNS

if TYPE_CHECKING:
    from clipsearch.search.collection import Collection

MOST_SUGGESTED = 8
MOST_OF_A_KIND = 3  # where several kinds of values fit a word
MOST_READ = 1000  # characters of the word that is being written
SHORTEST_WORD = 2  # of which values are suggested; fields are from the first letter on
_SAID = re.compile(r'["“”\\\x00-\x1f\x7f]')  # what a quoted value cannot hold; a question mark stands for it
_FIELD = re.compile(r"(\w+):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A field (`value` is empty), or a field with a value. `count`: how many pictures have it, None if nobody counted.

    `label` is what people read; `value` is not quoted yet.
    """

    field: str
    value: str
    label: str
    count: int | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """A folded text of a column, how many pictures have it, and the row id of one of them."""

    text: str
    count: int
    row_id: int


class Vocabulary:
    """The texts of an index by column, the most frequent first, and its years. Folders count what is in them."""

    def __init__(self, photos: Collection) -> None:
        """Raises: CorruptIndex."""
        self._texts: dict[str, list[_Known]] = {}
        ids = photos.row_ids()
        found = [(columns, columns.positions(ids)) for columns in photos.columns()]
        for name in TEXT_COLUMNS:
            counts, examples = count_texts(found, name)
            if name == "folder":
                counts, examples = _with_parents(counts, examples)
            counts.pop("", None)
            known = [_Known(text, count, examples[text]) for text, count in counts.items()]
            self._texts[name] = sorted(known, key=lambda one: (-one.count, one.text))
        moments = [np.empty(0, np.int64), *(columns.dates_us[at] for columns, at in found)]
        dates = np.concatenate(moments).astype("datetime64[us]")
        years, each = np.unique(dates.astype("datetime64[Y]").astype(np.int64) + 1970, return_counts=True)
        self._years = [(year, n) for year, n in zip(years.tolist(), each.tolist(), strict=True) if 1 <= year < 9999]

    def texts(self, column: str) -> list[_Known]:
        """The texts of a column; none of a column that is not one of texts."""
        return self._texts.get(column, [])

    @property
    def years(self) -> list[tuple[int, int]]:
        """Years with how many pictures are of each, the newest first."""
        return self._years[::-1]


def suggest(photos: Collection, known: Vocabulary, word: str, *, most: int = MOST_SUGGESTED) -> list[Suggestion]:
    """What the word of a query that is being written could become, the most fitting first. Raises: CorruptIndex."""
    word = word[:MOST_READ].replace('"', "").replace("“", "").replace("”", "").lstrip("+-(")
    if (match := _FIELD.fullmatch(word)) is not None and (field := FIELDS.get(match[1].lower())) is not None:
        return _values(photos, known, field, fold_name(match[2]).strip(), most)
    wanted = fold_name(word).strip()
    if not wanted:
        return []
    found = [Suggestion(field.name, "", f"{field.name}:") for field in FIELDS.values() if _names(field, wanted)]
    if len(wanted) >= SHORTEST_WORD:
        for name in ("tag", "folder", "camera"):
            values = _values(photos, known, FIELDS[name], wanted, MOST_OF_A_KIND)
            found += [one for one in values if fold_name(one.value) != wanted or name != "tag"]
    return found[:most]


def _names(field: Field, wanted: str) -> bool:
    """Whether a word begins a field's name, or is what other programs call it."""
    return field.name.startswith(wanted) or wanted in field.known_as.split()


def _values(photos: Collection, known: Vocabulary, field: Field, wanted: str, most: int) -> list[Suggestion]:
    """Values of a field that hold `wanted`, which is folded: first those that begin with it, then parts, the most
    frequent first."""
    if field.kind in ("tag", "term"):
        tags = [tag for tag in photos.tags if field.kind == "tag" or tag.kind == "concept"]
        fit = _fitting([(fold_name(tag.name), n) for n, tag in enumerate(tags)], wanted, most)
        return [Suggestion(field.name, tags[n].name, tags[n].name, tags[n].pictures) for n in fit]
    if field.kind in ("since", "until"):
        later = field.kind == "until"  # what is before a year ends where it begins
        years = [(str(year + later), count) for year, count in known.years]
        return [Suggestion(field.name, year, year, count) for year, count in years if year.startswith(wanted)][:most]
    texts = known.texts(field.column) if isinstance(field.column, str) else []
    if texts:
        anchored = field.name == "folder" and wanted.startswith("/")
        fit = _fitting([(one.text, n) for n, one in enumerate(texts)], wanted.lstrip("/") if anchored else wanted, most)
        return [said for n in fit if (said := _said(photos, field, texts[n])) is not None]
    options = [] if field.control is None else field.control.options
    fit = _fitting([(fold_name(value), n) for n, (value, _) in enumerate(options)], wanted, most)
    return [Suggestion(field.name, options[n][0], options[n][1]) for n in fit]


def _fitting(texts: list[tuple[str, int]], wanted: str, most: int) -> list[int]:
    """The numbers of texts that hold `wanted`: those that begin with it, those of which a word does, the others."""
    begins: list[int] = []
    inside: list[int] = []
    anywhere: list[int] = []
    for text, n in texts:
        at = text.find(wanted)
        if at < 0:
            continue
        if at == 0 or text[at - 1] == "/" or f"/{wanted}" in text:
            begins.append(n)
            if len(begins) >= most:
                break
        elif not text[at - 1].isalnum():
            inside.append(n)
        else:
            anywhere.append(n)
    return [*begins, *inside, *anywhere][:most]


def _said(photos: Collection, field: Field, one: _Known) -> Suggestion | None:
    """A value as it is written in the index; None where no value of a query keeps it."""
    label = one.text
    record = photos.record(one.row_id)
    if field.column == "folder":
        written = "/".join(record.place.split("/")[: one.text.count("/") + 1])
    elif field.column == "camera":
        written = record.metadata.camera or ""
    else:
        written = ""
    if fold_name(written) == one.text:
        label = written
    anchor = "/" if field.column == "folder" else ""
    value = anchor + _SAID.sub("?", label)
    fits = folder_fits(value) if field.column == "folder" else text_fits(value)
    is_kept = fits(one.text) and value == value.strip() and label.isprintable()
    return Suggestion(field.name, value, label, one.count) if is_kept else None


def _with_parents(counts: dict[str, int], examples: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """The same with folders of which only those within them have pictures; each counts what is below it."""
    within: dict[str, int] = {}
    example: dict[str, int] = {}
    for folder, count in counts.items():
        parts = folder.split("/")
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            within[parent] = within.get(parent, 0) + count
            example.setdefault(parent, examples[folder])
    return within, example
