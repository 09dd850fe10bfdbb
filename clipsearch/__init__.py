"""clipsearch: type a sentence, see your photos.

    import clipsearch

    clipsearch.index("./photos")
    photos = clipsearch.open("./photos")
    for hit in photos.search("a dog on a beach", k=10):
        print(hit.score, hit.path)

Importing this package loads nothing heavy: each name is loaded when it is first used. It also switches off what
dependencies would send or store about people (see `privacy`).
"""

from __future__ import annotations

import sys as _sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if _sys.platform == "win32":
    raise ImportError("clipsearch does not run on Windows yet; it does in WSL: https://learn.microsoft.com/windows/wsl")

from clipsearch.privacy import switch_off as _switch_off

_switch_off()

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder as AnyEncoder
    from clipsearch.encoder.names import load_encoder
    from clipsearch.errors import ClipsearchError
    from clipsearch.indexer.api import index
    from clipsearch.indexer.build import IndexOptions, IndexReport
    from clipsearch.records import Hit, ImageRecord
    from clipsearch.remote import RemoteCollection, connect
    from clipsearch.search.collection import Collection
    from clipsearch.search.collection import open_collection as open
    from clipsearch.search.embedding import Encoder
    from clipsearch.search.protocol import AnyCollection

__version__ = "0.2.0"

__all__ = [
    "AnyCollection",
    "AnyEncoder",
    "ClipsearchError",
    "Collection",
    "Encoder",
    "Hit",
    "ImageRecord",
    "IndexOptions",
    "IndexReport",
    "RemoteCollection",
    "connect",
    "index",
    "load_encoder",
    "open",
]

_HOMES = {
    "AnyCollection": "clipsearch.search.protocol:AnyCollection",
    "AnyEncoder": "clipsearch.encoder:Encoder",
    "ClipsearchError": "clipsearch.errors:ClipsearchError",
    "Collection": "clipsearch.search.collection:Collection",
    "Encoder": "clipsearch.search.embedding:Encoder",
    "Hit": "clipsearch.records:Hit",
    "ImageRecord": "clipsearch.records:ImageRecord",
    "IndexOptions": "clipsearch.indexer.build:IndexOptions",
    "IndexReport": "clipsearch.indexer.build:IndexReport",
    "RemoteCollection": "clipsearch.remote:RemoteCollection",
    "connect": "clipsearch.remote:connect",
    "index": "clipsearch.indexer.api:index",
    "load_encoder": "clipsearch.encoder.names:load_encoder",
    "open": "clipsearch.search.collection:open_collection",
}


def __getattr__(name: str) -> Any:
    if name == "ui":
        return import_module("clipsearch.ui")
    if name not in _HOMES:
        raise AttributeError(f"module 'clipsearch' has no attribute {name!r}")
    module, _, there = _HOMES[name].partition(":")
    return getattr(import_module(module), there)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
