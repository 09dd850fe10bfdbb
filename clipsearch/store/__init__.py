"""The index on disk: immutable files, numbered manifests, commits that survive a crash at any moment.

    .clipsearch/
      INDEX                    makes the folder an index: format, a random id, when it was made; written first
      CURRENT                  generation and checksum of its manifest; replaced by rename
      NEW                      there until the first commit
      LOCK                     held (flock) by the one writer; says who it is
      COMMIT                   held for the moment of a commit, by the writer or by who saves a tag
      manifests/00000042.json  every file of a generation, with sizes and checksums; readers hold a shared flock
      records/<hash>.parquet   the truth of rows: what is known of each picture
      vectors/<hash>.parquet   the truth of vectors, by content
      rows/<hash>.rows         derived: all that queries and later runs ask of rows
      search/<hash>.npy        derived: vectors with their ids and contents, mapped by exact search
      faiss/<hash>.faiss       derived: inverted files
      marks/<hash>.marks       which rows are dead or missing, which vectors are hidden
      tags/<hash>.tag          content hashes of the pictures that carry a tag, with scores; each twice
      words/<hash>.words       SQLite: the words in pictures, by content hash, as `clipsearch read` found them
                               (or the captions that `clipsearch caption` had a model write)
      staging/                 files being written
      damaged/                 what a repair put aside

A file gets its final name, made of the hash of its bytes, only when it is complete and synced. A commit
writes the manifest (put-if-absent), then replaces CURRENT. Readers resolve CURRENT once and lock that
generation's manifest; of old generations the last one is kept, others are collected when nobody holds them.

Parquet is the truth, which any program can read. What is derived spares a query Parquet and FAISS (a file that is
mapped costs nothing to open), and a run an object for each row. `clipsearch verify --repair` makes it again from the
truth, and most of the truth from it. `--reindex` builds beside what is there and switches in its last commit.

This module knows nothing of FAISS, encoders or pictures. It is the only one that writes Parquet.
"""

from clipsearch.store.files import verify_file
from clipsearch.store.fragments import read_partial, read_pictures, read_records
from clipsearch.store.lock import RunProgress, WriterState, read_writer
from clipsearch.store.rows import LiveRows, RowsFile, open_live_rows, open_rows
from clipsearch.store.snapshot import Snapshot, open_snapshot, resolve_current, root_path
from clipsearch.store.writer import Writer

__all__ = [
    "LiveRows",
    "RowsFile",
    "RunProgress",
    "Snapshot",
    "Writer",
    "WriterState",
    "open_live_rows",
    "open_rows",
    "open_snapshot",
    "read_partial",
    "read_pictures",
    "read_records",
    "read_writer",
    "resolve_current",
    "root_path",
    "verify_file",
]
