"""Words that stand in pictures, as a query asks for them: by `text:`, or because its own words are the picture's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.folding import fold_name, folded_words
from clipsearch.query.nodes import AllOf, AnyOf, Filter, Glob, Written
from clipsearch.records import IntArray, Line
from clipsearch.search.filters import text_fits
from clipsearch.store.hashes import among, hash_texts

if TYPE_CHECKING:
    from clipsearch.query import Query
    from clipsearch.search.collection import Collection
    from clipsearch.store.words import WordFiles

MOST_LINES = 8  # of a picture, that a hit shows
FEW = 20  # pictures with the words of a query: more say that the words are too common to mean these
LOOKED_AT = 3 * FEW  # pictures whose words are compared with those of a query
MOST_ROWS = 2 * FEW  # files of these pictures
LEAST_CHARACTERS = 3  # of all words of a query

_WORD = re.compile(r"\w+")


def asked_words(expression: Filter | None) -> list[str]:
    """The words that `text:` asks for, but for those of which a picture must have none."""
    if isinstance(expression, Written):
        return list(expression.words)
    if isinstance(expression, AllOf | AnyOf):
        return [word for part in expression.parts for word in asked_words(part)]
    return []


def asked_captions(expression: Filter | None) -> list[str]:
    """The patterns that captions by a model are asked for, but for those that a picture must not have."""
    if isinstance(expression, Glob):
        return list(expression.values) if expression.column in ("caption", "generated") else []
    if isinstance(expression, AllOf | AnyOf):
        return [pattern for part in expression.parts for pattern in asked_captions(part)]
    return []


def captions_that_fit(lines: Iterable[Line], patterns: Sequence[str]) -> list[Line]:
    """Those captions that one of some patterns describes."""
    return [line for line in lines if any(text_fits(pattern)(fold_name(line.text)) for pattern in patterns)]


def captioned(files: WordFiles, pattern: str) -> IntArray:
    """The content hashes of pictures whose captions by a model fit a pattern. Shape: (N, 2) int64."""
    parts = [part for part in re.split(r"[*?]+", fold_name(pattern)) if part]
    return files.fitting(parts, text_fits(pattern))


def words_of(text: str) -> list[str]:
    """The words of a text, folded."""
    return _WORD.findall(fold_name(text))


def lines_with_parts(lines: Iterable[Line], words: Sequence[str]) -> list[Line]:
    """Those lines in which one of some words stands, or a longer one that holds it."""
    wanted = [folded for word in words if (folded := folded_words(word))]
    return [line for line in lines if any(word in folded_words(line.text) for word in wanted)]


def lines_with_words(lines: Iterable[Line], words: Sequence[str]) -> list[Line]:
    """Those lines in which one of some folded words stands."""
    wanted = frozenset(words)
    return [line for line in lines if not wanted.isdisjoint(words_of(line.text))]


def said_words(query: Query) -> list[str]:
    """The words that a query asks for in words, folded, each once."""
    said = [word for term in query.terms if term.kind == "text" and term.weight > 0 for word in words_of(term.value)]
    return list(dict.fromkeys(said))


def rows_with_words(photos: Collection, words: Sequence[str], selection: IntArray | None = None) -> IntArray:
    """The row ids of pictures in which all of some folded words stand, if these are few; of `selection` alone.

    First those in which they follow each other in a line, then those of which they are most. Shape: (N,) int64.
    Raises: CorruptIndex.
    """
    none = np.empty(0, np.int64)
    if sum(map(len, words)) < LEAST_CHARACTERS:
        return none
    candidates = photos.words.few(words, LOOKED_AT)
    if not candidates:
        return none
    ranks: dict[bytes, tuple[bool, float]] = {}
    for content_hash in candidates:
        lines = [words_of(line.text) for line in photos.words.lines(content_hash.hex())]
        every = [word for line in lines for word in line]
        if set(words) <= set(every):
            phrase = f" {' '.join(words)} "
            together = any(phrase in f" {' '.join(line)} " for line in lines)
            ranks[content_hash] = (not together, -len(words) / len(every))
    if not 0 < len(ranks) <= FEW:
        return none
    wanted = np.frombuffer(b"".join(ranks), "<i8").reshape(-1, 2)
    found: list[tuple[tuple[bool, float], int]] = []
    for columns, alive in zip(photos.columns(), photos.alive(), strict=True):
        is_part = among(columns.part_hashes, wanted)
        at = np.flatnonzero((is_part | among(columns.hashes, wanted)) & alive)
        hashes = hash_texts(np.where(is_part[at, None], columns.part_hashes[at], columns.hashes[at]))
        found += [
            (ranks[bytes.fromhex(content_hash)], int(row_id))
            for content_hash, row_id in zip(hashes, columns.row_ids[at], strict=True)
        ]
    ids = np.array([row_id for _, row_id in sorted(found)], np.int64)
    if selection is not None:
        ids = ids[np.isin(ids, selection)]
    return ids if len(ids) <= MOST_ROWS else none
