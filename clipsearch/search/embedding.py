"""Texts and pictures to vectors: by a model alone, or by that of a collection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.encoder import Encoder as AnyEncoder
from clipsearch.encoder import check_encoder, names
from clipsearch.errors import NO_SUCH_PICTURE, UnreadablePicture
from clipsearch.places import expanded, is_file
from clipsearch.query.arguments import read_path, read_pictures, read_text, read_texts
from clipsearch.query.crops import picture_file
from clipsearch.records import AnyPicture, FloatArray, PixelArray

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipsearch.encoder.kinds import Notice, Precision
    from clipsearch.pictures.heatmap import HeatMap
    from clipsearch.pictures.images import Picture
    from clipsearch.records import Preprocessing

WORD_PROMPT = "a photo of {}"
"""A word by itself is also encoded in this, and the mean is searched for: with the built-in model precision@20 rises by
0.023 (95 % interval 0.009 to 0.038) for words of Flickr8k's captions, by 0.015 (0.000 to 0.034) for words of product
titles. Whole captions, also short ones, it made worse. Measured by `benchmarks/feedback.py`."""
_ONE_WORD = re.compile(r"(?:(?:an?|the)\s+)?([a-z]+)", re.IGNORECASE | re.ASCII)


class Encoder:
    """A model that makes vectors of texts and pictures, without an index.

        encoder = clipsearch.Encoder("builtin")
        scores = encoder.encode_picture(["a.jpg", "b.jpg"]) @ encoder.encode_text("a dog")

    Vectors have unit length, so that a product is a cosine.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | AnyEncoder = names.AUTO,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        notice: Notice | None = None,
    ) -> None:
        """`model`: what `--model` takes, or what `clipsearch.load_encoder` returned. The rest: see `load_encoder`.

        Raises: ModelNotFound, InvalidModel, MissingExtra, OutOfSpace, UnsupportedPrecision, InvalidArgument.
        """
        if isinstance(model, str | os.PathLike):
            model = names.load_encoder(model, checkpoint=checkpoint, device=device, precision=precision, notice=notice)
        check_encoder(model)
        self.model = model

    @property
    def name(self) -> str:
        """The name that loads the model again."""
        return self.model.name

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.model.dim

    def __repr__(self) -> str:
        return f"<Encoder {self.name}, {self.dim} dimensions>"

    def encode_text(self, text: str | Iterable[str]) -> FloatArray:
        """The vector of a text, shape (D,), or of each of several, shape (N, D); float32, unit L2.

        Raises: InvalidQuery for texts of more than 10,000 characters.
        """
        return encode_text(self.model, text)

    def encode_picture(self, picture: AnyPicture | Iterable[AnyPicture]) -> FloatArray:
        """The vector of a picture, shape (D,), or of each of several, shape (N, D); float32, unit L2.

        A picture is a path or a PIL image; a path may name a part (`photo.jpg#xywh=10,20,300,200`). Raises:
        UnreadablePicture, InvalidArgument, InvalidQuery for a part that is none.
        """
        return encode_picture(self.model, picture)

    def where(self, text: str, picture: AnyPicture) -> HeatMap:
        """Where in a picture a text matches; a picture is a path or a PIL image. See docs/where.md.

        Raises: UnreadablePicture, InvalidQuery, InvalidModel, InvalidArgument.
        """
        return where_in(self.model, self.encode_text(text), picture)


def where_in(encoder: AnyEncoder, vector: FloatArray, picture: AnyPicture, time_s: float = 0.0) -> HeatMap:
    """Where in a picture, or in a video at a moment, a vector, shape (D,), matches. Raises: UnreadablePicture,
    InvalidModel, InvalidArgument."""
    from clipsearch.search.where import find_where

    image, size = open_for_map(picture, time_s)
    return find_where(encoder, vector, image, size)


