"""Encoders: pictures and texts to unit vectors in one space.

`Encoder` is the contract; `onnx.OnnxEncoder` is the default, `openclip.OpenClipEncoder` the one for GPUs
and for training. Neither knows files, folders or indexes: pixels come in, vectors go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clipsearch.records import FloatArray, PixelArray, Preprocessing


def parts_read(encoder: Encoder, texts: Sequence[str]) -> list[str | None]:
    """Of each text that is too long for the model the part that is read, else None; where an encoder can say."""
    read = getattr(encoder, "parts_read", None)
    return [None] * len(texts) if read is None or not texts else list(read(texts))


class Encoder(Protocol):
    """Two towers into one space. The only place that normalises vectors."""

    @property
    def name(self) -> str:
        """The model name that loads this encoder again (what `--model` takes)."""
        ...

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the image tower's weights and preprocessing: equal means stored vectors are comparable."""
        ...

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax (the trained exp(logit_scale))."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What `images.prepare` must do to a picture before `encode_images`."""
        ...

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Return one vector per picture.

        Shapes: pixels (B, H, W, 3) uint8 RGB, prepared by `preprocessing`, not yet scaled or
        mean-subtracted; result (B, D) float32, unit L2.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text. Shape: (B, D) float32, unit L2. Texts too long are truncated."""
        ...
