"""Answer queries: open a generation, encode the query, search its segments, look the rows up.

Used by the command line, the browser interface and Python programs alike; formats nothing, prints nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from clipsearch import config
from clipsearch.encoder import Encoder, captioner_of, check_encoder
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import (
    GONE,
    ClosedCollection,
    EmptyQuery,
    EncoderMismatch,
    IndexAway,
    InvalidQuery,
    MalformedQuery,
    NoSuchPicture,
    OtherPicture,
    PartLost,
    UnknownTag,
    UnreadablePicture,
    no_picture,
)
from clipsearch.filenames import well_formed
from clipsearch.places import is_address, is_file, leads_out
from clipsearch.query import MARK, Query, Term, parse_query
from clipsearch.query.arguments import (
    A_PICTURE,
    Arguments,
    Size,
    read_arguments,
    read_count,
    read_known_row_ids,
    read_name,
    read_path,
    read_place,
    read_queries,
    read_query,
    read_row_id,
    read_size,
    read_texts,
    read_window,
)
from clipsearch.query.crops import Crop, picture_file, split_crop
from clipsearch.records import (
    DEFAULT_HITS,
    FIRST_WITH_WORDS,
    AnyPicture,
    Band,
    FloatArray,
    Hit,
    Hits,
    ImageRecord,
    IntArray,
    Manifest,
    Sort,
    TagRef,
)
from clipsearch.search.embedding import Encoder as ModelEncoder
from clipsearch.search.embedding import encode_asked, encode_picture, encode_text, read_file, where_in
from clipsearch.search.minus import VectorOf
from clipsearch.search.order import (
    DIVERSITY,
    Order,
    Wish,
    asks_in_words,
    put_all_in_order,
    put_in_order,
    reach_together,
)
from clipsearch.sentences import sentence
from clipsearch.store import LiveRows, Snapshot, open_live_rows, open_snapshot
from clipsearch.timing import lap
from clipsearch.vectors import VectorSegment, check_queries, directed, distinct, empty_result, merge, open_segments

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from PIL.Image import Image

    from clipsearch.pictures.heatmap import HeatMap
    from clipsearch.query.nodes import Filter
    from clipsearch.search.confidence import Background, DoubleArray, QueryKind
    from clipsearch.search.live import LivePhotos
    from clipsearch.search.variety import Nearness
    from clipsearch.store.columns import Columns
    from clipsearch.store.tags import Direction, Tag
    from clipsearch.store.words import WordFiles

ReadPart = Callable[[str, Crop], tuple[FloatArray, str | None]]
Answer = TypeVar("Answer")
NO_IDENTITY = "0" * 32  # of indexes made before there were markers
SAMPLE_ROWS = 4096
CANCELLED = 1e-4  # of the weights: shorter sums are noise

MOST_MISSPELT = 3
_BESIDE_WORDS = " ,;:.?!…-–—+&/|"  # left at the ends of a text of which words were left out
SURELY_READ = 12  # characters that every model reads; those of 16 tokens are the narrowest


class Collection:
    """An indexed folder of pictures, open for searching: one generation, unaffected by later changes.

    Use `clipsearch.open` to make one. Close it, or use it in a `with`, so that old files can be deleted.
    """

    _unknown = "the index has no picture {}"  # what is said of a number that names none, and what does
    _named_by = "Use the row_id of a hit."

    def __init__(
        self,
        index: str | os.PathLike[str],
        *,
        model: str | None = None,
        encoder: Encoder | ModelEncoder | None = None,
    ) -> None:
        """`index` is the index folder. Raises: as `clipsearch.open`."""
        self.index = index = Path(read_place("index", index))
        if model is not None:
            read_name("model", model)
        encoder = encoder.model if isinstance(encoder, ModelEncoder) else encoder
        self.identity = config.marker_of(index) or NO_IDENTITY
        """The random id of the index."""
        self._opened = open_snapshot(index)
        self._model_name = model
        self._encoder = None if encoder is None else self._fitting(encoder)
        manifest = self._snapshot.manifest
        self._mapped = open_segments(manifest, self._opened.file, self._opened.marks)
        self._fragments: list[LiveRows] | None = None
        self._tags: dict[str, Tag] = {}
        self._word_files: WordFiles | None = None
        self._caption_files: WordFiles | None = None
        self._sample: FloatArray | None = None
        self._background: Background | None = None
        self._nearness: Nearness | None = None
        self._live: LivePhotos | None = None
        self.read_part: ReadPart | None = None
        """What encodes a part of a file of the index; None: this process."""

    @property
    def _snapshot(self) -> Snapshot:
        """The generation. Raises: ClosedCollection; all that asks the index comes by here."""
        self._check_open()
        return self._opened

    @property
    def _segments(self) -> list[VectorSegment]:
        """The vectors. Raises: ClosedCollection."""
        self._check_open()
        return self._mapped

    @property
    def parts(self) -> Sequence[tuple[Collection, int]]:
        """The indexes that are searched, each with what its row ids are raised by here: of one index, itself."""
        self._check_open()
        return ((self, 0),)

    @property
    def missing(self) -> Mapping[str, str]:
        """Of several indexes that were to be searched together, those that cannot be read, and why (see `together`)."""
        self._check_open()
        return {}

    def partial(self) -> list[str]:
        """That some indexes were left out, a line for each."""
        return [
            sentence("not_searched", "{name} was not searched: {why}", name=name, why=why)
            for name, why in self.missing.items()
        ]

    def answered(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives. Of several indexes or shards, it is asked again without one that is lost meanwhile."""
        while True:
            self._check_open()
            try:
                return ask()
            except PartLost:
                continue  # with one part less each time; an index alone has none to lose

    @property
    def root(self) -> Path:
        """The folder whose pictures these are."""
        return self._snapshot.root

    @property
    def manifest(self) -> Manifest:
        """The generation that is open."""
        return self._snapshot.manifest

    @property
    def generation(self) -> int:
        """The number of the commit that is open."""
        return self.manifest.generation

    @property
    def is_exact(self) -> bool:
        """Whether every search compares all vectors: no segment is large enough for an inverted file."""
        return all(segment.faiss is None for segment in self.manifest.segments)

    def __len__(self) -> int:
        """How many pictures can be found; a video is one of them."""
        return self.manifest.pictures

    @property
    def has_views(self) -> bool:
        """Whether some files are seen as several things, such as the shots of a video."""
        return any(fragment.views for fragment in self.manifest.fragments)

    @property
    def has_regions(self) -> bool:
        """Whether pictures are also found by parts of them, whose vectors the index keeps."""
        return self.manifest.model.regions > 0

    def __iter__(self) -> Iterator[ImageRecord]:
        """What the index knows of each picture that can be found, by row id."""
        return heapq.merge(*map(_records_of, self.live_rows()), key=lambda record: record.row_id)

    def __repr__(self) -> str:
        manifest, closed = self._opened.manifest, ", closed" if self._opened.is_closed else ""
        root = str(self._opened.root)
        return f"<Collection of {manifest.pictures:,} pictures in {root!r}, model {manifest.model.name}{closed}>"

    @property
    def encoder(self) -> Encoder:
        """The model, loaded when it is first needed. Raises: ModelNotFound, InvalidModel, EncoderMismatch.

        It encodes pictures in the arithmetic of the index, whatever else it is used for.
        """
        self._check_open()
        if self._encoder is None:
            self._encoder = self._fitting(load_encoder(self._model_name or self.manifest.model.name))
        return self._encoder

    def _fitting(self, encoder: Encoder) -> Encoder:
        check_encoder(encoder)
        model = self.manifest.model
        if encoder.fingerprint != model.fingerprint:
            raise EncoderMismatch(self.index, model.name, encoder.name, str(self.root))
        return encoder.in_precision(model.precision)

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is an iterable of str, too: one query
        self,
        query: str | os.PathLike[str] | Query = ...,
        k: int = ...,
        *,
        offset: int = ...,
        sort: Sort = ...,
        unique: bool = ...,
        diverse: bool | float = ...,
        like: Iterable[int] = ...,
        unlike: Iterable[int] = ...,
        vector: FloatArray | None = ...,
        local_files: bool = ...,
        all: bool = ...,
        min_confidence: float | None = ...,
        each: bool = ...,
    ) -> Hits: ...
    @overload
    def search(
        self,
        query: Iterable[str | os.PathLike[str] | Query],
        k: int = ...,
        *,
        offset: int = ...,
        sort: Sort = ...,
        unique: bool = ...,
        diverse: bool | float = ...,
        like: Iterable[int] = ...,
        unlike: Iterable[int] = ...,
        vector: FloatArray | None = ...,
        local_files: bool = ...,
        all: bool = ...,
        min_confidence: float | None = ...,
        each: bool = ...,
    ) -> list[Hits]: ...
    def search(
        self,
        query: str | os.PathLike[str] | Query | Iterable[str | os.PathLike[str] | Query] = "",
        k: int = DEFAULT_HITS,
        *,
        offset: int = 0,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        local_files: bool = True,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> Hits | list[Hits]:
        """Return k hits of `query` from number `offset` on, best first.

        Unlikely hits are left out, unless `all` is set (docs/confidence.md); with `min_confidence` (0..1), hits below
        it are left out instead. If none is likely, the nearest are returned and `are_certain` is False.

        `query` is in the query language (docs/query.md): a sentence, pictures, sums of them, filters; a `Path` is a
        picture. A picture of the index is compared by its stored vector, even if its file is away. A query with only
        filters lists the matching pictures, newest first. `sort` sorts all hits differently.
        A file with several views (the shots of a video) is one hit, at its best view (see Hit.where), and so is a Live
        Photo, whose still also stands for its clip (see Hit.clip); with `each`, each view is a hit. `unique` folds
        near-duplicates into the best one (see Hit.others); `diverse` (0..1, True: 0.5) prefers hits that differ from
        those before them. `like` and `unlike` are row ids of pictures to learn from, up to 10,000 each. `vector`,
        shape (D,), is added to the query's terms. `local_files=False` opens no file that the query names: use it for
        queries from elsewhere. The absolute path of a picture in the index means that picture.

        Several queries return a list of hits each: their texts are encoded together, and they share the passes over
        the vectors.
        Raises: InvalidQuery (MalformedQuery, ...), UnknownTag, UnreadablePicture, DimensionMismatch, EncoderMismatch,
        CorruptIndex, IndexAway.
        """
        self._check_open()
        k, offset = read_window(k, offset)
        about = read_arguments(
            sort=sort,
            unique=unique,
            diverse=diverse,
            like=like,
            unlike=unlike,
            vector=vector,
            all=all,
            min_confidence=min_confidence,
            each=each,
        )
        queries, is_one = read_queries(query)

        def ask() -> list[Hits]:
            wishes = [self._wish(one, about, local_files=local_files) for one in queries]
            orders = put_all_in_order(self, wishes)
            if not is_one:
                reach_together(self, orders, offset + k)
            return [self._shown(order.window(self, offset, k), are_certain=not order.is_uncertain) for order in orders]

        hits = self.answered(ask)
        return hits[0] if is_one else hits

    def order(
        self,
        query: str | os.PathLike[str] | Query = "",
        *,
        sort: Sort = "score",
        unique: bool = False,
        diverse: bool | float = False,
        like: Iterable[int] = (),
        unlike: Iterable[int] = (),
        vector: FloatArray | None = None,
        local_files: bool = True,
        pictures: Mapping[str, FloatArray] | None = None,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> Order:
        """The order that `search` returns hits of, for windows and counts of it. Raises: as `search`.

        `pictures`: the vectors of picture files that the query names and that are not here, with `local_files=False`.
        """
        self._check_open()
        about = read_arguments(
            sort=sort,
            unique=unique,
            diverse=diverse,
            like=like,
            unlike=unlike,
            vector=vector,
            all=all,
            min_confidence=min_confidence,
            each=each,
        )
        return put_in_order(self, self._wish(query, about, local_files=local_files, pictures=pictures))

    def rerank(
        self,
        query: str | os.PathLike[str] | Query,
        encoder: str | Encoder | ModelEncoder,
        k: int = DEFAULT_HITS,
        *,
        offset: int = 0,
        unique: bool = False,
        all: bool = False,
        min_confidence: float | None = None,
        each: bool = False,
    ) -> Hits:
        """The hits of `search`, with the first 50 sorted by how likely a captioning model finds the text of the query
        for their pictures (`Hit.likelihood`: the mean logarithm of the probability of its tokens). Scores, confidence,
        bands, and which pictures are hits, do not change. See docs/captions.md.

        `encoder` is such a model, or its name. Pictures that cannot be read keep their places.
        Raises: InvalidQuery for anything but one text with filters; MissingFeature for a model without captions;
        as `search` and `load_encoder`.
        """
        from clipsearch.search.rerank import reranked, text_to_rank_by

        self._check_open()
        k, offset = read_window(k, offset)
        text_to_rank_by(query if isinstance(query, Query) else self.parse(read_query(query)))
        model = load_encoder(encoder) if isinstance(encoder, str) else encoder
        model = model.model if isinstance(model, ModelEncoder) else model
        captioner = captioner_of(model)

        def ask() -> Hits:
            order = self.order(query, unique=unique, all=all, min_confidence=min_confidence, each=each)
            return reranked(self, order, model, captioner, k, offset).hits

        return self._shown(self.answered(ask))

    def _wish(
        self,
        query: str | os.PathLike[str] | Query,
        about: Arguments,
        *,
        local_files: bool,
        pictures: Mapping[str, FloatArray] | None = None,
    ) -> Wish:
        """A question; an empty query asks for everything."""
        is_empty = isinstance(query, str) and not query.strip()
        parsed = Query(str(query), ()) if is_empty else self.parse(query, local_files=local_files, pictures=pictures)
        diverse = DIVERSITY if about.diverse is True else float(about.diverse)
        return Wish(
            parsed,
            about.vector,
            about.sort,
            about.unique,
            diverse,
            about.like,
            about.unlike,
            about.all,
            about.min_confidence,
            about.each,
        )

    def _check_open(self) -> None:
        """Raises: ClosedCollection."""
        if self._opened.is_closed:
            raise ClosedCollection

    def similar(self, picture: int | str | os.PathLike[str] | Hit, k: int = DEFAULT_HITS) -> Hits:
        """Return the k pictures most like one, without that one and other files with the same content.

        `picture` is a hit, a row id, or a path: of a picture file, or else of a picture of the index that is away. A
        path or a row id may name a part: "photo.jpg#xywh=10,20,300,200", "4711#xywh=percent:0,0,50,50".
        A hit is identified by its content, even if the index was rebuilt and its row id is now another picture's.
        Unlikely hits are included. Raises: NoSuchPicture, OtherPicture, UnreadablePicture, InvalidQuery.
        """
        from clipsearch.search.similar import similar_to

        self._check_open()
        k, _ = read_window(k)
        return self._shown(self.answered(lambda: similar_to(self, picture, k)))

    def judge(
        self, hits: list[Hit], vector: FloatArray, kind: QueryKind = "text", best: float | None = None
    ) -> list[Hit]:
        """Add confidence and band to hits; see `confidences`."""
        self._check_open()
        if not hits:
            return hits
        scores = np.array([hit.score for hit in hits], np.float32)
        found, bands = self.confidences(scores, vector, kind, best, of_regions=self.has_regions)
        return [
            dataclasses.replace(hit, confidence=confidence, band=band)
            for hit, confidence, band in zip(hits, found.tolist(), bands, strict=True)
        ]

    def confidences(
        self,
        scores: FloatArray,
        vector: FloatArray,
        kind: QueryKind = "text",
        best: float | None = None,
        *,
        of_regions: bool = False,
    ) -> tuple[DoubleArray, list[Band]]:
        """The confidence of each score, and the word for each. Shapes: scores (K,), (K,). `of_regions`: the scores are
        of pictures with their regions (`search.regions`).

        `vector` is what they were found with, shape (D,); `kind` what it is of; `best` the score of the first of all
        hits, if it is not among these; -1 compares with the best of the sample. Needs the model's vectors of a bank of
        texts and some drawings: encoded by `clipsearch index`, or here once. Raises: EncoderMismatch, ...
        """
        self._check_open()
        if not len(scores):
            return np.empty(0), []
        from clipsearch.search.confidence import shipped_calibration

        background = self._known_background()
        if of_regions:
            scores, best = background.as_whole(vector, scores, best)
        return shipped_calibration().judged(background, vector, scores, kind, best)

    def _known_background(self) -> Background:
        """What confidence is judged against. Raises: EncoderMismatch, ..."""
        if self._background is None:
            from clipsearch.search.confidence import Background, bank_vectors, drawing_vectors, sample_positions

            bank, drawings = bank_vectors(self.encoder), drawing_vectors(self.encoder)
            if self.has_regions:
                every = self.row_ids()
                sampled = every[sample_positions([len(every)])[0]]
                which, region_ids = self.regions_of(sampled)
                regions = which, self.vectors(region_ids)
                self._background = Background(bank, self.vectors(sampled), drawings, regions)
            else:
                positions = sample_positions([len(segment) for segment in self._segments])
                parts = [self._take(segment, rows) for segment, rows in zip(self._segments, positions, strict=True)]
                self._background = Background(bank, np.concatenate(parts), drawings)
        return self._background

    def parse(
        self,
        query: str | os.PathLike[str] | Query,
        *,
        local_files: bool = True,
        pictures: Mapping[str, FloatArray] | None = None,
    ) -> Query:
        """A query in the query language; a path that is no string is a picture. `pictures`: see `order`.

        Raises: InvalidQuery.
        """
        self._check_open()
        query = read_query(query)
        if isinstance(query, Query):
            return query
        if not isinstance(query, str):
            path = os.fspath(query)
            return Query(path, (Term("picture", path),))
        sent = pictures or {}
        parsed = self._read_query(query, None if local_files else sent)
        if local_files or all(term.kind != "picture" for term in parsed.terms):
            return parsed
        terms = tuple(self._without_file(parsed.source, term, sent) for term in parsed.terms)
        return dataclasses.replace(parsed, terms=terms)

    def _read_query(self, typed: str, files: Container[str] | None) -> Query:
        """A text in the query language. `files`: the names in it that are those of files; None: as it is here."""
        typed = well_formed(typed)
        query = self._requoted(typed)
        parsed = parse_query(
            query, is_file=self._is_picture if files is None else lambda name: name in files or self._is_indexed(name)
        )
        if query == typed:
            return parsed
        return dataclasses.replace(parsed, offers=(*parsed.offers, f"{typed} was read as {query}"))

    def _requoted(self, query: str) -> str:
        """A query with the quotes put back that a shell took from `folder:"my trips"`: where there is no folder `my`,
        and one `my trips`."""
        if "folder:" not in query.lower() or " " not in query.strip():
            return query
        from clipsearch.query.folders import requoted
        from clipsearch.search.filters import folder_fits

        folders = {folder for columns in self.columns() for folder in columns.texts("folder")}
        return requoted(query, lambda name: any(map(folder_fits(name), folders)))

    def _is_picture(self, name: str) -> bool:
        """Whether a name is that of a file, or of a picture of the index that may be away."""
        return is_file(name) or self._is_indexed(name)

    def _is_indexed(self, name: str) -> bool:
        """Whether a name is the absolute path of a picture of the index. It is not opened."""
        from clipsearch.search.similar import find_picture

        return os.path.isabs(name) and find_picture(self, name) is not None  # noqa: PTH117

    def _without_file(self, query: str, term: Term, sent: Mapping[str, FloatArray]) -> Term:
        """A term that opens no file: the path of a picture that was sent, or of the index, is that picture.

        Raises: MalformedQuery, DimensionMismatch.
        """
        if term.kind != "picture":
            return term
        if term.value in sent:
            return dataclasses.replace(term, vector=self._unit(sent[term.value]))
        from clipsearch.search.similar import find_picture

        is_absolute = os.path.isabs(term.value)  # noqa: PTH117
        row_id, part = find_picture(self, term.value) if is_absolute else None, ""
        if row_id is None and is_absolute:
            path, crop = split_crop(term.value)
            row_id, part = (None, "") if crop is None else (find_picture(self, path), f"{MARK}{crop}")
        if row_id is None:
            raise MalformedQuery(
                query,
                term.position,
                sentence("no_paths", "the server opens no files by path"),
                sentence("use_like", "Use like:ROW_ID, or send the picture where that is possible."),
            )
        return dataclasses.replace(term, kind="like", value=f"{row_id}{part}")

    def _unit(self, vector: FloatArray) -> FloatArray:
        """A vector that was sent, of length 1. Raises: DimensionMismatch, InvalidQuery."""
        return directed(self.manifest.model.dim, vector)

    def notices(
        self,
        query: str | os.PathLike[str] | Query,
        *,
        files: Container[str] | None = None,
        uncertain: bool | None = None,
    ) -> list[str]:
        """Notices about a query, one line each: what it could also have meant (`query.hints`), and words that the
        model cannot read.

        `files`: which names in it are those of files, for queries from elsewhere. `uncertain`: whether nothing is
        certain for it; left out, this is found out. Raises: MalformedQuery.
        """
        from clipsearch.query.hints import hints, unknown_tags

        self._check_open()
        if isinstance(query, str) and not query.strip():
            return []
        parsed = self._read_query(query, files) if isinstance(query, str) else self.parse(query)
        unseen = [] if parsed.filter is None else [*self._unseen(parsed.filter), *self._without_words(parsed.filter)]
        if parsed.filter is not None:
            unseen += self._unread_words(parsed.filter)
            unseen += self._no_captions(parsed.filter)
        untagged = unknown_tags(parsed, [tag.name for tag in self.tags], self._pictures_with_keyword)
        beside = [*hints(parsed), *self._unread(parsed), *self._written(parsed)]
        return [*parsed.offers, *untagged, *unseen, *beside, *self._less_asked(parsed, uncertain)]

    def _less_asked(self, query: Query, uncertain: bool | None) -> list[str]:
        """That nothing is certain for a query of several words, and something is for the thing that it is about."""
        from clipsearch.query.heads import head_of

        head = None if uncertain is False else head_of(query)
        if head is None or not self._reads(head[0]):
            return []
        if uncertain is None:
            asked = self.order(query)
            asked.row_ids(self, 0, 1)  # whether anything passes: no more is looked for
            uncertain = asked.is_uncertain
        if not uncertain:
            return []
        word, written = head
        alone = self.order(written)
        found, _ = alone.count(self)
        if alone.is_uncertain or not found:
            return []
        return [
            sentence(
                "less_asked",
                "nothing is certain for the whole query, but {n:,} pictures are likely for {word} alone. To see them, "
                "write: {query}",
                one="nothing is certain for the whole query, but one picture is likely for {word} alone. To see it, "
                "write: {query}",
                n=found,
                word=word,
                query=written,
            )
        ]

    def _unseen(self, expression: Filter) -> list[str]:
        """That a filter asks what pixels say, and that nobody has looked at those of some pictures."""
        from clipsearch.query.nodes import Seen, leaves_of

        if not any(isinstance(leaf, Seen) for leaf in leaves_of(expression)):
            return []
        unseen = sum(
            int(np.count_nonzero((rows.file.columns.whole("traits") == 0) & rows.alive)) for rows in self.live_rows()
        )
        if not unseen:
            return []
        return [
            sentence(
                "unseen",
                "{n:,} of {total:,} pictures were indexed before clipsearch looked at their kind and colours; "
                "is: and color: leave them out. To include them, run: clipsearch index --reindex",
                n=unseen,
                total=len(self),
            )
        ]

    def _written(self, query: Query) -> list[str]:
        """That the words of a query stand in a few pictures, which are among the first hits for that."""
        if not self.manifest.words or not asks_in_words(query):
            return []
        from clipsearch.search.words import rows_with_words, said_words

        words = said_words(query)
        found = len(rows_with_words(self, words, None if query.filter is None else self.select(query.filter)))
        if not found:
            return []
        said = f"text:{words[0]}" if len(words) == 1 else f'text:"{" ".join(words)}"'
        return [
            sentence(
                "words_in",
                "these words were read in {n:,} pictures, so those are among the first hits. To see no others, "
                "write: {query}",
                one="these words were read in one picture, so it is among the first hits. To see no others, "
                "write: {query}",
                n=found,
                query=said,
            )
        ]

    def _unread_words(self, expression: Filter) -> list[str]:
        """That a filter asks for words in pictures, and that nobody has read them."""
        from clipsearch.query.nodes import Written, leaves_of

        if self.manifest.words or not any(isinstance(leaf, Written) for leaf in leaves_of(expression)):
            return []
        return [
            sentence(
                "words_unread",
                "the words in the pictures have not been read yet, so text: finds none. "
                "Read them with: clipsearch read",
            )
        ]

    def _no_captions(self, expression: Filter) -> list[str]:
        """That a filter asks for captions by a model, and that none has written any."""
        from clipsearch.query.nodes import Glob, leaves_of

        asks = any(isinstance(leaf, Glob) and leaf.column == "generated" for leaf in leaves_of(expression))
        if self.manifest.captions or not asks:
            return []
        return [
            sentence(
                "no_captions",
                "no model has captioned the pictures yet, so generated: finds none. "
                "Caption them with: clipsearch caption",
            )
        ]

    def _pictures_with_keyword(self, keyword: str) -> int:
        from clipsearch.query.nodes import Glob

        return len(self.select(Glob("keyword", (keyword,))))

    def _without_words(self, expression: Filter) -> list[str]:
        """That a filter asks for what people wrote, and that older versions did not read that of some pictures."""
        from clipsearch.query.fields import WORDS
        from clipsearch.query.nodes import Glob, Range, leaves_of

        if not any(isinstance(leaf, Glob | Range) and leaf.column in WORDS for leaf in leaves_of(expression)):
            return []
        older = 0
        for rows in self.live_rows():
            versions = rows.file.columns.numbers.get("metadata_version")
            was_read = np.zeros(rows.file.pictures, bool) if versions is None else versions >= FIRST_WITH_WORDS
            older += int(np.count_nonzero(~was_read & rows.alive))
        if not older:
            return []
        return [
            sentence(
                "without_words",
                "{n:,} of {total:,} pictures were indexed before clipsearch read keywords, captions, names and "
                "stars. To include theirs, run: clipsearch index --reread-metadata",
                n=older,
                total=len(self),
            )
        ]

    def _unread(self, query: Query) -> list[str]:
        """Words of a query that the model does not read, or that are probably misspelt, and where it stops reading
        texts that are too long for it, a line each."""
        terms = [term for term in query.terms if term.kind == "text"]
        told = [line for term in terms for line in self._misspelt(query, term)]
        unread = [word for term in terms for word in self.encoder.unread_words(term.value)]
        if unread:
            told.append(
                sentence(
                    "unread_words",
                    "the model cannot read {words}, so only the rest was searched for",
                    words=" ".join(dict.fromkeys(unread)),
                )
            )
        texts = [term.value for term in terms if len(term.value) > SURELY_READ]
        for text, part in zip(texts, self.encoder.parts_read(texts) if texts else [], strict=True):
            if part is not None:
                told.append(_cut_short(text, part))
        return told

    def _misspelt(self, query: Query, term: Term) -> list[str]:
        """Words of a term that are probably misspelt, and the whole query with what was probably meant."""
        words = self.encoder.unknown_words(term.value)[:MOST_MISSPELT]
        if not words:
            return []
        from clipsearch.query.rewriting import corrected
        from clipsearch.query.spelling import nearest_compound, nearest_word

        told: list[str] = []
        for word in words:
            known, is_listed = self.encoder.words(), self.encoder.is_english_word(word)
            meant = nearest_word(word, known, is_listed=is_listed)
            if meant is None and not is_listed:
                meant = nearest_compound(word, known, self.encoder.is_english_word)
            written = None if meant is None else corrected(query, term, word, meant)
            if written is not None:
                told.append(
                    sentence(
                        "misspelt",
                        "the model does not know {word}. Did you mean: {query}",
                        word=word,
                        query=written,
                    )
                )
        return told

    def encode_query(self, query: str | os.PathLike[str] | Query) -> FloatArray:
        """The vector of a query's terms. Shape: (D,) float32, unit L2. Raises: InvalidQuery if there are none."""
        parsed = self.parse(query)
        vector = self.query_vector(parsed)
        if vector is None:
            raise nothing_to_compare(parsed)
        return vector

    def query_vector(self, query: Query) -> FloatArray | None:
        """The weighted sum of a query's terms, or of the concepts it filters by; None for other filters only.

        Shape: (D,) float32, unit L2. Raises: InvalidQuery, UnknownTag, UnreadablePicture, EncoderMismatch.
        """
        return self.query_vectors([query])[0]

    def query_vectors(self, queries: Sequence[Query]) -> list[FloatArray | None]:
        """The `query_vector` of each query, the texts of all encoded at once."""
        return [self.summed(query, terms) for query, terms in zip(queries, self.query_terms(queries), strict=True)]

    def query_terms(self, queries: Sequence[Query]) -> list[list[VectorOf]]:
        """The vectors of each query's terms, or else of the concepts it filters by, the texts of all encoded at once.

        Raises: as `query_vector`.
        """
        self._check_open()
        texts = list(dict.fromkeys(term.value for query in queries for term in query.terms if term.kind == "text"))
        for text in texts:
            if not self._reads(text):
                raise InvalidQuery(
                    sentence(
                        "unreadable",
                        "the model cannot read {text}. Describe the pictures in words of a language that it knows, "
                        "such as English",
                        text=text,
                    )
                )
        encoded = {}
        if texts:  # else no model is needed
            encoded = dict(zip(texts, encode_asked(self.encoder, list(map(self._readable, texts))), strict=True))
        return [self._terms_of(query, encoded) for query in queries]

    def _reads(self, text: str) -> bool:
        """Whether the model has tokens for anything in a text; no model is loaded to say so of English letters."""
        return (text.isascii() and any(map(str.isalpha, text))) or self.encoder.reads(self._readable(text))

    def _readable(self, text: str) -> str:
        """A text without words that the model has no token for: what it would take them for is not in it. What is left
        is what somebody would have typed without them: no marks stay where they stood."""
        unread = sorted(set(self.encoder.unread_words(text)), key=len, reverse=True)
        if not unread:
            return text
        for word in unread:
            begins, ends = ("(?<!\\w)" if word[0].isalnum() else ""), ("(?!\\w)" if word[-1].isalnum() else "")
            text = re.sub(begins + re.escape(word) + ends, " ", text)
        text = re.sub(r"[(\[]\s*[)\]]|\s+(?=[,;.?!\s])", "", text)
        return text.strip(_BESIDE_WORDS)

    def _terms_of(self, query: Query, encoded: Mapping[str, FloatArray]) -> list[VectorOf]:
        """The vectors of a query whose texts are encoded."""
        terms = [
            VectorOf(encoded[term.value], term.weight, "text")
            if term.kind == "text"
            else VectorOf(self._term_vector(query, term), term.weight, "picture")
            for term in query.terms
        ]
        return terms or [VectorOf(vector, 1.0, "picture") for vector in self._concepts_of(query)]

    def summed(self, query: Query, terms: Sequence[VectorOf]) -> FloatArray | None:
        """The weighted sum of terms of a query; None for none. Shape: (D,) float32, unit L2. Raises: InvalidQuery."""
        self._check_open()
        if len(terms) == 1 and terms[0].weight > 0:
            return terms[0].vector
        if not terms:
            return None
        vectors = [(term.vector, term.weight) for term in terms]
        total: FloatArray = np.sum([weight * vector for vector, weight in vectors], axis=0, dtype=np.float32)
        length = float(np.linalg.norm(total))
        if length < CANCELLED * sum(abs(weight) for _, weight in vectors):
            raise InvalidQuery(
                sentence(
                    "cancelled",
                    "the terms of {query} cancel each other out. Nothing is left to search for",
                    query=query.source,
                )
            )
        return total / length

    def _term_vector(self, query: Query, term: Term) -> FloatArray:
        if term.kind == "like":
            value, crop = self._liked(query, term)
            if not value.removeprefix("-").isdecimal():
                return self.concept(term.value).vector
            try:
                return self.vector(int(value)) if crop is None else self.encode_part(int(value), crop)[0]
            except (NoSuchPicture, ValueError):  # ValueError: it has thousands of digits
                problem = self._unknown.format(value)
                raise MalformedQuery(query.source, term.position, problem, self._named_by) from None
        if term.vector is not None:
            sent: FloatArray = term.vector
            return sent
        from clipsearch.search.similar import find_picture, row_of_file

        path, crop = picture_file(term.value)
        if crop is not None:
            row_id = None if is_file(path) or not os.path.isabs(path) else find_picture(self, path)  # noqa: PTH117
            return self.encode_picture(term.value) if row_id is None else self.encode_part(row_id, crop)[0]
        row_id = row_of_file(self, path)
        return self.encode_picture(path) if row_id is None else self.vector(row_id)

    def _liked(self, query: Query, term: Term) -> tuple[str, Crop | None]:
        """What `like:` names, and the part of it that is meant. Raises: InvalidQuery."""
        name, mark, _ = term.value.rpartition(MARK)
        if not mark or any(tag.name == term.value for tag in self.tags):
            return term.value, None
        value, crop = split_crop(term.value)
        if not value.removeprefix("-").isdecimal():
            problem, advice = f"{name} is not a picture, and only pictures have parts", "Use the row_id of a hit."
            raise MalformedQuery(query.source, term.position, problem, advice)
        return value, crop

    def encode_part(self, row_id: int, crop: Crop) -> tuple[FloatArray, str | None]:
        """The vector of a part of a picture of the index, shape (D,), and the picture's content hash.

        Raises: NoSuchPicture, UnreadablePicture.
        """
        record = self.record(row_id)
        if record.view and not record.is_region:
            raise UnreadablePicture(record.path, "unreadable", "you can only search with a part of a whole picture")
        path = self._file_of(record)
        try:
            vector, content = self.read_part(path, crop) if self.read_part is not None else self._read(path, crop)
        except UnreadablePicture as error:
            raise UnreadablePicture(record.place, error.status, error.reason) from None
        if record.content_hash not in (None, content):
            raise UnreadablePicture(record.path, "unreadable", "its file has changed since it was indexed")
        return vector, content

    def _read(self, path: str, crop: Crop | None) -> tuple[FloatArray, str | None]:
        from clipsearch.encoder.pieces import encode_decoded
        from clipsearch.pictures.images import read_picture

        read = read_picture(path, self.encoder.preprocessing, pieces=True, crop=crop, views=self.manifest.model.views)
        vector: FloatArray = encode_decoded(self.encoder, [read.pieces], [read.is_tiled])[0]
        return vector, read.content_hash

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """The vectors of texts, as they stand. Shape: (B, D) float32, unit L2.

        Raises: InvalidQuery for texts of more than 10,000 characters, EncoderMismatch, ...
        """
        self._check_open()
        return self.encoder.encode_texts(read_texts(texts))

    def encode_text(self, text: str | Iterable[str]) -> FloatArray:
        """The vector of a text as it stands, shape (D,), or of each of several, shape (N, D); float32, unit L2.

        Raises: as `encode_texts`.
        """
        self._check_open()
        return encode_text(self.encoder, text)

    def encode_picture(self, picture: AnyPicture | Iterable[AnyPicture]) -> FloatArray:
        """The vector of a picture, shape (D,), or of each of several, shape (N, D); float32, unit L2.

        A picture is a path or a PIL image; a path may name a part (`photo.jpg#xywh=10,20,300,200`). Raises:
        UnreadablePicture, InvalidArgument, InvalidQuery for a part that is none.
        """
        self._check_open()
        return encode_picture(self.encoder, picture, self.manifest.model.views)

    def where(
        self, query: str | os.PathLike[str] | Query, picture: int | str | os.PathLike[str] | Hit | Image
    ) -> HeatMap:
        """Where in a picture a query matches: a map of cosines, with a box around its peak (docs/where.md).

        `picture` is a hit, a row id, a path or a PIL image. It always points somewhere, even if nothing matches: for a
        picture of the index, `band` says how likely it shows what is asked for.
        Raises: InvalidQuery, also for a query with filters only; NoSuchPicture, OtherPicture if a row's file has
        changed, UnreadablePicture, EncoderMismatch.
        """
        from clipsearch.pictures.notebook import is_as_indexed
        from clipsearch.query.arguments import is_image
        from clipsearch.search.similar import row_of_content, row_of_file

        parsed = self.parse(query)
        vector = self.encode_query(parsed)
        if isinstance(picture, str | os.PathLike) or is_image(picture):
            found = where_in(self.encoder, vector, picture)  # type: ignore[arg-type]
            known = row_of_file(self, read_path("picture", picture)) if isinstance(picture, str | os.PathLike) else None
            return found if known is None else self._with_confidence(found, parsed, known)
        if isinstance(picture, Hit):
            row_id = row_of_content(self, picture.record.row_id, picture.record.content_hash)
        else:
            row_id = read_row_id(picture, "picture", A_PICTURE)
        record = self.record(row_id)
        file = self._file_of(record)
        if not is_as_indexed(file, record):  # of which nobody knows the confidence
            raise OtherPicture(row_id, "its file has changed since it was indexed")
        try:
            found = where_in(self.encoder, vector, file, record.part_at or 0.0)
        except UnreadablePicture as error:
            raise UnreadablePicture(record.path, error.status, error.reason) from None
        return self._with_confidence(found, parsed, row_id)

    def _with_confidence(self, found: HeatMap, query: Query, row_id: int) -> HeatMap:
        """A map with how likely the picture shows what the query asks for at all."""
        confidence, band = put_in_order(self, Wish(query)).confidence_of(self, row_id) or (None, None)
        return dataclasses.replace(found, confidence=confidence, band=band)

    def read_picture(self, path: str | os.PathLike[str]) -> tuple[FloatArray, str | None]:
        """The vector of a picture file, shape (D,), and its content hash. Raises: UnreadablePicture."""
        from clipsearch.encoder.pieces import encode_decoded

        views = self.manifest.model.views
        read = read_file(path, self.encoder.preprocessing, content_hash=True, views=views)
        vector: FloatArray = encode_decoded(self.encoder, [read.pieces], [read.is_tiled])[0]
        return vector, read.content_hash

    def refined(self, vector: FloatArray | None, like: Sequence[int], unlike: Sequence[int]) -> FloatArray | None:
        """A query's vector, if any, moved towards pictures that were liked and away from others, by their row ids.

        Shape: (D,) float32. Raises: InvalidQuery.
        """
        self._check_open()
        if not like and not unlike:
            return vector
        from clipsearch.search.feedback import refine

        try:
            liked, unliked = self.vectors(like), self.vectors(unlike)
        except InvalidQuery:
            raise
        except NoSuchPicture as error:  # a part of what is asked, as in `like:999`
            raise InvalidQuery(no_picture(error.row_id)) from None
        return refine(vector, liked, unliked, self.sample().mean(axis=0))

    def sample(self) -> FloatArray:
        """Vectors of up to SAMPLE_ROWS pictures, evenly spread, deleted ones too. Shape: (N, D) float32."""
        self._check_open()
        if self._sample is None and self.has_regions:  # of which there are no more than one wants to know
            every = self.row_ids()
            self._sample = self.vectors(every[:: max(1, -(-len(every) // SAMPLE_ROWS))])
        if self._sample is None:
            ends = np.cumsum([0, *map(len, self._segments)])
            step = max(1, -(-int(ends[-1]) // SAMPLE_ROWS))
            # Evenly over all of them: a collection in many parts is sampled as one in a single part is.
            parts = [
                self._take(segment, np.arange(-start % step, len(segment), step))
                for segment, start in zip(self._segments, ends.tolist(), strict=False)
            ]
            self._sample = np.concatenate([np.empty((0, self.manifest.model.dim), np.float32), *parts])
        return self._sample

    def _take(self, segment: VectorSegment, positions: IntArray) -> FloatArray:
        """Vectors of one of the segments. Shapes: positions (N,), result (N, D) float32."""
        taken: FloatArray = segment.file.take(positions)
        return taken

    def nearness(self) -> Nearness:
        """How near pictures of this collection must be to each other to be versions of one."""
        self._check_open()
        if self._nearness is None:
            from clipsearch.search.variety import Nearness

            self._nearness = Nearness(self.sample())
        return self._nearness

    def search_vectors(self, queries: FloatArray, k: int = DEFAULT_HITS) -> list[list[Hit]]:
        """Return the k pictures nearest to each vector. Shape: queries (Q, D) float32, unit L2."""
        if self.has_regions:
            check_queries(queries, self.manifest.model.dim)
            orders = put_all_in_order(self, [Wish(Query("", ()), vector, all=True) for vector in queries])
            reach_together(self, orders, read_count(k))
            return [order.window(self, 0, k) for order in orders]
        scores, ids = self.nearest(queries, k)
        return [self.hits(row_scores, row_ids) for row_scores, row_ids in zip(scores, ids, strict=True)]

    def hits(self, scores: FloatArray, row_ids: IntArray) -> list[Hit]:
        """Look rows up, in this order; -1 is no row. Shapes: (K,) float32, (K,) int64. Raises: NoSuchPicture."""
        self._check_open()
        return [
            self._hit(rank, float(score), int(row_id))
            for rank, (score, row_id) in enumerate(zip(scores, row_ids, strict=True), 1)
            if row_id >= 0
        ]

    def nearest(
        self, queries: FloatArray, k: int, *, exact: bool = False, selection: IntArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Return scores and row ids of the k nearest pictures, without looking them up; also of regions of pictures,
        where the index has any.

        Shapes: queries (Q, D) float32, unit L2; selection (S,) int64, sorted: only these are answered; scores
        (Q, k) cosine; ids (Q, k) int64, -1 where there is none. `exact` searches large segments exhaustively too.
        Raises: DimensionMismatch.
        """
        k = read_count(k)
        check_queries(queries, self.manifest.model.dim)
        k = min(k, max(1, self.manifest.answered if selection is None else len(selection)))
        vectors = None if selection is None else self._vector_ids(selection)
        found = self._nearest_vectors(queries, k, exact, vectors)
        scores, vector_ids = merge([empty_result(len(queries), k), *found], k)
        return self._rows_of(scores, vector_ids, k, selection)

    def _nearest_vectors(
        self, queries: FloatArray, k: int, exact: bool, selection: IntArray | None
    ) -> list[tuple[FloatArray, IntArray]]:
        """What each segment has. `selection`: ids of vectors."""
        return [segment.search(queries, k, exact=exact, selection=selection) for segment in self._segments]

    def _rows_of(
        self, scores: FloatArray, vector_ids: IntArray, k: int, selection: IntArray | None
    ) -> tuple[FloatArray, IntArray]:
        """The rows that have the vectors found; a picture that is there several times comes as often."""
        wanted = distinct(vector_ids[vector_ids >= 0])
        which, row_ids = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for fragment in self.live_rows():
            numbers, positions = fragment.of_vectors(wanted)
            which.append(numbers)
            row_ids.append(fragment.file.columns.row_ids[positions])
        number, row = np.concatenate(which), np.concatenate(row_ids)
        if selection is not None:
            at = np.minimum(np.searchsorted(selection, row), max(0, len(selection) - 1))
            kept = selection[at] == row if len(selection) else np.zeros(len(row), bool)
            number, row = number[kept], row[kept]
        order = np.lexsort((row, number))
        number, row = number[order], row[order]
        best_scores, best_rows = empty_result(len(scores), k)
        for q in range(len(scores)):
            there = vector_ids[q] >= 0
            at = np.searchsorted(wanted, vector_ids[q][there])
            first, last = np.searchsorted(number, at, "left"), np.searchsorted(number, at, "right")
            lengths = last - first
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            rows = row[np.repeat(first, lengths) + within]
            own = np.repeat(scores[q][there], lengths)
            chosen = np.lexsort((rows, -own))[:k]
            best_scores[q, : len(chosen)], best_rows[q, : len(chosen)] = own[chosen], rows[chosen]
        return best_scores, best_rows

    def live_rows(self) -> list[LiveRows]:
        """The rows of each fragment, with which of them are answered; opened when they are first needed.

        Raises: ClosedCollection, CorruptIndex.
        """
        self._check_open()
        if self._fragments is None:
            fragments = [fragment for fragment in self.manifest.fragments if fragment.rows_file is not None]
            has_regions = self.manifest.model.regions > 0
            self._fragments = [open_live_rows(self.index, part, has_regions=has_regions) for part in fragments]
        return self._fragments

    def _vector_ids(self, row_ids: IntArray) -> IntArray:
        """The vectors of rows. Shapes: row_ids (N,) int64, ascending; result ascending without repeating."""
        found = [np.empty(0, np.int64)]
        for fragment in self.live_rows():
            own = fragment.file.columns.row_ids
            found.append(fragment.file.number("vector_id")[: len(own)][np.isin(own, row_ids, assume_unique=True)])
        every = np.concatenate(found)
        return every if (np.diff(every) > 0).all() else np.unique(every)

    def _hit(self, rank: int, score: float, row_id: int) -> Hit:
        record = self.record(row_id)
        score = math.nan if math.isnan(score) else max(-1.0, min(1.0, score))
        return Hit(rank, score, self.path_of(record), record)

    def path_of(self, record: ImageRecord) -> str:
        """Where a picture of the index is, absolute."""
        return os.path.join(self.root, record.path)

    def leads_out(self, record: ImageRecord) -> bool:
        """Whether a picture's file is a link out of the folder now, of an index that follows none."""
        return self.manifest.links == "inside" and leads_out(self.root, record.path)

    def _shown(self, hits: list[Hit], *, are_certain: bool = True) -> Hits:
        """Hits that notebooks show: those in archives and in object storage by what this collection reads of them."""
        are_copied = any(hit.record.member or is_address(hit.path) for hit in hits)
        return Hits(hits, self.thumbnail if are_copied else None, are_certain=are_certain)

    def record(self, row_id: int) -> ImageRecord:
        """What the index knows of a picture. Raises: NoSuchPicture if none has this row id (any more)."""
        self._check_open()
        row_id = read_row_id(row_id)
        for fragment in self.live_rows():
            at = fragment.file.position(row_id)
            if at is not None and at < fragment.file.pictures and not fragment.is_gone(row_id):
                return fragment.file.record(at)
        raise NoSuchPicture(row_id)

    def views(self, row_id: int) -> list[ImageRecord]:
        """What the index knows of each part of a picture's file that is searched by itself (the shots of a video), in
        their order; the picture alone where it has no parts. Raises: NoSuchPicture."""
        record = self.record(row_id)
        first = int(self.files_of(np.array([row_id], np.int64))[0])
        for rows in self.live_rows():
            if rows.has_views and rows.file.position(first) is not None:
                same = rows.there & (rows.files_of(np.arange(rows.file.pictures)) == first)
                return [rows.file.record(at) for at in np.flatnonzero(same).tolist()]
        return [record]

    def content_hash(self, row_id: int) -> str | None:
        """Of a picture's bytes; None if it is not known, or the picture is gone."""
        try:
            return self.record(row_id).content_hash
        except NoSuchPicture:
            return None

    def thumbnail(self, row_id: int | Hit, size: Size = 256) -> bytes:
        """A small copy of a picture as a JPEG, without metadata: of a row as its file is now, of a hit as it was found.

        Raises: NoSuchPicture, OtherPicture, UnreadablePicture, IndexAway, InvalidQuery for another size.
        """
        from clipsearch.pictures.notebook import is_as_indexed, thumbnail_of
        from clipsearch.search.similar import has_content, part_of

        size_px = read_size(size)
        hit, row_id = (row_id, row_id.record.row_id) if isinstance(row_id, Hit) else (None, row_id)
        record = self.record(row_id)
        if hit is not None and not has_content(record, hit.record.content_hash, part_of(hit.record)):
            raise OtherPicture(row_id)
        path = self._file_of(record)
        is_copy = record.member or is_address(self.path_of(record))  # of which every byte was compared
        if hit is not None and not is_copy and not is_as_indexed(path, record):
            raise OtherPicture(row_id, "its file has changed since it was indexed")
        return thumbnail_of(path, record.place, size_px, record.part_at or 0.0)

    def _file_of(self, record: ImageRecord) -> str:
        """The file of a picture, to be read, or a copy of it. Raises: UnreadablePicture if it is away, or leads out of
        the folder; IndexAway."""
        path = self.path_of(record)
        is_remote = is_address(path)
        if not is_remote:
            if self.leads_out(record):
                raise UnreadablePicture(record.path, "unreadable", "its file is a link out of the folder now")
            if not is_file(path):
                if not self.index.is_dir():
                    raise IndexAway(self.index)
                raise UnreadablePicture(record.path, "unreadable", GONE)
        if not record.member and not is_remote:
            return path
        from clipsearch.archives import file_of

        return file_of(path, record)

    def file_of(self, row_id: int | Hit) -> str:
        """A file with the picture of a row: its own, or a copy in the cache of what is in an archive.

        Raises: NoSuchPicture, UnreadablePicture, IndexAway.
        """
        record = row_id.record if isinstance(row_id, Hit) else self.record(row_id)
        return self._file_of(record)

    def vector(self, row_id: int) -> FloatArray:
        """The vector of a picture, also of one that was deleted since: a link or a thumb may still name it.

        Shape: (D,) float32, unit L2. Raises: NoSuchPicture if none has this row id.
        """
        self._check_open()
        vector: FloatArray = self.vectors([read_row_id(row_id)])[0]
        return vector

    def vectors(self, row_ids: Iterable[int] | IntArray) -> FloatArray:
        """The vectors of pictures, in this order, of deleted ones too. Shape: (N, D) float32. Raises: NoSuchPicture."""
        self._check_open()
        if not isinstance(row_ids, np.ndarray) or row_ids.dtype != np.int64 or row_ids.ndim != 1 or (row_ids < 0).any():
            row_ids = read_known_row_ids(row_ids)
        wanted, places = np.unique(np.asarray(row_ids, np.int64), return_inverse=True)
        vector_ids = np.full(len(wanted), -1, np.int64)
        for fragment in self.live_rows():
            own = fragment.file.columns.row_ids
            at = np.minimum(np.searchsorted(own, wanted), max(0, len(own) - 1))
            here = own[at] == wanted if len(own) else np.zeros(len(wanted), bool)
            vector_ids[here] = fragment.file.number("vector_id")[at[here]]
        of_vectors, back = np.unique(vector_ids, return_inverse=True)
        taken = np.empty((len(of_vectors), self.manifest.model.dim), np.float32)
        missing = np.ones(len(of_vectors), bool)
        for segment in self._segments:
            at = segment.file.positions_of(of_vectors)
            here = np.searchsorted(of_vectors, segment.ids[at])
            taken[here] = segment.file.take(at)
            missing[here] = False
        if missing[back].any():
            raise NoSuchPicture(int(np.asarray(row_ids)[missing[back[places]]][0]))
        found: FloatArray = taken[back[places]]
        return found

    def files_of(self, row_ids: IntArray) -> IntArray:
        """What the file of each row is known by: the row id of its first row. Shapes: (N,) int64."""
        self._check_open()
        if not self.has_views:
            return row_ids
        files = row_ids.copy()
        order = np.argsort(row_ids, kind="stable")
        ascending = row_ids[order]
        for rows in self.live_rows():
            if rows.has_views:
                own = rows.file.columns.row_ids
                at = np.searchsorted(own, ascending)
                here = np.flatnonzero(own[np.minimum(at, len(own) - 1)] == ascending) if len(own) else at[:0]
                files[order[here]] = rows.files_of(at[here])
        return files

    def wholes_of(self, row_ids: IntArray) -> IntArray:
        """The pictures that some rows are of: of a region, the row of its picture. Shapes: (N,) int64."""
        self._check_open()
        if not self.has_regions or not len(row_ids):
            return row_ids
        wholes = row_ids.copy()
        order = np.argsort(row_ids, kind="stable")
        ascending = row_ids[order]
        for rows in self.live_rows():
            own = rows.file.columns.row_ids
            at = np.searchsorted(own, ascending)
            here = np.flatnonzero(own[np.minimum(at, len(own) - 1)] == ascending) if len(own) else at[:0]
            wholes[order[here]] = rows.wholes_of(at[here])
        return wholes

    def regions_of(self, row_ids: IntArray) -> tuple[IntArray, IntArray]:
        """The regions of some pictures: which of these each is of, and its row id. Shapes: row_ids (N,) int64; both
        results (R,) int64."""
        self._check_open()
        which, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if self.has_regions and len(row_ids):
            order = np.argsort(row_ids, kind="stable")
            ascending = row_ids[order]
            for rows in self.live_rows():
                of_these, own = rows.regions_of(ascending)
                which.append(order[of_these])
                found.append(own)
        return np.concatenate(which), np.concatenate(found)

    def with_regions(self, row_ids: IntArray) -> IntArray:
        """Some pictures, and the regions of them. Shapes: (N,) int64, ascending; (M,) int64, ascending."""
        _, regions = self.regions_of(row_ids)
        return np.sort(np.concatenate([row_ids, regions])) if len(regions) else row_ids

    @property
    def live(self) -> LivePhotos:
        """The Live Photos: which clip belongs to which still. Raises: CorruptIndex."""
        rows = self.live_rows()
        if self._live is None:
            from clipsearch.search.live import find_live

            self._live = find_live(rows)
        return self._live

    def pictures_of(self, row_ids: IntArray) -> IntArray:
        """What the picture of each row is known by: its file (see `files_of`), of the clip of a Live Photo its still.
        Shapes: (N,) int64."""
        files = self.files_of(row_ids)
        if not len(self.live):
            return files
        stills = self.live.still_of(files)
        found: IntArray = np.where(stills >= 0, stills, files)
        return found

    def row_ids(self) -> IntArray:
        """The row ids of all pictures, and of all views of them but regions. Shape: (N,) int64, ascending."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(rows.row_ids() for rows in self.live_rows())]))

    # -- as a table

    def to_arrow(self, *, vectors: bool = True) -> pa.Table:
        """Every picture that can be found as a row of a table, by row id: the fields of its record, and `vector`.

        `vector` is a fixed-size list of float32, unit L2. Raises: CorruptIndex.
        """
        from clipsearch.store.export import picture_table

        return picture_table(self.index, self.manifest, vectors=vectors)

    def batches(self, *, vectors: bool = True) -> Iterator[pa.RecordBatch]:
        """The rows of `to_arrow`, some thousand at a time, in the order in which they are stored.

        For collections that do not fit into memory. Raises: CorruptIndex.
        """
        from clipsearch.store.export import picture_batches

        return picture_batches(self.index, self.manifest, vectors=vectors)

    def to_pandas(self, *, vectors: bool = True) -> pd.DataFrame:
        """`to_arrow` as a data frame; each value of `vector` is an array. Raises: CorruptIndex."""
        return self.to_arrow(vectors=vectors).to_pandas()

    # -- filters and tags

    @property
    def tags(self) -> tuple[TagRef, ...]:
        """The tags and concepts of the index."""
        return tuple(ref for ref in self.manifest.tags if ref.kind != "search")

    def select(self, expression: Filter, *, missing: bool = False) -> IntArray:
        """Row ids of the pictures that pass a filter expression. Shape: (S,) int64, ascending.

        `missing`: also of those whose files cannot be seen.
        """
        from clipsearch.search.filters import passing

        found = [np.empty(0, np.int64)]
        holding = lru_cache(maxsize=None)(self._holding)  # each fragment asks
        moving = lru_cache(maxsize=None)(lambda: self.live.row_ids)
        captioned = lru_cache(maxsize=None)(self._captioned)
        fragments = self.live_rows()
        if missing:
            there = [fragment for fragment in self.manifest.fragments if fragment.rows_file is not None]
            has_regions = self.has_regions
            fragments = [open_live_rows(self.index, part, missing=True, has_regions=has_regions) for part in there]
        for rows in fragments:
            mask = passing(expression, rows.file.columns, partial(self._tagged, rows), holding, moving, captioned)
            found.append(rows.file.columns.row_ids[mask & rows.alive])
        return np.sort(np.concatenate(found))

    @property
    def words(self) -> WordFiles:
        """The words in the pictures, as far as `clipsearch read` has read them. Raises: MissingFeature."""
        snapshot = self._snapshot
        if self._word_files is None:
            from clipsearch.store.words import WordFiles

            self._word_files = WordFiles(self.index, snapshot.manifest.words)
        return self._word_files

    @property
    def captions(self) -> WordFiles:
        """The captions that a model wrote, as far as `clipsearch caption` has been run. Raises: MissingFeature."""
        snapshot = self._snapshot
        if self._caption_files is None:
            from clipsearch.store.words import WordFiles

            self._caption_files = WordFiles(self.index, snapshot.manifest.captions)
        return self._caption_files

    def _captioned(self, pattern: str) -> IntArray:
        from clipsearch.search.words import captioned

        return captioned(self.captions, pattern) if self.manifest.captions else np.empty((0, 2), np.int64)

    def _holding(self, words: tuple[str, ...]) -> IntArray:
        return self.words.holding(words)

    def columns(self) -> list[Columns]:
        """What filters ask, for each fragment; of pictures that are gone too. Raises: CorruptIndex."""
        return [rows.file.columns for rows in self.live_rows()]

    def alive(self) -> list[npt.NDArray[np.bool_]]:
        """Which rows of each of `columns` are answered. Raises: CorruptIndex."""
        return [rows.alive for rows in self.live_rows()]

    def tag(self, name: str) -> Tag:
        """A tag or concept. Raises: UnknownTag, CorruptIndex."""
        from clipsearch.store.tags import find_tag, read_tag

        ref = find_tag(self.manifest, name)
        if ref is None:
            raise UnknownTag(name, [tag.name for tag in self.tags])
        if ref.file.path not in self._tags:
            self._tags[ref.file.path] = read_tag(self.index, ref)
        return self._tags[ref.file.path]

    def concept(self, name: str) -> Direction:
        """The direction of a concept. Raises: UnknownTag, InvalidQuery for a plain tag."""
        tag = self.tag(name)
        if tag.direction is None:
            raise InvalidQuery(
                sentence(
                    "tag_not_concept", "{name} is a tag, not a concept: filter by it with tag:{name}", name=tag.name
                )
            )
        if tag.direction.fingerprint != self.manifest.model.fingerprint:
            raise InvalidQuery(
                f"the concept {tag.name} was made with another model. Create it again with: "
                f"clipsearch concept add {tag.name} PICTURE... --replace"
            )
        return tag.direction

    def _tagged(self, rows: LiveRows, name: str) -> npt.NDArray[np.bool_]:
        """Which rows carry a tag: none of one that there is not (yet), so that `not tag:seen` is everything."""
        try:
            tag = self.tag(name)
        except UnknownTag:
            return np.zeros(rows.file.pictures, bool)
        given = tag.holds(rows.file.columns.hashes)
        if tag.direction is None:
            return ~np.isnan(given)
        direction = self.concept(name)
        vector_ids = rows.file.number("vector_id")[: rows.file.pictures]
        near = np.zeros(len(vector_ids), bool)
        for segment in self._segments:
            if not len(segment):
                continue
            at = np.minimum(np.searchsorted(segment.ids, vector_ids), len(segment) - 1)
            here = segment.ids[at] == vector_ids
            if here.any():
                scores = segment.file.products(direction.vector[None], slice(0, len(segment)))[0]
                near[here] = scores[at[here]] >= direction.threshold
        found: npt.NDArray[np.bool_] = (near | (given > 0)) & ~(given < 0)
        return found

    def _concepts_of(self, query: Query) -> list[FloatArray]:
        """The vectors of the concepts that a query's filters ask for."""
        if query.filter is None or not any(ref.kind == "concept" for ref in self.tags):
            return []
        from clipsearch.query.nodes import required_tags
        from clipsearch.store.tags import find_tag

        names = [name for name in required_tags(query.filter) if find_tag(self.manifest, name) is not None]
        return [self.concept(name).vector for name in names if self.tag(name).direction is not None]

    def close(self) -> None:
        """Let go of the generation. Hits stay valid; every other method raises ClosedCollection from now on."""
        self._opened.close()
        for files in (self._word_files, self._caption_files):
            if files is not None:
                files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def nothing_to_compare(query: Query) -> InvalidQuery:
    """That a query has filters only, or nothing at all."""
    if not query.source.strip():
        return EmptyQuery()
    return InvalidQuery(f"{query.source} has only filters and nothing to compare pictures with")


def _records_of(rows: LiveRows) -> Iterator[ImageRecord]:
    """Of the pictures of a fragment that can be found, by row id."""
    return (rows.file.record(int(at)) for at in np.flatnonzero(rows.starts))


def _cut_short(text: str, part: str) -> str:
    """Where the model stops reading a text, by the last words that it reads and the first that it does not."""
    read, words = part.split(), text.split()
    shown = " ".join(read[-6:])
    return sentence(
        "cut_short",
        'the text has {n:,} words, more than the model can read; read up to: "{last}"',
        n=len(words),
        last=f"{'... ' if len(read) > 6 else ''}{shown[-80:]}",
    )


def open_collection(
    folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    *,
    model: str | None = None,
    encoder: Encoder | ModelEncoder | None = None,
) -> Collection:
    """Open the index of a photo folder (or an index folder) for searching, or several, to be searched together.

    Without `folder`: the one that a command in the current folder would use (see config.find_index).
    `model` names another model than the index's, with the same image tower. Of several indexes, those that cannot be
    read are left out, and named by `missing`; all must be of one model (docs/collections.md).
    Raises: IndexNotFound, CorruptIndex, UnsupportedIndex, EncoderMismatch, InvalidArgument.
    """
    if folder is not None and not isinstance(folder, str | bytes | os.PathLike) and isinstance(folder, Iterable):
        from clipsearch.search.together import open_together

        return open_together(list(folder), model=model, encoder=encoder)
    index = config.find_index(None if folder is None else Path(read_place("folder", folder)))
    photos = Collection(index, model=model, encoder=encoder)
    lap("open and verify the index")
    return photos
