"""What people wrote of a picture with other programs: titles, captions, keywords, names, stars. No I/O.

Each source gives a `Words`; `written` joins them. Texts keep all their letters; what cameras and programs put there by
themselves is left out.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from clipsearch.folding import fold_name

LONGEST_KEYWORD = 200  # characters, of names of people as well
LONGEST_TITLE = 500
LONGEST_CAPTION = 5_000  # of all of a picture's together
MOST_KEYWORDS = 400
MOST_PEOPLE = 200
MOST_CHARACTERS = 20_000  # of all keywords, or of all names, of a picture
_MOST_TEXTS = 16  # captions and titles
LEVELS = "|"  # between the levels of a keyword


@dataclass(frozen=True, slots=True)
class Words:
    """What one source says. `rating`: stars, -1 for rejected, 0 for none. `trust`: the lowest is believed first."""

    titles: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    rating: int | None = None
    trust: int = 0


NO_WORDS = Words()


@dataclass(frozen=True, slots=True)
class Written:
    """What all sources say together, as records have it."""

    title: str | None = None
    caption: str | None = None
    keywords: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    rating: int | None = None


# --- texts --------------------------------------------------------------------------------------------------

# Control characters, line ends, halves of surrogate pairs, and what is no character at all.
_NO_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff\\ufdd0-\\ufdef\\ufffe\\uffff]")
# Directions and other formatting that is not seen; joiners stay, which emoji and Persian need.
_UNSEEN = re.compile("[\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]")
_CP1252 = {0xDC00 + byte: bytes([byte]).decode("cp1252", "replace") for byte in range(0x80, 0x100)}
_ONLY_HIGH = 0.7  # of a text's letters: more that are not ASCII are no Western text in an unnamed encoding


def plain(text: str, longest: int = LONGEST_CAPTION) -> str:
    """A text in one line and in composed form, without what is not seen; at most `longest` characters."""
    text = _UNSEEN.sub("", _NO_TEXT.sub(" ", text[: 4 * longest]))
    return unicodedata.normalize("NFC", " ".join(text.split()))[:longest].rstrip()


def decoded(raw: bytes, encoding: str | None = None) -> str:
    """Bytes as text up to a NUL: in the encoding that is said, else UTF-8, else Windows' Western one where it can be
    that. Of a text in another, unnamed encoding nothing is known: ""."""
    if encoding is not None:
        return raw.decode(encoding, "replace").partition("\0")[0]
    raw = raw.partition(b"\0")[0]
    text = decoded_as(raw, "utf-8")
    if text.isascii() or text.encode("utf-8", "replace") == raw:
        return text
    letters = [c for c in text if c.isalpha()]
    is_western = sum(not c.isascii() for c in letters) <= _ONLY_HIGH * len(letters)
    return text if is_western else ""


def decoded_as(raw: bytes, encoding: str) -> str:
    """Bytes as text in an encoding; in UTF-8, bytes that are none are Windows' Western letters."""
    if encoding != "utf-8":
        return raw.decode(encoding, "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape").translate(_CP1252)


