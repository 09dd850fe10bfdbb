"""Indexing in one call, for Python programs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from clipsearch.config import index_dir_for, remember_index
from clipsearch.encoder import Encoder, check_encoder
from clipsearch.encoder.kinds import Precision
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import ClipsearchError, IndexNotFound, InvalidArgument
from clipsearch.filenames import warn_about_locale
from clipsearch.indexer.belonging import check_folder
from clipsearch.indexer.build import IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.executors import Executor
from clipsearch.places import as_address
from clipsearch.query.arguments import read_place, shown
from clipsearch.search.confidence import bank_vectors, drawing_vectors
from clipsearch.search.embedding import Encoder as ModelEncoder
from clipsearch.store import open_snapshot


def index(
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    encoder: Encoder | ModelEncoder | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: Precision = "auto",
    allow_pickle: bool = False,
    index: str | os.PathLike[str] | None = None,
    options: IndexOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    executor: Executor | None = None,
) -> IndexReport:
    """Index the pictures in `folder`, or bring its index up to date: what `clipsearch index` does.

    `model` is what `--model` takes; without it, the model that the index was made with, or "auto" for a new one. It is
    loaded with `checkpoint`, `device`, `precision` and `allow_pickle` (see `load_encoder`). If `encoder` is given, it
    is used instead. `index` puts the index elsewhere than in `folder`. `notice` gets the notices, a line at a time.
    Setting `stop` ends the run soon, as Ctrl-C does: finished work is kept. `executor` reads and encodes the pictures
    instead of this machine: see `clipsearch.indexer.cluster.RayExecutor`.
    Raises: NoPictures, ModelNotFound, EncoderMismatch, IndexLocked, OutOfSpace, CorruptIndex, StorageError,
    InvalidArgument.
    """
    warn_about_locale()
    root, place = as_address(read_place("folder", folder)), None if index is None else Path(read_place("index", index))
    if not isinstance(options, IndexOptions | None):
        raise InvalidArgument("options", shown(options), "IndexOptions")
    if isinstance(encoder, ModelEncoder):
        encoder = encoder.model
    if encoder is not None:
        check_encoder(encoder)
    check_folder(root, place)
    if encoder is None:
        encoder = encoder_for(
            index_dir_for(root, place),
            model,
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            allow_pickle=allow_pickle,
            notice=notice,
        )
    report = index_folder(root, encoder, index=place, options=options, progress=progress, stop=stop, executor=executor)
    if notice is not None:
        for warning in report.warnings:
            notice(warning)
    remember_index(report.index)
    prepare_queries(encoder)
    return report


def encoder_for(
    index_dir: Path,
    model: str | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: Precision = "auto",
    allow_pickle: bool = False,
    notice: Callable[[str], None] | None = None,
) -> Encoder:
    """Load a model for an index: the one that is named, else the one that it was made with, else "auto".

    See `load_encoder`.
    """
    return load_encoder(
        model_of(index_dir) or "auto" if model is None else model,
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        allow_pickle=allow_pickle,
        notice=notice,
    )


def prepare_queries(encoder: Encoder) -> None:
    """Let later processes answer their first query sooner, where the encoder can. A failure to is no error."""
    with contextlib.suppress(ClipsearchError):
        if encoder.text_fingerprint is not None:  # else they could not know what was kept for them
            encoder.prepare_texts()
            bank_vectors(encoder)
            drawing_vectors(encoder)


def model_of(index_dir: Path) -> str | None:
    """The name of the model that an index was made with, or None where there is no index yet."""
    try:
        with open_snapshot(index_dir) as snapshot:
            return snapshot.manifest.model.name
    except IndexNotFound:
        return None
