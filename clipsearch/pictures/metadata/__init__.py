"""What picture files say of themselves, in any way that cameras, phones, scanners, editors and people use.

`read_embedded` collects what stands in the file, `describe` adds its name and the files beside it and decides whom to
believe. Whatever is broken is left out: metadata never costs a picture, nor much time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO, Any

from clipsearch.pictures.formats import Kind
from clipsearch.pictures.metadata.blocks import said_in_blocks, said_in_profiles
from clipsearch.pictures.metadata.exif import (
    Exif,
    orientation_of,
    read_exif,
    read_tiff_exif,
    said_in_exif,
)
from clipsearch.pictures.metadata.iptc import iptc_in_resources, said_in_iptc
from clipsearch.pictures.metadata.moments import Moment, choose, moment_of_name
from clipsearch.pictures.metadata.png_texts import said_in_png_texts
from clipsearch.pictures.metadata.sidecars import said_beside
from clipsearch.pictures.metadata.statements import NOTHING, Place, Said
from clipsearch.pictures.metadata.words import Words, comment_of, written
from clipsearch.pictures.metadata.xmp import said_in_xmp
from clipsearch.records import PictureMetadata

__all__ = [
    "METADATA_VERSION",
    "SOURCES",
    "Embedded",
    "Exif",
    "describe",
    "describe_again",
    "orientation_of",
    "read_blocks",
    "read_embedded",
    "read_exif",
    "read_tiff_exif",
]

METADATA_VERSION = 3
"""Raised when more, or something else, is read than before: `index --reread-metadata` reads what is of lower ones. At
most 255."""

SOURCES = (
    # When it was taken. An editor's file beside the picture is where people correct it.
    "sidecar:DateTimeOriginal",
    "sidecar:DateCreated",
    "exif:DateTimeOriginal",
    "xmp:DateTimeOriginal",
    "xmp:DateCreated",
    "iptc:DateCreated",
    "png:DateTimeOriginal",
    "video:creationdate",
    # When it became a file: of a camera's picture the same, of a scan later.
    "sidecar:CreateDate",
    "sidecar:DateTimeDigitized",
    "exif:DateTimeDigitized",
    "xmp:CreateDate",
    "xmp:DateTimeDigitized",
    "iptc:DigitalCreationDate",
    "png:CreationTime",
    "pdf:CreationDate",
    # When, by satellites or a server: UTC, put on the clocks of the place where that is known.
    "exif:GPSDateStamp",
    "sidecar:GPSTimeStamp",
    "xmp:GPSTimeStamp",
    "takeout:photoTakenTime",
    "video:creation_time",
    "name",
    # When it was changed last: often all that scanners and old phones write.
    "sidecar:date",
    "xmp:date",
    "exif:DateTime",
    "sidecar:DateTime",
    "xmp:DateTime",
    "sidecar:DateAcquired",  # when a computer got it from the camera
    "xmp:DateAcquired",
    "sidecar:ModifyDate",
    "xmp:ModifyDate",
    "png:ModifyDate",
    "png:tIME",
)
"""Whom to believe on the date, first to last; the names that `date_source` has. Placeholders of clocks that were never
set are passed over. A later source is taken where it says the same more exactly: a name with a time for a day without
one, a year that the name makes a day."""

_RANKS = {source: rank for rank, source in enumerate(SOURCES)}
_OUTSIDE = ("sidecar:", "takeout:", "name")  # sources that are not in the file


@dataclass(frozen=True, slots=True)
class Embedded:
    """What stands in a picture file, source by source."""

    kind: Kind | None = None
    said: tuple[Said, ...] = ()

    def __add__(self, other: Embedded) -> Embedded:
        """Also what `other` says, which counts for less."""
        return Embedded(self.kind, self.said + other.said)


def read_embedded(kind: Kind, exif: Exif | None, info: dict[Any, Any] | None = None) -> Embedded:
    """What stands in a picture file: its EXIF, and what Pillow keeps in `Image.info`. Never raises."""
    info = info or {}
    said: list[Said] = []
    try:
        said.append(said_in_exif(exif))
        packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or _tag(exif, 700)
        if packet:
            said.append(said_in_xmp(packet))
        resources = info.get("photoshop")
        block = resources.get(0x0404) if isinstance(resources, dict) else None
        block = block or iptc_in_resources(_tag(exif, 34377)) or _tag(exif, 33723)
        if block:
            said.append(said_in_iptc(block))
        if kind == "PNG":
            said.append(said_in_png_texts(info))
            said += said_in_profiles(info)
        if kind == "JPEG" and (comment := comment_of(info.get("comment"))):
            said.append(Said(words=Words(captions=(comment,), trust=5)))
    except Exception:  # a decoder's objects can raise anything: what was read so far counts
        pass
    return Embedded(kind, tuple(part for part in said if part != NOTHING))


def read_blocks(kind: Kind, stream: IO[bytes]) -> Embedded:
    """What stands in a picture file where Pillow does not look. Never raises."""
    said: list[Said] = []
    try:
        for part in said_in_blocks(stream, kind):
            said.append(part)  # those before a mistake count
    except Exception:  # as in read_embedded
        pass
    return Embedded(kind, tuple(part for part in said if part != NOTHING))


def _tag(exif: Exif | None, tag: int) -> bytes | None:
    """A tag that holds bytes, which some programs write as whole numbers of 32 bits."""
    return None if exif is None else exif.raw(tag)


def describe(embedded: Embedded, path: str, *, beside: bool = True) -> PictureMetadata:
    """What is known of a picture: what stands in it, beside it (if `beside` is set), and in its name.

    Raises: OSError, if a file beside it cannot be read now.
    """
    sidecar, takeout, named = _outside(path, beside)
    inside = embedded.said
    places = [said.place for said in (sidecar, *inside, takeout)]
    cameras = [said.camera for said in (*inside, sidecar, takeout)]
    place: Place | None = next((place for place in places if place is not None), None)
    said = [item for part in (sidecar, *inside, takeout) for item in part.dates.items()]
    if named is not None:
        said.append(("name", named))
    taken_at, source = _decide(said, place)
    camera = next((camera for camera in cameras if camera is not None), None)
    words = written((part.words for part in (*inside, takeout)), camera, first=sidecar.words)
    return PictureMetadata(
        embedded.kind,
        taken_at,
        camera,
        None if place is None else place[0],
        None if place is None else place[1],
        source,
        words.title,
        words.caption,
        words.keywords,
        words.people,
        words.rating,
        live=next((said.live for said in inside if said.live is not None), None),
    )


def describe_again(known: PictureMetadata, path: str) -> PictureMetadata:
    """What is known of a picture whose bytes are those of a known one, by its own name and the files beside it.

    Raises: OSError, if one of these cannot be read now.
    """
    sidecar, takeout, named = _outside(path, True)
    said = [item for part in (sidecar, takeout) for item in part.dates.items()]
    if named is not None:
        said.append(("name", named))
    if known.taken_at is not None and not (known.date_source or "").startswith(_OUTSIDE):
        try:
            moment = Moment(datetime.fromisoformat(known.taken_at))
        except ValueError:
            moment = None
        if moment is not None:
            span = timedelta(days=1) if known.taken_at.endswith("T00:00:00") else timedelta(0)
            said.append((known.date_source or "exif:DateTimeOriginal", Moment(moment.start, span)))
    place = None if known.latitude is None or known.longitude is None else (known.latitude, known.longitude)
    place = sidecar.place or place or takeout.place
    taken_at, source = _decide(said, place)
    camera = known.camera or sidecar.camera or takeout.camera
    own = Words(
        (known.title,) if known.title else (),
        tuple((known.caption or "").splitlines()),
        known.keywords,
        known.people,
        known.rating,
    )
    words = written((own, takeout.words), camera, first=sidecar.words)
    latitude, longitude = (None, None) if place is None else place
    return replace(
        known,
        taken_at=taken_at,
        camera=camera,
        latitude=latitude,
        longitude=longitude,
        date_source=source,
        title=words.title,
        caption=words.caption,
        keywords=words.keywords,
        people=words.people,
        rating=words.rating,
    )


def _outside(path: str, beside: bool) -> tuple[Said, Said, Moment | None]:
    try:
        sidecar, takeout = said_beside(path) if beside else (NOTHING, NOTHING)
        return sidecar, takeout, moment_of_name(os.path.basename(path))  # noqa: PTH119
    except OSError:
        raise
    except Exception:  # a name is anything, and so is a file beside it
        return NOTHING, NOTHING, None


def _decide(said: Iterable[tuple[str, Moment]], place: Place | None) -> tuple[str | None, str | None]:
    ordered = sorted(said, key=lambda item: _RANKS.get(item[0], len(_RANKS)))
    chosen = choose(ordered)
    if chosen is None:
        return None, None
    source, moment = chosen
    if place is not None:
        moment = moment.at_longitude(place[1])
    return moment.isoformat(), source
