"""Searches that people save in an index. They are kept as tags are: in two files each, also while a run goes on, and
through repairs. Their names are their own: a search may be called as a tag is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipsearch.errors import SearchExists, UnknownSearch
from clipsearch.records import Manifest, SavedSearch, TagRef
from clipsearch.store.manifest import key_of
from clipsearch.store.tags import Tag, make_search, read_tag, renamed, with_tags, written_now
from clipsearch.store.writer import change_tags

__all__ = [
    "as_tag",
    "find_search",
    "make_search",
    "read_searches",
    "remove_search",
    "rename_search",
    "save_search",
]


def read_searches(index_dir: Path, manifest: Manifest) -> list[SavedSearch]:
    """The saved searches of a generation, by name. Raises: CorruptIndex, StorageError."""
    tags = [read_tag(index_dir, ref) for ref in manifest.tags if ref.kind == "search"]
    return [tag.search for tag in tags if tag.search is not None]


def save_search(index_dir: Path, search: SavedSearch, *, replace: bool = False) -> None:
    """Save a search. One of the same name is only replaced with `replace`; the same one again is no error.

    Raises: SearchExists, IndexNotFound, OutOfSpace, CorruptIndex.
    """

    def saved(index_dir: Path, kept: dict[str, TagRef]) -> dict[str, TagRef]:
        older = kept.get(key_of(search.name, "search"))
        if older is not None and not replace:
            known = read_tag(index_dir, older).search
            if known is not None and dataclasses.replace(known, name=search.name) == search:
                return kept
            raise SearchExists(older.name)
        return kept | {key_of(search.name, "search"): written_now(index_dir, as_tag(search))}

    _change(index_dir, saved)


def rename_search(index_dir: Path, name: str, new_name: str) -> SavedSearch:
    """Give a saved search another name. Raises: UnknownSearch, SearchExists, InvalidTag, IndexNotFound, OutOfSpace."""
    done: list[Tag] = []

    def changed(index_dir: Path, kept: dict[str, TagRef]) -> dict[str, TagRef]:
        ref = _found(kept, name)
        tag = renamed(read_tag(index_dir, ref), new_name)
        rest = {key: other for key, other in kept.items() if other is not ref}
        key = key_of(new_name, "search")
        if key in rest:
            raise SearchExists(rest[key].name)
        done.append(tag)
        return rest | {key: written_now(index_dir, tag)}

    _change(index_dir, changed)
    assert done[0].search is not None
    return done[0].search


def remove_search(index_dir: Path, name: str) -> SavedSearch:
    """Forget a saved search, which is returned: saving it again undoes this. Raises: UnknownSearch, IndexNotFound."""
    gone: list[Tag] = []

    def without(index_dir: Path, kept: dict[str, TagRef]) -> dict[str, TagRef]:
        ref = _found(kept, name)
        gone.append(read_tag(index_dir, ref))
        return {key: other for key, other in kept.items() if other is not ref}

    _change(index_dir, without)
    assert gone[0].search is not None
    return gone[0].search


def find_search(index_dir: Path, manifest: Manifest, name: str) -> SavedSearch:
    """The saved search that `name` means, whatever its capitals. Raises: UnknownSearch, CorruptIndex."""
    found = read_tag(index_dir, _found(_refs(manifest), name)).search
    assert found is not None
    return found


def _refs(manifest: Manifest) -> dict[str, TagRef]:
    return {key_of(ref.name, ref.kind): ref for ref in manifest.tags}


def _found(kept: dict[str, TagRef], name: str) -> TagRef:
    ref = kept.get(key_of(name, "search"))
    if ref is None:
        raise UnknownSearch(name, [one.name for one in kept.values() if one.kind == "search"])
    return ref


def _change(index_dir: Path, change: Callable[[Path, dict[str, TagRef]], dict[str, TagRef]]) -> None:
    change_tags(index_dir, lambda manifest: with_tags(manifest, change(index_dir, _refs(manifest))))


def as_tag(search: SavedSearch) -> Tag:
    """A search as it is written."""
    return Tag(search.name, np.empty((0, 2), np.int64), np.empty(0, np.float32), search=search)
