"""Small real videos, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.fake_encoder import COLOURS


def colours(names: Sequence[str]) -> list[Image.Image]:
    """A picture of each colour."""
    return [Image.new("RGB", (320, 240), COLOURS[name]) for name in names]


def write_video(
    path: Path,
    pictures: Sequence[Image.Image],
    *,
    seconds: float = 2.0,
    fps: int = 10,
    size: tuple[int, int] = (320, 240),
    codec: str = "libx264",
    keys: int | None = None,
    rotation: int = 0,
    ratio: Fraction | None = None,
    moments: Sequence[float] | None = None,
    tags: dict[str, str] | None = None,
    noise: float = 0.0,
    faststart: bool = False,
    free_tags: bool = False,
) -> None:
    """A video of pictures, each shown for some seconds, or from its moment on. `keys`: frames between key frames; else
    one where each picture begins. `noise`: so that it does not shrink to nothing. `free_tags`: with `tags` as Apple has
    them, of any name."""
    import av

    flags = f"{'+faststart' * faststart}{'+use_metadata_tags' * free_tags}"
    options = {"movflags": flags} if flags else {}
    grain = np.random.default_rng(0).normal(0, noise, (size[1], size[0], 3)).astype(np.float32)
    with av.open(str(path), "w", options=options) as container:
        container.metadata.update(tags or {})
        coding = {"g": str(keys or 10_000), "threads": "1"}
        if codec == "libx264":
            coding |= {"sc_threshold": "0", "preset": "ultrafast"}
        if codec == "libvpx-vp9":
            coding |= {"deadline": "realtime", "cpu-used": "8"}
        stream: Any = container.add_stream(codec, rate=fps, options=coding)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        if rotation:
            stream.set_display_rotation(rotation)
        count = 0
        for number, picture in enumerate(pictures):
            pixels = np.asarray(picture.convert("RGB").resize(size)).astype(np.float32)
            for repeated in range(1 if moments is not None else round(seconds * fps)):
                noisy = pixels + np.roll(grain, 7 * count, axis=1) if noise else pixels
                frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
                if moments is not None:
                    frame.time_base = Fraction(1, 1000)
                    frame.pts = round(moments[number] * 1000)
                else:
                    frame.time_base, frame.pts = Fraction(1, fps), count
                if keys is None and not repeated:
                    frame.pict_type = 1  # I
                count += 1
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def add_subtitles(path: Path, codec: str, tracks: Mapping[str, Sequence[tuple[float, str]]]) -> None:
    """Put subtitles into a video: for each language, from when a line is said, for a second, and its text as in ASS."""
    import av
    from av.subtitles.subtitle import SubtitleSet

    made = path.with_stem("with-subtitles")
    with av.open(str(path)) as source, av.open(str(made), "w") as target:
        shown: Any = source.streams.video[0]
        packets: list[tuple[float, Any]] = []
        video: Any = target.add_stream_from_template(shown)
        streams = []
        for language in tracks:
            stream: Any = target.add_stream(codec)
            stream.codec_context.subtitle_header = _ASS_HEADER
            stream.metadata["language"] = language
            stream.time_base = Fraction(1, 1000)
            streams.append(stream)
        target.start_encoding()
        for stream, cues in zip(streams, tracks.values(), strict=True):
            for number, (start_s, text) in enumerate(cues):
                start = round(start_s / stream.time_base)
                event = f"{number},0,Default,,0,0,0,,{text}".encode()
                packet = stream.codec_context.encode_subtitle(SubtitleSet.create(event, 0, 1000, start))
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, start, start, stream.time_base
                packet.duration = round(1 / stream.time_base)
                packets.append((start_s, packet))
        for packet in source.demux(shown):
            if packet.dts is not None:
                moment = float(packet.dts * packet.time_base)
                packet.stream = video
                packets.append((moment, packet))
        for _, packet in sorted(packets, key=lambda one: one[0]):
            target.mux(packet)
    made.replace(path)
