"""IPTC: what picture agencies and older cataloguing programs write, inside Photoshop's image resources."""

from __future__ import annotations

from collections.abc import Iterator

from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import Said, text_of
from clipsearch.pictures.metadata.words import Words, decoded, decoded_as, levels_of

_LONGEST_BLOCK_BYTES = 2**20
_LONGEST_FIELD_BYTES = 2**14
_MOST_FIELDS = 2000
_UTF8 = (b"\x1b%G", b"\x1b%/G", b"\x1b%/I")
_TITLES = (5, 105)  # ObjectName, Headline
_CAPTIONS = (120,)
_KEYWORDS = (25, 20)  # and supplemental categories
_TEXTS = frozenset({*_TITLES, *_CAPTIONS, *_KEYWORDS})
_DATES = (("DateCreated", 55, 60), ("DigitalCreationDate", 62, 63))  # name, dataset of the date and of its time


def said_in_iptc(block: object) -> Said:
    """What an IPTC block says. Never raises."""
    fields: dict[int, str] = {}
    texts: dict[int, list[str]] = {}
    encoding = None
    for record, number, value in _fields(
        bytes(block[:_LONGEST_BLOCK_BYTES]) if isinstance(block, (bytes, bytearray)) else b""
    ):
        if record == 1:
            encoding = "utf-8" if number == 90 and value.startswith(_UTF8) else encoding
            continue
        fields.setdefault(number, text_of(value[:200]))
        if number in _TEXTS:
            texts.setdefault(number, []).append(decoded_as(value, encoding) if encoding else decoded(value))
    dates: dict[str, Moment] = {}
    for name, date, time in _DATES:
        clock = fields.get(time, "")
        moment = read_moment(f"{fields.get(date, '')} {clock.replace(':', '')[:6]}") if date in fields else None
        if moment is not None:
            dates[f"iptc:{name}"] = moment
    titles, captions, keywords = (
        [text for number in numbers for text in texts.get(number, ())] for numbers in (_TITLES, _CAPTIONS, _KEYWORDS)
    )
    keywords = [levels_of(text, "|") for text in keywords]
    return Said(dates, words=Words(tuple(titles), tuple(captions), tuple(keywords), trust=1))


def iptc_in_resources(resources: object) -> bytes | None:
    """The IPTC block among Photoshop's image resources."""
    if not isinstance(resources, (bytes, bytearray)):
        return None
    at = resources.find(b"8BIM\x04\x04")
    if at < 0:
        return None
    name_at = at + 6
    size_at = name_at + 1 + resources[name_at] if name_at < len(resources) else len(resources)
    size_at += (size_at - name_at) % 2
    size = int.from_bytes(resources[size_at : size_at + 4], "big")
    return bytes(resources[size_at + 4 : size_at + 4 + min(size, _LONGEST_BLOCK_BYTES)])


def _fields(block: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The datasets of the envelope and application records: record, number, value, as far as it is read."""
    at = max(block.find(b"\x1c"), 0)
    for _ in range(_MOST_FIELDS):
        if block[at : at + 1] != b"\x1c" or at + 5 > len(block):
            return
        record, number, size = block[at + 1], block[at + 2], int.from_bytes(block[at + 3 : at + 5], "big")
        at += 5
        if size & 0x8000:  # so many bytes hold the size
            digits = size & 0x7FFF
            if digits > 4:
                return
            size = int.from_bytes(block[at : at + digits], "big")
            at += digits
        if at + min(size, _LONGEST_FIELD_BYTES) > len(block):
            return  # cut off, and a part of a date is another date
        if record in (1, 2):
            yield record, number, block[at : at + min(size, _LONGEST_FIELD_BYTES)]
        at += size
