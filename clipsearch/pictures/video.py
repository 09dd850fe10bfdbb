"""Frames of videos, a part of a file at a time.

Key frames first: they decode at a small share of the cost of all, and encoders put them where a shot begins. Where
they are farther apart than `between_s`, frames between them are decoded as well. A part ends after so many frames,
or so many decoded pixels, and says where the next one begins: each has its own time limit, so that of a video grows
with its length, and no more than one part is ever in memory.

What is damaged is passed over and said. The container is taken from the first bytes and given to FFmpeg by name, and
the file as a stream: no file can name others, or addresses, to be opened.

PyAV is the extra `video`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from PIL import Image

from clipsearch.pictures.formats import video_container
from clipsearch.pictures.metadata.moments import Moment, read_moment
from clipsearch.pictures.metadata.statements import Place, Said, camera_of, live_of, place_of
from clipsearch.pictures.subtitles import cue, said_in_ass
from clipsearch.records import FloatArray, Line, PixelArray, SkipStatus

Size = tuple[int, int]  # width, height

LEAST_APART_S = 1.0  # no two frames are nearer
MOST_FRAMES = 3600  # of a video whose length is known
_BETWEEN_S = 2.0  # of videos of up to a quarter of an hour, and in proportion up to
_MOST_BETWEEN_S = 8.0
_BETWEEN_UP_TO_S = 900.0
_MOST_PIXELS_BETWEEN = 1_000_000_000  # to be decoded for one frame between key frames: 2 s of 4K at 60 a second
_PIXELS_OF_A_PART = 1_500_000_000
_FAR_FROM_KEY_S = 20.0  # a part that has to decode more before its first frame sees all up to the next key frame
_MOST_FAR_S = 20.0  # of processor time, for that
_FAR_BETWEEN_S = 60.0  # then, where nobody knows how long the video is
_TOO_FAR = "parts of the video were not read: its key frames are too far apart"
_MOST_ERRORS = 200  # of one part
_MOST_PIXELS = 2**26  # of one frame: 8192 x 8192
_SUBTITLES = frozenset({"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"})
_MOST_CUES = 50_000  # of all subtitles in a video
_MOST_SAID_BYTES = 3 << 20  # of them, as JSON
_BYTES_OF_A_CUE = 24  # beside what is said
_MOST_SUBTITLE_PACKETS = 4 * _MOST_CUES
_ENDS_EARLY_S = 2.0
_ENDS_EARLY_SHARE = 0.05
_LONGEST_LIVE_S = 10.0  # of the clip of a Live Photo, which is 3 seconds long

_PQ, _HLG = 16, 18  # transfer functions, ITU-T H.273


class VideoError(Exception):
    """A video that cannot be read, with the status that its row gets."""

    def __init__(self, status: SkipStatus, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a video shows at a moment: an upright sRGB picture, not larger than was wanted. `time_s` is from its
    beginning."""

    time_s: float
    image: Image.Image


@dataclass(slots=True)
class Part:
    """Some frames of a video in their order. `next_s`: where the next part begins; None at the end."""

    full_size: Size = (0, 0)  # upright, with square pixels
    duration_s: float | None = None
    frames: list[Frame] = field(default_factory=list)
    next_s: float | None = None
    partial: str | None = None  # what is missing, in words


def read_part(stream: IO[bytes], *, start_s: float = -1.0, most: int = 32, shortest: int | None = None) -> Part:
    """The frames after `start_s` (all from the beginning if it is negative), `most` at most.

    `shortest`: frames need not be larger than this along their shorter side. Raises: VideoError.
    """
    with _opened(stream) as (container, video):
        return _PartReader(container, video, start_s, most, shortest).read()


def frame_at(stream: IO[bytes], time_s: float, *, fit: Any = None) -> tuple[Image.Image, Size]:
    """What a video shows at a moment, and its full size. `fit`: how large it has to be, of its full size.

    Raises: VideoError.
    """
    with _opened(stream) as (container, video):
        reader = _PartReader(container, video, time_s - 1e-3, 1, None, fit=fit)
        frame = reader.frame_at(time_s)
        return frame, reader.part.full_size


