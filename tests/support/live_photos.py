"""Live Photos as Apple's phones write them: a still with an identifier in its maker's note, a clip with the same."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from tests.support.fake_encoder import COLOURS
from tests.support.videos import colours, write_video

ONE = "5B1A2C3D-0F0E-4D0C-8B0A-090807060504"
TWO = "6B1A2C3D-0F0E-4D0C-8B0A-090807060504"
TAKEN = "2024:05:01 10:00:00"


def maker_note(identifier: str, *, order: str = "big") -> bytes:
    """Apple's note: two tags, the places of whose values count from its beginning."""
    text = identifier.encode("ascii") + b"\0"
    mark = b"MM" if order == "big" else b"II"

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "big" if order == "big" else "little")

    tags = [(0x0001, 9, 1, number(14, 4)), (0x0011, 2, len(text), number(14 + 2 + 2 * 12 + 4, 4))]
    body = b"".join(number(tag, 2) + number(kind, 2) + number(count, 4) + value for tag, kind, count, value in tags)
    return b"Apple iOS\0\0\x01" + mark + number(len(tags), 2) + body + bytes(4) + text


def still(
    path: Path,
    identifier: str | None,
    colour: str = "red",
    *,
    taken: str | None = TAKEN,
    size: tuple[int, int] = (320, 240),
    image: Image.Image | None = None,
    note: bytes | None = None,
) -> Path:
    """Write a still, in the format that its name says."""
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    if identifier is not None or note is not None:
        details[0x927C] = note or maker_note(identifier or "")
    if taken is not None:
        details[0x9003] = taken
    exif[0x010F], exif[0x0110] = "Apple", "iPhone 12"
    shown = image or Image.new("RGB", size, COLOURS[colour])
    if path.suffix.lower() == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
        shown.save(path, "HEIF", quality=90, exif=exif.tobytes())
    else:
        file = io.BytesIO()
        shown.save(file, "JPEG", quality=92, exif=exif)
        path.write_bytes(file.getvalue())
    return path


def clip(
    path: Path,
    identifier: str | None,
    shows: tuple[str, ...] = ("red",),
    *,
    taken: str | None = "2024-05-01T10:00:01+0200",
    seconds: float = 1.0,
    codec: str = "libx264",
) -> Path:
    """Write a clip of some colours, each for some seconds."""
    tags = {} if identifier is None else {"com.apple.quicktime.content.identifier": identifier}
    if taken is not None:
        tags["com.apple.quicktime.creationdate"] = taken
    write_video(path, colours(shows), seconds=seconds, tags=tags, codec=codec, free_tags=True)
    return path


def live_photo(
    stem: Path, identifier: str, colour: str = "red", shows: tuple[str, ...] = ("red",)
) -> tuple[Path, Path]:
    """Write both."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    return (
        still(stem.with_suffix(".JPG"), identifier, colour),
        clip(stem.with_suffix(".MOV"), identifier, shows),
    )
