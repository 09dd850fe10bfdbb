"""Small real videos, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
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
) -> None:
    """A video of pictures, each shown for some seconds, or from its moment on. `keys`: frames between key frames; else
    one where each picture begins. `noise`: so that it does not shrink to nothing."""
    import av

    options = {"movflags": "+faststart"} if faststart else {}
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