def read_said(stream: IO[bytes]) -> Said:
    """What a video says of itself. Raises: VideoError."""
    with _opened(stream) as (container, video):
        tags = {**video.metadata, **container.metadata}
        tags = {str(name).lower(): str(value) for name, value in tags.items()}
        dates: dict[str, Moment] = {}
        local = read_moment(tags.get("com.apple.quicktime.creationdate", "") or tags.get("date", ""))
        if local is not None:
            dates["video:creationdate"] = local
        made = read_moment(tags.get("creation_time", "") or tags.get("creationdate", ""))
        if made is not None:
            dates["video:creation_time"] = Moment(made.start, made.span, utc=True)
        place = _place(tags.get("com.apple.quicktime.location.iso6709") or tags.get("location") or "")
        make = tags.get("com.apple.quicktime.make") or tags.get("make") or tags.get("com.android.manufacturer")
        model = tags.get("com.apple.quicktime.model") or tags.get("model") or tags.get("com.android.model")
        is_short = 0 < (_duration(container, video) or 0) <= _LONGEST_LIVE_S
        live = live_of(tags.get("com.apple.quicktime.content.identifier")) if is_short else None
        return Said(dates, place, camera_of(make or "", model or ""), live=live)


def read_subtitles(stream: IO[bytes]) -> list[Line] | None:
    """What is said in the subtitles inside a video, of all languages; None where it has none that are text.

    Of an MP4 only these are read; of a Matroska, in which they lie between the pictures, the whole file is. What is
    damaged is passed over. Raises: VideoError.
    """
    with _opened(stream) as (container, video):
        tracks = [track for track in container.streams.subtitles if _is_text(track)]
        if not tracks:
            return None
        return list(itertools.islice(_cues(container, video, tracks), _MOST_CUES))


def _is_text(track: Any) -> bool:
    return track.codec_context is not None and track.codec_context.name in _SUBTITLES


def _cues(container: Any, video: Any, tracks: list[Any]) -> Iterator[Line]:
    import av
    from av.stream import Discard

    for other in container.streams:
        if other not in tracks:
            other.discard = Discard.all
    begin = float((video.start_time or 0) * video.time_base)
    room = _MOST_SAID_BYTES
    packets = container.demux(tracks)
    for _ in range(_MOST_SUBTITLE_PACKETS):
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, ValueError):
            return  # what follows cannot be found
        if packet is None:
            return
        if packet.pts is None or not packet.size:
            continue
        start_s = max(0.0, round(float(packet.pts * packet.time_base) - begin, 3))
        try:
            texts = [one.ass.decode("utf-8", "replace") for one in packet.decode() if one.type == b"ass"]
        except (av.error.FFmpegError, ValueError):
            continue
        for text in texts:
            said = said_in_ass(text.split(",", 8)[-1])  # after the fields of an event
            room -= len(json.dumps(said)) + _BYTES_OF_A_CUE
            if room < 0:
                return
            if said:
                yield cue(said, start_s)


def _place(text: str) -> Place | None:
    """Of ISO 6709, as phones write it: +48.8577+002.2950+035.000/."""
    import re

    match = re.match(r"([+-]\d{2}(?:\.\d{1,10})?)([+-]\d{3}(?:\.\d{1,10})?)", text[:100])
    return None if match is None else place_of(float(match[1]), float(match[2]))


@contextlib.contextmanager
def _opened(stream: IO[bytes]) -> Iterator[tuple[Any, Any]]:
    """The container of a file and its first video. Raises: VideoError, also for what is wrong later."""
    import av

    av.logging.set_level(None)
    stream.seek(0)
    head = stream.read(16)
    kind = video_container(head)
    if kind is None:
        raise VideoError("not_a_picture", "its content is not in a known video format")
    stream.seek(0)
    try:
        with av.open(stream, format=kind, metadata_errors="replace") as container:
            videos = [video for video in container.streams.video if not _is_cover(video)]
            if not videos:
                raise VideoError("not_a_picture", "it has no video, perhaps only sound")
            video = videos[0]
            if video.codec_context is None or not video.codec_context.codec:
                raise VideoError("unsupported_format", "its video codec is not supported")
            if video.codec_context.width * video.codec_context.height > _MOST_PIXELS:
                raise VideoError("too_large", "its frames have too many pixels")
            yield container, video
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise VideoError(*_why(error, stream, kind)) from error


