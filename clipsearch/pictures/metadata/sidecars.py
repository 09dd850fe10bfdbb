"""Files beside a picture that say more of it: XMP of editors, the JSON of Google Takeout and of ExifTool. Read-only and
bounded."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import time
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from clipsearch.pictures.formats import PICTURE_ENDINGS
from clipsearch.pictures.metadata.moments import Moment, read_moment, since_1970
from clipsearch.pictures.metadata.statements import NOTHING, Place, Said, camera_of, place_of, text_of, written_degrees
from clipsearch.pictures.metadata.words import LEVELS, MOST_KEYWORDS, Words, levels_of, stars
from clipsearch.pictures.metadata.xmp import LONGEST_PACKET_BYTES, said_in_xmp

_LONGEST_JSON_BYTES = 2**18
_MOST_NAMES = 2_000_000
_TAKEOUT_SUFFIX = ".supplemental-metadata"
_TAKEOUT_LENGTH = 46  # Takeout cuts the names of its JSON files here, before `.json`
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_COUNTER = re.compile(r"\((\d{1,5})\)$")
_EDITED = re.compile(
    r"[-_](?:edited|bearbeitet|modifié|editado|editada|modificato|bewerkt|redigerad|redigert|redigeret|muokattu|"
    r"edytowane|upraveno|szerkesztett|editat|düzenlendi|изменено|відредаговано|編集済み|수정됨|已修改|已編輯|edit|effects|"
    r"collage|animation|mix)$"
)
_FAMILY = re.compile(r"[^.]*(?:\.(?=\d)(?!3fr\b)[^.]*)*")
_FAMILY_LENGTH = 24  # well below where names are cut
# Endings of what Takeout may have had of a picture that is a file of another kind here.
_CONVERTED = (
    "heic", "heif", "jpg", "jpeg", "png", "webp", "avif", "dng", "tif", "tiff", "gif", "mp4", "mov", "mp", "mv"
)  # fmt: skip
_OF_CAMERAS = (".heic", ".heif", ".dng", ".mp4", ".mov", ".mp", ".mv")  # a copy beside one of these shows the same


def said_beside(path: str) -> tuple[Said, Said]:
    """What the XMP file beside a picture says (sources `sidecar:...`), and what Google Takeout's JSON does.

    `name.jpg.xmp` comes before `name.xmp`, in any letter case. Raises: OSError, if something is there that cannot be
    read now: what it says is not known then.
    """
    folder, name = os.path.split(path)
    try:
        beside = _Folder.of(folder or os.curdir)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return NOTHING, NOTHING
        raise
    if not beside.xmp and not beside.json:
        return NOTHING, NOTHING
    return _of_xmp(folder, name, beside), _of_takeout(folder, name, beside)


def _form(name: str) -> str:
    """A name to compare with others: copies between systems change the form of its letters."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.lower())


def is_sidecar_name(name: str) -> bool:
    """Whether a file may be one that speaks of a picture, by its name."""
    return name[-4:].lower() == ".xmp" or name[-5:].lower() == ".json"


def says_of_whom(name: str) -> bool:
    """Whether a file speaks of a picture, going by its name alone: that of any JSON file does not say so."""
    if not is_sidecar_name(name):
        return False
    stem, _, ending = name.lower().rpartition(".")
    return (
        ending == "xmp"
        or len(stem) >= _TAKEOUT_LENGTH
        or any(f".{part}" in PICTURE_ENDINGS for part in re.split(r"[.(]", stem)[1:])
    )


def family_of(name: str) -> str:
    """What the name of a picture has in common with those of all files beside it that may speak of it.

    Files of the same family need not speak of each other (`a.jpg`, `a.png.json`). Made of the name up to its first dot,
    but for dots in numbers (2011.06.05), without counters and what editors add.
    """
    name = _form(name)
    plain = _FAMILY.match(name)
    family = name if plain is None else plain[0]
    while True:
        shorter = _EDITED.sub("", _COUNTER.sub("", family))
        if shorter == family:
            return family[:_FAMILY_LENGTH]
        family = shorter