def decoded_utf16(raw: bytes, order: str = "<") -> str:
    """UTF-16 as text, whichever byte order it is in: `order` is that of the file ("<" or ">"), which may be wrong."""
    raw = raw[: len(raw) // 2 * 2]
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace").partition("\0")[0]
    names = ("utf-16-le", "utf-16-be") if order == "<" else ("utf-16-be", "utf-16-le")
    both = [raw.decode(name, "replace").partition("\0")[0] for name in names]
    if raw.endswith(b"\0\0") and not both[0]:
        return both[0]
    return min(both, key=_strangeness)


def _strangeness(text: str) -> tuple[float, int, bool]:
    """How little a text looks like one: the share of what is no character, how many scripts it has, whether one is not
    Latin."""
    odd = sum(unicodedata.category(c) in ("Cn", "Co", "Cs", "Cc") or c == "\ufffd" for c in text if c not in "\r\n\t")
    blocks = {ord(c) >> 8 for c in text}
    return odd / max(1, len(text)), len(blocks), blocks != {0}


def levels_of(keyword: str, separators: str) -> str:
    """A hierarchical keyword with its levels apart as `LEVELS` has it."""
    parts = re.split(f"[{re.escape(separators)}]", keyword)
    return LEVELS.join(part for part in map(str.strip, parts) if part)


def stars(value: object, *, percent: bool = False) -> int | None:
    """Stars of a rating as it is written; of MicrosoftPhoto's in percent. None for what is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if percent:
        return None if not 0 <= number <= 100 else 0 if number < 1 else 1 if number < 13 else round((number + 25) / 25)
    return None if not -1 <= number <= 5 else -1 if number < 0 else math.floor(number + 0.5)


# --- what no person wrote -----------------------------------------------------------------------------------

_SAID_BY_PROGRAMS = """
    olympus digital camera|olympus picture|sony dsc|minolta dsc|digital camera|digital still camera|samsung
    samsung camera pictures|samsung elec.|samsung techwin|konica minolta digital camera|minolta digital camera
    exif_jpeg_picture|exif jpeg|exif_jpeg_t422|exif_jpeg_picture_422|jpeg|jfif|applemark|<applemark>|lead technologies
    intel(r) jpeg library|my beautiful picture|camera phone picture|acd systems digital imaging|ascii|unicode|undefined
    charset=ascii|binary comment|screenshot|default|untitled|unknown|none|null|n/a|no comment|no comments|(null)|image
    picture|photo|title|comment|caption|description|user comments|maker note|imagedescription|usercomment|dcim|dji
    dav|cof|mde|rhdr|oznor|ozedf|hdrpl|hdrnr|oznorw|oznorwo|nor|edf|fbt|btf|btr|btn|btfmdn|btfhdr|ptr|qrf|sdr|ozhdr|fnor
    vsco|video snapshot|hisilicon k3|arcsoft|converted to jpeg|jpeg encoder|lavc|pixlr|picasa|imagemagick|gimp
    """
_PHRASES = frozenset(phrase.strip() for phrase in _SAID_BY_PROGRAMS.replace("\n", "|").split("|"))
_CAMERAS = """
    digital camera cameras dsc dcim jpeg jpg exif still phone cameraphone picture pictures image images photo co ltd co.
    ltd. inc inc. corp corp. corporation company computer electronics optical imaging the by of with
    """
_CAMERA_WORDS = frozenset(_CAMERAS.split())
_CORE_WORDS = frozenset({"digital", "camera", "dsc", "jpeg", "exif", "dcim"})
_MACHINE = re.compile(
    r"(?:img|dsc[nf]?|pict?|sam|imag|mvi|cimg|hpim|dcp|kif|pano|vid|wp|gopr|dji|imgp|pxl|p|sdc)"
    r"[_\- ]?\d[\d_\-]{2,}(?:\.\w{2,4})?"  # the names that cameras give
    r"|(?:oplus|oppo|vivo)_\d+"
    r"|[0-9a-f]{16,}|(?=[^ ]*\d)(?=[^ ]*[a-z])[a-z0-9+/=]{32,}"  # hashes and the like
    r"|[\s0:.,;/_\-\\()?*#+|=]*"  # zeros, signs
    r"|\d{4}[:\-/.]\d\d[:\-/.]\d\d(?:[ t]\d\d:\d\d(?::\d\d)?.*)?"
    r"|(?:[a-z]:)?[\\/]?(?:[^\\/]*[\\/])*dcim[\\/].*"
    r"|<?(?:kenox|digimax)\b.*>?"
    r"|(?:creator: |lead technologies|file (?:written|source)|imagej=|ome-tiff|exif[_ ]jpeg|charset=|lavc\d"
    r"|jpeg[- ]?encoder).*"
    r"|(?:created|made|processed|edited|saved|generated|optimi[sz]ed|compressed|converted|exported|scanned|produced)"
    r" (?:with|by|using|in|from) (?:the )?(?:gimp|adobe|photoshop|lightroom|vsco|snapseed|picasa|acdsee|irfanview"
    r"|xnview|paint|imagemagick|graphicsmagick|ezgif|canva|pixlr|fotor|luminar|darktable|rawtherapee|capture one"
    r"|affinity|inkscape|krita|matlab|matplotlib|ffmpeg|accusoft|corel|polarr|picsart|instagram|prisma|meitu|b612"
    r"|hipstamatic)\b.*"
    r"|\{.*\}|\[\s*[\{\"\d].*\]|<[?!/]?[a-z].*>"
    r"|(?:[\w .\-]{1,40}[:=]\s*[\d.,()\- a-z/%+]{0,24};\s*){3,}.*",  # measurements of a phone
    re.DOTALL,
)


def _is_boilerplate(text: str, camera: str | None) -> bool:
    """Whether a camera or a program wrote a text by itself."""
    lower = text.casefold().strip(" .;,")
    if lower in _PHRASES or _MACHINE.fullmatch(lower[:400]) is not None:
        return True
    words = lower.split()
    own = set((camera or "").casefold().split())
    if set(words) <= own:
        return True
    if len(words) > 8 or not _CORE_WORDS.intersection(words):
        return False
    return set(words) <= _CAMERA_WORDS | own or (text == text.upper() and set(words) <= _CAMERA_WORDS | _MAKERS)


# How what encoders write into the comment of a JPEG begins.
_OF_ENCODERS = re.compile(
    r"(?:creat|made|process|edit|saved|generat|optimi|compress|convert|export|scan|produc|encod|written|resiz|software"
    r"|quality|version|copyright|\(c\)|©|jpe?g|handmade|lead |intel|xv |progressive|file |barebones|lav[cf]"
    r"|https?:|cs=)"
)


def comment_of(raw: object) -> str:
    """The comment of a JPEG, if a person may have written it; else ""."""
    text = decoded(raw) if isinstance(raw, bytes) else ""
    return "" if _OF_ENCODERS.match(text.casefold().lstrip()) else text


_NAMES_OF_MAKERS = """
    olympus sony samsung canon nikon kodak eastman minolta konica casio pentax ricoh fujifilm fuji panasonic lumix leica
    hp hewlett-packard kyocera sanyo epson vivitar benq agfa polaroid toshiba nokia motorola lg htc huawei xiaomi redmi
    oppo vivo realme oneplus apple google blackberry sigma hasselblad dji gopro jenoptik concord aiptek mustek sharp
    siemens ericsson medion premier traveler praktica rollei ge general techwin elec. electronics
    """
_MAKERS = frozenset(_NAMES_OF_MAKERS.split())
_INTERNAL = re.compile(
    r"darktable\||_digikam_|digikam internal tags", re.IGNORECASE
)  # keywords of programs for themselves
_NOBODY = frozenset({"unknown", "unconfirmed", "ignored", "?"})


# --- together -----------------------------------------------------------------------------------------------


def written(sources: Iterable[Words], camera: str | None, *, first: Words = NO_WORDS) -> Written:
    """What several sources say together. `first`: what an editor's file beside the picture says, whose rating counts
    even where it takes one away; of the others the first that has stars."""
    others = sorted(sources, key=lambda words: words.trust)
    ordered = [first, *others]
    titles = _texts((text for words in ordered for text in words.titles), LONGEST_TITLE, camera)
    captions = _texts((text for words in ordered for text in words.captions), LONGEST_CAPTION, camera)
    title = titles[0] if titles else None
    kept: list[str] = []
    length = 0
    for text in [*captions, *titles[1:]]:
        if not any(_says_the_same(text, other) for other in [*filter(None, [title]), *kept]):
            length += len(text) + 1
            if length > LONGEST_CAPTION + 1:
                break
            kept.append(text)
    ratings = [words.rating for words in others if words.rating]
    rating = first.rating if first.rating is not None else next(iter(ratings), None)
    return Written(
        title,
        "\n".join(kept) or None,
        _keywords(text for words in ordered for text in words.keywords),
        _people(text for words in ordered for text in words.people),
        rating or None,
    )


def _texts(texts: Iterable[str], longest: int, camera: str | None) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        text = plain(text, longest)
        if text and text not in found and not _is_boilerplate(text, camera):
            found[text] = None
            if len(found) == _MOST_TEXTS:
                break
    return list(found)


def _says_the_same(text: str, other: str) -> bool:
    """Whether a text says nothing that another, which comes before it, does not: the same, cut off, or without the
    letters that its encoding does not have."""
    own, its = _gist(text), _gist(other)
    if own == its or (len(own) >= 16 and its.startswith(own)):
        return True
    return ("?" in text or "\ufffd" in text) and len(_ascii(text)) >= 3 and _ascii(text) == _ascii(other)


@lru_cache(maxsize=64)
def _gist(text: str) -> str:
    folded = fold_name(text)
    return "".join(c for c in folded if c.isalnum()) or folded


def _ascii(text: str) -> str:
    """The letters and digits that every encoding has."""
    return "".join(c for c in text.casefold() if c.isascii() and c.isalnum())


def _keywords(texts: Iterable[str]) -> tuple[str, ...]:
    """Each once, without those that are a level, or the beginning, of a longer one."""
    found = _each_once((text for text in texts if not _INTERNAL.match(text)), MOST_KEYWORDS)
    parts: set[str] = set()
    for key in found:
        if LEVELS in key:
            levels = key.split(LEVELS)[:32]
            parts.update(levels)
            parts.update(LEVELS.join(levels[:end]) for end in range(2, len(levels)))
    return tuple(text for key, text in found.items() if key not in parts)


def _people(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for key, text in _each_once(texts, MOST_PEOPLE).items() if key not in _NOBODY)


def _each_once(texts: Iterable[str], most: int) -> dict[str, str]:
    """Texts by what they are compared by, in their order."""
    found: dict[str, str] = {}
    length = 0
    for text in texts:
        text = plain(text, LONGEST_KEYWORD)
        key = fold_name(text)
        if not key or key in found:
            continue
        length += len(text)
        if len(found) == most or length > MOST_CHARACTERS:
            break
        found[key] = text
    return found