def _is_cover(video: Any) -> bool:
    return bool(getattr(video, "disposition", 0) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def _why(error: Exception, stream: IO[bytes], kind: str) -> tuple[SkipStatus, str]:
    said = " ".join(str(getattr(error, "strerror", "") or error).split())[:120]
    if kind == "mov" and not _has_index(stream):
        return "truncated", "its index (moov) is missing: the recording or the copy was cut short"
    if "not found" in said.lower() and "coder" in said.lower():
        return "unsupported_format", "its video codec is not supported"
    return "corrupt", f"the video is damaged: {said or type(error).__name__}"


def _has_index(stream: IO[bytes]) -> bool:
    """Whether an MP4 or QuickTime file has a box `moov`, by its top boxes."""
    at = 0
    end = stream.seek(0, 2)
    for _ in range(10_000):
        if at + 8 > end:
            return False
        stream.seek(at)
        head = stream.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == b"moov":
            return at + size <= end
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return False
        at += size
    return False


class _PartReader:
    """Reads one part."""

    def __init__(
        self, container: Any, video: Any, start_s: float, most: int, shortest: int | None, *, fit: Any = None
    ) -> None:
        self._container = container
        self._video = video
        self._codec = video.codec_context
        self._codec.thread_count = 1  # other workers have the other cores
        self._start_s = start_s
        self._most = most
        self._shortest = shortest
        self._fit = fit
        self._begin = (video.start_time or 0) * video.time_base
        self._last = start_s if start_s >= 0 else -1e9  # when the last frame was taken
        self._pixels = 0
        self._errors = 0
        self._is_damaged = False
        self._seen_until = 0.0
        self._far_until_s: float | None = None  # of processor time, while frames far from their key frame are decoded
        self._far_between_s = 0.0
        self._is_too_far = False
        self.part = Part(duration_s=_duration(container, video))
        duration = self.part.duration_s or 0.0
        self._apart_s = max(LEAST_APART_S, duration / MOST_FRAMES)
        self._between_s = min(_MOST_BETWEEN_S, max(_BETWEEN_S, _BETWEEN_S * duration / _BETWEEN_UP_TO_S))
        rate = float(video.average_rate or video.guessed_rate or 30)
        costs = self._codec.width * self._codec.height * min(rate, 240.0) * self._between_s
        self._goes_between = costs <= _MOST_PIXELS_BETWEEN

    def read(self) -> Part:
        part = self.part
        reached_end = False
        try:
            reached_end = self._read_packets()
        except _Full:
            part.next_s = part.frames[-1].time_s
        except Exception as error:
            if isinstance(error, MemoryError) or (not part.frames and self._start_s < 0):
                raise
            self._is_damaged = True  # what follows cannot be found
            reached_end = True
        if not part.frames and self._start_s < 0:
            if self._is_damaged:
                raise VideoError("corrupt", "the video is damaged: no frame of it can be decoded")
            raise VideoError("truncated", "the video has no frames")
        duration = part.duration_s
        early = max(_ENDS_EARLY_S, _ENDS_EARLY_SHARE * (duration or 0.0))
        if reached_end and duration is not None and self._seen_until + early < duration:
            part.partial = f"the video ends after {_clock(self._seen_until)} of {_clock(duration)}"
        elif self._is_too_far:
            part.partial = _TOO_FAR
        elif self._is_damaged:
            part.partial = "parts of the video are damaged"
        return part

    def frame_at(self, time_s: float) -> Image.Image:
        """The last frame that is not after a moment, or the first one."""
        best: Image.Image | None = None
        self._seek(max(0.0, time_s))
        self._codec.flush_buffers()
        errors = decoded = 0
        for packet in self._container.demux(self._video):
            try:
                frames = packet.decode()
            except self._damage():
                errors += 1
                if errors > _MOST_ERRORS:
                    break
                continue
            for frame in frames:
                time = self._time(frame)
                if best is not None and time is not None and time > time_s + 1e-3:
                    return best
                decoded += frame.width * frame.height
                if not frame.is_corrupt or best is None:
                    exact = time is not None and time >= time_s - LEAST_APART_S / 4
                    if best is None or exact:
                        best = self._picture(frame)
                    if exact and time is not None and time >= time_s - 1e-3:
                        return best
                if decoded > _PIXELS_OF_A_PART and best is not None:
                    return best
        if best is None:
            raise VideoError("corrupt", "the video is damaged: no frame of it can be decoded")
        return best

    # -- packets

    def _seek(self, time_s: float) -> None:
        """Go to the last key frame before a moment; to the beginning where that cannot be done."""
        offset = int(self._begin / self._video.time_base) + int(time_s / self._video.time_base)
        try:
            self._container.seek(offset, stream=self._video, backward=True)
        except self._damage():
            with contextlib.suppress(self._damage()):
                self._container.seek(0)

    def _read_packets(self) -> bool:
        """Take frames until the end, which is True, or until the part is full. Raises: _Full."""
        if self._start_s >= 0:
            self._seek(self._start_s)
        held: list[Any] = []  # the packets since the last key frame, as long as it is not known if they are needed
        key_s = 0.0
        is_between = False  # frames between key frames are being decoded
        for packet in self._container.demux(self._video):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None and not packet.size:
                continue  # the end
            time_s = key_s if stamp is None else max(0.0, float(stamp * self._video.time_base - self._begin))
            self._seen_until = max(self._seen_until, time_s)
            if packet.is_keyframe:
                self._finish(held, is_between, key_s)
                self._end_far()
                held, key_s, is_between = [packet], time_s, False
            elif is_between:
                self._feed(packet)
                if self._far_until_s is not None and time.process_time() > self._far_until_s:
                    self._is_too_far = True
                    self._end_far()
                    held, is_between = [], False  # until the next key frame
            elif held and self._goes_between:
                if self._start_s - key_s >= _FAR_FROM_KEY_S:
                    self._begin_far()
                held.append(packet)
                if time_s - key_s > self._between_s:
                    is_between = True
                    self._codec.flush_buffers()
                    for one in held:
                        self._feed(one)
                    held = []
        self._finish(held, is_between, key_s)
        return True

    def _begin_far(self) -> None:
        """Decode all from a key frame that is far before this part, once: frames are as far apart as the part's have to
        be to reach the end, since the next part would have to decode all of it again."""
        if self._far_until_s is None:
            self._far_until_s = time.process_time() + _MOST_FAR_S
            end_s = self._next_key_s() or self.part.duration_s
            left = _FAR_BETWEEN_S * self._most if end_s is None else end_s - self._start_s
            self._far_between_s = max(self._between_s, left / max(1, self._most - 1))
            self._codec.skip_frame = "NONREF"

    def _next_key_s(self) -> float | None:
        """When the first key frame after the beginning of this part is shown, if the file's index says so."""
        for entry in self._video.index_entries:
            if entry.is_keyframe:
                time_s = float(entry.timestamp * self._video.time_base - self._begin)
                if time_s > self._start_s:
                    return time_s
        return None

    def _end_far(self) -> None:
        if self._far_until_s is not None:
            self._far_until_s = None
            self._codec.skip_frame = "DEFAULT"

    def _finish(self, held: list[Any], is_between: bool, key_s: float) -> None:
        """Take the key frame of what is held, if it is wanted; or the frames that the decoder still has."""
        if is_between:
            self._feed(None)
        elif held and key_s >= self._last + self._apart_s - 1e-6:
            self._codec.flush_buffers()
            for one in (held[0], None):
                for frame in self._decoded(one):
                    if self._take(frame):
                        return

    def _feed(self, packet: Any) -> None:
        """Decode on, and take the frames that are far enough from the last one."""
        for frame in self._decoded(packet):
            time_s = self._time(frame)
            between_s = self._between_s if self._far_until_s is None else self._far_between_s
            apart = self._apart_s if frame.key_frame else between_s
            if time_s is None or time_s >= self._last + apart - 1e-6:
                self._take(frame)

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames = self._codec.decode(packet)
        except self._damage() as error:
            self._is_damaged = True
            self._errors += 1
            if self._errors > _MOST_ERRORS and not self.part.frames:
                raise VideoError("corrupt", "the video is damaged: no frame of it can be decoded") from error
            return []
        self._pixels += sum(frame.width * frame.height for frame in frames)
        return list(frames)

    def _take(self, frame: Any) -> bool:
        """Keep a frame. Raises: _Full after the last of the part."""
        time_s = self._time(frame)
        if time_s is None:
            time_s = self._last + self._apart_s if self._last >= 0 else 0.0
        if frame.is_corrupt:
            self._is_damaged = True
            return False
        if time_s <= self._last:
            return False
        self.part.frames.append(Frame(time_s, self._picture(frame)))
        self._last = time_s
        is_costly = self._pixels > _PIXELS_OF_A_PART and self._far_until_s is None
        if len(self.part.frames) == self._most or is_costly:
            raise _Full
        return True

    def _time(self, frame: Any) -> float | None:
        if frame.pts is None:
            return None
        return max(0.0, round(float(frame.pts * (frame.time_base or self._video.time_base) - self._begin), 3))

    @staticmethod
    def _damage() -> Any:
        import av

        return av.error.FFmpegError, ValueError

    # -- pixels

    def _picture(self, frame: Any) -> Image.Image:
        """A frame as people see it: upright, with square pixels, in sRGB."""
        width, height = frame.width, frame.height
        ratio = self._video.sample_aspect_ratio or self._codec.sample_aspect_ratio
        wide = width * float(ratio) if ratio and 0.1 < float(ratio) < 10 else width
        turn = int(frame.rotation or 0)
        upright = (round(wide), height) if turn % 180 == 0 else (height, round(wide))
        self.part.full_size = upright
        if self._fit is not None:
            wanted = self._fit(upright)
        elif self._shortest is not None:
            scale = min(1.0, self._shortest / min(upright))
            wanted = max(1, round(upright[0] * scale)), max(1, round(upright[1] * scale))
        else:
            wanted = upright
        size = wanted if turn % 180 == 0 else wanted[::-1]
        image = _to_srgb(frame, size)
        return image.rotate(turn, expand=True) if turn % 360 else image


class _Full(Exception):
    """The part has as many frames as it may have."""


def _to_srgb(frame: Any, size: Size) -> Image.Image:
    width, height = size
    if frame.color_trc in (_PQ, _HLG):
        return Image.fromarray(_tone_mapped(frame, size))
    matrix = {1: "ITU709", 9: "BT2020", 5: "ITU601", 6: "ITU601"}.get(int(frame.colorspace))
    if matrix is None:  # nothing is said: large videos are in that of HDTV
        matrix = "ITU709" if frame.height >= 720 else "ITU601"
    rgb = frame.reformat(width, height, "rgb24", src_colorspace=matrix, dst_colorspace=None, interpolation="AREA")
    return Image.fromarray(rgb.to_ndarray())


def _tone_mapped(frame: Any, size: Size) -> PixelArray:
    """HDR (PQ or HLG, BT.2020) as sRGB: highlights are rolled off, colours outside are cut. Shape: (H, W, 3) uint8."""
    planes = frame.reformat(*size, "yuv444p16le", interpolation="AREA").to_ndarray().astype(np.float32)
    luma, blue, red = planes if planes.shape[0] == 3 else np.moveaxis(planes, -1, 0)
    full = int(frame.color_range) == 2
    unit = 65535.0 if full else 256.0
    y = luma / unit if full else (luma / unit - 16) / 219
    cb, cr = ((c / unit - 0.5) if full else ((c / unit - 128) / 224) for c in (blue, red))
    coded = np.stack([y + 1.4746 * cr, y - 0.16455 * cb - 0.57135 * cr, y + 1.8814 * cb], axis=-1).clip(0, 1)
    light = _from_pq(coded) if frame.color_trc == _PQ else _from_hlg(coded)  # 1 is the white of a page
    to_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
    light = (light @ to_709.T).clip(0, None)
    peak = light.max(axis=-1, keepdims=True)
    mapped = np.where(peak > 0.75, 0.75 + 0.25 * (1 - np.exp(-(peak - 0.75) / 0.75)), peak)
    light = light * (mapped / np.maximum(peak, 1e-6))
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    pixels: PixelArray = (encoded * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return pixels


def _from_pq(coded: FloatArray) -> FloatArray:
    """Light by SMPTE ST 2084, in units of 203 candela a square metre (ITU-R BT.2408)."""
    power = coded ** (1 / 78.84375)
    light: FloatArray = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return light * np.float32(10_000 / 203)


def _from_hlg(coded: FloatArray) -> FloatArray:
    """Light by ARIB STD-B67 on a screen of 1000 candela a square metre, in units of 203."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.678, 0.0593], np.float32)
    light: FloatArray = scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2 * np.float32(1000 / 203)
    return light


def _duration(container: Any, video: Any) -> float | None:
    if video.duration and video.time_base:
        return float(video.duration * video.time_base)
    return None if not container.duration or container.duration < 0 else container.duration / 1e6


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
