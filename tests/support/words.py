"""Words in pictures, as `clipsearch read` would have found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipsearch.records import Line
from clipsearch.store import Writer, open_snapshot, read_records
from clipsearch.store.words import ReadPicture, add_words


def line(text: str, top: int = 0) -> Line:
    return Line(text, (4, top, 8 * len(text), 10), 0.9)


def read_picture(content_hash: str, *texts: str) -> ReadPicture:
    return ReadPicture(content_hash, tuple(line(text, 12 * n) for n, text in enumerate(texts)))


def write_words(index: Path, words: Mapping[str, Sequence[str]]) -> None:
    """Add lines to the pictures of an index, by their names, in one file and one commit."""
    with open_snapshot(index) as snapshot:
        hashes = {record.path: record.content_hash or "" for record in read_records(index, snapshot.manifest)}
    with Writer(index) as writer:
        manifest = writer.current()
        assert manifest is not None
        read = [read_picture(hashes[name], *texts) for name, texts in words.items()]
        writer.commit(add_words(writer, manifest, read))
