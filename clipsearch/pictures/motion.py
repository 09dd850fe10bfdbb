"""The clips in motion photos: a short film that a phone puts behind a picture, in the same file.

Google's phones say in the XMP how many bytes from the end it begins (`MicroVideoOffset`, later a directory of items),
those of Samsung put `MotionPhoto_Data` before it, and in a HEIC it is a box of its own (`mpvd`). A file that says so
and has lost its clip, as messengers and editors leave it, is a picture like any other: the clip itself must be there.
"""

from __future__ import annotations

import re

_HEAD_BYTES = 1 << 20  # in which the XMP stands
_SAMSUNG = b"MotionPhoto_Data"
_SAYS_SO = re.compile(rb"(?:MotionPhoto|MicroVideo)(?:=[\"']|>)\s*1")
_OFFSET = re.compile(rb"MicroVideoOffset(?:=[\"']|>)\s*(\d{1,12})")
_ITEM = re.compile(rb"<[A-Za-z]+:Item\b[^<>]*>|<rdf:li\b[^<>]*Semantic[^<>]*>")
_SEMANTIC = re.compile(rb"Semantic=[\"']([A-Za-z]+)")
_LENGTH = re.compile(rb"Length=[\"']\s*(\d{1,12})")
_FILM = re.compile(rb"\0\0\0[\x08-\xff]ftyp")
_MOST_BOXES = 1000
_NAME = re.compile(rb"[0-9A-Za-z \xa9]{4}")


def clip_start(content: bytes | memoryview) -> int | None:
    """Where the clip of a motion photo begins, to whose end nothing but padding and marks follow; None without one."""
    view = memoryview(content)
    is_boxed = bytes(view[4:8]) == b"ftyp"
    found = _boxed(view) if is_boxed else None
    if found is None:
        found = _behind_mark(view)
    if found is None:
        found = _said(view)
    return found


def clip_span(content: bytes | memoryview) -> range | None:
    """Which bytes of a motion photo are its clip, without what stands behind that: whole boxes of an MP4."""
    view = memoryview(content)
    start = clip_start(view)
    if start is None:
        return None
    end = start
    for _ in range(_MOST_BOXES):
        size, name = int.from_bytes(view[end : end + 4], "big"), bytes(view[end + 4 : end + 8])
        if size == 1:
            size = int.from_bytes(view[end + 8 : end + 16], "big")
        if size < 8 or end + size > len(view) or not _NAME.fullmatch(name):
            break
        end += size
    return range(start, end)


def _is_film(view: memoryview, at: int) -> bool:
    return 0 < at < len(view) - 16 and _FILM.match(view[at : at + 8]) is not None


def _boxed(view: memoryview) -> int | None:
    """In the box that Google's HEIC and AVIF have for it, one of the outermost."""
    at = 0
    for _ in range(_MOST_BOXES):
        size, name = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        body = at + 8
        if size == 1:
            size, body = int.from_bytes(view[at + 8 : at + 16], "big"), at + 16
        if name == b"mpvd":
            return body if _is_film(view, body) else None
        if size < 8 or at + size >= len(view):
            return None
        at += size
    return None


def _behind_mark(view: memoryview) -> int | None:
    for mark in re.finditer(_SAMSUNG, view):
        if _is_film(view, mark.end()):
            return mark.end()
    return None


def _said(view: memoryview) -> int | None:
    """Where the XMP says, or, as some editors do not bring that up to date, the only film behind the picture."""
    head = bytes(view[:_HEAD_BYTES])
    if not _SAYS_SO.search(head):
        return None
    from_end = [int(found[1]) for found in _OFFSET.finditer(head)]
    items = [(_SEMANTIC.search(item), _LENGTH.search(item)) for item in _ITEM.findall(head)]
    lengths = [(semantic[1], int(length[1]) if length else 0) for semantic, length in items if semantic]
    for number, (semantic, _) in enumerate(lengths):
        if semantic == b"MotionPhoto":
            from_end.append(sum(length for _, length in lengths[number:]))
    for length in from_end:
        if _is_film(view, len(view) - length):
            return len(view) - length
    films = [found.start() for found in _FILM.finditer(view) if found.start() > 0]
    return films[0] if len(films) == 1 else None
