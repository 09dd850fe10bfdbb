"""Addresses and names of files in a query: which of them were searched as words, and why."""

from __future__ import annotations

import re

from clipsearch.query import Query, Term
from clipsearch.query.rewriting import rewritten
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


def file_name(query: Query, term: Term) -> list[str]:
    """A line with the filter for the name that a term is: `IMG_1234.jpg`, where there is no such file."""
    name = re.split(r"[\\/]", term.value)[-1]
    if name.startswith(".") or re.search(r'[\s"*?]', name):
        return []
    written = rewritten(query, [term], [(term.value, "")], f"name:{name}")
    if written is None:
        return []
    return [
        sentence(
            "file_name",
            "{name} was searched as words. For pictures with this name, write: {query}",
            name=term.value,
            query=written,
        )
    ]
