"""Show what an index's inverted files find and how fast, and choose how many of their lists a query visits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from clipsearch.config import is_index
from clipsearch.errors import IndexNotFound
from clipsearch.records import IvfParameters, Manifest, Segment
from clipsearch.store import Writer, open_snapshot, verify_file
from clipsearch.vectors import VectorsFile
from clipsearch.vectors.inverted import CurvePoint, Tuning, open_tuning


@dataclass(frozen=True, slots=True)
class SegmentTuning:
    """One inverted file: its rows, its parameters, and recall and time over the number of lists visited."""

    file: str
    rows: int
    parameters: IvfParameters
    curve: list[CurvePoint]


@dataclass(frozen=True, slots=True)
class TuneReport:
    """All inverted files of an index; `exact_rows` more are searched exactly, with recall 1."""

    recall_target: float
    segments: list[SegmentTuning]
    exact_rows: int


def show_tuning(index_dir: Path) -> TuneReport:
    """Measure every inverted file. Changes nothing. Raises: IndexNotFound, CorruptIndex."""
    with open_snapshot(index_dir) as snapshot:
        manifest = snapshot.manifest
        segments = []
        for segment in manifest.segments:
            tuning = _open(index_dir, manifest, segment)
            if tuning is not None and segment.ivf is not None:
                segments.append(_measured(segment, segment.ivf, tuning))
        return _report(manifest, segments)


def tune(index_dir: Path, recall: float) -> TuneReport:
    """Choose anew how many lists a query visits, for `recall` (0..1) at 10, and keep it for what is built later.

    Raises: IndexNotFound, IndexLocked, CorruptIndex, OutOfSpace.
    """
    if not is_index(index_dir):
        raise IndexNotFound([index_dir])
    with Writer(index_dir) as writer:
        manifest = writer.current()
        if manifest is None:
            raise IndexNotFound([index_dir])
        writer.commit(retuned(writer.index_dir, manifest, recall))
    return show_tuning(index_dir)


def retuned(index_dir: Path, manifest: Manifest, recall: float) -> Manifest:
    """`manifest`, not yet committed, with parameters chosen for `recall` (0..1) at 10. Raises: CorruptIndex."""
    segments = []
    for segment in manifest.segments:
        tuning = _open(index_dir, manifest, segment)
        if tuning is not None:
            segment = dataclasses.replace(segment, ivf=tuning.choose(recall))
        segments.append(segment)
    return dataclasses.replace(manifest, segments=tuple(segments), recall_target=recall)


def _open(index_dir: Path, manifest: Manifest, segment: Segment) -> Tuning | None:
    if segment.faiss is None or segment.ivf is None:
        return None
    vectors = VectorsFile(verify_file(index_dir, segment.mapped), manifest.model.dim)
    return open_tuning(vectors, verify_file(index_dir, segment.faiss), segment.ivf.code)


def _measured(segment: Segment, ivf: IvfParameters, tuning: Tuning) -> SegmentTuning:
    return SegmentTuning(segment.data.path, segment.vectors, ivf, tuning.curve(ivf.rerank))


def _report(manifest: Manifest, segments: list[SegmentTuning]) -> TuneReport:
    return TuneReport(
        manifest.recall_target,
        segments,
        sum(segment.vectors for segment in manifest.segments) - sum(segment.rows for segment in segments),
    )
