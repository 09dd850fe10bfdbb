"""What a row says of a file: one that was read, one that was not, and one whose content is known from another place."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipsearch.archives.said import with_said
from clipsearch.indexer.scan import FoundFile
from clipsearch.indexer.sidecars import NOT_LOOKED_AT
from clipsearch.pictures.metadata import METADATA_VERSION, describe_again
from clipsearch.pictures.pool import DecodeResult
from clipsearch.records import ImageRecord, PictureMetadata

NOTHING_SAID = PictureMetadata()


def row_of(
    file: FoundFile,
    content_hash: str | None = None,
    width: int | None = None,
    height: int | None = None,
    metadata: PictureMetadata = NOTHING_SAID,
) -> ImageRecord:
    """The row of a file, or of a member of an archive, that has no vector yet."""
    return ImageRecord(
        row_id=-1,
        path=file.path,
        size_bytes=file.size_bytes,
        mtime_ns=file.mtime_ns,
        inode=file.inode,
        content_hash=content_hash,
        width=width,
        height=height,
        metadata=metadata,
        sidecars=file.sidecars,
        metadata_version=METADATA_VERSION,
        **_within(file),
    )


def row_of_decoded(file: FoundFile, result: DecodeResult) -> ImageRecord:
    """The row of a picture that was read."""
    metadata = result.metadata if file.within is None else with_said(result.metadata, file.within.said)
    record = row_of(file, result.content_hash, result.width, result.height, metadata)
    sidecars = NOT_LOOKED_AT if result.beside_unread else file.sidecars
    return dataclasses.replace(record, partial=result.partial, sidecars=sidecars, **asdict(result.appearance))


def row_at(root: Path, record: ImageRecord, file: FoundFile, metadata: PictureMetadata | None = None) -> ImageRecord:
    """What is known of a content, at another place or time: `metadata`, if it was read there; else its own name
    may say more."""
    version, sidecars = METADATA_VERSION, file.sidecars
    if file.within is None and record.member and file.path != record.path:  # its archive was moved
        return dataclasses.replace(record, path=file.path, mtime_ns=file.mtime_ns, inode=file.inode)
    if file.within is None and record.member and record.archive_bytes == file.size_bytes and metadata is None:
        return dataclasses.replace(record, mtime_ns=file.mtime_ns, inode=file.inode)
    if file.within is not None and (metadata is None or record.status != "ok"):
        own = dataclasses.replace(record.metadata, title=None, caption=None, keywords=(), columns=())
        metadata, version = with_said(own, file.within.said), record.metadata_version
    elif metadata is None or record.status != "ok":
        version = record.metadata_version
        try:
            metadata = describe_again(record.metadata, str(root / file.path))
        except OSError:
            metadata, sidecars = record.metadata, NOT_LOOKED_AT
    return dataclasses.replace(
        record,
        path=file.path,
        size_bytes=file.size_bytes,
        mtime_ns=file.mtime_ns,
        inode=file.inode,
        metadata=metadata,
        sidecars=sidecars,
        metadata_version=version,
        **_within(file),
    )


def says_the_same(one: ImageRecord, other: ImageRecord, *, tagged: bool = False) -> bool:
    """Whether two rows of skipped files differ in nothing that matters: there is nothing new to write then. `tagged`:
    see `changes.Comparison`."""

    def said(record: ImageRecord) -> tuple[object, ...]:
        own = record.path, record.member, record.size_bytes, record.archive_rows, record.mtime_ns
        return *own, record.status, record.reason, record.attempts

    return said(one) == said(other) and (one.inode == other.inode or not tagged)


def _within(file: FoundFile) -> dict[str, Any]:
    """What a record says of where a member of an archive is."""
    if file.within is None:
        return {"member": "", "offset": 0, "archive_bytes": 0, "archive_rows": 0}
    within = file.within
    return {
        "member": file.member,
        "offset": within.offset,
        "archive_bytes": within.archive_bytes,
        "archive_rows": within.archive_rows,
    }
