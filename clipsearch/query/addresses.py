"""Addresses in a query: which of them were searched as words, and why."""

from __future__ import annotations

import re

from clipsearch.sentences import sentence

_ADDRESS = re.compile(r"(?<!\w)(?P<scheme>https?|ftps?|sftp|file|s3|gs|smb|data)://\S+", re.IGNORECASE)


def address_in(text: str) -> list[str]:
    """A line for a text with an address that was searched as words."""
    match = _ADDRESS.search(text)
    if match is None:
        return []
    if match["scheme"].lower() in ("http", "https"):
        return [
            sentence(
                "address",
                "{text} was searched as words: only clipsearch query fetches a picture from its address, and only "
                "an address that stands alone",
                text=match[0],
            )
        ]
    return [
        sentence(
            "other_address",
            "{text} was searched as words: only addresses that begin with http:// or https:// are fetched. For a file "
            "on this computer, give clipsearch query its path",
            text=match[0],
        )
    ]