@dataclass(slots=True)
class _Folder:
    """The names of the files in a folder that may speak of others, by their stem in lower case."""

    changed_ns: int
    listed_s: float
    took_s: float
    is_settled: bool
    xmp: dict[str, str] = field(default_factory=dict)
    json: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: str) -> _Folder:
        """The names in a folder, listed once while it does not change; again only now and then while it does."""
        changed_ns = os.stat(folder).st_mtime_ns  # noqa: PTH116
        now = time.monotonic()
        known = _listed.get(folder)
        if known is not None:
            same = known.changed_ns == changed_ns and known.is_settled
            if same or now - known.listed_s < min(60.0, 20 * known.took_s):
                return known
        # A folder may change again within one tick of its file system's clock (two seconds on FAT).
        found = cls(changed_ns, now, 0.0, is_settled=abs(time.time_ns() - changed_ns) > 2_500_000_000)
        with os.scandir(folder) as entries:
            for _, entry in zip(range(_MOST_NAMES), entries, strict=False):
                stem, dot, ending = entry.name.rpartition(".")
                if dot and (kind := ending.lower()) in ("xmp", "json"):
                    (found.xmp if kind == "xmp" else found.json).setdefault(_form(stem), entry.name)
        found.took_s = time.monotonic() - now
        if len(_listed) >= 16:
            _listed.clear()
        _listed[folder] = found
        return found


_listed: dict[str, _Folder] = {}


def _read(path: str, limit: int) -> bytes | None:
    """The beginning of a regular file; None for anything else, which is not opened. Raises: OSError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return None
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            return file.read(limit)
    except ValueError:
        return None
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def _of_xmp(folder: str, name: str, beside: _Folder) -> Said:
    for stem in (_form(name), _form(os.path.splitext(name)[0])):  # noqa: PTH122
        found = beside.xmp.get(stem)
        content = None if found is None else _read(os.path.join(folder, found), LONGEST_PACKET_BYTES)  # noqa: PTH118
        if content is not None:
            said = said_in_xmp(content, "sidecar")
            if said != NOTHING:
                return said
    return NOTHING


# --- Google Takeout ------------------------------------------------------------------------------------------


def _of_takeout(folder: str, name: str, beside: _Folder) -> Said:
    for stem, certain in _takeout_stems(_form(name), beside):
        content = _read(os.path.join(folder, beside.json[stem]), _LONGEST_JSON_BYTES)  # noqa: PTH118
        if content is None:
            continue
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            continue
        if isinstance(body, list) and body and isinstance(body[0], dict) and "SourceFile" in body[0]:
            if certain or _is_titled(folder, name, os.path.basename(str(body[0]["SourceFile"]))):  # noqa: PTH119
                return _said_by_exiftool(body[0])
            continue
        if not isinstance(body, dict) or not isinstance(body.get("photoTakenTime"), dict):
            continue
        if certain or _is_titled(folder, name, str(body.get("title", ""))):
            return _said_by_takeout(body)
    return NOTHING


def _is_titled(folder: str, name: str, title: str) -> bool:
    """Whether a title is a picture's name, perhaps with the ending of what it was converted from."""
    own, other = _form(name), _form(title)
    if not other or own == other:
        return True
    stem, ending = os.path.splitext(own)  # noqa: PTH122
    other_stem, other_ending = os.path.splitext(other)  # noqa: PTH122
    if len(stem) >= 40 and other_stem.startswith(stem[:40]) and ending == other_ending:
        return True  # file systems cut long names
    plain = _EDITED.sub("", _COUNTER.sub("", stem))
    if other_stem not in (stem, _COUNTER.sub("", stem), plain):
        return False
    if ending == other_ending or other_ending[1:] not in _CONVERTED:
        return True
    return other_ending in _OF_CAMERAS or not os.path.lexists(os.path.join(folder, title))  # noqa: PTH118


