"""Which index and which picture a request means. Row ids begin at 0 in every index: by themselves they say neither.

An address that names a picture also carries the first digits of its content hash, and what speaks of several pictures
by row id carries the random id of the index. So a browser that kept an address from another index, or from before this
one was made anew, gets no picture rather than a wrong one.
"""

from __future__ import annotations

import struct
from typing import Annotated

import numpy as np
from fastapi import Query as InQuery

from clipsearch.errors import ClipsearchError
from clipsearch.records import ImageRecord
from clipsearch.search.collection import Collection

ADDRESS_DIGITS = 16
"""How many digits of a content hash an address carries."""

Content = Annotated[
    str | None,
    InQuery(
        pattern="^[0-9a-f]{16,32}$",
        description="The first 16 digits or more of the picture's content_hash: no other picture is answered.",
    ),
]


class OtherPicture(ClipsearchError):
    """The row has another content than the address says, or its file has."""

    def __init__(self, row_id: int, problem: str = "the picture of this row is another one") -> None:
        self.row_id = row_id
        super().__init__(f"picture {row_id}: {problem}")


class OtherIndex(ClipsearchError):
    """Row ids of another index, or of this one before it was made anew, were sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is another index now: its pictures have other numbers")


def has_content(record: ImageRecord, content: str | None) -> bool:
    """Whether a record is the picture that an address means."""
    return content is None or (record.content_hash or "").startswith(content)


def find_content(photos: Collection, content: str) -> ImageRecord | None:
    """A picture of this content, by the first digits of its hash; the one with the lowest row id."""
    (wanted,) = struct.unpack("<q", bytes.fromhex(content[:16]))
    found = [columns.row_ids[columns.hashes[:, 0] == wanted] for columns in photos.columns()]
    for row_id in np.sort(np.concatenate(found)).tolist() if found else []:
        try:
            record = photos.record(row_id)
        except KeyError:  # gone
            continue
        if has_content(record, content):
            return record
    return None


def check_index(identity: str, name: str, asked: str | None) -> None:
    """Raises: OtherIndex, if a request was made for an index with another id."""
    if asked is not None and not identity.startswith(asked):
        raise OtherIndex(name)
