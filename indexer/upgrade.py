"""Write an index of format 1 anew in format 2. Its rows and vectors keep their numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipsearch.errors import CorruptIndex
from clipsearch.indexer.compact import counted, needs_upgrade
from clipsearch.indexer.segments import derive_segment, write_fragment
from clipsearch.records import Fragment, ImageRecord, Manifest, Segment, TagRef
from clipsearch.store import Writer
from clipsearch.store.files import HashingFile
from clipsearch.store.fragments import BATCH_ROWS, read_fragment_records, read_vector_blocks, write_vector_blocks
from clipsearch.store.manifest import key_of
from clipsearch.store.marks import marked, read_marks
from clipsearch.store.tags import with_tags, written_twice


def upgraded(writer: Writer, manifest: Manifest) -> Manifest:
    """`manifest` with everything in format 2, committed if anything had to be written. Raises: CorruptIndex."""
    if any(ref.copy is None for ref in manifest.tags):
        manifest = with_tags(
            manifest, {key_of(ref.name, ref.kind): _twice(writer.index_dir, ref) for ref in manifest.tags}
        )
        if not needs_upgrade(manifest):
            return writer.commit(manifest)
    if not needs_upgrade(manifest):
        return manifest
    fragments: list[Fragment] = []
    for fragment in manifest.fragments:
        written = _upgraded_fragment(writer, fragment)
        if written is not None:
            fragments.append(written)
    segments = [_upgraded_segment(writer, segment, manifest) for segment in manifest.segments]
    made = dataclasses.replace(manifest, fragments=tuple(fragments), segments=tuple(segments))
    return writer.commit(counted(writer.index_dir, made))


def _twice(index_dir: Path, ref: TagRef) -> TagRef:
    try:
        return written_twice(index_dir, ref)
    except CorruptIndex:  # for verify --repair
        return ref


def _upgraded_fragment(writer: Writer, fragment: Fragment) -> Fragment | None:
    """Rows of files that are not pictures by their names are left out: format 2 has none of them."""
    index_dir = writer.index_dir
    dead = marked(read_marks(index_dir, fragment.dead))
    written = write_fragment(writer, lambda: _batches(index_dir, fragment))
    if written is None:
        return None
    own = dead[(dead >= written.first_row_id) & (dead <= written.last_row_id)]
    row_ids = np.array([r.row_id for batch in _batches(index_dir, fragment) for r in batch], np.int64)
    own = own[np.isin(own, row_ids)]
    return writer.mark_rows(written, own, {})


def _batches(index_dir: Path, fragment: Fragment) -> Iterator[list[ImageRecord]]:
    batch: list[ImageRecord] = []
    for record in read_fragment_records(index_dir, fragment):
        if record.status == "not_a_picture":
            continue
        batch.append(record)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _upgraded_segment(writer: Writer, segment: Segment, manifest: Manifest) -> Segment:
    index_dir, dim = writer.index_dir, manifest.model.dim
    hidden = marked(read_marks(index_dir, segment.hidden))

    def write(file: HashingFile) -> None:
        write_vector_blocks(file, read_vector_blocks(index_dir, segment, dim), manifest.model)

    data = writer.add_file("vectors", ".parquet", write)
    kept = dataclasses.replace(segment, data=data)
    made = derive_segment(
        writer,
        kept,
        lambda: read_vector_blocks(index_dir, kept, dim),
        dim,
        collection_rows=manifest.answered,
        recall=manifest.recall_target,
    )
    ids = np.concatenate([block.ids for block in read_vector_blocks(index_dir, kept, dim)])
    own = hidden[np.isin(hidden, ids)]
    return dataclasses.replace(made, hidden=writer.add_marks({0: own}), hidden_count=len(own))
