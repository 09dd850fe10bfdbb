"""Which index and which picture a request means. Row ids begin at 0 in every index: by themselves they say neither.

An address that names a picture also carries the first digits of its content hash, and what speaks of several pictures
by row id carries the random id of the index. So a browser that kept an address from another index, or from before this
one was made anew, gets no picture rather than a wrong one.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query as InQuery

from clipsearch.errors import OtherIndex

ADDRESS_DIGITS = 16
"""How many digits of a content hash an address carries."""

Content = Annotated[
    str | None,
    InQuery(
        pattern="^[0-9a-f]{16,32}$",
        description="At least the first 16 digits of the picture's content_hash: no other picture is returned.",
    ),
]

IndexId = Annotated[
    str | None,
    InQuery(
        pattern="^[0-9a-f]{8,32}$",
        description="At least the first 8 digits of the index's id (see /v1/status): another index returns 409.",
    ),
]


def check_index(identity: str, name: str, asked: str | None) -> None:
    """Raises: OtherIndex, if a request was made for an index with another id."""
    if asked is not None and not identity.startswith(asked):
        raise OtherIndex(name)