def _takeout_stems(name: str, beside: _Folder) -> list[tuple[str, bool]]:
    """Which JSON files may be of a picture, the most likely first; and whether their name alone makes it certain.

    `a.jpg.json`, `a.jpg.supplemental-metadata.json` and what is left of that when cut; the counter of `a(1).jpg`
    stands behind all: `a.jpg(1).json`. An edited copy, `a-edited.jpg`, has that of its original. Where there is none of
    these, `a.json`, and those of a file with another ending, which the picture may be converted from.
    """
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = name, ""
    found: list[tuple[str, bool]] = []
    original = _EDITED.sub("", _COUNTER.sub("", stem))
    counter = _COUNTER.search(stem)
    number = counter[0] if counter is not None else ""
    bare = _COUNTER.sub("", stem)
    titles = [(f"{stem}{dot}{ending}", ""), (f"{bare}{dot}{ending}", number)]
    if original != bare:
        titles += [(f"{original}{dot}{ending}", number), (f"{original}{number}{dot}{ending}", "")]
    for title, behind in dict.fromkeys(titles):
        found += _named(title, behind, beside, certain=True)
        cut = title[:_TAKEOUT_LENGTH] + behind
        if len(title) > _TAKEOUT_LENGTH and cut in beside.json:
            found.append((cut, False))
    others = [] if found else [(stem, ""), (bare, number), (original, number)]
    for plain, behind in dict.fromkeys(others):
        if plain + behind in beside.json:
            found.append((plain + behind, False))
        for other in _CONVERTED:
            if other != ending:
                found += _named(f"{plain}.{other}", behind, beside, certain=False)
    return list(dict.fromkeys(found))


def _named(title: str, behind: str, beside: _Folder, *, certain: bool) -> list[tuple[str, bool]]:
    whole = title + _TAKEOUT_SUFFIX
    candidates = (whole[:length] + behind for length in range(len(whole), len(title) - 1, -1))
    return [(candidate, certain) for candidate in candidates if candidate in beside.json]


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _said_by_takeout(body: dict[str, Any]) -> Said:
    taken = body["photoTakenTime"]
    seconds = _number(taken.get("timestamp"))
    moment = None if seconds is None else since_1970(seconds)
    if moment is None and (written := read_moment(text_of(taken.get("formatted")))) is not None:
        moment = written if written.span else Moment(written.start, utc=True)
    place: Place | None = None
    for key in ("geoData", "geoDataExif"):
        said = body.get(key)
        if place is None and isinstance(said, dict):
            place = place_of(_number(said.get("latitude")), _number(said.get("longitude")))
    description = body.get("description")
    people = body.get("people")
    names = [one.get("name") for one in people if isinstance(one, dict)] if isinstance(people, list) else []
    words = Words(
        captions=(description,) if isinstance(description, str) and description else (),
        people=tuple(name for name in names if isinstance(name, str)),
        trust=4,
    )
    return Said({} if moment is None else {"takeout:photoTakenTime": moment}, place, words=words)


# --- ExifTool's JSON, which exports of Apple's Photos write too --------------------------------------------------

_EXIFTOOL_DATES = {
    "DateTimeOriginal": "DateTimeOriginal",
    "DateCreated": "DateCreated",
    "CreateDate": "CreateDate",
    "GPSDateTime": "GPSTimeStamp",
    "ModifyDate": "ModifyDate",
}


def _said_by_exiftool(body: dict[str, Any]) -> Said:
    """Its names may have that of their group before them: `EXIF:DateTimeOriginal`."""
    fields: dict[str, Any] = {}
    for key, value in body.items():
        fields.setdefault(key.rpartition(":")[2], value)
    dates: dict[str, Moment] = {}
    for name, short in _EXIFTOOL_DATES.items():
        moment = read_moment(text_of(fields.get(name)))
        if moment is not None:
            if short == "GPSTimeStamp" and not moment.span:
                moment = Moment(moment.start, utc=True)
            dates[f"sidecar:{short}"] = moment
    place = place_of(
        _exiftool_degrees(fields.get("GPSLatitude"), fields.get("GPSLatitudeRef"), "NS"),
        _exiftool_degrees(fields.get("GPSLongitude"), fields.get("GPSLongitudeRef"), "EW"),
    )
    return Said(dates, place, camera_of(fields.get("Make"), fields.get("Model")), _exiftool_words(fields))


