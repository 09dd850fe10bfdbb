"""Concepts: what a few pictures have in common, kept in the index under a name (`tag:my-dog`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.errors import InvalidQuery
from clipsearch.records import FloatArray
from clipsearch.search.collection import Collection
from clipsearch.search.feedback import refine, threshold_for
from clipsearch.store.tags import Direction, Tag, make_tag, write_tags

Example = int | str | Path
"""A row id, or the path of a picture (in the index or not)."""


def learn_concept(
    photos: Collection,
    name: str,
    like: Sequence[Example],
    unlike: Sequence[Example] = (),
    *,
    query: FloatArray | None = None,
) -> Tag:
    """A concept of the pictures like some and unlike others; `query`, shape (D,), is what they were found with.

    Raises: InvalidQuery without an example or with an unknown id, UnreadablePicture, InvalidTag for a bad name.
    """
    if not like:
        raise InvalidQuery("a concept needs at least one picture: clipsearch concept add NAME PICTURE...")
    up, down = ([_example(photos, example) for example in examples] for examples in (like, unlike))
    dim = photos.manifest.model.dim
    ups, downs = (np.array([vector for vector, _ in e], np.float32).reshape(-1, dim) for e in (up, down))
    sample = photos.sample()
    vector = refine(query, ups, downs, sample.mean(axis=0) if len(sample) else np.zeros(dim, np.float32))
    threshold = threshold_for(vector, ups, downs, sample)
    scores = {content: 1.0 for _, content in up if content} | {content: -1.0 for _, content in down if content}
    return make_tag(name, scores, Direction(vector, threshold, photos.manifest.model.fingerprint))


def add_concept(
    photos: Collection, name: str, like: Sequence[Example], unlike: Sequence[Example] = (), *, replace: bool = False
) -> Tag:
    """Learn a concept and keep it in the index. Another tag or concept of that name is only replaced with `replace`.

    Raises: as learn_concept, TagExists, IndexLocked.
    """
    concept = learn_concept(photos, name, like, unlike)
    write_tags(photos.index, [concept], replace=replace)
    return concept


def _example(photos: Collection, example: Example) -> tuple[FloatArray, str | None]:
    if not isinstance(example, int):
        return photos.read_picture(example)
    return photos.vectors([example])[0], photos.content_hash(example)
