"""The index on disk: immutable files, numbered manifests, commits that survive a crash at any moment.

    .clipsearch/
      CURRENT                  generation and checksum of its manifest; replaced by rename
      LOCK                     held (flock) by the one writer; says who it is
      manifests/00000042.json  every file of a generation, with sizes and checksums; readers hold a shared flock
      data/<hash>.parquet      the truth: records and vectors
      vectors/<hash>.npy       derived: row ids and vectors, mapped by exact search
      rows/<hash>.rows         derived: what a hit shows, found by row id without reading Parquet
      columns/<hash>.columns   derived: what filters ask, column by column
      faiss/<hash>.faiss       derived: inverted files
      tombstones/<hash>.npy    deleted row ids
      tags/<hash>.tag          content hashes of the pictures that carry a tag, with scores
      staging/                 files being written

A file gets its final name, made of the hash of its bytes, only when it is complete and synced. A commit
writes the manifest (put-if-absent), then replaces CURRENT. Readers resolve CURRENT once and lock that
generation's manifest; a generation is collected when its manifest is locked by nobody.

This module knows nothing of FAISS, encoders or pictures. It is the only one that writes Parquet.
"""

from clipsearch.store.files import verify_file
from clipsearch.store.fragments import read_fragment, read_orphan, read_partial, read_records
from clipsearch.store.lock import RunProgress, WriterState, read_writer
from clipsearch.store.rows import RowsFile
from clipsearch.store.snapshot import (
    Snapshot,
    find_newest_manifest,
    open_snapshot,
    read_tombstones,
    resolve_current,
    root_path,
)
from clipsearch.store.writer import COLLECTED_FOLDERS, Writer

__all__ = [
    "COLLECTED_FOLDERS",
    "RowsFile",
    "RunProgress",
    "Snapshot",
    "Writer",
    "WriterState",
    "find_newest_manifest",
    "open_snapshot",
    "read_fragment",
    "read_orphan",
    "read_partial",
    "read_records",
    "read_tombstones",
    "read_writer",
    "resolve_current",
    "root_path",
    "verify_file",
]
