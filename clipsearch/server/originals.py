"""Picture files as they are, for who sits at this machine.

A file is named by row id and content hash, never by path. It is sent only if its bytes still have that hash, with a
type from our own table, by what its first bytes are: nothing that a browser would run. What a browser cannot show is
sent to be saved.

A video is sent in the parts that a player asks for. It is not hashed for each of them: its size and time must be those
that it was indexed with. So is the clip in a motion photo, whose file is small enough to be hashed each time.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote

import xxhash
from starlette.datastructures import Headers
from starlette.requests import Request

from clipsearch.errors import ClipsearchError, OtherPicture
from clipsearch.filenames import for_parsers
from clipsearch.pictures.formats import FORMATS, HEAD_BYTES, Kind, identify, video_container
from clipsearch.pictures.motion import clip_span
from clipsearch.records import ImageRecord
from clipsearch.server.security import is_loopback

SHOWN_TYPES: dict[Kind, str] = {found.kind: found.media_types.split()[0] for found in FORMATS if found.shown}
"""What every browser shows. All else is `SAVED_TYPE`."""
SAVED_TYPE = "application/octet-stream"
PLAYED_TYPES = {"mov": "video/mp4", "matroska": "video/webm"}
"""What browsers play, by container: QuickTime and Matroska too, as far as they know what is in them."""
CLIP_TYPE = "video/mp4"
POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
NO_CLIP = "there is no clip in it"
_BLOCK = 1 << 20
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class OriginalsClosed(ClipsearchError):
    """This server, or this client of it, gets no original files."""

    def __init__(self) -> None:
        super().__init__("original files are for browsers on this machine only (see clipsearch ui --originals)")


@dataclass(frozen=True, slots=True)
class Original:
    """An open file, and how to send it, or a part of it from `start` on."""

    file: IO[bytes]
    size_bytes: int  # of what is sent
    media_type: str
    disposition: str
    start: int = 0

    def blocks(self, part: range | None = None) -> Iterator[bytes]:
        """Its bytes, or a part of them; closes it."""
        with self.file:
            left = self.size_bytes if part is None else len(part)
            self.file.seek(self.start + (0 if part is None else part.start))
            while left and (block := self.file.read(min(_BLOCK, left))):
                left -= len(block)
                yield block


def may_have_originals(request: Request, *, allowed: bool | None, local: bool) -> bool:
    """Whether a client gets original files. `allowed`: what the person who started the server says, if anything.

    Otherwise only clients on this machine, of a server that only they can reach, and not through a proxy.
    """
    if allowed is not None:
        return allowed
    return local and is_of_this_machine(request)


def is_of_this_machine(request: Request) -> bool:
    """Whether a client is on this machine, and did not come through a proxy."""
    headers = Headers(scope=request.scope)
    if any(name in headers for name in _FORWARDED):
        return False
    return request.client is None or is_loopback(request.client.host)


def open_video(path: str, record: ImageRecord, *, played: bool = False) -> Original:
    """Open a video that has not changed since it was indexed. `played`: only what browsers play, as CLIP_TYPE. Raises:
    OtherPicture."""
    file = _opened(path, record.row_id)
    try:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (record.size_bytes, record.mtime_ns):
            raise OtherPicture(record.row_id, "its file has changed since it was indexed")
        head = file.read(HEAD_BYTES)
        file.seek(0)
        shown = PLAYED_TYPES.get(video_container(head) or "") if identify(head, record.path) == "VIDEO" else None
        if played and shown is None:
            raise OtherPicture(record.row_id, NO_CLIP)
        disposition = f"{'inline' if shown else 'attachment'}; {_file_name(record.path)}"
        return Original(file, status.st_size, CLIP_TYPE if played else shown or SAVED_TYPE, disposition)
    except BaseException:
        file.close()
        raise


def open_clip(path: str, record: ImageRecord) -> Original:
    """Open a motion photo that has the content of its row, at its clip. Raises: OtherPicture, also for one without."""
    file = _opened(path, record.row_id)
    try:
        try:
            if os.fstat(file.fileno()).st_size != record.size_bytes:
                raise OtherPicture(record.row_id, "its file has changed since it was indexed")
            content = file.read()
        except OSError:
            raise OtherPicture(record.row_id, "its file cannot be read") from None
        if xxhash.xxh3_128_hexdigest(content) != record.content_hash:
            raise OtherPicture(record.row_id, "its file has changed since it was indexed")
        span = clip_span(content)
        if not span:
            raise OtherPicture(record.row_id, NO_CLIP)
        return Original(file, len(span), CLIP_TYPE, "inline", span.start)
    except BaseException:
        file.close()
        raise


def wanted_part(header: str | None, size_bytes: int) -> range | None:
    """The part of a file that a request asks for (RFC 9110): one range of bytes; None for the whole file.

    An empty range is one that the file does not have.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return range(max(0, size_bytes - int(match[2])), size_bytes)
    start, stop = int(match[1]), int(match[2]) + 1 if match[2] else size_bytes
    return None if match[2] and stop <= start else range(start, max(start, min(stop, size_bytes)))


def _opened(path: str, row_id: int) -> IO[bytes]:
    """A plain file, open. Raises: OtherPicture."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        raise OtherPicture(row_id, "the file no longer exists") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OtherPicture(row_id, "its file is no longer a file")
    return os.fdopen(descriptor, "rb")


def open_original(path: str, name: str, row_id: int, content_hash: str) -> Original:
    """Open a picture file that has this content. Raises: OtherPicture."""
    file = _opened(path, row_id)
    status = os.fstat(file.fileno())
    try:
        try:
            head = file.read(HEAD_BYTES)
            digest = xxhash.xxh3_128(head)
            while block := file.read(_BLOCK):
                digest.update(block)
            file.seek(0)
        except OSError:
            raise OtherPicture(row_id, "its file cannot be read") from None
        if digest.hexdigest() != content_hash:
            raise OtherPicture(row_id, "its file has changed since it was indexed")
        kind = identify(head, name)
        shown = None if kind is None else SHOWN_TYPES.get(kind)
        disposition = f"{'inline' if shown else 'attachment'}; {_file_name(name)}"
        return Original(file, status.st_size, shown or SAVED_TYPE, disposition)
    except BaseException:
        file.close()
        raise


def _file_name(name: str) -> str:
    """The last part of a path for Content-Disposition: in ASCII, and in full (RFC 6266)."""
    last = for_parsers(name).rpartition("/")[2] or "picture"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " .,-_()+") else "_" for c in last)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='')}"
