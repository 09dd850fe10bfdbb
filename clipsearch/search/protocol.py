"""What a collection is, wherever its index lies: the type that local and remote ones share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, overload

from clipsearch.query.arguments import Size
from clipsearch.records import AnyPicture, FloatArray, Hit, Hits, ImageRecord, Sort

if TYPE_CHECKING:
    from clipsearch.pictures.heatmap import HeatMap
    from clipsearch.records import TagKind


class AnyTag(Protocol):
    """A tag or concept of an index, and how many pictures it was given."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> TagKind: ...
    @property
    def pictures(self) -> int: ...


class AnyCollection(Protocol):
    """What `clipsearch.open` and `clipsearch.connect` return: the same calls, answers and errors.

    A local collection is one generation; a remote one is the newest that its server has. `Collection` documents the
    methods. Paths of files are those of this machine, paths in hits those of the machine that has the index.
    """

    @property
    def root(self) -> Path: ...
    @property
    def generation(self) -> int: ...
    @property
    def tags(self) -> Sequence[AnyTag]: ...
    def __len__(self) -> int: ...

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is an iterable of str, too: one query
        self,
        query: str | os.PathLike[str] = ...,
        k: int = ...,
        *,
        offset: int = 0,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> Hits: ...
    @overload
    def search(
        self,
        query: Iterable[str | os.PathLike[str]],
        k: int = ...,
        *,
        offset: int = 0,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> list[Hits]: ...
    def similar(self, picture: int | str | os.PathLike[str] | Hit, k: int = ...) -> Hits: ...
    def where(self, query: str | os.PathLike[str], picture: int | str | os.PathLike[str] | Hit) -> HeatMap: ...
    def notices(self, query: str | os.PathLike[str]) -> list[str]: ...
    def record(self, row_id: int) -> ImageRecord: ...
    def thumbnail(self, row_id: int | Hit, size: Size = 256) -> bytes: ...
    def vector(self, row_id: int) -> FloatArray: ...
    def vectors(self, row_ids: Iterable[int]) -> FloatArray: ...
    def encode_texts(self, texts: Sequence[str]) -> FloatArray: ...
    def encode_text(self, text: str | Iterable[str]) -> FloatArray: ...
    def encode_picture(self, picture: AnyPicture | Iterable[AnyPicture]) -> FloatArray: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...
