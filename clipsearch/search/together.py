"""Several indexes, searched together as one: the only place where answers of indexes are merged.

The parts are collections of one model. Here, the row id of a picture is that of its index, raised by a number that
belongs to the index at its place alone, so that it means the same picture whichever other indexes are searched. All
that ranks, judges, filters, folds and counts asks collections by row id, and works on the whole as on one index: a
query is encoded once, the nearest of each part are merged by score, and confidence is judged against one background, a
sample of all vectors. So an index that is divided into several answers as before.

A part that cannot be read is left out and named; the rest is asked again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch import config
from clipsearch.encoder import Encoder
from clipsearch.errors import (
    UNREADABLE,
    ClipsearchError,
    ClosedCollection,
    ClusterError,
    InvalidArgument,
    InvalidQuery,
    MixedModels,
    NoSuchPicture,
    OneIndexOnly,
    PartLost,
    PictureOfOne,
    UnknownTag,
)
from clipsearch.filenames import readable, safe, to_bytes
from clipsearch.folding import fold_name
from clipsearch.places import is_address
from clipsearch.query import Query
from clipsearch.query.arguments import read_count, read_known_row_ids, read_place, read_row_id, shown
from clipsearch.records import FloatArray, FoundIn, Hit, ImageRecord, IntArray, Line, Manifest, ModelRef, TagRef
from clipsearch.search.collection import Collection, open_collection
from clipsearch.search.embedding import Encoder as ModelEncoder
from clipsearch.search.live import LivePhotos, joined
from clipsearch.sentences import sentence
from clipsearch.store import LiveRows
from clipsearch.store.tags import find_tag
from clipsearch.timing import lap
from clipsearch.vectors import VectorSegment, check_queries, empty_result, merge

if TYPE_CHECKING:
    from clipsearch.query.nodes import Filter
    from clipsearch.store.columns import Columns
    from clipsearch.store.tags import Direction, Tag
    from clipsearch.store.words import WordFiles

ROW_BITS = 32
"""Of a row id, those that are the index's own. With NUMBER_BITS, all fit into the numbers of JavaScript."""
NUMBER_BITS = 20
Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One of the indexes. `name`: what it is called where it is searched; `by`: what its row ids are raised by."""

    photos: Collection
    name: str
    by: int


class Together(Collection):
    """Several indexes that are searched as one. Use `open_together`, or `clipsearch.open` with a list, to make one.

    `row_id` is a number of its own here (a hit's `found_in` has that of the index); what is done in one index, such as
    saving a concept, raises OneIndexOnly.
    """

    _unknown = "{} is not a picture of the indexes that are searched together"
    _named_by = "Use the row_id of a hit of this search, or the path of the picture."

    def __init__(
        self,
        parts: Sequence[tuple[str, Collection]],
        missing: Mapping[str, str] | None = None,
        *,
        owned: bool = True,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """`parts`: open collections, by what they are called. `missing`: others, which cannot be read, and why.
        `owned`: they are closed with this one. `numbers`: what their row ids are raised by, if not by `row_numbers`: of
        the parts of one index, by where each begins in it. Raises: MixedModels, InvalidArgument for no parts at all."""
        if not parts:
            raise InvalidArgument("parts", "empty", "a list of collections")
        check_models([photos for _, photos in parts])
        numbers = numbers or row_numbers([photos for _, photos in parts])
        self._parts = [Part(photos, name, by) for (name, photos), by in zip(parts, numbers, strict=True)]
        self._missing = dict(missing or {})
        self.has_lost = False
        """Whether a part could not be read since, and is left out."""
        self._owned = owned
        self._is_closed = False
        self.read_part = next((part.photos.read_part for part in self._parts if part.photos.read_part), None)
        self._encoder = None
        self._forget()

    def _forget(self) -> None:
        """What is known of the parts together is no longer true."""
        numbered = sorted(self._parts, key=lambda part: part.by)
        firsts = [part.by for part in numbered]
        self._numbered = numbered, np.array([*firsts, firsts[-1] + (1 << ROW_BITS)], np.int64)
        self._sample = self._background = self._nearness = self._live = None
        self._manifest: Manifest | None = None
        self._columns: list[Columns] | None = None
        identities = sorted(f"{part.by} {_which(part.photos)}" for part in self._parts)
        self.identity = xxhash.xxh3_128_hexdigest(to_bytes("\n".join(identities)))

    def _lost(self, part: Part, error: Exception) -> Exception:
        """What to raise for a part that cannot be read: it is left out from now on, unless it is the last."""
        if len(self._parts) == 1:
            return error
        if part in self._parts:
            self._missing[part.name] = said_of(error)
            self.has_lost = True
            self._parts = [other for other in self._parts if other is not part]
            self._forget()
        return PartLost(part.name, self._missing[part.name])

    def _of(self, part: Part, ask: Callable[[Collection], Answer]) -> Answer:
        """What a part answers. Raises: PartLost."""
        try:
            return ask(part.photos)
        except UNREADABLE as error:
            raise self._lost(part, error) from error

    def _each(self, ask: Callable[[Collection], Answer]) -> list[tuple[Part, Answer]]:
        """What each part answers, in the order of their row ids here. Raises: PartLost."""
        self._check_open()
        return [(part, self._of(part, ask)) for part in self._numbered[0]]

    # -- what it is

    @property
    def parts(self) -> Sequence[tuple[Collection, int]]:
        self._check_open()
        return [(part.photos, part.by) for part in self._parts]

    @property
    def missing(self) -> Mapping[str, str]:
        self._check_open()
        shards = {name: why for part in self._parts for name, why in part.photos.missing.items()}
        return {**self._missing, **shards} if shards else self._missing

    @property
    def index(self) -> Path:  # type: ignore[override]
        """Raises: OneIndexOnly."""
        raise OneIndexOnly([part.name for part in self._parts])

    @property
    def root(self) -> Path:
        """The folder that those of all parts lie in; that of the first, where some lie in object storage."""
        roots = [part.photos.root for part in self._parts]
        if any(map(is_address, roots)):
            return roots[0]
        return Path(os.path.commonpath([root.absolute() for root in roots]))

    @property
    def manifest(self) -> Manifest:
        """The generations that are open, as one."""
        self._check_open()
        manifest = self._manifest  # another thread may lose a part meanwhile
        if manifest is None:
            each = [part.photos.manifest for part in self._parts]
            self._manifest = manifest = dataclasses.replace(
                each[0],
                generation=sum(one.generation for one in each),
                created_at=" ".join(one.created_at for one in each),
                root="",
                fragments=tuple(itertools.chain.from_iterable(one.fragments for one in each)),
                segments=tuple(itertools.chain.from_iterable(one.segments for one in each)),
                pictures=sum(one.pictures for one in each),
                skipped=sum(one.skipped for one in each),
                missing=sum(one.missing for one in each),
                more_views=sum(one.more_views for one in each),
                tags=_tags_of(each),
                words=tuple(itertools.chain.from_iterable(one.words for one in each)),
                captions=tuple(itertools.chain.from_iterable(one.captions for one in each)),
            )
        return manifest

    @property
    def _segments(self) -> list[VectorSegment]:
        self._check_open()
        return [segment for part in self._parts for segment in part.photos._segments]

    def _take(self, segment: VectorSegment, positions: IntArray) -> FloatArray:
        of = [part for part in self._parts if any(own is segment for own in part.photos._segments)]
        return (
            self._of(of[0], lambda photos: photos._take(segment, positions))
            if of
            else super()._take(segment, positions)
        )

    def live_rows(self) -> list[LiveRows]:
        return [rows for _, own in self._each(lambda photos: photos.live_rows()) for rows in own]

    def __iter__(self) -> Iterator[ImageRecord]:
        self._check_open()
        return itertools.chain.from_iterable(
            (dataclasses.replace(record, row_id=record.row_id + part.by) for record in part.photos)
            for part in self._numbered[0]
        )

    def __repr__(self) -> str:
        if self._is_closed:
            return f"<{len(self._parts)} collections together, closed>"
        names = ", ".join(repr(part.name) for part in self._parts)
        return f"<Collections of {len(self):,} pictures together: {names}>"

    @property
    def encoder(self) -> Encoder:
        """The model of the first index, loaded when it is first needed; the others use it, too."""
        self._check_open()
        if self._encoder is None:
            self._encoder = self._parts[0].photos.encoder
            for part in self._parts[1:]:
                if part.photos._encoder is None:
                    part.photos._encoder = part.photos._fitting(self._encoder)
        return self._encoder

    def _fitting(self, encoder: Encoder) -> Encoder:
        return self._parts[0].photos._fitting(encoder)

    # -- rows

    def _divided(self, row_ids: IntArray) -> list[tuple[Part, npt.NDArray[np.bool_]]]:
        """Which of some row ids each part has. Raises: PictureOfOne. Shapes: (N,)."""
        parts, bounds = self._numbered
        which = np.searchsorted(bounds, row_ids, "right") - 1
        strange = (which < 0) | (which >= len(parts)) | (row_ids - bounds[which] >= 1 << ROW_BITS)
        if strange.any():
            raise PictureOfOne(int(row_ids[strange][0]))
        return [(parts[n], which == n) for n in np.unique(which).tolist()]

    def _part_of(self, row_id: int) -> Part:
        """The index of a row. Raises: PictureOfOne."""
        self._check_open()
        ((part, _),) = self._divided(np.array([read_row_id(row_id)], np.int64))
        return part

    def _in_order(self, row_ids: IntArray, ask: Callable[[Collection, IntArray], IntArray]) -> IntArray:
        """What parts say of their own of some rows, as row ids, in the order of these. Shapes: (N,) int64."""
        found = np.empty(len(row_ids), np.int64)
        for part, own in self._divided(row_ids):
            found[own] = self._of(part, lambda photos, own=own, by=part.by: ask(photos, row_ids[own] - by)) + part.by  # type: ignore[misc]
        return found

    def record(self, row_id: int) -> ImageRecord:
        part = self._part_of(row_id)
        try:
            record = self._of(part, lambda photos: photos.record(row_id - part.by))
        except NoSuchPicture:
            raise NoSuchPicture(row_id) from None
        return dataclasses.replace(record, row_id=row_id)

    def views(self, row_id: int) -> list[ImageRecord]:
        part = self._part_of(row_id)
        try:
            found = self._of(part, lambda photos: photos.views(row_id - part.by))
        except NoSuchPicture:
            raise NoSuchPicture(row_id) from None
        return [dataclasses.replace(record, row_id=record.row_id + part.by) for record in found]

    def _hit(self, rank: int, score: float, row_id: int) -> Hit:
        part = self._part_of(row_id)
        found_in = FoundIn(part.name, part.photos.identity, row_id - part.by)
        return dataclasses.replace(super()._hit(rank, score, row_id), found_in=found_in)

    def path_of(self, record: ImageRecord) -> str:
        return self._part_of(record.row_id).photos.path_of(record)

    def leads_out(self, record: ImageRecord) -> bool:
        return self._part_of(record.row_id).photos.leads_out(record)

    def _file_of(self, record: ImageRecord) -> str:
        return self._part_of(record.row_id).photos._file_of(record)

    def vectors(self, row_ids: Any) -> FloatArray:
        self._check_open()
        if not isinstance(row_ids, np.ndarray) or row_ids.dtype != np.int64 or row_ids.ndim != 1:
            row_ids = np.array(read_known_row_ids(row_ids), np.int64)
        found: FloatArray = np.empty((len(row_ids), self.manifest.model.dim), np.float32)
        for part, own in self._divided(row_ids):
            try:
                found[own] = self._of(part, lambda photos, own=own, by=part.by: photos.vectors(row_ids[own] - by))  # type: ignore[misc]
            except NoSuchPicture as error:
                raise NoSuchPicture(None if error.row_id is None else error.row_id + part.by) from None
        return found

    def files_of(self, row_ids: IntArray) -> IntArray:
        self._check_open()
        return self._in_order(row_ids, lambda photos, own: photos.files_of(own)) if self.has_views else row_ids

    def wholes_of(self, row_ids: IntArray) -> IntArray:
        self._check_open()
        return self._in_order(row_ids, lambda photos, own: photos.wholes_of(own)) if self.has_regions else row_ids

    def regions_of(self, row_ids: IntArray) -> tuple[IntArray, IntArray]:
        self._check_open()
        which, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, own in self._divided(row_ids) if self.has_regions else ():
            of_these, regions = self._of(part, lambda photos, own=own, by=part.by: photos.regions_of(row_ids[own] - by))  # type: ignore[misc]
            which.append(np.flatnonzero(own)[of_these])
            found.append(regions + part.by)
        return np.concatenate(which), np.concatenate(found)

    @property
    def live(self) -> LivePhotos:
        found = self._live
        if found is None:
            self._live = found = joined((pairs, part.by) for part, pairs in self._each(lambda photos: photos.live))
        return found

    def row_ids(self) -> IntArray:
        found = [ids + part.by for part, ids in self._each(lambda photos: photos.row_ids())]
        return np.concatenate([np.empty(0, np.int64), *found])

    def select(self, expression: Filter, *, missing: bool = False) -> IntArray:
        found = self._each(lambda photos: photos.select(expression, missing=missing))
        return np.concatenate([np.empty(0, np.int64), *(ids + part.by for part, ids in found)])

    def columns(self) -> list[Columns]:
        found = self._columns
        if found is None:
            self._columns = found = [
                columns.moved(part.by, fold_name(readable(str(part.photos.root)).replace(os.sep, "/").rstrip("/")))
                for part, own in self._each(lambda photos: photos.columns())
                for columns in own
            ]
        return found

    def alive(self) -> list[npt.NDArray[np.bool_]]:
        return [one for _, own in self._each(lambda photos: photos.alive()) for one in own]

    def nearest(
        self, queries: FloatArray, k: int, *, exact: bool = False, selection: IntArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        k = read_count(k)
        check_queries(queries, self.manifest.model.dim)
        k = min(k, max(1, self.manifest.answered if selection is None else len(selection)))
        found = [empty_result(len(queries), k)]
        silent = list[ClusterError]()  # of parts none of whose shards answers: they are among the missing
        parts, bounds = self._numbered
        for n, part in enumerate(parts):
            own = None
            if selection is not None:
                first, last = np.searchsorted(selection, bounds[n : n + 2])
                if first == last:
                    continue
                own = selection[first:last] - part.by
            try:
                scores, ids = self._of(
                    part,
                    lambda photos, own=own: photos.nearest(queries, k, exact=exact, selection=own),  # type: ignore[misc]
                )
            except ClusterError as error:
                silent.append(error)
                continue
            found.append((scores, np.where(ids >= 0, ids + part.by, ids)))
        if silent and len(found) == 1:
            raise silent[0]
        return merge(found, k)

    # -- tags and words

    def tag(self, name: str) -> Tag:
        """A tag or concept that one index alone has. Raises: UnknownTag, OneIndexOnly, CorruptIndex."""
        having = [part for part in self._parts if find_tag(part.photos.manifest, name) is not None]
        if not having:
            raise UnknownTag(name, [tag.name for tag in self.tags])
        if len(having) > 1:
            raise OneIndexOnly([part.name for part in having])
        return self._of(having[0], lambda photos: photos.tag(name))

    def concept(self, name: str) -> Direction:
        """The direction of a concept, if it is the same in all indexes that have one of that name. Raises: UnknownTag,
        InvalidQuery."""
        having = [part for part in self._parts if find_tag(part.photos.manifest, name) is not None]
        if not having:
            raise UnknownTag(name, [tag.name for tag in self.tags])
        first, *others = (self._of(part, lambda photos: photos.concept(name)) for part in having)
        if any(not np.array_equal(first.vector, other.vector) for other in others):
            called = ", ".join(part.name for part in having)
            raise InvalidQuery(
                f"several of the indexes that are searched together have their own concept {name}: {called}. "
                f"Search one of them, or filter with tag:{name}, which uses the concept of each"
            )
        return first

    def _concepts_of(self, query: Query) -> list[FloatArray]:
        """The vectors of the concepts that a query's filters ask for, of all indexes, each once."""
        found = [vector for _, own in self._each(lambda photos: photos._concepts_of(query)) for vector in own]
        return list({vector.tobytes(): vector for vector in found}.values())

    @property
    def words(self) -> Any:
        self._check_open()
        return _Words(self, lambda photos: photos.words)

    @property
    def captions(self) -> Any:
        self._check_open()
        return _Words(self, lambda photos: photos.captions)

    # -- what is said

    def notices(self, query: Any, **known: Any) -> list[str]:
        return [*self.partial(), *super().notices(query, **known)]

    def _unseen(self, expression: Filter) -> list[str]:
        return self._said_of_each(lambda photos: photos._unseen(expression))

    def _without_words(self, expression: Filter) -> list[str]:
        return self._said_of_each(lambda photos: photos._without_words(expression))

    def _unread_words(self, expression: Filter) -> list[str]:
        return self._said_of_each(lambda photos: photos._unread_words(expression))

    def _no_captions(self, expression: Filter) -> list[str]:
        return self._said_of_each(lambda photos: photos._no_captions(expression))

    def _said_of_each(self, say: Callable[[Collection], list[str]]) -> list[str]:
        return [
            sentence("of_index", "{name}: {line}", name=part.name, line=line)
            for part, lines in self._each(say)
            for line in lines
        ]

    # -- its end

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedCollection
        for part in self._parts:
            part.photos._check_open()

    def close(self) -> None:
        """Let go of all parts."""
        self._is_closed = True
        for part in self._parts if self._owned else ():
            part.photos.close()


class _Words:
    """The words in the pictures of all parts, or the captions of them (see `store.words.WordFiles`)."""

    def __init__(self, photos: Together, files: Callable[[Collection], WordFiles]) -> None:
        self._photos = photos
        self._files = files

    def few(self, words: Sequence[str], most: int | None) -> list[bytes] | None:
        found = set[bytes]()
        for _, own in self._photos._each(lambda photos: self._files(photos).few(words, most)):
            if own is None:
                return None
            found.update(own)
        return None if most is not None and len(found) > most else sorted(found)

    def lines(self, content_hash: str | None) -> list[Line]:
        return self._first(lambda photos: self._files(photos).lines(content_hash))

    def lines_of(self, record: ImageRecord) -> list[Line]:
        return self._first(lambda photos: self._files(photos).lines_of(record))

    def _first(self, ask: Callable[[Collection], list[Line]]) -> list[Line]:
        each = (self._photos._of(part, ask) for part in self._photos._parts)
        return next(filter(None, each), [])


def _tags_of(manifests: Sequence[Manifest]) -> tuple[TagRef, ...]:
    """The tags of several indexes, each name once, with the pictures of all."""
    found: dict[tuple[str, str], TagRef] = {}
    for tag in itertools.chain.from_iterable(manifest.tags for manifest in manifests):
        key = (fold_name(tag.name), "search" if tag.kind == "search" else "tag")
        known = found.get(key)
        found[key] = tag if known is None else dataclasses.replace(known, pictures=known.pictures + tag.pictures)
    return tuple(sorted(found.values(), key=lambda tag: fold_name(tag.name)))


def row_numbers(collections: Sequence[Collection]) -> list[int]:
    """What to raise the row ids of each of several indexes by: a number that the index's id and its place give, and so
    the same whichever others there are, in whatever order. A copy of an index, which has its id, is at another place.
    """
    which = [_which(photos) for photos in collections]
    numbers: dict[int, int] = {}
    for at in sorted(range(len(which)), key=which.__getitem__):
        tries = (xxhash.xxh3_64_intdigest(to_bytes(f"{which[at]} {salt}")) for salt in itertools.count())
        # Never 0, so that the row id of one index is none of several.
        own = (digest % ((1 << NUMBER_BITS) - 1) + 1 for digest in tries)
        numbers[at] = next(number for number in own if number not in numbers.values())
    return [numbers[at] << ROW_BITS for at in range(len(which))]


def _which(photos: Collection) -> str:
    """What no other index is called, nor a copy of this one: its id and where it is."""
    return f"{photos.identity} {os.path.realpath(photos.index)}"


def check_models(collections: Sequence[Collection]) -> None:
    """Raises: MixedModels, which names the first index that is unlike most."""
    models = [photos.manifest.model for photos in collections]
    usual = max(models, key=lambda model: sum(model.makes_vectors_of(other) for other in models))
    like = next(photos for photos in collections if photos.manifest.model is usual)
    for photos, model in zip(collections, models, strict=True):
        if not model.makes_vectors_of(usual):
            views = f" --views {usual.views}" if usual.views != model.views else ""
            root = safe(str(photos.root))
            if bool(usual.regions) != bool(model.regions):
                views += " --regions" if usual.regions else " --no-regions"
            remake = f"clipsearch index {root} --index {safe(str(photos.index))} --model {usual.name}{views} --reindex"
            raise MixedModels(photos.index, _described(model), _described(usual), like.index, remake)


def _described(model: ModelRef) -> str:
    views = f" in {model.views} views of each picture" if model.views > 1 else ""
    views += " with regions" if model.regions else ""
    return f"the model {model.name} ({model.fingerprint[:8]}){views}"


def said_of(error: Exception) -> str:
    """Why an index cannot be read, in one line."""
    if isinstance(error, ClipsearchError):
        return " ".join(str(error).split())
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or type(error).__name__


def open_together(
    folders: Sequence[str | os.PathLike[str]],
    *,
    model: str | None = None,
    encoder: Encoder | ModelEncoder | None = None,
) -> Collection:
    """Open several indexes, or photo folders, to be searched together; one by itself is a plain collection.

    What cannot be read is left out (see `Collection.missing`), unless that is all. Raises: MixedModels,
    EncoderMismatch, InvalidArgument; what opening the first raises where none can be read.
    """
    if not folders:
        raise InvalidArgument("folder", shown(folders), "a folder, or a list of at least one")
    places = [read_place("folder", folder) for folder in folders]
    if len(places) == 1:
        return open_collection(places[0], model=model, encoder=encoder)
    opened: dict[str, tuple[str, Collection]] = {}
    missing: dict[str, str] = {}
    failures: list[Exception] = []
    try:
        for place in places:
            name = place
            try:
                index = config.find_index(Path(place))
                name = str(index.absolute())
                if os.path.realpath(index) in opened:
                    continue
                photos = Collection(index, model=model, encoder=encoder)
                opened[os.path.realpath(index)] = (name, photos)
                photos.alive()  # the rows, which queries need anyway
            except UNREADABLE as error:
                failures.append(error)
                missing[name] = said_of(error)
                if (broken := opened.pop(os.path.realpath(name), None)) is not None:
                    broken[1].close()
        if not opened:
            raise failures[0]
        if len(opened) == 1 and not missing:
            return next(iter(opened.values()))[1]
        together = Together(list(opened.values()), missing)
    except BaseException:
        for _, photos in opened.values():
            photos.close()
        raise
    lap("open and verify the indexes")
    return together