_EXIFTOOL_TITLES = ("Title", "ObjectName", "XPTitle", "Headline")
_EXIFTOOL_CAPTIONS = (
    "Description", "Caption-Abstract", "ImageDescription", "Caption", "XPComment", "UserComment", "Notes", "XPSubject",
)  # fmt: skip
_EXIFTOOL_KEYWORDS = {
    "HierarchicalSubject": "|",
    "TagsList": "/",
    "LastKeywordXMP": "/",
    "CatalogSets": "|",
    "Subject": "|",
    "Keywords": "|",
    "XPKeywords": "|",
    "SupplementalCategories": "|",
}


def _exiftool_words(fields: dict[str, Any]) -> Words:
    regions = fields.get("RegionInfo"), fields.get("RegionInfoMP")
    listed = [
        found
        for info, key in zip(regions, ("RegionList", "Regions"), strict=True)
        if isinstance(info, dict) and isinstance(info.get(key), list)
        for found in info[key]
        if isinstance(found, dict)
    ]
    people = [found.get("Name", found.get("PersonDisplayName")) for found in listed if _shows_a_person(found)]
    if not listed:
        kinds = _texts_of(fields.get("RegionType"))
        names = _texts_of(fields.get("RegionName"))
        kinds = kinds if len(kinds) == len(names) else ["Face"] * len(names)
        people = [name for name, kind in zip(names, kinds, strict=True) if kind == "Face"]
    people += [*_texts_of(fields.get("RegionPersonDisplayName")), *_texts_of(fields.get("PersonInImage"))]
    details = fields.get("PersonInImageWDetails")
    people += [one.get("PersonName") for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    tree = fields.get("KeywordInfo")
    paths = _paths_in(tree.get("Hierarchy")) if isinstance(tree, dict) else []
    pets = [found.get("Name") for found in listed if found.get("Type") == "Pet"]
    keywords = [
        levels_of(part, levels)
        for name, levels in _EXIFTOOL_KEYWORDS.items()
        for text in _texts_of(fields.get(name))
        for part in (text.split(";") if name == "XPKeywords" else [text])
    ]
    ratings = (stars(fields.get("Rating")), stars(fields.get("RatingPercent"), percent=True))
    return Words(
        tuple(text for name in _EXIFTOOL_TITLES for text in _texts_of(fields.get(name))),
        tuple(text for name in _EXIFTOOL_CAPTIONS for text in _texts_of(fields.get(name))),
        (*keywords, *(LEVELS.join(path) for path in paths), *(name for name in pets if isinstance(name, str))),
        tuple(name for name in people if isinstance(name, str)),
        next((rating for rating in ratings if rating is not None), None),
    )


def _paths_in(tree: object, depth: int = 0) -> list[list[str]]:
    """The keywords of a tree, each with those above it."""
    found: list[list[str]] = []
    for one in tree if isinstance(tree, list) and depth < 32 else ():
        if isinstance(one, dict) and isinstance(one.get("Keyword"), str) and len(found) < MOST_KEYWORDS:
            below = _paths_in(one.get("Children"), depth + 1)
            found += [[one["Keyword"], *path] for path in below] or [[one["Keyword"]]]
    return found


def _shows_a_person(region: dict[str, Any]) -> bool:
    return bool(region.get("Type", "Face") == "Face")


def _texts_of(value: object) -> list[str]:
    """The texts of a field that has one or several; a number is one that ExifTool took for such."""
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if isinstance(one, (str, int, float)) and not isinstance(one, bool)]


def _exiftool_degrees(value: object, half: object, letters: str) -> float | None:
    """Degrees as a number or in words (`48 deg 30' 0.00" N`), without their hemisphere where `half` names it."""
    written = value.replace(" deg", "°") if isinstance(value, str) else None
    degrees = _number(value) if written is None else written_degrees(written, letters)
    is_other_half = text_of(half)[:1].upper() == letters[1]
    return -abs(degrees) if degrees is not None and is_other_half else degrees
