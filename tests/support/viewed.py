"""Indexes in which some files are seen as several things, made without a reader of such files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from clipsearch.encoder import Encoder
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.scan import scan
from clipsearch.indexer.segments import with_pictures
from clipsearch.indexer.verify import verify
from clipsearch.records import EmbeddingBatch, FloatArray, ImageRecord, Manifest, ModelRef
from clipsearch.store import Writer, open_snapshot, read_records


def viewed_index(
    folder: Path, encoder: Encoder, views: Mapping[str, Sequence[str]], *, seed: int = 0, parts: int = 2
) -> tuple[Path, dict[int, FloatArray]]:
    """Index the files of a folder with random vectors, each seen as `views` say (by path; else whole), in `parts`
    fragments. Returns the index and the vector of each row."""
    rng = np.random.default_rng(seed)
    files, _ = scan(folder)
    records = []
    for file in files:
        content = xxhash.xxh3_128_hexdigest((folder / file.path).read_bytes())
        record = ImageRecord(-1, file.path, file.size_bytes, file.mtime_ns, file.inode, content, 48, 36)
        for number, view in enumerate(views.get(file.path, [""])):
            traits, colors = 1 << number % 4, 1 << number % 3
            record = dataclasses.replace(record, view=view, traits=traits, colors=colors, perceptual_hash=number)
            records.append(record)
    vectors = rng.standard_normal((len(records), encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = ModelRef(encoder.name, encoder.fingerprint, encoder.dim, float(encoder.score_scale))
    index = folder / ".clipsearch"
    starts = [n for n, record in enumerate(records) if n == 0 or records[n - 1].path != record.path]
    ends = [starts[len(starts) * n // parts] for n in range(1, parts)]
    with Writer(index) as writer:
        manifest = Manifest(0, "", "..", model, 0, links="inside")
        for start, stop in zip([0, *ends], [*ends, len(records)], strict=True):
            batch = EmbeddingBatch(records[start:stop], vectors[start:stop])
            manifest = writer.commit(with_pictures(writer, manifest, lambda batch=batch: [batch]))  # type: ignore[misc]
    return index, dict(enumerate(vectors))


def checked_run(folder: Path, encoder: Encoder, **options: Any) -> IndexReport:
    """Index a folder, and see that the index is whole."""
    report = index_folder(folder, encoder, options=IndexOptions(**{"workers": 1, **options}))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    assert (checked.pictures, checked.more_views) == (report.pictures, report.rows - report.pictures)
    return report


def seen(index: Path) -> dict[str, list[str]]:
    """The views of each path that is answered."""
    found: dict[str, list[str]] = {}
    with open_snapshot(index) as snapshot:
        for record in read_records(index, snapshot.manifest):
            if record.status == "ok":
                found.setdefault(record.path, []).append(record.view)
    return found