def open_for_map(picture: AnyPicture, time_s: float = 0.0) -> tuple[Image, tuple[int, int]]:
    """A picture as `where` looks at it, upright and not too large, and its whole size. Raises: UnreadablePicture,
    InvalidArgument."""
    from clipsearch.pictures.images import PictureFile, as_file, name_of
    from clipsearch.search.where import LONGEST

    (given,), _ = read_pictures([picture])
    if isinstance(given, str | os.PathLike):
        name = read_path("picture", given)
        if not is_file(name):
            raise UnreadablePicture(name, "unreadable", NO_SUCH_PICTURE)
        file = PictureFile(expanded(name))
    else:
        name = name_of(given)
        file = PictureFile(name, as_file(given))
    with file:
        image, size = file.open_sized(longest=LONGEST, time_s=time_s)
    return image, size


def encode_text(encoder: AnyEncoder, text: str | Iterable[str]) -> FloatArray:
    """See `Encoder.encode_text`."""
    if isinstance(text, str):
        vector: FloatArray = encoder.encode_texts([read_text(text)])[0]
        return vector
    return encoder.encode_texts(read_texts(text))


def encode_asked(encoder: AnyEncoder, texts: Sequence[str]) -> list[FloatArray]:
    """What texts are searched with: a single word with its prompt (see WORD_PROMPT), and "a dog" as "dog".

    An article is no reason to be more or less sure. For 150 words of captions the mean of "dog" and its prompt ranks as
    "a dog" does: precision@10 is 0.326 and 0.330 in Flickr8k's pictures, 0.317 and 0.315 in COCO's (0.313 and 0.302 for
    "dog"). Before two or three words an article is left where it is: without it they rank no better (0.192, 0.200).
    All are encoded at once. Shape of each: (D,), unit L2.
    """
    words = [match[1] if (match := _ONE_WORD.fullmatch(text)) is not None else None for text in texts]
    prompts = [WORD_PROMPT.format(word) for word in words if word is not None]
    plain = [text if word is None else word for text, word in zip(texts, words, strict=True)]
    encoded = encoder.encode_texts(plain + prompts)
    vectors, prompted = list(encoded[: len(texts)]), iter(encoded[len(texts) :])
    for n, word in enumerate(words):
        if word is not None:
            total = vectors[n] + next(prompted)
            vectors[n] = total / np.linalg.norm(total)
    return vectors


def encode_picture(encoder: AnyEncoder, picture: AnyPicture | Iterable[AnyPicture], views: int = 1) -> FloatArray:
    """See `Encoder.encode_picture`. `views`: in how many to see each, as an index does."""
    from clipsearch.encoder.pieces import encode_decoded

    pictures, is_one = read_pictures(picture)
    vectors = [np.empty((0, encoder.dim), np.float32)]
    waiting: list[tuple[PixelArray, bool]] = []
    for number, one in enumerate(pictures, 1):
        waiting.append(_seen(encoder, one, views))
        if len(waiting) >= encoder.pictures_per_call or number == len(pictures):
            vectors.append(encode_decoded(encoder, [seen for seen, _ in waiting], [tiled for _, tiled in waiting]))
            waiting = []
    every: FloatArray = np.concatenate(vectors)
    return every[0] if is_one else every


def _seen(encoder: AnyEncoder, picture: AnyPicture, views: int) -> tuple[PixelArray, bool]:
    """What the encoder is given of a picture, and whether it is tiled. Shape: (K, H, W, 3) uint8. Raises:
    UnreadablePicture."""
    from clipsearch.pictures.images import see

    if isinstance(picture, str | os.PathLike):
        read = read_file(picture, encoder.preprocessing, content_hash=False, views=views)
        return read.pieces, read.is_tiled
    return see(picture, encoder.preprocessing, views)


def read_file(
    path: str | os.PathLike[str], preprocessing: Preprocessing, *, content_hash: bool, views: int = 1
) -> Picture:
    """Read a picture file, or a part of one (`photo.jpg#xywh=10,20,300,200`), for an encoder.

    Raises: UnreadablePicture, which calls it `path` as it was given; InvalidQuery for a part that is none.
    """
    from clipsearch.pictures.images import read_picture

    name = read_path("picture", path)
    file, crop = picture_file(name)
    if not is_file(file):
        raise UnreadablePicture(name, "unreadable", NO_SUCH_PICTURE)
    try:
        return read_picture(
            expanded(file), preprocessing, content_hash=content_hash, pieces=True, crop=crop, views=views
        )
    except UnreadablePicture as error:
        raise UnreadablePicture(name, error.status, error.reason) from error
